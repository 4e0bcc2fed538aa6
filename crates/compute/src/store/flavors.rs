//! Flavors. A server keeps a copy of its flavor; deleting or changing one touches no server.

use caelum_base::{Error, Result, Timestamp};
use caelum_store::{Record, Stored, Table, Tx, Value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flavor {
    /// The public flavor id, chosen by the creator or a UUID.
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub ram_mb: i64,
    pub vcpus: i64,
    pub root_gb: i64,
    pub ephemeral_gb: i64,
    pub swap_mb: i64,
    pub rxtx_factor: f64,
    pub is_public: bool,
    pub disabled: bool,
    pub extra_specs: BTreeMap<String, String>,
    /// Projects that may use it when it is not public.
    pub projects: BTreeSet<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Record for Flavor {
    const TABLE: Table =
        Table { name: "flavors", columns: &["name", "is_public", "ram_mb", "vcpus", "root_gb", "created_at", "updated_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.name.as_str().into(),
            self.is_public.into(),
            self.ram_mb.into(),
            self.vcpus.into(),
            self.root_gb.into(),
            self.created_at.into(),
            self.updated_at.into(),
        ]
    }
}

impl Flavor {
    /// Whether servers of `project_id` may use it.
    pub fn visible_to(&self, project_id: Option<&str>) -> bool {
        self.is_public || project_id.is_some_and(|p| self.projects.contains(p))
    }
}

/// The flavor by id, if the project may use it. Errors: `NotFound` otherwise.
pub fn usable(tx: &mut Tx<'_>, id: &str, project_id: Option<&str>, admin: bool) -> Result<Stored<Flavor>> {
    let found = tx.get::<Flavor>(id)?.filter(|f| admin || f.visible_to(project_id));
    found.ok_or_else(|| Error::not_found(format!("Flavor {id} could not be found.")))
}
