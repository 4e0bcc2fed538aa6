use crate::commit::Syncer;
use crate::lock::{DirLock, lock_dir};
use crate::recent::Recent;
use crate::verified::Verified;
use crate::{DiskError, DiskResult};
use caelum_base::Env;
use caelum_swiftkit::{StoragePolicy, SwiftConf, Timestamp, to_hex};
use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags, open, openat2};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

/// Space that stays free on every device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reserve {
    Bytes(u64),
    /// Of the device's capacity, 0 to 100.
    Percent(f64),
}

impl Reserve {
    /// `fallocate_reserve` as operators write it: `1%` or bytes.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().strip_suffix('%') {
            Some(p) => p.trim().parse().ok().filter(|p| (0.0..100.0).contains(p)).map(Self::Percent),
            None => text.trim().parse().ok().map(Self::Bytes),
        }
    }

    /// Whether a write of `size` bytes may take place where `free` of `all` bytes are left. Without a size, the reserve itself is enough.
    pub fn allows(self, free: u64, all: u64, size: u64) -> bool {
        match self {
            Self::Bytes(0) => free >= size,
            Self::Bytes(n) => free.checked_sub(size).is_some_and(|left| if size == 0 { left >= n } else { left > n }),
            Self::Percent(p) => {
                // Sizes of disks are far below 2^53.
                let left = (free as f64 - size as f64) / all.max(1) as f64 * 100.0;
                if size == 0 { left >= p } else { left > p || p == 0.0 && left >= 0.0 }
            }
        }
    }
}

/// How devices are used. The defaults are upstream's.
#[derive(Clone)]
pub struct Config {
    /// Directory of the devices (`/srv/node`).
    pub devices: PathBuf,
    pub swift: Arc<SwiftConf>,
    pub env: Env,
    /// Serve only devices that are mount points.
    pub mount_check: bool,
    /// Tombstones older than this are removed.
    pub reclaim_age: Duration,
    /// Fragments that never became durable are kept at least this long after they were written.
    pub commit_window: Duration,
    pub reserve: Reserve,
    /// Large files are made durable each time this many bytes were written.
    pub bytes_per_sync: u64,
    /// Objects above this size are dropped from the page cache once read or written.
    pub keep_cache_size: u64,
    pub replication_lock_timeout: Duration,
    /// Concurrent incoming replications per device; 0: no limit.
    pub replication_concurrency_per_device: usize,
}

impl Config {
    pub fn new(devices: impl Into<PathBuf>, swift: Arc<SwiftConf>, env: Env) -> Self {
        Self {
            devices: devices.into(),
            swift,
            env,
            mount_check: true,
            reclaim_age: Duration::from_secs(7 * 86_400),
            commit_window: Duration::from_secs(60),
            reserve: Reserve::Percent(1.0),
            bytes_per_sync: 512 << 20,
            keep_cache_size: 5 << 20,
            replication_lock_timeout: Duration::from_secs(15),
            replication_concurrency_per_device: 1,
        }
    }
}

/// What may be relied on of a device's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FsKind {
    /// The journal is one ordered sequence whose writes flush the data device first: once a file's data has
    /// reached the device, making its name durable makes all durable.
    Xfs,
    /// Files and directories are made durable one by one.
    Other,
}

/// A device that was there when it was asked for.
pub(crate) struct Device {
    pub path: PathBuf,
    pub kind: FsKind,
    /// `O_TMPFILE` has not failed yet.
    pub tmpfile: AtomicBool,
    pub syncer: Syncer,
    dev: u64,
}

/// All devices of one node. Everything on it blocks; call it from threads that may.
pub struct Manager {
    pub config: Config,
    known: RwLock<HashMap<String, Arc<Device>>>,
    policies: HashMap<u32, Arc<StoragePolicy>>,
    pub(crate) verified: Verified,
    pub(crate) recent: Recent,
}

impl Manager {
    pub fn new(config: Config) -> Arc<Self> {
        let policies = config.swift.policies.iter().map(|p| (p.index, Arc::new(p.clone()))).collect();
        Arc::new(Self { config, known: RwLock::default(), policies, verified: Verified::default(), recent: Recent::default() })
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::at(self.config.env.now())
    }

    /// Names of the directories that are devices, available or not, in order.
    pub fn device_names(&self) -> Vec<String> {
        let mut out: Vec<String> = list_dir(&self.config.devices).unwrap_or_default();
        out.retain(|n| valid_device(n) && self.config.devices.join(n).is_dir());
        out.sort();
        out
    }

    /// The device's directory. Errors: `DeviceUnavailable`.
    pub fn device_path(&self, device: &str) -> DiskResult<PathBuf> {
        let path = self.config.devices.join(device);
        let ok = valid_device(device) && if self.config.mount_check { is_mount(&path) } else { path.is_dir() };
        if ok { Ok(path) } else { Err(DiskError::DeviceUnavailable) }
    }

    pub(crate) fn device(&self, name: &str) -> DiskResult<Arc<Device>> {
        let path = self.device_path(name)?;
        let dev = std::fs::metadata(&path)?.dev();
        if let Some(d) = self.known.read().expect("no holder of this lock panics").get(name).filter(|d| d.dev == dev) {
            return Ok(d.clone());
        }
        let kind = fs_kind(&path)?;
        let device = Arc::new(Device { path, kind, tmpfile: AtomicBool::new(true), syncer: Syncer::default(), dev });
        self.known.write().expect("no holder of this lock panics").insert(name.to_string(), device.clone());
        Ok(device)
    }

