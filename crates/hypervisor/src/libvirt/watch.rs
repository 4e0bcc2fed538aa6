//! Turns the daemon's messages into power-state events, keeps the daemon running and the console logs short.
//!
//! An event is only a reason to look: the state is read and reported when it differs from the last one reported.
//! After a lost connection or lost messages every guest is looked at.

use super::conn::Domain;
use super::rpc::{RawEvent, procedure};
use super::xdr::Reader;
use super::{Busy, Inner, PowerState, daemon};
use crate::GuestEvent;
use caelum_base::Result;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Life cycle, reboot, device removed (`virDomainEventID`).
pub const EVENT_IDS: &[u32] = &[0, 1, 15];
const CHECK_EVERY: Duration = Duration::from_secs(3);
/// A console log longer than this is cut; its end is kept.
const LOG_MAX: u64 = 4 << 20;
const LOG_KEEP: u64 = 1 << 20;

/// The domain a message is about: it follows the number of the registration.
pub fn event_domain(event: &RawEvent) -> Option<Domain> {
    let mut r = Reader::new(&event.body);
    r.u32().ok()?;
    Domain::read(&mut r).ok()
}

/// The device alias of a removal message.
pub fn event_device(event: &RawEvent) -> Option<String> {
    let mut r = Reader::new(&event.body);
    r.u32().ok()?;
    Domain::read(&mut r).ok()?;
    r.string().ok()
}

/// Runs until aborted.
pub async fn run(inner: Arc<Inner>) {
    let mut events = inner.conn.client.events();
    let mut last = HashMap::new();
    if let Err(e) = look_at_all(&inner, &mut last, false).await {
        tracing::warn!(error = %e.chain(), "the guests' states cannot be read");
    }
    let mut tick = tokio::time::interval(CHECK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let looked = tokio::select! {
            event = events.recv() => match event {
                Ok(e) if e.procedure == procedure::EVENT_LIFECYCLE => match event_domain(&e) {
                    Some(domain) => look(&inner, &mut last, &domain).await,
                    None => Ok(()),
                },
                Ok(_) => Ok(()),
                Err(RecvError::Lagged(_)) => look_at_all(&inner, &mut last, true).await,
                Err(RecvError::Closed) => return,
            },
            () = inner.conn.client.lost() => reconnect(&inner, &mut last).await,
            _ = tick.tick() => {
                cut_logs(&inner).await;
                if inner.conn.client.is_connected().await { Ok(()) } else { reconnect(&inner, &mut last).await }
            }
        };
        if let Err(e) = looked {
            tracing::warn!(error = %e.chain(), "watching the guests failed, it will be tried again");
        }
    }
}

async fn reconnect(inner: &Inner, last: &mut HashMap<String, PowerState>) -> Result<()> {
    if inner.conn.client.is_connected().await {
        return look_at_all(inner, last, true).await;
    }
    if inner.config.socket.is_none() {
        daemon::ensure(&inner.daemon, &inner.env).await?;
    }
    inner.conn.lib_version().await?;
    tracing::info!("connected to libvirt again");
    look_at_all(inner, last, true).await
}

async fn look_at_all(inner: &Inner, last: &mut HashMap<String, PowerState>, tell: bool) -> Result<()> {
    let mut now = HashMap::new();
    for domain in inner.our_domains().await? {
        now.insert(domain.guest_id(), inner.power_state(&domain).await?);
    }
    if tell {
        for (id, power) in &now {
            if last.get(id) != Some(power) {
                announce(inner, id, *power);
            }
        }
        for (id, power) in last.iter() {
            if !now.contains_key(id) && *power != PowerState::Shutdown {
                announce(inner, id, PowerState::Shutdown);
            }
        }
    }
    *last = now;
    Ok(())
}

async fn look(inner: &Inner, last: &mut HashMap<String, PowerState>, domain: &Domain) -> Result<()> {
    let id = domain.guest_id();
    if !last.contains_key(&id) && !inner.disks.paths(&id)?.dir.exists() {
        // Somebody else's domain.
        return Ok(());
    }
    let power = match inner.power_state(domain).await {
        // Between two states; the next one brings its own message.
        Ok(PowerState::NoState) => return Ok(()),
        Ok(_) if busy(inner, &id) == Some(Busy::Snapshot) => return Ok(()),
        Ok(p) => p,
        Err(e) if e.is_not_found() => {
            if last.remove(&id).is_some_and(|p| p != PowerState::Shutdown) {
                announce(inner, &id, PowerState::Shutdown);
            }
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let before = last.insert(id.clone(), power);
    // A definition alone is no change of power.
    if before != Some(power) && !(before.is_none() && power == PowerState::Shutdown) {
        announce(inner, &id, power);
    }
    Ok(())
}

fn busy(inner: &Inner, id: &str) -> Option<Busy> {
    inner.busy.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
}

fn announce(inner: &Inner, id: &str, power: PowerState) {
    let power = if busy(inner, id) == Some(Busy::Dying) { PowerState::Shutdown } else { power };
    // Without a receiver nobody wants to know yet.
    let _ = inner.events.send(GuestEvent { id: id.to_owned(), power, at: inner.env.now() });
}

/// Guests write as much as they like; QEMU appends, so the file may be cut while it is open.
async fn cut_logs(inner: &Inner) {
    for id in inner.disks.guests().unwrap_or_default() {
        let Ok(paths) = inner.disks.paths(&id) else { continue };
        let log = paths.console();
        if tokio::fs::metadata(&log).await.map_or(0, |m| m.len()) <= LOG_MAX {
            continue;
        }
        let cut = async {
            let end = read_end(&log, LOG_KEEP).await?;
            let temp = paths.console_old().with_extension("tmp");
            tokio::fs::write(&temp, end).await?;
            tokio::fs::rename(&temp, paths.console_old()).await?;
            tokio::fs::OpenOptions::new().write(true).open(&log).await?.set_len(0).await
        };
        if let Err(e) = cut.await {
            tracing::warn!(guest = id, error = %e, "the console log cannot be cut");
        }
    }
}

/// The last `max` bytes of a file.
pub async fn read_end(path: &std::path::Path, max: u64) -> std::io::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(max))).await?;
    let mut out = Vec::new();
    file.take(max).read_to_end(&mut out).await?;
    Ok(out)
}
