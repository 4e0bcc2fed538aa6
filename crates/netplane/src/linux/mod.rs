//! The real plane: Linux bridges, taps, namespaces, iptables, nftables, ipset and dnsmasq.
//!
//! Every call runs to its end on a blocking thread under one lock, also when the caller stops
//! waiting. Each pass looks at the kernel's devices and namespaces, so a crash at any point is mended
//! by the next one: nothing that was half done is trusted. A full pass re-reads everything and
//! removes what the state does not name; a patch touches the named objects only.
//!
//! Order within a pass: gone devices, address sets, filters, new devices, insides of namespaces.
//! So a tap is never up without its filters, and filters go after their tap.

mod audit;
mod conntrack;
mod converge;
mod dhcp;
mod dnsmasq;
mod exec;
mod filter;
mod firewall;
mod inside;
mod links;
mod metadata;
mod names;
mod netlink;
mod router;
mod state;
mod validate;

use crate::{Applied, HostPatch, HostState, NetworkHost, PlaneConfig};
use async_trait::async_trait;
use caelum_base::{Error, Result};
use metadata::Listeners;
use names::Names;
use state::Remembered;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// The network host of this machine (of the namespace this process runs in).
#[derive(Clone)]
pub struct LinuxPlane {
    core: Arc<Mutex<Core>>,
}

/// Everything behind the lock.
struct Core {
    config: PlaneConfig,
    names: Names,
    kept: Remembered,
    /// Whether `kept` came from an earlier apply or run, so that what it does not name is garbage.
    known: bool,
    /// Whether the kernel is as `kept` says, except for `failed`.
    synced: bool,
    /// Objects that could not be made, with the reason; tried again by every pass.
    failed: BTreeMap<String, String>,
    /// Parts that were left out of objects that work otherwise: refused DHCP options by network and
    /// port.
    refused: BTreeMap<String, BTreeMap<String, String>>,
    listeners: Option<Listeners>,
    /// Address sets in the kernel and their members as last loaded.
    sets: BTreeMap<String, Vec<IpAddr>>,
    /// Inode of a namespace and hash of what was last made inside it.
    insides: HashMap<String, (u64, u64)>,
}

impl LinuxPlane {
    /// Reads what an earlier run remembered; touches the kernel only when called.
    pub fn new(config: PlaneConfig) -> Self {
        let kept = Remembered::load(&config.run_dir);
        let core = Core {
            names: Names::new(&config.tag),
            known: kept.is_some(),
            kept: kept.unwrap_or_default(),
            synced: false,
            failed: BTreeMap::new(),
            refused: BTreeMap::new(),
            listeners: None,
            sets: BTreeMap::new(),
            insides: HashMap::new(),
            config,
        };
        Self { core: Arc::new(Mutex::new(core)) }
    }

    /// Applies the remembered state again, so that a restarted process serves metadata before the
    /// control plane calls. Does nothing on a fresh host.
    pub async fn resume(&self) -> Result<()> {
        self.blocking(|core| if core.known { core.resume() } else { Ok(()) }).await
    }

    /// The generation last applied on this host, also by an earlier run.
    pub async fn generation(&self) -> Result<u64> {
        self.blocking(|core| Ok(core.kept.state.generation)).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&mut Core) -> Result<T> + Send + 'static) -> Result<T> {
        let core = self.core.clone();
        let runtime = Handle::current();
        let run = move || {
            // A poisoned lock means a pass stopped half-way; the next full pass mends the kernel.
            let mut core = core.lock().unwrap_or_else(|poisoned| {
                let mut core = PoisonError::into_inner(poisoned);
                core.synced = false;
                core
            });
            if core.listeners.is_none() {
                let (service, secret) = (core.config.metadata, core.config.metadata_secret.clone());
                core.listeners = Some(Listeners::new(runtime, service, secret));
            }
            work(&mut core)
        };
        tokio::task::spawn_blocking(run).await.map_err(|e| Error::internal("network plane thread").caused_by(e))?
    }
}

#[async_trait]
impl NetworkHost for LinuxPlane {
    async fn apply(&self, state: &HostState) -> Result<Applied> {
        let state = state.clone();
        self.blocking(move |core| core.apply(state)).await
    }

    async fn patch(&self, patch: &HostPatch) -> Result<Applied> {
        let patch = patch.clone();
        self.blocking(move |core| core.patch(&patch)).await
    }

    async fn check(&self) -> Vec<String> {
        match self.blocking(|core| Ok(core.missing())).await {
            Ok(lines) => lines,
            Err(e) => vec![e.to_string()],
        }
    }

    async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        self.blocking(move |core| core.audit(heal)).await
    }

    async fn wipe(&self) -> Result<()> {
        self.blocking(Core::wipe).await
    }
}
