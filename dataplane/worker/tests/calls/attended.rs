//! Attended transfers: who talks asks somebody else meanwhile, and joins the two.

use abi::{CallState, LeaseState};
use sip::digest::{Challenge, answer};
use worker::Verdict;

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};
use crate::transfers::*;

/// An INVITE of an agent's phone as it is sent first, without proof.
pub fn plain_invite(phone: &str, agent: &str, to: &str, call_id: &str, cseq: u32) -> String {
    format!(
        "INVITE sip:{to}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {phone};branch=z9hG4bK{call_id}{cseq};rport\r\n\
         From: <sip:{agent}.demo@127.0.0.1>;tag=f{call_id}\r\nTo: <sip:{to}@127.0.0.1>\r\nCall-ID: {call_id}\r\n\
         CSeq: {cseq} INVITE\r\nContact: <sip:phone@{phone}>\r\nUser-Agent: phone\r\nMax-Forwards: 70\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    )
}

/// The same, proved: what we answer is next.
pub fn invite_from(house: &mut House, phone: &str, agent: &str, to: &str, call_id: &str) {
    house.send(phone, &plain_invite(phone, agent, to, call_id, 1));
    let challenged = house.next_to(phone);
    let value = header(&challenged, "WWW-Authenticate: ").as_bytes().to_vec();
    let challenge = Challenge::parse(&value).expect("a challenge");
    let user = format!("{agent}.demo");
    let proof = answer(&challenge, &user, "secret", b"INVITE", b"sip:127.0.0.1", 1, "c");
    let line =
        format!("Authorization: {}\r\nMax-Forwards: 70", String::from_utf8(proof).expect("text"));
    let invite = plain_invite(phone, agent, to, call_id, 2);
    house.send(phone, &invite.replace("Max-Forwards: 70", &line));
}

/// A request of a phone within the dialog that its own INVITE made, by our 200 to it.
pub fn within(method: &str, phone: &str, ok: &str, cseq: u32) -> String {
    format!(
        "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {phone};branch=z9hG4bK{method}{cseq};rport\r\n\
         From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:phone@{phone}>\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        header(ok, "Contact: ").trim_matches(['<', '>']),
        header(ok, "From: "),
        header(ok, "To: "),
        header(ok, "Call-ID: "),
    )
}

/// The first agent talks to the trunk (c1) and asks the second one (c2): our INVITE to the first, our 200 to the
/// trunk; our INVITE to the second, our 200 to the first.
pub fn consultation(house: &mut House) -> [String; 4] {
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    invite_from(house, AGENT_A, "1001", "1002", "c2");
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    let asked = house.next_to(AGENT_B);
    house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER_B));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let answered = house.next_to(AGENT_A);
    assert!(answered.starts_with("SIP/2.0 200 "), "{answered}");
    house.send(AGENT_A, &within("ACK", AGENT_A, &answered, 2));
    [invite, ok, asked, answered]
}

/// What the first agent's phone writes to give its peer to who it talks to in the other dialog.
pub fn replacing(answered: &str, extra: &str) -> String {
    let tag = |name| header(answered, name).split_once(";tag=").expect("a tag").1;
    let (to, from) = (tag("To: "), tag("From: "));
    let call_id = header(answered, "Call-ID: ");
    format!("<sip:1002@127.0.0.1?Replaces={call_id}%3Bto-tag%3D{to}%3Bfrom-tag%3D{from}{extra}>")
}

/// The bodies of the words of agents: how many legs share each.
pub fn shares(house: &House) -> [u16; 2] {
    [0, 1].map(|agent| {
        match house.region().leases().read(base::AgentSlot(agent), base::Medium::Voice) {
            LeaseState::Bound { legs, .. } => legs,
            _ => 0,
        }
    })
}

#[test]
fn who_talks_may_ask_somebody_else_meanwhile() {
    // Which of the two calls ends first.
    for first in ["c1", "c2"] {
        let mut house = House::new();
        let [invite, ok, asked, answered] = consultation(&mut house);
        assert_eq!(shares(&house), [2, 1]);
        // The agent is busy for everybody else.
        let text = house.invite("1001", "c9", Some(OFFER));
        house.send(TRUNK, &text);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
        let busy = house.next_to(TRUNK);
        assert!(busy.starts_with("SIP/2.0 486 "), "{busy}");
        let ack = house.ack_refusal(&busy, "1001", "c9");
        house.send(TRUNK, &ack);
        let order = if first == "c1" { ["c1", "c2"] } else { ["c2", "c1"] };
        for (number, call) in order.into_iter().enumerate() {
            if call == "c1" {
                let bye = house.within("BYE", &invite, "", 1, None);
                house.send(AGENT_A, &bye);
                house.next_to(AGENT_A);
                let bye = house.next_to(TRUNK);
                house.reply(TRUNK, &bye, 200, "", None);
            } else {
                house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
                house.next_to(AGENT_A);
                let bye = house.next_to(AGENT_B);
                house.reply(AGENT_B, &bye, 200, "", None);
            }
            assert_eq!(shares(&house)[0], 1 - number as u16);
        }
        house.expect_nothing_left();
        drop((ok, asked));
    }
}

