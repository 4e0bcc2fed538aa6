//! Choosing a host: placement's candidates, filtered and weighed. Pure but for [`choose`], which
//! reads; the claim is placement's own atomic check.

use crate::State;
use crate::reconcile::HostView;
use crate::store::aggregates::{Aggregate, zone_of};
use crate::store::flavors::Flavor;
use crate::store::groups::ServerGroup;
use crate::store::servers::{ImageFacts, Server, members};
use crate::store::services::ServiceRow;
use caelum_base::{Error, Result, Timestamp};
use caelum_store::{Query, Tx};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a server needs of a host.
#[derive(Clone, Debug)]
pub struct Request {
    pub server_id: String,
    pub project_id: String,
    pub user_id: String,
    pub flavor: Flavor,
    pub image: Option<ImageFacts>,
    /// Boots from a volume: no root disk on the host.
    pub volume_backed: bool,
    pub zone: Option<String>,
    /// An administrator's choice; filters do not apply.
    pub forced_host: Option<String>,
    /// An administrator's choice that filters check.
    pub requested_host: Option<String>,
    pub group_id: Option<String>,
    pub hints: Map<String, Value>,
}

impl Request {
    pub fn of(s: &Server) -> Self {
        Self {
            server_id: s.id.clone(),
            project_id: s.project_id.clone(),
            user_id: s.user_id.clone(),
            flavor: s.flavor.clone(),
            image: s.image.clone(),
            volume_backed: s.volume_backed(),
            zone: s.pinned_zone.clone(),
            forced_host: None,
            requested_host: None,
            group_id: s.group_id.clone(),
            hints: s.scheduler_hints.clone(),
        }
    }

    /// Placement's resource amounts.
    pub fn resources(&self) -> BTreeMap<String, i64> {
        resources(&self.flavor, self.volume_backed)
    }
}

/// What a server of this flavor takes from its host.
pub fn resources(flavor: &Flavor, volume_backed: bool) -> BTreeMap<String, i64> {
    let root = if volume_backed { 0 } else { flavor.root_gb };
    let disk = root + flavor.ephemeral_gb + (flavor.swap_mb + 1023) / 1024;
    let mut out: BTreeMap<String, i64> =
        [("VCPU", flavor.vcpus), ("MEMORY_MB", flavor.ram_mb), ("DISK_GB", disk)].map(|(k, v)| (k.to_string(), v)).into();
    for (key, value) in &flavor.extra_specs {
        if let (Some(class), Ok(n)) = (key.strip_prefix("resources:"), value.parse()) {
            out.insert(class.to_string(), n);
        }
    }
    out.retain(|_, n| *n > 0);
    out
}

#[derive(Deserialize)]
struct Candidates {
    allocation_requests: Vec<AllocationRequest>,
    provider_summaries: HashMap<String, Summary>,
}
#[derive(Deserialize)]
struct AllocationRequest {
    allocations: HashMap<String, Value>,
}
#[derive(Deserialize)]
struct Summary {
    resources: HashMap<String, Amount>,
}
#[derive(Deserialize)]
struct Amount {
    capacity: i64,
    used: i64,
}

/// A host that could take the server.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub host: String,
    pub zone: String,
    pub provider_id: String,
    free: BTreeMap<String, i64>,
    building: i64,
    group_members: i64,
}

pub fn no_valid_host() -> Error {
    Error::conflict("No valid host was found. There are not enough hosts available.").code("NoValidHost")
}

/// A workflow asks again.
fn hosts_awaited() -> Error {
    Error::unavailable("The hosts have not reported yet.")
}

