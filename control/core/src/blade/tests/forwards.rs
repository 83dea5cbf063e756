//! Forwarding rules, transfers and calls that are ordered, music on hold.

use abi::{AgentRow, CallState, Command, Event, MediaOrder, OpResult, Party, Why};
use base::{AgentSlot, CallRef, CcbId, LocationId};

use super::*;
use crate::message::OpOutcome;
use crate::routes::{Forward, When};

fn rule(number: &str, when: When, to: &str) -> Forward {
    Forward { tenant: TENANT, number: number.into(), when, to: to.into() }
}

fn rules() -> Provision {
    let forwards = vec![
        rule("1", When::Busy, "2"),
        rule("1", When::NoAnswer(15), "3"),
        rule("5", When::Unavailable, "9123"),
        rule("91", When::Always, "1"),
        rule("800", When::Always, "1/5,2/10,9123"),
    ];
    Provision { forwards, ..provision() }
}

fn ask(world: &mut World, op: u64, caller: Party, number: &str, why: Why) -> (Command, Vec<u8>) {
    let call = CallRef { slot: op as u32, generation: 1 };
    let location = LocationId(0);
    let asked = Event::Asked { op, call, tenant: TENANT, caller, location, why };
    world.planes[0].event(0, asked, number.as_bytes());
    world.give(Input::Pump);
    world.planes[0].commands(0).pop().expect("it is answered")
}

#[test]
fn questions_are_answered_by_the_rules_of_the_number() {
    let mut world = World::new(1);
    world.give(Input::Provision(rules()));
    let (agent, trunk) = (Party::Agent(AgentSlot(0), 1), Party::Trunk(0));
    for (at, (caller, number, why, expected)) in [
        (trunk, "1", Why::Busy, Ok("2")),
        (trunk, "1", Why::NoAnswer, Ok("3")),
        (trunk, "1", Why::Unavailable, Err(480)),
        (trunk, "1", Why::Called, Err(404)),
        (trunk, "5", Why::Called, Ok("9123")),
        (agent, "5", Why::Transferred, Ok("9123")),
        (agent, "91", Why::Called, Ok("1")),
        (trunk, "800", Why::Called, Ok("1/5,2/10,9123")),
        // While places are tried, rules of their own do not count.
        (trunk, "5", Why::Hunted, Err(404)),
        (agent, "9", Why::Busy, Err(480)),
        (agent, "777", Why::Forwarded, Err(404)),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ask(&mut world, at as u64 + 1, caller, number, why);
        match (answer, expected) {
            ((Command::Forward { ask, .. }, to), Ok(number)) => {
                assert_eq!((ask, &*to), (at as u64 + 1, number.as_bytes()));
            }
            ((Command::Reject { status, .. }, _), Err(expected)) => assert_eq!(status, expected),
            (other, _) => panic!("{number} {why:?}: {other:?}"),
        }
    }
    // What a trunk's caller may not dial, the tenant's rule may.
    let cases = [(50, Why::Called, false), (51, Why::Forwarded, true), (52, Why::Hunted, true)];
    for (op, why, is_out) in cases {
        let (command, _) = ask(&mut world, op, trunk, "9234", why);
        assert_eq!(matches!(command, Command::Dial { .. }), is_out, "{why:?}: {command:?}");
    }
}

#[test]
fn an_agent_s_row_says_when_control_is_to_be_asked() {
    let mut world = World::new(1);
    let early = world.granted(1, 1);
    let row = |world: &World, login| {
        let row = world.planes[0].region.agents().read(world.slot(login)).expect("a row");
        (row.forwards, row.no_answer_s)
    };
    assert_eq!(row(&world, early.login), (0, 0));
    world.give(Input::Provision(rules()));
    let marked = (AgentRow::BUSY | AgentRow::NO_ANSWER, 15);
    assert_eq!(row(&world, early.login), marked);
    let late = world.granted(2, 1);
    assert_eq!(row(&world, late.login), (0, 0), "it is another number");
    world.restart_control();
    world.give(Input::Provision(rules()));
    assert_eq!(row(&world, early.login), marked);
    world.give(Input::Provision(provision()));
    assert_eq!(row(&world, early.login), (0, 0), "the rules are gone");
}

