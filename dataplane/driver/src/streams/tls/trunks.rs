//! How TLS is spoken to each trunk: what its row says, read from files when it is called.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::{Region, TrunkTlsRow};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{Sources, client, fingerprint, wrong};
use crate::streams::hub::Place;

/// Kinds of trunks that are remembered; more are read from their files each time.
const KEPT: usize = 256;

/// How a trunk is called.
pub struct Call {
    pub connector: TlsConnector,
    /// Whose certificate it must show, and what it is asked for (RFC 6066, 3).
    pub name: ServerName<'static>,
    /// The SIP domain that its certificate proves, where it is verified.
    pub proves: Option<String>,
}

/// What was read from files, by the files.
pub struct Connectors {
    folder: Option<PathBuf>,
    kept: RefCell<HashMap<Sources, Kept>>,
}

struct Kept {
    connector: TlsConnector,
    changed: u64,
}

impl Connectors {
    /// The files that rows name lie in that folder.
    pub fn new(folder: Option<PathBuf>) -> Connectors {
        Connectors { folder, kept: RefCell::default() }
    }

    /// The folder of certificates.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// How that address is called from a place. `proof` is of the trunk that a lost connection was of.
    pub fn call(
        &self,
        region: &Region,
        place: &Place,
        address: SocketAddr,
        proof: u64,
    ) -> io::Result<Call> {
        let row = region.trunk_tls().iter().map(|(_, row)| row).find(|row| row.is_of(address));
        let proved = || {
            let mut trunks = region.trunks().iter().map(|(_, row)| row);
            trunks.find(|row| proof != 0 && row.is_by_certificate() && row.proof() == proof)
        };
        let domain = match &row {
            Some(row) => row.domain(),
            None => proved().map(|row| row.domain()).unwrap_or_default(),
        };
        let name = match domain.is_empty() {
            true => address.ip().into(),
            false => ServerName::try_from(domain.as_str().trim_end_matches('.').to_owned())
                .map_err(|_| io::Error::other(format!("{domain} is no name of a host")))?,
        };
        let sources = self.sources(row.as_ref(), place)?;
        let proves = (sources.verify && !domain.is_empty())
            .then(|| domain.as_str().trim_end_matches('.').to_ascii_lowercase());
        let connector = match is_of_location(row.as_ref()) {
            true => place.tls.borrow().connector.clone().ok_or_else(no_roots)?,
            false => self.connector(sources)?,
        };
        Ok(Call { connector, name, proves })
    }

    fn sources(&self, row: Option<&TrunkTlsRow>, place: &Place) -> io::Result<Sources> {
        let settings = &place.settings;
        let own = Sources {
            identity: settings.identity.clone(),
            ca: settings.ca.clone(),
            verify: settings.verify,
        };
        let Some(row) = row else { return Ok(own) };
        let file = |name: &str, extension: &str| {
            let missing = || io::Error::other("no folder of certificates is configured");
            let folder = self.folder().ok_or_else(missing)?;
            // Control writes none that leads elsewhere; a name is looked at all the same.
            if name.contains('/') || name.starts_with('.') {
                return Err(wrong(Path::new(name), "is no name of a file"));
            }
            Ok(folder.join(format!("{name}.{extension}")))
        };
        let (ca, identity) = (row.ca(), row.identity());
        Ok(Sources {
            identity: match identity.is_empty() {
                true => own.identity,
                false => Some((file(identity.as_str(), "pem")?, file(identity.as_str(), "key")?)),
            },
            ca: match ca.is_empty() {
                true => own.ca,
                false => Some(file(ca.as_str(), "pem")?),
            },
            verify: own.verify && row.unverified == 0,
        })
    }

    /// What was read of these files, unless they have changed since.
    fn connector(&self, sources: Sources) -> io::Result<TlsConnector> {
        let files = sources.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        let changed = fingerprint(files.chain(&sources.ca).map(PathBuf::as_path));
        let mut kept = self.kept.borrow_mut();
        if let Some(found) = kept.get(&sources).filter(|found| found.changed == changed) {
            return Ok(found.connector.clone());
        }
        let provider = Arc::new(ring::default_provider());
        let connector = client(&sources, &provider)?.ok_or_else(no_roots)?;
        if !sources.verify {
            tracing::warn!(?sources, "trunks are not verified: anybody may be at the other end");
        }
        if kept.len() < KEPT || kept.contains_key(&sources) {
            kept.insert(sources, Kept { connector: connector.clone(), changed });
        }
        Ok(connector)
    }
}

/// True where nothing but a name is said of a trunk, and the location's files do.
fn is_of_location(row: Option<&TrunkTlsRow>) -> bool {
    row.is_none_or(|row| row.unverified == 0 && row.ca().is_empty() && row.identity().is_empty())
}

fn no_roots() -> io::Error {
    io::Error::other("there are no roots to verify it by")
}
