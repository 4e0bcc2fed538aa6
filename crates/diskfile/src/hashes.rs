//! Suffix hashes: what replicators compare. `hashes.pkl` in a partition holds them, `hashes.invalid`
//! names suffixes that changed since.

use crate::lock::{LOCK_TIMEOUT, lock_dir};
use crate::manager::list_dir;
use crate::ondisk::FragWish;
use crate::quarantine::is_corrupt;
use crate::{DiskError, DiskResult, Manager};
use caelum_swiftkit::pickle::{self, Value};
use caelum_swiftkit::{StoragePolicy, to_hex};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const HASHES: &str = "hashes.pkl";
const INVALID: &str = "hashes.invalid";
/// Attempts to hash a partition that keeps changing.
const MAX_ROUNDS: usize = 100;

/// Hash of one suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SuffixHash {
    Whole(String),
    /// Of erasure-coded policies: by fragment number, and one (`None`) over metadata, tombstones and durability.
    Fragments(BTreeMap<Option<u32>, String>),
}

/// Hashes of a partition's suffixes.
pub type Hashes = BTreeMap<String, SuffixHash>;

/// What `hashes.pkl` says; `None` for suffixes to be hashed again.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    valid: bool,
    updated: f64,
    suffixes: BTreeMap<String, Option<SuffixHash>>,
}

pub fn valid_suffix(s: &str) -> bool {
    s.len() == 3 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl SuffixHash {
    fn from_value(v: &Value) -> Option<Self> {
        if let Value::Dict(items) = v {
            let mut out = BTreeMap::new();
            for (k, v) in items {
                let k = match k {
                    Value::None => None,
                    k => Some(u32::try_from(k.int()?).ok()?),
                };
                out.insert(k, v.text()?);
            }
            return Some(Self::Fragments(out));
        }
        v.text().map(Self::Whole)
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Whole(s) => Value::str(s),
            Self::Fragments(map) => {
                Value::Dict(map.iter().map(|(k, v)| (k.map_or(Value::None, |k| Value::Int(i64::from(k))), Value::str(v))).collect())
            }
        }
    }
}

/// As REPLICATE answers and replicators read: a pickled dict.
pub fn dump_hashes(hashes: &Hashes) -> Vec<u8> {
    pickle::dumps(&Value::Dict(hashes.iter().map(|(k, v)| (Value::str(k), v.to_value())).collect()))
}

/// The inverse of [`dump_hashes`]; suffixes that are being hashed (`None`) are left out. Errors: not such a pickle.
pub fn load_hashes(raw: &[u8]) -> Result<Hashes, String> {
    let Value::Dict(items) = pickle::loads(raw).map_err(|e| e.to_string())? else { return Err("not a dict".into()) };
    Ok(items.iter().filter_map(|(k, v)| Some((k.text().filter(|k| valid_suffix(k))?, SuffixHash::from_value(v)?))).collect())
}

fn read_hashes(partition: &Path) -> Stored {
    let nothing = Stored { valid: false, updated: -1.0, suffixes: BTreeMap::new() };
    let Ok(raw) = std::fs::read(partition.join(HASHES)) else { return nothing };
    let Ok(Value::Dict(items)) = pickle::loads(&raw) else { return nothing };
    let mut out = Stored { valid: true, updated: -1.0, suffixes: BTreeMap::new() };
    for (k, v) in items {
        match k.text() {
            Some(k) if k == "valid" => out.valid = matches!(v, Value::Bool(true)) || v.int().is_some_and(|i| i != 0),
            Some(k) if k == "updated" => out.updated = v.float().unwrap_or(-1.0),
            Some(k) if valid_suffix(&k) => {
                out.suffixes.insert(k, SuffixHash::from_value(&v));
            }
            _ => return nothing,
        }
    }
    out
}

fn write_hashes(partition: &Path, stored: &Stored, now: f64) -> io::Result<()> {
    let mut items: Vec<(Value, Value)> = vec![(Value::str("valid"), Value::Bool(stored.valid))];
    items.extend(stored.suffixes.iter().map(|(k, v)| (Value::str(k), v.as_ref().map_or(Value::None, SuffixHash::to_value))));
    items.push((Value::str("updated"), Value::Float(now)));
    replace_file(partition, &partition.join(HASHES), &pickle::dumps(&Value::Dict(items)))
}

/// Writes a file by way of a temporary one in `tmp`, so that readers see old or new, also after a crash.
pub(crate) fn replace_file(tmp: &Path, to: &Path, data: &[u8]) -> io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("tmp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = tmp.join(name);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let written = file.write_all(data).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&path, to));
    if written.is_err() {
        // Best effort; the directory for temporary files is swept.
        let _ = std::fs::remove_file(&path);
    }
    written
}

