//! Reliable provisional responses (RFC 3262): the order of what is sent, and of what came.
//!
//! Their numbers and nothing else: the user sends the responses and the PRACKs, and keeps the time.

use core::time::Duration;

use crate::transaction::{LIFE, T1};

/// The numbers of the reliable responses that one INVITE gets from here (3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    next: u32,
    /// The one that waits for its PRACK, and when it goes out again.
    waiting: Option<(u32, Duration, Duration)>,
}

/// What is to be done about a response whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send it again, and look at it again after this time.
    Again(Duration),
    /// RFC 3262, 3: "If a reliable provisional response is retransmitted for 64*T1 seconds without reception
    /// of a corresponding PRACK, the UAS SHOULD reject the original request with a 5xx response."
    GiveUp,
    /// It has its PRACK.
    Nothing,
}

impl Sender {
    /// RFC 3262, 3: the first number is "chosen uniformly between 1 and 2**31 - 1"; `random` is any word.
    pub fn new(random: u32) -> Sender {
        Sender { next: (random >> 1).clamp(1, (1 << 31) - 1), waiting: None }
    }

    /// The number of the next response, which is sent now; none while another waits for its PRACK: "the UAS
    /// MUST NOT send a second reliable provisional response until the first is acknowledged".
    pub fn send(&mut self) -> Option<u32> {
        if self.waiting.is_some() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.waiting = Some((number, T1, T1));
        Some(number)
    }

    /// When a response that was sent just now is to be looked at.
    pub const FIRST: Duration = T1;

    /// True while a response waits for its PRACK.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The time of [`Due::Again`] has passed for the response of that number.
    pub fn due(&mut self, number: u32) -> Due {
        let Some((waiting, last, passed)) = &mut self.waiting else { return Due::Nothing };
        if *waiting != number {
            return Due::Nothing;
        }
        if *passed >= LIFE {
            self.waiting = None;
            return Due::GiveUp;
        }
        // "with an exponential backoff [...] doubles for each retransmission", without a bound but the end.
        *last = (*last * 2).min(LIFE - *passed);
        *passed += *last;
        Due::Again(*last)
    }

    /// A PRACK with that RSeq came; true when it is for the response that waits. Others get a 481.
    pub fn acknowledge(&mut self, number: u32) -> bool {
        self.waiting.take_if(|(waiting, ..)| *waiting == number).is_some()
    }
}

/// The numbers of the reliable responses that came in one dialog (4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    last: Option<u32>,
}

impl Receiver {
    /// Whether a response of that number is new and next, and so is to be acknowledged and taken. RFC 3262,
    /// 4: "If the RSeq in the response is not one higher than the value of the sequence number [of the last],
    /// that response MUST NOT be acknowledged with a PRACK, and MUST NOT be processed further".
    pub fn take(&mut self, number: u32) -> bool {
        let is_next = self.last.is_none_or(|last| last.checked_add(1) == Some(number));
        if is_next {
            self.last = Some(number);
        }
        is_next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_response_waits_at_a_time() {
        let mut sender = Sender::new(0);
        assert_eq!(sender.send(), Some(1));
        assert_eq!(sender.send(), None);
        assert!(!sender.acknowledge(2) && sender.is_waiting());
        assert!(sender.acknowledge(1) && !sender.is_waiting());
        assert!(!sender.acknowledge(1), "once");
        assert_eq!(sender.send(), Some(2));
        assert_eq!(sender.due(1), Due::Nothing, "a timer of the first");
        assert_eq!(Sender::new(u32::MAX).send(), Some((1 << 31) - 1));
    }

    #[test]
    fn it_goes_out_at_doubled_times_for_64_t1() {
        let mut sender = Sender::new(8);
        let number = sender.send().expect("nothing waits");
        let (mut at, mut times) = (Sender::FIRST, Vec::new());
        while let Due::Again(after) = sender.due(number) {
            times.push(at.as_millis());
            at += after;
        }
        assert_eq!(times, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        assert_eq!(at, LIFE);
        assert_eq!(sender.due(number), Due::Nothing);
    }

    #[test]
    fn responses_are_taken_in_their_order_once_each() {
        let mut receiver = Receiver::default();
        let taken = [7, 7, 9, 6, 8, 9].map(|number| receiver.take(number));
        assert_eq!(taken, [true, false, false, false, true, true]);
        let mut last = Receiver { last: Some(u32::MAX) };
        assert!(!last.take(1) && !last.take(u32::MAX));
    }
}
