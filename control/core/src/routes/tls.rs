//! How TLS is spoken to a trunk, and by what certificate one is known that calls.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use abi::TrunkTlsRow;
use base::Text;

use super::{Cidr, is_prompt_name, name};

/// What begins the text of a [`TrunkKey::Certificate`].
const BY_CERTIFICATE: &str = "tls:";
/// The longest name that a certificate is known by, in bytes: the data plane has room for no more.
const DOMAIN_BYTES: usize = 248;
const DOMAIN_RULE: &str = "tls_name must be a name with a dot, of 248 bytes at most";
const FILE_RULE: &str = "must be 1 to 64 letters, digits, dots, dashes or underscores and begin with no dot: the name of a file without .pem";

/// How TLS is spoken to the trunks of a route. Written `;tls_name=DOMAIN;tls_ca=NAME;tls_identity=NAME;tls_verify=no`,
/// each where it is not as by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrunkTls {
    /// The SIP domain that the certificate must be for (RFC 5922), and that is asked for (SNI). By itself it is the
    /// trunk's DNS name where it has one, else its address.
    pub name: Option<Arc<str>>,
    /// The file of the roots that it must lead to, without `.pem`, in the data plane's folder of certificates; by
    /// itself those of the location.
    pub ca: Option<Arc<str>>,
    /// The files of our certificate and its key, without `.pem` and `.key`; by itself the location's.
    pub identity: Option<Arc<str>>,
    /// The certificate is not verified: anybody may be at the other end.
    pub unverified: bool,
}

impl TrunkTls {
    /// Takes one parameter of a route; false when it is none of TLS.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let file = || match is_prompt_name(value) {
            true => Ok(Some(value.into())),
            false => Err(format!("{key} {FILE_RULE}")),
        };
        match key {
            "tls_name" if is_domain(value) => self.name = Some(value.into()),
            "tls_name" => return Err(DOMAIN_RULE.into()),
            "tls_ca" => self.ca = file()?,
            "tls_identity" => self.identity = file()?,
            "tls_verify" => {
                self.unverified = match value {
                    "yes" => false,
                    "no" => true,
                    _ => return Err("tls_verify must be yes or no".into()),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the data plane is told of an address; `name` is the trunk's DNS name. None when there is nothing to tell.
    pub fn row(&self, address: std::net::SocketAddr, name: Option<&str>) -> Option<TrunkTlsRow> {
        let text = |text: &Option<Arc<str>>| Text::new(text.as_deref().unwrap_or("").as_bytes());
        let domain = self.name.as_deref().or(name).map(|name| name.trim_end_matches('.'));
        if domain.is_none() && *self == TrunkTls::default() {
            return None;
        }
        let mut row = TrunkTlsRow::of(address);
        row.unverified = self.unverified.into();
        row.set_domain(Text::new(domain.unwrap_or("").as_bytes()).ok()?);
        row.set_ca(text(&self.ca).ok()?);
        row.set_identity(text(&self.identity).ok()?);
        Some(row)
    }
}

impl fmt::Display for TrunkTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said =
            [("tls_name", &self.name), ("tls_ca", &self.ca), ("tls_identity", &self.identity)];
        for (key, value) in said {
            if let Some(value) = value {
                write!(f, ";{key}={value}")?;
            }
        }
        f.write_str(if self.unverified { ";tls_verify=no" } else { "" })
    }
}

fn is_domain(text: &str) -> bool {
    text.len() <= DOMAIN_BYTES && name::is_host(text)
}

/// What a trunk that calls us is known by. Written as a network, or `tls:DOMAIN`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrunkKey {
    /// Its address.
    Network(Cidr),
    /// The SIP domain that the certificate of its TLS connection is for (RFC 5922), wherever it calls from.
    Certificate(Arc<str>),
}

impl From<Cidr> for TrunkKey {
    fn from(net: Cidr) -> TrunkKey {
        TrunkKey::Network(net)
    }
}

impl FromStr for TrunkKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(BY_CERTIFICATE) {
            None => text.parse().map(TrunkKey::Network),
            Some(domain) if is_domain(domain) => {
                let domain = domain.trim_end_matches('.').to_ascii_lowercase();
                Ok(TrunkKey::Certificate(domain.into()))
            }
            Some(_) => {
                Err(format!("{text:?}: behind tls: stands a name with a dot, of 248 bytes at most"))
            }
        }
    }
}

impl fmt::Display for TrunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrunkKey::Network(net) => net.fmt(f),
            TrunkKey::Certificate(domain) => write!(f, "{BY_CERTIFICATE}{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trunk_is_known_by_has_one_text() {
        for text in ["10.0.0.0/8", "192.0.2.7/32", "tls:sip.carrier.example"] {
            assert_eq!(text.parse::<TrunkKey>().expect("it is one").to_string(), text);
        }
        let key: TrunkKey = "tls:SIP.Carrier.example.".parse().expect("a name");
        assert_eq!(key, TrunkKey::Certificate("sip.carrier.example".into()));
        for text in ["tls:", "tls:host", "tls:10.0.0.1", "sip.carrier.example"] {
            assert!(text.parse::<TrunkKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_row_is_written_where_something_is_said() {
        let address = "192.0.2.1:5061".parse().expect("an address");
        let plain = TrunkTls::default();
        assert_eq!(plain.row(address, None), None);
        let row = plain.row(address, Some("carrier.example.")).expect("a name");
        assert_eq!((row.domain().as_str(), row.unverified), ("carrier.example", 0));
        let said = TrunkTls {
            name: Some("sip.carrier.example".into()),
            ca: Some("carrier".into()),
            identity: None,
            unverified: true,
        };
        let row = said.row(address, Some("carrier.example")).expect("a row");
        assert!(row.is_of(address) && row.unverified == 1 && row.identity().is_empty());
        assert_eq!((row.domain().as_str(), row.ca().as_str()), ("sip.carrier.example", "carrier"));
    }
}
