//! CCBs that come, go and come back, and what their tables and rings tell.

use super::*;

#[test]
fn a_ccb_that_gives_no_sign_of_life_is_down_and_comes_back() {
    let mut world = World::new(1);
    assert_eq!(world.status(1), CcbStatus::Normal);
    let mut out = Vec::new();
    for _ in 0..8 {
        world.now = world.now + Duration::from_millis(250);
        out.extend(world.give(Input::Timeout));
    }
    assert_eq!(world.status(1), CcbStatus::Down);
    assert!(out.iter().any(|one| matches!(one, Output::Ccb { is: CcbStatus::Down, .. })));
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(500);
    assert_eq!(world.status(1), CcbStatus::Normal);
    world.give(Input::Gone { ccb: CcbId(1) });
    assert_eq!(world.status(1), CcbStatus::Down);
    world.planes[0].region.header().set_data_plane_state(DataPlaneState::Draining);
    world.attach_all();
    assert_eq!(world.status(1), CcbStatus::Draining);
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
}

#[test]
fn a_ccb_with_a_worker_that_hangs_is_down() {
    let mut world = World::new(1);
    for _ in 0..8 {
        world.now = world.now + Duration::from_millis(250);
        world.planes[0].region.header().beat_worker(WorkerId(0), world.now);
        world.give(Input::Timeout);
    }
    assert_eq!(world.status(1), CcbStatus::Down);
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(500);
    assert_eq!(world.status(1), CcbStatus::Normal);
}

#[test]
fn desks_see_their_call_from_both_ends_and_its_record_is_acknowledged_last() {
    let mut world = World::new(1);
    let (a, a_desk) = world.online(1001, 1);
    let (b, b_desk) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    use CallEvent::*;
    let table = [
        (CallState::Calling, Some(Originated), None),
        (CallState::Ringing, Some(Delivered), Some(Delivered)),
        (CallState::Ringing, None, None),
        (CallState::Answered, Some(Established), Some(Established)),
        (CallState::Ended, Some(ConnectionCleared), Some(ConnectionCleared)),
    ];
    for (state, to_a, to_b) in table {
        world.planes[0].call(1, state, agents, true);
        let out = world.give(Input::Pump);
        let seen = |desk, party: &str, incoming, event: Option<CallEvent>| {
            let expected: Vec<_> =
                event.map(|event| (event, party.to_owned(), incoming)).into_iter().collect();
            assert_eq!(call_events(&out, desk), expected, "{state:?}");
        };
        seen(a_desk, "1002", false, to_a);
        seen(b_desk, "1001", true, to_b);
        let records = records(out);
        assert_eq!(records.len(), usize::from(state == CallState::Ended));
        if let [record] = &records[..] {
            assert_eq!((record.serial, record.legs.len()), (777, 2));
            assert_eq!(record.legs[1].login, Some(b.login));
            assert_eq!((record.legs[0].packets_in, record.legs[1].packets_in), (10, 11));
        }
    }
    let call = CallRef { slot: 1, generation: 7 };
    let region = world.planes[0].region.clone();
    assert!(!region.calls().is_acknowledged(call));
    world.pass(5_000);
    assert!(!region.calls().is_acknowledged(call));
    world.give(Input::Recorded { ccb: CcbId(1), call });
    assert!(region.calls().is_acknowledged(call));
    assert!(world.blade.calls(CcbId(1)).is_empty());
}

#[test]
fn a_missed_event_is_mended_from_the_tables() {
    let mut world = World::new(1);
    let (a, a_desk) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Ringing, agents, false);
    // The ring overflows: what is refused leaves a gap in the numbers.
    let call = CallRef { slot: 0, generation: 0 };
    let event = Event::SourceRefused { call, leg: 0, addr: SocketAddr::from(([1, 1, 1, 1], 1)) };
    while world.planes[0].events[0].push(&event, &[], Class::Call).is_ok() {}
    world.give(Input::Pump);
    world.planes[0].event(0, event, &[]);
    let out = world.give(Input::Pump);
    assert_eq!(call_events(&out, a_desk), [(CallEvent::Delivered, "1002".to_owned(), false)]);
    let view = world.blade.ccbs().next().expect("one CCB");
    assert_eq!(view.counts.events_missed, 1);
}

#[test]
fn control_that_restarts_finds_everything_in_the_tables() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let phone_only = world.granted(1003, 1);
    world.register(phone_only);
    let slots = [world.slot(a.login), world.slot(b.login)];
    let region = world.planes[0].region.clone();
    for slot in slots {
        let counter = region
            .leases()
            .reserve(slot, Medium::Voice, CcbId(1), abi::Purpose::Call, world.now)
            .expect("it is free");
        assert!(region.leases().bind(slot, Medium::Voice, CcbId(1), counter));
    }
    world.planes[0].call(1, CallState::Answered, slots, true);
    world.give(Input::Pump);
    let incarnation = region.header().control().incarnation;
    world.now = world.now + Duration::from_secs(1);
    world.restart_control();
    assert_eq!(region.header().control().incarnation, incarnation + 1);
    assert_eq!(world.counts(1), (2, 1, 0));
    assert_eq!(world.view(a.login).state, "lost");
    assert_eq!(world.view(phone_only.login).state, "registered");
    assert_eq!(world.blade.calls(CcbId(1)).len(), 1);
    let (desk, out) = world.attach_desk(a.login);
    assert_eq!(call_events(&out, desk), [(CallEvent::Established, "1002".to_owned(), false)]);
    world.pass(32_000);
    assert!(world.blade.is_alive(a.login) && world.blade.is_alive(phone_only.login));
    assert!(!world.blade.is_alive(b.login), "its desk did not come back");
    // Ended while control was away: the record is made by the next one.
    world.planes[0].call(1, CallState::Ended, slots, false);
    let out = world.restart_control();
    assert_eq!(records(out).len(), 1);
}

