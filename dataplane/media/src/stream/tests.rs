use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::RtpHeader;

mod bypass;
mod events;
mod image;
mod lock;
mod reports;
mod secure;
mod sender;

const A: PairId = PairId(0);
const B: PairId = PairId(1);
const C: PairId = PairId(2);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn rtp(sequence: u16, timestamp: u32, ssrc: u32) -> Vec<u8> {
    let header = RtpHeader { marker: false, payload_type: 0, sequence, timestamp, ssrc };
    let mut bytes = header.bytes().to_vec();
    bytes.extend([0xff; 160]);
    bytes
}

const RTCP: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 7];

struct World {
    streams: Streams,
}

impl World {
    fn new() -> Self {
        World { streams: Streams::new(4) }
    }

    /// Two joined streams whose peers, at 10.0.0.1:4000 and 10.0.0.2:5000, are locked.
    fn call() -> Self {
        let mut world = World::new();
        world.streams.open(A, Some(addr("10.0.0.1:4000")));
        world.streams.open(B, Some(addr("10.0.0.2:5000")));
        world.streams.bridge(A, B);
        assert_eq!(world.rtp(A, "10.0.0.1:4000", 1), to(B.rtp(), "10.0.0.2:5000"));
        assert_eq!(world.rtp(B, "10.0.0.2:5000", 1), to(A.rtp(), "10.0.0.1:4000"));
        world
    }

    fn send(&mut self, ms: u64, socket: SocketSlot, from: &str, bytes: &[u8]) -> Verdict {
        let mut buffer = bytes.to_vec();
        let verdict = self.streams.forward(
            at(ms),
            socket,
            addr(from),
            &mut Packet::new(&mut buffer, 0..bytes.len()),
        );
        assert_eq!(buffer, bytes, "a relayed packet is untouched");
        verdict
    }

    fn rtp(&mut self, pair: PairId, from: &str, sequence: u16) -> Verdict {
        self.send(0, pair.rtp(), from, &rtp(sequence, 0, 7))
    }

    fn rtcp(&mut self, pair: PairId, from: &str) -> Verdict {
        self.send(0, pair.rtcp(), from, &RTCP)
    }
}

fn to(socket: SocketSlot, text: &str) -> Verdict {
    Verdict::Send { socket, to: addr(text) }
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn a_call_is_relayed_both_ways() {
    let mut world = World::call();
    for sequence in 2..100 {
        assert_eq!(world.rtp(A, "10.0.0.1:4000", sequence), to(B.rtp(), "10.0.0.2:5000"));
        assert_eq!(world.rtp(B, "10.0.0.2:5000", sequence), to(A.rtp(), "10.0.0.1:4000"));
    }
    let stats = world.streams.close(A);
    assert_eq!((stats.packets, stats.bytes, stats.sent, stats.lost), (99, 99 * 172, 99, 0));
    assert_eq!(stats.locked, Some(addr("10.0.0.1:4000")));
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 100), dropped(DropReason::RtpUnbound));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 100), dropped(DropReason::RtpNoPeer));
    assert_eq!(world.streams.stats(A), StreamStats::default());
}

#[test]
fn foreigners_are_dropped_counted_and_never_sent_to() {
    let mut world = World::call();
    for sequence in 0..1_000 {
        for from in ["10.0.0.1:4001", "10.0.0.3:4000", "10.0.0.2:5000", "[::1]:4000"] {
            assert_eq!(world.rtp(A, from, sequence), dropped(DropReason::RtpForeignSource));
        }
        assert_eq!(world.rtp(B, "10.0.0.2:5000", sequence), to(A.rtp(), "10.0.0.1:4000"));
    }
    assert_eq!(world.rtcp(A, "10.0.0.3:4001"), dropped(DropReason::RtcpForeignSource));
    let stats = world.streams.stats(A);
    assert_eq!((stats.foreign, stats.packets), (4_001, 1));
}

#[test]
fn nobody_is_heard_before_signalling() {
    let mut world = World::new();
    world.streams.open(A, None);
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    for sequence in 0..10 {
        assert_eq!(world.rtp(A, "10.0.0.9:4000", sequence), dropped(DropReason::RtpForeignSource));
        assert_eq!(world.rtcp(A, "10.0.0.9:4001"), dropped(DropReason::RtcpForeignSource));
        assert_eq!(world.rtp(B, "10.0.0.2:5000", sequence), dropped(DropReason::RtpNoPeer));
        assert_eq!(world.rtcp(B, "10.0.0.2:5001"), dropped(DropReason::RtpNoPeer));
    }
    world.streams.set_remote(at(0), A, addr("10.0.0.1:4000"));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 10), to(A.rtp(), "10.0.0.1:4000"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "10.0.0.1:4001"));
}

