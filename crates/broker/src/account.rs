//! An account's database: a row per container, statistics per storage policy.

use crate::container::merge_times;
use crate::db::{Db, Kind, later, merge_sync, stamp, status_changed, zero};
use crate::error::{BrokerError, Result};
use crate::listing::{Found, Listing, Source, walk};
use crate::pending;
use crate::pool::{Pool, value_int, value_text};
use crate::record::loose_int;
use crate::schema;
use caelum_swiftkit::Timestamp;
use caelum_swiftkit::pickle::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// What an account's database says of itself.
#[derive(Clone, Debug)]
pub struct AccountInfo {
    pub account: String,
    pub created_at: String,
    pub put_timestamp: String,
    pub delete_timestamp: String,
    pub status: String,
    pub status_changed_at: String,
    pub container_count: i64,
    pub object_count: i64,
    pub bytes_used: i64,
    pub hash: String,
    pub id: String,
}

impl AccountInfo {
    pub fn is_deleted(&self) -> bool {
        self.status == "DELETED" || zero(self.container_count) && later(&self.delete_timestamp, &self.put_timestamp)
    }

    /// Deleted on request, its containers perhaps still there.
    pub fn is_status_deleted(&self) -> bool {
        self.status == "DELETED" || self.delete_timestamp > self.put_timestamp
    }
}

const INFO: &str = "SELECT account, created_at, put_timestamp, delete_timestamp, status, status_changed_at, \
    container_count, object_count, bytes_used, hash, id FROM account_stat";

/// A container as its account knows it. The JSON form is the one replicas exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    #[serde(rename = "ROWID", default)]
    pub row_id: i64,
    pub name: String,
    pub put_timestamp: String,
    pub delete_timestamp: String,
    #[serde(deserialize_with = "loose_int")]
    pub object_count: i64,
    #[serde(deserialize_with = "loose_int")]
    pub bytes_used: i64,
    #[serde(deserialize_with = "loose_int")]
    pub deleted: i64,
    #[serde(default, deserialize_with = "loose_int")]
    pub storage_policy_index: i64,
}

impl ContainerRow {
    fn settle(mut self) -> Self {
        self.deleted = i64::from(later(&self.delete_timestamp, &self.put_timestamp) && zero(self.object_count));
        self
    }

    fn to_pending(&self) -> Vec<Value> {
        vec![
            Value::str(&self.name),
            Value::str(&self.put_timestamp),
            Value::str(&self.delete_timestamp),
            Value::Int(self.object_count),
            Value::Int(self.bytes_used),
            Value::Int(self.deleted),
            Value::Int(self.storage_policy_index),
        ]
    }

    fn from_pending(f: &[Value]) -> Option<Self> {
        Some(Self {
            row_id: 0,
            name: pending::text(f, 0)?,
            put_timestamp: pending::text(f, 1)?,
            delete_timestamp: pending::text(f, 2)?,
            object_count: pending::int(f, 3)?,
            bytes_used: pending::int(f, 4)?,
            deleted: pending::int(f, 5)?,
            storage_policy_index: pending::int(f, 6).unwrap_or(0),
        })
    }
}

/// One line of an account's listing.
pub enum AccountEntry<'a> {
    Container { name: &'a str, object_count: i64, bytes_used: i64, put_timestamp: &'a str, policy: i64 },
    Subdir(&'a str),
}

/// An account's database. Cheap to make: one for each request.
#[derive(Clone)]
pub struct AccountBroker {
    db: Db,
}

