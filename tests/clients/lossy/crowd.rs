//! Issue 4, line 5, with other people's phones: SIPp's and baresip's by a cable that takes 300 ms, loses a tenth of what
//! it is given, doubles a twentieth and reorders the rest.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::baresip::Baresip;
use crate::cable::{Cable, Flow, Passed};
use crate::demo::Demo;
use crate::flows::ladder::{CALLED, Ladder, Sdp};
use crate::lab::{Host, Process, ip, turn, wait_for};
use crate::lossy::{check_records, seed};
use crate::transfer::{talk, tell, tool};
use crate::weather::Climate;
use crate::{Line, log_in_at};

const SBC: Ipv4Addr = Ipv4Addr::new(10, 81, 1, 1);
const FLOOR: &str = "10.81.1.2";
/// Agents' phones are below, callers of the trunk from here on.
const TRUNK: u8 = 128;
const CLIMATE: Climate = Climate { lost_percent: 10, doubled_percent: 5, delay_ms: (200, 400) };
/// The time in which the calls of a kind begin.
const SPREAD_MS: u64 = 15_000;
const TALK_MS: u32 = 4_000;
/// Packets of 20 ms in that time.
const TALKED: u64 = TALK_MS as u64 / 20;
/// Calls that nobody answers, so that another is called.
const MISSED: usize = 10;
/// How long a phone is there after its call, to answer what comes again.
const LINGER_MS: u32 = 12_000;
/// RFC 3261, 17: T1 is 500 ms, T4 is 5 s. An INVITE that was refused waits 64*T1 for its ACK (timer H), and T4 more for
/// others (timer I). The rest is how seldom the test looks.
const LEAST_LIFE: Duration = Duration::from_secs(32 + 5 + 2);

