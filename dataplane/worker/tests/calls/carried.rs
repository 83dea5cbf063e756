//! What is carried across beside the session, and what is not; requests that are refused for their headers.

use crate::house::{AGENT_A, House, OFFER, TRUNK, header, with};

fn from_trunk(house: &mut House, call_id: &str, lines: &str) -> String {
    let text = with(&house.invite("1001", call_id, Some(OFFER)), lines);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house.next_to(AGENT_A)
}

#[test]
fn headers_go_across_without_hosts() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let lines = "User-to-User: 00c8;encoding=hex\r\nSubject: A question\r\n\
                 Diversion: <sip:500@10.9.0.1>;reason=user-busy\r\n\
                 P-Asserted-Identity: <sip:+4930@10.9.0.1>\r\nCall-Info: <http://10.9.0.1/x.png>";
    let invite = from_trunk(&mut house, "c1", lines);
    for line in ["User-to-User: 00c8;encoding=hex\r\n", "Subject: A question\r\n"] {
        assert!(invite.contains(line), "{invite}");
    }
    assert_eq!(header(&invite, "Diversion: "), "<sip:500@127.0.0.1:5060>;reason=user-busy");
    // What the trunk asserts goes before what stands in From, and is not repeated to phones.
    assert!(header(&invite, "From: ").starts_with("<sip:+4930@127.0.0.1:5060>"), "{invite}");
    assert!(!invite.contains("10.9.0.1") && !invite.contains("Asserted"), "{invite}");
    let lines = "User-to-User: 04\r\nP-Asserted-Identity: <sip:boss@192.0.2.1>\r\nCall-Info: <x:y>";
    house.reply_with(AGENT_A, &invite, 180, lines, None);
    let ringing = house.next_to(TRUNK);
    assert_eq!(header(&ringing, "User-to-User: "), "04");
    assert_eq!(
        header(&ringing, "P-Asserted-Identity: "),
        "<sip:1001@10.9.0.1>".replace("10.9.0.1", "127.0.0.1:5060")
    );
    assert!(!ringing.contains("boss") && !ringing.contains("192.0.2.1"), "{ringing}");
    let lines = "Reason: Q.850;cause=17;text=\"busy at 192.0.2.1\"\r\nRetry-After: 30";
    house.reply_with(AGENT_A, &invite, 486, lines, None);
    house.next_to(AGENT_A);
    let busy = house.next_to(TRUNK);
    assert_eq!(header(&busy, "Reason: "), "Q.850;cause=17");
    assert_eq!(header(&busy, "Retry-After: "), "30");
    let text = house.ack_refusal(&busy, "1001", "c1");
    house.send(TRUNK, &text);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_withheld_number_is_told_to_no_phone() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let lines = "Privacy: id\r\nP-Asserted-Identity: \"Ann\" <sip:+4930@10.9.0.1>";
    let invite = from_trunk(&mut house, "c1", lines);
    let from = header(&invite, "From: ");
    assert!(from.starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag="), "{from}");
    assert!(!invite.contains("4930") && !invite.contains("0301"), "{invite}");
    // The dialog that comes of it works.
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK ") && ack.contains("From: <sip:anonymous@"), "{ack}");
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &invite, "", 1, None);
    house.send(AGENT_A, &bye);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(TRUNK);
    house.reply(TRUNK, &bye, 200, "", None);
    house.expect_nothing_left();
}

#[test]
fn why_a_party_leaves_is_told_to_the_other() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let reason = "Reason: Q.850;cause=31;text=\"at 10.0.0.1\"";
    let bye = with(&house.within("BYE", &ok, "c1", 2, None), reason);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_A);
    assert_eq!(header(&bye, "Reason: "), "Q.850;cause=31");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    drop(invite);
    // A CANCEL says so as well.
    let first = house.invite("1001", "c2", Some(OFFER));
    house.send(TRUNK, &first);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.next_to(TRUNK);
    let cancel = first.replace("INVITE", "CANCEL").replace(OFFER, "");
    let cancel = cancel.replace(&format!("Length: {}", OFFER.len()), "Length: 0");
    house.send(TRUNK, &with(&cancel, "Reason: SIP;cause=200;text=\"Call completed elsewhere\""));
    let cancel = house.next_to(AGENT_A);
    let told = "SIP;cause=200;text=\"Call completed elsewhere\"";
    assert_eq!(header(&cancel, "Reason: "), told);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_description_among_other_parts_is_found() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let body = |handling: &str| {
        format!(
            "--b\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n--b\r\n\
             Content-Type: application/isup;base=itu-t92+\r\n\
             Content-Disposition: signal;handling={handling}\r\n\r\n\x01\x02\r\n--b--\r\n"
        )
    };
    let request = |house: &House, call_id: &str, body: &str| {
        house.invite("1001", call_id, Some(body)).replace(
            "application/sdp\r\nContent-Length",
            "multipart/mixed;boundary=b\r\nContent-Length",
        )
    };
    let text = request(&house, "c1", &body("required"));
    house.send(TRUNK, &text);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 415 ") && refused.contains("Accept: "), "{refused}");
    let text = request(&house, "c2", &body("optional"));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let invite = house.next_to(AGENT_A);
    assert!(invite.contains("Content-Type: application/sdp\r\n"), "{invite}");
    assert!(invite.contains("m=audio 30") && !invite.contains("isup"), "{invite}");
    // So is an answer.
    let answer = body("optional");
    let message = wire_response(&invite, &answer);
    house.send(AGENT_A, &message);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("m=audio 30"), "{ok}");
    house.ack(TRUNK, &ok, "c2");
}

fn wire_response(invite: &str, body: &str) -> String {
    let message = sip::wire::lex(invite.as_bytes()).expect("SIP");
    let source = "127.0.0.1:5060".parse().expect("an address");
    let extra: &[(&str, &[u8])] = &[("Contact", b"<sip:phone@192.0.2.1:5070>")];
    let body = Some(("multipart/mixed;boundary=\"b\"", body.as_bytes()));
    let bytes = sip::wire::response(&message, 200, "OK", Some("t1"), source, extra, body);
    String::from_utf8(bytes).expect("text")
}

#[test]
fn loops_and_merged_requests_are_seen() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let good = house.invite("1001", "c1", Some(OFFER));
    let via = "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKours";
    house.send(TRUNK, &with(&good, via));
    let answer = house.next_to(TRUNK);
    assert!(answer.starts_with("SIP/2.0 482 "), "{answer}");
    let good = house.invite("1001", "c2", Some(OFFER));
    house.send(TRUNK, &good);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house.next_to(AGENT_A);
    house.send(TRUNK, &good.replace("branch=z9hG4bKc2", "branch=z9hG4bKother"));
    let answer = house.next_to(TRUNK);
    assert!(answer.starts_with("SIP/2.0 482 "), "{answer}");
    assert!(house.drain_to(AGENT_A).is_empty(), "no second call");
}

#[test]
fn only_unknown_options_are_refused_and_named() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = with(
        &house.invite("1001", "c1", Some(OFFER)),
        "Require: 100rel, magic\r\nRequire: Timer, x",
    );
    house.send(TRUNK, &text);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 420 "), "{refused}");
    assert_eq!(header(&refused, "Unsupported: "), "magic, x");
    let options = house.invite("1001", "c2", None).replace("INVITE", "OPTIONS");
    house.send(TRUNK, &options);
    let can = house.next_to(TRUNK);
    assert!(header(&can, "Supported: ").contains("100rel, timer"), "{can}");
    assert!(header(&can, "Allow: ").contains("PRACK, UPDATE, INFO"), "{can}");
}
