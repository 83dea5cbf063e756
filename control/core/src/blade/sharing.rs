//! Queues over blades: each queue with callers has one owner among the controls, where all of them wait in one order
//! (S3's router).
//!
//! ```text
//!  caller's blade --- QueueJoin(wait so far) ---> owner <--- QueueAgents(idle times) --- agents' blades
//!        | <--------- QueueOffer(agent) ----------- |
//!        |  lease and INVITE by the ordinary way    |
//!        | ---------- QueueOutcome ---------------> |
//! ```
//! Who has callers and knows of no owner claims the queue, and serves it meanwhile; whoever loses the claim sends its
//! callers on. Two blades that serve one queue for a moment do no harm: an agent's lease word decides (S3-007). An owner
//! that dies is known by its claim, which ends; the blades then send their callers, with their wait so far, to the next
//! one. While the bus is away each blade serves its own callers. Times travel as durations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use abi::{Command, OpResult};
use base::{Instant, TenantId};

use super::Blade;
use super::cluster::Waiting as Answering;
use super::gathering::Gathering;
use super::queueing::Spot;
use super::side::{CALLER, Purpose};
use crate::acd::{CallerId, Ending, Match, place, waited_ns};
use crate::cluster::{
    Answer, BladeName, CLAIM_LIFE_MS, Claim, IdleAgent, Key, Outcome, Question, Say,
};
use crate::login::LoginKey;
use crate::message::Output;
use crate::seat::SeatChange;

/// How often a claim is renewed, in milliseconds: one that is lost on the way does no harm.
const RENEW_MS: u64 = CLAIM_LIFE_MS / 3;
/// For how long a queue is kept in which nobody waits, in milliseconds.
const KEPT_MS: u64 = 10_000;
/// How often owners are told of idle agents though nothing changed, in milliseconds.
const TELL_MS: u64 = 1_000;
/// What is not told again for so long is not so any more, in milliseconds.
const TOLD_LIFE_MS: u64 = 3 * TELL_MS;
/// Agents whom one blade tells one owner of: the longest idle ones, since they are chosen first.
const TOLD_AGENTS: usize = 2_048;
/// How much longer than the phone rings an outcome is waited for, in milliseconds.
const OUTCOME_MS: u64 = 15_000;

pub(super) type QueueName = (TenantId, String);

/// What a blade knows of queues that it shares with others.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Who owns queues, and when that was last heard.
    owners: BTreeMap<QueueName, (Claim, Instant)>,
    /// Queues that are ours: when the claim was made last, and since when nobody waits there.
    ours: BTreeMap<QueueName, (Instant, Option<Instant>)>,
    /// Claims that were made and not answered, and when.
    claimed: BTreeMap<QueueName, Instant>,
    /// Callers of other blades who wait here.
    pub(super) guests: BTreeMap<CallerId, Guest>,
    by_guest: HashMap<(BladeName, CallerId), CallerId>,
    /// Idle agents of other blades.
    abroad: HashMap<LoginKey, Abroad>,
    /// Agents who are offered somebody; what their blades say of them meanwhile is old.
    pub(super) in_flight: HashSet<LoginKey>,
    /// Queues of ours, or soon ours, of which the others have not all told.
    pub(super) gathering: BTreeMap<QueueName, Gathering>,
    told_at: Instant,
    /// The idle agents that owners know of.
    told: Vec<(LoginKey, Instant)>,
}

/// A caller of another blade.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    blade: BladeName,
    /// Its number there.
    id: CallerId,
    queue: QueueName,
    /// The agent who is asked, and until when we wait for the outcome.
    offered: Option<(LoginKey, Instant)>,
}

/// An idle agent of another blade.
#[derive(Clone, Debug)]
struct Abroad {
    blade: BladeName,
    number: String,
    heard_at: Instant,
}

