//! The CPU time of a whole call through `Worker::handle` on a region in memory: INVITE, 180, 200,
//! ACK, BYE and every message and timer that follows from them, until the last transaction is gone.
//!
//! Fifty calls go side by side. Only what the worker does is timed; what the peers and control do
//! between its turns is not.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use abi::{
    AgentRow, AgentState, CallState, Counter, Event, EventReceiver, Key, Region, RegistrationRow,
    SecretRow, TenantRow, TrunkRow,
};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, TenantId, Text, WorkerId};
use house_bench::{CpuTime, criterion, layout};
use sip::digest::{Algorithm, Challenge, answer, ha1};
use sip::wire::{self, Header, Message, Start};
use worker::{Config, Effect, Input, Limits, Location, Worker, recover};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLS: u32 = 50;
const AGENTS: u32 = 2 * CALLS;
const EPOCH: u32 = 5;
const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
                     m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\n\
                     a=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

fn main() {
    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("worker");
    group.sample_size(20);
    for (name, caller) in
        [("trunk to agent", Caller::Trunk), ("agent to agent with digest", Caller::Agent)]
    {
        let mut house = House::new();
        house.round(caller);
        println!("worker/a call, {name}: {} inputs, {} datagrams out", house.inputs, house.sent);
        group.bench_function(format!("a call, {name}"), |b| {
            b.iter_custom(|rounds| {
                let spent: Duration = (0..rounds).map(|_| house.round(caller)).sum();
                spent / CALLS
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Trunk,
    Agent,
}

type Mail = (SocketAddr, Vec<u8>);

/// One worker, the peers around it and its control process.
struct House {
    region: Arc<Region>,
    worker: Worker,
    control: EventReceiver,
    now: Instant,
    spent: Duration,
    round: u64,
    /// Of one round, for each call.
    inputs: u32,
    sent: u32,
}

impl House {
    fn new() -> House {
        let region = Region::in_memory(layout(AGENTS));
        let mut tenant = TenantRow { tenant: 1, state: 1, ..TenantRow::default() };
        tenant.set_name(Text::new(b"demo").expect("fits"));
        tenant.set_realm(Text::new(b"demo.test").expect("fits"));
        region.tenants().write(0, &tenant);
        let mut trunk = TrunkRow { state: 1, tenant: 1, ..TrunkRow::default() };
        trunk.set_network("10.9.0.0".parse().expect("an address"), 16);
        region.trunks().write(0, &trunk);
        for agent in 0..AGENTS {
            log_in(&region, agent);
        }
        let location = Location::udp("local", [127, 0, 0, 1].into(), 5060);
        let config = Config {
            id: WorkerId(0),
            workers: 1,
            ccb: CcbId(1),
            locations: vec![location],
            rtp_ports: (30_000, 39_999),
            seed: [7; 32],
            nonce_key: [9; 32],
            limits: Limits::default(),
            session: Default::default(),
            media: worker::MediaConfig::default(),
        };
        let now = Instant::from_nanos(1_000_000_000);
        recover(&region, &config, now);
        let worker = Worker::new(config, Arc::clone(&region), now);
        let control = region.event_receiver(WorkerId(0));
        let (spent, round, inputs, sent) = (Duration::ZERO, 0, 0, 0);
        let mut house = House { region, worker, control, now, spent, round, inputs, sent };
        house.turn(Input::ControlHere);
        for _ in 0..16 {
            // Binds the ports that are kept ready.
            house.turn(Input::Timeout);
        }
        house
    }

    /// Calls from first to last; the CPU time that the worker spent on all of them.
    fn round(&mut self, caller: Caller) -> Duration {
        (self.spent, self.inputs, self.sent) = (Duration::ZERO, 0, 0);
        self.round += 1;
        let answered = self.region.counters().total(Counter::CallsAnswered);
        let mut inbox: Vec<Mail> = (0..CALLS).map(|call| self.first(caller, call)).collect();
        while !inbox.is_empty() {
            let outbox = self.deliver(&inbox);
            self.sent += outbox.len() as u32;
            inbox.clear();
            for (to, datagram) in outbox {
                react(to, &datagram, &mut inbox);
            }
            self.run_control();
            self.now = self.now + Duration::from_millis(1);
        }
        self.run_out();
        assert!(self.worker.is_idle(), "something is left: {}", self.worker.load());
        assert_eq!(self.worker.transactions(), 0);
        assert_eq!(self.region.leases().held(), 0);
        let now_answered = self.region.counters().total(Counter::CallsAnswered);
        assert_eq!(now_answered - answered, u64::from(CALLS));
        (self.inputs, self.sent) = (self.inputs / CALLS, self.sent / CALLS);
        self.spent
    }

    /// The INVITE that begins a call.
    fn first(&self, caller: Caller, call: u32) -> Mail {
        let id = format!("r{}c{call}", self.round);
        let (from, user) = match caller {
            Caller::Trunk => (SocketAddr::from(([10, 9, 0, 1], 5060)), "0301".to_owned()),
            Caller::Agent => (phone(CALLS + call), format!("{}.demo", 1_000 + CALLS + call)),
        };
        (from, invite(from, &user, 1_000 + call, &id, 1, ""))
    }

    /// Gives the worker its mail, and takes what it sends.
    fn deliver(&mut self, inbox: &[Mail]) -> Vec<(SocketAddr, Rc<[u8]>)> {
        let mut outbox = Vec::with_capacity(inbox.len() * 4);
        let mut effects = Vec::with_capacity(16);
        let start = CpuTime::now();
        for (from, datagram) in inbox {
            let input = Input::Sip {
                location: LocationId(0),
                from: *from,
                channel: base::Channel::UDP,
                datagram,
            };
            self.worker.handle(self.now, input, &mut effects);
            self.inputs += 1;
            self.carry_out(&mut effects, &mut outbox);
        }
        self.spent += CpuTime::now() - start;
        outbox
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>, out: &mut Vec<(SocketAddr, Rc<[u8]>)>) {
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Sip { to, datagram, .. } => out.push((to, datagram)),
                Effect::Bind { pair, .. } => {
                    self.worker.handle(self.now, Input::Bound { pair, ok: true }, effects);
                }
                Effect::Mesh { .. } => panic!("there is one worker"),
                _ => {}
            }
        }
    }

    /// One input, and nothing but ports comes of it.
    fn turn(&mut self, input: Input<'_>) {
        let (mut effects, mut outbox) = (Vec::new(), Vec::new());
        self.worker.handle(self.now, input, &mut effects);
        self.carry_out(&mut effects, &mut outbox);
        assert!(outbox.is_empty(), "a message out of turn");
    }

    /// Lets every timer run out.
    fn run_out(&mut self) {
        let until = self.now + Duration::from_secs(70);
        let start = CpuTime::now();
        while let Some(deadline) = self.worker.deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.turn(Input::Timeout);
        }
        self.spent += CpuTime::now() - start;
        self.now = until;
    }

    /// Takes the events, and acknowledges the calls that ended.
    fn run_control(&mut self) {
        let mut blob = Vec::new();
        while let Some(event) = self.control.pop(&mut blob) {
            let event = event.expect("a sane event");
            assert_eq!(event.missed, 0);
            if let Event::CallChanged { call, state: CallState::Ended, .. } = event.value {
                self.region.calls().acknowledge(CallRef { ..call });
            }
        }
    }
}

/// An agent 1000 and up, whose phone is registered.
fn log_in(region: &Region, agent: u32) {
    let slot = AgentSlot(agent);
    let number = (1_000 + agent).to_string();
    let user = format!("{number}.demo");
    let mut row = AgentRow {
        state: AgentState::LoggedIn.into(),
        login_epoch: EPOCH,
        tenant: 1,
        ..AgentRow::default()
    };
    row.set_number(Text::new(number.as_bytes()).expect("fits"));
    row.set_user(Text::new(user.as_bytes()).expect("fits"));
    let agents = region.agents();
    agents.write(slot, &row);
    let by_number = Key::Number { tenant: TenantId(1), number: number.as_bytes() };
    agents.index_insert(Key::User(user.as_bytes()), slot).expect("room");
    agents.index_insert(by_number, slot).expect("room");
    let hash = |algorithm| ha1(algorithm, user.as_bytes(), b"demo.test", b"secret");
    let secret = SecretRow {
        epoch: EPOCH,
        ha1_md5: hash(Algorithm::Md5).as_bytes().try_into().expect("16 bytes"),
        ha1_sha256: hash(Algorithm::Sha256).as_bytes().try_into().expect("32 bytes"),
        ..SecretRow::default()
    };
    region.secrets().write(slot, &secret);
    let mut registration = RegistrationRow {
        state: RegistrationRow::REGISTERED,
        epoch: EPOCH,
        expires_at: u64::MAX,
        ..RegistrationRow::default()
    };
    registration.set_addr(phone(agent));
    let contact = format!("sip:phone@{}", phone(agent));
    registration.set_contact(Text::new(contact.as_bytes()).expect("fits"), b"");
    region.registrations().write(slot, &registration);
}

/// Where the phone of an agent is.
fn phone(agent: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 10_000 + agent as u16))
}

