//! Routers: legs into subnets, the gateway to an external network, extra routes.

use super::ipam::Wanted;
use super::networks::{check_revision, set};
use super::ports::{self, PortInput};
use super::{State, Work, not_found, quota, subnets};
use crate::store::{FixedIp, FloatingIp, Gateway, Network, Port, Route, Router, Std, Subnet};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored};
use std::sync::Arc;

pub const INTERFACE: &str = "network:router_interface";
pub const GATEWAY: &str = "network:router_gateway";
/// Extra routes of one router.
const MAX_ROUTES: usize = 30;

#[derive(Clone, Debug, Default)]
pub struct GatewayInput {
    pub network_id: String,
    pub enable_snat: Option<bool>,
    pub fixed_ips: Option<Vec<Wanted>>,
}

#[derive(Clone, Debug, Default)]
pub struct RouterInput {
    pub project_id: String,
    pub name: String,
    pub description: String,
    pub admin_state_up: bool,
    pub gateway: Option<GatewayInput>,
    pub az_hints: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct RouterChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub admin_state_up: Option<bool>,
    /// `Some(None)` removes the gateway.
    pub gateway: Option<Option<GatewayInput>>,
    pub routes: Option<Vec<Route>>,
    pub if_revision: Option<i64>,
}

/// A leg to add or remove.
#[derive(Clone, Debug, Default)]
pub struct Leg {
    pub subnet_id: Option<String>,
    pub port_id: Option<String>,
}

/// A leg that was added or removed.
#[derive(Clone, Debug)]
pub struct LegDone {
    pub router: Router,
    pub port_id: String,
    pub network_id: String,
    pub subnet_ids: Vec<String>,
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Bad router request: {message}.")).code("BadRequest")
}

/// The router's ports with this owner.
pub fn legs(w: &mut Work<'_, '_>, router_id: &str, owner: &str) -> Result<Vec<Stored<Port>>> {
    w.tx.list::<Port>(&Query::new().eq("device_id", router_id).eq("device_owner", owner))
}

fn subnets_of(w: &mut Work<'_, '_>, p: &Port) -> Result<Vec<Subnet>> {
    let mut out = Vec::new();
    for f in &p.fixed_ips {
        out.extend(w.tx.get::<Subnet>(&f.subnet_id)?.map(Stored::into_inner));
    }
    Ok(out)
}

fn check_no_overlap(w: &mut Work<'_, '_>, router_id: &str, new: &[Subnet]) -> Result<()> {
    for owner in [INTERFACE, GATEWAY] {
        for p in legs(w, router_id, owner)? {
            for old in subnets_of(w, &p)? {
                for s in new {
                    if s.id == old.id {
                        return Err(bad(format!("Router already has a port on subnet {}", s.id)));
                    }
                    if s.cidr.contains(&old.cidr) || old.cidr.contains(&s.cidr) {
                        let m = format!("Cidr {} of subnet {} overlaps with cidr {} of subnet {}", s.cidr, s.id, old.cidr, old.id);
                        return Err(bad(m));
                    }
                }
            }
        }
    }
    Ok(())
}

fn system_port(w: &Work<'_, '_>, router: &Router, network_id: &str, owner: &str, fixed_ips: Option<Vec<Wanted>>) -> PortInput {
    PortInput {
        project_id: if owner == GATEWAY { String::new() } else { router.project_id.clone() },
        network_id: network_id.into(),
        admin_state_up: true,
        fixed_ips,
        device_id: router.id.clone(),
        device_owner: owner.into(),
        security_groups: Some(Vec::new()),
        host_id: w.st.hosts.network_host().into(),
        ..PortInput::default()
    }
}

fn gateway_in_use(w: &mut Work<'_, '_>, router: &Router) -> Result<()> {
    let Some(g) = &router.gateway else { return Ok(()) };
    if w.tx.count::<FloatingIp>(&Query::new().eq("router_id", router.id.as_str()))? == 0 {
        return Ok(());
    }
    let m = format!(
        "Gateway cannot be updated for router {}, since a gateway to external network {} is required by one or more floating IPs.",
        router.id, g.network_id
    );
    Err(Error::conflict(m).code("RouterExternalGatewayInUseByFloatingIp"))
}