#[test]
fn a_phone_behind_a_nat_is_learned() {
    let mut world = World::new();
    world.streams.open(A, Some(addr("192.168.1.5:4000")));
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    world.streams.expect_host(A, ip("203.0.113.1"));
    let public = "203.0.113.1:61000";
    // A third host is not even a candidate, however much it sends.
    for sequence in 0..100 {
        let third = world.rtp(A, "203.0.113.9:61000", sequence);
        assert_eq!(third, dropped(DropReason::RtpForeignSource));
        assert_eq!(world.rtcp(A, "203.0.113.9:61001"), dropped(DropReason::RtcpForeignSource));
    }
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 1), to(A.rtp(), "192.168.1.5:4000"));
    assert_eq!(world.rtp(A, public, 1), dropped(DropReason::RtpLearning));
    assert_eq!(world.rtp(A, public, 2), dropped(DropReason::RtpLearning));
    assert_eq!(world.rtcp(A, "203.0.113.1:61001"), dropped(DropReason::RtcpForeignSource));
    assert_eq!(world.rtp(A, public, 3), to(B.rtp(), "10.0.0.2:5000"));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 2), to(A.rtp(), public));
    // The signalled RTCP address is behind the NAT; the real one is known with the first packet.
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), dropped(DropReason::RtpNoPeer));
    assert_eq!(world.rtcp(A, "203.0.113.1:61001"), to(B.rtcp(), "10.0.0.2:5001"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "203.0.113.1:61001"));
    assert_eq!(world.rtcp(A, "203.0.113.1:61003"), dropped(DropReason::RtcpForeignSource));
}

#[test]
fn rtcp_of_an_unlikely_host_is_forgotten_when_rtp_locks_elsewhere() {
    let mut world = World::new();
    world.streams.open(A, Some(addr("192.168.1.5:4000")));
    world.streams.set_rtcp(A, addr("192.168.1.5:4009"));
    world.streams.expect_host(A, ip("203.0.113.1"));
    assert_eq!(world.rtcp(A, "192.168.1.5:4001"), dropped(DropReason::RtcpForeignSource));
    assert_eq!(world.rtcp(A, "192.168.1.5:4009"), dropped(DropReason::RtpNoPeer));
    for sequence in 1..=3 {
        world.rtp(A, "203.0.113.1:61000", sequence);
    }
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    assert_eq!(world.rtcp(A, "203.0.113.1:61001"), to(B.rtcp(), "10.0.0.2:5001"));
}

/// A call whose A, signalled at 192.168.1.5:4000, is locked to 203.0.113.1:61000 behind its NAT, RTCP
/// too.
fn natted_call() -> World {
    let mut world = World::new();
    world.streams.open(A, Some(addr("192.168.1.5:4000")));
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    world.streams.expect_host(A, ip("203.0.113.1"));
    for sequence in 1..=3 {
        world.rtp(A, "203.0.113.1:61000", sequence);
    }
    assert_eq!(world.streams.stats(A).locked, Some(addr("203.0.113.1:61000")));
    assert_eq!(world.rtcp(A, "203.0.113.1:61001"), to(B.rtcp(), "10.0.0.2:5001"));
    world
}

#[test]
fn the_signalled_address_takes_the_lock_back_and_rtcp_with_it() {
    let mut world = natted_call();
    assert_eq!(world.rtp(A, "192.168.1.5:4000", 900), to(B.rtp(), "10.0.0.2:5000"));
    assert_eq!(world.streams.stats(A).locked, Some(addr("192.168.1.5:4000")));
    for sequence in 4..10 {
        let former = world.rtp(A, "203.0.113.1:61000", sequence);
        assert_eq!(former, dropped(DropReason::RtpForeignSource));
        for from in ["203.0.113.1:61001", "203.0.113.1:61000"] {
            assert_eq!(world.rtcp(A, from), dropped(DropReason::RtcpForeignSource));
        }
    }
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 2), to(A.rtp(), "192.168.1.5:4000"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "192.168.1.5:4001"));
    assert_eq!(world.rtcp(A, "192.168.1.5:4001"), to(B.rtcp(), "10.0.0.2:5001"));
}

