//! Attaching and detaching volumes of a built server. The row carries the volume from the API call
//! on; a failed attach takes it out again.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::volumes;
use crate::store::servers::{self, Server, ServerVolume};
use caelum_base::{Error, Result};
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachVolume {
    pub server_id: String,
    pub action_id: String,
    pub volume: ServerVolume,
}

impl Flow<State> for AttachVolume {
    const KIND: &'static str = "server.attach_volume";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("attachment", connect).undo(disconnect), Step::new("guest", plug).undo(unplug).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            if let Some(v) = s.volumes.iter_mut().find(|v| v.bdm_id == self.volume.bdm_id) {
                v.clone_from(&self.volume);
            }
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)?;
        forget(tx, &self.server_id, &self.volume.bdm_id)
    }
}

fn forget(tx: &mut Tx<'_>, server_id: &str, bdm_id: &str) -> Result<()> {
    let Some(mut s) = tx.get::<Server>(server_id)? else { return Ok(()) };
    s.volumes.retain(|v| v.bdm_id != bdm_id);
    servers::write_refs(tx, &s)?;
    tx.update(&mut s)
}

async fn connect(cx: StepCx<State>, mut flow: AttachVolume) -> Result<AttachVolume> {
    let s = row(&cx, &flow.server_id).await?;
    let host = s.host.clone().unwrap_or_default();
    volumes::attach(&cx, &s.id, &host, &mut flow.volume).await?;
    Ok(flow)
}

async fn disconnect(cx: StepCx<State>, flow: AttachVolume) -> Result<()> {
    volumes::detach_volume_of(&cx, &flow.server_id, &flow.volume.volume_id).await
}

async fn plug(cx: StepCx<State>, mut flow: AttachVolume) -> Result<AttachVolume> {
    let s = row(&cx, &flow.server_id).await?;
    if let Some(host) = &s.host {
        let name = cx.hosts.get(host)?.attach_volume(&s.id, &volumes::disk(&flow.volume)).await?;
        flow.volume.device = Some(format!("/dev/{}", name.trim_start_matches("/dev/")));
    }
    let id = flow.volume.attachment_id.clone().ok_or_else(|| Error::internal("an attached volume has no attachment"))?;
    volumes::complete(&cx, &id).await?;
    Ok(flow)
}

async fn unplug(cx: StepCx<State>, flow: AttachVolume) -> Result<()> {
    let Some(s) = cx.db().get::<Server>(&flow.server_id).await? else { return Ok(()) };
    let Some(host) = &s.host else { return Ok(()) };
    match cx.hosts.get(host)?.detach_volume(&s.id, &flow.volume.volume_id).await {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachVolume {
    pub server_id: String,
    pub action_id: String,
    pub volume: ServerVolume,
}

impl Flow<State> for DetachVolume {
    const KIND: &'static str = "server.detach_volume";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("guest", take_out).unsaved(), Step::new("attachment", release).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |_| {})?;
        forget(tx, &self.server_id, &self.volume.bdm_id)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn take_out(cx: StepCx<State>, flow: DetachVolume) -> Result<DetachVolume> {
    let s = row(&cx, &flow.server_id).await?;
    let Some(host) = &s.host else { return Ok(flow) };
    match cx.hosts.get(host)?.detach_volume(&s.id, &flow.volume.volume_id).await {
        Err(e) if e.is_not_found() => Ok(flow),
        other => other.map(|()| flow),
    }
}

async fn release(cx: StepCx<State>, flow: DetachVolume) -> Result<DetachVolume> {
    match &flow.volume.attachment_id {
        Some(id) => volumes::detach(&cx, id).await?,
        None => volumes::detach_volume_of(&cx, &flow.server_id, &flow.volume.volume_id).await?,
    }
    Ok(flow)
}
