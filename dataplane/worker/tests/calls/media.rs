//! Media functions and the bypass: what control orders of a leg, what comes of it, and which way its
//! packets go.

use abi::spool::{Record, SpoolReader, SpoolSide};
use abi::{
    Command, Counter, DigitsCause, Event, MediaOrder, MediaPath, MixRole, OpResult, PathReason,
};
use base::CallRef;
use worker::{BypassNews, FlowStats, PairId, Verdict, WhyNot};

use crate::house::{AGENT_A, House, OFFER, TRUNK};

/// Where both phones of these calls send from and listen, by [`OFFER`].
const PHONE: &str = "203.0.113.9:4000";
const PLAY_ONCE: MediaOrder = MediaOrder::Play { times: 1 };

/// RTP of a phone: 20 ms of one code.
fn rtp(sequence: u16, payload: u8) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 160).to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes.extend([payload; 160]);
    bytes
}

/// A call that stands, and that both sides of are heard.
fn call(house: &mut House) -> CallRef {
    house.register("1001", AGENT_A);
    house.call_through("1001", AGENT_A, "c1");
    house.events();
    for pair in [0, 1] {
        assert!(matches!(house.media(pair, PHONE, rtp(1, 0xff)), Verdict::Send { .. }));
    }
    house.legs()[0].call()
}

fn order(house: &mut House, call: CallRef, leg: u8, order: MediaOrder, name: &[u8]) {
    house.command(Command::Media { op: 77, call, leg, order }, name);
}

/// A call from the trunk that the data plane answers itself.
fn answered_here(house: &mut House, number: &str, call_id: &str) -> CallRef {
    house.attach_control();
    house.send(TRUNK, &house.invite(number, call_id, Some(OFFER)));
    house.next_to(TRUNK);
    let (ask, call) = house.asked(number);
    house.command(Command::Answer { op: 5, ask, call }, b"");
    assert_eq!(house.done(), [(5, OpResult::Ok)]);
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("m=audio"), "{ok}");
    assert!(!ok.contains("203.0.113.9"), "our address, not the peer's: {ok}");
    house.ack(TRUNK, &ok, call_id);
    call
}

#[test]
fn a_standing_call_goes_past_the_process_and_comes_back_for_a_recording() {
    let mut house = House::with_bypass();
    let call = call(&mut house);
    house.pass_ms(1_100);
    let mut pairs: Vec<u32> = house.entering.iter().map(|(pair, _)| pair.0).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [0, 1], "{:?}", house.legs());
    for (_, flow) in &house.entering {
        assert_eq!((flow.source.to_string().as_str(), flow.ssrc, flow.dscp), (PHONE, 7, 46));
        assert!(flow.splice.is_none() && flow.local != flow.from);
    }
    house.bypass(0, BypassNews::On);
    house.bypass(1, BypassNews::Refused(WhyNot::NextHop));
    house.pass_ms(10);
    let counted = FlowStats { packets: 50, bytes: 8_600, newest: 51, ..FlowStats::default() };
    house.bypass_counts(counted);
    house.pass_ms(1_100);
    let paths: Vec<_> = house.legs().iter().map(|row| (row.path(), row.path_reason())).collect();
    assert!(paths.contains(&(MediaPath::Xdp, PathReason::None)), "{paths:?}");
    assert!(house.entering.len() >= 3, "what was refused is asked for again");
    assert_eq!(house.counter(Counter::RtpBypassed), 50);
    assert!(house.legs().iter().any(|row| row.packets_in == 51), "one here and fifty past");
    assert_eq!(house.counter(Counter::StreamsXdp), 1);

    order(&mut house, call, 0, MediaOrder::Record { recording: 9 }, b"");
    assert_eq!(house.done(), [(77, OpResult::Ok)]);
    assert!(house.leaving.contains(&PairId(0)));
    house.bypass(0, BypassNews::Off(FlowStats { packets: 52, newest: 53, ..counted }));
    house.pass_ms(1_100);
    for row in house.legs() {
        assert_eq!((row.path(), row.path_reason()), (MediaPath::IoUring, PathReason::Recording));
    }
    assert!(house.legs().iter().any(|row| row.packets_in == 53));
    house.entering.clear();
    order(&mut house, call, 0, MediaOrder::StopRecording, b"");
    assert_eq!(house.entering.len(), 2, "nothing needs the payload any more");
}

