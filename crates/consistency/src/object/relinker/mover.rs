//! Moving an object's files to another partition of their device.

use super::{Stats, Step};
use caelum_diskfile::{DiskError, DiskResult, FragWish, LOCK_TIMEOUT, Manager, invalidate_hash, lock_dir, ondisk, same_version};
use caelum_swiftkit::StoragePolicy;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Gives objects their place in another partition; [`Step::Cleanup`] takes the one they had. Blocks.
pub(in crate::object) struct Mover {
    pub disks: Arc<Manager>,
    pub policy: Arc<StoragePolicy>,
    pub device: String,
    pub step: Step,
    /// A file that is in the way is put aside.
    pub clobber: bool,
}

impl Mover {
    /// One object's directory; true when something was linked.
    pub fn object(&self, from: &Path, hash: &str, partition: u32, stats: &mut Stats) -> DiskResult<bool> {
        stats.hash_dirs += 1;
        // New metadata comes before this, and goes with the rest, or finds no data any more.
        let old_partition = from.ancestors().nth(2).filter(|_| self.step == Step::Cleanup);
        let lock = old_partition.map(|p| lock_dir(p, "", 1, LOCK_TIMEOUT)).transpose()?;
        let to = self.disks.hash_dir(&self.device, &self.policy, &partition.to_string(), hash);
        // The new place first: the old one is then never the fuller of the two for a reason that no longer holds.
        let new = self.disks.clean_up(&to, &self.policy, &FragWish::default())?;
        let old = self.disks.clean_up(from, &self.policy, &FragWish::default())?;
        let union: BTreeSet<String> = new.files.iter().chain(&old.files).cloned().collect();
        let mut names: Vec<String> = union.into_iter().collect();
        names.sort_by(|a, b| b.cmp(a));
        let obsolete = ondisk::resolve(&names, &self.policy, &FragWish::default()).obsolete;
        let needed = old.files.iter().filter(|n| !obsolete.iter().any(|o| o.name == **n));
        let (mut linked, mut missing) = (false, false);
        for name in needed {
            stats.files += 1;
            match self.link(&from.join(name), &to.join(name)) {
                Ok(true) => {
                    stats.linked += 1;
                    linked = true;
                }
                Ok(false) => {}
                Err(e) => {
                    tracing::error!(file = %from.join(name).display(), error = %e, "not linked");
                    stats.errors += 1;
                    missing = true;
                }
            }
        }
        if linked {
            std::fs::File::open(&to)?.sync_all()?;
            to.parent().map_or(Ok(()), invalidate_hash)?;
        }
        if self.step == Step::Cleanup && !missing {
            for name in &old.files {
                std::fs::remove_file(from.join(name)).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
                stats.removed += 1;
            }
            drop(lock);
            from.parent().map_or(Ok(()), invalidate_hash)?;
            // Whatever else is in it stays.
            let _ = std::fs::remove_dir(from);
        }
        Ok(linked)
    }

    /// Gives a file a second name; false when it has it. Errors: something else has that name, unless both are
    /// tombstones of one time or copies of one version, which say the same, or it is to be put aside.
    fn link(&self, from: &Path, to: &Path) -> DiskResult<bool> {
        let collision = || DiskError::Invalid(format!("{} is another file", to.display()));
        match link(from, to)? {
            Linked::Made => return Ok(true),
            Linked::There => return Ok(false),
            Linked::Collision if to.extension().is_some_and(|e| e == "ts") => return Ok(false),
            // It was linked once, and later replication brought the old partition a copy of its own again.
            Linked::Collision if same_version(from, to)? => return Ok(false),
            Linked::Collision if !self.clobber => return Err(collision()),
            Linked::Collision => {}
        }
        if self.step == Step::Cleanup {
            // Clients are served from there already.
            return Ok(false);
        }
        let aside = self.disks.quarantine_dir(&self.disks.device_path(&self.device)?, &self.policy, to.parent().unwrap_or(to))?;
        tracing::info!(file = %to.display(), to = %aside.display(), "another file was in the way");
        match link(from, to)? {
            Linked::Made => Ok(true),
            Linked::There => Ok(false),
            Linked::Collision => Err(collision()),
        }
    }
}

enum Linked {
    Made,
    There,
    /// The name is another file's.
    Collision,
}

/// Gives a file a second name.
fn link(from: &Path, to: &Path) -> DiskResult<Linked> {
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(Linked::Made),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let same = std::fs::metadata(from)?.ino() == std::fs::metadata(to)?.ino();
            Ok(if same { Linked::There } else { Linked::Collision })
        }
        // Removed since it was listed: a newer one has come.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Linked::There),
        Err(e) => Err(e.into()),
    }
}
