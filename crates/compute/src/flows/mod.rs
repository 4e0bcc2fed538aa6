//! Long work on servers as durable flows.

pub mod create;
pub mod delete;
pub mod finish;
pub mod interfaces;
pub mod power;
pub mod rebuild;
pub mod resize;
pub mod shelve;
pub mod snapshot;
pub mod volumes;

use crate::State;
use caelum_flow::Flows;

/// Makes every kind of flow known to the engine.
pub(crate) fn register(flows: Flows<State>) -> Flows<State> {
    flows
        .register::<create::CreateServer>()
        .register::<delete::DeleteServer>()
        .register::<power::ChangePower>()
        .register::<snapshot::Snapshot>()
        .register::<rebuild::Rebuild>()
        .register::<resize::ResizeServer>()
        .register::<interfaces::AttachInterface>()
        .register::<interfaces::DetachInterface>()
        .register::<volumes::AttachVolume>()
        .register::<volumes::DetachVolume>()
        .register::<shelve::Shelve>()
        .register::<shelve::Unshelve>()
}
