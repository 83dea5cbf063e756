//! Calls that go elsewhere than they were dialled, and calls that control begins.

use abi::{AgentRow, CallState, Command, Event, OpResult, Why};
use base::{AgentSlot, CallRef};

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};

/// The first agent's row says so.
fn mark(house: &House, forwards: u32, no_answer_s: u32) {
    let agents = house.region().agents();
    let row = agents.read(AgentSlot(0)).expect("logged in");
    agents.write(AgentSlot(0), &AgentRow { forwards, no_answer_s, ..row });
}

type Question = (u64, CallRef, Why);

fn question(events: &[Event]) -> Option<Question> {
    events.iter().find_map(|event| match *event {
        Event::Asked { op, call, why, .. } => Some((op, call, why)),
        _ => None,
    })
}

/// What control was asked.
fn asked(house: &mut House) -> Option<Question> {
    question(&house.events())
}

/// Control answers with another number; it may be asked about that again.
fn answered(house: &mut House, (ask, call, _): Question, to: &str) -> Option<Question> {
    house.command(Command::Forward { op: 9, ask, call }, to.as_bytes());
    let events = house.events();
    assert!(events.contains(&Event::Done { op: 9, result: OpResult::Ok }), "{events:?}");
    question(&events)
}

/// Control was asked for that reason, and answers with another number.
fn forward(house: &mut House, why: Why, to: &str) -> Option<Question> {
    let question = asked(house).expect("control was asked");
    assert_eq!(question.2, why);
    answered(house, question, to)
}

fn call(house: &mut House) {
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
}

/// The call reaches the second agent, is answered and ends.
fn reaches_the_second(house: &mut House, reason: &str) {
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 181 Call Is Being Forwarded\r\n"));
    let invite = house.next_to(AGENT_B);
    assert!(invite.starts_with("INVITE ") && invite.contains("From: <sip:0301@"), "{invite}");
    let diversion = format!("<sip:1001@127.0.0.1:5060>;reason={reason}");
    assert_eq!(header(&invite, "Diversion: "), diversion);
    house.reply(AGENT_B, &invite, 200, "t2", Some(OFFER));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_B);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_B, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_busy_phone_s_call_goes_to_another() {
    for said in [486, 600, 603] {
        let mut house = House::new();
        house.attach_control();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        mark(&house, AgentRow::BUSY, 0);
        call(&mut house);
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, said, "t1", None);
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        assert_eq!(forward(&mut house, Why::Busy, "1002"), None);
        reaches_the_second(&mut house, "user-busy");
    }
}

#[test]
fn a_call_to_who_talks_or_is_away_or_forwards_all_goes_to_another() {
    for (flag, why, reason) in [
        (AgentRow::BUSY, Why::Busy, "user-busy"),
        (AgentRow::UNAVAILABLE, Why::Unavailable, "unavailable"),
        (AgentRow::ALWAYS, Why::Always, "unconditional"),
    ] {
        let mut house = House::new();
        house.attach_control();
        match why {
            Why::Unavailable => _ = house.log_in("1001", "secret"),
            _ => house.register("1001", AGENT_A),
        }
        house.register("1002", AGENT_B);
        mark(&house, flag, 0);
        if why == Why::Busy {
            let leases = house.region().leases();
            let (agent, medium, them) = (AgentSlot(0), base::Medium::Voice, base::CcbId(9));
            let now = base::Instant::from_nanos(1);
            leases.reserve(agent, medium, them, abi::Purpose::Call, now).expect("free");
        }
        call(&mut house);
        assert_eq!(forward(&mut house, why, "1002"), None);
        if why == Why::Busy {
            house.region().leases().free_all_of(base::CcbId(9));
        }
        reaches_the_second(&mut house, reason);
    }
}

#[test]
fn a_call_that_is_not_answered_goes_to_another() {
    let mut house = House::new();
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    mark(&house, AgentRow::NO_ANSWER, 20);
    call(&mut house);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
    house.pass_ms(19_900);
    assert_eq!(asked(&mut house), None);
    house.pass_ms(200);
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &invite, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert_eq!(forward(&mut house, Why::NoAnswer, "1002"), None);
    reaches_the_second(&mut house, "no-answer");
}

#[test]
fn a_phone_rings_on_when_nobody_says_where_else() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    mark(&house, AgentRow::NO_ANSWER, 20);
    call(&mut house);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.pass_ms(100_000);
    house.next_to(TRUNK);
    assert_eq!(house.drain_to(AGENT_A), [""; 0]);
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
}

