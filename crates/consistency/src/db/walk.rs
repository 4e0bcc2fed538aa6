//! Finding databases on this node's devices.

use super::DbDaemonConfig;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// A database's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub device: String,
    pub partition: u32,
    /// `HASH.db` in its directory, which may be there under a name with an epoch.
    pub path: PathBuf,
}

/// Databases found ahead of their use.
const AHEAD: usize = 64;

/// Paces what is found: upstream's `databases_per_second`, with so much at once as five seconds allow.
struct Pace {
    per_second: u32,
    sent: u64,
}

impl Pace {
    /// Sleeps as long as need be. Only for threads that may block.
    fn wait(&mut self) {
        self.sent += 1;
        if self.per_second > 0 && self.sent > 5 * u64::from(self.per_second) {
            std::thread::sleep(std::time::Duration::from_secs(1) / self.per_second);
        }
    }
}

/// Sends every database below `DEVICE/DATADIR`. Empty partition directories are removed on the way. A
/// directory that cannot be read is skipped with a warning.
pub(crate) fn walk(config: &DbDaemonConfig, names: Vec<String>, datadir: &'static str) -> mpsc::Receiver<Found> {
    let (tx, rx) = mpsc::channel(AHEAD);
    let (devices, mount_check) = (config.devices.clone(), config.mount_check);
    let mut pace = Pace { per_second: config.databases_per_second, sent: 0 };
    tokio::task::spawn_blocking(move || {
        let disks = caelum_objserver::db::Disks { devices, mount_check, reserve: caelum_objserver::db::Reserve::Bytes(0) };
        for device in names {
            let Some(path) = disks.device(&device) else {
                tracing::warn!(device, "skipped: not there or not mounted");
                continue;
            };
            if walk_device(&device, &path.join(datadir), &tx, &mut pace).is_none() {
                return;
            }
        }
    });
    rx
}

/// `None`: nobody listens any more.
fn walk_device(device: &str, root: &Path, tx: &mpsc::Sender<Found>, pace: &mut Pace) -> Option<()> {
    for partition in dirs(root) {
        let Some(number) = name(&partition).parse::<u32>().ok() else { continue };
        let suffixes = dirs(&partition);
        if suffixes.is_empty() {
            // Not empty after all, or gone: either is fine.
            let _ = std::fs::remove_dir(&partition);
        }
        for suffix in suffixes {
            let hashes = dirs(&suffix);
            if hashes.is_empty() {
                let _ = std::fs::remove_dir(&suffix);
            }
            for hash in hashes {
                let path = hash.join(format!("{}.db", name(&hash)));
                match caelum_broker::db_files(&path) {
                    Ok(files) if files.is_empty() => {
                        // Only directories of nothing but a lock are left over by removals.
                        let _ = std::fs::remove_dir(&hash);
                    }
                    Ok(_) => {
                        pace.wait();
                        tx.blocking_send(Found { device: device.into(), partition: number, path }).ok()?;
                    }
                    Err(e) => tracing::warn!(error = %e, "skipped"),
                }
            }
        }
    }
    Some(())
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn dirs(path: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) => {
            if e.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), error = %e, "skipped");
            }
            return Vec::new();
        }
    };
    let mut out: Vec<_> = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    out.sort();
    out
}
