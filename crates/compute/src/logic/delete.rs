//! Deleting: always accepted, always wins.

use crate::State;
use crate::flows::delete::DeleteServer;
use crate::logic::create::new_action;
use crate::store::servers::{self, Task};
use caelum_base::Result;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Cancels whatever runs for the server and starts its removal. Repeating it changes nothing.
pub async fn server_delete(state: &Arc<State>, id: &str, user_id: &str, request_id: &str) -> Result<()> {
    let app = state.clone();
    let (id, user_id, request_id) = (id.to_string(), user_id.to_string(), request_id.to_string());
    let action_id = state.env.uuid();
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            if s.task == Some(Task::Deleting) {
                return Ok(());
            }
            let now = app.env.now();
            app.flows.cancel(tx, &id)?;
            s.task = Some(Task::Deleting);
            s.updated_at = now;
            tx.update(&mut s)?;
            tx.insert(&new_action(&action_id, &s, &user_id, &request_id, "delete", "compute_terminate_instance", now))?;
            let user_ports: BTreeSet<String> = s.ports.iter().filter(|p| !p.ours).map(|p| p.port_id.clone()).collect();
            let flow = DeleteServer { server_id: id.clone(), action_id: action_id.clone(), user_ports };
            app.flows.start(tx, &id, &s.project_id, &flow)?;
            tracing::debug!(server = id, "compute: delete begins");
            Ok(())
        })
        .await
}
