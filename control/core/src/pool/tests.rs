use super::*;
use SlotState::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

const ONE: SlotId = SlotId::Ccb(CcbId(1));

fn ccb(number: u16) -> SlotId {
    SlotId::Ccb(CcbId(number))
}

fn one(state: SlotState) -> Slots {
    Slots::new(at(0), [(ONE, state)])
}

#[test]
fn every_slot_takes_every_order() {
    let minute = Duration::from_secs(60);
    let apply = |state| {
        let mut slots = one(state);
        slots.apply(at(1), SlotKind::Ccb, Some(1)).map(|(_, order)| (slots.state(ONE), order))
    };
    assert_eq!(apply(Free), Ok((Some(Starting), Some(SlotOrder::Start))));
    assert_eq!(apply(Starting), Ok((Some(Starting), None)));
    assert_eq!(apply(Running), Ok((Some(Running), None)));
    assert_eq!(apply(Draining), Ok((Some(Running), None)));
    assert_eq!(apply(Stopping), Err(PoolRefusal::Stopping));
    let release = |state| {
        let mut slots = one(state);
        slots.release(at(1), ONE, minute).map(|()| slots.state(ONE))
    };
    assert_eq!(release(Free), Err(PoolRefusal::NotRunning));
    assert_eq!(release(Starting), Ok(Some(Draining)));
    assert_eq!(release(Running), Ok(Some(Draining)));
    assert_eq!(release(Draining), Ok(Some(Draining)));
    assert_eq!(release(Stopping), Ok(Some(Stopping)));
    assert_eq!(one(Free).apply(at(0), SlotKind::Ccb, Some(2)), Err(PoolRefusal::NoSuchSlot));
    assert_eq!(one(Running).apply(at(0), SlotKind::Ccb, None), Err(PoolRefusal::NoFreeSlot));
    assert_eq!(one(Draining).apply(at(0), SlotKind::Ccb, None), Ok((ONE, None)));
}

#[test]
fn time_and_status_move_a_slot() {
    let look = |state, ms, status, left| {
        let mut slots = one(state);
        let order = slots.look(at(ms), ONE, status, left);
        (slots.state(ONE).expect("it is there"), order)
    };
    use CcbStatus::{Down, Draining as Drains, Normal};
    assert_eq!(look(Free, 1, Normal, 0), (Running, None), "somebody else started it");
    assert_eq!(look(Free, 1, Down, 0), (Free, None));
    assert_eq!(look(Starting, 1, Down, 0), (Starting, None));
    assert_eq!(look(Starting, 1, Normal, 0), (Running, None));
    assert_eq!(look(Starting, START_MS, Down, 0), (Stopping, Some(SlotOrder::Stop)));
    assert_eq!(look(Running, 1, Down, 9), (Running, None), "its own supervisor brings it back");
    assert_eq!(look(Draining, 1, Drains, 2), (Draining, None));
    assert_eq!(look(Draining, 1, Drains, 0), (Stopping, Some(SlotOrder::Stop)));
    let deadline = u64::from(DRAIN_S) * 1_000;
    assert_eq!(look(Draining, deadline, Drains, 2), (Stopping, Some(SlotOrder::Stop)));
    assert_eq!(look(Stopping, STOP_MS, Down, 0), (Free, None));
}

#[test]
fn an_earlier_deadline_holds_and_an_older_leader_is_not_heard() {
    let mut slots = one(Running);
    slots.release(at(0), ONE, Duration::from_secs(5)).expect("it runs");
    slots.release(at(0), ONE, Duration::from_secs(50)).expect("it drains");
    assert_eq!(slots.deadline(ONE), Some(at(5_000)));
    slots.release(at(0), ONE, Duration::from_secs(1)).expect("it drains");
    assert_eq!(slots.deadline(ONE), Some(at(1_000)));
    assert!(slots.admit(3) && slots.admit(3) && !slots.admit(2) && slots.admit(4));
}

/// A pool of four with room for 100 each: `running` of them run, with this load in all.
fn pool(running: usize, load: u32) -> Vec<Seen> {
    (0..4)
        .map(|n| {
            let runs = n < running;
            let share = if runs { load / running as u32 } else { 0 };
            Seen {
                slot: ccb(n as u16 + 1),
                blade: "b1".into(),
                status: if runs { CcbStatus::Normal } else { CcbStatus::Down },
                load: share,
                capacity: if runs { 100 } else { 0 },
                state: Some(if runs { Running } else { Free }),
            }
        })
        .collect()
}

/// The first wish within a minute of that load, and after how many seconds.
fn wish(running: usize, load: u32) -> Option<(u64, Wish)> {
    let (mut scaler, marks) = (Scaler::default(), Marks::default());
    let seen = pool(running, load);
    (0..60).find_map(|s| Some((s, scaler.look(at(s * 1_000), &marks, seen.clone())?)))
}

#[test]
fn load_grows_and_shrinks_the_pool_with_hysteresis() {
    assert_eq!(wish(1, 81), Some((10, Wish::Apply(ccb(2)))));
    assert_eq!(wish(2, 170), Some((10, Wish::Apply(ccb(3)))));
    assert_eq!(wish(2, 150), None);
    assert_eq!(wish(4, 340), None, "there is no more");
    assert_eq!(wish(2, 50), Some((10, Wish::Release(ccb(2)))));
    assert_eq!(wish(1, 1), None, "one always runs");
    assert_eq!(wish(0, 0), Some((10, Wish::Apply(ccb(1)))), "none runs");
    // A load that stays anywhere never makes it swing: what it asks for brings it between the marks.
    for load in 0..400 {
        let mut running = 1;
        let mut turns = Vec::new();
        while let Some((_, wish)) = wish(running, load.min(100 * running as u32)) {
            turns.push(wish);
            match wish {
                Wish::Apply(_) => running += 1,
                Wish::Release(_) => running -= 1,
            }
            assert!(turns.len() <= 4, "{load}: {turns:?}");
        }
    }
}

