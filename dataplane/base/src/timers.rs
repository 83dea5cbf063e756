use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::Instant;

/// Deadlines in order, each with a token; equal deadlines come out in the order they went in.
///
/// A timer is not cancelled: its owner ignores a token that it no longer waits for. Tokens carry the
/// generation of what they belong to, so a late one hits nothing.
#[derive(Debug)]
pub struct Timers<T> {
    heap: BinaryHeap<Reverse<Slot<T>>>,
    sequence: u64,
}

#[derive(Debug)]
struct Slot<T> {
    at: Instant,
    sequence: u64,
    token: T,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<T> Timers<T> {
    /// Sets `token` to come out at `at`.
    pub fn set(&mut self, at: Instant, token: T) {
        self.sequence += 1;
        self.heap.push(Reverse(Slot { at, sequence: self.sequence, token }));
    }

    /// When the next token is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(slot)| slot.at)
    }

    /// The next token that is due at `now`, with the time it was set for.
    pub fn due(&mut self, now: Instant) -> Option<(Instant, T)> {
        if self.deadline()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(slot)| (slot.at, slot.token))
    }

    /// How many tokens wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<T> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<T> Eq for Slot<T> {}

impl<T> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Slot<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_out_by_time_then_by_order() {
        let mut timers = Timers::default();
        timers.set(Instant::from_nanos(20), "late");
        timers.set(Instant::from_nanos(10), "first");
        timers.set(Instant::from_nanos(10), "second");
        assert_eq!(timers.due(Instant::from_nanos(9)), None);
        let now = Instant::from_nanos(10);
        assert_eq!(timers.due(now), Some((now, "first")));
        assert_eq!(timers.due(now), Some((now, "second")));
        assert_eq!(timers.due(now), None);
        assert_eq!(timers.deadline(), Some(Instant::from_nanos(20)));
    }
}
