//! One thread, one seed: two CCBs of two workers, one control core for both or one for each, phones with
//! desks, a trunk, a bad network, and processes that die and come back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use abi::{CallState, Counter, Process};
use base::{CcbId, Instant, Medium, Rng, TenantId, WorkerId};
use control_core::{
    AgentRecord, Blade, CcbStatus, Destination, Ha1, Input as ControlInput, LoginKey, LoginRequest,
    Output as ControlOutput, Provision, Route, Strategy, TenantRecord, TrunkRecord,
};
use sip::digest::{Algorithm, ha1};
use softphone::{Input as PhoneInput, Order, Output as PhoneOutput, Phone, PhoneConfig};
use worker::{Input, Passed, Worker};

use crate::bus::{self, Bus, Due};
use crate::ccb::{Ccb, Out, SIP_PORT, WORKERS};
use crate::network::Network;
use crate::rules::{self, Watch};

mod glare;
mod lines;

pub use glare::glare;
use lines::{LINE_RTP, LINE_SIP};

const PHONES: usize = 8;
const REALM: &str = "demo.test";
const TENANT: TenantId = TenantId(1);
const TRUNK: &str = "10.9.0.1:5060";
/// People talk, and processes die, until then.
const BUSY: Duration = Duration::from_secs(30);
/// Then everything must come to rest: 64*T1 for the transactions, twice, for a BYE after a lost ACK.
const REST: Duration = Duration::from_secs(110);

/// A fault of ours that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// A data plane that comes back leaves what its predecessor had as it was.
    ForgetsToRecover,
    /// Somebody wins a lease word and never lets go.
    KeepsALease,
    /// A data plane that comes back goes on with an older CSeq number than its predecessor's last.
    RecoversAnOldCSeq,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened, in its order.
    pub trace: u64,
    pub calls: u64,
    pub answered: u64,
    pub rtp_sent: u64,
    pub rtp_received: u64,
    pub deaths: u64,
    /// Calls that went on over the death of their data plane.
    pub kept: u64,
    /// Those of them that nothing but a BYE ended.
    pub kept_ended_well: u64,
    /// How often media passed in such a call.
    pub heard: u64,
    /// Legs to agents of other CCBs, those that were let in there, and those whose lease was over.
    pub hosted: u64,
    pub fenced: u64,
    pub stale: u64,
    /// Calls that came from another CCB and were answered.
    pub between: u64,
    /// Parties that were given to somebody else, and those that stayed.
    pub transferred: u64,
    pub stayed: u64,
    /// How many calls ended with which cause.
    pub causes: BTreeMap<u32, u64>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Login(usize),
    /// Nobody answered that login.
    LoginAgain(usize, u32),
    Attach(usize),
    Person(usize),
    KillDataPlane(usize),
    StartDataPlane(usize),
    Listen(usize),
    KillControl(usize),
    StartControl(usize),
    Link(usize),
    Cut(IpAddr),
    Heal(IpAddr),
    Beat,
    Commands(usize, u8),
    Pump(usize),
    Recorded(u16, u32, u32),
    Mesh(usize, u8, u64),
    Bus(u64),
    CutBus(usize),
    HealBus(usize),
    Garbage,
    Steal,
    Rest,
}

struct Desk {
    number: String,
    ccb: usize,
    location: usize,
    secret: String,
    epoch: u32,
    login: Option<LoginKey>,
    /// True until its last login was answered.
    asks: bool,
    socket: Option<u64>,
    phone: Phone,
    /// A second line, which only calls.
    line: Phone,
    ip: IpAddr,
}

pub struct World {
    now: Instant,
    rng: Rng,
    plant: Plant,
    network: Network,
    ccbs: Vec<Ccb>,
    /// One for both CCBs, or one for each; none where it is dead.
    blades: Vec<Option<Blade>>,
    /// Of two controls.
    bus: Option<Bus>,
    /// How often a control process began.
    controls: u64,
    desks: Vec<Desk>,
    /// Serial numbers of the calls that control has a record of, and how often it wrote one.
    records: BTreeMap<u64, u32>,
    watch: Watch,
    /// Data planes that die after their next turn: its rows are written, its messages are not sent.
    dying: BTreeSet<usize>,
    acts: BinaryHeap<Reverse<(Instant, u64, Act)>>,
    passed: BTreeMap<u64, Passed>,
    sequence: u64,
    resting: bool,
    /// Whether what phones tell is kept, and what they told.
    listens: bool,
    heard: Vec<(usize, softphone::Event)>,
    outcome: Outcome,
}

