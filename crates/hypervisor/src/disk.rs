//! A guest's files: image cache, root disk, ephemeral and swap disks, config drive.
//!
//! `instances/_base/<first 40 digits of the SHA-512>` holds an image once, complete and verified: it gets this name
//! only after its hash was right and its bytes were synced. `instances/<guest>/` (0700) holds everything of one
//! guest; `spec.json` is written last, so a directory without it is a spawn that never finished
//! and is made anew. Formats are explicit everywhere; a qcow2 base that refers to other files is refused.

use crate::libvirt::xml::GuestPaths;
use crate::{ConfigDrive, GuestSpec, ImageSource, RootDisk, iso9660, qcow2};
use caelum_base::{Env, Error, Result, is_uuid};
use caelum_safeio::inspect::Format;
use caelum_safeio::qemuimg;
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

const CACHE: &str = "_base";
const SNAPSHOTS: &str = "_snapshots";
/// A fetch that made no progress for so long, in seconds, is dead.
const STALE_PART_S: i64 = 3600;
/// Unused images and uncollected snapshots are kept this long, in seconds.
const STALE_FILE_S: i64 = 86_400;

/// The directory of all guests.
pub struct Disks {
    dir: PathBuf,
    env: Env,
    /// One lock per image being fetched.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// A verified image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    pub virtual_bytes: u64,
}

fn io(verb: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let text = format!("cannot {verb} {}", path.display());
    move |e| {
        if e.kind() == std::io::ErrorKind::StorageFull {
            return Error::unavailable("The host's disk is full.").caused_by(e);
        }
        Error::internal(text).caused_by(e)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io("create", path))
}

/// Runs blocking file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("a file task ended").caused_by(e))?
}

impl Disks {
    pub fn open(dir: PathBuf, env: Env) -> Result<Self> {
        make_dir(&dir, 0o711)?;
        make_dir(&dir.join(CACHE), 0o711)?;
        let disks = Self { dir, env, locks: Mutex::default() };
        if let Err(e) = disks.sweep() {
            tracing::warn!(error = %e.chain(), "old files could not be swept");
        }
        Ok(disks)
    }

