//! When a worker lets packets pile up, so that waking it costs less for each.
//!
//! Waking a sleeping core costs more than relaying a packet. A worker that few packets come to is woken by
//! each, and adds no delay. Where many come it sleeps until [`BATCH`] of them are there, which then takes
//! less than [`LONGEST_US`].

use std::time::Duration;

use base::Instant;

use crate::datagrams::Wait;

/// Packets that are worth a wake.
const BATCH: u32 = 8;
/// The longest that a packet waits for others.
const LONGEST_US: u64 = 200;
/// How often the rate is looked at.
const WINDOW_US: u64 = 2_000;
/// A rate at which half a batch comes in the longest wait: 20,000 packets a second.
const MANY_A_WINDOW: u32 = (WINDOW_US / LONGEST_US) as u32 * BATCH / 2;

/// How fast packets come to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    taken: u32,
    many: bool,
}

impl Pace {
    /// None have come.
    pub fn new(now: Instant) -> Self {
        Pace { since: now, taken: 0, many: false }
    }

    /// So many were taken in a cycle.
    pub fn take(&mut self, now: Instant, packets: usize) {
        self.taken += packets as u32;
        let passed = now.since(self.since);
        if passed >= Duration::from_micros(WINDOW_US) {
            // A window is longer than it was to be when nothing came.
            let windows = (passed.as_micros() as u64 / WINDOW_US) as u32;
            self.many = self.taken / windows >= MANY_A_WINDOW;
            *self = Pace { since: now, taken: 0, many: self.many };
        }
    }

    /// How to sleep for so long.
    pub fn sleep(&self, wait: Duration) -> Wait {
        let longest = Duration::from_micros(LONGEST_US);
        if self.many { Wait::Batch(BATCH, wait.min(longest)) } else { Wait::Any(wait) }
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
        let batch = Wait::Batch(BATCH, Duration::from_micros(LONGEST_US));
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
