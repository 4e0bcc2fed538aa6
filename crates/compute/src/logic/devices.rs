//! Interfaces, volumes and security groups of a built server.

use crate::State;
use crate::flows::create::NicRequest;
use crate::flows::interfaces::{AttachInterface, DetachInterface};
use crate::flows::volumes::{AttachVolume, DetachVolume};
use crate::logic::nics::{self, Asker, NicIn, NicsIn};
use crate::logic::ops::{self, Begin};
use crate::logic::{guest, netinfo, network};
use crate::store::servers::{self, Server, ServerVolume, Task, VmState};
use caelum_base::{Error, ErrorKind, Result};
use caelum_flow::Outcome;
use caelum_rest::Auth;
use serde_json::json;
use std::sync::Arc;
use std::sync::Mutex;

fn begin(auth: &Auth, request_id: &str, s: &Server, action: &'static str, event: &'static str, states: &'static [VmState]) -> Begin {
    Begin {
        server_id: s.id.clone(),
        user_id: auth.user_id().to_string(),
        request_id: request_id.to_string(),
        action,
        event,
        verb: action,
        states,
        task: None::<Task>,
    }
}

/// The interface of an attach that names neither network nor port: the only network the server has
/// no interface on yet, else the only one there is.
pub async fn default_nic(a: &Asker<'_>, s: &Server, tag: Option<String>) -> Result<NicRequest> {
    let mut all = network::networks_for_auto(a.state, a.token, a.project_id).await?;
    if all.len() > 1 {
        all.retain(|n| !s.ports.iter().any(|p| p.network_id == n.id));
    }
    match (all.pop(), all.is_empty()) {
        (Some(n), true) => Ok(NicRequest { network_id: n.id, tag, ..NicRequest::default() }),
        (Some(_), false) => Err(Error::conflict("Multiple possible networks found, use a Network ID to be more specific.")),
        (None, _) => nics::resolve(a, &NicsIn::Default).await?.pop().ok_or_else(|| Error::invalid("There is no network to attach to.")),
    }
}

/// Attaching says 404 where creating says 400.
pub fn attach_error(e: Error, wish: &NicIn) -> Error {
    let missing = e.kind == ErrorKind::Invalid && e.message.ends_with("could not be found.");
    match (missing, &wish.port) {
        (true, _) => Error::not_found(e.message),
        // A used port is a bad request here.
        (false, Some(_)) if e.kind == ErrorKind::Conflict => Error::invalid(e.message),
        _ => e,
    }
}

/// Attaches and waits for it. Returns the server with the port's id.
pub async fn interface_attach(state: &Arc<State>, auth: &Auth, request_id: &str, s: &Server, nic: NicRequest) -> Result<(Server, String)> {
    const STATES: &[VmState] = &[VmState::Active, VmState::Paused, VmState::Stopped];
    let b = begin(auth, request_id, s, "attach_interface", "compute_attach_interface", STATES);
    let id = s.id.clone();
    let action = Arc::new(Mutex::new(String::new()));
    let noted = action.clone();
    ops::begin(state, b, move |_, s, action_id| {
        ops::host(s)?;
        *noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = action_id.to_string();
        Ok(AttachInterface { server_id: id.clone(), action_id: action_id.to_string(), nic: nic.clone(), port: None })
    })
    .await?;
    let action = action.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    settled(state, &s.id).await?;
    let s = state.db.get::<Server>(&s.id).await?.ok_or_else(|| servers::not_found(&s.id))?.value;
    match s.ports.iter().find(|p| p.made_by == action) {
        Some(p) => Ok((s.clone(), p.port_id.clone())),
        None => Err(failed(state, &action).await?),
    }
}

/// Waits for the flows that a server has now.
async fn settled(state: &Arc<State>, server_id: &str) -> Result<()> {
    let (app, id) = (state.clone(), server_id.to_string());
    let running = state.db.read(move |tx| app.flows.of_resource(tx, &id)).await?;
    for f in running.iter().filter(|f| f.state != "failed") {
        if let Outcome::Failed(failure) = state.flows.wait(&f.id).await?
            && f.kind == "server.attach_interface"
        {
            return Err(failure.error);
        }
    }
    Ok(())
}

