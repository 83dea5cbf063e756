//! One talker's sound on its way into a mix: packets come when the network likes, frames go every 20 ms.
//!
//! Samples lie in a ring by their RTP timestamp, so that order and repetition do not matter. The sound is
//! played as late as the slowest packets of the last seconds need it, 20 to 120 ms behind the fastest.
//!
//! ```text
//!   timestamps ------------------------------------------------------->
//!            position                         fastest packet would be here now
//!               |<------------- lag ------------->|
//!   too short: a frame is put in. too long: a frame is left out, both by cross-fading.
//!   Drift of the sender's clock against ours shows as a lag that grows or shrinks.
//! ```

use base::Instant;

use crate::codec::{Codec, FRAME_SAMPLES, Frame};
use crate::wire::Rtp;

/// The shortest delay between a packet's arrival and its sound, in samples: 20 ms, one frame.
pub const DELAY_MIN_SAMPLES: u32 = 160;
/// The longest such delay, in samples: 120 ms. What needs longer is late.
pub const DELAY_MAX_SAMPLES: u32 = 960;

/// The delay of a talker about whom nothing is known yet, in samples: 40 ms.
const DELAY_FIRST_SAMPLES: i64 = 320;
/// Samples in the ring: 512 ms, the longest delay and a burst after a stall.
const RING: usize = 4_096;
/// No sample is there. Neither law has a code for it.
const EMPTY: i16 = i16::MIN;
/// How long missing sound is concealed, in samples: 60 ms, fading. Longer than that sounds like a robot.
const CONCEAL_SAMPLES: u32 = 480;
/// How many packets the delay is judged by; together with the ones before it 2.5 to 5 s.
const WINDOW_PACKETS: u32 = 128;
/// So many late packets in a row tell that the path has become longer, or the sender started again.
const LATE_PACKETS: u32 = 8;
/// A packet so much earlier or later than others tells of another timeline, in samples: 1 s.
const JUMP_SAMPLES: i64 = 8_000;
/// How much too short the lag may become before a frame is put in, in samples: 5 ms.
const SHORT_SAMPLES: i64 = 40;
/// How much too long the lag may become before a frame is left out, in samples: 25 ms, so that a frame left
/// out is not put in again.
const LONG_SAMPLES: i64 = 200;
/// At most one frame of so many is left out.
const LEAVE_OUT_EVERY: u32 = 10;

/// What a playout buffer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlayoutStats {
    /// Packets that came in time.
    pub packets: u64,
    /// Packets that came when their turn was over.
    pub late: u64,
    /// Packets that came twice.
    pub repeated: u64,
    /// Packets without sound that can be played.
    pub foreign: u64,
    /// Samples that were made up for missing ones, at most 60 ms in a row.
    pub concealed: u64,
    /// Frames left out because there were too many.
    pub left_out: u64,
    /// Frames put in because there were too few.
    pub put_in: u64,
    /// Timelines that ended by a jump, a stall or another source.
    pub restarts: u64,
}

/// The playout buffer of one talker.
#[derive(Clone, Debug)]
pub struct Playout {
    ring: Box<[i16; RING]>,
    /// The next sample to be played, on the timeline of `line`.
    position: i64,
    /// Where the latest sound ends.
    end: i64,
    /// Where the earliest sound is that waits for a talker who is silent.
    waiting: Option<i64>,
    talking: bool,
    line: Option<Line>,
    transit: Transit,
    late_in_a_row: u32,
    /// The last frame that was whole; what is missing sounds like it.
    last: Frame,
    /// Samples missing in a row.
    missing: u32,
    since_left_out: u32,
    stats: PlayoutStats,
}

/// The timeline of a source.
#[derive(Clone, Copy, Debug)]
struct Line {
    ssrc: u32,
    timestamp: u32,
    position: i64,
    sequence: u16,
    /// Bit n: the packet n before `sequence` was here.
    seen: u64,
}

