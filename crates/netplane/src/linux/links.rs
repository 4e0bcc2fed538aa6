//! The host's own devices: bridges, VXLAN, taps and the host ends of links into namespaces.
//!
//! Every wanted device is compared with what the kernel has and only differences become lines of an
//! `ip` batch. A device of another owner under a wanted name is left alone and fails the object.

use super::exec::{self, Batch, Outcome};
use super::names::Names;
use super::netlink::Link;
use crate::{HostState, Network, NetworkKind, PhysicalNetwork, PlaneConfig, Port, Router};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) type Links = HashMap<String, Link>;

/// A wanted device.
struct Want<'a> {
    name: &'a str,
    alias: String,
    /// Arguments of `link add` or another creating command.
    create: String,
    mtu: Option<u32>,
    mac: Option<&'a str>,
    master: Option<&'a str>,
    up: bool,
    /// No IPv6 link-local address of the host's on it.
    mute: bool,
    /// The host answers no ARP here. Without it a bridge would answer for every address of the host.
    no_arp: bool,
}

fn ensure(group: u32, links: &Links, owner: &str, want: &Want<'_>, batch: &mut Batch) -> Outcome<()> {
    let name = want.name;
    let now = links.get(name);
    if let Some(link) = now {
        if !link.alias.is_empty() && link.alias != want.alias {
            return Err(format!("device {name} belongs to {:?}", link.alias));
        }
    } else {
        batch.push(owner, want.create.clone());
    }
    let mut set = String::new();
    if now.is_none_or(|l| l.alias != want.alias) {
        set.push_str(&format!(" alias {} group {group}", want.alias));
        if want.mute {
            set.push_str(" addrgenmode none");
        }
        if want.no_arp {
            set.push_str(" arp off");
        }
    }
    if let Some(mtu) = want.mtu.filter(|m| now.is_none_or(|l| l.mtu != *m)) {
        set.push_str(&format!(" mtu {mtu}"));
    }
    if let Some(mac) = want.mac.filter(|m| now.is_none_or(|l| !l.mac.eq_ignore_ascii_case(m))) {
        set.push_str(&format!(" address {mac}"));
    }
    if !set.is_empty() {
        batch.push(owner, format!("link set dev {name}{set}"));
    }
    if let Some(master) = want.master.filter(|m| now.is_none_or(|l| l.master != *m)) {
        batch.push(owner, format!("link set dev {name} master {master}"));
    }
    if now.is_none_or(|l| l.up != want.up) && (want.up || now.is_some()) {
        batch.push(owner, format!("link set dev {name} {}", if want.up { "up" } else { "down" }));
    }
    Ok(())
}

/// Makes device changes for one host.
pub(super) struct Wiring<'a> {
    pub names: &'a Names,
    pub config: &'a PlaneConfig,
    pub links: &'a Links,
}

/// A network's bridge name.
pub(super) fn bridge_of(names: &Names, config: &PlaneConfig, network: &Network) -> String {
    if let NetworkKind::Flat { physical_network } = &network.kind
        && let Some(PhysicalNetwork::OwnBridge { bridge, .. }) = config.physical.get(physical_network)
    {
        return bridge.clone();
    }
    names.bridge(&network.id)
}

/// Batch owner of a physical network's devices.
pub(super) fn physical_owner(physical: &str) -> String {
    format!("physical:{physical}")
}

