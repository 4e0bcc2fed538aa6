//! Subnets: what a valid one is, and their place on a network.

use super::networks::{check_revision, set};
use super::{State, Work, dhcp, ipam, net, not_found, quota};
use crate::store::{self, Network, Pool, Port, Route, Std, Subnet};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A gateway as the creator wants it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum GatewayWish {
    /// The first address.
    #[default]
    Default,
    None,
    Address(IpAddr),
}

#[derive(Clone, Debug, Default)]
pub struct SubnetInput {
    pub project_id: String,
    pub network_id: String,
    pub name: String,
    pub description: String,
    pub ip_version: u8,
    /// Without one, a prefix comes from the pool.
    pub cidr: Option<IpNet>,
    pub prefixlen: Option<u8>,
    pub subnetpool_id: Option<String>,
    pub gateway: GatewayWish,
    pub enable_dhcp: bool,
    pub pools: Option<Vec<Pool>>,
    pub dns_nameservers: Vec<String>,
    pub host_routes: Vec<Route>,
    pub ipv6_ra_mode: Option<String>,
    pub ipv6_address_mode: Option<String>,
    pub service_types: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct SubnetChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub gateway: Option<GatewayWish>,
    pub enable_dhcp: Option<bool>,
    pub pools: Option<Vec<Pool>>,
    pub dns_nameservers: Option<Vec<String>>,
    pub host_routes: Option<Vec<Route>>,
    pub service_types: Option<Vec<String>>,
    pub if_revision: Option<i64>,
}

pub(crate) fn bad(message: impl Into<String>) -> Error {
    Error::invalid(format!("Invalid input for operation: {}.", message.into())).code("InvalidInput")
}

/// Checks everything about the subnet that needs no database, and fills in gateway and pools.
pub fn plan(s: &SubnetInput, cidr: IpNet) -> Result<(Option<IpAddr>, Vec<Pool>)> {
    let version = net::version(cidr.addr());
    if version != s.ip_version {
        return Err(bad(format!("cidr {cidr} does not match the ip_version {}", s.ip_version)));
    }
    if cidr.trunc() != cidr {
        let m = format!("'{cidr}' isn't a recognized IP subnet cidr, '{}' is recommended", cidr.trunc());
        return Err(net::invalid_input("cidr", m));
    }
    if cidr.prefix_len() == 0 {
        return Err(net::invalid_input("cidr", "0 is not allowed as CIDR prefix length"));
    }
    if cidr.network().is_multicast() || cidr.network().is_loopback() {
        return Err(bad(format!("Multicast or loopback IP subnet is not supported: {cidr}")));
    }
    let usable = if version == 4 { 30 } else { 126 };
    if s.enable_dhcp && cidr.prefix_len() > usable {
        return Err(bad(format!("Subnet has a prefix length that is incompatible with DHCP service enabled: {cidr}")));
    }
    ipv6_modes(s, &cidr)?;
    let gateway = choose_gateway(&s.gateway, &cidr)?;
    let pools = match &s.pools {
        Some(p) if s.ipv6_address_mode.as_deref().is_none_or(|m| m == "dhcpv6-stateful") => check_pools(p, &cidr, gateway)?,
        _ => default_pools(&cidr, gateway),
    };
    check_lists(&s.dns_nameservers, &s.host_routes, version)?;
    Ok((gateway, pools))
}

fn ipv6_modes(s: &SubnetInput, cidr: &IpNet) -> Result<()> {
    let (ra, address) = (s.ipv6_ra_mode.as_deref(), s.ipv6_address_mode.as_deref());
    if ra.is_none() && address.is_none() {
        return Ok(());
    }
    if s.ip_version != 6 {
        return Err(bad("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4"));
    }
    if !s.enable_dhcp {
        return Err(bad("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False"));
    }
    for mode in [ra, address].into_iter().flatten() {
        if !matches!(mode, "slaac" | "dhcpv6-stateful" | "dhcpv6-stateless") {
            return Err(net::invalid_input("ipv6_mode", format!("'{mode}' is not in ['dhcpv6-stateful', 'dhcpv6-stateless', 'slaac']")));
        }
    }
    if let (Some(r), Some(a)) = (ra, address)
        && r != a
    {
        return Err(bad(format!(
            "ipv6_ra_mode set to '{r}' with ipv6_address_mode set to '{a}' is not valid. If both attributes are set, they must be the same value"
        )));
    }
    let automatic = [ra, address].into_iter().flatten().any(|m| m != "dhcpv6-stateful");
    if automatic && cidr.prefix_len() != 64 {
        let m = format!(
            "Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64"
        );
        return Err(bad(m));
    }
    Ok(())
}

