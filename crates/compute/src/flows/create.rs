//! Building a server: place, ports, volumes, record, plugged, spawn. Only `record` saves: all other
//! steps find what they did before by the server's id, so a crash repeats them without harm.

use crate::State;
use crate::logic::scheduler::{self, Claim, Request};
use crate::logic::volumes::{self, DiskRequest, Source};
use crate::logic::{guest, images, network};
use crate::store::servers::{self, Fault, Server, ServerPort, ServerVolume, Task, VmState};
use crate::store::{actions, groups};
use caelum_base::{Error, ErrorKind, Result};
use caelum_flow::{Cause, Failure, Flow, Step, StepCx};
use caelum_hypervisor::PowerState;
use caelum_store::{Stored, Tx};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// A network interface a user asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NicRequest {
    /// The user's port.
    pub port_id: Option<String>,
    pub network_id: String,
    pub fixed_ip: Option<String>,
    pub tag: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateServer {
    pub server_id: String,
    pub project_id: String,
    pub action_id: String,
    pub nics: Vec<NicRequest>,
    /// Ids; empty means the network service's default.
    pub security_groups: Vec<String>,
    pub disks: Vec<DiskRequest>,
    pub forced_host: Option<String>,
    pub requested_host: Option<String>,
    /// Seconds the whole build may take.
    pub timeout_s: u64,
    /// Found by `place`.
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub ports: Vec<ServerPort>,
    #[serde(default)]
    pub volumes: Vec<ServerVolume>,
}

impl CreateServer {
    fn user_ports(&self) -> BTreeSet<String> {
        self.nics.iter().filter_map(|n| n.port_id.clone()).collect()
    }

    fn makes_volumes(&self) -> bool {
        self.disks.iter().any(|d| d.source != Source::Volume)
    }
}

impl Flow<State> for CreateServer {
    const KIND: &'static str = "server.create";

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("place", place).undo(unplace).unsaved(),
            Step::new("ports", make_ports).undo(unmake_ports).unsaved(),
            Step::new("volumes", make_volumes).undo(unmake_volumes).unsaved(),
            Step::tx("record", record),
            Step::new("plugged", plugged).unsaved(),
            Step::new("spawn", spawn).undo(unspawn).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let now = cx.env.now();
        cx.forget_token(&self.server_id);
        let Some(mut s) = tx.get::<Server>(&self.server_id)? else { return Ok(()) };
        s.state = VmState::Active;
        s.task = None;
        s.power = PowerState::Running;
        s.launched_at = Some(now);
        s.updated_at = now;
        s.fault = None;
        tx.update(&mut s)?;
        actions::finish(tx, &self.action_id, now, s.host.as_deref(), None)
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        let now = cx.env.now();
        cx.forget_token(&self.server_id);
        let Some(mut s) = tx.get::<Server>(&self.server_id)? else { return Ok(()) };
        let message = public_message(failure);
        actions::finish(tx, &self.action_id, now, s.host.as_deref(), Some(&message))?;
        s.host = None;
        s.ports.clear();
        for v in &mut s.volumes {
            v.attachment_id = None;
        }
        s.updated_at = now;
        if failure.cause != Cause::Cancelled {
            s.state = VmState::Error;
            s.task = None;
            s.power = PowerState::NoState;
            s.fault = Some(fault_of(failure, now));
        }
        servers::write_refs(tx, &s)?;
        tx.update(&mut s)
    }
}

/// The sentence of a failure for the server's owner.
pub fn public_message(failure: &Failure) -> String {
    match failure.cause {
        Cause::Deadline => format!("The operation did not finish in time; it was at step '{}'.", failure.step),
        _ => failure.error.message.clone(),
    }
}

pub fn fault_of(failure: &Failure, now: caelum_base::Timestamp) -> Fault {
    let code = match failure.error.kind {
        ErrorKind::Invalid => 400,
        ErrorKind::Forbidden | ErrorKind::OverQuota => 403,
        _ => 500,
    };
    Fault { code, created: now, message: public_message(failure), details: format!("Step '{}': {}", failure.step, failure.error.chain()) }
}

/// The row, as long as the server is to be.
pub async fn row(cx: &StepCx<State>, id: &str) -> Result<Stored<Server>> {
    cx.db().get::<Server>(id).await?.ok_or_else(|| servers::not_found(id))
}

