//! Domains: projects that contain users, groups and projects.

use super::fields::{Cx, Fields, merge_extra, merge_options};
use super::lists::{load, reply, url};
use super::rules::{ADMIN, DOMAIN_SHOW, DOMAINS_LIST, ruled};
use super::{duplicate, forbidden, found, guard, not_found};
use crate::logic::bootstrap::DEFAULT_DOMAIN;
use crate::logic::lifecycle;
use crate::state::Identity;
use crate::store::{Extra, Project};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Filter, Stored};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("domain_list", "/domains", ruled("identity:list_domains", DOMAINS_LIST), h!(domain_list)),
    Op::post("domain_create", "/domains", ruled("identity:create_domain", ADMIN), h!(domain_create)),
    Op::get("domain_show", "/domains/{domain_id}", ruled("identity:get_domain", DOMAIN_SHOW), h!(domain_show)),
    Op::patch("domain_update", "/domains/{domain_id}", ruled("identity:update_domain", ADMIN), h!(domain_update)),
    Op::delete("domain_delete", "/domains/{domain_id}", ruled("identity:delete_domain", ADMIN), h!(domain_delete)),
];

pub const OPTIONS: &[&str] = &["immutable"];

pub fn view(cx: &Cx, d: &Project) -> Value {
    let mut v = d.extra.clone();
    v.insert("id".into(), json!(d.id));
    v.insert("name".into(), json!(d.name));
    v.insert("description".into(), json!(d.description));
    v.insert("enabled".into(), json!(d.enabled));
    v.insert("tags".into(), json!(d.tags));
    v.insert("options".into(), json!(d.options));
    v.insert("links".into(), json!({"self": url(cx, &format!("domains/{}", d.id))}));
    Value::Object(v)
}

fn target(d: &Stored<Project>) -> Value {
    json!({"domain": {"id": d.id}})
}

async fn find(cx: &Cx) -> Result<Stored<Project>> {
    let id = cx.param("domain_id");
    let domain = cx.state.db.get::<Project>(id).await?.filter(|p| p.is_domain);
    found(cx, "domain", id, domain, target)
}

async fn domain_list(cx: Cx) -> Result<Reply> {
    let own = cx.auth().creds.domain_id.clone();
    guard(&cx, &json!({"domain": {"id": own}}))?;
    let mut rows: Vec<Project> = load(&cx, &[("name", "name"), ("enabled", "enabled")], vec![Filter::Eq("is_domain", true.into())]).await?;
    if let Some(own) = own {
        rows.retain(|d| d.id == own);
    }
    reply(&cx, "domains", rows.iter().map(|d| view(&cx, d)).collect(), &["name", "enabled"])
}

/// A tag: at most 255 characters, no slash, no comma.
pub fn checked_tags(tags: Option<Vec<Value>>) -> Result<Option<Vec<String>>> {
    let Some(tags) = tags else { return Ok(None) };
    if tags.len() > 80 {
        return Err(Error::invalid("Invalid input for field 'tags': at most 80 tags are allowed"));
    }
    let mut out: Vec<String> = Vec::with_capacity(tags.len());
    for t in tags {
        let t = t.as_str().ok_or_else(|| Error::invalid("Invalid input for field 'tags': a tag is a string"))?;
        check_tag(t)?;
        if out.iter().any(|o| o == t) {
            return Err(Error::invalid("Invalid input for field 'tags': tags must be unique"));
        }
        out.push(t.to_string());
    }
    Ok(Some(out))
}

pub fn check_tag(t: &str) -> Result<()> {
    if t.is_empty() || t.chars().count() > 255 || t.contains(['/', ',']) {
        return Err(Error::invalid(format!("Invalid input for field 'tags': '{t}' is not a tag")));
    }
    Ok(())
}

async fn domain_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "domain").await?;
    let wanted_id = f.id("explicit_domain_id")?.flatten();
    if wanted_id.as_ref().is_some_and(|id| !caelum_base::is_hex_id(id)) {
        return Err(Error::invalid("explicit_domain_id must be 32 hexadecimal digits."));
    }
    let mut d = Project {
        id: wanted_id.unwrap_or_else(|| cx.env.hex_id()),
        domain_id: String::new(),
        parent_id: None,
        name: f.require_name("name", 64)?,
        description: f.text("description")?.flatten().unwrap_or_default(),
        enabled: f.boolean("enabled")?.unwrap_or(true),
        is_domain: true,
        tags: checked_tags(f.array("tags")?)?.unwrap_or_default(),
        options: Extra::new(),
        extra: Extra::new(),
    };
    merge_options(&mut d.options, f.object("options")?.unwrap_or_default(), OPTIONS)?;
    d.extra = f.extra()?;
    let made = insert(&cx, d).await?;
    Reply::json(201, &json!({"domain": view(&cx, &made)}))
}

