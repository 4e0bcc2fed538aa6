//! Tables of compute. What is durable: servers and what belongs to them, the catalog (flavors, key
//! pairs, groups, aggregates, services, quota) and unfinished flows. What is rebuilt: host
//! capacities (asked of the hosts), scheduling caches.

pub mod actions;
pub mod aggregates;
pub mod console_tokens;
pub mod flavors;
pub mod groups;
pub mod keypairs;
pub mod quota;
pub mod quota_sets;
pub mod servers;
pub mod services;

use caelum_store::Migration;

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "flows", sql: caelum_flow::MIGRATION_SQL },
    Migration { version: 2, name: "servers", sql: include_str!("0001_servers.sql") },
    Migration { version: 3, name: "catalog", sql: include_str!("0002_catalog.sql") },
    Migration { version: 4, name: "console", sql: include_str!("0003_console.sql") },
    Migration { version: 5, name: "usage", sql: include_str!("0004_usage.sql") },
];
