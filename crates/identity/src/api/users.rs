//! Users and their passwords.

use super::domains::immutable;
use super::fields::{Cx, Fields, merge_extra, merge_options};
use super::lists::{load, page, reply, url};
use super::projects::own_domain;
use super::rules::{DOMAIN_LIST, USER_GROUPS, USER_PROJECTS, USER_SHOW, USER_WRITE, ruled};
use super::{duplicate, forbidden, found, groups, guard, not_found, projects};
use crate::logic::authenticate::{is_locked, note_attempt};
use crate::logic::passwords::{self, MAX_PASSWORD};
use crate::logic::{lifecycle, roles};
use crate::state::Identity;
use crate::store::{self, Extra, Group, Project, User};
use caelum_base::{Error, Result, Secret};
use caelum_rest::{Access, Op, Reply, h};
use caelum_store::{Query, Stored, params};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("user_list", "/users", ruled("identity:list_users", DOMAIN_LIST), h!(user_list)),
    Op::post("user_create", "/users", ruled("identity:create_user", USER_WRITE), h!(user_create)),
    Op::get("user_show", "/users/{user_id}", ruled("identity:get_user", USER_SHOW), h!(user_show)),
    Op::patch("user_update", "/users/{user_id}", ruled("identity:update_user", USER_WRITE), h!(user_update)),
    Op::delete("user_delete", "/users/{user_id}", ruled("identity:delete_user", USER_WRITE), h!(user_delete)),
    // The old password is the proof of identity; a token is not needed.
    Op::post("user_password_change", "/users/{user_id}/password", Access::Public, h!(password_change)),
    Op::get("user_group_list", "/users/{user_id}/groups", ruled("identity:list_groups_for_user", USER_GROUPS), h!(user_group_list)),
    Op::get("user_project_list", "/users/{user_id}/projects", ruled("identity:list_user_projects", USER_PROJECTS), h!(user_project_list)),
];

const OPTIONS: &[&str] = &[
    "ignore_change_password_upon_first_use",
    "ignore_password_expiry",
    "ignore_lockout_failure_attempts",
    "lock_password",
    "ignore_user_inactivity",
    "multi_factor_auth_enabled",
    "multi_factor_auth_rules",
    "immutable",
];

pub fn view(cx: &Cx, u: &User) -> Value {
    let mut v = u.extra.clone();
    v.insert("id".into(), json!(u.id));
    v.insert("name".into(), json!(u.name));
    v.insert("domain_id".into(), json!(u.domain_id));
    v.insert("enabled".into(), json!(u.enabled));
    if let Some(p) = &u.default_project_id {
        v.insert("default_project_id".into(), json!(p));
    }
    v.insert("options".into(), json!(u.options));
    v.insert("password_expires_at".into(), Value::Null);
    v.insert("links".into(), json!({"self": url(cx, &format!("users/{}", u.id))}));
    Value::Object(v)
}

pub fn target(u: &User) -> Value {
    json!({"user": {"id": u.id, "domain_id": u.domain_id}})
}

async fn find(cx: &Cx) -> Result<Stored<User>> {
    let id = cx.param("user_id");
    let user = cx.state.db.get::<User>(id).await?;
    found(cx, "user", id, user, |u| target(u))
}

async fn user_list(cx: Cx) -> Result<Reply> {
    let own = cx.auth().creds.domain_id.clone();
    guard(&cx, &json!({"domain_id": own}))?;
    let columns = [("name", "name"), ("domain_id", "domain_id"), ("enabled", "enabled")];
    let mut rows: Vec<User> = load(&cx, &columns, Vec::new()).await?;
    if let Some(own) = own {
        rows.retain(|u| u.domain_id == own);
    }
    let views = rows.iter().map(|u| view(&cx, u)).collect();
    reply(&cx, "users", views, &["domain_id", "enabled", "name", "email", "default_project_id"])
}

