//! Queues: callers wait in one order, agents are chosen by how long they have been idle (S1-005, S1-006).
//!
//! Between two calls of these functions no caller waits for whom an idle agent fits: each caller who comes and each
//! agent who becomes idle is matched at once. So the choice is always one of two: for a queue the agent who has been
//! idle for longest among those with all its skills, or for an agent the caller of the highest priority, and of these
//! the one who has waited longest. Agents with the same skills are one *profile*; each profile keeps its agents in order,
//! and of all profiles the first agent's time stands side by side in memory, as of all queues the first caller's does.
//!
//! ```text
//!             join                 a match                  taken
//!   caller  --------->  waiting  ------------>  offered  ------------>  connected
//!                          |  ^                  |    |
//!                          |  '-- not taken -----'    |
//!                          '-------- leave -----------'--> abandoned, overflowed
//! ```
//! Who is not taken has the place of before: places are by when the waiting began, and that does not change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base::{Instant, TenantId};

use crate::login::LoginKey;

/// The most queues of all tenants.
pub const MAX_QUEUES: usize = 4_096;
/// The longest name of a queue, in bytes.
pub const QUEUE_NAME_BYTES: usize = 48;
/// The rule of a queue's name.
pub const QUEUE_RULE: &str =
    "a queue's name is 1 to 48 letters, digits, dots, dashes or underscores";

/// True for what may name a queue.
pub fn is_queue_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=QUEUE_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_plain)
}

/// A queue of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// What an agent must be able to do, all of it.
    pub skills: Vec<String>,
    /// How long an agent's phone rings, in seconds.
    pub ring_s: u32,
    /// How long an agent works after a call, in seconds; 0 for not at all.
    pub after_call_s: u32,
    /// How long a caller waits before the overflow, in seconds; 0 for as long as the caller wants.
    pub max_wait_s: u32,
    /// How many callers wait; 0 for as many as come. More go to the overflow at once.
    pub max_callers: u32,
    /// Where a caller goes who waited for too long or found no room: a number; none hangs up.
    pub overflow: Option<String>,
    /// What callers hear while they wait; none is the tenant's hold music.
    pub prompt: Option<String>,
    /// Queues of a higher one are served first.
    pub priority: u32,
}

impl QueueSpec {
    /// A queue with what is usual.
    pub fn new(tenant: TenantId, name: &str) -> Self {
        QueueSpec {
            tenant,
            name: name.into(),
            skills: Vec::new(),
            ring_s: 20,
            after_call_s: 10,
            max_wait_s: 0,
            max_callers: 0,
            overflow: None,
            prompt: None,
            priority: 0,
        }
    }
}

/// Names a caller among all that wait.
pub type CallerId = u64;

/// A caller and the agent who was chosen; both are taken out until it is known how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The caller.
    pub caller: CallerId,
    /// The agent.
    pub agent: LoginKey,
    /// The queue.
    pub queue: Arc<QueueSpec>,
}

/// How the waiting of a caller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An agent took the caller.
    Connected,
    /// The caller hung up.
    Abandoned,
    /// The caller waited for too long, and went elsewhere.
    Overflowed,
    /// The caller waits at another blade: the waiting goes on.
    Moved,
}

/// What became of callers since control began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Who came.
    pub joined: u64,
    /// Whom an agent took.
    pub connected: u64,
    /// Who hung up.
    pub abandoned: u64,
    /// Who went elsewhere.
    pub overflowed: u64,
    /// Offers that came to nothing.
    pub not_taken: u64,
}

/// A queue as status tools show it.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// The queue.
    pub queue: Arc<QueueSpec>,
    /// Callers who wait.
    pub waiting: usize,
    /// Callers who are offered to an agent.
    pub offered: usize,
    /// When the one began to wait who has waited longest.
    pub oldest: Option<Place>,
    /// Idle agents with its skills.
    pub idle: usize,
    /// All agents with its skills that are logged in.
    pub agents: usize,
    /// What became of callers.
    pub tally: Tally,
}

/// When a caller began to wait, in nanoseconds of this machine's clock; before its start for who waited elsewhere.
pub type Place = i64;

/// Since when who waits now with a wait so far has waited.
pub fn place(now: Instant, waited_ns: u64) -> Place {
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    now.saturating_sub(i64::try_from(waited_ns).unwrap_or(i64::MAX))
}

/// How long somebody with that place has waited, in nanoseconds.
pub fn waited_ns(now: Instant, place: Place) -> u64 {
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    u64::try_from(now.saturating_sub(place)).unwrap_or(0)
}

