//! The port pairs of one worker: an even port for RTP, the odd one above it for RTCP (RFC 3550, 11).
//!
//! ```text
//!                                 .---------- REUSE_AFTER_MS -----------.
//!                                 v                                     |
//! Free --plan--> Binding --bound--> Ready --take--> InUse --release--> Resting
//!  ^ ^              \                  \-- SURPLUS_AFTER_MS --> (closed) Free
//!  | '-- REUSE_AFTER_MS -- Cooling <-- bind failed
//!
//! Free --adopt--> Adopted --plan--> Rebinding --bound--> InUse
//!                    ^--- bind failed --' \--- REBIND_TRIES times --> Cooling
//! ```
//!
//! A pair is adopted for a call that a new incarnation took over: it uses this port and no other.
//!
//! Each list is first in, first out, so that a port rests: a late packet of the last call must not reach the
//! next one. Its sockets stay open meanwhile, since opening and closing them costs more than all SIP of a call;
//! what comes in is heard by nobody, and answered by no ICMP either.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use base::{Instant, LocationId, WorkerId};

/// How long a pair rests after a call or a failed bind, in milliseconds: longer than packets of the old
/// call are under way.
pub const REUSE_AFTER_MS: u64 = 1_000;

/// How long a pair stays bound that calls do not need any more, in milliseconds.
pub const SURPLUS_AFTER_MS: u64 = 10_000;

/// How many pairs of a location are kept bound ahead: the legs that set up within the time of a bind at
/// some 1,000 calls a second.
pub const READY_LOW_WATER: usize = 64;

/// Where so few pairs are left, a message that comes next is not to find none: they are bound before it. As many
/// legs as a message may bring about, with their video.
pub const READY_AT_LEAST: usize = 8;

/// How many binds one call of [`PortPool::plan`] asks for, and how many closes, over all locations: they are
/// system calls.
pub const BINDS_PER_PLAN: usize = 16;

/// After so many failed binds in a row a location waits for [`BIND_PAUSE_MS`]: something is wrong with
/// the address or the descriptors run out, and the next port fails as well.
pub const FAILURES_BEFORE_PAUSE: u32 = 16;

/// The wait after failures, in milliseconds.
pub const BIND_PAUSE_MS: u64 = 100;

/// So often a pair of a call that was taken over is tried to be bound, [`BIND_PAUSE_MS`] apart: the ports of
/// a killed process stay bound while the kernel takes its ring apart, most of a second under load.
pub const REBIND_TRIES: u8 = 20;

/// A port pair of one worker; counts through its locations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u32);

/// A socket of one worker: `2 * pair` for RTP, `2 * pair + 1` for RTCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketSlot(pub u32);

impl PairId {
    /// The RTP socket.
    pub const fn rtp(self) -> SocketSlot {
        SocketSlot(self.0 * 2)
    }

    /// The RTCP socket.
    pub const fn rtcp(self) -> SocketSlot {
        SocketSlot(self.0 * 2 + 1)
    }

    /// The pair's place in a table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl SocketSlot {
    /// The pair that the socket is of.
    pub const fn pair(self) -> PairId {
        PairId(self.0 / 2)
    }

    /// True for the odd port, RTCP's.
    pub const fn is_rtcp(self) -> bool {
        self.0 % 2 == 1
    }
}

/// The port pairs of one worker over its locations.
#[derive(Debug)]
pub struct PortPool {
    pairs: Vec<Pair>,
    locations: Vec<Location>,
    cooling: VecDeque<(Instant, PairId)>,
    /// Pairs that wait to be bound for calls that use them already, and not before when.
    adopted: VecDeque<(Instant, PairId)>,
    /// How often a pair that a call uses could not be bound; few have such a number.
    failed: BTreeMap<PairId, u8>,
    in_use: u32,
}

/// What an answer to a bind came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that concerns a call.
    Nothing,
    /// The pair of a call that was taken over is bound again.
    Rebound,
    /// It cannot be bound; the call has lost its port.
    Lost,
}

