use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;

use base::{Instant, Rng};
use media::g711::Law;
use media::tone::Tone;
use media::wire::{Rtcp, RtpHeader};

use crate::Output;
use crate::ear::{Ear, FRAME, Heard};

/// Samples of one frame.
const SAMPLES: u32 = 160;
/// Peaks of the tone: 12 dB below the loudest.
const AMPLITUDE: i16 = 8_000;
/// How often a report goes out.
const REPORT: Duration = Duration::from_secs(5);
/// RFC 3550, 6.2: the first report comes after half the interval.
const FIRST_REPORT: Duration = Duration::from_millis(2_500);
/// Frames that a key is held down, and packets that tell its end (RFC 4733, 2.5.1.4 recommends three).
const PRESSED_FRAMES: u16 = 5;
const END_PACKETS: u16 = 3;
/// The loudness of a key in -dBm0.
const KEY_VOLUME: u8 = 10;
/// A phone that was paused does not send what is older than this.
const LATEST: Duration = Duration::from_millis(500);

/// What one call's media did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaReport {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received, and what was wrong with them.
    pub heard: Heard,
    /// RTCP packets sent.
    pub rtcp_sent: u64,
    /// Valid RTCP packets received.
    pub rtcp_received: u64,
}

/// One call's media, both ways.
#[derive(Debug)]
pub(crate) struct Stream {
    law: Law,
    remote: SocketAddr,
    remote_rtcp: SocketAddr,
    /// What both sides' directions allow; nothing is sent while false.
    sending: bool,
    listen: bool,
    frames_left: Option<u32>,
    tone: Tone,
    header: RtpHeader,
    /// Octets of payload, for the sender report.
    octets: u32,
    next_frame: Instant,
    next_report: Instant,
    ear: Ear,
    report: MediaReport,
    events: Option<u8>,
    keys: VecDeque<u8>,
    pressing: Option<Pressing>,
    /// The middle of the last sender report's time, and when it came (RFC 3550, 6.4.1, LSR).
    last_report: Option<(u32, Instant)>,
}

/// A key that is down, or whose end is being told.
#[derive(Clone, Copy, Debug)]
struct Pressing {
    event: u8,
    /// When it was pressed, which all its packets carry.
    timestamp: u32,
    packets: u16,
}

/// How a stream is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) law: Law,
    pub(crate) remote: SocketAddr,
    pub(crate) remote_rtcp: SocketAddr,
    pub(crate) sending: bool,
    pub(crate) tone_hz: u32,
    pub(crate) frames: Option<u32>,
    pub(crate) listen: bool,
    pub(crate) events: Option<u8>,
}

impl Stream {
    pub(crate) fn new(now: Instant, start: Start, rng: &mut Rng) -> Self {
        let header = RtpHeader {
            marker: true,
            payload_type: start.law.payload_type(),
            // RFC 3550, 5.1: both start at random. The first sequence number stays away from the
            // wrap, so that SRTP's rollover counter, where it is used, starts at zero on both
            // sides.
            sequence: (rng.next_u32() as u16) & 0x7fff,
            timestamp: rng.next_u32(),
            ssrc: rng.next_u32(),
        };
        Stream {
            law: start.law,
            remote: start.remote,
            remote_rtcp: start.remote_rtcp,
            sending: start.sending,
            listen: start.listen,
            frames_left: start.frames,
            tone: Tone::new(start.tone_hz, AMPLITUDE),
            header,
            octets: 0,
            next_frame: now,
            next_report: now + FIRST_REPORT,
            ear: Ear::default(),
            report: MediaReport::default(),
            events: start.events,
            keys: VecDeque::new(),
            pressing: None,
            last_report: None,
        }
    }

