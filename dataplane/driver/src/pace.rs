//! When a worker lets packets pile up, so that waking it costs less for each.
//!
//! Waking a sleeping core costs more than relaying a packet. A worker that few packets come to is woken by
//! each, and adds no delay. Where [`LEAST`] or more come in [`LONGEST_US`], it sleeps until [`BATCH`] of them
//! are there, or for that time.

use std::time::Duration;

use base::Instant;

use crate::datagrams::Wait;

/// Packets that are taken at once: more make a wake no cheaper for each.
const BATCH: u32 = 64;
/// Packets that are worth waiting for.
const LEAST: u32 = 8;
/// The longest that a packet waits for others: a fortieth of what it carries of speech.
const LONGEST_US: u64 = 500;
/// How often the rate is looked at.
const WINDOW_US: u64 = 2_000;

/// How fast packets come to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    taken: u32,
    /// How long a batch takes to come; none where few come.
    batch: Option<Duration>,
}

impl Pace {
    /// None have come.
    pub fn new(now: Instant) -> Self {
        Pace { since: now, taken: 0, batch: None }
    }

    /// So many were taken in a cycle.
    pub fn take(&mut self, now: Instant, packets: usize) {
        self.taken += packets as u32;
        let passed = now.since(self.since);
        if passed >= Duration::from_micros(WINDOW_US) {
            // Such a stretch is longer than a window when nothing came.
            let a_batch = passed * BATCH / self.taken.max(1);
            let longest = Duration::from_micros(LONGEST_US);
            let many = passed * LEAST / self.taken.max(1) <= longest;
            *self = Pace { since: now, taken: 0, batch: many.then(|| a_batch.min(longest)) };
        }
    }

    /// How to sleep for so long.
    pub fn sleep(&self, wait: Duration) -> Wait {
        self.batch.map_or(Wait::Any(wait), |batch| Wait::Batch(BATCH, batch.min(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_pile_up_only_where_many_come() {
        let at = |us: u64| Instant::from_nanos(us * 1_000);
        let mut pace = Pace::new(at(0));
        let second = Duration::from_secs(1);
        let batch = Wait::Batch(BATCH, Duration::from_micros(500));
        // 10,000 a second.
        for packet in 0..100 {
            pace.take(at(packet * 100), 1);
            assert_eq!(pace.sleep(second), Wait::Any(second));
        }
        // 50,000 a second, from the second window on.
        for packet in 0..300 {
            pace.take(at(10_000 + packet * 20), 1);
            let expected = if packet < 110 { continue } else { batch };
            assert_eq!(pace.sleep(second), expected, "{packet}");
        }
        let soon = Duration::from_micros(5);
        assert_eq!(pace.sleep(soon), Wait::Batch(BATCH, soon));
        // Silence, of which one batch tells.
        pace.take(at(66_000), 30);
        assert_eq!(pace.sleep(second), Wait::Any(second));
    }
}
