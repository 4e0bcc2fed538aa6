//! Shelving keeps a server's disk as an image and gives its host's resources back; unshelving
//! builds it again from that image, wherever there is room.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::scheduler::{self, Claim, Request};
use crate::logic::{guest, images, network, ops, volumes};
use crate::store::servers::{self, ImageFacts, Server, ServerPort, ServerVolume, VmState};
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_hypervisor::{PowerAction, PowerState};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shelve {
    pub server_id: String,
    pub action_id: String,
    /// The image record to fill; none for a server that boots from a volume.
    pub image_id: Option<String>,
    pub old_state: VmState,
    pub grace_s: u64,
}

impl Flow<State> for Shelve {
    const KIND: &'static str = "server.shelve";

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("stop", stop).undo(start_again).unsaved(),
            Step::new("image", save_disk).undo(drop_image),
            Step::new("offload", offload).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            s.state = VmState::ShelvedOffloaded;
            s.power = PowerState::Shutdown;
            s.shelved_image.clone_from(&self.image_id);
            s.host = None;
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn stop(cx: StepCx<State>, flow: Shelve) -> Result<Shelve> {
    let s = row(&cx, &flow.server_id).await?;
    let grace = Duration::from_secs(flow.grace_s);
    cx.hosts.get(&ops::host(&s)?)?.power(&s.id, PowerAction::Stop { grace }).await?;
    Ok(flow)
}

async fn start_again(cx: StepCx<State>, flow: Shelve) -> Result<()> {
    let Some(s) = cx.db().get::<Server>(&flow.server_id).await? else { return Ok(()) };
    let (Some(host), VmState::Active) = (&s.host, flow.old_state) else { return Ok(()) };
    match cx.hosts.get(host)?.power(&s.id, PowerAction::Start).await {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

async fn save_disk(cx: StepCx<State>, flow: Shelve) -> Result<Shelve> {
    let Some(image_id) = &flow.image_id else { return Ok(flow) };
    let s = row(&cx, &flow.server_id).await?;
    if images::image_status(&cx, image_id).await? == "active" {
        return Ok(flow);
    }
    let file = cx.hosts.get(&ops::host(&s)?)?.snapshot_root(&s.id).await?;
    let result = images::image_upload(&cx, image_id, &file).await;
    if let Err(e) = tokio::fs::remove_file(&file).await {
        tracing::warn!(error = %e, "compute: a snapshot's temporary file stays");
    }
    result.map(|()| flow)
}

async fn drop_image(cx: StepCx<State>, flow: Shelve) -> Result<()> {
    match &flow.image_id {
        Some(id) => images::image_delete(&cx, id).await,
        None => Ok(()),
    }
}

async fn offload(cx: StepCx<State>, flow: Shelve) -> Result<Shelve> {
    let s = row(&cx, &flow.server_id).await?;
    if let Some(host) = &s.host {
        cx.hosts.get(host)?.destroy(&s.id).await?;
    }
    for p in &s.ports {
        network::port_rehost(&cx, &p.port_id, "").await?;
    }
    scheduler::release(&cx, &s.id).await?;
    Ok(flow)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unshelve {
    pub server_id: String,
    pub action_id: String,
    /// Facts of the shelved image, if there is one.
    pub image: Option<ImageFacts>,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub ports: Vec<ServerPort>,
    #[serde(default)]
    pub volumes: Vec<ServerVolume>,
}

impl Flow<State> for Unshelve {
    const KIND: &'static str = "server.unshelve";

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("place", place).undo(unplace),
            Step::new("ports", bind).undo(unbind).unsaved(),
            Step::new("volumes", connect).unsaved(),
            Step::tx("record", record).undo_tx(unrecord),
            Step::new("spawn", spawn).undo(unspawn).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let now = cx.env.now();
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            s.state = VmState::Active;
            s.power = PowerState::Running;
            s.launched_at = Some(now);
            s.shelved_image = None;
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn place(cx: StepCx<State>, mut flow: Unshelve) -> Result<Unshelve> {
    let s = row(&cx, &flow.server_id).await?;
    let req = Request::of(&s);
    let booked = scheduler::booked(&cx, &s.id).await?;
    let left = cx.host_views().into_iter().find(|v| booked.contains_key(&v.provider_id));
    if let Some(v) = left {
        let host = v.name.clone();
        flow.zone = cx.db().read(move |tx| scheduler::zone(tx, &host)).await?;
        flow.host = v.name;
        return Ok(flow);
    }
    for c in scheduler::choose(&cx, &req).await? {
        if scheduler::claim(&cx, &req, &c.provider_id).await? == Claim::Done {
            (flow.host, flow.zone) = (c.host, c.zone);
            return Ok(flow);
        }
    }
    Err(scheduler::no_valid_host())
}

async fn unplace(cx: StepCx<State>, flow: Unshelve) -> Result<()> {
    scheduler::release(&cx, &flow.server_id).await
}

async fn bind(cx: StepCx<State>, mut flow: Unshelve) -> Result<Unshelve> {
    let s = row(&cx, &flow.server_id).await?;
    let mut ports = Vec::with_capacity(s.ports.len());
    for p in &s.ports {
        let port = network::port_bind(&cx, &p.port_id, &s.id, &flow.zone, &flow.host).await?;
        ports.push(network::remember(&cx, &port, p.ours, p.tag.clone()).await?);
    }
    let waiting: Vec<String> = ports.iter().filter(|p| !p.active).map(|p| p.port_id.clone()).collect();
    guest::wait_plugged(&cx, &s.id, &waiting).await?;
    flow.ports = ports;
    Ok(flow)
}

async fn unbind(cx: StepCx<State>, flow: Unshelve) -> Result<()> {
    let Some(s) = cx.db().get::<Server>(&flow.server_id).await? else { return Ok(()) };
    for p in &s.ports {
        network::port_rehost(&cx, &p.port_id, "").await?;
    }
    Ok(())
}

async fn connect(cx: StepCx<State>, mut flow: Unshelve) -> Result<Unshelve> {
    let s = row(&cx, &flow.server_id).await?;
    flow.volumes.clone_from(&s.volumes);
    for v in flow.volumes.iter_mut().filter(|v| !v.volume_id.is_empty()) {
        volumes::attach(&cx, &s.id, &flow.host, v).await?;
    }
    Ok(flow)
}

fn record(tx: &mut Tx<'_>, _cx: &StepCx<State>, flow: &mut Unshelve) -> Result<()> {
    let mut s = servers::require(tx, &flow.server_id)?;
    s.host = Some(flow.host.clone());
    s.zone.clone_from(&flow.zone);
    s.ports.clone_from(&flow.ports);
    s.volumes.clone_from(&flow.volumes);
    tx.update(&mut s)
}

fn unrecord(tx: &mut Tx<'_>, _cx: &StepCx<State>, flow: &Unshelve) -> Result<()> {
    let Some(mut s) = tx.get::<Server>(&flow.server_id)? else { return Ok(()) };
    s.host = None;
    tx.update(&mut s)
}

async fn spawn(cx: StepCx<State>, flow: Unshelve) -> Result<Unshelve> {
    let s = row(&cx, &flow.server_id).await?;
    let spec = guest::spec_with(&cx, &s, flow.image.as_ref().or(s.image.as_ref()), true).await?;
    cx.hosts.get(&flow.host)?.spawn(&spec, &images::Source(cx.app().clone())).await?;
    for id in s.volumes.iter().filter_map(|v| v.attachment_id.as_ref()) {
        volumes::complete(&cx, id).await?;
    }
    if let Some(i) = &flow.image {
        images::image_delete(&cx, &i.id).await?;
    }
    Ok(flow)
}

async fn unspawn(cx: StepCx<State>, flow: Unshelve) -> Result<()> {
    cx.hosts.get(&flow.host)?.destroy(&flow.server_id).await
}
