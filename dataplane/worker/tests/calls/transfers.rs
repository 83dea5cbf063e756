//! Transfers: what the three parties see, and that nothing is left.

use abi::{CallState, Command, Counter, LeaseState, OpResult};
use sip::digest::{Challenge, answer};
use worker::Verdict;

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};

/// Where Y's answers come from: other codecs than [`OFFER`] has.
const OFFER_B: &str = "v=0\r\no=- 2 2 IN IP4 203.0.113.20\r\ns=-\r\nc=IN IP4 203.0.113.20\r\nt=0 0\r\n\
                       m=audio 4100 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=sendrecv\r\n";

/// A REFER of the phone that our `invite` made a dialog with.
pub fn refer(house: &House, invite: &str, cseq: u32, to: &str) -> String {
    let line = format!("Max-Forwards: 70\r\nRefer-To: {to}\r\n");
    house.within("REFER", invite, "", cseq, None).replace("Max-Forwards: 70\r\n", &line)
}

/// The next message to a peer is a NOTIFY that tells `status`; it is answered.
pub fn told(house: &mut House, peer: &str, status: &str) -> String {
    let notify = house.next_to(peer);
    assert!(notify.starts_with("NOTIFY "), "{notify}");
    assert!(notify.ends_with(&format!("\r\n\r\nSIP/2.0 {status}\r\n")), "{notify}");
    assert!(notify.contains("Content-Type: message/sipfrag;version=2.0\r\n"), "{notify}");
    house.reply(peer, &notify, 200, "t1", None);
    notify
}

/// The next message to a peer, as soon as it is sent.
fn await_to(house: &mut House, peer: &str) -> String {
    for _ in 0..1_000 {
        let mut sent = house.drain_to(peer);
        if !sent.is_empty() {
            return sent.swap_remove(0);
        }
        house.pass_ms(10);
    }
    panic!("nothing came for {peer}");
}

/// Hangs up for the trunk, answers our BYE to `other`, and looks that nothing is left.
fn hang_up(house: &mut House, ok: &str, call_id: &str, cseq: u32, other: &str) {
    let bye = house.within("BYE", ok, call_id, cseq, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(other);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(other, &bye, 200, "", None);
    house.expect_nothing_left();
}

#[test]
fn a_phone_gives_its_caller_to_another() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    // The phone holds its caller first, as phones do.
    let held = OFFER.replace("a=sendrecv", "a=sendonly");
    let hold = house.within("INVITE", &invite, "", 1, Some(&held));
    house.send(AGENT_A, &hold);
    house.next_to(AGENT_A);
    let reinvite = house.next_to(TRUNK);
    house.reply(TRUNK, &reinvite, 200, "", Some(&OFFER.replace("a=sendrecv", "a=recvonly")));
    house.next_to(TRUNK);
    house.next_to(AGENT_A);
    let ack = house.within("ACK", &invite, "", 1, None);
    house.send(AGENT_A, &ack);

    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    let accepted = house.next_to(AGENT_A);
    assert!(accepted.starts_with("SIP/2.0 202 Accepted\r\n"), "{accepted}");
    assert!(header(&accepted, "Contact: ").contains("@127.0.0.1:5060>"));
    let notify = told(&mut house, AGENT_A, "100 Trying");
    assert_eq!(header(&notify, "Event: "), "refer");
    assert_eq!(header(&notify, "Subscription-State: "), "active;expires=181");

    let offered = house.next_to(AGENT_B);
    assert!(offered.starts_with("INVITE sip:phone@192.0.2.2:5070 "), "{offered}");
    assert!(offered.contains("From: <sip:0301@"), "in the name of the caller: {offered}");
    assert_eq!(header(&offered, "Referred-By: "), "<sip:1001@127.0.0.1:5060>");
    assert!(offered.contains("a=sendrecv\r\n"), "the hold was between others: {offered}");
    assert!(offered.contains("m=audio ") && offered.contains(" RTP/AVP 0 8\r\n"), "{offered}");
    house.reply(AGENT_B, &offered, 180, "t2", None);
    told(&mut house, AGENT_A, "180 Ringing");
    house.reply(AGENT_B, &offered, 200, "t2", Some(OFFER_B));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let notify = told(&mut house, AGENT_A, "200 OK");
    assert_eq!(header(&notify, "Subscription-State: "), "terminated;reason=noresource");
    // The caller hears what its new peer can do, at the port that it knows.
    let change = house.next_to(TRUNK);
    assert!(change.starts_with("INVITE sip:trunk@10.9.0.1"), "{change}");
    assert!(change.contains(" RTP/AVP 8\r\n") && change.contains("a=sendrecv\r\n"), "{change}");
    assert_eq!(header(&change, "m=audio "), header(&reinvite, "m=audio ").replace(" 0 8", " 8"));
    house.reply(TRUNK, &change, 200, "", Some(OFFER_B));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    assert_eq!(house.count(Counter::TransfersCompleted), 1);
    // Who gave it away hangs up; the two go on.
    let bye = house.within("BYE", &invite, "", 3, None);
    house.send(AGENT_A, &bye);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    assert_eq!(house.legs().len(), 2);
    assert_eq!(house.region().leases().held(), 1, "the first agent is free");
    assert_eq!(house.calls()[0].1.state(), CallState::Answered);
    hang_up(&mut house, &ok, "c1", 2, AGENT_B);
}

