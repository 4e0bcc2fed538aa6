//! The `file` backend: one file per volume in a directory of its own.
//!
//! A file gets its final name (`volume-<id>`, `snapshot-<id>`) by a rename after its content is
//! durable; until then it is `<name>.new`. So a crash leaves a whole file or leftovers that the
//! next try or the start removes. New volumes are sparse files and never show old bytes.

use super::copy::{self, io};
use super::{ByteStream, Disk, Expected, Room, VolumeDriver};
use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::{Error, Result, is_uuid};
use caelum_safeio::inspect::{Format, Inspector};
use caelum_safeio::qemuimg::{self, Limits};
use caelum_safeio::root::SafeRoot;
use futures_util::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest silence of an image transfer.
const STALL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Options {
    /// Whether copies may share blocks.
    pub reflink: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { reflink: true }
    }
}

pub struct FileDriver {
    root: Arc<SafeRoot>,
    backups: Arc<SafeRoot>,
    options: Options,
    /// One lock per id; also held by work whose future was dropped.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Which directory and name.
#[derive(Clone)]
struct Place {
    root: Arc<SafeRoot>,
    name: String,
}

impl Place {
    fn part(&self) -> String {
        format!("{}.new", self.name)
    }

    fn path(&self) -> Result<PathBuf> {
        self.root.full_path(&self.name)
    }

    fn part_path(&self) -> Result<PathBuf> {
        self.root.full_path(&self.part())
    }

    fn remove(&self) -> Result<()> {
        self.root.remove(&self.part())?;
        self.root.remove(&self.name).map(drop)
    }

    /// Gives a finished part its name.
    fn finish(&self) -> Result<()> {
        let file = self.root.open_read(&self.part())?;
        file.sync_all().map_err(io("write a file to disk"))?;
        self.root.rename(&self.part(), &self.name)
    }
}

/// Tells blocking work that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn format(name: &str) -> Result<Format> {
    match name {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err(Error::internal("a volume of an unknown format")),
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    // The guests' user must be able to pass through; the files themselves are private.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(io("create the volume directory"))
}

impl FileDriver {
    /// Opens `dir/volumes` and `dir/backups`, making them if missing, and removes unfinished files.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        make_dir(&dir.join("volumes"))?;
        let root = SafeRoot::open(dir.join("volumes"))?;
        let backups = SafeRoot::open(dir.join("backups"))?;
        for r in [&root, &backups] {
            r.sweep_temporary("")?;
            for name in r.list("")?.iter().filter(|n| n.ends_with(".new") || n.starts_with("export-") || n.starts_with("image-")) {
                r.remove(name)?;
            }
        }
        Ok(Self { root: Arc::new(root), backups: Arc::new(backups), options, locks: Mutex::default() })
    }

    fn place(&self, kind: &str, id: &str) -> Result<Place> {
        if !is_uuid(id) {
            return Err(Error::internal("a volume's id is no UUID"));
        }
        let root = if kind == "backup" { &self.backups } else { &self.root };
        Ok(Place { root: root.clone(), name: format!("{kind}-{id}") })
    }

