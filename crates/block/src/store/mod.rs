//! What block storage remembers: records, quota, and the queries that are more than one row.

pub mod quota;
mod records;
pub mod rows;

pub use records::*;

use caelum_store::Migration;

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "block", sql: include_str!("schema.sql") },
    Migration { version: 2, name: "flows", sql: caelum_flow::MIGRATION_SQL },
];
