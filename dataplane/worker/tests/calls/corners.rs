//! Where calls get stuck, or in wrong hands, if nobody looks.

use abi::Command;
use base::LocationId;
use worker::{Limits, Verdict};

use crate::house::{AGENT_A, House, OFFER, TRUNK, at_once, header};

/// A description with a section that no rewriting can carry.
fn odd_offer() -> String {
    format!("{OFFER}m=1.2.3.4 0 RTP/AVP 0\r\n")
}

#[test]
fn a_call_that_fails_half_way_frees_the_agent() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(&odd_offer()));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 4"));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn ports_that_run_out_between_two_legs_free_the_agent() {
    let mut house = House::new();
    house.attach_control();
    for number in 1..=6 {
        house.register(&format!("100{number}"), &format!("192.0.2.{number}:5070"));
    }
    // Ten pairs: one for a call that waits for control, four times two, one left.
    let text = house.invite("95555", "ask", Some(OFFER));
    house.send(TRUNK, &text);
    for number in 1..=5 {
        let text = house.invite(&format!("100{number}"), &format!("c{number}"), Some(OFFER));
        house.send(TRUNK, &text);
    }
    let refused = house.drain_to(TRUNK).into_iter().filter(|text| text.starts_with("SIP/2.0 503 "));
    assert_eq!(refused.count(), 1, "the fifth finds one pair only");
    house.pass_ms(400_000);
    house.drain();
    house.expect_nothing_left();
}

#[test]
fn an_answer_without_contact_ends_the_call() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply_without_contact(AGENT_A, &invite, 200, Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 502 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_invite_without_contact_is_refused() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text.replace("Contact: <sip:trunk@10.9.0.1>\r\n", ""));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 400 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_refused_change_leaves_room_for_the_next() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("INVITE", &ok, "c1", 2, Some(&odd_offer()));
    house.send(TRUNK, &text);
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 4"), "{refusal}");
    let text = house.within("INVITE", &ok, "c1", 3, Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
}

#[test]
fn strangers_take_no_room_and_a_bye_needs_none() {
    let mut house = House::limited(Limits { transactions: 8, ..at_once() });
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    for number in 0..64 {
        let text = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKq{number}\r\n\
             From: <sip:x@127.0.0.1>;tag=r\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: q{number}\r\n\
             CSeq: 1 REGISTER\r\nContact: <sip:p@198.51.100.7>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        house.send("198.51.100.7:5060", &text);
        assert!(house.next_to("198.51.100.7:5060").starts_with("SIP/2.0 401 "));
    }
    // Requests that are answered otherwise do take room, and now there is none.
    for number in 0..8 {
        let text = house.within("OPTIONS", &ok, "c1", 10 + number, None);
        house.send(TRUNK, &text);
    }
    house.drain();
    let text = house.within("BYE", &ok, "c1", 30, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn nobody_takes_over_media_by_guessing_ports() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    let evil = "198.51.100.66:9999";
    for pair in 0..10 {
        for sequence in 0..20 {
            let verdict = house.rtp(pair, evil, sequence);
            assert!(matches!(verdict, Verdict::Drop(_)), "{pair}: {verdict:?}");
        }
    }
    house.reply(AGENT_A, &invite, 200, "t1", Some(&OFFER.replace("203.0.113.9", "192.0.2.1")));
    for sequence in 100..150 {
        let verdict = house.rtp(0, "203.0.113.9:4000", sequence);
        let to_phone =
            matches!(verdict, Verdict::Send { to, .. } if to == "192.0.2.1:4000".parse().unwrap());
        assert!(to_phone, "the caller is where it said: {verdict:?}");
        let verdict = house.rtp(1, "192.0.2.1:4000", sequence);
        let to_caller = matches!(verdict, Verdict::Send { to, .. } if to == "203.0.113.9:4000".parse().unwrap());
        assert!(to_caller, "{verdict:?}");
    }
}

#[test]
fn a_late_copy_of_an_old_ack_acknowledges_nothing() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let old_ack = house.within("ACK", &ok, "c1", 1, None);
    let text = house.within("INVITE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let reinvite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &reinvite, 200, "t1", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.send(TRUNK, &old_ack);
    assert!(house.drain().is_empty(), "the ACK with the answer is still to come");
    let text = house.within("ACK", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
}

#[test]
fn an_answer_that_crosses_the_bye_gets_no_second_one() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &text);
    let reinvite = house.next_to(AGENT_A);
    let text = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &text);
    house.reply(AGENT_A, &reinvite, 200, "t1", Some(OFFER));
    let seen = house.drain_to(AGENT_A);
    assert_eq!(seen.iter().filter(|text| text.starts_with("BYE ")).count(), 1, "{seen:#?}");
    assert!(seen.iter().any(|text| text.starts_with("ACK ")), "{seen:#?}");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_phone_that_hangs_up_while_it_is_asked_leaves_nothing() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &text);
    let reinvite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &reinvite, 180, "t1", None);
    let text = house.within("BYE", &invite, "", 1, None);
    house.send(AGENT_A, &text);
    house.pass_ms(200_000);
    house.drain();
    house.expect_nothing_left();
    assert_eq!(house.transactions(), 0);
}

