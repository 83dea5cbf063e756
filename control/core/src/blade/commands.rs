//! What desks order, and what they are told of their agents' seats.

use abi::{OpResult, Party};
use base::{CallRef, CcbId, Instant, WorkerId};

use super::Blade;
use super::desk;
use super::side::{Purpose, Side};
use crate::calls::Call;
use crate::desk::DeskCommand;
use crate::login::{Desk, LoginKey};
use crate::message::{CallEvent, DeskMessage, OpOutcome, Output, Trace};
use crate::seat::{SeatChange, SeatEvent};

impl Blade {
    /// A desk's order. It ends with exactly one [`Output::Done`].
    pub(super) fn desk_command(
        &mut self,
        now: Instant,
        reply: u64,
        login: Option<LoginKey>,
        command: DeskCommand,
        out: &mut Vec<Output>,
    ) {
        let Some(login) = login.filter(|login| self.logins.contains_key(login)) else {
            return done(reply, OpOutcome::Unknown, out);
        };
        let change = match command {
            DeskCommand::Ready => SeatChange::Ready,
            DeskCommand::NotReady(why) => SeatChange::NotReady(why),
            DeskCommand::Dial(to) => {
                let Some(entry) = self.logins.get(&login) else {
                    return done(reply, OpOutcome::Unknown, out);
                };
                let from = entry.record.number.clone();
                return self.dial(now, reply, (login.tenant, &from), &to, out);
            }
            DeskCommand::HangUp(serial) => {
                return match self.call_of(login, serial) {
                    Some((ccb, call, _)) => self.release(now, reply, ccb, call, out),
                    None => done(reply, OpOutcome::Unknown, out),
                };
            }
            other => return self.desk_order(now, reply, login, other, out),
        };
        // The desk hears that it was done before it hears what came of it.
        done(reply, OpOutcome::Done(OpResult::Ok), out);
        self.step_seat(now, login, change, out);
    }

    /// The call of that serial number in which the agent has a leg that is not over, and the leg's number; for none
    /// the newest.
    pub(super) fn call_of(
        &self,
        login: LoginKey,
        serial: Option<u64>,
    ) -> Option<(CcbId, CallRef, u8)> {
        self.call_meant(login, serial, |_| true)
    }

    /// The same; of several, one whose leg of the agent is so, if there is one.
    pub(super) fn call_meant(
        &self,
        login: LoginKey,
        serial: Option<u64>,
        is_meant: impl Fn(abi::LegState) -> bool,
    ) -> Option<(CcbId, CallRef, u8)> {
        let entry = self.logins.get(&login)?;
        let side = self.sides.get(&entry.ccb)?;
        let party = Party::Agent(entry.slot, login.epoch);
        let leg = |call: &Call| {
            let of_agent = |leg: &&(u32, abi::LegRow)| {
                leg.1.party() == Some(party) && leg.1.state() != abi::LegState::Ended
            };
            let leg = call.legs.iter().find(of_agent).map(|(_, leg)| leg)?;
            // The row of a caller's leg follows the call's without an event of its own.
            let is_answered = leg.leg == 0 && call.row.state() == abi::CallState::Answered;
            let state = if is_answered { abi::LegState::Answered } else { leg.state() };
            Some((is_meant(state), leg.started_at, leg.leg as u8))
        };
        let calls = entry.calls.iter().filter_map(|call| side.calls.find(*call));
        let fits = |call: &&Call| serial.is_none_or(|serial| call.row.serial == serial);
        let found = calls.filter(fits).filter_map(|call| Some((leg(call)?, call.call)));
        found.max().map(|((_, _, leg), call)| (entry.ccb, call, leg))
    }

    /// Changes a seat: tells the desk, writes down what outlives control, and puts the agent where that belongs.
    pub(super) fn step_seat(
        &mut self,
        now: Instant,
        login: LoginKey,
        change: SeatChange,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.logins.get_mut(&login) else { return };
        let before = entry.seat;
        let told = entry.seat.step(now, change);
        if entry.seat == before {
            return;
        }
        let written = |seat: &crate::seat::Seat| (seat.work, seat.since, seat.next);
        if written(&entry.seat) != written(&before) {
            let (ccb, slot, row) = (entry.ccb, entry.slot, entry.row(login));
            if let Some(region) = self.sides.get(&ccb).and_then(Side::region) {
                region.agents().write(slot, &row);
            }
        }
        self.tell_seat(login, told, out);
        self.place_seat(now, login, out);
    }

