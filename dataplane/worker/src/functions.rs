//! What control orders for the media of one leg: prompts, digits, recordings, mixes.
//!
//! `commands.rs` brings an order here; `studio.rs` has what several legs share (the 20 ms clock, the mixes,
//! the spool), `recording.rs` and `mixing.rs` their parts. Whatever needs a payload brings the leg's streams
//! back from the bypass, and taps them.

use abi::{Class, Counter, DigitsCause, Event, MediaOrder, OpResult};
use base::{Instant, Text};
use media::WhyNot;
use media::digits::{Cause, Collector, Rules};
use media::prompt::Player;
use std::sync::Arc;

use crate::Effect;
use crate::call::{LegRef, Phase};
use crate::recording::Recording;
use crate::worker::{Timer, Worker};

/// What stands of a leg's orders.
#[derive(Debug, Default)]
pub struct Functions {
    pub playing: Option<Playing>,
    pub collecting: Option<Collecting>,
    pub recording: Option<Recording>,
    /// The mix that the leg is in.
    pub mixed: Option<u32>,
}

/// A prompt that is played, or is being read.
#[derive(Debug)]
pub struct Playing {
    op: u64,
    name: Text<64>,
    times: u32,
    player: Option<Player>,
    /// The first packet of a talkspurt carries the marker (RFC 3551, 4.1).
    begun: bool,
}

/// Digits that are collected.
#[derive(Debug)]
pub struct Collecting {
    op: u64,
    collector: Collector,
    barge_in: bool,
}

/// What became of an order at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// This is its completion.
    Done(OpResult),
    /// Its completion comes later.
    Begun,
}

impl Functions {
    fn is_idle(&self) -> bool {
        self.playing.is_none()
            && self.collecting.is_none()
            && self.recording.is_none()
            && self.mixed.is_none()
    }
}

impl Worker {
    pub(crate) fn on_media_ordered(
        &mut self,
        now: Instant,
        op: u64,
        leg: LegRef,
        order: MediaOrder,
        blob: &[u8],
    ) -> Ordered {
        let Some(entry) = self.calls.leg(leg) else {
            return Ordered::Done(OpResult::NoSuchCall);
        };
        if entry.phase != Phase::Established || entry.pair.is_none() {
            return Ordered::Done(OpResult::Refused);
        }
        match order {
            MediaOrder::Play { times } => return self.play(now, op, leg, times, blob),
            MediaOrder::Collect { max, first_ms, next_ms, ends, barge_in } => {
                let rules = Rules { max, first_ms, next_ms, ends };
                return self.collect(now, op, leg, rules, barge_in);
            }
            _ => {}
        }
        let result = match order {
            MediaOrder::StopPlaying => self.finish_playing(leg, OpResult::Stopped),
            MediaOrder::Record { recording } => self.record(now, leg, recording),
            MediaOrder::PauseRecording => self.pause_recording(now, leg, true),
            MediaOrder::ResumeRecording => self.pause_recording(now, leg, false),
            MediaOrder::StopRecording => self.stop_recording(now, leg),
            MediaOrder::Mix { mix, role, to, to_leg } => {
                self.join_mix(leg, mix, role, LegRef { call: to, leg: to_leg })
            }
            MediaOrder::Confer { mix, organiser } => self.confer(now, leg, mix, organiser),
            MediaOrder::LeaveMix => self.leave_mix(leg),
            MediaOrder::Play { .. } | MediaOrder::Collect { .. } => false,
        };
        self.arrange(leg);
        Ordered::Done(if result { OpResult::Ok } else { OpResult::Refused })
    }

    fn play(&mut self, now: Instant, op: u64, leg: LegRef, times: u32, name: &[u8]) -> Ordered {
        let takes = self.calls.leg(leg).and_then(|leg| leg.takes);
        let (Ok(name), Some(_)) = (Text::new(name), takes) else {
            return Ordered::Done(OpResult::Refused);
        };
        self.finish_playing(leg, OpResult::Stopped);
        let Some(functions) = self.functions_mut(leg) else {
            return Ordered::Done(OpResult::NoSuchCall);
        };
        functions.playing = Some(Playing { op, name, times, player: None, begun: false });
        self.studio.players.insert(leg);
        self.effects.push(Effect::Load { name });
        self.arrange(leg);
        let _ = now;
        Ordered::Begun
    }

