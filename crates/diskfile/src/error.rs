use crate::Metadata;
use caelum_swiftkit::Timestamp;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an object could not be opened, written or listed.
#[derive(Debug)]
pub enum DiskError {
    /// The device is not there or not mounted (507).
    DeviceUnavailable,
    /// Nothing is known of the object (404).
    NotExist,
    /// A tombstone stands in its place (404).
    Deleted {
        timestamp: Timestamp,
    },
    /// Its time of deletion has passed (404).
    Expired {
        timestamp: Timestamp,
        metadata: Box<Metadata>,
    },
    /// It was found damaged and has been moved away (404).
    Quarantined {
        to: PathBuf,
        reason: String,
    },
    /// The name in the metadata is another object's (403).
    Collision,
    /// The reserve of free space or the device itself is used up (507).
    NoSpace,
    /// The file system keeps no extended attributes (507).
    XattrNotSupported,
    /// The metadata is larger than the file system lets a file have; its bytes on disk (400). The ext4 file
    /// system without its `ea_inode` feature keeps one block for all of it.
    MetadataTooLarge(usize),
    /// Another request changed the files while they were read (503).
    StateChanged,
    /// A lock was not granted in time.
    LockTimeout(PathBuf),
    /// A file name, fragment index or preference that means nothing.
    Invalid(String),
    Io(io::Error),
}

impl DiskError {
    /// Errors of writing, with the full device told apart.
    pub fn from_write(e: io::Error) -> Self {
        match e.raw_os_error() {
            Some(n) if n == Errno::NOSPC.raw_os_error() || n == Errno::DQUOT.raw_os_error() => Self::NoSpace,
            Some(n) if n == Errno::NOTSUP.raw_os_error() => Self::XattrNotSupported,
            _ => Self::Io(e),
        }
    }
}

use rustix::io::Errno;

impl From<io::Error> for DiskError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Errno> for DiskError {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceUnavailable => f.write_str("the device is unavailable"),
            Self::NotExist => f.write_str("no such object"),
            Self::Deleted { timestamp } => write!(f, "deleted at {timestamp}"),
            Self::Expired { timestamp, .. } => write!(f, "expired; written at {timestamp}"),
            Self::Quarantined { to, reason } => write!(f, "quarantined to {}: {reason}", to.display()),
            Self::Collision => f.write_str("the metadata names another object"),
            Self::NoSpace => f.write_str("no space left"),
            Self::XattrNotSupported => f.write_str("the file system has no extended attributes"),
            Self::MetadataTooLarge(n) => {
                write!(f, "The metadata ({n} bytes on disk) is larger than the storage device's file system can keep")
            }
            Self::StateChanged => f.write_str("the files changed while they were read"),
            Self::LockTimeout(p) => write!(f, "no lock on {} in time", p.display()),
            Self::Invalid(what) => f.write_str(what),
            Self::Io(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(e) => e.source(),
            _ => None,
        }
    }
}

pub type DiskResult<T> = Result<T, DiskError>;
