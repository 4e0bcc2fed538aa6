//! The background work of the embedded store.
//!
//! With one device there is nobody to copy to; the replicators then only forget what was deleted long ago.

use caelum_base::Env;
use caelum_broker::Pool;
use caelum_consistency::account::{ReaperConfig, reap_accounts};
use caelum_consistency::container::{
    ReconcilerConfig, SharderConfig, SyncConfig, UpdaterConfig, reconcile, shard_containers, sync_containers, update_accounts,
};
use caelum_consistency::db::{DbDaemonConfig, audit_accounts, audit_containers, replicate_accounts, replicate_containers, run_forever};
use caelum_consistency::object::expirer::ExpirerConfig;
use caelum_consistency::object::{Config, auditor, expirer, reconstructor, replicator, updater};
use caelum_diskfile::Manager;
use caelum_objserver::db::SyncRealms;
use caelum_rest::HttpService;
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Figures of containers reach their accounts within this time.
const CONTAINER_UPDATES: Duration = Duration::from_secs(5);
const OBJECT_UPDATES: Duration = Duration::from_secs(30);
const EXPIRY: Duration = Duration::from_secs(30);
const SHARDING: Duration = Duration::from_secs(30);
const SYNCHRONIZATION: Duration = Duration::from_secs(5);
const RECONCILIATION: Duration = Duration::from_secs(30);
const REAPING: Duration = Duration::from_secs(300);
const DB_AUDITS: Duration = Duration::from_secs(1_800);
const REPLICATION: Duration = Duration::from_secs(30);
const REPLICATION_ALONE: Duration = Duration::from_secs(600);

/// What the daemons work with.
pub struct Parts {
    pub devices: PathBuf,
    pub swift: Arc<SwiftConf>,
    pub rings: Rings,
    pub nodes: Nodes,
    pub env: Env,
    pub pool: Arc<Pool>,
    pub disks: Arc<Manager>,
    /// Requests of the program's own.
    pub client: Arc<dyn HttpService>,
    pub ip: String,
    pub account_port: u16,
    pub container_port: u16,
    pub object_port: u16,
    pub n_devices: usize,
    /// `container-sync-realms.conf`, as text.
    pub sync_realms: String,
    /// Hosts that containers may be synchronised with outside realms.
    pub sync_hosts: Vec<String>,
}

/// Running daemons.
pub struct Daemons {
    stop: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// Repeats a pass; its figures are for whoever asks for them in the log.
async fn repeat<S: std::fmt::Debug, F: Future<Output = S>>(
    name: &'static str,
    every: Duration,
    stop: watch::Receiver<bool>,
    pass: impl FnMut() -> F,
) {
    run_forever(every, stop, pass, |stats: S| tracing::debug!(name, ?stats, "pass")).await;
}

impl Daemons {
    pub fn start(p: &Parts) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut db = DbDaemonConfig::new(&p.devices, (*p.swift).clone(), p.rings.clone(), p.nodes.clone(), p.env.clone(), p.pool.clone());
        let local = |port| (p.ip.clone(), port);
        db.local = vec![local(p.account_port), local(p.container_port), local(p.object_port)];
        databases(&db, p.n_devices, &mut tasks, &stopped);
        movers(&db, p, &mut tasks, &stopped);
        let objects = Config::new(p.disks.clone(), p.rings.clone(), p.nodes.clone(), vec![p.ip.clone()], Some(p.object_port));
        objects_of(&objects, p, &mut tasks, &stopped);
        Self { stop, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Ends all passes at their next waiting point.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

fn replication(n_devices: usize) -> Duration {
    if n_devices > 1 { REPLICATION } else { REPLICATION_ALONE }
}

fn databases(config: &DbDaemonConfig, n_devices: usize, tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
    let c = config.clone();
    let updater = UpdaterConfig::default();
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("container updates", CONTAINER_UPDATES, stop, || update_accounts(&c, &updater)).await }
    });
    let sharder = SharderConfig::default();
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("container sharding", SHARDING, stop, || shard_containers(&c, &sharder)).await }
    });
    let reaper = ReaperConfig::default();
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("account reaping", REAPING, stop, || reap_accounts(&c, &reaper)).await }
    });
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move {
            repeat("database audits", DB_AUDITS, stop, || async { (audit_accounts(&c).await, audit_containers(&c).await) }).await;
        }
    });
    let every = replication(n_devices);
    let stop = stop.clone();
    tasks.spawn(async move {
        repeat("database replication", every, stop, || async { (replicate_accounts(&c).await, replicate_containers(&c).await) }).await;
    });
}

/// Daemons that move objects by the proxy's own ways.
fn movers(config: &DbDaemonConfig, p: &Parts, tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
    let sync = SyncConfig {
        client: p.client.clone(),
        realms: SyncRealms::parse(&p.sync_realms),
        allowed_sync_hosts: p.sync_hosts.clone(),
        container_time: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
    };
    tasks.spawn({
        let (c, stop) = (config.clone(), stop.clone());
        async move { repeat("container synchronization", SYNCHRONIZATION, stop, || sync_containers(&c, &sync)).await }
    });
    let reconciler = ReconcilerConfig { client: p.client.clone(), concurrency: 1, processes: 0, process: 0 };
    let (c, stop) = (config.clone(), stop.clone());
    tasks.spawn(async move { repeat("container reconciliation", RECONCILIATION, stop, || reconcile(&c, &reconciler)).await });
}

fn objects_of(config: &Config, p: &Parts, tasks: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
    let c = config.clone();
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("object updates", OBJECT_UPDATES, stop, || updater::run_once(&c)).await }
    });
    let expiry = ExpirerConfig {
        client: p.client.clone(),
        processes: 0,
        process: 0,
        reclaim_age: Duration::from_secs(7 * 86_400),
        delays: Vec::new(),
    };
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("object expiry", EXPIRY, stop, || expirer::run_once(&c, &expiry)).await }
    });
    tasks.spawn({
        let (c, stop) = (c.clone(), stop.clone());
        async move { repeat("object audits", DB_AUDITS, stop, || auditor::run_once(&c, auditor::Pass::All)).await }
    });
    let every = replication(p.n_devices);
    if p.swift.policies.iter().any(|policy| policy.is_ec()) {
        let (c, stop) = (c.clone(), stop.clone());
        tasks.spawn(async move { repeat("object reconstruction", every, stop, || reconstructor::run_once(&c)).await });
    }
    let stop = stop.clone();
    tasks.spawn(async move { repeat("object replication", every, stop, || replicator::run_once(&c)).await });
}
