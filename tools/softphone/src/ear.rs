use core::time::Duration;

use base::Instant;
use media::g711::Law;
use media::tone::{SAMPLE_RATE, share};
use media::wire::Rtp;

/// How far back a sequence number is told from a duplicate: 10 s of 20 ms frames.
const WINDOW: u64 = 512;
/// A jump of sequence numbers beyond this is a new start, not loss (RFC 3550, A.1, MAX_DROPOUT).
const LONGEST_GAP: u64 = 3_000;
/// Samples that a tone is looked for in: 200 ms, so that a tone is known to within 5 Hz.
const BLOCK: usize = 1_600;
/// The share of a block's energy that a tone must have.
const TONE_SHARE: f32 = 0.8;

/// What came in on one call's stream: order, loss, jitter and the tone in it.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    source: Option<Source>,
    block: Vec<i16>,
    heard: Heard,
}

/// The counts of what was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Packets with new sequence numbers.
    pub received: u64,
    /// Sequence numbers below the highest that never came.
    pub lost: u64,
    /// Packets that had come before.
    pub duplicate: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Datagrams that are no RTP, or carry what was not agreed on.
    pub invalid: u64,
    /// Synchronization sources seen one after the other.
    pub sources: u32,
    /// Interarrival jitter in microseconds (RFC 3550, 6.4.1).
    pub jitter_us: u64,
    /// Blocks of 200 ms that were listened to.
    pub blocks: u64,
    /// Blocks in which one tone was nearly all there was.
    pub tone_blocks: u64,
    /// The tone of the last such block in Hz; 0 while none was heard.
    pub tone_hz: u32,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    /// Extended sequence numbers: the first and the highest.
    first: u64,
    highest: u64,
    /// Bit n is set when `highest - n` has come.
    seen: [u64; (WINDOW / 64) as usize],
    unique: u64,
    /// Loss of the sources and stretches before this one.
    lost_before: u64,
    /// Transit time in timestamp units, for the jitter.
    transit: i64,
    jitter_16: u64,
    reported_expected: u64,
    reported_unique: u64,
}

/// What a report block tells about a source (RFC 3550, 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reception {
    pub(crate) ssrc: u32,
    pub(crate) fraction_lost: u8,
    pub(crate) lost: u32,
    pub(crate) highest: u32,
    pub(crate) jitter: u32,
}

impl Ear {
    /// Counts a datagram of the stream, and listens to its tone when `listen` says so.
    pub(crate) fn hear(&mut self, now: Instant, datagram: &[u8], listen: bool) {
        // Both laws may be agreed on at a time, and the sender may change between them.
        let valid = Rtp::parse(datagram)
            .ok()
            .and_then(|rtp| Some((Law::of_payload_type(rtp.payload_type())?, rtp)));
        let Some((law, rtp)) = valid else {
            self.heard.invalid += 1;
            return;
        };
        if !self.place(now, &rtp) {
            return;
        }
        self.heard.received += 1;
        if listen {
            self.listen(rtp.payload(), law);
        }
    }

    /// What has been heard so far.
    pub(crate) fn heard(&self) -> Heard {
        let mut heard = self.heard;
        if let Some(source) = &self.source {
            heard.lost = source.lost();
            // Sixteenths of a sample time of 125 us.
            heard.jitter_us = source.jitter_16 * 1_000_000 / 16 / u64::from(SAMPLE_RATE);
        }
        heard
    }

    /// The report block about the present source, counted from the report before.
    pub(crate) fn report(&mut self) -> Option<Reception> {
        let source = self.source.as_mut()?;
        let expected = source.highest - source.first + 1;
        let (new, came) =
            (expected - source.reported_expected, source.unique - source.reported_unique);
        (source.reported_expected, source.reported_unique) = (expected, source.unique);
        let fraction = (new.saturating_sub(came) * 256).checked_div(new).unwrap_or(0);
        Some(Reception {
            ssrc: source.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: u32::try_from(source.lost()).unwrap_or(u32::MAX).min(0x7f_ffff),
            highest: source.highest as u32,
            jitter: (source.jitter_16 / 16) as u32,
        })
    }

