//! One pass: from the remembered and the real state to the wanted one.

use super::dnsmasq::{self, Server};
use super::exec::{self, Batch, Outcome};
use super::firewall::{self, Plan};
use super::inside::{Device, Inside};
use super::links::{self, Links, Wiring, bridge_of};
use super::metadata::Scope;
use super::{Core, dhcp, netlink, router, validate};
use crate::{Applied, Dhcp, HostPatch, HostState, Network, NetworkKind, PhysicalNetwork, Port, Router};
use caelum_base::{Error, Result};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

/// Namespaces are configured by at most this many threads at once.
const WORKERS: usize = 4;

/// Ids of objects a pass makes or removes.
#[derive(Default)]
struct Work {
    full: bool,
    networks: BTreeSet<String>,
    ports: BTreeSet<String>,
    routers: BTreeSet<String>,
    gone_networks: Vec<Network>,
    gone_ports: Vec<Port>,
    gone_routers: Vec<Router>,
}

/// What happened inside a namespace.
struct Done {
    id: String,
    ns: String,
    result: Outcome<()>,
    refused: BTreeMap<String, String>,
    mark: Option<(u64, u64)>,
}

enum Job<'a> {
    Dhcp(&'a Network, &'a Dhcp),
    Router(&'a Router),
}

impl Core {
    pub(super) fn apply(&mut self, state: HostState) -> Result<Applied> {
        crate::check_generation(self.kept.state.generation, state.generation)?;
        self.require()?;
        self.pass(state, true, true)
    }

    pub(super) fn patch(&mut self, patch: &HostPatch) -> Result<Applied> {
        crate::check_generation(self.kept.state.generation, patch.generation)?;
        let mut state = self.kept.state.clone();
        state.merge(patch);
        if !self.synced {
            self.require()?;
        }
        // A renamed tap is so rare that a full pass is the simplest right answer.
        let renamed = |id: &String| {
            let tap = |s: &HostState| s.ports.get(id).map(|p| p.tap.clone());
            tap(&self.kept.state).is_some_and(|was| tap(&state).is_some_and(|is| is != was))
        };
        let full = !self.synced || patch.ports.keys().any(renamed);
        // On a host that was never told its whole state, others' leftovers are not ours to judge.
        let clean = self.known;
        if full {
            return self.pass(state, true, clean);
        }
        // Somebody else may have flushed the host's filters: a full pass does not rely on them.
        self.pass(state.clone(), false, clean).or_else(|_| self.pass(state, true, clean))
    }

    pub(super) fn resume(&mut self) -> Result<()> {
        self.require()?;
        let state = self.kept.state.clone();
        self.pass(state, true, true).map(drop)
    }

    fn require(&self) -> Result<()> {
        match self.missing().into_iter().next() {
            Some(sentence) => Err(Error::unavailable(sentence)),
            None => Ok(()),
        }
    }

    /// Makes the host match `state`; `clean` also removes what the state does not name.
    pub(super) fn pass(&mut self, mut state: HostState, full: bool, clean: bool) -> Result<Applied> {
        let kernel = |why: String| Error::unavailable("The host's network cannot be read or changed.").caused_by(why);
        dnsmasq::make_dir(&self.config.run_dir).map_err(kernel)?;
        let mut failed = self.judge(&mut state, full);
        let old = std::mem::take(&mut self.kept.state);
        self.kept.assign_zones(&state);
        let work = self.work(&old, &state, full, &failed);
        let result = self.execute(&old, &state, &work, clean, &mut failed);
        self.kept.state = state;
        if let Err(why) = result {
            self.kept.state = old;
            self.synced = false;
            return Err(kernel(why));
        }
        self.synced = true;
        self.known = true;
        self.failed = failed;
        self.kept.save(&self.config.run_dir).map_err(kernel)?;
        Ok(self.applied())
    }

