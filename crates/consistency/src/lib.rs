//! The daemons that bring replicas together again: replication, auditing, updating, reaping, sharding,
//! expiring. Each has a function for one pass and all of them may be broken off anywhere.

pub mod account;
pub mod container;
pub mod db;
pub mod dispersion;
pub mod object;
pub mod recon;
