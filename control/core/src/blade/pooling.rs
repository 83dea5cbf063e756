//! The pool over blades: orders that go to the blade that has the slot, and the CDM's leader who asks for more or
//! gives back with the load of all (S1-050 to S1-052, S1-067 to S1-070).
//!
//! An order is a question that may be lost, and so may its answer; it is asked again with the same number, which its
//! blade does once. An order of the CDM bears the leader's term: a blade that has heard a later leader refuses it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use base::Instant;

use super::Blade;
use super::cluster::{Cluster, Waiting};
use super::pool::Pool;
use crate::cdm::CcbStatus;
use crate::cluster::{Answer, BladeName, PoolRequest, Question, REPORT_LIFE_MS, Report};
use crate::message::Output;
use crate::pool::{
    Marks, PoolOrder, PoolRefusal, Scaler, Seen, SlotId, SlotKind, SlotState, Wish, marks_of,
};

/// How long a leader listens before it changes the pool: every blade has reported by then, more than once, and what
/// the leader before it ordered shows.
const LISTEN: Duration = Duration::from_millis(2 * REPORT_LIFE_MS);
/// How often an order is asked that nobody answers.
const TRIES: u32 = 3;
/// Answers that are remembered for each blade that orders.
const ANSWERS: usize = 64;
/// Logins are counted together for so long.
const COUNTED: Duration = Duration::from_secs(1);

type Outcome = Result<SlotId, PoolRefusal>;

/// What a blade knows of the slots of others.
#[derive(Debug, Default)]
pub(super) struct Shared {
    ccbs: Scaler,
    proxies: Scaler,
    /// Who has which slot, also blades that are heard no more.
    known: BTreeMap<SlotId, BladeName>,
    /// What was answered to the orders of each blade's control process, by its incarnation and their numbers.
    answered: BTreeMap<BladeName, (u64, BTreeMap<u64, Outcome>)>,
    /// The number of our last order.
    last: u64,
    logins: u32,
    counted_at: Option<Instant>,
    /// Logins that came to this blade's AgentProxy in the last second.
    pub(super) logins_s: u32,
}

impl Shared {
    /// A login came.
    pub(super) fn count_login(&mut self) {
        self.logins = self.logins.saturating_add(1);
    }

    fn settle_logins(&mut self, now: Instant) {
        let age = self.counted_at.map_or(COUNTED, |at| now.since(at));
        if age < COUNTED {
            return;
        }
        let logins = u128::from(std::mem::take(&mut self.logins));
        let a_second = logins * 1_000_000_000 / age.as_nanos().max(1);
        self.logins_s = u32::try_from(a_second).unwrap_or(u32::MAX);
        self.counted_at = Some(now);
    }
}

/// An order on its way.
#[derive(Debug)]
pub(super) struct Ordered {
    by: By,
    request: PoolRequest,
    tries: u32,
    /// Whom to ask now, and who else may have a free slot.
    to: VecDeque<BladeName>,
}

/// Whose order it is.
#[derive(Clone, Copy, Debug)]
enum By {
    /// Somebody's who waits for the answer to [`crate::Input::Pool`].
    Asker(u64),
    /// The CDM's.
    Cdm(Wish),
}

/// A slot of the pool as status tools show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Which one.
    pub slot: SlotId,
    /// Whose it is; none while the blade is alone.
    pub blade: Option<BladeName>,
    /// How it does; none when its blade is not heard.
    pub state: Option<SlotState>,
    /// How the CCB or the AgentProxy does.
    pub status: CcbStatus,
    /// Logins that the CCB has or is granted; of an AgentProxy those of the last second.
    pub logins: u32,
    /// Logins that the CCB has room for.
    pub capacity: u32,
    /// Calls that stand.
    pub calls: u32,
    /// In how many seconds it is stopped whoever is left, while it drains.
    pub stops_in_s: Option<u32>,
    /// Where the AgentProxy takes logins.
    pub http: Vec<SocketAddr>,
}

