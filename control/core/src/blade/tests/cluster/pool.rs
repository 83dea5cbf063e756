//! The pool over blades: its orders on a bus that loses, its growth and its shrinking by the leader.

use super::*;
use crate::cluster::{Answer, PoolRequest};
use crate::pool::{Marks, PoolOrder, PoolRefusal, SlotId, SlotKind, SlotOrder, SlotState};

const ANY: PoolOrder = PoolOrder::Apply { kind: SlotKind::Ccb, number: None };

fn ccb(number: u16) -> SlotId {
    SlotId::Ccb(CcbId(number))
}

fn apply(number: u16) -> PoolOrder {
    PoolOrder::Apply { kind: SlotKind::Ccb, number: Some(number) }
}

fn release(number: u16) -> PoolOrder {
    PoolOrder::Release { slot: ccb(number), within_s: Some(30) }
}

/// Two blades with two slots each, of which only the first runs: CCB 1.
struct Pool {
    net: Net,
    /// Starts and stops of processes, in their order.
    done: Vec<(SlotId, SlotOrder)>,
    /// Slots that may be on their way at a time.
    at_once: usize,
}

impl Pool {
    fn new(agents: u32, marks: Option<Marks>) -> Pool {
        let mut net = Net::with(2, 2, agents);
        for (place, site) in net.sites.iter_mut().enumerate() {
            let numbers = [place as u16 * 2 + 1, place as u16 * 2 + 2];
            let state = |n| if n == 1 { SlotState::Running } else { SlotState::Free };
            let slots = numbers.map(|n| (ccb(n), state(n)));
            site.world.blade.pool(net.now, slots, marks);
        }
        for number in 2..=4_u16 {
            net.give(usize::from(number - 1) / 2, Input::Gone { ccb: CcbId(number) });
        }
        let at_once = if marks.is_some() { 1 } else { 4 };
        let mut pool = Pool { net, done: Vec::new(), at_once };
        pool.pass(2_000);
        pool
    }

    /// Lets time pass; processes come and go as their blades say.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(100) {
            self.net.pass(100);
            let said: Vec<(usize, Output)> = std::mem::take(&mut self.net.said);
            for (site, output) in said {
                let Output::Slot { slot, order } = output else {
                    self.net.said.push((site, output));
                    continue;
                };
                self.done.push((slot, order));
                let SlotId::Ccb(ccb) = slot else { continue };
                if order == SlotOrder::Stop {
                    self.net.give(site, Input::Gone { ccb });
                    self.net.give(site, Input::SlotStopped { slot });
                    continue;
                }
                let planes = &self.net.sites[site].world.planes;
                let plane = planes.iter().find(|plane| plane.region.layout().ccb == ccb);
                let region = plane.expect("it is that blade's").region.clone();
                self.net.give(site, Input::Attached { ccb, region });
            }
            let moving = self.states().into_iter().filter(|(_, state)| {
                matches!(state, SlotState::Starting | SlotState::Draining | SlotState::Stopping)
            });
            assert!(moving.count() <= self.at_once, "too many at a time: {:?}", self.states());
        }
    }

    /// Every slot as its own blade has it.
    fn states(&self) -> Vec<(SlotId, SlotState)> {
        self.net.sites.iter().flat_map(|site| site.world.blade.slots()).collect()
    }

    fn running(&self) -> usize {
        self.states().iter().filter(|(_, state)| *state == SlotState::Running).count()
    }

    /// An order at that blade, and what becomes of it.
    fn order(&mut self, site: usize, order: PoolOrder) -> Result<SlotId, PoolRefusal> {
        self.net.give(site, Input::Pool { reply: 900, order });
        for _ in 0..50 {
            self.net.pass(100);
            let is_it = |(_, one): &(usize, Output)| matches!(one, Output::Pool { .. });
            if let Some(place) = self.net.said.iter().position(is_it)
                && let (_, Output::Pool { result, .. }) = self.net.said.remove(place)
            {
                return result;
            }
        }
        panic!("each order is answered");
    }

    /// What that blade shows of every slot.
    fn view(&self, site: usize) -> Vec<(SlotId, Option<SlotState>)> {
        let blade = &self.net.sites[site].world.blade;
        blade.pool_view(self.net.now).into_iter().map(|view| (view.slot, view.state)).collect()
    }

    fn expect_agreement(&self) {
        let states: Vec<_> = self.states().into_iter().map(|(id, it)| (id, Some(it))).collect();
        for site in 0..self.net.sites.len() {
            assert_eq!(self.view(site), states, "blade {site}");
        }
    }
}

