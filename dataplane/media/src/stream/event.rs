//! Telephone-events (RFC 4733): which digits a peer pressed, each once.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |     event     |E|R| volume    |          duration             |
//! ```
//!
//! All packets of an event carry the timestamp of its beginning (2.5.1.2), so one that carries the
//! timestamp of a finished event or an older one is a repetition or late. An event ends with the first
//! packet that has the end bit, with the next event, or when nothing comes of it.

use std::time::Duration;

use base::Instant;

use super::{NANOS_PER_UNIT, Streams};
use crate::PairId;

/// An event that is silent for so long has ended, in milliseconds: its packets come every 50 ms or oftener
/// (RFC 4733, 2.5.1.2), and three of them in a row are rarely lost.
pub const EVENT_TIMEOUT_MS: u64 = 200;

/// How many digits wait to be taken; more press nobody's fingers between two looks at them.
const MAX_DIGITS: usize = 1_024;

/// The highest event that is told: flash. Others are tones of modems and trunks (RFC 4733, 3.2).
const MAX_EVENT: u8 = 16;

/// The duration at which a long event goes on in a new segment (RFC 4733, 2.5.1.3).
const SEGMENT: u32 = 0xffff;

/// How much older than the last event an event may be and is still late, in timestamp units: a minute. A
/// sender whose clock went back farther has begun anew.
const MAX_LATE: u32 = 60 * 8_000;

/// A digit that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digit {
    /// The event: 0 to 9, 10 `*`, 11 `#`, 12 to 15 A to D, 16 flash (RFC 4733, 3.2).
    pub event: u8,
    /// For how long, in milliseconds, at a clock of 8 kHz.
    pub duration_ms: u16,
}

/// The telephone-events of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Events {
    current: Option<Event>,
    /// The timestamp of the last event that is finished, or of its last segment.
    done: Option<u32>,
    /// The stream is in the list of those that are looked at for a lost end.
    listed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    digit: u8,
    timestamp: u32,
    /// Of its earlier segments, and of this one, in timestamp units.
    before: u32,
    duration: u32,
    seen: Instant,
}

impl Event {
    fn digit(&self) -> Digit {
        let millis =
            u64::from(self.before.saturating_add(self.duration)) * NANOS_PER_UNIT / 1_000_000;
        Digit { event: self.digit, duration_ms: u16::try_from(millis).unwrap_or(u16::MAX) }
    }
}

impl Events {
    /// Takes a payload; the digit that it ends, or that it shows to have ended.
    fn take(&mut self, now: Instant, timestamp: u32, payload: [u8; 4]) -> [Option<Digit>; 2] {
        let [digit, flags, high, low] = payload;
        let (ends, duration) = (flags & 0x80 != 0, u32::from(u16::from_be_bytes([high, low])));
        let is_old = |than: u32| than.wrapping_sub(timestamp) < MAX_LATE;
        if digit > MAX_EVENT || self.done.is_some_and(is_old) {
            return [None; 2];
        }
        let mut ended = None;
        let event = match self.current {
            Some(event) if event.timestamp == timestamp => {
                Event { duration: event.duration.max(duration), seen: now, ..event }
            }
            Some(event) if is_old(event.timestamp) => return [None; 2],
            Some(event)
                if event.digit == digit && timestamp == event.timestamp.wrapping_add(SEGMENT) =>
            {
                let before = event.before.saturating_add(SEGMENT);
                Event { timestamp, before, duration, seen: now, ..event }
            }
            other => {
                ended = other.map(|event| event.digit());
                Event { digit, timestamp, before: 0, duration, seen: now }
            }
        };
        self.current = (!ends).then_some(event);
        if ends {
            self.done = Some(timestamp);
        } else if ended.is_some() {
            // What is older than this one is over.
            self.done = Some(timestamp.wrapping_sub(1));
        }
        [ended, ends.then(|| event.digit())]
    }

