//! Moves objects to their new partitions when the part power is increased.
//!
//! While the increase is prepared ([`Step::Relink`]), every file gets a second name in the partition that it will have;
//! servers write new objects under both. After it ([`Step::Cleanup`]), old names go, each only once the new one is there.
//! Both steps may be repeated and broken off anywhere.

use super::{Config, all, blocking};
use caelum_diskfile::{DiskError, DiskResult, FragWish, Manager, invalidate_hash, lock_dir, ondisk, valid_suffix};
use caelum_swiftkit::StoragePolicy;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for another relinker on the same device.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Which half of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Relink,
    Cleanup,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Policies whose ring asks for this step.
    pub policies: u64,
    pub hash_dirs: u64,
    pub files: u64,
    pub linked: u64,
    pub removed: u64,
    pub errors: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.policies += o.policies;
        self.hash_dirs += o.hash_dirs;
        self.files += o.files;
        self.linked += o.linked;
        self.removed += o.removed;
        self.errors += o.errors;
    }
}

/// Does a step on all devices for all policies whose rings ask for it. `policies` is 0 when none does.
pub async fn run_once(config: &Config, step: Step) -> Stats {
    let mut total = Stats::default();
    for policy in config.policies() {
        let Some(ring) = config.rings.object(policy.index) else { continue };
        let Some(next) = ring.next_part_power else { continue };
        if (next == ring.part_power()) != (step == Step::Cleanup) {
            continue;
        }
        total.policies += 1;
        let disks = config.disks.clone();
        let devices = blocking(move || Ok(disks.device_names())).await.unwrap_or_default();
        // Partitions from here on only exist since the increase and hold nothing to move.
        let old = if step == Step::Relink { ring.part_power() } else { next.saturating_sub(1) };
        let (policy, disks) = (&policy, &config.disks);
        total += all(devices, config.concurrency, |device| async move {
            let (disks, policy) = (disks.clone(), policy.clone());
            let work = Work { disks, policy, device, next, old, step };
            let name = work.device.clone();
            match blocking(move || work.run()).await {
                Ok(stats) => stats,
                Err(e) => {
                    tracing::error!(device = name, error = e, "this device was not relinked");
                    Stats { errors: 1, ..Stats::default() }
                }
            }
        })
        .await;
    }
    total
}

struct Work {
    disks: Arc<Manager>,
    policy: Arc<StoragePolicy>,
    device: String,
    next: u32,
    old: u32,
    step: Step,
}

/// The partition of an object's hash with this part power.
fn partition_of(hash: &str, power: u32) -> Option<u32> {
    let top = u32::from_str_radix(hash.get(..8)?, 16).ok()?;
    Some(top.checked_shr(32 - power.min(32)).unwrap_or(0))
}

impl Work {
    fn run(&self) -> DiskResult<Stats> {
        let mut stats = Stats::default();
        let root = self.disks.device_path(&self.device)?;
        // One at a time per device and policy.
        let name = format!("relink.{}", self.policy.dir("objects"));
        let _lock = lock_dir(&root, &name, 1, LOCK_TIMEOUT)?;
        let mut partitions: Vec<u32> = self.disks.partitions(&self.device, &self.policy)?.iter().filter_map(|p| p.parse().ok()).collect();
        partitions.retain(|p| u64::from(*p) < 1 << self.old);
        // From above: what is linked into a lower one need not be looked at again.
        for partition in partitions.into_iter().rev() {
            if let Err(e) = self.partition(partition, &mut stats) {
                tracing::error!(device = self.device, partition, error = %e, "relinking a partition");
                stats.errors += 1;
            }
        }
        Ok(stats)
    }

