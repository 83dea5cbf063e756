use std::str::FromStr;
use std::time::Duration;

use base::{CcbId, TenantId};
use control_core::{Cidr, Destination, Provision, Route, TenantRecord, TrunkRecord};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::secret::Secret;

mod demo;
mod forwards;
mod queues;

pub use demo::{DemoLocation, DemoSpec};

/// Connections to the directory; readers do not wait for the writer (WAL).
const CONNECTIONS: u32 = 4;
/// How long a writer waits for another one before it gives up.
const BUSY_MS: u64 = 5_000;
/// Rows of one INSERT: below SQLite's bound of 32,766 parameters.
const ROWS_AN_INSERT: usize = 500;

/// The database of tenants, agents, places and routes (S1-007, S1-008).
#[derive(Clone, Debug)]
pub struct Directory {
    pool: SqlitePool,
}

/// Why the directory could not answer.
#[derive(Debug)]
pub enum DirectoryError {
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
#[derive(Clone, Debug)]
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
    /// Interface authorization.
    pub rights: Vec<String>,
    /// Which number is announced to the caller: `none`, `employee` or `directory`.
    pub number_report: String,
    /// Calls in an hour that the agent may get; `None` is no limit.
    pub incoming_limit: Option<u32>,
    /// Calls in an hour that the agent may make; `None` is no limit.
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
    /// Opens the directory at a path or `sqlite:` URL, creates it when it is missing and brings its
    /// tables to this version.
    pub async fn open(place: &str) -> Result<Directory, DirectoryError> {
        let path = place.strip_prefix("sqlite://").or_else(|| place.strip_prefix("sqlite:"));
        let options = SqliteConnectOptions::new()
            .filename(path.unwrap_or(place))
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_millis(BUSY_MS));
        let pool =
            SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(DirectoryError::Migration)?;
        Ok(Directory { pool })
    }

    /// Closes every connection; what is written is in the file then.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The tenant of that name.
    pub async fn tenant(&self, name: &str) -> Result<Option<Tenant>, DirectoryError> {
        let row =
            sqlx::query("SELECT id, name, realm, default_location FROM tenants WHERE name = ?")
                .bind(name)
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let id: i64 = row.try_get("id")?;
        let locations =
            sqlx::query_scalar("SELECT name FROM locations WHERE tenant_id = ? ORDER BY name")
                .bind(id)
                .fetch_all(&self.pool)
                .await?;
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
        let query = match identity {
            Identity::Agent(name) => {
                sqlx::query("SELECT * FROM agents WHERE tenant_id = ? AND agent_id = ?")
                    .bind(i64::from(tenant.0))
                    .bind(name)
            }
            Identity::Operator(name) => {
                sqlx::query("SELECT * FROM agents WHERE tenant_id = ? AND operator_id = ?")
                    .bind(i64::from(tenant.0))
                    .bind(name)
            }
            Identity::Key(id) => sqlx::query("SELECT * FROM agents WHERE tenant_id = ? AND id = ?")
                .bind(i64::from(tenant.0))
                .bind(i64::try_from(id).unwrap_or(-1)),
        };
        query.fetch_optional(&self.pool).await?.map(|row| agent_of(&row)).transpose()
    }

    /// Any agent's password hash: what the directory's hashes usually cost.
    pub async fn sample_hash(&self) -> Result<Option<Secret>, DirectoryError> {
        let hash: Option<String> = sqlx::query_scalar("SELECT password FROM agents LIMIT 1")
            .fetch_optional(&self.pool)
            .await?;
        Ok(hash.map(Secret::new))
    }

    /// The tenant's name and the agent identifier of every agent, by the agent's key.
    pub async fn agent_names(
        &self,
    ) -> Result<std::collections::HashMap<u64, (String, String)>, DirectoryError> {
        let rows = sqlx::query(
            "SELECT agents.id, tenants.name, agents.agent_id FROM agents \
             JOIN tenants ON tenants.id = agents.tenant_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let id: i64 = row.try_get(0)?;
                let id =
                    u64::try_from(id).map_err(|_| DirectoryError::Field("agents.id".into()))?;
                Ok((id, (row.try_get(1)?, row.try_get(2)?)))
            })
            .collect()
    }

    /// Takes the agent's next login epoch (G-24); one that is not used in the end is never used again.
    pub async fn next_epoch(&self, agent: u64) -> Result<u32, DirectoryError> {
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE agents SET login_epoch = login_epoch + 1 WHERE id = ? RETURNING login_epoch",
        )
        .bind(i64::try_from(agent).unwrap_or(-1))
        .fetch_one(&self.pool)
        .await?;
        u32::try_from(epoch).map_err(|_| DirectoryError::Field("agents.login_epoch".into()))
    }

    /// The ordered addresses of that CCB for that location (S1-036, S1-058).
    pub async fn addresses(
        &self,
        ccb: CcbId,
        location: &str,
        kind: AddressKind,
    ) -> Result<Vec<Address>, DirectoryError> {
        let rows = sqlx::query(
            "SELECT host, port, transport FROM addresses \
             WHERE ccb = ? AND location = ? AND kind = ? ORDER BY rank",
        )
        .bind(i64::from(ccb.0))
        .bind(location)
        .bind(kind.name())
        .fetch_all(&self.pool)
        .await?;
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
        let ccbs: Vec<i64> = sqlx::query_scalar(
            "SELECT ccb FROM addresses WHERE location = ? AND kind IN ('cti', 'sbc') \
             GROUP BY ccb HAVING COUNT(DISTINCT kind) = 2 ORDER BY ccb",
        )
        .bind(location)
        .fetch_all(&self.pool)
        .await?;
        Ok(ccbs.into_iter().filter_map(|ccb| u16::try_from(ccb).ok()).map(CcbId).collect())
    }

    /// Replaces the ordered addresses of that CCB for that location.
    pub async fn put_addresses(
        &self,
        ccb: CcbId,
        location: &str,
        kind: AddressKind,
        addresses: &[Address],
    ) -> Result<(), DirectoryError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM addresses WHERE ccb = ? AND location = ? AND kind = ?")
            .bind(i64::from(ccb.0))
            .bind(location)
            .bind(kind.name())
            .execute(&mut *transaction)
            .await?;
        for (rank, address) in addresses.iter().enumerate() {
            sqlx::query("INSERT INTO addresses VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(i64::from(ccb.0))
                .bind(location)
                .bind(kind.name())
                .bind(i64::try_from(rank).unwrap_or(i64::MAX))
                .bind(&address.host)
                .bind(i64::from(address.port))
                .bind(&address.transport)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Creates a tenant or changes the one of that name; its locations become exactly these, the
    /// first of them the default.
    pub async fn put_tenant(
        &self,
        name: &str,
        realm: &str,
        locations: &[String],
    ) -> Result<TenantId, DirectoryError> {
        let mut transaction = self.pool.begin().await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO tenants (id, name, realm, default_location) \
             VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM tenants), ?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET realm = excluded.realm, \
             default_location = excluded.default_location RETURNING id",
        )
        .bind(name)
        .bind(realm)
        .bind(locations.first())
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM locations WHERE tenant_id = ?")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        for location in locations {
            sqlx::query("INSERT INTO locations (tenant_id, name) VALUES (?, ?)")
                .bind(id)
                .bind(location)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        tenant_id(id)
    }

    /// Creates these agents or changes those that have the same agent identifier, which keep their
    /// key and their login epoch; one transaction.
    pub async fn put_agents(
        &self,
        tenant: TenantId,
        agents: &[Agent],
    ) -> Result<(), DirectoryError> {
        let mut transaction = self.pool.begin().await?;
        for chunk in agents.chunks(ROWS_AN_INSERT) {
            let mut insert = QueryBuilder::<Sqlite>::new(
                "INSERT INTO agents (id, tenant_id, agent_id, operator_id, number, name, password, \
                 agent_type, skills, rights, number_report, incoming_limit, outgoing_limit, \
                 media_format, log_level, encryption, recording_path, database_access, phone) ",
            );
            insert.push_values(chunk, |mut row, agent| {
                let parameters = &agent.parameters;
                row.push_bind(i64::try_from(agent.id).unwrap_or(i64::MAX))
                    .push_bind(i64::from(tenant.0))
                    .push_bind(&agent.agent_id)
                    .push_bind(&agent.operator_id)
                    .push_bind(&agent.number)
                    .push_bind(&agent.name)
                    .push_bind(agent.password.expose())
                    .push_bind(&parameters.agent_type)
                    .push_bind(list_text(&parameters.skills))
                    .push_bind(list_text(&parameters.rights))
                    .push_bind(&parameters.number_report)
                    .push_bind(parameters.incoming_limit.map(i64::from))
                    .push_bind(parameters.outgoing_limit.map(i64::from))
                    .push_bind(list_text(&parameters.media_format))
                    .push_bind(&parameters.log_level)
                    .push_bind(&parameters.encryption)
                    .push_bind(&parameters.recording_path)
                    .push_bind(&parameters.database_access)
                    .push_bind(&parameters.phone);
            });
            insert.push(
                " ON CONFLICT (tenant_id, agent_id) DO UPDATE SET \
                 operator_id = excluded.operator_id, number = excluded.number, \
                 name = excluded.name, password = excluded.password, \
                 agent_type = excluded.agent_type, skills = excluded.skills, \
                 rights = excluded.rights, number_report = excluded.number_report, \
                 incoming_limit = excluded.incoming_limit, \
                 outgoing_limit = excluded.outgoing_limit, \
                 media_format = excluded.media_format, log_level = excluded.log_level, \
                 encryption = excluded.encryption, recording_path = excluded.recording_path, \
                 database_access = excluded.database_access, phone = excluded.phone",
            );
            insert.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Replaces the tenant's trunks and routes.
    pub async fn put_trunks(
        &self,
        tenant: TenantId,
        trunks: &[(String, Cidr)],
        routes: &[Route],
    ) -> Result<(), DirectoryError> {
        let tenant = i64::from(tenant.0);
        let mut transaction = self.pool.begin().await?;
        for table in
            ["DELETE FROM trunks WHERE tenant_id = ?", "DELETE FROM routes WHERE tenant_id = ?"]
        {
            sqlx::query(table).bind(tenant).execute(&mut *transaction).await?;
        }
        for (name, net) in trunks {
            sqlx::query("INSERT INTO trunks (tenant_id, name, net) VALUES (?, ?, ?)")
                .bind(tenant)
                .bind(name)
                .bind(net.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        for route in routes {
            let location = match &route.to {
                Destination::Trunk { location, .. } => location.as_ref(),
                Destination::Service(_) => None,
            };
            sqlx::query(
                "INSERT INTO routes (tenant_id, prefix, destination, location) VALUES (?, ?, ?, ?)",
            )
            .bind(tenant)
            .bind(&route.prefix)
            .bind(route.to.to_string())
            .bind(location)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What the data planes and the core need to know of the directory.
    pub async fn provision(&self) -> Result<Provision, DirectoryError> {
        let mut provision = Provision::default();
        for row in sqlx::query("SELECT id, name, realm, hold_music FROM tenants ORDER BY id")
            .fetch_all(&self.pool)
            .await?
        {
            provision.tenants.push(TenantRecord {
                id: tenant_id(row.try_get("id")?)?,
                name: row.try_get("name")?,
                realm: row.try_get("realm")?,
                hold_music: row.try_get("hold_music")?,
            });
        }
        provision.forwards = self.forwards().await?;
        provision.queues = self.queues().await?;
        provision.skills = self.skills().await?;
        for row in sqlx::query("SELECT tenant_id, name, net FROM trunks ORDER BY tenant_id, net")
            .fetch_all(&self.pool)
            .await?
        {
            provision.trunks.push(TrunkRecord {
                tenant: tenant_id(row.try_get("tenant_id")?)?,
                name: row.try_get("name")?,
                net: parsed(&row, "net")?,
            });
        }
        for row in sqlx::query("SELECT tenant_id, prefix, destination, location FROM routes")
            .fetch_all(&self.pool)
            .await?
        {
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

fn tenant_id(id: i64) -> Result<TenantId, DirectoryError> {
    u32::try_from(id).map(TenantId).map_err(|_| DirectoryError::Field("tenants.id".into()))
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T, DirectoryError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| DirectoryError::Field(format!("{column} {text:?}")))
}

fn list_text(list: &[String]) -> String {
    serde_json::to_string(list).expect("a list of texts is always JSON")
}

fn list_of(row: &SqliteRow, column: &str) -> Result<Vec<String>, DirectoryError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| DirectoryError::Field(format!("agents.{column}")))
}

fn limit_of(row: &SqliteRow, column: &str) -> Result<Option<u32>, DirectoryError> {
    let limit: Option<i64> = row.try_get(column)?;
    limit
        .map(u32::try_from)
        .transpose()
        .map_err(|_| DirectoryError::Field(format!("agents.{column}")))
}

fn agent_of(row: &SqliteRow) -> Result<Agent, DirectoryError> {
    let id: i64 = row.try_get("id")?;
    Ok(Agent {
        id: u64::try_from(id).map_err(|_| DirectoryError::Field("agents.id".into()))?,
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
        DirectoryError::Database(error)
    }
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DirectoryError::Database(error) => write!(f, "directory: {error}"),
            DirectoryError::Migration(error) => write!(f, "directory's tables: {error}"),
            DirectoryError::Field(name) => write!(f, "directory: {name} is not valid"),
        }
    }
}

impl std::error::Error for DirectoryError {}

#[cfg(test)]
mod tests;
