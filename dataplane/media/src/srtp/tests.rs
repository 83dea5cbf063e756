use proptest::prelude::*;

use super::*;
use crate::Packet;
use crate::wire::RtpHeader;

const SSRC: u32 = 0xcafe_babe;

fn hex(text: &str) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).expect("a digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The key of RFC 3711, B.3, which libsrtp's test vectors have as well.
fn master(suite: Suite) -> MasterKey {
    MasterKey {
        suite,
        key: hex("E1F97A0D3E018BE0D64FA32C06DE4139").try_into().expect("16 bytes"),
        salt: hex("0EC675AD498AFEEBB6960B3AABE6").try_into().expect("14 bytes"),
    }
}

fn rtp(sequence: u16, payload: &[u8]) -> Vec<u8> {
    let header = RtpHeader { marker: false, payload_type: 8, sequence, timestamp: 7, ssrc: SSRC };
    [&header.bytes()[..], payload].concat()
}

/// What `change` makes of a packet in a buffer with room behind it.
fn with<T>(
    packet: &[u8],
    change: impl FnOnce(&mut Packet<'_>) -> Result<T, SrtpError>,
) -> Result<Vec<u8>, SrtpError> {
    let mut buffer = packet.to_vec();
    buffer.resize(packet.len() + 64, 0xee);
    let mut packet = Packet::new(&mut buffer, 0..packet.len());
    change(&mut packet)?;
    Ok(packet.bytes().to_vec())
}

fn sealed(out: &mut Outbound, packet: &[u8]) -> Vec<u8> {
    with(packet, |packet| out.seal_rtp(packet)).expect("it is sealed")
}

fn opened(into: &mut Inbound, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
    with(packet, |packet| into.open_rtp(packet))
}

fn ends(suite: Suite) -> (Outbound, Inbound) {
    (Outbound::new(master(suite)), Inbound::new(master(suite), Mki::default()))
}

/// The vectors of libsrtp's srtp_driver.
#[test]
fn whole_packets_of_another_implementation() {
    let plain = hex("800f1234decafbadcafebabeabababababababababababababababab");
    let cipher =
        hex("800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb");
    let (mut out, mut into) = ends(Suite::Sha1Tag80);
    assert_eq!(sealed(&mut out, &plain), cipher);
    assert_eq!(opened(&mut into, &cipher), Ok(plain));
    let plain = hex("81c8000bcafebabeabababababababababababababababab");
    let cipher =
        hex("81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798");
    // Theirs counts from 1.
    out.next_rtcp_is(1);
    let ours = with(&plain, |packet| out.seal_rtcp(packet)).expect("it is sealed");
    assert_eq!(ours, cipher);
    assert_eq!(with(&cipher, |packet| into.open_rtcp(packet)), Ok(plain));
}

impl Outbound {
    fn next_rtcp_is(&mut self, index: u32) {
        self.resume(Progress {
            ssrc: SSRC,
            rtp: self.progress().and_then(|it| it.rtp),
            rtcp: Some(index - 1),
        });
    }
}

#[test]
fn a_rollover_with_loss_and_reordering() {
    for suite in [Suite::Sha1Tag80, Suite::Sha1Tag32] {
        let (mut out, mut into) = ends(suite);
        // The hundredth is 65,535; every seventh is lost, and of the others each pair comes the wrong way round.
        let packets: Vec<(Vec<u8>, Vec<u8>)> = (0..200_u16)
            .map(|n| rtp(65_436_u16.wrapping_add(n), &n.to_be_bytes()))
            .map(|plain| (sealed(&mut out, &plain), plain))
            .collect();
        let mut order: Vec<usize> = (0..200).filter(|n| n % 7 != 0).collect();
        order.chunks_mut(2).for_each(|pair| pair.reverse());
        assert!(order.windows(2).any(|pair| pair[0] >= 100 && pair[1] < 100), "one comes late");
        for n in order {
            let (cipher, plain) = &packets[n];
            assert_eq!(opened(&mut into, cipher).as_ref(), Ok(plain), "{n}");
        }
        let highest = into.progress().and_then(|it| it.rtp);
        assert_eq!(highest, Some(65_536 + 99), "the rollover counter is 1");
        let (late, plain) = &packets[196];
        assert_eq!(196 % 7, 0, "it was lost");
        assert_eq!(opened(&mut into, late).as_ref(), Ok(plain));
    }
}

#[test]
fn each_index_goes_out_once_and_comes_in_once() {
    let (mut out, mut into) = ends(Suite::Sha1Tag80);
    let first = sealed(&mut out, &rtp(1, b"one"));
    let again = with(&rtp(1, b"two"), |packet| out.seal_rtp(packet));
    assert_eq!(again, Err(SrtpError::Replayed), "one keystream for two payloads");
    assert_eq!(opened(&mut into, &first), Ok(rtp(1, b"one")));
    assert_eq!(opened(&mut into, &first), Err(SrtpError::Replayed));
    for n in 2..200 {
        let next = sealed(&mut out, &rtp(n, b"x"));
        assert!(opened(&mut into, &next).is_ok());
    }
    assert_eq!(opened(&mut into, &first), Err(SrtpError::Replayed), "and too old");
    let mut other = rtp(300, b"x");
    other[11] ^= 1;
    assert_eq!(with(&other, |packet| out.seal_rtp(packet)), Err(SrtpError::Exhausted));
    let report = hex("81c8000bcafebabeabababababababababababababababab");
    let sealed = with(&report, |packet| out.seal_rtcp(packet)).expect("it is sealed");
    let open = |into: &mut Inbound| with(&sealed, |packet| into.open_rtcp(packet));
    assert_eq!(open(&mut into), Ok(report));
    assert_eq!(open(&mut into), Err(SrtpError::Replayed));
}

#[test]
fn what_comes_after_a_death_is_taken_and_what_came_before_is_not() {
    let (mut out, mut into) = ends(Suite::Sha1Tag80);
    let before = sealed(&mut out, &rtp(65_530, b"x"));
    opened(&mut into, &before).expect("it is opened");
    for n in 65_531..=65_540_u32 {
        let next = sealed(&mut out, &rtp(n as u16, b"x"));
        opened(&mut into, &next).expect("it is opened");
    }
    let (mut out_again, mut into_again) = ends(Suite::Sha1Tag80);
    out_again.resume(out.progress().expect("it has sent"));
    into_again.resume(into.progress().expect("it has heard"));
    assert_eq!(opened(&mut into_again, &before), Err(SrtpError::Replayed));
    let used = with(&rtp(4, b"y"), |packet| out_again.seal_rtp(packet));
    assert_eq!(used, Err(SrtpError::Replayed));
    let next = sealed(&mut out_again, &rtp(5, b"y"));
    assert_eq!(opened(&mut into_again, &next), Ok(rtp(5, b"y")), "with the rollover counter");
}

#[test]
fn a_new_key_goes_on_counting_or_begins_again() {
    let key = |byte| MasterKey { key: [byte; 16], ..master(Suite::Sha1Tag80) };
    for keeps in [true, false] {
        let mut old = Outbound::new(key(1));
        let mut into = Inbound::new(key(1), Mki::default());
        for n in [65_535_u16, 0, 1] {
            let packet = sealed(&mut old, &rtp(n, b"x"));
            opened(&mut into, &packet).expect("it is opened");
        }
        let mut new = Outbound::new(key(2));
        if keeps {
            new.resume(old.progress().expect("it has sent"));
        }
        let mut into = Inbound::new(key(2), Mki::default()).follow(&into);
        for n in 2..5 {
            let packet = sealed(&mut new, &rtp(n, b"x"));
            assert_eq!(opened(&mut into, &packet), Ok(rtp(n, b"x")), "keeps {keeps}");
        }
    }
}

#[test]
fn an_identifier_of_the_key_is_read() {
    let mki = Mki::new(&[0, 0, 0, 1]).expect("four bytes");
    assert_eq!(Mki::new(&[0; 9]), None);
    let (mut out, mut into) =
        (ends(Suite::Sha1Tag80).0, Inbound::new(master(Suite::Sha1Tag80), mki));
    let mut packet = sealed(&mut out, &rtp(1, b"hello"));
    packet.splice(packet.len() - 10..packet.len() - 10, [0, 0, 0, 1]);
    let mut other = packet.clone();
    other[17 + 3] = 2;
    assert_eq!(opened(&mut into, &other), Err(SrtpError::Tag));
    assert_eq!(opened(&mut into, &packet), Ok(rtp(1, b"hello")));
    let report = hex("81c8000bcafebabeabababababababababababababababab");
    let mut sealed = with(&report, |packet| out.seal_rtcp(packet)).expect("it is sealed");
    sealed.splice(sealed.len() - 10..sealed.len() - 10, [0, 0, 0, 1]);
    assert_eq!(with(&sealed, |packet| into.open_rtcp(packet)), Ok(report));
}

#[test]
fn a_key_is_not_shown() {
    let shown = format!(
        "{:?} {:?} {:?}",
        master(Suite::Sha1Tag80),
        ends(Suite::Sha1Tag80).0,
        ends(Suite::Sha1Tag80).1
    );
    assert!(!shown.contains("225") && !shown.contains("e1"), "{shown}");
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_and_nothing_else(
        payload in prop::collection::vec(any::<u8>(), 0..400),
        csrcs in 0_u8..16,
        extension in prop::option::of(0_u8..5),
        sequence: u16,
        short: bool,
        place: prop::sample::Index,
        bit in 0_u8..8,
    ) {
        let suite = if short { Suite::Sha1Tag32 } else { Suite::Sha1Tag80 };
        let mut plain = rtp(sequence, &[]);
        plain[0] |= csrcs;
        plain.extend(std::iter::repeat_n(0x11, 4 * usize::from(csrcs)));
        if let Some(words) = extension {
            plain[0] |= 0x10;
            plain.extend([0xbe, 0xde, 0, words]);
            plain.extend(std::iter::repeat_n(0x22, 4 * usize::from(words)));
        }
        let header = plain.len();
        plain.extend(&payload);
        let (mut out, mut into) = ends(suite);
        let cipher = sealed(&mut out, &plain);
        prop_assert_eq!(cipher.len(), plain.len() + suite.tag());
        prop_assert_eq!(&cipher[..header], &plain[..header]);
        if payload.len() >= 16 {
            prop_assert_ne!(&cipher[header..plain.len()], &payload[..]);
        }
        let mut changed = cipher.clone();
        changed[place.index(cipher.len())] ^= 1 << bit;
        prop_assert!(opened(&mut into, &changed).is_err());
        prop_assert!(opened(&mut into, &cipher[..cipher.len() - 1]).is_err());
        prop_assert_eq!(opened(&mut into, &cipher), Ok(plain));
    }

    #[test]
    fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let (mut out, mut into) = ends(Suite::Sha1Tag80);
        prop_assert!(opened(&mut into, &bytes).is_err());
        prop_assert!(with(&bytes, |packet| into.open_rtcp(packet)).is_err());
        let _ = with(&bytes, |packet| out.seal_rtp(packet));
        let _ = with(&bytes, |packet| out.seal_rtcp(packet));
    }

    #[test]
    fn reports_are_sealed_and_opened(body in prop::collection::vec(any::<u8>(), 0..60), place: prop::sample::Index, bit in 0_u8..8) {
        let plain = [&hex("81c8000bcafebabe")[..], &body].concat();
        let (mut out, mut into) = ends(Suite::Sha1Tag32);
        let cipher = with(&plain, |packet| out.seal_rtcp(packet)).expect("it is sealed");
        prop_assert_eq!(cipher.len(), plain.len() + 14);
        let mut changed = cipher.clone();
        changed[place.index(cipher.len())] ^= 1 << bit;
        prop_assert!(with(&changed, |packet| into.open_rtcp(packet)).is_err());
        prop_assert_eq!(with(&cipher, |packet| into.open_rtcp(packet)), Ok(plain));
    }
}
