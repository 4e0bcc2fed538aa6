//! The `flows` table. The only place of this crate that speaks SQL.

use crate::{Cause, Failure};
use caelum_base::{Error, Result, Timestamp, WireError};
use caelum_store::{Row, Tx, Value, params};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The engine's table, for one of the service's migrations.
pub const MIGRATION_SQL: &str = "
CREATE TABLE flows (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    state_name TEXT NOT NULL,
    step BIGINT NOT NULL,
    owner TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    cancel BIGINT NOT NULL,
    error TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX flows_resource ON flows (resource_id);
CREATE INDEX flows_owner ON flows (owner);
CREATE INDEX flows_state ON flows (state_name, created_at);
";

const UNFINISHED: &str = "state_name IN ('running', 'unwinding')";

/// Code of the error that says that a fenced write changed no row.
pub(crate) const LOST: &str = "flow-lost";
/// Code of the error that says that a cancel came before the end.
pub(crate) const CANCELLED: &str = "flow-cancelled";

/// A flow as operators see it.
#[derive(Clone, Debug)]
pub struct FlowInfo {
    pub id: String,
    pub kind: String,
    pub resource_id: String,
    pub project_id: String,
    /// `running`, `unwinding` or `failed`; finished flows have no row.
    pub state: String,
    /// Running: index of the next step; unwinding: number of steps still to take back.
    pub step: usize,
    pub owner: String,
    pub created_at: Timestamp,
    pub deadline: Timestamp,
}

#[derive(Clone)]
pub(crate) struct FlowRow {
    pub info: FlowInfo,
    pub epoch: i64,
    pub cancel: bool,
    pub error: Option<String>,
    pub body: String,
}

/// The row's address with everything that must still hold for a write to count.
#[derive(Clone)]
pub(crate) struct Fence {
    pub id: String,
    pub owner: String,
    pub epoch: i64,
    pub state: &'static str,
    pub step: i64,
}

#[derive(Serialize, Deserialize)]
struct SavedFailure {
    cause: String,
    step: String,
    error: WireError,
}

pub(crate) fn failure_to_json(f: &Failure) -> String {
    let cause = match f.cause {
        Cause::Error => "error",
        Cause::Cancelled => "cancelled",
        Cause::Deadline => "deadline",
    };
    let saved = SavedFailure { cause: cause.into(), step: f.step.clone(), error: WireError::from(&f.error) };
    serde_json::to_string(&saved).unwrap_or_default()
}

pub(crate) fn failure_from_json(text: Option<&str>) -> Failure {
    match text.and_then(|t| serde_json::from_str::<SavedFailure>(t).ok()) {
        Some(s) => Failure {
            cause: match s.cause.as_str() {
                "cancelled" => Cause::Cancelled,
                "deadline" => Cause::Deadline,
                _ => Cause::Error,
            },
            step: s.step,
            error: s.error.into(),
        },
        None => Failure { cause: Cause::Error, step: String::new(), error: Error::internal("a failed flow without a readable error") },
    }
}

pub(crate) struct NewFlow<'a> {
    pub id: &'a str,
    pub kind: &'a str,
    pub resource_id: &'a str,
    pub project_id: &'a str,
    pub owner: &'a str,
    pub epoch: i64,
    pub lease_until: Timestamp,
    pub deadline: Timestamp,
    pub now: Timestamp,
    pub body: String,
}

pub(crate) fn insert(tx: &mut Tx<'_>, f: NewFlow<'_>) -> Result<()> {
    // Creation times order the flows of one resource, even when the clock stands still.
    let newest = tx.query_opt("SELECT MAX(created_at) AS t FROM flows WHERE resource_id = $1", params![f.resource_id])?;
    let newest = newest.map(|r| r.opt_int("t")).transpose()?.flatten().unwrap_or(i64::MIN);
    let created = if f.resource_id.is_empty() { f.now.0 } else { f.now.0.max(newest.saturating_add(1)) };
    tx.exec(
        "INSERT INTO flows (id, kind, resource_id, project_id, state_name, step, owner, epoch, lease_until, deadline, cancel, created_at, updated_at, generation, body) \
         VALUES ($1, $2, $3, $4, 'running', 0, $5, $6, $7, $8, 0, $9, $10, 1, $11)",
        params![f.id, f.kind, f.resource_id, f.project_id, f.owner, f.epoch, f.lease_until.0, f.deadline.0, created, f.now.0, f.body],
    )?;
    Ok(())
}

