//! The one place that speaks to the database, SQLite or PostgreSQL. Queries are written once, with `$1` for
//! their values, which both take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, Row, Transaction};
use tokio::sync::{Mutex, OnceCell};

use super::{DirectoryError, Place};

/// Connections to the directory; readers of SQLite do not wait for the writer (WAL).
const CONNECTIONS: u32 = 8;
/// How long a request waits for a connection.
const CONNECT_MS: u64 = 2_000;
/// How long a request waits for an answer: below what its client waits for its own.
const ANSWER_MS: u64 = 4_000;
/// How long one statement of a change may take: others may have their turn first, and bulk takes its time.
const WRITE_MS: u64 = 60_000;
/// How soon a database that was not there at the start is looked for again.
const AGAIN_MS: u64 = 500;
/// How long it may take to bring the tables to this version.
const MIGRATE_MS: u64 = 60_000;

/// A statement with its values.
pub type Query<'q> = sqlx::query::Query<'q, Any, AnyArguments>;

/// The database.
#[derive(Clone, Debug)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: AnyPool,
    place: Place,
    /// Set once the tables are those of this version.
    ready: OnceCell<()>,
    /// When the last try to get there failed, and why.
    failed: Mutex<Option<(Instant, String)>>,
    is_away: AtomicBool,
}

impl Database {
    /// The database at that place; nothing is opened yet.
    pub fn new(place: Place) -> Result<Database, DirectoryError> {
        sqlx::any::install_default_drivers();
        let url = place.url().map_err(|error| DirectoryError::Database(error.into()))?;
        let options: AnyConnectOptions = url.expose().parse()?;
        let is_sqlite = matches!(place, Place::Sqlite(_));
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_millis(CONNECT_MS))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_sqlite {
                        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";
                        sqlx::raw_sql(pragmas).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        let (ready, failed, is_away) = Default::default();
        Ok(Database(Arc::new(Inner { pool, place, ready, failed, is_away })))
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// True when the last request found nobody there.
    pub fn is_away(&self) -> bool {
        self.0.is_away.load(Ordering::Relaxed)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.0.pool.close().await;
    }

    /// Brings the tables to this version, unless that was done already.
    pub async fn ready(&self) -> Result<(), DirectoryError> {
        if self.0.ready.initialized() {
            return Ok(());
        }
        let done = self.0.ready.get_or_try_init(|| self.migrate()).await;
        self.note(done.copied())
    }

    /// Those who wait for one try that fails do not each try again.
    async fn migrate(&self) -> Result<(), DirectoryError> {
        let mut failed = self.0.failed.lock().await;
        if let Some((at, why)) = &*failed
            && at.elapsed() < Duration::from_millis(AGAIN_MS)
        {
            return Err(DirectoryError::Away(why.clone()));
        }
        let limit = Duration::from_millis(MIGRATE_MS);
        let run = async {
            self.check_encoding().await?;
            // The lock of a migration belongs to its connection, which goes back to the pool: a try that is given up goes
            // on to its end, else it would keep the lock from all others.
            let pool = self.0.pool.clone();
            let run = tokio::spawn(async move { sqlx::migrate!("./migrations").run(&pool).await });
            match run.await {
                Ok(done) => done.map_err(DirectoryError::from),
                Err(why) => Err(DirectoryError::Field(format!("the migration: {why}"))),
            }
        };
        let done = tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err(too_slow(limit)));
        if let Err(DirectoryError::Away(why)) = &done {
            *failed = Some((Instant::now(), why.clone()));
        }
        done
    }

    /// Text is UTF-8; a database in another encoding would refuse some of it later.
    async fn check_encoding(&self) -> Result<(), DirectoryError> {
        if let Place::Sqlite(_) = self.0.place {
            return Ok(());
        }
        let row = sqlx::query("SHOW server_encoding").fetch_one(&self.0.pool).await?;
        match row.try_get::<String, _>(0)?.as_str() {
            "UTF8" => Ok(()),
            other => Err(DirectoryError::Field(format!("the database's encoding {other}"))),
        }
    }

