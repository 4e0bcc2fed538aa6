use crate::manager::{names_in, open_as};
use crate::metadata::{self, ReadError};
use crate::names::FileInfo;
use crate::ondisk::{FragWish, OnDisk, resolve};
use crate::quarantine::is_corrupt;
use crate::recent::DirId;
use crate::verified::FileId;
use crate::{DiskError, DiskResult, Manager, Metadata};
use bytes::Bytes;
use caelum_swiftkit::{StoragePolicy, Timestamp};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an object is looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub wish: FragWish,
    /// Open objects whose time of deletion has passed.
    pub open_expired: bool,
    /// The ring's part power is being increased to this (`X-Backend-Next-Part-Power`).
    pub next_part_power: Option<u32>,
}

/// One object on one device. Cheap; nothing is read before [`Self::open`].
#[derive(Clone)]
pub struct DiskFile {
    pub(crate) manager: Arc<Manager>,
    pub(crate) device: String,
    pub(crate) device_path: PathBuf,
    pub(crate) partition: String,
    pub(crate) policy: Arc<StoragePolicy>,
    /// `/account/container/object`; `None` until read when only the directory is known.
    pub(crate) name: Option<String>,
    pub(crate) dir: PathBuf,
    pub(crate) wish: FragWish,
    open_expired: bool,
    pub(crate) next_part_power: Option<u32>,
    pub(crate) in_memory: bool,
}

/// Where an object's bytes are.
#[derive(Clone)]
pub(crate) enum Content {
    File(Arc<File>),
    /// All of them, known to be right.
    Memory(Bytes),
}

/// An object whose files were found consistent, its data open for reading.
#[derive(Clone)]
pub struct Opened {
    pub(crate) content: Content,
    pub data_path: PathBuf,
    /// Size in bytes; equals the metadata's `Content-Length`.
    pub size: u64,
    /// All metadata: the data file's and what was set since.
    pub metadata: Metadata,
    pub data_metadata: Metadata,
    /// Of the `.meta` file alone, where there is one.
    pub meta_metadata: Option<Metadata>,
    pub on_disk: OnDisk,
    pub name: String,
    pub(crate) id: FileId,
    /// The directory before its files were looked at; `None` where it could not be asked.
    pub(crate) dir_id: Option<DirId>,
    pub(crate) is_ec: bool,
}

impl Opened {
    /// When data or metadata was last written.
    pub fn timestamp(&self) -> Timestamp {
        self.metadata.timestamp("X-Timestamp").unwrap_or_default()
    }

    pub fn data_timestamp(&self) -> Timestamp {
        self.data_metadata.timestamp("X-Timestamp").unwrap_or_default()
    }

    /// `None`: only fragments that are not durable.
    pub fn durable_timestamp(&self) -> Option<Timestamp> {
        if self.is_ec { self.on_disk.chosen_durable_at() } else { Some(self.data_timestamp()) }
    }

    pub fn content_type(&self) -> &str {
        self.metadata.get("Content-Type").unwrap_or("")
    }

    pub fn content_type_timestamp(&self) -> Timestamp {
        self.metadata.timestamp("Content-Type-Timestamp").unwrap_or_else(|| self.data_timestamp())
    }

    pub fn etag(&self) -> &str {
        self.metadata.get("ETag").unwrap_or("")
    }

    /// Account, container and object.
    pub fn names(&self) -> Option<(&str, &str, &str)> {
        split_name(&self.name)
    }
}

/// `/account/container/object` in its parts.
pub fn split_name(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.strip_prefix('/')?.splitn(3, '/');
    let (a, c, o) = (parts.next()?, parts.next()?, parts.next()?);
    (!a.is_empty() && !c.is_empty() && !o.is_empty()).then_some((a, c, o))
}

impl Manager {
    /// An object by name. Errors: `DeviceUnavailable`, `Invalid` (no such policy).
    pub fn object(
        self: &Arc<Self>,
        device: &str,
        partition: &str,
        policy: u32,
        (account, container, object): (&str, &str, &str),
        look: Look,
    ) -> DiskResult<DiskFile> {
        let hash = self.object_hash(account, container, object);
        let mut out = self.object_at(device, partition, policy, &hash, look)?;
        out.name = Some(format!("/{account}/{container}/{object}"));
        Ok(out)
    }

