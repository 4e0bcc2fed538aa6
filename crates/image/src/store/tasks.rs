use caelum_base::{Result, Timestamp};
use caelum_store::{Filter, Query, Record, Table, Tx, Value};
use serde::{Deserialize, Serialize};

/// An import that was accepted. Unfinished ones are taken up again when the service starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    /// `api_image_import`, or `import` for the administrators' task API.
    pub kind: String,
    /// `pending`, `processing`, `success` or `failure`.
    pub status: String,
    pub owner: Option<String>,
    pub user_id: String,
    pub request_id: String,
    pub image_id: Option<String>,
    pub input: serde_json::Value,
    pub result: Option<serde_json::Value>,
    pub message: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When a finished task is forgotten.
    pub expires_at: Option<Timestamp>,
}

impl Task {
    pub fn finished(&self) -> bool {
        matches!(self.status.as_str(), "success" | "failure")
    }
}

impl Record for Task {
    const TABLE: Table =
        Table { name: "tasks", columns: &["image_id", "owner", "type", "status", "created_at", "updated_at", "expires_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.image_id.as_deref().unwrap_or("").into(),
            self.owner.as_deref().unwrap_or("").into(),
            self.kind.as_str().into(),
            self.status.as_str().into(),
            self.created_at.into(),
            self.updated_at.into(),
            self.expires_at.unwrap_or(Timestamp(i64::MAX)).into(),
        ]
    }
}

/// Forgets finished tasks whose time has passed.
pub fn tasks_expire(tx: &mut Tx<'_>, now: Timestamp) -> Result<u64> {
    tx.delete_where::<Task>(&Query::new().filter(Filter::Lt("expires_at", now.into())))
}
