//! Floating addresses: an address of an external network that leads to a port's fixed address.

use super::ipam::Wanted;
use super::networks::{check_revision, set};
use super::ports::{self, PortInput};
use super::{Caller, State, Work, not_found, quota, routers, subnets};
use crate::store::{FloatingIp, Network, Port, Std};
use caelum_base::{Error, Result};
use caelum_store::Query;
use std::net::IpAddr;
use std::sync::Arc;

pub const OWNER: &str = "network:floatingip";

#[derive(Clone, Debug, Default)]
pub struct FloatingInput {
    pub project_id: String,
    pub floating_network_id: String,
    pub subnet_id: Option<String>,
    pub floating_ip_address: Option<IpAddr>,
    pub port_id: Option<String>,
    pub fixed_ip_address: Option<IpAddr>,
    pub description: String,
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct FloatingChange {
    /// `Some(None)` takes it off its port.
    pub port_id: Option<Option<String>>,
    pub fixed_ip_address: Option<IpAddr>,
    pub description: Option<String>,
    pub if_revision: Option<i64>,
}

fn bad(message: String) -> Error {
    Error::invalid(format!("Bad floatingip request: {message}.")).code("BadRequest")
}

/// The fixed address a floating one shall lead to.
fn choose_fixed(p: &Port, wanted: Option<IpAddr>) -> Result<(IpAddr, String)> {
    let found = match wanted {
        Some(ip) => {
            let f = p.fixed_ips.iter().find(|f| f.ip_address == ip);
            let f = f.ok_or_else(|| bad(format!("Port {} does not have fixed ip {ip}", p.id)))?;
            if !ip.is_ipv4() {
                return Err(bad(format!("Cannot process floating IP association with port {}: it is not IPv4", p.id)));
            }
            f
        }
        None => {
            let v4: Vec<_> = p.fixed_ips.iter().filter(|f| f.ip_address.is_ipv4()).collect();
            match v4.as_slice() {
                [one] => *one,
                [] => return Err(bad(format!("Cannot add floating IP to port {} that has no fixed IPv4 addresses", p.id))),
                _ => {
                    let m = format!(
                        "Port {} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a floating IP",
                        p.id
                    );
                    return Err(bad(m));
                }
            }
        }
    };
    Ok((found.ip_address, found.subnet_id.clone()))
}

/// Points the floating address at a port.
fn associate(w: &mut Work<'_, '_>, f: &mut FloatingIp, port_id: &str, fixed: Option<IpAddr>, who: &Caller) -> Result<()> {
    let p = w.tx.get::<Port>(port_id)?.filter(|p| who.admin || p.project_id == who.project_id);
    let p = p.ok_or_else(|| not_found("port", port_id))?;
    if p.project_id != f.project_id && !who.admin {
        return Err(bad(format!(
            "Port {port_id} is associated with a different tenant than Floating IP {} and therefore cannot be bound",
            f.id
        )));
    }
    if p.is_network_owned() {
        return Err(bad(format!("Cannot associate a floating IP with port {port_id}, which has device owner {}", p.device_owner)));
    }
    let (ip, subnet_id) = choose_fixed(&p, fixed)?;
    let taken = Query::new().eq("port_id", port_id).eq("fixed_ip_address", ip.to_string());
    if let Some(other) = w.tx.first::<FloatingIp>(&taken)?
        && other.id != f.id
    {
        let m = format!(
            "Cannot associate floating IP {} ({}) with port {port_id} using fixed IP {ip}, as that fixed IP already has a floating IP on external network {}.",
            f.floating_ip_address, f.id, other.floating_network_id
        );
        return Err(Error::conflict(m).code("FloatingIPPortAlreadyAssociated"));
    }
    let router = routers::towards(w, &p.network_id, &subnet_id, &f.floating_network_id)?.ok_or_else(|| {
        let m = format!(
            "External network {} is not reachable from subnet {subnet_id}.  Therefore, cannot associate Port {port_id} with a Floating IP.",
            f.floating_network_id
        );
        Error::not_found(m).code("ExternalGatewayForFloatingIPNotFound")
    })?;
    w.changes.routers.extend(f.router_id.clone());
    w.changes.routers.insert(router.clone());
    f.port_id = Some(port_id.to_string());
    f.fixed_ip_address = Some(ip);
    f.router_id = Some(router);
    f.status = "DOWN".into();
    Ok(())
}

fn disassociate(w: &mut Work<'_, '_>, f: &mut FloatingIp) {
    w.changes.routers.extend(f.router_id.take());
    f.port_id = None;
    f.fixed_ip_address = None;
    f.status = "DOWN".into();
}

/// The port on the external network that holds the address.
fn holder(w: &mut Work<'_, '_>, i: &FloatingInput, id: &str) -> Result<Port> {
    let all = subnets::of_network(w, &i.floating_network_id)?;
    let exhausted = || {
        let m = format!("Unable to find any IP address on external network {}.", i.floating_network_id);
        Error::invalid(m).code("ExternalIpAddressExhausted")
    };
    if let Some(s) = i.subnet_id.as_ref().filter(|s| !all.iter().any(|x| x.id == **s)) {
        return Err(bad(format!("Subnet {s} is not on external network {}", i.floating_network_id)));
    }
    let candidates: Vec<Wanted> = match (&i.subnet_id, i.floating_ip_address) {
        (None, None) => all
            .iter()
            .filter(|s| s.ip_version == 4 && (s.service_types.is_empty() || s.service_types.iter().any(|t| t == OWNER)))
            .map(|s| Wanted { subnet_id: Some(s.id.clone()), ip_address: None })
            .collect(),
        (subnet_id, ip_address) => vec![Wanted { subnet_id: subnet_id.clone(), ip_address }],
    };
    let mut last = exhausted();
    for wanted in candidates {
        let input = PortInput {
            network_id: i.floating_network_id.clone(),
            admin_state_up: true,
            fixed_ips: Some(vec![wanted]),
            device_id: id.to_string(),
            device_owner: OWNER.into(),
            security_groups: Some(Vec::new()),
            ..PortInput::default()
        };
        match ports::insert(w, &input, true) {
            Ok(p) => return Ok(p),
            Err(e) if e.code.starts_with("IpAddressGenerationFailure") => last = exhausted(),
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

impl State {
    pub async fn floating_create(self: &Arc<Self>, i: FloatingInput, who: Caller) -> Result<FloatingIp> {
        self.write(move |w| {
            let network = w.tx.get::<Network>(&i.floating_network_id)?.ok_or_else(|| not_found("network", &i.floating_network_id))?;
            if !network.external {
                return Err(bad(format!("Network {} is not a valid external network", network.id)));
            }
            quota::require(w.tx, quota::FLOATING_IP, &i.project_id, 1)?;
            let id = w.st.env.uuid();
            let p = holder(w, &i, &id)?;
            let address = p.fixed_ips.first().ok_or_else(|| Error::internal("a floating port without an address"))?.ip_address;
            let mut f = FloatingIp {
                id,
                project_id: i.project_id.clone(),
                floating_network_id: i.floating_network_id.clone(),
                floating_ip_address: address,
                floating_port_id: p.id,
                port_id: None,
                fixed_ip_address: None,
                router_id: None,
                status: "DOWN".into(),
                std: Std { tags: i.tags.clone(), ..Std::new(w.now, i.description.clone()) },
            };
            match (&i.port_id, i.fixed_ip_address) {
                (Some(port), fixed) => associate(w, &mut f, port, fixed, &who)?,
                (None, Some(_)) => return Err(bad("fixed_ip_address cannot be specified without a port_id".into())),
                (None, None) => {}
            }
            w.tx.insert(&f)?;
            Ok(f)
        })
        .await
    }

    pub async fn floating_update(self: &Arc<Self>, id: String, c: FloatingChange, who: Caller) -> Result<FloatingIp> {
        self.write(move |w| {
            let mut f = w.tx.get::<FloatingIp>(&id)?.ok_or_else(|| not_found("floatingip", &id))?;
            check_revision(c.if_revision, &f.std)?;
            match (&c.port_id, c.fixed_ip_address) {
                (Some(Some(port)), fixed) => associate(w, &mut f.value, port, fixed, &who)?,
                (None | Some(None), Some(_)) => {
                    return Err(bad("fixed_ip_address cannot be specified without a port_id".into()));
                }
                (Some(None), None) => disassociate(w, &mut f.value),
                (None, None) => {}
            }
            set(&mut f.value.std.description, &c.description);
            f.std.touch(w.now);
            w.tx.update(&mut f)?;
            Ok(f.into_inner())
        })
        .await
    }

    pub async fn floating_delete(self: &Arc<Self>, id: String) -> Result<()> {
        self.write(move |w| {
            let f = w.tx.get::<FloatingIp>(&id)?.ok_or_else(|| not_found("floatingip", &id))?;
            w.changes.routers.extend(f.router_id.clone());
            w.tx.delete(&f)?;
            if let Some(p) = w.tx.get::<Port>(&f.floating_port_id)? {
                ports::remove(w, &p)?;
            }
            Ok(())
        })
        .await
    }
}
