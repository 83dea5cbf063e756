use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use abi::{
    AgentRow, AgentState, Command, CommandSender, DataPlaneState, EventReceiver, LeaseState,
    MediaOrder, OpResult, Region, SpoolState, Wake,
};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, Medium, TenantId, WorkerId};

use super::trunks::Trunks;
use crate::acd::CallerId;
use crate::calls::Calls;
use crate::cdm::CcbStatus;
use crate::desk::DeskRefusal;
use crate::login::LoginKey;
use crate::message::{Collected, OpOutcome, Output};
use crate::routes::Service;

/// A data plane whose heartbeat is older than this is down (G-11: three missed).
pub(super) const HEARTBEAT_STALE_MS: u64 = 1_500;
/// The leg of a caller.
pub(super) const CALLER: u8 = 0;
/// A command that is not completed after this is given up; its completion was lost.
const OP_LOST_MS: u64 = 10_000;
/// Foreign sources of media that are told in a second, for each CCB.
const REFUSALS_A_SECOND: u32 = 10;
/// Commands that wait for room in one ring at most; more fail at once.
const BACKLOG: usize = 65_536;

/// One CCB as its control process sees it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) ccb: CcbId,
    /// True while the link to the data plane stands.
    pub(super) link: bool,
    pub(super) attached: Option<Attached>,
    pub(super) by_slot: BTreeMap<AgentSlot, LoginKey>,
    pub(super) slots: Slots,
    pub(super) calls: Calls,
    pub(super) online: u32,
    pub(super) phones: u32,
    pub(super) counts: Counts,
    /// Calls that are given a service and need no more to be done for it.
    pub(super) served: BTreeSet<CallRef>,
    /// Calls that an order took from their service: it is over for them, also after a restart of the
    /// data plane.
    pub(super) taken: BTreeSet<CallRef>,
    /// Legs that hear music, since their peers hold them.
    pub(super) held: BTreeSet<(CallRef, u8)>,
    /// Legs whose peers hold them.
    pub(super) on_hold: BTreeSet<(CallRef, u8)>,
    /// The mix that each leg is in, by the orders that were done.
    pub(super) mixes: BTreeMap<(CallRef, u8), u32>,
    /// Since when `mixes` is all that there is: calls that are older may be in one that it does not know.
    mixes_since: Instant,
    /// What each worker last said of its spool, and how many bytes it lost.
    pub(super) spool: BTreeMap<WorkerId, (SpoolState, u64)>,
    pub(super) refusals: Refusals,
    /// The trunks that the data plane watches.
    pub(super) trunks: Trunks,
    ops: BTreeMap<u64, OpenOp>,
    next_op: u64,
}

/// Keeps a storm of foreign packets from flooding the security log.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    second: u64,
    said: u32,
    left_out: u64,
}

impl Refusals {
    /// How many were left out before this one, or `None` when this one is left out.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            (self.second, self.said) = (second, 0);
        }
        if self.said >= REFUSALS_A_SECOND {
            self.left_out += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A region and our ends of its rings.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) region: Arc<Region>,
    creation: u64,
    /// The incarnation that we have in it; another number there means other rows.
    control: u64,
    incarnation: u64,
    pub(super) events: Vec<EventReceiver>,
    commands: Vec<CommandSender>,
    backlog: Vec<VecDeque<(Command, Vec<u8>)>>,
}

/// What happened on the rings since control started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken.
    pub events: u64,
    /// Events that the data plane could not give or that an earlier control process took; each gap
    /// is mended from the tables.
    pub events_missed: u64,
    /// Records that made no sense.
    pub events_corrupt: u64,
    /// Media from a source that was not expected, as events.
    pub sources_refused: u64,
    /// Commands sent.
    pub commands: u64,
    /// Commands that waited for room in the ring.
    pub commands_waited: u64,
    /// Commands whose completion never came.
    pub commands_lost: u64,
    /// Completions of commands that we do not know.
    pub completions_stray: u64,
    /// Calls asked about and sent to a trunk.
    pub asked_dialled: u64,
    /// Calls asked about and rejected.
    pub asked_rejected: u64,
    /// Calls asked about and given a service of the data plane.
    pub asked_served: u64,
    /// Calls asked about and sent to an agent of another CCB.
    pub asked_hosted: u64,
    /// Questions that a forwarding rule answered.
    pub asked_forwarded: u64,
    /// Digits that were pressed, as events.
    pub digits: u64,
    /// Changes of a spool's state, as events.
    pub spool_changes: u64,
    /// Reservations that were too old and that control freed.
    pub leases_expired: u64,
}

