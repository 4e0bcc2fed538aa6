//! Daemons for accounts.

mod reaper;

pub use reaper::{ReaperConfig, ReaperStats, reap_accounts};
