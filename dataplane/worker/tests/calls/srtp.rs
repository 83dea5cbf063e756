//! Legs whose media is encrypted: who is offered what, what is answered, and that each side hears the other.

use abi::{Command, Counter, KeyRow, MediaOrder, OpResult, PathReason, SrtpPolicy};
use base::{AgentSlot, Channel, Transport};
use media::srtp::{Inbound, MasterKey, Mki, Outbound, Suite};
use media::{DropReason, Packet};
use worker::{PairId, Verdict};

use crate::house::{AGENT_A, House, OFFER, TRUNK};

/// Where the peers send from and listen, by their descriptions.
pub const PLAIN: &str = "203.0.113.9:4000";
pub const SECURE: &str = "203.0.113.9:4100";
pub const LONG: &str = "AES_CM_128_HMAC_SHA1_80";
const SHORT: &str = "AES_CM_128_HMAC_SHA1_32";

/// A key of 30 equal bytes in base64.
fn inline(letter: char) -> String {
    format!("inline:{}", letter.to_string().repeat(40))
}

/// Six bits of each letter that [`inline`] is made of, as the bytes of a key.
pub fn key(letter: char, suite: Suite) -> MasterKey {
    let bytes: [u8; 3] = match letter {
        'A' => [0, 0, 0],
        'B' => [4, 16, 65],
        'C' => [8, 32, 130],
        _ => panic!("not one of the letters"),
    };
    let all: Vec<u8> = bytes.iter().copied().cycle().take(30).collect();
    master(&all, suite)
}

fn master(bytes: &[u8], suite: Suite) -> MasterKey {
    MasterKey {
        suite,
        key: bytes[..16].try_into().expect("16 bytes"),
        salt: bytes[16..30].try_into().expect("14 bytes"),
    }
}

pub fn described(protocol: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    OFFER.replace("m=audio 4000 RTP/AVP", &format!("m=audio 4100 {protocol}")) + &lines
}

pub fn crypto(tag: u32, suite: &str, letter: char) -> String {
    format!("a=crypto:{tag} {suite} {}", inline(letter))
}

/// The crypto lines of a message of ours: tag, suite and key.
pub fn lines_of(message: &str) -> Vec<(u32, Suite, MasterKey)> {
    let lines = message.lines().filter_map(|line| line.strip_prefix("a=crypto:"));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let suite = if parts[1] == SHORT { Suite::Sha1Tag32 } else { Suite::Sha1Tag80 };
            assert!(parts[1] == SHORT || parts[1] == LONG, "{line}");
            let text = parts[2].strip_prefix("inline:").expect("a key");
            let key = master(&decoded(text), suite);
            (parts[0].parse().expect("a tag"), suite, key)
        })
        .collect()
}

fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = text.bytes().map(|b| LETTERS.iter().position(|l| *l == b).expect("base64") as u32);
    let bits: Vec<u32> = bits.collect();
    let triple = |four: &[u32]| four.iter().fold(0, |sum, six| sum << 6 | six).to_be_bytes();
    bits.chunks(4).flat_map(|four| triple(four)[1..].to_vec()).collect()
}

/// A peer that encrypts.
pub struct Peer {
    out: Outbound,
    into: Inbound,
    sequence: u16,
}

impl Peer {
    pub fn new(own: MasterKey, ours: MasterKey) -> Peer {
        Peer { out: Outbound::new(own), into: Inbound::new(ours, Mki::default()), sequence: 0 }
    }

    pub fn says(&mut self, payload: u8) -> Vec<u8> {
        self.sequence += 1;
        let plain = rtp(self.sequence, payload);
        let mut buffer = [&plain[..], &[0; 64]].concat();
        let mut packet = Packet::new(&mut buffer, 0..plain.len());
        self.out.seal_rtp(&mut packet).expect("room");
        packet.bytes().to_vec()
    }

