//! Removing what has been handed over to the nodes where it belongs.

use crate::lock::{LOCK_TIMEOUT, lock_dir};
use crate::manager::list_or_empty;
use crate::ondisk::{FragWish, resolve};
use crate::{DiskResult, Ext, FileInfo, Manager, ObjectTimes, clean, hashes};
use caelum_swiftkit::StoragePolicy;
use std::path::Path;

impl Manager {
    /// Removes a whole object whose state is still `times`; what was written since stays, by its newer name. False
    /// when the state is another.
    pub fn remove_if_unchanged(
        &self,
        device: &str,
        policy: &StoragePolicy,
        partition: &str,
        hash: &str,
        times: &ObjectTimes,
    ) -> DiskResult<bool> {
        self.device_path(device)?;
        let dir = self.hash_dir(device, policy, partition, hash);
        // New metadata comes before this, and the state is another, or finds no data any more.
        let lock = lock_dir(&self.partition_path(device, policy, partition), "", 1, LOCK_TIMEOUT)?;
        let names = list_or_empty(&dir)?;
        let found = resolve(&names, policy, &FragWish::default());
        let meta = found.meta.as_ref().map(|f| f.timestamp);
        let ctype = found.ctype.as_ref().and_then(|f| f.ctype_timestamp);
        if found.ts_data() != Some(times.data) || meta != times.meta || ctype != times.ctype {
            return Ok(false);
        }
        // Only names that made up this state: a file that appears from now on has another.
        for name in names.iter().filter(|n| !found.unexpected.contains(n)) {
            clean::remove_file(&dir.join(name))?;
        }
        drop(lock);
        if let Some(suffix) = dir.parent() {
            hashes::invalidate_hash(suffix)?;
            // Not empty or gone: more to keep, or another has removed it.
            let _ = std::fs::remove_dir(&dir).and_then(|()| std::fs::remove_dir(suffix));
        }
        Ok(true)
    }

    /// Metadata without data says nothing of an object, and no node asks for it. It comes to be where whole directories are
    /// copied while the data has not got there yet (a partition that the relinker is just filling), so what is new stays.
    fn remove_lone_metadata(&self, partition: &Path, dir: &Path, policy: &StoragePolicy) -> DiskResult<()> {
        let lone = |names: &[String]| {
            let meta = |n: &String| FileInfo::parse(n, policy).is_ok_and(|f| f.ext == Ext::Meta);
            !names.is_empty() && names.iter().all(|n| meta(n) && self.is_older(&dir.join(n), self.config.commit_window))
        };
        if !lone(&list_or_empty(dir)?) {
            return Ok(());
        }
        let _lock = lock_dir(partition, "", 1, LOCK_TIMEOUT)?;
        let names = list_or_empty(dir)?;
        for name in names.iter().filter(|_| lone(&names)) {
            clean::remove_file(&dir.join(name))?;
        }
        Ok(())
    }

    /// Removes a partition that holds no object any more. True when it is gone. A write that comes in at the same
    /// time keeps it: directories that are not empty stay.
    pub fn remove_empty_partition(&self, device: &str, policy: &StoragePolicy, partition: &str) -> DiskResult<bool> {
        self.device_path(device)?;
        let path = self.partition_path(device, policy, partition);
        for suffix in list_or_empty(&path)?.iter().filter(|n| hashes::valid_suffix(n)) {
            let suffix = path.join(suffix);
            for hash in list_or_empty(&suffix)? {
                let dir = suffix.join(hash);
                self.remove_lone_metadata(&path, &dir, policy)?;
                let _ = std::fs::remove_dir(dir);
            }
            let _ = std::fs::remove_dir(suffix);
        }
        let left = list_or_empty(&path)?;
        let ours = |n: &String| n.starts_with(".lock") || n == "hashes.pkl" || n == "hashes.invalid";
        if !left.iter().all(ours) {
            return Ok(false);
        }
        for name in left {
            clean::remove_file(&path.join(name))?;
        }
        let _ = std::fs::remove_dir(&path);
        Ok(!path.exists())
    }
}