#[test]
fn a_packet_that_the_bypass_does_not_know_brings_the_stream_back() {
    let mut house = House::with_bypass();
    call(&mut house);
    house.pass_ms(1_100);
    house.bypass(0, BypassNews::On);
    house.bypass(1, BypassNews::On);
    house.bypass_counts(FlowStats::default());
    // A new sender at the locked address: 200 ms of another SSRC, and nothing of the locked one.
    house.pass_ms(2_000);
    for sequence in 500..512 {
        assert!(sequence == 511 || !house.leaving.contains(&PairId(0)), "not yet");
        let mut packet = rtp(sequence, 0xff);
        packet[11] = 99;
        house.media(0, PHONE, packet);
        house.pass_ms(20);
    }
    assert!(house.leaving.contains(&PairId(0)), "{:?}", house.leaving);
}

#[test]
fn a_changed_description_and_a_hang_up_leave_the_bypass() {
    for hang_up in [false, true] {
        let mut house = House::with_bypass();
        house.register("1001", AGENT_A);
        let (_, ok) = house.call_through("1001", AGENT_A, "c1");
        for pair in [0, 1] {
            house.media(pair, PHONE, rtp(1, 0xff));
        }
        house.pass_ms(1_100);
        for pair in [0, 1] {
            house.bypass(pair, BypassNews::On);
        }
        let counted = FlowStats { packets: 7, bytes: 8, newest: 8, ..FlowStats::default() };
        house.bypass_counts(counted);
        let what = if hang_up { "BYE" } else { "INVITE" };
        let sdp = OFFER.replace("4000", "4002");
        let sdp = (!hang_up).then_some(sdp.as_str());
        let again = house.within(what, &ok, "c1", 2, sdp);
        house.send(TRUNK, &again);
        if !hang_up {
            let invite = loop {
                let message = house.next_to(AGENT_A);
                if message.starts_with("INVITE") {
                    break message;
                }
            };
            house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
        }
        let mut left: Vec<u32> = house.leaving.iter().map(|pair| pair.0).collect();
        left.sort_unstable();
        left.dedup();
        assert_eq!(left, [0, 1], "{what}");
        assert!(house.counter(Counter::RtpBypassed) >= 14, "{what}: counted to the last");
    }
}

#[test]
fn a_prompt_is_played_in_place_of_the_peer_and_ends() {
    let mut house = House::new();
    let call = call(&mut house);
    order(&mut house, call, 0, PLAY_ONCE, b"welcome.wav");
    assert_eq!(house.loading, ["welcome.wav"]);
    assert!(house.done().is_empty(), "its completion comes with its end");
    house.loaded("welcome.wav", Some(&[8_000; 1_600]));
    for sequence in 2..7 {
        house.pass_ms(20);
        // The peer's voice is not heard meanwhile; the leg's own is.
        assert!(!matches!(house.media(1, PHONE, rtp(sequence, 0x11)), Verdict::Send { .. }));
        assert!(matches!(house.media(0, PHONE, rtp(sequence, 0x22)), Verdict::Send { .. }));
    }
    house.pass_ms(500);
    assert_eq!(house.done(), [(77, OpResult::Ok)]);
    assert_eq!(house.made.len(), 10, "200 ms");
    let first = &house.made[0].2;
    assert_eq!((first.len(), first[1]), (172, 0x80), "PCMU, with the marker");
    for pair in house.made.windows(2) {
        let number = |packet: &[u8], at: usize| {
            u32::from_be_bytes(packet[at..at + 4].try_into().expect("4"))
        };
        assert_eq!(number(&pair[1].2, 4).wrapping_sub(number(&pair[0].2, 4)), 160);
        assert_eq!(pair[0].2[8..12], pair[1].2[8..12], "one sender");
    }
    assert!(matches!(house.media(1, PHONE, rtp(8, 0x11)), Verdict::Send { .. }), "heard again");
    assert_eq!(house.counter(Counter::RtpMade), 10);
}

