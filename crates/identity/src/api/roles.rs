//! Roles and which role implies which.

use super::domains::immutable;
use super::fields::{Cx, Fields, merge_extra, merge_options};
use super::lists::{reply, url};
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, ROLE_LIST, ROLE_SHOW, ruled};
use super::{domains, duplicate, forbidden, found, guard, not_found, users};
use crate::logic::{lifecycle, roles};
use crate::state::Identity;
use crate::store::{self, Extra, Role};
use caelum_base::Result;
use caelum_policy::{RuleDefault, Target};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Dir, Query, Stored, params};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("role_list", "/roles", ruled("identity:list_roles", ROLE_LIST), h!(role_list)),
    Op::post("role_create", "/roles", ruled("identity:create_role", ADMIN), h!(role_create)),
    Op::get("role_show", "/roles/{role_id}", ruled("identity:get_role", ROLE_SHOW), h!(role_show)),
    Op::patch("role_update", "/roles/{role_id}", ruled("identity:update_role", ADMIN), h!(role_update)),
    Op::delete("role_delete", "/roles/{role_id}", ruled("identity:delete_role", ADMIN), h!(role_delete)),
    Op::get(
        "implied_role_list",
        "/roles/{role_id}/implies",
        ruled("identity:list_implied_roles", ADMIN_OR_SYSTEM_READER),
        h!(implied_list),
    ),
    Op::head(
        "implied_role_check",
        "/roles/{role_id}/implies/{implied_id}",
        ruled("identity:check_implied_role", ADMIN_OR_SYSTEM_READER),
        h!(implied_check),
    ),
    Op::get(
        "implied_role_show",
        "/roles/{role_id}/implies/{implied_id}",
        ruled("identity:get_implied_role", ADMIN_OR_SYSTEM_READER),
        h!(implied_show),
    ),
    Op::put(
        "implied_role_create",
        "/roles/{role_id}/implies/{implied_id}",
        ruled("identity:create_implied_role", ADMIN),
        h!(implied_create),
    ),
    Op::delete(
        "implied_role_delete",
        "/roles/{role_id}/implies/{implied_id}",
        ruled("identity:delete_implied_role", ADMIN),
        h!(implied_delete),
    ),
    Op::get(
        "role_inference_list",
        "/role_inferences",
        ruled("identity:list_role_inference_rules", ADMIN_OR_SYSTEM_READER),
        h!(inference_list),
    ),
];

/// Rules for roles that belong to a domain; asked instead of the plain ones.
pub const RULES: &[RuleDefault] = &[
    RuleDefault::helper("identity:get_domain_role", ADMIN_OR_SYSTEM_READER),
    RuleDefault::helper("identity:list_domain_roles", ADMIN_OR_SYSTEM_READER),
    RuleDefault::helper("identity:create_domain_role", ADMIN),
    RuleDefault::helper("identity:update_domain_role", ADMIN),
    RuleDefault::helper("identity:delete_domain_role", ADMIN),
];

pub fn view(cx: &Cx, r: &Role) -> Value {
    let mut v = r.extra.clone();
    v.insert("id".into(), json!(r.id));
    v.insert("name".into(), json!(r.name));
    v.insert("domain_id".into(), if r.domain_id.is_empty() { Value::Null } else { json!(r.domain_id) });
    v.insert("description".into(), json!(r.description));
    v.insert("options".into(), json!(r.options));
    v.insert("links".into(), json!({"self": url(cx, &format!("roles/{}", r.id))}));
    Value::Object(v)
}

pub fn target(r: &Role) -> Value {
    let domain = if r.domain_id.is_empty() { Value::Null } else { json!(r.domain_id) };
    json!({"role": {"id": r.id, "name": r.name, "domain_id": domain}})
}

/// The rule for roles of domains.
fn domain_rule(cx: &Cx, rule: &str) -> Result<()> {
    cx.filtered();
    cx.require(rule, &Target::new())
}

/// `rule` is the name for a domain's role; a role of the cloud is asked by the operation's own rule.
async fn find(cx: &Cx, rule: &str) -> Result<Stored<Role>> {
    let id = cx.param("role_id");
    let role = cx.state.db.get::<Role>(id).await?;
    match role {
        Some(r) if !r.domain_id.is_empty() => {
            domain_rule(cx, rule)?;
            Ok(r)
        }
        other => found(cx, "role", id, other, |r| target(r)),
    }
}

