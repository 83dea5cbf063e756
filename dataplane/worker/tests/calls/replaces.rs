//! INVITEs that take another's place (RFC 3891): calls that are taken over, moved and picked up.

use abi::{CallState, Counter};
use sip::digest::{Challenge, answer};
use worker::Verdict;

use crate::attended::*;
use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};
use crate::transfers::*;

/// The second agent's phone in the place of the first's in the call with the trunk.
pub fn replacing_invite(invite: &str, extra: &str) -> String {
    let tag = header(invite, "From: ").split_once(";tag=").expect("a tag").1;
    let call_id = header(invite, "Call-ID: ");
    format!("Replaces: {call_id};to-tag={tag};from-tag=t1{extra}\r\nRequire: replaces")
}

/// Sends the second agent's INVITE with those lines, and takes our 100 to it.
pub fn replace(house: &mut House, phone: &str, agent: &str, lines: &str, sdp: bool) -> String {
    house.send(phone, &plain_invite(phone, agent, "1001", "r1", 1));
    let challenged = house.next_to(phone);
    let value = header(&challenged, "WWW-Authenticate: ").as_bytes().to_vec();
    let challenge = Challenge::parse(&value).expect("a challenge");
    let user = format!("{agent}.demo");
    let proof = answer(&challenge, &user, "secret", b"INVITE", b"sip:127.0.0.1", 1, "c");
    let proof = String::from_utf8(proof).expect("text");
    let lines = format!("{lines}\r\nAuthorization: {proof}\r\nMax-Forwards: 70");
    let mut invite =
        plain_invite(phone, agent, "1001", "r1", 2).replace("Max-Forwards: 70", &lines);
    if !sdp {
        let length = format!("Content-Length: {}", OFFER.len());
        let typed = "Content-Type: application/sdp\r\n";
        invite = invite.replace(OFFER, "").replace(&length, "Content-Length: 0").replace(typed, "");
    }
    house.send(phone, &invite);
    let first = house.next_to(phone);
    if first.starts_with("SIP/2.0 100 ") { invite } else { first }
}

#[test]
fn a_phone_takes_the_place_of_another() {
    for offers in [true, false] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        replace(&mut house, AGENT_B, "1002", &replacing_invite(&invite, ""), offers);
        let change = house.next_to(TRUNK);
        assert!(change.starts_with("INVITE ") && change.contains("m=audio "), "{change}");
        house.reply(TRUNK, &change, 200, "", Some(OFFER));
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        let taken = house.next_to(AGENT_B);
        assert!(taken.starts_with("SIP/2.0 200 ") && taken.contains("m=audio "), "{taken}");
        let bye = house.next_to(AGENT_A);
        assert!(bye.starts_with("BYE "), "{bye}");
        house.reply(AGENT_A, &bye, 200, "", None);
        let ack = within("ACK", AGENT_B, &taken, 2);
        let sdp = if offers { String::new() } else { OFFER_B.to_owned() };
        let body =
            format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
        house.send(AGENT_B, &ack.replace("Content-Length: 0\r\n\r\n", &body));
        assert_eq!(shares(&house), [0, 1]);
        let rows = house.legs();
        assert_eq!(rows.len(), 2);
        // Both are heard where they said.
        let (trunk, taker) = ((rows[0].rtp_port - 30_000) / 2, (rows[1].rtp_port - 30_000) / 2);
        let to = if offers { "203.0.113.9:4000" } else { "203.0.113.20:4100" };
        let verdict = (0..8).map(|n| house.rtp(trunk, "203.0.113.9:4000", n)).last();
        let to = to.parse().expect("an address");
        let is_sent = |verdict: &Verdict| matches!(verdict, Verdict::Send { socket, to: at } if socket.pair().0 == taker && *at == to);
        assert!(verdict.as_ref().is_some_and(is_sent), "{verdict:?}");
        let bye = house.within("BYE", &ok, "c1", 2, None);
        house.send(TRUNK, &bye);
        house.next_to(TRUNK);
        let bye = house.next_to(AGENT_B);
        assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == "r1", "{bye}");
        house.reply(AGENT_B, &bye, 200, "", None);
        house.expect_nothing_left();
    }
}

#[test]
fn a_phone_moves_its_own_call() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, _) = house.call_through("1001", AGENT_A, "c1");
    replace(&mut house, AGENT_B, "1001", &replacing_invite(&invite, ""), true);
    assert_eq!(shares(&house)[0], 2);
    let change = house.next_to(TRUNK);
    house.reply(TRUNK, &change, 200, "", Some(OFFER));
    assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "", None);
    assert_eq!(shares(&house)[0], 1);
}

