use base64ct::{Base64, Encoding as _};
use core::fmt;

use super::{Media, number, words};

/// What encrypts and authenticates a stream (RFC 4568, 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`
    #[default]
    Sha1Tag80,
    /// `AES_CM_128_HMAC_SHA1_32`
    Sha1Tag32,
}

impl Suite {
    /// Those that we take, the preferred first.
    pub const ALL: [Suite; 2] = [Suite::Sha1Tag80, Suite::Sha1Tag32];

    /// The name in `a=crypto`.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::Sha1Tag80 => "AES_CM_128_HMAC_SHA1_80",
            Suite::Sha1Tag32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }

    fn named(name: &[u8]) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| name.eq_ignore_ascii_case(suite.name().as_bytes()))
    }
}

/// The bytes of a master key and its salt: 128 and 112 bits (RFC 4568, 6.2).
pub const KEY_AND_SALT: usize = 30;
/// The most bytes of a master key identifier that are read.
pub const MAX_MKI: usize = 8;

/// One `a=crypto` line: the key that the describer sends with (RFC 4568, 4). The key is not shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Crypto {
    /// Names the line; the answer has that of the line it takes.
    pub tag: u32,
    /// What the key is for.
    pub suite: Suite,
    /// The master key, and its salt behind it.
    pub key: [u8; KEY_AND_SALT],
    /// The identifier of the key in each packet, and how many bytes of it there are; mostly none.
    pub mki: ([u8; MAX_MKI], u8),
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crypto { tag, suite, .. } = self;
        f.debug_struct("Crypto").field("tag", tag).field("suite", suite).finish_non_exhaustive()
    }
}

impl Crypto {
    /// A line without an identifier.
    pub fn new(tag: u32, suite: Suite, key: [u8; KEY_AND_SALT]) -> Crypto {
        Crypto { tag, suite, key, mki: ([0; MAX_MKI], 0) }
    }

    /// The line's value. RFC 4568, 9.1: `<tag> <crypto-suite> <key-params> [<session-params>]`.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let mut text = [0; KEY_AND_SALT / 3 * 4];
        // Its length is that of the key.
        let key = Base64::encode(&self.key, &mut text).unwrap_or_default();
        let line = format_args!("a=crypto:{} {} inline:{key}\r\n", self.tag, self.suite.name());
        super::rewrite::put(out, line);
    }

    /// The line, if it is one that we can use.
    fn parse(value: &[u8]) -> Option<Crypto> {
        let mut parts = words(value);
        let tag = parts.next().filter(|tag| tag.len() <= 9).and_then(number)?;
        let suite = Suite::named(parts.next()?)?;
        let (key, mki) = parse_key(parts.next()?)?;
        // RFC 4568, 6.3.7: "If an SRTP session parameter in the SDP crypto attribute is unknown [...] that
        // crypto attribute MUST be considered invalid", unless it begins with a dash.
        parts.all(is_harmless).then_some(Crypto { tag, suite, key, mki })
    }
}

/// A session parameter that changes nothing for us: a hint, or a key derivation rate of none.
fn is_harmless(parameter: &[u8]) -> bool {
    let begins = |with: &[u8]| {
        parameter.get(..with.len()).is_some_and(|name| name.eq_ignore_ascii_case(with))
    };
    parameter.starts_with(b"-") || begins(b"WSH=") || parameter.eq_ignore_ascii_case(b"KDR=0")
}

type KeyAndMki = ([u8; KEY_AND_SALT], ([u8; MAX_MKI], u8));

/// RFC 4568, 9.2: `inline:<key||salt> ["|" lifetime] ["|" MKI ":" length]`. One with several keys is not for us.
fn parse_key(parameter: &[u8]) -> Option<KeyAndMki> {
    let (method, info) = parameter.split_at_checked(7)?;
    if !method.eq_ignore_ascii_case(b"inline:") {
        return None;
    }
    let mut parts = info.split(|byte| *byte == b'|');
    let mut key = [0; KEY_AND_SALT];
    let read = Base64::decode(parts.next()?, &mut key).ok()?;
    if read.len() != KEY_AND_SALT {
        return None;
    }
    let mut mki = ([0; MAX_MKI], 0);
    for (place, part) in parts.enumerate() {
        match memchr::memchr(b':', part) {
            Some(colon) => {
                let (identifier, length) = (&part[..colon], &part[colon + 1..]);
                let identifier = number::<u64>(identifier)?.to_be_bytes();
                let length = number::<u8>(length).filter(|n| (1..=MAX_MKI as u8).contains(n))?;
                mki = ([0; MAX_MKI], length);
                let from = MAX_MKI - usize::from(length);
                if identifier[..from].iter().any(|byte| *byte != 0) {
                    return None;
                }
                mki.0[..usize::from(length)].copy_from_slice(&identifier[from..]);
            }
            // A lifetime: who keeps to it describes a new key in time.
            None if place == 0 => {
                number::<u64>(part.strip_prefix(b"2^").unwrap_or(part))?;
            }
            None => return None,
        }
    }
    Some((key, mki))
}

