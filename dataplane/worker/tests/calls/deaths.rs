//! kill -9 of the data plane at each step of a call: what the next incarnation says to whom.

use abi::{CallState, Counter, LegState};
use worker::{Recovery, Verdict};

use crate::house::{AGENT_A, House, OFFER, TRUNK, header};

fn first_lines(house: &mut House, peer: &str) -> Vec<String> {
    let texts = house.drain_to(peer);
    texts.iter().map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
}

fn cseq(text: &str) -> &str {
    header(text, "CSeq: ")
}

/// The call's INVITE has come to the phone.
fn calling(house: &mut House) -> String {
    house.register("1001", AGENT_A);
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    house.next_to(AGENT_A)
}

fn refuse_caller(house: &mut House) {
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 500 "), "{refusal}");
    assert_eq!(cseq(&refusal), "1 INVITE");
    assert!(
        header(&refusal, "Via: ").starts_with(&format!("SIP/2.0/UDP {TRUNK};branch=z9hG4bKc1"))
    );
    let ack = house.ack_refusal(&refusal, "1001", "c1");
    house.send(TRUNK, &ack);
}

fn unanswered(calls: u32) -> Recovery {
    Recovery { unanswered: calls, ..Recovery::default() }
}

fn standing(calls: u32) -> Recovery {
    Recovery { calls, ..Recovery::default() }
}

