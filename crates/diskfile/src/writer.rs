//! Writing an object's files.
//!
//! A file is written without a name in the object's own directory (or under a temporary name where the
//! file system cannot do that), its data is made durable, then it gets its name, and then the name is
//! made durable together with those of other writes. A crash in between leaves the state before. Only of a small object
//! where there was none, the data may arrive later than the name: a crash may then leave a file that is shorter than
//! its metadata says, which is quarantined; nobody had been told of it.

use crate::commit::{self, Pending, make_dirs, start_data};
use crate::lock::{LOCK_TIMEOUT, lock_dir};
use crate::manager::{Device, FsKind, Reserve};
use crate::names::{Ext, data_name, meta_name, tombstone_name};
use crate::ondisk::{FragWish, resolve};
use crate::verified::FileId;
use crate::{DiskError, DiskFile, DiskResult, Metadata, hashes, manager, metadata, recent};
use caelum_swiftkit::{Timestamp, to_hex};
use md5::{Digest, Md5};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, fstatvfs, linkat, open};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file being written. Dropped without [`Self::put`], it leaves nothing.
pub struct Writer {
    object: DiskFile,
    device: Arc<Device>,
    file: File,
    /// Under which name it is written where it needs one.
    temporary: Option<PathBuf>,
    ext: Ext,
    md5: Option<Md5>,
    size: u64,
    synced: u64,
    /// Directories that were created, their parents included.
    changed: Vec<PathBuf>,
}

impl Writer {
    pub(crate) fn open(object: DiskFile, device: Arc<Device>, size: Option<u64>, ext: Ext) -> DiskResult<Self> {
        let mut changed = Vec::new();
        let (file, temporary) = open_file(&object, &device, &mut changed)?;
        let out = Self { object, device, file, temporary, ext, md5: Some(Md5::new()), size: 0, synced: 0, changed };
        // A tombstone frees space; it may use the reserve.
        if ext != Ext::Tombstone {
            check_space(&out.file, out.object.manager.config.reserve, size.unwrap_or(0))?;
            if let Some(size) = size.filter(|s| *s > SMALL) {
                allocate(&out.file, size)?;
            }
        }
        Ok(out)
    }

    /// Appends. Errors: `NoSpace` or the device's.
    pub fn write(&mut self, chunk: &[u8]) -> DiskResult<()> {
        self.write_batch(&mut [IoSlice::new(chunk)])
    }