impl Shared {
    /// The number of an agent of another blade.
    pub(super) fn number_of(&self, agent: LoginKey) -> Option<String> {
        self.abroad.get(&agent).map(|abroad| abroad.number.clone())
    }

    /// True while we own the queue.
    pub(super) fn is_ours(&self, queue: &QueueName) -> bool {
        self.ours.contains_key(queue)
    }

    pub(super) fn drop_guest(&mut self, caller: CallerId) -> Option<Guest> {
        let guest = self.guests.remove(&caller)?;
        self.by_guest.remove(&(guest.blade.clone(), guest.id));
        if let Some((agent, _)) = guest.offered {
            self.in_flight.remove(&agent);
        }
        Some(guest)
    }
}

impl Blade {
    /// The other blade that owns a queue.
    pub(super) fn owner_of(&self, tenant: TenantId, name: &str) -> Option<BladeName> {
        let cluster = self.cluster.as_ref().filter(|cluster| cluster.connected)?;
        let (claim, _) = self.queueing.shared.owners.get(&(tenant, name.to_owned()))?;
        (claim.blade != cluster.name).then(|| claim.blade.clone())
    }

    /// Sends a caller to the owner of the queue.
    pub(super) fn send_caller(
        &mut self,
        now: Instant,
        caller: CallerId,
        owner: BladeName,
        out: &mut Vec<Output>,
    ) {
        let Some(waiting) = self.queueing.callers.get_mut(&caller) else { return };
        waiting.spot = Spot::At(owner.clone());
        let question = Question::QueueJoin {
            tenant: waiting.tenant,
            queue: waiting.queue.to_string(),
            caller,
            wait_ms: waited_ns(now, waiting.place) / 1_000_000,
        };
        self.ask_blade(owner, question, Answering::QueueJoined { caller }, out);
    }

    fn ask_blade(
        &mut self,
        to: BladeName,
        question: Question,
        then: Answering,
        out: &mut Vec<Output>,
    ) {
        if let Some(cluster) = self.cluster.as_mut() {
            cluster.ask(to, question, then, out);
        }
    }

    /// The owner's answer to a caller whom we sent: no is no owner.
    pub(super) fn queue_joined(
        &mut self,
        now: Instant,
        caller: CallerId,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        if matches!(answer, Some(Answer::Queue(true))) {
            return;
        }
        let Some(waiting) = self.queueing.callers.get(&caller) else { return };
        if let Spot::At(owner) = waiting.spot.clone() {
            let queue = (waiting.tenant, waiting.queue.to_string());
            let owners = &mut self.queueing.shared.owners;
            if owners.get(&queue).is_some_and(|(claim, _)| claim.blade == owner) {
                owners.remove(&queue);
            }
            self.take_home(now, caller, out);
        }
    }

    /// A caller who waited elsewhere waits here from now on, with the place of before.
    fn take_home(&mut self, now: Instant, caller: CallerId, out: &mut Vec<Output>) {
        let Some(waiting) = self.queueing.callers.get_mut(&caller) else { return };
        if waiting.offered.is_some() || waiting.spot == Spot::Here {
            return;
        }
        waiting.spot = Spot::Here;
        let (tenant, queue, place) = (waiting.tenant, waiting.queue.clone(), waiting.place);
        self.gather(now, &(tenant, queue.to_string()));
        self.queueing.acd.join(caller, tenant, &queue, place);
        if let Some(found) = self.queueing.acd.match_of(caller) {
            self.offer(now, found, out);
        }
    }

    /// What a queue's key says.
    pub(super) fn queue_fact(
        &mut self,
        now: Instant,
        queue: QueueName,
        claim: Option<Claim>,
        out: &mut Vec<Output>,
    ) {
        let Some(cluster) = self.cluster.as_ref() else { return };
        let shared = &mut self.queueing.shared;
        match claim {
            Some(claim) => {
                let is_other = claim.blade != cluster.name;
                let before = shared.owners.insert(queue.clone(), (claim.clone(), now));
                if is_other {
                    self.lose_queue(&queue);
                }
                self.move_callers(now, out);
                if is_other && before.is_none_or(|(before, _)| before != claim) {
                    // The new owner waits for this.
                    self.queueing.shared.told_at = Instant::ZERO;
                    self.tell_idle(now, out);
                }
            }
            None => {
                shared.owners.remove(&queue);
                self.move_callers(now, out);
            }
        }
    }

