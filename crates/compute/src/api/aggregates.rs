//! `/os-aggregates`.

use super::forms;
use crate::State;
use crate::logic::aggregates as logic;
use crate::store::aggregates::Aggregate;
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::{Query, Tx};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

const ONE: &str = "/os-aggregates/{id}";
const ACTION: &str = "/os-aggregates/{id}/action";

pub const OPS: &[Op<State>] = &[
    Op::get("aggregate_list", "/os-aggregates", admin("os_compute_api:os-aggregates:index"), h!(list)),
    Op::post("aggregate_create", "/os-aggregates", admin("os_compute_api:os-aggregates:create"), h!(create)),
    Op::get("aggregate_show", ONE, admin("os_compute_api:os-aggregates:show"), h!(show)),
    Op::put("aggregate_update", ONE, admin("os_compute_api:os-aggregates:update"), h!(update)),
    Op::delete("aggregate_delete", ONE, admin("os_compute_api:os-aggregates:delete"), h!(delete)),
    Op::post("aggregate_add_host", ACTION, admin("os_compute_api:os-aggregates:add_host"), h!(add_host)).action("add_host"),
    Op::post("aggregate_remove_host", ACTION, admin("os_compute_api:os-aggregates:remove_host"), h!(remove_host)).action("remove_host"),
    Op::post("aggregate_set_metadata", ACTION, admin("os_compute_api:os-aggregates:set_metadata"), h!(set_metadata)).action("set_metadata"),
];

/// `whole` adds what a new aggregate does not have.
fn view(cx: &Ctx<State>, a: &Aggregate, whole: bool) -> Value {
    let mut v = json!({
        "id": a.number, "name": a.name, "availability_zone": a.zone(), "created_at": a.created_at.iso_micros(),
        "updated_at": a.updated_at.map(|t| t.iso_micros()), "deleted": false, "deleted_at": null,
    });
    if cx.version >= Version(2, 41) {
        v["uuid"] = json!(a.id);
    }
    if whole {
        v["hosts"] = json!(a.hosts);
        v["metadata"] = json!(a.metadata);
    }
    v
}

fn number(cx: &Ctx<State>) -> Result<i64> {
    let text = cx.param("id");
    text.parse().map_err(|_| Error::invalid(format!("Invalid aggregate id {text}")))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let rows = cx.state.db.list::<Aggregate>(Query::new().sort("number", caelum_store::Dir::Asc)).await?;
    Reply::ok(&json!({"aggregates": rows.iter().map(|a| view(&cx, a, true)).collect::<Vec<_>>()}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let n = number(&cx)?;
    let a = cx.state.db.read(move |tx| logic::require(tx, n)).await?;
    Reply::ok(&json!({"aggregate": view(&cx, &a, true)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    aggregate: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: Option<String>,
    #[serde(default, deserialize_with = "forms::nullable")]
    availability_zone: Option<Option<String>>,
}

impl Fields {
    /// Names lose the space around them, as with upstream's first API.
    fn check(&mut self) -> Result<()> {
        if let Some(name) = &self.name {
            forms::check_name("name", name)?;
        }
        if let Some(Some(zone)) = &self.availability_zone {
            forms::check_name("availability_zone", zone)?;
            if zone.contains(':') {
                return Err(Error::invalid("Invalid availability_zone: a zone's name has no colon."));
            }
        }
        Ok(())
    }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut f = cx.json::<Body>().await?.aggregate;
    f.check()?;
    let name = f.name.ok_or_else(|| Error::invalid("Invalid input for field/attribute aggregate. 'name' is a required property"))?;
    let zone = f.availability_zone.flatten();
    let new = Aggregate {
        id: cx.env.uuid(),
        number: 0,
        name,
        hosts: Default::default(),
        metadata: zone.map(|z| ("availability_zone".to_string(), z)).into_iter().collect(),
        created_at: cx.env.now(),
        updated_at: None,
    };
    let a = cx.state.db.write(move |tx| logic::create(tx, new.clone())).await?;
    Reply::ok(&json!({"aggregate": view(&cx, &a, false)}))
}

/// Changes an aggregate and answers with it.
async fn change(cx: &Ctx<State>, f: impl Fn(&mut Tx<'_>, &mut Aggregate) -> Result<()> + Send + Sync + 'static) -> Result<Reply> {
    let (n, now) = (number(cx)?, cx.env.now());
    let write = move |tx: &mut Tx<'_>| {
        let mut a = logic::require(tx, n)?;
        f(tx, &mut a)?;
        a.updated_at = Some(now);
        logic::save(tx, &mut a)?;
        Ok(a.into_inner())
    };
    let a = cx.state.db.write(write).await?;
    Reply::ok(&json!({"aggregate": view(cx, &a, true)}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut f = cx.json::<Body>().await?.aggregate;
    f.check()?;
    if f.name.is_none() && f.availability_zone.is_none() {
        return Err(Error::invalid("Invalid input for field/attribute aggregate. It has nothing to change."));
    }
    change(&cx, move |tx, a| {
        if let Some(name) = &f.name {
            a.name.clone_from(name);
        }
        match &f.availability_zone {
            None => Ok(()),
            Some(zone) => logic::set_metadata(tx, a, &BTreeMap::from([("availability_zone".to_string(), zone.clone())])),
        }
    })
    .await
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let n = number(&cx)?;
    let write = move |tx: &mut Tx<'_>| {
        let a = logic::require(tx, n)?;
        if !a.hosts.is_empty() {
            return Err(Error::invalid(format!("Cannot remove host aggregate {n}. Reason: Host aggregate is not empty.")));
        }
        tx.delete(&a)
    };
    cx.state.db.write(write).await?;
    Ok(Reply::empty(200))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddHost {
    add_host: HostName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveHost {
    remove_host: HostName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostName {
    host: String,
}

async fn add_host(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let host = cx.json::<AddHost>().await?.add_host.host;
    forms::check_name("host", &host)?;
    change(&cx, move |tx, a| logic::add_host(tx, a, &host)).await
}

async fn remove_host(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let host = cx.json::<RemoveHost>().await?.remove_host.host;
    change(&cx, move |_, a| logic::remove_host(a, &host)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMetadata {
    set_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    metadata: BTreeMap<String, Option<String>>,
}

async fn set_metadata(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let new = cx.json::<SetMetadata>().await?.set_metadata.metadata;
    let long = |t: &str| t.chars().count() > 255;
    if new.iter().any(|(k, v)| k.is_empty() || long(k) || v.as_deref().is_some_and(long)) {
        return Err(Error::invalid("Invalid input for field/attribute metadata. Keys and values have at most 255 characters."));
    }
    change(&cx, move |tx, a| logic::set_metadata(tx, a, &new)).await
}
