//! RTCP: relayed, read, and rewritten where the peer hears a spliced sender.

use std::net::SocketAddr;
use std::time::Duration;

use base::Instant;

use super::Streams;
use super::row::{MUXED, OPEN, SECURE, SPLICED};
use crate::quality::{self, Quality};
use crate::wire::{ReportBlock, Rtcp, Translation};
use crate::{DropReason, Endpoint, Packet, PairId, SocketSlot, Verdict};

/// How many sender reports are remembered to know a round trip by: reports cross each other.
const REMEMBERED: usize = 2;

/// The longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);

/// What RTCP told of the way between us and a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reports {
    /// The middle of the NTP timestamps of sender reports that the peer was sent, and when.
    sent: [Option<(u32, Instant)>; REMEMBERED],
    pub round_trip: Option<Duration>,
    /// The fraction that the peer lost of what it hears, in 256ths.
    pub loss: Option<u8>,
}

impl Reports {
    fn sent(&mut self, now: Instant, middle: u32) {
        self.sent.rotate_right(1);
        self.sent[0] = Some((middle, now));
    }

    /// RFC 3550, 6.4.1: the round trip is A less LSR less DLSR.
    fn heard(&mut self, now: Instant, block: &ReportBlock) {
        self.loss = Some(block.fraction_lost);
        let sent = self.sent.iter().flatten().find(|(middle, _)| *middle == block.last_report);
        if let Some((_, at)) = sent.filter(|_| block.last_report != 0) {
            let held = Duration::from_nanos(u64::from(block.delay) * 1_000_000_000 / 65_536);
            // What the peer rounds may exceed what the network took.
            let round_trip = now.since(*at).saturating_sub(held);
            if round_trip <= MAX_ROUND_TRIP {
                self.round_trip = Some(round_trip);
            }
        }
    }
}

impl Streams {
    /// How good the stream is, with what RTCP told where there is any. Loss is counted from the last call
    /// as well.
    pub fn quality(&mut self, pair: PairId) -> Quality {
        if !self.is_open(pair) {
            return Quality::default();
        }
        let counted = self.row(pair.index()).counted();
        let (row, cold) = (&self.hot[pair.index()], &mut self.cold[pair.index()]);
        let before = std::mem::replace(&mut cold.asked, counted);
        let jitter_us = (row.jitter >> 4).saturating_mul(125);
        let round_trip = cold.reports.round_trip;
        let loss = counted.loss();
        let delay = quality::mouth_to_ear(jitter_us, round_trip);
        let rating = quality::rating(delay, loss);
        Quality {
            jitter_us,
            loss,
            recent_loss: counted.since(before).loss(),
            round_trip_us: round_trip
                .map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX)),
            reported_loss: cold.reports.loss,
            mos_hundredths: if counted.packets == 0 { 0 } else { quality::mos_hundredths(rating) },
        }
    }

    pub(super) fn forward_rtcp(
        &mut self,
        now: Instant,
        index: usize,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        is_muxed: bool,
    ) -> Verdict {
        let Some(row) = self.hot.get(index).filter(|row| row.has(OPEN)) else {
            return Verdict::Drop(DropReason::RtpUnbound);
        };
        if row.has(SECURE)
            && let Err(reason) = self.open_rtcp(now, index, from, packet, is_muxed)
        {
            return Verdict::Drop(reason);
        }
        let row = &self.hot[index];
        let Ok(rtcp) = Rtcp::parse(packet.bytes()) else {
            return Verdict::Drop(DropReason::RtcpMalformed);
        };
        let source = Endpoint::new(from);
        let peer = PairId(row.peer);
        let cold = &mut self.cold[index];
        if is_muxed {
            if !cold.latch.may_be_heard(now, source) {
                self.note_foreign(now, index, source);
                return Verdict::Drop(DropReason::RtcpForeignSource);
            }
        } else if !cold.is_rtcp_peer(source) {
            self.note_foreign(now, index, source);
            return Verdict::Drop(DropReason::RtcpForeignSource);
        } else {
            cold.rtcp_locked = Some(source);
        }
        // What this peer hears, as it was told.
        let heard = match row.has(SPLICED) {
            true => cold.sender.last.map(|last| last.ssrc),
            false => self.hot.get(peer.index()).map(|other| other.ssrc),
        };
        let blocks = || rtcp.packets().flat_map(|packet| packet.report_blocks());
        let block = blocks().find(|block| Some(block.ssrc) == heard).or_else(|| blocks().next());
        if let Some(block) = block {
            self.cold[index].reports.heard(now, &block);
        }
        let Some((socket, to)) = self.rtcp_way(peer) else {
            return Verdict::Drop(DropReason::RtpNoPeer);
        };
        for report in rtcp.packets().filter_map(|packet| packet.sender_info()) {
            self.cold[peer.index()].reports.sent(now, report.ntp_middle());
        }
        self.translate(index, peer.index(), packet);
        Verdict::Send { socket, to: to.addr() }
    }

    /// From which socket RTCP goes to a pair's peer, and where to.
    fn rtcp_way(&self, pair: PairId) -> Option<(SocketSlot, Endpoint)> {
        let (row, cold) = (self.hot.get(pair.index())?, self.cold.get(pair.index())?);
        if !row.has(MUXED) {
            return Some((pair.rtcp(), cold.rtcp_target()?));
        }
        let signalled = Some(cold.latch.signalled()).filter(|signalled| signalled.is_somewhere());
        Some((pair.rtp(), cold.latch.locked().or(signalled)?))
    }

    /// Rewrites a compound where one of the two hears a spliced sender.
    fn translate(&self, from: usize, to: usize, packet: &mut Packet<'_>) {
        let (ours, theirs) = (&self.hot[from], &self.hot[to]);
        if !ours.has(SPLICED) && !theirs.has(SPLICED) {
            return;
        }
        let ssrc_to = |index: usize| self.cold[index].sender.last.map(|last| last.ssrc);
        let mut translation = Translation::default();
        if theirs.has(SPLICED)
            && let Some(ssrc) = ssrc_to(to)
        {
            let timestamp = self.mapping(from, to).map_or(0, |mapping| mapping.splice.timestamp);
            translation.sender = Some((ours.ssrc, ssrc, timestamp));
        }
        if ours.has(SPLICED)
            && let Some(ssrc) = ssrc_to(from)
        {
            let sequence = self.mapping(to, from).map_or(0, |mapping| mapping.splice.sequence);
            translation.heard = Some((ssrc, theirs.ssrc, sequence));
        }
        translation.apply(packet.bytes_mut());
    }
}
