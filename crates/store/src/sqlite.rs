//! SQLite: readers inline on the calling thread, one writer thread with group commit.

use crate::tx::Conn;
use crate::{Row, Tx, Value};
use caelum_base::{Error, Result};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Transactions that share one commit at most.
const MAX_BATCH: usize = 256;
/// Transactions that may wait for the writer before callers wait too.
const QUEUE: usize = 4_096;
/// Checkpoint when the log holds this many pages and nobody waits.
const CHECKPOINT_PAGES: i64 = 4_000;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// One read connection per database and thread: opening costs more than a point read.
    static READERS: RefCell<HashMap<u64, Connection>> = RefCell::new(HashMap::new());
}

pub(crate) struct Sqlite {
    id: u64,
    uri: String,
    writer: mpsc::Sender<Box<dyn Job>>,
    /// A test database's directory, removed with the last handle.
    _scratch: Option<Scratch>,
}

/// SQLite's own shared in-memory mode locks readers out while a transaction runs, unlike files;
/// a scratch directory behaves as in production.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-overs in the temporary directory harm nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

trait Job: Send {
    /// Runs inside a savepoint; `false` rolls it back.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Tells the caller. `commit` is the result of the shared commit.
    fn done(self: Box<Self>, commit: &Result<(), String>);
}

struct WriteJob<T, F> {
    f: F,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&mut Tx<'_>) -> Result<T> + Send> Job for WriteJob<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let r = (self.f)(tx);
        let ok = r.is_ok();
        self.result = Some(r);
        ok
    }

    fn done(self: Box<Self>, commit: &Result<(), String>) {
        let result = match (self.result, commit) {
            (Some(Err(e)), _) => Err(e),
            (Some(ok), Ok(())) => ok,
            (Some(_), Err(e)) => Err(disk(e)),
            (None, _) => Err(Error::unavailable("The database did not run the transaction.")),
        };
        // The caller may have gone; the change stands all the same.
        let _ = self.reply.send(result);
    }
}

fn disk(e: &str) -> Error {
    Error::unavailable("The database cannot be written now.").caused_by(Error::internal(e.to_string()))
}

fn map(e: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    match &e {
        rusqlite::Error::SqliteFailure(f, _) if f.code == ErrorCode::ConstraintViolation => {
            Error::conflict("A record with these values exists already.").code("duplicate").caused_by(e)
        }
        rusqlite::Error::SqliteFailure(f, _)
            if matches!(
                f.code,
                ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::DatabaseBusy | ErrorCode::CannotOpen | ErrorCode::ReadOnly
            ) =>
        {
            Error::unavailable("The database cannot be used now.").caused_by(e)
        }
        _ => Error::internal("SQL failed").caused_by(e),
    }
}

impl Sqlite {
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let scratch = match path {
            Some(_) => None,
            None => Some(Scratch(std::env::temp_dir().join(format!("caelum-scratch-{}-{id}", std::process::id())))),
        };
        let path = match &scratch {
            Some(s) => s.0.join("scratch.db"),
            None => path.unwrap_or(Path::new("caelum.db")).to_path_buf(),
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| Error::unavailable(format!("cannot create {}: {e}", dir.display())))?;
        }
        let uri = file_uri(&path);
        let conn = connect(&uri, false)?;
        let mode: String = conn.query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0)).map_err(map)?;
        if mode != "wal" {
            return Err(Error::unavailable(format!("{uri}: the file system does not support SQLite's WAL")));
        }
        if scratch.is_some() {
            conn.execute_batch("PRAGMA synchronous=OFF").map_err(map)?;
        }
        let (writer, jobs) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer_loop(&conn, jobs))
            .map_err(|e| Error::unavailable("cannot start a thread").caused_by(e))?;
        Ok(Self { id, uri, writer, _scratch: scratch })
    }

    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + Sync + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::unavailable("The database is closed.");
        self.writer.send(Box::new(WriteJob { f, result: None, reply })).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub fn read<T>(&self, f: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        // Taken out while in use, so that a nested read opens its own connection.
        let conn = READERS.with(|m| m.borrow_mut().remove(&self.id));
        let conn = match conn {
            Some(c) => c,
            None => connect(&self.uri, true)?,
        };
        conn.execute_batch("BEGIN").map_err(map)?;
        let mut tx = Tx { conn: Conn::Sqlite(&conn), read_only: true, after_commit: Vec::new() };
        let result = f(&mut tx);
        let ended = conn.execute_batch("COMMIT").map_err(map);
        if ended.is_ok() {
            READERS.with(|m| m.borrow_mut().insert(self.id, conn));
        }
        result.and_then(|v| ended.map(|()| v))
    }
}

fn file_uri(p: &Path) -> String {
    let p: PathBuf = std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf());
    let mut out = String::from("file:");
    for b in p.as_os_str().as_encoded_bytes() {
        match b {
            b'?' | b'#' | b'%' => out.push_str(&format!("%{b:02x}")),
            _ => out.push(char::from(*b)),
        }
    }
    out
}

