//! What people send who mean no good, against the whole pipeline over real storage servers: one test per advisory
//! that Swift has had and that applies, internal headers from outside, framing, and names of every kind.
#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod encrypted;
mod framing;
mod headers;
mod limits;
mod names;
mod ossa;
mod signed;
mod sites;
