//! Streams that are encrypted on one side, or on both, and RTCP by the port of RTP.

use super::*;
use crate::srtp::{Inbound, MasterKey, Mki, Outbound};
use crate::{Keys, WhyNot};

fn key(byte: u8) -> MasterKey {
    MasterKey { key: [byte; 16], salt: [byte + 1; 14], ..MasterKey::default() }
}

/// What we and the peer of a pair encrypt with.
fn keys(pair: PairId) -> Keys {
    let byte = pair.0 as u8 * 10;
    Keys { ours: key(byte), theirs: key(byte + 5), mki: Mki::default() }
}

/// The peer of a pair.
struct Phone {
    addr: &'static str,
    out: Outbound,
    into: Inbound,
}

impl Phone {
    fn new(pair: PairId) -> Phone {
        let Keys { ours, theirs, mki } = keys(pair);
        let addr = if pair == A { "10.0.0.1:4000" } else { "10.0.0.2:5000" };
        Phone { addr, out: Outbound::new(theirs), into: Inbound::new(ours, mki) }
    }

    fn says(&mut self, plain: &[u8], is_rtcp: bool) -> Vec<u8> {
        let mut buffer = [plain, &[0; 64]].concat();
        let mut packet = Packet::new(&mut buffer, 0..plain.len());
        match is_rtcp {
            false => self.out.seal_rtp(&mut packet).expect("room"),
            true => self.out.seal_rtcp(&mut packet).expect("room"),
        }
        packet.bytes().to_vec()
    }

    fn hears(&mut self, cipher: &[u8], is_rtcp: bool) -> Vec<u8> {
        let mut buffer = cipher.to_vec();
        let mut packet = Packet::new(&mut buffer, 0..cipher.len());
        match is_rtcp {
            false => self.into.open_rtp(&mut packet).expect("for this phone"),
            true => self.into.open_rtcp(&mut packet).expect("for this phone"),
        }
        packet.bytes().to_vec()
    }
}

impl World {
    /// A's peer is encrypted, B's is not unless it is asked for.
    fn secured(both: bool) -> World {
        let mut world = World::new();
        world.streams.open(A, Some(addr("10.0.0.1:4000")));
        world.streams.open(B, Some(addr("10.0.0.2:5000")));
        world.streams.bridge(A, B);
        world.streams.secure(at(0), A, Some(keys(A)));
        if both {
            world.streams.secure(at(0), B, Some(keys(B)));
        }
        world
    }

    fn convert(
        &mut self,
        socket: SocketSlot,
        from: &str,
        bytes: &[u8],
    ) -> Result<(SocketSlot, Vec<u8>), DropReason> {
        let mut buffer = [&[0; 16], bytes, &[0; 64]].concat();
        let mut packet = Packet::new(&mut buffer, 16..16 + bytes.len());
        match self.streams.forward(at(20), socket, addr(from), &mut packet) {
            Verdict::Send { socket, .. } => Ok((socket, packet.bytes().to_vec())),
            Verdict::Drop(reason) => Err(reason),
            Verdict::Consume => panic!("nobody taps it"),
        }
    }
}

#[test]
fn one_side_is_encrypted_and_the_other_is_not() {
    let (mut world, mut phone) = (World::secured(false), Phone::new(A));
    for sequence in 65_400..65_800_u32 {
        let plain = rtp(sequence as u16, sequence * 160, 7);
        let cipher = phone.says(&plain, false);
        assert_ne!(cipher[12..172], plain[12..]);
        let out = world.convert(A.rtp(), phone.addr, &cipher);
        assert_eq!(out, Ok((B.rtp(), plain.clone())), "{sequence}");
        let (socket, cipher) =
            world.convert(B.rtp(), "10.0.0.2:5000", &plain).expect("to the phone");
        assert_eq!((socket, cipher.len()), (A.rtp(), plain.len() + 10));
        let heard = phone.hears(&cipher, false);
        // From the first packet on it is one sender's, ours.
        assert_ne!(heard[8..12], plain[8..12]);
        assert_eq!(heard[12..], plain[12..]);
    }
    let (a, b) = (world.streams.stats(A), world.streams.stats(B));
    assert_eq!((a.packets, a.sent, a.lost, a.bytes), (400, 400, 0, 400 * 172));
    assert_eq!((b.packets, b.sent, b.lost), (400, 400, 0));
}

