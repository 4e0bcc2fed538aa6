//! What may reach a tool's input or a generated file.
//!
//! Every string of a description passes here before it is used. Refusing an object never stops the
//! others. A value with a line break, quote, comma or the like is refused, not escaped.

use super::exec::Outcome;
use crate::{Dhcp, HostState, Network, NetworkKind, PhysicalNetwork, Port, Router, Rule};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ids become parts of names and file paths.
pub(super) fn id(value: &str) -> Outcome<()> {
    let fits = (1..=64).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !value.starts_with('-');
    if fits { Ok(()) } else { Err(format!("{value:?} is not a usable id")) }
}

/// A unicast MAC address.
pub(super) fn mac(value: &str) -> Outcome<()> {
    let parts: Vec<&str> = value.split(':').collect();
    let hex = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    let fits = parts.len() == 6
        && parts.iter().all(hex)
        && u8::from_str_radix(parts[0], 16).is_ok_and(|b| b & 1 == 0)
        && value != "00:00:00:00:00:00";
    if fits { Ok(()) } else { Err(format!("{value:?} is not a unicast MAC address")) }
}

/// An interface name.
pub(super) fn device(value: &str) -> Outcome<()> {
    let fits = (1..=15).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && value.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if fits { Ok(()) } else { Err(format!("{value:?} is not a usable device name")) }
}

/// A DNS name or label.
pub(super) fn dns_name(value: &str) -> Outcome<()> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if value.len() <= 253 && value.split('.').all(label) { Ok(()) } else { Err(format!("{value:?} is not a DNS name")) }
}

fn mtu(value: u32) -> Outcome<()> {
    if (68..=65_521).contains(&value) { Ok(()) } else { Err(format!("an MTU of {value} is not possible")) }
}

pub(super) fn network(n: &Network, physical: &BTreeMap<String, PhysicalNetwork>) -> Outcome<()> {
    id(&n.id)?;
    mtu(n.mtu)?;
    match &n.kind {
        NetworkKind::Local => {}
        NetworkKind::Flat { physical_network } => match physical.get(physical_network) {
            None => return Err(format!("physical network {physical_network:?} is not configured on this host")),
            Some(PhysicalNetwork::OwnBridge { bridge, .. }) => device(bridge)?,
            Some(PhysicalNetwork::HostDevice { device: d }) => device(d)?,
        },
        NetworkKind::Vxlan { vni, local, peers } => {
            if !(1..1 << 24).contains(vni) {
                return Err(format!("{vni} is not a VXLAN identifier"));
            }
            if peers.iter().any(|p| local.is_some_and(|l| l.is_ipv4() != p.is_ipv4())) {
                return Err("VXLAN peers and the local address must be of one family".to_string());
            }
        }
    }
    n.dhcp.as_ref().map_or(Ok(()), dhcp)
}

fn dhcp(d: &Dhcp) -> Outcome<()> {
    id(&d.port_id)?;
    mac(&d.mac)?;
    if !d.domain.is_empty() {
        dns_name(&d.domain)?;
    }
    for s in &d.subnets {
        id(&s.subnet_id)?;
        let same = |a: &IpAddr| a.is_ipv4() == s.cidr.addr().is_ipv4();
        if !same(&s.address) || !s.gateway.iter().all(same) || !s.dns.iter().all(same) {
            return Err(format!("subnet {}: addresses of another family", s.subnet_id));
        }
        if s.routes.iter().any(|(to, via)| !same(&to.addr()) || !same(via)) {
            return Err(format!("subnet {}: routes of another family", s.subnet_id));
        }
    }
    Ok(())
}

/// Everything about a port except its rules, which are judged one by one.
pub(super) fn port(p: &Port, state: &HostState) -> Outcome<()> {
    id(&p.id)?;
    device(&p.tap)?;
    // A wrong name must never pull one of the host's own devices into a tenant's bridge.
    if !p.tap.starts_with("tap") {
        return Err(format!("{:?} is not a tap name", p.tap));
    }
    mac(&p.mac)?;
    for (_, pair_mac) in &p.allowed_pairs {
        mac(pair_mac)?;
    }
    if !state.networks.contains_key(&p.network_id) {
        return Err(format!("network {} is not on this host", p.network_id));
    }
    Ok(())
}

