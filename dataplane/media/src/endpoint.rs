use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An address and port in 18 bytes, so that a stream's hot row fits a cache line.
///
/// IPv4 is held v4-mapped. Flow label and scope of IPv6 are left out: two packets of one flow may
/// differ in the first, and link-local peers are not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The IPv6 or v4-mapped address in host order.
    pub ip: u128,
    /// The UDP port.
    pub port: u16,
}

const V4_MAPPED: u128 = 0xffff_0000_0000;

impl Endpoint {
    /// Nobody.
    pub const NONE: Endpoint = Endpoint { ip: 0, port: 0 };

    /// The endpoint of a socket address.
    #[inline]
    pub fn new(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => V4_MAPPED | u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        Endpoint { ip, port: addr.port() }
    }

    /// The socket address to send to; v4-mapped ones come out as IPv4.
    #[inline]
    pub fn addr(self) -> SocketAddr {
        let ip = if self.ip >> 32 == V4_MAPPED >> 32 {
            IpAddr::V4((self.ip as u32).into())
        } else {
            IpAddr::V6(Ipv6Addr::from(self.ip))
        };
        SocketAddr::new(ip, self.port)
    }

    /// True when a packet can be sent there: port and address are both given (`0.0.0.0` is the hold of
    /// RFC 2543).
    pub fn is_somewhere(self) -> bool {
        self.port != 0 && self.ip != 0 && self.ip != V4_MAPPED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_its_socket_address() {
        for (text, somewhere) in [
            ("127.0.0.1:30000", true),
            ("255.255.255.255:65535", true),
            ("[2001:db8::1]:5004", true),
            ("[::1]:1", true),
            ("0.0.0.0:4000", false),
            ("[::]:4000", false),
            ("192.0.2.1:0", false),
        ] {
            let addr: SocketAddr = text.parse().expect("an address");
            assert_eq!(Endpoint::new(addr).addr(), addr);
            assert_eq!(Endpoint::new(addr).is_somewhere(), somewhere, "{text}");
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:9".parse().expect("an address");
        assert_eq!(Endpoint::new(mapped).addr().to_string(), "192.0.2.1:9");
    }
}
