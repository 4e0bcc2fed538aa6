//! `/backups`

use super::forms;
use super::lists::{self, Paging, SortKeys};
use super::views::time;
use super::{admin, caller, member, reader};
use crate::State;
use crate::flows::backup::{CreateBackup, DeleteBackup, RestoreBackup};
use crate::logic::types::default_for;
use crate::logic::volumes::insert as insert_volume;
use crate::store::quota::{self, Wanted};
use crate::store::rows::{self, snapshot_missing, volume_missing};
use crate::store::{Backup, Volume, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Query, Stored, Tx};
use serde_json::{Value, json};

const ACTION: &str = "/backups/{id}/action";

pub const OPS: &[Op<State>] = &[
    Op::get("backup_list", "/backups", reader("backup:get_all"), h!(list)),
    Op::post("backup_create", "/backups", member("backup:create"), h!(create)),
    Op::get("backup_list_detail", "/backups/detail", reader("backup:get_all"), h!(list_detail)),
    Op::get("backup_show", "/backups/{id}", reader("backup:get"), h!(show)),
    Op::put("backup_update", "/backups/{id}", member("backup:update"), h!(update)).since(3, 9),
    Op::delete("backup_delete", "/backups/{id}", member("backup:delete"), h!(delete)),
    Op::post("backup_restore", "/backups/{id}/restore", member("backup:restore"), h!(restore)),
    Op::post("backup_reset_status", ACTION, admin("volume_extension:backup_admin_actions:reset_status"), h!(reset))
        .action("os-reset_status"),
    Op::post("backup_force_delete", ACTION, admin("volume_extension:backup_admin_actions:force_delete"), h!(force_delete))
        .action("os-force_delete"),
];

const SORT: SortKeys =
    &[("id", "id"), ("created_at", "created_at"), ("name", "name"), ("size", "size"), ("status", "status"), ("volume_id", "volume_id")];

fn short(cx: &Ctx<State>, b: &Backup) -> Value {
    json!({"id": b.id, "name": b.name, "links": lists::links(cx, "backups", &b.id)})
}

fn full(cx: &Ctx<State>, b: &Backup) -> Value {
    let mut out = short(cx, b);
    let more = json!({
        "status": b.status,
        "size": b.size,
        "object_count": 1,
        "availability_zone": b.availability_zone,
        "container": b.container,
        "created_at": b.created_at.iso_micros(),
        "updated_at": time(b.updated_at),
        "description": b.description,
        "fail_reason": b.fail_reason,
        "volume_id": b.volume_id,
        "is_incremental": false,
        "has_dependent_backups": false,
        "snapshot_id": b.snapshot_id,
        "data_timestamp": b.data_timestamp.iso_micros(),
    });
    if let (Some(o), Some(m)) = (out.as_object_mut(), more.as_object()) {
        o.extend(m.clone());
    }
    if cx.version >= Version(3, 18) && cx.auth().is_admin() {
        out["os-backup-project-attr:project_id"] = json!(b.project_id);
    }
    if cx.version >= Version(3, 43) {
        out["metadata"] = json!(b.metadata);
    }
    if cx.version >= Version(3, 56) {
        out["user_id"] = json!(b.user_id);
    }
    out
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("Backup {id} could not be found."))
}

async fn find(cx: &Ctx<State>) -> Result<Stored<Backup>> {
    let id = cx.param("id").to_string();
    let Some(b) = cx.state.db.get::<Backup>(&id).await? else {
        cx.filtered();
        return Err(missing(&id));
    };
    cx.authorize_found(&b.project_id, || missing(&id))?;
    Ok(b)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let b = find(&cx).await?;
    Reply::ok(&json!({"backup": full(&cx, &b)}))
}

