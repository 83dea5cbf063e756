//! What is kept of a stream: what every packet needs in one cache line, and the rest.

use base::Instant;

use super::event::Events;
use super::report::Reports;
use super::secure::Secure;
use super::sender::Sender;
use super::{Counted, MAX_DROPOUT, MAX_MISORDER, NANOS_PER_UNIT};
use crate::latch::{Candidate, Latch};
use crate::wire::Rtp;
use crate::{Endpoint, FlowStats};

/// A stream's share of the packet path; one cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Hot {
    /// The locked source when LOCKED, else where to send.
    pub remote_ip: u128,
    pub bytes: u64,
    /// When the newest packet came.
    pub arrival: Instant,
    /// RTP packets from the peer and to the peer; how often they ran over is in the cold row.
    pub packets: u32,
    pub sent: u32,
    /// The other leg's row, or [`NOBODY`].
    pub peer: u32,
    /// The synchronization source that is heard.
    pub ssrc: u32,
    /// The newest sequence number and, above it, how often it wrapped.
    pub newest: u32,
    /// Arrival less timestamp of the newest packet, in timestamp units.
    pub transit: u32,
    /// Jitter in sixteenths of a timestamp unit.
    pub jitter: u32,
    pub remote_port: u16,
    pub flags: u8,
    /// The payload type of telephone-events, or [`NO_EVENTS`].
    pub event_type: u8,
}

const _: () = assert!(size_of::<Hot>() == 64);

pub(super) const NOBODY: u32 = u32::MAX;
/// No payload type: they have seven bits.
pub(super) const NO_EVENTS: u8 = 0xff;

/// There is a stream.
pub(super) const OPEN: u8 = 1;
/// Packets of `ssrc` from `remote` are the peer's; the latch is asked about all others.
pub(super) const LOCKED: u8 = 2;
/// `remote` may be sent to.
pub(super) const SENDABLE: u8 = 4;
/// What goes to `remote` is of one sender, ours.
pub(super) const SPLICED: u8 = 8;
/// What goes to `remote` is made here.
pub(super) const OCCUPIED: u8 = 16;
/// What comes from `remote` is wanted here as well.
pub(super) const TAPPED: u8 = 32;

/// What comes from and goes to `remote` is encrypted (RFC 3711).
pub(super) const SECURE: u8 = 64;
/// RTP and RTCP come and go by one port (RFC 5761).
pub(super) const MUXED: u8 = 128;

/// The largest step that jitter takes into account, in timestamp units: a minute, so that a wild
/// timestamp cannot overflow it.
const MAX_DIFFERENCE: u32 = 60 * 8_000;

/// Timestamp units at 8 kHz of the clock.
pub(super) fn units(at: Instant) -> u32 {
    (at.as_nanos() / NANOS_PER_UNIT) as u32
}

impl Hot {
    pub const CLOSED: Hot = Hot {
        remote_ip: 0,
        bytes: 0,
        arrival: Instant::ZERO,
        packets: 0,
        sent: 0,
        peer: NOBODY,
        ssrc: 0,
        newest: 0,
        transit: 0,
        jitter: 0,
        remote_port: 0,
        flags: 0,
        event_type: NO_EVENTS,
    };

