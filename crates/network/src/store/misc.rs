//! Quotas, RBAC look-ups and counts.

use super::{DhcpOption, FixedIp};
use caelum_base::{Error, Result};
use caelum_store::{Row, Tx, Value, params};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A project's own limits by resource.
pub fn quota_overrides(tx: &mut Tx<'_>, project_id: &str) -> Result<BTreeMap<String, i64>> {
    let rows = tx.query("SELECT resource, amount FROM quotas WHERE project_id = $1", params![project_id])?;
    rows.iter().map(|r| Ok((r.text("resource")?, r.int("amount")?))).collect()
}

/// One own limit.
pub fn quota_override(tx: &mut Tx<'_>, project_id: &str, resource: &str) -> Result<Option<i64>> {
    let sql = "SELECT amount FROM quotas WHERE project_id = $1 AND resource = $2";
    tx.query_opt(sql, params![project_id, resource])?.map(|r| r.int("amount")).transpose()
}

pub fn set_quota(tx: &mut Tx<'_>, project_id: &str, resource: &str, amount: i64) -> Result<()> {
    let sql = "INSERT INTO quotas (project_id, resource, amount) VALUES ($1, $2, $3) \
               ON CONFLICT (project_id, resource) DO UPDATE SET amount = $3";
    tx.exec(sql, &[project_id.into(), resource.into(), Value::Int(amount)]).map(drop)
}

/// Back to the defaults; how many own limits there were.
pub fn clear_quotas(tx: &mut Tx<'_>, project_id: &str) -> Result<u64> {
    tx.exec("DELETE FROM quotas WHERE project_id = $1", params![project_id])
}

/// Projects with own limits.
pub fn quota_projects(tx: &mut Tx<'_>) -> Result<Vec<String>> {
    let rows = tx.query("SELECT DISTINCT project_id FROM quotas ORDER BY project_id", &[])?;
    rows.iter().map(|r| r.text("project_id")).collect()
}

/// Rows of a resource a project has. `table` is one of our table names, never input.
pub fn usage(tx: &mut Tx<'_>, table: &'static str, project_id: &str) -> Result<i64> {
    let sql = format!("SELECT COUNT(*) AS n FROM {table} WHERE project_id = $1");
    tx.query_opt(&sql, params![project_id])?.map_or(Ok(0), |r| r.int("n"))
}

/// Objects of a type that RBAC policies open to one of `targets` with `action`.
pub fn rbac_objects(tx: &mut Tx<'_>, object_type: &str, project_id: &str, action: &str) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT object_id FROM rbac_policies WHERE target_project = $1 AND object_type = $2 AND action = $3";
    tx.query(sql, params![project_id, object_type, action])?.iter().map(|r| r.text("object_id")).collect()
}

/// Whether the project, or every project, has `action` on the object.
pub fn rbac_allows(tx: &mut Tx<'_>, object_type: &str, object_id: &str, project_id: &str, action: &str) -> Result<bool> {
    let sql = "SELECT id FROM rbac_policies WHERE object_type = $1 AND object_id = $2 AND action = $3 \
               AND (target_project = $4 OR target_project = '*') LIMIT 1";
    Ok(tx.query_opt(sql, params![object_type, object_id, action, project_id])?.is_some())
}

/// Ids of the ports of a project's networks, whoever owns the ports.
pub fn own_network_ids(tx: &mut Tx<'_>, project_id: &str) -> Result<Vec<String>> {
    tx.query("SELECT id FROM networks WHERE project_id = $1", params![project_id])?.iter().map(|r| r.text("id")).collect()
}

/// Networks with at least one tap on the host.
pub fn networks_on_host(tx: &mut Tx<'_>, host: &str) -> Result<Vec<String>> {
    let rows = tx.query("SELECT DISTINCT network_id FROM ports WHERE host_id = $1", params![host])?;
    rows.iter().map(|r| r.text("network_id")).collect()
}

/// Whether a port of the network is on the host.
pub fn network_on_host(tx: &mut Tx<'_>, network_id: &str, host: &str) -> Result<bool> {
    let sql = "SELECT 1 AS n FROM ports WHERE network_id = $1 AND host_id = $2 LIMIT 1";
    Ok(tx.query_opt(sql, params![network_id, host])?.is_some())
}

/// What DHCP needs of a guest's port: a part of [`Port`](super::Port), because a network has many.
#[derive(Debug, Deserialize)]
pub struct PluggedPort {
    pub id: String,
    pub mac_address: String,
    pub fixed_ips: Vec<FixedIp>,
    pub extra_dhcp_opts: Vec<DhcpOption>,
    #[serde(default)]
    pub dns_name: String,
}

/// Guests' ports of a network that have a tap on some host, by id.
pub fn plugged_ports(tx: &mut Tx<'_>, network_id: &str) -> Result<Vec<PluggedPort>> {
    // A range and not `<>`, so that the index serves it.
    let sql = "SELECT body FROM ports WHERE network_id = $1 AND host_id > '' AND device_owner NOT LIKE 'network:%' ORDER BY id";
    let read = |r: &Row| {
        let Value::Text(body) = r.value("body")? else { return Err(Error::internal("a port without a body")) };
        serde_json::from_str(body).map_err(|e| Error::internal("unreadable body in ports").caused_by(e))
    };
    tx.query(sql, params![network_id])?.iter().map(read).collect()
}

/// Networks with a port owned by `owner`.
pub fn networks_with_owner(tx: &mut Tx<'_>, owner: &str) -> Result<Vec<String>> {
    let rows = tx.query("SELECT DISTINCT network_id FROM ports WHERE device_owner = $1", params![owner])?;
    rows.iter().map(|r| r.text("network_id")).collect()
}

/// Segmentation ids in use for a type, smallest unused at or above `from`.
pub fn first_free_segment(tx: &mut Tx<'_>, network_type: &str, from: i64, to: i64) -> Result<Option<i64>> {
    let mut candidate = from;
    loop {
        if candidate > to {
            return Ok(None);
        }
        let sql =
            "SELECT segmentation_id FROM networks WHERE network_type = $1 AND segmentation_id >= $2 ORDER BY segmentation_id LIMIT 512";
        let rows = tx.query(sql, &[network_type.into(), Value::Int(candidate)])?;
        for r in &rows {
            if r.int("segmentation_id")? != candidate {
                return Ok(Some(candidate));
            }
            candidate += 1;
        }
        if rows.len() < 512 {
            return Ok((candidate <= to).then_some(candidate));
        }
    }
}
