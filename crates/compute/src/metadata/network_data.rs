//! `network_data.json`: links, networks and name servers of a server's ports.

use crate::State;
use crate::logic::network::path;
use crate::store::servers::{FixedIp, ServerPort};
use caelum_base::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Clone, Debug, Default, Deserialize)]
struct Subnet {
    id: String,
    #[serde(default)]
    cidr: String,
    #[serde(default)]
    gateway_ip: Option<String>,
    #[serde(default)]
    enable_dhcp: bool,
    #[serde(default)]
    ip_version: u8,
    #[serde(default)]
    dns_nameservers: Vec<String>,
    #[serde(default)]
    host_routes: Vec<Route>,
    #[serde(default)]
    ipv6_address_mode: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Route {
    destination: String,
    nexthop: String,
}

#[derive(Deserialize)]
struct Subnets {
    subnets: Vec<Subnet>,
}

/// The document for these ports; asks the network service for their subnets.
pub async fn network_data(state: &State, ports: &[ServerPort]) -> Result<Value> {
    let ids: BTreeSet<&str> = ports.iter().flat_map(|p| &p.fixed_ips).map(|f| f.subnet_id.as_str()).filter(|i| !i.is_empty()).collect();
    let mut subnets = Vec::new();
    if !ids.is_empty() {
        let ids: Vec<String> = ids.into_iter().map(|i| path(i).map(|i| format!("id={i}"))).collect::<Result<_>>()?;
        let found: Subnets = state.peers.network.get(format!("/v2.0/subnets?{}", ids.join("&"))).fetch().await?;
        subnets = found.subnets;
    }
    Ok(document(ports, &subnets))
}

fn document(ports: &[ServerPort], subnets: &[Subnet]) -> Value {
    let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports {
        let link = format!("tap{}", port.port_id.get(..11).unwrap_or(&port.port_id));
        links.push(json!({
            "id": link, "vif_id": port.port_id, "type": "bridge", "ethernet_mac_address": port.mac,
            "mtu": if port.mtu == 0 { Value::Null } else { json!(port.mtu) },
        }));
        for ip in &port.fixed_ips {
            let Some(subnet) = subnets.iter().find(|s| s.id == ip.subnet_id) else { continue };
            networks.push(network(networks.len(), &link, port, ip, subnet));
            for dns in dns(subnet) {
                if !services.contains(&dns) {
                    services.push(dns);
                }
            }
        }
    }
    json!({"links": links, "networks": networks, "services": services})
}

fn dns(subnet: &Subnet) -> Vec<Value> {
    subnet.dns_nameservers.iter().map(|a| json!({"type": "dns", "address": a})).collect()
}

fn network(number: usize, link: &str, port: &ServerPort, ip: &FixedIp, s: &Subnet) -> Value {
    let id = format!("network{number}");
    let version = s.ip_version;
    let mode = s.ipv6_address_mode.as_deref().filter(|_| version == 6);
    if s.enable_dhcp && mode.is_none() {
        return json!({"id": id, "type": format!("ipv{version}_dhcp"), "link": link, "network_id": port.network_id});
    }
    let kind = match mode {
        Some(mode) => format!("ipv6_{mode}"),
        None => format!("ipv{version}"),
    };
    let prefix = s.cidr.split_once('/').map_or("", |(_, p)| p);
    let mut routes: Vec<Value> = s.host_routes.iter().filter_map(|r| route(&r.destination, &r.nexthop)).collect();
    if let Some(gateway) = &s.gateway_ip {
        routes.extend(route(if version == 6 { "::/0" } else { "0.0.0.0/0" }, gateway));
    }
    json!({
        "id": id, "type": kind, "link": link, "network_id": port.network_id, "ip_address": ip.address,
        "netmask": netmask(prefix, version), "routes": routes, "services": dns(s),
    })
}

fn route(destination: &str, gateway: &str) -> Option<Value> {
    let (network, prefix) = destination.split_once('/')?;
    let version = if network.contains(':') { 6 } else { 4 };
    Some(json!({"network": network, "netmask": netmask(prefix, version), "gateway": gateway}))
}

/// `24` of IPv4 is `255.255.255.0`.
fn netmask(prefix: &str, version: u8) -> String {
    let n: u32 = prefix.parse().unwrap_or(0);
    if version == 6 {
        Ipv6Addr::from(u128::MAX.checked_shl(128 - n.min(128)).unwrap_or(0)).to_string()
    } else {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - n.min(32)).unwrap_or(0)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_and_dhcp_networks() {
        let port = ServerPort {
            port_id: "0123456789abcdef".into(),
            network_id: "n".into(),
            mac: "fa:16:3e:00:00:01".into(),
            mtu: 1450,
            fixed_ips: vec![
                FixedIp { address: "10.0.0.5".into(), subnet_id: "a".into(), ..FixedIp::default() },
                FixedIp { address: "10.1.0.5".into(), subnet_id: "b".into(), ..FixedIp::default() },
            ],
            ..ServerPort::default()
        };
        let a = Subnet { id: "a".into(), cidr: "10.0.0.0/24".into(), enable_dhcp: true, ip_version: 4, ..Subnet::default() };
        let b = Subnet {
            id: "b".into(),
            cidr: "10.1.0.0/20".into(),
            gateway_ip: Some("10.1.0.1".into()),
            ip_version: 4,
            dns_nameservers: vec!["9.9.9.9".into()],
            ..Subnet::default()
        };
        let d = document(&[port], &[a, b]);
        assert_eq!(d["links"][0]["id"], "tap0123456789a");
        assert_eq!(d["networks"][0]["type"], "ipv4_dhcp");
        assert_eq!(d["networks"][1]["netmask"], "255.255.240.0");
        assert_eq!(d["networks"][1]["routes"][0], json!({"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"}));
        assert_eq!(d["services"], json!([{"type": "dns", "address": "9.9.9.9"}]));
        assert_eq!((netmask("0", 4), netmask("64", 6)), ("0.0.0.0".into(), "ffff:ffff:ffff:ffff::".into()));
    }
}
