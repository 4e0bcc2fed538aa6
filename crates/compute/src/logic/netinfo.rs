//! The copy of the ports' addresses that a server's row carries. The network service is the
//! authority; the copy is renewed on its events and, when somebody looks, after a few seconds.

use crate::State;
use crate::logic::network;
use crate::store::servers::{self, Server, ServerPort};
use caelum_base::Result;
use std::sync::Arc;

/// The server with addresses at most a few seconds old; as they are if the network does not answer.
pub async fn fresh(state: &Arc<State>, s: Server) -> Server {
    if s.host.is_none() || s.task.is_some() || state.network_checked.get(&s.id).is_some() {
        return s;
    }
    match refresh(state, &s.id).await {
        Ok(Some(new)) => new,
        Ok(None) => s,
        Err(e) => {
            tracing::warn!(server = s.id, error = %e.chain(), "compute: addresses cannot be renewed");
            s
        }
    }
}

/// Reads the ports of a server from the network service and stores what changed. `None` when
/// nothing did.
pub async fn refresh(state: &Arc<State>, id: &str) -> Result<Option<Server>> {
    let Some(known) = state.db.get::<Server>(id).await? else { return Ok(None) };
    state.network_checked.put(id, ());
    let ports = network::refresh(state, id, &known.ports).await?;
    if ports == known.ports {
        return Ok(None);
    }
    let (id, before) = (id.to_string(), known.value.ports);
    let now = state.env.now();
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            // An operation changed the ports in the meantime: its word is newer.
            if s.ports != before || s.task.is_some() {
                return Ok(None);
            }
            s.ports.clone_from(&ports);
            s.network_seen_at = now;
            servers::write_refs(tx, &s)?;
            tx.update(&mut s)?;
            Ok(Some(s.value))
        })
        .await
}

/// Forgets one port of a server (it was deleted at the network service).
pub fn without(ports: &[ServerPort], port_id: &str) -> Vec<ServerPort> {
    ports.iter().filter(|p| p.port_id != port_id).cloned().collect()
}
