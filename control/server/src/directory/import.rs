//! The directory from files and to files. An import is one change: all of it or nothing.

use std::collections::{BTreeMap, HashMap};

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row, query};

use super::database::{Query, Writer};
use super::file::{self, Entries, Faults, Format, Said, SourceFile, TenantEntry, Wanted};
use super::file::{Spot, Table};
use super::{
    AGENT_COLUMNS, Address, AddressKind, Agent, Directory, DirectoryError, KEYS_A_STATEMENT,
    agent_of, fresh_tenant, tenant_id, write_addresses, write_agents,
};
use crate::config::HashCost;
use crate::password;
use crate::secret::Secret;

/// Changes that are told one by one; more are counted only.
const TOLD: usize = 100;
/// The kinds of a mapping's lists, in their order.
const KINDS: [AddressKind; 3] = [AddressKind::Cti, AddressKind::Sbc, AddressKind::Ccb];

/// How an import is done.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Only say what would change.
    pub check: bool,
    /// Remove what the files do not say, in the tables that they have.
    pub prune: bool,
    /// The one tenant that it is about; nothing else is touched.
    pub tenant: Option<String>,
    /// What hashes of the passwords in it cost.
    pub cost: Option<HashCost>,
}

/// How many records of a table changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Were not there.
    pub added: usize,
    /// Were there and were something else.
    pub changed: usize,
    /// Are there no more.
    pub removed: usize,
    /// Were there already.
    pub same: usize,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// By the tables' names; tables without a record are left out.
    pub tables: BTreeMap<&'static str, Counts>,
    /// The first changes: `changed agent demo/1001`.
    pub changes: Vec<String>,
}

impl Imported {
    /// How many records are others than before.
    pub fn changed(&self) -> usize {
        self.tables.values().map(|it| it.added + it.changed + it.removed).sum()
    }

    fn tell(&mut self, what: &str, table: Table, name: &impl std::fmt::Debug) {
        if self.changes.len() < TOLD {
            // `("demo", "1001")` reads better without its marks.
            let name = format!("{name:?}").replace(['(', ')', '"'], "").replace(", ", "/");
            self.changes.push(format!("{what} {} {name}", table.name()));
        }
    }
}

/// Why an import was not done.
#[derive(Debug)]
pub enum ImportError {
    /// The files are wrong.
    Faults(Faults),
    /// The directory could not do it.
    Directory(DirectoryError),
}

impl From<DirectoryError> for ImportError {
    fn from(error: DirectoryError) -> Self {
        ImportError::Directory(error)
    }
}

/// Who answers queries: the database itself, or a change of it.
enum Reader<'a, 'd> {
    Directory(&'a Directory),
    Writer(&'a mut Writer<'d>),
}

impl Reader<'_, '_> {
    async fn all(&mut self, query: Query<'_>) -> Result<Vec<AnyRow>, DirectoryError> {
        match self {
            Reader::Directory(directory) => directory.database.all(query).await,
            Reader::Writer(writer) => writer.all(query).await,
        }
    }
}

impl Directory {
    /// Everything, or everything of one tenant, as files; hashes of passwords only `with_secrets`.
    pub async fn export(
        &self,
        format: Format,
        tenant: Option<&str>,
        with_secrets: bool,
    ) -> Result<Vec<SourceFile>, DirectoryError> {
        // One change that changes nothing sees the tables as they are at one time.
        let mut writer = self.database.write().await?;
        let (mut entries, _) = entries(&mut Reader::Writer(&mut writer)).await?;
        writer.rollback().await?;
        if let Some(scope) = tenant {
            entries.tenants.retain(|name, _| name == scope);
            entries.locations.retain(|(name, _), ()| name == scope);
            entries.agents.retain(|(name, _), _| name == scope);
            entries.forwards.retain(|(name, _, _), _| name == scope);
            entries.mappings.clear();
        }
        Ok(file::write(&entries, format, tenant, with_secrets))
    }

