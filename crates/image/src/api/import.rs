use super::{ADMIN, GET, MEMBER, find_authorized, own_project, rule, view};
use crate::State;
use crate::imports::{self, Asked, METHODS};
use crate::store::Task;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Dir, Query};
use serde_json::{Map, Value, json};

pub const OPS: &[Op<State>] = &[
    Op::post("image_import", "/images/{image_id}/import", rule("modify_image", MEMBER), h!(import)),
    Op::get("image_task_list", "/images/{image_id}/tasks", rule("get_image", GET), h!(image_tasks)),
    Op::post("task_create", "/tasks", rule("tasks_api_access", ADMIN), h!(create)),
    Op::get("task_list", "/tasks", rule("tasks_api_access", ADMIN), h!(index)),
    Op::get("task_show", "/tasks/{task_id}", rule("tasks_api_access", ADMIN), h!(show)),
];

fn asked(cx: &Ctx<State>) -> Asked {
    Asked { owner: own_project(cx).map(String::from), user_id: cx.auth().user_id().to_string(), request_id: cx.request_id.clone() }
}

/// The method's name and, for `web-download`, its URI. Errors: `Invalid`.
fn method(body: &Map<String, Value>) -> Result<(&'static str, Option<&str>)> {
    let method = body.get("method").ok_or_else(|| Error::invalid("Import request requires a 'method' field."))?;
    let name = method.get("name").ok_or_else(|| Error::invalid("Import request requires a 'name' field."))?;
    let known = METHODS.iter().find(|m| name.as_str() == Some(m));
    let known = known.ok_or_else(|| Error::invalid(format!("Unknown import method name '{}'.", name.as_str().unwrap_or(""))))?;
    for key in ["all_stores", "all_stores_must_succeed"] {
        if body.get(key).is_some_and(|v| !v.is_boolean()) {
            return Err(Error::invalid(format!("'{key}' must be boolean value only")));
        }
    }
    let all = body.get("all_stores") == Some(&Value::Bool(true));
    let stores = body.get("stores").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if all && !stores.is_empty() {
        return Err(Error::invalid("all_stores and stores cannot be combined"));
    }
    if let Some(other) = stores.iter().find(|s| s.as_str() != Some(view::STORE)) {
        return Err(Error::conflict(format!("Store for identifier {other} not found")));
    }
    if *known == "web-download" {
        let uri = method.get("uri").and_then(Value::as_str);
        return Ok((known, Some(uri.ok_or_else(|| Error::invalid("'uri' needs to be set for web-download import method"))?)));
    }
    Ok((known, None))
}

async fn import(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let (name, uri) = method(&body)?;
    let uri = uri.map(String::from);
    let image = find_authorized(&cx).await?;
    let (state, id, asked) = (cx.state.clone(), image.id.clone(), asked(&cx));
    let work = async move { imports::accept(&state, &id, name, uri.as_deref(), Value::Object(body), asked).await };
    cx.state.transfers.detached(work).await?;
    Ok(Reply::empty(202))
}

async fn image_tasks(cx: Ctx<State>) -> Result<Reply> {
    let image = find_authorized(&cx).await?;
    let q = Query::new().eq("image_id", image.id.as_str()).sort("created_at", Dir::Desc).limit(1_000);
    let tasks = cx.state.db.list::<Task>(q).await?;
    Reply::ok(&json!({"tasks": tasks.iter().map(|t| view::image_task(t)).collect::<Vec<_>>()}))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new())?;
    let body: Map<String, Value> = cx.json().await?;
    if body.get("type").and_then(Value::as_str) != Some("import") {
        return Err(Error::invalid("Invalid type of task; the only one is 'import'"));
    }
    let input = body.get("input").cloned().unwrap_or(Value::Null);
    let mut image = imports::image_of_task(&input)?;
    image.owner = own_project(&cx).map(String::from);
    let (state, asked) = (cx.state.clone(), asked(&cx));
    let task = cx.state.transfers.detached(async move { imports::accept_new(&state, image, input, asked).await }).await?;
    let location = format!("{}/v2/tasks/{}", cx.base_url, task.id);
    Ok(Reply::json(201, &view::task(&task, true))?.header("location", location))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new())?;
    let page = caelum_rest::Page::from_query(&cx.query, 1_000)?;
    let limit = if page.explicit { page.limit } else { 25 };
    let mut q = Query::new().marker(page.marker).limit(limit);
    for (key, column) in [("status", "status"), ("type", "type")] {
        if let Some(v) = cx.query.get(key) {
            q = q.eq(column, v);
        }
    }
    let key = match cx.query.get("sort_key").unwrap_or("created_at") {
        "created_at" => "created_at",
        "updated_at" => "updated_at",
        "status" => "status",
        "type" => "type",
        "id" => "id",
        other => return Err(Error::invalid(format!("Invalid sort key: {other}"))),
    };
    let dir = Dir::parse(cx.query.get("sort_dir").unwrap_or("desc"));
    q = q.sort(key, dir.ok_or_else(|| Error::invalid("Invalid sort direction"))?);
    let tasks = cx.state.db.list::<Task>(q).await?;
    let next = tasks.last().filter(|_| tasks.len() == limit).map(|t| t.id.as_str());
    let mut out = Map::new();
    out.insert("tasks".into(), json!(tasks.iter().map(|t| view::task(t, false)).collect::<Vec<_>>()));
    out.insert("schema".into(), json!("/v2/schemas/tasks"));
    out.extend(view::page_links(&cx, "/v2/tasks", next));
    Reply::ok(&out)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new())?;
    let id = cx.param("task_id");
    let task = cx.state.db.get::<Task>(id).await?.ok_or_else(|| Error::not_found(format!("No task found with ID {id}")))?;
    Reply::ok(&view::task(&task, true))
}
