//! `/snapshots`

use super::forms;
use super::lists::{self, Paging, SortKeys};
use super::views;
use super::{admin, caller, member, reader};
use crate::State;
use crate::flows::snapshot::{CreateSnapshot, DeleteSnapshot};
use crate::store::quota::{self, Wanted};
use crate::store::rows::{self, snapshot_missing, volume_missing};
use crate::store::{Backup, Snapshot, Volume, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Query, Stored, Tx};
use serde_json::{Value, json};

const ACTION: &str = "/snapshots/{id}/action";

pub const OPS: &[Op<State>] = &[
    Op::get("snapshot_list", "/snapshots", reader("volume:get_all_snapshots"), h!(list)),
    Op::post("snapshot_create", "/snapshots", member("volume:create_snapshot"), h!(create)),
    Op::get("snapshot_list_detail", "/snapshots/detail", reader("volume:get_all_snapshots"), h!(list_detail)),
    Op::get("snapshot_show", "/snapshots/{id}", reader("volume:get_snapshot"), h!(show)),
    Op::put("snapshot_update", "/snapshots/{id}", member("volume:update_snapshot"), h!(update)),
    Op::delete("snapshot_delete", "/snapshots/{id}", member("volume:delete_snapshot"), h!(delete)),
    Op::post("snapshot_reset_status", ACTION, admin("volume_extension:snapshot_admin_actions:reset_status"), h!(reset))
        .action("os-reset_status"),
    Op::post("snapshot_update_status", ACTION, member("snapshot_extension:snapshot_actions:update_snapshot_status"), h!(update_status))
        .action("os-update_snapshot_status"),
    Op::post("snapshot_force_delete", ACTION, admin("volume_extension:snapshot_admin_actions:force_delete"), h!(force_delete))
        .action("os-force_delete"),
];

