//! What replication needs of either kind of database.

use crate::account::{AccountBroker, ContainerRow};
use crate::container::ContainerBroker;
use crate::db::{Db, Kind};
use crate::error::Result;
use crate::pool::Pool;
use crate::record::ObjectRow;
use caelum_swiftkit::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// What two replicas compare.
#[derive(Clone, Debug, Default)]
pub struct ReplicationInfo {
    pub hash: String,
    pub id: String,
    pub created_at: String,
    pub put_timestamp: String,
    pub delete_timestamp: String,
    pub status_changed_at: String,
    /// Live rows.
    pub count: i64,
    /// Objects (of an account: in all its containers).
    pub object_count: i64,
    pub bytes_used: i64,
    pub metadata: String,
    pub max_row: i64,
    pub storage_policy_index: i64,
    /// All of it as upstream's servers answer it.
    pub wire: Map<String, Value>,
}

/// A database of either kind.
pub trait Replica: Clone + Send + Sync + Sized + 'static {
    const KIND: Kind;
    type Row: Serialize + DeserializeOwned + Send + 'static;

    fn at(pool: &Arc<Pool>, path: &Path) -> Result<Self>;
    fn database(&self) -> &Db;
    fn info(&self) -> Result<ReplicationInfo>;
    fn rows_since(&self, start: i64, count: usize) -> Result<Vec<Self::Row>>;
    fn row_id(row: &Self::Row) -> i64;
    fn merge_rows(&self, rows: Vec<Self::Row>, source: Option<&str>) -> Result<()>;
    fn merge_times(&self, created_at: &str, put: &str, delete: &str) -> Result<()>;
    fn adopt(&self, remote_id: &str) -> Result<()>;
    fn reclaim_older(&self, age: Timestamp, sync_age: Timestamp) -> Result<(usize, usize)>;
    fn reclaimable(&self, before: Timestamp) -> Result<bool>;
}

impl Replica for AccountBroker {
    const KIND: Kind = Kind::Account;
    type Row = ContainerRow;

    fn at(pool: &Arc<Pool>, path: &Path) -> Result<Self> {
        Ok(Self::new(pool, path))
    }

    fn database(&self) -> &Db {
        self.db()
    }

    fn info(&self) -> Result<ReplicationInfo> {
        let i = self.get_info()?;
        let (metadata, max_row) = (self.raw_metadata()?, self.max_row(None)?);
        let wire = object(json!({
            "account": i.account, "created_at": i.created_at, "put_timestamp": i.put_timestamp,
            "delete_timestamp": i.delete_timestamp, "status_changed_at": i.status_changed_at,
            "count": i.container_count, "object_count": i.object_count, "bytes_used": i.bytes_used,
            "hash": i.hash, "id": i.id, "metadata": metadata, "max_row": max_row,
        }));
        Ok(ReplicationInfo {
            hash: i.hash,
            id: i.id,
            created_at: i.created_at,
            put_timestamp: i.put_timestamp,
            delete_timestamp: i.delete_timestamp,
            status_changed_at: i.status_changed_at,
            count: i.container_count,
            object_count: i.object_count,
            bytes_used: i.bytes_used,
            metadata,
            max_row,
            storage_policy_index: 0,
            wire,
        })
    }

    fn rows_since(&self, start: i64, count: usize) -> Result<Vec<ContainerRow>> {
        self.get_items_since(start, count)
    }

    fn row_id(row: &ContainerRow) -> i64 {
        row.row_id
    }

    fn merge_rows(&self, rows: Vec<ContainerRow>, source: Option<&str>) -> Result<()> {
        self.merge_items(rows, source)
    }

    fn merge_times(&self, created_at: &str, put: &str, delete: &str) -> Result<()> {
        self.merge_timestamps(created_at, put, delete)
    }

    fn adopt(&self, remote_id: &str) -> Result<()> {
        self.new_id(remote_id)
    }

    fn reclaim_older(&self, age: Timestamp, sync_age: Timestamp) -> Result<(usize, usize)> {
        self.reclaim(age, sync_age)
    }

    fn reclaimable(&self, before: Timestamp) -> Result<bool> {
        self.is_reclaimable(before)
    }
}

impl Replica for ContainerBroker {
    const KIND: Kind = Kind::Container;
    type Row = ObjectRow;

