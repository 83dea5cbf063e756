//! The lease word: the one place that both processes and all workers win by compare-and-swap.
//!
//! ```text
//!  63 62 | 61   58 | 57         42 | 41      28 | 27          0
//!  state | purpose | holder (CCB)  | time       | counter
//!                                  | open, own, |          while it is bound
//!                                  | legs       |
//!
//! free --reserve--> reserved --bind--> bound --release--> free, counter + 1
//!                       \--release, or RESERVED_MS pass--> free, counter + 1
//!
//! bound, 1 leg --open--> bound, 1 leg, open --share--> bound, 2 legs --release--> bound, 1 leg, open
//! ```
//!
//! An agent who talks may call somebody else meanwhile (a consultation), and may be rung by a further caller (call
//! waiting), as far as the agent's limits go. Such a leg shares the word of the first: the word is bound as long as one
//! of them lives, and it counts the agent's own calls apart. It is open for an own call once the leg before was
//! answered, and for a waiting one unless an own call is on its way, so that of two agents who call each other at the
//! same time still only one gets both words.
//!
//! Who asks from outside (a queue, another blade) reserves, and so gets only agents whom nobody has. A second word for
//! a waiting call was considered: then "free" would be a question to two words that no compare-and-swap answers, and
//! a waiting call that outlives the first would have to change its word. Shared, an agent is free exactly when one
//! word is, and after a death legs are counted as ever.
//!
//! The counter tells one lease of the word from the next: each reservation has another one (until
//! 2^28 of them have passed), so a bind or a release that comes too late hits nothing. Time is
//! counted in ticks of 128 ms that go round every 35 minutes.

use core::time::Duration;

use base::{CcbId, Instant};

use crate::sync::{AtomicU64, Ordering};

/// How long a reservation lives before anyone may take it, in milliseconds (DESIGN.md, G-02). Ticks
/// are coarse: it is taken not before this time and at most 256 ms after it.
pub const RESERVED_MS: u64 = 2_000;

/// The bits of a counter; a counter goes on with 0 after this number.
pub const LEASE_COUNTER_MASK: u32 = (1 << 28) - 1;

const TICK_MS: u64 = 128;
const TICKS: u64 = 1 << 14;
/// A reservation this many ticks old has lived for `RESERVED_MS` wherever in their ticks both times
/// lie.
const OVER_AGE: u64 = RESERVED_MS.div_ceil(TICK_MS) + 1;
/// A time that lies this many ticks ahead is another core's younger reading of the clock, not an
/// age.
const AHEAD: u64 = 8;

const COUNTER_BITS: u32 = 28;
const TIME_SHIFT: u32 = 28;
const HOLDER_SHIFT: u32 = 42;
/// In a bound word: one more leg may share it.
const OPEN: u64 = 1 << 41;
/// In a bound word: how many legs share it, above [`TIME_SHIFT`].
const LEGS_MASK: u64 = (1 << 7) - 1;
/// In a bound word: how many of them are the agent's own calls.
const OWN_SHIFT: u32 = 35;
const OWN_MASK: u64 = (1 << 6) - 1;
const PURPOSE_SHIFT: u32 = 58;
const STATE_SHIFT: u32 = 62;

/// The highest limit of an agent's calls at the same time.
pub const MAX_AT_ONCE: u16 = 8;

/// How many calls of their own agents may have at the same time where nothing else is said.
pub const OWN_AT_ONCE: u16 = 4;

const RESERVED: u64 = 1;
const BOUND: u64 = 2;

/// What an agent's medium was won for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// A call to the agent.
    Call = 1,
    /// A call that a queue gave the agent.
    Queue = 2,
    /// A transfer to the agent.
    Transfer = 3,
    /// An invitation to a conference.
    Conference = 4,
    /// A chat.
    Chat = 5,
    /// The agent's own call (G-03).
    Outgoing = 6,
    /// A supervisor's call, to listen to another agent's (G-25).
    Monitor = 7,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 7] = [
        Purpose::Call,
        Purpose::Queue,
        Purpose::Transfer,
        Purpose::Conference,
        Purpose::Chat,
        Purpose::Outgoing,
        Purpose::Monitor,
    ];

    /// Its name, as it stands in a [`crate::LeaseTicket`].
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Call => "call",
            Purpose::Queue => "queue",
            Purpose::Transfer => "transfer",
            Purpose::Conference => "conference",
            Purpose::Chat => "chat",
            Purpose::Outgoing => "outgoing",
            Purpose::Monitor => "monitor",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.name() == name)
    }
}

