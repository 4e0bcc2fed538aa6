//! A simulated compute host: guests are records, everything else behaves as on a real one.
//!
//! Power states follow the same rules as under libvirt, device names are chosen by the same code,
//! console logs end at a login prompt, and snapshots are valid (empty) qcow2 files. With a state
//! directory the guests outlive the process, as real ones do. Tests plant faults with
//! [`SimHost::inject`], let guests crash or vanish, and so drive the control plane's recovery.

mod fault;
mod state;
mod vnc;

pub use fault::{Fault, FaultPoint};

use crate::{
    GuestEvent, GuestObserved, GuestSpec, HostInfo, Hypervisor, ImageSource, Nic, PowerAction, PowerState, RootDisk, VncEndpoint,
    VolumeDisk, devices, qcow2,
};
use async_trait::async_trait;
use caelum_base::{Env, Error, Result, is_uuid};
use fault::Faults;
use state::{SimGuest, State};
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// How big the simulated host is and where it remembers its guests.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub hostname: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_gib: u64,
    /// Directory for guests' records and snapshots; without one, guests live in memory.
    pub state_dir: Option<PathBuf>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { hostname: "sim".to_owned(), vcpus: 64, memory_mib: 256 * 1024, disk_gib: 4096, state_dir: None }
    }
}

/// A simulated host.
pub struct SimHost {
    config: SimConfig,
    env: Env,
    state: Mutex<State>,
    faults: Faults,
    events: broadcast::Sender<GuestEvent>,
    vnc: vnc::Listener,
}

impl SimHost {
    /// Opens the host and finds the guests its state directory holds.
    pub fn open(config: SimConfig, env: Env) -> Result<Self> {
        let state = State::open(config.state_dir.as_ref().map(|d| d.join("guests")))?;
        let (events, _) = broadcast::channel(4096);
        Ok(Self { config, env, state: Mutex::new(state), faults: Faults::default(), events, vnc: vnc::Listener::default() })
    }

    /// Plants a fault for coming calls.
    pub fn inject(&self, point: FaultPoint, fault: Fault) {
        self.faults.add(point, fault);
    }

    /// Removes every planted fault.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// The guest stops by itself: crashed, or shut down from inside.
    pub fn stop_by_itself(&self, guest_id: &str, power: PowerState) -> Result<()> {
        self.set_power(guest_id, power)
    }

