//! Call waiting and the limits of an agent's calls.

use abi::{AgentRow, CallState, Counter, Event, LeaseState, Purpose, Why};
use base::{AgentSlot, CcbId, Medium};
use worker::Verdict;

use crate::attended::{invite_from, shares, within};
use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK, header};
use crate::transfers::refer;

const TONE: &str = "Alert-Info: <urn:alert:service:call-waiting>\r\n";

/// A house with an agent whose calls are limited so, and who talks in c1: our INVITE to the phone, our 200 to the
/// trunk.
fn talking(incoming: Option<u32>) -> (House, String, String) {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    house.limit("1001", incoming, None);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    assert!(!invite.contains("Alert-Info"), "{invite}");
    (house, invite, ok)
}

/// A call from the trunk that gets its 100.
fn call(house: &mut House, call_id: &str) {
    let text = house.invite("1001", call_id, Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
}

/// A call that waits: our INVITE to the phone, which rings.
fn waits(house: &mut House, call_id: &str) -> String {
    call(house, call_id);
    let invite = house.next_to(AGENT_A);
    assert!(invite.starts_with("INVITE ") && invite.contains(TONE), "{invite}");
    house.reply(AGENT_A, &invite, 180, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
    invite
}

/// The caller of that call is refused, and says so.
fn is_refused(house: &mut House, status: u16, call_id: &str) {
    let refusal = house.next_to(TRUNK);
    assert!(refusal.starts_with(&format!("SIP/2.0 {status} ")), "{refusal}");
    let ack = house.ack_refusal(&refusal, "1001", call_id);
    house.send(TRUNK, &ack);
}

/// The phone answers; our 200 to the trunk.
fn answers(house: &mut House, invite: &str, call_id: &str) -> String {
    house.reply(AGENT_A, invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, call_id);
    ok
}

/// The phone changes a call: what its peer is asked, and agrees to.
fn changes(house: &mut House, invite: &str, cseq: u32, direction: &str) {
    let offer = OFFER.replace("sendrecv", direction);
    let change = house.within("INVITE", invite, "", cseq, Some(&offer));
    house.send(AGENT_A, &change);
    house.next_to(AGENT_A);
    let told = house.next_to(TRUNK);
    assert!(told.starts_with("INVITE ") && told.contains(direction), "{told}");
    let answer = if direction == "sendonly" { "recvonly" } else { "sendrecv" };
    house.reply(TRUNK, &told, 200, "t1", Some(&OFFER.replace("sendrecv", answer)));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    let ok = house.next_to(AGENT_A);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    let ack = house.within("ACK", invite, "", cseq, None);
    house.send(AGENT_A, &ack);
}

/// The trunk hangs up one of its calls.
fn hangs_up(house: &mut House, ok: &str, call_id: &str) {
    let bye = house.within("BYE", ok, call_id, 9, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
}

/// Everybody agrees to everything until nobody says anything any more.
fn agree(house: &mut House) {
    for _ in 0..100 {
        for (to, text) in house.drain() {
            let to = to.to_string();
            let offer = text.starts_with("INVITE ").then_some(OFFER);
            if !text.starts_with("SIP/2.0") && !text.starts_with("ACK ") {
                house.reply(&to, &text, 200, "t1", offer);
            }
        }
        house.pass_ms(10);
    }
}

#[test]
fn a_second_caller_rings_the_phone_and_is_talked_to_in_turn() {
    for first_ends_first in [true, false] {
        let (mut house, invite, ok) = talking(Some(2));
        let second = waits(&mut house, "c2");
        assert_ne!(header(&second, "Call-ID: "), header(&invite, "Call-ID: "));
        assert_eq!((house.count(Counter::CallsWaiting), shares(&house)[0]), (1, 2));
        // Beyond the limit everybody hears that the agent is busy, and other blades get nobody.
        call(&mut house, "c3");
        is_refused(&mut house, 486, "c3");
        assert_eq!(house.count(Counter::LeaseDenied), 1);
        let reserve = |house: &House| {
            let (agent, by) = (AgentSlot(0), CcbId(9));
            let leases = house.region().leases();
            leases.reserve(agent, Medium::Voice, by, Purpose::Queue, house.now)
        };
        assert!(reserve(&house).is_err());
        // The phone holds the first, answers the second, and swaps.
        changes(&mut house, &invite, 1, "sendonly");
        let second_ok = answers(&mut house, &second, "c2");
        changes(&mut house, &second, 1, "sendonly");
        changes(&mut house, &invite, 2, "sendrecv");
        house.pass_ms(1_000);
        assert_eq!(house.legs().len(), 4);
        let answered =
            house.calls().iter().filter(|it| it.1.state() == CallState::Answered).count();
        assert_eq!((answered, shares(&house)[0]), (2, 2));
        match first_ends_first {
            true => hangs_up(&mut house, &ok, "c1"),
            false => hangs_up(&mut house, &second_ok, "c2"),
        }
        assert_eq!(shares(&house)[0], 1);
        assert!(reserve(&house).is_err(), "one call goes on");
        match first_ends_first {
            true => hangs_up(&mut house, &second_ok, "c2"),
            false => hangs_up(&mut house, &ok, "c1"),
        }
        house.expect_nothing_left();
        assert!(reserve(&house).is_ok(), "the agent is free");
    }
}

#[test]
fn who_may_wait_depends_on_the_limit_and_on_what_the_agent_does() {
    // What the agent does, the limit, and whether a second caller rings.
    for (does, limit, rings) in [
        ("talks", None, false),
        ("talks", Some(1), false),
        ("talks", Some(2), true),
        ("is rung", Some(1), false),
        ("is rung", Some(2), true),
        ("has called", Some(1), false),
        ("has called", Some(2), true),
        ("calls", Some(2), false),
        ("consults", Some(2), false),
        ("consults", Some(3), true),
    ] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.register("1002", AGENT_B);
        house.limit("1001", limit, None);
        if matches!(does, "talks" | "consults") {
            house.call_through("1001", AGENT_A, "c1");
        }
        if does == "is rung" {
            call(&mut house, "c1");
            house.next_to(AGENT_A);
        }
        if matches!(does, "calls" | "has called" | "consults") {
            invite_from(&mut house, AGENT_A, "1001", "1002", "own");
            let asked = house.next_to(AGENT_B);
            if does != "calls" {
                house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER));
            }
            house.drain();
        }
        call(&mut house, "c2");
        let heard = house.drain_to(AGENT_A);
        let rang = heard.iter().any(|text| text.starts_with("INVITE ") && text.contains(TONE));
        assert_eq!(rang, rings, "{does} {limit:?}: {heard:?}");
        let busy = house.drain_to(TRUNK).iter().any(|text| text.starts_with("SIP/2.0 486 "));
        assert_eq!(busy, !rings, "{does} {limit:?}");
    }
}