#[test]
fn prompts_that_are_not_there_are_stopped_or_outlive_their_call_complete() {
    let mut house = House::new();
    let call = call(&mut house);
    order(&mut house, call, 0, PLAY_ONCE, b"nothing.wav");
    house.loaded("nothing.wav", None);
    assert_eq!(house.done(), [(77, OpResult::NoSuchPrompt)]);
    order(&mut house, call, 0, MediaOrder::StopPlaying, b"");
    assert_eq!(house.done(), [(77, OpResult::Refused)], "nothing plays");
    order(&mut house, call, 0, MediaOrder::Play { times: 0 }, b"music.wav");
    house.loaded("music.wav", Some(&[1; 160]));
    house.pass_ms(10_000);
    assert!(house.made.len() >= 499, "it has no end: {}", house.made.len());
    order(&mut house, call, 0, PLAY_ONCE, b"other.wav");
    assert_eq!(house.done(), [(77, OpResult::Stopped)], "the new one takes its place");
    house.command(Command::Release { op: 6, call, cause: 0 }, b"");
    let done = house.done();
    assert!(
        done.contains(&(77, OpResult::Stopped)) && done.contains(&(6, OpResult::Ok)),
        "{done:?}"
    );
    order(&mut house, call, 0, PLAY_ONCE, b"late.wav");
    let late = house.done();
    assert!(matches!(late[..], [(77, OpResult::NoSuchCall | OpResult::Refused)]), "{late:?}");
}

/// A telephone-event packet (RFC 4733): 100 ms of a key, with or without its end.
fn key(sequence: u16, event: u8, end: bool, timestamp: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 101];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes.extend([event, if end { 0x8a } else { 0x0a }, 3, 32]);
    bytes
}

