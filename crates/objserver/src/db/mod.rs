//! What the account and the container server share.

mod disk;
mod format;
pub(crate) mod push;
mod reply;
mod request;
pub(crate) mod rpc;
pub mod sync_store;
mod sync_to;

#[cfg(test)]
mod tests;

pub use caelum_diskfile::Reserve;
pub use disk::Disks;
pub(crate) use format::{Field, Format, Writer};
pub(crate) use reply::{Answer, Fail, Resp, bad_request, http_date, no_device, set, status, text_reply};
pub(crate) use request::{Params, Target, header, is_meta, json, metadata, quote, read_body, timestamp, truth, yes};
pub use sync_to::{SyncRealms, SyncTo, validate_sync_to};

use bytes::Bytes;
use caelum_base::Env;
use caelum_broker::Pool;
use caelum_swiftkit::{Nodes, SwiftConf};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Threads that work on disks for one server at most.
pub(crate) const MAX_DISK_WORK: usize = 64;

/// Runs disk work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: Arc<Semaphore>, f: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    let Ok(_permit) = work.acquire_owned().await else { return Err(status(503).into()) };
    match tokio::task::spawn_blocking(f).await {
        Ok(answer) => answer,
        Err(e) => {
            tracing::error!(error = %e, "disk work ended early");
            Err(status(500).into())
        }
    }
}

/// What the server can do, for monitoring.
pub(crate) fn options(server: &str, methods: &str) -> Resp {
    let mut r = text_reply(200, "text/html; charset=UTF-8", "");
    set(&mut r, "Allow", methods);
    set(&mut r, "Server", &format!("{server}/{}", env!("CARGO_PKG_VERSION")));
    r
}

/// 204 with a content type.
pub(crate) fn no_content(content_type: &'static str) -> Resp {
    text_reply(204, content_type, "")
}

/// 200, or 204 when there is nothing.
pub(crate) fn ok_body(content_type: &'static str, body: impl Into<Bytes>) -> Resp {
    let body = body.into();
    if body.is_empty() { no_content(content_type) } else { text_reply(200, content_type, body) }
}

/// Idle database connections a server keeps.
const POOL_CAPACITY: usize = 128;

/// How an account or container server is set up.
#[derive(Clone)]
pub struct DbServerConfig {
    /// The directory with one directory (or mount) for each device.
    pub devices: PathBuf,
    /// Refuse devices that are not mount points.
    pub mount_check: bool,
    /// Space that stays free on a device; beyond it writes are refused with 507.
    pub reserve: Reserve,
    pub swift: SwiftConf,
    /// The way to the account servers.
    pub nodes: Nodes,
    /// Bounds one request to an account server.
    pub node_timeout: Duration,
    /// Hosts that `X-Container-Sync-To` may name.
    pub allowed_sync_hosts: Vec<String>,
    /// `container-sync-realms.conf`, as text; empty when there is none.
    pub sync_realms: String,
    pub env: Env,
    /// Open databases; servers and daemons of one process should share it.
    pub pool: Arc<Pool>,
}

impl DbServerConfig {
    /// Upstream's defaults, but without the mount check.
    pub fn new(devices: impl Into<PathBuf>, swift: SwiftConf, nodes: Nodes, env: Env) -> Self {
        Self {
            devices: devices.into(),
            mount_check: false,
            reserve: Reserve::Percent(1.0),
            swift,
            nodes,
            node_timeout: Duration::from_secs(3),
            allowed_sync_hosts: vec!["127.0.0.1".into()],
            sync_realms: String::new(),
            pool: Pool::new(env.clone(), POOL_CAPACITY),
            env,
        }
    }
}