    /// Removes what crashes and time left: half-fetched images, forgotten snapshots, images no guest has used for a day.
    pub fn sweep(&self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut used = std::collections::HashSet::new();
        for id in self.guests()? {
            if let Some(RootDisk::Image { sha512, .. }) = self.stored_spec(&id)?.map(|s| s.root) {
                used.extend(sha512.get(..40).map(str::to_ascii_lowercase));
            }
        }
        let now = self.env.now().secs();
        for sub in [CACHE, SNAPSHOTS] {
            let Ok(entries) = std::fs::read_dir(self.dir.join(sub)) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let age = entry.metadata().map_or(0, |m| now.saturating_sub(m.mtime()));
                let limit = if name.ends_with(".part") { STALE_PART_S } else { STALE_FILE_S };
                let in_use = sub == CACHE && name.get(..40).is_some_and(|n| used.contains(n)) && !name.ends_with(".part");
                if age > limit && !in_use {
                    tracing::info!(file = %entry.path().display(), "removing a file nobody uses");
                    std::fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// The files of one guest.
    pub fn paths(&self, guest_id: &str) -> Result<GuestPaths> {
        if !is_uuid(guest_id) {
            return Err(Error::invalid("A guest's id must be a UUID."));
        }
        Ok(GuestPaths { dir: self.dir.join(guest_id) })
    }

    /// The verified image, fetched now if the cache lacks it. Concurrent callers share one fetch.
    pub async fn base(&self, root: &RootDisk, images: &dyn ImageSource) -> Result<Option<Base>> {
        let RootDisk::Image { image_id, format, sha512, size_bytes } = root else { return Ok(None) };
        if sha512.len() != 128 || !sha512.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::invalid(format!("Image {image_id} has no SHA-512 hash to check its bytes against.")));
        }
        let kind = match format.as_str() {
            "qcow2" => "qcow2",
            "raw" | "iso" | "ami" => "raw",
            "vdi" | "vhd" | "vhdx" => "converted",
            other => return Err(Error::invalid(format!("This host cannot boot an image of format {other:?}."))),
        };
        let mut name = sha512.to_ascii_lowercase();
        name.truncate(40);
        if kind == "converted" {
            name.push_str(".raw");
        }
        let path = self.dir.join(CACHE).join(&name);
        let lock = self.lock(&name);
        let _held = lock.lock().await;
        if !path.exists() {
            self.fetch(image_id, format, sha512, *size_bytes, &path, images).await?;
        }
        // The time of the last use, for the sweep.
        let used = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.env.now().secs()).unwrap_or(0));
        std::fs::File::open(&path).and_then(|f| f.set_modified(used)).map_err(io("touch", &path))?;
        blocking(move || base_of(path, if kind == "qcow2" { "qcow2" } else { "raw" })).await.map(Some)
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, w| w.strong_count() > 0);
        if let Some(l) = locks.get(name).and_then(Weak::upgrade) {
            return l;
        }
        let l = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&l));
        l
    }

    async fn fetch(&self, id: &str, format: &str, sha512: &str, size: u64, path: &Path, images: &dyn ImageSource) -> Result<()> {
        let part = Part(path.with_extension(format!("{}.part", self.env.uuid())));
        create_file(&part.0, &[])?;
        images.fetch(id, &part.0).await?;
        let (file, want) = (part.0.clone(), sha512.to_ascii_lowercase());
        let (got, length) = blocking(move || hash(&file)).await?;
        if got != want || (size > 0 && length != size) {
            return Err(Error::unavailable(format!("Image {id} is corrupt: its bytes do not match its hash.")));
        }
        let source = match format {
            "vdi" | "vhd" | "vhdx" => {
                let raw = Part(part.0.with_extension("raw.part"));
                let from = match format {
                    "vdi" => Format::Vdi,
                    "vhd" => Format::Vhd,
                    _ => Format::Vhdx,
                };
                qemuimg::convert(&part.0, from, &raw.0, Format::Raw, &[], qemuimg::Limits::BULK).await?;
                raw
            }
            _ => part,
        };
        let (from, to) = (source.0.clone(), path.to_owned());
        blocking(move || publish(&from, &to)).await
    }

    /// Makes every file of a new guest; `spec.json` last.
    pub async fn make(&self, spec: &GuestSpec, base: Option<Base>) -> Result<()> {
        let (paths, spec) = (self.paths(&spec.id)?, spec.clone());
        let swap_id = self.env.bytes(16);
        let ephemeral = (spec.ephemeral_gib > 0).then(|| paths.ephemeral());
        let done = {
            let paths = paths.clone();
            let spec = spec.clone();
            blocking(move || make_files(&paths, &spec, base, &swap_id)).await
        };
        done?;
        if let Some(path) = ephemeral {
            format_ephemeral(&path).await;
        }
        blocking(move || write_spec(&paths, &spec)).await
    }

    /// What a finished spawn was made from.
    pub fn stored_spec(&self, guest_id: &str) -> Result<Option<GuestSpec>> {
        let path = self.paths(guest_id)?.spec();
        match std::fs::read(&path) {
            // Never taken for absent: an absent one lets the next spawn make the disks anew.
            Ok(b) => {
                serde_json::from_slice(&b).map(Some).map_err(|e| Error::internal(format!("cannot read {}", path.display())).caused_by(e))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io("read", &path)(e)),
        }
    }

    pub async fn store_spec(&self, spec: &GuestSpec) -> Result<()> {
        let (paths, spec) = (self.paths(&spec.id)?, spec.clone());
        blocking(move || write_spec(&paths, &spec)).await
    }

    /// Writes the config drive anew and enlarges the root disk if the flavor grew.
    pub async fn refresh(&self, spec: &GuestSpec) -> Result<()> {
        let (paths, spec) = (self.paths(&spec.id)?, spec.clone());
        blocking(move || {
            if let Some(drive) = &spec.config_drive {
                write_config_drive(&paths, drive)?;
            }
            if matches!(spec.root, RootDisk::Image { .. }) && spec.root_gib > 0 {
                qcow2::grow(&paths.root(), spec.root_gib << 30)?;
            }
            write_spec(&paths, &spec)
        })
        .await
    }

    /// Removes every file of the guest.
    pub async fn remove(&self, guest_id: &str) -> Result<()> {
        let dir = self.paths(guest_id)?.dir;
        blocking(move || match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &dir)(e)),
            _ => Ok(()),
        })
        .await
    }

    /// Guests that have a directory.
    pub fn guests(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(io("read", &self.dir))? {
            let name = entry.map_err(io("read", &self.dir))?.file_name();
            out.extend(name.to_str().filter(|n| is_uuid(n)).map(str::to_owned));
        }
        out.sort();
        Ok(out)
    }

    /// Free name for a temporary file on the guests' file system.
    pub fn scratch(&self, suffix: &str) -> Result<PathBuf> {
        let dir = self.dir.join(SNAPSHOTS);
        make_dir(&dir, 0o700)?;
        Ok(dir.join(format!("{}{suffix}", self.env.uuid())))
    }

    /// Whether files here can be opened past the page cache.
    pub fn direct_io(&self) -> bool {
        let path = self.dir.join("_direct");
        let ok = std::fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nix::libc::O_DIRECT).open(&path).is_ok();
        let _ = std::fs::remove_file(&path);
        ok
    }
}

