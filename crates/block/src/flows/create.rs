//! Making a volume: blank, from an image, a snapshot, another volume or a backup.

use super::{Failed, report};
use crate::State;
use crate::driver::{Disk, Expected};
use crate::logic::images;
use crate::store::{Metadata, Volume};
use caelum_base::{Error, Result, is_uuid};
use caelum_flow::{Cause, Failure, Flow, Step, StepCx};
use caelum_safeio::inspect::Format;
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a new volume holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    Blank,
    Image { image_id: String },
    Snapshot { id: String, format: String, bytes: u64 },
    Volume { id: String, format: String, bytes: u64 },
    Backup { id: String, format: String, bytes: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateVolume {
    pub volume_id: String,
    pub project_id: String,
    pub request_id: String,
    pub format: String,
    pub bytes: u64,
    pub source: Source,
    /// Longest the flow may take, in seconds.
    pub timeout_secs: u64,
    /// Why the backend cannot make a volume of this type, if it cannot.
    #[serde(default)]
    pub refusal: Option<String>,
    /// What the image said, once it was asked.
    #[serde(default)]
    pub image_metadata: Metadata,
}

impl CreateVolume {
    fn disk(&self) -> Disk {
        Disk { id: self.volume_id.clone(), format: self.format.clone(), bytes: self.bytes }
    }
}

impl Flow<State> for CreateVolume {
    const KIND: &'static str = "volume.create";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("data", make_data).undo(remove_data).attempts(5)]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let Some(mut v) = tx.get::<Volume>(&self.volume_id)? else { return Ok(()) };
        if matches!(self.source, Source::Image { .. }) {
            v.bootable = true;
            v.image_metadata.clone_from(&self.image_metadata);
        }
        if matches!(v.status.as_str(), "creating" | "downloading" | "restoring-backup") {
            v.status = "available".into();
        }
        v.updated_at = Some(cx.env.now());
        tx.update(&mut v)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        let Some(mut v) = tx.get::<Volume>(&self.volume_id)? else { return Ok(()) };
        if failure.cause != Cause::Cancelled && v.status != "deleting" {
            v.status = "error".into();
            v.updated_at = Some(cx.env.now());
            tx.update(&mut v)?;
        }
        let failed = Failed {
            project_id: &self.project_id,
            request_id: &self.request_id,
            resource_type: "VOLUME",
            resource_uuid: &self.volume_id,
            event: if matches!(self.source, Source::Image { .. }) { "VOLUME_VOLUME_005_001" } else { "VOLUME_VOLUME_001_001" },
            doing: if self.refusal.is_some() {
                "schedule allocate volume"
            } else if matches!(self.source, Source::Image { .. }) {
                "copy image to volume"
            } else {
                "create volume"
            },
        };
        report(tx, cx, &failed, failure)
    }
}

async fn make_data(cx: StepCx<State>, mut flow: CreateVolume) -> Result<CreateVolume> {
    if let Some(why) = &flow.refusal {
        return Err(Error::conflict(why.clone()));
    }
    let disk = flow.disk();
    match flow.source.clone() {
        Source::Blank => cx.driver.create_blank(&disk).await?,
        Source::Image { image_id } => {
            debug_assert!(is_uuid(&image_id));
            let image = images::show(&cx, &image_id).await?;
            let expected = Expected { format: image.format()?, size: image.size, sha512: image.sha512() };
            let bytes = images::download(&cx, &image_id).await?;
            cx.driver.create_from_image(&disk, &expected, bytes).await?;
            flow.image_metadata = image.for_volume();
        }
        Source::Snapshot { id, format, bytes } => cx.driver.create_from_snapshot(&Disk { id, format, bytes }, &disk).await?,
        Source::Volume { id, format, bytes } => cx.driver.clone_volume(&Disk { id, format, bytes }, &disk).await?,
        Source::Backup { id, format, bytes } => cx.driver.restore(&Disk { id, format, bytes }, &disk).await?,
    }
    Ok(flow)
}

async fn remove_data(cx: StepCx<State>, flow: CreateVolume) -> Result<()> {
    cx.driver.delete(&flow.volume_id).await
}

/// Formats a volume can be made from or uploaded as.
pub(crate) const FORMATS: [Format; 8] =
    [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Iso, Format::Ami];
