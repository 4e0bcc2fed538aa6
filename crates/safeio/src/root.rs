//! Opens files below one directory, whatever the name says.
//!
//! Invariants: no operation leaves the directory, follows a symbolic link or a mount-point trick,
//! or touches anything but regular files and directories. The kernel enforces this (`openat2`
//! with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`); checking names first only gives better errors.
//! Directories are made with mode 0700, files with 0600.
//!
//! After a crash, [`SafeRoot::write_atomic`] has left either the old or the new content, and
//! perhaps a temporary file that [`SafeRoot::list`] hides and [`SafeRoot::sweep_temporary`] removes.

use std::fs::File;
use std::io::{ErrorKind as IoKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use caelum_base::{Error, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const TEMPORARY_PREFIX: &str = ".tmp-";
/// Longest file name component, bytes (NAME_MAX of every Linux file system in use).
const COMPONENT_MAX: usize = 255;
/// Longest relative name, bytes.
const NAME_MAX: usize = 1024;

static TEMPORARY_SERIAL: AtomicU64 = AtomicU64::new(0);

/// A directory that confines every name given to it.
#[derive(Debug)]
pub struct SafeRoot {
    dir: OwnedFd,
    path: PathBuf,
}

/// What [`SafeRoot::metadata`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMetadata {
    pub is_dir: bool,
    /// Apparent length in bytes.
    pub size: u64,
    /// Bytes the file occupies on disk; less than `size` when sparse.
    pub allocated: u64,
}

impl SafeRoot {
    /// Opens `dir`, which is trusted and comes from the configuration; makes it (0700) if missing.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = dir.as_ref().to_path_buf();
        let context = |e: std::io::Error| Error::internal(format!("open directory {}", path.display())).caused_by(e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(context)?;
        let file = File::open(&path).map_err(context)?;
        if !file.metadata().map_err(context)?.is_dir() {
            return Err(Error::internal(format!("{} is not a directory", path.display())));
        }
        Ok(Self { dir: file.into(), path })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of a valid name, for programs that take paths (qemu). Only safe to hand on
    /// when nobody else can write below the root.
    pub fn full_path(&self, rel: &str) -> Result<PathBuf> {
        check_name(rel)?;
        Ok(self.path.join(rel))
    }

    /// Opens an existing regular file for reading.
    pub fn open_read(&self, rel: &str) -> Result<File> {
        self.open_file(rel, OFlag::O_RDONLY)
    }

    /// Opens an existing regular file for reading and writing.
    pub fn open_rw(&self, rel: &str) -> Result<File> {
        self.open_file(rel, OFlag::O_RDWR)
    }

    /// Makes a new file; a conflict when the name is taken. Missing parent directories are made.
    pub fn create_new(&self, rel: &str) -> Result<File> {
        check_name(rel)?;
        let (parent, name) = self.parent_of(rel, true)?;
        create_at(&parent, name).map_err(|e| failed("create", rel, e))
    }

    /// Makes a directory and its parents; no error when it is there already.
    pub fn create_dir(&self, rel: &str) -> Result<()> {
        check_name(rel)?;
        self.descend(rel.split('/'), true).map(drop).map_err(|e| failed("create directory", rel, e))
    }

    /// Replaces the content of `rel` so that a crash leaves the old or the new bytes, never a mix.
    /// On return the new content is durable.
    pub fn write_atomic(&self, rel: &str, bytes: &[u8]) -> Result<()> {
        check_name(rel)?;
        let (parent, name) = self.parent_of(rel, true)?;
        let (temporary, mut file) = create_temporary(&parent).map_err(|e| failed("write", rel, e))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
            renameat(&parent, temporary.as_str(), &parent, name)?;
            nix::unistd::fsync(&parent)?;
            Ok(())
        });
        written.map_err(|e| {
            // Best effort: after the rename the temporary name is gone already.
            let _ = unlinkat(&parent, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            Error::internal(format!("write {rel}")).caused_by(e)
        })
    }

    /// Removes a file; `false` when it was not there.
    pub fn remove(&self, rel: &str) -> Result<bool> {
        self.unlink(rel, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes an empty directory; `false` when it was not there.
    pub fn remove_dir(&self, rel: &str) -> Result<bool> {
        self.unlink(rel, UnlinkatFlags::RemoveDir)
    }

    /// Renames within the root, replacing `to`, and makes the rename durable.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        let (from_dir, from_name) = self.parent_of(from, false)?;
        let (to_dir, to_name) = self.parent_of(to, true)?;
        let renamed = renameat(&from_dir, from_name, &to_dir, to_name)
            .and_then(|()| nix::unistd::fsync(&to_dir))
            .and_then(|()| nix::unistd::fsync(&from_dir));
        renamed.map_err(|e| failed("rename", from, e))
    }

    /// Names in a directory, sorted; `""` is the root. Temporary files are left out.
    pub fn list(&self, rel: &str) -> Result<Vec<String>> {
        let mut names = self.raw_names(rel)?;
        names.retain(|n| !n.starts_with(TEMPORARY_PREFIX));
        names.sort();
        Ok(names)
    }

    /// Removes what an interrupted [`SafeRoot::write_atomic`] left in one directory. Call at
    /// start-up, before anything writes. Returns how many files went.
    pub fn sweep_temporary(&self, rel: &str) -> Result<usize> {
        let stale: Vec<_> = self.raw_names(rel)?.into_iter().filter(|n| n.starts_with(TEMPORARY_PREFIX)).collect();
        let dir = self.directory(rel)?;
        for name in &stale {
            unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(|e| failed("remove", name, e))?;
        }
        Ok(stale.len())
    }

    /// Whether `rel` names a file or directory. A symbolic link counts as absent.
    pub fn exists(&self, rel: &str) -> Result<bool> {
        match self.metadata(rel) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Size and kind of `rel`.
    pub fn metadata(&self, rel: &str) -> Result<EntryMetadata> {
        use std::os::unix::fs::MetadataExt;
        check_name(rel)?;
        let fd = open_beneath(&self.dir, rel, OFlag::O_PATH, Mode::empty()).map_err(|e| failed("look at", rel, e))?;
        let meta = File::from(fd).metadata().map_err(|e| Error::internal(format!("look at {rel}")).caused_by(e))?;
        if !meta.is_file() && !meta.is_dir() {
            return Err(Error::not_found(format!("{rel} is not a regular file.")));
        }
        Ok(EntryMetadata { is_dir: meta.is_dir(), size: meta.len(), allocated: meta.blocks().saturating_mul(512) })
    }

    fn open_file(&self, rel: &str, flags: OFlag) -> Result<File> {
        check_name(rel)?;
        // Non-blocking, so that a planted FIFO cannot hang the caller before the type check.
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = open_beneath(&self.dir, rel, flags, Mode::empty()).map_err(|e| failed("open", rel, e))?;
        let file = File::from(fd);
        let meta = file.metadata().map_err(|e| Error::internal(format!("open {rel}")).caused_by(e))?;
        if !meta.is_file() {
            return Err(Error::not_found(format!("{rel} is not a regular file.")));
        }
        Ok(file)
    }

    fn unlink(&self, rel: &str, flags: UnlinkatFlags) -> Result<bool> {
        check_name(rel)?;
        let (parent, name) = match self.parent_of(rel, false) {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e),
        };
        match unlinkat(&parent, name, flags).and_then(|()| nix::unistd::fsync(&parent)) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(failed("remove", rel, e)),
        }
    }

    fn raw_names(&self, rel: &str) -> Result<Vec<String>> {
        let fd = self.directory(rel)?;
        let mut dir = Dir::from_fd(fd).map_err(|e| failed("list", rel, e))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|e| failed("list", rel, e))?;
            // Names that are not UTF-8 were not made through this module.
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn directory(&self, rel: &str) -> Result<OwnedFd> {
        if !rel.is_empty() {
            check_name(rel)?;
        }
        let target = if rel.is_empty() { "." } else { rel };
        open_beneath(&self.dir, target, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).map_err(|e| failed("open directory", rel, e))
    }

    /// The directory holding `rel`, and the last component.
    fn parent_of<'a>(&self, rel: &'a str, make: bool) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = match rel.rsplit_once('/') {
            Some((parent, name)) => (self.descend(parent.split('/'), make), name),
            None => (self.descend(std::iter::empty(), make), rel),
        };
        Ok((parent.map_err(|e| failed("open the directory of", rel, e))?, name))
    }

    fn descend<'a>(&self, components: impl Iterator<Item = &'a str>, make: bool) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut dir = open_beneath(&self.dir, ".", flags, Mode::empty())?;
        for component in components {
            if make {
                match mkdirat(&dir, component, Mode::S_IRWXU) {
                    Ok(()) => nix::unistd::fsync(&dir)?,
                    Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            dir = open_beneath(&dir, component, flags, Mode::empty())?;
        }
        Ok(dir)
    }
}

