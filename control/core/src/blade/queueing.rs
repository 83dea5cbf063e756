//! Callers who wait for agents, and agents who wait for callers.
//!
//! A caller of a queue is a call of one leg that the data plane answered and that hears music. That is what its row says,
//! so a control process that comes back finds who waits, and since when (`answered_at`), in the tables, and gathers all
//! of them before it matches anybody. [`Acd`] chooses; an offer is one command, and its completion says how it went.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use abi::{CallState, Command, LegState, MediaOrder, OpResult, Party};
use base::{CallRef, CcbId, Instant, TenantId, WorkerId};

use super::sharing::Shared;
use super::side::{self, CALLER, Purpose, Side};
use super::{Asked, Blade};
use crate::acd::{Acd, CallerId, Ending, Match, Place, QueueSpec, QueueView, place, waited_ns};
use crate::calls::{Call, Changed};
use crate::cdm::CcbStatus;
use crate::cluster::{BladeName, FromQueue};
use crate::login::LoginKey;
use crate::message::Output;
use crate::routes::{Destination, Service};
use crate::seat::{Engaged, SeatChange};

/// SIP's Busy Here (RFC 3261, 21.4.24): the queue is full.
const QUEUE_FULL: u16 = 486;
/// SIP's Temporarily Unavailable (RFC 3261, 21.4.18): nobody came in time.
const NOBODY_CAME: u16 = 480;
/// How long a number that callers go to instead may ring, in seconds.
const OVERFLOW_RING_S: u32 = 120;
/// How long an agent who was denied is not chosen, in milliseconds: what denied the agent shows in the tables by then.
const DENIED_MS: u64 = 1_000;
/// How long a control process that starts waits for its data planes before it matches anybody, in milliseconds.
const GATHER_MS: u64 = 2_000;
/// How many queues a caller may be sent on to: overflows may go round in a circle.
const MAX_HOPS: u8 = 4;

/// Who waits here.
#[derive(Debug, Default)]
pub(super) struct Queueing {
    pub(super) acd: Acd,
    pub(super) callers: BTreeMap<CallerId, Waiting>,
    by_call: HashMap<(CcbId, CallRef), CallerId>,
    /// Calls that agents took: of which queue, and how long the caller had waited, in milliseconds.
    taken: HashMap<(CcbId, CallRef), (Arc<QueueSpec>, u64)>,
    pub(super) skills: HashMap<(TenantId, u64), Vec<String>>,
    pub(super) next_caller: CallerId,
    began_at: Instant,
    /// Idle agents whose lease word somebody still has, mostly the leg that has just ended.
    pub(super) held_words: BTreeSet<LoginKey>,
    /// What is shared with other blades.
    pub(super) shared: Shared,
}

/// A caller who waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) ccb: CcbId,
    pub(super) call: CallRef,
    pub(super) queue: Arc<str>,
    pub(super) tenant: TenantId,
    pub(super) place: Place,
    hops: u8,
    /// Where the caller stands in line.
    pub(super) spot: Spot,
    /// The agent who is asked, and the operation.
    pub(super) offered: Option<(LoginKey, u64)>,
}

/// Where a caller of ours stands in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// With us.
    Here,
    /// At the blade that owns the queue.
    At(BladeName),
}

impl Queueing {
    /// Nobody waits yet, and nobody is matched before the data planes are there.
    pub(super) fn new(now: Instant) -> Self {
        let mut queueing = Queueing { began_at: now, ..Queueing::default() };
        queueing.acd.hold();
        queueing
    }

    /// True while the call's caller is offered to an agent.
    pub(super) fn is_offered(&self, ccb: CcbId, call: CallRef) -> bool {
        let caller = self.by_call.get(&(ccb, call)).and_then(|caller| self.callers.get(caller));
        caller.is_some_and(|waiting| waiting.offered.is_some())
    }

    /// What the home of an agent has to know of a call of ours that wants the agent.
    pub(super) fn queue_of(
        &self,
        now: Instant,
        (ccb, call): (CcbId, CallRef),
        tenant: TenantId,
    ) -> Option<FromQueue> {
        let (name, waited_ms) = self.of_call(now, ccb, call)?;
        let after_call_s = self.acd.queue(tenant, &name).map_or(0, |queue| queue.after_call_s);
        Some(FromQueue { name, waited_ms, after_call_s })
    }

