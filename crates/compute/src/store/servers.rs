//! Servers. A row has three parts: what is wanted and was reached (`state`), what the host reports
//! (`power`), and the one running operation (`task`, a flow). Status fields are computed from them.

use super::flavors::Flavor;
use caelum_base::{Error, Result, Timestamp};
use caelum_hypervisor::PowerState;
use caelum_store::{Query, Record, Stored, Table, Tx, Value, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The state the last finished operation reached; Nova's `vm_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    Building,
    Active,
    Stopped,
    Paused,
    Suspended,
    Rescued,
    Resized,
    Shelved,
    ShelvedOffloaded,
    Error,
}

impl VmState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Active => "active",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Rescued => "rescued",
            Self::Resized => "resized",
            Self::Shelved => "shelved",
            Self::ShelvedOffloaded => "shelved_offloaded",
            Self::Error => "error",
        }
    }
}

/// A running operation as the API shows it; Nova's `task_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Scheduling,
    Networking,
    BlockDeviceMapping,
    Spawning,
    PoweringOn,
    PoweringOff,
    Rebooting,
    RebootingHard,
    Pausing,
    Unpausing,
    Suspending,
    Resuming,
    Rebuilding,
    ImageSnapshot,
    ResizePrep,
    ResizeFinish,
    ResizeReverting,
    ResizeConfirming,
    Rescuing,
    Unrescuing,
    Shelving,
    ShelvingOffloading,
    Unshelving,
    Deleting,
}

impl Task {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduling => "scheduling",
            Self::Networking => "networking",
            Self::BlockDeviceMapping => "block_device_mapping",
            Self::Spawning => "spawning",
            Self::PoweringOn => "powering-on",
            Self::PoweringOff => "powering-off",
            Self::Rebooting => "rebooting",
            Self::RebootingHard => "rebooting_hard",
            Self::Pausing => "pausing",
            Self::Unpausing => "unpausing",
            Self::Suspending => "suspending",
            Self::Resuming => "resuming",
            Self::Rebuilding => "rebuilding",
            Self::ImageSnapshot => "image_snapshot",
            Self::ResizePrep => "resize_prep",
            Self::ResizeFinish => "resize_finish",
            Self::ResizeReverting => "resize_reverting",
            Self::ResizeConfirming => "resize_confirming",
            Self::Rescuing => "rescuing",
            Self::Unrescuing => "unrescuing",
            Self::Shelving => "shelving",
            Self::ShelvingOffloading => "shelving_offloading",
            Self::Unshelving => "unshelving",
            Self::Deleting => "deleting",
        }
    }
}

/// What of an image a server must remember; the image may change or go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageFacts {
    pub id: String,
    pub disk_format: String,
    /// Lower-case hex SHA-512.
    pub sha512: String,
    pub size_bytes: u64,
    pub min_disk_gb: i64,
    pub min_ram_mb: i64,
    pub properties: BTreeMap<String, String>,
}

/// One port of a server as last seen at the network service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerPort {
    pub port_id: String,
    pub network_id: String,
    pub network_name: String,
    pub mac: String,
    pub mtu: u32,
    pub fixed_ips: Vec<FixedIp>,
    /// Made by compute for this server, so removed with it.
    pub ours: bool,
    pub tag: Option<String>,
    pub active: bool,
    /// The action that attached it later, if one did.
    #[serde(default)]
    pub made_by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FixedIp {
    pub address: String,
    pub subnet_id: String,
    #[serde(default)]
    pub floating_ips: Vec<String>,
}

/// One volume of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerVolume {
    /// The block device mapping's UUID, made first.
    pub bdm_id: String,
    /// Empty until a volume to be made for this server is there.
    pub volume_id: String,
    pub attachment_id: Option<String>,
    /// `/dev/vdb`
    pub device: Option<String>,
    pub boot_index: Option<i32>,
    pub delete_on_termination: bool,
    pub tag: Option<String>,
    /// What the block service said about the connection: path, format, size.
    pub path: String,
    pub format: String,
    pub size_bytes: u64,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub shareable: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub code: u16,
    pub created: Timestamp,
    pub message: String,
    /// For administrators.
    pub details: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// `owner` or `admin`.
    pub by: String,
    pub reason: Option<String>,
}

/// What a resize goes back to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    pub old_flavor: Flavor,
    /// State before: `Active` or `Stopped`.
    pub old_state: VmState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub id: String,
    /// Makes the domain name, `instance-<8 hex>`.
    pub number: i64,
    pub project_id: String,
    pub user_id: String,
    pub name: String,
    pub description: Option<String>,
    pub hostname: String,
    pub image: Option<ImageFacts>,
    pub flavor: Flavor,
    pub key_name: Option<String>,
    pub public_key: Option<String>,
    pub has_user_data: bool,
    pub config_drive: bool,
    pub metadata: BTreeMap<String, String>,
    pub tags: BTreeSet<String>,
    /// The zone asked for; such a server stays in it.
    pub pinned_zone: Option<String>,
    /// The zone of `host` when it was chosen.
    pub zone: String,
    pub host: Option<String>,
    pub scheduler_hints: serde_json::Map<String, serde_json::Value>,
    pub group_id: Option<String>,
    pub security_groups: Vec<String>,
    pub ports: Vec<ServerPort>,
    pub volumes: Vec<ServerVolume>,
    pub state: VmState,
    pub task: Option<Task>,
    pub power: PowerState,
    pub fault: Option<Fault>,
    pub lock: Option<Lock>,
    pub resize: Option<Resize>,
    /// The image of the rescue disk while rescued.
    pub rescue_image: Option<ImageFacts>,
    /// The image a shelved server's disk is in.
    pub shelved_image: Option<String>,
    pub access_ipv4: String,
    pub access_ipv6: String,
    /// `AUTO` or `MANUAL`.
    pub disk_config: String,
    pub reservation_id: String,
    pub launch_index: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub launched_at: Option<Timestamp>,
    /// When the ports' addresses were last read from the network service.
    pub network_seen_at: Timestamp,
    /// Encrypted password the guest posted to the metadata service.
    #[serde(default)]
    pub guest_password: String,
}

