//! The encapsulation that capture servers take (HEP3, <https://github.com/sipcapture/HEP>): a copy of a
//! message in a datagram, with where it went, when, and to which call it belongs.
//!
//! ```text
//! "HEP3" | length (2) | chunk | chunk | ...          all numbers in network byte order
//! chunk: vendor (2) | kind (2) | length with these six bytes (2) | value
//! ```

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use base::Transport;

const MAGIC: &[u8; 4] = b"HEP3";
/// The magic and the length.
const HEAD: usize = 6;
/// Vendor, kind and length of a chunk.
const CHUNK_HEAD: usize = 6;

/// The kinds of chunks of vendor 0 that we write and read.
mod kind {
    pub const FAMILY: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const IPV4_SOURCE: u16 = 3;
    pub const IPV4_DESTINATION: u16 = 4;
    pub const IPV6_SOURCE: u16 = 5;
    pub const IPV6_DESTINATION: u16 = 6;
    pub const SOURCE_PORT: u16 = 7;
    pub const DESTINATION_PORT: u16 = 8;
    pub const SECONDS: u16 = 9;
    pub const MICROSECONDS: u16 = 10;
    pub const PAYLOAD_TYPE: u16 = 11;
    pub const AGENT: u16 = 12;
    pub const PAYLOAD: u16 = 15;
    pub const CORRELATION: u16 = 17;
}

/// AF_INET and AF_INET6.
const FAMILIES: [u8; 2] = [2, 10];
/// IP's protocol numbers of UDP and TCP.
const PROTOCOLS: [u8; 2] = [17, 6];
/// The payload type of SIP.
const SIP: u8 = 1;

/// A message that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// By what; all streams are written, and read back, as TCP.
    pub transport: Transport,
    /// When, since 1970, in microseconds and less.
    pub at: Duration,
    /// The number of who captured it.
    pub agent: u32,
    /// The same for all messages of a call, on all of its legs; empty for none.
    pub correlation: &'a [u8],
    /// The message.
    pub payload: &'a [u8],
}

/// Why bytes are no captured SIP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HepError {
    /// It does not begin as HEP3, or its length is another.
    Head,
    /// A chunk is cut short or longer than its kind.
    Chunk(u16),
    /// A chunk is missing that must be there.
    Missing(u16),
    /// Its payload is not SIP.
    NotSip(u8),
}

impl fmt::Display for HepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HepError::Head => f.write_str("no HEP3 packet"),
            HepError::Chunk(kind) => write!(f, "HEP3 chunk {kind} is malformed"),
            HepError::Missing(kind) => write!(f, "HEP3 chunk {kind} is missing"),
            HepError::NotSip(kind) => write!(f, "HEP3 payload of type {kind} is not SIP"),
        }
    }
}

impl core::error::Error for HepError {}

