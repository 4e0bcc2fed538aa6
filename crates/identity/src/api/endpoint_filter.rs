//! Endpoint groups and the endpoint filter (OS-EP-FILTER): which endpoints a project's catalog shows.

use super::fields::{Cx, Fields};
use super::lists::{load, page, reply, url};
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, ruled};
use super::services::endpoint_view;
use super::{found, guard, not_found, projects};
use crate::logic::catalog::in_group;
use crate::state::Identity;
use crate::store::{Endpoint, EndpointGroup, Extra, Project};
use caelum_base::{Error, Result};
use caelum_rest::{Access, Op, Reply, h};
use caelum_store::{Query, Record, Stored, Tx, params};
use serde_json::{Value, json};

const READ: &str = ADMIN_OR_SYSTEM_READER;

pub const OPS: &[Op<Identity>] = &[
    Op::get("endpoint_group_list", "/OS-EP-FILTER/endpoint_groups", ruled("identity:list_endpoint_groups", READ), h!(group_list)),
    Op::post("endpoint_group_create", "/OS-EP-FILTER/endpoint_groups", ruled("identity:create_endpoint_group", ADMIN), h!(group_create)),
    Op::get("endpoint_group_show", "/OS-EP-FILTER/endpoint_groups/{group_id}", ruled("identity:get_endpoint_group", READ), h!(group_show)),
    Op::patch(
        "endpoint_group_update",
        "/OS-EP-FILTER/endpoint_groups/{group_id}",
        ruled("identity:update_endpoint_group", ADMIN),
        h!(group_update),
    ),
    Op::delete(
        "endpoint_group_delete",
        "/OS-EP-FILTER/endpoint_groups/{group_id}",
        ruled("identity:delete_endpoint_group", ADMIN),
        h!(group_delete),
    ),
    Op::get(
        "endpoint_group_endpoint_list",
        "/OS-EP-FILTER/endpoint_groups/{group_id}/endpoints",
        ruled("identity:list_endpoints_associated_with_endpoint_group", READ),
        h!(group_endpoints),
    ),
    Op::get("endpoint_group_project_list", "/OS-EP-FILTER/endpoint_groups/{id}/projects", PROJECTS_OF_GROUP, h!(projects_of)),
    Op::get(
        "endpoint_group_project_check",
        "/OS-EP-FILTER/endpoint_groups/{id}/projects/{project_id}",
        ruled("identity:get_endpoint_group_in_project", READ),
        h!(link_check),
    ),
    Op::put(
        "endpoint_group_project_add",
        "/OS-EP-FILTER/endpoint_groups/{id}/projects/{project_id}",
        ruled("identity:add_endpoint_group_to_project", ADMIN),
        h!(link_add),
    ),
    Op::delete(
        "endpoint_group_project_remove",
        "/OS-EP-FILTER/endpoint_groups/{id}/projects/{project_id}",
        ruled("identity:remove_endpoint_group_from_project", ADMIN),
        h!(link_remove),
    ),
    Op::get(
        "project_endpoint_group_list",
        "/OS-EP-FILTER/projects/{project_id}/endpoint_groups",
        ruled("identity:list_endpoint_groups_for_project", READ),
        h!(groups_of_project),
    ),
    Op::get(
        "endpoint_project_list",
        "/OS-EP-FILTER/endpoints/{id}/projects",
        ruled("identity:list_projects_for_endpoint", READ),
        h!(projects_of),
    ),
    Op::get(
        "project_endpoint_list",
        "/OS-EP-FILTER/projects/{project_id}/endpoints",
        ruled("identity:list_endpoints_for_project", READ),
        h!(endpoints_of_project),
    ),
    Op::get(
        "project_endpoint_check",
        "/OS-EP-FILTER/projects/{project_id}/endpoints/{id}",
        ruled("identity:check_endpoint_in_project", READ),
        h!(link_check),
    ),
    Op::put(
        "project_endpoint_add",
        "/OS-EP-FILTER/projects/{project_id}/endpoints/{id}",
        ruled("identity:add_endpoint_to_project", ADMIN),
        h!(link_add),
    ),
    Op::delete(
        "project_endpoint_remove",
        "/OS-EP-FILTER/projects/{project_id}/endpoints/{id}",
        ruled("identity:remove_endpoint_from_project", ADMIN),
        h!(link_remove),
    ),
];

