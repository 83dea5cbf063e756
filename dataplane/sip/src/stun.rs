//! STUN on a SIP port (RFC 5626, 8; RFC 8489): a phone behind a NAT asks by what address it is seen, so that the NAT keeps
//! its way open and the phone notices when it did not.

use core::net::{IpAddr, SocketAddr};

/// The fixed value of every message (RFC 8489, 5).
const COOKIE: u32 = 0x2112_a442;
const HEAD: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Attributes below must be understood by who gets them (RFC 8489, 14).
const OPTIONAL: u16 = 0x8000;
/// USERNAME, MESSAGE-INTEGRITY and what else credentials are made of: a keep-alive has none, and they prove nothing
/// here.
const CREDENTIALS: [u16; 2] = [0x0006, 0x0008];
/// Attributes that one request may have, and unknown ones that an answer names.
const ATTRIBUTES: usize = 16;
const NAMED: usize = 4;

/// What a datagram is that may be STUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stun {
    /// It is none: it may be SIP.
    None,
    /// It asks nothing that is answered: an indication, a response, or broken.
    Malformed,
    /// A Binding request, and the answer to it.
    Answer(Vec<u8>),
}

/// Looks at a datagram that came from that address.
///
/// RFC 8489, 5: "The most significant 2 bits of every STUN message MUST be zeroes. This can be used to differentiate STUN
/// packets from other protocols when STUN is multiplexed with other protocols on the same port."
pub fn look(datagram: &[u8], from: SocketAddr) -> Stun {
    let word = |at: usize| datagram.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
    let is_stun = datagram.first().is_some_and(|byte| byte & 0xc0 == 0)
        && word(4).is_some_and(|word| u32::from_be_bytes(*word) == COOKIE);
    let Some((head, attributes)) = datagram.split_at_checked(HEAD).filter(|_| is_stun) else {
        return Stun::None;
    };
    let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    if short(0) != BINDING_REQUEST || usize::from(short(2)) != attributes.len() {
        return Stun::Malformed;
    }
    let Some(unknown) = unknown(attributes) else { return Stun::Malformed };
    let body = match unknown.is_empty() {
        true => mapped(from, &head[4..]),
        false => refusal(&unknown),
    };
    let kind = if unknown.is_empty() { BINDING_SUCCESS } else { BINDING_ERROR };
    let length = (body.len() as u16).to_be_bytes();
    Stun::Answer([&kind.to_be_bytes(), &length, &head[4..], &body].concat())
}

/// The attributes that must be understood and are not; none when they cannot be told apart.
fn unknown(mut attributes: &[u8]) -> Option<Vec<u16>> {
    let mut unknown = Vec::new();
    for _ in 0..ATTRIBUTES {
        let [k0, k1, l0, l1, rest @ ..] = attributes else {
            return attributes.is_empty().then_some(unknown);
        };
        let kind = u16::from_be_bytes([*k0, *k1]);
        let length = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
        attributes = rest.get(length..)?;
        if kind < OPTIONAL && !CREDENTIALS.contains(&kind) && unknown.len() < NAMED {
            unknown.push(kind);
        }
    }
    None
}

/// XOR-MAPPED-ADDRESS (RFC 8489, 14.2): the address is hidden from boxes that rewrite what looks like one.
fn mapped(from: SocketAddr, cookie_and_id: &[u8]) -> Vec<u8> {
    let hidden = |ip: &[u8]| ip.iter().zip(cookie_and_id).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    let (family, address) = match from.ip().to_canonical() {
        IpAddr::V4(ip) => (1, hidden(&ip.octets())),
        IpAddr::V6(ip) => (2, hidden(&ip.octets())),
    };
    let port = from.port() ^ (COOKIE >> 16) as u16;
    let length = 4 + address.len() as u16;
    let head = [XOR_MAPPED_ADDRESS.to_be_bytes(), length.to_be_bytes()].concat();
    [&head[..], &[0, family], &port.to_be_bytes(), &address].concat()
}

/// RFC 8489, 6.3.1: "If the request contains one or more unknown comprehension-required attributes, the server replies
/// with an error response with an error code of 420 (Unknown Attribute) and includes an UNKNOWN-ATTRIBUTES attribute".
fn refusal(unknown: &[u16]) -> Vec<u8> {
    let mut body = [ERROR_CODE.to_be_bytes(), 4_u16.to_be_bytes()].concat();
    body.extend([0, 0, 4, 20]);
    body.extend(UNKNOWN_ATTRIBUTES.to_be_bytes());
    body.extend((2 * unknown.len() as u16).to_be_bytes());
    body.extend(unknown.iter().flat_map(|kind| kind.to_be_bytes()));
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let length = (attributes.len() as u16).to_be_bytes();
        [&[0, 1][..], &length, &COOKIE.to_be_bytes(), b"abcdefghijkl", attributes].concat()
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// RFC 5769, 2.2 and 2.3 have these addresses and this transaction id.
    #[test]
    fn an_address_is_told_as_in_the_test_vectors() {
        let id = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let ask = [&[0, 1, 0, 0][..], &COOKIE.to_be_bytes(), &id].concat();
        let Stun::Answer(answer) = look(&ask, from("192.0.2.1:32853")) else { panic!("answered") };
        assert_eq!(answer[..8], [1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(answer[8..20], id);
        assert_eq!(answer[20..], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let v6 = from("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        let Stun::Answer(answer) = look(&ask, v6) else { panic!("answered") };
        assert_eq!(
            answer[20..],
            [
                0, 0x20, 0, 20, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
                0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_named() {
        let software = [0x80, 0x22, 0, 3, b'a', b'b', b'c', 0];
        let username = [0, 6, 0, 1, b'u', 0, 0, 0];
        let known = request(&[software, username].concat());
        assert!(
            matches!(look(&known, from("192.0.2.1:1")), Stun::Answer(answer) if answer[1] == 1)
        );
        let change_request = [0, 3, 0, 4, 0, 0, 0, 6];
        let Stun::Answer(answer) = look(&request(&change_request), from("192.0.2.1:1")) else {
            panic!("answered")
        };
        assert_eq!(answer[..4], [1, 0x11, 0, 16]);
        assert_eq!(answer[20..], [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 3, 0, 0]);
    }

    #[test]
    fn what_asks_nothing_is_not_answered() {
        let good = request(&[]);
        for (at, byte) in [(0, 1), (1, 0x11), (1, 2), (3, 4)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(look(&bad, from("192.0.2.1:1")), Stun::Malformed, "{at}");
        }
        assert_eq!(look(&request(&[0, 6, 0, 9, 1, 2, 3, 4]), from("192.0.2.1:1")), Stun::Malformed);
        for none in [&b"OPTIONS sip:a SIP/2.0\r\n\r\n"[..], b"\r\n\r\n", b"", &good[..19]] {
            assert_eq!(look(none, from("192.0.2.1:1")), Stun::None);
        }
    }

    proptest! {
        /// Whatever comes costs little, and what goes out is never much longer.
        #[test]
        fn any_bytes_are_borne(tail in proptest::collection::vec(any::<u8>(), 0..200), is_whole: bool) {
            let bytes = if is_whole { request(&tail) } else { tail };
            if let Stun::Answer(answer) = look(&bytes, from("[2001:db8::1]:5060")) {
                prop_assert!(answer.len() <= bytes.len() + 24);
            }
        }
    }
}
