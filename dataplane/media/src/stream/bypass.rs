//! What the bypass is told of a stream, and what it tells.

use std::net::SocketAddr;
use std::time::Duration;

use base::Instant;

use super::row::{LOCKED, NO_EVENTS, OCCUPIED, OPEN, SECURE, SENDABLE, SPLICED, TAPPED, units};
use super::{NANOS_PER_UNIT, Streams};
use crate::{Endpoint, FlowSpec, FlowStats, PairId, WhyNot};

impl Streams {
    /// What a relay past the process has to know of the way from the pair's peer to the one it is joined
    /// to: packets come to `local`, leave from `from`. Their DSCP is 0 here; it is the caller's to set.
    /// Both sources have to be locked, and nothing may want the payload or make packets.
    pub fn flow(
        &self,
        pair: PairId,
        local: SocketAddr,
        from: SocketAddr,
    ) -> Result<FlowSpec, WhyNot> {
        let row = self.hot.get(pair.index()).filter(|row| row.has(OPEN)).ok_or(WhyNot::NoPeer)?;
        let other = self.hot.get(row.peer as usize).ok_or(WhyNot::NoPeer)?;
        if row.has(SECURE) || other.has(SECURE) {
            return Err(WhyNot::Srtp);
        }
        if !row.has(LOCKED) || !other.has(LOCKED) {
            return Err(WhyNot::Learning);
        }
        if !other.has(SENDABLE) {
            return Err(WhyNot::NoPeer);
        }
        if other.has(OCCUPIED) {
            return Err(WhyNot::Prompt);
        }
        if row.has(TAPPED) {
            return Err(WhyNot::Recording);
        }
        let splice = match self.mapping(pair.index(), row.peer as usize) {
            Some(mapping) => Some(mapping.splice),
            // The next packet makes one.
            None if other.has(SPLICED) => return Err(WhyNot::Learning),
            None => None,
        };
        Ok(FlowSpec {
            local,
            source: row.remote().addr(),
            ssrc: row.ssrc,
            newest: row.newest,
            transit: row.transit,
            jitter: row.jitter,
            from,
            to: other.remote().addr(),
            splice,
            telephone_event: (row.event_type != NO_EVENTS).then_some(row.event_type),
            dscp: 0,
        })
    }

    /// Tells that the pair's packets are relayed past the process from now on, and counted from zero there,
    /// or that they are not any more.
    pub fn bypassed(&mut self, pair: PairId, on: bool) {
        if self.is_open(pair) {
            let cold = &mut self.cold[pair.index()];
            cold.bypassed = on;
            cold.absorbed = FlowStats::default();
        }
    }

    /// Takes what the bypass has counted since [`Streams::bypassed`]; as often as there is news, and before a
    /// packet of such a stream is judged that came to the process all the same.
    pub fn absorb(&mut self, pair: PairId, stats: FlowStats) {
        if !self.is_open(pair) {
            return;
        }
        let (index, cold) = (pair.index(), &mut self.cold[pair.index()]);
        // A row that was taken out counts from zero again; its last counts were told.
        if !cold.bypassed || stats.packets < cold.absorbed.packets {
            return;
        }
        let before = std::mem::replace(&mut cold.absorbed, stats);
        cold.foreign += stats.foreign.saturating_sub(before.foreign);
        let packets = stats.packets.saturating_sub(before.packets);
        if packets == 0 {
            return;
        }
        // Another synchronization source at the locked address waits until the locked one is silent.
        cold.heard_past = true;
        self.count_received(index, packets, stats.bytes.saturating_sub(before.bytes));
        let row = &mut self.hot[index];
        row.jitter = stats.jitter;
        // A packet of before may have been relayed here meanwhile.
        if stats.newest.wrapping_sub(row.newest).cast_signed() >= 0 {
            row.newest = stats.newest;
            row.transit = stats.transit;
            // When it came, if it was under way as long as the last one that the clock was read for.
            row.arrival = arrival(row.arrival, stats.transit.wrapping_add(stats.timestamp));
        }
        self.note_relayed(index, packets);
    }

    /// The bypass dropped packets of somebody else, as is told like those that are dropped here. True when
    /// it is who was signalled: here it would have taken the lock.
    pub fn dropped_past(&mut self, now: Instant, pair: PairId, from: SocketAddr) -> bool {
        if !self.is_open(pair) {
            return false;
        }
        let from = Endpoint::new(from);
        self.tell_foreign(now, pair.index(), from);
        self.cold[pair.index()].latch.signalled() == from
    }

    /// How often the stream's source began anew: another one, or the same with other numbers.
    pub fn starts(&self, pair: PairId) -> u32 {
        self.cold.get(pair.index()).map_or(0, |cold| cold.starts)
    }

    /// Takes packets that were relayed past the process into what the one heard who is joined.
    fn note_relayed(&mut self, index: usize, packets: u64) {
        let row = &self.hot[index];
        let (peer, newest, timestamp, at) = (row.peer, row.newest, row.timestamp(), row.arrival);
        if self.hot.get(peer as usize).is_none() {
            return;
        }
        self.count_sent(peer, packets);
        if let Some(mapping) = self.mapping(index, peer as usize)
            && let sender = &mut self.cold[peer as usize].sender
            && let Some(last) = &mut sender.last
        {
            let sequence = (newest as u16).wrapping_add(mapping.splice.sequence);
            if sequence.wrapping_sub(last.sequence).cast_signed() > 0 {
                last.sequence = sequence;
                last.timestamp = timestamp.wrapping_add(mapping.splice.timestamp);
                last.at = at;
                sender.goes_on = false;
            }
        }
    }
}

/// The instant nearest to `known` whose timestamp units are `wanted`.
fn arrival(known: Instant, wanted: u32) -> Instant {
    let ahead = i64::from(wanted.wrapping_sub(units(known)).cast_signed());
    let step = Duration::from_nanos(ahead.unsigned_abs() * NANOS_PER_UNIT);
    if ahead < 0 { known - step } else { known + step }
}