#[test]
fn a_number_is_no_way_to_another_host() {
    let mut house = House::new();
    house.attach_control();
    let numbers = ["9%40192.0.2.99%3a5060%3bx", "9%20SIP%2f2.0%0d%0aX:y", "%00"];
    for (count, number) in numbers.iter().enumerate() {
        let text = house.invite(number, &format!("c{count}"), Some(OFFER));
        house.send(TRUNK, &text);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 404 "), "{number}");
    }
    // Control is not believed either.
    let text = house.invite("95555", "good", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let (ask, call) = house.asked("95555");
    let address = "10.9.9.9:5080".parse().expect("an address");
    house.command(
        Command::Dial {
            op: 1,
            ask,
            call,
            address,
            location: LocationId(0),
            transport: base::Transport::Udp,
        },
        b"1@192.0.2.99",
    );
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 404 "));
}

#[test]
fn who_does_not_say_who_calls_is_anonymous() {
    for from in ["sip:10.9.0.1", "sip:a-user-part-of-far-more-than-32-bytes@x", "sip:\u{fc}@x"] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        let text = house.invite("1001", "c1", Some(OFFER)).replace("sip:0301@10.9.0.1", from);
        house.send(TRUNK, &text);
        let invite = house.next_to(AGENT_A);
        assert!(
            header(&invite, "From: ").starts_with("<sip:anonymous@127.0.0.1:5060>"),
            "{from}: {invite}"
        );
    }
}

#[test]
fn a_second_fork_is_let_go_once() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    for _ in 0..4 {
        house.reply(AGENT_A, &invite, 200, "t2", Some(OFFER));
    }
    let seen = house.drain_to(AGENT_A);
    assert_eq!(seen.iter().filter(|text| text.starts_with("ACK ")).count(), 4, "{seen:#?}");
    assert_eq!(seen.iter().filter(|text| text.starts_with("BYE ")).count(), 1, "{seen:#?}");
    // Also when the call has long been forgotten.
    let text = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.drain();
    house.reply(AGENT_A, &invite, 200, "t3", Some(OFFER));
    let seen = house.drain_to(AGENT_A);
    assert!(seen[0].starts_with("ACK ") && seen[1].starts_with("BYE "), "{seen:#?}");
}

#[test]
fn a_call_whose_peers_are_dead_ends() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.call_through("1001", AGENT_A, "c1");
    house.pass_ms(59_000);
    assert!(house.drain().is_empty(), "a minute of silence is no death");
    house.pass_ms(200_000);
    let seen = house.drain();
    assert!(seen.iter().any(|(_, text)| text.starts_with("OPTIONS ")), "they are asked first");
    house.expect_nothing_left();
}

#[test]
fn a_held_call_lives_while_its_peers_answer() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    for _ in 0..200 {
        house.pass_ms(1_000);
        for (to, text) in house.drain() {
            assert!(text.starts_with("OPTIONS "), "{text}");
            // A peer that does not know OPTIONS is alive as well.
            house.reply(&to.to_string(), &text, 405, "", None);
        }
    }
    let text = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "), "it still stands");
}

#[test]
fn options_in_a_dead_dialog_tells_so() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let alive = house.within("OPTIONS", &ok, "c1", 2, None);
    house.send(TRUNK, &alive);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let text = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "t1", None);
    let dead = house.within("OPTIONS", &ok, "c1", 4, None);
    house.send(TRUNK, &dead);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 481 "));
}

#[test]
fn media_is_not_sent_round_in_circles() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    // The caller says that it hears at the port that we gave the phone.
    let port = ok.lines().find_map(|line| line.strip_prefix("m=audio ")).expect("audio");
    let port = port.split(' ').next().expect("a port");
    let own = OFFER
        .replace("203.0.113.9", "127.0.0.1")
        .replace("m=audio 4000", &format!("m=audio {port}"));
    let text = house.within("INVITE", &ok, "c1", 2, Some(&own));
    house.send(TRUNK, &text);
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 488 "), "{refusal}");
}