/// How a call goes, in the eyes of its caller, of who is called, and of its record.
struct Kind {
    name: &'static str,
    calls: usize,
    /// The callers come by a trunk, which is asked for no proof.
    is_trunk: bool,
    caller: Ladder,
    called: Ladder,
    /// The status that ended it, and who did.
    end: (u64, &'static str),
    legs: usize,
    is_answered: bool,
    spread_ms: u64,
}

fn called() -> Ladder {
    Ladder::is_called("agent", &[])
}

/// The caller's steps until it hears of its call.
fn calls(is_trunk: bool) -> Ladder {
    let mut caller = Ladder::crowd_calls(is_trunk);
    caller.may_hear(100).may_hear(181).may_hear(180);
    caller
}

/// The caller talks and hangs up.
fn hangs_up(is_trunk: bool) -> Ladder {
    let mut caller = calls(is_trunk);
    caller.hears_of(200, &[]).acks(None).talks().pauses(TALK_MS).hangs_up().lingers(LINGER_MS);
    caller
}

/// Who is called rings and answers. An ACK may be lost for as long as the call.
fn answers() -> Ladder {
    let mut phone = called();
    phone.answers(180, "", None).pauses(500).answers(200, "", Some(Sdp::Both)).talks();
    phone.may_be_asked("ACK").is_hung_up_on().lingers(LINGER_MS);
    phone
}

/// Who is called rings until the caller, or we, take that back.
fn rings() -> Ladder {
    let mut phone = called();
    phone.answers(180, "", None).is_asked("CANCEL", &[]).answers(200, "", None);
    phone.refuses_the_invite(487).is_asked("ACK", &[]).lingers(LINGER_MS);
    phone
}

fn kinds() -> Vec<Kind> {
    let mut is_hung_up_on = calls(true);
    is_hung_up_on.hears_of(200, &[]).acks(None).talks().is_hung_up_on().lingers(LINGER_MS);
    let mut ends = called();
    ends.answers(180, "", None).pauses(500).answers(200, "", Some(Sdp::Both)).talks();
    ends.is_asked("ACK", &[]).pauses(TALK_MS).hangs_up().lingers(LINGER_MS);
    // RFC 3261, 9.1: no CANCEL before a provisional response; one of them arrives within so long, or none of many.
    let mut gives_up = Ladder::crowd_calls(false);
    gives_up.may_hear_of_ringing(4_000).cancels(CALLED).may_hear(200).hears(487, &[]);
    gives_up.acks_refusal().lingers(LINGER_MS);
    let mut hears_busy = calls(true);
    hears_busy.hears(486, &[]).acks_refusal().lingers(LINGER_MS);
    let mut is_busy = called();
    is_busy.refuses_the_invite(486).is_asked("ACK", &[]).lingers(LINGER_MS);
    let mut hears_nobody = calls(true);
    hears_nobody.hears(408, &[]).acks_refusal().lingers(LINGER_MS);
    let mut is_silent = called();
    is_silent.pauses(36_000);
    let kind = |name, calls, is_trunk, caller, called, end, is_answered| Kind {
        name,
        calls,
        is_trunk,
        caller,
        called,
        end,
        legs: 2,
        is_answered,
        spread_ms: SPREAD_MS,
    };
    vec![
        // 64*T1 pass before the last of them is given up, so they begin at once.
        Kind {
            spread_ms: 1_000,
            ..kind("silent", 6, true, hears_nobody, is_silent, (408, "data_plane"), false)
        },
        kind("caller-ends", 30, false, hangs_up(false), answers(), (0, "caller"), true),
        kind("called-ends", 30, true, is_hung_up_on, ends, (0, "callee"), true),
        kind("cancelled", 20, false, gives_up, rings(), (487, "caller"), false),
        kind("busy", 15, true, hears_busy, is_busy, (486, "callee"), false),
        // Nobody answers, so that another is called (RFC 5359, 2.9).
        Kind {
            legs: 3,
            ..kind("missed", MISSED, true, hangs_up(true), rings(), (0, "caller"), true)
        },
    ]
}

/// One or more phones by one SIPp, at an address of its own.
struct Group {
    sipp: Process,
    name: String,
    address: u8,
    files: [PathBuf; 2],
}

impl Group {
    fn start(
        site: &Site,
        name: &str,
        address: u8,
        ladder: &Ladder,
        lines: &[Line],
        spread_ms: u64,
    ) -> Group {
        let folder = site.demo.folder();
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        let tone = folder.join("tone.ulaw");
        fs::write(path("xml"), ladder.xml(name, &tone.to_string_lossy())).expect("written");
        let table: String = lines
            .iter()
            .map(|[user, proof, number]| format!("{user};{proof};{number}\n"))
            .collect();
        fs::write(path("csv"), format!("SEQUENTIAL\n{table}")).expect("written");
        let own = site.address(address);
        let each_ms = (spread_ms / lines.len() as u64).max(1);
        let mut command = site.floor.command("sipp");
        command
            .arg(format!("{SBC}:5060"))
            .args(["-i", &own, "-mi", &own, "-p", "5060", "-nostdin"]);
        command.args(["-m", &lines.len().to_string(), "-r", "1", "-rp", &each_ms.to_string()]);
        command.args(["-timeout", "100", "-timeout_error", "-recv_timeout", "60000"]);
        // RFC 3261, 17.1.1.2: an INVITE is sent seven times in 64*T1, other requests eleven times (17.1.2.2).
        command.args(["-max_invite_retrans", "7", "-max_non_invite_retrans", "11"]);
        // What comes late or twice is no error.
        command.args(["-default_behaviors", "all,-abortunexp,-bye"]);
        command.arg("-cid_str").arg(format!("{name}-%u-%p@%s")).arg("-sf").arg(path("xml"));
        command.arg("-inf").arg(path("csv"));
        for (trace, file, ending) in
            [("-trace_err", "-error_file", "err"), ("-trace_shortmsg", "-shortmessage_file", "msg")]
        {
            command.args([trace, file]).arg(path(ending));
        }
        let sipp = Process::start(&mut command, folder, name);
        Group { sipp, name: name.to_owned(), address, files: [path("err"), path("msg")] }
    }

    /// Waits until it listens.
    fn expect_bound(mut self) -> Group {
        let [high, middle, low, _] = SBC.octets();
        let socket = format!("{:02X}{low:02X}{middle:02X}{high:02X}:13C4 ", self.address);
        let bound = wait_for(Duration::from_secs(10), || {
            let path = format!("/proc/{}/net/udp", self.sipp.pid());
            fs::read_to_string(path).unwrap_or_default().contains(&socket).then_some(())
        });
        assert!(bound.is_some() && self.sipp.is_running(), "{}: {}", self.name, self.story());
        self
    }

    fn ends_well(&mut self) {
        let code = self.sipp.wait(Duration::from_secs(110));
        assert_eq!(code, 0, "sipp {}: {}", self.name, self.story());
    }

