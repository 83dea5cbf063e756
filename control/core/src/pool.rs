//! The cloud scheduling module's rules (S1-016, S1-050, S1-068 to S1-070): slots that can each run a CCB, and when
//! the CDM asks for one more or gives one back.
//!
//! ```text
//!            apply             it runs normally
//!   free ----------> starting ------------------> running
//!    ^  ^                |                        |     ^
//!    |  +-- START_MS ----+                release |     | apply
//!    |                                            v     |
//!    +------ stopped ------ stopping <--------- draining
//!                                     nobody left, or the deadline
//! ```

use core::time::Duration;
use std::collections::BTreeMap;

use base::{CcbId, Instant};

use crate::cdm::CcbStatus;

/// How long a CCB may take from its start until it runs normally.
pub const START_MS: u64 = 30_000;
/// How long a process may take to stop before its slot is free anyway.
pub const STOP_MS: u64 = 15_000;
/// How long calls may take to end on a CCB that is released, unless the order says otherwise.
pub const DRAIN_S: u32 = 600;

/// How a slot of the pool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// Nothing runs there.
    Free,
    /// It was started and does not run normally yet.
    Starting,
    /// It runs.
    Running,
    /// It takes nothing new and is stopped once nobody is left (G-09).
    Draining,
    /// Its process is being stopped.
    Stopping,
}

impl SlotState {
    /// The word that tools show.
    pub fn name(self) -> &'static str {
        match self {
            SlotState::Free => "free",
            SlotState::Starting => "starting",
            SlotState::Running => "running",
            SlotState::Draining => "draining",
            SlotState::Stopping => "stopping",
        }
    }
}

/// Why an order for the pool was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolRefusal {
    /// No slot of that CCB is in the pool.
    NoSuchSlot,
    /// No slot is free.
    NoFreeSlot,
    /// The slot runs nothing that could be released.
    NotRunning,
    /// The slot's process is being stopped; ask again.
    Stopping,
    /// The order is of a leader that leads no more.
    Stale,
    /// Whose slot it is does not answer.
    Away,
}

impl PoolRefusal {
    /// A sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            PoolRefusal::NoSuchSlot => "no slot of that CCB is in the pool",
            PoolRefusal::NoFreeSlot => "no slot of the pool is free",
            PoolRefusal::NotRunning => "the slot runs nothing",
            PoolRefusal::Stopping => "the slot's process is being stopped; ask again",
            PoolRefusal::Stale => "the order is of a CDM that leads no more",
            PoolRefusal::Away => "the blade of that slot does not answer",
        }
    }
}

/// What the administrator or the CDM orders of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolOrder {
    /// Take a slot into use: that CCB's, or any free one.
    Apply {
        /// The CCB.
        #[serde(with = "crate::cluster::wire::maybe_ccb")]
        ccb: Option<CcbId>,
    },
    /// Give a CCB back; it drains first.
    Release {
        /// The CCB.
        #[serde(with = "crate::cluster::wire::ccb")]
        ccb: CcbId,
        /// How long calls may take to end, in seconds; [`DRAIN_S`] when it is not said.
        within_s: Option<u32>,
    },
}

/// What is to be done with a slot's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOrder {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
}

/// The slots of one blade.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    slots: BTreeMap<CcbId, Slot>,
    /// The highest leader's term that an order came with.
    term: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: SlotState,
    since: Instant,
    /// When a CCB that drains is stopped whoever is left.
    deadline: Instant,
}

impl Slots {
    /// Slots that were in these states when an earlier control process last said.
    pub fn new(now: Instant, slots: impl IntoIterator<Item = (CcbId, SlotState)>) -> Self {
        let deadline = now + Duration::from_secs(DRAIN_S.into());
        let slot = |(ccb, state)| (ccb, Slot { state, since: now, deadline });
        Slots { slots: slots.into_iter().map(slot).collect(), term: 0 }
    }

