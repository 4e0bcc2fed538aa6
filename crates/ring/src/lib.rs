//! The ring: which devices hold which partition.
//!
//! [`Ring`] answers lookups, [`Rings`] keeps a node's rings up to date, [`file`] reads and writes
//! `.ring.gz`. Formats and the order of handoffs are upstream's, as nodes of both kinds must agree on
//! where data lies. Source: Swift's documentation, `overview_ring`.

pub mod builder;
pub mod cli;
pub mod composite;
pub mod file;
mod handoffs;
mod python;
mod rings;
mod runtime;
mod write;

pub use handoffs::Handoffs;
pub use rings::Rings;
pub use runtime::{Device, NO_DEVICE, Ring};
pub use write::{Version, encode, save};

#[cfg(test)]
mod tests;
