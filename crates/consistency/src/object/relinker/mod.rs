//! Moves objects to their new partitions when the part power is increased.
//!
//! While the increase is prepared ([`Step::Relink`]), every file gets a second name in the partition that it will have;
//! servers write new objects under both. After it ([`Step::Cleanup`]), old names go, each only once the new one is there.
//! Both steps may be repeated and broken off anywhere; the next run goes on after the last partition that was done.

mod mover;
mod state;

use super::{Config, all, blocking};
use crate::recon;
use caelum_diskfile::{DiskResult, LOCK_TIMEOUT, lock_file};
pub(super) use mover::Mover;
use serde_json::{Value, json};
use state::State;
use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
            let name = device.clone();
            let clobber = config.clobber_hardlink_collisions;
            let mover = Mover { disks: config.disks.clone(), policy, device, step, clobber };
            let work = Work { config, mover, power, next, old, progress };
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
    mover: Mover,
    power: u32,
    next: u32,
    old: u32,
    progress: Arc<Progress>,
}

/// The partition of an object's hash with this part power.
pub(super) fn partition_of(hash: &str, power: u32) -> Option<u32> {
    let top = u32::from_str_radix(hash.get(..8)?, 16).ok()?;
    Some(top.checked_shr(32 - power.min(32)).unwrap_or(0))
}

impl Work {
    fn run(&self) -> DiskResult<Stats> {
        let mut stats = Stats::default();
        let (root, datadir) = (self.mover.disks.device_path(&self.mover.device)?, self.mover.policy.dir("objects"));
        // One at a time per device and policy.
        let _lock = lock_file(&State::lock_path(&root, &datadir), LOCK_TIMEOUT)?;
        let mut state = State::load(&root, &datadir, self.power, self.next)?;
        let mut partitions: Vec<u32> =
            self.mover.disks.partitions(&self.mover.device, &self.mover.policy)?.iter().filter_map(|p| p.parse().ok()).collect();
        partitions.retain(|p| u64::from(*p) < 1 << self.old);
        let started = self.progress.seconds();
        let mut pace = Pace { per_second: self.config.relinks_per_second, started: Instant::now(), n: 0 };
        for partition in state.remaining(&partitions, self.mover.step == Step::Relink) {
            if !self.config.wants_partition(partition) {
                continue;
            }
            let before = stats.errors;
            if let Err(e) = self.partition(partition, &mut stats, &mut pace) {
                tracing::error!(device = self.mover.device, partition, error = %e, "relinking a partition");
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
        let (disks, device, policy) = (&self.mover.disks, &self.mover.device, &self.mover.policy);
        let path = disks.partition_path(device, policy, &name);
        let mut linked: BTreeSet<u32> = BTreeSet::new();
        for suffix in disks.suffixes(device, policy, &name)? {
            for hash in disks.hash_names(device, policy, &name, std::slice::from_ref(&suffix))? {
                let Some(to) = partition_of(&hash, self.next).filter(|to| *to != partition) else { continue };
                pace.wait();
                if self.mover.object(&path.join(&suffix).join(&hash), &hash, to, stats)? {
                    linked.insert(to);
                }
            }
        }
        // While linking, only what lies above the old partitions is complete now; the rest waits for the clean-up.
        for to in linked.into_iter().filter(|to| self.mover.step == Step::Cleanup || u64::from(*to) >= 1 << self.old) {
            disks.get_hashes(device, &to.to_string(), &[], policy, false)?;
        }
        if self.mover.step == Step::Cleanup {
            disks.get_hashes(device, &name, &[], policy, false)?;
            disks.remove_empty_partition(device, policy, &name)?;
        }
        Ok(())
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
        let entry = held.0.entry(work.mover.device.clone()).or_insert_with(|| json!({ "policies": {} }));
        entry["policies"][work.mover.policy.index.to_string()] = policy;
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
