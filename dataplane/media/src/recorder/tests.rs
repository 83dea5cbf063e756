use std::time::Duration;

use base::Rng;
use proptest::prelude::*;

use super::*;
use crate::wire::RtpHeader;

const SSRC: u32 = 7;

fn at(samples: u64) -> Instant {
    Instant::from_nanos(5_000_000_000 + samples * 125_000)
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Got {
    /// Position, samples, first byte.
    Chunk(u64, u64, u8),
    Lost(u64, u64),
}

struct World {
    recorder: Recorder,
    got: Vec<Got>,
}

impl World {
    fn new() -> Self {
        World { recorder: Recorder::new(at(0)), got: Vec::new() }
    }

    fn send(&mut self, arrival: u64, header: RtpHeader, payload: &[u8]) {
        let mut bytes = header.bytes().to_vec();
        bytes.extend(payload);
        let rtp = Rtp::parse(&bytes).expect("it was just written");
        self.recorder.packet(at(arrival), &rtp, &mut |piece| self.got.push(note(piece)));
    }

    /// A packet of 20 ms of PCMU.
    fn pcmu(&mut self, arrival: u64, sequence: u16, timestamp: u32) {
        self.send(arrival, header(sequence, timestamp), &[sequence as u8; 160]);
    }

    fn finish(&mut self) -> Vec<Got> {
        self.recorder.finish(&mut |piece| self.got.push(note(piece)));
        self.got.sort_unstable();
        std::mem::take(&mut self.got)
    }
}

fn note(piece: Piece<'_>) -> Got {
    match piece {
        Piece::Chunk { position, payload, codec } => {
            assert_eq!(codec, Codec::Pcmu);
            assert!((1..=CHUNK_SAMPLES).contains(&payload.len()));
            Got::Chunk(position, payload.len() as u64, payload[0])
        }
        Piece::Lost { position, samples } => Got::Lost(position, samples),
    }
}

fn header(sequence: u16, timestamp: u32) -> RtpHeader {
    RtpHeader { marker: false, payload_type: 0, sequence, timestamp, ssrc: SSRC }
}

#[test]
fn lies_where_the_first_arrived_and_then_where_timestamps_say() {
    let mut world = World::new();
    world.pcmu(100, 65_535, u32::MAX - 79);
    // Jitter does not move it.
    world.pcmu(300, 0, 80);
    world.pcmu(420, 1, 240);
    // 1 s of silence, then speech again.
    world.pcmu(8_500, 2, 8_320);
    assert_eq!(
        world.finish(),
        [
            Got::Chunk(100, 160, 255),
            Got::Chunk(260, 160, 0),
            Got::Chunk(420, 160, 1),
            Got::Chunk(8_500, 160, 2)
        ]
    );
    assert_eq!(
        world.recorder.stats(),
        RecorderStats { recorded: 4, anchors: 1, ..Default::default() }
    );
}

#[test]
fn loss_is_told_when_it_is_certain() {
    let mut world = World::new();
    world.pcmu(0, 10, 0);
    world.pcmu(480, 13, 480);
    for sequence in 14..13 + REORDER_PACKETS {
        world.pcmu(u64::from(sequence - 10) * 160, sequence, u32::from(sequence - 10) * 160);
        let told = world.got.contains(&Got::Lost(160, 320));
        assert_eq!(told, sequence > 12 + REORDER_PACKETS, "{sequence}");
    }
    world.pcmu(12_000, 13 + REORDER_PACKETS, u32::from(3 + REORDER_PACKETS) * 160);
    assert!(world.got.contains(&Got::Lost(160, 320)));
    assert_eq!(world.recorder.stats().lost, 2);
    // Now it is too late.
    world.pcmu(12_100, 11, 160);
    assert_eq!(world.recorder.stats().surplus, 1);
    assert_eq!(world.finish().iter().filter(|got| matches!(got, Got::Lost(..))).count(), 1);
}

#[test]
fn a_pause_leaves_nothing_and_the_timeline_goes_on() {
    let mut world = World::new();
    let packet = |world: &mut World, index: u16| {
        world.pcmu(u64::from(index) * 160, index, u32::from(index) * 160);
    };
    packet(&mut world, 0);
    packet(&mut world, 1);
    world.recorder.pause();
    packet(&mut world, 2);
    packet(&mut world, 3);
    packet(&mut world, 6);
    world.recorder.resume(at(6 * 160 + 80));
    // These belong to the pause, whenever they come.
    packet(&mut world, 4);
    packet(&mut world, 5);
    packet(&mut world, 7);
    packet(&mut world, 9);
    let got = world.finish();
    assert_eq!(
        got,
        [
            Got::Chunk(0, 160, 0),
            Got::Chunk(160, 160, 1),
            Got::Chunk(1_120, 160, 7),
            Got::Chunk(1_440, 160, 9),
            Got::Lost(1_280, 160)
        ]
    );
    assert_eq!((world.recorder.stats().paused, world.recorder.stats().surplus), (3, 2));
}

#[test]
fn other_sources_and_jumps_lie_where_they_arrive() {
    let mut world = World::new();
    world.pcmu(0, 1, 1_000);
    // A jump of the timestamps, forth and back.
    world.pcmu(170, 2, 900_000);
    world.pcmu(330, 3, 5_000);
    // Another sequence.
    world.pcmu(500, 30_000, 5_160);
    // Timestamps stood still for 10 s of hold.
    world.pcmu(80_500, 30_001, 5_320);
    world.pcmu(80_665, 30_002, 5_480);
    // Another source, a little early: the timeline does not go back.
    world.send(80_700, RtpHeader { ssrc: 8, ..header(0, 0) }, &[9; 160]);
    let chunks = [(0, 1), (170, 2), (330, 3), (500, 48), (80_500, 49), (80_660, 50), (80_820, 9)];
    let expected = chunks.map(|(position, first)| Got::Chunk(position, 160, first));
    assert_eq!(world.finish(), expected);
    assert_eq!(world.recorder.stats().anchors, 6);
}

#[test]
fn a_network_that_held_back_for_a_second_moves_nothing() {
    let mut world = World::new();
    for index in 0..200u16 {
        let sent = u64::from(index) * 160;
        let arrival = if (8_000..16_000).contains(&sent) { 16_000 } else { sent };
        world.pcmu(arrival, index, sent as u32);
    }
    let expected: Vec<Got> = (0..200).map(|i| Got::Chunk(i * 160, 160, i as u8)).collect();
    assert_eq!(world.finish(), expected);
}

#[test]
fn digits_keep_their_place_and_long_packets_are_cut() {
    let mut world = World::new();
    world.pcmu(0, 0, 0);
    let event = |sequence| RtpHeader { payload_type: 101, ..header(sequence, 160) };
    for sequence in 1..=7 {
        world.send(u64::from(sequence) * 160, event(sequence), &[1, 10, 0, 160]);
    }
    world.send(1_280, header(8, 1_280), &[8; 1_000]);
    assert_eq!(
        world.finish(),
        [
            Got::Chunk(0, 160, 0),
            Got::Chunk(1_280, 480, 8),
            Got::Chunk(1_760, 480, 8),
            Got::Chunk(2_240, 40, 8)
        ]
    );
    assert_eq!((world.recorder.stats().foreign, world.recorder.stats().lost), (7, 0));
}

#[test]
fn comfort_noise_is_silence_and_the_timeline_goes_on() {
    let mut world = World::new();
    world.pcmu(0, 0, 0);
    // A frame of comfort noise each 200 ms for 10 s (RFC 3389), late by up to 60 ms.
    for index in 1..50u16 {
        let time = u32::from(index) * 1_600;
        let noise = RtpHeader { payload_type: 13, ..header(index, time) };
        world.send(u64::from(time) + u64::from(index) * 77 % 480, noise, &[60]);
    }
    world.pcmu(80_300, 50, 80_000);
    // Sound that is lost beside comfort noise is at most as long as a packet.
    world.send(81_600, RtpHeader { payload_type: 13, ..header(52, 81_600) }, &[60]);
    world.pcmu(83_200, 53, 83_200);
    assert_eq!(
        world.finish(),
        [
            Got::Chunk(0, 160, 0),
            Got::Chunk(80_000, 160, 50),
            Got::Chunk(83_200, 160, 53),
            Got::Lost(80_160, 160)
        ]
    );
    assert_eq!(world.recorder.stats().anchors, 1);
}

/// A stream through a network that loses, doubles and reorders within a window.
fn deliver(rng: &mut Rng, packets: u64, loss: u64, doubled: u64, window: u64) -> Vec<u64> {
    let mut order = Vec::new();
    for index in 0..packets {
        if rng.chance(loss) {
            continue;
        }
        order.push((index + rng.below(window + 1), index));
        if rng.chance(doubled) {
            order.push((index + rng.below(window + 1), index));
        }
    }
    order.sort_by_key(|&(time, _)| time);
    order.into_iter().map(|(_, index)| index).collect()
}

proptest! {
    #[test]
    fn the_timeline_is_sample_accurate(
        seed: u64, sequence: u16, timestamp: u32, length in prop::sample::select(&[80u64, 160, 240, 480]),
        loss in 0u64..40, doubled in 0u64..30, window in 0u64..30, ahead in 0u64..20_000,
    ) {
        let order = deliver(&mut Rng::from_number(seed), 400, loss, doubled, window);
        let Some(&first) = order.first() else { return Ok(()) };
        let mut world = World::new();
        let mut time = 0;
        for &index in &order {
            // Never before it was sent, and in the order of delivery.
            time = time.max(ahead + index * length);
            let header = header(
                sequence.wrapping_add(index as u16),
                timestamp.wrapping_add((index * length) as u32),
            );
            world.send(time, header, &vec![index as u8; length as usize]);
        }
        let got = world.finish();

        // Packet n of the stream lies here; the first one that came lies where it arrived.
        let origin = (ahead + first * length) as i64 - (first * length) as i64;
        let place = |index: u64| u64::try_from(origin + (index * length) as i64).ok();
        let mut delivered: Vec<u64> = order.clone();
        delivered.sort_unstable();
        delivered.dedup();
        let chunks: Vec<Got> = delivered.iter()
            .filter_map(|&index| Some(Got::Chunk(place(index)?, length, index as u8)))
            .collect();
        let got_chunks: Vec<Got> =
            got.iter().copied().filter(|got| matches!(got, Got::Chunk(..))).collect();
        prop_assert_eq!(got_chunks, chunks);

        // What was not delivered after the first one to come is lost, each sample once.
        let last = *delivered.last().expect("one was delivered");
        let missing: Vec<u64> = (first..last)
            .filter(|index| delivered.binary_search(index).is_err())
            .flat_map(|index| { let from = place(index).unwrap_or(0); from..from + length })
            .collect();
        let mut lost: Vec<u64> = got.iter()
            .filter_map(|got| match *got { Got::Lost(from, samples) => Some(from..from + samples), _ => None })
            .flatten()
            .collect();
        lost.sort_unstable();
        prop_assert_eq!(lost, missing);
        prop_assert_eq!(world.recorder.stats().anchors, 1);
        prop_assert!(world.recorder.gaps.is_empty());
    }

    #[test]
    fn anything_is_survived_and_the_gaps_are_bounded(
        packets in prop::collection::vec(
            (any::<u16>(), any::<u32>(), 0u8..10, 0usize..1_000, 0u64..200_000, 0u8..3, 0u8..20), 0..300),
        near: bool,
    ) {
        let mut world = World::new();
        let mut time = at(0);
        for (sequence, timestamp, payload_type, length, pass, ssrc, pause) in packets {
            time = time + Duration::from_micros(pass);
            let (sequence, timestamp) = if near { (sequence % 100, timestamp % 20_000) } else { (sequence, timestamp) };
            let header = RtpHeader {
                marker: false, payload_type: if payload_type == 8 { 101 } else { 0 }, sequence, timestamp, ssrc: ssrc.into(),
            };
            let mut bytes = header.bytes().to_vec();
            bytes.extend(vec![1; length]);
            let rtp = Rtp::parse(&bytes).expect("it was just written");
            world.recorder.packet(time, &rtp, &mut |piece| world.got.push(note(piece)));
            match pause { 0 => world.recorder.pause(), 1 => world.recorder.resume(time), _ => {} }
            prop_assert!(world.recorder.gaps.len() <= GAPS + 1);
        }
        world.finish();
    }
}