const PROJECTS_OF_GROUP: Access = ruled("identity:list_projects_associated_with_endpoint_group", READ);

fn view(cx: &Cx, g: &EndpointGroup) -> Value {
    let own = url(cx, &format!("OS-EP-FILTER/endpoint_groups/{}", g.id));
    json!({"id": g.id, "name": g.name, "description": g.description, "filters": g.filters, "links": {"self": own}})
}

async fn find(cx: &Cx) -> Result<Stored<EndpointGroup>> {
    let id = cx.param("group_id");
    let g = cx.state.db.get::<EndpointGroup>(id).await?;
    found(cx, "endpoint group", id, g, |_| Value::Null)
}

fn checked_filters(filters: Extra) -> Result<Extra> {
    let known = |k: &String| matches!(k.as_str(), "service_id" | "region_id" | "interface" | "enabled");
    if filters.is_empty() || !filters.keys().all(known) {
        return Err(Error::invalid("Invalid input for field 'filters': service_id, region_id, interface or enabled are expected"));
    }
    Ok(filters)
}

async fn group_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let rows: Vec<EndpointGroup> = load(&cx, &[("name", "name")], Vec::new()).await?;
    reply(&cx, "endpoint_groups", rows.iter().map(|g| view(&cx, g)).collect(), &["name"])
}

async fn group_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "endpoint_group").await?;
    let filters = f.object("filters")?.ok_or_else(|| Error::invalid("'filters' is a required property"))?;
    let g = EndpointGroup {
        id: cx.env.hex_id(),
        name: f.require_name("name", 255)?,
        description: f.text("description")?.flatten(),
        filters: checked_filters(filters)?,
    };
    let made = cx.state.write(move |tx| tx.insert(&g)).await?;
    Reply::json(201, &json!({"endpoint_group": view(&cx, &made)}))
}

async fn group_show(cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    Reply::ok(&json!({"endpoint_group": view(&cx, &g)}))
}

async fn group_update(mut cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    let mut f = Fields::read(&mut cx, "endpoint_group").await?;
    let (name, description) = (f.name("name", 255)?, f.text("description")?);
    let (filters, id) = (f.object("filters")?.map(checked_filters).transpose()?, g.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut g = tx.get::<EndpointGroup>(&id)?.ok_or_else(|| not_found("endpoint group", &id))?;
            if let Some(n) = &name {
                g.name.clone_from(n);
            }
            if let Some(d) = &description {
                g.description.clone_from(d);
            }
            if let Some(new) = &filters {
                g.filters.clone_from(new);
            }
            tx.update(&mut g)?;
            Ok(g.value)
        })
        .await?;
    Reply::ok(&json!({"endpoint_group": view(&cx, &done)}))
}

async fn group_delete(cx: Cx) -> Result<Reply> {
    let id = find(&cx).await?.id.clone();
    cx.state
        .write(move |tx| {
            tx.exec("DELETE FROM endpoint_projects WHERE kind = 'endpoint_group' AND id = $1", params![&id])?;
            tx.delete_id::<EndpointGroup>(&id)
        })
        .await?;
    Ok(Reply::no_content())
}

async fn group_endpoints(cx: Cx) -> Result<Reply> {
    let g = find(&cx).await?;
    let rows = cx.state.db.list::<Endpoint>(Query::new()).await?;
    page(&cx, "endpoints", rows.iter().filter(|e| in_group(e, &g)).map(|e| endpoint_view(&cx, e)).collect())
}

// Links between projects and endpoints or endpoint groups

/// `endpoint` or `endpoint_group`, by the path.
fn kind(cx: &Cx) -> &'static str {
    if cx.op.path.contains("endpoint_groups") { "endpoint_group" } else { "endpoint" }
}

fn exists<R: Record>(tx: &mut Tx<'_>, what: &str, id: &str) -> Result<()> {
    tx.get::<R>(id)?.map(drop).ok_or_else(|| not_found(what, id))
}

fn check_thing(tx: &mut Tx<'_>, kind: &str, id: &str) -> Result<()> {
    if kind == "endpoint" { exists::<Endpoint>(tx, "endpoint", id) } else { exists::<EndpointGroup>(tx, "endpoint group", id) }
}

