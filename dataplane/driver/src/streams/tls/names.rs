//! Whose a certificate is (RFC 5922), and whether it is believed.

use std::io;
use std::sync::Arc;

use abi::{Counter, Outage};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

/// Names of one certificate that are looked at.
const NAMES: usize = 100;

/// The SIP domains that a certificate is for, in lower case (RFC 5922, 7.1).
pub fn domains(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let uris: Vec<String> =
        certificate.valid_uri_names().take(NAMES).filter_map(domain_of_uri).collect();
    // "An implementation MUST accept a domain name system identifier as a SIP domain identity if and only if no
    // other identity is found that matches the "sip" URI type described above."
    match uris.is_empty() {
        true => certificate.valid_dns_names().take(NAMES).map(str::to_ascii_lowercase).collect(),
        false => uris,
    }
}

/// RFC 5922, 7.1: "If the scheme of the URI value is "sip", and there is no userinfo component in the URI (there is no
/// '@'), then the implementation MUST accept the hostpart as a SIP domain identity."
fn domain_of_uri(uri: &str) -> Option<String> {
    // "If the scheme of the URI is not "sip", then the implementation MUST NOT accept the value as a SIP domain
    // identity. If [...] the URI value that contains a userpart (there is an '@'), the implementation MUST NOT accept
    // the value".
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    let host = rest.split([':', ';', '?']).next().unwrap_or_default();
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// RFC 5922, 7.2: "Implementations MUST match the values in their entirety [...]. Implementations MUST NOT match any form
/// of wildcard".
fn is_for(certificate: &CertificateDer<'_>, domain: &str) -> bool {
    let domain = domain.trim_end_matches('.');
    domains(certificate).iter().any(|it| it.trim_end_matches('.').eq_ignore_ascii_case(domain))
}

/// Believes who shows a certificate for the name that was called, which leads to one of these roots.
#[derive(Debug)]
pub struct Believed {
    pub roots: RootCertStore,
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let (roots, chain) = (&self.roots, intermediates);
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, chain, now, algorithms)?;
        let is_it = match server_name {
            ServerName::DnsName(name) => is_for(end_entity, name.as_ref()),
            // A trunk without a name is its address.
            other => rustls::client::verify_server_name(&certificate, other).is_ok(),
        };
        match is_it {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes trunks that come with a certificate which leads to one of these roots; who comes with none is nobody in
/// particular.
#[derive(Debug)]
pub struct Callers {
    pub clients: Arc<dyn ClientCertVerifier>,
    pub believed: Believed,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let found = self.clients.verify_client_cert(end_entity, intermediates, now);
        let Err(Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        )) = found
        else {
            return found;
        };
        // RFC 5924 lets a SIP server use one certificate in both roles; many have only the purpose of a server.
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.believed.provider.signature_verification_algorithms.all;
        let (roots, chain) = (&self.believed.roots, intermediates);
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, chain, now, algorithms)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }
}

/// Believes any certificate, as its settings say: the connection is secret, but nobody knows with whom.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong with TLS, when it was TLS.
fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}

/// Why a connection to a trunk could not be made, or ended.
pub fn outage_of(error: &io::Error) -> Outage {
    use CertificateError as Wrong;
    match tls_error(error) {
        None => Outage::Unreachable,
        Some(Error::InvalidCertificate(wrong)) => match wrong {
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => Outage::TlsName,
            Wrong::Expired
            | Wrong::ExpiredContext { .. }
            | Wrong::NotValidYet
            | Wrong::NotValidYetContext { .. } => Outage::TlsExpired,
            _ => Outage::TlsUntrusted,
        },
        Some(Error::AlertReceived(alert)) if is_about_ours(*alert) => Outage::TlsNotTaken,
        Some(_) => Outage::TlsFailed,
    }
}

/// Whether an alert says that the peer does not take our certificate, or misses one (RFC 8446, 6.2).
fn is_about_ours(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
    )
}

/// True when a peer that came showed a certificate that is not believed.
pub fn is_bad_certificate(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented))
}

/// What counts an outage; none for what is no matter of TLS.
pub fn counter_of(outage: Outage) -> Option<Counter> {
    match outage {
        Outage::TlsName => Some(Counter::TlsWrongName),
        Outage::TlsExpired => Some(Counter::TlsExpired),
        Outage::TlsUntrusted => Some(Counter::TlsUntrusted),
        Outage::TlsNotTaken => Some(Counter::TlsNotTaken),
        Outage::TlsFailed => Some(Counter::TlsFailed),
        Outage::TlsFiles => Some(Counter::TlsFiles),
        Outage::None | Outage::Silent | Outage::Refuses | Outage::Unreachable => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(dns: &[&str], uris: &[&str]) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                .expect("names");
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names.extend(uris.iter().map(uri));
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    /// RFC 5922, 7.1 and 7.2.
    #[test]
    fn a_certificate_is_for_its_sip_uris_or_else_its_dns_names() {
        let plain = certificate(&["Sip.Carrier.example", "*.wild.example"], &[]);
        assert!(is_for(&plain, "sip.carrier.example") && is_for(&plain, "SIP.CARRIER.EXAMPLE."));
        for other in ["carrier.example", "a.sip.carrier.example", "a.wild.example", ""] {
            assert!(!is_for(&plain, other), "{other}");
        }
        let with_uri = certificate(
            &["host.carrier.example"],
            &[
                "sip:carrier.example",
                "SIP:other.example;lr",
                "sip:bob@user.example",
                "https://web.example",
            ],
        );
        assert!(is_for(&with_uri, "carrier.example") && is_for(&with_uri, "other.example"));
        for other in ["host.carrier.example", "user.example", "web.example"] {
            assert!(!is_for(&with_uri, other), "{other}");
        }
        let of_users = certificate(&["host.example"], &["sip:bob@user.example"]);
        assert!(is_for(&of_users, "host.example"), "no SIP domain stands in a URI");
        assert!(domains(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }
}
