//! What a peer hears is one sender to it, whoever's packets they are (RFC 3550, 5.1 and 7.1): one SSRC,
//! sequence numbers and timestamps that go on.
//!
//! Nothing is touched until the first packet is made here. From then on, and for the rest of the call,
//! packets that are relayed to the peer take the sender's SSRC and are shifted by a [`Splice`], which is
//! made anew whenever the packets come from somewhere else than the last one's.

use std::net::SocketAddr;

use base::Instant;

use super::row::{Hot, NOBODY, OCCUPIED, OPEN, SENDABLE, SPLICED, units};
use super::{Relayed, Streams};
use crate::wire::RtpHeader;
use crate::{DropReason, Packet, PairId, SocketSlot, Splice, Verdict};

/// The step from a packet to one of another source, in timestamp units: 20 ms, which nearly all phones
/// send, so that the second does not overlap the first.
const FRAME_UNITS: u32 = 160;

/// How far the timestamps may run ahead of the time by such steps, in timestamp units: 60 ms, which
/// receivers buffer. Further steps are as short as the time that passed.
const MAX_LEAD_UNITS: u32 = 480;

/// The state of what goes to one peer; empty until there is a reason to keep it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sender {
    pub last: Option<Sent>,
    /// The timestamp of the last packet that was made here.
    pub made: Option<u32>,
    /// The last packet was made here.
    pub goes_on: bool,
    /// How far the timestamps ran ahead of the time.
    pub lead: u32,
    pub mapping: Option<Mapping>,
    /// How many packets the peer had been sent when it was joined to its present source.
    pub sent_before: u64,
}

/// The newest packet that went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub at: Instant,
}

/// How packets of one source are shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The source's row; [`NOBODY`] for the next that is joined.
    pub pair: u32,
    /// Which of the source's starts.
    pub starts: u32,
    /// The source's first sequence number that goes out shifted, with its wraps.
    pub first: u32,
    pub splice: Splice,
}

impl Sender {
    /// The timestamp of a packet that does not go on from the last one.
    fn step(&mut self, now: Instant, last: Sent) -> u32 {
        let elapsed = units(now).wrapping_sub(units(last.at));
        let step = if elapsed >= FRAME_UNITS {
            elapsed - self.lead.min(elapsed - FRAME_UNITS)
        } else if self.lead + FRAME_UNITS - elapsed <= MAX_LEAD_UNITS {
            FRAME_UNITS
        } else {
            elapsed.max(1)
        };
        self.lead = (self.lead + step).saturating_sub(elapsed);
        last.timestamp.wrapping_add(step)
    }

    fn mapping_of(&self, pair: u32, starts: u32) -> Option<Mapping> {
        self.mapping.filter(|mapping| (mapping.pair, mapping.starts) == (pair, starts))
    }
}

impl Streams {
    /// Takes the way to the pair's peer for packets that are made here, or gives it back: what the stream
    /// that it is joined to would relay is not sent. That gets [`Verdict::Consume`] when it is tapped, else
    /// it is dropped as [`DropReason::RtpSuperseded`].
    pub fn occupy(&mut self, pair: PairId, on: bool) {
        if self.is_open(pair) && self.hot[pair.index()].has(OCCUPIED) != on {
            self.remember_sent(pair);
            self.hot[pair.index()].set(OCCUPIED, on);
            self.note_join(pair);
        }
    }

