//! Removing a server and everything that belongs to it. Not cancellable; whatever fails is tried
//! again until the deadline, after which the server is in ERROR and may be deleted again.

use crate::State;
use crate::flows::create::fault_of;
use crate::logic::{network, scheduler, volumes};
use crate::store::actions;
use crate::store::servers::{Server, ServerData, VmState};
use caelum_base::{Error, ErrorKind, Result};
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_store::{Tx, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteServer {
    pub server_id: String,
    pub action_id: String,
    /// The user's own ports and the volumes to delete, learned from the request of a create that
    /// had not recorded them when the delete came.
    pub user_ports: BTreeSet<String>,
}

impl Flow<State> for DeleteServer {
    const KIND: &'static str = "server.delete";
    const CANCELLABLE: bool = false;

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("guest", remove_guest).unsaved(),
            Step::new("volumes", remove_volumes).unsaved(),
            Step::new("ports", remove_ports).unsaved(),
            Step::new("allocation", remove_allocation).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let id = self.server_id.as_str();
        tx.delete_id::<Server>(id)?;
        tx.delete_id::<ServerData>(id)?;
        tx.exec("DELETE FROM server_refs WHERE server_id = $1", params![id])?;
        actions::finish(tx, &self.action_id, cx.env.now(), None, None)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        let now = cx.env.now();
        let Some(mut s) = tx.get::<Server>(&self.server_id)? else { return Ok(()) };
        let fault = fault_of(failure, now);
        actions::finish(tx, &self.action_id, now, s.host.as_deref(), Some(&fault.message))?;
        s.state = VmState::Error;
        s.task = None;
        s.fault = Some(fault);
        s.updated_at = now;
        tx.update(&mut s)
    }
}

/// A delete does not take no for an answer: every error may pass.
fn persist<T>(what: &'static str, r: Result<T>) -> Result<T> {
    r.map_err(|e| {
        if e.is_retryable() {
            return e;
        }
        tracing::warn!(what, error = %e.chain(), "compute: a delete is tried again");
        let message = e.message.clone();
        Error::new(ErrorKind::Unavailable, message).caused_by(e)
    })
}

async fn server(cx: &StepCx<State>, id: &str) -> Result<Option<Server>> {
    Ok(cx.db().get::<Server>(id).await?.map(|s| s.value))
}

async fn remove_guest(cx: StepCx<State>, flow: DeleteServer) -> Result<DeleteServer> {
    let Some(s) = server(&cx, &flow.server_id).await? else { return Ok(flow) };
    if let Some(host) = &s.host {
        persist("guest", cx.hosts.get(host)?.destroy(&s.id).await)?;
    }
    Ok(flow)
}

async fn remove_volumes(cx: StepCx<State>, flow: DeleteServer) -> Result<DeleteServer> {
    let Some(s) = server(&cx, &flow.server_id).await? else { return Ok(flow) };
    if s.volumes.is_empty() || cx.peers.block.is_none() {
        return Ok(flow);
    }
    for id in s.volumes.iter().filter_map(|v| v.attachment_id.as_ref()) {
        persist("attachment", volumes::detach(&cx, id).await)?;
    }
    // And those that the row has not heard of.
    persist("attachments", volumes::detach_all(&cx, &s.id).await)?;
    for v in s.volumes.iter().filter(|v| v.delete_on_termination && !v.volume_id.is_empty()) {
        match volumes::volume_delete(&cx, &v.volume_id).await {
            // Has snapshots, or is in use elsewhere: it is the user's decision then.
            Err(e) if matches!(e.kind, ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Forbidden) => {
                tracing::warn!(volume = v.volume_id, error = %e.chain(), "compute: a deleted server's volume stays");
            }
            other => persist("volume", other)?,
        }
    }
    Ok(flow)
}

async fn remove_ports(cx: StepCx<State>, flow: DeleteServer) -> Result<DeleteServer> {
    let mut keep = flow.user_ports.clone();
    if let Some(s) = server(&cx, &flow.server_id).await? {
        keep.extend(s.ports.iter().filter(|p| !p.ours).map(|p| p.port_id.clone()));
    }
    persist("ports", network::release_ports(&cx, &flow.server_id, &keep).await)?;
    Ok(flow)
}

async fn remove_allocation(cx: StepCx<State>, flow: DeleteServer) -> Result<DeleteServer> {
    persist("allocation", scheduler::release(&cx, &flow.server_id).await)?;
    Ok(flow)
}
