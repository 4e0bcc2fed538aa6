//! Going through what a device holds: for replication and audit.

use crate::manager::{list_dir, list_or_empty};
use crate::ondisk::FragWish;
use crate::{DiskError, DiskFile, DiskResult, Look, Manager, hashes, metadata};
use caelum_swiftkit::{StoragePolicy, Timestamp};
use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An object's times as replication compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectTimes {
    /// Of data or tombstone.
    pub data: Timestamp,
    pub meta: Option<Timestamp>,
    pub ctype: Option<Timestamp>,
    /// Of fragments: whether the one at `data` is durable. `None` for whole objects and tombstones.
    pub durable: Option<bool>,
}

/// An object's directory that an auditor is to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLocation {
    pub device: String,
    pub partition: String,
    pub policy: u32,
    pub dir: PathBuf,
}

impl Manager {
    /// Names of the partitions on a device, in numerical order.
    pub fn partitions(&self, device: &str, policy: &StoragePolicy) -> DiskResult<Vec<String>> {
        let dir = self.device_path(device)?.join(policy.dir("objects"));
        let mut out = list_or_empty(&dir)?;
        out.retain(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        out.sort_by_key(|n| n.parse::<u64>().unwrap_or(u64::MAX));
        Ok(out)
    }

    /// Names of the objects' directories in these suffixes of a partition, whatever is in them.
    pub fn hash_names(&self, device: &str, policy: &StoragePolicy, partition: &str, suffixes: &[String]) -> DiskResult<Vec<String>> {
        let path = self.partition_path(device, policy, partition);
        let mut out = Vec::new();
        for suffix in suffixes {
            out.append(&mut list_or_empty(&path.join(suffix))?);
        }
        Ok(out)
    }

    /// Suffixes of a partition, in order.
    pub fn suffixes(&self, device: &str, policy: &StoragePolicy, partition: &str) -> DiskResult<Vec<String>> {
        self.device_path(device)?;
        let mut out = list_or_empty(&self.partition_path(device, policy, partition))?;
        out.retain(|n| hashes::valid_suffix(n));
        out.sort();
        Ok(out)
    }

    /// Calls `each` with the hash and times of every object in these suffixes (in all, when `None`), until it breaks.
    /// Directories are cleaned up on the way; suffixes without files are marked as changed, so that they vanish.
    /// Only the wished fragments are considered.
    pub fn for_each_hash(
        &self,
        device: &str,
        partition: &str,
        policy: &StoragePolicy,
        suffixes: Option<&[String]>,
        wish: &FragWish,
        mut each: impl FnMut(&str, ObjectTimes) -> ControlFlow<()>,
    ) -> DiskResult<()> {
        self.device_path(device)?;
        let part = self.partition_path(device, policy, partition);
        let all;
        let suffixes = match suffixes {
            Some(s) => s,
            None => {
                all = self.suffixes(device, policy, partition)?;
                &all
            }
        };
        for suffix in suffixes.iter().filter(|s| hashes::valid_suffix(s)) {
            let dir = part.join(suffix);
            let mut found_files = false;
            let mut names = list_or_empty(&dir)?;
            names.sort();
            for hash in names {
                let found = match self.clean_up(&dir.join(&hash), policy, wish) {
                    Ok(found) => found,
                    Err(e) => {
                        tracing::debug!(hash, error = %e, "invalid file set");
                        continue;
                    }
                };
                found_files |= !found.files.is_empty();
                let Some(data) = found.ts_data() else { continue };
                let times = ObjectTimes {
                    data,
                    meta: found.meta.as_ref().map(|f| f.timestamp),
                    ctype: found.ctype.as_ref().and_then(|f| f.ctype_timestamp),
                    durable: found.data.as_ref().filter(|_| policy.is_ec()).map(|f| f.durable),
                };
                if each(&hash, times).is_break() {
                    return Ok(());
                }
            }
            if !found_files && part.exists() {
                hashes::invalidate_hash(&dir)?;
            }
        }
        Ok(())
    }

    /// All objects of a device for an auditor, one partition after the other, in the order of the partitions left
    /// over from an interrupted pass. The state of the pass is kept as upstream keeps it
    /// (`auditor_status_ALL.json`, `auditor_status_ZBF.json`).
    pub fn audit_locations(self: &Arc<Self>, device: &str, policy: &StoragePolicy, auditor: &str) -> DiskResult<AuditLocations> {
        let datadir = self.device_path(device)?.join(policy.dir("objects"));
        let status = datadir.join(format!("auditor_status_{auditor}.json"));
        let partitions = match read_status(&status) {
            Some(p) => p,
            None => list_or_empty(&datadir)?,
        };
        let exists = datadir.is_dir();
        Ok(AuditLocations {
            manager: self.clone(),
            device: device.to_string(),
            policy: policy.index,
            datadir,
            status,
            partitions: partitions.into_iter().rev().collect(),
            current: Vec::new(),
            ended: !exists,
        })
    }

    /// Removes the state of an auditor's pass, so that the next begins anew.
    pub fn clear_auditor_status(&self, device: &str, policy: &StoragePolicy, auditor: &str) -> DiskResult<()> {
        let datadir = self.device_path(device)?.join(policy.dir("objects"));
        Ok(crate::clean::remove_file(&datadir.join(format!("auditor_status_{auditor}.json")))?)
    }

    /// The object at an auditor's location, its name still unknown.
    pub fn object_at_location(self: &Arc<Self>, at: &AuditLocation) -> DiskResult<DiskFile> {
        let hash = at.dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let mut out = self.object_at(&at.device, &at.partition, at.policy, hash, Look { open_expired: true, ..Look::default() })?;
        out.dir.clone_from(&at.dir);
        Ok(out)
    }
}

fn read_status(path: &Path) -> Option<Vec<String>> {
    let raw = std::fs::read(path).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&raw).ok()?;
    Some(json.get("partitions")?.as_array()?.iter().filter_map(|v| v.as_str().map(str::to_string)).collect())
}

