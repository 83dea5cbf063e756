//! The services of RFC 5359 that Debian's baresip can do by its commands: hold, retrieve, music, consultation; and what
//! a second caller of an agent in a call hears. Its transfers are in `transfer`; it knows no attended ones.

use std::time::Duration;

use serde_json::json;
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
