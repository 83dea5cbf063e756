//! Somebody is brought into a call, and what desks do to the calls of their agents.

use abi::{
    CallState, Command, Counter, Event, GuestKind, LeaseState, LegState, MediaOrder, MixRole,
    OpResult, Party, Purpose, Why,
};
use base::{AgentSlot, CallRef, Medium, TenantId};
use worker::{PairId, Verdict};

use crate::house::{AGENT_A, AGENT_B, House, OFFER, TRUNK};

/// Where all phones send from and listen, by [`OFFER`].
const PHONE: &str = "203.0.113.9:4000";
const MIX: u32 = 4_095;
const CALLER: u32 = 0;
const AGENT: u32 = 1;
const GUEST: u32 = 2;

/// RTP of a phone: 20 ms of one level.
fn rtp(sequence: u16, level: i16) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 160).to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes.extend([media::g711::Law::Mu.encode(level); 160]);
    bytes
}

/// A call from the trunk to 1001 that stands, and 1002 idle; our INVITE to 1001 and our 200 to the trunk.
fn call(house: &mut House) -> (CallRef, String, String) {
    house.attach_control();
    house.register("1001", AGENT_A);
    house.register("1002", AGENT_B);
    let (invite, ok) = house.call_through("1001", AGENT_A, "c1");
    house.events();
    (house.legs()[0].call(), invite, ok)
}

fn summon(guest: GuestKind, to: CallRef) -> Command {
    Command::Summon {
        op: 7,
        tenant: TenantId(1),
        by: Party::Trunk(u32::MAX),
        purpose: Purpose::Monitor,
        mix: MIX,
        guest,
        to,
        to_leg: 1,
        ring_s: 20,
    }
}

