//! Orders for media, services, digits, spools and foreign sources.

use abi::{DigitsCause, MediaOrder, MixRole};

use super::*;
use crate::message::Order;
use crate::routes::Service;

const CCB: CcbId = CcbId(1);
/// A call of worker 0, as [`Plane::call`] writes it.
const CALL: CallRef = CallRef { slot: 1, generation: 7 };

fn order(call: CallRef, leg: u8, what: MediaOrder) -> Input {
    let prompt = match what {
        MediaOrder::Play { .. } => "hello.wav".into(),
        _ => String::new(),
    };
    Input::Order { reply: 8, order: Box::new(Order { ccb: CCB, call, leg, what, prompt }) }
}

fn mix(number: u32, role: MixRole, to: CallRef) -> MediaOrder {
    MediaOrder::Mix { mix: number, role, to, to_leg: 0 }
}

/// How the order with the reply 8 ended, when it did.
fn outcome(out: &[Output]) -> Option<(OpOutcome, Option<Collected>)> {
    let mut ends = out.iter().filter_map(|one| match one {
        Output::Done { reply: 8, result, digits } => Some((*result, digits.clone())),
        _ => None,
    });
    let end = ends.next();
    assert!(ends.next().is_none(), "one end only");
    end
}

/// Two agents with desks, in an answered call.
fn world_with_a_call() -> (World, [u64; 2]) {
    let mut world = World::new(1);
    let (a, desk_a) = world.online(1001, 1);
    let (b, desk_b) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    (world, [desk_a, desk_b])
}

fn route(world: &mut World, prefix: &str, service: Service) {
    let mut provision = provision();
    let to = Destination::Service(service);
    provision.routes.push(Route { tenant: TENANT, prefix: prefix.into(), to });
    world.give(Input::Provision(provision));
}

/// A call with one leg, as one that the data plane answered.
fn answered(world: &World, slot: u32, called: &str) -> CallRef {
    let call = CallRef { slot, generation: 3 };
    let region = &world.planes[0].region;
    let mut row = CallRow {
        state: CallState::Answered.into(),
        generation: 3,
        tenant: TENANT.0,
        started_at: 5,
        incarnation: region.header().data_plane().incarnation,
        legs: 1,
        ..CallRow::default()
    };
    row.set_called(Text::new(called.as_bytes()).expect("it fits"));
    region.calls().write(slot, &row);
    let mut leg = LegRow { state: LegState::Answered.into(), ..LegRow::default() };
    leg.set_call(call);
    region.legs().write(slot * 2, &leg);
    call
}

fn ask(world: &mut World, worker: usize, call: CallRef, caller: Party, number: &str) {
    let op = 900 + u64::from(call.slot);
    let asked = Event::Asked {
        op,
        call,
        tenant: TENANT,
        caller,
        location: LocationId(0),
        why: abi::Why::Called,
    };
    world.planes[0].event(worker, asked, number.as_bytes());
    world.give(Input::Pump);
}

fn done(world: &mut World, worker: usize, op: u64, result: OpResult) -> Vec<Output> {
    world.planes[0].event(worker, Event::Done { op, result }, &[]);
    world.give(Input::Pump)
}

/// The one command that was sent to that worker.
fn sent(world: &mut World, worker: usize) -> (Command, String) {
    let mut all = world.planes[0].commands(worker);
    let (command, blob) = all.pop().expect("a command");
    assert!(all.is_empty(), "{all:?}");
    (command, String::from_utf8(blob).expect("text"))
}

#[test]
fn an_order_goes_to_the_calls_worker_and_its_end_to_who_asked() {
    let (mut world, _) = world_with_a_call();
    let collect = MediaOrder::Collect {
        max: 4,
        first_ms: 5_000,
        next_ms: 3_000,
        ends: 1 << 11,
        barge_in: true,
    };
    let mix_of_tenant = mix(4_097, MixRole::Participant, CALL);
    for (leg, what, expected, result) in [
        (0, MediaOrder::Play { times: 2 }, MediaOrder::Play { times: 2 }, OpResult::Ok),
        (1, MediaOrder::Play { times: 1 }, MediaOrder::Play { times: 1 }, OpResult::NoSuchPrompt),
        (1, MediaOrder::StopPlaying, MediaOrder::StopPlaying, OpResult::Ok),
        (0, collect, collect, OpResult::Stopped),
        (0, MediaOrder::Record { recording: 9 }, MediaOrder::Record { recording: 9 }, OpResult::Ok),
        (0, mix(1, MixRole::Participant, CALL), mix_of_tenant, OpResult::Ok),
        (0, MediaOrder::LeaveMix, MediaOrder::LeaveMix, OpResult::Refused),
    ] {
        assert_eq!(outcome(&world.give(order(CALL, leg, what))), None);
        let (command, prompt) = sent(&mut world, 0);
        let Command::Media { op, call, leg: to, order } = command else { panic!("{command:?}") };
        assert_eq!((call, to, order), (CALL, leg, expected));
        assert_eq!(prompt.is_empty(), !matches!(what, MediaOrder::Play { .. }));
        let out = done(&mut world, 0, op, result);
        assert_eq!(outcome(&out), Some((OpOutcome::Done(result), None)), "{what:?}");
    }
    assert_eq!(world.blade.ccbs().next().expect("one").open_ops, 0);
}

