//! Reliable provisional responses (RFC 3262), message by message.

use abi::{CallState, LegState};

use crate::house::{AGENT_A, House, OFFER, TRUNK, header, with};

/// A call of a trunk that knows 100rel: our INVITE to the phone.
fn ring(house: &mut House, offer: Option<&str>, option: &str) -> String {
    house.register("1001", AGENT_A);
    let text = with(&house.invite("1001", "c1", offer), option);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house.next_to(AGENT_A)
}

fn prack(house: &House, response: &str, cseq: u32, sdp: Option<&str>) -> String {
    let rack = format!("RAck: {} 1 INVITE", header(response, "RSeq: "));
    with(&house.within("PRACK", response, "c1", cseq, sdp), &rack)
}

#[test]
fn each_leg_acknowledges_by_itself() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Supported: 100rel");
    assert!(header(&invite, "Supported: ").contains("100rel"), "{invite}");
    house.reply_with(AGENT_A, &invite, 183, "Require: 100rel\r\nRSeq: 7", Some(OFFER));
    let theirs = house.next_to(AGENT_A);
    assert!(theirs.starts_with("PRACK sip:phone@192.0.2.1:5070 "), "{theirs}");
    assert_eq!(header(&theirs, "RAck: "), "7 1 INVITE");
    assert_eq!(header(&theirs, "CSeq: "), "2 PRACK");
    house.reply(AGENT_A, &theirs, 200, "t1", None);
    let early = house.next_to(TRUNK);
    assert!(early.starts_with("SIP/2.0 183 ") && early.contains("m=audio 30"), "{early}");
    assert_eq!(header(&early, "Require: "), "100rel");
    // What comes again is not taken again; what comes out of order is not taken yet.
    for (status, rseq) in [(183, 7), (180, 9), (180, 6)] {
        let lines = format!("Require: 100rel\r\nRSeq: {rseq}");
        house.reply_with(AGENT_A, &invite, status, &lines, None);
        assert!(house.drain().is_empty(), "{status} {rseq}");
    }
    let text = prack(&house, &early, 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    // Once more it acknowledges nothing.
    house
        .send(TRUNK, &text.replace("CSeq: 2", "CSeq: 3").replace("z9hG4bKPRACK2", "z9hG4bKPRACK3"));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 481 "));
    house.pass_ms(3_000);
    assert!(house.drain_to(TRUNK).is_empty(), "nothing is sent again");
    // The answer was in the 183, so the 2xx needs none on either side.
    house.reply(AGENT_A, &invite, 200, "t1", None);
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK ") && ack.contains("Content-Length: 0\r\n"), "{ack}");
    assert_eq!(header(&ack, "CSeq: "), "1 ACK");
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("Content-Length: 0\r\n"), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    // The numbers of the early dialog go on.
    let bye = house.within("BYE", &ok, "c1", 4, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_A);
    assert_eq!(header(&bye, "CSeq: "), "3 BYE");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.expect_nothing_left();
}

#[test]
fn an_answer_in_a_reliable_response_is_in_the_2xx_for_who_knows_no_prack() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Subject: x");
    house.reply_with(AGENT_A, &invite, 183, "Require: 100rel\r\nRSeq: 1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("PRACK "));
    let early = house.next_to(TRUNK);
    assert!(early.contains("m=audio 30") && !early.contains("RSeq"), "{early}");
    house.reply(AGENT_A, &invite, 200, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("m=audio 30"), "{ok}");
    let description = |text: &str| text.split_once("\r\n\r\n").expect("a body").1.to_owned();
    assert_eq!(description(&ok), description(&early), "the same description");
    house.ack(TRUNK, &ok, "c1");
    assert_eq!(house.states().last(), Some(&CallState::Answered));
}

#[test]
fn packets_before_the_answer_are_counted_as_they_come() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Subject: x");
    let counts = |house: &House| {
        let legs = house.region().legs().iter().map(|(_, row)| row);
        let legs = legs.filter(|row| row.state() == LegState::Ringing);
        let mut counts: Vec<_> = legs.map(|row| (row.packets_in, row.packets_out)).collect();
        counts.sort_unstable();
        counts
    };
    house.reply(AGENT_A, &invite, 183, "t1", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 183 "));
    house.pass_ms(1_100);
    assert_eq!(counts(&house), [(0, 0); 2]);
    for sequence in 1..=5 {
        house.rtp(1, "203.0.113.9:4000", sequence);
    }
    house.pass_ms(1_100);
    assert_eq!(counts(&house), [(0, 5), (5, 0)], "nobody has answered yet");
    assert_eq!(house.states().last(), Some(&CallState::Ringing));
}

