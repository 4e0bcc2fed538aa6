//! SQL storage: one text for SQLite and PostgreSQL, migrations, generations, list queries.
//!
//! Invariants:
//! - Only `store/` modules of the services use this crate's transactions; one method is one
//!   transaction. A transaction holds no network await and may be run again (PostgreSQL retries
//!   serialisation failures), so write closures are `Fn`.
//! - Both engines run writes as if one after the other: SQLite has one writer thread, PostgreSQL
//!   runs `SERIALIZABLE`.
//! - An acknowledged write survives power loss: SQLite commits with `synchronous=FULL`, many
//!   transactions per commit (group commit); a crash before the commit loses only transactions
//!   nobody was told about.
//! - Every record has a `generation`; updates and deletes are conditional on it.
//!
//! What is durable: everything. What is rebuilt: nothing.

mod migrate;
mod pg;
mod query;
mod record;
mod sqlite;
pub mod testing;
mod tx;
mod value;

pub use migrate::Migration;
pub use query::{Dir, Filter, Query};
pub use record::{Record, Stored, Table};
pub use tx::Tx;
pub use value::{Row, Value};

use caelum_base::{Error, Result, Secret};
use std::path::PathBuf;
use std::sync::Arc;

/// Builds a parameter list: `params![id, 3, None::<String>]`.
#[macro_export]
macro_rules! params {
    ($($v:expr),* $(,)?) => { &[$($crate::Value::from($v)),*][..] };
}

/// Where a service's database lives.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// Directory; each service has one file in it.
    SqliteDir(PathBuf),
    /// A scratch database that goes with the last handle, without durability. For tests.
    Scratch,
    /// `postgresql://user:password@host:port/database`; each service has one schema in it.
    Postgres(Secret<String>),
}

impl StoreUrl {
    /// Parses `sqlite:DIR`, `sqlite::scratch:` or `postgresql://…`.
    pub fn parse(url: &str) -> Result<Self> {
        if url == "sqlite::scratch:" {
            return Ok(Self::Scratch);
        }
        if let Some(dir) = url.strip_prefix("sqlite:") {
            return Ok(Self::SqliteDir(PathBuf::from(dir.trim_start_matches("//"))));
        }
        if url.starts_with("postgresql://") || url.starts_with("postgres://") {
            return Ok(Self::Postgres(Secret::new(url.to_string())));
        }
        Err(Error::invalid("store.url must be sqlite:DIRECTORY or postgresql://USER:PASSWORD@HOST/DATABASE"))
    }
}

/// A service's database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Engine>,
}

enum Engine {
    Sqlite(sqlite::Sqlite),
    Pg(pg::Pg),
}

impl Db {
    /// Opens the database of `service` and brings its schema up to date.
    ///
    /// Errors: `Unavailable` when the engine cannot be reached or the schema is newer than the
    /// program.
    pub async fn open(url: &StoreUrl, service: &'static str, migrations: &'static [Migration]) -> Result<Self> {
        let engine = match url {
            StoreUrl::SqliteDir(dir) => Engine::Sqlite(sqlite::Sqlite::open(Some(&dir.join(format!("{service}.db"))))?),
            StoreUrl::Scratch => Engine::Sqlite(sqlite::Sqlite::open(None)?),
            StoreUrl::Postgres(url) => Engine::Pg(pg::Pg::open(url, service).await?),
        };
        let db = Self { inner: Arc::new(engine) };
        migrate::run(&db, service, migrations).await?;
        Ok(db)
    }

    /// Runs `f` in one transaction. When it returns `Ok` and the future completes, the changes are
    /// durable; on `Err` nothing changed. `f` may run more than once.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + Sync + 'static,
    {
        match &*self.inner {
            Engine::Sqlite(s) => s.write(f).await,
            Engine::Pg(p) => p.write(f).await,
        }
    }

    /// Runs `f` on a consistent snapshot. Writing in it is an error.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        match &*self.inner {
            Engine::Sqlite(s) => s.read(f),
            Engine::Pg(p) => p.read(f).await,
        }
    }

    /// One record by id.
    pub async fn get<R: Record>(&self, id: &str) -> Result<Option<Stored<R>>> {
        let id = id.to_string();
        self.read(move |tx| tx.get::<R>(&id)).await
    }

    /// Records that match `query`, in its order.
    pub async fn list<R: Record>(&self, query: Query) -> Result<Vec<Stored<R>>> {
        self.read(move |tx| tx.list::<R>(&query)).await
    }

    /// `sqlite` or `postgresql`.
    pub fn engine(&self) -> &'static str {
        match &*self.inner {
            Engine::Sqlite(_) => "sqlite",
            Engine::Pg(_) => "postgresql",
        }
    }
}