    async fn lock(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 1_000 {
                locks.retain(|_, l| l.strong_count() > 0);
            }
            let found = locks.get(id).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(id.to_string(), Arc::downgrade(&new));
                new
            })
        };
        lock.lock_owned().await
    }

    /// Runs file work off the runtime's threads, alone for this id.
    async fn work<T: Send + 'static>(&self, id: &str, f: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static) -> Result<T> {
        let guard = self.lock(id).await;
        let stop = Arc::new(AtomicBool::new(false));
        let _told = StopOnDrop(stop.clone());
        let task = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            f(&stop)
        });
        task.await.map_err(|e| Error::internal("file work ended").caused_by(e))?
    }

    /// Copies one file to another place and grows it to `bytes`.
    async fn copy(&self, from: Place, from_format: &str, to: Place, id: &str, disk: Option<&Disk>) -> Result<()> {
        let share = self.options.reflink;
        let same = disk.is_none_or(|d| d.format == from_format);
        if !same {
            let disk = disk.ok_or_else(|| Error::internal("no target to convert to"))?;
            let _guard = self.lock(id).await;
            to.root.remove(&to.part())?;
            let (target, source) = (format(&disk.format)?, format(from_format)?);
            qemuimg::convert(&from.path()?, source, &to.part_path()?, target, &[], Limits::BULK).await?;
            grow(&to.part_path()?, &disk.format, disk.bytes).await?;
            return to.finish();
        }
        let part = to.clone();
        self.work(id, move |stop| {
            part.root.remove(&part.part())?;
            let source = from.root.open_read(&from.name)?;
            let target = part.root.create_new(&part.part())?;
            copy::best(&source, &target, stop, share)
        })
        .await?;
        let _guard = self.lock(id).await;
        if let Some(d) = disk {
            grow(&to.part_path()?, &d.format, d.bytes).await?;
        }
        to.finish()
    }

    /// Receives an image into `image-<id>`, checking it on the way.
    async fn receive(&self, id: &str, expected: &Expected, mut image: ByteStream) -> Result<(Place, u64)> {
        let place = self.place("image", id)?;
        let (tx, rx) = mpsc::channel::<Bytes>(8);
        let (target, expected) = (place.clone(), expected.clone());
        let writer = self.work(id, move |_| write_image(&target, &expected, rx));
        let feed = async move {
            loop {
                let next = tokio::time::timeout(STALL, image.next()).await;
                match next.map_err(|_| Error::timeout("The image service stopped sending."))? {
                    Some(chunk) => {
                        // A writer that gave up says why itself.
                        if tx.send(chunk?).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => return Ok::<(), Error>(()),
                }
            }
        };
        let (fed, written) = tokio::join!(feed, writer);
        fed?;
        Ok((place, written?))
    }

    async fn image_to_volume(&self, disk: &Disk, expected: &Expected, image: ByteStream) -> Result<()> {
        let place = self.place("volume", &disk.id)?;
        let (image, virtual_size) = self.receive(&disk.id, expected, image).await?;
        let _guard = self.lock(&disk.id).await;
        if virtual_size > disk.bytes {
            let need = virtual_size.div_ceil(1 << 30);
            return Err(Error::invalid(format!("Size of the image's disk is {need}GB, which is more than the volume has.")));
        }
        place.remove()?;
        let source = match expected.format {
            Format::Ami | Format::Aki | Format::Ari | Format::Iso => Format::Raw,
            f => f,
        };
        let target = format(&disk.format)?;
        if source == target {
            image.root.rename(&image.name, &place.part())?;
        } else {
            let made = qemuimg::convert(&image.path()?, source, &place.part_path()?, target, &[], Limits::BULK).await;
            image.remove()?;
            made?;
        }
        grow(&place.part_path()?, &disk.format, disk.bytes).await?;
        place.finish()
    }
}

/// Writes what arrives and judges it at the end. Returns the size a guest sees.
fn write_image(place: &Place, expected: &Expected, mut rx: mpsc::Receiver<Bytes>) -> Result<u64> {
    place.root.remove(&place.name)?;
    let file = place.root.create_new(&place.name)?;
    let (mut inspector, mut hash, mut at) = (Inspector::new(Some(expected.format)), Sha512::new(), 0u64);
    while let Some(chunk) = rx.blocking_recv() {
        inspector.feed(&chunk);
        hash.update(&chunk);
        copy::write_data(&file, &chunk, at)?;
        at += chunk.len() as u64;
        if expected.size.is_some_and(|s| at > s) {
            return Err(Error::invalid("The image is longer than the image service said."));
        }
    }
    file.set_len(at).map_err(io("set a file's length"))?;
    if expected.size.is_some_and(|s| at != s) {
        return Err(Error::unavailable("The image transfer ended early."));
    }
    let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if expected.sha512.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&digest)) {
        return Err(Error::invalid("The image's data does not match its hash."));
    }
    let info = inspector.finish(at).map_err(|r| Error::invalid(format!("The image is unacceptable: {}", r.reason)))?;
    Ok(info.virtual_size)
}

/// Grows a file to `bytes`; never shrinks.
async fn grow(path: &Path, format_name: &str, bytes: u64) -> Result<()> {
    if format_name == "raw" {
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(io("open a volume"))?;
        if file.metadata().map_err(io("read a file's length"))?.len() < bytes {
            file.set_len(bytes).map_err(io("set a file's length"))?;
            file.sync_all().map_err(io("write a file to disk"))?;
        }
        return Ok(());
    }
    let known = qemuimg::info(path, format(format_name)?).await?;
    if known.virtual_size < bytes { qemuimg::grow(path, format(format_name)?, bytes).await } else { Ok(()) }
}

#[async_trait]
impl VolumeDriver for FileDriver {
    async fn create_blank(&self, disk: &Disk) -> Result<()> {
        let place = self.place("volume", &disk.id)?;
        if disk.format == "qcow2" {
            let _guard = self.lock(&disk.id).await;
            place.remove()?;
            qemuimg::create(&place.part_path()?, Format::Qcow2, Some(disk.bytes), None).await?;
            return place.finish();
        }
        let bytes = disk.bytes;
        self.work(&disk.id, move |_| {
            place.remove()?;
            let file = place.root.create_new(&place.part())?;
            file.set_len(bytes).map_err(io("set a file's length"))?;
            place.finish()
        })
        .await
    }

