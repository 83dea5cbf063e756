//! What a peer hears when packets are relayed and made by turns.

use proptest::prelude::*;

use super::*;

const FROM: &str = "10.0.0.1:4000";

/// What went to B's peer: SSRC, sequence number, timestamp.
type Out = (u32, u16, u32);

fn numbers(bytes: &[u8]) -> Out {
    let rtp = Rtp::parse(bytes).expect("what goes out is RTP");
    (rtp.ssrc(), rtp.sequence(), rtp.timestamp())
}

impl World {
    fn relay(&mut self, ms: u64, sequence: u16, timestamp: u32, ssrc: u32) -> Result<Out, Verdict> {
        let mut bytes = rtp(sequence, timestamp, ssrc);
        let len = bytes.len();
        let verdict =
            self.streams.forward(at(ms), A.rtp(), addr(FROM), &mut Packet::new(&mut bytes, 0..len));
        let same = rtp(sequence, timestamp, ssrc);
        assert_eq!(bytes[..2], same[..2]);
        assert_eq!(bytes[12..], same[12..], "the payload is untouched");
        match verdict {
            Verdict::Send { .. } => {
                assert_eq!(verdict, to(B.rtp(), "10.0.0.2:5000"));
                Ok(numbers(&bytes))
            }
            other => Err(other),
        }
    }

    fn make(&mut self, ms: u64, advance: u32) -> Out {
        let made = self.streams.make(at(ms), B, 8, false, advance, &[0xd5; 160]);
        let (socket, remote, bytes) = made.expect("B can be sent to");
        assert_eq!((socket, remote), (B.rtp(), addr("10.0.0.2:5000")));
        assert_eq!(bytes.len(), 172);
        numbers(&bytes)
    }
}

/// A call in which A's peer has sent packets 1 and 2, the second at 20 ms with timestamp 1160.
fn talking() -> World {
    let mut world = World::new();
    world.streams.open(A, Some(addr(FROM)));
    world.streams.open(B, Some(addr("10.0.0.2:5000")));
    world.streams.bridge(A, B);
    assert_eq!(world.relay(0, 1, 1_000, 7), Ok((7, 1, 1_000)));
    assert_eq!(world.relay(20, 2, 1_160, 7), Ok((7, 2, 1_160)));
    world
}

#[test]
fn a_prompt_between_relayed_packets_is_one_sender() {
    let mut world = talking();
    world.streams.occupy(B, true);
    assert_eq!(world.relay(40, 3, 1_320, 7), Err(dropped(DropReason::RtpSuperseded)));
    world.streams.tap(A, true);
    assert_eq!(world.relay(60, 4, 1_480, 7), Err(Verdict::Consume));
    // The first goes on with the time that passed, the others as they are told.
    assert_eq!(world.make(60, 0), (7, 3, 1_480));
    assert_eq!(world.make(80, 160), (7, 4, 1_640));
    assert_eq!(world.make(80, 0), (7, 5, 1_640));
    world.streams.occupy(B, false);
    assert_eq!(world.relay(100, 6, 1_800, 7), Ok((7, 6, 1_800)));
    assert_eq!(world.relay(120, 8, 2_120, 7), Ok((7, 8, 2_120)));
    assert_eq!(world.relay(121, 7, 1_960, 7), Ok((7, 7, 1_960)));
    // From before the prompt's last packet.
    assert_eq!(world.relay(122, 5, 1_640, 7), Err(Verdict::Consume));
    assert_eq!(world.streams.stats(B).sent, 8);
}

#[test]
fn another_source_takes_the_splice_over() {
    let mut world = talking();
    let (ssrc, sequence, timestamp) = world.make(40, 160);
    assert_eq!((ssrc, sequence, timestamp), (7, 3, 1_320));
    // A's phone changes its synchronization source after a silence.
    for (number, ms) in [300, 320].into_iter().enumerate() {
        let verdict = world.relay(ms, 500 + number as u16, 99_000, 8);
        assert_eq!(verdict, Err(dropped(DropReason::RtpForeignSsrc)));
    }
    assert_eq!(world.relay(340, 502, 99_320, 8), Ok((7, 4, 1_320 + 2_400)));
    assert_eq!(world.relay(360, 503, 99_480, 8), Ok((7, 5, 1_320 + 2_560)));
    // C takes A's place.
    world.streams.open(C, Some(addr("10.0.0.3:6000")));
    world.streams.bridge(C, B);
    let mut bytes = rtp(9, 9, 9);
    let verdict = world.streams.forward(
        at(380),
        C.rtp(),
        addr("10.0.0.3:6000"),
        &mut Packet::new(&mut bytes, 0..172),
    );
    assert_eq!((verdict, numbers(&bytes)), (to(B.rtp(), "10.0.0.2:5000"), (7, 6, 1_320 + 2_720)));
}

#[test]
fn a_leg_that_heard_nobody_hears_a_sender_of_ours() {
    let mut world = World::new();
    world.streams.open(B, None);
    assert_eq!(world.streams.make(at(0), B, 0, true, 0, &[]), None);
    world.streams.set_remote(at(0), B, addr("10.0.0.2:5000"));
    let (ssrc, sequence, timestamp) = world.make(20, 160);
    assert_eq!(world.make(40, 160), (ssrc, sequence + 1, timestamp.wrapping_add(160)));
    world.streams.set_remote(at(0), B, addr("0.0.0.0:5000"));
    assert_eq!(world.streams.make(at(60), B, 0, true, 160, &[]), None);
    let mut other = World::new();
    other.streams.seed(1);
    other.streams.open(B, Some(addr("10.0.0.2:5000")));
    assert_ne!(other.make(20, 160).0, ssrc);
    // Then it is joined, and the one it hears stays.
    world.streams.set_remote(at(0), B, addr("10.0.0.2:5000"));
    world.streams.open(A, Some(addr(FROM)));
    world.streams.bridge(A, B);
    assert_eq!(world.relay(60, 1, 1, 7), Ok((ssrc, sequence + 2, timestamp.wrapping_add(320))));
}

