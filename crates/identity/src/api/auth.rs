//! Tokens: issue, check, revoke; what a token's owner may scope to.

use super::fields::Cx;
use super::lists::{page, url};
use super::rules::{ANYONE, TOKEN_CHECK, TOKEN_REVOKE, TOKEN_VALIDATE, ruled};
use super::{domains, guard, projects};
use crate::logic::authenticate::{self, IdentityPart, ScopePart, Wanted};
use crate::logic::roles;
use crate::state::Identity;
use crate::store::{self, Project, Revocation};
use crate::token::{Scope, TokenEntry};
use caelum_base::{Error, ErrorKind, Result};
use caelum_rest::{Access, Op, Reply, h};
use caelum_store::Query;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub const OPS: &[Op<Identity>] = &[
    Op::post("token_create", "/auth/tokens", Access::Public, h!(token_create)),
    Op::head("token_check", "/auth/tokens", ruled("identity:check_token", TOKEN_CHECK), h!(token_check)),
    Op::get("token_show", "/auth/tokens", ruled("identity:validate_token", TOKEN_VALIDATE), h!(token_show)),
    Op::delete("token_revoke", "/auth/tokens", ruled("identity:revoke_token", TOKEN_REVOKE), h!(token_revoke)),
    Op::get("auth_catalog_show", "/auth/catalog", ruled("identity:get_auth_catalog", ANYONE), h!(auth_catalog_show)),
    Op::get("auth_project_list", "/auth/projects", ruled("identity:get_auth_projects", ANYONE), h!(auth_project_list)),
    Op::get("auth_domain_list", "/auth/domains", ruled("identity:get_auth_domains", ANYONE), h!(auth_domain_list)),
    Op::get("auth_system_list", "/auth/system", ruled("identity:get_auth_system", ANYONE), h!(auth_system_list)),
    Op::get("federation_project_list", "/OS-FEDERATION/projects", ruled("identity:get_auth_projects", ANYONE), h!(auth_project_list)),
    Op::get("federation_domain_list", "/OS-FEDERATION/domains", ruled("identity:get_auth_domains", ANYONE), h!(auth_domain_list)),
];

