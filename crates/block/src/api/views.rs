//! What clients see of volumes and snapshots.

use super::lists::links;
use crate::State;
use crate::store::{Attachment, Snapshot, Volume};
use caelum_base::Timestamp;
use caelum_policy::Target;
use caelum_rest::{Ctx, Version};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub fn time(t: Option<Timestamp>) -> Value {
    t.map_or(Value::Null, |t| t.iso_micros().into())
}

/// What a volume's view needs beside the row.
#[derive(Default)]
pub struct Extra {
    /// Names of volume types by id.
    pub types: BTreeMap<String, String>,
    pub attachments: Vec<Attachment>,
}

pub fn volume_short(cx: &Ctx<State>, v: &Volume) -> Value {
    json!({"id": v.id, "name": v.name, "links": links(cx, "volumes", &v.id)})
}

fn attachments(cx: &Ctx<State>, v: &Volume, x: &Extra) -> Vec<Value> {
    let sees_hosts = cx.auth().is_admin();
    let mine = x.attachments.iter().filter(|a| a.volume_id == v.id && a.status == "attached");
    mine.map(|a| {
        json!({
            "id": v.id,
            "attachment_id": a.id,
            "volume_id": v.id,
            "server_id": a.instance_uuid,
            "host_name": a.host.as_ref().filter(|_| sees_hosts),
            "device": a.mountpoint,
            "attached_at": time(a.attached_at),
        })
    })
    .collect()
}

/// The view that create and update answer with.
pub fn volume(cx: &Ctx<State>, v: &Volume, x: &Extra) -> Value {
    let mut metadata = json!(v.metadata);
    if let Some(r) = v.readonly {
        metadata["readonly"] = if r { "True" } else { "False" }.into();
    }
    let mut out = json!({
        "id": v.id,
        "name": v.name,
        "description": v.description,
        "size": v.size,
        "status": v.status,
        "attachments": attachments(cx, v, x),
        "links": links(cx, "volumes", &v.id),
        "availability_zone": v.availability_zone,
        "bootable": v.bootable.to_string(),
        "encrypted": false,
        "replication_status": null,
        "snapshot_id": v.snapshot_id,
        "source_volid": v.source_volid,
        "consistencygroup_id": null,
        "user_id": v.user_id,
        "metadata": metadata,
        "multiattach": v.multiattach,
        "volume_type": x.types.get(&v.volume_type_id),
        "created_at": v.created_at.iso_micros(),
        "updated_at": time(v.updated_at),
    });
    if cx.auth().is_admin() {
        out["migration_status"] = json!(v.migration_status);
    }
    versioned(cx, v, &mut out);
    out
}

fn versioned(cx: &Ctx<State>, v: &Volume, out: &mut Value) {
    let since = |minor| cx.version >= Version(3, minor);
    if since(13) {
        out["group_id"] = json!(v.group_id);
    }
    if since(21) && cx.auth().is_admin() {
        out["provider_id"] = Value::Null;
    }
    if since(48) {
        out["service_uuid"] = Value::Null;
        out["shared_targets"] = if since(69) { Value::Null } else { false.into() };
    }
    if since(61) && cx.auth().is_admin() {
        out["cluster_name"] = Value::Null;
    }
    if since(63) {
        out["volume_type_id"] = json!(v.volume_type_id);
    }
    if since(65) {
        out["consumes_quota"] = true.into();
    }
}

/// The view of show and detailed lists.
pub fn volume_full(cx: &Ctx<State>, v: &Volume, x: &Extra) -> Value {
    let mut out = volume(cx, v, x);
    if !v.image_metadata.is_empty() {
        out["volume_image_metadata"] = json!(v.image_metadata);
    }
    let target = Target::project(v.project_id.as_str());
    if cx.allows("volume_extension:volume_host_attribute", &target) {
        out["os-vol-host-attr:host"] = json!(v.host);
    }
    if cx.allows("volume_extension:volume_tenant_attribute", &target) {
        out["os-vol-tenant-attr:tenant_id"] = json!(v.project_id);
    }
    if cx.allows("volume_extension:volume_mig_status_attribute", &target) {
        out["os-vol-mig-status-attr:migstat"] = json!(v.migration_status);
        out["os-vol-mig-status-attr:name_id"] = Value::Null;
    }
    out
}

/// `full` adds the extended attributes of show and detailed lists.
pub fn snapshot(cx: &Ctx<State>, s: &Snapshot, full: bool) -> Value {
    let mut out = json!({
        "id": s.id,
        "name": s.name,
        "description": s.description,
        "volume_id": s.volume_id,
        "status": s.status,
        "size": s.size,
        "metadata": s.metadata,
        "created_at": s.created_at.iso_micros(),
        "updated_at": time(s.updated_at),
    });
    if full {
        out["os-extended-snapshot-attributes:progress"] = json!(s.progress);
        out["os-extended-snapshot-attributes:project_id"] = json!(s.project_id);
    }
    if cx.version >= Version(3, 14) {
        out["group_snapshot_id"] = json!(s.group_snapshot_id);
    }
    if cx.version >= Version(3, 41) {
        out["user_id"] = json!(s.user_id);
    }
    if cx.version >= Version(3, 65) {
        out["consumes_quota"] = true.into();
    }
    out
}
