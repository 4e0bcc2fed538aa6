//! Which operations there are beside servers: flavors, key pairs, quota, hosts, versions.

use super::{flavor_specs, flavors, keypairs};
use crate::State;
use caelum_rest::Op;

/// Mounted at the service's root (version documents).
pub const ROOT: &[&[Op<State>]] = &[];

/// Mounted below `/v2.1`.
pub const OPS: &[&[Op<State>]] = &[flavors::OPS, flavor_specs::OPS, keypairs::OPS];