    /// True when all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    pub fn set(&mut self, flags: u8, on: bool) {
        self.flags = if on { self.flags | flags } else { self.flags & !flags };
    }

    /// Where to send.
    #[inline]
    pub fn remote(&self) -> Endpoint {
        Endpoint { ip: self.remote_ip, port: self.remote_port }
    }

    /// True for a packet of the locked source.
    #[inline]
    pub fn is_source(&self, from: Endpoint, ssrc: u32) -> bool {
        self.has(LOCKED)
            && self.remote_ip == from.ip
            && self.remote_port == from.port
            && self.ssrc == ssrc
    }

    /// Takes a packet of the source that is heard into sequence and jitter; false, and nothing done, when
    /// its sequence number is out of the window.
    #[inline]
    pub fn follow(&mut self, now: Instant, rtp: &Rtp<'_>) -> bool {
        let transit = units(now).wrapping_sub(rtp.timestamp());
        // RFC 3550, A.8: J += |D| / 16, kept in sixteenths and rounded.
        let difference = transit.wrapping_sub(self.transit).cast_signed().unsigned_abs();
        let ahead = rtp.sequence().wrapping_sub(self.newest as u16);
        if ahead < MAX_DROPOUT {
            self.newest = self.newest.wrapping_add(u32::from(ahead));
            self.transit = transit;
            self.arrival = now;
        } else if ahead.wrapping_neg() > MAX_MISORDER {
            return false;
        }
        let smoothed = self.jitter - ((self.jitter + 8) >> 4);
        self.jitter = smoothed.saturating_add(difference.min(MAX_DIFFERENCE));
        true
    }

    /// The sequence number of a packet that was followed, with its wraps.
    pub fn extended(&self, sequence: u16) -> u32 {
        let ahead = sequence.wrapping_sub(self.newest as u16).cast_signed();
        self.newest.wrapping_add_signed(i32::from(ahead))
    }

    /// The newest packet's timestamp.
    pub fn timestamp(&self) -> u32 {
        units(self.arrival).wrapping_sub(self.transit)
    }
}

/// The rest of a stream.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pub latch: Latch,
    /// The source before this one; packets of its that were under way are no attack.
    pub former: Option<Endpoint>,
    /// Another synchronization source at the locked address, and since when the locked one has been silent
    /// beside it; of the packets that the bypass relays.
    pub rival: Candidate,
    pub rival_since: Instant,
    /// The bypass has heard the locked one since the rival's last packet.
    pub heard_past: bool,
    /// RFC 3550, A.1's bad_seq: a packet with this number restarts the source's sequence.
    pub restart: Option<u16>,
    pub rtcp_signalled: Endpoint,
    pub rtcp_locked: Option<Endpoint>,
    /// How often counting began anew; `newest` and the packets before at that time.
    pub starts: u32,
    pub base: u32,
    pub packets_before: u64,
    pub lost_before: u64,
    /// How often the hot row's counts ran over.
    pub packets_over: u32,
    pub sent_over: u32,
    pub foreign: u64,
    /// When a foreign source was told last.
    pub foreign_told: Option<Instant>,
    /// What goes to the peer.
    pub sender: Sender,
    pub events: Events,
    pub reports: Reports,
    /// The bypass relays; and the counts of it that are in this row already.
    pub bypassed: bool,
    pub absorbed: FlowStats,
    /// The keys, where the stream is encrypted.
    pub secure: Option<Box<Secure>>,
    /// The counts that quality was last told for.
    pub asked: Counted,
}

impl Cold {
    /// True for the signalled RTCP address, which takes the lock from any other source, for the locked
    /// source, and before there is one for the host whose RTP is heard.
    pub fn is_rtcp_peer(&self, from: Endpoint) -> bool {
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
    pub fn rtcp_target(&self) -> Option<Endpoint> {
        let signalled_holds =
            self.latch.locked().is_none_or(|rtp| rtp.ip == self.rtcp_signalled.ip);
        self.rtcp_locked
            .or_else(|| signalled_holds.then_some(self.rtcp_signalled))
            .filter(|target| target.is_somewhere())
    }
}

/// Both parts of a row.
pub(super) struct Row<'a> {
    pub hot: &'a Hot,
    pub cold: &'a Cold,
}

impl Row<'_> {
    /// RTP packets from the peer.
    pub fn packets(&self) -> u64 {
        (u64::from(self.cold.packets_over) << 32) + u64::from(self.hot.packets)
    }

    /// RTP packets to the peer.
    pub fn sent(&self) -> u64 {
        (u64::from(self.cold.sent_over) << 32) + u64::from(self.hot.sent)
    }

    /// Received, and never received, in all.
    pub fn counted(&self) -> Counted {
        let packets = self.packets();
        let received = packets - self.cold.packets_before;
        let expected = u64::from(self.hot.newest.wrapping_sub(self.cold.base)) + 1;
        let lost = if received == 0 { 0 } else { expected.saturating_sub(received) };
        Counted { packets, lost: self.cold.lost_before + lost }
    }
}
