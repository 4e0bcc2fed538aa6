//! The stored resources. Sizes are in GiB unless a name says otherwise.

use crate::driver::Disk;
use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;

pub type Metadata = BTreeMap<String, String>;

macro_rules! record {
    ($type:ty, $table:literal, $id:ident, [$($column:ident => $value:expr),* $(,)?]) => {
        impl Record for $type {
            const TABLE: Table = Table { name: $table, columns: &[$(stringify!($column)),*] };
            fn id(&self) -> &str {
                &self.$id
            }
            fn columns(&self) -> Vec<Value> {
                vec![$({ let f: fn(&$type) -> Value = $value; f(self) }),*]
            }
        }
    };
}

/// A volume. `status` is the API's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size: i64,
    /// Size being extended to; quota counts it already.
    #[serde(default)]
    pub pending_size: Option<i64>,
    pub status: String,
    /// What the status goes back to after an extend, upload, backup or retype.
    #[serde(default)]
    pub previous_status: Option<String>,
    pub volume_type_id: String,
    pub availability_zone: String,
    /// `node@backend#pool`.
    pub host: String,
    /// Format of the volume's file, `raw` or `qcow2`.
    pub format: String,
    pub bootable: bool,
    pub multiattach: bool,
    #[serde(default)]
    pub readonly: Option<bool>,
    pub metadata: Metadata,
    /// What the image said when the volume was made from it.
    #[serde(default)]
    pub image_metadata: Metadata,
    #[serde(default)]
    pub snapshot_id: Option<String>,
    #[serde(default)]
    pub source_volid: Option<String>,
    #[serde(default)]
    pub group_id: Option<String>,
    #[serde(default)]
    pub migration_status: Option<String>,
    pub created_at: Timestamp,
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
}

impl Volume {
    /// How the driver knows it.
    pub fn disk(&self) -> Disk {
        Disk { id: self.id.clone(), format: self.format.clone(), bytes: self.bytes() }
    }

    pub fn bytes(&self) -> u64 {
        u64::try_from(self.size).unwrap_or(0) << 30
    }
}

record!(Volume, "volumes", id, [
    project_id => |r| r.project_id.as_str().into(),
    user_id => |r| r.user_id.as_str().into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    status => |r| r.status.as_str().into(),
    size => |r| r.pending_size.unwrap_or(r.size).into(),
    bootable => |r| r.bootable.into(),
    availability_zone => |r| r.availability_zone.as_str().into(),
    volume_type_id => |r| r.volume_type_id.as_str().into(),
    snapshot_id => |r| (&r.snapshot_id).into(),
    source_volid => |r| (&r.source_volid).into(),
    group_id => |r| (&r.group_id).into(),
    host => |r| r.host.as_str().into(),
    created_at => |r| r.created_at.into(),
    updated_at => |r| r.updated_at.unwrap_or(r.created_at).into(),
]);

/// A point-in-time copy of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub volume_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size: i64,
    pub status: String,
    pub progress: String,
    pub metadata: Metadata,
    pub volume_type_id: String,
    pub format: String,
    pub bootable: bool,
    #[serde(default)]
    pub image_metadata: Metadata,
    #[serde(default)]
    pub group_snapshot_id: Option<String>,
    pub created_at: Timestamp,
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
}

impl Snapshot {
    /// How the driver knows it.
    pub fn disk(&self) -> Disk {
        Disk { id: self.id.clone(), format: self.format.clone(), bytes: u64::try_from(self.size).unwrap_or(0) << 30 }
    }
}

record!(Snapshot, "snapshots", id, [
    project_id => |r| r.project_id.as_str().into(),
    volume_id => |r| r.volume_id.as_str().into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    status => |r| r.status.as_str().into(),
    size => |r| r.size.into(),
    volume_type_id => |r| r.volume_type_id.as_str().into(),
    group_snapshot_id => |r| (&r.group_snapshot_id).into(),
    created_at => |r| r.created_at.into(),
    updated_at => |r| r.updated_at.unwrap_or(r.created_at).into(),
]);

/// A volume's use by one server or host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub id: String,
    pub project_id: String,
    pub volume_id: String,
    pub instance_uuid: Option<String>,
    pub host: Option<String>,
    pub mountpoint: Option<String>,
    /// `reserved`, `attaching` or `attached`.
    pub status: String,
    /// `rw` or `ro`.
    pub mode: String,
    #[serde(default)]
    pub connector: Json,
    #[serde(default)]
    pub connection_info: Json,
    /// Made by the old `os-attach` action, so that `os-detach` may end it.
    #[serde(default)]
    pub legacy: bool,
    pub created_at: Timestamp,
    #[serde(default)]
    pub attached_at: Option<Timestamp>,
}

record!(Attachment, "attachments", id, [
    project_id => |r| r.project_id.as_str().into(),
    volume_id => |r| r.volume_id.as_str().into(),
    instance_uuid => |r| (&r.instance_uuid).into(),
    status => |r| r.status.as_str().into(),
    created_at => |r| r.created_at.into(),
]);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: Metadata,
    pub qos_specs_id: Option<String>,
    /// Projects that may use a private type.
    pub access: Vec<String>,
    pub created_at: Timestamp,
}

