//! Limits per project, checked in the transaction that adds the row.

use crate::store;
use caelum_base::{Error, Result};
use caelum_store::Tx;

/// A limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Name in the quota API.
    pub name: &'static str,
    pub table: &'static str,
    /// -1 means no limit.
    pub default: i64,
}

const fn limited(name: &'static str, table: &'static str, default: i64) -> Limited {
    Limited { name, table, default }
}

pub const NETWORK: Limited = limited("network", "networks", 100);
pub const SUBNET: Limited = limited("subnet", "subnets", 100);
pub const PORT: Limited = limited("port", "ports", 500);
pub const ROUTER: Limited = limited("router", "routers", 10);
pub const FLOATING_IP: Limited = limited("floatingip", "floating_ips", 50);
pub const SECURITY_GROUP: Limited = limited("security_group", "security_groups", 10);
pub const SECURITY_GROUP_RULE: Limited = limited("security_group_rule", "security_group_rules", 100);
pub const SUBNETPOOL: Limited = limited("subnetpool", "subnetpools", -1);
pub const RBAC_POLICY: Limited = limited("rbac_policy", "rbac_policies", 10);

pub const ALL: [Limited; 9] = [NETWORK, SUBNET, PORT, ROUTER, FLOATING_IP, SECURITY_GROUP, SECURITY_GROUP_RULE, SUBNETPOOL, RBAC_POLICY];

/// Errors: `OverQuota` when `n` more would exceed the project's limit.
pub fn require(tx: &mut Tx<'_>, what: Limited, project_id: &str, n: i64) -> Result<()> {
    let limit = store::quota_override(tx, project_id, what.name)?.unwrap_or(what.default);
    if limit < 0 || store::usage(tx, what.table, project_id)? + n <= limit {
        return Ok(());
    }
    Err(Error::over_quota(format!("Quota exceeded for resources: ['{}'].", what.name)).code("OverQuota"))
}