#[test]
fn a_transfer_that_nobody_takes_changes_nothing() {
    // What the new party says, and what the first one is told.
    for (said, reported) in
        [(486, "486 Busy Here"), (603, "603 Decline"), (302, "480 Temporarily Unavailable")]
    {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_A, "100 Trying");
        let offered = house.next_to(AGENT_B);
        house.reply(AGENT_B, &offered, said, "t2", None);
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        told(&mut house, AGENT_A, reported);
        assert_eq!(house.region().leases().held(), 1);
        assert_eq!(house.count(Counter::TransfersFailed), 1);
        hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    }
}

#[test]
fn who_is_busy_or_away_is_not_rung() {
    for (number, reported) in [
        ("1002", "480 Temporarily Unavailable"),
        ("1001", "486 Busy Here"),
        ("777", "503 Service Unavailable"),
    ] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.log_in("1002", "secret");
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let text = refer(&house, &invite, 2, &format!("sip:{number}@127.0.0.1"));
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_A, "100 Trying");
        told(&mut house, AGENT_A, reported);
        hang_up(&mut house, &ok, "c1", 2, AGENT_A);
    }
}

#[test]
fn control_says_where_a_transfer_goes() {
    for answer in [Some(200), Some(404), None] {
        let mut house = House::new();
        house.attach_control();
        house.register("1001", AGENT_A);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let text = refer(&house, &invite, 2, "<sip:0445566@127.0.0.1>");
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_A, "100 Trying");
        let (ask, call) = house.asked("0445566");
        assert_eq!(house.calls()[0].1.state(), CallState::Answered);
        match answer {
            Some(200) => {
                let command = Command::Dial {
                    op: 7,
                    ask,
                    call,
                    address: "10.9.9.9:5080".parse().expect("an address"),
                    location: base::LocationId(0),
                    transport: base::Transport::Udp,
                };
                house.command(command, b"0445566");
                assert_eq!(house.done(), [(7, OpResult::Ok)]);
                let offered = house.next_to("10.9.9.9:5080");
                house.reply("10.9.9.9:5080", &offered, 200, "t2", Some(OFFER));
                assert!(house.next_to("10.9.9.9:5080").starts_with("ACK "));
                told(&mut house, AGENT_A, "200 OK");
                let change = house.next_to(TRUNK);
                house.reply(TRUNK, &change, 200, "", Some(OFFER));
                house.next_to(TRUNK);
                // The phone does not hang up, so we do.
                house.pass_ms(5_100);
                let bye = house.next_to(AGENT_A);
                assert!(bye.starts_with("BYE "), "{bye}");
                house.reply(AGENT_A, &bye, 200, "", None);
                assert_eq!(house.region().leases().held(), 0);
                hang_up(&mut house, &ok, "c1", 2, "10.9.9.9:5080");
            }
            Some(status) => {
                house.command(Command::Reject { op: 7, ask, call, status, retry_after_s: 0 }, b"");
                told(&mut house, AGENT_A, "404 Not Found");
                hang_up(&mut house, &ok, "c1", 2, AGENT_A);
            }
            None => {
                house.pass_ms(2_100);
                told(&mut house, AGENT_A, "503 Service Unavailable");
                hang_up(&mut house, &ok, "c1", 2, AGENT_A);
            }
        }
    }
}

