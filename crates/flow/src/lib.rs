//! Durable workflows: long operations made of steps that can be undone.
//!
//! A flow is a row of the service's own database, written by [`Flows::start`] in the transaction
//! that also records what the flow is to change. The flow's value *is* its state: it is saved after
//! every step together with the position.
//!
//! Invariants:
//! - Steps run at least once, in order. A step may be run again with the same input (crash, retry),
//!   so it must be repeatable: ids are made before the first step that uses them.
//! - A step that returns an error has certainly changed nothing. Where the error cannot prove that
//!   (`Timeout`, `Unavailable`, `Internal`), or the step was interrupted, its undo runs too; so an
//!   undo must accept that its step never took effect, or took effect in part.
//! - A step's future is dropped at any await when the flow is cancelled or its deadline passes.
//! - After a failure, a cancel or the deadline, undos run in reverse order until each succeeded;
//!   an undo never gives up. `on_failed` runs in the transaction that ends the flow.
//! - Flows of one resource run one after the other in the order they were started, so a delete
//!   may cancel a create and start its own flow in the same transaction.
//! - Only the owner named in the row, at the row's epoch, may write it; an execution that finds
//!   otherwise stops at once and leaves everything to the new owner.
//!
//! On a crash the next engine with the same owner id, or any engine once the lease has run out,
//! continues at the saved position.
//!
//! ```text
//! #[derive(Clone, Serialize, Deserialize)]
//! struct CreateServer { server_id: String, port_id: String }
//!
//! impl Flow<Service> for CreateServer {
//!     const KIND: &'static str = "server.create";
//!     fn steps() -> Vec<Step<Self, Service>> {
//!         vec![
//!             Step::new("port", make_port).undo(remove_port),
//!             Step::tx("record", |tx, cx, flow| cx.set_building(tx, &flow.server_id)),
//!         ]
//!     }
//!     fn deadline(&self) -> Duration { Duration::from_secs(600) }
//! }
//!
//! async fn make_port(cx: StepCx<Service>, flow: CreateServer) -> Result<CreateServer> {
//!     cx.network.ensure_port(&flow.port_id).await?;
//!     Ok(flow)
//! }
//! async fn remove_port(cx: StepCx<Service>, flow: CreateServer) -> Result<()> { … }
//!
//! let flows = Flows::new(db, env, "node1").register::<CreateServer>();
//! let service = Arc::new(Service { flows: flows.clone(), … });
//! flows.spawn(service);
//! // in a handler: db.write(move |tx| { tx.insert(&server)?; flows.start(tx, &id, &project, &flow) })
//! ```

mod drive;
mod engine;
mod rows;
mod step;
pub mod testing;

pub use engine::{FlowOptions, Flows};
pub use rows::{FlowInfo, MIGRATION_SQL};
pub use step::{Act, Hook, Point, Step, StepCx};

use caelum_base::{Error, Result};
use caelum_store::Tx;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Id of a flow, a UUID.
pub type FlowId = String;

/// A kind of workflow; the value is its saved state. New fields need `#[serde(default)]`, and
/// steps may only be appended, since rows of the previous version continue with the new list.
pub trait Flow<C>: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Name in the row, unique in the service: `server.create`.
    const KIND: &'static str;

    /// Whether [`Flows::cancel`] stops it. False for flows that must end once begun (deletes).
    const CANCELLABLE: bool = true;

    fn steps() -> Vec<Step<Self, C>>;

    /// Time from start until the flow gives up and unwinds. Unwinding itself has no deadline.
    fn deadline(&self) -> Duration;

    /// Runs in the transaction that ends a successful flow; may run more than once, as any
    /// transaction. A retryable error repeats it, another unwinds the flow.
    fn on_done(&self, tx: &mut Tx<'_>, cx: &C) -> Result<()> {
        let _ = (tx, cx);
        Ok(())
    }

    /// Runs in the transaction that ends a flow that was unwound. An error repeats it later, for
    /// ever; "the resource is gone" is therefore no error.
    fn on_failed(&self, tx: &mut Tx<'_>, cx: &C, failure: &Failure) -> Result<()> {
        let _ = (tx, cx, failure);
        Ok(())
    }
}

/// Why a flow was unwound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Error,
    Cancelled,
    Deadline,
}

/// Why and where a flow failed.
#[derive(Debug)]
pub struct Failure {
    pub cause: Cause,
    /// Name of the step that failed or was interrupted.
    pub step: String,
    /// What the step said; for a cancel or a deadline, an error that says so.
    pub error: Error,
}

/// How a flow ended.
#[derive(Debug)]
pub enum Outcome {
    Done,
    Failed(Failure),
}

impl Outcome {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}
