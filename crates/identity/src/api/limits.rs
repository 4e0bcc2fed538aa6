//! Unified limits: defaults per service and region, and the limits of single projects and domains.

use super::fields::{Cx, Fields};
use super::lists::{load, reply, url};
use super::rules::{ADMIN, ANYONE, LIMIT_SHOW, ruled};
use super::{duplicate, forbidden, found, guard, not_found};
use crate::state::Identity;
use crate::store::{CatalogService, Limit, Project, Region, RegisteredLimit};
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Op, Reply, h};
use caelum_store::{Query, Stored, Tx};
use serde_json::{Map, Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("registered_limit_list", "/registered_limits", ruled("identity:list_registered_limits", ANYONE), h!(registered_list)),
    Op::post("registered_limit_create", "/registered_limits", ruled("identity:create_registered_limits", ADMIN), h!(registered_create)),
    Op::get("registered_limit_show", "/registered_limits/{limit_id}", ruled("identity:get_registered_limit", ANYONE), h!(registered_show)),
    Op::patch(
        "registered_limit_update",
        "/registered_limits/{limit_id}",
        ruled("identity:update_registered_limit", ADMIN),
        h!(registered_update),
    ),
    Op::delete(
        "registered_limit_delete",
        "/registered_limits/{limit_id}",
        ruled("identity:delete_registered_limit", ADMIN),
        h!(registered_delete),
    ),
    Op::get("limit_model_show", "/limits/model", ruled("identity:get_limit_model", ANYONE), h!(model_show)),
    Op::get("limit_list", "/limits", ruled("identity:list_limits", ANYONE), h!(limit_list)),
    Op::post("limit_create", "/limits", ruled("identity:create_limits", ADMIN), h!(limit_create)),
    Op::get("limit_show", "/limits/{limit_id}", ruled("identity:get_limit", LIMIT_SHOW), h!(limit_show)),
    Op::patch("limit_update", "/limits/{limit_id}", ruled("identity:update_limit", ADMIN), h!(limit_update)),
    Op::delete("limit_delete", "/limits/{limit_id}", ruled("identity:delete_limit", ADMIN), h!(limit_delete)),
];

fn opt(id: &str) -> Value {
    if id.is_empty() { Value::Null } else { json!(id) }
}

fn registered_view(cx: &Cx, l: &RegisteredLimit) -> Value {
    json!({
        "id": l.id, "service_id": l.service_id, "region_id": opt(&l.region_id), "resource_name": l.resource_name,
        "default_limit": l.default_limit, "description": l.description,
        "links": {"self": url(cx, &format!("registered_limits/{}", l.id))},
    })
}

fn limit_view(cx: &Cx, l: &Limit) -> Value {
    json!({
        "id": l.id, "service_id": l.service_id, "region_id": opt(&l.region_id), "resource_name": l.resource_name,
        "project_id": opt(&l.project_id), "domain_id": opt(&l.domain_id), "resource_limit": l.resource_limit, "description": l.description,
        "links": {"self": url(cx, &format!("limits/{}", l.id))},
    })
}

/// The array under `key`, each an object.
async fn items(cx: &mut Cx, key: &str) -> Result<Vec<Fields>> {
    let body: Map<String, Value> = cx.json().await?;
    let rows = Fields::new(body).array(key)?.filter(|a| !a.is_empty());
    let rows = rows.ok_or_else(|| Error::invalid(format!("'{key}' must be an array with at least one item")))?;
    rows.into_iter()
        .map(|v| match v {
            Value::Object(m) => Ok(Fields::new(m)),
            _ => Err(Error::invalid(format!("an item of '{key}' is not an object"))),
        })
        .collect()
}

fn value(f: &mut Fields, key: &str) -> Result<Option<i64>> {
    match f.int(key)? {
        Some(n) if !(-1..=0x7fff_ffff).contains(&n) => Err(Error::invalid(format!("Invalid input for field '{key}': {n} is not a limit"))),
        other => Ok(other),
    }
}

fn required(f: &mut Fields, key: &str) -> Result<i64> {
    value(f, key)?.ok_or_else(|| Error::invalid(format!("'{key}' is a required property")))
}

/// Errors: `Invalid` when service or region do not exist.
fn check_place(tx: &mut Tx<'_>, service_id: &str, region_id: &str) -> Result<()> {
    if tx.get::<CatalogService>(service_id)?.is_none() {
        return Err(Error::invalid(format!("Unable to use the service {service_id}: it does not exist.")));
    }
    if !region_id.is_empty() && tx.get::<Region>(region_id)?.is_none() {
        return Err(Error::invalid(format!("Unable to use the region {region_id}: it does not exist.")));
    }
    Ok(())
}

