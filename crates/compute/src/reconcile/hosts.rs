//! Keeps the cloud's knowledge of its hosts: capacity in placement, a service row that shows life,
//! and a view in memory that the scheduler reads. Rebuilt from the hosts after every start.

use crate::State;
use crate::store::services::ServiceRow;
use caelum_base::{Error, Result, Timestamp};
use caelum_hypervisor::HostInfo;
use caelum_store::{Query, Tx};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Period of reports; well below the time after which a service counts as down.
const REPORT_PERIOD: Duration = Duration::from_secs(20);
/// After a failed report.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// How long the start waits for a host.
const FIRST_REPORT: Duration = Duration::from_secs(2);
/// How long after a start nobody concludes anything from a host's silence.
const FIRST_REPORTS: Duration = Duration::from_secs(60);

/// Traits every host of ours has.
const TRAITS: &[&str] = &[
    "COMPUTE_NODE",
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_NET_ATTACH_INTERFACE",
    "COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG",
    "COMPUTE_VOLUME_ATTACH_WITH_TAG",
    "COMPUTE_VOLUME_EXTEND",
    "COMPUTE_DEVICE_TAGGING",
    "COMPUTE_STATUS_ENABLED",
];

/// A host as last seen.
#[derive(Clone, Debug)]
pub struct HostView {
    pub name: String,
    /// Its resource provider, also the hypervisor's UUID.
    pub provider_id: String,
    pub info: HostInfo,
    pub seen_at: Timestamp,
}

impl State {
    /// Hosts that have reported since the start, by name.
    pub fn host_views(&self) -> Vec<HostView> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether a host may still send its first report: the process has just begun.
    pub fn hosts_expected(&self) -> bool {
        self.env.now().since(self.started_at) < FIRST_REPORTS && self.host_views().len() < self.hosts.iter().count()
    }

