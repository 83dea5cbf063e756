//! The streams of one worker and the relay between them.
//!
//! A stream is one leg's media on one port pair. What `forward` needs of a stream for a packet lies in one
//! row of 64 bytes, so that a relayed packet touches two cache lines: its own stream's and its peer's.
//! What only few packets need lies in a second row, and what is done with those in the modules below.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base::Instant;

use crate::latch::{LEARN_PACKETS, Seen};
use crate::wire::{Rtp, RtpError};
use crate::{DropReason, Endpoint, Packet, PairId, SocketSlot, Verdict};

mod bypass;
mod event;
mod image;
mod report;
mod row;
mod secure;
mod sender;

pub use event::{Digit, EVENT_TIMEOUT_MS};
pub use image::StreamImage;
pub use secure::Keys;

use row::{
    Cold, Hot, LOCKED, MUXED, NOBODY, OCCUPIED, OPEN, Row, SECURE, SENDABLE, SPLICED, TAPPED,
};

/// A forward jump of this many sequence numbers is a new start of the sender, not a loss (RFC 3550, A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A packet this far behind the newest is late, not a new start (RFC 3550, A.1).
const MAX_MISORDER: u16 = 100;
/// Nanoseconds of one timestamp unit at 8 kHz.
const NANOS_PER_UNIT: u64 = 125_000;

/// How long the locked synchronization source is silent before another one at its address may take its
/// place, in milliseconds: some phones change it when a call is held. Ten packets of speech, so that
/// somebody who forges the address cannot take a stream from one who talks.
pub const SSRC_SILENCE_MS: u64 = 200;

/// At most one foreign source of a stream is told in this time: an attack must not cost more than its
/// packets.
const FOREIGN_PAUSE: Duration = Duration::from_secs(1);

/// How many foreign sources wait to be taken.
const MAX_FOREIGN: usize = 64;

/// The streams of one worker, a row for each port pair.
#[derive(Debug)]
pub struct Streams {
    hot: Vec<Hot>,
    cold: Vec<Cold>,
    /// Digits to be taken, and the streams on which a digit may be pressed just now.
    digits: VecDeque<(PairId, Digit)>,
    pressed: Vec<PairId>,
    foreign: VecDeque<(PairId, SocketAddr)>,
    seed: u64,
}

/// What a stream has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// RTP packets from the peer.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// RTP packets to the peer, relayed or made.
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

/// Packets that came and that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    packets: u64,
    lost: u64,
}

impl Counted {
    fn since(self, before: Counted) -> Counted {
        Counted {
            packets: self.packets.saturating_sub(before.packets),
            lost: self.lost.saturating_sub(before.lost),
        }
    }

    /// The share that did not come.
    fn loss(self) -> f32 {
        let expected = (self.packets + self.lost).max(1);
        self.lost as f32 / expected as f32
    }
}

/// The numbers of a packet that is on its way through.
#[derive(Clone, Copy)]
struct Relayed {
    sequence: u16,
    timestamp: u32,
}

impl Streams {
    /// Rows for the pairs below `pairs`, all closed.
    pub fn new(pairs: u32) -> Self {
        Streams {
            hot: vec![Hot::CLOSED; pairs as usize],
            cold: (0..pairs).map(|_| Cold::default()).collect(),
            digits: VecDeque::new(),
            pressed: Vec::new(),
            foreign: VecDeque::new(),
            seed: 0,
        }
    }

