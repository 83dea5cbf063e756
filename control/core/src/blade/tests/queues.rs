//! Queues on one blade: who waits, who is offered to whom, what desks see, and what outlives control.

use abi::{MediaOrder, Purpose as For, WorkState};

use super::*;
use crate::acd::QueueSpec;
use crate::routes::Service;
use crate::seat::{NO_ANSWER, SeatState, reason};

const CCB: CcbId = CcbId(1);

fn queue(name: &str, skills: &[&str]) -> QueueSpec {
    let skills = skills.iter().map(|skill| (*skill).to_owned()).collect();
    QueueSpec { skills, prompt: Some("music.wav".into()), ..QueueSpec::new(TENANT, name) }
}

fn with_queues(queues: Vec<QueueSpec>) -> Provision {
    let mut provision = provision();
    for (prefix, name) in [("702", "support"), ("703", "sales")] {
        let to = Destination::Service(Service::Queue(name.into()));
        provision.routes.push(Route { tenant: TENANT, prefix: prefix.into(), to });
    }
    provision.skills = vec![
        (TENANT, 1001, vec!["german".into()]),
        (TENANT, 1002, vec!["german".into(), "sales".into()]),
    ];
    provision.queues = queues;
    provision
}

pub(super) fn usual() -> Provision {
    with_queues(vec![queue("support", &["german"]), queue("sales", &["sales"])])
}

pub(super) fn world() -> World {
    let mut world = World::new(1);
    world.give(Input::Provision(usual()));
    world.pass(1_000);
    world
}

/// An agent with phone and desk who says ready.
pub(super) fn ready(world: &mut World, agent: u64) -> (LoginKey, u64) {
    let (granted, socket) = world.online(agent, 1);
    let out = command(world, socket, DeskCommand::Ready);
    assert_eq!(seat_events(&out, socket)[0], SeatEvent::AgentReady);
    (granted.login, socket)
}

fn command(world: &mut World, socket: u64, command: DeskCommand) -> Vec<Output> {
    let out = world.give(Input::DeskCommand { reply: 8, socket, command });
    let ok = Output::Done { reply: 8, result: OpOutcome::Done(OpResult::Ok), digits: None };
    assert!(out.iter().any(|one| format!("{one:?}") == format!("{ok:?}")), "{out:?}");
    out
}

/// A caller's row, with legs of these states and parties behind the first.
pub(super) fn rows(
    world: &World,
    slot: u32,
    called: &str,
    since: u64,
    more: &[(LegState, Party)],
) -> CallRef {
    let call = CallRef { slot, generation: 3 };
    let region = &world.planes[0].region;
    let mut row = CallRow {
        state: CallState::Answered.into(),
        generation: 3,
        serial: 100 + u64::from(slot),
        tenant: TENANT.0,
        started_at: since,
        answered_at: since,
        incarnation: region.header().data_plane().incarnation,
        legs: 1 + more.len() as u32,
        ..CallRow::default()
    };
    row.set_called(Text::new(called.as_bytes()).expect("it fits"));
    region.calls().write(slot, &row);
    let legs = [(LegState::Answered, Party::Trunk(0))];
    for (number, (state, party)) in legs.iter().chain(more).enumerate() {
        let answered_at = if *state == LegState::Answered { since } else { 0 };
        let mut leg =
            LegRow { state: (*state).into(), leg: number as u32, answered_at, ..LegRow::default() };
        leg.set_call(call);
        leg.set_party(*party);
        leg.set_number(Text::new(b"0301").expect("it fits"));
        region.legs().write(slot * 2 + number as u32, &leg);
    }
    call
}

pub(super) fn changed(world: &mut World, call: CallRef, state: CallState) -> Vec<Output> {
    let event = Event::CallChanged { call, serial: 100 + u64::from(call.slot), state, cause: 0 };
    world.planes[0].event(0, event, &[]);
    world.give(Input::Pump)
}

