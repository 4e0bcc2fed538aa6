//! Usage against limits, inside the transaction that uses. Usage is counted from the rows
//! themselves, so it can neither drift nor leak.

use super::quota_sets;
use caelum_base::{Error, Result};
use caelum_store::{Tx, params};

/// What servers use of a project's quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub instances: i64,
    pub cores: i64,
    pub ram_mb: i64,
}

/// What a project's servers use now.
pub fn usage(tx: &mut Tx<'_>, project_id: &str) -> Result<Usage> {
    // One pass over an index that holds all three, because a project may have thousands of servers.
    let sql = "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(vcpus), 0) AS BIGINT) AS c, CAST(COALESCE(SUM(ram_mb), 0) AS BIGINT) AS r \
               FROM servers WHERE project_id = $1";
    let row = tx.query_opt(sql, params![project_id])?.ok_or_else(|| Error::internal("an aggregate returned no row"))?;
    Ok(Usage { instances: row.int("n")?, cores: row.int("c")?, ram_mb: row.int("r")? })
}

/// Whether the project may use `more`. Errors: `OverQuota` in upstream's words.
pub fn check(tx: &mut Tx<'_>, project_id: &str, more: Usage) -> Result<()> {
    let limits = quota_sets::effective(tx, project_id)?;
    if ["instances", "cores", "ram"].iter().all(|name| limits.get(*name).is_none_or(|l| *l < 0)) {
        return Ok(());
    }
    let used = usage(tx, project_id)?;
    let wanted = [("instances", used.instances, more.instances), ("cores", used.cores, more.cores), ("ram", used.ram_mb, more.ram_mb)];
    let mut over = Vec::new();
    for (name, used, more) in wanted {
        let limit = limits.get(name).copied().unwrap_or(-1);
        if more > 0 && limit >= 0 && used + more > limit {
            over.push((name, used, more, limit));
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    let list = |f: fn(&(&str, i64, i64, i64)) -> String| over.iter().map(f).collect::<Vec<_>>().join(", ");
    Err(Error::over_quota(format!(
        "Quota exceeded for {}: Requested {}, but already used {} of {} {}",
        list(|o| o.0.to_string()),
        list(|o| o.2.to_string()),
        list(|o| o.1.to_string()),
        list(|o| o.3.to_string()),
        list(|o| o.0.to_string()),
    )))
}
