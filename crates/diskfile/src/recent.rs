//! Small objects that were read and found right a moment ago, with their bytes.
//!
//! Finding out what a directory holds, opening the file, reading its metadata and checking its bytes costs several
//! times what sending a small object does. Every change of an object adds, renames or removes a file in its directory,
//! which changes the directory's times: as long as those are the same, what was read is what is there.

use crate::file::{Content, Opened};
use crate::manager::open_as;
use bytes::Bytes;
use caelum_swiftkit::Halves;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest object kept, in bytes; larger ones cost more to copy than to look up.
pub(crate) const LARGEST: u64 = 64 << 10;
/// Bytes kept at most.
const MAX_BYTES: usize = 16 << 20;
/// What an object takes beside its bytes, roughly.
const OVERHEAD: usize = 4 << 10;
/// Two changes within one tick of the kernel's clock leave the same times, so only what has rested is kept.
const SETTLED: Duration = Duration::from_millis(100);

/// A directory as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirId {
    dev: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl DirId {
    pub fn of(dir: &File) -> io::Result<Self> {
        let m = dir.metadata()?;
        Ok(Self { dev: m.dev(), inode: m.ino(), modified: (m.mtime(), m.mtime_nsec()), changed: (m.ctime(), m.ctime_nsec()) })
    }

    /// Whether the last change lies so far back that the next one will have another time. `now` in microseconds since 1970.
    fn settled(&self, now: i64) -> bool {
        let micros = |(s, ns): (i64, i64)| s.saturating_mul(1_000_000).saturating_add(ns / 1_000);
        let rested = now.saturating_sub(micros(self.modified).max(micros(self.changed)));
        u128::try_from(rested).is_ok_and(|r| r > SETTLED.as_micros())
    }
}

struct Entry {
    dir: DirId,
    opened: Opened,
}

pub(crate) struct Recent(Mutex<Halves<PathBuf, Arc<Entry>>>);

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(Halves::new(MAX_BYTES)))
    }
}

impl Recent {
    /// The object of this directory, if that has not changed. Waits for no disk.
    pub fn get(&self, dir: &Path) -> Option<Opened> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(dir)?;
        let now = open_as(dir, OFlags::DIRECTORY | OFlags::PATH, true).and_then(|d| DirId::of(&d));
        if now.is_ok_and(|id| id == known.dir) {
            return Some(known.opened.clone());
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
        None
    }

    /// Keeps a whole object that was just found right. `now` in microseconds since 1970.
    pub fn insert(&self, path: &Path, opened: &Opened, body: Bytes, now: i64) {
        let Some(dir) = opened.dir_id.filter(|d| d.settled(now)) else { return };
        // Time alone makes another object of one that expires.
        if body.len() as u64 != opened.size || opened.size > LARGEST || opened.metadata.contains("X-Delete-At") {
            return;
        }
        let bytes = body.len() + OVERHEAD;
        let entry = Arc::new(Entry { dir, opened: Opened { content: Content::Memory(body), ..opened.clone() } });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf(), entry, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_rested_is_known_by_its_times() {
        let id = DirId { dev: 1, inode: 2, modified: (1_000, 500_000_000), changed: (1_000, 400_000_000) };
        assert!(!id.settled(1_000_550_000));
        assert!(id.settled(1_000_700_000));
        assert!(!id.settled(999_000_000), "from the future");
    }
}
