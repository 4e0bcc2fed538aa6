//! Ports: addresses, security groups, binding.

use super::ipam::{self, Claimant, Wanted};
use super::networks::{check_revision, set};
use super::{Caller, State, Work, groups, net, not_found, quota, subnets};
use crate::store::{self, AddressPair, DhcpOption, FixedIp, FloatingIp, Network, Port, Router, Std};
use caelum_base::{Error, Result};
use caelum_store::{Filter, Query, Stored};
use serde_json::{Map, Value};
use std::sync::Arc;

/// MACs tried before giving up.
const MAC_TRIES: usize = 16;

/// A port as its creator wants it; `None` leaves the choice to the service.
#[derive(Clone, Debug, Default)]
pub struct PortInput {
    pub project_id: String,
    pub network_id: String,
    pub name: String,
    pub description: String,
    pub admin_state_up: bool,
    pub mac_address: Option<String>,
    pub fixed_ips: Option<Vec<Wanted>>,
    pub device_id: String,
    pub device_owner: String,
    pub security_groups: Option<Vec<String>>,
    pub allowed_address_pairs: Vec<AddressPair>,
    pub extra_dhcp_opts: Vec<DhcpOption>,
    pub host_id: String,
    pub profile: Map<String, Value>,
    pub vnic_type: Option<String>,
    pub port_security_enabled: Option<bool>,
    pub dns_name: String,
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct PortChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub admin_state_up: Option<bool>,
    pub mac_address: Option<String>,
    pub fixed_ips: Option<Vec<Wanted>>,
    pub device_id: Option<String>,
    pub device_owner: Option<String>,
    pub security_groups: Option<Vec<String>>,
    pub allowed_address_pairs: Option<Vec<AddressPair>>,
    /// An option without a value goes.
    pub extra_dhcp_opts: Option<Vec<(DhcpOption, bool)>>,
    pub host_id: Option<String>,
    pub profile: Option<Map<String, Value>>,
    pub vnic_type: Option<String>,
    pub port_security_enabled: Option<bool>,
    pub dns_name: Option<String>,
    pub if_revision: Option<i64>,
}

fn mac_in_use(mac: &str, network_id: &str) -> Error {
    let m = format!("Unable to complete operation for network {network_id}. The mac address {mac} is in use.");
    Error::conflict(m).code("MacAddressInUse")
}

fn free_mac(w: &mut Work<'_, '_>, network_id: &str) -> Result<String> {
    for _ in 0..MAC_TRIES {
        let mac = net::random_mac(&w.st.env);
        if w.tx.count::<Port>(&Query::new().eq("network_id", network_id).eq("mac", mac.as_str()))? == 0 {
            return Ok(mac);
        }
    }
    Err(Error::unavailable(format!("Unable to generate unique mac on network {network_id}.")).code("MacAddressGenerationFailure"))
}

fn check_groups(w: &mut Work<'_, '_>, ids: &[String], project_id: &str, admin: bool) -> Result<Vec<String>> {
    let who = Caller { project_id: project_id.to_string(), admin };
    let mut out: Vec<String> = Vec::with_capacity(ids.len());
    for id in ids {
        groups::visible(w, id, &who)?;
        if !out.contains(id) {
            out.push(id.clone());
        }
    }
    Ok(out)
}

fn check_security(p: &Port) -> Result<()> {
    if p.port_security_enabled {
        return Ok(());
    }
    if !p.security_groups.is_empty() {
        let m = "Port has security group associated. Cannot disable port security or IP address until security group is removed.";
        return Err(Error::conflict(m).code("PortSecurityPortHasSecurityGroup"));
    }
    if !p.allowed_address_pairs.is_empty() {
        let m = "Port Security must be enabled in order to have allowed address pairs on a port.";
        return Err(Error::conflict(m).code("AddressPairAndPortSecurityRequired"));
    }
    Ok(())
}