    /// Opens the stream of `pair`, with its peer's address where it is already signalled. Until it is,
    /// nobody is heard. RTCP is expected one port above, unless [`Streams::set_rtcp`] says otherwise.
    pub fn open(&mut self, pair: PairId, signalled: Option<SocketAddr>) {
        self.close(pair);
        let Some(row) = self.hot.get_mut(pair.index()) else {
            return;
        };
        row.flags = OPEN;
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
            self.note_join(a);
            self.note_join(b);
        }
    }

    /// Parts a stream from the one it is joined to.
    pub fn unbridge(&mut self, pair: PairId) {
        let Some(peer) = self.hot.get(pair.index()).map(|row| PairId(row.peer)) else {
            return;
        };
        if self.hot.get(peer.index()).is_some() {
            self.remember_sent(pair);
            self.remember_sent(peer);
            self.hot[pair.index()].peer = NOBODY;
            self.hot[peer.index()].peer = NOBODY;
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
        let locked = cold.latch.locked();
        cold.latch.signal(now, endpoint);
        if locked != cold.latch.locked() {
            cold.former = locked;
        }
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
            self.close_events(pair);
            self.cold[pair.index()] = Cold::default();
        }
        stats
    }

    /// What the stream has counted; zeros for one that is not open.
    pub fn stats(&self, pair: PairId) -> StreamStats {
        if self.hot.get(pair.index()).is_none() {
            return StreamStats::default();
        }
        let row = self.row(pair.index());
        StreamStats {
            packets: row.packets(),
            bytes: row.hot.bytes,
            sent: row.sent(),
            lost: row.counted().lost,
            jitter: row.hot.jitter >> 4,
            ssrc: row.hot.ssrc,
            foreign: row.cold.foreign,
            locked: row.cold.latch.locked().map(Endpoint::addr),
        }
    }

    /// When the newest packet of the peer came, past the process or through it;
    /// [`Instant::ZERO`] before the first.
    pub fn silent_since(&self, pair: PairId) -> Instant {
        self.hot.get(pair.index()).map_or(Instant::ZERO, |row| row.arrival)
    }

    /// Tells whether the packets of the pair's peer are wanted here as well as where they go. When they go
    /// nowhere, their verdict is [`Verdict::Consume`].
    pub fn tap(&mut self, pair: PairId, on: bool) {
        if self.is_open(pair) {
            self.hot[pair.index()].set(TAPPED, on);
        }
    }

    /// True when the packets of the pair's peer are wanted here.
    #[inline]
    pub fn is_tapped(&self, pair: PairId) -> bool {
        self.hot.get(pair.index()).is_some_and(|row| row.has(TAPPED))
    }

    /// The next foreign source that was refused at a pair: the first one of each stream, and then at most
    /// one a second.
    pub fn take_foreign(&mut self) -> Option<(PairId, SocketAddr)> {
        self.foreign.pop_front()
    }

    /// Judges a packet that came to `socket`: who sent it, and where it goes. It is changed only where the
    /// peer hears a spliced sender ([`Streams::make`]), and where one side of the two is encrypted.
    #[inline]
    pub fn forward(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let verdict = self.judged(now, socket, from, packet);
        self.seal(verdict, packet)
    }

    /// The same, for who wants to see the packet as it goes on before it may be encrypted again:
    /// [`Streams::seal`] follows.
    pub fn judged(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let index = socket.pair().index();
        if socket.is_rtcp() {
            return self.forward_rtcp(now, index, from, packet, false);
        }
        let Some(row) = self.hot.get(index).filter(|row| row.has(OPEN)) else {
            return Verdict::Drop(DropReason::RtpUnbound);
        };
        if row.flags & (SECURE | MUXED) != 0 {
            if row.has(MUXED) && is_rtcp(packet.bytes()) {
                return self.forward_rtcp(now, index, from, packet, true);
            }
            if let Err(reason) = self.open_rtp(now, index, from, packet) {
                return Verdict::Drop(reason);
            }
        }
        let row = &mut self.hot[index];
        let rtp = match Rtp::parse(packet.bytes()) {
            Ok(rtp) => rtp,
            Err(RtpError::TooShort) => return Verdict::Drop(DropReason::RtpTooShort),
            Err(RtpError::Version) => return Verdict::Drop(DropReason::RtpVersion),
        };
        let from = Endpoint::new(from);
        let follows = row.is_source(from, rtp.ssrc()) && row.follow(now, &rtp);
        if !follows && let Some(reason) = self.judge(now, index, from, &rtp) {
            return Verdict::Drop(reason);
        }
        self.count_received(index, 1, packet.bytes().len() as u64);
        let row = &self.hot[index];
        let (peer, event_type) = (row.peer, row.event_type);
        if rtp.payload_type() == event_type {
            self.take_event(now, index, rtp.timestamp(), rtp.payload());
        }
        let Some(other) = self.hot.get(peer as usize) else {
            return self.unsent(index, DropReason::RtpNoPeer);
        };
        if other.flags & (SENDABLE | SPLICED | OCCUPIED) != SENDABLE {
            let relayed = Relayed { sequence: rtp.sequence(), timestamp: rtp.timestamp() };
            return self.relay_otherwise(now, index, peer, relayed, packet);
        }
        let to = other.remote().addr();
        self.count_sent(peer, 1);
        Verdict::Send { socket: PairId(peer).rtp(), to }
    }

    #[inline]
    fn count_received(&mut self, index: usize, packets: u64, bytes: u64) {
        let row = &mut self.hot[index];
        row.bytes = row.bytes.wrapping_add(bytes);
        let (count, is_over) = row.packets.overflowing_add(packets as u32);
        row.packets = count;
        if is_over {
            self.cold[index].packets_over += 1;
        }
    }

    #[inline]
    fn count_sent(&mut self, to: u32, packets: u64) {
        let row = &mut self.hot[to as usize];
        let (count, is_over) = row.sent.overflowing_add(packets as u32);
        row.sent = count;
        if is_over {
            self.cold[to as usize].sent_over += 1;
        }
    }

    /// The verdict on a packet that is not sent on.
    #[cold]
    fn unsent(&self, index: usize, reason: DropReason) -> Verdict {
        match self.hot[index].has(TAPPED) {
            true => Verdict::Consume,
            false => Verdict::Drop(reason),
        }
    }

    /// Judges a packet that is not simply the locked source's next: the reason to drop it, or none if it is
    /// the peer's after all.
    #[cold]
    fn judge(
        &mut self,
        now: Instant,
        index: usize,
        from: Endpoint,
        rtp: &Rtp<'_>,
    ) -> Option<DropReason> {
        if !self.hot[index].has(LOCKED) || self.hot[index].remote() != from {
            let cold = &mut self.cold[index];
            let locked_before = cold.latch.locked();
            let seen = cold.latch.see(now, from, rtp.ssrc(), rtp.sequence());
            if locked_before != cold.latch.locked() {
                self.note_lock(index, locked_before, from);
                // A phone that moved may go on as it was.
                let row = self.row(index);
                let goes_on = row.packets() > 0 && row.hot.ssrc == rtp.ssrc();
                if !goes_on || !self.hot[index].follow(now, rtp) {
                    self.begin(now, index, rtp);
                }
                return None;
            }
            match seen {
                // The old one, while another is learned.
                Seen::Peer => {}
                Seen::Candidate => return Some(DropReason::RtpLearning),
                Seen::Foreign => {
                    self.note_foreign(now, index, from);
                    return Some(DropReason::RtpForeignSource);
                }
            }
        }
        if self.hot[index].ssrc == rtp.ssrc() {
            return self.judge_sequence(now, index, rtp);
        }
        self.judge_rival(now, index, from, rtp)
    }

    /// RFC 3550, A.1: two packets in a row make a new start of the sequence.
    fn judge_sequence(&mut self, now: Instant, index: usize, rtp: &Rtp<'_>) -> Option<DropReason> {
        if self.hot[index].follow(now, rtp) {
            return None;
        }
        let next = rtp.sequence().wrapping_add(1);
        if self.cold[index].restart.replace(next) != Some(rtp.sequence()) {
            return Some(DropReason::RtpSequence);
        }
        self.begin(now, index, rtp);
        None
    }

    /// Another synchronization source at the address of the one that is heard.
    fn judge_rival(
        &mut self,
        now: Instant,
        index: usize,
        from: Endpoint,
        rtp: &Rtp<'_>,
    ) -> Option<DropReason> {
        let (arrival, cold) = (self.hot[index].arrival, &mut self.cold[index]);
        let packets = cold.rival.count(from, rtp.ssrc(), rtp.sequence());
        if packets == 1 || cold.heard_past {
            (cold.rival_since, cold.heard_past) = (now, false);
        }
        // The bypass tells when packets came only roughly, but exactly whether any came.
        let last = if cold.bypassed { cold.rival_since } else { arrival };
        let is_silent = now >= last + Duration::from_millis(SSRC_SILENCE_MS);
        if packets < LEARN_PACKETS || !is_silent {
            return Some(DropReason::RtpForeignSsrc);
        }
        self.begin(now, index, rtp);
        None
    }

    /// The lock went to `source`.
    fn note_lock(&mut self, index: usize, before: Option<Endpoint>, source: Endpoint) {
        let cold = &mut self.cold[index];
        // RTCP that was accepted before belongs to this source only if it came from its host, and
        // not where a source on that host has just lost the lock: the RTCP may have been its own.
        cold.rtcp_locked = cold.rtcp_locked.filter(|rtcp| before.is_none() && rtcp.ip == source.ip);
        cold.former = before.or(cold.former);
        self.refresh(index);
    }

    /// The row's source begins: what it lost before stays lost, and its numbers count from here.
    fn begin(&mut self, now: Instant, index: usize, rtp: &Rtp<'_>) {
        self.restart_events(index);
        let counted = self.row(index).counted();
        let (row, cold) = (&mut self.hot[index], &mut self.cold[index]);
        cold.lost_before = counted.lost;
        cold.packets_before = counted.packets;
        cold.base = u32::from(rtp.sequence());
        cold.starts = cold.starts.wrapping_add(1);
        (cold.restart, cold.rival) = (None, Default::default());
        row.ssrc = rtp.ssrc();
        row.newest = cold.base;
        row.arrival = now;
        row.transit = row::units(now).wrapping_sub(rtp.timestamp());
    }

    /// Counts a packet of somebody else, and tells of it now and then.
    fn note_foreign(&mut self, now: Instant, index: usize, from: Endpoint) {
        self.cold[index].foreign += 1;
        self.tell_foreign(now, index, from);
    }

    /// Notes whose packets were dropped, to be told.
    fn tell_foreign(&mut self, now: Instant, index: usize, from: Endpoint) {
        let cold = &mut self.cold[index];
        let is_due = cold.foreign_told.is_none_or(|told| now >= told + FOREIGN_PAUSE);
        // Before signalling nobody is known, and a source that moved has packets under way: no attacks.
        let is_strange = !cold.latch.is_silent() && cold.former != Some(from);
        if is_due && is_strange && self.foreign.len() < MAX_FOREIGN {
            cold.foreign_told = Some(now);
            self.foreign.push_back((PairId(index as u32), from.addr()));
        }
    }

    fn is_open(&self, pair: PairId) -> bool {
        self.hot.get(pair.index()).is_some_and(|row| row.has(OPEN))
    }

    fn row(&self, index: usize) -> Row<'_> {
        Row { hot: &self.hot[index], cold: &self.cold[index] }
    }

    /// Copies into the hot row what the latch has decided.
    fn refresh(&mut self, index: usize) {
        let (row, latch) = (&mut self.hot[index], &self.cold[index].latch);
        let locked = latch.locked();
        let remote = locked.or(latch.target()).unwrap_or_default();
        row.set(LOCKED, locked.is_some());
        row.remote_ip = remote.ip;
        row.remote_port = remote.port;
        row.set(SENDABLE, latch.target().is_some());
    }
}

/// True for RTCP among RTP. RFC 5761, 4: "the RTP payload types used [...] MUST NOT" be 64 to 95, so that the
/// packet types of RTCP are 192 to 223 where RTP has its marker and its payload type.
#[inline]
fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|second| (192..=223).contains(second))
}

#[cfg(test)]
mod tests;
