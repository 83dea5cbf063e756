//! One direction of a recording: where on its timeline each packet lies, and what was lost.
//!
//! Nothing is buffered: a packet becomes a piece with its position at once, in whatever order it comes,
//! and only gaps are kept until they are filled or [`REORDER_PACKETS`] have passed.
//!
//! The timeline has 8,000 samples a second and begins with the recording. The first packet lies where it
//! arrived, all further ones where their RTP timestamps say. Another SSRC, timestamps that jump and a
//! sender that stands still lie where they arrive again; the timeline never goes back.

use base::Instant;

use crate::codec::Codec;
use crate::wire::Rtp;

/// How many packets later a missing one is lost: 1.28 s of packets of 20 ms.
pub const REORDER_PACKETS: u16 = 64;

/// The most samples of a [`Piece::Chunk`]: 60 ms.
pub const CHUNK_SAMPLES: usize = 480;

/// The most gaps that are kept open; half of all packets of the window are missing.
const GAPS: usize = REORDER_PACKETS as usize / 2;

/// A step of sequence numbers beyond this is a restart of the sender (RFC 3550, A.1: MAX_DROPOUT).
const DROPOUT: i16 = 3_000;

/// How far timestamps may be ahead of the time and the packets that passed, in samples: 0.5 s.
const JUMP_SAMPLES: i64 = 4_000;

/// How far timestamps and arrival may drift apart, in samples: 2 s. A network seldom holds back longer,
/// a sender on hold whose timestamps stand still does; clocks 100 ppm apart need five hours for it.
const DRIFT_SAMPLES: i64 = 16_000;

/// What goes into a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Sound.
    Chunk {
        /// Samples since the recording began.
        position: u64,
        /// How the sound is coded.
        codec: Codec,
        /// A byte a sample, 1 to [`CHUNK_SAMPLES`].
        payload: &'a [u8],
    },
    /// Sound that the network lost.
    Lost {
        /// Samples since the recording began.
        position: u64,
        /// How many are missing.
        samples: u64,
    },
}

/// What a recorder counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Packets whose sound was recorded.
    pub recorded: u64,
    /// Packets that came while it was paused.
    pub paused: u64,
    /// Packets that carry no sound that can be recorded: digits, comfort noise, other codecs.
    pub foreign: u64,
    /// Packets that came twice, or after they were given up.
    pub surplus: u64,
    /// Packets that were lost.
    pub lost: u64,
    /// How often the timeline was tied to the arrival of a packet; 1 in a call without a break.
    pub anchors: u64,
}

/// One direction of a recording.
#[derive(Clone, Debug)]
pub struct Recorder {
    start: Instant,
    line: Option<Line>,
    /// Where the sound so far ends, in samples.
    end: u64,
    paused: bool,
    /// Nothing that comes out of turn is recorded before this: it may belong to a pause.
    floor: u64,
    /// Missing packets, oldest first.
    gaps: Vec<Gap>,
    stats: RecorderStats,
}

/// The sound with the highest sequence number, to which all others are related.
#[derive(Clone, Copy, Debug)]
struct Line {
    ssrc: u32,
    /// The highest one, of a packet with or without sound.
    sequence: u16,
    timestamp: u32,
    position: i64,
    length: u64,
    arrival: Instant,
}

/// Packets that are missing one after the other, and the samples that they may have held.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u16,
    packets: u16,
    position: u64,
    end: u64,
    /// The most samples of each of the packets; 0 when they need not have existed, so that none is lost.
    each: u64,
}

/// What a packet is to the [`Line`].
enum Step {
    /// After it; so many are missing between the two.
    Next(u16),
    /// Before it.
    Earlier,
    /// Of another timeline.
    Anew,
}

impl Recorder {
    /// A recording that begins at `start`.
    pub fn new(start: Instant) -> Self {
        Recorder {
            start,
            line: None,
            end: 0,
            paused: false,
            floor: 0,
            gaps: Vec::new(),
            stats: RecorderStats::default(),
        }
    }