/// Kind, thing and project of the path; authorized and there.
async fn link(cx: &Cx) -> Result<(&'static str, String, String)> {
    guard(cx, &Value::Null)?;
    let (kind, id, project) = (kind(cx), cx.param("id").to_string(), cx.param("project_id").to_string());
    let (i, p) = (id.clone(), project.clone());
    cx.state
        .read(move |tx| {
            check_thing(tx, kind, &i)?;
            exists::<Project>(tx, "project", &p)
        })
        .await?;
    Ok((kind, id, project))
}

fn no_link(kind: &str, id: &str, project: &str) -> Error {
    Error::not_found(format!("{kind} {id} is not associated with project {project}."))
}

async fn link_add(cx: Cx) -> Result<Reply> {
    let (kind, id, project) = link(&cx).await?;
    let sql = "INSERT INTO endpoint_projects (kind, id, project_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    cx.state.write(move |tx| tx.exec(sql, params![kind, &id, &project])).await?;
    Ok(Reply::no_content())
}

async fn link_remove(cx: Cx) -> Result<Reply> {
    let (kind, id, project) = link(&cx).await?;
    cx.state
        .write(move |tx| {
            let n =
                tx.exec("DELETE FROM endpoint_projects WHERE kind = $1 AND id = $2 AND project_id = $3", params![kind, &id, &project])?;
            if n == 0 { Err(no_link(kind, &id, &project)) } else { Ok(()) }
        })
        .await?;
    Ok(Reply::no_content())
}

async fn link_check(cx: Cx) -> Result<Reply> {
    let (kind, id, project) = link(&cx).await?;
    let (i, p) = (id.clone(), project.clone());
    let there = cx
        .state
        .read(move |tx| {
            tx.query_opt("SELECT 1 AS hit FROM endpoint_projects WHERE kind = $1 AND id = $2 AND project_id = $3", params![kind, &i, &p])
        })
        .await?;
    there.ok_or_else(|| no_link(kind, &id, &project))?;
    if kind == "endpoint" {
        return Ok(Reply::no_content());
    }
    let own = url(&cx, &format!("OS-EP-FILTER/endpoint_groups/{id}/projects/{project}"));
    Reply::ok(&json!({"project": {"id": project, "links": {"self": own}}}))
}

async fn projects_of(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let (kind, id) = (kind(&cx), cx.param("id").to_string());
    let rows = cx
        .state
        .read(move |tx| {
            check_thing(tx, kind, &id)?;
            let rows = tx.query("SELECT project_id FROM endpoint_projects WHERE kind = $1 AND id = $2", params![kind, &id])?;
            let ids = rows.iter().map(|r| r.text("project_id")).collect::<Result<Vec<_>>>()?;
            tx.list::<Project>(&Query::new().is_in("id", ids))
        })
        .await?;
    page(&cx, "projects", rows.iter().map(|p| projects::view(&cx, p)).collect())
}

/// Ids linked to the path's project.
async fn linked<R: Record>(cx: &Cx, kind: &'static str) -> Result<Vec<R>> {
    guard(cx, &Value::Null)?;
    let project = cx.param("project_id").to_string();
    let rows = cx
        .state
        .read(move |tx| {
            exists::<Project>(tx, "project", &project)?;
            let rows = tx.query("SELECT id FROM endpoint_projects WHERE kind = $1 AND project_id = $2", params![kind, &project])?;
            let ids = rows.iter().map(|r| r.text("id")).collect::<Result<Vec<_>>>()?;
            tx.list::<R>(&Query::new().is_in("id", ids))
        })
        .await?;
    Ok(rows.into_iter().map(|r| r.value).collect())
}

async fn groups_of_project(cx: Cx) -> Result<Reply> {
    let rows: Vec<EndpointGroup> = linked(&cx, "endpoint_group").await?;
    page(&cx, "endpoint_groups", rows.iter().map(|g| view(&cx, g)).collect())
}

async fn endpoints_of_project(cx: Cx) -> Result<Reply> {
    let mut rows: Vec<Endpoint> = linked(&cx, "endpoint").await?;
    let groups: Vec<EndpointGroup> = linked(&cx, "endpoint_group").await?;
    let all = cx.state.db.list::<Endpoint>(Query::new()).await?;
    for e in all {
        if groups.iter().any(|g| in_group(&e, g)) && !rows.iter().any(|r| r.id == e.id) {
            rows.push(e.value);
        }
    }
    page(&cx, "endpoints", rows.iter().map(|e| endpoint_view(&cx, e)).collect())
}