/// When a reservation was made, in ticks of the lease clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime(u16);

impl LeaseTime {
    /// The tick that `now` is in.
    pub fn of(now: Instant) -> Self {
        LeaseTime((now.as_millis() / TICK_MS % TICKS) as u16)
    }

    /// How long ago it was, to 128 ms, as long as that is less than 34 minutes.
    pub fn age(self, now: Instant) -> Duration {
        Duration::from_millis(self.ticks(now) * TICK_MS)
    }

    /// True when a reservation of this time may be taken by anyone.
    pub fn is_over_age(self, now: Instant) -> bool {
        self.ticks(now) >= OVER_AGE
    }

    fn ticks(self, now: Instant) -> u64 {
        let ticks = (TICKS + u64::from(Self::of(now).0) - u64::from(self.0)) % TICKS;
        if ticks >= TICKS - AHEAD { 0 } else { ticks }
    }
}

/// Who has an agent's medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody. `counter` is what the next reservation will have.
    Free {
        /// The next lease's counter.
        counter: u32,
    },
    /// It is promised, until it is bound or [`RESERVED_MS`] pass.
    Reserved {
        /// The CCB that has it.
        holder: CcbId,
        /// What for.
        purpose: Purpose,
        /// The lease's counter.
        counter: u32,
        /// Since when.
        since: LeaseTime,
    },
    /// A dialog has it.
    Bound {
        /// The CCB that has it.
        holder: CcbId,
        /// What for.
        purpose: Purpose,
        /// The lease's counter.
        counter: u32,
        /// How many legs share it.
        legs: u16,
        /// How many of them are the agent's own calls.
        own: u16,
        /// The last one was answered: the agent may call somebody.
        open: bool,
    },
    /// There is no such agent's slot, or the region is mapped read-only.
    NoSuchSlot,
}

impl LeaseState {
    /// The counter of this lease or, when it is free, of the next.
    pub fn counter(&self) -> Option<u32> {
        match *self {
            LeaseState::Free { counter }
            | LeaseState::Reserved { counter, .. }
            | LeaseState::Bound { counter, .. } => Some(counter),
            LeaseState::NoSuchSlot => None,
        }
    }

    /// Who has it.
    pub fn holder(&self) -> Option<CcbId> {
        match *self {
            LeaseState::Reserved { holder, .. } | LeaseState::Bound { holder, .. } => Some(holder),
            LeaseState::Free { .. } | LeaseState::NoSuchSlot => None,
        }
    }

    /// True while the agent calls somebody who has not answered.
    pub fn is_calling(&self) -> bool {
        matches!(*self, LeaseState::Bound { own: 1.., open: false, .. })
    }

    /// Whether one more leg of that kind may share the word: an own call among fewer than `limit` of these, a
    /// waiting one among fewer than `limit` of any.
    fn takes(&self, kind: Share, limit: u16) -> bool {
        let LeaseState::Bound { legs, own, open, .. } = *self else { return false };
        let limit = limit.min(MAX_AT_ONCE);
        match kind {
            Share::Own => open && own < limit,
            Share::Waiting => !self.is_calling() && legs < limit,
        }
    }

    #[inline]
    fn of(word: u64) -> Self {
        let counter = (word as u32) & LEASE_COUNTER_MASK;
        let holder = CcbId((word >> HOLDER_SHIFT) as u16);
        let purpose = match (word >> PURPOSE_SHIFT) & 0xf {
            2 => Purpose::Queue,
            3 => Purpose::Transfer,
            4 => Purpose::Conference,
            5 => Purpose::Chat,
            6 => Purpose::Outgoing,
            7 => Purpose::Monitor,
            // A purpose of a later version is a call to this one.
            _ => Purpose::Call,
        };
        match word >> STATE_SHIFT {
            RESERVED => {
                let since = LeaseTime(((word >> TIME_SHIFT) & (TICKS - 1)) as u16);
                LeaseState::Reserved { holder, purpose, counter, since }
            }
            BOUND => {
                let legs = (word >> TIME_SHIFT & LEGS_MASK) as u16;
                let own = ((word >> OWN_SHIFT & OWN_MASK) as u16).min(legs);
                let open = word & OPEN != 0;
                LeaseState::Bound { holder, purpose, counter, legs, own, open }
            }
            // State 3 is never written; who finds it may take the word.
            _ => LeaseState::Free { counter },
        }
    }

