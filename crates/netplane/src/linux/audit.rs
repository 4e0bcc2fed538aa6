//! Looking for what should not be there, and removing all of ours.
//!
//! Both go by names: they also find what a lost state file or another run left behind.

use super::exec::{self, Batch, Outcome};
use super::{Core, dhcp, dnsmasq, firewall, links, netlink, router};
use crate::{NetworkKind, PhysicalNetwork};
use caelum_base::{Error, Result};
use std::collections::BTreeSet;

/// Tools and the Debian packages they come in.
const TOOLS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("iptables-restore", "iptables"),
    ("iptables-save", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ip6tables-save", "iptables"),
    ("ipset", "ipset"),
    ("nft", "nftables"),
    ("dnsmasq", "dnsmasq-base"),
];

const TUN: &str = "/dev/net/tun";
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

impl Core {
    /// One sentence per thing the host lacks.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !nix::unistd::geteuid().is_root() {
            out.push("The network host must run as root.".to_string());
        }
        for (tool, package) in TOOLS {
            if !exec::have(tool) {
                out.push(format!("The program {tool} is missing: apt-get install {package}"));
            }
        }
        for (module, path) in [("tun", TUN), ("br_netfilter", BRIDGE_FILTER)] {
            // Distributions load these on demand only; without the program the sentence below says what to do.
            if !std::path::Path::new(path).exists()
                && exec::have("modprobe")
                && let Err(why) = exec::run("modprobe", &[module], "")
            {
                tracing::warn!(reason = %why, "kernel module");
            }
        }
        if !std::path::Path::new(TUN).exists() {
            out.push("The kernel offers no tap devices (/dev/net/tun): modprobe tun".to_string());
        }
        if !std::path::Path::new(BRIDGE_FILTER).exists() {
            out.push("The kernel does not filter bridged packets: modprobe br_netfilter".to_string());
        }
        out
    }

    pub(super) fn audit(&mut self, heal: bool) -> Result<Vec<String>> {
        let kernel = |why: String| Error::unavailable("The host's network cannot be read.").caused_by(why);
        let lines = self.differences().map_err(kernel)?;
        if heal && !lines.is_empty() {
            if let Some(sentence) = self.missing().into_iter().next() {
                return Err(Error::unavailable(sentence));
            }
            let state = self.kept.state.clone();
            self.pass(state, true, true)?;
        }
        Ok(lines)
    }

    fn differences(&self) -> Outcome<Vec<String>> {
        let mut out = Vec::new();
        let state = &self.kept.state;
        let now = netlink::links()?;
        let ours: BTreeSet<String> = now.values().filter(|l| self.names.is_our_link(&l.name, &l.alias)).map(|l| l.name.clone()).collect();
        let mut wanted = links::all_names(&self.names, &self.config, state);
        for n in state.networks.values() {
            // Only a bridge of the host is reached by a pair of devices; a NIC is put in directly.
            if let NetworkKind::Flat { physical_network } = &n.kind
                && let Some(PhysicalNetwork::HostDevice { device }) = self.config.physical.get(physical_network)
                && now.get(device).is_some_and(|l| l.kind != "bridge")
            {
                let (ours, theirs) = self.names.patch_link(&n.id);
                wanted.remove(&ours);
                wanted.remove(&theirs);
            }
        }
        compare("device", &ours, &wanted, &mut out);
        let spaces = exec::ns_list().into_iter().filter(|ns| self.names.is_our_ns(ns)).collect();
        compare("namespace", &spaces, &self.wanted_namespaces(state), &mut out);
        let sets = firewall::sets(&self.names)?;
        compare("address set", &sets, &firewall::wanted_sets(&self.names, state).into_keys().collect(), &mut out);
        let wanted = firewall::wanted_chains(&self.names, state);
        for v6 in [false, true] {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let present = firewall::present(&self.names, v6)?;
            out.extend(present.unexpected(&wanted).into_iter().map(|c| format!("{family} chain {c} belongs to nothing")));
            // The NAT chain exists only where something is masqueraded.
            let lost = wanted.iter().filter(|c| **c != self.names.chain("nat") && !present.has(c));
            out.extend(lost.map(|c| format!("{family} chain {c} is missing")));
        }
        for n in state.networks.values() {
            let Some(d) = &n.dhcp else { continue };
            let ns = self.names.ns_dhcp(&n.id);
            if !dhcp::server(n, d, &self.config.run_dir, &ns).0.runs() {
                out.push(format!("the DHCP server of network {} does not run", n.id));
            }
            if d.metadata && !self.listeners.as_ref().is_some_and(|l| l.has(&ns)) {
                out.push(format!("the metadata listener of network {} is missing", n.id));
            }
        }
        for r in state.routers.values().filter(|r| r.admin_up) {
            if router::advertiser(&self.names, r, &self.config.run_dir).is_some_and(|s| !s.runs()) {
                out.push(format!("the advertisement server of router {} does not run", r.id));
            }
            if !self.listeners.as_ref().is_some_and(|l| l.has(&self.names.ns_router(&r.id))) {
                out.push(format!("the metadata listener of router {} is missing", r.id));
            }
        }
        Ok(out)
    }

    /// Removes everything of ours, by name; keeps going over failures and reports the first.
    pub(super) fn wipe(&mut self) -> Result<()> {
        let mut first: Option<String> = None;
        let mut note = |result: Outcome<()>| {
            if let Err(why) = result {
                tracing::warn!(reason = %why, "wipe");
                first.get_or_insert(why);
            }
        };
        if let Some(listeners) = &mut self.listeners {
            listeners.retain(|_| false);
        }
        let spaces: Vec<String> = exec::ns_list().into_iter().filter(|ns| self.names.is_our_ns(ns)).collect();
        dnsmasq::end_in(&spaces);
        // Fails when there is none, which is as good.
        if let Err(why) = exec::run("ip", &["link", "del", "group", &self.names.group().to_string()], "") {
            tracing::debug!(reason = %why, "device group");
        }
        let mut batch = Batch::default();
        for link in netlink::links().unwrap_or_default().into_values() {
            if self.names.is_our_link(&link.name, &link.alias) {
                batch.push(&link.name, format!("link del dev {}", link.name));
            }
        }
        for ns in &spaces {
            batch.push(ns, format!("netns del {ns}"));
        }
        for (_, why) in batch.run("ip").into_iter().filter(|(_, why)| !why.contains("Cannot find device")) {
            note(Err(why));
        }
        note(firewall::wipe(&self.names));
        for entry in ["dhcp", "ra"] {
            let dir = self.config.run_dir.join(entry);
            if dir.exists() {
                note(std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display())));
            }
        }
        let file = self.config.run_dir.join("state.json");
        if file.exists() {
            note(std::fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display())));
        }
        self.kept = Default::default();
        self.known = false;
        self.synced = false;
        self.failed.clear();
        self.refused.clear();
        self.sets.clear();
        self.insides.clear();
        match first {
            None => Ok(()),
            Some(why) => Err(Error::unavailable("Not everything could be removed from the host.").caused_by(why)),
        }
    }
}

fn compare(what: &str, have: &BTreeSet<String>, want: &BTreeSet<String>, out: &mut Vec<String>) {
    out.extend(have.difference(want).map(|n| format!("{what} {n} belongs to nothing")));
    out.extend(want.difference(have).map(|n| format!("{what} {n} is missing")));
}
