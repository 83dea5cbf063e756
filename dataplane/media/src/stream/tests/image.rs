//! A stream that is put down and taken up again.

use super::*;

/// What a process that was killed left behind, taken up by the next.
fn next_process(world: &World) -> World {
    let mut next = World::new();
    for pair in [A, B] {
        next.streams.restore(pair, &world.streams.image(pair));
    }
    next.streams.bridge(A, B);
    for pair in [A, B] {
        assert_eq!(next.streams.image(pair), world.streams.image(pair));
        assert_eq!(next.streams.stats(pair), world.streams.stats(pair));
    }
    next
}

/// The same packet to both; both send the same.
fn both(first: &mut World, second: &mut World, ms: u64, pair: PairId, from: &str, bytes: &[u8]) {
    let outs = [first, second].map(|world| {
        let mut out = bytes.to_vec();
        let packet = &mut Packet::new(&mut out, 0..bytes.len());
        let verdict = world.streams.forward(at(ms), pair.rtp(), addr(from), packet);
        (verdict, out)
    });
    assert_eq!(outs[0], outs[1], "{ms} ms from {from}");
}

fn go_on_alike(mut world: World) {
    let mut next = next_process(&world);
    for number in 0..20u16 {
        let ms = 1_000 + u64::from(number) * 20;
        let bytes = rtp(10 + number * 2, u32::from(number) * 160, 7);
        both(&mut world, &mut next, ms, A, "10.0.0.1:4000", &bytes);
        both(&mut world, &mut next, ms, A, "10.0.0.66:4000", &bytes);
        both(&mut world, &mut next, ms, A, "10.0.0.1:4000", &rtp(number, 0, 8));
        both(&mut world, &mut next, ms, B, "10.0.0.2:5000", &bytes);
    }
    for pair in [A, B] {
        assert_eq!(world.streams.stats(pair), next.streams.stats(pair));
        let made = [&mut world, &mut next]
            .map(|world| world.streams.make(at(1_400), pair, 0, false, 160, &[1]));
        let numbers = made.map(|made| {
            made.map(|(_, remote, bytes)| (remote, bytes[2..4].to_vec(), bytes[8..].to_vec()))
        });
        assert_eq!(numbers[0], numbers[1]);
    }
}

#[test]
fn a_plain_call() {
    let world = World::call();
    // What is made at once goes on from what was relayed before.
    let mut next = next_process(&world);
    let made = next.streams.make(at(20), B, 0, false, 160, &[]).expect("B can be sent to").2;
    let rtp = Rtp::parse(&made).expect("it is RTP");
    assert_eq!((rtp.ssrc(), rtp.sequence(), rtp.timestamp()), (7, 2, 160));
    assert_eq!(world.streams.image(C), StreamImage::default());
    go_on_alike(world);
}

#[test]
fn a_call_with_all_that_can_be_told() {
    let mut world = natted_call();
    world.streams.set_telephone_event(A, Some(101));
    world.streams.tap(A, true);
    world.rtp(A, "10.0.0.66:9", 1);
    world.streams.bypassed(A, true);
    let newest = world.streams.image(A).newest;
    let stats =
        crate::FlowStats { packets: 50, newest: newest + 52, foreign: 3, ..Default::default() };
    world.streams.absorb(A, stats);
    assert_eq!(world.streams.stats(A).lost, 2);
    let mut next = next_process(&world);
    // The bypass went on counting.
    for world in [&mut world, &mut next] {
        let stats =
            crate::FlowStats { packets: 70, newest: newest + 72, foreign: 4, ..Default::default() };
        world.streams.absorb(A, stats);
    }
    assert_eq!(world.streams.stats(A), next.streams.stats(A));
    assert_eq!((next.streams.stats(A).lost, next.streams.stats(A).foreign), (2, 5));
    assert_eq!(next.rtp(B, "10.0.0.2:5000", 2), to(A.rtp(), "203.0.113.1:61000"));
    assert_eq!(next.rtcp(A, "203.0.113.1:61001"), to(B.rtcp(), "10.0.0.2:5001"));
}

#[test]
fn a_spliced_call() {
    let mut world = World::call();
    for pair in [A, B] {
        world.streams.make(at(20), pair, 0, false, 160, &[]).expect("it can be sent to");
    }
    for sequence in 2..5u16 {
        let mut bytes = rtp(sequence, u32::from(sequence) * 160, 7);
        let packet = &mut Packet::new(&mut bytes, 0..172);
        world.streams.forward(at(u64::from(sequence) * 20), A.rtp(), addr("10.0.0.1:4000"), packet);
    }
    assert!(world.streams.image(B).splice.is_some() && world.streams.image(A).splice.is_none());
    go_on_alike(world);
}

#[test]
fn a_prompt_in_a_held_call_that_learns() {
    let mut world = World::call();
    world.streams.occupy(B, true);
    world.streams.make(at(20), B, 0, false, 160, &[]).expect("it can be sent to");
    world.streams.set_remote(at(30), A, addr("0.0.0.0:4000"));
    go_on_alike(world);
    let mut world = World::call();
    world.streams.occupy(B, true);
    go_on_alike(world);
    let mut world = World::new();
    world.streams.open(A, Some(addr("10.0.0.1:4000")));
    world.streams.open(B, None);
    world.streams.bridge(A, B);
    go_on_alike(world);
}
