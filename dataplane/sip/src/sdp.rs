//! Session descriptions (RFC 4566) for a relay and a plain phone (RFC 3264).
//!
//! [`parse`] reads what a relay must know: where the audio goes and what it is. [`rewrite`] makes
//! the description that the other side gets. It writes a new one from what is on a list of allowed
//! things, so that no address, name or key of one side can reach the other (topology hiding).
//! [`offer`] and [`answer`] are a phone's own.

mod audio;
mod crypto;
mod rewrite;
mod write;

#[cfg(test)]
mod tests;

pub use audio::{Audio, Direction, Payload, Video, audio, video};
pub use crypto::{Crypto, KEY_AND_SALT, MAX_MKI, Secured, Suite};
pub use rewrite::{Rewrite, rewrite, rewrite_as};
pub use write::{Codec, Own, answer, answer_secured, offer, offer_secured};

use core::fmt;

/// The most media sections (`m=` lines) of one description; a WebRTC conference has some ten.
pub const MAX_MEDIA: usize = 32;

/// The most payload types of one audio line; there are 128 numbers.
pub const MAX_PAYLOADS: usize = 64;

/// The longest description in bytes; real ones have 200 to 8,000.
pub const MAX_SDP: usize = 32_768;

/// Why a description cannot be used. All but `Syntax` and `TooLarge` call for a 488.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SdpError {
    /// Not a description: no `v=0`, or a line that is not `letter=value`.
    Syntax,
    /// More than [`MAX_SDP`] bytes, [`MAX_MEDIA`] sections or [`MAX_PAYLOADS`] payload types.
    TooLarge,
    /// A media line that breaks its grammar.
    Media,
    /// No media line is audio.
    NoAudio,
    /// Audio is there, but refused with port 0.
    AudioRefused,
    /// The audio is neither plain RTP (`RTP/AVP` or `RTP/AVPF`) nor SRTP (`RTP/SAVP` or `RTP/SAVPF`).
    Transport,
    /// The audio is SRTP, but with no key that we can use (RFC 4568), or where none is wanted.
    Crypto,
    /// The audio is plain where only SRTP may be.
    Plain,
    /// No usable payload type in the audio line.
    NoPayload,
    /// No `c=` line for the audio, or one that breaks its grammar.
    Connection,
    /// The `c=` line names a host; the data plane does not resolve names.
    HostName,
    /// The `c=` line has a multicast address.
    Multicast,
    /// Offer and own codecs have none in common.
    NoCommonCodec,
}

impl SdpError {
    /// The reason's name, for counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            SdpError::Syntax => "sdp_syntax",
            SdpError::TooLarge => "sdp_too_large",
            SdpError::Media => "sdp_media",
            SdpError::NoAudio => "sdp_no_audio",
            SdpError::AudioRefused => "sdp_audio_refused",
            SdpError::Transport => "sdp_transport",
            SdpError::Crypto => "sdp_crypto",
            SdpError::Plain => "sdp_plain",
            SdpError::NoPayload => "sdp_no_payload",
            SdpError::Connection => "sdp_connection",
            SdpError::HostName => "sdp_host_name",
            SdpError::Multicast => "sdp_multicast",
            SdpError::NoCommonCodec => "sdp_no_common_codec",
        }
    }

    /// The status to refuse an offer with (RFC 3261, 13.3.1.3 and 21.4.26).
    pub const fn status(self) -> u16 {
        match self {
            SdpError::Syntax => 400,
            SdpError::TooLarge => 513,
            _ => 488,
        }
    }
}

impl fmt::Display for SdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for SdpError {}

/// A description whose lines were all seen to be `letter=value`; borrowed.
#[derive(Clone, Debug)]
pub struct Sdp<'a> {
    session: Section<'a>,
    media: Vec<Media<'a>>,
}

impl<'a> Sdp<'a> {
    /// The media sections in order.
    pub fn media(&self) -> &[Media<'a>] {
        &self.media
    }
}

/// One media section: its `m=` line (RFC 4566, 5.14) and the lines after it.
#[derive(Clone, Copy, Debug)]
pub struct Media<'a> {
    /// `audio`, `video`, `application` and so on.
    pub kind: &'a [u8],
    /// 0 refuses the stream (RFC 3264, 6).
    pub port: u16,
    /// As `RTP/AVP`.
    pub protocol: &'a [u8],
    formats: &'a [u8],
    section: Section<'a>,
}

