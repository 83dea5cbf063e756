//! Calls that go elsewhere than they were dialled: forwarding (RFC 5359, 2.7 to 2.9) and click to dial.
//!
//! Whether an agent forwards stands in the agent's row; where to is control's to say, since a number may lead
//! anywhere. Without control, and after [`MAX_FORWARDS`], the caller hears what the agent's phone would have said.

use abi::{AgentRow, CallState, Counter, OpResult, Party, Purpose, Why};
use base::{AgentSlot, CallRef, Instant};

use crate::call::{CALLER, LegRef, Number, is_dialable};
use crate::dial::Target;
use crate::hunt::Instead;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How often one call may be forwarded: each step is another INVITE, and rules may go round in a circle.
pub(crate) const MAX_FORWARDS: u8 = 5;

/// From whom a call was forwarded, and why.
#[derive(Clone, Copy, Debug)]
pub struct Diversion {
    number: Number,
    why: Why,
}

impl Diversion {
    /// The value of the header (RFC 5806, 10.1).
    pub(crate) fn value(&self, host: std::net::SocketAddr) -> String {
        let reason = match self.why {
            Why::Busy => "user-busy",
            Why::NoAnswer => "no-answer",
            Why::Unavailable => "unavailable",
            _ => "unconditional",
        };
        format!("<sip:{}@{host}>;reason={reason}", self.number)
    }
}

impl Worker {
    /// The agent does not take the call: asks control where it goes instead, when the agent's row says so. `status`
    /// is what the caller hears should nobody take it.
    pub(crate) fn ask_instead(
        &mut self,
        now: Instant,
        call: CallRef,
        row: &AgentRow,
        why: Why,
        status: u16,
    ) -> bool {
        let flag = match why {
            Why::Always => AgentRow::ALWAYS,
            Why::Busy => AgentRow::BUSY,
            Why::NoAnswer => AgentRow::NO_ANSWER,
            Why::Unavailable => AgentRow::UNAVAILABLE,
            Why::Called
            | Why::Transferred
            | Why::Forwarded
            | Why::Offered
            | Why::Summoned
            | Why::Hunted => 0,
        };
        let Some(entry) = self.calls.find_mut(call) else { return false };
        let is_free = entry.hunt.is_none() && !entry.is_offered();
        let may = self.control_here && entry.forwards < MAX_FORWARDS && is_free;
        if row.forwards & flag == 0 || !may {
            return false;
        }
        entry.forwards += 1;
        entry.failing = Some(status);
        let number = Number::new(row.number().as_bytes()).unwrap_or_default();
        entry.diverted = Some(Diversion { number, why });
        let Some(by) = self.asks_for(call) else { return false };
        self.ask_for(now, by, number, why);
        true
    }

    /// Nobody else is to take the call.
    pub(crate) fn forbid_forwards(&mut self, call: CallRef) {
        if let Some(entry) = self.calls.find_mut(call) {
            entry.forwards = MAX_FORWARDS;
        }
    }

    /// In whose name control is asked about a call.
    pub(crate) fn asks_for(&self, call: CallRef) -> Option<LegRef> {
        let transfer = self.calls.find(call)?.transfer.as_ref();
        let by = transfer.map(|transfer| transfer.by.unwrap_or(transfer.of));
        Some(by.unwrap_or(LegRef { call, leg: CALLER }))
    }

    /// A leg that we invited did not come: true when its call goes elsewhere.
    pub(crate) fn forward_leg(&mut self, now: Instant, leg: LegRef, why: Why, status: u16) -> bool {
        if self.hunt_on(now, leg) {
            return true;
        }
        let call = self.calls.find(leg.call);
        let waits = call.is_some_and(|call| {
            !matches!(call.state, CallState::Answered | CallState::Ended) || call.transfer.is_some()
        });
        let agent = self.calls.leg(leg).and_then(|leg| leg.agent()).filter(|_| waits);
        let Some(row) = agent.and_then(|agent| self.region.agents().read(agent)) else {
            return false;
        };
        if leg.leg == CALLER || !self.ask_instead(now, leg.call, &row, why, status) {
            return false;
        }
        if self.is_transfer_to(leg) {
            self.seek_again(leg.call);
        }
        self.unjoin(now, leg);
        self.close_media(now, leg);
        self.note_call(leg.call);
        true
    }

    /// Control says to which number a call goes instead, or which places are tried in turn.
    pub(crate) fn on_forward(
        &mut self,
        now: Instant,
        call: CallRef,
        ask: u64,
        number: &[u8],
    ) -> OpResult {
        if !self.take_question(call, ask) {
            return OpResult::NoSuchCall;
        }
        let Some(instead) = Instead::of(number).filter(|_| !self.is_hunting(call)) else {
            self.refuse_way(now, call, &Refusal::status(404));
            return OpResult::Refused;
        };
        // RFC 3261, 21.1.3: "A server MAY use this status code to indicate that the call is being forwarded to a
        // different set of destinations."
        self.answer(now, LegRef { call, leg: CALLER }, 181, None);
        let sought = match instead {
            Instead::Number(number) => self.seek(now, call, number, Why::Forwarded),
            Instead::Places(hunt) => self.begin_hunt(now, call, hunt),
        };
        match sought {
            Ok(()) => OpResult::Ok,
            Err(refusal) => {
                self.refuse_way(now, call, &refusal);
                OpResult::Refused
            }
        }
    }