/// The first line of a media section that we can use.
///
/// RFC 4568, 5.1.2: the answerer "selects the most preferred", and "the crypto attributes are listed in order of
/// preference".
pub(super) fn crypto(media: &Media<'_>) -> Option<Crypto> {
    let lines = media.section.attributes().filter(|(name, _)| *name == b"crypto");
    lines.filter_map(|(_, value)| Crypto::parse(value)).next()
}

/// How a stream that we describe is protected, and by how many ports it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secured {
    /// By `RTP/SAVP`, which is SRTP or nothing; else by `RTP/AVP`, where `a=crypto` is an offer that may be declined
    /// (RFC 8643).
    pub profile: bool,
    /// Our lines: all in an offer, the one that is taken in an answer, none for plain RTP.
    pub crypto: [Option<Crypto>; Suite::ALL.len()],
    /// `a=rtcp-mux` (RFC 5761).
    pub mux: bool,
}

impl Secured {
    /// The protocol of a media line that says `given` on the other side.
    pub(super) fn protocol(&self, given: &[u8]) -> &'static [u8] {
        let feedback = given.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'F'));
        match (self.profile, feedback) {
            (false, false) => b"RTP/AVP",
            (false, true) => b"RTP/AVPF",
            (true, false) => b"RTP/SAVP",
            (true, true) => b"RTP/SAVPF",
        }
    }

    /// The lines of a media section.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        self.crypto.iter().flatten().for_each(|crypto| crypto.push(out));
        if self.mux {
            out.extend_from_slice(b"a=rtcp-mux\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::super::{Codec, Direction, Own, Rewrite, SdpError};
    use super::super::{answer, answer_secured, audio, offer_secured, parse, rewrite};
    use super::*;

    /// The key of RFC 4568, 4.
    const INLINE: &str = "inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
    const KEY: &[u8; KEY_AND_SALT] = b"wDfvg&T+)xG7@fb5jU,RaA}\\|p0%*#";

    fn offer(protocol: &str, lines: &[&str]) -> Vec<u8> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!(
            "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
             m=audio 4000 {protocol} 8\r\n{lines}"
        )
        .into_bytes()
    }

    fn named(mut line: Crypto, mki: &[u8]) -> Crypto {
        line.mki.0[..mki.len()].copy_from_slice(mki);
        line.mki.1 = mki.len() as u8;
        line
    }

    #[test]
    fn lines_that_can_be_used_and_lines_that_cannot() {
        let of = |rest: &str| Crypto::parse(rest.as_bytes());
        let key = Crypto::new(1, Suite::Sha1Tag80, *KEY);
        let suite = "AES_CM_128_HMAC_SHA1_80";
        for (line, expected) in [
            (format!("1 {suite} {INLINE}"), Some(key)),
            (format!("1 {suite} {INLINE}|2^20|1:4"), Some(named(key, &[0, 0, 0, 1]))),
            (format!("1 {suite} {INLINE}|1066:2"), Some(named(key, &[4, 42]))),
            (format!("1 {suite} {INLINE}|1048576"), Some(key)),
            (format!("1 {suite} {INLINE} WSH=64 KDR=0 -x=y"), Some(key)),
            (
                format!("12 AES_CM_128_HMAC_SHA1_32 {INLINE}"),
                Some(Crypto::new(12, Suite::Sha1Tag32, *KEY)),
            ),
            (format!("1 F8_128_HMAC_SHA1_80 {INLINE}"), None),
            (format!("1 AEAD_AES_256_GCM {INLINE}"), None),
            (format!("x {suite} {INLINE}"), None),
            (format!("1234567890 {suite} {INLINE}"), None),
            (format!("1 {suite} {INLINE} UNENCRYPTED_SRTP"), None),
            (format!("1 {suite} {INLINE} UNENCRYPTED_SRTCP"), None),
            (format!("1 {suite} {INLINE} KDR=3"), None),
            (format!("1 {suite} {INLINE} NEW=3"), None),
            (format!("1 {suite} {INLINE};{INLINE}"), None),
            (format!("1 {suite} {INLINE}|300:1"), None),
            (format!("1 {suite} {INLINE}|1:9"), None),
            (format!("1 {suite} {INLINE}|1:0"), None),
            (format!("1 {suite} {INLINE}|x"), None),
            (format!("1 {suite} {INLINE}|2^20|2^20"), None),
            (format!("1 {suite} inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSo="), None),
            (format!("1 {suite} inline:{}", "!".repeat(40)), None),
            (format!("1 {suite} inline:"), None),
            (format!("1 {suite} uri:{INLINE}"), None),
            (format!("1 {suite}"), None),
            (String::new(), None),
        ] {
            assert_eq!(of(&line), expected, "{line}");
        }
        assert!(!format!("{key:?}").contains("119"), "{key:?}");
    }

    #[test]
    fn the_first_usable_line_counts_and_none_is_refused() {
        let unknown = "a=crypto:1 AES_192_CM_HMAC_SHA1_80 inline:x";
        let short = format!("a=crypto:2 AES_CM_128_HMAC_SHA1_32 {INLINE}");
        let long = format!("a=crypto:3 AES_CM_128_HMAC_SHA1_80 {INLINE}");
        let read = |protocol: &str, lines: &[&str]| {
            let bytes = offer(protocol, lines);
            let sdp = parse(&bytes).expect("a description");
            audio(&sdp).map(|audio| (audio.secure, audio.crypto.map(|it| it.tag), audio.mux))
        };
        let lines = [unknown, &short, &long, "a=rtcp-mux"];
        assert_eq!(read("RTP/SAVP", &lines), Ok((true, Some(2), true)));
        assert_eq!(read("RTP/AVP", &lines), Ok((false, Some(2), true)));
        assert_eq!(read("RTP/SAVPF", &[&long]), Ok((true, Some(3), false)));
        assert_eq!(read("RTP/AVP", &[unknown]), Ok((false, None, false)));
        assert_eq!(read("RTP/SAVP", &[unknown]), Err(SdpError::Crypto));
        assert_eq!(read("RTP/SAVP", &[]), Err(SdpError::Crypto));
        assert_eq!(SdpError::Crypto.status(), 488);
    }

    const OWN: Own<'_> = Own {
        address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)),
        port: 20_000,
        session_id: 1,
        version: 1,
        direction: Direction::SendRecv,
        codecs: &[Codec::Pcma],
    };

    /// Keys of one side never reach the other, whichever profile they have.
    #[test]
    fn a_description_is_said_with_our_keys_alone() {
        let ours = Crypto::new(7, Suite::Sha1Tag32, [0x55; KEY_AND_SALT]);
        let line = format!("a=crypto:3 AES_CM_128_HMAC_SHA1_80 {INLINE}");
        for (given, profile, said) in [
            ("RTP/SAVP", false, "RTP/AVP "),
            ("RTP/SAVP", true, "RTP/SAVP "),
            ("RTP/AVPF", true, "RTP/SAVPF "),
            ("RTP/SAVPF", false, "RTP/AVPF "),
        ] {
            for crypto in [[None, None], [Some(ours), None]] {
                let bytes = offer(given, &[&line, "a=rtcp-mux"]);
                let sdp = parse(&bytes).expect("a description");
                let secured = Secured { profile, crypto, mux: profile };
                let with = Rewrite {
                    address: OWN.address,
                    port: OWN.port,
                    video_port: None,
                    session_id: 1,
                    version: 1,
                    secured,
                };
                let out = String::from_utf8(rewrite(&sdp, with).expect("rewritten")).expect("text");
                assert!(out.contains(&format!("m=audio 20000 {said}")), "{out}");
                assert!(!out.contains("d0Rm"), "{out}");
                assert_eq!(out.contains("a=rtcp-mux"), profile);
                let again = parse(out.as_bytes()).expect("a description");
                match audio(&again) {
                    Ok(audio) => {
                        assert_eq!((audio.crypto, audio.secure), (crypto[0], profile));
                        assert_eq!(audio.rtcp.port(), if profile { 20_000 } else { 20_001 });
                    }
                    Err(error) => assert!(profile && crypto[0].is_none(), "{error}"),
                }
            }
        }
    }

    #[test]
    fn an_answer_of_our_own_has_the_profile_of_the_offer() {
        let line = format!("a=crypto:3 AES_CM_128_HMAC_SHA1_80 {INLINE}");
        let ours = Crypto::new(3, Suite::Sha1Tag80, [0x55; KEY_AND_SALT]);
        let bytes = offer("RTP/SAVP", &[&line]);
        let sdp = parse(&bytes).expect("a description");
        assert_eq!(answer(&sdp, &OWN), Err(SdpError::Crypto), "who speaks plain RTP");
        let secured = Secured { profile: true, crypto: [Some(ours), None], mux: false };
        let out = answer_secured(&sdp, &OWN, &secured).expect("an answer");
        let said = parse(&out).expect("a description");
        let said = audio(&said).expect("audio");
        assert_eq!((said.secure, said.crypto), (true, Some(ours)));
        let out = offer_secured(&OWN, &secured);
        let said = parse(&out).expect("a description");
        assert_eq!(audio(&said).expect("audio").crypto, Some(ours));
    }

    proptest! {
        #[test]
        fn a_line_is_read_as_it_was_written(tag in 0_u32..1_000_000_000, short: bool, key: [u8; KEY_AND_SALT]) {
            let suite = if short { Suite::Sha1Tag32 } else { Suite::Sha1Tag80 };
            let crypto = Crypto::new(tag, suite, key);
            let mut out = Vec::new();
            crypto.push(&mut out);
            let value = out.strip_prefix(b"a=crypto:").and_then(|it| it.strip_suffix(b"\r\n"));
            prop_assert_eq!(Crypto::parse(value.expect("a line")), Some(crypto));
        }

        #[test]
        fn any_value_is_read_without_harm(value in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Crypto::parse(&value);
            let _ = Crypto::parse(&[b"1 AES_CM_128_HMAC_SHA1_80 inline:", &value[..]].concat());
        }
    }
}
