//! DHCP and DNS of a network: the files of one dnsmasq.
//!
//! Addresses are handed out to known MACs only. What tenants choose (names, options) passes a
//! sanitiser; a refused option or name is left out and reported under its port, and the other
//! hosts are served.

use super::dnsmasq::Server;
use super::exec::Outcome;
use super::validate;
use crate::{Dhcp, DhcpSubnet, Network};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// Interface of a DHCP namespace.
pub(super) const DEVICE: &str = "dhcp0";
/// Where guests look for the metadata service.
pub(super) const METADATA: &str = "169.254.169.254";
/// Lease time in seconds, as upstream's default.
const LEASE_S: u32 = 86_400;

/// What an option's value must look like.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Addresses,
    Number,
    Networks,
}

/// IPv4 options by dnsmasq's names: only these names and plain numbers are taken, since dnsmasq
/// refuses a whole file for a name it does not know.
const OPTIONS4: [(&str, u8, Kind); 30] = [
    ("netmask", 1, Kind::Addresses),
    ("time-offset", 2, Kind::Number),
    ("router", 3, Kind::Addresses),
    ("dns-server", 6, Kind::Addresses),
    ("log-server", 7, Kind::Addresses),
    ("lpr-server", 9, Kind::Addresses),
    ("hostname", 12, Kind::Text),
    ("boot-file-size", 13, Kind::Number),
    ("domain-name", 15, Kind::Text),
    ("swap-server", 16, Kind::Addresses),
    ("root-path", 17, Kind::Text),
    ("extension-path", 18, Kind::Text),
    ("default-ttl", 23, Kind::Number),
    ("mtu", 26, Kind::Number),
    ("broadcast", 28, Kind::Addresses),
    ("nis-domain", 40, Kind::Text),
    ("nis-server", 41, Kind::Addresses),
    ("ntp-server", 42, Kind::Addresses),
    ("vendor-encap", 43, Kind::Text),
    ("netbios-ns", 44, Kind::Addresses),
    ("netbios-dd", 45, Kind::Addresses),
    ("netbios-nodetype", 46, Kind::Number),
    ("server-ip-address", 150, Kind::Addresses),
    ("tftp-server-address", 150, Kind::Addresses),
    ("tftp-server", 66, Kind::Text),
    ("bootfile-name", 67, Kind::Text),
    ("smtp-server", 69, Kind::Addresses),
    ("domain-search", 119, Kind::Text),
    ("classless-static-route", 121, Kind::Networks),
    ("tcp-keepalive", 38, Kind::Number),
];

/// IPv6 options, as above.
const OPTIONS6: [(&str, u8, Kind); 6] = [
    ("dns-server", 23, Kind::Addresses),
    ("domain-search", 24, Kind::Text),
    ("ntp-server", 56, Kind::Addresses),
    ("bootfile-url", 59, Kind::Text),
    ("bootfile-param", 60, Kind::Text),
    ("information-refresh-time", 32, Kind::Number),
];

/// One extra option as `number,value`, or why not.
fn option(name: &str, value: &str, version: u8) -> Outcome<String> {
    let table: &[(&str, u8, Kind)] = match version {
        4 => &OPTIONS4,
        6 => &OPTIONS6,
        other => return Err(format!("IP version {other}")),
    };
    let refuse = |why: &str| Err(format!("DHCP option {name:?}: {why}"));
    let (number, kind) = match name.parse::<u8>() {
        Ok(0 | 255) => return refuse("not an option number"),
        Ok(number) => (number, table.iter().find(|o| o.1 == number).map_or(Kind::Text, |o| o.2)),
        Err(_) => match table.iter().find(|o| o.0 == name) {
            Some(o) => (o.1, o.2),
            None => return refuse("unknown name"),
        },
    };
    if value.is_empty() || value.len() > 255 {
        return refuse("the value must have 1 to 255 characters");
    }
    let parts = || value.split(',').map(str::trim);
    let address = |p: &str| p.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4() == (version == 4));
    let network = |p: &str| p.parse::<ipnet::IpNet>().is_ok() || address(p);
    let fits = match kind {
        Kind::Number => value.parse::<u32>().is_ok(),
        Kind::Addresses => parts().all(address),
        Kind::Networks => parts().all(network),
        // Lists of addresses are safe with their commas; other commas would begin a new field.
        Kind::Text => parts().all(address) || value.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._:/@%+=-()[]~?&*!".contains(&b)),
    };
    if !fits {
        return refuse("the value has characters or a form that are not allowed");
    }
    // dnsmasq wants IPv6 addresses in brackets.
    let value = match version {
        6 if parts().all(address) => parts().map(|p| format!("[{p}]")).collect::<Vec<_>>().join(","),
        _ => value.to_string(),
    };
    Ok(format!("{number},{value}"))
}

