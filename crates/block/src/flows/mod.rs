//! Durable operations on volumes, snapshots and backups. What a flow failed with becomes a status
//! and a message to the project's users.

pub mod backup;
pub mod create;
pub mod delete;
pub mod extend;
pub mod snapshot;
pub mod upload;

#[cfg(test)]
mod tests;

use crate::State;
use crate::store::rows::{self, Notice};
use caelum_base::{Result, Timestamp};
use caelum_flow::{Cause, Failure, Flows};
use caelum_store::Tx;

/// Every kind of flow, known to the engine.
pub fn register(flows: Flows<State>) -> Flows<State> {
    flows
        .register::<create::CreateVolume>()
        .register::<delete::DeleteVolume>()
        .register::<extend::ExtendVolume>()
        .register::<snapshot::CreateSnapshot>()
        .register::<snapshot::DeleteSnapshot>()
        .register::<snapshot::RevertVolume>()
        .register::<upload::UploadVolume>()
        .register::<backup::CreateBackup>()
        .register::<backup::RestoreBackup>()
        .register::<backup::DeleteBackup>()
}

/// What failed, for the users' message.
pub(crate) struct Failed<'a> {
    pub project_id: &'a str,
    pub request_id: &'a str,
    pub resource_type: &'a str,
    pub resource_uuid: &'a str,
    pub event: &'a str,
    /// What was being done: `create volume`.
    pub doing: &'a str,
}

/// Leaves a message unless the users cancelled the operation themselves.
pub(crate) fn report(tx: &mut Tx<'_>, cx: &State, f: &Failed<'_>, failure: &Failure) -> Result<()> {
    if failure.cause == Cause::Cancelled {
        return Ok(());
    }
    tracing::warn!(resource = f.resource_uuid, step = failure.step, error = failure.error.chain(), "could not {}", f.doing);
    let text = format!("{}: {}", f.doing, failure.error.message);
    rows::tell(
        tx,
        &cx.env,
        &Notice {
            project_id: f.project_id,
            request_id: f.request_id,
            resource_type: f.resource_type,
            resource_uuid: f.resource_uuid,
            event: f.event,
            text: &text,
        },
    )
}

/// Sets a volume's status if the row is still there and in one of `from`.
pub(crate) fn volume_status(tx: &mut Tx<'_>, id: &str, from: &[&str], to: &str, now: Timestamp) -> Result<()> {
    let Some(mut v) = tx.get::<crate::store::Volume>(id)? else { return Ok(()) };
    if !from.contains(&v.status.as_str()) {
        return Ok(());
    }
    v.status = to.to_string();
    v.previous_status = None;
    v.pending_size = None;
    v.updated_at = Some(now);
    tx.update(&mut v)
}