async fn role_list(cx: Cx) -> Result<Reply> {
    let domain = cx.query.get("domain_id").unwrap_or_default().to_string();
    if domain.is_empty() {
        guard(&cx, &Value::Null)?;
    } else {
        domain_rule(&cx, "identity:list_domain_roles")?;
    }
    let mut q = Query::new().eq("domain_id", domain.as_str()).sort("name", Dir::Asc);
    if let Some(n) = cx.query.get("name") {
        q = q.eq("name", n);
    }
    let rows = cx.state.db.list::<Role>(q).await?;
    reply(&cx, "roles", rows.iter().map(|r| view(&cx, r)).collect(), &["name"])
}

async fn role_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "role").await?;
    let domain_id = f.id("domain_id")?.flatten();
    match &domain_id {
        None => guard(&cx, &Value::Null)?,
        Some(_) => domain_rule(&cx, "identity:create_domain_role")?,
    }
    let mut r = Role {
        id: cx.env.hex_id(),
        domain_id: domain_id.unwrap_or_default(),
        name: f.require_name("name", 255)?,
        description: f.text("description")?.flatten(),
        options: Extra::new(),
        extra: Extra::new(),
    };
    merge_options(&mut r.options, f.object("options")?.unwrap_or_default(), domains::OPTIONS)?;
    r.extra = f.extra()?;
    if !r.domain_id.is_empty() {
        users::check_domain(&cx, &r.domain_id).await?;
    }
    let details = format!("Duplicate entry found with name {}.", r.name);
    let made = cx.state.write(move |tx| tx.insert(&r)).await.map_err(|e| duplicate(e, "role", &details))?;
    Reply::json(201, &json!({"role": view(&cx, &made)}))
}

async fn role_show(cx: Cx) -> Result<Reply> {
    let r = find(&cx, "identity:get_domain_role").await?;
    Reply::ok(&json!({"role": view(&cx, &r)}))
}

async fn role_update(mut cx: Cx) -> Result<Reply> {
    let r = find(&cx, "identity:update_domain_role").await?;
    let mut f = Fields::read(&mut cx, "role").await?;
    if let Some(d) = f.id("domain_id")?
        && d.as_deref().unwrap_or("") != r.domain_id
    {
        return Err(caelum_base::Error::invalid("Update of `domain_id` is not allowed."));
    }
    let (name, description, options) = (f.name("name", 255)?, f.text("description")?, f.object("options")?);
    let (extra, id) = (f.extra()?, r.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut r = tx.get::<Role>(&id)?.ok_or_else(|| not_found("role", &id))?;
            if immutable(&r.options, options.as_ref()) {
                return Err(forbidden(&format!("Cannot update resource {id}: it is immutable.")));
            }
            if let Some(n) = &name {
                r.name.clone_from(n);
            }
            if let Some(d) = &description {
                r.description.clone_from(d);
            }
            if let Some(o) = &options {
                merge_options(&mut r.value.options, o.clone(), domains::OPTIONS)?;
            }
            merge_extra(&mut r.value.extra, extra.clone());
            tx.update(&mut r)?;
            Ok(r.value)
        })
        .await
        .map_err(|e| duplicate(e, "role", "Duplicate entry."))?;
    Reply::ok(&json!({"role": view(&cx, &done)}))
}

async fn role_delete(cx: Cx) -> Result<Reply> {
    let r = find(&cx, "identity:delete_domain_role").await?;
    if immutable(&r.options, None) {
        return Err(forbidden(&format!("Cannot delete resource {}: it is immutable.", r.id)));
    }
    let (id, env) = (r.id.clone(), cx.env.clone());
    cx.state.write(move |tx| lifecycle::delete_role(tx, &env, &id)).await?;
    Ok(Reply::no_content())
}

// Implications

fn brief(cx: &Cx, r: &Role) -> Value {
    json!({"id": r.id, "name": r.name, "description": r.description, "links": {"self": url(cx, &format!("roles/{}", r.id))}})
}

/// Prior and implied role of the path.
async fn pair(cx: &Cx) -> Result<(Role, Role)> {
    guard(cx, &Value::Null)?;
    let get = async |name: &str| -> Result<Role> {
        let id = cx.param(name);
        cx.state.db.get::<Role>(id).await?.map(|r| r.value).ok_or_else(|| not_found("role", id))
    };
    Ok((get("role_id").await?, get("implied_id").await?))
}

