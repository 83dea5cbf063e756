//! Somebody is called for a mix: a participant of a conference, a supervisor.
//!
//! The call has one leg, which comes into the mix as soon as it is answered, so that nothing that is said is lost on the
//! way of another order. Whom the number is, the tables say, else control, as for every call. Its row tells the mix and
//! what the guest is there, so that a control process that comes back finds who belongs together.

use std::time::Duration;

use abi::{CallRow, CallState, Counter, Event, GuestKind, MixRole, OpResult, Party, Purpose, Why};
use base::{CallRef, Instant, LocationId, TenantId};

use crate::call::{CALLER, LegRef, Number, Phase, is_dialable};
use crate::dial::Target;
use crate::functions::Ordered;
use crate::invite::ASK_LIMIT_MS;
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::worker::{Timer, Worker};

/// What a call was made for that brings somebody into a mix.
#[derive(Clone, Copy, Debug)]
pub struct Summons {
    /// The operation, until it is completed.
    pub op: Option<u64>,
    /// For whom.
    pub by: Party,
    /// What the agent's word is won for.
    pub purpose: Purpose,
    pub mix: u32,
    pub guest: GuestKind,
    /// Whom a whisper is for.
    pub to: LegRef,
    /// How long the phone may ring, in seconds.
    pub ring_s: u32,
}

impl Summons {
    /// What a row tells of one that an earlier process answered.
    pub fn of(row: &CallRow) -> Option<Box<Summons>> {
        let guest = row.guest()?;
        let (by, purpose) = (Party::Trunk(u32::MAX), Purpose::Conference);
        let to = LegRef { call: CallRef::default(), leg: CALLER };
        Some(Box::new(Summons { op: None, by, purpose, mix: row.mix, guest, to, ring_s: 0 }))
    }
}

impl Worker {
    /// Control wants somebody in a mix. The blob is the number, and the one that is shown.
    pub(crate) fn on_summon(
        &mut self,
        now: Instant,
        tenant: TenantId,
        summons: Summons,
        blob: &[u8],
    ) -> Ordered {
        let mut lines = blob.split(|byte| *byte == b'\n');
        let mut number = || Number::new(lines.next()?).ok().filter(is_dialable);
        let (Some(number), Some(shown)) = (number().filter(|it| !it.is_empty()), number()) else {
            return Ordered::Done(OpResult::Refused);
        };
        if self.draining {
            return Ordered::Done(OpResult::Refused);
        }
        let Ok(call) = self.new_call(now, tenant, number) else {
            return Ordered::Done(OpResult::Full);
        };
        if let Some(op) = summons.op {
            self.tell(Event::Summoned { op, call });
        }
        if let Some(entry) = self.calls.find_mut(call) {
            entry.summons = Some(Box::new(summons));
            entry.dialling = Some(shown);
        }
        // Who does not come is not followed: the organiser goes on with somebody else.
        self.forbid_forwards(call);
        if let Err(refusal) = self.seek_guest(now, call, number, &summons) {
            self.end_call(now, call, &refusal);
        }
        Ordered::Begun
    }

    fn seek_guest(
        &mut self,
        now: Instant,
        call: CallRef,
        number: Number,
        summons: &Summons,
    ) -> Result<(), Refusal> {
        let tenant = self.calls.find(call).map(|entry| entry.tenant);
        let tenant = tenant.ok_or_else(|| Refusal::status(481))?;
        if let Some((agent, row)) = self.agent_called(tenant, &number) {
            let target = self.reach_agent(now, agent, &row)?;
            let lease = Some(self.win_lease(now, agent, summons.purpose)?);
            return self.invite_guest(now, call, Target { lease, ..target });
        }
        if !self.control_here {
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        }
        let op = self.next_operation();
        if let Some(entry) = self.calls.find_mut(call) {
            (entry.asked, entry.state) = (Some(op), CallState::Asked);
        }
        self.note_call(call);
        let (caller, location, why) = (summons.by, LocationId(0), Why::Summoned);
        let asked = Event::Asked { op, call, tenant, caller, location, why };
        self.tell_with(asked, number.as_bytes());
        self.timers.set(now + Duration::from_millis(ASK_LIMIT_MS), Timer::Asked(call, op));
        Ok(())
    }