    /// Where the peer now wants its media, and whether any is to be sent.
    pub(crate) fn redirect(
        &mut self,
        now: Instant,
        law: Law,
        remote: SocketAddr,
        remote_rtcp: SocketAddr,
        sending: bool,
    ) {
        (self.remote, self.remote_rtcp) = (remote, remote_rtcp);
        if law != self.law {
            self.law = law;
            self.header.payload_type = law.payload_type();
        }
        if sending && !self.sending {
            // RFC 3550, 5.1: the timestamp goes on with the clock through a silence, and the marker
            // shows the first packet after it (RFC 3551, 4.1).
            let silence = now.since(self.next_frame).as_millis() as u64 * 8;
            self.header.timestamp = self.header.timestamp.wrapping_add(silence as u32);
            self.header.marker = true;
            self.next_frame = now;
        }
        self.sending = sending;
    }

    /// Presses a key after those that are still to be pressed.
    pub(crate) fn press(&mut self, event: u8) {
        if self.events.is_some() {
            self.keys.push_back(event);
        }
    }

    /// Sends no more frames.
    pub(crate) fn silence(&mut self) {
        self.sending = false;
    }

    /// When [`Stream::run`] is due.
    pub(crate) fn deadline(&self) -> Instant {
        if self.sends() { self.next_frame.min(self.next_report) } else { self.next_report }
    }

    /// Sends what is due.
    pub(crate) fn run(&mut self, now: Instant, cname: &str, out: &mut Vec<Output>) {
        if self.sends() && now.since(self.next_frame) > LATEST {
            self.next_frame = now;
        }
        while self.sends() && self.next_frame <= now {
            self.next_frame = self.next_frame + FRAME;
            self.frames_left = self.frames_left.map(|left| left.saturating_sub(1));
            out.push(self.frame());
        }
        if self.next_report <= now {
            self.next_report = now + REPORT;
            self.report.rtcp_sent += 1;
            let packet = self.sender_report(now, cname);
            out.push(Output::Rtcp { to: self.remote_rtcp, packet });
        }
    }

    pub(crate) fn hear(&mut self, now: Instant, packet: &[u8]) {
        self.ear.hear(now, packet, self.listen);
    }

    pub(crate) fn hear_report(&mut self, now: Instant, packet: &[u8]) {
        let Ok(rtcp) = Rtcp::parse(packet) else { return };
        self.report.rtcp_received += 1;
        // A sender report: its sender, then the time in 64 bits, of which the middle 32 count.
        let report = rtcp.packets().find(|packet| packet.packet_type == 200);
        if let Some(middle) = report.and_then(|report| report.body.get(6..10)) {
            let middle = u32::from_be_bytes([middle[0], middle[1], middle[2], middle[3]]);
            self.last_report = Some((middle, now));
        }
    }

    pub(crate) fn report(&self) -> MediaReport {
        MediaReport { heard: self.ear.heard(), ..self.report }
    }

    fn sends(&self) -> bool {
        self.sending && self.frames_left != Some(0)
    }

    fn frame(&mut self) -> Output {
        if self.pressing.is_none()
            && let Some(event) = self.keys.pop_front()
        {
            let timestamp = self.header.timestamp;
            self.pressing = Some(Pressing { event, timestamp, packets: 0 });
        }
        match (self.pressing, self.events) {
            (Some(pressing), Some(payload_type)) => self.key_frame(pressing, payload_type),
            _ => self.tone_frame(),
        }
    }

    /// RFC 4733, 2.3 and 2.5: the event, whether it has ended and its loudness, its duration so far.
    fn key_frame(&mut self, pressing: Pressing, payload_type: u8) -> Output {
        let packets = pressing.packets + 1;
        let header = RtpHeader {
            marker: packets == 1,
            payload_type,
            timestamp: pressing.timestamp,
            ..self.header
        };
        let ended = packets > PRESSED_FRAMES;
        let duration = packets.min(PRESSED_FRAMES) * SAMPLES as u16;
        let mut packet = header.bytes().to_vec();
        packet.extend([pressing.event, u8::from(ended) << 7 | KEY_VOLUME]);
        packet.extend(duration.to_be_bytes());
        let is_last = packets == PRESSED_FRAMES + END_PACKETS;
        self.pressing = (!is_last).then_some(Pressing { packets, ..pressing });
        // The tone goes on behind the key where it would have been by then.
        self.tone.by_ref().take(SAMPLES as usize).for_each(drop);
        let sequence = header.sequence;
        self.header.marker = is_last;
        self.header.sequence = sequence.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(SAMPLES);
        self.octets = self.octets.wrapping_add(4);
        self.report.sent += 1;
        Output::Rtp { to: self.remote, ssrc: header.ssrc, sequence, packet }
    }

