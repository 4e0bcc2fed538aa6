//! Power actions and states.

use super::conn::{Domain, state};
use super::{Inner, PowerAction, PowerState};
use super::{rpc, watch};
use caelum_base::{Error, Result};
use std::time::Duration;
use tokio::time::Instant;

/// Guests that are still booting ignore the power button; it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// Without an event the state is read this often.
const LOOK: Duration = Duration::from_secs(1);
/// `virDomainShutoffReason`: the guest crashed.
const SHUTOFF_CRASHED: i32 = 3;

/// `virDomainPausedReason`.
mod paused {
    pub const SAVING: i32 = 3;
    pub const SHUTTING_DOWN: i32 = 8;
    pub const CRASHED: i32 = 10;
    pub const STARTING: i32 = 11;
}

fn wrong_state(verb: &str, domain: &Domain, power: PowerState) -> Error {
    Error::conflict(format!("Cannot '{verb}' instance {} while its power state is {power:?}.", domain.guest_id()))
}

impl Inner {
    pub(super) async fn power_state(&self, domain: &Domain) -> Result<PowerState> {
        let (now, reason) = self.conn.state(domain).await?;
        Ok(match now {
            // A guest that shuts down still runs until QEMU has ended.
            state::RUNNING | state::BLOCKED | state::SHUTDOWN => PowerState::Running,
            state::PAUSED => match reason {
                paused::SAVING | paused::STARTING => PowerState::NoState,
                paused::SHUTTING_DOWN => PowerState::Running,
                paused::CRASHED => PowerState::Crashed,
                _ => PowerState::Paused,
            },
            state::PMSUSPENDED => PowerState::Suspended,
            state::CRASHED => PowerState::Crashed,
            state::SHUTOFF if reason == SHUTOFF_CRASHED => PowerState::Crashed,
            state::SHUTOFF if self.conn.has_managed_save(domain).await? => PowerState::Suspended,
            state::SHUTOFF => PowerState::Shutdown,
            _ => PowerState::NoState,
        })
    }

    pub(super) async fn power(&self, id: &str, action: PowerAction) -> Result<()> {
        let lock = self.lock(id);
        let held = lock.lock().await;
        let domain = self.domain(id).await?;
        let now = self.power_state(&domain).await?;
        use PowerState::{Paused, Running, Suspended};
        match (action, now) {
            (PowerAction::Start, _) => self.start(&domain).await,
            (PowerAction::Stop { grace }, Running) if !grace.is_zero() => {
                // The lock is free while the guest takes its time: a delete need not wait.
                drop(held);
                self.stop_gently(&domain, grace).await
            }
            (PowerAction::Stop { .. }, _) => self.force_off(&domain).await,
            (PowerAction::SoftReboot { grace }, Running) => {
                drop(held);
                self.reboot_gently(&domain, grace).await
            }
            (PowerAction::HardReboot, Running) => self.conn.reset(&domain).await,
            (PowerAction::HardReboot | PowerAction::SoftReboot { .. }, Paused) => {
                self.conn.reset(&domain).await?;
                self.conn.resume(&domain).await
            }
            (PowerAction::HardReboot | PowerAction::SoftReboot { .. }, _) => {
                self.force_off(&domain).await?;
                self.conn.create(&domain).await
            }
            (PowerAction::Pause, Running) => self.conn.suspend(&domain).await,
            (PowerAction::Pause, Paused) | (PowerAction::Suspend, Suspended) => Ok(()),
            (PowerAction::Unpause, Paused) => self.conn.resume(&domain).await,
            (PowerAction::Unpause | PowerAction::Resume, Running) => Ok(()),
            (PowerAction::Suspend, Running | Paused) => self.conn.managed_save(&domain).await,
            (PowerAction::Resume, Suspended) => self.conn.create(&domain).await,
            (PowerAction::Pause, _) => Err(wrong_state("pause", &domain, now)),
            (PowerAction::Unpause, _) => Err(wrong_state("unpause", &domain, now)),
            (PowerAction::Suspend, _) => Err(wrong_state("suspend", &domain, now)),
            (PowerAction::Resume, _) => Err(wrong_state("resume", &domain, now)),
        }
    }

    pub(super) async fn start(&self, domain: &Domain) -> Result<()> {
        match self.power_state(domain).await? {
            PowerState::Running => Ok(()),
            PowerState::Paused => self.conn.resume(domain).await,
            PowerState::Crashed => {
                self.force_off(domain).await?;
                self.conn.create(domain).await
            }
            _ => self.conn.create(domain).await,
        }
    }

    /// Ends the QEMU process, if there is one, and drops a saved memory image.
    pub(super) async fn force_off(&self, domain: &Domain) -> Result<()> {
        let off = |e: &Error| e.is_conflict() || e.is_not_found();
        if self.conn.state(domain).await?.0 != state::SHUTOFF {
            match self.conn.destroy(domain).await {
                // It ended by itself in between.
                Err(e) if off(&e) && self.conn.state(domain).await.is_ok_and(|s| s.0 == state::SHUTOFF) => {}
                other => other?,
            }
        }
        if self.conn.has_managed_save(domain).await? {
            self.conn.managed_save_remove(domain).await?;
        }
        Ok(())
    }

    async fn stop_gently(&self, domain: &Domain, grace: Duration) -> Result<()> {
        let deadline = Instant::now() + grace;
        let mut events = self.conn.client.events();
        let mut pressed: Option<Instant> = None;
        while Instant::now() < deadline {
            match self.conn.state(domain).await {
                Ok((state::SHUTOFF, _)) => return Ok(()),
                Ok(_) => {}
                // Deleted meanwhile: it is certainly off.
                Err(e) if e.is_not_found() => return Ok(()),
                Err(e) => return Err(e),
            }
            if pressed.is_none_or(|at| at.elapsed() >= PRESS_AGAIN) {
                pressed = Some(Instant::now());
                if let Err(e) = self.conn.shutdown(domain).await {
                    tracing::debug!(error = %e.chain(), "the power button had no effect");
                }
            }
            let until = deadline.min(Instant::now() + LOOK);
            wait_event(&mut events, domain, rpc::procedure::EVENT_LIFECYCLE, until).await;
        }
        let lock = self.lock(&domain.guest_id());
        let _held = lock.lock().await;
        match self.force_off(domain).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn reboot_gently(&self, domain: &Domain, grace: Duration) -> Result<()> {
        let mut events = self.conn.client.events();
        let deadline = Instant::now() + grace;
        if let Err(e) = self.conn.reboot(domain).await {
            tracing::debug!(error = %e.chain(), "the guest cannot be asked to reboot");
        } else if wait_event(&mut events, domain, rpc::procedure::EVENT_REBOOT, deadline).await {
            return Ok(());
        }
        let lock = self.lock(&domain.guest_id());
        let _held = lock.lock().await;
        match self.conn.state(domain).await?.0 {
            state::SHUTOFF => self.conn.create(domain).await,
            _ => self.conn.reset(domain).await,
        }
    }
}

/// Waits until an event of this kind about the domain arrives; false when `until` passes first.
async fn wait_event(events: &mut tokio::sync::broadcast::Receiver<rpc::RawEvent>, domain: &Domain, procedure: u32, until: Instant) -> bool {
    loop {
        match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Ok(e)) if e.procedure == procedure && watch::event_domain(&e).is_some_and(|d| d.uuid == domain.uuid) => return true,
            Ok(Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => {}
            Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) | Err(_) => return false,
        }
    }
}