    fn partition(&self, partition: u32, stats: &mut Stats) -> DiskResult<()> {
        let name = partition.to_string();
        let path = self.disks.partition_path(&self.device, &self.policy, &name);
        let mut linked: BTreeSet<u32> = BTreeSet::new();
        for suffix in list(&path)?.into_iter().filter(|s| valid_suffix(s)) {
            for hash in list(&path.join(&suffix))? {
                let Some(to) = partition_of(&hash, self.next).filter(|to| *to != partition) else { continue };
                if self.object(&path.join(&suffix).join(&hash), &hash, to, stats)? {
                    linked.insert(to);
                }
            }
        }
        // While linking, only what lies above the old partitions is complete now; the rest waits for the clean-up.
        for to in linked.into_iter().filter(|to| self.step == Step::Cleanup || u64::from(*to) >= 1 << self.old) {
            self.disks.get_hashes(&self.device, &to.to_string(), &[], &self.policy, false)?;
        }
        if self.step == Step::Cleanup {
            self.disks.get_hashes(&self.device, &name, &[], &self.policy, false)?;
            self.disks.remove_empty_partition(&self.device, &self.policy, &name)?;
        }
        Ok(())
    }

    /// One object's directory; true when something was linked.
    fn object(&self, from: &Path, hash: &str, partition: u32, stats: &mut Stats) -> DiskResult<bool> {
        stats.hash_dirs += 1;
        let to = self.disks.hash_dir(&self.device, &self.policy, &partition.to_string(), hash);
        // The new place first: the old one is then never the fuller of the two for a reason that no longer holds.
        let new = self.disks.clean_up(&to, &self.policy, &FragWish::default())?;
        let old = self.disks.clean_up(from, &self.policy, &FragWish::default())?;
        let union: BTreeSet<String> = new.files.iter().chain(&old.files).cloned().collect();
        let mut names: Vec<String> = union.into_iter().collect();
        names.sort_by(|a, b| b.cmp(a));
        let obsolete = ondisk::resolve(&names, &self.policy, &FragWish::default()).obsolete;
        let needed = old.files.iter().filter(|n| !obsolete.iter().any(|o| o.name == **n));
        let (mut linked, mut missing) = (false, false);
        for name in needed {
            stats.files += 1;
            match link(&from.join(name), &to.join(name), name.ends_with(".ts")) {
                Ok(true) => {
                    stats.linked += 1;
                    linked = true;
                }
                Ok(false) => {}
                Err(e) => {
                    tracing::error!(file = %from.join(name).display(), error = %e, "not linked");
                    stats.errors += 1;
                    missing = true;
                }
            }
        }
        if linked {
            std::fs::File::open(&to)?.sync_all()?;
            to.parent().map_or(Ok(()), invalidate_hash)?;
        }
        if self.step == Step::Cleanup && !missing {
            for name in &old.files {
                std::fs::remove_file(from.join(name)).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
                stats.removed += 1;
            }
            from.parent().map_or(Ok(()), invalidate_hash)?;
            // Whatever else is in it stays.
            let _ = std::fs::remove_dir(from);
        }
        Ok(linked)
    }
}

fn list(dir: &Path) -> DiskResult<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|e| Ok(e?.file_name().into_string().unwrap_or_default())).collect()
}

/// Gives a file a second name; false when it has it. Errors: the name is another file's, unless both are tombstones of
/// one time, which say the same.
fn link(from: &Path, to: &Path, tombstone: bool) -> DiskResult<bool> {
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let same = std::fs::metadata(from)?.ino() == std::fs::metadata(to)?.ino();
            if same || tombstone { Ok(false) } else { Err(DiskError::Invalid(format!("{} is another file", to.display()))) }
        }
        // Removed since it was listed: a newer one has come.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_hashes() {
        let hash = "8c525acb02107ea475dcd3d09c2c5823";
        assert_eq!(partition_of(hash, 0), Some(0));
        assert_eq!(partition_of(hash, 1), Some(1));
        assert_eq!(partition_of(hash, 4), Some(8));
        assert_eq!(partition_of(hash, 5), Some(17));
        assert_eq!(partition_of(hash, 32), Some(0x8c52_5acb));
        assert_eq!(partition_of("xyz", 4), None);
    }
}