fn choose_gateway(wish: &GatewayWish, cidr: &IpNet) -> Result<Option<IpAddr>> {
    match wish {
        GatewayWish::None => Ok(None),
        GatewayWish::Default => {
            let (first, last) = net::range(cidr);
            let n = if first == last { first } else { first + 1 };
            Ok(Some(net::address(n, cidr.network())))
        }
        GatewayWish::Address(ip) => {
            if ip.is_ipv4() != cidr.addr().is_ipv4() {
                return Err(bad(format!("gateway_ip '{ip}' does not match the ip_version of {cidr}")));
            }
            if ip.is_multicast() || ip.is_unspecified() || (cidr.contains(ip) && !net::is_host_of(cidr, *ip)) {
                return Err(bad("Gateway is not valid on subnet"));
            }
            Ok(Some(*ip))
        }
    }
}

/// Every host address but the gateway's.
pub fn default_pools(cidr: &IpNet, gateway: Option<IpAddr>) -> Vec<Pool> {
    let (mut first, mut last) = net::range(cidr);
    let v4 = cidr.addr().is_ipv4();
    if cidr.prefix_len() < if v4 { 31 } else { 127 } {
        first += 1;
        last -= u128::from(v4);
    }
    let pool = |a: u128, b: u128| Pool { start: net::address(a, cidr.network()), end: net::address(b, cidr.network()) };
    let Some(g) = gateway.filter(|g| cidr.contains(g)).map(net::number) else { return vec![pool(first, last)] };
    let mut out = Vec::new();
    if g > first {
        out.push(pool(first, g.min(last + 1) - 1));
    }
    if g < last {
        out.push(pool(g.max(first) + u128::from(g >= first), last));
    }
    out
}

fn check_pools(pools: &[Pool], cidr: &IpNet, gateway: Option<IpAddr>) -> Result<Vec<Pool>> {
    let text = |p: &Pool| format!("{}-{}", p.start, p.end);
    let mut sorted = pools.to_vec();
    sorted.sort_by_key(|p| net::number(p.start));
    for p in &sorted {
        if p.start.is_ipv4() != p.end.is_ipv4() || p.start.is_ipv4() != cidr.addr().is_ipv4() || p.start > p.end {
            return Err(Error::invalid(format!("The allocation pool {} is not valid.", text(p))).code("InvalidAllocationPool"));
        }
        if !net::is_host_of(cidr, p.start) || !net::is_host_of(cidr, p.end) {
            let m = format!("The allocation pool {} spans beyond the subnet cidr {cidr}.", text(p));
            return Err(Error::invalid(m).code("OutOfBoundsAllocationPool"));
        }
        if let Some(g) = gateway
            && (p.start..=p.end).contains(&g)
        {
            let m = format!("Gateway ip {g} conflicts with allocation pool {}.", text(p));
            return Err(Error::conflict(m).code("GatewayConflictWithAllocationPools"));
        }
    }
    for pair in sorted.windows(2) {
        if pair[1].start <= pair[0].end {
            let m = format!("Found overlapping allocation pools: {} {} for subnet {cidr}.", text(&pair[0]), text(&pair[1]));
            return Err(Error::conflict(m).code("OverlappingAllocationPools"));
        }
    }
    Ok(sorted)
}