impl Deref for AccountBroker {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

impl AccountBroker {
    /// The database at `path`, whether it exists or not.
    pub fn new(pool: &Arc<Pool>, path: &Path) -> Self {
        Self { db: Db::new(pool, Kind::Account, path.to_path_buf(), path.to_path_buf()) }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn db_mut(&mut self) -> &mut Db {
        &mut self.db
    }

    /// Creates the database. Errors: `Exists`.
    pub fn initialize(&self, account: &str, put_timestamp: &str) -> Result<()> {
        if account.is_empty() {
            return Err(BrokerError::Invalid("a database needs the name of its account".into()));
        }
        let (created, id) = (self.db.pool.now().normal(), self.db.new_db_id());
        self.db.create(|c| {
            c.execute_batch(schema::ACCOUNT)?;
            c.execute(
                "UPDATE account_stat SET account = ?1, created_at = ?2, id = ?3, put_timestamp = ?4, status_changed_at = ?4",
                params![account, created, id, put_timestamp],
            )?;
            Ok(())
        })
    }

    /// What a container server reports. Whether the container counts as deleted follows from the rest.
    pub fn put_container(&self, row: ContainerRow) -> Result<()> {
        self.put_containers(vec![row])
    }

    pub fn put_containers(&self, rows: Vec<ContainerRow>) -> Result<()> {
        let rows = rows.into_iter().map(ContainerRow::settle).collect();
        self.db.put_rows(rows, ContainerRow::to_pending, ContainerRow::from_pending, |rows| self.merge_items(rows, None))
    }

    pub fn commit_pending(&self) -> Result<()> {
        self.db.commit_pending(ContainerRow::from_pending, |rows| self.merge_items(rows, None))
    }

    /// Merges rows: the later of each time, the newer report's counts.
    pub fn merge_items(&self, rows: Vec<ContainerRow>, source: Option<&str>) -> Result<()> {
        let Some(last) = rows.iter().map(|r| r.row_id).max() else { return Ok(()) };
        self.db.write(|c| {
            for row in rows {
                merge_container(c, row)?;
            }
            source.map_or(Ok(()), |id| merge_sync(c, id, last, true))
        })
    }

    pub fn get_items_since(&self, start: i64, count: usize) -> Result<Vec<ContainerRow>> {
        self.commit_pending()?;
        let sql = format!("SELECT {ROW_COLUMNS} FROM container WHERE ROWID > ? ORDER BY ROWID ASC LIMIT ?");
        self.db.with(|c| {
            let mut st = c.prepare_cached(&sql)?;
            let rows = st.query_map(params![start, i64::try_from(count).unwrap_or(i64::MAX)], read_row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Lists containers in order of name.
    pub fn list_containers(&self, q: &Listing, f: &mut dyn FnMut(AccountEntry<'_>) -> Result<()>) -> Result<()> {
        self.commit_pending()?;
        let source = Source {
            table: "container",
            columns: "name, object_count, bytes_used, put_timestamp, storage_policy_index",
            conditions: "deleted = 0",
            params: &[],
        };
        self.db.with(|c| {
            walk(c, q, &source, &mut |found| match found {
                Found::Subdir(dir) => f(AccountEntry::Subdir(dir)),
                Found::Row(name, row) => f(AccountEntry::Container {
                    name,
                    object_count: value_int(row.get_ref(1)?),
                    bytes_used: value_int(row.get_ref(2)?),
                    put_timestamp: &value_text(row.get_ref(3)?),
                    policy: value_int(row.get_ref(4)?),
                }),
            })
        })
    }

    pub fn get_info(&self) -> Result<AccountInfo> {
        self.commit_pending()?;
        let found = self.db.with(|c| Ok(c.prepare_cached(INFO)?.query_row([], read_info).optional()?))?;
        match found {
            Some(info) => Ok(info),
            None => Err(self.db.quarantine("missing row in account_stat table")?),
        }
    }

    pub fn is_deleted(&self) -> Result<bool> {
        Ok(!self.db.exists() || self.get_info()?.is_deleted())
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(zero(self.get_info()?.container_count))
    }

    /// Marks the account deleted as of `timestamp`; the reaper then removes what it holds.
    pub fn delete_db(&self, timestamp: &str) -> Result<()> {
        self.db.clear_metadata(timestamp, &[])?;
        self.db.mark_deleted(timestamp)
    }

    /// Statistics by policy: (index, containers, objects, bytes).
    pub fn policy_stats(&self) -> Result<Vec<(i64, i64, i64, i64)>> {
        self.commit_pending()?;
        self.db.with(|c| {
            let mut st = c.prepare_cached("SELECT storage_policy_index, container_count, object_count, bytes_used FROM policy_stat")?;
            let int = |r: &Row<'_>, i: usize| Ok::<_, rusqlite::Error>(value_int(r.get_ref(i)?));
            let rows = st.query_map([], |r| Ok((int(r, 0)?, int(r, 1)?, int(r, 2)?, int(r, 3)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    pub fn merge_timestamps(&self, created_at: &str, put: &str, delete: &str) -> Result<()> {
        let now = self.db.pool.now().normal();
        self.db.write(|c| {
            let deleted = |c: &Connection| -> Result<bool> { Ok(c.prepare_cached(INFO)?.query_row([], read_info)?.is_deleted()) };
            let before = deleted(c)?;
            merge_times(c, Kind::Account, created_at, put, delete)?;
            if deleted(c)? != before {
                status_changed(c, Kind::Account, &now)?;
            }
            Ok(())
        })
    }

    /// For a database copied from another node.
    pub fn new_id(&self, remote_id: &str) -> Result<()> {
        self.db.new_identity(remote_id, |_| Ok(()))
    }

    /// As [`crate::ContainerBroker::reclaim`].
    pub fn reclaim(&self, age: Timestamp, sync_age: Timestamp) -> Result<(usize, usize)> {
        self.commit_pending()?;
        let out = self.db.reclaim_rows(age)?;
        self.db.write(|c| self.db.reclaim_facts(c, age, sync_age))?;
        Ok(out)
    }

    pub fn is_reclaimable(&self, before: Timestamp) -> Result<bool> {
        let info = self.get_info()?;
        let (put, delete) = (stamp(&info.put_timestamp), stamp(&info.delete_timestamp));
        Ok(zero(info.container_count) && before > delete && delete > put)
    }
}

const ROW_COLUMNS: &str = "name, put_timestamp, delete_timestamp, object_count, bytes_used, deleted, storage_policy_index, ROWID";

fn read_row(r: &Row<'_>) -> rusqlite::Result<ContainerRow> {
    Ok(ContainerRow {
        name: value_text(r.get_ref(0)?),
        put_timestamp: value_text(r.get_ref(1)?),
        delete_timestamp: value_text(r.get_ref(2)?),
        object_count: value_int(r.get_ref(3)?),
        bytes_used: value_int(r.get_ref(4)?),
        deleted: value_int(r.get_ref(5)?),
        storage_policy_index: value_int(r.get_ref(6)?),
        row_id: value_int(r.get_ref(7)?),
    })
}

fn read_info(r: &Row<'_>) -> rusqlite::Result<AccountInfo> {
    let text = |i: usize| Ok::<_, rusqlite::Error>(value_text(r.get_ref(i)?));
    let int = |i: usize| Ok::<_, rusqlite::Error>(value_int(r.get_ref(i)?));
    Ok(AccountInfo {
        account: text(0)?,
        created_at: text(1)?,
        put_timestamp: text(2)?,
        delete_timestamp: text(3)?,
        status: text(4)?,
        status_changed_at: text(5)?,
        container_count: int(6)?,
        object_count: int(7)?,
        bytes_used: int(8)?,
        hash: text(9)?,
        id: text(10)?,
    })
}

fn merge_container(c: &Connection, mut row: ContainerRow) -> Result<()> {
    let find = format!("SELECT {ROW_COLUMNS} FROM container WHERE name = ? AND deleted IN (0, 1)");
    if let Some(old) = c.prepare_cached(&find)?.query_row([&row.name], read_row).optional()? {
        // Who reports did not know of the deletion, which takes an empty container: its figures are from before.
        if later(&old.delete_timestamp, &row.delete_timestamp) && later(&old.delete_timestamp, &row.put_timestamp) {
            (row.object_count, row.bytes_used) = (old.object_count, old.bytes_used);
        }
        if later(&old.put_timestamp, &row.put_timestamp) {
            row.put_timestamp = old.put_timestamp;
        }
        if later(&old.delete_timestamp, &row.delete_timestamp) {
            row.delete_timestamp = old.delete_timestamp;
        }
        row = row.settle();
    }
    c.prepare_cached("DELETE FROM container WHERE name = ? AND deleted IN (0, 1)")?.execute([&row.name])?;
    c.prepare_cached(
        "INSERT INTO container (name, put_timestamp, delete_timestamp, object_count, bytes_used, deleted, storage_policy_index) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        row.name,
        row.put_timestamp,
        row.delete_timestamp,
        row.object_count,
        row.bytes_used,
        row.deleted,
        row.storage_policy_index
    ])?;
    Ok(())
}