    /// The word of a bound lease.
    #[inline]
    fn bound(
        (holder, purpose, counter): (CcbId, Purpose, u32),
        (legs, own): (u16, u16),
        open: bool,
    ) -> u64 {
        BOUND << STATE_SHIFT
            | (purpose as u64) << PURPOSE_SHIFT
            | u64::from(holder.0) << HOLDER_SHIFT
            | if open { OPEN } else { 0 }
            | (u64::from(own) & OWN_MASK) << OWN_SHIFT
            | (u64::from(legs) & LEGS_MASK) << TIME_SHIFT
            | u64::from(counter)
    }
}

/// What kind of leg is among those that share a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The agent's own call.
    Own,
    /// A call to the agent.
    Waiting,
}

impl Share {
    /// The kind of a leg that a word was won for.
    pub const fn of(purpose: Purpose) -> Share {
        match purpose {
            Purpose::Outgoing => Share::Own,
            _ => Share::Waiting,
        }
    }
}

/// The moves of one word.
pub mod word {
    use super::{
        AtomicU64, CcbId, HOLDER_SHIFT, Instant, LEASE_COUNTER_MASK, LeaseState, LeaseTime,
        Ordering, PURPOSE_SHIFT, Purpose, RESERVED, STATE_SHIFT, Share, TIME_SHIFT,
    };

    /// What the word says.
    #[inline]
    pub fn read(word: &AtomicU64) -> LeaseState {
        LeaseState::of(word.load(Ordering::Acquire))
    }

    /// Free, or reserved for too long, becomes reserved; the lease's counter, or who has it.
    #[inline]
    pub fn reserve(
        word: &AtomicU64,
        holder: CcbId,
        purpose: Purpose,
        now: Instant,
    ) -> Result<u32, LeaseState> {
        let mut won = 0;
        update(word, |state| {
            won = match state {
                LeaseState::Free { counter } => counter,
                LeaseState::Reserved { counter, since, .. } if since.is_over_age(now) => {
                    next(counter)
                }
                _ => return None,
            };
            Some(
                RESERVED << STATE_SHIFT
                    | (purpose as u64) << PURPOSE_SHIFT
                    | u64::from(holder.0) << HOLDER_SHIFT
                    | u64::from(LeaseTime::of(now).0) << TIME_SHIFT
                    | u64::from(won),
            )
        })
        .map(|()| won)
    }

    /// The reservation `counter` of `holder` becomes bound; false when it is not there any more.
    #[inline]
    pub fn bind(word: &AtomicU64, holder: CcbId, counter: u32) -> bool {
        update(word, |state| match state {
            LeaseState::Reserved { holder: has, purpose, counter: of, .. }
                if (has, of) == (holder, counter) =>
            {
                let own = u16::from(Share::of(purpose) == Share::Own);
                Some(LeaseState::bound((holder, purpose, counter), (1, own), false))
            }
            _ => None,
        })
        .is_ok()
    }

    /// The leg that bound the lease, or shared it last, was answered: the agent may call somebody. False when the
    /// lease is not there any more.
    #[inline]
    pub fn open(word: &AtomicU64, holder: CcbId, counter: u32) -> bool {
        update(word, |state| match state {
            LeaseState::Bound { holder: has, purpose, counter: of, legs, own, .. }
                if (has, of) == (holder, counter) =>
            {
                Some(LeaseState::bound((holder, purpose, counter), (legs, own), true))
            }
            _ => None,
        })
        .is_ok()
    }

