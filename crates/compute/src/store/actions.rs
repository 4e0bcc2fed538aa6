//! What happened to servers: a bounded history, kept after the server went.

use caelum_base::{Result, Timestamp};
use caelum_store::{Dir, Query, Record, Stored, Table, Tx, Value, params};
use serde::{Deserialize, Serialize};

/// Actions kept in the whole cloud.
const KEEP: i64 = 100_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceAction {
    pub id: String,
    pub server_id: String,
    pub project_id: String,
    pub user_id: String,
    pub request_id: String,
    /// `create`, `reboot`, …
    pub action: String,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
    /// `Error` when it failed.
    pub message: Option<String>,
    pub events: Vec<ActionEvent>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionEvent {
    /// `compute__do_build_and_run_instance`, …
    pub event: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// `Success` or `Error`.
    pub result: Option<String>,
    /// Reason a user may read (2.84).
    pub details: Option<String>,
    pub host: Option<String>,
}

impl Record for InstanceAction {
    const TABLE: Table =
        Table { name: "instance_actions", columns: &["server_id", "project_id", "request_id", "started_at", "updated_at"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.server_id.as_str().into(),
            self.project_id.as_str().into(),
            self.request_id.as_str().into(),
            self.started_at.into(),
            self.updated_at.into(),
        ]
    }
}

/// A server's actions, newest first.
pub fn of_server(tx: &mut Tx<'_>, server_id: &str) -> Result<Vec<Stored<InstanceAction>>> {
    tx.list(&Query::new().eq("server_id", server_id).sort("started_at", Dir::Desc))
}

/// Ends the only event of an action: `problem` is what a user may read about a failure.
pub fn finish(tx: &mut Tx<'_>, id: &str, now: Timestamp, host: Option<&str>, problem: Option<&str>) -> Result<()> {
    let Some(mut action) = tx.get::<InstanceAction>(id)? else { return Ok(()) };
    action.updated_at = now;
    action.message = problem.map(|_| "Error".to_string());
    if let Some(e) = action.events.last_mut() {
        e.finished_at = Some(now);
        e.result = Some(if problem.is_some() { "Error" } else { "Success" }.to_string());
        e.details = problem.map(String::from);
        e.host = host.map(String::from);
    }
    tx.update(&mut action)
}

/// Drops the oldest actions beyond the bound; returns how many.
pub fn prune(tx: &mut Tx<'_>) -> Result<u64> {
    let sql = "SELECT started_at FROM instance_actions ORDER BY started_at DESC LIMIT 1 OFFSET $1";
    let Some(row) = tx.query_opt(sql, &[Value::Int(KEEP)])? else { return Ok(0) };
    tx.exec("DELETE FROM instance_actions WHERE started_at <= $1", params![row.int("started_at")?])
}
