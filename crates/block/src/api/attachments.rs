//! `/attachments` (3.27)

use super::forms;
use super::lists::{self, Paging, SortKeys};
use super::{member, views};
use crate::State;
use crate::logic::attach::{self, NewAttachment, missing};
use crate::logic::nova;
use crate::store::rows::volume_missing;
use crate::store::{Attachment, Volume};
use caelum_base::{Error, Result};
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Query, Stored};
use serde_json::{Value, json};

/// Upstream has no rule for looking; whoever may see the volume may see who uses it.
const LOOK: Access = Access::rule("volume:attachment_get", personas::PROJECT_READER_OR_ADMIN, personas::PROJECT);

pub const OPS: &[Op<State>] = &[
    Op::get("attachment_list", "/attachments", LOOK, h!(list)).since(3, 27),
    Op::post("attachment_create", "/attachments", member("volume:attachment_create"), h!(create)).since(3, 27),
    Op::get("attachment_list_detail", "/attachments/detail", LOOK, h!(list_detail)).since(3, 27),
    Op::get("attachment_show", "/attachments/{id}", LOOK, h!(show)).since(3, 27),
    Op::put("attachment_update", "/attachments/{id}", member("volume:attachment_update"), h!(update)).since(3, 27),
    Op::delete("attachment_delete", "/attachments/{id}", member("volume:attachment_delete"), h!(delete)).since(3, 27),
    Op::post("attachment_complete", "/attachments/{id}/action", member("volume:attachment_complete"), h!(complete))
        .action("os-complete")
        .since(3, 44),
];

const SORT: SortKeys = &[("id", "id"), ("created_at", "created_at"), ("status", "status"), ("volume_id", "volume_id")];

fn short(a: &Attachment) -> Value {
    json!({"id": a.id, "status": a.status, "instance": a.instance_uuid, "volume_id": a.volume_id})
}

/// Host paths are told to services and administrators only.
fn full(cx: &Ctx<State>, a: &Attachment) -> Value {
    let mut out = short(a);
    let told = nova::is_service(cx.auth()) || cx.auth().is_admin();
    let mut info = if told && a.connection_info.is_object() { a.connection_info.clone() } else { json!({}) };
    if let Some(m) = info.as_object_mut().filter(|m| !m.is_empty()) {
        m.insert("attachment_id".into(), json!(a.id));
    }
    out["attached_at"] = views::time(a.attached_at);
    out["detached_at"] = Value::Null;
    out["attach_mode"] = json!(a.mode);
    out["connection_info"] = info;
    out
}

async fn find(cx: &Ctx<State>) -> Result<Stored<Attachment>> {
    let id = cx.param("id").to_string();
    let Some(a) = cx.state.db.get::<Attachment>(&id).await? else {
        cx.filtered();
        return Err(missing(&id));
    };
    cx.authorize_found(&a.project_id, || missing(&id))?;
    Ok(a)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let a = find(&cx).await?;
    Reply::ok(&json!({"attachment": full(&cx, &a)}))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "attachment")?;
    forms::only(&m, &["volume_uuid", "instance_uuid", "connector", "mode"])?;
    let volume_id = forms::uuid("volume_uuid", m.get("volume_uuid").unwrap_or(&Value::Null))?;
    let v = cx.state.db.get::<Volume>(&volume_id).await?.ok_or_else(|| volume_missing(&volume_id))?;
    let own = cx.auth().creds.project_id.as_deref() == Some(&v.project_id);
    if !own && !cx.auth().is_admin() {
        return Err(volume_missing(&volume_id));
    }
    let mode = m.get("mode").and_then(Value::as_str).filter(|_| cx.version >= Version(3, 54));
    if mode.is_some_and(|m| !matches!(m, "rw" | "ro")) {
        return Err(forms::invalid("mode", mode.unwrap_or(""), "It is not one of rw, ro."));
    }
    if v.bootable && v.multiattach {
        cx.require("volume:multiattach_bootable_volume", &Target::project(v.project_id.as_str()))?;
    }
    let connector = m.get("connector").filter(|c| c.as_object().is_some_and(|o| !o.is_empty())).cloned();
    let new = NewAttachment {
        id: cx.env.uuid(),
        volume_id,
        instance_uuid: forms::opt_uuid("instance_uuid", m.get("instance_uuid"))?,
        mode: mode.map(String::from),
        now: cx.env.now(),
    };
    let state = cx.state.clone();
    let a = cx
        .state
        .db
        .write(move |tx| {
            let a = attach::reserve(tx, &new)?;
            match &connector {
                Some(c) => attach::connect(tx, &state, &a.id, c),
                None => Ok(a),
            }
        })
        .await?;
    Reply::ok(&json!({"attachment": full(&cx, &a)}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let a = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "attachment")?;
    forms::only(&m, &["connector"])?;
    let connector = m.get("connector").filter(|c| c.as_object().is_some_and(|o| !o.is_empty())).cloned();
    let connector = connector.ok_or_else(|| Error::invalid("'connector' is a required property and must not be empty."))?;
    let (state, id) = (cx.state.clone(), a.id.clone());
    let a = cx.state.db.write(move |tx| attach::connect(tx, &state, &id, &connector)).await?;
    Reply::ok(&json!({"attachment": full(&cx, &a)}))
}

async fn complete(cx: Ctx<State>) -> Result<Reply> {
    let a = find(&cx).await?;
    let (id, now) = (a.id.clone(), cx.env.now());
    cx.state.db.write(move |tx| attach::complete(tx, &id, now)).await?;
    Ok(Reply::empty(204))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let a = find(&cx).await?;
    nova::may_detach(&cx.state, cx.auth(), &a).await?;
    let (id, volume, now) = (a.id.clone(), a.volume_id.clone(), cx.env.now());
    let left = cx
        .state
        .db
        .write(move |tx| {
            attach::remove(tx, &id, now)?;
            tx.list::<Attachment>(&Query::new().eq("volume_id", volume.as_str()))
        })
        .await?;
    Reply::ok(&json!({"attachments": left.iter().map(|a| short(a)).collect::<Vec<_>>()}))
}

async fn listed(cx: Ctx<State>, view: fn(&Ctx<State>, &Attachment) -> Value) -> Result<Reply> {
    cx.authorize_own()?;
    let tenant = lists::tenant(&cx, "volume:get_all_tenants_hosts")?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut query = paging.query();
    query.filters.extend(tenant.map(|t| Filter::Eq("project_id", t.into())));
    for (key, value) in cx.query.iter() {
        let column = match key {
            "instance_id" | "instance_uuid" => "instance_uuid",
            "volume_id" => "volume_id",
            "status" | "attach_status" => "status",
            "id" | "attachment_id" => "id",
            _ => continue,
        };
        query.filters.push(Filter::Eq(column, value.into()));
    }
    let missing = lists::marker_missing("Attachment", paging.marker.as_deref());
    let found = cx.state.db.list::<Attachment>(query).await.map_err(missing)?;
    let last = found.last().map(|a| a.id.clone());
    let items = found.iter().map(|a| view(&cx, a)).collect();
    Reply::ok(&lists::page(&cx, "attachments", items, last, &paging, None))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, |_, a| short(a)).await
}

async fn list_detail(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, full).await
}
