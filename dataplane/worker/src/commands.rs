//! What control orders. Each command has one completion, [`Event::Done`] with its operation id.

use std::net::SocketAddr;

use abi::{Command, EndedBy, Event, OpResult, Party, UnregisterCause};
use base::{AgentSlot, CallRef, Instant, Transport, owner};

use crate::call::{Flow, LegRef, Number, Phase, is_dialable};
use crate::dial::Target;
use crate::functions::Ordered;
use crate::mirror::Trace;
use crate::offer::Offer;
use crate::refusal::Refusal;
use crate::summon::Summons;
use crate::worker::Worker;

impl Worker {
    pub(crate) fn obey(&mut self, now: Instant, command: Command, blob: &[u8]) {
        let (op, result) = match command {
            Command::Dial { op, ask, call, address, location, transport } => {
                let flow = Flow::of(location, transport, address);
                (op, self.on_dial(now, call, ask, flow, blob))
            }
            Command::Host { op, ask, call, home, address, location, transport } => {
                let flow = Flow::of(location, transport, address);
                (op, self.on_host(now, call, ask, home, flow, blob))
            }
            Command::Yield { op, ask, call } => (op, self.on_yield(now, call, ask)),
            Command::Watch { op, address, location, transport, every_s } => {
                (op, self.on_watch_ordered(now, Flow::of(location, transport, address), every_s))
            }
            Command::Reject { op, ask, call, status, retry_after_s } => {
                (op, self.on_reject(now, call, ask, status, retry_after_s))
            }
            Command::Forward { op, ask, call } => (op, self.on_forward(now, call, ask, blob)),
            Command::Transfer { op, call, leg } => {
                (op, self.on_transfer_ordered(now, LegRef { call, leg }, blob))
            }
            Command::Offer { op, call, leg, ring_s, overflow } => {
                let offer = Offer { op, ring_s, overflow };
                match self.on_offer(now, LegRef { call, leg }, offer, blob) {
                    Ordered::Done(result) => (op, result),
                    Ordered::Begun => return,
                }
            }
            Command::Originate { op, agent, epoch } => {
                (op, self.on_originate(now, agent, epoch, blob))
            }
            Command::Answer { op, ask, call } => (op, self.on_answer_ordered(now, call, ask)),
            Command::Media { op, call, leg, order } => {
                let leg = LegRef { call, leg };
                match self.on_media_ordered(now, op, leg, order, blob) {
                    Ordered::Done(result) => (op, result),
                    Ordered::Begun => return,
                }
            }
            Command::Summon { op, tenant, by, purpose, mix, guest, to, to_leg, ring_s } => {
                let to = LegRef { call: to, leg: to_leg };
                let summons = Summons { op: Some(op), by, purpose, mix, guest, to, ring_s };
                match self.on_summon(now, tenant, summons, blob) {
                    Ordered::Done(result) => (op, result),
                    Ordered::Begun => return,
                }
            }
            Command::Drop { op, call, leg } => (op, self.on_drop(now, LegRef { call, leg })),
            Command::Park { op, call, leg, on } => {
                (op, self.on_park(now, LegRef { call, leg }, on))
            }
            Command::Talk { op, call, leg } => (op, self.on_talk(now, LegRef { call, leg })),
            Command::Probe { op, call, leg } => {
                (op, self.on_probe_ordered(now, LegRef { call, leg }))
            }
            Command::Release { op, call, cause } => (op, self.on_release(now, call, cause)),
            Command::Forget { op, agent, epoch } => (op, self.on_forget(agent, epoch)),
            Command::Drain { op, on } => {
                self.draining = on;
                (op, OpResult::Ok)
            }
            Command::Trace { op, trace, to, until, serial } => {
                (op, self.on_trace(now, Trace::new(trace, to, until, serial, blob)))
            }
        };
        self.tell(Event::Done { op, result });
    }