#[test]
fn who_rings_asks_nobody() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let ringing = house.next_to(AGENT_A);
    invite_from(&mut house, AGENT_A, "1001", "1002", "c2");
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 486 "));
    house.reply(AGENT_A, &ringing, 486, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

/// Ends the transferred call for the trunk: the second agent hears of it.
pub fn end_joined(house: &mut House, ok: &str) {
    let bye = house.within("BYE", ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_B);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_B, &bye, 200, "", None);
    house.expect_nothing_left();
}

/// The REFER of an attended transfer is accepted, and the trunk asked whether it can do what the second agent does.
pub fn attended(house: &mut House, invite: &str, answered: &str) -> String {
    let text = refer(house, invite, 2, &replacing(answered, ""));
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
    told(house, AGENT_A, "100 Trying");
    let change = house.next_to(TRUNK);
    assert!(change.starts_with("INVITE ") && change.contains(" RTP/AVP 8\r\n"), "{change}");
    change
}

/// The trunk agrees: the second agent hears of it, the first one's consultation ends.
pub fn agree(house: &mut House, change: &str) {
    house.reply(TRUNK, change, 200, "", Some(OFFER_B));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    let tell = house.next_to(AGENT_B);
    assert!(tell.starts_with("INVITE ") && tell.contains("a=sendrecv\r\n"), "{tell}");
    house.reply(AGENT_B, &tell, 200, "t2", Some(OFFER_B));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
}

#[test]
fn an_agent_joins_a_caller_with_who_was_asked() {
    let mut house = House::new();
    let [invite, ok, _, answered] = consultation(&mut house);
    let change = attended(&mut house, &invite, &answered);
    agree(&mut house, &change);
    told(&mut house, AGENT_A, "200 OK");
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == "c2", "{bye}");
    house.reply(AGENT_A, &bye, 200, "", None);
    let bye = house.within("BYE", &invite, "", 3, None);
    house.send(AGENT_A, &bye);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    assert_eq!(shares(&house), [0, 1]);
    assert_eq!(house.legs().len(), 2);
    // Packets go from the one call's leg to the other's.
    let pairs: Vec<u32> = house.legs().iter().map(|leg| (leg.rtp_port - 30_000) / 2).collect();
    let hosts = ["203.0.113.20:4100", "203.0.113.20:4100"];
    for (from, to) in [(0, 1), (1, 0)] {
        let sent = (0..8).map(|n| house.rtp(pairs[from], hosts[from], n)).last();
        let is_sent =
            matches!(sent, Some(Verdict::Send { socket, .. }) if socket.pair().0 == pairs[to]);
        assert!(is_sent, "{sent:?}");
    }
    end_joined(&mut house, &ok);
}

