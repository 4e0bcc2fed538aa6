//! `/os-hypervisors`.

use super::forms;
use crate::State;
use crate::logic::hosts::{Host, hosts};
use caelum_base::{Error, Result, is_uuid};
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::{Access, Ctx, Op, Page, Reply, Version, h};
use serde_json::{Value, json};

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("hypervisor_list", "/os-hypervisors", admin("os_compute_api:os-hypervisors:list"), h!(list)),
    Op::get("hypervisor_list_detail", "/os-hypervisors/detail", admin("os_compute_api:os-hypervisors:list-detail"), h!(detail)),
    Op::get("hypervisor_statistics", "/os-hypervisors/statistics", admin("os_compute_api:os-hypervisors:statistics"), h!(statistics))
        .until(2, 87),
    Op::get("hypervisor_show", "/os-hypervisors/{id}", admin("os_compute_api:os-hypervisors:show"), h!(show)),
    Op::get("hypervisor_search", "/os-hypervisors/{id}/search", admin("os_compute_api:os-hypervisors:search"), h!(search)).until(2, 52),
    Op::get("hypervisor_servers", "/os-hypervisors/{id}/servers", admin("os_compute_api:os-hypervisors:servers"), h!(servers)).until(2, 52),
    Op::get("hypervisor_uptime", "/os-hypervisors/{id}/uptime", admin("os_compute_api:os-hypervisors:uptime"), h!(uptime)).until(2, 87),
];

/// Versions that changed ids to UUIDs, and that dropped usage.
const UUIDS: Version = Version(2, 53);
const LEAN: Version = Version(2, 88);

fn id(cx: &Ctx<State>, host: &Host) -> Value {
    if cx.version >= UUIDS { json!(host.view.provider_id) } else { json!(host.service.number) }
}

fn short(cx: &Ctx<State>, host: &Host, with_servers: bool) -> Value {
    let mut v = json!({
        "id": id(cx, host), "hypervisor_hostname": host.view.info.hostname, "state": if host.up { "up" } else { "down" },
        "status": if host.service.disabled { "disabled" } else { "enabled" },
    });
    if with_servers && !host.servers.is_empty() {
        v["servers"] = host.servers.iter().map(|s| json!({"name": s.domain(), "uuid": s.id})).collect();
    }
    v
}

