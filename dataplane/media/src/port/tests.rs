use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn planned(pool: &mut PortPool, now: Instant) -> Vec<(PairId, LocationId, u16)> {
    let mut binds = Vec::new();
    pool.plan(now, &mut |plan| match plan {
        Plan::Bind(pair, location, port) => binds.push((pair, location, port)),
        Plan::Close(pair) => panic!("{pair:?} is closed"),
    });
    binds
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn shares_cover_the_range_once() {
    for (ports, workers, locations, pairs_each) in [
        ((30_000, 60_000), 2, &["127.0.0.1", "127.0.0.2"][..], 15_000),
        ((30_001, 30_008), 1, &["127.0.0.1"], 3),
        ((30_000, 30_000), 1, &["127.0.0.1"], 0),
        ((30_000, 30_001), 3, &["127.0.0.1"], 1),
        ((65_534, 65_535), 1, &["::1"], 1),
        ((30_000, 30_019), 3, &["127.0.0.1", "127.0.0.1", "127.0.0.2"], 10),
        ((30_010, 30_000), 1, &["127.0.0.1"], 0),
    ] {
        let ips = ips(locations);
        let mut seen = HashSet::new();
        for worker in 0..workers {
            let pool = PortPool::new(WorkerId(worker), workers, &ips, ports);
            for pair in (0..pool.pairs()).map(PairId) {
                let port = pool.port(pair);
                assert!(port.is_multiple_of(2) && port >= ports.0 && port < ports.1);
                assert!(seen.insert((ips[usize::from(pool.location(pair).0)], port)));
            }
        }
        let addresses = ips.iter().collect::<HashSet<_>>().len();
        assert_eq!(seen.len(), pairs_each * addresses, "{ports:?} {workers} {locations:?}");
    }
}

#[test]
fn an_adopted_pair_is_bound_first_and_tried_again() {
    let (here, there) = (LocationId(0), LocationId(1));
    let addresses = ips(&["127.0.0.1", "127.0.0.2"]);
    let mut pool = PortPool::new(WorkerId(0), 2, &addresses, (30_000, 30_019));
    // Ports of the other worker, odd ones, other locations.
    for (location, port) in [(here, 30_010), (here, 30_001), (LocationId(2), 30_000), (here, 4)] {
        assert_eq!(pool.adopt(location, port), None, "{port}");
    }
    let first = pool.adopt(there, 30_006).expect("it is free");
    let second = pool.adopt(here, 30_002).expect("it is free");
    assert_eq!(pool.adopt(here, 30_002), None, "twice");
    assert_eq!((pool.in_use(), pool.port(first), pool.location(first)), (2, 30_006, there));
    assert!(!pool.is_bound(first) && pool.is_own("127.0.0.2:30007".parse().expect("an address")));
    let binds = planned(&mut pool, at(0));
    assert_eq!(binds[..2], [(first, there, 30_006), (second, here, 30_002)]);
    assert_eq!(binds.len(), 10, "no pair is asked for twice");
    assert_eq!(pool.bound(first, true, at(1)), Outcome::Rebound);
    assert!(pool.is_bound(first));
    let mut now = 1;
    for _ in 1..REBIND_TRIES {
        assert_eq!(pool.bound(second, false, at(now)), Outcome::Nothing);
        now += BIND_PAUSE_MS;
        assert_eq!(pool.deadline(), Some(at(now)));
        assert_eq!(planned(&mut pool, at(now - 1)), []);
        assert_eq!(planned(&mut pool, at(now)), [(second, here, 30_002)]);
    }
    assert_eq!(pool.bound(second, false, at(now)), Outcome::Lost);
    assert!(!pool.release(second, at(now)), "there is nothing to close");
    assert!(!pool.release(first, at(now)), "it stays open");
    assert_eq!(pool.in_use(), 0);
    assert_eq!(pool.deadline(), Some(at(now + REUSE_AFTER_MS)));
    let again: Vec<_> = planned(&mut pool, at(now + REUSE_AFTER_MS));
    assert_eq!(again, [(second, here, 30_002)]);
    assert_eq!(pool.ready(), 1);
    assert_eq!(pool.bound(first, true, at(now)), Outcome::Nothing, "it is as any other now");
}

#[test]
fn an_adopted_pair_may_be_let_go_at_any_time() {
    let mut pool = PortPool::new(WorkerId(0), 1, &ips(&["127.0.0.1"]), (30_000, 30_003));
    let pair = pool.adopt(LocationId(0), 30_002).expect("it is free");
    assert!(!pool.release(pair, at(0)), "no bind was asked for");
    assert_eq!(planned(&mut pool, at(0)), [(PairId(0), LocationId(0), 30_000)]);
    let mut pool = PortPool::new(WorkerId(0), 1, &ips(&["127.0.0.1"]), (30_000, 30_003));
    let pair = pool.adopt(LocationId(0), 30_002).expect("it is free");
    planned(&mut pool, at(0));
    assert!(pool.release(pair, at(1)), "it may be bound by now");
    assert_eq!(pool.bound(pair, true, at(2)), Outcome::Nothing);
}

#[test]
fn a_pair_rests_before_it_is_used_again() {
    let mut pool = PortPool::new(WorkerId(0), 1, &ips(&["127.0.0.1"]), (30_000, 30_001));
    let here = LocationId(0);
    assert_eq!(pool.take(here), None);
    assert_eq!(pool.deadline(), Some(Instant::ZERO));
    let binds = planned(&mut pool, at(5));
    assert_eq!(binds, [(PairId(0), here, 30_000)]);
    assert_eq!(pool.take(here), None, "it is not bound yet");
    pool.bound(PairId(0), true, at(6));
    pool.bound(PairId(0), false, at(6));
    pool.bound(PairId(7), true, at(6));
    assert_eq!((pool.ready(), pool.in_use()), (1, 0));
    assert!(!pool.release(PairId(0), at(7)), "nobody took it");
    assert_eq!(pool.take(here), Some(PairId(0)));
    assert_eq!(pool.take(here), None);
    assert_eq!((pool.ready(), pool.in_use()), (0, 1));
    assert!(!pool.release(PairId(0), at(100)), "it stays open");
    assert!(!pool.release(PairId(0), at(100)), "it was given back");
    assert_eq!((pool.ready(), pool.in_use()), (0, 0));
    assert_eq!(pool.deadline(), Some(at(100 + REUSE_AFTER_MS)));
    assert_eq!(planned(&mut pool, at(99 + REUSE_AFTER_MS)), []);
    assert_eq!(pool.take(here), None, "it rests");
    assert_eq!(planned(&mut pool, at(100 + REUSE_AFTER_MS)), [], "it is bound still");
    assert_eq!(pool.take(here), Some(PairId(0)));
}

/// Binds as many pairs of both locations as calls take, then gives them all back.
fn after_a_rush(pool: &mut PortPool, pairs: usize) {
    let mut taken = Vec::new();
    while taken.len() < 2 * pairs {
        for (pair, ..) in planned(pool, at(0)) {
            pool.bound(pair, true, at(0));
        }
        let both = [LocationId(0), LocationId(1)].map(|location| pool.take(location));
        taken.extend(both.into_iter().flatten());
    }
    taken.into_iter().for_each(|pair| assert!(!pool.release(pair, at(0))));
}

#[test]
fn what_calls_do_not_need_any_more_is_closed() {
    let addresses = ips(&["127.0.0.1", "127.0.0.2"]);
    let mut pool = PortPool::new(WorkerId(0), 1, &addresses, (30_000, 60_000));
    after_a_rush(&mut pool, 200);
    let rested = at(REUSE_AFTER_MS);
    assert_eq!(planned(&mut pool, rested), []);
    let ready = pool.ready() as usize;
    assert!(ready >= 400, "{ready}");
    // Those that no call took were ready from the start.
    assert_eq!(pool.deadline(), Some(at(SURPLUS_AFTER_MS)));
    let mut closed = HashSet::new();
    for turn in 0..ready as u64 {
        let now = at(SURPLUS_AFTER_MS + REUSE_AFTER_MS + turn);
        let before = closed.len();
        pool.plan(now, &mut |plan| match plan {
            Plan::Close(pair) => assert!(closed.insert(pair)),
            Plan::Bind(pair, ..) => panic!("{pair:?} is bound"),
        });
        assert!(closed.len() - before <= BINDS_PER_PLAN);
    }
    assert_eq!(pool.ready() as usize, 2 * READY_LOW_WATER);
    assert_eq!(closed.len(), ready - 2 * READY_LOW_WATER);
    assert_eq!(pool.deadline(), None);
}

#[test]
fn scarce_sockets_are_closed_at_once() {
    let addresses = ips(&["127.0.0.1", "127.0.0.2"]);
    let mut pool = PortPool::new(WorkerId(0), 1, &addresses, (30_000, 60_000));
    after_a_rush(&mut pool, 200);
    let rested = at(REUSE_AFTER_MS);
    planned(&mut pool, rested);
    while pool.take(LocationId(1)).is_some() {}
    for (pair, ..) in planned(&mut pool, rested) {
        pool.bound(pair, false, rested);
    }
    // That was a row of failures long enough to wait after it; the next failure shows a shortage.
    let later = rested + Duration::from_millis(BIND_PAUSE_MS);
    let mut closed = 0;
    for _ in 0..2 {
        let mut binds = Vec::new();
        pool.plan(later, &mut |plan| match plan {
            Plan::Close(pair) => {
                assert_eq!(pool_location(pair), LocationId(0));
                closed += 1;
            }
            Plan::Bind(pair, ..) => binds.push(pair),
        });
        for pair in binds.into_iter().take(1) {
            pool.bound(pair, false, later);
        }
    }
    assert_eq!(closed, BINDS_PER_PLAN);
}

/// Each location has 15,000 pairs.
fn pool_location(pair: PairId) -> LocationId {
    LocationId((pair.0 / 15_000) as u8)
}

#[test]
fn failing_binds_pause() {
    let mut pool = PortPool::new(WorkerId(0), 1, &ips(&["127.0.0.1"]), (30_000, 60_000));
    let first = planned(&mut pool, at(0));
    assert_eq!(first.len(), BINDS_PER_PLAN);
    for (pair, ..) in first {
        pool.bound(pair, false, at(0));
    }
    assert_eq!(planned(&mut pool, at(BIND_PAUSE_MS - 1)), []);
    assert_eq!(pool.deadline(), Some(at(BIND_PAUSE_MS)));
    assert_eq!(planned(&mut pool, at(BIND_PAUSE_MS)).len(), BINDS_PER_PLAN);
}

#[test]
fn own_addresses_by_their_table() {
    let ips = ips(&["127.0.0.1", "127.0.0.1", "127.0.0.2", "::1"]);
    let mut pool = PortPool::new(WorkerId(0), 2, &ips, (30_000, 30_039));
    // The worker has 30000 to 30019 at each address; the first two locations take turns.
    let own = |pool: &PortPool, text: &str| pool.is_own(text.parse().expect("an address"));
    for port in 30_000..30_040 {
        assert!(!own(&pool, &format!("127.0.0.1:{port}")), "{port} is free");
    }
    let mut binds = Vec::new();
    for _ in 0..4 {
        binds.extend(planned(&mut pool, at(0)));
    }
    assert_eq!(binds.len() as u32, pool.pairs());
    for (text, expected) in [
        ("127.0.0.1:29999", false),
        ("127.0.0.1:30000", true),
        ("127.0.0.1:30001", true),
        ("127.0.0.1:30002", true),
        ("127.0.0.1:30019", true),
        ("127.0.0.1:30020", false),
        ("127.0.0.1:0", false),
        ("127.0.0.1:65535", false),
        ("127.0.0.2:30007", true),
        ("127.0.0.3:30000", false),
        ("[::1]:30000", true),
        ("[::1]:30020", false),
        ("[::2]:30000", false),
        ("[::ffff:127.0.0.1]:30002", true),
        ("[::ffff:127.0.0.3]:30002", false),
    ] {
        assert_eq!(own(&pool, text), expected, "{text}");
    }
    // Each state in turn, on a pair of each location.
    for (pair, location, port) in binds {
        let both = [port, port + 1].map(|port| SocketAddr::new(ips[usize::from(location.0)], port));
        let is = |pool: &PortPool| both.map(|address| pool.is_own(address));
        assert_eq!(is(&pool), [true; 2], "binding {pair:?}");
        if port % 8 == 6 {
            pool.bound(pair, false, at(1));
            assert_eq!(is(&pool), [false; 2], "not bound {pair:?}");
            continue;
        }
        pool.bound(pair, true, at(1));
        assert_eq!(is(&pool), [true; 2], "ready {pair:?}");
        assert_eq!(pool.take(location), Some(pair));
        assert_eq!(is(&pool), [true; 2], "in use {pair:?}");
        assert!(!pool.release(pair, at(2)));
        assert_eq!(is(&pool), [true; 2], "resting {pair:?}");
    }
}

proptest! {
    /// No pair is in two hands, none is lost, each rests, and the longest rested comes first.
    #[test]
    fn pairs_go_round(steps in prop::collection::vec((0u8..5, 0usize..64, 0u64..400), 1..300)) {
        let ips = ips(&["127.0.0.1", "127.0.0.2"]);
        let mut pool = PortPool::new(WorkerId(0), 1, &ips, (30_000, 30_023));
        let (mut binding, mut taken) = (Vec::<PairId>::new(), Vec::<PairId>::new());
        let mut given_back: HashMap<PairId, Instant> = HashMap::new();
        let mut now = at(1);
        for (step, choice, wait_ms) in steps {
            match step {
                0 | 1 => now = now + Duration::from_millis(wait_ms),
                2 => for (pair, ..) in planned(&mut pool, now) {
                    prop_assert!(!binding.contains(&pair) && !taken.contains(&pair));
                    if let Some(when) = given_back.get(&pair) {
                        prop_assert!(now.since(*when) >= Duration::from_millis(REUSE_AFTER_MS));
                    }
                    binding.push(pair);
                },
                3 if !binding.is_empty() => {
                    let pair = binding.swap_remove(choice % binding.len());
                    let ok = choice % 4 != 0;
                    pool.bound(pair, ok, now);
                    if !ok { given_back.insert(pair, now); }
                }
                4 => if choice % 2 == 0 {
                    if let Some(pair) = pool.take(LocationId((choice / 2 % 2) as u8)) {
                        prop_assert!(!taken.contains(&pair) && !binding.contains(&pair));
                        if let Some(when) = given_back.get(&pair) {
                            prop_assert!(now.since(*when) >= Duration::from_millis(REUSE_AFTER_MS));
                        }
                        taken.push(pair);
                    }
                } else if !taken.is_empty() {
                    let pair = taken.swap_remove(choice % taken.len());
                    prop_assert!(!pool.release(pair, now));
                    given_back.insert(pair, now);
                },
                _ => {}
            }
            prop_assert_eq!(pool.in_use() as usize, taken.len());
        }
        // Everything comes home: all 24 pairs can be ready at the end.
        for pair in taken { pool.release(pair, now); }
        for pair in binding { pool.bound(pair, true, now); }
        for _ in 0..10 {
            now = now + Duration::from_millis(REUSE_AFTER_MS);
            for (pair, ..) in planned(&mut pool, now) { pool.bound(pair, true, now); }
        }
        prop_assert_eq!(pool.ready(), 24);
    }
}

#[test]
fn a_burst_is_short_of_pairs_only_where_more_are_being_bound() {
    let addresses = ips(&["127.0.0.1", "127.0.0.2"]);
    let mut pool = PortPool::new(WorkerId(0), 1, &addresses, (30_000, 30_039));
    let (here, there) = (LocationId(0), LocationId(1));
    assert!(!pool.is_short(), "no bind was asked for");
    // 40 pairs in all, 16 a plan, the first location's before the others'.
    let mut asked = VecDeque::from(planned(&mut pool, at(0)));
    assert!(pool.is_short());
    let mut in_haste = 0;
    while pool.is_short() {
        let (pair, ..) = asked.pop_front().expect("what is short was asked for");
        pool.bound(pair, true, at(0));
        asked.extend(planned(&mut pool, at(0)));
        in_haste += 1;
    }
    // Each location has its eight; the first one has as many as were asked for before the second's first.
    assert_eq!((in_haste, pool.ready() as usize), (20 + READY_AT_LEAST, 20 + READY_AT_LEAST));
    for _ in READY_AT_LEAST..20 {
        pool.take(here).expect("it is bound");
    }
    assert!(!pool.is_short());
    pool.take(here).expect("it is bound");
    assert!(!pool.is_short(), "none is left to be bound there");
    pool.take(there).expect("it is bound");
    assert!(pool.is_short());
    // Binds that fail end it: the location rests.
    while let Some((pair, ..)) = asked.pop_front() {
        pool.bound(pair, false, at(1));
        asked.extend(planned(&mut pool, at(1)));
    }
    assert!(!pool.is_short());
}
