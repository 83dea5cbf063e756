//! CCBs that come from a pool and go back to it: who drains, who is told to log in again, who is stopped (G-09).

use std::collections::BTreeMap;
use std::time::Duration;

use abi::Command;
use base::{CallRef, CcbId, Instant};

use super::Blade;
use super::pooling::Shared;
use super::side::{self, Purpose};
use crate::cdm::CcbStatus;
use crate::login::{Desk, End, LoginKey};
use crate::message::{DeskMessage, Output};
use crate::pool::{DRAIN_S, Marks, PoolOrder, PoolRefusal, SlotId, SlotState, Slots};

/// How long a desk has to log in again before its login ends, in milliseconds.
pub(super) const MOVE_MS: u64 = 10_000;
/// Desks that are told to log in again in a second: the other CCBs get them one after the other.
const MOVES_A_SECOND: usize = 200;
/// How long the BYEs of calls that were released at the deadline have before the process is stopped.
const LAST_MS: u64 = 2_000;

/// The pool of this blade.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) slots: Slots,
    /// None while the CDM does not ask by itself.
    pub(super) marks: Option<Marks>,
    /// What concerns the slots of other blades.
    pub(super) shared: Shared,
    /// Who was told to log in again, and when.
    told: BTreeMap<LoginKey, Instant>,
    /// Calls that were released since the deadline came.
    released: BTreeMap<CallRef, CcbId>,
}

impl Blade {
    /// The slots of this blade, as they were when an earlier control process last said; with `marks` the CDM grows and
    /// shrinks the pool by itself while this blade leads, or is alone.
    pub fn pool(
        &mut self,
        now: Instant,
        slots: impl IntoIterator<Item = (SlotId, SlotState)>,
        marks: Option<Marks>,
    ) {
        self.pool = Pool { slots: Slots::new(now, slots), marks, ..Pool::default() };
    }