impl Server {
    pub fn domain(&self) -> String {
        format!("instance-{:08x}", self.number)
    }

    /// Boots from a volume.
    pub fn volume_backed(&self) -> bool {
        self.volumes.iter().any(|v| v.boot_index == Some(0))
    }

    /// The API's `status`.
    pub fn status(&self) -> &'static str {
        match (self.state, self.task) {
            (_, Some(Task::Rebuilding)) => "REBUILD",
            (VmState::Active, Some(Task::Rebooting)) => "REBOOT",
            (VmState::Error, _) => "ERROR",
            (_, Some(Task::RebootingHard)) => "HARD_REBOOT",
            (VmState::Active | VmState::Stopped, Some(Task::ResizePrep | Task::ResizeFinish)) => "RESIZE",
            (VmState::Resized, Some(Task::ResizeReverting)) => "REVERT_RESIZE",
            (VmState::Building, _) => "BUILD",
            (VmState::Active, _) => "ACTIVE",
            (VmState::Stopped, _) => "SHUTOFF",
            (VmState::Paused, _) => "PAUSED",
            (VmState::Suspended, _) => "SUSPENDED",
            (VmState::Rescued, _) => "RESCUE",
            (VmState::Resized, _) => "VERIFY_RESIZE",
            (VmState::Shelved, _) => "SHELVED",
            (VmState::ShelvedOffloaded, _) => "SHELVED_OFFLOADED",
        }
    }
}

impl Record for Server {
    const TABLE: Table = Table {
        name: "servers",
        columns: &[
            "number",
            "project_id",
            "user_id",
            "name",
            "hostname",
            "host",
            "image_id",
            "flavor_id",
            "group_id",
            "vm_state",
            "task",
            "status",
            "power",
            "vcpus",
            "ram_mb",
            "locked",
            "reservation_id",
            "key_name",
            "created_at",
            "updated_at",
        ],
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.number.into(),
            self.project_id.as_str().into(),
            self.user_id.as_str().into(),
            self.name.as_str().into(),
            self.hostname.as_str().into(),
            (&self.host).into(),
            self.image.as_ref().map(|i| i.id.as_str()).filter(|id| !id.is_empty()).into(),
            self.flavor.id.as_str().into(),
            (&self.group_id).into(),
            self.state.name().into(),
            self.task.map(Task::name).into(),
            self.status().into(),
            self.power.number().into(),
            self.flavor.vcpus.into(),
            self.flavor.ram_mb.into(),
            self.lock.is_some().into(),
            self.reservation_id.as_str().into(),
            (&self.key_name).into(),
            self.created_at.into(),
            self.updated_at.into(),
        ]
    }
}

/// Big texts of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerData {
    pub id: String,
    /// Base64 as the user sent it.
    pub user_data: Option<String>,
    /// Path to base64 content (until 2.56).
    pub files: Vec<(String, String)>,
}

impl Record for ServerData {
    const TABLE: Table = Table { name: "server_data", columns: &[] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        Vec::new()
    }
}

/// The server, or the API's 404.
pub fn require(tx: &mut Tx<'_>, id: &str) -> Result<Stored<Server>> {
    tx.get::<Server>(id)?.ok_or_else(|| not_found(id))
}

pub fn not_found(id: &str) -> Error {
    Error::not_found(format!("Instance {id} could not be found."))
}

/// The number of the next server. In the writing transaction, so unique.
pub fn next_number(tx: &mut Tx<'_>) -> Result<i64> {
    let row = tx.query_opt("SELECT MAX(number) AS n FROM servers", &[])?;
    Ok(row.map(|r| r.opt_int("n")).transpose()?.flatten().unwrap_or(0) + 1)
}

/// Writes which ports and volumes a server has. Called whenever they change, in that transaction.
pub fn write_refs(tx: &mut Tx<'_>, server: &Server) -> Result<()> {
    tx.exec("DELETE FROM server_refs WHERE server_id = $1", params![server.id.as_str()])?;
    let ports = server.ports.iter().map(|p| ("port", p.port_id.as_str()));
    let volumes = server.volumes.iter().filter(|v| !v.volume_id.is_empty()).map(|v| ("volume", v.volume_id.as_str()));
    for (kind, reference) in ports.chain(volumes) {
        let sql = "INSERT INTO server_refs (server_id, kind, ref) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        tx.exec(sql, params![server.id.as_str(), kind, reference])?;
    }
    Ok(())
}

/// Servers that hold a port (`kind` `port`) or volume (`volume`).
pub fn by_ref(tx: &mut Tx<'_>, kind: &str, reference: &str) -> Result<Vec<Stored<Server>>> {
    let sql = "SELECT server_id FROM server_refs WHERE kind = $1 AND ref = $2";
    let ids = tx.query(sql, params![kind, reference])?;
    let mut out = Vec::with_capacity(ids.len());
    for row in ids {
        if let Some(s) = tx.get::<Server>(&row.text("server_id")?)? {
            out.push(s);
        }
    }
    Ok(out)
}

/// Members of a server group, oldest first.
pub fn members(tx: &mut Tx<'_>, group_id: &str) -> Result<Vec<Stored<Server>>> {
    tx.list::<Server>(&Query::new().eq("group_id", group_id).sort("created_at", caelum_store::Dir::Asc))
}