#[test]
fn an_order_at_any_blade_reaches_the_slot() {
    let mut pool = Pool::new(8, None);
    pool.expect_agreement();
    assert_eq!(pool.order(0, apply(4)), Ok(ccb(4)));
    pool.pass(2_000);
    assert_eq!(pool.done, [(ccb(4), SlotOrder::Start)]);
    assert_eq!(pool.order(0, ANY), Ok(ccb(2)), "either blade runs one");
    pool.pass(2_000);
    assert_eq!(pool.order(0, ANY), Ok(ccb(3)), "the only one that is left");
    pool.pass(2_000);
    assert_eq!(pool.order(1, ANY), Err(PoolRefusal::NoFreeSlot));
    assert_eq!(pool.order(1, apply(9)), Err(PoolRefusal::NoSuchSlot));
    pool.expect_agreement();
    assert_eq!(pool.order(1, release(1)), Ok(ccb(1)));
    pool.pass(3_000);
    assert_eq!(pool.done.last(), Some(&(ccb(1), SlotOrder::Stop)));
    assert_eq!(pool.order(1, release(1)), Err(PoolRefusal::NotRunning));
    pool.expect_agreement();
}

#[test]
fn an_order_that_is_lost_is_asked_again_and_done_once() {
    let mut answered = 0;
    for seed in 0..40 {
        let mut pool = Pool::new(8, None);
        pool.net.rng = base::Rng::from_number(seed);
        // The other blade has two free slots, this one none.
        assert_eq!(pool.order(0, apply(2)), Ok(ccb(2)));
        pool.pass(2_000);
        pool.net.loss = 40;
        let result = pool.order(0, ANY);
        pool.net.loss = 0;
        pool.pass(2_000);
        let starts = pool.done.iter().filter(|(slot, _)| *slot != ccb(2)).count();
        match result {
            Ok(slot) => {
                answered += 1;
                assert_eq!((slot, starts), (ccb(3), 1), "seed {seed}");
            }
            // Nobody answered three times: it was done or not, but never twice.
            Err(why) => {
                assert_eq!(why, PoolRefusal::Away);
                assert!(starts <= 1, "seed {seed}");
            }
        }
    }
    assert!(answered > 20, "{answered}");
}

#[test]
fn a_blade_that_is_not_heard_is_away() {
    let mut pool = Pool::new(8, None);
    pool.net.cut(1);
    pool.net.pass(REPORT_LIFE_MS + 500);
    assert_eq!(pool.order(0, apply(3)), Err(PoolRefusal::Away));
    let away = pool.view(0).into_iter().filter(|(_, state)| state.is_none());
    assert_eq!(away.map(|(slot, _)| slot).collect::<Vec<_>>(), [ccb(3), ccb(4)]);
    // What is left of the bus is this blade's own.
    assert_eq!(pool.order(0, ANY), Ok(ccb(2)));
    assert_eq!(pool.order(1, apply(3)), Ok(ccb(3)), "its own slots need no bus");
    pool.net.connect(1);
    pool.pass(2_000);
    pool.expect_agreement();
}

