//! Rows follow what guests really do. Nothing is started, stopped or made here: a guest that
//! stopped by itself makes its server SHUTOFF, a guest that vanished makes it ERROR with a reason.

use crate::State;
use crate::store::servers::{Fault, Server, VmState};
use caelum_base::Result;
use caelum_hypervisor::{GuestObserved, PowerState};
use caelum_store::{Query, Stored};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Watches one host for ever: events as they come, everything at a period and after lost events.
pub(crate) async fn watch_forever(state: Arc<State>, host: String) {
    let Ok(link) = state.hosts.get(&host).cloned() else { return };
    let mut events = link.events();
    let mut tick = tokio::time::interval(state.config.sync_period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            event = events.recv() => match event {
                Ok(e) => sync_one(&state, &host, &e.id).await,
                Err(RecvError::Lagged(_)) => sync_host(&state, &host).await,
                // The host's end of the channel went; only the period is left.
                Err(RecvError::Closed) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    events = link.events();
                    Ok(())
                }
            },
            _ = tick.tick() => sync_host(&state, &host).await,
        };
        if let Err(e) = result {
            tracing::warn!(host, error = %e.chain(), "compute: power states cannot be compared");
        }
    }
}

/// Compares every server of a host with the host.
pub async fn sync_host(state: &Arc<State>, host: &str) -> Result<()> {
    let rows = state.db.list::<Server>(Query::new().eq("host", host)).await?;
    let seen: HashMap<String, GuestObserved> = state.hosts.get(host)?.list().await?.into_iter().map(|g| (g.id.clone(), g)).collect();
    for row in rows {
        // Rows were read before the guests: a guest that is missing may belong to a row that went.
        let power = seen.get(&row.id).map(|g| g.power);
        apply(state, row, power).await?;
    }
    Ok(())
}

async fn sync_one(state: &Arc<State>, host: &str, id: &str) -> Result<()> {
    let Some(row) = state.db.get::<Server>(id).await? else { return Ok(()) };
    if row.host.as_deref() != Some(host) || row.task.is_some() {
        return Ok(());
    }
    let seen = state.hosts.get(host)?.get(id).await?;
    apply(state, row, seen.map(|g| g.power)).await
}

/// What a row without an operation becomes when its guest is seen like this; `None`: it stays.
fn plan(s: &Server, seen: Option<PowerState>) -> Option<(VmState, PowerState)> {
    let settled = matches!(s.state, VmState::Active | VmState::Stopped | VmState::Paused | VmState::Suspended | VmState::Resized);
    if s.task.is_some() || !settled {
        return None;
    }
    let Some(power) = seen else { return Some((VmState::Error, PowerState::NoState)) };
    let state = match (s.state, power) {
        (VmState::Resized, _) => VmState::Resized,
        (_, PowerState::Running) => VmState::Active,
        (_, PowerState::Paused) => VmState::Paused,
        (_, PowerState::Suspended) => VmState::Suspended,
        // A suspended guest is saved to disk and looks shut off to some hosts.
        (VmState::Suspended, PowerState::Shutdown) => VmState::Suspended,
        (_, PowerState::Shutdown | PowerState::Crashed) => VmState::Stopped,
        (s, PowerState::NoState) => s,
    };
    (state != s.state || power != s.power).then_some((state, power))
}

async fn apply(state: &Arc<State>, row: Stored<Server>, seen: Option<PowerState>) -> Result<()> {
    let Some((new, power)) = plan(&row, seen) else { return Ok(()) };
    tracing::info!(server = row.id, from = row.state.name(), to = new.name(), "compute: the guest changed by itself");
    let now = state.env.now();
    let result = state
        .db
        .write(move |tx| {
            let mut s = row.clone();
            if new == VmState::Error {
                s.fault = Some(Fault {
                    code: 500,
                    created: now,
                    message: "The guest is not on its host any more.".to_string(),
                    details: format!("Host {}", s.host.clone().unwrap_or_default()),
                });
            }
            s.state = new;
            s.power = power;
            s.updated_at = now;
            tx.update(&mut s)
        })
        .await;
    match result {
        // Somebody changed the row in the meantime; the next look decides.
        Err(e) if e.kind == caelum_base::ErrorKind::Generation => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::blank_server;

    #[test]
    fn rows_follow_guests_only_without_an_operation() {
        let mut s = blank_server();
        s.state = VmState::Active;
        s.task = None;
        s.power = PowerState::Running;
        assert_eq!(plan(&s, Some(PowerState::Running)), None);
        assert_eq!(plan(&s, Some(PowerState::Shutdown)), Some((VmState::Stopped, PowerState::Shutdown)));
        assert_eq!(plan(&s, None), Some((VmState::Error, PowerState::NoState)));
        s.task = Some(crate::store::servers::Task::Rebooting);
        assert_eq!(plan(&s, None), None);
        s.task = None;
        s.state = VmState::Error;
        assert_eq!(plan(&s, Some(PowerState::Running)), None);
    }
}
