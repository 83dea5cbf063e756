//! The calls of one CCB as its tables tell them. An event only says which row to read again, so a
//! missed event does no harm that the next look at the tables does not mend.

use std::collections::BTreeMap;

use abi::{CallRow, CallState, LegRow, LegState, Region};
use base::{CallRef, WorkerId};

/// The mirror.
#[derive(Debug, Default)]
pub struct Calls {
    calls: BTreeMap<u32, Call>,
}

/// A call and its legs as they were last read.
#[derive(Clone)]
pub struct Call {
    /// Which call.
    pub call: CallRef,
    /// Its row.
    pub row: CallRow,
    /// The places and rows of its legs, in order of their numbers.
    pub legs: Vec<(u32, LegRow)>,
    /// True when its record was given out and is not acknowledged yet.
    pub recording: bool,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("call", &self.call)
            .field("state", &self.row.state())
            .field("legs", &self.legs.len())
            .finish_non_exhaustive()
    }
}

/// A call that is not as it was.
#[derive(Clone, Debug)]
pub struct Changed {
    /// How far it was; `None` when it was not known.
    pub before: Option<CallState>,
    /// Its legs as they were.
    pub legs_before: Vec<LegRow>,
    /// The call now; one that vanished is shown as [`CallState::Ended`].
    pub call: Call,
}

impl Calls {
    /// All calls in order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Call> {
        self.calls.values()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.calls.len()
    }

    /// That call, when it is still known.
    pub fn find(&self, call: CallRef) -> Option<&Call> {
        self.calls.get(&call.slot).filter(|known| known.call == call)
    }

    /// Marks that the call's record was given out.
    pub fn set_recording(&mut self, call: CallRef) {
        if let Some(known) = self.calls.get_mut(&call.slot).filter(|known| known.call == call) {
            known.recording = true;
        }
    }

    /// Forgets a call whose record is acknowledged.
    pub fn remove(&mut self, call: CallRef) {
        if self.find(call).is_some() {
            self.calls.remove(&call.slot);
        }
    }

    /// Reads one row again; what changed is added to `changed`.
    pub fn refresh(&mut self, region: &Region, slot: u32, changed: &mut Vec<Changed>) {
        let Some(row) = region.calls().read(slot) else {
            return;
        };
        let call = CallRef { slot, generation: row.generation };
        let known = self.calls.get(&slot);
        let is_free = row.state() == CallState::Free;
        if let Some(old) = known
            && (is_free || old.call != call)
        {
            let old = self.calls.remove(&slot).expect("it was just there");
            changed.extend(vanished(old));
        }
        // What is acknowledged was recorded and waits for its worker to take the row back.
        if is_free || region.calls().is_acknowledged(call) {
            self.calls.remove(&slot);
            return;
        }
        let known = self.calls.get(&slot);
        let before = known.map(|known| known.row.state());
        if before == Some(CallState::Ended) {
            return;
        }
        let mut legs = legs_of(region, &row, call, known);
        if let Some(known) = known {
            let gone =
                known.legs.iter().filter(|(place, _)| legs.iter().all(|leg| leg.0 != *place));
            let gone: Vec<_> = gone.copied().collect();
            legs.extend(gone);
        }
        legs.sort_by_key(|(_, leg)| leg.leg);
        let states = |legs: &[(u32, LegRow)]| -> Vec<LegState> {
            legs.iter().map(|(_, leg)| leg.state()).collect()
        };
        let is_same = known.is_some_and(|known| states(&known.legs) == states(&legs));
        let legs_before =
            known.map_or(Vec::new(), |known| known.legs.iter().map(|l| l.1).collect());
        let now = Call { call, row, legs, recording: false };
        if before != Some(row.state()) || !is_same {
            changed.push(Changed { before, legs_before, call: now.clone() });
        }
        self.calls.insert(slot, now);
    }

    /// Reads every row: after an attach, or when events were missed.
    pub fn resync(&mut self, region: &Region, changed: &mut Vec<Changed>) {
        for slot in 0..region.calls().len() {
            self.refresh(region, slot, changed);
        }
    }

    /// Reads again what an earlier incarnation of the data plane left unfinished.
    pub fn refresh_stale(&mut self, region: &Region, current: u64, changed: &mut Vec<Changed>) {
        let stale: Vec<u32> = self
            .calls
            .values()
            .filter(|call| call.row.incarnation != current && !call.recording)
            .map(|call| call.call.slot)
            .collect();
        for slot in stale {
            self.refresh(region, slot, changed);
        }
    }

    /// Forgets all: the region is another one.
    pub fn clear(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.calls).into_values().filter_map(vanished).collect()
    }
}

/// The end of a call whose row went without anybody seeing it end.
fn vanished(mut call: Call) -> Option<Changed> {
    let before = call.row.state();
    if before == CallState::Ended {
        return None;
    }
    call.row.state = CallState::Ended.into();
    let legs_before = call.legs.iter().map(|(_, leg)| *leg).collect();
    Some(Changed { before: Some(before), legs_before, call })
}

/// The legs of a call: where they were before, else in the share of the legs' table that lies as the
/// call lies in its own, else anywhere among its worker's.
fn legs_of(
    region: &Region,
    row: &CallRow,
    call: CallRef,
    known: Option<&Call>,
) -> Vec<(u32, LegRow)> {
    let table = region.legs();
    let is_ours = |leg: &LegRow| leg.state() != LegState::Free && leg.call() == call;
    let read = |place: u32| table.read(place).filter(is_ours).map(|leg| (place, leg));
    let wanted = row.legs as usize;
    if let Some(known) = known.filter(|known| known.legs.len() >= wanted) {
        return known.legs.iter().filter_map(|(place, _)| read(*place)).collect();
    }
    let owner = region.calls().owner(call.slot).unwrap_or(WorkerId(0));
    let (calls, legs) = (region.calls().range(owner), table.range(owner));
    let each = (legs.len() / calls.len().max(1)) as u32;
    let start = legs.start + call.slot.saturating_sub(calls.start) * each;
    let found: Vec<_> = (start..start + each).filter_map(read).collect();
    if found.len() >= wanted {
        return found;
    }
    legs.filter_map(read).take(wanted).collect()
}
