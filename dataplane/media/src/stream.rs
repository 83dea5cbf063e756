//! The streams of one worker and the relay between them.
//!
//! A stream is one leg's media on one port pair. What `forward` needs of a stream for a packet lies in one
//! row of 64 bytes, so that a relayed packet touches two cache lines: its own stream's and its peer's.

use std::net::{IpAddr, SocketAddr};

use base::Instant;

use crate::latch::{Latch, Seen};
use crate::wire::{Rtcp, Rtp, RtpError};
use crate::{DropReason, Endpoint, Packet, PairId, SocketSlot, Verdict};

/// A forward jump of this many sequence numbers is a new start of the sender, not a loss (RFC 3550, A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A packet this far behind the newest is late, not a new start (RFC 3550, A.1).
const MAX_MISORDER: u16 = 100;
/// Nanoseconds of one timestamp unit at 8 kHz.
const NANOS_PER_UNIT: u64 = 125_000;

/// The streams of one worker, a row for each port pair.
#[derive(Debug)]
pub struct Streams {
    hot: Vec<Hot>,
    cold: Vec<Cold>,
}

/// What a stream has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// RTP packets from the peer.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// RTP packets relayed to the peer.
    pub sent: u64,
    /// Packets that never came, by sequence numbers (RFC 3550, A.3); duplicates count against them.
    pub lost: u64,
    /// Interarrival jitter in timestamp units at 8 kHz (RFC 3550, 6.4.1 and A.8).
    pub jitter: u32,
    /// The peer's synchronization source; 0 before the first packet.
    pub ssrc: u32,
    /// RTP and RTCP packets from others than the peer, all dropped.
    pub foreign: u64,
    /// The peer's address that the stream is locked to.
    pub locked: Option<SocketAddr>,
}

/// A stream's share of the packet path; one cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Hot {
    /// The locked source when `phase` is Locked, else where to send.
    remote_ip: u128,
    packets: u64,
    bytes: u64,
    sent: u64,
    /// The other leg's row, or [`NOBODY`].
    peer: u32,
    ssrc: u32,
    /// The newest sequence number and, above it, how often it wrapped.
    newest: u32,
    /// Arrival less timestamp of the last packet, in timestamp units.
    transit: u32,
    /// Jitter in sixteenths of a timestamp unit.
    jitter: u32,
    remote_port: u16,
    phase: Phase,
    /// True when `remote` may be sent to.
    sendable: bool,
}

const _: () = assert!(size_of::<Hot>() == 64);

const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    /// The latch is asked about every packet.
    Unlocked,
    /// Packets from `remote` are the peer's; the latch is asked about all others.
    Locked,
}

#[derive(Clone, Debug, Default)]
struct Cold {
    latch: Latch,
    rtcp_signalled: Endpoint,
    rtcp_locked: Option<Endpoint>,
    /// `newest` when counting began anew, and how many packets had come before.
    base: u32,
    packets_before: u64,
    lost_before: u64,
    foreign: u64,
}

impl Streams {
    /// Rows for the pairs below `pairs`, all closed.
    pub fn new(pairs: u32) -> Self {
        Streams {
            hot: vec![Hot::CLOSED; pairs as usize],
            cold: vec![Cold::default(); pairs as usize],
        }
    }

    /// Opens the stream of `pair`, with its peer's address where it is already signalled. Until it is,
    /// nobody is heard. RTCP is expected one port above, unless [`Streams::set_rtcp`] says otherwise.
    pub fn open(&mut self, pair: PairId, signalled: Option<SocketAddr>) {
        self.close(pair);
        let Some(row) = self.hot.get_mut(pair.index()) else {
            return;
        };
        row.phase = Phase::Unlocked;
        if let Some(addr) = signalled {
            self.set_remote(Instant::ZERO, pair, addr);
        }
    }

    /// Tells the host that the leg's SIP comes from; call it after [`Streams::open`]. Media is learned
    /// from it, or from the host that SDP signals, and from no other.
    pub fn expect_host(&mut self, pair: PairId, host: IpAddr) {
        if self.is_open(pair) {
            let host = Endpoint::new(SocketAddr::new(host, 0)).ip;
            self.cold[pair.index()].latch.expect_host(host);
        }
    }

    /// Joins two streams: what one's peer sends goes to the other's. Each leaves whom it was joined to.
    pub fn bridge(&mut self, a: PairId, b: PairId) {
        self.unbridge(a);
        self.unbridge(b);
        if a != b && self.is_open(a) && self.is_open(b) {
            self.hot[a.index()].peer = b.0;
            self.hot[b.index()].peer = a.0;
        }
    }

    /// Parts a stream from the one it is joined to.
    pub fn unbridge(&mut self, pair: PairId) {
        let Some(row) = self.hot.get_mut(pair.index()) else {
            return;
        };
        let peer = std::mem::replace(&mut row.peer, NOBODY);
        if let Some(other) = self.hot.get_mut(peer as usize) {
            other.peer = NOBODY;
        }
    }

