use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A part of a namespace with the times it was made and changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The part as its schema has it, without name and times.
    pub body: serde_json::Map<String, serde_json::Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

pub type Parts = BTreeMap<String, Part>;

/// A namespace of metadata definitions with all its parts; its id is its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    pub name: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub visibility: String,
    pub protected: bool,
    pub owner: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub resource_types: Parts,
    pub objects: Parts,
    pub properties: Parts,
    pub tags: Parts,
}

impl Record for Namespace {
    const TABLE: Table = Table { name: "metadef_namespaces", columns: &["owner", "visibility", "created_at", "updated_at"] };

    fn id(&self) -> &str {
        &self.name
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.owner.as_deref().unwrap_or("").into(), self.visibility.as_str().into(), self.created_at.into(), self.updated_at.into()]
    }
}
