//! Rows and SQL of the network service; nothing outside this module speaks SQL.
//!
//! Durable: everything in these tables. `ip_allocations` and `port_security_groups` repeat what a
//! port's body says, so that uniqueness and reverse look-ups are indexes; both are written in the
//! port's own transaction. Rebuilt after a crash: what the hosts are told, from these tables.

mod alloc;
mod misc;
mod records;

pub use alloc::*;
pub use misc::*;
pub use records::*;

use caelum_store::Migration;

/// Schema history.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "first", sql: include_str!("schema.sql") },
    Migration { version: 2, name: "plugged", sql: include_str!("0002_plugged.sql") },
];
