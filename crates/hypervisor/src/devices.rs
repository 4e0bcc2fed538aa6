//! Which disk gets which device name. Both drivers use this, so that a guest sees the same names
//! on a real and on a simulated host.

use crate::{GuestSpec, RootDisk, VolumeDisk};
use caelum_base::{Error, Result};
use std::collections::BTreeSet;

/// What a disk of the guest is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DiskRole<'a> {
    Root,
    Ephemeral,
    Swap,
    Volume(&'a VolumeDisk),
}

/// A disk with its bus and the name the guest sees.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskSlot<'a> {
    pub name: String,
    pub role: DiskRole<'a>,
    /// Boot order from 1, for disks one may boot from.
    pub boot_order: Option<u32>,
}

/// The disk bus libvirt is told: from the image's `hw_disk_bus`, else `virtio`.
pub fn disk_bus(spec: &GuestSpec) -> Result<&'static str> {
    match spec.image_props.get("hw_disk_bus").map(String::as_str) {
        None | Some("" | "virtio") => Ok("virtio"),
        Some("scsi") => Ok("scsi"),
        Some("ide") => Ok("ide"),
        Some("sata") => Ok("sata"),
        Some("usb") => Ok("usb"),
        Some(other) => Err(Error::invalid(format!("Disk bus hw_disk_bus={other} is not supported by this host."))),
    }
}

/// First letters of device names on `bus`.
pub fn prefix(bus: &str) -> &'static str {
    match bus {
        "virtio" => "vd",
        "ide" => "hd",
        _ => "sd",
    }
}

/// `vda`, …, `vdz`, `vdaa`, … for 0, …
pub fn name_at(prefix: &str, index: usize) -> String {
    let mut letters = Vec::new();
    let mut n = index;
    loop {
        letters.push(b'a' + (n % 26) as u8);
        if n < 26 {
            break;
        }
        n = n / 26 - 1;
    }
    letters.reverse();
    format!("{prefix}{}", String::from_utf8_lossy(&letters))
}

/// Whether `name` is a device name with this prefix; `/dev/` in front is accepted by callers.
fn fits(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|r| !r.is_empty() && r.len() <= 2 && r.bytes().all(|b| b.is_ascii_lowercase()))
}

/// The wanted device name of a volume without `/dev/`, if it fits the bus.
pub fn wanted<'a>(disk: &'a VolumeDisk, prefix: &str) -> Option<&'a str> {
    disk.device.as_deref().map(|d| d.strip_prefix("/dev/").unwrap_or(d)).filter(|d| fits(d, prefix))
}

/// The next free name not in `used`.
pub fn next_free(used: &BTreeSet<String>, prefix: &str) -> String {
    (0..).map(|i| name_at(prefix, i)).find(|n| !used.contains(n)).unwrap_or_default()
}

/// All disks of the guest in order: root, ephemeral, swap, then volumes.
pub fn layout(spec: &GuestSpec) -> Result<Vec<DiskSlot<'_>>> {
    let prefix = prefix(disk_bus(spec)?);
    let mut used = BTreeSet::new();
    let mut slots = Vec::new();
    let boot_volume = match spec.root {
        RootDisk::Image { .. } => None,
        RootDisk::Volume => Some(
            spec.volumes
                .iter()
                .find(|v| v.boot_index == Some(0))
                .ok_or_else(|| Error::invalid("The server boots from a volume but no volume has boot_index 0."))?,
        ),
    };
    let root = name_at(prefix, 0);
    used.insert(root.clone());
    let role = boot_volume.map_or(DiskRole::Root, DiskRole::Volume);
    slots.push(DiskSlot { name: root, role, boot_order: Some(1) });
    let rest: Vec<&VolumeDisk> = spec.volumes.iter().filter(|v| boot_volume.is_none_or(|b| b.volume_id != v.volume_id)).collect();
    // Names somebody asked for are taken first, so that an automatic name never collides.
    for v in &rest {
        if let Some(name) = wanted(v, prefix) {
            used.insert(name.to_owned());
        }
    }
    for (present, role) in [(spec.ephemeral_gib > 0, DiskRole::Ephemeral), (spec.swap_mib > 0, DiskRole::Swap)] {
        if present {
            let name = next_free(&used, prefix);
            used.insert(name.clone());
            slots.push(DiskSlot { name, role, boot_order: None });
        }
    }
    let mut given = BTreeSet::new();
    for v in rest {
        let name = match wanted(v, prefix) {
            Some(n) if given.insert(n.to_owned()) && n != slots[0].name => n.to_owned(),
            _ => next_free(&used, prefix),
        };
        used.insert(name.clone());
        let boot_order = v.boot_index.and_then(|b| u32::try_from(b).ok()).filter(|b| *b > 0).map(|b| b + 1);
        slots.push(DiskSlot { name, role: DiskRole::Volume(v), boot_order });
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_like_the_kernel() {
        for (i, n) in [(0, "vda"), (25, "vdz"), (26, "vdaa"), (27, "vdab"), (701, "vdzz"), (702, "vdaaa")] {
            assert_eq!(name_at("vd", i), n);
        }
    }

    #[test]
    fn wanted_names_win_over_automatic_ones() {
        let mut spec = crate::testing::spec("11111111-1111-4111-8111-111111111111");
        spec.ephemeral_gib = 1;
        let vol = |id: &str, device: Option<&str>| VolumeDisk {
            volume_id: id.into(),
            path: "/x".into(),
            format: "raw".into(),
            size_bytes: 1,
            device: device.map(Into::into),
            boot_index: None,
            read_only: false,
            shareable: false,
        };
        spec.volumes = vec![vol("a", None), vol("b", Some("/dev/vdb")), vol("c", Some("sdz"))];
        let names: Vec<_> = layout(&spec).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["vda", "vdc", "vdd", "vdb", "vde"]);
        spec.root = RootDisk::Volume;
        assert!(layout(&spec).is_err());
        spec.volumes[1].boot_index = Some(0);
        let slots = layout(&spec).unwrap();
        assert!(matches!(slots[0].role, DiskRole::Volume(v) if v.volume_id == "b"));
        assert_eq!(slots.len(), 4);
    }
}
