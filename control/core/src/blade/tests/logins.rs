//! A login from its grant to its end.

use super::*;

#[test]
fn a_login_goes_the_steps_from_511_to_515() {
    let mut world = World::new(1);
    let region = world.planes[0].region.clone();
    let granted = world.granted(1001, 1);
    assert_eq!(world.counts(1), (0, 0, 1));
    let (slot, row) = region.agents().find_number(TENANT, b"1001").expect("it is found");
    assert_eq!(region.agents().find_user(b"1001.demo").map(|found| found.0), Some(slot));
    assert_eq!((row.state(), row.login_epoch), (AgentState::LoggedIn, 1));
    let secret = region.secrets().read(slot).expect("a row");
    assert_eq!((secret.epoch, secret.ha1_md5, secret.ha1_sha256), (1, [233; 16], [1; 32]));
    assert_eq!(world.view(granted.login).state, "granted");

    world.register(granted);
    assert_eq!((world.counts(1), world.view(granted.login).state), ((0, 1, 0), "registered"));
    let (socket, out) = world.attach_desk(granted.login);
    let address = SocketAddr::from(([10, 9, 9, 9], 5062));
    assert_eq!(
        desk_messages(&out, socket),
        [DeskMessage::PhoneRegistered { address }, DeskMessage::LoginProgress { complete: true }]
    );
    assert_eq!((world.counts(1), world.view(granted.login).state), ((1, 0, 0), "online"));
    assert_eq!(region.agents().read(slot).expect("a row").cti_state(), CtiState::Connected);

    let out = world.give(Input::DeskExit { socket });
    let ended = desk_messages(&out, socket);
    assert_eq!(ended, [DeskMessage::LoggedOut { end: End::Exit }]);
    assert_eq!(world.counts(1), (0, 0, 0));
    assert!(!world.blade.is_alive(granted.login));
    assert_eq!(region.agents().find_number(TENANT, b"1001"), None);
    assert_eq!(region.secrets().read(slot).expect("a row").epoch, 0);
    for worker in 0..2 {
        let commands = world.planes[0].commands(worker);
        assert!(
            matches!(commands[..], [(Command::Forget { agent, epoch: 1, .. }, _)] if agent == slot)
        );
    }
}

#[test]
fn the_desk_may_come_before_the_phone() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    let (socket, out) = world.attach_desk(granted.login);
    assert_eq!(desk_messages(&out, socket), [DeskMessage::LoginProgress { complete: false }]);
    assert_eq!(
        (world.counts(1), world.view(granted.login).state),
        ((0, 0, 1), "waiting_for_phone")
    );
    let out = world.register(granted);
    assert_eq!(
        desk_messages(&out, socket).last(),
        Some(&DeskMessage::LoginProgress { complete: true })
    );
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn thirty_seconds_without_the_websocket_end_the_login() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    world.give(Input::DeskLost { socket });
    assert_eq!((world.counts(1), world.view(granted.login).state), ((1, 0, 0), "lost"));
    world.pass(29_000);
    assert!(world.blade.is_alive(granted.login));
    let (again, out) = world.attach_desk(granted.login);
    assert_eq!(desk_messages(&out, again), [DeskMessage::LoginProgress { complete: true }]);
    world.pass(60_000);
    assert!(world.blade.is_alive(granted.login));
    world.give(Input::DeskLost { socket: again });
    let out = world.pass(31_500);
    assert!(
        out.iter().any(|one| matches!(one, Output::Ended { end: End::DeskAway, .. })),
        "{out:?}"
    );
    assert_eq!(world.counts(1), (0, 0, 0));
}

