//! The REST API: one file per resource. Microversions live here and nowhere below.

pub mod actions;
pub mod aggregates;
pub mod catalog;
pub mod consoles;
pub mod extensions;
pub mod flavor_specs;
pub mod flavors;
pub mod forms;
pub mod hypervisors;
pub mod images;
pub mod keypairs;
pub mod limits;
pub mod migrations;
pub mod quotas;
pub mod security_groups;
pub mod server_actions;
pub mod server_create;
pub mod server_groups;
pub mod server_interfaces;
pub mod server_list;
pub mod server_metadata;
pub mod server_misc;
pub mod server_volumes;
pub mod servers;
pub mod services;
pub mod usage;
pub mod versions;
pub mod views;
pub mod wire;
pub mod zones;

use crate::State;
use caelum_base::{Env, Result};
use caelum_rest::{Api, Dialect, Microversions, Op, TokenValidator, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const MIN: Version = Version(2, 1);
pub const MAX: Version = Version(2, 104);

const VERSIONS: Microversions =
    Microversions { service_type: "compute", legacy_header: Some("x-openstack-nova-api-version"), min: MIN, max: MAX };

/// Operations of servers, below `/v2.1`.
const SERVERS: &[&[Op<State>]] =
    &[servers::OPS, actions::OPS, server_metadata::OPS, server_interfaces::OPS, server_volumes::OPS, server_actions::OPS, server_misc::OPS];

pub(crate) fn build(
    state: Arc<State>,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    policy: BTreeMap<String, String>,
    auth_url: String,
) -> Result<Api<State>> {
    let mut b = Api::builder("compute", Dialect::Nova)
        .versions(VERSIONS)
        .request_id_header("x-compute-request-id")
        .project_prefix("/v2.1")
        .auth_url(auth_url)
        .rules(caelum_policy::personas::COMPUTE)
        .rules(catalog::RULES)
        .rules(servers::RULES)
        .rules(server_volumes::RULES)
        .overrides(policy);
    for ops in catalog::ROOT {
        b = b.mount("", ops);
    }
    for ops in SERVERS.iter().chain(catalog::OPS) {
        b = b.mount("/v2.1", ops);
    }
    b.build(state, env, validator)
}
