//! Host aggregates; availability zones are aggregates with the metadata key `availability_zone`.

use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The zone of hosts that are in no zone's aggregate.
pub const DEFAULT_ZONE: &str = "nova";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// UUID.
    pub id: String,
    /// Upstream's integer id.
    pub number: i64,
    pub name: String,
    pub hosts: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

impl Aggregate {
    pub fn zone(&self) -> Option<&str> {
        self.metadata.get("availability_zone").map(String::as_str)
    }
}

impl Record for Aggregate {
    const TABLE: Table = Table { name: "aggregates", columns: &["number", "name"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.number.into(), self.name.as_str().into()]
    }
}

/// The zone of a host among all aggregates.
pub fn zone_of<'a>(aggregates: impl IntoIterator<Item = &'a Aggregate>, host: &str) -> String {
    let found = aggregates.into_iter().filter(|a| a.hosts.contains(host)).find_map(|a| a.zone().map(String::from));
    found.unwrap_or_else(|| DEFAULT_ZONE.to_string())
}