    fn story(&self) -> String {
        let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        let [errors, messages] = self.files.each_ref().map(read);
        let lines = |text: &str| text.lines().take(60).collect::<Vec<_>>().join("\n");
        format!("{}\n{}\n{}", self.sipp.output(), lines(&errors), lines(&messages))
    }
}

/// Both ends of the cable.
struct Site {
    demo: Demo,
    cable: Cable,
    sbc: Host,
    floor: Host,
}

impl Site {
    fn start(agents: usize) -> Site {
        let (sbc, floor) = (Host::new("csbc"), Host::new("cfloor"));
        let (agents, bind) = (agents.to_string(), SBC.to_string());
        let cable = Cable::between([(&sbc, &bind), (&floor, FLOOR)], CLIMATE, seed());
        let trunk = format!("10.81.1.{TRUNK}/25");
        let flags = ["--bind", &bind, "--agents", &agents, "--trunk", &trunk];
        let flags = [&flags[..], &["--media", "io_uring", "--cores", "2"]].concat();
        let demo = Demo::start(Some(&sbc), &flags);
        let site = Site { demo, cable, sbc, floor };
        // A second of noise that nobody listens to; each SIPp reads it when it starts.
        fs::write(site.demo.folder().join("tone.ulaw"), vec![0x55; 8_000]).expect("written");
        for number in (10..30).chain(TRUNK + 10..TRUNK + 20) {
            let address = format!("{}/24", site.address(number));
            ip(&["-n", site.floor.name(), "address", "add", &address, "dev", "eth0"]);
        }
        site
    }

    /// An address of the floor.
    fn address(&self, number: u8) -> String {
        format!("10.81.1.{number}")
    }

    fn logins(&self, agents: usize) -> Vec<Value> {
        let proxy = SocketAddr::from((SBC, 8_080));
        let log_in = |number: usize| log_in_at(proxy, &number.to_string(), "local");
        self.sbc.enter(|| (1_001..1_001 + agents).map(log_in).collect())
    }
}

/// The line of an agent's phone that calls a number.
fn line(login: &Value, number: String) -> Line {
    let text = |field: &str| login["phone"][field].as_str().expect("text").to_owned();
    let (user, secret) = (text("auth_user"), text("secret"));
    let proof = format!("[authentication username={user} password={secret}]");
    [user, proof, number]
}

/// The number that a login's agent is called by.
fn number(login: &Value) -> String {
    let user = login["phone"]["user"].as_str().expect("text");
    user.split('.').next().expect("a number").to_owned()
}

/// Phones that do the same when they are called, at one address.
struct Phones<'a> {
    name: &'a str,
    address: u8,
    ladder: &'a Ladder,
    agents: Vec<Value>,
}

impl Phones<'_> {
    fn start(&self, site: &Site, name: &str, ladder: &Ladder, spread_ms: u64) -> Group {
        let lines: Vec<Line> = self.agents.iter().map(|login| line(login, String::new())).collect();
        let name = format!("{}-{name}", self.name);
        Group::start(site, &name, self.address, ladder, &lines, spread_ms)
    }
}

