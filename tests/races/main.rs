//! Races for agents between real processes: four blades of the program, each with its control and its data plane, a
//! NATS server between them, calls by SIP from a trunk of every blade, deaths, pauses and repeated questions.
//!
//! `REAL_RACES=100000 cargo test --release -p house-tests --test real_races` runs as many. Needs root (a network
//! namespace) and Debian's nats-server.

mod bus;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../clients/demo.rs"]
mod demo;
mod faults;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../clients/lab.rs"]
mod lab;
mod phones;
mod regions;
mod site;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::Rng;
use softphone::{Event, Order, Why};

use faults::Faults;
use phones::Phones;
use regions::Regions;
use site::{BLADES, Site};

/// What one run of the tests takes.
const RACES: u64 = 2_000;
/// Agents who are fought for.
const AGENTS: u32 = 8;
/// Phones that call through each blade; some wait for a blade that is dead.
const CALLERS: usize = 40;
/// The next race for an agent begins so much later at most, in microseconds.
const PAUSE_US: u64 = 20_000;
/// A call that nobody answers or refuses for so long is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Within this time of the loss of its holder an agent is free (G-04).
const FREED: Duration = Duration::from_secs(3);
/// When nobody calls any more, nobody has anybody within this time: a request is sent again for 32 s.
const REST: Duration = Duration::from_secs(40);

/// The clock that the data planes show in their regions.
pub fn now() -> base::Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    base::Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A caller's call.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// For whom; none once it was given up.
    agent: Option<usize>,
    since: Instant,
    /// When it was answered, and how many faults there had been.
    answered: Option<u64>,
    /// When it hangs up.
    until: Instant,
}

#[derive(Debug, Default)]
struct Outcome {
    races: u64,
    calls: u64,
    won: u64,
    /// Refusals by status.
    refused: BTreeMap<u16, u64>,
    given_up: u64,
    broken: Option<String>,
}

struct World {
    site: Site,
    phones: Phones,
    regions: Regions,
    faults: Faults,
    rng: Rng,
    numbers: Vec<String>,
    /// The callers of each blade.
    callers: Vec<Vec<usize>>,
    calls: BTreeMap<usize, Call>,
    /// Who has whom, and when the next race begins.
    holders: Vec<Option<usize>>,
    next: Vec<Instant>,
    outcome: Outcome,
}

impl World {
    fn start(seed: u64) -> World {
        let site = Site::start(AGENTS);
        let regions = Regions::new((1..=BLADES).map(|blade| site.region(blade)).collect());
        let mut phones = Phones::default();
        let mut homes = BTreeMap::<u64, u32>::new();
        let mut numbers = Vec::new();
        for agent in (1001..).take(AGENTS as usize) {
            let login = site.log_in(agent);
            *homes.entry(login["ccb"]["device_number"].as_u64().expect("a number")).or_default() +=
                1;
            numbers.push(agent.to_string());
            let phone = phones.add_agent(&login);
            phones.order(phone, Order::Register);
        }
        assert_eq!(homes.len(), usize::from(BLADES), "agents of every blade: {homes:?}");
        let mut registered = 0;
        let end = Instant::now() + Duration::from_secs(20);
        while registered < AGENTS {
            assert!(Instant::now() < end, "{registered} of {AGENTS} phones registered");
            phones.turn(Duration::from_millis(20));
            let is_it = |(_, event): &(usize, Event)| matches!(event, Event::Registered { .. });
            registered += phones.news.drain(..).filter(is_it).count() as u32;
        }
        let callers = (1..=BLADES)
            .map(|blade| (0..CALLERS).map(|_| phones.add_caller(site.sip_port(blade))).collect());
        World {
            callers: callers.collect(),
            site,
            phones,
            regions,
            faults: Faults::new(seed),
            rng: Rng::from_number(seed),
            calls: BTreeMap::new(),
            holders: vec![None; numbers.len()],
            next: vec![Instant::now(); numbers.len()],
            numbers,
            outcome: Outcome::default(),
        }
    }

    /// One turn; `races` says whether new ones begin.
    fn turn(&mut self, races: bool) {
        for agent in (0..self.numbers.len()).filter(|_| races) {
            let is_over = self.calls.values().all(|call| call.agent != Some(agent));
            if is_over && Instant::now() >= self.next[agent] {
                self.race(agent);
            }
        }
        let next = Instant::now() + Duration::from_millis(2);
        let hang_ups = self.calls.values().filter(|call| call.answered.is_some());
        let wait = hang_ups.map(|call| call.until).min().unwrap_or(next).min(next);
        self.phones.turn(wait.saturating_duration_since(Instant::now()));
        for (phone, event) in std::mem::take(&mut self.phones.news) {
            self.hear(phone, &event);
        }
        self.hang_up();
        self.regions.turn();
    }

    /// Some blades want an agent at once.
    fn race(&mut self, agent: usize) {
        let contenders = 2 + self.rng.below(u64::from(BLADES) - 1);
        let first = self.rng.below(u64::from(BLADES));
        let blades = (0..contenders).map(|place| ((first + place) % u64::from(BLADES)) as usize);
        let free = |blade: usize| {
            let is_free =
                |phone: &&usize| !self.phones.is_busy(**phone) && !self.calls.contains_key(*phone);
            self.callers[blade].iter().find(is_free).copied()
        };
        let callers: Vec<usize> = blades.filter_map(free).collect();
        let now = Instant::now();
        self.next[agent] = now + Duration::from_micros(self.rng.below(PAUSE_US));
        if callers.len() < 2 {
            return;
        }
        self.outcome.races += 1;
        for phone in callers {
            self.outcome.calls += 1;
            let call = Call { agent: Some(agent), since: now, answered: None, until: now };
            self.calls.insert(phone, call);
            self.phones.order(phone, Order::Call(self.numbers[agent].clone()));
        }
    }

