//! What operators ask: services, zones, pools, capabilities, hosts, extensions.

use super::forms;
use super::{admin, reader};
use crate::State;
use crate::state::BACKEND;
use crate::store::{ServiceState, Snapshot, Volume};
use caelum_base::{Error, Result};
use caelum_policy::personas;
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::Query;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SERVICES: &str = "volume_extension:services:index";
const SERVICE_UPDATE: &str = "volume_extension:services:update";

pub const OPS: &[Op<State>] = &[
    Op::get("service_list", "/os-services", admin(SERVICES), h!(services)),
    Op::put("service_update", "/os-services/{what}", admin(SERVICE_UPDATE), h!(service_update)),
    Op::get(
        "zone_list",
        "/os-availability-zone",
        Access::rule("volume:availability_zone_list", personas::ANYONE, personas::PROJECT),
        h!(zones),
    ),
    Op::get("extension_list", "/extensions", Access::Token, h!(extensions)),
    Op::get("pool_list", "/scheduler-stats/get_pools", admin("scheduler_extension:scheduler_stats:get_pools"), h!(pools)),
    Op::get("capabilities_show", "/capabilities/{host}", admin("volume_extension:capabilities"), h!(capabilities)),
    Op::get("host_list", "/os-hosts", admin("volume_extension:hosts"), h!(hosts)),
    Op::get("host_show", "/os-hosts/{host}", admin("volume_extension:hosts"), h!(host_show)),
    Op::get("resource_filter_list", "/resource_filters", reader("volume:get_all_resource_filters"), h!(filters)).since(3, 33),
];

struct Known {
    binary: &'static str,
    host: String,
    row: ServiceState,
}

/// The parts of the service; all run in this process, so whoever answers is up.
async fn known(cx: &Ctx<State>) -> Result<Vec<Known>> {
    let rows: BTreeMap<String, ServiceState> =
        cx.state.db.list::<ServiceState>(Query::new()).await?.into_iter().map(|r| (r.id.clone(), r.into_inner())).collect();
    let parts =
        [("cinder-scheduler", cx.state.node.clone()), ("cinder-volume", cx.state.backend_host()), ("cinder-backup", cx.state.node.clone())];
    Ok(parts
        .into_iter()
        .map(|(binary, host)| {
            let row = rows.get(&format!("{binary}@{host}")).cloned().unwrap_or_default();
            Known { binary, host, row }
        })
        .collect())
}

async fn services(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (binary, host) = (cx.query.get("binary").or_else(|| cx.query.get("service")), cx.query.get("host"));
    let mut out = Vec::new();
    for k in known(&cx).await? {
        let node = k.host.split('@').next().unwrap_or("");
        if binary.is_some_and(|b| b != k.binary) || host.is_some_and(|h| h != k.host && h != node) {
            continue;
        }
        let mut v = json!({
            "binary": k.binary,
            "host": k.host,
            "zone": cx.state.options.availability_zone,
            "status": if k.row.disabled { "disabled" } else { "enabled" },
            "state": "up",
            "updated_at": cx.env.now().iso_micros(),
            "disabled_reason": k.row.disabled_reason,
        });
        if k.binary == "cinder-volume" {
            v["replication_status"] = json!("disabled");
            v["active_backend_id"] = Value::Null;
            v["frozen"] = json!(k.row.frozen);
            if cx.version >= Version(3, 49) {
                v["backend_state"] = json!("up");
            }
        }
        if cx.version >= Version(3, 7) {
            v["cluster"] = Value::Null;
        }
        out.push(v);
    }
    Reply::ok(&json!({"services": out}))
}

