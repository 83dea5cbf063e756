//! Certificates: ours, and whose we believe.
//!
//! ```text
//! a peer comes:   the name it asks for (SNI) -> a pair of the folder, else the location's certificate
//!                 its own certificate, where it is asked for one -> its SIP domains -> a trunk (names.rs)
//! a trunk is called: what its row says of name, roots, certificate (trunks.rs), else what the location says
//! ```

mod names;
mod trunks;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::TlsSettings;
use super::hub::Hub;
use names::{Anybody, Believed, Callers};
pub(super) use names::{counter_of, domains, is_bad_certificate, outage_of};
pub(super) use trunks::{Call, Connectors};

/// How often the files of certificates are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How a location speaks TLS.
pub(super) struct Tls {
    /// As a server of phones and trunks; none without a certificate.
    pub acceptor: Option<TlsAcceptor>,
    /// The same for WebSocket: browsers are not asked for a certificate.
    pub web_acceptor: Option<TlsAcceptor>,
    /// As a client of trunks of which nothing else is said; none where nothing could be verified.
    pub connector: Option<TlsConnector>,
    changed: u64,
}

/// The certificate that is shown and its key, and the roots that are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sources {
    identity: Option<(PathBuf, PathBuf)>,
    /// The system's where there is none.
    ca: Option<PathBuf>,
    verify: bool,
}

impl Tls {
    /// Reads the files; those of `folder` are shown to whoever asks for their names.
    pub fn load(settings: &TlsSettings, folder: Option<&Path>) -> io::Result<Tls> {
        let changed = changed_at(settings, folder);
        let provider = Arc::new(ring::default_provider());
        let (mut acceptor, mut web_acceptor) = (None, None);
        if let Some(files) = &settings.identity {
            let shown = Arc::new(Shown::load(files, folder, &provider)?);
            let asked = settings.ask_clients.then_some(settings.ca.as_deref());
            acceptor = Some(server(&shown, asked, &provider)?);
            web_acceptor = Some(server(&shown, None, &provider)?);
        }
        let sources = Sources {
            identity: settings.identity.clone(),
            ca: settings.ca.clone(),
            verify: settings.verify,
        };
        let connector = client(&sources, &provider)?;
        Ok(Tls { acceptor, web_acceptor, connector, changed })
    }
}

/// A server that shows one of these certificates. With `asked`, who comes is asked for one, which must lead to the roots
/// of that file or the system's.
fn server(
    shown: &Arc<Shown>,
    asked: Option<Option<&Path>>,
    provider: &Arc<CryptoProvider>,
) -> io::Result<TlsAcceptor> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match asked {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let none = || io::Error::other("tls_ask: there are no roots to verify who comes by");
            let roots = roots(ca)?.ok_or_else(none)?;
            let clients = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots.clone()),
                Arc::clone(provider),
            );
            let clients = clients.allow_unauthenticated().build().map_err(io::Error::other)?;
            let believed = Believed { roots, provider: Arc::clone(provider) };
            config.with_client_cert_verifier(Arc::new(Callers { clients, believed }))
        }
    };
    Ok(TlsAcceptor::from(Arc::new(config.with_cert_resolver(Arc::clone(shown) as _))))
}

/// The certificates that a server shows.
#[derive(Debug)]
struct Shown {
    /// By the name that is asked for, in lower case.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    otherwise: Arc<CertifiedKey>,
}

impl Shown {
    fn load(
        files: &(PathBuf, PathBuf),
        folder: Option<&Path>,
        provider: &CryptoProvider,
    ) -> io::Result<Shown> {
        let certified = |files: &(PathBuf, PathBuf)| {
            let (chain, key) = identity(files)?;
            let certified = CertifiedKey::from_der(chain, key, provider);
            certified.map(Arc::new).map_err(|error| wrong(&files.0, error))
        };
        let otherwise = certified(files)?;
        let mut by_name = HashMap::new();
        for pair in folder.map(pairs).transpose()?.unwrap_or_default() {
            // One that is bad must not keep the others from being shown.
            match certified(&pair) {
                Ok(one) => {
                    let names = one.cert.first().map(domains_of_host).unwrap_or_default();
                    by_name.extend(names.into_iter().map(|name| (name, Arc::clone(&one))));
                }
                Err(error) => tracing::warn!(%error, "a certificate is of no use"),
            }
        }
        Ok(Shown { by_name, otherwise })
    }
}

impl ResolvesServerCert for Shown {
    /// RFC 6066, 3: a server "SHOULD use the information in the "server_name" extension to guide its selection of an
    /// appropriate certificate".
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let wild = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
            self.by_name.get(&name).or_else(|| self.by_name.get(&wild?))
        });
        Some(Arc::clone(found.unwrap_or(&self.otherwise)))
    }
}

/// The names that a certificate of ours is shown for: any of its DNS names, and its SIP domains.
fn domains_of_host(certificate: &CertificateDer<'_>) -> Vec<String> {
    let mut found = domains(certificate);
    if let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) {
        found.extend(parsed.valid_dns_names().map(str::to_ascii_lowercase));
    }
    found
}

/// The certificates of a folder that have their key beside them: `NAME.pem` and `NAME.key`.
fn pairs(folder: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| wrong(folder, error))? {
        let certificate = entry.map_err(|error| wrong(folder, error))?.path();
        let key = certificate.with_extension("key");
        if certificate.extension().is_some_and(|it| it == "pem") && key.is_file() {
            found.push((certificate, key));
        }
    }
    // Of two that are for one name it is always the same that is shown.
    found.sort();
    Ok(found)
}

/// A client that shows and believes what the sources say; none where there is no root to believe.
fn client(sources: &Sources, provider: &Arc<CryptoProvider>) -> io::Result<Option<TlsConnector>> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match sources.verify {
        false => {
            let verifier = Arc::new(Anybody(Arc::clone(provider)));
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
        true => match roots(sources.ca.as_deref())? {
            Some(roots) => {
                let verifier = Believed { roots, provider: Arc::clone(provider) };
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            None => return Ok(None),
        },
    };
    // A trunk that asks gets it.
    let config = match &sources.identity {
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

/// A number that is another when one of the files has been written or put in another's place.
fn fingerprint<'p>(paths: impl Iterator<Item = &'p Path>) -> u64 {
    let mut hash = DefaultHasher::new();
    for path in paths {
        let seen = path.metadata().ok().map(|it| (it.modified().ok(), it.len()));
        (path, seen).hash(&mut hash);
    }
    hash.finish()
}

fn changed_at(settings: &TlsSettings, folder: Option<&Path>) -> u64 {
    let identity = settings.identity.as_ref();
    let pairs = folder.and_then(|folder| pairs(folder).ok()).unwrap_or_default();
    let own =
        [identity.map(|files| &files.0), identity.map(|files| &files.1), settings.ca.as_ref()];
    let shown = pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
    fingerprint(own.into_iter().flatten().chain(shown).map(PathBuf::as_path))
}

/// Reads certificates again when their files have changed. New connections get them; what cannot be read changes
/// nothing.
pub(super) async fn follow_files(hub: Rc<Hub>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        for place in &hub.places {
            let folder = hub.connectors.folder();
            let changed = changed_at(&place.settings, folder);
            if changed == place.tls.borrow().changed {
                continue;
            }
            let location = &place.location.name;
            match Tls::load(&place.settings, folder) {
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
