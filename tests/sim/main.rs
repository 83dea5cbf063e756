//! The whole of two CCBs and their control in one thread, in virtual time, from one seed.
//!
//! `SIM_SEED=N cargo test --release -p house-tests --test sim` runs that one seed, `SIM_SEEDS=N` that many.

mod bus;
mod ccb;
mod network;
mod rules;
mod world;

use world::{Outcome, Plant, glare, run, run_lossy};

const SEEDS: u64 = 256;
/// Seeds on the worst network in a run of the tests.
const LOSSY_SEEDS: u64 = 64;
/// Rounds of glare in a run of the tests.
const GLARES: u64 = 2_000;

/// The seeds of a run whose usual number is that.
fn seeds_of(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(usual),
    }
}

fn seeds() -> std::ops::Range<u64> {
    seeds_of(SEEDS)
}

/// Every call ends, no port or lease leaks, counters balance, whatever dies and whatever is lost. Answered
/// calls go on over a death, with media both ways; no CSeq number of a dialog is used twice.
#[test]
fn every_seed_comes_to_rest() {
    let mut sum = Outcome::default();
    let mut failed = Vec::new();
    for seed in seeds() {
        match run(seed, Plant::Nothing) {
            Ok(outcome) => {
                sum.calls += outcome.calls;
                sum.answered += outcome.answered;
                sum.rtp_sent += outcome.rtp_sent;
                sum.rtp_received += outcome.rtp_received;
                sum.deaths += outcome.deaths;
                sum.kept += outcome.kept;
                sum.kept_ended_well += outcome.kept_ended_well;
                sum.heard += outcome.heard;
                sum.hosted += outcome.hosted;
                sum.fenced += outcome.fenced;
                sum.stale += outcome.stale;
                sum.between += outcome.between;
                sum.transferred += outcome.transferred;
                sum.stayed += outcome.stayed;
                for (cause, times) in outcome.causes {
                    *sum.causes.entry(cause).or_default() += times;
                }
            }
            Err(what) => failed.push(format!("seed {seed}: {what}")),
        }
    }
    println!("{sum:?}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    assert!(sum.answered > 4 * seeds().count() as u64, "too little happened: {sum:?}");
    assert!(sum.kept > seeds().count() as u64 / 4, "too few calls met a death: {sum:?}");
    assert!(sum.heard * 5 > sum.kept, "media was not looked for: {sum:?}");
    assert!(sum.hosted > 4 * seeds().count() as u64, "CCBs hardly called each other: {sum:?}");
    assert!(sum.fenced * 10 > sum.hosted * 7, "calls between CCBs do not come in: {sum:?}");
    assert!(sum.between > sum.fenced / 4, "agents of two CCBs hardly talked: {sum:?}");
    assert!(sum.transferred > seeds().count() as u64, "hardly anybody was given away: {sum:?}");
    // Some phones are cut off, and the network loses up to a BYE's every repetition.
    assert!(sum.kept_ended_well * 10 > sum.kept * 8, "calls that went on do not end: {sum:?}");
    // What the network loses twice (up to 10 % each way), and what flies while a process is dead.
    assert!(sum.rtp_received * 10 > sum.rtp_sent * 7, "media does not flow: {sum:?}");
}

/// On a network that loses a tenth, doubles a twentieth and delays by up to 300 ms, every call ends on both sides, no
/// dialog and no transaction outlives its timers, and each call has one record, whoever gives whom to whom.
#[test]
fn a_lossy_network_leaves_nothing_behind() {
    let (mut sum, mut failed) = (Outcome::default(), Vec::new());
    for seed in seeds_of(LOSSY_SEEDS) {
        match run_lossy(seed) {
            Ok(outcome) => {
                sum.calls += outcome.calls;
                sum.answered += outcome.answered;
                sum.transferred += outcome.transferred;
                sum.stayed += outcome.stayed;
                for (cause, times) in outcome.causes {
                    *sum.causes.entry(cause).or_default() += times;
                }
            }
            Err(what) => failed.push(format!("seed {seed}: {what}")),
        }
    }
    println!("{sum:?}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    let count = seeds_of(LOSSY_SEEDS).count() as u64;
    assert!(sum.answered > 4 * count, "too little happened: {sum:?}");
    assert!(sum.transferred * 2 > count, "hardly anybody was given away: {sum:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in seeds().take(4) {
        let first = run(seed, Plant::Nothing).map(|outcome| outcome.trace);
        let second = run(seed, Plant::Nothing).map(|outcome| outcome.trace);
        assert_eq!(first, second, "seed {seed}");
    }
}

/// The checks would find what they look for.
#[test]
fn planted_bugs_are_caught() {
    for plant in [Plant::ForgetsToRecover, Plant::KeepsALease, Plant::RecoversAnOldCSeq] {
        let caught = seeds().find_map(|seed| run(seed, plant).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{plant:?} went unseen"));
        println!("{plant:?} is caught by seed {seed}: {what}");
    }
}

/// Two agents of two blades call each other in the same millisecond: exactly one call goes on each time, and no
/// phone rings for the other (G-03). `GLARES=10000` plays as many rounds.
#[test]
fn of_two_agents_who_call_each_other_one_gets_through() {
    let rounds = std::env::var("GLARES").ok().and_then(|rounds| rounds.parse().ok());
    let sum = glare(rounds.unwrap_or(GLARES)).unwrap_or_else(|what| panic!("{what}"));
    println!("{sum:?}");
    assert!(sum.won.iter().all(|won| *won > 0) && sum.yielded > 0, "no glare: {sum:?}");
}