async fn place(cx: StepCx<State>, mut flow: CreateServer) -> Result<CreateServer> {
    let server = row(&cx, &flow.server_id).await?;
    let mut req = Request::of(&server);
    req.forced_host.clone_from(&flow.forced_host);
    req.requested_host.clone_from(&flow.requested_host);
    // Others may take the room between question and claim; then the question is asked anew.
    for _ in 0..3 {
        let candidates = match scheduler::choose(&cx, &req).await {
            Err(e) if e.code == "NoValidHost" => return adopt_claim(&cx, flow, e).await,
            other => other?,
        };
        for c in candidates {
            match scheduler::claim(&cx, &req, &c.provider_id).await? {
                Claim::Full => continue,
                Claim::Elsewhere => return adopt_claim(&cx, flow, scheduler::no_valid_host()).await,
                Claim::Done => {}
            }
            if !hold_group(&cx, &server, &c.host).await? {
                scheduler::release(&cx, &flow.server_id).await?;
                continue;
            }
            flow.host = c.host;
            flow.zone = c.zone;
            return Ok(flow);
        }
    }
    Err(scheduler::no_valid_host())
}

/// After a crash the claim of the earlier try may be all the room there was.
async fn adopt_claim(cx: &StepCx<State>, mut flow: CreateServer, otherwise: Error) -> Result<CreateServer> {
    let booked = scheduler::booked(cx, &flow.server_id).await?;
    let found = cx.host_views().into_iter().find(|v| booked.contains_key(&v.provider_id));
    let Some(view) = found else { return Err(otherwise) };
    let host = view.name.clone();
    flow.zone = cx.db().read(move |tx| scheduler::zone(tx, &host)).await?;
    flow.host = view.name;
    Ok(flow)
}

/// For members of a group with a hard policy: takes the host in a transaction that looks at the
/// others, because two members may be placed at the same time. `false`: the host will not do.
async fn hold_group(cx: &StepCx<State>, server: &Server, host: &str) -> Result<bool> {
    let Some(group_id) = server.group_id.clone() else { return Ok(true) };
    let (id, host) = (server.id.clone(), host.to_string());
    cx.db()
        .write(move |tx| {
            let Some(group) = tx.get::<groups::ServerGroup>(&group_id)? else { return Ok(true) };
            let others = servers::members(tx, &group_id)?;
            let placed: Vec<&str> = others.iter().filter(|s| s.id != id).filter_map(|s| s.host.as_deref()).collect();
            let here = placed.iter().filter(|h| **h == host).count();
            let fits = match group.policy.as_str() {
                "affinity" => placed.is_empty() || here > 0,
                "anti-affinity" => i64::try_from(here).unwrap_or(i64::MAX) < group.max_server_per_host.unwrap_or(1),
                _ => true,
            };
            if fits {
                let mut s = servers::require(tx, &id)?;
                s.host = Some(host.clone());
                tx.update(&mut s)?;
            }
            Ok(fits)
        })
        .await
}

async fn unplace(cx: StepCx<State>, flow: CreateServer) -> Result<()> {
    scheduler::release(&cx, &flow.server_id).await
}

async fn make_ports(cx: StepCx<State>, mut flow: CreateServer) -> Result<CreateServer> {
    let server = row(&cx, &flow.server_id).await?;
    let makes_any = flow.nics.iter().any(|n| n.port_id.is_none());
    let keep = flow.user_ports();
    let mut left: Vec<network::Port> = Vec::new();
    if makes_any {
        left = network::ports_of(&cx, &flow.server_id).await?;
        left.retain(|p| !keep.contains(&p.id));
    }
    let mut ports = Vec::with_capacity(flow.nics.len());
    for nic in &flow.nics {
        let port = match &nic.port_id {
            Some(id) => network::port_bind(&cx, id, &flow.server_id, &flow.zone, &flow.host).await?,
            None => match take_port(&mut left, nic) {
                // An earlier try made it; the host may be another one now.
                Some(p) => network::port_bind(&cx, &p.id, &flow.server_id, &flow.zone, &flow.host).await?,
                None => make_port(&cx, &flow, nic, &server.hostname).await?,
            },
        };
        ports.push(network::remember(&cx, &port, nic.port_id.is_none(), nic.tag.clone()).await?);
    }
    flow.ports = ports;
    Ok(flow)
}