/// How long packets take, in samples; the zero of the scale means nothing.
#[derive(Clone, Copy, Debug)]
struct Transit {
    fastest: [i64; 2],
    slowest: [i64; 2],
    packets: u32,
}

impl Default for Playout {
    fn default() -> Self {
        Playout::new()
    }
}

impl Playout {
    /// The buffer of a talker who has not said anything.
    pub fn new() -> Self {
        Playout {
            ring: Box::new([EMPTY; RING]),
            position: 0,
            end: 0,
            waiting: None,
            talking: false,
            line: None,
            transit: Transit::NONE,
            late_in_a_row: 0,
            last: [0; FRAME_SAMPLES],
            missing: 0,
            since_left_out: 0,
            stats: PlayoutStats::default(),
        }
    }

    /// Takes a packet of G.711 of any length up to 512 ms; others only count.
    pub fn push(&mut self, arrival: Instant, rtp: &Rtp<'_>) {
        let codec = Codec::of_payload_type(rtp.payload_type());
        let (Some(codec), 1..=RING) = (codec, rtp.payload().len()) else {
            self.stats.foreign += 1;
            return;
        };
        let length = rtp.payload().len() as i64;
        let now = samples(arrival);
        let Some(position) = self.place(now, rtp) else {
            self.stats.repeated += 1;
            return;
        };
        let transit = now - position;
        let is_late = self.talking && position + length <= self.position;
        self.late_in_a_row = if is_late { self.late_in_a_row + 1 } else { 0 };
        self.stats.late += u64::from(is_late);
        // Nobody played for long, or all at once came what a stall held back.
        let is_beyond = self.talking && position + length > self.position + RING as i64;
        // A talker begins so late that no delay reaches it: what was known of the path is not true any more.
        let is_behind = !self.talking
            && self.waiting.is_none()
            && transit - self.transit.fastest() > i64::from(DELAY_MAX_SAMPLES);
        if is_beyond || is_behind || self.late_in_a_row >= LATE_PACKETS {
            self.restart();
        }
        self.transit.note(transit);
        if is_late && self.talking {
            return;
        }
        self.stats.packets += 1;
        if !self.talking {
            self.wait_from(position, length);
        }
        self.end = self.end.max(position + length);
        let floor = if self.talking { self.position } else { i64::MIN };
        for (at, sample) in (position..).zip(codec.decode(rtp.payload())) {
            if at >= floor {
                self.ring[slot(at)] = sample;
            }
        }
    }

    /// The next 20 ms; none while there is no talker. Call it every 20 ms.
    pub fn pull(&mut self, now: Instant) -> Option<Frame> {
        let now = samples(now);
        if !self.talking && !self.begin(now) {
            return None;
        }
        self.since_left_out = self.since_left_out.saturating_add(1);
        let lag = now - self.transit.fastest() - self.position;
        let target = self.transit.target();
        if lag > i64::from(DELAY_MAX_SAMPLES) + 2 * LONG_SAMPLES {
            // Nobody played for a while: go on where it should be.
            self.skip_to((now - self.transit.fastest() - target).min(self.end));
        } else if lag > target + LONG_SAMPLES
            && self.since_left_out >= LEAVE_OUT_EVERY
            && self.is_whole(2 * FRAME_SAMPLES)
        {
            return Some(self.leave_out());
        } else if lag < target - SHORT_SAMPLES {
            return Some(self.put_in());
        }
        let frame = self.take();
        if self.missing >= CONCEAL_SAMPLES && self.end <= self.position {
            self.talking = false;
            self.waiting = None;
        }
        Some(frame)
    }

    /// The delay that is aimed at between the arrival of the fastest packets and their sound, in samples,
    /// [`DELAY_MIN_SAMPLES`] to [`DELAY_MAX_SAMPLES`].
    pub fn delay(&self) -> u32 {
        self.transit.target() as u32
    }

    /// What was counted so far.
    pub fn stats(&self) -> PlayoutStats {
        self.stats
    }

