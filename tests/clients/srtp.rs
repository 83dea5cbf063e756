//! Phones that encrypt (SRTP with keys in SDP) and phones that do not: Debian's baresip on hosts of its own, what
//! crosses the cables, and the death of the data plane under such a call.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::baresip::{Baresip, MediaWay, Way};
use crate::capture::{Capture, Frame, datagrams};
use crate::demo::Demo;
use crate::lab::{Host, signal, turn, wait_for};
use crate::media::{channels, order, recordings, the_call};
use crate::phone::Softphone;
use crate::transfer::{Station, talk};

const SRTP: MediaWay = MediaWay { encryption: Some("srtp-mand"), mux: false };
const BEST_EFFORT: MediaWay = MediaWay { encryption: Some("srtp"), mux: false };
const PLAIN: MediaWay = MediaWay { encryption: None, mux: false };
const MUXED: MediaWay = MediaWay { encryption: Some("srtp-mand"), mux: true };

/// The blade, and a phone on each of two cables.
struct Lab {
    // Its processes end with it.
    _sbc: Host,
    east: Host,
    west: Host,
    demo: Demo,
}

impl Lab {
    fn start(flags: &[&str]) -> Lab {
        let (sbc, east, west) = (Host::new("sbc"), Host::new("east"), Host::new("west"));
        sbc.connect("10.77.1.1", &east, "10.77.1.2");
        sbc.connect("10.77.2.1", &west, "10.77.2.2");
        let places = ["--bind", "10.77.1.1", "--location", "west=10.77.2.1"];
        let demo = Demo::start(Some(&sbc), &[&places[..], flags].concat());
        Lab { _sbc: sbc, east, west, demo }
    }

    fn log_in(&self, agent: &str) -> Value {
        let (host, cable, location) = match agent {
            "1001" => (&self.east, 1, "local"),
            _ => (&self.west, 2, "west"),
        };
        let body = json!({
            "tenant": "demo", "agent": agent, "password": format!("demo-{agent}"), "location": location
        });
        let (status, login) = host.post(&format!("http://10.77.{cable}.1:8080/v1/login"), &body);
        assert_eq!(status, 200, "{login}");
        login
    }

    /// The phone of 1002, which answers, and that of 1001, which calls it.
    fn phones(&self, caller: MediaWay, callee: MediaWay) -> [Baresip; 2] {
        let folder = self.demo.folder();
        let (from, to) = (self.log_in("1001"), self.log_in("1002"));
        let mut callee =
            Baresip::start_with(callee, &self.west, "10.77.2.2", &to, 700, None, folder);
        callee.expect(Duration::from_secs(15), "200 OK");
        let dial = Some("1002");
        let caller = Baresip::start_with(caller, &self.east, "10.77.1.2", &from, 440, dial, folder);
        [caller, callee]
    }

    /// Waits until so many packets went both ways on both legs.
    fn expect_packets(&self, count: u64, phones: &[Baresip; 2]) -> Vec<Value> {
        let talked = wait_for(Duration::from_secs(40), || {
            let calls = self.demo.ask("calls")?;
            let legs = calls["calls"][0]["legs"].as_array()?.clone();
            let enough = |leg: &Value, way: &str| leg[way].as_u64().is_some_and(|n| n > count);
            let whole = legs.len() == 2
                && legs.iter().all(|leg| enough(leg, "packets_in") && enough(leg, "packets_out"));
            whole.then_some(legs)
        });
        let said = |phone: &Baresip| phone.process.output();
        talked.unwrap_or_else(|| {
            let calls = self.demo.ask("calls");
            panic!("no {count} packets: {calls:#?}\n{}\n{}", said(&phones[0]), said(&phones[1]))
        })
    }

    fn captures(&self) -> [Capture; 2] {
        let folder = self.demo.folder();
        [(&self.east, "b107712"), (&self.west, "b107722")]
            .map(|(host, link)| Capture::start(host, link, folder))
    }
}

/// Ends both phones and measures that each heard the other.
fn expect_tones(phones: &mut [Baresip; 2], seconds: f64) {
    for (phone, tone) in phones.iter_mut().zip([700.0, 440.0]) {
        let sound = phone.heard();
        assert!(sound.seconds > seconds, "heard {sound:?}\n{}", phone.process.output());
        assert!((sound.hz - tone).abs() < tone * 0.03, "heard {sound:?} instead of {tone} Hz");
    }
}

/// The recording has what each said, in the clear.
fn expect_recording(demo: &Demo) {
    let files = recordings(&demo.dir().join("recordings"), 1);
    let heard = channels(&files[0]).map(|samples| {
        // Not the beginning, which comes with the first packets.
        let samples = samples.get(8_000..64_000).expect("eight seconds");
        let upwards = samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        upwards as f64 / (samples.len() as f64 / 8_000.0)
    });
    for tone in [440.0, 700.0] {
        let is_it = |hz: &&f64| (**hz - tone).abs() < tone * 0.03;
        assert!(heard.iter().any(|hz| is_it(&hz)), "{heard:?}, and not {tone} Hz");
    }
}

