//! What every part of the object store shares: timestamps, name hashing, storage policies,
//! `swift.conf`, Python pickles as they stand in xattrs and queues, and the way to other nodes.
//!
//! Everything here is a format or protocol of Swift's that an existing cluster holds us to. Source:
//! the Swift documentation (`overview_architecture`, `overview_ring`, `overview_policies`).

mod conf;
mod digest;
mod halves;
mod hash;
mod healthcheck;
mod nodes;
pub mod pickle;
mod policy;
pub mod python;
mod ranges;
mod timestamp;

pub use conf::{SwiftConf, parse_ini};
pub use digest::{KnownRight, UploadDigest};
pub use halves::Halves;
pub use hash::{HashPath, NameHash, md5_hex, to_hex};
pub use healthcheck::HealthCheck;
pub use nodes::{NodeError, Nodes};
pub use policy::{Policies, PolicyKind, StoragePolicy, quorum_size};
pub use ranges::{ByteRange, Ranges};
pub use timestamp::Timestamp;

/// Longest object name in bytes.
pub const MAX_OBJECT_NAME: usize = 1_024;
/// Longest container name in bytes.
pub const MAX_CONTAINER_NAME: usize = 256;
/// Longest account name in bytes.
pub const MAX_ACCOUNT_NAME: usize = 256;
/// Largest object in bytes that one PUT stores.
pub const MAX_FILE_SIZE: u64 = 5_368_709_122;
/// Largest page of a listing.
pub const LISTING_LIMIT: usize = 10_000;