/// Runs the world of `seed` to its end; an error says what does not hold.
pub fn run(seed: u64, plant: Plant) -> Result<Outcome, String> {
    let mut world = World::new(seed, plant);
    world.play();
    world.check()
}

/// The same on the worst network, on which nobody dies.
pub fn run_lossy(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed, Plant::Nothing);
    let rng = Rng::from_number(world.rng.next_u64());
    world.network = Network::lossy(rng);
    world.acts.retain(|Reverse((_, _, act))| {
        !matches!(act, Act::KillDataPlane(_) | Act::KillControl(_) | Act::CutBus(_) | Act::Cut(_))
    });
    world.play();
    world.check()
}

impl World {
    fn new(seed: u64, plant: Plant) -> World {
        let mut rng = Rng::from_number(seed);
        let fork = |rng: &mut Rng| Rng::from_number(rng.next_u64());
        let network = Network::new(fork(&mut rng));
        let ccbs = (1..=2).map(|id| Ccb::new(CcbId(id), fork(&mut rng))).collect();
        let blades: Vec<_> = (0..1 + rng.below(2)).map(|_| None).collect();
        let bus = (blades.len() > 1).then(|| Bus::new(fork(&mut rng)));
        let desks = (0..=PHONES).map(|index| desk(index, fork(&mut rng))).collect();
        let mut world = World {
            now: Instant::from_nanos(1_000_000_000_000),
            rng,
            plant,
            network,
            ccbs,
            blades,
            bus,
            controls: 0,
            desks,
            records: BTreeMap::new(),
            watch: Watch::default(),
            dying: BTreeSet::new(),
            acts: BinaryHeap::new(),
            passed: BTreeMap::new(),
            sequence: 0,
            resting: false,
            listens: false,
            heard: Vec::new(),
            outcome: Outcome { trace: 0xcbf2_9ce4_8422_2325, ..Outcome::default() },
        };
        world.schedule();
        world
    }

    /// All that the seed decides beforehand.
    fn schedule(&mut self) {
        self.after_ms(0, Act::StartDataPlane(0));
        self.after_ms(0, Act::StartDataPlane(1));
        for control in 0..self.blades.len() {
            self.after_ms(1, Act::StartControl(control));
        }
        self.after_ms(50, Act::Beat);
        for desk in 0..PHONES {
            let at = 100 + self.rng.below(500);
            self.after_ms(at, Act::Login(desk));
        }
        for desk in 0..=PHONES {
            let at = 2_000 + self.rng.below(2_000);
            self.after_ms(at, Act::Person(desk));
        }
        let busy = BUSY.as_millis() as u64;
        let within = |world: &mut World| 3_000 + world.rng.below(busy - 8_000);
        for _ in 0..self.rng.below(3) {
            let (at, ccb) = (within(self), self.rng.below(2) as usize);
            self.after_ms(at, Act::KillDataPlane(ccb));
        }
        for _ in 0..self.rng.below(3) {
            let (at, control) = (within(self), self.rng.below(self.blades.len() as u64));
            self.after_ms(at, Act::KillControl(control as usize));
        }
        for _ in 0..self.rng.below(3) {
            let (at, control) = (within(self), self.rng.below(self.blades.len() as u64));
            self.after_ms(at, Act::CutBus(control as usize));
        }
        for _ in 0..self.rng.below(3) {
            let (at, host) = (within(self), self.rng.below(PHONES as u64) as usize);
            let ip = self.desks[host].ip;
            self.after_ms(at, Act::Cut(ip));
        }
        for _ in 0..10 {
            let at = within(self);
            self.after_ms(at, Act::Garbage);
        }
        if self.plant == Plant::KeepsALease {
            self.after_ms(busy / 2, Act::Steal);
        }
        self.after_ms(busy, Act::Rest);
    }

    fn after_ms(&mut self, ms: u64, act: Act) {
        self.sequence += 1;
        self.acts.push(Reverse((self.now + Duration::from_millis(ms), self.sequence, act)));
    }

    fn play(&mut self) {
        self.play_until(self.now + BUSY + REST);
    }

