//! The whole pipeline, in upstream's order.

mod operations;

pub use operations::{Operation, Operations, Resource, infos, operations};