/// The caller's call is over.
pub(super) fn hang_up(world: &mut World, call: CallRef) -> Vec<Output> {
    let region = world.planes[0].region.clone();
    let row = region.calls().read(call.slot).expect("a row");
    let row = CallRow { state: CallState::Ended.into(), ..row };
    region.calls().write(call.slot, &row);
    for place in [call.slot * 2, call.slot * 2 + 1] {
        let leg = region.legs().read(place).expect("a row");
        if leg.call() == call {
            region.legs().write(place, &LegRow { state: LegState::Ended.into(), ..leg });
        }
    }
    changed(world, call, CallState::Ended)
}

/// A caller dials the queue and is answered; what the worker is told then.
pub(super) fn call(
    world: &mut World,
    slot: u32,
    number: &str,
) -> (CallRef, Vec<(Command, String)>) {
    let call = CallRef { slot, generation: 3 };
    let (tenant, caller, why) = (TENANT, Party::Trunk(0), abi::Why::Called);
    let asked = Event::Asked { op: 900, call, tenant, caller, location: LocationId(0), why };
    world.planes[0].event(0, asked, number.as_bytes());
    world.give(Input::Pump);
    let [(Command::Answer { op, .. }, _)] = &commands(world)[..] else { panic!("not answered") };
    rows(world, slot, number, world.now.as_nanos(), &[]);
    changed(world, call, CallState::Answered);
    done(world, *op, OpResult::Ok);
    (call, commands(world))
}

pub(super) fn commands(world: &mut World) -> Vec<(Command, String)> {
    let all = world.planes[0].commands(0).into_iter();
    all.map(|(command, blob)| (command, String::from_utf8(blob).expect("text"))).collect()
}

pub(super) fn done(world: &mut World, op: u64, result: OpResult) -> Vec<Output> {
    world.planes[0].event(0, Event::Done { op, result }, &[]);
    world.give(Input::Pump)
}

/// The offers among commands: of which call, and to whom.
pub(super) fn offers(all: &[(Command, String)]) -> Vec<(u64, u32, String)> {
    let of = |(command, number): &(Command, String)| match command {
        Command::Offer { op, call, leg: 0, ring_s: 20, overflow: false } => {
            Some((*op, call.slot, number.clone()))
        }
        _ => None,
    };
    all.iter().filter_map(of).collect()
}

pub(super) fn party(world: &World, login: LoginKey) -> Party {
    Party::Agent(world.slot(login), login.epoch)
}

pub(super) fn state(world: &World, login: LoginKey) -> SeatState {
    world.view(login).seat
}

fn tallies(world: &World) -> Vec<(usize, [u64; 5])> {
    let view = world.blade.queues(world.now).into_iter().map(|(view, _)| {
        let tally = view.tally;
        let ended = [tally.connected, tally.abandoned, tally.overflowed, tally.not_taken];
        let [connected, abandoned, overflowed, not_taken] = ended;
        (view.waiting, [tally.joined, connected, abandoned, overflowed, not_taken])
    });
    view.collect()
}

