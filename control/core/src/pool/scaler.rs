//! When the CDM asks the pool for one more, when it gives one back, and which one.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use base::Instant;

use super::{SlotId, SlotKind, SlotState};
use crate::cdm::CcbStatus;
use crate::cluster::BladeName;

/// How long an order counts whose blade reports nothing of it.
const UNREPORTED: Duration = Duration::from_secs(3);
/// For how long a slot that was taken into use comes after the others: it may not have come up.
const TRIED: Duration = Duration::from_secs(60);

/// When the CDM asks for a CCB or an AgentProxy, and when it gives one back.
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
    /// Slots that may be starting or stopping at a time.
    pub at_once: u32,
    /// Logins a second that an AgentProxy is good for: the same shares of it ask for another one (S1-067) and give
    /// one back (S1-070).
    pub logins_s: u32,
}

impl Default for Marks {
    fn default() -> Self {
        Marks { high: 0.8, low: 0.3, hold_s: 10, least: 1, at_once: 1, logins_s: 50 }
    }
}

/// A CCB or an AgentProxy as the CDM's leader sees it when it thinks of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub slot: SlotId,
    /// Where it is.
    pub blade: BladeName,
    /// How it does.
    pub status: CcbStatus,
    /// Logins that it has or is granted; of an AgentProxy those of the last second.
    pub load: u32,
    /// Logins that it has room for; of an AgentProxy those that it is good for in a second.
    pub capacity: u32,
    /// How its slot does, when it is in the pool.
    pub state: Option<SlotState>,
}

impl Seen {
    fn is_normal(&self) -> bool {
        self.status == CcbStatus::Normal
    }

    fn moves(&self) -> bool {
        use SlotState::{Draining, Starting, Stopping};
        matches!(self.state, Some(Starting | Draining | Stopping))
    }
}

/// What the CDM wants of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That slot is to be taken into use.
    Apply(SlotId),
    /// That slot is to be given back.
    Release(SlotId),
}

impl Wish {
    /// The slot that it is about.
    pub fn slot(self) -> SlotId {
        match self {
            Wish::Apply(slot) | Wish::Release(slot) => slot,
        }
    }
}

/// Watches the load of one kind of slot and asks for more or gives one back, with hysteresis: the marks lie apart,
/// each must be passed for a while, and no more than so many slots are on their way at a time.
#[derive(Clone, Debug, Default)]
pub struct Scaler {
    high_since: Option<Instant>,
    low_since: Option<Instant>,
    /// Our orders that no report shows yet: when, the state before, and the one that comes of it.
    ordered: BTreeMap<SlotId, (Instant, SlotState, SlotState)>,
    /// When we last took a slot into use.
    tried: BTreeMap<SlotId, Instant>,
}

impl Scaler {
    /// Looks at all of one kind at all blades; call it about once a second.
    pub fn look(&mut self, now: Instant, marks: &Marks, mut seen: Vec<Seen>) -> Option<Wish> {
        self.overlay(now, &mut seen);
        let normal = || seen.iter().filter(|seen| seen.is_normal());
        let (load, capacity) = normal().fold((0_u64, 0_u64), |(load, capacity), seen| {
            (load + u64::from(seen.load), capacity + u64::from(seen.capacity))
        });
        let count = normal().count();
        let starting = seen.iter().filter(|seen| seen.state == Some(SlotState::Starting)).count();
        // What starts will have as much room as those that run have on the average.
        let coming = (capacity * starting as u64).checked_div(count as u64).unwrap_or(0);
        let share = |load: u64, capacity: u64| match capacity {
            0 => 1.0,
            _ => load as f64 / capacity as f64,
        };
        let is_high =
            share(load, capacity + coming) > marks.high || count + starting < marks.least as usize;
        let is_low = share(load, capacity) < marks.low && count > marks.least.max(1) as usize;
        let hold = Duration::from_secs(marks.hold_s.into());
        let since = |held: &mut Option<Instant>, is: bool| {
            *held = if is { held.or(Some(now)) } else { None };
            held.is_some_and(|from| now.since(from) >= hold)
        };
        let grow = since(&mut self.high_since, is_high);
        let shrink = since(&mut self.low_since, is_low);
        let moving = seen.iter().filter(|seen| seen.moves()).count();
        let wish = match (grow, shrink) {
            (true, _) => self.more(now, &seen, moving < marks.at_once as usize)?,
            (false, true) if moving == 0 => fewer(&seen, marks, (load, capacity))?,
            _ => return None,
        };
        self.note(now, wish, &seen);
        Some(wish)
    }

