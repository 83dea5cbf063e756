//! The cloud scheduling module's rules (S1-016, S1-050, S1-067 to S1-070): slots that can each run a CCB or an
//! AgentProxy, and when the CDM asks for one more or gives one back.
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
//!
//! An AgentProxy has nobody to wait for, so its slot drains no longer than until it is looked at; its process itself
//! says that it takes no more logins, and stops a little later.

use core::time::Duration;
use std::collections::BTreeMap;

use base::{CcbId, Instant};

use crate::cdm::CcbStatus;
use crate::cluster::{REPORT_LIFE_MS, REPORT_MS};

/// How long a CCB may take from its start until it runs normally.
pub const START_MS: u64 = 30_000;
/// How long a process may take to stop before its slot is free anyway.
pub const STOP_MS: u64 = 15_000;
/// How long calls may take to end on a CCB that is released, unless the order says otherwise.
pub const DRAIN_S: u32 = 600;

/// What a slot of the pool can run.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A data plane.
    #[default]
    Ccb,
    /// A control process without CCBs, which takes logins (S1-067).
    AgentProxy,
}

impl SlotKind {
    /// The word that tools show.
    pub fn name(self) -> &'static str {
        match self {
            SlotKind::Ccb => "ccb",
            SlotKind::AgentProxy => "agent_proxy",
        }
    }
}

/// A slot of the pool, by what it runs. Both kinds of number are unique over all blades.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SlotId {
    /// That CCB.
    Ccb(#[serde(with = "crate::cluster::wire::ccb")] CcbId),
    /// The AgentProxy of that number.
    AgentProxy(u16),
}

impl SlotId {
    /// The slot of that kind and number.
    pub fn new(kind: SlotKind, number: u16) -> Self {
        match kind {
            SlotKind::Ccb => SlotId::Ccb(CcbId(number)),
            SlotKind::AgentProxy => SlotId::AgentProxy(number),
        }
    }

    /// What it runs.
    pub fn kind(self) -> SlotKind {
        match self {
            SlotId::Ccb(_) => SlotKind::Ccb,
            SlotId::AgentProxy(_) => SlotKind::AgentProxy,
        }
    }

    /// Its number among those of its kind.
    pub fn number(self) -> u16 {
        match self {
            SlotId::Ccb(ccb) => ccb.0,
            SlotId::AgentProxy(number) => number,
        }
    }

    /// The CCB that it runs, unless that is an AgentProxy.
    pub fn ccb(self) -> Option<CcbId> {
        match self {
            SlotId::Ccb(ccb) => Some(ccb),
            SlotId::AgentProxy(_) => None,
        }
    }
}

impl core::fmt::Display for SlotId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SlotId::Ccb(ccb) => write!(f, "CCB {ccb}"),
            SlotId::AgentProxy(number) => write!(f, "AgentProxy {number}"),
        }
    }
}

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
    /// No such slot is in the pool.
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
            PoolRefusal::NoSuchSlot => "no such slot is in the pool",
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
    /// Take a slot into use.
    Apply {
        /// What it is to run.
        kind: SlotKind,
        /// Which one of that kind; any free one without.
        number: Option<u16>,
    },
    /// Give a CCB or an AgentProxy back; it drains first.
    Release {
        /// The slot.
        slot: SlotId,
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
    slots: BTreeMap<SlotId, Slot>,
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
    pub fn new(now: Instant, slots: impl IntoIterator<Item = (SlotId, SlotState)>) -> Self {
        let deadline = now + Duration::from_secs(DRAIN_S.into());
        let slot = |(id, state)| (id, Slot { state, since: now, deadline });
        Slots { slots: slots.into_iter().map(slot).collect(), term: 0 }
    }

    /// The slots, those of CCBs first.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, SlotState)> {
        self.slots.iter().map(|(id, slot)| (*id, slot.state))
    }

    /// How that slot does.
    pub fn state(&self, id: SlotId) -> Option<SlotState> {
        self.slots.get(&id).map(|slot| slot.state)
    }

    /// When what drains there is stopped whoever is left.
    pub fn deadline(&self, id: SlotId) -> Option<Instant> {
        self.slots.get(&id).filter(|slot| slot.state == SlotState::Draining).map(|s| s.deadline)
    }

    /// True of a slot that became free so recently that the last report of what ran there may still be heard.
    pub fn was_just_freed(&self, now: Instant, id: SlotId) -> bool {
        let age = Duration::from_millis(REPORT_LIFE_MS + REPORT_MS);
        let slot = self.slots.get(&id).filter(|slot| slot.state == SlotState::Free);
        slot.is_some_and(|slot| now < slot.since + age)
    }

    /// Forgets the terms of leaders: a bus that lost what it kept counts anew.
    pub fn forget_terms(&mut self) {
        self.term = 0;
    }

    /// False for an order of a leader that another one came after (G-14).
    pub fn admit(&mut self, term: u64) -> bool {
        let is_newest = term >= self.term;
        self.term = self.term.max(term);
        is_newest
    }

    /// Takes a slot into use: that one, or any free one of its kind. What drains runs on. What is to be done with
    /// its process, if anything.
    pub fn apply(
        &mut self,
        now: Instant,
        kind: SlotKind,
        number: Option<u16>,
    ) -> Result<(SlotId, Option<SlotOrder>), PoolRefusal> {
        let of = |wanted| {
            let fits = |(id, slot): &(&SlotId, &Slot)| id.kind() == kind && slot.state == wanted;
            self.slots.iter().find(fits).map(|(id, _)| *id)
        };
        let id = match number {
            Some(number) => SlotId::new(kind, number),
            // Who still drains is quicker than who has to start.
            None => of(SlotState::Draining)
                .or_else(|| of(SlotState::Free))
                .ok_or(PoolRefusal::NoFreeSlot)?,
        };
        let slot = self.slots.get_mut(&id).ok_or(PoolRefusal::NoSuchSlot)?;
        let (state, order) = match slot.state {
            SlotState::Free => (SlotState::Starting, Some(SlotOrder::Start)),
            SlotState::Draining => (SlotState::Running, None),
            SlotState::Starting | SlotState::Running => return Ok((id, None)),
            SlotState::Stopping => return Err(PoolRefusal::Stopping),
        };
        (slot.state, slot.since) = (state, now);
        Ok((id, order))
    }

    /// Gives a slot back to the pool: it drains first, until nobody is left or `within` has passed. Asked again, the
    /// earlier deadline holds.
    pub fn release(
        &mut self,
        now: Instant,
        id: SlotId,
        within: Duration,
    ) -> Result<(), PoolRefusal> {
        let slot = self.slots.get_mut(&id).ok_or(PoolRefusal::NoSuchSlot)?;
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

    /// What time and the status of what runs there make of a slot; `left` is how many logins and calls it has.
    pub fn look(
        &mut self,
        now: Instant,
        id: SlotId,
        status: CcbStatus,
        left: usize,
    ) -> Option<SlotOrder> {
        let slot = self.slots.get_mut(&id)?;
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
    pub fn stopped(&mut self, now: Instant, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            (slot.state, slot.since) = (SlotState::Free, now);
        }
    }
}

mod scaler;

pub(crate) use scaler::marks_of;
pub use scaler::{Marks, Scaler, Seen, Wish};

#[cfg(test)]
mod tests;