impl Pool {
    /// What a report says of that slot: its state, and in how many seconds it is stopped.
    pub(super) fn told(&self, now: Instant, slot: SlotId) -> (Option<SlotState>, Option<u32>) {
        let left = self.slots.deadline(slot).map(|at| at.since(now).as_secs());
        (self.slots.state(slot), left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)))
    }

    /// The slots for AgentProxies.
    pub(super) fn proxies(&self) -> BTreeMap<u16, SlotState> {
        let proxies = self.slots.iter().filter(|(slot, _)| slot.kind() == SlotKind::AgentProxy);
        proxies.map(|(slot, state)| (slot.number(), state)).collect()
    }
}

impl Cluster {
    /// The reports that are not too old.
    fn fresh(&self, now: Instant) -> impl Iterator<Item = (&BladeName, &Report)> {
        let life = Duration::from_millis(REPORT_LIFE_MS);
        let is_fresh = move |(_, (at, _)): &(&BladeName, &(Instant, Report))| now < *at + life;
        self.reports.iter().filter(is_fresh).map(|(name, (_, report))| (name, report))
    }

    fn is_heard(&self, now: Instant, blade: &BladeName) -> bool {
        let life = Duration::from_millis(REPORT_LIFE_MS);
        self.reports.get(blade).is_some_and(|(at, _)| now < *at + life)
    }

    /// The slots that blades report.
    fn slots(&self, now: Instant) -> impl Iterator<Item = (SlotId, SlotState, &BladeName)> {
        self.fresh(now).flat_map(|(name, report)| {
            let ccbs = report.ccbs.iter().filter_map(|(ccb, one)| Some((*ccb, one.slot?)));
            let ccbs = ccbs.map(|(ccb, state)| (SlotId::new(SlotKind::Ccb, ccb), state));
            let proxies = report.proxies.iter();
            let proxies = proxies.map(|(number, state)| (SlotId::AgentProxy(*number), *state));
            ccbs.chain(proxies).map(move |(slot, state)| (slot, state, name))
        })
    }

    /// The CCBs of all blades as the scaler sees them.
    fn ccbs_seen(&self, now: Instant) -> Vec<Seen> {
        let seen = self.fresh(now).flat_map(|(name, report)| {
            report.ccbs.iter().map(move |(ccb, report)| {
                let slot = SlotId::new(SlotKind::Ccb, *ccb);
                let load = slot.ccb().and_then(|ccb| self.cdm.ccb(ccb)).map_or(0, |c| c.load());
                Seen {
                    slot,
                    blade: name.clone(),
                    status: report.status,
                    load,
                    capacity: report.capacity,
                    state: report.slot,
                }
            })
        });
        seen.collect()
    }

    /// All that take logins, and slots of those that do not yet; none when no slot is an AgentProxy's.
    fn proxies_seen(&self, now: Instant, good_for: u32) -> Vec<Seen> {
        let is_proxy =
            |(slot, _, _): &(SlotId, SlotState, &BladeName)| slot.kind() == SlotKind::AgentProxy;
        let slots = self.slots(now).filter(is_proxy);
        let mut slots: BTreeMap<SlotId, (SlotState, &BladeName)> =
            slots.map(|(slot, state, blade)| (slot, (state, blade))).collect();
        if slots.is_empty() {
            return Vec::new();
        }
        let mut seen = Vec::new();
        for (name, report) in self.fresh(now).filter(|(_, report)| report.is_agent_proxy) {
            // A blade's own control is none of the pool, and has no number.
            let slot = SlotId::AgentProxy(report.agent_proxy.unwrap_or(0));
            let held = slots.remove(&slot);
            let status = match held {
                Some((SlotState::Draining | SlotState::Stopping, _)) => CcbStatus::Draining,
                _ => CcbStatus::Normal,
            };
            seen.push(Seen {
                slot,
                blade: held.map_or(name, |(_, host)| host).clone(),
                status,
                load: report.logins_s,
                capacity: good_for,
                state: held.map(|(state, _)| state),
            });
        }
        let rest = slots.into_iter().map(|(slot, (state, blade))| Seen {
            slot,
            blade: blade.clone(),
            status: CcbStatus::Down,
            load: 0,
            capacity: 0,
            state: Some(state),
        });
        seen.extend(rest);
        seen
    }
}