#[test]
fn a_phone_that_refuses_who_waits_or_lets_it_go_loses_nothing() {
    for (status, told) in [(486, 486), (603, 603), (0, 487)] {
        let (mut house, invite, ok) = talking(Some(2));
        let second = waits(&mut house, "c2");
        if status == 0 {
            // The caller gives up.
            let text = house.invite("1001", "c2", Some(OFFER));
            let cancel = text.replace("INVITE", "CANCEL").replace(OFFER, "");
            let length = format!("Content-Length: {}", OFFER.len());
            house.send(TRUNK, &cancel.replace(&length, "Content-Length: 0"));
            assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
            let cancel = house.next_to(AGENT_A);
            assert!(cancel.starts_with("CANCEL "), "{cancel}");
            house.reply(AGENT_A, &cancel, 200, "t1", None);
            house.reply(AGENT_A, &second, 487, "t1", None);
        } else {
            house.reply(AGENT_A, &second, status, "t1", None);
        }
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        is_refused(&mut house, told, "c2");
        assert_eq!(shares(&house)[0], 1);
        // There is room for the next one.
        let third = waits(&mut house, "c3");
        house.reply(AGENT_A, &third, 486, "t1", None);
        house.next_to(AGENT_A);
        is_refused(&mut house, 486, "c3");
        changes(&mut house, &invite, 1, "sendonly");
        hangs_up(&mut house, &ok, "c1");
        house.expect_nothing_left();
    }
}

