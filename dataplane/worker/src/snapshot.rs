//! What the region knows of calls: rows, written before a peer hears of a change, and events.

use std::collections::HashMap;

use abi::{
    CallRow, CallState, Counter, DialogRow, Event, KeyRow, LegRow, LegState, Region, StreamRow,
};
use base::{CallRef, Instant, Medium, WorkerId};

use crate::call::{Call, Leg, LegRef, Phase};
use crate::worker::{PUBLISH_TURNS, Worker};

/// The rows of legs: each call slot has those of its last call until it is used again.
#[derive(Debug)]
pub struct LegRows {
    /// The last one freed comes first: the memory of rows that were never used is not touched.
    idle: Vec<u32>,
    of_slot: HashMap<u32, Vec<u32>>,
}

impl LegRows {
    /// The share of `worker`.
    pub fn new(region: &Region, worker: WorkerId) -> LegRows {
        let mut rows = LegRows { idle: Vec::new(), of_slot: HashMap::new() };
        for place in region.legs().range(worker) {
            // Calls that ended with an earlier incarnation keep theirs until control has their records.
            match region.legs().read(place).filter(|row| row.state() != LegState::Free) {
                Some(row) => rows.of_slot.entry(row.call_slot).or_default().push(place),
                None => rows.idle.push(place),
            }
        }
        rows.idle.reverse();
        for places in rows.of_slot.values_mut() {
            places.sort_by_key(|place| region.legs().read(*place).map(|row| row.leg));
        }
        rows
    }

    /// The places of the slot's last call, in the order of its legs.
    pub fn places(&self, slot: u32) -> &[u32] {
        self.of_slot.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Nothing of the call is left at its peers.
    pub fn forget(&self, region: &Region, call: CallRef) {
        for place in self.places(call.slot) {
            if region.dialogs().read(*place).is_some_and(|row| row.call() == call) {
                region.dialogs().write(*place, &DialogRow::default());
                region.streams().write(*place, &StreamRow::default());
                if region.keys().read(*place).is_some_and(|row| row.flags != 0) {
                    region.keys().write(*place, &KeyRow::default());
                }
            }
        }
    }

    /// Empties the rows of the slot's last call.
    pub fn free(&mut self, region: &Region, slot: u32) {
        for row in self.of_slot.remove(&slot).unwrap_or_default() {
            region.legs().write(row, &LegRow::default());
            self.idle.push(row);
        }
    }

    /// The row of a call's leg; None when the table is full, and then the leg goes unrecorded.
    pub fn row(&mut self, leg: LegRef) -> Option<u32> {
        let rows = self.of_slot.entry(leg.call.slot).or_default();
        while rows.len() <= usize::from(leg.leg) {
            rows.push(self.idle.pop()?);
        }
        rows.get(usize::from(leg.leg)).copied()
    }
}

impl Worker {
    /// Writes a call and its legs, and tells control of its state.
    pub(crate) fn note_call(&mut self, call: CallRef) {
        let Some(entry) = self.calls.find(call) else {
            return;
        };
        let row = call_row(entry, self.incarnation);
        let legs = entry.legs.len();
        let changed = Event::CallChanged {
            call,
            serial: entry.serial,
            state: entry.state,
            cause: entry.cause,
        };
        for leg in 0..legs {
            self.note_leg(LegRef { call, leg: leg as u8 });
        }
        self.region.calls().write(call.slot, &row);
        self.tell(changed);
    }

    /// Writes a leg's row with what its stream has counted so far.
    pub(crate) fn note_leg(&mut self, leg: LegRef) {
        let Some(place) = self.leg_rows.row(leg) else {
            return self.count(Counter::LegsUnrecorded);
        };
        let Some(call) = self.calls.find(leg.call) else {
            return;
        };
        let Some(entry) = call.leg(leg.leg) else {
            return;
        };
        let mut row = leg_row(call, entry);
        match entry.pair {
            Some(pair) => {
                let stats = self.streams.stats(pair);
                row.rtp_port = u32::from(self.ports.port(pair));
                row.set_media(stats.locked);
                row.packets_in = stats.packets;
                row.packets_out = stats.sent;
                row.bytes_in = stats.bytes;
                row.lost = stats.lost;
                row.foreign = stats.foreign;
                let (path, reason) = self.path(pair);
                (row.path, row.path_reason) = (path.into(), reason.into());
                self.note_quality(pair, &mut row);
            }
            // Its stream is closed, and its last counts stand in the row.
            None => {
                if let Some(last) =
                    self.region.legs().read(place).filter(|last| last.call() == leg.call)
                {
                    row.rtp_port = last.rtp_port;
                    row.media = last.media;
                    row.packets_in = last.packets_in;
                    row.packets_out = last.packets_out;
                    row.bytes_in = last.bytes_in;
                    row.lost = last.lost;
                    row.foreign = last.foreign;
                    row.jitter_us = last.jitter_us;
                    row.round_trip_us = last.round_trip_us;
                    row.mos_hundredths = last.mos_hundredths;
                    row.reported_loss = last.reported_loss;
                    (row.path, row.path_reason) = (last.path, last.path_reason);
                }
            }
        }
        self.region.legs().write(place, &row);
    }