/// Starts all phones: first they register, then they wait for calls.
fn start_all(site: &Site, crowd: &[Phones<'_>]) -> Vec<Group> {
    let register = Ladder::crowd_registers();
    let start = |phones: &Phones<'_>| phones.start(site, "register", &register, 4_000);
    let mut registering: Vec<Group> = crowd.iter().map(start).collect();
    registering.iter_mut().for_each(Group::ends_well);
    let registered: usize = crowd.iter().map(|phones| phones.agents.len()).sum();
    let phones = site.demo.status().expect("status answers")["ccbs"][0]["phones"].as_u64();
    assert_eq!(phones, Some(registered as u64));
    let start = |phones: &Phones<'_>| phones.start(site, "called", phones.ladder, 1_000);
    crowd.iter().map(|phones| start(phones).expect_bound()).collect()
}

/// Lets the callers of a kind call.
fn callers(site: &Site, kind: &Kind, address: u8, called: &[Value], agents: &[Value]) -> Group {
    let line = |(at, called)| match agents.get(at) {
        Some(agent) => line(agent, number(called)),
        None => ["0301234".into(), String::new(), number(called)],
    };
    let lines: Vec<Line> = called.iter().enumerate().map(line).collect();
    Group::start(site, kind.name, address, &kind.caller, &lines, kind.spread_ms)
}

/// Waits until all phones are done and nothing is left; says how long anything was left after the last call.
fn rests(demo: &Demo, groups: &mut [Group]) -> Duration {
    let mut last_call = Instant::now();
    let mut seen = Value::Null;
    let rested = wait_for(Duration::from_secs(140), || {
        // Whoever asks all the time takes half a core from those who talk.
        std::thread::sleep(Duration::from_millis(300));
        let status = demo.status()?;
        let counters = &status["ccbs"][0]["counters"];
        let now = ["calls_now", "legs_now", "ports_in_use", "leases_held", "transactions_now"]
            .map(|name| counters[name].as_u64().unwrap_or_else(|| panic!("no {name}")));
        seen = counters.clone();
        if now[..4] != [0; 4] {
            last_call = Instant::now();
        }
        let are_done = groups.iter_mut().all(|group| !group.sipp.is_running());
        (now == [0; 5] && are_done).then(|| last_call.elapsed())
    });
    let stories = || groups.iter().map(Group::story).collect::<String>();
    rested.unwrap_or_else(|| panic!("something is left: {seen:#}\n{}", stories()))
}

/// Two baresips talk, and one hangs up. Each has a host behind the floor's: it sends from its host's first address.
fn two_baresips(site: &Site, agents: &[Value]) -> [(Baresip, Host); 2] {
    site.sbc.run("ip", &["route", "add", "10.81.0.0/16", "via", FLOOR]);
    site.floor.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    let hosts = [("cone", 2), ("cother", 3)].map(|(name, network)| {
        let host = Host::new(name);
        let [gateway, own] = [1, 2].map(|end| format!("10.81.{network}.{end}"));
        site.floor.connect(&gateway, &host, &own);
        host.run("ip", &["route", "add", "default", "via", &gateway]);
        (host, own)
    });
    let [(one, one_ip), (other, other_ip)] = hosts;
    let [first, second] = [number(&agents[0]), number(&agents[1])];
    let folder = site.demo.folder();
    let mut answers = Baresip::start(&other, &other_ip, &agents[1], 700, None, folder);
    answers.expect(Duration::from_secs(30), "200 OK");
    let mut calls = Baresip::start(&one, &one_ip, &agents[0], 440, Some(&second), folder);
    for phone in [&mut answers, &mut calls] {
        phone.expect(Duration::from_secs(30), "audio: start");
    }
    talk(&site.demo, [&first, &second], 250);
    tell(&one, &one_ip, "hangup", "");
    answers.expect(Duration::from_secs(32), "terminated");
    [(calls, one), (answers, other)]
}

/// What a record's line says of its call, as its kind does.
fn end_of(line: &Value) -> (u64, &str) {
    (line["cause"].as_u64().expect("a cause"), line["ended_by"].as_str().expect("a name"))
}

/// Each call has as many lines as legs, and both ends as its phones saw it; each answered leg has its packets.
fn check_calls(demo: &Demo, kinds: &[Kind]) {
    check_records(demo);
    let lines = demo.records();
    let ids: HashSet<&str> = lines.iter().filter_map(|line| line["sip_call_id"].as_str()).collect();
    assert_eq!(ids.len(), lines.len(), "a Call-ID is a leg's alone");
    for kind in kinds {
        let is_first = |line: &&Value| {
            let id = line["sip_call_id"].as_str().unwrap_or_default();
            let rest = id.strip_prefix(kind.name).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        let first: Vec<&Value> = lines.iter().filter(is_first).collect();
        assert_eq!(first.len(), kind.calls, "{}: {first:#?}", kind.name);
        for call in first {
            let of_call = |line: &&Value| line["serial"] == call["serial"];
            let legs: Vec<&Value> = lines.iter().filter(of_call).collect();
            assert_eq!(legs.len(), kind.legs, "{}: {legs:#?}", kind.name);
            let answered: Vec<&&Value> =
                legs.iter().filter(|leg| leg["answered"].is_string()).collect();
            assert_eq!(answered.len(), if kind.is_answered { 2 } else { 0 }, "{legs:#?}");
            for leg in &legs {
                assert_eq!(end_of(leg), kind.end, "{}: {legs:#?}", kind.name);
            }
            for leg in answered {
                // Who hears of the answer late, for the 200 was lost once or three times, says less; the other does not.
                let [heard, said] = ["in", "out"].map(|way| leg[way]["packets"].as_u64());
                assert!(heard.max(said) > Some(TALKED * 65 / 100), "{}: {legs:#?}", kind.name);
            }
        }
    }
}

/// What the cable saw of the RTP of so many answered legs; what was lost on it is what the records say.
fn check_rtp(site: &Site, legs: usize) {
    let traffic = site.cable.traffic();
    for way in traffic.ways {
        println!("{way}");
        let share = |part: u64| part * 1_000 / way.entered;
        let is_bad =
            (90..=110).contains(&share(way.lost)) && (35..=55).contains(&share(way.doubled));
        assert!(is_bad && share(way.overtaken) > 100, "{way}");
    }
    for is_heard in [true, false] {
        let ours = |flow: &&(Flow, Passed)| {
            let ours = if is_heard { flow.0.1 } else { flow.0.0 };
            // RTP's ports are even.
            *ours.ip() == SBC && ours.port() != 5_060 && ours.port().is_multiple_of(2)
        };
        let flows: Vec<(Flow, Passed)> = traffic.flows.clone().into_iter().collect();
        let flows: Vec<&(Flow, Passed)> =
            flows.iter().filter(ours).filter(|(_, passed)| passed.came > 0).collect();
        let sum = |count: fn(&Passed) -> u64| flows.iter().map(|flow| count(&flow.1)).sum::<u64>();
        let (entered, came) = (sum(|passed| passed.entered), sum(|passed| passed.came));
        println!("RTP {} us: {entered} sent, {came} came", if is_heard { "to" } else { "from" });
        // A 200 that is lost four times in a row, as one in ten thousand is, leaves its caller nothing to say.
        assert!((legs - 1..=legs).contains(&flows.len()), "{legs} legs: {flows:#?}");
        assert!((900..980).contains(&(came * 1_000 / entered)), "{came} of {entered}");
    }
    let lines = site.demo.records();
    let sum = |count: &str| lines.iter().filter_map(|line| line["in"][count].as_u64()).sum::<u64>();
    let (heard, lost) = (sum("packets"), sum("lost"));
    println!("records: {heard} heard, {lost} lost");
    assert!((30..150).contains(&(lost * 1_000 / (heard + lost))), "{lost} lost, {heard} heard");
}

/// A hundred calls and more: each ends as its caller, who was called and its record say; nothing outlives its timers.
#[test]
fn a_crowd_of_other_phones_calls_by_a_lossy_cable() {
    let _turn = turn();
    let begun = Instant::now();
    let note = |what: &str| println!("{:5.1} s: {what}", begun.elapsed().as_secs_f64());
    let (kinds, answers) = (kinds(), answers());
    let count = |kind: &Kind| kind.calls * if kind.is_trunk { 1 } else { 2 };
    // Who answers for those who do not, and two baresips.
    let agents = kinds.iter().map(count).sum::<usize>() + MISSED + 2;
    let site = Site::start(agents);
    let mut logins = site.logins(agents).into_iter();
    note(&format!("{agents} agents are logged in"));
    let mut take = |count: usize| logins.by_ref().take(count).collect::<Vec<_>>();
    let names = kinds.iter().map(|kind| (kind.name, &kind.called, kind.calls));
    let crowd: Vec<Phones<'_>> = names
        .chain([("instead", &answers, MISSED)])
        .zip(10..)
        .map(|((name, ladder, calls), address)| Phones {
            name,
            address,
            ladder,
            agents: take(calls),
        })
        .collect();
    let [.., missing, instead] = &crowd[..] else { panic!("seven groups") };
    for pair in missing.agents.iter().zip(&instead.agents) {
        let [missing, instead] = [number(pair.0), number(pair.1)];
        tool(&site.demo, &["forward", "set", &missing, "--no-answer", &instead, "--after", "2"]);
    }
    let mut groups = start_all(&site, &crowd);
    note("their phones are registered");
    for (kind, phones) in kinds.iter().zip(&crowd) {
        let agents = take(if kind.is_trunk { 0 } else { kind.calls });
        let address = phones.address + if kind.is_trunk { TRUNK } else { 10 };
        groups.push(callers(&site, kind, address, &phones.agents, &agents));
    }
    let baresips = two_baresips(&site, &take(2));
    note("two baresips have talked");
    let left = rests(&site.demo, &mut groups);
    note(&format!("nothing is left, {left:.1?} after the last call"));
    groups.iter_mut().for_each(Group::ends_well);
    assert!(left < LEAST_LIFE, "a transaction outlives its timers: {left:?}");
    check_calls(&site.demo, &kinds);
    let answered = kinds.iter().filter(|kind| kind.is_answered).map(|kind| kind.calls);
    let answered = answered.sum::<usize>() + 1;
    assert_eq!(site.demo.counter("calls_answered"), answered as u64);
    check_rtp(&site, 2 * answered);
    for ((mut phone, _host), hz) in baresips.into_iter().zip([700.0, 440.0]) {
        let sound = phone.heard();
        println!("baresip: {sound:?}");
        assert!(sound.seconds > 4.0 && (sound.hz / hz - 1.0).abs() < 0.25, "{sound:?}");
    }
    let counters =
        ["calls_started", "calls_failed", "sip_received", "sip_sent", "sip_retransmitted"];
    println!("{:?}", counters.map(|name| (name, site.demo.counter(name))));
    let Site { mut demo, .. } = site;
    demo.process.stop();
}
