use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

fn host(number: u16) -> Endpoint {
    Endpoint { ip: 0xffff_0a00_0000 + u128::from(number), port: 4000 + number }
}

const SIGNALLED: u16 = 1;
const NATTED: u16 = 2;
const MOVED: u16 = 3;
const FOREIGN: u16 = 9;

#[derive(Clone, Copy)]
enum Step {
    /// At this millisecond, the host signals its address.
    Signal(u64, u16),
    /// At this millisecond, 0.0.0.0 is signalled.
    Mute(u64),
    /// At this millisecond a packet from the host with this sequence number is seen as that.
    Packet(u64, u16, u16, Seen),
    /// The host is sent to.
    Target(Option<u16>),
}

#[test]
fn the_lock_by_its_table() {
    use Seen::{Candidate, Foreign, Peer};
    use Step::{Mute, Packet, Signal, Target};
    let table: &[(&str, &[Step])] = &[
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
            "another source locks with its third packet in order",
            &[
                Signal(0, SIGNALLED),
                Packet(0, NATTED, u16::MAX, Candidate),
                Target(Some(SIGNALLED)),
                Packet(20, NATTED, 0, Candidate),
                Packet(40, NATTED, 1, Peer),
                Target(Some(NATTED)),
                Packet(60, SIGNALLED, 1, Foreign),
                Packet(80, NATTED, 90, Peer),
            ],
        ),
        (
            "gaps and repeats start the count again",
            &[
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
                Signal(0, SIGNALLED),
                Packet(0, NATTED, 1, Candidate),
                Packet(1, NATTED, 2, Candidate),
                Packet(2, FOREIGN, 3, Candidate),
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
                Packet(12 + RELEARN_MS, MOVED, 7, Foreign),
                Target(Some(NATTED)),
            ],
        ),
        (
            "behind a NAT a new source is learned within the window only",
            &[
                Signal(0, SIGNALLED),
                Packet(0, SIGNALLED, 1, Peer),
                Signal(10, MOVED),
                Packet(20, NATTED, 1, Candidate),
                Packet(21, NATTED, 2, Candidate),
                Packet(22, NATTED, 3, Peer),
                Packet(23, SIGNALLED, 2, Foreign),
                Signal(30, SIGNALLED),
                Packet(30 + RELEARN_MS, FOREIGN, 1, Foreign),
                Packet(31 + RELEARN_MS, FOREIGN, 2, Foreign),
                Packet(32 + RELEARN_MS, FOREIGN, 3, Foreign),
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
    for (name, steps) in table {
        let mut latch = Latch::default();
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Signal(ms, who) => latch.signal(at(ms), host(who)),
                Mute(ms) => latch.signal(at(ms), Endpoint { ip: 0xffff_0000_0000, port: 4001 }),
                Packet(ms, who, sequence, expected) => assert_eq!(
                    latch.see(at(ms), host(who), 7, sequence),
                    expected,
                    "{name}: step {number}"
                ),
                Target(who) => assert_eq!(latch.target(), who.map(host), "{name}: step {number}"),
            }
        }
    }
}

#[test]
fn another_ssrc_starts_the_count_again() {
    let mut latch = Latch::default();
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
    /// Whatever comes, one who is neither signalled nor sent three packets in order is never sent to,
    /// and once locked only signalling changes whom we hear.
    #[test]
    fn a_foreigner_is_never_sent_to(
        packets in prop::collection::vec((0u16..5, any::<u16>(), 0u32..2, any::<bool>()), 1..200)
    ) {
        let mut latch = Latch::default();
        latch.signal(at(0), host(SIGNALLED));
        let mut history: Vec<(u16, u16, u32)> = Vec::new();
        for (ms, (who, sequence, ssrc, in_order)) in packets.into_iter().enumerate() {
            let sequence = match history.last() {
                Some((_, last, _)) if in_order => last.wrapping_add(1),
                _ => sequence,
            };
            let before = latch.locked();
            let seen = latch.see(at(ms as u64), host(who), ssrc, sequence);
            history.push((who, sequence, ssrc));
            let run = history.windows(2).rev()
                .take_while(|pair| pair[0].0 == pair[1].0 && pair[0].2 == pair[1].2
                    && pair[0].1.wrapping_add(1) == pair[1].1)
                .count() + 1;
            match before {
                Some(locked) => {
                    prop_assert_eq!(latch.locked(), Some(locked));
                    prop_assert_eq!(seen == Seen::Peer, locked == host(who));
                }
                None => {
                    let earned = who == SIGNALLED || run >= usize::from(LEARN_PACKETS);
                    prop_assert_eq!(seen == Seen::Peer, earned);
                    prop_assert_eq!(latch.locked(), earned.then_some(host(who)));
                }
            }
            let target = latch.target().expect("an address is signalled");
            prop_assert!(target == host(SIGNALLED) || latch.locked() == Some(target));
        }
    }
}