/// Iterates over [`AuditLocation`]s. Blocks.
pub struct AuditLocations {
    manager: Arc<Manager>,
    device: String,
    policy: u32,
    datadir: PathBuf,
    status: PathBuf,
    /// Last first.
    partitions: Vec<String>,
    current: Vec<AuditLocation>,
    ended: bool,
}

/// The state of a pass is written at most this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(60);

impl AuditLocations {
    fn save(&self, force: bool) {
        if !force && !self.manager.is_older(&self.status, STATUS_INTERVAL) && self.status.exists() {
            return;
        }
        let left: Vec<&String> = self.partitions.iter().rev().collect();
        let text = serde_json::json!({ "partitions": left }).to_string();
        if let Err(e) = std::fs::write(&self.status, text) {
            tracing::warn!(file = %self.status.display(), error = %e, "cannot write auditor status");
        }
    }

    fn fill(&mut self, partition: &str) -> io::Result<()> {
        let path = self.datadir.join(partition);
        let readable = |r: io::Result<Vec<String>>| match r {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || crate::quarantine::is_corrupt(&e) => {
                Ok(Vec::new())
            }
            other => other,
        };
        for suffix in readable(list_dir(&path))? {
            let dir = path.join(&suffix);
            for hash in readable(list_dir(&dir))? {
                self.current.push(AuditLocation {
                    device: self.device.clone(),
                    partition: partition.to_string(),
                    policy: self.policy,
                    dir: dir.join(hash),
                });
            }
        }
        Ok(())
    }
}

impl Iterator for AuditLocations {
    type Item = io::Result<AuditLocation>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(l) = self.current.pop() {
                return Some(Ok(l));
            }
            if self.ended {
                return None;
            }
            // The partition being audited stays in the status until it is done.
            self.save(false);
            let Some(partition) = self.partitions.pop() else {
                self.ended = true;
                self.save(true);
                return None;
            };
            if let Err(e) = self.fill(&partition) {
                return Some(Err(e));
            }
        }
    }
}

/// What removing an object that was handed over to another node takes.
impl DiskFile {
    /// Removes the tombstone or fragment of this time after it was sent to where it belongs. Fragments that are
    /// not durable go only when older than `delay`. Whole objects: their data of this time.
    pub fn purge(&self, at: Timestamp, fragment: Option<u32>, delay: Duration, meta: Option<Timestamp>) -> DiskResult<()> {
        use crate::names::{data_name, meta_name, tombstone_name};
        let mut gone: HashSet<String> = HashSet::from([tombstone_name(at)]);
        gone.extend(meta.map(|m| meta_name(m, None)));
        if let Some(i) = fragment {
            let plain = data_name(at, Some(i), false);
            if self.manager.is_older(&self.dir.join(&plain), delay) {
                gone.insert(plain);
            }
            gone.insert(data_name(at, Some(i), true));
        }
        for name in gone {
            crate::clean::remove_file(&self.dir.join(name))?;
        }
        match std::fs::remove_dir(&self.dir) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => return Err(e.into()),
            _ => {}
        }
        let suffix = self.dir.parent().ok_or_else(|| DiskError::Invalid("no suffix".into()))?;
        hashes::invalidate_hash(suffix)
    }

    /// Adds the checksum to metadata written before there was one.
    pub fn modernize(&self) -> DiskResult<()> {
        for f in self.look().map(|f| [f.data, f.meta])?.into_iter().flatten() {
            metadata::add_checksum(std::fs::File::open(self.dir.join(f.name))?)?;
        }
        Ok(())
    }
}