    /// Ends what is under way.
    fn finish(&mut self) -> Option<Digit> {
        let event = self.current.take()?;
        self.done = Some(event.timestamp);
        Some(event.digit())
    }
}

impl Streams {
    /// Tells the payload type of telephone-events that the pair's peer sends, as signalled (RFC 4733, 7.1).
    pub fn set_telephone_event(&mut self, pair: PairId, payload_type: Option<u8>) {
        if self.is_open(pair) {
            self.hot[pair.index()].event_type =
                payload_type.map_or(super::row::NO_EVENTS, |payload_type| payload_type & 0x7f);
        }
    }

    /// Takes a telephone-event that went past the process: the first bytes of its RTP packet.
    pub fn telephone_event(&mut self, now: Instant, pair: PairId, packet: &[u8; 16]) {
        let [first, payload_type, _, _, t0, t1, t2, t3, s0, s1, s2, s3, payload @ ..] = *packet;
        let Some(row) = self.hot.get(pair.index()) else { return };
        let is_plain = first & 0xdf == 0x80;
        let is_ours = row.has(super::row::OPEN)
            && payload_type & 0x7f == row.event_type
            && row.ssrc == u32::from_be_bytes([s0, s1, s2, s3]);
        if is_plain && is_ours {
            self.take_event(now, pair.index(), u32::from_be_bytes([t0, t1, t2, t3]), &payload);
        }
    }

    /// Takes the payload of a telephone-event of the row's source.
    #[cold]
    pub(super) fn take_event(
        &mut self,
        now: Instant,
        index: usize,
        timestamp: u32,
        payload: &[u8],
    ) {
        let Some(payload) = payload.first_chunk() else { return };
        let events = &mut self.cold[index].events;
        let digits = events.take(now, timestamp, *payload);
        let pair = PairId(index as u32);
        if events.current.is_some() && !std::mem::replace(&mut events.listed, true) {
            self.pressed.push(pair);
        }
        for digit in digits.into_iter().flatten() {
            self.tell_digit(pair, digit);
        }
    }

    /// The digits that ended since the last call, in that order, with those whose end was lost.
    pub fn digits(&mut self, now: Instant) -> impl Iterator<Item = (PairId, Digit)> {
        let mut place = 0;
        while let Some(&pair) = self.pressed.get(place) {
            let events = &mut self.cold[pair.index()].events;
            let due = |event: Event| event.seen + Duration::from_millis(EVENT_TIMEOUT_MS);
            if events.current.is_some_and(|event| now < due(event)) {
                place += 1;
                continue;
            }
            self.pressed.swap_remove(place);
            events.listed = false;
            if let Some(digit) = events.finish() {
                self.tell_digit(pair, digit);
            }
        }
        self.digits.drain(..)
    }

    /// When [`Streams::digits`] may have something: at once, when a pressed one times out, or never.
    pub fn digits_deadline(&self) -> Option<Instant> {
        if !self.digits.is_empty() {
            return Some(Instant::ZERO);
        }
        let pressed = self.pressed.iter();
        pressed
            .filter_map(|pair| self.cold[pair.index()].events.current)
            .map(|event| event.seen + Duration::from_millis(EVENT_TIMEOUT_MS))
            .min()
    }

    /// The source begins anew, and its timestamps with it.
    pub(super) fn restart_events(&mut self, index: usize) {
        let events = &mut self.cold[index].events;
        let digit = events.finish();
        *events = Events { listed: events.listed, ..Events::default() };
        if let Some(digit) = digit {
            self.tell_digit(PairId(index as u32), digit);
        }
    }

    /// Forgets the stream.
    pub(super) fn close_events(&mut self, pair: PairId) {
        if self.cold[pair.index()].events.listed {
            self.pressed.retain(|pressed| *pressed != pair);
        }
    }

    fn tell_digit(&mut self, pair: PairId, digit: Digit) {
        if self.digits.len() < MAX_DIGITS {
            self.digits.push_back((pair, digit));
        }
    }
}
