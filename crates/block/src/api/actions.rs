//! `/volumes/{id}/action`

use super::forms::{self, Map};
use super::volumes::find;
use super::{admin, caller, member};
use crate::State;
use crate::flows::snapshot::RevertVolume;
use crate::flows::upload::UploadVolume;
use crate::logic::attach::{self, NewAttachment};
use crate::logic::volumes::{self as logic, DeleteHow};
use crate::logic::{images, nova};
use crate::store::rows::{self, snapshots_of};
use crate::store::{Attachment, Volume, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Stored, Tx};
use serde_json::{Value, json};

const PATH: &str = "/volumes/{id}/action";

pub const OPS: &[Op<State>] = &[
    Op::post("volume_attach", PATH, member("volume_extension:volume_actions:attach"), h!(attach_volume)).action("os-attach"),
    Op::post("volume_detach", PATH, member("volume_extension:volume_actions:detach"), h!(detach)).action("os-detach"),
    Op::post("volume_force_detach", PATH, admin("volume_extension:volume_admin_actions:force_detach"), h!(force_detach))
        .action("os-force_detach"),
    Op::post("volume_reserve", PATH, member("volume_extension:volume_actions:reserve"), h!(reserve)).action("os-reserve"),
    Op::post("volume_unreserve", PATH, member("volume_extension:volume_actions:unreserve"), h!(unreserve)).action("os-unreserve"),
    Op::post("volume_begin_detaching", PATH, member("volume_extension:volume_actions:begin_detaching"), h!(begin_detaching))
        .action("os-begin_detaching"),
    Op::post("volume_roll_detaching", PATH, member("volume_extension:volume_actions:roll_detaching"), h!(roll_detaching))
        .action("os-roll_detaching"),
    Op::post("volume_initialize_connection", PATH, member("volume_extension:volume_actions:initialize_connection"), h!(initialize))
        .action("os-initialize_connection"),
    Op::post("volume_terminate_connection", PATH, member("volume_extension:volume_actions:terminate_connection"), h!(terminate))
        .action("os-terminate_connection"),
    Op::post("volume_extend", PATH, member("volume:extend"), h!(extend)).action("os-extend"),
    Op::post("volume_update_readonly_flag", PATH, member("volume:update_readonly_flag"), h!(readonly)).action("os-update_readonly_flag"),
    Op::post("volume_set_bootable", PATH, member("volume_extension:volume_actions:set_bootable"), h!(bootable)).action("os-set_bootable"),
    Op::post("volume_reset_status", PATH, admin("volume_extension:volume_admin_actions:reset_status"), h!(reset_status))
        .action("os-reset_status"),
    Op::post("volume_force_delete", PATH, admin("volume_extension:volume_admin_actions:force_delete"), h!(force_delete))
        .action("os-force_delete"),
    Op::post("volume_retype", PATH, member("volume:retype"), h!(retype)).action("os-retype"),
    Op::post("volume_upload_image", PATH, member("volume_extension:volume_actions:upload_image"), h!(upload))
        .action("os-volume_upload_image"),
    Op::post("volume_revert", PATH, member("volume:revert_to_snapshot"), h!(revert)).action("revert").since(3, 40),
];

async fn body(cx: &mut Ctx<State>) -> Result<Map> {
    let body: Value = cx.json().await?;
    forms::action(&body, cx.op.action.unwrap_or_default())
}

/// Runs `change` on the volume's current row in one transaction.
async fn change<T: Send + 'static>(
    cx: &Ctx<State>,
    id: &str,
    change: impl Fn(&mut Tx<'_>, &mut Stored<Volume>) -> Result<T> + Send + Sync + 'static,
) -> Result<T> {
    let id = id.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut v = rows::volume(tx, &id)?;
            change(tx, &mut v)
        })
        .await
}

fn mode(m: &Map) -> Result<Option<String>> {
    match m.get("mode").and_then(Value::as_str) {
        None => Ok(None),
        Some(v @ ("rw" | "ro")) => Ok(Some(v.to_string())),
        Some(v) => Err(forms::invalid("mode", v, "It is not one of rw, ro.")),
    }
}

