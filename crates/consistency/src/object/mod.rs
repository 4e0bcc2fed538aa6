//! The daemons of object nodes.
//!
//! Each has `run_once(&Config) -> Stats` for one pass over this node's devices, and [`forever`] repeats any of them.
//! All work from what is on disk and in the rings; they hold no state that matters: after a crash the next pass
//! does what is left. They may run beside upstream's daemons on other nodes of the cluster.
//!
//! Invariant: nothing is removed from a node before every node that should hold it has confirmed the same state of it.

pub mod auditor;
pub mod expirer;
mod fetch;
mod node;
pub mod reconstructor;
pub mod relinker;
pub mod replicator;
mod rsync;
mod ssync;
pub mod updater;

use crate::recon::Figures;
use caelum_base::Env;
use caelum_diskfile::{DiskResult, Manager};
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{Nodes, StoragePolicy};
use futures_util::StreamExt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub use rsync::RsyncConfig;

/// How objects travel to other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// Over HTTP, object by object.
    Ssync,
    /// By the `rsync` program, to nodes that run an rsync daemon.
    Rsync(RsyncConfig),
}

/// What all object daemons of a node share. [`Config::new`] sets upstream's defaults.
#[derive(Clone)]
pub struct Config {
    pub disks: Arc<Manager>,
    pub rings: Rings,
    pub nodes: Nodes,
    pub env: Env,
    /// Addresses of this node as the rings name it (replication network).
    pub ips: Vec<String>,
    /// Port of this node's object server as the rings name it; `None`: any.
    pub port: Option<u16>,
    /// Partitions, updates or devices worked on at once.
    pub concurrency: usize,
    /// From the beginning of one pass to that of the next.
    pub interval: Duration,
    /// Answer of a node to a small request.
    pub node_timeout: Duration,
    /// Answer of a node that has to hash or to list first.
    pub http_timeout: Duration,
    pub sync: SyncMethod,
    /// A handed-over partition is removed once this many nodes have it; 0: all of them.
    pub handoff_delete: usize,
    /// Partitions that do not belong here go first.
    pub handoffs_first: bool,
    /// Objects per second that an auditor looks at; 0: no limit.
    pub files_per_second: u32,
    /// Bytes per second that an auditor reads; 0: no limit.
    pub bytes_per_second: u64,
    /// Object directories per second and device that the relinker looks at; 0: no limit.
    pub relinks_per_second: u32,
    /// Whether the relinker quarantines what lies in the way of a link.
    pub clobber_hardlink_collisions: bool,
    /// Only these of this node's devices; empty: all. Of the replicator, the reconstructor and the relinker.
    pub only_devices: Vec<String>,
    /// Only these partitions; empty: all.
    pub only_partitions: Vec<u32>,
    /// Only policies of these numbers; empty: all.
    pub only_policies: Vec<u32>,
    /// The reconstructor gives away what does not belong here and does nothing else.
    pub handoffs_only: bool,
    /// Up to so many handoffs get a fragment whose primary's device is gone; below 0: any number.
    pub rebuild_handoff_node_count: i64,
    /// Directory in which `run_forever` notes its figures (`object.recon`); `None`: nowhere.
    pub recon_cache: Option<PathBuf>,
}

impl Config {
    pub fn new(disks: Arc<Manager>, rings: Rings, nodes: Nodes, ips: Vec<String>, port: Option<u16>) -> Self {
        let env = disks.config.env.clone();
        Self {
            disks,
            rings,
            nodes,
            env,
            ips,
            port,
            concurrency: 1,
            interval: Duration::from_secs(30),
            node_timeout: Duration::from_secs(10),
            http_timeout: Duration::from_secs(60),
            sync: SyncMethod::Ssync,
            handoff_delete: 0,
            handoffs_first: false,
            files_per_second: 20,
            bytes_per_second: 10_000_000,
            relinks_per_second: 0,
            clobber_hardlink_collisions: false,
            only_devices: Vec::new(),
            only_partitions: Vec::new(),
            only_policies: Vec::new(),
            handoffs_only: false,
            rebuild_handoff_node_count: 2,
            recon_cache: None,
        }
    }

    pub(crate) fn is_local(&self, d: &Device) -> bool {
        self.ips.contains(&d.replication_ip) && self.port.is_none_or(|p| p == d.replication_port)
    }

    /// This node's devices of a ring.
    pub(crate) fn local_devices(&self, ring: &Ring) -> Vec<Device> {
        ring.devices.iter().flatten().filter(|d| self.is_local(d) && self.wants_device(&d.device)).cloned().collect()
    }

    /// Whether a partition is among those asked for.
    pub(crate) fn wants_partition(&self, partition: u32) -> bool {
        self.only_partitions.is_empty() || self.only_partitions.contains(&partition)
    }

    pub(crate) fn wants_device(&self, device: &str) -> bool {
        self.only_devices.is_empty() || self.only_devices.iter().any(|d| d == device)
    }

    /// Where daemons of objects leave their figures.
    fn figures(&self) -> Figures {
        Figures { cache: self.recon_cache.clone(), kind: "object", env: self.env.clone() }
    }

    /// Whether the ring that work was planned with is still in force. Once it is not, the plan names partitions and nodes
    /// of the past: after an increase of the part power, sending by it would bring back what was moved.
    pub(crate) fn is_current(&self, policy: &StoragePolicy, ring: &Arc<Ring>) -> bool {
        self.rings.object(policy.index).is_some_and(|now| Arc::ptr_eq(&now, ring))
    }

    pub(crate) fn policies(&self) -> Vec<Arc<StoragePolicy>> {
        let wanted = |p: &&StoragePolicy| self.only_policies.is_empty() || self.only_policies.contains(&p.index);
        self.disks.config.swift.policies.iter().filter(wanted).cloned().map(Arc::new).collect()
    }
}

/// Runs work that blocks on disks. Errors: the disk's, or that the work panicked.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> DiskResult<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Runs jobs, at most `limit` at once, and adds up what they did.
pub(crate) async fn all<J, S, F, Fut>(jobs: impl IntoIterator<Item = J>, limit: usize, work: F) -> S
where
    S: Default + std::ops::AddAssign,
    F: Fn(J) -> Fut,
    Fut: Future<Output = S>,
{
    let mut total = S::default();
    let mut running = futures_util::stream::iter(jobs).map(work).buffer_unordered(limit.max(1));
    while let Some(one) = running.next().await {
        total += one;
    }
    total
}

/// Repeats a daemon's pass until `stop` turns true (or its sender goes), the next beginning `interval` after the last
/// began. A pass under way is given up at its next wait; everything it does is safe to give up. `report` gets each
/// pass's figures.
pub async fn forever<S, F, Fut>(interval: Duration, mut stop: watch::Receiver<bool>, pass: F, report: impl Fn(S))
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    loop {
        if *stop.borrow() {
            return;
        }
        let begun = tokio::time::Instant::now();
        tokio::select! {
            stats = pass() => report(stats),
            () = stopped(&mut stop) => return,
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + interval) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    while !*stop.borrow() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
