//! Supervision, conferences and what desks order of calls, within one blade and over three: who hears whom is told by
//! the tone that each phone sends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use softphone::{Event, Order};

use crate::desk::Desk;
use crate::lab::{turn, wait_for};
use crate::phone::Softphone;
use crate::site::{Site, phones};

/// Long enough for a phone that rings on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);

/// An agent with a phone and a desk.
struct Agent {
    number: usize,
    ccb: usize,
    tone: u32,
    phone: Softphone,
    desk: Desk,
}

/// So many agents of a site, the last of them a supervisor.
fn agents(site: &Site, count: usize) -> Vec<Agent> {
    let blades = site.blades.len();
    let agents = (1_001..).take(count).map(|number| {
        let login = site.log_in(number, number % blades + 1);
        let ccb = login["ccb"]["device_number"].as_u64().expect("a number") as usize;
        let tone = 400 + 150 * (number as u32 - 1_001);
        let phone = Softphone::start_on(&site.floor, &login, phones(), tone);
        phone.register();
        let desk = site.floor.enter(|| Desk::open(&login));
        desk.expect("AgentLoggedOn");
        Agent { number, ccb, tone, phone, desk }
    });
    agents.collect()
}

impl Agent {
    fn order(&self, order: Value) -> Value {
        self.desk.ask(order)
    }

    fn expect_ok(&self, order: Value) {
        let reply = self.order(order.clone());
        assert_eq!(reply["result"], "ok", "{}: {order}: {reply}", self.number);
    }

    /// The order is refused, and the rule says so.
    fn expect_refused(&self, order: Value, field: &str, rule: &str) {
        let reply = self.order(order.clone());
        let why = reply["rule"].as_str().unwrap_or_default();
        let is_it = reply["result"] == "refused" && reply["field"] == field && why.contains(rule);
        assert!(is_it, "{}: {order}: {reply}", self.number);
    }

    fn call(&self, other: &Agent) {
        self.phone.order(Order::Call(other.number.to_string()));
        self.phone.expect(LIMIT, "answered", |event| *event == Event::Answered);
        self.desk.expect("Established");
    }

    fn expect_held(&self, held: bool) {
        self.phone.expect(
            LIMIT,
            "hold",
            |event| matches!(event, Event::Held { by_peer, .. } if *by_peer == held),
        );
    }
}

/// Each of these hears these others and nobody else, now and after a while.
fn expect_heard(all: &[Agent], wanted: &[(usize, &[usize])]) {
    let tones: Vec<u32> = all.iter().map(|agent| agent.tone).collect();
    let number_of = |tone: u32| all.iter().find(|agent| agent.tone == tone).map(|it| it.number);
    let is = || -> BTreeMap<usize, BTreeSet<usize>> {
        let of = |number: &usize| all.iter().find(|agent| agent.number == *number).expect("one");
        let hears = |agent: &Agent| {
            agent.phone.hears(&tones).into_iter().filter_map(number_of).collect::<BTreeSet<_>>()
        };
        wanted.iter().map(|(number, _)| (*number, hears(of(number)))).collect()
    };
    let wanted: BTreeMap<usize, BTreeSet<usize>> =
        wanted.iter().map(|(who, whom)| (*who, whom.iter().copied().collect())).collect();
    let mut last = BTreeMap::new();
    let settled = wait_for(LIMIT, || {
        last = is();
        if last != wanted {
            return None;
        }
        // What was said before is out of every ear by then.
        std::thread::sleep(Duration::from_millis(300));
        last = is();
        (last == wanted).then_some(())
    });
    assert!(settled.is_some(), "heard {last:?}, not {wanted:?}");
}

/// Nothing was lost on its way to anybody, and everything is free again.
fn expect_whole(site: &Site, agents: Vec<Agent>) {
    site.expect_all_free();
    for agent in agents {
        let report = agent.phone.end();
        assert_eq!(report.rtp_lost, 0, "{}: {report:?}", agent.number);
        assert!(report.rtp_received > 20, "{}: {report:?}", agent.number);
    }
    for blade in &site.blades {
        let none = wait_for(LIMIT, || {
            let leases = blade.ask(&["leases"])?;
            leases["leases"].as_array()?.is_empty().then_some(())
        });
        assert!(none.is_some(), "{:#?}", blade.ask(&["leases"]));
    }
}

