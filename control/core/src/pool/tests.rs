use super::*;
use SlotState::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

const ONE: CcbId = CcbId(1);

fn one(state: SlotState) -> Slots {
    Slots::new(at(0), [(ONE, state)])
}

#[test]
fn every_slot_takes_every_order() {
    let minute = Duration::from_secs(60);
    let apply = |state| {
        let mut slots = one(state);
        slots.apply(at(1), Some(ONE)).map(|(_, order)| (slots.state(ONE), order))
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
    assert_eq!(one(Free).apply(at(0), Some(CcbId(2))), Err(PoolRefusal::NoSuchSlot));
    assert_eq!(one(Running).apply(at(0), None), Err(PoolRefusal::NoFreeSlot));
    assert_eq!(one(Draining).apply(at(0), None), Ok((ONE, None)));
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
                ccb: CcbId(n as u16 + 1),
                status: if runs { CcbStatus::Normal } else { CcbStatus::Down },
                load: share,
                capacity: if runs { 100 } else { 0 },
                slot: Some(if runs { Running } else { Free }),
            }
        })
        .collect()
}

/// The first wish within a minute of that load, and after how many seconds.
fn wish(running: usize, load: u32) -> Option<(u64, Wish)> {
    let (mut scaler, marks) = (Scaler::default(), Marks::default());
    let seen = pool(running, load);
    (0..60).find_map(|s| Some((s, scaler.look(at(s * 1_000), &marks, &seen)?)))
}

#[test]
fn load_grows_and_shrinks_the_pool_with_hysteresis() {
    assert_eq!(wish(1, 81), Some((10, Wish::Apply(CcbId(2)))));
    assert_eq!(wish(2, 170), Some((10, Wish::Apply(CcbId(3)))));
    assert_eq!(wish(2, 150), None);
    assert_eq!(wish(4, 340), None, "there is no more");
    assert_eq!(wish(2, 50), Some((10, Wish::Release(CcbId(2)))));
    assert_eq!(wish(1, 1), None, "one always runs");
    assert_eq!(wish(0, 0), Some((10, Wish::Apply(CcbId(1)))), "none runs");
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
        assert_eq!(scaler.look(at(s * 1_000), &marks, &pool(1, load)), None, "second {s}");
    }
}

#[test]
fn nothing_is_asked_while_a_wish_is_under_way() {
    for moving in [Starting, Draining, Stopping] {
        let (mut scaler, marks) = (Scaler::default(), Marks::default());
        let mut seen = pool(2, 190);
        seen[3].slot = Some(moving);
        for s in 0..60 {
            assert_eq!(scaler.look(at(s * 1_000), &marks, &seen), None, "{moving:?}");
        }
    }
}
