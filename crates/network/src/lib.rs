//! Networking (Neutron): API v2.0, address management, security groups, routers and floating
//! addresses, and what each host must have of them.
//!
//! Invariants:
//! - A port's addresses are taken in the transaction that writes the port; (subnet, address) and
//!   (network, MAC) are unique in the database.
//! - Hosts follow the database: every change wakes the hosts concerned, and everything is computed
//!   anew at the start and about once a minute. A crash loses nothing but time.
//! - Every id in a request that names another resource is checked: who may not see it gets the same
//!   answer as for an id that does not exist.

mod api;
mod audit;
mod bootstrap;
mod logic;
mod reconcile;
mod store;

pub use bootstrap::PublicNetwork;
pub use logic::{Options, PortEvent};

use crate::logic::State;
use crate::reconcile::{HostController, Hosts, Notifier};
use caelum_base::{Env, Result};
use caelum_client::ServiceClient;
use caelum_netplane::NetworkHost;
use caelum_reconcile::Controller;
use caelum_rest::{Api, HttpService, OpInfo, TokenValidator};
use caelum_store::{Db, StoreUrl};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Port events kept for slow subscribers.
const EVENTS: usize = 65_536;

/// What the service needs of the world.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    pub validator: Arc<dyn TokenValidator>,
    /// The operator's policy overrides.
    pub policy: BTreeMap<String, String>,
    pub auth_url: String,
    /// Hosts by name (`binding:host_id`); the first one runs DHCP and routers.
    pub hosts: Vec<(String, Arc<dyn NetworkHost>)>,
    /// Told about plugged ports.
    pub compute: Option<ServiceClient>,
    pub options: Options,
}

/// The running service.
pub struct Service {
    api: Api<State>,
    state: Arc<State>,
    controller: Controller,
}

/// Opens the database and starts the API and the host controller.
pub async fn start(deps: Deps) -> Result<Service> {
    let db = Db::open(&deps.store, "network", store::MIGRATIONS).await?;
    let (events, _) = broadcast::channel(EVENTS);
    // The notifier's task ends by itself when the last sender goes.
    let (notifier, _task) = Notifier::start(events.clone(), deps.compute);
    let hosts = Arc::new(Hosts::new(deps.hosts, notifier));
    let state = Arc::new(State {
        env: deps.env.clone(),
        db,
        options: deps.options,
        hints: logic::ipam::Hints::default(),
        hosts: hosts.clone(),
        events,
    });
    let options = caelum_reconcile::Options { backoff: (Duration::from_millis(200), Duration::from_secs(10)), ..Default::default() };
    let reconcile = Arc::new(HostController(Arc::downgrade(&state)));
    let controller = Controller::spawn("network-host", deps.env.clone(), options, reconcile);
    hosts.attach(controller.clone());
    let api = api::build(state.clone(), deps.env, deps.validator, deps.policy, deps.auth_url)?;
    Ok(Service { api, state, controller })
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        Arc::new(self.api.clone())
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.api.operations().to_vec()
    }

    /// Changes of port statuses from now on, without any network between.
    pub fn port_events(&self) -> broadcast::Receiver<PortEvent> {
        self.state.events.subscribe()
    }

    /// Waits until every host has what the database says. For tests and orderly starts.
    pub async fn settled(&self) {
        self.controller.idle().await;
    }

    /// Lets the current host run end and stops.
    pub async fn stop(&self) {
        self.controller.stop(Duration::from_secs(5)).await;
    }
}