    /// A call of another blade has an agent of ours, and came by that queue.
    pub(super) fn came_by(&mut self, call: (CcbId, CallRef), tenant: TenantId, queue: &FromQueue) {
        let after_call_s = queue.after_call_s;
        let spec = QueueSpec { after_call_s, ..QueueSpec::new(tenant, &queue.name) };
        self.taken.entry(call).or_insert_with(|| (Arc::new(spec), queue.waited_ms));
    }

    /// The queue that a call came by, and how long its caller waited, in milliseconds.
    pub(super) fn of_call(&self, now: Instant, ccb: CcbId, call: CallRef) -> Option<(String, u64)> {
        if let Some((queue, waited_ms)) = self.taken.get(&(ccb, call)) {
            return Some((queue.name.clone(), *waited_ms));
        }
        let waiting = self.callers.get(self.by_call.get(&(ccb, call))?)?;
        Some((waiting.queue.to_string(), waited_ns(now, waiting.place) / 1_000_000))
    }
}

impl Blade {
    /// The queues, as status tools show them, with the longest wait in milliseconds.
    pub fn queues(&self, now: Instant) -> Vec<(QueueView, u64)> {
        let wait = |oldest: Option<Place>| oldest.map_or(0, |at| waited_ns(now, at) / 1_000_000);
        self.queueing.acd.views().map(|view| (view.clone(), wait(view.oldest))).collect()
    }

    /// Takes queues and skills as the directory has them now.
    pub(super) fn provision_queues(&mut self, now: Instant, out: &mut Vec<Output>) {
        let gone = self.queueing.acd.set_queues(&self.provision.queues);
        let skills = self.provision.skills.iter();
        let skills = skills.map(|(tenant, agent, skills)| ((*tenant, *agent), skills.clone()));
        self.queueing.skills = skills.collect();
        for caller in gone {
            self.queueing.shared.drop_guest(caller);
            if let Some(waiting) = self.drop_caller(caller) {
                self.give_up(now, waiting.ccb, waiting.call, out);
            }
        }
        self.seat_all(now, out);
        self.match_all(now, out);
    }

