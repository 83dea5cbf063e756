//! How calls end: BYE, CANCEL, refusals, silence.

use std::time::Duration;

use abi::{CallState, Counter, EndedBy, Outage};
use base::{CallRef, Instant};
use sip::transaction::{ClientKey, ServerKey};
use sip::wire::{self, Message, Method};

use crate::call::{LegRef, Phase};
use crate::carried::{Lines, reasons};
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::trunks::WATCHER;
use crate::worker::{Timer, Worker};

/// An agent whose phone does not answer a BYE or a CANCEL is free after this time, in milliseconds.
const GOODBYE_LIMIT_MS: u64 = 2_000;

impl Worker {
    pub(crate) fn on_bye(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        // RFC 3261, 15.1.2: no dialog: 481.
        let leg = self.leg_of(arrival.message).ok_or_else(|| Refusal::status(481))?;
        self.accept_within(leg, arrival)?;
        self.note_reasons(leg, arrival.message);
        let bytes = wire::response(arrival.message, 200, "OK", None, arrival.from, &[], None);
        self.transactions.respond(now, arrival.key, 200, bytes, &mut self.sent);
        self.leave_by_bye(now, leg);
        Ok(())
    }

    /// The leg's peer said BYE, and has its answer.
    pub(crate) fn leave_by_bye(&mut self, now: Instant, leg: LegRef) {
        self.note_leg_ended(now, leg);
        // RFC 3261, 15.1.2: "The UAS MUST still respond to any pending requests received for that
        // dialog. It is RECOMMENDED that a 487 (Request Terminated) response be generated".
        self.answer_no(now, leg, &Refusal::status(487));
        self.refuse_pending(now, leg);
        if let Some((key, _)) = self.calls.leg_mut(leg).and_then(|leg| leg.unacknowledged.take()) {
            self.transactions.acked(key);
        }
        self.cancel_invite(now, leg);
        let goes_on = self.goes_on_without(leg);
        if goes_on {
            self.take_out(now, leg);
        } else {
            self.note_ended_by(leg.call, EndedBy::Leg, leg.leg);
        }
        self.leg_gone(leg);
        if !goes_on {
            self.hang_up(now, leg.call);
        }
    }

    /// A leg cannot be talked to any more. Its call is over, unless it goes on without the leg.
    pub(crate) fn lose_leg(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        if self.goes_on_without(leg) {
            self.take_out(now, leg);
            return self.part_leg(now, leg, refusal);
        }
        self.end_call(now, leg.call, refusal);
    }

    /// RFC 3261, 9.2: 200 to the CANCEL whatever it finds, 487 to what it cancels.
    pub(crate) fn on_cancel(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        invite: Option<ServerKey>,
    ) {
        let Some(invite) = invite else {
            return self.refuse(now, arrival, Refusal::status(481));
        };
        let bytes = wire::response(arrival.message, 200, "OK", None, arrival.from, &[], None);
        self.transactions.respond(now, arrival.key, 200, bytes, &mut self.sent);
        let Some(leg) = self.transactions.user(invite).map(LegRef::from_word) else {
            return;
        };
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        if entry.invited.as_ref().is_none_or(|invited| invited.key != invite) {
            return;
        }
        let phase = entry.phase;
        self.note_reasons(leg, arrival.message);
        match phase {
            Phase::Incoming if self.cancel_coming(now, leg) => {}
            Phase::Incoming => {
                self.note_ended_by(leg.call, EndedBy::Leg, leg.leg);
                self.end_call(now, leg.call, &Refusal::status(487));
            }
            _ => self.cancel_reinvite(now, leg),
        }
    }

    /// Ends a call that nobody is to blame for.
    pub(crate) fn hang_up(&mut self, now: Instant, call: CallRef) {
        self.finish(now, call, 0, &Refusal::status(487));
    }

    /// Ends a call with a refusal to who still waits for an answer.
    pub(crate) fn end_call(&mut self, now: Instant, call: CallRef, refusal: &Refusal) {
        self.finish(now, call, refusal.status, refusal);
    }

    /// Who ends the call, before it ends; the first one counts.
    pub(crate) fn note_ended_by(&mut self, call: CallRef, by: EndedBy, leg: u8) {
        if let Some(entry) = self.calls.find_mut(call)
            && entry.ended_by.0 == EndedBy::Unknown
        {
            entry.ended_by = (by, leg);
        }
    }