pub(super) fn router(r: &Router, state: &HostState) -> Outcome<()> {
    id(&r.id)?;
    let ends = r
        .interfaces
        .iter()
        .map(|i| (&i.port_id, &i.mac, &i.network_id))
        .chain(r.gateway.iter().map(|g| (&g.port_id, &g.mac, &g.network_id)));
    for (port_id, port_mac, network_id) in ends {
        id(port_id)?;
        mac(port_mac)?;
        if !state.networks.contains_key(network_id) {
            return Err(format!("network {network_id} is not on this host"));
        }
    }
    if r.routes.iter().any(|(to, via)| to.addr().is_ipv4() != via.is_ipv4()) {
        return Err("a route's destination and next hop differ in family".to_string());
    }
    if r.floating_ips.iter().any(|f| f.floating.is_ipv4() != f.fixed.is_ipv4()) {
        return Err("a floating address and its fixed address differ in family".to_string());
    }
    Ok(())
}

/// Protocol names the network API accepts, with their numbers.
const PROTOCOLS: [(&str, u8); 24] = [
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
    ("any", 0),
];

/// Protocols with ports.
pub(super) const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The rule's protocol number; `None` means any.
pub(super) fn protocol(rule: &Rule) -> Outcome<Option<u8>> {
    let Some(name) = &rule.protocol else { return Ok(None) };
    let number = match PROTOCOLS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        Some((_, number)) => *number,
        None => name.parse().map_err(|_| format!("{name:?} is not a protocol"))?,
    };
    Ok(match number {
        0 => None,
        // The API lets IPv6 rules say `icmp` as well.
        1 if rule.ip_version == 6 => Some(58),
        other => Some(other),
    })
}

/// A rule that passes can be loaded.
pub(super) fn rule(r: &Rule) -> Outcome<()> {
    if r.ip_version != 4 && r.ip_version != 6 {
        return Err(format!("IP version {}", r.ip_version));
    }
    if r.remote_prefix.is_some_and(|p| p.addr().is_ipv4() != (r.ip_version == 4)) {
        return Err("the remote prefix is of another family".to_string());
    }
    if let Some(group) = &r.remote_group {
        id(group)?;
    }
    let number = protocol(r)?;
    if number == Some(58) && r.ip_version == 4 {
        return Err("ICMPv6 in an IPv4 rule".to_string());
    }
    match (r.port_min, r.port_max) {
        (None, None) => Ok(()),
        (Some(kind), code) if matches!(number, Some(1 | 58)) => {
            if kind <= 255 && code.is_none_or(|c| c <= 255) {
                Ok(())
            } else {
                Err("an ICMP type or code is above 255".to_string())
            }
        }
        (min, max) if number.is_some_and(|n| WITH_PORTS.contains(&n)) => {
            if min.unwrap_or(0) <= max.unwrap_or(u16::MAX) {
                Ok(())
            } else {
                Err("the port range is empty".to_string())
            }
        }
        _ => Err("ports given for a protocol without ports".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_strings_are_refused() {
        for bad in ["", "a b", "a\nb", "../x", "$(id)", "a;b", "-x", &"x".repeat(65)] {
            assert!(id(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "eth0 up", "a/b", "tap\n", &"t".repeat(16), "0tap"] {
            assert!(device(bad).is_err(), "{bad:?}");
        }
        for bad in ["01:00:00:00:00:00", "00:00:00:00:00:00", "fa:16:3e:0:0:1", "fa:16:3e:00:00:01\n", "x"] {
            assert!(mac(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a..b", "a,b", "a\nb", "-a", "a b"] {
            assert!(dns_name(bad).is_err(), "{bad:?}");
        }
        assert!(mac("fa:16:3e:00:00:01").is_ok() && device("tap0f1e2d3c-4b").is_ok() && dns_name("a.example").is_ok());
    }

    #[test]
    fn rules_that_cannot_be_loaded_are_refused() {
        let base = Rule {
            ingress: true,
            ip_version: 4,
            protocol: Some("tcp".into()),
            port_min: Some(22),
            port_max: Some(22),
            remote_prefix: None,
            remote_group: None,
            stateful: true,
        };
        assert!(rule(&base).is_ok());
        assert!(rule(&Rule { protocol: Some("vrrp".into()), ..base.clone() }).is_err());
        assert!(rule(&Rule { protocol: Some("tcp -j ACCEPT".into()), ..base.clone() }).is_err());
        assert!(rule(&Rule { port_min: Some(23), ..base.clone() }).is_err());
        assert!(rule(&Rule { remote_prefix: Some("::/0".parse().unwrap()), ..base.clone() }).is_err());
        assert!(rule(&Rule { protocol: Some("icmp".into()), port_max: Some(256), ..base.clone() }).is_err());
        let six = Rule { protocol: Some("icmp".into()), ip_version: 6, ..base };
        assert_eq!(protocol(&six), Ok(Some(58)));
    }
}
