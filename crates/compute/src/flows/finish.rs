//! How operations on an existing server end.

use crate::State;
use crate::flows::create::{fault_of, public_message};
use crate::store::actions;
use crate::store::servers::{Server, VmState};
use caelum_base::Result;
use caelum_flow::{Cause, Failure};
use caelum_store::{Stored, Tx};

/// Ends an operation well: `change` puts the row into the state reached.
pub fn done(tx: &mut Tx<'_>, cx: &State, server_id: &str, action_id: &str, change: impl Fn(&mut Server)) -> Result<()> {
    end(tx, cx, server_id, action_id, None, change)
}

/// Ends a failed operation that left the server as it was.
pub fn unchanged(tx: &mut Tx<'_>, cx: &State, server_id: &str, action_id: &str, failure: &Failure) -> Result<()> {
    end(tx, cx, server_id, action_id, Some(&public_message(failure)), |_| {})
}

/// Ends a failed operation that left the server unusable: ERROR with the reason.
pub fn broken(tx: &mut Tx<'_>, cx: &State, server_id: &str, action_id: &str, failure: &Failure) -> Result<()> {
    let now = cx.env.now();
    let cancelled = failure.cause == Cause::Cancelled;
    end(tx, cx, server_id, action_id, Some(&public_message(failure)), |s| {
        // A delete that cancelled it needs no second reason.
        if !cancelled {
            s.state = VmState::Error;
            s.fault = Some(fault_of(failure, now));
        }
    })
}

fn end(tx: &mut Tx<'_>, cx: &State, server_id: &str, action_id: &str, problem: Option<&str>, change: impl Fn(&mut Server)) -> Result<()> {
    let now = cx.env.now();
    let Some(mut s) = tx.get::<Server>(server_id)? else { return Ok(()) };
    actions::finish(tx, action_id, now, s.host.as_deref(), problem)?;
    change(&mut s.value);
    free(&mut s);
    s.updated_at = now;
    tx.update(&mut s)
}

/// Takes the task away unless a delete has put its own there.
fn free(s: &mut Stored<Server>) {
    if s.task != Some(crate::store::servers::Task::Deleting) {
        s.task = None;
    }
}
