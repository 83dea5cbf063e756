//! UPDATE (RFC 3311), re-INVITEs that meet, and hold as it was before RFC 3264.

use crate::house::{AGENT_A, House, OFFER, TRUNK, header, with};

const ALLOW: &str = "Allow: INVITE, ACK, BYE, CANCEL, UPDATE, PRACK, INFO";

fn answered(phone: &str, trunk: &str) -> (House, String, String) {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = with(&house.invite("1001", "c1", Some(OFFER)), trunk);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply_with(AGENT_A, &invite, 200, phone, Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    (house, invite, ok)
}

fn held() -> String {
    OFFER.replace("a=sendrecv", "a=sendonly")
}

#[test]
fn an_update_goes_across() {
    let (mut house, _, ok) = answered(ALLOW, "Subject: x");
    let text = house.within("UPDATE", &ok, "c1", 2, Some(&held()));
    house.send(TRUNK, &text);
    let update = house.next_to(AGENT_A);
    assert!(
        update.starts_with("UPDATE sip:phone@") && update.contains("a=sendonly\r\n"),
        "{update}"
    );
    assert!(update.contains("c=IN IP4 127.0.0.1\r\n") && update.contains("Contact: "), "{update}");
    // Before it is answered a second one is too early, and an offer of the phone meets it.
    let text = house.within("UPDATE", &ok, "c1", 3, Some(OFFER));
    house.send(TRUNK, &text);
    let early = house.next_to(TRUNK);
    assert!(early.starts_with("SIP/2.0 500 ") && early.contains("Retry-After: "), "{early}");
    house.reply(AGENT_A, &update, 200, "t1", Some(&OFFER.replace("sendrecv", "recvonly")));
    let answer = house.next_to(TRUNK);
    assert!(answer.starts_with("SIP/2.0 200 ") && answer.contains("a=recvonly\r\n"), "{answer}");
    assert_eq!(header(&answer, "CSeq: "), "2 UPDATE");
    assert!(answer.contains("Contact: ") && answer.contains("Session-Expires: "), "{answer}");
    let bye = house.within("BYE", &ok, "c1", 4, None);
    house.send(TRUNK, &bye);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn offers_that_meet_are_refused_by_491() {
    let (mut house, invite, ok) = answered(ALLOW, ALLOW);
    let text = house.within("UPDATE", &ok, "c1", 2, Some(&held()));
    house.send(TRUNK, &text);
    let update = house.next_to(AGENT_A);
    let text = house.within("UPDATE", &invite, "", 1, Some(&held()));
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 491 "));
    house.reply(AGENT_A, &update, 491, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 491 "));
    // Nothing is left of it.
    let text = house.within("UPDATE", &invite, "", 2, Some(&held()));
    house.send(AGENT_A, &text);
    let update = house.next_to(TRUNK);
    assert!(update.starts_with("UPDATE sip:trunk@"), "{update}");
    house.reply(TRUNK, &update, 200, "", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
}

#[test]
fn who_takes_no_update_gets_a_reinvite() {
    for knows in [false, true] {
        let allow = if knows { ALLOW } else { "Allow: INVITE, ACK, BYE" };
        let (mut house, _, ok) = answered(allow, "Subject: x");
        let text = house.within("UPDATE", &ok, "c1", 2, Some(&held()));
        house.send(TRUNK, &text);
        if knows {
            // It says so, and it is not true.
            let update = house.next_to(AGENT_A);
            house.reply(AGENT_A, &update, 501, "t1", None);
        }
        let reinvite = house.next_to(AGENT_A);
        assert!(
            reinvite.starts_with("INVITE ") && reinvite.contains("a=sendonly\r\n"),
            "{reinvite}"
        );
        house.reply(AGENT_A, &reinvite, 200, "t1", Some(OFFER));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let answer = house.next_to(TRUNK);
        assert!(
            answer.starts_with("SIP/2.0 200 ") && answer.contains("CSeq: 2 UPDATE"),
            "{answer}"
        );
        // A refusal comes back as well.
        let text = house.within("UPDATE", &ok, "c1", 3, Some(OFFER));
        house.send(TRUNK, &text);
        let reinvite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &reinvite, 488, "t1", None);
        house.next_to(AGENT_A);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 488 "));
    }
}

#[test]
fn an_update_without_an_offer_moves_the_target_only() {
    let (mut house, _, ok) = answered("Subject: x", "Subject: x");
    let text = house.within("UPDATE", &ok, "c1", 2, None);
    house.send(TRUNK, &text.replace("<sip:trunk@10.9.0.1:5060>", "<sip:moved@10.9.0.7:5066>"));
    let answer = house.next_to(TRUNK);
    assert!(answer.starts_with("SIP/2.0 200 ") && answer.contains("Content-Length: 0"), "{answer}");
    assert!(house.drain_to(AGENT_A).is_empty());
    let (call, _) = house.calls().into_iter().find(|(_, row)| row.generation != 0).expect("a call");
    let call = base::CallRef { slot: call, generation: 1 };
    house.command(abi::Command::Release { op: 1, call, cause: 0 }, b"");
    let bye = house.next_to("10.9.0.7:5066");
    assert!(bye.starts_with("BYE sip:moved@10.9.0.7:5066 "), "{bye}");
}

#[test]
fn an_update_before_the_answer_goes_across() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let lines = format!("Supported: 100rel\r\n{ALLOW}");
    let text = with(&house.invite("1001", "c1", Some(OFFER)), &lines);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    // Before the first answer no second offer may be made.
    house.reply_with(AGENT_A, &invite, 180, ALLOW, None);
    let ringing = house.next_to(TRUNK);
    let text = house.within("UPDATE", &ringing, "c1", 2, Some(&held()));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 500 "));
    let lines = format!("Require: 100rel\r\nRSeq: 1\r\n{ALLOW}");
    house.reply_with(AGENT_A, &invite, 183, &lines, Some(OFFER));
    let theirs = house.next_to(AGENT_A);
    house.reply(AGENT_A, &theirs, 200, "t1", None);
    let early = house.next_to(TRUNK);
    let rack = format!("RAck: {} 1 INVITE", header(&early, "RSeq: "));
    let text = with(&house.within("PRACK", &early, "c1", 3, None), &rack);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    // The caller changes its mind, then the called.
    let text = house.within("UPDATE", &early, "c1", 4, Some(&held()));
    house.send(TRUNK, &text);
    let update = house.next_to(AGENT_A);
    assert!(update.starts_with("UPDATE ") && update.contains("a=sendonly\r\n"), "{update}");
    assert_eq!(header(&update, "CSeq: "), "3 UPDATE");
    house.reply(AGENT_A, &update, 200, "t1", Some(OFFER));
    assert!(house.next_to(TRUNK).contains("CSeq: 4 UPDATE"));
    let text = house.within("UPDATE", &invite, "", 1, Some(&held()));
    house.send(AGENT_A, &text);
    let update = house.next_to(TRUNK);
    assert!(update.starts_with("UPDATE sip:trunk@"), "{update}");
    house.reply(TRUNK, &update, 200, "fc1", Some(OFFER));
    assert!(house.next_to(AGENT_A).contains("CSeq: 1 UPDATE"));
    house.reply(AGENT_A, &invite, 200, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 5, None);
    house.send(TRUNK, &bye);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_reinvite_that_meets_another_is_made_again_unseen() {
    let (mut house, _, ok) = answered("Subject: x", "Subject: x");
    let text = house.within("INVITE", &ok, "c1", 2, Some(&held()));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let first = house.next_to(AGENT_A);
    house.reply(AGENT_A, &first, 491, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(house.drain_to(TRUNK).is_empty(), "the trunk hears nothing of it");
    // We made the Call-ID of this dialog: 2.1 to 4 s.
    house.pass_ms(2_099);
    assert!(house.drain().is_empty());
    let second = next_within(&mut house, 1_902);
    let body = |text: &str| text.split_once("\r\n\r\n").expect("a body").1.to_owned();
    assert!(second.starts_with("INVITE ") && body(&second) == body(&first), "{second}");
    house.reply(AGENT_A, &second, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let text = house.within("ACK", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    // Who never stops meets its own limit.
    let text = house.within("INVITE", &ok, "c1", 3, Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let mut waits = house.next_to(AGENT_A);
    for again in 0..4 {
        house.reply(AGENT_A, &waits, 491, "t1", None);
        house.next_to(AGENT_A);
        if again != 3 {
            waits = next_within(&mut house, 4_001);
        }
    }
    let told = house.next_to(TRUNK);
    assert!(told.starts_with("SIP/2.0 491 "), "{told}");
}

/// What the phone gets within so many milliseconds, before it comes again.
fn next_within(house: &mut House, ms: u64) -> String {
    for _ in 0..=ms / 10 {
        if let Some(text) = house.drain_to(AGENT_A).pop() {
            return text;
        }
        house.pass_ms(10);
    }
    panic!("nothing for {ms} ms");
}

#[test]
fn a_hold_by_an_address_of_zeros_is_a_hold() {
    let (mut house, invite, _) = answered("Subject: x", "Subject: x");
    let zeros = OFFER.replace("c=IN IP4 203.0.113.9", "c=IN IP4 0.0.0.0");
    let text = house.within("INVITE", &invite, "", 1, Some(&zeros));
    house.send(AGENT_A, &text);
    house.next_to(AGENT_A);
    let reinvite = house.next_to(TRUNK);
    // We have an address, so the direction says it.
    assert!(reinvite.contains("a=sendonly\r\n"), "{reinvite}");
    assert!(reinvite.contains("c=IN IP4 127.0.0.1\r\n"), "{reinvite}");
}
