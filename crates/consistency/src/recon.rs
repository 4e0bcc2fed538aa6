//! Figures of daemons for the operator: `account.recon`, `container.recon`, `object.recon` and `relinker.recon` in the recon
//! cache, which storage servers serve under `/recon/` and `swift-recon` collects. Keys and units are upstream's.

use caelum_base::Env;
use caelum_diskfile::{LOCK_TIMEOUT, lock_dir};
use serde_json::{Map, Value};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Larger than any such file; more is not ours.
const MAX_FILE: u64 = 16 << 20;

/// When a pass took place and how long it took, in seconds.
pub struct Times {
    pub elapsed: f64,
    pub start: f64,
    pub end: f64,
}

impl Times {
    pub fn minutes(&self) -> f64 {
        self.elapsed / 60.0
    }
}

/// Where figures go.
#[derive(Clone)]
pub struct Figures {
    /// `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// `account`, `container` or `object`.
    pub kind: &'static str,
    pub env: Env,
}

impl Figures {
    /// Runs a pass and notes what it says of itself. A file that cannot be written is logged and changes nothing else.
    pub async fn noted<S>(&self, pass: impl Future<Output = S>, figures: impl FnOnce(&S, &Times) -> Value) -> S {
        let clock = Instant::now();
        let seconds = || self.env.now().0 as f64 / 1e6;
        let start = seconds();
        let stats = pass.await;
        let Some(dir) = self.cache.clone() else { return stats };
        let new = figures(&stats, &Times { elapsed: clock.elapsed().as_secs_f64(), start, end: seconds() });
        let kind = self.kind;
        match tokio::task::spawn_blocking(move || merge(&dir, kind, new)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = e, kind, "cannot note figures"),
            Err(e) => tracing::warn!(error = %e, kind, "cannot note figures"),
        }
        stats
    }
}

/// Replaces the given keys of the file of a kind, in one step for readers. Several daemons may write at once. Blocks.
pub(crate) fn merge(dir: &Path, kind: &str, new: Value) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = "object.recon";

    #[test]
    fn keys_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let read = || -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).unwrap()).unwrap() };
        merge(dir.path(), "object", json!({"a": 1, "b": {"x": 1}})).unwrap();
        merge(dir.path(), "object", json!({"b": {"y": 2}})).unwrap();
        assert_eq!(read(), json!({"a": 1, "b": {"y": 2}}));
        std::fs::write(dir.path().join(FILE), b"{nonsense").unwrap();
        merge(dir.path(), "object", json!({"c": 3})).unwrap();
        assert_eq!(read(), json!({"c": 3}));
    }
}