/// A temporary file, removed unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn create_file(path: &Path, content: &[u8]) -> Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(io("create", path))?;
    file.write_all(content).map_err(io("write", path))
}

fn hash(path: &Path) -> Result<(String, u64)> {
    let mut file = std::fs::File::open(path).map_err(io("open", path))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut sha, mut length) = (Sha512::new(), 0);
    loop {
        let n = file.read(&mut buffer).map_err(io("read", path))?;
        if n == 0 {
            break;
        }
        sha.update(&buffer[..n]);
        length += n as u64;
    }
    Ok((sha.finalize().iter().map(|b| format!("{b:02x}")).collect(), length))
}

/// Syncs and renames, so that the final name never stands for half an image.
fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::File::open(from).and_then(|f| f.sync_all()).map_err(io("sync", from))?;
    std::fs::rename(from, to).map_err(io("rename", from))?;
    if let Some(dir) = to.parent() {
        std::fs::File::open(dir).and_then(|f| f.sync_all()).map_err(io("sync", dir))?;
    }
    Ok(())
}

fn base_of(path: PathBuf, format: &'static str) -> Result<Base> {
    let virtual_bytes =
        if format == "qcow2" { qcow2::self_contained_size(&path)? } else { std::fs::metadata(&path).map_err(io("look at", &path))?.len() };
    Ok(Base { path, format, virtual_bytes })
}

fn make_files(paths: &GuestPaths, spec: &GuestSpec, base: Option<Base>, swap_id: &[u8]) -> Result<()> {
    if paths.dir.exists() {
        std::fs::remove_dir_all(&paths.dir).map_err(io("remove", &paths.dir))?;
    }
    make_dir(&paths.dir, 0o700)?;
    if let Some(base) = base {
        let size = match spec.root_gib {
            0 => base.virtual_bytes,
            gib => gib << 30,
        };
        if size < base.virtual_bytes {
            return Err(Error::invalid("Flavor's disk is too small for requested image."));
        }
        qcow2::create(&paths.root(), size, Some(&qcow2::Backing { path: &base.path, format: base.format }))?;
    }
    if spec.ephemeral_gib > 0 {
        create_file(&paths.ephemeral(), &[])?;
        set_length(&paths.ephemeral(), spec.ephemeral_gib << 30)?;
    }
    if spec.swap_mib > 0 {
        create_file(&paths.swap(), &swap_header(spec.swap_mib << 20, swap_id))?;
        set_length(&paths.swap(), spec.swap_mib << 20)?;
    }
    if let Some(drive) = &spec.config_drive {
        write_config_drive(paths, drive)?;
    }
    create_file(&paths.console(), &[])
}

fn set_length(path: &Path, length: u64) -> Result<()> {
    std::fs::OpenOptions::new().write(true).open(path).and_then(|f| f.set_len(length)).map_err(io("resize", path))
}

/// First page of a Linux swap area, as mkswap writes it.
fn swap_header(bytes: u64, id: &[u8]) -> Vec<u8> {
    const PAGE: u64 = 4096;
    let mut page = vec![0; PAGE as usize];
    let last = u32::try_from(bytes / PAGE - 1).unwrap_or(u32::MAX);
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&last.to_le_bytes());
    page[1036..1052].copy_from_slice(id);
    page[4086..].copy_from_slice(b"SWAPSPACE2");
    page
}

/// Makes an ext4 file system where the host can; a guest can make its own otherwise.
async fn format_ephemeral(path: &Path) {
    let mut command = tokio::process::Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-L", "ephemeral0"]).arg(path).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(60), command.output()).await {
        Ok(Ok(out)) if out.status.success() => {}
        _ => tracing::warn!(path = %path.display(), "the ephemeral disk stays without a file system"),
    }
}

fn write_config_drive(paths: &GuestPaths, drive: &ConfigDrive) -> Result<()> {
    let temp = paths.config_drive().with_extension("config.tmp");
    create_file(&temp, &iso9660::image("config-2", &drive.files)?)?;
    std::fs::rename(&temp, paths.config_drive()).map_err(io("rename", &temp))
}

