//! What one host should have, computed from the database.

use crate::logic::{dhcp, net};
use crate::store::{self, FloatingIp, Network, Port, Router, Rule, SecurityGroup, Subnet};
use caelum_base::Result;
use caelum_netplane as plane;
use caelum_store::{Query, Tx};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Computes objects for one host inside one snapshot.
pub struct Builder<'a, 't> {
    pub tx: &'a mut Tx<'t>,
    pub host: &'a str,
    pub network_host: &'a str,
    pub domain: &'a str,
    /// Rules by security group, read once.
    rules: HashMap<String, Vec<plane::Rule>>,
    subnets: HashMap<String, Vec<Subnet>>,
}

impl<'a, 't> Builder<'a, 't> {
    pub fn new(tx: &'a mut Tx<'t>, host: &'a str, network_host: &'a str, domain: &'a str) -> Self {
        Self { tx, host, network_host, domain, rules: HashMap::new(), subnets: HashMap::new() }
    }

    fn subnets(&mut self, network_id: &str) -> Result<Vec<Subnet>> {
        if let Some(s) = self.subnets.get(network_id) {
            return Ok(s.clone());
        }
        let mut list: Vec<Subnet> =
            self.tx.list::<Subnet>(&Query::new().eq("network_id", network_id))?.into_iter().map(|s| s.value).collect();
        list.sort_by(|a, b| (a.std.created_at, &a.id).cmp(&(b.std.created_at, &b.id)));
        self.subnets.insert(network_id.to_string(), list.clone());
        Ok(list)
    }

    fn subnet(&mut self, network_id: &str, id: &str) -> Result<Option<Subnet>> {
        Ok(self.subnets(network_id)?.into_iter().find(|s| s.id == id))
    }

    /// The network, when something on this host is plugged into it.
    pub fn network(&mut self, id: &str) -> Result<Option<plane::Network>> {
        let Some(n) = self.tx.get::<Network>(id)? else { return Ok(None) };
        if !store::network_on_host(self.tx, id, self.host)? {
            return Ok(None);
        }
        let kind = match n.network_type.as_str() {
            "flat" => plane::NetworkKind::Flat { physical_network: n.physical_network.clone().unwrap_or_default() },
            // Overlays have nobody to reach while there is one host, and a VXLAN device's identifier is
            // the whole machine's: a second cloud on it would collide.
            _ => plane::NetworkKind::Local,
        };
        let mtu = u32::try_from(n.mtu).unwrap_or(1500);
        let dhcp = if self.host == self.network_host && n.admin_state_up { self.dhcp(id)? } else { None };
        Ok(Some(plane::Network { id: n.id.clone(), kind, mtu, dhcp }))
    }

    fn dhcp(&mut self, network_id: &str) -> Result<Option<plane::Dhcp>> {
        let Some(port) = dhcp::find(self.tx, network_id)? else { return Ok(None) };
        let all = self.subnets(network_id)?;
        let mut subnets = Vec::new();
        for s in all.iter().filter(|s| s.enable_dhcp) {
            let Some(own) = port.fixed_ips.iter().find(|f| f.subnet_id == s.id) else { continue };
            subnets.push(plane::DhcpSubnet {
                subnet_id: s.id.clone(),
                cidr: s.cidr,
                address: own.ip_address,
                gateway: s.gateway_ip,
                dns: s.dns_nameservers.iter().filter_map(|d| net::parse_ip(d)).collect(),
                routes: s.host_routes.iter().map(|r| (r.destination, r.nexthop)).collect(),
                ipv6_mode: s.ipv6_address_mode.clone().or_else(|| s.ipv6_ra_mode.clone()),
            });
        }
        if subnets.is_empty() {
            return Ok(None);
        }
        let served: BTreeSet<String> = subnets.iter().map(|s| s.subnet_id.clone()).collect();
        let routed = Query::new().eq("network_id", network_id).eq("device_owner", "network:router_interface");
        Ok(Some(plane::Dhcp {
            port_id: port.id.clone(),
            mac: port.mac_address.clone(),
            subnets,
            hosts: self.dhcp_hosts(network_id, &served)?,
            domain: self.domain.to_string(),
            metadata: self.tx.count::<Port>(&routed)? == 0,
        }))
    }

