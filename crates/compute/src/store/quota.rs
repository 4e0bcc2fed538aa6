//! Usage against limits, inside the transaction that uses. Usage is counted from the rows
//! themselves, so it can neither drift nor leak.

use super::quota_sets;
use super::servers::Server;
use caelum_base::{Error, Result};
use caelum_store::{Query, Tx};

/// What servers use of a project's quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub instances: i64,
    pub cores: i64,
    pub ram_mb: i64,
}

/// What a project's servers use now.
pub fn usage(tx: &mut Tx<'_>, project_id: &str) -> Result<Usage> {
    let q = Query::new().eq("project_id", project_id);
    Ok(Usage { instances: tx.count::<Server>(&q)?, cores: tx.sum::<Server>("vcpus", &q)?, ram_mb: tx.sum::<Server>("ram_mb", &q)? })
}

/// Whether the project may use `more`. Errors: `OverQuota` in upstream's words.
pub fn check(tx: &mut Tx<'_>, project_id: &str, more: Usage) -> Result<()> {
    let limits = quota_sets::effective(tx, project_id)?;
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
