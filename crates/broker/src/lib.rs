//! Account and container databases: SQLite files that upstream's processes can open, read and write at
//! the same time. Sources: Swift's documentation (`overview_container_sharding`, `overview_replication`)
//! and the databases that Swift itself writes.
//!
//! A report of an object or container is appended to the database's `.pending` file under the
//! directory's lock and merged by whoever next reads, or once the file is large. Merging keeps the newest
//! of every part of a row, so doing it twice, late, or in another order gives the same result; after a
//! crash nothing has to be repaired.
//!
//! Everything here blocks the calling thread.

mod account;
mod container;
mod db;
mod error;
mod listing;
mod lock;
mod metadata;
mod paths;
mod pending;
mod pool;
mod record;
mod replica;
mod schema;
mod shard;
mod shards;

#[cfg(test)]
mod tests;

pub use account::{AccountBroker, AccountEntry, AccountInfo, ContainerRow};
pub use container::{ContainerBroker, ContainerInfo, DbState, Entry, Object, Rows, RowsVersion};
pub use db::{Db, Kind, PENDING_TIMEOUT, SyncPoint};
pub use error::{BrokerError, Result};
pub use listing::Listing;
pub use lock::{DirLock, lock_directory};
pub use metadata::{MAX_META_COUNT, MAX_META_OVERALL_SIZE, Metadata, parse as parse_metadata};
pub use paths::{ACCOUNT_DIR, CONTAINER_DIR, db_files, parse_db_filename, storage_directory, with_epoch};
pub use pending::PENDING_CAP;
pub use pool::{Pool, chexor};
pub use record::{ObjectRow, extract_swift_bytes};
pub use replica::{Replica, ReplicationInfo, compare_policies};
pub use shard::{ShardRange, ShardState, cmp_upper};
pub use shards::{FoundRange, ShardQuery};