    /// Finds the packet's place among the sequence numbers; false for a duplicate.
    fn place(&mut self, now: Instant, rtp: &Rtp<'_>) -> bool {
        let source = match &mut self.source {
            Some(source) if source.ssrc == rtp.ssrc() => source,
            before => {
                let lost_before = before.as_ref().map_or(0, Source::lost);
                self.heard.sources += 1;
                *before = Some(Source::new(now, rtp, lost_before));
                return true;
            }
        };
        source.time(now, rtp.timestamp());
        let step = i64::from(rtp.sequence().wrapping_sub(source.highest as u16) as i16);
        if step.unsigned_abs() > LONGEST_GAP {
            *source = Source::new(now, rtp, source.lost());
            return true;
        }
        if step > 0 {
            source.advance(step.unsigned_abs());
            return true;
        }
        let back = step.unsigned_abs();
        if back >= WINDOW || source.highest < source.first + back || source.mark(back) {
            self.heard.duplicate += 1;
            return false;
        }
        self.heard.reordered += 1;
        true
    }

    fn listen(&mut self, payload: &[u8], law: Law) {
        self.block.extend(payload.iter().map(|code| law.decode(*code)));
        while self.block.len() >= BLOCK {
            self.heard.blocks += 1;
            if let Some(hz) = tone_in(&self.block[..BLOCK]) {
                self.heard.tone_blocks += 1;
                self.heard.tone_hz = hz;
            }
            self.block.drain(..BLOCK);
        }
    }
}

impl Source {
    fn new(now: Instant, rtp: &Rtp<'_>, lost_before: u64) -> Self {
        // Far from zero, so that packets from before the first one have a number too.
        let first = (1 << 32) | u64::from(rtp.sequence());
        let mut seen = [0; (WINDOW / 64) as usize];
        seen[0] = 1;
        Source {
            ssrc: rtp.ssrc(),
            first,
            highest: first,
            seen,
            unique: 1,
            lost_before,
            transit: transit(now, rtp.timestamp()),
            jitter_16: 0,
            reported_expected: 0,
            reported_unique: 0,
        }
    }

    fn lost(&self) -> u64 {
        self.lost_before + (self.highest - self.first + 1).saturating_sub(self.unique)
    }

    /// RFC 3550, 6.4.1: J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16, kept in sixteenths as in A.8.
    fn time(&mut self, now: Instant, timestamp: u32) {
        let transit = transit(now, timestamp);
        let moved = (transit.wrapping_sub(self.transit) as i32).unsigned_abs();
        self.transit = transit;
        self.jitter_16 = self.jitter_16 + u64::from(moved) - ((self.jitter_16 + 8) >> 4);
    }

    fn advance(&mut self, steps: u64) {
        self.highest += steps;
        self.unique += 1;
        shift(&mut self.seen, steps);
        self.seen[0] |= 1;
    }

    /// Marks `highest - back` as seen; true when it was.
    fn mark(&mut self, back: u64) -> bool {
        let (word, bit) = ((back / 64) as usize, 1 << (back % 64));
        let was = self.seen[word] & bit != 0;
        if !was {
            self.seen[word] |= bit;
            self.unique += 1;
        }
        was
    }
}

fn shift(words: &mut [u64], steps: u64) {
    let (whole, bits) = ((steps / 64) as usize, steps % 64);
    for at in (0..words.len()).rev() {
        let high = at.checked_sub(whole).map_or(0, |from| words[from]);
        let low = at.checked_sub(whole + 1).map_or(0, |from| words[from]);
        words[at] = if bits == 0 { high } else { (high << bits) | (low >> (64 - bits)) };
    }
}

/// Arrival minus timestamp in timestamp units, as a 32-bit difference that wraps.
fn transit(now: Instant, timestamp: u32) -> i64 {
    let arrival = now.as_nanos() / (1_000_000_000 / u64::from(SAMPLE_RATE));
    i64::from((arrival as u32).wrapping_sub(timestamp) as i32)
}

/// The one tone that makes up `samples`, in Hz: its period by the rising zero crossings, then
/// whether its energy is nearly all.
fn tone_in(samples: &[i16]) -> Option<u32> {
    let rising = |at: &usize| samples[at - 1] < 0 && samples[*at] >= 0;
    let mut crossings = (1..samples.len()).filter(rising).map(|at| {
        // The crossing lies between two samples, where their line meets zero.
        let (before, after) = (f32::from(samples[at - 1]), f32::from(samples[at]));
        at as f32 - after / (after - before)
    });
    let first = crossings.next()?;
    let (mut count, mut last) = (0_u32, first);
    for crossing in crossings {
        count += 1;
        last = crossing;
    }
    if count == 0 {
        return None;
    }
    let hz = (SAMPLE_RATE as f32 * count as f32 / (last - first)).round() as u32;
    (share(samples, hz) > TONE_SHARE).then_some(hz)
}

