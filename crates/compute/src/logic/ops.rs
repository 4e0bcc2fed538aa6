//! Beginning an operation on a server: state and lock are checked, the task is set, the action is
//! recorded and the flow is started, in one transaction.

use crate::State;
use crate::logic::create::new_action;
use crate::store::servers::{self, Server, Task, VmState};
use caelum_base::{Error, Result};
use caelum_flow::Flow;
use caelum_store::Tx;
use std::sync::Arc;

/// Who begins what.
#[derive(Clone, Debug)]
pub struct Begin {
    pub server_id: String,
    pub user_id: String,
    pub request_id: String,
    /// Name in the list of instance actions: `reboot`.
    pub action: &'static str,
    /// Name of its event: `compute_reboot_instance`.
    pub event: &'static str,
    /// The word in error messages.
    pub verb: &'static str,
    pub states: &'static [VmState],
    pub task: Option<Task>,
}

/// Errors: `Conflict` in upstream's words when the server is in none of `states` or busy.
pub fn check(s: &Server, verb: &str, states: &[VmState]) -> Result<()> {
    match s.task {
        None => {}
        Some(Task::Deleting) => return Err(servers::not_found(&s.id)),
        Some(t) => return Err(Error::conflict(format!("Cannot '{verb}' instance {} while it is in task_state {}", s.id, t.name()))),
    }
    if states.contains(&s.state) {
        return Ok(());
    }
    Err(Error::conflict(format!("Cannot '{verb}' instance {} while it is in vm_state {}", s.id, s.state.name())))
}

/// The server's host. Errors: `Conflict` for a server that has none yet or any more.
pub fn host(s: &Server) -> Result<String> {
    s.host.clone().ok_or_else(|| Error::conflict(format!("Instance {} is not ready", s.id)))
}

/// Runs the operation as the flow that `make` gives; `make` may change the row.
pub async fn begin<F, M>(state: &Arc<State>, b: Begin, make: M) -> Result<Server>
where
    F: Flow<State>,
    M: Fn(&mut Tx<'_>, &mut Server, &str) -> Result<F> + Send + Sync + 'static,
{
    let app = state.clone();
    let action_id = state.env.uuid();
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &b.server_id)?;
            check(&s, b.verb, b.states)?;
            let flow = make(tx, &mut s.value, &action_id)?;
            let now = app.env.now();
            s.task = b.task;
            s.updated_at = now;
            tx.insert(&new_action(&action_id, &s, &b.user_id, &b.request_id, b.action, b.event, now))?;
            app.flows.start(tx, &b.server_id, &s.project_id, &flow)?;
            tx.update(&mut s)?;
            Ok(s.value)
        })
        .await
}
