//! The object server: stores, serves, deletes and replicates objects of this node's devices.
//!
//! Protocol between nodes: Swift's, so that proxies, replicators and object servers of either kind work
//! with each other. Paths are `/DEVICE/PARTITION/ACCOUNT/CONTAINER/OBJECT`; the policy is in
//! `X-Backend-Storage-Policy-Index`.
//!
//! Invariants:
//! - An answer of success means that the change survives a power loss.
//! - A container update that was not taken is in the device's `async_pending` queue.
//! - Every answer that tells about an object carries `X-Backend-Timestamp` where upstream's does.

mod delete;
mod fragments;
mod get;
mod headers;
mod input;
mod mime;
mod post;
mod put;
mod replicate;
pub(crate) mod respond;
pub mod ssync;
mod target;
mod update;

use caelum_base::Env;
use caelum_diskfile::{Config, DiskError, Manager};
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::{Nodes, SwiftConf};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Options of the server; [`ObjectServerConfig::new`] sets upstream's defaults.
#[derive(Clone)]
pub struct ObjectServerConfig {
    /// Devices and how they are used.
    pub disk: Config,
    /// The way to container servers.
    pub nodes: Nodes,
    /// Answer of a container server.
    pub node_timeout: Duration,
    /// How long a client waits for container updates; they go on after it.
    pub container_update_timeout: Duration,
    /// Between two pieces of a request's body.
    pub client_timeout: Duration,
    /// A whole upload.
    pub max_upload_time: Duration,
    /// Lower-case names of headers kept beside `X-Object-*`.
    pub allowed_headers: Vec<String>,
    /// Incoming SSYNC requests at once; 0: no limit.
    pub replication_concurrency: usize,
    /// An SSYNC with this many failed subrequests is broken off if the ratio below is exceeded too.
    pub replication_failure_threshold: usize,
    /// Failures per success.
    pub replication_failure_ratio: f64,
}

impl ObjectServerConfig {
    pub fn new(devices: impl Into<PathBuf>, swift: Arc<SwiftConf>, nodes: Nodes, env: Env) -> Self {
        let allowed = "content-disposition content-encoding x-delete-at x-object-manifest x-static-large-object cache-control \
                       content-language expires x-robots-tag";
        Self {
            disk: Config::new(devices, swift, env),
            nodes,
            node_timeout: Duration::from_secs(3),
            container_update_timeout: Duration::from_secs(1),
            client_timeout: Duration::from_secs(60),
            max_upload_time: Duration::from_secs(86_400),
            allowed_headers: allowed.split_whitespace().map(str::to_string).collect(),
            replication_concurrency: 4,
            replication_failure_threshold: 100,
            replication_failure_ratio: 1.0,
        }
    }
}

/// One node's object server.
pub struct ObjectServer(Arc<Shared>);

/// What requests share.
pub(crate) struct Shared {
    pub config: ObjectServerConfig,
    pub disks: Arc<Manager>,
    pub replications: Arc<Semaphore>,
}

type Req = Request<Body>;
type Resp = Response<Body>;
/// Both sides are answers; `Err` marks those that end the handler early.
type Answer = Result<Resp, Resp>;

impl ObjectServer {
    pub fn new(config: ObjectServerConfig) -> Arc<Self> {
        let permits = if config.replication_concurrency == 0 { Semaphore::MAX_PERMITS } else { config.replication_concurrency };
        let disks = Manager::new(config.disk.clone());
        let replications = Arc::new(Semaphore::new(permits));
        Arc::new(Self(Arc::new(Shared { config, disks, replications })))
    }

    /// The devices, for daemons in the same process.
    pub fn disks(&self) -> Arc<Manager> {
        self.0.disks.clone()
    }
}

impl HttpService for ObjectServer {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(dispatch(self.0.clone(), req))
    }
}

async fn dispatch(server: Arc<Shared>, req: Req) -> Resp {
    let result = match req.method().as_str() {
        "GET" | "HEAD" => get::handle(server, req).await,
        "PUT" => put::handle(server, req).await,
        "POST" => post::handle(server, req).await,
        "DELETE" => delete::handle(server, req).await,
        "REPLICATE" => replicate::handle(server, req).await,
        "SSYNC" => ssync::handle(server, req).await,
        "OPTIONS" => Ok(crate::db::options("object-server", "DELETE, GET, HEAD, OPTIONS, POST, PUT, REPLICATE, SSYNC")),
        _ => Err(respond::error(405)),
    };
    result.unwrap_or_else(|r| r)
}

/// Runs work that blocks on disks.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Resp> {
    tokio::task::spawn_blocking(f).await.map_err(|e| {
        tracing::error!(error = %e, "disk job");
        respond::error(500)
    })
}

/// What failures of the disk answer, where a handler has nothing more specific to say.
pub(crate) fn disk_failure(device: &str, e: DiskError) -> Resp {
    match e {
        DiskError::DeviceUnavailable | DiskError::NoSpace | DiskError::XattrNotSupported => respond::insufficient(device),
        DiskError::NotExist | DiskError::Deleted { .. } | DiskError::Expired { .. } | DiskError::Quarantined { .. } => respond::error(404),
        DiskError::Collision => respond::error(403),
        DiskError::StateChanged => respond::error(503),
        DiskError::Invalid(what) => respond::text(400, &what),
        // Not 507: a client could have the proxies leave out a healthy device with it.
        e @ DiskError::MetadataTooLarge(_) => {
            tracing::warn!(device, error = %e, "an object was refused; ext4 needs the feature ea_inode for it, XFS nothing");
            respond::text(400, &e.to_string())
        }
        DiskError::LockTimeout(_) => respond::error(503),
        DiskError::Io(e) => {
            tracing::error!(device, error = %e, "disk");
            respond::error(500)
        }
    }
}
