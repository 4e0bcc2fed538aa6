//! Providers, inventories, consumers and allocations in SQL.
//!
//! Durable: everything. `inventories.used` repeats the sum of the allocations so that a claim is one
//! conditional update; both change in the same transaction and `audit` compares them.

mod allocations;
mod names;
mod providers;

pub use allocations::{NewAllocations, allocations_of, allocations_on, consumer, delete_allocations, replace_allocations, usages};
pub use names::{class_create, class_delete, classes, is_class, is_trait, trait_create, trait_delete, traits};
pub use providers::{
    Inventory, Provider, aggregates, all_aggregates, all_inventories, all_traits, bump, inventories, inventory_delete, inventory_put,
    provider, provider_create, provider_delete, provider_update, providers, set_aggregates, set_traits, traits_of,
};

use caelum_store::Migration;

pub const MIGRATIONS: &[Migration] = &[Migration { version: 1, name: "init", sql: include_str!("0001_init.sql") }];