#[test]
fn both_sides_are_encrypted_each_with_its_own_keys() {
    let mut world = World::secured(true);
    let (mut a, mut b) = (Phone::new(A), Phone::new(B));
    for sequence in 1..50 {
        let plain = rtp(sequence, 0, 7);
        let (socket, cipher) =
            world.convert(A.rtp(), a.addr, &a.says(&plain, false)).expect("relayed");
        assert_eq!(socket, B.rtp());
        assert_eq!(b.hears(&cipher, false)[12..], plain[12..]);
        let (socket, cipher) =
            world.convert(B.rtp(), b.addr, &b.says(&plain, false)).expect("relayed");
        assert_eq!(socket, A.rtp());
        assert_eq!(a.hears(&cipher, false)[12..], plain[12..]);
    }
}

#[test]
fn what_is_wrong_is_dropped_by_name_and_changes_nothing() {
    let (mut world, mut phone) = (World::secured(false), Phone::new(A));
    let good = phone.says(&rtp(1, 0, 7), false);
    assert!(world.convert(A.rtp(), phone.addr, &good).is_ok());
    let before = world.streams.image(A);
    assert_eq!(world.convert(A.rtp(), phone.addr, &good), Err(DropReason::SrtpReplayed));
    let plain = rtp(2, 0, 7);
    assert_eq!(world.convert(A.rtp(), phone.addr, &plain), Err(DropReason::SrtpUnauthentic));
    let mut changed = phone.says(&plain, false);
    changed[100] ^= 1;
    assert_eq!(world.convert(A.rtp(), phone.addr, &changed), Err(DropReason::SrtpUnauthentic));
    for short in [0, 11, 12, 21] {
        let got = world.convert(A.rtp(), phone.addr, &plain[..short]);
        assert_eq!(got, Err(DropReason::RtpTooShort), "{short}");
    }
    let got = world.convert(A.rtcp(), "10.0.0.1:4001", &RTCP);
    assert_eq!(got, Err(DropReason::RtcpMalformed));
    let plain_report = [&RTCP[..], &[0; 14]].concat();
    let got = world.convert(A.rtcp(), "10.0.0.1:4001", &plain_report);
    assert_eq!(got, Err(DropReason::SrtpUnauthentic));
    let got = world.convert(A.rtcp(), "10.0.0.9:4001", &plain_report);
    assert_eq!(got, Err(DropReason::RtcpForeignSource));
    assert_eq!(world.convert(A.rtcp(), "10.0.0.1:4001", &RTCP), Err(DropReason::RtcpMalformed));
    // Somebody else costs no cryptography, and is told as ever.
    let strange = world.convert(A.rtp(), "10.0.0.9:4000", &plain);
    assert_eq!(strange, Err(DropReason::RtpForeignSource));
    assert_eq!(world.streams.stats(A).foreign, 2);
    let after = world.streams.image(A);
    assert_eq!(StreamImage { foreign: 0, ..after }, before);
}

#[test]
fn reports_are_converted_and_go_by_one_port_where_that_was_agreed() {
    for muxed in [false, true] {
        let (mut world, mut phone) = (World::secured(false), Phone::new(A));
        world.streams.mux(A, muxed);
        let first = phone.says(&rtp(1, 0, 7), false);
        world.convert(A.rtp(), phone.addr, &first).expect("A is locked");
        world.convert(B.rtp(), "10.0.0.2:5000", &rtp(1, 0, 9)).expect("B is locked");
        let (socket, from) =
            if muxed { (A.rtp(), phone.addr) } else { (A.rtcp(), "10.0.0.1:4001") };
        let cipher = phone.says(&RTCP, true);
        assert_eq!(world.convert(socket, from, &cipher), Ok((B.rtcp(), RTCP.to_vec())));
        assert_eq!(world.convert(socket, from, &cipher), Err(DropReason::SrtpReplayed));
        let (out, cipher) = world.convert(B.rtcp(), "10.0.0.2:5001", &RTCP).expect("to the phone");
        assert_eq!(out, socket, "muxed {muxed}");
        phone.hears(&cipher, true);
    }
}

#[test]
fn plain_reports_by_one_port() {
    let mut world = World::call();
    world.streams.mux(A, true);
    let (from, other) = ("10.0.0.1:4000", "10.0.0.2:5001");
    assert_eq!(world.convert(A.rtp(), from, &RTCP), Ok((B.rtcp(), RTCP.to_vec())));
    assert_eq!(world.convert(B.rtcp(), other, &RTCP), Ok((A.rtp(), RTCP.to_vec())));
    let foreign = world.convert(A.rtp(), "10.0.0.9:4000", &RTCP);
    assert_eq!(foreign, Err(DropReason::RtcpForeignSource));
    assert_eq!(world.streams.stats(A).packets, 1, "reports are no speech");
    world.streams.mux(A, false);
    assert_eq!(world.convert(B.rtcp(), other, &RTCP), Ok((A.rtcp(), RTCP.to_vec())));
}