async fn registered_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let columns = [("service_id", "service_id"), ("region_id", "region_id"), ("resource_name", "resource_name")];
    let rows: Vec<RegisteredLimit> = load(&cx, &columns, Vec::new()).await?;
    reply(&cx, "registered_limits", rows.iter().map(|l| registered_view(&cx, l)).collect(), &["service_id", "region_id", "resource_name"])
}

async fn registered_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut rows = Vec::new();
    for mut f in items(&mut cx, "registered_limits").await? {
        rows.push(RegisteredLimit {
            id: cx.env.hex_id(),
            service_id: f.require_id("service_id")?,
            region_id: f.id("region_id")?.flatten().unwrap_or_default(),
            resource_name: f.require_name("resource_name", 255)?,
            default_limit: required(&mut f, "default_limit")?,
            description: f.text("description")?.flatten(),
        });
        f.finish()?;
    }
    let views: Vec<Value> = rows.iter().map(|l| registered_view(&cx, l)).collect();
    let done = cx.state.write(move |tx| {
        for l in &rows {
            check_place(tx, &l.service_id, &l.region_id)?;
            tx.insert(l)?;
        }
        Ok(())
    });
    done.await.map_err(|e| duplicate(e, "registered_limit", "Duplicate entry."))?;
    Reply::json(201, &json!({"registered_limits": views}))
}

async fn find_registered(cx: &Cx) -> Result<Stored<RegisteredLimit>> {
    let id = cx.param("limit_id");
    let l = cx.state.db.get::<RegisteredLimit>(id).await?;
    found(cx, "registered limit", id, l, |_| Value::Null)
}

async fn registered_show(cx: Cx) -> Result<Reply> {
    let l = find_registered(&cx).await?;
    Reply::ok(&json!({"registered_limit": registered_view(&cx, &l)}))
}

/// Limits that rest on a registered one.
fn dependents(tx: &mut Tx<'_>, l: &RegisteredLimit) -> Result<i64> {
    let q = Query::new().eq("service_id", l.service_id.as_str()).eq("region_id", l.region_id.as_str());
    tx.count::<Limit>(&q.eq("resource_name", l.resource_name.as_str()))
}

async fn registered_update(mut cx: Cx) -> Result<Reply> {
    let l = find_registered(&cx).await?;
    let mut f = Fields::read(&mut cx, "registered_limit").await?;
    let mut new = l.value.clone();
    if let Some(s) = f.id("service_id")?.flatten() {
        new.service_id = s;
    }
    if let Some(r) = f.id("region_id")? {
        new.region_id = r.unwrap_or_default();
    }
    if let Some(n) = f.name("resource_name", 255)? {
        new.resource_name = n;
    }
    if let Some(n) = value(&mut f, "default_limit")? {
        new.default_limit = n;
    }
    if let Some(d) = f.text("description")? {
        new.description = d;
    }
    f.finish()?;
    let done = cx
        .state
        .write(move |tx| {
            let mut row = tx.get::<RegisteredLimit>(&new.id)?.ok_or_else(|| not_found("registered limit", &new.id))?;
            let moved = (&row.service_id, &row.region_id, &row.resource_name) != (&new.service_id, &new.region_id, &new.resource_name);
            if moved && dependents(tx, &row)? > 0 {
                return Err(forbidden("Unable to update registered limit because there are project limits associated with it."));
            }
            check_place(tx, &new.service_id, &new.region_id)?;
            row.value = new.clone();
            tx.update(&mut row)?;
            Ok(row.value)
        })
        .await
        .map_err(|e| duplicate(e, "registered_limit", "Duplicate entry."))?;
    Reply::ok(&json!({"registered_limit": registered_view(&cx, &done)}))
}

async fn registered_delete(cx: Cx) -> Result<Reply> {
    let l = find_registered(&cx).await?;
    cx.state
        .write(move |tx| {
            if dependents(tx, &l)? > 0 {
                return Err(forbidden("Unable to delete registered limit because there are project limits associated with it."));
            }
            tx.delete_id::<RegisteredLimit>(&l.id)
        })
        .await?;
    Ok(Reply::no_content())
}

// Limits of projects and domains

async fn model_show(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    Reply::ok(
        &json!({"model": {"name": "flat", "description": "Limit enforcement and validation does not take project hierarchy into consideration."}}),
    )
}

fn target(l: &Limit, project_domain: Option<&str>) -> Value {
    json!({"limit": {"project_id": opt(&l.project_id), "domain_id": opt(&l.domain_id), "project_domain_id": project_domain}})
}

