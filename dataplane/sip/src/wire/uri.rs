use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::scan::{is_host_byte, number, same_token, unescape};
use super::{LexError, Params};

/// A URI in its parts (RFC 3261, 19.1); other schemes than sip, sips and tel have only `rest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uri<'a> {
    /// What stands before the first colon.
    pub scheme: &'a [u8],
    /// Everything after the first colon.
    pub rest: &'a [u8],
    /// The user part without password, escapes as they came; the number of a tel URI. Empty when
    /// absent.
    pub user: &'a [u8],
    /// The password, when there is one.
    pub password: Option<&'a [u8]>,
    /// The host; an IPv6 reference keeps its brackets. Empty for a tel URI.
    pub host: &'a [u8],
    /// The port, when it is written.
    pub port: Option<u16>,
    /// The URI parameters.
    pub params: Params<'a>,
    /// What follows the question mark; empty when absent.
    pub headers: &'a [u8],
}

impl<'a> Uri<'a> {
    /// Takes a URI apart, without angle brackets around it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LexError> {
        let colon = memchr::memchr(b':', bytes).ok_or(LexError::Uri)?;
        let (scheme, rest) = (&bytes[..colon], &bytes[colon + 1..]);
        let starts_right = scheme.first().is_some_and(u8::is_ascii_alphabetic);
        let spelt_right =
            scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        let clean = !bytes.iter().any(|&b| b <= b' ' || matches!(b, b'<' | b'>' | b'"' | 0x7f));
        if !starts_right || !spelt_right || !clean {
            return Err(LexError::Uri);
        }
        let uri = Uri { scheme, rest, ..Uri::default() };
        if same_token(scheme, b"sip") || same_token(scheme, b"sips") {
            uri.with_sip_parts()
        } else if same_token(scheme, b"tel") {
            let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
            Ok(Uri { user: &rest[..end], params: Params::new(&rest[end..]), ..uri })
        } else {
            Ok(uri)
        }
    }

    fn with_sip_parts(mut self) -> Result<Self, LexError> {
        let mut after = self.rest;
        // User parts may hold semicolons and question marks, so the "@" is looked for before those.
        if let Some(at) = memchr::memchr(b'@', after) {
            let info = &after[..at];
            after = &after[at + 1..];
            match memchr::memchr(b':', info) {
                Some(colon) => {
                    self.user = &info[..colon];
                    self.password = Some(&info[colon + 1..]);
                }
                None => self.user = info,
            }
            if self.user.is_empty() {
                return Err(LexError::Uri);
            }
        }
        let (host, port, after) = host_port(after).ok_or(LexError::Uri)?;
        self.host = host;
        self.port = port;
        let question = memchr::memchr(b'?', after).unwrap_or(after.len());
        self.params = Params::new(&after[..question]);
        self.headers = after.get(question + 1..).unwrap_or_default();
        // What follows the host is nothing, parameters or headers.
        if matches!(after.first(), None | Some(b';' | b'?')) {
            Ok(self)
        } else {
            Err(LexError::Uri)
        }
    }

    /// The value of a URI parameter; empty for a flag such as `lr`.
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        self.params.value(name)
    }

    /// True for `sips`.
    pub fn is_secure(&self) -> bool {
        same_token(self.scheme, b"sips")
    }

    /// The host as an address, when it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        host_ip(self.host)
    }

    /// True when both name the same user at the same host and port (RFC 3261, 19.1.4, without the
    /// parameters and headers).
    pub fn same_resource(&self, other: &Uri<'_>) -> bool {
        let same_host = match (self.host_ip(), other.host_ip()) {
            (Some(a), Some(b)) => a == b,
            _ => same_token(self.host, other.host),
        };
        same_token(self.scheme, other.scheme)
            && same_host
            && self.port == other.port
            && unescape(self.user) == unescape(other.user)
            && (!self.host.is_empty() || self.rest == other.rest)
    }
}

/// An address from a host as written, with or without brackets around IPv6.
pub(super) fn host_ip(host: &[u8]) -> Option<IpAddr> {
    if let [b'[', inner @ .., b']'] = host {
        return ipv6(inner).map(IpAddr::V6);
    }
    core::str::from_utf8(host).ok()?.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// RFC 5118, 4.10: RFC 3261's own grammar leads to `2001:db8:::192.0.2.1`, so "an implementation must
/// tolerate both of the above constructs": three colons before an IPv4 address are two.
fn ipv6(text: &[u8]) -> Option<Ipv6Addr> {
    /// The groups beside an IPv4 address, of which the colons stand for one at least.
    const MOST_BEFORE: usize = 5;
    let text = core::str::from_utf8(text).ok()?;
    let Some((before, ipv4)) = text.split_once(":::") else {
        return text.parse().ok();
    };
    let ipv4: Ipv4Addr = ipv4.parse().ok()?;
    if before.split(':').count() > MOST_BEFORE {
        return None;
    }
    let head: Ipv6Addr = text[..before.len() + "::".len()].parse().ok()?;
    Some(Ipv6Addr::from_bits(head.to_bits() | u128::from(ipv4.to_bits())))
}

/// A host as written, its port, and what follows.
type HostPort<'a> = (&'a [u8], Option<u16>, &'a [u8]);

/// Reads `host [":" port]`; none when the host is empty or its IPv6 reference is not one.
pub(super) fn host_port(bytes: &[u8]) -> Option<HostPort<'_>> {
    let host_len = match bytes.first() {
        Some(b'[') => {
            let len = memchr::memchr(b']', bytes)? + 1;
            host_ip(&bytes[..len])?;
            len
        }
        _ => bytes.iter().position(|&b| !is_host_byte(b)).unwrap_or(bytes.len()),
    };
    let (host, after) = bytes.split_at(host_len);
    if host.is_empty() {
        return None;
    }
    let [b':', digits @ ..] = after else {
        return Some((host, None, after));
    };
    let len = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let port = number::<u16>(&digits[..len])?;
    Some((host, Some(port), &digits[len..]))
}
