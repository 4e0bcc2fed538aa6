//! `/os-simple-tenant-usage`: what the servers there are have used in a span of time.

use super::forms;
use crate::State;
use crate::store::servers::Server;
use caelum_base::{Error, Result, Timestamp};
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Page, Reply, Version, h};
use caelum_store::Query;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("usage_list", "/os-simple-tenant-usage", Access::rule("os_compute_api:os-simple-tenant-usage:list", ADMIN, PROJECT), h!(list)),
    Op::get(
        "usage_show",
        "/os-simple-tenant-usage/{project}",
        Access::rule("os_compute_api:os-simple-tenant-usage:show", PROJECT_READER_OR_ADMIN, PROJECT),
        h!(show),
    ),
];

struct Span {
    start: Timestamp,
    end: Timestamp,
    detailed: bool,
}

fn span(cx: &Ctx<State>) -> Result<Span> {
    forms::known_params(cx, Version(2, 75), &["start", "end", "detailed", "limit", "marker"])?;
    let now = cx.env.now();
    let time = |key: &str, default: Timestamp| match cx.query.get(key).filter(|t| !t.is_empty()) {
        None => Ok(default),
        Some(t) => Timestamp::parse(t).ok_or_else(|| Error::invalid(format!("Datetime is in invalid format: {t}"))),
    };
    // Four weeks back, as upstream.
    let start = time("start", Timestamp(now.0 - 28 * 86_400_000_000))?;
    let end = time("end", now)?;
    if start > end {
        return Err(Error::invalid("Invalid start time. The start time cannot occur after the end time."));
    }
    Ok(Span { start, end, detailed: cx.query.get("detailed") == Some("1") })
}

/// Hours of `s` within the span, not beyond now.
fn hours(s: &Server, span: &Span, now: Timestamp) -> f64 {
    let (from, to) = (s.launched_at.unwrap_or(span.end).max(span.start), span.end.min(now));
    to.since(from).as_secs_f64() / 3600.0
}

fn row(s: &Server, span: &Span, now: Timestamp) -> Value {
    let launched = s.launched_at.unwrap_or(s.created_at);
    json!({
        "instance_id": s.id, "name": s.name, "tenant_id": s.project_id, "flavor": s.flavor.name, "hours": hours(s, span, now),
        "memory_mb": s.flavor.ram_mb, "vcpus": s.flavor.vcpus, "local_gb": s.flavor.root_gb + s.flavor.ephemeral_gb,
        "started_at": launched.iso_micros(), "ended_at": null, "state": s.state.name(), "uptime": now.since(launched).as_secs(),
    })
}

fn usage(project: &str, servers: &[&Server], span: &Span, now: Timestamp, detailed: bool) -> Value {
    let total = |f: fn(&Server) -> i64| -> f64 { servers.iter().map(|s| f(s) as f64 * hours(s, span, now)).sum() };
    let mut v = json!({
        "tenant_id": project, "start": span.start.iso_micros(), "stop": span.end.iso_micros(), "total_hours": total(|_| 1),
        "total_memory_mb_usage": total(|s| s.flavor.ram_mb), "total_vcpus_usage": total(|s| s.flavor.vcpus),
        "total_local_gb_usage": total(|s| s.flavor.root_gb + s.flavor.ephemeral_gb),
    });
    if detailed {
        v["server_usages"] = servers.iter().map(|s| row(s, span, now)).collect();
    }
    v
}

/// Servers that ran within the span, by id; a page of them from 2.40 on.
async fn servers(cx: &Ctx<State>, q: Query, span: &Span) -> Result<(Vec<Server>, Option<String>)> {
    let all = cx.state.db.list::<Server>(q.sort("id", caelum_store::Dir::Asc)).await?;
    let rows = all.into_iter().map(|s| s.into_inner()).filter(|s| s.launched_at.is_some_and(|t| t <= span.end)).collect();
    if cx.version < Version(2, 40) {
        return Ok((rows, None));
    }
    forms::page_of(rows, &Page::from_query(&cx.query, forms::MAX_LIMIT)?, |s| s.id.clone())
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (span, now) = (span(&cx)?, cx.env.now());
    let (rows, next) = servers(&cx, Query::new(), &span).await?;
    let mut projects: BTreeMap<&str, Vec<&Server>> = BTreeMap::new();
    for s in &rows {
        projects.entry(&s.project_id).or_default().push(s);
    }
    let usages: Vec<_> = projects.iter().map(|(p, s)| usage(p, s, &span, now, span.detailed)).collect();
    let mut body = json!({"tenant_usages": usages});
    forms::add_next(&cx, &mut body, "tenant_usages", "/os-simple-tenant-usage", next);
    Reply::ok(&body)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let project = cx.param("project").to_string();
    cx.authorize_project(&project)?;
    let (span, now) = (span(&cx)?, cx.env.now());
    let (rows, next) = servers(&cx, Query::new().eq("project_id", project.as_str()), &span).await?;
    let refs: Vec<&Server> = rows.iter().collect();
    let v = if rows.is_empty() { json!({}) } else { usage(&project, &refs, &span, now, true) };
    let mut body = json!({"tenant_usage": v});
    forms::add_next(&cx, &mut body, "tenant_usage", &format!("/os-simple-tenant-usage/{project}"), next);
    Reply::ok(&body)
}