#[test]
fn who_hangs_up_before_the_answer_leaves_the_caller_waiting() {
    for answers in [true, false] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
        let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
        house.send(AGENT_A, &text);
        house.next_to(AGENT_A);
        told(&mut house, AGENT_A, "100 Trying");
        let offered = house.next_to(AGENT_B);
        let bye = house.within("BYE", &invite, "", 3, None);
        house.send(AGENT_A, &bye);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
        if answers {
            house.reply(AGENT_B, &offered, 200, "t2", Some(OFFER));
            assert!(house.next_to(AGENT_B).starts_with("ACK "));
            let change = house.next_to(TRUNK);
            house.reply(TRUNK, &change, 200, "", Some(OFFER));
            house.next_to(TRUNK);
            hang_up(&mut house, &ok, "c1", 2, AGENT_B);
        } else {
            house.reply(AGENT_B, &offered, 486, "t2", None);
            house.next_to(AGENT_B);
            let bye = house.next_to(TRUNK);
            assert!(bye.starts_with("BYE "), "nobody is left to talk to: {bye}");
            house.reply(TRUNK, &bye, 200, "", None);
            house.expect_nothing_left();
        }
    }
}

#[test]
fn a_caller_who_hangs_up_ends_its_transfer() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    house.next_to(AGENT_A);
    told(&mut house, AGENT_A, "100 Trying");
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 180, "t2", None);
    told(&mut house, AGENT_A, "180 Ringing");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let cancel = house.next_to(AGENT_B);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(AGENT_B, &cancel, 200, "t2", None);
    house.reply(AGENT_B, &offered, 487, "t2", None);
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "", None);
    house.expect_nothing_left();
}

#[test]
fn refers_are_refused_by_the_rule_they_break() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let replaces = "Replaces=a%3Bto-tag%3D0.1.0.1%3Bfrom-tag%3Db";
    let cases = [
        ("Refer-To: <sip:1002@h>\r\nRefer-To: <sip:1003@h>", "400"),
        ("Subject: x", "400"),
        ("Refer-To: <>", "400"),
        ("Refer-To: <tel:1002>", "416"),
        ("Refer-To: <sip:1002@h;method=BYE>", "403"),
        ("Refer-To: <sip:127.0.0.1>", "404"),
        ("Refer-To: <sip:1002@h?Replaces=nonsense>", "400"),
        (&format!("Refer-To: <sip:1002@h?{replaces}>"), "481"),
    ];
    for (cseq, (lines, status)) in cases.into_iter().enumerate() {
        let line = format!("Max-Forwards: 70\r\n{lines}\r\n");
        let text = house.within("REFER", &invite, "", 2 + cseq as u32, None);
        house.send(AGENT_A, &text.replace("Max-Forwards: 70\r\n", &line));
        let answer = house.next_to(AGENT_A);
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{lines}: {answer}");
    }
    // Outside of a dialog, and in none that is ours.
    let text = refer(&house, &invite, 20, "<sip:1002@h>");
    let (to, tag) = header(&text, "To: ").split_once(";tag=").expect("a tag");
    for (to, status) in [(to.to_owned(), "403"), (format!("{to};tag=1{tag}"), "481")] {
        let text = text.replace(&format!("To: {}", header(&text, "To: ")), &format!("To: {to}"));
        house.send(AGENT_A, &text.replace("branch=z9hG4bK", &format!("branch=z9hG4bK{status}")));
        let answer = house.next_to(AGENT_A);
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{answer}");
    }
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}

