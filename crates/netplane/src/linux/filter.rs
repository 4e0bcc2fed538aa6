//! Text of the filters: security groups and address checks of guests' ports.
//!
//! Three layers, all stateless functions of the description:
//! - nftables, bridge family, before a frame enters the bridge: source MAC, ARP sender, IPv6
//!   neighbour advertisements, foreign ethertypes; and on the way out only the guest's own MACs;
//! - iptables on bridged packets (`physdev`): source address, DHCP and router advertisements from
//!   guests, security groups with connection tracking;
//! - iptables on the host itself: nothing comes from a network's bridge into the host, and from a
//!   physical network the host makes itself only pings and answers.
//!
//! Connection tracking is split into one zone per network, since tenants' addresses overlap.
//! Chains are replaced whole and atomically; other chains are not touched. A port's chains end with
//! a drop, so an unloadable rule can only take away, never give.

use super::exec::Outcome;
use super::names::Names;
use super::validate;
use crate::{Port, Rule};
use ipnet::IpNet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

/// Address pairs a guest may send from: MAC and range, its own addresses first.
pub(super) fn pairs(port: &Port) -> Vec<(String, IpNet)> {
    let mut out: Vec<(String, IpNet)> = port.addresses.iter().map(|a| (port.mac.to_ascii_lowercase(), IpNet::from(*a))).collect();
    out.extend(port.allowed_pairs.iter().map(|(net, mac)| (mac.to_ascii_lowercase(), net.trunc())));
    for mac in macs(port) {
        if let Some(link_local) = link_local(&mac) {
            out.push((mac, IpNet::from(IpAddr::V6(link_local))));
        }
    }
    out.sort();
    out.dedup();
    out
}

fn macs(port: &Port) -> Vec<String> {
    let mut out = vec![port.mac.to_ascii_lowercase()];
    out.extend(port.allowed_pairs.iter().map(|(_, mac)| mac.to_ascii_lowercase()));
    out.sort();
    out.dedup();
    out
}

/// The EUI-64 link-local address of a MAC.
pub(super) fn link_local(mac: &str) -> Option<Ipv6Addr> {
    let b: Vec<u8> = mac.split(':').filter_map(|p| u8::from_str_radix(p, 16).ok()).collect();
    let [b0, b1, b2, b3, b4, b5] = b[..] else { return None };
    Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, b0 ^ 2, b1, b2, 0xff, 0xfe, b3, b4, b5]))
}

/// Declares (and so empties) a port's chains.
pub(super) fn declare_port(names: &Names, port: &str, out: &mut String) {
    for which in ['o', 'i', 's'] {
        let _ = writeln!(out, ":{} - [0:0]", names.chain_of(which, port));
    }
}

/// A network's chain: its filtered ports' chains, then everything else of the network passes.
pub(super) fn network_rules(names: &Names, network: &str, ports: &[&Port], out: &mut String) {
    let chain = names.chain_of('n', network);
    for (direction, which) in [("in", 'o'), ("out", 'i')] {
        for port in ports {
            let target = names.chain_of(which, &port.id);
            let tap = &port.tap;
            let _ = writeln!(out, "-A {chain} -m physdev --physdev-is-bridged --physdev-{direction} {tap} -j {target}");
        }
    }
    let _ = writeln!(out, "-A {chain} -j ACCEPT");
}

/// What every guest may and may not send before and after its source is checked, and what it always
/// receives: addresses and neighbours work under any security group.
fn fixed_rules(v6: bool) -> (&'static [&'static str], &'static [&'static str], &'static [&'static str]) {
    let before: &'static [&'static str] = if v6 {
        // Duplicate address detection and multicast membership come from the unspecified address.
        &[
            "-s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 131 -j RETURN",
            "-s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 133 -j RETURN",
            "-s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
            "-s ::/128 -p ipv6-icmp -m icmp6 --icmpv6-type 143 -j RETURN",
        ]
    } else {
        &["-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 -j RETURN"]
    };
    let after: &'static [&'static str] = if v6 {
        &[
            "-p ipv6-icmp -m icmp6 --icmpv6-type 134 -j DROP",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 137 -j DROP",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 131 -j RETURN",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 133 -j RETURN",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 143 -j RETURN",
            "-p udp -m udp --sport 546 --dport 547 -j RETURN",
            "-p udp -m udp --sport 547 --dport 546 -j DROP",
        ]
    } else {
        &["-p udp -m udp --sport 68 --dport 67 -j RETURN", "-p udp -m udp --sport 67 --dport 68 -j DROP"]
    };
    let inbound: &'static [&'static str] = if v6 {
        &[
            "-p ipv6-icmp -m icmp6 --icmpv6-type 130 -j ACCEPT",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 134 -j ACCEPT",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT",
            "-s fe80::/10 -p udp -m udp --sport 547 --dport 546 -j ACCEPT",
        ]
    } else {
        &["-p udp -m udp --sport 67 --dport 68 -j ACCEPT"]
    };
    (before, after, inbound)
}

