//! Application credentials and access rules.

use super::credentials::not_delegated;
use super::fields::{Cx, Fields};
use super::lists::{reply, url};
use super::rules::{ACCESS_RULE_SHOW, ACCESS_RULE_WRITE, ADMIN_OR_OWNER, ADMIN_SYSTEM_READER_OR_OWNER, OWNER, ruled};
use super::{duplicate, forbidden, found, guard, not_found};
use crate::state::Identity;
use crate::store::{AccessRule, ApplicationCredential, Role};
use crate::token::fernet::b64;
use caelum_base::{Error, Result, Secret, Timestamp};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Dir, Query, Stored, Tx};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<Identity>] = &[
    Op::get(
        "application_credential_list",
        "/users/{user_id}/application_credentials",
        ruled("identity:list_application_credentials", ADMIN_SYSTEM_READER_OR_OWNER),
        h!(list),
    ),
    Op::post(
        "application_credential_create",
        "/users/{user_id}/application_credentials",
        ruled("identity:create_application_credential", OWNER),
        h!(create),
    ),
    Op::get(
        "application_credential_show",
        "/users/{user_id}/application_credentials/{id}",
        ruled("identity:get_application_credential", ADMIN_SYSTEM_READER_OR_OWNER),
        h!(show),
    ),
    Op::delete(
        "application_credential_delete",
        "/users/{user_id}/application_credentials/{id}",
        ruled("identity:delete_application_credential", ADMIN_OR_OWNER),
        h!(delete),
    ),
    Op::get("access_rule_list", "/users/{user_id}/access_rules", ruled("identity:list_access_rules", ACCESS_RULE_SHOW), h!(rule_list)),
    Op::get("access_rule_show", "/users/{user_id}/access_rules/{id}", ruled("identity:get_access_rule", ACCESS_RULE_SHOW), h!(rule_show)),
    Op::delete(
        "access_rule_delete",
        "/users/{user_id}/access_rules/{id}",
        ruled("identity:delete_access_rule", ACCESS_RULE_WRITE),
        h!(rule_delete),
    ),
];

/// Roles and access rules by id, for views.
struct Names {
    roles: BTreeMap<String, Role>,
    rules: BTreeMap<String, AccessRule>,
}

fn names(tx: &mut Tx<'_>, user_id: &str) -> Result<Names> {
    let roles = tx.list::<Role>(&Query::new())?;
    let rules = tx.list::<AccessRule>(&Query::new().eq("user_id", user_id))?;
    Ok(Names {
        roles: roles.into_iter().map(|r| (r.id.clone(), r.value)).collect(),
        rules: rules.into_iter().map(|r| (r.id.clone(), r.value)).collect(),
    })
}

fn rule_view(r: &AccessRule) -> Value {
    json!({"id": r.id, "service": r.service, "method": r.method, "path": r.path})
}

fn view(cx: &Cx, a: &ApplicationCredential, n: &Names) -> Value {
    let roles: Vec<Value> =
        a.role_ids.iter().filter_map(|id| n.roles.get(id)).map(|r| json!({"id": r.id, "name": r.name, "domain_id": null})).collect();
    let mut v = json!({
        "id": a.id, "name": a.name, "description": a.description, "user_id": a.user_id, "project_id": a.project_id, "system": a.system,
        "roles": roles, "unrestricted": a.unrestricted, "expires_at": a.expires_at.map(Timestamp::iso_micros),
        "links": {"self": url(cx, &format!("users/{}/application_credentials/{}", a.user_id, a.id))},
    });
    if let Some(rules) = &a.access_rules {
        v["access_rules"] = rules.iter().filter_map(|id| n.rules.get(id)).map(rule_view).collect();
    }
    v
}

async fn list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let user = cx.param("user_id").to_string();
    let (rows, n) = cx
        .state
        .read(move |tx| {
            let rows = tx.list::<ApplicationCredential>(&Query::new().eq("user_id", user.as_str()).sort("name", Dir::Asc))?;
            Ok((rows, names(tx, &user)?))
        })
        .await?;
    reply(&cx, "application_credentials", rows.iter().map(|a| view(&cx, a, &n)).collect(), &["name"])
}

async fn find(cx: &Cx) -> Result<Stored<ApplicationCredential>> {
    let id = cx.param("id");
    let a = cx.state.db.get::<ApplicationCredential>(id).await?.filter(|a| a.user_id == cx.param("user_id"));
    found(cx, "application credential", id, a, |_| Value::Null)
}

