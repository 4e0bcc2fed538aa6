//! Files whose checksum was found right and whose bytes have stayed in memory since.
//!
//! So are files that were just written with a checksum computed on the way.
//!
//! Checking an object costs several times what sending it does. One that was read whole a moment ago need not be
//! checked again as long as the same bytes are still in the page cache: a disk can only give wrong ones when it is
//! read anew. So a file is remembered here by its inode and time of change, and is then read without
//! waiting for the disk; as soon as something has to come from there, all of it is checked again.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Files remembered at most.
const MAX_FILES: usize = 16_384;
/// Others who read a file may have brought its pages back from the disk: after this time it is checked in any case.
const MAX_AGE: Duration = Duration::from_secs(300);

/// A file as it was when it was looked at; any change of it gives another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    dev: u64,
    inode: u64,
    changed: (i64, i64),
    pub size: u64,
}

impl From<&Metadata> for FileId {
    fn from(m: &Metadata) -> Self {
        Self { dev: m.dev(), inode: m.ino(), changed: (m.ctime(), m.ctime_nsec()), size: m.len() }
    }
}

/// Files and when they were noted.
#[derive(Default)]
struct Noted(Mutex<HashMap<FileId, Instant>>);

impl Noted {
    fn files(&self) -> MutexGuard<'_, HashMap<FileId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, file: &FileId) -> bool {
        self.files().get(file).is_some_and(|t| t.elapsed() < MAX_AGE)
    }

    fn insert(&self, file: FileId) {
        let mut files = self.files();
        if files.len() >= MAX_FILES {
            files.retain(|_, t| t.elapsed() < MAX_AGE);
            // All of them young: which ones are checked again matters little.
            if files.len() >= MAX_FILES {
                files.clear();
            }
        }
        files.insert(file, Instant::now());
    }

    fn remove(&self, file: &FileId) {
        self.files().remove(file);
    }
}

#[derive(Default)]
pub(crate) struct Verified {
    right: Noted,
    /// Large files that clients have asked for.
    wanted: Noted,
}

impl Verified {
    pub fn contains(&self, file: &FileId) -> bool {
        self.right.contains(file)
    }

    pub fn insert(&self, file: FileId) {
        self.right.insert(file);
    }

    pub fn remove(&self, file: &FileId) {
        self.right.remove(file);
    }

    /// Notes that a client asks for a file; whether one has done so a moment ago.
    pub fn wanted_again(&self, file: FileId) -> bool {
        let again = self.wanted.contains(&file);
        self.wanted.insert(file);
        again
    }
}