    /// An order of ours was refused.
    pub fn refused(&mut self, slot: SlotId) {
        self.ordered.remove(&slot);
    }

    /// Shows our orders as done that are not reported yet.
    fn overlay(&mut self, now: Instant, seen: &mut [Seen]) {
        self.tried.retain(|_, at| now < *at + TRIED);
        self.ordered.retain(|slot, (at, was, becomes)| {
            let Some(one) = seen.iter_mut().find(|seen| seen.slot == *slot) else { return false };
            let is_open = one.state == Some(*was) && now < *at + UNREPORTED;
            if is_open {
                one.state = Some(*becomes);
                one.status = match becomes {
                    SlotState::Running => CcbStatus::Normal,
                    SlotState::Draining => CcbStatus::Draining,
                    _ => one.status,
                };
            }
            is_open
        });
    }

    /// What is to be taken into use: what still drains, for that is quick and brings nobody anything new to stop;
    /// else, unless enough slots are on their way, a free one of the blade with the fewest that run.
    fn more(&self, now: Instant, seen: &[Seen], may_start: bool) -> Option<Wish> {
        let draining = seen.iter().find(|seen| seen.state == Some(SlotState::Draining));
        if let Some(draining) = draining {
            return Some(Wish::Apply(draining.slot));
        }
        let mut running = BTreeMap::<&BladeName, usize>::new();
        for one in seen.iter().filter(|one| one.is_normal() || one.moves()) {
            *running.entry(&one.blade).or_default() += 1;
        }
        let free = seen.iter().filter(|one| one.state == Some(SlotState::Free) && may_start);
        let rank = |one: &&Seen| {
            let is_tried = self.tried.get(&one.slot).is_some_and(|at| now < *at + TRIED);
            (is_tried, running.get(&one.blade).copied().unwrap_or(0), one.slot)
        };
        free.min_by_key(rank).map(|free| Wish::Apply(free.slot))
    }

    fn note(&mut self, now: Instant, wish: Wish, seen: &[Seen]) {
        let slot = wish.slot();
        let Some(was) = seen.iter().find(|seen| seen.slot == slot).and_then(|seen| seen.state)
        else {
            return;
        };
        let becomes = match (wish, was) {
            (Wish::Release(_), _) => SlotState::Draining,
            (Wish::Apply(_), SlotState::Draining) => SlotState::Running,
            (Wish::Apply(_), _) => SlotState::Starting,
        };
        self.ordered.insert(slot, (now, was, becomes));
        match wish {
            Wish::Apply(_) => {
                self.high_since = None;
                self.tried.insert(slot, now);
            }
            Wish::Release(_) => self.low_since = None,
        }
    }
}

/// What is to be given back: the one with the fewest logins, if the others can take them.
fn fewer(seen: &[Seen], marks: &Marks, (load, capacity): (u64, u64)) -> Option<Wish> {
    let of_pool =
        seen.iter().filter(|seen| seen.is_normal() && seen.state == Some(SlotState::Running));
    let least = of_pool.min_by_key(|seen| (seen.load, Reverse(seen.slot)))?;
    // Whose agents have to go somewhere; logins at an AgentProxy simply go to the next one.
    let rest = capacity - u64::from(least.capacity);
    let fits = rest > 0 && (load as f64) < marks.high * rest as f64;
    fits.then_some(Wish::Release(least.slot))
}

/// The marks for AgentProxies: the control processes of blades serve logins, too, so none of them must run.
pub(crate) fn marks_of(kind: SlotKind, marks: &Marks) -> Marks {
    match kind {
        SlotKind::Ccb => *marks,
        SlotKind::AgentProxy => Marks { least: 0, ..*marks },
    }
}
