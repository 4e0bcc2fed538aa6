//! What must stay true on hosts: each one has exactly the networks, taps, routers and address sets
//! that the database says.
//!
//! A transaction notes which objects it touched ([`Changes`]); after the commit the notes are merged
//! into each host's dirty set and its key is woken. One run takes the whole set, so a burst of
//! changes becomes one patch. The dirty set lives in memory only: after a crash, and once per scan,
//! the whole state is computed and compared with what was sent last.

mod build;
mod notify;
mod push;

pub use notify::Notifier;
pub use push::HostController;

use crate::store::Port;
use caelum_netplane::{HostState, NetworkHost};
use caelum_reconcile::Controller;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Objects a transaction touched.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub networks: BTreeSet<String>,
    pub ports: BTreeSet<String>,
    pub routers: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// Ports that went.
    pub gone: Vec<Port>,
    /// Ports as they were when they left their host.
    pub unplugged: Vec<Port>,
}

impl Changes {
    /// A port changed: what concerns hosts is its tap, its network's DHCP, its groups' address sets
    /// and its router. A port without a host concerns none.
    pub fn port(&mut self, p: &Port) {
        if p.host_id.is_empty() {
            return;
        }
        self.networks.insert(p.network_id.clone());
        if p.is_network_owned() {
            if p.device_owner.starts_with("network:router") {
                self.routers.insert(p.device_id.clone());
            }
            return;
        }
        self.ports.insert(p.id.clone());
        self.groups.extend(p.security_groups.iter().cloned());
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
            && self.ports.is_empty()
            && self.routers.is_empty()
            && self.groups.is_empty()
            && self.gone.is_empty()
            && self.unplugged.is_empty()
    }

    fn merge(&mut self, other: &Self) {
        self.networks.extend(other.networks.iter().cloned());
        self.ports.extend(other.ports.iter().cloned());
        self.routers.extend(other.routers.iter().cloned());
        self.groups.extend(other.groups.iter().cloned());
    }
}

/// One host and what is known to have been sent to it.
pub struct Host {
    pub name: String,
    pub plane: Arc<dyn NetworkHost>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    dirty: Changes,
    /// Compute everything at the next run.
    full: bool,
    /// What was sent; `None` before the first time and after a failure.
    sent: Option<HostState>,
    /// Generations reserved in the database: next and end.
    generations: (u64, u64),
    /// When everything was computed last, microseconds.
    last_full: i64,
    /// Why objects cannot be made, by id, as last reported.
    failed: BTreeMap<String, String>,
    /// How long the last run took, and when it ended.
    cost: std::time::Duration,
    ended: caelum_base::Timestamp,
    /// A guest's port was sent and is not reported as up yet.
    waiting: bool,
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change of the maps is complete before the guard goes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why objects cannot be made on the host, by id, as last reported.
    pub fn failed(&self) -> BTreeMap<String, String> {
        self.lock().failed.clone()
    }
}

/// All hosts, by name.
pub struct Hosts {
    hosts: BTreeMap<String, Arc<Host>>,
    /// Where DHCP and routers live.
    network_host: String,
    controller: OnceLock<Controller>,
    notifier: Notifier,
}

impl Hosts {
    pub fn new(planes: Vec<(String, Arc<dyn NetworkHost>)>, notifier: Notifier) -> Self {
        let network_host = planes.first().map(|(n, _)| n.clone()).unwrap_or_default();
        let host = |(name, plane): (String, Arc<dyn NetworkHost>)| {
            let inner = Mutex::new(Inner { full: true, ..Inner::default() });
            (name.clone(), Arc::new(Host { name, plane, inner }))
        };
        let hosts = planes.into_iter().map(host).collect();
        Self { hosts, network_host, controller: OnceLock::new(), notifier }
    }

    /// The host that runs DHCP servers and routers.
    pub fn network_host(&self) -> &str {
        &self.network_host
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Host>> {
        self.hosts.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// Set once, at the start.
    pub fn attach(&self, c: Controller) {
        // A second controller would be a second start of the same state, which `start` never does.
        let _ = self.controller.set(c);
    }

    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Merges committed changes into every host's dirty set and wakes the hosts.
    pub fn mark(&self, changes: Changes) {
        for p in &changes.gone {
            self.notifier.port_status(&p.id, "DELETED");
            self.notifier.compute(p, "network-vif-deleted");
        }
        for p in &changes.unplugged {
            self.notifier.compute(p, "network-vif-unplugged");
        }
        let empty = changes.networks.is_empty() && changes.ports.is_empty() && changes.routers.is_empty() && changes.groups.is_empty();
        if empty {
            return;
        }
        for host in self.hosts.values() {
            host.lock().dirty.merge(&changes);
            if let Some(c) = self.controller.get() {
                c.wake(&host.name);
            }
        }
    }

    /// Makes every host compute everything anew.
    pub fn resync(&self) {
        for host in self.hosts.values() {
            host.lock().full = true;
            if let Some(c) = self.controller.get() {
                c.wake(&host.name);
            }
        }
    }
}