/// What a command was for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Answer,
    Watch,
    Forget,
    /// A caller of a queue is given to an agent.
    Offer {
        caller: CallerId,
        agent: LoginKey,
    },
    /// A caller goes where a queue sends who waited for too long.
    Overflow {
        call: CallRef,
    },
    /// What callers of that queue hear.
    Music {
        call: CallRef,
        name: Arc<str>,
    },
    Drain,
    /// Somebody waits for its end.
    Asked {
        reply: u64,
    },
    /// An order of a desk, and why it is refused when the data plane refuses it.
    Desk {
        reply: u64,
        no: DeskRefusal,
    },
    /// Somebody is called for a room.
    Summon {
        mix: u32,
        guest: u64,
    },
    /// A leg comes into a room.
    Room {
        mix: u32,
        call: CallRef,
    },
    /// A leg to an agent of another CCB, by its session.
    Hosted {
        id: u64,
    },
    /// A step of a service: the answer to the call, or what comes after it.
    Serve {
        call: CallRef,
        service: Service,
        is_answer: bool,
    },
}

#[derive(Clone, Debug)]
struct OpenOp {
    purpose: Purpose,
    /// The leg that it is for and what was ordered.
    media: Option<(CallRef, u8, MediaOrder)>,
    digits: Option<Collected>,
    /// When it is given up; `None` for as long as its call stands.
    due: Option<Instant>,
}

/// When an operation's completion is not waited for any longer.
fn due_of(now: Instant, media: Option<&MediaOrder>) -> Option<Instant> {
    let grace = Duration::from_millis(OP_LOST_MS);
    match media {
        Some(MediaOrder::Play { .. }) => None,
        Some(MediaOrder::Collect { max, first_ms, next_ms, .. }) => {
            let digits = u64::from(*first_ms) + u64::from(*max) * u64::from(*next_ms);
            Some(now + grace + Duration::from_millis(digits))
        }
        _ => Some(now + grace),
    }
}

/// Who has which row of the agents' table.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Longest free first, so that a slot rests before it is used again.
    free: VecDeque<AgentSlot>,
    /// Rows of logins that are over, until their registration and their leases are gone.
    leaving: BTreeMap<AgentSlot, u32>,
}

impl Slots {
    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    /// Slots that no login stands on.
    #[cfg(test)]
    pub(super) fn total(&self) -> usize {
        self.free.len() + self.leaving.len()
    }

    pub(super) fn take(&mut self) -> Option<AgentSlot> {
        self.free.pop_front()
    }

    pub(super) fn give_back(&mut self, slot: AgentSlot) {
        self.free.push_front(slot);
    }

    pub(super) fn leave(&mut self, slot: AgentSlot, epoch: u32) {
        self.leaving.insert(slot, epoch);
    }

    /// Takes back a slot that was just left, for the same agent's next login.
    pub(super) fn take_left(&mut self, slot: AgentSlot) -> Option<AgentSlot> {
        self.leaving.remove(&slot).map(|_| slot)
    }

    pub(super) fn reset(&mut self, free: impl Iterator<Item = AgentSlot>) {
        self.free = free.collect();
        self.leaving.clear();
    }
}

impl Side {
    pub(super) fn new(ccb: CcbId) -> Self {
        Side {
            ccb,
            link: false,
            attached: None,
            by_slot: BTreeMap::new(),
            slots: Slots::default(),
            calls: Calls::default(),
            online: 0,
            phones: 0,
            counts: Counts::default(),
            served: BTreeSet::new(),
            taken: BTreeSet::new(),
            held: BTreeSet::new(),
            on_hold: BTreeSet::new(),
            mixes: BTreeMap::new(),
            mixes_since: Instant::ZERO,
            spool: BTreeMap::new(),
            refusals: Refusals::default(),
            trunks: Trunks::default(),
            ops: BTreeMap::new(),
            next_op: 0,
        }
    }

