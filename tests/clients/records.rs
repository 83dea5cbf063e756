//! Call records and signalling that is shown: with the real binaries.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sip::hep::Capture;

use crate::demo::Demo;
use crate::lab::{Process, jackfield, signal, turn, wait_for};
use crate::phone::Softphone;
use crate::{FLAGS, LOOPBACK, log_in};

/// How many lines each leg of each call has.
fn lines_of_legs(demo: &Demo) -> BTreeMap<(String, u64), u32> {
    let mut legs = BTreeMap::new();
    for line in demo.records() {
        let serial = line["serial"].as_str().expect("a serial number").to_owned();
        *legs.entry((serial, line["leg"].as_u64().expect("a leg"))).or_default() += 1;
    }
    legs
}

/// Issue 4: "nobody is billed twice in the call records". Control is killed again and again while 200
/// calls end; each leg has one line in the end.
#[test]
fn two_hundred_calls_have_two_lines_each_over_deaths_of_control() {
    let _turn = turn();
    let flags = [FLAGS, &["--agents", "120"]].concat();
    let mut demo = Demo::start(None, &flags);
    let mut load = Command::new(jackfield());
    load.args(["load", "--agents", "120", "--calls", "200", "--rate", "40", "--duration", "1"]);
    load.args(["--ring", "10", "--dir"]).arg(demo.dir());
    let load = Process::start(&mut load, demo.folder(), "load");
    // Not while somebody logs in, and each time somewhere else among the writes.
    let mut killed = 0;
    for lines in [2, 60, 140, 220, 300] {
        let reached = wait_for(Duration::from_secs(60), || {
            let written = demo.records().len();
            (written >= lines).then_some(())
        });
        assert!(reached.is_some(), "fewer than {lines} lines: {}", load.output());
        let Some(status) = wait_for(Duration::from_secs(10), || demo.status()) else { continue };
        if let Some(pid) = status["pid"].as_u64() {
            signal(pid as u32, Signal::KILL);
            killed += 1;
        }
    }
    assert!(killed >= 3, "control was killed only {killed} times");
    let all = wait_for(Duration::from_secs(60), || {
        let started = demo.status()?["ccbs"][0]["counters"]["calls_started"].as_u64()?;
        let legs = lines_of_legs(&demo);
        (started >= 200 && legs.len() as u64 == 2 * started).then_some(legs)
    });
    let legs = all.unwrap_or_else(|| {
        let status = demo.status().unwrap_or_default();
        let counters = &status["ccbs"][0]["counters"];
        panic!(
            "{} legs have lines, of {} calls: {}",
            lines_of_legs(&demo).len(),
            counters["calls_started"],
            load.output()
        )
    });
    let twice: Vec<_> = legs.iter().filter(|(_, lines)| **lines != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    // One more start finds nothing that it has to write again.
    let status = demo.status().expect("status answers");
    signal(status["pid"].as_u64().expect("a pid") as u32, Signal::KILL);
    demo.expect_normal();
    assert_eq!(lines_of_legs(&demo), legs);
    for line in demo.records() {
        let is_whole = ["started", "ended", "sip_call_id", "caller", "called", "blade"]
            .iter()
            .all(|name| line[*name].as_str().is_some_and(|text| !text.is_empty()));
        assert!(is_whole, "{line:#}");
    }
    drop(load);
    demo.process.stop();
}

/// Arrows of a trace at one peer, as `>INVITE` for what it sent and `<180` for what it was sent.
fn arrows(messages: &[Value], peer: &str) -> Vec<String> {
    let arrow = |message: &Value| {
        let what = match message["method"].as_str() {
            Some(method) => method.to_owned(),
            None => message["status"].to_string(),
        };
        let way = [("from", '>'), ("to", '<')].into_iter();
        let way = way.filter(|(end, _)| message[*end] == peer).map(|(_, way)| way).next();
        way.map(|way| format!("{way}{what}"))
    };
    messages.iter().filter_map(arrow).collect()
}

fn in_order(found: &[String], wanted: &[&str]) {
    let mut rest = found.iter();
    for one in wanted {
        assert!(rest.any(|arrow| arrow == one), "no {one} in its place: {found:?}");
    }
}

fn trace(demo: &Demo, name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(jackfield());
    command.arg("trace").args(arguments).args(["--for", "60", "--dir"]).arg(demo.dir());
    let mut trace = Process::start(&mut command, demo.folder(), name);
    let begun = wait_for(Duration::from_secs(20), || {
        let begun = trace.output().contains("tracing for");
        assert!(begun || trace.is_running(), "{}", trace.output());
        begun.then_some(())
    });
    assert!(begun.is_some(), "{}", trace.output());
    trace
}

/// A call as a ladder, as lines of JSON, and at a capture server, where both legs have one number and no
/// proof of credentials is seen.
#[test]
fn a_call_is_shown_on_both_legs_in_order_and_copied_to_a_capture_server() {
    let _turn = turn();
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    server.set_nonblocking(true).expect("it can be asked");
    let address = server.local_addr().expect("an address").to_string();
    let flags = [FLAGS, &["--hep", &address]].concat();
    let mut demo = Demo::start(None, &flags);
    let phones =
        ["1001", "1002"].map(|agent| Softphone::start(&log_in(agent, "local"), LOOPBACK, 440));
    phones.iter().for_each(Softphone::register);
    let ladder = trace(&demo, "ladder", &["--number", "1002"]);
    let json = trace(&demo, "json", &["--number", "1002", "--json"]);
    let other = trace(&demo, "other", &["--number", "1007"]);
    let all = trace(&demo, "all", &["all"]);
    let mut fifth = Command::new(jackfield());
    fifth.args(["trace", "all", "--dir"]).arg(demo.dir());
    let mut fifth = Process::start(&mut fifth, demo.folder(), "fifth");
    assert_eq!(fifth.wait(Duration::from_secs(20)), 1, "four at most: {}", fifth.output());
    assert!(fifth.output().contains("four traces"), "{}", fifth.output());
    phones[0].call("1002");
    phones[0].hang_up();
    phones[1].expect_end();
    let is_over = |text: &str| text.contains("BYE") && text.matches("200 OK").count() >= 4;
    for one in [&ladder, &all] {
        let seen = wait_for(Duration::from_secs(10), || is_over(&one.output()).then_some(()));
        assert!(seen.is_some(), "{}", one.output());
    }
    let messages = |text: String| -> Vec<Value> {
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let whole = wait_for(Duration::from_secs(10), || {
        let messages = messages(json.output());
        let byes =
            messages.iter().filter(|one| one["cseq"].as_str().is_some_and(|c| c.ends_with("BYE")));
        (byes.count() >= 4).then_some(messages)
    });
    let messages = whole.unwrap_or_else(|| panic!("{}", json.output()));
    let is_invite = |one: &&Value| one["method"] == "INVITE";
    let caller = messages.iter().find(is_invite).expect("an INVITE")["from"].as_str();
    let called = messages.iter().rfind(is_invite).expect("an INVITE")["to"].as_str();
    let (caller, called) = (caller.expect("an address"), called.expect("an address"));
    assert_ne!(called, "127.0.0.1:15060", "{messages:#?}");
    in_order(&arrows(&messages, caller), &[">INVITE", "<180", "<200", ">ACK", ">BYE", "<200"]);
    in_order(&arrows(&messages, called), &["<INVITE", ">180", ">200", "<ACK", "<BYE", ">200"]);
    assert!(messages.iter().any(|one| one["sdp"] == "sendrecv"), "{messages:#?}");
    // What the ladder draws, it draws in the same order.
    let rows = ladder.output();
    let rows: Vec<&str> = rows.lines().filter(|line| line.contains('│')).collect();
    assert_eq!(rows.len(), messages.len(), "{rows:#?}");
    assert!(rows[0].contains("INVITE") && rows[0].contains("SDP"), "{rows:#?}");
    assert!(ladder.output().contains("CCB 1") && ladder.output().contains(caller));
    assert!(!other.output().contains('│'), "{}", other.output());
    expect_copies(&server, caller, called);
    assert_eq!(demo.counter("hep_dropped"), 0);
    [ladder, json, other, all].into_iter().for_each(|mut tool| tool.stop());
    for phone in phones {
        assert!(phone.end().call.heard.invalid == 0);
    }
    demo.process.stop();
}

/// What the capture server got: registrations without proofs, and the call under its number.
fn expect_copies(server: &UdpSocket, caller: &str, called: &str) {
    let mut serials = BTreeMap::new();
    let (mut masked, mut packet) = (0, vec![0; 65_535]);
    while let Ok(length) = server.recv(&mut packet) {
        let copy = Capture::decode(&packet[..length]).expect("HEP3");
        let text = String::from_utf8_lossy(copy.payload);
        assert_eq!(copy.agent, 1);
        for line in text.lines().filter(|line| line.starts_with("Authorization:")) {
            let proof = line.split("response=\"").nth(1).and_then(|rest| rest.split('"').next());
            let proof = proof.expect("a response");
            assert!(!proof.is_empty() && proof.bytes().all(|byte| byte == b'x'), "{line}");
            masked += 1;
        }
        if !copy.correlation.is_empty() {
            let serial = String::from_utf8_lossy(copy.correlation).into_owned();
            for end in [copy.from, copy.to].map(|end| end.to_string()) {
                *serials.entry(end).or_insert_with(|| serial.clone()) = serial.clone();
            }
        }
    }
    assert!(masked >= 3, "two registrations and an INVITE");
    assert_eq!(serials.get(caller), serials.get(called), "{serials:?}");
    assert_eq!(serials.get(caller).map(String::len), Some(20), "{serials:?}");
}