/// Marks what is backed up and returns its format and size.
fn source(tx: &mut Tx<'_>, volume: &mut Stored<Volume>, snapshot_id: Option<&str>, force: bool) -> Result<(String, i64)> {
    if let Some(id) = snapshot_id {
        let mut s = rows::snapshot(tx, id)?;
        if s.volume_id != volume.id {
            return Err(snapshot_missing(id));
        }
        if s.status != "available" {
            return Err(Error::invalid("Invalid snapshot: The snapshot to be backed up must be available."));
        }
        s.status = "backing-up".into();
        tx.update(&mut s)?;
        return Ok((s.format.clone(), s.size));
    }
    if volume.status != "available" && !(force && volume.status == "in-use") {
        return Err(Error::invalid(format!(
            "Invalid volume: The volume to be backed up must be available or in-use with force, but it is {}.",
            volume.status
        )));
    }
    volume.previous_status = Some(std::mem::replace(&mut volume.status, "backing-up".into()));
    tx.update(volume)?;
    Ok((volume.format.clone(), volume.size))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "backup")?;
    forms::only(
        &m,
        &["volume_id", "container", "description", "incremental", "force", "name", "snapshot_id", "metadata", "availability_zone"],
    )?;
    let flag = |k: &str| m.get(k).filter(|v| !v.is_null()).map_or(Ok(false), |v| forms::boolean(k, v));
    if flag("incremental")? {
        return Err(Error::invalid("Invalid backup: This backend makes whole backups only."));
    }
    let force = flag("force")?;
    let volume_id = forms::uuid("volume_id", m.get("volume_id").unwrap_or(&Value::Null))?;
    let (who, now) = (caller(&cx)?, cx.env.now());
    let new = Backup {
        id: cx.env.uuid(),
        user_id: who.user_id.clone(),
        volume_id: volume_id.clone(),
        snapshot_id: forms::opt_uuid("snapshot_id", m.get("snapshot_id"))?,
        name: forms::text("name", m.get("name"))?,
        description: forms::text("description", m.get("description"))?,
        container: Some(forms::text("container", m.get("container"))?.unwrap_or_else(|| "backups".into())),
        metadata: forms::metadata("metadata", m.get("metadata"))?,
        status: "creating".into(),
        created_at: now,
        data_timestamp: now,
        ..Backup::default()
    };
    let state = cx.state.clone();
    let b = cx
        .state
        .db
        .write(move |tx| {
            let mut v = rows::volume(tx, &volume_id)?;
            if v.project_id != who.project_id && !who.admin {
                return Err(volume_missing(&volume_id));
            }
            let (format, size) = source(tx, &mut v, new.snapshot_id.as_deref(), force)?;
            let b = Backup {
                project_id: v.project_id.clone(),
                size,
                format,
                availability_zone: v.availability_zone.clone(),
                volume_type_id: v.volume_type_id.clone(),
                bootable: v.bootable,
                volume_metadata: v.metadata.clone(),
                image_metadata: v.image_metadata.clone(),
                ..new.clone()
            };
            quota::check(tx, &b.project_id, &Wanted { backups: 1, backup_gigabytes: size, ..Wanted::default() })?;
            let made = tx.insert(&b)?;
            let disk = b.disk();
            let flow = CreateBackup {
                backup_id: b.id.clone(),
                project_id: b.project_id.clone(),
                request_id: who.request_id.clone(),
                volume_id: b.volume_id.clone(),
                snapshot_id: b.snapshot_id.clone(),
                format: disk.format,
                bytes: disk.bytes,
            };
            state.flows.start(tx, &b.id, &b.project_id, &flow)?;
            Ok(made)
        })
        .await?;
    Reply::json(202, &json!({"backup": short(&cx, &b)}))
}

async fn change(cx: &Ctx<State>, id: &str, f: impl Fn(&mut Backup) + Send + Sync + 'static) -> Result<Stored<Backup>> {
    let id = id.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut b = tx.get::<Backup>(&id)?.ok_or_else(|| missing(&id))?;
            f(&mut b.value);
            tx.update(&mut b)?;
            Ok(b)
        })
        .await
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let b = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "backup")?;
    forms::only(&m, &["name", "description", "metadata"])?;
    if m.is_empty() {
        return Err(Error::invalid("At least one of name, description or metadata must be given."));
    }
    let name = m.get("name").map(|v| forms::text("name", Some(v))).transpose()?;
    let description = m.get("description").map(|v| forms::text("description", Some(v))).transpose()?;
    let metadata = m.get("metadata").map(|v| forms::metadata("metadata", Some(v))).transpose()?;
    let now = cx.env.now();
    let b = change(&cx, &b.id, move |b| {
        if let Some(n) = &name {
            b.name.clone_from(n);
        }
        if let Some(d) = &description {
            b.description.clone_from(d);
        }
        if let Some(m) = &metadata {
            b.metadata.clone_from(m);
        }
        b.updated_at = Some(now);
    })
    .await?;
    Reply::ok(&json!({"backup": short(&cx, &b)}))
}

async fn remove(cx: Ctx<State>, force: bool) -> Result<Reply> {
    let b = find(&cx).await?;
    let (state, id, request) = (cx.state.clone(), b.id.clone(), cx.request_id.clone());
    cx.state
        .db
        .write(move |tx| {
            let mut b = tx.get::<Backup>(&id)?.ok_or_else(|| missing(&id))?;
            if b.status == "deleting" && state.flows.busy(tx, &id)? {
                return Ok(());
            }
            if !force && !matches!(b.status.as_str(), "available" | "error" | "error_deleting") {
                return Err(Error::invalid("Invalid backup: Backup status must be available or error"));
            }
            state.flows.cancel(tx, &id)?;
            b.status = "deleting".into();
            tx.update(&mut b)?;
            let flow = DeleteBackup { backup_id: id.clone(), project_id: b.project_id.clone(), request_id: request.clone() };
            state.flows.start(tx, &id, &b.project_id, &flow).map(drop)
        })
        .await?;
    Ok(Reply::empty(202))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    remove(cx, false).await
}

async fn force_delete(cx: Ctx<State>) -> Result<Reply> {
    remove(cx, true).await
}