fn mb(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Name and number of every figure of use.
fn figures(host: &Host) -> Vec<(&'static str, i64)> {
    let info = &host.view.info;
    let (memory, disk) = (mb(info.memory_mib), mb(info.disk_gib));
    let memory_used = host.used(|s| s.flavor.ram_mb);
    let disk_used = host.used(|s| s.flavor.root_gb + s.flavor.ephemeral_gb);
    vec![
        ("vcpus", i64::from(info.vcpus)),
        ("vcpus_used", host.used(|s| s.flavor.vcpus)),
        ("memory_mb", memory),
        ("memory_mb_used", memory_used),
        ("free_ram_mb", memory - memory_used),
        ("local_gb", disk),
        ("local_gb_used", disk_used),
        ("free_disk_gb", disk - disk_used),
        ("disk_available_least", disk - disk_used),
        ("running_vms", mb(host.running() as u64)),
        ("current_workload", mb(host.busy() as u64)),
    ]
}

async fn long(cx: &Ctx<State>, host: &Host, with_servers: bool) -> Result<Value> {
    let mut v = short(cx, host, with_servers);
    let info = &host.view.info;
    v["hypervisor_type"] = json!(info.hypervisor_type);
    v["hypervisor_version"] = json!(info.hypervisor_version);
    v["host_ip"] = json!("127.0.0.1");
    let service_id = if cx.version >= UUIDS { json!(host.service.id) } else { json!(host.service.number) };
    v["service"] = json!({"host": host.service.host, "id": service_id, "disabled_reason": host.service.disabled_reason});
    if cx.version >= LEAN {
        v["uptime"] = json!(read_uptime(cx, host).await.ok());
        return Ok(v);
    }
    v["cpu_info"] = if cx.version >= Version(2, 28) { info.cpu_info.clone() } else { json!(info.cpu_info.to_string()) };
    for (name, n) in figures(host) {
        v[name] = json!(n);
    }
    Ok(v)
}

/// The hosts a list asks for.
async fn select(cx: &Ctx<State>) -> Result<(Vec<Host>, Option<String>, bool)> {
    cx.authorize_own()?;
    let mut rows = hosts(&cx.state).await?;
    let mut with_servers = false;
    if cx.version >= UUIDS {
        if let Some(pattern) = cx.query.get("hypervisor_hostname_pattern") {
            if cx.query.has("limit") || cx.query.has("marker") {
                return Err(Error::invalid(
                    "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.",
                ));
            }
            rows.retain(|h| h.view.info.hostname.contains(pattern));
            if rows.is_empty() {
                return Err(no_match(pattern));
            }
        }
        with_servers = match cx.query.get("with_servers") {
            None => false,
            Some(t) => cx.query.bool("with_servers").ok_or_else(|| Error::invalid(format!("Invalid value for with_servers: {t}")))?,
        };
    }
    if cx.version < Version(2, 33) {
        return Ok((rows, None, false));
    }
    let page = Page::from_query(&cx.query, forms::MAX_LIMIT)?;
    let key = |h: &Host| if cx.version >= UUIDS { h.view.provider_id.clone() } else { h.service.number.to_string() };
    let (rows, next) = forms::page_of(rows, &page, key)?;
    Ok((rows, next.filter(|_| page.explicit), with_servers))
}

fn no_match(pattern: &str) -> Error {
    Error::not_found(format!("No hypervisor matching '{pattern}' could be found."))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let (rows, next, with_servers) = select(&cx).await?;
    let mut body = json!({"hypervisors": rows.iter().map(|h| short(&cx, h, with_servers)).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "hypervisors", "/os-hypervisors", next);
    Reply::ok(&body)
}

async fn detail(cx: Ctx<State>) -> Result<Reply> {
    let (rows, next, with_servers) = select(&cx).await?;
    let mut views = Vec::with_capacity(rows.len());
    for host in &rows {
        views.push(long(&cx, host, with_servers).await?);
    }
    let mut body = json!({"hypervisors": views});
    forms::add_next(&cx, &mut body, "hypervisors", "/os-hypervisors/detail", next);
    Reply::ok(&body)
}

async fn find(cx: &Ctx<State>) -> Result<Host> {
    cx.authorize_own()?;
    let wanted = cx.param("id");
    if cx.version >= UUIDS && !is_uuid(wanted) {
        return Err(Error::invalid(format!("Invalid uuid {wanted}")));
    }
    let fits = |h: &Host| if cx.version >= UUIDS { h.view.provider_id == wanted } else { h.service.number.to_string() == wanted };
    let found = hosts(&cx.state).await?.into_iter().find(fits);
    found.ok_or_else(|| Error::not_found(format!("Hypervisor with ID '{wanted}' could not be found.")))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let host = find(&cx).await?;
    let with_servers = cx.version >= UUIDS && cx.query.bool("with_servers") == Some(true);
    Reply::ok(&json!({"hypervisor": long(&cx, &host, with_servers).await?}))
}

async fn statistics(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let rows = hosts(&cx.state).await?;
    let mut total = json!({"count": rows.len()});
    for (name, _) in rows.first().map(figures).unwrap_or_default() {
        let sum: i64 = rows.iter().flat_map(figures).filter(|(n, _)| *n == name).map(|(_, v)| v).sum();
        total[name] = json!(sum);
    }
    Reply::ok(&json!({"hypervisor_statistics": total}))
}

async fn matching(cx: &Ctx<State>) -> Result<Vec<Host>> {
    cx.authorize_own()?;
    let pattern = cx.param("id");
    let mut rows = hosts(&cx.state).await?;
    rows.retain(|h| h.view.info.hostname.contains(pattern));
    if rows.is_empty() { Err(no_match(pattern)) } else { Ok(rows) }
}

async fn search(cx: Ctx<State>) -> Result<Reply> {
    let rows = matching(&cx).await?;
    Reply::ok(&json!({"hypervisors": rows.iter().map(|h| short(&cx, h, false)).collect::<Vec<_>>()}))
}

async fn servers(cx: Ctx<State>) -> Result<Reply> {
    let rows = matching(&cx).await?;
    Reply::ok(&json!({"hypervisors": rows.iter().map(|h| short(&cx, h, true)).collect::<Vec<_>>()}))
}

async fn read_uptime(cx: &Ctx<State>, host: &Host) -> Result<String> {
    cx.state.hosts.get(&host.service.host)?.uptime().await
}

async fn uptime(cx: Ctx<State>) -> Result<Reply> {
    let host = find(&cx).await?;
    let text = read_uptime(&cx, &host).await.map_err(|e| Error::invalid("The host does not tell its uptime.").caused_by(e))?;
    let mut v = short(&cx, &host, false);
    v["uptime"] = json!(text);
    Reply::ok(&json!({"hypervisor": v}))
}
