use std::fmt::Write as _;
use std::str::FromStr;

use base::{CcbId, TenantId};
use control_core::{Destination, Provision, Route, TenantRecord, TrunkKey, TrunkRecord};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row, query};

use crate::secret::Secret;
use database::{Database, Writer};

mod database;
mod demo;
mod file;
mod forwards;
mod import;
mod place;
mod queues;
mod srtp;

pub use demo::{DemoLocation, DemoSpec};
pub use file::{Format, SourceFile};
pub use forwards::{DESTINATION_RULE, LONGEST_RING_S, NUMBER_RULE, is_destination, is_number};
pub use import::{ImportError, ImportOptions};
pub use place::Place;

/// Rows of one INSERT: SQLite looks each parameter up among all of the statement, so that few rows at a time
/// are ten times as fast as many.
const ROWS_AN_INSERT: usize = 32;
/// Keys that one statement names.
const KEYS_A_STATEMENT: usize = 500;
/// The columns of an agent that are read and written, in this order.
const AGENT_COLUMNS: [&str; 19] = [
    "id",
    "tenant_id",
    "agent_id",
    "operator_id",
    "number",
    "name",
    "password",
    "agent_type",
    "skills",
    "rights",
    "number_report",
    "incoming_limit",
    "outgoing_limit",
    "media_format",
    "log_level",
    "encryption",
    "recording_path",
    "database_access",
    "phone",
];

/// The database of tenants, agents, places and routes (S1-007, S1-008).
#[derive(Clone, Debug)]
pub struct Directory {
    database: Database,
}

/// Why the directory could not answer.
#[derive(Debug)]
pub enum DirectoryError {
    /// Nobody is there, or whoever is there cannot serve now; says why. It is tried again by whoever
    /// asks again.
    Away(String),
    /// The database said so.
    Database(sqlx::Error),
    /// The tables could not be brought to this version.
    Migration(sqlx::migrate::MigrateError),
    /// A field holds what it must not; names it.
    Field(String),
}

/// A tenant ("renter", S1-031).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its key.
    pub id: TenantId,
    /// What its agents type.
    pub name: String,
    /// The realm of its phones' digests.
    pub realm: String,
    /// Where an agent is who does not say (G-12).
    pub default_location: Option<String>,
    /// Where its agents may be, in order of their names.
    pub locations: Vec<String>,
}

/// An agent with its operator and its parameters (S1-032).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The key of its row, over all tenants.
    pub id: u64,
    /// The agent identifier, also called employee number.
    pub agent_id: String,
    /// The operator identifier.
    pub operator_id: String,
    /// The directory number that others dial.
    pub number: String,
    /// The name that desks and phones show.
    pub name: String,
    /// The argon2id hash of the password, as a PHC string.
    pub password: Secret,
    /// What the desk is set up with.
    pub parameters: Parameters,
}

/// The agent parameters of S1-032; the desk gets every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `voice`, `chat`, `universal` or `supervisor` (G-26).
    pub agent_type: String,
    /// Operator ability.
    pub skills: Vec<String>,
    /// Interface authorization; `supervise` is the right of a supervisor to listen to others.
    pub rights: Vec<String>,
    /// Which number is announced to the caller: `none`, `employee` or `directory`.
    pub number_report: String,
    /// Calls that the agent may have at the same time before a caller hears that it is busy; `None` is one.
    pub incoming_limit: Option<u32>,
    /// Calls of its own that the agent may have at the same time; `None` is [`abi::OWN_AT_ONCE`].
    pub outgoing_limit: Option<u32>,
    /// Codecs in order of preference.
    pub media_format: Vec<String>,
    /// Log level of the agent's interface.
    pub log_level: String,
    /// Encryption of media: `none`, `sdes` or `dtls`.
    pub encryption: String,
    /// Where the agent's recordings are uploaded to.
    pub recording_path: String,
    /// What the agent's interface may open of the service database.
    pub database_access: String,
    /// The agent's phone: `soft` or a model of an IP phone.
    pub phone: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            agent_type: "voice".into(),
            skills: Vec::new(),
            rights: vec!["call".into(), "hold".into(), "transfer".into()],
            number_report: "employee".into(),
            incoming_limit: None,
            outgoing_limit: None,
            media_format: vec!["PCMU".into(), "PCMA".into(), "telephone-event".into()],
            log_level: "info".into(),
            encryption: "none".into(),
            recording_path: String::new(),
            database_access: "none".into(),
            phone: "soft".into(),
        }
    }
}