const SORT: SortKeys = &[
    ("id", "id"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
    ("name", "name"),
    ("display_name", "name"),
    ("size", "size"),
    ("status", "status"),
    ("volume_id", "volume_id"),
];

/// The snapshot of the path if the caller may do this to it.
pub async fn find(cx: &Ctx<State>) -> Result<Stored<Snapshot>> {
    let id = cx.param("id").to_string();
    let Some(s) = cx.state.db.get::<Snapshot>(&id).await? else {
        cx.filtered();
        return Err(snapshot_missing(&id));
    };
    cx.authorize_found(&s.project_id, || snapshot_missing(&id))?;
    Ok(s)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let s = find(&cx).await?;
    Reply::ok(&json!({"snapshot": views::snapshot(&cx, &s, true)}))
}

/// Adds a snapshot's row and starts copying.
pub fn begin(tx: &mut Tx<'_>, state: &State, v: &Volume, s: &Snapshot, request_id: &str) -> Result<Stored<Snapshot>> {
    let kind = tx.get::<VolumeType>(&v.volume_type_id)?;
    let wanted = Wanted {
        snapshots: 1,
        gigabytes: v.size,
        volume_type: kind.as_ref().map(|t| t.name.as_str()),
        volume_type_id: kind.as_ref().map(|t| t.id.as_str()),
        ..Wanted::default()
    };
    quota::check(tx, &v.project_id, &wanted)?;
    let made = tx.insert(s)?;
    let flow = CreateSnapshot {
        snapshot_id: s.id.clone(),
        project_id: v.project_id.clone(),
        request_id: request_id.to_string(),
        volume_id: v.id.clone(),
        format: v.format.clone(),
        bytes: v.bytes(),
        group_snapshot_id: s.group_snapshot_id.clone(),
    };
    state.flows.start(tx, &s.id, &v.project_id, &flow)?;
    Ok(made)
}

/// A new snapshot's row.
pub fn row(v: &Volume, id: String, user_id: &str, now: caelum_base::Timestamp) -> Snapshot {
    Snapshot {
        id,
        project_id: v.project_id.clone(),
        user_id: user_id.to_string(),
        volume_id: v.id.clone(),
        size: v.size,
        status: "creating".into(),
        progress: "0%".into(),
        volume_type_id: v.volume_type_id.clone(),
        format: v.format.clone(),
        bootable: v.bootable,
        image_metadata: v.image_metadata.clone(),
        created_at: now,
        ..Snapshot::default()
    }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "snapshot")?;
    forms::only(&m, &["volume_id", "name", "description", "display_name", "display_description", "force", "metadata"])?;
    // An explicit null names no volume, which is not found; a missing key is bad input.
    if m.get("volume_id").is_some_and(Value::is_null) {
        return Err(volume_missing("None"));
    }
    let volume_id = forms::uuid("volume_id", m.get("volume_id").unwrap_or(&Value::Null))?;
    let name = forms::text("name", m.get("name").or_else(|| m.get("display_name")))?;
    let description = forms::text("description", m.get("description").or_else(|| m.get("display_description")))?;
    let metadata = forms::metadata("metadata", m.get("metadata"))?;
    let force = m.get("force").map_or(Ok(false), |f| forms::boolean("force", f))?;
    let newest = cx.version >= Version(3, 66);
    if newest && m.contains_key("force") && !force {
        return Err(Error::invalid("Since microversion 3.66 the 'force' parameter cannot be false."));
    }
    let in_use = force || newest;
    let (who, state, id) = (caller(&cx)?, cx.state.clone(), cx.env.uuid());
    let s = cx
        .state
        .db
        .write(move |tx| {
            let v = rows::volume(tx, &volume_id)?;
            if v.project_id != who.project_id && !who.admin {
                return Err(volume_missing(&volume_id));
            }
            if v.status != "available" && !(in_use && matches!(v.status.as_str(), "in-use" | "attaching" | "detaching" | "reserved")) {
                return Err(Error::invalid(format!(
                    "Invalid volume: Volume {} status must be available to snapshot, but current status is: {}.",
                    v.id, v.status
                )));
            }
            let mut s = row(&v, id.clone(), &who.user_id, state.env.now());
            s.name.clone_from(&name);
            s.description.clone_from(&description);
            s.metadata.clone_from(&metadata);
            begin(tx, &state, &v, &s, &who.request_id)
        })
        .await?;
    Reply::json(202, &json!({"snapshot": views::snapshot(&cx, &s, false)}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let s = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "snapshot")?;
    forms::only(&m, &["name", "description", "display_name", "display_description"])?;
    if m.is_empty() {
        return Err(Error::invalid("At least one of name or description must be given."));
    }
    let name = m.get("name").or_else(|| m.get("display_name")).map(|v| forms::text("name", Some(v))).transpose()?;
    let description =
        m.get("description").or_else(|| m.get("display_description")).map(|v| forms::text("description", Some(v))).transpose()?;
    let now = cx.env.now();
    let s = change(&cx, &s.id, move |s| {
        if let Some(n) = &name {
            s.name.clone_from(n);
        }
        if let Some(d) = &description {
            s.description.clone_from(d);
        }
        s.updated_at = Some(now);
    })
    .await?;
    Reply::ok(&json!({"snapshot": views::snapshot(&cx, &s, false)}))
}

async fn change(cx: &Ctx<State>, id: &str, f: impl Fn(&mut Snapshot) + Send + Sync + 'static) -> Result<Stored<Snapshot>> {
    let id = id.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut s = rows::snapshot(tx, &id)?;
            f(&mut s.value);
            tx.update(&mut s)?;
            Ok(s)
        })
        .await
}

/// Marks a snapshot as going and starts removing it; a creation under way is cancelled.
pub fn remove(tx: &mut Tx<'_>, state: &State, id: &str, request_id: &str, force: bool) -> Result<()> {
    let mut s = rows::snapshot(tx, id)?;
    // An administrator may have set the status by hand: only a running removal counts.
    if s.status == "deleting" && state.flows.busy(tx, id)? {
        return Ok(());
    }
    if !force && !matches!(s.status.as_str(), "available" | "error" | "error_deleting" | "creating") {
        return Err(Error::invalid(format!(
            "Invalid snapshot: Volume Snapshot status must be available or error, and not in the middle of another operation. (Current status: {})",
            s.status
        )));
    }
    if tx.count::<Backup>(&Query::new().eq("volume_id", s.volume_id.as_str()).eq("status", "creating"))? > 0 && s.status == "backing-up" {
        return Err(Error::invalid("Invalid snapshot: A backup of the snapshot is being made."));
    }
    state.flows.cancel(tx, id)?;
    s.status = "deleting".into();
    s.updated_at = Some(state.env.now());
    tx.update(&mut s)?;
    let flow = DeleteSnapshot {
        snapshot_id: id.into(),
        project_id: s.project_id.clone(),
        request_id: request_id.into(),
        group_snapshot_id: s.group_snapshot_id.clone(),
    };
    state.flows.start(tx, id, &s.project_id, &flow).map(drop)
}

