//! Delivers container updates that could not be delivered when objects were written.
//!
//! Each update goes to every replica of the container that has not had it; it leaves the queue once all have. Of
//! several updates for one object only the newest counts. Container servers order what they get by time, so that
//! delivering twice is harmless.

use super::node::{policy_header, quote};
use super::{Config, all, blocking, node};
use crate::recon::Times;
use caelum_diskfile::{PendingFile, PendingUpdate};
use caelum_swiftkit::StoragePolicy;
use std::ops::AddAssign;
use std::sync::Arc;
use tokio::sync::watch;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub successes: u64,
    pub failures: u64,
    /// Files that are no updates, moved aside.
    pub quarantines: u64,
    /// Files replaced by newer ones of the same object, removed.
    pub outdated: u64,
    /// Updates that now go to a shard.
    pub redirects: u64,
    pub errors: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.successes += o.successes;
        self.failures += o.failures;
        self.quarantines += o.quarantines;
        self.outdated += o.outdated;
        self.redirects += o.redirects;
        self.errors += o.errors;
    }
}

struct Item {
    device: String,
    policy: Arc<StoragePolicy>,
    file: PendingFile,
    outdated: bool,
}

async fn one_pass(config: &Config) -> Stats {
    let mut stats = Stats::default();
    let disks = config.disks.clone();
    let devices = match blocking(move || Ok(disks.device_names())).await {
        Ok(d) => d,
        Err(e) => {
            tracing::warn!(error = e, "cannot list devices");
            stats.errors += 1;
            return stats;
        }
    };
    for device in devices {
        for policy in config.policies() {
            let (disks, d, p) = (config.disks.clone(), device.clone(), policy.clone());
            let files = match blocking(move || disks.pending_updates(&d, &p)).await {
                Ok(f) => f,
                Err(e) => {
                    tracing::warn!(device, error = e, "cannot list queued updates");
                    stats.errors += 1;
                    continue;
                }
            };
            // Newest first within an object.
            let mut last = String::new();
            let items: Vec<Item> = files
                .into_iter()
                .map(|file| {
                    let outdated = file.hash == last;
                    last.clone_from(&file.hash);
                    Item { device: device.clone(), policy: policy.clone(), file, outdated }
                })
                .collect();
            stats += all(items, config.concurrency, |item| deliver(config, item)).await;
        }
    }
    stats
}

/// One pass over the queues of all devices.
pub async fn run_once(config: &Config) -> Stats {
    let figures = |_: &Stats, t: &Times| serde_json::json!({ "object_updater_sweep": t.elapsed, "object_updater_last": t.end });
    config.figures().noted(one_pass(config), figures).await
}

/// Passes until `stop`.
pub async fn run_forever(config: Config, stop: watch::Receiver<bool>) {
    let report = |s: Stats| tracing::info!(?s, "object updates pass");
    super::forever(config.interval, stop, || run_once(&config), report).await;
}

async fn deliver(config: &Config, item: Item) -> Stats {
    let mut stats = Stats::default();
    if item.outdated {
        stats.outdated += 1;
        stats.errors += u64::from(remove(config, &item.file).await.is_err());
        return stats;
    }
    match load(config, &item).await {
        Ok(Some(update)) => attempt(config, &item, update, &mut stats).await,
        Ok(None) => stats.quarantines += 1,
        Err(e) => {
            tracing::warn!(file = %item.file.path.display(), error = e, "cannot read a queued update");
            stats.errors += 1;
        }
    }
    stats
}

async fn remove(config: &Config, file: &PendingFile) -> Result<(), String> {
    let (disks, file) = (config.disks.clone(), file.clone());
    blocking(move || disks.remove_update(&file)).await
}

/// `None`: it was no update and has been moved to `quarantined/objects`.
async fn load(config: &Config, item: &Item) -> Result<Option<PendingUpdate>, String> {
    let (file, device) = (item.file.clone(), config.disks.config.devices.join(&item.device));
    blocking(move || {
        let raw = std::fs::read(&file.path)?;
        match PendingUpdate::load(&raw) {
            Ok(u) => Ok(Some(u)),
            Err(e) => {
                tracing::error!(file = %file.path.display(), error = e, "quarantining a queued update");
                let dir = device.join("quarantined").join("objects");
                std::fs::create_dir_all(&dir)?;
                std::fs::rename(&file.path, dir.join(file.path.file_name().unwrap_or_default()))?;
                Ok(None)
            }
        }
    })
    .await
}