fn check_lists(dns: &[String], routes: &[Route], version: u8) -> Result<()> {
    if dns.len() > 5 {
        return Err(Error::invalid("Unable to complete operation. The number of DNS nameservers exceeds the limit 5.")
            .code("DNSNameServersExhausted"));
    }
    if routes.len() > 20 {
        return Err(
            Error::invalid("Unable to complete operation. The number of host routes exceeds the limit 20.").code("HostRoutesExhausted")
        );
    }
    for (i, d) in dns.iter().enumerate() {
        let ip = net::parse_ip(d).ok_or_else(|| net::invalid_input("dns_nameservers", format!("'{d}' is not a valid nameserver")))?;
        if net::version(ip) != version {
            return Err(bad(format!("dns_nameserver '{d}' does not match the ip_version '{version}'")));
        }
        if dns[..i].contains(d) {
            return Err(net::invalid_input("dns_nameservers", format!("Duplicate nameserver '{d}'")));
        }
    }
    for r in routes {
        if net::version(r.nexthop) != version || net::version(r.destination.addr()) != version {
            return Err(bad(format!("host route {} via {} does not match the ip_version '{version}'", r.destination, r.nexthop)));
        }
    }
    Ok(())
}

fn check_overlap(cidr: &IpNet, network_id: &str, others: &[Subnet]) -> Result<()> {
    let clash = others.iter().find(|o| o.cidr.contains(cidr) || cidr.contains(&o.cidr));
    match clash {
        Some(o) => {
            Err(bad(format!("Requested subnet with cidr: {cidr} for network: {network_id} overlaps with another subnet {}", o.cidr)))
        }
        None => Ok(()),
    }
}

/// The network's subnets, oldest first.
pub fn of_network(w: &mut Work<'_, '_>, network_id: &str) -> Result<Vec<Subnet>> {
    let mut list: Vec<Subnet> = w.tx.list(&Query::new().eq("network_id", network_id))?.into_iter().map(Stored::into_inner).collect();
    list.sort_by_key(|s| s.std.created_at);
    Ok(list)
}

fn insert(w: &mut Work<'_, '_>, s: &SubnetInput) -> Result<Subnet> {
    let network = w.tx.get::<Network>(&s.network_id)?.ok_or_else(|| not_found("network", &s.network_id))?;
    quota::require(w.tx, quota::SUBNET, &s.project_id, 1)?;
    let cidr = match s.cidr {
        Some(c) => c,
        None => super::subnetpools::carve(w, s)?,
    };
    let (gateway_ip, pools) = plan(s, cidr)?;
    let mut others = of_network(w, &s.network_id)?;
    check_overlap(&cidr, &s.network_id, &others)?;
    let subnet = Subnet {
        id: w.st.env.uuid(),
        project_id: s.project_id.clone(),
        network_id: s.network_id.clone(),
        name: s.name.clone(),
        ip_version: s.ip_version,
        cidr,
        gateway_ip,
        enable_dhcp: s.enable_dhcp,
        pools,
        dns_nameservers: s.dns_nameservers.clone(),
        host_routes: s.host_routes.clone(),
        ipv6_ra_mode: s.ipv6_ra_mode.clone(),
        ipv6_address_mode: s.ipv6_address_mode.clone(),
        service_types: s.service_types.clone(),
        subnetpool_id: s.subnetpool_id.clone(),
        std: Std::new(w.now, s.description.clone()),
    };
    w.tx.insert(&subnet)?;
    if subnet.is_auto_address() {
        address_existing(w, &subnet)?;
    }
    others.push(subnet.clone());
    dhcp::sync(w, &network, &others)?;
    Ok(subnet)
}

/// Ports that are there already get their derived address in a new automatic subnet.
fn address_existing(w: &mut Work<'_, '_>, subnet: &Subnet) -> Result<()> {
    for mut p in w.tx.list::<Port>(&Query::new().eq("network_id", subnet.network_id.as_str()))? {
        if p.is_network_owned() || p.fixed_ips.is_empty() {
            continue;
        }
        let (id, mac, owner) = (p.id.clone(), p.mac_address.clone(), p.device_owner.clone());
        let who = ipam::Claimant { port_id: &id, network_id: &subnet.network_id, mac: &mac, device_owner: &owner };
        let fixed = ipam::automatic(w.tx, &who, subnet)?;
        p.fixed_ips.push(fixed);
        p.std.touch(w.now);
        w.tx.update(&mut p)?;
        w.changes.port(&p);
    }
    Ok(())
}