/// A port's rules in one family. Bad rules are left out and returned.
pub(super) fn port_rules(names: &Names, port: &Port, v6: bool, out: &mut String) -> Vec<String> {
    let chain = |which| names.chain_of(which, &port.id);
    let (from, to, source) = (chain('o'), chain('i'), chain('s'));
    for (mac, net) in pairs(port).iter().filter(|(_, net)| net.addr().is_ipv6() == v6) {
        let _ = writeln!(out, "-A {source} -s {net} -m mac --mac-source {mac} -j RETURN");
    }
    let _ = writeln!(out, "-A {source} -j DROP");
    let (before, after, inbound) = fixed_rules(v6);
    for line in before {
        let _ = writeln!(out, "-A {from} {line}");
    }
    let _ = writeln!(out, "-A {from} -j {source}");
    for line in after {
        let _ = writeln!(out, "-A {from} {line}");
    }
    for line in inbound {
        let _ = writeln!(out, "-A {to} {line}");
    }
    // With only stateless groups replies need rules of their own.
    if port.rules.is_empty() || port.rules.iter().any(|r| r.stateful) {
        for (chain, verdict) in [(&from, "RETURN"), (&to, "ACCEPT")] {
            let _ = writeln!(out, "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j {verdict}");
            let _ = writeln!(out, "-A {chain} -m conntrack --ctstate INVALID -j DROP");
        }
    }
    let mut bad = Vec::new();
    for rule in port.rules.iter().filter(|r| (r.ip_version == 6) == v6) {
        match rule_match(names, rule) {
            Ok(text) => {
                let (chain, verdict) = if rule.ingress { (&to, "ACCEPT") } else { (&from, "RETURN") };
                let _ = writeln!(out, "-A {chain}{text} -j {verdict}");
            }
            Err(why) => bad.push(why),
        }
    }
    let _ = writeln!(out, "-A {from} -j DROP\n-A {to} -j DROP");
    bad
}

/// The matches of one rule, with a leading space each.
fn rule_match(names: &Names, rule: &Rule) -> Outcome<String> {
    validate::rule(rule)?;
    let v6 = rule.ip_version == 6;
    let mut out = String::new();
    if let Some(prefix) = rule.remote_prefix.filter(|p| p.prefix_len() > 0) {
        let _ = write!(out, " {} {}", if rule.ingress { "-s" } else { "-d" }, prefix.trunc());
    }
    if let Some(number) = validate::protocol(rule)? {
        let _ = write!(out, " -p {number}");
        match (rule.port_min, rule.port_max) {
            (None, None) => {}
            (kind, code) if matches!(number, 1 | 58) => {
                let (module, option) = if v6 { ("icmp6", "--icmpv6-type") } else { ("icmp", "--icmp-type") };
                let _ = write!(out, " -m {module} {option} {}", kind.unwrap_or(0));
                if let Some(code) = code {
                    let _ = write!(out, "/{code}");
                }
            }
            (min, max) => {
                let (min, max) = (min.unwrap_or(0), max.unwrap_or(u16::MAX));
                // The tool refuses a range of one port.
                let _ = match min == max {
                    true => write!(out, " -m multiport --dports {min}"),
                    false => write!(out, " -m multiport --dports {min}:{max}"),
                };
            }
        }
    }
    if let Some(group) = &rule.remote_group {
        let _ = write!(out, " -m set --match-set {} {}", names.set(group, v6), if rule.ingress { "src" } else { "dst" });
    }
    Ok(out)
}

/// The base of the bridge-family table, whole; existing port chains stay.
pub(super) fn nft_base(names: &Names, out: &mut String) {
    let t = names.table();
    let _ = write!(
        out,
        "add table bridge {t}\n\
         add map bridge {t} pin {{ type ifname : verdict; }}\n\
         add map bridge {t} pout {{ type ifname : verdict; }}\n\
         add chain bridge {t} pre {{ type filter hook prerouting priority -310; policy accept; }}\n\
         add chain bridge {t} post {{ type filter hook postrouting priority 0; policy accept; }}\n\
         flush chain bridge {t} pre\n\
         flush chain bridge {t} post\n\
         add rule bridge {t} pre iifname vmap @pin\n\
         add rule bridge {t} post oifname vmap @pout\n"
    );
}