    /// The position of a packet on the timeline, which begins again when the packet does not fit; none when
    /// it was here before.
    fn place(&mut self, now: i64, rtp: &Rtp<'_>) -> Option<i64> {
        if let Some(line) = self.line.as_mut().filter(|line| line.ssrc == rtp.ssrc()) {
            let position =
                line.position + i64::from(rtp.timestamp().wrapping_sub(line.timestamp) as i32);
            let early = self.transit.fastest() - (now - position);
            if early.abs() < JUMP_SAMPLES {
                if !line.is_new(rtp.sequence()) {
                    return None;
                }
                if position > line.position {
                    (line.position, line.timestamp) = (position, rtp.timestamp());
                }
                return Some(position);
            }
        }
        if self.line.is_some() {
            self.restart();
        }
        let position = now;
        self.line = Some(Line {
            ssrc: rtp.ssrc(),
            timestamp: rtp.timestamp(),
            position,
            sequence: rtp.sequence(),
            seen: 1,
        });
        self.transit = Transit::NONE;
        Some(position)
    }

    /// Forgets what has not been played.
    fn restart(&mut self) {
        self.ring.fill(EMPTY);
        self.talking = false;
        self.waiting = None;
        self.end = i64::MIN;
        self.late_in_a_row = 0;
        self.transit = Transit::NONE;
        self.stats.restarts += 1;
    }

    /// Sound of a talker who was silent; it waits for the next turn. What does not fit into the ring with
    /// it is forgotten.
    fn wait_from(&mut self, position: i64, length: i64) {
        let first = self.waiting.map_or(position, |waiting| waiting.min(position));
        let end = self.end.max(position + length);
        if self.waiting.is_some() && end - first <= RING as i64 {
            self.waiting = Some(first);
        } else {
            self.ring.fill(EMPTY);
            self.end = position + length;
            self.waiting = Some(position);
        }
    }

    /// A talker begins, if there is sound: the first of it is played when the delay has passed since it
    /// was to be expected.
    fn begin(&mut self, now: i64) -> bool {
        let Some(first) = self.waiting.take() else { return false };
        let expected = now - self.transit.fastest();
        let position = (expected - self.transit.target())
            .min(first)
            .max(expected - i64::from(DELAY_MAX_SAMPLES))
            // A burst that is older than that is not played; its end is, so that there is something.
            .min(self.end - FRAME_SAMPLES as i64)
            .max(self.end - RING as i64);
        self.position = first.min(position);
        self.skip_to(position);
        self.talking = true;
        // Until its first sample comes there is nothing to sound like.
        self.missing = CONCEAL_SAMPLES;
        self.last = [0; FRAME_SAMPLES];
        true
    }

    /// Goes on at `position` and empties the ring before it.
    fn skip_to(&mut self, position: i64) {
        let count = (position - self.position).clamp(0, RING as i64) as usize;
        let first = slot(self.position);
        let straight = count.min(RING - first);
        self.ring[first..first + straight].fill(EMPTY);
        self.ring[..count - straight].fill(EMPTY);
        self.position = self.position.max(position);
    }

    /// True when none of the next samples is missing.
    fn is_whole(&self, count: usize) -> bool {
        (self.position..).take(count).all(|at| self.ring[slot(at)] != EMPTY)
    }

    fn peek(&self, from: i64) -> Frame {
        let mut frame = [EMPTY; FRAME_SAMPLES];
        let first = slot(from);
        let straight = FRAME_SAMPLES.min(RING - first);
        frame[..straight].copy_from_slice(&self.ring[first..first + straight]);
        frame[straight..].copy_from_slice(&self.ring[..FRAME_SAMPLES - straight]);
        frame
    }

    /// The next frame and the one after it in the time of one.
    fn leave_out(&mut self) -> Frame {
        let frame =
            fade(&self.peek(self.position), &self.peek(self.position + FRAME_SAMPLES as i64));
        self.skip_to(self.position + 2 * FRAME_SAMPLES as i64);
        self.since_left_out = 0;
        self.stats.left_out += 1;
        self.missing = 0;
        self.last = frame;
        frame
    }