    /// The call did not end after all: who ends it is still to be seen.
    pub(crate) fn note_goes_on(&mut self, call: CallRef) {
        if let Some(entry) = self.calls.find_mut(call)
            && entry.state != CallState::Ended
        {
            entry.ended_by = Default::default();
        }
    }

    pub(crate) fn note_leg_ended(&mut self, now: Instant, leg: LegRef) {
        if let Some(entry) = self.calls.leg_mut(leg)
            && entry.times.ended_at == Instant::ZERO
        {
            entry.times.ended_at = now;
        }
    }

    /// The last counts and times of a call's legs, before its record can be made.
    fn close_accounts(&mut self, now: Instant, call: CallRef) {
        self.note_ended_by(call, EndedBy::DataPlane, 0);
        let legs = self.calls.find(call).map_or(0, |entry| entry.legs.len());
        for leg in (0..legs).map(|leg| LegRef { call, leg: leg as u8 }) {
            self.note_leg_ended(now, leg);
            if let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) {
                self.absorb_counts(pair);
            }
        }
    }

    fn finish(&mut self, now: Instant, call: CallRef, cause: u16, refusal: &Refusal) {
        if self.calls.find(call).is_some_and(|entry| entry.state != CallState::Ended) {
            self.close_accounts(now, call);
        }
        let Some(entry) = self.calls.find_mut(call) else {
            return;
        };
        if entry.state != CallState::Ended {
            let summoned = entry.summons.as_mut().and_then(|it| it.op.take());
            let was_called = !entry.legs.is_empty();
            if entry.state != CallState::Answered {
                self.region.counters().add(self.config.id, Counter::CallsFailed, 1);
            }
            entry.state = CallState::Ended;
            entry.cause = cause;
            entry.ended_at = now;
            entry.asked = None;
            self.note_call(call);
            if let Some(op) = summoned {
                self.summons_failed(op, was_called, cause);
            }
        }
        if let Some(entry) = self.calls.find_mut(call).filter(|entry| entry.reasons.is_empty())
            && cause != 0
        {
            // RFC 3326, 2: why a request of ours ends what an answer to another would have ended.
            let text = wire::reason_phrase(cause);
            entry.reasons.push(format!("SIP;cause={cause};text=\"{text}\"").into_bytes());
        }
        let legs = self.calls.find(call).map_or(0, |entry| entry.legs.len());
        let legs = (0..legs).map(|leg| LegRef { call, leg: leg as u8 });
        let others = self.let_go_of_others(call);
        // The call may be forgotten with its last leg, so that nothing may be left to do by then.
        for leg in legs.clone() {
            self.close_media(now, leg);
        }
        for leg in legs {
            self.part_leg(now, leg, refusal);
        }
        self.forget_if_over(call);
        self.lose_others(now, others);
    }

    /// Lets one leg go, as far as it has come.
    pub(crate) fn part_leg(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        let phase = entry.phase;
        self.note_leg_ended(now, leg);
        self.refuse_pending(now, leg);
        match phase {
            Phase::Incoming => {
                self.answer_no(now, leg, refusal);
                self.leg_gone(leg);
            }
            Phase::Outgoing => {
                self.cancel_invite(now, leg);
                self.leave(now, leg);
            }
            Phase::Established => {
                self.answer_no(now, leg, &Refusal::status(487));
                self.cancel_invite(now, leg);
                self.leave(now, leg);
                // RFC 3261, 15: the callee's side "MUST NOT send a BYE on a confirmed dialog until it
                // has received an ACK for its 2xx response or until the server transaction times out".
                if self.calls.leg(leg).is_some_and(|leg| leg.unacknowledged.is_none()) {
                    self.say_goodbye(now, leg);
                }
            }
            Phase::Leaving | Phase::Gone => {}
        }
    }

    pub(crate) fn cancel_invite(&mut self, now: Instant, leg: LegRef) {
        let inviting = self.calls.leg(leg).and_then(|leg| leg.inviting.as_ref());
        if let Some(key) = inviting.map(|inviting| inviting.key) {
            let reasons = self.calls.find(leg.call).map(|call| call.reasons.clone());
            let reasons = reasons.unwrap_or_default();
            self.transactions.cancel_because(now, key, &reasons, &mut self.sent);
        }
    }

    /// Why a leg's peer leaves is told to the others (RFC 3326).
    fn note_reasons(&mut self, leg: LegRef, message: &Message<'_>) {
        if let Some(call) = self.calls.find_mut(leg.call) {
            call.reasons = reasons(message);
        }
    }

    /// What a BYE of ours says of why.
    pub(crate) fn reasons_of(&self, leg: LegRef) -> Lines {
        let reasons = self.calls.find(leg.call).map(|call| call.reasons.iter());
        reasons.into_iter().flatten().map(|reason| ("Reason", reason.clone())).collect()
    }

    /// RFC 3261, 15.1.2: requests of the leg that wait for an answer get 487.
    fn refuse_pending(&mut self, now: Instant, leg: LegRef) {
        self.refuse_asked(now, leg, &Refusal::status(487));
        self.answer_passed(now, leg, 487);
    }

    fn leave(&mut self, now: Instant, leg: LegRef) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.phase = Phase::Leaving;
        }
        self.timers.set(now + Duration::from_millis(GOODBYE_LIMIT_MS), Timer::Goodbye(leg));
    }

    /// Sends the BYE of a leg that is leaving.
    pub(crate) fn say_goodbye(&mut self, now: Instant, leg: LegRef) {
        if let Some(cseq) = self.calls.leg_mut(leg).and_then(|leg| leg.owes_ack.take()) {
            self.send_ack_for(leg, cseq, None);
        }
        if self.send_within(now, leg, Method::Bye, None).is_none() {
            self.leg_gone(leg);
            self.forget_if_over(leg.call);
        }
    }

    /// Nothing of the leg is left at its peer: its lease is free, its row says so.
    pub(crate) fn leg_gone(&mut self, leg: LegRef) {
        self.release_lease(leg);
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        entry.phase = Phase::Gone;
        entry.inviting = None;
        // Of more than two, one may go without the call.
        match self.calls.find(leg.call).is_some_and(|call| call.legs.len() > 2) {
            true => self.note_call(leg.call),
            false => self.note_leg(leg),
        }
        self.forget_if_over(leg.call);
    }

    fn forget_if_over(&mut self, call: CallRef) {
        let is_over = self
            .calls
            .find(call)
            .is_some_and(|entry| entry.state == CallState::Ended && entry.is_over());
        if is_over {
            // A leg that never came to its INVITE may still hold its agent's word.
            for leg in 0..self.calls.find(call).map_or(0, |entry| entry.legs.len()) {
                self.release_lease(LegRef { call, leg: leg as u8 });
            }
            self.calls.remove(call);
        }
    }

    /// RFC 3261, 13.3.1.4: no ACK: "the dialog is confirmed, but the session SHOULD be terminated. This
    /// is accomplished with a BYE".
    pub(crate) fn on_no_ack(&mut self, now: Instant, key: ServerKey, leg: LegRef) {
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        if entry.unacknowledged.is_none_or(|(waiting, _)| waiting != key) {
            return;
        }
        entry.unacknowledged = None;
        let is_leaving = entry.phase == Phase::Leaving;
        if is_leaving {
            self.say_goodbye(now, leg);
        } else {
            self.lose_leg(now, leg, &Refusal::status(408));
        }
    }

    /// A request of ours was never answered (RFC 3261, 8.1.3.1: as if by 408).
    pub(crate) fn on_client_timeout(&mut self, now: Instant, key: ClientKey, leg: LegRef) {
        if leg.call == WATCHER {
            return self.on_trunk_answered(key, leg.leg, Outage::Silent);
        }
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        let was_invite = entry.inviting.as_ref().is_some_and(|inviting| inviting.key == key);
        match entry.phase {
            Phase::Leaving => self.leg_gone(leg),
            Phase::Outgoing if was_invite => {
                if self.try_next(now, leg) {
                    return;
                }
                self.note_leg_ended(now, leg);
                self.leg_gone(leg);
                self.lose_target(now, leg, &Refusal::status(408));
            }
            // RFC 3261, 12.2.1.2: a request within a dialog that gets no answer ends the dialog.
            Phase::Established => {
                if was_invite {
                    entry.inviting = None;
                }
                self.lose_leg(now, leg, &Refusal::status(408));
            }
            _ => {}
        }
    }
}