#[test]
fn a_grant_that_was_cut_short_is_cleaned_up() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    let slot = world.slot(granted.login);
    let region = world.planes[0].region.clone();
    region.secrets().write(slot, &abi::SecretRow::default());
    world.restart_control();
    assert!(!world.blade.is_alive(granted.login));
    assert_eq!(region.agents().find_user(b"1001.demo"), None);
    world.pass(1_500);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::Empty);
}

#[test]
fn a_fresh_region_is_filled_again_and_a_restart_is_told() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    world.give(Input::Gone { ccb: CcbId(1) });
    world.planes[0] = Plane::new(1, world.now);
    let out = world.attach_all();
    assert!(out.iter().any(|one| matches!(one, Output::Restarted { fresh: true, .. })));
    assert!(desk_messages(&out, socket).contains(&DeskMessage::PhoneLost));
    let region = world.planes[0].region.clone();
    let (slot, row) = region.agents().find_user(b"1001.demo").expect("it is written again");
    assert_eq!((row.login_epoch, row.cti_state()), (1, CtiState::Connected));
    assert_eq!(region.secrets().read(slot).expect("a row").ha1_md5, [233; 16]);
    assert_eq!(region.tenants().read(0).expect("a row").name().as_str(), "demo");
    assert!(region.header().provision().is_some(), "whoever keeps a copy hears of it");
    assert!(region.trunks().read(0).expect("a row").contains([10, 1, 9, 9].into()));
    world.register(granted);
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn a_data_plane_that_restarts_on_its_region_keeps_logins_and_fails_open_ops() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    let call = CallRef { slot: 1, generation: 7 };
    let ccb = CcbId(1);
    let out = world.give(Input::Release { reply: 4, ccb, call });
    assert!(out.iter().all(|one| !matches!(one, Output::Done { .. })));
    let out = world.give(Input::Gone { ccb });
    assert!(
        out.iter().any(|one| matches!(one, Output::Done { reply: 4, result: OpOutcome::Gone, .. }))
    );
    world.planes[0].start(world.now);
    let out = world.attach_all();
    assert!(
        out.iter().any(|one| matches!(one, Output::Restarted { fresh: false, incarnation: 2, .. }))
    );
    assert_eq!(world.counts(1), (2, 0, 0));
    // The new data plane ends what the old one left; no event is needed for it to be seen.
    world.planes[0].call(1, CallState::Ended, agents, false);
    let mut row = world.planes[0].region.calls().read(1).expect("a row");
    row.incarnation = 1;
    world.planes[0].region.calls().write(1, &row);
    assert_eq!(records(world.pass(1_500)).len(), 1);
}

#[test]
fn a_command_has_one_completion() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    let ccb = CcbId(1);
    let unknown = CallRef { slot: 1, generation: 8 };
    let out = world.give(Input::Release { reply: 1, ccb, call: unknown });
    assert!(matches!(out[..], [Output::Done { reply: 1, result: OpOutcome::Unknown, .. }]));
    let call = CallRef { slot: 1, generation: 7 };
    world.give(Input::Release { reply: 2, ccb, call });
    let commands = world.planes[0].commands(0);
    let [(Command::Release { op, .. }, _)] = commands[..] else { panic!("{commands:?}") };
    for _ in 0..2 {
        world.planes[0].event(0, Event::Done { op, result: OpResult::Ok }, &[]);
    }
    let out = world.give(Input::Pump);
    let done = out.iter().filter(|one| matches!(one, Output::Done { reply: 2, .. })).count();
    assert_eq!(done, 1);
    assert_eq!(world.blade.ccbs().next().expect("one CCB").counts.completions_stray, 1);
    world.give(Input::Release { reply: 3, ccb, call });
    let out = world.pass(12_000);
    assert!(
        out.iter().any(|one| matches!(one, Output::Done { reply: 3, result: OpOutcome::Lost, .. }))
    );
}

#[test]
fn commands_wait_for_room_in_their_order() {
    let mut world = World::new(1);
    let agent = Party::Agent(AgentSlot(0), 1);
    for op in 0..40 {
        let call = CallRef { slot: 0, generation: op as u32 };
        let event = Event::Asked {
            op,
            call,
            tenant: TENANT,
            caller: agent,
            location: LocationId(0),
            why: abi::Why::Called,
        };
        world.planes[0].event(0, event, b"9");
        world.give(Input::Pump);
    }
    let mut asks = Vec::new();
    for _ in 0..4 {
        asks.extend(world.planes[0].commands(0).into_iter().map(|(command, _)| match command {
            Command::Dial { ask, .. } => ask,
            other => panic!("{other:?}"),
        }));
        world.give(Input::Pump);
    }
    assert_eq!(asks, (0..40).collect::<Vec<_>>());
}

#[test]
fn control_does_not_sleep_on_an_event() {
    let mut world = World::new(1);
    assert!(world.blade.fall_asleep());
    let call = CallRef { slot: 0, generation: 0 };
    let event = Event::CallChanged { call, serial: 0, state: CallState::Calling, cause: 0 };
    let wake = world.planes[0].events[1].push(&event, &[], Class::Call).expect("there is room");
    assert_eq!(wake, abi::Wake::Needed);
    assert!(!world.blade.fall_asleep());
    let wake = world.planes[0].events[1].push(&event, &[], Class::Call).expect("there is room");
    assert_eq!(wake, abi::Wake::NotNeeded);
}
