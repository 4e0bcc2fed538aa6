//! PostgreSQL: a connection pool, `SERIALIZABLE` transactions, retries on serialisation failures.
//!
//! Transaction closures are synchronous on both engines; here they run on a blocking thread and
//! wait for the server there.

use crate::tx::Conn;
use crate::{Row, Tx, Value};
use bytes::BytesMut;
use caelum_base::{Error, Result, Secret};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Config, NoTls};

/// Connections per service.
const POOL: usize = 8;
/// Tries of a transaction that lost a serialisation conflict.
const TRIES: u32 = 20;

pub(crate) struct Pg {
    pool: Pool,
    /// Whether `(table, column)` is of a text type; the schema does not change while running.
    text_columns: Arc<Mutex<HashMap<(String, String), bool>>>,
}

pub(crate) struct PgTx<'a> {
    client: &'a Object,
    handle: Handle,
    text_columns: &'a Mutex<HashMap<(String, String), bool>>,
    /// Set when the server asked for the transaction to be run again.
    retry: bool,
}

impl Pg {
    pub async fn open(url: &Secret<String>, service: &str) -> Result<Self> {
        let mut config: Config = url.expose().parse().map_err(|_| Error::invalid("store.url is not a valid PostgreSQL URL"))?;
        config.connect_timeout(Duration::from_secs(5));
        config.options(format!("-c search_path=caelum_{service} -c default_transaction_isolation=serializable"));
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager).max_size(POOL).build().map_err(|e| Error::internal("connection pool").caused_by(e))?;
        let client =
            pool.get().await.map_err(|e| Error::unavailable("The PostgreSQL server of store.url does not answer.").caused_by(e))?;
        match client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS caelum_{service}")).await {
            // PostgreSQL looks before it makes: of two who come at once, one learns only then that the schema is there.
            Err(e) if matches!(e.code(), Some(c) if *c == SqlState::UNIQUE_VIOLATION || *c == SqlState::DUPLICATE_SCHEMA) => {}
            other => other.map_err(|e| map(&e, e.to_string()))?,
        }
        Ok(Self { pool, text_columns: Arc::default() })
    }

    async fn client(&self) -> Result<Object> {
        tokio::time::timeout(Duration::from_secs(5), self.pool.get())
            .await
            .map_err(|_| Error::unavailable("All database connections are in use."))?
            .map_err(|e| Error::unavailable("The database does not answer.").caused_by(e))
    }

    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + Sync + 'static,
    {
        let client = self.client().await?;
        let handle = Handle::current();
        let text = self.text_columns.clone();
        let work = move || {
            let mut wait_ms = 1u64;
            for attempt in 1.. {
                match transaction(&client, &handle, &text, "BEGIN ISOLATION LEVEL SERIALIZABLE", false, |tx| f(tx)) {
                    (r, false) => return r,
                    (r, true) if attempt >= TRIES => {
                        return r.and(Err(Error::unavailable("The database is too busy with conflicting changes.")));
                    }
                    (_, true) => {
                        std::thread::sleep(Duration::from_millis(wait_ms));
                        wait_ms = (wait_ms * 2).min(50);
                    }
                }
            }
            Err(Error::internal("unreachable: the loop above returns"))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("transaction").caused_by(e))?
    }

    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let client = self.client().await?;
        let handle = Handle::current();
        let text = self.text_columns.clone();
        let work = move || transaction(&client, &handle, &text, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", true, f).0;
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("transaction").caused_by(e))?
    }
}