async fn show(cx: Cx) -> Result<Reply> {
    let a = find(&cx).await?;
    let user = a.user_id.clone();
    let n = cx.state.read(move |tx| names(tx, &user)).await?;
    Reply::ok(&json!({"application_credential": view(&cx, &a, &n)}))
}

async fn delete(cx: Cx) -> Result<Reply> {
    let a = find(&cx).await?;
    not_delegated(&cx).await?;
    let id = a.id.clone();
    cx.state.write(move |tx| tx.delete_id::<ApplicationCredential>(&id)).await?;
    Ok(Reply::no_content())
}

/// The roles wanted must be among those of the caller's token; none named means all of them.
fn wanted_roles(cx: &Cx, roles: Option<Vec<Value>>) -> Result<Vec<String>> {
    let own = &cx.auth().roles;
    let Some(roles) = roles.filter(|r| !r.is_empty()) else { return Ok(own.iter().map(|r| r.id.clone()).collect()) };
    let mut out = Vec::new();
    for r in &roles {
        let (id, name) = (r.get("id").and_then(Value::as_str), r.get("name").and_then(Value::as_str));
        if id.is_none() && name.is_none() {
            return Err(Error::invalid("Invalid input for field 'roles': a role has an id or a name"));
        }
        let found = own.iter().find(|o| id.map_or(Some(o.name.as_str()) == name, |i| o.id == i));
        let found =
            found.ok_or_else(|| Error::invalid("Invalid application credential: Could not find role assignment for one of the roles."))?;
        if !out.contains(&found.id) {
            out.push(found.id.clone());
        }
    }
    Ok(out)
}

fn wanted_rules(cx: &Cx, rules: Option<Vec<Value>>) -> Result<Option<Vec<AccessRule>>> {
    let Some(rules) = rules else { return Ok(None) };
    let mut out = Vec::new();
    for r in rules {
        let Value::Object(map) = r else { return Err(Error::invalid("Invalid input for field 'access_rules': an object is expected")) };
        let mut f = Fields::new(map);
        let id = f.id("id")?.flatten();
        let (service, path, method) = (f.name("service", 255)?, f.name("path", 128)?, f.name("method", 16)?);
        f.finish()?;
        let user_id = cx.param("user_id").to_string();
        match (id, service, path, method) {
            // A reference to one that exists; looked up when storing.
            (Some(id), None, None, None) => {
                out.push(AccessRule { id, user_id, service: String::new(), method: String::new(), path: String::new() })
            }
            (_, Some(service), Some(path), Some(method)) => {
                if !matches!(method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "TRACE" | "CONNECT") {
                    return Err(Error::invalid(format!("Invalid input for field 'method': {method} is not one")));
                }
                out.push(AccessRule { id: cx.env.hex_id(), user_id, service, method, path });
            }
            _ => return Err(Error::invalid("An access rule has a service, a path and a method, or an id.")),
        }
    }
    Ok(Some(out))
}

/// Finds or makes the rules; returns their ids.
fn store_rules(tx: &mut Tx<'_>, rules: &[AccessRule]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for r in rules {
        if r.service.is_empty() {
            let known = tx.get::<AccessRule>(&r.id)?.filter(|k| k.user_id == r.user_id);
            known.ok_or_else(|| not_found("access rule", &r.id))?;
            ids.push(r.id.clone());
            continue;
        }
        let q = Query::new()
            .eq("user_id", r.user_id.as_str())
            .eq("service", r.service.as_str())
            .eq("method", r.method.as_str())
            .eq("path", r.path.as_str());
        match tx.first::<AccessRule>(&q)? {
            Some(known) => ids.push(known.id.clone()),
            None => {
                tx.insert(r)?;
                ids.push(r.id.clone());
            }
        }
    }
    Ok(ids)
}

/// A time in the future. Errors: `Invalid` for one that is not.
pub fn future(cx: &Cx, text: Option<String>) -> Result<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let t = Timestamp::parse(&text).filter(|_| text.len() > 10);
    let t = t.ok_or_else(|| {
        Error::invalid(format!("Invalid input for field 'expires_at': '{}' is not a time", text.chars().take(64).collect::<String>()))
    })?;
    if t <= cx.env.now() {
        return Err(Error::invalid("The expiration time must be in the future."));
    }
    Ok(Some(t))
}