fn take_port(left: &mut Vec<network::Port>, nic: &NicRequest) -> Option<network::Port> {
    let fits = |p: &network::Port| {
        let ip_fits = nic.fixed_ip.as_ref().is_none_or(|want| p.fixed_ips.iter().any(|f| f.ip_address == *want));
        p.network_id == nic.network_id && ip_fits
    };
    let at = left.iter().position(fits)?;
    Some(left.swap_remove(at))
}

async fn make_port(cx: &StepCx<State>, flow: &CreateServer, nic: &NicRequest, hostname: &str) -> Result<network::Port> {
    let new = network::NewPort {
        network_id: &nic.network_id,
        project_id: &flow.project_id,
        server_id: &flow.server_id,
        zone: &flow.zone,
        host: &flow.host,
        fixed_ip: nic.fixed_ip.as_deref(),
        security_groups: &flow.security_groups,
        hostname,
    };
    network::port_create(cx, &new).await
}

async fn unmake_ports(cx: StepCx<State>, flow: CreateServer) -> Result<()> {
    network::release_ports(&cx, &flow.server_id, &flow.user_ports()).await
}

async fn make_volumes(cx: StepCx<State>, mut flow: CreateServer) -> Result<CreateServer> {
    let server = row(&cx, &flow.server_id).await?;
    let mut rows = server.volumes.clone();
    for v in &mut rows {
        let Some(disk) = flow.disks.iter().find(|d| d.bdm_id == v.bdm_id) else { continue };
        if disk.source != Source::Volume {
            let token = cx.user_token(&flow.server_id);
            v.volume_id = volumes::volume_ensure(&cx, token.as_ref(), &flow.server_id, &flow.project_id, None, disk).await?;
            volumes::volume_wait(&cx, &v.volume_id).await?;
        }
        volumes::attach(&cx, &flow.server_id, &flow.host, v).await?;
    }
    if !rows.is_empty() {
        let mut named = server.value;
        named.volumes = rows;
        guest::name_devices(&mut named)?;
        rows = named.volumes;
    }
    flow.volumes = rows;
    Ok(flow)
}

async fn unmake_volumes(cx: StepCx<State>, flow: CreateServer) -> Result<()> {
    if flow.disks.is_empty() {
        return Ok(());
    }
    volumes::undo_build(&cx, &flow.server_id, &flow.project_id, flow.makes_volumes()).await
}

fn record(tx: &mut Tx<'_>, cx: &StepCx<State>, flow: &mut CreateServer) -> Result<()> {
    let mut s = servers::require(tx, &flow.server_id)?;
    let now = cx.env().now();
    s.host = Some(flow.host.clone());
    s.zone.clone_from(&flow.zone);
    s.ports.clone_from(&flow.ports);
    s.volumes.clone_from(&flow.volumes);
    if s.task != Some(Task::Deleting) {
        s.task = Some(Task::Spawning);
    }
    s.updated_at = now;
    s.network_seen_at = now;
    servers::write_refs(tx, &s)?;
    tx.update(&mut s)
}

async fn plugged(cx: StepCx<State>, flow: CreateServer) -> Result<CreateServer> {
    let waiting: Vec<String> = flow.ports.iter().filter(|p| !p.active).map(|p| p.port_id.clone()).collect();
    guest::wait_plugged(&cx, &flow.server_id, &waiting).await?;
    Ok(flow)
}

async fn spawn(cx: StepCx<State>, flow: CreateServer) -> Result<CreateServer> {
    let server = row(&cx, &flow.server_id).await?;
    let spec = guest::spec(&cx, &server, true).await?;
    cx.hosts.get(&flow.host)?.spawn(&spec, &images::Source(cx.app().clone())).await?;
    for id in server.volumes.iter().filter_map(|v| v.attachment_id.as_ref()) {
        volumes::complete(&cx, id).await?;
    }
    Ok(flow)
}

async fn unspawn(cx: StepCx<State>, flow: CreateServer) -> Result<()> {
    cx.hosts.get(&flow.host)?.destroy(&flow.server_id).await
}
