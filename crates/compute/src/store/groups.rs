//! Server groups. Membership is the server's `group_id`; a group holds no list of its own.

use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerGroup {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: String,
    /// `affinity`, `anti-affinity`, `soft-affinity` or `soft-anti-affinity`.
    pub policy: String,
    /// Rule of anti-affinity (2.64).
    pub max_server_per_host: Option<i64>,
    pub created_at: Timestamp,
}

impl Record for ServerGroup {
    const TABLE: Table = Table { name: "server_groups", columns: &["project_id", "user_id", "created_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.project_id.as_str().into(), self.user_id.as_str().into(), self.created_at.into()]
    }
}