    fn hear(&mut self, phone: usize, event: &Event) {
        let faults = self.faults.count();
        match event {
            Event::Answered => {
                let holds = match self.rng.below(100) {
                    // Some stand when their holder dies.
                    0..8 if self.faults.is_death_next() => 6_000_000,
                    0..90 => self.rng.below(8_000),
                    90..99 => self.rng.below(100_000),
                    _ => self.rng.below(1_500_000),
                };
                let Some(call) = self.calls.get_mut(&phone) else { return };
                let Some(agent) = call.agent else {
                    return self.phones.order(phone, Order::HangUp);
                };
                call.answered = Some(faults);
                call.until = Instant::now() + Duration::from_micros(holds);
                self.outcome.won += 1;
                let other = self.holders[agent].replace(phone);
                let other = other.and_then(|other| Some((other, self.calls.get(&other)?)));
                // What a fault cut may be over for one side alone; the regions know.
                if let Some((other, first)) = other
                    && first.answered == Some(faults)
                    && !self.faults.is_active()
                {
                    let what =
                        format!("{agent} is with caller {other}, {first:?}, and with {phone}");
                    self.outcome.broken.get_or_insert(what);
                }
            }
            Event::Ended(why) => {
                if let Why::Refused(status) = why {
                    *self.outcome.refused.entry(*status).or_default() += 1;
                }
                if let Some(Call { agent: Some(agent), .. }) = self.calls.remove(&phone)
                    && self.holders[agent] == Some(phone)
                {
                    self.holders[agent] = None;
                }
            }
            _ => {}
        }
    }

    fn hang_up(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (phone, call) in &mut self.calls {
            let is_done = call.answered.is_some() && now >= call.until;
            let is_late = call.answered.is_none() && now > call.since + PATIENCE;
            if let Some(agent) = call.agent.filter(|_| is_done || is_late) {
                self.outcome.given_up += u64::from(is_late);
                call.agent = None;
                over.push((*phone, agent));
            }
        }
        for (phone, agent) in over {
            if self.holders[agent] == Some(phone) {
                self.holders[agent] = None;
            }
            self.phones.order(phone, Order::HangUp);
        }
    }

    fn expect_well(&self, judge: Option<&str>) {
        let broken =
            [self.outcome.broken.as_deref(), self.regions.outcome.broken.as_deref(), judge];
        let broken: Vec<&str> = broken.into_iter().flatten().collect();
        assert!(broken.is_empty(), "{broken:#?}\n{:?}\n{}", self.faults, self.site.output());
    }
}

fn wanted() -> u64 {
    std::env::var("REAL_RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(RACES)
}

/// Never two holders of one login epoch, never an INVITE accepted on a stale fence, no lease granted to two requests,
/// every agent free within 3 s of the loss of its holder, and all of them when all is quiet.
#[test]
fn every_real_race_has_one_winner() {
    let _turn = lab::turn();
    lab::Host::new("races").enter(|| run(wanted()));
}

fn run(races: u64) {
    let mut world = World::start(1);
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, server) = (Arc::clone(&is_over), world.site.bus());
    let judge = std::thread::spawn(move || {
        let mut judge = bus::Judge::new(&server, 7);
        while !over.load(Ordering::Relaxed) {
            judge.turn();
        }
        judge.heard
    });
    let started = Instant::now();
    let mut said = Instant::now();
    // Nothing else but the races would stop before every fault has happened.
    while world.outcome.races < races || !world.faults.is_complete() {
        world.turn(true);
        let busiest = world.regions.busiest();
        if let Some(ccb) = world.faults.turn(&world.site, busiest) {
            world.regions.lost(ccb, FREED);
        }
        world.expect_well(None);
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            println!("{:?}: {:?}", started.elapsed(), world.outcome);
        }
    }
    let took = started.elapsed();
    world.faults.end(&world.site);
    let end = Instant::now() + REST;
    while !(world.regions.all_free() && world.calls.is_empty()) {
        world.turn(false);
        world.expect_well(None);
        if Instant::now() >= end {
            for blade in 1..=BLADES {
                println!("{:#}", world.site.ask(blade, "calls").unwrap_or_default());
                println!(
                    "{}",
                    world.site.ask(blade, "status").unwrap_or_default()["ccbs"][0]["counters"]
                );
            }
            println!("{}", world.site.output());
        }
        assert!(
            Instant::now() < end,
            "somebody is left: {:?}, {:?}; {:?}, {:?}",
            world.calls,
            world.regions.held(),
            world.outcome,
            world.faults
        );
    }
    world.site.expect_normal();
    is_over.store(true, Ordering::Relaxed);
    let heard = judge.join().expect("the judge ends well");
    world.expect_well(heard.broken.as_deref());
    let stale = world.site.counter("lease_stale");
    let (outcome, regions) = (&world.outcome, &world.regions.outcome);
    println!(
        "{:.1} s: {outcome:?}\n{regions:?}\n{heard:?}\n{stale} INVITEs came too late; {:?}",
        took.as_secs_f64(),
        world.faults
    );
    assert!(outcome.won * 2 > outcome.races, "too few were won: {outcome:?}");
    assert!(heard.granted > outcome.races / 4, "too few over the bus: {heard:?}");
    assert!(heard.repeated > outcome.races / 50 && heard.same > 0, "nothing repeated: {heard:?}");
    assert!(regions.lost > 0, "nobody lost a holder: {regions:?}");
    assert!(regions.hosted * 4 > outcome.races, "the words show little of it: {regions:?}");
}
