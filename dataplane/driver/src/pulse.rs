//! When a worker's thread was to go on, and what it puts off until then.

use std::collections::VecDeque;
use std::time::Duration;

use base::Instant;

use crate::token::Token;

/// A thread that goes on so much later than it was to was paused: stopped, or without its core for
/// longer than a few heartbeats. Less is the kernel's scheduling under load.
const PAUSE_MS: u64 = 250;

/// How long a socket whose receive failed rests before it is tried again: long enough that one that
/// fails for ever costs nothing, and no longer than one packet of media.
const RECEIVE_REST_MS: u64 = 20;

/// Finds out that the thread was paused.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// When the clock is to be looked at next, at the latest.
    due: Instant,
}

impl Pulse {
    /// The thread runs.
    pub fn new(now: Instant) -> Self {
        Pulse { due: now }
    }

    /// The thread looks at the clock. True when it was paused since it last did.
    #[must_use]
    pub fn look(&mut self, now: Instant) -> bool {
        let due = std::mem::replace(&mut self.due, now);
        now.since(due) > Duration::from_millis(PAUSE_MS)
    }

    /// The thread sleeps for so long from its last look on.
    pub fn sleep(&mut self, wait: Duration) {
        self.due = self.due + wait;
    }
}

/// Receives that failed and are to be started again, in the order of their time.
#[derive(Debug, Default)]
pub struct Resting(VecDeque<(Instant, Token)>);

impl Resting {
    /// The receive of `token` rests from now on.
    pub fn rest(&mut self, now: Instant, token: Token) {
        self.0.push_back((now + Duration::from_millis(RECEIVE_REST_MS), token));
    }

    /// A receive that has rested for long enough.
    pub fn next(&mut self, now: Instant) -> Option<Token> {
        self.0.pop_front_if(|(until, _)| *until <= now).map(|(_, token)| token)
    }

    /// When there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn who_goes_on_late_was_paused() {
        let mut pulse = Pulse::new(at(1_000));
        assert!(!pulse.look(at(1_250)));
        assert!(pulse.look(at(1_501)), "within a cycle");
        assert!(!pulse.look(at(1_501)), "told once");
        pulse.sleep(Duration::from_millis(50));
        assert!(!pulse.look(at(1_801)), "50 ms of sleep, and 250 late");
        pulse.sleep(Duration::from_millis(50));
        assert!(pulse.look(at(2_102)));
        pulse.sleep(Duration::from_millis(50));
        assert!(!pulse.look(at(2_103)), "woken early");
        assert!(!pulse.look(at(2_353)));
    }

    #[test]
    fn a_failed_receive_rests() {
        let mut resting = Resting::default();
        assert_eq!((resting.deadline(), resting.next(at(99))), (None, None));
        resting.rest(at(100), Token::SipReceive(1));
        resting.rest(at(101), Token::SipReceive(2));
        assert_eq!((resting.deadline(), resting.next(at(119))), (Some(at(120)), None));
        assert_eq!(resting.next(at(120)), Some(Token::SipReceive(1)));
        assert_eq!((resting.deadline(), resting.next(at(120))), (Some(at(121)), None));
        assert_eq!(resting.next(at(500)), Some(Token::SipReceive(2)));
        assert_eq!(resting.deadline(), None);
    }
}
