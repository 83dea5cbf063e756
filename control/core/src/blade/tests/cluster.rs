//! Several blades on a bus that delays, loses and cuts off.

use std::collections::BTreeMap;

use super::*;
use crate::cdm::Strategy;
use crate::cluster::hub::{Hub, Told};
use crate::cluster::{BladeName, Home, Key as BusKey, Question, REPORT_LIFE_MS, Say};

mod pool;

/// Blades `b1`, `b2` and so on, each with one CCB of that number, and what travels between them.
struct Net {
    now: Instant,
    hub: Hub,
    sites: Vec<Site>,
    /// What a blade says or hears, when, and in which order.
    under_way: BTreeMap<(Instant, u64), Travels>,
    sent: u64,
    delay_ms: (u64, u64),
    /// In a hundred questions, so many are lost on their way, and as many answers.
    loss: u64,
    rng: base::Rng,
    /// What came out that is not for the bus.
    said: Vec<(usize, Output)>,
    next_reply: u64,
}

struct Site {
    name: BladeName,
    world: World,
    /// It does nothing until then.
    asleep_until: Instant,
    incarnation: u64,
}

enum Travels {
    Say(BladeName, Say),
    Told(Told),
}

impl Net {
    fn new(blades: u16, agents: u32) -> Net {
        Net::with(blades, 1, agents)
    }

    /// The same with so many CCBs a blade, numbered on.
    fn with(blades: u16, ccbs: u16, agents: u32) -> Net {
        let now = Instant::from_nanos(1_000_000_000);
        let site = |number: u16| {
            let name: BladeName = format!("b{number}").into();
            let planes = (1..=ccbs).map(|ccb| (number - 1) * ccbs + ccb);
            let planes = planes.map(|ccb| Plane::with_agents(ccb, agents, now)).collect();
            let mut world = World::with(now, planes);
            world.blade.join(name.clone(), 1, Strategy::LeastAgents);
            Site { name, world, asleep_until: now, incarnation: 1 }
        };
        let mut net = Net {
            now,
            hub: Hub::default(),
            sites: (1..=blades).map(site).collect(),
            under_way: BTreeMap::new(),
            sent: 0,
            delay_ms: (1, 3),
            loss: 0,
            rng: base::Rng::from_number(1),
            said: Vec::new(),
            next_reply: 0,
        };
        for site in 0..net.sites.len() {
            net.connect(site);
        }
        net
    }

    /// Three blades of which one leads, and not only just.
    fn three(agents: u32) -> Net {
        let mut net = Net::new(3, agents);
        net.pass(1_000);
        assert_eq!(net.leaders().len(), 1);
        net
    }

    fn connect(&mut self, site: usize) {
        let name = self.sites[site].name.clone();
        let told = self.hub.join(self.now, &name);
        self.tell(told);
    }

    fn cut(&mut self, site: usize) {
        let name = self.sites[site].name.clone();
        let told = self.hub.leave(&name);
        self.tell(told);
    }

    /// Its control process dies without a word.
    fn kill(&mut self, site: usize) {
        let name = self.sites[site].name.clone();
        self.hub.leave(&name);
        self.sites[site].asleep_until = Instant::from_nanos(u64::MAX);
        let is_its = |travels: &Travels| match travels {
            Travels::Say(from, _) => *from == name,
            Travels::Told((to, _)) => *to == name,
        };
        self.under_way.retain(|_, travels| !is_its(travels));
    }

    /// Another control process of that blade finds its regions.
    fn revive(&mut self, site: usize) {
        let it = &mut self.sites[site];
        (it.asleep_until, it.world.now) = (self.now, self.now);
        it.incarnation += 1;
        let ids: Vec<CcbId> = it.world.planes.iter().map(|one| one.region.layout().ccb).collect();
        it.world.planes.iter().for_each(|plane| plane.beat(self.now));
        it.world.blade = Blade::new(self.now, Process::default(), &ids);
        it.world.blade.join(it.name.clone(), it.incarnation, Strategy::LeastAgents);
        self.give(site, Input::Provision(provision()));
        for plane in 0..self.sites[site].world.planes.len() {
            let region = self.sites[site].world.planes[plane].region.clone();
            self.give(site, Input::Attached { ccb: region.layout().ccb, region });
        }
        self.connect(site);
    }