/// Runs one transaction; the flag says that the server wants it run again.
fn transaction<T>(
    client: &Object,
    handle: &Handle,
    text_columns: &Mutex<HashMap<(String, String), bool>>,
    begin: &str,
    read_only: bool,
    f: impl FnOnce(&mut Tx<'_>) -> Result<T>,
) -> (Result<T>, bool) {
    if let Err(e) = handle.block_on(client.batch_execute(begin)) {
        return (Err(map(&e, "begin".into())), false);
    }
    let pg = PgTx { client, handle: handle.clone(), text_columns, retry: false };
    let mut tx = Tx { conn: Conn::Pg(pg), read_only, after_commit: Vec::new() };
    let result = f(&mut tx);
    let mut retry = matches!(&tx.conn, Conn::Pg(p) if p.retry);
    if retry || result.is_err() {
        // A broken connection is dropped by the pool; its server side rolls back by itself.
        let _ = handle.block_on(client.batch_execute("ROLLBACK"));
        return (result, retry);
    }
    if let Err(e) = handle.block_on(client.batch_execute("COMMIT")) {
        retry = is_serialisation(&e);
        return (Err(map(&e, "commit".into())), retry);
    }
    for f in tx.after_commit {
        f();
    }
    (result, false)
}

fn is_serialisation(e: &tokio_postgres::Error) -> bool {
    matches!(e.code(), Some(c) if *c == SqlState::T_R_SERIALIZATION_FAILURE || *c == SqlState::T_R_DEADLOCK_DETECTED)
}

fn map(e: &tokio_postgres::Error, detail: String) -> Error {
    let cause = Error::internal(format!("{detail}: {e} {:?}", e.as_db_error().map(|d| d.message().to_string())));
    match e.code() {
        Some(c) if *c == SqlState::UNIQUE_VIOLATION => {
            Error::conflict("A record with these values exists already.").code("duplicate").caused_by(cause)
        }
        Some(c) if *c == SqlState::DISK_FULL || *c == SqlState::READ_ONLY_SQL_TRANSACTION => {
            Error::unavailable("The database cannot be written now.").caused_by(cause)
        }
        Some(_) => Error::internal("SQL failed").caused_by(cause),
        None => Error::unavailable("The database does not answer.").caused_by(cause),
    }
}

impl PgTx<'_> {
    fn fail(&mut self, e: &tokio_postgres::Error, sql: &str) -> Error {
        self.retry |= is_serialisation(e);
        map(e, sql.to_string())
    }

    pub fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        let handle = self.handle.clone();
        let client = self.client;
        let result = handle.block_on(async {
            let stmt = client.prepare_cached(sql).await?;
            let wrapped: Vec<Param<'_>> = params.iter().map(Param).collect();
            let refs: Vec<&(dyn ToSql + Sync)> = wrapped.iter().map(|p| p as _).collect();
            client.query(&stmt, &refs).await
        });
        result.map_err(|e| self.fail(&e, sql))?.iter().map(row).collect()
    }

    pub fn exec(&mut self, sql: &str, params: &[Value]) -> Result<u64> {
        let handle = self.handle.clone();
        let client = self.client;
        let result = handle.block_on(async {
            if params.is_empty() {
                // Several statements at once (migrations) need the simple protocol.
                return client.batch_execute(sql).await.map(|()| 0);
            }
            let stmt = client.prepare_cached(sql).await?;
            let wrapped: Vec<Param<'_>> = params.iter().map(Param).collect();
            let refs: Vec<&(dyn ToSql + Sync)> = wrapped.iter().map(|p| p as _).collect();
            client.execute(&stmt, &refs).await
        });
        result.map_err(|e| self.fail(&e, sql))
    }

    pub fn is_text(&mut self, table: &str, column: &str) -> Result<bool> {
        let key = (table.to_string(), column.to_string());
        if let Some(known) = self.text_columns.lock().expect("no holder of this lock panics").get(&key) {
            return Ok(*known);
        }
        let sql = "SELECT data_type AS t FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1 AND column_name = $2";
        let rows = self.query(sql, &[table.into(), column.into()])?;
        let is = rows.first().map(|r| r.text("t")).transpose()?.as_deref() == Some("text");
        self.text_columns.lock().expect("no holder of this lock panics").insert(key, is);
        Ok(is)
    }
}

fn row(r: &tokio_postgres::Row) -> Result<Row> {
    let names: Arc<[String]> = r.columns().iter().map(|c| c.name().to_string()).collect();
    let mut values = Vec::with_capacity(names.len());
    for (i, c) in r.columns().iter().enumerate() {
        let got = match *c.type_() {
            Type::INT8 => r.try_get::<_, Option<i64>>(i).map(|v| v.map(Value::Int)),
            Type::INT4 => r.try_get::<_, Option<i32>>(i).map(|v| v.map(|n| Value::Int(n.into()))),
            Type::BOOL => r.try_get::<_, Option<bool>>(i).map(|v| v.map(|b| Value::Int(b.into()))),
            Type::FLOAT8 => r.try_get::<_, Option<f64>>(i).map(|v| v.map(Value::Real)),
            Type::BYTEA => r.try_get::<_, Option<Vec<u8>>>(i).map(|v| v.map(Value::Blob)),
            _ => r.try_get::<_, Option<String>>(i).map(|v| v.map(Value::Text)),
        };
        let got = got.map_err(|e| Error::internal(format!("column {}", c.name())).caused_by(e))?;
        values.push(got.unwrap_or(Value::Null));
    }
    Ok(Row { names, values })
}

#[derive(Debug)]
struct Param<'a>(&'a Value);

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(i) if *ty == Type::INT4 => i32::try_from(*i)?.to_sql(ty, out),
            Value::Int(i) if *ty == Type::FLOAT8 => (*i as f64).to_sql(ty, out),
            Value::Int(i) => i.to_sql(ty, out),
            Value::Real(r) => r.to_sql(ty, out),
            Value::Text(t) => t.to_sql(ty, out),
            Value::Blob(b) => b.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
