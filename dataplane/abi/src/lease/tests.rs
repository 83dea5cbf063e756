use base::{AgentSlot, Medium};
use proptest::prelude::*;

use super::*;
use crate::region::Region;

const US: CcbId = CcbId(1);
const THEM: CcbId = CcbId(0xffff);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

#[test]
fn a_lease_goes_its_way_and_each_has_another_counter() {
    let region = Region::in_memory(crate::event::tests::layout());
    let leases = region.leases();
    let (slot, medium) = (AgentSlot(3), Medium::Chat);
    let now = at(1_000_000);
    assert_eq!(leases.read(slot, medium), LeaseState::Free { counter: 0 });
    let counter = leases.reserve(slot, medium, US, Purpose::Queue, now).expect("it is free");
    let since = LeaseTime::of(now);
    let reserved = LeaseState::Reserved { holder: US, purpose: Purpose::Queue, counter, since };
    assert_eq!(leases.read(slot, medium), reserved);
    assert_eq!(leases.reserve(slot, medium, US, Purpose::Call, now), Err(reserved));
    assert!(!leases.bind(slot, medium, THEM, counter));
    assert!(!leases.bind(slot, medium, US, counter + 1));
    assert!(leases.bind(slot, medium, US, counter));
    let purpose = Purpose::Queue;
    let bound = LeaseState::Bound { holder: US, purpose, counter, legs: 1, own: 0, open: false };
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, now), Err(bound));
    assert!(!leases.bind(slot, medium, US, counter), "it is bound once");
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, at(9_000_000)), Err(bound));
    assert!(!leases.expire(slot, medium, at(9_000_000)), "a bound lease lives with its dialog");
    assert_eq!(leases.held(), 1);
    assert_eq!(leases.read(slot, Medium::Voice), LeaseState::Free { counter: 0 });
    let kind = Share::Waiting;
    assert!(!leases.release(slot, medium, THEM, counter, kind));
    assert!(leases.release(slot, medium, US, counter, kind));
    assert!(!leases.release(slot, medium, US, counter, kind), "a late release hits nothing");
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, now), Ok(counter + 1));
    assert!(!leases.release(slot, medium, THEM, counter, kind));
    assert_eq!(
        leases.reserve(AgentSlot(16), medium, US, Purpose::Call, now),
        Err(LeaseState::NoSuchSlot)
    );
    assert_eq!(leases.read(AgentSlot(u32::MAX), medium), LeaseState::NoSuchSlot);
}

#[test]
fn own_calls_share_a_lease_one_after_the_other() {
    let word = AtomicU64::new(5);
    let own = |holder| word::share(&word, holder, Share::Own, OWN_AT_ONCE);
    assert_eq!(own(US), Err(LeaseState::Free { counter: 5 }));
    let counter = word::reserve(&word, US, Purpose::Call, at(0)).expect("it is free");
    assert!(own(US).is_err(), "a promise is nobody's to share");
    assert!(!word::open(&word, US, counter));
    assert!(word::bind(&word, US, counter));
    assert!(own(US).is_err(), "it rings still");
    for number in 1..=OWN_AT_ONCE {
        assert!(!word::open(&word, THEM, counter) && !word::open(&word, US, counter + 1));
        assert!(word::open(&word, US, counter));
        assert!(own(THEM).is_err(), "it is another's");
        assert_eq!(own(US), Ok(counter));
        assert!(own(US).is_err(), "the next one rings");
        let (legs, purpose) = (number + 1, Purpose::Call);
        let holder = US;
        let shared = LeaseState::Bound { holder, purpose, counter, legs, own: number, open: false };
        assert_eq!(word::read(&word), shared);
        assert!(shared.is_calling());
    }
    assert!(word::open(&word, US, counter));
    assert!(own(US).is_err(), "there is an end to it");
    // The one that came first is the last to go.
    for number in (0..=OWN_AT_ONCE).rev() {
        let LeaseState::Bound { legs, own, .. } = word::read(&word) else { panic!("it is bound") };
        assert_eq!((legs, own), (number + 1, number));
        let kind = if number == 0 { Share::Waiting } else { Share::Own };
        assert!(!word::release(&word, THEM, counter, kind));
        assert!(!word::release(&word, US, counter + 1, kind));
        assert!(word::release(&word, US, counter, kind));
    }
    assert_eq!(word::read(&word), LeaseState::Free { counter: 6 });
    assert!(!word::release(&word, US, counter, Share::Own), "it is over");
}

