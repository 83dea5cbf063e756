//! Socket addresses as the kernel writes them (`sockaddr_in`, `sockaddr_in6`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The length of `sockaddr_in6`, the longest that a UDP socket knows.
pub const NAME_LEN: usize = 28;
const V4_LEN: u32 = 16;

/// A socket address in the kernel's layout.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct KernelAddr {
    bytes: [u8; NAME_LEN],
    len: u32,
}

impl KernelAddr {
    /// An address of no family.
    pub const NONE: KernelAddr = KernelAddr { bytes: [0; NAME_LEN], len: 0 };

    /// The kernel's form of `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        let mut bytes = [0; NAME_LEN];
        bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
        let (family, len) = match addr {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, V4_LEN)
            }
            SocketAddr::V6(v6) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, NAME_LEN as u32)
            }
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        KernelAddr { bytes, len }
    }

    /// For `Send`'s destination; valid as long as `self` stays where it is.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }

    /// How many bytes count.
    pub fn len(&self) -> u32 {
        self.len
    }
}

/// The address in the name that came with a datagram; none for a family other than the two.
pub fn parse(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*name.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::new(IpAddr::V4(ip), port))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*name.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives() {
        for text in ["127.0.0.1:5060", "[2001:db8::7]:30000", "[fe80::1%3]:65535"] {
            let addr: SocketAddr = text.parse().expect("an address");
            let kernel = KernelAddr::new(addr);
            assert_eq!(parse(&kernel.bytes[..kernel.len() as usize]), Some(addr));
        }
        let v4 = KernelAddr::new("1.2.3.4:258".parse().expect("an address"));
        assert_eq!(v4.bytes[2..8], [1, 2, 1, 2, 3, 4]);
        for name in [&[][..], &[2, 0][..], &[2, 0, 1, 2, 1, 2, 3], &[10, 0, 1, 2], &[1, 0, 0, 0]] {
            assert_eq!(parse(name), None, "{name:?}");
        }
    }
}
