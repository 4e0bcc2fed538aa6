use super::{admin, authorize};
use crate::State;
use crate::store::{self, Inventory};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("inventory_list", "/resource_providers/{uuid}/inventories", admin("placement:resource_providers:inventories:list"), h!(list)),
    Op::post(
        "inventory_create",
        "/resource_providers/{uuid}/inventories",
        admin("placement:resource_providers:inventories:create"),
        h!(create),
    ),
    Op::put(
        "inventory_replace",
        "/resource_providers/{uuid}/inventories",
        admin("placement:resource_providers:inventories:update"),
        h!(replace),
    ),
    Op::delete(
        "inventory_clear",
        "/resource_providers/{uuid}/inventories",
        admin("placement:resource_providers:inventories:delete"),
        h!(clear),
    )
    .since(1, 5),
    Op::get(
        "inventory_show",
        "/resource_providers/{uuid}/inventories/{class}",
        admin("placement:resource_providers:inventories:show"),
        h!(show),
    ),
    Op::put(
        "inventory_update",
        "/resource_providers/{uuid}/inventories/{class}",
        admin("placement:resource_providers:inventories:update"),
        h!(update),
    ),
    Op::delete(
        "inventory_delete",
        "/resource_providers/{uuid}/inventories/{class}",
        admin("placement:resource_providers:inventories:delete"),
        h!(delete),
    ),
];

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventories {
    pub resource_provider_generation: i64,
    pub inventories: BTreeMap<String, Inventory>,
}

/// An inventory with the generation beside its fields; serde cannot flatten and deny unknown fields.
fn split_one(mut v: Value) -> Result<(Option<i64>, Option<String>, Inventory)> {
    let bad = |e: serde_json::Error| Error::invalid(format!("JSON does not validate: {e}"));
    let fields = v.as_object_mut().ok_or_else(|| Error::invalid("JSON does not validate: an object was expected"))?;
    let generation = fields.remove("resource_provider_generation").map(serde_json::from_value).transpose().map_err(bad)?;
    let class = fields.remove("resource_class").map(serde_json::from_value).transpose().map_err(bad)?;
    Ok((generation, class, serde_json::from_value(v).map_err(bad)?))
}

fn view(i: &Inventory) -> Value {
    json!({"total": i.total, "reserved": i.reserved, "min_unit": i.min_unit, "max_unit": i.max_unit, "step_size": i.step_size, "allocation_ratio": i.allocation_ratio})
}

fn all_view(generation: i64, all: &BTreeMap<String, Inventory>) -> Result<Reply> {
    let by_class: BTreeMap<&String, Value> = all.iter().map(|(c, i)| (c, view(i))).collect();
    Reply::ok(&json!({"resource_provider_generation": generation, "inventories": by_class}))
}

fn one_view(generation: i64, i: &Inventory) -> Value {
    let mut v = view(i);
    v["resource_provider_generation"] = json!(generation);
    v
}

pub fn check(class: &str, i: &Inventory, reserved_may_be_total: bool) -> Result<()> {
    let max = i64::from(i32::MAX);
    let in_range = |n: i64, low: i64| (low..=max).contains(&n);
    let good = in_range(i.total, 1)
        && in_range(i.reserved, 0)
        && in_range(i.min_unit, 1)
        && in_range(i.max_unit, 1)
        && in_range(i.step_size, 1)
        && i.allocation_ratio > 0.0
        && i.allocation_ratio <= 3.402_823_46e38;
    if !good {
        return Err(Error::invalid(format!("JSON does not validate: inventory of {class} is out of range")));
    }
    if i.reserved > i.total || (i.reserved == i.total && !reserved_may_be_total) {
        return Err(Error::invalid(format!("Unable to update inventory for '{class}': reserved value is greater than total.")));
    }
    Ok(())
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let (p, all) = cx.state.db.read(move |tx| Ok((store::provider(tx, &id)?, store::inventories(tx, &id)?))).await?;
    all_view(p.generation, &all)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (id, class) = (cx.param("uuid").to_string(), cx.param("class").to_string());
    let (p, mut all) = cx.state.db.read(move |tx| Ok((store::provider(tx, &id)?, store::inventories(tx, &id)?))).await?;
    let found = all.remove(&class).ok_or_else(|| Error::not_found(format!("No inventory of class {class} for {}", p.id)))?;
    Reply::ok(&one_view(p.generation, &found))
}