/// How a login names its agent (S1-030, S1-071).
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// By the agent identifier.
    Agent(&'a str),
    /// By the operator identifier.
    Operator(&'a str),
    /// By the row's key, as tokens do.
    Key(u64),
}

/// What an address of the mapping list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// The CTI of a CCB through a location's firewall.
    Cti,
    /// The SIP side of a CCB through a location's SBC.
    Sbc,
    /// The CCB itself (S1-035).
    Ccb,
}

/// One address of the mapping list (S1-034, S1-036).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Address {
    /// A host name or an IP address.
    pub host: String,
    /// A port.
    pub port: u16,
    /// `udp` for phones, `ws` for the CTI, `http` for the CCB.
    pub transport: String,
}

impl Directory {
    /// Opens the directory and brings its tables to this version. An SQLite file that cannot be opened
    /// is an error; a PostgreSQL database that is not there is asked again by each request, and
    /// [`Directory::is_away`] says so.
    pub async fn open(place: &Place) -> Result<Directory, DirectoryError> {
        let database = Database::new(place.clone())?;
        match (database.ready().await, place) {
            (Ok(()), _) | (Err(DirectoryError::Away(_)), Place::Postgres(_)) => {
                Ok(Directory { database })
            }
            (Err(why), _) => Err(why),
        }
    }

    /// Where it is kept.
    pub fn place(&self) -> &Place {
        self.database.place()
    }

    /// True when the last request found nobody there.
    pub fn is_away(&self) -> bool {
        self.database.is_away()
    }

    /// A number that each change of the directory makes larger, whichever blade makes it.
    pub async fn version(&self) -> Result<i64, DirectoryError> {
        let counter = query("SELECT value FROM counters WHERE name = 'version'");
        Ok(self.one(counter).await?.try_get(0)?)
    }

    /// Closes every connection; what is written is in the database then.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// The row, which must be there.
    async fn one(&self, query: database::Query<'_>) -> Result<AnyRow, DirectoryError> {
        self.database.optional(query).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// The tenant of that name.
    pub async fn tenant(&self, name: &str) -> Result<Option<Tenant>, DirectoryError> {
        if !is_storable(name) {
            return Ok(None);
        }
        let tenant = query("SELECT id, name, realm, default_location FROM tenants WHERE name = $1");
        let row = self.database.optional(tenant.bind(name)).await?;
        let Some(row) = row else { return Ok(None) };
        let id: i64 = row.try_get("id")?;
        let locations = query("SELECT name FROM locations WHERE tenant_id = $1").bind(id);
        let rows = self.database.all(locations).await?;
        let locations: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        // Each database has an order of its own.
        let mut locations = locations?;
        locations.sort();
        Ok(Some(Tenant {
            id: tenant_id(id)?,
            name: row.try_get("name")?,
            realm: row.try_get("realm")?,
            default_location: row.try_get("default_location")?,
            locations,
        }))
    }

    /// The agent that `identity` names in that tenant.
    pub async fn agent(
        &self,
        tenant: TenantId,
        identity: Identity<'_>,
    ) -> Result<Option<Agent>, DirectoryError> {
        let (column, name) = match identity {
            Identity::Agent(name) => ("agent_id", name),
            Identity::Operator(name) => ("operator_id", name),
            Identity::Key(_) => ("id", ""),
        };
        if !is_storable(name) {
            return Ok(None);
        }
        let columns = AGENT_COLUMNS.join(", ");
        let text = format!("SELECT {columns} FROM agents WHERE tenant_id = $1 AND {column} = $2");
        let agent = query(AssertSqlSafe(text)).bind(i64::from(tenant.0));
        let agent = match identity {
            Identity::Key(id) => agent.bind(i64::try_from(id).unwrap_or(-1)),
            Identity::Agent(_) | Identity::Operator(_) => agent.bind(name),
        };
        self.database.optional(agent).await?.map(|row| agent_of(&row)).transpose()
    }

    /// Any agent's password hash: what the directory's hashes usually cost.
    pub async fn sample_hash(&self) -> Result<Option<Secret>, DirectoryError> {
        let row = self.database.optional(query("SELECT password FROM agents LIMIT 1")).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.map(|hash: String| Secret::new(hash)))
    }

