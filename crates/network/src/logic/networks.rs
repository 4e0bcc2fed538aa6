//! Networks and their segments.

use super::{Options, State, Work, not_found, quota};
use crate::store::{self, Network, Port, RbacPolicy, Router, Std, Subnet};
use caelum_base::{Error, Result};
use caelum_store::{Filter, Query};
use std::sync::Arc;

/// A network as its creator wants it.
#[derive(Clone, Debug, Default)]
pub struct NetworkInput {
    pub project_id: String,
    pub name: String,
    pub description: String,
    pub admin_state_up: bool,
    pub shared: bool,
    pub external: bool,
    pub is_default: bool,
    pub network_type: Option<String>,
    pub physical_network: Option<String>,
    pub segmentation_id: Option<i64>,
    pub mtu: Option<i64>,
    pub port_security_enabled: bool,
    pub dns_domain: String,
    pub az_hints: Vec<String>,
}

/// Changes to a network; absent means unchanged.
#[derive(Clone, Debug, Default)]
pub struct NetworkChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub admin_state_up: Option<bool>,
    pub shared: Option<bool>,
    pub external: Option<bool>,
    pub is_default: Option<bool>,
    pub mtu: Option<i64>,
    pub port_security_enabled: Option<bool>,
    pub dns_domain: Option<String>,
    pub if_revision: Option<i64>,
}

/// A chosen segment.
struct Segment {
    kind: String,
    physical: Option<String>,
    id: Option<i64>,
    max_mtu: i64,
}

fn bad(message: impl Into<String>) -> Error {
    Error::invalid(format!("Invalid input for operation: {}.", message.into())).code("InvalidInput")
}

fn choose_segment(w: &mut Work<'_, '_>, n: &NetworkInput) -> Result<Segment> {
    let o: &Options = &w.st.options;
    if n.network_type.is_none() && (n.physical_network.is_some() || n.segmentation_id.is_some()) {
        return Err(bad("network_type required"));
    }
    let kind = n.network_type.clone().unwrap_or_else(|| o.tenant_network_type.clone());
    match kind.as_str() {
        "local" => {
            if n.physical_network.is_some() || n.segmentation_id.is_some() {
                return Err(bad("provider:physical_network and provider:segmentation_id are prohibited for local networks"));
            }
            Ok(Segment { kind, physical: None, id: None, max_mtu: o.mtu })
        }
        "flat" => {
            if n.segmentation_id.is_some() {
                return Err(bad("segmentation_id prohibited for flat provider network"));
            }
            let physical = n.physical_network.clone().ok_or_else(|| bad("physical_network required for flat provider network"))?;
            if !o.physical_networks.contains(&physical) {
                return Err(bad(format!("physical_network '{physical}' unknown for flat provider network")));
            }
            let taken = Query::new().eq("network_type", "flat").eq("physical_network", physical.as_str());
            if w.tx.count::<Network>(&taken)? > 0 {
                let m = format!("Unable to create the flat network. Physical network {physical} is in use.");
                return Err(Error::conflict(m).code("FlatNetworkInUse"));
            }
            Ok(Segment { kind, physical: Some(physical), id: None, max_mtu: o.mtu })
        }
        "vxlan" => {
            if n.physical_network.is_some() {
                return Err(bad("provider:physical_network specified for vxlan network"));
            }
            let (first, last) = o.vni_range;
            let id = match n.segmentation_id {
                Some(id) if !(1..=16_777_215).contains(&id) => {
                    return Err(bad(format!("segmentation_id {id} out of range (1 through 16777215)")));
                }
                Some(id) => {
                    if w.tx.count::<Network>(&Query::new().eq("network_type", "vxlan").eq("segmentation_id", id))? > 0 {
                        let m = format!("Unable to create the network. The tunnel ID {id} is in use.");
                        return Err(Error::conflict(m).code("TunnelIdInUse"));
                    }
                    id
                }
                None => store::first_free_segment(w.tx, "vxlan", first, last)?.ok_or_else(|| {
                    Error::unavailable("Unable to create the network. No tenant network is available for allocation.")
                        .code("NoNetworkAvailable")
                })?,
            };
            Ok(Segment { kind, physical: None, id: Some(id), max_mtu: o.mtu - 50 })
        }
        other => Err(bad(format!("provider:network_type '{other}' is not supported"))),
    }
}

fn check_mtu(mtu: Option<i64>, max: i64) -> Result<i64> {
    match mtu {
        None | Some(0) => Ok(max),
        Some(m) if (68..=max).contains(&m) => Ok(m),
        Some(m) => Err(bad(format!("Requested MTU is too big or too small, must be 68 to {max}, was {m}"))),
    }
}

