//! One thread, one seed: eight blades, a bus that loses, doubles and reorders, and much that goes wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use abi::lease::word;
use abi::{Fence, LeaseState};
use base::{AgentSlot, CcbId, Instant, Rng};
use control_core::cluster::HeldLease;
use control_core::hosting::{Act, HomeBug, Next, Presence, WANTED_MS};

use crate::blade::{Blade, Bus, Call, Control, Dialog, Report, Sip, ccb, presence};
use crate::watch::Watch;

pub const BLADES: usize = 8;
pub const AGENTS: usize = 48;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Things go wrong until then.
const BUSY_MS: u64 = 40_000;
/// Then everything must come to rest.
const REST_MS: u64 = 40_000;
/// How often a message of a data plane is sent when nobody answers, and how often at most.
const RETRY_MS: u64 = 500;
const RETRIES: u32 = 60;
/// Within this time of the loss of its holder an agent is free (G-04).
const FREED_MS: u64 = 3_000;

/// A fault of ours that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// A data plane binds the word for whoever comes.
    FenceNotChecked,
    /// A home grants after a pause in which others held it for dead.
    GrantsWhenPaused,
    /// A data plane that comes back begins to count anew.
    ForgetsItsCounter,
    /// A home that does not see a holder frees its agents at once.
    FreesWithoutLooking,
    /// A home does not free the agents of a holder that is gone.
    NeverFrees,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened, in its order.
    pub trace: u64,
    /// How often two to four blades wanted one agent within 2 ms who was free.
    pub races: u64,
    pub requests: u64,
    pub granted: u64,
    pub denied: u64,
    /// Grants that were denied since others may have held the home for dead.
    pub unconfirmed: u64,
    pub accepted: u64,
    /// INVITEs refused.
    pub stale: u64,
    pub given_back: u64,
    pub expired: u64,
    /// Calls whose holder died.
    pub lost_holders: u64,
    /// Calls that a home ended since their holder was gone.
    pub ended: u64,
    /// Leases whose holder was away and whose dialog lived on.
    pub kept: u64,
    pub faults: u64,
    pub moves: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.races += other.races;
        self.requests += other.requests;
        self.granted += other.granted;
        self.denied += other.denied;
        self.unconfirmed += other.unconfirmed;
        self.accepted += other.accepted;
        self.stale += other.stale;
        self.given_back += other.given_back;
        self.expired += other.expired;
        self.lost_holders += other.lost_holders;
        self.ended += other.ended;
        self.kept += other.kept;
        self.faults += other.faults;
        self.moves += other.moves;
    }
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// Some blades want an agent.
    Race(usize),
    /// A blade wants an agent.
    Want(usize, usize),
    Bus {
        to: usize,
        from: usize,
        what: Bus,
    },
    Sip {
        to: usize,
        from: usize,
        what: Sip,
    },
    /// No answer came to a request.
    NoAnswer(usize, u64, u64),
    HangUp(usize, u64),
    LocalEnd(usize, usize, u64),
    Retry(usize, u64, u32),
    Report(usize, u64),
    Check(usize, u64),
    Fault(usize),
    Resume(usize),
    StartControl(usize),
    StartDataPlane(usize, bool),
    Connect(usize, bool),
    HealBus(usize),
    HealSip(usize),
    /// An agent logs in; again and again.
    LogIn(usize, bool),
    MustBeFree(usize, usize, u64, u64),
}

struct World {
    now: u64,
    rng: Rng,
    plant: Plant,
    blades: Vec<Blade>,
    bus_cut: Vec<bool>,
    sip_cut: Vec<bool>,
    /// When a blade's control was last not at its work, or its data plane.
    troubled: Vec<u64>,
    /// When a blade's data plane was last not to be reached.
    unreached: Vec<u64>,
    /// Where each agent is logged in.
    homes: Vec<Option<usize>>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    bodies: Vec<Option<Event>>,
    unused: Vec<usize>,
    sequence: u64,
    calls: u64,
    resting: bool,
    watch: Watch,
    kept: BTreeMap<u64, ()>,
    outcome: Outcome,
}