    fn at(pool: &Arc<Pool>, path: &Path) -> Result<Self> {
        Self::new(pool, path)
    }

    fn database(&self) -> &Db {
        self.db()
    }

    fn info(&self) -> Result<ReplicationInfo> {
        let i = self.get_info()?;
        let (metadata, max_row) = (self.raw_metadata()?, self.max_row(None)?);
        let wire = object(json!({
            "account": i.account, "container": i.container, "created_at": i.created_at,
            "put_timestamp": i.put_timestamp, "delete_timestamp": i.delete_timestamp, "status": i.status,
            "status_changed_at": i.status_changed_at, "count": i.object_count, "bytes_used": i.bytes_used,
            "reported_put_timestamp": i.reported_put_timestamp,
            "reported_delete_timestamp": i.reported_delete_timestamp,
            "reported_object_count": i.reported_object_count, "reported_bytes_used": i.reported_bytes_used,
            "hash": i.hash, "id": i.id, "x_container_sync_point1": i.x_container_sync_point1,
            "x_container_sync_point2": i.x_container_sync_point2,
            "storage_policy_index": i.storage_policy_index, "db_state": i.db_state.as_str(),
            "metadata": metadata, "max_row": max_row, "shard_max_row": self.max_row(Some("shard_range"))?,
        }));
        Ok(ReplicationInfo {
            hash: i.hash,
            id: i.id,
            created_at: i.created_at,
            put_timestamp: i.put_timestamp,
            delete_timestamp: i.delete_timestamp,
            status_changed_at: i.status_changed_at,
            count: i.object_count,
            object_count: i.object_count,
            bytes_used: i.bytes_used,
            metadata,
            max_row,
            storage_policy_index: i.storage_policy_index,
            wire,
        })
    }

    fn rows_since(&self, start: i64, count: usize) -> Result<Vec<ObjectRow>> {
        self.get_items_since(start, count)
    }

    fn row_id(row: &ObjectRow) -> i64 {
        row.row_id
    }

    fn merge_rows(&self, rows: Vec<ObjectRow>, source: Option<&str>) -> Result<()> {
        self.merge_items(rows, source)
    }

    fn merge_times(&self, created_at: &str, put: &str, delete: &str) -> Result<()> {
        self.merge_timestamps(created_at, put, delete)
    }

    fn adopt(&self, remote_id: &str) -> Result<()> {
        self.new_id(remote_id)
    }

    fn reclaim_older(&self, age: Timestamp, sync_age: Timestamp) -> Result<(usize, usize)> {
        self.reclaim(age, sync_age)
    }

    fn reclaimable(&self, before: Timestamp) -> Result<bool> {
        self.is_reclaimable(before)
    }
}

fn object(v: Value) -> Map<String, Value> {
    match v {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Which of two storage policies of a container is right: positive when the remote one is.
/// Deletion and re-creation decide before the time of the last change. All times are internal texts.
pub fn compare_policies(here: &ReplicationInfo, there: &ReplicationInfo) -> std::cmp::Ordering {
    use std::cmp::Ordering::{Greater, Less};
    let deleted = |i: &ReplicationInfo| i.delete_timestamp > i.put_timestamp && i.count == 0;
    let (deleted_here, deleted_there) = (deleted(here), deleted(there));
    if deleted_here || deleted_there {
        return match (deleted_here, deleted_there) {
            (false, _) => Less,
            (_, false) => Greater,
            _ => there.status_changed_at.cmp(&here.status_changed_at),
        };
    }
    let zero = Timestamp::ZERO.normal();
    let recreated = |i: &ReplicationInfo| i.put_timestamp > i.delete_timestamp && i.delete_timestamp > zero;
    let (recreated_here, recreated_there) = (recreated(here), recreated(there));
    if recreated_here || recreated_there {
        if !recreated_here {
            return Greater;
        }
        if !recreated_there {
            return Less;
        }
        let last_delete = (&here.delete_timestamp).max(&there.delete_timestamp);
        if here.put_timestamp < *last_delete {
            return Greater;
        }
        if there.put_timestamp < *last_delete {
            return Less;
        }
    }
    here.status_changed_at.cmp(&there.status_changed_at)
}
