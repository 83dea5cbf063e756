//! The part of `[control]` about other blades: what this one is called and where it meets them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use control_server::{BusConfig, CLUSTER, NatsConfig, Strategy, host_name};

use super::read::Table;
use super::{ABSOLUTE_RULE, parse_absolute};

/// The rule of `bus`.
const BUS_RULE: &str = "must be nats://[USER:PASSWORD@]HOST[:PORT], or the same with tls://";
/// The rule of `blade` and `cluster`.
const NAME_RULE: &str = "must be 1 to 64 letters, digits, dashes or underscores";

/// What `[control]` says of other blades.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// The NATS server; without one the blade is alone.
    pub server: Option<NatsConfig>,
    /// A file with `USER:PASSWORD` for it, which only its owner may read.
    pub credentials: Option<PathBuf>,
    /// The blade's name.
    pub blade: String,
    /// The blades that meet.
    pub cluster: String,
    /// How the CDM chooses a CCB.
    pub strategy: Strategy,
    /// The file with the key that signs tokens, which blades share; `token.key` in the state folder without.
    pub token_key: Option<PathBuf>,
}

impl Default for Bus {
    fn default() -> Self {
        Bus {
            server: None,
            credentials: None,
            blade: host_name(),
            cluster: CLUSTER.to_owned(),
            strategy: Strategy::default(),
            token_key: None,
        }
    }
}

impl Bus {
    /// Reads its fields of `[control]`.
    pub fn read(table: &Table<'_, '_>) -> Option<Bus> {
        let name = |text: &str| is_name(text).then(|| text.to_owned());
        // What is wrong is not shown: it may hold a password.
        let server = match table.text("bus").map(|found| NatsConfig::parse(&found.value)) {
            Some(Err(_)) => {
                table.report().fault(&table.field_span("bus"), table.name("bus"), BUS_RULE);
                None
            }
            Some(Ok(server)) => Some(Some(server)),
            None => table.or("bus", None, None),
        };
        let file =
            table.parsed("bus_credentials", ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
        let credentials = table.or("bus_credentials", file, None);
        let blade = table.parsed("blade", NAME_RULE, name);
        let blade = table.or("blade", blade, host_name());
        let cluster = table.parsed("cluster", NAME_RULE, name);
        let cluster = table.or("cluster", cluster, CLUSTER.to_owned());
        let names = Strategy::ALL.map(Strategy::name).join(", ");
        let strategy = table.parsed("cdm_strategy", &format!("must be one of {names}"), |text| {
            Strategy::ALL.into_iter().find(|one| one.name() == text)
        });
        let strategy = table.or("cdm_strategy", strategy, Strategy::default());
        let file = table.parsed("token_key", ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
        let token_key = table.or("token_key", file, None);
        Some(Bus {
            token_key: token_key?,
            server: server?,
            credentials: credentials?,
            blade: blade?,
            cluster: cluster?,
            strategy: strategy?,
        })
    }

    /// What it means, for people; without the password.
    pub fn summary(&self) -> String {
        match &self.server {
            None => "alone".to_owned(),
            Some(bus) => format!(
                "blade {} of cluster {} at {}, CCBs by {}",
                self.blade,
                self.cluster,
                bus.server,
                self.strategy.name()
            ),
        }
    }

    /// The fields that say this.
    pub fn to_toml(&self) -> String {
        let quote = |text: String| toml::Value::from(text).to_string();
        let mut text = format!(
            "blade = \"{}\"\ncluster = \"{}\"\ncdm_strategy = \"{}\"\n",
            self.blade,
            self.cluster,
            self.strategy.name()
        );
        if let Some(server) = &self.server {
            let _ = writeln!(text, "bus = {}", quote(server.url()));
        }
        if let Some(file) = &self.credentials {
            let _ = writeln!(text, "bus_credentials = {}", quote(file.display().to_string()));
        }
        if let Some(file) = &self.token_key {
            let _ = writeln!(text, "token_key = {}", quote(file.display().to_string()));
        }
        text
    }

    /// The bus that control is started with.
    pub fn server_config(&self) -> Result<BusConfig, String> {
        let Some(server) = self.server.clone() else { return Ok(BusConfig::Alone) };
        let Some(file) = &self.credentials else { return Ok(BusConfig::Nats(server)) };
        let failed = |why: String| format!("{}: {why}", file.display());
        let mode = std::fs::metadata(file).map_err(|why| failed(why.to_string()))?.permissions();
        if mode.mode() & 0o077 != 0 {
            return Err(failed("it must be nobody else's to read: chmod 600".to_owned()));
        }
        let text = std::fs::read_to_string(file).map_err(|why| failed(why.to_string()))?;
        let server = server.with_credentials(&text).map_err(|why| failed(why.to_owned()))?;
        Ok(BusConfig::Nats(server))
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}