fn password(f: &mut Fields, key: &str) -> Result<Option<Option<Secret<String>>>> {
    match f.take(key) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(s)) if !s.is_empty() && s.len() <= MAX_PASSWORD => Ok(Some(Some(Secret::new(s)))),
        // The value itself must not be repeated.
        Some(_) => Err(Error::invalid(format!("Invalid input for field '{key}': a password is a string of 1 to {MAX_PASSWORD} bytes"))),
    }
}

async fn user_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "user").await?;
    let domain_id = match f.id("domain_id")?.flatten() {
        Some(d) => d,
        None => own_domain(&cx)?,
    };
    let name = f.require_name("name", 255)?;
    let mut u = User {
        id: cx.env.hex_id(),
        domain_id,
        name,
        enabled: f.boolean("enabled")?.unwrap_or(true),
        default_project_id: f.id("default_project_id")?.flatten(),
        passwords: Vec::new(),
        options: Extra::new(),
        extra: Extra::new(),
    };
    guard(&cx, &target(&u))?;
    merge_options(&mut u.options, f.object("options")?.unwrap_or_default(), OPTIONS)?;
    let password = password(&mut f, "password")?.flatten();
    u.extra = f.extra()?;
    check_domain(&cx, &u.domain_id).await?;
    if let Some(p) = password {
        let hash = cx.state.hasher.hash(&p).await?;
        passwords::set(&mut u, hash, &cx.env);
    }
    let details = format!("Duplicate entry found with name {} at domain ID {}.", u.name, u.domain_id);
    let made = cx.state.write(move |tx| tx.insert(&u)).await.map_err(|e| duplicate(e, "user", &details))?;
    Reply::json(201, &json!({"user": view(&cx, &made)}))
}

/// Users and groups are made in domains that exist.
pub async fn check_domain(cx: &Cx, id: &str) -> Result<()> {
    let there = cx.state.db.get::<Project>(id).await?.filter(|d| d.is_domain);
    there.map(drop).ok_or_else(|| not_found("domain", id))
}

async fn user_show(cx: Cx) -> Result<Reply> {
    let u = find(&cx).await?;
    Reply::ok(&json!({"user": view(&cx, &u)}))
}

async fn user_update(mut cx: Cx) -> Result<Reply> {
    let u = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "user").await?;
    if f.id("domain_id")?.flatten().is_some_and(|d| d != u.domain_id) {
        return Err(Error::invalid("Cannot change Domain ID."));
    }
    let (name, enabled) = (f.name("name", 255)?, f.boolean("enabled")?);
    let (default_project, options) = (f.id("default_project_id")?, f.object("options")?);
    let password = password(&mut f, "password")?;
    let extra = f.extra()?;
    let hash = match &password {
        Some(Some(p)) => Some(cx.state.hasher.hash(p).await?),
        Some(None) | None => None,
    };
    let (id, env, cleared) = (u.id.clone(), cx.env.clone(), password == Some(None));
    let details = format!("Duplicate entry found with name {} at domain ID {}.", name.as_deref().unwrap_or_default(), u.domain_id);
    let done = cx
        .state
        .write(move |tx| {
            let mut u = tx.get::<User>(&id)?.ok_or_else(|| not_found("user", &id))?;
            if immutable(&u.options, options.as_ref()) {
                return Err(forbidden(&format!("Cannot update resource {id}: it is immutable.")));
            }
            if let Some(n) = &name {
                u.name.clone_from(n);
            }
            if let Some(p) = &default_project {
                u.default_project_id.clone_from(p);
            }
            if let Some(o) = &options {
                merge_options(&mut u.value.options, o.clone(), OPTIONS)?;
            }
            merge_extra(&mut u.value.extra, extra.clone());
            let disabled = enabled == Some(false) && u.enabled;
            u.enabled = enabled.unwrap_or(u.enabled);
            if cleared {
                u.passwords.clear();
            }
            if let Some(h) = &hash {
                passwords::set(&mut u.value, h.clone(), &env);
            }
            if hash.is_some() || cleared || enabled == Some(true) {
                tx.exec("DELETE FROM lockouts WHERE user_id = $1", params![&id])?;
            }
            if disabled || hash.is_some() || cleared {
                lifecycle::revoke_user(tx, &env, &id)?;
            }
            tx.update(&mut u)?;
            Ok(u.value)
        })
        .await
        .map_err(|e| duplicate(e, "user", &details))?;
    Reply::ok(&json!({"user": view(&cx, &done)}))
}

