//! The agent's home: grants, and whom the agents of a CCB are with.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use abi::lease::word;
use abi::sync::AtomicU64;
use abi::{Fence, LeaseState};
use base::{AgentSlot, CcbId, Instant, TenantId};

use super::{ANSWERS, ASK_HOLDS_MS, CONFIRMED, LISTENS, PROBE_AFTER_MS, PROBED_MS, SILENT_MS};
use crate::cluster::{BladeName, Denial, FromQueue, Grant, HeldLease, LeaseRequest};

/// An agent's desk as its home sees it when a request comes.
#[derive(Clone, Copy, Debug)]
pub struct Desk<'a> {
    /// Its row.
    pub slot: AgentSlot,
    /// Its lease word.
    pub word: &'a AtomicU64,
    /// The login epoch.
    pub epoch: u32,
    /// The incarnation of the data plane.
    pub incarnation: u64,
}

/// An agent of ours that another CCB has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The lease.
    pub fence: Fence,
    /// The agent's tenant.
    pub tenant: TenantId,
    /// The agent's directory number.
    pub number: String,
    /// Who has the agent.
    pub holder: CcbId,
    /// The holder's blade; none until a report of it says so.
    pub blade: Option<BladeName>,
    /// Its data plane's incarnation; none until it said that it holds this lease.
    pub incarnation: Option<u64>,
    /// What for.
    pub purpose: abi::Purpose,
    /// The call's serial number at the holder; 0 when it is not known.
    pub serial: u64,
    /// The queue that the call came by, as far as is known.
    pub queue: Option<FromQueue>,
    /// Since when, as far as is known.
    pub since: Instant,
    /// True once the INVITE came.
    pub bound: bool,
    /// Since when the holder is not seen.
    gone: Option<Instant>,
    probed_at: Option<Instant>,
    asked_at: Option<Instant>,
}

/// What is known of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its blade reports, and this is the incarnation of its data plane.
    Here(u64),
    /// Its blade says nothing, or has no such CCB that runs.
    Gone,
    /// We hear of nobody: the bus is away, which frees nothing.
    Unknown,
}

/// What is to be done about an agent that is hosted elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is over: host canceled (S2-016).
    Over(AgentSlot, Box<Hosted>),
    /// Nobody speaks in that dialog: is it there?
    Probe(AgentSlot, u32),
    /// Its holder is gone and the dialog is silent: the call that has the lease is to end, which frees the word.
    End(AgentSlot, u32),
    /// The holder is to be asked whether it holds that lease.
    AskHolder(BladeName, CcbId, HeldLease),
}

/// A fault that a simulation plants, to see that it would find one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HomeBug {
    /// None.
    #[default]
    None,
    /// A process that was paused, or cut off, grants although others hold it for dead.
    GrantsWhenPaused,
}

/// One CCB's half: whom its agents are with.
#[derive(Debug)]
pub struct Home {
    ccb: CcbId,
    hosted: BTreeMap<AgentSlot, Hosted>,
    answers: BTreeMap<Asker, Result<Grant, Denial>>,
    order: VecDeque<Asker>,
    /// When the newest report of ours that came back was sent.
    confirmed_at: Option<Instant>,
    /// Since when there was always one that was young enough.
    confirmed_since: Instant,
    bug: HomeBug,
}

/// Names a request over all blades and times.
type Asker = (BladeName, u64, u64);

impl Home {
    /// That CCB's, with nobody away.
    pub fn new(ccb: CcbId) -> Home {
        Home {
            ccb,
            hosted: BTreeMap::new(),
            answers: BTreeMap::new(),
            order: VecDeque::new(),
            confirmed_at: None,
            confirmed_since: Instant::ZERO,
            bug: HomeBug::None,
        }
    }

    /// The same with a fault.
    pub fn plant(&mut self, bug: HomeBug) {
        self.bug = bug;
    }

    /// The report of our blade that was sent `at` came back to us. A blade grants only within the time in which
    /// others believe in it: one that was paused or cut off for longer may have lost its agents to others, and
    /// hears first what was decided meanwhile.
    pub fn confirm(&mut self, now: Instant, at: Instant) {
        if self.confirmed_at.is_none_or(|before| now >= before + CONFIRMED) {
            self.confirmed_since = now;
        }
        self.confirmed_at = self.confirmed_at.max(Some(at));
    }

    /// True while others believe that we are here.
    pub fn is_confirmed(&self, now: Instant) -> bool {
        let is_seen = self.confirmed_at.is_some_and(|at| now < at + CONFIRMED);
        is_seen && now >= self.confirmed_since + LISTENS || self.bug == HomeBug::GrantsWhenPaused
    }

    /// Who is with whom.
    pub fn hosted(&self) -> impl Iterator<Item = (AgentSlot, &Hosted)> {
        self.hosted.iter().map(|(slot, hosted)| (*slot, hosted))
    }

