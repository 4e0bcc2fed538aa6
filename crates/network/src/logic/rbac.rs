//! RBAC policies: who besides the owner may use a network or security group.

use super::networks::check_unshare;
use super::{State, Work, not_found, quota};
use crate::store::{self, Network, Port, RbacPolicy};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored};
use std::sync::Arc;

/// Keeps the network's own flags equal to its policies for every project.
fn refresh(w: &mut Work<'_, '_>, network_id: &str) -> Result<()> {
    let Some(mut n) = w.tx.get::<Network>(network_id)? else { return Ok(()) };
    let mut open = |action: &str| -> Result<bool> {
        let q = Query::new().eq("object_type", "network").eq("object_id", network_id).eq("target_project", "*").eq("action", action);
        Ok(w.tx.count::<RbacPolicy>(&q)? > 0)
    };
    let (shared, external) = (open("access_as_shared")?, open("access_as_external")?);
    // A network is external when anybody may use it as such.
    let q = Query::new().eq("object_type", "network").eq("object_id", network_id).eq("action", "access_as_external");
    let some = w.tx.count::<RbacPolicy>(&q)? > 0;
    if n.shared != shared || n.external != (external || some) {
        n.shared = shared;
        n.external = external || some;
        n.std.touch(w.now);
        w.tx.update(&mut n)?;
    }
    Ok(())
}

fn in_use(w: &mut Work<'_, '_>, p: &Stored<RbacPolicy>) -> Result<()> {
    let used = |why: &str| {
        let m = format!("RBAC policy on object {} cannot be removed because other objects depend on it. Details: {why}", p.object_id);
        Err(Error::conflict(m).code("RbacPolicyInUse"))
    };
    if p.object_type == "security_group" {
        for id in store::group_ports(w.tx, std::slice::from_ref(&p.object_id))? {
            if w.tx.get::<Port>(&id)?.is_some_and(|x| x.project_id != p.project_id) {
                return used("ports use the security group");
            }
        }
        return Ok(());
    }
    let Some(n) = w.tx.get::<Network>(&p.object_id)? else { return Ok(()) };
    if p.action == "access_as_shared" {
        let q = Query::new().eq("object_type", "network").eq("object_id", n.id.as_str()).eq("action", "access_as_shared");
        let keep: Vec<String> = w.tx.list::<RbacPolicy>(&q)?.into_iter().filter(|r| r.id != p.id).map(|r| r.value.target_project).collect();
        if !keep.iter().any(|k| k == "*") && check_unshare(w, &n, &keep).is_err() {
            return used("ports of other projects are on the network");
        }
    }
    if p.action == "access_as_external" {
        let gateways = w.tx.count::<store::Router>(&Query::new().eq("gateway_network_id", n.id.as_str()))?;
        let floating = w.tx.count::<store::FloatingIp>(&Query::new().eq("floating_network_id", n.id.as_str()))?;
        if gateways + floating > 0 {
            return used("routers or floating IPs use the network");
        }
    }
    Ok(())
}

impl State {
    pub async fn rbac_create(self: &Arc<Self>, policy: RbacPolicy) -> Result<RbacPolicy> {
        self.write(move |w| {
            quota::require(w.tx, quota::RBAC_POLICY, &policy.project_id, 1)?;
            let mut p = policy.clone();
            p.id = w.st.env.uuid();
            w.tx.insert(&p).map_err(|e| {
                if e.code == "duplicate" {
                    Error::conflict("An RBAC policy already exists with those values.").code("DuplicateRbacPolicy")
                } else {
                    e
                }
            })?;
            if p.object_type == "network" {
                refresh(w, &p.object_id)?;
            }
            Ok(p)
        })
        .await
    }

    pub async fn rbac_update(self: &Arc<Self>, id: String, target: String) -> Result<RbacPolicy> {
        self.write(move |w| {
            let mut p = w.tx.get::<RbacPolicy>(&id)?.ok_or_else(|| not_found("rbac_policy", &id))?;
            if p.target_project != target {
                in_use(w, &p)?;
                p.target_project.clone_from(&target);
                w.tx.update(&mut p)?;
                refresh(w, &p.object_id)?;
            }
            Ok(p.into_inner())
        })
        .await
    }

    pub async fn rbac_delete(self: &Arc<Self>, id: String) -> Result<()> {
        self.write(move |w| {
            let p = w.tx.get::<RbacPolicy>(&id)?.ok_or_else(|| not_found("rbac_policy", &id))?;
            in_use(w, &p)?;
            w.tx.delete(&p)?;
            refresh(w, &p.object_id)
        })
        .await
    }
}
