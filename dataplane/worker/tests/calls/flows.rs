//! Calls through one worker, message by message: what each side sees, and that nothing is left.
//!
//! The callers are a trunk (10.9.0.1, trusted by address); the agents' phones are registered in the
//! tables. How phones prove themselves is tested at the end.

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};
use abi::{CallState, Command, Event, OpResult};
use sip::digest::{Challenge, answer};

#[test]
fn a_trunk_calls_an_agent() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    {
        let text = house.invite("1001", "c1", Some(OFFER));
        house.send(TRUNK, &text);
    }
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let invite = house.next_to(AGENT_A);
    assert!(invite.starts_with("INVITE sip:phone@192.0.2.1:5070 SIP/2.0\r\n"), "{invite}");
    // Nothing of the trunk's side reaches the phone (topology hiding).
    assert!(!invite.contains("10.9.0.1"), "{invite}");
    assert!(invite.contains("c=IN IP4 127.0.0.1\r\n"), "{invite}");
    assert!(invite.contains("Max-Forwards: 69\r\n"), "{invite}");
    house.reply(AGENT_A, &invite, 180, "t1", None);
    let ringing = house.next_to(TRUNK);
    assert!(ringing.starts_with("SIP/2.0 180 "), "{ringing}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK sip:phone@"), "{ack}");
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    assert_eq!(
        header(&ok, "To: ").split("tag=").nth(1),
        header(&ringing, "To: ").split("tag=").nth(1)
    );
    house.ack(TRUNK, &ok, "c1");
    assert_eq!(
        house.states(),
        [CallState::Calling, CallState::Calling, CallState::Ringing, CallState::Answered]
    );
    {
        let text = house.within("BYE", &ok, "c1", 2, None);
        house.send(TRUNK, &text);
    }
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE sip:phone@"), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.expect_nothing_left();
}

#[test]
fn an_agent_in_a_call_is_busy_and_free_after_it() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    {
        let text = house.invite("1001", "c2", Some(OFFER));
        house.send(TRUNK, &text);
    }
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let busy = house.next_to(TRUNK);
    assert!(busy.starts_with("SIP/2.0 486 "), "{busy}");
    {
        let text = house.ack_refusal(&busy, "1001", "c2");
        house.send(TRUNK, &text);
    }
    // The phone hangs up.
    {
        let text = house.within("BYE", &invite, "", 1, None);
        house.send(AGENT_A, &text);
    }
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(TRUNK);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(TRUNK, &bye, 200, "", None);
    drop(ok);
    house.expect_nothing_left();
    let (_, ok) = house.call_through("1001", AGENT_A, "c3");
    assert!(ok.starts_with("SIP/2.0 200 "));
}

#[test]
fn a_cancelled_call_stops_ringing() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let first = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &first);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.next_to(TRUNK);
    house.send(
        TRUNK,
        &first
            .replace("INVITE", "CANCEL")
            .replace(OFFER, "")
            .replace(&format!("Content-Length: {}", OFFER.len()), "Content-Length: 0"),
    );
    let answers = [house.next_to(TRUNK), house.next_to(TRUNK)];
    assert!(
        answers
            .iter()
            .any(|answer| answer.contains("CANCEL\r\n") && answer.starts_with("SIP/2.0 200 "))
    );
    let gone = answers
        .iter()
        .find(|answer| answer.starts_with("SIP/2.0 487 "))
        .expect("487 to the INVITE");
    {
        let text = house.ack_refusal(gone, "1001", "c1");
        house.send(TRUNK, &text);
    }
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL sip:phone@"), "{cancel}");
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &invite, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    house.expect_nothing_left();
}

#[test]
fn a_200_that_crosses_the_cancel_gets_ack_and_bye() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let first = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &first);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.next_to(TRUNK);
    house.send(TRUNK, &first.replace("INVITE", "CANCEL"));
    house.drain_to(TRUNK);
    house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn refusals_reach_the_caller_and_free_the_agent() {
    for (said, told) in [(486, 486), (603, 603), (480, 480), (302, 480), (401, 480), (500, 500)] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        {
            let text = house.invite("1001", "c1", Some(OFFER));
            house.send(TRUNK, &text);
        }
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, said, "t1", None);
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let refusal = house.next_to(TRUNK);
        assert!(refusal.starts_with(&format!("SIP/2.0 {told} ")), "{said}: {refusal}");
        {
            let text = house.ack_refusal(&refusal, "1001", "c1");
            house.send(TRUNK, &text);
        }
        house.expect_nothing_left();
    }
}