#[test]
fn what_an_order_names_must_be_there() {
    let (mut world, _) = world_with_a_call();
    let other = CallRef { slot: 1, generation: 8 };
    let play = MediaOrder::Play { times: 1 };
    for (call, leg, what, expected) in [
        (other, 0, play, OpOutcome::Unknown),
        (CALL, 2, play, OpOutcome::NoSuchLeg),
        (CALL, 0, mix(0, MixRole::Monitor, CALL), OpOutcome::NoSuchMix),
        (CALL, 0, mix(4_096, MixRole::Monitor, CALL), OpOutcome::NoSuchMix),
        (CALL, 0, mix(1, MixRole::Whisper, other), OpOutcome::NoSuchListener),
    ] {
        assert_eq!(outcome(&world.give(order(call, leg, what))), Some((expected, None)));
    }
    assert!(world.planes[0].commands(0).is_empty());
    world.give(Input::Gone { ccb: CCB });
    assert_eq!(outcome(&world.give(order(CALL, 0, play))), Some((OpOutcome::Gone, None)));
}

#[test]
fn collected_digits_come_with_the_end_of_their_order() {
    let (mut world, _) = world_with_a_call();
    let collect =
        MediaOrder::Collect { max: 9, first_ms: 60_000, next_ms: 60_000, ends: 0, barge_in: false };
    world.give(order(CALL, 1, collect));
    let op = sent(&mut world, 0).0.op();
    // A caller may take longer than a command usually may.
    assert_eq!(outcome(&world.pass(100_000)), None);
    let cause = DigitsCause::Ended;
    world.planes[0].event(0, Event::Digits { op, call: CALL, leg: 1, cause }, b"12*4");
    let out = done(&mut world, 0, op, OpResult::Ok);
    let digits = Collected { digits: "12*4".into(), cause };
    assert_eq!(outcome(&out), Some((OpOutcome::Done(OpResult::Ok), Some(digits))));
    // Digits of an operation that nobody knows are nobody's.
    world.planes[0].event(0, Event::Digits { op: 77, call: CALL, leg: 1, cause }, b"1");
    assert!(world.give(Input::Pump).is_empty());
}

#[test]
fn what_plays_for_long_is_open_as_long_as_its_call() {
    let (mut world, _) = world_with_a_call();
    world.give(order(CALL, 0, MediaOrder::Play { times: 0 }));
    assert_eq!(outcome(&world.pass(3_600_000)), None);
    let slots = [AgentSlot(0), AgentSlot(1)];
    world.planes[0].call(1, CallState::Ended, slots, true);
    world.give(Input::Pump);
    assert_eq!(outcome(&world.pass(12_000)), Some((OpOutcome::Lost, None)));
}

#[test]
fn a_data_plane_that_dies_ends_orders_and_a_new_control_ignores_their_ends() {
    let (mut world, _) = world_with_a_call();
    world.give(order(CALL, 0, MediaOrder::Play { times: 0 }));
    let op = sent(&mut world, 0).0.op();
    let out = world.give(Input::Gone { ccb: CCB });
    assert_eq!(outcome(&out), Some((OpOutcome::Gone, None)));
    world.attach_all();
    world.give(order(CALL, 0, MediaOrder::Play { times: 0 }));
    let second = sent(&mut world, 0).0.op();
    assert!(second > op);
    world.restart_control();
    assert!(done(&mut world, 0, second, OpResult::Ok).is_empty());
    assert_eq!(world.blade.ccbs().next().expect("one").counts.completions_stray, 1);
}