/// What [`PortPool::plan`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Bind the pair at the location's address: RTP at that port, RTCP at the next.
    Bind(PairId, LocationId, u16),
    /// Close the pair's sockets.
    Close(PairId),
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    port: u16,
    location: LocationId,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Binding,
    Ready,
    InUse,
    /// Bound, but its last call is not long enough ago.
    Resting,
    Cooling,
    /// A call uses it that was taken over; it is to be bound.
    Adopted,
    /// The same, and the bind was asked for.
    Rebinding,
}

#[derive(Debug)]
struct Location {
    ip: IpAddr,
    /// Where its pairs lie in the pool's, by ascending port.
    pairs: Range<usize>,
    free: VecDeque<PairId>,
    /// With the time since when they are.
    ready: VecDeque<(Instant, PairId)>,
    binding: usize,
    failures: u32,
    paused_until: Instant,
}

impl PortPool {
    /// The share of `worker`, one of `workers`, of the pairs in `ports` (low and high, both included) at
    /// each location's address. Locations with the same address share its ports.
    pub fn new(worker: WorkerId, workers: u8, locations: &[IpAddr], ports: (u16, u16)) -> Self {
        let (low, high) = (u32::from(ports.0).next_multiple_of(2), u32::from(ports.1));
        let count = (high + 1).saturating_sub(low) / 2;
        let share = |number: u32| low + count * number / u32::from(workers.max(1)) * 2;
        let (first, end) = (share(u32::from(worker.0)), share(u32::from(worker.0) + 1));
        let mut pool = PortPool {
            pairs: Vec::new(),
            locations: Vec::with_capacity(locations.len()),
            cooling: VecDeque::new(),
            adopted: VecDeque::new(),
            failed: BTreeMap::new(),
            in_use: 0,
        };
        for (number, ip) in locations.iter().enumerate() {
            let sharers = locations.iter().filter(|other| *other == ip).count();
            let rank = locations[..number].iter().filter(|other| *other == ip).count();
            let begin = pool.pairs.len();
            let mut free = VecDeque::new();
            for port in (first..end).step_by(2).skip(rank).step_by(sharers) {
                free.push_back(PairId(pool.pairs.len() as u32));
                pool.pairs.push(Pair {
                    port: port as u16,
                    location: LocationId(number as u8),
                    state: State::Free,
                });
            }
            pool.locations.push(Location {
                ip: ip.to_canonical(),
                pairs: begin..pool.pairs.len(),
                free,
                ready: VecDeque::new(),
                binding: 0,
                failures: 0,
                paused_until: Instant::ZERO,
            });
        }
        pool
    }

    /// How many pairs there are; their ids are below it.
    pub fn pairs(&self) -> u32 {
        self.pairs.len() as u32
    }

    /// Asks for the sockets that are to be bound now, so that [`READY_LOW_WATER`] pairs of each location are
    /// ready, each answered by [`PortPool::bound`]; and for those to be closed that calls do not need any more.
    pub fn plan(&mut self, now: Instant, ask: &mut impl FnMut(Plan)) {
        self.end_rests(now);
        // Calls wait for these, so they go first and all at once.
        while let Some(&(_, pair)) = self.adopted.front().filter(|(from, _)| *from <= now) {
            self.adopted.pop_front();
            let entry = &mut self.pairs[pair.index()];
            entry.state = State::Rebinding;
            ask(Plan::Bind(pair, entry.location, entry.port));
        }
        let mut asked = 0;
        for location in &mut self.locations {
            while asked < BINDS_PER_PLAN
                && now >= location.paused_until
                && location.ready.len() + location.binding < READY_LOW_WATER
            {
                let Some(pair) = location.free.pop_front() else {
                    break;
                };
                location.binding += 1;
                asked += 1;
                let entry = &mut self.pairs[pair.index()];
                entry.state = State::Binding;
                ask(Plan::Bind(pair, entry.location, entry.port));
            }
        }
        self.close_surplus(now, ask);
    }