/// What the replicas answered.
struct Outcome {
    all: bool,
    new: bool,
    /// Where a container that is split sends us, with that answer's time.
    redirect: Option<(String, String)>,
}

async fn attempt(config: &Config, item: &Item, mut update: PendingUpdate, stats: &mut Stats) {
    let mut outcome = send(config, item, &mut update).await;
    if let Some((path, _)) = outcome.redirect.take() {
        stats.redirects += 1;
        let here = update.container_path.clone().unwrap_or_else(|| format!("{}/{}", update.account, update.container));
        // A shard that points back: begin again at the container itself.
        update.container_path = (path != here).then_some(path);
        update.successes.clear();
        outcome = send(config, item, &mut update).await;
        outcome.new = true;
    }
    if outcome.all {
        stats.successes += 1;
        stats.errors += u64::from(remove(config, &item.file).await.is_err());
        return;
    }
    stats.failures += 1;
    if outcome.new {
        let (disks, device, policy, file) = (config.disks.clone(), item.device.clone(), item.policy.clone(), item.file.clone());
        if let Err(e) = blocking(move || disks.rewrite_update(&device, &policy, &file, &update)).await {
            tracing::warn!(file = %item.file.path.display(), error = e, "cannot note who has a queued update");
            stats.errors += 1;
        }
    }
}

/// Account and container that the update goes to.
fn target(update: &PendingUpdate) -> Option<(String, String)> {
    match &update.container_path {
        Some(path) => path.trim_matches('/').split_once('/').map(|(a, c)| (a.to_string(), c.to_string())),
        None => Some((update.account.clone(), update.container.clone())),
    }
}

async fn send(config: &Config, item: &Item, update: &mut PendingUpdate) -> Outcome {
    let mut out = Outcome { all: true, new: false, redirect: None };
    let Some((account, container)) = target(update) else {
        return Outcome { all: false, ..out };
    };
    let ring = config.rings.container();
    let partition = ring.partition(&config.disks.config.swift.hash.container(&account, &container));
    let mut headers = update.headers.clone();
    let mut default = |(k, v): (String, String)| {
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(&k)) {
            headers.push((k, v));
        }
    };
    default(policy_header(item.policy.index));
    default(("X-Backend-Accept-Redirect".into(), "true".into()));
    default(("X-Backend-Accept-Quoted-Location".into(), "true".into()));
    let nodes: Vec<_> = ring.primaries(partition).into_iter().filter(|d| !update.successes.contains(&i64::from(d.id))).cloned().collect();
    let name = quote(&format!("/{account}/{container}/{}", update.object));
    let requests = nodes.iter().map(|d| {
        let path = format!("/{}/{partition}{name}", d.device);
        let (headers, op) = (&headers, update.op.as_str());
        async move { (d.id, node::status(config, d, op, &path, headers).await) }
    });
    for (id, answer) in futures_util::future::join_all(requests).await {
        match answer {
            Ok(r) if r.status().is_success() => {
                update.successes.push(i64::from(id));
                out.new = true;
            }
            Ok(r) => {
                out.all = false;
                if let Some(to) = redirect(&r).filter(|to| out.redirect.as_ref().is_none_or(|r| r.1 < to.1)) {
                    out.redirect = Some(to);
                }
            }
            Err(e) => {
                tracing::debug!(error = e, "a container server did not take an update");
                out.all = false;
            }
        }
    }
    out
}

/// Where a 301 points: `account/container` of a shard, and when that was decided.
fn redirect(answer: &http::Response<()>) -> Option<(String, String)> {
    let text = |k: &str| answer.headers().get(k).and_then(|v| v.to_str().ok());
    if answer.status() != 301 {
        return None;
    }
    let at = caelum_swiftkit::Timestamp::parse(text("x-backend-redirect-timestamp")?)?;
    let location = text("location")?;
    let quoted = text("x-backend-location-is-quoted").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let location =
        if quoted { percent_encoding::percent_decode_str(location).decode_utf8().ok()?.into_owned() } else { location.to_string() };
    let mut parts = location.trim_start_matches('/').splitn(3, '/');
    let (account, container) = (parts.next()?, parts.next()?);
    let sane = !account.is_empty() && !container.is_empty();
    sane.then(|| (format!("{account}/{container}"), at.internal()))
}
