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
    let bound = LeaseState::Bound { holder: US, purpose, counter, legs: 1, open: false };
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, now), Err(bound));
    assert!(!leases.bind(slot, medium, US, counter), "it is bound once");
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, at(9_000_000)), Err(bound));
    assert!(!leases.expire(slot, medium, at(9_000_000)), "a bound lease lives with its dialog");
    assert_eq!(leases.held(), 1);
    assert_eq!(leases.read(slot, Medium::Voice), LeaseState::Free { counter: 0 });
    assert!(!leases.release(slot, medium, THEM, counter));
    assert!(leases.release(slot, medium, US, counter));
    assert!(!leases.release(slot, medium, US, counter), "a late release hits nothing");
    assert_eq!(leases.reserve(slot, medium, THEM, Purpose::Call, now), Ok(counter + 1));
    assert!(!leases.release(slot, medium, THEM, counter));
    assert_eq!(
        leases.reserve(AgentSlot(16), medium, US, Purpose::Call, now),
        Err(LeaseState::NoSuchSlot)
    );
    assert_eq!(leases.read(AgentSlot(u32::MAX), medium), LeaseState::NoSuchSlot);
}

#[test]
fn legs_of_one_agent_share_a_lease() {
    let word = AtomicU64::new(5);
    assert_eq!(word::share(&word, US), Err(LeaseState::Free { counter: 5 }));
    let counter = word::reserve(&word, US, Purpose::Call, at(0)).expect("it is free");
    assert!(word::share(&word, US).is_err(), "a promise is nobody's to share");
    assert!(!word::open(&word, US, counter));
    assert!(word::bind(&word, US, counter));
    assert!(word::share(&word, US).is_err(), "it rings still");
    for leg in 1..MAX_SHARES {
        assert!(!word::open(&word, THEM, counter) && !word::open(&word, US, counter + 1));
        assert!(word::open(&word, US, counter));
        assert!(word::share(&word, THEM).is_err(), "it is another's");
        assert_eq!(word::share(&word, US), Ok(counter));
        assert!(word::share(&word, US).is_err(), "the next one rings");
        let state = word::read(&word);
        let purpose = Purpose::Call;
        let shared = LeaseState::Bound { holder: US, purpose, counter, legs: leg + 1, open: false };
        assert_eq!(state, shared);
    }
    assert!(word::open(&word, US, counter));
    assert!(word::share(&word, US).is_err(), "there is an end to it");
    for _ in 0..MAX_SHARES {
        assert!(matches!(word::read(&word), LeaseState::Bound { .. }));
        assert!(!word::release(&word, THEM, counter) && !word::release(&word, US, counter + 1));
        assert!(word::release(&word, US, counter));
    }
    assert_eq!(word::read(&word), LeaseState::Free { counter: 6 });
    assert!(!word::release(&word, US, counter), "it is over");
}

#[test]
fn after_a_death_as_many_legs_share_a_lease_as_live() {
    for live in 0..=2 {
        let word = AtomicU64::new(0);
        let counter = word::reserve(&word, US, Purpose::Call, at(0)).expect("it is free");
        assert!(word::bind(&word, US, counter) && word::open(&word, US, counter));
        assert!(word::share(&word, US).is_ok());
        assert!(!word::settle(&word, THEM, counter, live));
        assert!(word::settle(&word, US, counter, live));
        for _ in 0..live {
            assert!(word::release(&word, US, counter));
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
    assert!(word::release(&word, THEM, counter));
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
        prop_assert!(!word::release(&word, US, 41));
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
        let _ = word::release(&word, US, counter);
        let _ = word::expire(&word, now);
        if let Some(holder) = word::read(&word).holder() {
            prop_assert!(word::free_of(&word, holder));
        }
    }
}
