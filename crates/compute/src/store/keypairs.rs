//! Key pairs belong to users.

use caelum_base::{Result, Timestamp};
use caelum_store::{Query, Record, Stored, Table, Tx, Value};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPair {
    pub id: String,
    /// Upstream's integer id, unique in the cloud.
    pub number: i64,
    pub user_id: String,
    pub name: String,
    /// `ssh` or `x509`.
    pub kind: String,
    pub public_key: String,
    pub fingerprint: String,
    pub created_at: Timestamp,
}

impl Record for KeyPair {
    const TABLE: Table = Table { name: "keypairs", columns: &["user_id", "name", "created_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.user_id.as_str().into(), self.name.as_str().into(), self.created_at.into()]
    }
}

/// A user's key pair by name.
pub fn by_name(tx: &mut Tx<'_>, user_id: &str, name: &str) -> Result<Option<Stored<KeyPair>>> {
    tx.first::<KeyPair>(&Query::new().eq("user_id", user_id).eq("name", name))
}
