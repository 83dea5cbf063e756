//! Many blades: agents anywhere call each other, and whatever dies, the others go on (S1-050 to S1-085, S2, S3).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softphone::{Event, Order, Why};

use crate::lab::{turn, wait_for};
use crate::phone::Softphone;
use crate::site::{Site, phones};

/// How many blades.
const BLADES: usize = 4;
/// Long enough for a call that begins on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);

/// An agent who is logged in.
struct Agent {
    number: usize,
    ccb: usize,
    login: Value,
}

/// Logs agents in, each at another blade's AgentProxy in turn.
fn log_in(site: &Site, agents: usize) -> Vec<Agent> {
    let agents = (1001..).take(agents).map(|number| {
        let login = site.log_in(number, number % BLADES + 1);
        let ccb = login["ccb"]["device_number"].as_u64().expect("a number") as usize;
        Agent { number, ccb, login }
    });
    agents.collect()
}

fn by_ccb(agents: &[Agent]) -> BTreeMap<usize, Vec<&Agent>> {
    let mut by_ccb = BTreeMap::<usize, Vec<&Agent>>::new();
    for agent in agents {
        by_ccb.entry(agent.ccb).or_default().push(agent);
    }
    by_ccb
}

/// Every CCB has as many as every other one, give or take one.
fn expect_even(counts: &BTreeMap<usize, Vec<&Agent>>, ccbs: usize) {
    let sizes: Vec<usize> = counts.values().map(Vec::len).collect();
    let (least, most) = (sizes.iter().min(), sizes.iter().max());
    assert_eq!(sizes.len(), ccbs, "{sizes:?}");
    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{sizes:?}");
}

fn phone(site: &Site, agent: &Agent) -> Softphone {
    Softphone::start_on(&site.floor, &agent.login, phones(), 440)
}

/// Issue "Many blades", line 1: forty agents log in by HTTP only, are spread evenly, and call across every pair of
/// blades, RTP counted both ways; S2-001 to S2-018, S1-056.
#[test]
fn agents_of_four_blades_call_across_every_pair() {
    let _turn = turn();
    let site = Site::start(BLADES, 40);
    let agents = log_in(&site, 40);
    let placed = by_ccb(&agents);
    expect_even(&placed, BLADES);
    let mut calls = Vec::new();
    for from in 1..=BLADES {
        for to in 1..=BLADES {
            let (caller, callee) = (placed[&from][to - 1], placed[&to][BLADES + from - 1]);
            let pair = [phone(&site, caller), phone(&site, callee)];
            pair.iter().for_each(Softphone::register);
            calls.push((pair, callee.number.to_string()));
        }
    }
    for ([caller, callee], number) in &calls {
        caller.order(Order::Call(number.clone()));
        callee.expect(LIMIT, "a call", |event| matches!(event, Event::Incoming { .. }));
        caller.expect(LIMIT, "answered", |event| *event == Event::Answered);
    }
    let hosted: u64 = site.blades.iter().map(|blade| blade.counter("calls_hosted")).sum();
    assert_eq!(hosted, (BLADES * (BLADES - 1)) as u64, "one for each pair of two blades");
    // Held and retrieved over two blades.
    let ([caller, _], _) = &calls[1];
    for (order, is_held) in [(Order::Hold, true), (Order::Resume, false)] {
        caller.order(order);
        caller.expect(
            LIMIT,
            "hold",
            |event| matches!(event, Event::Held { by_us, .. } if *by_us == is_held),
        );
    }
    let talked = wait_for(Duration::from_secs(30), || {
        let enough = site.blades.iter().all(|blade| {
            let calls = blade.ask(&["calls"]).unwrap_or_default();
            let legs = calls["calls"].as_array().cloned().unwrap_or_default();
            let mut legs = legs.iter().flat_map(|call| call["legs"].as_array().cloned()).flatten();
            let many = |leg: &Value, way: &str| leg[way].as_u64() > Some(100);
            legs.all(|leg| many(&leg, "packets_in") && many(&leg, "packets_out"))
        });
        enough.then_some(())
    });
    assert!(talked.is_some(), "no RTP both ways");
    // Each side hangs up in turn.
    for (place, ([caller, callee], _)) in calls.iter().enumerate() {
        let (first, second) = if place % 2 == 0 { (caller, callee) } else { (callee, caller) };
        first.hang_up();
        second.expect_end();
    }
    site.expect_all_free();
    for (pair, number) in calls {
        for phone in pair {
            let heard = phone.end();
            assert!(heard.rtp_received > 100 && heard.rtp_lost == 0, "{number}: {heard:?}");
        }
    }
    site.expect_no_lease();
}