fn tag(index: usize) -> String {
    format!("s{index}")
}

fn bracket(a: &IpAddr) -> String {
    if a.is_ipv6() { format!("[{a}]") } else { a.to_string() }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(bracket).collect::<Vec<_>>().join(",")
}

/// The options of a subnet.
fn subnet_options(s: &DhcpSubnet, t: &str, d: &Dhcp, out: &mut String) {
    let dns = if s.dns.is_empty() { vec![s.address] } else { s.dns.clone() };
    if s.cidr.addr().is_ipv6() {
        let _ = writeln!(out, "tag:{t},option6:23,{}", list(&dns));
        if !d.domain.is_empty() {
            let _ = writeln!(out, "tag:{t},option6:24,{}", d.domain);
        }
        return;
    }
    let _ = writeln!(out, "tag:{t},6,{}", list(&dns));
    match s.gateway {
        Some(gateway) => {
            let _ = writeln!(out, "tag:{t},3,{gateway}");
        }
        // An empty option keeps dnsmasq from offering itself as the router.
        None => {
            let _ = writeln!(out, "tag:{t},3");
        }
    }
    let mut routes: Vec<String> = s.routes.iter().map(|(to, via)| format!("{},{via}", to.trunc())).collect();
    if d.metadata {
        routes.push(format!("{METADATA}/32,{}", s.address));
    } else if let Some(gateway) = s.gateway {
        routes.push(format!("{METADATA}/32,{gateway}"));
    }
    // Clients that take classless routes ignore the router option.
    if let Some(gateway) = s.gateway.filter(|_| !s.routes.iter().any(|(to, _)| to.prefix_len() == 0)) {
        routes.push(format!("0.0.0.0/0,{gateway}"));
    }
    if !routes.is_empty() {
        for number in [121, 249] {
            let _ = writeln!(out, "tag:{t},{number},{}", routes.join(","));
        }
    }
}

/// The network's server and what had to be left out, by port id.
pub(super) fn server(n: &Network, d: &Dhcp, run_dir: &Path, ns: &str) -> (Server, BTreeMap<String, String>) {
    let mut refused = BTreeMap::new();
    let dir = run_dir.join("dhcp").join(&n.id);
    let (mut hosts, mut opts, mut names) = (String::new(), String::new(), String::new());
    for (i, s) in d.subnets.iter().enumerate() {
        subnet_options(s, &tag(i), d, &mut opts);
    }
    let _ = writeln!(opts, "26,{}", n.mtu);
    let mut tagged = String::new();
    for host in &d.hosts {
        let name_ok = validate::dns_name(&host.hostname);
        if let Err(why) = validate::mac(&host.mac).and_then(|()| name_ok.clone()) {
            refused.insert(host.port_id.clone(), why);
        }
        if validate::mac(&host.mac).is_err() {
            continue;
        }
        let mac = host.mac.to_ascii_lowercase();
        for address in &host.addresses {
            hosts.push_str(&mac);
            if name_ok.is_ok() {
                let _ = write!(hosts, ",{}", host.hostname);
                let _ = match d.domain.as_str() {
                    "" => writeln!(names, "{address} {}", host.hostname),
                    domain => writeln!(names, "{address} {0}.{domain} {0}", host.hostname),
                };
            }
            let _ = writeln!(hosts, ",{}", bracket(address));
        }
        // A tag in the hosts file would be simpler, but dnsmasq (2.86 to 2.90 at least) crashes when it
        // re-reads a host with a tag that it has served. As part of the configuration it is safe.
        let label = format!("p{}", mac.replace(':', ""));
        if !host.options.is_empty() {
            let _ = writeln!(tagged, "dhcp-mac=set:{label},{mac}");
        }
        for (name, value, version) in &host.options {
            match option(name, value, *version) {
                Ok(text) => {
                    let six = if *version == 6 { "option6:" } else { "" };
                    let _ = writeln!(opts, "tag:{label},{six}{text}");
                }
                Err(why) => {
                    refused.insert(host.port_id.clone(), why);
                }
            }
        }
    }
    let server =
        Server { conf: conf(d, &dir) + &tagged, dir, ns: ns.to_string(), files: vec![("hosts", hosts), ("opts", opts), ("names", names)] };
    (server, refused)
}