#[test]
fn a_neighbour_on_the_signalled_host_loses_rtcp_with_the_lock() {
    let mut world = World::new();
    world.streams.open(A, Some(addr("10.0.0.1:4000")));
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    for sequence in 1..=3 {
        world.rtp(A, "10.0.0.1:6000", sequence);
    }
    assert_eq!(world.rtcp(A, "10.0.0.1:6001"), to(B.rtcp(), "10.0.0.2:5001"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "10.0.0.1:6001"));
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 1), to(B.rtp(), "10.0.0.2:5000"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "10.0.0.1:4001"));
}

#[test]
fn the_signalled_rtcp_address_takes_rtcp_back() {
    let mut world = World::call();
    assert_eq!(world.rtcp(A, "10.0.0.1:7777"), to(B.rtcp(), "10.0.0.2:5001"));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "10.0.0.1:7777"));
    assert_eq!(world.rtcp(A, "10.0.0.1:4001"), to(B.rtcp(), "10.0.0.2:5001"));
    assert_eq!(world.rtcp(A, "10.0.0.1:7777"), dropped(DropReason::RtcpForeignSource));
    assert_eq!(world.rtcp(B, "10.0.0.2:5001"), to(A.rtcp(), "10.0.0.1:4001"));
}

#[test]
fn the_host_of_sip_is_of_one_opening_only() {
    let mut world = World::new();
    world.streams.expect_host(A, ip("203.0.113.1"));
    world.streams.expect_host(PairId(400), ip("203.0.113.1"));
    for _ in 0..2 {
        world.streams.open(A, Some(addr("192.168.1.5:4000")));
        let before = world.rtp(A, "203.0.113.1:61000", 1);
        assert_eq!(before, dropped(DropReason::RtpForeignSource));
        world.streams.expect_host(A, ip("203.0.113.1"));
        let after = world.rtp(A, "203.0.113.1:61000", 1);
        assert_eq!(after, dropped(DropReason::RtpLearning));
        world.streams.close(A);
    }
}

#[test]
fn hold_and_a_move() {
    let mut world = World::call();
    world.streams.set_remote(at(0), A, addr("0.0.0.0:4000"));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 2), dropped(DropReason::RtpNoPeer));
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 2), to(B.rtp(), "10.0.0.2:5000"));
    world.streams.set_remote(at(0), A, addr("10.0.0.7:4400"));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 3), to(A.rtp(), "10.0.0.7:4400"));
    assert_eq!(world.rtp(A, "10.0.0.7:4400", 3), to(B.rtp(), "10.0.0.2:5000"));
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 4), dropped(DropReason::RtpForeignSource));
}

#[test]
fn a_bridge_joins_two_and_leaves_the_third_alone() {
    let mut world = World::call();
    world.streams.open(C, Some(addr("10.0.0.3:6000")));
    world.streams.bridge(A, C);
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 2), to(C.rtp(), "10.0.0.3:6000"));
    assert_eq!(world.rtp(B, "10.0.0.2:5000", 2), dropped(DropReason::RtpNoPeer));
    world.streams.bridge(A, A);
    assert_eq!(world.rtp(A, "10.0.0.1:4000", 3), dropped(DropReason::RtpNoPeer));
    assert_eq!(world.rtp(C, "10.0.0.3:6000", 1), dropped(DropReason::RtpNoPeer));
    // Pairs that do not exist or are closed change nothing and are nobody.
    world.streams.bridge(A, PairId(3));
    world.streams.bridge(A, PairId(400));
    world.streams.open(PairId(400), None);
    assert_eq!(world.rtp(PairId(400), "10.0.0.1:4000", 4), dropped(DropReason::RtpUnbound));
    assert_eq!(world.rtcp(PairId(400), "10.0.0.1:4001"), dropped(DropReason::RtpUnbound));
}