    /// A prompt was read.
    pub(crate) fn on_loaded(&mut self, now: Instant, name: Text<64>, samples: Option<Arc<[i16]>>) {
        let waiting: Vec<LegRef> = self.studio.players.iter().copied().collect();
        for leg in waiting {
            let Some(playing) = self.playing_mut(leg) else { continue };
            if playing.name != name || playing.player.is_some() {
                continue;
            }
            match &samples {
                Some(samples) => {
                    playing.player = Some(Player::new(Arc::clone(samples), playing.times));
                    self.arrange(leg);
                    self.start_frames(now);
                }
                None => {
                    self.finish_playing(leg, OpResult::NoSuchPrompt);
                    self.arrange(leg);
                }
            }
        }
    }

    /// The next 20 ms of every prompt.
    pub(crate) fn play_frames(&mut self, now: Instant) {
        let players: Vec<LegRef> = self.studio.players.iter().copied().collect();
        for leg in players {
            let Some(playing) = self.playing_mut(leg) else {
                self.studio.players.remove(&leg);
                continue;
            };
            let Some(player) = &mut playing.player else { continue };
            let frame = player.next_frame();
            let begins = !std::mem::replace(&mut playing.begun, true);
            match frame {
                Some(frame) => self.send_frame(now, leg, &frame, begins),
                None => {
                    self.finish_playing(leg, OpResult::Ok);
                    self.arrange(leg);
                    self.wait_for_digits(now, leg);
                }
            }
        }
    }

    /// Whatever is played to a leg ends; true when something was.
    pub(crate) fn stop_playing(&mut self, leg: LegRef) -> bool {
        let stopped = self.finish_playing(leg, OpResult::Stopped);
        self.arrange(leg);
        stopped
    }

    fn finish_playing(&mut self, leg: LegRef, result: OpResult) -> bool {
        let playing = self.functions_of(leg).and_then(|functions| functions.playing.take());
        let Some(playing) = playing else { return false };
        self.studio.players.remove(&leg);
        self.tell(Event::Done { op: playing.op, result });
        true
    }