    /// One more leg of that kind shares the lease that `holder` has bound: an own call if there are fewer than
    /// `limit`, a waiting one if there are fewer legs than that. The lease's counter, or why not. An own call closes
    /// it until that is answered.
    #[inline]
    pub fn share(
        word: &AtomicU64,
        holder: CcbId,
        kind: Share,
        limit: u16,
    ) -> Result<u32, LeaseState> {
        let mut won = 0;
        update(word, |state| match state {
            LeaseState::Bound { holder: has, purpose, counter, legs, own, open }
                if has == holder && state.takes(kind, limit) =>
            {
                won = counter;
                let is_own = kind == Share::Own;
                let shares = (legs + 1, own + u16::from(is_own));
                Some(LeaseState::bound((holder, purpose, counter), shares, open && !is_own))
            }
            _ => None,
        })
        .map(|()| won)
    }

    /// A leg of that kind lets go of the lease `counter` of `holder`, which becomes free with the last one; false
    /// when it is not there any more.
    #[inline]
    pub fn release(word: &AtomicU64, holder: CcbId, counter: u32, kind: Share) -> bool {
        update(word, |state| match state {
            LeaseState::Bound { holder: has, purpose, counter: of, legs, own, .. }
                if (has, of) == (holder, counter) && legs > 1 =>
            {
                let own = own.saturating_sub(u16::from(kind == Share::Own)).min(legs - 1);
                Some(LeaseState::bound((holder, purpose, counter), (legs - 1, own), true))
            }
            state => {
                let is_it = state.holder() == Some(holder) && state.counter() == Some(counter);
                is_it.then(|| u64::from(next(counter)))
            }
        })
        .is_ok()
    }

    /// Of the bound lease `counter` of `holder`, so many legs live, and so many of them are the agent's own calls;
    /// none frees it. False when the lease is not there any more.
    pub fn settle(word: &AtomicU64, holder: CcbId, counter: u32, (legs, own): (u16, u16)) -> bool {
        update(word, |state| match state {
            LeaseState::Bound { holder: has, purpose, counter: of, .. }
                if (has, of) == (holder, counter) && legs > 0 =>
            {
                Some(LeaseState::bound((holder, purpose, counter), (legs, own), true))
            }
            state => {
                let is_it = state.holder() == Some(holder) && state.counter() == Some(counter);
                (is_it && legs == 0).then(|| u64::from(next(counter)))
            }
        })
        .is_ok()
    }

    /// A reservation that is too old becomes free; false when it is not one.
    pub fn expire(word: &AtomicU64, now: Instant) -> bool {
        update(word, |state| match state {
            LeaseState::Reserved { counter, since, .. } if since.is_over_age(now) => {
                Some(u64::from(next(counter)))
            }
            _ => None,
        })
        .is_ok()
    }

    /// The reservation `counter` of `holder` is not used and becomes free; false when it is not there, or bound.
    pub fn give_back(word: &AtomicU64, holder: CcbId, counter: u32) -> bool {
        update(word, |state| match state {
            LeaseState::Reserved { holder: has, counter: of, .. }
                if (has, of) == (holder, counter) =>
            {
                Some(u64::from(next(counter)))
            }
            _ => None,
        })
        .is_ok()
    }

    /// Whatever lease `holder` has becomes free; false when it has none.
    pub fn free_of(word: &AtomicU64, holder: CcbId) -> bool {
        update(word, |state| {
            let counter = state.counter().filter(|_| state.holder() == Some(holder))?;
            Some(u64::from(next(counter)))
        })
        .is_ok()
    }

    /// Swaps the word for what `to` makes of it until that succeeds or `to` refuses the state it is
    /// in. Another's success is what makes it try again, so somebody always gets on.
    #[inline]
    fn update(
        word: &AtomicU64,
        mut to: impl FnMut(LeaseState) -> Option<u64>,
    ) -> Result<(), LeaseState> {
        let mut here = word.load(Ordering::Relaxed);
        loop {
            let state = LeaseState::of(here);
            let new = to(state).ok_or(state)?;
            match word.compare_exchange_weak(here, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => here = now,
            }
        }
    }

    #[inline]
    fn next(counter: u32) -> u32 {
        counter.wrapping_add(1) & LEASE_COUNTER_MASK
    }
}

const _: () = assert!(LEASE_COUNTER_MASK.count_ones() == COUNTER_BITS);

#[cfg(not(loom))]
pub use table::Leases;

#[cfg(not(loom))]
mod table {
    use base::{AgentSlot, CcbId, Instant, Medium};

    use super::{LeaseState, Purpose, Share, word};
    use crate::sync::AtomicU64;
    use crate::table::Part;

