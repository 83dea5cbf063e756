//! Whatever happens, nothing leaks.

use super::*;

/// What must hold at any time, whatever happened.
fn check(world: &World, seed: u64) {
    for (ccb, side) in &world.blade.sides {
        let here = || world.blade.logins.values().filter(|entry| entry.ccb == *ccb);
        let online = here().filter(|entry| entry.login.is_online()).count();
        assert_eq!(side.online as usize, online, "seed {seed}: online on {ccb}");
        assert_eq!(side.by_slot.len(), here().count(), "seed {seed}: slots on {ccb}");
        let region = side.region().expect("it was attached");
        let agents = region.layout().agents as usize;
        assert_eq!(side.slots.total() + side.by_slot.len(), agents, "seed {seed}: lost slots");
        for entry in here() {
            let user = entry.record.user.as_bytes();
            let found = region.agents().find_user(user).map(|found| found.0);
            assert_eq!(found, Some(entry.slot), "seed {seed}: index");
        }
    }
    assert_eq!(world.blade.newest.len(), world.blade.logins.len(), "seed {seed}: two logins");
    for login in world.blade.sockets.values() {
        assert!(world.blade.is_alive(*login), "seed {seed}: a desk without login");
    }
}

/// One random thing that agents, phones, desks or processes do.
fn happen(world: &mut World, rng: &mut base::Rng, epochs: &mut [u32; 6]) {
    let agent = rng.below(6);
    let login = world.blade.login_of(TENANT, agent);
    let place = login.map(|login| &world.blade.logins[&login]);
    let place = place.map(|entry| (usize::from(entry.ccb.0) - 1, entry.slot));
    let socket = 1 + rng.below(world.sockets + 1);
    let plane = rng.below(2) as usize;
    let ccb = CcbId(plane as u16 + 1);
    match rng.below(14) {
        0..=2 => {
            epochs[agent as usize] += 1;
            let _ = world.login(agent, epochs[agent as usize], rng.chance(30));
        }
        3..=4 => {
            if let Some((plane, slot)) = place {
                let now = world.now;
                world.planes[plane].register(slot, now);
            }
        }
        5 => {
            if let Some((plane, slot)) = place {
                world.planes[plane].unregister(slot);
            }
        }
        6..=7 => {
            if let Some(login) = login {
                world.attach_desk(login);
            }
        }
        8 => drop(world.give(Input::DeskLost { socket })),
        9 => drop(world.give(Input::DeskExit { socket })),
        10 => drop(world.pass(rng.below(40_000))),
        11 => {
            world.give(Input::Gone { ccb });
            match rng.chance(50) {
                true => world.planes[plane] = Plane::new(ccb.0, world.now),
                false => world.planes[plane].start(world.now),
            }
            world.attach_all();
        }
        12 => drop(world.restart_control()),
        _ => {
            if let Some((plane, slot)) = place {
                let leases = world.planes[plane].region.leases();
                let purpose = abi::Purpose::Call;
                let _ = leases.reserve(slot, Medium::Voice, CcbId(9), purpose, world.now);
            }
        }
    }
    obey_forget(world);
    world.give(Input::Pump);
}

/// The data planes drop the registrations that they are told to, and complete the commands.
fn obey_forget(world: &mut World) {
    for plane in &mut world.planes {
        for worker in 0..usize::from(WORKERS) {
            for (command, _) in plane.commands(worker) {
                if let Command::Forget { agent, epoch, .. } = command {
                    let row = plane.region.registrations().read(agent).expect("a row");
                    if row.is_registered() && row.epoch == epoch {
                        plane.region.registrations().write(agent, &RegistrationRow::default());
                    }
                }
                let event = Event::Done { op: command.op(), result: OpResult::Ok };
                let _ = plane.events[worker].push(&event, &[], Class::Call);
            }
        }
    }
}

#[test]
fn whatever_happens_nothing_leaks() {
    for seed in 0..256 {
        let mut rng = base::Rng::from_number(seed);
        let mut world = World::new(2);
        let mut epochs = [0; 6];
        for _ in 0..120 {
            happen(&mut world, &mut rng, &mut epochs);
            check(&world, seed);
        }
        // Everybody goes home: no phone registers and no desk attaches any more.
        for socket in 1..=world.sockets {
            world.give(Input::DeskLost { socket });
        }
        for plane in &mut world.planes {
            for slot in (0..4).map(AgentSlot) {
                plane.region.registrations().write(slot, &RegistrationRow::default());
            }
        }
        for _ in 0..40 {
            world.pass(10_000);
            obey_forget(&mut world);
        }
        check(&world, seed);
        assert!(world.blade.logins.is_empty(), "seed {seed}: {:?}", world.blade.logins);
        for (ccb, side) in &world.blade.sides {
            assert_eq!(side.slots.available(), 4, "seed {seed}: slots of {ccb}");
            let known = world.blade.cdm.ccb(*ccb).expect("it is known");
            assert_eq!((known.load(), side.open_ops()), (0, 0), "seed {seed}: CCB {ccb}");
        }
    }
}