#[test]
fn a_waiting_call_shares_a_lease_up_to_the_limit() {
    let wait = |word: &AtomicU64, limit| word::share(word, US, Share::Waiting, limit).is_ok();
    // By what the first call was won for, whether it was answered, and the limit: how many wait.
    for (purpose, answered, limit, most) in [
        (Purpose::Call, true, 1, 0),
        (Purpose::Call, true, 2, 1),
        (Purpose::Queue, true, 3, 2),
        // Two may ring at the same time.
        (Purpose::Call, false, 2, 1),
        // An own call counts, and nobody waits before it is answered.
        (Purpose::Outgoing, true, 1, 0),
        (Purpose::Outgoing, true, 2, 1),
        (Purpose::Outgoing, false, 2, 0),
        (Purpose::Call, true, u16::MAX, MAX_AT_ONCE - 1),
    ] {
        let word = AtomicU64::new(0);
        let counter = word::reserve(&word, US, purpose, at(0)).expect("it is free");
        assert!(!wait(&word, limit), "a promise is nobody's to share");
        assert!(word::bind(&word, US, counter));
        assert!(!answered || word::open(&word, US, counter));
        let waiting = (0..20).filter(|_| wait(&word, limit)).count() as u16;
        assert_eq!(waiting, most, "{purpose:?} {answered} {limit}");
        let own = u16::from(purpose == Purpose::Outgoing);
        let state = word::read(&word);
        let is_it = matches!(state, LeaseState::Bound { legs, own: is, open, .. }
            if (legs, is, open) == (1 + most, own, answered));
        assert!(is_it, "{state:?}");
        assert!(word::reserve(&word, THEM, Purpose::Queue, at(9_000)).is_err(), "nobody else's");
        for _ in 0..most {
            assert!(word::release(&word, US, counter, Share::Waiting));
        }
        assert!(word::release(&word, US, counter, Share::of(purpose)));
        assert_eq!(word::read(&word).holder(), None);
    }
}

#[test]
fn who_is_rung_by_a_waiting_call_may_call_somebody_and_is_rung_by_no_other_then() {
    let word = AtomicU64::new(0);
    let counter = word::reserve(&word, US, Purpose::Call, at(0)).expect("it is free");
    assert!(word::bind(&word, US, counter) && word::open(&word, US, counter));
    assert!(word::share(&word, US, Share::Waiting, 8).is_ok());
    assert!(word::share(&word, US, Share::Own, 1).is_ok());
    let calling = word::read(&word);
    assert!(calling.is_calling());
    assert_eq!(word::share(&word, US, Share::Waiting, 8), Err(calling));
    assert!(word::open(&word, US, counter));
    assert!(word::share(&word, US, Share::Waiting, 8).is_ok());
    let state = word::share(&word, US, Share::Own, 1).expect_err("one is the limit");
    assert!(matches!(state, LeaseState::Bound { legs: 4, own: 1, .. }), "{state:?}");
}