#[test]
fn loss_by_its_table() {
    for (name, packets, refused, lost) in [
        ("none", &[(1u32, 1u16), (1, 2), (1, 3)][..], 0, 0),
        ("two", &[(1, 1), (1, 4)], 0, 2),
        ("wrapped", &[(1, 65_535), (1, 1)], 0, 1),
        ("reordered", &[(1, 1), (1, 3), (1, 2), (1, 4)], 0, 0),
        ("doubled", &[(1, 1), (1, 2), (1, 2), (1, 3)], 0, 0),
        ("a jump is not believed", &[(1, 1), (1, 30_000), (1, 30_002)], 2, 0),
        (
            "a new start after a loss",
            &[(1, 1), (1, 3), (1, 30_000), (1, 30_001), (1, 30_003)],
            1,
            2,
        ),
        ("a new start backwards", &[(1, 30_000), (1, 1), (1, 2), (1, 4)], 1, 1),
        ("ssrc 0", &[(0, 5), (0, 7)], 0, 1),
    ] {
        let mut world = World::new();
        world.streams.open(A, Some(addr("10.0.0.1:4000")));
        for (number, (ssrc, sequence)) in packets.iter().enumerate() {
            world.send(number as u64 * 20, A.rtp(), "10.0.0.1:4000", &rtp(*sequence, 0, *ssrc));
        }
        let stats = world.streams.stats(A);
        assert_eq!((stats.packets, stats.lost), (packets.len() as u64 - refused, lost), "{name}");
    }
}

#[test]
fn malformed_packets_have_their_reasons() {
    let mut world = World::call();
    let valid = rtp(1, 1, 7);
    for (bytes, reason) in [
        (&valid[..11], DropReason::RtpTooShort),
        (&[][..], DropReason::RtpTooShort),
        (&[0u8; 20][..], DropReason::RtpVersion),
    ] {
        assert_eq!(world.send(0, A.rtp(), "10.0.0.1:4000", bytes), dropped(reason));
    }
    assert_eq!(
        world.send(0, A.rtcp(), "10.0.0.1:4001", &valid),
        dropped(DropReason::RtcpMalformed)
    );
    let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
}

/// The jitter of RFC 3550, 6.4.1, in floating point.
fn jitter_by_the_book(arrivals: &[(u64, u32)]) -> f64 {
    let mut jitter = 0.0;
    for pair in arrivals.windows(2) {
        let between = pair[1].0 as f64 / 125_000.0 - pair[0].0 as f64 / 125_000.0;
        let sent = pair[1].1.wrapping_sub(pair[0].1) as i32;
        jitter += ((between - f64::from(sent)).abs() - jitter) / 16.0;
    }
    jitter
}

proptest! {
    #[test]
    fn jitter_is_the_rfcs(delays in prop::collection::vec(0u64..60_000_000, 2..200), first: u32) {
        let mut world = World::new();
        world.streams.open(A, Some(addr("10.0.0.1:4000")));
        let mut arrivals = Vec::new();
        for (number, delay) in delays.iter().enumerate() {
            let now = at(1_000) + Duration::from_nanos(number as u64 * 20_000_000 + delay);
            let timestamp = first.wrapping_add(number as u32 * 160);
            arrivals.push((now.as_nanos(), timestamp));
            let mut bytes = rtp(number as u16, timestamp, 7);
            let len = bytes.len();
            world.streams.forward(now, A.rtp(), addr("10.0.0.1:4000"), &mut Packet::new(&mut bytes, 0..len));
        }
        let expected = jitter_by_the_book(&arrivals);
        let counted = f64::from(world.streams.stats(A).jitter);
        prop_assert!((counted - expected).abs() <= 3.0, "{} {}", counted, expected);
    }

    /// Whatever arrives from anywhere, nothing panics, and only the locked source is ever sent to.
    #[test]
    fn garbage_harms_nobody(
        packets in prop::collection::vec(
            (0u32..12, 0u8..6, prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 1..100)
    ) {
        let mut world = World::call();
        for (socket, host, mut bytes, dress) in packets {
            if let (true, Some(first)) = (dress, bytes.first_mut()) { *first = 0x80; }
            let from = format!("10.0.1.{host}:4000");
            let verdict = world.send(0, SocketSlot(socket), &from, &bytes);
            prop_assert!(matches!(verdict, Verdict::Drop(_)));
        }
        prop_assert_eq!(world.rtp(A, "10.0.0.1:4000", 2), to(B.rtp(), "10.0.0.2:5000"));
        prop_assert_eq!(world.rtp(B, "10.0.0.2:5000", 2), to(A.rtp(), "10.0.0.1:4000"));
    }
}