#[test]
fn a_peak_that_passes_asks_for_nothing() {
    let (mut scaler, marks) = (Scaler::default(), Marks::default());
    for s in 0..120 {
        let load = if s % 10 == 9 { 50 } else { 95 };
        assert_eq!(scaler.look(at(s * 1_000), &marks, pool(1, load)), None, "second {s}");
    }
}

#[test]
fn no_more_is_asked_than_may_be_under_way() {
    for moving in [Starting, Stopping] {
        let (mut scaler, marks) = (Scaler::default(), Marks::default());
        let mut seen = pool(2, 190);
        seen[3].state = Some(moving);
        for s in 0..60 {
            let wish = scaler.look(at(s * 1_000), &marks, seen.clone());
            assert_eq!(wish, None, "{moving:?}");
        }
        let two = Marks { at_once: 2, high: 0.5, ..marks };
        let wish = (0..60).find_map(|s| scaler.look(at(s * 1_000), &two, seen.clone()));
        assert_eq!(wish, Some(Wish::Apply(ccb(3))), "{moving:?}");
    }
    // Nothing is given back while anything moves.
    let mut seen = pool(3, 3);
    seen[3].state = Some(Starting);
    let mut scaler = Scaler::default();
    assert!((0..60).all(|s| scaler.look(at(s * 1_000), &Marks::default(), seen.clone()).is_none()));
}

#[test]
fn what_drains_is_taken_back_when_it_is_needed() {
    let (mut scaler, marks) = (Scaler::default(), Marks::default());
    let mut seen = pool(2, 190);
    (seen[3].state, seen[3].status) = (Some(Draining), CcbStatus::Draining);
    let wish = (0..60).find_map(|s| Some((s, scaler.look(at(s * 1_000), &marks, seen.clone())?)));
    assert_eq!(wish, Some((10, Wish::Apply(ccb(4)))));
}

#[test]
fn an_order_counts_until_it_is_reported_and_no_longer_than_it_may_be_lost() {
    let (mut scaler, marks) = (Scaler::default(), Marks { hold_s: 0, ..Marks::default() });
    let seen = pool(1, 99);
    assert_eq!(scaler.look(at(0), &marks, seen.clone()), Some(Wish::Apply(ccb(2))));
    assert_eq!(scaler.look(at(1_000), &marks, seen.clone()), None, "it is not reported yet");
    assert_eq!(scaler.look(at(2_900), &marks, seen.clone()), None);
    // It was lost. Another slot is tried, for this one may not come up.
    assert_eq!(scaler.look(at(3_000), &marks, seen.clone()), Some(Wish::Apply(ccb(3))));
    scaler.refused(ccb(3));
    assert_eq!(scaler.look(at(3_100), &marks, seen.clone()), Some(Wish::Apply(ccb(4))));
    let mut reported = pool(1, 99);
    reported[3].state = Some(Starting);
    assert_eq!(scaler.look(at(4_000), &marks, reported), None, "one is under way");
    let mut reported = pool(2, 99);
    reported[3] = Seen { state: Some(Running), ..reported[1].clone() };
    assert_eq!(scaler.look(at(5_000), &marks, reported), None);
}

#[test]
fn slots_are_spread_over_blades() {
    let (mut scaler, marks) = (Scaler::default(), Marks { hold_s: 0, ..Marks::default() });
    let mut seen = pool(1, 99);
    (seen[2].blade, seen[3].blade) = ("b2".into(), "b2".into());
    assert_eq!(scaler.look(at(0), &marks, seen), Some(Wish::Apply(ccb(3))));
}

#[test]
fn agent_proxies_come_and_go_with_the_logins_a_second() {
    let marks = Marks { logins_s: 50, hold_s: 2, ..Marks::default() };
    let marks = marks_of(SlotKind::AgentProxy, &marks);
    let seen = |logins: u32, runs: bool| {
        let one = |slot, state, load, status| Seen {
            slot: SlotId::AgentProxy(slot),
            blade: "b1".into(),
            status,
            load,
            capacity: if status == CcbStatus::Normal { marks.logins_s } else { 0 },
            state,
        };
        let share = if runs { logins / 2 } else { logins };
        let (state, status) =
            if runs { (Running, CcbStatus::Normal) } else { (Free, CcbStatus::Down) };
        let load = if runs { share } else { 0 };
        vec![one(0, None, share, CcbStatus::Normal), one(7, Some(state), load, status)]
    };
    let wish = |logins, runs| {
        let mut scaler = Scaler::default();
        (0..20).find_map(|s| scaler.look(at(s * 1_000), &marks, seen(logins, runs)))
    };
    assert_eq!(wish(39, false), None);
    assert_eq!(wish(41, false), Some(Wish::Apply(SlotId::AgentProxy(7))));
    assert_eq!(wish(41, true), None);
    assert_eq!(wish(20, true), Some(Wish::Release(SlotId::AgentProxy(7))));
    assert_eq!(wish(0, false), None, "a blade's own control is not the pool's");
}
