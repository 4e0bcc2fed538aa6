//! Quota limits: built-in defaults, the class `default`, a project's own.

use caelum_base::Result;
use caelum_store::{Record, Table, Tx, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Upstream's defaults; -1 is unlimited.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("instances", 10),
    ("cores", 20),
    ("ram", 51_200),
    ("metadata_items", 128),
    ("injected_files", 5),
    ("injected_file_content_bytes", 10_240),
    ("injected_file_path_bytes", 255),
    ("key_pairs", 100),
    ("server_groups", 10),
    ("server_group_members", 10),
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("security_groups", -1),
    ("security_group_rules", -1),
    ("networks", -1),
];

/// Limits set for a project (`id` is its id) or a class (`class:default`); keys absent fall through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaSet {
    pub id: String,
    pub limits: BTreeMap<String, i64>,
}

impl Record for QuotaSet {
    const TABLE: Table = Table { name: "quota_sets", columns: &[] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        Vec::new()
    }
}

/// The limits of a class over the built-in defaults.
pub fn class_limits(tx: &mut Tx<'_>, class: &str) -> Result<BTreeMap<String, i64>> {
    let mut out: BTreeMap<String, i64> = DEFAULTS.iter().map(|(k, v)| ((*k).to_string(), *v)).collect();
    if let Some(set) = tx.get::<QuotaSet>(&format!("class:{class}"))? {
        out.extend(set.value.limits);
    }
    Ok(out)
}

/// The limits that hold for a project.
pub fn effective(tx: &mut Tx<'_>, project_id: &str) -> Result<BTreeMap<String, i64>> {
    let mut out = class_limits(tx, "default")?;
    if let Some(set) = tx.get::<QuotaSet>(project_id)? {
        out.extend(set.value.limits);
    }
    Ok(out)
}
