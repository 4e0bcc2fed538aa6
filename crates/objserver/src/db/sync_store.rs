//! `DEVICE/sync_containers`: links to the databases that take part in container synchronization, so
//! that its daemon need not open every container.

use caelum_broker::{CONTAINER_DIR, ContainerBroker, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// The directory below a device.
pub const SYNC_DIR: &str = "sync_containers";

/// The link of a database file. `None` for a path that is no container's.
pub fn sync_link(db_file: &Path) -> Option<PathBuf> {
    let device = db_file.ancestors().nth(5)?;
    let rest = db_file.strip_prefix(device.join(CONTAINER_DIR)).ok()?;
    Some(device.join(SYNC_DIR).join(rest))
}

fn set(metadata: &Metadata, key: &str) -> bool {
    metadata.get(key).is_some_and(|(v, _)| !v.is_empty())
}

/// Makes or removes the link as the container's metadata says.
pub fn update_sync_store(broker: &ContainerBroker) -> caelum_broker::Result<()> {
    let metadata = broker.metadata()?;
    if !metadata.contains_key("X-Container-Sync-To") && !metadata.contains_key("X-Container-Sync-Key") {
        return Ok(());
    }
    let Some(link) = sync_link(broker.db().file()) else { return Ok(()) };
    let wanted = set(&metadata, "X-Container-Sync-To") && set(&metadata, "X-Container-Sync-Key") && !broker.is_deleted()?;
    let done = if wanted { add(broker.db().file(), &link) } else { remove(&link) };
    done.map_err(|e| caelum_broker::BrokerError::Io(link, e))
}

fn add(db_file: &Path, link: &Path) -> io::Result<()> {
    if link.exists() {
        return Ok(());
    }
    if let Some(dir) = link.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::os::unix::fs::symlink(db_file, link) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && link.is_symlink() => Ok(()),
        other => other,
    }
}

fn remove(link: &Path) -> io::Result<()> {
    match std::fs::remove_file(link) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    // Empty directories go as well; the first that is not ends it.
    for dir in link.ancestors().skip(1).take(4) {
        if std::fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(())
}