    fn end_rests(&mut self, now: Instant) {
        while let Some(&(until, pair)) = self.cooling.front() {
            if until > now {
                break;
            }
            self.cooling.pop_front();
            let Pair { location, ref mut state, .. } = self.pairs[pair.index()];
            let location = &mut self.locations[usize::from(location.0)];
            if *state == State::Resting {
                *state = State::Ready;
                location.ready.push_back((now, pair));
            } else {
                debug_assert_eq!(*state, State::Cooling);
                *state = State::Free;
                location.free.push_back(pair);
            }
        }
    }

    fn close_surplus(&mut self, now: Instant, ask: &mut impl FnMut(Plan)) {
        // Where binds fail, descriptors may have run out that another location has no use for.
        let are_scarce = self.locations.iter().any(|location| location.failures > 0);
        let mut closed = 0;
        for location in &mut self.locations {
            while closed < BINDS_PER_PLAN
                && let Some(until) = location.surplus_until()
                && (now >= until || are_scarce)
                && let Some((_, pair)) = location.ready.pop_front()
            {
                closed += 1;
                self.pairs[pair.index()].state = State::Free;
                location.free.push_back(pair);
                ask(Plan::Close(pair));
            }
        }
    }

    /// When [`PortPool::plan`] has something to ask for next, if nothing else changes.
    pub fn deadline(&self) -> Option<Instant> {
        let cooled = self.cooling.front().map(|&(until, _)| until);
        let wanting = self
            .locations
            .iter()
            .filter(|location| location.ready.len() + location.binding < READY_LOW_WATER);
        let adopted = self.adopted.front().map(|&(from, _)| from);
        let surplus = self.locations.iter().filter_map(Location::surplus_until).min();
        wanting
            .filter_map(
                |location| {
                    if location.free.is_empty() { cooled } else { Some(location.paused_until) }
                },
            )
            .chain(adopted)
            .chain(surplus)
            .min()
    }

    /// Takes the pair with that RTP port for a call that a new incarnation takes over: it is in use at
    /// once, and bound before all others. None when it is not this pool's, or not free.
    pub fn adopt(&mut self, location: LocationId, port: u16) -> Option<PairId> {
        let place = self.locations.get_mut(usize::from(location.0))?;
        let found = self.pairs[place.pairs.clone()].binary_search_by_key(&port, |pair| pair.port);
        let pair = PairId((place.pairs.start + found.ok()?) as u32);
        let entry = &mut self.pairs[pair.index()];
        if entry.state != State::Free {
            return None;
        }
        // The free ones lie in order until the first of them was used.
        let among_free = place.free.binary_search(&pair).ok();
        let among_free = among_free.or_else(|| place.free.iter().position(|free| *free == pair))?;
        place.free.remove(among_free);
        entry.state = State::Adopted;
        self.adopted.push_back((Instant::ZERO, pair));
        self.in_use += 1;
        Some(pair)
    }

    /// True when the pair's sockets are there: not before a bind that [`PortPool::adopt`] still wants.
    pub fn is_bound(&self, pair: PairId) -> bool {
        let state = self.pairs.get(pair.index()).map(|entry| entry.state);
        matches!(state, Some(State::Ready | State::InUse | State::Resting))
    }

    /// The answer to a bind that was asked for; others are ignored.
    pub fn bound(&mut self, pair: PairId, ok: bool, now: Instant) -> Outcome {
        let Some(entry) = self.pairs.get_mut(pair.index()) else {
            return Outcome::Nothing;
        };
        if entry.state == State::Rebinding {
            return self.rebound(pair, ok, now);
        }
        if entry.state != State::Binding {
            return Outcome::Nothing;
        }
        let location = &mut self.locations[usize::from(entry.location.0)];
        location.binding -= 1;
        if ok {
            location.failures = 0;
            location.ready.push_back((now, pair));
            entry.state = State::Ready;
            return Outcome::Nothing;
        }
        location.failures += 1;
        if location.failures >= FAILURES_BEFORE_PAUSE {
            location.failures = 0;
            location.paused_until = now + Duration::from_millis(BIND_PAUSE_MS);
        }
        self.rest(pair, now, State::Cooling);
        Outcome::Nothing
    }

