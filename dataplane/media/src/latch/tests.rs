use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

/// Numbers in the same ten are ports of one host.
fn host(number: u16) -> Endpoint {
    Endpoint { ip: 0xffff_0a00_0000 + u128::from(number / 10), port: 4000 + number }
}

const SIGNALLED: u16 = 10;
/// Another port of the signalled host.
const REMAPPED: u16 = 11;
/// The host that SIP comes from, where a step says so.
const NATTED: u16 = 20;
/// Another port of that host.
const NEIGHBOUR: u16 = 21;
const MOVED: u16 = 30;
const FOREIGN: u16 = 90;

#[derive(Clone, Copy)]
enum Step {
    /// SIP comes from the host of this address.
    Sip(u16),
    /// At this millisecond, the host signals its address.
    Signal(u64, u16),
    /// At this millisecond, 0.0.0.0 is signalled.
    Mute(u64),
    /// At this millisecond a packet from the host with this sequence number is seen as that.
    Packet(u64, u16, u16, Seen),
    /// From this millisecond on, the host sends this many packets in order, and all are foreign.
    Spray(u64, u16, u16),
    /// The host is sent to.
    Target(Option<u16>),
    /// The stream is locked to the host.
    Locked(Option<u16>),
}

/// Named tracks of steps.
type Table = &'static [(&'static str, &'static [Step])];

fn play(table: Table) {
    for (name, steps) in table {
        let mut latch = Latch::default();
        for (number, step) in steps.iter().enumerate() {
            let place = format!("{name}: step {number}");
            match *step {
                Step::Sip(who) => latch.expect_host(host(who).ip),
                Step::Signal(ms, who) => latch.signal(at(ms), host(who)),
                Step::Mute(ms) => {
                    latch.signal(at(ms), Endpoint { ip: 0xffff_0000_0000, port: 4001 });
                }
                Step::Packet(ms, who, sequence, expected) => {
                    assert_eq!(latch.see(at(ms), host(who), 7, sequence), expected, "{place}");
                }
                Step::Spray(ms, who, packets) => {
                    for sequence in 0..packets {
                        let seen = latch.see(at(ms), host(who), 7, sequence);
                        assert_eq!(seen, Seen::Foreign, "{place}, packet {sequence}");
                    }
                }
                Step::Target(who) => assert_eq!(latch.target(), who.map(host), "{place}"),
                Step::Locked(who) => assert_eq!(latch.locked(), who.map(host), "{place}"),
            }
        }
    }
}

