//! Moving damaged directories aside, so that replication puts a good copy in their place.

use crate::hashes::invalidate_hash;
use crate::{DiskError, DiskResult, Manager};
use caelum_swiftkit::StoragePolicy;
use std::io;
use std::path::{Path, PathBuf};

/// A bad sector or a broken directory, as file systems report it.
pub(crate) fn is_corrupt(e: &io::Error) -> bool {
    use rustix::io::Errno;
    e.raw_os_error().is_some_and(|n| n == Errno::NODATA.raw_os_error() || n == Errno::UCLEAN.raw_os_error())
}

impl Manager {
    /// Moves an object's directory (or a whole suffix) to `quarantined/objects[-N]/` and marks its suffix as
    /// changed; gives the new place.
    pub fn quarantine_dir(&self, device: &Path, policy: &StoragePolicy, dir: &Path) -> DiskResult<PathBuf> {
        let name = dir.file_name().ok_or_else(|| DiskError::Invalid("a directory without a name".into()))?;
        let base = device.join("quarantined").join(policy.dir("objects"));
        let to = base.join(name);
        let suffix = if name.len() == 3 { Some(dir) } else { dir.parent() };
        if let Some(suffix) = suffix {
            invalidate_hash(suffix)?;
        }
        std::fs::create_dir_all(&base)?;
        match std::fs::rename(dir, &to) {
            Ok(()) => return Ok(to),
            // A file in place of a directory meets the directory of an earlier case.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AlreadyExists
                        | io::ErrorKind::DirectoryNotEmpty
                        | io::ErrorKind::IsADirectory
                        | io::ErrorKind::NotADirectory
                ) => {}
            Err(e) => return Err(e.into()),
        }
        let to = base.join(format!("{}-{}", name.to_string_lossy(), self.config.env.hex_id()));
        std::fs::rename(dir, &to)?;
        Ok(to)
    }

    /// Quarantines and logs; the error to answer with.
    pub(crate) fn quarantined(&self, device: &Path, policy: &StoragePolicy, dir: &Path, reason: impl Into<String>) -> DiskError {
        let reason = reason.into();
        match self.quarantine_dir(device, policy, dir) {
            Ok(to) => {
                tracing::warn!(dir = %dir.display(), to = %to.display(), reason, "quarantined object");
                DiskError::Quarantined { to, reason }
            }
            // Gone in the meantime: another request has dealt with it.
            Err(DiskError::Io(e)) if e.kind() == io::ErrorKind::NotFound => DiskError::NotExist,
            Err(e) => e,
        }
    }
}
