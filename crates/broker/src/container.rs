//! A container's database: object rows, statistics per storage policy, and (in [`crate::shards`]) the
//! ranges it is sharded into.

use crate::db::{Db, Kind, later, merge_sync, stamp, status_changed, zero};
use crate::error::{BrokerError, Result};
use crate::listing::{Found, Listing, Source, walk};
use crate::metadata::Metadata;
use crate::paths::{db_files, parse_db_filename, with_epoch};
use crate::pool::{Pool, value_int, value_text};
use crate::record::ObjectRow;
use crate::schema;
use caelum_swiftkit::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far a container's sharding has come, as its files tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbState {
    NotFound,
    Unsharded,
    Sharding,
    Sharded,
    Collapsed,
}

impl DbState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Unsharded => "unsharded",
            Self::Sharding => "sharding",
            Self::Sharded => "sharded",
            Self::Collapsed => "collapsed",
        }
    }
}

/// What a container's database says of itself.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    pub account: String,
    pub container: String,
    pub created_at: String,
    pub put_timestamp: String,
    pub delete_timestamp: String,
    pub status: String,
    pub status_changed_at: String,
    pub object_count: i64,
    pub bytes_used: i64,
    pub reported_put_timestamp: String,
    pub reported_delete_timestamp: String,
    pub reported_object_count: i64,
    pub reported_bytes_used: i64,
    pub hash: String,
    pub id: String,
    pub x_container_sync_point1: i64,
    pub x_container_sync_point2: i64,
    pub storage_policy_index: i64,
    pub db_state: DbState,
}

impl ContainerInfo {
    /// Deleted later than made, and empty.
    pub fn is_deleted(&self) -> bool {
        zero(self.object_count) && later(&self.delete_timestamp, &self.put_timestamp)
    }
}

const INFO: &str = "SELECT account, container, created_at, put_timestamp, delete_timestamp, status, status_changed_at, \
    object_count, bytes_used, reported_put_timestamp, reported_delete_timestamp, reported_object_count, \
    reported_bytes_used, hash, id, x_container_sync_point1, x_container_sync_point2, storage_policy_index \
    FROM container_stat";

/// A state of a file's rows: the database's identity, the hash over its rows, the last row's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsVersion(String, String, i64);

/// Which rows a listing takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    #[default]
    Live,
    Deleted,
    Both,
}

/// One line of a listing.
pub enum Entry<'a> {
    Object(Object<'a>),
    Subdir(&'a str),
}

/// An object's row as listed.
pub struct Object<'a> {
    pub name: &'a str,
    /// With the other times as differences.
    pub created_at: &'a str,
    pub size: i64,
    pub content_type: &'a str,
    pub etag: &'a str,
    pub deleted: bool,
    pub policy: i64,
}

/// A container's database. Cheap to make: one for each request.
#[derive(Clone)]
pub struct ContainerBroker {
    db: Db,
    files: Vec<PathBuf>,
    /// Stands for one file, whatever others there are.
    forced: bool,
}

impl Deref for ContainerBroker {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

/// Metadata that outlives a container's deletion.
const KEPT_META: [&str; 3] = ["x-container-sysmeta-shard-quoted-root", "x-container-sysmeta-shard-root", "x-container-sysmeta-sharding"];

impl ContainerBroker {
    /// The database whose file (of any epoch) lies at `path`, whether it exists or not.
    /// Errors: the directory cannot be read.
    pub fn new(pool: &Arc<Pool>, path: &Path) -> Result<Self> {
        let base = with_epoch(path, None);
        let files = db_files(&base)?;
        let file = files.last().cloned().unwrap_or_else(|| path.to_path_buf());
        Ok(Self { db: Db::new(pool, Kind::Container, base, file), files, forced: false })
    }

