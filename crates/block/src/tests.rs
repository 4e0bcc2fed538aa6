//! Tests through the HTTP API with a fake image service.

mod api;
mod races;
pub mod world;
