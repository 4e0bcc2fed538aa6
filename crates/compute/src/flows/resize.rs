//! Resizing on the server's own host. Until it is confirmed, the larger of both flavors stays
//! booked, so that going back always fits.

use crate::State;
use crate::flows::create::row;
use crate::flows::finish;
use crate::logic::{guest, ops, scheduler};
use crate::store::flavors::Flavor;
use crate::store::servers::{Resize, Server, VmState};
use caelum_base::{Error, Result};
use caelum_flow::{Failure, Flow, Step, StepCx};
use caelum_hypervisor::PowerState;
use caelum_store::Tx;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Resize,
    Confirm,
    Revert,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResizeServer {
    pub server_id: String,
    pub action_id: String,
    pub stage: Stage,
    pub old: Flavor,
    pub new: Flavor,
    /// State before the resize, to which a revert goes back.
    pub old_state: VmState,
}

impl ResizeServer {
    /// The flavor the guest has when the stage is done.
    fn target(&self) -> &Flavor {
        if self.stage == Stage::Revert { &self.old } else { &self.new }
    }

    fn runs(&self) -> bool {
        self.old_state == VmState::Active
    }
}

impl Flow<State> for ResizeServer {
    const KIND: &'static str = "server.resize";

    fn steps() -> Vec<Step<Self, State>> {
        vec![
            Step::new("book", book).undo(unbook).unsaved(),
            Step::new("guest", change).undo(change_back).unsaved(),
            Step::new("settle", settle).unsaved(),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn on_done(&self, tx: &mut Tx<'_>, cx: &State) -> Result<()> {
        let target = self.target();
        let power = if self.runs() { PowerState::Running } else { PowerState::Shutdown };
        finish::done(tx, cx, &self.server_id, &self.action_id, |s| {
            s.flavor = target.clone();
            s.fault = None;
            match self.stage {
                Stage::Resize => {
                    s.resize = Some(Resize { old_flavor: self.old.clone(), old_state: self.old_state });
                    s.state = VmState::Resized;
                    s.power = power;
                }
                Stage::Confirm => {
                    s.resize = None;
                    s.state = if s.power == PowerState::Shutdown { VmState::Stopped } else { VmState::Active };
                }
                Stage::Revert => {
                    s.resize = None;
                    s.state = self.old_state;
                    s.power = power;
                }
            }
        })
    }

    fn on_failed(&self, tx: &mut Tx<'_>, cx: &State, failure: &Failure) -> Result<()> {
        finish::unchanged(tx, cx, &self.server_id, &self.action_id, failure)
    }
}

fn larger(a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let mut out = a.clone();
    for (k, v) in b {
        let n = out.entry(k.clone()).or_default();
        *n = (*n).max(*v);
    }
    out
}

async fn rebook(cx: &StepCx<State>, s: &Server, amounts: &BTreeMap<String, i64>) -> Result<()> {
    let host = ops::host(s)?;
    let view = cx.host_view(&host).ok_or_else(|| Error::unavailable(format!("Compute host {host} has not reported yet.")))?;
    scheduler::rebook(cx, s, &view.provider_id, amounts).await
}

async fn book(cx: StepCx<State>, flow: ResizeServer) -> Result<ResizeServer> {
    if flow.stage == Stage::Resize {
        let s = row(&cx, &flow.server_id).await?;
        let backed = s.volume_backed();
        rebook(&cx, &s, &larger(&scheduler::resources(&flow.old, backed), &scheduler::resources(&flow.new, backed))).await?;
    }
    Ok(flow)
}

async fn unbook(cx: StepCx<State>, flow: ResizeServer) -> Result<()> {
    if flow.stage == Stage::Resize
        && let Some(s) = cx.db().get::<Server>(&flow.server_id).await?
    {
        rebook(&cx, &s, &scheduler::resources(&flow.old, s.volume_backed())).await?;
    }
    Ok(())
}

async fn define(cx: &StepCx<State>, id: &str, flavor: &Flavor, running: bool) -> Result<()> {
    let mut s = row(cx, id).await?.value;
    s.flavor = flavor.clone();
    let spec = guest::spec(cx, &s, running).await?;
    cx.hosts.get(&ops::host(&s)?)?.redefine(&spec).await
}

async fn change(cx: StepCx<State>, flow: ResizeServer) -> Result<ResizeServer> {
    if flow.stage != Stage::Confirm {
        define(&cx, &flow.server_id, flow.target(), flow.runs()).await?;
    }
    Ok(flow)
}

async fn change_back(cx: StepCx<State>, flow: ResizeServer) -> Result<()> {
    let back = match flow.stage {
        Stage::Resize => &flow.old,
        Stage::Revert => &flow.new,
        Stage::Confirm => return Ok(()),
    };
    match define(&cx, &flow.server_id, back, flow.runs()).await {
        // Deleted meanwhile, or the host has no such guest: nothing to go back to.
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

async fn settle(cx: StepCx<State>, flow: ResizeServer) -> Result<ResizeServer> {
    if flow.stage != Stage::Resize {
        let s = row(&cx, &flow.server_id).await?;
        rebook(&cx, &s, &scheduler::resources(flow.target(), s.volume_backed())).await?;
    }
    Ok(flow)
}