/// The second agent, who got the caller from the first, asks the first by a line of its own, and gives the caller back:
/// of the call that brought the two agents together nobody is left, and so it is over.
#[test]
fn who_was_given_somebody_gives_them_on() {
    // Whether who gives away hangs up by itself.
    for polite in [true, false] {
        let mut house = House::new();
        let [invite, ok, asked, answered] = consultation(&mut house);
        let change = attended(&mut house, &invite, &answered);
        agree(&mut house, &change);
        told(&mut house, AGENT_A, "200 OK");
        let bye = house.next_to(AGENT_A);
        house.reply(AGENT_A, &bye, 200, "", None);
        house.send(AGENT_A, &house.within("BYE", &invite, "", 3, None));
        house.next_to(AGENT_A);
        invite_from(&mut house, AGENT_B, "1002", "1001", "c3");
        assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 100 "));
        let offered = house.next_to(AGENT_A);
        house.reply(AGENT_A, &offered, 200, "t3", Some(OFFER_B));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let other = house.next_to(AGENT_B);
        house.send(AGENT_B, &within("ACK", AGENT_B, &other, 2));

        let (call_id, from) = (header(&asked, "Call-ID: "), header(&asked, "From: "));
        let tag = from.split_once(";tag=").expect("a tag").1;
        let to = format!("<sip:1@127.0.0.1?Replaces={call_id}%3Bto-tag%3D{tag}%3Bfrom-tag%3Dt2>");
        let line = format!("Max-Forwards: 70\r\nRefer-To: {to}\r\n");
        let text = within("REFER", AGENT_B, &other, 3).replace("Max-Forwards: 70\r\n", &line);
        house.send(AGENT_B, &text);
        assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_B, "100 Trying");
        let change = house.next_to(AGENT_A);
        assert!(change.starts_with("INVITE "), "{change}");
        house.reply(AGENT_A, &change, 200, "", Some(OFFER_B));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let tell = house.next_to(TRUNK);
        house.reply(TRUNK, &tell, 200, "", Some(OFFER_B));
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        told(&mut house, AGENT_B, "200 OK");
        let bye = house.next_to(AGENT_B);
        assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == call_id, "{bye}");
        house.reply(AGENT_B, &bye, 200, "", None);
        if polite {
            house.send(AGENT_B, &within("BYE", AGENT_B, &other, 4));
            house.next_to(AGENT_B);
        } else {
            let bye = await_to(&mut house, AGENT_B);
            assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == "c3", "{bye}");
            house.reply(AGENT_B, &bye, 200, "", None);
        }
        assert_eq!(house.legs().len(), 2, "the first agent and the trunk");
        let standing =
            house.calls().iter().filter(|(_, row)| row.state() == CallState::Answered).count();
        assert_eq!(standing, 2, "of three calls");
        hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    }
}

/// The second agent, who got the caller from the first, sends them back blindly and hangs up; nobody takes them.
#[test]
fn a_call_is_over_when_nobody_is_left_in_it() {
    let mut house = House::new();
    let [invite, ok, asked, answered] = consultation(&mut house);
    let change = attended(&mut house, &invite, &answered);
    agree(&mut house, &change);
    told(&mut house, AGENT_A, "200 OK");
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "", None);
    house.send(AGENT_A, &house.within("BYE", &invite, "", 3, None));
    house.next_to(AGENT_A);
    let text = refer(&house, &asked, 1, "<sip:1001@127.0.0.1>").replace("tag=t1", "tag=t2");
    house.send(AGENT_B, &text);
    assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 202 "));
    told(&mut house, AGENT_B, "100 Trying");
    let offered = house.next_to(AGENT_A);
    let bye = house.within("BYE", &asked, "", 2, None).replace("tag=t1", "tag=t2");
    house.send(AGENT_B, &bye);
    assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 200 "));
    house.reply(AGENT_A, &offered, 603, "t3", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let bye = house.next_to(TRUNK);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(TRUNK, &bye, 200, "", None);
    house.expect_nothing_left();
    drop(ok);
}

#[test]
fn a_joined_call_goes_on_over_a_death() {
    for hung_up in [true, false] {
        let mut house = House::new();
        let [invite, ok, _, answered] = consultation(&mut house);
        let change = attended(&mut house, &invite, &answered);
        agree(&mut house, &change);
        told(&mut house, AGENT_A, "200 OK");
        let bye = house.next_to(AGENT_A);
        house.reply(AGENT_A, &bye, 200, "", None);
        if hung_up {
            let bye = house.within("BYE", &invite, "", 3, None);
            house.send(AGENT_A, &bye);
        }
        let found = house.die();
        assert_eq!((found.calls, found.leases_freed), (2, 0));
        if !hung_up {
            // It would have been told in a moment.
            let bye = house.next_to(AGENT_A);
            assert!(bye.starts_with("BYE "), "{bye}");
            house.reply(AGENT_A, &bye, 200, "", None);
        }
        assert_eq!(shares(&house), [0, 1]);
        assert_eq!(house.recovered_pairs(), 2);
        end_joined(&mut house, &ok);
    }
}

