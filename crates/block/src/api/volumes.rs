//! `/volumes`

use super::forms::{self, Map};
use super::lists::{self, Paging, SortKeys};
use super::views::{self, Extra};
use super::{caller, member, reader};
use crate::State;
use crate::logic::volumes::{self as logic, DeleteHow, NewVolume};
use crate::store::rows::{self, by_ids, volume_missing};
use crate::store::{Attachment, Volume, VolumeType};
use caelum_base::{Error, Result, Timestamp};
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Query, Stored, Tx, Value as Sql};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("volume_list", "/volumes", reader("volume:get_all"), h!(list)),
    Op::post("volume_create", "/volumes", member("volume:create"), h!(create)),
    Op::get("volume_list_detail", "/volumes/detail", reader("volume:get_all"), h!(list_detail)),
    Op::get("volume_summary", "/volumes/summary", reader("volume:get_all"), h!(summary)).since(3, 12),
    Op::get("volume_show", "/volumes/{id}", reader("volume:get"), h!(show)),
    Op::put("volume_update", "/volumes/{id}", member("volume:update"), h!(update)),
    Op::delete("volume_delete", "/volumes/{id}", member("volume:delete"), h!(delete)),
];

const SORT: SortKeys = &[
    ("id", "id"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
    ("name", "name"),
    ("display_name", "name"),
    ("size", "size"),
    ("status", "status"),
    ("bootable", "bootable"),
    ("availability_zone", "availability_zone"),
    ("host", "host"),
    ("user_id", "user_id"),
    ("project_id", "project_id"),
    ("volume_type_id", "volume_type_id"),
];

/// The volume of the path if the caller may do this to it.
pub async fn find(cx: &Ctx<State>) -> Result<Stored<Volume>> {
    let id = cx.param("id").to_string();
    let v = cx.state.db.get::<Volume>(&id).await?;
    let Some(v) = v else {
        cx.filtered();
        return Err(volume_missing(&id));
    };
    cx.authorize_found(&v.project_id, || volume_missing(&id))?;
    Ok(v)
}

/// Type names and attachments of these volumes.
pub fn extra(tx: &mut Tx<'_>, vs: &[Stored<Volume>]) -> Result<Extra> {
    let ids: Vec<String> = vs.iter().map(|v| v.id.clone()).collect();
    let types: BTreeMap<String, String> = tx.list::<VolumeType>(&Query::new())?.into_iter().map(|t| (t.value.id, t.value.name)).collect();
    let attachments = by_ids::<Attachment>(tx, "volume_id", &ids)?.into_iter().map(Stored::into_inner).collect();
    Ok(Extra { types, attachments })
}

async fn with_extra(cx: &Ctx<State>, v: Stored<Volume>) -> Result<(Stored<Volume>, Extra)> {
    let x = cx.state.db.read({
        let v = v.clone();
        move |tx| extra(tx, &[v])
    });
    let x = x.await?;
    Ok((v, x))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let (v, x) = with_extra(&cx, v).await?;
    Reply::ok(&json!({"volume": views::volume_full(&cx, &v, &x)}))
}

fn new_volume(cx: &Ctx<State>, m: &Map) -> Result<NewVolume> {
    if m.get("multiattach").is_some_and(|v| forms::boolean("multiattach", v).unwrap_or(true)) {
        return Err(Error::invalid(
            "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types. Contact your administrator to create a multiattach enabled volume type and use it to create multiattach volumes.",
        ));
    }
    if let Some(v) = m.get("consistencygroup_id").filter(|v| !v.is_null()) {
        return Err(forms::invalid("consistencygroup_id", v, "Consistency groups are not offered."));
    }
    let size = match m.get("size") {
        None | Some(Value::Null) => None,
        Some(v) => Some(forms::int("size", v, 1, logic::MAX_SIZE)?),
    };
    let image = m.get("imageRef").or_else(|| m.get("image_id"));
    // A whole URL is accepted; its last part is the id.
    let image = match image {
        Some(Value::String(s)) if !s.is_empty() => Some(s.rsplit('/').next().unwrap_or(s).to_string()),
        None | Some(Value::Null | Value::String(_)) => None,
        Some(v) => return Err(forms::invalid("imageRef", v, "It is not text.")),
    };
    let group = if cx.version >= Version(3, 13) { forms::opt_uuid("group_id", m.get("group_id"))? } else { None };
    let backup = if cx.version >= Version(3, 47) { forms::opt_uuid("backup_id", m.get("backup_id"))? } else { None };
    Ok(NewVolume {
        name: forms::text("name", m.get("name").or_else(|| m.get("display_name")))?,
        description: forms::text("description", m.get("description").or_else(|| m.get("display_description")))?,
        size,
        volume_type: forms::text("volume_type", m.get("volume_type"))?.filter(|t| !t.is_empty()),
        availability_zone: forms::text("availability_zone", m.get("availability_zone"))?.filter(|t| !t.is_empty()),
        metadata: forms::metadata("metadata", m.get("metadata"))?,
        image_id: image,
        snapshot_id: forms::opt_uuid("snapshot_id", m.get("snapshot_id"))?,
        source_volid: forms::opt_uuid("source_volid", m.get("source_volid"))?,
        backup_id: backup,
        group_id: group,
    })
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let new = new_volume(&cx, &forms::inner(&body, "volume")?)?;
    let made = logic::create(&cx.state, &caller(&cx)?, new).await?;
    let (v, x) = with_extra(&cx, made).await?;
    Reply::json(202, &json!({"volume": views::volume(&cx, &v, &x)}))
        .map(|r| r.header("location", format!("{}/volumes/{}", lists::home(&cx), v.id)))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "volume")?;
    forms::only(&m, &["name", "description", "display_name", "display_description", "metadata"])?;
    if m.is_empty() {
        return Err(Error::invalid("At least one of name, description or metadata must be given."));
    }
    let name = m.get("name").or_else(|| m.get("display_name")).map(|v| forms::text("name", Some(v))).transpose()?;
    let description =
        m.get("description").or_else(|| m.get("display_description")).map(|v| forms::text("description", Some(v))).transpose()?;
    let metadata = m.get("metadata").map(|v| forms::metadata("metadata", Some(v))).transpose()?;
    let (id, now) = (v.id.clone(), cx.env.now());
    let v = cx
        .state
        .db
        .write(move |tx| {
            let mut v = rows::volume(tx, &id)?;
            if let Some(n) = &name {
                v.name.clone_from(n);
            }
            if let Some(d) = &description {
                v.description.clone_from(d);
            }
            if let Some(m) = &metadata {
                v.metadata.clone_from(m);
            }
            v.updated_at = Some(now);
            tx.update(&mut v)?;
            Ok(v)
        })
        .await?;
    let (v, x) = with_extra(&cx, v).await?;
    Reply::ok(&json!({"volume": views::volume(&cx, &v, &x)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let v = find(&cx).await?;
    let force = cx.version >= Version(3, 23) && cx.query.bool("force") == Some(true);
    if force {
        cx.require("volume:force_delete", &Target::project(v.project_id.as_str()))?;
    }
    let how = DeleteHow { cascade: cx.query.bool("cascade") == Some(true), force };
    let (state, request, id) = (cx.state.clone(), cx.request_id.clone(), v.id.clone());
    cx.state.db.write(move |tx| logic::delete(tx, &state, &id, &request, how)).await?;
    Ok(Reply::empty(202))
}

/// Filters on columns that a request names.
fn filters(cx: &Ctx<State>, tenant: Option<&str>) -> Result<Vec<Filter>> {
    let mut out: Vec<Filter> = tenant.map(|t| Filter::Eq("project_id", t.into())).into_iter().collect();
    for (key, value) in cx.query.iter() {
        let column = match key {
            "name" | "display_name" => "name",
            "status" => "status",
            "availability_zone" => "availability_zone",
            "snapshot_id" => "snapshot_id",
            "source_volid" => "source_volid",
            "volume_type_id" => "volume_type_id",
            "id" => "id",
            "user_id" => "user_id",
            "group_id" if cx.version >= Version(3, 10) => "group_id",
            "host" if cx.auth().is_admin() => "host",
            "name~" if cx.version >= Version(3, 31) => {
                out.push(Filter::Contains("name", value.into()));
                continue;
            }
            "size" => {
                let n = forms::int("size", &json!(value), 0, i64::MAX)?;
                out.push(Filter::Eq("size", Sql::Int(n)));
                continue;
            }
            "bootable" => {
                let b = forms::boolean("bootable", &json!(value))?;
                out.push(Filter::Eq("bootable", b.into()));
                continue;
            }
            "created_at" | "updated_at" if cx.version >= Version(3, 60) => {
                out.extend(time_filters(if key == "created_at" { "created_at" } else { "updated_at" }, value)?);
                continue;
            }
            _ => continue,
        };
        out.push(Filter::Eq(column, value.into()));
    }
    Ok(out)
}

/// `gt:2026-01-01,lt:2026-02-01`
pub fn time_filters(column: &'static str, text: &str) -> Result<Vec<Filter>> {
    let bad = || Error::invalid(format!("Invalid input received: Filtering with {column} has an invalid time: {text}"));
    text.split(',')
        .map(|part| {
            let (op, at) = part.split_once(':').filter(|(op, _)| op.chars().all(char::is_alphabetic)).unwrap_or(("eq", part));
            let at: Sql = Timestamp::parse(at).ok_or_else(bad)?.into();
            Ok(match op {
                "eq" => Filter::Eq(column, at),
                "neq" => Filter::Ne(column, at),
                "gt" => Filter::Gt(column, at),
                "gte" => Filter::Ge(column, at),
                "lt" => Filter::Lt(column, at),
                "lte" => Filter::Le(column, at),
                _ => return Err(bad()),
            })
        })
        .collect()
}

struct Found {
    volumes: Vec<Stored<Volume>>,
    extra: Extra,
    count: Option<i64>,
    paging: Paging,
}

async fn search(cx: &Ctx<State>) -> Result<Found> {
    let tenant = lists::tenant(cx, "volume:get_all_tenants_hosts")?;
    let paging = Paging::read(&cx.query, SORT)?;
    let filters = filters(cx, tenant.as_deref())?;
    let wanted = cx
        .query
        .get("metadata")
        .map(|t| lists::metadata_filter(t).ok_or_else(|| forms::invalid("metadata", t, "It is no object.")))
        .transpose()?;
    let image = cx.query.get("glance_metadata").filter(|_| cx.version >= Version(3, 4)).and_then(lists::metadata_filter);
    let counted = lists::with_count(cx);
    let p = paging.clone();
    let read = move |tx: &mut Tx<'_>| {
        let mut query = Query { filters, ..p.query() };
        let in_memory = wanted.is_some() || image.is_some();
        if in_memory {
            (query.limit, query.offset, query.marker) = (None, None, None);
        }
        let mut volumes = tx.list::<Volume>(&query)?;
        let mut count = if counted { Some(tx.count::<Volume>(&query)?) } else { None };
        if in_memory {
            let has = |have: &crate::store::Metadata, want: &Option<crate::store::Metadata>| {
                want.iter().flatten().all(|(k, v)| have.get(k) == Some(v))
            };
            volumes.retain(|v| has(&v.metadata, &wanted) && has(&v.image_metadata, &image));
            count = count.map(|_| i64::try_from(volumes.len()).unwrap_or(i64::MAX));
            volumes = p.cut(volumes, |v| &v.id);
        }
        let extra = extra(tx, &volumes)?;
        Ok((volumes, extra, count))
    };
    let missing = lists::marker_missing("Volume", paging.marker.as_deref());
    let (volumes, extra, count) = cx.state.db.read(read).await.map_err(missing)?;
    Ok(Found { volumes, extra, count, paging })
}

async fn listed(cx: Ctx<State>, view: fn(&Ctx<State>, &Volume, &Extra) -> Value) -> Result<Reply> {
    cx.authorize_own()?;
    let f = search(&cx).await?;
    let last = f.volumes.last().map(|v| v.id.clone());
    let items = f.volumes.iter().map(|v| view(&cx, v, &f.extra)).collect();
    Reply::ok(&lists::page(&cx, "volumes", items, last, &f.paging, f.count))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, |cx, v, _| views::volume_short(cx, v)).await
}

async fn list_detail(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, views::volume_full).await
}

async fn summary(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let tenant = lists::tenant(&cx, "volume:get_all_tenants_hosts")?;
    let query = Query { filters: filters(&cx, tenant.as_deref())?, ..Query::new() };
    let volumes = cx.state.db.list::<Volume>(query).await?;
    let mut out = json!({
        "total_count": volumes.len(),
        "total_size": volumes.iter().map(|v| v.size).sum::<i64>(),
    });
    if cx.version >= Version(3, 36) {
        let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (k, v) in volumes.iter().flat_map(|v| &v.metadata) {
            let values = all.entry(k).or_default();
            if !values.contains(&v.as_str()) {
                values.push(v);
            }
        }
        out["metadata"] = json!(all);
    }
    Reply::ok(&json!({"volume-summary": out}))
}
