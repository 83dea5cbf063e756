//! Recordings: both directions of a leg, on their way to the spool.

use abi::spool::{RecordingId, SideCounts, SpoolCodec, SpoolSide, SpoolWriter};
use base::Instant;
use media::codec::Codec;
use media::recorder::{Piece, Recorder};
use media::wire::Rtp;
use media::{Packet, SocketSlot, Verdict};

use crate::call::{CALLER, LegRef};
use crate::worker::{HEADER, Worker};

/// The recording of one leg.
#[derive(Debug)]
pub struct Recording {
    id: RecordingId,
    /// Position 0 of both sides.
    from: Instant,
    /// What the leg's peer says, and what it hears.
    said: Line,
    heard: Line,
    paused: bool,
}

/// One direction, and what became of it.
#[derive(Debug)]
struct Line {
    recorder: Recorder,
    counts: SideCounts,
}

/// Which voice of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Said,
    Heard,
}

impl Recording {
    fn new(id: RecordingId, from: Instant) -> Recording {
        let line = || Line { recorder: Recorder::new(from), counts: SideCounts::default() };
        Recording { id, from, said: line(), heard: line(), paused: false }
    }

    fn line(&mut self, voice: Voice) -> &mut Line {
        match voice {
            Voice::Said => &mut self.said,
            Voice::Heard => &mut self.heard,
        }
    }

    /// Samples at 8 kHz since position 0.
    fn position(&self, now: Instant) -> u64 {
        (now.since(self.from).as_nanos() / 125_000) as u64
    }
}

impl Line {
    fn packet(&mut self, now: Instant, rtp: &Rtp<'_>, out: &mut Out<'_>) {
        let counts = &mut self.counts;
        self.recorder.packet(now, rtp, &mut |piece| out.put(counts, piece));
    }

    fn finish(&mut self, out: &mut Out<'_>) -> SideCounts {
        let counts = &mut self.counts;
        self.recorder.finish(&mut |piece| out.put(counts, piece));
        self.counts.duplicates = self.recorder.stats().surplus * PACKET_SAMPLES;
        self.counts
    }
}

/// Samples of a packet of 20 ms, what nearly all phones send.
const PACKET_SAMPLES: u64 = 160;

/// Where the pieces of one side go.
struct Out<'a> {
    spool: &'a mut SpoolWriter,
    id: RecordingId,
    side: SpoolSide,
}

impl Out<'_> {
    fn put(&mut self, counts: &mut SideCounts, piece: Piece<'_>) {
        match piece {
            Piece::Chunk { position, codec, payload } => {
                let codec = match codec {
                    Codec::Pcmu => SpoolCodec::Pcmu,
                    Codec::Pcma => SpoolCodec::Pcma,
                };
                counts.received += payload.len() as u64;
                self.spool.audio(self.id, self.side, codec, position, payload);
            }
            Piece::Lost { position, samples } => {
                counts.lost += samples;
                self.spool.lost(self.id, self.side, position, samples);
            }
        }
    }
}

/// The caller is left and the called party right, whichever of them is recorded.
fn side(leg: LegRef, voice: Voice) -> SpoolSide {
    match (leg.leg == CALLER, voice) {
        (true, Voice::Said) | (false, Voice::Heard) => SpoolSide::Caller,
        _ => SpoolSide::Called,
    }
}

impl Worker {
    pub(crate) fn record(&mut self, now: Instant, leg: LegRef, number: u64) -> bool {
        let Some(serial) = self.calls.find(leg.call).map(|call| call.serial) else { return false };
        let Some(functions) = self.functions_mut(leg) else { return false };
        if functions.recording.is_some() {
            return false;
        }
        let id = RecordingId { serial, number };
        functions.recording = Some(Recording::new(id, now));
        self.studio.recorded.insert(leg);
        self.studio.spool.start(id, now);
        true
    }