#[test]
fn a_death_ends_transfers_and_not_calls() {
    // Of a blind one, while it rings.
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 180, "t2", None);
    let found = house.die();
    assert_eq!(found.calls, 1);
    let again = house.next_to(AGENT_B);
    assert_eq!(header(&again, "Via: "), header(&offered, "Via: "), "the same INVITE");
    house.reply(AGENT_B, &again, 180, "t2", None);
    let cancel = house.next_to(AGENT_B);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(AGENT_B, &cancel, 200, "t2", None);
    house.reply(AGENT_B, &again, 487, "t2", None);
    house.next_to(AGENT_B);
    assert_eq!(shares(&house), [1, 0]);
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    // Of an attended one, before the trunk agrees.
    let mut house = House::new();
    let [invite, ok, asked, answered] = consultation(&mut house);
    let change = attended(&mut house, &invite, &answered);
    let found = house.die();
    assert_eq!(found.calls, 2);
    assert_eq!(shares(&house), [2, 1]);
    house.reply(TRUNK, &change, 200, "", Some(OFFER_B));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
    house.next_to(AGENT_A);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    assert_eq!(shares(&house), [1, 0]);
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    drop(asked);
}

#[test]
fn a_caller_that_cannot_do_what_the_other_does_stays() {
    let mut house = House::new();
    let [invite, ok, _, answered] = consultation(&mut house);
    let change = attended(&mut house, &invite, &answered);
    house.reply(TRUNK, &change, 488, "", None);
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    told(&mut house, AGENT_A, "488 Not Acceptable Here");
    assert_eq!(shares(&house), [2, 1]);
    house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
    house.next_to(AGENT_A);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}

#[test]
fn any_party_may_hang_up_while_an_attended_transfer_is_agreed_on() {
    for who in ["caller", "asked", "both of the first", "consultation"] {
        let mut house = House::new();
        let [invite, ok, asked, answered] = consultation(&mut house);
        let change = attended(&mut house, &invite, &answered);
        let first_of_agent = |house: &mut House| {
            let bye = house.within("BYE", &invite, "", 3, None);
            house.send(AGENT_A, &bye);
            house.next_to(AGENT_A);
        };
        match who {
            "caller" => {
                let bye = house.within("BYE", &ok, "c1", 2, None);
                house.send(TRUNK, &bye);
                assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(AGENT_A);
                house.reply(AGENT_A, &bye, 200, "", None);
                // The consultation goes on.
                assert_eq!(shares(&house), [1, 1]);
                house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
                house.next_to(AGENT_A);
                let bye = house.next_to(AGENT_B);
                house.reply(AGENT_B, &bye, 200, "", None);
            }
            "asked" => {
                let bye = house.within("BYE", &asked, "", 1, None);
                let bye = bye.replace("tag=t1", "tag=t2").replace(AGENT_A, AGENT_B);
                house.send(AGENT_B, &bye);
                assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(AGENT_A);
                house.reply(AGENT_A, &bye, 200, "", None);
                told(&mut house, AGENT_A, "480 Temporarily Unavailable");
                house.reply(TRUNK, &change, 200, "", Some(OFFER_B));
                house.run_out();
                first_of_agent(&mut house);
                let bye = house.next_to(TRUNK);
                house.reply(TRUNK, &bye, 200, "", None);
            }
            "both of the first" => {
                first_of_agent(&mut house);
                house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
                assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
                assert_eq!(shares(&house), [0, 1]);
                agree(&mut house, &change);
                end_joined(&mut house, &ok);
            }
            _ => {
                house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
                assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
                agree(&mut house, &change);
                told(&mut house, AGENT_A, "200 OK");
                first_of_agent(&mut house);
                end_joined(&mut house, &ok);
            }
        }
        house.run_out();
        house.expect_nothing_left();
    }
}

#[test]
fn nobody_gives_away_what_is_not_theirs() {
    let mut house = House::new();
    let [invite, ok, asked, answered] = consultation(&mut house);
    // The trunk names a dialog of the agent; the agent names the dialog itself; one with a wrong tag.
    let wrong = replacing(&answered, "1");
    let own = {
        let tag = |name| header(&invite, name).split_once(";tag=").expect("a tag").1;
        let call_id = header(&invite, "Call-ID: ");
        format!("<sip:x@h?Replaces={call_id}%3Bto-tag%3D{}%3Bfrom-tag%3Dt1>", tag("From: "))
    };
    for (number, to) in [own, wrong].into_iter().enumerate() {
        let text = refer(&house, &invite, 2 + number as u32, &to);
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 481 "), "{to}");
    }
    let refer = house.within("REFER", &ok, "c1", 2, None);
    let line = format!("Max-Forwards: 70\r\nRefer-To: {}\r\n", replacing(&answered, ""));
    house.send(TRUNK, &refer.replace("Max-Forwards: 70\r\n", &line));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 403 "));
    house.send(AGENT_A, &within("BYE", AGENT_A, &answered, 3));
    house.next_to(AGENT_A);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    hang_up(&mut house, &ok, "c1", 3, AGENT_A);
    drop(asked);
}
