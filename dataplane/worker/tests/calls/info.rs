//! INFO (RFC 6086), and methods that we do not serve.

use abi::Event;

use crate::house::{AGENT_A, House, OFFER, TRUNK, header, with};

const TELEPHONE: &str = "v=0\r\no=- 1 1 IN IP4 203.0.113.9\r\ns=-\r\nc=IN IP4 203.0.113.9\r\nt=0 0\r\n\
                         m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\n";

fn answered(phone: &str, sdp: &str) -> (House, String, String) {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(sdp));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply_with(AGENT_A, &invite, 200, phone, Some(sdp));
    house.next_to(AGENT_A);
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    (house, invite, ok)
}

fn info(house: &House, ok: &str, cseq: u32, kind: &str, body: &str) -> String {
    let text = house.within("INFO", ok, "c1", cseq, Some(body));
    text.replace("Content-Type: application/sdp", &format!("Content-Type: {kind}"))
}

#[test]
fn a_digit_is_told_and_goes_on_as_info() {
    let (mut house, _, ok) = answered("Allow: INVITE, INFO", OFFER);
    house.events();
    let text = info(&house, &ok, 2, "application/dtmf-relay", "Signal=#\r\nDuration=200\r\n");
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let digit = house.events();
    assert!(
        matches!(digit[..], [Event::Digit { digit: 11, duration_ms: 200, leg: 0, .. }]),
        "{digit:?}"
    );
    let passed = house.next_to(AGENT_A);
    assert!(passed.ends_with("\r\n\r\nSignal=#\r\nDuration=200\r\n"), "{passed}");
    assert_eq!(header(&passed, "Content-Type: "), "application/dtmf-relay");
    house.reply(AGENT_A, &passed, 200, "t1", None);
    let text = info(&house, &ok, 3, "application/dtmf-relay", "Signal=x");
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 400 "));
}

#[test]
fn a_digit_goes_on_as_telephone_event_to_who_takes_those() {
    let (mut house, _, ok) = answered("Allow: INVITE, INFO", TELEPHONE);
    let text = info(&house, &ok, 2, "application/dtmf", "5");
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.pass_ms(1_000);
    assert!(house.drain_to(AGENT_A).is_empty(), "no INFO beside it");
    let packets: Vec<_> = std::mem::take(&mut house.made);
    assert_eq!(packets.len(), 10, "160 ms, and the last packet three times");
    let payloads: Vec<[u8; 4]> =
        packets.iter().map(|(_, _, packet)| packet[12..].try_into().expect("four bytes")).collect();
    assert_eq!(payloads[0], [5, 10, 0, 160]);
    assert_eq!(payloads[7..], [[5, 0x8a, 5, 0]; 3]);
    let timestamps: Vec<&[u8]> = packets.iter().map(|(_, _, packet)| &packet[4..8]).collect();
    assert!(timestamps.iter().all(|timestamp| *timestamp == timestamps[0]));
    assert_eq!(packets[0].2[1], 0x80 | 101, "the first has the marker");
    assert_eq!(packets[1].2[1], 101);
}

#[test]
fn other_content_goes_across_if_the_other_side_takes_it() {
    let (mut house, _, ok) = answered("Allow: INVITE, INFO", OFFER);
    let text = info(&house, &ok, 2, "application/media_control+xml", "<picture_fast_update/>");
    house.send(TRUNK, &text);
    let passed = house.next_to(AGENT_A);
    assert!(passed.ends_with("\r\n\r\n<picture_fast_update/>"), "{passed}");
    assert_eq!(header(&passed, "Content-Type: "), "application/media_control+xml");
    assert!(house.drain_to(TRUNK).is_empty(), "the answer comes from the other side");
    house.reply(AGENT_A, &passed, 415, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 415 "));
    // What waits when the call ends is answered.
    let text = info(&house, &ok, 3, "text/plain", "x");
    house.send(TRUNK, &text);
    house.next_to(AGENT_A);
    let bye = house.within("BYE", &ok, "c1", 4, None);
    house.send(TRUNK, &bye);
    let answers = house.drain_to(TRUNK);
    assert!(answers.iter().any(|answer| answer.starts_with("SIP/2.0 487 ")), "{answers:?}");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn what_nobody_takes_is_refused_by_its_name() {
    let (mut house, _, ok) = answered("Allow: INVITE", OFFER);
    let text = info(&house, &ok, 2, "text/plain", "x");
    house.send(TRUNK, &text);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 415 ") && refused.contains("Accept: "), "{refused}");
    let text = with(&info(&house, &ok, 3, "text/plain", "x"), "Info-Package: nothing");
    house.send(TRUNK, &text);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 469 ") && refused.contains("Recv-Info: "), "{refused}");
    let text = house.within("INFO", &ok, "c1", 4, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "), "nothing to be understood");
    for (method, status) in [("MESSAGE", 405), ("SUBSCRIBE", 489), ("PUBLISH", 405)] {
        let text = house.invite("1001", method, None).replace("INVITE", method);
        house.send(TRUNK, &text);
        let refused = house.next_to(TRUNK);
        assert!(refused.starts_with(&format!("SIP/2.0 {status} ")), "{refused}");
    }
    let text = house.within("INFO", &ok, "c1", 5, None).replace(";tag=0.", ";tag=7.");
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 481 "));
}
