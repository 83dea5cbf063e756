//! Certificates: ours, and whose we believe.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::TlsSettings;
use super::hub::Hub;

/// How often the files of certificates are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How a location speaks TLS.
pub(super) struct Tls {
    /// As a server; none without a certificate.
    pub acceptor: Option<TlsAcceptor>,
    /// As a client of trunks; none where nothing could be verified.
    pub connector: Option<TlsConnector>,
    changed: Option<SystemTime>,
}

impl Tls {
    /// Reads the files.
    pub fn load(settings: &TlsSettings) -> io::Result<Tls> {
        let provider = Arc::new(ring::default_provider());
        let files = settings.identity.as_ref();
        let acceptor = files.map(|files| server(files, &provider)).transpose()?;
        let connector = client(settings, &provider)?;
        Ok(Tls { acceptor, connector, changed: changed_at(settings) })
    }
}

fn server(files: &(PathBuf, PathBuf), provider: &Arc<CryptoProvider>) -> io::Result<TlsAcceptor> {
    let (chain, key) = identity(files)?;
    let config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(&files.0, error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn client(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> io::Result<Option<TlsConnector>> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match settings {
        TlsSettings { verify: false, .. } => {
            let verifier = Arc::new(Anybody(Arc::clone(provider)));
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
        TlsSettings { ca, .. } => match roots(ca.as_deref())? {
            Some(roots) => config.with_root_certificates(roots),
            None => return Ok(None),
        },
    };
    // A trunk that asks gets the location's own certificate.
    let config = match &settings.identity {
        Some(files) => {
            let (chain, key) = identity(files)?;
            config.with_client_auth_cert(chain, key).map_err(|error| wrong(&files.0, error))?
        }
        None => config.with_no_client_auth(),
    };
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

fn identity(
    (certificate, key): &(PathBuf, PathBuf),
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
    Ok((certificates(certificate)?, private))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(path, error))?;
    if found.is_empty() { Err(wrong(path, "no certificate is in it")) } else { Ok(found) }
}

/// The roots of a file, or of the system; none where the system has none.
fn roots(ca: Option<&Path>) -> io::Result<Option<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    Ok((!roots.is_empty()).then_some(roots))
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

/// When the files were last changed, as far as that is known.
fn changed_at(settings: &TlsSettings) -> Option<SystemTime> {
    let identity = settings.identity.as_ref();
    let files =
        [identity.map(|files| &files.0), identity.map(|files| &files.1), settings.ca.as_ref()];
    let times = files.into_iter().flatten().map(|path| path.metadata()?.modified());
    times.filter_map(Result::ok).max()
}

/// Reads certificates again when their files have changed. New connections get them; what cannot be read changes
/// nothing.
pub(super) async fn follow_files(hub: Rc<Hub>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        for place in &hub.places {
            let changed = changed_at(&place.settings);
            if changed == place.tls.borrow().changed {
                continue;
            }
            let location = &place.location.name;
            match Tls::load(&place.settings) {
                Ok(tls) => {
                    tracing::info!(location, "new certificates");
                    *place.tls.borrow_mut() = tls;
                }
                Err(error) => {
                    tracing::warn!(%error, location, "new certificates are of no use");
                    place.tls.borrow_mut().changed = changed;
                }
            }
        }
    }
}

/// Believes any certificate, as its settings say: the connection is secret, but nobody knows with whom.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
