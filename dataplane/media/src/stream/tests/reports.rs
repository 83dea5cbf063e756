//! RTCP that is read, and renamed where a sender is spliced.

use super::*;
use crate::wire::Rtcp;

/// A report block: its source, the share lost, the highest sequence number, LSR and DLSR.
type Block = (u32, u8, u32, u32, u32);

/// A sender report with the middle of its NTP timestamp, or a receiver report.
fn report(ssrc: u32, sender: Option<(u32, u32)>, blocks: &[Block]) -> Vec<u8> {
    let mut words = vec![ssrc];
    if let Some((middle, timestamp)) = sender {
        words.extend([middle >> 16, middle << 16, timestamp, 1, 160]);
    }
    for (ssrc, lost, highest, last, delay) in blocks {
        words.extend([*ssrc, u32::from(*lost) << 24, *highest, 0, *last, *delay]);
    }
    let packet_type = if sender.is_some() { 200 } else { 201 };
    packet(packet_type, blocks.len() as u8, &words)
}

fn packet(packet_type: u8, count: u8, words: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0x80 | count, packet_type, 0, words.len() as u8];
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    assert!(Rtcp::parse(&bytes).is_ok());
    bytes
}

impl World {
    /// What comes out of RTCP from A's peer to B's, or back.
    fn relay_rtcp(&mut self, ms: u64, pair: PairId, bytes: &[u8]) -> Vec<u8> {
        let (from, wanted) = match pair {
            A => ("10.0.0.1:4001", to(B.rtcp(), "10.0.0.2:5001")),
            _ => ("10.0.0.2:5001", to(A.rtcp(), "10.0.0.1:4001")),
        };
        let mut out = bytes.to_vec();
        let verdict = self.streams.forward(
            at(ms),
            pair.rtcp(),
            addr(from),
            &mut Packet::new(&mut out, 0..bytes.len()),
        );
        assert_eq!(verdict, wanted);
        out
    }
}

#[test]
fn the_round_trip_is_from_a_relayed_report_to_its_answer() {
    // The middle of the last report that is answered, what the peer says it held it, and when it answers.
    for (name, last, held_ms, ms, wanted) in [
        ("at once", 0xb705_2000u32, 0, 1_050, Some(50_000)),
        ("held", 0xb705_2000, 5_250, 6_300, Some(50_000)),
        ("the one before", 0xa000_0000, 0, 1_050, Some(550_000)),
        ("none heard yet", 0, 0, 1_050, None),
        ("an unknown one", 0x1111_1111, 0, 1_050, None),
        ("rounded below nothing", 0xb705_2000, 60, 1_050, Some(0)),
        ("beyond belief", 0xb705_2000, 0, 20_000, None),
    ] {
        let mut world = World::call();
        world.relay_rtcp(500, A, &report(7, Some((0xa000_0000, 1)), &[]));
        world.relay_rtcp(1_000, A, &report(7, Some((0xb705_2000, 1)), &[]));
        let answer =
            report(9, None, &[(1, 77, 0, 3, 3), (7, 64, 0, last, held_ms * 65_536 / 1_000)]);
        assert_eq!(world.relay_rtcp(ms, B, &answer), answer, "{name}: nothing is spliced");
        let quality = world.streams.quality(B);
        let near = |us: u32| us.next_multiple_of(1_000);
        assert_eq!(quality.round_trip_us.map(near), wanted, "{name}");
        assert_eq!(quality.reported_loss, Some(64), "{name}");
        assert_eq!(world.streams.quality(A).round_trip_us, None, "{name}");
    }
}