impl<'a> Capture<'a> {
    /// The packet; none when it would be longer than its length can say.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.payload.len() + self.correlation.len() + 160);
        bytes.extend(MAGIC);
        bytes.extend([0; 2]);
        let (from, to) = (self.from.ip().to_canonical(), self.to.ip().to_canonical());
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                chunk(&mut bytes, kind::FAMILY, &FAMILIES[..1]);
                self.put_protocol(&mut bytes);
                chunk(&mut bytes, kind::IPV4_SOURCE, &from.octets());
                chunk(&mut bytes, kind::IPV4_DESTINATION, &to.octets());
            }
            _ => {
                chunk(&mut bytes, kind::FAMILY, &FAMILIES[1..]);
                self.put_protocol(&mut bytes);
                chunk(&mut bytes, kind::IPV6_SOURCE, &as_ipv6(from));
                chunk(&mut bytes, kind::IPV6_DESTINATION, &as_ipv6(to));
            }
        }
        chunk(&mut bytes, kind::SOURCE_PORT, &self.from.port().to_be_bytes());
        chunk(&mut bytes, kind::DESTINATION_PORT, &self.to.port().to_be_bytes());
        // The field ends in the year 2106.
        let seconds = u32::try_from(self.at.as_secs()).unwrap_or(u32::MAX);
        chunk(&mut bytes, kind::SECONDS, &seconds.to_be_bytes());
        chunk(&mut bytes, kind::MICROSECONDS, &self.at.subsec_micros().to_be_bytes());
        chunk(&mut bytes, kind::PAYLOAD_TYPE, &[SIP]);
        chunk(&mut bytes, kind::AGENT, &self.agent.to_be_bytes());
        if !self.correlation.is_empty() {
            chunk(&mut bytes, kind::CORRELATION, self.correlation);
        }
        chunk(&mut bytes, kind::PAYLOAD, self.payload);
        let length = u16::try_from(bytes.len()).ok()?;
        bytes[4..HEAD].copy_from_slice(&length.to_be_bytes());
        Some(bytes)
    }

    fn put_protocol(&self, bytes: &mut Vec<u8>) {
        let place = usize::from(self.transport.is_reliable());
        chunk(bytes, kind::PROTOCOL, &PROTOCOLS[place..=place]);
    }

    /// Reads a packet of a SIP message. Chunks that are not known are left out.
    pub fn decode(bytes: &'a [u8]) -> Result<Capture<'a>, HepError> {
        let chunks = match bytes.split_first_chunk::<HEAD>() {
            Some(([b'H', b'E', b'P', b'3', high, low], chunks))
                if usize::from(u16::from_be_bytes([*high, *low])) == bytes.len() =>
            {
                chunks
            }
            _ => return Err(HepError::Head),
        };
        // Whatever is cut short is told before anything that is missing.
        Chunks(chunks).try_for_each(|chunk| chunk.map(|_| ()))?;
        let find = |wanted: u16| {
            let mut chunks = Chunks(chunks).filter_map(Result::ok);
            let found = chunks.find(|(vendor, kind, _)| *vendor == 0 && *kind == wanted);
            found.map(|(_, _, value)| value)
        };
        let [protocol] = fixed(&find, kind::PROTOCOL)?;
        let [payload_type] = fixed(&find, kind::PAYLOAD_TYPE)?;
        if payload_type != SIP {
            return Err(HepError::NotSip(payload_type));
        }
        let address = |v4, v6, port| -> Result<SocketAddr, HepError> {
            let ip = match fixed::<4>(&find, v4) {
                Ok(octets) => IpAddr::from(octets),
                Err(HepError::Missing(_)) => IpAddr::from(fixed::<16>(&find, v6)?),
                Err(error) => return Err(error),
            };
            Ok(SocketAddr::new(ip, u16::from_be_bytes(fixed(&find, port)?)))
        };
        let seconds = u32::from_be_bytes(fixed(&find, kind::SECONDS)?);
        let micros = u32::from_be_bytes(fixed(&find, kind::MICROSECONDS)?);
        Ok(Capture {
            from: address(kind::IPV4_SOURCE, kind::IPV6_SOURCE, kind::SOURCE_PORT)?,
            to: address(kind::IPV4_DESTINATION, kind::IPV6_DESTINATION, kind::DESTINATION_PORT)?,
            transport: if protocol == PROTOCOLS[0] { Transport::Udp } else { Transport::Tcp },
            at: Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into()),
            agent: u32::from_be_bytes(fixed(&find, kind::AGENT)?),
            correlation: find(kind::CORRELATION).unwrap_or_default(),
            payload: find(kind::PAYLOAD).ok_or(HepError::Missing(kind::PAYLOAD))?,
        })
    }
}

fn chunk(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // A value that is too long for this makes the packet too long for its own length, too.
    let length = u16::try_from(CHUNK_HEAD + value.len()).unwrap_or(u16::MAX);
    bytes.extend([0; 2]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(value);
}

fn as_ipv6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn fixed<'a, const N: usize>(
    find: &impl Fn(u16) -> Option<&'a [u8]>,
    kind: u16,
) -> Result<[u8; N], HepError> {
    let value = find(kind).ok_or(HepError::Missing(kind))?;
    value.try_into().map_err(|_| HepError::Chunk(kind))
}