/// What control learns of the guest's call.
fn summoned(house: &mut House) -> CallRef {
    let events = house.events();
    let found = events.iter().find_map(|event| match event {
        Event::Summoned { op: 7, call } => Some(*call),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("not summoned: {events:?}"))
}

/// 1002 is called for a call's mix, and answers.
fn bring(house: &mut House, guest: GuestKind, to: CallRef) -> CallRef {
    house.command(summon(guest, to), b"1002\n1001");
    let call = summoned(house);
    let invite = house.next_to(AGENT_B);
    assert!(invite.starts_with("INVITE ") && invite.contains("From: <sip:1001@"), "{invite}");
    house.reply(AGENT_B, &invite, 180, "t2", None);
    let row = house.region().calls().read(call.slot).expect("a row");
    assert_eq!((row.state(), row.mix, row.guest()), (CallState::Ringing, MIX, Some(guest)));
    house.reply(AGENT_B, &invite, 200, "t2", Some(OFFER));
    assert!(house.next_to(AGENT_B).starts_with("ACK "));
    assert_eq!(house.done(), [(7, OpResult::Ok)]);
    call
}

fn order(house: &mut House, call: CallRef, leg: u8, order: MediaOrder) {
    house.command(Command::Media { op: 8, call, leg, order }, b"");
    assert_eq!(house.done(), [(8, OpResult::Ok)]);
}

fn role(role: MixRole, to: CallRef) -> MediaOrder {
    MediaOrder::Mix { mix: MIX, role, to, to_leg: 1 }
}

/// Everybody speaks at a level of their own; what each hears.
fn heard(house: &mut House, from: u16) -> [i32; 3] {
    for sequence in from..from + 60 {
        for (pair, level) in [(CALLER, 1_000), (AGENT, 2_000), (GUEST, 4_000)] {
            house.media(pair, PHONE, rtp(sequence, level));
        }
        house.pass_ms(20);
    }
    [CALLER, AGENT, GUEST].map(|pair| {
        let mut made = house.made.iter().rev();
        let last = made.find(|(socket, ..)| socket.pair() == PairId(pair));
        last.map_or(0, |(_, _, packet)| {
            i32::from(media::g711::Law::Mu.decode(packet[packet.len() - 80]))
        })
    })
}

fn expect(levels: [i32; 3], wanted: [i32; 3]) {
    for (is, wanted) in levels.iter().zip(wanted) {
        assert!((is - wanted).abs() < 250, "{levels:?}, not {wanted:?}");
    }
}

#[test]
fn a_supervisor_monitors_whispers_barges_and_leaves() {
    let mut house = House::new();
    let (host, ..) = call(&mut house);
    let words = |house: &House| house.region().leases().read(AgentSlot(0), Medium::Voice);
    let before = words(&house);
    let guest = bring(&mut house, GuestKind::Monitor, host);
    let word = house.region().leases().read(AgentSlot(1), Medium::Voice);
    assert!(matches!(word, LeaseState::Bound { purpose: Purpose::Monitor, .. }), "{word:?}");
    for leg in [0, 1] {
        order(&mut house, host, leg, role(MixRole::Participant, host));
    }
    expect(heard(&mut house, 1), [2_000, 1_000, 3_000]);
    order(&mut house, guest, 0, role(MixRole::Whisper, host));
    expect(heard(&mut house, 61), [2_000, 5_000, 3_000]);
    let row = house.region().calls().read(guest.slot).expect("a row");
    assert_eq!(row.guest(), Some(GuestKind::Whisper));
    order(&mut house, guest, 0, role(MixRole::Participant, host));
    expect(heard(&mut house, 121), [6_000, 5_000, 3_000]);
    assert_eq!(
        house.region().calls().read(guest.slot).and_then(|it| it.guest()),
        Some(GuestKind::Barge)
    );
    // Nobody listens any more: packets are relayed bit by bit again, and the agent's word was never touched.
    house.command(Command::Release { op: 9, call: guest, cause: 0 }, b"");
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "t2", None);
    assert_eq!(house.done(), [(9, OpResult::Ok)]);
    for leg in [0, 1] {
        order(&mut house, host, leg, MediaOrder::LeaveMix);
    }
    assert!(matches!(house.media(CALLER, PHONE, rtp(200, 3)), Verdict::Send { .. }));
    assert!(matches!(house.media(AGENT, PHONE, rtp(200, 3)), Verdict::Send { .. }));
    assert_eq!(words(&house), before);
    assert_eq!(house.count(Counter::CallsSummoned), 1);
    house.command(Command::Release { op: 9, call: host, cause: 0 }, b"");
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn who_is_called_for_a_mix_and_does_not_come_leaves_nothing() {
    let cases = [(486, OpResult::Declined), (480, OpResult::NoAnswer), (603, OpResult::Declined)];
    for (status, result) in cases {
        let mut house = House::new();
        let (host, ..) = call(&mut house);
        house.command(summon(GuestKind::Participant, host), b"1002\n1001");
        let invite = house.next_to(AGENT_B);
        house.reply(AGENT_B, &invite, status, "t2", None);
        assert_eq!(house.done(), [(7, result)]);
        house.run_out();
        let word = house.region().leases().read(AgentSlot(1), Medium::Voice);
        assert!(matches!(word, LeaseState::Free { .. }), "{word:?}");
    }
    // In a call; not answered in time; a number that control must find, and refuses.
    let mut house = House::new();
    let (host, ..) = call(&mut house);
    house.command(summon(GuestKind::Monitor, host), b"1001\n1002");
    assert_eq!(house.done(), [(7, OpResult::Denied)]);
    house.command(summon(GuestKind::Monitor, host), b"1002\n1001");
    let invite = house.next_to(AGENT_B);
    house.reply(AGENT_B, &invite, 180, "t2", None);
    house.events();
    house.pass_ms(20_100);
    assert!(house.next_to(AGENT_B).starts_with("CANCEL "));
    assert_eq!(house.done(), [(7, OpResult::NoAnswer)]);
    house.command(summon(GuestKind::Participant, host), b"555\n1001");
    let events = house.events_and_blobs();
    let asked = events.iter().find_map(|(event, number)| match event {
        Event::Asked { op, call, why: Why::Summoned, .. } if number == "555" => Some((*op, *call)),
        _ => None,
    });
    let (ask, call) = asked.expect("it is asked about");
    house.command(Command::Reject { op: 3, ask, call, status: 404, retry_after_s: 0 }, b"");
    assert_eq!(house.done(), [(7, OpResult::NoSuchAgent), (3, OpResult::Ok)]);
    for blob in [&b"1002"[..], b"\n1001", b"10 02\n1001", b""] {
        house.command(summon(GuestKind::Monitor, host), blob);
        assert_eq!(house.done(), [(7, OpResult::Refused)], "{blob:?}");
    }
}

#[test]
fn each_party_of_a_conference_stands_for_itself() {
    let mut house = House::new();
    let (host, _, ok) = call(&mut house);
    let guest = bring(&mut house, GuestKind::Participant, host);
    for leg in [0, 1] {
        let confer = MediaOrder::Confer { mix: MIX, organiser: leg == 1 };
        order(&mut house, host, leg, confer);
    }
    let row = house.region().calls().read(host.slot).expect("a row");
    assert_eq!((row.mix, row.guest(), row.organiser()), (MIX, None, Some(1)));
    expect(heard(&mut house, 1), [6_000, 5_000, 3_000]);
    // The caller's hold is between the caller and us.
    let hold = house.within("INVITE", &ok, "c1", 2, Some(&OFFER.replace("sendrecv", "sendonly")));
    house.send(TRUNK, &hold);
    let answers = house.drain_to(TRUNK);
    let answer = answers.iter().find(|text| text.starts_with("SIP/2.0 200 ")).expect("we answer");
    assert!(answer.contains("recvonly"), "{answer}");
    let ack = house.within("ACK", &ok, "c1", 2, None);
    house.send(TRUNK, &ack);
    assert_eq!(house.drain_to(AGENT_A), [""; 0]);
    // The caller leaves; the other two go on.
    let bye = house.within("BYE", &ok, "c1", 3, None);
    house.send(TRUNK, &bye);
    assert!(house.next_to(TRUNK).starts_with("SIP/2.0 200 "));
    house.events();
    assert_eq!(
        house.region().calls().read(host.slot).map(|row| row.state()),
        Some(CallState::Answered)
    );
    let [_, agent, guest_hears] = heard(&mut house, 61);
    expect([0, agent, guest_hears], [0, 4_000, 2_000]);
    // Control drops the agent: nobody is left in that call.
    house.command(Command::Drop { op: 4, call: host, leg: 1 }, b"");
    assert_eq!(house.done(), [(4, OpResult::Ok)]);
    let bye = house.next_to(AGENT_A);
    assert!(bye.starts_with("BYE "), "{bye}");
    house.reply(AGENT_A, &bye, 200, "t1", None);
    house.command(Command::Release { op: 9, call: guest, cause: 0 }, b"");
    let bye = house.next_to(AGENT_B);
    house.reply(AGENT_B, &bye, 200, "t2", None);
    house.run_out();
    house.expect_nothing_left();
}

#[test]
fn a_conference_goes_on_without_its_mix_in_another_process() {
    let mut house = House::new();
    let (host, ..) = call(&mut house);
    let guest = bring(&mut house, GuestKind::Participant, host);
    for leg in [0, 1] {
        order(&mut house, host, leg, MediaOrder::Confer { mix: MIX, organiser: leg == 1 });
    }
    heard(&mut house, 1);
    house.pass_ms(1_100);
    house.die();
    house.attach_control();
    house.pass_ms(2_000);
    let row = |call: CallRef| house.region().calls().read(call.slot).expect("a row");
    let (of_host, of_guest) = (row(host), row(guest));
    assert_eq!([of_host.state(), of_guest.state()], [CallState::Answered; 2]);
    assert_eq!(of_guest.guest(), Some(GuestKind::Participant));
    // Control puts them together again.
    order(&mut house, guest, 0, role(MixRole::Participant, host));
    for leg in [0, 1] {
        order(&mut house, host, leg, MediaOrder::Confer { mix: MIX, organiser: leg == 1 });
    }
    expect(heard(&mut house, 500), [6_000, 5_000, 3_000]);
}

/// What a desk's hold and retrieve say to both phones.
#[test]
fn a_desk_holds_a_call_and_takes_it_back() {
    let mut house = House::new();
    let (call, ..) = call(&mut house);
    house.media(CALLER, PHONE, rtp(1, 1_000));
    house.media(AGENT, PHONE, rtp(1, 1_000));
    let park = |on| Command::Park { op: 5, call, leg: 1, on };
    house.command(park(false), b"");
    assert_eq!(house.done(), [(5, OpResult::Refused)], "it is not held");
    for (on, to_agent, to_caller, answer) in [
        (true, "a=inactive", "a=sendonly", ["inactive", "recvonly"]),
        (false, "a=sendrecv", "a=sendrecv", ["sendrecv", "sendrecv"]),
    ] {
        house.command(park(on), b"");
        assert_eq!(house.done(), [(5, OpResult::Ok)]);
        let agents = house.next_to(AGENT_A);
        assert!(agents.starts_with("INVITE ") && agents.contains(to_agent), "{agents}");
        let callers = house.next_to(TRUNK);
        assert!(callers.starts_with("INVITE ") && callers.contains(to_caller), "{callers}");
        let flows = |how: &str| OFFER.replace("sendrecv", how);
        house.reply(AGENT_A, &agents, 200, "t1", Some(&flows(answer[0])));
        house.reply(TRUNK, &callers, 200, "", Some(&flows(answer[1])));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        assert!(house.next_to(TRUNK).starts_with("ACK "));
        let events = house.events();
        let held = Event::Held { call, leg: 0, on };
        assert!(events.contains(&held), "{events:?}");
        if on {
            house.command(park(true), b"");
            assert_eq!(house.done(), [(5, OpResult::Refused)], "it is held already");
        }
    }
    assert!(matches!(house.media(CALLER, PHONE, rtp(2, 1_000)), Verdict::Send { .. }));
    assert_eq!(house.count(Counter::CallsParked), 2);
    // A phone that does not want to leaves it as it was.
    house.command(park(true), b"");
    let agents = house.next_to(AGENT_A);
    let callers = house.next_to(TRUNK);
    house.reply(AGENT_A, &agents, 488, "t1", None);
    house.reply(TRUNK, &callers, 488, "", None);
    house.drain();
    assert!(!house.events().iter().any(|event| matches!(event, Event::Held { .. })));
    house.command(park(true), b"");
    assert_eq!(house.done(), [(5, OpResult::Ok)], "it may be tried again");
}

#[test]
fn a_desk_lets_a_phone_answer_that_can_be_asked_to() {
    for (lines, result) in [
        ("Allow-Events: hold, Talk", OpResult::Ok),
        ("Allow-Events: hold", OpResult::Declined),
        ("Allow: INVITE", OpResult::Declined),
    ] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        house.send(TRUNK, &house.invite("1001", "c1", Some(OFFER)));
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        let call = CallRef { slot: 0, generation: house.calls()[0].1.generation };
        let talk = Command::Talk { op: 5, call, leg: 1 };
        house.command(talk, b"");
        assert_eq!(house.done(), [(5, OpResult::Refused)], "it does not ring yet");
        house.reply_with(AGENT_A, &invite, 180, lines, None);
        house.command(talk, b"");
        assert_eq!(house.done(), [(5, result)], "{lines}");
        let notify = house.drain_to(AGENT_A);
        if result != OpResult::Ok {
            assert_eq!(notify, [""; 0]);
            continue;
        }
        let [notify] = &notify[..] else { panic!("{notify:?}") };
        assert!(
            notify.starts_with("NOTIFY ") && notify.contains("\r\nEvent: talk\r\n"),
            "{notify}"
        );
        assert!(notify.contains(";tag=t1"), "within the dialog: {notify}");
        house.reply(AGENT_A, notify, 200, "t1", None);
        house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        assert!(house.drain_to(TRUNK).iter().any(|text| text.starts_with("SIP/2.0 200 ")));
        assert!(house.legs().iter().all(|leg| leg.state() == LegState::Answered));
        house.command(talk, b"");
        assert_eq!(house.done(), [(5, OpResult::Refused)], "it rings no more");
    }
}
