//! The layers of the pipeline, one file or directory for each of Swift's filters, under Swift's names.
//!
//! Each takes the next layer and answers, changes or passes on; [`crate::pipeline`] puts them in order. What they store
//! (names of sysmeta, forms of manifests, names of versions) is Swift's own, so that real nodes read it. Source for what
//! clients see: Swift's documentation of its middleware and API, and its behaviour.

// What every request passes before anybody asks who sends it.
mod access_log;
mod catch_errors;
mod crossdomain;
mod gatekeeper;
mod info;
mod listing_formats;
mod name_check;

// Signatures, presentation, limits, encryption, names.
pub mod account_quotas;
pub mod cname_lookup;
pub mod container_quotas;
pub mod container_sync;
pub mod crypto;
pub mod domain_remap;
pub mod etag_quoter;
pub mod formpost;
pub mod list_endpoints;
pub mod ratelimit;
pub mod read_only;
pub mod staticweb;
pub mod tempurl;

// Objects that are more than a PUT and a GET.
mod bulk;
mod copy;
mod dlo;
pub mod object_lock;
mod slo;
mod symlink;
mod versions;

// What several of them share.
mod capped;
mod common;
pub mod digest;
mod heartbeat;
mod hosts;
mod segments;

pub use access_log::AccessLog;
pub use bulk::{Bulk, BulkConfig};
pub use caelum_swiftkit::HealthCheck;
pub use catch_errors::CatchErrors;
pub use copy::Copy;
pub use crossdomain::CrossDomain;
pub use dlo::Dlo;
pub use gatekeeper::Gatekeeper;
pub use info::{About, Info, InfoOptions};
pub use listing_formats::ListingFormats;
pub use name_check::{NameCheck, NameCheckOptions};
pub use object_lock::{ObjectLock, Protection};
pub use segments::Pace;
pub use slo::{Slo, SloConfig};
pub use symlink::{SYMLOOP_MAX, Symlink};
pub use versions::{ObjectVersioning, VersionedWrites};

#[cfg(test)]
mod outermost_tests;
#[cfg(test)]
mod storage_tests;
