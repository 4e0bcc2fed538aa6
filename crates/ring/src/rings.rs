//! A node's rings, kept up to date with their files.

use crate::file;
use crate::runtime::Ring;
use caelum_base::{Error, Result};
use caelum_swiftkit::Policies;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

/// How often files are looked at, as upstream's `DEFAULT_RELOAD_TIME`.
const CHECK_EVERY: Duration = Duration::from_secs(15);

/// What tells a file from its successor.
type Mark = (SystemTime, u64, u64);

#[derive(Debug)]
struct Slot {
    path: Option<PathBuf>,
    held: RwLock<(Option<Mark>, Option<Arc<Ring>>)>,
}

impl Slot {
    fn fixed(ring: Ring) -> Self {
        Self { path: None, held: RwLock::new((None, Some(Arc::new(ring)))) }
    }

    fn file(path: PathBuf) -> Self {
        Self { path: Some(path), held: RwLock::default() }
    }

    fn get(&self) -> Option<Arc<Ring>> {
        self.held.read().expect("no holder of this lock panics").1.clone()
    }

    /// Loads the file when it is new or changed. A file that has gone or cannot be read leaves the ring
    /// in place: a node goes on with the last it understood.
    fn check(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mark = match mark(path) {
            Ok(m) => m,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::unavailable(format!("{}: {e}", path.display()))),
        };
        if self.held.read().expect("no holder of this lock panics").0 == Some(mark) {
            return Ok(());
        }
        let loaded = file::load(path)?;
        *self.held.write().expect("no holder of this lock panics") = (Some(mark), Some(Arc::new(loaded)));
        Ok(())
    }
}

fn mark(path: &Path) -> std::io::Result<Mark> {
    use std::os::unix::fs::MetadataExt;
    let m = std::fs::metadata(path)?;
    Ok((m.modified()?, m.len(), m.ino()))
}

#[derive(Debug)]
struct Inner {
    account: Slot,
    container: Slot,
    object: BTreeMap<u32, Slot>,
    opened: Instant,
    /// Milliseconds after `opened` when files are due to be looked at.
    due_ms: AtomicU64,
    checking: AtomicBool,
}

/// The rings of a cluster as a node sees them: of accounts, containers and of each policy's objects.
/// Cheap to clone; lookups never wait for a disk. A changed file is noticed within 15 s of use.
#[derive(Clone, Debug)]
pub struct Rings(Arc<Inner>);

impl Rings {
    fn new(account: Slot, container: Slot, object: BTreeMap<u32, Slot>) -> Self {
        Self(Arc::new(Inner {
            account,
            container,
            object,
            opened: Instant::now(),
            due_ms: AtomicU64::new(millis(CHECK_EVERY)),
            checking: AtomicBool::new(false),
        }))
    }

    /// Rings that never change: tests, and a cloud whose rings are computed.
    pub fn fixed(account: Ring, container: Ring, object: Vec<(u32, Ring)>) -> Self {
        Self::new(Slot::fixed(account), Slot::fixed(container), object.into_iter().map(|(i, r)| (i, Slot::fixed(r))).collect())
    }

    /// Loads `account.ring.gz`, `container.ring.gz` and each policy's `object[-N].ring.gz` from `dir`; an
    /// object ring may come later. Reads files: call it where blocking is allowed. Errors: the
    /// account's or container's file is missing, or any file is not a ring.
    pub fn open(dir: impl AsRef<Path>, policies: &Policies) -> Result<Self> {
        let path = |name: &str| dir.as_ref().join(format!("{name}.ring.gz"));
        let object = policies.iter().map(|p| (p.index, Slot::file(path(&p.dir("object"))))).collect();
        let rings = Self::new(Slot::file(path("account")), Slot::file(path("container")), object);
        for slot in rings.0.slots() {
            slot.check()?;
        }
        for (slot, name) in [(&rings.0.account, "account"), (&rings.0.container, "container")] {
            if slot.get().is_none() {
                return Err(Error::not_found(format!("{} is missing", path(name).display())));
            }
        }
        Ok(rings)
    }

    pub fn account(&self) -> Arc<Ring> {
        self.look();
        self.0.account.get().unwrap_or_default()
    }

    pub fn container(&self) -> Arc<Ring> {
        self.look();
        self.0.container.get().unwrap_or_default()
    }

    /// `None`: no such policy, or its ring has not been distributed yet.
    pub fn object(&self, policy_index: u32) -> Option<Arc<Ring>> {
        self.look();
        self.0.object.get(&policy_index)?.get()
    }

    /// Looks at the files now. Blocks on the disk. Errors: the first file that cannot be read; its ring
    /// stays as it was.
    pub fn check_now(&self) -> Result<()> {
        self.0.check()
    }

    /// Starts a look at the files on a thread of its own when one is due.
    fn look(&self) {
        let inner = &self.0;
        let now = millis(inner.opened.elapsed());
        if now < inner.due_ms.load(Ordering::Relaxed) || inner.account.path.is_none() {
            return;
        }
        if inner.checking.swap(true, Ordering::AcqRel) {
            return;
        }
        inner.due_ms.store(now + millis(CHECK_EVERY), Ordering::Relaxed);
        let task = Arc::clone(inner);
        let spawned = std::thread::Builder::new().name("ring-reload".into()).spawn(move || {
            if let Err(e) = task.check() {
                tracing::warn!(error = %e.chain(), "a ring file was not loaded; the ring in use stays");
            }
            task.checking.store(false, Ordering::Release);
        });
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "ring files were not looked at");
            inner.checking.store(false, Ordering::Release);
        }
    }
}

impl Inner {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        [&self.account, &self.container].into_iter().chain(self.object.values())
    }

    fn check(&self) -> Result<()> {
        let mut first = Ok(());
        for slot in self.slots() {
            // Every ring is looked at, whatever became of the one before.
            first = first.and(slot.check());
        }
        first
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