/// Most application credentials of one user.
const MAX_PER_USER: i64 = 1_000;

async fn create(mut cx: Cx) -> Result<Reply> {
    let f = Fields::read(&mut cx, "application_credential").await;
    guard(&cx, &Value::Null)?;
    not_delegated(&cx).await?;
    let mut f = f?;
    let project_id = cx.auth().project_id()?.to_string();
    let secret = match f.text("secret")?.flatten() {
        Some(s) if s.is_empty() || s.len() > 255 => {
            return Err(Error::invalid("Invalid input for field 'secret': 1 to 255 characters are expected"));
        }
        Some(s) => Secret::new(s),
        None => Secret::new(b64(&cx.env.bytes(64))),
    };
    let rules = f.array("access_rules")?;
    let mut a = ApplicationCredential {
        id: cx.env.hex_id(),
        user_id: cx.param("user_id").to_string(),
        project_id,
        name: f.require_name("name", 255)?,
        description: f.text("description")?.flatten(),
        secret_hash: String::new(),
        role_ids: wanted_roles(&cx, f.array("roles")?)?,
        expires_at: future(&cx, f.text("expires_at")?.flatten())?,
        unrestricted: f.boolean("unrestricted")?.unwrap_or(false),
        system: None,
        access_rules: None,
    };
    let rules = wanted_rules(&cx, rules)?;
    f.take("user_id");
    f.take("project_id");
    f.finish()?;
    a.secret_hash = cx.state.hasher.hash(&secret).await?;
    let name = a.name.clone();
    let done = cx.state.write(move |tx| {
        let mut a = a.clone();
        if tx.count::<ApplicationCredential>(&Query::new().eq("user_id", a.user_id.as_str()))? >= MAX_PER_USER {
            return Err(forbidden("The user has too many application credentials."));
        }
        if let Some(rules) = &rules {
            a.access_rules = Some(store_rules(tx, rules)?);
        }
        tx.insert(&a)?;
        let n = names(tx, &a.user_id)?;
        Ok((a, n))
    });
    let details = format!("Duplicate entry found with name {name}.");
    let (a, n) = done.await.map_err(|e| duplicate(e, "application_credential", &details))?;
    let mut v = view(&cx, &a, &n);
    v["secret"] = json!(secret.expose());
    Reply::json(201, &json!({"application_credential": v}))
}

// Access rules

/// The path's user is the target; it need not exist.
fn ask(cx: &Cx) -> Result<()> {
    guard(cx, &json!({"user": {"id": cx.param("user_id")}}))
}

async fn rule_list(cx: Cx) -> Result<Reply> {
    ask(&cx)?;
    let rows = cx.state.db.list::<AccessRule>(Query::new().eq("user_id", cx.param("user_id"))).await?;
    let with_link = |r: &Stored<AccessRule>| {
        let mut v = rule_view(r);
        v["links"] = json!({"self": url(&cx, &format!("users/{}/access_rules/{}", r.user_id, r.id))});
        v
    };
    reply(&cx, "access_rules", rows.iter().map(with_link).collect(), &["service", "path", "method"])
}

async fn find_rule(cx: &Cx) -> Result<Stored<AccessRule>> {
    ask(cx)?;
    let id = cx.param("id");
    let rule = cx.state.db.get::<AccessRule>(id).await?.filter(|r| r.user_id == cx.param("user_id"));
    rule.ok_or_else(|| not_found("access rule", id))
}

async fn rule_show(cx: Cx) -> Result<Reply> {
    let r = find_rule(&cx).await?;
    let mut v = rule_view(&r);
    v["links"] = json!({"self": url(&cx, &format!("users/{}/access_rules/{}", r.user_id, r.id))});
    Reply::ok(&json!({"access_rule": v}))
}

async fn rule_delete(cx: Cx) -> Result<Reply> {
    let r = find_rule(&cx).await?;
    not_delegated(&cx).await?;
    cx.state
        .write(move |tx| {
            let users = tx.list::<ApplicationCredential>(&Query::new().eq("user_id", r.user_id.as_str()))?;
            if users.iter().any(|a| a.access_rules.iter().flatten().any(|id| *id == r.id)) {
                return Err(forbidden("May not delete access rule in use."));
            }
            tx.delete_id::<AccessRule>(&r.id)
        })
        .await?;
    Ok(Reply::no_content())
}