    fn tell(&mut self, told: Vec<Told>) {
        for told in told {
            self.send(Travels::Told(told));
        }
    }

    /// What one blade says, or hears, keeps its order, as on one connection.
    fn send(&mut self, travels: Travels) {
        let (least, most) = self.delay_ms;
        let mut at = self.now + Duration::from_millis(least + self.rng.below(most - least + 1));
        let is_same = |other: &Travels| match (&travels, other) {
            (Travels::Say(one, _), Travels::Say(other, _)) => one == other,
            (Travels::Told((one, _)), Travels::Told((other, _))) => one == other,
            _ => false,
        };
        let last = self.under_way.iter().filter(|(_, other)| is_same(other)).map(|(at, _)| at.0);
        at = last.max().map_or(at, |last| at.max(last));
        self.sent += 1;
        self.under_way.insert((at, self.sent), travels);
    }

    fn give(&mut self, site: usize, input: Input) {
        let name = self.sites[site].name.clone();
        let world = &mut self.sites[site].world;
        world.now = self.now;
        for output in world.give(input) {
            match output {
                Output::Bus(say) => {
                    let is_talk = matches!(say, Say::Ask { .. } | Say::Reply { .. });
                    if is_talk && self.rng.chance(self.loss) {
                        // A lost question is one that nobody answers.
                        if let Say::Ask { ask, within_ms, .. } = say {
                            let at = self.now + Duration::from_millis(within_ms);
                            let heard = crate::cluster::Heard::Answered { ask, answer: None };
                            self.sent += 1;
                            let travels = Travels::Told((name.clone(), heard));
                            self.under_way.insert((at, self.sent), travels);
                        }
                        continue;
                    }
                    self.send(Travels::Say(name.clone(), say));
                }
                other => self.said.push((site, other)),
            }
        }
    }