/// Inserts a port with its addresses. The caller has decided that the creator may.
pub fn insert(w: &mut Work<'_, '_>, i: &PortInput, admin: bool) -> Result<Port> {
    let network = w.tx.get::<Network>(&i.network_id)?.ok_or_else(|| not_found("network", &i.network_id))?;
    let subnets = subnets::of_network(w, &network.id)?;
    let id = w.st.env.uuid();
    let mac = match &i.mac_address {
        Some(m) => m.clone(),
        None => free_mac(w, &network.id)?,
    };
    let owned = i.device_owner.starts_with("network:");
    let port_security_enabled = !owned && i.port_security_enabled.unwrap_or(network.port_security_enabled);
    let security_groups = match &i.security_groups {
        Some(ids) => check_groups(w, ids, &i.project_id, admin)?,
        None if port_security_enabled => vec![groups::ensure_default(w, &i.project_id)?],
        None => Vec::new(),
    };
    let who = Claimant { port_id: &id, network_id: &network.id, mac: &mac, device_owner: &i.device_owner };
    let fixed_ips = ipam::assign(w.tx, &w.st.hints, &who, &subnets, i.fixed_ips.as_deref())?;
    let port = Port {
        id,
        project_id: i.project_id.clone(),
        network_id: i.network_id.clone(),
        name: i.name.clone(),
        admin_state_up: i.admin_state_up,
        mac_address: mac,
        fixed_ips,
        device_id: i.device_id.clone(),
        device_owner: i.device_owner.clone(),
        status: if i.device_owner == "network:floatingip" { "N/A".into() } else { "DOWN".into() },
        security_groups,
        allowed_address_pairs: pairs_with_mac(&i.allowed_address_pairs, None)?,
        extra_dhcp_opts: i.extra_dhcp_opts.clone(),
        host_id: i.host_id.clone(),
        profile: i.profile.clone(),
        vnic_type: i.vnic_type.clone().unwrap_or_else(|| "normal".into()),
        port_security_enabled,
        dns_name: i.dns_name.clone(),
        std: Std { tags: i.tags.clone(), ..Std::new(w.now, i.description.clone()) },
    };
    let port = Port { allowed_address_pairs: pairs_with_mac(&port.allowed_address_pairs, Some(&port.mac_address))?, ..port };
    check_security(&port)?;
    let taken = w.tx.insert(&port);
    taken.map_err(|e| if e.code == "duplicate" { mac_in_use(&port.mac_address, &port.network_id) } else { e })?;
    store::set_port_groups(w.tx, &port.id, &port.security_groups, true)?;
    w.changes.port(&port);
    Ok(port)
}

/// Fills in the port's own MAC where a pair names none, and refuses double pairs.
fn pairs_with_mac(pairs: &[AddressPair], mac: Option<&str>) -> Result<Vec<AddressPair>> {
    let mut out: Vec<AddressPair> = Vec::with_capacity(pairs.len());
    for p in pairs {
        let mut p = p.clone();
        if let (true, Some(mac)) = (p.mac_address.is_empty(), mac) {
            p.mac_address = mac.to_string();
        }
        if out.contains(&p) {
            let m = format!("Request contains duplicate address pair: mac_address {} ip_address {}.", p.mac_address, p.ip_address);
            return Err(Error::invalid(m).code("DuplicateAddressPairInRequest"));
        }
        out.push(p);
    }
    Ok(out)
}

/// Removes a port with everything that hangs on it.
pub fn remove(w: &mut Work<'_, '_>, p: &Stored<Port>) -> Result<()> {
    for mut f in w.tx.list::<FloatingIp>(&Query::new().eq("port_id", p.id.as_str()))? {
        w.changes.routers.extend(f.router_id.clone());
        f.value.port_id = None;
        f.value.fixed_ip_address = None;
        f.value.router_id = None;
        f.value.status = "DOWN".into();
        f.std.touch(w.now);
        w.tx.update(&mut f)?;
    }
    store::release_port(w.tx, &p.id)?;
    store::set_port_groups(w.tx, &p.id, &[], false)?;
    w.tx.delete(p)?;
    w.changes.port(p);
    w.changes.gone.push(p.value.clone());
    Ok(())
}