#[test]
fn after_a_death_as_many_legs_share_a_lease_as_live() {
    for shares in [(0, 0), (1, 0), (1, 1), (2, 1), (2, 0)] {
        let word = AtomicU64::new(0);
        let counter = word::reserve(&word, US, Purpose::Call, at(0)).expect("it is free");
        assert!(word::bind(&word, US, counter) && word::open(&word, US, counter));
        assert!(word::share(&word, US, Share::Waiting, 2).is_ok());
        assert!(word::share(&word, US, Share::Own, 1).is_ok());
        assert!(!word::settle(&word, THEM, counter, shares));
        assert!(word::settle(&word, US, counter, shares));
        for leg in 0..shares.0 {
            let LeaseState::Bound { own, .. } = word::read(&word) else { panic!("it is bound") };
            let kind = if own > 0 { Share::Own } else { Share::Waiting };
            assert_eq!(own, shares.1.saturating_sub(leg));
            assert!(word::release(&word, US, counter, kind));
        }
        assert_eq!(word::read(&word), LeaseState::Free { counter: 1 });
    }
}

#[test]
fn the_leases_of_one_holder_end_together() {
    let region = Region::in_memory(crate::event::tests::layout());
    let leases = region.leases();
    for slot in 0..6 {
        let holder = if slot % 2 == 0 { US } else { THEM };
        let slot = AgentSlot(slot);
        let counter = leases.reserve(slot, Medium::Voice, holder, Purpose::Call, at(0));
        if slot.0 < 4 {
            assert!(leases.bind(slot, Medium::Voice, holder, counter.expect("it is free")));
        }
    }
    assert_eq!(leases.free_all_of(US), 3);
    assert_eq!(leases.held(), 3);
    assert_eq!(leases.read(AgentSlot(0), Medium::Voice), LeaseState::Free { counter: 1 });
    assert_eq!(leases.free_all_of(US), 0);
}

#[test]
fn counters_go_round() {
    let word = AtomicU64::new(u64::from(LEASE_COUNTER_MASK));
    let counter = word::reserve(&word, THEM, Purpose::Outgoing, at(0)).expect("it is free");
    assert_eq!(counter, LEASE_COUNTER_MASK);
    assert!(word::bind(&word, THEM, counter));
    assert!(word::release(&word, THEM, counter, Share::Own));
    assert_eq!(word::read(&word), LeaseState::Free { counter: 0 });
}

proptest! {
    #[test]
    fn a_reservation_lives_two_seconds_and_not_much_longer(
        start in 0u64..100_000_000,
        past in 0u64..1_000_000,
        ahead in 0u64..700,
    ) {
        let reserve = |now| {
            let word = AtomicU64::new(41);
            word::reserve(&word, US, Purpose::Call, at(now)).expect("it is free");
            word
        };
        let start = start + 1_000;
        // A worker's reading of the clock may be older than that of the one who reserved.
        prop_assert!(!word::expire(&reserve(start), at(start - ahead)));
        prop_assert!(!word::expire(&reserve(start), at(start + past % RESERVED_MS)));
        let late = start + RESERVED_MS + 256 + past;
        let word = reserve(start);
        prop_assert_eq!(word::reserve(&word, THEM, Purpose::Call, at(late)), Ok(42));
        prop_assert!(!word::bind(&word, US, 41), "a bind that comes too late hits nothing");
        prop_assert!(!word::release(&word, US, 41, Share::Waiting));
        prop_assert!(word::expire(&reserve(start), at(late)));
    }

    #[test]
    fn any_word_can_be_read_and_tried(
        bits in any::<u64>(),
        now in any::<u64>(),
        counter in any::<u32>(),
    ) {
        let word = AtomicU64::new(bits);
        let now = Instant::from_nanos(now);
        if let LeaseState::Reserved { since, .. } = word::read(&word) {
            let _ = since.age(now);
        }
        let _ = word::bind(&word, US, counter);
        let _ = word::reserve(&word, US, Purpose::Call, now);
        for (kind, limit) in [(Share::Waiting, counter as u16), (Share::Own, 1)] {
            let holder = word::read(&word).holder().unwrap_or(US);
            let _ = word::share(&word, holder, kind, limit);
        }
        let _ = word::release(&word, US, counter, Share::Own);
        let _ = word::expire(&word, now);
        if let Some(holder) = word::read(&word).holder() {
            prop_assert!(word::free_of(&word, holder));
        }
    }
}