#[test]
fn an_expired_registration_counts_down_and_may_come_back() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    let slot = world.slot(granted.login);
    world.planes[0].unregister(slot);
    let out = world.give(Input::Pump);
    assert_eq!(
        desk_messages(&out, socket),
        [DeskMessage::PhoneLost, DeskMessage::LoginProgress { complete: false }]
    );
    assert_eq!(world.counts(1), (0, 0, 0));
    world.pass(120_000);
    assert!(world.blade.is_alive(granted.login));
    world.register(granted);
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn a_grant_that_nobody_uses_lapses_and_its_slot_comes_back() {
    let mut world = World::new(1);
    for agent in 0..4 {
        world.granted(1001 + agent, 1);
    }
    assert_eq!(world.login(2000, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(299_000);
    assert_eq!(world.counts(1), (0, 0, 4));
    world.pass(3_000);
    assert_eq!(world.counts(1), (0, 0, 0));
    world.granted(2000, 1);
}

#[test]
fn a_phone_alone_lives_until_it_is_gone_for_thirty_seconds() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    world.register(granted);
    world.pass(600_000);
    assert!(world.blade.is_alive(granted.login));
    let slot = world.slot(granted.login);
    world.planes[0].unregister(slot);
    world.give(Input::Pump);
    world.pass(29_000);
    assert!(world.blade.is_alive(granted.login));
    world.pass(3_000);
    assert!(!world.blade.is_alive(granted.login));
}

#[test]
fn the_newest_login_wins_and_the_older_desk_is_told() {
    let mut world = World::new(2);
    let (first, socket) = world.online(1001, 1);
    let (second, out) = world.login(1001, 2, false);
    let second = second.expect("it is granted");
    assert_eq!(desk_messages(&out, socket), [DeskMessage::Replaced]);
    assert!(out.iter().any(|one| matches!(
        one,
        Output::DeskClosed { reason: CloseReason::Ended(End::Replaced), .. }
    )));
    assert!(!world.blade.is_alive(first.login) && world.blade.is_alive(second.login));
    let region = &world.planes[usize::from(second.ccb.0) - 1].region;
    let (slot, row) = region.agents().find_number(TENANT, b"1001").expect("it is found");
    assert_eq!((slot, row.login_epoch), (world.slot(second.login), 2));
    let (late, out) = world.attach_desk(first.login);
    assert!(matches!(
        out[..],
        [Output::DeskClosed { socket, reason: CloseReason::NoLogin }] if socket == late
    ));
}

#[test]
fn an_agent_in_a_call_is_replaced_only_by_force() {
    let mut world = World::new(1);
    let (first, _) = world.online(1001, 1);
    let slot = world.slot(first.login);
    let region = world.planes[0].region.clone();
    let leases = region.leases();
    let counter = leases
        .reserve(slot, Medium::Voice, CcbId(1), abi::Purpose::Call, world.now)
        .expect("it is free");
    assert!(leases.bind(slot, Medium::Voice, CcbId(1), counter));
    assert_eq!(world.login(1001, 2, false).0, Err(LoginRefusal::InCall));
    assert!(world.blade.is_alive(first.login));
    let second = world.login(1001, 3, true).0.expect("it is granted");
    assert!(!world.blade.is_alive(first.login));
    assert_ne!(world.slot(second.login), slot);
    // The old slot is kept until its call and its registration are gone.
    world.pass(5_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::LoggedOut);
    region.registrations().write(slot, &RegistrationRow::default());
    world.pass(2_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::LoggedOut);
    assert!(leases.release(slot, Medium::Voice, CcbId(1), counter, abi::Share::Waiting));
    world.pass(2_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::Empty);
}

#[test]
fn another_websocket_takes_the_session_over() {
    let mut world = World::new(1);
    let (granted, first) = world.online(1001, 1);
    let (second, out) = world.attach_desk(granted.login);
    assert!(out.iter().any(|one| matches!(
        one,
        Output::DeskClosed { socket, reason: CloseReason::Taken } if *socket == first
    )));
    world.give(Input::DeskLost { socket: first });
    assert_eq!(world.view(granted.login).state, "online");
    world.give(Input::DeskLost { socket: second });
    assert_eq!(world.view(granted.login).state, "lost");
}

#[test]
fn logins_spread_over_the_ccbs_before_any_of_them_reports() {
    let mut world = World::new(2);
    for agent in 0..4 {
        world.granted(1001 + agent, 1);
    }
    assert_eq!((world.counts(1), world.counts(2)), ((0, 0, 2), (0, 0, 2)));
}

#[test]
fn a_login_that_was_overtaken_does_not_replace_the_newer_one() {
    let mut world = World::new(1);
    let newer = world.granted(1001, 7);
    assert_eq!(world.login(1001, 6, true).0, Err(LoginRefusal::Overtaken));
    assert!(world.blade.is_alive(newer.login));
    assert!(world.login(1001, 8, false).0.is_ok());
}

#[test]
fn a_full_ccb_takes_its_own_agents_again() {
    let mut world = World::new(1);
    for agent in 0..4 {
        world.online(1001 + agent, 1);
    }
    assert_eq!(world.login(2000, 1, false).0, Err(LoginRefusal::NoCcb));
    for epoch in 2..50 {
        let (granted, _) = world.online(1001, epoch);
        assert!(world.blade.is_alive(granted.login));
        world.planes[0].commands(0);
        world.planes[0].commands(1);
        world.give(Input::Pump);
    }
    assert_eq!(world.counts(1), (4, 0, 0));
}
