//! Moves objects to their new partitions when the part power is increased.
//!
//! While the increase is prepared ([`Step::Relink`]), every file gets a second name in the partition that it will have;
//! servers write new objects under both. After it ([`Step::Cleanup`]), old names go, each only once the new one is there.
//! Both steps may be repeated and broken off anywhere; the next run goes on after the last partition that was done.

mod state;

use super::{Config, all, blocking};
use crate::recon;
use caelum_diskfile::{DiskError, DiskResult, FragWish, Manager, invalidate_hash, lock_dir, lock_file, ondisk, same_version, valid_suffix};
use caelum_swiftkit::StoragePolicy;
use serde_json::{Value, json};
use state::State;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long to wait for another relinker on the same device.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

const RECON: &str = "relinker";
/// How often figures are noted while a device is worked on.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Which half of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Relink,
    Cleanup,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Policies whose ring asks for this step.
    pub policies: u64,
    pub hash_dirs: u64,
    pub files: u64,
    pub linked: u64,
    pub removed: u64,
    pub errors: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.policies += o.policies;
        self.hash_dirs += o.hash_dirs;
        self.files += o.files;
        self.linked += o.linked;
        self.removed += o.removed;
        self.errors += o.errors;
    }
}

/// Does a step on all devices for all policies whose rings ask for it. `policies` is 0 when none does.
pub async fn run_once(config: &Config, step: Step) -> Stats {
    let progress = Arc::new(Progress::new(config, step));
    note(&progress, None).await;
    let total = run_policies(config, step, &progress).await;
    note(&progress, Some(exit_code(&total))).await;
    total
}

async fn note(progress: &Arc<Progress>, code: Option<i32>) {
    let progress = progress.clone();
    // Without these figures the work goes on all the same.
    let _ = tokio::task::spawn_blocking(move || progress.note(code)).await;
}

/// As upstream's program ends: 2 when no policy asks for the step.
fn exit_code(stats: &Stats) -> i32 {
    match stats {
        Stats { policies: 0, .. } => 2,
        Stats { errors: 0, .. } => 0,
        _ => 1,
    }
}

async fn run_policies(config: &Config, step: Step, progress: &Arc<Progress>) -> Stats {
    let mut total = Stats::default();
    for policy in config.policies() {
        let Some(ring) = config.rings.object(policy.index) else { continue };
        let Some(next) = ring.next_part_power else { continue };
        if (next == ring.part_power()) != (step == Step::Cleanup) {
            continue;
        }
        total.policies += 1;
        let disks = config.disks.clone();
        let mut devices = blocking(move || Ok(disks.device_names())).await.unwrap_or_default();
        devices.retain(|d| config.wants_device(d));
        // Partitions from here on only exist since the increase and hold nothing to move.
        let old = if step == Step::Relink { ring.part_power() } else { next.saturating_sub(1) };
        let (policy, power) = (&policy, ring.part_power());
        total += all(devices, config.concurrency, |device| async move {
            let (config, policy, progress) = (config.clone(), policy.clone(), progress.clone());
            let disks = config.disks.clone();
            let work = Work { config, disks, policy, device, power, next, old, step, progress };
            let name = work.device.clone();
            match blocking(move || work.run()).await {
                Ok(stats) => stats,
                Err(e) => {
                    tracing::error!(device = name, error = e, "this device was not relinked");
                    Stats { errors: 1, ..Stats::default() }
                }
            }
        })
        .await;
    }
    total
}

struct Work {
    config: Config,
    disks: Arc<Manager>,
    policy: Arc<StoragePolicy>,
    device: String,
    power: u32,
    next: u32,
    old: u32,
    step: Step,
    progress: Arc<Progress>,
}

/// The partition of an object's hash with this part power.
fn partition_of(hash: &str, power: u32) -> Option<u32> {
    let top = u32::from_str_radix(hash.get(..8)?, 16).ok()?;
    Some(top.checked_shr(32 - power.min(32)).unwrap_or(0))
}

impl Work {
    fn run(&self) -> DiskResult<Stats> {
        let mut stats = Stats::default();
        let (root, datadir) = (self.disks.device_path(&self.device)?, self.policy.dir("objects"));
        // One at a time per device and policy.
        let _lock = lock_file(&State::lock_path(&root, &datadir), LOCK_TIMEOUT)?;
        let mut state = State::load(&root, &datadir, self.power, self.next)?;
        let mut partitions: Vec<u32> = self.disks.partitions(&self.device, &self.policy)?.iter().filter_map(|p| p.parse().ok()).collect();
        partitions.retain(|p| u64::from(*p) < 1 << self.old);
        let started = self.progress.seconds();
        let mut pace = Pace { per_second: self.config.relinks_per_second, started: Instant::now(), n: 0 };
        for partition in state.remaining(&partitions, self.step == Step::Relink) {
            if !self.config.wants_partition(partition) {
                continue;
            }
            let before = stats.errors;
            if let Err(e) = self.partition(partition, &mut stats, &mut pace) {
                tracing::error!(device = self.device, partition, error = %e, "relinking a partition");
                stats.errors += 1;
            }
            if stats.errors == before {
                state.done(partition)?;
            }
            self.progress.device(self, &state, &stats, started, false);
        }
        self.progress.device(self, &state, &stats, started, true);
        Ok(stats)
    }

