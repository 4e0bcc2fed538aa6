//! Loading the filters into the kernel, atomically per family.
//!
//! A full pass reads what chains of ours exist, writes all wanted ones and deletes the rest in one
//! transaction; a small change writes only the chains it touches. When a load fails, the ports are
//! tried one by one and a failing one gets chains that only drop, so that it stops nobody else.

use super::exec::{self, Outcome};
use super::filter;
use super::names::Names;
use crate::{HostState, PhysicalNetwork, PlaneConfig, Port};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

/// What a load is about.
pub(super) struct Plan<'a> {
    pub names: &'a Names,
    pub config: &'a PlaneConfig,
    pub state: &'a HostState,
    /// Bridge of each network.
    pub bridges: &'a BTreeMap<String, String>,
    /// Conntrack zone of each network.
    pub zones: &'a BTreeMap<String, u16>,
    /// Ports whose chains are written.
    pub ports: BTreeSet<String>,
    /// Networks whose chains are written.
    pub networks: BTreeSet<String>,
    /// Whether the list of networks itself changed.
    pub dispatch: bool,
    /// Ports whose chains go (id and tap); the networks they were in are in `networks`.
    pub gone_ports: Vec<(String, String)>,
    pub gone_networks: Vec<String>,
}

/// Chains and jumps the kernel has in one family.
#[derive(Default)]
pub(super) struct Present {
    /// Table and chain.
    chains: BTreeSet<(String, String)>,
    /// Table, built-in chain and target.
    jumps: BTreeSet<(String, String, String)>,
}

fn restore_tool(v6: bool) -> &'static str {
    if v6 { "ip6tables-restore" } else { "iptables-restore" }
}

pub(super) fn present(names: &Names, v6: bool) -> Outcome<Present> {
    let text = exec::run(if v6 { "ip6tables-save" } else { "iptables-save" }, &[], "")?;
    let mut out = Present::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()) {
            if names.is_our_chain(chain) {
                out.chains.insert((table.clone(), chain.to_string()));
            }
        } else if let Some((chain, target)) = line.strip_prefix("-A ").and_then(|l| l.split_once(" -j "))
            && names.is_our_chain(target)
            && !names.is_our_chain(chain)
        {
            out.jumps.insert((table.clone(), chain.to_string(), target.to_string()));
        }
    }
    Ok(out)
}

impl Present {
    /// Lines for `audit`: our chains that no wanted object explains.
    pub fn unexpected(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        self.chains.iter().filter(|(_, c)| !wanted.contains(c)).map(|(t, c)| format!("{t}/{c}")).collect()
    }

    pub fn has(&self, chain: &str) -> bool {
        self.chains.iter().any(|(_, c)| c == chain)
    }

    /// Text that removes every chain and jump of ours.
    fn removal(&self) -> String {
        let mut out = String::new();
        let tables: BTreeSet<&String> = self.chains.iter().map(|(t, _)| t).collect();
        for table in tables {
            let _ = writeln!(out, "*{table}");
            let chains: Vec<&String> = self.chains.iter().filter(|(t, _)| t == table).map(|(_, c)| c).collect();
            for chain in &chains {
                let _ = writeln!(out, ":{chain} - [0:0]");
            }
            for (_, from, to) in self.jumps.iter().filter(|(t, _, _)| t == table) {
                let _ = writeln!(out, "-D {from} -j {to}");
            }
            for chain in &chains {
                let _ = writeln!(out, "-X {chain}");
            }
            out.push_str("COMMIT\n");
        }
        out
    }
}

/// All chains of the filter table that a state needs.
pub(super) fn wanted_chains(names: &Names, state: &HostState) -> BTreeSet<String> {
    let mut out: BTreeSet<String> = ["fwd", "br", "in", "raw", "nat"].iter().map(|c| names.chain(c)).collect();
    out.extend(state.networks.keys().map(|n| names.chain_of('n', n)));
    for p in state.ports.values().filter(|p| p.port_security) {
        out.extend(['o', 'i', 's'].map(|w| names.chain_of(w, &p.id)));
    }
    out
}