async fn delete_with(cx: Ctx<State>, force: bool) -> Result<Reply> {
    let s = find(&cx).await?;
    if s.group_snapshot_id.is_some() && !force {
        return Err(Error::invalid("Invalid snapshot: The snapshot belongs to a group snapshot; delete that."));
    }
    let (state, id, request) = (cx.state.clone(), s.id.clone(), cx.request_id.clone());
    cx.state.db.write(move |tx| remove(tx, &state, &id, &request, force)).await?;
    Ok(Reply::empty(202))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    delete_with(cx, false).await
}

async fn force_delete(cx: Ctx<State>) -> Result<Reply> {
    delete_with(cx, true).await
}

async fn reset(mut cx: Ctx<State>) -> Result<Reply> {
    let s = find(&cx).await?;
    let body: Value = cx.json().await?;
    let status = forms::name("status", forms::action(&body, "os-reset_status")?.get("status"))?;
    let known = ["available", "creating", "deleting", "error", "error_deleting", "restoring", "backing-up"];
    if !known.contains(&status.as_str()) {
        return Err(forms::invalid("status", status, "It is no status of a snapshot."));
    }
    change(&cx, &s.id, move |s| s.status.clone_from(&status)).await?;
    Ok(Reply::empty(202))
}

async fn update_status(mut cx: Ctx<State>) -> Result<Reply> {
    let s = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::action(&body, "os-update_snapshot_status")?;
    let status = forms::name("status", m.get("status"))?;
    let progress = forms::text("progress", m.get("progress"))?;
    let allowed = match s.status.as_str() {
        "creating" => ["creating", "available", "error"].contains(&status.as_str()),
        "deleting" => ["deleting", "error_deleting"].contains(&status.as_str()),
        _ => false,
    };
    if !allowed {
        return Err(Error::invalid(format!("Update snapshot status not allowed for snapshot {}: {} to {status}.", s.id, s.status)));
    }
    change(&cx, &s.id, move |s| {
        s.status.clone_from(&status);
        if let Some(p) = &progress {
            s.progress.clone_from(p);
        }
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn listed(cx: Ctx<State>, full: bool) -> Result<Reply> {
    cx.authorize_own()?;
    let tenant = lists::tenant(&cx, "volume:get_all_tenants_hosts")?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut query = paging.query();
    query.filters.extend(tenant.map(|t| Filter::Eq("project_id", t.into())));
    for (key, value) in cx.query.iter() {
        let column = match key {
            "name" | "display_name" => "name",
            "status" => "status",
            "volume_id" => "volume_id",
            "id" => "id",
            "created_at" | "updated_at" if cx.version >= Version(3, 60) => {
                let column = if key == "created_at" { "created_at" } else { "updated_at" };
                query.filters.extend(super::volumes::time_filters(column, value)?);
                continue;
            }
            _ => continue,
        };
        query.filters.push(Filter::Eq(column, value.into()));
    }
    let wanted = cx.query.get("metadata").filter(|_| cx.version >= Version(3, 22)).and_then(lists::metadata_filter);
    if wanted.is_some() {
        (query.limit, query.offset, query.marker) = (None, None, None);
    }
    let counted = lists::with_count(&cx);
    let missing = lists::marker_missing("Snapshot", paging.marker.as_deref());
    let read = move |tx: &mut Tx<'_>| Ok((tx.list::<Snapshot>(&query)?, if counted { Some(tx.count::<Snapshot>(&query)?) } else { None }));
    let (mut found, mut count) = cx.state.db.read(read).await.map_err(missing)?;
    if let Some(w) = wanted {
        found.retain(|s| w.iter().all(|(k, v)| s.metadata.get(k) == Some(v)));
        count = count.map(|_| i64::try_from(found.len()).unwrap_or(i64::MAX));
        found = paging.cut(found, |s| &s.id);
    }
    let last = found.last().map(|s| s.id.clone());
    let items = found.iter().map(|s| views::snapshot(&cx, s, full)).collect();
    Reply::ok(&lists::page(&cx, "snapshots", items, last, &paging, count))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, false).await
}

async fn list_detail(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, true).await
}
