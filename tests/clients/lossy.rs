//! Issue 4, line 5, with the real programs: phones on a network that loses, doubles, delays and reorders, whose people
//! call, hold, and give their calls away.
//!
//! The cable makes the weather (`cable.rs`). `LOSSY_CALLS=100` makes as many answered calls, `CABLE_SEED=n` another weather.
//! In `crowd` the phones are SIPp's and baresip's.

mod crowd;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base::Rng;
use serde_json::json;
use softphone::{Event, Order, Report};

use crate::cable::Cable;
use crate::demo::Demo;
use crate::lab::{Host, turn, wait_for};
use crate::phone::{Softphone, await_news};
use crate::weather::Climate;

const SBC: &str = "10.79.1.1";
const PHONES: &str = "10.79.1.2";
/// Agents; each has a second line.
const AGENTS: usize = 16;
/// Answered calls without `LOSSY_CALLS`.
const CALLS: u64 = 30;
const CLIMATE: Climate = Climate { lost_percent: 10, doubled_percent: 5, delay_ms: (100, 200) };
/// How long the people may take for a call of those wanted.
const A_CALL: Duration = Duration::from_secs(3);
/// RFC 3261, 17: no transaction lives longer than 64*T1, and a dialog that ends waits for one more.
const REST: Duration = Duration::from_secs(100);

/// Somebody with a phone.
struct Person {
    number: String,
    /// The phone, and its second line.
    phones: [Softphone; 2],
    /// When they do something again.
    next: Instant,
    held: bool,
    events: [Vec<Event>; 2],
}

