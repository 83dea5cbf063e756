//! Session timers (RFC 4028): who renews, and what happens when nobody does.

use abi::Counter;
use worker::MediaConfig;

use crate::house::{AGENT_A, House, OFFER, TRUNK, at_once, header, with};

fn answered(phone: &str, trunk: &str) -> (House, String, String) {
    // Nobody talks here.
    let media = MediaConfig { timeout: None, ..MediaConfig::default() };
    let mut house = House::with(at_once(), media);
    house.register("1001", AGENT_A);
    let text = with(&house.invite("1001", "c1", Some(OFFER)), trunk);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert_eq!(header(&invite, "Session-Expires: "), "1800");
    house.reply_with(AGENT_A, &invite, 200, phone, Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    (house, invite, ok)
}

/// Lets time pass; the phones say that they are there.
fn pass(house: &mut House, seconds: u64) -> Vec<String> {
    let mut others = Vec::new();
    for _ in 0..seconds {
        house.pass_ms(1_000);
        for (to, text) in house.drain() {
            let peer = to.to_string();
            if text.starts_with("OPTIONS ") {
                house.reply(&peer, &text, 200, "t1", None);
            } else if !others.contains(&text) {
                // What nobody answers comes again.
                others.push(text);
            }
        }
    }
    others
}

#[test]
fn a_peer_that_renews_keeps_its_call_and_one_that_does_not_loses_it() {
    let renews = "Session-Expires: 600;refresher=uas\r\nRequire: timer";
    let trunk = "Supported: timer\r\nSession-Expires: 300;refresher=uac";
    let (mut house, invite, ok) = answered(renews, trunk);
    assert_eq!(header(&ok, "Session-Expires: "), "300;refresher=uac");
    assert_eq!(header(&ok, "Require: "), "timer");
    for round in 0..4 {
        let sent = pass(&mut house, 150);
        assert!(sent.is_empty(), "{sent:?}");
        let text = with(&house.within("UPDATE", &ok, "c1", 2 + round, None), trunk);
        house.send(TRUNK, &text);
        let renewed = house.next_to(TRUNK);
        assert_eq!(header(&renewed, "Session-Expires: "), "300;refresher=uac");
        if round == 2 {
            let text = with(
                &house.within("UPDATE", &invite, "", 1, None),
                "Session-Expires: 600\r\nSupported: timer",
            );
            house.send(AGENT_A, &text);
            assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
        }
    }
    // 32 s before the end of the trunk's interval.
    assert!(pass(&mut house, 267).is_empty());
    let sent = pass(&mut house, 2);
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(
        sent.iter().all(|bye| bye.starts_with("BYE ") && bye.contains("Reason: SIP;cause=408"))
    );
    assert_eq!(house.count(Counter::SessionsExpired), 1);
}

#[test]
fn we_renew_by_update_for_who_takes_it_else_by_the_same_description() {
    let allow =
        "Allow: INVITE, ACK, BYE, UPDATE\r\nSupported: timer\r\nSession-Expires: 600;refresher=uac";
    let (mut house, invite, ok) = answered(allow, "Subject: no timers here");
    assert_eq!(header(&ok, "Session-Expires: "), "1800;refresher=uas");
    let sent = pass(&mut house, 301);
    let [update] = &sent[..] else { panic!("{sent:?}") };
    assert!(
        update.starts_with("UPDATE sip:phone@") && update.contains("Content-Length: 0"),
        "{update}"
    );
    assert_eq!(header(update, "Session-Expires: "), "600;refresher=uac");
    let terms = "Session-Expires: 600;refresher=uac\r\nRequire: timer";
    house.reply_with(AGENT_A, update, 200, terms, None);
    let sent = pass(&mut house, 301);
    let [update] = &sent[..] else { panic!("{sent:?}") };
    house.reply_with(AGENT_A, update, 200, terms, None);
    // The trunk knows no UPDATE: at half of 1800 s the same description again.
    let sent = pass(&mut house, 299);
    let [reinvite] = &sent[..] else { panic!("{sent:?}") };
    assert!(reinvite.starts_with("INVITE sip:trunk@"), "{reinvite}");
    let body = |text: &str| text.split_once("\r\n\r\n").expect("a body").1.to_owned();
    assert_eq!(body(reinvite), body(&ok), "the version too");
    house.reply(TRUNK, reinvite, 200, "", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    assert!(house.drain_to(AGENT_A).is_empty(), "the phone hears nothing of it");
    assert_eq!(house.count(Counter::SessionsRenewed), 3);
    // A peer that is gone is seen so.
    let sent = pass(&mut house, 5);
    let update = sent.iter().find(|text| text.starts_with("UPDATE ")).expect("an UPDATE");
    house.reply(AGENT_A, update, 481, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("BYE "));
    drop(invite);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_interval_below_ours_is_refused() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let lines = "Supported: timer\r\nSession-Expires: 60";
    let text = with(&house.invite("1001", "c1", Some(OFFER)), lines);
    house.send(TRUNK, &text);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 422 "), "{refused}");
    assert_eq!(header(&refused, "Min-SE: "), "90");
}

#[test]
fn the_second_invite_asks_for_what_the_first_refusal_said() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let first = house.next_to(AGENT_A);
    house.reply_with(AGENT_A, &first, 422, "Min-SE: 3600", None);
    house.next_to(AGENT_A);
    let second = house.next_to(AGENT_A);
    for (name, value) in
        [("Session-Expires: ", "3600"), ("Min-SE: ", "3600"), ("CSeq: ", "2 INVITE")]
    {
        assert_eq!(header(&second, name), value);
    }
    for name in ["Call-ID: ", "From: ", "To: "] {
        assert_eq!(header(&second, name), header(&first, name));
    }
    assert_ne!(header(&second, "Via: "), header(&first, "Via: "));
    // Who always wants more is refused in the end.
    house.reply_with(AGENT_A, &second, 422, "Min-SE: 3600", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 422 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_session_is_renewed_after_a_death() {
    let terms = "Allow: UPDATE\r\nSession-Expires: 600;refresher=uac";
    let trunk = "Supported: timer\r\nSession-Expires: 300;refresher=uac";
    let (mut house, _, ok) = answered(terms, trunk);
    pass(&mut house, 200);
    house.die();
    // Ours within a quarter of its interval; the trunk has its whole one.
    let sent = (0..31).map(|_| pass(&mut house, 5)).find(|sent| !sent.is_empty());
    let sent = sent.expect("something within 155 s");
    let [update] = &sent[..] else { panic!("{sent:?}") };
    assert!(update.starts_with("UPDATE sip:phone@"), "{update}");
    assert_eq!(header(update, "Session-Expires: "), "600;refresher=uac");
    house.reply_with(AGENT_A, update, 200, "Session-Expires: 600;refresher=uac", None);
    let text = with(&house.within("UPDATE", &ok, "c1", 2, None), trunk);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    assert!(pass(&mut house, 260).is_empty());
    let sent = pass(&mut house, 10);
    assert!(sent.iter().any(|bye| bye.starts_with("BYE sip:trunk@")), "{sent:?}");
}

#[test]
fn an_invite_is_refused_by_its_own_number_after_a_death() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = with(&house.invite("1001", "c1", Some(OFFER)), "Supported: 100rel");
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 183, "t1", Some(OFFER));
    let early = house.next_to(TRUNK);
    let rack = format!("RAck: {} 1 INVITE", header(&early, "RSeq: "));
    let text = with(&house.within("PRACK", &early, "c1", 2, None), &rack);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.die();
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 500 "), "{refused}");
    assert_eq!(header(&refused, "CSeq: "), "1 INVITE");
}