async fn service_update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let what = cx.param("what").to_string();
    if !matches!(what.as_str(), "enable" | "disable" | "disable-log-reason" | "freeze" | "thaw") {
        return Err(Error::not_found("Unknown action"));
    }
    let body: Value = cx.json().await?;
    let m = body.as_object().cloned().ok_or_else(|| Error::invalid("The request body must be an object."))?;
    let host = forms::name("host", m.get("host"))?;
    let wanted = if matches!(what.as_str(), "freeze" | "thaw") {
        "cinder-volume".to_string()
    } else {
        forms::name("binary", m.get("binary").or_else(|| m.get("service")))?
    };
    let known = known(&cx).await?;
    let k = known.iter().find(|k| k.binary == wanted && k.host == host);
    let k = k.ok_or_else(|| {
        let text = format!("Service {wanted} could not be found on host {host}.");
        // A host to freeze is named in a body, not by the URL: upstream calls that bad input.
        if matches!(what.as_str(), "freeze" | "thaw") { Error::invalid(text) } else { Error::not_found(text) }
    })?;
    let reason = forms::text("disabled_reason", m.get("disabled_reason"))?;
    if what == "disable-log-reason" && reason.as_deref().is_none_or(str::is_empty) {
        return Err(Error::invalid("Missing required element 'disabled_reason' in request body."));
    }
    let mut row = ServiceState { id: format!("{}@{}", k.binary, k.host), updated_at: cx.env.now(), ..k.row.clone() };
    match what.as_str() {
        "freeze" => row.frozen = true,
        "thaw" => row.frozen = false,
        "enable" => (row.disabled, row.disabled_reason) = (false, None),
        _ => (row.disabled, row.disabled_reason) = (true, reason),
    }
    let new = row.clone();
    let write = move |tx: &mut caelum_store::Tx<'_>| {
        tx.delete_id::<ServiceState>(&new.id)?;
        tx.insert(&new)
    };
    cx.state.db.write(write).await?;
    if matches!(what.as_str(), "freeze" | "thaw") {
        return Ok(Reply::empty(200));
    }
    let mut out = json!({
        "host": host,
        "service": wanted,
        "binary": wanted,
        "status": if row.disabled { "disabled" } else { "enabled" },
        "disabled": row.disabled,
    });
    if what != "disable" {
        out["disabled_reason"] = json!(row.disabled_reason);
    }
    Reply::ok(&out)
}

async fn zones(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let zone = &cx.state.options.availability_zone;
    Reply::ok(&json!({"availabilityZoneInfo": [{"zoneName": zone, "zoneState": {"available": true}}]}))
}

const EXTENSIONS: [(&str, &str, &str); 18] = [
    ("AdminActions", "os-admin-actions", "Actions for administrators: reset status, force delete and detach."),
    ("AvailabilityZones", "os-availability-zone", "Describe availability zones."),
    ("Backups", "backups", "Backups of volumes."),
    ("Capabilities", "capabilities", "Capabilities of the backend."),
    ("ExtendedServices", "os-extended-services", "Services with reasons."),
    ("ExtendedSnapshotAttributes", "os-extended-snapshot-attributes", "Progress and project of snapshots."),
    ("Hosts", "os-hosts", "Hosts for administrators."),
    ("QosSpecs", "qos-specs", "Quality of service specifications."),
    ("Quotas", "os-quota-sets", "Quota management."),
    ("QuotaClasses", "os-quota-class-sets", "Quota classes management."),
    ("SchedulerStats", "scheduler-stats", "Pools of the backend."),
    ("Services", "os-services", "Services management."),
    ("TypesExtraSpecs", "os-types-extra-specs", "Extra specs of volume types."),
    ("UsedLimits", "os-used-limits", "Limits with usage."),
    ("VolumeActions", "os-volume-actions", "Actions on volumes."),
    ("VolumeImageMetadata", "os-vol-image-meta", "Image metadata of volumes."),
    ("VolumeTransfer", "os-volume-transfer", "Transfers of volumes between projects."),
    ("VolumeTypeAccess", "os-volume-type-access", "Access to private volume types."),
];

async fn extensions(_: Ctx<State>) -> Result<Reply> {
    let all = EXTENSIONS.iter().map(|(name, alias, description)| {
        json!({"name": name, "alias": alias, "description": description, "updated": "2026-03-01T00:00:00+00:00", "links": []})
    });
    Reply::ok(&json!({"extensions": all.collect::<Vec<_>>()}))
}

async fn pools(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut pool = json!({"name": cx.state.pool()});
    if cx.query.bool("detail") == Some(true) {
        let room = cx.state.driver.room().await?;
        // GiB with two digits, as operators read them.
        let gib = |b: u64| (b as f64 / f64::from(1 << 30) * 100.0).round() / 100.0;
        let allocated: i64 = cx.state.db.read(|tx| tx.sum::<Volume>("size", &Query::new())).await?;
        pool["capabilities"] = json!({
            "timestamp": cx.env.now().iso_micros(),
            "updated": cx.env.now().iso_micros(),
            "volume_backend_name": BACKEND,
            "vendor_name": "Caelum",
            "driver_version": env!("CARGO_PKG_VERSION"),
            "storage_protocol": "file",
            "QoS_support": false,
            "multiattach": true,
            "thin_provisioning_support": true,
            "reserved_percentage": 0,
            "total_capacity_gb": gib(room.total),
            "free_capacity_gb": gib(room.free),
            "allocated_capacity_gb": allocated,
        });
    }
    Reply::ok(&json!({"pools": [pool]}))
}

