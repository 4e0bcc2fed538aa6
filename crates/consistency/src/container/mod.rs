//! Daemons for containers.

mod misplaced;
mod sharder;
mod updater;

pub(crate) use misplaced::{MISPLACED_ACCOUNT, feed_misplaced};
pub use sharder::{SharderConfig, SharderStats, shard_containers};
pub(crate) use updater::quote;
pub use updater::{UpdaterConfig, UpdaterStats, update_accounts};