#[test]
fn a_caller_waits_with_music_and_gets_the_agent_who_becomes_ready() {
    let mut world = world();
    let (call, told) = call(&mut world, 1, "702");
    let [(Command::Media { call: of, leg: 0, order: MediaOrder::Play { times: 0 }, .. }, music)] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((*of, music.as_str()), (call, "music.wav"));
    world.pass(5_000);
    let waits = world.blade.queues(world.now)[0].1;
    assert!((5_000..6_000).contains(&waits), "{waits}");
    let (login, socket) = ready(&mut world, 1001);
    let offer = offers(&commands(&mut world));
    let [(op, 1, number)] = &offer[..] else { panic!("{offer:?}") };
    assert_eq!((number.as_str(), state(&world, login)), ("1001", SeatState::Reserved));
    let ringing = (LegState::Ringing, party(&world, login));
    rows(&world, 1, "702", 5, &[ringing]);
    let out = changed(&mut world, call, CallState::Answered);
    let [
        DeskMessage::Call {
            event: CallEvent::Delivered,
            serial: 101,
            incoming: true,
            queue,
            party,
            ..
        },
    ] = &desk_messages(&out, socket)[..]
    else {
        panic!("{out:?}")
    };
    let (name, waited_ms) = queue.clone().expect("it came by a queue");
    assert_eq!((name.as_str(), party.as_str()), ("support", "0301"));
    assert!(waited_ms >= 5_000);
    assert_eq!(state(&world, login), SeatState::Ringing);
    let answered = (LegState::Answered, self::party(&world, login));
    rows(&world, 1, "702", 5, &[answered]);
    let out = [changed(&mut world, call, CallState::Answered), done(&mut world, *op, OpResult::Ok)]
        .concat_all();
    assert!(matches!(
        desk_messages(&out, socket)[..],
        [DeskMessage::Call { event: CallEvent::Established, queue: Some(_), .. }]
    ));
    assert_eq!(state(&world, login), SeatState::Talking);
    assert_eq!(tallies(&world)[0], (0, [1, 1, 0, 0, 0]));
    let out = hang_up(&mut world, call);
    let after = Duration::from_secs(10);
    assert_eq!(seat_events(&out, socket), [SeatEvent::AgentWorkingAfterCall(after)]);
    let out = world.pass(11_500);
    assert_eq!(seat_events(&out, socket), [SeatEvent::AgentReady]);
}

trait Join {
    fn concat_all(self) -> Vec<Output>;
}

