//! The flows of RFC 3665 and RFC 5359 that Debian's baresip can do by its commands: hold, retrieve, music, consultation,
//! early media, busy, no answer, forwarding, find-me; and what a second caller of an agent in a call hears. Its
//! transfers are in `transfer`; it knows no attended ones.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use softphone::Event;

use crate::demo::Demo;
use crate::lab::{Host, turn, wait_for};
use crate::phone::Softphone;
use crate::transfer::{Station, talk, tool};

const SBC: &str = "10.80.1.1";
const WEST: &str = "10.80.2.2";
/// The prompt is a tone of 500 Hz.
const MUSIC: u32 = 500;

/// Waits until the softphone hears that tone and none of the others.
fn hears(phone: &Softphone, tone: u32) {
    let all = [440, MUSIC, 1_000];
    let heard = wait_for(Duration::from_secs(15), || {
        let tones = phone.hears(&all);
        (tones.len() == 1 && tones.contains(&tone)).then_some(())
    });
    assert!(heard.is_some(), "not {tone} Hz, but {:?}", phone.hears(&all));
}

/// RFC 5359, 2.1 to 2.3: a baresip holds a softphone, which tells tones from each other, and asks another baresip.
#[test]
fn a_baresip_holds_its_caller_who_hears_music_and_asks_a_third() {
    let _turn = turn();
    let prompts = crate::media::prompts();
    let folder = prompts.path().to_str().expect("a path");
    let (sbc, west) = (Host::new("bsbc"), Host::new("bwest"));
    let [mut east, mut north] =
        [("beast", "10.80.1.2"), ("bnorth", "10.80.3.2")].map(|(name, ip)| Station::new(name, ip));
    sbc.connect(SBC, &east.host, east.ip);
    sbc.connect("10.80.2.1", &west, WEST);
    sbc.connect("10.80.3.1", &north.host, north.ip);
    let flags = ["--bind", SBC, "--location", "west=10.80.2.1", "--location", "north=10.80.3.1"];
    let mut demo = Demo::start(Some(&sbc), &[&flags[..], &["--prompts", folder]].concat());
    tool(&demo, &["hold-music", "welcome.wav"]);
    east.start("1001", SBC, "local", 440, &demo);
    north.start("1003", "10.80.3.1", "north", 1_000, &demo);
    let body =
        json!({"tenant": "demo", "agent": "1002", "password": "demo-1002", "location": "west"});
    let (status, login) = west.post("http://10.80.2.1:8080/v1/login", &body);
    assert_eq!(status, 200, "{login}");
    let held = Softphone::start_on(&west, &login, WEST.parse().expect("an address"), 700);
    held.register();

    east.tell("dial", &format!("sip:1002@{SBC}"));
    talk(&demo, ["1001", "1002"], 50);
    hears(&held, 440);
    east.tell("hold", "");
    held.expect(Duration::from_secs(10), "held", |event| {
        matches!(event, Event::Held { by_peer: true, .. })
    });
    hears(&held, MUSIC);
    // Meanwhile a third, by the same phone.
    east.tell("dial", &format!("sip:1003@{SBC}"));
    let asked = north.phone.as_mut().expect("it runs");
    asked.expect(Duration::from_secs(10), "Call established");
    let talked = wait_for(Duration::from_secs(20), || {
        let calls = demo.ask("calls")?;
        let legs =
            calls["calls"].as_array()?.iter().flat_map(|call| call["legs"].as_array().cloned());
        let third = legs.flatten().find(|leg| leg["number"] == "1003")?;
        (third["packets_out"].as_u64()? > 100 && third["packets_in"].as_u64()? > 100).then_some(())
    });
    assert!(talked.is_some(), "the agent and the third do not talk: {:#?}", demo.ask("calls"));
    hears(&held, MUSIC);
    east.tell("hangup", "");
    let left = wait_for(Duration::from_secs(10), || (demo.counter("calls_now") == 1).then_some(()));
    assert!(left.is_some(), "the consultation does not end");
    east.tell("resume", "");
    hears(&held, 440);
    talk(&demo, ["1001", "1002"], 50);
    // Who is in a call gets no other (S5-015): the caller hears 486, and the call goes on.
    north.tell("dial", "sip:1001@10.80.3.1");
    north.phone.as_mut().expect("it runs").expect(Duration::from_secs(10), "486 Busy Here");
    talk(&demo, ["1001", "1002"], 50);
    held.hang_up();
    demo.expect_all_free();
    // The third heard the agent, and not the music.
    let sound = north.phone.as_mut().expect("it runs").heard();
    assert!((sound.hz - 440.0).abs() < 15.0, "{sound:?}");
    held.end();
    demo.process.stop();
}

/// Three baresips, of the agents 1001, 1002 and 1003.
struct Three {
    east: Station,
    west: Station,
    north: Station,
    demo: Demo,
    _sbc: Host,
}

impl Three {
    fn start(flags: &[&str]) -> Three {
        let sbc = Host::new("gsbc");
        let [mut east, mut west, mut north] =
            [("geast", "10.80.1.2"), ("gwest", "10.80.2.2"), ("gnorth", "10.80.3.2")]
                .map(|(name, ip)| Station::new(name, ip));
        let gateways = [SBC, "10.80.2.1", "10.80.3.1"];
        for (gateway, station) in gateways.iter().zip([&east, &west, &north]) {
            sbc.connect(gateway, &station.host, station.ip);
        }
        let places =
            ["--bind", SBC, "--location", "west=10.80.2.1", "--location", "north=10.80.3.1"];
        let demo = Demo::start(Some(&sbc), &[&places[..], flags].concat());
        east.start("1001", SBC, "local", 440, &demo);
        west.start("1002", "10.80.2.1", "west", 700, &demo);
        north.start("1003", "10.80.3.1", "north", 1_000, &demo);
        Three { east, west, north, demo, _sbc: sbc }
    }