/// A port's frame checks.
pub(super) fn nft_port(names: &Names, port: &Port, out: &mut String) {
    let t = names.table();
    let (i, o) = (names.nft_chain('i', &port.id), names.nft_chain('o', &port.id));
    for chain in [&i, &o] {
        let _ = writeln!(out, "add chain bridge {t} {chain}\nflush chain bridge {t} {chain}");
    }
    let own = macs(port).join(", ");
    let _ = writeln!(out, "add rule bridge {t} {i} ether saddr != {{ {own} }} drop");
    for mac in macs(port) {
        // Address probes (RFC 5227) have no sender address.
        let _ = writeln!(out, "add rule bridge {t} {i} ether type arp arp saddr ether {mac} arp saddr ip 0.0.0.0 accept");
    }
    for (mac, net) in pairs(port) {
        match net {
            IpNet::V4(net) => {
                let _ = writeln!(out, "add rule bridge {t} {i} ether type arp arp saddr ether {mac} arp saddr ip {net} accept");
            }
            IpNet::V6(net) => {
                let bits = net.prefix_len();
                let target = match bits {
                    0 => String::new(),
                    _ => format!(" @th,64,{bits} {:#x}", u128::from(net.network()) >> (128 - u32::from(bits))),
                };
                let _ = writeln!(out, "add rule bridge {t} {i} ether saddr {mac} icmpv6 type nd-neighbor-advert{target} accept");
            }
        }
    }
    let _ = write!(
        out,
        "add rule bridge {t} {i} icmpv6 type {{ nd-neighbor-advert, nd-router-advert, nd-redirect }} drop\n\
         add rule bridge {t} {i} ether type != {{ ip, ip6 }} drop\n\
         add rule bridge {t} {o} ether daddr != {{ {own} }} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 drop\n\
         add element bridge {t} pin {{ \"{tap}\" : jump {i} }}\n\
         add element bridge {t} pout {{ \"{tap}\" : jump {o} }}\n",
        tap = port.tap
    );
}

/// Removes a port's frame checks, present or not.
pub(super) fn nft_remove(names: &Names, port: &str, tap: &str, out: &mut String) {
    let t = names.table();
    for (map, which) in [("pin", 'i'), ("pout", 'o')] {
        let chain = names.nft_chain(which, port);
        let _ = write!(
            out,
            "add chain bridge {t} {chain}\nflush chain bridge {t} {chain}\n\
             add element bridge {t} {map} {{ \"{tap}\" : jump {chain} }}\n\
             delete element bridge {t} {map} {{ \"{tap}\" }}\n\
             delete chain bridge {t} {chain}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> Port {
        Port {
            id: "p1".into(),
            network_id: "n1".into(),
            tap: "tapp1".into(),
            mac: "FA:16:3E:00:00:01".into(),
            addresses: vec!["10.0.0.5".parse().unwrap()],
            admin_up: true,
            port_security: true,
            allowed_pairs: vec![("10.0.9.7/24".parse().unwrap(), "fa:16:3e:00:00:02".into())],
            rules: vec![],
        }
    }

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_guest_sends_only_from_its_pairs() {
        let all: Vec<String> = pairs(&port()).iter().map(|(m, n)| format!("{m} {n}")).collect();
        assert_eq!(
            all,
            [
                "fa:16:3e:00:00:01 10.0.0.5/32",
                "fa:16:3e:00:00:01 fe80::f816:3eff:fe00:1/128",
                "fa:16:3e:00:00:02 10.0.9.0/24",
                "fa:16:3e:00:00:02 fe80::f816:3eff:fe00:2/128",
            ]
        );
    }

    #[test]
    fn rules_become_matches() {
        let names = Names::new("t");
        let cases = [
            (
                r#"{"ingress":true,"ip_version":4,"protocol":"tcp","port_min":22,"port_max":23,"remote_prefix":"10.1.2.3/8","stateful":true}"#,
                " -s 10.0.0.0/8 -p 6 -m multiport --dports 22:23",
            ),
            (
                r#"{"ingress":false,"ip_version":6,"protocol":"icmpv6","port_min":128,"port_max":0,"stateful":true}"#,
                " -p 58 -m icmp6 --icmpv6-type 128/0",
            ),
            (
                r#"{"ingress":false,"ip_version":4,"protocol":"icmp","port_min":8,"remote_prefix":"0.0.0.0/0","stateful":true}"#,
                " -p 1 -m icmp --icmp-type 8",
            ),
            (r#"{"ingress":false,"ip_version":4,"protocol":"112","stateful":true}"#, " -p 112"),
            (
                r#"{"ingress":true,"ip_version":4,"protocol":"udp","port_min":53,"port_max":53,"stateful":true}"#,
                " -p 17 -m multiport --dports 53",
            ),
            (r#"{"ingress":true,"ip_version":4,"stateful":true}"#, ""),
        ];
        for (json, want) in cases {
            assert_eq!(rule_match(&names, &rule(json)).unwrap(), want);
        }
        let grouped = rule(r#"{"ingress":true,"ip_version":4,"remote_group":"g","stateful":true}"#);
        assert!(rule_match(&names, &grouped).unwrap().ends_with(" src"));
    }

    #[test]
    fn a_bad_rule_is_left_out_and_the_end_is_a_drop() {
        let mut p = port();
        p.rules = vec![rule(r#"{"ingress":true,"ip_version":4,"protocol":"vrrp","port_min":1,"port_max":2,"stateful":true}"#)];
        let mut out = String::new();
        assert_eq!(port_rules(&Names::new("t"), &p, false, &mut out).len(), 1);
        assert!(!out.contains("dports"));
        assert!(out.trim_end().ends_with("-j DROP"));
    }
}