    /// Writes the counts of the next few standing calls, and asks silent ones whether they live. All of
    /// them have their turn in [`crate::worker::PUBLISH_TURNS`] of these, so that no packet waits for
    /// thousands of rows.
    pub(crate) fn publish_calls(&mut self, now: Instant) {
        let turn = self.calls.next_few(PUBLISH_TURNS).filter(|call| call.state != CallState::Ended);
        let turn: Vec<(LegRef, CallState)> = turn
            .flat_map(|call| {
                let leg_of = |leg: &Leg| (LegRef { call: call.id, leg: leg.number }, call.state);
                call.legs.iter().map(leg_of)
            })
            .collect();
        for (leg, state) in turn {
            if state != CallState::Answered {
                self.note_early_media(leg);
                continue;
            }
            if let Some(entry) = self.calls.leg_unchanged(leg) {
                entry.age_ack(now);
            }
            let stays = self.absorb_leg(now, leg);
            self.note_leg(leg);
            self.note_stream(leg);
            if stays {
                self.try_bypass(leg);
            }
            self.probe(now, leg);
            self.tend_session(now, leg);
        }
    }

    /// Writes the counts of a leg that has media before its call is answered.
    fn note_early_media(&mut self, leg: LegRef) {
        let Some(pair) = self.calls.leg_unchanged(leg).and_then(|leg| leg.pair) else { return };
        let stats = self.streams.stats(pair);
        if stats.packets > 0 || stats.sent > 0 {
            self.note_leg(leg);
        }
    }
}

fn call_row(call: &Call, incarnation: u64) -> CallRow {
    let mut row = CallRow {
        state: call.state.into(),
        generation: call.id.generation,
        serial: call.serial,
        tenant: call.tenant.0,
        cause: u32::from(call.cause),
        started_at: call.started_at.as_nanos(),
        answered_at: call.answered_at.as_nanos(),
        ended_at: call.ended_at.as_nanos(),
        incarnation,
        legs: call.legs.len() as u32,
        ended_by: call.ended_by.0.into(),
        ended_leg: u32::from(call.ended_by.1),
        mix: mix_of(call),
        guest: guest_of(call),
        ..CallRow::default()
    };
    row.set_called(call.called);
    row
}

/// The mix that a call is of.
fn mix_of(call: &Call) -> u32 {
    let of_leg = |leg: &Leg| leg.functions.as_ref()?.mixed;
    let summoned = call.summons.as_ref().map(|summons| summons.mix);
    summoned.or_else(|| call.legs.iter().find_map(of_leg)).unwrap_or(0)
}

/// What a call is in its mix, as [`CallRow::guest`] and [`CallRow::organiser`] read it.
fn guest_of(call: &Call) -> u32 {
    if let Some(summons) = &call.summons {
        return summons.guest as u32;
    }
    let organiser = call.legs.iter().find(|leg| leg.conferred == Some(true));
    organiser.map_or(0, |leg| CallRow::ORGANISES | u32::from(leg.number))
}

fn leg_row(call: &Call, leg: &Leg) -> LegRow {
    let state = match (leg.phase, call.state) {
        (Phase::Leaving | Phase::Gone, _) | (_, CallState::Ended) => LegState::Ended,
        (Phase::Established, _) => LegState::Answered,
        (Phase::Incoming | Phase::Outgoing, CallState::Ringing) => LegState::Ringing,
        (Phase::Outgoing, CallState::Answered) if leg.ext.rings => LegState::Ringing,
        (Phase::Incoming | Phase::Outgoing, _) => LegState::Calling,
    };
    let bridge =
        call.bridges.iter().position(|bridge| bridge.a == leg.number || bridge.b == leg.number);
    let mut row = LegRow {
        state: state.into(),
        leg: u32::from(leg.number),
        bridge: bridge.map_or(u32::MAX, |bridge| bridge as u32),
        medium: Medium::Voice as u32,
        location: u32::from(leg.flow.location.0),
        fence_counter: leg.lease.map_or(0, |lease| lease.counter),
        started_at: leg.times.started_at.as_nanos(),
        answered_at: leg.times.answered_at.as_nanos(),
        ended_at: leg.times.ended_at.as_nanos(),
        ..LegRow::default()
    };
    row.set_call(call.id);
    row.set_party(leg.party);
    row.set_number(leg.who);
    row.set_codec(leg.codec);
    row.set_call_id(&leg.call_id);
    row
}
