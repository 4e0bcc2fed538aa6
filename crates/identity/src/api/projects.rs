//! Projects and their tree.

use super::domains::{self, Change, check_tag, checked_tags, immutable};
use super::fields::{Cx, Fields, merge_options};
use super::lists::{load, reply, url};
use super::rules::{DOMAIN_LIST, PROJECT_SHOW, PROJECT_WRITE, ruled};
use super::{forbidden, found, guard};
use crate::logic::{lifecycle, roles};
use crate::state::Identity;
use crate::store::{Extra, Project};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Filter, Query, Stored, Tx};
use serde_json::{Map, Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("project_list", "/projects", ruled("identity:list_projects", DOMAIN_LIST), h!(project_list)),
    Op::post("project_create", "/projects", ruled("identity:create_project", PROJECT_WRITE), h!(project_create)),
    Op::get("project_show", "/projects/{project_id}", ruled("identity:get_project", PROJECT_SHOW), h!(project_show)),
    Op::patch("project_update", "/projects/{project_id}", ruled("identity:update_project", PROJECT_WRITE), h!(project_update)),
    Op::delete("project_delete", "/projects/{project_id}", ruled("identity:delete_project", PROJECT_WRITE), h!(project_delete)),
    Op::get("project_tag_list", "/projects/{project_id}/tags", ruled("identity:list_project_tags", PROJECT_SHOW), h!(tag_list)),
    Op::put("project_tag_replace", "/projects/{project_id}/tags", ruled("identity:update_project_tags", PROJECT_WRITE), h!(tag_replace)),
    Op::delete(
        "project_tag_delete_all",
        "/projects/{project_id}/tags",
        ruled("identity:delete_project_tags", PROJECT_WRITE),
        h!(tag_delete_all),
    ),
    Op::get("project_tag_check", "/projects/{project_id}/tags/{tag}", ruled("identity:get_project_tag", PROJECT_SHOW), h!(tag_check)),
    Op::put("project_tag_add", "/projects/{project_id}/tags/{tag}", ruled("identity:create_project_tag", PROJECT_WRITE), h!(tag_add)),
    Op::delete(
        "project_tag_delete",
        "/projects/{project_id}/tags/{tag}",
        ruled("identity:delete_project_tag", PROJECT_WRITE),
        h!(tag_delete),
    ),
];

pub fn view(cx: &Cx, p: &Project) -> Value {
    let mut v = p.extra.clone();
    v.insert("id".into(), json!(p.id));
    v.insert("name".into(), json!(p.name));
    v.insert("domain_id".into(), if p.is_domain { Value::Null } else { json!(p.domain_id) });
    v.insert("description".into(), json!(p.description));
    v.insert("enabled".into(), json!(p.enabled));
    v.insert("parent_id".into(), json!(p.parent_id));
    v.insert("is_domain".into(), json!(p.is_domain));
    v.insert("tags".into(), json!(p.tags));
    v.insert("options".into(), json!(p.options));
    v.insert("links".into(), json!({"self": url(cx, &format!("projects/{}", p.id))}));
    Value::Object(v)
}

/// What policy sees of a project.
pub fn target(p: &Project) -> Value {
    let domain = if p.is_domain { Value::Null } else { json!(p.domain_id) };
    json!({"project": {"id": p.id, "domain_id": domain}})
}

async fn find(cx: &Cx) -> Result<Stored<Project>> {
    let id = cx.param("project_id");
    let project = cx.state.db.get::<Project>(id).await?;
    found(cx, "project", id, project, |p| target(p))
}

const FILTERS: &[&str] = &["domain_id", "enabled", "name", "parent_id"];

fn split(q: Option<&str>) -> Vec<String> {
    q.unwrap_or("").split(',').filter(|t| !t.is_empty()).map(str::to_string).collect()
}

/// `tags`, `tags-any`, `not-tags`, `not-tags-any`.
fn tags_fit(cx: &Cx, p: &Project) -> bool {
    let has = |t: &String| p.tags.contains(t);
    let given = |k: &str| cx.query.get(k).map(|v| split(Some(v)));
    given("tags").is_none_or(|t| t.iter().all(has))
        && given("tags-any").is_none_or(|t| t.iter().any(has))
        && given("not-tags").is_none_or(|t| !t.iter().all(has))
        && given("not-tags-any").is_none_or(|t| !t.iter().any(has))
}

async fn project_list(cx: Cx) -> Result<Reply> {
    let own = cx.auth().creds.domain_id.clone();
    guard(&cx, &json!({"domain_id": own}))?;
    let is_domain = cx.query.bool("is_domain").unwrap_or(false);
    let columns = [("name", "name"), ("domain_id", "domain_id"), ("parent_id", "parent_id"), ("enabled", "enabled")];
    let mut rows: Vec<Project> = load(&cx, &columns, vec![Filter::Eq("is_domain", is_domain.into())]).await?;
    if let Some(own) = own {
        rows.retain(|p| p.domain_id == own);
    }
    rows.retain(|p| tags_fit(&cx, p));
    reply(&cx, "projects", rows.iter().map(|p| view(&cx, p)).collect(), FILTERS)
}