    /// What became of a claim of ours.
    pub(super) fn queue_claimed(
        &mut self,
        now: Instant,
        queue: QueueName,
        term: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let Some(cluster) = self.cluster.as_ref() else { return };
        let claim = Claim { blade: cluster.name.clone(), incarnation: cluster.incarnation };
        let shared = &mut self.queueing.shared;
        shared.claimed.remove(&queue);
        match term {
            Some(_) => {
                shared.owners.insert(queue.clone(), (claim, now));
                shared.ours.insert(queue.clone(), (now, None));
                self.gather_on(now, &queue);
            }
            None => self.lose_queue(&queue),
        }
        self.move_callers(now, out);
    }

    /// The queue is another's: the callers of other blades go where their blades send them.
    fn lose_queue(&mut self, queue: &QueueName) {
        self.stop_gathering(queue);
        let shared = &mut self.queueing.shared;
        shared.ours.remove(queue);
        let of = |(caller, guest): (&CallerId, &Guest)| (guest.queue == *queue).then_some(*caller);
        for caller in shared.guests.iter().filter_map(of).collect::<Vec<_>>() {
            shared.drop_guest(caller);
            self.queueing.acd.leave(caller, Ending::Moved);
        }
    }

    /// Sends callers to the owners of their queues, or takes them home from one that is gone.
    fn move_callers(&mut self, now: Instant, out: &mut Vec<Output>) {
        let waiting = self.queueing.callers.iter().filter(|(_, one)| one.offered.is_none());
        let waiting: Vec<(CallerId, Spot, TenantId, Arc<str>)> = waiting
            .map(|(caller, one)| (*caller, one.spot.clone(), one.tenant, one.queue.clone()))
            .collect();
        for (caller, spot, tenant, queue) in waiting {
            match (spot, self.owner_of(tenant, &queue)) {
                (Spot::Here, Some(owner)) => {
                    self.queueing.acd.leave(caller, Ending::Moved);
                    self.send_caller(now, caller, owner, out);
                }
                (Spot::At(at), Some(owner)) if at != owner => {
                    self.send_caller(now, caller, owner, out);
                }
                (Spot::At(_), None) => self.take_home(now, caller, out),
                _ => {}
            }
        }
    }

    /// What time alone changes: claims, callers of blades that are gone, outcomes that never came; tells owners of
    /// idle agents.
    pub(super) fn tend_shared(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_ref() else { return };
        if !cluster.connected {
            self.queueing.shared.owners.clear();
            for queue in self.queueing.shared.gathering.keys().cloned().collect::<Vec<_>>() {
                self.stop_gathering(&queue);
            }
            for queue in std::mem::take(&mut self.queueing.shared.ours).into_keys() {
                self.lose_queue(&queue);
            }
            return self.move_callers(now, out);
        }
        let known: BTreeSet<BladeName> = cluster.reports.keys().cloned().collect();
        let life = Duration::from_millis(CLAIM_LIFE_MS + RENEW_MS);
        self.queueing.shared.owners.retain(|_, (_, heard_at)| now < *heard_at + life);
        self.drop_strangers(now, &known, out);
        self.claim_queues(now, out);
        self.move_callers(now, out);
        self.tell_idle(now, out);
        self.tend_gathering(now, out);
    }

