//! `/os-quota-sets` and `/os-quota-class-sets`.

use super::forms;
use crate::State;
use crate::logic::quotas::{self as logic, Limits};
use crate::store::quota_sets::class_limits;
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, ANYONE, PROJECT, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const SET: &str = "/os-quota-sets/{project}";
const CLASS: &str = "/os-quota-class-sets/{class}";

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("quota_show", SET, reader("os_compute_api:os-quota-sets:show"), h!(show)),
    Op::get("quota_detail", "/os-quota-sets/{project}/detail", reader("os_compute_api:os-quota-sets:detail"), h!(detail)),
    Op::get(
        "quota_defaults",
        "/os-quota-sets/{project}/defaults",
        Access::rule("os_compute_api:os-quota-sets:defaults", ANYONE, PROJECT),
        h!(defaults),
    ),
    Op::put("quota_update", SET, admin("os_compute_api:os-quota-sets:update"), h!(update)),
    Op::delete("quota_delete", SET, admin("os_compute_api:os-quota-sets:delete"), h!(delete)),
    Op::get("quota_class_show", CLASS, admin("os_compute_api:os-quota-class-sets:show"), h!(class_show)),
    Op::put("quota_class_update", CLASS, admin("os_compute_api:os-quota-class-sets:update"), h!(class_update)),
];

/// Limits of other services' resources and of injected files went with these versions.
fn shown(name: &str, version: Version, network_until: Version) -> bool {
    match name {
        "networks" => false,
        "fixed_ips" | "floating_ips" | "security_groups" | "security_group_rules" => version <= network_until,
        "injected_files" | "injected_file_content_bytes" | "injected_file_path_bytes" => version < Version(2, 57),
        _ => true,
    }
}

const SETS: Version = Version(2, 35);
const CLASSES: Version = Version(2, 49);

fn view(limits: &Limits, version: Version, until: Version, id: Option<&str>) -> Value {
    let mut v = Map::new();
    if let Some(id) = id {
        v.insert("id".to_string(), json!(id));
    }
    v.extend(limits.iter().filter(|(k, _)| shown(k, version, until)).map(|(k, n)| (k.clone(), json!(n))));
    Value::Object(v)
}

fn project(cx: &Ctx<State>) -> Result<String> {
    let id = cx.param("project").to_string();
    cx.authorize_project(&id)?;
    forms::known_params(cx, Version(2, 75), &["user_id"])?;
    let fine = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fine { Ok(id) } else { Err(Error::invalid(format!("Project ID {id} is not a valid project."))) }
}

fn user(cx: &Ctx<State>) -> Option<String> {
    cx.query.get("user_id").filter(|u| !u.is_empty()).map(String::from)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (project, user) = (project(&cx)?, user(&cx));
    let id = project.clone();
    let limits = cx.state.db.read(move |tx| logic::limits(tx, &project, user.as_deref())).await?;
    Reply::ok(&json!({"quota_set": view(&limits, cx.version, SETS, Some(&id))}))
}

async fn detail(cx: Ctx<State>) -> Result<Reply> {
    let (project, user) = (project(&cx)?, user(&cx));
    let id = project.clone();
    let read = move |tx: &mut caelum_store::Tx<'_>| {
        Ok((logic::limits(tx, &project, user.as_deref())?, logic::in_use(tx, &project, user.as_deref())?))
    };
    let (limits, used) = cx.state.db.read(read).await?;
    let mut v = view(&limits, cx.version, SETS, Some(&id));
    if let Some(map) = v.as_object_mut() {
        for (name, value) in map.iter_mut().filter(|(k, _)| *k != "id") {
            *value = json!({"limit": limits.get(name), "in_use": used.get(name).copied().unwrap_or(0), "reserved": 0});
        }
    }
    Reply::ok(&json!({"quota_set": v}))
}

async fn defaults(cx: Ctx<State>) -> Result<Reply> {
    let id = project(&cx)?;
    let limits = cx.state.db.read(logic::defaults).await?;
    Reply::ok(&json!({"quota_set": view(&limits, cx.version, SETS, Some(&id))}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    quota_set: Map<String, Value>,
}

/// Limits of a body. Errors: `Invalid` for an unknown name or a number below -1.
fn limits(fields: Map<String, Value>, version: Version, until: Version) -> Result<Limits> {
    let known = |name: &str| crate::store::quota_sets::DEFAULTS.iter().any(|(k, _)| *k == name) && shown(name, version, until);
    let mut out = Limits::new();
    for (name, value) in fields {
        if !known(&name) {
            return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
        }
        let n =
            forms::integer(&value).ok_or_else(|| Error::invalid(format!("Invalid input for field/attribute {name}. Value: {value}.")))?;
        out.insert(name.clone(), forms::check_range(&name, n, -1)?);
    }
    Ok(out)
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let (project, user) = (project(&cx)?, user(&cx));
    let mut fields = cx.json::<SetBody>().await?.quota_set;
    fields.remove("tenant_id");
    let force = match fields.remove("force") {
        None => false,
        Some(v) => forms::boolean(&v).ok_or_else(|| Error::invalid(format!("Invalid input for field/attribute force. Value: {v}.")))?,
    };
    let new = limits(fields, cx.version, SETS)?;
    let limits = cx.state.db.write(move |tx| logic::update(tx, &project, user.as_deref(), &new, force)).await?;
    Reply::ok(&json!({"quota_set": view(&limits, cx.version, SETS, None)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let (project, user) = (project(&cx)?, user(&cx));
    cx.state.db.write(move |tx| logic::delete(tx, &project, user.as_deref())).await?;
    Ok(Reply::empty(202))
}

fn class(cx: &Ctx<State>) -> Result<String> {
    cx.authorize_own()?;
    let name = cx.param("class").to_string();
    forms::check_name("id", &name)?;
    Ok(name)
}

async fn class_show(cx: Ctx<State>) -> Result<Reply> {
    let name = class(&cx)?;
    let id = name.clone();
    let limits = cx.state.db.read(move |tx| class_limits(tx, &name)).await?;
    Reply::ok(&json!({"quota_class_set": view(&limits, cx.version, CLASSES, Some(&id))}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassBody {
    quota_class_set: Map<String, Value>,
}

async fn class_update(mut cx: Ctx<State>) -> Result<Reply> {
    let name = class(&cx)?;
    let new = limits(cx.json::<ClassBody>().await?.quota_class_set, cx.version, CLASSES)?;
    let write = move |tx: &mut caelum_store::Tx<'_>| {
        logic::write(tx, &format!("class:{name}"), &new)?;
        class_limits(tx, &name)
    };
    let limits = cx.state.db.write(write).await?;
    Reply::ok(&json!({"quota_class_set": view(&limits, cx.version, CLASSES, None)}))
}