    /// Tells a desk how its agent's seat stands.
    pub(super) fn tell_seat(
        &self,
        login: LoginKey,
        told: Option<SeatEvent>,
        out: &mut Vec<Output>,
    ) {
        let desk = self.logins.get(&login).map(|entry| entry.login.desk);
        if let (Some(Desk::Attached(socket)), Some(event)) = (desk, told) {
            out.push(Output::Desk { socket, message: DeskMessage::Agent(event) });
        }
    }

    /// A party of a call is held, or is not any more: the others are told.
    pub(super) fn tell_hold(
        &mut self,
        now: Instant,
        ccb: CcbId,
        (call, leg): (CallRef, u8),
        on: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get(&ccb) else { return };
        let Some(known) = side.calls.find(call).cloned() else { return };
        let event = if on { CallEvent::Held } else { CallEvent::Retrieved };
        for (_, row) in known.legs.iter().filter(|(_, row)| row.leg != u32::from(leg)) {
            if let Some(login) = self.login_at(ccb, row) {
                self.tell_call(now, (ccb, login), event, (&known, row), out);
                self.engage(now, login, out);
            }
        }
    }

    /// An agent who called a queue waits there.
    pub(super) fn tell_queued(
        &self,
        now: Instant,
        ccb: CcbId,
        call: CallRef,
        out: &mut Vec<Output>,
    ) {
        let known = self.sides.get(&ccb).and_then(|side| side.calls.find(call));
        let Some(known) = known else { return };
        for (_, row) in known.legs.iter().filter(|(_, row)| row.leg == 0) {
            if let Some(login) = self.login_at(ccb, row) {
                self.tell_call(now, (ccb, login), CallEvent::Queued, (known, row), out);
            }
        }
    }

    fn login_at(&self, ccb: CcbId, row: &abi::LegRow) -> Option<LoginKey> {
        desk::login_of(self.sides.get(&ccb)?, row)
    }

    fn tell_call(
        &self,
        now: Instant,
        (ccb, login): (CcbId, LoginKey),
        event: CallEvent,
        (call, leg): (&Call, &abi::LegRow),
        out: &mut Vec<Output>,
    ) {
        let desk = self.logins.get(&login).map(|entry| entry.login.desk);
        if let Some(Desk::Attached(socket)) = desk {
            let queue = self.queueing.of_call(now, ccb, call.call);
            let message = desk::message_of(event, call, leg, queue);
            out.push(Output::Desk { socket, message });
        }
    }

    /// Releases a call. It ends with exactly one [`Output::Done`].
    pub(super) fn release(
        &mut self,
        now: Instant,
        reply: u64,
        ccb: CcbId,
        call: CallRef,
        out: &mut Vec<Output>,
    ) {
        let side = self.sides.get_mut(&ccb);
        let known = side.and_then(|side| {
            let region = side.region()?;
            side.calls.find(call)?;
            region.calls().owner(call.slot).map(|worker| (side, worker))
        });
        match known {
            None => out.push(Output::Done { reply, result: OpOutcome::Unknown, digits: None }),
            Some((side, _)) if !side.link => {
                out.push(Output::Done { reply, result: OpOutcome::Gone, digits: None });
            }
            Some((side, worker)) => {
                let command = |op| abi::Command::Release { op, call, cause: 0 };
                side.send(now, worker, Purpose::Asked { reply }, &[], command, out);
            }
        }
    }

    /// Orders a trace of one worker, or its end. It ends with exactly one [`Output::Done`].
    pub(super) fn trace(
        &mut self,
        now: Instant,
        reply: u64,
        (ccb, worker): (CcbId, WorkerId),
        trace: Trace,
        out: &mut Vec<Output>,
    ) {
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let has = |side: &&mut Side| {
            side.region().is_some_and(|region| worker.0 < region.layout().workers)
        };
        let Some(side) = side.filter(has) else {
            return out.push(Output::Done { reply, result: OpOutcome::Gone, digits: None });
        };
        let Trace { id, to, until, serial, number } = trace;
        let until = until.as_nanos();
        let command = |op| abi::Command::Trace { op, trace: id, to, until, serial };
        side.send(now, worker, Purpose::Asked { reply }, number.as_bytes(), command, out);
    }
}

pub(super) fn done(reply: u64, result: OpOutcome, out: &mut Vec<Output>) {
    out.push(Output::Done { reply, result, digits: None });
}