fn candidates_path(req: &Request, amounts: &BTreeMap<String, i64>) -> String {
    let list = amounts.iter().map(|(k, v)| format!("{k}:{v}")).collect::<Vec<_>>().join(",");
    let mut path = format!("/allocation_candidates?limit=1000&resources={list}");
    let mut traits: Vec<String> = Vec::new();
    let image_props = req.image.iter().flat_map(|i| i.properties.iter());
    for (key, value) in req.flavor.extra_specs.iter().chain(image_props) {
        let Some(name) = key.strip_prefix("trait:") else { continue };
        match value.as_str() {
            "required" => traits.push(name.to_string()),
            "forbidden" => traits.push(format!("!{name}")),
            _ => {}
        }
    }
    if !traits.is_empty() {
        path.push_str(&format!("&required={}", traits.join(",")));
    }
    path
}

/// Hosts for the server, best first. Errors: `Conflict` (code `NoValidHost`) when there is none.
pub async fn choose(state: &State, req: &Request) -> Result<Vec<Candidate>> {
    let amounts = req.resources();
    let mut found: Candidates = if amounts.is_empty() {
        Candidates { allocation_requests: Vec::new(), provider_summaries: HashMap::new() }
    } else {
        state.peers.placement.get(candidates_path(req, &amounts)).fetch().await?
    };
    let views: Vec<HostView> = state.host_views();
    if views.is_empty() && state.hosts.iter().next().is_some() {
        // Just started: nobody can say yet that there is no room.
        return Err(Error::unavailable("No compute host has reported yet."));
    }
    if amounts.is_empty() {
        // A server that needs nothing fits anywhere.
        let all = views.iter().map(|v| AllocationRequest { allocations: [(v.provider_id.clone(), Value::Null)].into() });
        found.allocation_requests = all.collect();
    }
    let now = state.env.now();
    let (views, wanted) = (views, req.clone());
    let facts = state.db.read(move |tx| Facts::read(tx, &wanted)).await?;
    let mut out = Vec::new();
    for a in &found.allocation_requests {
        let Some(view) = views.iter().find(|v| a.allocations.contains_key(&v.provider_id)) else { continue };
        let free = found.provider_summaries.get(&view.provider_id).map(free_of).unwrap_or_default();
        let zone = zone_of(&facts.aggregates, &view.name);
        if let Err(reason) = passes(req, &facts, view, &zone, now) {
            tracing::debug!(server = req.server_id, host = view.name, reason, "compute: host filtered");
            continue;
        }
        out.push(Candidate {
            host: view.name.clone(),
            zone,
            provider_id: view.provider_id.clone(),
            free,
            building: facts.building.get(&view.name).copied().unwrap_or(0),
            group_members: facts.group_on(&view.name),
        });
    }
    if out.is_empty() {
        return Err(if state.hosts_expected() { hosts_awaited() } else { no_valid_host() });
    }
    let jitter = state.env.bytes(out.len());
    let soft = facts.group.as_ref().map(|g| g.policy.clone()).unwrap_or_default();
    weigh(&mut out, &soft, &jitter);
    Ok(out)
}

fn free_of(s: &Summary) -> BTreeMap<String, i64> {
    s.resources.iter().map(|(k, a)| (k.clone(), a.capacity - a.used)).collect()
}

/// What filters ask the database.
#[derive(Default)]
struct Facts {
    services: BTreeMap<String, ServiceRow>,
    aggregates: Vec<Aggregate>,
    group: Option<ServerGroup>,
    /// Hosts of the group's members other than this server.
    group_hosts: Vec<String>,
    /// Host by server named in a hint.
    hint_hosts: BTreeMap<String, Option<String>>,
    building: BTreeMap<String, i64>,
}

