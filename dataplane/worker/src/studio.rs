//! What the media functions of several legs share: the 20 ms clock, the mixes, the spool of recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use abi::spool::SpoolWriter;
use abi::{Class, Counter, Event, SpoolState};
use base::Instant;
use media::SocketSlot;
use media::codec::Frame;

use crate::Effect;
use crate::call::LegRef;
use crate::mixing::Mixing;
use crate::worker::{Timer, Worker};

/// What a prompt plays and a mix says in one turn.
const FRAME: Duration = Duration::from_millis(media::codec::FRAME_MS);
/// Timestamp units of a frame at 8 kHz.
const FRAME_UNITS: u32 = media::codec::FRAME_SAMPLES as u32;
/// How old what was recorded may become before it is written, in turns of [`Worker::tend_studio`], which
/// are 20 ms.
const FLUSH_TURNS: u32 = 10;

/// The media functions of one worker.
#[derive(Debug, Default)]
pub(crate) struct Studio {
    /// Legs that a prompt is played to, or read for.
    pub players: BTreeSet<LegRef>,
    pub mixes: BTreeMap<u32, Mixing>,
    pub recorded: BTreeSet<LegRef>,
    pub spool: SpoolWriter,
    /// Frames are being sent, each 20 ms after the one before.
    /// Room for a turn of the mixes.
    pub frames: Vec<(u32, Frame)>,
    ticking: bool,
    turn: u32,
    spool_lost: u64,
}

impl Studio {
    /// How many legs are recorded.
    pub fn recordings(&self) -> usize {
        self.recorded.len()
    }

    /// How many legs are in a mix.
    pub fn mixed(&self) -> usize {
        self.mixes.values().map(Mixing::legs).sum()
    }
}

impl Worker {
    /// Frames are to be sent from now on.
    pub(crate) fn start_frames(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.studio.ticking, true) {
            self.beats.set(now, Timer::Frame);
        }
    }

    /// The next 20 ms. Frames that are due since long are left out: who hears them would hear everything
    /// later from then on.
    pub(crate) fn on_frame(&mut self, now: Instant, at: Instant) {
        let late = now.since(at).as_nanos() / FRAME.as_nanos();
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        self.region.counters().add(self.config.id, Counter::FramesSkipped, u64::from(late));
        self.studio.ticking = !self.studio.players.is_empty() || !self.studio.mixes.is_empty();
        if self.studio.ticking {
            self.beats.set(at + FRAME * late.saturating_add(1), Timer::Frame);
        }
        self.play_frames(now);
        self.mix_frames(now);
    }

    /// Sends 20 ms of our own making to a leg's peer.
    pub(crate) fn send_frame(&mut self, now: Instant, leg: LegRef, frame: &Frame, marker: bool) {
        let Some(entry) = self.calls.leg(leg).filter(|entry| !entry.held) else {
            return;
        };
        let (Some(pair), Some(codec)) = (entry.pair, entry.takes) else {
            return;
        };
        let payload = codec.encode(frame);
        let made =
            self.streams.make(now, pair, codec.payload_type(), marker, FRAME_UNITS, &payload);
        let Some((socket, to, packet)) = made else { return };
        self.record_made(now, leg, &packet);
        self.send_made(socket, to, packet);
    }

    /// Sends a packet of our own making, encrypted where the leg's peer wants it so.
    pub(crate) fn send_made(&mut self, socket: SocketSlot, to: SocketAddr, packet: Box<[u8]>) {
        match self.streams.seal_made(socket, packet) {
            Some(packet) => {
                self.count(Counter::RtpMade);
                self.effects.push(Effect::Media { socket, to, packet });
            }
            None => self.count(Counter::DropSrtpUnsealed),
        }
    }

    /// What comes up every 20 ms whether or not frames are sent: old blocks of the spool, digits whose end
    /// was lost, foreign sources.
    pub(crate) fn tend_studio(&mut self, now: Instant) {
        self.tell_digits(now);
        self.tell_foreign();
        self.hand_out_spool();
        self.studio.turn = (self.studio.turn + 1) % FLUSH_TURNS;
        if self.studio.turn == 0 {
            self.flush_spool();
        }
    }

    fn tell_foreign(&mut self) {
        while let Some((pair, addr)) = self.streams.take_foreign() {
            let Some(leg) = self.leg_at(pair) else { continue };
            let event = Event::SourceRefused { call: leg.call, leg: leg.leg, addr };
            self.tell_as(event, &[], Class::Statistic);
        }
    }

    /// Full blocks go to the driver.
    pub(crate) fn hand_out_spool(&mut self) {
        while let Some(block) = self.studio.spool.take_full() {
            self.write_block(block);
        }
        let lost = self.studio.spool.take_lost();
        if lost > 0 {
            self.region.counters().add(self.config.id, Counter::SpoolLost, lost);
            self.on_spool(SpoolState::Slow, lost);
        }
    }

    /// All that was recorded so far goes to the driver.
    pub(crate) fn flush_spool(&mut self) {
        while let Some(block) = self.studio.spool.flush() {
            self.write_block(block);
        }
    }

    fn write_block(&mut self, block: Vec<u8>) {
        self.effects.push(Effect::Spool { block });
    }

    /// How the spool is now.
    pub(crate) fn on_spool(&mut self, state: SpoolState, lost: u64) {
        self.studio.spool_lost += lost;
        self.tell(Event::Spool { state, lost: self.studio.spool_lost });
    }
}