    /// Tells the peer's RTP address as signalled. A changed one lets the stream learn its source again;
    /// `0.0.0.0` or port 0 stops sending and keeps the lock.
    pub fn set_remote(&mut self, now: Instant, pair: PairId, signalled: SocketAddr) {
        if !self.is_open(pair) {
            return;
        }
        let endpoint = Endpoint::new(signalled);
        let cold = &mut self.cold[pair.index()];
        if endpoint.is_somewhere() && cold.latch.signalled() != endpoint {
            cold.rtcp_signalled = Endpoint { port: endpoint.port.saturating_add(1), ..endpoint };
            cold.rtcp_locked = None;
        }
        cold.latch.signal(now, endpoint);
        self.refresh(pair.index());
    }

    /// Tells the peer's RTCP address where SDP gives one (RFC 3605); call it after
    /// [`Streams::set_remote`].
    pub fn set_rtcp(&mut self, pair: PairId, signalled: SocketAddr) {
        let endpoint = Endpoint::new(signalled);
        if let Some(cold) = self.cold.get_mut(pair.index())
            && endpoint.is_somewhere()
            && cold.rtcp_signalled != endpoint
        {
            cold.rtcp_signalled = endpoint;
            cold.rtcp_locked = None;
        }
    }

    /// Closes the stream and parts it from its peer's; returns what it counted.
    pub fn close(&mut self, pair: PairId) -> StreamStats {
        let stats = self.stats(pair);
        self.unbridge(pair);
        if let Some(row) = self.hot.get_mut(pair.index()) {
            *row = Hot::CLOSED;
            self.cold[pair.index()] = Cold::default();
        }
        stats
    }

    /// What the stream has counted; zeros for one that is not open.
    pub fn stats(&self, pair: PairId) -> StreamStats {
        let (Some(row), Some(cold)) = (self.hot.get(pair.index()), self.cold.get(pair.index()))
        else {
            return StreamStats::default();
        };
        StreamStats {
            packets: row.packets,
            bytes: row.bytes,
            sent: row.sent,
            lost: cold.lost_before + row.lost_since(cold),
            jitter: row.jitter >> 4,
            ssrc: row.ssrc,
            foreign: cold.foreign,
            locked: cold.latch.locked().map(Endpoint::addr),
        }
    }

    /// Judges a packet that came to `socket`: who sent it, and where it goes.
    pub fn forward(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let index = socket.pair().index();
        let from = Endpoint::new(from);
        if socket.is_rtcp() {
            return self.forward_rtcp(index, from, packet.bytes());
        }
        let Some(row) = self.hot.get_mut(index) else {
            return Verdict::Drop(DropReason::RtpUnbound);
        };
        if row.phase == Phase::Closed {
            return Verdict::Drop(DropReason::RtpUnbound);
        }
        let rtp = match Rtp::parse(packet.bytes()) {
            Ok(rtp) => rtp,
            Err(RtpError::TooShort) => return Verdict::Drop(DropReason::RtpTooShort),
            Err(RtpError::Version) => return Verdict::Drop(DropReason::RtpVersion),
        };
        let from_peer =
            row.phase == Phase::Locked && row.remote_ip == from.ip && row.remote_port == from.port;
        if !from_peer && let Some(reason) = self.judge(now, index, from, &rtp) {
            return Verdict::Drop(reason);
        }
        let row = &mut self.hot[index];
        row.packets += 1;
        row.bytes += packet.bytes().len() as u64;
        row.count(now, &rtp, &mut self.cold[index]);
        let peer = row.peer;
        let Some(other) = self.hot.get_mut(peer as usize) else {
            return Verdict::Drop(DropReason::RtpNoPeer);
        };
        if !other.sendable {
            return Verdict::Drop(DropReason::RtpNoPeer);
        }
        other.sent += 1;
        let to = Endpoint { ip: other.remote_ip, port: other.remote_port };
        Verdict::Send { socket: PairId(peer).rtp(), to: to.addr() }
    }

    /// Judges a packet that is not from the locked source: the reason to drop it, or none if it is the
    /// peer's after all.
    #[cold]
    fn judge(
        &mut self,
        now: Instant,
        index: usize,
        from: Endpoint,
        rtp: &Rtp<'_>,
    ) -> Option<DropReason> {
        let cold = &mut self.cold[index];
        let locked_before = cold.latch.locked();
        let seen = cold.latch.see(now, from, rtp.ssrc(), rtp.sequence());
        if locked_before != cold.latch.locked() {
            // RTCP that was accepted before belongs to this source only if it came from its host, and
            // not where a source on that host has just lost the lock: the RTCP may have been its own.
            let first = locked_before.is_none();
            cold.rtcp_locked = cold.rtcp_locked.filter(|rtcp| first && rtcp.ip == from.ip);
            self.refresh(index);
        }
        match seen {
            Seen::Peer => None,
            Seen::Candidate => Some(DropReason::RtpLearning),
            Seen::Foreign => {
                self.cold[index].foreign += 1;
                Some(DropReason::RtpForeignSource)
            }
        }
    }

