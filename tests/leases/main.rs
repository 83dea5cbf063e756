//! Races for the lease words of agents over eight blades, in virtual time, from one seed each.
//!
//! `LEASE_RACES=10000000 cargo test --release -p house-tests --test leases` runs as many,
//! `LEASE_SEED=N` that one seed.

mod blade;
mod watch;
mod world;

use std::time::Instant;

use world::{Outcome, Plant, run};

/// What one run of the tests takes; a seed has some 20,000.
const RACES: u64 = 300_000;

fn wanted() -> u64 {
    std::env::var("LEASE_RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(RACES)
}

fn one_seed() -> Option<u64> {
    std::env::var("LEASE_SEED").ok().and_then(|seed| seed.parse().ok())
}

/// Never two holders of one login epoch, never an INVITE accepted on a stale fence, no grant of a home that
/// others hold for dead; every agent is freed within 3 s of the loss of its holder and never while its dialog
/// lives; when all is quiet every word is free.
#[test]
fn every_race_has_one_winner() {
    let mut sum = Outcome::default();
    let began = Instant::now();
    let mut seed = one_seed().unwrap_or(0);
    while sum.races < wanted() {
        let outcome = run(seed, Plant::Nothing);
        sum.add(&outcome.unwrap_or_else(|what| panic!("seed {seed}: {what}")));
        if one_seed().is_some() {
            break;
        }
        seed += 1;
    }
    println!("{seed} seeds in {:.1} s: {sum:?}", began.elapsed().as_secs_f64());
    if one_seed().is_none() {
        assert!(sum.accepted * 2 > sum.races, "too few were won: {sum:?}");
        assert!(sum.denied > sum.races / 4, "nobody lost: {sum:?}");
        assert!(sum.lost_holders > 20 && sum.ended > 10, "too few holders died: {sum:?}");
        assert!(sum.stale > 10, "no INVITE came too late: {sum:?}");
        assert!(sum.unconfirmed > 10, "nobody was paused: {sum:?}");
        assert!(sum.given_back > 10 && sum.expired > 10, "no grant was unused: {sum:?}");
        assert!(sum.kept > 10, "no dialog outlived its holder's control: {sum:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..2 {
        let first = run(seed, Plant::Nothing).map(|outcome| outcome.trace);
        assert_eq!(first, run(seed, Plant::Nothing).map(|outcome| outcome.trace), "seed {seed}");
    }
}

/// The checks would find what they look for.
#[test]
fn planted_bugs_are_caught() {
    for plant in [
        Plant::FenceNotChecked,
        Plant::GrantsWhenPaused,
        Plant::ForgetsItsCounter,
        Plant::FreesWithoutLooking,
        Plant::NeverFrees,
    ] {
        let caught = (0..20).find_map(|seed| run(seed, plant).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?} is caught by seed {seed}: {what}");
    }
}