#[test]
fn routes_lead_to_services_also_for_trunks() {
    let trunk = Party::Trunk(0);
    for (service, expected) in [
        (Service::Answer, None),
        (Service::Play("welcome.wav".into()), Some((MediaOrder::Play { times: 1 }, "welcome.wav"))),
        (Service::Mix(2), None),
    ] {
        let mut world = World::new(1);
        route(&mut world, "70", service.clone());
        let call = answered(&world, 1, "70");
        ask(&mut world, 0, call, trunk, "70");
        let (command, _) = sent(&mut world, 0);
        let Command::Answer { op, ask: 901, call: of } = command else { panic!("{command:?}") };
        assert_eq!(of, call);
        done(&mut world, 0, op, OpResult::Ok);
        let expected = match service {
            Service::Mix(_) => Some((mix(4_098, MixRole::Participant, call), "")),
            _ => expected,
        };
        let Some((what, prompt)) = expected else {
            assert!(world.planes[0].commands(0).is_empty());
            continue;
        };
        let (command, blob) = sent(&mut world, 0);
        let Command::Media { op, leg: 0, order, .. } = command else { panic!("{command:?}") };
        assert_eq!((order, blob.as_str()), (what, prompt));
        done(&mut world, 0, op, OpResult::Ok);
        let after = world.planes[0].commands(0);
        match service {
            Service::Play(_) => {
                assert!(matches!(after[..], [(Command::Release { cause: 0, .. }, _)]), "{after:?}");
            }
            _ => assert!(after.is_empty(), "{after:?}"),
        }
        assert!(world.pass(3_000).is_empty());
        assert!(world.planes[0].commands(0).is_empty(), "it is served once");
    }
}

#[test]
fn a_service_that_fails_ends_the_call_and_is_told() {
    for (fails_at, result, cause) in [
        (0, OpResult::Full, Some(503)),
        (1, OpResult::NoSuchPrompt, Some(500)),
        (1, OpResult::Stopped, None),
    ] {
        let mut world = World::new(1);
        route(&mut world, "7", Service::Play("gone.wav".into()));
        let call = answered(&world, 1, "7");
        ask(&mut world, 0, call, Party::Trunk(0), "7");
        let mut out = Vec::new();
        for step in 0..=fails_at {
            let op = sent(&mut world, 0).0.op();
            let result = if step == fails_at { result } else { OpResult::Ok };
            out = done(&mut world, 0, op, result);
        }
        let told = out.iter().any(|one| matches!(one, Output::ServiceFailed { .. }));
        assert_eq!(told, cause.is_some());
        let released = world.planes[0].commands(0).pop().map(|(command, _)| match command {
            Command::Release { cause, .. } => cause,
            other => panic!("{other:?}"),
        });
        assert_eq!(released, cause);
    }
}

#[test]
fn a_mix_takes_legs_of_every_worker() {
    let mut world = World::new(1);
    route(&mut world, "8", Service::Mix(5));
    // Slots from 4 on are the second worker's.
    for (worker, slot) in [(0, 1), (1, 5)] {
        let call = answered(&world, slot, "8");
        ask(&mut world, worker, call, Party::Trunk(0), "8");
        let op = sent(&mut world, worker).0.op();
        done(&mut world, worker, op, OpResult::Ok);
        let (command, _) = sent(&mut world, worker);
        let Command::Media { order: MediaOrder::Mix { mix, .. }, .. } = command else {
            panic!("{command:?}");
        };
        assert_eq!(mix & 0xfff, 5);
    }
}

#[test]
fn services_go_on_after_a_restart_of_either_side() {
    let mut world = World::new(1);
    let call = answered(&world, 1, "95");
    let restart = |world: &mut World| {
        world.restart_control();
        route(world, "95", Service::Mix(1));
        world.planes[0].commands(0);
        world.pass(1_500);
        sent(world, 0)
    };
    for _ in 0..2 {
        let (command, _) = restart(&mut world);
        assert!(matches!(command, Command::Media { call: of, .. } if of == call), "{command:?}");
        done(&mut world, 0, command.op(), OpResult::Ok);
        assert!(world.pass(3_000).is_empty());
        assert!(world.planes[0].commands(0).is_empty());
    }
    // A data plane that has not taken the call over yet is asked again.
    world.give(Input::Gone { ccb: CCB });
    world.planes[0].start(world.now);
    world.attach_all();
    for result in [OpResult::NoSuchCall, OpResult::Ok] {
        world.pass(1_500);
        let (command, _) = sent(&mut world, 0);
        done(&mut world, 0, command.op(), result);
    }
    world.pass(3_000);
    assert!(world.planes[0].commands(0).is_empty());
}

