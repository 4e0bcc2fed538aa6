//! Limits and use of projects and users.

use crate::store::groups::ServerGroup;
use crate::store::keypairs::KeyPair;
use crate::store::quota;
use crate::store::quota_sets::{DEFAULTS, QuotaSet, class_limits, effective};
use crate::store::servers::Server;
use caelum_base::{Error, Result};
use caelum_store::{Query, Tx};
use std::collections::BTreeMap;

pub type Limits = BTreeMap<String, i64>;

/// Row of a user's limits in a project; they can only be lower than the project's.
fn user_row(project: &str, user: &str) -> String {
    format!("user:{project}:{user}")
}

/// The limits that hold for a project, or for one user in it.
pub fn limits(tx: &mut Tx<'_>, project: &str, user: Option<&str>) -> Result<Limits> {
    let mut out = effective(tx, project)?;
    if let Some(user) = user
        && let Some(set) = tx.get::<QuotaSet>(&user_row(project, user))?
    {
        out.extend(set.value.limits);
    }
    Ok(out)
}

/// What is in use now, by the names of limits; what is limited per server or user is 0.
pub fn in_use(tx: &mut Tx<'_>, project: &str, user: Option<&str>) -> Result<Limits> {
    let mut out: Limits = DEFAULTS.iter().map(|(k, _)| ((*k).to_string(), 0)).collect();
    let (mut servers, mut groups) = (Query::new().eq("project_id", project), Query::new().eq("project_id", project));
    let used = match user {
        None => quota::usage(tx, project)?,
        Some(user) => {
            servers = servers.eq("user_id", user);
            groups = groups.eq("user_id", user);
            quota::Usage {
                instances: tx.count::<Server>(&servers)?,
                cores: tx.sum::<Server>("vcpus", &servers)?,
                ram_mb: tx.sum::<Server>("ram_mb", &servers)?,
            }
        }
    };
    let keys = user.map(|u| tx.count::<KeyPair>(&Query::new().eq("user_id", u))).transpose()?;
    let groups = tx.count::<ServerGroup>(&groups)?;
    for (name, n) in [("instances", used.instances), ("cores", used.cores), ("ram", used.ram_mb), ("server_groups", groups)] {
        out.insert(name.to_string(), n);
    }
    out.insert("key_pairs".to_string(), keys.unwrap_or(0));
    Ok(out)
}

/// Sets limits. Without `force` a limit below what is in use is refused.
pub fn update(tx: &mut Tx<'_>, project: &str, user: Option<&str>, new: &Limits, force: bool) -> Result<Limits> {
    if !force {
        let used = in_use(tx, project, user)?;
        for (name, limit) in new {
            let used = used.get(name).copied().unwrap_or(0);
            if *limit >= 0 && *limit < used {
                return Err(Error::invalid(format!(
                    "Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used}."
                )));
            }
        }
    }
    if user.is_some() {
        let project = effective(tx, project)?;
        for (name, limit) in new {
            let most = project.get(name).copied().unwrap_or(-1);
            if most >= 0 && (*limit < 0 || *limit > most) {
                return Err(Error::invalid(format!("Quota limit {limit} for {name} must be less than or equal to {most}.")));
            }
        }
    }
    write(tx, &user.map_or_else(|| project.to_string(), |u| user_row(project, u)), new)?;
    limits(tx, project, user)
}

/// Adds limits to a row, which is made when it is not there.
pub fn write(tx: &mut Tx<'_>, id: &str, new: &Limits) -> Result<()> {
    if let Some(mut set) = tx.get::<QuotaSet>(id)? {
        set.limits.extend(new.clone());
        return tx.update(&mut set);
    }
    tx.insert(&QuotaSet { id: id.to_string(), limits: new.clone() }).map(drop)
}

/// Back to the defaults.
pub fn delete(tx: &mut Tx<'_>, project: &str, user: Option<&str>) -> Result<()> {
    let id = user.map_or_else(|| project.to_string(), |u| user_row(project, u));
    tx.delete_id::<QuotaSet>(&id).map(drop)
}

/// The limits of every project that has none of its own.
pub fn defaults(tx: &mut Tx<'_>) -> Result<Limits> {
    class_limits(tx, "default")
}