    fn collect(
        &mut self,
        now: Instant,
        op: u64,
        leg: LegRef,
        rules: Rules,
        barge_in: bool,
    ) -> Ordered {
        if rules.max == 0 || rules.max > MAX_DIGITS {
            return Ordered::Done(OpResult::Refused);
        }
        self.finish_collecting(leg, DigitsCause::Stopped);
        let collector = Collector::new(now, rules);
        let deadline = collector.deadline();
        let Some(functions) = self.functions_mut(leg) else {
            return Ordered::Done(OpResult::NoSuchCall);
        };
        functions.collecting = Some(Collecting { op, collector, barge_in });
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Timer::Digits(leg));
        }
        Ordered::Begun
    }

    /// Tells the digits that were pressed since the last time, and gives them to who collects them.
    pub(crate) fn tell_digits(&mut self, now: Instant) {
        let digits: Vec<_> = self.streams.digits(now).collect();
        for (pair, digit) in digits {
            let Some(leg) = self.leg_at(pair) else { continue };
            self.count(Counter::DigitsPressed);
            let event = Event::Digit {
                call: leg.call,
                leg: leg.leg,
                digit: digit.event,
                duration_ms: digit.duration_ms,
            };
            self.tell_as(event, &[], Class::Statistic);
            self.collect_digit(now, leg, digit.event);
        }
    }

    pub(crate) fn collect_digit(&mut self, now: Instant, leg: LegRef, digit: u8) {
        let Some(collecting) = self.functions_of(leg).and_then(|f| f.collecting.as_mut()) else {
            return;
        };
        let (barge_in, cause) = (collecting.barge_in, collecting.collector.digit(now, digit));
        let deadline = collecting.collector.deadline();
        if barge_in && self.finish_playing(leg, OpResult::Stopped) {
            self.arrange(leg);
        }
        match (cause, deadline) {
            (Some(cause), _) => self.finish_collecting(leg, cause_of(cause)),
            (None, Some(deadline)) => self.timers.set(deadline, Timer::Digits(leg)),
            (None, None) => {}
        }
    }

    /// The time for the first digit begins when the prompt has ended.
    fn wait_for_digits(&mut self, now: Instant, leg: LegRef) {
        let Some(collecting) = self.functions_of(leg).and_then(|f| f.collecting.as_mut()) else {
            return;
        };
        collecting.collector.prompted(now);
        if let Some(deadline) = collecting.collector.deadline() {
            self.timers.set(deadline, Timer::Digits(leg));
        }
    }

    pub(crate) fn on_digits_limit(&mut self, now: Instant, leg: LegRef) {
        let functions = self.calls.leg(leg).and_then(|leg| leg.functions.as_ref());
        let waits = functions.is_some_and(|functions| {
            let collecting = functions.collecting.as_ref();
            functions.playing.is_some()
                && collecting.is_some_and(|one| one.collector.digits().is_empty())
        });
        if waits {
            return self.wait_for_digits(now, leg);
        }
        let Some(collecting) = self.functions_of(leg).and_then(|f| f.collecting.as_mut()) else {
            return;
        };
        if let Some(cause) = collecting.collector.timeout(now) {
            self.finish_collecting(leg, cause_of(cause));
        }
    }

    fn finish_collecting(&mut self, leg: LegRef, cause: DigitsCause) {
        let collecting = self.functions_of(leg).and_then(|functions| functions.collecting.take());
        let Some(Collecting { op, collector, .. }) = collecting else { return };
        let event = Event::Digits { op, call: leg.call, leg: leg.leg, cause };
        self.tell_with(event, collector.digits().as_bytes());
        let result = match cause {
            DigitsCause::Stopped => OpResult::Stopped,
            _ => OpResult::Ok,
        };
        self.tell(Event::Done { op, result });
    }

    /// The leg's media ends: so does what was ordered of it.
    pub(crate) fn end_functions(&mut self, now: Instant, leg: LegRef) {
        if self.calls.leg(leg).is_none_or(|leg| leg.functions.is_none()) {
            return;
        }
        self.finish_playing(leg, OpResult::Stopped);
        self.finish_collecting(leg, DigitsCause::Stopped);
        self.stop_recording(now, leg);
        self.leave_mix(leg);
        self.arrange(leg);
    }

    /// Why the process must see what a leg sends and hears; none when it need not.
    pub(crate) fn payload_needed(&self, leg: LegRef) -> Option<WhyNot> {
        let entry = self.calls.leg(leg)?;
        if entry.ext.tones.is_some() {
            return Some(WhyNot::Prompt);
        }
        let why = entry.functions.as_ref().and_then(|functions| match functions {
            functions if functions.mixed.is_some() => Some(WhyNot::Mix),
            functions if functions.recording.is_some() => Some(WhyNot::Recording),
            functions if functions.playing.is_some() => Some(WhyNot::Prompt),
            _ => None,
        });
        why.or_else(|| self.is_srtp(leg).then_some(WhyNot::Srtp))
    }

    /// Makes streams do what the orders of a leg, and of its peer, want of them now.
    pub(crate) fn arrange(&mut self, leg: LegRef) {
        if let Some(why) = self.payload_needed(leg) {
            self.leave_bypass(leg, why);
        }
        for leg in [Some(leg), self.peer_of(leg)].into_iter().flatten() {
            let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) else { continue };
            let records = |leg| self.payload_needed(leg) == Some(WhyNot::Recording);
            let is_tapped = self.is_recorded(leg)
                || self.peer_of(leg).is_some_and(|peer| self.is_recorded(peer) || records(peer))
                || self.payload_needed(leg) == Some(WhyNot::Mix);
            let is_played_to = self
                .calls
                .leg(leg)
                .and_then(|leg| leg.functions.as_ref()?.playing.as_ref())
                .is_some_and(|playing| playing.player.is_some())
                || self.calls.leg(leg).is_some_and(|leg| leg.ext.tones.is_some());
            self.streams.tap(pair, is_tapped);
            self.streams.occupy(pair, is_played_to);
        }
        if let Some(entry) = self.calls.leg_unchanged(leg)
            && entry.functions.as_ref().is_some_and(|functions| functions.is_idle())
        {
            entry.functions = None;
        }
        // Nobody may need the payload any more: the streams go past again at once.
        self.try_bypass(leg);
        if let Some(peer) = self.peer_of(leg) {
            self.try_bypass(peer);
        }
    }

    pub(crate) fn functions_of(&mut self, leg: LegRef) -> Option<&mut Functions> {
        self.calls.leg_unchanged(leg)?.functions.as_deref_mut()
    }

    /// The same, made if there are none yet.
    pub(crate) fn functions_mut(&mut self, leg: LegRef) -> Option<&mut Functions> {
        Some(self.calls.leg_unchanged(leg)?.functions.get_or_insert_default())
    }

    fn playing_mut(&mut self, leg: LegRef) -> Option<&mut Playing> {
        self.functions_of(leg)?.playing.as_mut()
    }
}

/// Digits that one order may collect.
const MAX_DIGITS: u8 = 64;

fn cause_of(cause: Cause) -> DigitsCause {
    match cause {
        Cause::Full => DigitsCause::Full,
        Cause::Ended => DigitsCause::Ended,
        Cause::Timeout => DigitsCause::Timeout,
    }
}
