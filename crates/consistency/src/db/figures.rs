//! What daemons of databases say of their passes (see [`crate::recon`]).

use super::{AuditStats, ReplicateStats};
use crate::container::SharderStats;
use crate::recon::Times;
use serde_json::{Value, json};

/// What a replicator says of a pass.
pub fn replication(s: &ReplicateStats, t: &Times) -> Value {
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
pub fn audit(kind: &str, s: &AuditStats, t: &Times) -> Value {
    json!({
        format!("{kind}_audits_since"): t.start,
        format!("{kind}_audits_passed"): s.passed,
        format!("{kind}_audits_failed"): s.failed,
        format!("{kind}_auditor_pass_completed"): t.elapsed,
    })
}

/// What the updater of accounts says of a pass.
pub fn sweep(t: &Times) -> Value {
    json!({"container_updater_sweep": t.elapsed})
}

/// What the sharder says of a pass: per step, what was tried and how it went.
pub fn sharding(s: &SharderStats, t: &Times) -> Value {
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
    use crate::recon::Figures;
    use caelum_base::Env;

    #[tokio::test]
    async fn passes_leave_their_figures() {
        let dir = tempfile::tempdir().unwrap();
        let figures = Figures { cache: Some(dir.path().join("cache")), kind: "account", env: Env::system() };
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