async fn capabilities(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let host = cx.param("host");
    if ![cx.state.backend_host(), cx.state.pool(), cx.state.node.clone()].iter().any(|h| h == host) {
        return Err(Error::not_found(format!("Service {host} could not be found.")));
    }
    let flag = |title: &str, description: &str| json!({"title": title, "description": description, "type": "boolean"});
    Reply::ok(&json!({
        "namespace": format!("OS::Storage::Capabilities::{host}"),
        "vendor_name": "Caelum",
        "volume_backend_name": BACKEND,
        "pool_name": BACKEND,
        "driver_version": env!("CARGO_PKG_VERSION"),
        "storage_protocol": "file",
        "display_name": "Files",
        "description": "One file per volume",
        "visibility": "public",
        "replication_targets": [],
        "properties": {
            "multiattach": flag("Multiattach", "Several servers may have one volume."),
            "thin_provisioning": flag("Thin Provisioning", "Volumes take room as they are written."),
        },
    }))
}

async fn hosts(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let all = known(&cx).await?.into_iter().map(|k| {
        json!({
            "host_name": k.host,
            "service": k.binary,
            "zone": cx.state.options.availability_zone,
            "service-status": "available",
            "service-state": if k.row.disabled { "disabled" } else { "enabled" },
            "last-update": cx.env.now().iso_micros(),
        })
    });
    Reply::ok(&json!({"hosts": all.collect::<Vec<_>>()}))
}

async fn host_show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let host = cx.param("host").to_string();
    if !known(&cx).await?.iter().any(|k| k.host == host) {
        return Err(Error::not_found(format!("Host {host} could not be found.")));
    }
    let (volumes, snapshots) = cx.state.db.read(|tx| Ok((tx.list::<Volume>(&Query::new())?, tx.list::<Snapshot>(&Query::new())?))).await?;
    let mine = |h: &str| h.split('#').next() == Some(&host);
    let mut per: BTreeMap<&str, (i64, i64, i64, i64)> = BTreeMap::new();
    for v in volumes.iter().filter(|v| mine(&v.host)) {
        for key in ["(total)", v.project_id.as_str()] {
            let e = per.entry(key).or_default();
            (e.0, e.1) = (e.0 + 1, e.1 + v.size);
        }
    }
    for s in snapshots.iter().filter(|_| host == cx.state.backend_host()) {
        for key in ["(total)", s.project_id.as_str()] {
            let e = per.entry(key).or_default();
            (e.2, e.3) = (e.2 + 1, e.3 + s.size);
        }
    }
    per.entry("(total)").or_default();
    let rows = per.iter().map(|(project, (n, gb, sn, sgb))| {
        json!({"resource": {
            "host": host, "project": project,
            "volume_count": n.to_string(), "total_volume_gb": gb.to_string(),
            "snapshot_count": sn.to_string(), "total_snapshot_gb": sgb.to_string(),
        }})
    });
    Reply::ok(&json!({"host": rows.collect::<Vec<_>>()}))
}

async fn filters(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let all = [
        ("volume", json!(["name", "status", "metadata", "bootable", "availability_zone", "created_at", "updated_at", "group_id", "size"])),
        ("snapshot", json!(["name", "status", "volume_id", "metadata", "created_at", "updated_at"])),
        ("backup", json!(["name", "status", "volume_id"])),
        ("attachment", json!(["volume_id", "status", "instance_id"])),
        ("message", json!(["resource_uuid", "resource_type", "event_id", "request_id", "message_level"])),
    ];
    let wanted = cx.query.get("resource");
    let out = all.into_iter().filter(|(k, _)| wanted.is_none_or(|w| w == *k)).map(|(k, v)| json!({"resource": k, "filters": v}));
    Reply::ok(&json!({"resource_filters": out.collect::<Vec<_>>()}))
}