fn drop_gateway(w: &mut Work<'_, '_>, router: &mut Router) -> Result<()> {
    gateway_in_use(w, router)?;
    if let Some(g) = router.gateway.take()
        && let Some(p) = w.tx.get::<Port>(&g.port_id)?
    {
        ports::remove(w, &p)?;
    }
    Ok(())
}

fn set_gateway(w: &mut Work<'_, '_>, router: &mut Router, g: &GatewayInput) -> Result<()> {
    let network = w.tx.get::<Network>(&g.network_id)?.ok_or_else(|| not_found("network", &g.network_id))?;
    if !network.external {
        return Err(bad(format!("Network {} is not an external network", g.network_id)));
    }
    let snat = g.enable_snat.unwrap_or_else(|| router.gateway.as_ref().is_none_or(|old| old.enable_snat));
    if let Some(old) = &mut router.gateway
        && old.network_id == g.network_id
    {
        old.enable_snat = snat;
        if let Some(wanted) = &g.fixed_ips {
            let port_id = old.port_id.clone();
            let fixed = ports::move_port(w, &port_id, wanted)?;
            if let Some(gateway) = &mut router.gateway {
                gateway.fixed_ips = fixed;
            }
        }
        return Ok(());
    }
    drop_gateway(w, router)?;
    let all = subnets::of_network(w, &g.network_id)?;
    check_no_overlap(w, &router.id, &all)?;
    let wanted = g.fixed_ips.clone().filter(|f| !f.is_empty());
    let input = system_port(w, router, &g.network_id, GATEWAY, wanted);
    let p = ports::insert(w, &input, true)?;
    router.gateway = Some(Gateway { network_id: g.network_id.clone(), port_id: p.id, enable_snat: snat, fixed_ips: p.fixed_ips });
    Ok(())
}

fn check_routes(w: &mut Work<'_, '_>, router: &Router, routes: &[Route]) -> Result<()> {
    if routes.len() > MAX_ROUTES {
        let m = format!("Unable to complete operation for {}. The number of routes exceeds the maximum {MAX_ROUTES}.", router.id);
        return Err(Error::invalid(m).code("RoutesExhausted"));
    }
    let mut connected = Vec::new();
    let mut own = Vec::new();
    for owner in [INTERFACE, GATEWAY] {
        for p in legs(w, &router.id, owner)? {
            own.extend(p.fixed_ips.iter().map(|f| f.ip_address));
            connected.extend(subnets_of(w, &p)?.into_iter().map(|s| s.cidr));
        }
    }
    for r in routes {
        let why = if r.destination.addr().is_ipv4() != r.nexthop.is_ipv4() {
            "the nexthop is of another IP version"
        } else if !connected.iter().any(|c| c.contains(&r.nexthop)) {
            "the nexthop is not connected with router"
        } else if own.contains(&r.nexthop) {
            "the nexthop is used by router"
        } else {
            continue;
        };
        let m = format!("Invalid format for routes: {} via {}, {why}", r.destination, r.nexthop);
        return Err(Error::invalid(m).code("InvalidRoutes"));
    }
    Ok(())
}

