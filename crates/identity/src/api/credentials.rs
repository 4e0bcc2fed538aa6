//! Credentials: secrets kept for users, encrypted; and EC2 key pairs, which are credentials of type
//! `ec2`.
//!
//! A caller whose rights come from a trust or a restricted application credential may not make or
//! change credentials: they would outlive the delegation.

use super::ec2_tokens::is_of_key;
use super::fields::{Cx, Fields, merge_extra};
use super::lists::{load, reply, url};
use super::rules::{ADMIN_SYSTEM_READER_OR_OWNER, CREDENTIAL_SHOW, CREDENTIAL_WRITE, EC2_WRITE, ruled};
use super::{duplicate, forbidden, found, guard, not_found};
use crate::state::Identity;
use crate::store::{ApplicationCredential, Credential, Extra, Project, User};
use crate::token::payload::hex;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Op, Reply, h};
use caelum_store::{Query, Stored};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub const OPS: &[Op<Identity>] = &[
    Op::get("credential_list", "/credentials", ruled("identity:list_credentials", CREDENTIAL_SHOW), h!(credential_list)),
    Op::post("credential_create", "/credentials", ruled("identity:create_credential", CREDENTIAL_WRITE), h!(credential_create)),
    Op::get("credential_show", "/credentials/{credential_id}", ruled("identity:get_credential", CREDENTIAL_SHOW), h!(credential_show)),
    Op::patch(
        "credential_update",
        "/credentials/{credential_id}",
        ruled("identity:update_credential", CREDENTIAL_WRITE),
        h!(credential_update),
    ),
    Op::delete(
        "credential_delete",
        "/credentials/{credential_id}",
        ruled("identity:delete_credential", CREDENTIAL_WRITE),
        h!(credential_delete),
    ),
    Op::get(
        "ec2_credential_list",
        "/users/{user_id}/credentials/OS-EC2",
        ruled("identity:ec2_list_credentials", ADMIN_SYSTEM_READER_OR_OWNER),
        h!(ec2_list),
    ),
    Op::post(
        "ec2_credential_create",
        "/users/{user_id}/credentials/OS-EC2",
        ruled("identity:ec2_create_credential", EC2_WRITE),
        h!(ec2_create),
    ),
    Op::get(
        "ec2_credential_show",
        "/users/{user_id}/credentials/OS-EC2/{access}",
        ruled("identity:ec2_get_credential", CREDENTIAL_SHOW),
        h!(ec2_show),
    ),
    Op::delete(
        "ec2_credential_delete",
        "/users/{user_id}/credentials/OS-EC2/{access}",
        ruled("identity:ec2_delete_credential", EC2_WRITE),
        h!(ec2_delete),
    ),
];

fn target(c: &Credential) -> Value {
    json!({"credential": {"id": c.id, "user_id": c.user_id, "type": c.kind, "project_id": c.project_id}})
}

/// Credentials hold secrets that are good for more than a delegated token is. Errors: `Forbidden` for a token of a trust,
/// an application credential or an EC2 key.
fn primary_only(cx: &Cx) -> Result<()> {
    let auth = cx.auth();
    if auth.trust_id.is_some() || auth.application_credential_id.is_some() || is_of_key(&auth.methods) {
        return Err(forbidden("Delegated tokens cannot access credentials directly."));
    }
    Ok(())
}

/// Errors: `Forbidden` for a delegated token that must not make lasting secrets.
pub async fn not_delegated(cx: &Cx) -> Result<()> {
    let auth = cx.auth();
    if is_of_key(&auth.methods) {
        return Err(forbidden("A token of an EC2 key cannot do this."));
    }
    if auth.trust_id.is_some() {
        return Err(forbidden("A token of a trust cannot do this."));
    }
    if let Some(id) = &auth.application_credential_id {
        let ac = cx.state.db.get::<ApplicationCredential>(id).await?;
        if ac.is_none_or(|a| !a.unrestricted) {
            return Err(forbidden("A restricted application credential cannot do this."));
        }
    }
    Ok(())
}

fn view(cx: &Cx, c: &Credential) -> Result<Value> {
    let mut v = c.extra.clone();
    v.insert("id".into(), json!(c.id));
    v.insert("user_id".into(), json!(c.user_id));
    v.insert("project_id".into(), json!(c.project_id));
    v.insert("type".into(), json!(c.kind));
    v.insert("blob".into(), json!(cx.state.decrypt(&c.encrypted_blob)?));
    v.insert("links".into(), json!({"self": url(cx, &format!("credentials/{}", c.id))}));
    Ok(Value::Object(v))
}

