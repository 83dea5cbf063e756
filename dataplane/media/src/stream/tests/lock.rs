//! The lock's synchronization source and sequence window, and who is told of as foreign.

use proptest::prelude::*;

use super::*;

const FROM: &str = "10.0.0.1:4000";

/// A packet at a millisecond with an SSRC, a sequence number and a timestamp, and its verdict.
type Track = &'static [(u64, u32, u16, u32, Option<DropReason>)];

#[test]
fn the_window_by_its_table() {
    use DropReason::{RtpForeignSsrc as Ssrc, RtpSequence as Sequence};
    let table: &[(&str, Track)] = &[
        (
            "late ones pass",
            &[(0, 7, 500, 0, None), (1, 7, 400, 0, None), (2, 7, 399, 0, Some(Sequence))],
        ),
        ("a gap passes", &[(0, 7, 1, 0, None), (1, 7, 3_000, 0, None), (2, 7, 3_001, 0, None)]),
        (
            "a dropout does not",
            &[(0, 7, 1, 0, None), (1, 7, 3_001, 0, Some(Sequence)), (2, 7, 2, 0, None)],
        ),
        (
            "two in a row do",
            &[
                (0, 7, 1, 0, None),
                (1, 7, 9_000, 0, Some(Sequence)),
                (2, 7, 9_001, 0, None),
                (3, 7, 9_002, 0, None),
                (4, 7, 3, 0, Some(Sequence)),
            ],
        ),
        (
            "two apart do not",
            &[
                (0, 7, 1, 0, None),
                (1, 7, 9_000, 0, Some(Sequence)),
                (2, 7, 9_002, 0, Some(Sequence)),
            ],
        ),
        (
            "silence and a jump of the timestamp",
            &[(0, 7, 1, 0, None), (90_000, 7, 2, 720_000, None), (90_020, 7, 3, 5, None)],
        ),
        (
            "another source while the locked one talks",
            &[
                (0, 7, 1, 0, None),
                (5, 8, 1, 0, Some(Ssrc)),
                (25, 8, 2, 0, Some(Ssrc)),
                (45, 8, 3, 0, Some(Ssrc)),
                (199, 8, 4, 0, Some(Ssrc)),
                (199, 7, 2, 0, None),
                (390, 8, 5, 0, Some(Ssrc)),
            ],
        ),
        (
            "another source after the locked one",
            &[
                (0, 7, 1, 0, None),
                (100, 8, 1, 0, Some(Ssrc)),
                (200, 8, 2, 0, Some(Ssrc)),
                (220, 8, 3, 0, None),
                (240, 7, 2, 0, Some(Ssrc)),
                (260, 8, 4, 0, None),
            ],
        ),
        (
            "many other sources",
            &[
                (0, 7, 1, 0, None),
                (300, 8, 1, 0, Some(Ssrc)),
                (301, 9, 2, 0, Some(Ssrc)),
                (302, 8, 2, 0, Some(Ssrc)),
                (303, 8, 4, 0, Some(Ssrc)),
                (304, 8, 5, 0, Some(Ssrc)),
            ],
        ),
        ("ssrc 0 first", &[(0, 0, 60_000, 0, None), (1, 0, 60_001, 0, None)]),
    ];
    for (name, track) in table {
        let mut world = World::new();
        world.streams.open(A, Some(addr(FROM)));
        world.streams.open(B, Some(addr("10.0.0.2:5000")));
        world.streams.bridge(A, B);
        for (number, (ms, ssrc, sequence, timestamp, reason)) in track.iter().enumerate() {
            let verdict = world.send(*ms, A.rtp(), FROM, &rtp(*sequence, *timestamp, *ssrc));
            let wanted = reason.map_or(to(B.rtp(), "10.0.0.2:5000"), dropped);
            assert_eq!(verdict, wanted, "{name}: packet {number}");
        }
    }
}