fn add_subnet(w: &mut Work<'_, '_>, router: &Router, subnet_id: &str) -> Result<Port> {
    let s = w.tx.get::<Subnet>(subnet_id)?.ok_or_else(|| not_found("subnet", subnet_id))?.into_inner();
    let Some(gateway) = s.gateway_ip else { return Err(bad("Subnet for router interface must have a gateway IP")) };
    check_no_overlap(w, &router.id, std::slice::from_ref(&s))?;
    let wanted = Wanted { subnet_id: Some(s.id.clone()), ip_address: Some(gateway) };
    if s.ip_version == 6 {
        // One leg per network carries all IPv6 prefixes.
        let same = legs(w, &router.id, INTERFACE)?
            .into_iter()
            .find(|p| p.network_id == s.network_id && !p.fixed_ips.is_empty() && p.fixed_ips.iter().all(|f| f.ip_address.is_ipv6()));
        if let Some(p) = same {
            let mut all: Vec<Wanted> =
                p.fixed_ips.iter().map(|f| Wanted { subnet_id: Some(f.subnet_id.clone()), ip_address: Some(f.ip_address) }).collect();
            all.push(wanted);
            ports::move_port(w, &p.id, &all)?;
            return Ok(w.tx.get::<Port>(&p.id)?.ok_or_else(|| not_found("port", &p.id))?.into_inner());
        }
    }
    let input = system_port(w, router, &s.network_id, INTERFACE, Some(vec![wanted]));
    ports::insert(w, &input, true)
}

fn add_port(w: &mut Work<'_, '_>, router: &Router, port_id: &str) -> Result<Port> {
    let mut p = w.tx.get::<Port>(port_id)?.ok_or_else(|| not_found("port", port_id))?;
    if !p.device_id.is_empty() {
        let m = format!(
            "Unable to complete operation on port {port_id} for network {}. Port already has an attached device {}.",
            p.network_id, p.device_id
        );
        return Err(Error::conflict(m).code("PortInUse"));
    }
    let subnets = subnets_of(w, &p)?;
    if subnets.is_empty() {
        return Err(bad("Router port must have at least one fixed IP"));
    }
    if subnets.iter().filter(|s| s.ip_version == 4).count() > 1 {
        return Err(bad("Cannot have multiple IPv4 subnets on router port"));
    }
    check_no_overlap(w, &router.id, &subnets)?;
    p.device_id.clone_from(&router.id);
    p.device_owner = INTERFACE.into();
    p.host_id = w.st.hosts.network_host().into();
    p.security_groups = Vec::new();
    p.port_security_enabled = false;
    p.allowed_address_pairs = Vec::new();
    crate::store::set_port_groups(w.tx, port_id, &[], false)?;
    p.std.touch(w.now);
    w.tx.update(&mut p)?;
    w.changes.port(&p);
    Ok(p.into_inner())
}

/// The leg a removal names.
fn find_leg(w: &mut Work<'_, '_>, router_id: &str, leg: &Leg) -> Result<(Stored<Port>, Vec<String>)> {
    let all = legs(w, router_id, INTERFACE)?;
    if let Some(id) = &leg.port_id {
        let p = all.into_iter().find(|p| p.id == *id).ok_or_else(|| {
            let m = format!("Router {router_id} does not have an interface with id {id}");
            Error::not_found(m).code("RouterInterfaceNotFound")
        })?;
        let subnets: Vec<String> = p.fixed_ips.iter().map(|f| f.subnet_id.clone()).collect();
        if let Some(s) = leg.subnet_id.as_ref().filter(|s| !subnets.contains(s)) {
            let m = format!("Subnet on port {id} does not match the requested subnet {s}");
            return Err(Error::invalid(m).code("SubnetMismatchForPort"));
        }
        return Ok((p, subnets));
    }
    let Some(subnet) = &leg.subnet_id else { return Err(bad("Either subnet_id or port_id must be specified")) };
    let found = all.into_iter().find(|p| p.fixed_ips.iter().any(|f| f.subnet_id == *subnet));
    let p = found.ok_or_else(|| {
        let m = format!("Router {router_id} has no interface on subnet {subnet}");
        Error::not_found(m).code("RouterInterfaceNotFoundForSubnet")
    })?;
    Ok((p, vec![subnet.clone()]))
}

