//! Compute host: guests under libvirt/QEMU or simulated, behind one trait.
//!
//! The control plane describes a guest completely in a [`GuestSpec`]; every call may be repeated
//! after a crash and then changes nothing more. A guest outlives the process that started it: a
//! new [`Hypervisor`] over the same host finds it again through [`Hypervisor::list`].
//!
//! Network devices are not made here. `netplane` makes the tap with its filters first; the guest is
//! given the existing device.

pub mod devices;
mod disk;
mod iso9660;
mod libvirt;
mod qcow2;
mod sim;
#[cfg(test)]
mod testing;
mod types;
mod uptime;

pub use libvirt::{LibvirtConfig, LibvirtHost};
pub use sim::{Fault, FaultPoint, SimConfig, SimHost};
pub use types::*;

use async_trait::async_trait;
use caelum_base::Result;
use std::path::PathBuf;
use tokio::sync::broadcast;

/// Gives the host the bytes of an image, once per image; the host caches them.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Writes the image's bytes to `dest` (an existing empty file). The caller verifies the hash.
    async fn fetch(&self, image_id: &str, dest: &std::path::Path) -> Result<()>;
}

/// One compute host. All methods are idempotent: repeating a call that took effect succeeds and
/// changes nothing. Errors: `NotFound` for a guest the host does not have, `Invalid` for a spec it
/// can never run, `Unavailable` when the host's daemon does not answer.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Capacity and identity of the host, measured now.
    async fn host(&self) -> Result<HostInfo>;

    /// How long the host has been up and its load, in the words of `uptime`. What is given here is the
    /// machine this runs on; a proxy to another machine passes the question on.
    async fn uptime(&self) -> Result<String> {
        uptime::read().await
    }

    /// Makes the guest exist as described and puts it into `spec.power`: image cached, disks and
    /// config drive made, domain defined, started. On error nothing of the guest is left.
    async fn spawn(&self, spec: &GuestSpec, images: &dyn ImageSource) -> Result<()>;

    /// Removes the guest and everything that belongs to it. A guest that is not there is success.
    async fn destroy(&self, guest_id: &str) -> Result<()>;

    /// Changes the power state. `Stop` asks the guest first and forces after `grace`.
    async fn power(&self, guest_id: &str, action: PowerAction) -> Result<()>;

    /// Defines the guest again from `spec` without touching its disks (hard reboot, new device
    /// set) and starts it.
    async fn redefine(&self, spec: &GuestSpec) -> Result<()>;

    /// Adds a disk; returns the device name the guest sees (`vdb`).
    async fn attach_volume(&self, guest_id: &str, disk: &VolumeDisk) -> Result<String>;

    /// Removes a disk by volume id; waits until the guest has let go or fails `Conflict`.
    async fn detach_volume(&self, guest_id: &str, volume_id: &str) -> Result<()>;

    /// Tells a running guest that a disk grew.
    async fn resize_volume(&self, guest_id: &str, volume_id: &str, size_bytes: u64) -> Result<()>;

    /// Adds a network interface over an existing tap.
    async fn attach_nic(&self, guest_id: &str, nic: &Nic) -> Result<()>;

    /// Removes a network interface by port id.
    async fn detach_nic(&self, guest_id: &str, port_id: &str) -> Result<()>;

    /// The serial console's log, last `max_bytes` bytes.
    async fn console_log(&self, guest_id: &str, max_bytes: u64) -> Result<Vec<u8>>;

    /// Where the guest's VNC server listens.
    async fn vnc(&self, guest_id: &str) -> Result<VncEndpoint>;

    /// A consistent copy of the root disk as a self-contained qcow2 file in the host's own
    /// directory; the caller deletes it.
    async fn snapshot_root(&self, guest_id: &str) -> Result<PathBuf>;

    /// Every guest of ours on the host.
    async fn list(&self) -> Result<Vec<GuestObserved>>;

    /// One guest, or `None` when the host does not have it.
    async fn get(&self, guest_id: &str) -> Result<Option<GuestObserved>>;

    /// Power-state changes as they happen. A receiver that lags must call [`Hypervisor::list`].
    fn events(&self) -> broadcast::Receiver<GuestEvent>;

    /// Leftovers: disks, domains, config drives without a guest in `known` (ids). With `heal`, removes them.
    /// One line of text per finding.
    async fn audit(&self, known: &std::collections::HashSet<String>, heal: bool) -> Result<Vec<String>>;
}