    /// Claims queues with callers that nobody owns, renews our claims, and gives up those that nobody needs.
    pub(super) fn claim_queues(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_ref() else { return };
        let claim = Claim { blade: cluster.name.clone(), incarnation: cluster.incarnation };
        let own = self.queueing.callers.values().filter(|one| one.spot == Spot::Here);
        let mut wanted: BTreeSet<QueueName> =
            own.map(|one| (one.tenant, one.queue.to_string())).collect();
        let shared = &mut self.queueing.shared;
        wanted.extend(shared.guests.values().map(|guest| guest.queue.clone()));
        let renew = Duration::from_millis(RENEW_MS);
        let mut unowned = Vec::new();
        for queue in &wanted {
            let asked = shared.claimed.get(queue).is_some_and(|at| now < *at + renew);
            let is_ours = shared.ours.contains_key(queue);
            if !is_ours && !asked && !shared.owners.contains_key(queue) {
                shared.claimed.insert(queue.clone(), now);
                let key = Key::Queue(queue.0, queue.1.clone());
                out.push(Output::Bus(Say::Claim { key, claim: claim.clone() }));
                unowned.push(queue.clone());
            }
        }
        let mut given_up = Vec::new();
        for (queue, (claimed_at, empty_since)) in &mut shared.ours {
            let key = || Key::Queue(queue.0, queue.1.clone());
            match (wanted.contains(queue), *empty_since) {
                (true, _) => *empty_since = None,
                (false, None) => *empty_since = Some(now),
                (false, Some(since)) if now >= since + Duration::from_millis(KEPT_MS) => {
                    given_up.push(queue.clone());
                    out.push(Output::Bus(Say::Disclaim { key: key() }));
                    continue;
                }
                _ => {}
            }
            if now >= *claimed_at + renew {
                *claimed_at = now;
                out.push(Output::Bus(Say::Claim { key: key(), claim: claim.clone() }));
            }
        }
        for queue in given_up {
            let shared = &mut self.queueing.shared;
            shared.ours.remove(&queue);
            shared.owners.remove(&queue);
            self.stop_gathering(&queue);
        }
        for queue in unowned {
            self.gather(now, &queue);
        }
    }

    /// Forgets callers and agents of blades that are gone, and offers that nobody says anything of.
    fn drop_strangers(&mut self, now: Instant, known: &BTreeSet<BladeName>, out: &mut Vec<Output>) {
        let shared = &mut self.queueing.shared;
        let gone = shared.guests.iter().filter(|(_, guest)| !known.contains(&guest.blade));
        for caller in gone.map(|(caller, _)| *caller).collect::<Vec<_>>() {
            shared.drop_guest(caller);
            self.queueing.acd.leave(caller, Ending::Abandoned);
        }
        let life = Duration::from_millis(TOLD_LIFE_MS);
        let is_old = |one: &Abroad| !known.contains(&one.blade) || now >= one.heard_at + life;
        let old = shared.abroad.iter().filter(|(_, one)| is_old(one)).map(|(agent, _)| *agent);
        for agent in old.collect::<Vec<_>>() {
            shared.abroad.remove(&agent);
            self.queueing.acd.unseat(agent);
        }
        let late = shared.guests.iter().filter_map(|(caller, guest)| {
            let (agent, until) = guest.offered?;
            (now >= until).then_some((*caller, agent))
        });
        for (caller, agent) in late.collect::<Vec<_>>() {
            self.guest_outcome(now, caller, agent, Outcome::Denied, None, out);
        }
    }

