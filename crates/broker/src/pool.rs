//! Open databases, kept for the next request: opening one costs more than most queries.
//!
//! SQLite's own locks are POSIX locks, which a process loses when it closes *any* descriptor of the
//! file. Nothing in this program may therefore open a database file by other means than this pool
//! while it can be in use; whole files are copied with `VACUUM INTO` (see [`crate::Db::copy_to`]).

use crate::error::{BrokerError, Result};
use md5::{Digest, Md5};
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a statement waits for another process's transaction (upstream: `BROKER_TIMEOUT`).
const BUSY: Duration = Duration::from_secs(25);
/// Page cache of one connection in KiB: holds a container of some 30,000 objects.
const CACHE_KIB: i64 = 8_192;
const STATEMENTS: usize = 48;

#[derive(Default)]
struct Idle {
    by_path: HashMap<PathBuf, Vec<(u64, Kept)>>,
    /// Oldest first; entries already taken out are skipped.
    order: VecDeque<(u64, PathBuf)>,
    count: usize,
    next: u64,
}

struct Kept {
    conn: Connection,
    /// Device and inode: upstream's replicator replaces database files by renaming.
    file: (u64, u64),
}

/// A bounded set of idle connections, the least recently used closed first.
pub struct Pool {
    pub(crate) env: caelum_base::Env,
    idle: Mutex<Idle>,
    capacity: usize,
}

impl Pool {
    /// `capacity`: idle connections kept (two descriptors and up to 8 MiB each).
    pub fn new(env: caelum_base::Env, capacity: usize) -> Arc<Self> {
        Arc::new(Self { env, idle: Mutex::default(), capacity })
    }

    pub fn env(&self) -> &caelum_base::Env {
        &self.env
    }

    /// The clock in the store's unit.
    pub fn now(&self) -> caelum_swiftkit::Timestamp {
        caelum_swiftkit::Timestamp::at(self.env.now())
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().expect("no holder of this lock panics")
    }

    /// A connection to the database. Errors: `Missing`, or SQLite's.
    pub(crate) fn get(self: &Arc<Self>, path: &Path) -> Result<Pooled> {
        let Ok(meta) = std::fs::metadata(path) else { return Err(BrokerError::Missing(path.to_path_buf())) };
        let file = (meta.dev(), meta.ino());
        loop {
            let found = {
                let mut idle = self.idle();
                let found = idle.by_path.get_mut(path).and_then(Vec::pop);
                if found.is_some() {
                    idle.count -= 1;
                }
                found
            };
            match found {
                Some((_, kept)) if kept.file == file => return Ok(self.pooled(path, kept)),
                Some(_) => {}
                None => break,
            }
        }
        let conn = open(path, false)?;
        upgrade(&conn)?;
        Ok(self.pooled(path, Kept { conn, file }))
    }

    fn pooled(self: &Arc<Self>, path: &Path, kept: Kept) -> Pooled {
        Pooled { pool: self.clone(), path: path.to_path_buf(), kept: Some(kept) }
    }

    fn put_back(&self, path: PathBuf, kept: Kept) {
        let mut closed = Vec::new();
        let mut idle = self.idle();
        let id = idle.next;
        idle.next += 1;
        idle.order.push_back((id, path.clone()));
        idle.by_path.entry(path).or_default().push((id, kept));
        idle.count += 1;
        while idle.count > self.capacity || idle.order.len() > 8 * self.capacity.max(8) {
            let Some((old, path)) = idle.order.pop_front() else { break };
            let Some(list) = idle.by_path.get_mut(&path) else { continue };
            if let Some(at) = list.iter().position(|(id, _)| *id == old) {
                closed.push(list.remove(at));
                if list.is_empty() {
                    idle.by_path.remove(&path);
                }
                idle.count -= 1;
            }
        }
        drop(idle);
        // Closing does I/O: not under the pool's lock.
        drop(closed);
    }

    /// Idle connections at the moment.
    pub fn idle_count(&self) -> usize {
        self.idle().count
    }

