//! The real binaries against real clients. Needs root (network namespaces) and Debian's baresip,
//! sip-tester, sipvicious, iproute2 and curl; `tools/test.sh` installs them.

mod baresip;
mod baresips;
mod blades;
mod cable;
mod capture;
mod carriers;
mod comeback;
mod demo;
mod desk;
mod evenness;
mod faults;
mod flows;
mod glare;
mod kamailio;
mod lab;
mod lossy;
mod media;
mod phone;
mod pool;
#[allow(dead_code, reason = "the directory's own tests kill it, these do not")]
#[path = "../../control/server/tests/postgres/mod.rs"]
mod postgres;
mod queues;
mod queues_blades;
mod records;
mod scale;
mod scanner;
mod sipp;
mod site;
mod srtp;
mod supervision;
mod torture;
mod transfer;
mod transports;
mod trunk_names;
mod waiting;
mod weather;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use baresip::Baresip;
use demo::Demo;
use desk::Desk;
use lab::{Host, Process, jackfield, signal, turn, wait_for};
use phone::Softphone;
use rustix::process::Signal;
use serde_json::{Value, json};
use sipp::{Line, Sipp};
use softphone::{Event, Order, Why};

const HTTP: u16 = 18_080;
const FLAGS: &[&str] = &["--http", "18080", "--sip", "15060", "--rtp-ports", "20000-21999"];
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// One request, one answer, connection closed (S1-066).
fn log_in(agent: &str, location: &str) -> Value {
    log_in_at((LOOPBACK, HTTP).into(), agent, location)
}

/// The same at another AgentProxy.
fn log_in_at(proxy: SocketAddr, agent: &str, location: &str) -> Value {
    let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": location});
    let body = body.to_string();
    let mut stream = TcpStream::connect(proxy).expect("the AgentProxy listens");
    let head = format!(
        "POST /v1/login HTTP/1.1\r\nHost: {proxy}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the AgentProxy closes");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    serde_json::from_str(body).expect("JSON")
}

/// S1-053 to S1-063 and S1-083: two baresips on hosts of their own know nothing but a login's answer,
/// and talk through two locations, each to its own SBC address only.
#[test]
fn two_baresips_talk_through_two_locations() {
    let _turn = turn();
    let (sbc, east, west) = (Host::new("sbc"), Host::new("east"), Host::new("west"));
    sbc.connect("10.77.1.1", &east, "10.77.1.2");
    sbc.connect("10.77.2.1", &west, "10.77.2.2");
    let mut demo =
        Demo::start(Some(&sbc), &["--bind", "10.77.1.1", "--location", "west=10.77.2.1"]);
    let login = |host: &Host, gateway: &str, agent: &str, location: &str| {
        let body = json!({"tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": location});
        let (status, answer) = host.post(&format!("http://{gateway}:8080/v1/login"), &body);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            answer["phone"]["addresses"][0]["host"], gateway,
            "the SBC of the location (S1-058)"
        );
        answer
    };
    let callee = login(&west, "10.77.2.1", "1002", "west");
    let caller = login(&east, "10.77.1.1", "1001", "local");
    let mut callee = Baresip::start(&west, "10.77.2.2", &callee, 700, None, demo.folder());
    callee.expect(Duration::from_secs(15), "200 OK");
    let mut caller = Baresip::start(&east, "10.77.1.2", &caller, 440, Some("1002"), demo.folder());
    callee.expect(Duration::from_secs(15), "audio: start");
    caller.expect(Duration::from_secs(15), "audio: start");
    let talked = wait_for(Duration::from_secs(40), || {
        let calls = demo.ask("calls")?;
        let legs = calls["calls"][0]["legs"].as_array()?.clone();
        let packets = |leg: &Value, way: &str| leg[way].as_u64().unwrap_or(0);
        let whole = legs.len() == 2
            && legs
                .iter()
                .all(|leg| packets(leg, "packets_in") > 520 && packets(leg, "packets_out") > 520);
        whole.then_some(legs)
    });
    let legs =
        talked.unwrap_or_else(|| panic!("no 10 s of RTP both ways: {:#?}", demo.ask("calls")));
    for (leg, phone) in legs.iter().zip(["10.77.1.2", "10.77.2.2"]) {
        let media = leg["media"].as_str().expect("an address");
        assert!(media.starts_with(phone), "each phone talks to its own SBC address: {leg}");
    }
    for (phone, tone) in [(&mut caller, 700.0), (&mut callee, 440.0)] {
        let sound = phone.heard();
        assert!(sound.seconds > 9.0, "heard {sound:?}");
        assert!((sound.hz - tone).abs() < tone * 0.03, "heard {sound:?} instead of {tone} Hz");
    }
    demo.expect_all_free();
    demo.process.stop();
}

