//! What other services tell about a server's ports and volumes. An event is a wake-up: what it
//! says is read again from the service that owns it.

use crate::State;
use crate::logic::{netinfo, ops};
use crate::store::servers::{self, Server};
use caelum_base::Result;
use serde_json::Value;
use std::sync::Arc;

/// Takes an event. Returns the code for its entry in the answer.
pub async fn receive(state: &Arc<State>, name: &str, server_id: &str, tag: Option<&str>) -> Result<u16> {
    let Some(s) = state.db.get::<Server>(server_id).await? else { return Ok(404) };
    match (name, tag) {
        ("network-vif-plugged", _) => state.port_changed(server_id),
        ("network-changed" | "network-vif-unplugged", _) => {
            state.port_changed(server_id);
            later(state.clone(), s.id.clone());
        }
        ("network-vif-deleted", Some(port_id)) => forget_port(state, &s, port_id).await?,
        ("volume-extended", Some(volume_id)) => return extend(state, &s, volume_id).await,
        _ => {}
    }
    Ok(if s.host.is_none() { 422 } else { 200 })
}

/// Reads the addresses again without keeping the sender waiting: it may be holding what we ask for.
fn later(state: Arc<State>, id: String) {
    tokio::spawn(async move {
        if let Err(e) = netinfo::refresh(&state, &id).await {
            tracing::warn!(server = id, error = %e.chain(), "compute: addresses cannot be renewed");
        }
    });
}

/// A port was deleted at the network service: the guest's device goes, and the row's entry.
async fn forget_port(state: &Arc<State>, s: &Server, port_id: &str) -> Result<()> {
    if !s.ports.iter().any(|p| p.port_id == port_id) || s.task.is_some() {
        return Ok(());
    }
    if let Some(host) = &s.host
        && let Err(e) = state.hosts.get(host)?.detach_nic(&s.id, port_id).await
    {
        tracing::warn!(server = s.id, port = port_id, error = %e.chain(), "compute: a deleted port's device stays in the guest");
    }
    let (id, port_id) = (s.id.clone(), port_id.to_string());
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            s.ports = netinfo::without(&s.ports, &port_id);
            servers::write_refs(tx, &s)?;
            tx.update(&mut s)
        })
        .await
}

/// A volume grew: the guest is told.
async fn extend(state: &Arc<State>, s: &Server, volume_id: &str) -> Result<u16> {
    if !s.volumes.iter().any(|v| v.volume_id == volume_id) {
        return Ok(404);
    }
    let Ok(host) = ops::host(s) else { return Ok(422) };
    let body: Value = state.block()?.get(format!("/v3/volumes/{volume_id}")).fetch().await?;
    let bytes = u64::try_from(body["volume"]["size"].as_i64().unwrap_or(0)).unwrap_or(0) << 30;
    state.hosts.get(&host)?.resize_volume(&s.id, volume_id, bytes).await?;
    let (id, volume_id) = (s.id.clone(), volume_id.to_string());
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            s.volumes.iter_mut().filter(|v| v.volume_id == volume_id).for_each(|v| v.size_bytes = bytes);
            tx.update(&mut s)
        })
        .await?;
    Ok(200)
}