#[test]
fn a_call_that_nobody_takes_is_refused_as_the_first_said() {
    // How control answers: no rule, no such number, nothing.
    for answer in ["reject", "unknown", "nothing"] {
        let mut house = House::new();
        house.attach_control();
        house.register("1001", AGENT_A);
        mark(&house, AgentRow::BUSY, 0);
        call(&mut house);
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, 486, "t1", None);
        house.next_to(AGENT_A);
        let (ask, call, _) = match answer {
            "unknown" => forward(&mut house, Why::Busy, "777").expect("it is asked about again"),
            _ => asked(&mut house).expect("control was asked"),
        };
        if answer == "nothing" {
            house.pass_ms(2_100);
        } else {
            let reject = Command::Reject { op: 1, ask, call, status: 404, retry_after_s: 0 };
            house.command(reject, b"");
        }
        let refused = house.drain_to(TRUNK);
        assert!(refused.iter().any(|text| text.starts_with("SIP/2.0 486 ")), "{refused:?}");
        house.run_out();
        house.expect_nothing_left();
    }
}

#[test]
fn rules_that_go_round_come_to_an_end() {
    let mut house = House::new();
    house.attach_control();
    house.register("1001", AGENT_A);
    mark(&house, AgentRow::ALWAYS, 0);
    call(&mut house);
    let mut question = asked(&mut house).expect("control was asked");
    for _ in 0..4 {
        assert_eq!(question.2, Why::Always);
        question = answered(&mut house, question, "1001").expect("and is asked again");
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 181 "));
    }
    // The fifth is the last: then the phone rings after all.
    assert_eq!(answered(&mut house, question, "1001"), None);
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 486, "t1", None);
    house.next_to(AGENT_A);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 486 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_transfer_follows_the_rules_of_its_target() {
    let mut house = House::new();
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1002", AGENT_B, "c1");
    mark(&house, AgentRow::BUSY, 0);
    let refer = house.within("REFER", &invite, "", 2, None).replace(AGENT_A, AGENT_B);
    let line = "Max-Forwards: 70\r\nRefer-To: <sip:1001@h>\r\nRefer-Sub: false\r\n";
    house.send(AGENT_B, &refer.replace("Max-Forwards: 70\r\n", line));
    assert!(house.next_to(AGENT_B).starts_with("SIP/2.0 202 "));
    let offered = house.next_to(AGENT_A);
    house.reply(AGENT_A, &offered, 486, "t1", None);
    house.next_to(AGENT_A);
    let (ask, call, why) = asked(&mut house).expect("control was asked");
    assert_eq!(why, Why::Busy);
    assert_eq!(house.calls()[0].1.state(), CallState::Answered);
    house.command(Command::Forward { op: 9, ask, call }, b"777");
    let (ask, call, why) = asked(&mut house).expect("control was asked");
    assert_eq!(why, Why::Forwarded);
    let command = Command::Dial {
        op: 7,
        ask,
        call,
        address: "10.9.9.9:5080".parse().expect("an address"),
        location: base::LocationId(0),
        transport: base::Transport::Udp,
    };
    house.command(command, b"777");
    let offered = house.next_to("10.9.9.9:5080");
    house.reply("10.9.9.9:5080", &offered, 200, "t2", Some(OFFER));
    house.next_to("10.9.9.9:5080");
    let tell = house.next_to(TRUNK);
    house.reply(TRUNK, &tell, 200, "", Some(OFFER));
    house.next_to(TRUNK);
    house.pass_ms(5_100);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to("10.9.9.9:5080");
    house.reply("10.9.9.9:5080", &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

fn originate(house: &mut House, to: &str) -> OpResult {
    let (agent, epoch) = (AgentSlot(0), 5);
    house.command(Command::Originate { op: 3, agent, epoch }, to.as_bytes());
    house.done()[0].1
}

#[test]
fn a_click_calls_the_agent_first_and_then_the_number() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    assert_eq!(originate(&mut house, "1002"), OpResult::Ok);
    let first = house.next_to(AGENT_A);
    assert!(first.contains("From: <sip:1002@") && first.contains("m=audio "), "{first}");
    house.reply(AGENT_A, &first, 180, "t1", None);
    house.reply(AGENT_A, &first, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let second = house.next_to(AGENT_B);
    assert!(second.contains("From: <sip:1001@") && second.contains(" RTP/AVP 0 8\r\n"), "{second}");
    assert_ne!(house.calls()[0].1.state(), CallState::Answered);
    house.reply(AGENT_B, &second, 200, "t2", Some(OFFER));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let tell = house.next_to(AGENT_A);
    assert!(tell.starts_with("INVITE "), "{tell}");
    house.reply(AGENT_A, &tell, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert_eq!(house.calls()[0].1.state(), CallState::Answered);
    assert_eq!(house.region().leases().held(), 2);
    let bye = house.within("BYE", &first, "", 1, None);
    house.send(AGENT_A, &bye);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    house.expect_nothing_left();
}

#[test]
fn a_click_that_comes_to_nothing_leaves_nothing() {
    // The agent's phone, or the number's, says no; the process dies in between.
    for end in ["first", "second", "death"] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        assert_eq!(originate(&mut house, "1002"), OpResult::Ok);
        assert_eq!(originate(&mut house, "1002"), OpResult::Refused, "the word is taken");
        let first = house.next_to(AGENT_A);
        if end == "first" {
            house.reply(AGENT_A, &first, 486, "t1", None);
            house.next_to(AGENT_A);
        } else {
            house.reply(AGENT_A, &first, 200, "t1", Some(OFFER));
            house.next_to(AGENT_A);
            let second = house.next_to(AGENT_B);
            if end == "second" {
                house.reply(AGENT_B, &second, 486, "t2", None);
                house.next_to(AGENT_B);
            } else {
                house.die();
                let again = house.next_to(AGENT_B);
                house.reply(AGENT_B, &again, 180, "t2", None);
                let cancel = house.next_to(AGENT_B);
                assert!(cancel.starts_with("CANCEL "), "{cancel}");
                house.reply(AGENT_B, &cancel, 200, "t2", None);
                house.reply(AGENT_B, &again, 487, "t2", None);
                house.next_to(AGENT_B);
            }
            let bye = house.next_to(AGENT_A);
            assert!(bye.starts_with("BYE "), "{end}: {bye}");
            house.reply(AGENT_A, &bye, 200, "", None);
        }
        house.run_out();
        house.expect_nothing_left();
    }
}

#[test]
fn control_gives_a_caller_to_another() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (_, ok) = house.call_through("1001", AGENT_A, "c1");
    let (slot, row) = house.calls()[0];
    let call = CallRef { slot, generation: row.generation };
    for (leg, number, result) in
        [(7, "1002", OpResult::Refused), (1, "", OpResult::Refused), (1, "1002", OpResult::Ok)]
    {
        house.command(Command::Transfer { op: 4, call, leg }, number.as_bytes());
        assert_eq!(house.done(), [(4, result)], "{leg} {number}");
    }
    let offered = house.next_to(AGENT_B);
    house.reply(AGENT_B, &offered, 200, "t2", Some(OFFER));
    house.next_to(AGENT_B);
    let tell = house.next_to(TRUNK);
    house.reply(TRUNK, &tell, 200, "", Some(OFFER));
    house.next_to(TRUNK);
    house.pass_ms(5_100);
    let bye = house.next_to(AGENT_A);
    house.reply(AGENT_A, &bye, 200, "", None);
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    house.expect_nothing_left();
}

#[test]
fn control_hears_who_is_held() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let (invite, _) = house.call_through("1001", AGENT_A, "c1");
    house.events();
    for (cseq, on) in [(1, true), (2, false)] {
        let sdp = if on { OFFER.replace("a=sendrecv", "a=sendonly") } else { OFFER.to_owned() };
        let change = house.within("INVITE", &invite, "", cseq, Some(&sdp));
        house.send(AGENT_A, &change);
        let passed = house.next_to(TRUNK);
        let answer = OFFER.replace("a=sendrecv", if on { "a=recvonly" } else { "a=sendrecv" });
        house.reply(TRUNK, &passed, 200, "", Some(&answer));
        house.next_to(TRUNK);
        let ack = house.within("ACK", &invite, "", cseq, None);
        house.send(AGENT_A, &ack);
        let held = |event: &Event| matches!(event, Event::Held { leg: 0, on: is, .. } if *is == on);
        let events = house.events();
        let told: Vec<&Event> =
            events.iter().filter(|event| matches!(event, Event::Held { .. })).collect();
        assert!(told.len() == 1 && held(told[0]), "{told:?}");
    }
}