    /// The guest vanishes behind the control plane's back, without an event.
    pub fn lose(&self, guest_id: &str) -> Result<()> {
        self.lock().remove(guest_id).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one guest under the lock and stores it.
    fn change<T>(&self, id: &str, f: impl FnOnce(&mut SimGuest) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        let mut guest = state.get(id)?.clone();
        let before = guest.power;
        let out = f(&mut guest)?;
        let after = guest.power;
        state.put(guest)?;
        if before != after {
            self.announce(id, after);
        }
        Ok(out)
    }

    fn announce(&self, id: &str, power: PowerState) {
        // No receiver is no error: nobody wants to know yet.
        let _ = self.events.send(GuestEvent { id: id.to_owned(), power, at: self.env.now() });
    }

    fn set_power(&self, id: &str, power: PowerState) -> Result<()> {
        self.change(id, |g| {
            g.power = power;
            Ok(())
        })
    }

    fn check(&self, spec: &GuestSpec) -> Result<()> {
        if !is_uuid(&spec.id) {
            return Err(Error::invalid("A guest's id must be a UUID."));
        }
        if spec.memory_mib > self.config.memory_mib || spec.vcpus > self.config.vcpus.saturating_mul(64) {
            return Err(Error::invalid(format!("Host {} can never hold so large a guest.", self.config.hostname)));
        }
        devices::layout(spec).map(drop)
    }
}

/// Ends a call: the error of a lost reply, else success.
fn reply<T>(late: Option<Error>, value: T) -> Result<T> {
    match late {
        None => Ok(value),
        Some(e) => Err(e),
    }
}

fn wrong_state(id: &str, verb: &str, power: PowerState) -> Error {
    Error::conflict(format!("Cannot '{verb}' instance {id} while its power state is {power:?}."))
}

fn next_power(guest: &mut SimGuest, action: PowerAction) -> Result<()> {
    use PowerState::{Paused, Running, Shutdown, Suspended};
    let id = guest.spec.id.as_str();
    let now = guest.power;
    guest.power = match (action, now) {
        (
            PowerAction::Start | PowerAction::SoftReboot { .. } | PowerAction::HardReboot,
            Shutdown | PowerState::Crashed | PowerState::NoState,
        ) => {
            guest.boots += 1;
            Running
        }
        (PowerAction::SoftReboot { .. } | PowerAction::HardReboot, _) => {
            guest.boots += 1;
            Running
        }
        (PowerAction::Start, _) => Running,
        (PowerAction::Stop { .. }, _) => Shutdown,
        (PowerAction::Pause, Running | Paused) => Paused,
        (PowerAction::Unpause, Running | Paused) => Running,
        (PowerAction::Suspend, Running | Paused | Suspended) => Suspended,
        (PowerAction::Resume, Running | Suspended) => Running,
        (PowerAction::Pause, _) => return Err(wrong_state(id, "pause", now)),
        (PowerAction::Unpause, _) => return Err(wrong_state(id, "unpause", now)),
        (PowerAction::Suspend, _) => return Err(wrong_state(id, "suspend", now)),
        (PowerAction::Resume, _) => return Err(wrong_state(id, "resume", now)),
    };
    Ok(())
}

/// What a small Linux guest prints until it asks for a login.
fn boot_log(guest: &SimGuest) -> String {
    let spec = &guest.spec;
    let host: String =
        spec.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' }).collect();
    let mut out = String::new();
    for _ in 0..guest.boots.min(16) {
        out.push_str("SeaBIOS (simulated)\r\nBooting from Hard Disk...\r\n");
        out.push_str("[    0.000000] Linux version 6.1.0 (simulated)\r\n");
        out.push_str(&format!("[    0.000000] Memory: {}K available\r\n", spec.memory_mib * 1024));
        out.push_str(&format!("[    0.010000] smp: Brought up 1 node, {} CPUs\r\n", spec.vcpus));
        for slot in devices::layout(spec).unwrap_or_default() {
            out.push_str(&format!("[    0.100000] virtio_blk: [{}] attached\r\n", slot.name));
        }
        for (i, nic) in spec.nics.iter().enumerate() {
            out.push_str(&format!("[    0.200000] virtio_net: eth{i} {} mtu {}\r\n", nic.mac, nic.mtu));
        }
        out.push_str(&format!("\r\n{host} login: "));
    }
    out
}

#[async_trait]
impl Hypervisor for SimHost {
    async fn host(&self) -> Result<HostInfo> {
        let late = self.faults.before(FaultPoint::Host).await?;
        let c = &self.config;
        let cpu_info = serde_json::json!({
            "arch": "x86_64", "model": "sim", "vendor": "Caelum", "features": ["sse2"],
            "topology": {"cells": 1, "sockets": 1, "cores": c.vcpus, "threads": 1},
        });
        reply(
            late,
            HostInfo {
                hostname: c.hostname.clone(),
                hypervisor_type: "fake".to_owned(),
                hypervisor_version: 1_000,
                vcpus: c.vcpus,
                memory_mib: c.memory_mib,
                disk_gib: c.disk_gib,
                cpu_info,
                virt_type: "sim".to_owned(),
            },
        )
    }

    async fn spawn(&self, spec: &GuestSpec, _images: &dyn ImageSource) -> Result<()> {
        let late = self.faults.before(FaultPoint::Spawn).await?;
        self.check(spec)?;
        let mut state = self.lock();
        let (boots, before) = state.guests.get(&spec.id).map_or((0, None), |g| (g.boots, Some(g.power)));
        let power = match (spec.running, before) {
            (true, _) => PowerState::Running,
            (false, _) => PowerState::Shutdown,
        };
        let started = power == PowerState::Running && before != Some(PowerState::Running);
        let boots = boots + u32::from(started);
        state.put(SimGuest { spec: spec.clone(), power, boots })?;
        if before != Some(power) {
            self.announce(&spec.id, power);
        }
        reply(late, ())
    }

    async fn destroy(&self, guest_id: &str) -> Result<()> {
        let late = self.faults.before(FaultPoint::Destroy).await?;
        if self.lock().remove(guest_id)?.is_some_and(|g| g.power != PowerState::Shutdown) {
            self.announce(guest_id, PowerState::Shutdown);
        }
        reply(late, ())
    }

    async fn power(&self, guest_id: &str, action: PowerAction) -> Result<()> {
        let late = self.faults.before(FaultPoint::Power).await?;
        self.change(guest_id, |g| next_power(g, action))?;
        reply(late, ())
    }

    async fn redefine(&self, spec: &GuestSpec) -> Result<()> {
        let late = self.faults.before(FaultPoint::Redefine).await?;
        self.check(spec)?;
        self.change(&spec.id, |g| {
            g.spec = spec.clone();
            g.boots += u32::from(spec.running);
            g.power = if spec.running { PowerState::Running } else { PowerState::Shutdown };
            Ok(())
        })?;
        reply(late, ())
    }

