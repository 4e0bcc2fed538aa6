//! Deleting a volume, with its snapshots when asked. Waits for whatever runs on the volume.

use super::{Failed, report, volume_status};
use crate::State;
use crate::store::{Attachment, Snapshot, Transfer, Volume};
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::{Query, Tx};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteVolume {
    pub volume_id: String,
    pub project_id: String,
    pub request_id: String,
    /// Snapshots that go too.
    pub snapshots: Vec<String>,
}

impl Flow<State> for DeleteVolume {
    const KIND: &'static str = "volume.delete";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", remove_data), Step::tx("record", remove_rows)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        volume_status(tx, &self.volume_id, &["deleting"], "error_deleting", cx.env.now())?;
        for id in &self.snapshots {
            if let Some(mut s) = tx.get::<Snapshot>(id)? {
                s.status = "error_deleting".into();
                tx.update(&mut s)?;
            }
        }
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME",
            resource_uuid: &self.volume_id,
            event: "VOLUME_VOLUME_010_001",
            doing: "delete volume",
        };
        report(tx, cx, &failed, failure)
    }
}

async fn remove_data(cx: StepCx<State>, flow: DeleteVolume) -> Result<DeleteVolume> {
    for id in &flow.snapshots {
        cx.driver.delete_snapshot(id).await?;
    }
    cx.driver.delete(&flow.volume_id).await?;
    Ok(flow)
}

fn remove_rows(tx: &mut Tx<'_>, _: &StepCx<State>, flow: &mut DeleteVolume) -> Result<()> {
    for id in &flow.snapshots {
        tx.delete_id::<Snapshot>(id)?;
    }
    let of_volume = Query::new().eq("volume_id", flow.volume_id.as_str());
    tx.delete_where::<Attachment>(&of_volume)?;
    tx.delete_where::<Transfer>(&of_volume)?;
    tx.delete_id::<Volume>(&flow.volume_id).map(drop)
}