    /// The tenant's name and the agent identifier of every agent, by the agent's key.
    pub async fn agent_names(
        &self,
    ) -> Result<std::collections::HashMap<u64, (String, String)>, DirectoryError> {
        let names = query(
            "SELECT agents.id, tenants.name, agents.agent_id FROM agents \
             JOIN tenants ON tenants.id = agents.tenant_id",
        );
        let rows = self.database.all(names).await?;
        rows.iter()
            .map(|row| Ok((agent_key(row.try_get(0)?)?, (row.try_get(1)?, row.try_get(2)?))))
            .collect()
    }

    /// The keys of all agents.
    pub async fn agent_keys(&self) -> Result<std::collections::HashSet<u64>, DirectoryError> {
        let rows = self.database.all(query("SELECT id FROM agents")).await?;
        rows.iter().map(|row| agent_key(row.try_get(0)?)).collect()
    }

    /// Takes the agent's next login epoch (G-24); one that is not used in the end is never used again,
    /// and no two who ask get the same, whichever blade they are of.
    pub async fn next_epoch(&self, agent: u64) -> Result<u32, DirectoryError> {
        let next = query(
            "UPDATE agents SET login_epoch = login_epoch + 1 WHERE id = $1 RETURNING login_epoch",
        );
        let row = self.one(next.bind(i64::try_from(agent).unwrap_or(-1))).await?;
        let epoch: i64 = row.try_get(0)?;
        u32::try_from(epoch).map_err(|_| DirectoryError::Field("agents.login_epoch".into()))
    }

    /// The ordered addresses of that CCB for that location (S1-036, S1-058).
    pub async fn addresses(
        &self,
        ccb: CcbId,
        location: &str,
        kind: AddressKind,
    ) -> Result<Vec<Address>, DirectoryError> {
        let addresses = query(
            "SELECT host, port, transport FROM addresses \
             WHERE ccb = $1 AND location = $2 AND kind = $3 ORDER BY rank",
        );
        let addresses = addresses.bind(i64::from(ccb.0)).bind(location).bind(kind.name());
        let rows = self.database.all(addresses).await?;
        rows.iter()
            .map(|row| {
                let port: i64 = row.try_get("port")?;
                Ok(Address {
                    host: row.try_get("host")?,
                    port: u16::try_from(port)
                        .map_err(|_| DirectoryError::Field("addresses.port".into()))?,
                    transport: row.try_get("transport")?,
                })
            })
            .collect()
    }

    /// The CCBs that can be reached from that location: both their CTI and their SBC.
    pub async fn reachable(&self, location: &str) -> Result<Vec<CcbId>, DirectoryError> {
        let ccbs = query(
            "SELECT ccb FROM addresses WHERE location = $1 AND kind IN ('cti', 'sbc') \
             GROUP BY ccb HAVING COUNT(DISTINCT kind) = 2 ORDER BY ccb",
        );
        let rows = self.database.all(ccbs.bind(location)).await?;
        let ccbs: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(ccbs?.into_iter().filter_map(|ccb| u16::try_from(ccb).ok()).map(CcbId).collect())
    }

    /// Replaces the ordered addresses of that CCB for that location.
    pub async fn put_addresses(
        &self,
        ccb: CcbId,
        location: &str,
        kind: AddressKind,
        addresses: &[Address],
    ) -> Result<(), DirectoryError> {
        let mut writer = self.database.write().await?;
        write_addresses(&mut writer, ccb, location, kind, addresses).await?;
        writer.commit().await
    }