    /// A frame that leads from the last one to itself: the next turn plays what this one would have.
    fn put_in(&mut self) -> Frame {
        self.stats.put_in += 1;
        if self.missing == 0 && self.is_whole(FRAME_SAMPLES) {
            return fade(&self.peek(self.position), &self.last);
        }
        let mut frame = [EMPTY; FRAME_SAMPLES];
        self.conceal(&mut frame);
        frame
    }

    /// Takes the next frame out of the ring and fills what is missing.
    fn take(&mut self) -> Frame {
        let mut frame = self.peek(self.position);
        self.skip_to(self.position + FRAME_SAMPLES as i64);
        if frame.iter().filter(|&&sample| sample == EMPTY).count() == 0 {
            self.missing = 0;
            self.last = frame;
        } else {
            self.conceal(&mut frame);
        }
        frame
    }

    /// Fills what is missing with the last whole frame, over and over, ever more quietly.
    fn conceal(&mut self, frame: &mut Frame) {
        for (sample, &like) in frame.iter_mut().zip(&self.last) {
            if *sample != EMPTY {
                self.missing = 0;
                continue;
            }
            let left = (CONCEAL_SAMPLES - self.missing) as i32;
            *sample = (i32::from(like) * left / CONCEAL_SAMPLES as i32) as i16;
            if left > 0 {
                self.missing += 1;
                self.stats.concealed += 1;
            }
        }
    }
}

impl Line {
    /// Notes a sequence number; false when it was here among the last 64.
    fn is_new(&mut self, sequence: u16) -> bool {
        let step = sequence.wrapping_sub(self.sequence) as i16;
        if step > 0 {
            self.seen = self.seen.checked_shl(step as u32).unwrap_or(0) | 1;
            self.sequence = sequence;
            return true;
        }
        let bit = 1u64.checked_shl(u32::from(step.unsigned_abs())).unwrap_or(0);
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

impl Transit {
    const NONE: Transit = Transit { fastest: [i64::MAX; 2], slowest: [i64::MIN; 2], packets: 0 };

    fn note(&mut self, transit: i64) {
        if self.packets == WINDOW_PACKETS {
            self.fastest = [i64::MAX, self.fastest[0]];
            self.slowest = [i64::MIN, self.slowest[0]];
            self.packets = 0;
        }
        self.packets += 1;
        self.fastest[0] = self.fastest[0].min(transit);
        self.slowest[0] = self.slowest[0].max(transit);
    }

    /// The transit of the fastest packet; 0 as long as there is none.
    fn fastest(&self) -> i64 {
        match self.fastest[0].min(self.fastest[1]) {
            i64::MAX => 0,
            fastest => fastest,
        }
    }

    /// The delay behind the fastest packet that lets the slowest one be in time: a frame spans two packets
    /// at worst, so that the end of it comes a frame later than its beginning.
    fn target(&self) -> i64 {
        let (min, max) = (i64::from(DELAY_MIN_SAMPLES), i64::from(DELAY_MAX_SAMPLES));
        let slowest = self.slowest[0].max(self.slowest[1]);
        let jitter = if self.packets == 0 { 0 } else { slowest.saturating_sub(self.fastest()) };
        let first = self.slowest[1] == i64::MIN;
        let target = jitter + min;
        (if first { target.max(DELAY_FIRST_SAMPLES) } else { target }).clamp(min, max)
    }
}

/// The instant in samples of our clock.
fn samples(instant: Instant) -> i64 {
    (instant.as_nanos() / 125_000) as i64
}

fn slot(position: i64) -> usize {
    // A power of two, so that it is right for what lies before zero as well.
    position as usize % RING
}

/// From one frame to the other.
fn fade(from: &Frame, to: &Frame) -> Frame {
    std::array::from_fn(|index| {
        let (from, to) = (i32::from(from[index]), i32::from(to[index]));
        ((from * (FRAME_SAMPLES - index) as i32 + to * index as i32) / FRAME_SAMPLES as i32) as i16
    })
}

#[cfg(test)]
mod tests;