#[test]
fn a_phone_that_is_silent_times_out() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    {
        let text = house.invite("1001", "c1", Some(OFFER));
        house.send(TRUNK, &text);
    }
    house.next_to(TRUNK);
    house.pass_ms(33_000);
    let told = house.drain_to(TRUNK);
    assert!(told.iter().any(|answer| answer.starts_with("SIP/2.0 408 ")), "{told:?}");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn hold_and_retrieve_pass_through_with_our_addresses() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let held = OFFER.replace("a=sendrecv", "a=sendonly");
    {
        let text = house.within("INVITE", &invite, "", 1, Some(&held));
        house.send(AGENT_A, &text);
    }
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    let reinvite = house.next_to(TRUNK);
    assert!(reinvite.starts_with("INVITE sip:trunk@10.9.0.1"), "{reinvite}");
    assert!(
        reinvite.contains("a=sendonly\r\n") && reinvite.contains("c=IN IP4 127.0.0.1\r\n"),
        "{reinvite}"
    );
    assert!(!reinvite.contains("192.0.2.1"), "{reinvite}");
    house.reply(TRUNK, &reinvite, 200, "", Some(&OFFER.replace("a=sendrecv", "a=recvonly")));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    let answer = house.next_to(AGENT_A);
    assert!(answer.starts_with("SIP/2.0 200 ") && answer.contains("a=recvonly\r\n"), "{answer}");
    // While the ACK is under way, both leave each other in peace; after it, glare is seen.
    {
        let text = house.within("ACK", &invite, "", 1, None);
        house.send(AGENT_A, &text);
    }
    {
        let text = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
        house.send(TRUNK, &text);
    }
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let from_trunk = house.next_to(AGENT_A);
    {
        let text = house.within("INVITE", &invite, "", 2, Some(OFFER));
        house.send(AGENT_A, &text);
    }
    let glare = house.next_to(AGENT_A);
    assert!(glare.starts_with("SIP/2.0 491 "), "{glare}");
    house.reply(AGENT_A, &from_trunk, 488, "", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(
        house.next_to(TRUNK).starts_with("SIP/2.0 488 "),
        "a refused change leaves the call as it was"
    );
    {
        let text = house.within("BYE", &ok, "c1", 3, None);
        house.send(TRUNK, &text);
    }
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_offer_may_come_late() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    {
        let text = house.invite("1001", "c1", None);
        house.send(TRUNK, &text);
    }
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert!(invite.contains("Content-Length: 0\r\n"), "{invite}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 ") && ok.contains("m=audio "), "{ok}");
    {
        let text = house.within("ACK", &ok, "c1", 1, Some(OFFER));
        house.send(TRUNK, &text);
    }
    let ack = house.next_to(AGENT_A);
    assert!(ack.starts_with("ACK ") && ack.contains("c=IN IP4 127.0.0.1\r\n"), "{ack}");
    // The phone lost our ACK and says 200 again: it gets the same again.
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert_eq!(house.next_to(AGENT_A), ack);
}

