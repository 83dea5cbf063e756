use super::*;
use crate::pool::{Marks, PoolOrder, PoolRefusal, SlotId, SlotKind, SlotOrder, SlotState};

const TWO: CcbId = CcbId(2);
const SLOT: SlotId = SlotId::Ccb(TWO);

/// Two CCBs, the second a slot of the pool.
fn world(marks: Option<Marks>) -> World {
    let mut world = World::new(2);
    world.blade.pool(world.now, [(SLOT, SlotState::Running)], marks);
    world
}

fn release(world: &mut World, within_s: u32) -> Vec<Output> {
    let order = PoolOrder::Release { slot: SLOT, within_s: Some(within_s) };
    let out = world.give(Input::Pool { reply: 5, order });
    assert!(out.iter().any(|one| matches!(one, Output::Pool { reply: 5, result: Ok(SLOT) })));
    out
}

fn state(world: &World) -> SlotState {
    world.blade.slots().next().expect("there is one").1
}

fn has_order(out: &[Output], wanted: SlotOrder) -> bool {
    out.iter().any(|one| matches!(one, Output::Slot { slot: SLOT, order } if *order == wanted))
}

fn agent_state(world: &World, login: LoginKey) -> AgentState {
    let slot = world.slot(login);
    let row = world.planes[1].region.agents().read(slot);
    row.expect("the row is there").state()
}

/// Logs in until somebody is on the second CCB.
fn on_two(world: &mut World, from: u64) -> LoginKey {
    (from..from + 4)
        .map(|agent| world.granted(agent, 1))
        .find(|granted| granted.ccb == TWO)
        .expect("logins are spread")
        .login
}

#[test]
fn a_ccb_that_is_released_gets_nobody_and_is_stopped_when_all_are_gone() {
    let mut world = world(None);
    let login = on_two(&mut world, 1001);
    release(&mut world, 60);
    assert_eq!(world.status(2), CcbStatus::Draining);
    assert_eq!(agent_state(&world, login), AgentState::Draining, "the row refuses first");
    for agent in 1010..1012 {
        assert_eq!(world.granted(agent, 1).ccb, CcbId(1));
    }
    // A phone without a desk cannot be told; its login ends, and then the process does.
    let out = world.pass(1_500);
    assert!(
        out.iter().any(
            |one| matches!(one, Output::Ended { login: of, end: End::Drained } if *of == login)
        )
    );
    let out = [out, world.pass(1_500)].into_iter().flatten().collect::<Vec<_>>();
    assert!(has_order(&out, SlotOrder::Stop));
    assert_eq!(state(&world), SlotState::Stopping);
    world.give(Input::SlotStopped { slot: SLOT });
    assert_eq!(state(&world), SlotState::Free);
}

#[test]
fn a_desk_is_told_to_log_in_again_and_gets_another_ccb() {
    let mut world = world(None);
    let login = on_two(&mut world, 1001);
    world.give(Input::DeskAttached { socket: 70, login });
    release(&mut world, 60);
    let out = world.pass(1_200);
    let told = |one: &Output| {
        matches!(one, Output::Desk { socket: 70, message: DeskMessage::LogInAgain { .. } })
    };
    assert_eq!(out.iter().filter(|one| told(one)).count(), 1);
    assert!(!has_order(&out, SlotOrder::Stop), "it waits for the desk");
    let again = world.granted(login.agent, 2);
    assert_eq!(again.ccb, CcbId(1));
    assert!(has_order(&world.pass(1_200), SlotOrder::Stop));
}

#[test]
fn who_talks_talks_on_until_the_deadline() {
    let mut world = world(None);
    let login = on_two(&mut world, 1001);
    let region = world.planes[1].region.clone();
    let slot = world.slot(login);
    let leases = region.leases();
    let won = leases.reserve(slot, Medium::Voice, TWO, abi::Purpose::Call, world.now);
    assert!(leases.bind(slot, Medium::Voice, TWO, won.expect("it is free")));
    release(&mut world, 20);
    let out = world.pass(19_000);
    assert!(!out.iter().any(|one| matches!(one, Output::Ended { .. } | Output::Slot { .. })));
    let out = world.pass(4_000);
    assert!(out.iter().any(|one| matches!(one, Output::Ended { end: End::Drained, .. })));
    assert!(has_order(&out, SlotOrder::Stop));
}

#[test]
fn a_released_ccb_may_be_taken_back_before_it_stops() {
    let mut world = world(None);
    let login = on_two(&mut world, 1001);
    world.give(Input::DeskAttached { socket: 70, login });
    release(&mut world, 60);
    let order = PoolOrder::Apply { kind: SlotKind::Ccb, number: None };
    let out = world.give(Input::Pool { reply: 6, order });
    assert!(out.iter().any(|one| matches!(one, Output::Pool { reply: 6, result: Ok(SLOT) })));
    assert_eq!(world.status(2), CcbStatus::Normal);
    assert_eq!(agent_state(&world, login), AgentState::LoggedIn);
    let out = world.pass(15_000);
    assert!(!out.iter().any(|one| matches!(one, Output::Ended { .. } | Output::Slot { .. })));
}

#[test]
fn orders_for_what_is_not_there_are_refused() {
    let mut world = world(None);
    let order = PoolOrder::Release { slot: SlotId::Ccb(CcbId(1)), within_s: None };
    let out = world.give(Input::Pool { reply: 1, order });
    let refused =
        |one: &Output, why| matches!(one, Output::Pool { result: Err(is), .. } if *is == why);
    assert!(out.iter().any(|one| refused(one, PoolRefusal::NoSuchSlot)));
    let out = world.give(Input::Pool {
        reply: 2,
        order: PoolOrder::Apply { kind: SlotKind::Ccb, number: None },
    });
    assert!(out.iter().any(|one| refused(one, PoolRefusal::NoFreeSlot)));
}

#[test]
fn the_cdm_gives_back_what_nobody_needs_and_asks_for_it_again() {
    let marks = Marks { hold_s: 3, high: 0.7, ..Marks::default() };
    let mut world = world(Some(marks));
    let out = world.pass(5_000);
    assert!(out.iter().any(|one| matches!(
        one,
        Output::Scaled { wish: crate::pool::Wish::Release(SLOT), result: Ok(SLOT) }
    )));
    assert!(has_order(&out, SlotOrder::Stop));
    world.give(Input::SlotStopped { slot: SLOT });
    world.give(Input::Gone { ccb: TWO });
    let capacity = u64::from(world.planes[0].region.layout().agents);
    for agent in 0..capacity * 9 / 10 {
        world.granted(2_000 + agent, 1);
    }
    let out = world.pass(5_000);
    assert!(has_order(&out, SlotOrder::Start));
    assert_eq!(state(&world), SlotState::Starting);
    let region = world.planes[1].region.clone();
    world.give(Input::Attached { ccb: TWO, region });
    world.pass(1_200);
    assert_eq!(state(&world), SlotState::Running);
}
