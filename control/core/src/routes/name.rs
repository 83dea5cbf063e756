//! Trunks that are known by name, whose addresses DNS tells (RFC 3263).

use std::fmt;
use std::sync::Arc;

use base::Transport;

/// The longest name, in bytes (RFC 1035, 2.3.4).
const NAME_BYTES: usize = 253;
/// The longest part between two dots.
const LABEL_BYTES: usize = 63;

/// A trunk's name: `carrier.example`, with `:PORT` and `;transport=udp`, `tcp` or `tls` or without.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrunkName {
    /// The host or the domain. It has a dot.
    pub host: Arc<str>,
    /// The port; without one it is found by SRV records (RFC 3263, 4.2).
    pub port: Option<u16>,
    /// The transport; without one it is found by NAPTR records (RFC 3263, 4.1).
    pub transport: Option<Transport>,
}

impl TrunkName {
    /// `HOST[:PORT]`, with the name of a transport; None when it is no name of a host.
    pub(super) fn parse(text: &str, transport: Option<&str>) -> Result<Option<Self>, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if !is_host(host) {
            return Ok(None);
        }
        let port = port.map(|port| {
            let port = port.parse().ok().filter(|port| *port != 0);
            port.ok_or("the port must be 1 to 65535")
        });
        Ok(Some(TrunkName {
            host: host.into(),
            port: port.transpose()?,
            transport: self::transport(transport)?,
        }))
    }
}

/// The transport of that name, if one is named.
pub(super) fn transport(name: Option<&str>) -> Result<Option<Transport>, String> {
    let Some(name) = name else { return Ok(None) };
    // Nobody can be called over WebSocket (RFC 7118, 5).
    let is_dialled = |it: &Transport| !matches!(it, Transport::Ws | Transport::Wss);
    let transport = Transport::parse(name.as_bytes()).filter(is_dialled);
    transport.map(Some).ok_or_else(|| "transport must be udp, tcp or tls".into())
}

/// RFC 1123, 2.1: letters, digits and hyphens; the last label is not all digits, or it would be an address.
pub(super) fn is_host(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let Some((_, last)) = text.rsplit_once('.') else { return false };
    text.len() <= NAME_BYTES
        && text.split('.').all(is_label)
        && last.bytes().any(|byte| !byte.is_ascii_digit())
}

impl fmt::Display for TrunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Some(transport) => write!(f, ";transport={transport}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_dot_and_are_no_addresses() {
        for host in ["a.b", "a.b.", "1.2.3.x", "x-1.example"] {
            assert!(is_host(host), "{host}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longest = format!("{}example", "a23456789.".repeat(25));
        for host in
            ["", ".", "ab", "1.2.3.4", "a..b", "-a.b", "a-.b", "a_b.c", "a.b c", &long, &longest]
        {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn a_name_says_what_is_wrong_with_it() {
        let parse = TrunkName::parse;
        assert!(parse("a.b:0", None).is_err_and(|why| why.contains("port")));
        assert!(parse("a.b:65536", None).is_err_and(|why| why.contains("port")));
        assert!(parse("a.b", Some("ws")).is_err_and(|why| why.contains("transport")));
        assert_eq!(parse("a", None), Ok(None));
    }
}
