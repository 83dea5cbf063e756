//! The calls of one worker and the slots that name them.

use std::collections::VecDeque;

use base::CallRef;

use crate::call::{Call, Leg, LegRef};

/// Slots of a region stay below this, so that a leg's name fits a word.
pub const MAX_SLOTS: u32 = 1 << 24;

/// How many ended calls are looked at for one whose record control has taken.
const LOOK_AHEAD: usize = 16;

/// The calls of one worker: a share of the region's slots.
#[derive(Debug)]
pub struct Calls {
    first: u32,
    live: Vec<Option<Box<Call>>>,
    generations: Vec<u32>,
    /// Slots without a living call that had one, the longest idle first.
    idle: VecDeque<u32>,
    /// Slots that never had a call, the next one last; the memory of their rows is not touched.
    fresh: Vec<u32>,
    count: usize,
    /// Where [`Calls::next_few`] goes on.
    cursor: usize,
    /// Who may have changed since [`Calls::take_touched`].
    touched: Vec<CallRef>,
}

/// Where a new call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The new call's name.
    pub call: CallRef,
    /// True when an ended call's record had to make room before control took it.
    pub evicted: bool,
}

impl Calls {
    /// The share `first..first + generations.len()`; each slot was last used with its generation.
    pub fn new(first: u32, generations: Vec<u32>) -> Calls {
        let slots = generations.len() as u32;
        assert!(u64::from(first) + u64::from(slots) <= u64::from(MAX_SLOTS), "slots fit a word");
        let is_fresh = |slot: &u32| generations[(*slot - first) as usize] == 0;
        let (mut fresh, idle): (Vec<u32>, Vec<u32>) = (first..first + slots).partition(is_fresh);
        fresh.reverse();
        Calls {
            first,
            live: generations.iter().map(|_| None).collect(),
            idle: idle.into(),
            fresh,
            generations,
            count: 0,
            cursor: 0,
            touched: Vec::new(),
        }
    }

    /// Puts in the calls that an earlier incarnation had, in their own slots.
    pub fn restore(&mut self, calls: Vec<Call>) {
        for call in calls {
            self.insert(call);
        }
        let (first, live) = (self.first, &self.live);
        self.idle.retain(|slot| live[(slot - first) as usize].is_none());
        self.fresh.retain(|slot| live[(slot - first) as usize].is_none());
    }

    /// The calls that were put in, removed, or lent out to be changed since the last time, in the order of
    /// their slots. Give the vector back by [`Calls::give_back_touched`].
    pub fn take_touched(&mut self) -> Vec<CallRef> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Takes the emptied vector back, for its room.
    pub fn give_back_touched(&mut self, touched: Vec<CallRef>) {
        debug_assert!(touched.is_empty() && self.touched.is_empty());
        self.touched = touched;
    }

    fn touch(&mut self, call: CallRef) {
        if self.touched.last() != Some(&call) {
            self.touched.push(call);
        }
    }

    /// How many calls live.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Picks a slot whose last call's record `taken` says is no longer needed, when one of the longest idle
    /// is, so that rows are as many as were needed at a time; else one that never had a call, and when
    /// there is none, the longest idle of all gives way. None when every slot has a living call.
    pub fn take_place(&mut self, taken: impl Fn(CallRef) -> bool) -> Option<Place> {
        let is_free = |slot: &u32| {
            let generation = self.generations[(*slot - self.first) as usize];
            taken(CallRef { slot: *slot, generation })
        };
        let found = self.idle.iter().take(LOOK_AHEAD).position(is_free);
        let known = found.and_then(|place| self.idle.remove(place));
        let clean = known.or_else(|| self.fresh.pop());
        let evicted = clean.is_none();
        let slot = clean.or_else(|| self.idle.pop_front())?;
        let index = (slot - self.first) as usize;
        // Generation 0 means never used, so it is left out when the count wraps.
        self.generations[index] = self.generations[index].checked_add(1).unwrap_or(1);
        let call = CallRef { slot, generation: self.generations[index] };
        Some(Place { call, evicted })
    }

    /// Puts a call into the place that was taken for it.
    pub fn insert(&mut self, call: Call) {
        let index = (call.id.slot - self.first) as usize;
        assert!(self.live[index].is_none(), "the place was taken for this call");
        self.touch(call.id);
        self.live[index] = Some(Box::new(call));
        self.count += 1;
    }

    /// The living call of that name.
    pub fn find(&self, call: CallRef) -> Option<&Call> {
        let index = call.slot.checked_sub(self.first)? as usize;
        self.live.get(index)?.as_deref().filter(|live| live.id == call)
    }