/// No agent of a profile is idle.
const NOBODY: u64 = u64::MAX;
/// No caller of a queue waits.
const EMPTY: Rank = (u32::MAX, Place::MAX);

/// The smallest goes first: the priority turned round, then the place.
type Rank = (u32, Place);

/// All queues, their callers and the agents.
#[derive(Debug, Default)]
pub struct Acd {
    queues: Vec<Queue>,
    names: HashMap<(TenantId, String), usize>,
    /// The rank of each queue's first caller.
    firsts: Vec<Rank>,
    profiles: Vec<Profile>,
    by_skills: HashMap<(TenantId, Arc<[String]>), usize>,
    /// Since when each profile's first agent is idle.
    heads: Vec<u64>,
    seats: HashMap<LoginKey, Seated>,
    callers: HashMap<CallerId, Caller>,
    /// While true, nobody is matched.
    held: bool,
}

#[derive(Debug)]
struct Queue {
    spec: Arc<QueueSpec>,
    waiting: BTreeSet<(Place, CallerId)>,
    offered: usize,
    profiles: Vec<usize>,
    tally: Tally,
    /// While true, none of its callers is matched.
    held: bool,
}

/// Agents of one tenant with the same skills.
#[derive(Debug)]
struct Profile {
    tenant: TenantId,
    skills: Arc<[String]>,
    idle: BTreeSet<(u64, LoginKey)>,
    members: usize,
    queues: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Seated {
    profile: usize,
    idle_since: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    queue: usize,
    place: Place,
    offered: bool,
}

impl Acd {
    /// Nobody is matched until [`Acd::release`]: callers who waited before are still being gathered.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Matches again from here on; call [`Acd::next_match`] until there is none.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// True while nobody is matched.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Matches no caller of that queue until this is taken back; call [`Acd::next_match`] then until there is none.
    pub fn hold_queue(&mut self, tenant: TenantId, name: &str, is: bool) {
        if let Some(queue) = self.names.get(&(tenant, name.to_owned())).copied() {
            self.queues[queue].held = is;
            self.note_first(queue);
        }
    }

    /// Takes the queues of the directory. Callers of a queue that is gone come back: they wait for nobody. Call
    /// [`Acd::next_match`] until there is none.
    pub fn set_queues(&mut self, specs: &[QueueSpec]) -> Vec<CallerId> {
        let old: HashMap<(TenantId, String), Queue> = std::mem::take(&mut self.queues)
            .into_iter()
            .map(|queue| ((queue.spec.tenant, queue.spec.name.clone()), queue))
            .collect();
        let mut moved: HashMap<usize, usize> = HashMap::new();
        let was = std::mem::take(&mut self.names);
        let mut old = old;
        for spec in specs.iter().take(MAX_QUEUES) {
            let name = (spec.tenant, spec.name.clone());
            if self.names.contains_key(&name) {
                continue;
            }
            let place = self.queues.len();
            let known = old.remove(&name);
            if let (Some(_), Some(before)) = (&known, was.get(&name)) {
                moved.insert(*before, place);
            }
            let (waiting, offered, tally, held) =
                known.map_or_else(Default::default, |q| (q.waiting, q.offered, q.tally, q.held));
            let spec = Arc::new(spec.clone());
            self.queues.push(Queue { spec, waiting, offered, profiles: Vec::new(), tally, held });
            self.names.insert(name, place);
        }
        let mut gone = Vec::new();
        self.callers.retain(|id, caller| match moved.get(&caller.queue) {
            Some(queue) => {
                caller.queue = *queue;
                true
            }
            None => {
                gone.push(*id);
                false
            }
        });
        gone.sort_unstable();
        for profile in &mut self.profiles {
            profile.queues.clear();
        }
        for queue in 0..self.queues.len() {
            for profile in 0..self.profiles.len() {
                self.link(queue, profile);
            }
        }
        self.firsts = vec![EMPTY; self.queues.len()];
        (0..self.queues.len()).for_each(|queue| self.note_first(queue));
        gone
    }

    fn link(&mut self, queue: usize, profile: usize) {
        let (to, of) = (&self.queues[queue].spec, &self.profiles[profile]);
        let fits = to.tenant == of.tenant && to.skills.iter().all(|one| of.skills.contains(one));
        if fits {
            self.queues[queue].profiles.push(profile);
            self.profiles[profile].queues.push(queue);
        }
    }

    /// The queue of that name.
    pub fn queue(&self, tenant: TenantId, name: &str) -> Option<&Arc<QueueSpec>> {
        let place = self.names.get(&(tenant, name.to_owned()))?;
        Some(&self.queues[*place].spec)
    }