    /// Invites who is to come into a mix, with a description of our own.
    pub(crate) fn invite_guest(
        &mut self,
        now: Instant,
        call: CallRef,
        target: Target,
    ) -> Result<(), Refusal> {
        let leg = self.add_leg(now, call, &target)?;
        let shown = self.calls.find_mut(call).and_then(|entry| {
            entry.state = CallState::Calling;
            entry.dialling.take()
        });
        self.open_media(leg)?;
        let offer = self.own_description(now, leg, &[])?;
        self.send_invite_as(now, leg, &target, shown.unwrap_or_default(), Some(offer), &[])
    }

    /// True for a call that brings somebody into a mix.
    pub(crate) fn is_guest(&self, call: CallRef) -> bool {
        self.calls.find(call).is_some_and(|call| call.summons.is_some())
    }

    /// How long the phone of a guest may ring, in milliseconds; none for other legs.
    pub(crate) fn guest_rings_ms(&self, leg: LegRef) -> Option<u64> {
        let summons = self.calls.find(leg.call)?.summons.as_ref()?;
        Some(u64::from(summons.ring_s) * 1_000)
    }

    /// A guest's phone rings.
    pub(crate) fn on_guest_rings(&mut self, call: CallRef) {
        if let Some(entry) = self.calls.find_mut(call)
            && entry.state == CallState::Calling
        {
            entry.state = CallState::Ringing;
            self.note_call(call);
        }
    }

    /// A guest answered, and is in the mix from here on.
    pub(crate) fn on_guest_answered(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.find_mut(leg.call) else { return };
        let Some(summons) = entry.summons.as_deref_mut() else { return };
        let (of, op) = (*summons, summons.op.take());
        (entry.state, entry.answered_at) = (CallState::Answered, now);
        if let Some(leg) = entry.leg_mut(leg.leg) {
            leg.times.answered_at = now;
            leg.ext.answered_here = true;
        }
        self.count(Counter::CallsAnswered);
        let is_in = self.join_mix(leg, of.mix, of.guest.role(), of.to);
        self.arrange(leg);
        self.note_call(leg.call);
        if is_in {
            self.count(Counter::CallsSummoned);
        }
        if let Some(op) = op {
            let result = if is_in { OpResult::Ok } else { OpResult::Refused };
            self.tell(Event::Done { op, result });
        }
        if !is_in {
            self.end_call(now, leg.call, &Refusal::status(488));
        }
    }

    /// A guest will not come.
    pub(crate) fn summons_failed(&mut self, op: u64, was_called: bool, cause: u16) {
        let result = match (was_called, cause) {
            (false, 404) => OpResult::NoSuchAgent,
            (false, 503) => OpResult::Full,
            (false, _) => OpResult::Denied,
            (true, 0) => OpResult::Stopped,
            (true, 408 | 480 | 487) => OpResult::NoAnswer,
            (true, _) => OpResult::Declined,
        };
        self.tell(Event::Done { op, result });
    }

    /// A guest's leg has another role in its mix.
    pub(crate) fn note_role(&mut self, leg: LegRef, role: MixRole) {
        let call = self.calls.find_mut(leg.call);
        if let Some(summons) = call.and_then(|call| call.summons.as_deref_mut())
            && summons.guest != GuestKind::Participant
        {
            summons.guest = GuestKind::of_role(role);
        }
    }

    /// Puts a leg into a conference, in which it stands for itself. False when its peer takes no G.711, or something
    /// else is under way with it.
    pub(crate) fn confer(&mut self, now: Instant, leg: LegRef, mix: u32, organiser: bool) -> bool {
        let is_free = self.calls.find(leg.call).is_some_and(|call| call.transfer.is_none());
        let entry = self.calls.leg(leg).filter(|leg| leg.takes.is_some() && leg.awaited.is_none());
        if entry.is_none() || !is_free {
            return false;
        }
        self.part_from_peer(now, leg);
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.conferred = Some(organiser);
            // It goes on by itself, also in another process.
            entry.ext.answered_here = true;
        }
        self.join_mix(leg, mix, MixRole::Participant, leg)
    }

    /// Control ends one leg.
    pub(crate) fn on_drop(&mut self, now: Instant, leg: LegRef) -> OpResult {
        let Some(entry) = self.calls.leg(leg) else { return OpResult::NoSuchCall };
        if matches!(entry.phase, Phase::Leaving | Phase::Gone) {
            return OpResult::NoSuchCall;
        }
        self.note_ended_by(leg.call, abi::EndedBy::Control, 0);
        self.lose_leg(now, leg, &Refusal::status(487));
        self.note_goes_on(leg.call);
        OpResult::Ok
    }
}