/// The command of README.md: both directions whole, exit 0.
#[test]
fn the_demo_calls_itself() {
    let _turn = turn();
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(jackfield());
    command
        .arg("demo")
        .arg("--call")
        .args(FLAGS)
        .args(["--location", "west=127.0.0.2", "--dir"])
        .arg(dir.path());
    let mut process = Process::start(&mut command, dir.path(), "demo-call");
    let code = process.wait(Duration::from_secs(60));
    assert_eq!(code, 0, "{}", process.output());
    assert!(process.output().contains("1001 -> 1002"), "{}", process.output());
}

/// The data plane's and control's processes of a demo's configuration, without a supervisor.
struct Pair {
    demo: Demo,
    control: Process,
    data_plane: Process,
}

impl Pair {
    fn start() -> Pair {
        Pair::with(&[])
    }

    fn with(flags: &[&str]) -> Pair {
        let mut demo = Demo::start(None, &[FLAGS, flags].concat());
        demo.process.stop();
        let data_plane = Pair::process(&demo, "dataplane");
        let control = Pair::process(&demo, "control");
        let pair = Pair { demo, control, data_plane };
        pair.expect_status("normal", Duration::from_secs(20));
        pair
    }

    fn process(demo: &Demo, what: &str) -> Process {
        let config = demo.dir().join("jackfield.toml");
        let mut command = Command::new(jackfield());
        command.arg(what).arg("--config").arg(config);
        Process::start(&mut command, demo.folder(), what)
    }

    fn stop(mut self) {
        self.control.stop();
        self.data_plane.stop();
        // A data plane leaves its region to the next one; the demo that would remove it has ended.
        let config =
            std::fs::read_to_string(self.demo.dir().join("jackfield.toml")).expect("readable");
        let region =
            config.lines().find_map(|line| line.strip_prefix("region = ")).expect("a region");
        for suffix in ["", ".secrets", ".lock", ".control.lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", region.trim_matches('"')));
        }
    }

    fn expect_status(&self, wanted: &str, limit: Duration) {
        let mut last = Value::Null;
        let seen = wait_for(limit, || {
            last = self.demo.status()?["ccbs"][0]["status"].clone();
            (last == wanted).then_some(())
        });
        assert!(seen.is_some(), "the CCB is {last}, not {wanted}:\n{}", self.control.output());
    }
}

/// DESIGN.md, what fails: control dies during a call; media and BYE go on, a local call connects, and
/// after its return everything is known again.
#[test]
fn calls_do_not_notice_the_death_of_control() {
    let _turn = turn();
    let mut pair = Pair::start();
    let phones: Vec<Softphone> = ["1001", "1002", "1003", "1004"]
        .map(|agent| Softphone::start(&log_in(agent, "local"), LOOPBACK, 440))
        .into();
    phones.iter().for_each(Softphone::register);
    phones[0].call("1002");
    let machine = evenness::Stream::start_here();
    std::thread::sleep(Duration::from_secs(2));
    let longest = |phones: &[Softphone]| phones.iter().map(Softphone::longest_gap).max();
    let _ = (longest(&phones), machine.gap());
    pair.control.kill();
    phones[2].call("1004");
    std::thread::sleep(Duration::from_secs(2));
    phones[2].hang_up();
    phones[3].expect_end();
    phones[2].call("1004");
    pair.control = Pair::process(&pair.demo, "control");
    pair.expect_status("normal", Duration::from_secs(10));
    let known = wait_for(Duration::from_secs(5), || {
        let agents = pair.demo.ask("agents")?["agents"].as_array()?.len();
        let calls = pair.demo.ask("calls")?["calls"].as_array()?.len();
        (agents == 4 && calls == 2).then_some(())
    });
    assert!(known.is_some(), "{:#?} {:#?}", pair.demo.ask("agents"), pair.demo.ask("calls"));
    let (gap, usual) = (longest(&phones[..2]).expect("two phones"), machine.gap());
    let limit = Duration::from_millis(40).max(usual * 2);
    assert!(gap <= limit, "RTP paused for {gap:?}, on a machine that pauses for {usual:?}");
    phones[0].hang_up();
    phones[2].hang_up();
    pair.demo.expect_all_free();
    for phone in phones {
        let heard = phone.end();
        assert!(heard.rtp_received > 50, "{heard:?}");
        assert_eq!(heard.rtp_lost, 0, "{heard:?}");
    }
    pair.stop();
}

