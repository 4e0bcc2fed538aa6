//! `/types`: volume types, their extra specs, access and defaults.

use super::forms::{self, Map};
use super::lists::{self, Paging, SortKeys};
use super::{admin, reader};
use crate::State;
use crate::logic::types::{default_for, missing};
use crate::store::{DefaultType, Metadata, QosSpecs, Volume, VolumeType};
use caelum_base::{Error, Result};
use caelum_policy::personas;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::{Filter, Query, Stored, Tx};
use serde_json::{Value, json};

const LOOK: &str = "volume_extension:type_get_all";
const CREATE: &str = "volume_extension:type_create";
const SPECS: &str = "/types/{id}/extra_specs";
const SPEC: &str = "/types/{id}/extra_specs/{key}";

pub const OPS: &[Op<State>] = &[
    Op::get("volume_type_list", "/types", reader(LOOK), h!(list)),
    Op::post("volume_type_create", "/types", admin(CREATE), h!(create)),
    Op::get("volume_type_show", "/types/{id}", reader("volume_extension:type_get"), h!(show)),
    Op::put("volume_type_update", "/types/{id}", admin("volume_extension:type_update"), h!(update)),
    Op::delete("volume_type_delete", "/types/{id}", admin("volume_extension:type_delete"), h!(delete)),
    Op::get("volume_type_specs_list", SPECS, reader("volume_extension:types_extra_specs:index"), h!(specs)),
    Op::post("volume_type_specs_create", SPECS, admin("volume_extension:types_extra_specs:create"), h!(specs_add)),
    Op::get("volume_type_spec_show", SPEC, reader("volume_extension:types_extra_specs:show"), h!(spec_show)),
    Op::put("volume_type_spec_update", SPEC, admin("volume_extension:types_extra_specs:update"), h!(spec_set)),
    Op::delete("volume_type_spec_delete", SPEC, admin("volume_extension:types_extra_specs:delete"), h!(spec_unset)),
    Op::get("volume_type_encryption_show", "/types/{id}/encryption", admin("volume_extension:volume_type_encryption:get"), h!(encryption)),
    Op::get(
        "volume_type_access_list",
        "/types/{id}/os-volume-type-access",
        admin("volume_extension:volume_type_access:get_all_for_type"),
        h!(access),
    ),
    Op::post("volume_type_access_add", "/types/{id}/action", admin("volume_extension:volume_type_access:addProjectAccess"), h!(grant))
        .action("addProjectAccess"),
    Op::post(
        "volume_type_access_remove",
        "/types/{id}/action",
        admin("volume_extension:volume_type_access:removeProjectAccess"),
        h!(revoke),
    )
    .action("removeProjectAccess"),
    Op::get("default_type_list", "/default-types", admin("volume_extension:default_get_all"), h!(default_list)).since(3, 62),
    Op::get("default_type_show", "/default-types/{project}", admin("volume_extension:default_get"), h!(default_show)).since(3, 62),
    Op::put("default_type_set", "/default-types/{project}", admin("volume_extension:default_set_or_update"), h!(default_set)).since(3, 62),
    Op::delete("default_type_unset", "/default-types/{project}", DEFAULT_UNSET, h!(default_unset)).since(3, 62),
];

const DEFAULT_UNSET: Access = Access::rule("volume_extension:default_unset", personas::ADMIN, personas::PROJECT);

const SORT: SortKeys = &[("id", "id"), ("name", "name"), ("created_at", "created_at")];

/// Extra specs every user may see; the rest describes backends.
const USER_SPECS: [&str; 3] = ["multiattach", "RESKEY:availability_zones", "replication_enabled"];