    fn tone_frame(&mut self) -> Output {
        let mut packet = Vec::with_capacity(RtpHeader::LEN + SAMPLES as usize);
        packet.extend_from_slice(&self.header.bytes());
        let law = self.law;
        let samples = self.tone.by_ref().take(SAMPLES as usize);
        packet.extend(samples.map(|sample| law.encode(sample)));
        let (ssrc, sequence) = (self.header.ssrc, self.header.sequence);
        self.header.marker = false;
        self.header.sequence = sequence.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(SAMPLES);
        self.octets = self.octets.wrapping_add(SAMPLES);
        self.report.sent += 1;
        Output::Rtp { to: self.remote, ssrc, sequence, packet }
    }

    /// A sender report and a source description (RFC 3550, 6.4.1 and 6.5).
    fn sender_report(&mut self, now: Instant, cname: &str) -> Vec<u8> {
        let reception = self.ear.report();
        let mut packet = vec![0x80 | u8::from(reception.is_some()), 200, 0, 0];
        let mut word = |value: u32| packet.extend_from_slice(&value.to_be_bytes());
        word(self.header.ssrc);
        // The phone knows only a monotonic clock; RFC 3550, 4 allows any that runs at the right
        // rate.
        let nanos = now.as_nanos();
        word((nanos / 1_000_000_000) as u32);
        word((((nanos % 1_000_000_000) << 32) / 1_000_000_000) as u32);
        word(self.header.timestamp);
        word(self.report.sent as u32);
        word(self.octets);
        if let Some(reception) = reception {
            word(reception.ssrc);
            word((u32::from(reception.fraction_lost) << 24) | reception.lost);
            word(reception.highest);
            word(reception.jitter);
            let (last, since) = self.last_report.map_or((0, 0), |(last, at)| {
                (last, (now.since(at).as_micros() * 65_536 / 1_000_000) as u32)
            });
            word(last);
            word(since);
        }
        let words = packet.len() / 4 - 1;
        packet[3] = words as u8;
        let cname = &cname.as_bytes()[..cname.len().min(255)];
        let mut description = self.header.ssrc.to_be_bytes().to_vec();
        description.extend_from_slice(&[1, cname.len() as u8]);
        description.extend_from_slice(cname);
        // The list of items ends with at least one zero, up to a whole word.
        description.push(0);
        description.resize(description.len().next_multiple_of(4), 0);
        packet.extend_from_slice(&[0x81, 202, 0, (description.len() / 4) as u8]);
        packet.extend_from_slice(&description);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: Option<u32>) -> Stream {
        let remote = "127.0.0.1:4000".parse().unwrap();
        let start = Start {
            law: Law::A,
            remote,
            remote_rtcp: remote,
            sending: true,
            tone_hz: 440,
            frames,
            listen: true,
            events: Some(101),
        };
        Stream::new(Instant::ZERO, start, &mut Rng::from_number(1))
    }

    fn run(stream: &mut Stream, until: Duration) -> Vec<(Instant, Output)> {
        let mut sent = Vec::new();
        while stream.deadline() < Instant::ZERO + until {
            let now = stream.deadline();
            let mut out = Vec::new();
            stream.run(now, "me@here", &mut out);
            sent.extend(out.into_iter().map(|output| (now, output)));
        }
        sent
    }

    #[test]
    fn frames_go_out_every_20_ms_and_their_tone_is_whole() {
        let mut sender = stream(None);
        let mut receiver = stream(Some(0));
        for (now, output) in run(&mut sender, Duration::from_secs(6)) {
            match output {
                Output::Rtp { packet, .. } => {
                    assert_eq!(packet.len(), 172);
                    receiver.hear(now, &packet);
                }
                Output::Rtcp { packet, .. } => receiver.hear_report(now, &packet),
                Output::Sip { .. } | Output::Event(_) => unreachable!(),
            }
        }
        let report = receiver.report();
        assert_eq!((report.heard.received, report.heard.lost), (300, 0));
        assert_eq!((report.rtcp_received, sender.report().rtcp_sent), (1, 1));
        assert_eq!((report.heard.tone_blocks, report.heard.tone_hz), (30, 440));
        assert_eq!(report.heard.jitter_us, 0);
    }