    fn forward_rtcp(&mut self, index: usize, from: Endpoint, bytes: &[u8]) -> Verdict {
        let Some(row) = self.hot.get(index).filter(|row| row.phase != Phase::Closed) else {
            return Verdict::Drop(DropReason::RtpUnbound);
        };
        if Rtcp::parse(bytes).is_err() {
            return Verdict::Drop(DropReason::RtcpMalformed);
        }
        let cold = &mut self.cold[index];
        if !cold.is_rtcp_peer(from) {
            cold.foreign += 1;
            return Verdict::Drop(DropReason::RtcpForeignSource);
        }
        cold.rtcp_locked = Some(from);
        let peer = PairId(row.peer);
        match self.cold.get(peer.index()).and_then(Cold::rtcp_target) {
            Some(to) => Verdict::Send { socket: peer.rtcp(), to: to.addr() },
            None => Verdict::Drop(DropReason::RtpNoPeer),
        }
    }

    fn is_open(&self, pair: PairId) -> bool {
        self.hot.get(pair.index()).is_some_and(|row| row.phase != Phase::Closed)
    }

    /// Copies into the hot row what the latch has decided.
    fn refresh(&mut self, index: usize) {
        let (row, latch) = (&mut self.hot[index], &self.cold[index].latch);
        let (phase, remote) = match latch.locked() {
            Some(source) => (Phase::Locked, source),
            None => (Phase::Unlocked, latch.target().unwrap_or_default()),
        };
        row.phase = phase;
        row.remote_ip = remote.ip;
        row.remote_port = remote.port;
        row.sendable = latch.target().is_some();
    }
}

impl Hot {
    const CLOSED: Hot = Hot {
        remote_ip: 0,
        packets: 0,
        bytes: 0,
        sent: 0,
        peer: NOBODY,
        ssrc: 0,
        newest: 0,
        transit: 0,
        jitter: 0,
        remote_port: 0,
        phase: Phase::Closed,
        sendable: false,
    };

    /// Takes the packet, already counted in `packets`, into loss and jitter.
    #[inline]
    fn count(&mut self, now: Instant, rtp: &Rtp<'_>, cold: &mut Cold) {
        let arrival = (now.as_nanos() / NANOS_PER_UNIT) as u32;
        let transit = arrival.wrapping_sub(rtp.timestamp());
        let ahead = rtp.sequence().wrapping_sub(self.newest as u16);
        let known = self.packets > 1 && self.ssrc == rtp.ssrc();
        if known && ahead < MAX_DROPOUT {
            self.newest = self.newest.wrapping_add(u32::from(ahead));
        } else if !known || ahead.wrapping_neg() > MAX_MISORDER {
            self.begin(rtp, transit, cold);
            return;
        }
        // RFC 3550, A.8: J += |D| / 16, kept in sixteenths and rounded.
        let difference = transit.wrapping_sub(self.transit).cast_signed().unsigned_abs();
        self.transit = transit;
        let smoothed = self.jitter - ((self.jitter + 8) >> 4);
        self.jitter = smoothed.saturating_add(difference.min(MAX_DIFFERENCE));
    }

    /// A sender begins: what it lost before stays lost, and its numbers count from here.
    #[cold]
    fn begin(&mut self, rtp: &Rtp<'_>, transit: u32, cold: &mut Cold) {
        // The packet at hand is counted already, but belongs to the new start.
        self.packets -= 1;
        cold.lost_before += self.lost_since(cold);
        cold.packets_before = self.packets;
        self.packets += 1;
        self.ssrc = rtp.ssrc();
        self.newest = u32::from(rtp.sequence());
        cold.base = self.newest;
        self.transit = transit;
    }

    /// Lost since the sender began: expected less received.
    fn lost_since(&self, cold: &Cold) -> u64 {
        let received = self.packets - cold.packets_before;
        if received == 0 {
            return 0;
        }
        let expected = u64::from(self.newest.wrapping_sub(cold.base)) + 1;
        expected.saturating_sub(received)
    }
}

/// The largest step that jitter takes into account, in timestamp units: a minute, so that a wild
/// timestamp cannot overflow it.
const MAX_DIFFERENCE: u32 = 60 * 8_000;

impl Cold {
    /// True for the signalled RTCP address, which takes the lock from any other source, for the locked
    /// source, and before there is one for the host whose RTP is heard.
    fn is_rtcp_peer(&self, from: Endpoint) -> bool {
        if self.rtcp_signalled.is_somewhere() && from == self.rtcp_signalled {
            return true;
        }
        match self.rtcp_locked {
            Some(source) => source == from,
            None => self.latch.hears_host(from.ip),
        }
    }

    /// Where RTCP goes: to its locked source; before, to the signalled address, unless RTP showed that
    /// the peer is elsewhere.
    fn rtcp_target(&self) -> Option<Endpoint> {
        let signalled_holds =
            self.latch.locked().is_none_or(|rtp| rtp.ip == self.rtcp_signalled.ip);
        self.rtcp_locked
            .or_else(|| signalled_holds.then_some(self.rtcp_signalled))
            .filter(|target| target.is_somewhere())
    }
}

#[cfg(test)]
mod tests;
