//! Long work on servers as durable flows.

use crate::State;
use caelum_flow::Flows;

/// Makes every kind of flow known to the engine.
pub(crate) fn register(flows: Flows<State>) -> Flows<State> {
    flows
}
