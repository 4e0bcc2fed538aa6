//! What every handler and flow of compute shares.

use crate::Config;
use crate::cache::Cache;
use crate::logic::network::Network;
use crate::reconcile::HostView;
use crate::store::servers::ImageFacts;
use caelum_base::{Env, Error, Result, Secret, Timestamp};
use caelum_client::ServiceClient;
use caelum_flow::Flows;
use caelum_hypervisor::Hypervisor;
use caelum_store::Db;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// How long looked-up images and networks are taken as they were.
const CACHE_AGE: Duration = Duration::from_secs(10);

/// How compute reaches its hosts. In one process that is the host itself; over a bus, a proxy that
/// speaks to topic `compute-host.<name>` takes its place behind the same trait.
#[derive(Clone, Default)]
pub struct Hosts(Arc<BTreeMap<String, Arc<dyn Hypervisor>>>);

impl Hosts {
    pub fn new(hosts: Vec<(String, Arc<dyn Hypervisor>)>) -> Self {
        Self(Arc::new(hosts.into_iter().collect()))
    }

    /// Errors: `Unavailable` for a host that is not connected.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Hypervisor>> {
        self.0.get(name).ok_or_else(|| Error::unavailable(format!("Compute host {name} is not connected.")))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<dyn Hypervisor>)> {
        self.0.iter()
    }
}

/// Other services.
#[derive(Clone)]
pub struct Peers {
    pub network: ServiceClient,
    pub image: ServiceClient,
    pub placement: ServiceClient,
    pub block: Option<ServiceClient>,
}

pub struct State {
    pub env: Env,
    pub started_at: Timestamp,
    pub db: Db,
    pub config: Config,
    pub peers: Peers,
    pub hosts: Hosts,
    pub flows: Flows<State>,
    pub images: Cache<ImageFacts>,
    pub networks: Cache<Network>,
    /// Servers whose ports were compared with the network service a moment ago.
    pub network_checked: Cache<()>,
    /// Woken when the network service says that a port of the server changed; while somebody waits.
    port_waiters: Mutex<HashMap<String, Arc<Notify>>>,
    pub(crate) views: RwLock<BTreeMap<String, HostView>>,
    /// Tokens of users whose servers' volumes are being made, by server. Never stored: after a
    /// restart such a build fails cleanly.
    tokens: Mutex<HashMap<String, Secret<String>>>,
}

impl State {
    pub(crate) fn new(env: Env, db: Db, config: Config, peers: Peers, hosts: Hosts, flows: Flows<State>) -> Self {
        Self {
            started_at: env.now(),
            images: Cache::new(env.clone(), CACHE_AGE),
            networks: Cache::new(env.clone(), CACHE_AGE),
            network_checked: Cache::new(env.clone(), Duration::from_secs(3)),
            port_waiters: Mutex::default(),
            views: RwLock::default(),
            tokens: Mutex::default(),
            env,
            db,
            config,
            peers,
            hosts,
            flows,
        }
    }

    /// Errors: `Invalid` when this cloud has no block storage.
    pub fn block(&self) -> Result<&ServiceClient> {
        self.peers.block.as_ref().ok_or_else(|| Error::invalid("This cloud has no block storage service."))
    }

    fn lock_tokens(&self) -> MutexGuard<'_, HashMap<String, Secret<String>>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_waiters(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.port_waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is woken when a port of the server changes. The holder drops it with
    /// [`State::stop_waiting`].
    pub(crate) fn wait_for_ports(&self, server_id: &str) -> Arc<Notify> {
        self.lock_waiters().entry(server_id.to_string()).or_default().clone()
    }

    pub(crate) fn stop_waiting(&self, server_id: &str) {
        self.lock_waiters().remove(server_id);
    }

    /// A port of the server changed.
    pub(crate) fn port_changed(&self, server_id: &str) {
        if let Some(n) = self.lock_waiters().get(server_id) {
            n.notify_waiters();
        }
    }

    /// Keeps a user's token while a flow needs to act as the user.
    pub fn lend_token(&self, server_id: &str, token: &Secret<String>) {
        self.lock_tokens().insert(server_id.to_string(), token.clone());
    }

    pub fn user_token(&self, server_id: &str) -> Option<Secret<String>> {
        self.lock_tokens().get(server_id).cloned()
    }

    pub fn forget_token(&self, server_id: &str) {
        self.lock_tokens().remove(server_id);
    }
}