#[test]
fn digits_are_told_once_collected_and_stop_the_prompt() {
    let mut house = House::new();
    let offer = OFFER
        .replace("RTP/AVP 0 8\r\n", "RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n");
    house.attach_control();
    house.send(TRUNK, &house.invite("700", "c1", Some(&offer)));
    house.next_to(TRUNK);
    let (ask, call) = house.asked("700");
    house.command(Command::Answer { op: 5, ask, call }, b"");
    let ok = house.next_to(TRUNK);
    assert!(ok.contains("telephone-event"), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    house.events();
    let collect = MediaOrder::Collect {
        max: 4,
        first_ms: 5_000,
        next_ms: 2_000,
        ends: 1 << 11,
        barge_in: true,
    };
    house.command(Command::Media { op: 8, call, leg: 0, order: collect }, b"");
    order(&mut house, call, 0, MediaOrder::Play { times: 0 }, b"menu.wav");
    house.loaded("menu.wav", Some(&[5; 160]));
    house.media(0, PHONE, rtp(1, 0xff));
    let mut sequence = 2;
    for (at, event) in [4, 2, 11].into_iter().enumerate() {
        for end in [false, false, true, true, true] {
            house.media(0, PHONE, key(sequence, event, end, 1_000 * (at as u32 + 1)));
            sequence += 1;
        }
        house.pass_ms(200);
    }
    let mut digits = Vec::new();
    let mut causes = Vec::new();
    let mut done = Vec::new();
    for event in house.events() {
        match event {
            Event::Digit { digit, duration_ms, .. } => digits.push((digit, duration_ms)),
            Event::Digits { op, cause, .. } => causes.push((op, cause)),
            Event::Done { op, result } => done.push((op, result)),
            _ => {}
        }
    }
    assert_eq!(digits, [(4, 100), (2, 100), (11, 100)]);
    assert_eq!(causes, [(8, DigitsCause::Ended)]);
    assert_eq!(done, [(77, OpResult::Stopped), (8, OpResult::Ok)]);
    // Nobody presses anything.
    house.command(Command::Media { op: 9, call, leg: 0, order: collect }, b"");
    house.pass_ms(5_100);
    assert!(house.events().contains(&Event::Digits {
        op: 9,
        call,
        leg: 0,
        cause: DigitsCause::Timeout
    }));
}

/// The bytes of both sides of a recording, by position.
fn sides(spooled: &[u8], length: usize) -> [Vec<u8>; 2] {
    let mut sides = [vec![0; length], vec![0; length]];
    for block in SpoolReader::new(spooled) {
        for record in block.records() {
            if let Record::Audio { side, position, payload, .. } = record {
                let side = &mut sides[usize::from(side == SpoolSide::Called)];
                let start = position as usize;
                if let Some(place) = side.get_mut(start..start + payload.len()) {
                    place.copy_from_slice(payload);
                }
            }
        }
    }
    sides
}

#[test]
fn a_recording_has_both_sides_and_leaves_a_pause_out() {
    let mut house = House::new();
    let call = call(&mut house);
    order(&mut house, call, 0, MediaOrder::Record { recording: 9 }, b"");
    order(&mut house, call, 0, MediaOrder::Record { recording: 10 }, b"");
    assert_eq!(house.done(), [(77, OpResult::Ok), (77, OpResult::Refused)], "one at a time");
    for sequence in 2..102 {
        if sequence == 52 {
            order(&mut house, call, 0, MediaOrder::PauseRecording, b"");
        }
        if sequence == 77 {
            order(&mut house, call, 0, MediaOrder::ResumeRecording, b"");
        }
        house.media(0, PHONE, rtp(sequence, 0x22));
        house.media(1, PHONE, rtp(sequence, 0x33));
        house.pass_ms(20);
    }
    house.command(Command::Release { op: 6, call, cause: 0 }, b"");
    let [caller, called] = sides(&house.spooled, 100 * 160);
    for (side, code) in [(&caller, 0x22), (&called, 0x33)] {
        assert!(side[..8_000].iter().all(|byte| *byte == code), "the first second");
        assert!(side[8_000..12_000].iter().all(|byte| *byte == 0), "half a second left out");
        assert!(side[12_000..].iter().all(|byte| *byte == code), "and the rest");
    }
    assert!(house.spooled.len() >= 24_000);
    house.pass_ms(1_100);
    assert_eq!(house.counter(Counter::RecordingsNow), 0);
}

#[test]
fn a_mix_lets_each_hear_the_others_and_gives_a_leg_back_to_its_call() {
    let mut house = House::new();
    let calls: Vec<CallRef> =
        ["c1", "c2", "c3"].map(|call_id| answered_here(&mut house, "700", call_id)).into();
    let none = CallRef::default();
    let role = |role| MediaOrder::Mix { mix: 3, role, to: none, to_leg: 0 };
    order(&mut house, calls[0], 0, role(MixRole::Participant), b"");
    order(&mut house, calls[1], 0, role(MixRole::Participant), b"");
    order(&mut house, calls[2], 0, role(MixRole::Monitor), b"");
    // Levels whose sum is easy to see: mu-law of about 1,000 and 2,000, and a monitor who shouts.
    let codes = [media::g711::Law::Mu.encode(1_000), media::g711::Law::Mu.encode(2_000), 0x80];
    for sequence in 1..60 {
        for (pair, code) in codes.iter().enumerate() {
            house.media(pair as u32, PHONE, rtp(sequence, *code));
        }
        house.pass_ms(20);
    }
    let level = |pair: u32| {
        let last = house.made.iter().rev().find(|(socket, ..)| socket.pair() == PairId(pair));
        let packet = &last.expect("everybody hears something").2;
        i32::from(media::g711::Law::Mu.decode(packet[172 - 80]))
    };
    let levels = [level(0), level(1), level(2)];
    for (heard, expected) in levels.iter().zip([2_000, 1_000, 3_000]) {
        assert!((heard - expected).abs() < 150, "{levels:?}");
    }
    for call in calls {
        order(&mut house, call, 0, MediaOrder::LeaveMix, b"");
        house.command(Command::Release { op: 6, call, cause: 0 }, b"");
    }
    let made = house.made.len();
    house.pass_ms(200);
    assert_eq!(house.made.len(), made, "an empty mix is gone");
}

#[test]
fn a_call_that_hears_nothing_ends_unless_it_is_on_hold() {
    for held in [false, true] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        let (_, ok) = house.call_through("1001", AGENT_A, "c1");
        for pair in [0, 1] {
            house.media(pair, PHONE, rtp(1, 0xff));
        }
        if held {
            let sdp = OFFER.replace("sendrecv", "sendonly");
            let hold = house.within("INVITE", &ok, "c1", 2, Some(&sdp));
            house.send(TRUNK, &hold);
            let invite =
                house.drain_to(AGENT_A).into_iter().find(|text| text.starts_with("INVITE"));
            let answer = OFFER.replace("sendrecv", "recvonly");
            house.reply(AGENT_A, &invite.expect("the hold goes on"), 200, "t1", Some(&answer));
            let ack = house.within("ACK", &ok, "c1", 2, None);
            house.send(TRUNK, &ack);
        }
        let mut ended = false;
        for _ in 0..320 {
            house.pass_ms(1_000);
            for (to, text) in house.drain() {
                ended |= text.starts_with("BYE");
                if text.starts_with("OPTIONS") {
                    house.reply(&to.to_string(), &text, 200, "t1", None);
                }
            }
        }
        assert_eq!(ended, !held, "held: {held}");
        assert_eq!(house.counter(Counter::MediaTimeouts), u64::from(!held));
    }
}