/// The data plane dies: control says so within a second and restarts it, registrations survive, a
/// call a second later connects, nothing is stuck.
#[test]
fn calls_and_registrations_survive_the_death_of_the_data_plane() {
    let _turn = turn();
    let mut demo = Demo::start(None, FLAGS);
    let phones =
        ["1001", "1002"].map(|agent| Softphone::start(&log_in(agent, "local"), LOOPBACK, 440));
    phones.iter().for_each(Softphone::register);
    phones[0].call("1002");
    let before = demo.status().expect("status answers");
    let pid = before["ccbs"][0]["data_plane_pid"].as_u64().expect("a pid") as u32;
    let killed = Instant::now();
    signal(pid, Signal::KILL);
    let reported = wait_for(Duration::from_secs(1), || {
        let status = demo.status()?;
        let ccb = &status["ccbs"][0];
        (ccb["status"] != "normal" || ccb["data_plane_pid"] != pid).then_some(killed.elapsed())
    });
    assert!(reported.is_some(), "control did not see it within a second");
    demo.expect_normal();
    std::thread::sleep(Duration::from_secs(1));
    // The call goes on: control still knows it, RTP flows, and a BYE reaches the other phone.
    let calls = demo.ask("calls").expect("calls answers");
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(1), "{calls}");
    let status = demo.status().expect("status answers");
    assert_eq!(status["ccbs"][0]["counters"]["calls_recovered"], 1, "{status}");
    for phone in &phones {
        phone.longest_gap();
    }
    std::thread::sleep(Duration::from_secs(1));
    for phone in &phones {
        let gap = phone.longest_gap();
        assert!(!gap.is_zero() && gap < Duration::from_millis(500), "RTP after the death: {gap:?}");
    }
    phones[0].hang_up();
    phones[1].expect_end();
    phones[0].call("1002");
    std::thread::sleep(Duration::from_millis(500));
    phones[0].hang_up();
    demo.expect_all_free();
    let agents = demo.ask("agents").expect("agents answers");
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(2), "{agents}");
    for phone in phones {
        let heard = phone.end();
        assert!(heard.call.heard.received > 10, "no media after the restart: {heard:?}");
        assert_eq!(heard.registrations, 1, "nobody registered anew");
    }
    demo.process.stop();
}