fn check_leg_unused(w: &mut Work<'_, '_>, router: &Router, subnet_id: &str) -> Result<()> {
    let Some(s) = w.tx.get::<Subnet>(subnet_id)? else { return Ok(()) };
    for f in w.tx.list::<FloatingIp>(&Query::new().eq("router_id", router.id.as_str()))? {
        let inside = match &f.port_id {
            Some(p) => {
                w.tx.get::<Port>(p)?
                    .is_some_and(|p| p.fixed_ips.iter().any(|x| Some(x.ip_address) == f.fixed_ip_address && x.subnet_id == subnet_id))
            }
            None => false,
        };
        if inside {
            let m = format!(
                "Router interface for subnet {subnet_id} on router {} cannot be deleted, as it is required by one or more floating IPs.",
                router.id
            );
            return Err(Error::conflict(m).code("RouterInterfaceInUseByFloatingIP"));
        }
    }
    if router.routes.iter().any(|r| s.cidr.contains(&r.nexthop)) {
        let m = format!(
            "Router interface for subnet {subnet_id} on router {} cannot be deleted, as it is required by one or more routes.",
            router.id
        );
        return Err(Error::conflict(m).code("RouterInterfaceInUseByRoute"));
    }
    Ok(())
}

fn require(w: &mut Work<'_, '_>, id: &str) -> Result<Stored<Router>> {
    w.tx.get::<Router>(id)?.ok_or_else(|| not_found("router", id))
}

impl State {
    pub async fn router_create(self: &Arc<Self>, i: RouterInput) -> Result<Router> {
        self.write(move |w| {
            quota::require(w.tx, quota::ROUTER, &i.project_id, 1)?;
            let mut router = Router {
                id: w.st.env.uuid(),
                project_id: i.project_id.clone(),
                name: i.name.clone(),
                admin_state_up: i.admin_state_up,
                status: "ACTIVE".into(),
                gateway: None,
                routes: Vec::new(),
                az_hints: i.az_hints.clone(),
                unhosted: false,
                std: Std::new(w.now, i.description.clone()),
            };
            if let Some(g) = &i.gateway {
                set_gateway(w, &mut router, g)?;
            }
            w.tx.insert(&router)?;
            w.changes.routers.insert(router.id.clone());
            Ok(router)
        })
        .await
    }

