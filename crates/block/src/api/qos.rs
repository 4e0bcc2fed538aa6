//! `/qos-specs`

use super::admin;
use super::forms::{self, Map};
use super::lists;
use super::types::types_with;
use crate::State;
use crate::logic::types::missing as type_missing;
use crate::store::{Metadata, QosSpecs, VolumeType};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Dir, Query, Stored, Tx};
use serde_json::{Value, json};

const LOOK: &str = "volume_extension:qos_specs_manage:get";
const CHANGE: &str = "volume_extension:qos_specs_manage:update";

pub const OPS: &[Op<State>] = &[
    Op::get("qos_list", "/qos-specs", admin("volume_extension:qos_specs_manage:get_all"), h!(list)),
    Op::post("qos_create", "/qos-specs", admin("volume_extension:qos_specs_manage:create"), h!(create)),
    Op::get("qos_show", "/qos-specs/{id}", admin(LOOK), h!(show)),
    Op::put("qos_set", "/qos-specs/{id}", admin(CHANGE), h!(set)),
    Op::put("qos_unset", "/qos-specs/{id}/delete_keys", admin(CHANGE), h!(unset)),
    Op::delete("qos_delete", "/qos-specs/{id}", admin("volume_extension:qos_specs_manage:delete"), h!(delete)),
    Op::get("qos_associations", "/qos-specs/{id}/associations", admin(LOOK), h!(associations)),
    Op::get("qos_associate", "/qos-specs/{id}/associate", admin(CHANGE), h!(associate)),
    Op::get("qos_disassociate", "/qos-specs/{id}/disassociate", admin(CHANGE), h!(disassociate)),
    Op::get("qos_disassociate_all", "/qos-specs/{id}/disassociate_all", admin(CHANGE), h!(disassociate_all)),
];

fn missing(id: &str) -> Error {
    Error::not_found(format!("No such qos spec {id}."))
}

fn view(q: &QosSpecs) -> Value {
    json!({"id": q.id, "name": q.name, "consumer": q.consumer, "specs": q.specs})
}

async fn find(cx: &Ctx<State>) -> Result<Stored<QosSpecs>> {
    cx.authorize_own()?;
    let id = cx.param("id");
    cx.state.db.get::<QosSpecs>(id).await?.ok_or_else(|| missing(id))
}

fn consumer(v: Option<&Value>) -> Result<Option<String>> {
    let Some(v) = v else { return Ok(None) };
    match v.as_str() {
        Some(c @ ("front-end" | "back-end" | "both")) => Ok(Some(c.to_string())),
        _ => Err(forms::invalid("consumer", v, "It is not one of front-end, back-end, both.")),
    }
}

/// The specs beside name and consumer.
fn specs(m: &Map) -> Result<Metadata> {
    let rest: Map = m.iter().filter(|(k, _)| !matches!(k.as_str(), "name" | "consumer")).map(|(k, v)| (k.clone(), v.clone())).collect();
    forms::metadata("qos_specs", Some(&Value::Object(rest)))
}

fn answer(cx: &Ctx<State>, q: &QosSpecs) -> Result<Reply> {
    Reply::ok(&json!({"qos_specs": view(q), "links": lists::links(cx, "qos-specs", &q.id)}))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let all = cx.state.db.list::<QosSpecs>(Query::new().sort("created_at", Dir::Desc)).await?;
    Reply::ok(&json!({"qos_specs": all.iter().map(|q| view(q)).collect::<Vec<_>>()}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let q = find(&cx).await?;
    answer(&cx, &q)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "qos_specs")?;
    let q = QosSpecs {
        id: cx.env.uuid(),
        name: forms::name("name", m.get("name"))?,
        consumer: consumer(m.get("consumer"))?.unwrap_or_else(|| "back-end".into()),
        specs: specs(&m)?,
        created_at: cx.env.now(),
    };
    let row = q.clone();
    let made = cx.state.db.write(move |tx| tx.insert(&row)).await;
    made.map_err(|e| if e.code == "duplicate" { Error::conflict(format!("Qos specs with name '{}' already exists.", q.name)) } else { e })?;
    answer(&cx, &q)
}

/// Changes the specs of the path in one transaction.
async fn change(cx: &Ctx<State>, f: impl Fn(&mut QosSpecs) -> Result<()> + Send + Sync + 'static) -> Result<()> {
    let id = find(cx).await?.id.clone();
    cx.state
        .db
        .write(move |tx| {
            let mut q = tx.get::<QosSpecs>(&id)?.ok_or_else(|| missing(&id))?;
            f(&mut q.value)?;
            tx.update(&mut q)
        })
        .await
}

async fn set(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let m = forms::inner(&body, "qos_specs")?;
    let (new, who) = (specs(&m)?, consumer(m.get("consumer"))?);
    change(&cx, move |q| {
        q.specs.extend(new.clone());
        if let Some(c) = &who {
            q.consumer.clone_from(c);
        }
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"qos_specs": m}))
}