#[test]
fn who_wants_no_reports_gets_none() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>\r\nRefer-Sub: false");
    house.send(AGENT_A, &text);
    let accepted = house.next_to(AGENT_A);
    assert!(accepted.starts_with("SIP/2.0 202 "), "{accepted}");
    assert_eq!(header(&accepted, "Refer-Sub: "), "false");
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 486, "t2", None);
    house.next_to(AGENT_B);
    assert_eq!(house.drain_to(AGENT_A), [""; 0]);
    // The second one of a dialog says in its NOTIFYs which it is.
    let text = refer(&house, &invite, 9, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
    let notify = told(&mut house, AGENT_A, "100 Trying");
    assert_eq!(header(&notify, "Event: "), "refer;id=9");
    // A third one, while it is under way, is not taken.
    let text = refer(&house, &invite, 10, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 491 "));
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 486, "t2", None);
    house.next_to(AGENT_B);
    told(&mut house, AGENT_A, "486 Busy Here");
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}

#[test]
fn reports_do_not_overtake_each_other() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    house.next_to(AGENT_A);
    let first = house.next_to(AGENT_A);
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 180, "t2", None);
    house.reply(AGENT_B, &offered, 486, "t2", None);
    house.next_to(AGENT_B);
    assert_eq!(house.drain_to(AGENT_A), [""; 0], "the first has no answer yet");
    house.reply(AGENT_A, &first, 200, "t1", None);
    told(&mut house, AGENT_A, "486 Busy Here");
    assert_eq!(house.drain_to(AGENT_A), [""; 0]);
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}

#[test]
fn the_caller_may_be_busy_with_another_change() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = refer(&house, &invite, 2, "<sip:1002@127.0.0.1>");
    house.send(AGENT_A, &text);
    house.next_to(AGENT_A);
    told(&mut house, AGENT_A, "100 Trying");
    let offered = house.next_to(AGENT_B);
    // The caller wants another session of its old peer just then.
    let change = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &change);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let passed = house.next_to(AGENT_A);
    assert!(passed.starts_with("INVITE "), "{passed}");
    house.reply(AGENT_B, &offered, 200, "t2", Some(OFFER));
    house.next_to(AGENT_B);
    let refused = house.next_to(TRUNK);
    assert!(refused.starts_with("SIP/2.0 491 "), "its peer is another now: {refused}");
    let ack = change.replace("INVITE sip", "ACK sip").replace("2 INVITE", "2 ACK");
    let length = format!("Content-Length: {}", OFFER.len());
    house.send(TRUNK, &ack.replace(OFFER, "").replace(&length, "Content-Length: 0"));
    told(&mut house, AGENT_A, "200 OK");
    // Ours runs into one of its own twice.
    let mut tell = house.next_to(TRUNK);
    for _ in 0..2 {
        assert!(tell.starts_with("INVITE "), "{tell}");
        house.reply(TRUNK, &tell, 491, "", None);
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        tell = await_to(&mut house, TRUNK);
    }
    house.reply(TRUNK, &tell, 200, "", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    house.run_out();
    let bye = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &bye);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