/// A blade whose control dies, and the bus, and then a whole blade: calls go on, the others work, agents come back.
#[test]
fn calls_over_blades_outlive_control_and_bus_and_agents_a_blade() {
    let _turn = turn();
    let mut site = Site::start(BLADES, 16);
    let agents = log_in(&site, 16);
    let placed = by_ccb(&agents);
    let names = |ccb: usize| placed[&ccb].iter().map(|agent| agent.number).collect::<Vec<_>>();
    let pick = |ccb: usize, place: usize| placed[&ccb][place];
    // A call over blades 1 and 2 that stands all the while.
    let [one, two] = [phone(&site, pick(1, 0)), phone(&site, pick(2, 0))];
    let [three, local] = [phone(&site, pick(1, 1)), phone(&site, pick(1, 2))];
    for phone in [&one, &two, &three, &local] {
        phone.register();
    }
    one.call(&names(2)[0].to_string());
    // Control of the home dies: the call goes on, and control finds the lease again.
    site.blades[1].kill_control();
    site.blades[1].start();
    site.expect_normal();
    let leases = site.blades[1].ask(&["leases"]).expect("it answers");
    assert_eq!(leases["leases"].as_array().map(Vec::len), Some(1), "{leases:#}");
    // Without the bus a blade works alone.
    site.kill_bus();
    let alone = wait_for(LIMIT, || {
        let status = site.blades[0].ask(&["status"])?;
        (status["bus"]["connected"] == false).then_some(())
    });
    assert!(alone.is_some(), "nobody noticed the loss of the bus");
    three.call(&names(1)[2].to_string());
    three.hang_up();
    local.expect_end();
    three.order(Order::Call(names(2)[1].to_string()));
    three.expect(LIMIT, "503", |event| matches!(event, Event::Ended(Why::Refused(503 | 480))));
    // It heals by itself.
    site.start_bus();
    site.expect_normal();
    let again = phone(&site, pick(2, 1));
    again.register();
    let healed = wait_for(LIMIT, || {
        three.order(Order::Call(names(2)[1].to_string()));
        let is_answered = std::cell::Cell::new(false);
        three.expect(LIMIT, "an answer", |event| match event {
            Event::Answered => {
                is_answered.set(true);
                true
            }
            Event::Ended(_) => true,
            _ => false,
        });
        is_answered.get().then_some(())
    });
    assert!(healed.is_some(), "blades do not find each other again");
    three.hang_up();
    again.expect_end();
    one.hang_up();
    two.expect_end();
    site.expect_all_free();
    // A blade goes for good: its agents come back with their tokens, spread over the others.
    let lost = placed[&BLADES].iter().map(|agent| (agent.number, agent.login["token"].clone()));
    let lost: Vec<(usize, Value)> = lost.collect();
    site.blades[BLADES - 1].kill();
    let begun = Instant::now();
    let mut counts = BTreeMap::<u64, usize>::new();
    for (number, token) in &lost {
        let back = wait_for(Duration::from_secs(20), || {
            let (status, answer) = site.try_log_in(*number, 1, json!({ "token": token }));
            assert!(status == 200 || status == 503, "{number}: {status} {answer}");
            let ccb = answer["ccb"]["device_number"].as_u64()?;
            (ccb != BLADES as u64).then_some(ccb)
        });
        let ccb = back.unwrap_or_else(|| panic!("agent {number} does not come back"));
        *counts.entry(ccb).or_default() += 1;
    }
    println!(
        "{} agents of a dead blade are back after {:?}: {counts:?}",
        lost.len(),
        begun.elapsed()
    );
    assert!(counts.values().all(|count| *count <= lost.len().div_ceil(BLADES - 1)), "{counts:?}");
}
