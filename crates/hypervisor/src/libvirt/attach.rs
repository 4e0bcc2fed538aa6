//! Devices added to and removed from a guest, running or not.
//!
//! What is attached is read from the domain each time. A removal is done when the device is gone from the running
//! guest *and* from the stored definition; the stored one is changed last, so a repeated call
//! finishes what a crash left.

use super::conn::{Domain, Scope, state};
use super::rpc::procedure;
use super::{Inner, Nic, VolumeDisk, absent, watch, xml, xml_read};
use crate::devices;
use caelum_base::{Error, Result};
use std::time::Duration;
use tokio::time::Instant;

/// How long one request to let go of a device is waited for before it is repeated.
const DETACH_TRY: Duration = Duration::from_secs(5);

impl Inner {
    async fn active(&self, domain: &Domain) -> Result<bool> {
        Ok(self.conn.state(domain).await?.0 != state::SHUTOFF)
    }

    pub(super) async fn attach_volume(&self, id: &str, disk: &VolumeDisk) -> Result<String> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let domain = self.domain(id).await?;
        let mut spec = self.disks.stored_spec(id)?.ok_or_else(|| absent(id))?;
        let text = self.conn.xml(&domain, false).await?;
        if let Some(d) = xml_read::ours(&text, "vol").into_iter().find(|d| d.id == disk.volume_id) {
            return Ok(d.name);
        }
        let mut used = xml_read::disk_names(&text);
        used.extend(xml_read::disk_names(&self.conn.xml(&domain, true).await?));
        let prefix = devices::prefix(devices::disk_bus(&spec)?);
        let name = match devices::wanted(disk, prefix) {
            Some(n) if used.contains(n) => return Err(Error::conflict(format!("The device name {n} is in use."))),
            Some(n) => n.to_owned(),
            None => devices::next_free(&used, prefix),
        };
        let device = xml::volume_device(&spec, disk, &name, &self.facts)?;
        self.attach(&domain, &device).await?;
        spec.volumes.retain(|v| v.volume_id != disk.volume_id);
        spec.volumes.push(VolumeDisk { device: Some(name.clone()), ..disk.clone() });
        self.disks.store_spec(&spec).await?;
        Ok(name)
    }

    pub(super) async fn attach_nic(&self, id: &str, nic: &Nic) -> Result<()> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let domain = self.domain(id).await?;
        let mut spec = self.disks.stored_spec(id)?.ok_or_else(|| absent(id))?;
        let text = self.conn.xml(&domain, false).await?;
        if xml_read::ours(&text, "nic").iter().any(|d| d.id == nic.port_id) {
            return Ok(());
        }
        self.attach(&domain, &xml::nic_device(nic)?).await?;
        spec.nics.retain(|n| n.port_id != nic.port_id);
        spec.nics.push(nic.clone());
        self.disks.store_spec(&spec).await
    }

    async fn attach(&self, domain: &Domain, device: &str) -> Result<()> {
        let scope = if self.active(domain).await? { Scope::LiveAndConfig } else { Scope::Config };
        self.conn.attach(domain, device, scope).await
    }

    pub(super) async fn resize_volume(&self, id: &str, volume_id: &str, size_bytes: u64) -> Result<()> {
        let domain = self.domain(id).await?;
        let text = self.conn.xml(&domain, false).await?;
        let device = xml_read::ours(&text, "vol").into_iter().find(|d| d.id == volume_id);
        let device = device.ok_or_else(|| Error::not_found(format!("Volume {volume_id} is not attached.")))?;
        if self.active(&domain).await? { self.conn.block_resize(&domain, &device.name, size_bytes).await } else { Ok(()) }
    }

    /// Removes the device with our alias of `kind` (`vol`, `nic`). A guest or device that is not there is success.
    pub(super) async fn detach(&self, id: &str, kind: &str, device_id: &str) -> Result<()> {
        let Some(domain) = self.conn.lookup(id).await? else { return Ok(()) };
        if self.active(&domain).await? {
            self.detach_live(&domain, kind, device_id).await?;
        }
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let stored = self.conn.xml(&domain, true).await?;
        if let Some(device) = xml_read::ours(&stored, kind).into_iter().find(|d| d.id == device_id) {
            self.conn.detach(&domain, &device.xml, Scope::Config).await?;
        }
        if let Some(mut spec) = self.disks.stored_spec(id)? {
            let before = (spec.volumes.len(), spec.nics.len());
            match kind {
                "vol" => spec.volumes.retain(|v| v.volume_id != device_id),
                _ => spec.nics.retain(|n| n.port_id != device_id),
            }
            if before != (spec.volumes.len(), spec.nics.len()) {
                self.disks.store_spec(&spec).await?;
            }
        }
        Ok(())
    }

    /// Asks the guest to let go until it did or the time is over.
    async fn detach_live(&self, domain: &Domain, kind: &str, device_id: &str) -> Result<()> {
        let mut events = self.conn.client.events();
        let deadline = Instant::now() + self.config.detach_limit;
        loop {
            let text = self.conn.xml(domain, false).await?;
            let Some(device) = xml_read::ours(&text, kind).into_iter().find(|d| d.id == device_id) else { return Ok(()) };
            if !self.active(domain).await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::conflict(format!("The guest did not release device {}; it may be in use.", device.name)));
            }
            if let Err(e) = self.conn.detach(domain, &device.xml, Scope::Live).await {
                // An unplug that is still under way is refused a second time; the wait below is right for it.
                tracing::debug!(error = %e.chain(), "the request to unplug a device was refused");
            }
            let until = deadline.min(Instant::now() + DETACH_TRY);
            let alias = format!("ua-{kind}-{device_id}");
            wait_removed(&mut events, domain, &alias, until).await;
        }
    }
}

async fn wait_removed(events: &mut tokio::sync::broadcast::Receiver<super::rpc::RawEvent>, domain: &Domain, alias: &str, until: Instant) {
    loop {
        match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Ok(e)) if e.procedure == procedure::EVENT_DEVICE_REMOVED => {
                let here = watch::event_domain(&e).is_some_and(|d| d.uuid == domain.uuid);
                if here && watch::event_device(&e).is_some_and(|a| a == alias) {
                    return;
                }
            }
            Ok(Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => {}
            Ok(Err(tokio::sync::broadcast::error::RecvError::Closed)) | Err(_) => return,
        }
    }
}
