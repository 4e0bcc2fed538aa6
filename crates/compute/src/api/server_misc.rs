//! Small things of a server: diagnostics, topology, password, migrations; and events that other
//! services send.

use super::servers::{lookup, lookup_unlocked};
use super::wire::gate;
use crate::State;
use crate::logic::events;
use crate::store::servers;
use caelum_base::{Error, Result};
use caelum_hypervisor::PowerState;
use caelum_policy::personas::{ADMIN, ADMIN_OR_SERVICE, PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

const PASSWORD: &str = "/servers/{id}/os-server-password";

pub const OPS: &[Op<State>] = &[
    Op::get("server_diagnostics", "/servers/{id}/diagnostics", admin("os_compute_api:os-server-diagnostics"), h!(diagnostics)),
    Op::get("server_topology", "/servers/{id}/topology", reader("compute:server:topology:index"), h!(topology)).since(2, 78),
    Op::get("server_password_show", PASSWORD, reader("os_compute_api:os-server-password:show"), h!(password_show)),
    Op::delete("server_password_clear", PASSWORD, member("os_compute_api:os-server-password:clear"), h!(password_clear)),
    Op::get("server_migration_list", "/servers/{id}/migrations", admin("os_compute_api:servers:migrations:index"), h!(migrations))
        .since(2, 23),
    Op::post(
        "server_external_events",
        "/os-server-external-events",
        Access::rule("os_compute_api:os-server-external-events:create", ADMIN_OR_SERVICE, PROJECT),
        h!(external_events),
    ),
];

fn state_name(power: PowerState) -> &'static str {
    match power {
        PowerState::NoState => "pending",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Shutdown => "shutdown",
        PowerState::Crashed => "crashed",
        PowerState::Suspended => "suspended",
    }
}

async fn diagnostics(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let host = crate::logic::ops::host(&s)?;
    let seen = cx.state.hosts.get(&host)?.get(&s.id).await?;
    let seen = seen.ok_or_else(|| Error::conflict(format!("Instance {} is not ready", s.id)))?;
    let memory_kib = s.flavor.ram_mb * 1024;
    if cx.version < Version(2, 48) {
        return Reply::ok(&json!({"memory": memory_kib, "vcpus": s.flavor.vcpus}));
    }
    let cpus: Vec<Value> = (0..s.flavor.vcpus).map(|i| json!({"id": i, "time": null, "utilisation": null})).collect();
    let nics = s.ports.iter().map(|p| {
        json!({"mac_address": p.mac, "rx_octets": null, "rx_errors": null, "rx_drop": null, "rx_packets": null, "rx_rate": null,
            "tx_octets": null, "tx_errors": null, "tx_drop": null, "tx_packets": null, "tx_rate": null})
    });
    let nics: Vec<Value> = nics.collect();
    let n_disks = s.volumes.len() + usize::from(!s.volume_backed());
    let disks: Vec<Value> = (0..n_disks)
        .map(|_| json!({"read_bytes": null, "read_requests": null, "write_bytes": null, "write_requests": null, "errors_count": null}))
        .collect();
    let uptime = s.launched_at.map(|t| cx.env.now().since(t).as_secs());
    Reply::ok(&json!({
        "state": state_name(seen.power), "driver": "libvirt", "hypervisor": cx.state.host_view(&host).map(|v| v.info.virt_type),
        "hypervisor_os": "linux", "uptime": uptime, "config_drive": s.config_drive, "num_cpus": s.flavor.vcpus,
        "num_nics": s.ports.len(), "num_disks": n_disks, "memory_details": {"maximum": s.flavor.ram_mb, "used": null},
        "cpu_details": cpus, "nic_details": nics, "disk_details": disks,
    }))
}

async fn topology(cx: Ctx<State>) -> Result<Reply> {
    lookup(&cx).await?;
    // Guests have no NUMA cells of their own here.
    Reply::ok(&json!({"nodes": [], "pagesize_kb": null}))
}

async fn password_show(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"password": lookup(&cx).await?.guest_password}))
}

async fn password_clear(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let id = s.id.clone();
    cx.state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            s.guest_password.clear();
            tx.update(&mut s)
        })
        .await?;
    Ok(Reply::no_content())
}

async fn migrations(cx: Ctx<State>) -> Result<Reply> {
    lookup(&cx).await?;
    Reply::ok(&json!({"migrations": []}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsBody {
    events: Vec<EventIn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventIn {
    name: String,
    server_uuid: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    tag: Option<String>,
}

async fn external_events(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: EventsBody = cx.json().await?;
    if body.events.is_empty() {
        return Err(Error::invalid("Invalid input for field/attribute events. [] is too short"));
    }
    let (mut out, mut fine) = (Vec::with_capacity(body.events.len()), 0);
    for e in body.events {
        let since = match e.name.as_str() {
            "network-changed" | "network-vif-plugged" | "network-vif-unplugged" | "network-vif-deleted" => 1,
            "volume-extended" => 51,
            "power-update" => 76,
            "accelerator-request-bound" => 82,
            "volume-reimaged" => 93,
            other => return Err(Error::invalid(format!("Invalid input for field/attribute name. Value: {other}."))),
        };
        gate(&cx, &e.name, true, since, u32::MAX)?;
        let status = e.status.unwrap_or_else(|| "completed".to_string());
        if !matches!(status.as_str(), "failed" | "completed" | "in-progress") {
            return Err(Error::invalid(format!("Invalid event status `{status}`")));
        }
        let code = events::receive(&cx.state, &e.name, &e.server_uuid, e.tag.as_deref()).await?;
        fine += usize::from(code == 200);
        let mut v = json!({"name": e.name, "server_uuid": e.server_uuid, "status": if code == 200 { status } else { "failed".into() }, "code": code});
        if let Some(t) = e.tag {
            v["tag"] = json!(t);
        }
        out.push(v);
    }
    let status = match fine {
        0 => return Err(Error::not_found("No instances found for any event")),
        n if n == out.len() => 200,
        _ => 207,
    };
    Reply::json(status, &json!({"events": out}))
}
