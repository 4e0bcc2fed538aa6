//! Compute against fake peers and simulated hosts, through its own API.

mod fakes;
mod flows;
mod servers;

pub(crate) use fakes::bench;
pub(crate) use flows::blank_server;