/// Runs the world of `seed` to its end; an error says what does not hold.
pub fn run(seed: u64, plant: Plant) -> Result<Outcome, String> {
    let mut world = World::new(seed, plant);
    let end = (BUSY_MS + REST_MS) * MS;
    while let Some(Reverse((at, sequence, body))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.resting = at > BUSY_MS * MS;
        let event = world.bodies[body].take().expect("each event comes once");
        world.unused.push(body);
        world.trace(at ^ sequence.rotate_left(32));
        world.happen(event);
        if let Some(broken) = world.watch.broken.take() {
            return Err(format!("{broken} at {} ms", at / MS));
        }
    }
    world.check_rest()?;
    Ok(world.outcome)
}

impl World {
    fn new(seed: u64, plant: Plant) -> World {
        let mut rng = Rng::from_number(seed);
        let blades = (0..BLADES)
            .map(|number| Blade::new(number, rng.below(1 << 50), rng.below(201) as i64 - 100))
            .collect();
        let mut world = World {
            now: 0,
            rng,
            plant,
            blades,
            bus_cut: vec![false; BLADES],
            sip_cut: vec![false; BLADES],
            troubled: vec![0; BLADES],
            unreached: vec![0; BLADES],
            homes: vec![None; AGENTS],
            events: BinaryHeap::new(),
            bodies: Vec::new(),
            unused: Vec::new(),
            sequence: 0,
            calls: 0,
            resting: false,
            watch: Watch::new(),
            kept: BTreeMap::new(),
            outcome: Outcome { trace: seed, ..Outcome::default() },
        };
        for blade in 0..BLADES {
            world.after(0, Event::StartDataPlane(blade, false));
            world.after(1, Event::StartControl(blade));
            let at = world.rng.below(10_000);
            world.after((2_000 + at) * MS, Event::Fault(blade));
        }
        for agent in 0..AGENTS {
            let at = 2 + world.rng.below(500);
            world.after(at * MS, Event::LogIn(agent, true));
            world.after((at + 600) * MS, Event::Race(agent));
        }
        world
    }

    fn after(&mut self, ns: u64, event: Event) {
        self.sequence += 1;
        let body = self.unused.pop().unwrap_or_else(|| {
            self.bodies.push(None);
            self.bodies.len() - 1
        });
        self.bodies[body] = Some(event);
        self.events.push(Reverse((self.now + ns, self.sequence, body)));
    }

    fn trace(&mut self, what: u64) {
        self.outcome.trace = (self.outcome.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn clock(&self, blade: usize) -> Instant {
        self.blades[blade].clock(self.now)
    }

    /// What is for control waits while it is paused: messages first, then timers, in their order.
    fn waits(&mut self, event: Event) -> Option<Event> {
        let blade = match &event {
            Event::Bus { to, .. } => *to,
            Event::Want(blade, _)
            | Event::Report(blade, _)
            | Event::Check(blade, _)
            | Event::NoAnswer(blade, ..)
            | Event::Connect(blade, _) => *blade,
            _ => return Some(event),
        };
        match &mut self.blades[blade].waiting {
            Some(waiting) => {
                waiting.push(event);
                None
            }
            None => Some(event),
        }
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.waits(event) else { return };
        match event {
            Event::Race(agent) => self.race(agent),
            Event::Want(blade, agent) => self.want(blade, agent),
            Event::Bus { to, from, what } => self.on_bus(to, from, what),
            Event::Sip { to, from, what } => self.on_sip(to, from, what),
            Event::NoAnswer(blade, control, id) => self.no_answer(blade, control, id),
            Event::HangUp(blade, call) => self.leave(blade, call),
            Event::LocalEnd(blade, agent, call) => self.free(blade, agent, call),
            Event::Retry(blade, call, times) => self.retry(blade, call, times),
            Event::Report(blade, control) => self.report(blade, control),
            Event::Check(blade, control) => self.check(blade, control),
            Event::Fault(blade) => self.fault(blade),
            Event::Resume(blade) => self.resume(blade),
            Event::StartControl(blade) => self.start_control(blade),
            Event::StartDataPlane(blade, anew) => self.start_data_plane(blade, anew),
            Event::Connect(blade, is) => self.connect(blade, is),
            Event::HealBus(blade) => {
                self.bus_cut[blade] = false;
                self.troubled[blade] = self.now;
                self.after(MS, Event::Connect(blade, true));
            }
            Event::HealSip(blade) => {
                self.sip_cut[blade] = false;
                self.unreached[blade] = self.now;
            }
            Event::LogIn(agent, again) => self.log_in(agent, again),
            Event::MustBeFree(home, agent, grant, since) => {
                self.must_be_free(home, agent, grant, since);
            }
        }
    }

    // The networks.

    fn bus(&mut self, from: usize, to: usize, what: Bus) {
        let is_told = matches!(what, Bus::Report(_) | Bus::Moved(..));
        if self.bus_cut[from] || self.bus_cut[to] || !is_told && self.rng.chance(1) {
            return;
        }
        let copies = if !is_told && self.rng.chance(1) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = match self.rng.chance(1) {
                // What stands where all can see it is seen by all before long.
                true if is_told => 100 * MS,
                true => 1_500 * MS,
                false => 5 * MS,
            };
            let delay = 50 * US + self.rng.below(slow);
            let what = what.clone();
            self.after(delay, Event::Bus { to, from, what });
        }
    }

    fn sip(&mut self, from: usize, to: usize, what: Sip) {
        if self.sip_cut[from] || self.sip_cut[to] || self.rng.chance(1) {
            return;
        }
        let copies = if self.rng.chance(2) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = if self.rng.chance(1) { 2_500 * MS } else { 3 * MS };
            let delay = 50 * US + self.rng.below(slow);
            self.after(delay, Event::Sip { to, from, what });
        }
    }

