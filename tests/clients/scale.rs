//! Many registered phones and many standing calls, and the deaths of both processes.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use softphone::{Event, Order};

use crate::lab::{Process, jackfield, signal, turn, wait_for};
use crate::media::{Family, Lab, Pins};
use crate::phone::Softphone;

/// Registered agents and standing calls without `SCALE_AGENTS` and `SCALE_CALLS`.
const AGENTS: u32 = 1_000;
const CALLS: u32 = 200;
/// Where the callers are.
const TRUNK: &str = "10.77.1.3";
/// Packets a second, over the streams of all calls.
const PACKETS: &str = "20000";
/// How often the phones without calls register again, all together, a second.
const REFRESHES: &str = "200";
/// Phones of the crowd that are called after the deaths.
const SAMPLES: u32 = 10;

fn size(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// Waits until another process is there beside one of before, with all phones and calls.
fn expect_all_back(lab: &Lab, (agents, calls): (u32, u32), before: (u64, u64)) {
    let mut last = Value::Null;
    let back = wait_for(Duration::from_secs(60), || {
        last = lab.demo.status()?;
        let ccb = &last["ccbs"][0];
        let pids = (last["pid"].as_u64()?, ccb["data_plane_pid"].as_u64()?);
        let counts = (ccb["phones"].as_u64(), ccb["counters"]["calls_now"].as_u64());
        let all = (Some(u64::from(agents)), Some(u64::from(calls)));
        (ccb["status"] == "normal" && pids != before && counts == all).then_some(())
    });
    assert!(back.is_some(), "{before:?}: {last:#}\n{}", lab.demo.process.output());
}

/// Issue "SIP that real peers accept", line 7: registered agents and standing calls, and a restart of either process
/// changes nothing over UDP. Packets flow all the while, phones register again meanwhile.
#[test]
fn a_crowd_and_its_calls_outlive_both_processes() {
    let _turn = turn();
    let (agents, calls) = (size("SCALE_AGENTS", AGENTS), size("SCALE_CALLS", CALLS));
    let (crowd, alone) = (agents - calls - 1, 1_000 + agents);
    let pins = Pins::new();
    let bpffs = pins.path().join("ccb");
    let bpffs = bpffs.to_str().expect("UTF-8");
    let [all, others, count] = [agents, crowd, calls].map(|number| number.to_string());
    let trunk = format!("{TRUNK}/32");
    let lab = Lab::start(
        Family::V4,
        &[
            &["--media", "xdp", "--bpffs", bpffs, "--agents", &all, "--trunk", &trunk][..],
            &["--cores", "1", "--rtp-ports", "10000-65000"],
        ]
        .concat(),
    );
    lab.east.run("ip", &["address", "add", &format!("{TRUNK}/24"), "dev", "b107712"]);
    let load = |name: &str, flags: &[&str]| {
        let mut command = lab.east.command(jackfield());
        command.args(["load", "--http", "10.77.1.1:8080"]).args(flags);
        Process::start(&mut command, lab.demo.folder(), name)
    };

    let (first, seconds) = ((1_001 + calls).to_string(), (20 + calls / 50).to_string());
    let flags = ["--agents", &others, "--first", &first, "--refresh", REFRESHES, "--stay"];
    let mut refreshing = load("crowd", &[&flags[..], &["--seconds", &seconds]].concat());
    let registered = wait_for(Duration::from_secs(300), || {
        assert!(refreshing.is_running(), "{}", refreshing.output());
        refreshing.output().contains("registered  ").then_some(())
    });
    assert!(registered.is_some(), "{}", refreshing.output());
    let seconds = (10 + calls / 200).to_string();
    let flags = ["--callers", TRUNK, "--calls", &count, "--rate-pps", PACKETS];
    let flags = [&flags[..], &["--seconds", &seconds, "--json", "--loss-limit", "0"]].concat();
    let mut talking = load("calls", &flags);
    let stands = wait_for(Duration::from_secs(300), || {
        assert!(talking.is_running(), "{}", talking.output());
        let by_xdp = lab.demo.counter("streams_xdp");
        (by_xdp == 2 * u64::from(calls)).then_some(())
    });
    assert!(stands.is_some(), "{}", talking.output());

    for dies in ["data_plane_pid", "pid"] {
        let status = lab.demo.status().expect("status");
        let pid = |name: &str| {
            let ccb = status["ccbs"][0].get(name);
            ccb.unwrap_or(&status[name]).as_u64().expect("a pid")
        };
        let began = Instant::now();
        signal(pid(dies) as u32, Signal::KILL);
        expect_all_back(&lab, (crowd + calls, calls), (pid("pid"), pid("data_plane_pid")));
        println!("{dies}: all back after {} ms", began.elapsed().as_millis());
    }

    // It also fails when this machine is too slow to send as much.
    talking.wait(Duration::from_secs(300));
    let text = talking.output();
    let json = text.find('{').zip(text.rfind('}')).map(|(start, end)| &text[start..=end]);
    let report: Value = serde_json::from_str(json.expect("a report")).expect("JSON");
    let row = &report["rows"][0];
    assert_eq!(row["lost"].as_u64(), Some(0), "{text}");
    assert!(row["received"].as_u64() > Some(100_000), "{row}");
    println!("{} packets received, none lost", row["received"]);

    expect_all_answered(&refreshing);
    let body = json!({
        "tenant": "demo", "agent": alone.to_string(), "password": format!("demo-{alone}"), "location": "local"
    });
    let (status, login) = lab.east.post("http://10.77.1.1:8080/v1/login", &body);
    assert_eq!(status, 200, "{login}");
    let own = lab.family.address(1, 2);
    let phone = Softphone::start_on(&lab.east, &login, own, 440);
    phone.register();
    for sample in 0..SAMPLES {
        let number = 1_001 + calls + sample * (crowd / SAMPLES);
        phone.order(Order::Call(number.to_string()));
        phone.expect(Duration::from_secs(5), "ringing", |event| matches!(event, Event::Ringing));
        phone.hang_up();
        let is_over = wait_for(Duration::from_secs(5), || (!phone.is_busy()).then_some(()));
        assert!(is_over.is_some(), "{number} is still called");
    }
    phone.end();
    refreshing.stop();
    assert_eq!(refreshing.wait(Duration::from_secs(60)), 0, "{}", refreshing.output());
    lab.demo.expect_all_free();
}

/// Waits for the table of refreshes: each one that was begun was answered, and none refused.
fn expect_all_answered(refreshing: &Process) {
    let stays = wait_for(Duration::from_secs(300), || {
        refreshing.output().contains("phones stay registered").then_some(())
    });
    let text = refreshing.output();
    assert!(stays.is_some(), "{text}");
    let row = text.lines().find(|line| line.starts_with(REFRESHES)).expect("a row");
    let row: Vec<u64> = row.split_whitespace().map_while(|one| one.parse().ok()).collect();
    // Wanted, begun, answered, left out, refused.
    let [_, begun, answered, _, refused, ..] = row[..] else { panic!("{text}") };
    assert!(begun == answered && refused == 0 && begun > 1_000, "{text}");
    println!("{begun} registrations again, all answered");
}