const COLUMNS: &str = "id, kind, resource_id, project_id, state_name, step, owner, epoch, deadline, cancel, error, created_at, body";

fn row(r: &Row) -> Result<FlowRow> {
    Ok(FlowRow {
        info: FlowInfo {
            id: r.text("id")?,
            kind: r.text("kind")?,
            resource_id: r.text("resource_id")?,
            project_id: r.text("project_id")?,
            state: r.text("state_name")?,
            step: usize::try_from(r.int("step")?).unwrap_or(0),
            owner: r.text("owner")?,
            created_at: r.time("created_at")?,
            deadline: r.time("deadline")?,
        },
        epoch: r.int("epoch")?,
        cancel: r.bool("cancel")?,
        error: r.opt_text("error")?,
        body: r.text("body")?,
    })
}

pub(crate) fn get(tx: &mut Tx<'_>, id: &str) -> Result<Option<FlowRow>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM flows WHERE id = $1"), params![id])?.map(|r| row(&r)).transpose()
}

/// All rows of a resource, oldest first.
pub(crate) fn of_resource(tx: &mut Tx<'_>, resource_id: &str) -> Result<Vec<FlowRow>> {
    let sql = format!("SELECT {COLUMNS} FROM flows WHERE resource_id = $1 ORDER BY created_at");
    tx.query(&sql, params![resource_id])?.iter().map(row).collect()
}

/// The unfinished flow of the resource that is to run first, other than `not`.
pub(crate) fn first_of_resource(tx: &mut Tx<'_>, resource_id: &str, not: &str) -> Result<Option<(String, i64)>> {
    let sql = format!("SELECT id, created_at FROM flows WHERE resource_id = $1 AND id <> $2 AND {UNFINISHED} ORDER BY created_at LIMIT 1");
    tx.query_opt(&sql, params![resource_id, not])?.map(|r| Ok((r.text("id")?, r.int("created_at")?))).transpose()
}

fn fenced(f: &Fence, changed: u64) -> Result<()> {
    if changed == 0 {
        return Err(Error::conflict(format!("Flow {} belongs to another owner.", f.id)).code(LOST));
    }
    Ok(())
}

/// Moves the row to a new position with a new body.
pub(crate) fn save(tx: &mut Tx<'_>, f: &Fence, now: Timestamp, state: &str, step: i64, error: Option<String>, body: String) -> Result<()> {
    let n = tx.exec(
        "UPDATE flows SET state_name = $1, step = $2, error = $3, body = $4, updated_at = $5, generation = generation + 1 \
         WHERE id = $6 AND owner = $7 AND epoch = $8 AND state_name = $9 AND step = $10",
        params![state, step, error, body, now.0, f.id.as_str(), f.owner.as_str(), f.epoch, f.state, f.step],
    )?;
    fenced(f, n)
}

/// Ends a flow that has done all its steps, unless a cancel came first.
pub(crate) fn finish(tx: &mut Tx<'_>, f: &Fence) -> Result<()> {
    let n = tx.exec(
        "DELETE FROM flows WHERE id = $1 AND owner = $2 AND epoch = $3 AND state_name = $4 AND step = $5 AND cancel = 0",
        params![f.id.as_str(), f.owner.as_str(), f.epoch, f.state, f.step],
    )?;
    if n == 0 {
        let cancelled = get(tx, &f.id)?.is_some_and(|r| r.cancel && r.epoch == f.epoch && r.info.owner == f.owner);
        if cancelled {
            return Err(Error::conflict("The operation was cancelled.").code(CANCELLED));
        }
    }
    fenced(f, n)
}