    /// Control says where a call goes that we asked about.
    fn on_dial(
        &mut self,
        now: Instant,
        call: CallRef,
        ask: u64,
        flow: Flow,
        blob: &[u8],
    ) -> OpResult {
        if !self.take_question(call, ask) {
            return OpResult::NoSuchCall;
        }
        let is_ours = usize::from(flow.location.0) < self.config.locations.len();
        let mut lines = blob.split(|byte| *byte == b'\n');
        let number = lines.next().and_then(|number| Number::new(number).ok()).filter(is_dialable);
        let others = lines.filter_map(|line| core::str::from_utf8(line).ok()?.parse().ok());
        let others: Vec<SocketAddr> = others.collect();
        let (Some(number), true) = (number, is_ours) else {
            self.refuse_way(now, call, &Refusal::status(404));
            return OpResult::Refused;
        };
        let uri = uri_at(number.as_str(), flow);
        let trunk = self.trunk_called(flow);
        let target = Target::new(Party::Trunk(trunk), number, flow, uri);
        match self.dial_or_invite(now, call, target) {
            Ok(()) => {
                let legs = self.calls.find(call).map_or(0, |call| call.legs.len());
                self.note_others(LegRef { call, leg: legs.saturating_sub(1) as u8 }, others);
                OpResult::Ok
            }
            Err(refusal) => {
                self.refuse_way(now, call, &refusal);
                OpResult::Full
            }
        }
    }

    fn on_reject(
        &mut self,
        now: Instant,
        call: CallRef,
        ask: u64,
        status: u16,
        retry_after_s: u32,
    ) -> OpResult {
        if !self.take_question(call, ask) {
            return OpResult::NoSuchCall;
        }
        self.note_ended_by(call, EndedBy::Control, 0);
        // Whatever the other process says, a refusal is a refusal.
        let status = if (300..700).contains(&status) { status } else { 500 };
        let refusal = match retry_after_s {
            0 => Refusal::status(status),
            wait => Refusal::status(status).with("Retry-After", wait.to_string().as_bytes()),
        };
        self.refuse_way(now, call, &refusal);
        OpResult::Ok
    }

    /// Control gives a leg's peer to somebody else.
    fn on_transfer_ordered(&mut self, now: Instant, leg: LegRef, number: &[u8]) -> OpResult {
        let number = Number::new(number).ok().filter(|it| !it.is_empty() && is_dialable(it));
        let Some(call) = self.calls.find(leg.call) else {
            return OpResult::NoSuchCall;
        };
        let stands = call.leg(leg.leg).is_some_and(|leg| leg.phase == Phase::Established);
        let is_free = stands && call.transfer.is_none();
        let (Some(number), true, Ok(of)) = (number, is_free, self.transferable(leg)) else {
            return OpResult::Refused;
        };
        self.transfer_to_number(now, leg.call, Some(leg), of, number);
        OpResult::Ok
    }

    fn on_release(&mut self, now: Instant, call: CallRef, cause: u16) -> OpResult {
        if self.calls.find(call).is_none() {
            return OpResult::NoSuchCall;
        }
        self.note_ended_by(call, EndedBy::Control, 0);
        if (300..700).contains(&cause) {
            self.end_call(now, call, &Refusal::status(cause));
        } else {
            self.hang_up(now, call);
        }
        OpResult::Ok
    }

    /// A login is over. Control does not say which worker the agent belongs to; only that one may write
    /// the row.
    fn on_forget(&mut self, agent: AgentSlot, epoch: u32) -> OpResult {
        let row = self.region.agents().read(agent);
        let is_ours = row
            .is_some_and(|row| owner(row.user().as_bytes(), self.config.workers) == self.config.id);
        let registration = self.region.registrations().read(agent);
        let is_this = registration.is_some_and(|row| row.is_registered() && row.epoch == epoch);
        if is_ours && is_this && self.unregister(agent, UnregisterCause::Ordered) {
            OpResult::Ok
        } else {
            OpResult::NoSuchAgent
        }
    }

    /// The call waits for the answer to this very question.
    pub(crate) fn take_question(&mut self, call: CallRef, ask: u64) -> bool {
        let Some(entry) = self.calls.find_mut(call) else {
            return false;
        };
        if entry.asked != Some(ask) {
            return false;
        }
        entry.asked = None;
        true
    }
}

/// The Request-URI of a number at a trunk, or of a user at another CCB.
pub(crate) fn uri_at(user: &str, flow: Flow) -> Vec<u8> {
    match flow.channel.transport {
        Transport::Udp => format!("sip:{user}@{}", flow.peer),
        other => format!("sip:{user}@{};transport={other}", flow.peer),
    }
    .into_bytes()
}