    pub(super) fn region(&self) -> Option<Arc<Region>> {
        self.attached.as_ref().map(|attached| attached.region.clone())
    }

    /// How the CCB does, from its header and its link.
    pub(super) fn status(&self, now: Instant) -> CcbStatus {
        let Some(attached) = self.attached.as_ref().filter(|_| self.link) else {
            return CcbStatus::Down;
        };
        let header = attached.region.header();
        let record = header.data_plane();
        let is_fresh = |at: Instant| now.since(at).as_millis() <= u128::from(HEARTBEAT_STALE_MS);
        if !is_fresh(record.heartbeat) {
            return CcbStatus::Down;
        }
        // The workers' beats are those of an earlier data plane until this one runs.
        let mut workers = (0..attached.region.layout().workers).map(WorkerId);
        let all_beat = workers.all(|id| header.worker_heartbeat(id).is_some_and(is_fresh));
        match record.state {
            DataPlaneState::Starting => CcbStatus::Starting,
            DataPlaneState::Running | DataPlaneState::Draining if !all_beat => CcbStatus::Down,
            DataPlaneState::Running => CcbStatus::Normal,
            DataPlaneState::Draining => CcbStatus::Draining,
            DataPlaneState::Stopped => CcbStatus::Down,
        }
    }

    /// The location of that name in the data plane's list.
    pub(super) fn location(&self, name: &str) -> Option<LocationId> {
        let attached = self.attached.as_ref()?;
        let mut locations = attached.region.locations().iter();
        let found = locations.find(|(_, row)| {
            let held = row.name();
            !held.is_empty() && held.as_bytes() == name.as_bytes()
        });
        found.map(|(id, _)| id)
    }

    /// The name of that location.
    pub(super) fn location_name(&self, id: Option<LocationId>) -> String {
        let row = id.zip(self.attached.as_ref());
        let row = row.and_then(|(id, attached)| attached.region.locations().read(id));
        row.map(|row| row.name().as_str().to_owned()).unwrap_or_default()
    }

    /// The name of that trunk's row; none when the row is nobody's.
    pub(super) fn trunk_name(&self, row: u32) -> Option<String> {
        let row = self.attached.as_ref()?.region.trunks().read(row)?;
        (row.state != 0).then(|| row.name().as_str().to_owned())
    }

    /// The name of that tenant; empty when it is not known.
    pub(super) fn tenant_name(&self, tenant: TenantId) -> String {
        let region = self.attached.as_ref().map(|attached| &attached.region);
        let mut rows = region.into_iter().flat_map(|region| region.tenants().iter());
        let row = rows.find(|(_, row)| row.state != 0 && row.tenant == tenant.0);
        row.map(|(_, row)| row.name().as_str().to_owned()).unwrap_or_default()
    }

    /// Maps a region that was attached; true when its rows are not those we knew.
    pub(super) fn attach(
        &mut self,
        now: Instant,
        process: abi::Process,
        region: Arc<Region>,
        out: &mut Vec<Output>,
    ) -> bool {
        let header = region.header();
        let (creation, incarnation) = (header.creation(), header.data_plane().incarnation);
        let ours = header.control().incarnation;
        let is_new = self
            .attached
            .as_ref()
            .is_none_or(|known| (known.creation, known.control) != (creation, ours));
        let control = if is_new { header.start_control(process, now) } else { ours };
        if is_new {
            // An operation of an earlier control process must not complete one of ours.
            self.next_op = control << 32;
            self.taken.clear();
            self.mixes_since = now;
        }
        if let Some(known) = &self.attached
            && (is_new || known.incarnation != incarnation)
        {
            self.fail_ops(out);
            self.forget_media();
            out.push(Output::Restarted { ccb: self.ccb, incarnation, fresh: is_new });
        }
        let backlog = match self.attached.take() {
            Some(known) if !is_new && known.incarnation == incarnation => known.backlog,
            _ => Vec::new(),
        };
        let workers = region.layout().workers;
        let mut attached = Attached {
            creation,
            control,
            incarnation,
            events: (0..workers).map(|w| region.event_receiver(WorkerId(w))).collect(),
            commands: (0..workers).map(|w| region.command_sender(WorkerId(w))).collect(),
            backlog,
            region,
        };
        attached.backlog.resize_with(usize::from(workers), VecDeque::new);
        self.attached = Some(attached);
        self.link = true;
        is_new
    }

