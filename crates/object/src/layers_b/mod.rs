//! Layers that sign, present, limit, encrypt and rename: temporary URLs, form uploads, static web sites, quotas,
//! rate limits, encryption at rest, container sync, domain names and small switches.
//!
//! Each takes the next layer and answers, changes or passes on. Source for what clients see: Swift's
//! documentation of its middleware and API, and its behaviour.

pub mod account_quotas;
pub mod cname_lookup;
pub mod container_quotas;
pub mod container_sync;
pub mod crypto;
pub mod digest;
pub mod domain_remap;
pub mod etag_quoter;
pub mod formpost;
pub mod ratelimit;
pub mod read_only;
pub mod staticweb;
pub mod tempurl;

mod capped;
mod common;
mod rewrite;
