//! What is not said, not read and not woken for.

use std::time::Duration;

use worker::Limits;

use crate::house::{AGENT_A, House, OFFER, TRUNK};

/// As it is by default: a 100 waits.
fn patient() -> House {
    let mut house = House::limited(Limits::default());
    house.register("1001", AGENT_A);
    house
}

fn invite(house: &mut House) -> (String, String) {
    let text = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    (text, house.next_to(AGENT_A))
}

#[test]
fn a_caller_who_hears_more_in_time_hears_no_100() {
    let mut house = patient();
    let (_, ringing) = invite(&mut house);
    house.pass_ms(50);
    assert!(house.drain_to(TRUNK).is_empty());
    house.reply(AGENT_A, &ringing, 180, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
    house.pass_ms(300);
    assert!(house.drain_to(TRUNK).is_empty(), "nothing is said after it");
}

#[test]
fn a_caller_who_hears_nothing_hears_100_within_200_ms() {
    let mut house = patient();
    let (_, ringing) = invite(&mut house);
    let wait = Limits::default().trying_ms;
    // With the latest that a worker wakes for it.
    assert!(wait > 0 && wait + 20 < 200);
    house.pass_ms(wait - 1);
    assert!(house.drain_to(TRUNK).is_empty());
    house.pass_ms(1);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house.reply(AGENT_A, &ringing, 486, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 486 "));
}

#[test]
fn a_caller_who_asks_again_is_told_at_once() {
    let mut house = patient();
    let (text, _) = invite(&mut house);
    house.pass_ms(30);
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    house.pass_ms(300);
    let again = house.drain_to(TRUNK);
    assert!(again.is_empty(), "once: {again:?}");
}

#[test]
fn timers_that_may_be_late_wait_for_a_tick_together() {
    let mut house = patient();
    invite(&mut house);
    let mut wakes = 0;
    let end = house.now + Duration::from_secs(5);
    while let Some((due, wakes_at)) = house.deadlines().filter(|(due, _)| *due <= end) {
        let late = wakes_at.since(due);
        assert!(wakes_at >= due && late < Duration::from_millis(20), "{late:?}");
        assert!(wakes_at <= house.now || wakes_at.as_nanos() % 20_000_000 == 0, "a tick");
        house.pass_until(wakes_at);
        wakes += 1;
    }
    // At most fifty a second, and the first look.
    assert!((100..=251).contains(&wakes), "{wakes}");
}

#[test]
fn who_says_that_trunks_changed_is_heard_and_nobody_else_is_asked() {
    let mut house = House::new();
    house.region().header().provision_changed();
    house.pass_ms(1_000);
    let mut trunk = house.region().trunks().read(0).expect("a trunk");
    trunk.state = 0;
    house.region().trunks().write(0, &trunk);
    house.pass_ms(1_000);
    house.register("1001", AGENT_A);
    let first = house.invite("1001", "c1", Some(OFFER));
    house.send(TRUNK, &first);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "), "what was read stands");
    house.region().header().provision_changed();
    let second = house.invite("1001", "c2", Some(OFFER));
    house.send(TRUNK, &second);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 401 "), "it is a stranger now");
}