impl VolumeType {
    /// Whether several servers may have one volume of this type.
    pub fn multiattach(&self) -> bool {
        self.extra_specs.get("multiattach").is_some_and(|v| v.eq_ignore_ascii_case("<is> true"))
    }

    pub fn visible_to(&self, project: Option<&str>) -> bool {
        self.is_public || project.is_some_and(|p| self.access.iter().any(|a| a == p))
    }
}

record!(VolumeType, "volume_types", id, [
    name => |r| r.name.as_str().into(),
    is_public => |r| r.is_public.into(),
    qos_specs_id => |r| (&r.qos_specs_id).into(),
    created_at => |r| r.created_at.into(),
]);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QosSpecs {
    pub id: String,
    pub name: String,
    pub consumer: String,
    pub specs: Metadata,
    pub created_at: Timestamp,
}

record!(QosSpecs, "qos_specs", id, [
    name => |r| r.name.as_str().into(),
    created_at => |r| r.created_at.into(),
]);

/// Limits of a project (`project:<id>`) or a class (`class:<name>`) that differ from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    pub id: String,
    pub limits: BTreeMap<String, i64>,
}

record!(Quota, "quotas", id, []);

/// The volume type a project gets when it names none; `id` is the project's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DefaultType {
    pub id: String,
    pub volume_type_id: String,
}

record!(DefaultType, "default_types", id, [volume_type_id => |r| r.volume_type_id.as_str().into()]);

/// What an operator set on a service; `id` is `binary@host`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceState {
    pub id: String,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub frozen: bool,
    pub updated_at: Timestamp,
}

record!(ServiceState, "services", id, []);

/// What a user is told about an operation that failed in the background.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub id: String,
    pub project_id: String,
    pub request_id: String,
    pub resource_type: String,
    pub resource_uuid: String,
    pub event_id: String,
    pub message_level: String,
    pub user_message: String,
    pub created_at: Timestamp,
    pub guaranteed_until: Timestamp,
}

record!(Message, "messages", id, [
    project_id => |r| r.project_id.as_str().into(),
    resource_uuid => |r| r.resource_uuid.as_str().into(),
    resource_type => |r| r.resource_type.as_str().into(),
    event_id => |r| r.event_id.as_str().into(),
    request_id => |r| r.request_id.as_str().into(),
    message_level => |r| r.message_level.as_str().into(),
    guaranteed_until => |r| r.guaranteed_until.into(),
    created_at => |r| r.created_at.into(),
]);

/// An offer to hand a volume to whoever has the key; only the key's hash is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    pub id: String,
    pub project_id: String,
    pub volume_id: String,
    pub name: Option<String>,
    pub salt: String,
    pub key_hash: String,
    pub no_snapshots: bool,
    pub created_at: Timestamp,
}

record!(Transfer, "transfers", id, [
    project_id => |r| r.project_id.as_str().into(),
    volume_id => |r| r.volume_id.as_str().into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    created_at => |r| r.created_at.into(),
]);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub volume_id: String,
    pub snapshot_id: Option<String>,
    pub parent_id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub container: Option<String>,
    pub size: i64,
    pub status: String,
    pub fail_reason: Option<String>,
    pub metadata: Metadata,
    pub format: String,
    pub availability_zone: String,
    pub volume_type_id: String,
    pub bootable: bool,
    /// The volume's metadata at the time; a new volume gets it back.
    #[serde(default)]
    pub volume_metadata: Metadata,
    #[serde(default)]
    pub image_metadata: Metadata,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    pub data_timestamp: Timestamp,
}

impl Backup {
    /// How the driver knows it.
    pub fn disk(&self) -> Disk {
        Disk { id: self.id.clone(), format: self.format.clone(), bytes: u64::try_from(self.size).unwrap_or(0) << 30 }
    }
}

record!(Backup, "backups", id, [
    project_id => |r| r.project_id.as_str().into(),
    volume_id => |r| r.volume_id.as_str().into(),
    parent_id => |r| (&r.parent_id).into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    status => |r| r.status.as_str().into(),
    size => |r| r.size.into(),
    created_at => |r| r.created_at.into(),
]);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub group_specs: Metadata,
    pub created_at: Timestamp,
}

record!(GroupType, "group_types", id, [
    name => |r| r.name.as_str().into(),
    is_public => |r| r.is_public.into(),
    created_at => |r| r.created_at.into(),
]);

/// Volumes handled as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub group_type_id: String,
    pub volume_types: Vec<String>,
    pub availability_zone: String,
    pub group_snapshot_id: Option<String>,
    pub source_group_id: Option<String>,
    pub created_at: Timestamp,
}

record!(Group, "volume_groups", id, [
    project_id => |r| r.project_id.as_str().into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    status => |r| r.status.as_str().into(),
    group_type_id => |r| r.group_type_id.as_str().into(),
    created_at => |r| r.created_at.into(),
]);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    pub id: String,
    pub project_id: String,
    pub group_id: String,
    pub group_type_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub created_at: Timestamp,
}

record!(GroupSnapshot, "group_snapshots", id, [
    project_id => |r| r.project_id.as_str().into(),
    group_id => |r| r.group_id.as_str().into(),
    name => |r| r.name.as_deref().unwrap_or("").into(),
    status => |r| r.status.as_str().into(),
    created_at => |r| r.created_at.into(),
]);