    /// The CCB that has that agent.
    pub fn holder_of(&self, slot: AgentSlot) -> Option<&Hosted> {
        self.hosted.get(&slot)
    }

    /// What was answered to that request before.
    pub fn answered(
        &self,
        from: &BladeName,
        request: &LeaseRequest,
    ) -> Option<&Result<Grant, Denial>> {
        self.answers.get(&asker(from, request))
    }

    /// Remembers an answer, so that a copy of the request gets the same.
    pub fn remember(
        &mut self,
        from: &BladeName,
        request: &LeaseRequest,
        answer: Result<Grant, Denial>,
    ) {
        let asker = asker(from, request);
        if self.answers.insert(asker.clone(), answer).is_some() {
            return;
        }
        self.order.push_back(asker);
        if self.order.len() > ANSWERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }

    /// Wins the agent's word for a request of that blade (S3-007), or of a CCB of our own. Then the agent is hosted
    /// (S2-012), and the lease is named.
    ///
    /// # Errors
    /// Why it is denied (G-01).
    pub fn win(
        &mut self,
        now: Instant,
        from: Option<&BladeName>,
        request: &LeaseRequest,
        desk: Desk<'_>,
    ) -> Result<Fence, Denial> {
        if from.is_some() && !self.is_confirmed(now) {
            return Err(Denial::OwnerAway);
        }
        let (holder, purpose) = (request.holder, request.purpose);
        let counter =
            word::reserve(desk.word, holder, purpose, now).map_err(|state| self.denial(state))?;
        let fence = Fence { epoch: desk.epoch, incarnation: desk.incarnation, counter };
        let hosted = Hosted {
            fence,
            tenant: request.tenant,
            number: request.number.clone(),
            holder,
            blade: from.cloned(),
            incarnation: Some(request.holder_incarnation),
            purpose,
            serial: request.serial,
            queue: request.queue.clone(),
            since: now,
            bound: false,
            gone: None,
            probed_at: None,
            asked_at: None,
        };
        self.hosted.insert(desk.slot, hosted);
        Ok(fence)
    }

    /// What a word that is not to be had says of its agent (G-01).
    pub fn denial(&self, state: LeaseState) -> Denial {
        match state {
            LeaseState::Reserved { holder, .. } | LeaseState::Bound { holder, .. }
                if holder != self.ccb =>
            {
                Denial::Hosted(holder.0)
            }
            LeaseState::Reserved { purpose, .. } if purpose != abi::Purpose::Outgoing => {
                Denial::Ringing
            }
            // Closed until it is answered.
            LeaseState::Bound { purpose, legs: 1, open: false, .. }
                if purpose != abi::Purpose::Outgoing =>
            {
                Denial::Ringing
            }
            LeaseState::Reserved { .. } | LeaseState::Bound { .. } => Denial::Busy,
            LeaseState::Free { .. } => Denial::Busy,
            LeaseState::NoSuchSlot => Denial::LoggedOut,
        }
    }

    /// A grant is not used. A lease that its INVITE reached lives with its dialog.
    pub fn give_back(&mut self, slot: AgentSlot, of: &AtomicU64, holder: CcbId, counter: u32) {
        if word::give_back(of, holder, counter)
            && let Some(hosted) = self.hosted.get(&slot)
            && hosted.fence.counter == counter
        {
            self.hosted.remove(&slot);
        }
    }

    /// Takes over what the words say, after a start: who has them is asked what it holds.
    pub fn rebuild(
        &mut self,
        now: Instant,
        desk: Desk<'_>,
        tenant: TenantId,
        number: &str,
        blade: Option<BladeName>,
    ) {
        let (holder, purpose, counter, bound) = match word::read(desk.word) {
            LeaseState::Reserved { holder, purpose, counter, .. } => {
                (holder, purpose, counter, false)
            }
            LeaseState::Bound { holder, purpose, counter, .. } => (holder, purpose, counter, true),
            LeaseState::Free { .. } | LeaseState::NoSuchSlot => return,
        };
        let is_known =
            self.hosted.get(&desk.slot).is_some_and(|known| known.fence.counter == counter);
        if holder == self.ccb || is_known {
            return;
        }
        let fence = Fence { epoch: desk.epoch, incarnation: desk.incarnation, counter };
        let hosted = Hosted {
            fence,
            tenant,
            number: number.to_owned(),
            holder,
            blade,
            incarnation: None,
            purpose,
            serial: 0,
            queue: None,
            since: now,
            bound,
            gone: None,
            probed_at: None,
            asked_at: None,
        };
        self.hosted.insert(desk.slot, hosted);
    }