    /// Tells the owners of queues which of our agents are idle.
    fn tell_idle(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_ref() else { return };
        let ours = cluster.name.clone();
        let owners: BTreeSet<(BladeName, TenantId)> = self
            .queueing
            .shared
            .owners
            .iter()
            .filter(|(_, (claim, _))| claim.blade != ours)
            .map(|((tenant, _), (claim, _))| (claim.blade.clone(), *tenant))
            .collect();
        let mut idle: Vec<(LoginKey, Instant)> = self
            .logins
            .iter()
            .filter(|(_, entry)| !entry.offered && now >= entry.denied_until)
            .filter(|(login, _)| !self.queueing.held_words.contains(login))
            .filter_map(|(login, entry)| Some((*login, entry.seat.idle_since()?)))
            .collect();
        idle.sort_unstable_by_key(|(login, since)| (*since, *login));
        idle.truncate(TOLD_AGENTS);
        let is_due = now >= self.queueing.shared.told_at + Duration::from_millis(TELL_MS);
        if !is_due && idle == self.queueing.shared.told {
            return;
        }
        (self.queueing.shared.told_at, self.queueing.shared.told) = (now, idle.clone());
        let mut by_owner: BTreeMap<BladeName, Vec<IdleAgent>> = BTreeMap::new();
        for (owner, tenant) in owners {
            let of_tenant = idle.iter().filter(|(login, _)| login.tenant == tenant);
            let agents = of_tenant.filter_map(|(login, since)| {
                let number = self.logins.get(login)?.record.number.clone();
                let idle_ms = now.since(*since).as_millis() as u64;
                Some(IdleAgent { login: *login, number, idle_ms })
            });
            by_owner.entry(owner).or_default().extend(agents);
        }
        for (owner, agents) in by_owner {
            self.ask_blade(owner, Question::QueueAgents { agents }, Answering::Nothing, out);
        }
    }

    /// What another blade asks of queues; whether it was done.
    pub(super) fn queue_asked(
        &mut self,
        now: Instant,
        from: &BladeName,
        question: Question,
        out: &mut Vec<Output>,
    ) -> bool {
        match question {
            Question::QueueJoin { tenant, queue, caller, wait_ms } => {
                return self.guest_joins(now, from, ((tenant, queue), caller, wait_ms), out);
            }
            Question::QueueOffer { caller, agent, number, ring_s } => {
                return self.owner_offers(now, from, (caller, agent), (&number, ring_s), out);
            }
            Question::QueueLeave { caller, overflowed } => {
                self.guest_leaves(from, caller, overflowed);
            }
            Question::QueueOutcome { caller, agent, outcome } => {
                self.outcome_told(now, from, (caller, agent, outcome), out);
            }
            Question::QueueAgents { agents } => self.agents_told(now, from, agents, out),
            Question::QueueUnanswered { agent } => {
                self.step_seat(now, agent, SeatChange::Unanswered, out);
            }
            _ => return false,
        }
        true
    }

    /// Another blade's caller comes to a queue; false when it is not ours.
    pub(super) fn guest_joins(
        &mut self,
        now: Instant,
        from: &BladeName,
        (queue, id, wait_ms): (QueueName, CallerId, u64),
        out: &mut Vec<Output>,
    ) -> bool {
        if !self.queueing.shared.ours.contains_key(&queue) {
            return false;
        }
        if self.queueing.shared.by_guest.contains_key(&(from.clone(), id)) {
            return true;
        }
        let caller = self.queueing.next_caller;
        self.queueing.next_caller += 1;
        let since = place(now, wait_ms.saturating_mul(1_000_000));
        if !self.queueing.acd.join(caller, queue.0, &queue.1, since) {
            return false;
        }
        let guest = Guest { blade: from.clone(), id, queue, offered: None };
        self.queueing.shared.guests.insert(caller, guest);
        self.queueing.shared.by_guest.insert((from.clone(), id), caller);
        if let Some(found) = self.queueing.acd.match_of(caller) {
            self.offer(now, found, out);
        }
        true
    }

    /// A caller of ours waits no more at the owner of the queue.
    pub(super) fn tell_leaving(
        &mut self,
        owner: BladeName,
        caller: CallerId,
        overflowed: bool,
        out: &mut Vec<Output>,
    ) {
        let question = Question::QueueLeave { caller, overflowed };
        self.ask_blade(owner, question, Answering::Nothing, out);
    }