    /// True while the two ends of a dialog hear each other.
    fn reaches(&self, home: usize, dialog: &Dialog) -> bool {
        let holder = dialog.holder;
        let has_call = self.blades[holder].calls.get(&dialog.call).is_some_and(|it| !it.leaving);
        let is_open = !self.sip_cut[home] && !self.sip_cut[holder] || home == holder;
        has_call && is_open && self.blades[holder].is_up && self.blades[home].is_up
    }

    // The calls.

    fn race(&mut self, agent: usize) {
        if self.resting {
            return;
        }
        let is_free = |home: usize| {
            matches!(word::read(&self.blades[home].words[agent]), LeaseState::Free { .. })
        };
        self.outcome.races += u64::from(self.homes[agent].is_some_and(is_free));
        let contenders = 2 + self.rng.below(3);
        let first = self.rng.below(BLADES as u64) as usize;
        for number in 0..contenders as usize {
            let delay = self.rng.below(2 * MS);
            self.after(delay, Event::Want((first + number * 3) % BLADES, agent));
        }
        let next = 10 + self.rng.below(60);
        self.after(next * MS, Event::Race(agent));
    }

    fn want(&mut self, blade: usize, agent: usize) {
        let Some(home) = self.homes[agent] else { return };
        if !self.blades[blade].is_up {
            return;
        }
        self.calls += 1;
        let call = self.calls;
        if home == blade {
            return self.call_here(blade, agent, call);
        }
        let (clock, name) = (self.clock(blade), self.blades[home].name.clone());
        let asked = self.blades[blade].ask(clock, call, (home, name), agent);
        let Some(request) = asked else { return };
        self.outcome.requests += 1;
        let (control, id) = (request.incarnation, request.id);
        self.after(u64::from(WANTED_MS) * MS, Event::NoAnswer(blade, control, id));
        self.bus(blade, home, Bus::Ask(Box::new(request)));
    }

    /// A call of the agent's own CCB takes the word by itself.
    fn call_here(&mut self, blade: usize, agent: usize, call: u64) {
        let clock = self.clock(blade);
        let here = &self.blades[blade];
        let (ccb, word) = (here.ccb(), &here.words[agent]);
        let Some(epoch) = here.logins[agent] else { return };
        let Ok(counter) = word::reserve(word, ccb, abi::Purpose::Call, clock) else {
            self.outcome.denied += 1;
            return;
        };
        let fence = Fence { epoch, incarnation: here.incarnation, counter };
        let is_bound = word::bind(word, ccb, counter);
        self.watch.expect(is_bound, || "a word that was just reserved is not bound".into());
        self.watch.grants += 1;
        let grant = self.watch.grants;
        self.watch.granted(blade, agent, grant, fence, false);
        self.accept(
            blade,
            agent,
            grant,
            fence,
            Dialog { call, holder: blade, epoch, counter, heard: clock, since: self.now },
        );
        let lasts = self.duration();
        self.after(lasts, Event::LocalEnd(blade, agent, call));
    }

