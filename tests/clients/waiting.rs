//! Call waiting: a second caller rings an agent's phone, which answers and swaps between the two.

use std::time::Duration;

use serde_json::Value;

use crate::baresip::Baresip;
use crate::demo::Demo;
use crate::desk::Desk;
use crate::lab::{Host, signal, turn, wait_for};
use crate::transfer::{Station, tool};

const SBC: &str = "10.81.1.1";
const LIMIT: Duration = Duration::from_secs(20);

/// What each leg of the call with `number` has had: its number, packets in and out.
fn counts(demo: &Demo, number: &str) -> Option<Vec<(String, u64, u64)>> {
    let calls = demo.ask("calls")?;
    let legs = calls["calls"].as_array()?.iter().filter_map(|call| call["legs"].as_array());
    let count = |leg: &Value, way: &str| leg[way].as_u64().unwrap_or(0);
    let mut legs: Vec<(String, u64, u64)> = legs
        .filter(|legs| legs.iter().any(|leg| leg["number"] == number))
        .flatten()
        .map(|leg| {
            let name = leg["number"].as_str().unwrap_or_default().to_owned();
            (name, count(leg, "packets_in"), count(leg, "packets_out"))
        })
        .collect();
    legs.sort();
    (legs.len() == 2).then_some(legs)
}

/// Waits until `packets` more have come and gone on both legs of the call with `number`, and sees that 1002 hears
/// nothing more of the call with `held`.
fn talks(demo: &Demo, number: &str, packets: u64, held: Option<&str>) {
    let heard = |number: &str| Some(counts(demo, number)?.iter().find(|leg| leg.0 == "1002")?.2);
    let (mut before, mut quiet) = (None, None);
    let talked = wait_for(LIMIT, || {
        let now = counts(demo, number)?;
        if before.is_none() {
            quiet = held.and_then(heard);
        }
        let before = before.get_or_insert_with(|| now.clone());
        let is_more = |(now, then): (&(String, u64, u64), &(String, u64, u64))| {
            now.1 > then.1 + packets && now.2 > then.2 + packets
        };
        now.iter().zip(before.iter()).all(is_more).then_some(())
    });
    assert!(talked.is_some(), "{number} does not talk to 1002: {:#?}", demo.ask("calls"));
    if let Some(held) = held {
        let (then, now) = (quiet.expect("counted"), heard(held).expect("it stands"));
        assert!(now <= then + 5, "1002 hears {held}, who is held: {then} {now}");
    }
}

/// The agent may be in two calls at the same time.
fn allow_two(demo: &Demo, agent: &str) {
    let file = demo.folder().join("directory.toml");
    let path = file.to_str().expect("a path");
    tool(demo, &["directory", "export", "--with-secrets", "-o", path]);
    let text = std::fs::read_to_string(&file).expect("written");
    let line = format!("number = \"{agent}\"\n");
    assert!(text.contains(&line), "{text}");
    let text = text.replacen(&line, &format!("{line}incoming_limit = 2\n"), 1);
    std::fs::write(&file, text).expect("written");
    tool(demo, &["directory", "import", path]);
}

/// The next message of that type that a desk gets; its call's serial number.
fn told(desk: &Desk, kind: &str) -> String {
    let message = desk.expect(kind);
    message["call"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
}

/// 1001 talks to 1002, 1003 rings 1002, who answers while control is dead, swaps and swaps back; then both callers hang
/// up. A fourth hears that 1002 is busy. Packets are counted both ways.
#[test]
fn a_second_caller_waits_and_is_answered_while_control_is_dead() {
    let _turn = turn();
    let sbc = Host::new("wsbc");
    let places = [("weast", "10.81.1.2"), ("wwest", "10.81.2.2"), ("wnorth", "10.81.3.2")];
    let [mut east, mut west, mut north] = places.map(|(name, ip)| Station::new(name, ip));
    let mut south = Station::new("wsouth", "10.81.4.2");
    sbc.connect(SBC, &east.host, east.ip);
    sbc.connect("10.81.2.1", &west.host, west.ip);
    sbc.connect("10.81.3.1", &north.host, north.ip);
    sbc.connect("10.81.4.1", &south.host, south.ip);
    let mut flags = vec!["--bind", SBC, "--location", "west=10.81.2.1"];
    flags.extend(["--location", "north=10.81.3.1", "--location", "south=10.81.4.1"]);
    let mut demo = Demo::start(Some(&sbc), &flags);
    allow_two(&demo, "1002");
    east.start("1001", SBC, "local", 440, &demo);
    north.start("1003", "10.81.3.1", "north", 1_000, &demo);
    south.start("1004", "10.81.4.1", "south", 1_300, &demo);
    let login = west.log_in("1002", "10.81.2.1", "west");
    assert_eq!(login["agent"]["incoming_limit"], 2, "{login}");
    let desk = west.host.enter(|| Desk::open(&login));
    let mut phone = Baresip::start(&west.host, west.ip, &login, 700, None, demo.folder());
    phone.expect(LIMIT, "200 OK");
    west.phone = Some(phone);

    east.tell("dial", &format!("sip:1002@{SBC}"));
    talks(&demo, "1001", 50, None);
    let first = told(&desk, "Established");
    // From here on its user answers.
    west.tell("answermode", "manual");
    north.tell("dial", "sip:1002@10.81.3.1");
    let second = told(&desk, "Delivered");
    assert_ne!(first, second);
    north.phone.as_mut().expect("it runs").expect(LIMIT, "180 Ringing");
    assert_eq!(demo.counter("calls_waiting"), 1);
    south.tell("dial", "sip:1002@10.81.4.1");
    south.phone.as_mut().expect("it runs").expect(LIMIT, "486 Busy Here");
    talks(&demo, "1001", 20, None);

    // The phone holds the first call itself when it answers the second.
    let pid = demo.status().expect("status")["pid"].as_u64().expect("a pid") as u32;
    signal(pid, rustix::process::Signal::KILL);
    west.tell("accept", "");
    let answered = north.phone.as_mut().expect("it runs");
    answered.expect(LIMIT, "Call established");
    demo.expect_normal();
    talks(&demo, "1003", 50, Some("1001"));
    let state = |number: &str| {
        let agents = demo.ask("agents").expect("agents");
        let rows = agents["agents"].as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["number"] == number).expect("it is there")
    };
    assert_eq!(state("1002")["seat"], "talking", "{}", state("1002"));
    // There and back.
    west.tell("hold", "");
    west.tell("line", "1");
    west.tell("resume", "");
    talks(&demo, "1001", 50, Some("1003"));
    west.tell("hold", "");
    west.tell("line", "2");
    west.tell("resume", "");
    talks(&demo, "1003", 50, Some("1001"));
    // A death of the data plane takes neither.
    let pid = demo.status().expect("status")["ccbs"][0]["data_plane_pid"].as_u64().expect("a pid");
    signal(pid as u32, rustix::process::Signal::KILL);
    let recovered =
        || (demo.ask("status")?["ccbs"][0]["counters"]["calls_recovered"] == 2).then_some(());
    assert!(wait_for(LIMIT, recovered).is_some(), "both calls go on");
    demo.expect_normal();
    talks(&demo, "1003", 50, Some("1001"));

    north.tell("hangup", "");
    west.tell("line", "1");
    west.tell("resume", "");
    talks(&demo, "1001", 50, None);
    let busy = demo.counter("leases_held");
    assert_eq!(busy, 2, "the second call's shares are let go");
    east.tell("hangup", "");
    demo.expect_all_free();
    demo.process.stop();
}
