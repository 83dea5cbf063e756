use std::time::Duration;

use base::Instant;
use sip::transaction::{ClientKey, Hop, LIFE, Received, Sent, ServerKey, Transactions};
use sip::wire::{self, Method, lex, reason_phrase};

/// Few, so that the table is full now and then.
const LIMIT: u32 = 4;
/// A script of more steps tells nothing new.
const STEPS: usize = 256;

const METHODS: [&str; 6] = ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "WHATEVER"];
const BRANCHES: [&str; 6] = ["z9hG4bK1", "z9hG4bK2", "Z9HG4BK1", "z9hG4bK", "old", ""];
/// What is left out of a message; nothing of most.
const WITHOUT: [&str; 8] = ["\0", "\0", "Via:", "From:", "To:", "Call-ID:", "CSeq:", "Max-"];

/// A peer over UDP or TCP.
#[derive(Clone, Copy)]
struct Peer {
    is_reliable: bool,
}

impl Hop for Peer {
    fn is_reliable(self) -> bool {
        self.is_reliable
    }
}

pub(crate) fn target(bytes: &[u8]) {
    let mut run = Run {
        layer: Transactions::new(LIMIT, 7),
        now: Instant::ZERO,
        servers: Vec::new(),
        clients: Vec::new(),
    };
    // The input as one message, and as a script.
    run.receive(bytes, Peer { is_reliable: false });
    let mut script = Script { rest: bytes };
    for _ in 0..STEPS {
        if script.rest.is_empty() {
            break;
        }
        run.step(&mut script);
    }
    run.end();
}

/// Bytes to be read as numbers; 0 beyond their end.
struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        usize::from(*first)
    }

    fn number(&mut self) -> usize {
        self.byte() << 8 | self.byte()
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.number().min(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.byte() % all.len()]
    }

    fn status(&mut self) -> u16 {
        100 + (self.number() % 600) as u16
    }

    fn peer(&mut self) -> Peer {
        Peer { is_reliable: self.byte() % 4 == 3 }
    }
}

struct Run {
    layer: Transactions<Peer>,
    now: Instant,
    servers: Vec<(ServerKey, Vec<u8>)>,
    clients: Vec<ClientKey>,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>) {
        let mut out = Vec::new();
        match script.byte() % 9 {
            0 => {
                let request = request(script);
                let peer = script.peer();
                self.receive(&request, peer);
            }
            1 => {
                let request = request(script);
                let status = script.status();
                let peer = script.peer();
                self.receive(&response(&request, status), peer);
            }
            2 => {
                let peer = script.peer();
                self.receive(script.bytes(), peer);
            }
            3 => self.ask(script, &mut out),
            4 => {
                if let Some((key, request)) = self.server(script) {
                    let status = script.status();
                    let answer = response(&request, status);
                    self.layer.respond(self.now, key, status, answer, &mut out);
                }
            }
            5 => {
                if let Some((key, _)) = self.server(script) {
                    self.layer.acked(key);
                }
            }
            6 => {
                if let Some((key, _)) = self.server(script) {
                    self.layer.forget(key);
                }
            }
            7 => {
                let place = script.byte() % self.clients.len().max(1);
                if let Some(&key) = self.clients.get(place) {
                    self.layer.cancel(self.now, key, &mut out);
                }
            }
            _ => self.wait(Duration::from_millis(script.number() as u64), &mut out),
        }
        self.check(&out);
    }

    fn receive(&mut self, bytes: &[u8], peer: Peer) {
        let Ok(message) = lex(bytes) else { return };
        let mut out = Vec::new();
        match self.layer.receive(self.now, &message, peer, &mut out) {
            Received::Request(key) | Received::Cancel { server: key, .. } => {
                self.servers.push((key, bytes.to_vec()));
            }
            _ => {}
        }
        // One answer again, or an ACK and a CANCEL that waited.
        assert!(out.len() <= 2, "{} datagrams for one", out.len());
        self.check(&out);
    }

    fn ask(&mut self, script: &mut Script<'_>, out: &mut Vec<Sent<Peer>>) {
        let (method, branch) = (script.one_of(&METHODS), script.one_of(&BRANCHES));
        let peer = script.peer();
        if method == "ACK" {
            return;
        }
        let bytes = message(method, branch, "\0");
        let (method, branch) = (Method::new(method.as_bytes()), branch.as_bytes());
        let sent = self.layer.request(self.now, method, bytes, branch, peer, 1, out);
        self.clients.extend(sent);
    }

    fn server(&self, script: &mut Script<'_>) -> Option<(ServerKey, Vec<u8>)> {
        let place = script.byte() % self.servers.len().max(1);
        self.servers.get(place).cloned()
    }

    fn wait(&mut self, time: Duration, out: &mut Vec<Sent<Peer>>) {
        self.now = self.now + time;
        self.layer.timeouts(self.now, out, &mut Vec::new());
        let next = self.layer.deadline();
        assert!(next.is_none_or(|next| next > self.now), "a timer is late");
    }

    fn check(&self, out: &[Sent<Peer>]) {
        for sent in out {
            let read = lex(&sent.bytes).map(|_| ());
            assert_eq!(read, Ok(()), "{}", sent.bytes.escape_ascii());
        }
        // `Transactions::new`: as many that came, and twice as many that went, for their CANCELs.
        assert!(self.layer.len() <= 3 * LIMIT as usize, "{} transactions", self.layer.len());
    }

    /// What waits for its user is all that may be left: the user forgets, and cancels.
    fn end(mut self) {
        let mut out = Vec::new();
        for (key, _) in std::mem::take(&mut self.servers) {
            self.layer.forget(key);
        }
        for key in std::mem::take(&mut self.clients) {
            self.layer.cancel(self.now, key, &mut out);
        }
        self.wait(2 * LIFE, &mut out);
        self.wait(2 * LIFE, &mut out);
        assert_eq!((self.layer.len(), self.layer.deadline()), (0, None), "something is kept");
    }
}

fn request(script: &mut Script<'_>) -> Vec<u8> {
    let (method, branch) = (script.one_of(&METHODS), script.one_of(&BRANCHES));
    let without = script.one_of(&WITHOUT);
    message(method, branch, without)
}

fn message(method: &str, branch: &str, without: &str) -> Vec<u8> {
    let text = format!(
        "{method} sip:1002@192.0.2.2 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5070;rport;branch={branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:1001@192.0.2.1>;tag=here\r\nTo: <sip:1002@192.0.2.2>\r\n\
         Call-ID: a-call\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n"
    );
    let kept = text.split_inclusive("\r\n").filter(|line| !line.starts_with(without));
    kept.collect::<String>().into_bytes()
}

fn response(request: &[u8], status: u16) -> Vec<u8> {
    let Ok(request) = lex(request) else { return Vec::new() };
    let source = ([192, 0, 2, 1], 5_070).into();
    wire::response(&request, status, reason_phrase(status), Some("there"), source, &[], None)
}
