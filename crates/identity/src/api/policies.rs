//! Policy documents and OAuth 1 consumers: kept for others, identity does not use them itself.

use super::fields::{Cx, Fields, merge_extra};
use super::lists::{load, reply, url};
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, ruled};
use super::{found, guard, not_found};
use crate::state::Identity;
use crate::store::{Consumer, Extra, Policy};
use crate::token::payload::hex;
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::Stored;
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("policy_list", "/policies", ruled("identity:list_policies", ADMIN_OR_SYSTEM_READER), h!(policy_list)),
    Op::post("policy_create", "/policies", ruled("identity:create_policy", ADMIN), h!(policy_create)),
    Op::get("policy_show", "/policies/{policy_id}", ruled("identity:get_policy", ADMIN_OR_SYSTEM_READER), h!(policy_show)),
    Op::patch("policy_update", "/policies/{policy_id}", ruled("identity:update_policy", ADMIN), h!(policy_update)),
    Op::delete("policy_delete", "/policies/{policy_id}", ruled("identity:delete_policy", ADMIN), h!(policy_delete)),
    Op::get("consumer_list", "/OS-OAUTH1/consumers", ruled("identity:list_consumers", ADMIN_OR_SYSTEM_READER), h!(consumer_list)),
    Op::post("consumer_create", "/OS-OAUTH1/consumers", ruled("identity:create_consumer", ADMIN), h!(consumer_create)),
    Op::get(
        "consumer_show",
        "/OS-OAUTH1/consumers/{consumer_id}",
        ruled("identity:get_consumer", ADMIN_OR_SYSTEM_READER),
        h!(consumer_show),
    ),
    Op::patch("consumer_update", "/OS-OAUTH1/consumers/{consumer_id}", ruled("identity:update_consumer", ADMIN), h!(consumer_update)),
    Op::delete("consumer_delete", "/OS-OAUTH1/consumers/{consumer_id}", ruled("identity:delete_consumer", ADMIN), h!(consumer_delete)),
];

fn policy_view(cx: &Cx, p: &Policy) -> Value {
    let mut v = p.extra.clone();
    v.insert("id".into(), json!(p.id));
    v.insert("type".into(), json!(p.kind));
    v.insert("blob".into(), p.blob.clone());
    v.insert("links".into(), json!({"self": url(cx, &format!("policies/{}", p.id))}));
    Value::Object(v)
}

async fn find_policy(cx: &Cx) -> Result<Stored<Policy>> {
    let id = cx.param("policy_id");
    let p = cx.state.db.get::<Policy>(id).await?;
    found(cx, "policy", id, p, |_| Value::Null)
}

async fn policy_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let rows: Vec<Policy> = load(&cx, &[("type", "type")], Vec::new()).await?;
    reply(&cx, "policies", rows.iter().map(|p| policy_view(&cx, p)).collect(), &["type"])
}

async fn policy_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "policy").await?;
    let mut p = Policy {
        id: cx.env.hex_id(),
        kind: f.require_name("type", 255)?,
        blob: f.take("blob").ok_or_else(|| Error::invalid("'blob' is a required property"))?,
        extra: Extra::new(),
    };
    p.extra = f.extra()?;
    let made = cx.state.write(move |tx| tx.insert(&p)).await?;
    Reply::json(201, &json!({"policy": policy_view(&cx, &made)}))
}

async fn policy_show(cx: Cx) -> Result<Reply> {
    let p = find_policy(&cx).await?;
    Reply::ok(&json!({"policy": policy_view(&cx, &p)}))
}

async fn policy_update(mut cx: Cx) -> Result<Reply> {
    let p = find_policy(&cx).await?;
    let mut f = Fields::read(&mut cx, "policy").await?;
    let (kind, blob) = (f.name("type", 255)?, f.take("blob"));
    let (extra, id) = (f.extra()?, p.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut p = tx.get::<Policy>(&id)?.ok_or_else(|| not_found("policy", &id))?;
            if let Some(k) = &kind {
                p.kind.clone_from(k);
            }
            if let Some(b) = &blob {
                p.blob = b.clone();
            }
            merge_extra(&mut p.value.extra, extra.clone());
            tx.update(&mut p)?;
            Ok(p.value)
        })
        .await?;
    Reply::ok(&json!({"policy": policy_view(&cx, &done)}))
}

async fn policy_delete(cx: Cx) -> Result<Reply> {
    let id = find_policy(&cx).await?.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Policy>(&id)).await?;
    Ok(Reply::no_content())
}

// OAuth 1 consumers

fn consumer_view(cx: &Cx, c: &Consumer) -> Value {
    let mut v = c.extra.clone();
    v.insert("id".into(), json!(c.id));
    v.insert("description".into(), json!(c.description));
    v.insert("links".into(), json!({"self": url(cx, &format!("OS-OAUTH1/consumers/{}", c.id))}));
    Value::Object(v)
}

async fn find_consumer(cx: &Cx) -> Result<Stored<Consumer>> {
    let id = cx.param("consumer_id");
    let c = cx.state.db.get::<Consumer>(id).await?;
    found(cx, "Consumer", id, c, |_| Value::Null)
}

async fn consumer_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let rows: Vec<Consumer> = load(&cx, &[], Vec::new()).await?;
    reply(&cx, "consumers", rows.iter().map(|c| consumer_view(&cx, c)).collect(), &[])
}

async fn consumer_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "consumer").await?;
    if f.has("secret") {
        return Err(Error::invalid("The secret of a consumer is made by the server."));
    }
    let secret = hex(&cx.env.bytes(16));
    let mut c = Consumer {
        id: cx.env.hex_id(),
        description: f.text("description")?.flatten(),
        encrypted_secret: cx.state.encrypt(&secret)?,
        extra: Extra::new(),
    };
    c.extra = f.extra()?;
    let made = cx.state.write(move |tx| tx.insert(&c)).await?;
    let mut v = consumer_view(&cx, &made);
    v["secret"] = json!(secret);
    Reply::json(201, &json!({"consumer": v}))
}

async fn consumer_show(cx: Cx) -> Result<Reply> {
    let c = find_consumer(&cx).await?;
    Reply::ok(&json!({"consumer": consumer_view(&cx, &c)}))
}

async fn consumer_update(mut cx: Cx) -> Result<Reply> {
    let c = find_consumer(&cx).await?;
    let mut f = Fields::read(&mut cx, "consumer").await?;
    if f.has("secret") {
        return Err(Error::invalid("The secret of a consumer cannot change."));
    }
    let (description, id) = (f.text("description")?, c.id.clone());
    let extra = f.extra()?;
    let done = cx
        .state
        .write(move |tx| {
            let mut c = tx.get::<Consumer>(&id)?.ok_or_else(|| not_found("Consumer", &id))?;
            if let Some(d) = &description {
                c.description.clone_from(d);
            }
            merge_extra(&mut c.value.extra, extra.clone());
            tx.update(&mut c)?;
            Ok(c.value)
        })
        .await?;
    Reply::ok(&json!({"consumer": consumer_view(&cx, &done)}))
}

async fn consumer_delete(cx: Cx) -> Result<Reply> {
    let id = find_consumer(&cx).await?.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Consumer>(&id)).await?;
    Ok(Reply::no_content())
}
