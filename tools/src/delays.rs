//! Delays counted in little room: buckets that grow with the delay, so that each is known to 1.6 %.

use std::time::Duration;

/// Buckets of each power of two.
const SPLIT: u32 = 64;
const SPLIT_BITS: u32 = SPLIT.trailing_zeros();

/// A histogram of delays in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    buckets: Vec<u32>,
    count: u64,
}

impl Delays {
    /// Counts one delay.
    pub fn add(&mut self, delay: Duration) {
        let micros = u32::try_from(delay.as_micros()).unwrap_or(u32::MAX);
        let bucket = bucket_of(micros);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Delays) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// The delay that `percent` of all do not exceed; none when there is none.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let wanted = ((self.count as f64 * percent / 100.0).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(Duration::from_micros(least_of(bucket)));
            }
        }
        None
    }
}

/// The first 64 buckets are a microsecond each; then 64 for each power of two.
fn bucket_of(micros: u32) -> usize {
    if micros < SPLIT {
        return micros as usize;
    }
    let power = 31 - micros.leading_zeros() - SPLIT_BITS;
    ((power + 1) * SPLIT + ((micros >> power) - SPLIT)) as usize
}

fn least_of(bucket: usize) -> u64 {
    let (power, place) = (bucket as u64 / u64::from(SPLIT), bucket as u64 % u64::from(SPLIT));
    if power == 0 { place } else { (u64::from(SPLIT) + place) << (power - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_in_it() {
        for micros in (0..100_000).chain([u32::MAX, u32::MAX / 3]) {
            let bucket = bucket_of(micros);
            assert!(least_of(bucket) <= u64::from(micros), "{micros}");
            assert!(least_of(bucket + 1) > u64::from(micros), "{micros}");
            assert!((least_of(bucket + 1) - least_of(bucket)) * 64 <= u64::from(micros).max(64));
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let (mut even, mut odd) = (Delays::default(), Delays::default());
        assert_eq!(even.percentile(50.0), None);
        for micros in 1..=1_000 {
            let delays = if micros % 2 == 0 { &mut even } else { &mut odd };
            delays.add(Duration::from_micros(micros));
        }
        even.merge(&odd);
        for (percent, exact) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1_000.0)] {
            let found = even.percentile(percent).unwrap().as_micros() as f64;
            assert!((found - exact).abs() <= exact * 0.016, "{percent}: {found}");
        }
    }
}