impl Plan<'_> {
    fn secured(&self, network: &str) -> Vec<&Port> {
        self.state.ports.values().filter(|p| p.network_id == network && p.port_security).collect()
    }

    fn own_bridges(&self) -> impl Iterator<Item = (&String, &String, &Vec<IpNet>, bool)> {
        self.config.physical.iter().filter_map(|(name, p)| match p {
            PhysicalNetwork::OwnBridge { bridge, host_addresses, masquerade } => Some((name, bridge, host_addresses, *masquerade)),
            PhysicalNetwork::HostDevice { .. } => None,
        })
    }

    /// The chains that all networks share.
    fn base(&self, v6: bool, present: Option<&Present>, out: &mut String) {
        let n = self.names;
        let (fwd, br, input) = (n.chain("fwd"), n.chain("br"), n.chain("in"));
        let _ = writeln!(out, ":{fwd} - [0:0]\n:{br} - [0:0]\n:{input} - [0:0]");
        let _ = writeln!(out, "-A {fwd} -m physdev --physdev-is-bridged -j {br}");
        // What is left came from a bridge of ours towards the host's routing.
        let bridges: Vec<String> =
            std::iter::once(format!("{}+", n.bridge_prefix())).chain(self.own_bridges().map(|o| o.1.clone())).collect();
        for bridge in &bridges {
            let _ = writeln!(out, "-A {fwd} -i {bridge} -j DROP\n-A {input} -i {bridge} -j DROP");
        }
        for (physical, _, addresses, _) in self.own_bridges() {
            let host = n.host_link(physical).0;
            // Guests may ping the next hop and answer the host; its services are not for them.
            let icmp = if v6 { "ipv6-icmp" } else { "icmp" };
            let _ = writeln!(
                out,
                "-A {input} -i {host} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
                 -A {input} -i {host} -p {icmp} -j RETURN\n-A {input} -i {host} -j DROP"
            );
            for net in addresses.iter().filter(|a| a.addr().is_ipv6() == v6).map(IpNet::trunc) {
                let _ = writeln!(out, "-A {fwd} -i {host} -s {net} -j ACCEPT\n-A {fwd} -o {host} -d {net} -j ACCEPT");
            }
        }
        for (network, bridge) in self.bridges {
            let _ = writeln!(out, "-A {br} -i {bridge} -j {}", n.chain_of('n', network));
        }
        let Some(present) = present else { return };
        for (hook, chain) in [("FORWARD", fwd), ("INPUT", input)] {
            self.jump(present, "filter", hook, &chain, out);
        }
    }

    fn jump(&self, present: &Present, table: &str, hook: &str, chain: &str, out: &mut String) {
        if !present.jumps.contains(&(table.to_string(), hook.to_string(), chain.to_string())) {
            let _ = writeln!(out, "-I {hook} 1 -j {chain}");
        }
    }

    /// Zones and source NAT.
    fn other_tables(&self, v6: bool, present: Option<&Present>, out: &mut String) {
        let raw = self.names.chain("raw");
        let _ = writeln!(out, "*raw\n:{raw} - [0:0]");
        for (network, bridge) in self.bridges {
            if let Some(zone) = self.zones.get(network) {
                let _ = writeln!(out, "-A {raw} -i {bridge} -j CT --zone {zone}");
            }
        }
        if let Some(present) = present {
            self.jump(present, "raw", "PREROUTING", &raw, out);
        }
        out.push_str("COMMIT\n");
        let nets: Vec<(String, IpNet)> = self
            .own_bridges()
            .filter(|o| o.3)
            .flat_map(|(physical, _, addresses, _)| {
                let host = self.names.host_link(physical).0;
                addresses.iter().map(move |a| (host.clone(), a.trunc()))
            })
            .filter(|(_, net)| net.addr().is_ipv6() == v6)
            .collect();
        let Some(present) = present.filter(|_| !nets.is_empty()) else { return };
        let nat = self.names.chain("nat");
        let _ = writeln!(out, "*nat\n:{nat} - [0:0]");
        for (host, net) in nets {
            // Bridged frames pass here too and may carry a tenant's equal addresses.
            let _ = writeln!(out, "-A {nat} -s {net} ! -d {net} ! -o {host} -m physdev ! --physdev-is-bridged -j MASQUERADE");
        }
        self.jump(present, "nat", "POSTROUTING", &nat, out);
        out.push_str("COMMIT\n");
    }

    fn text(&self, v6: bool, present: Option<&Present>, drop_only: &BTreeSet<String>) -> String {
        let mut out = String::new();
        if self.dispatch {
            self.other_tables(v6, present, &mut out);
        }
        out.push_str("*filter\n");
        let n = self.names;
        let stale = self.stale(present);
        for network in &self.networks {
            let _ = writeln!(out, ":{} - [0:0]", n.chain_of('n', network));
        }
        let ports: Vec<&Port> = self.ports.iter().filter_map(|id| self.state.ports.get(id)).filter(|p| p.port_security).collect();
        for port in &ports {
            filter::declare_port(n, &port.id, &mut out);
        }
        for chain in &stale {
            let _ = writeln!(out, ":{chain} - [0:0]");
        }
        if self.dispatch {
            self.base(v6, present, &mut out);
        }
        for network in &self.networks {
            filter::network_rules(n, network, &self.secured(network), &mut out);
        }
        for port in &ports {
            self.port_text(port, v6, drop_only.contains(&port.id), &mut out);
        }
        for chain in &stale {
            let _ = writeln!(out, "-X {chain}");
        }
        out.push_str("COMMIT\n");
        out
    }

    /// Chains to delete.
    fn stale(&self, present: Option<&Present>) -> BTreeSet<String> {
        let n = self.names;
        let Some(present) = present else {
            let ports = self.gone_ports.iter().flat_map(|(id, _)| ['o', 'i', 's'].map(|w| n.chain_of(w, id)));
            return ports.chain(self.gone_networks.iter().map(|id| n.chain_of('n', id))).collect();
        };
        let wanted = wanted_chains(n, self.state);
        let extra = present.chains.iter().filter(|(t, c)| t == "filter" && !wanted.contains(c));
        extra.map(|(_, c)| c.clone()).collect()
    }

    fn port_text(&self, port: &Port, v6: bool, drop_only: bool, out: &mut String) {
        if drop_only {
            for which in ['o', 'i'] {
                let _ = writeln!(out, "-A {} -j DROP", self.names.chain_of(which, &port.id));
            }
        } else {
            filter::port_rules(self.names, port, v6, out);
        }
    }

    /// Loads one family. Returns ports that had to be closed, with the reason.
    fn load_family(&self, v6: bool, present: Option<&Present>) -> Outcome<BTreeMap<String, String>> {
        let tool = restore_tool(v6);
        let args = ["--noflush", "-w", "10"];
        let Err(first) = exec::run(tool, &args, &self.text(v6, present, &BTreeSet::new())) else {
            return Ok(BTreeMap::new());
        };
        let mut closed = BTreeMap::new();
        for port in self.ports.iter().filter_map(|id| self.state.ports.get(id)).filter(|p| p.port_security) {
            let mut text = String::from("*filter\n");
            filter::declare_port(self.names, &port.id, &mut text);
            self.port_text(port, v6, false, &mut text);
            text.push_str("COMMIT\n");
            // Loaded for real: a test run does not ask the kernel.
            if let Err(why) = exec::run(tool, &args, &text) {
                closed.insert(port.id.clone(), why);
            }
        }
        let drop_only = closed.keys().cloned().collect();
        exec::run(tool, &args, &self.text(v6, present, &drop_only)).map_err(|_| first)?;
        Ok(closed)
    }

    fn nft_text(&self, full: bool, skip: &BTreeSet<String>) -> String {
        let t = self.names.table();
        let mut out = String::new();
        if full {
            let _ = writeln!(out, "add table bridge {t}\ndelete table bridge {t}");
        }
        if full || self.dispatch {
            filter::nft_base(self.names, &mut out);
        }
        if !full {
            // First, since a new port may have a gone one's device name.
            for (id, tap) in &self.gone_ports {
                filter::nft_remove(self.names, id, tap, &mut out);
            }
        }
        for port in self.ports.iter().filter_map(|id| self.state.ports.get(id)) {
            if port.port_security && !skip.contains(&port.id) {
                filter::nft_port(self.names, port, &mut out);
            }
        }
        out
    }

    fn load_nft(&self, full: bool) -> Outcome<BTreeMap<String, String>> {
        let text = self.nft_text(full, &BTreeSet::new());
        if text.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Err(first) = exec::run("nft", &["-f", "-"], &text) else {
            return Ok(BTreeMap::new());
        };
        let mut closed = BTreeMap::new();
        for port in self.ports.iter().filter_map(|id| self.state.ports.get(id)).filter(|p| p.port_security) {
            let mut text = String::new();
            filter::nft_base(self.names, &mut text);
            filter::nft_port(self.names, port, &mut text);
            if let Err(why) = exec::run("nft", &["-c", "-f", "-"], &text) {
                closed.insert(port.id.clone(), why);
            }
        }
        let skip = closed.keys().cloned().collect();
        exec::run("nft", &["-f", "-"], &self.nft_text(full, &skip)).map_err(|_| first)?;
        Ok(closed)
    }

    /// Whether there is nothing to load.
    fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.networks.is_empty() && self.gone_ports.is_empty() && self.gone_networks.is_empty() && !self.dispatch
    }

    /// Loads everything of the plan; `full` reads the kernel first and removes what is not wanted.
    /// Returns ports that must not go up, with the reason. An error means nothing is certain.
    pub fn load(&self, full: bool) -> Outcome<BTreeMap<String, String>> {
        if !full && self.is_empty() {
            return Ok(BTreeMap::new());
        }
        let family = |v6: bool| {
            let present = if full { Some(present(self.names, v6)?) } else { None };
            self.load_family(v6, present.as_ref())
        };
        let (four, six, nft) = std::thread::scope(|scope| {
            let six = scope.spawn(|| family(true));
            let nft = scope.spawn(|| self.load_nft(full));
            (family(false), six.join(), nft.join())
        });
        let gone = |_| Err("a filter thread stopped".to_string());
        let mut closed = four?;
        closed.extend(six.unwrap_or_else(gone)?);
        closed.extend(nft.unwrap_or_else(gone)?);
        Ok(closed)
    }
}

