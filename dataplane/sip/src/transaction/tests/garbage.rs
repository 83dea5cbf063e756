//! Whatever comes in whatever order, the layer neither panics nor keeps anything for ever.

use proptest::prelude::*;

use super::*;
use crate::transaction::{ClientKey, ServerKey};

#[derive(Clone, Debug)]
enum Op {
    Receive { line: usize, method: usize, branch: usize, headers: usize, status: u16 },
    Bytes(Vec<u8>),
    Request { method: usize, branch: usize },
    Respond { of: usize, status: u16 },
    RespondBytes { of: usize, status: u16, bytes: Vec<u8> },
    Acked(usize),
    Cancel(usize),
    Forget(usize),
    Wait(u64),
}

const METHODS: [&str; 6] = ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "WHATEVER"];
const BRANCHES: [&str; 5] = ["z9hG4bK1", "z9hG4bK2", "Z9HG4BK1", "old", ""];
/// What is left out of a message.
const WITHOUT: [&str; 7] = ["\0", "Via:", "From:", "To:", "Call-ID:", "CSeq:", "Max-Forwards:"];

fn op() -> impl Strategy<Value = Op> {
    let of = 0..8_usize;
    prop_oneof![
        4 => (0..2_usize, 0..METHODS.len(), 0..BRANCHES.len(), 0..WITHOUT.len() * 3, 100..700_u16)
            .prop_map(|(line, method, branch, headers, status)| {
                Op::Receive { line, method, branch, headers, status }
            }),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Op::Bytes),
        2 => (0..METHODS.len(), 0..BRANCHES.len())
            .prop_map(|(method, branch)| Op::Request { method, branch }),
        2 => (of.clone(), 100..700_u16).prop_map(|(of, status)| Op::Respond { of, status }),
        1 => (of.clone(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(of, status, bytes)| Op::RespondBytes { of, status, bytes }),
        1 => of.clone().prop_map(Op::Acked),
        1 => of.clone().prop_map(Op::Cancel),
        1 => of.prop_map(Op::Forget),
        2 => (0..40_000_u64).prop_map(Op::Wait),
    ]
}

fn some_message(line: usize, method: &str, branch: &str, headers: usize, status: u16) -> Vec<u8> {
    let bytes = request(method, branch);
    let whole = if line == 0 { bytes } else { response(&bytes, status) };
    // Two in three are whole.
    let without = WITHOUT.get(headers).copied().unwrap_or("\0");
    let kept: String =
        text(&whole).split_inclusive("\r\n").filter(|line| !line.starts_with(without)).collect();
    kept.into_bytes()
}

struct Run {
    layer: Transactions<Port>,
    now: Instant,
    servers: Vec<(ServerKey, Vec<u8>)>,
    clients: Vec<ClientKey>,
}

const LIMIT: u32 = 4;

impl Run {
    fn receive(&mut self, bytes: &[u8]) {
        let Ok(message) = wire::lex(bytes) else {
            return;
        };
        let mut out = Out::new();
        match self.layer.receive(self.now, &message, PEER, &mut out) {
            Received::Request(key)
            | Received::Merged(key)
            | Received::Cancel { server: key, .. } => {
                self.servers.push((key, bytes.to_vec()));
            }
            _ => {}
        }
    }

    fn server(&self, of: usize) -> Option<(ServerKey, Vec<u8>)> {
        self.servers.get(of % self.servers.len().max(1)).cloned()
    }

    fn apply(&mut self, op: Op) {
        let mut out = Out::new();
        match op {
            Op::Receive { line, method, branch, headers, status } => {
                let message =
                    some_message(line, METHODS[method], BRANCHES[branch], headers, status);
                self.receive(&message);
            }
            Op::Bytes(bytes) => self.receive(&bytes),
            Op::Request { method, branch } if METHODS[method] != "ACK" => {
                let bytes = request(METHODS[method], BRANCHES[branch]);
                let method = Method::new(METHODS[method].as_bytes());
                let branch = BRANCHES[branch].as_bytes();
                let sent = self.layer.request(self.now, method, bytes, branch, PEER, 1, &mut out);
                self.clients.extend(sent);
            }
            Op::Request { .. } => {}
            Op::Respond { of, status } => {
                if let Some((key, request)) = self.server(of) {
                    let bytes = response(&request, status);
                    self.layer.respond(self.now, key, status, bytes, &mut out);
                }
            }
            Op::RespondBytes { of, status, bytes } => {
                if let Some((key, _)) = self.server(of) {
                    self.layer.respond(self.now, key, status, bytes, &mut out);
                }
            }
            Op::Acked(of) => {
                if let Some((key, _)) = self.server(of) {
                    self.layer.acked(key);
                }
            }
            Op::Forget(of) => {
                if let Some((key, _)) = self.server(of) {
                    self.layer.forget(key);
                }
            }
            Op::Cancel(of) => {
                if let Some(&key) = self.clients.get(of % self.clients.len().max(1)) {
                    self.layer.cancel(self.now, key, &mut out);
                }
            }
            Op::Wait(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.layer.timeouts(self.now, &mut out, &mut Vec::new());
            }
        }
        assert!(self.layer.clients.len() <= 2 * LIMIT as usize);
        assert!(self.layer.servers.len() <= LIMIT as usize);
        self.check_index();
    }

    /// Every entry of the index leads to a transaction that lives.
    fn check_index(&self) {
        let layer = &self.layer;
        assert!(layer.client_index.values().all(|&key| layer.clients.get(key).is_some()));
        assert!(layer.server_index.values().all(|&key| layer.servers.get(key).is_some()));
        assert!(layer.server_index.len() >= layer.servers.len());
        assert!(layer.merge_index.values().all(|&key| layer.servers.get(key).is_some()));
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_all_ends(ops in prop::collection::vec(op(), 0..120)) {
        let mut run = Run {
            layer: Transactions::new(LIMIT, 7),
            now: Instant::ZERO,
            servers: Vec::new(),
            clients: Vec::new(),
        };
        for op in ops {
            run.apply(op);
        }
        // What waits for its user is all that may be left: the user forgets, and cancels.
        for (key, _) in core::mem::take(&mut run.servers) {
            run.layer.forget(key);
        }
        for key in core::mem::take(&mut run.clients) {
            run.layer.cancel(run.now, key, &mut Out::new());
        }
        run.apply(Op::Wait(2 * LIFE.as_millis() as u64));
        run.apply(Op::Wait(2 * LIFE.as_millis() as u64));
        prop_assert_eq!(run.layer.len(), 0);
        prop_assert!(run.layer.client_index.is_empty() && run.layer.server_index.is_empty());
        prop_assert_eq!(run.layer.deadline(), None);
    }
}
