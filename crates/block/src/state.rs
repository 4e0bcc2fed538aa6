use crate::driver::{self, VolumeDriver};
use caelum_base::Env;
use caelum_client::ServiceClient;
use caelum_flow::Flows;
use caelum_store::Db;
use std::sync::Arc;
use std::time::Duration;

/// Settings of block storage.
#[derive(Clone, Debug)]
pub struct Options {
    pub availability_zone: String,
    /// Format of new volumes' files: `raw` or `qcow2`.
    pub volume_format: String,
    /// Name of the type volumes get that name none.
    pub default_type: String,
    pub driver: driver::Options,
    /// Longest an operation that moves data may take.
    pub data_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            availability_zone: "nova".into(),
            volume_format: "raw".into(),
            default_type: "file".into(),
            driver: driver::Options::default(),
            data_timeout: Duration::from_secs(3_600),
        }
    }
}

/// What every handler and flow shares.
pub struct State {
    pub env: Env,
    pub db: Db,
    pub flows: Flows<State>,
    pub driver: Arc<dyn VolumeDriver>,
    pub image: ServiceClient,
    pub compute: Option<ServiceClient>,
    pub node: String,
    pub options: Options,
}

/// Name of the backend, and of its only pool.
pub const BACKEND: &str = "file";

impl State {
    /// `node@backend`.
    pub fn backend_host(&self) -> String {
        format!("{}@{BACKEND}", self.node)
    }

    /// `node@backend#pool`, where volumes are.
    pub fn pool(&self) -> String {
        format!("{}@{BACKEND}#{BACKEND}", self.node)
    }
}
