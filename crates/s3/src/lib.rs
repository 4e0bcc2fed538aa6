//! Being built.

mod auth;
mod checksum;
mod errors;
mod payload;
mod xml;
