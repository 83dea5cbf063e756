//! What a bad network does to what it carries.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base::Rng;

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub struct Climate {
    pub lost_percent: u64,
    pub doubled_percent: u64,
    /// Each datagram takes a time of its own, so that they overtake each other.
    pub delay_ms: (u64, u64),
}

/// One way of a network, with what is on it.
pub struct Weather<T> {
    climate: Climate,
    rng: Rng,
    under_way: BTreeMap<(Instant, u64), T>,
    sequence: u64,
}

impl<T: Clone> Weather<T> {
    pub fn new(climate: Climate, seed: u64) -> Weather<T> {
        let rng = Rng::from_number(seed);
        Weather { climate, rng, under_way: BTreeMap::new(), sequence: 0 }
    }

    /// Sends something on its way, if it is not lost; says how many of it there are now.
    pub fn put(&mut self, now: Instant, what: T) -> u32 {
        if self.rng.chance(self.climate.lost_percent) {
            return 0;
        }
        let is_doubled = self.rng.chance(self.climate.doubled_percent);
        if is_doubled {
            self.delay(now, what.clone());
        }
        self.delay(now, what);
        if is_doubled { 2 } else { 1 }
    }

    fn delay(&mut self, now: Instant, what: T) {
        let (least, most) = self.climate.delay_ms;
        let delay = Duration::from_millis(least + self.rng.below(most - least + 1));
        self.sequence += 1;
        self.under_way.insert((now + delay, self.sequence), what);
    }

    /// When the next arrives.
    pub fn due(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((due, _), _)| *due)
    }

    /// What has arrived.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