    /// The first calls a number.
    fn dials(&self, number: &str) {
        self.east.tell("dial", &format!("sip:{number}@{SBC}"));
    }

    /// The first calls a number, and the second's phone rings.
    fn dials_and_west_rings(&self, number: &str) {
        let line = "sipsess connect via";
        let west = self.west.phone.as_ref().expect("it runs");
        let before = west.said(line);
        self.dials(number);
        let rings = wait_for(Duration::from_secs(10), || (west.said(line) > before).then_some(()));
        assert!(rings.is_some(), "the second's phone does not ring: {}", west.process.output());
    }

    /// The newest call is over; how its record's lines say so.
    fn expect_end(&self, cause: u64, ended_by: &str) {
        self.demo.expect_all_free();
        let started = self.demo.counter("calls_started");
        let mut last = Vec::new();
        let ended = wait_for(Duration::from_secs(10), || {
            let lines = self.demo.records();
            let newest = lines.last()?["serial"].clone();
            let serials: BTreeSet<&str> =
                lines.iter().filter_map(|line| line["serial"].as_str()).collect();
            let is_whole = serials.len() as u64 == started;
            last = lines.iter().filter(|line| line["serial"] == newest).cloned().collect();
            is_whole.then_some(())
        });
        let is_so = |line: &Value| line["cause"] == cause && line["ended_by"] == ended_by;
        assert!(ended.is_some() && last.iter().all(is_so), "not {cause} {ended_by}: {last:#?}");
    }
}

/// Flows of RFC 3665, 3 and RFC 5359, 2 with a baresip at each end.
#[test]
fn baresips_ring_refuse_give_up_and_are_forwarded() {
    let _turn = turn();
    let prompts = crate::media::prompts();
    let mut three = Three::start(&["--prompts", prompts.path().to_str().expect("a path")]);
    let Three { east, west, north, demo, .. } = &three;
    tool(demo, &["hold-music", "welcome.wav"]);

    // RFC 3960: who is called hears the caller before anybody has answered. This baresip itself is silent until then;
    // early media both ways is in `flows`.
    west.tell("answermode", "early");
    three.dials_and_west_rings("1002");
    let heard = wait_for(Duration::from_secs(15), || {
        let call = demo.ask("calls")?["calls"][0].clone();
        let count = |leg: usize, name: &str| call["legs"][leg][name].as_u64();
        let went = count(0, "packets_in")? > 100 && count(1, "packets_out")? > 100;
        (went && call["state"] == "ringing").then_some(())
    });
    assert!(heard.is_some(), "no early media: {:#?}", demo.ask("calls"));
    assert_eq!(demo.counter("calls_answered"), 0, "nobody has answered");
    west.tell("accept", "");
    let answered =
        wait_for(Duration::from_secs(5), || (demo.counter("calls_answered") == 1).then_some(()));
    assert!(answered.is_some(), "the call is not answered");
    talk(demo, ["1001", "1002"], 50);
    east.tell("hangup", "");
    three.expect_end(0, "caller");

    // RFC 3665, 3.8 and 3.9.
    west.tell("answermode", "manual");
    three.dials_and_west_rings("1002");
    east.tell("hangup", "");
    three.expect_end(487, "caller");
    three.dials_and_west_rings("1002");
    west.tell("hangup", "");
    three.expect_end(486, "callee");

    // RFC 5359, 2.8, 2.9 and 2.12.
    tool(demo, &["forward", "set", "1002", "--busy", "1003"]);
    three.dials_and_west_rings("1002");
    west.tell("hangup", "");
    talk(demo, ["1001", "1003"], 50);
    east.tell("hangup", "");
    three.expect_end(0, "caller");
    tool(demo, &["forward", "remove", "1002"]);
    tool(demo, &["forward", "set", "1002", "--no-answer", "1003", "--after", "1"]);
    three.dials_and_west_rings("1002");
    talk(demo, ["1001", "1003"], 50);
    north.tell("hangup", "");
    three.expect_end(0, "callee");
    tool(demo, &["forward", "remove", "1002"]);
    tool(demo, &["forward", "set", "800", "--always", "1002/1,1003/20"]);
    three.dials_and_west_rings("800");
    talk(demo, ["1001", "1003"], 50);

    // RFC 5359, 2.1: who was found is held, music is made for it, and it is back.
    let made = demo.counter("rtp_made");
    east.tell("hold", "");
    let played =
        wait_for(Duration::from_secs(15), || (demo.counter("rtp_made") > made + 150).then_some(()));
    assert!(played.is_some(), "no music");
    east.tell("resume", "");
    talk(demo, ["1001", "1003"], 150);
    east.tell("hangup", "");
    three.expect_end(0, "caller");
    let sound = three.north.phone.as_mut().expect("it runs").heard();
    assert!((sound.hz - 440.0).abs() < 15.0, "{sound:?}");
    three.demo.process.stop();
}