impl Blade {
    /// Somebody orders something of the pool.
    pub(super) fn pool_asked_for(
        &mut self,
        now: Instant,
        reply: u64,
        order: PoolOrder,
        out: &mut Vec<Output>,
    ) {
        self.send_order(now, By::Asker(reply), order, None, out);
    }

    /// Sends an order where it belongs.
    fn send_order(
        &mut self,
        now: Instant,
        by: By,
        order: PoolOrder,
        term: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let wanted = match order {
            PoolOrder::Apply { kind, number } => number.map(|number| SlotId::new(kind, number)),
            PoolOrder::Release { slot, .. } => Some(slot),
        };
        let is_ours = wanted.is_some_and(|slot| self.pool.slots.state(slot).is_some());
        let Some(cluster) = self.cluster.as_ref().filter(|_| !is_ours) else {
            let result = self.pool_order(now, order, out);
            return self.ordered(by, result, out);
        };
        let holder = |slot| {
            let reported = cluster.slots(now).find(|(one, _, _)| *one == slot);
            reported.map(|(_, _, blade)| blade).or_else(|| self.pool.shared.known.get(&slot))
        };
        let to = match (wanted, order) {
            (Some(slot), _) => match holder(slot).cloned() {
                None => return self.ordered(by, Err(PoolRefusal::NoSuchSlot), out),
                Some(blade) if !cluster.is_heard(now, &blade) => {
                    return self.ordered(by, Err(PoolRefusal::Away), out);
                }
                Some(blade) => VecDeque::from([blade]),
            },
            (None, PoolOrder::Apply { kind, .. }) => self.blades_with_room(now, cluster, kind),
            (None, PoolOrder::Release { .. }) => VecDeque::new(),
        };
        let incarnation = cluster.incarnation;
        self.pool.shared.last += 1;
        let request = PoolRequest { id: self.pool.shared.last, incarnation, term, order };
        self.ask_next(now, Box::new(Ordered { by, request, tries: 0, to }), out);
    }

    /// The blades with a slot of that kind that can be taken into use: those first where one drains, for it only has
    /// to go on, then those with the fewest that run.
    fn blades_with_room(
        &self,
        now: Instant,
        cluster: &Cluster,
        kind: SlotKind,
    ) -> VecDeque<BladeName> {
        // Our own are as they are now, not as they were reported.
        let others = cluster.slots(now).filter(|(_, _, blade)| **blade != cluster.name);
        let ours = self.pool.slots.iter().map(|(slot, state)| (slot, state, &cluster.name));
        let mut ranks = BTreeMap::<&BladeName, (bool, usize, bool)>::new();
        for (_, state, blade) in others.chain(ours).filter(|(slot, _, _)| slot.kind() == kind) {
            let (lacks, running, has_free) = ranks.entry(blade).or_insert((true, 0, false));
            match state {
                SlotState::Draining => *lacks = false,
                SlotState::Free => *has_free = true,
                SlotState::Starting | SlotState::Running => *running += 1,
                SlotState::Stopping => {}
            }
        }
        let room = ranks.into_iter().filter(|(_, (lacks, _, has_free))| *has_free || !*lacks);
        let mut room: Vec<_> = room.map(|(blade, (lacks, n, _))| (lacks, n, blade)).collect();
        room.sort();
        room.into_iter().map(|(_, _, blade)| blade.clone()).collect()
    }

    /// Asks the next blade, or does it here.
    fn ask_next(&mut self, now: Instant, mut ordered: Box<Ordered>, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        let term = ordered.request.term;
        if term.is_some() && cluster.term(now) != term {
            return self.ordered(ordered.by, Err(PoolRefusal::Stale), out);
        }
        let Some(blade) = ordered.to.front().cloned() else {
            return self.ordered(ordered.by, Err(PoolRefusal::NoFreeSlot), out);
        };
        if blade != cluster.name {
            let question = Question::Pool(ordered.request.clone());
            return cluster.ask(blade, question, Waiting::Pool(ordered), out);
        }
        match self.pool_order(now, ordered.request.order, out) {
            Err(PoolRefusal::NoFreeSlot) => {
                ordered.to.pop_front();
                self.ask_next(now, ordered, out);
            }
            result => self.ordered(ordered.by, result, out),
        }
    }