fn visible_specs(cx: &Ctx<State>, t: &VolumeType) -> Metadata {
    let all = cx.auth().is_admin();
    t.extra_specs.iter().filter(|(k, _)| all || USER_SPECS.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn view(cx: &Ctx<State>, t: &VolumeType) -> Value {
    let mut out = json!({
        "id": t.id,
        "name": t.name,
        "description": t.description,
        "is_public": t.is_public,
        "extra_specs": visible_specs(cx, t),
    });
    if cx.auth().is_admin() {
        out["qos_specs_id"] = json!(t.qos_specs_id);
        out["os-volume-type-access:is_public"] = json!(t.is_public);
    }
    out
}

/// A type inside another resource's answer.
pub fn embedded(t: &VolumeType) -> Value {
    json!({
        "id": t.id,
        "name": t.name,
        "description": t.description,
        "is_public": t.is_public,
        "qos_specs_id": t.qos_specs_id,
        "extra_specs": t.extra_specs,
        "created_at": t.created_at.iso_micros(),
        "updated_at": null,
        "deleted": false,
        "deleted_at": null,
    })
}

/// The type of the path; `default` is the caller's default.
async fn find(cx: &Ctx<State>) -> Result<Stored<VolumeType>> {
    let id = cx.param("id").to_string();
    cx.authorize_own()?;
    let own = cx.auth().creds.project_id.clone();
    let configured = cx.state.options.default_type.clone();
    let (wanted, project) = (id.clone(), own.clone().unwrap_or_default());
    let found = cx
        .state
        .db
        .read(move |tx| if wanted == "default" { default_for(tx, &configured, &project).map(Some) } else { tx.get::<VolumeType>(&wanted) })
        .await?;
    found.filter(|t| cx.auth().is_admin() || t.visible_to(own.as_deref())).ok_or_else(|| missing(&id))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    Reply::ok(&json!({"volume_type": view(&cx, &t)}))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let paging = Paging::read(&cx.query, SORT)?;
    let own = cx.auth().creds.project_id.clone();
    let public = cx.query.get("is_public").filter(|_| cx.auth().is_admin()).map(str::to_ascii_lowercase);
    let mut query = Query { sort: paging.sort.clone(), ..Query::new() };
    if let Some(n) = cx.query.get("name") {
        query = query.filter(Filter::Eq("name", n.into()));
    }
    let mut found = cx.state.db.list::<VolumeType>(query).await?;
    let specs = cx.query.get("extra_specs").and_then(lists::metadata_filter).unwrap_or_default();
    found.retain(|t| {
        let visible = match public.as_deref() {
            Some("none") => true,
            Some("false" | "0") => !t.is_public,
            Some("true" | "1") => t.is_public,
            _ => t.visible_to(own.as_deref()),
        };
        visible && specs.iter().all(|(k, v)| t.extra_specs.get(k) == Some(v))
    });
    if let Some(m) = paging.marker.as_deref().filter(|m| !found.iter().any(|t| t.id == *m)) {
        return Err(missing(m));
    }
    let found = paging.cut(found, |t| &t.id);
    let last = found.last().map(|t| t.id.clone());
    let items = found.iter().map(|t| view(&cx, t)).collect();
    let mut body = lists::page(&cx, "volume_types", items, last, &paging, None);
    if !paging.explicit
        && let Some(b) = body.as_object_mut()
    {
        b.remove("volume_types_links");
    }
    Reply::ok(&body)
}

/// Extra specs: keys of letters, digits and `-_.: `.
fn checked_specs(v: Option<&Value>) -> Result<Metadata> {
    let specs = forms::metadata("extra_specs", v)?;
    for (k, v) in &specs {
        if !k.chars().all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c)) {
            return Err(forms::invalid(
                "extra_specs",
                k,
                "Key names can only contain alphanumeric characters, underscores, periods, colons and hyphens.",
            ));
        }
        if v.is_empty() {
            return Err(forms::invalid("extra_specs", k, "A value must not be empty."));
        }
    }
    Ok(specs)
}

fn taken(name: &str) -> Error {
    Error::conflict(format!("Volume Type {name} already exists.")).code("VolumeTypeExists")
}

fn public_flag(m: &Map) -> Result<Option<bool>> {
    let v = m.get("os-volume-type-access:is_public").or_else(|| m.get("is_public"));
    v.map(|v| forms::boolean("is_public", v)).transpose()
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "volume_type")?;
    forms::only(&m, &["name", "description", "extra_specs", "os-volume-type-access:is_public"])?;
    let public = public_flag(&m)?.unwrap_or(true);
    let t = VolumeType {
        id: cx.env.uuid(),
        name: forms::name("name", m.get("name"))?,
        description: forms::text("description", m.get("description"))?,
        is_public: public,
        extra_specs: checked_specs(m.get("extra_specs"))?,
        created_at: cx.env.now(),
        ..VolumeType::default()
    };
    let row = t.clone();
    let made = cx.state.db.write(move |tx| tx.insert(&row)).await;
    let made = made.map_err(|e| if e.code == "duplicate" { taken(&t.name) } else { e })?;
    let mut out = view(&cx, &made);
    out["os-volume-type-access:is_public"] = json!(made.is_public);
    if let Some(o) = out.as_object_mut() {
        o.remove("qos_specs_id");
    }
    Reply::ok(&json!({"volume_type": out}))
}