    fn accept(&mut self, home: usize, agent: usize, grant: u64, fence: Fence, dialog: Dialog) {
        let has_it = |blade: &&Blade| {
            blade.dialogs.get(&agent).is_some_and(|other| other.epoch == dialog.epoch)
        };
        let others = self.blades.iter().filter(has_it).count();
        self.watch.accepted(home, agent, grant, fence, others);
        self.outcome.accepted += 1;
        self.blades[home].dialogs.insert(agent, dialog);
    }

    fn duration(&mut self) -> u64 {
        match self.rng.below(100) {
            0..87 => self.rng.below(10 * MS),
            87..99 => self.rng.below(200 * MS),
            _ => self.rng.below(6_000 * MS),
        }
    }

    /// The dialog of an agent is over at its home.
    fn free(&mut self, home: usize, agent: usize, call: u64) {
        let here = &mut self.blades[home];
        if !here.is_up || here.dialogs.get(&agent).is_none_or(|dialog| dialog.call != call) {
            return;
        }
        let Some(dialog) = here.dialogs.remove(&agent) else { return };
        let holder = ccb(dialog.holder);
        let freed = word::release(&here.words[agent], holder, dialog.counter, abi::Share::Waiting);
        let plant = self.plant;
        self.watch.expect(freed || plant == Plant::ForgetsItsCounter, || {
            format!("agent {agent}'s word at home {home} was not that of its dialog")
        });
    }

    fn dial(
        &mut self,
        blade: usize,
        call: u64,
        session: u64,
        grant: &control_core::cluster::Grant,
    ) {
        let number = u128::from_le_bytes(grant.token.0) as u64;
        let home = usize::from(grant.home.0) - 1;
        let agent = grant.agent as usize;
        let here = &mut self.blades[blade];
        if !here.is_up {
            return self.session_over(blade, session);
        }
        if let Some(control) = &mut here.control {
            control.holder.dialled(session);
        }
        let held = self.rng.chance(20);
        let (fence, answered, leaving) = (grant.fence, false, false);
        let made = Call { agent, home, fence, grant: number, session, answered, held, leaving };
        here.calls.insert(call, made);
        self.sip(blade, home, Sip::Invite { call, agent, fence, grant: number });
        self.after(RETRY_MS * MS, Event::Retry(blade, call, 0));
    }

    /// The call is over at its holder, which tells the home until it hears that it knows.
    fn leave(&mut self, blade: usize, call: u64) {
        let here = &mut self.blades[blade];
        if !here.is_up {
            return;
        }
        let Some(it) = here.calls.get_mut(&call).filter(|it| !it.leaving) else { return };
        it.leaving = true;
        let (home, agent, session) = (it.home, it.agent, it.session);
        self.sip(blade, home, Sip::Bye { call, agent });
        self.after(RETRY_MS * MS, Event::Retry(blade, call, 0));
        self.session_over(blade, session);
    }

    fn session_over(&mut self, blade: usize, session: u64) {
        let Some(control) = &mut self.blades[blade].control else { return };
        let next = control.holder.over(session);
        self.next(blade, session, next);
    }

    fn retry(&mut self, blade: usize, call: u64, times: u32) {
        let here = &mut self.blades[blade];
        let Some(it) = here.calls.get(&call).copied() else { return };
        if !here.is_up || it.answered && !it.leaving {
            return;
        }
        if it.leaving {
            if times == RETRIES {
                here.calls.remove(&call);
                return;
            }
            self.sip(blade, it.home, Sip::Bye { call, agent: it.agent });
        } else if times < 6 {
            let Call { agent, fence, grant, .. } = it;
            self.sip(blade, it.home, Sip::Invite { call, agent, fence, grant });
        } else {
            return self.leave(blade, call);
        }
        self.after(RETRY_MS * MS, Event::Retry(blade, call, times + 1));
    }

