//! SIP over connections: `tcp`, `tls_port`, `ws_port`, `wss_port` and certificates of a location.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use base::Transport;

use super::read::Table;
use super::{ABSOLUTE_RULE, parse_absolute};

/// How a location speaks SIP besides UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// TCP, on the port of UDP.
    pub tcp: bool,
    /// The port of TLS.
    pub tls_port: Option<u16>,
    /// The port of WebSocket.
    pub ws_port: Option<u16>,
    /// The port of WebSocket over TLS.
    pub wss_port: Option<u16>,
    /// The certificate and its key; TLS and WSS need them, and trunks may ask for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The roots of trunks' certificates; the system's when none is named.
    pub ca: Option<PathBuf>,
    /// Whether trunks' certificates are verified.
    pub verify: bool,
    /// Whether who comes by TLS is asked for a certificate: trunks may be known by it.
    pub ask_clients: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Streams {
            tcp: true,
            tls_port: None,
            ws_port: None,
            wss_port: None,
            identity: None,
            ca: None,
            verify: true,
            ask_clients: false,
        }
    }
}

impl Streams {
    /// Reads them from `[[ccb.location]]`.
    pub fn read(table: &Table<'_, '_>) -> Option<Streams> {
        let flag = |field: &'static str, by_itself: bool| {
            let found = table.flag(field);
            table.or(field, found, by_itself)
        };
        let port = |field: &'static str| {
            let found = table.number(field, 1..65_536).map(|found| found.value as u16);
            (found.is_some() || !table.has(field)).then_some(found)
        };
        let file = |field: &'static str| {
            let found = table.parsed(field, ABSOLUTE_RULE, parse_absolute).map(|found| found.value);
            (found.is_some() || !table.has(field)).then_some(found)
        };
        let (tcp, verify, asks) =
            (flag("tcp", true), flag("tls_verify", true), flag("tls_ask", false));
        let (tls_port, ws_port, wss_port) = (port("tls_port"), port("ws_port"), port("wss_port"));
        let (certificate, key, ca) = (file("tls_certificate"), file("tls_key"), file("tls_ca"));
        let fault = |field: &str, rule: &str| {
            table.report().fault(&table.field_span(field), table.name(field), rule);
        };
        for (one, other) in [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")] {
            if table.has(one) && !table.has(other) {
                fault(one, &format!("needs {other} beside it"));
            }
        }
        for field in ["tls_port", "wss_port"] {
            if table.has(field) && !table.has("tls_certificate") {
                fault(field, "needs tls_certificate and tls_key beside it");
            }
        }
        Some(Streams {
            tcp: tcp?,
            tls_port: tls_port?,
            ws_port: ws_port?,
            wss_port: wss_port?,
            identity: certificate?.zip(key?),
            ca: ca?,
            verify: verify?,
            ask_clients: asks?,
        })
    }

    /// The port of `transport`, where it is spoken; `sip_port` is that of UDP.
    pub fn port(&self, transport: Transport, sip_port: u16) -> Option<u16> {
        match transport {
            Transport::Udp => Some(sip_port),
            Transport::Tcp => self.tcp.then_some(sip_port),
            Transport::Tls => self.tls_port,
            Transport::Ws => self.ws_port,
            Transport::Wss => self.wss_port,
        }
    }

    /// The fields of `[[ccb.location]]` that are not as they would be by themselves.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (field, is_so) in [("tcp", self.tcp), ("tls_verify", self.verify)] {
            if !is_so {
                let _ = writeln!(text, "{field} = false");
            }
        }
        if self.ask_clients {
            text += "tls_ask = true\n";
        }
        let ports =
            [("tls_port", self.tls_port), ("ws_port", self.ws_port), ("wss_port", self.wss_port)];
        for (field, port) in ports {
            if let Some(port) = port {
                let _ = writeln!(text, "{field} = {port}");
            }
        }
        let (certificate, key) = match &self.identity {
            Some((certificate, key)) => (Some(certificate), Some(key)),
            None => (None, None),
        };
        let files =
            [("tls_certificate", certificate), ("tls_key", key), ("tls_ca", self.ca.as_ref())];
        for (field, path) in files {
            if let Some(path) = path {
                let path = toml::Value::from(path.display().to_string());
                let _ = writeln!(text, "{field} = {path}");
            }
        }
        text
    }

    /// All that is spoken at an address, for people: `udp 192.0.2.1:5060, tls 192.0.2.1:5061`.
    pub fn summary(&self, ip: IpAddr, sip_port: u16) -> String {
        let spoken = Transport::ALL.into_iter().filter_map(|transport| {
            let at = SocketAddr::new(ip, self.port(transport, sip_port)?);
            Some(format!("{transport} {at}"))
        });
        spoken.collect::<Vec<_>>().join(", ")
    }
}
