//! Figures for the operator: `object.recon` in the recon cache, which object servers serve under `/recon/` and
//! `swift-recon` collects. Keys and units are upstream's.

use super::Config;
use caelum_diskfile::lock_dir;
use serde_json::{Map, Value};
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

const FILE: &str = "object.recon";
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any such file; more is not ours.
const MAX_FILE: u64 = 16 << 20;

/// When a pass ended and how long it took, in seconds.
pub(crate) struct Times {
    pub elapsed: f64,
    pub start: f64,
    pub end: f64,
}

impl Times {
    pub fn minutes(&self) -> f64 {
        self.elapsed / 60.0
    }
}

/// Runs a pass and notes what it says of itself.
pub(crate) async fn noted<S>(config: &Config, pass: impl Future<Output = S>, figures: impl FnOnce(&S, &Times) -> Value) -> S {
    let clock = Instant::now();
    let seconds = || config.env.now().0 as f64 / 1e6;
    let start = seconds();
    let stats = pass.await;
    let Some(dir) = config.recon_cache.clone() else { return stats };
    let times = Times { elapsed: clock.elapsed().as_secs_f64(), start, end: seconds() };
    let new = figures(&stats, &times);
    match tokio::task::spawn_blocking(move || merge(&dir, FILE, new)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = e, "cannot note figures"),
        Err(e) => tracing::warn!(error = %e, "cannot note figures"),
    }
    stats
}

/// Replaces the given keys of a file, in one step for readers. Several daemons may write at once. Blocks.
pub(crate) fn merge(dir: &Path, file: &str, new: Value) -> Result<(), String> {
    let path = dir.join(file);
    std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    let _lock = lock_dir(dir, "object-recon", 1, LOCK_TIMEOUT).map_err(|e| e.to_string())?;
    let known = std::fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_FILE);
    let old = known.then(|| std::fs::read(&path).ok()).flatten();
    let mut all: Map<String, Value> = old.and_then(|raw| serde_json::from_slice(&raw).ok()).unwrap_or_default();
    if let Value::Object(new) = new {
        all.extend(new);
    }
    let temporary = dir.join(format!(".{file}.{}", std::process::id()));
    let text = serde_json::to_vec(&all).map_err(|e| e.to_string())?;
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let read = || -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).unwrap()).unwrap() };
        merge(dir.path(), FILE, json!({"a": 1, "b": {"x": 1}})).unwrap();
        merge(dir.path(), FILE, json!({"b": {"y": 2}})).unwrap();
        assert_eq!(read(), json!({"a": 1, "b": {"y": 2}}));
        std::fs::write(dir.path().join(FILE), b"{nonsense").unwrap();
        merge(dir.path(), FILE, json!({"c": 3})).unwrap();
        assert_eq!(read(), json!({"c": 3}));
    }
}