/// A call that plays its route's prompt, and the prompt's operation.
fn playing() -> (World, CallRef, u64) {
    let mut world = World::new(1);
    route(&mut world, "7", Service::Play("long.wav".into()));
    let call = answered(&world, 1, "7");
    ask(&mut world, 0, call, Party::Trunk(0), "7");
    let op = sent(&mut world, 0).0.op();
    done(&mut world, 0, op, OpResult::Ok);
    changed(&mut world, call, CallState::Answered);
    let op = sent(&mut world, 0).0.op();
    (world, call, op)
}

fn changed(world: &mut World, call: CallRef, state: CallState) {
    world.planes[0].event(0, Event::CallChanged { call, serial: 0, state, cause: 0 }, &[]);
    world.give(Input::Pump);
}

/// The data plane restarts and takes its calls over.
fn restart_plane(world: &mut World) {
    world.give(Input::Gone { ccb: CCB });
    world.planes[0].start(world.now);
    world.attach_all();
}

fn set_reason(world: &World, call: CallRef, reason: abi::PathReason) {
    let legs = world.planes[0].region.legs();
    let mut leg = legs.read(call.slot * 2).expect("a row");
    leg.path_reason = reason.into();
    legs.write(call.slot * 2, &leg);
}

#[test]
fn who_was_put_into_a_mix_is_not_hung_up_when_the_prompt_ends() {
    for result in [OpResult::Ok, OpResult::Stopped, OpResult::NoSuchPrompt] {
        let (mut world, call, prompt) = playing();
        world.give(order(call, 0, mix(1, MixRole::Monitor, call)));
        let op = sent(&mut world, 0).0.op();
        done(&mut world, 0, op, OpResult::Ok);
        assert!(done(&mut world, 0, prompt, result).is_empty());
        restart_plane(&mut world);
        world.pass(3_000);
        assert!(world.planes[0].commands(0).is_empty(), "{result:?}: its service is over");
        assert_eq!(world.blade.sides[&CCB].taken.len(), 1);
        world.planes[0].region.calls().write(call.slot, &CallRow::default());
        changed(&mut world, call, CallState::Ended);
        assert!(world.blade.sides[&CCB].taken.is_empty(), "it is forgotten with its call");
    }
}

#[test]
fn a_refused_order_leaves_the_service_as_it_is() {
    let (mut world, call, prompt) = playing();
    world.give(order(call, 0, mix(1, MixRole::Monitor, call)));
    let op = sent(&mut world, 0).0.op();
    done(&mut world, 0, op, OpResult::Refused);
    done(&mut world, 0, prompt, OpResult::Ok);
    let (command, _) = sent(&mut world, 0);
    assert!(matches!(command, Command::Release { cause: 0, .. }), "{command:?}");
}

#[test]
fn a_prompt_that_gave_way_does_not_begin_again() {
    let (mut world, call, prompt) = playing();
    world.give(order(call, 0, MediaOrder::Play { times: 0 }));
    world.planes[0].commands(0);
    done(&mut world, 0, prompt, OpResult::Stopped);
    restart_plane(&mut world);
    world.pass(3_000);
    assert!(world.planes[0].commands(0).is_empty());
}

#[test]
fn who_is_in_a_mix_stays_as_it_is_when_control_restarts() {
    for service in [Service::Play("long.wav".into()), Service::Mix(1)] {
        for (reason, resumed) in [(abi::PathReason::Mix, 0), (abi::PathReason::Prompt, 1)] {
            let mut world = World::new(1);
            let call = answered(&world, 1, "7");
            set_reason(&world, call, reason);
            world.restart_control();
            route(&mut world, "7", service.clone());
            world.planes[0].commands(0);
            world.pass(3_000);
            assert_eq!(world.planes[0].commands(0).len(), resumed, "{service:?} {reason:?}");
        }
    }
}

#[test]
fn a_step_of_a_service_that_is_lost_is_made_again() {
    let mut world = World::new(1);
    route(&mut world, "8", Service::Mix(1));
    let call = answered(&world, 1, "8");
    ask(&mut world, 0, call, Party::Trunk(0), "8");
    let op = sent(&mut world, 0).0.op();
    done(&mut world, 0, op, OpResult::Ok);
    changed(&mut world, call, CallState::Answered);
    let first = sent(&mut world, 0).0.op();
    world.pass(12_000);
    let (command, _) = sent(&mut world, 0);
    assert!(matches!(command, Command::Media { op, .. } if op > first), "{command:?}");
    // The link goes and comes back, and the data plane is the same: nobody tells of the prompt any more.
    let (mut world, _, prompt) = playing();
    world.give(Input::Gone { ccb: CCB });
    world.attach_all();
    world.pass(1_500);
    let (command, _) = sent(&mut world, 0);
    assert!(matches!(command, Command::Media { op, .. } if op > prompt), "{command:?}");
}

