//! `/os-volume-transfer` and `/volume-transfers` (3.55): handing a volume to another project.

use super::forms;
use super::lists::{self, Paging, SortKeys};
use super::{caller, member, reader};
use crate::State;
use crate::store::quota::{self, Wanted};
use crate::store::rows::{self, snapshots_of, volume_missing};
use crate::store::{Snapshot, Transfer, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use caelum_store::{Filter, Stored, Tx};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const LOOK: &str = "volume:get_transfer";
const ALL: &str = "volume:get_all_transfers";
const CREATE: &str = "volume:create_transfer";
const ACCEPT: &str = "volume:accept_transfer";
const DELETE: &str = "volume:delete_transfer";

pub const OPS: &[Op<State>] = &[
    Op::get("transfer_list", "/os-volume-transfer", reader(ALL), h!(list)),
    Op::get("transfer_list_detail", "/os-volume-transfer/detail", reader(ALL), h!(list_detail)),
    Op::post("transfer_create", "/os-volume-transfer", member(CREATE), h!(create)),
    Op::get("transfer_show", "/os-volume-transfer/{id}", reader(LOOK), h!(show)),
    Op::delete("transfer_delete", "/os-volume-transfer/{id}", member(DELETE), h!(delete)),
    Op::post("transfer_accept", "/os-volume-transfer/{id}/accept", member(ACCEPT), h!(accept)),
    Op::get("volume_transfer_list", "/volume-transfers", reader(ALL), h!(list)).since(3, 55),
    Op::get("volume_transfer_list_detail", "/volume-transfers/detail", reader(ALL), h!(list_detail)).since(3, 55),
    Op::post("volume_transfer_create", "/volume-transfers", member(CREATE), h!(create)).since(3, 55),
    Op::get("volume_transfer_show", "/volume-transfers/{id}", reader(LOOK), h!(show)).since(3, 55),
    Op::delete("volume_transfer_delete", "/volume-transfers/{id}", member(DELETE), h!(delete)).since(3, 55),
    Op::post("volume_transfer_accept", "/volume-transfers/{id}/accept", member(ACCEPT), h!(accept)).since(3, 55),
];

const SORT: SortKeys = &[("id", "id"), ("created_at", "created_at"), ("name", "name"), ("display_name", "name")];

fn newer(cx: &Ctx<State>) -> bool {
    cx.path.starts_with("/v3/volume-transfers")
}

fn hash(salt: &str, key: &str) -> String {
    Sha256::new().chain_update(salt).chain_update(":").chain_update(key).finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn short(cx: &Ctx<State>, t: &Transfer) -> Value {
    let collection = if newer(cx) { "volume-transfers" } else { "os-volume-transfer" };
    json!({"id": t.id, "volume_id": t.volume_id, "name": t.name, "links": lists::links(cx, collection, &t.id)})
}

fn full(cx: &Ctx<State>, t: &Transfer) -> Value {
    let mut out = short(cx, t);
    out["created_at"] = json!(t.created_at.iso_micros());
    if cx.version >= Version(3, 55) && newer(cx) {
        out["no_snapshots"] = json!(t.no_snapshots);
    }
    if cx.version >= Version(3, 57) && newer(cx) {
        out["source_project_id"] = json!(t.project_id);
        out["destination_project_id"] = Value::Null;
        out["accepted"] = json!(false);
    }
    out
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("Transfer {id} could not be found."))
}

async fn find(cx: &Ctx<State>) -> Result<Stored<Transfer>> {
    let id = cx.param("id").to_string();
    let Some(t) = cx.state.db.get::<Transfer>(&id).await? else {
        cx.filtered();
        return Err(missing(&id));
    };
    cx.authorize_found(&t.project_id, || missing(&id))?;
    Ok(t)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "transfer")?;
    forms::only(&m, &["volume_id", "name", "no_snapshots"])?;
    let volume_id = forms::uuid("volume_id", m.get("volume_id").unwrap_or(&Value::Null))?;
    let no_snapshots = m.get("no_snapshots").map_or(Ok(false), |v| forms::boolean("no_snapshots", v))?;
    let name = forms::text("name", m.get("name"))?;
    let hex = |n| cx.env.bytes(n).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (key, salt) = (hex(16), hex(8));
    let who = caller(&cx)?;
    let t = Transfer {
        id: cx.env.uuid(),
        volume_id,
        name,
        key_hash: hash(&salt, &key),
        salt,
        no_snapshots,
        created_at: cx.env.now(),
        ..Transfer::default()
    };
    let t = cx
        .state
        .db
        .write(move |tx| {
            let mut v = rows::volume(tx, &t.volume_id)?;
            if v.project_id != who.project_id && !who.admin {
                return Err(volume_missing(&t.volume_id));
            }
            if v.status != "available" {
                return Err(Error::invalid("Invalid volume: status must be available"));
            }
            v.status = "awaiting-transfer".into();
            tx.update(&mut v)?;
            tx.insert(&Transfer { project_id: v.project_id.clone(), ..t.clone() })
        })
        .await?;
    let mut out = full(&cx, &t);
    out["auth_key"] = json!(key);
    Reply::json(202, &json!({"transfer": out}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    Reply::ok(&json!({"transfer": full(&cx, &t)}))
}

/// The volume is its owner's again.
fn release(tx: &mut Tx<'_>, t: &Transfer) -> Result<()> {
    if let Some(mut v) = tx.get::<crate::store::Volume>(&t.volume_id)?.filter(|v| v.status == "awaiting-transfer") {
        v.status = "available".into();
        tx.update(&mut v)?;
    }
    tx.delete_id::<Transfer>(&t.id).map(drop)
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    cx.state.db.write(move |tx| release(tx, &t)).await?;
    Ok(Reply::empty(202))
}

/// Whoever has the key may take the volume; the offer itself is not visible to other projects.
async fn accept(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "accept")?;
    let key = forms::name("auth_key", m.get("auth_key"))?;
    let (who, id) = (caller(&cx)?, cx.param("id").to_string());
    let t = cx
        .state
        .db
        .write(move |tx| {
            let t = tx.get::<Transfer>(&id)?.ok_or_else(|| missing(&id))?;
            if !bool::from(hash(&t.salt, &key).as_bytes().ct_eq(t.key_hash.as_bytes())) {
                return Err(Error::invalid(format!("Invalid auth key: Attempt to transfer {id} with invalid auth key.")));
            }
            take(tx, &t, &who.project_id, &who.user_id)?;
            Ok(t)
        })
        .await?;
    Reply::json(202, &json!({"transfer": short(&cx, &t)}))
}

fn take(tx: &mut Tx<'_>, t: &Transfer, project_id: &str, user_id: &str) -> Result<()> {
    let mut v = rows::volume(tx, &t.volume_id)?;
    let mut snapshots: Vec<Stored<Snapshot>> = snapshots_of(tx, &v.id)?;
    if t.no_snapshots {
        snapshots.clear();
    }
    if v.project_id != project_id {
        let kind = tx.get::<VolumeType>(&v.volume_type_id)?;
        let wanted = Wanted {
            volumes: 1,
            snapshots: i64::try_from(snapshots.len()).unwrap_or(i64::MAX),
            gigabytes: v.size + snapshots.iter().map(|s| s.size).sum::<i64>(),
            volume_size: v.size,
            volume_type: kind.as_ref().map(|k| k.name.as_str()),
            volume_type_id: kind.as_ref().map(|k| k.id.as_str()),
            ..Wanted::default()
        };
        quota::check(tx, project_id, &wanted)?;
    }
    for s in &mut snapshots {
        (s.project_id, s.user_id) = (project_id.to_string(), user_id.to_string());
        tx.update(s)?;
    }
    (v.project_id, v.user_id) = (project_id.to_string(), user_id.to_string());
    v.status = "available".into();
    tx.update(&mut v)?;
    tx.delete_id::<Transfer>(&t.id).map(drop)
}

async fn listed(cx: Ctx<State>, view: fn(&Ctx<State>, &Transfer) -> Value) -> Result<Reply> {
    cx.authorize_own()?;
    let tenant = lists::tenant(&cx, "volume:get_all_tenants_hosts")?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut query = paging.query();
    query.filters.extend(tenant.map(|t| Filter::Eq("project_id", t.into())));
    for (key, column) in [("name", "name"), ("volume_id", "volume_id"), ("id", "id")] {
        query.filters.extend(cx.query.get(key).map(|v| Filter::Eq(column, v.into())));
    }
    let missing = lists::marker_missing("Transfer", paging.marker.as_deref());
    let found = cx.state.db.list::<Transfer>(query).await.map_err(missing)?;
    Reply::ok(&json!({"transfers": found.iter().map(|t| view(&cx, t)).collect::<Vec<_>>()}))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, short).await
}

async fn list_detail(cx: Ctx<State>) -> Result<Reply> {
    listed(cx, full).await
}