#[test]
fn a_phone_that_moves_may_keep_its_numbers_or_not() {
    for ssrc in [7, 8] {
        let mut world = World::call();
        world.streams.set_remote(at(0), A, addr("10.0.0.7:4400"));
        let moved = world.send(20, A.rtp(), "10.0.0.7:4400", &rtp(2, 0, ssrc));
        assert_eq!(moved, to(B.rtp(), "10.0.0.2:5000"));
        assert_eq!(world.streams.stats(A).ssrc, ssrc);
        assert_eq!((world.streams.stats(A).packets, world.streams.stats(A).lost), (2, 0));
        assert_eq!(world.streams.silent_since(A), at(20));
    }
}

#[test]
fn foreign_sources_are_told_now_and_then() {
    let mut world = World::new();
    world.streams.open(A, None);
    world.send(0, A.rtp(), "10.0.0.9:1", &rtp(1, 0, 1));
    assert_eq!(world.streams.take_foreign(), None, "nobody is known yet");
    world.streams.set_remote(at(0), A, addr(FROM));
    world.send(0, A.rtp(), FROM, &rtp(1, 0, 1));
    let mut told = Vec::new();
    for ms in 0..2_500 {
        let from = format!("10.0.0.9:{}", 10_000 + ms);
        world.send(ms, A.rtp(), &from, &rtp(1, 0, 1));
        told.extend(std::iter::from_fn(|| world.streams.take_foreign()));
    }
    assert_eq!(told, [0, 1_000, 2_000].map(|ms| (A, addr(&format!("10.0.0.9:{}", 10_000 + ms)))));
    // What the phone sent before it moved is no attack.
    world.streams.set_remote(at(5_000), A, addr("10.0.0.7:4400"));
    world.send(5_000, A.rtp(), "10.0.0.7:4400", &rtp(2, 0, 1));
    assert_eq!(
        world.send(5_001, A.rtp(), FROM, &rtp(3, 0, 1)),
        dropped(DropReason::RtpForeignSource)
    );
    assert_eq!(world.streams.take_foreign(), None);
    // RTCP counts as well, and memory is bounded.
    let mut streams = Streams::new(1_000);
    for pair in (0..1_000).map(PairId) {
        streams.open(pair, Some(addr(FROM)));
        let mut bytes = RTCP;
        streams.forward(at(0), pair.rtcp(), addr("10.0.0.9:9"), &mut Packet::new(&mut bytes, 0..8));
    }
    let told = std::iter::from_fn(|| streams.take_foreign()).count();
    assert_eq!(told, 64);
}

proptest! {
    /// Whatever is sent from elsewhere, or from the locked address with another SSRC while the locked one
    /// talks, is never relayed, and never changes where media goes or who is heard.
    #[test]
    fn no_attack_takes_a_stream(
        packets in prop::collection::vec(
            (0u8..4, 0u8..3, any::<u16>(), 8u32..11, 0u64..60, any::<bool>()), 1..200),
        talk in prop::collection::vec(1u64..150, 200),
    ) {
        let mut world = World::call();
        let sources = ["10.0.0.1:4000", "10.0.0.1:4002", "10.0.0.66:4000", "10.0.0.2:5000"];
        let (mut ms, mut due, mut sequence, mut talk) = (0u64, 0u64, 1u16, talk.into_iter());
        for (source, socket, number, ssrc, wait, in_a_row) in packets {
            ms += wait;
            while due <= ms {
                sequence += 1;
                let sent = world.send(due, A.rtp(), FROM, &rtp(sequence, u32::from(sequence) * 160, 7));
                prop_assert_eq!(sent, to(B.rtp(), "10.0.0.2:5000"));
                due += talk.next().unwrap_or(100);
            }
            let number = if in_a_row { (ms / 7) as u16 } else { number };
            let bytes = rtp(number, 0, ssrc);
            let verdict = match socket {
                0 | 1 => world.send(ms, A.rtp(), sources[usize::from(source)], &bytes),
                _ => world.send(ms, A.rtcp(), "10.0.0.66:4001", &RTCP),
            };
            prop_assert!(matches!(verdict, Verdict::Drop(_)), "{:?}", verdict);
            let back = world.send(ms, B.rtp(), "10.0.0.2:5000", &rtp(sequence, 0, 7));
            prop_assert_eq!(back, to(A.rtp(), FROM));
        }
        let stats = world.streams.stats(A);
        prop_assert_eq!((stats.locked, stats.ssrc, stats.lost), (Some(addr(FROM)), 7, 0));
    }
}