/// Garbage on every port costs a call in progress nothing, and each kind is counted by its name.
#[test]
fn garbage_is_dropped_by_name() {
    let _turn = turn();
    let mut demo = Demo::start(None, FLAGS);
    let phones =
        ["1001", "1002"].map(|agent| Softphone::start(&log_in(agent, "local"), LOOPBACK, 440));
    phones.iter().for_each(Softphone::register);
    phones[0].call("1002");
    let socket = UdpSocket::bind((LOOPBACK, 0)).expect("a port");
    let sip = (LOOPBACK, 15_060);
    let mut rng = base::Rng::from_number(4);
    for number in 0..300_u32 {
        let mut noise = vec![0; 1 + rng.below(1_400) as usize];
        rng.fill(&mut noise);
        let register = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{};branch=z9hG4bK{number};rport\r\n\
             From: <sip:1003.demo@127.0.0.1>;tag=1\r\nTo: <sip:1003.demo@127.0.0.1>\r\nCall-ID: g{number}\r\n\
             CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nAuthorization: Digest username=\"1003.demo\", \
             realm=\"demo.jackfield.local\", nonce=\"{number:048x}\", uri=\"sip:127.0.0.1\", \
             response=\"{number:032x}\", algorithm=MD5, qop=auth, nc=00000001, cnonce=\"x\"\r\n\
             Content-Length: 0\r\n\r\n",
            socket.local_addr().expect("bound").port(),
        );
        let cut = 1 + rng.below(register.len() as u64 / 2) as usize;
        let _ = socket.send_to(&noise, sip);
        let _ = socket.send_to(register.as_bytes(), sip);
        let _ = socket.send_to(&register.as_bytes()[..cut], sip);
        let _ = socket.send_to(b"\r\n\r\n", sip);
        let _ = socket.send_to(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKno\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: none\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n", sip);
        if number % 30 == 0 {
            let _ = socket.send_to(&vec![b'x'; 65_507], sip);
        }
        // Every RTP and RTCP port of the range: those in a call, those that wait for one, those unbound.
        for port in 20_000 + (number as u16 % 20) * 100..20_100 + (number as u16 % 20) * 100 {
            noise[0] = if number % 2 == 0 { 0x80 } else { noise[0] };
            let _ = socket.send_to(&noise, (LOOPBACK, port));
        }
        // 2 s of noise, so that the call has something to lose.
        std::thread::sleep(Duration::from_millis(7));
    }
    phones[0].hang_up();
    for name in [
        "drop_sip_malformed",
        "drop_sip_keep_alive",
        "drop_sip_no_transaction",
        "drop_sip_unauthorised",
        "drop_rtp_unbound",
        "drop_rtp_foreign_source",
    ] {
        let count = demo.counter(name);
        assert!(count > 0, "{name} is {count}");
    }
    demo.expect_all_free();
    for phone in phones {
        let heard = phone.end();
        assert!(heard.rtp_received > 50, "{heard:?}");
        assert_eq!(heard.rtp_lost, 0, "{heard:?}");
        assert_eq!(heard.rtp_received, heard.call.heard.received, "foreign packets came through");
    }
    demo.process.stop();
}

/// 1,000 agents register with digest, 500 calls pass at 50 a second, with RTP both ways, and every port is
/// free afterwards.
#[test]
fn a_crowd_of_sipp_phones_calls() {
    let _turn = turn();
    let mut demo = Demo::start(None, &[FLAGS, &["--agents", "1000"]].concat());
    let folder = demo.folder().to_owned();
    let line = |number: u32| -> Line {
        let login = log_in(&number.to_string(), "local");
        let text = |field: &str| login["phone"][field].as_str().expect("text").to_owned();
        [text("auth_user"), text("secret"), (number + 500).to_string()]
    };
    let callers: Vec<Line> = (1_001..=1_500).map(line).collect();
    let callees: Vec<Line> = (1_501..=2_000).map(line).collect();
    for (lines, port) in [(&callers, 16_071), (&callees, 16_072)] {
        let flags = ["-r", "200"];
        Sipp::start("register", "127.0.0.1:15060", port, lines, &flags, &folder)
            .expect_success(&folder);
    }
    assert_eq!(demo.counter("registrations"), 1_000);
    let flags = ["-rtp_echo", "-mp", "17000"];
    let mut answering = Sipp::start("callee", "127.0.0.1:15060", 16_072, &callees, &flags, &folder);
    let flags = ["-r", "50"];
    let mut calling = Sipp::start("caller", "127.0.0.1:15060", 16_071, &callers, &flags, &folder);
    calling.expect_success(&folder);
    answering.expect_success(&folder);
    assert_eq!(demo.counter("calls_answered"), 500);
    demo.expect_all_free();
    let (received, sent) = (demo.counter("rtp_received"), demo.counter("rtp_sent"));
    // A second of 20 ms packets each way in each call; the first and the last may miss the call.
    assert!(received > 500 * 2 * 45, "{received} RTP packets came");
    assert!(sent > 500 * 2 * 45, "{sent} RTP packets went");
    demo.process.stop();
}

/// The same by the house's own load, which counts every packet both ways and knows SHA-256.
#[test]
fn a_crowd_of_softphones_talks() {
    let _turn = turn();
    let mut demo = Demo::start(
        None,
        &[FLAGS, &["--agents", "200", "--location", "west=127.0.0.2", "--cores", "2"]].concat(),
    );
    let mut command = Command::new(jackfield());
    command.arg("load").arg("--dir").arg(demo.dir()).args([
        "--agents",
        "200",
        "--calls",
        "100",
        "--rate",
        "20",
        "--duration",
        "2",
        "--rtp",
        "--location",
        "local",
        "--location",
        "west",
    ]);
    let mut load = Process::start(&mut command, demo.folder(), "load");
    assert_eq!(load.wait(Duration::from_secs(90)), 0, "{}", load.output());
    demo.expect_all_free();
    demo.process.stop();
}

