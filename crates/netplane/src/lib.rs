//! Network host: the kernel's bridges, taps, namespaces, filters, DHCP and routers of one host,
//! made to match a complete description.
//!
//! The control plane sends the *whole* wanted state with a generation ([`HostState`]); the plane
//! computes the difference to what the kernel has and applies it. Repeating a state changes nothing,
//! an older generation is refused, and everything of ours that the state does not name is removed.
//! Everything carries a name prefix of ours, so the kernel itself says after a crash what is ours.
//!
//! A port's filters are loaded before its tap goes up.

mod linux;
mod sim;
mod types;

pub use linux::LinuxPlane;
pub use sim::SimPlane;
pub use types::*;

use async_trait::async_trait;
use caelum_base::Result;

/// One network host, real or simulated.
#[async_trait]
pub trait NetworkHost: Send + Sync {
    /// Makes the host match `state`. An object that cannot be made is reported in
    /// [`Applied::failed`] and does not stop the others. Errors with `Generation` when a newer state
    /// was applied before, `Unavailable` when the host lacks what is needed (one clear sentence).
    async fn apply(&self, state: &HostState) -> Result<Applied>;

    /// Applies a change to a few objects without sending the whole state (fast path); same meaning
    /// as applying the last full state with these objects replaced or removed.
    async fn patch(&self, patch: &HostPatch) -> Result<Applied>;

    /// Checks that the host has what the plane needs; one sentence per missing thing.
    async fn check(&self) -> Vec<String>;

    /// Things of ours on the host that the last applied state does not name, and named things that
    /// are missing. One line of text each. With `heal`, makes it right.
    async fn audit(&self, heal: bool) -> Result<Vec<String>>;

    /// Removes everything of ours from the host.
    async fn wipe(&self) -> Result<()>;
}

/// Refuses a generation older than the one the host already has.
pub(crate) fn check_generation(have: u64, offered: u64) -> Result<()> {
    if offered < have {
        return Err(caelum_base::Error::generation(format!("The host already has generation {have} and refuses the older {offered}.")));
    }
    Ok(())
}