    fn applied(&self) -> Applied {
        let s = &self.kept.state;
        let good = |id: &String| !self.failed.contains_key(id);
        let mut failed = self.failed.clone();
        // An object that works without a part of it is up and says what it lacks.
        for (id, why) in self.refused.values().flatten() {
            failed.entry(id.clone()).or_insert_with(|| why.clone());
        }
        for p in s.ports.values() {
            if let Some(why) = p.rules.iter().find_map(|r| validate::rule(r).err()) {
                failed.entry(p.id.clone()).or_insert_with(|| format!("a security group rule is left out: {why}"));
            }
        }
        Applied {
            generation: s.generation,
            ports_up: s.ports.values().filter(|p| good(&p.id) && good(&p.network_id)).map(|p| p.id.clone()).collect(),
            routers_up: s.routers.values().filter(|r| good(&r.id) && r.admin_up).map(|r| r.id.clone()).collect(),
            networks_up: s.networks.keys().filter(|id| good(id)).cloned().collect(),
            failed,
        }
    }

    /// Replaces objects that cannot be made by their last good form, or leaves them out.
    fn judge(&self, state: &mut HostState, full: bool) -> BTreeMap<String, String> {
        let old = &self.kept.state;
        let mut failed = BTreeMap::new();
        let mut networks = std::mem::take(&mut state.networks);
        networks.retain(|id, n| {
            if !full && old.networks.get(id) == Some(n) {
                return true;
            }
            let verdict = if *id == n.id { validate::network(n, &self.config.physical) } else { Err("two ids".into()) };
            let Err(why) = verdict else { return true };
            failed.insert(id.clone(), why);
            old.networks.get(id).is_some_and(|o| {
                *n = o.clone();
                validate::network(n, &self.config.physical).is_ok()
            })
        });
        state.networks = networks;
        let mut ports = std::mem::take(&mut state.ports);
        ports.retain(|id, p| {
            if !full && old.ports.get(id) == Some(p) && state.networks.contains_key(&p.network_id) {
                return true;
            }
            let verdict = if *id == p.id { validate::port(p, state) } else { Err("two ids".into()) };
            let Err(why) = verdict else { return true };
            failed.insert(id.clone(), why);
            old.ports.get(id).is_some_and(|o| {
                *p = o.clone();
                validate::port(p, state).is_ok()
            })
        });
        state.ports = ports;
        let mut routers = std::mem::take(&mut state.routers);
        routers.retain(|id, r| {
            let verdict = if *id == r.id { validate::router(r, state) } else { Err("two ids".into()) };
            let Err(why) = verdict else { return true };
            failed.insert(id.clone(), why);
            old.routers.get(id).is_some_and(|o| {
                *r = o.clone();
                validate::router(r, state).is_ok()
            })
        });
        state.routers = routers;
        failed
    }

    fn work(&self, old: &HostState, new: &HostState, full: bool, failed: &BTreeMap<String, String>) -> Work {
        let again = |id: &String| full || self.failed.contains_key(id) && !failed.contains_key(id);
        let mut w = Work { full, ..Work::default() };
        let mut rewired = BTreeSet::new();
        for (id, n) in &new.networks {
            let was = old.networks.get(id);
            if again(id) || was != Some(n) {
                w.networks.insert(id.clone());
            }
            if was.is_none_or(|o| !same_wire(o, n)) {
                rewired.insert(id);
            }
        }
        let changed = |p: &Port| again(&p.id) || rewired.contains(&p.network_id) || old.ports.get(&p.id) != Some(p);
        w.ports = new.ports.values().filter(|p| changed(p)).map(|p| p.id.clone()).collect();
        let touches = |r: &Router| {
            r.interfaces.iter().map(|i| &i.network_id).chain(r.gateway.iter().map(|g| &g.network_id)).any(|n| rewired.contains(n))
        };
        let changed = |r: &Router| again(&r.id) || old.routers.get(&r.id) != Some(r) || touches(r);
        w.routers = new.routers.values().filter(|r| changed(r)).map(|r| r.id.clone()).collect();
        w.gone_networks = old.networks.values().filter(|n| !new.networks.contains_key(&n.id)).cloned().collect();
        w.gone_ports = old.ports.values().filter(|p| !new.ports.contains_key(&p.id)).cloned().collect();
        w.gone_routers = old.routers.values().filter(|r| !new.routers.contains_key(&r.id)).cloned().collect();
        w
    }

