//! A data plane that does not come back.

use super::*;

/// Two CCBs, and an agent with a desk on each; the socket of the one on CCB 2.
fn two() -> (World, LoginKey, u64) {
    let mut world = World::new(2);
    loop {
        let agent = 1001 + world.blade.logins().count() as u64;
        let (granted, socket) = world.online(agent, 1);
        if granted.ccb == CcbId(2) {
            return (world, granted.login, socket);
        }
    }
}

fn told(out: &[Output]) -> Vec<u64> {
    let socket = |one: &Output| match one {
        Output::Desk { socket, message: DeskMessage::LogInAgain { .. } } => Some(*socket),
        _ => None,
    };
    out.iter().filter_map(socket).collect()
}

fn pass(world: &mut World, seconds: u64, with_two: bool) -> Vec<Output> {
    let mut all = Vec::new();
    for _ in 0..seconds * 10 {
        world.now = world.now + Duration::from_millis(100);
        world.planes[0].beat(world.now);
        if with_two {
            world.planes[1].beat(world.now);
        }
        all.extend(world.give(Input::Timeout));
    }
    all
}

#[test]
fn desks_of_a_data_plane_that_stays_away_are_told_once_to_log_in_again() {
    let (mut world, login, socket) = two();
    world.give(Input::Gone { ccb: CcbId(2) });
    assert_eq!(told(&pass(&mut world, 1, false)), [], "it may be back soon");
    assert_eq!(told(&pass(&mut world, 4, false)), [socket]);
    let again = world.granted(login.agent, 2);
    assert_eq!(again.ccb, CcbId(1));
}

#[test]
fn one_that_comes_back_soon_keeps_its_desks() {
    let (mut world, _, _) = two();
    world.give(Input::Gone { ccb: CcbId(2) });
    pass(&mut world, 1, false);
    let region = world.planes[1].region.clone();
    world.give(Input::Attached { ccb: CcbId(2), region });
    assert_eq!(told(&pass(&mut world, 5, true)), []);
}

#[test]
fn with_nowhere_to_go_nobody_is_told() {
    let mut world = World::new(1);
    world.online(1001, 1);
    world.give(Input::Gone { ccb: CcbId(1) });
    let mut out = Vec::new();
    for _ in 0..50 {
        world.now = world.now + Duration::from_millis(100);
        out.extend(world.give(Input::Timeout));
    }
    assert_eq!(told(&out), []);
}