async fn failed(state: &State, action_id: &str) -> Result<Error> {
    let action = state.db.get::<crate::store::actions::InstanceAction>(action_id).await?;
    let why = action.and_then(|a| a.events.last().and_then(|e| e.details.clone()));
    Ok(Error::conflict(why.unwrap_or_else(|| "The interface could not be attached.".to_string())))
}

pub async fn interface_detach(state: &Arc<State>, auth: &Auth, request_id: &str, s: &Server, port_id: &str) -> Result<()> {
    let missing = || Error::not_found(format!("Port {port_id} not found"));
    if !s.ports.iter().any(|p| p.port_id == port_id) {
        return Err(missing());
    }
    const STATES: &[VmState] = &[VmState::Active, VmState::Paused, VmState::Stopped];
    let b = begin(auth, request_id, s, "detach_interface", "compute_detach_interface", STATES);
    let (id, port_id) = (s.id.clone(), port_id.to_string());
    ops::begin(state, b, move |_, s, action_id| {
        let ours = s.ports.iter().find(|p| p.port_id == port_id).map(|p| p.ours);
        let ours = ours.ok_or_else(|| Error::not_found(format!("Port {port_id} not found")))?;
        Ok(DetachInterface { server_id: id.clone(), action_id: action_id.to_string(), port_id: port_id.clone(), ours })
    })
    .await
    .map(drop)
}

/// Puts the volume into the row and starts attaching it.
pub async fn volume_attach(
    state: &Arc<State>,
    auth: &Auth,
    request_id: &str,
    s: &Server,
    row: ServerVolume,
) -> Result<(Server, ServerVolume)> {
    const STATES: &[VmState] = &[
        VmState::Active,
        VmState::Paused,
        VmState::Stopped,
        VmState::Resized,
        VmState::Suspended,
        VmState::Shelved,
        VmState::ShelvedOffloaded,
    ];
    let b = begin(auth, request_id, s, "attach_volume", "compute_attach_volume", STATES);
    let id = s.id.clone();
    let bdm_id = row.bdm_id.clone();
    let s = ops::begin(state, b, move |tx, s, action_id| {
        if s.volumes.iter().any(|v| v.volume_id == row.volume_id) {
            return Err(Error::invalid(format!("Invalid volume: volume {} already attached to instance {}", row.volume_id, s.id)));
        }
        if let Some(d) = &row.device
            && s.volumes.iter().any(|v| v.device.as_ref() == Some(d))
        {
            return Err(Error::conflict(format!("The supplied device path ({d}) is in use.")));
        }
        s.volumes.push(row.clone());
        guest::name_devices(s)?;
        servers::write_refs(tx, s)?;
        let volume = s.volumes.iter().find(|v| v.bdm_id == row.bdm_id).cloned().unwrap_or_default();
        Ok(AttachVolume { server_id: id.clone(), action_id: action_id.to_string(), volume })
    })
    .await?;
    let row = s.volumes.iter().find(|v| v.bdm_id == bdm_id).cloned();
    let row = row.ok_or_else(|| Error::internal("an attached volume is not in its row"))?;
    Ok((s, row))
}

pub async fn volume_detach(state: &Arc<State>, auth: &Auth, request_id: &str, s: &Server, volume: ServerVolume) -> Result<()> {
    const STATES: &[VmState] = &[
        VmState::Active,
        VmState::Paused,
        VmState::Stopped,
        VmState::Resized,
        VmState::Suspended,
        VmState::Shelved,
        VmState::ShelvedOffloaded,
    ];
    let b = begin(auth, request_id, s, "detach_volume", "compute_detach_volume", STATES);
    let id = s.id.clone();
    ops::begin(state, b, move |_, s, action_id| {
        // What the row knows now, not what was read before.
        let known = s.volumes.iter().find(|v| v.bdm_id == volume.bdm_id).cloned();
        let volume = known.ok_or_else(|| Error::not_found(format!("Instance {} is not attached to volume {}", s.id, volume.volume_id)))?;
        Ok(DetachVolume { server_id: id.clone(), action_id: action_id.to_string(), volume })
    })
    .await
    .map(drop)
}