    /// Makes the directory what the files say. What they do not say stays, unless `options.prune`.
    pub async fn import(
        &self,
        files: &[SourceFile],
        options: &ImportOptions,
    ) -> Result<Imported, ImportError> {
        let mut faults = Faults::default();
        let records = file::read(files, &mut faults);
        let mut wanted = Wanted::of(records, options.tenant.as_deref(), &mut faults);
        if !faults.is_empty() {
            return Err(ImportError::Faults(faults.sorted()));
        }
        self.hash_passwords(&mut wanted, options.cost.unwrap_or(HashCost::REAL)).await?;
        let mut writer = self.database.write().await?;
        let (held, ids) = entries(&mut Reader::Writer(&mut writer)).await?;
        let (plan, imported) = plan(&held, wanted, options.prune, &mut faults);
        if !faults.is_empty() {
            writer.rollback().await?;
            return Err(ImportError::Faults(faults.sorted()));
        }
        if options.check || imported.changed() == 0 {
            writer.rollback().await?;
            return Ok(imported);
        }
        plan.apply(&mut writer, ids, &held).await?;
        writer.commit().await?;
        Ok(imported)
    }

    /// Makes hashes of the passwords that are given. One that is the agent's already keeps its hash,
    /// so that a second import of a file changes nothing.
    async fn hash_passwords(
        &self,
        wanted: &mut Wanted,
        cost: HashCost,
    ) -> Result<(), DirectoryError> {
        if wanted.passwords.is_empty() {
            return Ok(());
        }
        let (held, _) = entries(&mut Reader::Directory(self)).await?;
        let jobs = std::mem::take(&mut wanted.passwords).into_iter().map(|(place, password)| {
            let held = held.agents.get(&wanted.agents[place].key);
            (place, password, held.map(|agent| agent.password.clone()))
        });
        let jobs: Vec<_> = jobs.collect();
        let hashes = tokio::task::spawn_blocking(move || hash_all(&jobs, cost)).await;
        let failed = |_| DirectoryError::Field("the hashes of the passwords".into());
        for (place, hash) in hashes.map_err(failed)? {
            wanted.agents[place].value.password = hash;
        }
        Ok(())
    }
}

/// Half of the cores make hashes; logins need some meanwhile.
fn hash_all(jobs: &[(usize, Secret, Option<Secret>)], cost: HashCost) -> Vec<(usize, Secret)> {
    let threads = (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1);
    let hash = |(place, password, held): &(usize, Secret, Option<Secret>)| {
        let kept = held.as_ref().filter(|held| password::verify(password.expose(), held));
        (*place, kept.cloned().unwrap_or_else(|| password::hash(password.expose(), cost)))
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = jobs
            .chunks(jobs.len().div_ceil(threads).max(1))
            .map(|part| scope.spawn(move || part.iter().map(hash).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("hashing does not panic")).collect()
    })
}

/// Everything that the directory holds, and the keys of the tenants.
async fn entries(
    reader: &mut Reader<'_, '_>,
) -> Result<(Entries, HashMap<String, i64>), DirectoryError> {
    let mut entries = Entries::default();
    let mut ids = HashMap::new();
    let mut names = HashMap::new();
    let tenants = query("SELECT id, name, realm, default_location, hold_music, srtp FROM tenants");
    for row in reader.all(tenants).await? {
        let (id, name): (i64, String) = (row.try_get("id")?, row.try_get("name")?);
        let tenant = TenantEntry {
            realm: row.try_get("realm")?,
            default_location: row.try_get("default_location")?,
            hold_music: row.try_get("hold_music")?,
            srtp: Some(row.try_get("srtp")?).filter(|name| name != file::DEFAULT_SRTP),
        };
        ids.insert(name.clone(), id);
        names.insert(id, name.clone());
        entries.tenants.insert(name, tenant);
    }
    let tenant_of = |row: &AnyRow| -> Result<String, DirectoryError> {
        let id: i64 = row.try_get("tenant_id")?;
        names.get(&id).cloned().ok_or_else(|| DirectoryError::Field("tenant_id".into()))
    };
    for row in reader.all(query("SELECT tenant_id, name FROM locations")).await? {
        entries.locations.insert((tenant_of(&row)?, row.try_get("name")?), ());
    }
    let agents = format!("SELECT {} FROM agents", AGENT_COLUMNS.join(", "));
    for row in reader.all(query(AssertSqlSafe(agents))).await? {
        let agent = agent_of(&row)?;
        entries.agents.insert((tenant_of(&row)?, agent.agent_id.clone()), agent);
    }
    let forwards = query("SELECT tenant_id, number, condition, after_s, destination FROM forwards");
    for row in reader.all(forwards).await? {
        let name = (tenant_of(&row)?, row.try_get("number")?, row.try_get("condition")?);
        let rule = (row.try_get("after_s")?, row.try_get("destination")?);
        entries.forwards.insert(name, rule);
    }
    let addresses = query(
        "SELECT ccb, location, kind, host, port, transport FROM addresses \
         ORDER BY ccb, location, kind, rank",
    );
    for row in reader.all(addresses).await? {
        let field = |name: &str| DirectoryError::Field(format!("addresses.{name}"));
        let (ccb, port): (i64, i64) = (row.try_get("ccb")?, row.try_get("port")?);
        let kind: String = row.try_get("kind")?;
        let kind = KINDS.iter().position(|it| it.name() == kind).ok_or_else(|| field("kind"))?;
        let ccb = u16::try_from(ccb).map_err(|_| field("ccb"))?;
        let lists = entries.mappings.entry((ccb, row.try_get("location")?)).or_default();
        lists[kind].push(Address {
            host: row.try_get("host")?,
            port: u16::try_from(port).map_err(|_| field("port"))?,
            transport: row.try_get("transport")?,
        });
    }
    Ok((entries, ids))
}

/// What is to be written and removed.
struct Plan {
    put: Entries,
    gone: Entries,
}

/// Finds out what changes, and whether what comes of it keeps the rules between records.
fn plan(held: &Entries, mut wanted: Wanted, prune: bool, faults: &mut Faults) -> (Plan, Imported) {
    let mut imported = Imported::default();
    for said in &mut wanted.agents {
        let agent = held.agents.get(&said.key);
        said.value.id = agent.map_or(0, |agent| agent.id);
        if said.value.password.expose().is_empty() {
            match agent {
                Some(agent) => said.value.password = agent.password.clone(),
                None => {
                    let rule = "a new agent needs a password or a password_hash";
                    faults.add(&said.spot, "agent.password", rule);
                }
            }
        }
    }
    let scope = wanted.scope.as_deref();
    let prunes = |table: Table, tenant: Option<&str>| {
        let in_scope = scope.is_none() || (tenant == scope && table != Table::Tenant);
        prune && in_scope && wanted.tables.contains(&table)
    };
    let mut next = held.clone();
    let (mut put, mut gone) = (Entries::default(), Entries::default());
    let told = &mut imported;
    (put.tenants, gone.tenants) = Merged { table: Table::Tenant, imported: &mut *told }.merge(
        &mut next.tenants,
        &wanted.tenants,
        |name| prunes(Table::Tenant, Some(name)),
    );
    // What is a tenant's goes with it.
    let alive = |tenant: &String| next.tenants.contains_key(tenant);
    (put.locations, gone.locations) = Merged { table: Table::Location, imported: &mut *told }
        .merge(&mut next.locations, &wanted.locations, |(tenant, _)| {
            !alive(tenant) || prunes(Table::Location, Some(tenant))
        });
    (put.agents, gone.agents) = Merged { table: Table::Agent, imported: &mut *told }.merge(
        &mut next.agents,
        &wanted.agents,
        |(tenant, _)| !alive(tenant) || prunes(Table::Agent, Some(tenant)),
    );
    (put.forwards, gone.forwards) = Merged { table: Table::Forward, imported: &mut *told }.merge(
        &mut next.forwards,
        &wanted.forwards,
        |(tenant, _, _)| !alive(tenant) || prunes(Table::Forward, Some(tenant)),
    );
    (put.mappings, gone.mappings) = Merged { table: Table::Mapping, imported: &mut *told }.merge(
        &mut next.mappings,
        &wanted.mappings,
        |_| prunes(Table::Mapping, None),
    );
    check(&next, &wanted, &gone, faults);
    (Plan { put, gone }, imported)
}

struct Merged<'i> {
    table: Table,
    imported: &'i mut Imported,
}

