//! Routers: what is inside a router's namespace.
//!
//! Source NAT for what leaves through the gateway, one-to-one NAT for floating addresses (also
//! between floating addresses of one router), router advertisements by dnsmasq, and the metadata
//! address on the loopback device.

use super::dhcp::METADATA;
use super::dnsmasq::Server;
use super::inside::{Device, Inside, Route};
use super::names::Names;
use crate::{HostState, Router};
use ipnet::IpNet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// The wanted inside of the router's namespace.
pub(super) fn inside(names: &Names, r: &Router, state: &HostState) -> Inside {
    let mtu = |network: &str| state.networks.get(network).map_or(1500, |n| n.mtu);
    let mut devices: Vec<Device> = r
        .interfaces
        .iter()
        .map(|i| Device {
            name: names.inner(&i.port_id),
            mac: i.mac.to_ascii_lowercase(),
            mtu: mtu(&i.network_id),
            addresses: i.addresses.clone(),
        })
        .collect();
    let mut routes: Vec<Route> = r.routes.iter().map(|(to, via)| Route { to: Some(*to), via: *via, device: None }).collect();
    if let Some(g) = &r.gateway {
        let name = names.gateway(&g.port_id);
        let mut addresses = g.addresses.clone();
        addresses.extend(r.floating_ips.iter().map(|f| IpNet::from(f.floating)));
        for via in &g.next_hops {
            if !routes.iter().any(|r| r.to.is_some_and(|n| n.prefix_len() == 0) && r.via.is_ipv4() == via.is_ipv4()) {
                routes.push(Route { to: None, via: *via, device: Some(name.clone()) });
            }
        }
        devices.push(Device { name, mac: g.mac.to_ascii_lowercase(), mtu: mtu(&g.network_id), addresses });
    }
    Inside {
        devices,
        lo: METADATA.parse::<IpAddr>().map(IpNet::from).into_iter().collect(),
        routes,
        forwarding: r.admin_up,
        filter4: Some(tables(names, r, false)),
        filter6: Some(tables(names, r, true)),
        announce: true,
    }
}

/// The namespace's whole tables in one family.
fn tables(names: &Names, r: &Router, v6: bool) -> String {
    let mut out = String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    let gateway = r.gateway.as_ref().map(|g| (names.gateway(&g.port_id), g));
    if v6 {
        // dnsmasq here only advertises; addresses come from the network's own server.
        out.push_str("-A INPUT -p udp -m udp --dport 547 -j DROP\n");
    } else if let Some((device, _)) = &gateway {
        let _ = writeln!(out, "-A INPUT -i {device} -d {METADATA}/32 -j DROP");
    }
    out.push_str("COMMIT\n");
    match gateway {
        Some((device, g)) => {
            let own = g.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv6() == v6);
            nat(r, &device, own.filter(|_| g.snat && !v6), v6, &mut out);
        }
        // Empties what an earlier gateway left.
        None if !v6 => out.push_str("*nat\nCOMMIT\n"),
        None => {}
    }
    out
}

fn nat(r: &Router, device: &str, own: Option<IpAddr>, v6: bool, out: &mut String) {
    let fips: Vec<_> = r.floating_ips.iter().filter(|f| f.floating.is_ipv6() == v6).collect();
    if v6 && fips.is_empty() {
        return;
    }
    out.push_str("*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n");
    for f in &fips {
        let (floating, fixed) = (f.floating, f.fixed);
        for chain in ["PREROUTING", "OUTPUT"] {
            let _ = writeln!(out, "-A {chain} -d {floating} -j DNAT --to-destination {fixed}");
        }
    }
    for f in &fips {
        let (floating, fixed) = (f.floating, f.fixed);
        let _ = writeln!(out, "-A POSTROUTING -s {fixed} -o {device} -j SNAT --to-source {floating}");
        // Guest to floating address through this router: the answer must come back this way.
        let _ = writeln!(out, "-A POSTROUTING -s {fixed} ! -o {device} -m conntrack --ctstate DNAT -j SNAT --to-source {floating}");
    }
    if let Some(own) = own {
        let _ = writeln!(out, "-A POSTROUTING -o {device} -m conntrack ! --ctstate DNAT -j SNAT --to-source {own}");
        let nets = r.interfaces.iter().flat_map(|i| &i.addresses).filter(|a| a.addr().is_ipv6() == v6);
        for net in nets {
            let _ = writeln!(out, "-A POSTROUTING -s {} ! -o {device} -m conntrack --ctstate DNAT -j SNAT --to-source {own}", net.trunc());
        }
    }
    out.push_str("COMMIT\n");
}

/// Directory of a router's advertisement server.
pub(super) fn advertiser_dir(run_dir: &Path, router: &str) -> std::path::PathBuf {
    run_dir.join("ra").join(router)
}

/// The server that advertises the router's prefixes, if it has any.
pub(super) fn advertiser(names: &Names, r: &Router, run_dir: &Path) -> Option<Server> {
    let mut conf = String::from(
        "user=root\ngroup=root\nport=0\nno-resolv\nno-hosts\nbind-dynamic\nexcept-interface=lo\nleasefile-ro\nlog-facility=/dev/null\nenable-ra\nquiet-ra\n\
         quiet-dhcp6\n",
    );
    let mut any = false;
    for i in &r.interfaces {
        let name = names.inner(&i.port_id);
        for (prefix, mode) in i.advertise.iter().filter(|(p, _)| p.addr().is_ipv6()) {
            let mode = match mode.as_str() {
                "dhcpv6-stateful" => "static",
                "dhcpv6-stateless" => "ra-stateless",
                _ => "ra-only",
            };
            any = true;
            let _ = writeln!(conf, "interface={name}\ndhcp-range={},{mode},{}", prefix.network(), prefix.prefix_len());
        }
    }
    let server = Server { dir: advertiser_dir(run_dir, &r.id), ns: names.ns_router(&r.id), conf, files: vec![] };
    (any && r.admin_up).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FloatingIp, RouterGateway, RouterInterface};

    fn router() -> Router {
        Router {
            id: "r".into(),
            admin_up: true,
            interfaces: vec![RouterInterface {
                port_id: "p".into(),
                network_id: "n".into(),
                mac: "fa:16:3e:00:00:01".into(),
                addresses: vec!["10.0.0.1/24".parse().unwrap()],
                advertise: vec![],
            }],
            gateway: Some(RouterGateway {
                port_id: "g".into(),
                network_id: "x".into(),
                mac: "fa:16:3e:00:00:02".into(),
                addresses: vec!["192.0.2.5/24".parse().unwrap()],
                next_hops: vec!["192.0.2.1".parse().unwrap()],
                snat: true,
            }),
            floating_ips: vec![FloatingIp { id: "f".into(), floating: "192.0.2.9".parse().unwrap(), fixed: "10.0.0.9".parse().unwrap() }],
            routes: vec![],
        }
    }

    #[test]
    fn floating_addresses_come_before_the_general_nat() {
        let text = tables(&Names::new("t"), &router(), false);
        let fip = text.find("--to-source 192.0.2.9").unwrap();
        let general = text.find("--to-source 192.0.2.5").unwrap();
        assert!(fip < general);
        assert!(!tables(&Names::new("t"), &router(), true).contains("*nat"));
    }

    #[test]
    fn without_snat_only_floating_addresses_are_translated() {
        let mut r = router();
        if let Some(g) = &mut r.gateway {
            g.snat = false;
        }
        let text = tables(&Names::new("t"), &r, false);
        assert!(text.contains("192.0.2.9") && !text.contains("192.0.2.5"));
    }
}