fn gateway_change(w: &mut Work<'_, '_>, s: &Stored<Subnet>, wish: &GatewayWish) -> Result<Option<IpAddr>> {
    let new = choose_gateway(wish, &s.cidr)?;
    if new == s.gateway_ip {
        return Ok(new);
    }
    if let Some(old) = s.gateway_ip
        && let Some(holder) = store::address_holder(w.tx, &s.id, old)?
        && let Some(port) = w.tx.get::<Port>(&holder)?
        && port.device_owner.starts_with("network:router_interface")
    {
        let m = format!("Current gateway ip {old} already in use by port {holder}. Unable to update.");
        return Err(Error::conflict(m).code("GatewayIpInUse"));
    }
    Ok(new)
}

fn apply_change(w: &mut Work<'_, '_>, s: &mut Stored<Subnet>, c: &SubnetChange) -> Result<()> {
    if let Some(wish) = &c.gateway {
        let gateway = gateway_change(w, s, wish)?;
        s.gateway_ip = gateway;
    }
    set(&mut s.value.enable_dhcp, &c.enable_dhcp);
    set(&mut s.value.name, &c.name);
    set(&mut s.value.std.description, &c.description);
    set(&mut s.value.dns_nameservers, &c.dns_nameservers);
    set(&mut s.value.host_routes, &c.host_routes);
    set(&mut s.value.service_types, &c.service_types);
    if !s.enable_dhcp && (s.ipv6_ra_mode.is_some() || s.ipv6_address_mode.is_some()) {
        return Err(bad("Cannot disable enable_dhcp with ipv6 attributes set"));
    }
    check_lists(&s.dns_nameservers, &s.host_routes, s.ip_version)?;
    if c.pools.is_some() || c.gateway.is_some() {
        let pools = c.pools.as_ref().unwrap_or(&s.pools).clone();
        s.pools = check_pools(&pools, &s.cidr, s.gateway_ip)?;
        w.st.hints.forget(&s.id);
    }
    Ok(())
}

impl State {
    /// Creates all of the subnets or none.
    pub async fn subnet_create(self: &Arc<Self>, inputs: Vec<SubnetInput>) -> Result<Vec<Subnet>> {
        self.write(move |w| inputs.iter().map(|s| insert(w, s)).collect()).await
    }

    pub async fn subnet_update(self: &Arc<Self>, id: String, c: SubnetChange) -> Result<Subnet> {
        self.write(move |w| {
            let mut s = w.tx.get::<Subnet>(&id)?.ok_or_else(|| not_found("subnet", &id))?;
            check_revision(c.if_revision, &s.std)?;
            apply_change(w, &mut s, &c)?;
            s.std.touch(w.now);
            w.tx.update(&mut s)?;
            let network = w.tx.get::<Network>(&s.network_id)?.ok_or_else(|| not_found("network", &s.network_id))?;
            let all = of_network(w, &s.network_id)?;
            dhcp::sync(w, &network, &all)?;
            w.routers_of_network(&s.value.network_id)?;
            Ok(s.into_inner())
        })
        .await
    }

