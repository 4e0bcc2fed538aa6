//! Objects on disk, exactly as Swift lays them out.
//!
//! `DEVICES/DEVICE/objects[-POLICY]/PARTITION/SUFFIX/HASH/` holds one object's files: `.data`, `.meta` (metadata
//! set later), `.ts` (tombstone), all named by time; metadata is in extended attributes. Source: the Swift
//! documentation (`overview_architecture`, `overview_replication`, `overview_erasure_code`) and, for the bytes,
//! files that Swift wrote.
//!
//! Invariants:
//! - What [`Pending::wait`] has acknowledged survives a power loss. A name never appears before its data is durable.
//! - What the files of a directory mean is decided in one place, [`ondisk::resolve`], by upstream's rules: nodes
//!   that differ in it would never agree on hashes.
//! - An object whose bytes do not match its metadata is moved to `quarantined/` and never served as whole.
//! - Only this crate writes below a device's `objects*`, `async_pending*`, `tmp*` and `quarantined`.
//!
//! Everything blocks, [`Pending::wait`] excepted; async callers do a whole operation in one `spawn_blocking`.
//! A crash can leave unnamed temporary files in `tmp*` and stale entries in `hashes.invalid`; both are harmless.

mod buffers;
mod clean;
mod commit;
mod error;
mod file;
mod handoff;
mod hashes;
mod listing;
mod lock;
mod manager;
mod metadata;
pub mod names;
pub mod ondisk;
mod pending;
mod quarantine;
mod reader;
mod recent;
mod verified;
mod writer;

pub use commit::Pending;
pub use error::{DiskError, DiskResult};
pub use file::{DiskFile, Look, Opened, split_name};
pub use hashes::{Hashes, SuffixHash, dump_hashes, invalidate_hash, load_hashes, valid_suffix};
pub use listing::{AuditLocation, AuditLocations, ObjectTimes};
pub use lock::{DirLock, LOCK_TIMEOUT, lock_dir, lock_file};
pub use manager::{Config, Manager, Reserve, is_mount, usage, valid_device};
pub use metadata::{Metadata, header_bytes, latin1, same_version};
pub use names::{Ext, FileInfo};
pub use ondisk::{FragPref, FragWish, OnDisk};
pub use pending::{PendingFile, PendingUpdate};
pub use reader::{Inspector, Reader};
pub use writer::Writer;

#[cfg(test)]
mod tests;
