//! Calls over blades: what a control process that begins finds of them, and agents who call each other.

use abi::{LeaseState, Purpose as For};
use base::Medium;

use super::rooms::heard;
use super::*;
use crate::cluster::{Answer, Denial, Fact, Grant, Heard, Home, Key, LeaseRequest, Question, Say};

/// The call of 1001 to 2001, an agent of blade b2.
const CALL: CallRef = CallRef { slot: 1, generation: 7 };

#[test]
fn sessions_with_agents_of_other_ccbs_are_found_again() {
    let mut world = World::new(1);
    let (ours, _) = world.online(1001, 1);
    let slot = world.slot(ours.login);
    world.planes[0].call(1, CallState::Answered, [slot, slot], true);
    let legs = world.planes[0].region.legs();
    let mut leg = legs.read(6).expect("the called one's");
    leg.set_party(Party::Peer(CcbId(9)));
    leg.set_number(Text::new(b"2001").expect("it fits"));
    legs.write(6, &leg);
    world.restart_control();
    let leases = world.blade.leases();
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    let found = (lease.number.as_str(), lease.owner, lease.holder, lease.state);
    assert_eq!(found, ("2001", CcbId(9), CcbId(1), "dialled"));
    world.attach_all();
    assert_eq!(world.blade.leases().len(), 1, "once");
    let ended = LegRow { state: LegState::Ended.into(), ..leg };
    world.planes[0].region.legs().write(6, &ended);
    let call = CallRef { slot: 1, generation: 7 };
    let event = Event::CallChanged { call, serial: 777, state: CallState::Answered, cause: 0 };
    world.planes[0].event(0, event, &[]);
    world.give(Input::Pump);
    world.pass(1_000);
    assert_eq!(world.blade.leases(), []);
}

/// What b2 was answered who asks for 1001.
fn answered(out: &[Output]) -> Option<Result<Grant, Denial>> {
    out.iter().find_map(|one| match one {
        Output::Bus(Say::Reply { reply: 4, answer }) => match &**answer {
            Answer::Lease(answer) => Some(answer.clone()),
            _ => None,
        },
        _ => None,
    })
}

/// 2001 of b2 calls 1001 while 1001 calls 2001, whose key in the directory is `theirs`: b2 asks first, and then
/// nobody runs for as long as such a request waits.
fn met_after_a_pause(theirs: u64) -> (World, AgentSlot, u32, Vec<Output>) {
    let (mut world, granted, _) = heard();
    let home = Home { blade: "b2".into(), ccb: CcbId(2), agent: theirs, epoch: 1, turn: 0 };
    let key = Key::Number(TENANT, "2001".into());
    world.give(Input::Bus(Heard::Fact { key, fact: Some(Fact::Home(home)) }));
    let slot = world.slot(granted.login);
    let leases = world.planes[0].region.clone();
    let leases = leases.leases();
    let counter = leases.reserve(slot, Medium::Voice, CcbId(1), For::Outgoing, world.now);
    let counter = counter.expect("the agent is idle");
    world.planes[0].call(1, CallState::Asked, [slot, slot], true);
    let request = LeaseRequest {
        id: 1,
        incarnation: 5,
        holder: CcbId(2),
        holder_incarnation: 1,
        tenant: TENANT,
        number: "1001".into(),
        purpose: For::Call,
        caller: "2001".into(),
        caller_agent: Some(theirs),
        serial: 3,
        ttl_ms: 1_000,
        queue: None,
    };
    let question = Box::new(Question::Lease(request));
    let out = world.give(Input::Bus(Heard::Asked { reply: 4, from: "b2".into(), question }));
    assert_eq!(answered(&out), None, "whom 1001 calls is not known yet");
    world.planes[0].commands(0);
    world.now = world.now + Duration::from_millis(500);
    world.planes[0].beat(world.now);
    let (tenant, caller, why) = (TENANT, Party::Agent(slot, 1), abi::Why::Called);
    let asked = Event::Asked { op: 5, call: CALL, tenant, caller, location: LocationId(0), why };
    world.planes[0].event(0, asked, b"2001");
    let mut out = world.give(Input::Pump);
    out.extend(world.pass(60));
    (world, slot, counter, out)
}

/// G-03: the call that gives way is over before the other one is refused for it, however late that is seen.
#[test]
fn a_call_that_gives_way_has_its_time_for_that() {
    let (mut world, slot, counter, out) = met_after_a_pause(1);
    assert_eq!(answered(&out), None);
    let told = world.planes[0].commands(0);
    let yields: Vec<_> =
        told.iter().filter(|(one, _)| matches!(one, Command::Yield { .. })).collect();
    assert_eq!(yields.len(), 1, "{told:?}");
    let region = world.planes[0].region.clone();
    assert!(region.leases().release(slot, Medium::Voice, CcbId(1), counter, abi::Share::Waiting));
    let out = world.pass(20);
    assert!(matches!(answered(&out), Some(Ok(_))), "{out:?}");
    let state = region.leases().read(slot, Medium::Voice);
    assert!(matches!(state, LeaseState::Reserved { holder: CcbId(2), .. }), "{state:?}");
}

/// A worker that does not let the agent go: then the agent is busy, in the end.
#[test]
fn a_call_that_does_not_give_way_makes_the_agent_busy() {
    let (mut world, _, _, out) = met_after_a_pause(1);
    assert_eq!(answered(&out), None);
    let out = world.pass(500);
    assert_eq!(answered(&out), Some(Err(Denial::Busy)));
}

/// Ours goes on: theirs hears so at once.
#[test]
fn the_call_of_the_lower_key_goes_on() {
    let (_, _, _, out) = met_after_a_pause(u64::MAX);
    assert_eq!(answered(&out), Some(Err(Denial::Glare)));
}

/// One of several blades that has just started does not know yet whose agents are where: it says so.
#[test]
fn a_number_is_nobodys_only_after_the_bus_was_heard() {
    let mut world = World::new(1);
    let ask = |world: &mut World| {
        let (tenant, caller, why) = (TENANT, Party::Agent(AgentSlot(0), 1), abi::Why::Called);
        let asked =
            Event::Asked { op: 5, call: CALL, tenant, caller, location: LocationId(0), why };
        world.planes[0].commands(0);
        world.planes[0].event(0, asked, b"85555");
        world.give(Input::Pump);
        match &world.planes[0].commands(0)[..] {
            [(Command::Reject { status, retry_after_s, .. }, _)] => (*status, *retry_after_s),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut world), (404, 0), "a blade alone knows all");
    world.blade.join("b1".into(), 1, crate::cdm::Strategy::LeastAgents);
    assert_eq!(ask(&mut world), (503, 2));
    world.give(Input::Bus(Heard::Connected(true)));
    assert_eq!(ask(&mut world), (503, 2));
    world.pass(2_000);
    assert_eq!(ask(&mut world), (404, 0));
    world.give(Input::Bus(Heard::Connected(false)));
    assert_eq!(ask(&mut world), (404, 0), "what was heard is known");
}
