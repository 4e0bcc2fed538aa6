use caelum_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a host needs to know to make one guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The server's UUID; also the domain's UUID.
    pub id: String,
    /// Domain name, `instance-<8 hex>`, unique on the host.
    pub domain: String,
    /// Display name; data only, never part of a path.
    pub name: String,
    pub project_id: String,
    pub user_id: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// Size of the root disk in GiB; 0 means the image's own size.
    pub root_gib: u64,
    pub ephemeral_gib: u64,
    pub swap_mib: u64,
    /// Flavor extra specs (`hw:*`, `quota:*`).
    pub extra_specs: BTreeMap<String, String>,
    /// Image properties (`hw_disk_bus`, `hw_machine_type`, …).
    pub image_props: BTreeMap<String, String>,
    pub root: RootDisk,
    pub volumes: Vec<VolumeDisk>,
    pub nics: Vec<Nic>,
    pub config_drive: Option<ConfigDrive>,
    /// The power state the guest shall have when the call returns.
    pub running: bool,
}

/// Where the root disk comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RootDisk {
    /// A copy-on-write disk over the cached image.
    Image {
        image_id: String,
        /// Declared disk format of the image (`qcow2`, `raw`, …).
        format: String,
        /// Lower-case hex SHA-512 of the image's bytes; checked before the bytes are used.
        sha512: String,
        size_bytes: u64,
    },
    /// The volume with `boot_index` 0.
    Volume,
}

/// A volume as a disk of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeDisk {
    pub volume_id: String,
    /// Host path of the volume's file.
    pub path: PathBuf,
    /// `raw` or `qcow2`, explicit, never probed.
    pub format: String,
    pub size_bytes: u64,
    /// Wanted device name (`vdb`); the host picks the next free one when absent.
    pub device: Option<String>,
    pub boot_index: Option<i32>,
    pub read_only: bool,
    pub shareable: bool,
}

/// A network interface over a tap that exists already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    pub port_id: String,
    pub mac: String,
    /// Host device name, at most 15 bytes.
    pub tap: String,
    pub mtu: u32,
    /// `virtio`, `e1000`, …
    pub model: String,
}

/// Files of the config drive by path (`openstack/latest/meta_data.json`). ISO 9660, label `config-2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigDrive {
    pub files: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum PowerAction {
    Start,
    /// ACPI shutdown, forced off after `grace`.
    Stop {
        grace: Duration,
    },
    /// ACPI reboot where the guest answers within `grace`, else a reset.
    SoftReboot {
        grace: Duration,
    },
    /// Reset.
    HardReboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
}

/// Nova's numbering: 0 NOSTATE, 1 RUNNING, 3 PAUSED, 4 SHUTDOWN, 6 CRASHED, 7 SUSPENDED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    NoState,
    Running,
    Paused,
    Shutdown,
    Crashed,
    Suspended,
}

impl PowerState {
    pub const fn number(self) -> i64 {
        match self {
            Self::NoState => 0,
            Self::Running => 1,
            Self::Paused => 3,
            Self::Shutdown => 4,
            Self::Crashed => 6,
            Self::Suspended => 7,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestObserved {
    pub id: String,
    pub domain: String,
    pub power: PowerState,
    /// Volume ids attached now.
    pub volume_ids: Vec<String>,
    /// Port ids attached now.
    pub port_ids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestEvent {
    pub id: String,
    pub power: PowerState,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostInfo {
    pub hostname: String,
    /// `QEMU` or `fake`-like kind as Nova reports it.
    pub hypervisor_type: String,
    /// libvirt's packing: 7.2.0 is 7002000.
    pub hypervisor_version: i64,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_gib: u64,
    /// CPU description, Nova's `cpu_info` (arch, model, vendor, features, topology) as JSON.
    pub cpu_info: serde_json::Value,
    /// `kvm` or `qemu` (TCG) or `sim`.
    pub virt_type: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VncEndpoint {
    Tcp { host: String, port: u16 },
    Unix { path: PathBuf },
}
