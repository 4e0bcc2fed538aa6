//! Removing what an object's directory no longer needs.

use crate::manager::list_dir;
use crate::names::FileInfo;
use crate::ondisk::{FragWish, OnDisk, resolve};
use crate::{DiskResult, Manager};
use caelum_swiftkit::{StoragePolicy, Timestamp};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Manager {
    fn is_reclaimable(&self, t: Timestamp) -> bool {
        self.now().raw.saturating_sub(t.raw) > Timestamp::ZERO.plus(self.config.reclaim_age).raw
    }

    /// Whether a file was last written longer than `age` ago.
    pub(crate) fn is_older(&self, path: &Path, age: Duration) -> bool {
        if age.is_zero() {
            return true;
        }
        let Ok(modified) = path.metadata().and_then(|m| m.modified()) else { return false };
        let now = UNIX_EPOCH + Duration::from_micros(u64::try_from(self.config.env.now().0).unwrap_or(0));
        now.duration_since(modified).is_ok_and(|d| d > age)
    }

    /// Removes obsolete files, tombstones past the reclaim age, and the directory once it is empty. Gives
    /// what remains; a directory that is not there is empty.
    pub fn clean_up(&self, dir: &Path, policy: &StoragePolicy, wish: &FragWish) -> DiskResult<OnDisk> {
        let mut names = match list_dir(dir) {
            Ok(names) => names,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(OnDisk::default()),
            Err(e) => return Err(e.into()),
        };
        names.sort_by(|a, b| b.cmp(a));
        let mut found = resolve(&names, policy, wish);
        for name in &found.unexpected {
            tracing::debug!(dir = %dir.display(), name, "unexpected file");
        }
        let mut gone: Vec<String> = Vec::new();
        if let Some(f) = found.tombstone.take_if(|f| self.is_reclaimable(f.timestamp)) {
            remove_file(&dir.join(&f.name))?;
            gone.push(f.name);
        }
        let old: Vec<FileInfo> = found
            .possible_reclaim
            .iter()
            .filter(|f| self.is_reclaimable(f.timestamp) && (f.durable || self.is_older(&dir.join(&f.name), self.config.commit_window)))
            .cloned()
            .collect();
        found.obsolete.extend(old);
        for f in &found.obsolete {
            remove_file(&dir.join(&f.name))?;
            gone.push(f.name.clone());
        }
        names.retain(|n| !gone.contains(n));
        if names.is_empty() {
            // Not empty or gone: another request has written or removed it since.
            let _ = std::fs::remove_dir(dir);
        }
        found.files = names;
        Ok(found)
    }
}