#[test]
fn what_is_made_here_is_encrypted_and_goes_on_from_what_was_relayed() {
    let (mut world, mut phone) = (World::secured(false), Phone::new(A));
    let first = phone.says(&rtp(1, 0, 7), false);
    world.convert(A.rtp(), phone.addr, &first).expect("A is locked");
    let (_, relayed) = world.convert(B.rtp(), "10.0.0.2:5000", &rtp(500, 0, 9)).expect("relayed");
    let relayed = phone.hears(&relayed, false);
    let (socket, _, made) =
        world.streams.make(at(40), A, 8, true, 160, &[0x55; 160]).expect("made");
    let made = world.streams.seal_made(socket, made).expect("sealed");
    let made = phone.hears(&made, false);
    assert_eq!(made[12..], [0x55; 160]);
    let number = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    assert_eq!(number(&made), number(&relayed).wrapping_add(1));
    assert_eq!(made[8..12], relayed[8..12]);
    let (socket, _, plain) = world.streams.make(at(40), B, 8, true, 160, &[1]).expect("made");
    assert_eq!(world.streams.seal_made(socket, plain.clone()), Some(plain), "B is not encrypted");
}

#[test]
fn keys_may_change_and_end() {
    let (mut world, mut phone) = (World::secured(false), Phone::new(A));
    let under_way = phone.says(&rtp(3, 0, 7), false);
    for sequence in 1..3 {
        let cipher = phone.says(&rtp(sequence, 0, 7), false);
        world.convert(A.rtp(), phone.addr, &cipher).expect("relayed");
    }
    world.streams.secure(at(20), A, Some(keys(A)));
    let replayed = phone.says(&rtp(4, 0, 7), false);
    world.convert(A.rtp(), phone.addr, &replayed).expect("the same key goes on");
    let other = Keys { theirs: key(77), ..keys(A) };
    world.streams.secure(at(20), A, Some(other));
    world.convert(A.rtp(), phone.addr, &under_way).expect("what was under way");
    phone.out = Outbound::new(key(77));
    let cipher = phone.says(&rtp(5, 0, 7), false);
    world.convert(A.rtp(), phone.addr, &cipher).expect("with the new key");
    assert_eq!(world.convert(A.rtp(), phone.addr, &replayed), Err(DropReason::SrtpUnauthentic));
    world.streams.secure(at(20), A, None);
    let plain = rtp(6, 0, 7);
    assert_eq!(world.convert(A.rtp(), phone.addr, &plain), Ok((B.rtp(), plain)));
    assert_eq!(world.streams.keys(A), None);
}

#[test]
fn an_encrypted_stream_does_not_go_past_the_process() {
    let mut world = World::call();
    let flow =
        |world: &World, pair| world.streams.flow(pair, addr("10.0.0.9:1"), addr("10.0.0.9:3"));
    assert!(flow(&world, A).is_ok() && flow(&world, B).is_ok());
    world.streams.secure(at(0), A, Some(keys(A)));
    assert_eq!(flow(&world, A), Err(WhyNot::Srtp));
    assert_eq!(flow(&world, B), Err(WhyNot::Srtp));
}

#[test]
fn the_next_process_goes_on_with_the_keys() {
    let (mut world, mut phone) = (World::secured(false), Phone::new(A));
    let mut relayed = Vec::new();
    for sequence in 65_500..65_600_u32 {
        let plain = rtp(sequence as u16, sequence * 160, 7);
        relayed = phone.says(&plain, false);
        world.convert(A.rtp(), phone.addr, &relayed).expect("relayed");
        let (_, cipher) = world.convert(B.rtp(), "10.0.0.2:5000", &plain).expect("relayed");
        phone.hears(&cipher, false);
    }
    let mut next = World::new();
    for pair in [A, B] {
        next.streams.restore(pair, &world.streams.image(pair));
    }
    next.streams.bridge(A, B);
    for pair in [A, B] {
        assert_eq!(next.streams.image(pair), world.streams.image(pair));
    }
    assert_eq!(next.convert(A.rtp(), phone.addr, &relayed), Err(DropReason::SrtpReplayed));
    let plain = rtp(65_600_u32 as u16, 0, 7);
    let cipher = phone.says(&plain, false);
    assert_eq!(next.convert(A.rtp(), phone.addr, &cipher), Ok((B.rtp(), plain.clone())));
    let (_, cipher) = next.convert(B.rtp(), "10.0.0.2:5000", &plain).expect("relayed");
    assert_eq!(phone.hears(&cipher, false)[12..], plain[12..]);
}
