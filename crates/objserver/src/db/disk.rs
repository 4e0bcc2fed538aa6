use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Space that writes must leave free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reserve {
    Percent(f64),
    Bytes(u64),
}

/// The devices below one directory.
#[derive(Clone, Debug)]
pub struct Disks {
    pub devices: PathBuf,
    pub mount_check: bool,
    pub reserve: Reserve,
}

impl Disks {
    /// Where a device would be; `None` when the name can be no device's. Asks nothing of the disk.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~".contains(&b);
        if name.is_empty() || name == "." || name == ".." || !name.bytes().all(plain) {
            return None;
        }
        Some(self.devices.join(name))
    }

    /// The device's directory; `None` when the name is no device's or it is not there (or not mounted).
    pub fn device(&self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        let meta = std::fs::metadata(&path).ok().filter(|m| m.is_dir())?;
        if self.mount_check && !is_mount(&path, meta.dev(), meta.ino()) {
            return None;
        }
        Some(path)
    }

    /// Whether the device has more than its reserve left.
    pub fn has_space(&self, device: &Path) -> bool {
        let Ok(st) = nix::sys::statvfs::statvfs(device) else { return false };
        let free = st.blocks_available() * st.fragment_size();
        match self.reserve {
            Reserve::Bytes(n) => free >= n,
            Reserve::Percent(p) => {
                let size = st.blocks() * st.fragment_size();
                // Sizes of disks are far below 2^53.
                free as f64 / (size.max(1)) as f64 * 100.0 >= p
            }
        }
    }
}

/// A mount point lies on another device than its parent, or is the root.
fn is_mount(path: &Path, dev: u64, ino: u64) -> bool {
    match std::fs::metadata(path.join("..")) {
        Ok(parent) => parent.dev() != dev || parent.ino() == ino,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sdb")).unwrap();
        let mut disks = Disks { devices: dir.path().into(), mount_check: false, reserve: Reserve::Percent(0.0) };
        let sdb = disks.device("sdb").unwrap();
        assert!(disks.has_space(&sdb));
        for bad in ["", ".", "..", "a/b", "sdc", "s db"] {
            assert_eq!(disks.device(bad), None, "{bad}");
        }
        disks.reserve = Reserve::Bytes(u64::MAX);
        assert!(!disks.has_space(&sdb));
        disks.mount_check = true;
        assert_eq!(disks.device("sdb"), None);
        assert!(is_mount(Path::new("/"), std::fs::metadata("/").unwrap().dev(), std::fs::metadata("/").unwrap().ino()));
    }
}
