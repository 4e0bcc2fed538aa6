//! Backups: whole copies beside the volumes' directory.

use super::{Failed, report, volume_status};
use crate::State;
use crate::driver::Disk;
use crate::store::{Backup, Snapshot, Volume};
use caelum_base::Result;
use caelum_flow::{Cause, Failure, Flow, Step, StepCx};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(4 * 3_600);

fn settle(tx: &mut Tx<'_>, cx: &State, id: &str, status: &str, reason: Option<&str>) -> Result<()> {
    let Some(mut b) = tx.get::<Backup>(id)? else { return Ok(()) };
    if b.status != "deleting" || status.ends_with("deleting") {
        b.status = status.into();
    }
    b.fail_reason = reason.map(String::from);
    b.updated_at = Some(cx.env.now());
    tx.update(&mut b)
}

fn failed<'a>(project_id: &'a str, request_id: &'a str, id: &'a str, event: &'a str, doing: &'a str) -> Failed<'a> {
    Failed { project_id, request_id, resource_type: "VOLUME_BACKUP", resource_uuid: id, event, doing }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateBackup {
    pub backup_id: String,
    pub project_id: String,
    pub request_id: String,
    pub volume_id: String,
    pub snapshot_id: Option<String>,
    pub format: String,
    pub bytes: u64,
}

impl CreateBackup {
    /// The volume or snapshot goes back to what it was.
    fn release(&self, tx: &mut Tx<'_>) -> Result<()> {
        if let Some(id) = &self.snapshot_id {
            if let Some(mut s) = tx.get::<Snapshot>(id)?.filter(|s| s.status == "backing-up") {
                s.status = "available".into();
                tx.update(&mut s)?;
            }
        } else if let Some(mut v) = tx.get::<Volume>(&self.volume_id)?.filter(|v| v.status == "backing-up") {
            v.status = v.previous_status.take().unwrap_or_else(|| "available".into());
            tx.update(&mut v)?;
        }
        Ok(())
    }
}

impl Flow<State> for CreateBackup {
    const KIND: &'static str = "backup.create";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", make).undo(unmake).attempts(3)]
    }

    fn deadline(&self) -> Duration {
        LONGEST
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        self.release(tx)?;
        settle(tx, cx, &self.backup_id, "available", None)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        self.release(tx)?;
        if failure.cause != Cause::Cancelled {
            settle(tx, cx, &self.backup_id, "error", Some(&failure.error.message))?;
        }
        let f = failed(&self.project_id, &self.request_id, &self.backup_id, "VOLUME_VOLUME_BACKUP_013_001", "create backup");
        report(tx, cx, &f, failure)
    }
}

async fn make(cx: StepCx<State>, flow: CreateBackup) -> Result<CreateBackup> {
    let id = flow.snapshot_id.as_ref().unwrap_or(&flow.volume_id).clone();
    let disk = Disk { id, format: flow.format.clone(), bytes: flow.bytes };
    if flow.snapshot_id.is_some() {
        cx.driver.backup_of_snapshot(&disk, &flow.backup_id).await?;
    } else {
        cx.driver.backup(&disk, &flow.backup_id).await?;
    }
    Ok(flow)
}

async fn unmake(cx: StepCx<State>, flow: CreateBackup) -> Result<()> {
    cx.driver.delete_backup(&flow.backup_id).await
}

/// Puts a backup into an existing volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreBackup {
    pub backup_id: String,
    pub volume_id: String,
    pub project_id: String,
    pub request_id: String,
    pub from: String,
    pub to: String,
    pub from_bytes: u64,
    pub to_bytes: u64,
    /// The volume was made for this restore: its file is new.
    pub fresh: bool,
}

impl Flow<State> for RestoreBackup {
    const KIND: &'static str = "backup.restore";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", restore).undo(unrestore).attempts(3)]
    }

    fn deadline(&self) -> Duration {
        LONGEST
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        volume_status(tx, &self.volume_id, &["restoring-backup"], "available", cx.env.now())?;
        settle(tx, cx, &self.backup_id, "available", None)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        volume_status(tx, &self.volume_id, &["restoring-backup"], "error_restoring", cx.env.now())?;
        settle(tx, cx, &self.backup_id, "available", Some(&failure.error.message))?;
        let f = failed(&self.project_id, &self.request_id, &self.backup_id, "VOLUME_VOLUME_BACKUP_016_001", "restore backup");
        report(tx, cx, &f, failure)
    }
}

async fn restore(cx: StepCx<State>, flow: RestoreBackup) -> Result<RestoreBackup> {
    let backup = Disk { id: flow.backup_id.clone(), format: flow.from.clone(), bytes: flow.from_bytes };
    let volume = Disk { id: flow.volume_id.clone(), format: flow.to.clone(), bytes: flow.to_bytes };
    cx.driver.restore(&backup, &volume).await?;
    Ok(flow)
}

async fn unrestore(cx: StepCx<State>, flow: RestoreBackup) -> Result<()> {
    // An existing volume was replaced whole or not at all; a new one must not stay behind.
    if flow.fresh { cx.driver.delete(&flow.volume_id).await } else { Ok(()) }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteBackup {
    pub backup_id: String,
    pub project_id: String,
    pub request_id: String,
}

impl Flow<State> for DeleteBackup {
    const KIND: &'static str = "backup.delete";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("data", remove),
            Step::tx("record", |tx, _, flow: &mut DeleteBackup| tx.delete_id::<Backup>(&flow.backup_id).map(drop)),
        ]
    }

    fn deadline(&self) -> Duration {
        LONGEST
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        settle(tx, cx, &self.backup_id, "error_deleting", Some(&failure.error.message))?;
        let f = failed(&self.project_id, &self.request_id, &self.backup_id, "VOLUME_VOLUME_BACKUP_014_001", "delete backup");
        report(tx, cx, &f, failure)
    }
}

async fn remove(cx: StepCx<State>, flow: DeleteBackup) -> Result<DeleteBackup> {
    cx.driver.delete_backup(&flow.backup_id).await?;
    Ok(flow)
}