    /// An object by the hash of its name in hex; the name is read when it is opened.
    pub fn object_at(self: &Arc<Self>, device: &str, partition: &str, policy: u32, hash: &str, look: Look) -> DiskResult<DiskFile> {
        self.device_path(device)?;
        self.unchecked(device, partition, policy, hash, look)
    }

    /// An object that was read whole a moment ago and has not changed since, small enough to be kept. Waits for no disk.
    pub fn recent(
        self: &Arc<Self>,
        device: &str,
        partition: &str,
        policy: u32,
        (account, container, object): (&str, &str, &str),
        look: &Look,
    ) -> Option<(DiskFile, Opened)> {
        if look.wish != FragWish::default() {
            return None;
        }
        let hash = self.object_hash(account, container, object);
        let mut out = self.unchecked(device, partition, policy, &hash, look.clone()).ok()?;
        let opened = self.recent.get(&out.dir)?;
        out.name = Some(format!("/{account}/{container}/{object}"));
        (out.name.as_deref() == Some(opened.name.as_str())).then_some((out, opened))
    }

    /// Says nothing of whether the device is there.
    fn unchecked(self: &Arc<Self>, device: &str, partition: &str, policy: u32, hash: &str, look: Look) -> DiskResult<DiskFile> {
        let policy = self.shared_policy(policy)?;
        let dir = self.hash_dir(device, &policy, partition, hash);
        Ok(DiskFile {
            manager: self.clone(),
            device: device.to_string(),
            device_path: self.config.devices.join(device),
            partition: partition.to_string(),
            policy,
            name: None,
            dir,
            wish: look.wish,
            open_expired: look.open_expired,
            next_part_power: look.next_part_power,
            in_memory: false,
        })
    }

    /// An object by hash, its directory cleaned up and its name known, with the names of the files that remain
    /// in descending order. A tombstone counts. Errors: `NotExist` when there is nothing to name it.
    pub fn object_from_hash(
        self: &Arc<Self>,
        device: &str,
        partition: &str,
        policy: u32,
        hash: &str,
        look: Look,
    ) -> DiskResult<(DiskFile, Vec<String>)> {
        let mut object = self.object_at(device, partition, policy, hash, look)?;
        let suffix = object.dir.parent().unwrap_or(&object.dir).to_path_buf();
        let found = self.clean_up_or_quarantine(&object.device_path, &suffix, &object.dir, &object.policy)?.ok_or(DiskError::NotExist)?;
        let oldest = found.files.last().ok_or(DiskError::NotExist)?;
        let file = open_as(&object.dir.join(oldest), OFlags::empty(), false).map_err(|e| gone(e, DiskError::NotExist))?;
        let metadata = match metadata::read(&file) {
            Ok(m) => m,
            Err(ReadError::NotSupported) => return Err(DiskError::XattrNotSupported),
            Err(_) => return Err(DiskError::NotExist),
        };
        let name = metadata.name().filter(|n| split_name(n).is_some()).ok_or(DiskError::NotExist)?;
        object.name = Some(name.to_string());
        Ok((object, found.files))
    }
}

fn gone(e: io::Error, instead: DiskError) -> DiskError {
    if e.kind() == io::ErrorKind::NotFound { instead } else { e.into() }
}

/// Listings of an object's directory before its open gives up.
const OPEN_TRIES: u32 = 8;

/// Kept from the data file when a `.meta` file replaces the rest.
fn stays_with_data(key: &str) -> bool {
    const FIXED: [&str; 4] = ["content-length", "deleted", "etag", "x-static-large-object"];
    let prefix = key.get(..17).is_some_and(|p| p.eq_ignore_ascii_case("x-object-sysmeta-"));
    FIXED.iter().any(|k| key.eq_ignore_ascii_case(k)) || (prefix && key.len() > 17)
}