/// Sets the cancel mark on the running flows of these kinds; returns their ids.
pub(crate) fn cancel(tx: &mut Tx<'_>, resource_id: &str, cancellable: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let rows =
        tx.query("SELECT id, kind FROM flows WHERE resource_id = $1 AND state_name = 'running' AND cancel = 0", params![resource_id])?;
    let mut out = Vec::new();
    for r in rows {
        if cancellable(&r.text("kind")?) {
            let id = r.text("id")?;
            tx.exec("UPDATE flows SET cancel = 1 WHERE id = $1", params![id.as_str()])?;
            out.push(id);
        }
    }
    Ok(out)
}

/// Takes over flows whose lease ran out and, on the start of an engine, those its predecessor of
/// the same name left.
pub(crate) fn claim(tx: &mut Tx<'_>, owner: &str, start: bool, now: Timestamp, lease: Duration) -> Result<u64> {
    let own = if start { " OR owner = $1" } else { "" };
    tx.exec(
        &format!("UPDATE flows SET owner = $1, epoch = epoch + 1, lease_until = $2 WHERE {UNFINISHED} AND (lease_until < $3{own})"),
        params![owner, now.plus(lease).0, now.0],
    )
}

pub(crate) fn expired(tx: &mut Tx<'_>, now: Timestamp) -> Result<i64> {
    let sql = format!("SELECT COUNT(*) AS n FROM flows WHERE {UNFINISHED} AND lease_until < $1");
    tx.query_opt(&sql, params![now.0])?.map_or(Ok(0), |r| r.int("n"))
}

pub(crate) fn renew(tx: &mut Tx<'_>, owner: &str, until: Timestamp) -> Result<u64> {
    tx.exec(&format!("UPDATE flows SET lease_until = $1 WHERE owner = $2 AND {UNFINISHED}"), params![until.0, owner])
}

/// Gives all flows back; anybody may claim them at once.
pub(crate) fn release(tx: &mut Tx<'_>, owner: &str) -> Result<u64> {
    tx.exec(&format!("UPDATE flows SET owner = '', lease_until = 0 WHERE owner = $1 AND {UNFINISHED}"), params![owner])
}

pub(crate) struct Owned {
    pub id: String,
    pub epoch: i64,
    pub cancel: bool,
    pub lease_until: Timestamp,
}

/// The unfinished flows of an owner, oldest first.
pub(crate) fn owned(tx: &mut Tx<'_>, owner: &str) -> Result<Vec<Owned>> {
    let sql = format!("SELECT id, epoch, cancel, lease_until FROM flows WHERE owner = $1 AND {UNFINISHED} ORDER BY created_at");
    let rows = tx.query(&sql, params![owner])?;
    rows.iter()
        .map(|r| Ok(Owned { id: r.text("id")?, epoch: r.int("epoch")?, cancel: r.bool("cancel")?, lease_until: r.time("lease_until")? }))
        .collect()
}

/// Unfinished flows whose deadline passed before `then`, oldest first: their undos do not succeed.
pub(crate) fn overdue(tx: &mut Tx<'_>, then: Timestamp) -> Result<Vec<FlowRow>> {
    let sql = format!("SELECT {COLUMNS} FROM flows WHERE {UNFINISHED} AND deadline < $1 ORDER BY created_at");
    tx.query(&sql, params![then.0])?.iter().map(row).collect()
}

pub(crate) fn unfinished(tx: &mut Tx<'_>) -> Result<i64> {
    tx.query_opt(&format!("SELECT COUNT(*) AS n FROM flows WHERE {UNFINISHED}"), &[])?.map_or(Ok(0), |r| r.int("n"))
}

/// Creation time of the oldest failed flow worth keeping, when there are more than `keep`.
pub(crate) fn prune_before(tx: &mut Tx<'_>, keep: i64) -> Result<Option<i64>> {
    let sql = "SELECT created_at FROM flows WHERE state_name = 'failed' ORDER BY created_at DESC LIMIT 1 OFFSET $1";
    tx.query_opt(sql, &[Value::Int(keep)])?.map(|r| r.int("created_at")).transpose()
}

pub(crate) fn prune(tx: &mut Tx<'_>, before: i64) -> Result<u64> {
    tx.exec("DELETE FROM flows WHERE state_name = 'failed' AND created_at <= $1", params![before])
}
