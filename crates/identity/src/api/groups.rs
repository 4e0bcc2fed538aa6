//! Groups of users.

use super::fields::{Cx, Fields, merge_extra};
use super::lists::{load, reply, url};
use super::projects::own_domain;
use super::rules::{DOMAIN_LIST, GROUP_SHOW, GROUP_WRITE, MEMBER_SHOW, MEMBER_WRITE, ruled};
use super::users::{self, check_domain};
use super::{duplicate, found, guard, not_found};
use crate::logic::lifecycle;
use crate::state::Identity;
use crate::store::{self, Extra, Group, User};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Query, Stored, params};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("group_list", "/groups", ruled("identity:list_groups", DOMAIN_LIST), h!(group_list)),
    Op::post("group_create", "/groups", ruled("identity:create_group", GROUP_WRITE), h!(group_create)),
    Op::get("group_show", "/groups/{group_id}", ruled("identity:get_group", GROUP_SHOW), h!(group_show)),
    Op::patch("group_update", "/groups/{group_id}", ruled("identity:update_group", GROUP_WRITE), h!(group_update)),
    Op::delete("group_delete", "/groups/{group_id}", ruled("identity:delete_group", GROUP_WRITE), h!(group_delete)),
    Op::get("group_user_list", "/groups/{group_id}/users", ruled("identity:list_users_in_group", GROUP_SHOW), h!(member_list)),
    Op::get("group_user_check", "/groups/{group_id}/users/{user_id}", ruled("identity:check_user_in_group", MEMBER_SHOW), h!(member_check)),
    Op::put("group_user_add", "/groups/{group_id}/users/{user_id}", ruled("identity:add_user_to_group", MEMBER_WRITE), h!(member_add)),
    Op::delete(
        "group_user_remove",
        "/groups/{group_id}/users/{user_id}",
        ruled("identity:remove_user_from_group", MEMBER_WRITE),
        h!(member_remove),
    ),
];

pub fn view(cx: &Cx, g: &Group) -> Value {
    let mut v = g.extra.clone();
    v.insert("id".into(), json!(g.id));
    v.insert("name".into(), json!(g.name));
    v.insert("domain_id".into(), json!(g.domain_id));
    v.insert("description".into(), json!(g.description));
    v.insert("links".into(), json!({"self": url(cx, &format!("groups/{}", g.id))}));
    Value::Object(v)
}

fn target(g: &Group) -> Value {
    json!({"group": {"id": g.id, "domain_id": g.domain_id}})
}

async fn find(cx: &Cx) -> Result<Stored<Group>> {
    let id = cx.param("group_id");
    let group = cx.state.db.get::<Group>(id).await?;
    found(cx, "group", id, group, |g| target(g))
}

async fn group_list(cx: Cx) -> Result<Reply> {
    let own = cx.auth().creds.domain_id.clone();
    guard(&cx, &json!({"domain_id": own, "group": {"domain_id": own}}))?;
    let mut rows: Vec<Group> = load(&cx, &[("name", "name"), ("domain_id", "domain_id")], Vec::new()).await?;
    if let Some(own) = own {
        rows.retain(|g| g.domain_id == own);
    }
    reply(&cx, "groups", rows.iter().map(|g| view(&cx, g)).collect(), &["domain_id", "name"])
}

async fn group_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "group").await?;
    let domain_id = match f.id("domain_id")?.flatten() {
        Some(d) => d,
        None => own_domain(&cx)?,
    };
    let mut g = Group {
        id: cx.env.hex_id(),
        domain_id,
        name: f.require_name("name", 64)?,
        description: f.text("description")?.flatten().unwrap_or_default(),
        extra: Extra::new(),
    };
    g.extra = f.extra()?;
    guard(&cx, &target(&g))?;
    check_domain(&cx, &g.domain_id).await?;
    let details = format!("Duplicate entry found with name {} at domain ID {}.", g.name, g.domain_id);
    let made = cx.state.write(move |tx| tx.insert(&g)).await.map_err(|e| duplicate(e, "group", &details))?;
    Reply::json(201, &json!({"group": view(&cx, &made)}))
}

