//! Daemons for containers.

mod misplaced;
mod updater;

pub(crate) use misplaced::{MISPLACED_ACCOUNT, feed_misplaced};
pub(crate) use updater::quote;
pub use updater::{UpdaterConfig, UpdaterStats, update_accounts};