    /// Lets time pass; what happens, happens in its order.
    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let travel = self.under_way.keys().next().map(|(at, _)| *at);
            let wakes = self.sites.iter().enumerate().map(|(place, site)| {
                (site.world.blade.deadline().max(site.asleep_until).max(self.now), place)
            });
            let wake = wakes.min().expect("there are blades");
            let next = travel.map_or(wake.0, |travel| travel.max(self.now).min(wake.0));
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            let told = self.hub.expire(self.now);
            self.tell(told);
            if travel.is_some_and(|travel| travel <= next) {
                self.travel();
            } else {
                let site = &self.sites[wake.1];
                site.world.planes.iter().for_each(|plane| plane.beat(self.now));
                self.give(wake.1, Input::Timeout);
            }
        }
    }

    fn travel(&mut self) {
        let Some((_, travels)) = self.under_way.pop_first() else { return };
        match travels {
            Travels::Say(from, say) => {
                let told = self.hub.say(self.now, &from, say);
                self.tell(told);
            }
            Travels::Told((to, heard)) => {
                let Some(site) = self.sites.iter().position(|site| site.name == to) else { return };
                let until = self.sites[site].asleep_until;
                if until > self.now {
                    self.wait_for(&to, heard, until);
                    return;
                }
                self.sites[site].world.planes.iter().for_each(|plane| plane.beat(self.now));
                self.give(site, Input::Bus(heard));
            }
        }
    }

    /// What that blade is told waits until it is awake, in its order.
    fn wait_for(&mut self, to: &BladeName, first: crate::cluster::Heard, until: Instant) {
        let is_its = |travels: &Travels| matches!(travels, Travels::Told((name, _)) if name == to);
        let places = self.under_way.iter().filter(|(_, travels)| is_its(travels));
        let places: Vec<_> = places.map(|(place, _)| *place).collect();
        let later = places.into_iter().filter_map(|place| self.under_way.remove(&place));
        let mut all = vec![Travels::Told((to.clone(), first))];
        all.extend(later);
        for travels in all {
            self.sent += 1;
            self.under_way.insert((until, self.sent), travels);
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let is_awake = |site: &Site| site.asleep_until <= self.now;
        let leads = |site: &Site| {
            let view = site.world.blade.cluster(self.now).expect("it joined");
            is_awake(site) && view.term.is_some()
        };
        (0..self.sites.len()).filter(|place| leads(&self.sites[*place])).collect()
    }

    /// An HTTP login at that blade. Its answer comes later.
    fn ask_login(&mut self, site: usize, agent: u64, epoch: u32, force: bool) -> u64 {
        self.next_reply += 1;
        let reply = self.next_reply;
        let planes = self.sites.iter().map(|site| site.world.planes.len() as u16).sum();
        let eligible = (1..=planes).map(CcbId).collect();
        let request = Box::new(LoginRequest { eligible, ..request(agent, epoch, force) });
        self.give(site, Input::Login { reply, request });
        reply
    }

    fn answer(&mut self, want: u64) -> Option<Result<Granted, LoginRefusal>> {
        let is_it = |(_, one): &(usize, Output)| matches!(one, Output::Login { reply, .. } if *reply == want);
        let place = self.said.iter().position(is_it)?;
        match self.said.remove(place).1 {
            Output::Login { result, .. } => Some(result),
            _ => None,
        }
    }

    /// A login and its answer, and how long it took.
    fn login(
        &mut self,
        site: usize,
        agent: u64,
        epoch: u32,
        force: bool,
    ) -> (Result<Granted, LoginRefusal>, u64) {
        let (reply, since) = (self.ask_login(site, agent, epoch, force), self.now);
        loop {
            if let Some(answer) = self.answer(reply) {
                return (answer, self.now.since(since).as_millis() as u64);
            }
            assert!(self.now.since(since).as_secs() < 5, "each login is answered");
            self.pass(1);
        }
    }

    fn granted(&mut self, site: usize, agent: u64, epoch: u32) -> Granted {
        self.login(site, agent, epoch, false).0.expect("it is granted")
    }

    /// Which blades have a login of that agent, and its epoch.
    fn logins(&self, agent: u64) -> Vec<(usize, u32)> {
        let sites = self.sites.iter().enumerate();
        let logins = sites.filter_map(|(place, site)| {
            site.world.blade.login_of(TENANT, agent).map(|login| (place, login.epoch))
        });
        logins.collect()
    }

    fn loads(&self) -> Vec<usize> {
        self.sites.iter().map(|site| site.world.blade.logins().count()).collect()
    }

    /// What every blade that is there sees as the agent's home.
    fn homes(&self, agent: u64) -> Vec<Option<Home>> {
        let awake = self.sites.iter().filter(|site| site.asleep_until <= self.now);
        let key = (TENANT, agent.to_string());
        let homes = awake.map(|site| {
            site.world.blade.cluster.as_ref().expect("it joined").homes.get(&key).cloned()
        });
        homes.collect()
    }
}

fn home(blade: u16, agent: u64, epoch: u32) -> Home {
    Home { blade: format!("b{blade}").into(), ccb: CcbId(blade), agent, epoch, turn: 0 }
}

#[test]
fn logins_at_any_blade_spread_evenly_over_all() {
    let mut net = Net::three(40);
    // A storm: nobody waits for anybody's answer.
    let replies: Vec<u64> =
        (0..60).map(|agent| net.ask_login(agent as usize % 3, agent, 1, false)).collect();
    net.pass(100);
    for reply in replies {
        assert!(net.answer(reply).expect("it is answered").is_ok());
    }
    let loads = net.loads();
    assert_eq!(loads.iter().sum::<usize>(), 60);
    assert_eq!(loads, [20; 3]);
    // Another one leads, which does not know at once what was granted: it picks the better of two at random.
    let leader = net.leaders()[0];
    net.cut(leader);
    net.pass(2_500);
    net.connect(leader);
    net.pass(1_000);
    assert_ne!(net.leaders(), [leader]);
    for agent in 60..84 {
        net.granted(agent as usize % 3, agent, 1);
    }
    let loads = net.loads();
    assert!(loads.iter().all(|load| (25..=31).contains(load)), "{loads:?}");
    net.pass(31_000);
    for agent in 84..108 {
        net.granted(agent as usize % 3, agent, 1);
    }
    let loads = net.loads();
    assert!(
        loads.iter().max().expect("three") - loads.iter().min().expect("three") <= 1,
        "{loads:?}"
    );
}