/// Names of our address sets in the kernel.
pub(super) fn sets(names: &Names) -> Outcome<BTreeSet<String>> {
    let text = exec::run("ipset", &["list", "-n"], "")?;
    Ok(text.lines().filter(|s| names.is_our_set(s)).map(str::to_string).collect())
}

/// The sets a state needs, with their members.
pub(super) fn wanted_sets(names: &Names, state: &HostState) -> BTreeMap<String, Vec<IpAddr>> {
    let mut out = BTreeMap::new();
    let used = state.ports.values().flat_map(|p| &p.rules).filter_map(|r| r.remote_group.as_ref());
    for group in state.groups.keys().chain(used).filter(|g| super::validate::id(g).is_ok()) {
        for v6 in [false, true] {
            out.entry(names.set(group, v6)).or_insert_with(|| {
                let members = state.groups.get(group).map(Vec::as_slice).unwrap_or_default();
                members.iter().filter(|a| a.is_ipv6() == v6).copied().collect()
            });
        }
    }
    out
}

/// Replaces the members of sets, each atomically.
pub(super) fn load_sets(sets: &BTreeMap<String, Vec<IpAddr>>) -> Outcome<()> {
    if sets.is_empty() {
        return Ok(());
    }
    let mut out = String::new();
    for (name, members) in sets {
        let family = if name.as_bytes().iter().rev().nth(19) == Some(&b'6') { "inet6" } else { "inet" };
        let next = format!("{name}t");
        for set in [name, &next] {
            let _ = writeln!(out, "create {set} hash:net family {family} maxelem 1048576");
        }
        let _ = writeln!(out, "flush {next}");
        for member in members {
            let _ = writeln!(out, "add {next} {member}");
        }
        let _ = writeln!(out, "swap {name} {next}\ndestroy {next}");
    }
    exec::run("ipset", &["-exist", "restore"], &out).map(drop)
}

/// Destroys sets no rule uses any more.
pub(super) fn drop_sets(gone: &BTreeSet<String>) -> Outcome<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let text: String = gone.iter().map(|s| format!("destroy {s}\n")).collect();
    exec::run("ipset", &["restore"], &text).map(drop)
}

/// Removes all filters and sets of ours.
pub(super) fn wipe(names: &Names) -> Outcome<()> {
    for v6 in [false, true] {
        let text = present(names, v6)?.removal();
        if !text.is_empty() {
            exec::run(restore_tool(v6), &["--noflush", "-w", "10"], &text)?;
        }
    }
    let t = names.table();
    exec::run("nft", &["-f", "-"], &format!("add table bridge {t}\ndelete table bridge {t}\n"))?;
    drop_sets(&sets(names)?)
}