/// Replaces a provider's whole inventory at a generation; used by the reshaper too.
pub fn replace_in(tx: &mut caelum_store::Tx<'_>, id: &str, body: &Inventories) -> Result<i64> {
    store::provider(tx, id)?;
    let old = store::inventories(tx, id)?;
    for class in old.keys().filter(|c| !body.inventories.contains_key(*c)) {
        store::inventory_delete(tx, id, class)?;
    }
    for (class, i) in &body.inventories {
        if !store::is_class(tx, class)? {
            return Err(Error::invalid(format!("Unknown resource class in inventory for resource provider {id}: {class}")));
        }
        store::inventory_put(tx, id, class, i)?;
    }
    store::bump(tx, id, body.resource_provider_generation)
}

async fn replace(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let body: Inventories = cx.json().await?;
    let lenient = super::since(&cx, 26);
    body.inventories.iter().try_for_each(|(c, i)| check(c, i, lenient))?;
    let id = cx.param("uuid").to_string();
    let (generation, all) = cx.state.db.write(move |tx| Ok((replace_in(tx, &id, &body)?, store::inventories(tx, &id)?))).await?;
    all_view(generation, &all)
}

async fn clear(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let done = cx.state.db.write(move |tx| {
        let generation = store::provider(tx, &id)?.generation;
        replace_in(tx, &id, &Inventories { resource_provider_generation: generation, inventories: BTreeMap::new() }).map(drop)
    });
    done.await?;
    Ok(Reply::no_content())
}

async fn put_one(cx: &Ctx<State>, class: String, generation: Option<i64>, i: Inventory, new: bool) -> Result<Value> {
    check(&class, &i, super::since(cx, 26))?;
    let id = cx.param("uuid").to_string();
    let kept = i.clone();
    let done = cx.state.db.write(move |tx| {
        let p = store::provider(tx, &id)?;
        if !store::is_class(tx, &class)? {
            return Err(Error::invalid(format!("No such resource class {class}")));
        }
        let exists = store::inventories(tx, &id)?.contains_key(&class);
        if exists && new {
            return Err(Error::conflict(format!("Update conflict: {class} already in inventory.")));
        }
        if !exists && !new {
            return Err(Error::invalid(format!("No inventory record with resource class {class}.")));
        }
        store::inventory_put(tx, &id, &class, &i)?;
        store::bump(tx, &id, generation.unwrap_or(p.generation))
    });
    Ok(one_view(done.await?, &kept))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (generation, class, i) = split_one(cx.json().await?)?;
    let class = class.ok_or_else(|| Error::invalid("JSON does not validate: 'resource_class' is a required property"))?;
    let location = format!("{}/resource_providers/{}/inventories/{class}", cx.base_url, cx.param("uuid"));
    let v = put_one(&cx, class, generation, i, true).await?;
    Ok(Reply::json(201, &v)?.header("location", location))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (generation, _, i) = split_one(cx.json().await?)?;
    let generation =
        generation.ok_or_else(|| Error::invalid("JSON does not validate: 'resource_provider_generation' is a required property"))?;
    let class = cx.param("class").to_string();
    Reply::ok(&put_one(&cx, class, Some(generation), i, false).await?)
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (id, class) = (cx.param("uuid").to_string(), cx.param("class").to_string());
    let done = cx.state.db.write(move |tx| {
        let p = store::provider(tx, &id)?;
        store::inventory_delete(tx, &id, &class)?;
        store::bump(tx, &id, p.generation).map(drop)
    });
    done.await?;
    Ok(Reply::no_content())
}
