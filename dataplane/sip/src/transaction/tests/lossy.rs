//! Two layers over a network that loses, delays and doubles datagrams, in virtual time: whatever
//! the seed, each transaction ends, and nothing is left.

use base::{Rng, Timers};

use super::*;
use crate::transaction::{ClientKey, ServerKey};

const SEEDS: u64 = 64;
const REQUESTS: u64 = 24;
/// Requests start within this time, in milliseconds.
const START_SPREAD_MS: u64 = 4_000;
/// The longest time on the way, in milliseconds; several T1, so that responses cross repetitions.
const DELAY_MS: u64 = 1_200;
/// How long the phone rings at most, in milliseconds.
const RING_MS: u64 = 20_000;

#[derive(Clone, Debug)]
enum Step {
    Begin(u64),
    Cancel(ClientKey),
    ToServer(Vec<u8>),
    ToClient(Vec<u8>),
    Answer(ServerKey, Vec<u8>, u16),
}

/// How a request ended for the one who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Status(u16),
    Timeout,
}

struct World {
    now: Instant,
    rng: Rng,
    loss_percent: u64,
    steps: Timers<Step>,
    client: Transactions<Port>,
    server: Transactions<Port>,
    ends: Vec<Option<End>>,
    /// For each 2xx to an INVITE whether its ACK or its lack was told.
    acked: Vec<(ServerKey, u64, Option<bool>)>,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::from_number(seed);
        let loss_percent = [0, 10, 30, 60, 100][(seed % 5) as usize];
        let mut steps = Timers::default();
        for number in 0..REQUESTS {
            steps.set(at_ms(rng.below(START_SPREAD_MS)), Step::Begin(number));
        }
        World {
            now: Instant::ZERO,
            rng,
            loss_percent,
            steps,
            // CANCELs count.
            client: Transactions::new(2 * REQUESTS as u32, seed),
            server: Transactions::new(2 * REQUESTS as u32, seed + 1),
            ends: vec![None; REQUESTS as usize],
            acked: Vec::new(),
            trace: Vec::new(),
        }
    }

    fn run(&mut self) {
        loop {
            let next = [self.steps.deadline(), self.client.deadline(), self.server.deadline()];
            let Some(now) = next.into_iter().flatten().min() else {
                return;
            };
            assert!(now >= self.now && now < at_ms(600_000), "time goes on, and ends");
            self.now = now;
            self.timeouts();
            while let Some((_, step)) = self.steps.due(now) {
                self.step(step);
            }
        }
    }

    fn timeouts(&mut self) {
        let (mut out, mut fired) = (Out::new(), Vec::new());
        self.client.timeouts(self.now, &mut out, &mut fired);
        self.carry(out, Step::ToServer);
        let mut out = Out::new();
        self.server.timeouts(self.now, &mut out, &mut fired);
        self.carry(out, Step::ToClient);
        for fired in fired {
            match fired {
                Fired::ClientTimeout { user, .. } => self.end(user, End::Timeout),
                Fired::NoAck { key, user } => self.told(key, user, false),
                Fired::RefusalNotAcked { .. } => {}
                Fired::Unanswered { .. } => panic!("every request is answered"),
            }
        }
    }

    fn end(&mut self, user: u64, end: End) {
        let place = &mut self.ends[user as usize];
        assert!(
            place.is_none() || *place == Some(end),
            "request {user} ended twice: {place:?}, {end:?}"
        );
        *place = Some(end);
    }

    fn told(&mut self, key: ServerKey, user: u64, acked: bool) {
        let entry = self.acked.iter_mut().find(|entry| entry.0 == key).expect("a 2xx was sent");
        assert_eq!(entry.1, user);
        assert!(entry.2.is_none_or(|before| before && acked), "no end after the ACK");
        entry.2 = Some(acked);
    }

    /// Puts datagrams on the way: some are lost, some come twice, all come late.
    fn carry(&mut self, out: Out, step: fn(Vec<u8>) -> Step) {
        for datagram in out {
            self.trace.push(format!("{} {}", self.now.as_nanos(), first_word(&datagram.bytes)));
            let copies = if self.rng.chance(5) { 2 } else { 1 };
            for _ in 0..copies {
                if !self.rng.chance(self.loss_percent) {
                    let delay = Duration::from_millis(self.rng.below(DELAY_MS));
                    self.steps.set(self.now + delay, step(datagram.bytes.to_vec()));
                }
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Begin(number) => self.begin(number),
            Step::Cancel(key) => {
                let mut out = Out::new();
                self.client.cancel(self.now, key, &mut out);
                self.carry(out, Step::ToServer);
            }
            Step::ToServer(bytes) => self.at_server(&bytes),
            Step::ToClient(bytes) => self.at_client(&bytes),
            Step::Answer(key, request, status) => self.answer(key, &request, status),
        }
    }

    fn begin(&mut self, number: u64) {
        let method = if number.is_multiple_of(2) { "INVITE" } else { "INFO" };
        let branch = format!("z9hG4bK{number}");
        let bytes = text(&request(method, &branch)).replace("a-call", &number.to_string());
        let method = if number.is_multiple_of(2) { Method::Invite } else { Method::Info };
        let mut out = Out::new();
        let key = self
            .client
            .request(self.now, method, bytes.into(), branch.as_bytes(), 1, number, &mut out)
            .expect("there is room for all");
        self.carry(out, Step::ToServer);
        if number.is_multiple_of(6) {
            let after = Duration::from_millis(self.rng.below(RING_MS));
            self.steps.set(self.now + after, Step::Cancel(key));
        }
    }

    fn at_server(&mut self, bytes: &[u8]) {
        let (message, mut out) = (lex(bytes), Out::new());
        let received = self.server.receive(self.now, &message, 2, &mut out);
        self.carry(out, Step::ToClient);
        match received {
            Received::Request(key) => {
                let number = number_of(&message);
                self.server.set_user(key, number);
                let final_status = if self.rng.chance(50) { 200 } else { 486 };
                // 17.2.1: the user promises an answer to an INVITE at once.
                self.answer(key, bytes, 100);
                let after = Duration::from_millis(self.rng.below(RING_MS));
                self.steps.set(self.now + after, Step::Answer(key, bytes.to_vec(), final_status));
            }
            Received::Cancel { server, invite } => {
                self.answer(server, bytes, if invite.is_some() { 200 } else { 481 });
                if let Some(invite) = invite.filter(|&invite| !self.server.answered(invite)) {
                    let original = text(bytes).replace("CANCEL", "INVITE");
                    self.answer(invite, original.as_bytes(), 487);
                }
            }
            Received::Ack => {
                let number = number_of(&message);
                let of_call = self.acked.iter().find(|entry| entry.1 == number);
                if let Some(&(key, _, before)) = of_call
                    && before != Some(false)
                {
                    self.server.acked(key);
                    self.told(key, number, true);
                }
            }
            Received::Absorbed => {}
            other => panic!("{other:?} at the server for {}", text(bytes)),
        }
    }

    fn answer(&mut self, key: ServerKey, request: &[u8], status: u16) {
        let mut out = Out::new();
        let sent = self.server.respond(self.now, key, status, response(request, status), &mut out);
        if sent && status == 200 && method_of(request) == Method::Invite {
            self.acked.push((key, number_of(&lex(request)), None));
        }
        self.carry(out, Step::ToClient);
    }

    fn at_client(&mut self, bytes: &[u8]) {
        let (message, mut out) = (lex(bytes), Out::new());
        let received = self.client.receive(self.now, &message, 1, &mut out);
        self.carry(out, Step::ToServer);
        let method = message.cseq().expect("a CSeq").method;
        match received {
            Received::Response { user, .. } => {
                let status = message.status().expect("a response");
                if status >= 200 {
                    self.end(user, End::Status(status));
                }
                if method == Method::Invite && (200..300).contains(&status) {
                    let ack = text(&request("ACK", &format!("z9hG4bKack{user}")))
                        .replace("a-call", &user.to_string());
                    let bytes = ack.into_bytes().into();
                    self.carry(vec![Sent { flow: 1, bytes }], Step::ToServer);
                }
            }
            Received::Absorbed | Received::StrayResponse => {}
            other => panic!("{other:?} at the client for {}", text(bytes)),
        }
    }
}

