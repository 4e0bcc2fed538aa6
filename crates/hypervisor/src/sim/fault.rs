//! Faults a test plants in a simulated host.

use caelum_base::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// The call a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultPoint {
    Host,
    Spawn,
    Destroy,
    Power,
    Redefine,
    AttachVolume,
    DetachVolume,
    ResizeVolume,
    AttachNic,
    DetachNic,
    ConsoleLog,
    Snapshot,
    List,
}

/// What happens to the next `times` calls.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Waited before the call takes effect (tokio time).
    pub delay: Duration,
    /// The error the call returns.
    pub error: Option<(ErrorKind, String)>,
    /// The call takes effect and the error is returned anyway: a lost reply.
    pub after_effect: bool,
    /// How many calls are affected; `u32::MAX` means every call.
    pub times: u32,
}

impl Fault {
    /// The next call fails and changes nothing.
    pub fn fail(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { delay: Duration::ZERO, error: Some((kind, message.into())), after_effect: false, times: 1 }
    }

    /// The next call takes effect, but its caller is told it failed.
    pub fn lost_reply() -> Self {
        let error = Some((ErrorKind::Unavailable, "The host's answer was lost.".to_owned()));
        Self { delay: Duration::ZERO, error, after_effect: true, times: 1 }
    }

    /// Every call takes this much longer.
    pub fn slow(delay: Duration) -> Self {
        Self { delay, error: None, after_effect: false, times: u32::MAX }
    }
}

#[derive(Default)]
pub(super) struct Faults(Mutex<BTreeMap<FaultPoint, Vec<Fault>>>);

impl Faults {
    pub(super) fn add(&self, point: FaultPoint, fault: Fault) {
        self.lock().entry(point).or_default().push(fault);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<FaultPoint, Vec<Fault>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes the first planted fault of `point`, waits its delay, and returns the error to give
    /// before (`Err`) or after the effect (`Ok(Some)`).
    pub(super) async fn before(&self, point: FaultPoint) -> Result<Option<Error>> {
        let fault = {
            let mut map = self.lock();
            let Some(list) = map.get_mut(&point) else { return Ok(None) };
            let Some(first) = list.first_mut() else { return Ok(None) };
            let fault = first.clone();
            if first.times != u32::MAX {
                first.times = first.times.saturating_sub(1);
                if first.times == 0 {
                    list.remove(0);
                }
            }
            fault
        };
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        match fault.error {
            None => Ok(None),
            Some((kind, message)) if fault.after_effect => Ok(Some(Error::new(kind, message))),
            Some((kind, message)) => Err(Error::new(kind, message)),
        }
    }
}