/// Many phones at few ports register, and again in turn.
#[test]
fn a_crowd_registers_again_in_turn() {
    let _turn = turn();
    let mut demo = Demo::start(None, &[FLAGS, &["--agents", "600"]].concat());
    let mut command = Command::new(jackfield());
    command.arg("load").arg("--dir").arg(demo.dir());
    command.args(["--agents", "600", "--refresh", "300", "--seconds", "4", "--stay"]);
    let mut load = Process::start(&mut command, demo.folder(), "load");
    let stays = wait_for(Duration::from_secs(60), || {
        load.output().contains("600 phones stay registered").then_some(())
    });
    assert!(stays.is_some(), "{}", load.output());
    let rows: Vec<Vec<u64>> = load
        .output()
        .lines()
        .map(|line| line.split_whitespace().map_while(|one| one.parse().ok()).collect())
        .filter(|row: &Vec<u64>| row.first() == Some(&300))
        .collect();
    // Wanted, begun, answered, left out, refused.
    let [row] = &rows[..] else { panic!("{}", load.output()) };
    let turns = row[1] + row[3];
    assert!((1_200..=1_201).contains(&turns), "{}", load.output());
    assert!(row[1] == row[2] && row[4] == 0, "{}", load.output());
    assert!(row[1] > 600, "most are in time: {}", load.output());
    let phones = || demo.status()?["ccbs"][0]["phones"].as_u64();
    assert_eq!(phones(), Some(600), "all at their ports");
    load.stop();
    assert_eq!(load.wait(Duration::from_secs(5)), 0, "{}", load.output());
    demo.process.stop();
}

/// Steps 511 to 515: a login is complete, and the CDM counts it, when the phone has registered and the
/// desk is there. Exit, 30 s without the WebSocket, and an expired registration each bring it back.
#[test]
fn a_login_is_complete_with_phone_and_desk_and_ends_without() {
    let _turn = turn();
    let mut demo = Demo::start(None, FLAGS);
    let online = |demo: &Demo| demo.status().expect("status answers")["ccbs"][0]["online"].as_u64();
    let expect_online = |wanted: u64, limit_s: u64, why: &str| {
        let seen = wait_for(Duration::from_secs(limit_s), || {
            (online(&demo) == Some(wanted)).then_some(())
        });
        assert!(
            seen.is_some(),
            "{why}: {:?} online, not {wanted}: {:#}",
            online(&demo),
            demo.ask("agents").unwrap()
        );
    };
    let logins = ["1001", "1002", "1003"].map(|agent| log_in(agent, "local"));
    let mut desks = logins.each_ref().map(Desk::open);
    for desk in &desks {
        assert_eq!(
            desk.expect("login_progress")["state"],
            "waiting_for_phone",
            "S1-063: the phone comes first"
        );
    }
    assert_eq!(online(&demo), Some(0), "a desk alone is not online");
    let mut phones: Vec<Softphone> =
        logins.iter().map(|login| Softphone::start_for(login, LOOPBACK, 440, 60)).collect();
    phones.iter().for_each(Softphone::register);
    for desk in &desks {
        desk.expect("phone_registered");
        assert_eq!(desk.expect("login_progress")["state"], "logged_in");
    }
    expect_online(3, 5, "all three are complete");
    // Exit; the secret dies with the login.
    desks[0].exit();
    expect_online(2, 5, "one said exit");
    let gone = phones.remove(0);
    gone.order(Order::Unregister);
    gone.order(Order::Register);
    gone.expect(Duration::from_secs(5), "refused", |event| {
        matches!(event, Event::RegistrationFailed { .. })
    });
    // A phone without power does not unregister; a desk without power does not say exit.
    phones.pop().expect("the third").end();
    let left = Instant::now();
    desks[1].vanish();
    expect_online(1, 40, "a desk stayed away");
    assert!(
        left.elapsed() > Duration::from_secs(29),
        "it may come back for 30 s: {:?}",
        left.elapsed()
    );
    expect_online(0, 40, "a registration expired");
    desks[2].expect("phone_lost");
    let agents = demo.ask("agents").expect("agents answers");
    assert_eq!(
        agents["agents"].as_array().map(Vec::len),
        Some(1),
        "the third may register again: {agents:#}"
    );
    demo.process.stop();
}

