//! How much of its time a worker works.

use std::time::Duration;

use base::Instant;

/// The time that a worker slept since it was last asked.
#[derive(Debug)]
pub struct Effort {
    since: Instant,
    slept: Duration,
    asleep: Option<Instant>,
}

impl Effort {
    /// A worker that begins now.
    pub fn new(now: Instant) -> Effort {
        Effort { since: now, slept: Duration::ZERO, asleep: None }
    }

    /// It goes to sleep.
    pub fn sleeps(&mut self, now: Instant) {
        self.asleep = Some(now);
    }

    /// It woke.
    pub fn woke(&mut self, now: Instant) {
        if let Some(since) = self.asleep.take() {
            self.slept += now.since(since);
        }
    }

    /// The part of the time since the last call that it did not sleep, in thousandths.
    pub fn take(&mut self, now: Instant) -> u32 {
        let (all, slept) = (now.since(self.since).as_nanos().max(1), self.slept.as_nanos());
        (self.since, self.slept) = (now, Duration::ZERO);
        (all.saturating_sub(slept) * 1_000 / all) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_not_work() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut effort = Effort::new(at(0));
        effort.sleeps(at(10));
        effort.woke(at(90));
        assert_eq!(effort.take(at(100)), 200);
        assert_eq!(effort.take(at(200)), 1_000);
        effort.sleeps(at(200));
        effort.woke(at(300));
        assert_eq!(effort.take(at(300)), 0);
    }
}
