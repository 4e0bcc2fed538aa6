//! `/os-keypairs`: key pairs of a user.

use super::forms;
use crate::State;
use crate::logic::keys;
use crate::store::keypairs::{KeyPair, by_name};
use crate::store::quota_sets;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_policy::personas::{ADMIN_OR_OWNER, PROJECT};
use caelum_rest::{Access, Ctx, Op, Page, Reply, Version, h};
use caelum_store::{Query, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

const fn rule(name: &'static str) -> Access {
    Access::rule(name, ADMIN_OR_OWNER, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("keypair_list", "/os-keypairs", rule("os_compute_api:os-keypairs:index"), h!(list)),
    Op::post("keypair_create", "/os-keypairs", rule("os_compute_api:os-keypairs:create"), h!(create)),
    Op::get("keypair_show", "/os-keypairs/{name}", rule("os_compute_api:os-keypairs:show"), h!(show)),
    Op::delete("keypair_delete", "/os-keypairs/{name}", rule("os_compute_api:os-keypairs:delete"), h!(delete)),
];

/// The user acted for: `user_id` of the query (2.10), else the caller; authorized.
fn subject(cx: &Ctx<State>) -> Result<String> {
    let asked = cx.query.get("user_id").filter(|_| cx.version >= Version(2, 10));
    let user = asked.unwrap_or(cx.auth().user_id()).to_string();
    cx.authorize(&Target::new().with("user_id", user.as_str()))?;
    Ok(user)
}

fn short(cx: &Ctx<State>, k: &KeyPair) -> Value {
    let mut v = json!({"name": k.name, "public_key": k.public_key, "fingerprint": k.fingerprint});
    if cx.version >= Version(2, 2) {
        v["type"] = json!(k.kind);
    }
    v
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("Keypair {name} not found for user"))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let user = subject(&cx)?;
    let paged = cx.version >= Version(2, 35);
    let mut keys: Vec<KeyPair> =
        cx.state.db.list::<KeyPair>(Query::new().eq("user_id", user)).await?.into_iter().map(|k| k.into_inner()).collect();
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    let mut next = None;
    if paged {
        let page = Page::from_query(&cx.query, forms::MAX_LIMIT)?;
        let found = forms::page_of(keys, &page, |k| k.name.clone())?;
        (keys, next) = (found.0, found.1.filter(|_| page.explicit));
    }
    let mut body = json!({"keypairs": keys.iter().map(|k| json!({"keypair": short(&cx, k)})).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "keypairs", "/os-keypairs", next);
    Reply::ok(&body)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (user, name) = (subject(&cx)?, cx.param("name").to_string());
    let k = cx.state.db.read(move |tx| by_name(tx, &user, &name)?.ok_or_else(|| not_found(&name))).await?;
    let mut v = short(&cx, &k);
    v["user_id"] = json!(k.user_id);
    v["id"] = json!(k.number);
    v["created_at"] = json!(k.created_at.iso_micros());
    v["deleted"] = json!(false);
    v["deleted_at"] = Value::Null;
    v["updated_at"] = Value::Null;
    Reply::ok(&json!({"keypair": v}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    keypair: Create,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    public_key: Option<String>,
    user_id: Option<String>,
}

fn check_name(version: Version, name: &str) -> Result<()> {
    forms::check_name("name", name)?;
    let more: &[u8] = if version >= Version(2, 92) { b"-_ @." } else { b"-_ " };
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b)) {
        return Ok(());
    }
    Err(Error::invalid("Keypair data is invalid: Keypair name contains unsafe characters"))
}

fn checked(cx: &Ctx<State>, k: &Create) -> Result<String> {
    check_name(cx.version, &k.name)?;
    let unexpected = |field: &str| Error::invalid(format!("Additional properties are not allowed ('{field}' was unexpected)"));
    if k.kind.is_some() && cx.version < Version(2, 2) {
        return Err(unexpected("type"));
    }
    if k.user_id.is_some() && cx.version < Version(2, 10) {
        return Err(unexpected("user_id"));
    }
    if k.public_key.is_none() && cx.version >= Version(2, 92) {
        return Err(Error::invalid("Invalid input for field/attribute keypair. 'public_key' is a required property"));
    }
    match k.kind.as_deref().unwrap_or("ssh") {
        kind @ ("ssh" | "x509") => Ok(kind.to_string()),
        other => Err(Error::invalid(format!("Invalid input for field/attribute type. Value: {other}. It must be ssh or x509."))),
    }
}

fn insert(tx: &mut Tx<'_>, k: &KeyPair) -> Result<()> {
    if by_name(tx, &k.user_id, &k.name)?.is_some() {
        return Err(Error::conflict(format!("Key pair '{}' already exists.", k.name)));
    }
    // The quota of key pairs is per user and only the class sets it.
    let limit = quota_sets::class_limits(tx, "default")?.get("key_pairs").copied().unwrap_or(-1);
    let have = tx.count::<KeyPair>(&Query::new().eq("user_id", k.user_id.as_str()))?;
    if limit >= 0 && have >= limit {
        return Err(Error::over_quota("Quota exceeded, too many key pairs."));
    }
    tx.insert(k).map(drop)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Result<CreateBody> = cx.json().await;
    let asked = body.as_ref().ok().and_then(|b| b.keypair.user_id.clone()).filter(|_| cx.version >= Version(2, 10));
    let user = asked.unwrap_or_else(|| cx.auth().user_id().to_string());
    cx.authorize(&Target::new().with("user_id", user.as_str()))?;
    let k = body?.keypair;
    let kind = checked(&cx, &k)?;
    let made = match &k.public_key {
        Some(public) => keys::import(&kind, public)?,
        None => keys::generate(&cx.env, &kind, &user)?,
    };
    let row = KeyPair {
        id: cx.env.uuid(),
        // Only has to be an integer of its own; microseconds are.
        number: cx.env.now().0,
        user_id: user,
        name: k.name,
        kind,
        public_key: made.public_key,
        fingerprint: made.fingerprint,
        created_at: cx.env.now(),
    };
    let mut v = short(&cx, &row);
    v["user_id"] = json!(row.user_id);
    if let Some(private) = made.private_key {
        v["private_key"] = json!(private.expose());
    }
    cx.state.db.write(move |tx| insert(tx, &row)).await?;
    Reply::json(if cx.version < Version(2, 2) { 200 } else { 201 }, &json!({"keypair": v}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let (user, name) = (subject(&cx)?, cx.param("name").to_string());
    let write = move |tx: &mut Tx<'_>| {
        let k = by_name(tx, &user, &name)?.ok_or_else(|| not_found(&name))?;
        tx.delete(&k)
    };
    cx.state.db.write(write).await?;
    Ok(Reply::empty(if cx.version < Version(2, 2) { 202 } else { 204 }))
}
