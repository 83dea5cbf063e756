//! Queues over blades: three controls and a bus that carries what they say.

use std::collections::VecDeque;

use super::queues::{call, commands, done, hang_up, offers, state, world};
use super::*;
use crate::cluster::{BladeName, CLAIM_LIFE_MS, Claim, Fact, Heard, Key as Place, Report, Say, To};
use crate::seat::{NO_ANSWER, SeatState, reason};

const STEP_MS: u64 = 50;

struct Blades {
    worlds: Vec<World>,
    alive: Vec<bool>,
    claims: BTreeMap<(TenantId, String), (Claim, Instant)>,
    /// Who asked, by what the asked one was given.
    asked: BTreeMap<u64, (usize, u64)>,
    next: u64,
    mail: VecDeque<(usize, Heard)>,
    /// The desks of the agents, by their numbers.
    desks: BTreeMap<u64, (usize, LoginKey, u64)>,
}

fn name(blade: usize) -> BladeName {
    format!("b{blade}").into()
}

impl Blades {
    /// Blades on which these agents are logged in, by blade and number.
    fn new(count: usize, agents: &[(usize, u64)]) -> Blades {
        let mut worlds: Vec<World> = (0..count).map(|_| world()).collect();
        let mut desks = BTreeMap::new();
        for (blade, agent) in agents {
            let (granted, socket) = worlds[*blade].online(*agent, 1);
            desks.insert(*agent, (*blade, granted.login, socket));
        }
        let alive = vec![true; count];
        let (claims, asked, mail) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        let mut blades = Blades { worlds, alive, claims, asked, next: 0, mail, desks };
        for blade in 0..count {
            blades.worlds[blade].keeps = true;
            blades.worlds[blade].blade.join(
                name(blade),
                1 + blade as u64,
                crate::cdm::Strategy::LeastAgents,
            );
            blades.mail.push_back((blade, Heard::Connected(true)));
        }
        blades.pass(1_000);
        blades
    }

    /// Does something on a blade, and carries what it says of it.
    fn on<T>(&mut self, blade: usize, act: impl FnOnce(&mut World) -> T) -> T {
        let done = act(&mut self.worlds[blade]);
        let said = std::mem::take(&mut self.worlds[blade].said);
        self.carry(blade, said);
        self.deliver();
        done
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / STEP_MS {
            for blade in 0..self.worlds.len() {
                let world = &mut self.worlds[blade];
                world.now = world.now + Duration::from_millis(STEP_MS);
                if !self.alive[blade] {
                    continue;
                }
                let now = world.now;
                world.planes.iter().for_each(|plane| plane.beat(now));
                world.give(Input::Timeout);
                let said = std::mem::take(&mut world.said);
                self.carry(blade, said);
            }
            self.tell_reports();
            self.deliver();
        }
    }

    /// An agent's desk says ready.
    fn ready(&mut self, agent: u64) -> LoginKey {
        let (blade, login, socket) = self.desks[&agent];
        let command = DeskCommand::Ready;
        self.on(blade, |world| world.give(Input::DeskCommand { reply: 8, socket, command }));
        login
    }

