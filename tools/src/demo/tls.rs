//! The demo's certificates: made anew at each start, believed by whoever is given their root.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::config::Config;

/// The file of the demo's root, beside its certificate.
pub const ROOT: &str = "tls-root.pem";

/// Makes the certificates that the configuration names, for the addresses of its locations.
pub fn make(config: &Config) -> Result<(), String> {
    let locations = || config.ccbs.iter().flat_map(|ccb| &ccb.locations);
    let Some(streams) = locations().map(|at| &at.streams).find(|it| it.identity.is_some()) else {
        return Ok(());
    };
    let Some((certificate, key)) = &streams.identity else { return Ok(()) };
    let ca = &certificate.with_file_name(ROOT);
    let names = locations().map(|at| at.ip.to_string()).chain(["localhost".to_owned()]);
    let made = sign(names.collect()).map_err(|error| format!("the demo's certificate: {error}"))?;
    for (path, text) in [(ca, made.root), (certificate, made.certificate), (key, made.key)] {
        write(path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// PEM.
struct Made {
    root: String,
    certificate: String,
    key: String,
}

fn sign(names: Vec<String>) -> Result<Made, rcgen::Error> {
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "Jackfield demo root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_key = KeyPair::generate()?;
    let root_certificate = root.self_signed(&root_key)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Jackfield demo");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &Issuer::new(root, root_key))?;
    Ok(Made {
        root: root_certificate.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// Only this user may read it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