async fn unset(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Value = cx.json().await?;
    let keys =
        body.get("keys").and_then(Value::as_array).ok_or_else(|| Error::invalid("Missing required element 'keys' in request body."))?;
    let keys: Vec<String> = keys.iter().filter_map(|k| k.as_str().map(String::from)).collect();
    change(&cx, move |q| {
        for k in &keys {
            q.specs.remove(k).ok_or_else(|| Error::not_found(format!("QoS spec {} has no spec with key {k}.", q.id)))?;
        }
        Ok(())
    })
    .await?;
    Ok(Reply::empty(202))
}

fn free(tx: &mut Tx<'_>, q: &QosSpecs) -> Result<()> {
    for mut t in types_with(tx, q)? {
        t.qos_specs_id = None;
        tx.update(&mut t)?;
    }
    Ok(())
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let q = find(&cx).await?;
    let force = cx.query.bool("force") == Some(true);
    cx.state
        .db
        .write(move |tx| {
            if !force && !types_with(tx, &q)?.is_empty() {
                return Err(Error::invalid(format!("Failed to delete qos_specs: {}, it is associated with volume types.", q.id)));
            }
            free(tx, &q)?;
            tx.delete_id::<QosSpecs>(&q.id)
        })
        .await?;
    Ok(Reply::empty(202))
}

async fn associations(cx: Ctx<State>) -> Result<Reply> {
    let q = find(&cx).await?;
    let types = cx.state.db.read(move |tx| types_with(tx, &q)).await?;
    let all: Vec<Value> = types.iter().map(|t| json!({"association_type": "volume_type", "id": t.id, "name": t.name})).collect();
    Reply::ok(&json!({"qos_associations": all}))
}

async fn tie(cx: &Ctx<State>, to: bool) -> Result<Reply> {
    let q = find(cx).await?;
    let wanted = cx.query.get("vol_type_id").filter(|v| !v.is_empty());
    let wanted = wanted.ok_or_else(|| Error::invalid("Volume Type id must not be None."))?.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut t = tx.get::<VolumeType>(&wanted)?.ok_or_else(|| type_missing(&wanted))?;
            if to && t.qos_specs_id.as_ref().is_some_and(|old| *old != q.id) {
                return Err(Error::invalid(format!("Invalid volume type: Type {wanted} is already associated with another qos specs.")));
            }
            if !to && t.qos_specs_id.as_ref() != Some(&q.id) {
                return Ok(());
            }
            t.qos_specs_id = Some(q.id.clone()).filter(|_| to);
            tx.update(&mut t)
        })
        .await?;
    Ok(Reply::empty(202))
}

async fn associate(cx: Ctx<State>) -> Result<Reply> {
    tie(&cx, true).await
}

async fn disassociate(cx: Ctx<State>) -> Result<Reply> {
    tie(&cx, false).await
}

async fn disassociate_all(cx: Ctx<State>) -> Result<Reply> {
    let q = find(&cx).await?;
    cx.state.db.write(move |tx| free(tx, &q)).await?;
    Ok(Reply::empty(202))
}
