//! What every handler and flow of compute shares.

use crate::Config;
use caelum_base::{Env, Error, Result};
use caelum_client::ServiceClient;
use caelum_flow::Flows;
use caelum_hypervisor::Hypervisor;
use caelum_store::Db;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    pub db: Db,
    pub config: Config,
    pub peers: Peers,
    pub hosts: Hosts,
    pub flows: Flows<State>,
}

impl State {
    /// Errors: `Invalid` when this cloud has no block storage.
    pub fn block(&self) -> Result<&ServiceClient> {
        self.peers.block.as_ref().ok_or_else(|| Error::invalid("This cloud has no block storage service."))
    }
}
