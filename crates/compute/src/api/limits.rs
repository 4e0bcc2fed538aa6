//! `/limits`: limits and use of the caller's project.

use super::forms;
use crate::State;
use crate::logic::quotas as logic;
use caelum_base::Result;
use caelum_policy::Target;
use caelum_policy::personas::{ANYONE, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde_json::{Map, json};

pub const OPS: &[Op<State>] = &[Op::get("limits_show", "/limits", Access::rule("os_compute_api:limits", ANYONE, PROJECT), h!(show))];

const OTHER: &str = "os_compute_api:limits:other_project";

/// Name in the answer, name of the limit, first version without it.
const MAXIMA: &[(&str, &str, Version)] = &[
    ("maxTotalInstances", "instances", Version(9, 0)),
    ("maxTotalCores", "cores", Version(9, 0)),
    ("maxTotalRAMSize", "ram", Version(9, 0)),
    ("maxTotalKeypairs", "key_pairs", Version(9, 0)),
    ("maxServerMeta", "metadata_items", Version(9, 0)),
    ("maxServerGroups", "server_groups", Version(9, 0)),
    ("maxServerGroupMembers", "server_group_members", Version(9, 0)),
    ("maxImageMeta", "metadata_items", Version(2, 39)),
    ("maxPersonality", "injected_files", Version(2, 57)),
    ("maxPersonalitySize", "injected_file_content_bytes", Version(2, 57)),
    ("maxTotalFloatingIps", "floating_ips", Version(2, 36)),
    ("maxSecurityGroups", "security_groups", Version(2, 36)),
    ("maxSecurityGroupRules", "security_group_rules", Version(2, 36)),
];

const USED: &[(&str, &str, Version)] = &[
    ("totalInstancesUsed", "instances", Version(9, 0)),
    ("totalCoresUsed", "cores", Version(9, 0)),
    ("totalRAMUsed", "ram", Version(9, 0)),
    ("totalServerGroupsUsed", "server_groups", Version(9, 0)),
    // Counted by the network service; upstream too says 0 here.
    ("totalFloatingIpsUsed", "floating_ips", Version(2, 36)),
    ("totalSecurityGroupsUsed", "security_groups", Version(2, 36)),
];

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    forms::known_params(&cx, Version(2, 75), &["tenant_id", "reserved"])?;
    let own = cx.auth().project_id()?.to_string();
    let project = cx.query.get("tenant_id").unwrap_or(&own).to_string();
    if project != own {
        cx.require(OTHER, &Target::project(project.as_str()))?;
    }
    let read = move |tx: &mut caelum_store::Tx<'_>| Ok((logic::limits(tx, &project, None)?, logic::in_use(tx, &project, None)?));
    let (limits, used) = cx.state.db.read(read).await?;
    let mut absolute = Map::new();
    for (table, from) in [(MAXIMA, &limits), (USED, &used)] {
        for (name, limit, _) in table.iter().filter(|(_, _, gone)| cx.version < *gone) {
            absolute.insert((*name).to_string(), json!(from.get(*limit).copied().unwrap_or(0)));
        }
    }
    Reply::ok(&json!({"limits": {"rate": [], "absolute": absolute}}))
}
