//! A caller of a queue is offered to agents.

use abi::{AgentRow, CallState, Command, LeaseState, LegState, MediaOrder, OpResult, Purpose};
use base::{AgentSlot, CallRef, Medium};

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK};

const MUSIC: MediaOrder = MediaOrder::Play { times: 0 };

/// A caller who was answered and hears music; two agents whose phones are registered.
fn waiting(house: &mut House) -> (CallRef, String) {
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    house.send(TRUNK, &house.invite("702", "c1", Some(OFFER)));
    house.next_to(TRUNK);
    let (ask, call) = house.asked("702");
    house.command(Command::Answer { op: 5, ask, call }, b"");
    assert_eq!(house.done(), [(5, OpResult::Ok)]);
    let ok = house.next_to(TRUNK);
    house.ack(TRUNK, &ok, "c1");
    house.command(Command::Media { op: 6, call, leg: 0, order: MUSIC }, b"music.wav");
    house.loaded("music.wav", Some(&[1_000; 8_000]));
    (call, ok)
}

fn offer(house: &mut House, call: CallRef, op: u64, number: &str) {
    let offer = Command::Offer { op, call, leg: 0, ring_s: 15, overflow: false };
    house.command(offer, number.as_bytes());
}

fn word(house: &House, agent: u32) -> LeaseState {
    house.region().leases().read(AgentSlot(agent), Medium::Voice)
}

fn state(house: &House, call: CallRef) -> CallState {
    house.region().calls().read(call.slot).expect("a row").state()
}

/// The caller's leg is all that stands of the call, and the music goes on.
fn waits_on(house: &mut House, call: CallRef) {
    house.run_out();
    assert_eq!(state(house, call), CallState::Answered);
    assert_eq!(house.legs().len(), 1);
    let before = house.made.len();
    house.pass_ms(100);
    assert!(house.made.len() >= before + 4, "20 ms of music at a time");
}

#[test]
fn who_answers_is_joined_to_the_caller_and_the_music_ends() {
    let mut house = House::new();
    let (call, ok) = waiting(&mut house);
    offer(&mut house, call, 7, "1001");
    assert_eq!(house.done(), [], "it is not decided");
    let invite = house.next_to(AGENT_A);
    assert!(invite.starts_with("INVITE ") && invite.contains("From: <sip:0301@"), "{invite}");
    let is_won = matches!(word(&house, 0), LeaseState::Bound { purpose: Purpose::Queue, .. });
    assert!(is_won, "{:?}", word(&house, 0));
    house.reply(AGENT_A, &invite, 180, "t1", None);
    assert!(house.region().legs().iter().any(|(_, leg)| leg.state() == LegState::Ringing));
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert_eq!(house.done(), [(6, OpResult::Stopped), (7, OpResult::Ok)]);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let again = house.next_to(TRUNK);
    assert!(again.starts_with("INVITE "), "the caller hears what the agent's media is like");
    house.reply(TRUNK, &again, 200, "", Some(OFFER));
    assert!(house.next_to(TRUNK).starts_with("ACK "));
    assert_eq!(house.legs().len(), 2);
    let before = house.made.len();
    house.pass_ms(200);
    assert_eq!(house.made.len(), before, "no music any more");
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    house.next_to(TRUNK);
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn who_does_not_take_the_caller_leaves_the_caller_waiting() {
    for (said, result) in
        [(486, OpResult::Declined), (603, OpResult::Declined), (480, OpResult::NoAnswer)]
    {
        let mut house = House::new();
        let (call, _) = waiting(&mut house);
        // The agent's own rules are for who calls the agent.
        let agents = house.region().agents();
        let row = agents.read(AgentSlot(0)).expect("logged in");
        agents.write(AgentSlot(0), &AgentRow { forwards: AgentRow::BUSY, ..row });
        offer(&mut house, call, 7, "1001");
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, said, "t1", None);
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        assert_eq!(house.done(), [(7, result)]);
        assert!(matches!(word(&house, 0), LeaseState::Free { .. }));
        waits_on(&mut house, call);
        offer(&mut house, call, 8, "1002");
        let invite = house.next_to(AGENT_B);
        house.reply(AGENT_B, &invite, 200, "t2", Some(OFFER));
        assert_eq!(house.done(), [(6, OpResult::Stopped), (8, OpResult::Ok)]);
    }
}

#[test]
fn a_phone_rings_for_as_long_as_the_queue_says() {
    let mut house = House::new();
    let (call, _) = waiting(&mut house);
    offer(&mut house, call, 7, "1001");
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.pass_ms(14_900);
    assert_eq!(house.done(), []);
    house.pass_ms(200);
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    assert_eq!(house.done(), [(7, OpResult::NoAnswer)]);
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &invite, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    waits_on(&mut house, call);
}

#[test]
fn who_is_in_a_call_is_not_asked() {
    let mut house = House::new();
    let (call, _) = waiting(&mut house);
    let (medium, them, now) = (Medium::Voice, base::CcbId(9), base::Instant::from_nanos(1));
    let leases = house.region().leases();
    leases.reserve(AgentSlot(0), medium, them, Purpose::Call, now).expect("free");
    offer(&mut house, call, 7, "1001");
    assert_eq!(house.done(), [(7, OpResult::Denied)]);
    waits_on(&mut house, call);
}

#[test]
fn a_caller_who_hangs_up_while_a_phone_rings_is_gone() {
    let mut house = House::new();
    let (call, ok) = waiting(&mut house);
    offer(&mut house, call, 7, "1001");
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    let bye = house.within("BYE", &ok, "c1", 2, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    let cancel = house.next_to(AGENT_A);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
    assert!(house.done().contains(&(7, OpResult::NoSuchCall)));
    house.reply(AGENT_A, &cancel, 200, "t1", None);
    house.reply(AGENT_A, &invite, 487, "t1", None);
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn what_does_not_wait_is_not_offered() {
    let mut house = House::new();
    let (call, _) = waiting(&mut house);
    offer(&mut house, call, 7, "10 01");
    assert_eq!(house.done(), [(7, OpResult::Refused)]);
    offer(&mut house, CallRef { generation: call.generation + 1, ..call }, 8, "1001");
    assert_eq!(house.done(), [(8, OpResult::NoSuchCall)]);
    offer(&mut house, call, 9, "1001");
    let invite = house.next_to(AGENT_A);
    offer(&mut house, call, 10, "1002");
    assert_eq!(house.done(), [(10, OpResult::Refused)], "one at a time");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    house.done();
    offer(&mut house, call, 11, "1002");
    assert_eq!(house.done(), [(11, OpResult::Refused)], "it talks");
}

#[test]
fn a_caller_waits_on_over_the_death_of_the_data_plane() {
    let mut house = House::new();
    let (call, _) = waiting(&mut house);
    offer(&mut house, call, 7, "1001");
    let invite = house.next_to(AGENT_A);
    house.reply(AGENT_A, &invite, 180, "t1", None);
    house.die();
    house.attach_control();
    house.pass_ms(3_000);
    assert_eq!(state(&house, call), CallState::Answered);
    assert_eq!(house.legs().len(), 1);
    offer(&mut house, call, 8, "1002");
    while !house.next_to(AGENT_B).starts_with("INVITE ") {}
}