    /// True when the queue takes one caller more.
    pub fn has_room(&self, tenant: TenantId, name: &str) -> bool {
        let place = self.names.get(&(tenant, name.to_owned()));
        place.is_some_and(|place| {
            let queue = &self.queues[*place];
            let most = queue.spec.max_callers as usize;
            most == 0 || queue.waiting.len() + queue.offered < most
        })
    }

    /// An agent is logged in with these skills, in any order; idle since then, or not idle. The match that this makes.
    pub fn seat(
        &mut self,
        agent: LoginKey,
        skills: &[String],
        idle_since: Option<Instant>,
    ) -> Option<Match> {
        let profile = self.profile(agent.tenant, skills);
        let idle_since = idle_since.map(|at| at.as_nanos().min(NOBODY - 1));
        match self.seats.get(&agent) {
            Some(known) if known.profile == profile && known.idle_since == idle_since => {
                return None;
            }
            Some(_) => self.unseat(agent),
            None => {}
        }
        self.seats.insert(agent, Seated { profile, idle_since });
        self.profiles[profile].members += 1;
        if let Some(since) = idle_since {
            self.profiles[profile].idle.insert((since, agent));
            self.note_head(profile);
            if !self.held {
                return self.match_agent(agent, profile);
            }
        }
        None
    }

    /// An agent is not logged in any more.
    pub fn unseat(&mut self, agent: LoginKey) {
        self.set_busy(agent);
        if let Some(seated) = self.seats.remove(&agent) {
            self.profiles[seated.profile].members -= 1;
        }
    }

    /// The agent is not to be chosen until the next [`Acd::seat`] that says so.
    pub fn set_busy(&mut self, agent: LoginKey) {
        let Some(seated) = self.seats.get_mut(&agent) else { return };
        if let Some(since) = seated.idle_since.take() {
            let profile = seated.profile;
            self.profiles[profile].idle.remove(&(since, agent));
            self.note_head(profile);
        }
    }

    /// A caller comes to a queue, with a place by when the waiting began. False when there is no such queue, or the
    /// caller waits already. Call [`Acd::match_of`] then.
    pub fn join(&mut self, caller: CallerId, tenant: TenantId, name: &str, place: Place) -> bool {
        let Some(queue) = self.names.get(&(tenant, name.to_owned())).copied() else {
            return false;
        };
        if self.callers.contains_key(&caller) {
            return false;
        }
        self.callers.insert(caller, Caller { queue, place, offered: false });
        self.queues[queue].tally.joined += 1;
        self.queues[queue].waiting.insert((place, caller));
        self.note_first(queue);
        true
    }

    /// The match that a caller who just came, or came back, makes possible.
    pub fn match_of(&mut self, caller: CallerId) -> Option<Match> {
        let queue = self.callers.get(&caller).filter(|caller| !caller.offered)?.queue;
        if self.held { None } else { self.match_queue(queue) }
    }

    /// The offer was not taken: the caller has the place of before.
    pub fn put_back(&mut self, caller: CallerId) -> Option<Match> {
        let entry = self.callers.get_mut(&caller).filter(|caller| caller.offered)?;
        entry.offered = false;
        let (queue, place) = (entry.queue, entry.place);
        self.queues[queue].offered -= 1;
        self.queues[queue].tally.not_taken += 1;
        self.queues[queue].waiting.insert((place, caller));
        self.note_first(queue);
        self.match_of(caller)
    }

    /// The waiting of a caller ends. Returns the place, unless the caller was not here.
    pub fn leave(&mut self, caller: CallerId, ending: Ending) -> Option<Place> {
        let entry = self.callers.remove(&caller)?;
        let queue = &mut self.queues[entry.queue];
        match ending {
            Ending::Connected => queue.tally.connected += 1,
            Ending::Abandoned => queue.tally.abandoned += 1,
            Ending::Overflowed => queue.tally.overflowed += 1,
            Ending::Moved => queue.tally.joined -= 1,
        }
        match entry.offered {
            true => queue.offered -= 1,
            false => _ = queue.waiting.remove(&(entry.place, caller)),
        }
        self.note_first(entry.queue);
        Some(entry.place)
    }

    /// Callers who have waited for longer than their queue lets them, and are offered to nobody.
    pub fn overdue(&self, now: Instant) -> Vec<CallerId> {
        let mut found = Vec::new();
        for queue in self.queues.iter().filter(|queue| queue.spec.max_wait_s > 0) {
            let limit_ns = u64::from(queue.spec.max_wait_s) * 1_000_000_000;
            let is_over = |(place, _): &&(Place, CallerId)| waited_ns(now, *place) >= limit_ns;
            found.extend(queue.waiting.iter().take_while(is_over).map(|(_, caller)| *caller));
        }
        found
    }