fn insert(w: &mut Work<'_, '_>, n: &NetworkInput) -> Result<Network> {
    quota::require(w.tx, quota::NETWORK, &n.project_id, 1)?;
    super::groups::ensure_default(w, &n.project_id)?;
    let segment = choose_segment(w, n)?;
    let network = Network {
        id: w.st.env.uuid(),
        project_id: n.project_id.clone(),
        name: n.name.clone(),
        admin_state_up: n.admin_state_up,
        shared: n.shared,
        external: n.external,
        is_default: n.is_default,
        network_type: segment.kind,
        physical_network: segment.physical,
        segmentation_id: segment.id,
        mtu: check_mtu(n.mtu, segment.max_mtu)?,
        port_security_enabled: n.port_security_enabled,
        dns_domain: n.dns_domain.clone(),
        az_hints: n.az_hints.clone(),
        dhcp_hosted: None,
        std: Std::new(w.now, n.description.clone()),
    };
    if network.is_default {
        one_default(w, &network.id)?;
    }
    w.tx.insert(&network)?;
    for (set, action) in [(n.shared, "access_as_shared"), (n.external, "access_as_external")] {
        if set {
            open_to_all(w, &network, action)?;
        }
    }
    Ok(network)
}

fn one_default(w: &mut Work<'_, '_>, id: &str) -> Result<()> {
    let others = w.tx.list::<Network>(&Query::new().eq("is_default", true).filter(Filter::Ne("id", id.into())))?;
    let Some(other) = others.first() else { return Ok(()) };
    let m = format!("A default external network already exists: {}.", other.id);
    Err(Error::conflict(m).code("DefaultExternalNetworkExists"))
}

fn open_to_all(w: &mut Work<'_, '_>, network: &Network, action: &str) -> Result<()> {
    w.tx.insert(&RbacPolicy {
        id: w.st.env.uuid(),
        project_id: network.project_id.clone(),
        object_type: "network".into(),
        object_id: network.id.clone(),
        target_project: "*".into(),
        action: action.into(),
    })?;
    Ok(())
}

fn close_to_all(w: &mut Work<'_, '_>, network: &Network, action: &str) -> Result<()> {
    let q = Query::new().eq("object_type", "network").eq("object_id", network.id.as_str()).eq("target_project", "*").eq("action", action);
    w.tx.delete_where::<RbacPolicy>(&q).map(drop)
}

/// Refuses to close a network to projects that have ports on it. `keep` still have access.
pub fn check_unshare(w: &mut Work<'_, '_>, network: &Network, keep: &[String]) -> Result<()> {
    let q = Query::new().eq("network_id", network.id.as_str());
    for p in w.tx.list::<Port>(&q)? {
        let ours = p.project_id == network.project_id || p.project_id.is_empty() || keep.contains(&p.project_id);
        if !ours && !p.is_network_owned() {
            let m = format!("Unable to reconfigure sharing settings for network {}. Multiple tenants are using it.", network.id);
            return Err(Error::conflict(m).code("InvalidSharedSetting"));
        }
    }
    Ok(())
}

fn external_in_use(w: &mut Work<'_, '_>, network: &Network) -> Result<()> {
    let gateways = w.tx.count::<Router>(&Query::new().eq("gateway_network_id", network.id.as_str()))?;
    let floating = w.tx.count::<store::FloatingIp>(&Query::new().eq("floating_network_id", network.id.as_str()))?;
    if gateways + floating == 0 {
        return Ok(());
    }
    let m = format!("External network {} cannot be updated to be made non-external, since it has existing gateway ports", network.id);
    Err(Error::conflict(m).code("ExternalNetworkInUse"))
}

fn sharing_changes(w: &mut Work<'_, '_>, n: &mut Network, c: &NetworkChange) -> Result<()> {
    if let Some(shared) = c.shared
        && shared != n.shared
    {
        if shared {
            open_to_all(w, n, "access_as_shared")?;
        } else {
            let q = Query::new().eq("object_type", "network").eq("object_id", n.id.as_str()).eq("action", "access_as_shared");
            let keep: Vec<String> = w.tx.list::<RbacPolicy>(&q)?.into_iter().map(|r| r.value.target_project).collect();
            check_unshare(w, n, &keep)?;
            close_to_all(w, n, "access_as_shared")?;
        }
        n.shared = shared;
    }
    if let Some(external) = c.external
        && external != n.external
    {
        if external {
            open_to_all(w, n, "access_as_external")?;
        } else {
            external_in_use(w, n)?;
            let q = Query::new().eq("object_type", "network").eq("object_id", n.id.as_str()).eq("action", "access_as_external");
            w.tx.delete_where::<RbacPolicy>(&q)?;
        }
        n.external = external;
    }
    Ok(())
}

