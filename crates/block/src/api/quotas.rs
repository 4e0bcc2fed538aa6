//! `/os-quota-sets`, `/os-quota-class-sets` and `/limits`.

use super::forms;
use super::{admin, reader};
use crate::State;
use crate::store::quota::{self, DEFAULTS, Usage, class_key, project_key};
use crate::store::{Quota, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Query, Tx};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("quota_show", "/os-quota-sets/{project}", reader("volume_extension:quotas:show"), h!(show)),
    Op::put("quota_update", "/os-quota-sets/{project}", admin("volume_extension:quotas:update"), h!(update)),
    Op::delete("quota_delete", "/os-quota-sets/{project}", admin("volume_extension:quotas:delete"), h!(delete)),
    Op::get("quota_defaults", "/os-quota-sets/{project}/defaults", reader("volume_extension:quotas:show"), h!(defaults)),
    Op::get("quota_class_show", "/os-quota-class-sets/{class}", admin("volume_extension:quota_classes:get"), h!(class_show)),
    Op::put("quota_class_update", "/os-quota-class-sets/{class}", admin("volume_extension:quota_classes:update"), h!(class_update)),
    Op::get("limits_show", "/limits", reader("limits_extension:used_limits"), h!(limits)),
];

fn project(cx: &Ctx<State>) -> Result<String> {
    let id = cx.param("project").to_string();
    if id.len() > 255 || id.is_empty() || id.chars().any(char::is_control) {
        return Err(Error::invalid("The project id is malformed."));
    }
    Ok(id)
}

fn set(id: Option<&str>, limits: &BTreeMap<String, i64>) -> Value {
    let mut out = json!(limits);
    if let Some(id) = id {
        out["id"] = json!(id);
    }
    out
}

/// What is used of every limit, per-type ones included.
fn used(tx: &mut Tx<'_>, project_id: &str, limits: &BTreeMap<String, i64>) -> Result<BTreeMap<String, i64>> {
    let whole = quota::usage(tx, project_id, None)?;
    let mut by_type: BTreeMap<String, Usage> = BTreeMap::new();
    for t in tx.list::<VolumeType>(&Query::new())? {
        let u = quota::usage(tx, project_id, Some(&t.id))?;
        by_type.insert(t.name.clone(), u);
    }
    let of = |resource: &String| match DEFAULTS.iter().find(|(k, _)| k == resource) {
        Some((k, _)) => whole.of(k),
        None => resource.split_once('_').and_then(|(k, t)| by_type.get(t).map(|u| u.of(k))).unwrap_or(0),
    };
    Ok(limits.keys().map(|k| (k.clone(), of(k))).collect())
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let id = project(&cx)?;
    cx.authorize_project(&id)?;
    let usage = cx.query.bool("usage") == Some(true);
    let wanted = id.clone();
    let (limits, used) = cx
        .state
        .db
        .read(move |tx| {
            let limits = quota::limits(tx, &wanted)?;
            let used = if usage { used(tx, &wanted, &limits)? } else { BTreeMap::new() };
            Ok((limits, used))
        })
        .await?;
    if !usage {
        return Reply::ok(&json!({"quota_set": set(Some(&id), &limits)}));
    }
    let mut out = json!({"id": id});
    for (k, limit) in &limits {
        out[k] = json!({"limit": limit, "in_use": used.get(k).copied().unwrap_or(0), "reserved": 0});
    }
    Reply::ok(&json!({"quota_set": out}))
}

async fn defaults(cx: Ctx<State>) -> Result<Reply> {
    let id = project(&cx)?;
    cx.authorize_project(&id)?;
    let limits = cx.state.db.read(quota::defaults).await?;
    Reply::ok(&json!({"quota_set": set(Some(&id), &limits)}))
}

/// Reads new limits; every key must be a known resource.
fn new_limits(m: &forms::Map, known: &BTreeMap<String, i64>) -> Result<BTreeMap<String, i64>> {
    let mut out = BTreeMap::new();
    for (k, v) in m.iter().filter(|(k, _)| !matches!(k.as_str(), "tenant_id" | "id" | "class_name" | "skip_validation" | "force")) {
        if !known.contains_key(k) {
            return Err(Error::invalid(format!("Bad key(s) in quota set: {k}")));
        }
        out.insert(k.clone(), forms::int(k, v, -1, i64::from(i32::MAX))?);
    }
    Ok(out)
}

/// Changes a stored set; returns all limits that hold then.
async fn store(cx: &Ctx<State>, key: String, project: Option<String>, m: forms::Map) -> Result<BTreeMap<String, i64>> {
    cx.state
        .db
        .write(move |tx| {
            let known = quota::defaults(tx)?;
            let new = new_limits(&m, &known)?;
            match tx.get::<Quota>(&key)? {
                Some(mut q) => {
                    q.limits.extend(new);
                    tx.update(&mut q)?;
                }
                None => drop(tx.insert(&Quota { id: key.clone(), limits: new })?),
            }
            match &project {
                Some(p) => quota::limits(tx, p),
                None => class_limits(tx, &key),
            }
        })
        .await
}

fn class_limits(tx: &mut Tx<'_>, key: &str) -> Result<BTreeMap<String, i64>> {
    let mut out = quota::defaults(tx)?;
    if let Some(q) = tx.get::<Quota>(key)? {
        out.extend(q.value.limits);
    }
    Ok(out)
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let id = project(&cx)?;
    cx.authorize_project(&id)?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "quota_set")?;
    let limits = store(&cx, project_key(&id), Some(id), m).await?;
    Reply::ok(&json!({"quota_set": set(None, &limits)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let id = project(&cx)?;
    cx.authorize_project(&id)?;
    cx.state.db.write(move |tx| tx.delete_id::<Quota>(&project_key(&id))).await?;
    Ok(Reply::empty(200))
}

async fn class_show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let class = cx.param("class").to_string();
    let key = class_key(&class);
    let limits = cx.state.db.read(move |tx| class_limits(tx, &key)).await?;
    Reply::ok(&json!({"quota_class_set": set(Some(&class), &limits)}))
}

async fn class_update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "quota_class_set")?;
    let limits = store(&cx, class_key(cx.param("class")), None, m).await?;
    Reply::ok(&json!({"quota_class_set": set(None, &limits)}))
}

async fn limits(cx: Ctx<State>) -> Result<Reply> {
    let own = cx.auth().project_id()?.to_string();
    // 3.39: administrators may ask about another project.
    let asked = cx.query.get("project_id").or_else(|| cx.query.get("tenant_id")).filter(|_| cx.auth().is_admin());
    let id = asked.map_or(own, String::from);
    cx.authorize_project(&id)?;
    let (limits, used) = cx.state.db.read(move |tx| Ok((quota::limits(tx, &id)?, quota::usage(tx, &id, None)?))).await?;
    let of = |k: &str| limits.get(k).copied().unwrap_or(-1);
    Reply::ok(&json!({"limits": {"rate": [], "absolute": {
        "maxTotalVolumes": of("volumes"),
        "maxTotalSnapshots": of("snapshots"),
        "maxTotalVolumeGigabytes": of("gigabytes"),
        "maxTotalBackups": of("backups"),
        "maxTotalBackupGigabytes": of("backup_gigabytes"),
        "totalVolumesUsed": used.volumes,
        "totalSnapshotsUsed": used.snapshots,
        "totalGigabytesUsed": used.gigabytes,
        "totalBackupsUsed": used.backups,
        "totalBackupGigabytesUsed": used.backup_gigabytes,
    }}}))
}
