//! Rebuilding: the same server, ports and volumes with a new root disk.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::{guest, images, ops};
use crate::store::servers::VmState;
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_hypervisor::PowerState;
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rebuild {
    pub server_id: String,
    pub action_id: String,
    /// A stopped server is stopped again afterwards.
    pub was_stopped: bool,
}

impl Flow<State> for Rebuild {
    const KIND: &'static str = "server.rebuild";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("clear", clear).unsaved(), Step::new("spawn", spawn).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let (now, stopped) = (cx.env.now(), self.was_stopped);
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            s.state = if stopped { VmState::Stopped } else { VmState::Active };
            s.power = if stopped { PowerState::Shutdown } else { PowerState::Running };
            s.launched_at = Some(now);
            s.fault = None;
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::broken(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

async fn clear(cx: StepCx<State>, flow: Rebuild) -> Result<Rebuild> {
    let s = row(&cx, &flow.server_id).await?;
    cx.hosts.get(&ops::host(&s)?)?.destroy(&s.id).await?;
    Ok(flow)
}

async fn spawn(cx: StepCx<State>, flow: Rebuild) -> Result<Rebuild> {
    let s = row(&cx, &flow.server_id).await?;
    let spec = guest::spec(&cx, &s, !flow.was_stopped).await?;
    cx.hosts.get(&ops::host(&s)?)?.spawn(&spec, &images::Source(cx.app().clone())).await?;
    Ok(flow)
}