    fn dhcp_hosts(&mut self, network_id: &str, served: &BTreeSet<String>) -> Result<Vec<plane::DhcpHost>> {
        let mut out = Vec::new();
        for p in store::plugged_ports(self.tx, network_id)? {
            let addresses: Vec<IpAddr> = p.fixed_ips.iter().filter(|f| served.contains(&f.subnet_id)).map(|f| f.ip_address).collect();
            let Some(first) = addresses.iter().find(|a| a.is_ipv4()).or_else(|| addresses.first()) else { continue };
            let hostname =
                if p.dns_name.is_empty() { format!("host-{}", first.to_string().replace(['.', ':'], "-")) } else { p.dns_name.clone() };
            out.push(plane::DhcpHost {
                port_id: p.id.clone(),
                mac: p.mac_address.clone(),
                hostname,
                addresses,
                options: p.extra_dhcp_opts.iter().map(|o| (o.opt_name.clone(), o.opt_value.clone(), o.ip_version)).collect(),
            });
        }
        Ok(out)
    }

    /// The port, when it has a tap on this host.
    pub fn port(&mut self, id: &str) -> Result<Option<plane::Port>> {
        match self.tx.get::<Port>(id)? {
            Some(p) => self.tap(&p),
            None => Ok(None),
        }
    }

    fn tap(&mut self, p: &Port) -> Result<Option<plane::Port>> {
        if !p.has_tap() || p.host_id != self.host {
            return Ok(None);
        }
        let mut rules = Vec::new();
        if p.port_security_enabled {
            for g in &p.security_groups {
                rules.extend(self.group_rules(g)?);
            }
        }
        let pair = |a: &store::AddressPair| net::parse_prefix(&a.ip_address).map(|n| (n, a.mac_address.clone()));
        Ok(Some(plane::Port {
            id: p.id.clone(),
            network_id: p.network_id.clone(),
            tap: p.tap(),
            mac: p.mac_address.clone(),
            addresses: p.fixed_ips.iter().map(|f| f.ip_address).collect(),
            admin_up: p.admin_state_up,
            port_security: p.port_security_enabled,
            allowed_pairs: p.allowed_address_pairs.iter().filter_map(pair).collect(),
            rules,
        }))
    }

    fn group_rules(&mut self, id: &str) -> Result<Vec<plane::Rule>> {
        if let Some(r) = self.rules.get(id) {
            return Ok(r.clone());
        }
        let stateful = self.tx.get::<SecurityGroup>(id)?.is_none_or(|g| g.stateful);
        let rows = self.tx.list::<Rule>(&Query::new().eq("security_group_id", id))?;
        let rules: Vec<plane::Rule> = rows.iter().map(|r| rule(r, stateful)).collect();
        self.rules.insert(id.to_string(), rules.clone());
        Ok(rules)
    }

    /// The members' addresses, when a rule anywhere names the group as its remote.
    pub fn group(&mut self, id: &str) -> Result<Option<Vec<IpAddr>>> {
        if self.tx.count::<Rule>(&Query::new().eq("remote_group_id", id).limit(1))? == 0 {
            return Ok(None);
        }
        store::group_addresses(self.tx, id).map(Some)
    }

    /// The router, on the host that has routers.
    pub fn router(&mut self, id: &str) -> Result<Option<plane::Router>> {
        if self.host != self.network_host {
            return Ok(None);
        }
        let Some(r) = self.tx.get::<Router>(id)?.filter(|r| !r.unhosted) else { return Ok(None) };
        let mut interfaces = Vec::new();
        let mut gateway = None;
        for p in self.tx.list::<Port>(&Query::new().eq("device_id", id))? {
            match p.device_owner.as_str() {
                "network:router_interface" => interfaces.push(self.interface(&p)?),
                "network:router_gateway" => gateway = Some(self.gateway(&r, &p)?),
                _ => {}
            }
        }
        interfaces.sort_by(|a, b| a.port_id.cmp(&b.port_id));
        let mut floating_ips = Vec::new();
        for f in self.tx.list::<FloatingIp>(&Query::new().eq("router_id", id))? {
            if let Some(fixed) = f.fixed_ip_address {
                floating_ips.push(plane::FloatingIp { id: f.id.clone(), floating: f.floating_ip_address, fixed });
            }
        }
        let routes = r.routes.iter().map(|x| (x.destination, x.nexthop)).collect();
        Ok(Some(plane::Router { id: r.id.clone(), admin_up: r.admin_state_up, interfaces, gateway, floating_ips, routes }))
    }