    /// Creates a tenant or changes the one of that name; its locations become exactly these, the
    /// first of them the default.
    pub async fn put_tenant(
        &self,
        name: &str,
        realm: &str,
        locations: &[String],
    ) -> Result<TenantId, DirectoryError> {
        let mut writer = self.database.write().await?;
        let held = query("SELECT id FROM tenants WHERE name = $1").bind(name);
        let held = writer.optional(held).await?.map(|row| row.try_get::<i64, _>(0)).transpose()?;
        let id = match held {
            Some(id) => id,
            None => fresh_tenant(&mut writer).await?,
        };
        let put = query(
            "INSERT INTO tenants (id, name, realm, default_location) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE SET realm = excluded.realm, \
             default_location = excluded.default_location",
        );
        let put = put.bind(id).bind(name).bind(realm).bind(locations.first().map(String::as_str));
        writer.execute(put).await?;
        writer.execute(query("DELETE FROM locations WHERE tenant_id = $1").bind(id)).await?;
        for location in locations {
            let insert = query("INSERT INTO locations (tenant_id, name) VALUES ($1, $2)");
            writer.execute(insert.bind(id).bind(location.as_str())).await?;
        }
        writer.commit().await?;
        tenant_id(id)
    }

    /// Creates these agents or changes those that have the same agent identifier, which keep their
    /// key and their login epoch; one transaction.
    pub async fn put_agents(
        &self,
        tenant: TenantId,
        agents: &[Agent],
    ) -> Result<(), DirectoryError> {
        let mut writer = self.database.write().await?;
        let agents: Vec<(TenantId, &Agent)> = agents.iter().map(|agent| (tenant, agent)).collect();
        write_agents(&mut writer, &agents).await?;
        writer.commit().await
    }

    /// Replaces the tenant's trunks and routes.
    pub async fn put_trunks(
        &self,
        tenant: TenantId,
        trunks: &[(String, TrunkKey)],
        routes: &[Route],
    ) -> Result<(), DirectoryError> {
        let tenant = i64::from(tenant.0);
        let mut writer = self.database.write().await?;
        for table in
            ["DELETE FROM trunks WHERE tenant_id = $1", "DELETE FROM routes WHERE tenant_id = $1"]
        {
            writer.execute(query(table).bind(tenant)).await?;
        }
        for (name, by) in trunks {
            let insert = query("INSERT INTO trunks (tenant_id, name, net) VALUES ($1, $2, $3)");
            let insert = insert.bind(tenant).bind(name.as_str()).bind(by.to_string());
            writer.execute(insert).await?;
        }
        for route in routes {
            let location = match &route.to {
                Destination::Trunk { location, .. } => location.as_ref(),
                Destination::Service(_) => None,
            };
            let insert = query(
                "INSERT INTO routes (tenant_id, prefix, destination, location) \
                 VALUES ($1, $2, $3, $4)",
            );
            let insert = insert.bind(tenant).bind(route.prefix.as_str());
            let insert = insert.bind(route.to.to_string()).bind(location.map(String::as_str));
            writer.execute(insert).await?;
        }
        writer.commit().await
    }