    fn rebound(&mut self, pair: PairId, ok: bool, now: Instant) -> Outcome {
        let entry = &mut self.pairs[pair.index()];
        if ok {
            entry.state = State::InUse;
            self.failed.remove(&pair);
            return Outcome::Rebound;
        }
        entry.state = State::Adopted;
        let failed = self.failed.entry(pair).or_default();
        *failed += 1;
        if *failed >= REBIND_TRIES {
            // Who has it gives it back by `release`.
            return Outcome::Lost;
        }
        self.adopted.push_back((now + Duration::from_millis(BIND_PAUSE_MS), pair));
        Outcome::Nothing
    }

    /// True when a location has less than [`READY_AT_LEAST`] pairs ready while others are being bound: more messages of
    /// a burst came than pairs were kept for.
    pub fn is_short(&self) -> bool {
        let is_short = |one: &Location| one.ready.len() < READY_AT_LEAST && one.binding > 0;
        self.locations.iter().any(is_short)
    }

    /// A bound pair of `location`, or none when all are in use.
    pub fn take(&mut self, location: LocationId) -> Option<PairId> {
        let (_, pair) = self.locations.get_mut(usize::from(location.0))?.ready.pop_front()?;
        self.pairs[pair.index()].state = State::InUse;
        self.in_use += 1;
        Some(pair)
    }

    /// Gives a pair back that was taken; true when its sockets are to be closed, since they may not be there. A
    /// pair that is not in use stays as it is.
    pub fn release(&mut self, pair: PairId, now: Instant) -> bool {
        let Some(state) = self.pairs.get(pair.index()).map(|entry| entry.state) else {
            return false;
        };
        if !matches!(state, State::InUse | State::Adopted | State::Rebinding) {
            return false;
        }
        self.in_use -= 1;
        self.adopted.retain(|(_, adopted)| *adopted != pair);
        self.failed.remove(&pair);
        self.rest(pair, now, if state == State::InUse { State::Resting } else { State::Cooling });
        state == State::Rebinding
    }

    /// The pair's RTP port; RTCP's is the next. Panics for a pair of another pool.
    pub fn port(&self, pair: PairId) -> u16 {
        self.pairs[pair.index()].port
    }

    /// The pair's location. Panics for a pair of another pool.
    pub fn location(&self, pair: PairId) -> LocationId {
        self.pairs[pair.index()].location
    }

    /// True when `address` is the RTP or RTCP address of a pair of this pool that is bound or being
    /// bound. Media signalled to it would come back to ourselves. Knows this worker's share of the ports
    /// only.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        // RTP's port is even, RTCP's the odd one above.
        let rtp_port = address.port() & !1;
        self.locations.iter().filter(|location| location.ip == ip).any(|location| {
            let pairs = &self.pairs[location.pairs.clone()];
            pairs
                .binary_search_by_key(&rtp_port, |pair| pair.port)
                .is_ok_and(|found| !matches!(pairs[found].state, State::Free | State::Cooling))
        })
    }

    /// How many pairs calls use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// How many pairs are bound and wait for a call.
    pub fn ready(&self) -> u32 {
        self.locations.iter().map(|location| location.ready.len() as u32).sum()
    }

    fn rest(&mut self, pair: PairId, now: Instant, state: State) {
        self.pairs[pair.index()].state = state;
        self.cooling.push_back((now + Duration::from_millis(REUSE_AFTER_MS), pair));
    }
}

impl Location {
    /// When its longest ready pair may be closed, if there are more than are kept.
    fn surplus_until(&self) -> Option<Instant> {
        let (since, _) = self.ready.front().filter(|_| self.ready.len() > READY_LOW_WATER)?;
        Some(*since + Duration::from_millis(SURPLUS_AFTER_MS))
    }
}

#[cfg(test)]
mod tests;