/// RFC 5359, 2.16: the first agent's phone rings, the second takes the call, at its word that it only takes what rings.
#[test]
fn a_phone_takes_a_call_that_rings_for_another() {
    for extra in ["", ";early-only"] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let text = house.invite("1001", "c1", Some(OFFER));
        house.send(TRUNK, &text);
        house.next_to(TRUNK);
        let ringing = house.next_to(AGENT_A);
        house.reply(AGENT_A, &ringing, 180, "t1", None);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
        replace(&mut house, AGENT_B, "1002", &replacing_invite(&ringing, extra), true);
        let taken = house.next_to(AGENT_B);
        assert!(taken.starts_with("SIP/2.0 200 ") && taken.contains(" RTP/AVP 0 8\r\n"), "{taken}");
        house.send(AGENT_B, &within("ACK", AGENT_B, &taken, 2));
        let ok = house.next_to(TRUNK);
        assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("m=audio "), "{ok}");
        house.ack(TRUNK, &ok, "c1");
        let cancel = house.next_to(AGENT_A);
        assert!(cancel.starts_with("CANCEL "), "{cancel}");
        assert!(header(&cancel, "Reason: ").contains("cause=200"), "{cancel}");
        house.reply(AGENT_A, &cancel, 200, "t1", None);
        house.reply(AGENT_A, &ringing, 487, "t1", None);
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        assert_eq!(shares(&house), [0, 1]);
        assert_eq!(house.calls()[0].1.state(), CallState::Answered);
        assert_eq!(
            (house.count(Counter::CallsPickedUp), house.count(Counter::CallsAnswered)),
            (1, 1)
        );
        let pairs: Vec<u32> = house.legs().iter().map(|leg| (leg.rtp_port - 30_000) / 2).collect();
        let sent = (0..8).map(|n| house.rtp(pairs[0], "203.0.113.9:4000", n)).last();
        assert!(matches!(sent, Some(Verdict::Send { .. })), "{sent:?}");
        hang_up(&mut house, &ok, "c1", 2, AGENT_B);
    }
}

/// The phone that rang answers at the same moment: its answer is let go.
#[test]
fn who_answers_what_is_taken_hears_goodbye() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let ringing = house.next_to(AGENT_A);
    house.reply(AGENT_A, &ringing, 180, "t1", None);
    house.next_to(TRUNK);
    replace(&mut house, AGENT_B, "1002", &replacing_invite(&ringing, ""), true);
    let taken = house.next_to(AGENT_B);
    house.send(AGENT_B, &within("ACK", AGENT_B, &taken, 2));
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    let cancel = house.next_to(AGENT_A);
    house.reply(AGENT_A, &ringing, 200, "t1", Some(OFFER));
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "", None);
    hang_up(&mut house, &ok, "c1", 2, AGENT_B);
}

/// Who offers what the caller cannot hear, and who is no agent of the tenant, takes nothing: the phone rings on.
#[test]
fn a_call_that_cannot_be_taken_rings_on() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let ringing = house.next_to(AGENT_A);
    house.reply(AGENT_A, &ringing, 180, "t1", None);
    house.next_to(TRUNK);
    let named = replacing_invite(&ringing, "");
    let refused = replace(&mut house, AGENT_B, "1002", &named, false);
    assert!(refused.starts_with("SIP/2.0 488 "), "{refused}");
    let by_trunk = house
        .invite("1001", "r9", Some(OFFER))
        .replace("Max-Forwards", &format!("{named}\r\nMax-Forwards"));
    house.send(TRUNK, &by_trunk);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 403 "), "{refused}");
    house.reply(AGENT_A, &ringing, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_place_that_cannot_be_taken_stays() {
    let no_dialog = "Replaces: x;to-tag=0.1.0.1;from-tag=2";
    let twice = "Replaces: x;to-tag=1;from-tag=2\r\nReplaces: y;to-tag=1;from-tag=2";
    for (lines, status) in [
        (Some(no_dialog), "481"),
        (Some("Replaces: nonsense"), "400"),
        (Some(twice), "400"),
        (Some("Replaces: x;to-tag=1;from-tag=2\r\nJoin: x;to-tag=1;from-tag=2"), "400"),
        (Some("Require: replaces, 100rel, join"), "420"),
        (None, "486"),
    ] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let early = replacing_invite(&invite, ";early-only");
        let refused = replace(&mut house, AGENT_B, "1002", lines.unwrap_or(&early), true);
        assert!(refused.starts_with(&format!("SIP/2.0 {status} ")), "{lines:?}: {refused}");
        let hangs = house.within("BYE", &ok, "c1", 2, None);
        house.send(TRUNK, &hangs);
        house.next_to(TRUNK);
        let bye = house.next_to(AGENT_A);
        house.reply(AGENT_A, &bye, 200, "", None);
        house.run_out();
        house.expect_nothing_left();
    }
}

#[test]
fn who_comes_in_another_s_place_may_be_refused_or_give_up() {
    for gives_up in [true, false] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let sent = replace(&mut house, AGENT_B, "1002", &replacing_invite(&invite, ""), true);
        let change = house.next_to(TRUNK);
        if gives_up {
            let length = format!("Content-Length: {}", OFFER.len());
            let cancel = sent.replace("INVITE", "CANCEL").replace(OFFER, "");
            let cancel = cancel.replace(&length, "Content-Length: 0");
            house.send(AGENT_B, &cancel.replace("Require: replaces\r\n", ""));
            let answers = house.drain_to(AGENT_B);
            assert!(answers.iter().any(|text| text.starts_with("SIP/2.0 487 ")), "{answers:?}");
            house.reply(TRUNK, &change, 200, "", Some(OFFER));
        } else {
            house.reply(TRUNK, &change, 488, "", None);
            assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 488 "));
        }
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        house.run_out();
        assert_eq!(shares(&house), [1, 0]);
        assert_eq!(house.legs().len(), 2);
        hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    }
}