#[test]
fn a_leader_that_dies_is_followed_within_two_seconds_and_logins_go_on() {
    let mut net = Net::three(40);
    let dead = net.leaders()[0];
    net.kill(dead);
    let died_at = net.now;
    let mut led_at = None;
    for agent in 0..30 {
        let site = (dead + 1 + agent as usize % 2) % 3;
        let (result, took_ms) = net.login(site, agent, 1, false);
        let ccb = result.expect("somebody takes it").ccb;
        assert_ne!(usize::from(ccb.0), dead + 1, "a dead blade's CCB is given to nobody");
        assert!(took_ms < 2_000, "it took {took_ms} ms");
        net.pass(100);
        assert!(net.leaders().len() <= 1);
        led_at = led_at.or_else(|| (!net.leaders().is_empty()).then_some(net.now));
    }
    let took = led_at.expect("another one leads").since(died_at).as_millis();
    assert!(took <= 2_000, "it took {took} ms");
}

#[test]
fn an_older_login_elsewhere_goes_first_unless_it_is_in_a_call() {
    let mut net = Net::three(8);
    let older = net.granted(0, 5, 1);
    let at = usize::from(older.ccb.0) - 1;
    net.pass(10);
    assert_eq!(net.homes(5), vec![Some(home(older.ccb.0, 5, 1)); 3]);
    // The agent talks: its word is bound.
    let slot = net.sites[at].world.slot(older.login);
    let region = net.sites[at].world.planes[0].region.clone();
    let won = region.leases().reserve(slot, Medium::Voice, CcbId(9), abi::Purpose::Call, net.now);
    let counter = won.expect("it is free");
    assert!(region.leases().bind(slot, Medium::Voice, CcbId(9), counter));
    // Fill its CCB, so that the next place is another one.
    net.sites[at].world.planes[0].region.header().set_data_plane_state(DataPlaneState::Draining);
    net.pass(700);
    for site in 0..3 {
        let refused = net.login(site, 5, 2 + site as u32, false).0;
        assert_eq!(refused, Err(LoginRefusal::InCall), "asked at {site}");
    }
    assert_eq!(net.logins(5), [(at, 1)]);
    let forced = net.login((at + 1) % 3, 5, 9, true).0.expect("it is forced");
    assert_ne!(forced.ccb, older.ccb);
    net.pass(20);
    assert_eq!(net.logins(5), [(usize::from(forced.ccb.0) - 1, 9)]);
    assert_eq!(net.homes(5), vec![Some(home(forced.ccb.0, 5, 9)); 3]);
    let ended = |(site, one): &(usize, Output)| {
        *site == at
            && matches!(one, Output::Ended { login, end: End::Replaced } if *login == older.login)
    };
    assert!(net.said.iter().any(ended));
}

#[test]
fn without_the_bus_each_works_alone_and_what_is_double_is_mended_when_it_is_back() {
    let mut net = Net::three(8);
    (0..3).for_each(|site| net.cut(site));
    net.pass(10);
    assert!(net.leaders().is_empty());
    for site in 0..3 {
        let granted = net.granted(site, 7, 1 + site as u32);
        assert_eq!(usize::from(granted.ccb.0), site + 1, "it is its own CCB");
    }
    assert_eq!(net.logins(7).len(), 3);
    // The store is lost, too.
    net.hub.lose_all();
    (0..3).for_each(|site| net.connect(site));
    net.pass(1_000);
    assert_eq!(net.logins(7), [(2, 3)], "the newest login stands");
    assert_eq!(net.homes(7), vec![Some(home(3, 7, 3)); 3]);
    assert_eq!(net.leaders().len(), 1);
}

#[test]
fn a_store_that_is_lost_is_filled_again() {
    let mut net = Net::three(400);
    for agent in 0..200 {
        net.granted(agent as usize % 3, agent, 1);
    }
    (0..3).for_each(|site| net.cut(site));
    net.hub.lose_all();
    (0..3).for_each(|site| net.connect(site));
    net.pass(500);
    let all = net.hub.join(net.now, &"late".into());
    let is_home = |told: &&Told| {
        matches!(&told.1, crate::cluster::Heard::Fact { key: BusKey::Number(..), fact: Some(_) })
    };
    assert_eq!(all.iter().filter(is_home).count(), 200);
}

