//! Reads what is stored and compares it with its checksums. What is damaged moves to `quarantined`, upon which
//! replication puts a good copy in its place.
//!
//! Two kinds of passes: [`Pass::All`] reads every byte; [`Pass::ZeroByte`] looks only at metadata and sizes, which finds
//! the empty files that a power loss leaves, and is quick. Interrupted passes go on where they stopped.

use super::{Config, all, blocking};
use crate::recon::Times;
use caelum_diskfile::{AuditLocation, DiskError, DiskResult, Manager, invalidate_hash};
use caelum_swiftkit::StoragePolicy;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Locations handed to a thread that may block at a time.
const BATCH: usize = 64;

/// Kind of pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    All,
    ZeroByte,
}

impl Pass {
    /// As in the name of the status file.
    fn name(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::ZeroByte => "ZBF",
        }
    }
}

/// What a pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects looked at.
    pub passes: u64,
    pub quarantined: u64,
    pub errors: u64,
    pub bytes: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.passes += o.passes;
        self.quarantined += o.quarantined;
        self.errors += o.errors;
        self.bytes += o.bytes;
    }
}

async fn one_pass(config: &Config, pass: Pass) -> Stats {
    let disks = config.disks.clone();
    let devices = blocking(move || Ok(disks.device_names())).await.unwrap_or_default();
    all(devices, config.concurrency, |device| async move {
        let mut stats = Stats::default();
        for policy in config.policies() {
            stats += audit_device(config, pass, &device, &policy).await;
        }
        stats
    })
    .await
}

/// One pass over all devices.
pub async fn run_once(config: &Config, pass: Pass) -> Stats {
    let figures = |s: &Stats, t: &Times| {
        let stats = serde_json::json!({
            "passes": s.passes, "quarantined": s.quarantined, "errors": s.errors, "bytes_processed": s.bytes,
            "start_time": t.start, "audit_time": t.elapsed,
        });
        let mut out = serde_json::Map::new();
        out.insert(format!("object_auditor_stats_{}", pass.name()), stats);
        out.into()
    };
    config.figures().noted(one_pass(config, pass), figures).await
}

/// Passes until `stop`.
pub async fn run_forever(config: Config, pass: Pass, stop: watch::Receiver<bool>) {
    let report = |s: Stats| tracing::info!(?s, ?pass, "object audit pass");
    super::forever(config.interval, stop, || run_once(&config, pass), report).await;
}

async fn audit_device(config: &Config, pass: Pass, device: &str, policy: &Arc<StoragePolicy>) -> Stats {
    let mut stats = Stats::default();
    let (disks, d, p) = (config.disks.clone(), device.to_string(), policy.clone());
    let mut locations = match blocking(move || disks.audit_locations(&d, &p, pass.name())).await {
        Ok(l) => l,
        Err(e) => {
            tracing::warn!(device, error = e, "not auditing this device");
            return stats;
        }
    };
    let mut pace = Pace::new(config, pass);
    loop {
        let disks = config.disks.clone();
        let job = blocking(move || {
            let mut one = Stats::default();
            let mut ended = false;
            for _ in 0..BATCH {
                match locations.next() {
                    Some(Ok(at)) => {
                        one += audit(&disks, &at, pass);
                        // Enough read to pause for.
                        if one.bytes > (CHUNK as u64) << 4 {
                            break;
                        }
                    }
                    Some(Err(e)) => {
                        tracing::warn!(error = %e, "cannot list objects");
                        one.errors += 1;
                    }
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            Ok((locations, one, ended))
        });
        let Ok((back, one, ended)) = job.await else { return stats };
        locations = back;
        stats += one;
        if ended {
            break;
        }
        pace.wait(&one).await;
    }
    let (disks, d, p) = (config.disks.clone(), device.to_string(), policy.clone());
    if let Err(e) = blocking(move || disks.clear_auditor_status(&d, &p, pass.name())).await {
        tracing::warn!(device, error = e, "cannot remove the auditor's status");
    }
    stats
}

/// Keeps below the limits per second.
struct Pace {
    start: Instant,
    files_per_second: u32,
    bytes_per_second: u64,
    done: Stats,
}

impl Pace {
    fn new(config: &Config, pass: Pass) -> Self {
        // The quick pass is upstream's 50 per second and reads nothing.
        let files_per_second = if pass == Pass::ZeroByte && config.files_per_second > 0 { 50 } else { config.files_per_second };
        Self { start: Instant::now(), files_per_second, bytes_per_second: config.bytes_per_second, done: Stats::default() }
    }

    async fn wait(&mut self, one: &Stats) {
        self.done += *one;
        let share = |n: u64, per_second: u64| if per_second == 0 { 0.0 } else { n as f64 / per_second as f64 };
        let due = share(self.done.passes, u64::from(self.files_per_second)).max(share(self.done.bytes, self.bytes_per_second));
        let left = Duration::from_secs_f64(due).saturating_sub(self.start.elapsed());
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
    }
}

/// Looks at one object. Blocks.
fn audit(disks: &Arc<Manager>, at: &AuditLocation, pass: Pass) -> Stats {
    let mut stats = Stats { passes: 1, ..Stats::default() };
    match read(disks, at, pass) {
        Ok(bytes) => stats.bytes = bytes,
        Err(DiskError::Quarantined { reason, .. }) => {
            tracing::error!(object = %at.dir.display(), reason, "failed audit and was quarantined");
            stats.quarantined += 1;
        }
        Err(DiskError::Deleted { timestamp }) if pass == Pass::All => {
            let age = disks.now().raw.saturating_sub(timestamp.raw);
            let reclaimable = u128::from(age) * 10 > disks.config.reclaim_age.as_micros();
            // Hashed anew, the suffix loses the old tombstone.
            if reclaimable && let Some(Err(e)) = at.dir.parent().map(invalidate_hash) {
                tracing::warn!(object = %at.dir.display(), error = %e, "cannot mark a suffix");
                stats.errors += 1;
            }
        }
        Err(DiskError::NotExist | DiskError::Deleted { .. } | DiskError::Expired { .. }) => {}
        Err(e) => {
            tracing::warn!(object = %at.dir.display(), error = %e, "cannot audit");
            stats.errors += 1;
        }
    }
    stats
}

fn read(disks: &Arc<Manager>, at: &AuditLocation, pass: Pass) -> DiskResult<u64> {
    let object = disks.object_at_location(at)?;
    if pass == Pass::ZeroByte {
        return object.open(disks.now()).map(|_| 0);
    }
    let mut reader = object.reader(disks.now())?;
    let mut bytes = 0;
    loop {
        let chunk = reader.read(CHUNK)?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        bytes += chunk.len() as u64;
    }
}
