use std::net::{IpAddr, SocketAddr};

use super::Params;
use super::scan::{is_lws, number, quotes_end, same_token, token, trim};
use super::uri::{host_ip, host_port};

/// The port of SIP over UDP and TCP where none is written (RFC 3261, 18.2.2).
const DEFAULT_PORT: u16 = 5060;

/// One value of Via (RFC 3261, 20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The transport token, as `UDP`.
    pub transport: &'a [u8],
    /// The host of sent-by; an IPv6 reference keeps its brackets.
    pub host: &'a [u8],
    /// The port of sent-by, when written.
    pub port: Option<u16>,
    /// The `branch` parameter.
    pub branch: Option<&'a [u8]>,
    /// The `received` parameter, as written.
    pub received: Option<&'a [u8]>,
    /// `Some(None)` is an `rport` without value, which asks for one (RFC 3581).
    pub rport: Option<Option<u16>>,
    /// All the parameters.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Takes one value apart; none when it breaks the grammar.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        // sent-protocol and sent-by allow blanks around their slashes and colon (RFC 4475,
        // 3.1.1.1).
        let (name, rest) = token(trim(value))?;
        // RFC 3261, 25.1: "protocol-version = token", so that a 505 finds its way back.
        let (_version, rest) = token(trim(rest.strip_prefix(b"/")?))?;
        let rest = trim(rest.strip_prefix(b"/")?);
        let transport_len = super::scan::token_len(rest);
        let (transport, rest) = rest.split_at(transport_len);
        if transport.is_empty()
            || !same_token(name, b"SIP")
            || !rest.first().copied().is_some_and(is_lws)
        {
            return None;
        }
        let (host, port, params) = sent_by(trim(rest))?;
        if !quotes_end(params) {
            return None;
        }
        let mut via = Via {
            transport,
            host,
            port,
            branch: None,
            received: None,
            rport: None,
            params: Params::new(params),
        };
        via.read_params()?;
        Some(via)
    }

    fn read_params(&mut self) -> Option<()> {
        for (name, value) in self.params {
            if same_token(name, b"branch") {
                self.branch = self.branch.or(value);
            } else if same_token(name, b"received") {
                self.received = self.received.or(value);
            } else if same_token(name, b"rport") && self.rport.is_none() {
                self.rport = match value {
                    None | Some(b"") => Some(None),
                    Some(digits) => Some(Some(number(digits)?)),
                };
            }
        }
        Some(())
    }

    /// The host of sent-by as an address, when it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        host_ip(self.host)
    }

    /// The port of sent-by, 5060 where none is written.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// Where a response to a request goes that came over UDP from `from` with this as its top Via.
    ///
    /// RFC 3581, 4: with `rport` to the source address and port; RFC 3261, 18.2.2: else to the
    /// source address, "using the port indicated in the "sent-by" value, or using port 5060 if none
    /// is specified explicitly". A `maddr` is not followed: it would let a stranger aim our
    /// responses.
    pub fn response_address(&self, from: SocketAddr) -> SocketAddr {
        match self.rport {
            Some(_) => from,
            None => SocketAddr::new(from.ip(), self.port_or_default()),
        }
    }
}

/// Reads `host [COLON port]` where blanks may stand around the colon; the rest is the parameters.
fn sent_by(bytes: &[u8]) -> Option<(&[u8], Option<u16>, &[u8])> {
    let (host, mut port, rest) = host_port(bytes).or_else(|| {
        // A colon with blanks after it: read the host alone, the port below.
        let colon = memchr::memrchr(b':', bytes.split(|&b| b == b';').next()?)?;
        let (host, port, _) = host_port(&bytes[..colon])?;
        Some((host, port, &bytes[colon..]))
    })?;
    let mut rest = trim(rest);
    if let Some(after) = rest.strip_prefix(b":") {
        if port.is_some() {
            return None;
        }
        let after = trim(after);
        let len = after.iter().position(|b| !b.is_ascii_digit()).unwrap_or(after.len());
        port = Some(number(&after[..len])?);
        rest = trim(&after[len..]);
    }
    matches!(rest.first(), None | Some(b';')).then_some((host, port, rest))
}