fn number_of(message: &Message<'_>) -> u64 {
    text(message.call_id().expect("a Call-ID")).parse().expect("a number")
}

#[test]
fn every_transaction_ends_and_leaves_nothing() {
    let mut ended_well = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run();
        assert!(world.ends.iter().all(Option::is_some), "seed {seed}: {:?}", world.ends);
        assert!(world.acked.iter().all(|entry| entry.2.is_some()), "seed {seed}");
        assert_eq!((world.client.len(), world.server.len()), (0, 0), "seed {seed}");
        // The last request begins, is answered, and its ACK waited for, each within 64*T1.
        let latest = at_ms(START_SPREAD_MS + RING_MS + 4 * DELAY_MS) + 3 * LIFE;
        assert!(world.now <= latest, "seed {seed}: it took until {:?}", world.now);
        let statuses = world.ends.iter().filter(|end| matches!(end, Some(End::Status(_)))).count();
        match world.loss_percent {
            0 => assert_eq!(statuses, REQUESTS as usize, "seed {seed}: nothing was lost"),
            100 => assert_eq!(statuses, 0, "seed {seed}: everything was lost"),
            _ => {}
        }
        if world.loss_percent == 30 {
            ended_well += statuses;
        }
    }
    // With 3 in 10 lost, a request fails only when some ten datagrams in a row are.
    let of_all = (SEEDS / 5) as usize * REQUESTS as usize;
    assert!(ended_well * 100 >= of_all * 95, "{ended_well} of {of_all}");
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    for seed in [2, 3, 11] {
        let mut traces = [World::new(seed), World::new(seed)].map(|mut world| {
            world.run();
            world.trace
        });
        assert!(traces[0].len() > REQUESTS as usize);
        let second = core::mem::take(&mut traces[1]);
        assert_eq!(traces[0], second, "seed {seed}");
    }
}