#[test]
fn what_was_sent_before_a_part_is_gone_on_from() {
    let mut world = talking();
    world.streams.unbridge(A);
    assert_eq!(world.relay(40, 3, 1_320, 7), Err(dropped(DropReason::RtpNoPeer)));
    assert_eq!(world.make(40, 160), (7, 3, 1_320));
    // C was never heard before it is parted again: what is gone on from stays.
    let mut world = talking();
    world.streams.open(C, Some(addr("10.0.0.3:6000")));
    world.streams.bridge(C, B);
    assert_eq!(world.make(40, 160), (7, 3, 1_320));
}

#[test]
fn a_tapped_stream_of_nobody_is_consumed() {
    let mut world = World::call();
    world.streams.unbridge(A);
    world.streams.tap(A, true);
    assert!(world.streams.is_tapped(A) && !world.streams.is_tapped(B));
    assert_eq!(world.rtp(A, FROM, 2), Verdict::Consume);
    world.streams.tap(A, false);
    assert_eq!(world.rtp(A, FROM, 3), dropped(DropReason::RtpNoPeer));
    // A tap of a joined stream changes nothing of where it goes.
    world.streams.bridge(A, B);
    world.streams.tap(A, true);
    assert_eq!(world.rtp(A, FROM, 4), to(B.rtp(), "10.0.0.2:5000"));
    assert_eq!(world.rtp(A, "10.0.0.9:1", 5), dropped(DropReason::RtpForeignSource));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Relay,
    Lose(u8),
    Late(u8),
    Make(u8),
    Occupy(bool),
    Rejoin,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Relay),
        1 => (1u8..20).prop_map(Step::Lose),
        1 => (1u8..20).prop_map(Step::Late),
        4 => (1u8..3).prop_map(Step::Make),
        1 => any::<bool>().prop_map(Step::Occupy),
        1 => Just(Step::Rejoin),
        1 => (0u16..500).prop_map(Step::Wait),
    ]
}

proptest! {
    /// However packets are relayed, lost, late and made, the peer hears one SSRC; every packet that does
    /// not go on from one of the same origin has the next sequence number and a later timestamp; one that
    /// does keeps its distance; and no number is used twice.
    #[test]
    fn a_peer_hears_one_sender(first: u16, start: u32, steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        world.streams.open(A, Some(addr(FROM)));
        world.streams.open(B, Some(addr("10.0.0.2:5000")));
        world.streams.bridge(A, B);
        // The source's next packet, as a count; the last relayed and the newest that went out.
        let (mut next, mut ms) = (0u32, 0u64);
        let mut relayed: Option<(u32, Out)> = None;
        let mut newest: Option<Out> = None;
        let mut used = std::collections::HashSet::new();
        let mut spliced = false;
        let source = |count: u32| (first.wrapping_add(count as u16), start.wrapping_add(count * 160));
        for step in steps {
            let count = match step {
                Step::Relay => { next += 1; next - 1 }
                Step::Late(by) if next > u32::from(by) + 1 => next - 1 - u32::from(by),
                Step::Late(_) => continue,
                Step::Lose(packets) => { next += u32::from(packets); continue }
                Step::Wait(time) => { ms += u64::from(time); continue }
                Step::Occupy(on) => { world.streams.occupy(B, on); continue }
                Step::Rejoin => {
                    world.streams.unbridge(A);
                    world.streams.bridge(A, B);
                    continue
                }
                Step::Make(frames) => {
                    ms += 20;
                    let out = world.make(ms, u32::from(frames) * 160);
                    if let Some((ssrc, sequence, timestamp)) = newest {
                        // The first one goes on from the newest that came, which may not have gone out.
                        let step = out.1.wrapping_sub(sequence);
                        prop_assert!(step == 1 || (!spliced && (1..0x8000).contains(&step)), "{step}");
                        prop_assert_eq!(out.0, ssrc);
                        let ahead = out.2.wrapping_sub(timestamp).cast_signed();
                        prop_assert!(ahead > 0, "{} after {}", out.2, timestamp);
                    }
                    prop_assert!(used.insert(out.1));
                    (newest, relayed, spliced) = (Some(out), None, true);
                    continue
                }
            };
            ms += 20;
            let (sequence, timestamp) = source(count);
            let Ok(out) = world.relay(ms, sequence, timestamp, 7) else { continue };
            if !spliced {
                prop_assert_eq!(out, (7, sequence, timestamp));
            } else if let (Some((before, last)), true) = (relayed, newest.is_some()) {
                let sequence = last.1.wrapping_add(count.wrapping_sub(before) as u16);
                let timestamp = last.2.wrapping_add(count.wrapping_sub(before).wrapping_mul(160));
                prop_assert_eq!(out, (last.0, sequence, timestamp));
            } else if let Some((ssrc, sequence, timestamp)) = newest {
                prop_assert_eq!((out.0, out.1), (ssrc, sequence.wrapping_add(1)));
                prop_assert!(out.2.wrapping_sub(timestamp).cast_signed() > 0);
            }
            // A late one may be a repetition of the source's own.
            let is_new = used.insert(out.1);
            prop_assert!(is_new || matches!(step, Step::Late(_)));
            relayed = Some((count, out));
            if newest.is_none_or(|newest| out.1.wrapping_sub(newest.1).cast_signed() > 0) {
                newest = Some(out);
            }
        }
    }
}