#[derive(Deserialize)]
struct AuthPart {
    identity: IdentityPart,
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct AuthRequest {
    auth: AuthPart,
}

fn wanted(scope: Option<Value>) -> Result<Wanted> {
    let part: ScopePart = match scope {
        None | Some(Value::Null) => return Ok(Wanted::Default),
        Some(Value::String(s)) if s == "unscoped" => return Ok(Wanted::Unscoped),
        Some(v) => serde_json::from_value(v).map_err(|e| Error::invalid(format!("Invalid scope: {e}")))?,
    };
    let system = part.system.as_ref().map(|s| s.get("all") == Some(&true));
    let named = [part.project.is_some(), part.domain.is_some(), part.trust.is_some(), part.unscoped.is_some(), part.system.is_some()];
    if named.iter().filter(|n| **n).count() > 1 {
        return Err(Error::invalid("Scoping to both a domain, a project, a trust or the system at once is not allowed."));
    }
    match (part.project, part.domain, part.trust, part.unscoped, system) {
        (Some(p), ..) => Ok(Wanted::Project(p)),
        (_, Some(d), ..) => Ok(Wanted::Domain(d)),
        (_, _, Some(t), ..) => Ok(Wanted::Trust(t.id)),
        (_, _, _, Some(_), _) => Ok(Wanted::Unscoped),
        (_, _, _, _, Some(true)) => Ok(Wanted::System),
        (_, _, _, _, Some(false)) => Err(Error::invalid("Only the scope system all is known.")),
        _ => Ok(Wanted::Default),
    }
}

async fn token_create(mut cx: Cx) -> Result<Reply> {
    let request: AuthRequest = cx.json().await?;
    let wanted = wanted(request.auth.scope)?;
    let (token, entry) = authenticate::authenticate(&cx.state, request.auth.identity, wanted).await?;
    let body = body_of(&cx, &entry);
    Ok(Reply::bytes(201, "application/json", body).header("x-subject-token", token).header("vary", "X-Auth-Token"))
}

fn body_of(cx: &Cx, entry: &TokenEntry) -> bytes::Bytes {
    if cx.query.has("nocatalog") { entry.body_without_catalog.clone() } else { entry.body.clone() }
}

/// The token in `X-Subject-Token`, if the caller may ask about it.
async fn subject(cx: &Cx) -> Result<(String, Arc<TokenEntry>)> {
    let token = cx.headers.get("x-subject-token").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    // A token that is none belongs to nobody: whoever asks learns just that.
    let entry = cx.state.validate(&token).await.map_err(|e| match e.kind {
        ErrorKind::Unauthenticated => Error::not_found("Could not find token.").caused_by(e),
        _ => e,
    })?;
    guard(cx, &json!({"token": {"user_id": entry.facts.user_id}}))?;
    Ok((token, entry))
}

async fn token_show(cx: Cx) -> Result<Reply> {
    let (token, entry) = subject(&cx).await?;
    let body = body_of(&cx, &entry);
    Ok(Reply::bytes(200, "application/json", body).header("x-subject-token", token).header("vary", "X-Auth-Token"))
}

async fn token_check(cx: Cx) -> Result<Reply> {
    let (token, _) = subject(&cx).await?;
    Ok(Reply::empty(200).header("x-subject-token", token).header("vary", "X-Auth-Token"))
}

async fn token_revoke(cx: Cx) -> Result<Reply> {
    let (_, entry) = subject(&cx).await?;
    let (id, now) = (cx.env.hex_id(), cx.env.now().0);
    let r = Revocation { audit_id: entry.facts.audit_ids.first().cloned(), ..Revocation::default() };
    cx.state.write(move |tx| store::revoke(tx, &id, now, &r)).await?;
    Ok(Reply::no_content())
}

async fn auth_catalog_show(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let entry = cx.state.validate(cx.auth().token.expose()).await?;
    if entry.facts.scope == Scope::Unscoped {
        return Err(super::forbidden("The token has no scope, so there is no catalog."));
    }
    let catalog = cx.state.catalog_rows().await?.view(&entry.facts.user_id, &entry.facts.scope);
    Reply::ok(&json!({"catalog": catalog, "links": {"self": url(&cx, "auth/catalog"), "next": null, "previous": null}}))
}

/// Enabled projects (or domains) of these ids in enabled domains.
async fn usable(cx: &Cx, ids: Vec<String>) -> Result<Vec<Project>> {
    cx.state
        .read(move |tx| {
            let mut out = Vec::new();
            for p in tx.list::<Project>(&Query::new().is_in("id", ids))? {
                if p.enabled && (p.is_domain || tx.get::<Project>(&p.domain_id)?.is_some_and(|d| d.enabled)) {
                    out.push(p.value);
                }
            }
            Ok(out)
        })
        .await
}

async fn auth_project_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let user = cx.auth().user_id().to_string();
    let (ids, _, _) = cx.state.read(move |tx| roles::reachable(tx, &user)).await?;
    let rows = usable(&cx, ids.into_iter().collect()).await?;
    page(&cx, "projects", rows.iter().map(|p| projects::view(&cx, p)).collect())
}

async fn auth_domain_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let user = cx.auth().user_id().to_string();
    let (_, ids, _) = cx.state.read(move |tx| roles::reachable(tx, &user)).await?;
    let rows = usable(&cx, ids.into_iter().collect()).await?;
    page(&cx, "domains", rows.iter().map(|d| domains::view(&cx, d)).collect())
}

async fn auth_system_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let user = cx.auth().user_id().to_string();
    let (_, _, system) = cx.state.read(move |tx| roles::reachable(tx, &user)).await?;
    let rows = if system { vec![json!({"all": true})] } else { Vec::new() };
    Reply::ok(&json!({"system": rows, "links": {"self": url(&cx, "auth/system"), "next": null, "previous": null}}))
}
