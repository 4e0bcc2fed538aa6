//! Options of single domains, as the groups `identity` and `ldap` have them. They are kept for
//! clients that manage them; users of every domain live in this service's own database.

use super::fields::Cx;
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, ruled};
use super::{guard, not_found, users};
use crate::state::Identity;
use crate::store::{DomainConfig, Extra};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use serde_json::{Map, Value, json};

const READ: &str = ADMIN_OR_SYSTEM_READER;

pub const OPS: &[Op<Identity>] = &[
    Op::get("domain_config_default", "/domains/config/default", ruled("identity:get_domain_config_default", READ), h!(default_show)),
    Op::get(
        "domain_config_default_group",
        "/domains/config/{group}/default",
        ruled("identity:get_domain_config_default", READ),
        h!(default_show),
    ),
    Op::get(
        "domain_config_default_option",
        "/domains/config/{group}/{option}/default",
        ruled("identity:get_domain_config_default", READ),
        h!(default_show),
    ),
    Op::put("domain_config_create", "/domains/{domain_id}/config", ruled("identity:create_domain_config", ADMIN), h!(create)),
    Op::get("domain_config_show", "/domains/{domain_id}/config", ruled("identity:get_domain_config", READ), h!(show)),
    Op::patch("domain_config_update", "/domains/{domain_id}/config", ruled("identity:update_domain_config", ADMIN), h!(update)),
    Op::delete("domain_config_delete", "/domains/{domain_id}/config", ruled("identity:delete_domain_config", ADMIN), h!(delete)),
    Op::get("domain_config_group_show", "/domains/{domain_id}/config/{group}", ruled("identity:get_domain_config", READ), h!(show)),
    Op::patch(
        "domain_config_group_update",
        "/domains/{domain_id}/config/{group}",
        ruled("identity:update_domain_config", ADMIN),
        h!(update),
    ),
    Op::delete(
        "domain_config_group_delete",
        "/domains/{domain_id}/config/{group}",
        ruled("identity:delete_domain_config", ADMIN),
        h!(delete),
    ),
    Op::get(
        "domain_config_option_show",
        "/domains/{domain_id}/config/{group}/{option}",
        ruled("identity:get_domain_config", READ),
        h!(show),
    ),
    Op::patch(
        "domain_config_option_update",
        "/domains/{domain_id}/config/{group}/{option}",
        ruled("identity:update_domain_config", ADMIN),
        h!(update),
    ),
    Op::delete(
        "domain_config_option_delete",
        "/domains/{domain_id}/config/{group}/{option}",
        ruled("identity:delete_domain_config", ADMIN),
        h!(delete),
    ),
];

/// What a domain may set, with the defaults.
fn defaults() -> Extra {
    let Value::Object(map) = json!({
        "identity": {"driver": "sql", "list_limit": null},
        "ldap": {
            "url": "ldap://localhost", "user": null, "suffix": "cn=example,cn=com", "query_scope": "one", "page_size": 0, "chase_referrals": null,
            "user_tree_dn": null, "user_filter": null, "user_objectclass": "inetOrgPerson", "user_id_attribute": "cn", "user_name_attribute": "sn",
            "user_description_attribute": "description", "user_mail_attribute": "mail", "user_enabled_attribute": "enabled",
            "group_tree_dn": null, "group_filter": null, "group_objectclass": "groupOfNames", "group_id_attribute": "cn",
            "group_name_attribute": "ou", "group_member_attribute": "member", "group_desc_attribute": "description",
            "use_tls": false, "tls_req_cert": "demand", "tls_cacertfile": null, "tls_cacertdir": null,
        },
    }) else {
        return Map::new();
    };
    map
}

fn part<'a>(cx: &'a Cx, name: &str) -> Option<&'a str> {
    cx.op.path.contains(&format!("{{{name}}}")).then(|| cx.param(name))
}

/// The part of `groups` that the path asks for.
fn select(groups: &Extra, group: Option<&str>, option: Option<&str>) -> Result<Value> {
    let Some(group) = group else { return Ok(json!({"config": groups})) };
    let g = groups.get(group).and_then(Value::as_object).ok_or_else(|| missing(group))?;
    let Some(option) = option else { return Ok(json!({"config": {group: g}})) };
    let o = g.get(option).ok_or_else(|| missing(option))?;
    Ok(json!({"config": {option: o}}))
}

fn missing(what: &str) -> Error {
    not_found("option in the domain configuration", what)
}

async fn default_show(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let (group, option) = (part(&cx, "group"), part(&cx, "option"));
    check_known(group, option)?;
    Reply::ok(&select(&defaults(), group, option)?)
}

/// Errors: `Forbidden` for a group or option no domain may set.
fn check_known(group: Option<&str>, option: Option<&str>) -> Result<()> {
    let all = defaults();
    let Some(group) = group else { return Ok(()) };
    let known = all.get(group).and_then(Value::as_object);
    // A password can be written though it is never shown.
    let fits = known.is_some_and(|g| option.is_none_or(|o| g.contains_key(o) || (group == "ldap" && o == "password")));
    if fits { Ok(()) } else { Err(super::forbidden("Group or option is not supported for domain specific configurations.")) }
}