#[test]
fn the_lock_by_its_table() {
    use Seen::{Candidate, Foreign, Peer};
    use Step::{Locked, Mute, Packet, Signal, Sip, Spray, Target};
    const TABLE: Table = &[
        (
            "nobody is heard before anything is signalled",
            &[
                Packet(0, FOREIGN, 1, Foreign),
                Packet(20, FOREIGN, 2, Foreign),
                Packet(40, FOREIGN, 3, Foreign),
                Packet(60, FOREIGN, 4, Foreign),
                Target(None),
            ],
        ),
        (
            "the signalled address locks at once, and for good",
            &[
                Signal(0, SIGNALLED),
                Target(Some(SIGNALLED)),
                Packet(0, SIGNALLED, 1, Peer),
                Packet(1, FOREIGN, 1, Foreign),
                Packet(2, FOREIGN, 2, Foreign),
                Packet(3, FOREIGN, 3, Foreign),
                Packet(4, FOREIGN, 4, Foreign),
                Signal(5, SIGNALLED),
                Packet(6, FOREIGN, 5, Foreign),
                Target(Some(SIGNALLED)),
            ],
        ),
        (
            "a source on SIP's host locks with its third packet in order",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, u16::MAX, Candidate),
                Target(Some(SIGNALLED)),
                Packet(20, NATTED, 0, Candidate),
                Packet(40, NATTED, 1, Peer),
                Target(Some(NATTED)),
                Packet(60, NEIGHBOUR, 1, Foreign),
                Packet(80, NATTED, 90, Peer),
            ],
        ),
        (
            "another port of the signalled host locks with its third packet, also without SIP's",
            &[
                Signal(0, SIGNALLED),
                Packet(0, REMAPPED, 1, Candidate),
                Packet(20, REMAPPED, 2, Candidate),
                Packet(40, REMAPPED, 3, Peer),
                Target(Some(REMAPPED)),
            ],
        ),
        (
            "SIP's host is not heard before media is signalled",
            &[Sip(NATTED), Spray(0, NATTED, 10), Target(None)],
        ),
        (
            "a spray from a third host never locks while learning, nor disturbs who is learned",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Spray(0, FOREIGN, 1_000),
                Locked(None),
                Target(Some(SIGNALLED)),
                Packet(1, NATTED, 1, Candidate),
                Spray(2, FOREIGN, 10),
                Packet(3, NATTED, 2, Candidate),
                Spray(4, FOREIGN, 10),
                Packet(5, NATTED, 3, Peer),
                Spray(6, FOREIGN, 1_000),
                Locked(Some(NATTED)),
            ],
        ),
        (
            "without SIP's host, nobody but the signalled host is learned",
            &[Signal(0, SIGNALLED), Spray(0, NATTED, 1_000), Locked(None)],
        ),
        (
            "a spray from a third host never locks while relearning",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Spray(11, FOREIGN, 1_000),
                Spray(9 + RELEARN_MS, FOREIGN, 1_000),
                Spray(10 + RELEARN_MS, FOREIGN, 1_000),
                Locked(None),
                Target(Some(MOVED)),
                Packet(11 + RELEARN_MS, MOVED, 1, Peer),
            ],
        ),
        (
            "a host that is no longer signalled is not learned from",
            &[
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Spray(11, REMAPPED, 10),
                Packet(12, SIGNALLED, 2, Peer),
            ],
        ),
        (
            "SIP that comes from elsewhere keeps the lock and moves who is learned next",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NATTED, 3, Peer),
                Sip(FOREIGN),
                Packet(3, NATTED, 4, Peer),
                Spray(4, FOREIGN, 10),
                Signal(10, MOVED),
                Spray(11, NEIGHBOUR, 10),
                Packet(12, FOREIGN, 1, Candidate),
                Packet(13, FOREIGN, 2, Candidate),
                Packet(14, FOREIGN, 3, Peer),
            ],
        ),
        (
            "the signalled address takes the lock back from a learned source, for good",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NATTED, 3, Peer),
                Packet(3, SIGNALLED, 900, Peer),
                Locked(Some(SIGNALLED)),
                Target(Some(SIGNALLED)),
                Spray(4, NATTED, 10),
                Spray(5, REMAPPED, 10),
                Packet(6, SIGNALLED, 901, Peer),
            ],
        ),
        (
            "a changed address that took the lock loses it to nobody",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Packet(11, NATTED, 1, Candidate),
                Packet(12, NATTED, 2, Candidate),
                Packet(13, NATTED, 3, Peer),
                Packet(14, MOVED, 1, Peer),
                Spray(15, NATTED, 10),
                Spray(16, SIGNALLED, 10),
                Locked(Some(MOVED)),
            ],
        ),
        (
            "signalling the locked source keeps the lock, and the old source closes relearning",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NATTED, 3, Peer),
                Signal(10, NATTED),
                Locked(Some(NATTED)),
                Spray(11, SIGNALLED, 10),
                Signal(20, MOVED),
                Locked(None),
                Signal(21, NATTED),
                Locked(Some(NATTED)),
                Spray(22, MOVED, 10),
            ],
        ),
        (
            "gaps and repeats start the count again",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NATTED, 4, Candidate),
                Packet(3, NATTED, 4, Candidate),
                Packet(4, NATTED, 5, Candidate),
                Packet(5, NATTED, 6, Peer),
            ],
        ),
        (
            "who comes between starts the count again, and the signalled address beats both",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NEIGHBOUR, 3, Candidate),
                Packet(3, NATTED, 3, Candidate),
                Packet(4, SIGNALLED, 9, Peer),
                Packet(5, NATTED, 4, Foreign),
            ],
        ),
        (
            "a changed address is sent to at once and locks with its first packet",
            &[
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Target(Some(MOVED)),
                Packet(15, SIGNALLED, 2, Peer),
                Packet(20, MOVED, 3, Peer),
                Packet(21, SIGNALLED, 4, Foreign),
                Target(Some(MOVED)),
            ],
        ),
        (
            "behind a NAT the old source stays when the new address never sends",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, NATTED, 3, Peer),
                Signal(10, MOVED),
                Target(Some(NATTED)),
                Packet(20, NATTED, 4, Peer),
                Packet(9 + RELEARN_MS, NATTED, 5, Peer),
                Packet(10 + RELEARN_MS, FOREIGN, 1, Foreign),
                Packet(11 + RELEARN_MS, NATTED, 6, Peer),
                Spray(12 + RELEARN_MS, NEIGHBOUR, 10),
                Target(Some(NATTED)),
                Packet(13 + RELEARN_MS, MOVED, 7, Peer),
                Target(Some(MOVED)),
            ],
        ),
        (
            "behind a NAT a new source is learned within the window only",
            &[
                Sip(NATTED),
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Packet(20, NATTED, 1, Candidate),
                Packet(21, NATTED, 2, Candidate),
                Packet(22, NATTED, 3, Peer),
                Packet(23, SIGNALLED, 2, Foreign),
                Signal(30, SIGNALLED),
                Packet(29 + RELEARN_MS, NEIGHBOUR, 1, Candidate),
                Packet(29 + RELEARN_MS, NEIGHBOUR, 2, Candidate),
                Packet(30 + RELEARN_MS, NEIGHBOUR, 3, Foreign),
                Spray(31 + RELEARN_MS, NEIGHBOUR, 10),
                Packet(33 + RELEARN_MS, SIGNALLED, 3, Peer),
            ],
        ),
        (
            "the old hold keeps the lock and sends nothing",
            &[
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Mute(5),
                Target(None),
                Packet(6, SIGNALLED, 2, Peer),
                Packet(7, FOREIGN, 2, Foreign),
                Signal(8, SIGNALLED),
                Target(Some(SIGNALLED)),
                Packet(9, FOREIGN, 3, Foreign),
            ],
        ),
    ];
    play(TABLE);
}

