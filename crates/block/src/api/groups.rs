//! `/group_types` (3.11): kinds of volume groups with their specs.

use super::forms;
use super::lists::{self, Paging, SortKeys};
use super::{admin, reader};
use crate::State;
use crate::store::{Group, GroupType, Metadata};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Query, Stored};
use serde_json::{Value, json};

const SPECS: &str = "/group_types/{id}/group_specs";
const SPEC: &str = "/group_types/{id}/group_specs/{key}";
const MANAGE: &str = "group:group_types_specs:get_all";

pub const OPS: &[Op<State>] = &[
    Op::get("group_type_list", "/group_types", reader("group:group_types_get_all"), h!(list)).since(3, 11),
    Op::post("group_type_create", "/group_types", admin("group:group_types:create"), h!(create)).since(3, 11),
    Op::get("group_type_show", "/group_types/{id}", reader("group:group_types_get"), h!(show)).since(3, 11),
    Op::put("group_type_update", "/group_types/{id}", admin("group:group_types:update"), h!(update)).since(3, 11),
    Op::delete("group_type_delete", "/group_types/{id}", admin("group:group_types:delete"), h!(delete)).since(3, 11),
    Op::get("group_type_specs_list", SPECS, admin(MANAGE), h!(specs)).since(3, 11),
    Op::post("group_type_specs_create", SPECS, admin("group:group_types_specs:create"), h!(specs_add)).since(3, 11),
    Op::get("group_type_spec_show", SPEC, admin("group:group_types_specs:get"), h!(spec_show)).since(3, 11),
    Op::put("group_type_spec_update", SPEC, admin("group:group_types_specs:update"), h!(spec_set)).since(3, 11),
    Op::delete("group_type_spec_delete", SPEC, admin("group:group_types_specs:delete"), h!(spec_unset)).since(3, 11),
];

fn missing(id: &str) -> Error {
    Error::not_found(format!("Group type {id} could not be found."))
}

fn view(cx: &Ctx<State>, t: &GroupType) -> Value {
    let mut out = json!({"id": t.id, "name": t.name, "description": t.description, "is_public": t.is_public});
    if cx.auth().is_admin() {
        out["group_specs"] = json!(t.group_specs);
    }
    out
}

async fn find(cx: &Ctx<State>) -> Result<Stored<GroupType>> {
    cx.authorize_own()?;
    let id = cx.param("id");
    let found = cx.state.db.get::<GroupType>(id).await?;
    found.filter(|t| t.is_public || cx.auth().is_admin()).ok_or_else(|| missing(id))
}

const SORT: SortKeys = &[("id", "id"), ("name", "name"), ("created_at", "created_at")];

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let paging = Paging::read(&cx.query, SORT)?;
    let mut all = cx.state.db.list::<GroupType>(Query { sort: paging.sort.clone(), ..Query::new() }).await?;
    let specs = cx.query.get("group_specs").and_then(lists::metadata_filter).unwrap_or_default();
    let public = cx.query.get("is_public").filter(|_| cx.auth().is_admin()).map(str::to_ascii_lowercase);
    all.retain(|t| {
        let visible = match public.as_deref() {
            Some("none") => true,
            Some("false" | "0") => !t.is_public,
            _ => t.is_public,
        };
        visible && specs.iter().all(|(k, v)| t.group_specs.get(k) == Some(v))
    });
    let all = paging.cut(all, |t| &t.id);
    Reply::ok(&json!({"group_types": all.iter().map(|t| view(&cx, t)).collect::<Vec<_>>()}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    Reply::ok(&json!({"group_type": view(&cx, &t)}))
}

fn taken(name: &str) -> impl FnOnce(Error) -> Error {
    let text = format!("Group Type {name} already exists.");
    move |e| if e.code == "duplicate" { Error::conflict(text) } else { e }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "group_type")?;
    forms::only(&m, &["name", "description", "group_specs", "is_public"])?;
    let t = GroupType {
        id: cx.env.uuid(),
        name: forms::name("name", m.get("name"))?,
        description: forms::text("description", m.get("description"))?,
        is_public: m.get("is_public").map_or(Ok(true), |v| forms::boolean("is_public", v))?,
        group_specs: forms::metadata("group_specs", m.get("group_specs"))?,
        created_at: cx.env.now(),
    };
    let row = t.clone();
    cx.state.db.write(move |tx| tx.insert(&row)).await.map_err(taken(&t.name))?;
    Reply::json(202, &json!({"group_type": view(&cx, &t)}))
}

async fn change(cx: &Ctx<State>, f: impl Fn(&mut GroupType) -> Result<()> + Send + Sync + 'static) -> Result<Stored<GroupType>> {
    let id = find(cx).await?.id.clone();
    cx.state
        .db
        .write(move |tx| {
            let mut t = tx.get::<GroupType>(&id)?.ok_or_else(|| missing(&id))?;
            f(&mut t.value)?;
            tx.update(&mut t)?;
            Ok(t)
        })
        .await
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "group_type")?;
    forms::only(&m, &["name", "description", "is_public"])?;
    let name = m.get("name").filter(|v| !v.is_null()).map(|v| forms::name("name", Some(v))).transpose()?;
    let description = m.get("description").map(|v| forms::text("description", Some(v))).transpose()?;
    let public = m.get("is_public").map(|v| forms::boolean("is_public", v)).transpose()?;
    let wanted = name.clone().unwrap_or_default();
    let changed = change(&cx, move |t| {
        if let Some(n) = &name {
            t.name.clone_from(n);
        }
        if let Some(d) = &description {
            t.description.clone_from(d);
        }
        t.is_public = public.unwrap_or(t.is_public);
        Ok(())
    });
    let t = changed.await.map_err(taken(&wanted))?;
    Reply::ok(&json!({"group_type": view(&cx, &t)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let id = find(&cx).await?.id.clone();
    cx.state
        .db
        .write(move |tx| {
            if tx.count::<Group>(&Query::new().eq("group_type_id", id.as_str()))? > 0 {
                return Err(Error::invalid("Target group type is still in use."));
            }
            tx.delete_id::<GroupType>(&id)
        })
        .await?;
    Ok(Reply::empty(202))
}

async fn specs(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    Reply::ok(&json!({"group_specs": t.group_specs}))
}

async fn specs_add(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let new: Metadata = forms::metadata("group_specs", Some(&Value::Object(forms::inner(&body, "group_specs")?)))?;
    let answer = json!({"group_specs": new});
    change(&cx, move |t| {
        t.group_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Reply::json(202, &answer)
}

fn no_spec(t: &GroupType, key: &str) -> Error {
    Error::not_found(format!("Group Type {} has no specs with key {key}.", t.id))
}

async fn spec_show(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let key = cx.param("key");
    let value = t.group_specs.get(key).ok_or_else(|| no_spec(&t, key))?;
    Reply::ok(&json!({key: value}))
}

async fn spec_set(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let new = forms::metadata("group_specs", Some(&body))?;
    let key = cx.param("key").to_string();
    if new.len() != 1 || !new.contains_key(&key) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    let answer = json!(new);
    change(&cx, move |t| {
        t.group_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&answer)
}

async fn spec_unset(cx: Ctx<State>) -> Result<Reply> {
    let key = cx.param("key").to_string();
    change(&cx, move |t| t.group_specs.remove(&key).map(drop).ok_or_else(|| no_spec(t, &key))).await?;
    Ok(Reply::empty(202))
}