    pub(crate) fn pause_recording(&mut self, now: Instant, leg: LegRef, pause: bool) -> bool {
        let Some(recording) = self.recording_mut(leg) else { return false };
        let (id, position) = (recording.id, recording.position(now));
        if std::mem::replace(&mut recording.paused, pause) == pause {
            return false;
        }
        for line in [&mut recording.said, &mut recording.heard] {
            match pause {
                true => line.recorder.pause(),
                false => line.recorder.resume(now),
            }
        }
        match pause {
            true => self.studio.spool.pause(id, position),
            false => self.studio.spool.resume(id, position),
        }
        true
    }

    /// Ends a leg's recording. False when there is none.
    pub(crate) fn stop_recording(&mut self, now: Instant, leg: LegRef) -> bool {
        let recording = self.functions_of(leg).and_then(|functions| functions.recording.take());
        let Some(mut recording) = recording else { return false };
        self.studio.recorded.remove(&leg);
        let mut counts = [SideCounts::default(); 2];
        for voice in [Voice::Said, Voice::Heard] {
            let side = side(leg, voice);
            let mut out = Out { spool: &mut self.studio.spool, id: recording.id, side };
            counts[side as usize] = recording.line(voice).finish(&mut out);
        }
        let position = recording.position(now);
        self.studio.spool.end(recording.id, now, position, counts);
        self.flush_spool();
        true
    }

    /// Ends all recordings, and hands out what they had to say.
    pub(crate) fn stop_recordings(&mut self, now: Instant) {
        let recorded: Vec<LegRef> = self.studio.recorded.iter().copied().collect();
        for leg in recorded {
            self.stop_recording(now, leg);
        }
        self.flush_spool();
    }

    /// True while a leg is recorded.
    pub(crate) fn is_recorded(&self, leg: LegRef) -> bool {
        self.studio.recorded.contains(&leg)
    }

    /// A packet that `forward` accepted, for who wants its payload.
    pub(crate) fn overhear(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        header: &[u8; HEADER],
        packet: &mut Packet<'_>,
        verdict: Verdict,
    ) {
        let pair = socket.pair();
        if self.streams.is_rtcp(socket, packet) || matches!(verdict, Verdict::Drop(_)) {
            return;
        }
        let Some(leg) = self.leg_at(pair) else { return };
        if self.is_bypassed(pair) {
            self.look_at_stray(leg, pair);
        }
        let sent: [u8; HEADER] = std::array::from_fn(|at| packet.bytes()[at]);
        packet.bytes_mut()[..HEADER].copy_from_slice(header);
        if let Ok(rtp) = Rtp::parse(packet.bytes()) {
            self.record_packet(now, leg, Voice::Said, &rtp);
            self.pass_to_mix(now, leg, packet.bytes());
        }
        packet.bytes_mut()[..HEADER].copy_from_slice(&sent);
        let Ok(rtp) = Rtp::parse(packet.bytes()) else { return };
        // A peer to whom a prompt is played, or who is in a mix, hears that instead.
        if matches!(verdict, Verdict::Send { .. })
            && let Some(peer) = self.peer_of(leg)
        {
            self.record_packet(now, peer, Voice::Heard, &rtp);
        }
    }

    /// A packet of our own making, on its way to a leg's peer.
    pub(crate) fn record_made(&mut self, now: Instant, leg: LegRef, packet: &[u8]) {
        if self.is_recorded(leg)
            && let Ok(rtp) = Rtp::parse(packet)
        {
            self.record_packet(now, leg, Voice::Heard, &rtp);
        }
    }

    fn record_packet(&mut self, now: Instant, leg: LegRef, voice: Voice, rtp: &Rtp<'_>) {
        if !self.is_recorded(leg) {
            return;
        }
        let functions = self.calls.leg_unchanged(leg).and_then(|leg| leg.functions.as_deref_mut());
        let Some(recording) = functions.and_then(|functions| functions.recording.as_mut()) else {
            return;
        };
        let (spool, id, side) = (&mut self.studio.spool, recording.id, side(leg, voice));
        recording.line(voice).packet(now, rtp, &mut Out { spool, id, side });
        self.hand_out_spool();
    }

    fn recording_mut(&mut self, leg: LegRef) -> Option<&mut Recording> {
        self.functions_of(leg)?.recording.as_mut()
    }
}