    /// A packet of ours to the pair's peer: the socket to send it from, where to, and its bytes. `advance`
    /// is in timestamp units since the last packet that was made (0 for further packets of one
    /// telephone-event). Where relayed packets came between, time decides. None when nobody can be sent to.
    pub fn make(
        &mut self,
        now: Instant,
        pair: PairId,
        payload_type: u8,
        marker: bool,
        advance: u32,
        payload: &[u8],
    ) -> Option<(SocketSlot, SocketAddr, Box<[u8]>)> {
        let remote = self.hot.get(pair.index()).filter(|row| row.has(OPEN | SENDABLE))?.remote();
        self.splice(now, pair);
        let sender = &mut self.cold[pair.index()].sender;
        let last = sender.last?;
        let timestamp = match sender.made {
            Some(made) if sender.goes_on || advance == 0 => made.wrapping_add(advance),
            _ => sender.step(now, last),
        };
        let sequence = last.sequence.wrapping_add(1);
        let newest = if timestamp.wrapping_sub(last.timestamp).cast_signed() > 0 {
            timestamp
        } else {
            last.timestamp
        };
        // The time belongs to the timestamp: that of a telephone-event is of its beginning.
        let at = if advance == 0 && sender.made.is_some() { last.at } else { now };
        sender.last = Some(Sent { sequence, timestamp: newest, at, ..last });
        (sender.made, sender.goes_on, sender.mapping) = (Some(timestamp), true, None);
        self.count_sent(pair.0, 1);
        let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc: last.ssrc };
        let mut bytes = Vec::with_capacity(RtpHeader::LEN + payload.len());
        bytes.extend(header.bytes());
        bytes.extend(payload);
        Some((pair.rtp(), remote.addr(), bytes.into_boxed_slice()))
    }

    /// A number that makes synchronization sources differ from those of other processes (RFC 3550, 8.1).
    pub fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// From now on what goes to the pair's peer is one sender's, whoever's packets they are: call it before the
    /// pair is joined to another.
    pub fn splice(&mut self, now: Instant, pair: PairId) {
        if self.hot.get(pair.index()).is_none_or(|row| row.has(SPLICED)) {
            return;
        }
        self.remember_sent(pair);
        let random = self.random(now, pair);
        self.cold[pair.index()].sender.last.get_or_insert(Sent {
            ssrc: (random >> 32) as u32,
            sequence: (random >> 16) as u16 & 0x7fff,
            timestamp: random as u32,
            at: now,
        });
        self.hot[pair.index()].set(SPLICED, true);
    }

    /// SplitMix64 of the seed, the time and the pair: enough for numbers that have only to differ.
    fn random(&self, now: Instant, pair: PairId) -> u64 {
        let mut mixed = (self.seed ^ now.as_nanos() ^ (u64::from(pair.0) << 48))
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Keeps what the pair's peer was sent last, while it can still be told from the row of the source.
    pub(super) fn remember_sent(&mut self, pair: PairId) {
        self.cold[pair.index()].sender.last = self.last_sent(pair);
    }

    /// What the pair's peer was sent last.
    pub(super) fn last_sent(&self, pair: PairId) -> Option<Sent> {
        let (row, sender) = (self.row(pair.index()), &self.cold[pair.index()].sender);
        let is_relayed =
            row.hot.flags & (SPLICED | OCCUPIED) == 0 && row.sent() != sender.sent_before;
        match self.hot.get(row.hot.peer as usize) {
            Some(source) if is_relayed => Some(sent_by(source)),
            _ => sender.last,
        }
    }

    /// The pair's peer hears its present source from here on.
    pub(super) fn note_join(&mut self, pair: PairId) {
        let sent = self.row(pair.index()).sent();
        let peer = self.hot[pair.index()].peer;
        let sender = &mut self.cold[pair.index()].sender;
        sender.sent_before = sent;
        if let Some(mapping) = &mut sender.mapping
            && mapping.pair == NOBODY
        {
            mapping.pair = peer;
        }
    }

    /// Relays a packet of the row `from` to the peer of the row `to`, which is not simply sent to.
    #[cold]
    pub(super) fn relay_otherwise(
        &mut self,
        now: Instant,
        from: usize,
        to: u32,
        relayed: Relayed,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let other = &self.hot[to as usize];
        if !other.has(SENDABLE) {
            return self.unsent(from, DropReason::RtpNoPeer);
        }
        if other.has(OCCUPIED) {
            return self.unsent(from, DropReason::RtpSuperseded);
        }
        let remote = other.remote();
        let extended = self.hot[from].extended(relayed.sequence);
        let starts = self.cold[from].starts;
        let sender = &mut self.cold[to as usize].sender;
        let Some(last) = sender.last else {
            return self.unsent(from, DropReason::RtpNoPeer);
        };
        let mapping = sender.mapping_of(from as u32, starts).unwrap_or_else(|| {
            let splice = Splice {
                ssrc: last.ssrc,
                sequence: last.sequence.wrapping_add(1).wrapping_sub(relayed.sequence),
                timestamp: sender.step(now, last).wrapping_sub(relayed.timestamp),
            };
            Mapping { pair: from as u32, starts, first: extended, splice }
        });
        sender.mapping = Some(mapping);
        if extended.wrapping_sub(mapping.first).cast_signed() < 0 {
            // Its number went to a packet of somebody else.
            return self.unsent(from, DropReason::RtpSuperseded);
        }
        let sequence = relayed.sequence.wrapping_add(mapping.splice.sequence);
        let timestamp = relayed.timestamp.wrapping_add(mapping.splice.timestamp);
        if sequence.wrapping_sub(last.sequence).cast_signed() > 0 {
            sender.last = Some(Sent { sequence, timestamp, at: now, ..last });
            sender.goes_on = false;
        }
        let header = packet.bytes_mut();
        header[2..4].copy_from_slice(&sequence.to_be_bytes());
        header[4..8].copy_from_slice(&timestamp.to_be_bytes());
        header[8..12].copy_from_slice(&last.ssrc.to_be_bytes());
        self.count_sent(to, 1);
        Verdict::Send { socket: PairId(to).rtp(), to: remote.addr() }
    }

    /// The shift of what the row `from` sends to the peer of the row `to`, where there is one now.
    pub(super) fn mapping(&self, from: usize, to: usize) -> Option<Mapping> {
        self.cold[to].sender.mapping_of(from as u32, self.cold[from].starts)
    }
}

/// The newest packet of a source, relayed as it came.
fn sent_by(source: &Hot) -> Sent {
    Sent {
        ssrc: source.ssrc,
        sequence: source.newest as u16,
        timestamp: source.timestamp(),
        at: source.arrival,
    }
}