    /// The slots by CCB.
    pub fn iter(&self) -> impl Iterator<Item = (CcbId, SlotState)> {
        self.slots.iter().map(|(ccb, slot)| (*ccb, slot.state))
    }

    /// How the slot of that CCB does.
    pub fn state(&self, ccb: CcbId) -> Option<SlotState> {
        self.slots.get(&ccb).map(|slot| slot.state)
    }

    /// When the CCB that drains is stopped whoever is left.
    pub fn deadline(&self, ccb: CcbId) -> Option<Instant> {
        self.slots.get(&ccb).filter(|slot| slot.state == SlotState::Draining).map(|s| s.deadline)
    }

    /// False for an order of a leader that another one came after.
    pub fn admit(&mut self, term: u64) -> bool {
        let is_newest = term >= self.term;
        self.term = self.term.max(term);
        is_newest
    }

    /// Takes a slot into use: that CCB's, or any free one. A CCB that drains runs on. What is to be done with
    /// its process, if anything.
    pub fn apply(
        &mut self,
        now: Instant,
        ccb: Option<CcbId>,
    ) -> Result<(CcbId, Option<SlotOrder>), PoolRefusal> {
        let free = || {
            let of = |wanted| self.slots.iter().find(move |(_, slot)| slot.state == wanted);
            // Who still drains is quicker than who has to start.
            of(SlotState::Draining).or_else(|| of(SlotState::Free)).map(|(ccb, _)| *ccb)
        };
        let ccb = match ccb {
            Some(ccb) => ccb,
            None => free().ok_or(PoolRefusal::NoFreeSlot)?,
        };
        let slot = self.slots.get_mut(&ccb).ok_or(PoolRefusal::NoSuchSlot)?;
        let (state, order) = match slot.state {
            SlotState::Free => (SlotState::Starting, Some(SlotOrder::Start)),
            SlotState::Draining => (SlotState::Running, None),
            SlotState::Starting | SlotState::Running => return Ok((ccb, None)),
            SlotState::Stopping => return Err(PoolRefusal::Stopping),
        };
        (slot.state, slot.since) = (state, now);
        Ok((ccb, order))
    }

    /// Gives a CCB back to the pool: it drains first, until nobody is left or `within` has passed. Asked again, the
    /// earlier deadline holds.
    pub fn release(
        &mut self,
        now: Instant,
        ccb: CcbId,
        within: Duration,
    ) -> Result<(), PoolRefusal> {
        let slot = self.slots.get_mut(&ccb).ok_or(PoolRefusal::NoSuchSlot)?;
        match slot.state {
            SlotState::Free => Err(PoolRefusal::NotRunning),
            SlotState::Stopping => Ok(()),
            SlotState::Draining => {
                slot.deadline = slot.deadline.min(now + within);
                Ok(())
            }
            SlotState::Starting | SlotState::Running => {
                *slot = Slot { state: SlotState::Draining, since: now, deadline: now + within };
                Ok(())
            }
        }
    }

    /// What time and the CCB's status make of its slot; `left` is how many logins and calls it has.
    pub fn look(
        &mut self,
        now: Instant,
        ccb: CcbId,
        status: CcbStatus,
        left: usize,
    ) -> Option<SlotOrder> {
        let slot = self.slots.get_mut(&ccb)?;
        let age = now.since(slot.since);
        let runs = status == CcbStatus::Normal;
        let (state, order) = match slot.state {
            // Somebody else started it, or an earlier control process did.
            SlotState::Free if runs => (SlotState::Running, None),
            SlotState::Starting if runs => (SlotState::Running, None),
            // It does not come up: what there is of it is stopped.
            SlotState::Starting if age >= Duration::from_millis(START_MS) => {
                (SlotState::Stopping, Some(SlotOrder::Stop))
            }
            SlotState::Draining if left == 0 || now >= slot.deadline => {
                (SlotState::Stopping, Some(SlotOrder::Stop))
            }
            SlotState::Stopping if age >= Duration::from_millis(STOP_MS) => (SlotState::Free, None),
            _ => return None,
        };
        (slot.state, slot.since) = (state, now);
        order
    }