    async fn create_from_image(&self, disk: &Disk, expected: &Expected, image: ByteStream) -> Result<()> {
        let made = self.image_to_volume(disk, expected, image).await;
        if made.is_err() {
            // A refusal must leave nothing: the flow undoes only what is uncertain.
            self.delete(&disk.id).await?;
        }
        made
    }

    async fn clone_volume(&self, source: &Disk, disk: &Disk) -> Result<()> {
        let (from, to) = (self.place("volume", &source.id)?, self.place("volume", &disk.id)?);
        self.copy(from, &source.format, to, &disk.id, Some(disk)).await
    }

    async fn create_from_snapshot(&self, snapshot: &Disk, disk: &Disk) -> Result<()> {
        let (from, to) = (self.place("snapshot", &snapshot.id)?, self.place("volume", &disk.id)?);
        self.copy(from, &snapshot.format, to, &disk.id, Some(disk)).await
    }

    async fn snapshot(&self, volume: &Disk, snapshot_id: &str) -> Result<()> {
        let (from, to) = (self.place("volume", &volume.id)?, self.place("snapshot", snapshot_id)?);
        self.copy(from, &volume.format, to, snapshot_id, None).await
    }

    async fn revert(&self, snapshot: &Disk, volume: &Disk) -> Result<()> {
        self.create_from_snapshot(snapshot, volume).await
    }

    async fn delete(&self, volume_id: &str) -> Result<()> {
        let places = [self.place("volume", volume_id)?, self.place("image", volume_id)?];
        self.work(volume_id, move |_| places.iter().try_for_each(Place::remove)).await
    }

    async fn delete_snapshot(&self, snapshot_id: &str) -> Result<()> {
        let place = self.place("snapshot", snapshot_id)?;
        self.work(snapshot_id, move |_| place.remove()).await
    }

    async fn extend(&self, disk: &Disk) -> Result<()> {
        let place = self.place("volume", &disk.id)?;
        let _guard = self.lock(&disk.id).await;
        grow(&place.path()?, &disk.format, disk.bytes).await
    }

    fn connection(&self, disk: &Disk, read_only: bool) -> Result<Value> {
        let path = self.place("volume", &disk.id)?.path()?;
        let path = path.to_str().ok_or_else(|| Error::internal("the volume directory's name is not text"))?.to_string();
        Ok(json!({
            "driver_volume_type": "local",
            "data": {
                "path": path.clone(),
                "device_path": path,
                "format": disk.format,
                "size_bytes": disk.bytes,
                "access_mode": if read_only { "ro" } else { "rw" },
                "encrypted": false,
                "qos_specs": null,
                "discard": true,
            },
        }))
    }

    async fn export(&self, volume: &Disk, wanted: Format) -> Result<PathBuf> {
        let (from, to) = (self.place("volume", &volume.id)?, self.place("export", &volume.id)?);
        let source = format(&volume.format)?;
        if source == wanted {
            return from.path();
        }
        let _guard = self.lock(&volume.id).await;
        to.remove()?;
        qemuimg::convert(&from.path()?, source, &to.path()?, wanted, &[], Limits::BULK).await?;
        to.path()
    }

    async fn drop_export(&self, volume_id: &str) -> Result<()> {
        let place = self.place("export", volume_id)?;
        self.work(volume_id, move |_| place.remove()).await
    }

    async fn backup(&self, volume: &Disk, backup_id: &str) -> Result<()> {
        let (from, to) = (self.place("volume", &volume.id)?, self.place("backup", backup_id)?);
        self.copy(from, &volume.format, to, backup_id, None).await
    }

    async fn backup_of_snapshot(&self, snapshot: &Disk, backup_id: &str) -> Result<()> {
        let (from, to) = (self.place("snapshot", &snapshot.id)?, self.place("backup", backup_id)?);
        self.copy(from, &snapshot.format, to, backup_id, None).await
    }

    async fn restore(&self, backup: &Disk, volume: &Disk) -> Result<()> {
        let (from, to) = (self.place("backup", &backup.id)?, self.place("volume", &volume.id)?);
        self.copy(from, &backup.format, to, &volume.id, Some(volume)).await
    }

    async fn delete_backup(&self, backup_id: &str) -> Result<()> {
        let place = self.place("backup", backup_id)?;
        self.work(backup_id, move |_| place.remove()).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut out = self.root.list("")?;
        out.extend(self.backups.list("")?);
        Ok(out)
    }

    async fn room(&self) -> Result<Room> {
        let v = nix::sys::statvfs::statvfs(self.root.path()).map_err(|e| io("ask for free room")(e.into()))?;
        let unit = v.fragment_size();
        Ok(Room { total: v.blocks() * unit, free: v.blocks_available() * unit })
    }
}