fn inference(cx: &Cx, prior: &Role, implied: &Role) -> Value {
    let own = url(cx, &format!("roles/{}/implies/{}", prior.id, implied.id));
    json!({"role_inference": {"prior_role": brief(cx, prior), "implies": brief(cx, implied)}, "links": {"self": own}})
}

async fn exists(cx: &Cx, prior: &Role, implied: &Role) -> Result<()> {
    let wanted = (prior.id.clone(), implied.id.clone());
    let there = cx.state.read(move |tx| Ok(store::implications(tx)?.contains(&wanted))).await?;
    if there {
        return Ok(());
    }
    Err(caelum_base::Error::not_found(format!("Could not find implied role {} of {}.", implied.id, prior.id)))
}

async fn implied_check(cx: Cx) -> Result<Reply> {
    let (prior, implied) = pair(&cx).await?;
    exists(&cx, &prior, &implied).await?;
    Ok(Reply::no_content())
}

async fn implied_show(cx: Cx) -> Result<Reply> {
    let (prior, implied) = pair(&cx).await?;
    exists(&cx, &prior, &implied).await?;
    Reply::ok(&inference(&cx, &prior, &implied))
}

async fn implied_create(cx: Cx) -> Result<Reply> {
    let (prior, implied) = pair(&cx).await?;
    if prior.domain_id.is_empty() && !implied.domain_id.is_empty() {
        return Err(forbidden("A role of the whole cloud cannot imply a role of one domain."));
    }
    if implied.name == "admin" && implied.domain_id.is_empty() {
        return Err(forbidden(&format!("{} cannot be an implied role.", implied.id)));
    }
    let ids = (prior.id.clone(), implied.id.clone());
    cx.state
        .write(move |tx| {
            let (p, i) = &ids;
            let rules = store::implications(tx)?;
            if roles::closure(vec![i.clone()], &rules).contains(p) {
                return Err(forbidden("Role implications must not form a circle."));
            }
            tx.exec("INSERT INTO implied_roles (prior_id, implied_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", params![p, i])
        })
        .await?;
    Reply::json(201, &inference(&cx, &prior, &implied))
}

async fn implied_delete(cx: Cx) -> Result<Reply> {
    let (prior, implied) = pair(&cx).await?;
    exists(&cx, &prior, &implied).await?;
    cx.state
        .write(move |tx| tx.exec("DELETE FROM implied_roles WHERE prior_id = $1 AND implied_id = $2", params![&prior.id, &implied.id]))
        .await?;
    Ok(Reply::no_content())
}

/// All roles by id and all implications.
async fn all(cx: &Cx) -> Result<(std::collections::BTreeMap<String, Role>, Vec<(String, String)>)> {
    cx.state
        .read(|tx| {
            let roles = tx.list::<Role>(&Query::new())?;
            Ok((roles.into_iter().map(|r| (r.id.clone(), r.value)).collect(), store::implications(tx)?))
        })
        .await
}

fn implies(cx: &Cx, roles: &std::collections::BTreeMap<String, Role>, rules: &[(String, String)], prior: &str) -> Vec<Value> {
    rules.iter().filter(|(p, _)| p == prior).filter_map(|(_, i)| roles.get(i)).map(|r| brief(cx, r)).collect()
}

async fn implied_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let id = cx.param("role_id");
    let (roles, rules) = all(&cx).await?;
    let prior = roles.get(id).ok_or_else(|| not_found("role", id))?;
    let own = url(&cx, &format!("roles/{id}/implies"));
    Reply::ok(
        &json!({"role_inference": {"prior_role": brief(&cx, prior), "implies": implies(&cx, &roles, &rules, id)}, "links": {"self": own}}),
    )
}

async fn inference_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let (roles, rules) = all(&cx).await?;
    let mut out = Vec::new();
    for (id, prior) in &roles {
        let list = implies(&cx, &roles, &rules, id);
        if !list.is_empty() {
            out.push(json!({"prior_role": brief(&cx, prior), "implies": list}));
        }
    }
    Reply::ok(&json!({"role_inferences": out, "links": {"self": url(&cx, "role_inferences")}}))
}