    /// The living call of that name.
    pub fn find_mut(&mut self, call: CallRef) -> Option<&mut Call> {
        self.touch(call);
        self.find_unchanged(call)
    }

    fn find_unchanged(&mut self, call: CallRef) -> Option<&mut Call> {
        let index = call.slot.checked_sub(self.first)? as usize;
        self.live.get_mut(index)?.as_deref_mut().filter(|live| live.id == call)
    }

    /// A leg of a living call.
    pub fn leg(&self, leg: LegRef) -> Option<&Leg> {
        self.find(leg.call)?.leg(leg.leg)
    }

    /// A leg of a living call.
    pub fn leg_mut(&mut self, leg: LegRef) -> Option<&mut Leg> {
        self.find_mut(leg.call)?.leg_mut(leg.leg)
    }

    /// A leg of a living call, for changes that a next incarnation need not know.
    pub fn leg_unchanged(&mut self, leg: LegRef) -> Option<&mut Leg> {
        self.find_unchanged(leg.call)?.leg_mut(leg.leg)
    }

    /// Ends the life of a call; its slot rests until those that ended before have been used.
    pub fn remove(&mut self, call: CallRef) -> Option<Box<Call>> {
        let index = call.slot.checked_sub(self.first)? as usize;
        let place = self.live.get_mut(index)?;
        if place.as_ref()?.id != call {
            return None;
        }
        self.idle.push_back(call.slot);
        self.count -= 1;
        let removed = place.take();
        self.touch(call);
        removed
    }

    /// The living calls in the next of `turns` parts of the slots; after so many calls all had theirs.
    pub fn next_few(&mut self, turns: usize) -> impl Iterator<Item = &Call> {
        let start = if self.cursor < self.live.len() { self.cursor } else { 0 };
        let end = (start + self.live.len().div_ceil(turns)).min(self.live.len());
        self.cursor = end;
        self.live[start..end].iter().filter_map(|call| call.as_deref())
    }

    /// The living calls in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Call> {
        self.live.iter().filter_map(|call| call.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::CallState;
    use base::{Instant, TenantId};

    fn call(id: CallRef) -> Call {
        Call {
            id,
            serial: 1,
            tenant: TenantId(1),
            state: CallState::Calling,
            cause: 0,
            started_at: Instant::ZERO,
            answered_at: Instant::ZERO,
            ended_at: Instant::ZERO,
            ended_by: Default::default(),
            legs: Vec::new(),
            bridges: Vec::new(),
            asked: None,
            called: Default::default(),
            transfer: None,
            forwards: 0,
            hunt: None,
            failing: None,
            diverted: None,
            dialling: None,
            summons: None,
            reasons: Vec::new(),
            sips: false,
        }
    }

    #[test]
    fn a_record_waits_for_control_while_there_is_room() {
        let mut calls = Calls::new(10, vec![0, 0]);
        let first = calls.take_place(|_| false).expect("room").call;
        calls.insert(call(first));
        calls.remove(first).expect("it lives");
        let second = calls.take_place(|_| false).expect("room");
        assert_eq!((second.call.slot, second.evicted), (11, false));
        calls.insert(call(second.call));
        let third = calls.take_place(|_| false).expect("room");
        assert!(third.evicted, "the first call's record had to give way");
        assert_eq!(third.call, CallRef { slot: 10, generation: 2 });
        assert_eq!(calls.take_place(|_| true), None, "every slot has a call");
        assert!(calls.find(first).is_none(), "a name dies with its generation");
    }

    #[test]
    fn slots_are_as_many_as_were_needed_at_a_time() {
        // The first two had calls of an earlier incarnation.
        let mut calls = Calls::new(0, vec![3, 3, 0, 0, 0]);
        let next = |calls: &mut Calls, taken| calls.take_place(|_| taken).expect("room").call;
        assert_eq!(next(&mut calls, false), CallRef { slot: 2, generation: 1 }, "a fresh one");
        for round in 0..100 {
            let (one, other) = (next(&mut calls, true), next(&mut calls, true));
            assert_eq!([one.slot, other.slot], [0, 1], "in round {round}");
            for id in [one, other] {
                calls.insert(call(id));
            }
            for id in [one, other] {
                calls.remove(id).expect("it lives");
            }
        }
    }

    #[test]
    fn a_taken_record_is_reused_first() {
        let mut calls = Calls::new(0, vec![0; 3]);
        for _ in 0..3 {
            let place = calls.take_place(|_| false).expect("room");
            calls.insert(call(place.call));
            calls.remove(place.call);
        }
        let place = calls.take_place(|old| old.slot == 1).expect("room");
        assert_eq!((place.call.slot, place.evicted), (1, false));
    }
}