#[test]
fn another_ssrc_starts_the_count_again() {
    let mut latch = Latch::default();
    latch.expect_host(host(NATTED).ip);
    latch.signal(at(0), host(SIGNALLED));
    for (ssrc, sequence, expected) in [
        (1, 1, Seen::Candidate),
        (1, 2, Seen::Candidate),
        (2, 3, Seen::Candidate),
        (2, 4, Seen::Candidate),
    ] {
        assert_eq!(latch.see(at(0), host(NATTED), ssrc, sequence), expected);
    }
    assert_eq!(latch.see(at(0), host(NATTED), 2, 5), Seen::Peer);
}

proptest! {
    /// Whatever comes, only the signalled address and sources on a host of the signalling with three
    /// packets in order lock, and from then on only the signalled address changes whom we hear.
    #[test]
    fn a_foreigner_is_never_sent_to(
        packets in prop::collection::vec((0usize..6, any::<u16>(), 0u32..2, any::<bool>()), 1..200)
    ) {
        const SOURCES: [u16; 6] = [SIGNALLED, REMAPPED, NATTED, NEIGHBOUR, MOVED, FOREIGN];
        let mut latch = Latch::default();
        latch.expect_host(host(NATTED).ip);
        latch.signal(at(0), host(SIGNALLED));
        // What came from the hosts of the signalling; the others do not even disturb the count.
        let mut history: Vec<(u16, u16, u32)> = Vec::new();
        for (ms, (who, sequence, ssrc, in_order)) in packets.into_iter().enumerate() {
            let who = SOURCES[who];
            let sequence = match history.last() {
                Some((_, last, _)) if in_order => last.wrapping_add(1),
                _ => sequence,
            };
            let before = latch.locked();
            let seen = latch.see(at(ms as u64), host(who), ssrc, sequence);
            let named = ![MOVED, FOREIGN].contains(&who);
            if named {
                history.push((who, sequence, ssrc));
            }
            let run = history.windows(2).rev()
                .take_while(|pair| pair[0].0 == pair[1].0 && pair[0].2 == pair[1].2
                    && pair[0].1.wrapping_add(1) == pair[1].1)
                .count() + 1;
            let takes = who == SIGNALLED
                || before.is_none() && named && run >= usize::from(LEARN_PACKETS);
            let after = if takes { Some(host(who)) } else { before };
            prop_assert_eq!(latch.locked(), after);
            prop_assert_eq!(seen == Seen::Peer, after == Some(host(who)));
            prop_assert!(named || seen == Seen::Foreign);
            let target = latch.target().expect("an address is signalled");
            prop_assert_eq!(target, after.unwrap_or(host(SIGNALLED)));
        }
    }
}

proptest! {
    /// Whom a latch cannot hear it finds foreign.
    #[test]
    fn who_may_not_be_heard_is_foreign(steps in prop::collection::vec((0_u64..1_000, 0_u8..4, 1_u16..4, 0_u16..3), 1..60)) {
        let (mut latch, mut ms) = (Latch::default(), 0);
        for (number, (wait, what, tens, unit)) in steps.into_iter().enumerate() {
            ms += wait;
            let who = host(tens * 10 + unit);
            match what {
                0 => latch.signal(at(ms), who),
                1 => latch.expect_host(who.ip),
                _ => {
                    let may = latch.may_be_heard(at(ms), who);
                    let seen = latch.see(at(ms), who, 7, number as u16);
                    prop_assert_eq!(may, seen != Seen::Foreign);
                }
            }
        }
    }
}
