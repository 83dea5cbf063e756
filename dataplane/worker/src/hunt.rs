//! Places that are tried one after another for one call (RFC 5359, 2.12, "Find-Me"): each with its time to ring.
//!
//! The list comes with the number that a call goes to instead ([`abi::Command::Forward`]). While it lasts, the rules of
//! the places themselves do not count, so lists cannot go round in a circle, and an agent's own number may stand in
//! the list of that number. Who does not take the call, for whatever reason, is followed by the next; the caller
//! hears what the last place said.

use std::collections::VecDeque;

use abi::{CallState, Counter, Why};
use base::{CallRef, Instant};

use crate::call::{CALLER, LegRef, Number, is_dialable};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How many places one list has at most: each may be a leg of the call.
const MAX_PLACES: usize = 16;

/// What is left of a list.
#[derive(Debug)]
pub struct Hunt {
    places: VecDeque<Place>,
    /// How long the place that is tried may ring, in milliseconds; none for as long as any.
    rings_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: Number,
    ring_s: Option<u16>,
}

impl Hunt {
    /// The list that a text names: numbers with commas between them, each with `/` and its seconds where it has some.
    /// None when it is no such list; one number without a time is a list of one.
    fn of(text: &[u8]) -> Option<Hunt> {
        let places: VecDeque<Place> =
            text.split(|byte| *byte == b',').map(place).collect::<Option<_>>()?;
        (places.len() <= MAX_PLACES).then_some(Hunt { places, rings_ms: None })
    }

    fn next(&mut self) -> Option<Number> {
        let place = self.places.pop_front()?;
        self.rings_ms = place.ring_s.map(|seconds| u64::from(seconds) * 1_000);
        Some(place.number)
    }
}

/// What a call is forwarded to.
pub(crate) enum Instead {
    /// A number, whose own rules count.
    Number(Number),
    /// Places to be tried in turn.
    Places(Hunt),
}

impl Instead {
    /// What control's text names; none when nobody can be called so.
    pub fn of(text: &[u8]) -> Option<Instead> {
        let hunt = Hunt::of(text)?;
        match hunt.places.front() {
            Some(Place { number, ring_s: None }) if hunt.places.len() == 1 => {
                Some(Instead::Number(*number))
            }
            _ => Some(Instead::Places(hunt)),
        }
    }
}

fn place(text: &[u8]) -> Option<Place> {
    let mut parts = text.splitn(2, |byte| *byte == b'/');
    let number = Number::new(parts.next()?).ok();
    let number = number.filter(|number| !number.is_empty() && is_dialable(number))?;
    let seconds = |part: &[u8]| core::str::from_utf8(part).ok()?.parse().ok();
    let ring_s = match parts.next() {
        Some(part) => Some(seconds(part)?),
        None => None,
    };
    Some(Place { number, ring_s })
}

impl Worker {
    /// Tries the first place of a list.
    pub(crate) fn begin_hunt(
        &mut self,
        now: Instant,
        call: CallRef,
        hunt: Hunt,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.calls.find_mut(call) else { return Err(Refusal::status(481)) };
        (entry.hunt, entry.failing) = (Some(Box::new(hunt)), None);
        self.count(Counter::CallsHunted);
        self.next_place(now, call).unwrap_or(Err(Refusal::status(480)))
    }

    /// True while places are tried for a call.
    pub(crate) fn is_hunting(&self, call: CallRef) -> bool {
        self.calls.find(call).is_some_and(|entry| entry.hunt.is_some())
    }

    /// How long the leg of a place may ring, in milliseconds.
    pub(crate) fn place_rings_ms(&self, call: CallRef) -> Option<u64> {
        self.calls.find(call)?.hunt.as_ref()?.rings_ms
    }

    /// The place of a leg did not take the call: true when another is tried, or the call went with the last.
    pub(crate) fn hunt_on(&mut self, now: Instant, leg: LegRef) -> bool {
        let Some(call) = self.calls.find(leg.call) else { return false };
        let waits = !matches!(call.state, CallState::Answered | CallState::Ended)
            || call.transfer.is_some();
        let has_more = call.hunt.as_ref().is_some_and(|hunt| !hunt.places.is_empty());
        if leg.leg == CALLER || !waits || !has_more {
            return false;
        }
        if self.is_transfer_to(leg) {
            self.seek_again(leg.call);
        }
        self.unjoin(now, leg);
        self.close_media(now, leg);
        self.note_call(leg.call);
        if let Some(Err(refusal)) = self.next_place(now, leg.call) {
            self.refuse_way(now, leg.call, &refusal);
        }
        true
    }

    /// Tries places until one rings or is asked about; what the last one said, where none does. None when there is
    /// no place left.
    pub(crate) fn next_place(
        &mut self,
        now: Instant,
        call: CallRef,
    ) -> Option<Result<(), Refusal>> {
        let mut last = None;
        while let Some(number) = self.calls.find_mut(call)?.hunt.as_mut()?.next() {
            match self.seek(now, call, number, Why::Hunted) {
                Ok(()) => return Some(Ok(())),
                refused => last = Some(refused),
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_none_is_not() {
        let number = |text: &str| Number::new(text.as_bytes()).expect("fits");
        let mut hunt = Hunt::of(b"1001/15,+49301/30,1002").expect("a list");
        for (place, rings_ms) in [("1001", Some(15_000)), ("+49301", Some(30_000)), ("1002", None)]
        {
            assert_eq!(hunt.next(), Some(number(place)));
            assert_eq!(hunt.rings_ms, rings_ms);
        }
        assert_eq!(hunt.next(), None);
        assert!(matches!(Instead::of(b"1001"), Some(Instead::Number(it)) if it == number("1001")));
        assert!(matches!(Instead::of(b"1001/9"), Some(Instead::Places(_))));
        let long = vec!["1"; MAX_PLACES + 1].join(",");
        for bad in
            ["", ",", "1001,", "1001/", "1001/x", "1001/99999", "1001/1/2", "a@b", "a b,1", &long]
        {
            assert!(Instead::of(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