/// An INVITE of an agent's phone as it is sent first, without proof.
fn plain_invite(phone: &str, agent: &str, to: &str, call_id: &str, cseq: u32) -> String {
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
fn consultation(house: &mut House) -> [String; 4] {
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
fn shares(house: &House) -> [u16; 2] {
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
fn end_joined(house: &mut House, ok: &str) {
    let bye = house.within("BYE", ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_B);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_B, &bye, 200, "", None);
    house.expect_nothing_left();
}

/// The REFER of an attended transfer is accepted, and the trunk asked whether it can do what the second agent does.
fn attended(house: &mut House, invite: &str, answered: &str) -> String {
    let text = refer(house, invite, 2, &replacing(answered, ""));
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
    told(house, AGENT_A, "100 Trying");
    let change = house.next_to(TRUNK);
    assert!(change.starts_with("INVITE ") && change.contains(" RTP/AVP 8\r\n"), "{change}");
    change
}

/// The trunk agrees: the second agent hears of it, the first one's consultation ends.
fn agree(house: &mut House, change: &str) {
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

/// The second agent's phone in the place of the first's in the call with the trunk.
fn replacing_invite(invite: &str, extra: &str) -> String {
    let tag = header(invite, "From: ").split_once(";tag=").expect("a tag").1;
    let call_id = header(invite, "Call-ID: ");
    format!("Replaces: {call_id};to-tag={tag};from-tag=t1{extra}\r\nRequire: replaces")
}

/// Sends the second agent's INVITE with those lines, and takes our 100 to it.
fn replace(house: &mut House, phone: &str, agent: &str, lines: &str, sdp: bool) -> String {
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

/// Call-IDs of two calls on two workers.
fn apart() -> [String; 2] {
    [0, 1].map(|worker| {
        let mut names = (0..).map(|n| format!("c{n}"));
        names.find(|name| base::owner(name.as_bytes(), 2).0 == worker).expect("some")
    })
}

#[test]
fn calls_of_two_workers_are_joined() {
    // Who ends it, and whether the process dies meanwhile.
    for (ends, dies) in [("caller", false), ("asked", false), ("caller", true)] {
        let mut house = House::of_two();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        let [first, second] = apart();
        let (invite, ok) = house.call_through("1001", AGENT_A, &first);
        invite_from(&mut house, AGENT_A, "1001", "1002", &second);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
        let asked = house.next_to(AGENT_B);
        house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER_B));
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        let answered = house.next_to(AGENT_A);
        house.send(AGENT_A, &within("ACK", AGENT_A, &answered, 2));
        assert_eq!(shares(&house), [2, 1], "two workers share a word");

        let text = refer(&house, &invite, 2, &replacing(&answered, ""));
        house.send(AGENT_A, &text);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
        told(&mut house, AGENT_A, "100 Trying");
        // The other worker asks the second agent first.
        let change = house.next_to(AGENT_B);
        assert!(change.starts_with("INVITE ") && !change.contains("X-Jackfield"), "{change}");
        house.reply(AGENT_B, &change, 200, "t2", Some(OFFER_B));
        assert!(house.next_to(AGENT_B).starts_with("ACK "));
        told(&mut house, AGENT_A, "200 OK");
        let bye = house.next_to(AGENT_A);
        assert!(bye.starts_with("BYE ") && header(&bye, "Call-ID: ") == second, "{bye}");
        house.reply(AGENT_A, &bye, 200, "", None);
        let tell = house.next_to(TRUNK);
        assert!(tell.starts_with("INVITE ") && tell.contains(" RTP/AVP 8\r\n"), "{tell}");
        house.reply(TRUNK, &tell, 200, "", Some(OFFER_B));
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        let bye = house.within("BYE", &invite, "", 3, None);
        house.send(AGENT_A, &bye);
        assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
        assert_eq!(shares(&house), [0, 1]);
        assert_eq!(house.legs().len(), 4, "two of ours between them");
        if dies {
            let found = house.die();
            assert_eq!((found.calls, found.leases_freed), (2, 0));
            assert_eq!(house.recovered_pairs(), 4);
        }
        match ends {
            "caller" => {
                let bye = house.within("BYE", &ok, &first, 2, None);
                house.send(TRUNK, &bye);
                assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(AGENT_B);
                assert!(bye.starts_with("BYE "), "{bye}");
                house.reply(AGENT_B, &bye, 200, "", None);
            }
            _ => {
                let bye = house.within("BYE", &asked, "", 1, None).replace("tag=t1", "tag=t2");
                house.send(AGENT_B, &bye.replace(AGENT_A, AGENT_B));
                assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 200 "));
                let bye = house.next_to(TRUNK);
                assert!(bye.starts_with("BYE "), "{bye}");
                house.reply(TRUNK, &bye, 200, "", None);
            }
        }
        house.expect_nothing_left();
    }
}

#[test]
fn nobody_forges_a_ticket() {
    let mut house = House::of_two();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let lines = replacing_invite(&invite, "");
    for ticket in ["a.0.5 0123456789abcdef", "a.0.5", "nonsense"] {
        let text = plain_invite(AGENT_B, "1002", "1001", "r1", 1).replace(
            "Max-Forwards: 70",
            &format!("{lines}\r\nX-Jackfield-Ticket: {ticket}\r\nMax-Forwards: 70"),
        );
        house.send(AGENT_B, &text);
        assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 401 "));
    }
    hang_up(&mut house, &ok, "c1", 2, AGENT_A);
}