    /// Brings every agent's place in the queues to what the seat says.
    pub(super) fn seat_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        let logins: Vec<LoginKey> = self.logins.keys().copied().collect();
        for login in logins {
            self.place_seat(now, login, out);
        }
    }

    /// Tells the queues whether an agent may be chosen.
    pub(super) fn place_seat(&mut self, now: Instant, login: LoginKey, out: &mut Vec<Output>) {
        let Some(entry) = self.logins.get(&login) else {
            return self.queueing.acd.unseat(login);
        };
        let runs = self.cdm.ccb(entry.ccb).is_some_and(|ccb| ccb.status == CcbStatus::Normal);
        let may = runs && !entry.draining && !entry.offered && now >= entry.denied_until;
        let mut idle = entry.seat.idle_since().filter(|_| may);
        let region = self.sides.get(&entry.ccb).and_then(Side::region);
        if idle.is_some() && !region.is_some_and(|it| side::is_idle(&it, entry.slot)) {
            self.queueing.held_words.insert(login);
            idle = None;
        }
        let skills = self.queueing.skills.get(&(login.tenant, login.agent));
        let skills = skills.map_or(&[][..], Vec::as_slice);
        if let Some(found) = self.queueing.acd.seat(login, skills, idle) {
            self.offer(now, found, out);
        }
    }

    /// Matches whoever can be matched.
    pub(super) fn match_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(found) = self.queueing.acd.next_match() {
            self.offer(now, found, out);
        }
    }

    /// The queue that a call is to wait in, when the queue takes it; else where it goes.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        (ccb, worker): (CcbId, WorkerId),
        asked: &Asked<'_>,
        name: &str,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(queue) = self.queueing.acd.queue(asked.tenant, name).cloned() else {
            return true;
        };
        if self.queueing.acd.has_room(asked.tenant, name) {
            return true;
        }
        let Some(side) = self.sides.get_mut(&ccb) else { return false };
        let Asked { op: ask, call, .. } = *asked;
        match &queue.overflow {
            Some(number) => {
                side.counts.asked_forwarded += 1;
                let command = |op| Command::Forward { op, ask, call };
                side.send(now, worker, Purpose::Answer, number.as_bytes(), command, out);
            }
            None => {
                side.counts.asked_rejected += 1;
                let status = QUEUE_FULL;
                let command = |op| Command::Reject { op, ask, call, status, retry_after_s: 0 };
                side.send(now, worker, Purpose::Answer, &[], command, out);
            }
        }
        false
    }

    /// A caller was answered, and begins to wait.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        ccb: CcbId,
        call: CallRef,
        name: &Arc<str>,
        out: &mut Vec<Output>,
    ) {
        let place = place(now, 0);
        self.wait(now, (ccb, call), name, (place, 0), out);
    }

    fn wait(
        &mut self,
        now: Instant,
        (ccb, call): (CcbId, CallRef),
        name: &Arc<str>,
        (place, hops): (Place, u8),
        out: &mut Vec<Output>,
    ) {
        let row = self.sides.get(&ccb).and_then(Side::region);
        let row = row.and_then(|region| region.calls().read(call.slot));
        let row = row.filter(|row| row.generation == call.generation);
        let Some(tenant) = row.map(|row| row.tenant()) else { return };
        let caller = self.queueing.next_caller;
        if self.queueing.by_call.contains_key(&(ccb, call)) {
            return;
        }
        if self.queueing.acd.queue(tenant, name).is_none() {
            // The queue was taken away between the question and the answer.
            return self.give_up(now, ccb, call, out);
        }
        self.queueing.next_caller += 1;
        let (queue, spot) = (name.clone(), Spot::Here);
        let waiting = Waiting { ccb, call, queue, tenant, place, hops, spot, offered: None };
        self.queueing.callers.insert(caller, waiting);
        self.queueing.by_call.insert((ccb, call), caller);
        self.play_music(now, ccb, call, out);
        self.tell_queued(now, ccb, call, out);
        if let Some(owner) = self.owner_of(tenant, name) {
            return self.send_caller(now, caller, owner, out);
        }
        self.gather(now, &(tenant, name.to_string()));
        self.queueing.acd.join(caller, tenant, name, place);
        // Others hear of the owner at once.
        self.claim_queues(now, out);
        if let Some(found) = self.queueing.acd.match_of(caller) {
            self.offer(now, found, out);
        }
    }

    /// Plays what callers of the queue hear.
    fn play_music(&mut self, now: Instant, ccb: CcbId, call: CallRef, out: &mut Vec<Output>) {
        let caller = self.queueing.by_call.get(&(ccb, call));
        let waiting = caller.and_then(|caller| self.queueing.callers.get(caller));
        let Some((tenant, name)) = waiting.map(|one| (one.tenant, one.queue.clone())) else {
            return;
        };
        let mut tenants = self.provision.tenants.iter();
        let usual = tenants.find(|one| one.id == tenant).and_then(|one| one.hold_music.clone());
        let queue = self.queueing.acd.queue(tenant, &name);
        let music = queue.and_then(|queue| queue.prompt.clone()).or(usual);
        let Some(side) = self.sides.get_mut(&ccb) else { return };
        side.served.insert(call);
        let worker = side.region().and_then(|region| region.calls().owner(call.slot));
        if let (Some(music), Some(worker)) = (music, worker) {
            let purpose = Purpose::Music { call, name };
            let order = MediaOrder::Play { times: 0 };
            let command = |op| Command::Media { op, call, leg: CALLER, order };
            side.send(now, worker, purpose, music.as_bytes(), command, out);
        }
    }

    /// Offers a caller to the agent who was chosen.
    pub(super) fn offer(&mut self, now: Instant, found: Match, out: &mut Vec<Output>) {
        let Match { caller, agent, ref queue } = found;
        let number = self.logins.get(&agent).map(|entry| entry.record.number.clone());
        let number = number.or_else(|| self.queueing.shared.number_of(agent));
        self.queueing.shared.in_flight.insert(agent);
        if self.offer_guest(now, &found, number.as_deref().unwrap_or_default(), out) {
            if let Some(entry) = self.logins.get_mut(&agent) {
                entry.offered = true;
            }
            return self.engage(now, agent, out);
        }
        let Some(waiting) = self.queueing.callers.get_mut(&caller) else { return };
        let (ccb, call) = (waiting.ccb, waiting.call);
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let worker = side.as_ref().and_then(|side| side.region()?.calls().owner(call.slot));
        let (Some(number), Some(side), Some(worker)) = (number, side, worker) else {
            // Its data plane is away: the caller keeps the place, and the next sweep tries again.
            self.queueing.shared.in_flight.remove(&agent);
            self.queueing.acd.hold();
            let _ = self.queueing.acd.put_back(caller);
            self.queueing.acd.release();
            return;
        };
        let ring_s = queue.ring_s.max(1);
        let command = |op| Command::Offer { op, call, leg: CALLER, ring_s, overflow: false };
        let purpose = Purpose::Offer { caller, agent };
        let op = side.send_op(now, worker, purpose, number.as_bytes(), command, out);
        waiting.offered = Some((agent, op));
        if let Some(entry) = self.logins.get_mut(&agent) {
            entry.offered = true;
        }
        self.engage(now, agent, out);
    }

    /// Goes on with what a command was for.
    pub(super) fn completed(
        &mut self,
        now: Instant,
        (ccb, worker): (CcbId, WorkerId),
        purpose: Option<Purpose>,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        match purpose {
            Some(Purpose::Serve { call, service, is_answer }) => {
                let step = (call, service, is_answer);
                self.service_done(now, ccb, worker, step, result, out);
            }
            Some(Purpose::Offer { caller, agent }) => {
                self.offered(now, (caller, agent), result, out);
            }
            Some(Purpose::Hosted { id }) => self.host_done(now, id, result, out),
            Some(Purpose::Summon { mix, guest }) => {
                self.guest_done(now, (ccb, mix), guest, result, out);
            }
            Some(Purpose::Room { mix, call }) if result != OpResult::Ok => {
                self.room_failed(now, (ccb, mix), call, result, out);
            }
            Some(Purpose::Overflow { call }) => self.overflowed(now, ccb, call, result, out),
            Some(Purpose::Music { call, name }) if result == OpResult::NoSuchPrompt => {
                let service = Service::Queue(name).to_string();
                out.push(Output::ServiceFailed { ccb, call, service, result });
            }
            _ => {}
        }
    }

    /// How an offer went.
    pub(super) fn offered(
        &mut self,
        now: Instant,
        (caller, agent): (CallerId, LoginKey),
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        let is_this = |waiting: &Waiting| waiting.offered.is_some_and(|(of, _)| of == agent);
        let waiting = self.queueing.callers.get(&caller).filter(|one| is_this(one)).cloned();
        self.queueing.shared.in_flight.remove(&agent);
        if let Some(entry) = self.logins.get_mut(&agent) {
            entry.offered = false;
            match result {
                OpResult::Ok => {}
                OpResult::NoAnswer | OpResult::Declined if waiting.is_some() => {
                    let told = entry.seat.step(now, SeatChange::Unanswered);
                    self.tell_seat(agent, told, out);
                }
                _ => entry.denied_until = now + Duration::from_millis(DENIED_MS),
            }
        }
        if let Some(mut waiting) = waiting {
            waiting.offered = None;
            let (ccb, call) = (waiting.ccb, waiting.call);
            let is_elsewhere = match &waiting.spot {
                Spot::Here => false,
                Spot::At(owner) => {
                    self.tell_outcome(owner.clone(), caller, agent, result, out);
                    true
                }
            };
            let rang = matches!(result, OpResult::NoAnswer | OpResult::Declined);
            if !is_elsewhere && rang && !self.logins.contains_key(&agent) {
                self.unanswered(now, agent, None, out);
            }
            match result {
                OpResult::Ok => {
                    let waited_ms = waited_ns(now, waiting.place) / 1_000_000;
                    let queue = self.queueing.acd.queue(waiting.tenant, &waiting.queue).cloned();
                    self.queueing.acd.leave(caller, Ending::Connected);
                    self.forget_caller(caller);
                    if let Some(queue) = queue {
                        self.queueing.taken.insert((ccb, call), (queue, waited_ms));
                    }
                }
                // It has had as many legs as a call may have.
                OpResult::Full => {
                    self.queueing.callers.insert(caller, waiting);
                    self.overflow(now, caller, out);
                }
                OpResult::NoSuchCall => self.abandoned(caller, out),
                _ => {
                    self.queueing.callers.insert(caller, waiting);
                    self.engage(now, agent, out);
                    if is_elsewhere {
                        return;
                    }
                    if let Some(found) = self.queueing.acd.put_back(caller) {
                        self.offer(now, found, out);
                    }
                    return;
                }
            }
        }
        self.engage(now, agent, out);
    }

    fn abandoned(&mut self, caller: CallerId, out: &mut Vec<Output>) {
        self.leave_line(caller, Ending::Abandoned, out);
        self.forget_caller(caller);
    }

    /// A caller of ours waits no more, wherever that was.
    fn leave_line(&mut self, caller: CallerId, ending: Ending, out: &mut Vec<Output>) {
        self.queueing.acd.leave(caller, ending);
        let spot = self.queueing.callers.get(&caller).map(|waiting| waiting.spot.clone());
        if let Some(Spot::At(owner)) = spot {
            let overflowed = ending == Ending::Overflowed;
            self.tell_leaving(owner, caller, overflowed, out);
        }
    }

    fn forget_caller(&mut self, caller: CallerId) -> Option<Waiting> {
        let waiting = self.queueing.callers.remove(&caller)?;
        self.queueing.by_call.remove(&(waiting.ccb, waiting.call));
        Some(waiting)
    }

    /// Forgets a caller whom the queues do not know any more.
    fn drop_caller(&mut self, caller: CallerId) -> Option<Waiting> {
        let waiting = self.forget_caller(caller)?;
        if let Some(entry) = waiting.offered.and_then(|(agent, _)| self.logins.get_mut(&agent)) {
            entry.offered = false;
        }
        Some(waiting)
    }

    /// A caller has waited for too long: the overflow of the queue, or goodbye.
    fn overflow(&mut self, now: Instant, caller: CallerId, out: &mut Vec<Output>) {
        self.leave_line(caller, Ending::Overflowed, out);
        let Some(waiting) = self.drop_caller(caller) else { return };
        let Waiting { ccb, call, tenant, hops, .. } = waiting;
        let queue = self.queueing.acd.queue(tenant, &waiting.queue);
        let Some(number) = queue.and_then(|queue| queue.overflow.clone()) else {
            return self.give_up(now, ccb, call, out);
        };
        let route = self.routes.find(tenant, number.as_bytes()).map(|route| route.to.clone());
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let Some((worker, side)) =
            side.and_then(|side| Some((side.region()?.calls().owner(call.slot)?, side)))
        else {
            return;
        };
        match route {
            Some(Destination::Service(Service::Queue(name))) if hops < MAX_HOPS => {
                let place = place(now, 0);
                self.wait(now, (ccb, call), &name, (place, hops + 1), out);
            }
            Some(Destination::Service(Service::Queue(_))) => self.give_up(now, ccb, call, out),
            Some(Destination::Service(service)) => {
                self.begin_service(now, ccb, worker, call, service, out);
            }
            _ => {
                let ring_s = OVERFLOW_RING_S;
                let command = |op| Command::Offer { op, call, leg: CALLER, ring_s, overflow: true };
                let purpose = Purpose::Overflow { call };
                side.send(now, worker, purpose, number.as_bytes(), command, out);
            }
        }
    }

    /// How the way to the overflow of a queue went.
    pub(super) fn overflowed(
        &mut self,
        now: Instant,
        ccb: CcbId,
        call: CallRef,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        if !matches!(result, OpResult::Ok | OpResult::NoSuchCall) {
            self.give_up(now, ccb, call, out);
        }
    }

    /// Nobody takes the caller.
    fn give_up(&mut self, now: Instant, ccb: CcbId, call: CallRef, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get_mut(&ccb) else { return };
        let worker = side.region().and_then(|region| region.calls().owner(call.slot));
        if let Some(worker) = worker {
            let command = |op| Command::Release { op, call, cause: NOBODY_CAME };
            side.send(now, worker, Purpose::Answer, &[], command, out);
        }
    }

    /// A call changed: what its agents are in, and whether its caller still waits.
    pub(super) fn seats_of(
        &mut self,
        now: Instant,
        ccb: CcbId,
        changed: &Changed,
        out: &mut Vec<Output>,
    ) {
        let call = &changed.call;
        let is_over = call.row.state() == CallState::Ended;
        let after = self.after_call(ccb, call);
        for (_, leg) in &call.legs {
            let Some(Party::Agent(slot, epoch)) = leg.party() else { continue };
            let side = self.sides.get(&ccb);
            let login = side.and_then(|side| side.by_slot.get(&slot).copied());
            let Some(login) = login.filter(|login| login.epoch == epoch) else { continue };
            let Some(entry) = self.logins.get_mut(&login) else { continue };
            let lives = !is_over && leg.state() != LegState::Ended;
            let known = entry.calls.contains(&call.call);
            match lives {
                true => _ = entry.calls.insert(call.call),
                // Another leg of the same agent may stand in it.
                false => {
                    let stands = |leg: &abi::LegRow| {
                        !is_over
                            && leg.party() == Some(Party::Agent(slot, epoch))
                            && leg.state() != LegState::Ended
                    };
                    if !call.legs.iter().any(|(_, leg)| stands(leg)) {
                        entry.calls.remove(&call.call);
                    }
                }
            }
            if (lives || known) && leg.leg > 0 && leg.answered_at != 0 {
                entry.after = entry.after.max(after);
            }
            self.engage(now, login, out);
        }
        if is_over {
            self.queueing.taken.remove(&(ccb, call.call));
            if let Some(caller) = self.queueing.by_call.get(&(ccb, call.call)).copied() {
                self.abandoned(caller, out);
            }
        }
    }

    /// How long an agent works after that call.
    fn after_call(&self, ccb: CcbId, call: &Call) -> Duration {
        if let Some((_, first)) = call.legs.first()
            && let Some(Party::Peer(_)) = first.party()
        {
            // The holder of the agent said so when it asked for the agent.
            let of = |leg: &abi::LegRow| match leg.party() {
                Some(Party::Agent(slot, _)) => self.hosting.homes.get(&ccb)?.holder_of(slot),
                _ => None,
            };
            let hosted = call.legs.iter().find_map(|(_, leg)| of(leg));
            if let Some(queue) = hosted.and_then(|hosted| hosted.queue.as_ref()) {
                return Duration::from_secs(queue.after_call_s.into());
            }
        }
        let taken = self.queueing.taken.get(&(ccb, call.call)).map(|(queue, _)| queue);
        let queue = taken.or_else(|| {
            let route = self.routes.find(call.row.tenant(), call.row.called().as_bytes())?;
            match &route.to {
                Destination::Service(Service::Queue(name)) => {
                    self.queueing.acd.queue(call.row.tenant(), name)
                }
                _ => None,
            }
        });
        queue.map_or(Duration::ZERO, |queue| Duration::from_secs(queue.after_call_s.into()))
    }

    /// Works out what an agent is in, tells the desk, and puts the agent where that belongs.
    pub(super) fn engage(&mut self, now: Instant, login: LoginKey, out: &mut Vec<Output>) {
        let Some(entry) = self.logins.get(&login) else { return };
        let Some(side) = self.sides.get(&entry.ccb) else { return };
        let party = Party::Agent(entry.slot, login.epoch);
        let mut engaged = if entry.offered { Engaged::Reserved } else { Engaged::Free };
        for call in entry.calls.iter().filter_map(|call| side.calls.find(*call)) {
            for (_, leg) in call.legs.iter().filter(|(_, leg)| leg.party() == Some(party)) {
                let holds =
                    |held: &(CallRef, u8)| held.0 == call.call && u32::from(held.1) != leg.leg;
                // The row of a caller's leg follows the call's without an event of its own.
                let is_answered = leg.leg == u32::from(CALLER)
                    && call.row.state() == CallState::Answered
                    && matches!(leg.state(), LegState::Calling | LegState::Ringing);
                let state = if is_answered { LegState::Answered } else { leg.state() };
                let is = match state {
                    LegState::Free | LegState::Ended => Engaged::Free,
                    LegState::Answered if side.on_hold.iter().any(holds) => Engaged::Held,
                    LegState::Answered => Engaged::Talking,
                    LegState::Calling | LegState::Ringing => Engaged::Ringing,
                };
                engaged = engaged.max(is);
            }
        }
        let Some(entry) = self.logins.get_mut(&login) else { return };
        let after = entry.after;
        if engaged == Engaged::Free {
            entry.after = Duration::ZERO;
        }
        self.step_seat(now, login, SeatChange::Engaged(engaged, after), out);
    }

    /// Takes up callers who wait and whom this process does not know: it has just begun, or a data plane took them
    /// over. Those who have waited for longest come first.
    pub(super) fn resume_queues(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut found = Vec::new();
        for (ccb, side) in self.sides.iter().filter(|(_, side)| side.link) {
            let answered = |call: &&Call| call.row.state() == CallState::Answered;
            for call in side.calls.iter().filter(answered) {
                if side.taken.contains(&call.call) || !waits_alone(call) {
                    continue;
                }
                let is_known = self.queueing.by_call.contains_key(&(*ccb, call.call));
                if is_known && side.served.contains(&call.call) {
                    continue;
                }
                let route = self.routes.find(call.row.tenant(), call.row.called().as_bytes());
                match route.map(|route| &route.to) {
                    Some(Destination::Service(Service::Queue(name)))
                        if is_known || !side.served.contains(&call.call) =>
                    {
                        let since = Place::try_from(call.row.answered_at).unwrap_or(Place::MAX);
                        found.push((since, *ccb, call.call, name.clone(), is_known));
                    }
                    _ => {}
                }
            }
        }
        found.sort_unstable_by_key(|(since, ccb, call, ..)| (*since, *ccb, *call));
        for (since, ccb, call, name, is_known) in found {
            match is_known {
                true => self.play_music(now, ccb, call, out),
                false => self.wait(now, (ccb, call), &name, (since, 0), out),
            }
        }
    }

    /// What time alone changes: waits that are too long, work after calls that is over, offers whose completion was
    /// lost, agents whom something else has.
    pub(super) fn tend_queues(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.resume_queues(now, out);
        let is_there = |side: &Side| side.attached.is_some() && side.link;
        // A caller of before may have waited for longer at the owner of the queue.
        let is_joined = self.cluster.as_ref().is_none_or(|cluster| cluster.connected);
        let all_there = is_joined && self.sides.values().all(is_there);
        let late = self.queueing.began_at + Duration::from_millis(GATHER_MS);
        if self.queueing.acd.is_held() && (all_there || now >= late) {
            self.queueing.acd.release();
        }
        let lost = self.queueing.callers.iter().filter_map(|(caller, waiting)| {
            let (agent, op) = waiting.offered?;
            let is_open = self.sides.get(&waiting.ccb).is_some_and(|side| side.is_open(op));
            (!is_open).then_some((*caller, agent))
        });
        for (caller, agent) in lost.collect::<Vec<_>>() {
            self.offered(now, (caller, agent), OpResult::Refused, out);
        }
        let mut overdue = self.queueing.acd.overdue(now);
        overdue.retain(|caller| self.queueing.callers.contains_key(caller));
        overdue.extend(self.overdue_elsewhere(now));
        for caller in overdue {
            self.overflow(now, caller, out);
        }
        self.tend_seats(now, out);
        self.match_all(now, out);
    }

    /// Callers of ours who wait for too long at other blades.
    fn overdue_elsewhere(&self, now: Instant) -> Vec<CallerId> {
        let is_overdue = |one: &Waiting| {
            let queue = self.queueing.acd.queue(one.tenant, &one.queue);
            let limit_s = queue.map_or(0, |queue| u64::from(queue.max_wait_s));
            let is_idle = one.spot != Spot::Here && one.offered.is_none();
            is_idle && limit_s > 0 && waited_ns(now, one.place) >= limit_s * 1_000_000_000
        };
        let callers = self.queueing.callers.iter();
        callers.filter(|(_, one)| is_overdue(one)).map(|(caller, _)| *caller).collect()
    }

    /// Looks again at the lease words that kept idle agents from being chosen.
    pub(super) fn look_at_words(&mut self, now: Instant, out: &mut Vec<Output>) {
        for login in std::mem::take(&mut self.queueing.held_words) {
            self.place_seat(now, login, out);
        }
    }

    fn tend_seats(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut changes = Vec::new();
        for (login, entry) in &self.logins {
            let region = self.sides.get(&entry.ccb).and_then(Side::region);
            let word = region.map(|it| it.leases().read(entry.slot, base::Medium::Voice));
            let holder = word.and_then(|word| word.holder()).filter(|ccb| *ccb != entry.ccb);
            if holder != entry.seat.hosted {
                changes.push((*login, SeatChange::Hosted(holder)));
            }
            if entry.seat.deadline().is_some_and(|at| at <= now) {
                changes.push((*login, SeatChange::Time));
            }
        }
        for (login, change) in changes {
            self.step_seat(now, login, change, out);
        }
        self.seat_all(now, out);
    }
}

/// True when the caller's leg stands and nobody was ever joined to it, nor is being called for it.
fn waits_alone(call: &Call) -> bool {
    call.legs.iter().all(|(_, leg)| match leg.leg == u32::from(CALLER) {
        true => leg.state() != LegState::Ended,
        false => leg.state() == LegState::Ended && leg.answered_at == 0,
    })
}