/// Changes one type in one transaction.
async fn change(
    cx: &Ctx<State>,
    id: &str,
    f: impl Fn(&mut Tx<'_>, &mut VolumeType) -> Result<()> + Send + Sync + 'static,
) -> Result<Stored<VolumeType>> {
    let id = id.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut t = tx.get::<VolumeType>(&id)?.ok_or_else(|| missing(&id))?;
            f(tx, &mut t.value)?;
            tx.update(&mut t)?;
            Ok(t)
        })
        .await
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "volume_type")?;
    forms::only(&m, &["name", "description", "is_public"])?;
    if m.is_empty() {
        return Err(Error::invalid("Specify volume type name, description, is_public or a combination thereof."));
    }
    let name = m.get("name").filter(|n| !n.is_null()).map(|n| forms::name("name", Some(n))).transpose()?;
    let description = m.get("description").map(|d| forms::text("description", Some(d))).transpose()?;
    let public = public_flag(&m)?;
    let wanted = name.clone().unwrap_or_default();
    let changed = change(&cx, &t.id, move |_, t| {
        if let Some(n) = &name {
            t.name.clone_from(n);
        }
        if let Some(d) = &description {
            t.description.clone_from(d);
        }
        t.is_public = public.unwrap_or(t.is_public);
        Ok(())
    });
    let t = changed.await.map_err(|e| if e.code == "duplicate" { taken(&wanted) } else { e })?;
    let mut out = view(&cx, &t);
    if let Some(o) = out.as_object_mut() {
        o.remove("qos_specs_id");
        o.remove("os-volume-type-access:is_public");
    }
    Reply::ok(&json!({"volume_type": out}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    if t.name == cx.state.options.default_type || t.name == crate::logic::types::FALLBACK {
        return Err(Error::invalid(format!("The volume type {} is the default volume type and cannot be deleted.", t.id)));
    }
    let id = t.id.clone();
    cx.state
        .db
        .write(move |tx| {
            if tx.count::<Volume>(&Query::new().eq("volume_type_id", id.as_str()))? > 0 {
                return Err(Error::invalid("Target volume type is still in use."));
            }
            tx.delete_where::<DefaultType>(&Query::new().eq("volume_type_id", id.as_str()))?;
            tx.delete_id::<VolumeType>(&id).map(drop)
        })
        .await?;
    Ok(Reply::empty(202))
}

async fn specs(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    Reply::ok(&json!({"extra_specs": visible_specs(&cx, &t)}))
}

async fn specs_add(mut cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let body: Value = cx.json().await?;
    let specs = checked_specs(Some(&Value::Object(forms::inner(&body, "extra_specs")?)))?;
    let answer = json!({"extra_specs": specs});
    change(&cx, &t.id, move |tx, t| {
        let before = t.multiattach();
        t.extra_specs.extend(specs.clone());
        if before != t.multiattach() && tx.count::<Volume>(&Query::new().eq("volume_type_id", t.id.as_str()))? > 0 {
            return Err(Error::invalid("Volume Type is currently in use: multiattach cannot be changed."));
        }
        Ok(())
    })
    .await?;
    Reply::ok(&answer)
}

fn no_spec(t: &VolumeType, key: &str) -> Error {
    Error::not_found(format!("Volume Type {} has no extra specs with key {key}.", t.id))
}

async fn spec_show(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let key = cx.param("key");
    let specs = visible_specs(&cx, &t);
    let value = specs.get(key).ok_or_else(|| no_spec(&t, key))?;
    Reply::ok(&json!({key: value}))
}

async fn spec_set(mut cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let body: Value = cx.json().await?;
    let specs = checked_specs(Some(&body))?;
    let key = cx.param("key").to_string();
    if specs.len() != 1 || !specs.contains_key(&key) {
        return Err(Error::invalid("Request body and URI mismatch: URI and body must have one and the same key."));
    }
    let answer = json!(specs);
    change(&cx, &t.id, move |_, t| {
        t.extra_specs.extend(specs.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&answer)
}

async fn spec_unset(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    let key = cx.param("key").to_string();
    change(&cx, &t.id, move |_, t| t.extra_specs.remove(&key).map(drop).ok_or_else(|| no_spec(t, &key))).await?;
    Ok(Reply::empty(202))
}

/// No type is encrypted here; upstream answers an empty object for such.
async fn encryption(cx: Ctx<State>) -> Result<Reply> {
    find(&cx).await?;
    Reply::ok(&json!({}))
}

async fn access(cx: Ctx<State>) -> Result<Reply> {
    let t = find(&cx).await?;
    if t.is_public {
        return Err(Error::not_found("Access list not available for public volume types."));
    }
    let list: Vec<Value> = t.access.iter().map(|p| json!({"volume_type_id": t.id, "project_id": p})).collect();
    Reply::ok(&json!({"volume_type_access": list}))
}

async fn access_change(mut cx: Ctx<State>, add: bool) -> Result<Reply> {
    let t = find(&cx).await?;
    let body: Value = cx.json().await?;
    let project = forms::name("project", forms::action(&body, cx.op.action.unwrap_or_default())?.get("project"))?;
    change(&cx, &t.id, move |_, t| {
        if t.is_public {
            return Err(Error::conflict("Invalid volume type: Type access modification is not applicable to public volume type."));
        }
        let at = t.access.iter().position(|p| *p == project);
        match (add, at) {
            (true, Some(_)) => Err(Error::conflict(format!("Volume type access for {} / {project} combination already exists.", t.id))),
            (true, None) => {
                t.access.push(project.clone());
                Ok(())
            }
            (false, Some(i)) => {
                t.access.remove(i);
                Ok(())
            }
            (false, None) => Err(Error::not_found(format!("Volume type access not found for {} / {project} combination.", t.id))),
        }
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn grant(cx: Ctx<State>) -> Result<Reply> {
    access_change(cx, true).await
}

async fn revoke(cx: Ctx<State>) -> Result<Reply> {
    access_change(cx, false).await
}

async fn default_list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let all = cx.state.db.list::<DefaultType>(Query::new()).await?;
    let all: Vec<Value> = all.iter().map(|d| json!({"project_id": d.id, "volume_type_id": d.volume_type_id})).collect();
    Reply::ok(&json!({"default_types": all}))
}

async fn default_show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let project = cx.param("project");
    let found = cx.state.db.get::<DefaultType>(project).await?;
    let d = found.ok_or_else(|| Error::not_found(format!("Default type for project {project} not found.")))?;
    Reply::ok(&json!({"default_type": {"project_id": d.id, "volume_type_id": d.volume_type_id}}))
}

async fn default_set(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let wanted = forms::name("volume_type", forms::inner(&body, "default_type")?.get("volume_type"))?;
    let project = cx.param("project").to_string();
    let d = cx
        .state
        .db
        .write(move |tx| {
            let t = crate::logic::types::usable(tx, &wanted, &project, true)?;
            let new = DefaultType { id: project.clone(), volume_type_id: t.id.clone() };
            tx.delete_id::<DefaultType>(&project)?;
            tx.insert(&new)
        })
        .await?;
    Reply::ok(&json!({"default_type": {"project_id": d.id, "volume_type_id": d.volume_type_id}}))
}

async fn default_unset(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let project = cx.param("project").to_string();
    let gone = cx.state.db.write(move |tx| tx.delete_id::<DefaultType>(&project)).await?;
    if !gone {
        return Err(Error::not_found(format!("Default type for project {} not found.", cx.param("project"))));
    }
    Ok(Reply::empty(204))
}

/// For the QoS API: types that carry these specs.
pub fn types_with(tx: &mut Tx<'_>, qos: &QosSpecs) -> Result<Vec<Stored<VolumeType>>> {
    tx.list(&Query::new().eq("qos_specs_id", qos.id.as_str()))
}