async fn find(cx: &Cx) -> Result<Stored<Credential>> {
    let id = cx.param("credential_id");
    let c = cx.state.db.get::<Credential>(id).await?;
    found(cx, "credential", id, c, |c| target(c))
}

async fn credential_list(cx: Cx) -> Result<Reply> {
    // Each row is asked for itself.
    cx.filtered();
    primary_only(&cx)?;
    let rows: Vec<Credential> = load(&cx, &[("user_id", "user_id"), ("type", "type")], Vec::new()).await?;
    let mut views = Vec::new();
    for c in &rows {
        let about = target(c);
        if cx.allows("identity:list_credentials", &Target::new().with_object("target", &about)) {
            views.push(view(&cx, c)?);
        }
    }
    reply(&cx, "credentials", views, &["user_id", "type"])
}

fn blob_of(f: &mut Fields) -> Result<Option<String>> {
    match f.take("blob") {
        None => Ok(None),
        Some(Value::String(s)) if s.len() <= 65_535 => Ok(Some(s)),
        Some(_) => Err(Error::invalid("Invalid input for field 'blob': a string is expected")),
    }
}

/// An EC2 blob names its access key; the credential's id is the key's digest.
fn ec2_id(blob: &str) -> Result<String> {
    let parsed: Map<String, Value> = serde_json::from_str(blob).map_err(|_| Error::invalid("Invalid blob in credential"))?;
    let access = parsed.get("access").and_then(Value::as_str).ok_or_else(|| Error::invalid("Invalid blob in credential"))?;
    Ok(digest(access))
}

pub fn digest(access: &str) -> String {
    hex(&Sha256::digest(access.as_bytes()))
}

async fn credential_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "credential").await?;
    let user_id = match f.id("user_id")?.flatten() {
        Some(u) => u,
        None => cx.auth().user_id().to_string(),
    };
    let kind = f.require_name("type", 255)?;
    let project_id = f.id("project_id")?.flatten();
    let blob = blob_of(&mut f)?.ok_or_else(|| Error::invalid("'blob' is a required property"))?;
    let mut c = Credential { id: cx.env.hex_id(), user_id, project_id, kind, encrypted_blob: String::new(), extra: Extra::new() };
    guard(&cx, &target(&c))?;
    primary_only(&cx)?;
    if c.kind == "ec2" {
        if c.project_id.is_none() {
            return Err(Error::invalid("'project_id' is a required property of an ec2 credential"));
        }
        check_own_project(&cx, &c)?;
        c.id = ec2_id(&blob)?;
    }
    c.extra = f.extra()?;
    c.encrypted_blob = cx.state.encrypt(&blob)?;
    let made = insert(&cx, c).await?;
    Reply::json(201, &json!({"credential": view(&cx, &made)?}))
}

/// A key gives the rights its user has on its project; a scoped token cannot make one for elsewhere.
fn check_own_project(cx: &Cx, c: &Credential) -> Result<()> {
    if cx.auth().is_admin() || cx.auth().creds.project_id == c.project_id {
        return Ok(());
    }
    Err(forbidden("A key can be made for the token's own project only."))
}

async fn insert(cx: &Cx, c: Credential) -> Result<Credential> {
    let done = cx.state.write(move |tx| {
        if tx.get::<User>(&c.user_id)?.is_none() {
            return Err(not_found("user", &c.user_id));
        }
        if let Some(p) = &c.project_id
            && tx.get::<Project>(p)?.is_none()
        {
            return Err(not_found("project", p));
        }
        tx.insert(&c)
    });
    Ok(done.await.map_err(|e| duplicate(e, "credential", "Duplicate entry."))?.value)
}

async fn credential_show(cx: Cx) -> Result<Reply> {
    let c = find(&cx).await?;
    primary_only(&cx)?;
    Reply::ok(&json!({"credential": view(&cx, &c)?}))
}