/// The interval between two frames.
pub(crate) const FRAME: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use media::tone::Tone;
    use media::wire::RtpHeader;

    use super::*;

    fn packet(sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
        let timestamp = u32::from(sequence).wrapping_mul(160);
        let header = RtpHeader { marker: false, payload_type: 0, sequence, timestamp, ssrc };
        [&header.bytes()[..], payload].concat()
    }

    fn hear(sequences: &[u16]) -> Heard {
        let mut ear = Ear::default();
        for (at, sequence) in sequences.iter().enumerate() {
            let now = Instant::from_nanos(at as u64 * 20_000_000);
            ear.hear(now, &packet(*sequence, 7, &[0xff; 160]), false);
        }
        ear.heard()
    }

    fn counts(heard: Heard) -> [u64; 4] {
        [heard.received, heard.lost, heard.duplicate, heard.reordered]
    }

    #[test]
    fn sequence_numbers_tell_what_happened() {
        for (name, sequences, expected) in [
            ("in order", vec![10, 11, 12, 13], [4, 0, 0, 0]),
            ("over the wrap", vec![65_534, 65_535, 0, 1], [4, 0, 0, 0]),
            ("one lost", vec![10, 11, 13], [3, 1, 0, 0]),
            ("one late", vec![10, 12, 11, 13], [4, 0, 0, 1]),
            ("late over the wrap", vec![65_535, 1, 0, 2], [4, 0, 0, 1]),
            ("twice", vec![10, 11, 11, 12], [3, 0, 1, 0]),
            ("late and twice", vec![10, 12, 11, 11], [3, 0, 1, 1]),
            ("a long gap", vec![0, 600, 601], [3, 599, 0, 0]),
            ("a new start", vec![0, 1, 20_000, 20_001], [4, 0, 0, 0]),
        ] {
            assert_eq!(counts(hear(&sequences)), expected, "{name}");
        }
    }

    #[test]
    fn every_place_of_the_window_is_remembered() {
        let mut sequences: Vec<u16> = (0..WINDOW as u16).rev().map(|back| 1_000 - back).collect();
        sequences.extend((0..WINDOW as u16).map(|back| 1_000 - back));
        assert_eq!(counts(hear(&sequences)), [WINDOW, 0, WINDOW, 0]);
    }

    #[test]
    fn steady_arrival_has_no_jitter() {
        assert_eq!(hear(&(0..100).collect::<Vec<_>>()).jitter_us, 0);
    }

    #[test]
    fn the_tone_is_found_and_noise_is_none() {
        for hz in [300, 440, 941, 1_633, 3_000] {
            let mut ear = Ear::default();
            let mut tone = Tone::new(hz, 8_000);
            for sequence in 0..20 {
                let payload: Vec<u8> =
                    tone.by_ref().take(160).map(|sample| Law::Mu.encode(sample)).collect();
                ear.hear(Instant::ZERO, &packet(sequence, 7, &payload), true);
            }
            let heard = ear.heard();
            assert_eq!((heard.blocks, heard.tone_blocks), (2, 2), "{hz}");
            assert!(heard.tone_hz.abs_diff(hz) <= 1, "{hz}: {}", heard.tone_hz);
        }
        let mut rng = base::Rng::from_number(1);
        let noise: Vec<i16> = (0..BLOCK).map(|_| rng.next_u32() as i16).collect();
        assert_eq!(tone_in(&noise), None);
        assert_eq!(tone_in(&[0; BLOCK]), None);
    }

    #[test]
    fn a_report_tells_the_share_lost_since_the_last() {
        let mut ear = Ear::default();
        for sequence in [0, 1, 2, 3] {
            ear.hear(Instant::ZERO, &packet(sequence, 7, &[0; 160]), false);
        }
        assert_eq!(ear.report().map(|report| report.fraction_lost), Some(0));
        for sequence in [5, 7] {
            ear.hear(Instant::ZERO, &packet(sequence, 7, &[0; 160]), false);
        }
        let report = ear.report().unwrap();
        assert_eq!((report.fraction_lost, report.lost), (128, 2));
        assert_eq!(report.highest & 0xffff, 7);
    }

    #[test]
    fn what_is_no_agreed_rtp_is_invalid() {
        let mut ear = Ear::default();
        ear.hear(Instant::ZERO, b"short", true);
        let mut event = packet(1, 7, &[0; 160]);
        event[1] = 101;
        ear.hear(Instant::ZERO, &event, true);
        assert_eq!(ear.heard().invalid, 2);
    }
}
