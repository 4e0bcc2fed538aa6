//! Growing a volume. A volume in use is grown below its guest, then the guest is told.

use super::{Failed, report, volume_status};
use crate::State;
use crate::driver::Disk;
use crate::store::Volume;
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExtendVolume {
    pub volume_id: String,
    pub project_id: String,
    pub request_id: String,
    pub format: String,
    pub new_size: i64,
    /// Servers that have the volume.
    pub servers: Vec<String>,
}

impl Flow<State> for ExtendVolume {
    const KIND: &'static str = "volume.extend";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", grow), Step::tx("record", record), Step::new("notify", notify)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        volume_status(tx, &self.volume_id, &["extending"], "error_extending", cx.env.now())?;
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME",
            resource_uuid: &self.volume_id,
            event: "VOLUME_VOLUME_007_001",
            doing: "extend volume",
        };
        report(tx, cx, &failed, failure)
    }
}

async fn grow(cx: StepCx<State>, flow: ExtendVolume) -> Result<ExtendVolume> {
    // The process of a running guest owns a qcow2 file's tables; it grows the file itself when told.
    if flow.servers.is_empty() || flow.format == "raw" {
        let bytes = u64::try_from(flow.new_size).unwrap_or(0) << 30;
        cx.driver.extend(&Disk { id: flow.volume_id.clone(), format: flow.format.clone(), bytes }).await?;
    }
    Ok(flow)
}

fn record(tx: &mut Tx<'_>, cx: &StepCx<State>, flow: &mut ExtendVolume) -> Result<()> {
    let Some(mut v) = tx.get::<Volume>(&flow.volume_id)? else { return Ok(()) };
    v.size = flow.new_size;
    v.pending_size = None;
    if v.status == "extending" {
        v.status = v.previous_status.take().unwrap_or_else(|| "available".into());
    }
    v.updated_at = Some(cx.env().now());
    tx.update(&mut v)
}

async fn notify(cx: StepCx<State>, flow: ExtendVolume) -> Result<ExtendVolume> {
    let Some(compute) = cx.compute.as_ref().filter(|_| !flow.servers.is_empty()) else { return Ok(flow) };
    let events: Vec<_> = flow.servers.iter().map(|s| json!({"name": "volume-extended", "server_uuid": s, "tag": flow.volume_id})).collect();
    let call = compute.post("/v2.1/os-server-external-events").header("openstack-api-version", "compute 2.51");
    // The volume is larger either way; a guest that was not told sees it at its next start.
    if let Err(e) = call.json(&json!({"events": events})).done().await {
        tracing::warn!(volume = flow.volume_id, error = e.chain(), "could not tell compute that a volume grew");
    }
    Ok(flow)
}