    /// Another blade's caller waits no more.
    pub(super) fn guest_leaves(&mut self, from: &BladeName, id: CallerId, overflowed: bool) {
        let caller = self.queueing.shared.by_guest.get(&(from.clone(), id)).copied();
        if let Some(caller) = caller {
            let ending = if overflowed { Ending::Overflowed } else { Ending::Abandoned };
            self.queueing.shared.drop_guest(caller);
            self.queueing.acd.leave(caller, ending);
        }
    }

    /// Which agents of another blade are idle: these and no others.
    pub(super) fn agents_told(
        &mut self,
        now: Instant,
        from: &BladeName,
        agents: Vec<IdleAgent>,
        out: &mut Vec<Output>,
    ) {
        let told: HashSet<LoginKey> = agents.iter().map(|agent| agent.login).collect();
        let shared = &mut self.queueing.shared;
        let is_gone = |agent: &LoginKey, one: &Abroad| one.blade == *from && !told.contains(agent);
        let gone = shared.abroad.iter().filter(|(agent, one)| is_gone(agent, one));
        for agent in gone.map(|(agent, _)| *agent).collect::<Vec<_>>() {
            shared.abroad.remove(&agent);
            self.queueing.acd.unseat(agent);
        }
        for IdleAgent { login, number, idle_ms } in agents.into_iter().take(TOLD_AGENTS) {
            if self.logins.contains_key(&login) || self.queueing.shared.in_flight.contains(&login) {
                continue;
            }
            let abroad = Abroad { blade: from.clone(), number, heard_at: now };
            self.queueing.shared.abroad.insert(login, abroad);
            let since = now - Duration::from_millis(idle_ms);
            let skills = self.queueing.skills.get(&(login.tenant, login.agent));
            let skills = skills.map_or(&[][..], Vec::as_slice);
            if let Some(found) = self.queueing.acd.seat(login, skills, Some(since)) {
                self.offer(now, found, out);
            }
        }
        self.gathered(now, from, out);
    }

    /// Offers another blade's caller to an agent; false when the caller is one of ours.
    pub(super) fn offer_guest(
        &mut self,
        now: Instant,
        found: &Match,
        number: &str,
        out: &mut Vec<Output>,
    ) -> bool {
        let Match { caller, agent, queue } = found;
        let Some(guest) = self.queueing.shared.guests.get_mut(caller) else { return false };
        let rings = Duration::from_secs(queue.ring_s.into()) + Duration::from_millis(OUTCOME_MS);
        guest.offered = Some((*agent, now + rings));
        let (to, id) = (guest.blade.clone(), guest.id);
        let (agent, number, ring_s) = (*agent, number.to_owned(), queue.ring_s);
        let question = Question::QueueOffer { caller: id, agent, number, ring_s };
        self.ask_blade(to, question, Answering::QueueOffered { caller: *caller, agent }, out);
        true
    }

    /// Whether the blade of a caller tries the agent.
    pub(super) fn offer_heard(
        &mut self,
        now: Instant,
        (caller, agent): (CallerId, LoginKey),
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = match answer {
            Some(Answer::Queue(true)) => return,
            Some(_) => Outcome::Gone,
            None => Outcome::Denied,
        };
        self.guest_outcome(now, caller, agent, outcome, None, out);
    }

    /// The owner of a queue chose an agent for a caller of ours; false when nobody waits any more.
    pub(super) fn owner_offers(
        &mut self,
        now: Instant,
        from: &BladeName,
        (caller, agent): (CallerId, LoginKey),
        (number, ring_s): (&str, u32),
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(waiting) = self.queueing.callers.get_mut(&caller) else { return false };
        if waiting.spot != Spot::At(from.clone()) || waiting.offered.is_some() {
            return false;
        }
        let (ccb, call) = (waiting.ccb, waiting.call);
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let worker = side.as_ref().and_then(|side| side.region()?.calls().owner(call.slot));
        let (Some(side), Some(worker)) = (side, worker) else { return false };
        let ring_s = ring_s.clamp(1, 180);
        let command = |op| Command::Offer { op, call, leg: CALLER, ring_s, overflow: false };
        let purpose = Purpose::Offer { caller, agent };
        let op = side.send_op(now, worker, purpose, number.as_bytes(), command, out);
        waiting.offered = Some((agent, op));
        if let Some(entry) = self.logins.get_mut(&agent) {
            entry.offered = true;
            self.engage(now, agent, out);
        }
        true
    }

