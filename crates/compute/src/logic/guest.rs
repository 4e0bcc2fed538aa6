//! From a server's row to what its host is told.

use crate::State;
use crate::logic::{config_drive, network, volumes};
use crate::store::servers::{ImageFacts, Server, ServerData, ServerPort};
use caelum_base::{Error, Result};
use caelum_flow::StepCx;
use caelum_hypervisor::{ConfigDrive, GuestSpec, Nic, RootDisk, devices};
use std::collections::BTreeMap;
use std::time::Duration;

/// The whole description of a server's guest.
pub async fn spec(state: &State, s: &Server, running: bool) -> Result<GuestSpec> {
    spec_with(state, s, s.image.as_ref(), running).await
}

/// As [`spec`] with another root image (unshelve).
pub async fn spec_with(state: &State, s: &Server, image: Option<&ImageFacts>, running: bool) -> Result<GuestSpec> {
    let mut spec = bare(s, image, running)?;
    if s.config_drive {
        let data = state.db.get::<ServerData>(&s.id).await?.map(|d| d.value).unwrap_or_default();
        spec.config_drive = Some(ConfigDrive { files: config_drive::files(state, s, &data).await? });
    }
    Ok(spec)
}

/// The description without a config drive.
pub fn bare(s: &Server, image: Option<&ImageFacts>, running: bool) -> Result<GuestSpec> {
    let props: BTreeMap<String, String> = image.map(|i| i.properties.clone()).unwrap_or_default();
    let root = match image {
        _ if s.volume_backed() => RootDisk::Volume,
        Some(i) => {
            RootDisk::Image { image_id: i.id.clone(), format: i.disk_format.clone(), sha512: i.sha512.clone(), size_bytes: i.size_bytes }
        }
        None => return Err(Error::conflict(format!("Server {} has neither an image nor a boot volume.", s.id))),
    };
    Ok(GuestSpec {
        id: s.id.clone(),
        domain: s.domain(),
        name: s.name.clone(),
        project_id: s.project_id.clone(),
        user_id: s.user_id.clone(),
        vcpus: u32::try_from(s.flavor.vcpus).unwrap_or(1).max(1),
        memory_mib: unsigned(s.flavor.ram_mb),
        root_gib: unsigned(s.flavor.root_gb),
        ephemeral_gib: unsigned(s.flavor.ephemeral_gb),
        swap_mib: unsigned(s.flavor.swap_mb),
        extra_specs: s.flavor.extra_specs.clone(),
        root,
        volumes: s.volumes.iter().filter(|v| !v.volume_id.is_empty()).map(volumes::disk).collect(),
        nics: s.ports.iter().map(|p| nic(p, &props)).collect(),
        image_props: props,
        config_drive: None,
        running,
    })
}

/// Gives every volume without a device name the one the host will choose.
pub fn name_devices(s: &mut Server) -> Result<()> {
    let spec = bare(s, s.image.as_ref(), true)?;
    for slot in devices::layout(&spec)? {
        let devices::DiskRole::Volume(disk) = slot.role else { continue };
        if let Some(v) = s.volumes.iter_mut().find(|v| v.volume_id == disk.volume_id) {
            v.device = Some(format!("/dev/{}", slot.name));
        }
    }
    Ok(())
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// The tap's name is agreed with the network host: `tap` and the first eleven characters of the port id.
pub fn nic(p: &ServerPort, image_props: &BTreeMap<String, String>) -> Nic {
    Nic {
        port_id: p.port_id.clone(),
        mac: p.mac.clone(),
        tap: format!("tap{}", p.port_id.chars().take(11).collect::<String>()),
        mtu: p.mtu,
        model: image_props.get("hw_vif_model").cloned().unwrap_or_else(|| "virtio".to_string()),
    }
}

/// Waits until the network host has made the devices of these ports: woken by events, sure by
/// asking. Errors: `Timeout` after the configured wait.
pub async fn wait_plugged(cx: &StepCx<State>, server_id: &str, ports: &[String]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let woken = cx.wait_for_ports(server_id);
    let _guard = Waiting(cx.app(), server_id);
    let all = async {
        let mut wait = Duration::from_millis(20);
        loop {
            let changed = woken.notified();
            let seen = network::ports_of(cx, server_id).await?;
            let down = |id: &String| seen.iter().any(|p| p.id == *id && p.admin_state_up && !p.is_active());
            if !ports.iter().any(down) {
                return Ok(());
            }
            let _ = tokio::time::timeout(wait, changed).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    };
    let late = || Error::conflict("The network did not make the server's ports ready in time.").code("VirtualInterfaceCreateException");
    tokio::time::timeout(cx.config.vif_timeout, all).await.map_err(|_| late())?
}

/// Forgets the waiter however the wait ends.
struct Waiting<'a>(&'a State, &'a str);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.stop_waiting(self.1);
    }
}