#[test]
fn busy_is_the_limit_or_what_the_phone_says() {
    // Without room, and with a phone that refuses.
    for limit in [Some(1), Some(2)] {
        let mut house = House::new();
        house.attach_control();
        house.register("1001", AGENT_A);
        house.limit("1001", limit, None);
        let agents = house.region().agents();
        let row = agents.read(AgentSlot(0)).expect("logged in");
        agents.write(AgentSlot(0), &AgentRow { forwards: AgentRow::BUSY, ..row });
        house.call_through("1001", AGENT_A, "c1");
        let asked = |house: &mut House| {
            let asks = |event: &Event| matches!(event, Event::Asked { why: Why::Busy, .. });
            house.events().iter().any(asks)
        };
        if limit == Some(2) {
            let second = waits(&mut house, "c2");
            assert!(!asked(&mut house), "it rings first");
            house.reply(AGENT_A, &second, 486, "t1", None);
        } else {
            call(&mut house, "c2");
        }
        assert!(asked(&mut house), "{limit:?}");
    }
}

#[test]
fn an_agent_has_as_many_calls_of_its_own_as_it_may() {
    for most in [0, 1, 2] {
        let (mut house, ..) = talking(None);
        house.limit("1001", None, Some(most));
        for number in 0..=most {
            let id = format!("own{number}");
            house.pass_ms(100);
            invite_from(&mut house, AGENT_A, "1001", "1002", &id);
            assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
            if number == most {
                let refusal = house.next_to(AGENT_A);
                assert!(refusal.starts_with("SIP/2.0 403 "), "{refusal}");
                assert!(header(&refusal, "Warning: ").starts_with("399 jackfield \"no more calls"));
                continue;
            }
            // The one who is called may have several calls, so that only the caller's limit counts.
            house.limit("1002", Some(8), None);
            let asked = house.next_to(AGENT_B);
            house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER));
            assert!(house.next_to(AGENT_B).starts_with("ACK "));
            let ok = house.next_to(AGENT_A);
            assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
            house.send(AGENT_A, &within("ACK", AGENT_A, &ok, 2));
        }
        assert_eq!(house.count(Counter::OwnCallsLimited), 1);
        assert_eq!(shares(&house), [1 + most as u16, most as u16]);
    }
}

