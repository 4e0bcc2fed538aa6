//! One process of the cloud: services built from configuration, started and stopped in one place.
//!
//! Start order: lock, listener, identity, the host (guests and network), the services that use it, front
//! door. The listener is bound first, so that a port in use ends the start before anything exists; the
//! front door answers last, so that what answers works. Stop order is the reverse.

pub mod admin;
mod cloud;
mod handle;
mod hosts;
mod object;
mod options;
mod paths;

pub use cloud::operations;
pub use object::{ROLES as SWIFT_ROLES, SwiftNode, run_swift};
pub use options::OPTIONS;
pub use paths::DataDir;

use caelum_base::{Env, Error, Result};
use caelum_config::Config;
use caelum_rest::{Server, ServerHandle};
use cloud::Cloud;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What a process is started with.
#[derive(Clone)]
pub struct Settings {
    pub data: DataDir,
    pub config: Config,
}

/// What a user needs to know of a running cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub url: String,
    pub auth_url: String,
    /// `libvirt (kvm)`, `libvirt (qemu)` or `sim`.
    pub driver: String,
    pub data: PathBuf,
    pub started_in: Duration,
}

/// A running process.
pub struct Node {
    cloud: Arc<Cloud>,
    server: ServerHandle,
    admin: tokio::task::JoinHandle<()>,
    stop: watch::Receiver<bool>,
    summary: Summary,
    data: DataDir,
    /// Held while running; the kernel releases it if we die.
    _lock: Flock<File>,
}

fn lock_file(data: &DataDir) -> Result<File> {
    let path = data.join("run/lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::unavailable(format!("cannot open {}: {e}", path.display())))
}

/// Whether a process runs on this data directory.
pub fn is_locked(data: &DataDir) -> bool {
    match lock_file(data) {
        Ok(f) => Flock::lock(f, FlockArg::LockExclusiveNonblock).is_err(),
        Err(_) => false,
    }
}

/// How long the lock may outlive a killed process: a child between its fork and its exec holds it, too.
const LOCK_LINGERS: Duration = Duration::from_secs(1);

async fn lock(data: &DataDir) -> Result<Flock<File>> {
    let until = Instant::now() + LOCK_LINGERS;
    let mut file = lock_file(data)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((f, _)) if Instant::now() < until => file = f,
            Err(_) => {
                let dir = data.root().display();
                return Err(Error::conflict(format!("another caelum runs on {dir}; stop it with: caelum down --data {dir}")));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Node {
    /// Starts everything. On an error nothing of this process goes on.
    pub async fn start(settings: Settings, progress: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let started = Instant::now();
        let data = settings.data.clone();
        let lock = lock(&data).await?;
        init_log(settings.config.str("log.filter"))?;
        let listen: SocketAddr = settings
            .config
            .str("api.listen")
            .parse()
            .map_err(|_| Error::invalid("api.listen must be ADDRESS:PORT, for example 127.0.0.1:5000"))?;
        let server = Server::bind(listen).await?;
        let url = match settings.config.opt_str("api.public_url").filter(|u| !u.is_empty()) {
            Some(u) => u.trim_end_matches('/').to_string(),
            None => format!("http://{}", server.addr()?),
        };
        let cloud = Arc::new(Cloud::start(&settings, Env::system(), &url, progress).await?);
        let server = server.start(cloud.front())?;
        let summary = Summary {
            auth_url: format!("{url}/identity/v3"),
            url,
            driver: cloud.driver().to_string(),
            data: data.root().to_path_buf(),
            started_in: started.elapsed(),
        };
        let (stop_sender, stop) = watch::channel(false);
        let handle = handle::Handle { cloud: cloud.clone(), summary: summary.clone(), stop: stop_sender };
        let admin = admin::serve(&data.join("run/admin.sock"), Arc::new(handle))?;
        progress("every API answers");
        Ok(Self { cloud, server, admin, stop, summary, data, _lock: lock })
    }

    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// Resolves when `caelum down` asks.
    pub async fn stop_requested(&self) {
        let mut stop = self.stop.clone();
        // A closed channel means that the owner's door is gone, and with it anybody who could ask.
        if stop.wait_for(|s| *s).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets running requests finish, then ends background work. Guests stay.
    pub async fn stop(self, grace: Duration) {
        self.admin.abort();
        // The file of a stopped program would only mislead.
        let _ = std::fs::remove_file(self.data.join("run/admin.sock"));
        self.server.stop(grace).await;
        self.cloud.stop().await;
    }

    /// Everything leaked or stuck, one line each.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        self.cloud.audit(heal).await
    }
}

/// Removes everything of a stopped cloud from the host: guests, taps, bridges, namespaces, daemons.
pub async fn wipe(settings: &Settings) -> Result<()> {
    let _lock = lock(&settings.data).await?;
    hosts::wipe(settings, &Env::system()).await
}

fn init_log(filter: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| Error::invalid(format!("log.filter: {e}")))?;
    // A second node in one process (tests) logs through the first one's subscriber.
    let _ = tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(std::io::stderr).try_init();
    Ok(())
}