/// The lengths of speech that crossed a cable, RTP and what it is wrapped in.
fn speech(capture: Capture) -> Vec<Frame> {
    let is_speech = |frame: &Frame| {
        let payload = &frame.payload;
        payload.len() > 100
            && payload[0] >> 6 == 2
            && !(192..=223).contains(&payload[1])
            && frame.from.port() >= 10_000
            && frame.to.port() >= 10_000
    };
    datagrams(&capture.end()).into_iter().filter(is_speech).collect()
}

/// How many different bytes the payloads have: G.711 of a tone at one level has few.
fn expect_encrypted(frames: &[Frame], encrypted: bool) {
    assert!(frames.len() > 500, "{} packets", frames.len());
    let trailer = if encrypted { 10 } else { 0 };
    for frame in frames {
        assert_eq!(frame.payload.len(), 172 + trailer, "{frame:?}");
    }
    let mut seen = [0_u32; 256];
    frames
        .iter()
        .flat_map(|frame| &frame.payload[12..172])
        .for_each(|b| seen[usize::from(*b)] += 1);
    let total: u32 = seen.iter().sum();
    let most = seen.iter().max().copied().unwrap_or(0);
    assert_eq!(most < total / 200, encrypted, "a byte of {total} comes {most} times");
}

fn two_phones(flags: &[&str], caller: MediaWay, callee: MediaWay, encrypted: [bool; 2]) {
    let _turn = turn();
    let mut lab = Lab::start(flags);
    let captures = lab.captures();
    let mut phones = lab.phones(caller, callee);
    lab.expect_packets(20, &phones);
    order(&lab.demo, &["record", &the_call(&lab.demo)]);
    lab.expect_packets(520, &phones);
    let streams = encrypted.iter().filter(|it| **it).count() as u64;
    let counted = wait_for(Duration::from_secs(5), || {
        (lab.demo.counter("streams_srtp") == streams).then_some(())
    });
    assert!(counted.is_some(), "{} streams", lab.demo.counter("streams_srtp"));
    order(&lab.demo, &["record", &the_call(&lab.demo), "--stop"]);
    let shown = wait_for(Duration::from_secs(5), || {
        let calls = lab.demo.ask("calls")?;
        let legs = calls["calls"][0]["legs"].as_array()?;
        legs.iter().all(|leg| leg["path_reason"] == "srtp").then_some(())
    });
    assert!(shown.is_some(), "{:#?}", lab.demo.ask("calls"));
    expect_tones(&mut phones, 9.0);
    expect_recording(&lab.demo);
    for (capture, encrypted) in captures.into_iter().zip(encrypted) {
        expect_encrypted(&speech(capture), encrypted);
    }
    for counter in ["drop_srtp_unauthentic", "drop_srtp_replayed", "drop_srtp_unsealed"] {
        assert_eq!(lab.demo.counter(counter), 0, "{counter}");
    }
    lab.demo.expect_all_free();
    lab.demo.process.stop();
}

#[test]
fn a_baresip_that_insists_on_srtp_calls_a_plain_one() {
    two_phones(&[], SRTP, PLAIN, [true, false]);
}

#[test]
fn a_plain_baresip_calls_one_that_insists_on_srtp() {
    two_phones(&[], PLAIN, SRTP, [false, true]);
}

#[test]
fn two_baresips_with_srtp_one_by_one_port() {
    two_phones(&["--srtp", "required"], MUXED, SRTP, [true, true]);
}

#[test]
fn what_is_offered_as_best_effort_is_taken() {
    two_phones(&["--srtp", "offered"], BEST_EFFORT, BEST_EFFORT, [true, true]);
}

/// A call with SRTP goes on over the death of the data plane, with its keys and without a replay.
#[test]
fn an_encrypted_call_survives_the_death_of_the_data_plane() {
    let _turn = turn();
    let mut lab = Lab::start(&[]);
    let mut phones = lab.phones(SRTP, PLAIN);
    lab.expect_packets(150, &phones);
    let pid = lab.demo.status().expect("status")["ccbs"][0]["data_plane_pid"].as_u64();
    signal(pid.expect("a pid") as u32, Signal::KILL);
    let back = wait_for(Duration::from_secs(10), || {
        let status = lab.demo.status()?;
        let ccb = &status["ccbs"][0];
        (ccb["status"] == "normal" && ccb["data_plane_pid"].as_u64() != pid).then_some(())
    });
    assert!(back.is_some(), "it comes back");
    assert_eq!(lab.demo.counter("calls_recovered"), 1);
    lab.expect_packets(800, &phones);
    assert_eq!(lab.demo.counter("streams_srtp"), 1);
    assert_eq!(lab.demo.counter("drop_srtp_unauthentic"), 0);
    expect_tones(&mut phones, 12.0);
    lab.demo.expect_all_free();
    lab.demo.process.stop();
}

