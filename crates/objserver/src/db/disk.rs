use super::{Answer, no_device};
use caelum_diskfile::{Reserve, is_mount, usage, valid_device};
use std::path::{Path, PathBuf};

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
        valid_device(name).then(|| self.devices.join(name))
    }

    /// The device's directory; `None` when the name is no device's or it is not there (or not mounted).
    pub fn device(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| if self.mount_check { is_mount(path) } else { path.is_dir() })
    }

    /// Whether the device has at least its reserve left.
    pub fn has_space(&self, device: &Path) -> bool {
        usage(device).is_ok_and(|(all, _, free)| self.reserve.allows(free, all, 0))
    }

    /// As [`Self::device`]. Errors: 507.
    pub(crate) fn readable(&self, name: &str) -> Answer<PathBuf> {
        self.device(name).ok_or_else(|| no_device(name).into())
    }

    /// The device's directory for requests that add data. Errors: 507, also without space.
    pub(crate) fn writable(&self, name: &str) -> Answer<PathBuf> {
        self.device(name).filter(|d| self.has_space(d)).ok_or_else(|| no_device(name).into())
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
        assert!(is_mount(Path::new("/")));
    }
}