#[test]
fn an_order_of_an_older_leader_is_refused_and_a_repeated_one_is_answered_as_before() {
    let mut pool = Pool::new(8, None);
    let now = pool.net.now;
    let blade = &mut pool.net.sites[1].world.blade;
    let mut out = Vec::new();
    let mut ask = |id, term, order| {
        let request = PoolRequest { id, incarnation: 1, term, order };
        match blade.pool_request(now, &"b1".into(), request, &mut out) {
            Answer::Pool(result) => result,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(1, Some(7), apply(3)), Ok(ccb(3)));
    assert_eq!(ask(2, Some(6), apply(4)), Err(PoolRefusal::Stale));
    assert_eq!(ask(3, None, apply(4)), Ok(ccb(4)), "an administrator has no term");
    assert_eq!(ask(1, Some(6), release(3)), Ok(ccb(3)), "number 1 is answered already");
    assert_eq!(ask(4, Some(7), ANY), Err(PoolRefusal::NoFreeSlot));
    let starts = out.iter().filter(|one| matches!(one, Output::Slot { .. })).count();
    assert_eq!(starts, 2);
}

#[test]
fn a_bus_that_counts_anew_makes_no_order_stale() {
    let mut pool = Pool::new(8, None);
    let request = |id, term| PoolRequest { id, incarnation: 1, term: Some(term), order: apply(3) };
    for (id, term, expected) in
        [(1, 90, Ok(ccb(3))), (2, 1, Err(PoolRefusal::Stale)), (3, 1, Ok(ccb(3)))]
    {
        if id == 3 {
            pool.net.cut(1);
            pool.net.pass(100);
            pool.net.connect(1);
            pool.net.pass(100);
        }
        let now = pool.net.now;
        let blade = &mut pool.net.sites[1].world.blade;
        let answer = blade.pool_request(now, &"b1".into(), request(id, term), &mut Vec::new());
        assert!(matches!(answer, Answer::Pool(result) if result == expected), "{id}: {answer:?}");
    }
}

/// The agents of a pool that log in and out.
struct Crowd {
    logins: Vec<LoginKey>,
}

impl Crowd {
    fn log_in(&mut self, pool: &mut Pool, count: usize) {
        for _ in 0..count {
            let agent = 5_000 + self.logins.len() as u64;
            let granted = pool.net.granted(self.logins.len() % 2, agent, 1);
            self.logins.push(granted.login);
            pool.pass(100);
        }
    }

    fn log_out(&mut self, pool: &mut Pool) {
        for login in self.logins.drain(..) {
            for site in 0..2 {
                pool.net.give(site, Input::Logout { login, end: End::Exit });
            }
        }
    }
}

/// Line 5 without its processes: 4 CCBs are deployed and released by load alone, one at a time, by whoever leads.
#[test]
fn the_leader_alone_grows_and_shrinks_the_pool_of_all_blades() {
    for kills in [false, true] {
        let marks = Marks { hold_s: 2, high: 0.7, low: 0.3, ..Marks::default() };
        let mut pool = Pool::new(16, Some(marks));
        let mut crowd = Crowd { logins: Vec::new() };
        pool.pass(8_000);
        assert_eq!((pool.running(), pool.done.len()), (1, 0));
        crowd.log_in(&mut pool, 13);
        pool.pass(6_000);
        assert_eq!(pool.done, [(ccb(3), SlotOrder::Start)], "the blade with fewer is the first");
        crowd.log_in(&mut pool, 12);
        if kills {
            // A leader dies; the next one rebuilds from reports, and goes on where it stopped.
            let leader = pool.net.leaders()[0];
            let (now, incarnation) = (pool.net.now, pool.net.sites[leader].incarnation);
            let slots: Vec<_> = pool.net.sites[leader].world.blade.slots().collect();
            pool.net.kill(leader);
            pool.net.pass(100);
            pool.net.revive(leader);
            assert!(pool.net.sites[leader].incarnation > incarnation);
            pool.net.sites[leader].world.blade.pool(now, slots.clone(), Some(marks));
            for (slot, state) in slots {
                if let (SlotId::Ccb(ccb), SlotState::Free) = (slot, state) {
                    pool.net.give(leader, Input::Gone { ccb });
                }
            }
        }
        pool.pass(15_000);
        assert_eq!(pool.running(), 3, "{:?}", pool.done);
        crowd.log_in(&mut pool, 13);
        pool.pass(15_000);
        assert_eq!(pool.running(), 4, "{:?}", pool.done);
        pool.expect_agreement();
        crowd.log_out(&mut pool);
        pool.pass(30_000);
        assert_eq!(pool.running(), 1, "{:?}", pool.done);
        pool.expect_agreement();
        let starts = pool.done.iter().filter(|(_, order)| *order == SlotOrder::Start).count();
        assert_eq!((starts, pool.done.len()), (3, 6), "nothing swings: {:?}", pool.done);
        let scaled = pool.net.said.iter().filter_map(|(_, one)| match one {
            Output::Scaled { result, .. } => Some(*result),
            _ => None,
        });
        let scaled: Vec<_> = scaled.collect();
        assert!(scaled.len() == 6 && scaled.iter().all(Result::is_ok), "{scaled:?}");
    }
}

#[test]
fn an_agent_proxy_without_ccbs_places_logins_elsewhere_and_leads_nobody() {
    let mut net = Net::new(3, 8);
    let proxy = &mut net.sites[2];
    let now = net.now;
    proxy.world = World::with(now, Vec::new());
    let http = vec!["192.0.2.7:8090".parse().expect("an address")];
    proxy.world.blade.join(proxy.name.clone(), 2, Strategy::LeastAgents);
    proxy.world.blade.become_agent_proxy(7, http.clone());
    let slot = SlotId::AgentProxy(7);
    let host = &mut net.sites[0].world.blade;
    host.pool(now, [(slot, SlotState::Free)], None);
    net.connect(2);
    net.pass(3_000);
    assert!(net.sites[2].world.blade.serves());
    for agent in 0..4 {
        assert!(net.granted(2, 7_000 + agent, 1).ccb.0 <= 2, "the third has no CCB");
    }
    let view = net.sites[1].world.blade.pool_view(net.now);
    let [view] = view.as_slice() else { panic!("{view:?}") };
    assert_eq!((view.slot, view.state), (slot, Some(SlotState::Running)), "its host hears it");
    assert_eq!((view.blade.as_deref(), &view.http), (Some("b1"), &http));
    // It is given back and killed: its last report, which is heard a little longer, makes no slot run.
    net.give(0, Input::Pool { reply: 5, order: PoolOrder::Release { slot, within_s: None } });
    net.pass(1_200);
    net.give(0, Input::SlotStopped { slot });
    net.pass(1_200);
    assert_eq!(net.sites[0].world.blade.slots().next(), Some((slot, SlotState::Free)));
    net.pass(2_000);
    assert_eq!(net.sites[0].world.blade.slots().next(), Some((slot, SlotState::Running)));
    // Without the leader somebody else leads, but not the AgentProxy.
    let leader = net.leaders()[0];
    net.kill(leader);
    net.pass(3_000);
    assert_eq!(net.leaders(), [1 - leader]);
    net.kill(1 - leader);
    net.pass(3_000);
    assert_eq!(net.leaders(), [0; 0]);
    assert!(!net.sites[2].world.blade.serves());
}

/// Three blades, of which the third is an AgentProxy that starts now and has heard nobody.
fn fresh_agent_proxy() -> Net {
    let mut net = Net::new(3, 8);
    net.cut(2);
    net.pass(3_000);
    let (now, proxy) = (net.now, &mut net.sites[2]);
    proxy.world = World::with(now, Vec::new());
    proxy.world.blade.join(proxy.name.clone(), 2, Strategy::LeastAgents);
    proxy.world.blade.become_agent_proxy(7, Vec::new());
    net
}

#[test]
fn a_login_at_an_agent_proxy_that_starts_waits_until_it_hears_the_blades() {
    let mut net = fresh_agent_proxy();
    let replies: Vec<u64> = (1..=4).map(|agent| net.ask_login(2, agent, 1, false)).collect();
    net.pass(800);
    assert!(replies.iter().all(|reply| net.answer(*reply).is_none()), "it hears nobody yet");
    net.connect(2);
    // One that comes before the first report does.
    let last = net.ask_login(2, 5, 1, false);
    net.pass(1_200);
    for reply in replies.into_iter().chain([last]) {
        assert!(net.answer(reply).expect("it is answered").is_ok());
    }
}

#[test]
fn a_login_that_waits_in_vain_is_refused_in_time_and_only_so_many_wait() {
    let mut net = fresh_agent_proxy();
    let replies: Vec<u64> = (0..1_030).map(|agent| net.ask_login(2, agent, 1, false)).collect();
    let refused = |net: &mut Net, replies: &[u64]| {
        let answers: Vec<_> = replies.iter().filter_map(|reply| net.answer(*reply)).collect();
        assert!(answers.iter().all(|answer| *answer == Err(LoginRefusal::NoCcb)));
        answers.len()
    };
    assert_eq!(refused(&mut net, &replies), 6, "more than a thousand do not wait");
    net.pass(3_400);
    assert_eq!(refused(&mut net, &replies), 0);
    net.pass(300);
    assert_eq!(refused(&mut net, &replies), 1_024);
}

#[test]
fn a_login_outlasts_the_pause_of_the_only_blade_with_a_place() {
    for paused_ms in [1_600, 2_000, 2_500] {
        let mut net = fresh_agent_proxy();
        net.connect(2);
        net.pass(4_000);
        net.kill(0);
        net.pass(4_000);
        net.granted(2, 1, 1);
        net.sites[1].asleep_until = net.now + Duration::from_millis(paused_ms);
        net.pass(200);
        let (result, took_ms) = net.login(2, 2, 1, false);
        assert!(result.is_ok(), "{result:?} in {took_ms} ms, a pause of {paused_ms} ms");
    }
}