    /// Any match that is possible: after queues changed or [`Acd::release`].
    pub fn next_match(&mut self) -> Option<Match> {
        if self.held {
            return None;
        }
        let mut waiting: Vec<usize> =
            (0..self.queues.len()).filter(|queue| self.firsts[*queue] != EMPTY).collect();
        waiting.sort_unstable_by_key(|queue| self.firsts[*queue]);
        waiting.into_iter().find_map(|queue| self.match_queue(queue))
    }

    /// The queues, as status tools show them.
    pub fn views(&self) -> impl Iterator<Item = QueueView> + '_ {
        self.queues.iter().map(|queue| QueueView {
            queue: queue.spec.clone(),
            waiting: queue.waiting.len(),
            offered: queue.offered,
            oldest: queue.waiting.first().map(|(place, _)| *place),
            idle: queue.profiles.iter().map(|one| self.profiles[*one].idle.len()).sum(),
            agents: queue.profiles.iter().map(|one| self.profiles[*one].members).sum(),
            tally: queue.tally,
        })
    }

    /// How many callers of the queue are before that one, from 0.
    pub fn position(&self, caller: CallerId) -> Option<usize> {
        let entry = self.callers.get(&caller)?;
        let waiting = &self.queues[entry.queue].waiting;
        Some(waiting.range(..(entry.place, caller)).count())
    }

    /// The longest idle agent for a queue's first caller.
    fn match_queue(&mut self, queue: usize) -> Option<Match> {
        let of = &self.queues[queue];
        if of.held {
            return None;
        }
        let caller = of.waiting.first()?.1;
        let heads = &self.heads;
        let mut best = (NOBODY, 0);
        for profile in &of.profiles {
            let since = heads[*profile];
            if since < best.0 {
                best = (since, *profile);
            }
        }
        if best.0 == NOBODY {
            return None;
        }
        // Several profiles may have someone who is idle since the same moment; any of them will do.
        let agent = self.profiles[best.1].idle.first()?.1;
        Some(self.pair(queue, caller, agent))
    }

    /// The caller whose turn it is among the queues that an agent serves.
    fn match_agent(&mut self, agent: LoginKey, profile: usize) -> Option<Match> {
        let firsts = &self.firsts;
        let of = self.profiles[profile].queues.iter();
        let queue = *of.min_by_key(|queue| firsts[**queue])?;
        if firsts[queue] == EMPTY {
            return None;
        }
        let caller = self.queues[queue].waiting.first()?.1;
        Some(self.pair(queue, caller, agent))
    }

    fn pair(&mut self, queue: usize, caller: CallerId, agent: LoginKey) -> Match {
        self.set_busy(agent);
        if let Some(entry) = self.callers.get_mut(&caller) {
            entry.offered = true;
            let of = &mut self.queues[queue];
            of.waiting.remove(&(entry.place, caller));
            of.offered += 1;
        }
        self.note_first(queue);
        Match { caller, agent, queue: self.queues[queue].spec.clone() }
    }

    fn note_first(&mut self, queue: usize) {
        let of = &self.queues[queue];
        let rank = |(place, _): &(Place, CallerId)| (u32::MAX - of.spec.priority, *place);
        self.firsts[queue] = of.waiting.first().filter(|_| !of.held).map_or(EMPTY, rank);
    }

    fn note_head(&mut self, profile: usize) {
        let first = self.profiles[profile].idle.first();
        self.heads[profile] = first.map_or(NOBODY, |(since, _)| *since);
    }

    /// The profile of these skills, made if there is none.
    fn profile(&mut self, tenant: TenantId, skills: &[String]) -> usize {
        let is_sorted = skills.windows(2).all(|two| two[0] < two[1]);
        let mut sorted: Arc<[String]> = skills.into();
        if !is_sorted {
            let mut all = skills.to_vec();
            all.sort_unstable();
            all.dedup();
            sorted = all.into();
        }
        let key = (tenant, sorted);
        if let Some(known) = self.by_skills.get(&key) {
            return *known;
        }
        let place = self.profiles.len();
        let skills = key.1.clone();
        let (idle, queues) = (BTreeSet::new(), Vec::new());
        self.profiles.push(Profile { tenant, skills, idle, members: 0, queues });
        self.heads.push(NOBODY);
        self.by_skills.insert(key, place);
        (0..self.queues.len()).for_each(|queue| self.link(queue, place));
        place
    }
}

#[cfg(test)]
mod tests;