/// Folds `hashes.invalid` into `hashes.pkl`.
fn consolidate(partition: &Path, now: f64) -> DiskResult<Stored> {
    let _lock = lock_dir(partition, "", 1, LOCK_TIMEOUT)?;
    let mut stored = read_hashes(partition);
    let invalid = partition.join(INVALID);
    let raw = match std::fs::read(&invalid) {
        Ok(raw) => raw,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    if raw.is_empty() {
        return Ok(stored);
    }
    let mut changed = false;
    for line in String::from_utf8_lossy(&raw).lines().map(str::trim).filter(|l| valid_suffix(l)) {
        stored.suffixes.insert(line.to_string(), None);
        changed = true;
    }
    if changed {
        stored.updated = now;
        write_hashes(partition, &stored, now)?;
    }
    std::fs::File::create(&invalid)?;
    Ok(stored)
}

/// Marks a suffix as changed. Does nothing when the partition has been removed.
pub fn invalidate_hash(suffix_dir: &Path) -> DiskResult<()> {
    let (Some(suffix), Some(partition)) = (suffix_dir.file_name().and_then(|n| n.to_str()), suffix_dir.parent()) else {
        return Ok(());
    };
    let _lock = lock_dir(partition, "", 1, LOCK_TIMEOUT)?;
    append_invalid(partition, suffix)
}

/// With the partition's lock held.
pub(crate) fn append_invalid(partition: &Path, suffix: &str) -> DiskResult<()> {
    match std::fs::OpenOptions::new().append(true).create(true).open(partition.join(INVALID)) {
        Ok(mut f) => Ok(f.write_all(format!("{suffix}\n").as_bytes())?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Why a suffix has no hash.
enum NoHash {
    /// It is gone (perhaps because it was empty).
    Gone,
    Failed(DiskError),
}

impl Manager {
    /// Hashes of a partition's suffixes; the listed ones are hashed anew, others only if they changed. With
    /// `list_all`, the directory is trusted over the cache. An absent partition has none.
    pub fn get_hashes(
        &self,
        device: &str,
        partition: &str,
        recalculate: &[String],
        policy: &StoragePolicy,
        list_all: bool,
    ) -> DiskResult<Hashes> {
        self.device_path(device)?;
        let path = self.partition_path(device, policy, partition);
        if !path.exists() {
            return Ok(Hashes::new());
        }
        Ok(self.hash_partition(&path, device, recalculate, policy, list_all)?.1)
    }

    /// Marks suffixes as changed without hashing them (REPLICATE with suffixes).
    pub fn invalidate_suffixes(&self, device: &str, partition: &str, suffixes: &[String], policy: &StoragePolicy) -> DiskResult<()> {
        self.device_path(device)?;
        let path = self.partition_path(device, policy, partition);
        for suffix in suffixes.iter().filter(|s| valid_suffix(s)) {
            invalidate_hash(&path.join(suffix))?;
        }
        Ok(())
    }

    /// As [`Self::get_hashes`], with the number of suffixes that were hashed.
    pub fn get_hashes_counted(
        &self,
        device: &str,
        partition: &str,
        recalculate: &[String],
        policy: &StoragePolicy,
        list_all: bool,
    ) -> DiskResult<(usize, Hashes)> {
        self.device_path(device)?;
        let path = self.partition_path(device, policy, partition);
        self.hash_partition(&path, device, recalculate, policy, list_all)
    }

    fn hash_partition(
        &self,
        path: &Path,
        device: &str,
        recalculate: &[String],
        policy: &StoragePolicy,
        list_all: bool,
    ) -> DiskResult<(usize, Hashes)> {
        let device = self.config.devices.join(device);
        for _ in 0..MAX_ROUNDS {
            let mut hashed = 0;
            let consolidated = consolidate(path, self.now().as_f64());
            if let Err(e) = &consolidated {
                tracing::warn!(partition = %path.display(), error = %e, "hashes unreadable");
            }
            let original = consolidated.ok().filter(|s| s.valid);
            let listing = list_all || original.is_none();
            let original = original.unwrap_or_else(|| read_hashes(path));
            let mut stored =
                if original.valid { original.clone() } else { Stored { valid: true, updated: -1.0, suffixes: BTreeMap::new() } };
            if listing {
                for name in list_dir(path)?.into_iter().filter(|n| n.len() == 3) {
                    stored.suffixes.entry(name).or_insert(None);
                }
            }
            for suffix in recalculate.iter().filter(|s| valid_suffix(s)) {
                stored.suffixes.insert(suffix.clone(), None);
            }
            let mut modified = listing;
            let todo: Vec<String> = stored.suffixes.iter().filter(|(_, h)| h.is_none()).map(|(k, _)| k.clone()).collect();
            for suffix in todo {
                modified = true;
                match self.hash_suffix(&device, &path.join(&suffix), policy) {
                    Ok(h) => {
                        stored.suffixes.insert(suffix, Some(h));
                        hashed += 1;
                    }
                    Err(NoHash::Gone) => {
                        stored.suffixes.remove(&suffix);
                    }
                    Err(NoHash::Failed(e)) => tracing::warn!(partition = %path.display(), suffix, error = %e, "error hashing suffix"),
                }
            }
            if modified {
                let _lock = lock_dir(path, "", 1, LOCK_TIMEOUT)?;
                if read_hashes(path) != original {
                    continue;
                }
                write_hashes(path, &stored, self.now().as_f64())?;
            }
            let out = stored.suffixes.into_iter().filter_map(|(k, v)| v.map(|v| (k, v))).collect();
            return Ok((hashed, out));
        }
        Err(DiskError::LockTimeout(path.to_path_buf()))
    }

    /// Removes what is obsolete in a suffix and hashes the rest.
    fn hash_suffix(&self, device: &Path, path: &Path, policy: &StoragePolicy) -> Result<SuffixHash, NoHash> {
        let mut names = match list_dir(path) {
            Ok(names) => names,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Err(NoHash::Gone),
            Err(e) => return Err(NoHash::Failed(e.into())),
        };
        names.sort();
        let mut sums: BTreeMap<Option<u32>, Md5> = BTreeMap::new();
        for name in names {
            let dir = path.join(name);
            let found = match self.clean_up_or_quarantine(device, path, &dir, policy) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(e) => return Err(NoHash::Failed(e)),
            };
            if found.files.is_empty() {
                continue;
            }
            let mut add = |key: Option<u32>, text: String| sums.entry(key).or_default().update(text.as_bytes());
            for f in [&found.meta, &found.tombstone].into_iter().flatten() {
                add(None, format!("{}{}", f.timestamp.internal(), f.ext.as_str()));
            }
            if policy.is_ec() {
                for f in found.frag_sets.iter().flat_map(|(_, set)| set) {
                    add(f.frag_index, f.timestamp.internal());
                }
                if let Some(t) = found.chosen_durable_at() {
                    add(None, format!("{}.durable", t.internal()));
                }
            } else if let Some(f) = &found.data {
                add(None, format!("{}{}", f.timestamp.internal(), f.ext.as_str()));
            }
            if let Some(t) = found.ctype.and_then(|f| f.ctype_timestamp) {
                add(None, format!("{}_ctype", t.internal()));
            }
        }
        // An empty suffix goes, as if it never was.
        match std::fs::remove_dir(path) {
            Ok(()) => return Err(NoHash::Gone),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(NoHash::Gone),
            Err(_) => {}
        }
        if policy.is_ec() {
            return Ok(SuffixHash::Fragments(sums.into_iter().map(|(k, m)| (k, to_hex(&m.finalize()))).collect()));
        }
        Ok(SuffixHash::Whole(to_hex(&sums.remove(&None).unwrap_or_default().finalize())))
    }

    /// `None`: it was broken and is quarantined.
    pub(crate) fn clean_up_or_quarantine(
        &self,
        device: &Path,
        suffix: &Path,
        dir: &Path,
        policy: &StoragePolicy,
    ) -> DiskResult<Option<crate::OnDisk>> {
        let e = match self.clean_up(dir, policy, &FragWish::default()) {
            Ok(found) => return Ok(Some(found)),
            Err(DiskError::Io(e)) => e,
            Err(e) => return Err(e),
        };
        let place: Vec<PathBuf> = if e.kind() == io::ErrorKind::NotADirectory {
            vec![dir.to_path_buf()]
        } else if is_corrupt(&e) {
            // Where even the rename fails, the whole suffix has to go.
            vec![dir.to_path_buf(), suffix.to_path_buf()]
        } else {
            return Err(e.into());
        };
        let mut last = DiskError::Io(e);
        for p in place {
            match self.quarantine_dir(device, policy, &p) {
                Ok(to) => {
                    tracing::error!(from = %p.display(), to = %to.display(), "quarantined: not a readable directory");
                    return Ok(None);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}