#[test]
fn a_leader_that_was_paused_does_no_harm() {
    for paused_ms in [1_200, 1_600, 3_000] {
        let mut net = Net::three(40);
        let leader = net.leaders()[0];
        net.sites[leader].asleep_until = net.now + Duration::from_millis(paused_ms);
        let other = (leader + 1) % 3;
        let mut granted = 0;
        for agent in 0..paused_ms / 100 {
            granted += u64::from(net.login(other, agent, 1, false).0.is_ok());
            net.pass(1);
        }
        assert!(granted > 0);
        // It wakes; a login waits at it, and one comes at once.
        net.pass(paused_ms);
        let (result, _) = net.login(leader, 500, 1, false);
        assert!(result.is_ok() || result == Err(LoginRefusal::NoCcb), "{result:?}");
        for _ in 0..40 {
            net.pass(50);
            assert!(net.leaders().len() <= 1, "after {paused_ms} ms");
        }
        assert_eq!(net.leaders().len(), 1);
        for agent in 0..=paused_ms / 100 {
            assert!(net.logins(agent).len() <= 1, "agent {agent} after {paused_ms} ms");
        }
        net.login(leader, 501, 1, false).0.expect("it serves again");
    }
}

#[test]
fn a_blade_that_was_paused_grants_nothing_until_it_is_heard() {
    let mut net = Net::three(8);
    net.sites[1].asleep_until = net.now + Duration::from_millis(3_000);
    net.pass(2_990);
    net.now = net.now + Duration::from_millis(10);
    // The very first that it takes is a question, before its report is back.
    let question =
        Question::Login { ccb: CcbId(2), request: Box::new(request(3, 1, false)), turn: 0 };
    let heard =
        crate::cluster::Heard::Asked { reply: 77, from: "b1".into(), question: Box::new(question) };
    net.sites[1].world.now = net.now;
    let out = net.sites[1].world.give(Input::Bus(heard));
    let says_no = |one: &Output| {
        let Output::Bus(Say::Reply { reply: 77, answer }) = one else { return false };
        matches!(**answer, crate::cluster::Answer::NotHere)
    };
    assert!(out.iter().any(says_no));
    assert!(
        out.iter().any(|one| matches!(one, Output::Paused { paused_ms } if *paused_ms >= 3_000))
    );
    assert!(net.logins(3).is_empty());
}

#[test]
fn a_blade_that_comes_back_takes_its_homes_up_and_drops_what_is_not_there() {
    let mut net = Net::three(8);
    let granted: Vec<Granted> = (0..9).map(|agent| net.granted(0, agent, 1)).collect();
    let at_two: Vec<&Granted> = granted.iter().filter(|one| one.ccb == CcbId(2)).collect();
    assert!(at_two.len() >= 2);
    net.kill(1);
    net.pass(REPORT_LIFE_MS + 100);
    // One of its agents is back at another blade meanwhile; the home that the dead blade had is no hindrance.
    let moved = at_two[0].login.agent;
    let knows = |net: &Net, epoch| {
        let login = LoginKey { epoch, ..at_two[0].login };
        net.sites[0].world.blade.knows(login, &moved.to_string())
    };
    assert!(knows(&net, 1), "the token of a login of a dead blade is good");
    let again = net.granted(0, moved, 2);
    assert_ne!(again.ccb, CcbId(2));
    net.pass(10);
    assert!(knows(&net, 2) && !knows(&net, 1));
    // And one whose row is gone.
    let lost = at_two[1].login.agent;
    let plane = &net.sites[1].world.planes[0];
    let slot =
        plane.region.agents().find_number(TENANT, lost.to_string().as_bytes()).expect("a row").0;
    plane.region.agents().write(slot, &abi::AgentRow::default());
    net.revive(1);
    net.pass(2_500);
    assert_eq!(net.logins(moved), [(usize::from(again.ccb.0) - 1, 2)]);
    assert_eq!(net.homes(moved), vec![Some(home(again.ccb.0, moved, 2)); 3]);
    assert_eq!(net.homes(lost), vec![None; 3]);
    for one in &at_two[2..] {
        assert_eq!(net.homes(one.login.agent), vec![Some(home(2, one.login.agent, 1)); 3]);
    }
}

