//! Layers that give objects more than a PUT and a GET: copies, large objects, links, versions, bulk work.
//!
//! From the outside in: [`Bulk`], [`Copy`], quotas, [`Slo`], [`Dlo`], [`VersionedWrites`], [`ObjectVersioning`], [`Symlink`].
//! What they store (names of sysmeta, forms of manifests, names of versions) is Swift's own, so that real nodes read it.

mod bulk;
mod common;
mod copy;
mod dlo;
mod heartbeat;
mod segments;
mod slo;
mod symlink;
mod versions;

pub use bulk::{Bulk, BulkConfig};
pub use copy::Copy;
pub use dlo::Dlo;
pub use segments::Pace;
pub use slo::{Slo, SloConfig};
pub use symlink::{SYMLOOP_MAX, Symlink};
pub use versions::{ObjectVersioning, VersionedWrites};

#[cfg(test)]
mod real_tests;
