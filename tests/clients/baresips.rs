//! The services of RFC 5359 that Debian's baresip can do by its commands: hold, retrieve, music, consultation; and what
//! a second caller of an agent in a call hears. Its transfers are in `transfer`; it knows no attended ones.

use std::time::Duration;

use crate::demo::Demo;
use crate::lab::{Host, turn, wait_for};
use crate::transfer::{Station, talk, tool};

const SBC: &str = "10.80.1.1";

/// The newest tone that a station has heard.
fn hears(station: &Station, tone: u32) {
    let phone = station.phone.as_ref().expect("it runs");
    let near = |hz: u32| hz.abs_diff(tone) <= 20;
    let heard = wait_for(Duration::from_secs(15), || {
        phone.tones().last().copied().filter(|hz| near(*hz)).map(|_| ())
    });
    assert!(heard.is_some(), "not {tone} Hz, but {:?}:\n{}", phone.tones(), phone.process.output());
}

/// RFC 5359, 2.1 to 2.3.
#[test]
fn a_baresip_holds_its_caller_who_hears_music_and_asks_a_third() {
    let _turn = turn();
    let prompts = crate::media::prompts();
    let folder = prompts.path().to_str().expect("a path");
    let sbc = Host::new("bsbc");
    let [mut east, mut west, mut north] =
        [("beast", "10.80.1.2"), ("bwest", "10.80.2.2"), ("bnorth", "10.80.3.2")]
            .map(|(name, ip)| Station::new(name, ip));
    sbc.connect(SBC, &east.host, east.ip);
    sbc.connect("10.80.2.1", &west.host, west.ip);
    sbc.connect("10.80.3.1", &north.host, north.ip);
    let flags = ["--bind", SBC, "--location", "west=10.80.2.1", "--location", "north=10.80.3.1"];
    let mut demo = Demo::start(Some(&sbc), &[&flags[..], &["--prompts", folder]].concat());
    tool(&demo, &["hold-music", "welcome.wav"]);
    east.start("1001", SBC, "local", 440, &demo);
    west.start("1002", "10.80.2.1", "west", 700, &demo);
    north.start("1003", "10.80.3.1", "north", 1_000, &demo);
    east.tell("dial", &format!("sip:1002@{SBC}"));
    talk(&demo, ["1001", "1002"], 50);
    hears(&west, 440);
    // The prompt is a tone of 500 Hz.
    east.tell("hold", "");
    hears(&west, 500);
    // Meanwhile a third, by the same phone.
    east.tell("dial", &format!("sip:1003@{SBC}"));
    hears(&north, 440);
    east.tell("hangup", "");
    let left = wait_for(Duration::from_secs(10), || (demo.counter("calls_now") == 1).then_some(()));
    assert!(left.is_some(), "the consultation does not end");
    east.tell("resume", "");
    hears(&west, 440);
    talk(&demo, ["1001", "1002"], 50);
    // Who is in a call gets no other (S5-015): the caller hears 486, and the call goes on.
    north.tell("dial", "sip:1001@10.80.3.1");
    north.phone.as_mut().expect("it runs").expect(Duration::from_secs(10), "486 Busy Here");
    talk(&demo, ["1001", "1002"], 50);
    west.tell("hangup", "");
    demo.expect_all_free();
    let tones = west.phone.as_ref().expect("it runs").tones();
    let is_so = |three: &[u32]| {
        three.iter().zip([440, 500, 440]).all(|(hz, tone): (&u32, u32)| hz.abs_diff(tone) <= 20)
    };
    assert!(tones.windows(3).any(is_so), "{tones:?}");
    demo.process.stop();
}
