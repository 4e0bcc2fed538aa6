//! Identity (Keystone): users, projects, domains, groups, roles, tokens, the service catalog.
//!
//! Invariants:
//! - A token is valid only while what it stands on is: its user, scope, their domains, at least one
//!   role in the scope, its trust or application credential. That is looked up in the tables; the
//!   cache in front of them counts only until the next write of any process (noticed at once in this
//!   process, within half a second in others).
//! - A delegated token (trust, application credential) never gives more than its giver still has.
//! - Passwords, secrets and credential blobs are stored hashed or encrypted, and never logged.
//!
//! After a crash nothing needs repair: every change is one transaction, caches start empty, the key
//! files are replaced by renaming.

mod api;
mod logic;
mod service;
mod state;
mod store;
mod token;
mod tokens;

pub use logic::bootstrap::{Bootstrap, BootstrapService, ServiceUser};
pub use service::{Deps, Keys, Service, rotate_keys, start};
pub use state::Compliance;