#[test]
fn a_logout_and_a_desk_find_the_blade_of_the_login() {
    let mut net = Net::three(8);
    let granted = net.granted(0, 5, 1);
    let at = usize::from(granted.ccb.0) - 1;
    let other = (at + 1) % 3;
    net.pass(10);
    net.give(other, Input::DeskAttached { socket: 1, login: granted.login });
    let is_closed = |reason| {
        move |(site, one): &(usize, Output)| {
            *site == other
                && matches!(one, Output::DeskClosed { reason: why, .. } if *why == reason)
        }
    };
    assert!(net.said.iter().any(is_closed(CloseReason::Elsewhere)));
    for (reply, expected) in [(1, true), (2, false)] {
        net.give(other, Input::Leave { reply, login: granted.login, end: End::Exit });
        net.pass(20);
        let stood = net.said.iter().find_map(|(_, one)| match one {
            Output::Left { reply: this, stood } if *this == reply => Some(*stood),
            _ => None,
        });
        assert_eq!(stood, Some(expected));
    }
    assert!(net.logins(5).is_empty());
    assert_eq!(net.homes(5), vec![None; 3]);
    net.give(other, Input::DeskAttached { socket: 2, login: granted.login });
    assert!(net.said.iter().any(is_closed(CloseReason::NoLogin)));
}

#[test]
fn who_asked_for_a_login_knows_its_home_before_the_bus_tells_it() {
    let mut net = Net::three(8);
    let name = net.sites[0].name.clone();
    let is_home = |travels: &Travels| match travels {
        Travels::Told((to, crate::cluster::Heard::Fact { key, .. })) => {
            *to == name && matches!(key, BusKey::Number(..))
        }
        _ => false,
    };
    let mut elsewhere = 0;
    for agent in 1..=6 {
        let reply = net.ask_login(0, agent, 1, false);
        let granted = loop {
            net.under_way.retain(|_, travels| !is_home(travels));
            if let Some(answer) = net.answer(reply) {
                break answer.expect("it is granted");
            }
            net.pass(1);
        };
        elsewhere += usize::from(granted.ccb != CcbId(1));
        let blade = &net.sites[0].world.blade;
        assert!(blade.knows(granted.login, &agent.to_string()), "{granted:?}");
    }
    assert!(elsewhere > 2);
    // What the bus says of an earlier login comes too late, and what it says of this one or a later one stands.
    let agent = (1..=6).find(|agent| net.logins(*agent)[0].0 != 0).expect("one is elsewhere");
    let mut hear = |epoch: Option<u32>| {
        let key = BusKey::Number(TENANT, agent.to_string());
        let fact = epoch.map(|epoch| crate::cluster::Fact::Home(home(3, agent, epoch)));
        net.give(0, Input::Bus(crate::cluster::Heard::Fact { key, fact }));
        let knows = |epoch| {
            let login = LoginKey { tenant: TENANT, agent, epoch };
            net.sites[0].world.blade.knows(login, &agent.to_string())
        };
        (0..4).filter(|epoch| knows(*epoch)).collect::<Vec<u32>>()
    };
    assert_eq!(hear(None), [1]);
    assert_eq!(hear(Some(0)), [1]);
    assert_eq!(hear(Some(1)), [1]);
    assert_eq!(hear(Some(2)), [2]);
    assert_eq!(hear(Some(1)), [2], "the word of another blade was slower");
    assert!(hear(None).is_empty());
}

#[test]
fn a_login_that_moves_away_leaves_no_gap_in_its_home() {
    let mut net = Net::three(64);
    let name = net.sites[0].name.clone();
    let is_home = |travels: &Travels| match travels {
        Travels::Told((to, crate::cluster::Heard::Fact { key, .. })) => {
            *to == name && matches!(key, BusKey::Number(..))
        }
        _ => false,
    };
    let is_taken_away = |travels: &Travels| match travels {
        Travels::Say(from, Say::Put { key: BusKey::Number(..), fact: None }) => *from == name,
        _ => false,
    };
    let mut moved = 0;
    let mut last = BTreeMap::new();
    for epoch in 1..=8 {
        for agent in 1..=6 {
            let reply = net.ask_login(0, agent, epoch, false);
            let granted = loop {
                // The answer overtakes what the bus tells all.
                net.under_way.retain(|_, travels| !is_home(travels));
                if let Some(answer) = net.answer(reply) {
                    break answer.expect("it is granted");
                }
                net.pass(1);
            };
            let before = last.insert(agent, granted.ccb);
            if before == Some(CcbId(1)) && granted.ccb != CcbId(1) {
                moved += 1;
                let taken = net.under_way.values().any(is_taken_away);
                assert!(!taken, "agent {agent}'s home is taken away");
            }
        }
    }
    assert!(moved > 0);
}

