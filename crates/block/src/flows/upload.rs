//! Copying a volume into an image that the user's request made.

use super::{Failed, report};
use crate::State;
use crate::driver::Disk;
use crate::logic::images;
use crate::store::Volume;
use caelum_base::{Error, ErrorKind, Result};
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_safeio::inspect::Format;
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadVolume {
    pub volume_id: String,
    pub project_id: String,
    pub request_id: String,
    pub image_id: String,
    pub format: String,
    pub bytes: u64,
    pub disk_format: String,
    pub timeout_secs: u64,
}

impl Flow<State> for UploadVolume {
    const KIND: &'static str = "volume.upload";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("upload", upload).undo(take_back).attempts(3)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        settle(tx, cx, &self.volume_id)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        settle(tx, cx, &self.volume_id)?;
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME",
            resource_uuid: &self.volume_id,
            event: "VOLUME_VOLUME_004_001",
            doing: "copy volume to image",
        };
        report(tx, cx, &failed, failure)
    }
}

/// Back to the status before the upload.
fn settle(tx: &mut Tx<'_>, cx: &State, volume_id: &str) -> Result<()> {
    let Some(mut v) = tx.get::<Volume>(volume_id)? else { return Ok(()) };
    if v.status == "uploading" {
        v.status = v.previous_status.take().unwrap_or_else(|| "available".into());
        v.updated_at = Some(cx.env.now());
        tx.update(&mut v)?;
    }
    Ok(())
}

async fn upload(cx: StepCx<State>, flow: UploadVolume) -> Result<UploadVolume> {
    let image = images::show(&cx, &flow.image_id).await?;
    if image.status == "active" {
        return Ok(flow);
    }
    let wanted = Format::parse(&flow.disk_format).ok_or_else(|| Error::invalid("The image's disk format is unknown."))?;
    let disk = Disk { id: flow.volume_id.clone(), format: flow.format.clone(), bytes: flow.bytes };
    let path = cx.driver.export(&disk, wanted).await?;
    let sent = images::upload(&cx, &flow.image_id, path).await;
    cx.driver.drop_export(&flow.volume_id).await?;
    match sent {
        Ok(()) => Ok(flow),
        Err(e) => {
            // A refusal must leave nothing: the flow undoes only what is uncertain.
            if !matches!(e.kind, ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Internal) {
                images::delete_unfinished(&cx, &flow.image_id).await?;
            }
            Err(e)
        }
    }
}

async fn take_back(cx: StepCx<State>, flow: UploadVolume) -> Result<()> {
    cx.driver.drop_export(&flow.volume_id).await?;
    images::delete_unfinished(&cx, &flow.image_id).await
}