    /// The blade of a slot answered, or did not.
    pub(super) fn pool_answered(
        &mut self,
        now: Instant,
        mut ordered: Box<Ordered>,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        match answer {
            Some(Answer::Pool(Err(PoolRefusal::NoFreeSlot))) => {
                ordered.to.pop_front();
                // Another blade's order.
                self.pool.shared.last += 1;
                (ordered.request.id, ordered.tries) = (self.pool.shared.last, 0);
                self.ask_next(now, ordered, out);
            }
            Some(Answer::Pool(result)) => self.ordered(ordered.by, result, out),
            Some(_) => self.ordered(ordered.by, Err(PoolRefusal::Away), out),
            None => {
                ordered.tries += 1;
                match ordered.tries < TRIES {
                    true => self.ask_next(now, ordered, out),
                    // It may have done it: another slot might be one too many.
                    false => self.ordered(ordered.by, Err(PoolRefusal::Away), out),
                }
            }
        }
    }

    /// What became of an order.
    fn ordered(&mut self, by: By, result: Outcome, out: &mut Vec<Output>) {
        match by {
            By::Asker(reply) => out.push(Output::Pool { reply, result }),
            By::Cdm(wish) => {
                if result.is_err() {
                    self.pool.shared.scaler(wish.slot().kind()).refused(wish.slot());
                }
                out.push(Output::Scaled { wish, result });
            }
        }
    }

    /// Another blade orders something of our slots.
    pub(super) fn pool_request(
        &mut self,
        now: Instant,
        from: &BladeName,
        request: PoolRequest,
        out: &mut Vec<Output>,
    ) -> Answer {
        let answered = &mut self.pool.shared.answered;
        let (newest, before) = answered.entry(from.clone()).or_default();
        if request.incarnation > *newest {
            (*newest, *before) = (request.incarnation, BTreeMap::new());
        }
        if let Some(result) = before.get(&request.id).filter(|_| request.incarnation == *newest) {
            return Answer::Pool(*result);
        }
        let is_old = request.incarnation < *newest
            || request.term.is_some_and(|term| !self.pool.slots.admit(term));
        let result = match is_old {
            true => Err(PoolRefusal::Stale),
            false => self.pool_order(now, request.order, out),
        };
        if let Some((newest, before)) = self.pool.shared.answered.get_mut(from)
            && *newest == request.incarnation
        {
            before.insert(request.id, result);
            while before.len() > ANSWERS {
                before.pop_first();
            }
        }
        Answer::Pool(result)
    }