#[test]
fn a_stop_in_order_hands_the_leadership_over_at_once() {
    let mut net = Net::three(8);
    let leader = net.leaders()[0];
    net.give(leader, Input::Farewell);
    net.pass(100);
    let is = net.leaders();
    assert!(is.len() == 1 && is[0] != leader, "{is:?}");
    let (result, took_ms) = net.login(is[0], 5, 1, false);
    assert_ne!(usize::from(result.expect("it is granted").ccb.0) - 1, leader);
    assert!(took_ms < 100);
}

/// Whatever is lost, cut, killed and paused: in the end each agent has one login at most, all see it, one leads.
#[test]
fn whatever_happens_each_agent_ends_with_one_login_that_all_see() {
    for seed in 0..256 {
        let mut net = Net::three(16);
        net.rng = base::Rng::from_number(seed);
        net.delay_ms = (1, 1 + net.rng.below(200));
        net.loss = net.rng.below(20);
        let mut epochs = [0_u32; 8];
        let mut is_cut = [false; 3];
        for _ in 0..60 {
            let site = net.rng.below(3) as usize;
            match net.rng.below(12) {
                0 if net.sites[site].asleep_until <= net.now => {
                    let pause = Duration::from_millis(net.rng.below(4_000));
                    net.sites[site].asleep_until = net.now + pause;
                }
                1 if !is_cut[site] => {
                    is_cut[site] = true;
                    net.cut(site);
                }
                2 if is_cut[site] => {
                    is_cut[site] = false;
                    net.connect(site);
                }
                3 if net.sites[site].asleep_until <= net.now => {
                    net.kill(site);
                    net.revive(site);
                    is_cut[site] = false;
                }
                _ if net.sites[site].asleep_until <= net.now => {
                    let agent = net.rng.below(8);
                    epochs[agent as usize] += 1;
                    let force = net.rng.chance(50);
                    net.ask_login(site, agent, epochs[agent as usize], force);
                }
                _ => {}
            }
            let pause = net.rng.below(600);
            net.pass(pause);
            assert!(net.leaders().len() <= 1, "seed {seed}");
        }
        net.loss = 0;
        for (site, is_cut) in is_cut.iter().enumerate() {
            net.sites[site].asleep_until = net.sites[site].asleep_until.min(net.now);
            if *is_cut {
                net.connect(site);
            }
        }
        net.pass(8_000);
        assert_eq!(net.leaders().len(), 1, "seed {seed}");
        for agent in 0..8 {
            let logins = net.logins(agent);
            assert!(logins.len() <= 1, "seed {seed}: agent {agent} at {logins:?}");
            let expected =
                logins.first().map(|(site, epoch)| home(*site as u16 + 1, agent, *epoch));
            let mut homes = net.homes(agent);
            homes.iter_mut().flatten().for_each(|home| home.turn = 0);
            assert_eq!(homes, vec![expected; 3], "seed {seed}: agent {agent}");
        }
    }
}

#[test]
fn logins_spread_evenly_when_the_leader_and_its_ccb_die() {
    for seed in 0..20 {
        let mut net = Net::new(3, 400);
        net.rng = base::Rng::from_number(seed);
        net.pass(1_000);
        let leader = net.leaders()[0];
        net.kill(leader);
        // A storm at the two others, before anybody notices: who asks the dead one hears nothing, at once.
        let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
        let replies: Vec<u64> = (0..300)
            .map(|agent| net.ask_login(others[agent as usize % 2], agent, 1, false))
            .collect();
        net.pass(4_500);
        for reply in replies {
            assert!(net.answer(reply).expect("it is answered").is_ok());
        }
        let loads = net.loads();
        let loads: Vec<usize> = others.iter().map(|place| loads[*place]).collect();
        assert!(loads.iter().all(|load| load.abs_diff(150) <= 4), "{seed}: {loads:?}");
    }
}
