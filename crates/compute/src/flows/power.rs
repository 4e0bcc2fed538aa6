//! Changes of the power state: one call to the host, which may be repeated.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::{guest, images, ops};
use crate::store::servers::VmState;
use caelum_base::Result;
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_hypervisor::{PowerAction, PowerState};
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerOp {
    Start,
    Stop,
    SoftReboot,
    HardReboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangePower {
    pub server_id: String,
    pub action_id: String,
    pub op: PowerOp,
    /// Seconds for the guest to do it by itself.
    pub grace_s: u64,
}

impl Flow<State> for ChangePower {
    const KIND: &'static str = "server.power";

    fn steps() -> Vec<Step<Self, State>> {
        vec![Step::new("act", act).unsaved()]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.grace_s + 240)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let (state, power) = reached(self.op);
        let started = matches!(self.op, PowerOp::Start);
        let now = cx.env.now();
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            s.state = state;
            s.power = power;
            s.fault = None;
            if started {
                s.launched_at = s.launched_at.or(Some(now));
            }
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

fn reached(op: PowerOp) -> (VmState, PowerState) {
    match op {
        PowerOp::Stop => (VmState::Stopped, PowerState::Shutdown),
        PowerOp::Pause => (VmState::Paused, PowerState::Paused),
        PowerOp::Suspend => (VmState::Suspended, PowerState::Suspended),
        PowerOp::Start | PowerOp::SoftReboot | PowerOp::HardReboot | PowerOp::Unpause | PowerOp::Resume => {
            (VmState::Active, PowerState::Running)
        }
    }
}

async fn act(cx: StepCx<State>, flow: ChangePower) -> Result<ChangePower> {
    let s = row(&cx, &flow.server_id).await?;
    let host = cx.hosts.get(&ops::host(&s)?)?.clone();
    let grace = Duration::from_secs(flow.grace_s);
    let action = match flow.op {
        // The definition is made anew, so that whatever changed meanwhile is in it.
        PowerOp::HardReboot => {
            let spec = guest::spec(&cx, &s, true).await?;
            match host.redefine(&spec).await {
                // The host lost the guest: it is built again, as its owner asked.
                Err(e) if e.is_not_found() => host.spawn(&spec, &images::Source(cx.app().clone())).await?,
                other => other?,
            }
            return Ok(flow);
        }
        PowerOp::Start => PowerAction::Start,
        PowerOp::Stop => PowerAction::Stop { grace },
        PowerOp::SoftReboot => PowerAction::SoftReboot { grace },
        PowerOp::Pause => PowerAction::Pause,
        PowerOp::Unpause => PowerAction::Unpause,
        PowerOp::Suspend => PowerAction::Suspend,
        PowerOp::Resume => PowerAction::Resume,
    };
    host.power(&s.id, action).await?;
    Ok(flow)
}