fn supervise(agent: &Agent, mode: &str) -> Value {
    json!({"v": 1, "type": "supervise", "agent": agent.number.to_string(), "mode": mode})
}

fn conference(what: &str, agent: &Agent) -> Value {
    json!({"v": 1, "type": format!("conference_{what}"), "to": agent.number.to_string()})
}

fn plain(what: &str) -> Value {
    json!({"v": 1, "type": what})
}

/// S1-010 and S2-020 within one blade: hold and retrieve of a desk, a supervisor in three ways, a conference.
#[test]
fn desks_of_one_blade_hold_listen_and_confer() {
    let _turn = turn();
    let site = Site::start(1, 4);
    let all = agents(&site, 4);
    let [one, two, three, boss] = &all[..] else { panic!("four agents") };
    one.call(two);
    expect_heard(&all, &[(1_001, &[1_002]), (1_002, &[1_001])]);
    // The called agent's desk holds the caller, who is told so, and takes the call back.
    two.desk.expect("Established");
    assert_eq!(two.desk.ask_for(plain("hold"), "Held")["result"], "ok");
    one.expect_held(true);
    two.expect_refused(plain("hold"), "call", "not held");
    expect_heard(&all, &[(1_001, &[]), (1_002, &[])]);
    assert_eq!(two.desk.ask_for(plain("retrieve"), "Retrieved")["result"], "ok");
    one.expect_held(false);
    expect_heard(&all, &[(1_001, &[1_002]), (1_002, &[1_001])]);
    // Who has no right to hears nothing.
    three.expect_refused(supervise(two, "monitor"), "type", "supervise");
    boss.expect_refused(supervise(three, "monitor"), "agent", "in a call");
    for (mode, caller, agent) in [
        ("monitor", &[1_002][..], &[1_001][..]),
        ("whisper", &[1_002], &[1_001, 1_004]),
        ("barge", &[1_002, 1_004], &[1_001, 1_004]),
        ("monitor", &[1_002], &[1_001]),
    ] {
        boss.expect_ok(supervise(two, mode));
        expect_heard(&all, &[(1_001, caller), (1_002, agent), (1_004, &[1_001, 1_002])]);
    }
    boss.expect_ok(plain("stop_supervising"));
    boss.phone.expect_end();
    expect_heard(&all, &[(1_001, &[1_002]), (1_002, &[1_001])]);
    // It ends with the call.
    boss.expect_ok(supervise(one, "monitor"));
    expect_heard(&all, &[(1_004, &[1_001, 1_002])]);
    one.phone.hang_up();
    two.phone.expect_end();
    boss.phone.expect_end();
    // A conference of the caller's.
    one.call(two);
    one.expect_ok(conference("add", three));
    one.expect_ok(conference("add", boss));
    expect_heard(
        &all,
        &[
            (1_001, &[1_002, 1_003, 1_004]),
            (1_002, &[1_001, 1_003, 1_004]),
            (1_003, &[1_001, 1_002, 1_004]),
            (1_004, &[1_001, 1_002, 1_003]),
        ],
    );
    one.expect_refused(conference("add", three), "to", "not called again");
    one.expect_refused(plain("hold"), "call", "conference");
    two.expect_refused(conference("drop", three), "call", "organises");
    one.expect_ok(conference("drop", two));
    two.phone.expect_end();
    three.phone.hang_up();
    expect_heard(&all, &[(1_001, &[1_004]), (1_004, &[1_001])]);
    one.phone.hang_up();
    boss.phone.expect_end();
    assert_eq!(site.blades[0].counter("calls_summoned"), 4);
    expect_whole(&site, all);
}

