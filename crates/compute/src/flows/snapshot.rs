//! Making an image of a server's root disk. The image record is made before the flow, as the user.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::{images, ops};
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub server_id: String,
    pub action_id: String,
    pub image_id: String,
}

impl Flow<State> for Snapshot {
    const KIND: &'static str = "server.snapshot";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("upload", upload).undo(remove).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |_| {})
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn upload(cx: StepCx<State>, flow: Snapshot) -> Result<Snapshot> {
    let s = row(&cx, &flow.server_id).await?;
    // A repeat after a crash finds the data there already.
    if images::image_status(&cx, &flow.image_id).await? == "active" {
        return Ok(flow);
    }
    let file = cx.hosts.get(&ops::host(&s)?)?.snapshot_root(&s.id).await?;
    let result = images::image_upload(&cx, &flow.image_id, &file).await;
    if let Err(e) = tokio::fs::remove_file(&file).await {
        tracing::warn!(error = %e, "compute: a snapshot's temporary file stays");
    }
    result.map(|()| flow)
}

async fn remove(cx: StepCx<State>, flow: Snapshot) -> Result<()> {
    images::image_delete(&cx, &flow.image_id).await
}