#[test]
fn a_call_that_waits_for_control_is_refused() {
    let mut house = House::new();
    house.attach_control();
    let text = house.invite("95555", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    assert_eq!(house.die(), unanswered(1));
    refuse_caller(&mut house);
    assert_eq!(first_lines(&mut house, TRUNK), [""; 0]);
    house.run_out();
    house.expect_nothing_left();
    assert_eq!(house.calls()[0].1.cause, 500);
}

#[test]
fn a_phone_that_rings_is_cancelled() {
    let mut house = House::new();
    let invite = calling(&mut house);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    assert_eq!(house.die(), unanswered(1));
    assert_eq!(house.region().leases().held(), 1, "the phone still rings");
    refuse_caller(&mut house);
    // The same INVITE again: the phone's transaction absorbs it, and says again that it rings.
    let again = house.next_to(AGENT_A);
    for name in ["Via: ", "From: ", "To: ", "Call-ID: ", "CSeq: "] {
        assert_eq!(header(&again, name), header(&invite, name), "{name}");
    }
    assert_eq!(again.lines().next(), invite.lines().next());
    assert_eq!(first_lines(&mut house, AGENT_A), [""; 0], "RFC 3261, 9.1: not before it answers");
    house.reply(AGENT_A, &again, 180, "t1", None);
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    assert_eq!(
        cancel.lines().next().map(|line| &line[7..]),
        again.lines().next().map(|line| &line[7..])
    );
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &again, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_phone_that_answered_meanwhile_is_told_goodbye() {
    let mut house = House::new();
    let invite = calling(&mut house);
    house.die();
    refuse_caller(&mut house);
    house.drain_to(AGENT_A);
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    assert_eq!(cseq(&bye), "2 BYE");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_call_whose_caller_may_not_know_of_the_answer_ends() {
    let mut house = House::new();
    let invite = calling(&mut house);
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    assert_eq!(house.die(), unanswered(1));
    refuse_caller(&mut house);
    for (peer, number) in [(TRUNK, "1 BYE"), (AGENT_A, "2 BYE")] {
        let bye = house.next_to(peer);
        assert!(bye.starts_with("BYE "), "{bye}");
        assert_eq!(cseq(&bye), number);
        house.reply(peer, &bye, 200, "t1", None);
    }
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_answered_call_goes_on() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    for sequence in 1..9 {
        house.rtp(0, "203.0.113.9:4000", sequence);
    }
    house.pass_ms(1_200);
    let before = house.calls()[0].1;
    let words = house.region().leases().held();
    house.events();
    for round in 2..5 {
        assert_eq!(house.die(), standing(1));
        assert_eq!(house.drain(), [], "nobody needs to hear of it");
        let row = house.calls()[0].1;
        assert_eq!(
            (row.state(), row.generation, row.serial),
            (CallState::Answered, before.generation, before.serial)
        );
        assert_eq!(
            (row.answered_at, row.incarnation),
            (before.answered_at, before.incarnation + round - 1)
        );
        assert_eq!(house.states(), [CallState::Answered]);
        assert_eq!((house.region().leases().held(), words), (1, 1));
        assert_eq!(house.count(Counter::CallsRecovered), round - 1);
        assert_eq!(house.recovered_pairs(), 2);
        let leg = house.region().legs().read(0).expect("a row");
        assert_eq!((leg.state(), leg.packets_in), (LegState::Answered, 8));
    }
    // Media both ways, from and to where it went before.
    let sent = |verdict| matches!(verdict, Verdict::Send { .. });
    assert!(sent(house.rtp(0, "203.0.113.9:4000", 10)));
    assert!(sent(house.rtp(1, "203.0.113.9:4000", 1)));
    assert!(!sent(house.rtp(0, "198.51.100.66:4000", 11)), "strangers stay strangers");
    // A change from each side.
    let text = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let passed = house.next_to(AGENT_A);
    assert_eq!((passed.starts_with("INVITE "), cseq(&passed)), (true, "2 INVITE"));
    assert!(passed.contains(" 2 IN IP4 127.0.0.1"), "the description's version goes on: {passed}");
    house.reply(AGENT_A, &passed, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let ack = house.within("ACK", &ok, "c1", 2, None);
    house.send(TRUNK, &ack);
    let text = house.within("INVITE", &invite, "c1", 7, Some(OFFER));
    house.send(AGENT_A, &text);
    house.next_to(AGENT_A);
    let passed = house.next_to(TRUNK);
    assert_eq!((passed.starts_with("INVITE "), cseq(&passed)), (true, "1 INVITE"));
    house.reply(TRUNK, &passed, 200, "fc1", Some(OFFER));
    house.drain();
    let ack = house.within("ACK", &invite, "c1", 7, None);
    house.send(AGENT_A, &ack);
    assert_eq!(house.die(), standing(1));
    // And its end.
    let text = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    assert_eq!((bye.starts_with("BYE "), cseq(&bye)), (true, "3 BYE"));
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
    assert_eq!(house.recovered_pairs(), 0);
    assert_eq!(house.die(), Recovery::default(), "nothing is left to judge");
}

#[test]
fn an_open_change_is_refused_and_the_call_goes_on() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("INVITE", &ok, "c1", 2, Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let passed = house.next_to(AGENT_A);
    assert_eq!(house.die(), standing(1));
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with("SIP/2.0 500 "), "{refusal}");
    assert_eq!((cseq(&refusal), header(&refusal, "Retry-After: ")), ("2 INVITE", "1"));
    assert_eq!(header(&refusal, "To: "), header(&ok, "To: "));
    // The other leg answers what nobody waits for any more, again and again until there is an ACK.
    for _ in 0..2 {
        house.reply(AGENT_A, &passed, 200, "t1", Some(OFFER));
        let ack = house.next_to(AGENT_A);
        assert_eq!((ack.starts_with("ACK "), cseq(&ack)), (true, "2 ACK"));
    }
    // A stranger's answer gets none.
    house.reply(AGENT_A, &passed.replace(";tag=t1", ";tag=t2"), 200, "t2", Some(OFFER));
    assert_eq!(first_lines(&mut house, AGENT_A), [""; 0]);
    assert_eq!(house.count(Counter::DropSipNoTransaction), 1);
    let text = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &text);
    let bye = house.next_to(AGENT_A);
    assert_eq!(cseq(&bye), "3 BYE");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_answer_whose_ack_was_lost_gets_it_from_the_next_incarnation() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    house.die();
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ack = house.next_to(AGENT_A);
    assert_eq!((ack.starts_with("ACK "), cseq(&ack)), (true, "1 ACK"));
    let text = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &text);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_goodbye_is_said_again_with_the_next_number() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let text = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &text);
    assert_eq!(cseq(&house.next_to(AGENT_A)), "2 BYE");
    assert_eq!(house.die(), Recovery::default());
    assert_eq!(house.region().leases().held(), 1, "the phone may still be in the call");
    let bye = house.next_to(AGENT_A);
    assert_eq!(cseq(&bye), "3 BYE");
    assert_eq!(first_lines(&mut house, TRUNK), [""; 0], "it said goodbye itself");
    house.reply(AGENT_A, &bye, 481, "t1", None);
    house.expect_nothing_left();
    assert_eq!(house.calls()[0].1.cause, 0, "it ended well");
    house.run_out();
}

