//! Long work on servers as durable flows.

pub mod create;
pub mod delete;

use crate::State;
use caelum_flow::Flows;

/// Makes every kind of flow known to the engine.
pub(crate) fn register(flows: Flows<State>) -> Flows<State> {
    flows.register::<create::CreateServer>().register::<delete::DeleteServer>()
}
