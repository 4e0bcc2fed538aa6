//! Daemons for containers.

mod client;
mod misplaced;
mod reconciler;
mod sharder;
mod sync;
mod updater;

#[cfg(test)]
mod tests;

pub use client::InternalClient;
pub(crate) use misplaced::{MISPLACED_ACCOUNT, feed_misplaced};
pub use reconciler::{ReconcilerConfig, ReconcilerStats, reconcile};
pub use sharder::{SharderConfig, SharderStats, shard_containers};
pub use sync::{SyncConfig, SyncStats, sync_containers};
pub(crate) use updater::quote;
pub use updater::{UpdaterConfig, UpdaterStats, update_accounts};
