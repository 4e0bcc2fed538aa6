//! The lock that upstream's processes honour too: `flock` on `.lock` in the database's directory.

use crate::error::{At, BrokerError, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// Released when dropped.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "closing the file is what releases the lock")] File);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Takes the lock of a directory, creating the directory if need be. Blocks the thread.
/// Errors: `Locked` when it was not free within `timeout`.
pub fn lock_directory(dir: &Path, timeout: Duration) -> Result<DirLock> {
    let path = dir.join(".lock");
    let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = match open() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir).at(dir)?;
            open().at(&path)?
        }
        other => other.at(&path)?,
    };
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(DirLock(file)),
            Err(TryLockError::WouldBlock) if start.elapsed() < timeout => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(TryLockError::WouldBlock) => return Err(BrokerError::Locked(path)),
            Err(TryLockError::Error(e)) => return Err(e).at(&path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        let held = lock_directory(&place, Duration::ZERO).unwrap();
        let again = lock_directory(&place, Duration::from_millis(5));
        assert!(matches!(again, Err(BrokerError::Locked(_))));
        drop(held);
        lock_directory(&place, Duration::ZERO).unwrap();
    }
}