impl Facts {
    fn read(tx: &mut Tx<'_>, req: &Request) -> Result<Self> {
        let mut out = Self::default();
        let services = tx.list::<ServiceRow>(&Query::new().eq("binary_name", "nova-compute"))?;
        out.services = services.into_iter().map(|s| (s.host.clone(), s.value)).collect();
        out.aggregates = tx.list::<Aggregate>(&Query::new())?.into_iter().map(|a| a.value).collect();
        if let Some(id) = &req.group_id {
            out.group = tx.get::<ServerGroup>(id)?.map(|g| g.value);
            out.group_hosts = members(tx, id)?.into_iter().filter(|s| s.id != req.server_id).filter_map(|s| s.host.clone()).collect();
        }
        for id in hint_ids(&req.hints, "same_host").iter().chain(&hint_ids(&req.hints, "different_host")) {
            // Another project's servers say nothing.
            let server = tx.get::<Server>(id)?.filter(|s| s.project_id == req.project_id);
            out.hint_hosts.insert(id.clone(), server.and_then(|s| s.host.clone()));
        }
        let rows = tx.query("SELECT host, COUNT(*) AS n FROM servers WHERE task = 'spawning' AND host IS NOT NULL GROUP BY host", &[])?;
        for r in rows {
            out.building.insert(r.text("host")?, r.int("n")?);
        }
        Ok(out)
    }

    fn group_on(&self, host: &str) -> i64 {
        i64::try_from(self.group_hosts.iter().filter(|h| *h == host).count()).unwrap_or(i64::MAX)
    }
}

fn hint_ids(hints: &Map<String, Value>, key: &str) -> Vec<String> {
    match hints.get(key) {
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(a)) => a.iter().filter_map(|v| v.as_str().map(String::from)).collect(),
        _ => Vec::new(),
    }
}

/// Whether a host may take the server; the name of the filter that says no otherwise.
fn passes(req: &Request, facts: &Facts, view: &HostView, zone: &str, now: Timestamp) -> std::result::Result<(), &'static str> {
    let host = view.name.as_str();
    if let Some(forced) = &req.forced_host {
        return if forced == host { Ok(()) } else { Err("forced host") };
    }
    let check = |ok: bool, name: &'static str| if ok { Ok(()) } else { Err(name) };
    check(req.requested_host.as_deref().is_none_or(|h| h == host), "requested host")?;
    let service = facts.services.get(host);
    check(service.is_some_and(|s| !s.disabled && s.is_up(now)), "ComputeFilter")?;
    check(req.zone.as_deref().is_none_or(|z| z == zone), "AvailabilityZone")?;
    check(image_fits(req.image.as_ref(), view), "ImageProperties")?;
    check(capabilities_fit(&req.flavor, view), "ComputeCapabilities")?;
    let same = hint_ids(&req.hints, "same_host");
    let on = |id: &String| facts.hint_hosts.get(id).and_then(|h| h.as_deref()) == Some(host);
    check(same.is_empty() || same.iter().any(on), "SameHost")?;
    check(!hint_ids(&req.hints, "different_host").iter().any(on), "DifferentHost")?;
    check(group_fits(facts, host), "ServerGroup")?;
    let mine: Vec<&Aggregate> = facts.aggregates.iter().filter(|a| a.hosts.contains(host)).collect();
    check(specs_fit(&req.flavor, &mine), "AggregateInstanceExtraSpecs")?;
    check(tenant_fits(&req.project_id, &mine), "AggregateMultiTenancyIsolation")
}

fn image_fits(image: Option<&ImageFacts>, view: &HostView) -> bool {
    let Some(image) = image else { return true };
    let wants = |key: &str| image.properties.get(key).map(String::as_str);
    let arch = view.info.cpu_info.get("arch").and_then(Value::as_str).unwrap_or("x86_64");
    let arch_ok = wants("hw_architecture").or(wants("architecture")).is_none_or(|a| a == arch || a.is_empty());
    let kind = wants("img_hv_type").or(wants("hypervisor_type"));
    let kind_ok = kind.is_none_or(|k| view.info.virt_type == "sim" || matches!(k, "kvm" | "qemu") || k == view.info.hypervisor_type);
    arch_ok && kind_ok
}

fn capabilities_fit(flavor: &Flavor, view: &HostView) -> bool {
    flavor.extra_specs.iter().all(|(key, want)| {
        let Some(name) = key.strip_prefix("capabilities:") else { return true };
        let have = match name {
            "hypervisor_type" => view.info.hypervisor_type.clone(),
            "hypervisor_version" => view.info.hypervisor_version.to_string(),
            "cpu_info:arch" => view.info.cpu_info["arch"].as_str().unwrap_or("").to_string(),
            "cpu_info:vendor" => view.info.cpu_info["vendor"].as_str().unwrap_or("").to_string(),
            "cpu_info:model" => view.info.cpu_info["model"].as_str().unwrap_or("").to_string(),
            _ => return false,
        };
        spec_matches(want, &have)
    })
}

