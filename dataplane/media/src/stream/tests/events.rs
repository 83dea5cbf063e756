//! Telephone-events, each once.

use super::*;

/// At a millisecond: event, end bit, timestamp, duration in timestamp units.
type Packets = &'static [(u64, u8, bool, u32, u16)];

fn event(event: u8, ends: bool, timestamp: u32, duration: u16) -> [u8; 16] {
    let header = RtpHeader { marker: false, payload_type: 101, sequence: 9, timestamp, ssrc: 7 };
    let [high, low] = duration.to_be_bytes();
    let payload = [event, if ends { 0x8a } else { 0x0a }, high, low];
    [&header.bytes()[..], &payload].concat().try_into().expect("16 bytes")
}

/// A name, packets, and the digits with their milliseconds.
type Case = (&'static str, Packets, &'static [(u8, u16)]);

const TABLE: &[Case] = &[
    ("nothing", &[], &[]),
    (
        "a digit with three ends",
        &[
            (0, 5, false, 800, 160),
            (20, 5, false, 800, 320),
            (40, 5, true, 800, 480),
            (60, 5, true, 800, 480),
            (80, 5, true, 800, 480),
        ],
        &[(5, 60)],
    ),
    ("only an end came", &[(0, 11, true, 800, 800)], &[(11, 100)]),
    (
        "the same digit twice",
        &[
            (0, 1, true, 800, 800),
            (1, 1, true, 800, 800),
            (300, 1, false, 3_200, 80),
            (320, 1, true, 3_200, 400),
        ],
        &[(1, 100), (1, 50)],
    ),
    (
        "a lost end before the next digit",
        &[
            (0, 1, false, 800, 160),
            (20, 1, false, 800, 320),
            (90, 2, false, 1_600, 160),
            (110, 2, true, 1_600, 320),
        ],
        &[(1, 40), (2, 40)],
    ),
    (
        "a lost end before a digit's only end",
        &[(0, 1, false, 800, 160), (90, 2, true, 1_600, 320)],
        &[(1, 20), (2, 40)],
    ),
    ("a lost end", &[(0, 10, false, 800, 160), (20, 10, false, 800, 320)], &[(10, 40)]),
    (
        "late and reordered",
        &[
            (0, 1, false, 800, 320),
            (1, 1, false, 800, 160),
            (2, 1, true, 800, 480),
            (3, 1, false, 800, 320),
            (30, 2, false, 1_600, 160),
            (31, 1, true, 800, 480),
            (50, 2, true, 1_600, 320),
        ],
        &[(1, 60), (2, 40)],
    ),
    (
        "a long one in segments",
        &[
            (0, 3, false, 800, 65_535),
            (20, 3, false, 800 + 65_535, 160),
            (40, 3, true, 800 + 65_535, 320),
        ],
        &[(3, 8_231)],
    ),
    (
        "flash and a modem's tone",
        &[(0, 16, true, 800, 800), (90, 32, true, 1_600, 800)],
        &[(16, 100)],
    ),
    (
        "a clock that wraps",
        &[(0, 1, true, u32::MAX - 3, 80), (20, 2, true, 400, 80)],
        &[(1, 10), (2, 10)],
    ),
    (
        "a clock that went back",
        &[(0, 1, true, 9_000_000, 80), (20, 2, true, 400, 80)],
        &[(1, 10), (2, 10)],
    ),
];

fn pressed(streams: &mut Streams, ms: u64) -> Vec<(u8, u16)> {
    let digits = streams.digits(at(ms));
    digits
        .map(|(pair, digit)| {
            assert_eq!(pair, A);
            (digit.event, digit.duration_ms)
        })
        .collect()
}

#[test]
fn digits_by_their_table() {
    for (name, packets, wanted) in TABLE {
        let (mut through, mut past) = (World::call(), World::call());
        let mut told = [Vec::new(), Vec::new()];
        for world in [&mut through, &mut past] {
            world.streams.set_telephone_event(A, Some(101));
        }
        for (ms, number, ends, timestamp, duration) in *packets {
            let bytes = event(*number, *ends, *timestamp, *duration);
            let verdict = through.send(*ms, A.rtp(), "10.0.0.1:4000", &bytes);
            assert_eq!(verdict, to(B.rtp(), "10.0.0.2:5000"), "{name}: it is passed on");
            past.streams.telephone_event(at(*ms), A, &bytes);
            told[0].extend(pressed(&mut through.streams, *ms));
            told[1].extend(pressed(&mut past.streams, *ms));
        }
        for (told, world) in told.iter_mut().zip([&mut through, &mut past]) {
            told.extend(pressed(&mut world.streams, 10_000));
            assert_eq!(told, wanted, "{name}");
            assert_eq!(world.streams.digits_deadline(), None);
        }
    }
}

#[test]
fn a_lost_end_times_out() {
    let mut world = World::call();
    world.streams.set_telephone_event(A, Some(101));
    world.streams.telephone_event(at(50), A, &event(4, false, 800, 160));
    assert_eq!(world.streams.digits_deadline(), Some(at(250)));
    assert_eq!(pressed(&mut world.streams, 249), []);
    assert_eq!(pressed(&mut world.streams, 250), [(4, 20)]);
    // What still comes of it is no second digit.
    world.streams.telephone_event(at(260), A, &event(4, true, 800, 320));
    assert_eq!(pressed(&mut world.streams, 10_000), []);
    // A closed stream has no digits, and an opened one none of before.
    world.streams.telephone_event(at(300), A, &event(4, false, 8_000, 160));
    world.streams.close(A);
    assert_eq!(world.streams.digits_deadline(), None);
    assert_eq!(pressed(&mut world.streams, 10_000), []);
}

#[test]
fn only_events_of_the_source_and_the_type_count() {
    let mut world = World::call();
    let bytes = event(4, true, 800, 160);
    world.streams.telephone_event(at(0), A, &bytes);
    world.send(0, A.rtp(), "10.0.0.1:4000", &bytes);
    world.streams.set_telephone_event(A, Some(101));
    world.send(0, A.rtp(), "10.0.0.9:4000", &bytes);
    let mut other = bytes;
    other[11] = 8;
    world.streams.telephone_event(at(0), A, &other);
    world.send(0, A.rtp(), "10.0.0.1:4000", &bytes[..14]);
    world.streams.telephone_event(at(0), PairId(400), &bytes);
    assert_eq!(pressed(&mut world.streams, 0), []);
    world.streams.telephone_event(at(0), A, &bytes);
    assert_eq!(pressed(&mut world.streams, 0), [(4, 20)]);
}

#[test]
fn a_source_that_begins_anew_begins_its_events_anew() {
    let mut world = World::call();
    world.streams.set_telephone_event(A, Some(101));
    world.streams.telephone_event(at(0), A, &event(4, false, 80_000, 160));
    for sequence in 30_000..30_002 {
        world.send(20, A.rtp(), "10.0.0.1:4000", &rtp(sequence, 0, 7));
    }
    world.streams.telephone_event(at(40), A, &event(5, true, 79_000, 160));
    assert_eq!(pressed(&mut world.streams, 40), [(4, 20), (5, 20)]);
}