    /// The slots of this blade.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, SlotState)> {
        self.pool.slots.iter()
    }

    /// True while nothing new is to come to that CCB.
    pub(super) fn is_draining(&self, ccb: CcbId) -> bool {
        let state = self.pool.slots.state(SlotId::Ccb(ccb));
        matches!(state, Some(SlotState::Draining | SlotState::Stopping))
    }

    /// Does what the administrator or the CDM orders of our slots.
    pub(super) fn pool_order(
        &mut self,
        now: Instant,
        order: PoolOrder,
        out: &mut Vec<Output>,
    ) -> Result<SlotId, PoolRefusal> {
        match order {
            PoolOrder::Apply { kind, number } => {
                let (slot, order) = self.pool.slots.apply(now, kind, number)?;
                if let Some(order) = order {
                    out.push(Output::Slot { slot, order });
                }
                self.drain_changed(now, slot, out);
                Ok(slot)
            }
            PoolOrder::Release { slot, within_s } => {
                let within = Duration::from_secs(within_s.unwrap_or(DRAIN_S).into());
                self.pool.slots.release(now, slot, within)?;
                self.drain_changed(now, slot, out);
                Ok(slot)
            }
        }
    }

    /// A slot's process is gone and its driver does not start it again.
    pub(super) fn slot_stopped(&mut self, now: Instant, slot: SlotId, out: &mut Vec<Output>) {
        self.pool.slots.stopped(now, slot);
        if let SlotId::Ccb(ccb) = slot {
            self.pool.released.retain(|_, on| *on != ccb);
        }
        self.slots_changed(out);
    }

    fn slots_changed(&mut self, out: &mut Vec<Output>) {
        self.report_soon();
        out.push(Output::Slots(self.pool.slots.iter().collect()));
    }

    /// A slot drains, or does not any more: the rows of its CCB refuse first, then its workers.
    fn drain_changed(&mut self, now: Instant, slot: SlotId, out: &mut Vec<Output>) {
        let Some(ccb) = slot.ccb() else { return self.slots_changed(out) };
        let is = self.is_draining(ccb);
        let region = self.sides.get(&ccb).and_then(side::Side::region);
        for (login, entry) in self.logins.iter_mut().filter(|(_, entry)| entry.ccb == ccb) {
            if entry.draining != is {
                entry.draining = is;
                if let Some(region) = &region {
                    region.agents().write(entry.slot, &entry.row(*login));
                }
            }
        }
        if !is {
            let logins = &self.logins;
            self.pool.told.retain(|login, _| logins.get(login).is_some_and(|it| it.ccb != ccb));
        }
        self.tell_workers(now, ccb, is, out);
        self.check_status(now, ccb, out);
        self.slots_changed(out);
    }

    /// Tells the workers of a CCB whether to take calls that are new.
    pub(super) fn tell_workers(
        &mut self,
        now: Instant,
        ccb: CcbId,
        on: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) else { return };
        let workers = side.region().map_or(0, |region| region.layout().workers);
        for worker in (0..workers).map(base::WorkerId) {
            let command = |op| Command::Drain { op, on };
            side.send(now, worker, Purpose::Drain, &[], command, out);
        }
    }

    /// Looks at the slots: call it about once a second.
    pub(super) fn sweep_pool(&mut self, now: Instant, out: &mut Vec<Output>) {
        let slots: Vec<(SlotId, SlotState)> = self.pool.slots.iter().collect();
        for (slot, was) in slots {
            let (mut left, mut status) = (0, CcbStatus::Down);
            match slot {
                SlotId::Ccb(ccb) => {
                    if was == SlotState::Draining {
                        left = self.drain(now, ccb, out);
                    }
                    status = self.cdm.ccb(ccb).map_or(status, |ccb| ccb.status);
                }
                SlotId::AgentProxy(number) => {
                    let is_late = self.pool.slots.was_just_freed(now, slot);
                    if !is_late && self.hears_proxy(now, number) {
                        status = CcbStatus::Normal;
                    }
                }
            }
            // Who is left at the deadline is told first.
            let due = self.pool.slots.deadline(slot).is_some_and(|at| now >= at);
            let last = LAST_MS * 1_000_000;
            let at = match due && left > 0 {
                true => Instant::from_nanos(now.as_nanos().saturating_sub(last)),
                false => now,
            };
            if let Some(order) = self.pool.slots.look(at, slot, status, left) {
                out.push(Output::Slot { slot, order });
            }
            if self.pool.slots.state(slot) != Some(was) {
                if let SlotId::Ccb(ccb) = slot {
                    self.check_status(now, ccb, out);
                }
                self.slots_changed(out);
            }
        }
        self.tend_pool(now, out);
    }

    /// Empties a CCB; how many logins and calls are left.
    fn drain(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) -> usize {
        let Some(side) = self.sides.get(&ccb) else { return 0 };
        let Some(region) = side.region() else { return 0 };
        let deadline = self.pool.slots.deadline(SlotId::Ccb(ccb));
        let is_over = deadline.is_some_and(|at| now >= at);
        let calls: Vec<CallRef> = side
            .calls
            .iter()
            .filter(|call| call.row.state() != abi::CallState::Ended)
            .map(|call| call.call)
            .collect();
        if is_over {
            for call in &calls {
                if self.pool.released.insert(*call, ccb).is_none() {
                    self.release_at_deadline(now, ccb, *call, out);
                }
            }
        }
        let here = self.logins.iter().filter(|(_, entry)| entry.ccb == ccb);
        let here: Vec<(LoginKey, bool, Desk)> = here
            .map(|(key, entry)| (*key, side::is_idle(&region, entry.slot), entry.login.desk))
            .collect();
        let mut room = MOVES_A_SECOND;
        let mut logins = here.len();
        for (login, is_idle, desk) in here {
            if !is_idle && !is_over {
                continue;
            }
            let told = self.pool.told.get(&login).copied();
            let patience = Duration::from_millis(MOVE_MS);
            match (told, desk) {
                _ if is_over => {}
                (None, Desk::Attached(socket)) if room > 0 => {
                    room -= 1;
                    self.pool.told.insert(login, now);
                    let within_ms = MOVE_MS as u32;
                    let message = DeskMessage::LogInAgain { within_ms };
                    out.push(Output::Desk { socket, message });
                    continue;
                }
                (None, Desk::Attached(_)) => continue,
                (Some(at), Desk::Attached(_)) if now < at + patience => continue,
                // A phone alone, or a desk that does not go: it hears it from its next request.
                _ => {}
            }
            self.pool.told.remove(&login);
            logins -= 1;
            self.end(now, login, End::Drained, out);
        }
        logins + calls.len()
    }

    fn release_at_deadline(
        &mut self,
        now: Instant,
        ccb: CcbId,
        call: CallRef,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) else { return };
        let owner = side.region().and_then(|region| region.calls().owner(call.slot));
        if let Some(worker) = owner {
            let command = |op| Command::Release { op, call, cause: 0 };
            side.send(now, worker, Purpose::Drain, &[], command, out);
        }
    }
}