impl<const N: usize> Join for [Vec<Output>; N] {
    fn concat_all(self) -> Vec<Output> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn who_does_not_answer_is_not_ready_any_more_and_the_caller_goes_to_the_next() {
    for (result, taken_out) in [
        (OpResult::NoAnswer, true),
        (OpResult::Declined, true),
        (OpResult::Denied, false),
        (OpResult::Refused, false),
    ] {
        let mut world = world();
        let (first, socket) = ready(&mut world, 1001);
        world.pass(1_000);
        let (second, _) = ready(&mut world, 1002);
        let (_, told) = call(&mut world, 1, "702");
        let offer = offers(&told);
        let [(op, 1, number)] = &offer[..] else { panic!("{offer:?}") };
        assert_eq!(number, "1001", "idle for longer");
        // A newer caller does not get the other one before the older, who is asked for meanwhile.
        let out = done(&mut world, *op, result);
        let offer = offers(&commands(&mut world));
        let [(_, 1, number)] = &offer[..] else { panic!("{offer:?}") };
        assert_eq!(number, "1002");
        assert_eq!(state(&world, second), SeatState::Reserved);
        let told = seat_events(&out, socket);
        match taken_out {
            true => {
                assert_eq!(state(&world, first), SeatState::NotReady(reason(NO_ANSWER)));
                assert_eq!(told, [SeatEvent::AgentNotReady(reason(NO_ANSWER))]);
            }
            false => assert!(matches!(state(&world, first), SeatState::Ready(_))),
        }
        let (_, told) = call(&mut world, 2, "702");
        assert_eq!(offers(&told), [], "who was denied is not asked again at once");
        world.pass(2_500);
        let again = offers(&commands(&mut world));
        assert_eq!(again.len(), usize::from(!taken_out), "{result:?}");
    }
}

#[test]
fn callers_hang_up_and_overflow_and_are_counted_once() {
    let mut world = World::new(1);
    let limits = QueueSpec {
        max_wait_s: 30,
        max_callers: 2,
        overflow: Some("703".into()),
        ..queue("support", &["german"])
    };
    let sales = QueueSpec { max_wait_s: 5, overflow: Some("9777".into()), ..queue("sales", &[]) };
    world.give(Input::Provision(with_queues(vec![limits, sales])));
    world.pass(1_000);
    let (first, _) = call(&mut world, 1, "702");
    world.pass(10_000);
    call(&mut world, 2, "702");
    // No room: the caller goes where the overflow leads.
    let asked = Event::Asked {
        op: 77,
        call: CallRef { slot: 3, generation: 1 },
        tenant: TENANT,
        caller: Party::Trunk(0),
        location: LocationId(0),
        why: abi::Why::Called,
    };
    world.planes[0].event(0, asked, b"702");
    world.give(Input::Pump);
    let all = commands(&mut world);
    assert!(matches!(&all[..], [(Command::Forward { ask: 77, .. }, to)] if to == "703"), "{all:?}");
    hang_up(&mut world, first);
    assert_eq!(tallies(&world), [(1, [2, 0, 1, 0, 0]), (0, [0; 5])]);
    world.pass(20_500);
    assert_eq!(tallies(&world)[0].0, 1, "the second waits for 20 s");
    world.pass(11_000);
    assert_eq!(tallies(&world), [(0, [2, 0, 1, 1, 0]), (1, [1, 0, 0, 0, 0])]);
    commands(&mut world);
    world.pass(6_000);
    let all = commands(&mut world);
    let [(Command::Offer { op, overflow: true, .. }, number)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((number.as_str(), tallies(&world)[1]), ("9777", (0, [1, 0, 0, 1, 0])));
    done(&mut world, *op, OpResult::Denied);
    let all = commands(&mut world);
    assert!(matches!(all[..], [(Command::Release { cause: 480, .. }, _)]), "{all:?}");
}

#[test]
fn a_restart_of_control_keeps_places_seats_and_idle_times() {
    let mut world = world();
    let (first, _) = ready(&mut world, 1001);
    world.pass(1_000);
    let (second, socket) = ready(&mut world, 1002);
    let why = reason("lunch");
    command(&mut world, socket, DeskCommand::NotReady(why));
    command(&mut world, socket, DeskCommand::Ready);
    let (idle_first, idle_second) = (state(&world, first), state(&world, second));
    let row = world.planes[0].region.agents().read(world.slot(first)).expect("a row");
    assert_eq!(row.work(), WorkState::Ready);
    // Two wait for who can sell; the second row is the older call.
    command(&mut world, socket, DeskCommand::NotReady(why));
    call(&mut world, 2, "703");
    world.pass(2_000);
    call(&mut world, 1, "703");
    command(&mut world, socket, DeskCommand::NotReady(why));
    let regions: Vec<_> = world.planes.iter().map(|plane| plane.region.clone()).collect();
    world.blade = Blade::new(world.now, Process::default(), &[CCB]);
    world.give(Input::Provision(usual()));
    for region in regions {
        world.give(Input::Attached { ccb: CCB, region });
    }
    world.pass(1_500);
    assert_eq!(state(&world, first), idle_first);
    assert_eq!(state(&world, second), SeatState::NotReady(why));
    assert_ne!(idle_second, idle_first);
    let waits = world.blade.queues(world.now);
    assert_eq!((waits[1].0.waiting, waits[1].1 >= 3_500), (2, true), "{waits:?}");
    assert!(offers(&commands(&mut world)).is_empty());
    let (socket, _) = world.attach_desk(second);
    command(&mut world, socket, DeskCommand::Ready);
    let offer = offers(&commands(&mut world));
    assert!(matches!(offer[..], [(_, 2, _)]), "who has waited for longest: {offer:?}");
}

#[test]
fn an_agent_in_a_call_is_not_chosen_and_one_who_is_hosted_is_not() {
    let mut world = world();
    let (a, _) = ready(&mut world, 1001);
    let (b, _) = ready(&mut world, 1002);
    let agents = [world.slot(a), world.slot(b)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    assert_eq!((state(&world, a), state(&world, b)), (SeatState::Talking, SeatState::Talking));
    let (_, told) = call(&mut world, 3, "702");
    assert_eq!(offers(&told), []);
    let leases = world.planes[0].region.leases();
    let slot = world.slot(a);
    leases.reserve(slot, Medium::Voice, CcbId(9), For::Call, world.now).expect("free");
    assert!(leases.bind(
        slot,
        Medium::Voice,
        CcbId(9),
        leases.read(slot, Medium::Voice).counter().expect("won")
    ));
    world.planes[0].call(1, CallState::Ended, agents, true);
    world.pass(1_000);
    let view = world.view(a);
    assert_eq!(view.hosted, Some(CcbId(9)));
    let offer = offers(&commands(&mut world));
    assert!(matches!(&offer[..], [(_, 3, number)] if number == "1002"), "{offer:?}");
}

#[test]
fn a_data_plane_that_comes_back_plays_music_again_and_offers_that_it_lost_are_made_again() {
    let mut world = world();
    let (agent, _) = ready(&mut world, 1001);
    let (_, told) = call(&mut world, 1, "702");
    assert_eq!(offers(&told).len(), 1);
    let now = world.now;
    world.planes[0].start(now);
    world.pass(1_250);
    let told = commands(&mut world);
    assert!(told.iter().any(|(command, _)| matches!(command, Command::Media { .. })), "{told:?}");
    world.pass(2_500);
    assert_eq!(offers(&commands(&mut world)).len(), 1);
    assert_eq!(state(&world, agent), SeatState::Reserved);
    assert_eq!(tallies(&world)[0].1[0], 1, "it came once");
}

#[test]
fn desks_order_their_calls() {
    let mut world = world();
    let (a, socket) = ready(&mut world, 1001);
    let (b, _) = ready(&mut world, 1002);
    let unknown = |world: &mut World, command| {
        let out = world.give(Input::DeskCommand { reply: 8, socket, command });
        matches!(out[..], [Output::Done { reply: 8, result: OpOutcome::Unknown, .. }])
    };
    assert!(unknown(&mut world, DeskCommand::HangUp(None)));
    assert!(unknown(&mut world, DeskCommand::Transfer(None, "1".into())));
    let agents = [world.slot(a), world.slot(b)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    assert!(unknown(&mut world, DeskCommand::HangUp(Some(9))));
    for (command, is_release) in [
        (DeskCommand::HangUp(Some(777)), true),
        (DeskCommand::Transfer(None, "9123".into()), false),
    ] {
        world.give(Input::DeskCommand { reply: 8, socket, command });
        let all = commands(&mut world);
        let (told, to) = all.last().expect("a command");
        match told {
            Command::Release { call, .. } => assert!(is_release && call.slot == 1),
            Command::Transfer { leg, .. } => assert_eq!((*leg, to.as_str()), (0, "9123")),
            other => panic!("{other:?}"),
        }
    }
    let out = world.give(Input::DeskCommand { reply: 8, socket: 999, command: DeskCommand::Ready });
    assert!(matches!(out[..], [Output::Done { result: OpOutcome::Unknown, .. }]));
}

/// The row of the caller's leg is written again when the caller has the answer, without an event.
#[test]
fn an_agent_who_calls_talks_as_soon_as_the_call_is_answered() {
    let mut world = world();
    let (a, _) = ready(&mut world, 1001);
    let (b, _) = ready(&mut world, 1002);
    let agents = [world.slot(a), world.slot(b)];
    world.planes[0].call(1, CallState::Answered, agents, false);
    let legs = world.planes[0].region.legs();
    let row = legs.read(5).expect("the caller's");
    legs.write(5, &LegRow { state: LegState::Calling.into(), ..row });
    let call = CallRef { slot: 1, generation: 7 };
    changed(&mut world, call, CallState::Answered);
    assert_eq!((state(&world, a), state(&world, b)), (SeatState::Talking, SeatState::Talking));
}
