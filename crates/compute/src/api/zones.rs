//! `/os-availability-zone`.

use crate::State;
use crate::logic::hosts::{self, COMPUTE};
use caelum_base::Result;
use caelum_policy::personas::{ADMIN, ANYONE, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("zone_list", "/os-availability-zone", Access::rule("os_compute_api:os-availability-zone:list", ANYONE, PROJECT), h!(list)),
    Op::get(
        "zone_list_detail",
        "/os-availability-zone/detail",
        Access::rule("os_compute_api:os-availability-zone:detail", ADMIN, PROJECT),
        h!(detail),
    ),
];

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (services, aggregates) = cx.state.db.read(hosts::services).await?;
    // A zone is available when one of its hosts takes servers.
    let mut zones: BTreeMap<String, bool> = BTreeMap::new();
    for s in services.iter().filter(|s| s.binary == COMPUTE) {
        *zones.entry(hosts::zone(s, &aggregates)).or_default() |= !s.disabled;
    }
    let view = |(name, open): (String, bool)| json!({"zoneName": name, "zoneState": {"available": open}, "hosts": null});
    Reply::ok(&json!({"availabilityZoneInfo": zones.into_iter().map(view).collect::<Vec<_>>()}))
}

async fn detail(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let now = cx.env.now();
    let (services, aggregates) = cx.state.db.read(hosts::services).await?;
    let mut zones: BTreeMap<String, (bool, Map<String, Value>)> = BTreeMap::new();
    for s in &services {
        let (open, hosts) = zones.entry(hosts::zone(s, &aggregates)).or_default();
        *open |= !s.disabled;
        let state = json!({"active": !s.disabled, "available": s.is_up(now), "updated_at": s.seen_at.iso_micros()});
        hosts.entry(s.host.clone()).or_insert_with(|| json!({}))[&s.binary] = state;
    }
    let view = |(name, (open, hosts))| json!({"zoneName": name, "zoneState": {"available": open}, "hosts": hosts});
    Reply::ok(&json!({"availabilityZoneInfo": zones.into_iter().map(view).collect::<Vec<_>>()}))
}