/// Keeps what is wanted and there, gives back the rest, takes what is missing.
fn readdress(w: &mut Work<'_, '_>, p: &mut Port, wanted: &[Wanted]) -> Result<()> {
    let subnets = subnets::of_network(w, &p.network_id)?;
    let mut old = std::mem::take(&mut p.fixed_ips);
    let mut kept: Vec<FixedIp> = Vec::new();
    let mut missing: Vec<Wanted> = Vec::new();
    let exact = |f: &FixedIp, w: &Wanted| w.ip_address == Some(f.ip_address) && w.subnet_id.as_ref().is_none_or(|s| *s == f.subnet_id);
    let mut loose: Vec<&Wanted> = Vec::new();
    for x in wanted {
        match old.iter().position(|f| exact(f, x)) {
            Some(at) => kept.push(old.remove(at)),
            None if x.ip_address.is_some() => missing.push(x.clone()),
            None => loose.push(x),
        }
    }
    for x in loose {
        match old.iter().position(|f| x.subnet_id.as_ref() == Some(&f.subnet_id)) {
            Some(at) => kept.push(old.remove(at)),
            None => missing.push(x.clone()),
        }
    }
    if !wanted.is_empty() && !p.is_network_owned() {
        // Derived addresses stay as long as the port has addresses at all.
        let automatic = |f: &FixedIp| subnets.iter().any(|s| s.id == f.subnet_id && s.is_auto_address());
        let (stay, go): (Vec<FixedIp>, Vec<FixedIp>) = old.into_iter().partition(automatic);
        kept.extend(stay);
        old = go;
    }
    for f in &old {
        store::release_address(w.tx, &f.subnet_id, f.ip_address, &p.id)?;
    }
    let kept_subnets: Vec<String> = kept.iter().map(|f| f.subnet_id.clone()).collect();
    // Automatic addresses come with any other address, but must not be taken twice.
    let rest: Vec<_> = subnets.into_iter().filter(|s| !(s.is_auto_address() && kept_subnets.contains(&s.id))).collect();
    let who = Claimant { port_id: &p.id, network_id: &p.network_id, mac: &p.mac_address, device_owner: &p.device_owner };
    // With nothing missing nothing is assigned, automatic addresses included.
    let fresh = ipam::assign(w.tx, &w.st.hints, &who, &rest, Some(&missing))?;
    kept.extend(fresh);
    p.fixed_ips = kept;
    detach_lost(w, p)
}

/// Gives a port of the service itself other addresses.
pub fn move_port(w: &mut Work<'_, '_>, port_id: &str, wanted: &[Wanted]) -> Result<Vec<FixedIp>> {
    let mut p = w.tx.get::<Port>(port_id)?.ok_or_else(|| not_found("port", port_id))?;
    readdress(w, &mut p.value, wanted)?;
    p.std.touch(w.now);
    w.tx.update(&mut p)?;
    w.changes.port(&p);
    Ok(p.value.fixed_ips)
}

/// Floating addresses of fixed addresses the port no longer has come off.
fn detach_lost(w: &mut Work<'_, '_>, p: &Port) -> Result<()> {
    for mut f in w.tx.list::<FloatingIp>(&Query::new().eq("port_id", p.id.as_str()))? {
        if f.fixed_ip_address.is_some_and(|ip| p.fixed_ips.iter().any(|x| x.ip_address == ip)) {
            continue;
        }
        w.changes.routers.extend(f.router_id.clone());
        f.value.port_id = None;
        f.value.fixed_ip_address = None;
        f.value.router_id = None;
        f.value.status = "DOWN".into();
        f.std.touch(w.now);
        w.tx.update(&mut f)?;
    }
    Ok(())
}

fn rebind(p: &mut Port, c: &PortChange) {
    if let Some(host) = &c.host_id
        && *host != p.host_id
    {
        p.host_id.clone_from(host);
        if p.status == "ACTIVE" {
            p.status = "DOWN".into();
        }
    }
    set(&mut p.profile, &c.profile);
    set(&mut p.vnic_type, &c.vnic_type);
}

fn merge_options(p: &mut Port, changes: &[(DhcpOption, bool)]) {
    for (o, keep) in changes {
        p.extra_dhcp_opts.retain(|x| !(x.opt_name == o.opt_name && x.ip_version == o.ip_version));
        if *keep {
            p.extra_dhcp_opts.push(o.clone());
        }
    }
}