/// The part of the configuration that needs a restart.
///
/// No log, since guests could fill a file with it.
fn conf(d: &Dhcp, dir: &Path) -> String {
    let mut out = String::from(
        "user=root\ngroup=root\nno-hosts\nno-resolv\nno-negcache\nbind-dynamic\nexcept-interface=lo\nleasefile-ro\n\
         dhcp-authoritative\nlog-facility=/dev/null\nquiet-dhcp\nquiet-dhcp6\nquiet-ra\ndhcp-no-override\n",
    );
    let _ = writeln!(out, "interface={DEVICE}\ndhcp-lease-max={}", 1 << 20);
    for (key, file) in [("dhcp-hostsfile", "hosts"), ("dhcp-optsfile", "opts"), ("addn-hosts", "names")] {
        let _ = writeln!(out, "{key}={}", dir.join(file).display());
    }
    if !d.domain.is_empty() {
        let _ = writeln!(out, "domain={0}\nlocal=/{0}/", d.domain);
    }
    for (i, s) in d.subnets.iter().enumerate() {
        let (t, net) = (tag(i), s.cidr.network());
        match s.ipv6_mode.as_deref() {
            _ if net.is_ipv4() => {
                let _ = writeln!(out, "dhcp-range=set:{t},{net},static,{},{LEASE_S}s", s.cidr.netmask());
            }
            Some("dhcpv6-stateful" | "dhcpv6-stateless") => {
                let _ = writeln!(out, "dhcp-range=set:{t},{net},static,{},{LEASE_S}s", s.cidr.prefix_len());
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DhcpHost, NetworkKind};

    #[test]
    fn hostile_options_are_refused() {
        for (name, value) in [
            ("bootfile-name", "x\ndhcp-script=/bin/sh"),
            ("bootfile-name", "x\rtag:y"),
            ("bootfile-name", "a,b"),
            ("bootfile-name", "\"a"),
            ("bootfile-name", "a#b\0"),
            ("bootfile-name", "a\\nb"),
            ("no-such-name", "1"),
            ("67\n", "x"),
            ("router", "not an address"),
            ("mtu", "1500;"),
            ("255", "x"),
            ("67", ""),
        ] {
            assert!(option(name, value, 4).is_err(), "{name:?} {value:?}");
        }
        assert_eq!(option("ntp-server", "10.0.0.1,10.0.0.2", 4).unwrap(), "42,10.0.0.1,10.0.0.2");
        assert_eq!(option("bootfile-name", "pxe/linux.0", 4).unwrap(), "67,pxe/linux.0");
        assert_eq!(option("dns-server", "2001:db8::1", 6).unwrap(), "23,[2001:db8::1]");
    }

    #[test]
    fn one_bad_host_leaves_the_others() {
        let host = |id: &str, name: &str| DhcpHost {
            port_id: id.into(),
            mac: "fa:16:3e:00:00:01".into(),
            hostname: name.into(),
            addresses: vec!["10.0.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()],
            options: vec![],
        };
        let d = Dhcp {
            port_id: "d".into(),
            mac: "fa:16:3e:00:00:02".into(),
            subnets: vec![DhcpSubnet {
                subnet_id: "s".into(),
                cidr: "10.0.0.0/24".parse().unwrap(),
                address: "10.0.0.2".parse().unwrap(),
                gateway: Some("10.0.0.1".parse().unwrap()),
                dns: vec![],
                routes: vec![],
                ipv6_mode: None,
            }],
            hosts: vec![host("a", "good"), host("b", "bad\nname")],
            domain: "example".into(),
            metadata: false,
        };
        let n = Network { id: "n".into(), kind: NetworkKind::Local, mtu: 1450, dhcp: None };
        let (server, refused) = server(&n, &d, Path::new("/x"), "ns");
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["b"]);
        let text = |i: usize| server.files[i].1.as_str();
        assert_eq!(text(0).lines().count(), 4);
        assert!(text(0).contains("fa:16:3e:00:00:01,good,[2001:db8::5]"));
        assert!(text(1).contains("tag:s0,121,169.254.169.254/32,10.0.0.1,0.0.0.0/0,10.0.0.1"));
        assert!(text(2).contains("10.0.0.5 good.example good"));
    }
}