#[test]
fn control_says_where_unknown_numbers_go() {
    let mut house = House::new();
    house.attach_control();
    {
        let text = house.invite("95555", "c1", Some(OFFER));
        house.send(TRUNK, &text);
    }
    house.next_to(TRUNK);
    let (ask, call) = house.asked("95555");
    let address = "10.9.9.9:5080".parse().expect("an address");
    house.command(
        Command::Dial {
            op: 7,
            ask,
            call,
            address,
            location: base::LocationId(0),
            transport: base::Transport::Udp,
        },
        b"5555",
    );
    assert_eq!(house.done(), [(7, OpResult::Ok)]);
    let invite = house.next_to("10.9.9.9:5080");
    assert!(invite.starts_with("INVITE sip:5555@10.9.9.9:5080 "), "{invite}");
    // The same answer again is too late.
    house.command(
        Command::Dial {
            op: 8,
            ask,
            call,
            address,
            location: base::LocationId(0),
            transport: base::Transport::Udp,
        },
        b"5555",
    );
    assert_eq!(house.done(), [(8, OpResult::NoSuchCall)]);
    house.command(Command::Release { op: 9, call, cause: 0 }, b"");
    assert_eq!(house.done(), [(9, OpResult::Ok)]);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 487 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn without_control_unknown_numbers_are_unavailable() {
    let mut house = House::new();
    {
        let text = house.invite("95555", "c1", Some(OFFER));
        house.send(TRUNK, &text);
    }
    house.next_to(TRUNK);
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 503 ") && refusal.contains("Retry-After: "), "{refusal}");
    house.attach_control();
    {
        let text = house.invite("95555", "c2", Some(OFFER));
        house.send(TRUNK, &text);
    }
    house.pass_ms(2_100);
    let told = house.drain_to(TRUNK);
    assert!(
        told.iter().any(|answer| answer.starts_with("SIP/2.0 503 ")),
        "control is silent: {told:?}"
    );
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn requests_are_refused_by_the_rule_they_break() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let good = house.invite("1001", "c1", Some(OFFER));
    let length = format!("Content-Length: {}", OFFER.len());
    let cases = [
        (good.replace("Max-Forwards: 70", "Max-Forwards: 0"), "483"),
        (good.replace("Max-Forwards: 70", "Max-Forwards: 70\r\nRequire: nonsense"), "420"),
        (good.replace("application/sdp", "text/plain"), "415"),
        (good.replace("m=audio", "m=video"), "488"),
        (good.replace("INVITE sip:", "INVITE tel:"), "416"),
        (
            good.replace("INVITE", "PUBLISH")
                .replace(OFFER, "")
                .replace(&length, "Content-Length: 0"),
            "405",
        ),
        (good.replace("CSeq: 1 INVITE", "CSeq: 1 BYE"), "400"),
        (good.replace("To: <sip:1001@127.0.0.1>", "To: <sip:1001@127.0.0.1>;tag=0.1.0.1"), "481"),
        (
            good.replace("INVITE", "BYE").replace(OFFER, "").replace(&length, "Content-Length: 0"),
            "481",
        ),
    ];
    for (number, (request, status)) in cases.into_iter().enumerate() {
        let request = request
            .replace("branch=z9hG4bKc1", &format!("branch=z9hG4bKx{number}"))
            .replace("tag=fc1", &format!("tag=f{number}"));
        house.send(TRUNK, &request);
        let answer = house.next_to(TRUNK);
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{status}: {answer}");
    }
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_phone_proves_itself_by_digest() {
    for algorithm in ["SHA-256", "MD5"] {
        let mut house = House::new();
        house.log_in("1002", "s3cret");
        let register = |authorization: &str, cseq: u32| {
            format!(
                "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2:5070;branch=z9hG4bKr{cseq};rport\r\n\
                 From: <sip:1002.demo@127.0.0.1>;tag=r\r\nTo: <sip:1002.demo@127.0.0.1>\r\nCall-ID: r1\r\n\
                 CSeq: {cseq} REGISTER\r\nContact: <sip:phone@192.0.2.2:5070>\r\nUser-Agent: phone\r\nMax-Forwards: 70\r\n\
                 {authorization}Content-Length: 0\r\n\r\n"
            )
        };
        house.send(AGENT_B, &register("", 1));
        let challenged = house.next_to(AGENT_B);
        assert!(challenged.starts_with("SIP/2.0 401 "), "{challenged}");
        let offers: Vec<&str> =
            challenged.lines().filter(|line| line.starts_with("WWW-Authenticate")).collect();
        assert_eq!(offers.len(), 2, "{challenged}");
        assert!(offers[0].contains("SHA-256") && offers[0].contains("realm=\"demo.test\""));
        let chosen = offers.iter().find(|offer| offer.contains(algorithm)).expect("offered");
        let value = chosen.split_once(": ").expect("a header").1.as_bytes().to_vec();
        let challenge = Challenge::parse(&value).expect("a challenge");
        let prove = |password: &str, count: u32| {
            let value = answer(
                &challenge,
                "1002.demo",
                password,
                b"REGISTER",
                b"sip:127.0.0.1",
                count,
                "c",
            );
            format!("Authorization: {}\r\n", String::from_utf8(value).expect("text"))
        };
        house.send(AGENT_B, &register(&prove("wrong", 1), 2));
        assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 401 "));
        house.send(AGENT_B, &register(&prove("s3cret", 1), 3));
        let accepted = house.next_to(AGENT_B);
        assert!(
            accepted.starts_with("SIP/2.0 200 ") && accepted.contains("expires=3600"),
            "{accepted}"
        );
        assert!(matches!(house.events()[..], [Event::Registered { .. }]));
        // The same digest again is a replay, whoever sends it.
        house.send(AGENT_B, &register(&prove("s3cret", 1), 4));
        let replayed = house.next_to(AGENT_B);
        assert!(
            replayed.starts_with("SIP/2.0 401 ") && replayed.contains("stale=true"),
            "{replayed}"
        );
        // A shorter registration ends when it says, though a longer one came before it.
        let shorter = format!("Expires: 60\r\n{}", prove("s3cret", 2));
        house.send(AGENT_B, &register(&shorter, 5));
        let renewed = house.next_to(AGENT_B);
        assert!(renewed.starts_with("SIP/2.0 200 ") && renewed.contains("expires=60"), "{renewed}");
        house.pass_ms(61_000);
        assert!(matches!(house.events()[..], [Event::Unregistered { .. }]));
    }
}