async fn group_show(cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    Reply::ok(&json!({"group": view(&cx, &g)}))
}

async fn group_update(mut cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "group").await?;
    if f.id("domain_id")?.flatten().is_some_and(|d| d != g.domain_id) {
        return Err(Error::invalid("Cannot change Domain ID."));
    }
    let (name, description) = (f.name("name", 64)?, f.text("description")?);
    let (extra, id) = (f.extra()?, g.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut g = tx.get::<Group>(&id)?.ok_or_else(|| not_found("group", &id))?;
            if let Some(n) = &name {
                g.name.clone_from(n);
            }
            if let Some(d) = &description {
                g.description = d.clone().unwrap_or_default();
            }
            merge_extra(&mut g.value.extra, extra.clone());
            tx.update(&mut g)?;
            Ok(g.value)
        })
        .await
        .map_err(|e| duplicate(e, "group", "Duplicate entry."))?;
    Reply::ok(&json!({"group": view(&cx, &done)}))
}

async fn group_delete(cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    let (id, env) = (g.id.clone(), cx.env.clone());
    cx.state.write(move |tx| lifecycle::delete_group(tx, &env, &id)).await?;
    Ok(Reply::no_content())
}

async fn member_list(cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    let id = g.id.clone();
    let rows = cx
        .state
        .read(move |tx| {
            let ids = store::members_of(tx, &id)?;
            tx.list::<User>(&Query::new().is_in("id", ids))
        })
        .await?;
    let views = rows.iter().map(|u| users::view(&cx, u)).collect();
    reply(&cx, "users", views, &["domain_id", "enabled", "name", "email"])
}

/// Group and user of the path, both authorized.
async fn pair(cx: &Cx) -> Result<(String, String)> {
    let (group_id, user_id) = (cx.param("group_id"), cx.param("user_id"));
    let group = cx.state.db.get::<Group>(group_id).await?;
    let user = cx.state.db.get::<User>(user_id).await?;
    let mut about = json!({});
    if let Some(g) = &group {
        about["group"] = target(g)["group"].clone();
    }
    if let Some(u) = &user {
        about["user"] = users::target(u)["user"].clone();
    }
    guard(cx, &about)?;
    let group = group.ok_or_else(|| not_found("group", group_id))?;
    let user = user.ok_or_else(|| not_found("user", user_id))?;
    Ok((group.id.clone(), user.id.clone()))
}

fn no_member(group: &str, user: &str) -> Error {
    Error::not_found(format!("User {user} not found in group {group}."))
}

async fn member_check(cx: Cx) -> Result<Reply> {
    let (group, user) = pair(&cx).await?;
    let (g, u) = (group.clone(), user.clone());
    let there = cx.state.read(move |tx| Ok(store::groups_of(tx, &u)?.contains(&g))).await?;
    if there { Ok(Reply::no_content()) } else { Err(no_member(&group, &user)) }
}

async fn member_add(cx: Cx) -> Result<Reply> {
    let (group, user) = pair(&cx).await?;
    cx.state
        .write(move |tx| {
            tx.exec("INSERT INTO memberships (user_id, group_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", params![&user, &group])
        })
        .await?;
    Ok(Reply::no_content())
}

async fn member_remove(cx: Cx) -> Result<Reply> {
    let (group, user) = pair(&cx).await?;
    let env = cx.env.clone();
    cx.state
        .write(move |tx| {
            let n = tx.exec("DELETE FROM memberships WHERE user_id = $1 AND group_id = $2", params![&user, &group])?;
            if n == 0 {
                return Err(no_member(&group, &user));
            }
            lifecycle::revoke_user(tx, &env, &user)
        })
        .await?;
    Ok(Reply::no_content())
}
