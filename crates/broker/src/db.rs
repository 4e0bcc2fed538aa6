//! What account and container databases have in common.

use crate::error::{At, BrokerError, Result};
use crate::lock::{DirLock, lock_directory};
use crate::paths::device_of;
use crate::pool::{Pool, Pooled, open, value_int, value_text};
use crate::{pending, schema};
use caelum_swiftkit::Timestamp;
use caelum_swiftkit::pickle::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Which of the two a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Account,
    Container,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Container => "container",
        }
    }

    /// The directory below a device.
    pub fn datadir(self) -> &'static str {
        match self {
            Self::Account => crate::paths::ACCOUNT_DIR,
            Self::Container => crate::paths::CONTAINER_DIR,
        }
    }

    /// The table (or view) of the database's own facts.
    pub(crate) fn stat(self) -> &'static str {
        match self {
            Self::Account => "account_stat",
            Self::Container => "container_stat",
        }
    }

    /// The table of the rows it holds.
    pub(crate) fn rows(self) -> &'static str {
        match self {
            Self::Account => "container",
            Self::Container => "object",
        }
    }

    /// The column that says how old a deleted row is.
    pub(crate) fn reclaim_column(self) -> &'static str {
        match self {
            Self::Account => "delete_timestamp",
            Self::Container => "created_at",
        }
    }
}

/// A sync point of another replica: up to which of its rows we have them all (incoming), or it has
/// ours (outgoing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncPoint {
    pub remote_id: String,
    pub sync_point: i64,
    /// Seconds since 1970 as text.
    pub updated_at: String,
}

/// How long a request waits for the directory's lock (upstream: `pending_timeout`).
pub const PENDING_TIMEOUT: Duration = Duration::from_secs(10);
/// Deleted rows looked at in one transaction of [`Db::reclaim_rows`].
const RECLAIM_PAGE: i64 = 10_000;

/// One database file with its `.pending` file.
#[derive(Clone)]
pub struct Db {
    pub(crate) pool: Arc<Pool>,
    pub(crate) kind: Kind,
    /// `HASH.db`, also where the pending file is named after; for a sharded container the file
    /// itself is [`Self::file`].
    base: PathBuf,
    file: PathBuf,
    pub pending_timeout: Duration,
    /// Readers of statistics do without pending rows when the lock is not to be had.
    pub stale_reads_ok: bool,
    /// The retiring half of a sharding container takes no more rows.
    pub(crate) skip_commits: bool,
}

impl Db {
    pub(crate) fn new(pool: &Arc<Pool>, kind: Kind, base: PathBuf, file: PathBuf) -> Self {
        Self { pool: pool.clone(), kind, base, file, pending_timeout: PENDING_TIMEOUT, stale_reads_ok: false, skip_commits: false }
    }

