//! Block storage (Cinder): the 3.0–3.71 API over files.
//!
//! Invariants:
//! - A volume's row and the flow that moves it are written in one transaction; a row in a
//!   transitional state always has an unfinished flow, so nothing is stuck.
//! - Names of files are made from ids only, and every file belongs to a row: what an interrupted
//!   step left is found again by the id and removed by its undo.
//! - Quota is checked in the transaction that adds the row and counted from the rows.
//! - A volume's status while it is reserved or attached follows from its attachments alone.
//! - Paths of the host are told to services and administrators only.
//!
//! On a crash flows resume at their last saved step.

mod api;
pub mod driver;
pub mod flows;
pub mod logic;
mod state;
pub mod store;
#[cfg(test)]
mod tests;

pub use state::{Options, State};

use caelum_base::{Env, Result};
use caelum_client::ServiceClient;
use caelum_flow::Flows;
use caelum_rest::{HttpService, OpInfo, TokenValidator};
use caelum_store::{Db, StoreUrl};
use driver::{FileDriver, VolumeDriver};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What block storage needs from the node.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    pub validator: Arc<dyn TokenValidator>,
    /// Operator's policy overrides by rule name.
    pub policy: BTreeMap<String, String>,
    pub auth_url: String,
    /// Names this process for ever; flows it left are its own again after a restart.
    pub node: String,
    pub image: ServiceClient,
    /// `None` when the cloud has no compute.
    pub compute: Option<ServiceClient>,
    /// Volumes go to `dir/volumes`, backups to `dir/backups`.
    pub dir: PathBuf,
    pub options: Options,
}

/// Running block storage.
pub struct Service {
    api: Arc<dyn HttpService>,
    operations: Vec<OpInfo>,
    state: Arc<State>,
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        self.api.clone()
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.operations.clone()
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Compares rows with files; with `heal`, removes files that belong to no row. Returns findings.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        logic::audit::run(&self.state, heal).await
    }

    /// What is known about a volume, snapshot or backup: status, unfinished and failed flows, messages.
    pub async fn why(&self, id: &str) -> Result<Vec<String>> {
        logic::audit::why(&self.state, id).await
    }

    /// Ends background work; unfinished flows are left for the next start.
    pub async fn stop(&self) {
        self.state.flows.stop(Duration::from_secs(10)).await;
    }
}

/// Opens the database and the volume directory, takes up unfinished flows and builds the API.
pub async fn start(deps: Deps) -> Result<Service> {
    let driver = FileDriver::open(&deps.dir, deps.options.driver.clone())?;
    start_with(deps, Arc::new(driver)).await
}

/// [`start`] with another driver.
pub async fn start_with(deps: Deps, driver: Arc<dyn VolumeDriver>) -> Result<Service> {
    let db = Db::open(&deps.store, "block", store::MIGRATIONS).await?;
    let flows = flows::register(Flows::new(db.clone(), deps.env.clone(), &deps.node));
    let state = Arc::new(State {
        env: deps.env.clone(),
        db,
        flows: flows.clone(),
        driver,
        image: deps.image,
        compute: deps.compute,
        node: deps.node,
        options: deps.options,
    });
    logic::types::bootstrap(&state).await?;
    let api = api::build(state.clone(), deps.env, deps.validator, deps.policy, deps.auth_url)?;
    let operations = api.operations().to_vec();
    flows.spawn(state.clone());
    Ok(Service { api: Arc::new(api::EmptyIds(api)), operations, state })
}