/// A phone by TLS that insists on SRTP.
fn start_secret(station: &mut Station, agent: &str, gateway: &str, tone_hz: u32, demo: &Demo) {
    let way = Way { transport: "tls", ca: Some(demo.dir().join("tls-root.pem")) };
    let location = if agent == "1001" { "local" } else { "north" };
    let login = station.log_in(agent, gateway, location);
    let (host, ip) = (&station.host, station.ip);
    let mut phone = Baresip::start_so((&way, SRTP), host, ip, &login, tone_hz, None, demo.folder());
    phone.expect(Duration::from_secs(15), "200 OK");
    station.phone = Some(phone);
}

/// Waits until a plain phone hears these tones and no others.
fn hears(phone: &Softphone, tones: &[u32]) {
    let all = [440, 700, 1_000];
    let heard =
        wait_for(Duration::from_secs(20), || phone.hears(&all).iter().eq(tones).then_some(()));
    assert!(heard.is_some(), "not {tones:?}, but {:?}", phone.hears(&all));
}

/// Waits until so many streams are encrypted.
fn expect_secret(demo: &Demo, streams: u64) {
    let found = wait_for(Duration::from_secs(5), || {
        (demo.counter("streams_srtp") == streams).then_some(())
    });
    assert!(found.is_some(), "{} streams", demo.counter("streams_srtp"));
}

/// Secret media by secret signalling all the way: two baresips on TLS with SRTP and a plain phone, through a transfer
/// and in a mix. Nothing crosses the cables of the two in plain.
#[test]
fn secret_legs_are_transferred_and_mixed() {
    let _turn = turn();
    let (sbc, west) = (Host::new("ksbc"), Host::new("kwest"));
    let [mut east, mut north] =
        [("keast", "10.81.1.2"), ("knorth", "10.81.3.2")].map(|(name, ip)| Station::new(name, ip));
    sbc.connect("10.81.1.1", &east.host, east.ip);
    sbc.connect("10.81.2.1", &west, "10.81.2.2");
    sbc.connect("10.81.3.1", &north.host, north.ip);
    let places = ["--bind", "10.81.1.1", "--location", "west=10.81.2.1"];
    let more = ["--location", "north=10.81.3.1", "--tls", "5061", "--route", "702=mix:7"];
    let mut demo = Demo::start(Some(&sbc), &[&places[..], &more].concat());
    start_secret(&mut east, "1001", "10.81.1.1", 440, &demo);
    start_secret(&mut north, "1003", "10.81.3.1", 1_000, &demo);
    let body =
        json!({"tenant": "demo", "agent": "1002", "password": "demo-1002", "location": "west"});
    let (status, login) = west.post("http://10.81.2.1:8080/v1/login", &body);
    assert_eq!(status, 200, "{login}");
    let plain = Softphone::start_on(&west, &login, "10.81.2.2".parse().expect("an address"), 700);
    plain.register();
    let captures = [(&east.host, "b108112"), (&north.host, "b108132")]
        .map(|(host, link)| Capture::start(host, link, demo.folder()));

    east.tell("dial", "sip:1002@10.81.1.1:5061;transport=tls");
    talk(&demo, ["1001", "1002"], 150);
    hears(&plain, &[440]);
    expect_secret(&demo, 1);
    east.tell("transfer", "sip:1003@10.81.1.1");
    talk(&demo, ["1002", "1003"], 300);
    hears(&plain, &[1_000]);
    expect_secret(&demo, 1);
    assert_eq!(demo.counter("transfers_completed"), 1);
    plain.hang_up();
    demo.expect_all_free();

    plain.call("702");
    east.tell("dial", "sip:702@10.81.1.1:5061;transport=tls");
    north.tell("dial", "sip:702@10.81.3.1:5061;transport=tls");
    hears(&plain, &[440, 1_000]);
    let mixed = wait_for(Duration::from_secs(20), || {
        let calls = demo.ask("calls")?["calls"].as_array()?.clone();
        let legs = calls.iter().filter_map(|call| call["legs"].as_array()?.first());
        let went = |leg: &&Value, way: &str| leg[way].as_u64().is_some_and(|count| count > 250);
        let whole = legs.filter(|leg| went(leg, "packets_in") && went(leg, "packets_out")).count();
        (whole == 3 && demo.counter("mixed_now") == 3).then_some(())
    });
    assert!(mixed.is_some(), "{:#?}", demo.ask("calls"));
    expect_secret(&demo, 2);
    for station in [&east, &north] {
        station.tell("hangup", "");
    }
    plain.hang_up();
    demo.expect_all_free();
    for counter in ["drop_srtp_unauthentic", "drop_srtp_replayed", "drop_srtp_unsealed"] {
        assert_eq!(demo.counter(counter), 0, "{counter}");
    }
    for (capture, station) in captures.into_iter().zip([&mut east, &mut north]) {
        expect_encrypted(&speech(capture), true);
        let phone = station.phone.as_mut().expect("it runs");
        let sound = phone.heard();
        assert!(sound.seconds > 3.0, "heard {sound:?}\n{}", phone.process.output());
    }
    plain.end();
    demo.process.stop();
}