    /// The database file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn set_file(&mut self, file: PathBuf) {
        self.file = file;
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    pub fn dir(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// The clock, for times that this node sets itself.
    pub fn now(&self) -> Timestamp {
        self.pool.now()
    }

    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    pub(crate) fn pending_file(&self) -> PathBuf {
        let mut name = self.base.as_os_str().to_owned();
        name.push(".pending");
        PathBuf::from(name)
    }

    pub(crate) fn lock(&self) -> Result<DirLock> {
        lock_directory(self.dir(), self.pending_timeout)
    }

    /// Runs `f` on a connection. A damaged database is moved to the device's quarantine.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let conn = match self.pool.get(&self.file) {
            Ok(conn) => conn,
            Err(BrokerError::Sqlite(e)) => return Err(self.judge(e)),
            Err(e) => return Err(e),
        };
        self.run(conn, f)
    }

    fn run<T>(&self, conn: Pooled, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        match f(&conn) {
            Err(BrokerError::Sqlite(e)) if damage(&e).is_some() => {
                conn.discard();
                Err(self.judge(e))
            }
            other => other,
        }
    }

    /// Runs `f` in one writing transaction.
    pub(crate) fn write<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with(|conn| {
            let tx = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            let out = f(&tx)?;
            tx.commit()?;
            Ok(out)
        })
    }

    fn judge(&self, e: rusqlite::Error) -> BrokerError {
        match damage(&e) {
            Some(reason) => match self.quarantine(reason) {
                Ok(e) | Err(e) => e,
            },
            None => BrokerError::Sqlite(e),
        }
    }

    /// Moves the database's directory to `DEVICE/quarantined/KIND/HASH`, so that the replicator
    /// brings a good copy. Returns the error to report.
    pub fn quarantine(&self, reason: &str) -> Result<BrokerError> {
        let dir = self.dir();
        let Some(device) = device_of(&self.file) else {
            return Ok(BrokerError::Quarantined(format!("{}: {reason}", self.file.display())));
        };
        self.pool.forget(dir);
        let to = device.join("quarantined").join(self.kind.datadir());
        std::fs::create_dir_all(&to).at(&to)?;
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut target = to.join(&name);
        if std::fs::rename(dir, &target).is_err() {
            target = to.join(format!("{name}-{}", self.pool.env.hex_id()));
            std::fs::rename(dir, &target).at(dir)?;
        }
        let detail = format!("Quarantined {} to {} due to {reason}", dir.display(), target.display());
        tracing::error!("{detail}");
        Ok(BrokerError::Quarantined(detail))
    }

    /// Creates the database: written beside its place and moved there when complete. `fill` makes
    /// the tables of its kind. Errors: `Exists` when another was faster.
    pub(crate) fn create(&self, fill: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let dir = self.dir();
        std::fs::create_dir_all(dir).at(dir)?;
        let tmp = dir.join(format!("{}.tmp", self.pool.env.hex_id()));
        let made = self.fill(&tmp, fill).and_then(|()| {
            let _lock = self.lock()?;
            if self.file.exists() {
                return Err(BrokerError::Exists(self.file.clone()));
            }
            std::fs::rename(&tmp, &self.file).at(&self.file)?;
            sync_dir(dir)
        });
        if made.is_err() {
            // The temporary file may not exist; nothing else can be done about it here.
            let _ = std::fs::remove_file(&tmp);
        }
        made
    }

    fn fill(&self, tmp: &Path, fill: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let conn = open(tmp, true)?;
        let tx = rusqlite::Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)?;
        tx.execute_batch(schema::SYNC)?;
        fill(&tx)?;
        tx.commit()?;
        conn.close().map_err(|(_, e)| BrokerError::Sqlite(e))?;
        // Nobody else has this file open, so closing it loses no lock.
        std::fs::File::open(tmp).and_then(|f| f.sync_all()).at(tmp)
    }

    /// `UUID-DEVICE`: tells replicas apart.
    pub(crate) fn new_db_id(&self) -> String {
        let device = device_of(&self.file).and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        format!("{}-{}", self.pool.env.uuid(), device.unwrap_or_default())
    }

    // ---- rows on their way into the database

    /// Appends rows to the pending file; beyond its cap, merges instead. All rows of one call cost one
    /// lock. `merge` is given what was pending and the new rows.
    pub(crate) fn put_rows<R>(
        &self,
        rows: Vec<R>,
        encode: impl Fn(&R) -> Vec<Value>,
        decode: impl Fn(&[Value]) -> Option<R>,
        merge: impl FnOnce(Vec<R>) -> Result<()>,
    ) -> Result<()> {
        if !self.exists() || self.skip_commits {
            return Err(BrokerError::Missing(self.file.clone()));
        }
        let path = self.pending_file();
        let _lock = self.lock()?;
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        if size > pending::PENDING_CAP {
            return self.commit_locked(rows, decode, merge);
        }
        let mut text = String::with_capacity(rows.len() * 256);
        for row in &rows {
            text.push_str(&pending::encode(encode(row)));
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path).at(&path)?;
        file.write_all(text.as_bytes()).at(&path)
    }

    /// Merges what is pending, and `more`, with the directory's lock held by the caller.
    fn commit_locked<R>(
        &self,
        more: Vec<R>,
        decode: impl Fn(&[Value]) -> Option<R>,
        merge: impl FnOnce(Vec<R>) -> Result<()>,
    ) -> Result<()> {
        let path = self.pending_file();
        let data = match std::fs::read(&path) {
            Ok(data) => data,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).at(&path),
        };
        let mut rows: Vec<R> = more;
        for entry in pending::decode(&data, &path) {
            match decode(&entry) {
                Some(row) => rows.push(row),
                None => tracing::error!(file = %path.display(), "pending entry of another form skipped"),
            }
        }
        if !rows.is_empty() {
            merge(rows)?;
        }
        if !data.is_empty() {
            // Only after the transaction: a crash in between merges the rows twice, which changes nothing.
            OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(0)).at(&path)?;
        }
        Ok(())
    }

    /// Merges what is pending before a read.
    pub(crate) fn commit_pending<R>(&self, decode: impl Fn(&[Value]) -> Option<R>, merge: impl FnOnce(Vec<R>) -> Result<()>) -> Result<()> {
        if self.skip_commits || std::fs::metadata(self.pending_file()).map_or(0, |m| m.len()) == 0 {
            return Ok(());
        }
        let done = self.lock().and_then(|_lock| self.commit_locked(Vec::new(), decode, merge));
        match done {
            Err(e) if self.stale_reads_ok && is_busy(&e) => Ok(()),
            other => other,
        }
    }

    // ---- sync points and identity

    /// -1 when the other is not known.
    pub fn get_sync(&self, id: &str, incoming: bool) -> Result<i64> {
        let sql = format!("SELECT sync_point FROM {}_sync WHERE remote_id = ?", direction(incoming));
        self.with(|c| Ok(c.prepare_cached(&sql)?.query_row([id], |r| r.get(0)).optional()?.unwrap_or(-1)))
    }

    pub fn get_syncs(&self, incoming: bool) -> Result<Vec<SyncPoint>> {
        let sql = format!("SELECT remote_id, sync_point, updated_at FROM {}_sync", direction(incoming));
        self.with(|c| {
            let mut st = c.prepare_cached(&sql)?;
            let rows = st.query_map([], |r| {
                Ok(SyncPoint {
                    remote_id: value_text(r.get_ref(0)?),
                    sync_point: value_int(r.get_ref(1)?),
                    updated_at: value_text(r.get_ref(2)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Keeps the higher point of each.
    pub fn merge_syncs(&self, points: &[(String, i64)], incoming: bool) -> Result<()> {
        self.write(|c| {
            for (id, point) in points {
                merge_sync(c, id, *point, incoming)?;
            }
            Ok(())
        })
    }

    /// The highest row number ever given; -1 when none was.
    pub fn max_row(&self, table: Option<&str>) -> Result<i64> {
        let table = table.unwrap_or(self.kind.rows());
        self.with(|c| {
            let mut st = c.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = ? LIMIT 1")?;
            Ok(st.query_row([table], |r| r.get(0)).optional()?.unwrap_or(-1))
        })
    }

    /// Gives a copied database an identity of its own; `remote_id` is the one it was copied from.
    pub(crate) fn new_identity(&self, remote_id: &str, also: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let id = self.new_db_id();
        let (stat, rows) = (self.kind.stat(), self.kind.rows());
        self.write(|c| {
            c.execute(&format!("UPDATE {stat} SET id = ?"), [&id])?;
            let point: i64 =
                c.query_row(&format!("SELECT ROWID FROM {rows} ORDER BY ROWID DESC LIMIT 1"), [], |r| r.get(0)).optional()?.unwrap_or(-1);
            c.execute("INSERT OR REPLACE INTO incoming_sync (sync_point, remote_id) VALUES (?, ?)", params![point, remote_id])?;
            also(c)
        })
    }

    /// A consistent copy of the whole database, written to `to` (which must not exist) and synced.
    pub fn copy_to(&self, to: &Path) -> Result<()> {
        self.with(|c| {
            c.execute("VACUUM INTO ?", [to.to_string_lossy()])?;
            Ok(())
        })?;
        std::fs::File::open(to).and_then(|f| f.sync_all()).at(to)
    }

    // ---- times

    pub fn update_put_timestamp(&self, timestamp: &str) -> Result<()> {
        let sql = format!("UPDATE {} SET put_timestamp = ?1 WHERE put_timestamp < ?1", self.kind.stat());
        self.write(|c| Ok(c.execute(&sql, [timestamp]).map(|_| ())?))
    }

    pub fn update_status_changed_at(&self, timestamp: &str) -> Result<()> {
        self.write(|c| status_changed(c, self.kind, timestamp))
    }

    pub(crate) fn mark_deleted(&self, timestamp: &str) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET delete_timestamp = ?1, status = 'DELETED', status_changed_at = ?1 WHERE delete_timestamp < ?1",
            self.kind.stat()
        );
        self.write(|c| Ok(c.execute(&sql, [timestamp]).map(|_| ())?))
    }

    // ---- reclaim

    /// Removes rows deleted before `age`, a page per transaction. Returns (removed, deleted rows left).
    pub(crate) fn reclaim_rows(&self, age: Timestamp) -> Result<(usize, usize)> {
        let (table, column) = (self.kind.rows(), self.kind.reclaim_column());
        let next = format!("SELECT name FROM {table} WHERE deleted = 1 AND name >= ? ORDER BY name LIMIT 1 OFFSET {RECLAIM_PAGE}");
        let page = format!("DELETE FROM {table} WHERE deleted = 1 AND name >= ? AND {column} < ? AND name < ?");
        let tail = format!("DELETE FROM {table} WHERE deleted = 1 AND name >= ? AND {column} < ?");
        let age = age.internal();
        let (mut marker, mut removed) = (String::new(), 0);
        loop {
            let end = self.write(|c| {
                let end: Option<String> = c.query_row(&next, [&marker], |r| r.get(0)).optional()?;
                removed += match &end {
                    Some(end) => c.execute(&page, params![marker, age, end])?,
                    None => c.execute(&tail, params![marker, age])?,
                };
                Ok(end)
            })?;
            match end {
                Some(end) => marker = end,
                None => break,
            }
        }
        let left: i64 = self.with(|c| Ok(c.query_row(&format!("SELECT COUNT(*) FROM {table} WHERE deleted = 1"), [], |r| r.get(0))?))?;
        Ok((removed, usize::try_from(left).unwrap_or(0)))
    }
}

pub(crate) fn merge_sync(c: &Connection, id: &str, point: i64, incoming: bool) -> Result<()> {
    let table = direction(incoming);
    let update = format!("UPDATE {table}_sync SET sync_point = max(?1, sync_point) WHERE remote_id = ?2");
    if c.prepare_cached(&update)?.execute(params![point, id])? == 0 {
        let insert = format!("INSERT INTO {table}_sync (sync_point, remote_id) VALUES (?1, ?2)");
        c.prepare_cached(&insert)?.execute(params![point, id])?;
    }
    Ok(())
}

pub(crate) fn status_changed(c: &Connection, kind: Kind, timestamp: &str) -> Result<()> {
    let sql = format!("UPDATE {} SET status_changed_at = ?1 WHERE status_changed_at < ?1", kind.stat());
    c.execute(&sql, [timestamp])?;
    Ok(())
}

fn direction(incoming: bool) -> &'static str {
    if incoming { "incoming" } else { "outgoing" }
}

/// Upstream's reasons for quarantine; `None` for errors that leave the file as it is.
fn damage(e: &rusqlite::Error) -> Option<&'static str> {
    match e.sqlite_error_code()? {
        ErrorCode::DatabaseCorrupt => Some("malformed database"),
        ErrorCode::NotADatabase => Some("corrupted database"),
        ErrorCode::SystemIoFailure => Some("disk error while accessing database"),
        _ => None,
    }
}

/// Whether waiting might have helped.
pub(crate) fn is_busy(e: &BrokerError) -> bool {
    match e {
        BrokerError::Locked(_) => true,
        BrokerError::Sqlite(e) => {
            matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
        }
        _ => false,
    }
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    std::fs::File::open(dir).and_then(|f| f.sync_all()).at(dir)
}

/// A count that upstream's databases carry as 0, '0', '' or nothing.
pub(crate) fn zero(count: i64) -> bool {
    count == 0
}

/// Later of two stored times, compared as times.
pub(crate) fn later(a: &str, b: &str) -> bool {
    stamp(a) > stamp(b)
}

/// A stored time; the defaults (`0`, empty) are the beginning of time.
pub(crate) fn stamp(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or(Timestamp::ZERO)
}
