//! Collecting digits: how many, which ones end it, and how long each may take.

use std::time::Duration;

use base::Instant;

/// The most digits of one collection.
pub const DIGITS_MAX: u8 = 64;

/// The digits of RFC 4733 by their event, 0 to 15.
const SIGNS: &[u8; 16] = b"0123456789*#ABCD";

/// When a collection is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// After so many digits; 1 to [`DIGITS_MAX`], the nearest of which stands for others.
    pub max: u8,
    /// How long the first digit may take, in milliseconds.
    pub first_ms: u32,
    /// How long each further one may take after the one before, in milliseconds.
    pub next_ms: u32,
    /// Digits that end it and are not collected; bit n is the event n of RFC 4733 (10 `*`, 11 `#`).
    pub ends: u16,
}

/// Why a collection is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// There are as many digits as were asked for.
    Full,
    /// A digit that ends it was pressed.
    Ended,
    /// The first or the next digit took too long.
    Timeout,
}

/// Digits so far, and by when the next one has to come.
///
/// ```text
///              digit, not the last one        digit that ends it: Ended
///               .-->                          max digits:         Full
///   new ----> Waiting -----------------> Done
///               <--'                          deadline:           Timeout
/// ```
#[derive(Clone, Debug)]
pub struct Collector {
    rules: Rules,
    digits: String,
    deadline: Instant,
    done: Option<Cause>,
}

impl Collector {
    /// Begins at `now`; the time for the first digit runs.
    pub fn new(now: Instant, rules: Rules) -> Self {
        let rules = Rules { max: rules.max.clamp(1, DIGITS_MAX), ..rules };
        let deadline = now + Duration::from_millis(rules.first_ms.into());
        Collector { rules, digits: String::new(), deadline, done: None }
    }

    /// Restarts the time for the first digit, as the end of a prompt does; nothing once there is a digit.
    pub fn prompted(&mut self, now: Instant) {
        if self.digits.is_empty() && self.done.is_none() {
            self.deadline = now + Duration::from_millis(self.rules.first_ms.into());
        }
    }

    /// A digit was pressed: the event of RFC 4733; those above 15 (flash) are no digits and change nothing.
    /// Returns why the collection is done, if it is. One that comes after the deadline is too late, whoever
    /// is called first.
    pub fn digit(&mut self, now: Instant, event: u8) -> Option<Cause> {
        let Some(&sign) = SIGNS.get(usize::from(event)) else { return self.done };
        if self.timeout(now).is_some() {
            return self.done;
        }
        if self.rules.ends & (1 << event) != 0 {
            self.done = Some(Cause::Ended);
            return self.done;
        }
        self.digits.push(char::from(sign));
        if self.digits.len() >= usize::from(self.rules.max) {
            self.done = Some(Cause::Full);
        }
        self.deadline = now + Duration::from_millis(self.rules.next_ms.into());
        self.done
    }

    /// Why the collection is done at `now`, if it is; the deadline may have come.
    pub fn timeout(&mut self, now: Instant) -> Option<Cause> {
        if self.done.is_none() && now >= self.deadline {
            self.done = Some(Cause::Timeout);
        }
        self.done
    }

    /// When [`Collector::timeout`] is to be called; none when it is done.
    pub fn deadline(&self) -> Option<Instant> {
        self.done.is_none().then_some(self.deadline)
    }

    /// What was collected, of `0` to `9`, `*`, `#` and `A` to `D`.
    pub fn digits(&self) -> &str {
        &self.digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u16 = 1 << 11;
    const RULES: Rules = Rules { max: 4, first_ms: 5_000, next_ms: 2_000, ends: HASH };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn digits_ends_and_times() {
        use Cause::*;
        for (name, pressed, until, cause, digits) in [
            ("full", &[(10, 1), (20, 2), (30, 3), (40, 4)][..], 40, Some(Full), "1234"),
            ("ended", &[(10, 1), (20, 11)], 20, Some(Ended), "1"),
            ("ended at once", &[(10, 11)], 10, Some(Ended), ""),
            ("not one", &[], 5_000, Some(Timeout), ""),
            ("just waiting", &[], 4_999, None, ""),
            ("the last moment", &[(4_999, 9)], 6_998, None, "9"),
            ("the first is too late", &[(5_000, 9)], 5_000, Some(Timeout), ""),
            ("the next one is missing", &[(4_999, 9)], 6_999, Some(Timeout), "9"),
            ("the next is too late", &[(10, 0), (2_010, 5)], 2_010, Some(Timeout), "0"),
            ("each has its own time", &[(0, 10), (1_999, 13), (3_998, 15)], 3_998, None, "*BD"),
            ("flash is none", &[(10, 16), (20, 255)], 4_999, None, ""),
            ("flash waits for none", &[(4_000, 16)], 5_000, Some(Timeout), ""),
        ] {
            let mut collector = Collector::new(at(0), RULES);
            for &(ms, event) in pressed {
                collector.digit(at(ms), event);
            }
            assert_eq!(collector.timeout(at(until)), cause, "{name}");
            assert_eq!(collector.digits(), digits, "{name}");
            assert_eq!(collector.deadline().is_none(), cause.is_some(), "{name}");
            // Nothing moves it any more.
            if cause.is_some() {
                assert_eq!(collector.digit(at(until), 3), cause, "{name}");
                assert_eq!((collector.timeout(at(60_000)), collector.digits()), (cause, digits));
            }
        }
    }

    #[test]
    fn all_signs_and_the_bounds_of_max() {
        let mut all = Collector::new(at(0), Rules { max: 16, ends: 0, ..RULES });
        for event in 0..16 {
            assert_eq!(all.digit(at(1), event), (event == 15).then_some(Cause::Full));
        }
        assert_eq!(all.digits(), "0123456789*#ABCD");
        let mut none = Collector::new(at(0), Rules { max: 0, ..RULES });
        assert_eq!(none.digit(at(1), 7), Some(Cause::Full));
        let mut many = Collector::new(at(0), Rules { max: 255, ..RULES });
        let count = (1..).find(|_| many.digit(at(1), 7).is_some());
        assert_eq!(count, Some(usize::from(DIGITS_MAX)));
    }

    #[test]
    fn a_prompt_s_end_starts_the_time_again_until_there_is_a_digit() {
        let mut collector = Collector::new(at(0), RULES);
        collector.prompted(at(3_000));
        assert_eq!(collector.deadline(), Some(at(8_000)));
        collector.digit(at(4_000), 1);
        collector.prompted(at(5_000));
        assert_eq!(collector.deadline(), Some(at(6_000)));
    }
}