    /// Appends several pieces in one go, for which the file system finds larger pages. Errors: as [`Self::write`].
    pub fn write_batch(&mut self, mut chunks: &mut [IoSlice<'_>]) -> DiskResult<()> {
        if let Some(md5) = &mut self.md5 {
            chunks.iter().for_each(|c| md5.update(&**c));
        }
        while chunks.iter().any(|c| !c.is_empty()) {
            match self.file.write_vectored(chunks) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => {
                    self.size += n as u64;
                    IoSlice::advance_slices(&mut chunks, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(DiskError::from_write(e)),
            }
        }
        if self.size - self.synced >= self.object.manager.config.bytes_per_sync {
            self.file.sync_data()?;
            drop_cache(&self.file, self.synced, self.size - self.synced);
            self.synced = self.size;
        }
        Ok(())
    }

    /// Leaves the MD5 to the caller, who computes it anyway.
    #[must_use]
    pub fn unhashed(mut self) -> Self {
        self.md5 = None;
        self
    }

    /// Size and, unless that was left to the caller, MD5 in hex of what was written; nothing can be written after.
    pub fn finish(&mut self) -> (u64, Option<String>) {
        (self.size, self.md5.take().map(|sum| to_hex(&sum.finalize())))
    }

    /// Gives the file its metadata and name. `metadata` must have `X-Timestamp` and, of data, an `ETag` that matches what
    /// was written; the object's name is added.
    /// Fragments are not durable before [`DiskFile::commit`]. Errors: as [`DiskError`] says; then nothing has changed.
    pub fn put(mut self, mut metadata: Metadata) -> DiskResult<Pending> {
        let timestamp = metadata.timestamp("X-Timestamp").ok_or_else(|| DiskError::Invalid("no X-Timestamp in the metadata".into()))?;
        let mut cleanup = true;
        let name = match self.ext {
            Ext::Data => {
                let fragment = self.fragment(&mut metadata)?;
                cleanup = fragment.is_none();
                data_name(timestamp, fragment, false)
            }
            Ext::Meta => meta_name(timestamp, metadata.timestamp("Content-Type-Timestamp")),
            Ext::Tombstone => tombstone_name(timestamp),
            Ext::Durable | Ext::Other => return Err(DiskError::Invalid("not a file of an object".into())),
        };
        metadata.set("name", self.object.name.clone().unwrap_or_default());
        let device = self.device.clone();
        // Of large files, the data may take long.
        let early = (self.size <= SMALL).then(|| device.syncer.coming());
        // In a directory that this write made there is nothing to clean up. Whoever comes in between does it.
        let fresh = !self.changed.is_empty();
        // Nor is there an older version that a crash must leave: the data may arrive after the name, as long as both are
        // there before anybody is told.
        let later = fresh && device.kind == FsKind::Xfs && (1..=SMALL).contains(&self.size);
        if later {
            start_data(&self.file).map_err(DiskError::from_write)?;
        }
        metadata::write(&self.file, &metadata)?;
        let data = if later { Some(self.file.try_clone()?) } else { self.data_to_device().map(|()| None)? };
        let _coming = early.unwrap_or_else(|| device.syncer.coming());
        if self.size > self.object.manager.config.keep_cache_size {
            drop_cache(&self.file, 0, self.size);
        }
        let dir = self.object.dir.clone();
        let mut changed = self.link(&dir, &name)?;
        let relinked = self.relink(&dir, &name, &mut changed);
        self.note_right();
        if cleanup {
            if !fresh {
                self.clean(&dir);
            }
            if let Some(other) = relinked {
                self.clean(&other);
            }
        }
        self.object.submit(&self.device, data, changed)
    }

    /// The number of the fragment that is being written, from the metadata or the request.
    fn fragment(&self, metadata: &mut Metadata) -> DiskResult<Option<u32>> {
        const KEY: &str = "X-Object-Sysmeta-Ec-Frag-Index";
        let policy = &self.object.policy;
        if !policy.is_ec() {
            return Ok(None);
        }
        if metadata.get(KEY).is_none()
            && let Some(i) = self.object.wish.index
        {
            metadata.set(KEY, i.to_string());
        }
        crate::names::frag_index(metadata.get(KEY).unwrap_or("None"), Some(policy)).map(Some).map_err(DiskError::Invalid)
    }

    fn data_to_device(&self) -> DiskResult<()> {
        match self.device.kind {
            // Attributes and size go with the journal; only data has to be there first.
            FsKind::Xfs if self.size == 0 => Ok(()),
            FsKind::Xfs => commit::data_to_device(&self.file).map_err(DiskError::from_write),
            FsKind::Other => self.file.sync_all().map_err(DiskError::from_write),
        }
    }

    /// Gives the file its name, the suffix marked as changed under the same lock, so that no hash is
    /// computed between the two. Gives the directories that changed.
    fn link(&mut self, dir: &Path, name: &str) -> DiskResult<Vec<PathBuf>> {
        let target = dir.join(name);
        let suffix = dir.parent().ok_or_else(|| DiskError::Invalid("no suffix".into()))?;
        let partition = suffix.parent().ok_or_else(|| DiskError::Invalid("no partition".into()))?;
        let mut changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            changed.push(dir.to_path_buf());
        }
        let _lock = lock_dir(partition, "", 1, LOCK_TIMEOUT)?;
        // Data that was handed over to another place since the request began takes its metadata there.
        if self.ext == Ext::Meta && !manager::list_or_empty(dir)?.iter().any(|n| n.ends_with(Ext::Data.as_str())) {
            // Not empty or gone: others have written or removed it.
            let _ = std::fs::remove_dir(dir);
            return Err(DiskError::NotExist);
        }
        if let Some(s) = suffix.file_name().and_then(|s| s.to_str()) {
            hashes::append_invalid(partition, s)?;
        }
        for _ in 0..3 {
            let result = match &self.temporary {
                Some(path) => std::fs::rename(path, &target),
                None => {
                    let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                    linkat(CWD, from, CWD, &target, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
                }
            };
            match result {
                Ok(()) => {
                    self.temporary = None;
                    return Ok(changed);
                }
                // A clean-up has just removed the empty directory.
                Err(e) if e.kind() == io::ErrorKind::NotFound => changed.extend(make_dirs(dir)?),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => crate::clean::remove_file(&target)?,
                Err(e) => return Err(DiskError::from_write(e)),
            }
        }
        Err(DiskError::StateChanged)
    }

    /// While the ring's part power grows, the file also stands in the partition of the next power.
    fn relink(&self, dir: &Path, name: &str, changed: &mut Vec<PathBuf>) -> Option<PathBuf> {
        let power = self.object.next_part_power?;
        let other = next_dir(&self.object, power)?;
        if other == dir {
            // The ring has grown already; what the old place still holds may be obsolete now.
            return next_dir(&self.object, power.checked_sub(1)?);
        }
        match link_at(&dir.join(name), &other, name) {
            Ok(more) => changed.extend(more),
            Err(e) => tracing::error!(from = %dir.display(), to = %other.display(), error = %e, "relinking failed"),
        }
        Some(other)
    }

    /// What was just written is in memory and matches its checksum.
    fn note_right(&self) {
        let manager = &self.object.manager;
        let kept = recent::LARGEST + 1..=manager.config.keep_cache_size;
        if self.ext != Ext::Data || self.object.policy.is_ec() || !kept.contains(&self.size) {
            return;
        }
        if let Ok(m) = self.file.metadata() {
            manager.verified.insert(FileId::from(&m));
        }
    }

    fn clean(&self, dir: &Path) {
        if let Err(e) = self.object.manager.clean_up(dir, &self.object.policy, &FragWish::default()) {
            tracing::warn!(dir = %dir.display(), error = %e, "cleaning up failed");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // Gone already when an operator swept the directory.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl DiskFile {
    /// Begins a file; `size` in bytes when known. Errors: `NoSpace`, `DeviceUnavailable`.
    pub fn writer(&self, size: Option<u64>, ext: Ext) -> DiskResult<Writer> {
        let device = self.manager.device(&self.device)?;
        Writer::open(self.clone(), device, size, ext)
    }

    /// Writes a `.meta` file. Errors: `NotExist` when there is no data (any more) beside it.
    pub fn write_metadata(&self, metadata: Metadata) -> DiskResult<Pending> {
        self.writer(None, Ext::Meta)?.put(metadata)
    }

    /// Writes a tombstone; older files of the object are removed.
    pub fn delete(&self, at: Timestamp) -> DiskResult<Pending> {
        let mut metadata = Metadata::new();
        metadata.set("X-Timestamp", at.internal());
        self.writer(None, Ext::Tombstone)?.put(metadata)
    }

    /// Marks a fragment as durable. For whole objects there is nothing to do. Errors: `NoSpace`, the device's.
    pub fn commit(&self, at: Timestamp, fragment: Option<u32>) -> DiskResult<Pending> {
        if !self.policy.is_ec() {
            return Ok(Pending::done());
        }
        let fragment = fragment.or(self.wish.index);
        let index = fragment.ok_or_else(|| DiskError::Invalid("Bad fragment index: None".into()))?;
        let (from, to) = (data_name(at, Some(index), false), data_name(at, Some(index), true));
        match std::fs::rename(self.dir.join(&from), self.dir.join(&to)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let names = manager::list_or_empty(&self.dir)?;
                let found = resolve(&names, &self.policy, &self.wish);
                let newer = found.tombstone.is_some_and(|f| f.timestamp > at) || found.durable_at.is_some_and(|t| t >= at);
                // Another writer's newer state has replaced this one: as good as done.
                return if newer { Ok(Pending::done()) } else { Err(e.into()) };
            }
            Err(e) => return Err(DiskError::from_write(e)),
        }
        let mut dirs = vec![self.dir.clone()];
        self.manager.clean_up(&self.dir, &self.policy, &FragWish::default())?;
        if let Some(other) = self.next_part_power.and_then(|p| next_dir(self, p)).filter(|d| *d != self.dir) {
            std::fs::rename(other.join(&from), other.join(&to))?;
            self.manager.clean_up(&other, &self.policy, &FragWish::default())?;
            dirs.push(other);
        }
        let device = self.manager.device(&self.device)?;
        self.submit(&device, None, dirs)
    }

    fn submit(&self, device: &Device, data: Option<File>, changed: Vec<PathBuf>) -> DiskResult<Pending> {
        let mut dirs = Vec::with_capacity(changed.len());
        for path in &changed {
            match File::open(path) {
                Ok(dir) => dirs.push(dir),
                // Already replaced and removed by a newer write.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
            // One ordered journal: the last change's directory covers those before.
            if device.kind == FsKind::Xfs && !dirs.is_empty() {
                break;
            }
        }
        if dirs.is_empty() {
            dirs.push(File::open(&device.path)?);
        }
        Ok(device.syncer.submit(data, dirs))
    }
}

/// The object's directory in the partition that it has with this part power.
pub(crate) fn next_dir(object: &DiskFile, power: u32) -> Option<PathBuf> {
    let hash = object.dir.file_name()?.to_str()?;
    let top = u32::from_str_radix(hash.get(..8)?, 16).ok()?;
    let partition = top.checked_shr(32_u32.checked_sub(power)?).unwrap_or(0);
    Some(object.manager.hash_dir(&object.device, &object.policy, &partition.to_string(), hash))
}

/// A second name in another directory. That it is there already is no error if it is the same file.
pub(crate) fn link_at(from: &Path, dir: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::fs::MetadataExt;
    let changed = make_dirs(dir)?;
    match std::fs::hard_link(from, dir.join(name)) {
        Ok(()) => Ok(changed),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(changed),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let same = from.metadata()?.ino() == dir.join(name).metadata()?.ino();
            if same { Ok(changed) } else { Err(e) }
        }
        Err(e) => Err(e),
    }
}

/// Files up to this size are not allocated ahead: one write fills them.
const SMALL: u64 = 64 << 10;

fn open_file(object: &DiskFile, device: &Device, changed: &mut Vec<PathBuf>) -> DiskResult<(File, Option<PathBuf>)> {
    let mode = Mode::from_raw_mode(0o600);
    while device.tmpfile.load(Ordering::Relaxed) {
        match open(&object.dir, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(fd) => return Ok((fd.into(), None)),
            Err(Errno::NOENT) => {
                *changed = make_dirs(&object.dir).map_err(DiskError::from_write)?;
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => device.tmpfile.store(false, Ordering::Relaxed),
            Err(e) => return Err(DiskError::from_write(e.into())),
        }
    }
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let dir = device.path.join(object.policy.dir("tmp"));
    std::fs::create_dir_all(&dir).map_err(DiskError::from_write)?;
    let path = dir.join(format!("tmp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let file = open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, mode);
    Ok((file.map_err(|e| DiskError::from_write(e.into()))?.into(), Some(path)))
}

fn check_space(file: &File, reserve: Reserve, size: u64) -> DiskResult<()> {
    let st = fstatvfs(file)?;
    let (free, all) = (st.f_frsize.saturating_mul(st.f_bavail), st.f_frsize.saturating_mul(st.f_blocks));
    if reserve.allows(free, all, size) { Ok(()) } else { Err(DiskError::NoSpace) }
}

fn allocate(file: &File, size: u64) -> DiskResult<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(DiskError::from_write(e.into())),
    }
}

/// Tells the kernel that these pages will not be read again soon.
pub(crate) fn drop_cache(file: &File, offset: u64, len: u64) {
    if let Some(len) = std::num::NonZeroU64::new(len) {
        // A hint; nothing depends on it.
        let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::DontNeed);
    }
}
