//! Calls that the data plane answers itself: one leg, and our own description of its media.

use abi::{CallState, Counter, OpResult};
use base::{CallRef, Instant};
use sip::sdp::{self, Codec, Direction};

use crate::call::{CALLER, LegRef};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// What we play, hear and mix, the preferred first.
const CODECS: &[Codec] = &[Codec::Pcma, Codec::Pcmu, Codec::TelephoneEvent];

impl Worker {
    /// Control says that the call is to be answered here.
    pub(crate) fn on_answer_ordered(&mut self, now: Instant, call: CallRef, ask: u64) -> OpResult {
        if !self.take_question(call, ask) {
            return OpResult::NoSuchCall;
        }
        if self.calls.find(call).is_some_and(|call| call.transfer.is_some()) {
            // A service answers callers, and nobody who was passed on.
            self.refuse_way(now, call, &Refusal::status(480));
            return OpResult::Refused;
        }
        let leg = LegRef { call, leg: CALLER };
        let offer = self.caller_offer(leg);
        match self.own_description(now, leg, &offer) {
            Ok(sdp) => {
                if let Some(entry) = self.calls.find_mut(call) {
                    entry.state = CallState::Answered;
                    entry.answered_at = now;
                }
                if let Some(entry) = self.calls.leg_mut(leg) {
                    entry.ext.answered_here = true;
                }
                self.count(Counter::CallsAnswered);
                self.note_call(call);
                self.answer(now, leg, 200, Some(sdp));
                OpResult::Ok
            }
            Err(refusal) => {
                self.end_call(now, call, &refusal);
                OpResult::Refused
            }
        }
    }

    /// Our answer to the offer of a leg that is joined to no other, or our offer where it made none
    /// (RFC 3264, 5 and 6).
    pub(crate) fn own_description(
        &mut self,
        now: Instant,
        leg: LegRef,
        offer: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let unable = || Refusal::status(488);
        let serial = self.calls.find(leg.call).ok_or_else(unable)?.serial;
        let entry = self.calls.leg_mut(leg).ok_or_else(unable)?;
        let pair = entry.pair.ok_or_else(unable)?;
        entry.sdp_version += 1;
        let version = entry.sdp_version;
        let address = self.media_address(pair);
        let own = sdp::Own {
            address: address.ip(),
            port: address.port(),
            session_id: serial + u64::from(leg.leg),
            version,
            direction: Direction::SendRecv,
            codecs: CODECS,
        };
        if offer.is_empty() {
            let secured = self.secured(leg);
            let sdp = sdp::offer_secured(&own, &secured);
            self.note_events_of(leg, &sdp);
            self.note_said(leg, &sdp);
            return Ok(sdp);
        }
        let parsed = sdp::parse(offer).map_err(|_| unable())?;
        let audio = sdp::audio(&parsed).map_err(|_| unable())?;
        let secured = self.secured_answer(leg, &audio).map_err(|_| unable())?;
        let sdp = sdp::answer_secured(&parsed, &own, &secured).map_err(|_| unable())?;
        self.learn_remote(now, leg, offer);
        self.note_events_of(leg, &sdp);
        self.note_said(leg, &sdp);
        Ok(sdp)
    }

    fn note_said(&mut self, leg: LegRef, sdp: &[u8]) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.saying = Some(sdp.into());
        }
    }
}