    fn play_until(&mut self, end: Instant) {
        while let Some(next) = self.next_at().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            if let Some(datagram) = self.network.take(self.now) {
                self.trace(&[1, datagram.to.port() as u8], &datagram.bytes);
                self.deliver(datagram.from, datagram.to, &datagram.bytes);
            } else if self.acts.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                let Reverse((_, _, act)) = self.acts.pop().expect("peeked");
                self.trace(format!("{act:?}").as_bytes(), &[]);
                self.act(act);
            } else {
                self.run_timers();
            }
        }
        self.now = end;
    }

    fn next_at(&self) -> Option<Instant> {
        let acts = self.acts.peek().map(|Reverse((at, ..))| *at);
        let phones =
            self.desks.iter().flat_map(|desk| [desk.phone.deadline(), desk.line.deadline()]);
        let phones = phones.flatten().min();
        let ccbs = self.ccbs.iter().filter_map(Ccb::deadline).min();
        let control = self.blades.iter().flatten().map(Blade::deadline).min();
        [acts, phones, ccbs, control, self.network.next_at()].into_iter().flatten().min()
    }

    fn run_timers(&mut self) {
        for desk in 0..self.desks.len() {
            if self.desks[desk].phone.deadline().is_some_and(|at| at <= self.now) {
                self.phone(desk, PhoneInput::Timeout);
            }
            if self.desks[desk].line.deadline().is_some_and(|at| at <= self.now) {
                self.line(desk, PhoneInput::Timeout);
            }
        }
        for ccb in 0..self.ccbs.len() {
            for worker in (0..self.ccbs[ccb].workers.len()).map(|worker| WorkerId(worker as u8)) {
                // One worker's turn may be the last of all.
                let worker_now = self.ccbs[ccb].workers.get(usize::from(worker.0));
                let deadline = worker_now.and_then(Worker::deadline);
                if deadline.is_some_and(|at| at <= self.now) {
                    self.worker(ccb, worker, Input::Timeout);
                }
            }
        }
        for control in 0..self.blades.len() {
            let blade = self.blades[control].as_ref();
            if blade.is_some_and(|blade| blade.deadline() <= self.now) {
                self.control(control, ControlInput::Timeout);
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Login(desk) => self.log_in(desk),
            Act::LoginAgain(desk, epoch) => {
                let entry = &self.desks[desk];
                if entry.asks && entry.epoch == epoch {
                    self.log_in(desk);
                }
            }
            Act::Attach(desk) => self.attach(desk),
            Act::Person(desk) => self.person(desk),
            Act::KillDataPlane(ccb) if self.rng.chance(50) => {
                self.dying.insert(ccb);
            }
            Act::KillDataPlane(ccb) => self.kill_data_plane(ccb),
            Act::StartDataPlane(ccb) => self.start_data_plane(ccb),
            // It may have died once more meanwhile.
            Act::Listen(ccb) if !self.ccbs[ccb].is_up() => {}
            Act::Listen(ccb) => self.watch.listen(self.now, ccb, &mut self.ccbs[ccb]),
            Act::KillControl(control) => self.kill_control(control),
            Act::StartControl(control) => self.start_control(control),
            Act::Link(ccb) => self.link(ccb),
            Act::Cut(ip) => {
                self.network.cut(ip);
                let ms = 200 + self.rng.below(3_000);
                self.after_ms(ms, Act::Heal(ip));
            }
            Act::Heal(ip) => self.network.heal(ip),
            Act::Beat => {
                for ccb in self.ccbs.iter().filter(|ccb| ccb.is_up()) {
                    (0..WORKERS)
                        .for_each(|id| ccb.region.header().beat_worker(WorkerId(id), self.now));
                }
                self.on_bus(|bus, now| bus.expire(now));
                self.after_ms(100, Act::Beat);
            }
            Act::Commands(ccb, worker) => self.worker(ccb, WorkerId(worker), Input::Commands),
            Act::Pump(control) => self.control(control, ControlInput::Pump),
            Act::Recorded(ccb, slot, generation) => {
                let call = base::CallRef { slot, generation };
                let control = self.control_of(usize::from(ccb) - 1);
                self.control(control, ControlInput::Recorded { ccb: CcbId(ccb), call });
            }
            Act::Mesh(ccb, worker, number) => {
                let passed = self.passed.remove(&number).expect("scheduled once");
                self.worker(ccb, WorkerId(worker), Input::Mesh(passed));
            }
            Act::Bus(number) => {
                let heard = self.bus.as_mut().and_then(|bus| bus.take(number));
                if let Some((control, heard)) = heard {
                    self.control(control, ControlInput::Bus(heard));
                }
            }
            Act::CutBus(control) => {
                self.on_bus(|bus, _| bus.leave(control));
                let ms = 200 + self.rng.below(5_000);
                self.after_ms(ms, Act::HealBus(control));
            }
            Act::HealBus(control) if self.blades[control].is_some() => {
                self.on_bus(
                    |bus, now| if bus.has(control) { Vec::new() } else { bus.join(now, control) },
                );
            }
            Act::HealBus(_) => {}
            Act::Garbage => self.throw_garbage(),
            Act::Steal => {
                let leases = self.ccbs[0].region.leases();
                for agent in (0..16).map(base::AgentSlot) {
                    let (holder, medium) = (CcbId(9), Medium::Voice);
                    let won = leases.reserve(agent, medium, holder, abi::Purpose::Call, self.now);
                    if let Ok(counter) = won {
                        leases.bind(agent, medium, holder, counter);
                        break;
                    }
                }
            }
            Act::Rest => self.resting = true,
        }
    }

    fn on_bus(&mut self, act: impl FnOnce(&mut Bus, Instant) -> Vec<Due>) {
        let now = self.now;
        for (number, ms) in self.bus.as_mut().map(|bus| act(bus, now)).unwrap_or_default() {
            self.after_ms(ms, Act::Bus(number));
        }
    }

    // The people.

    fn person(&mut self, desk: usize) {
        let is_trunk = desk == PHONES;
        let is_busy = self.desks[desk].phone.is_busy();
        if self.resting && self.desks[desk].line.is_busy() {
            self.line(desk, PhoneInput::Order(Order::HangUp));
        }
        let ms = 200 + self.rng.below(3_000);
        self.after_ms(ms, Act::Person(desk));
        if !self.resting && is_busy && self.rng.chance(75) && self.gives_away(desk) {
            return;
        }
        let order = match (self.resting, is_busy, self.rng.below(10)) {
            (true, true, _) | (false, true, 0..=3) => Some(Order::HangUp),
            (true, false, _) | (false, true, 8..) => None,
            (false, true, 4..=5) => Some(Order::Hold),
            (false, true, _) => Some(Order::Resume),
            (false, false, 0) if !is_trunk && !self.desks[desk].line.is_busy() => {
                // An agent goes home, and comes back.
                if let Some(socket) = self.desks[desk].socket {
                    let control = self.control_of(self.desks[desk].ccb);
                    self.control(control, ControlInput::DeskExit { socket });
                }
                None
            }
            // Where everybody calls all the time nobody is free to be given somebody.
            (false, false, 6..) => None,
            (false, false, _) => Some(Order::Call(self.whom_to_call(desk))),
        };
        if let Some(order) = order {
            self.phone(desk, PhoneInput::Order(order));
        }
    }

    fn whom_to_call(&mut self, desk: usize) -> String {
        let is_trunk = desk == PHONES;
        match self.rng.below(10) {
            0 => "4711".into(),
            1 | 2 if !is_trunk => "95555".into(),
            _ => self.desks[self.rng.below(PHONES as u64) as usize].number.clone(),
        }
    }

    fn phone(&mut self, desk: usize, input: PhoneInput<'_>) {
        let mut out = Vec::new();
        self.desks[desk].phone.handle(self.now, input, &mut out);
        self.phone_says(desk, [5060, 4000], out);
    }

    /// What a phone at those ports sends and tells.
    fn phone_says(&mut self, desk: usize, [sip, rtp]: [u16; 2], out: Vec<PhoneOutput>) {
        let ip = self.desks[desk].ip;
        for output in out {
            let (port, to, bytes) = match output {
                PhoneOutput::Sip { to, datagram } => (sip, to, datagram.to_vec()),
                PhoneOutput::Rtp { to, packet, .. } => (rtp, to, packet),
                PhoneOutput::Rtcp { to, packet } => (rtp + 1, to, packet),
                PhoneOutput::Event(event) => {
                    if self.listens {
                        self.heard.push((desk, event));
                    }
                    continue;
                }
            };
            self.network.send(self.now, SocketAddr::new(ip, port), to, bytes);
        }
    }

    fn log_in(&mut self, desk: usize) {
        let entry = &mut self.desks[desk];
        entry.epoch += 1;
        entry.secret = format!("secret-{desk}-{}", entry.epoch);
        let user = format!("{}.demo", entry.number);
        let hash =
            |algorithm| ha1(algorithm, user.as_bytes(), REALM.as_bytes(), entry.secret.as_bytes());
        let request = LoginRequest {
            agent: AgentRecord {
                tenant: TENANT,
                agent: desk as u64 + 1,
                number: entry.number.clone(),
                user: user.clone(),
                name: user.clone(),
                agent_type: 1,
                // Some are rung while they talk; these phones have one line, and say that they are busy.
                incoming_limit: desk.is_multiple_of(3).then_some(2),
                outgoing_limit: None,
            },
            epoch: entry.epoch,
            eligible: vec![CcbId(entry.ccb as u16 + 1)],
            location: if entry.location == 0 { "local".into() } else { "west".into() },
            force: false,
            ha1: Ha1 {
                md5: hash(Algorithm::Md5).as_bytes().try_into().expect("16 bytes"),
                sha256: hash(Algorithm::Sha256).as_bytes().try_into().expect("32 bytes"),
            },
        };
        let control = self.control_of(self.desks[desk].ccb);
        if self.blades[control].is_none() {
            return self.after_ms(500, Act::Login(desk));
        }
        self.desks[desk].asks = true;
        let epoch = self.desks[desk].epoch;
        self.after_ms(5_000, Act::LoginAgain(desk, epoch));
        self.control(
            control,
            ControlInput::Login { reply: desk as u64, request: Box::new(request) },
        );
    }

    /// The desk's WebSocket stands again, with the token that it has.
    fn attach(&mut self, desk: usize) {
        let Some(login) = self.desks[desk].login else { return };
        let control = self.control_of(self.desks[desk].ccb);
        if self.blades[control].is_none() || self.desks[desk].socket.is_some() {
            return;
        }
        self.sequence += 1;
        let socket = self.sequence;
        self.desks[desk].socket = Some(socket);
        self.control(control, ControlInput::DeskAttached { socket, login });
    }

    // The processes.

    fn worker(&mut self, ccb: usize, worker: WorkerId, input: Input<'_>) {
        if !self.ccbs[ccb].is_up() {
            return;
        }
        let region = self.ccbs[ccb].region.clone();
        let header = region.header();
        let bell = header.worker_bell(worker).expect("it exists");
        bell.awake();
        let mut out = Vec::new();
        self.ccbs[ccb].input(self.now, worker, input, &mut out);
        bell.sleep();
        self.carry_out(ccb, out);
    }

    fn carry_out(&mut self, ccb: usize, out: Vec<Out>) {
        if self.dying.remove(&ccb) {
            return self.kill_data_plane(ccb);
        }
        for out in out {
            match out {
                Out::Send { from, to, bytes } => {
                    if from.port() == SIP_PORT {
                        self.watch.sent(&bytes);
                    }
                    self.network.send(self.now, from, to, bytes);
                }
                Out::Mesh { to, passed } => {
                    self.sequence += 1;
                    let number = self.sequence;
                    self.passed.insert(number, passed);
                    self.after_ms(0, Act::Mesh(ccb, to.0, number));
                }
                Out::WakeControl => self.after_ms(0, Act::Pump(self.control_of(ccb))),
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(ccb) = self.ccbs.iter().position(|ccb| ccb.has(to.ip())) {
            if self.ccbs[ccb].is_up() {
                let mut out = Vec::new();
                self.ccbs[ccb].receive(self.now, from, to, bytes, &mut out);
                self.carry_out(ccb, out);
            }
            return;
        }
        let Some(desk) = self.desks.iter().position(|desk| desk.ip == to.ip()) else { return };
        match to.port() {
            5060 => self.phone(desk, PhoneInput::Sip { from, datagram: bytes }),
            4000 => self.phone(desk, PhoneInput::Rtp(bytes)),
            4001 => self.phone(desk, PhoneInput::Rtcp(bytes)),
            LINE_SIP => self.line(desk, PhoneInput::Sip { from, datagram: bytes }),
            LINE_RTP => self.line(desk, PhoneInput::Rtp(bytes)),
            4003 => self.line(desk, PhoneInput::Rtcp(bytes)),
            _ => {}
        }
    }

    fn kill_data_plane(&mut self, ccb: usize) {
        if !self.ccbs[ccb].is_up() {
            return;
        }
        self.outcome.deaths += 1;
        self.ccbs[ccb].kill();
        self.watch.died(ccb, &self.ccbs[ccb].region);
        self.control(self.control_of(ccb), ControlInput::Gone { ccb: CcbId(ccb as u16 + 1) });
        let ms = 50 + self.rng.below(2_000);
        self.after_ms(ms, Act::StartDataPlane(ccb));
    }

    fn start_data_plane(&mut self, ccb: usize) {
        let recovers = self.plant != Plant::ForgetsToRecover;
        if self.plant == Plant::RecoversAnOldCSeq {
            let region = self.ccbs[ccb].region.clone();
            for (place, mut row) in region.dialogs().iter() {
                row.local_cseq = row.local_cseq.saturating_sub(1);
                region.dialogs().write(place, &row);
            }
        }
        self.ccbs[ccb].start(self.now, recovers);
        self.watch.born(ccb, &self.ccbs[ccb].region);
        self.after_ms(500, Act::Listen(ccb));
        (0..WORKERS).for_each(|worker| self.worker(ccb, WorkerId(worker), Input::Timeout));
        let ms = self.rng.below(50);
        self.after_ms(ms, Act::Link(ccb));
    }

    /// Which control process the CCB belongs to.
    fn control_of(&self, ccb: usize) -> usize {
        ccb % self.blades.len()
    }

    fn ccbs_of(&self, control: usize) -> Vec<usize> {
        (0..self.ccbs.len()).filter(|ccb| self.control_of(*ccb) == control).collect()
    }

    fn kill_control(&mut self, control: usize) {
        if self.blades[control].take().is_none() {
            return;
        }
        self.outcome.deaths += 1;
        self.on_bus(|bus, _| bus.leave(control));
        for ccb in self.ccbs_of(control) {
            for desk in self.desks.iter_mut().filter(|desk| desk.ccb == ccb) {
                desk.socket = None;
            }
            (0..WORKERS).for_each(|worker| self.worker(ccb, WorkerId(worker), Input::ControlGone));
        }
        let ms = 100 + self.rng.below(4_000);
        self.after_ms(ms, Act::StartControl(control));
    }

    fn start_control(&mut self, control: usize) {
        let process = Process { pid: 2 + control as u32, start_time: 2 };
        let ccbs = self.ccbs_of(control);
        let ids: Vec<CcbId> = ccbs.iter().map(|ccb| CcbId(*ccb as u16 + 1)).collect();
        let mut blade = Blade::new(self.now, process, &ids);
        blade.seed(Rng::from_number(self.rng.next_u64()));
        self.controls += 1;
        if self.bus.is_some() {
            blade.join(bus::name(control), self.controls, Strategy::default());
        }
        self.blades[control] = Some(blade);
        self.on_bus(|bus, now| bus.join(now, control));
        self.control(control, ControlInput::Provision(provision()));
        for ccb in ccbs {
            self.after_ms(5, Act::Link(ccb));
            for desk in 0..PHONES {
                if self.desks[desk].ccb == ccb {
                    let ms = 100 + self.rng.below(2_000);
                    self.after_ms(ms, Act::Attach(desk));
                }
            }
        }
    }

    /// Control and a data plane find each other.
    fn link(&mut self, ccb: usize) {
        let control = self.control_of(ccb);
        if self.blades[control].is_none() || !self.ccbs[ccb].is_up() {
            return;
        }
        let region = self.ccbs[ccb].region.clone();
        self.control(control, ControlInput::Attached { ccb: CcbId(ccb as u16 + 1), region });
        (0..WORKERS).for_each(|worker| self.worker(ccb, WorkerId(worker), Input::ControlHere));
    }

    fn control(&mut self, control: usize, input: ControlInput) {
        let Some(blade) = &mut self.blades[control] else {
            return;
        };
        let mut out = Vec::new();
        blade.wake_up();
        blade.handle(self.now, input, &mut out);
        if !blade.fall_asleep() {
            self.after_ms(0, Act::Pump(control));
        }
        for output in out {
            self.trace(format!("{output:?}").as_bytes(), &[]);
            match output {
                ControlOutput::Bus(say) => self.on_bus(|bus, now| bus.say(now, control, say)),
                output => self.on_control(output),
            }
        }
    }

    fn on_control(&mut self, output: ControlOutput) {
        match output {
            ControlOutput::Login { reply, result } => {
                self.on_login(reply as usize, result.ok().map(|it| it.login))
            }
            ControlOutput::DeskClosed { socket, .. } => {
                let desk = self.desks.iter().position(|desk| desk.socket == Some(socket));
                if let Some(desk) = desk {
                    self.desks[desk].socket = None;
                    self.after_ms(300, Act::Attach(desk));
                }
            }
            ControlOutput::Ended { login, .. } => {
                let desk = self.desks.iter().position(|desk| desk.login == Some(login));
                if let Some(desk) = desk {
                    self.desks[desk].login = None;
                    let ms = 500 + self.rng.below(1_000);
                    self.after_ms(ms, Act::Login(desk));
                }
            }
            ControlOutput::Record(record) => {
                let times = self.records.entry(record.serial).or_default();
                *times += 1;
                if *times == 1 {
                    let is_other = record.legs.first().is_some_and(|leg| leg.peer.is_some());
                    self.outcome.between += u64::from(is_other && record.answered_at.is_some());
                    *self.outcome.causes.entry(record.cause).or_default() += 1;
                    let kept = self.watch.kept.contains(&record.serial);
                    self.outcome.kept_ended_well += u64::from(kept && record.cause == 0);
                }
                let ms = self.rng.below(3);
                let (slot, generation) = (record.call.slot, record.call.generation);
                self.after_ms(ms, Act::Recorded(record.ccb.0, slot, generation));
            }
            ControlOutput::Wake { ccb, worker } => {
                self.after_ms(0, Act::Commands(usize::from(ccb.0) - 1, worker.0));
            }
            _ => {}
        }
    }

    fn on_login(&mut self, desk: usize, login: Option<LoginKey>) {
        self.desks[desk].asks = false;
        if login.is_none() {
            return self.after_ms(500, Act::Login(desk));
        }
        let entry = &mut self.desks[desk];
        entry.login = login;
        entry.socket = None;
        let ccb = &self.ccbs[entry.ccb];
        let registrar = SocketAddr::new(ccb.locations[entry.location].ip, 5060);
        let user = format!("{}.demo", entry.number);
        let mut config = phone_config(&user, registrar, entry.ip, desk);
        config.realm = REALM.into();
        config.secret = entry.secret.clone();
        entry.phone = Phone::new(config.clone(), Rng::from_number(self.rng.next_u64()));
        entry.line = Phone::new(second(config), Rng::from_number(self.rng.next_u64()));
        self.phone(desk, PhoneInput::Order(Order::Register));
        let ms = self.rng.below(1_000);
        self.after_ms(ms, Act::Attach(desk));
    }

    fn throw_garbage(&mut self) {
        let mut bytes = vec![0; self.rng.below(1_500) as usize];
        self.rng.fill(&mut bytes);
        if self.rng.chance(50) {
            let text = b"REGISTER sip:10.0.1.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.66.0.1;branch=z9hG4bKx\r\nFrom: <sip:1001.demo@x>;tag=1\r\n";
            let cut = self.rng.below(text.len() as u64) as usize;
            bytes = text[..cut].to_vec();
        }
        let ccb = self.rng.below(2) as usize;
        let port = if self.rng.chance(50) { 5060 } else { 30_000 + self.rng.below(80) as u16 };
        let to = SocketAddr::new(self.ccbs[ccb].locations[0].ip, port);
        self.network.send(self.now, "10.66.0.1:6666".parse().expect("an address"), to, bytes);
    }

    fn trace(&mut self, kind: &[u8], bytes: &[u8]) {
        let now = self.now.as_nanos().to_le_bytes();
        for byte in now.iter().chain(kind).chain(bytes) {
            self.outcome.trace =
                (self.outcome.trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    // What must hold when all has come to rest.

    fn check(mut self) -> Result<Outcome, String> {
        if let Some(broken) = self.watch.broken {
            return Err(broken);
        }
        self.outcome.kept = self.watch.kept.len() as u64;
        self.outcome.heard = self.watch.heard;
        for ccb in &self.ccbs {
            for (id, worker) in ccb.workers.iter().enumerate() {
                expect(worker.is_idle(), || {
                    let legs = rules::standing_legs(&ccb.region);
                    format!("CCB {} worker {id} has {}: {legs}", ccb.id, worker.load())
                })?;
                // Registrations are renewed for ever: a REGISTER, its challenge and its repetition each
                // keep a transaction for 64*T1.
                let transactions = worker.transactions();
                expect(transactions <= 2 * PHONES, || {
                    format!("CCB {} worker {id}: {transactions} transactions", ccb.id)
                })?;
            }
            let held = ccb.region.leases().held();
            expect(held == 0, || format!("CCB {}: {held} lease words are held", ccb.id))?;
            for (slot, row) in ccb.region.calls().iter() {
                let over = matches!(row.state(), CallState::Free | CallState::Ended);
                expect(over, || format!("CCB {}: call {slot} is still {:?}", ccb.id, row.state()))?;
            }
        }
        self.check_records()?;
        self.check_control()?;
        for desk in &self.desks {
            let report = desk.phone.report();
            expect(!desk.phone.is_busy(), || format!("phone {} is in a call", desk.number))?;
            expect(!desk.line.is_busy(), || format!("line {} is in a call", desk.number))?;
            self.outcome.rtp_sent += report.rtp_sent;
            self.outcome.rtp_received += report.rtp_received;
        }
        Ok(self.outcome)
    }

    /// Every call that began has its record, and none has two.
    fn check_records(&mut self) -> Result<(), String> {
        let total =
            |counter| self.ccbs.iter().map(|ccb| ccb.region.counters().total(counter)).sum::<u64>();
        let (started, evicted) = (total(Counter::CallsStarted), total(Counter::RecordsEvicted));
        self.outcome.calls = started;
        self.outcome.answered = total(Counter::CallsAnswered);
        self.outcome.hosted = total(Counter::CallsHosted);
        self.outcome.fenced = total(Counter::CallsFenced);
        self.outcome.transferred = total(Counter::TransfersCompleted);
        self.outcome.stayed = total(Counter::TransfersFailed);
        self.outcome.stale = total(Counter::LeaseStale) + total(Counter::LeaseForged);
        let records = self.records.len() as u64;
        expect(records + evicted == started, || {
            format!("{started} calls began, {records} have a record and {evicted} lost theirs")
        })
    }

    /// The counts of the CDM, the desks and the registrar agree: everybody is back at work.
    fn check_control(&self) -> Result<(), String> {
        for (index, ccb) in self.ccbs.iter().enumerate() {
            let blade = self.blades[self.control_of(index)].as_ref().ok_or("control is away")?;
            let known = blade.cdm().ccb(ccb.id).ok_or("the CDM forgot a CCB")?;
            expect(known.status == CcbStatus::Normal, || {
                format!("CCB {} is {:?}", ccb.id, known.status)
            })?;
            let here = self.desks[..PHONES].iter().filter(|desk| desk.ccb == index).count() as u32;
            expect(known.online == here, || {
                format!("CCB {}: {} of {here} online", ccb.id, known.online)
            })?;
            let standing = blade
                .calls(ccb.id)
                .into_iter()
                .filter(|(state, _)| *state != CallState::Ended)
                .count();
            expect(standing == 0, || {
                format!("control believes in {standing} calls of CCB {}", ccb.id)
            })?;
            let registered =
                ccb.region.registrations().iter().filter(|(_, row)| row.is_registered()).count();
            expect(registered == here as usize, || {
                format!("CCB {}: {registered} of {here} registered", ccb.id)
            })?;
        }
        Ok(())
    }
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn desk(index: usize, rng: Rng) -> Desk {
    let is_trunk = index == PHONES;
    let ip = if is_trunk {
        IpAddr::from([10, 9, 0, 1])
    } else {
        IpAddr::from([10, 1, 0, index as u8 + 1])
    };
    let (number, user) = match is_trunk {
        true => ("trunk".to_owned(), "0301".to_owned()),
        false => (format!("{}", 1001 + index), format!("{}.demo", 1001 + index)),
    };
    let registrar = if is_trunk { "10.0.1.1:5060" } else { "10.0.0.0:5060" };
    let config = phone_config(&user, registrar.parse().expect("an address"), ip, index);
    let mut rng = rng;
    let line = Phone::new(second(config.clone()), Rng::from_number(rng.next_u64()));
    Desk {
        number,
        ccb: index % 2,
        location: index / 2 % 2,
        secret: String::new(),
        epoch: 0,
        login: None,
        asks: false,
        socket: None,
        phone: Phone::new(config, rng),
        line,
        ip,
    }
}

fn phone_config(user: &str, registrar: SocketAddr, ip: IpAddr, index: usize) -> PhoneConfig {
    let mut config =
        PhoneConfig::new(user, registrar, SocketAddr::new(ip, 5060), SocketAddr::new(ip, 4000));
    // One phone is never answered by itself, the others after a while.
    config.ring = (index != 3).then(|| Duration::from_millis(index as u64 * 150));
    config.expires_s = 60;
    config.frames = Some(25);
    config.listen = false;
    config
}

/// The same phone's second line.
fn second(mut config: PhoneConfig) -> PhoneConfig {
    config.sip.set_port(LINE_SIP);
    config.rtp.set_port(LINE_RTP);
    config
}

fn provision() -> Provision {
    let address = TRUNK.parse().expect("an address");
    let addresses = vec![address];
    let to = Destination::Trunk {
        name: None,
        addresses,
        location: None,
        transport: base::Transport::Udp,
        tls: control_core::TrunkTls::default(),
    };
    Provision {
        tenants: vec![TenantRecord {
            id: TENANT,
            name: "demo".into(),
            realm: REALM.into(),
            hold_music: None,
            srtp: Default::default(),
        }],
        trunks: vec![TrunkRecord {
            tenant: TENANT,
            name: "carrier".into(),
            by: "10.9.0.0/16".parse().expect("a network"),
            srtp: Default::default(),
        }],
        forwards: Vec::new(),
        routes: vec![Route { tenant: TENANT, prefix: "9".into(), to }],
        options_s: 0,
        ..Provision::default()
    }
}