fn invite(from: SocketAddr, user: &str, number: u32, id: &str, cseq: u32, proof: &str) -> Vec<u8> {
    format!(
        "INVITE sip:{number}@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/UDP {from};branch=z9hG4bK{id}i{cseq};rport\r\n\
         From: <sip:{user}@127.0.0.1>;tag=f{id}\r\nTo: <sip:{number}@127.0.0.1>\r\n\
         Call-ID: {id}\r\nCSeq: {cseq} INVITE\r\nContact: <sip:phone@{from}>\r\n\
         Max-Forwards: 70\r\nUser-Agent: bench\r\n{proof}Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    )
    .into_bytes()
}

/// What the peer at `me` says to `datagram`.
fn react(me: SocketAddr, datagram: &[u8], mail: &mut Vec<Mail>) {
    let message = wire::lex(datagram).expect("the worker writes SIP");
    let cseq = message.cseq().expect("a CSeq");
    match message.start() {
        Start::Request { method, .. } => {
            let contact = format!("<sip:phone@{me}>");
            let extra: &[(&str, &[u8])] = &[("Contact", contact.as_bytes())];
            let source = SocketAddr::from(([127, 0, 0, 1], 5060));
            let mut reply = |status, body| {
                let reason = wire::reason_phrase(status);
                let tag = Some("callee");
                let bytes = wire::response(&message, status, reason, tag, source, extra, body);
                mail.push((me, bytes));
            };
            match method.as_bytes() {
                b"INVITE" => {
                    reply(180, None);
                    reply(200, Some(("application/sdp", OFFER.as_bytes())));
                }
                b"BYE" => reply(200, None),
                b"ACK" => {}
                other => panic!("unexpected {}", String::from_utf8_lossy(other)),
            }
        }
        Start::Response { status: 100..=199, .. } => {}
        Start::Response { status: 401, .. } => {
            let id = String::from_utf8_lossy(message.call_id().expect("a Call-ID")).into_owned();
            mail.push((me, within(me, &message, "ACK", 1, &format!("{id}i1"))));
            mail.push((me, proven(me, &message, &id)));
        }
        Start::Response { status: 200, .. } if cseq.method == wire::Method::Invite => {
            let id = String::from_utf8_lossy(message.call_id().expect("a Call-ID")).into_owned();
            mail.push((me, within(me, &message, "ACK", cseq.number, &format!("{id}a"))));
            mail.push((me, within(me, &message, "BYE", cseq.number + 1, &format!("{id}b"))));
        }
        Start::Response { status: 200, .. } => {}
        Start::Response { status, .. } => panic!("unexpected {status}"),
    }
}

/// The INVITE again, with the proof that `challenged` asks for.
fn proven(me: SocketAddr, challenged: &Message<'_>, id: &str) -> Vec<u8> {
    let from = challenged.from().expect("a From").parsed_uri().expect("a URI");
    let to = challenged.to().expect("a To").parsed_uri().expect("a URI");
    let user = std::str::from_utf8(from.user).expect("text");
    let number: u32 = std::str::from_utf8(to.user).expect("text").parse().expect("a number");
    let offers = challenged.headers(Header::WwwAuthenticate);
    let challenge = Challenge::choose(offers).expect("a challenge");
    let uri = format!("sip:{number}@127.0.0.1");
    let value = answer(&challenge, user, "secret", b"INVITE", uri.as_bytes(), 1, "cnonce");
    let proof = format!("Authorization: {}\r\n", String::from_utf8(value).expect("text"));
    invite(me, user, number, id, 2, &proof)
}

/// A request in the dialog, or to the failed INVITE, that `response` is of.
fn within(
    me: SocketAddr,
    response: &Message<'_>,
    method: &str,
    cseq: u32,
    branch: &str,
) -> Vec<u8> {
    let line =
        |header| String::from_utf8_lossy(response.header(header).expect("there")).into_owned();
    let target = match response.contact() {
        Some(contact) => String::from_utf8_lossy(contact.expect("sane").uri).into_owned(),
        None => String::from_utf8_lossy(response.to().expect("a To").uri).into_owned(),
    };
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK{branch};rport\r\n\
         From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n",
        line(Header::From),
        line(Header::To),
        line(Header::CallId)
    )
    .into_bytes()
}