    fn partition(&self, partition: u32, stats: &mut Stats, pace: &mut Pace) -> DiskResult<()> {
        let name = partition.to_string();
        let path = self.disks.partition_path(&self.device, &self.policy, &name);
        let mut linked: BTreeSet<u32> = BTreeSet::new();
        for suffix in list(&path)?.into_iter().filter(|s| valid_suffix(s)) {
            for hash in list(&path.join(&suffix))? {
                let Some(to) = partition_of(&hash, self.next).filter(|to| *to != partition) else { continue };
                pace.wait();
                if self.object(&path.join(&suffix).join(&hash), &hash, to, stats)? {
                    linked.insert(to);
                }
            }
        }
        // While linking, only what lies above the old partitions is complete now; the rest waits for the clean-up.
        for to in linked.into_iter().filter(|to| self.step == Step::Cleanup || u64::from(*to) >= 1 << self.old) {
            self.disks.get_hashes(&self.device, &to.to_string(), &[], &self.policy, false)?;
        }
        if self.step == Step::Cleanup {
            self.disks.get_hashes(&self.device, &name, &[], &self.policy, false)?;
            self.disks.remove_empty_partition(&self.device, &self.policy, &name)?;
        }
        Ok(())
    }

    /// One object's directory; true when something was linked.
    fn object(&self, from: &Path, hash: &str, partition: u32, stats: &mut Stats) -> DiskResult<bool> {
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
}

impl Work {
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
            Linked::Collision if !self.config.clobber_hardlink_collisions => return Err(collision()),
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

/// Keeps to a number of object directories per second.
struct Pace {
    per_second: u32,
    started: Instant,
    n: u32,
}

impl Pace {
    fn wait(&mut self) {
        if self.per_second == 0 {
            return;
        }
        let due = Duration::from_secs_f64(f64::from(self.n) / f64::from(self.per_second));
        self.n = self.n.saturating_add(1);
        // On a thread that may block.
        std::thread::sleep(due.saturating_sub(self.started.elapsed()));
    }
}

/// What `relinker.recon` tells the operator.
struct Progress {
    config: Config,
    step: Step,
    devices: Mutex<(serde_json::Map<String, Value>, Option<Instant>)>,
}

impl Progress {
    fn new(config: &Config, step: Step) -> Self {
        Self { config: config.clone(), step, devices: Mutex::default() }
    }

    fn seconds(&self) -> f64 {
        self.config.env.now().0 as f64 / 1e6
    }

    /// Notes how far a device has come, at most once a minute unless it is `finished`. Blocks.
    fn device(&self, work: &Work, state: &State, stats: &Stats, started: f64, finished: bool) {
        let Some(dir) = &self.config.recon_cache else { return };
        let mut held = self.devices.lock().expect("no holder of this lock panics");
        if !finished && held.1.is_some_and(|at| at.elapsed() < NOTE_EVERY) {
            return;
        }
        held.1 = Some(Instant::now());
        let ((done, all), now) = (state.progress(), self.seconds());
        let stats = json!({
            "hash_dirs": stats.hash_dirs, "files": stats.files, "linked": stats.linked, "removed": stats.removed, "errors": stats.errors,
        });
        let total = if finished { now - started } else { 0.0 };
        let mut policy = json!({
            "start_time": started, "stats": stats, "part_power": work.power, "next_part_power": work.next,
            "step": if self.step == Step::Cleanup { "cleanup" } else { "relink" },
            "parts_done": done, "total_parts": all, "timestamp": now,
        });
        if finished {
            policy["total_time"] = json!(total);
        }
        let entry = held.0.entry(work.device.clone()).or_insert_with(|| json!({ "policies": {} }));
        entry["policies"][work.policy.index.to_string()] = policy;
        collate(entry);
        let text = json!({ "devices": held.0.clone(), "workers": self.worker(None) });
        if let Err(e) = recon::merge(dir, RECON, text) {
            tracing::warn!(error = e, "cannot note figures");
        }
    }

    fn worker(&self, code: Option<i32>) -> Value {
        json!({ std::process::id().to_string(): { "devices": self.config.only_devices, "timestamp": self.seconds(), "return_code": code } })
    }

    /// The beginning (earlier figures go) or the end of a run. Blocks for one small file.
    fn note(&self, code: Option<i32>) {
        let Some(dir) = &self.config.recon_cache else { return };
        let devices = self.devices.lock().expect("no holder of this lock panics").0.clone();
        if let Err(e) = recon::merge(dir, RECON, json!({ "devices": devices, "workers": self.worker(code) })) {
            tracing::warn!(error = e, "cannot note figures");
        }
    }
}

/// A device's figures: the sums of its policies'.
fn collate(device: &mut Value) {
    let policies: Vec<Value> = device["policies"].as_object().into_iter().flat_map(|m| m.values().cloned()).collect();
    let sum = |get: &dyn Fn(&Value) -> Option<f64>| policies.iter().filter_map(get).sum::<f64>();
    let count = |path: &str| json!(sum(&|p| p.pointer(path)?.as_f64()) as u64);
    let stats: serde_json::Map<String, Value> =
        ["hash_dirs", "files", "linked", "removed", "errors"].map(|k| (k.to_string(), count(&format!("/stats/{k}")))).into_iter().collect();
    (device["stats"], device["parts_done"], device["total_parts"]) = (Value::Object(stats), count("/parts_done"), count("/total_parts"));
    device["total_time"] = json!(sum(&|p| p["total_time"].as_f64()));
}

fn list(dir: &Path) -> DiskResult<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|e| Ok(e?.file_name().into_string().unwrap_or_default())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_hashes() {
        let hash = "8c525acb02107ea475dcd3d09c2c5823";
        assert_eq!(partition_of(hash, 0), Some(0));
        assert_eq!(partition_of(hash, 1), Some(1));
        assert_eq!(partition_of(hash, 4), Some(8));
        assert_eq!(partition_of(hash, 5), Some(17));
        assert_eq!(partition_of(hash, 32), Some(0x8c52_5acb));
        assert_eq!(partition_of("xyz", 4), None);
    }
}