async fn attach_volume(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let server = forms::opt_uuid("instance_uuid", m.get("instance_uuid"))?;
    let host = forms::text("host_name", m.get("host_name"))?;
    if server.is_some() == host.is_some() {
        return Err(Error::invalid("Either instance_uuid or host_name must be given."));
    }
    let mountpoint = forms::name("mountpoint", m.get("mountpoint"))?;
    let new = NewAttachment { id: cx.env.uuid(), volume_id: v.id.clone(), instance_uuid: server, mode: mode(&m)?, now: cx.env.now() };
    change(&cx, &v.id, move |tx, _| attach::attach_now(tx, &new, host.as_deref(), &mountpoint)).await?;
    Ok(Reply::empty(202))
}

async fn end(cx: &Ctx<State>, a: &Attachment) -> Result<Reply> {
    nova::may_detach(&cx.state, cx.auth(), a).await?;
    let (id, now) = (a.id.clone(), cx.env.now());
    cx.state.db.write(move |tx| attach::remove(tx, &id, now)).await?;
    Ok(Reply::empty(202))
}

async fn named_attachment(cx: &Ctx<State>, v: &Volume, m: &Map) -> Result<Stored<Attachment>> {
    let (id, wanted) = (v.id.clone(), forms::opt_uuid("attachment_id", m.get("attachment_id"))?);
    cx.state.db.read(move |tx| attach::to_detach(tx, &id, wanted.as_deref())).await
}

async fn detach(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let a = named_attachment(&cx, &v, &m).await?;
    end(&cx, &a).await
}

async fn force_detach(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let a = named_attachment(&cx, &v, &m).await?;
    end(&cx, &a).await
}

async fn reserve(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let new = NewAttachment { id: cx.env.uuid(), volume_id: v.id.clone(), now: cx.env.now(), ..NewAttachment::default() };
    change(&cx, &v.id, move |tx, _| attach::reserve_legacy(tx, &new)).await?;
    Ok(Reply::empty(202))
}

async fn unreserve(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let now = cx.env.now();
    change(&cx, &v.id, move |tx, v| attach::unreserve_legacy(tx, &v.id, now)).await?;
    Ok(Reply::empty(202))
}