    /// Closes idle connections to files in a directory (before it is moved or removed).
    pub fn forget(&self, dir: &Path) {
        let mut idle = self.idle();
        let gone: Vec<PathBuf> = idle.by_path.keys().filter(|p| p.starts_with(dir)).cloned().collect();
        let mut closed = Vec::new();
        for path in gone {
            if let Some(list) = idle.by_path.remove(&path) {
                idle.count -= list.len();
                closed.push(list);
            }
        }
        drop(idle);
        drop(closed);
    }
}

/// A connection on loan; goes back to the pool when dropped, any open transaction undone.
pub(crate) struct Pooled {
    pool: Arc<Pool>,
    path: PathBuf,
    kept: Option<Kept>,
}

impl Pooled {
    /// Closes it instead of giving it back.
    pub(crate) fn discard(mut self) {
        self.kept = None;
    }
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.kept.as_ref().expect("taken only on drop").conn
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        if !kept.conn.is_autocommit() && kept.conn.execute_batch("ROLLBACK").is_err() {
            return;
        }
        self.pool.put_back(std::mem::take(&mut self.path), kept);
    }
}

/// Brings the table of shard ranges up to date in containers from before it (2018) or its last columns
/// (2020, 2021), as upstream does when it first needs them.
fn upgrade(conn: &Connection) -> Result<()> {
    let columns = |c: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut st = c.prepare("SELECT name FROM pragma_table_info('shard_range')")?;
        let names = st.query_map([], |r| r.get(0))?;
        names.collect()
    };
    let missing = |have: &[String]| !["reported", "tombstones"].iter().all(|c| have.iter().any(|h| h == c));
    let is_container = || conn.prepare("SELECT 1 FROM sqlite_master WHERE name = 'container_info'")?.exists([]);
    if !missing(&columns(conn)?) || !is_container()? {
        return Ok(());
    }
    let tx = rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let have = columns(&tx)?;
    if have.is_empty() {
        tx.execute_batch(crate::schema::SHARD_RANGE)?;
    } else {
        for (column, default) in [("reported", 0), ("tombstones", -1)] {
            if !have.iter().any(|h| h == column) {
                tx.execute_batch(&format!("ALTER TABLE shard_range ADD COLUMN {column} INTEGER DEFAULT {default}"))?;
            }
        }
    }
    tx.commit()?;
    Ok(())
}

/// Opens a database as upstream does: rollback journal, `synchronous = NORMAL`, the `chexor`
/// function its triggers call.
pub(crate) fn open(path: &Path, create: bool) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    if create {
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA journal_mode = MEMORY;")?;
    } else {
        conn.busy_timeout(BUSY)?;
        conn.execute_batch(&format!(
            "PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA journal_mode = DELETE; PRAGMA cache_size = -{CACHE_KIB};"
        ))?;
    }
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    conn.create_scalar_function("chexor", 3, flags, |ctx| {
        let old = value_text(ctx.get_raw(0));
        let name = value_text(ctx.get_raw(1));
        let stamp = value_text(ctx.get_raw(2));
        Ok(chexor(&old, &name, &stamp))
    })?;
    Ok(conn)
}

/// The hash over all rows of a database, after a row has come or gone: exclusive-or, so that order
/// does not matter. `old` is 32 hexadecimal digits.
pub fn chexor(old: &str, name: &str, stamp: &str) -> String {
    let mut md5 = Md5::new();
    md5.update(name.as_bytes());
    md5.update(b"-");
    md5.update(stamp.as_bytes());
    let digest: [u8; 16] = md5.finalize().into();
    let old = u128::from_str_radix(old.trim(), 16).unwrap_or(0);
    format!("{:032x}", old ^ u128::from_be_bytes(digest))
}

/// The text of a value whatever its type.
pub(crate) fn value_text(v: ValueRef<'_>) -> String {
    match v {
        ValueRef::Null => String::new(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(f) => f.to_string(),
        ValueRef::Text(t) | ValueRef::Blob(t) => String::from_utf8_lossy(t).into_owned(),
    }
}

/// The number in a value whatever its type; 0 when there is none.
pub(crate) fn value_int(v: ValueRef<'_>) -> i64 {
    match v {
        ValueRef::Integer(i) => i,
        // Counters beyond 2^53 do not occur.
        ValueRef::Real(f) => f as i64,
        ValueRef::Text(t) => std::str::from_utf8(t).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0),
        _ => 0,
    }
}