    /// True while the AgentProxy of that number is heard.
    pub(super) fn hears_proxy(&self, now: Instant, number: u16) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        cluster.fresh(now).any(|(_, report)| report.agent_proxy == Some(number))
    }

    /// Looks at the whole pool: call it about once a second.
    pub(super) fn tend_pool(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.pool.shared.settle_logins(now);
        let mut seen = [Vec::new(), Vec::new()];
        let mut term = None;
        if let Some(cluster) = &self.cluster {
            let shared = &mut self.pool.shared;
            // A blade that is heard has what it says that it has; of others the last word counts.
            shared.known.retain(|_, blade| !cluster.is_heard(now, blade));
            let reported = cluster.slots(now).map(|(slot, _, blade)| (slot, blade.clone()));
            shared.known.extend(reported);
            shared.answered.retain(|blade, _| cluster.is_heard(now, blade));
            let leads = cluster.leads_since(now).filter(|(_, since)| now >= *since + LISTEN);
            let (Some((held, _)), Some(marks)) = (leads, self.pool.marks) else {
                (shared.ccbs, shared.proxies) = Default::default();
                return;
            };
            term = Some(held);
            seen = [cluster.ccbs_seen(now), cluster.proxies_seen(now, marks.logins_s)];
        } else if self.pool.marks.is_some() {
            seen[0] = self.seen();
        }
        let Some(marks) = self.pool.marks else { return };
        for (kind, seen) in [SlotKind::Ccb, SlotKind::AgentProxy].into_iter().zip(seen) {
            self.scale(now, (kind, &marks), seen, term, out);
        }
    }

    /// Does what the CDM wants of the pool.
    fn scale(
        &mut self,
        now: Instant,
        (kind, marks): (SlotKind, &Marks),
        seen: Vec<Seen>,
        term: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let marks = marks_of(kind, marks);
        let wish = match seen.is_empty() {
            true => None,
            false => self.pool.shared.scaler(kind).look(now, &marks, seen),
        };
        let Some(wish) = wish else { return };
        let order = match wish {
            Wish::Apply(slot) => PoolOrder::Apply { kind, number: Some(slot.number()) },
            Wish::Release(slot) => PoolOrder::Release { slot, within_s: None },
        };
        self.send_order(now, By::Cdm(wish), order, term, out);
    }

    /// Our own CCBs as the CDM sees them when it thinks of the pool.
    fn seen(&self) -> Vec<Seen> {
        let alone = BladeName::from("");
        let ccbs = self.cdm.iter().map(|(ccb, known)| Seen {
            slot: SlotId::Ccb(ccb),
            blade: alone.clone(),
            status: known.status,
            load: known.load(),
            capacity: known.capacity,
            state: self.pool.slots.state(SlotId::Ccb(ccb)),
        });
        ccbs.collect()
    }

    /// The slots of all blades, ours as they are now, those of others as they were reported.
    pub fn pool_view(&self, now: Instant) -> Vec<SlotView> {
        let name = self.cluster.as_ref().map(|cluster| cluster.name.clone());
        let ours = self.pool.slots.iter().map(|(slot, state)| {
            let known = slot.ccb().and_then(|ccb| self.cdm.ccb(ccb));
            let calls = slot
                .ccb()
                .and_then(|ccb| self.sides.get(&ccb))
                .map_or(0, |side| side.calls.count());
            let view = SlotView {
                slot,
                blade: name.clone(),
                state: Some(state),
                status: known.map_or(CcbStatus::Down, |ccb| ccb.status),
                logins: known.map_or(0, |ccb| ccb.load()),
                capacity: known.map_or(0, |ccb| ccb.capacity),
                calls: u32::try_from(calls).unwrap_or(u32::MAX),
                stops_in_s: self.pool.told(now, slot).1,
                http: Vec::new(),
            };
            (slot, view)
        });
        let mut all: BTreeMap<SlotId, SlotView> = ours.collect();
        let Some(cluster) = &self.cluster else { return all.into_values().collect() };
        let empty = |slot, blade: &BladeName, state| SlotView {
            slot,
            blade: Some(blade.clone()),
            state,
            status: CcbStatus::Down,
            logins: 0,
            capacity: 0,
            calls: 0,
            stops_in_s: None,
            http: Vec::new(),
        };
        for (slot, state, blade) in
            cluster.slots(now).filter(|(_, _, blade)| **blade != cluster.name)
        {
            let report = slot.ccb().and_then(|ccb| cluster.reports.get(blade)?.1.ccbs.get(&ccb.0));
            let mut view = empty(slot, blade, Some(state));
            if let Some(report) = report {
                view.status = report.status;
                view.logins =
                    slot.ccb().and_then(|ccb| cluster.cdm.ccb(ccb)).map_or(0, |c| c.load());
                (view.capacity, view.calls) = (report.capacity, report.calls);
                view.stops_in_s = report.stops_in_s;
            }
            all.entry(slot).or_insert(view);
        }
        for (slot, blade) in &self.pool.shared.known {
            all.entry(*slot).or_insert_with(|| empty(*slot, blade, None));
        }
        for (_, report) in cluster.fresh(now) {
            let Some(number) = report.agent_proxy else { continue };
            if let Some(view) = all.get_mut(&SlotId::AgentProxy(number)) {
                view.status = match view.state {
                    Some(SlotState::Draining | SlotState::Stopping) => CcbStatus::Draining,
                    _ => CcbStatus::Normal,
                };
                (view.logins, view.http) = (report.logins_s, report.http.clone());
            }
        }
        all.into_values().collect()
    }
}

impl Shared {
    fn scaler(&mut self, kind: SlotKind) -> &mut Scaler {
        match kind {
            SlotKind::Ccb => &mut self.ccbs,
            SlotKind::AgentProxy => &mut self.proxies,
        }
    }
}