    /// The slot's process is there no more, and nobody starts it again.
    pub fn stopped(&mut self, now: Instant, ccb: CcbId) {
        if let Some(slot) = self.slots.get_mut(&ccb) {
            (slot.state, slot.since) = (SlotState::Free, now);
        }
    }
}

/// When the CDM asks for a CCB, and when it gives one back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marks {
    /// More CCBs are asked for when more than this share of the places is taken (S1-068).
    pub high: f64,
    /// One is given back when less than this share is taken (S1-069), and the others would stay below `high`.
    pub low: f64,
    /// For how long it must have been so, in seconds.
    pub hold_s: u32,
    /// CCBs that always run.
    pub least: u32,
}

impl Default for Marks {
    fn default() -> Self {
        Marks { high: 0.8, low: 0.3, hold_s: 10, least: 1 }
    }
}

/// A CCB as the CDM's leader sees it when it thinks of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The CCB.
    pub ccb: CcbId,
    /// How it does.
    pub status: CcbStatus,
    /// Logins that it has or is granted.
    pub load: u32,
    /// Logins that it has room for.
    pub capacity: u32,
    /// Its slot, when it is in the pool.
    pub slot: Option<SlotState>,
}

/// What the CDM wants of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That slot is to be taken into use.
    Apply(CcbId),
    /// That CCB is to be given back.
    Release(CcbId),
}

/// Watches the load and asks for CCBs or gives them back, with hysteresis: the marks lie apart, each must be
/// passed for a while, and nothing is asked while an earlier wish is under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scaler {
    high_since: Option<Instant>,
    low_since: Option<Instant>,
}

impl Scaler {
    /// Looks at the CCBs of all blades; call it about once a second.
    pub fn look(&mut self, now: Instant, marks: &Marks, ccbs: &[Seen]) -> Option<Wish> {
        let moves = |seen: &&Seen| {
            matches!(
                seen.slot,
                Some(SlotState::Starting | SlotState::Draining | SlotState::Stopping)
            )
        };
        let normal = || ccbs.iter().filter(|seen| seen.status == CcbStatus::Normal);
        let (load, capacity) = normal().fold((0_u64, 0_u64), |(load, capacity), seen| {
            (load + u64::from(seen.load), capacity + u64::from(seen.capacity))
        });
        let share = |load: u64, capacity: u64| match capacity {
            0 => 1.0,
            _ => load as f64 / capacity as f64,
        };
        let count = normal().count();
        let is_high = share(load, capacity) > marks.high || count < marks.least as usize;
        let is_low = share(load, capacity) < marks.low && count > marks.least.max(1) as usize;
        let since = |held: &mut Option<Instant>, is: bool| {
            *held = if is { held.or(Some(now)) } else { None };
            let hold = Duration::from_secs(marks.hold_s.into());
            held.is_some_and(|from| now.since(from) >= hold)
        };
        let (grow, shrink) =
            (since(&mut self.high_since, is_high), since(&mut self.low_since, is_low));
        if ccbs.iter().any(|seen| moves(&seen)) {
            return None;
        }
        if grow {
            let free = ccbs.iter().find(|seen| seen.slot == Some(SlotState::Free))?;
            self.high_since = None;
            return Some(Wish::Apply(free.ccb));
        }
        if !shrink {
            return None;
        }
        let of_pool = normal().filter(|seen| seen.slot == Some(SlotState::Running));
        let least = of_pool.min_by_key(|seen| (seen.load, std::cmp::Reverse(seen.ccb)))?;
        // Whose agents have to go somewhere.
        let rest = capacity - u64::from(least.capacity);
        if share(load, rest) >= marks.high {
            return None;
        }
        self.low_since = None;
        Some(Wish::Release(least.ccb))
    }
}

#[cfg(test)]
mod tests;
