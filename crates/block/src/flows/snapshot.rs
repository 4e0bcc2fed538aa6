//! Snapshots: making, deleting, and putting one back into its volume.

use super::{Failed, report, volume_status};
use crate::State;
use crate::driver::Disk;
use crate::store::{GroupSnapshot, Snapshot};
use caelum_base::Result;
use caelum_flow::{Cause, Failure, Flow, Step, StepCx};
use caelum_store::{Query, Tx};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateSnapshot {
    pub snapshot_id: String,
    pub project_id: String,
    pub request_id: String,
    pub volume_id: String,
    pub format: String,
    pub bytes: u64,
    pub group_snapshot_id: Option<String>,
}

impl Flow<State> for CreateSnapshot {
    const KIND: &'static str = "snapshot.create";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", make).undo(unmake).attempts(3)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let Some(mut s) = tx.get::<Snapshot>(&self.snapshot_id)? else { return Ok(()) };
        if s.status == "creating" {
            s.status = "available".into();
        }
        s.progress = "100%".into();
        s.updated_at = Some(cx.env.now());
        tx.update(&mut s)?;
        group_settled(tx, self.group_snapshot_id.as_deref())
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        let Some(mut s) = tx.get::<Snapshot>(&self.snapshot_id)? else { return Ok(()) };
        if failure.cause != Cause::Cancelled && s.status != "deleting" {
            s.status = "error".into();
            s.updated_at = Some(cx.env.now());
            tx.update(&mut s)?;
        }
        group_settled(tx, self.group_snapshot_id.as_deref())?;
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME_SNAPSHOT",
            resource_uuid: &self.snapshot_id,
            event: "VOLUME_VOLUME_SNAPSHOT_009_001",
            doing: "create snapshot",
        };
        report(tx, cx, &failed, failure)
    }
}

/// A group snapshot is available once all its snapshots are.
fn group_settled(tx: &mut Tx<'_>, id: Option<&str>) -> Result<()> {
    let Some(mut g) = id.map(|id| tx.get::<GroupSnapshot>(id)).transpose()?.flatten() else { return Ok(()) };
    let members = tx.list::<Snapshot>(&Query::new().eq("group_snapshot_id", g.id.as_str()))?;
    if g.status != "creating" || members.iter().any(|s| s.status == "creating") {
        return Ok(());
    }
    g.status = if members.iter().all(|s| s.status == "available") { "available" } else { "error" }.into();
    tx.update(&mut g)
}

async fn make(cx: StepCx<State>, flow: CreateSnapshot) -> Result<CreateSnapshot> {
    let volume = Disk { id: flow.volume_id.clone(), format: flow.format.clone(), bytes: flow.bytes };
    cx.driver.snapshot(&volume, &flow.snapshot_id).await?;
    Ok(flow)
}

async fn unmake(cx: StepCx<State>, flow: CreateSnapshot) -> Result<()> {
    cx.driver.delete_snapshot(&flow.snapshot_id).await
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteSnapshot {
    pub snapshot_id: String,
    pub project_id: String,
    pub request_id: String,
    pub group_snapshot_id: Option<String>,
}

impl Flow<State> for DeleteSnapshot {
    const KIND: &'static str = "snapshot.delete";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", remove), Step::tx("record", remove_row)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        if let Some(mut s) = tx.get::<Snapshot>(&self.snapshot_id)? {
            s.status = "error_deleting".into();
            tx.update(&mut s)?;
        }
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME_SNAPSHOT",
            resource_uuid: &self.snapshot_id,
            event: "VOLUME_VOLUME_SNAPSHOT_011_001",
            doing: "delete snapshot",
        };
        report(tx, cx, &failed, failure)
    }
}

async fn remove(cx: StepCx<State>, flow: DeleteSnapshot) -> Result<DeleteSnapshot> {
    cx.driver.delete_snapshot(&flow.snapshot_id).await?;
    Ok(flow)
}

fn remove_row(tx: &mut Tx<'_>, _: &StepCx<State>, flow: &mut DeleteSnapshot) -> Result<()> {
    tx.delete_id::<Snapshot>(&flow.snapshot_id)?;
    if let Some(group) = &flow.group_snapshot_id
        && tx.count::<Snapshot>(&Query::new().eq("group_snapshot_id", group.as_str()))? == 0
    {
        tx.delete_id::<GroupSnapshot>(group)?;
    }
    Ok(())
}

/// The volume goes back to what it was at its latest snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevertVolume {
    pub volume_id: String,
    pub snapshot_id: String,
    pub project_id: String,
    pub request_id: String,
    pub format: String,
    pub bytes: u64,
}

impl Flow<State> for RevertVolume {
    const KIND: &'static str = "volume.revert";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", revert).attempts(3)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        self.settle(tx, cx, "available")
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        self.settle(tx, cx, "error")?;
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME",
            resource_uuid: &self.volume_id,
            event: "VOLUME_VOLUME_014_001",
            doing: "revert volume to snapshot",
        };
        report(tx, cx, &failed, failure)
    }
}

impl RevertVolume {
    fn settle(&self, tx: &mut Tx<'_>, cx: &State, status: &str) -> Result<()> {
        volume_status(tx, &self.volume_id, &["reverting"], status, cx.env.now())?;
        let Some(mut s) = tx.get::<Snapshot>(&self.snapshot_id)? else { return Ok(()) };
        s.status = "available".into();
        tx.update(&mut s)
    }
}

async fn revert(cx: StepCx<State>, flow: RevertVolume) -> Result<RevertVolume> {
    let disk = |id: &str| Disk { id: id.to_string(), format: flow.format.clone(), bytes: flow.bytes };
    cx.driver.revert(&disk(&flow.snapshot_id), &disk(&flow.volume_id)).await?;
    Ok(flow)
}