    /// What the data planes and the core need to know of the directory.
    pub async fn provision(&self) -> Result<Provision, DirectoryError> {
        let mut provision = Provision::default();
        let rows = query("SELECT id, name, realm, hold_music, srtp FROM tenants ORDER BY id");
        for row in self.database.all(rows).await? {
            provision.tenants.push(TenantRecord {
                id: tenant_id(row.try_get("id")?)?,
                name: row.try_get("name")?,
                realm: row.try_get("realm")?,
                hold_music: row.try_get("hold_music")?,
                srtp: srtp::policy(&row, "tenants.srtp")?,
            });
        }
        provision.forwards = self.forwards().await?;
        provision.queues = self.queues().await?;
        provision.skills = self.skills().await?;
        provision.supervisors = self.supervisors().await?;
        let rows = query("SELECT tenant_id, name, net, srtp FROM trunks ORDER BY tenant_id, net");
        for row in self.database.all(rows).await? {
            provision.trunks.push(TrunkRecord {
                tenant: tenant_id(row.try_get("tenant_id")?)?,
                name: row.try_get("name")?,
                by: parsed(&row, "net")?,
                srtp: srtp::policy(&row, "trunks.srtp")?,
            });
        }
        let rows = query("SELECT tenant_id, prefix, destination, location FROM routes");
        for row in self.database.all(rows).await? {
            let mut to = parsed(&row, "destination")?;
            if let Destination::Trunk { location, .. } = &mut to {
                *location = row.try_get("location")?;
            }
            provision.routes.push(Route {
                tenant: tenant_id(row.try_get("tenant_id")?)?,
                prefix: row.try_get("prefix")?,
                to,
            });
        }
        Ok(provision)
    }
}

impl AddressKind {
    fn name(self) -> &'static str {
        match self {
            AddressKind::Cti => "cti",
            AddressKind::Sbc => "sbc",
            AddressKind::Ccb => "ccb",
        }
    }
}

/// False for what no row can hold: PostgreSQL takes no NUL in a text.
fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// The key of a new tenant.
async fn fresh_tenant(writer: &mut Writer<'_>) -> Result<i64, DirectoryError> {
    let fresh = query(
        "UPDATE counters SET value = 1 + CASE \
         WHEN value > COALESCE((SELECT MAX(id) FROM tenants), 0) THEN value \
         ELSE COALESCE((SELECT MAX(id) FROM tenants), 0) END \
         WHERE name = 'tenant' RETURNING value",
    );
    let row = writer.optional(fresh).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(row.try_get(0)?)
}

async fn write_addresses(
    writer: &mut Writer<'_>,
    ccb: CcbId,
    location: &str,
    kind: AddressKind,
    addresses: &[Address],
) -> Result<(), DirectoryError> {
    let delete = query("DELETE FROM addresses WHERE ccb = $1 AND location = $2 AND kind = $3");
    let delete = delete.bind(i64::from(ccb.0)).bind(location).bind(kind.name());
    writer.execute(delete).await?;
    for (rank, address) in addresses.iter().enumerate() {
        let insert = query("INSERT INTO addresses VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(i64::from(ccb.0))
            .bind(location)
            .bind(kind.name())
            .bind(i64::try_from(rank).unwrap_or(i64::MAX))
            .bind(address.host.as_str())
            .bind(i64::from(address.port))
            .bind(address.transport.as_str());
        writer.execute(insert).await?;
    }
    Ok(())
}

/// Creates agents or changes those that have the same agent identifier, which keep their key and
/// their login epoch.
async fn write_agents(
    writer: &mut Writer<'_>,
    agents: &[(TenantId, &Agent)],
) -> Result<(), DirectoryError> {
    let kept = ["id", "tenant_id", "agent_id"];
    let set = AGENT_COLUMNS.iter().filter(|column| !kept.contains(column));
    let set: Vec<String> = set.map(|column| format!("{column} = excluded.{column}")).collect();
    for chunk in agents.chunks(ROWS_AN_INSERT) {
        let text = format!(
            "INSERT INTO agents ({}) VALUES {} ON CONFLICT (tenant_id, agent_id) DO UPDATE SET {}",
            AGENT_COLUMNS.join(", "),
            places(chunk.len(), AGENT_COLUMNS.len()),
            set.join(", "),
        );
        let mut insert = query(AssertSqlSafe(text));
        for (tenant, agent) in chunk {
            let parameters = &agent.parameters;
            insert = insert
                .bind(i64::try_from(agent.id).unwrap_or(i64::MAX))
                .bind(i64::from(tenant.0))
                .bind(agent.agent_id.as_str())
                .bind(agent.operator_id.as_str())
                .bind(agent.number.as_str())
                .bind(agent.name.as_str())
                .bind(agent.password.expose())
                .bind(parameters.agent_type.as_str())
                .bind(list_text(&parameters.skills))
                .bind(list_text(&parameters.rights))
                .bind(parameters.number_report.as_str())
                .bind(parameters.incoming_limit.map(i64::from))
                .bind(parameters.outgoing_limit.map(i64::from))
                .bind(list_text(&parameters.media_format))
                .bind(parameters.log_level.as_str())
                .bind(parameters.encryption.as_str())
                .bind(parameters.recording_path.as_str())
                .bind(parameters.database_access.as_str())
                .bind(parameters.phone.as_str());
        }
        writer.execute(insert).await?;
    }
    Ok(())
}

/// `($1, $2), ($3, $4)`: the places of the values of so many rows of so many columns.
fn places(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 8);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns {
            let comma = if column == 1 { "" } else { ", " };
            let _ = write!(text, "{comma}${}", row * columns + column);
        }
        text.push(')');
    }
    text
}