fn outcome(outputs: &[Output]) -> Option<OpOutcome> {
    outputs.iter().find_map(|output| match output {
        Output::Done { reply: 5, result, .. } => Some(*result),
        _ => None,
    })
}

#[test]
fn a_click_dials_from_the_agent_s_phone() {
    let mut world = World::new(1);
    let (granted, _) = world.online(1, 1);
    let dial =
        |from: &str| Input::Dial { reply: 5, tenant: TENANT, from: from.into(), to: "777".into() };
    let out = world.give(dial("8"));
    assert_eq!(outcome(&out), Some(OpOutcome::Done(OpResult::NoSuchAgent)));
    assert_eq!(outcome(&world.give(dial("1"))), None, "the data plane has to do it first");
    let slot = world.slot(granted.login);
    let worker = (slot.0 % u32::from(world.planes[0].region.layout().workers)) as usize;
    let (command, to) = world.planes[0].commands(worker).pop().expect("it is told");
    let Command::Originate { op, agent, epoch } = command else { panic!("{command:?}") };
    assert_eq!((agent, epoch, &*to), (slot, 1, &b"777"[..]));
    world.planes[0].event(worker, Event::Done { op, result: OpResult::Refused }, &[]);
    let out = world.give(Input::Pump);
    assert_eq!(outcome(&out), Some(OpOutcome::Done(OpResult::Refused)));
    world.give(Input::Gone { ccb: CcbId(1) });
    assert_eq!(outcome(&world.give(dial("1"))), Some(OpOutcome::Gone));
}

/// A call of two agents that talk.
fn talking(world: &mut World) -> CallRef {
    let slots = [1, 2].map(|agent| {
        let (granted, _) = world.online(agent, 1);
        world.slot(granted.login)
    });
    world.planes[0].call(0, CallState::Answered, slots, true);
    world.give(Input::Pump);
    CallRef { slot: 0, generation: 7 }
}

#[test]
fn a_transfer_is_ordered_of_a_leg_that_stands() {
    let mut world = World::new(1);
    let call = talking(&mut world);
    let transfer =
        |call, leg| Input::Transfer { reply: 5, ccb: CcbId(1), call, leg, to: "3".into() };
    let gone = CallRef { generation: 8, ..call };
    assert_eq!(outcome(&world.give(transfer(gone, 0))), Some(OpOutcome::Unknown));
    assert_eq!(outcome(&world.give(transfer(call, 9))), Some(OpOutcome::NoSuchLeg));
    assert_eq!(outcome(&world.give(transfer(call, 1))), None);
    let (command, to) = world.planes[0].commands(0).pop().expect("it is told");
    assert!(matches!(command, Command::Transfer { leg: 1, call: of, .. } if of == call));
    assert_eq!(to, b"3");
}

#[test]
fn who_is_held_hears_music_where_there_is_some() {
    let mut world = World::new(1);
    let call = talking(&mut world);
    let mut with_music = provision();
    with_music.tenants[0].hold_music = Some("hold.wav".into());
    let hold = |world: &mut World, on| {
        world.planes[0].event(0, Event::Held { call, leg: 0, on }, &[]);
        world.give(Input::Pump);
        world.planes[0].commands(0).pop().map(|(command, prompt)| match command {
            Command::Media { leg: 0, order, .. } => (order, prompt),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(hold(&mut world, true), None, "the tenant has none");
    assert_eq!(hold(&mut world, false), None);
    world.give(Input::Provision(with_music));
    let played = Some((MediaOrder::Play { times: 0 }, b"hold.wav".to_vec()));
    assert_eq!(hold(&mut world, true), played);
    assert_eq!(hold(&mut world, false), Some((MediaOrder::StopPlaying, Vec::new())));
    assert_eq!(hold(&mut world, false), None, "what was not begun is not stopped");
}
