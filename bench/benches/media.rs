//! `Streams::forward` on 10,000 bridged and locked streams in random order, beside the obvious way:
//! a `HashMap` from the source address.
//!
//! Every packet is a new one of its stream (sequence number, timestamp, time of arrival), so loss
//! and jitter are counted as in a call. Both sides write the 12 bytes of the RTP header first; that
//! is in the figure.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use base::Instant;
use house_bench::{criterion, shuffled};
use media::wire::Rtp;
use media::{Packet, PairId, SocketSlot, Streams, Verdict};

const STREAMS: u32 = 10_000;
/// G.711 at 20 ms behind the RTP header.
const PACKET_BYTES: usize = 172;
const PACKET_NANOS: u64 = 20_000_000;
const PACKET_UNITS: u32 = 160;

/// Packets of all streams, round after round in the same random order.
struct Traffic {
    order: Vec<(PairId, SocketAddr)>,
    next: usize,
    round: u32,
    buffer: [u8; PACKET_BYTES],
}

impl Traffic {
    fn new() -> Self {
        let order = shuffled(STREAMS).into_iter().map(|n| (PairId(n), source(PairId(n)))).collect();
        let mut buffer = [0xd5; PACKET_BYTES];
        buffer[..2].copy_from_slice(&[0x80, 8]);
        Traffic { order, next: 0, round: 0, buffer }
    }

    /// The next packet: when and where it comes, and from whom.
    #[inline]
    fn packet(&mut self) -> (Instant, SocketSlot, SocketAddr, Packet<'_>) {
        if self.next == self.order.len() {
            self.next = 0;
            self.round += 1;
        }
        let (pair, from) = self.order[self.next];
        let now = u64::from(self.round) * PACKET_NANOS
            + self.next as u64 * (PACKET_NANOS / u64::from(STREAMS));
        self.next += 1;
        self.buffer[2..4].copy_from_slice(&(self.round as u16).to_be_bytes());
        self.buffer[4..8].copy_from_slice(&(self.round * PACKET_UNITS).to_be_bytes());
        self.buffer[8..12].copy_from_slice(&pair.0.to_be_bytes());
        let packet = Packet::new(&mut self.buffer, 0..PACKET_BYTES);
        (Instant::from_nanos(now), pair.rtp(), from, packet)
    }
}

/// The peer of a stream: one of 2,500 hosts with a few ports each.
fn source(pair: PairId) -> SocketAddr {
    let host = Ipv4Addr::from(0x0a00_0000 + pair.0 / 4);
    SocketAddr::from((host, (20_000 + pair.0 % 4 * 2) as u16))
}

fn bridged() -> Streams {
    let mut streams = Streams::new(STREAMS);
    for pair in (0..STREAMS).map(PairId) {
        streams.open(pair, Some(source(pair)));
        if pair.0 % 2 == 1 {
            streams.bridge(PairId(pair.0 - 1), pair);
        }
    }
    streams
}

/// What a relay keeps of a stream when it finds it by its source.
struct Stream {
    peer: SocketAddr,
    socket: SocketSlot,
    packets: u64,
    bytes: u64,
    newest: u32,
    ssrc: u32,
    transit: u32,
    jitter: u32,
}

/// The obvious relay: streams by the address of their source.
struct ByAddress(HashMap<SocketAddr, Stream>);

impl ByAddress {
    fn new() -> Self {
        let stream = |pair: PairId| {
            let other = PairId(pair.0 ^ 1);
            let (peer, socket) = (source(other), other.rtp());
            let counted = (0, 0, 0, 0, 0, 0);
            let (packets, bytes, newest, ssrc, transit, jitter) = counted;
            Stream { peer, socket, packets, bytes, newest, ssrc, transit, jitter }
        };
        ByAddress((0..STREAMS).map(PairId).map(|pair| (source(pair), stream(pair))).collect())
    }

    #[inline]
    fn forward(&mut self, now: Instant, from: SocketAddr, packet: &Packet<'_>) -> Option<Verdict> {
        let rtp = Rtp::parse(packet.bytes()).ok()?;
        let stream = self.0.get_mut(&from)?;
        stream.packets += 1;
        stream.bytes += packet.bytes().len() as u64;
        stream.ssrc = rtp.ssrc();
        let ahead = rtp.sequence().wrapping_sub(stream.newest as u16);
        stream.newest = stream.newest.wrapping_add(u32::from(ahead));
        let transit = ((now.as_nanos() / 125_000) as u32).wrapping_sub(rtp.timestamp());
        let difference = transit.wrapping_sub(stream.transit).cast_signed().unsigned_abs();
        stream.transit = transit;
        stream.jitter = (stream.jitter - ((stream.jitter + 8) >> 4)).saturating_add(difference);
        Some(Verdict::Send { socket: stream.socket, to: stream.peer })
    }
}

fn main() {
    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("media");
    let (mut traffic, mut streams) = (Traffic::new(), bridged());
    for _ in 0..2 * STREAMS {
        let (now, socket, from, mut packet) = traffic.packet();
        let verdict = streams.forward(now, socket, from, &mut packet);
        let to = source(PairId(socket.pair().0 ^ 1));
        assert!(matches!(verdict, Verdict::Send { to: sent, .. } if sent == to), "{verdict:?}");
        assert_eq!(streams.stats(socket.pair()).locked, Some(from));
    }
    group.bench_function("Streams::forward, 10,000 streams", |b| {
        b.iter(|| {
            let (now, socket, from, mut packet) = traffic.packet();
            black_box(streams.forward(now, socket, from, &mut packet))
        });
    });
    let (mut traffic, mut streams) = (Traffic::new(), ByAddress::new());
    group.bench_function("HashMap<SocketAddr, _>, 10,000 streams", |b| {
        b.iter(|| {
            let (now, _, from, packet) = traffic.packet();
            black_box(streams.forward(now, from, &packet))
        });
    });
    let mut traffic = Traffic::new();
    group.bench_function("the packet alone", |b| {
        b.iter(|| {
            black_box(traffic.packet());
        });
    });
    group.finish();
    criterion.final_summary();
}