async fn begin_detaching(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    change(&cx, &v.id, move |tx, v| {
        if v.status != "in-use" {
            return Err(Error::invalid(format!(
                "Invalid volume: Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach. (status: {})",
                v.status
            )));
        }
        v.status = "detaching".into();
        tx.update(v)
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn roll_detaching(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let now = cx.env.now();
    change(&cx, &v.id, move |tx, v| if v.status == "detaching" { attach::settle(tx, v, now) } else { Ok(()) }).await?;
    Ok(Reply::empty(202))
}

async fn initialize(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    if !m.get("connector").is_some_and(Value::is_object) {
        return Err(Error::invalid("Must specify 'connector'."));
    }
    if !nova::is_service(cx.auth()) && !cx.auth().is_admin() {
        return Err(Error::forbidden("The connection is told to services only.").code("PolicyNotAuthorized"));
    }
    let info = cx.state.driver.connection(&v.disk(), v.readonly == Some(true))?;
    Reply::ok(&json!({"connection_info": info}))
}

async fn terminate(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    if !m.get("connector").is_some_and(Value::is_object) {
        return Err(Error::invalid("Must specify 'connector'."));
    }
    let id = v.id.clone();
    for a in cx.state.db.read(move |tx| rows::attachments_of(tx, &id)).await? {
        nova::may_detach(&cx.state, cx.auth(), &a).await?;
    }
    // Files need no connection; there is nothing to take down.
    Ok(Reply::empty(202))
}

async fn extend(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let size = m
        .get("new_size")
        .ok_or_else(|| Error::invalid("Invalid input for field/attribute os-extend. 'new_size' is a required property"))?;
    let size = forms::int("new_size", size, 1, logic::MAX_SIZE)?;
    let in_use = cx.version >= Version(3, 42);
    let (state, request) = (cx.state.clone(), cx.request_id.clone());
    change(&cx, &v.id, move |tx, v| logic::extend(tx, &state, &v.id, &request, size, in_use)).await?;
    Ok(Reply::empty(202))
}

fn required<'a>(m: &'a Map, key: &str) -> Result<&'a Value> {
    m.get(key).ok_or_else(|| Error::invalid(format!("'{key}' is a required property")))
}

async fn readonly(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let flag = forms::boolean("readonly", required(&m, "readonly")?)?;
    change(&cx, &v.id, move |tx, v| {
        if v.status != "available" {
            return Err(Error::invalid(format!(
                "Invalid volume: Volume {} status must be available to update readonly flag, but current status is: {}.",
                v.id, v.status
            )));
        }
        v.readonly = Some(flag);
        tx.update(v)
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn bootable(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let flag = forms::boolean("bootable", required(&m, "bootable")?)?;
    change(&cx, &v.id, move |tx, v| {
        v.bootable = flag;
        tx.update(v)
    })
    .await?;
    Ok(Reply::empty(200))
}

const STATUSES: [&str; 14] = [
    "creating",
    "available",
    "deleting",
    "error",
    "error_deleting",
    "error_managing",
    "managing",
    "attaching",
    "detaching",
    "in-use",
    "maintenance",
    "reserved",
    "error_extending",
    "error_restoring",
];

async fn reset_status(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let status = m.get("status").and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(s) = &status
        && !STATUSES.contains(&s.as_str())
    {
        return Err(Error::invalid(format!("Must specify a valid status; {s} is none.")));
    }
    let attach_status = m.get("attach_status").and_then(Value::as_str).map(str::to_ascii_lowercase);
    let migration = m.get("migration_status").and_then(Value::as_str).map(String::from);
    if status.is_none() && attach_status.is_none() && migration.is_none() {
        return Err(Error::invalid("Must specify 'status', 'attach_status' or 'migration_status' for update."));
    }
    let state = cx.state.clone();
    change(&cx, &v.id, move |tx, v| {
        if state.flows.busy(tx, &v.id)? {
            return Err(Error::conflict(format!("An operation on volume {} has not ended; its status follows from that.", v.id)));
        }
        if attach_status.as_deref() == Some("detached") {
            for a in rows::attachments_of(tx, &v.id)? {
                tx.delete(&a)?;
            }
        }
        if let Some(s) = &status {
            v.status.clone_from(s);
        }
        if let Some(m) = &migration {
            v.migration_status = Some(m.clone()).filter(|m| m != "none");
        }
        tx.update(v)
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn force_delete(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let (state, request) = (cx.state.clone(), cx.request_id.clone());
    let how = DeleteHow { cascade: false, force: true };
    change(&cx, &v.id, move |tx, v| logic::delete(tx, &state, &v.id, &request, how)).await?;
    Ok(Reply::empty(202))
}

async fn retype(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let wanted = forms::name("new_type", m.get("new_type"))?;
    if let Some(p) = m.get("migration_policy").and_then(Value::as_str)
        && !matches!(p, "never" | "on-demand")
    {
        return Err(forms::invalid("migration_policy", p, "It is not one of never, on-demand."));
    }
    let (who, now) = (caller(&cx)?, cx.env.now());
    change(&cx, &v.id, move |tx, v| logic::retype(tx, &v.id, &wanted, &who, now)).await?;
    Ok(Reply::empty(202))
}

fn image_attributes(cx: &Ctx<State>, v: &Volume, m: &Map) -> Result<(String, Map)> {
    let name = forms::name("image_name", m.get("image_name"))?;
    let disk = forms::text("disk_format", m.get("disk_format"))?.unwrap_or_else(|| "raw".into());
    if !matches!(disk.as_str(), "raw" | "qcow2" | "vmdk" | "vdi" | "vhd" | "vhdx") {
        return Err(forms::invalid("disk_format", disk, "It is not one of raw, vmdk, vdi, qcow2, vhd, vhdx."));
    }
    let container = forms::text("container_format", m.get("container_format"))?.unwrap_or_else(|| "bare".into());
    let mut out = Map::new();
    for (k, value) in v.image_metadata.iter().filter(|(k, _)| {
        !matches!(k.as_str(), "image_id" | "image_name" | "size" | "checksum" | "min_disk" | "min_ram" | "disk_format" | "container_format")
            && !k.starts_with("os_hash")
    }) {
        out.insert(k.clone(), json!(value));
    }
    out.insert("name".into(), json!(name));
    out.insert("disk_format".into(), json!(disk));
    out.insert("container_format".into(), json!(container));
    out.insert("min_disk".into(), json!(v.size));
    let visibility = m.get("visibility").and_then(Value::as_str).unwrap_or("private");
    if cx.version >= Version(3, 1) {
        out.insert("visibility".into(), json!(visibility));
        let protected = m.get("protected").map_or(Ok(false), |p| forms::boolean("protected", p))?;
        out.insert("protected".into(), json!(protected));
    }
    Ok((disk, out))
}

async fn upload(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let force = m.get("force").map_or(Ok(false), |f| forms::boolean("force", f))?;
    let usable = move |v: &Volume| v.status == "available" || (force && v.status == "in-use");
    let refused = |v: &Volume| {
        let text =
            format!("Invalid volume: Volume {} status must be available (or in-use with force) to upload, but it is {}.", v.id, v.status);
        Error::invalid(text)
    };
    if !usable(&v) {
        return Err(refused(&v));
    }
    let (disk_format, attributes) = image_attributes(&cx, &v, &m)?;
    let token = cx.auth().token.clone();
    let image = images::create_as_user(&cx.state, &token, &attributes).await?;
    let image_id = image["id"].as_str().ok_or_else(|| Error::internal("the image service made an image without an id"))?.to_string();
    let (state, id, format) = (cx.state.clone(), image_id.clone(), disk_format.clone());
    let request = cx.request_id.clone();
    let started = change(&cx, &v.id, move |tx, v| {
        if !usable(v) {
            return Err(refused(v));
        }
        v.previous_status = Some(std::mem::replace(&mut v.status, "uploading".into()));
        v.updated_at = Some(state.env.now());
        tx.update(v)?;
        let flow = UploadVolume {
            volume_id: v.id.clone(),
            project_id: v.project_id.clone(),
            request_id: request.clone(),
            image_id: id.clone(),
            format: v.format.clone(),
            bytes: v.bytes(),
            disk_format: format.clone(),
            timeout_secs: state.options.data_timeout.as_secs(),
        };
        state.flows.start(tx, &v.id, &v.project_id, &flow)?;
        Ok((v.clone(), tx.get::<VolumeType>(&v.volume_type_id)?))
    })
    .await;
    let (v, kind) = match started {
        Ok(s) => s,
        Err(e) => {
            images::delete_unfinished(&cx.state, &image_id).await?;
            return Err(e);
        }
    };
    let mut out = json!({
        "id": v.id,
        "updated_at": super::views::time(v.updated_at),
        "status": "uploading",
        "display_description": v.description,
        "size": v.size,
        "volume_type": kind.map(|t| super::types::embedded(&t)),
        "image_id": image_id,
        "container_format": attributes["container_format"],
        "disk_format": disk_format,
        "image_name": attributes["name"],
    });
    if cx.version >= Version(3, 1) {
        out["visibility"] = attributes["visibility"].clone();
        out["protected"] = attributes["protected"].clone();
    }
    Reply::json(202, &json!({"os-volume_upload_image": out}))
}

async fn revert(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let m = body(&mut cx).await?;
    let wanted = forms::uuid("snapshot_id", required(&m, "snapshot_id")?)?;
    let (state, request) = (cx.state.clone(), cx.request_id.clone());
    change(&cx, &v.id, move |tx, v| {
        let mut latest = snapshots_of(tx, &v.id)?
            .pop()
            .filter(|s| s.id == wanted)
            .ok_or_else(|| Error::invalid("Invalid input received: The volume can only be reverted to its latest snapshot."))?;
        if v.status != "available" || latest.status != "available" {
            return Err(Error::conflict("The volume and its snapshot must be available to revert."));
        }
        if v.size != latest.size {
            return Err(Error::invalid("Invalid input received: A volume that grew since its snapshot cannot be reverted."));
        }
        v.status = "reverting".into();
        latest.status = "restoring".into();
        tx.update(v)?;
        tx.update(&mut latest)?;
        let flow = RevertVolume {
            volume_id: v.id.clone(),
            snapshot_id: wanted.clone(),
            project_id: v.project_id.clone(),
            request_id: request.clone(),
            format: v.format.clone(),
            bytes: v.bytes(),
        };
        state.flows.start(tx, &v.id, &v.project_id, &flow).map(drop)
    })
    .await?;
    Ok(Reply::empty(202))
}