    /// All rows.
    pub async fn all(&self, query: Query<'_>) -> Result<Vec<AnyRow>, DirectoryError> {
        self.ready().await?;
        self.within(ANSWER_MS, query.fetch_all(&self.0.pool)).await
    }

    /// The row, when there is one.
    pub async fn optional(&self, query: Query<'_>) -> Result<Option<AnyRow>, DirectoryError> {
        self.ready().await?;
        self.within(ANSWER_MS, query.fetch_optional(&self.0.pool)).await
    }

    /// Begins a change. Who changes the directory waits for its turn here, whichever blade it is of.
    pub async fn write(&self) -> Result<Writer<'_>, DirectoryError> {
        self.ready().await?;
        let transaction = self.within(ANSWER_MS, self.0.pool.begin()).await?;
        let mut writer = Writer { database: self, transaction };
        let turn = "UPDATE counters SET value = value + 1 WHERE name = 'version'";
        writer.execute(sqlx::query(turn)).await?;
        Ok(writer)
    }

    async fn within<T>(
        &self,
        limit_ms: u64,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DirectoryError> {
        let limit = Duration::from_millis(limit_ms);
        let done = match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(DirectoryError::from),
            Err(_) => Err(too_slow(limit)),
        };
        self.note(done)
    }

    /// The log is told when the database goes and when it comes back, not of each request.
    fn note<T>(&self, done: Result<T, DirectoryError>) -> Result<T, DirectoryError> {
        let is_away = matches!(done, Err(DirectoryError::Away(_)));
        if self.0.is_away.swap(is_away, Ordering::Relaxed) != is_away {
            let place = &self.0.place;
            match &done {
                Err(why) => tracing::error!(%place, %why, "the directory is away"),
                Ok(_) => tracing::info!(%place, "the directory is there again"),
            }
        }
        done
    }
}

fn too_slow(limit: Duration) -> DirectoryError {
    DirectoryError::Away(format!("no answer within {} s", limit.as_secs_f64()))
}

/// A change of the directory: all of it or nothing.
pub struct Writer<'d> {
    database: &'d Database,
    transaction: Transaction<'static, Any>,
}

impl Writer<'_> {
    /// All rows.
    pub async fn all(&mut self, query: Query<'_>) -> Result<Vec<AnyRow>, DirectoryError> {
        self.database.within(WRITE_MS, query.fetch_all(&mut *self.transaction)).await
    }

    /// The row, when there is one.
    pub async fn optional(&mut self, query: Query<'_>) -> Result<Option<AnyRow>, DirectoryError> {
        self.database.within(WRITE_MS, query.fetch_optional(&mut *self.transaction)).await
    }

    /// Does it; how many rows it was done to.
    pub async fn execute(&mut self, query: Query<'_>) -> Result<u64, DirectoryError> {
        let done = query.execute(&mut *self.transaction);
        self.database.within(WRITE_MS, done).await.map(|done| done.rows_affected())
    }

    /// Makes it last.
    pub async fn commit(self) -> Result<(), DirectoryError> {
        self.database.within(WRITE_MS, self.transaction.commit()).await
    }

    /// Leaves everything as it was.
    pub async fn rollback(self) -> Result<(), DirectoryError> {
        self.database.within(WRITE_MS, self.transaction.rollback()).await
    }
}

/// True for what another try may not meet: nobody is there, or whoever is there cannot serve now.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // PostgreSQL's codes: connections (08), credentials (28), no such database (3D000), a standby
        // (25006), who must try again (40), out of resources (53), an administrator's will (57).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.len() == 5
                && (["08", "28", "40", "53", "57"].iter().any(|class| code.starts_with(class))
                    || code == "3D000"
                    || code == "25006")
        }),
        _ => false,
    }
}