/// Checks a relative name: not empty, not absolute, no NUL or control character, no empty, `.` or
/// `..` component, no component over 255 bytes, none that looks like our temporary files.
pub fn check_name(rel: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("The file name {why}.")));
    if rel.is_empty() {
        return bad("is empty");
    }
    if rel.len() > NAME_MAX {
        return bad("is too long");
    }
    if rel.starts_with('/') {
        return bad("is absolute");
    }
    if rel.chars().any(char::is_control) {
        return bad("holds a control character");
    }
    for component in rel.split('/') {
        if component.is_empty() || component == "." || component == ".." {
            return bad("holds an empty, '.' or '..' component");
        }
        if component.len() > COMPONENT_MAX {
            return bad("holds a component longer than 255 bytes");
        }
        if component.starts_with(TEMPORARY_PREFIX) {
            return bad("begins like a temporary file");
        }
    }
    Ok(())
}

fn open_beneath(dir: impl AsFd, rel: &str, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    loop {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        match openat2(dir.as_fd(), rel, how) {
            // EAGAIN: a rename raced with the walk and the kernel could not prove it stayed beneath.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            other => return other,
        }
    }
}

fn create_at(dir: impl AsFd, name: &str) -> nix::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    open_beneath(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

fn create_temporary(dir: &OwnedFd) -> nix::Result<(String, File)> {
    loop {
        let serial = TEMPORARY_SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY_PREFIX}{}-{serial}", std::process::id());
        match create_at(dir, &name) {
            // Left by an earlier process with the same id.
            Err(Errno::EEXIST) => {}
            made => return made.map(|file| (name, file)),
        }
    }
}