impl Merged<'_> {
    /// Brings `wanted` into `next` and takes out what is not wanted and `goes`; what is to be written
    /// and what is to be removed.
    fn merge<K: Ord + Clone + std::fmt::Debug, V: PartialEq + Clone>(
        self,
        next: &mut BTreeMap<K, V>,
        wanted: &[Said<K, V>],
        goes: impl Fn(&K) -> bool,
    ) -> (BTreeMap<K, V>, BTreeMap<K, V>) {
        let mut counts = Counts::default();
        let said: BTreeMap<&K, &V> = wanted.iter().map(|it| (&it.key, &it.value)).collect();
        let gone: BTreeMap<K, V> = next
            .iter()
            .filter(|(key, _)| !said.contains_key(key) && goes(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for key in gone.keys() {
            next.remove(key);
            counts.removed += 1;
            self.imported.tell("removed", self.table, key);
        }
        let mut put = BTreeMap::new();
        for (key, value) in said {
            let what = match next.get(key) {
                Some(held) if held == value => {
                    counts.same += 1;
                    continue;
                }
                Some(_) => {
                    counts.changed += 1;
                    "changed"
                }
                None => {
                    counts.added += 1;
                    "added"
                }
            };
            self.imported.tell(what, self.table, key);
            next.insert(key.clone(), value.clone());
            put.insert(key.clone(), value.clone());
        }
        if counts != Counts::default() {
            self.imported.tables.insert(self.table.name(), counts);
        }
        (put, gone)
    }
}

/// The rules between records, of what the directory would hold.
fn check(next: &Entries, wanted: &Wanted, gone: &Entries, faults: &mut Faults) {
    let nowhere = || Spot { file: "(pruning)".into(), line: 1 };
    let mut known = |spot: &Spot, table: Table, tenant: &String| {
        if !next.tenants.contains_key(tenant) {
            let field = format!("{}.tenant", table.name());
            faults.add(spot, field, format!("there is no tenant {tenant}"));
        }
    };
    wanted.locations.iter().for_each(|it| known(&it.spot, Table::Location, &it.key.0));
    wanted.agents.iter().for_each(|it| known(&it.spot, Table::Agent, &it.key.0));
    wanted.forwards.iter().for_each(|it| known(&it.spot, Table::Forward, &it.key.0));
    let spots: HashMap<_, _> = wanted.tenants.iter().map(|it| (&it.key, &it.spot)).collect();
    for (name, tenant) in &next.tenants {
        let Some(location) = &tenant.default_location else { continue };
        let place = (name.clone(), location.clone());
        let spot = match spots.get(name) {
            Some(spot) => (*spot).clone(),
            // Nobody says it of this tenant, but its location goes.
            None if gone.locations.contains_key(&place) => nowhere(),
            None => continue,
        };
        if !next.locations.contains_key(&place) {
            let rule = format!("{location} would be no location of tenant {name}");
            faults.add(&spot, "tenant.default_location", rule);
        }
    }
    let spots: HashMap<_, _> = wanted.agents.iter().map(|it| (&it.key, &it.spot)).collect();
    let mut numbers = HashMap::new();
    let mut operators = HashMap::new();
    for (name, agent) in &next.agents {
        for (taken, field, value) in [
            (&mut numbers, "agent.number", &agent.number),
            (&mut operators, "agent.operator", &agent.operator_id),
        ] {
            let Some(other) = taken.insert((&name.0, value), name) else { continue };
            // One of the two is of the files: rows that were there already differ.
            let (spot, other) = match (spots.get(name), spots.get(other)) {
                (Some(spot), _) => (spot, other),
                (None, Some(spot)) => (spot, name),
                (None, None) => continue,
            };
            faults.add(spot, field, format!("{value} is that of agent {}, too", other.1));
        }
    }
}

impl Plan {
    async fn apply(
        mut self,
        writer: &mut Writer<'_>,
        mut ids: HashMap<String, i64>,
        held: &Entries,
    ) -> Result<(), DirectoryError> {
        self.remove(writer, &ids).await?;
        for (name, tenant) in &self.put.tenants {
            let id = match ids.get(name) {
                Some(id) => *id,
                None => fresh_tenant(writer).await?,
            };
            ids.insert(name.clone(), id);
            let put = query(
                "INSERT INTO tenants (id, name, realm, default_location, hold_music, srtp) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET \
                 realm = excluded.realm, default_location = excluded.default_location, \
                 hold_music = excluded.hold_music, srtp = excluded.srtp",
            );
            let put = put.bind(id).bind(name.as_str()).bind(tenant.realm.as_str());
            let put = put.bind(tenant.default_location.as_deref());
            let put = put.bind(tenant.hold_music.as_deref());
            let srtp = tenant.srtp.as_deref().unwrap_or(file::DEFAULT_SRTP);
            writer.execute(put.bind(srtp)).await?;
        }
        for (tenant, name) in self.put.locations.keys() {
            let put = query("INSERT INTO locations (tenant_id, name) VALUES ($1, $2)");
            writer.execute(put.bind(key_of(&ids, tenant)?).bind(name.as_str())).await?;
        }
        self.put_agents(writer, &ids, held).await?;
        for ((tenant, number, when), (after_s, to)) in &self.put.forwards {
            let put = query(
                "INSERT INTO forwards (tenant_id, number, condition, after_s, destination) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, number, condition) \
                 DO UPDATE SET after_s = excluded.after_s, destination = excluded.destination",
            );
            let put = put.bind(key_of(&ids, tenant)?).bind(number.as_str()).bind(when.as_str());
            writer.execute(put.bind(*after_s).bind(to.as_str())).await?;
        }
        for ((ccb, location), lists) in &self.put.mappings {
            for (kind, list) in KINDS.into_iter().zip(lists) {
                write_addresses(writer, base::CcbId(*ccb), location, kind, list).await?;
            }
        }
        Ok(())
    }

    async fn remove(
        &self,
        writer: &mut Writer<'_>,
        ids: &HashMap<String, i64>,
    ) -> Result<(), DirectoryError> {
        for (tenant, number, when) in self.gone.forwards.keys() {
            let delete = query(
                "DELETE FROM forwards WHERE tenant_id = $1 AND number = $2 AND condition = $3",
            );
            let delete = delete.bind(key_of(ids, tenant)?).bind(number.as_str());
            writer.execute(delete.bind(when.as_str())).await?;
        }
        let keys: Vec<u64> = self.gone.agents.values().map(|agent| agent.id).collect();
        for_agents(writer, "DELETE FROM agents WHERE id IN", &keys).await?;
        for (tenant, name) in self.gone.locations.keys() {
            let delete = query("DELETE FROM locations WHERE tenant_id = $1 AND name = $2");
            writer.execute(delete.bind(key_of(ids, tenant)?).bind(name.as_str())).await?;
        }
        for (ccb, location) in self.gone.mappings.keys() {
            let delete = query("DELETE FROM addresses WHERE ccb = $1 AND location = $2");
            writer.execute(delete.bind(i64::from(*ccb)).bind(location.as_str())).await?;
        }
        for name in self.gone.tenants.keys() {
            let delete = query("DELETE FROM tenants WHERE id = $1").bind(key_of(ids, name)?);
            writer.execute(delete).await?;
        }
        Ok(())
    }

    async fn put_agents(
        &mut self,
        writer: &mut Writer<'_>,
        ids: &HashMap<String, i64>,
        held: &Entries,
    ) -> Result<(), DirectoryError> {
        let fresh = self.put.agents.values().filter(|agent| agent.id == 0).count();
        if fresh > 0 {
            let count = i64::try_from(fresh).unwrap_or(i64::MAX);
            let take = query(
                "UPDATE counters SET value = value + $1 WHERE name = 'agent' RETURNING value",
            );
            let row = writer.optional(take.bind(count)).await?.ok_or(sqlx::Error::RowNotFound)?;
            let mut key = super::agent_key(row.try_get::<i64, _>(0)? - count)?;
            for agent in self.put.agents.values_mut().filter(|agent| agent.id == 0) {
                key += 1;
                agent.id = key;
            }
        }
        // Two agents may take each other's numbers; each is out of the other's way first.
        let moved = self.put.agents.iter().filter(|(name, agent)| {
            held.agents.get(*name).is_some_and(|held| {
                held.number != agent.number || held.operator_id != agent.operator_id
            })
        });
        let moved: Vec<u64> = moved.map(|(_, agent)| agent.id).collect();
        let aside = "UPDATE agents SET number = '!' || CAST(id AS TEXT), \
                     operator_id = '!' || CAST(id AS TEXT) || '!' WHERE id IN";
        for_agents(writer, aside, &moved).await?;
        let mut agents: Vec<(base::TenantId, &Agent)> = Vec::with_capacity(self.put.agents.len());
        for ((tenant, _), agent) in &self.put.agents {
            agents.push((tenant_id(key_of(ids, tenant)?)?, agent));
        }
        write_agents(writer, &agents).await
    }
}

/// Does a statement that ends with `IN` for agents by their keys.
async fn for_agents(
    writer: &mut Writer<'_>,
    statement: &str,
    keys: &[u64],
) -> Result<(), DirectoryError> {
    for chunk in keys.chunks(KEYS_A_STATEMENT) {
        let text = format!("{statement} {}", super::places(1, chunk.len()));
        let mut statement = query(AssertSqlSafe(text));
        for key in chunk {
            statement = statement.bind(i64::try_from(*key).unwrap_or(-1));
        }
        writer.execute(statement).await?;
    }
    Ok(())
}

fn key_of(ids: &HashMap<String, i64>, tenant: &str) -> Result<i64, DirectoryError> {
    ids.get(tenant).copied().ok_or_else(|| DirectoryError::Field(format!("tenant {tenant}")))
}
