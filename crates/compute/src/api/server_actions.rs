//! What happened to a server: `/servers/{id}/os-instance-actions`.

use super::servers::lookup;
use super::views::host_id_of;
use crate::State;
use crate::store::actions::{self, ActionEvent, InstanceAction};
use caelum_base::{Error, Result, Timestamp};
use caelum_policy::Target;
use caelum_policy::personas::{PROJECT, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Page, Reply, Version, h, next_link};
use caelum_store::Stored;
use serde_json::{Value, json};

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("instance_action_list", "/servers/{id}/os-instance-actions", reader("os_compute_api:os-instance-actions:list"), h!(list)),
    Op::get(
        "instance_action_show",
        "/servers/{id}/os-instance-actions/{request_id}",
        reader("os_compute_api:os-instance-actions:show"),
        h!(show),
    ),
];

/// The actions of a server; from 2.21 also of one that is gone.
async fn of_server(cx: &Ctx<State>) -> Result<(String, Vec<Stored<InstanceAction>>)> {
    let id = cx.param("id").to_string();
    let key = id.clone();
    let list = cx.state.db.read(move |tx| actions::of_server(tx, &key)).await?;
    match (lookup(cx).await, list.first()) {
        (Ok(s), _) => Ok((s.project_id.clone(), list)),
        (Err(e), Some(a)) if e.is_not_found() && cx.version >= Version(2, 21) => {
            let project = a.project_id.clone();
            cx.authorize_found(&project, || e)?;
            Ok((project, list))
        }
        (Err(e), _) => Err(e),
    }
}

fn view(cx: &Ctx<State>, a: &InstanceAction) -> Value {
    let mut v = json!({
        "action": a.action, "instance_uuid": a.server_id, "request_id": a.request_id, "user_id": a.user_id,
        "project_id": a.project_id, "start_time": a.started_at.iso_micros(), "message": a.message,
    });
    if cx.version >= Version(2, 58) {
        v["updated_at"] = json!(a.updated_at.iso_micros());
    }
    v
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let (_, mut all) = of_server(&cx).await?;
    if cx.version < Version(2, 58) {
        let list: Vec<Value> = all.iter().map(|a| view(&cx, a)).collect();
        return Reply::ok(&json!({"instanceActions": list}));
    }
    if let Some(t) = time(&cx, "changes-since")? {
        all.retain(|a| a.updated_at >= t);
    }
    if cx.version >= Version(2, 66)
        && let Some(t) = time(&cx, "changes-before")?
    {
        all.retain(|a| a.updated_at <= t);
    }
    let page = Page::from_query(&cx.query, 1000)?;
    let start = match &page.marker {
        None => 0,
        Some(m) => {
            let at = all.iter().position(|a| a.request_id == *m);
            at.map(|i| i + 1).ok_or_else(|| Error::invalid(format!("marker [{m}] not found")))?
        }
    };
    let rows: Vec<&Stored<InstanceAction>> = all.iter().skip(start).take(page.limit).collect();
    let mut body = json!({"instanceActions": rows.iter().map(|a| view(&cx, a)).collect::<Vec<_>>()});
    if let (true, Some(last)) = (page.explicit && rows.len() == page.limit, rows.last()) {
        let url = format!("{}/v2.1/servers/{}/os-instance-actions", cx.base_url, cx.param("id"));
        body["links"] = json!([{"rel": "next", "href": next_link(&url, &cx.query, &last.request_id)}]);
    }
    Reply::ok(&body)
}

fn time(cx: &Ctx<State>, key: &str) -> Result<Option<Timestamp>> {
    let Some(text) = cx.query.get(key) else { return Ok(None) };
    let t = Timestamp::parse(text);
    t.map(Some).ok_or_else(|| Error::invalid(format!("Invalid input for query parameters {key}. Value: {text}. It is not a date-time.")))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (project, all) = of_server(&cx).await?;
    let request = cx.param("request_id");
    let found = all.iter().find(|a| a.request_id == request);
    let a = found.ok_or_else(|| Error::not_found(format!("Action for request_id {request} not found")))?;
    let mut v = view(&cx, a);
    let target = Target::project(&project);
    let admin = cx.allows("os_compute_api:os-instance-actions:events", &target);
    let details = cx.allows("os_compute_api:os-instance-actions:events:details", &target);
    if admin || cx.version >= Version(2, 51) {
        v["events"] = Value::Array(a.events.iter().map(|e| event(&cx, &project, e, admin, details)).collect());
    }
    Reply::ok(&json!({"instanceAction": v}))
}

fn event(cx: &Ctx<State>, project: &str, e: &ActionEvent, admin: bool, details: bool) -> Value {
    let mut v = json!({
        "event": e.event, "start_time": e.started_at.iso_micros(), "finish_time": e.finished_at.map(|t| t.iso_micros()),
        "result": e.result,
    });
    if admin {
        v["traceback"] = Value::Null;
    }
    if cx.version >= Version(2, 62) {
        v["hostId"] = json!(e.host.as_ref().map(|h| host_id_of(project, h)).unwrap_or_default());
        if let (true, Some(h)) = (admin, &e.host) {
            v["host"] = json!(h);
        }
    }
    if cx.version >= Version(2, 84) && details {
        v["details"] = json!(e.details);
    }
    v
}
