//! The inside of a namespace: settings, addresses, routes and its own filters.
//!
//! Runs on a thread that entered the namespace. It reads what is there and writes differences;
//! filters are one atomic load of whole tables, which leaves tracked connections alone.

use super::exec::{self, Batch, Outcome};
use super::netlink;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Mark of our routes (`proto`), so that others' are recognised.
pub(super) const PROTOCOL: u8 = 201;

#[derive(Hash)]
pub(super) struct Device {
    pub name: String,
    pub mac: String,
    pub mtu: u32,
    pub addresses: Vec<IpNet>,
}

#[derive(Hash)]
pub(super) struct Route {
    /// `None` is the default route.
    pub to: Option<IpNet>,
    pub via: IpAddr,
    /// Device, for next hops outside every subnet.
    pub device: Option<String>,
}

/// What a namespace should look like inside.
#[derive(Hash)]
pub(super) struct Inside {
    pub devices: Vec<Device>,
    pub lo: Vec<IpNet>,
    pub routes: Vec<Route>,
    pub forwarding: bool,
    /// Whole tables for iptables-restore, if the namespace has any.
    pub filter4: Option<String>,
    pub filter6: Option<String>,
    /// Devices that announce their addresses after a change.
    pub announce: bool,
}

impl Inside {
    /// Makes the namespace of the calling thread so.
    pub fn apply(&self) -> Outcome<()> {
        self.settings()?;
        self.drop_foreign_devices()?;
        // Filters before addresses: nothing is reachable unfiltered.
        std::thread::scope(|scope| {
            let restore = |tool: &'static str, text: &Option<String>| match text {
                Some(text) => exec::run(tool, &["-w", "10"], text).map(drop),
                None => Ok(()),
            };
            let six = scope.spawn(move || restore("ip6tables-restore", &self.filter6));
            restore("iptables-restore", &self.filter4)?;
            six.join().unwrap_or_else(|_| Err("a filter thread stopped".to_string()))
        })?;
        let (batch, changed) = self.differences()?;
        if let Some(why) = batch.run("ip").into_values().next() {
            return Err(why);
        }
        if self.announce && !changed.is_empty() {
            self.announce(&changed);
        }
        Ok(())
    }

    fn settings(&self) -> Outcome<()> {
        let forward = if self.forwarding { "1" } else { "0" };
        exec::sysctl("ipv4/ip_forward", forward)?;
        for (name, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/promote_secondaries", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/conf/all/arp_notify", "1"),
            ("ipv4/conf/default/arp_notify", "1"),
        ] {
            exec::sysctl(name, value)?;
        }
        // A host without IPv6 still routes IPv4.
        for (name, value) in [
            ("ipv6/conf/all/forwarding", forward),
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            if let Err(why) = exec::sysctl(name, value) {
                tracing::debug!(reason = %why, "IPv6 setting");
            }
        }
        Ok(())
    }

    fn drop_foreign_devices(&self) -> Outcome<()> {
        let mut batch = Batch::default();
        for link in netlink::links()?.values() {
            if link.kind == "veth" && !self.devices.iter().any(|d| d.name == link.name) {
                batch.push("", format!("link del dev {}", link.name));
            }
        }
        match batch.run("ip").into_values().next() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// Lines to run, and devices whose addresses grow.
    fn differences(&self) -> Outcome<(Batch, Vec<String>)> {
        let mut batch = Batch::default();
        let mut grown = Vec::new();
        let links = netlink::links()?;
        let have = netlink::addresses()?;
        if links.get("lo").is_some_and(|l| !l.up) {
            batch.push("", "link set dev lo up");
        }
        for d in &self.devices {
            let link = links.get(&d.name).ok_or_else(|| format!("device {} is missing in the namespace", d.name))?;
            let mut set = String::new();
            if !link.mac.eq_ignore_ascii_case(&d.mac) {
                set.push_str(&format!(" address {}", d.mac));
            }
            if link.mtu != d.mtu {
                set.push_str(&format!(" mtu {}", d.mtu));
            }
            if !link.up {
                set.push_str(" up");
            }
            if !set.is_empty() {
                batch.push("", format!("link set dev {}{set}", d.name));
            }
        }
        let all = self.devices.iter().map(|d| (d.name.as_str(), &d.addresses)).chain([("lo", &self.lo)]);
        for (dev, addresses) in all {
            let now: BTreeSet<IpNet> = have
                .iter()
                .filter(|a| a.dev == dev && !a.link_scope && !a.address.is_loopback())
                .filter_map(|a| IpNet::new(a.address, a.prefix).ok())
                .collect();
            let want: BTreeSet<IpNet> = addresses.iter().copied().collect();
            for gone in now.difference(&want).filter(|a| !is_link_local(a)) {
                batch.push("", format!("addr del {gone} dev {dev}"));
            }
            for new in want.difference(&now) {
                let nodad = if new.addr().is_ipv6() { " nodad" } else { "" };
                batch.push("", format!("addr add {new} dev {dev}{nodad}"));
                grown.push(dev.to_string());
            }
        }
        self.route_lines(&mut batch)?;
        grown.dedup();
        Ok((batch, grown))
    }

    fn route_lines(&self, batch: &mut Batch) -> Outcome<()> {
        let key = |to: Option<IpNet>, v6: bool| (v6, to.map(|n| n.trunc()).filter(|n| n.prefix_len() > 0));
        let want: BTreeSet<(bool, Option<IpNet>)> = self.routes.iter().map(|r| key(r.to, r.via.is_ipv6())).collect();
        for route in netlink::routes()?.iter().filter(|r| r.protocol == PROTOCOL) {
            let to = route.to.and_then(|a| IpNet::new(a, route.prefix).ok());
            if !want.contains(&key(to, route.v6)) {
                let family = if route.v6 { "-6" } else { "-4" };
                let to = to.map_or("default".to_string(), |n| n.to_string());
                // The family of "default" is not in its text; ip takes it from the next hop.
                let via = route.via.map(|v| format!(" via {v}")).unwrap_or_default();
                tracing::debug!(%to, family, "stale route");
                batch.push("", format!("route del {to}{via} proto {PROTOCOL}"));
            }
        }
        for route in &self.routes {
            let to = route.to.filter(|n| n.prefix_len() > 0).map_or("default".to_string(), |n| n.trunc().to_string());
            let device = route.device.as_ref().map(|d| format!(" dev {d} onlink")).unwrap_or_default();
            batch.push("", format!("route replace {to} via {}{device} proto {PROTOCOL}", route.via));
        }
        Ok(())
    }

    /// Tells neighbours about new addresses. With `arp_notify` set, the kernel announces all
    /// addresses of a device when its MAC is set, even to the same value.
    fn announce(&self, devices: &[String]) {
        let mut batch = Batch::default();
        for d in self.devices.iter().filter(|d| devices.contains(&d.name)) {
            batch.push("", format!("link set dev {} address {}", d.name, d.mac));
        }
        if !batch.is_empty() {
            for why in batch.run("ip").into_values() {
                tracing::warn!(reason = %why, "gratuitous ARP");
            }
        }
    }
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80)
}