async fn limit_list(cx: Cx) -> Result<Reply> {
    // Each row is asked for itself.
    cx.filtered();
    let columns = [
        ("service_id", "service_id"),
        ("region_id", "region_id"),
        ("resource_name", "resource_name"),
        ("project_id", "project_id"),
        ("domain_id", "domain_id"),
    ];
    let rows: Vec<Limit> = load(&cx, &columns, Vec::new()).await?;
    let mut views = Vec::new();
    for l in &rows {
        let about = about(&cx, l).await?;
        if cx.allows("identity:get_limit", &Target::new().with_object("target", &about)) {
            views.push(limit_view(&cx, l));
        }
    }
    reply(&cx, "limits", views, &["service_id", "region_id", "resource_name", "project_id", "domain_id"])
}

async fn about(cx: &Cx, l: &Limit) -> Result<Value> {
    let project = cx.state.db.get::<Project>(&l.project_id).await?;
    Ok(target(l, project.as_ref().map(|p| p.domain_id.as_str())))
}

async fn limit_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut rows = Vec::new();
    for mut f in items(&mut cx, "limits").await? {
        let l = Limit {
            id: cx.env.hex_id(),
            service_id: f.require_id("service_id")?,
            region_id: f.id("region_id")?.flatten().unwrap_or_default(),
            resource_name: f.require_name("resource_name", 255)?,
            project_id: f.id("project_id")?.flatten().unwrap_or_default(),
            domain_id: f.id("domain_id")?.flatten().unwrap_or_default(),
            resource_limit: required(&mut f, "resource_limit")?,
            description: f.text("description")?.flatten(),
        };
        f.finish()?;
        if l.project_id.is_empty() == l.domain_id.is_empty() {
            return Err(Error::invalid("A limit is for a project or for a domain."));
        }
        rows.push(l);
    }
    let views: Vec<Value> = rows.iter().map(|l| limit_view(&cx, l)).collect();
    let done = cx.state.write(move |tx| {
        for l in &rows {
            insert_limit(tx, l)?;
        }
        Ok(())
    });
    done.await.map_err(|e| duplicate(e, "limit", "Duplicate entry."))?;
    Reply::json(201, &json!({"limits": views}))
}

fn insert_limit(tx: &mut Tx<'_>, l: &Limit) -> Result<()> {
    check_place(tx, &l.service_id, &l.region_id)?;
    let owner = if l.project_id.is_empty() { &l.domain_id } else { &l.project_id };
    let there = tx.get::<Project>(owner)?.is_some_and(|p| p.is_domain == l.project_id.is_empty());
    if !there {
        return Err(not_found(if l.project_id.is_empty() { "domain" } else { "project" }, owner));
    }
    let q = Query::new().eq("service_id", l.service_id.as_str()).eq("region_id", l.region_id.as_str());
    if tx.count::<RegisteredLimit>(&q.eq("resource_name", l.resource_name.as_str()))? == 0 {
        return Err(forbidden(&format!("Unable to create a limit for {}: there is no registered limit.", l.resource_name)));
    }
    tx.insert(l).map(drop)
}

async fn find_limit(cx: &Cx) -> Result<Stored<Limit>> {
    let id = cx.param("limit_id");
    let l = cx.state.db.get::<Limit>(id).await?;
    let what = match &l {
        Some(l) => about(cx, l).await?,
        None => Value::Null,
    };
    found(cx, "limit", id, l, |_| what)
}

async fn limit_show(cx: Cx) -> Result<Reply> {
    let l = find_limit(&cx).await?;
    Reply::ok(&json!({"limit": limit_view(&cx, &l)}))
}

async fn limit_update(mut cx: Cx) -> Result<Reply> {
    let l = find_limit(&cx).await?;
    let mut f = Fields::read(&mut cx, "limit").await?;
    let (limit, description, id) = (value(&mut f, "resource_limit")?, f.text("description")?, l.id.clone());
    f.finish()?;
    let done = cx
        .state
        .write(move |tx| {
            let mut l = tx.get::<Limit>(&id)?.ok_or_else(|| not_found("limit", &id))?;
            l.resource_limit = limit.unwrap_or(l.resource_limit);
            if let Some(d) = &description {
                l.description.clone_from(d);
            }
            tx.update(&mut l)?;
            Ok(l.value)
        })
        .await?;
    Reply::ok(&json!({"limit": limit_view(&cx, &done)}))
}

async fn limit_delete(cx: Cx) -> Result<Reply> {
    let id = find_limit(&cx).await?.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Limit>(&id)).await?;
    Ok(Reply::no_content())
}