    /// Exactly this file.
    pub(crate) fn forced(pool: &Arc<Pool>, path: &Path, skip_commits: bool) -> Self {
        let mut db = Db::new(pool, Kind::Container, with_epoch(path, None), path.to_path_buf());
        db.skip_commits = skip_commits;
        Self { db, files: vec![path.to_path_buf()], forced: true }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn db_mut(&mut self) -> &mut Db {
        &mut self.db
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Looks again which files there are.
    pub fn reload(&mut self) -> Result<()> {
        if !self.forced {
            self.files = db_files(self.db.base())?;
            let file = self.files.last().cloned().unwrap_or_else(|| self.db.base().to_path_buf());
            self.db.set_file(file);
        }
        Ok(())
    }

    pub fn epoch(&self) -> Option<String> {
        parse_db_filename(self.db.file()).1
    }

    /// Creates the database. Errors: `Exists`.
    pub fn initialize(&mut self, account: &str, container: &str, put_timestamp: &str, policy: i64) -> Result<()> {
        if account.is_empty() || container.is_empty() {
            return Err(BrokerError::Invalid("a database needs the names of its account and container".into()));
        }
        let (created, id) = (self.db.pool.now().normal(), self.db.new_db_id());
        self.db.create(|c| {
            c.execute_batch(schema::CONTAINER)?;
            c.execute("INSERT INTO policy_stat (storage_policy_index) VALUES (?)", [policy])?;
            c.execute(
                "INSERT INTO container_info (account, container, created_at, id, put_timestamp, status_changed_at, \
                 storage_policy_index) VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
                params![account, container, created, id, put_timestamp, policy],
            )?;
            Ok(c.execute_batch(schema::SHARD_RANGE)?)
        })?;
        self.reload()
    }

    // ---- rows

    pub fn put_object(&self, row: ObjectRow) -> Result<()> {
        self.put_objects(vec![row])
    }

    /// Many reports for the price of one lock.
    pub fn put_objects(&self, rows: Vec<ObjectRow>) -> Result<()> {
        self.db.put_rows(rows, ObjectRow::to_pending, ObjectRow::from_pending, |rows| self.merge_items(rows, None))
    }

    pub fn commit_pending(&self) -> Result<()> {
        self.db.commit_pending(ObjectRow::from_pending, |rows| self.merge_items(rows, None))
    }

    /// Merges rows into the table: for each name and policy the newest of every part. With `source`, the
    /// rows come from that replica in order, and its sync point moves to the last one's number.
    pub fn merge_items(&self, rows: Vec<ObjectRow>, source: Option<&str>) -> Result<()> {
        let Some(last) = rows.last().map(|r| r.row_id) else { return Ok(()) };
        self.db.write(|c| {
            merge_objects(c, rows)?;
            source.map_or(Ok(()), |id| merge_sync(c, id, last, true))
        })
    }

    /// Rows after number `start` in order of arrival.
    pub fn get_items_since(&self, start: i64, count: usize) -> Result<Vec<ObjectRow>> {
        self.commit_pending()?;
        self.rows_where("ROWID > ? ORDER BY ROWID ASC LIMIT ?", vec![start.into(), limit(count)])
    }

    /// Rows of another storage policy than the container's.
    pub fn get_misplaced_since(&self, start: i64, count: usize) -> Result<Vec<ObjectRow>> {
        self.commit_pending()?;
        self.rows_where(
            "ROWID > ? AND storage_policy_index != (SELECT storage_policy_index FROM container_stat LIMIT 1) \
             ORDER BY ROWID ASC LIMIT ?",
            vec![start.into(), limit(count)],
        )
    }

    fn rows_where(&self, condition: &str, args: Vec<Value>) -> Result<Vec<ObjectRow>> {
        let sql = format!("SELECT {ROW_COLUMNS} FROM object WHERE {condition}");
        self.db.with(|c| {
            let mut st = c.prepare_cached(&sql)?;
            let rows = st.query_map(rusqlite::params_from_iter(args), read_row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Objects in a range of names, of all policies, with their deletions: what sharding moves.
    pub fn get_objects(&self, limit: usize, marker: &str, end_marker: &str, rows: Rows, since: i64) -> Result<Vec<ObjectRow>> {
        let q = Listing { limit, marker: marker.into(), end_marker: end_marker.into(), allow_reserved: true, ..Listing::default() };
        let mut out = Vec::new();
        self.list(&q, None, rows, since, &mut |entry| {
            if let Entry::Object(o) = entry {
                out.push(ObjectRow {
                    name: o.name.into(),
                    created_at: o.created_at.into(),
                    size: o.size,
                    content_type: o.content_type.into(),
                    etag: o.etag.into(),
                    deleted: i64::from(o.deleted),
                    storage_policy_index: o.policy,
                    ..ObjectRow::default()
                });
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// The state of the rows in this file: as long as it is the same, so are they. Every row comes with a new number and
    /// every one that comes or goes changes the hash over all. What is pending is not looked at.
    pub fn rows_version(&self) -> Result<RowsVersion> {
        const SQL: &str = "SELECT id, hash, (SELECT seq FROM sqlite_sequence WHERE name = 'object') FROM container_stat";
        self.db.with(|c| {
            let read = |r: &Row<'_>| Ok(RowsVersion(value_text(r.get_ref(0)?), value_text(r.get_ref(1)?), value_int(r.get_ref(2)?)));
            Ok(c.prepare_cached(SQL)?.query_row([], read)?)
        })
    }

    /// Lists objects of one policy in order of name.
    pub fn list_objects(&self, q: &Listing, policy: i64, f: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
        self.list(q, Some(policy), Rows::Live, 0, f)
    }

    fn list(&self, q: &Listing, policy: Option<i64>, rows: Rows, since: i64, f: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
        self.commit_pending()?;
        let mut conditions = String::from(match rows {
            Rows::Live => "deleted = 0",
            Rows::Deleted => "deleted = 1",
            Rows::Both => "deleted IN (0, 1)",
        });
        let mut args: Vec<Value> = Vec::new();
        if since > 0 {
            conditions.push_str(" AND ROWID > ?");
            args.push(since.into());
        }
        if let Some(policy) = policy {
            conditions.push_str(" AND storage_policy_index = ?");
            args.push(policy.into());
        }
        let known = policy.filter(|_| rows == Rows::Live);
        let source = Source {
            table: "object",
            // What the conditions fix need not be read.
            columns: match known {
                Some(_) => "name, created_at, size, content_type, etag",
                None => "name, created_at, size, content_type, etag, deleted, storage_policy_index",
            },
            conditions: &conditions,
            params: &args,
        };
        self.db.with(|c| {
            walk(c, q, &source, &mut |found| match found {
                Found::Subdir(dir) => f(Entry::Subdir(dir)),
                Found::Row(name, row) => {
                    let text = |i: usize| -> Result<_> { Ok(lossy(row.get_ref(i)?.as_bytes().unwrap_or_default())) };
                    let (created_at, content_type, etag) = (text(1)?, text(3)?, text(4)?);
                    f(Entry::Object(Object {
                        name,
                        created_at: &created_at,
                        size: value_int(row.get_ref(2)?),
                        content_type: &content_type,
                        etag: &etag,
                        deleted: if known.is_some() { false } else { value_int(row.get_ref(5)?) != 0 },
                        policy: match known {
                            Some(policy) => policy,
                            None => value_int(row.get_ref(6)?),
                        },
                    }))
                }
            })
        })
    }

    /// Removes rows with `lower` < name ≤ `upper` (empty: no bound), whatever their policy, up to a row number.
    pub fn remove_objects(&self, lower: &str, upper: &str, max_row: Option<i64>) -> Result<()> {
        let mut sql = String::from("DELETE FROM object WHERE deleted IN (0, 1)");
        let mut args: Vec<Value> = Vec::new();
        if let Some(max) = max_row {
            sql.push_str(" AND ROWID <= ?");
            args.push(max.into());
        }
        for (op, bound) in [(">", lower), ("<=", upper)] {
            if !bound.is_empty() {
                sql.push_str(&format!(" AND name {op} ?"));
                args.push(bound.to_string().into());
            }
        }
        self.db.write(|c| Ok(c.execute(&sql, rusqlite::params_from_iter(args)).map(|_| ())?))
    }

    // ---- facts

    /// Facts of this very file, pending rows merged.
    pub(crate) fn own_info(&self) -> Result<ContainerInfo> {
        self.commit_pending()?;
        let found = self.db.with(|c| Ok(c.prepare_cached(INFO)?.query_row([], read_info).optional()?))?;
        match found {
            Some(info) => Ok(info),
            None => Err(self.db.quarantine("missing row in container_stat table")?),
        }
    }

    /// Facts with the statistics of the whole container, whichever files they are in.
    pub fn get_info(&self) -> Result<ContainerInfo> {
        let mut info = self.own_info()?;
        info.db_state = self.db_state()?;
        if let Some((count, bytes)) = self.alternate_stats(info.db_state)? {
            (info.object_count, info.bytes_used) = (count, bytes);
        }
        Ok(info)
    }

    /// `None` when there is no database.
    pub fn info_if_exists(&self) -> Result<Option<ContainerInfo>> {
        if !self.db.exists() {
            return Ok(None);
        }
        self.get_info().map(Some)
    }

    fn alternate_stats(&self, state: DbState) -> Result<Option<(i64, i64)>> {
        Ok(match state {
            DbState::Sharding if !self.forced => {
                self.brokers().first().map(|b| b.own_info()).transpose()?.map(|i| (i.object_count, i.bytes_used))
            }
            DbState::Sharded if self.is_root()? => Some(self.shard_usage()?),
            _ => None,
        })
    }

    pub fn is_deleted(&self) -> Result<bool> {
        Ok(self.info_if_exists()?.is_none_or(|i| i.is_deleted()))
    }

    /// `account/container`.
    pub fn path(&self) -> Result<String> {
        self.db.with(|c| {
            let mut st = c.prepare_cached("SELECT account, container FROM container_stat")?;
            let (a, n) = st.query_row([], |r| Ok((value_text(r.get_ref(0)?), value_text(r.get_ref(1)?))))?;
            Ok(format!("{a}/{n}"))
        })
    }

    /// No live object in any policy, in any of the files, in any shard.
    pub fn is_empty(&self) -> Result<bool> {
        for broker in self.brokers() {
            broker.commit_pending()?;
            let max = broker.db.with(|c| {
                let mut st = c.prepare_cached("SELECT max(object_count) FROM policy_stat")?;
                Ok(st.query_row([], |r| Ok(value_int(r.get_ref(0)?)))?)
            })?;
            if !zero(max) {
                return Ok(false);
            }
        }
        if self.is_root()? && self.sharding_initiated()? {
            return Ok(self.shard_usage()?.0 <= 0);
        }
        Ok(true)
    }

    /// Marks the container deleted as of `timestamp`.
    pub fn delete_db(&self, timestamp: &str) -> Result<()> {
        self.db.clear_metadata(timestamp, &KEPT_META)?;
        self.db.mark_deleted(timestamp)
    }

    /// Statistics by policy: index → (objects, bytes).
    pub fn policy_stats(&self) -> Result<Vec<(i64, i64, i64)>> {
        self.db.with(|c| {
            let mut st = c.prepare_cached("SELECT storage_policy_index, object_count, bytes_used FROM policy_stat")?;
            let rows = st.query_map([], |r| Ok((value_int(r.get_ref(0)?), value_int(r.get_ref(1)?), value_int(r.get_ref(2)?))))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    pub fn storage_policy_index(&self) -> Result<i64> {
        self.db.with(|c| Ok(c.prepare_cached("SELECT storage_policy_index FROM container_stat")?.query_row([], |r| r.get(0))?))
    }

    pub fn set_storage_policy_index(&self, policy: i64, timestamp: &str) -> Result<()> {
        self.db.write(|c| {
            c.execute("INSERT OR IGNORE INTO policy_stat (storage_policy_index) VALUES (?)", [policy])?;
            c.execute(
                "UPDATE container_stat SET storage_policy_index = ?1, status_changed_at = MAX(?2, status_changed_at) \
                 WHERE storage_policy_index <> ?1",
                params![policy, timestamp],
            )?;
            Ok(())
        })
    }

    /// What the account has been told.
    pub fn reported(&self, put: &str, delete: &str, objects: i64, bytes: i64) -> Result<()> {
        self.db.write(|c| {
            c.execute(
                "UPDATE container_stat SET reported_put_timestamp = ?, reported_delete_timestamp = ?, \
                 reported_object_count = ?, reported_bytes_used = ?",
                params![put, delete, objects, bytes],
            )?;
            Ok(())
        })
    }

    /// Container synchronization's places; `None` leaves one as it is.
    pub fn set_sync_points(&self, point1: Option<i64>, point2: Option<i64>) -> Result<()> {
        self.db.write(|c| {
            c.execute(
                "UPDATE container_stat SET x_container_sync_point1 = coalesce(?, x_container_sync_point1), \
                 x_container_sync_point2 = coalesce(?, x_container_sync_point2)",
                params![point1, point2],
            )?;
            Ok(())
        })
    }

    pub fn reconciler_sync(&self) -> Result<i64> {
        self.db.with(|c| Ok(c.query_row("SELECT reconciler_sync_point FROM container_stat", [], |r| r.get(0))?))
    }

    pub fn update_reconciler_sync(&self, point: i64) -> Result<()> {
        self.db.write(|c| Ok(c.execute("UPDATE container_stat SET reconciler_sync_point = ?", [point]).map(|_| ())?))
    }

    pub fn merge_timestamps(&self, created_at: &str, put: &str, delete: &str) -> Result<()> {
        let stats = self.alternate_stats(self.db_state()?)?;
        let now = self.db.pool.now().normal();
        self.db.write(|c| {
            let deleted = |c: &Connection| -> Result<bool> {
                let mut info = c.prepare_cached(INFO)?.query_row([], read_info)?;
                if let Some((count, _)) = stats {
                    info.object_count = count;
                }
                Ok(info.is_deleted())
            };
            let before = deleted(c)?;
            merge_times(c, Kind::Container, created_at, put, delete)?;
            if deleted(c)? != before {
                status_changed(c, Kind::Container, &now)?;
            }
            Ok(())
        })
    }

    /// For a database copied from another node.
    pub fn new_id(&self, remote_id: &str) -> Result<()> {
        self.db.new_identity(remote_id, |c| {
            c.execute(
                "UPDATE container_stat SET reported_put_timestamp = 0, reported_delete_timestamp = 0, \
                 reported_object_count = 0, reported_bytes_used = 0",
                [],
            )?;
            Ok(())
        })
    }

    /// Removes rows deleted, metadata emptied and sync points unused before the given times. Returns
    /// (rows removed, deleted rows left).
    pub fn reclaim(&self, age: Timestamp, sync_age: Timestamp) -> Result<(usize, usize)> {
        self.commit_pending()?;
        let out = self.db.reclaim_rows(age)?;
        let own = self.path()?;
        self.db.write(|c| {
            self.db.reclaim_facts(c, age, sync_age)?;
            c.execute("DELETE FROM shard_range WHERE deleted = 1 AND timestamp < ? AND name != ?", params![sync_age.normal(), own])?;
            Ok(())
        })?;
        Ok(out)
    }

    /// Whether the whole database may go: deleted for longer than `reclaim_age`, and nothing in it.
    pub fn is_reclaimable(&self, before: Timestamp) -> Result<bool> {
        let info = self.get_info()?;
        let (put, delete) = (stamp(&info.put_timestamp), stamp(&info.delete_timestamp));
        if !(before > delete && delete > put) {
            return Ok(false);
        }
        if self.is_root()? && (self.has_other_shard_ranges()? || self.db_state()? == DbState::Sharding) {
            return Ok(false);
        }
        self.is_empty()
    }

    /// Metadata as [`Db::metadata`].
    pub fn metadata(&self) -> Result<Metadata> {
        self.db.metadata()
    }
}

/// Text of a column; checking what is nearly always valid first is much the faster way.
pub(crate) fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

const ROW_COLUMNS: &str = "name, created_at, size, content_type, etag, deleted, storage_policy_index, ROWID";

fn limit(n: usize) -> Value {
    Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn read_row(r: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    Ok(ObjectRow {
        name: value_text(r.get_ref(0)?),
        created_at: value_text(r.get_ref(1)?),
        size: value_int(r.get_ref(2)?),
        content_type: value_text(r.get_ref(3)?),
        etag: value_text(r.get_ref(4)?),
        deleted: value_int(r.get_ref(5)?),
        storage_policy_index: value_int(r.get_ref(6)?),
        row_id: value_int(r.get_ref(7)?),
        ..ObjectRow::default()
    })
}

fn read_info(r: &Row<'_>) -> rusqlite::Result<ContainerInfo> {
    let text = |i: usize| Ok::<_, rusqlite::Error>(value_text(r.get_ref(i)?));
    let int = |i: usize| Ok::<_, rusqlite::Error>(value_int(r.get_ref(i)?));
    Ok(ContainerInfo {
        account: text(0)?,
        container: text(1)?,
        created_at: text(2)?,
        put_timestamp: text(3)?,
        delete_timestamp: text(4)?,
        status: text(5)?,
        status_changed_at: text(6)?,
        object_count: int(7)?,
        bytes_used: int(8)?,
        reported_put_timestamp: text(9)?,
        reported_delete_timestamp: text(10)?,
        reported_object_count: int(11)?,
        reported_bytes_used: int(12)?,
        hash: text(13)?,
        id: text(14)?,
        x_container_sync_point1: int(15)?,
        x_container_sync_point2: int(16)?,
        storage_policy_index: int(17)?,
        db_state: DbState::Unsharded,
    })
}

pub(crate) fn merge_times(c: &Connection, kind: Kind, created_at: &str, put: &str, delete: &str) -> Result<()> {
    let sql = format!(
        "UPDATE {} SET created_at = MIN(?, created_at), put_timestamp = MAX(?, put_timestamp), \
         delete_timestamp = MAX(?, delete_timestamp)",
        kind.stat()
    );
    c.execute(&sql, params![created_at, put, delete])?;
    Ok(())
}

fn merge_objects(c: &Connection, rows: Vec<ObjectRow>) -> Result<()> {
    let find = format!("SELECT {ROW_COLUMNS} FROM object WHERE deleted IN (0, 1) AND name = ? AND storage_policy_index = ?");
    let mut find = c.prepare_cached(&find)?;
    // In the order of first appearance, as row numbers show the order to other replicas.
    let mut to_add: Vec<(ObjectRow, bool)> = Vec::with_capacity(rows.len());
    let mut at: HashMap<(String, i64), usize> = HashMap::new();
    for mut row in rows {
        let existing = find.query_row(params![row.name, row.storage_policy_index], read_row).optional()?;
        if !row.combine(existing.as_ref()) {
            continue;
        }
        match at.get(&(row.name.clone(), row.storage_policy_index)) {
            Some(i) => {
                row.combine(Some(&to_add[*i].0));
                to_add[*i].0 = row;
            }
            None => {
                at.insert((row.name.clone(), row.storage_policy_index), to_add.len());
                to_add.push((row, existing.is_some()));
            }
        }
    }
    let mut delete = c.prepare_cached("DELETE FROM object WHERE deleted IN (0, 1) AND name = ? AND storage_policy_index = ?")?;
    for (row, _) in to_add.iter().filter(|(_, replaces)| *replaces) {
        delete.execute(params![row.name, row.storage_policy_index])?;
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO object (name, created_at, size, content_type, etag, deleted, storage_policy_index) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (r, _) in &to_add {
        insert.execute(params![r.name, r.created_at, r.size, r.content_type, r.etag, r.deleted, r.storage_policy_index])?;
    }
    Ok(())
}