/// Video is relayed as audio is, through ports of its own, and goes when a description leaves it out.
#[test]
fn video_has_ports_of_its_own_and_gives_them_back() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let video = format!("{OFFER}m=video 4100 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n");
    house.send(TRUNK, &house.invite("1001", "c1", Some(&video)));
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert!(invite.contains("m=video 3") && invite.contains("H264"), "{invite}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(&video));
    house.next_to(AGENT_A);
    let ok = house.next_to(TRUNK);
    assert!(ok.contains("m=video 3"), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    // Four pairs: each that hears its peer's video sends it out of another one.
    let camera = "203.0.113.9:4100";
    let mut from: Vec<u32> = Vec::new();
    for pair in 0..4 {
        if let Verdict::Send { socket, to } = house.media(pair, camera, rtp(1, 0x44)) {
            assert_eq!(to.to_string(), camera);
            assert_ne!(socket.pair(), PairId(pair));
            from.push(pair);
        }
    }
    assert_eq!(from.len(), 2, "{from:?}");
    // The caller switches its camera off.
    let again = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &again);
    let invite = house.drain_to(AGENT_A).into_iter().find(|text| text.starts_with("INVITE"));
    house.reply(AGENT_A, &invite.expect("it goes on"), 200, "t1", Some(OFFER));
    let ack = house.within("ACK", &ok, "c1", 2, None);
    house.send(TRUNK, &ack);
    for pair in from {
        assert!(matches!(house.media(pair, camera, rtp(2, 0x44)), Verdict::Drop(_)));
    }
    let bye = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &bye);
    let bye = house.drain_to(AGENT_A).into_iter().find(|text| text.starts_with("BYE"));
    house.reply(AGENT_A, &bye.expect("it goes on"), 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}