#[test]
fn a_2xx_waits_for_the_prack_of_its_answer() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Require: 100rel");
    house.reply(AGENT_A, &invite, 180, "t1", None);
    let ringing = house.next_to(TRUNK);
    // RFC 3262, 3: required, so even what has no description is reliable.
    assert!(ringing.starts_with("SIP/2.0 180 ") && ringing.contains("RSeq: "), "{ringing}");
    house.reply(AGENT_A, &invite, 183, "t1", Some(OFFER));
    assert!(house.drain_to(TRUNK).is_empty(), "one at a time");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(house.drain_to(TRUNK).is_empty(), "after the description");
    let text = prack(&house, &ringing, 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).contains("CSeq: 2 PRACK"));
    let early = house.next_to(TRUNK);
    assert!(early.starts_with("SIP/2.0 183 "), "{early}");
    let number = |response: &str| header(response, "RSeq: ").parse::<u32>().expect("a number");
    assert_eq!(number(&early), number(&ringing) + 1);
    assert!(house.drain_to(TRUNK).is_empty());
    let text = prack(&house, &early, 3, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).contains("CSeq: 3 PRACK"));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 4, None);
    house.send(TRUNK, &bye);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn without_a_prack_the_call_is_given_up() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Supported: 100rel");
    house.reply(AGENT_A, &invite, 183, "t1", Some(OFFER));
    let early = house.next_to(TRUNK);
    house.pass_ms(31_900);
    let again = house.drain_to(TRUNK);
    assert_eq!(again.len(), 6, "at 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s");
    assert!(again.iter().all(|response| *response == early));
    house.pass_ms(200);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 504 "), "{refused}");
    assert!(house.next_to(AGENT_A).starts_with("CANCEL "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn the_callers_prack_brings_the_answer_to_the_called() {
    let mut house = House::new();
    let invite = ring(&mut house, None, "Supported: 100rel");
    house.reply_with(AGENT_A, &invite, 183, "Require: 100rel\r\nRSeq: 3", Some(OFFER));
    let early = house.next_to(TRUNK);
    assert!(early.contains("m=audio 30") && early.contains("RSeq: "), "{early}");
    let text = prack(&house, &early, 2, Some(OFFER));
    house.send(TRUNK, &text);
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("Content-Length: 0\r\n"), "{ok}");
    let theirs = house.next_to(AGENT_A);
    assert!(theirs.starts_with("PRACK ") && theirs.contains("c=IN IP4 127.0.0.1\r\n"), "{theirs}");
    assert_eq!(header(&theirs, "RAck: "), "3 1 INVITE");
    house.reply(AGENT_A, &theirs, 200, "t1", None);
    house.reply(AGENT_A, &invite, 200, "t1", None);
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK ") && ack.contains("Content-Length: 0\r\n"), "{ack}");
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &bye);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_caller_without_100rel_and_without_an_offer_asks_for_none() {
    let mut house = House::new();
    let invite = ring(&mut house, None, "Subject: x");
    assert!(!header(&invite, "Supported: ").contains("100rel"), "{invite}");
}

#[test]
fn forks_keep_their_own_numbers() {
    let mut house = House::new();
    let invite = ring(&mut house, Some(OFFER), "Subject: x");
    for (tag, rseq) in [("f1", 5), ("f2", 50), ("f1", 6), ("f2", 51)] {
        let lines = format!("Require: 100rel\r\nRSeq: {rseq}\r\ntag={tag}");
        house.reply_with(AGENT_A, &invite, 180, &lines, None);
        let prack = house.next_to(AGENT_A);
        assert_eq!(header(&prack, "RAck: "), format!("{rseq} 1 INVITE"));
        assert!(header(&prack, "To: ").ends_with(tag), "{prack}");
        let cseq = if rseq % 10 == 5 || rseq == 50 { 2 } else { 3 };
        assert_eq!(header(&prack, "CSeq: "), format!("{cseq} PRACK"));
    }
    house.reply(AGENT_A, &invite, 200, "f2", Some(OFFER));
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK ") && header(&ack, "To: ").ends_with("f2"), "{ack}");
}