/// The domain a new thing belongs to when the body names none: that of the caller's token.
pub fn own_domain(cx: &Cx) -> Result<String> {
    let creds = &cx.auth().creds;
    let domain = creds.domain_id.clone().or_else(|| creds.project_domain_id.clone());
    // A system-scoped token has none: upstream falls back to the default domain.
    Ok(domain.unwrap_or_else(|| crate::logic::bootstrap::DEFAULT_DOMAIN.to_string()))
}

async fn project_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "project").await?;
    let is_domain = f.boolean("is_domain")?.unwrap_or(false);
    let domain_id = f.id("domain_id")?.flatten();
    let parent_id = f.id("parent_id")?.flatten();
    if is_domain && (domain_id.is_some() || parent_id.is_some()) {
        return Err(Error::invalid("A project that acts as a domain has neither a domain nor a parent."));
    }
    let mut p = Project {
        id: cx.env.hex_id(),
        domain_id: String::new(),
        parent_id,
        name: f.require_name("name", 64)?,
        description: f.text("description")?.flatten().unwrap_or_default(),
        enabled: f.boolean("enabled")?.unwrap_or(true),
        is_domain,
        tags: checked_tags(f.array("tags")?)?.unwrap_or_default(),
        options: Extra::new(),
        extra: Extra::new(),
    };
    merge_options(&mut p.options, f.object("options")?.unwrap_or_default(), domains::OPTIONS)?;
    p.extra = f.extra()?;
    if !is_domain {
        place(&cx, &mut p, domain_id).await?;
    }
    guard(&cx, &target(&p))?;
    let made = domains::insert(&cx, p).await?;
    Reply::json(201, &json!({"project": view(&cx, &made)}))
}

/// Settles domain and parent of a new project.
async fn place(cx: &Cx, p: &mut Project, domain_id: Option<String>) -> Result<()> {
    let fallback = own_domain(cx)?;
    let wanted_parent = p.parent_id.clone();
    let (domain, parent) = cx
        .state
        .read(move |tx| {
            let Some(parent) = wanted_parent else {
                let domain = domain_id.unwrap_or(fallback);
                return Ok((domain.clone(), domain));
            };
            let above = tx.get::<Project>(&parent)?.ok_or_else(|| super::not_found("project", &parent))?;
            let domain = if above.is_domain { above.id.clone() } else { above.domain_id.clone() };
            if domain_id.is_some_and(|d| d != domain) {
                return Err(Error::invalid("Cannot create project, the parent is in another domain."));
            }
            if !above.enabled {
                return Err(forbidden("cannot create a project in a branch containing a disabled project."));
            }
            if roles::ancestors(tx, &above)?.len() + 1 > roles::MAX_DEPTH {
                return Err(forbidden(&format!("Max hierarchy depth reached for {parent} branch.")));
            }
            Ok((domain, parent))
        })
        .await?;
    let there = cx.state.db.get::<Project>(&domain).await?.filter(|d| d.is_domain);
    p.domain_id.clone_from(&domain);
    p.parent_id = Some(parent);
    if there.is_none() {
        guard(cx, &target(p))?;
        return Err(super::not_found("domain", &domain));
    }
    Ok(())
}

