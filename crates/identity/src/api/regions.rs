//! Regions.

use super::fields::{Cx, Fields, merge_extra};
use super::lists::{load, reply, url};
use super::rules::{ADMIN, ANYONE, ruled};
use super::{duplicate, found, guard, not_found};
use crate::state::Identity;
use crate::store::{Endpoint, Extra, Region};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Query, Stored, Tx};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("region_list", "/regions", ruled("identity:list_regions", ANYONE), h!(region_list)),
    Op::post("region_create", "/regions", ruled("identity:create_region", ADMIN), h!(region_create)),
    Op::put("region_create_named", "/regions/{region_id}", ruled("identity:create_region", ADMIN), h!(region_create)),
    Op::get("region_show", "/regions/{region_id}", ruled("identity:get_region", ANYONE), h!(region_show)),
    Op::patch("region_update", "/regions/{region_id}", ruled("identity:update_region", ADMIN), h!(region_update)),
    Op::delete("region_delete", "/regions/{region_id}", ruled("identity:delete_region", ADMIN), h!(region_delete)),
];

fn view(cx: &Cx, r: &Region) -> Value {
    let mut v = r.extra.clone();
    v.insert("id".into(), json!(r.id));
    v.insert("description".into(), json!(r.description));
    v.insert("parent_region_id".into(), json!(r.parent_region_id));
    v.insert("links".into(), json!({"self": url(cx, &format!("regions/{}", r.id))}));
    Value::Object(v)
}

async fn find(cx: &Cx) -> Result<Stored<Region>> {
    let id = cx.param("region_id");
    let region = cx.state.db.get::<Region>(id).await?;
    found(cx, "region", id, region, |_| Value::Null)
}

async fn region_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let rows: Vec<Region> = load(&cx, &[("parent_region_id", "parent_region_id")], Vec::new()).await?;
    reply(&cx, "regions", rows.iter().map(|r| view(&cx, r)).collect(), &["parent_region_id"])
}

/// The parent exists and is not below the region itself.
fn check_parent(tx: &mut Tx<'_>, id: &str, parent: Option<&String>) -> Result<()> {
    let mut next = parent.cloned();
    for _ in 0..64 {
        let Some(p) = next.take() else { return Ok(()) };
        if p == id {
            return Err(Error::invalid("A region cannot be below itself."));
        }
        let region = tx.get::<Region>(&p)?.ok_or_else(|| not_found("region", &p))?;
        next.clone_from(&region.parent_region_id);
    }
    Err(Error::invalid("The tree of regions is too deep."))
}

async fn region_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "region").await?;
    let body_id = f.id("id")?.flatten();
    let path_id = cx.op.path.contains("{region_id}").then(|| cx.param("region_id").to_string());
    if let (Some(b), Some(p)) = (&body_id, &path_id)
        && b != p
    {
        return Err(Error::invalid("Conflicting region IDs specified"));
    }
    let mut r = Region {
        id: path_id.or(body_id).unwrap_or_else(|| cx.env.hex_id()),
        parent_region_id: f.id("parent_region_id")?.flatten(),
        description: f.text("description")?.flatten().unwrap_or_default(),
        extra: Extra::new(),
    };
    if r.id.is_empty() || r.id.chars().count() > 255 {
        return Err(Error::invalid("A region's id has 1 to 255 characters."));
    }
    r.extra = f.extra()?;
    let details = format!("Duplicate ID, {}.", r.id);
    let done = cx.state.write(move |tx| {
        check_parent(tx, &r.id, r.parent_region_id.as_ref())?;
        tx.insert(&r)
    });
    let made = done.await.map_err(|e| duplicate(e, "region", &details))?;
    Reply::json(201, &json!({"region": view(&cx, &made)}))
}

async fn region_show(cx: Cx) -> Result<Reply> {
    let r = find(&cx).await?;
    Reply::ok(&json!({"region": view(&cx, &r)}))
}

async fn region_update(mut cx: Cx) -> Result<Reply> {
    let r = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "region").await?;
    if f.id("id")?.flatten().is_some_and(|i| i != r.id) {
        return Err(Error::invalid("Cannot change region ID"));
    }
    let (parent, description) = (f.id("parent_region_id")?, f.text("description")?);
    let (extra, id) = (f.extra()?, r.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut r = tx.get::<Region>(&id)?.ok_or_else(|| not_found("region", &id))?;
            if let Some(p) = &parent {
                check_parent(tx, &id, p.as_ref())?;
                r.parent_region_id.clone_from(p);
            }
            if let Some(d) = &description {
                r.description = d.clone().unwrap_or_default();
            }
            merge_extra(&mut r.value.extra, extra.clone());
            tx.update(&mut r)?;
            Ok(r.value)
        })
        .await?;
    Reply::ok(&json!({"region": view(&cx, &done)}))
}

async fn region_delete(cx: Cx) -> Result<Reply> {
    let r = find(&cx).await?;
    let id = r.id.clone();
    cx.state
        .write(move |tx| {
            let children = tx.count::<Region>(&Query::new().eq("parent_region_id", id.as_str()))?;
            if children > 0 || tx.count::<Endpoint>(&Query::new().eq("region_id", id.as_str()))? > 0 {
                return Err(Error::forbidden(format!(
                    "Unable to delete region {id} because it or its child regions have associated endpoints."
                )));
            }
            tx.delete_id::<Region>(&id)
        })
        .await?;
    Ok(Reply::no_content())
}