    /// Takes a packet of this direction; what is to be recorded goes to `sink`.
    ///
    /// Packets that carry no G.711 have their place in the sequence and leave no sound.
    pub fn packet(&mut self, arrival: Instant, rtp: &Rtp<'_>, sink: &mut impl FnMut(Piece<'_>)) {
        let sound = Codec::of_payload_type(rtp.payload_type()).map(|codec| (codec, rtp.payload()));
        let length = sound.map_or(0, |(_, payload)| payload.len() as u64);
        let position = match self.step(arrival, rtp, sound.is_some()) {
            Step::Next(missing) => Some(self.next(arrival, rtp, missing, length, sink)),
            Step::Earlier => self.earlier(rtp, length),
            // Without sound there is no telling where the new timeline lies.
            Step::Anew if sound.is_none() => None,
            Step::Anew => Some(self.anew(arrival, rtp, sink)),
        };
        match (position, sound) {
            (None, Some(_)) => self.stats.surplus += 1,
            (_, None) => self.stats.foreign += 1,
            (Some(position), Some((codec, payload))) => {
                self.end = self.end.max(position + length);
                if self.paused {
                    self.stats.paused += 1;
                    return;
                }
                self.stats.recorded += 1;
                for (index, payload) in payload.chunks(CHUNK_SAMPLES).enumerate() {
                    let position = position + (index * CHUNK_SAMPLES) as u64;
                    sink(Piece::Chunk { position, codec, payload });
                }
            }
        }
    }

    /// Records nothing that arrives from now on, and never what belongs to this span. The timeline goes on.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Records what arrives from `now` on.
    pub fn resume(&mut self, now: Instant) {
        if self.paused {
            self.paused = false;
            self.floor = self.end.max(self.position_of(now));
        }
    }

    /// Gives up what is still missing; call it at the end.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece<'_>)) {
        for gap in std::mem::take(&mut self.gaps) {
            self.give_up(gap, sink);
        }
    }

    /// What was counted so far; what is missing counts as lost once it is given up.
    pub fn stats(&self) -> RecorderStats {
        self.stats
    }

    /// Where on the timeline `now` is, in samples since the recording began.
    pub fn position_of(&self, now: Instant) -> u64 {
        (now.since(self.start).as_nanos() / 125_000) as u64
    }

    fn step(&self, arrival: Instant, rtp: &Rtp<'_>, sound: bool) -> Step {
        let Some(line) = self.line.filter(|line| line.ssrc == rtp.ssrc()) else {
            return Step::Anew;
        };
        let step = rtp.sequence().wrapping_sub(line.sequence) as i16;
        if step <= 0 {
            return if step > -DROPOUT { Step::Earlier } else { Step::Anew };
        }
        if step > DROPOUT {
            return Step::Anew;
        }
        // An event's packets carry the time when it began (RFC 4733, 2.3.4): they may look back.
        if sound {
            let advance = line.advance_to(rtp);
            let passed = (arrival.since(line.arrival).as_nanos() / 125_000) as i64;
            let held = i64::from(step) * CHUNK_SAMPLES as i64;
            let drift = line.position + advance - self.position_of(arrival) as i64;
            if advance < 0
                || advance > passed.max(held) + JUMP_SAMPLES
                || drift.abs() > DRIFT_SAMPLES
            {
                return Step::Anew;
            }
        }
        Step::Next(step as u16 - 1)
    }

    /// Moves the line on to a packet and returns its position.
    fn next(
        &mut self,
        arrival: Instant,
        rtp: &Rtp<'_>,
        missing: u16,
        length: u64,
        sink: &mut impl FnMut(Piece<'_>),
    ) -> u64 {
        let Some(line) = &mut self.line else { return self.end };
        let first = line.sequence.wrapping_add(1);
        let position = (line.position + line.advance_to(rtp)).max(0);
        line.sequence = rtp.sequence();
        // What carries no sound need not carry the time either, so it is measured between sounds.
        let each = line.length.max(length);
        if length > 0 {
            line.arrival = arrival;
            line.timestamp = rtp.timestamp();
            line.position = position;
            line.length = length;
        }
        let position = position as u64;
        self.open_gap(first, missing, position, each);
        self.close_old_gaps(sink);
        position
    }

    /// Remembers that `packets` are missing before `end`.
    fn open_gap(&mut self, first: u16, packets: u16, end: u64, each: u64) {
        let position = self.end.max(self.floor);
        if packets > 0 && position < end && !self.paused {
            self.gaps.push(Gap { first, packets, position, end, each });
        }
    }

    fn close_old_gaps(&mut self, sink: &mut impl FnMut(Piece<'_>)) {
        let Some(line) = self.line else { return };
        while let Some(&gap) = self.gaps.first() {
            let last = gap.first.wrapping_add(gap.packets - 1);
            if self.gaps.len() <= GAPS && line.sequence.wrapping_sub(last) <= REORDER_PACKETS {
                return;
            }
            self.gaps.remove(0);
            self.give_up(gap, sink);
        }
    }

    fn give_up(&mut self, gap: Gap, sink: &mut impl FnMut(Piece<'_>)) {
        // A gap may be longer than its packets when the sender was silent as well.
        let samples = (gap.end - gap.position).min(u64::from(gap.packets) * gap.each);
        if samples > 0 {
            self.stats.lost += u64::from(gap.packets);
            sink(Piece::Lost { position: gap.position, samples });
        }
    }

    /// Takes a packet out of the gap that it is missing in and returns its position; none when it is
    /// missing nowhere, or does not fit there.
    fn earlier(&mut self, rtp: &Rtp<'_>, length: u64) -> Option<u64> {
        let inside = |gap: &Gap| rtp.sequence().wrapping_sub(gap.first) < gap.packets;
        let index = self.gaps.iter().position(inside)?;
        let gap = self.gaps[index];
        let line = self.line?;
        let position = u64::try_from(line.position + line.advance_to(rtp)).ok()?;
        if position < gap.position || position + length > gap.end {
            return None;
        }
        let before = rtp.sequence().wrapping_sub(gap.first);
        let left = Gap { packets: before, end: position, ..gap };
        let right = Gap {
            first: rtp.sequence().wrapping_add(1),
            packets: gap.packets - before - 1,
            position: position + length,
            ..gap
        };
        let rests = [left, right].into_iter().filter(|gap| gap.packets > 0);
        self.gaps.splice(index..=index, rests);
        Some(position)
    }

    /// Ties the timeline to the arrival of a packet and returns its position.
    fn anew(&mut self, arrival: Instant, rtp: &Rtp<'_>, sink: &mut impl FnMut(Piece<'_>)) -> u64 {
        self.finish(sink);
        let position = self.position_of(arrival).max(self.end);
        let sequence = rtp.sequence();
        let length = rtp.payload().len() as u64;
        match self.line.filter(|line| line.ssrc == rtp.ssrc()) {
            Some(line) => {
                let step = sequence.wrapping_sub(line.sequence) as i16;
                if (2..=DROPOUT).contains(&step) {
                    let first = line.sequence.wrapping_add(1);
                    self.open_gap(first, step as u16 - 1, position, length);
                }
            }
            // The first packet may have overtaken others; they are recorded, but not missed.
            None => {
                let first = sequence.wrapping_sub(REORDER_PACKETS);
                self.open_gap(first, REORDER_PACKETS, position, 0);
            }
        }
        self.line = Some(Line {
            ssrc: rtp.ssrc(),
            sequence,
            timestamp: rtp.timestamp(),
            position: position as i64,
            length,
            arrival,
        });
        self.stats.anchors += 1;
        position
    }
}

impl Line {
    /// Samples from this packet to that one; negative when that one is older.
    fn advance_to(&self, rtp: &Rtp<'_>) -> i64 {
        i64::from(rtp.timestamp().wrapping_sub(self.timestamp) as i32)
    }
}

#[cfg(test)]
mod tests;