    fn on_sip(&mut self, to: usize, from: usize, what: Sip) {
        if !self.blades[to].is_up {
            return;
        }
        match what {
            Sip::Invite { call, agent, fence, grant } => {
                self.invited(to, from, (call, agent), fence, grant);
            }
            Sip::Ok { call } => match self.blades[to].calls.get_mut(&call) {
                Some(it) if !it.answered && !it.leaving => {
                    it.answered = true;
                    let lasts = self.duration();
                    self.after(lasts, Event::HangUp(to, call));
                }
                _ => {}
            },
            Sip::Refused { call } => {
                if let Some(it) = self.blades[to].calls.get(&call).filter(|it| !it.answered) {
                    let session = it.session;
                    let was_leaving = it.leaving;
                    self.blades[to].calls.remove(&call);
                    if !was_leaving {
                        self.session_over(to, session);
                    }
                }
            }
            Sip::Bye { call, agent } => {
                self.free(to, agent, call);
                self.sip(to, from, Sip::Gone { call });
            }
            Sip::Gone { call } => {
                if self.blades[to].calls.get(&call).is_some_and(|it| it.leaving) {
                    self.blades[to].calls.remove(&call);
                }
            }
        }
    }

    fn invited(
        &mut self,
        home: usize,
        holder: usize,
        (call, agent): (u64, usize),
        fence: Fence,
        grant: u64,
    ) {
        let clock = self.clock(home);
        let here = &self.blades[home];
        if here.dialogs.get(&agent).is_some_and(|dialog| dialog.call == call) {
            return self.sip(home, holder, Sip::Ok { call });
        }
        let word = &here.words[agent];
        let login = here.logins[agent];
        let checks = self.plant != Plant::FenceNotChecked;
        let counter = match word::read(word) {
            LeaseState::Reserved { counter, .. } if !checks => counter,
            _ => fence.counter,
        };
        let has = match word::read(word) {
            LeaseState::Reserved { holder, .. } if !checks => holder,
            _ => ccb(holder),
        };
        let is_right =
            !checks || login == Some(fence.epoch) && fence.incarnation == here.incarnation;
        if !is_right || !word::bind(word, has, counter) {
            self.outcome.stale += 1;
            return self.sip(home, holder, Sip::Refused { call });
        }
        let epoch = login.unwrap_or_default();
        let dialog = Dialog { call, holder, epoch, counter, heard: clock, since: self.now };
        self.accept(home, agent, grant, fence, dialog);
        self.sip(home, holder, Sip::Ok { call });
    }

    // Control.

    fn on_bus(&mut self, to: usize, from: usize, what: Bus) {
        let clock = self.clock(to);
        let name = self.blades[from].name.clone();
        if self.blades[to].control.is_none() {
            return;
        }
        match what {
            Bus::Ask(request) => {
                self.watch.grants += 1;
                let grant = self.watch.grants;
                let answer = self.blades[to].answer(clock, &name, &request, grant);
                let Some((answer, won)) = answer else { return };
                if let Some(fence) = won {
                    self.outcome.granted += 1;
                    let agent = crate::blade::agent(&request.number);
                    self.watch.granted(to, agent, grant, fence, true);
                }
                self.outcome.denied += u64::from(answer.is_err());
                let away = answer == Err(control_core::cluster::Denial::OwnerAway);
                self.outcome.unconfirmed += u64::from(away && self.blades[to].is_up);
                self.bus(to, from, Bus::Answer(request.id, Box::new(answer)));
            }
            Bus::Answer(id, answer) => {
                let Some(control) = &mut self.blades[to].control else { return };
                let grant = answer.as_ref().as_ref().ok().cloned();
                let next = control.holder.answered(clock, id, Some(*answer));
                let next = match (next, grant) {
                    // What comes too late or to another process is given back.
                    (Next::Nothing | Next::Refused(..), Some(grant)) => {
                        control.holder.unwanted(&name, crate::blade::TENANT, id, &grant)
                    }
                    (next, _) => next,
                };
                self.next(to, id, next);
            }
            Bus::GiveBack(agent, holder, counter) => {
                let here = &mut self.blades[to];
                let word = &here.words[agent];
                let was = word::read(word);
                if let Some(control) = &mut here.control {
                    control.home.give_back(AgentSlot(agent as u32), word, holder, counter);
                }
                self.outcome.given_back += u64::from(was != word::read(word));
            }
            Bus::Holds(lease) => self.say_holds(to, from, lease),
            Bus::HoldsSaid(lease, incarnation, does) => {
                if let Some(control) = &mut self.blades[to].control {
                    control.home.holds(clock, &lease, incarnation, does);
                }
            }
            Bus::Report(report) => self.reported(to, from, report),
            Bus::Moved(agent, epoch) => self.moved(to, agent, epoch),
        }
    }

