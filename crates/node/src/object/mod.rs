//! Object storage: embedded in the cloud, or as a node of a cluster made of Swift's own files.

mod daemons;
mod embedded;
mod keys;

pub use embedded::ObjectStore;