#[test]
fn a_whisper_needs_its_listener_in_the_mix() {
    let (mut world, _) = world_with_a_call();
    let young = |world: &World, slot: u32| {
        let call = answered(world, slot, "1");
        let mut row = world.planes[0].region.calls().read(slot).expect("a row");
        row.started_at = world.now.as_nanos() + 1;
        world.planes[0].region.calls().write(slot, &row);
        call
    };
    let listener = young(&world, 2);
    changed(&mut world, listener, CallState::Answered);
    let whisper = |world: &mut World, number| {
        outcome(&world.give(order(CALL, 0, mix(number, MixRole::Whisper, listener))))
    };
    let elsewhere = Some((OpOutcome::ListenerElsewhere, None));
    assert_eq!(whisper(&mut world, 1), elsewhere);
    world.give(order(listener, 0, mix(1, MixRole::Participant, listener)));
    let op = sent(&mut world, 0).0.op();
    done(&mut world, 0, op, OpResult::Ok);
    assert_eq!(whisper(&mut world, 2), elsewhere);
    assert_eq!(whisper(&mut world, 1), None);
    sent(&mut world, 0);
    world.give(order(listener, 0, MediaOrder::LeaveMix));
    let op = sent(&mut world, 0).0.op();
    done(&mut world, 0, op, OpResult::Ok);
    assert_eq!(whisper(&mut world, 1), elsewhere);
    // Of calls that are older than control it does not know.
    assert_eq!(outcome(&world.give(order(listener, 0, mix(1, MixRole::Whisper, CALL)))), None);
}

#[test]
fn desks_are_told_of_digits() {
    let (mut world, [a, b]) = world_with_a_call();
    for (digit, shown) in
        [(5, Some('5')), (10, Some('*')), (15, Some('D')), (16, Some('!')), (17, None)]
    {
        let event = Event::Digit { call: CALL, leg: 1, digit, duration_ms: 80 };
        world.planes[0].event(0, event, &[]);
        let out = world.give(Input::Pump);
        for (desk, own) in [(a, false), (b, true)] {
            let expected = shown.map(|digit| DeskMessage::Digit {
                serial: 777,
                party: "1002".into(),
                own,
                digit,
                duration_ms: 80,
            });
            assert_eq!(desk_messages(&out, desk).pop(), expected);
        }
    }
}

#[test]
fn a_spool_in_trouble_is_told_and_shown() {
    let mut world = World::new(1);
    let view = |world: &World| world.blade.ccbs().next().expect("one").spool;
    assert_eq!(view(&world), SpoolView { state: SpoolState::Writing, lost: 0 });
    for (worker, state, lost, shown, all) in [
        (0, SpoolState::Slow, 100, SpoolState::Slow, 100),
        (1, SpoolState::Failed, 7, SpoolState::Failed, 107),
        (1, SpoolState::Writing, 9, SpoolState::Slow, 109),
    ] {
        world.planes[0].event(worker, Event::Spool { state, lost }, &[]);
        let out = world.give(Input::Pump);
        assert!(matches!(out[..], [Output::Spool { .. }]), "{out:?}");
        assert_eq!(view(&world), SpoolView { state: shown, lost: all });
    }
}

#[test]
fn foreign_sources_are_told_but_not_in_a_flood() {
    let (mut world, _) = world_with_a_call();
    let addr = SocketAddr::from(([203, 0, 113, 1], 9));
    let flood = |world: &mut World| {
        let mut told = Vec::new();
        for _ in 0..15 {
            world.planes[0].event(0, Event::SourceRefused { call: CALL, leg: 1, addr }, &[]);
            told.extend(world.give(Input::Pump).into_iter().filter_map(|one| match one {
                Output::SourceRefused { left_out, address, leg: 1, .. } => {
                    assert_eq!(address, addr);
                    Some(left_out)
                }
                _ => None,
            }));
        }
        told
    };
    assert_eq!(flood(&mut world), [0; 10]);
    world.now = world.now + Duration::from_secs(1);
    assert_eq!(flood(&mut world), [5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(world.blade.ccbs().next().expect("one").counts.sources_refused, 30);
}