async fn user_delete(cx: Cx) -> Result<Reply> {
    let u = find(&cx).await?;
    if immutable(&u.options, None) {
        return Err(forbidden(&format!("Cannot delete resource {}: it is immutable.", u.id)));
    }
    let (id, env) = (u.id.clone(), cx.env.clone());
    cx.state.write(move |tx| lifecycle::delete_user(tx, &env, &id)).await?;
    Ok(Reply::no_content())
}

async fn password_change(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "user").await?;
    let missing = |k: &str| Error::invalid(format!("'{k}' is a required property"));
    let old = password(&mut f, "original_password")?.flatten().ok_or_else(|| missing("original_password"))?;
    let new = password(&mut f, "password")?.flatten().ok_or_else(|| missing("password"))?;
    let denied = || crate::token::resolve::invalid("password change refused");
    let user = cx.state.db.get::<User>(cx.param("user_id")).await?;
    let locked = match &user {
        Some(u) => is_locked(&cx.state, u).await?,
        None => false,
    };
    let hash = user.as_ref().filter(|u| !locked && u.enabled).and_then(|u| u.passwords.last()).map(|p| p.hash.clone());
    let right = cx.state.hasher.verify(&old, hash).await?;
    let Some(user) = user else { return Err(denied()) };
    if !locked {
        note_attempt(&cx.state, &user, right).await?;
    }
    if !right {
        return Err(denied());
    }
    let locked_password = user.options.get("lock_password").and_then(Value::as_bool) == Some(true);
    if locked_password {
        return Err(Error::invalid("Password change is locked for this user.").code("PasswordLocked"));
    }
    let n = cx.state.compliance.unique_last_password_count;
    if n > 0 && cx.state.hasher.used_lately(&user, &new, n).await? {
        return Err(Error::invalid(format!(
            "The new password cannot be identical to a previous password. The total number which includes the new password must be unique is {n}."
        )));
    }
    let hash = cx.state.hasher.hash(&new).await?;
    let (id, env) = (user.id.clone(), cx.env.clone());
    cx.state
        .write(move |tx| {
            let mut u = tx.get::<User>(&id)?.ok_or_else(|| not_found("user", &id))?;
            passwords::set(&mut u.value, hash.clone(), &env);
            lifecycle::revoke_user(tx, &env, &id)?;
            tx.update(&mut u)
        })
        .await?;
    Ok(Reply::no_content())
}

async fn user_group_list(cx: Cx) -> Result<Reply> {
    let u = find(&cx).await?;
    let id = u.id.clone();
    let rows = cx
        .state
        .read(move |tx| {
            let ids = store::groups_of(tx, &id)?;
            tx.list::<Group>(&Query::new().is_in("id", ids))
        })
        .await?;
    let views = rows.iter().map(|g| {
        let mut v = groups::view(&cx, g);
        v["membership_expires_at"] = Value::Null;
        v
    });
    reply(&cx, "groups", views.collect(), &["name"])
}

async fn user_project_list(cx: Cx) -> Result<Reply> {
    let u = find(&cx).await?;
    let id = u.id.clone();
    let rows = cx
        .state
        .read(move |tx| {
            let (ids, _, _) = roles::reachable(tx, &id)?;
            tx.list::<Project>(&Query::new().is_in("id", ids).eq("is_domain", false))
        })
        .await?;
    let keep = |p: &&Stored<Project>| {
        let enabled = cx.query.bool("enabled").is_none_or(|e| e == p.enabled);
        enabled && cx.query.get("name").is_none_or(|n| n == p.name)
    };
    page(&cx, "projects", rows.iter().filter(keep).map(|p| projects::view(&cx, p)).collect())
}
