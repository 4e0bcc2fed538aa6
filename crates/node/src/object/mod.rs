//! Object storage: embedded in the cloud, or as a node of a cluster made of Swift's own files.

mod daemons;
mod embedded;
mod events;
mod keys;
mod layout;
mod swift;

pub use embedded::ObjectStore;
pub use swift::{ROLES, SwiftNode, run as run_swift};
