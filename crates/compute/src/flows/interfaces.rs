//! Adding and removing a network interface of a built server. The API waits for these flows.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::{guest, network, ops};
use crate::store::servers::{self, Server, ServerPort};
use caelum_base::{Error, Result};
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::create::NicRequest;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachInterface {
    pub server_id: String,
    pub action_id: String,
    pub nic: NicRequest,
    /// Found by the first step.
    #[serde(default)]
    pub port: Option<ServerPort>,
}

impl Flow<State> for AttachInterface {
    const KIND: &'static str = "server.attach_interface";

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("port", take_port).undo(give_port_back),
            Step::new("plugged", plugged).unsaved(),
            Step::new("guest", plug).undo(unplug).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            if let Some(p) = self.port.clone().filter(|p| !s.ports.iter().any(|q| q.port_id == p.port_id)) {
                s.ports.push(p);
            }
        })?;
        match tx.get::<Server>(&self.server_id)? {
            Some(s) => servers::write_refs(tx, &s),
            None => Ok(()),
        }
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn take_port(cx: StepCx<State>, mut flow: AttachInterface) -> Result<AttachInterface> {
    let s = row(&cx, &flow.server_id).await?;
    let host = ops::host(&s)?;
    let port = match &flow.nic.port_id {
        Some(id) => network::port_bind(&cx, id, &s.id, &s.zone, &host).await?,
        None => match left_over(&cx, &s, &flow.nic).await? {
            Some(p) => p,
            None => {
                let new = network::NewPort {
                    network_id: &flow.nic.network_id,
                    project_id: &s.project_id,
                    server_id: &s.id,
                    zone: &s.zone,
                    host: &host,
                    fixed_ip: flow.nic.fixed_ip.as_deref(),
                    security_groups: &[],
                    hostname: &s.hostname,
                };
                network::port_create(&cx, &new).await?
            }
        },
    };
    let mut seen = network::remember(&cx, &port, flow.nic.port_id.is_none(), flow.nic.tag.clone()).await?;
    seen.made_by.clone_from(&flow.action_id);
    flow.port = Some(seen);
    Ok(flow)
}

/// A port of this server that its row does not know: an earlier try made it.
async fn left_over(cx: &StepCx<State>, s: &Server, nic: &NicRequest) -> Result<Option<network::Port>> {
    let all = network::ports_of(cx, &s.id).await?;
    let known = |id: &str| s.ports.iter().any(|p| p.port_id == id);
    Ok(all.into_iter().find(|p| !known(&p.id) && p.network_id == nic.network_id))
}

async fn give_port_back(cx: StepCx<State>, flow: AttachInterface) -> Result<()> {
    match (&flow.nic.port_id, &flow.port) {
        (Some(id), _) => network::port_unbind(&cx, id, &flow.server_id).await,
        (None, Some(p)) => network::port_delete(&cx, &p.port_id).await,
        (None, None) => {
            let Some(s) = cx.db().get::<Server>(&flow.server_id).await? else { return Ok(()) };
            match left_over(&cx, &s, &flow.nic).await? {
                Some(p) => network::port_delete(&cx, &p.id).await,
                None => Ok(()),
            }
        }
    }
}

async fn plugged(cx: StepCx<State>, flow: AttachInterface) -> Result<AttachInterface> {
    let waiting: Vec<String> = flow.port.iter().filter(|p| !p.active).map(|p| p.port_id.clone()).collect();
    guest::wait_plugged(&cx, &flow.server_id, &waiting).await?;
    Ok(flow)
}

async fn plug(cx: StepCx<State>, flow: AttachInterface) -> Result<AttachInterface> {
    let s = row(&cx, &flow.server_id).await?;
    if let Some(p) = &flow.port {
        let props = s.image.as_ref().map(|i| i.properties.clone()).unwrap_or_default();
        let attached = cx.hosts.get(&ops::host(&s)?)?.attach_nic(&s.id, &guest::nic(p, &props)).await;
        // Another action has just taken the guest off its host: the server is busy, not missing.
        attached.map_err(|e| if e.is_not_found() { Error::conflict(e.message) } else { e })?;
    }
    Ok(flow)
}

async fn unplug(cx: StepCx<State>, flow: AttachInterface) -> Result<()> {
    let Some(s) = cx.db().get::<Server>(&flow.server_id).await? else { return Ok(()) };
    let (Some(host), Some(p)) = (&s.host, &flow.port) else { return Ok(()) };
    gone_is_fine(cx.hosts.get(host)?.detach_nic(&s.id, &p.port_id).await)
}

fn gone_is_fine(r: Result<()>) -> Result<()> {
    match r {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachInterface {
    pub server_id: String,
    pub action_id: String,
    pub port_id: String,
    /// Compute made the port, so it goes.
    pub ours: bool,
}

impl Flow<State> for DetachInterface {
    const KIND: &'static str = "server.detach_interface";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("guest", take_out).unsaved(), Step::new("port", release).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| s.ports.retain(|p| p.port_id != self.port_id))?;
        match tx.get::<Server>(&self.server_id)? {
            Some(s) => servers::write_refs(tx, &s),
            None => Ok(()),
        }
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn take_out(cx: StepCx<State>, flow: DetachInterface) -> Result<DetachInterface> {
    let s = row(&cx, &flow.server_id).await?;
    if let Some(host) = &s.host {
        gone_is_fine(cx.hosts.get(host)?.detach_nic(&s.id, &flow.port_id).await)?;
    }
    Ok(flow)
}

async fn release(cx: StepCx<State>, flow: DetachInterface) -> Result<DetachInterface> {
    if flow.ours {
        network::port_delete(&cx, &flow.port_id).await?;
    } else {
        network::port_unbind(&cx, &flow.port_id, &flow.server_id).await?;
    }
    Ok(flow)
}
