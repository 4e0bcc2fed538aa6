//! Compute's own services (`nova-compute` on each host, `nova-scheduler`, `nova-conductor`).

use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A service that has not reported for this long is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// UUID.
    pub id: String,
    /// Upstream's integer id.
    pub number: i64,
    pub host: String,
    /// `nova-compute`, …
    pub binary: String,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub forced_down: bool,
    pub created_at: Timestamp,
    pub seen_at: Timestamp,
}

impl ServiceRow {
    pub fn is_up(&self, now: Timestamp) -> bool {
        !self.forced_down && now.since(self.seen_at) <= DOWN_AFTER
    }
}

impl Record for ServiceRow {
    const TABLE: Table = Table { name: "services", columns: &["host", "binary_name"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.host.as_str().into(), self.binary.as_str().into()]
    }
}