fn change_mac(w: &mut Work<'_, '_>, p: &mut Port, mac: &str) -> Result<()> {
    if mac == p.mac_address {
        return Ok(());
    }
    if p.has_tap() {
        let m = format!(
            "Unable to complete operation on port {}, port is already bound, port type: bridge, old_mac {}, new_mac {mac}.",
            p.id, p.mac_address
        );
        return Err(Error::conflict(m).code("PortBound"));
    }
    let q = Query::new().eq("network_id", p.network_id.as_str()).eq("mac", mac).filter(Filter::Ne("id", p.id.as_str().into()));
    if w.tx.count::<Port>(&q)? > 0 {
        return Err(mac_in_use(mac, &p.network_id));
    }
    for pair in &mut p.allowed_address_pairs {
        if pair.mac_address == p.mac_address {
            pair.mac_address = mac.to_string();
        }
    }
    p.mac_address = mac.to_string();
    Ok(())
}

fn apply_change(w: &mut Work<'_, '_>, p: &mut Port, c: &PortChange, admin: bool) -> Result<()> {
    if let Some(mac) = &c.mac_address {
        change_mac(w, p, mac)?;
    }
    if let Some(wanted) = &c.fixed_ips {
        readdress(w, p, wanted)?;
    }
    set(&mut p.port_security_enabled, &c.port_security_enabled);
    if let Some(ids) = &c.security_groups {
        p.security_groups = check_groups(w, ids, &p.project_id, admin)?;
    }
    if let Some(pairs) = &c.allowed_address_pairs {
        p.allowed_address_pairs = pairs_with_mac(pairs, Some(&p.mac_address))?;
    }
    check_security(p)?;
    if let Some(o) = &c.extra_dhcp_opts {
        merge_options(p, o);
    }
    rebind(p, c);
    set(&mut p.name, &c.name);
    set(&mut p.std.description, &c.description);
    set(&mut p.admin_state_up, &c.admin_state_up);
    set(&mut p.device_id, &c.device_id);
    set(&mut p.device_owner, &c.device_owner);
    set(&mut p.dns_name, &c.dns_name);
    if (!p.admin_state_up || p.host_id.is_empty()) && p.status == "ACTIVE" {
        p.status = "DOWN".into();
    }
    Ok(())
}

/// Refuses to delete what another part of the service owns.
fn check_deletable(w: &mut Work<'_, '_>, p: &Port) -> Result<()> {
    let owned = match p.device_owner.as_str() {
        "network:router_interface" | "network:router_gateway" => w.tx.get::<Router>(&p.device_id)?.is_some(),
        "network:floatingip" => w.tx.get::<FloatingIp>(&p.device_id)?.is_some(),
        _ => false,
    };
    if !owned {
        return Ok(());
    }
    let m = format!("Port {} cannot be deleted directly via the port API: has device owner {}.", p.id, p.device_owner);
    Err(Error::conflict(m).code("ServicePortInUse"))
}

impl State {
    /// Creates all of the ports or none.
    pub async fn port_create(self: &Arc<Self>, inputs: Vec<PortInput>, admin: bool) -> Result<Vec<Port>> {
        self.write(move |w| {
            let mut out = Vec::with_capacity(inputs.len());
            for i in &inputs {
                quota::require(w.tx, quota::PORT, &i.project_id, 1)?;
                out.push(insert(w, i, admin)?);
            }
            Ok(out)
        })
        .await
    }

    pub async fn port_update(self: &Arc<Self>, id: String, c: PortChange, admin: bool) -> Result<Port> {
        self.write(move |w| {
            let mut p = w.tx.get::<Port>(&id)?.ok_or_else(|| not_found("port", &id))?;
            check_revision(c.if_revision, &p.std)?;
            let before = p.value.clone();
            w.changes.port(&p);
            apply_change(w, &mut p.value, &c, admin)?;
            if p.security_groups != before.security_groups {
                store::set_port_groups(w.tx, &id, &p.security_groups.clone(), false)?;
            }
            p.std.touch(w.now);
            w.tx.update(&mut p)?;
            w.changes.port(&p);
            if before.has_tap() && before.host_id != p.host_id {
                w.changes.unplugged.push(before);
            }
            Ok(p.into_inner())
        })
        .await
    }

    /// Errors: `ServicePortInUse` for a port of a router or floating address.
    pub async fn port_delete(self: &Arc<Self>, id: String, if_revision: Option<i64>) -> Result<()> {
        self.write(move |w| {
            let p = w.tx.get::<Port>(&id)?.ok_or_else(|| not_found("port", &id))?;
            check_revision(if_revision, &p.std)?;
            check_deletable(w, &p)?;
            remove(w, &p)
        })
        .await
    }
}
