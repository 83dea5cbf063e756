//! What desks order of calls: hold and retrieve, supervision, conferences, and where the orders go.

use abi::{GuestKind, MediaOrder, MixRole, Purpose as For};

use super::*;
use crate::cluster::{
    Answer, Denial, Fact, FromQueue, Grant, Heard, Home, Key as Place, LeaseRequest, Question, Say,
};
use crate::desk::{Carried, CarriedAnswer, CarriedOrder, DeskRefusal, Supervision};
use crate::seat::reason;

/// A call of worker 0, as [`Plane::call`] writes it: 1001 calls 1002.
const CALL: CallRef = CallRef { slot: 1, generation: 7 };
/// The call of a guest, of worker 0 too.
const GUEST: CallRef = CallRef { slot: 2, generation: 7 };
/// The number of the mix that a room takes first.
const MIX: u32 = (TENANT.0 << 12) | 4_095;
const SUPERVISOR: u64 = 1009;

fn with_supervisor() -> Provision {
    Provision { supervisors: vec![(TENANT, SUPERVISOR)], ..provision() }
}

/// 1001 and 1002 talk, 1009 is a supervisor with the right to listen; their desks.
fn world() -> (World, BTreeMap<u64, u64>) {
    let mut world = World::new(1);
    world.give(Input::Provision(with_supervisor()));
    let mut desks = BTreeMap::new();
    let mut slots = Vec::new();
    for agent in [1001, 1002, SUPERVISOR] {
        let mut request = request(agent, 1, false);
        request.agent.agent_type = if agent == SUPERVISOR { 4 } else { 1 };
        let out = world.give(Input::Login { reply: 9, request: Box::new(request) });
        let granted = out.iter().find_map(|one| match one {
            Output::Login { result: Ok(granted), .. } => Some(*granted),
            _ => None,
        });
        let granted = granted.expect("it is granted");
        world.register(granted);
        desks.insert(agent, world.attach_desk(granted.login).0);
        slots.push(world.slot(granted.login));
    }
    world.planes[0].call(1, CallState::Answered, [slots[0], slots[1]], true);
    world.give(Input::Pump);
    world.planes[0].commands(0);
    (world, desks)
}

fn order(world: &mut World, socket: u64, command: DeskCommand) -> Vec<Output> {
    world.give(Input::DeskCommand { reply: 8, socket, command })
}

/// How the order with the reply 8 ended, when it did.
fn outcome(out: &[Output]) -> Option<OpOutcome> {
    let mut ends = out.iter().filter_map(|one| match one {
        Output::Done { reply: 8, result, .. } => Some(*result),
        _ => None,
    });
    let end = ends.next();
    assert!(ends.next().is_none(), "one end only");
    end
}

fn no(refusal: DeskRefusal) -> Option<OpOutcome> {
    Some(OpOutcome::No(refusal))
}

fn commands(world: &mut World) -> Vec<(Command, String)> {
    let all = (0..2).flat_map(|worker| world.planes[0].commands(worker)).collect::<Vec<_>>();
    all.into_iter().map(|(it, blob)| (it, String::from_utf8(blob).expect("text"))).collect()
}

fn event(world: &mut World, event: Event) -> Vec<Output> {
    world.planes[0].event(0, event, &[]);
    world.give(Input::Pump)
}

/// What the rows say of a guest's call.
fn guest_row(world: &mut World, number: &str, kind: GuestKind, state: CallState) -> Vec<Output> {
    let region = world.planes[0].region.clone();
    let mut row = CallRow {
        state: state.into(),
        generation: GUEST.generation,
        serial: 900,
        tenant: TENANT.0,
        started_at: 5,
        incarnation: region.header().data_plane().incarnation,
        legs: 1,
        mix: MIX,
        guest: kind as u32,
        ..CallRow::default()
    };
    row.set_called(Text::new(number.as_bytes()).expect("it fits"));
    let leg_state = match state {
        CallState::Answered => LegState::Answered,
        CallState::Ended => LegState::Ended,
        _ => LegState::Ringing,
    };
    let mut leg = LegRow { state: leg_state.into(), ..LegRow::default() };
    leg.set_call(GUEST);
    let agent = world.blade.logins.iter().find(|(_, entry)| entry.record.number == number);
    let party =
        agent.map_or(Party::Trunk(0), |(login, entry)| Party::Agent(entry.slot, login.epoch));
    leg.set_party(party);
    leg.set_number(Text::new(number.as_bytes()).expect("it fits"));
    region.legs().write(7, &leg);
    region.calls().write(GUEST.slot, &row);
    event(world, Event::CallChanged { call: GUEST, serial: 900, state, cause: 0 })
}

