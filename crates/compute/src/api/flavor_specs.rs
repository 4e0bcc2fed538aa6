//! `/flavors/{id}/os-extra_specs`.

use super::flavors::SPECS_RULE;
use crate::State;
use crate::logic::{extra_specs, flavors as logic};
use crate::store::flavors::{Flavor, usable};
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::Tx;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PATH: &str = "/flavors/{id}/os-extra_specs";
const KEY: &str = "/flavors/{id}/os-extra_specs/{key}";

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("flavor_specs_list", PATH, reader(SPECS_RULE), h!(list)),
    Op::post("flavor_specs_create", PATH, admin("os_compute_api:os-flavor-extra-specs:create"), h!(create)),
    Op::get("flavor_spec_show", KEY, reader("os_compute_api:os-flavor-extra-specs:show"), h!(show)),
    Op::put("flavor_spec_update", KEY, admin("os_compute_api:os-flavor-extra-specs:update"), h!(update)),
    Op::delete("flavor_spec_delete", KEY, admin("os_compute_api:os-flavor-extra-specs:delete"), h!(delete)),
];

/// Extra specs of one flavor at most (upstream has no bound; rows here are read with every server).
const MAX_SPECS: usize = 256;

async fn visible(cx: &Ctx<State>) -> Result<Flavor> {
    let (id, project, admin) = (cx.param("id").to_string(), cx.auth().creds.project_id.clone(), cx.auth().is_admin());
    Ok(cx.state.db.read(move |tx| usable(tx, &id, project.as_deref(), admin)).await?.into_inner())
}

fn no_spec(id: &str, key: &str) -> Error {
    Error::not_found(format!("Flavor {id} has no extra specs with key {key}."))
}

/// Values are text or numbers; both are kept as text.
fn checked(cx: &Ctx<State>, specs: BTreeMap<String, Value>) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (key, value) in specs {
        let value = match value {
            Value::String(t) => t,
            Value::Number(n) => n.to_string(),
            other => return Err(Error::invalid(format!("Invalid input for field/attribute {key}. Value: {other}."))),
        };
        extra_specs::check_form(&key, &value)?;
        if cx.version >= Version(2, 86) {
            extra_specs::check_meaning(&key, &value)?;
        }
        out.insert(key, value);
    }
    Ok(out)
}

async fn change(cx: &Ctx<State>, f: impl Fn(&mut Flavor) -> Result<()> + Send + Sync + 'static) -> Result<Flavor> {
    let (id, now) = (cx.param("id").to_string(), cx.env.now());
    let write = move |tx: &mut Tx<'_>| {
        let mut flavor = logic::require(tx, &id)?;
        f(&mut flavor)?;
        if flavor.extra_specs.len() > MAX_SPECS {
            return Err(Error::invalid(format!("A flavor can have at most {MAX_SPECS} extra specs.")));
        }
        flavor.updated_at = now;
        tx.update(&mut flavor)?;
        Ok(flavor.into_inner())
    };
    cx.state.db.write(write).await
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    Reply::ok(&json!({"extra_specs": visible(&cx).await?.extra_specs}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (f, key) = (visible(&cx).await?, cx.param("key"));
    let value = f.extra_specs.get(key).ok_or_else(|| no_spec(&f.id, key))?;
    Reply::ok(&json!({key: value}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Specs {
    extra_specs: BTreeMap<String, Value>,
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Specs = cx.json().await?;
    let specs = checked(&cx, body.extra_specs)?;
    let new = specs.clone();
    change(&cx, move |f| {
        f.extra_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"extra_specs": specs}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: BTreeMap<String, Value> = cx.json().await?;
    let key = cx.param("key").to_string();
    if body.len() != 1 {
        return Err(Error::invalid("Request body contains too many or too few items"));
    }
    if !body.contains_key(&key) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    let spec = checked(&cx, body)?;
    let new = spec.clone();
    change(&cx, move |f| {
        f.extra_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&spec)
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let key = cx.param("key").to_string();
    change(&cx, move |f| f.extra_specs.remove(&key).map(drop).ok_or_else(|| no_spec(&f.id, &key))).await?;
    Ok(Reply::empty(200))
}