impl Wiring<'_> {
    fn bridge(&self, owner: &str, name: &str, alias: String, mtu: u32, batch: &mut Batch) -> Outcome<()> {
        let mac = self.names.mac(name);
        let create = format!("link add {name} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        if self.links.get(name).is_some_and(|l| l.kind != "bridge") {
            return Err(format!("device {name} exists and is not a bridge"));
        }
        let want = Want { name, alias, create, mtu: Some(mtu), mac: None, master: None, up: true, mute: true, no_arp: true };
        ensure(self.names.group(), self.links, owner, &want, batch)
    }

    /// The bridges the host's configuration asks for, with the host's own end.
    pub fn physical(&self, batch: &mut Batch) -> BTreeMap<String, String> {
        let mut failed = BTreeMap::new();
        for (physical, kind) in &self.config.physical {
            let PhysicalNetwork::OwnBridge { bridge, .. } = kind else { continue };
            let owner = physical_owner(physical);
            if let Err(why) = self.own_bridge(&owner, physical, bridge, batch) {
                failed.insert(owner, why);
            }
        }
        failed
    }

    fn own_bridge(&self, owner: &str, physical: &str, bridge: &str, batch: &mut Batch) -> Outcome<()> {
        super::validate::device(bridge)?;
        if self.links.get(bridge).is_some_and(|l| l.alias != self.names.alias("bridge", bridge)) {
            return Err(format!("device {bridge} exists and was not made by this installation"));
        }
        self.bridge(owner, bridge, self.names.alias("bridge", bridge), 1500, batch)?;
        let (host, peer) = self.names.host_link(physical);
        let alias = self.names.alias("host", bridge);
        let mac = self.names.mac(&host);
        let create = format!("link add {host} address {mac} type veth peer name {peer}");
        // The peer first: when the host's end comes up, the path is complete.
        let end =
            Want { name: &host, alias: alias.clone(), create, mtu: None, mac: None, master: None, up: true, mute: false, no_arp: false };
        ensure(self.names.group(), self.links, owner, &end, batch)?;
        let link = Want {
            name: &peer,
            alias,
            create: format!("link set dev {peer} down"),
            mtu: None,
            mac: None,
            master: Some(bridge),
            up: true,
            mute: true,
            no_arp: false,
        };
        ensure(self.names.group(), self.links, owner, &link, batch)
    }

    pub fn network(&self, n: &Network, batch: &mut Batch) -> Outcome<()> {
        let owner = n.id.as_str();
        let bridge = bridge_of(self.names, self.config, n);
        match &n.kind {
            NetworkKind::Flat { physical_network } => match self.config.physical.get(physical_network) {
                Some(PhysicalNetwork::OwnBridge { .. }) => {}
                Some(PhysicalNetwork::HostDevice { device }) => {
                    self.bridge(owner, &bridge, self.names.alias("network", &n.id), n.mtu, batch)?;
                    self.host_device(n, &bridge, device, batch)?;
                }
                None => return Err(format!("physical network {physical_network:?} is not configured")),
            },
            NetworkKind::Local => self.bridge(owner, &bridge, self.names.alias("network", &n.id), n.mtu, batch)?,
            NetworkKind::Vxlan { vni, local, .. } => {
                self.bridge(owner, &bridge, self.names.alias("network", &n.id), n.mtu, batch)?;
                let name = self.names.vxlan(&n.id);
                let local = local.map(|a| format!(" local {a}")).unwrap_or_default();
                let want = Want {
                    name: &name,
                    // A change of identifier or local address needs a new device: they are in the alias.
                    alias: self.names.alias("vxlan", &format!("{}:{vni}{}", n.id, local.replace(' ', ":"))),
                    create: format!("link add {name} type vxlan id {vni} dstport 4789{local}"),
                    mtu: Some(n.mtu),
                    mac: None,
                    master: Some(&bridge),
                    up: true,
                    mute: true,
                    no_arp: false,
                };
                let stale = self.links.get(&name).is_some_and(|l| l.alias != want.alias);
                if stale {
                    batch.push(owner, format!("link del dev {name}"));
                    ensure(self.names.group(), &Links::new(), owner, &want, batch)?;
                } else {
                    ensure(self.names.group(), self.links, owner, &want, batch)?;
                }
            }
        }
        self.dhcp_link(n, &bridge, batch)
    }

    fn host_device(&self, n: &Network, bridge: &str, device: &str, batch: &mut Batch) -> Outcome<()> {
        let Some(link) = self.links.get(device) else {
            return Err(format!("device {device} of the physical network does not exist on this host"));
        };
        if link.kind != "bridge" {
            if link.master != bridge {
                if !link.master.is_empty() {
                    return Err(format!("device {device} is already in {}", link.master));
                }
                batch.push(&n.id, format!("link set dev {device} master {bridge} up"));
            }
            return Ok(());
        }
        let (ours, theirs) = self.names.patch_link(&n.id);
        let alias = self.names.alias("patch", &n.id);
        for (name, create, master) in [
            (&ours, format!("link add {ours} mtu {0} type veth peer name {theirs} mtu {0}", n.mtu), bridge),
            (&theirs, format!("link set dev {theirs} down"), device),
        ] {
            let want = Want {
                name,
                alias: alias.clone(),
                create,
                mtu: Some(n.mtu),
                mac: None,
                master: Some(master),
                up: true,
                mute: true,
                no_arp: false,
            };
            ensure(self.names.group(), self.links, &n.id, &want, batch)?;
        }
        Ok(())
    }

    fn dhcp_link(&self, n: &Network, bridge: &str, batch: &mut Batch) -> Outcome<()> {
        let Some(dhcp) = &n.dhcp else { return Ok(()) };
        let ns = self.names.ns_dhcp(&n.id);
        self.namespaced(&n.id, &self.names.dhcp_link(&n.id), super::dhcp::DEVICE, &ns, &dhcp.mac, n.mtu, bridge, batch)
    }

    /// A link from a bridge into a namespace.
    fn namespaced(
        &self,
        owner: &str,
        name: &str,
        inner: &str,
        ns: &str,
        mac: &str,
        mtu: u32,
        bridge: &str,
        batch: &mut Batch,
    ) -> Outcome<()> {
        let create = format!("link add {name} mtu {mtu} type veth peer name {inner} netns {ns} address {mac} mtu {mtu}");
        let alias = self.names.alias("link", owner);
        let want = Want { name, alias, create, mtu: Some(mtu), mac: None, master: Some(bridge), up: true, mute: true, no_arp: false };
        ensure(self.names.group(), self.links, owner, &want, batch)
    }

    pub fn router(&self, r: &Router, state: &HostState, batch: &mut Batch) -> Outcome<()> {
        let ns = self.names.ns_router(&r.id);
        let interfaces = r.interfaces.iter().map(|i| (&i.port_id, &i.network_id, &i.mac, self.names.inner(&i.port_id)));
        let gateway = r.gateway.iter().map(|g| (&g.port_id, &g.network_id, &g.mac, self.names.gateway(&g.port_id)));
        for (port, network, mac, inner) in interfaces.chain(gateway) {
            let n = state.networks.get(network).ok_or_else(|| format!("network {network} is not on this host"))?;
            let bridge = bridge_of(self.names, self.config, n);
            self.namespaced(&r.id, &self.names.router_link(port), &inner, &ns, mac, n.mtu, &bridge, batch)?;
        }
        Ok(())
    }

    pub fn port(&self, p: &Port, state: &HostState, batch: &mut Batch) -> Outcome<()> {
        let n = state.networks.get(&p.network_id).ok_or("its network is not on this host")?;
        let bridge = bridge_of(self.names, self.config, n);
        let want = Want {
            name: &p.tap,
            alias: self.names.alias("port", &p.id),
            create: format!("tuntap add dev {} mode tap", p.tap),
            mtu: Some(n.mtu),
            mac: None,
            master: Some(&bridge),
            up: p.admin_up,
            mute: true,
            no_arp: false,
        };
        ensure(self.names.group(), self.links, &p.id, &want, batch)
    }
}