    /// `DEVICES/DEVICE/objects[-N]/PARTITION`; says nothing of whether it exists.
    pub fn partition_path(&self, device: &str, policy: &StoragePolicy, partition: &str) -> PathBuf {
        self.config.devices.join(device).join(policy.dir("objects")).join(partition)
    }

    /// Directory of one object by its hash in hex.
    pub fn hash_dir(&self, device: &str, policy: &StoragePolicy, partition: &str, hash: &str) -> PathBuf {
        let suffix = hash.get(hash.len().saturating_sub(3)..).unwrap_or(hash);
        let mut path = self.partition_path(device, policy, partition);
        path.push(suffix);
        path.push(hash);
        path
    }

    /// MD5 of an object's name in hex.
    pub fn object_hash(&self, account: &str, container: &str, object: &str) -> String {
        to_hex(&self.config.swift.hash.object(account, container, object))
    }

    /// Errors: `Invalid`.
    pub fn policy(&self, index: u32) -> DiskResult<&StoragePolicy> {
        self.config.swift.policies.get(index).ok_or_else(|| DiskError::Invalid(format!("No policy with index {index}")))
    }

    pub(crate) fn shared_policy(&self, index: u32) -> DiskResult<Arc<StoragePolicy>> {
        self.policy(index).map(|p| self.policies.get(&index).cloned().unwrap_or_else(|| Arc::new(p.clone())))
    }

    /// Held while replicating into a partition, or while removing one that was handed over.
    pub fn partition_lock(&self, device: &str, policy: &StoragePolicy, partition: &str, name: &str) -> DiskResult<DirLock> {
        self.device_path(device)?;
        lock_dir(&self.partition_path(device, policy, partition), name, 1, self.config.replication_lock_timeout)
    }

    /// The partition's replication lock and one of the device's places for incoming replication.
    pub fn replication_lock(&self, device: &str, policy: &StoragePolicy, partition: &str) -> DiskResult<(DirLock, Option<DirLock>)> {
        let start = Instant::now();
        let part = self.partition_lock(device, policy, partition, "replication")?;
        let limit = self.config.replication_concurrency_per_device;
        if limit == 0 {
            return Ok((part, None));
        }
        let left = self.config.replication_lock_timeout.saturating_sub(start.elapsed());
        Ok((part, Some(lock_dir(&self.device_path(device)?, "", limit, left)?)))
    }
}

/// Letters, digits, `_.-~`: what stands unquoted in a URL.
pub fn valid_device(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-~".contains(&b))
}

/// A mount point, or a link to a directory with a file `.ismount` in it.
pub fn is_mount(path: &Path) -> bool {
    let Ok(here) = path.symlink_metadata() else { return false };
    if here.file_type().is_symlink() {
        return path.join(".ismount").is_file();
    }
    let Ok(above) = path.join("..").symlink_metadata() else { return false };
    here.dev() != above.dev() || here.ino() == above.ino() || path.join(".ismount").is_file()
}

/// Size, used and available bytes of the file system at this path.
pub fn usage(path: &Path) -> std::io::Result<(u64, u64, u64)> {
    let st = rustix::fs::statvfs(path)?;
    let unit = st.f_frsize;
    Ok((unit * st.f_blocks, unit * st.f_blocks.saturating_sub(st.f_bavail), unit * st.f_bavail))
}

const XFS_MAGIC: i64 = 0x5846_5342;

fn fs_kind(path: &Path) -> DiskResult<FsKind> {
    let magic = rustix::fs::statfs(path).map_err(DiskError::from)?.f_type as i64;
    if magic != XFS_MAGIC {
        return Ok(FsKind::Other);
    }
    // Data on a separate realtime device is not flushed by the journal's writes.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let realtime = mounts.lines().any(|l| l.split(' ').nth(3).is_some_and(|o| o.split(',').any(|o| o.starts_with("rtdev="))));
    Ok(if realtime { FsKind::Other } else { FsKind::Xfs })
}

/// Names in a directory, unordered; those that are not UTF-8 are none of ours and left out.
pub(crate) fn list_dir(path: &Path) -> std::io::Result<Vec<String>> {
    names_in(&open_as(path, OFlags::DIRECTORY, false)?)
}

/// Names in an open directory.
pub(crate) fn names_in(dir: &File) -> std::io::Result<Vec<String>> {
    let mut out = Vec::new();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 2_048];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Ok(name) = entry?.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            out.push(name.to_string());
        }
    }
    Ok(out)
}

/// Opens for reading. `in_memory`: only if that needs no disk. Errors: `WouldBlock` where it does.
pub(crate) fn open_as(path: &Path, flags: OFlags, in_memory: bool) -> std::io::Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    if !in_memory {
        return Ok(open(path, flags, Mode::empty())?.into());
    }
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(fd) => Ok(fd.into()),
        // A kernel before 5.12, or a sandbox without the call.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => Err(std::io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e.into()),
    }
}

/// As [`list_dir`], with nothing for a directory that is not there or not one.
pub(crate) fn list_or_empty(path: &Path) -> std::io::Result<Vec<String>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match list_dir(path) {
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(Vec::new()),
        other => other,
    }
}