/// Adds or removes a security group on all ports of a server.
pub async fn security_group(state: &Arc<State>, auth: &Auth, s: &Server, name: &str, add: bool) -> Result<()> {
    let not_found = |e: Error| if e.kind == ErrorKind::Invalid { Error::not_found(format!("Security group {name} not found.")) } else { e };
    let ids = network::security_group_ids(state, &auth.token, &[name.to_string()]).await.map_err(not_found)?;
    let id = ids.first().ok_or_else(|| Error::not_found(format!("Security group {name} not found.")))?;
    let ports = network::ports_of(state, &s.id).await?;
    if ports.is_empty() {
        return Err(Error::invalid(format!("Instance {} has no ports to put the security group on.", s.id)));
    }
    let mut found = false;
    for p in &ports {
        let mut groups = p.security_groups.clone();
        let has = groups.contains(id);
        found |= has;
        if add == has {
            continue;
        }
        if add {
            groups.push(id.clone())
        } else {
            groups.retain(|g| g != id)
        }
        let body = json!({"port": {"security_groups": groups}});
        state.peers.network.put(format!("/v2.0/ports/{}", p.id)).json(&body).done().await?;
    }
    if !add && !found {
        return Err(Error::not_found(format!("Security group {name} not associated with the instance {}", s.id)));
    }
    let all = network::security_groups_of(state, &s.id).await?;
    let names: Vec<String> = all.iter().filter_map(|g| g["name"].as_str().map(String::from)).collect();
    let sid = s.id.clone();
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &sid)?;
            s.security_groups.clone_from(&names);
            tx.update(&mut s)
        })
        .await
}

/// One more address on the server's port of a network.
pub async fn fixed_ip_add(state: &Arc<State>, s: &Server, network_id: &str) -> Result<()> {
    let ports = network::ports_of(state, &s.id).await?;
    let port = ports.iter().find(|p| p.network_id == network_id);
    let port = port.ok_or_else(|| Error::invalid(format!("Instance {} has no interface on network {network_id}.", s.id)))?;
    let mut ips: Vec<serde_json::Value> =
        port.fixed_ips.iter().map(|i| json!({"subnet_id": i.subnet_id, "ip_address": i.ip_address})).collect();
    let subnet = port.fixed_ips.first().map(|i| i.subnet_id.clone()).ok_or_else(|| Error::invalid("The port has no subnet."))?;
    ips.push(json!({"subnet_id": subnet}));
    set_ips(state, s, &port.id, &ips).await
}

pub async fn fixed_ip_remove(state: &Arc<State>, s: &Server, address: &str) -> Result<()> {
    let ports = network::ports_of(state, &s.id).await?;
    let port = ports.iter().find(|p| p.fixed_ips.iter().any(|i| i.ip_address == address));
    let port = port.ok_or_else(|| Error::invalid(format!("Fixed IP address {address} is not found on instance {}.", s.id)))?;
    let kept = port.fixed_ips.iter().filter(|i| i.ip_address != address);
    let ips: Vec<serde_json::Value> = kept.map(|i| json!({"subnet_id": i.subnet_id, "ip_address": i.ip_address})).collect();
    set_ips(state, s, &port.id, &ips).await
}

async fn set_ips(state: &Arc<State>, s: &Server, port_id: &str, ips: &[serde_json::Value]) -> Result<()> {
    let body = json!({"port": {"fixed_ips": ips}});
    state.peers.network.put(format!("/v2.0/ports/{port_id}")).json(&body).done().await?;
    netinfo::refresh(state, &s.id).await.map(drop)
}