    /// Takes note of a data plane that restarted while its link seemed to stand; true when it did.
    pub(super) fn notice_restart(&mut self, out: &mut Vec<Output>) -> bool {
        let ccb = self.ccb;
        let Some(attached) = self.attached.as_mut() else {
            return false;
        };
        let incarnation = attached.region.header().data_plane().incarnation;
        if incarnation == attached.incarnation {
            return false;
        }
        attached.incarnation = incarnation;
        attached.backlog.iter_mut().for_each(VecDeque::clear);
        self.fail_ops(out);
        self.forget_media();
        out.push(Output::Restarted { ccb, incarnation, fresh: false });
        true
    }

    /// Ends every open operation: who should complete it is gone.
    pub(super) fn fail_ops(&mut self, out: &mut Vec<Output>) {
        for (_, op) in std::mem::take(&mut self.ops) {
            self.drop_op(op, OpOutcome::Gone, out);
        }
    }

    /// Ends an operation that no completion came for. A service that lost its step is resumed by the next
    /// sweep.
    fn drop_op(&mut self, op: OpenOp, outcome: OpOutcome, out: &mut Vec<Output>) {
        if let Purpose::Serve { call, .. } = &op.purpose {
            self.served.remove(call);
        }
        end(op, outcome, out);
    }

    /// A data plane that restarted mixes and plays nothing, and its spool begins anew.
    fn forget_media(&mut self) {
        self.served.clear();
        self.held.clear();
        self.on_hold.clear();
        self.mixes.clear();
        self.spool.clear();
        self.trunks = Trunks::default();
    }

    /// Sends a command, made with its new operation id, to a worker.
    pub(super) fn send(
        &mut self,
        now: Instant,
        worker: WorkerId,
        purpose: Purpose,
        blob: &[u8],
        command: impl FnOnce(u64) -> Command,
        out: &mut Vec<Output>,
    ) {
        self.send_op(now, worker, purpose, blob, command, out);
    }

    /// The same; the number of the operation.
    pub(super) fn send_op(
        &mut self,
        now: Instant,
        worker: WorkerId,
        purpose: Purpose,
        blob: &[u8],
        command: impl FnOnce(u64) -> Command,
        out: &mut Vec<Output>,
    ) -> u64 {
        self.next_op += 1;
        let op = self.next_op;
        let Some(attached) = self.attached.as_mut() else {
            return op;
        };
        let Some(backlog) = attached.backlog.get_mut(usize::from(worker.0)) else {
            return op;
        };
        if backlog.len() >= BACKLOG {
            self.counts.commands_lost += 1;
            let lost = OpenOp { purpose, media: None, digits: None, due: None };
            self.drop_op(lost, OpOutcome::Lost, out);
            return op;
        }
        let command = command(op);
        let media = match &command {
            Command::Media { call, leg, order, .. } => Some((*call, *leg, *order)),
            _ => None,
        };
        let mut due = due_of(now, media.as_ref().map(|(_, _, order)| order));
        if let Command::Offer { ring_s, .. } | Command::Summon { ring_s, .. } = command {
            due = due.map(|due| due + Duration::from_secs(ring_s.into()));
        }
        self.ops.insert(op, OpenOp { purpose, media, digits: None, due });
        self.counts.commands += 1;
        backlog.push_back((command, blob.to_vec()));
        self.flush(worker, out);
        op
    }

    /// Pushes what waits for that worker, as far as there is room.
    fn flush(&mut self, worker: WorkerId, out: &mut Vec<Output>) {
        let Some(attached) = self.attached.as_mut() else {
            return;
        };
        let index = usize::from(worker.0);
        let (sender, backlog) = (&mut attached.commands[index], &mut attached.backlog[index]);
        while let Some((command, blob)) = backlog.front() {
            match sender.push(command, blob) {
                Ok(wake) => {
                    if wake == Wake::Needed {
                        out.push(Output::Wake { ccb: self.ccb, worker });
                    }
                    backlog.pop_front();
                }
                Err(_) => {
                    self.counts.commands_waited += 1;
                    return;
                }
            }
        }
    }