fn write_spec(paths: &GuestPaths, spec: &GuestSpec) -> Result<()> {
    let temp = paths.dir.join("spec.json.tmp");
    let bytes = serde_json::to_vec(spec).map_err(|e| Error::internal("cannot encode a guest").caused_by(e))?;
    create_file(&temp, &bytes)?;
    std::fs::rename(&temp, paths.spec()).map_err(io("rename", &temp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Images(Vec<u8>, AtomicUsize);

    #[async_trait::async_trait]
    impl ImageSource for Images {
        async fn fetch(&self, _: &str, dest: &Path) -> Result<()> {
            self.1.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            tokio::fs::write(dest, &self.0).await.map_err(|e| Error::internal("write").caused_by(e))
        }
    }

    fn root(bytes: &[u8], format: &str) -> RootDisk {
        let sha512 = Sha512::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        RootDisk::Image { image_id: "i".to_owned(), format: format.to_owned(), sha512, size_bytes: bytes.len() as u64 }
    }

    #[tokio::test]
    async fn an_image_is_fetched_once_and_only_right_bytes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::open(dir.path().join("instances"), Env::system()).unwrap();
        let images = Images(vec![5; 4096], AtomicUsize::new(0));
        let good = root(&images.0, "raw");
        let (a, b) = tokio::join!(disks.base(&good, &images), disks.base(&good, &images));
        assert_eq!(a.unwrap().unwrap(), b.unwrap().unwrap());
        assert_eq!(images.1.load(Ordering::SeqCst), 1);
        let wrong = root(&[6; 4096], "raw");
        assert_eq!(disks.base(&wrong, &images).await.unwrap_err().kind, caelum_base::ErrorKind::Unavailable);
        let cached = std::fs::read_dir(dir.path().join("instances/_base")).unwrap().count();
        assert_eq!(cached, 1, "nothing of the wrong image stays");
        for (format, sha) in [("vmdk", None), ("raw", Some(String::new()))] {
            let mut bad = root(&images.0, format);
            if let (RootDisk::Image { sha512, .. }, Some(s)) = (&mut bad, sha) {
                *sha512 = s;
            }
            assert_eq!(disks.base(&bad, &images).await.unwrap_err().kind, caelum_base::ErrorKind::Invalid);
        }
    }

    #[tokio::test]
    async fn a_base_that_names_other_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::open(dir.path().to_owned(), Env::system()).unwrap();
        let evil = qcow2::empty(1 << 20, Some(&qcow2::Backing { path: Path::new("/etc/shadow"), format: "raw" })).unwrap();
        let (spec, images) = (root(&evil, "qcow2"), Images(evil, AtomicUsize::new(0)));
        assert_eq!(disks.base(&spec, &images).await.unwrap_err().kind, caelum_base::ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn an_unreadable_mark_never_counts_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::open(dir.path().to_owned(), Env::system()).unwrap();
        let mut s = spec("aaaaaaaa-0000-4000-8000-000000000001");
        s.swap_mib = 1;
        disks.make(&s, None).await.unwrap();
        assert_eq!(disks.stored_spec(&s.id).unwrap(), Some(s.clone()));
        std::fs::write(disks.paths(&s.id).unwrap().spec(), b"{").unwrap();
        assert!(disks.stored_spec(&s.id).is_err());
        assert_eq!(disks.guests().unwrap(), [s.id.clone()]);
        disks.remove(&s.id).await.unwrap();
        disks.remove(&s.id).await.unwrap();
        assert!(disks.stored_spec(&s.id).unwrap().is_none());
        assert!(disks.paths("../x").is_err());
    }

    #[tokio::test]
    async fn the_sweep_keeps_what_guests_use() {
        let dir = tempfile::tempdir().unwrap();
        let clock = std::sync::Arc::new(caelum_base::ManualClock::at(Env::system().now()));
        let env = Env { clock: clock.clone(), ..Env::system() };
        let disks = Disks::open(dir.path().to_owned(), env).unwrap();
        let (images, other) = (Images(vec![5; 4096], AtomicUsize::new(0)), Images(vec![7; 4096], AtomicUsize::new(0)));
        let mut s = spec("aaaaaaaa-0000-4000-8000-000000000001");
        s.root = root(&images.0, "raw");
        let base = disks.base(&s.root, &images).await.unwrap();
        disks.make(&s, base.clone()).await.unwrap();
        let unused = disks.base(&root(&other.0, "raw"), &other).await.unwrap().unwrap();
        std::fs::write(dir.path().join("_base/x.part"), b"").unwrap();
        disks.sweep().unwrap();
        assert!(unused.path.exists());
        clock.advance(Duration::from_secs(90_000));
        disks.sweep().unwrap();
        assert!(base.unwrap().path.exists() && !unused.path.exists() && !dir.path().join("_base/x.part").exists());
    }
}