    /// The lease words of all agents and media (DESIGN.md, Leases).
    #[derive(Clone, Copy, Debug)]
    pub struct Leases<'a> {
        pub(crate) part: Part<'a>,
    }

    impl<'a> Leases<'a> {
        /// The word of `slot` and `medium` to win; None outside the table or when mapped read-only.
        #[inline]
        pub fn word(&self, slot: AgentSlot, medium: Medium) -> Option<&'a AtomicU64> {
            self.part.to_write(place(slot, medium))
        }

        /// Promises the agent's medium to `holder`: the lease's counter, or who has it. A
        /// reservation older than [`super::RESERVED_MS`] is taken over.
        #[inline]
        pub fn reserve(
            &self,
            slot: AgentSlot,
            medium: Medium,
            holder: CcbId,
            purpose: Purpose,
            now: Instant,
        ) -> Result<u32, LeaseState> {
            let word = self.word(slot, medium).ok_or(LeaseState::NoSuchSlot)?;
            word::reserve(word, holder, purpose, now)
        }

        /// The reservation becomes bound; false when it is not `holder`'s any more.
        #[inline]
        pub fn bind(&self, slot: AgentSlot, medium: Medium, holder: CcbId, counter: u32) -> bool {
            self.word(slot, medium).is_some_and(|word| word::bind(word, holder, counter))
        }

        /// The agent's leg was answered: the agent may call somebody. False when the lease is not `holder`'s any
        /// more.
        #[inline]
        pub fn open(&self, slot: AgentSlot, medium: Medium, holder: CcbId, counter: u32) -> bool {
            self.word(slot, medium).is_some_and(|word| word::open(word, holder, counter))
        }

        /// One more leg of that kind shares the lease that `holder` has, if `limit` admits it ([`word::share`]): its
        /// counter, or who has it.
        #[inline]
        pub fn share(
            &self,
            slot: AgentSlot,
            medium: Medium,
            holder: CcbId,
            kind: Share,
            limit: u16,
        ) -> Result<u32, LeaseState> {
            let word = self.word(slot, medium).ok_or(LeaseState::NoSuchSlot)?;
            word::share(word, holder, kind, limit)
        }

        /// After a death of `holder`'s process: so many legs of the agent go on, and so many of them are own calls.
        /// None frees the lease; false when it is not `holder`'s any more.
        pub fn settle(
            &self,
            slot: AgentSlot,
            medium: Medium,
            holder: CcbId,
            counter: u32,
            shares: (u16, u16),
        ) -> bool {
            self.word(slot, medium).is_some_and(|word| word::settle(word, holder, counter, shares))
        }

        /// The lease ends, reserved or bound, with the last leg that shares it; this one is of that kind. False when
        /// it is not `holder`'s any more.
        #[inline]
        pub fn release(
            &self,
            slot: AgentSlot,
            medium: Medium,
            holder: CcbId,
            counter: u32,
            kind: Share,
        ) -> bool {
            self.word(slot, medium).is_some_and(|word| word::release(word, holder, counter, kind))
        }

        /// Who has the agent's medium.
        #[inline]
        pub fn read(&self, slot: AgentSlot, medium: Medium) -> LeaseState {
            match self.part.words.get(place(slot, medium)) {
                Some(word) => word::read(word),
                None => LeaseState::NoSuchSlot,
            }
        }

        /// Frees a reservation that is too old; false when it is not one.
        pub fn expire(&self, slot: AgentSlot, medium: Medium, now: Instant) -> bool {
            self.word(slot, medium).is_some_and(|word| word::expire(word, now))
        }

        /// Frees all leases of a CCB whose calls are gone, and returns how many.
        pub fn free_all_of(&self, holder: CcbId) -> u32 {
            if !self.part.writable {
                return 0;
            }
            self.part.words.iter().map(|word| u32::from(word::free_of(word, holder))).sum()
        }

        /// How many leases are not free.
        pub fn held(&self) -> u32 {
            let held = |word: &&AtomicU64| word::read(word).holder().is_some();
            self.part.words.iter().filter(held).count() as u32
        }
    }

    #[inline]
    fn place(slot: AgentSlot, medium: Medium) -> usize {
        (slot.0 as usize).saturating_mul(Medium::COUNT).saturating_add(medium as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
