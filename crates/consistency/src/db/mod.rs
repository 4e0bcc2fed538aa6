//! What the daemons for account and container databases share.

mod audit;
pub mod figures;
mod http;
mod replicas;
mod replicate;
mod walk;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use audit::device_names;
pub use audit::{AuditStats, audit_accounts, audit_containers};
pub(crate) use http::address;
pub(crate) use replicate::replicate_container;
pub use replicate::{ReplicateStats, replicate_accounts, replicate_containers};
pub(crate) use walk::{Found, walk};

use caelum_base::Env;
use caelum_broker::Pool;
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{Nodes, SwiftConf};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How the database daemons of a node are set up. The defaults are upstream's.
#[derive(Clone)]
pub struct DbDaemonConfig {
    /// The directory with one directory (or mount) for each device.
    pub devices: PathBuf,
    pub mount_check: bool,
    pub swift: SwiftConf,
    pub rings: Rings,
    pub nodes: Nodes,
    pub env: Env,
    /// Share it with the servers of the same process.
    pub pool: Arc<Pool>,
    /// The addresses under which the rings name this node (with the replication address, if another).
    pub local: Vec<(String, u16)>,
    /// Databases worked on at the same time.
    pub concurrency: usize,
    /// Databases a pass looks at in a second, beyond the first few; 0: no limit.
    pub databases_per_second: u32,
    /// From the beginning of a pass to the next.
    pub interval: Duration,
    /// Bounds one request to another node.
    pub node_timeout: Duration,
    /// Rows sent in one request.
    pub per_diff: usize,
    /// Requests with rows for one database and node in one pass.
    pub max_diffs: usize,
    /// How long deletions are remembered.
    pub reclaim_age: Duration,
    /// How whole databases get to nodes that do not take them by HTTP, such as upstream's:
    /// `{replication_ip}::container`. `None`: they do not.
    pub rsync_module: Option<String>,
}

impl DbDaemonConfig {
    pub fn new(devices: impl Into<PathBuf>, swift: SwiftConf, rings: Rings, nodes: Nodes, env: Env, pool: Arc<Pool>) -> Self {
        Self {
            devices: devices.into(),
            mount_check: false,
            swift,
            rings,
            nodes,
            env,
            pool,
            local: Vec::new(),
            concurrency: 8,
            databases_per_second: 50,
            interval: Duration::from_secs(30),
            node_timeout: Duration::from_secs(10),
            per_diff: 1_000,
            max_diffs: 100,
            reclaim_age: Duration::from_secs(7 * 86_400),
            rsync_module: None,
        }
    }

    pub(crate) fn is_local(&self, d: &Device) -> bool {
        self.local.iter().any(|(ip, port)| *ip == d.ip && *port == d.port || *ip == d.replication_ip && *port == d.replication_port)
    }

    /// This node's devices in a ring: id and name.
    pub(crate) fn local_devices(&self, ring: &Ring) -> Vec<Device> {
        ring.devices.iter().flatten().filter(|d| self.is_local(d)).cloned().collect()
    }

    pub(crate) fn now(&self) -> caelum_swiftkit::Timestamp {
        caelum_swiftkit::Timestamp::at(self.env.now())
    }
}

/// Runs database work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> caelum_broker::Result<T> + Send + 'static) -> caelum_broker::Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(out) => out,
        Err(e) => Err(caelum_broker::BrokerError::Invalid(format!("database work ended early: {e}"))),
    }
}

/// Runs passes until told to stop: the next begins `interval` after the last began. A pass that is
/// running is dropped at its next waiting point; all of them may be broken off anywhere.
pub async fn run_forever<S, F: Future<Output = S>>(
    interval: Duration,
    mut stop: watch::Receiver<bool>,
    mut pass: impl FnMut() -> F,
    mut report: impl FnMut(S),
) {
    while !*stop.borrow() {
        let begun = tokio::time::Instant::now();
        tokio::select! {
            stats = pass() => report(stats),
            _ = stop.changed() => return,
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + interval) => {}
            _ = stop.changed() => return,
        }
    }
}

#[cfg(test)]
mod passes {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passes_end_when_told() {
        let (tell, stop) = watch::channel(false);
        let mut n = 0;
        let passes = run_forever(
            Duration::from_secs(1),
            stop,
            || async {},
            |()| {
                n += 1;
                if n == 3 {
                    tell.send(true).unwrap();
                }
            },
        );
        passes.await;
        assert_eq!(n, 3);
    }
}