/// The lease of an agent as the blades name it.
fn lease_of(site: &Site, agent: &Agent) -> Vec<Value> {
    let leases = site.blades[agent.ccb - 1].ask(&["leases"]).unwrap_or_default();
    let rows = leases["leases"].as_array().cloned().unwrap_or_default();
    let number = agent.number.to_string();
    rows.into_iter()
        .filter(|row| row["number"] == number.as_str())
        .map(|row| row["fence"].clone())
        .collect()
}

/// S2-019 and S2-020: a conference of agents of three blades, hosted by the organiser's, one by one; a supervisor of a
/// third blade listens to an agent of the second who talks with one of the first.
#[test]
fn supervision_and_conferences_go_over_blades() {
    let _turn = turn();
    let site = Site::start(3, 6);
    let all = agents(&site, 6);
    let boss = &all[5];
    let others: Vec<usize> = (1..=3).filter(|ccb| *ccb != boss.ccb).collect();
    let at = |ccb: usize| all.iter().find(|agent| agent.ccb == ccb && agent.number != boss.number);
    let one = at(others[0]).expect("an agent of the first blade");
    let two = at(others[1]).expect("an agent of the second blade");
    let three = at(boss.ccb).expect("another agent of the supervisor's blade");
    let (a, b, c, s) = (one.number, two.number, three.number, boss.number);
    one.call(two);
    expect_heard(&all, &[(a, &[b]), (b, &[a])]);
    // The desk of the hosted agent holds: the blade that has the call does it.
    two.desk.expect("Established");
    two.expect_ok(plain("hold"));
    one.expect_held(true);
    expect_heard(&all, &[(a, &[]), (b, &[])]);
    two.expect_ok(plain("retrieve"));
    one.expect_held(false);
    expect_heard(&all, &[(a, &[b]), (b, &[a])]);
    let lease = lease_of(&site, two);
    assert_eq!(lease.len(), 1, "{lease:?}");
    for (mode, caller, agent) in [
        ("monitor", &[b][..], &[a][..]),
        ("whisper", &[b], &[a, s]),
        ("barge", &[b, s], &[a, s]),
        ("whisper", &[b], &[a, s]),
    ] {
        boss.expect_ok(supervise(two, mode));
        expect_heard(&all, &[(a, caller), (b, agent), (s, &[a, b])]);
    }
    assert_eq!(lease_of(&site, two), lease, "whom a supervisor hears keeps the lease");
    boss.expect_ok(plain("stop_supervising"));
    boss.phone.expect_end();
    expect_heard(&all, &[(a, &[b]), (b, &[a])]);
    // The call's end is the supervision's.
    boss.expect_ok(supervise(one, "barge"));
    expect_heard(&all, &[(a, &[b, s]), (b, &[a, s]), (s, &[a, b])]);
    two.phone.hang_up();
    one.phone.expect_end();
    boss.phone.expect_end();
    site.expect_all_free();
    // A conference of three blades, made by the hosted agent's desk, which is carried to the holder.
    one.call(two);
    two.desk.expect("Established");
    two.expect_ok(conference("add", three));
    expect_heard(&all, &[(a, &[b, c]), (b, &[a, c]), (c, &[a, b])]);
    // Somebody else's conference does not get who is held, and hears by whom.
    let idle: Vec<&Agent> =
        all.iter().filter(|agent| ![a, b, c, s].contains(&agent.number)).collect();
    idle[0].call(idle[1]);
    let [x, y] = [idle[0].number, idle[1].number];
    expect_heard(&all, &[(x, &[y]), (y, &[x])]);
    let held_by = format!("CCB {} has", one.ccb);
    idle[0].expect_refused(conference("add", three), "to", &held_by);
    idle[0].phone.hang_up();
    idle[1].phone.expect_end();
    // The supervisor hears the conference, too.
    boss.expect_ok(supervise(three, "monitor"));
    expect_heard(&all, &[(a, &[b, c]), (b, &[a, c]), (c, &[a, b]), (s, &[a, b, c])]);
    boss.phone.hang_up();
    one.phone.hang_up();
    expect_heard(&all, &[(b, &[c]), (c, &[b])]);
    two.phone.hang_up();
    three.phone.expect_end();
    expect_whole(&site, all);
}