    /// Finds the way to a number for a call that is forwarded, or for the party of a transfer: by the tables, else
    /// control is asked.
    pub(crate) fn seek(
        &mut self,
        now: Instant,
        call: CallRef,
        to: Number,
        why: Why,
    ) -> Result<(), Refusal> {
        let gone = || Refusal::status(481);
        let entry = self.calls.find(call).ok_or_else(gone)?;
        let (tenant, is_transfer) = (entry.tenant, entry.transfer.is_some());
        let Some((agent, row)) = self.agent_called(tenant, &to) else {
            if !self.control_here {
                return Err(Refusal::unavailable(crate::refusal::RETRY_AFTER_S));
            }
            let by = self.asks_for(call).ok_or_else(gone)?;
            self.ask_for(now, by, to, why);
            return Ok(());
        };
        if self.ask_instead(now, call, &row, Why::Always, 480) {
            return Ok(());
        }
        let reached = self.reach_agent(now, agent, &row);
        let target = match reached {
            Ok(target) => target,
            Err(refusal) if self.ask_instead(now, call, &row, Why::Unavailable, refusal.status) => {
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        let purpose = match why {
            Why::Offered => Purpose::Queue,
            _ if is_transfer => Purpose::Transfer,
            _ => Purpose::Call,
        };
        let lease = match self.win_lease(now, agent, purpose) {
            Ok(lease) => Some(lease),
            Err(refusal) if self.ask_instead(now, call, &row, Why::Busy, refusal.status) => {
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        self.dial_or_invite(now, call, Target { lease, ..target })
    }

    /// Invites a target for the call itself, for its transfer or for a mix.
    pub(crate) fn dial_or_invite(
        &mut self,
        now: Instant,
        call: CallRef,
        target: Target,
    ) -> Result<(), Refusal> {
        match self.calls.find(call) {
            Some(call) if call.transfer.is_some() => self.invite_target(now, call.id, target),
            Some(call) if call.summons.is_some() => self.invite_guest(now, call.id, target),
            _ => self.dial(now, call, target),
        }
    }

    /// Control wants an agent's phone to be called first, and then a number (click to dial; RFC 3725, 4.1).
    pub(crate) fn on_originate(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        epoch: u32,
        number: &[u8],
    ) -> OpResult {
        let number = Number::new(number).ok().filter(|it| !it.is_empty() && is_dialable(it));
        let row = self.region.agents().read(agent).filter(|row| row.login_epoch == epoch);
        let (Some(number), Some(row)) = (number, row) else {
            return OpResult::NoSuchAgent;
        };
        if self.draining {
            return OpResult::Refused;
        }
        let Ok(target) = self.reach_agent(now, agent, &row) else {
            return OpResult::Refused;
        };
        let Ok(call) = self.new_call(now, row.tenant(), number) else {
            return OpResult::Full;
        };
        if let Some(entry) = self.calls.find_mut(call) {
            entry.dialling = Some(number);
        }
        match self.ring_first(now, call, target, number) {
            Ok(()) => OpResult::Ok,
            Err(refusal) => {
                self.end_call(now, call, &refusal);
                if refusal.status == 503 { OpResult::Full } else { OpResult::Refused }
            }
        }
    }

    /// Invites the phone of who wants to call, with a description of our own.
    fn ring_first(
        &mut self,
        now: Instant,
        call: CallRef,
        target: Target,
        number: Number,
    ) -> Result<(), Refusal> {
        let Party::Agent(agent, _) = target.party else {
            return Err(Refusal::status(480));
        };
        let lease = Some(self.win_lease(now, agent, Purpose::Outgoing)?);
        let target = Target { lease, ..target };
        let leg = self.add_leg(now, call, &target)?;
        self.open_media(leg)?;
        let offer = self.own_description(now, leg, &[])?;
        self.send_invite_as(now, leg, &target, number, Some(offer), &[])
    }

    /// The phone of who wants to call was answered: now the number.
    pub(crate) fn on_first_answered(&mut self, now: Instant, leg: LegRef) {
        let dialling = self.calls.find_mut(leg.call).and_then(|call| call.dialling.take());
        let is_described = self.calls.leg(leg).is_some_and(|leg| !leg.described.is_empty());
        match dialling {
            Some(number) if is_described => {
                self.count(Counter::CallsDialled);
                self.transfer_to_number(now, leg.call, None, leg, number);
            }
            _ => self.end_call(now, leg.call, &Refusal::status(488)),
        }
    }
}