    fn execute(
        &mut self,
        old: &HostState,
        new: &HostState,
        work: &Work,
        clean: bool,
        failed: &mut BTreeMap<String, String>,
    ) -> Outcome<()> {
        if work.full {
            self.host_settings()?;
        }
        let mut now = netlink::links()?;
        if self.remove(old, new, work, clean, &now)? {
            now = netlink::links()?;
        }
        self.fill_sets(new, work.full)?;
        let closed = self.filters(old, new, work)?;
        failed.extend(closed.iter().map(|(id, why)| (id.clone(), why.clone())));
        self.wire(new, work, &now, &closed, failed);
        self.insides(old, new, work, failed);
        self.cut_flows(old, new, &work.routers);
        self.retire_sets(new)
    }

    /// Settings of the host itself that bridged filtering and routing need.
    fn host_settings(&self) -> Outcome<()> {
        for name in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            exec::sysctl(name, "1")?;
        }
        let own = || {
            self.config.physical.values().filter_map(|p| match p {
                PhysicalNetwork::OwnBridge { host_addresses, .. } => Some(host_addresses),
                PhysicalNetwork::HostDevice { .. } => None,
            })
        };
        if own().next().is_some() {
            exec::sysctl("ipv4/ip_forward", "1")?;
        }
        if own().flatten().any(|a| a.addr().is_ipv6()) {
            exec::sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    pub(super) fn wanted_namespaces(&self, state: &HostState) -> BTreeSet<String> {
        let dhcp = state.networks.values().filter(|n| n.dhcp.is_some()).map(|n| self.names.ns_dhcp(&n.id));
        dhcp.chain(state.routers.keys().map(|r| self.names.ns_router(r))).collect()
    }

    /// Removes devices and namespaces that are no longer wanted; says whether there were any.
    fn remove(&mut self, old: &HostState, new: &HostState, work: &Work, clean: bool, now: &Links) -> Outcome<bool> {
        let (names, config) = (&self.names, &self.config);
        let wanted = links::all_names(names, config, new);
        let mut devices: BTreeSet<String> = BTreeSet::new();
        let mut spaces: BTreeSet<String> = BTreeSet::new();
        if work.full && clean {
            devices.extend(now.values().filter(|l| names.is_our_link(&l.name, &l.alias)).map(|l| l.name.clone()));
            spaces.extend(exec::ns_list().into_iter().filter(|ns| names.is_our_ns(ns)));
        } else {
            for n in old.networks.values().filter(|n| new.networks.get(&n.id) != Some(n)) {
                devices.extend(links::network_names(names, config, n));
                spaces.insert(names.ns_dhcp(&n.id));
            }
            for r in old.routers.values().filter(|r| new.routers.get(&r.id) != Some(r)) {
                devices.extend(links::router_names(names, r));
                spaces.insert(names.ns_router(&r.id));
            }
            let gone = old.ports.values().filter(|p| new.ports.get(&p.id).is_none_or(|q| q.tap != p.tap));
            devices.extend(gone.map(|p| p.tap.clone()));
        }
        let keep = self.wanted_namespaces(new);
        spaces.retain(|ns| !keep.contains(ns));
        let devices: Vec<&String> = devices.iter().filter(|d| !wanted.contains(*d)).filter(|d| now.contains_key(*d)).collect();
        let spaces: Vec<String> = spaces.into_iter().filter(|ns| exec::ns_path(ns).exists()).collect();
        if let Some(listeners) = &mut self.listeners {
            listeners.retain(|ns| keep.contains(ns));
        }
        self.insides.retain(|ns, _| keep.contains(ns));
        if !spaces.is_empty() {
            dnsmasq::end_in(&spaces);
        }
        self.forget_servers(new, work);
        let mut batch = Batch::default();
        for device in &devices {
            // The other end of a pair goes with the first.
            batch.push(device, format!("link del dev {device}"));
        }
        for ns in &spaces {
            batch.push(ns, format!("netns del {ns}"));
        }
        let any = !batch.is_empty();
        for (what, why) in batch.run("ip") {
            if !why.contains("Cannot find device") {
                return Err(format!("{what}: {why}"));
            }
        }
        Ok(any)
    }

    /// Ends servers whose objects are gone and removes their files.
    fn forget_servers(&self, new: &HostState, work: &Work) {
        let run_dir = &self.config.run_dir;
        let mut gone: Vec<std::path::PathBuf> = Vec::new();
        if work.full {
            for (sub, known) in [
                ("dhcp", new.networks.values().filter(|n| n.dhcp.is_some()).map(|n| n.id.clone()).collect::<BTreeSet<_>>()),
                ("ra", new.routers.keys().cloned().collect()),
            ] {
                let found = std::fs::read_dir(run_dir.join(sub)).map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
                gone.extend(found.into_iter().filter(|e| !known.contains(&*e.file_name().to_string_lossy())).map(|e| e.path()));
            }
        } else {
            let off = |n: &Network| new.networks.get(&n.id).is_none_or(|n| n.dhcp.is_none());
            let networks = work.gone_networks.iter().chain(work.networks.iter().filter_map(|id| new.networks.get(id)));
            gone.extend(networks.filter(|n| off(n)).map(|n| run_dir.join("dhcp").join(&n.id)));
            gone.extend(work.gone_routers.iter().map(|r| router::advertiser_dir(run_dir, &r.id)));
        }
        for dir in gone.iter().filter(|d| d.exists()) {
            dnsmasq::stop(dir);
            if let Err(e) = std::fs::remove_dir_all(dir) {
                tracing::warn!(dir = %dir.display(), error = %e, "left-over server files");
            }
        }
    }

    fn fill_sets(&mut self, new: &HostState, full: bool) -> Outcome<()> {
        let wanted = firewall::wanted_sets(&self.names, new);
        if full {
            // Sets of unknown content count as different.
            self.sets.clear();
        }
        let changed: BTreeMap<_, _> =
            wanted.iter().filter(|(set, m)| self.sets.get(*set) != Some(m)).map(|(s, m)| (s.clone(), m.clone())).collect();
        firewall::load_sets(&changed)?;
        self.sets.extend(changed);
        if full {
            for set in firewall::sets(&self.names)? {
                self.sets.entry(set).or_default();
            }
        }
        Ok(())
    }

    fn retire_sets(&mut self, new: &HostState) -> Outcome<()> {
        let wanted = firewall::wanted_sets(&self.names, new);
        let gone: BTreeSet<String> = self.sets.keys().filter(|s| !wanted.contains_key(*s)).cloned().collect();
        firewall::drop_sets(&gone)?;
        self.sets.retain(|set, _| !gone.contains(set));
        Ok(())
    }

    fn bridges(&self, state: &HostState) -> BTreeMap<String, String> {
        state.networks.values().map(|n| (n.id.clone(), bridge_of(&self.names, &self.config, n))).collect()
    }

    fn filters(&self, old: &HostState, new: &HostState, work: &Work) -> Outcome<BTreeMap<String, String>> {
        let (bridges, before) = (self.bridges(new), self.bridges(old));
        let mut networks: BTreeSet<String> =
            bridges.iter().filter(|(id, b)| work.full || before.get(*id) != Some(b)).map(|(id, _)| id.clone()).collect();
        let member = |p: &Port| (p.network_id.clone(), p.tap.clone(), p.port_security);
        let mut gone_ports: Vec<(String, String)> = Vec::new();
        for p in old.ports.values().filter(|p| work.full || !new.ports.contains_key(&p.id) || work.ports.contains(&p.id)) {
            let next = new.ports.get(&p.id);
            if next.map(member) == Some(member(p)) {
                continue;
            }
            networks.insert(p.network_id.clone());
            if p.port_security && next.is_none_or(|n| !n.port_security) {
                gone_ports.push((p.id.clone(), p.tap.clone()));
            }
        }
        for p in work.ports.iter().filter_map(|id| new.ports.get(id)) {
            if old.ports.get(&p.id).map(member) != Some(member(p)) {
                networks.insert(p.network_id.clone());
            }
        }
        networks.retain(|id| new.networks.contains_key(id));
        let plan = Plan {
            names: &self.names,
            config: &self.config,
            state: new,
            bridges: &bridges,
            zones: &self.kept.zones,
            ports: work.ports.clone(),
            networks,
            dispatch: work.full || bridges != before,
            gone_ports,
            gone_networks: work.gone_networks.iter().map(|n| n.id.clone()).collect(),
        };
        plan.load(work.full)
    }

    /// Makes the wanted devices and namespaces.
    fn wire(&self, new: &HostState, work: &Work, now: &Links, closed: &BTreeMap<String, String>, failed: &mut BTreeMap<String, String>) {
        let wiring = Wiring { names: &self.names, config: &self.config, links: now };
        let mut batch = Batch::default();
        let mut refused: BTreeMap<String, String> = BTreeMap::new();
        if work.full {
            refused.extend(wiring.physical(&mut batch));
        }
        let networks: Vec<&Network> = work.networks.iter().filter_map(|id| new.networks.get(id)).collect();
        let routers: Vec<&Router> = work.routers.iter().filter_map(|id| new.routers.get(id)).collect();
        let spaces = networks.iter().filter(|n| n.dhcp.is_some()).map(|n| (&n.id, self.names.ns_dhcp(&n.id)));
        for (owner, ns) in spaces.chain(routers.iter().map(|r| (&r.id, self.names.ns_router(&r.id)))) {
            if !exec::ns_path(&ns).exists() {
                batch.push(owner, format!("netns add {ns}"));
            }
        }
        for n in &networks {
            if let Err(why) = wiring.network(n, &mut batch) {
                refused.insert(n.id.clone(), why);
            }
        }
        for r in &routers {
            if let Err(why) = wiring.router(r, new, &mut batch) {
                refused.insert(r.id.clone(), why);
            }
        }
        for p in work.ports.iter().filter_map(|id| new.ports.get(id)).filter(|p| !closed.contains_key(&p.id)) {
            if let Err(why) = wiring.port(p, new, &mut batch) {
                refused.insert(p.id.clone(), why);
            }
        }
        refused.extend(batch.run("ip"));
        if work.full {
            refused.extend(self.host_addresses());
        }
        let made = networks.iter().filter(|n| !refused.contains_key(&n.id)).copied().collect::<Vec<_>>();
        refused.extend(links::flood_lists(&self.names, made.into_iter()));
        for (owner, why) in &refused {
            let on_it = |n: &&Network| matches!(&n.kind, NetworkKind::Flat { physical_network } if links::physical_owner(physical_network) == *owner);
            for n in new.networks.values().filter(on_it) {
                failed.insert(n.id.clone(), why.clone());
            }
            failed.insert(owner.clone(), why.clone());
        }
        for n in &networks {
            let bridge = bridge_of(&self.names, &self.config, n);
            if let Err(why) = exec::sysctl(&format!("ipv6/conf/{bridge}/disable_ipv6"), "1") {
                tracing::debug!(reason = %why, "IPv6 of a bridge");
            }
        }
    }

    /// The host's own addresses on its ends of physical networks.
    fn host_addresses(&self) -> BTreeMap<String, String> {
        let mut batch = Batch::default();
        let have = netlink::addresses().unwrap_or_default();
        for (physical, kind) in &self.config.physical {
            let PhysicalNetwork::OwnBridge { host_addresses, .. } = kind else { continue };
            let (dev, owner) = (self.names.host_link(physical).0, links::physical_owner(physical));
            let now: BTreeSet<IpNet> =
                have.iter().filter(|a| a.dev == dev && !a.link_scope).filter_map(|a| IpNet::new(a.address, a.prefix).ok()).collect();
            let want: BTreeSet<IpNet> = host_addresses.iter().copied().collect();
            for gone in now.difference(&want) {
                batch.push(&owner, format!("addr del {gone} dev {dev}"));
            }
            for new in want.difference(&now) {
                let nodad = if new.addr().is_ipv6() { " nodad" } else { "" };
                batch.push(&owner, format!("addr add {new} dev {dev}{nodad}"));
            }
        }
        batch.run("ip")
    }

    /// Configures namespaces, several at once, and their listeners.
    fn insides(&mut self, old: &HostState, new: &HostState, work: &Work, failed: &mut BTreeMap<String, String>) {
        let mut jobs = VecDeque::new();
        for n in work.networks.iter().filter(|id| !failed.contains_key(*id)).filter_map(|id| new.networks.get(id)) {
            let unchanged = old.networks.get(&n.id).is_some_and(|o| o.dhcp == n.dhcp && o.mtu == n.mtu);
            if let Some(dhcp) = n.dhcp.as_ref().filter(|_| work.full || !unchanged || self.failed.contains_key(&n.id)) {
                jobs.push_back(Job::Dhcp(n, dhcp));
            }
        }
        self.refused.retain(|id, _| new.networks.get(id).is_some_and(|n| n.dhcp.is_some()));
        let routers = work.routers.iter().filter(|id| !failed.contains_key(*id)).filter_map(|id| new.routers.get(id));
        jobs.extend(routers.map(Job::Router));
        let (workers, queue, done) = (jobs.len().min(WORKERS), Mutex::new(jobs), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(job) = queue.lock().ok().and_then(|mut q| q.pop_front()) {
                        let end = self.job(&job, new, work.full);
                        if let Ok(mut done) = done.lock() {
                            done.push(end);
                        }
                    }
                });
            }
        });
        for end in done.into_inner().unwrap_or_default() {
            if end.refused.is_empty() {
                self.refused.remove(&end.id);
            } else {
                self.refused.insert(end.id.clone(), end.refused);
            }
            if let Some(mark) = end.mark {
                self.insides.insert(end.ns.clone(), mark);
            }
            if let Err(why) = end.result.and_then(|()| self.listen(&end.id, new)) {
                failed.insert(end.id, why);
            }
        }
    }

    fn job(&self, job: &Job<'_>, new: &HostState, full: bool) -> Done {
        let run_dir = &self.config.run_dir;
        let (id, ns, inside, server, refused) = match job {
            Job::Dhcp(n, d) => {
                let ns = self.names.ns_dhcp(&n.id);
                let (server, refused) = dhcp::server(n, d, run_dir, &ns);
                (n.id.clone(), ns, dhcp_inside(n, d), Some(server), refused)
            }
            Job::Router(r) => {
                let inside = router::inside(&self.names, r, new);
                let server = router::advertiser(&self.names, r, run_dir);
                if server.is_none() {
                    dnsmasq::stop(&router::advertiser_dir(run_dir, &r.id));
                }
                (r.id.clone(), self.names.ns_router(&r.id), inside, server, BTreeMap::new())
            }
        };
        let mark = exec::ns_inode(&ns).map(|inode| (inode, fingerprint(&inside)));
        let same = !full && mark.is_some() && self.insides.get(&ns).copied() == mark;
        let result = if same { Ok(()) } else { exec::in_ns(&ns, || inside.apply()) };
        let ok = result.is_ok();
        let result = result.and_then(|()| server.map_or(Ok(()), |s: Server| s.ensure(full)));
        Done { id, ns, result, refused, mark: mark.filter(|_| ok) }
    }

    /// Starts or ends the metadata listener of a network or router.
    fn listen(&mut self, id: &str, new: &HostState) -> Outcome<()> {
        let Some(listeners) = &mut self.listeners else { return Ok(()) };
        if let Some(r) = new.routers.get(id) {
            let ns = self.names.ns_router(id);
            if r.admin_up {
                return listeners.ensure(&ns, dhcp::METADATA, Scope::Router(id.to_string()));
            }
            listeners.stop(&ns);
        } else if let Some(dhcp) = new.networks.get(id).and_then(|n| n.dhcp.as_ref()) {
            let ns = self.names.ns_dhcp(id);
            if dhcp.metadata {
                return listeners.ensure(&ns, dhcp::METADATA, Scope::Network(id.to_string()));
            }
            listeners.stop(&ns);
        }
        Ok(())
    }
}