/// Floating addresses of the network that lead nowhere do not keep it.
fn drop_unused_floating(w: &mut Work<'_, '_>, network_id: &str) -> Result<()> {
    let q = Query::new().eq("floating_network_id", network_id).filter(Filter::IsNull("port_id"));
    for f in w.tx.list::<store::FloatingIp>(&q)? {
        if let Some(p) = w.tx.get::<Port>(&f.floating_port_id)? {
            super::ports::remove(w, &p)?;
        }
        w.tx.delete(&f)?;
    }
    Ok(())
}

/// Refuses a change when the caller saw another revision.
pub fn check_revision(wanted: Option<i64>, std: &Std) -> Result<()> {
    match wanted {
        Some(r) if r != std.revision => {
            let m = format!("Constrained to {r}, but current revision is {}", std.revision);
            Err(Error::status(412, m).code("RevisionNumberConstraintFailed"))
        }
        _ => Ok(()),
    }
}

impl State {
    /// Creates all of the networks or none.
    pub async fn network_create(self: &Arc<Self>, inputs: Vec<NetworkInput>) -> Result<Vec<Network>> {
        self.write(move |w| inputs.iter().map(|n| insert(w, n)).collect()).await
    }

    pub async fn network_update(self: &Arc<Self>, id: String, c: NetworkChange) -> Result<Network> {
        self.write(move |w| {
            let mut n = w.tx.get::<Network>(&id)?.ok_or_else(|| not_found("network", &id))?;
            check_revision(c.if_revision, &n.std)?;
            sharing_changes(w, &mut n, &c)?;
            if let Some(m) = c.mtu {
                let max = w.st.options.mtu - if n.network_type == "vxlan" { 50 } else { 0 };
                n.mtu = check_mtu(Some(m), max)?;
            }
            if let Some(d) = c.is_default {
                n.is_default = d;
                if d {
                    one_default(w, &id)?;
                }
            }
            set(&mut n.value.name, &c.name);
            set(&mut n.value.std.description, &c.description);
            set(&mut n.value.admin_state_up, &c.admin_state_up);
            set(&mut n.value.port_security_enabled, &c.port_security_enabled);
            set(&mut n.value.dns_domain, &c.dns_domain);
            n.std.touch(w.now);
            w.tx.update(&mut n)?;
            w.changes.networks.insert(id.clone());
            Ok(n.into_inner())
        })
        .await
    }

    /// Removes a network with its subnets and DHCP ports. Errors: `NetworkInUse` when anything
    /// else is plugged in.
    pub async fn network_delete(self: &Arc<Self>, id: String, if_revision: Option<i64>) -> Result<()> {
        self.write(move |w| {
            let n = w.tx.get::<Network>(&id)?.ok_or_else(|| not_found("network", &id))?;
            check_revision(if_revision, &n.std)?;
            drop_unused_floating(w, &id)?;
            let q = Query::new().eq("network_id", id.as_str()).filter(Filter::Ne("device_owner", "network:dhcp".into())).limit(10);
            let users: Vec<String> = w.tx.list::<Port>(&q)?.into_iter().map(|p| p.value.id).collect();
            if !users.is_empty() {
                let m = format!(
                    "Unable to complete operation on network {id}. There are one or more ports still in use on the network, id for these ports is: {}.",
                    users.join(",")
                );
                return Err(Error::conflict(m).code("NetworkInUse"));
            }
            for p in w.tx.list::<Port>(&Query::new().eq("network_id", id.as_str()))? {
                super::ports::remove(w, &p)?;
            }
            for s in w.tx.list::<Subnet>(&Query::new().eq("network_id", id.as_str()))? {
                w.tx.delete(&s)?;
                w.st.hints.forget(&s.id);
            }
            w.tx.delete_where::<RbacPolicy>(&Query::new().eq("object_type", "network").eq("object_id", id.as_str()))?;
            w.tx.delete(&n)?;
            w.changes.networks.insert(id.clone());
            Ok(())
        })
        .await
    }
}

/// Replaces a value when a new one is given.
pub fn set<T: Clone>(target: &mut T, value: &Option<T>) {
    if let Some(v) = value {
        target.clone_from(v);
    }
}