    /// The holder of a lease says whether it holds it; `incarnation` is that of its data plane.
    pub fn holds(&mut self, now: Instant, lease: &HeldLease, incarnation: u64, does: bool) {
        let is_it = |hosted: &&mut Hosted| {
            (hosted.fence, hosted.tenant) == (lease.fence, lease.tenant)
                && hosted.number == lease.number
        };
        let Some(hosted) = self.hosted.values_mut().find(is_it) else { return };
        if does {
            (hosted.incarnation, hosted.gone) = (Some(incarnation), None);
        } else {
            hosted.gone.get_or_insert(now);
        }
    }

    /// Looks at all that are away: whose lease is over, and whose holder is. To be called four times a second.
    ///
    /// `word_of` finds a word; `presence` says what is known of a CCB and its blade; `heard` says when the dialog
    /// with that lease was last heard of from the holder's side, None when there is none.
    pub fn check<'a>(
        &mut self,
        now: Instant,
        word_of: impl Fn(AgentSlot) -> Option<&'a AtomicU64>,
        presence: impl Fn(CcbId) -> (Option<BladeName>, Presence),
        heard: impl Fn(AgentSlot, u32) -> Option<Instant>,
        acts: &mut Vec<Act>,
    ) {
        let mut over = Vec::new();
        for (slot, hosted) in &mut self.hosted {
            let counter = hosted.fence.counter;
            let last = || heard(*slot, counter);
            let word = word_of(*slot);
            if word.is_none_or(|word| is_over(now, *slot, hosted, word, &presence, last, acts)) {
                over.push(*slot);
            }
        }
        for slot in over {
            if let Some(hosted) = self.hosted.remove(&slot) {
                acts.push(Act::Over(slot, Box::new(hosted)));
            }
        }
    }

    /// Forgets who is where: the region is another one.
    pub fn clear(&mut self) {
        self.hosted.clear();
    }
}

/// Looks at one agent that is away; true when nobody has the lease any more.
fn is_over(
    now: Instant,
    slot: AgentSlot,
    hosted: &mut Hosted,
    of: &AtomicU64,
    presence: &impl Fn(CcbId) -> (Option<BladeName>, Presence),
    heard: impl FnOnce() -> Option<Instant>,
    acts: &mut Vec<Act>,
) -> bool {
    let (holder, counter) = (hosted.holder, hosted.fence.counter);
    let (blade, is) = presence(holder);
    hosted.blade = blade.or(hosted.blade.take());
    match word::read(of) {
        LeaseState::Reserved { holder: has, counter: now_is, .. }
            if (has, now_is) == (holder, counter) =>
        {
            // Nobody calls any more whose process is gone, but an INVITE of it may still be under way.
            let is_gone = match (is, hosted.incarnation) {
                (Presence::Here(incarnation), Some(known)) => incarnation != known,
                (is, _) => is == Presence::Gone,
            };
            return word::expire(of, now) || is_gone && word::give_back(of, holder, counter);
        }
        LeaseState::Bound { holder: has, counter: now_is, .. }
            if (has, now_is) == (holder, counter) =>
        {
            hosted.bound = true;
        }
        _ => return true,
    }
    let ago = |at: Instant, ms: u64| now >= at + Duration::from_millis(ms);
    match is {
        Presence::Here(incarnation) if hosted.incarnation == Some(incarnation) => {
            (hosted.gone, hosted.probed_at) = (None, None);
            return false;
        }
        Presence::Unknown => {
            (hosted.gone, hosted.probed_at) = (None, None);
            return false;
        }
        // Another process may have taken the call over; and we may be the ones who came back. Until it says so,
        // the one that we knew is gone.
        Presence::Here(_) => {
            hosted.gone.get_or_insert(now);
            if hosted.asked_at.is_none_or(|at| ago(at, ASK_HOLDS_MS)) {
                hosted.asked_at = Some(now);
                let (fence, tenant) = (hosted.fence, hosted.tenant);
                let lease = HeldLease { fence, tenant, number: hosted.number.clone() };
                acts.extend(hosted.blade.clone().map(|blade| Act::AskHolder(blade, holder, lease)));
            }
        }
        Presence::Gone => _ = hosted.gone.get_or_insert(now),
    }
    let Some(gone) = hosted.gone else { return false };
    // Without a dialog it is as if it were silent since the holder went.
    let last = heard().unwrap_or(gone.min(hosted.since));
    if !ago(last, PROBE_AFTER_MS) {
        hosted.probed_at = None;
        return false;
    }
    match hosted.probed_at {
        None => {
            hosted.probed_at = Some(now);
            acts.push(Act::Probe(slot, counter));
        }
        Some(at) if ago(last, SILENT_MS) && ago(at, PROBED_MS) => {
            acts.push(Act::End(slot, counter));
        }
        Some(_) => {}
    }
    false
}

fn asker(from: &BladeName, request: &LeaseRequest) -> Asker {
    (from.clone(), request.incarnation, request.id)
}
