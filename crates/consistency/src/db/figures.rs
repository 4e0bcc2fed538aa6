//! Figures of database daemons for the operator: `account.recon` and `container.recon` in the recon cache, which storage
//! servers serve under `/recon/` and `swift-recon` collects. Keys and units are upstream's.

use super::{AuditStats, ReplicateStats};
use crate::container::SharderStats;
use caelum_base::Env;
use caelum_diskfile::lock_dir;
use serde_json::{Map, Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any such file; more is not ours.
const MAX_FILE: u64 = 16 << 20;

/// When a pass took place, in seconds.
pub struct PassTimes {
    pub elapsed: f64,
    pub start: f64,
    pub end: f64,
}

/// Where figures go.
#[derive(Clone)]
pub struct Figures {
    pub cache: PathBuf,
    /// `account` or `container`.
    pub kind: &'static str,
    pub env: Env,
}

impl Figures {
    /// Runs a pass and notes what it says of itself. A file that cannot be written is logged and changes nothing else.
    pub async fn noted<S>(&self, pass: impl Future<Output = S>, figures: impl FnOnce(&S, &PassTimes) -> Value) -> S {
        let clock = Instant::now();
        let seconds = || self.env.now().0 as f64 / 1e6;
        let start = seconds();
        let stats = pass.await;
        let new = figures(&stats, &PassTimes { elapsed: clock.elapsed().as_secs_f64(), start, end: seconds() });
        let (dir, kind) = (self.cache.clone(), self.kind);
        match tokio::task::spawn_blocking(move || merge(&dir, kind, new)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = e, kind, "cannot note figures"),
            Err(e) => tracing::warn!(error = %e, kind, "cannot note figures"),
        }
        stats
    }
}

/// Replaces the given keys of the file, in one step for readers. Several daemons may write at once.
fn merge(dir: &Path, kind: &str, new: Value) -> Result<(), String> {
    let path = dir.join(format!("{kind}.recon"));
    std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    let _lock = lock_dir(dir, &format!("{kind}-recon"), 1, LOCK_TIMEOUT).map_err(|e| e.to_string())?;
    let known = std::fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_FILE);
    let old = known.then(|| std::fs::read(&path).ok()).flatten();
    let mut all: Map<String, Value> = old.and_then(|raw| serde_json::from_slice(&raw).ok()).unwrap_or_default();
    if let Value::Object(new) = new {
        all.extend(new);
    }
    let temporary = dir.join(format!(".{kind}.recon.{}", std::process::id()));
    let text = serde_json::to_vec(&all).map_err(|e| e.to_string())?;
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path)).map_err(|e| e.to_string())
}

/// What a replicator says of a pass.
pub fn replication(s: &ReplicateStats, t: &PassTimes) -> Value {
    json!({
        "replication_stats": {
            "attempted": s.attempted,
            "success": s.success,
            "failure": s.failure,
            "failure_nodes": {},
            "no_change": s.no_change,
            "hashmatch": s.hashmatch,
            "diff": s.diff,
            "diff_capped": s.diff_capped,
            "rsync": s.pushed,
            "remote_merge": s.remote_merge,
            "deferred": s.deferred,
            "remove": s.removed,
            "ts_repl": 0,
            "empty": 0,
            "start": t.start,
        },
        "replication_time": t.elapsed,
        "replication_last": t.end,
    })
}

/// What an auditor of this kind of databases says of a pass.
pub fn audit(kind: &str, s: &AuditStats, t: &PassTimes) -> Value {
    json!({
        format!("{kind}_audits_since"): t.start,
        format!("{kind}_audits_passed"): s.passed,
        format!("{kind}_audits_failed"): s.failed,
        format!("{kind}_auditor_pass_completed"): t.elapsed,
    })
}

/// What the updater of accounts says of a pass.
pub fn sweep(t: &PassTimes) -> Value {
    json!({"container_updater_sweep": t.elapsed})
}

/// What the sharder says of a pass: per step, what was tried and how it went.
pub fn sharding(s: &SharderStats, t: &PassTimes) -> Value {
    let step =
        |attempted: u64, failure: u64| json!({"attempted": attempted, "success": attempted.saturating_sub(failure), "failure": failure});
    json!({
        "sharding_stats": {
            "attempted": s.visited,
            "success": s.visited.saturating_sub(s.failed),
            "failure": s.failed,
            "sharding": {
                "visited": step(s.visited, s.failed),
                "scanned": {"attempted": s.ranges_found, "success": s.ranges_found, "failure": 0, "found": s.ranges_found},
                "created": step(s.shards_created, 0),
                "cleaved": step(s.ranges_cleaved + s.cleave_failures, s.cleave_failures),
                "misplaced": {"placed": s.misplaced_placed, "unplaced": s.misplaced_unplaced},
            },
        },
        "sharding_time": t.elapsed,
        "sharding_last": t.end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passes_leave_their_figures() {
        let dir = tempfile::tempdir().unwrap();
        let figures = Figures { cache: dir.path().join("cache"), kind: "account", env: Env::system() };
        let stats = ReplicateStats { attempted: 3, success: 2, failure: 1, pushed: 1, ..ReplicateStats::default() };
        figures.noted(async { stats }, replication).await;
        let audited = AuditStats { passed: 5, failed: 1 };
        figures.noted(async { audited }, |s, t| audit("account", s, t)).await;
        let read: Value = serde_json::from_slice(&std::fs::read(dir.path().join("cache/account.recon")).unwrap()).unwrap();
        assert_eq!((&read["replication_stats"]["failure"], &read["replication_stats"]["rsync"]), (&json!(1), &json!(1)));
        assert_eq!((&read["account_audits_passed"], &read["account_audits_failed"]), (&json!(5), &json!(1)));
        assert!(read["replication_last"].as_f64().unwrap() > 1.6e9 && read["account_auditor_pass_completed"].is_f64());
    }
}