/// SIPp speaks the extensions: reliable responses both ways (RFC 3262), UPDATE (RFC 3311), session timers
/// (RFC 4028), a digit by INFO (RFC 6086); and a call that finds nobody at the first address of its route.
#[test]
fn trunks_speak_the_extensions() {
    let _turn = turn();
    let route = "9=127.0.0.3:17085,127.0.0.3:17086";
    let flags = ["--trunk", "127.0.0.3/32", "--route", route];
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let folder = demo.folder().to_owned();
    let phone = Softphone::start(&log_in("1001", "local"), LOOPBACK, 440);
    phone.register();
    let line = |number: &str| -> Line { ["0301234".into(), String::new(), number.into()] };
    let sbc = "127.0.0.1:15060";
    let start = |name: &str, port, lines: &[Line]| {
        Sipp::start_at("127.0.0.3", name, sbc, port, lines, &[], &folder)
    };
    let mut trunk = start("reliable-trunk", 17_084, &[line("1001")]);
    phone.expect(
        Duration::from_secs(5),
        "a call from who the trunk asserts",
        |event| matches!(event, Event::Incoming { from } if from == "0305678"),
    );
    phone.expect_end();
    trunk.expect_success(&folder);
    let mut busy = start("refuser", 17_085, &[line("")]);
    let mut trunk = start("reliable-callee", 17_086, &[line("")]);
    phone.call("95555");
    phone.expect_end();
    busy.expect_success(&folder);
    trunk.expect_success(&folder);
    let status = demo.ask("status").expect("status answers");
    let counters = &status["ccbs"][0]["counters"];
    assert_eq!(counters["digits_pressed"], 1, "{counters:#}");
    assert_eq!(status["ccbs"][0]["trunks"].as_array().map(Vec::len), Some(2), "{status:#}");
    demo.expect_all_free();
    phone.end();
    demo.process.stop();
}

/// A trunk known by its address calls an agent, and an agent's call leaves by a route to it; RTP flows both
/// ways, and a stranger at another address is challenged instead.
#[test]
fn calls_come_from_trunks_and_leave_by_them() {
    let _turn = turn();
    let flags = ["--trunk", "127.0.0.3/32", "--route", "9=127.0.0.3:17075"];
    let mut demo = Demo::start(None, &[FLAGS, &flags].concat());
    let folder = demo.folder().to_owned();
    let phone = Softphone::start(&log_in("1001", "local"), LOOPBACK, 440);
    phone.register();
    let line = |number: &str| -> Line { ["0301234".into(), String::new(), number.into()] };
    // In.
    let sbc = "127.0.0.1:15060";
    let mut trunk =
        Sipp::start_at("127.0.0.3", "trunk", sbc, 17_076, &[line("1001")], &[], &folder);
    phone.expect(
        Duration::from_secs(5),
        "a call from the trunk",
        |event| matches!(event, Event::Incoming { from } if from == "0301234"),
    );
    phone.expect_end();
    trunk.expect_success(&folder);
    // Out; the trunk sends back what it hears.
    let flags = ["-rtp_echo", "-mp", "17300"];
    let mut trunk =
        Sipp::start_at("127.0.0.3", "callee", sbc, 17_075, &[line("")], &flags, &folder);
    phone.call("95555");
    let talked = wait_for(Duration::from_secs(5), || {
        let legs = demo.ask("calls")?["calls"][0]["legs"].as_array()?.clone();
        let whole = legs.len() == 2 && legs.iter().all(|leg| leg["packets_in"].as_u64() > Some(30));
        whole.then_some(())
    });
    assert!(talked.is_some(), "no RTP both ways: {:#?}", demo.ask("calls"));
    phone.hang_up();
    trunk.expect_success(&folder);
    // A number without a route, and an address without a trunk.
    phone.order(Order::Call("4711".into()));
    phone.expect(Duration::from_secs(5), "404", |event| *event == Event::Ended(Why::Refused(404)));
    let mut stranger =
        Sipp::start_at("127.0.0.4", "trunk", sbc, 17_077, &[line("1001")], &[], &folder);
    stranger.expect_failure("401");
    demo.expect_all_free();
    let heard = phone.end();
    assert!(heard.rtp_received > 70, "{heard:?}");
    demo.process.stop();
}
