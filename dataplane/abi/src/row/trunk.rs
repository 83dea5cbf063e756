//! Trunks: whom we believe, how TLS is spoken to them, and why one does not serve.

use super::*;

row! {
    /// A network whose SIP peers are trusted by address, or a name that their certificates prove; its writer is the
    /// control process.
    #[derive(Debug)]
    pub struct TrunkRow: u32 {
        /// 0 none, 1 in service by its network, 2 by its certificate.
        pub state: u32,
        /// The tenant it belongs to.
        pub tenant: u32,
        /// The network, IPv4 as `::ffff:a.b.c.d`.
        pub net: [u8; 16],
        /// How many of the 128 bits of `net` count.
        pub prefix_bits: u32,
        /// Whether its peers speak SRTP, as a [`SrtpPolicy`].
        pub srtp: u32,
        /// The name; zeros behind it.
        pub name: [u8; 48],
        /// The SIP domain that its certificate is for; zeros behind it.
        pub domain: [u8; 248],
    }
}

impl TrunkRow {
    /// The value of `state` for a trunk that is known by its network.
    pub const BY_NETWORK: u32 = 1;
    /// The value of `state` for a trunk that is known by its certificate.
    pub const BY_CERTIFICATE: u32 = 2;

    /// The network as an address and the number of bits that count, of 32 for IPv4 and 128 for
    /// IPv6.
    pub fn network(&self) -> (IpAddr, u32) {
        match Ipv6Addr::from(self.net).to_canonical() {
            ip @ IpAddr::V4(_) if self.prefix_bits >= 96 => (ip, (self.prefix_bits - 96).min(32)),
            _ => (IpAddr::V6(Ipv6Addr::from(self.net)), self.prefix_bits.min(128)),
        }
    }

    /// Sets the network; `bits` of 32 for IPv4 and of 128 for IPv6.
    pub fn set_network(&mut self, ip: IpAddr, bits: u32) {
        (self.net, self.prefix_bits) = match ip {
            IpAddr::V4(ip) => (ip.to_ipv6_mapped().octets(), 96 + bits.min(32)),
            IpAddr::V6(ip) => (ip.octets(), bits.min(128)),
        };
    }

    /// True when the row is in service and its network has `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let differing = u128::from(ip) ^ u128::from_be_bytes(self.net);
        self.state == 1 && (differing.leading_zeros() >= self.prefix_bits.min(128))
    }

    /// The name.
    pub fn name(&self) -> Text<48> {
        text(&self.name)
    }

    /// Sets the name.
    pub fn set_name(&mut self, name: Text<48>) {
        self.name = field(name);
    }

    /// True when its peers are known by their certificate.
    pub fn is_by_certificate(&self) -> bool {
        self.state == Self::BY_CERTIFICATE
    }

    /// The SIP domain that its certificate is for (RFC 5922, 7.1).
    pub fn domain(&self) -> Text<248> {
        text(&self.domain)
    }

    /// Makes it known by a certificate for that domain, and by no network.
    pub fn set_domain(&mut self, domain: Text<248>) {
        (self.state, self.domain) = (Self::BY_CERTIFICATE, field(domain));
    }

    /// What [`base::Channel::proof`] is where the peer's certificate proves this domain; never 0.
    pub fn proof(&self) -> u64 {
        Self::proof_of(self.domain())
    }

    /// [`Self::proof`] of a trunk with that domain.
    pub fn proof_of(domain: Text<248>) -> u64 {
        let bytes = domain.as_bytes().iter().map(u8::to_ascii_lowercase);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.max(1)
    }
}

row! {
    /// How TLS is spoken to a trunk's address, where that is said; its writer is the control process.
    #[derive(Debug)]
    pub struct TrunkTlsRow: u32 {
        /// 0 none, 1 in service.
        pub state: u32,
        /// 1 where the certificate of who is there is not verified.
        pub unverified: u32,
        /// The address.
        pub address: Address,
        /// The SIP domain that the certificate must be for, and that it is asked for; zeros behind it. Empty for the
        /// address itself.
        pub domain: [u8; 248],
        /// The file of the roots, without `.pem`; zeros behind it. Empty for those of the location.
        pub ca: [u8; 64],
        /// The files of our certificate and its key, without `.pem` and `.key`; zeros behind it. Empty for the
        /// location's.
        pub identity: [u8; 64],
    }
}