fn nested(children: &[Project], of: &str) -> Value {
    let mut out = Map::new();
    for c in children.iter().filter(|c| c.parent_id.as_deref() == Some(of)) {
        out.insert(c.id.clone(), nested(children, &c.id));
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}

async fn project_show(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let mut v = view(&cx, &p);
    let asks = |k: &str| cx.query.get(k).is_some_and(|t| !t.eq_ignore_ascii_case("false") && t != "0");
    let project = p.value.clone();
    let (above, below) = cx.state.read(move |tx| tree(tx, &project)).await?;
    let (is_admin, user) = (cx.auth().is_admin(), cx.auth().user_id().to_string());
    let mine = cx.state.read(move |tx| roles::reachable(tx, &user)).await?.0;
    // A list shows whole projects: only those the caller has a role on, or any to an administrator.
    let visible = |p: &&Project| is_admin || mine.contains(&p.id);
    if asks("parents_as_list") {
        v["parents"] =
            above.iter().filter(|a| !a.is_domain || is_admin).filter(visible).map(|a| json!({"project": view(&cx, a)})).collect();
    }
    if asks("subtree_as_list") {
        v["subtree"] = below.iter().filter(visible).map(|c| json!({"project": view(&cx, c)})).collect();
    }
    if asks("parents_as_ids") {
        v["parents"] = above.iter().rev().fold(Value::Null, |inner, a| json!({a.id.clone(): inner}));
    }
    if asks("subtree_as_ids") {
        v["subtree"] = nested(&below, &p.id);
    }
    Reply::ok(&json!({"project": v}))
}

fn tree(tx: &mut Tx<'_>, p: &Project) -> Result<(Vec<Project>, Vec<Project>)> {
    Ok((roles::ancestors(tx, p)?, roles::subtree(tx, &p.id)?))
}

async fn project_update(mut cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "project").await?;
    let change = Change::read(&mut f)?;
    if let Some(d) = f.id("domain_id")?
        && d.as_deref().unwrap_or("") != p.domain_id
    {
        return Err(Error::invalid("Update of `domain_id` is not allowed."));
    }
    if let Some(d) = f.id("parent_id")?
        && d != p.parent_id
    {
        return Err(forbidden("Update of `parent_id` is not allowed."));
    }
    if f.boolean("is_domain")?.is_some_and(|b| b != p.is_domain) {
        return Err(Error::invalid("Update of `is_domain` is not allowed."));
    }
    if change.enabled == Some(true) && !p.enabled {
        let project = p.value.clone();
        let above = cx.state.read(move |tx| roles::ancestors(tx, &project)).await?;
        if above.iter().any(|a| !a.enabled) {
            return Err(forbidden(&format!("Cannot enable project {} since it has disabled parents.", p.id)));
        }
    }
    if change.enabled == Some(false) && p.enabled && !p.is_domain {
        let id = p.id.clone();
        let below = cx.state.read(move |tx| roles::subtree(tx, &id)).await?;
        if below.iter().any(|c| c.enabled) {
            return Err(forbidden(&format!("Cannot disable project {} since its subtree contains enabled projects.", p.id)));
        }
    }
    let done = domains::update(&cx, p.id.clone(), change, f.extra()?).await?;
    Reply::ok(&json!({"project": view(&cx, &done)}))
}

async fn project_delete(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    if p.is_domain && p.enabled {
        return Err(forbidden("Cannot delete a domain that is enabled, please disable it first."));
    }
    if immutable(&p.options, None) {
        return Err(forbidden(&format!("Cannot delete resource {}: it is immutable.", p.id)));
    }
    let (id, is_domain, env) = (p.id.clone(), p.is_domain, cx.env.clone());
    cx.state
        .write(move |tx| {
            if is_domain {
                return lifecycle::delete_domain(tx, &env, &id);
            }
            if tx.count::<Project>(&Query::new().eq("parent_id", id.as_str()))? > 0 {
                return Err(forbidden(&format!(
                    "Cannot delete the project {id} since it is not a leaf in the hierarchy. Delete its children first."
                )));
            }
            lifecycle::delete_project(tx, &env, &id)
        })
        .await?;
    Ok(Reply::no_content())
}

// Tags

async fn set_tags(cx: &Cx, p: &Project, tags: Vec<String>) -> Result<Project> {
    domains::update(cx, p.id.clone(), Change { tags: Some(tags), ..Change::default() }, Extra::new()).await
}

fn tags_reply(cx: &Cx, p: &Project) -> Result<Reply> {
    let own = url(cx, &format!("projects/{}/tags", p.id));
    Reply::ok(&json!({"tags": p.tags, "links": {"self": own, "next": null, "previous": null}}))
}

async fn tag_list(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    tags_reply(&cx, &p)
}

async fn tag_replace(mut cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let body: Map<String, Value> = cx.json().await?;
    let mut f = Fields::new(body);
    let tags = checked_tags(f.array("tags")?)?.ok_or_else(|| Error::invalid("'tags' is a required property"))?;
    let done = set_tags(&cx, &p, tags).await?;
    tags_reply(&cx, &done)
}

async fn tag_delete_all(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    set_tags(&cx, &p, Vec::new()).await?;
    Ok(Reply::no_content())
}

async fn tag_check(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let tag = cx.param("tag");
    if p.tags.iter().any(|t| t == tag) { Ok(Reply::no_content()) } else { Err(super::not_found("project tag", tag)) }
}

async fn tag_add(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let tag = cx.param("tag");
    check_tag(tag)?;
    let mut tags = p.tags.clone();
    if !tags.iter().any(|t| t == tag) {
        tags.push(tag.to_string());
    }
    if tags.len() > 80 {
        return Err(Error::invalid("A project has at most 80 tags."));
    }
    let done = set_tags(&cx, &p, tags).await?;
    let own = url(&cx, &format!("projects/{}/tags/{tag}", done.id));
    Ok(Reply::empty(201).header("location", own))
}

async fn tag_delete(cx: Cx) -> Result<Reply> {
    let p = find(&cx).await?;
    let tag = cx.param("tag");
    if !p.tags.iter().any(|t| t == tag) {
        return Err(super::not_found("project tag", tag));
    }
    let tags = p.tags.iter().filter(|t| *t != tag).cloned().collect();
    set_tags(&cx, &p, tags).await?;
    Ok(Reply::no_content())
}