#[test]
fn reports_are_renamed_with_a_spliced_sender() {
    let mut world = World::call();
    // B's peer hears SSRC 7 from the call; then a prompt, and then A's peer with SSRC 8.
    world.streams.make(at(20), B, 0, false, 160, &[0; 160]).expect("B can be sent to");
    for sequence in 100..103 {
        world.send_spliced(400 + u64::from(sequence), &rtp(sequence, 5_000, 8));
    }
    // Out went 1 (relayed), 2 (made) and then 102 as 3.
    let shift = 3u32.wrapping_sub(102) as u16;
    let image = world.streams.image(B).splice.expect("it is spliced").0;
    assert_eq!((image.ssrc, image.sequence), (7, shift));
    let from_a = [
        report(8, Some((5, 5_000)), &[(7, 1, 9, 0, 0)]),
        packet(202, 1, &[8, 0x0103_6162, 0x6300_0000]),
        packet(203, 1, &[8]),
    ]
    .concat();
    let out = [
        report(7, Some((5, 5_000u32.wrapping_add(image.timestamp))), &[(7, 1, 9, 0, 0)]),
        packet(202, 1, &[7, 0x0103_6162, 0x6300_0000]),
        packet(201, 0, &[7]),
    ]
    .concat();
    assert_eq!(world.relay_rtcp(600, A, &from_a), out);
    // What B's peer says of 7, A's peer understands as of 8.
    let from_b = [
        report(7, None, &[(7, 9, 0x1_0003, 5, 0), (99, 1, 1, 1, 1)]),
        packet(206, 1, &[7, 7]),
        packet(207, 0, &[7, 0x0700_0008, 7, 0, 0, 0, 0, 0, 0, 0]),
    ]
    .concat();
    let out = [
        report(7, None, &[(8, 9, 0x1_0003 - u32::from(shift), 5, 0), (99, 1, 1, 1, 1)]),
        packet(206, 1, &[7, 8]),
        packet(207, 0, &[7, 0x0700_0008, 8, 0, 0, 0, 0, 0, 0, 0]),
    ]
    .concat();
    assert_eq!(world.relay_rtcp(650, B, &from_b), out);
    let quality = world.streams.quality(B);
    assert_eq!((quality.round_trip_us, quality.reported_loss), (Some(50_000), Some(9)));
}

impl World {
    fn send_spliced(&mut self, ms: u64, bytes: &[u8]) -> Verdict {
        let mut bytes = bytes.to_vec();
        let len = bytes.len();
        let packet = &mut Packet::new(&mut bytes, 0..len);
        self.streams.forward(at(ms), A.rtp(), addr("10.0.0.1:4000"), packet)
    }
}

#[test]
fn quality_needs_no_rtcp() {
    let mut world = World::call();
    assert_eq!(world.streams.quality(C), crate::Quality::default());
    for sequence in (2..=200).filter(|sequence| sequence % 20 != 0) {
        world.send(
            u64::from(sequence) * 20,
            A.rtp(),
            "10.0.0.1:4000",
            &rtp(sequence, u32::from(sequence) * 160, 7),
        );
    }
    world.send(4_020, A.rtp(), "10.0.0.1:4000", &rtp(201, 201 * 160, 7));
    let quality = world.streams.quality(A);
    assert!((quality.loss - 10.0 / 201.0).abs() < 1e-6 && quality.loss == quality.recent_loss);
    assert!((385..=395).contains(&quality.mos_hundredths), "{quality:?}");
    world.send(4_040, A.rtp(), "10.0.0.1:4000", &rtp(202, 202 * 160, 7));
    let quality = world.streams.quality(A);
    assert!(quality.recent_loss == 0.0 && quality.loss > 0.0);
    assert_eq!(world.streams.quality(B).mos_hundredths, 441);
}

proptest! {
    /// Whatever RTCP says, it is read, relayed and renamed without harm, and keeps its form.
    #[test]
    fn garbage_in_reports_harms_nobody(
        packets in prop::collection::vec((192u8..224, any::<u8>(), prop::collection::vec(6u32..10, 1..20)), 1..5)
    ) {
        let mut world = World::call();
        world.streams.make(at(20), A, 0, false, 160, &[0; 160]);
        world.streams.make(at(20), B, 0, false, 160, &[0; 160]);
        world.send_spliced(40, &rtp(2, 0, 7));
        let bytes = packets.iter().flat_map(|(kind, count, words)| packet(*kind, count & 0x1f, words));
        let bytes: Vec<u8> = bytes.collect();
        let out = world.relay_rtcp(60, A, &bytes);
        prop_assert!(Rtcp::parse(&out).is_ok());
        prop_assert_eq!(out.len(), bytes.len());
    }
}
