//! A stream as plain data, for the process that comes after one that was killed.

use std::net::{IpAddr, SocketAddr};

use base::Instant;

use super::Streams;
use super::row::{Hot, LOCKED, MUXED, NO_EVENTS, NOBODY, OCCUPIED, SECURE, SPLICED, TAPPED};
use super::secure::{Keys, Secure};
use super::sender::{Mapping, Sent};
use crate::latch::Latch;
use crate::srtp::Progress;
use crate::{Endpoint, FlowStats, PairId, Splice};

/// All that a stream has to be known by to go on as if nothing had happened. Whom it is joined to is not in
/// it: restore both, then [`Streams::bridge`] them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamImage {
    /// The peer's RTP address as signalled.
    pub signalled: Option<SocketAddr>,
    /// The peer's RTCP address as signalled.
    pub rtcp_signalled: Option<SocketAddr>,
    /// Nothing may be sent (hold).
    pub muted: bool,
    /// The host that the leg's SIP comes from.
    pub expected_host: Option<IpAddr>,
    /// The source that the stream is locked to.
    pub locked: Option<SocketAddr>,
    /// The source of RTCP.
    pub rtcp_locked: Option<SocketAddr>,
    /// The locked source's synchronization source.
    pub ssrc: u32,
    /// The newest sequence number and, above 16 bits, how often it wrapped.
    pub newest: u32,
    /// When the newest packet came.
    pub arrival: Instant,
    /// Arrival less timestamp of the newest packet, in timestamp units at 8 kHz.
    pub transit: u32,
    /// Jitter in sixteenths of a timestamp unit.
    pub jitter: u32,
    /// RTP packets from the peer.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// RTP packets to the peer.
    pub sent: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets from others than the peer.
    pub foreign: u64,
    /// The payload type of telephone-events.
    pub telephone_event: Option<u8>,
    /// The payload is wanted here ([`Streams::tap`]).
    pub tapped: bool,
    /// The way to the peer is taken ([`Streams::occupy`]).
    pub occupied: bool,
    /// What goes to the peer is one sender's, ours.
    pub spliced: bool,
    /// The synchronization source, sequence number and timestamp of the newest packet to the peer, and when
    /// it went.
    pub sender: Option<(u32, u16, u32, Instant)>,
    /// How packets of the joined stream are shifted, and the first sequence number, with its wraps, that is.
    pub splice: Option<(Splice, u32)>,
    /// The bypass relays.
    pub bypassed: bool,
    /// What the bypass had counted when it was last asked: packets, bytes and packets from others. They are
    /// in the counts above.
    pub absorbed: (u64, u64, u64),
    /// The keys of a stream that is encrypted.
    pub keys: Option<Keys>,
    /// How far the peer is with its key.
    pub opened: Option<Progress>,
    /// How far we are with ours.
    pub sealed: Option<Progress>,
    /// RTCP comes and goes by the port of RTP.
    pub muxed: bool,
}

