//! SSYNC: replication of objects over one request. First the sender offers hashes with their times and the
//! receiver says what it lacks; then the sender sends that as subrequests in the request's body.
//! Source: the Swift documentation (`overview_replication`) and what upstream's sender and receiver exchange.

mod receiver;
mod wire;

pub(super) use receiver::handle;
pub use wire::{Missing, Wanted, encode_missing, encode_wanted, parse_missing, parse_wanted};
