//! What goes past the process.

use super::*;
use crate::{FlowSpec, FlowStats, WhyNot};

const LOCAL: &str = "192.0.2.1:30000";
const OTHER: &str = "192.0.2.1:30002";

fn flow(world: &World) -> Result<FlowSpec, WhyNot> {
    world.streams.flow(A, addr(LOCAL), addr(OTHER))
}

/// What the bypass says after so many packets behind the first one, the last of them at a millisecond.
fn counted(packets: u64, ms: u64) -> FlowStats {
    let timestamp = packets as u32 * 160;
    FlowStats {
        packets,
        bytes: packets * 172,
        foreign: 2 * packets,
        newest: 1 + packets as u32,
        transit: (ms as u32 * 8).wrapping_sub(timestamp),
        jitter: 16 * 8,
        timestamp,
        foreigner: None,
    }
}

#[test]
fn a_flow_says_why_not() {
    let mut world = World::call();
    let spec = flow(&world).expect("it is locked on both sides");
    assert_eq!((spec.local, spec.source), (addr(LOCAL), addr("10.0.0.1:4000")));
    assert_eq!((spec.from, spec.to), (addr(OTHER), addr("10.0.0.2:5000")));
    assert_eq!((spec.ssrc, spec.newest, spec.splice, spec.telephone_event), (7, 1, None, None));
    world.streams.set_telephone_event(A, Some(101));
    assert_eq!(flow(&world).map(|spec| spec.telephone_event), Ok(Some(101)));
    world.streams.tap(A, true);
    assert_eq!(flow(&world), Err(WhyNot::Recording));
    world.streams.tap(A, false);
    world.streams.occupy(B, true);
    assert_eq!(flow(&world), Err(WhyNot::Prompt));
    world.streams.make(at(20), B, 0, false, 160, &[]).expect("B can be sent to");
    world.streams.occupy(B, false);
    assert_eq!(flow(&world), Err(WhyNot::Learning), "the splice comes with the next packet");
    let mut bytes = rtp(2, 0, 7);
    world.streams.forward(
        at(40),
        A.rtp(),
        addr("10.0.0.1:4000"),
        &mut Packet::new(&mut bytes, 0..172),
    );
    let splice = flow(&world).expect("it is spliced").splice.expect("and says how");
    assert_eq!((splice.ssrc, splice.sequence), (7, 1));
    world.streams.set_remote(at(60), B, addr("0.0.0.0:1"));
    assert_eq!(flow(&world), Err(WhyNot::NoPeer));
    world.streams.set_remote(at(60), B, addr("10.0.0.7:5000"));
    assert_eq!(flow(&world), Err(WhyNot::Learning));
    world.streams.unbridge(A);
    assert_eq!(flow(&world), Err(WhyNot::NoPeer));
    world.streams.close(A);
    assert_eq!(flow(&world), Err(WhyNot::NoPeer));
}

#[test]
fn counts_of_the_bypass_are_the_streams() {
    let mut world = World::call();
    world.streams.bypassed(A, true);
    for (packets, ms) in [(0, 0), (50, 1_000), (50, 1_000), (100, 2_000)] {
        world.streams.absorb(A, counted(packets, ms));
    }
    let stats = world.streams.stats(A);
    assert_eq!((stats.packets, stats.bytes, stats.foreign), (101, 101 * 172, 200));
    assert_eq!((stats.lost, stats.jitter, world.streams.stats(B).sent), (0, 8, 101));
    assert_eq!(world.streams.silent_since(A), at(2_000));
    assert_eq!(world.streams.quality(A).jitter_us, 1_000);
    // A late packet, and the next one, when the stream comes back.
    world.streams.bypassed(A, false);
    for sequence in [100, 102] {
        let sent = world.send(
            2_020,
            A.rtp(),
            "10.0.0.1:4000",
            &rtp(sequence, u32::from(sequence) * 160, 7),
        );
        assert_eq!(sent, to(B.rtp(), "10.0.0.2:5000"));
    }
    assert_eq!(world.streams.stats(A).packets, 103);
    // And once more, counted from zero.
    world.streams.bypassed(A, true);
    world.streams.absorb(A, FlowStats { newest: 112, packets: 10, ..counted(0, 2_200) });
    assert_eq!((world.streams.stats(A).packets, world.streams.stats(A).lost), (113, 0));
    let made = world.streams.make(at(2_220), B, 0, false, 160, &[]).expect("B can be sent to").2;
    assert_eq!(Rtp::parse(&made).expect("it is RTP").sequence(), 113);
}

#[test]
fn a_spliced_flow_is_gone_on_from() {
    let mut world = World::call();
    world.streams.make(at(20), B, 0, false, 160, &[]).expect("B can be sent to");
    let mut bytes = rtp(2, 160, 7);
    world.streams.forward(
        at(40),
        A.rtp(),
        addr("10.0.0.1:4000"),
        &mut Packet::new(&mut bytes, 0..172),
    );
    let splice = flow(&world).expect("it is spliced").splice.expect("and says how");
    world.streams.bypassed(A, true);
    world.streams.absorb(A, counted(50, 1_000));
    world.streams.bypassed(A, false);
    let made = world.streams.make(at(1_020), B, 0, false, 160, &[]).expect("B can be sent to").2;
    let rtp = Rtp::parse(&made).expect("it is RTP");
    assert_eq!(rtp.sequence(), 51u16.wrapping_add(splice.sequence).wrapping_add(1));
    assert_eq!(rtp.timestamp(), (50u32 * 160).wrapping_add(splice.timestamp).wrapping_add(160));
}

#[test]
fn nobody_takes_a_stream_whose_packets_go_past() {
    let mut world = World::call();
    world.streams.bypassed(A, true);
    // A forged packet, and what the bypass has counted until then; its clock stands still.
    let mut sequence = 0;
    let mut forge = |world: &mut World, ms: u64, relayed: u64| {
        world.streams.absorb(A, counted(relayed, 0));
        sequence += 1;
        let verdict = world.send(ms, A.rtp(), "10.0.0.1:4000", &rtp(sequence, 0, 8));
        verdict == to(B.rtp(), "10.0.0.2:5000")
    };
    // The locked one talks, but only the bypass hears it: 50, then 6 packets a second. Many forged ones
    // come at once, or none for long.
    for ms in (1_000..20_000).step_by(20) {
        assert!(!forge(&mut world, ms, ms / 20), "{ms} ms");
    }
    for ms in (20_000..40_000).step_by(20) {
        assert!(!forge(&mut world, ms, 1_000 + (ms - 20_000) / 160), "{ms} ms");
    }
    for ms in [40_000, 40_000, 40_000, 40_000, 45_000, 45_000, 45_000, 45_000, 45_199] {
        assert!(!forge(&mut world, ms, ms / 20), "{ms} ms");
    }
    // Then it does not.
    assert!(!forge(&mut world, 46_000, 2_300));
    assert!(!forge(&mut world, 46_020, 2_300));
    assert!(!forge(&mut world, 46_199, 2_300));
    // What is looked at meanwhile changes nothing, but packets do.
    world.streams.absorb(A, counted(2_301, 0));
    assert!(!forge(&mut world, 46_200, 2_301));
    assert!(!forge(&mut world, 46_399, 2_301));
    world.streams.absorb(A, counted(2_301, 0));
    assert!(forge(&mut world, 46_400, 2_301));
}
