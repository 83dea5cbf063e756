//! Digits that we send as telephone-events (RFC 4733), for a peer that pressed them otherwise.

use std::collections::VecDeque;
use std::time::Duration;

use base::Instant;

use crate::call::LegRef;
use crate::worker::{Timer, Worker};

/// The time between two packets of an event, in milliseconds (RFC 4733, 2.5.1.2: 50 ms or less).
const STEP_MS: u64 = 20;
/// The same in timestamp units of 8 kHz.
const STEP_UNITS: u16 = 160;
/// RFC 4733, 2.5.1.4: the last packet "SHOULD be sent a total of three times".
const LAST_PACKETS: u16 = 3;
/// How many digits may wait; fingers press no more.
const MAX_WAITING: usize = 32;

/// The digits that are sent to one leg, the first of them now.
#[derive(Debug, Default)]
pub struct Tones {
    waiting: VecDeque<Tone>,
}

#[derive(Clone, Copy, Debug)]
struct Tone {
    event: u8,
    /// Packets until its end.
    packets: u16,
    sent: u16,
}

impl Worker {
    /// Whether the leg's peer takes telephone-events.
    pub(crate) fn sends_events(&self, leg: LegRef) -> bool {
        let pair = self.calls.leg(leg).and_then(|leg| leg.pair);
        pair.is_some_and(|pair| self.streams.image(pair).telephone_event.is_some())
    }

    /// Sends a digit to the leg's peer, after those before it.
    pub(crate) fn send_tone(&mut self, now: Instant, leg: LegRef, event: u8, duration_ms: u16) {
        let Some(entry) = self.calls.leg_unchanged(leg) else { return };
        let tones = entry.ext.tones.get_or_insert_default();
        if tones.waiting.len() >= MAX_WAITING {
            return;
        }
        let packets = (duration_ms / STEP_MS as u16).max(2);
        tones.waiting.push_back(Tone { event, packets, sent: 0 });
        if tones.waiting.len() == 1 {
            // While a digit is sent, nothing else is heard (RFC 4733, 2.5.1.1).
            self.arrange(leg);
            self.beats.set(now, Timer::Tone(leg));
        }
    }

    pub(crate) fn on_tone_due(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.leg_unchanged(leg) else { return };
        let pair = entry.pair;
        let Some(tones) = entry.ext.tones.as_mut() else { return };
        let Some(tone) = tones.waiting.front_mut() else { return };
        let Some(pair) = pair else { return entry.ext.tones = None };
        tone.sent += 1;
        let is_over = tone.sent >= tone.packets;
        let (event, sent, packets) = (tone.event, tone.sent, tone.packets);
        if sent + 1 >= packets + LAST_PACKETS {
            tones.waiting.pop_front();
        }
        let is_last = tones.waiting.is_empty();
        let duration = sent.min(packets).saturating_mul(STEP_UNITS).to_be_bytes();
        // The volume of a tone in -dBm0, and the end bit (RFC 4733, 2.3).
        let flags = if is_over { 0x80 | 10 } else { 10 };
        let payload = [event, flags, duration[0], duration[1]];
        let advance = if sent == 1 { u32::from(STEP_UNITS) } else { 0 };
        if let Some(number) = self.streams.image(pair).telephone_event {
            let made = self.streams.make(now, pair, number, sent == 1, advance, &payload);
            if let Some((socket, to, packet)) = made {
                self.send_made(socket, to, packet);
            }
        }
        if is_last {
            if let Some(entry) = self.calls.leg_unchanged(leg) {
                entry.ext.tones = None;
            }
            return self.arrange(leg);
        }
        self.beats.set(now + Duration::from_millis(STEP_MS), Timer::Tone(leg));
    }
}