impl DiskFile {
    /// `/account/container/object` where it is known.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Directory of the object's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    pub fn partition(&self) -> &str {
        &self.partition
    }

    pub fn policy(&self) -> &StoragePolicy {
        &self.policy
    }

    /// From now on what is asked is answered from memory or refused with `WouldBlock` (as [`DiskError::Io`]), so that it may
    /// be asked on threads that must not wait for a disk.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    fn open_file(&self, path: &Path) -> io::Result<File> {
        open_as(path, OFlags::empty(), self.in_memory)
    }

    /// Which files there are and what they mean. Errors: `Quarantined` when it is no readable directory.
    pub fn look(&self) -> DiskResult<OnDisk> {
        self.look_at().map(|(found, _)| found)
    }

    fn look_at(&self) -> DiskResult<(OnDisk, Option<DirId>)> {
        let look = |dir: File| {
            let id = DirId::of(&dir).ok();
            names_in(&dir).map(|names| (names, id))
        };
        let (names, id) = match open_as(&self.dir, OFlags::DIRECTORY, self.in_memory).and_then(look) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((OnDisk::default(), None)),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let reason = format!("Expected directory, found file at {}", self.dir.display());
                return Err(self.quarantine(&self.dir, reason));
            }
            Err(e) if is_corrupt(&e) => {
                let reason = format!("Failed to list directory at {}", self.dir.display());
                return Err(match self.quarantine(&self.dir, reason.clone()) {
                    DiskError::Io(_) => self.quarantine(self.dir.parent().unwrap_or(&self.dir), reason),
                    other => other,
                });
            }
            Err(e) => return Err(e.into()),
        };
        Ok((resolve(&names, &self.policy, &self.wish), id))
    }

    /// Opens the object as of `now` (the time of the request, which decides whether it has expired).
    /// Errors: all of [`DiskError`] but those of writing.
    pub fn open(&self, now: Timestamp) -> DiskResult<Opened> {
        // A write in between replaces files that the listing named: what there is now is looked for again.
        for _ in 1..OPEN_TRIES {
            match self.open_listed(now) {
                Err(DiskError::StateChanged) => {}
                other => return other,
            }
        }
        self.open_listed(now)
    }

    fn open_listed(&self, now: Timestamp) -> DiskResult<Opened> {
        let (found, dir_id) = self.look_at()?;
        let Some(data) = &found.data else { return Err(self.absent(&found)) };
        let path = self.dir.join(&data.name);
        let file = match self.open_file(&path) {
            Ok(f) => f,
            Err(e) if is_corrupt(&e) => return Err(self.quarantine(&self.dir, format!("Failed to open {}: {e}", path.display()))),
            Err(e) => return Err(gone(e, DiskError::StateChanged)),
        };
        let data_metadata = self.read_metadata(&file)?;
        let mut meta_metadata = None;
        let mut metadata = data_metadata.clone();
        if let Some(meta) = &found.meta {
            let merged = self.newer_metadata(&found, meta, &data_metadata)?;
            metadata = merge(&merged, &data_metadata);
            let mut alone = merged;
            alone.remove("name");
            meta_metadata = Some(alone);
        }
        let id = self.verify(&file, &metadata, now)?;
        let name = metadata.name().unwrap_or_default().to_string();
        let is_ec = self.policy.is_ec();
        let size = id.size;
        let content = Content::File(Arc::new(file));
        Ok(Opened { content, data_path: path, size, id, dir_id, metadata, data_metadata, meta_metadata, on_disk: found, name, is_ec })
    }

    fn absent(&self, found: &OnDisk) -> DiskError {
        let Some(f) = &found.tombstone else { return DiskError::NotExist };
        let metadata = match self.open_file(&self.dir.join(&f.name)) {
            Ok(file) => self.read_metadata(&file),
            Err(e) => return gone(e, DiskError::NotExist),
        };
        match metadata {
            // A damaged tombstone is moved away; nothing is known then.
            Err(DiskError::Quarantined { .. }) => DiskError::NotExist,
            Err(e) => e,
            Ok(m) => DiskError::Deleted { timestamp: m.timestamp("X-Timestamp").unwrap_or(f.timestamp) },
        }
    }

    /// The `.meta` file's metadata, with the content type of another where that is newer.
    fn newer_metadata(&self, found: &OnDisk, meta: &FileInfo, data: &Metadata) -> DiskResult<Metadata> {
        let file = self.open_file(&self.dir.join(&meta.name)).map_err(|e| gone(e, DiskError::StateChanged))?;
        let mut out = self.read_metadata(&file)?;
        if let Some(ctype) = found.ctype.as_ref().filter(|c| c.name != meta.name) {
            let file = self.open_file(&self.dir.join(&ctype.name)).map_err(|e| gone(e, DiskError::StateChanged))?;
            let other = self.read_metadata(&file)?;
            let at = other.timestamp("Content-Type-Timestamp");
            let newer = at > out.timestamp("Content-Type-Timestamp") && at > data.timestamp("X-Timestamp");
            if let (true, Some(t), Some(at)) = (newer, other.get("Content-Type"), other.get("Content-Type-Timestamp")) {
                out.set("Content-Type", t);
                out.set("Content-Type-Timestamp", at);
            }
        }
        Ok(out)
    }

    fn read_metadata(&self, file: &File) -> DiskResult<Metadata> {
        match metadata::read(file) {
            Ok(m) => Ok(m),
            Err(ReadError::NotSupported) => Err(DiskError::XattrNotSupported),
            Err(ReadError::Bad(reason)) => Err(self.quarantine(&self.dir, reason)),
            Err(ReadError::Io(e)) => Err(self.quarantine(&self.dir, format!("Exception reading metadata: {e}"))),
        }
    }

    /// Name, expiry and size. Gives which file it is.
    fn verify(&self, file: &File, metadata: &Metadata, now: Timestamp) -> DiskResult<FileId> {
        let bad = |reason: String| self.quarantine(&self.dir, reason);
        let Some(name) = metadata.name() else { return Err(bad("missing name metadata".into())) };
        match &self.name {
            Some(known) if known != name => {
                tracing::error!(client = known, stored = name, "client path does not match path stored in object metadata");
                return Err(DiskError::Collision);
            }
            Some(_) => {}
            None => {
                let hash = split_name(name).map(|(a, c, o)| self.manager.object_hash(a, c, o));
                if hash.as_deref() != self.dir.file_name().and_then(|n| n.to_str()) {
                    return Err(bad("Hash of name in metadata does not match directory name".into()));
                }
            }
        }
        if let Some(text) = metadata.get("X-Delete-At") {
            let at: i64 = text.trim().parse().map_err(|_| bad(format!("bad metadata x-delete-at value {text}")))?;
            let passed = u64::try_from(at).map_or(true, |at| Timestamp::from_raw(at.saturating_mul(100_000)) <= now);
            if passed && !self.open_expired {
                let timestamp = metadata.timestamp("X-Timestamp").unwrap_or_default();
                return Err(DiskError::Expired { timestamp, metadata: Box::new(metadata.clone()) });
            }
        }
        let Some(text) = metadata.get("Content-Length") else { return Err(bad("missing content-length in metadata".into())) };
        let length: u64 = text.trim().parse().map_err(|_| bad(format!("bad metadata content-length value {text}")))?;
        let id = FileId::from(&file.metadata().map_err(|e| bad(format!("not stat-able: {e}")))?);
        if id.size != length {
            return Err(bad(format!("metadata content-length {length} does not match actual object size {}", id.size)));
        }
        Ok(id)
    }

    /// Moves the object (or what holds it) aside; the error to answer with.
    pub fn quarantine(&self, dir: &Path, reason: impl Into<String>) -> DiskError {
        self.manager.quarantined(&self.device_path, &self.policy, dir, reason)
    }
}

/// What a `.meta` file and the data file say together.
fn merge(meta: &Metadata, data: &Metadata) -> Metadata {
    let mut out = meta.clone();
    for (k, v) in data.iter().filter(|(k, _)| stays_with_data(k)) {
        out.set(k, v);
    }
    if let Some(content_type) = data.get("Content-Type")
        && data.timestamp("X-Timestamp") > meta.timestamp("Content-Type-Timestamp")
    {
        out.set("Content-Type", content_type);
        out.remove("Content-Type-Timestamp");
    }
    out
}
