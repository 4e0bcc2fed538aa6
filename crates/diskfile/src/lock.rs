//! Locks between processes on a directory: `flock` on hidden files in it, as upstream's daemons use.

use crate::{DiskError, DiskResult};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Held until dropped.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "the lock lives as long as the descriptor")] OwnedFd);

/// How long changes to a partition's hashes wait for each other.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes one of `limit` locks called `name` (the directory's general lock when empty), waiting at most
/// `timeout`. Blocks the thread. Errors: `LockTimeout`, or that the directory cannot be written.
pub fn lock_dir(dir: &Path, name: &str, limit: usize, timeout: Duration) -> DiskResult<DirLock> {
    let base = if name.is_empty() { ".lock".to_string() } else { format!(".lock-{name}") };
    lock_any(dir, (0..limit.max(1)).map(|i| dir.join(if i == 0 { base.clone() } else { format!("{base}-{i}") })).collect(), timeout)
}

/// Takes the lock on a file, waiting at most `timeout`. Blocks the thread. Errors: as [`lock_dir`].
pub fn lock_file(path: &Path, timeout: Duration) -> DiskResult<DirLock> {
    lock_any(path.parent().unwrap_or(path), vec![path.to_path_buf()], timeout)
}

fn lock_any(dir: &Path, paths: Vec<PathBuf>, timeout: Duration) -> DiskResult<DirLock> {
    let mut fds = Vec::with_capacity(paths.len());
    for path in &paths {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = match open(path, flags, Mode::from_raw_mode(0o644)) {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(dir)?;
                open(path, flags, Mode::from_raw_mode(0o644))
            }
            other => other,
        };
        fds.push(fd?);
    }
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        for i in 0..fds.len() {
            match flock(&fds[i], FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DirLock(fds.swap_remove(i))),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if start.elapsed() >= timeout {
            return Err(DiskError::LockTimeout(paths.into_iter().next().unwrap_or_default()));
        }
        // Blocking code: callers are on threads that may block.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