    /// Pushes what waits for any worker.
    pub(super) fn flush_all(&mut self, out: &mut Vec<Output>) {
        let workers = self.attached.as_ref().map_or(0, |attached| attached.commands.len());
        for worker in 0..workers {
            self.flush(WorkerId(worker as u8), out);
        }
    }

    /// The one completion of an operation; returns what it was for.
    pub(super) fn complete(
        &mut self,
        op: u64,
        result: OpResult,
        out: &mut Vec<Output>,
    ) -> Option<Purpose> {
        let Some(op) = self.ops.remove(&op) else {
            // Of an earlier control process, or given up.
            self.counts.completions_stray += 1;
            return None;
        };
        if let (OpResult::Ok, Some((call, leg, order))) = (result, op.media) {
            self.mixed(call, leg, order, matches!(op.purpose, Purpose::Asked { .. }));
        }
        let purpose = op.purpose.clone();
        end(op, OpOutcome::Done(result), out);
        Some(purpose)
    }

    /// A leg was put into a mix or taken out of it. Where an administrator did that with a caller, the
    /// call's service is over.
    fn mixed(&mut self, call: CallRef, leg: u8, order: MediaOrder, is_asked: bool) {
        let stands = |call: &crate::calls::Call| call.row.state() != abi::CallState::Ended;
        match order {
            _ if !self.calls.find(call).is_some_and(stands) => return,
            MediaOrder::Mix { mix, .. } => {
                self.mixes.insert((call, leg), mix);
            }
            MediaOrder::LeaveMix => {
                self.mixes.remove(&(call, leg));
            }
            _ => return,
        }
        if is_asked && leg == CALLER {
            self.taken.insert(call);
        }
    }

    /// True unless that leg is known not to be in that mix.
    pub(super) fn may_be_in_mix(&self, call: &crate::calls::Call, leg: u8, mix: u32) -> bool {
        match self.mixes.get(&(call.call, leg)) {
            Some(known) => *known == mix,
            None => call.row.started_at < self.mixes_since.as_nanos(),
        }
    }

    /// The call is over: nothing more is to be known of its services and mixes.
    pub(super) fn forget_call(&mut self, call: CallRef) {
        self.served.remove(&call);
        self.taken.remove(&call);
        self.held.retain(|(held, _)| *held != call);
        self.on_hold.retain(|(held, _)| *held != call);
        let legs = self.mixes.range((call, 0)..=(call, u8::MAX)).map(|(leg, _)| *leg);
        for leg in legs.collect::<Vec<_>>() {
            self.mixes.remove(&leg);
        }
    }

    /// True while a leg of that agent's phone lives.
    pub(super) fn has_leg_of(&self, agent: AgentSlot) -> bool {
        let lives = |leg: &abi::LegRow| {
            matches!(leg.party(), Some(abi::Party::Agent(slot, _)) if slot == agent)
                && leg.state() != abi::LegState::Ended
        };
        self.calls.iter().any(|call| call.legs.iter().any(|(_, leg)| lives(leg)))
    }

    /// Digits that were collected; the completion of their operation follows.
    pub(super) fn collected(&mut self, op: u64, digits: Collected) {
        if let Some(op) = self.ops.get_mut(&op) {
            op.digits = Some(digits);
        }
    }

    /// A party is held by the other, or is not any more.
    pub(super) fn hold(&mut self, call: CallRef, leg: u8, on: bool) {
        match on {
            true => _ = self.on_hold.insert((call, leg)),
            false => _ = self.on_hold.remove(&(call, leg)),
        }
    }

    /// True while that operation waits for its completion.
    pub(super) fn is_open(&self, op: u64) -> bool {
        self.ops.contains_key(&op)
    }

    /// How many operations are open.
    pub(super) fn open_ops(&self) -> usize {
        self.ops.len()
    }

