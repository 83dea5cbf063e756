//! When a worker lets packets and messages pile up, so that waking it costs less for each.
//!
//! Waking a sleeping core costs more than relaying a packet. A worker that few packets come to is woken by
//! each, and adds no delay. Where [`LEAST`] or more come in [`LONGEST_US`], it sleeps until [`BATCH`] of them
//! are there, or for that time.
//!
//! Messages of SIP may wait longer than packets of media. Where many come and no media does, the worker wakes for them
//! once in [`GATHER_US`]; one that comes after a silence as long is taken at once all the same.

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

/// How long a message waits for others at most.
const GATHER_US: u64 = 1_000;
/// How often the rate of messages is looked at.
const GATHER_WINDOW_US: u64 = 20_000;
/// Messages in that time that are worth waiting for others: one in [`GATHER_US`], as some 125 calls a second bring.
const GATHER_LEAST: u32 = (GATHER_WINDOW_US / GATHER_US) as u32;
/// How long no media came where messages may wait.
const NO_MEDIA_US: u64 = 100_000;

/// What a worker took in a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// All completions.
    pub all: u32,
    /// Of these, messages of SIP.
    pub messages: u32,
    /// Of these, packets of RTP.
    pub media: u32,
}

/// How fast packets and messages come to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    packets: Packets,
    messages: Messages,
}

#[derive(Clone, Copy, Debug)]
struct Packets {
    since: Instant,
    taken: u32,
    /// How long a batch takes to come; none where few come.
    batch: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Messages {
    since: Instant,
    taken: u32,
    /// Many came in the last window.
    are_many: bool,
    media_at: Option<Instant>,
}

impl Pace {
    /// None have come.
    pub fn new(now: Instant) -> Self {
        Pace {
            packets: Packets { since: now, taken: 0, batch: None },
            messages: Messages { since: now, taken: 0, are_many: false, media_at: None },
        }
    }

    /// So many were taken in a cycle.
    pub fn take(&mut self, now: Instant, taken: Taken) {
        self.packets.take(now, taken.all);
        self.messages.take(now, taken);
    }

    /// How to sleep for so long.
    pub fn sleep(&self, now: Instant, wait: Duration) -> Wait {
        let gather = Duration::from_micros(GATHER_US);
        match self.packets.batch {
            Some(batch) => Wait::Batch(BATCH, batch.min(wait)),
            None if self.messages.may_wait(now) && gather < wait => Wait::Gather(gather, wait),
            None => Wait::Any(wait),
        }
    }
}

impl Packets {
    fn take(&mut self, now: Instant, packets: u32) {
        self.taken += packets;
        let passed = now.since(self.since);
        if passed >= Duration::from_micros(WINDOW_US) {
            // Such a stretch is longer than a window when nothing came.
            let a_batch = passed * BATCH / self.taken.max(1);
            let longest = Duration::from_micros(LONGEST_US);
            let many = passed * LEAST / self.taken.max(1) <= longest;
            *self = Packets { since: now, taken: 0, batch: many.then(|| a_batch.min(longest)) };
        }
    }
}

impl Messages {
    fn take(&mut self, now: Instant, taken: Taken) {
        self.taken += taken.messages;
        if taken.media > 0 {
            self.media_at = Some(now);
        }
        let passed = now.since(self.since);
        let window = Duration::from_micros(GATHER_WINDOW_US);
        if passed >= window {
            self.are_many = window * self.taken >= passed * GATHER_LEAST;
            (self.since, self.taken) = (now, 0);
        }
    }

    /// True where many messages come, and no packet of RTP that would wait with them.
    fn may_wait(&self, now: Instant) -> bool {
        let silence = Duration::from_micros(NO_MEDIA_US);
        self.are_many && self.media_at.is_none_or(|at| now.since(at) >= silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1_000)
    }

    fn packets(all: u32) -> Taken {
        Taken { all, messages: 0, media: all }
    }

    fn messages(messages: u32) -> Taken {
        Taken { all: messages, messages, media: 0 }
    }

    #[test]
    fn packets_pile_up_only_where_many_come() {
        let mut pace = Pace::new(at(0));
        let second = Duration::from_secs(1);
        let batch = Wait::Batch(BATCH, Duration::from_micros(500));
        // 10,000 a second.
        for packet in 0..100 {
            pace.take(at(packet * 100), packets(1));
            assert_eq!(pace.sleep(at(packet * 100), second), Wait::Any(second));
        }
        // 50,000 a second, from the second window on.
        for packet in 0..300 {
            let now = at(10_000 + packet * 20);
            pace.take(now, packets(1));
            let expected = if packet < 110 { continue } else { batch };
            assert_eq!(pace.sleep(now, second), expected, "{packet}");
        }
        let soon = Duration::from_micros(5);
        assert_eq!(pace.sleep(at(16_000), soon), Wait::Batch(BATCH, soon));
        // Silence, of which one batch tells.
        pace.take(at(66_000), packets(30));
        assert_eq!(pace.sleep(at(66_000), second), Wait::Any(second));
    }

    #[test]
    fn messages_wait_for_each_other_only_where_many_come_and_no_media() {
        let mut pace = Pace::new(at(0));
        let second = Duration::from_secs(1);
        let gather = Wait::Gather(Duration::from_micros(GATHER_US), second);
        let mut run = |from_ms: u64, to_ms: u64, every_us: u64, media: u32| {
            let mut last = Wait::No;
            let mut us = from_ms * 1_000;
            while us < to_ms * 1_000 {
                let taken = Taken { all: 1 + media, messages: 1, media };
                pace.take(at(us), taken);
                last = pace.sleep(at(us), second);
                us += every_us;
            }
            last
        };
        assert_eq!(run(0, 100, 1_300, 0), Wait::Any(second), "800 a second");
        assert_eq!(run(100, 200, 400, 0), gather, "2,500 a second");
        assert_eq!(run(200, 300, 400, 1), Wait::Any(second), "calls with media");
        assert_eq!(run(300, 399, 400, 0), Wait::Any(second), "their media was just here");
        assert_eq!(run(399, 450, 400, 0), gather);
        assert_eq!(run(450, 500, 1_300, 0), Wait::Any(second), "few come again");
    }

    #[test]
    fn a_timer_that_is_due_sooner_is_not_put_off() {
        let mut pace = Pace::new(at(0));
        pace.take(at(GATHER_WINDOW_US), messages(100));
        let (long, soon) = (Duration::from_millis(20), Duration::from_micros(GATHER_US));
        let now = at(GATHER_WINDOW_US);
        assert_eq!(pace.sleep(now, long), Wait::Gather(soon, long));
        assert_eq!(pace.sleep(now, soon), Wait::Any(soon));
        assert_eq!(pace.sleep(now, soon / 2), Wait::Any(soon / 2));
    }
}