fn group_fits(facts: &Facts, host: &str) -> bool {
    let Some(group) = &facts.group else { return true };
    match group.policy.as_str() {
        "affinity" => facts.group_hosts.is_empty() || facts.group_on(host) > 0,
        "anti-affinity" => facts.group_on(host) < group.max_server_per_host.unwrap_or(1),
        _ => true,
    }
}

/// Extra specs without a scope or in scope `aggregate_instance_extra_specs` must be met by the
/// metadata of the host's aggregates.
fn specs_fit(flavor: &Flavor, aggregates: &[&Aggregate]) -> bool {
    flavor.extra_specs.iter().all(|(key, want)| {
        let name = match key.split_once(':') {
            Some(("aggregate_instance_extra_specs", n)) => n,
            Some(_) => return true,
            None => key.as_str(),
        };
        aggregates.iter().filter_map(|a| a.metadata.get(name)).any(|have| spec_matches(want, have))
    })
}

/// The extra specs operators of upstream: comparison, sets, plain equality.
fn spec_matches(want: &str, have: &str) -> bool {
    let mut words = want.split_whitespace();
    let op = words.next().unwrap_or("");
    let args: Vec<&str> = words.collect();
    let number = |t: &str| t.parse::<f64>().ok();
    let compare = |f: fn(f64, f64) -> bool| match (number(have), args.first().and_then(|a| number(a))) {
        (Some(h), Some(w)) => f(h, w),
        _ => false,
    };
    let text = |f: fn(&str, &str) -> bool| args.first().is_some_and(|w| f(have, w));
    match op {
        "=" | ">=" => compare(|h, w| h >= w),
        "==" => compare(|h, w| (h - w).abs() < f64::EPSILON),
        "!=" => compare(|h, w| (h - w).abs() >= f64::EPSILON),
        "<=" => compare(|h, w| h <= w),
        "<" => compare(|h, w| h < w),
        ">" => compare(|h, w| h > w),
        "s==" => text(|h, w| h == w),
        "s!=" => text(|h, w| h != w),
        "s>=" => text(|h, w| h >= w),
        "s>" => text(|h, w| h > w),
        "s<=" => text(|h, w| h <= w),
        "s<" => text(|h, w| h < w),
        "<in>" => text(|h, w| h.contains(w)),
        "<all-in>" => args.iter().all(|w| have.contains(w)),
        "<or>" => args.contains(&have),
        _ => want == have,
    }
}

/// Aggregates with `filter_tenant_id…` take only those projects' servers.
fn tenant_fits(project: &str, aggregates: &[&Aggregate]) -> bool {
    let mut isolated = false;
    for (_, value) in aggregates.iter().flat_map(|a| a.metadata.iter()).filter(|(k, _)| k.starts_with("filter_tenant_id")) {
        isolated = true;
        if value.split(',').any(|p| p.trim() == project) {
            return true;
        }
    }
    !isolated
}