impl<'a> Media<'a> {
    /// The formats; for RTP they are payload types.
    pub fn formats(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        words(self.formats)
    }

    fn is_audio(&self) -> bool {
        self.kind.eq_ignore_ascii_case(b"audio")
    }

    fn is_video(&self) -> bool {
        self.kind.eq_ignore_ascii_case(b"video")
    }

    fn is_plain_rtp(&self) -> bool {
        [&b"RTP/AVP"[..], b"RTP/AVPF"].iter().any(|p| self.protocol.eq_ignore_ascii_case(p))
    }

    fn is_secure_rtp(&self) -> bool {
        [&b"RTP/SAVP"[..], b"RTP/SAVPF"].iter().any(|p| self.protocol.eq_ignore_ascii_case(p))
    }
}

/// Consecutive lines.
#[derive(Clone, Copy, Debug)]
struct Section<'a>(&'a [u8]);

impl<'a> Section<'a> {
    fn lines(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        lines(self.0).filter_map(|line| match line {
            [letter, b'=', value @ ..] => Some((*letter, value)),
            _ => None,
        })
    }

    /// The values of all lines of that letter.
    fn values(self, letter: u8) -> impl Iterator<Item = &'a [u8]> {
        self.lines().filter(move |(l, _)| *l == letter).map(|(_, value)| value)
    }

    /// The attributes: the name, and what follows the colon.
    fn attributes(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.values(b'a').map(|attribute| match memchr::memchr(b':', attribute) {
            Some(colon) => (&attribute[..colon], &attribute[colon + 1..]),
            None => (attribute, &[][..]),
        })
    }
}

/// Lines without their ends, which are CRLF or LF (RFC 4566, 5: parsers "SHOULD be tolerant").
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn number<N: core::str::FromStr>(digits: &[u8]) -> Option<N> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    core::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// Reads a description; what its attributes say is looked at by [`audio`] and [`rewrite`].
pub fn parse(bytes: &[u8]) -> Result<Sdp<'_>, SdpError> {
    if bytes.len() > MAX_SDP {
        return Err(SdpError::TooLarge);
    }
    let mut starts = Vec::new();
    let mut at = 0;
    let mut ended = false;
    for (index, raw) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let line = raw.strip_suffix(b"\n").unwrap_or(raw);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let clean = memchr::memchr2(b'\r', 0, line).is_none();
        match line {
            b"v=0" if index == 0 => {}
            _ if index == 0 => return Err(SdpError::Syntax),
            // Empty lines are borne at the end only.
            [] => ended = true,
            [letter, b'=', ..] if letter.is_ascii_lowercase() && clean && !ended => {
                if *letter == b'm' {
                    starts.push((at, &line[2..]));
                }
            }
            _ => return Err(SdpError::Syntax),
        }
        if starts.len() > MAX_MEDIA {
            return Err(SdpError::TooLarge);
        }
        at += raw.len();
    }
    if bytes.is_empty() {
        return Err(SdpError::Syntax);
    }
    let session_end = starts.first().map_or(bytes.len(), |(start, _)| *start);
    let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([bytes.len()]);
    let media = starts.iter().zip(ends).map(|((start, line), end)| {
        media(line, Section(&bytes[*start..end])).ok_or(SdpError::Media)
    });
    let media = media.collect::<Result<Vec<_>, _>>()?;
    Ok(Sdp { session: Section(&bytes[..session_end]), media })
}

/// RFC 4566, 5.14: `m=<media> <port>/<number of ports> <proto> <fmt> ...`.
fn media<'a>(line: &'a [u8], section: Section<'a>) -> Option<Media<'a>> {
    let mut rest = line;
    let mut word = || {
        let end = memchr::memchr(b' ', rest)?;
        let (word, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        is_plain(word).then_some(word)
    };
    let (kind, port, protocol) = (word()?, word()?, word()?);
    let port = port.split(|&b| b == b'/').next()?;
    words(rest).next()?;
    Some(Media { kind, port: number(port)?, protocol, formats: rest, section })
}

/// A word of an `m=` line: a token (RFC 4566, 9) or several with slashes between them.
fn is_plain(word: &[u8]) -> bool {
    !word.is_empty()
        && word.iter().all(|b| b.is_ascii_graphic() && !b"\"(),:;<=>?@[\\]".contains(b))
}