async fn credential_update(mut cx: Cx) -> Result<Reply> {
    let c = find(&cx).await?;
    primary_only(&cx)?;
    let mut f = Fields::read(&mut cx, "credential").await?;
    let mut new = c.value.clone();
    if let Some(u) = f.id("user_id")?.flatten() {
        new.user_id = u;
    }
    if let Some(p) = f.id("project_id")? {
        new.project_id = p;
    }
    if let Some(k) = f.name("type", 255)? {
        new.kind = k;
    }
    if let Some(b) = blob_of(&mut f)? {
        if new.kind == "ec2" {
            // A changed access key is found under the id of the first one only, as upstream has it.
            ec2_id(&b)?;
        }
        new.encrypted_blob = cx.state.encrypt(&b)?;
    }
    merge_extra(&mut new.extra, f.extra()?);
    // Who may change it as it is must also own what it becomes.
    guard(&cx, &target(&new))?;
    if new.kind == "ec2" {
        check_own_project(&cx, &new)?;
    }
    let (generation, id) = (c.generation, new.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            if tx.get::<User>(&new.user_id)?.is_none() {
                return Err(not_found("user", &new.user_id));
            }
            let mut row = Stored { value: new.clone(), generation };
            tx.update(&mut row)?;
            Ok(row.value)
        })
        .await
        .map_err(|e| if e.is_conflict() { Error::conflict(format!("Credential {id} was changed meanwhile.")) } else { e })?;
    Reply::ok(&json!({"credential": view(&cx, &done)?}))
}

async fn credential_delete(cx: Cx) -> Result<Reply> {
    let c = find(&cx).await?;
    primary_only(&cx)?;
    let id = c.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Credential>(&id)).await?;
    Ok(Reply::no_content())
}

// EC2

fn ec2_view(cx: &Cx, c: &Credential) -> Result<Value> {
    let blob: Map<String, Value> =
        serde_json::from_str(&cx.state.decrypt(&c.encrypted_blob)?).map_err(|e| Error::internal("stored ec2 credential").caused_by(e))?;
    let access = blob.get("access").and_then(Value::as_str).unwrap_or_default();
    Ok(json!({
        "access": access, "secret": blob.get("secret"), "user_id": c.user_id, "tenant_id": c.project_id,
        "trust_id": blob.get("trust_id"),
        "links": {"self": url(cx, &format!("users/{}/credentials/OS-EC2/{access}", c.user_id))},
    }))
}

async fn ec2_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    primary_only(&cx)?;
    let q = Query::new().eq("user_id", cx.param("user_id")).eq("type", "ec2");
    let rows = cx.state.db.list::<Credential>(q).await?;
    let views = rows.iter().map(|c| ec2_view(&cx, c)).collect::<Result<Vec<_>>>()?;
    super::lists::page(&cx, "credentials", views)
}

async fn ec2_create(mut cx: Cx) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let mut f = Fields::new(body);
    let project_id = f.require_id("tenant_id")?;
    let user_id = cx.param("user_id").to_string();
    let (access, secret) = (cx.env.hex_id(), hex(&cx.env.bytes(16)));
    let blob = json!({"access": access, "secret": secret, "trust_id": null}).to_string();
    let c = Credential {
        id: digest(&access),
        user_id,
        project_id: Some(project_id),
        kind: "ec2".into(),
        encrypted_blob: cx.state.encrypt(&blob)?,
        extra: Extra::new(),
    };
    guard(&cx, &target(&c))?;
    primary_only(&cx)?;
    check_own_project(&cx, &c)?;
    let made = insert(&cx, c).await?;
    Reply::json(201, &json!({"credential": ec2_view(&cx, &made)?}))
}

async fn ec2_find(cx: &Cx) -> Result<Stored<Credential>> {
    let access = cx.param("access");
    let c = cx.state.db.get::<Credential>(&digest(access)).await?;
    let c = c.filter(|c| c.kind == "ec2" && c.user_id == cx.param("user_id"));
    let c = c.ok_or_else(|| not_found("credential", access))?;
    guard(cx, &target(&c))?;
    Ok(c)
}

async fn ec2_show(cx: Cx) -> Result<Reply> {
    let c = ec2_find(&cx).await?;
    primary_only(&cx)?;
    Reply::ok(&json!({"credential": ec2_view(&cx, &c)?}))
}

async fn ec2_delete(cx: Cx) -> Result<Reply> {
    let c = ec2_find(&cx).await?;
    primary_only(&cx)?;
    let id = c.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Credential>(&id)).await?;
    Ok(Reply::no_content())
}