/// Device names a network needs besides shared ones.
pub(super) fn network_names(names: &Names, config: &PlaneConfig, n: &Network) -> Vec<String> {
    let mut out = Vec::new();
    match &n.kind {
        NetworkKind::Local => out.push(names.bridge(&n.id)),
        NetworkKind::Vxlan { .. } => out.extend([names.bridge(&n.id), names.vxlan(&n.id)]),
        NetworkKind::Flat { physical_network } => {
            if let Some(PhysicalNetwork::HostDevice { .. }) = config.physical.get(physical_network) {
                let (ours, theirs) = names.patch_link(&n.id);
                out.extend([names.bridge(&n.id), ours, theirs]);
            }
        }
    }
    if n.dhcp.is_some() {
        out.push(names.dhcp_link(&n.id));
    }
    out
}

/// Device names a router needs on the host.
pub(super) fn router_names(names: &Names, r: &Router) -> Vec<String> {
    let ports = r.interfaces.iter().map(|i| &i.port_id).chain(r.gateway.iter().map(|g| &g.port_id));
    ports.map(|p| names.router_link(p)).collect()
}

/// Every device name of a state.
pub(super) fn all_names(names: &Names, config: &PlaneConfig, state: &HostState) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (physical, kind) in &config.physical {
        if let PhysicalNetwork::OwnBridge { bridge, .. } = kind {
            let (host, peer) = names.host_link(physical);
            out.extend([bridge.clone(), host, peer]);
        }
    }
    out.extend(state.networks.values().flat_map(|n| network_names(names, config, n)));
    out.extend(state.routers.values().flat_map(|r| router_names(names, r)));
    out.extend(state.ports.values().map(|p| p.tap.clone()));
    out
}

/// Makes the flood lists of VXLAN networks right.
pub(super) fn flood_lists<'a>(names: &Names, networks: impl Iterator<Item = &'a Network>) -> BTreeMap<String, String> {
    let mut batch = Batch::default();
    let mut failed = BTreeMap::new();
    for n in networks {
        let NetworkKind::Vxlan { peers, local, .. } = &n.kind else { continue };
        let dev = names.vxlan(&n.id);
        let have = match exec::run("bridge", &["fdb", "show", "dev", &dev], "") {
            Ok(text) => flooded(&text),
            Err(why) => {
                failed.insert(n.id.clone(), why);
                continue;
            }
        };
        let want: BTreeSet<String> = peers.iter().filter(|p| Some(**p) != *local).map(|p| p.to_string()).collect();
        for peer in want.difference(&have) {
            batch.push(&n.id, format!("fdb append 00:00:00:00:00:00 dev {dev} dst {peer}"));
        }
        for peer in have.difference(&want) {
            batch.push(&n.id, format!("fdb del 00:00:00:00:00:00 dev {dev} dst {peer}"));
        }
    }
    failed.extend(batch.run("bridge"));
    failed
}

fn flooded(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|l| l.strip_prefix("00:00:00:00:00:00 "))
        .filter_map(|l| l.split_whitespace().skip_while(|w| *w != "dst").nth(1))
        .map(str::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_flood_list() {
        let text = "ea:ee:48:05:de:3e master br permanent\n00:00:00:00:00:00 dst 192.0.2.1 self permanent\n";
        assert_eq!(flooded(text).into_iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    }
}
