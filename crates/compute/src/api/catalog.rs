//! Which operations there are beside servers: flavors, key pairs, quota, hosts, versions.

use super::{
    aggregates, consoles, extensions, flavor_specs, flavors, hypervisors, images, keypairs, limits, migrations, quotas, security_groups,
    server_groups, services, usage, versions, zones,
};
use crate::State;
use caelum_policy::RuleDefault;
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::Op;

/// Mounted at the service's root (version documents).
pub const ROOT: &[&[Op<State>]] = &[versions::OPS];

/// Mounted below `/v2.1`.
pub const OPS: &[&[Op<State>]] = &[
    flavors::OPS,
    flavor_specs::OPS,
    keypairs::OPS,
    extensions::OPS,
    limits::OPS,
    quotas::OPS,
    usage::OPS,
    zones::OPS,
    services::OPS,
    hypervisors::OPS,
    aggregates::OPS,
    server_groups::OPS,
    migrations::OPS,
    security_groups::OPS,
    images::OPS,
    consoles::OPS,
];

/// Rules of these resources that no operation carries.
pub const RULES: &[RuleDefault] = &[
    RuleDefault { name: "os_compute_api:limits:other_project", check: ADMIN, scopes: PROJECT },
    RuleDefault { name: "os_compute_api:os-server-groups:index:all_projects", check: ADMIN, scopes: PROJECT },
];