    pub fn hears(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = bytes.to_vec();
        let mut packet = Packet::new(&mut buffer, 0..bytes.len());
        self.into.open_rtp(&mut packet).expect("it is for this peer");
        packet.bytes().to_vec()
    }
}

pub fn rtp(sequence: u16, payload: u8) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 160).to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes.extend([payload; 160]);
    bytes
}

/// The trunk at pair 0 is encrypted, the phone at pair 1 is not.
fn talk(house: &mut House, peer: &mut Peer, phone: u16) {
    for n in 0..5 {
        let cipher = peer.says(0x11);
        let (socket, plain) = house.converted(PairId(0).rtp(), SECURE, &cipher).expect("relayed");
        assert_eq!((socket, &plain[12..]), (PairId(1).rtp(), &[0x11; 160][..]));
        let (socket, cipher) =
            house.converted(PairId(1).rtp(), PLAIN, &rtp(phone + n, 0x22)).expect("relayed");
        assert_eq!(socket, PairId(0).rtp());
        assert_eq!(peer.hears(&cipher)[12..], [0x22; 160]);
    }
}

/// A call from the trunk by `RTP/SAVP` to a plain phone; and our 200.
fn call(house: &mut House) -> (Peer, String) {
    house.register("1001", AGENT_A);
    let offer =
        described("RTP/SAVP", &[crypto(1, "F8_128_HMAC_SHA1_80", 'A'), crypto(4, LONG, 'B')]);
    house.send(TRUNK, &house.invite("1001", "c1", Some(&offer)));
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert!(invite.contains(" RTP/AVP 0 8") && !invite.contains("crypto"), "{invite}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    assert!(house.next_to(AGENT_A).starts_with("ACK "));
    let ok = house.next_to(TRUNK);
    assert!(ok.contains(" RTP/SAVP 0 8"), "{ok}");
    let [(4, Suite::Sha1Tag80, ours)] = lines_of(&ok)[..] else { panic!("{ok}") };
    house.ack(TRUNK, &ok, "c1");
    (Peer::new(key('B', Suite::Sha1Tag80), ours), ok)
}

#[test]
fn a_peer_that_encrypts_talks_to_one_that_does_not() {
    let mut house = House::with_bypass();
    let (mut peer, _) = call(&mut house);
    talk(&mut house, &mut peer, 1);
    house.pass_ms(1_100);
    assert!(house.entering.is_empty(), "it stays in the process");
    for row in house.legs() {
        assert_eq!((row.path_reason(), row.packets_in, row.packets_out), (PathReason::Srtp, 5, 5));
    }
    assert_eq!(house.count(Counter::StreamsSrtp), 1);
    let forged = house.converted(PairId(0).rtp(), SECURE, &rtp(99, 0x33));
    assert_eq!(forged, Err(Verdict::Drop(DropReason::SrtpUnauthentic)));
    assert_eq!(house.count(Counter::DropSrtpUnauthentic), 1);
    // The keys lie in the secrets, and go with the call.
    let in_use = |house: &House| {
        house.region().keys().iter().filter(|(_, row)| row.flags & KeyRow::IN_USE != 0).count()
    };
    assert_eq!(in_use(&house), 1);
    let call = house.legs()[0].call();
    house.command(Command::Release { op: 6, call, cause: 0 }, b"");
    for peer in [TRUNK, AGENT_A] {
        let bye = house.next_to(peer);
        house.reply(peer, &bye, 200, "", None);
    }
    house.run_out();
    assert_eq!(in_use(&house), 0);
    assert!(
        house.region().keys().iter().all(|(_, row)| row == KeyRow::default()),
        "nothing is left"
    );
    house.expect_nothing_left();
}

#[test]
fn what_is_offered_first_is_the_policy() {
    let (no, yes) = (SrtpPolicy::Never, SrtpPolicy::Offered);
    for (phones, protocol, lines) in [
        (SrtpPolicy::Allowed, "RTP/AVP", 0),
        (no, "RTP/AVP", 0),
        (yes, "RTP/AVP", 2),
        (SrtpPolicy::Required, "RTP/SAVP", 2),
    ] {
        let mut house = House::new();
        house.srtp(phones, no);
        house.register("1001", AGENT_A);
        house.send(TRUNK, &house.invite("1001", "c1", Some(OFFER)));
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        assert!(invite.contains(&format!(" {protocol} 0 8")), "{phones:?}: {invite}");
        let offered = lines_of(&invite);
        assert_eq!(offered.len(), lines, "{invite}");
        if let [(1, Suite::Sha1Tag80, first), (2, Suite::Sha1Tag32, second)] = offered[..] {
            assert_ne!(first.key, second.key);
            let answer = described(protocol, &[crypto(2, SHORT, 'C')]);
            house.reply(AGENT_A, &invite, 200, "t1", Some(&answer));
            let ok = house.next_to(TRUNK);
            assert!(ok.starts_with("SIP/2.0 200") && ok.contains(" RTP/AVP "), "{ok}");
            assert!(!ok.contains("crypto"), "{ok}");
            let mut peer = Peer::new(key('C', Suite::Sha1Tag32), second);
            let cipher = peer.says(0x11);
            assert_eq!(cipher.len(), 172 + 4);
            let heard = house.converted(PairId(1).rtp(), SECURE, &cipher).expect("relayed").1;
            assert_eq!(heard[12..], [0x11; 160]);
            let sent = house.converted(PairId(0).rtp(), PLAIN, &rtp(1, 0x22)).expect("relayed").1;
            assert_eq!(peer.hears(&sent)[12..], [0x22; 160]);
        }
    }
}

/// Without a word of configuration, a phone whose signalling is secret is offered secret media.
#[test]
fn a_phone_on_tls_is_offered_what_it_may_decline() {
    for (transport, lines) in [(Transport::Udp, 0), (Transport::Tcp, 0), (Transport::Tls, 2)] {
        let mut house = House::new();
        house.register("1001", AGENT_A);
        let mut row = house.region().registrations().read(AgentSlot(0)).expect("registered");
        row.set_channel(Channel::any(transport));
        house.region().registrations().write(AgentSlot(0), &row);
        house.send(TRUNK, &house.invite("1001", "c1", Some(OFFER)));
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        assert!(invite.contains(" RTP/AVP 0 8"), "{invite}");
        assert_eq!(lines_of(&invite).len(), lines, "{transport}: {invite}");
    }
}

#[test]
fn what_is_offered_may_be_declined_unless_it_is_required() {
    for (phones, taken) in [(SrtpPolicy::Offered, true), (SrtpPolicy::Required, false)] {
        let mut house = House::new();
        house.srtp(phones, SrtpPolicy::Allowed);
        house.register("1001", AGENT_A);
        house.send(TRUNK, &house.invite("1001", "c1", Some(OFFER)));
        house.next_to(TRUNK);
        let invite = house.next_to(AGENT_A);
        house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
        let answer = house.next_to(TRUNK);
        let sent = house.converted(PairId(0).rtp(), PLAIN, &rtp(1, 0x22));
        if taken {
            assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
            assert_eq!(sent.expect("relayed").1, rtp(1, 0x22), "plain, bit by bit");
        } else {
            assert!(answer.starts_with("SIP/2.0 488 "), "{answer}");
            assert!(sent.is_err(), "nothing goes out in plain");
            let texts = house.drain_to(AGENT_A);
            assert!(texts.iter().any(|text| text.starts_with("BYE ")), "{texts:?}");
            assert!(house.count(Counter::CallsSrtpRefused) >= 1);
        }
    }
}

/// baresip that insists on SRTP refuses `RTP/AVP` with 488, also with a key.
#[test]
fn a_phone_that_refuses_plain_audio_is_asked_again_with_srtp_alone() {
    for (phones, tries) in [
        (SrtpPolicy::Allowed, 2),
        (SrtpPolicy::Offered, 2),
        (SrtpPolicy::Never, 1),
        (SrtpPolicy::Required, 1),
    ] {
        for takes in [true, false] {
            let mut house = House::new();
            house.srtp(phones, SrtpPolicy::Allowed);
            house.register("1001", AGENT_A);
            house.send(TRUNK, &house.invite("1001", "c1", Some(OFFER)));
            house.next_to(TRUNK);
            let mut invite = house.next_to(AGENT_A);
            for number in 1..tries {
                house.reply(AGENT_A, &invite, 488, "t0", None);
                assert!(house.next_to(AGENT_A).starts_with("ACK "));
                invite = house.next_to(AGENT_A);
                assert!(invite.contains(&format!("CSeq: {} INVITE", number + 1)), "{invite}");
                assert!(invite.contains(" RTP/SAVP 0 8"), "{invite}");
            }
            if !takes {
                house.reply(AGENT_A, &invite, 488, "t0", None);
                assert!(house.next_to(AGENT_A).starts_with("ACK "));
                assert!(house.drain_to(AGENT_A).is_empty(), "{phones:?}: no third time");
                let refusal = house.next_to(TRUNK);
                assert!(refusal.starts_with("SIP/2.0 488 "), "{refusal}");
                continue;
            }
            let Some((tag, Suite::Sha1Tag80, ours)) = lines_of(&invite).first().copied() else {
                assert_eq!(phones, SrtpPolicy::Never);
                continue;
            };
            let answer = described("RTP/SAVP", &[crypto(tag, LONG, 'C')]);
            house.reply(AGENT_A, &invite, 200, "t1", Some(&answer));
            let ok = house.next_to(TRUNK);
            assert!(ok.starts_with("SIP/2.0 200 ") && !ok.contains("crypto"), "{ok}");
            let mut peer = Peer::new(key('C', Suite::Sha1Tag80), ours);
            let heard =
                house.converted(PairId(1).rtp(), SECURE, &peer.says(0x11)).expect("relayed").1;
            assert_eq!(heard[12..], [0x11; 160]);
            let sent = house.converted(PairId(0).rtp(), PLAIN, &rtp(1, 0x22)).expect("relayed").1;
            assert_eq!(peer.hears(&sent)[12..], [0x22; 160]);
        }
    }
}

#[test]
fn offers_that_cannot_or_may_not_be_are_refused_by_name() {
    let unknown = described("RTP/SAVP", &[crypto(1, "AES_256_CM_HMAC_SHA1_80", 'A')]);
    let known = described("RTP/SAVP", &[crypto(1, LONG, 'A')]);
    let best = described("RTP/AVP", &[crypto(1, LONG, 'A')]);
    let (no, may, must) = (SrtpPolicy::Never, SrtpPolicy::Allowed, SrtpPolicy::Required);
    for (trunks, offer, expected) in [
        (may, &unknown, Err("sdp_crypto")),
        (may, &known, Ok(true)),
        (may, &best, Ok(true)),
        (no, &known, Err("sdp_crypto")),
        (no, &best, Ok(false)),
        (must, &OFFER.to_owned(), Err("sdp_plain")),
        (must, &best, Ok(true)),
    ] {
        let mut house = House::new();
        house.srtp(may, trunks);
        house.register("1001", AGENT_A);
        house.send(TRUNK, &house.invite("1001", "c1", Some(offer)));
        let first = house.next_to(TRUNK);
        match expected {
            Ok(secure) => {
                let invite = house.next_to(AGENT_A);
                house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
                let ok = house.next_to(TRUNK);
                assert_eq!(lines_of(&ok).len(), usize::from(secure), "{trunks:?} {offer}: {ok}");
            }
            Err(name) => {
                assert!(first.starts_with("SIP/2.0 488 "), "{trunks:?} {offer}: {first}");
                assert!(first.contains(&format!("Warning: 399 jackfield \"{name}\"")), "{first}");
                assert!(house.drain_to(AGENT_A).is_empty());
            }
        }
    }
}

#[test]
fn a_peer_may_change_its_key_or_keep_it_and_be_held() {
    let mut house = House::new();
    let (mut peer, ok) = call(&mut house);
    talk(&mut house, &mut peer, 1);
    let [(4, _, ours)] = lines_of(&ok)[..] else { panic!("{ok}") };
    for (cseq, tag, letter, flows) in [
        (2, 4, 'B', "sendrecv"),
        (3, 9, 'C', "sendrecv"),
        (4, 9, 'C', "sendonly"),
        (5, 1, 'C', "sendrecv"),
    ] {
        let offer = described("RTP/SAVP", &[crypto(tag, LONG, letter)]);
        let offer = offer.replace("a=sendrecv", &format!("a={flows}"));
        let again = house.within("INVITE", &ok, "c1", cseq, Some(&offer));
        house.send(TRUNK, &again);
        assert!(house.next_to(TRUNK).starts_with("SIP/2.0 100 "));
        let passed = house.next_to(AGENT_A);
        assert!(!passed.contains("crypto") && passed.contains(&format!("a={flows}")), "{passed}");
        let answer =
            if flows == "sendonly" { OFFER.replace("sendrecv", "recvonly") } else { OFFER.into() };
        house.reply(AGENT_A, &passed, 200, "t1", Some(&answer));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let again = house.next_to(TRUNK);
        assert!(again.starts_with("SIP/2.0 200 "), "{again}");
        let [(said, _, same)] = lines_of(&again)[..] else { panic!("{again}") };
        assert_eq!((said, same), (tag, ours), "the tag of the offer, and our key");
        let ack = house.within("ACK", &ok, "c1", cseq, None);
        house.send(TRUNK, &ack);
        if letter == 'C' && cseq == 3 {
            let sequence = peer.sequence;
            peer.out = Outbound::new(key('C', Suite::Sha1Tag80));
            peer.sequence = sequence;
        }
        if flows == "sendrecv" {
            talk(&mut house, &mut peer, cseq as u16 * 10);
        }
    }
}

/// RFC 3711, 9.1: no keystream is used twice, whatever a peer makes of its descriptions.
#[test]
fn a_key_that_was_left_does_not_come_again() {
    let mut house = House::new();
    let (mut peer, ok) = call(&mut house);
    talk(&mut house, &mut peer, 1);
    let [(4, _, first)] = lines_of(&ok)[..] else { panic!("{ok}") };
    let mut seen = vec![first];
    let secure = |suite: &str| described("RTP/SAVP", &[crypto(4, suite, 'B')]);
    let plain = OFFER.replace("4000", "4100");
    let all = [(secure(SHORT), true), (secure(LONG), true), (plain, false), (secure(LONG), true)];
    for (cseq, (offer, is_secure)) in (2..).zip(all) {
        let again = house.within("INVITE", &ok, "c1", cseq, Some(&offer));
        house.send(TRUNK, &again);
        house.next_to(TRUNK);
        let passed = house.next_to(AGENT_A);
        house.reply(AGENT_A, &passed, 200, "t1", Some(OFFER));
        assert!(house.next_to(AGENT_A).starts_with("ACK "));
        let again = house.next_to(TRUNK);
        let ack = house.within("ACK", &ok, "c1", cseq, None);
        house.send(TRUNK, &ack);
        let lines = lines_of(&again);
        assert_eq!(lines.len(), usize::from(is_secure), "{again}");
        let Some((_, suite, ours)) = lines.first().copied() else { continue };
        assert!(seen.iter().all(|key| key.key != ours.key), "{again}");
        seen.push(ours);
        peer = Peer::new(key('B', suite), ours);
        peer.sequence = cseq as u16 * 100;
        talk(&mut house, &mut peer, cseq as u16 * 100);
    }
}

#[test]
fn a_call_goes_on_with_its_keys_after_a_death() {
    let mut house = House::new();
    let (mut peer, ok) = call(&mut house);
    talk(&mut house, &mut peer, 1);
    house.pass_ms(1_100);
    let late = peer.says(0x44);
    house.die();
    talk(&mut house, &mut peer, 6);
    house.converted(PairId(0).rtp(), SECURE, &late).expect("it came late, but only once");
    let twice = house.converted(PairId(0).rtp(), SECURE, &late);
    assert_eq!(twice, Err(Verdict::Drop(DropReason::SrtpReplayed)));
    // The next description says the same key.
    let offer = described("RTP/SAVP", &[crypto(4, LONG, 'B')]);
    let again = house.within("INVITE", &ok, "c1", 2, Some(&offer));
    house.send(TRUNK, &again);
    house.next_to(TRUNK);
    let passed = house.next_to(AGENT_A);
    house.reply(AGENT_A, &passed, 200, "t1", Some(OFFER));
    let again = house.next_to(TRUNK);
    assert_eq!(lines_of(&again), lines_of(&ok), "{again}");
    talk(&mut house, &mut peer, 20);
}

#[test]
fn prompts_and_recordings_of_an_encrypted_leg() {
    let mut house = House::new();
    let (mut peer, _) = call(&mut house);
    talk(&mut house, &mut peer, 1);
    let call = house.legs()[0].call();
    let record = MediaOrder::Record { recording: 9 };
    house.command(Command::Media { op: 77, call, leg: 0, order: record }, b"");
    assert_eq!(house.done(), [(77, OpResult::Ok)]);
    talk(&mut house, &mut peer, 6);
    let play = MediaOrder::Play { times: 1 };
    house.command(Command::Media { op: 78, call, leg: 0, order: play }, b"welcome");
    house.loaded("welcome", Some(&[1_000; 800]));
    house.pass_ms(200);
    let made = std::mem::take(&mut house.made);
    assert_eq!(made.len(), 5, "100 ms");
    assert_eq!(house.done(), [(78, OpResult::Ok)]);
    for (socket, to, packet) in made {
        assert_eq!((socket, to.to_string().as_str()), (PairId(0).rtp(), SECURE));
        let heard = peer.hears(&packet);
        assert!(heard[12..].iter().all(|byte| *byte == heard[12]), "one level all along");
    }
    talk(&mut house, &mut peer, 11);
    house.command(Command::Release { op: 6, call, cause: 0 }, b"");
    // What both said is in the spool as they said it.
    for said in [[0x11; 160], [0x22; 160]] {
        assert!(house.spooled.windows(160).any(|part| part == said), "{:x}", said[0]);
    }
}

#[test]
fn reports_go_by_one_port_where_the_peer_wants_it() {
    let mut house = House::new();
    house.register("1001", AGENT_A);
    let offer = OFFER.to_owned() + "a=rtcp-mux\r\n";
    house.send(TRUNK, &house.invite("1001", "c1", Some(&offer)));
    house.next_to(TRUNK);
    let invite = house.next_to(AGENT_A);
    assert!(!invite.contains("rtcp-mux"), "{invite}");
    house.reply(AGENT_A, &invite, 200, "t1", Some(OFFER));
    let ok = house.next_to(TRUNK);
    assert!(ok.contains("a=rtcp-mux\r\n"), "{ok}");
    for pair in [0, 1] {
        house.converted(PairId(pair).rtp(), PLAIN, &rtp(1, 0)).expect("relayed");
    }
    let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
    let (socket, _) = house.converted(PairId(0).rtp(), PLAIN, &report).expect("relayed");
    assert_eq!(socket, PairId(1).rtcp());
    let (socket, _) =
        house.converted(PairId(1).rtcp(), "203.0.113.9:4001", &report).expect("relayed");
    assert_eq!(socket, PairId(0).rtp());
    assert_eq!(house.count(Counter::RtcpReceived), 2);
}
