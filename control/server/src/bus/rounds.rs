//! How long homes take to answer for their agents, as the owner of the core sees it: from its question to the
//! answer, with all that lies between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base::Instant;
use control_core::cluster::{Heard, Question, Say};
use serde_json::{Value, json};

/// Buckets of each power of two: a time is known to 6 %.
const SPLIT: usize = 16;
/// Powers of two above [`SPLIT`] microseconds: up to 16 s.
const POWERS: usize = 20;
const BUCKETS: usize = SPLIT * (POWERS + 1);

/// Times counted since the process began, in buckets that grow with the time.
#[derive(Debug)]
pub struct Rounds {
    buckets: Box<[AtomicU32]>,
}

impl Default for Rounds {
    fn default() -> Self {
        Rounds { buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl Rounds {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let micros = usize::try_from(took.as_micros()).unwrap_or(usize::MAX);
        self.buckets[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were, and the times in microseconds that 50 % and 99 % of them did not exceed.
    pub fn json(&self) -> Value {
        let counts: Vec<u64> =
            self.buckets.iter().map(|count| count.load(Ordering::Relaxed).into()).collect();
        let all: u64 = counts.iter().sum();
        let within = |percent: u64| {
            let wanted = (all * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            found.map(|bucket| least_of(bucket + 1))
        };
        json!({ "count": all, "p50_us": within(50), "p99_us": within(99) })
    }
}

/// The first [`SPLIT`] buckets are a microsecond each, then as many for each power of two.
fn bucket_of(micros: usize) -> usize {
    if micros < SPLIT {
        return micros;
    }
    let power = (micros.ilog2() - SPLIT.ilog2()) as usize;
    ((power + 1) * SPLIT + (micros >> power) - SPLIT).min(BUCKETS - 1)
}

fn least_of(bucket: usize) -> usize {
    match (bucket / SPLIT, bucket % SPLIT) {
        (0, place) => place,
        (power, place) => (SPLIT + place) << (power - 1),
    }
}

/// The questions for leases that are open, and since when.
#[derive(Debug, Default)]
pub struct OpenRounds(HashMap<u64, Instant>);

impl OpenRounds {
    /// The core says this.
    pub fn said(&mut self, now: Instant, say: &Say) {
        if let Say::Ask { ask, question, .. } = say
            && matches!(**question, Question::Lease(_))
        {
            self.0.insert(*ask, now);
        }
    }

    /// The core is about to hear this: how long it took when it is the answer to one of them. Every question is
    /// answered, if only by the bus, so none is kept for good; what nobody answered took no time that says much.
    pub fn heard(&mut self, now: Instant, heard: &Heard) -> Option<Duration> {
        let Heard::Answered { ask, answer } = heard else { return None };
        let since = self.0.remove(ask)?;
        answer.is_some().then(|| now.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_in_it() {
        for micros in (0..5_000).chain([1 << 20, (1 << 24) - 1]) {
            let bucket = bucket_of(micros);
            assert!(least_of(bucket) <= micros && micros < least_of(bucket + 1), "{micros}");
        }
        assert_eq!(bucket_of(usize::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let rounds = Rounds::default();
        assert_eq!(rounds.json()["p50_us"], Value::Null);
        (1..=100).for_each(|n| rounds.add(Duration::from_micros(n * 10)));
        let json = rounds.json();
        assert_eq!(json["count"], 100);
        for (name, exact) in [("p50_us", 500.0), ("p99_us", 990.0)] {
            let found = json[name].as_f64().expect("a number");
            assert!((found - exact).abs() <= exact * 0.07, "{name}: {found}");
        }
    }

    #[test]
    fn a_round_ends_with_its_answer_and_counts_when_somebody_gave_it() {
        let mut open = OpenRounds::default();
        let at = |us: u64| Instant::from_nanos(us * 1_000);
        for ask in [1, 2] {
            open.0.insert(ask, at(100));
        }
        let answered = |ask, answer| Heard::Answered { ask, answer };
        let answer = Some(Box::new(control_core::cluster::Answer::NotHere));
        let took = open.heard(at(350), &answered(1, answer));
        assert_eq!(took, Some(Duration::from_micros(250)));
        assert_eq!(open.heard(at(400), &answered(2, None)), None);
        assert!(open.0.is_empty());
        open.said(at(0), &Say::Disclaim { key: control_core::cluster::Key::Leader });
        assert!(open.0.is_empty());
    }
}
