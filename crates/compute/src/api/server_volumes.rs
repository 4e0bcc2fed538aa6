//! `/servers/{id}/os-volume_attachments`.

use super::servers::{lookup, lookup_unlocked};
use super::wire::gate;
use crate::State;
use crate::logic::{bdm, devices, volumes};
use crate::store::servers::{self, Server, ServerVolume};
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

const LIST: &str = "/servers/{id}/os-volume_attachments";
const ONE: &str = "/servers/{id}/os-volume_attachments/{volume_id}";

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("volume_attachment_list", LIST, reader("os_compute_api:os-volumes-attachments:index"), h!(list)),
    Op::post("volume_attachment_create", LIST, member("os_compute_api:os-volumes-attachments:create"), h!(create)),
    Op::get("volume_attachment_show", ONE, reader("os_compute_api:os-volumes-attachments:show"), h!(show)),
    Op::put("volume_attachment_update", ONE, member("os_compute_api:os-volumes-attachments:update"), h!(update)),
    Op::delete("volume_attachment_delete", ONE, member("os_compute_api:os-volumes-attachments:delete"), h!(delete)),
];

/// Rules beside the operations' own.
pub const RULES: &[caelum_policy::RuleDefault] =
    &[caelum_policy::RuleDefault { name: "os_compute_api:os-volumes-attachments:swap", check: ADMIN, scopes: PROJECT }];

fn view(cx: &Ctx<State>, s: &Server, v: &ServerVolume, made: bool) -> Value {
    let since = |minor| cx.version >= Version(2, minor);
    let mut out = json!({"volumeId": v.volume_id, "serverId": s.id, "device": v.device});
    if made || !since(89) {
        out["id"] = json!(v.volume_id);
    } else {
        out["attachment_id"] = json!(v.attachment_id);
        out["bdm_uuid"] = json!(v.bdm_id);
    }
    if since(70) {
        out["tag"] = json!(v.tag);
    }
    if since(79) {
        out["delete_on_termination"] = json!(v.delete_on_termination);
    }
    out
}

fn find<'a>(s: &'a Server, volume_id: &str) -> Result<&'a ServerVolume> {
    let found = s.volumes.iter().find(|v| v.volume_id == volume_id);
    found.ok_or_else(|| Error::not_found(format!("Instance {} is not attached to volume {volume_id}", s.id)))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let offset = usize::try_from(cx.query.int("offset")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = cx.query.int("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(1000).min(1000);
    let all = s.volumes.iter().filter(|v| !v.volume_id.is_empty()).skip(offset).take(limit);
    let list: Vec<Value> = all.map(|v| view(&cx, &s, v, false)).collect();
    Reply::ok(&json!({"volumeAttachments": list}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let v = find(&s, cx.param("volume_id"))?;
    Reply::ok(&json!({"volumeAttachment": view(&cx, &s, v, false)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    #[serde(rename = "volumeAttachment")]
    inner: CreateIn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateIn {
    #[serde(rename = "volumeId")]
    volume_id: String,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    delete_on_termination: Option<bool>,
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: CreateBody = cx.json().await?;
    let a = body.inner;
    gate(&cx, "tag", a.tag.is_some(), 49, u32::MAX)?;
    gate(&cx, "delete_on_termination", a.delete_on_termination.is_some(), 79, u32::MAX)?;
    let volume = volumes::volume_of_user(&cx.state, &cx.auth().token, &a.volume_id).await?;
    if s.volumes.iter().any(|v| v.volume_id == volume.id) {
        return Err(Error::invalid(format!("Invalid volume: volume {} already attached to instance {}", volume.id, s.id)));
    }
    bdm::attachable(&volume, cx.version >= Version(2, 60))?;
    let row = ServerVolume {
        bdm_id: cx.env.uuid(),
        volume_id: volume.id.clone(),
        device: a.device.filter(|d| !d.is_empty()).map(bdm::device_name).transpose()?,
        delete_on_termination: a.delete_on_termination.unwrap_or(false),
        tag: a.tag,
        shareable: volume.multiattach,
        ..ServerVolume::default()
    };
    let (s, row) = devices::volume_attach(&cx.state, cx.auth(), &cx.request_id, &s, row).await?;
    let status = if cx.version >= Version(2, 101) { 202 } else { 200 };
    Reply::json(status, &json!({"volumeAttachment": view(&cx, &s, &row, true)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBody {
    #[serde(rename = "volumeAttachment")]
    inner: UpdateIn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateIn {
    #[serde(rename = "volumeId")]
    volume_id: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, rename = "serverId")]
    server_id: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    delete_on_termination: Option<bool>,
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: UpdateBody = cx.json().await?;
    let u = body.inner;
    let volume_id = cx.param("volume_id").to_string();
    if u.volume_id != volume_id {
        return Err(Error::invalid("Volumes cannot be swapped; only delete_on_termination of an attachment can be changed."));
    }
    let others = [u.id.is_some(), u.server_id.is_some(), u.device.is_some(), u.tag.is_some(), u.delete_on_termination.is_some()];
    if others.contains(&true) {
        gate(&cx, "delete_on_termination", true, 85, u32::MAX)?;
    }
    let known = find(&s, &volume_id)?;
    let same = |given: &Option<String>, is: Option<&str>| given.is_none() || given.as_deref() == is;
    let id_same = u.id.as_deref().is_none_or(|i| i == volume_id || Some(i) == known.attachment_id.as_deref());
    if !id_same || !same(&u.server_id, Some(&s.id)) || !same(&u.device, known.device.as_deref()) || !same(&u.tag, known.tag.as_deref()) {
        return Err(Error::invalid("Only delete_on_termination of an attachment can be changed."));
    }
    if let Some(keep) = u.delete_on_termination {
        let (id, volume_id) = (s.id.clone(), volume_id);
        cx.state
            .db
            .write(move |tx| {
                let mut s = servers::require(tx, &id)?;
                find(&s, &volume_id)?;
                s.volumes.iter_mut().filter(|v| v.volume_id == volume_id).for_each(|v| v.delete_on_termination = keep);
                tx.update(&mut s)
            })
            .await?;
    }
    Ok(Reply::empty(202))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let v = find(&s, cx.param("volume_id"))?.clone();
    if v.boot_index == Some(0) {
        return Err(Error::forbidden("Cannot detach a root device volume"));
    }
    devices::volume_detach(&cx.state, cx.auth(), &cx.request_id, &s, v).await?;
    Ok(Reply::empty(202))
}
