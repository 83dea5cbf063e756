//! Call waiting as control sees it: limits on their way down, a seat in two calls, and orders that name none of them.

use super::queues::{changed, commands, done, hang_up, party, ready, rows, state, world};
use super::*;
use crate::message::CallEvent;
use crate::seat::SeatState;

fn plain(world: &World, login: LoginKey) -> SeatState {
    match state(world, login) {
        SeatState::Ready(_) => SeatState::Ready(Instant::ZERO),
        other => other,
    }
}

#[test]
fn limits_reach_the_region_and_outlive_control() {
    let mut world = world();
    let (login, _) = ready(&mut world, 1001);
    let slot = world.slot(login);
    for _ in 0..2 {
        let row = world.planes[0].region.agents().read(slot).expect("a row");
        assert_eq!((row.incoming_limit(), row.outgoing_limit()), (2, 3));
        assert_eq!(world.view(login).record.incoming_limit, Some(2));
        world.restart_control();
        world.pass(1_500);
        // Control writes the row again from what it has found.
        world.attach_desk(login);
    }
}

#[test]
fn a_seat_is_free_after_the_last_of_two_calls() {
    let mut world = world();
    let (agent, socket) = ready(&mut world, 1001);
    let its = party(&world, agent);
    let first = rows(&world, 0, "1001", 5, &[(LegState::Answered, its)]);
    changed(&mut world, first, CallState::Answered);
    assert_eq!(state(&world, agent), SeatState::Talking);
    let second = rows(&world, 1, "1001", 9, &[(LegState::Ringing, its)]);
    let calls = world.planes[0].region.clone();
    let row = calls.calls().read(1).expect("a row");
    calls.calls().write(1, &abi::CallRow { state: CallState::Ringing.into(), ..row });
    let out = changed(&mut world, second, CallState::Ringing);
    let told = desk_messages(&out, socket);
    let is_told = |message: &DeskMessage| {
        matches!(
            message,
            DeskMessage::Call { event: CallEvent::Delivered, serial: 101, incoming: true, .. }
        )
    };
    assert!(matches!(&told[..], [one] if is_told(one)), "{told:?}");
    assert_eq!(state(&world, agent), SeatState::Talking, "the other one only waits");

    // What is ordered of no certain call is about the one that the agent talks in; only a phone that rings answers.
    let mut orders = |command| {
        world.give(Input::DeskCommand { reply: 8, socket, command });
        let (told, _) = commands(&mut world).pop().expect("a command");
        let (op, call) = match told {
            Command::Park { op, call, .. } | Command::Talk { op, call, .. } => (op, call),
            other => panic!("{other:?}"),
        };
        done(&mut world, op, OpResult::Ok);
        call
    };
    assert_eq!(orders(DeskCommand::Hold(None)), first);
    assert_eq!(orders(DeskCommand::Answer(None)), second);
    assert_eq!(orders(DeskCommand::Retrieve(None)), first);

    hang_up(&mut world, first);
    assert_eq!(state(&world, agent), SeatState::Ringing);
    hang_up(&mut world, second);
    assert_eq!(plain(&world, agent), SeatState::Ready(Instant::ZERO));
}