    fn with_prefix(&mut self, p: &Port) -> Result<Vec<(IpNet, Subnet)>> {
        let mut out = Vec::new();
        for f in &p.fixed_ips {
            if let Some(s) = self.subnet(&p.network_id, &f.subnet_id)?
                && let Ok(net) = IpNet::new(f.ip_address, s.cidr.prefix_len())
            {
                out.push((net, s));
            }
        }
        Ok(out)
    }

    fn interface(&mut self, p: &Port) -> Result<plane::RouterInterface> {
        let all = self.with_prefix(p)?;
        let advertise = all.iter().filter_map(|(_, s)| Some((s.cidr, s.ipv6_ra_mode.clone()?))).collect();
        Ok(plane::RouterInterface {
            port_id: p.id.clone(),
            network_id: p.network_id.clone(),
            mac: p.mac_address.clone(),
            addresses: all.into_iter().map(|(n, _)| n).collect(),
            advertise,
        })
    }

    fn gateway(&mut self, r: &Router, p: &Port) -> Result<plane::RouterGateway> {
        let all = self.with_prefix(p)?;
        Ok(plane::RouterGateway {
            port_id: p.id.clone(),
            network_id: p.network_id.clone(),
            mac: p.mac_address.clone(),
            next_hops: all.iter().filter_map(|(_, s)| s.gateway_ip).collect(),
            addresses: all.into_iter().map(|(n, _)| n).collect(),
            snat: r.gateway.as_ref().is_none_or(|g| g.enable_snat),
        })
    }
}

fn rule(r: &Rule, stateful: bool) -> plane::Rule {
    let v6 = r.ethertype == "IPv6";
    // ICMP by its IPv4 name or number in an IPv6 rule means ICMPv6, as upstream reads it.
    let protocol = r.protocol.as_deref().map(|p| match p {
        "icmpv6" => "ipv6-icmp",
        "icmp" | "1" if v6 => "ipv6-icmp",
        p => p,
    });
    plane::Rule {
        ingress: r.direction == "ingress",
        ip_version: if v6 { 6 } else { 4 },
        // `ip` and 0 mean any protocol.
        protocol: protocol.filter(|p| !matches!(*p, "ip" | "0")).map(String::from),
        port_min: r.port_range_min,
        port_max: r.port_range_max,
        remote_prefix: r.remote_ip_prefix.as_deref().and_then(net::parse_prefix),
        remote_group: r.remote_group_id.clone(),
        stateful,
    }
}

/// Everything the host should have; the generation is left at 0.
pub fn whole(b: &mut Builder<'_, '_>) -> Result<plane::HostState> {
    let mut state = plane::HostState::default();
    for id in store::networks_on_host(b.tx, b.host)? {
        if let Some(n) = b.network(&id)? {
            state.networks.insert(id, n);
        }
    }
    for p in b.tx.list::<Port>(&Query::new().eq("host_id", b.host))? {
        if let Some(tap) = b.tap(&p)? {
            state.ports.insert(p.id.clone(), tap);
        }
    }
    for r in b.tx.list::<Router>(&Query::new())? {
        if let Some(router) = b.router(&r.id)? {
            state.routers.insert(r.id.clone(), router);
        }
    }
    let remotes: BTreeSet<String> = state.ports.values().flat_map(|p| p.rules.iter()).filter_map(|r| r.remote_group.clone()).collect();
    for id in remotes {
        if let Some(addresses) = b.group(&id)? {
            state.groups.insert(id, addresses);
        }
    }
    Ok(state)
}