    fn tell_reports(&mut self) {
        for (of, _) in self.alive.iter().enumerate().filter(|(_, alive)| **alive) {
            for to in (0..self.worlds.len()).filter(|to| *to != of) {
                let fact = Some(Fact::Blade(Report::default()));
                self.mail.push_back((to, Heard::Fact { key: Place::Blade(name(of)), fact }));
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((to, heard)) = self.mail.pop_front() {
            if self.alive[to] {
                self.worlds[to].give(Input::Bus(heard));
                let said = std::mem::take(&mut self.worlds[to].said);
                self.carry(to, said);
            }
        }
    }

    fn carry(&mut self, from: usize, out: Vec<Output>) {
        for say in out.into_iter().filter_map(|one| match one {
            Output::Bus(say) => Some(say),
            _ => None,
        }) {
            match say {
                Say::Ask { ask, to: To::Blade(to), question, .. } => {
                    self.next += 1;
                    self.asked.insert(self.next, (from, ask));
                    let to = (0..self.worlds.len()).find(|blade| name(*blade) == to);
                    let to = to.expect("a blade");
                    let heard = Heard::Asked { reply: self.next, from: name(from), question };
                    match self.alive[to] {
                        true => self.mail.push_back((to, heard)),
                        false => {
                            self.mail.push_back((from, Heard::Answered { ask, answer: None }));
                        }
                    }
                }
                Say::Reply { reply, answer } => {
                    let (to, ask) = self.asked.remove(&reply).expect("asked once");
                    self.mail.push_back((to, Heard::Answered { ask, answer: Some(answer) }));
                }
                Say::Claim { key: Place::Queue(tenant, queue), claim } => {
                    self.claim(from, (tenant, queue), claim);
                }
                Say::Disclaim { key: Place::Queue(tenant, queue) } => {
                    self.claims.remove(&(tenant, queue.clone()));
                    for to in 0..self.worlds.len() {
                        let key = Place::Queue(tenant, queue.clone());
                        self.mail.push_back((to, Heard::Fact { key, fact: None }));
                    }
                }
                _ => {}
            }
        }
    }

    fn claim(&mut self, from: usize, queue: (TenantId, String), claim: Claim) {
        let now = self.worlds[from].now;
        let life = Duration::from_millis(CLAIM_LIFE_MS);
        let key = Place::Queue(queue.0, queue.1.clone());
        let other = self
            .claims
            .get(&queue)
            .filter(|(held, at)| held.blade != claim.blade && now < *at + life);
        if other.is_some() {
            return self.mail.push_back((from, Heard::Claimed { key, term: None }));
        }
        self.claims.insert(queue, (claim.clone(), now));
        self.mail.push_back((from, Heard::Claimed { key: key.clone(), term: Some(1) }));
        for to in 0..self.worlds.len() {
            let fact = Some(Fact::Claim(claim.clone()));
            self.mail.push_back((to, Heard::Fact { key: key.clone(), fact }));
        }
    }

    /// The offers that a blade's data plane was told of since.
    fn offers(&mut self, blade: usize) -> Vec<(u64, u32, String)> {
        offers(&commands(&mut self.worlds[blade]))
    }

    fn waiting(&self, blade: usize) -> usize {
        let world = &self.worlds[blade];
        world.blade.queues(world.now).iter().map(|(view, _)| view.waiting).sum()
    }

    fn owner(&self) -> usize {
        let (claim, _) = self.claims.values().next().expect("a claim");
        (0..self.worlds.len()).find(|blade| name(*blade) == claim.blade).expect("a blade")
    }
}

/// A caller at each of three blades, in the order 1, 0, 2.
fn three_wait(agents: &[(usize, u64)]) -> Blades {
    let mut blades = Blades::new(3, agents);
    for blade in [1, 0, 2] {
        blades.on(blade, |world| _ = call(world, 1, "702"));
        blades.pass(2_000);
    }
    assert_eq!(blades.owner(), 1, "who had the first caller");
    assert_eq!([0, 1, 2].map(|blade| blades.waiting(blade)), [0, 3, 0], "all wait there");
    blades
}

#[test]
fn callers_of_all_blades_wait_in_one_order_for_agents_of_all() {
    let mut blades = three_wait(&[(2, 1001), (1, 1002)]);
    let first = blades.ready(1001);
    blades.pass(1_500);
    let told = blades.offers(1);
    let [(op, 1, number)] = &told[..] else { panic!("the oldest caller is at 1: {told:?}") };
    assert_eq!(number, "1001");
    assert_eq!((blades.offers(0).len(), blades.offers(2).len()), (0, 0));
    blades.on(1, |world| _ = done(world, *op, OpResult::Ok));
    // The agent talks: its home has the word, and says no more that it is idle.
    blades.on(2, |world| {
        let slot = world.slot(first);
        let leases = world.planes[0].region.leases();
        let (medium, them, what) = (Medium::Voice, CcbId(9), abi::Purpose::Queue);
        let counter = leases.reserve(slot, medium, them, what, world.now).expect("free");
        assert!(leases.bind(slot, medium, them, counter));
    });
    blades.pass(1_500);
    assert_eq!(blades.waiting(1), 2);
    blades.ready(1002);
    blades.pass(1_000);
    let told = blades.offers(0);
    let [(op, 1, number)] = &told[..] else { panic!("the next caller is at 0: {told:?}") };
    assert_eq!(number, "1002");
    blades.on(0, |world| _ = done(world, *op, OpResult::NoAnswer));
    blades.pass(1_000);
    let login = LoginKey { tenant: TENANT, agent: 1002, epoch: 1 };
    assert_eq!(state(&blades.worlds[1], login), SeatState::NotReady(reason(NO_ANSWER)));
    assert_eq!(blades.waiting(1), 2, "who was not taken has the place of before");
    let caller = CallRef { slot: 1, generation: 3 };
    blades.on(0, |world| _ = hang_up(world, caller));
    blades.pass(500);
    assert_eq!(blades.waiting(1), 1);
}

#[test]
fn callers_keep_their_wait_over_the_death_of_the_owner() {
    let mut blades = three_wait(&[(2, 1001)]);
    blades.alive[1] = false;
    blades.pass(4_000);
    let owner = blades.owner();
    assert_ne!(owner, 1);
    assert_eq!(blades.waiting(owner), 2);
    let world = &blades.worlds[owner];
    let longest_ms = world.blade.queues(world.now)[0].1;
    assert!(longest_ms >= 7_500, "{longest_ms}");
    blades.ready(1001);
    blades.pass(1_500);
    assert_eq!((blades.offers(0).len(), blades.offers(2).len()), (1, 0), "0 came before 2");
}

#[test]
fn an_agent_whose_word_is_gone_is_passed_over() {
    let mut blades = three_wait(&[(0, 1001), (2, 1002)]);
    blades.ready(1001);
    blades.pass(1_500);
    let told = blades.offers(1);
    let [(op, 1, _)] = &told[..] else { panic!("{told:?}") };
    blades.ready(1002);
    blades.pass(1_000);
    assert_eq!(blades.offers(0).len(), 1, "the next caller gets the next agent");
    blades.on(1, |world| _ = done(world, *op, OpResult::Denied));
    blades.pass(2_500);
    let again = blades.offers(1);
    assert!(matches!(&again[..], [(_, 1, number)] if number == "1001"), "{again:?}");
}

#[test]
fn without_the_bus_each_blade_serves_its_own() {
    let mut blades = three_wait(&[(2, 1001)]);
    for blade in 0..3 {
        blades.mail.push_back((blade, Heard::Connected(false)));
    }
    blades.pass(1_000);
    assert_eq!([0, 1, 2].map(|blade| blades.waiting(blade)), [1, 1, 1]);
    blades.ready(1001);
    blades.pass(500);
    assert_eq!([0, 1, 2].map(|blade| blades.offers(blade).len()), [0, 0, 1]);
}

#[test]
fn the_first_caller_gets_the_longest_idle_agent_of_all_blades() {
    let mut blades = Blades::new(3, &[(2, 1001), (0, 1002)]);
    for agent in [1001, 1002] {
        blades.ready(agent);
        blades.pass(500);
    }
    blades.on(0, |world| _ = call(world, 1, "702"));
    blades.pass(100);
    let told = blades.offers(0);
    assert!(matches!(&told[..], [(_, 1, number)] if number == "1001"), "{told:?}");
}

#[test]
fn a_blade_that_says_nothing_is_waited_for_a_while_only() {
    let mut blades = Blades::new(3, &[(0, 1001)]);
    blades.ready(1001);
    blades.alive[2] = false;
    blades.on(0, |world| _ = call(world, 1, "702"));
    blades.pass(500);
    assert_eq!(blades.offers(0), [], "blade 2 was heard of just now");
    blades.pass(1_000);
    let told = blades.offers(0);
    assert!(matches!(&told[..], [(_, 1, number)] if number == "1001"), "{told:?}");
}