/// Vendor, kind and value of each chunk.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<(u16, u16, &'a [u8]), HepError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(([v0, v1, k0, k1, l0, l1], rest)) = self.0.split_first_chunk::<CHUNK_HEAD>()
        else {
            self.0 = &[];
            return Some(Err(HepError::Chunk(0)));
        };
        let (vendor, kind) = (u16::from_be_bytes([*v0, *v1]), u16::from_be_bytes([*k0, *k1]));
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let value = length.checked_sub(CHUNK_HEAD).and_then(|length| rest.split_at_checked(length));
        let Some((value, rest)) = value else {
            self.0 = &[];
            return Some(Err(HepError::Chunk(kind)));
        };
        self.0 = rest;
        Some(Ok((vendor, kind, value)))
    }
}

/// Parameters of credentials that prove who sent them (RFC 7616, 3.4), and that of a lease.
const PROOFS: [&[u8]; 4] = [b"response", b"nonce", b"cnonce", b"token"];

/// Puts an `x` for each byte of what is secret in a SIP message: the proofs in Authorization and
/// Proxy-Authorization, the token of a lease between blades, and media keys in its description (`a=crypto`, RFC 4568). Nothing else changes,
/// not even a length. Bytes that are no SIP message are borne.
pub fn mask(message: &mut [u8]) {
    let mut at = 0;
    let mut in_credentials = false;
    while at < message.len() {
        let end = message[at..].iter().position(|b| *b == b'\n').map_or(message.len(), |n| at + n);
        let line = &mut message[at..end];
        match line {
            [] | [b'\r'] => in_credentials = false,
            // RFC 3261, 7.3.1: a line that begins with a blank goes on with the header before it.
            [b' ' | b'\t', ..] if in_credentials => mask_credentials(line),
            [b'a', b'=', ..] => mask_key(line),
            _ => {
                let name = line.iter().position(|b| *b == b':').unwrap_or(0);
                let is = |one: &str| line[..name].trim_ascii().eq_ignore_ascii_case(one.as_bytes());
                in_credentials =
                    is("authorization") || is("proxy-authorization") || is("jackfield-lease");
                if in_credentials {
                    mask_credentials(&mut line[name + 1..]);
                }
            }
        }
        at = end + 1;
    }
}

/// The values of `name=value` and `name="value"` where the name is one of [`PROOFS`].
fn mask_credentials(text: &mut [u8]) {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
    let mut at = 0;
    while at < text.len() {
        let name = at..at + text[at..].iter().take_while(|b| is_name(b)).count();
        let mut value = name.end;
        let skip_blanks = |from: usize| {
            from + text[from..].iter().take_while(|b| b.is_ascii_whitespace()).count()
        };
        value = skip_blanks(value);
        if name.is_empty() || text.get(value) != Some(&b'=') {
            at = if text[at] == b'"' { closing(text, at) + 1 } else { name.end.max(at + 1) };
            continue;
        }
        value = skip_blanks(value + 1);
        let range = if text.get(value) == Some(&b'"') {
            value + 1..closing(text, value)
        } else {
            let ends = |b: &u8| matches!(b, b',' | b';') || b.is_ascii_whitespace();
            value..value + text[value..].iter().take_while(|b| !ends(b)).count()
        };
        at = (range.end + 1).min(text.len());
        if PROOFS.iter().any(|proof| text[name.clone()].eq_ignore_ascii_case(proof)) {
            text[range].fill(b'x');
        }
    }
}

/// Where the quotation that begins at `start` ends: its closing mark, or the end of the text.
fn closing(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

/// RFC 4568, 9.1: `a=crypto:1 SUITE inline:KEY|lifetime|MKI`.
fn mask_key(line: &mut [u8]) {
    const INLINE: &[u8] = b"inline:";
    if !line.starts_with(b"a=crypto:") {
        return;
    }
    let mut at = 0;
    while let Some(found) = line[at..].windows(INLINE.len()).position(|word| word == INLINE) {
        at += found + INLINE.len();
        let ends = |b: &u8| matches!(b, b'|' | b';' | b' ' | b'\r');
        let length = line[at..].iter().take_while(|b| !ends(b)).count();
        line[at..at + length].fill(b'x');
        at += length;
    }
}

#[cfg(test)]
mod tests;
