//! Images, tasks and metadata definitions in SQL.
//!
//! Durable: everything. The body of an image row holds all of it, members and tags included, so
//! that showing and listing read one table. `image_facets` repeats tags, properties and members for
//! filters only; every write of an image rewrites its facets in the same transaction.
//! `retired_images` remembers ids that once held data, so that no id ever names other bytes.

mod images;
mod metadefs;
mod tasks;

pub use images::{Facts, Image, Member, Staged, image_delete, image_insert, image_update, used_bytes};
pub use metadefs::{Namespace, Part, Parts};
pub use tasks::{Task, tasks_expire};

use caelum_store::Migration;

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "init", sql: include_str!("0001_init.sql") },
    Migration { version: 2, name: "metadefs", sql: include_str!("0002_metadefs.sql") },
];
