//! Compute (Nova): the 2.1–2.104 API, scheduling, the life of servers.
//!
//! Invariants:
//! - A server's row and the flow that moves it are written in one transaction; a row in a
//!   transitional state always has an unfinished flow, so nothing is stuck.
//! - Ids (ports' device, attachments, allocations' consumer) are the server's own id, so whatever an
//!   interrupted step left behind is found again by it.
//! - Delete is accepted in every state and wins: it cancels the running flow and runs after that has
//!   unwound.
//! - Only ports and volumes that compute made, or that the user told it to, are removed with a server.
//!
//! On a crash flows resume at their last saved step; the power state is read again from the hosts.

pub mod api;
pub mod cache;
pub mod console;
pub mod flows;
pub mod logic;
pub mod metadata;
pub mod reconcile;
mod state;
pub mod store;

pub use state::{Hosts, Peers, State};

use caelum_base::{Env, Result};
use caelum_client::ServiceClient;
use caelum_flow::Flows;
use caelum_hypervisor::Hypervisor;
use caelum_rest::{Api, HttpService, OpInfo, TokenValidator};
use caelum_store::{Db, StoreUrl};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Settings of compute.
#[derive(Clone, Debug)]
pub struct Config {
    /// Overcommit of each host's inventory.
    pub cpu_allocation_ratio: f64,
    pub ram_allocation_ratio: f64,
    pub disk_allocation_ratio: f64,
    /// Longest a build may take.
    pub build_timeout: Duration,
    /// Longest wait for a port to come up.
    pub vif_timeout: Duration,
    /// How long a guest may take to shut down by itself.
    pub shutdown_grace: Duration,
    /// Period of looking at hosts and rows for differences.
    pub sync_period: Duration,
    /// Base URL of the console proxy, without the query.
    pub console_url: String,
    /// Shared with the network service's metadata proxy; empty refuses all metadata requests.
    pub metadata_secret: caelum_base::Secret<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpu_allocation_ratio: 4.0,
            ram_allocation_ratio: 1.0,
            disk_allocation_ratio: 1.0,
            build_timeout: Duration::from_secs(300),
            vif_timeout: Duration::from_secs(120),
            shutdown_grace: Duration::from_secs(60),
            sync_period: Duration::from_secs(30),
            console_url: String::new(),
            metadata_secret: caelum_base::Secret::default(),
        }
    }
}

/// What compute needs from the node.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    pub validator: Arc<dyn TokenValidator>,
    /// Operator's policy overrides by rule name.
    pub policy: BTreeMap<String, String>,
    pub auth_url: String,
    /// Names this process for ever; flows it left are its own again after a restart.
    pub node: String,
    pub config: Config,
    pub network: ServiceClient,
    pub image: ServiceClient,
    /// At microversion 1.39.
    pub placement: ServiceClient,
    /// At microversion 3.71; `None` when the cloud has no block storage.
    pub block: Option<ServiceClient>,
    /// Hosts by name. `Hosts` go over whatever the `Hypervisor` behind them speaks.
    pub hosts: Vec<(String, Arc<dyn Hypervisor>)>,
}

/// Running compute.
pub struct Service {
    api: Api<State>,
    state: Arc<State>,
    tasks: std::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        Arc::new(self.api.clone())
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.api.operations().to_vec()
    }

    /// The console proxy, mounted at the directory of `Config::console_url`; its tokens are its own.
    pub fn console(&self) -> Arc<dyn HttpService> {
        Arc::new(console::ConsoleService::new(self.state.clone()))
    }

    /// The metadata service, which the network's proxies reach; it takes no tokens.
    pub fn metadata(&self) -> Arc<dyn HttpService> {
        Arc::new(metadata::MetadataService::new(self.state.clone()))
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Checks what must hold between servers, hosts and the other services; `heal` restores it.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        reconcile::audit::audit(&self.state, heal).await
    }

    /// What happened to a server, as lines of text; empty for an id that is none.
    pub async fn why(&self, id: &str) -> Result<Vec<String>> {
        reconcile::audit::why(&self.state, id).await
    }

    /// Ends background work; unfinished flows are left for the next start.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.state.flows.stop(Duration::from_secs(10)).await;
    }
}

/// Opens the database, takes up unfinished flows and builds the API.
pub async fn start(deps: Deps) -> Result<Service> {
    let db = Db::open(&deps.store, "compute", store::MIGRATIONS).await?;
    logic::flavors::ensure_default_flavors(&db, deps.env.now()).await?;
    let flows = flows::register(Flows::new(db.clone(), deps.env.clone(), &deps.node));
    let peers = Peers { network: deps.network, image: deps.image, placement: deps.placement, block: deps.block };
    let state = Arc::new(State::new(deps.env.clone(), db, deps.config, peers, Hosts::new(deps.hosts), flows.clone()));
    let api = api::build(state.clone(), deps.env, deps.validator, deps.policy, deps.auth_url)?;
    reconcile::hosts::first_reports(&state).await;
    flows.spawn(state.clone());
    let tasks = reconcile::spawn(&state, &deps.node);
    Ok(Service { api, state, tasks: std::sync::Mutex::new(tasks) })
}

#[cfg(test)]
mod tests;
