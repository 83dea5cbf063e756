//! Signs of life of standing calls. A peer that lost its power says no BYE; without a sign its call would
//! hold an agent for ever.

use std::time::Duration;

use abi::{CallState, Event, OpResult};
use base::{CallRef, Instant};
use sip::wire::Method;

use crate::call::{Leg, LegRef, Phase};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// A leg without RTP for this time is asked by OPTIONS whether it is still there (RFC 3261, 11), and again
/// each time that it passes: held calls are silent, and live.
const SILENCE: Duration = Duration::from_secs(60);

impl Worker {
    /// Looks at one leg of a standing call: has it been heard?
    pub(crate) fn probe(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.leg(leg) else { return };
        if entry.phase != Phase::Established {
            return;
        }
        if self.is_dead(now, leg.call) {
            self.count(abi::Counter::MediaTimeouts);
            return self.end_call(now, leg.call, &Refusal::status(408));
        }
        let packets = entry.pair.map_or(0, |pair| self.streams.stats(pair).packets);
        let (since, counted) = entry.alive;
        let is_silent = packets == counted && since != Instant::ZERO;
        if is_silent && now < since + SILENCE {
            return;
        }
        if let Some(entry) = self.calls.leg_unchanged(leg) {
            entry.alive = (now, packets);
        }
        if is_silent {
            self.send_within(now, leg, Method::Options, None);
        }
    }

    /// Control doubts that a leg's peer is there.
    pub(crate) fn on_probe_ordered(&mut self, now: Instant, leg: LegRef) -> OpResult {
        if self.calls.find(leg.call).is_none() {
            return OpResult::NoSuchCall;
        }
        let stands = |entry: &&mut Leg| entry.phase == Phase::Established;
        match self.calls.leg_unchanged(leg).filter(stands) {
            None => OpResult::Refused,
            Some(entry) => {
                // One request is enough; it is repeated until it is answered.
                if !std::mem::replace(&mut entry.probed, true) {
                    self.send_within(now, leg, Method::Options, None);
                }
                OpResult::Ok
            }
        }
    }

    /// No leg has been heard for too long, and none is on hold: a held call is silent, and lives.
    fn is_dead(&self, now: Instant, call: CallRef) -> bool {
        let (Some(limit), Some(entry)) = (self.config.media.timeout, self.calls.find(call)) else {
            return false;
        };
        let elsewhere = entry.legs.iter().filter_map(|leg| self.calls.leg(leg.joined?));
        let legs = entry.legs.iter().chain(elsewhere);
        let mut heard = legs.filter(|leg| leg.phase == Phase::Established && leg.pair.is_some());
        heard.all(|leg| {
            let since = leg.pair.map(|pair| self.streams.silent_since(pair));
            let begun = entry.answered_at.max(leg.unheld_at);
            !leg.held && !leg.silent && since.is_some_and(|since| now >= since.max(begun) + limit)
        })
    }

    /// RFC 3261, 12.2.1.2: 481 or 408 to a request within a dialog: the dialog is gone. Any other answer
    /// is a sign of life.
    pub(crate) fn on_probe_answered(&mut self, now: Instant, leg: LegRef, status: u16) {
        let entry = self.calls.leg_unchanged(leg);
        let was_probed = entry.is_some_and(|entry| std::mem::take(&mut entry.probed));
        if was_probed && !matches!(status, 408 | 481) {
            self.tell(Event::Alive { call: leg.call, leg: leg.leg });
        }
        let is_standing =
            self.calls.find(leg.call).is_some_and(|call| call.state == CallState::Answered);
        if is_standing && matches!(status, 408 | 481) {
            let goes_on = self.goes_on_without(leg);
            if goes_on {
                self.take_out(now, leg);
            }
            self.leg_gone(leg);
            if !goes_on {
                self.end_call(now, leg.call, &Refusal::status(408));
            }
        }
    }
}