    fn next(&mut self, blade: usize, session: u64, next: Next<u64>) {
        match next {
            Next::Dial(call, grant) => self.dial(blade, call, session, &grant),
            Next::GiveBack(_, fence, _, number) => {
                let agent = crate::blade::agent(&number);
                if let Some(home) = self.homes[agent].filter(|home| *home != blade) {
                    let holder = ccb(blade);
                    self.bus(blade, home, Bus::GiveBack(agent, holder, fence.counter));
                }
            }
            Next::Refused(..) | Next::Nothing => {}
        }
    }

    fn no_answer(&mut self, blade: usize, control: u64, id: u64) {
        let clock = self.clock(blade);
        let Some(here) = &mut self.blades[blade].control else { return };
        if here.incarnation == control {
            let next = here.holder.answered(clock, id, None);
            self.next(blade, id, next);
        }
    }

    fn say_holds(&mut self, blade: usize, home: usize, lease: HeldLease) {
        let here = &self.blades[blade];
        let Some(control) = &here.control else { return };
        let agent = crate::blade::agent(&lease.number);
        let has = |call: &Call| {
            (call.home, call.agent, call.fence) == (home, agent, lease.fence) && !call.leaving
        };
        let does = control.holder.holds(ccb(home), &lease) || here.calls.values().any(has);
        let incarnation = if here.is_up { here.incarnation } else { 0 };
        self.bus(blade, home, Bus::HoldsSaid(lease, incarnation, does && here.is_up));
    }

    fn report(&mut self, blade: usize, of: u64) {
        let clock = self.clock(blade);
        let here = &mut self.blades[blade];
        let data_plane = if here.is_up { here.incarnation } else { 0 };
        let Some(control) = here.control.as_mut().filter(|it| it.incarnation == of) else { return };
        control.sequence += 1;
        control.sent_at.push_back((control.sequence, clock));
        if control.sent_at.len() > 8 {
            control.sent_at.pop_front();
        }
        let report = Report { control: of, sequence: control.sequence, data_plane };
        (0..BLADES).for_each(|to| self.bus(blade, to, Bus::Report(report)));
        self.after(500 * MS, Event::Report(blade, of));
    }

    fn reported(&mut self, to: usize, from: usize, report: Report) {
        let clock = self.clock(to);
        let Some(control) = &mut self.blades[to].control else { return };
        let known = control.reports[from].map(|(_, known)| (known.control, known.sequence));
        if known >= Some((report.control, report.sequence)) {
            return;
        }
        control.reports[from] = Some((clock, report));
        let sent = control.sent_at.iter().find(|(sequence, _)| *sequence == report.sequence);
        if to == from
            && report.control == control.incarnation
            && let Some((_, at)) = sent
        {
            control.home.confirm(clock, *at);
        }
    }

    /// The look at what is hosted elsewhere, four times a second.
    fn check(&mut self, blade: usize, of: u64) {
        let clock = self.clock(blade);
        if self.blades[blade].is_up {
            let reached: Vec<usize> = self.blades[blade]
                .dialogs
                .iter()
                .filter(|(_, it)| self.reaches(blade, it))
                .filter(|(_, it)| {
                    it.holder == blade || !self.blades[it.holder].calls[&it.call].held
                })
                .map(|(agent, _)| *agent)
                .collect();
            for agent in reached {
                self.blades[blade].dialogs.get_mut(&agent).expect("just there").heard = clock;
            }
        }
        let here = &mut self.blades[blade];
        let Some(control) = here.control.as_mut().filter(|it| it.incarnation == of) else { return };
        let Control { home, reports, connected, .. } = control;
        let (words, dialogs) = (&here.words, &here.dialogs);
        let mut acts = Vec::new();
        let plant = self.plant;
        let is = |ccb: CcbId| {
            let name = Some(format!("b{}", ccb.0 - 1).into());
            match presence(*connected, reports, clock, ccb) {
                Presence::Gone if plant == Plant::NeverFrees => (name, Presence::Unknown),
                is => (name, is),
            }
        };
        let heard = |slot: AgentSlot, counter: u32| {
            let dialog = dialogs.get(&(slot.0 as usize)).filter(|it| it.counter == counter);
            dialog.map(|dialog| dialog.heard)
        };
        home.check(clock, |slot| words.get(slot.0 as usize), is, heard, &mut acts);
        if plant == Plant::FreesWithoutLooking {
            let gone = |ccb: CcbId| presence(*connected, reports, clock, ccb) == Presence::Gone;
            let gone = home.hosted().filter(|(_, it)| it.bound && gone(it.holder));
            acts.extend(gone.map(|(slot, it)| Act::End(slot, it.fence.counter)));
        }
        acts.into_iter().for_each(|act| self.act(blade, act));
        self.after(250 * MS, Event::Check(blade, of));
    }