impl Person {
    fn hear(&mut self) {
        for (phone, events) in self.phones.iter().zip(&mut self.events) {
            while let Some(event) = phone.next(Duration::ZERO) {
                events.push(event);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.phones.iter().any(Softphone::is_busy)
    }

    /// Does something about the calls of both lines.
    fn act(&mut self, rng: &mut Rng, others: &[String]) {
        let whom = others[rng.below(others.len() as u64) as usize].clone();
        let [phone, line] = &self.phones;
        let dialogs = [phone.dialog(), line.dialog()];
        match (dialogs, phone.is_busy(), line.is_busy(), rng.below(10)) {
            ([Some(_), Some(other)], .., 0..=6) => {
                phone.order(Order::Refer { to: whom, replaces: Some(other) });
            }
            ([Some(_), None], _, false, 0..=1) => {
                phone.order(Order::Refer { to: whom, replaces: None });
            }
            ([Some(_), None], _, false, 2..=4) => {
                phone.order(Order::Hold);
                self.held = true;
                line.order(Order::Call(whom));
            }
            (_, true, _, 5) => {
                phone.order(if self.held { Order::Resume } else { Order::Hold });
                self.held = !self.held;
            }
            (_, _, true, 6) => line.order(Order::HangUp),
            (_, true, _, 7..=8) => phone.order(Order::HangUp),
            (_, false, _, 0..=5) => {
                self.held = false;
                phone.order(Order::Call(whom));
            }
            _ => {}
        }
    }
}

/// Which weather it is.
fn seed() -> u64 {
    std::env::var("CABLE_SEED").map_or(7, |text| text.parse().expect("a number"))
}

fn people(sbc: &Host, floor: &Host) -> Vec<Person> {
    let ip: IpAddr = PHONES.parse().expect("an address");
    let person = |number: usize| {
        let number = (1_001 + number).to_string();
        let body = json!({"tenant": "demo", "agent": number, "password": format!("demo-{number}"), "location": "local"});
        let (status, login) = sbc.post(&format!("http://{SBC}:8080/v1/login"), &body);
        assert_eq!(status, 200, "{login}");
        let phones = [440, 620].map(|hz| Softphone::start_on(floor, &login, ip, hz));
        phones[0].order(Order::Register);
        let events = [Vec::new(), Vec::new()];
        Person { number, phones, next: Instant::now(), held: false, events }
    };
    let people: Vec<Person> = (0..AGENTS).map(person).collect();
    for person in &people {
        person.phones[0].expect(Duration::from_secs(60), "registered", |event| {
            matches!(event, Event::Registered { .. })
        });
    }
    people
}

/// They call each other until so many calls were answered; then everybody hangs up.
fn live(demo: &Demo, people: &mut [Person], calls: u64) {
    let mut rng = Rng::from_number(5);
    let numbers: Vec<String> = people.iter().map(|person| person.number.clone()).collect();
    let end = Instant::now() + A_CALL * u32::try_from(calls).expect("few");
    let mut look = Instant::now();
    let mut seen = 0;
    loop {
        let now = Instant::now();
        for person in people.iter_mut() {
            person.hear();
            if person.next <= now {
                person.act(&mut rng, &numbers);
                person.next = now + Duration::from_millis(500 + rng.below(2_000));
            }
        }
        if now > look {
            look = now + Duration::from_secs(1);
            if demo.counter("calls_answered") >= calls && demo.counter("transfers_completed") > 1 {
                break;
            }
        }
        assert!(now < end, "too little happens: {:#}", demo.status().unwrap_or_default());
        let due = people.iter().map(|person| person.next).chain([look, end]).min();
        await_news(&mut seen, due.unwrap_or(end));
    }
    let quiet = wait_for(REST, || {
        for person in people.iter_mut() {
            person.hear();
            for phone in person.phones.iter().filter(|phone| phone.is_busy()) {
                phone.order(Order::HangUp);
            }
        }
        // Who cannot hang up yet is told again.
        await_news(&mut seen, Instant::now() + Duration::from_millis(200));
        (!people.iter().any(Person::is_busy)).then_some(())
    });
    assert!(quiet.is_some(), "a phone is still in a call");
}

/// Every call ends on both sides, in a state that both know, nothing outlives its timers, and nobody is billed twice.
#[test]
fn calls_on_a_lossy_network_end_and_are_billed_once() {
    let _turn = turn();
    let wanted = std::env::var("LOSSY_CALLS").map_or(CALLS, |text| text.parse().expect("a number"));
    let (sbc, floor) = (Host::new("lsbc"), Host::new("lfloor"));
    let cable = Cable::between([(&sbc, SBC), (&floor, PHONES)], CLIMATE, seed());
    let agents = AGENTS.to_string();
    let flags = ["--bind", SBC, "--agents", &agents, "--media", "io_uring", "--cores", "2"];
    let mut demo = Demo::start(Some(&sbc), &flags);
    let mut people = people(&sbc, &floor);
    let before = demo.counter("sip_retransmitted");
    live(&demo, &mut people, wanted);
    demo.expect_all_free();
    let mut left = 0;
    let rested = wait_for(REST, || {
        left = demo.counter("transactions_now");
        (left == 0).then_some(())
    });
    assert!(rested.is_some(), "{left} transactions outlive their timers");
    assert!(demo.counter("sip_retransmitted") > before, "nothing was lost");

    let reports: Vec<Report> = people
        .into_iter()
        .flat_map(|mut person| {
            person.hear();
            let ends = person.events.map(|events| {
                events.iter().filter(|event| matches!(event, Event::Ended(_))).count() as u64
            });
            let reports = person.phones.map(Softphone::end);
            for (report, ended) in reports.iter().zip(ends) {
                // Each call that a phone knew has one end that it knows the reason of.
                let calls = report.placed + report.received;
                assert_eq!((report.ended, ended), (calls, calls), "{}: {report:?}", person.number);
            }
            reports
        })
        .collect();
    let heard: u64 = reports.iter().map(|report| report.rtp_received).sum();
    let lost: u64 = reports.iter().map(|report| report.rtp_lost).sum();
    assert!(heard > wanted * 20 && lost * 20 > heard, "{heard} heard and {lost} lost");
    check_records(&demo);
    let counters = ["calls_started", "calls_answered", "transfers_completed", "transfers_failed"];
    let counts = counters.map(|name| (name, demo.counter(name)));
    cable.traffic().ways.iter().for_each(|way| println!("{way}"));
    println!("{counts:?}, sip_retransmitted {}", demo.counter("sip_retransmitted"));
    demo.process.stop();
}

/// Each call has its lines, each leg one, and each line says how it ended.
fn check_records(demo: &Demo) {
    let mut calls = BTreeMap::new();
    let whole = wait_for(Duration::from_secs(20), || {
        calls.clear();
        for line in demo.records() {
            let serial = line["serial"].as_str().expect("a serial number").to_owned();
            let legs: &mut BTreeMap<u64, u32> = calls.entry(serial).or_default();
            *legs.entry(line["leg"].as_u64().expect("a leg")).or_default() += 1;
            let ended =
                line["ended"].is_string() && line["cause"].is_u64() && line["ended_by"].is_string();
            assert!(ended, "{line:#}");
        }
        (calls.len() as u64 == demo.counter("calls_started")).then_some(())
    });
    assert!(
        whole.is_some(),
        "{} of {} calls have records",
        calls.len(),
        demo.counter("calls_started")
    );
    for (serial, legs) in &calls {
        let is_whole =
            legs.values().all(|lines| *lines == 1) && legs.keys().copied().eq(0..legs.len() as u64);
        assert!(is_whole, "call {serial}: {legs:?}");
    }
}