    /// Tells the owner of a queue how its offer went.
    pub(super) fn tell_outcome(
        &mut self,
        owner: BladeName,
        caller: CallerId,
        agent: LoginKey,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        let outcome = match result {
            OpResult::Ok => Outcome::Taken,
            OpResult::NoAnswer | OpResult::Declined => Outcome::NoAnswer,
            OpResult::NoSuchCall | OpResult::Full => Outcome::Gone,
            _ => Outcome::Denied,
        };
        let question = Question::QueueOutcome { caller, agent, outcome };
        self.ask_blade(owner, question, Answering::Nothing, out);
    }

    /// How the offer to another blade's caller went, as that blade says.
    pub(super) fn outcome_told(
        &mut self,
        now: Instant,
        from: &BladeName,
        (id, agent, outcome): (CallerId, LoginKey, Outcome),
        out: &mut Vec<Output>,
    ) {
        let caller = self.queueing.shared.by_guest.get(&(from.clone(), id)).copied();
        if let Some(caller) = caller {
            self.guest_outcome(now, caller, agent, outcome, Some(from), out);
        }
    }

    fn guest_outcome(
        &mut self,
        now: Instant,
        caller: CallerId,
        agent: LoginKey,
        outcome: Outcome,
        from: Option<&BladeName>,
        out: &mut Vec<Output>,
    ) {
        let shared = &mut self.queueing.shared;
        let Some(guest) = shared.guests.get_mut(&caller) else { return };
        if guest.offered.is_none_or(|(of, _)| of != agent) {
            return;
        }
        guest.offered = None;
        shared.in_flight.remove(&agent);
        if outcome == Outcome::NoAnswer {
            self.unanswered(now, agent, from, out);
        }
        self.free_offered(now, agent, outcome, out);
        match outcome {
            Outcome::Taken | Outcome::Gone => {
                let is_taken = outcome == Outcome::Taken;
                let ending = if is_taken { Ending::Connected } else { Ending::Abandoned };
                self.queueing.shared.drop_guest(caller);
                self.queueing.acd.leave(caller, ending);
            }
            Outcome::NoAnswer | Outcome::Denied => {
                if let Some(found) = self.queueing.acd.put_back(caller) {
                    self.offer(now, found, out);
                }
            }
        }
    }

    /// An agent of ours is offered nobody any more.
    fn free_offered(
        &mut self,
        now: Instant,
        agent: LoginKey,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        if let Some(entry) = self.logins.get_mut(&agent) {
            entry.offered = false;
            if outcome == Outcome::Denied {
                entry.denied_until = now + Duration::from_millis(TELL_MS);
            }
            self.engage(now, agent, out);
        }
    }

    /// An agent let the phone ring: the agent's own blade takes the agent out. The caller's blade has done so for
    /// its own.
    pub(super) fn unanswered(
        &mut self,
        now: Instant,
        agent: LoginKey,
        from: Option<&BladeName>,
        out: &mut Vec<Output>,
    ) {
        if self.logins.contains_key(&agent) {
            return self.step_seat(now, agent, SeatChange::Unanswered, out);
        }
        let blade = self.queueing.shared.abroad.get(&agent).map(|one| one.blade.clone());
        if let Some(blade) = blade.filter(|blade| Some(blade) != from) {
            self.ask_blade(blade, Question::QueueUnanswered { agent }, Answering::Nothing, out);
        }
    }
}