/// Whether ports and routers of the network are unaffected by the change. Other hosts coming and
/// going is the frequent one that does not touch them.
fn same_wire(old: &Network, new: &Network) -> bool {
    let kind = match (&old.kind, &new.kind) {
        (NetworkKind::Vxlan { vni: a, local: b, .. }, NetworkKind::Vxlan { vni: c, local: d, .. }) => a == c && b == d,
        (a, b) => a == b,
    };
    kind && old.mtu == new.mtu
}

fn dhcp_inside(n: &Network, d: &Dhcp) -> Inside {
    let mut addresses: Vec<IpNet> = d.subnets.iter().filter_map(|s| IpNet::new(s.address, s.cidr.prefix_len()).ok()).collect();
    if d.metadata {
        addresses.extend(dhcp::METADATA.parse().map(|a: std::net::IpAddr| IpNet::from(a)).ok());
    }
    let device = Device { name: dhcp::DEVICE.to_string(), mac: d.mac.to_ascii_lowercase(), mtu: n.mtu, addresses };
    Inside { devices: vec![device], lo: vec![], routes: vec![], forwarding: false, filter4: None, filter6: None, announce: false }
}

fn fingerprint(inside: &Inside) -> u64 {
    let mut hasher = DefaultHasher::new();
    inside.hash(&mut hasher);
    hasher.finish()
}