    async fn attach_volume(&self, guest_id: &str, disk: &VolumeDisk) -> Result<String> {
        let late = self.faults.before(FaultPoint::AttachVolume).await?;
        let name = self.change(guest_id, |g| {
            let names = |spec: &GuestSpec| -> Result<Vec<(String, String)>> {
                Ok(devices::layout(spec)?
                    .into_iter()
                    .map(|s| {
                        let id = if let devices::DiskRole::Volume(v) = s.role { v.volume_id.clone() } else { String::new() };
                        (s.name, id)
                    })
                    .collect())
            };
            let taken = names(&g.spec)?;
            if let Some((name, _)) = taken.iter().find(|(_, id)| *id == disk.volume_id) {
                return Ok(name.clone());
            }
            let prefix = devices::prefix(devices::disk_bus(&g.spec)?);
            let used: BTreeSet<String> = taken.into_iter().map(|(n, _)| n).collect();
            let name = match devices::wanted(disk, prefix) {
                Some(n) if !used.contains(n) => n.to_owned(),
                Some(n) => return Err(Error::conflict(format!("The device name {n} is in use."))),
                None => devices::next_free(&used, prefix),
            };
            g.spec.volumes.push(VolumeDisk { device: Some(name.clone()), ..disk.clone() });
            Ok(name)
        })?;
        reply(late, name)
    }

    async fn detach_volume(&self, guest_id: &str, volume_id: &str) -> Result<()> {
        let late = self.faults.before(FaultPoint::DetachVolume).await?;
        self.change(guest_id, |g| {
            g.spec.volumes.retain(|v| v.volume_id != volume_id);
            Ok(())
        })?;
        reply(late, ())
    }

    async fn resize_volume(&self, guest_id: &str, volume_id: &str, size_bytes: u64) -> Result<()> {
        let late = self.faults.before(FaultPoint::ResizeVolume).await?;
        self.change(guest_id, |g| {
            let volume = g.spec.volumes.iter_mut().find(|v| v.volume_id == volume_id);
            let volume = volume.ok_or_else(|| Error::not_found(format!("Volume {volume_id} is not attached.")))?;
            volume.size_bytes = size_bytes;
            Ok(())
        })?;
        reply(late, ())
    }

    async fn attach_nic(&self, guest_id: &str, nic: &Nic) -> Result<()> {
        let late = self.faults.before(FaultPoint::AttachNic).await?;
        self.change(guest_id, |g| {
            g.spec.nics.retain(|n| n.port_id != nic.port_id);
            g.spec.nics.push(nic.clone());
            Ok(())
        })?;
        reply(late, ())
    }

    async fn detach_nic(&self, guest_id: &str, port_id: &str) -> Result<()> {
        let late = self.faults.before(FaultPoint::DetachNic).await?;
        self.change(guest_id, |g| {
            g.spec.nics.retain(|n| n.port_id != port_id);
            Ok(())
        })?;
        reply(late, ())
    }

    async fn console_log(&self, guest_id: &str, max_bytes: u64) -> Result<Vec<u8>> {
        let late = self.faults.before(FaultPoint::ConsoleLog).await?;
        let log = boot_log(self.lock().get(guest_id)?).into_bytes();
        let keep = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(log.len());
        reply(late, log[log.len() - keep..].to_vec())
    }

    async fn vnc(&self, guest_id: &str) -> Result<VncEndpoint> {
        if self.lock().get(guest_id)?.power != PowerState::Running {
            return Err(Error::conflict(format!("Instance {guest_id} is not running.")));
        }
        self.vnc.endpoint().await
    }

    async fn snapshot_root(&self, guest_id: &str) -> Result<PathBuf> {
        let late = self.faults.before(FaultPoint::Snapshot).await?;
        let bytes = {
            let mut state = self.lock();
            let spec = &state.get(guest_id)?.spec;
            match (spec.root_gib, &spec.root) {
                (0, RootDisk::Image { size_bytes, .. }) => *size_bytes,
                (0, RootDisk::Volume) => return Err(Error::invalid("The server's root disk is a volume.")),
                (gib, _) => gib << 30,
            }
        };
        let dir = self.config.state_dir.clone().unwrap_or_else(std::env::temp_dir).join("snapshots");
        std::fs::create_dir_all(&dir).map_err(|e| Error::internal("cannot create the snapshot directory").caused_by(e))?;
        let path = dir.join(format!("{}.qcow2", self.env.uuid()));
        qcow2::create(&path, bytes, None)?;
        reply(late, path)
    }

    async fn list(&self) -> Result<Vec<GuestObserved>> {
        let late = self.faults.before(FaultPoint::List).await?;
        let all = self.lock().guests.values().map(SimGuest::observed).collect();
        reply(late, all)
    }

    async fn get(&self, guest_id: &str) -> Result<Option<GuestObserved>> {
        Ok(self.lock().guests.get(guest_id).map(SimGuest::observed))
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.events.subscribe()
    }

    async fn audit(&self, known: &HashSet<String>, heal: bool) -> Result<Vec<String>> {
        let mut state = self.lock();
        let mut out = Vec::new();
        let orphans: Vec<String> = state.guests.keys().filter(|id| !known.contains(*id)).cloned().collect();
        for id in orphans {
            out.push(format!("guest {id}: nobody knows it"));
            if heal {
                state.remove(&id)?;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