fn failed(verb: &str, rel: &str, errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Error::not_found(format!("{rel} was not found.")),
        Errno::EEXIST | Errno::ENOTEMPTY | Errno::EISDIR => Error::conflict(format!("{rel} is in the way.")),
        Errno::ELOOP | Errno::EXDEV | Errno::ENXIO => Error::invalid(format!("{rel} is a link or special file, or leads outside.")),
        Errno::ENOSPC | Errno::EDQUOT => Error::unavailable("The storage is full."),
        _ => {
            let kind = std::io::Error::from(errno);
            match kind.kind() {
                IoKind::InvalidInput | IoKind::InvalidFilename => Error::invalid("The file name is invalid."),
                _ => Error::internal(format!("{verb} {rel}")).caused_by(kind),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::ErrorKind;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, SafeRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = SafeRoot::open(dir.path().join("store")).unwrap();
        (dir, root)
    }

    #[test]
    fn write_read_list_rename_remove() {
        let (_dir, root) = root();
        root.write_atomic("a/b/one", b"first").unwrap();
        root.write_atomic("a/b/one", b"second").unwrap();
        let mut text = String::new();
        root.open_read("a/b/one").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "second");
        assert_eq!(root.list("a/b").unwrap(), ["one"]);
        assert_eq!(root.list("").unwrap(), ["a"]);
        assert_eq!(root.create_new("a/b/one").unwrap_err().kind, ErrorKind::Conflict);
        root.rename("a/b/one", "c/two").unwrap();
        assert!(!root.exists("a/b/one").unwrap());
        assert_eq!(root.metadata("c/two").unwrap().size, 6);
        root.open_rw("c/two").unwrap().write_all(b"S").unwrap();
        assert!(root.remove("c/two").unwrap());
        assert!(!root.remove("c/two").unwrap());
        assert!(!root.remove("nowhere/two").unwrap());
        assert!(root.remove_dir("c").unwrap());
        let mode = |p: &str| std::fs::metadata(root.path().join(p)).unwrap().permissions().mode() & 0o777;
        drop(root.create_new("m").unwrap());
        assert_eq!((mode(""), mode("a"), mode("m")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn bad_names_are_refused() {
        let (_dir, root) = root();
        let long = "x".repeat(256);
        for name in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", ".tmp-1", &long] {
            assert_eq!(root.open_read(name).unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
            assert_eq!(root.create_new(name).unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
            assert_eq!(root.write_atomic(name, b"").unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
            assert_eq!(root.remove(name).unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
            assert_eq!(root.rename("a", name).unwrap_err().kind, ErrorKind::Invalid, "{name:?}");
        }
        root.create_new(&"x".repeat(255)).unwrap();
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let (dir, root) = root();
        std::fs::write(dir.path().join("secret"), b"s").unwrap();
        symlink(dir.path().join("secret"), root.path().join("out")).unwrap();
        symlink(dir.path(), root.path().join("outdir")).unwrap();
        root.write_atomic("inside", b"i").unwrap();
        symlink("inside", root.path().join("in")).unwrap();
        for name in ["out", "in", "outdir/secret"] {
            assert!(root.open_read(name).is_err(), "{name}");
            assert!(root.open_rw(name).is_err(), "{name}");
        }
        assert!(root.write_atomic("outdir/new", b"x").is_err());
        assert!(root.rename("inside", "outdir/new").is_err());
        assert!(root.remove("outdir/secret").is_err() || dir.path().join("secret").exists());
        assert!(dir.path().join("secret").exists());
        assert!(!dir.path().join("new").exists());
        // Writing over a link replaces the link, not what it points to.
        root.write_atomic("out", b"mine").unwrap();
        assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"s");
        nix::unistd::mkfifo(&root.path().join("pipe"), Mode::S_IRWXU).unwrap();
        assert!(root.open_read("pipe").is_err());
        assert!(root.open_rw("pipe").is_err());
        assert!(root.open_read("inside").is_ok());
    }

    #[test]
    fn leftovers_are_hidden_and_swept() {
        let (_dir, root) = root();
        std::fs::write(root.path().join(".tmp-1-2"), b"half").unwrap();
        root.write_atomic("kept", b"k").unwrap();
        assert_eq!(root.list("").unwrap(), ["kept"]);
        assert_eq!(root.sweep_temporary("").unwrap(), 1);
        assert_eq!(root.sweep_temporary("").unwrap(), 0);
        assert!(root.exists("kept").unwrap());
    }
}