    /// Errors: `SubnetInUse` while a port other than DHCP's has an address from it.
    pub async fn subnet_delete(self: &Arc<Self>, id: String, if_revision: Option<i64>) -> Result<()> {
        self.write(move |w| {
            let s = w.tx.get::<Subnet>(&id)?.ok_or_else(|| not_found("subnet", &id))?;
            check_revision(if_revision, &s.std)?;
            if store::subnet_user(w.tx, &id, s.is_auto_address())?.is_some() {
                let m = format!("Unable to complete operation on subnet {id}: One or more ports have an IP allocation from this subnet.");
                return Err(Error::conflict(m).code("SubnetInUse"));
            }
            for port_id in store::ports_in_subnet(w.tx, &id)? {
                let Some(mut p) = w.tx.get::<Port>(&port_id)? else { continue };
                let gone: Vec<_> = p.fixed_ips.iter().filter(|f| f.subnet_id == id).cloned().collect();
                for f in gone {
                    store::release_address(w.tx, &id, f.ip_address, &port_id)?;
                }
                p.fixed_ips.retain(|f| f.subnet_id != id);
                p.std.touch(w.now);
                w.tx.update(&mut p)?;
                w.changes.port(&p);
            }
            w.tx.delete(&s)?;
            w.st.hints.forget(&id);
            if let Some(network) = w.tx.get::<Network>(&s.network_id)? {
                let rest = of_network(w, &s.network_id)?;
                dhcp::sync(w, &network, &rest)?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(cidr: &str) -> SubnetInput {
        let cidr: IpNet = cidr.parse().unwrap();
        SubnetInput { ip_version: net::version(cidr.addr()), enable_dhcp: true, ..SubnetInput::default() }
    }

    fn ranges(pools: &[Pool]) -> Vec<String> {
        pools.iter().map(|p| format!("{}-{}", p.start, p.end)).collect()
    }

    #[test]
    fn default_gateway_and_pools() {
        let net = "10.0.0.0/24";
        let (g, pools) = plan(&input(net), net.parse().unwrap()).unwrap();
        assert_eq!((g.map(|g| g.to_string()).as_deref(), ranges(&pools)), (Some("10.0.0.1"), vec!["10.0.0.2-10.0.0.254".to_string()]));
        let mut s = input(net);
        s.gateway = GatewayWish::Address("10.0.0.254".parse().unwrap());
        assert_eq!(ranges(&plan(&s, net.parse().unwrap()).unwrap().1), ["10.0.0.1-10.0.0.253"]);
        s.gateway = GatewayWish::Address("10.0.0.9".parse().unwrap());
        assert_eq!(ranges(&plan(&s, net.parse().unwrap()).unwrap().1), ["10.0.0.1-10.0.0.8", "10.0.0.10-10.0.0.254"]);
        s.gateway = GatewayWish::None;
        assert_eq!(ranges(&plan(&s, net.parse().unwrap()).unwrap().1), ["10.0.0.1-10.0.0.254"]);
        let v6 = "2001:db8::/64";
        let (g, pools) = plan(&input(v6), v6.parse().unwrap()).unwrap();
        assert_eq!(g.map(|g| g.to_string()).as_deref(), Some("2001:db8::1"));
        assert_eq!(ranges(&pools), ["2001:db8::2-2001:db8::ffff:ffff:ffff:ffff"]);
    }

    #[test]
    fn refuses_pools_and_prefixes_that_cannot_be() {
        let cidr: IpNet = "10.0.0.0/24".parse().unwrap();
        let pool = |a: &str, b: &str| Pool { start: a.parse().unwrap(), end: b.parse().unwrap() };
        for (pools, want) in [
            (vec![pool("10.0.0.9", "10.0.0.2")], "InvalidAllocationPool"),
            (vec![pool("10.0.0.2", "10.0.1.2")], "OutOfBoundsAllocationPool"),
            (vec![pool("10.0.0.1", "10.0.0.9")], "GatewayConflictWithAllocationPools"),
            (vec![pool("10.0.0.2", "10.0.0.9"), pool("10.0.0.9", "10.0.0.12")], "OverlappingAllocationPools"),
            (vec![pool("::1", "::2")], "InvalidAllocationPool"),
        ] {
            let s = SubnetInput { pools: Some(pools), ..input("10.0.0.0/24") };
            assert_eq!(plan(&s, cidr).map_err(|e| e.code), Err(want));
        }
        for bad in ["0.0.0.0/0", "10.0.0.1/24", "10.0.0.0/32", "224.0.0.0/24", "127.0.0.0/8", "::/0"] {
            assert!(plan(&input(bad), bad.parse().unwrap()).is_err(), "{bad}");
        }
        let slaac = SubnetInput { ipv6_address_mode: Some("slaac".into()), ..input("2001:db8::/65") };
        assert!(plan(&slaac, "2001:db8::/65".parse().unwrap()).is_err());
    }
}
