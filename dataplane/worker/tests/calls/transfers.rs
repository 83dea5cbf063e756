//! Transfers: what the three parties see, and that nothing is left.

use abi::{CallState, Command, Counter, OpResult};

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};

/// Where Y's answers come from: other codecs than [`OFFER`] has.
pub const OFFER_B: &str = "v=0\r\no=- 2 2 IN IP4 203.0.113.20\r\ns=-\r\nc=IN IP4 203.0.113.20\r\nt=0 0\r\n\
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
pub fn await_to(house: &mut House, peer: &str) -> String {
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
pub fn hang_up(house: &mut House, ok: &str, call_id: &str, cseq: u32, other: &str) {
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
