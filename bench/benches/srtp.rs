//! SRTP of 20 ms of G.711: what a packet of 172 bytes costs that is sealed, opened, or converted by a relay between a
//! peer that encrypts and one that does not.
//!
//! Each packet is a new one, as in a call. `AES_CM_128_HMAC_SHA1_80`, the suite that phones prefer.

use std::hint::black_box;
use std::net::SocketAddr;

use base::Instant;
use house_bench::criterion;
use media::srtp::{Inbound, MasterKey, Mki, Outbound};
use media::{Keys, Packet, PairId, Streams, Verdict};

/// G.711 at 20 ms behind the RTP header.
const PACKET_BYTES: usize = 172;
const TAG_BYTES: usize = 10;
const A: PairId = PairId(0);
const B: PairId = PairId(1);

fn key(byte: u8) -> MasterKey {
    MasterKey { key: [byte; 16], salt: [byte; 14], ..MasterKey::default() }
}

/// A buffer as the kernel fills it, and the next packet in it.
struct Buffer {
    bytes: [u8; 2_048],
    sequence: u16,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: [0; 2_048], sequence: 0 }
    }

    fn next(&mut self) -> Packet<'_> {
        self.sequence = self.sequence.wrapping_add(1);
        self.bytes[..12].copy_from_slice(&[0x80, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        self.bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        self.bytes[12..PACKET_BYTES].fill(0xd5);
        Packet::new(&mut self.bytes, 0..PACKET_BYTES)
    }

    fn sealed(&mut self) -> Packet<'_> {
        Packet::new(&mut self.bytes, 0..PACKET_BYTES + TAG_BYTES)
    }
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// Two joined streams, of which A's peer encrypts.
fn streams() -> Streams {
    let mut streams = Streams::new(2);
    streams.open(A, Some(addr(4_000)));
    streams.open(B, Some(addr(5_000)));
    streams.bridge(A, B);
    let keys = Keys { ours: key(1), theirs: key(2), mki: Mki::default() };
    streams.secure(Instant::ZERO, A, Some(keys));
    streams
}

fn main() {
    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("srtp");
    let (mut buffer, mut out) = (Buffer::new(), Outbound::new(key(1)));
    group.bench_function("the packet alone", |b| {
        b.iter(|| {
            black_box(buffer.next());
        });
    });
    group.bench_function("seal 172 bytes", |b| {
        b.iter(|| black_box(out.seal_rtp(&mut buffer.next())));
    });
    let (mut buffer, mut out) = (Buffer::new(), Outbound::new(key(1)));
    let mut into = Inbound::new(key(1), Mki::default());
    group.bench_function("seal and open 172 bytes", |b| {
        b.iter(|| {
            out.seal_rtp(&mut buffer.next()).expect("it is new");
            into.open_rtp(&mut buffer.sealed()).expect("it is right");
        });
    });
    let (mut buffer, mut streams) = (Buffer::new(), streams());
    let mut phone = Outbound::new(key(2));
    group.bench_function("a phone's seal, and Streams::forward from SRTP", |b| {
        b.iter(|| {
            phone.seal_rtp(&mut buffer.next()).expect("it is new");
            let mut packet = buffer.sealed();
            let verdict = streams.forward(Instant::ZERO, A.rtp(), addr(4_000), &mut packet);
            assert!(matches!(verdict, Verdict::Send { .. }), "{verdict:?}");
        });
    });
    group.bench_function("Streams::forward to SRTP", |b| {
        b.iter(|| {
            let mut packet = buffer.next();
            let verdict = streams.forward(Instant::ZERO, B.rtp(), addr(5_000), &mut packet);
            assert!(matches!(verdict, Verdict::Send { .. }), "{verdict:?}");
        });
    });
    group.finish();
    criterion.final_summary();
}