/// The operation of the only command, which calls somebody for the mix.
fn summons(world: &mut World, kind: GuestKind, number: &str) -> u64 {
    let all = commands(world);
    let [(Command::Summon { op, guest, mix: MIX, to: CALL, .. }, blob)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!((*guest, blob.split('\n').next()), (kind, Some(number)));
    *op
}

/// The guest answers; what is ordered then.
fn answered(world: &mut World, op: u64, number: &str, kind: GuestKind) -> Vec<Output> {
    event(world, Event::Summoned { op, call: GUEST });
    guest_row(world, number, kind, CallState::Answered);
    event(world, Event::Done { op, result: OpResult::Ok })
}

/// The media orders among commands, by call and leg.
fn media(all: &[(Command, String)]) -> Vec<(CallRef, u8, MediaOrder)> {
    let of = |(command, _): &(Command, String)| match command {
        Command::Media { call, leg, order, .. } => Some((*call, *leg, *order)),
        _ => None,
    };
    all.iter().filter_map(of).collect()
}

#[test]
fn a_desk_holds_retrieves_and_answers_and_hears_why_not() {
    let (mut world, desks) = world();
    type Made = fn(Option<u64>) -> DeskCommand;
    let cases: [(Made, OpResult, Option<OpOutcome>); 7] = [
        (DeskCommand::Hold, OpResult::Ok, Some(OpOutcome::Done(OpResult::Ok))),
        (DeskCommand::Hold, OpResult::Refused, no(DeskRefusal::NotNow)),
        (DeskCommand::Retrieve, OpResult::Refused, no(DeskRefusal::NotNow)),
        (DeskCommand::Retrieve, OpResult::NoSuchCall, no(DeskRefusal::NoCall)),
        (DeskCommand::Answer, OpResult::Refused, no(DeskRefusal::NotRinging)),
        (DeskCommand::Answer, OpResult::Declined, no(DeskRefusal::NoTalk)),
        (DeskCommand::Answer, OpResult::Ok, Some(OpOutcome::Done(OpResult::Ok))),
    ];
    for (made, result, wanted) in cases {
        assert_eq!(outcome(&order(&mut world, desks[&1002], made(None))), None);
        let (op, leg) = match &commands(&mut world)[..] {
            [(Command::Park { op, call: CALL, leg, on }, _)] => {
                assert_eq!(*on, made(None) == DeskCommand::Hold(None));
                (*op, *leg)
            }
            [(Command::Talk { op, call: CALL, leg }, _)] => (*op, *leg),
            other => panic!("{other:?}"),
        };
        assert_eq!(leg, 1);
        assert_eq!(outcome(&event(&mut world, Event::Done { op, result })), wanted);
    }
    // Whose desk has no such call.
    for (desk, serial) in [(SUPERVISOR, None), (1002, Some(4))] {
        let out = order(&mut world, desks[&desk], DeskCommand::Hold(serial));
        assert_eq!(outcome(&out), no(DeskRefusal::NoCall));
        let out = order(&mut world, desks[&desk], DeskCommand::Answer(serial));
        assert_eq!(outcome(&out), no(DeskRefusal::NotRinging));
    }
    assert!(commands(&mut world).is_empty());
    assert_eq!(DeskRefusal::HeldBy(3).field(), "to");
    assert!(DeskRefusal::HeldBy(3).rule().contains("CCB 3"));
}

#[test]
fn a_supervisor_with_the_right_hears_a_call_in_three_ways() {
    let (mut world, desks) = world();
    let supervise = |agent: &str, how| DeskCommand::Supervise(agent.to_owned(), how);
    let refused = [
        (1001, "1002", DeskRefusal::NoRight),
        (SUPERVISOR, "1009", DeskRefusal::NoRight),
        (SUPERVISOR, "1003", DeskRefusal::NoSuchNumber),
    ];
    for (desk, agent, why) in refused {
        let out = order(&mut world, desks[&desk], supervise(agent, Supervision::Monitor));
        assert_eq!(outcome(&out), no(why), "{desk} {agent}");
    }
    // The type without the right, and the right without the type.
    world.give(Input::Provision(provision()));
    let out = order(&mut world, desks[&SUPERVISOR], supervise("1002", Supervision::Monitor));
    assert_eq!(outcome(&out), no(DeskRefusal::NoRight));
    world.give(Input::Provision(Provision { supervisors: vec![(TENANT, 1001)], ..provision() }));
    let out = order(&mut world, desks[&1001], supervise("1002", Supervision::Monitor));
    assert_eq!(outcome(&out), no(DeskRefusal::NoRight));
    world.give(Input::Provision(with_supervisor()));
    assert!(commands(&mut world).is_empty());

    order(&mut world, desks[&SUPERVISOR], supervise("1002", Supervision::Monitor));
    let op = summons(&mut world, GuestKind::Monitor, "1009");
    let out = answered(&mut world, op, "1009", GuestKind::Monitor);
    assert_eq!(outcome(&out), Some(OpOutcome::Done(OpResult::Ok)));
    let attends = out.iter().any(|one| {
        matches!(one, Output::Attends { number, how: Some(Supervision::Monitor), .. } if number == "1009")
    });
    assert!(attends, "{out:?}");
    let participant = |leg| {
        let order = MediaOrder::Mix { mix: MIX, role: MixRole::Participant, to: CALL, to_leg: leg };
        (CALL, leg, order)
    };
    assert_eq!(media(&commands(&mut world)), [participant(0), participant(1)]);
    // Neither their calls nor the supervisor's are taken by another role.
    order(&mut world, desks[&SUPERVISOR], supervise("1002", Supervision::Whisper));
    let all = commands(&mut world);
    let role = |role| MediaOrder::Mix { mix: MIX, role, to: CALL, to_leg: 1 };
    assert_eq!(media(&all), [(GUEST, 0, role(MixRole::Whisper))]);
    let out = event(&mut world, Event::Done { op: all[0].0.op(), result: OpResult::Ok });
    assert_eq!(outcome(&out), Some(OpOutcome::Done(OpResult::Ok)));
    // The desk says stop: the supervisor's own call ends, and the legs go back to their bridge.
    order(&mut world, desks[&SUPERVISOR], DeskCommand::StopSupervising);
    let all = commands(&mut world);
    assert!(matches!(all[..], [(Command::Release { call: GUEST, .. }, _)]), "{all:?}");
    guest_row(&mut world, "1009", GuestKind::Whisper, CallState::Ended);
    let leaves = |leg| (CALL, leg, MediaOrder::LeaveMix);
    assert_eq!(media(&commands(&mut world)), [leaves(0), leaves(1)]);
    let out = order(&mut world, desks[&SUPERVISOR], DeskCommand::StopSupervising);
    assert_eq!(outcome(&out), no(DeskRefusal::NoCall));
}

#[test]
fn a_supervision_ends_with_the_call_also_for_another_control_process() {
    for restarts in [false, true] {
        let (mut world, desks) = world();
        let supervise = DeskCommand::Supervise("1002".into(), Supervision::Barge);
        order(&mut world, desks[&SUPERVISOR], supervise);
        let op = summons(&mut world, GuestKind::Barge, "1009");
        answered(&mut world, op, "1009", GuestKind::Barge);
        let region = world.planes[0].region.clone();
        let row = region.calls().read(CALL.slot).expect("a row");
        region.calls().write(CALL.slot, &CallRow { mix: MIX, ..row });
        commands(&mut world);
        if restarts {
            world.restart_control();
            world.pass(2_000);
            let all = media(&commands(&mut world));
            assert_eq!(all.len(), 2, "both legs are in the mix again: {all:?}");
        }
        let agents =
            [0, 1].map(|leg| match region.legs().read(5 + leg).and_then(|it| it.party()) {
                Some(Party::Agent(slot, _)) => slot,
                other => panic!("{other:?}"),
            });
        world.planes[0].call(1, CallState::Ended, agents, true);
        world.give(Input::Pump);
        let all = commands(&mut world);
        let is_released =
            |one: &(Command, String)| matches!(one.0, Command::Release { call: GUEST, .. });
        assert!(all.iter().any(is_released), "{restarts}: {all:?}");
    }
}

#[test]
fn a_guest_whose_call_is_gone_is_let_go_by_the_next_control_process() {
    let (mut world, _) = world();
    guest_row(&mut world, "1009", GuestKind::Monitor, CallState::Answered);
    world.restart_control();
    world.pass(2_000);
    let all = commands(&mut world);
    let is_released =
        |one: &(Command, String)| matches!(one.0, Command::Release { call: GUEST, .. });
    assert!(all.iter().any(is_released), "{all:?}");
}

#[test]
fn an_organiser_adds_and_drops_and_who_is_held_is_named() {
    let (mut world, desks) = world();
    let add = |to: &str| DeskCommand::ConferenceAdd(None, to.to_owned());
    let drop = |to: &str| DeskCommand::ConferenceDrop(None, to.to_owned());
    let out = order(&mut world, desks[&1002], add("1001"));
    assert_eq!(outcome(&out), no(DeskRefusal::AlreadyIn));
    let out = order(&mut world, desks[&1002], drop("1001"));
    assert_eq!(outcome(&out), no(DeskRefusal::NotOrganiser));
    // Somebody else has the supervisor.
    let login = world.blade.login_of(TENANT, SUPERVISOR).expect("logged in");
    let (slot, region) = (world.slot(login), world.planes[0].region.clone());
    let leases = region.leases();
    let counter = leases.reserve(slot, base::Medium::Voice, CcbId(5), For::Call, world.now);
    order(&mut world, desks[&1002], add("1009"));
    let op = summons(&mut world, GuestKind::Participant, "1009");
    let out = event(&mut world, Event::Done { op, result: OpResult::Denied });
    assert_eq!(outcome(&out), no(DeskRefusal::HeldBy(5)));
    assert!(commands(&mut world).is_empty(), "the call is as it was");
    let counter = counter.expect("it was free");
    assert!(leases.bind(slot, base::Medium::Voice, CcbId(5), counter));
    leases.release(slot, base::Medium::Voice, CcbId(5), counter, abi::Share::Waiting);
    order(&mut world, desks[&1002], add("1009"));
    let op = summons(&mut world, GuestKind::Participant, "1009");
    let out = answered(&mut world, op, "1009", GuestKind::Participant);
    assert_eq!(outcome(&out), Some(OpOutcome::Done(OpResult::Ok)));
    let confer = |leg| (CALL, leg, MediaOrder::Confer { mix: MIX, organiser: leg == 1 });
    assert_eq!(media(&commands(&mut world)), [confer(0), confer(1)]);
    // The others change nothing, and a conference is not held.
    let out = order(&mut world, desks[&1001], add("555"));
    assert_eq!(outcome(&out), no(DeskRefusal::NotOrganiser));
    let out = order(&mut world, desks[&1002], DeskCommand::Hold(None));
    assert_eq!(outcome(&out), no(DeskRefusal::InConference));
    let out = order(&mut world, desks[&1002], drop("1003"));
    assert_eq!(outcome(&out), no(DeskRefusal::NotIn));
    // The first party is dropped as any other; then the organiser and one more are left, then nobody.
    order(&mut world, desks[&1002], drop("1001"));
    let all = commands(&mut world);
    assert!(matches!(all[..], [(Command::Drop { call: CALL, leg: 0, .. }, _)]), "{all:?}");
    let leg = region.legs().read(5).expect("a row");
    region.legs().write(5, &LegRow { state: LegState::Ended.into(), ..leg });
    let changed =
        Event::CallChanged { call: CALL, serial: 777, state: CallState::Answered, cause: 0 };
    event(&mut world, changed);
    assert!(commands(&mut world).is_empty(), "two are left");
    guest_row(&mut world, "1009", GuestKind::Participant, CallState::Ended);
    let all = commands(&mut world);
    assert!(matches!(all[..], [(Command::Release { call: CALL, .. }, _)]), "one is left: {all:?}");
}

#[test]
fn a_conference_ends_with_its_organiser() {
    let (mut world, desks) = world();
    order(&mut world, desks[&1002], DeskCommand::ConferenceAdd(None, "1009".into()));
    let op = summons(&mut world, GuestKind::Participant, "1009");
    answered(&mut world, op, "1009", GuestKind::Participant);
    commands(&mut world);
    let region = world.planes[0].region.clone();
    let leg = region.legs().read(6).expect("a row");
    region.legs().write(6, &LegRow { state: LegState::Ended.into(), ..leg });
    let changed =
        Event::CallChanged { call: CALL, serial: 777, state: CallState::Answered, cause: 0 };
    event(&mut world, changed);
    let all = commands(&mut world);
    let released: Vec<CallRef> = all
        .iter()
        .filter_map(|(command, _)| match command {
            Command::Release { call, .. } => Some(*call),
            _ => None,
        })
        .collect();
    assert_eq!(released, [CALL, GUEST], "{all:?}");
}

/// Joins the bus as `b1`.
fn join(world: &mut World) {
    world.blade.join("b1".into(), 1, crate::cdm::Strategy::LeastAgents);
    world.give(Input::Bus(Heard::Connected(true)));
}

/// What blades are asked about desks' orders.
fn asked(out: &[Output]) -> Vec<(u64, &str, &Carried)> {
    out.iter()
        .filter_map(|one| match one {
            Output::Bus(Say::Ask { ask, to: crate::cluster::To::Blade(to), question, .. }) => {
                match &**question {
                    Question::Desk(carried) => Some((*ask, &**to, carried)),
                    _ => None,
                }
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_supervisors_order_follows_the_agent_from_blade_to_blade() {
    let (mut world, desks) = world();
    join(&mut world);
    let home = Home { blade: "b2".into(), ccb: CcbId(2), agent: 2001, epoch: 1, turn: 0 };
    let key = Place::Number(TENANT, "2001".into());
    world.give(Input::Bus(Heard::Fact { key, fact: Some(Fact::Home(home)) }));
    let supervise = DeskCommand::Supervise("2001".into(), Supervision::Monitor);
    let out = order(&mut world, desks[&SUPERVISOR], supervise);
    let [(ask, "b2", carried)] = asked(&out)[..] else { panic!("{out:?}") };
    let wanted = CarriedOrder::Supervise("2001".into(), Supervision::Monitor);
    assert_eq!((&carried.order, carried.number.as_str()), (&wanted, "1009"));
    // The home says who has the agent, and that one says no.
    let at = Box::new(Answer::Desk(CarriedAnswer::At("b3".into())));
    let out = world.give(Input::Bus(Heard::Answered { ask, answer: Some(at) }));
    let [(ask, "b3", _)] = asked(&out)[..] else { panic!("{out:?}") };
    let refused = Answer::Desk(CarriedAnswer::Refused(DeskRefusal::NotTalking));
    let answer = Some(Box::new(refused));
    let out = world.give(Input::Bus(Heard::Answered { ask, answer }));
    assert_eq!(outcome(&out), no(DeskRefusal::NotTalking));
    // A blade that says nothing.
    let supervise = DeskCommand::Supervise("2001".into(), Supervision::Monitor);
    let out = order(&mut world, desks[&SUPERVISOR], supervise);
    let ask = asked(&out)[0].0;
    let out = world.give(Input::Bus(Heard::Answered { ask, answer: None }));
    assert_eq!(outcome(&out), no(DeskRefusal::Away));
}

/// Another blade's supervisor is called for a call of ours, by the ordinary way to an agent of another CCB.
#[test]
fn an_order_that_is_carried_here_is_answered_when_it_is_decided() {
    let (mut world, _) = world();
    join(&mut world);
    let home = Home { blade: "b2".into(), ccb: CcbId(2), agent: 2009, epoch: 1, turn: 0 };
    let key = Place::Number(TENANT, "2009".into());
    world.give(Input::Bus(Heard::Fact { key, fact: Some(Fact::Home(home)) }));
    let order = CarriedOrder::Supervise("1002".into(), Supervision::Whisper);
    let carried = Carried { tenant: TENANT, number: "2009".into(), home: CcbId(2), order };
    let question = Box::new(Question::Desk(carried));
    let out = world.give(Input::Bus(Heard::Asked { reply: 44, from: "b2".into(), question }));
    assert!(!out.iter().any(|one| matches!(one, Output::Bus(Say::Reply { .. }))), "{out:?}");
    let op = summons(&mut world, GuestKind::Whisper, "2009");
    event(&mut world, Event::Summoned { op, call: GUEST });
    let (tenant, caller, why) = (TENANT, Party::Trunk(u32::MAX), abi::Why::Summoned);
    let location = LocationId(0);
    let asked = Event::Asked { op: 5, call: GUEST, tenant, caller, location, why };
    world.planes[0].event(0, asked, b"2009");
    let out = world.give(Input::Pump);
    let request: Option<&LeaseRequest> = out.iter().find_map(|one| match one {
        Output::Bus(Say::Ask { question, .. }) => match &**question {
            Question::Lease(request) => Some(request),
            _ => None,
        },
        _ => None,
    });
    let request = request.expect("its home is asked");
    assert_eq!((request.purpose, request.caller.as_str()), (For::Monitor, "1002"));
    let out = event(&mut world, Event::Done { op, result: OpResult::Declined });
    let answers: Vec<_> = out
        .iter()
        .filter_map(|one| match one {
            Output::Bus(Say::Reply { reply: 44, answer }) => Some(format!("{answer:?}")),
            _ => None,
        })
        .collect();
    assert_eq!(answers, ["Desk(Refused(Declined))"]);
}

/// A blade with an agent that others hear: else it grants nothing.
pub(super) fn heard() -> (World, Granted, u64) {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    world.blade.seed(base::Rng::from_number(1));
    join(&mut world);
    for _ in 0..60 {
        let out = world.pass(50);
        for one in out {
            if let Output::Bus(Say::Put { key, fact: Some(fact) }) = one {
                world.give(Input::Bus(Heard::Fact { key, fact: Some(fact) }));
            }
        }
    }
    (world, granted, socket)
}

/// Another blade asks for agent 1001.
fn queue_asks(
    world: &mut World,
    id: u64,
    purpose: For,
    after_call_s: u32,
) -> Result<Grant, Denial> {
    let request = LeaseRequest {
        id,
        incarnation: 5,
        holder: CcbId(2),
        holder_incarnation: 1,
        tenant: TENANT,
        number: "1001".into(),
        purpose,
        caller: "0301".into(),
        caller_agent: None,
        serial: 3,
        ttl_ms: 1_000,
        queue: Some(FromQueue { name: "desk".into(), waited_ms: 1, after_call_s }),
    };
    let question = Box::new(Question::Lease(request));
    let out = world.give(Input::Bus(Heard::Asked { reply: 4, from: "b2".into(), question }));
    let answer = out.iter().find_map(|one| match one {
        Output::Bus(Say::Reply { reply: 4, answer }) => match &**answer {
            Answer::Lease(answer) => Some(answer.clone()),
            _ => None,
        },
        _ => None,
    });
    answer.unwrap_or_else(|| panic!("{out:?}"))
}

/// What the owner of a queue was told of an agent may be old: the home has the last word (S3-007). A call that is the
/// agent's own asks nobody's leave.
#[test]
fn a_queue_of_another_blade_gets_no_agent_who_is_not_ready() {
    let (mut world, _, socket) = heard();
    let asked = queue_asks(&mut world, 1, For::Queue, 0);
    assert_eq!(asked, Err(Denial::NotReady("logged on".into())));
    order(&mut world, socket, DeskCommand::Ready);
    order(&mut world, socket, DeskCommand::NotReady(reason("lunch")));
    let asked = queue_asks(&mut world, 2, For::Queue, 0);
    assert_eq!(asked, Err(Denial::NotReady("lunch".into())));
    assert!(queue_asks(&mut world, 3, For::Call, 0).is_ok(), "who is called by number");
}

/// An agent of ours whom another blade's queue called works on after the call for as long as that queue says.
#[test]
fn work_after_a_call_of_another_blades_queue_is_known_at_home() {
    for (after_call_s, wanted) in [(7, "after_call"), (0, "ready")] {
        let (mut world, granted, socket) = heard();
        order(&mut world, socket, DeskCommand::Ready);
        let slot = world.slot(granted.login);
        let grant = queue_asks(&mut world, 1, For::Queue, after_call_s);
        let counter = grant.expect("an idle agent").fence.counter;
        let region = world.planes[0].region.clone();
        assert!(region.leases().bind(slot, base::Medium::Voice, CcbId(2), counter));
        // The data plane's rows of that call, answered and then over.
        world.planes[0].call(1, CallState::Answered, [slot, slot], false);
        let mut caller = region.legs().read(5).expect("a row");
        caller.set_party(Party::Peer(CcbId(2)));
        region.legs().write(5, &caller);
        let agent = region.legs().read(6).expect("a row");
        region.legs().write(6, &LegRow { answered_at: 9, fence_counter: counter, ..agent });
        let told = |state| Event::CallChanged { call: CALL, serial: 777, state, cause: 0 };
        event(&mut world, told(CallState::Answered));
        assert_eq!(world.view(granted.login).seat.name(), "talking");
        region.leases().release(slot, base::Medium::Voice, CcbId(2), counter, abi::Share::Waiting);
        for place in [5, 6] {
            let leg = region.legs().read(place).expect("a row");
            region.legs().write(place, &LegRow { state: LegState::Ended.into(), ..leg });
        }
        let row = region.calls().read(CALL.slot).expect("a row");
        let row = CallRow { state: CallState::Ended.into(), ended_at: 9, ..row };
        region.calls().write(CALL.slot, &row);
        event(&mut world, told(CallState::Ended));
        assert_eq!(world.view(granted.login).seat.name(), wanted);
    }
}