async fn reset(mut cx: Ctx<State>) -> Result<Reply> {
    let b = find(&cx).await?;
    let body: Value = cx.json().await?;
    let status = forms::name("status", forms::action(&body, "os-reset_status")?.get("status"))?;
    if !matches!(status.as_str(), "available" | "error") {
        return Err(forms::invalid("status", status, "It is not one of available, error."));
    }
    change(&cx, &b.id, move |b| b.status.clone_from(&status)).await?;
    Ok(Reply::empty(202))
}

/// The volume to restore to: the named one, or a new one.
fn target(tx: &mut Tx<'_>, state: &State, b: &Backup, named: Option<&str>, fresh: &Volume, admin: bool) -> Result<(Stored<Volume>, bool)> {
    if let Some(id) = named {
        let mut v = rows::volume(tx, id)?;
        if v.project_id != fresh.project_id && !admin {
            return Err(volume_missing(id));
        }
        if v.status != "available" {
            return Err(Error::invalid("Invalid volume: Volume to be restored to must be available"));
        }
        if v.size < b.size {
            return Err(Error::invalid(format!(
                "Invalid volume: volume size {} is too small to restore backup of size {}.",
                v.size, b.size
            )));
        }
        v.status = "restoring-backup".into();
        tx.update(&mut v)?;
        return Ok((v, false));
    }
    let kind = match tx.get::<VolumeType>(&b.volume_type_id)? {
        Some(k) => k,
        None => default_for(tx, &state.options.default_type, &fresh.project_id)?,
    };
    let v = Volume { volume_type_id: kind.id.clone(), multiattach: kind.multiattach(), ..fresh.clone() };
    insert_volume(tx, &v, &kind)?;
    Ok((rows::volume(tx, &v.id)?, true))
}

async fn restore(mut cx: Ctx<State>) -> Result<Reply> {
    let b = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "restore")?;
    forms::only(&m, &["name", "volume_id"])?;
    let named = forms::opt_uuid("volume_id", m.get("volume_id"))?;
    let who = caller(&cx)?;
    let fresh = Volume {
        id: cx.env.uuid(),
        project_id: who.project_id.clone(),
        user_id: who.user_id.clone(),
        name: Some(forms::text("name", m.get("name"))?.unwrap_or_else(|| format!("restore_backup_{}", b.id))),
        size: b.size,
        status: "restoring-backup".into(),
        availability_zone: cx.state.options.availability_zone.clone(),
        host: cx.state.pool(),
        format: cx.state.options.volume_format.clone(),
        bootable: b.bootable,
        metadata: b.volume_metadata.clone(),
        image_metadata: b.image_metadata.clone(),
        created_at: cx.env.now(),
        ..Volume::default()
    };
    let (state, id) = (cx.state.clone(), b.id.clone());
    let v = cx
        .state
        .db
        .write(move |tx| {
            let mut b = tx.get::<Backup>(&id)?.ok_or_else(|| missing(&id))?;
            if b.status != "available" {
                return Err(Error::invalid("Invalid backup: Backup status must be available"));
            }
            let (v, new) = target(tx, &state, &b, named.as_deref(), &fresh, who.admin)?;
            b.status = "restoring".into();
            tx.update(&mut b)?;
            let disk = b.disk();
            let flow = RestoreBackup {
                backup_id: b.id.clone(),
                volume_id: v.id.clone(),
                project_id: v.project_id.clone(),
                request_id: who.request_id.clone(),
                from: disk.format,
                to: v.format.clone(),
                from_bytes: disk.bytes,
                to_bytes: v.bytes(),
                fresh: new,
            };
            state.flows.start(tx, &v.id, &v.project_id, &flow)?;
            Ok(v)
        })
        .await?;
    Reply::json(202, &json!({"restore": {"backup_id": b.id, "volume_id": v.id, "volume_name": v.name.clone().unwrap_or_default()}}))
}

async fn listed(cx: Ctx<State>, view: fn(&Ctx<State>, &Backup) -> Value) -> Result<Reply> {
    cx.authorize_own()?;
    let tenant = lists::tenant(&cx, "volume:get_all_tenants_hosts")?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut query: Query = paging.query();
    query.filters.extend(tenant.map(|t| Filter::Eq("project_id", t.into())));
    for column in ["name", "status", "volume_id", "id"] {
        query.filters.extend(cx.query.get(column).map(|v| Filter::Eq(column, v.into())));
    }
    let counted = lists::with_count(&cx);
    let missing = lists::marker_missing("Backup", paging.marker.as_deref());
    let read = move |tx: &mut Tx<'_>| Ok((tx.list::<Backup>(&query)?, if counted { Some(tx.count::<Backup>(&query)?) } else { None }));
    let (found, count) = cx.state.db.read(read).await.map_err(missing)?;
    let last = found.last().map(|b| b.id.clone());
    let items = found.iter().map(|b| view(&cx, b)).collect();
    Reply::ok(&lists::page(&cx, "backups", items, last, &paging, count))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, short).await
}

async fn list_detail(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, full).await
}