#[test]
fn a_death_takes_who_waits_and_leaves_who_talks() {
    let (mut house, invite, ok) = talking(Some(2));
    house.pass_ms(1_200);
    let second = waits(&mut house, "c2");
    let found = house.die();
    assert_eq!((found.calls, found.unanswered), (1, 1));
    assert_eq!(shares(&house)[0], 2, "the phone still rings");
    is_refused(&mut house, 500, "c2");
    let again = house.next_to(AGENT_A);
    assert_eq!(header(&again, "Call-ID: "), header(&second, "Call-ID: "));
    house.reply(AGENT_A, &again, 180, "t1", None);
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &again, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    assert_eq!(shares(&house)[0], 1);
    // As before.
    let third = waits(&mut house, "c3");
    changes(&mut house, &invite, 1, "sendonly");
    let third_ok = answers(&mut house, &third, "c3");
    hangs_up(&mut house, &ok, "c1");
    hangs_up(&mut house, &third_ok, "c3");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn both_calls_and_the_agent_s_own_outlive_a_death() {
    let (mut house, invite, ok) = talking(Some(3));
    let second = waits(&mut house, "c2");
    let second_ok = answers(&mut house, &second, "c2");
    house.pass_ms(100);
    invite_from(&mut house, AGENT_A, "1001", "1002", "own");
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 100 "));
    let asked = house.next_to(AGENT_B);
    house.reply(AGENT_B, &asked, 200, "t2", Some(OFFER));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    let own_ok = house.next_to(AGENT_A);
    house.send(AGENT_A, &within("ACK", AGENT_A, &own_ok, 2));
    house.pass_ms(1_200);
    let word = |house: &House| house.region().leases().read(AgentSlot(0), Medium::Voice);
    let is_whole =
        |word: LeaseState| matches!(word, LeaseState::Bound { legs: 3, own: 1, open: true, .. });
    assert!(is_whole(word(&house)), "{:?}", word(&house));
    for _ in 0..3 {
        let found = house.die();
        assert_eq!((found.calls, found.leases_freed), (3, 0));
        assert!(is_whole(word(&house)), "{:?}", word(&house));
    }
    call(&mut house, "c4");
    is_refused(&mut house, 486, "c4");
    changes(&mut house, &invite, 1, "sendonly");
    hangs_up(&mut house, &ok, "c1");
    house.send(AGENT_A, &within("BYE", AGENT_A, &own_ok, 3));
    house.next_to(AGENT_A);
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "", None);
    let left = word(&house);
    assert!(matches!(left, LeaseState::Bound { legs: 1, own: 0, .. }), "{left:?}");
    hangs_up(&mut house, &second_ok, "c2");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_agent_joins_who_waited_with_who_talked() {
    let (mut house, invite, _) = talking(Some(2));
    let second = waits(&mut house, "c2");
    changes(&mut house, &invite, 1, "sendonly");
    answers(&mut house, &second, "c2");
    let ours = header(&second, "From: ").split_once(";tag=").expect("a tag").1;
    let call_id = header(&second, "Call-ID: ");
    let named = format!("{call_id}%3Bto-tag%3D{ours}%3Bfrom-tag%3Dt1");
    let text = refer(&house, &invite, 2, &format!("<sip:0301@127.0.0.1?Replaces={named}>"));
    house.send(AGENT_A, &text);
    assert!(house.next_to(AGENT_A).starts_with("SIP/2.0 202 "));
    agree(&mut house);
    assert_eq!(house.count(Counter::TransfersCompleted), 1);
    let bye = house.within("BYE", &invite, "", 3, None);
    house.send(AGENT_A, &bye);
    house.drain();
    assert_eq!(shares(&house)[0], 0, "the agent is free");
    // The two callers hear each other.
    let pairs: Vec<u32> = house.legs().iter().map(|leg| (leg.rtp_port - 30_000) / 2).collect();
    assert_eq!(pairs.len(), 2);
    for (from, to) in [(0, 1), (1, 0)] {
        let sent = (0..8).map(|n| house.rtp(pairs[from], "203.0.113.9:4000", n)).last();
        let is_sent =
            matches!(sent, Some(Verdict::Send { socket, .. }) if socket.pair().0 == pairs[to]);
        assert!(is_sent, "{sent:?}");
    }
}

/// Two agents who talk, and may both be rung, call each other on two workers: never both calls ring.
#[test]
fn of_two_who_talk_and_call_each_other_at_most_one_rings() {
    let mut house = House::of_two();
    for (number, phone) in [("1001", AGENT_A), ("1002", AGENT_B)] {
        house.register(number, phone);
        house.limit(number, Some(2), None);
        house.call_through(number, phone, &format!("c{number}"));
    }
    invite_from(&mut house, AGENT_A, "1001", "1002", "x1");
    let rung = house.next_to(AGENT_B);
    assert!(rung.contains(TONE), "{rung}");
    invite_from(&mut house, AGENT_B, "1002", "1001", "x2");
    let heard = house.drain_to(AGENT_B);
    assert!(heard.iter().any(|text| text.starts_with("SIP/2.0 486 ")), "{heard:?}");
    let heard = house.drain_to(AGENT_A);
    assert!(!heard.iter().any(|text| text.starts_with("INVITE ")), "{heard:?}");
}