    pub fn host_view(&self, name: &str) -> Option<HostView> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Lets every host report once before the first request, within reason: what was interrupted goes on
/// with the hosts known. A host that is late is asked again by [`report_forever`].
pub(crate) async fn first_reports(state: &State) {
    let all = state.hosts.iter().map(|(name, _)| async move {
        match tokio::time::timeout(FIRST_REPORT, report(state, name)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(host = name, error = %e.chain(), "compute: host report failed"),
            Err(_) => tracing::warn!(host = name, "compute: the host is slow to report"),
        }
    });
    futures_util::future::join_all(all).await;
}

/// Reports one host for ever.
pub(crate) async fn report_forever(state: Arc<State>, name: String) {
    loop {
        let wait = match report(&state, &name).await {
            Ok(()) => REPORT_PERIOD,
            Err(e) => {
                tracing::warn!(host = name, error = %e.chain(), "compute: host report failed");
                RETRY_PERIOD
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Asks the host, then tells placement and the services table.
pub async fn report(state: &State, name: &str) -> Result<()> {
    let info = state.hosts.get(name)?.host().await?;
    let provider_id = ensure_provider(state, name, &info).await?;
    let env = state.env.clone();
    let (host, now) = (name.to_string(), env.now());
    state.db.write(move |tx| seen(tx, &env, &host, "nova-compute", now)).await?;
    let view = HostView { name: name.to_string(), provider_id, info, seen_at: now };
    state.views.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), view);
    Ok(())
}

/// Reports this process's own services.
pub(crate) async fn report_node(state: &State, node: &str) -> Result<()> {
    let (env, node) = (state.env.clone(), node.to_string());
    let now = env.now();
    state
        .db
        .write(move |tx| {
            seen(tx, &env, &node, "nova-scheduler", now)?;
            seen(tx, &env, &node, "nova-conductor", now)
        })
        .await
}

/// Repeats [`report_node`] for ever.
pub(crate) async fn report_node_forever(state: Arc<State>, node: String) {
    loop {
        if let Err(e) = report_node(&state, &node).await {
            tracing::warn!(error = %e.chain(), "compute: service report failed");
        }
        tokio::time::sleep(REPORT_PERIOD).await;
    }
}

fn seen(tx: &mut Tx<'_>, env: &caelum_base::Env, host: &str, binary: &str, now: Timestamp) -> Result<()> {
    let found = tx.first::<ServiceRow>(&Query::new().eq("host", host).eq("binary_name", binary))?;
    if let Some(mut row) = found {
        row.seen_at = now;
        return tx.update(&mut row);
    }
    let number = tx.count::<ServiceRow>(&Query::new())? + 1;
    let row = ServiceRow {
        id: env.uuid(),
        number,
        host: host.to_string(),
        binary: binary.to_string(),
        disabled: false,
        disabled_reason: None,
        forced_down: false,
        created_at: now,
        seen_at: now,
    };
    tx.insert(&row).map(drop)
}

/// Makes the host's resource provider say what the host has. Returns the provider's id.
async fn ensure_provider(state: &State, name: &str, info: &HostInfo) -> Result<String> {
    let client = &state.peers.placement;
    let known = state.host_view(name);
    if let Some(v) = known.filter(|v| v.info == *info) {
        return Ok(v.provider_id);
    }
    let found: Value = client.get(format!("/resource_providers?name={name}")).fetch().await?;
    let provider = match found["resource_providers"].get(0) {
        Some(p) => p.clone(),
        None => {
            let body = json!({"name": name, "uuid": state.env.uuid()});
            client.post("/resource_providers").json(&body).fetch().await?
        }
    };
    let id = provider["uuid"].as_str().ok_or_else(|| Error::internal("placement gave a provider without uuid"))?.to_string();
    put_inventory(state, &id, info).await?;
    put_traits(state, &id).await?;
    Ok(id)
}

async fn put_inventory(state: &State, id: &str, info: &HostInfo) -> Result<()> {
    let client = &state.peers.placement;
    let path = format!("/resource_providers/{id}/inventories");
    let c = &state.config;
    let current: Value = client.get(path.as_str()).fetch().await?;
    let wanted = [
        ("VCPU", i64::from(info.vcpus), c.cpu_allocation_ratio),
        ("MEMORY_MB", i64::try_from(info.memory_mib).unwrap_or(i64::MAX), c.ram_allocation_ratio),
        ("DISK_GB", i64::try_from(info.disk_gib).unwrap_or(i64::MAX), c.disk_allocation_ratio),
    ];
    let same = |(class, total, ratio): &(&str, i64, f64)| {
        let inv = &current["inventories"][*class];
        inv["total"].as_i64() == Some(*total) && inv["allocation_ratio"].as_f64() == Some(*ratio)
    };
    if wanted.iter().all(same) {
        return Ok(());
    }
    let mut inventories = current["inventories"].clone();
    for (class, total, ratio) in wanted.iter().filter(|w| w.1 > 0) {
        inventories[*class] =
            json!({"total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1, "allocation_ratio": ratio});
    }
    let body = json!({"resource_provider_generation": current["resource_provider_generation"], "inventories": inventories});
    client.put(path).json(&body).done().await
}

async fn put_traits(state: &State, id: &str) -> Result<()> {
    let client = &state.peers.placement;
    let path = format!("/resource_providers/{id}/traits");
    let current: Value = client.get(path.as_str()).fetch().await?;
    let names = |v: &Value| -> BTreeSet<String> {
        v["traits"].as_array().into_iter().flatten().filter_map(|t| t.as_str().map(String::from)).collect()
    };
    let have = names(&current);
    if TRAITS.iter().all(|t| have.contains(*t)) {
        return Ok(());
    }
    // Only what placement knows of: an unknown trait would refuse the whole set.
    let known: Value = client.get(format!("/traits?name=in:{}", TRAITS.join(","))).fetch().await?;
    let all: BTreeSet<String> = have.union(&names(&known)).cloned().collect();
    let body = json!({"resource_provider_generation": current["resource_provider_generation"], "traits": all});
    client.put(path).json(&body).done().await
}