    fn act(&mut self, blade: usize, act: Act) {
        match act {
            Act::Over(_, hosted) => self.outcome.expired += u64::from(!hosted.bound),
            Act::Probe(slot, counter) => {
                let agent = slot.0 as usize;
                let clock = self.clock(blade);
                let dialog = self.blades[blade].dialogs.get(&agent).copied();
                let dialog = dialog.filter(|it| it.counter == counter && self.reaches(blade, it));
                if let Some(dialog) = dialog {
                    self.blades[blade].dialogs.get_mut(&agent).expect("just there").heard = clock;
                    if self.kept.insert(dialog.call, ()).is_none() {
                        self.outcome.kept += 1;
                    }
                }
            }
            Act::End(slot, counter) => {
                let agent = slot.0 as usize;
                let dialog = self.blades[blade].dialogs.get(&agent).copied();
                let Some(dialog) = dialog.filter(|it| it.counter == counter) else { return };
                let reached = self.unreached[blade].max(self.unreached[dialog.holder]);
                let lives = self.reaches(blade, &dialog) && self.now > reached + 1_000 * MS;
                self.watch.expect(!lives, || {
                    format!("home {blade} frees agent {agent}, whose dialog lives")
                });
                if self.blades[blade].is_up {
                    self.outcome.ended += 1;
                    self.free(blade, agent, dialog.call);
                }
            }
            Act::AskHolder(_, ccb, lease) => {
                self.bus(blade, usize::from(ccb.0) - 1, Bus::Holds(lease));
            }
        }
    }

    fn moved(&mut self, blade: usize, agent: usize, epoch: u32) {
        let login = &mut self.blades[blade].logins[agent];
        if login.is_some_and(|here| here < epoch) {
            *login = None;
        }
    }

    /// The agent logs in, somewhere else if it was logged in.
    fn log_in(&mut self, agent: usize, again: bool) {
        if again && !self.resting {
            let next = 2_000 + self.rng.below(10_000);
            self.after(next * MS, Event::LogIn(agent, true));
        }
        let to = self.rng.below(BLADES as u64) as usize;
        let here = &self.blades[to];
        // Who has just come back has to listen for a while before it holds anybody for dead.
        let listened = self.now > self.troubled[to] + 2_000 * MS || self.homes[agent].is_none();
        let runs = here.is_up && here.waiting.is_none() && !self.bus_cut[to] && listened;
        let Some(control) = here.control.as_ref().filter(|_| runs) else {
            return self.after(200 * MS, Event::LogIn(agent, false));
        };
        if let Some(old) = self.homes[agent] {
            let there = &self.blades[old];
            let is_seen = control.is_seen(self.clock(to), old);
            let leaves = there.control.is_some() && there.waiting.is_none() && !self.bus_cut[old];
            let is_idle = !there.is_up || word::read(&there.words[agent]).holder().is_none();
            if old == to || is_seen && !(leaves && is_idle) {
                return;
            }
            if is_seen {
                self.blades[old].logins[agent] = None;
            }
            self.outcome.moves += 1;
        }
        self.watch.epochs[agent] += 1;
        let epoch = self.watch.epochs[agent];
        self.blades[to].logins[agent] = Some(epoch);
        self.blades[to].rows[agent] = epoch;
        self.homes[agent] = Some(to);
        (0..BLADES).filter(|other| *other != to).for_each(|other| {
            self.bus(to, other, Bus::Moved(agent, epoch));
        });
    }
}

mod faults;