fn agent_key(id: i64) -> Result<u64, DirectoryError> {
    u64::try_from(id).map_err(|_| DirectoryError::Field("agents.id".into()))
}

fn tenant_id(id: i64) -> Result<TenantId, DirectoryError> {
    u32::try_from(id).map(TenantId).map_err(|_| DirectoryError::Field("tenants.id".into()))
}

fn parsed<T: FromStr>(row: &AnyRow, column: &str) -> Result<T, DirectoryError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| DirectoryError::Field(format!("{column} {text:?}")))
}

fn list_text(list: &[String]) -> String {
    serde_json::to_string(list).expect("a list of texts is always JSON")
}

fn list_of(row: &AnyRow, column: &str) -> Result<Vec<String>, DirectoryError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| DirectoryError::Field(format!("agents.{column}")))
}

fn limit_of(row: &AnyRow, column: &str) -> Result<Option<u32>, DirectoryError> {
    let limit: Option<i64> = row.try_get(column)?;
    limit
        .map(u32::try_from)
        .transpose()
        .map_err(|_| DirectoryError::Field(format!("agents.{column}")))
}

fn agent_of(row: &AnyRow) -> Result<Agent, DirectoryError> {
    Ok(Agent {
        id: agent_key(row.try_get("id")?)?,
        agent_id: row.try_get("agent_id")?,
        operator_id: row.try_get("operator_id")?,
        number: row.try_get("number")?,
        name: row.try_get("name")?,
        password: Secret::new(row.try_get::<String, _>("password")?),
        parameters: Parameters {
            agent_type: row.try_get("agent_type")?,
            skills: list_of(row, "skills")?,
            rights: list_of(row, "rights")?,
            number_report: row.try_get("number_report")?,
            incoming_limit: limit_of(row, "incoming_limit")?,
            outgoing_limit: limit_of(row, "outgoing_limit")?,
            media_format: list_of(row, "media_format")?,
            log_level: row.try_get("log_level")?,
            encryption: row.try_get("encryption")?,
            recording_path: row.try_get("recording_path")?,
            database_access: row.try_get("database_access")?,
            phone: row.try_get("phone")?,
        },
    })
}

impl From<sqlx::Error> for DirectoryError {
    fn from(error: sqlx::Error) -> Self {
        match database::is_away(&error) {
            true => DirectoryError::Away(error.to_string()),
            false => DirectoryError::Database(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for DirectoryError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match error {
            Execute(error) | ExecuteMigration(error, _) if database::is_away(&error) => {
                DirectoryError::Away(error.to_string())
            }
            error => DirectoryError::Migration(error),
        }
    }
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DirectoryError::Away(why) => write!(f, "directory: it is away: {why}"),
            DirectoryError::Database(error) => write!(f, "directory: {error}"),
            DirectoryError::Migration(error) => write!(f, "directory's tables: {error}"),
            DirectoryError::Field(name) => write!(f, "directory: {name} is not valid"),
        }
    }
}

impl std::error::Error for DirectoryError {}

#[cfg(test)]
mod tests;
