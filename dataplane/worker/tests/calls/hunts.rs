//! Calls for which several places are tried in turn.

use abi::{AgentRow, Command, Counter, Event, OpResult, Why};
use base::{AgentSlot, CallRef};

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK};

const OUTSIDE: &str = "10.9.9.9:5080";

fn asked(house: &mut House) -> Option<(u64, CallRef, Why)> {
    house.events().iter().find_map(|event| match *event {
        Event::Asked { op, call, why, .. } => Some((op, call, why)),
        _ => None,
    })
}

/// Two phones, and a call that control sends to these places.
fn called(number: &str, forwards: u32, places: &str) -> House {
    let mut house = House::new();
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let agents = house.region().agents();
    let row = agents.read(AgentSlot(0)).expect("logged in");
    agents.write(AgentSlot(0), &AgentRow { forwards, no_answer_s: 3, ..row });
    let text = house.invite(number, "c1", Some(OFFER));
    house.send(TRUNK, &text);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
    let (ask, call, _) = asked(&mut house).expect("control was asked");
    house.command(Command::Forward { op: 9, ask, call }, places.as_bytes());
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 181 "));
    house
}

/// Its phone rings until its time is over.
fn rings_in_vain(house: &mut House, phone: &str, ms: u64) {
    let invite = house.next_to(phone);
    assert!(invite.starts_with("INVITE "), "{invite}");
    house.reply(phone, &invite, 180, "t1", None);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 180 "));
    house.pass_ms(ms - 500);
    assert_eq!(house.drain_to(phone), [""; 0], "it rings for {ms} ms");
    house.pass_ms(600);
    let cancel = house.next_to(phone);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(phone, &cancel, 200, "t1", None);
    house.reply(phone, &invite, 487, "t1", None);
    assert!(house.next_to(phone).starts_with("ACK "));
}

fn refuses(house: &mut House, phone: &str, status: u16) {
    let invite = house.next_to(phone);
    house.reply(phone, &invite, status, "t2", None);
    assert!(house.next_to(phone).starts_with("ACK "));
}

/// The party at that address answers and the caller talks to it; then the caller hangs up.
fn takes_it(house: &mut House, peer: &str) {
    let invite = house.next_to(peer);
    assert!(invite.starts_with("INVITE "), "{invite}");
    house.reply(peer, &invite, 200, "t3", Some(OFFER));
    assert!(house.next_to(peer).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
    house.ack(TRUNK, &ok, "c1");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(peer);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(peer, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn places_are_tried_in_turn_each_for_its_time() {
    let mut house = called("800", 0, "1001/15,1002/20,777/30");
    rings_in_vain(&mut house, AGENT_A, 15_000);
    refuses(&mut house, AGENT_B, 486);
    let (ask, call, why) = asked(&mut house).expect("control was asked about 777");
    assert_eq!(why, Why::Hunted);
    let (address, location) = (OUTSIDE.parse().expect("an address"), base::LocationId(0));
    let transport = base::Transport::Udp;
    house.command(Command::Dial { op: 7, ask, call, address, location, transport }, b"777");
    takes_it(&mut house, OUTSIDE);
    assert_eq!(house.counter(Counter::CallsHunted), 1);
}

#[test]
fn an_agent_s_own_number_stands_in_its_list_and_rules_of_places_do_not_count() {
    let all = AgentRow::ALWAYS | AgentRow::BUSY | AgentRow::NO_ANSWER;
    let mut house = called("1001", all, "1001/8,1002/20");
    rings_in_vain(&mut house, AGENT_A, 8_000);
    takes_it(&mut house, AGENT_B);
    let mut house = called("1001", all, "1001/8,1002/20");
    refuses(&mut house, AGENT_A, 486);
    takes_it(&mut house, AGENT_B);
}

#[test]
fn who_is_away_or_unknown_is_passed_over() {
    let mut house = called("800", 0, "555/5,1003/5,1002");
    let (ask, call, why) = asked(&mut house).expect("555 is nobody here");
    assert_eq!(why, Why::Hunted);
    house.command(Command::Reject { op: 3, ask, call, status: 404, retry_after_s: 0 }, b"");
    let (ask, call, _) = asked(&mut house).expect("nor is 1003");
    // A rule of that number's own, by a control that did not listen, is not followed.
    house.command(Command::Forward { op: 4, ask, call }, b"1001");
    takes_it(&mut house, AGENT_B);
}

#[test]
fn the_caller_hears_what_the_last_place_said() {
    let mut house = called("800", 0, "1001/5,1002/5");
    refuses(&mut house, AGENT_A, 486);
    refuses(&mut house, AGENT_B, 603);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 603 "));
    house.run_out();
    house.expect_nothing_left();
    let mut house = called("800", 0, "1001/5,1002/6");
    rings_in_vain(&mut house, AGENT_A, 5_000);
    rings_in_vain(&mut house, AGENT_B, 6_000);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 480 "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn an_answer_that_crosses_its_cancel_is_let_go_and_the_next_place_rings_on() {
    let mut house = called("800", 0, "1001/5,1002/20");
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.next_to(TRUNK);
    house.pass_ms(5_100);
    let cancel = house.next_to(AGENT_A);
    // RFC 3261, 9.1: the 200 was under way; it is acknowledged and its dialog ended.
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "", None);
    takes_it(&mut house, AGENT_B);
}

#[test]
fn a_caller_who_gives_up_ends_the_search() {
    let mut house = called("800", 0, "1001/5,1002/20");
    refuses(&mut house, AGENT_A, 480);
    let invite = house.next_to(AGENT_B);
    house.reply(AGENT_B, &invite, 180, "t1", None);
    house.next_to(TRUNK);
    let cancel = house.invite("800", "c1", None).replace("INVITE", "CANCEL");
    house.send(TRUNK, &cancel);
    let told = house.drain_to(TRUNK);
    assert!(told.iter().any(|text| text.starts_with("SIP/2.0 487 ")), "{told:?}");
    let cancel = house.next_to(AGENT_B);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    house.reply(AGENT_B, &cancel, 200, "t1", None);
    house.reply(AGENT_B, &invite, 487, "t1", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn what_is_no_list_is_refused() {
    let mut house = House::new();
    house.attach_control();
    let text = house.invite("800", "c1", Some(OFFER));
    house.send(TRUNK, &text);
    house.next_to(TRUNK);
    let (ask, call, _) = asked(&mut house).expect("control was asked");
    house.command(Command::Forward { op: 9, ask, call }, b"1001/5,,");
    let done = house.done();
    assert_eq!(done, [(9, OpResult::Refused)]);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 404 "));
    house.run_out();
    house.expect_nothing_left();
}