/// Sorts best first: free RAM, CPU and disk (spreading), fewer builds running, group wishes.
/// `jitter` (a byte per candidate) breaks ties, so that equal hosts share the load.
fn weigh(list: &mut [Candidate], group_policy: &str, jitter: &[u8]) {
    let share = |c: &Candidate, class: &str, max: i64| {
        let free = c.free.get(class).copied().unwrap_or(0);
        // Amounts are far below 2^53.
        if max > 0 { free as f64 / max as f64 } else { 0.0 }
    };
    let max_of = |class: &str| list.iter().filter_map(|c| c.free.get(class)).copied().max().unwrap_or(0);
    let (ram, cpu, disk) = (max_of("MEMORY_MB"), max_of("VCPU"), max_of("DISK_GB"));
    let group = match group_policy {
        "soft-affinity" => 100.0,
        "soft-anti-affinity" => -100.0,
        _ => 0.0,
    };
    let mut scored: Vec<(f64, Candidate)> = list
        .iter()
        .zip(jitter.iter().chain(std::iter::repeat(&0)))
        .map(|(c, j)| {
            let load = share(c, "MEMORY_MB", ram) + share(c, "VCPU", cpu) + share(c, "DISK_GB", disk);
            let score = load - 0.01 * c.building as f64 + group * c.group_members as f64 + f64::from(*j) * 1e-6;
            (score, c.clone())
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (slot, (_, c)) in list.iter_mut().zip(scored) {
        *slot = c;
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Done,
    /// The host has no room any more.
    Full,
    /// The server is booked on another host already, by an earlier try.
    Elsewhere,
}

/// Books the server's resources on a host, if there still is room. May be repeated.
pub async fn claim(state: &State, req: &Request, provider_id: &str) -> Result<Claim> {
    let amounts = req.resources();
    if amounts.is_empty() {
        return Ok(Claim::Done);
    }
    let body = json!({
        "allocations": {provider_id: {"resources": amounts}}, "project_id": req.project_id, "user_id": req.user_id,
        "consumer_generation": null, "consumer_type": "INSTANCE",
    });
    let path = format!("/allocations/{}", req.server_id);
    for _ in 0..8 {
        match state.peers.placement.put(path.as_str()).json(&body).done().await {
            Ok(()) => return Ok(Claim::Done),
            Err(e) if e.is_conflict() => match booked(state, &req.server_id).await?.keys().next() {
                Some(p) if p == provider_id => return Ok(Claim::Done),
                Some(_) => return Ok(Claim::Elsewhere),
                // Somebody else's claim on the same host came between: once more.
                None if e.kind == caelum_base::ErrorKind::Generation => {}
                None => return Ok(Claim::Full),
            },
            Err(e) => return Err(e),
        }
    }
    Ok(Claim::Full)
}

/// What placement has booked for a server, by provider.
pub async fn booked(state: &State, server_id: &str) -> Result<BTreeMap<String, Value>> {
    let body: Value = state.peers.placement.get(format!("/allocations/{server_id}")).fetch().await?;
    let map = body["allocations"].as_object().cloned().unwrap_or_default();
    Ok(map.into_iter().collect())
}

/// Changes a server's booking on its host (resize). Errors: `Conflict` (code `NoValidHost`) when
/// the host has no room.
pub async fn rebook(state: &State, server: &Server, provider_id: &str, amounts: &BTreeMap<String, i64>) -> Result<()> {
    let path = format!("/allocations/{}", server.id);
    let current: Value = state.peers.placement.get(path.as_str()).fetch().await?;
    let generation = current.get("consumer_generation").cloned().unwrap_or(Value::Null);
    let body = json!({
        "allocations": {provider_id: {"resources": amounts}}, "project_id": server.project_id, "user_id": server.user_id,
        "consumer_generation": generation, "consumer_type": "INSTANCE",
    });
    match state.peers.placement.put(path).json(&body).done().await {
        Err(e) if e.kind == caelum_base::ErrorKind::Conflict => Err(no_valid_host().caused_by(e)),
        other => other,
    }
}

/// Gives back everything booked for a server.
pub async fn release(state: &State, server_id: &str) -> Result<()> {
    state.peers.placement.delete(format!("/allocations/{server_id}")).done_or_gone().await
}

/// Zones that exist: those with a host.
pub fn zones(aggregates: &[Aggregate], hosts: &[String]) -> BTreeSet<String> {
    hosts.iter().map(|h| zone_of(aggregates, h)).collect()
}

/// The zone of a host.
pub fn zone(tx: &mut Tx<'_>, host: &str) -> Result<String> {
    let all = tx.list::<Aggregate>(&Query::new())?;
    Ok(zone_of(all.iter().map(|a| &a.value), host))
}