    pub async fn router_update(self: &Arc<Self>, id: String, c: RouterChange) -> Result<Router> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            check_revision(c.if_revision, &r.std)?;
            match &c.gateway {
                Some(Some(g)) => set_gateway(w, &mut r.value, g)?,
                Some(None) => drop_gateway(w, &mut r.value)?,
                None => {}
            }
            if let Some(routes) = &c.routes {
                check_routes(w, &r.value.clone(), routes)?;
                r.routes.clone_from(routes);
            }
            set(&mut r.value.name, &c.name);
            set(&mut r.value.std.description, &c.description);
            set(&mut r.value.admin_state_up, &c.admin_state_up);
            r.std.touch(w.now);
            w.tx.update(&mut r)?;
            w.changes.routers.insert(id.clone());
            Ok(r.into_inner())
        })
        .await
    }

    /// Adds (`true`) or removes extra routes, leaving the others alone.
    pub async fn router_routes(self: &Arc<Self>, id: String, routes: Vec<Route>, add: bool) -> Result<Router> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            if add {
                let fresh: Vec<Route> = routes.iter().filter(|x| !r.routes.contains(x)).cloned().collect();
                r.routes.extend(fresh);
                let all = r.routes.clone();
                check_routes(w, &r.value.clone(), &all)?;
            } else {
                r.routes.retain(|x| !routes.contains(x));
            }
            r.std.touch(w.now);
            w.tx.update(&mut r)?;
            w.changes.routers.insert(id.clone());
            Ok(r.into_inner())
        })
        .await
    }

    /// Errors: `RouterInUse` while it has legs.
    pub async fn router_delete(self: &Arc<Self>, id: String) -> Result<()> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            if !legs(w, &id, INTERFACE)?.is_empty() {
                return Err(Error::conflict(format!("Router {id} still has ports")).code("RouterInUse"));
            }
            drop_gateway(w, &mut r.value)?;
            w.tx.delete(&r)?;
            w.changes.routers.insert(id.clone());
            Ok(())
        })
        .await
    }

    /// Puts a router on its host or takes it off. Errors: `Conflict` when it is so already.
    pub async fn router_host(self: &Arc<Self>, id: String, on: bool) -> Result<()> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            if r.unhosted != on {
                let (code, word) = if on { ("RouterHostedByL3Agent", "already") } else { ("RouterNotHostedByL3Agent", "not") };
                return Err(Error::conflict(format!("The router {id} is {word} hosted by the L3 agent.")).code(code));
            }
            r.unhosted = !on;
            w.tx.update(&mut r)?;
            w.changes.routers.insert(id.clone());
            Ok(())
        })
        .await
    }

    pub async fn router_add_interface(self: &Arc<Self>, id: String, leg: Leg) -> Result<LegDone> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            let (p, subnet_ids) = match (&leg.subnet_id, &leg.port_id) {
                (Some(_), Some(_)) => return Err(bad("Cannot specify both subnet-id and port-id")),
                (None, None) => return Err(bad("Either subnet_id or port_id must be specified")),
                (Some(s), None) => (add_subnet(w, &r, s)?, vec![s.clone()]),
                (None, Some(p)) => {
                    let p = add_port(w, &r, p)?;
                    let ids = p.fixed_ips.iter().map(|f| f.subnet_id.clone()).collect();
                    (p, ids)
                }
            };
            r.std.touch(w.now);
            w.tx.update(&mut r)?;
            w.changes.routers.insert(id.clone());
            w.changes.networks.insert(p.network_id.clone());
            Ok(LegDone { router: r.into_inner(), port_id: p.id, network_id: p.network_id, subnet_ids })
        })
        .await
    }

    pub async fn router_remove_interface(self: &Arc<Self>, id: String, leg: Leg) -> Result<LegDone> {
        self.write(move |w| {
            let mut r = require(w, &id)?;
            let (p, subnet_ids) = find_leg(w, &id, &leg)?;
            for s in &subnet_ids {
                check_leg_unused(w, &r.value.clone(), s)?;
            }
            let rest: Vec<FixedIp> = p.fixed_ips.iter().filter(|f| !subnet_ids.contains(&f.subnet_id)).cloned().collect();
            if rest.is_empty() {
                ports::remove(w, &p)?;
            } else {
                let keep: Vec<Wanted> =
                    rest.iter().map(|f| Wanted { subnet_id: Some(f.subnet_id.clone()), ip_address: Some(f.ip_address) }).collect();
                ports::move_port(w, &p.id, &keep)?;
            }
            r.std.touch(w.now);
            w.tx.update(&mut r)?;
            w.changes.routers.insert(id.clone());
            w.changes.networks.insert(p.network_id.clone());
            Ok(LegDone { router: r.into_inner(), port_id: p.id.clone(), network_id: p.network_id.clone(), subnet_ids })
        })
        .await
    }
}

/// The router through which a port's address reaches an external network, if any.
pub fn towards(w: &mut Work<'_, '_>, network_id: &str, subnet_id: &str, external: &str) -> Result<Option<String>> {
    let q = Query::new().eq("network_id", network_id).eq("device_owner", INTERFACE);
    let gateway = w.tx.get::<Subnet>(subnet_id)?.and_then(|s| s.gateway_ip);
    let mut found = None;
    for p in w.tx.list::<Port>(&q)? {
        let Some(leg) = p.fixed_ips.iter().find(|f| f.subnet_id == subnet_id) else { continue };
        let Some(r) = w.tx.get::<Router>(&p.device_id)? else { continue };
        if r.gateway.as_ref().is_none_or(|g| g.network_id != external) {
            continue;
        }
        // The router that is the subnet's default gateway is where guests send their answers.
        if Some(leg.ip_address) == gateway {
            return Ok(Some(r.id.clone()));
        }
        found.get_or_insert_with(|| r.id.clone());
    }
    Ok(found)
}
