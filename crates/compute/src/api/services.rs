//! `/os-services` and `/os-hosts`.

use super::forms;
use crate::State;
use crate::logic::hosts::{self, COMPUTE, zone};
use crate::store::aggregates::Aggregate;
use crate::store::servers::Server;
use crate::store::services::ServiceRow;
use caelum_base::{Error, Result, is_uuid};
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::{Query, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

const UPDATE: Access = admin("os_compute_api:os-services:update");

pub const OPS: &[Op<State>] = &[
    Op::get("service_list", "/os-services", admin("os_compute_api:os-services:list"), h!(list)),
    Op::put("service_enable", "/os-services/enable", UPDATE, h!(enable)).until(2, 52),
    Op::put("service_disable", "/os-services/disable", UPDATE, h!(disable)).until(2, 52),
    Op::put("service_disable_log_reason", "/os-services/disable-log-reason", UPDATE, h!(disable_log_reason)).until(2, 52),
    Op::put("service_force_down", "/os-services/force-down", UPDATE, h!(force_down)).since(2, 11).until(2, 52),
    Op::put("service_update", "/os-services/{id}", UPDATE, h!(update)).since(2, 53),
    Op::delete("service_delete", "/os-services/{id}", admin("os_compute_api:os-services:delete"), h!(delete)),
    Op::get("host_list", "/os-hosts", admin("os_compute_api:os-hosts:list"), h!(host_list)).until(2, 42),
    Op::get("host_show", "/os-hosts/{name}", admin("os_compute_api:os-hosts:show"), h!(host_show)).until(2, 42),
];

fn view(cx: &Ctx<State>, s: &ServiceRow, aggregates: &[Aggregate]) -> Value {
    let mut v = json!({
        "id": if cx.version >= Version(2, 53) { json!(s.id) } else { json!(s.number) },
        "binary": s.binary, "host": s.host, "zone": zone(s, aggregates), "status": status(s),
        "state": if s.is_up(cx.env.now()) { "up" } else { "down" }, "updated_at": s.seen_at.iso_micros(),
        "disabled_reason": s.disabled_reason,
    });
    if cx.version >= Version(2, 11) {
        v["forced_down"] = json!(s.forced_down);
    }
    v
}

fn status(s: &ServiceRow) -> &'static str {
    if s.disabled { "disabled" } else { "enabled" }
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    forms::known_params(&cx, Version(2, 75), &["host", "binary"])?;
    let (rows, aggregates) = cx.state.db.read(hosts::services).await?;
    let fits = |key: &str, value: &str| cx.query.get(key).is_none_or(|t| t.is_empty() || t == value);
    let rows = rows.iter().filter(|s| fits("host", &s.host) && fits("binary", &s.binary));
    Reply::ok(&json!({"services": rows.map(|s| view(&cx, s, &aggregates)).collect::<Vec<_>>()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByName {
    host: String,
    binary: String,
    disabled_reason: Option<String>,
    #[serde(default, deserialize_with = "forms::opt_bool")]
    forced_down: Option<bool>,
}

fn checked_reason(reason: &str) -> Result<()> {
    let n = reason.chars().count();
    if (1..=255).contains(&n) && reason.trim() == reason {
        return Ok(());
    }
    Err(Error::invalid("Disabled reason contains invalid characters or is too long"))
}

/// Changes the service a body names (until 2.52).
async fn by_name(cx: &mut Ctx<State>, f: impl Fn(&mut ServiceRow, &ByName) + Send + Sync + 'static) -> Result<ServiceRow> {
    cx.authorize_own()?;
    let body: ByName = cx.json().await?;
    forms::check_name("host", &body.host)?;
    forms::check_name("binary", &body.binary)?;
    if let Some(reason) = &body.disabled_reason {
        checked_reason(reason)?;
    }
    let write = move |tx: &mut Tx<'_>| {
        let q = Query::new().eq("host", body.host.as_str()).eq("binary_name", body.binary.as_str());
        let row = tx.first::<ServiceRow>(&q)?;
        let mut row = row.ok_or_else(|| Error::not_found(format!("Could not find binary {} on host {}.", body.binary, body.host)))?;
        f(&mut row, &body);
        tx.update(&mut row)?;
        Ok(row.into_inner())
    };
    cx.state.db.write(write).await
}

async fn enable(mut cx: Ctx<State>) -> Result<Reply> {
    let s = by_name(&mut cx, |s, _| (s.disabled, s.disabled_reason) = (false, None)).await?;
    Reply::ok(&json!({"service": {"host": s.host, "binary": s.binary, "status": status(&s)}}))
}

async fn disable(mut cx: Ctx<State>) -> Result<Reply> {
    let s = by_name(&mut cx, |s, _| s.disabled = true).await?;
    Reply::ok(&json!({"service": {"host": s.host, "binary": s.binary, "status": status(&s)}}))
}

async fn disable_log_reason(mut cx: Ctx<State>) -> Result<Reply> {
    let body: BTreeMap<String, Value> = cx.json().await?;
    if !body.contains_key("disabled_reason") {
        cx.authorize_own()?;
        return Err(Error::invalid("Missing disabled reason field"));
    }
    let s = by_name(&mut cx, |s, b| (s.disabled, s.disabled_reason) = (true, b.disabled_reason.clone())).await?;
    Reply::ok(&json!({"service": {"host": s.host, "binary": s.binary, "status": status(&s), "disabled_reason": s.disabled_reason}}))
}

async fn force_down(mut cx: Ctx<State>) -> Result<Reply> {
    let s = by_name(&mut cx, |s, b| s.forced_down = b.forced_down.unwrap_or(s.forced_down)).await?;
    Reply::ok(&json!({"service": {"host": s.host, "binary": s.binary, "forced_down": s.forced_down}}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    status: Option<String>,
    disabled_reason: Option<String>,
    #[serde(default, deserialize_with = "forms::opt_bool")]
    forced_down: Option<bool>,
}

impl Update {
    fn check(&self) -> Result<()> {
        if self.status.is_none() && self.forced_down.is_none() {
            return Err(Error::invalid("No updates were requested. Fields 'status' or 'forced_down' should be specified."));
        }
        if !matches!(self.status.as_deref(), None | Some("enabled" | "disabled")) {
            return Err(Error::invalid("Invalid input for field/attribute status. It must be enabled or disabled."));
        }
        if let Some(reason) = &self.disabled_reason {
            checked_reason(reason)?;
            if self.status.as_deref() != Some("disabled") {
                return Err(Error::invalid("Specifying 'disabled_reason' requires 'status' to be 'disabled'."));
            }
        }
        Ok(())
    }
}

/// A service by UUID, or by number before 2.53.
fn require(tx: &mut Tx<'_>, id: &str) -> Result<Stored<ServiceRow>> {
    let found = match id.parse::<i64>() {
        Ok(n) => tx.list::<ServiceRow>(&Query::new())?.into_iter().find(|s| s.number == n),
        Err(_) => tx.get::<ServiceRow>(id)?,
    };
    found.ok_or_else(|| Error::not_found(format!("Service {id} could not be found.")))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = cx.param("id").to_string();
    if !is_uuid(&id) {
        return Err(Error::invalid(format!("Invalid uuid {id}")));
    }
    let body: Update = cx.json().await?;
    body.check()?;
    let write = move |tx: &mut Tx<'_>| {
        let mut s = require(tx, &id)?;
        if s.binary != COMPUTE {
            return Err(Error::invalid(format!(
                "Updating a {} service is not supported. Only nova-compute services can be updated.",
                s.binary
            )));
        }
        if let Some(status) = &body.status {
            s.disabled = status == "disabled";
            s.disabled_reason = body.disabled_reason.clone();
        }
        s.forced_down = body.forced_down.unwrap_or(s.forced_down);
        tx.update(&mut s)?;
        Ok(s.into_inner())
    };
    let s = cx.state.db.write(write).await?;
    let (_, aggregates) = cx.state.db.read(hosts::services).await?;
    Reply::ok(&json!({"service": view(&cx, &s, &aggregates)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = cx.param("id").to_string();
    let fine = if cx.version >= Version(2, 53) { is_uuid(&id) } else { id.parse::<i64>().is_ok() };
    if !fine {
        return Err(Error::invalid(format!("Invalid service id {id}")));
    }
    let write = move |tx: &mut Tx<'_>| {
        let s = require(tx, &id)?;
        if s.binary == COMPUTE {
            if tx.first::<Server>(&Query::new().eq("host", s.host.as_str()))?.is_some() {
                return Err(Error::conflict(
                    "Unable to delete compute service that is hosting instances. Migrate or delete the instances first.",
                ));
            }
            for mut a in tx.list::<Aggregate>(&Query::new())? {
                if a.hosts.remove(&s.host) {
                    tx.update(&mut a)?;
                }
            }
        }
        tx.delete(&s)
    };
    cx.state.db.write(write).await?;
    Ok(Reply::no_content())
}

async fn host_list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (rows, aggregates) = cx.state.db.read(hosts::services).await?;
    let wanted = cx.query.get("zone");
    let view = |s: &ServiceRow| {
        let zone = zone(s, &aggregates);
        let service = s.binary.strip_prefix("nova-").unwrap_or(&s.binary);
        wanted.is_none_or(|w| w == zone).then(|| json!({"host_name": s.host, "service": service, "zone": zone}))
    };
    Reply::ok(&json!({"hosts": rows.iter().filter_map(view).collect::<Vec<_>>()}))
}

async fn host_show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let name = cx.param("name").to_string();
    let found = hosts::hosts(&cx.state).await?.into_iter().find(|h| h.service.host == name);
    let host = found.ok_or_else(|| Error::not_found(format!("Compute host {name} could not be found.")))?;
    let row = |project: &str, cpu: i64, memory: i64, disk: i64| json!({"resource": {"host": name, "project": project, "cpu": cpu, "memory_mb": memory, "disk_gb": disk}});
    let disk = |s: &Server| s.flavor.root_gb + s.flavor.ephemeral_gb;
    let info = &host.view.info;
    let (memory, total_disk) = (i64::try_from(info.memory_mib).unwrap_or(i64::MAX), i64::try_from(info.disk_gib).unwrap_or(i64::MAX));
    let mut rows = vec![row("(total)", i64::from(info.vcpus), memory, total_disk)];
    for word in ["(used_now)", "(used_max)"] {
        rows.push(row(word, host.used(|s| s.flavor.vcpus), host.used(|s| s.flavor.ram_mb), host.used(disk)));
    }
    let mut projects: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for s in &host.servers {
        let sum = projects.entry(&s.project_id).or_default();
        *sum = (sum.0 + s.flavor.vcpus, sum.1 + s.flavor.ram_mb, sum.2 + disk(s));
    }
    rows.extend(projects.into_iter().map(|(p, (cpu, memory, disk))| row(p, cpu, memory, disk)));
    Reply::ok(&json!({"host": rows}))
}