    #[test]
    fn a_key_is_one_event_with_a_told_end() {
        let mut sender = stream(None);
        sender.press(11);
        let packets: Vec<Vec<u8>> = run(&mut sender, Duration::from_millis(200))
            .into_iter()
            .filter_map(|(_, output)| match output {
                Output::Rtp { packet, .. } => Some(packet),
                _ => None,
            })
            .collect();
        let keys: Vec<_> = packets.iter().filter(|packet| packet.len() == 16).collect();
        assert_eq!((packets.len(), keys.len()), (10, 8));
        let (first, rest) = keys.split_first().expect("eight");
        assert_eq!((first[1], &first[12..]), (0x80 | 101, &[11, 10, 0, 160][..]));
        assert!(rest.iter().all(|key| key[1] == 101 && key[4..8] == first[4..8]));
        let ends: Vec<_> = keys.iter().filter(|key| key[13] & 0x80 != 0).collect();
        assert_eq!(ends.len(), 3);
        assert!(ends.iter().all(|key| key[14..] == [3, 32]), "100 ms");
        // The tone goes on with the clock, and says that it begins again.
        assert_eq!(packets[8][1], 0x80 | 8);
        let at = |packet: &[u8]| u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        assert_eq!(at(&packets[8]) - at(first), 8 * 160);
    }

    #[test]
    fn the_number_of_frames_can_be_limited() {
        let mut sender = stream(Some(250));
        run(&mut sender, Duration::from_secs(9));
        assert_eq!(sender.report().sent, 250);
    }

    #[test]
    fn a_paused_phone_does_not_burst() {
        let mut sender = stream(None);
        let mut out = Vec::new();
        sender.run(Instant::ZERO, "x", &mut out);
        sender.run(Instant::ZERO + Duration::from_secs(60), "x", &mut out);
        assert!(sender.report().sent <= 2);
    }

    #[test]
    fn a_held_stream_is_silent_and_goes_on_with_the_clock() {
        let mut sender = stream(None);
        let mut out = Vec::new();
        sender.run(Instant::ZERO, "x", &mut out);
        let remote = "127.0.0.1:5000".parse().unwrap();
        sender.redirect(Instant::ZERO, Law::A, remote, remote, false);
        let later = Instant::ZERO + Duration::from_millis(1_020);
        sender.run(later, "x", &mut out);
        assert_eq!(sender.report().sent, 1);
        sender.redirect(later, Law::A, remote, remote, true);
        sender.run(later, "x", &mut out);
        let timestamps: Vec<u32> = out
            .iter()
            .filter_map(|output| match output {
                Output::Rtp { packet, .. } => {
                    Some(media::wire::Rtp::parse(packet).ok()?.timestamp())
                }
                _ => None,
            })
            .collect();
        assert_eq!(timestamps[1].wrapping_sub(timestamps[0]), 160 + 8_000);
    }

    #[test]
    fn reports_are_valid_with_and_without_a_block() {
        let mut sender = stream(None);
        let plain = sender.sender_report(Instant::ZERO, "me@here");
        assert_eq!(Rtcp::parse(&plain).unwrap().packets().count(), 2);
        let mut out = Vec::new();
        stream(None).run(Instant::ZERO, "x", &mut out);
        let Output::Rtp { packet, .. } = &out[0] else { panic!() };
        sender.hear(Instant::ZERO, packet);
        let full = sender.sender_report(Instant::ZERO, "four");
        assert_eq!(full.len(), plain.len() + 24 - 4);
        let packets: Vec<_> = Rtcp::parse(&full).unwrap().packets().map(|p| p.count).collect();
        assert_eq!(packets, [1, 1]);
    }
}