impl Streams {
    /// The stream as it is now; an empty image where there is none.
    pub fn image(&self, pair: PairId) -> StreamImage {
        if !self.is_open(pair) {
            return StreamImage::default();
        }
        let (index, row) = (pair.index(), self.row(pair.index()));
        let (hot, cold, stats) = (row.hot, row.cold, self.stats(pair));
        let addr = |endpoint: Endpoint| endpoint.is_somewhere().then(|| endpoint.addr());
        let mapping = match hot.peer {
            NOBODY => None,
            peer => self.mapping(peer as usize, index),
        };
        StreamImage {
            signalled: addr(cold.latch.signalled()),
            rtcp_signalled: addr(cold.rtcp_signalled),
            muted: cold.latch.is_muted(),
            expected_host: cold.latch.host().map(|ip| Endpoint { ip, port: 0 }.addr().ip()),
            locked: stats.locked,
            rtcp_locked: cold.rtcp_locked.and_then(addr),
            ssrc: hot.ssrc,
            newest: hot.newest,
            arrival: hot.arrival,
            transit: hot.transit,
            jitter: hot.jitter,
            packets: stats.packets,
            bytes: stats.bytes,
            sent: stats.sent,
            lost: stats.lost,
            foreign: stats.foreign,
            telephone_event: (hot.event_type != NO_EVENTS).then_some(hot.event_type),
            tapped: hot.has(TAPPED),
            occupied: hot.has(OCCUPIED),
            spliced: hot.has(SPLICED),
            sender: self
                .last_sent(pair)
                .map(|last| (last.ssrc, last.sequence, last.timestamp, last.at)),
            splice: mapping.map(|mapping| (mapping.splice, mapping.first)),
            bypassed: cold.bypassed,
            absorbed: (cold.absorbed.packets, cold.absorbed.bytes, cold.absorbed.foreign),
            keys: self.keys(pair),
            opened: cold.secure.as_ref().and_then(|secure| secure.opened()),
            sealed: cold.secure.as_ref().and_then(|secure| secure.sealed()),
            muxed: hot.has(MUXED),
        }
    }

    /// Opens the stream of `pair` as an image says. A stream that the bypass relays goes on to be so: do not
    /// call [`Streams::bypassed`] for it unless it counts from zero, or has ended.
    pub fn restore(&mut self, pair: PairId, image: &StreamImage) {
        self.open(pair, None);
        if !self.is_open(pair) {
            return;
        }
        let index = pair.index();
        let endpoint = |addr: Option<SocketAddr>| addr.map(Endpoint::new);
        let host = image.expected_host.map(|host| Endpoint::new(SocketAddr::new(host, 0)).ip);
        let cold = &mut self.cold[index];
        let signalled = endpoint(image.signalled).unwrap_or_default();
        cold.latch = Latch::restore(signalled, host, endpoint(image.locked), image.muted);
        cold.rtcp_signalled = endpoint(image.rtcp_signalled).unwrap_or_default();
        cold.rtcp_locked = endpoint(image.rtcp_locked);
        // The newest packet is the first of this count, and is in `packets`.
        cold.base = image.newest;
        cold.packets_before = image.packets.saturating_sub(1);
        cold.lost_before = image.lost;
        cold.packets_over = (image.packets >> 32) as u32;
        cold.sent_over = (image.sent >> 32) as u32;
        cold.foreign = image.foreign;
        cold.bypassed = image.bypassed;
        let (packets, bytes, foreign) = image.absorbed;
        cold.absorbed = FlowStats { packets, bytes, foreign, ..FlowStats::default() };
        cold.sender.last = image.sender.map(|(ssrc, sequence, timestamp, at)| Sent {
            ssrc,
            sequence,
            timestamp,
            at,
        });
        cold.sender.mapping =
            image.splice.map(|(splice, first)| Mapping { pair: NOBODY, starts: 0, first, splice });
        self.hot[index] = Hot {
            bytes: image.bytes,
            arrival: image.arrival,
            packets: image.packets as u32,
            sent: image.sent as u32,
            ssrc: image.ssrc,
            newest: image.newest,
            transit: image.transit,
            jitter: image.jitter,
            event_type: image.telephone_event.unwrap_or(NO_EVENTS),
            ..self.hot[index].clone()
        };
        self.hot[index].set(TAPPED, image.tapped);
        self.hot[index].set(OCCUPIED, image.occupied);
        self.hot[index].set(SPLICED, image.spliced && image.sender.is_some());
        self.hot[index].set(MUXED, image.muxed);
        if let Some(keys) = image.keys {
            self.cold[index].secure = Some(Secure::resumed(keys, image.opened, image.sealed));
            self.hot[index].set(SECURE, true);
        }
        self.refresh(index);
        debug_assert_eq!(self.hot[index].has(LOCKED), image.locked.is_some());
        self.cold[index].asked = self.row(index).counted();
    }
}