/// Stores a new domain or project.
pub async fn insert(cx: &Cx, p: Project) -> Result<Project> {
    let what = if p.is_domain { "domain" } else { "project" };
    let details = if p.is_domain {
        format!("it is not permitted to have two domains with the same name: {}.", p.name)
    } else {
        "Duplicate entry.".to_string()
    };
    let done = cx.state.write(move |tx| tx.insert(&p)).await;
    Ok(done.map_err(|e| duplicate(e, what, &details))?.value)
}

async fn domain_show(cx: Cx) -> Result<Reply> {
    let d = find(&cx).await?;
    Reply::ok(&json!({"domain": view(&cx, &d)}))
}

/// Options say a resource may not change; only switching that off is let through.
pub fn immutable(options: &Extra, change: Option<&Extra>) -> bool {
    let set = options.get("immutable").and_then(Value::as_bool) == Some(true);
    let lifted = change.is_some_and(|c| c.get("immutable").is_some_and(|v| v.as_bool() != Some(true)));
    set && !lifted
}

async fn domain_update(mut cx: Cx) -> Result<Reply> {
    let d = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "domain").await?;
    let change = Change::read(&mut f)?;
    let done = update(&cx, d.id.clone(), change, f.extra()?).await?;
    Reply::ok(&json!({"domain": view(&cx, &done)}))
}

/// What may change of a project or domain.
#[derive(Clone, Default)]
pub struct Change {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub enabled: Option<bool>,
    pub tags: Option<Vec<String>>,
    pub options: Option<Extra>,
}

impl Change {
    pub fn read(f: &mut Fields) -> Result<Self> {
        Ok(Self {
            name: f.name("name", 64)?,
            description: f.text("description")?,
            enabled: f.boolean("enabled")?,
            tags: checked_tags(f.array("tags")?)?,
            options: f.object("options")?,
        })
    }
}

/// Changes a project or domain; disabling ends the tokens scoped to it.
pub async fn update(cx: &Cx, id: String, change: Change, extra: Extra) -> Result<Project> {
    let env = cx.env.clone();
    let done = cx
        .state
        .write(move |tx| {
            let mut p = tx.get::<Project>(&id)?.ok_or_else(|| not_found("project", &id))?;
            if immutable(&p.options, change.options.as_ref()) {
                return Err(forbidden(&format!("Cannot update resource {id}: it is immutable.")));
            }
            if let Some(n) = &change.name {
                p.name.clone_from(n);
            }
            if let Some(t) = &change.description {
                p.description = t.clone().unwrap_or_default();
            }
            if let Some(t) = &change.tags {
                p.tags.clone_from(t);
            }
            if let Some(o) = &change.options {
                merge_options(&mut p.value.options, o.clone(), OPTIONS)?;
            }
            merge_extra(&mut p.value.extra, extra.clone());
            if let Some(enabled) = change.enabled {
                if p.id == DEFAULT_DOMAIN && !enabled {
                    return Err(forbidden("The default domain cannot be disabled."));
                }
                if p.enabled && !enabled {
                    lifecycle::revoke_target(tx, &env, &id)?;
                }
                p.enabled = enabled;
            }
            tx.update(&mut p)?;
            Ok(p.value)
        })
        .await;
    done.map_err(|e| duplicate(e, "project", "Duplicate entry."))
}

async fn domain_delete(cx: Cx) -> Result<Reply> {
    let d = find(&cx).await?;
    if d.id == DEFAULT_DOMAIN {
        return Err(forbidden("The default domain cannot be deleted."));
    }
    if d.enabled {
        return Err(forbidden("Cannot delete a domain that is enabled, please disable it first."));
    }
    if immutable(&d.options, None) {
        return Err(forbidden(&format!("Cannot delete resource {}: it is immutable.", d.id)));
    }
    let (id, env) = (d.id.clone(), cx.env.clone());
    cx.state.write(move |tx| lifecycle::delete_domain(tx, &env, &id)).await?;
    Ok(Reply::no_content())
}
