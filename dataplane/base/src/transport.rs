use core::fmt;

/// How SIP travels (RFC 3261, 18; RFC 7118).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp = 0,
    /// A stream.
    Tcp = 1,
    /// A stream inside TLS.
    Tls = 2,
    /// WebSocket frames (RFC 7118).
    Ws = 3,
    /// WebSocket frames inside TLS.
    Wss = 4,
}

impl Transport {
    /// All of them.
    pub const ALL: [Transport; 5] =
        [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

    /// Its token in Via (RFC 3261, 20.42; RFC 7118, 5).
    pub const fn token(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// Its name as the value of a URI's `transport` parameter, and in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    /// The one of that token or name, in whatever case.
    pub fn parse(name: &[u8]) -> Option<Transport> {
        Self::ALL
            .into_iter()
            .find(|transport| name.eq_ignore_ascii_case(transport.name().as_bytes()))
    }

    /// The one of that number.
    pub fn from_number(number: u32) -> Option<Transport> {
        Self::ALL.into_iter().find(|transport| *transport as u32 == number)
    }

    /// True where nothing is lost on the way, so that nothing is sent again (RFC 3261, 17).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Transport::Udp)
    }

    /// True where nobody on the way can read it.
    pub const fn is_secure(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// The port where none is written (RFC 3261, 18.2.2 and 19.1.2; RFC 7118, 5).
    pub const fn default_port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
            Transport::Ws => 80,
            Transport::Wss => 443,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// By what a message came, or is to go: a transport, and the connection where it has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Channel {
    /// The transport.
    pub transport: Transport,
    /// The connection's number, unique in this and the next incarnations of the process for a long time;
    /// 0 for datagrams, and where a connection is still to be made.
    pub connection: u32,
    /// The trunk whose name the peer's certificate has proved, by a hash of that name that no two trunks share;
    /// 0 for nobody.
    pub proof: u64,
}

impl Channel {
    /// Datagrams.
    pub const UDP: Channel = Channel::any(Transport::Udp);

    /// Some connection by this transport, an open one or a new one.
    pub const fn any(transport: Transport) -> Channel {
        Channel { transport, connection: 0, proof: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_known_by_its_names_and_its_number() {
        for transport in Transport::ALL {
            assert_eq!(Transport::parse(transport.token().as_bytes()), Some(transport));
            assert_eq!(Transport::parse(transport.name().as_bytes()), Some(transport));
            assert_eq!(Transport::from_number(transport as u32), Some(transport));
        }
        assert_eq!(Transport::parse(b"SCTP"), None);
        assert_eq!(Transport::from_number(5), None);
    }
}