/// Without what must not be shown.
fn shown(groups: &Extra) -> Extra {
    let mut out = groups.clone();
    if let Some(Value::Object(ldap)) = out.get_mut("ldap") {
        ldap.remove("password");
    }
    out
}

async fn ask(cx: &Cx) -> Result<()> {
    guard(cx, &Value::Null)?;
    users::check_domain(cx, cx.param("domain_id")).await
}

async fn show(cx: Cx) -> Result<Reply> {
    ask(&cx).await?;
    let (group, option) = (part(&cx, "group"), part(&cx, "option"));
    check_known(group, option)?;
    let stored = cx.state.db.get::<DomainConfig>(cx.param("domain_id")).await?.filter(|c| !c.groups.is_empty());
    let stored = stored.ok_or_else(|| not_found("domain configuration for domain", cx.param("domain_id")))?;
    Reply::ok(&select(&shown(&stored.groups), group, option)?)
}

/// The `config` object of the body as groups of options.
async fn body(cx: &mut Cx) -> Result<Extra> {
    let mut f = super::fields::Fields::new(cx.json().await?);
    let config = f.object("config")?.filter(|c| !c.is_empty()).ok_or_else(|| Error::invalid("'config' is a required property"))?;
    let (group, option) = (part(cx, "group"), part(cx, "option"));
    let groups = match (group, option) {
        (Some(g), Some(o)) => {
            let v = config
                .get(o)
                .filter(|_| config.len() == 1)
                .ok_or_else(|| Error::invalid("The option of the path must be the only one of the body."))?;
            Map::from_iter([(g.to_string(), json!({o: v}))])
        }
        (Some(g), None) if config.len() != 1 || !config.contains_key(g) => {
            return Err(Error::invalid("The group of the path must be the only one of the body."));
        }
        _ => config,
    };
    for (g, options) in &groups {
        let options = options.as_object().ok_or_else(|| Error::invalid("A group of options is an object."))?;
        check_known(Some(g), None)?;
        for o in options.keys() {
            check_known(Some(g), Some(o))?;
        }
    }
    Ok(groups)
}

async fn save(cx: &Cx, change: impl Fn(&mut Extra) -> Result<()> + Send + Sync + 'static) -> Result<Extra> {
    let id = cx.param("domain_id").to_string();
    cx.state
        .write(move |tx| {
            if let Some(mut row) = tx.get::<DomainConfig>(&id)? {
                change(&mut row.groups)?;
                tx.update(&mut row)?;
                return Ok(row.value.groups);
            }
            let mut row = DomainConfig { id: id.clone(), groups: Extra::new() };
            change(&mut row.groups)?;
            Ok(tx.insert(&row)?.value.groups)
        })
        .await
}

async fn create(mut cx: Cx) -> Result<Reply> {
    ask(&cx).await?;
    let groups = body(&mut cx).await?;
    let there = cx.state.db.get::<DomainConfig>(cx.param("domain_id")).await?.is_some();
    let done = save(&cx, move |all| {
        all.clone_from(&groups);
        Ok(())
    })
    .await?;
    Reply::json(if there { 200 } else { 201 }, &json!({"config": shown(&done)}))
}

async fn update(mut cx: Cx) -> Result<Reply> {
    ask(&cx).await?;
    let groups = body(&mut cx).await?;
    let group = part(&cx, "group").map(str::to_string);
    let done = save(&cx, move |all| {
        if group.as_ref().is_some_and(|g| !all.contains_key(g)) {
            return Err(missing(group.as_deref().unwrap_or_default()));
        }
        for (g, options) in &groups {
            let slot = all.entry(g.clone()).or_insert_with(|| json!({}));
            if let (Value::Object(old), Value::Object(new)) = (slot, options) {
                old.extend(new.clone());
            }
        }
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"config": shown(&done)}))
}

async fn delete(cx: Cx) -> Result<Reply> {
    ask(&cx).await?;
    let id = cx.param("domain_id");
    let (group, option) = (part(&cx, "group").map(str::to_string), part(&cx, "option").map(str::to_string));
    let stored = cx.state.db.get::<DomainConfig>(id).await?.filter(|c| !c.groups.is_empty());
    let stored = stored.ok_or_else(|| not_found("domain configuration for domain", id))?;
    // What is not there cannot be deleted.
    select(&stored.groups, group.as_deref(), option.as_deref())?;
    save(&cx, move |all| {
        match (&group, &option) {
            (Some(g), Some(o)) => {
                if let Some(Value::Object(options)) = all.get_mut(g) {
                    options.remove(o);
                }
            }
            (Some(g), None) => drop(all.remove(g)),
            (None, _) => all.clear(),
        }
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}