    /// Gives up operations whose completion was lost. What lasts as long as its call gets its time
    /// when the call is gone.
    pub(super) fn age_ops(&mut self, now: Instant, out: &mut Vec<Output>) {
        let calls = &self.calls;
        for op in self.ops.values_mut().filter(|op| op.due.is_none()) {
            let call = op.media.and_then(|(call, _, _)| calls.find(call));
            if call.is_none_or(|call| call.row.state() == abi::CallState::Ended) {
                op.due = due_of(now, None);
            }
        }
        let is_lost = |op: &OpenOp| op.due.is_some_and(|due| due <= now);
        let lost: Vec<u64> =
            self.ops.iter().filter(|(_, op)| is_lost(op)).map(|(id, _)| *id).collect();
        for id in lost {
            self.counts.commands_lost += 1;
            if let Some(op) = self.ops.remove(&id) {
                self.drop_op(op, OpOutcome::Lost, out);
            }
        }
    }

    /// Tells every worker to drop the registration of a login that is over: the one that owns the
    /// user does, the others find nothing of theirs.
    pub(super) fn forget(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        epoch: u32,
        out: &mut Vec<Output>,
    ) {
        if !self.link {
            return;
        }
        let workers = self.attached.as_ref().map_or(0, |attached| attached.commands.len());
        for worker in 0..workers {
            let command = |op| Command::Forget { op, agent, epoch };
            self.send(now, WorkerId(worker as u8), Purpose::Forget, &[], command, out);
        }
    }

    /// Frees over-age reservations, and the slots that nobody is in any more.
    pub(super) fn sweep(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(region) = self.region() else { return };
        let leases = region.leases();
        let in_use = self.by_slot.keys().chain(self.slots.leaving.keys());
        for slot in in_use {
            for medium in [Medium::Voice, Medium::Chat] {
                self.counts.leases_expired += u64::from(leases.expire(*slot, medium, now));
            }
        }
        for (slot, epoch) in self.slots.leaving.clone() {
            let registered =
                region.registrations().read(slot).is_some_and(|row| row.is_registered());
            if registered {
                self.forget(now, slot, epoch, out);
            } else {
                self.free_if_left(&region, slot);
            }
        }
        self.age_ops(now, out);
    }

    /// Frees the slot of a login that is over once neither registration nor lease holds it.
    pub(super) fn free_if_left(&mut self, region: &Region, slot: AgentSlot) {
        let is_held = || {
            let row = region.registrations().read(slot);
            row.is_none_or(|row| row.is_registered()) || !is_idle(region, slot)
        };
        if self.slots.leaving.contains_key(&slot) && !is_held() {
            region.agents().write(slot, &AgentRow::default());
            self.slots.leaving.remove(&slot);
            self.slots.free.push_back(slot);
        }
    }

    /// Frees the slot of a row that nobody's login is in, at once or when it is idle.
    pub(super) fn abandon(&mut self, region: &Region, slot: AgentSlot, row: &AgentRow) {
        let mut row = *row;
        row.state = AgentState::LoggedOut.into();
        region.agents().write(slot, &row);
        self.slots.leave(slot, row.login_epoch);
    }
}

/// True when no lease of that slot is held.
pub(super) fn is_idle(region: &Region, slot: AgentSlot) -> bool {
    [Medium::Voice, Medium::Chat].iter().all(|medium| {
        matches!(
            region.leases().read(slot, *medium),
            LeaseState::Free { .. } | LeaseState::NoSuchSlot
        )
    })
}

/// Tells who asked for it, if anybody did, how an operation ended.
fn end(op: OpenOp, result: OpOutcome, out: &mut Vec<Output>) {
    let (reply, result) = match (op.purpose, result) {
        (Purpose::Asked { reply }, result) => (reply, result),
        (Purpose::Desk { reply, no }, OpOutcome::Done(OpResult::Refused)) => {
            (reply, OpOutcome::No(no))
        }
        (Purpose::Desk { reply, .. }, OpOutcome::Done(OpResult::Declined)) => {
            (reply, OpOutcome::No(DeskRefusal::NoTalk))
        }
        (Purpose::Desk { reply, .. }, OpOutcome::Done(OpResult::NoSuchCall)) => {
            (reply, OpOutcome::No(DeskRefusal::NoCall))
        }
        (Purpose::Desk { reply, .. }, result) => (reply, result),
        _ => return,
    };
    out.push(Output::Done { reply, result, digits: op.digits });
}
