//! The ring: which devices hold which partition.

mod runtime;

pub use runtime::{Device, Ring};