impl TrunkTlsRow {
    /// The value of `state` for a row that is in service.
    pub const IN_SERVICE: u32 = 1;

    /// A row for that address that says nothing yet.
    pub fn of(address: SocketAddr) -> TrunkTlsRow {
        let address = Address::new(address);
        TrunkTlsRow { state: Self::IN_SERVICE, address, ..TrunkTlsRow::default() }
    }

    /// True when it is in service and about that address.
    pub fn is_of(&self, address: SocketAddr) -> bool {
        self.state == Self::IN_SERVICE && self.address.get() == address
    }

    /// The SIP domain that the certificate must be for.
    pub fn domain(&self) -> Text<248> {
        text(&self.domain)
    }

    /// Sets the SIP domain that the certificate must be for.
    pub fn set_domain(&mut self, domain: Text<248>) {
        self.domain = field(domain);
    }

    /// The name of the file of the roots.
    pub fn ca(&self) -> Text<64> {
        text(&self.ca)
    }

    /// Sets the name of the file of the roots.
    pub fn set_ca(&mut self, name: Text<64>) {
        self.ca = field(name);
    }

    /// The name of the files of our certificate.
    pub fn identity(&self) -> Text<64> {
        text(&self.identity)
    }

    /// Sets the name of the files of our certificate.
    pub fn set_identity(&mut self, name: Text<64>) {
        self.identity = field(name);
    }
}

states! {
    /// Why a trunk does not serve, or a message could not be sent.
    pub enum Outage {
        /// It serves.
        None = 0,
        /// It does not answer.
        Silent = 1,
        /// It answers that it takes no calls (503), or that nobody behind it does (408).
        Refuses = 2,
        /// No connection can be made to it, or the one that there was broke.
        Unreachable = 3,
        /// Its certificate is for another name (RFC 5922, 7.2).
        TlsName = 4,
        /// Its certificate is not valid yet, or not any more.
        TlsExpired = 5,
        /// Its certificate leads to no root that is believed.
        TlsUntrusted = 6,
        /// It does not take our certificate, or wants one.
        TlsNotTaken = 7,
        /// There is no TLS to be had otherwise: another protocol, no version or cipher in common.
        TlsFailed = 8,
        /// Our own files of certificates for it cannot be read.
        TlsFiles = 9,
    }
}

impl Outage {
    /// For people; empty when it serves.
    pub fn text(self) -> &'static str {
        match self {
            Outage::None => "",
            Outage::Silent => "no answer",
            Outage::Refuses => "it takes no calls",
            Outage::Unreachable => "no connection",
            Outage::TlsName => "its certificate is for another name",
            Outage::TlsExpired => "its certificate has expired or is not valid yet",
            Outage::TlsUntrusted => "its certificate leads to no root that is believed",
            Outage::TlsNotTaken => "it does not take our certificate",
            Outage::TlsFailed => "no TLS with it",
            Outage::TlsFiles => "our certificates for it cannot be read",
        }
    }

    /// True where trying again changes nothing until somebody changes a certificate.
    pub fn is_certain(self) -> bool {
        matches!(
            self,
            Outage::TlsName
                | Outage::TlsExpired
                | Outage::TlsUntrusted
                | Outage::TlsNotTaken
                | Outage::TlsFiles
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunk_is_known_by_its_network_or_its_certificate() {
        let mut row = TrunkRow { state: TrunkRow::BY_NETWORK, ..TrunkRow::default() };
        row.set_network("10.0.0.0".parse().expect("an address"), 8);
        let inside = "10.1.2.3".parse().expect("an address");
        assert!(row.contains(inside) && !row.is_by_certificate());
        row.set_domain(Text::new(b"sip.carrier.example").expect("it fits"));
        assert!(!row.contains(inside) && row.is_by_certificate());
        let other =
            TrunkRow { domain: field(Text::new(b"SIP.carrier.EXAMPLE").expect("it fits")), ..row };
        assert_eq!(row.proof(), other.proof(), "in whatever case");
        assert_ne!(row.proof(), TrunkRow::default().proof());
    }

    #[test]
    fn each_outage_has_a_text() {
        for outage in Outage::ALL {
            assert_eq!(outage.text().is_empty(), *outage == Outage::None);
            assert_eq!(Outage::of(u32::from(*outage)), Some(*outage));
        }
    }
}