#[test]
fn a_cancelled_phone_is_cancelled_again() {
    let mut house = House::new();
    let invite = calling(&mut house);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    let cancel = invite_to_cancel(&house);
    house.send(TRUNK, &cancel);
    assert!(house.next_to(AGENT_A).starts_with("CANCEL "));
    assert_eq!(house.die(), Recovery::default());
    let again = house.next_to(AGENT_A);
    assert_eq!(header(&again, "Via: "), header(&invite, "Via: "));
    house.reply(AGENT_A, &again, 180, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("CANCEL "));
    house.reply(AGENT_A, &again, 487, "t1", None);
    house.run_out();
    house.expect_nothing_left();
    assert_eq!(house.calls()[0].1.cause, 487);
}

fn invite_to_cancel(house: &House) -> String {
    let invite = house.invite("1001", "c1", None);
    invite.replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL").replace("INVITE sip:", "CANCEL sip:")
}

#[test]
fn a_call_without_its_port_ends() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.call_through("1001", AGENT_A, "c1");
    house.binds = false;
    assert_eq!(house.die(), standing(1));
    assert_eq!(house.drain(), [], "the ports of a killed process take their time");
    house.pass_ms(5_000);
    for peer in [TRUNK, AGENT_A] {
        let bye = house.next_to(peer);
        assert!(bye.starts_with("BYE "), "{bye}");
        house.reply(peer, &bye, 200, "t1", None);
    }
    assert_eq!(house.count(Counter::CallsNotRecovered), 1);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_call_that_came_late_to_its_port_goes_on() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.call_through("1001", AGENT_A, "c1");
    house.rtp(0, "203.0.113.9:4000", 1);
    house.binds = false;
    house.die();
    assert!(!matches!(house.rtp(0, "203.0.113.9:4000", 2), Verdict::Send { .. }), "no socket yet");
    house.binds = true;
    house.pass_ms(500);
    assert!(matches!(house.rtp(0, "203.0.113.9:4000", 3), Verdict::Send { .. }));
}

#[test]
fn a_dialog_too_long_for_its_row_ends_the_call() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let long = format!("c{}", "x".repeat(700));
    house.call_through("1001", AGENT_A, &long);
    assert_eq!(house.die(), Recovery { lost: 1, leases_freed: 0, ..Recovery::default() });
    assert_eq!(house.count(Counter::CallsNotRecovered), 1);
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    assert_eq!(first_lines(&mut house, TRUNK), [""; 0], "nothing can be said to it");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn calls_of_an_address_that_is_gone_end() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.call_through("1001", AGENT_A, "c1");
    let found = house.die_and_change(|config| config.locations[0].sip_port = 5066);
    assert_eq!((found.calls, found.lost), (0, 1));
    assert_eq!(house.drain(), [], "from another address nobody would know us");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_word_that_nobody_holds_is_freed() {
    let mut house = House::new();
    let agent = house.log_in("1001", "secret");
    let (leases, now) = (house.region().leases(), base::Instant::from_nanos(1));
    let ours = base::CcbId(1);
    let word = leases.reserve(agent, base::Medium::Voice, ours, abi::Purpose::Call, now);
    assert!(leases.bind(agent, base::Medium::Voice, ours, word.expect("it is free")));
    assert_eq!(house.die(), Recovery { leases_freed: 1, ..Recovery::default() });
    house.expect_nothing_left();
}