fn connect(uri: &str, reader: bool) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(uri, flags).map_err(|e| Error::unavailable(format!("cannot open {uri}: {e}")))?;
    conn.execute_batch(if reader {
        "PRAGMA busy_timeout=10000; PRAGMA cache_size=-2000"
    } else {
        "PRAGMA busy_timeout=10000; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000; \
         PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=67108864; PRAGMA foreign_keys=ON"
    })
    .map_err(map)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

fn writer_loop(conn: &Connection, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = jobs.blocking_recv() {
        run_batch(conn, first, &mut jobs);
        if jobs.is_empty() {
            checkpoint_if_large(conn);
        }
    }
    // A clean end leaves no log behind.
    let _ = conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

fn run_batch(conn: &Connection, first: Box<dyn Job>, jobs: &mut mpsc::Receiver<Box<dyn Job>>) {
    let mut finished: Vec<Box<dyn Job>> = Vec::new();
    let mut callbacks: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let mut next = Some(first);
    let begun = conn.execute_batch("BEGIN IMMEDIATE").map_err(|e| e.to_string());
    if let Err(e) = begun {
        tracing::error!(error = %e, "cannot begin a transaction");
        if let Some(job) = next {
            job.done(&Err(e));
        }
        return;
    }
    while let Some(mut job) = next {
        let mut tx = Tx { conn: Conn::Sqlite(conn), read_only: false, after_commit: Vec::new() };
        let mark = conn.execute_batch("SAVEPOINT job");
        let ok = mark.is_ok() && job.run(&mut tx);
        let end = if ok { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        if let Err(e) = conn.execute_batch(end) {
            // A failed rollback (disk full) has already undone the whole transaction.
            tracing::error!(error = %e, "savepoint");
        }
        if ok {
            callbacks.append(&mut tx.after_commit);
        }
        finished.push(job);
        next = if finished.len() < MAX_BATCH { jobs.try_recv().ok() } else { None };
    }
    let commit = conn.execute_batch("COMMIT").map_err(|e| e.to_string());
    if let Err(e) = &commit {
        tracing::error!(error = %e, "commit failed");
        let _ = conn.execute_batch("ROLLBACK");
    } else {
        for f in callbacks {
            f();
        }
    }
    for job in finished {
        job.done(&commit);
    }
}

fn checkpoint_if_large(conn: &Connection) {
    // NOOP reports the size of the log without doing any work.
    let pages: i64 = conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |r| r.get(1)).unwrap_or(0);
    if pages > CHECKPOINT_PAGES {
        let _ = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
    }
}

/// `$1` → `?1`: SQLite numbers `$1` by first appearance, PostgreSQL by the digit.
fn positional(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let digit = chars.peek().is_some_and(char::is_ascii_digit);
        out.push(if c == '$' && digit { '?' } else { c });
    }
    out
}

struct Param<'a>(&'a Value);

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(i) => ValueRef::Integer(*i),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(t) => ValueRef::Text(t.as_bytes()),
            Value::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

pub(crate) fn query(conn: &Connection, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
    let mut stmt = conn.prepare_cached(&positional(sql)).map_err(map)?;
    let names: Arc<[String]> = stmt.column_names().map(String::from).collect();
    let mut rows = stmt.query(rusqlite::params_from_iter(params.iter().map(Param))).map_err(map)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(map)? {
        let mut values = Vec::with_capacity(names.len());
        for i in 0..names.len() {
            values.push(match row.get_ref(i).map_err(map)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(v) => Value::Int(v),
                ValueRef::Real(v) => Value::Real(v),
                // The checked conversion is many times faster than the lossy one.
                ValueRef::Text(t) => {
                    Value::Text(std::str::from_utf8(t).map_or_else(|_| String::from_utf8_lossy(t).into_owned(), String::from))
                }
                ValueRef::Blob(b) => Value::Blob(b.to_vec()),
            });
        }
        out.push(Row { names: names.clone(), values });
    }
    Ok(out)
}

/// Gives generation and body of each row to `f`, without a copy of them.
pub(crate) fn each(conn: &Connection, sql: &str, params: &[Value], f: &mut dyn FnMut(i64, &str) -> Result<()>) -> Result<()> {
    let mut stmt = conn.prepare_cached(&positional(sql)).map_err(map)?;
    let mut rows = stmt.query(rusqlite::params_from_iter(params.iter().map(Param))).map_err(map)?;
    while let Some(row) = rows.next().map_err(map)? {
        let generation = row.get_ref(0).map_err(map)?.as_i64();
        let body = row.get_ref(1).map_err(map)?;
        match (generation, body.as_str()) {
            (Ok(generation), Ok(body)) => f(generation, body)?,
            _ => return Err(Error::internal("unexpected row of a record")),
        }
    }
    Ok(())
}

pub(crate) fn exec(conn: &Connection, sql: &str, params: &[Value]) -> Result<u64> {
    let mut stmt = conn.prepare_cached(&positional(sql)).map_err(map)?;
    let n = stmt.execute(rusqlite::params_from_iter(params.iter().map(Param))).map_err(map)?;
    Ok(n as u64)
}
