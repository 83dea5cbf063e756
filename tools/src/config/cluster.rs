//! What a blade is called, and the bus on which it meets others: part of `[control]`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use control_server::{BusConfig, NatsConfig};

use super::read::Table;
use super::{ABSOLUTE_RULE, parse_absolute};

/// What `[control]` says of other blades.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The blade's name; the machine's without.
    pub blade: Option<String>,
    /// The cluster's name; blades of another one are not seen.
    pub cluster: Option<String>,
    /// `nats://HOST:PORT` or `tls://HOST:PORT`, with `USER:PASSWORD@` where the file may hold them; none for a
    /// blade that is alone.
    pub bus: Option<String>,
    /// The file that holds `USER:PASSWORD` for the bus.
    pub bus_credentials: Option<PathBuf>,
    /// The file with the key of tokens, which blades share.
    pub token_key: Option<PathBuf>,
}

/// The rule of names.
const NAME_RULE: &str = "must be 1 to 64 letters, digits, dashes or underscores";

impl Cluster {
    /// Reads the fields of `[control]`.
    pub(super) fn read(table: &Table<'_, '_>) -> Option<Cluster> {
        let name = |field: &'static str| {
            let found =
                table.parsed(field, NAME_RULE, |text| is_name(text).then(|| Some(text.to_owned())));
            table.or(field, found, None)
        };
        let file = |field: &'static str| {
            let found = table.parsed(field, ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
            table.or(field, found, None)
        };
        let rule = "must be nats://HOST:PORT or tls://HOST:PORT, with USER:PASSWORD@ before HOST where needed";
        let bus = table.parsed("bus", rule, |text| {
            NatsConfig::parse(text).is_ok().then(|| Some(text.to_owned()))
        });
        let read = Cluster {
            blade: name("blade")?,
            cluster: name("cluster")?,
            bus: table.or("bus", bus, None)?,
            bus_credentials: file("bus_credentials")?,
            token_key: file("token_key")?,
        };
        if read.bus.is_none() && read.bus_credentials.is_some() {
            let span = table.field_span("bus_credentials");
            table.report().fault(
                &span,
                table.name("bus_credentials"),
                "is for a bus, and there is none",
            );
        }
        Some(read)
    }

    /// The bus for control; reads the file of credentials.
    pub fn bus(&self) -> Result<BusConfig, String> {
        let Some(url) = &self.bus else { return Ok(BusConfig::Alone) };
        let nats = NatsConfig::parse(url).map_err(|rule| format!("bus {rule}"))?;
        let Some(file) = &self.bus_credentials else { return Ok(BusConfig::Nats(nats)) };
        let name = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
        nats.with_credentials(&text).map(BusConfig::Nats).map_err(|rule| format!("{name}: {rule}"))
    }

    /// For people, without credentials.
    pub(super) fn summary(&self) -> Option<String> {
        let url = self.bus.as_ref()?;
        let host = url.rsplit_once('@').map_or(url.as_str(), |(_, host)| host);
        let name = self.blade.as_deref().unwrap_or("by the machine's name");
        Some(format!("blade {name}, which meets others at {host}"))
    }

    /// The lines that say this.
    pub(super) fn to_toml(&self) -> String {
        let mut text = String::new();
        let path = |file: &Path| file.display().to_string();
        let fields = [
            ("blade", self.blade.clone()),
            ("cluster", self.cluster.clone()),
            ("bus", self.bus.clone()),
            ("bus_credentials", self.bus_credentials.as_deref().map(path)),
            ("token_key", self.token_key.as_deref().map(path)),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                let _ = writeln!(text, "{field} = {}", toml::Value::from(value));
            }
        }
        text
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}
