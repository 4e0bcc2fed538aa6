//! Keeps the replicas of whole objects equal.
//!
//! Of a partition that belongs here the hashes of its suffixes are compared with those of the other primaries, and
//! where they differ objects are sent. A partition that does not belong here goes to all its primaries; once they
//! have it in the state that is here, it is removed.

use super::node::RemoteHashes;
use super::relinker::{self, Mover, Step, partition_of};
use super::ssync::InSync;
use super::{Config, SyncMethod, all, blocking, node, rsync, ssync};
use crate::recon::Times;
use caelum_diskfile::{FragWish, Hashes, ObjectTimes, lock_dir};
use caelum_ring::{Device, Ring};
use caelum_swiftkit::StoragePolicy;
use std::collections::BTreeSet;
use std::ops::{AddAssign, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// While an incoming SSYNC works on the partition it is left alone.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// In one of so many passes a partition's directory is trusted over its cached hashes.
const LIST_EVERY: u64 = 10;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Partitions looked at.
    pub attempted: u64,
    /// Nodes found or made equal.
    pub success: u64,
    /// Nodes that gave no answer or refused.
    pub failure: u64,
    /// Nodes whose hashes were the same.
    pub hashmatch: u64,
    /// Nodes that something was sent to.
    pub synced: u64,
    pub suffix_count: u64,
    pub suffix_hash: u64,
    pub suffix_sync: u64,
    /// Objects removed after they were handed over.
    pub removed_objects: u64,
    /// Partitions removed after they were handed over.
    pub removed_partitions: u64,
    /// Partitions that do not belong here and stay for now.
    pub handoffs_remaining: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.attempted += o.attempted;
        self.success += o.success;
        self.failure += o.failure;
        self.hashmatch += o.hashmatch;
        self.synced += o.synced;
        self.suffix_count += o.suffix_count;
        self.suffix_hash += o.suffix_hash;
        self.suffix_sync += o.suffix_sync;
        self.removed_objects += o.removed_objects;
        self.removed_partitions += o.removed_partitions;
        self.handoffs_remaining += o.handoffs_remaining;
    }
}

/// One partition on one local device.
#[derive(Clone)]
struct Job {
    ring: Arc<Ring>,
    policy: Arc<StoragePolicy>,
    local: Device,
    partition: String,
    number: u32,
    /// The other primaries.
    nodes: Vec<Device>,
    is_handoff: bool,
}

async fn one_pass(config: &Config) -> Stats {
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let pass = PASSES.fetch_add(1, Ordering::Relaxed);
    let jobs = jobs(config).await;
    all(jobs, config.concurrency, |job| async move {
        if !config.is_current(&job.policy, &job.ring) {
            return Stats::default();
        }
        if job.is_handoff { revert(config, &job).await } else { update(config, &job, pass).await }
    })
    .await
}

/// One pass over all partitions of all replicated policies.
pub async fn run_once(config: &Config) -> Stats {
    let figures = |s: &Stats, t: &Times| {
        let stats = serde_json::json!({
            "attempted": s.attempted, "success": s.success, "failure": s.failure, "failure_nodes": {}, "hashmatch": s.hashmatch,
            "rsync": s.synced, "remove": s.removed_partitions, "suffix_count": s.suffix_count, "suffix_hash": s.suffix_hash,
            "suffix_sync": s.suffix_sync,
        });
        serde_json::json!({
            "replication_stats": stats, "replication_time": t.minutes(), "replication_last": t.end,
            "object_replication_time": t.minutes(), "object_replication_last": t.end,
        })
    };
    config.figures().noted(one_pass(config), figures).await
}

/// Passes until `stop`.
pub async fn run_forever(config: Config, stop: watch::Receiver<bool>) {
    let report = |s: Stats| tracing::info!(?s, "object replication pass");
    super::forever(config.interval, stop, || run_once(&config), report).await;
}

async fn jobs(config: &Config) -> Vec<Job> {
    let mut out = Vec::new();
    for policy in config.policies().into_iter().filter(|p| !p.is_ec()) {
        let Some(ring) = config.rings.object(policy.index) else { continue };
        // While objects are linked into two partitions, each would be sent twice.
        if ring.next_part_power.is_some() {
            tracing::warn!(policy = policy.name, "the part power is being increased; not replicating");
            continue;
        }
        for local in config.local_devices(&ring) {
            let (disks, p, device) = (config.disks.clone(), policy.clone(), local.device.clone());
            let partitions = blocking(move || {
                let list = disks.partitions(&device, &p)?;
                // Other nodes' rsync makes a partition's directory, but not the one above.
                if let Some(dir) = disks.partition_path(&device, &p, "0").parent() {
                    std::fs::create_dir_all(dir)?;
                }
                Ok(list)
            });
            let partitions = match partitions.await {
                Ok(list) => list,
                Err(e) => {
                    tracing::warn!(device = local.device, error = e, "not replicating from this device");
                    continue;
                }
            };
            out.extend(partitions.into_iter().filter_map(|p| job(&ring, &policy, &local, p)));
        }
    }
    // Two nodes that begin with the same partition would wait for each other.
    for i in (1..out.len()).rev() {
        out.swap(i, config.env.rng.below(i as u64 + 1) as usize);
    }
    if config.handoffs_first {
        out.sort_by_key(|j| !j.is_handoff);
    }
    out
}

fn job(ring: &Arc<Ring>, policy: &Arc<StoragePolicy>, local: &Device, partition: String) -> Option<Job> {
    let number: u32 = partition.parse().ok().filter(|n| *n < ring.partition_count())?;
    let primaries = ring.primaries(number);
    let is_handoff = !primaries.iter().any(|d| d.id == local.id);
    let nodes = primaries.into_iter().filter(|d| d.id != local.id).cloned().collect();
    Some(Job { ring: ring.clone(), policy: policy.clone(), local: local.clone(), partition, number, nodes, is_handoff })
}

impl Job {
    async fn hashes(&self, config: &Config, recalculate: Vec<String>, list: bool) -> Result<(usize, Hashes), String> {
        let (disks, job) = (config.disks.clone(), self.clone());
        blocking(move || disks.get_hashes_counted(&job.local.device, &job.partition, &recalculate, &job.policy, list)).await
    }

    /// Brings a node up to date; with SSYNC the objects known to be equal now.
    async fn push(
        &self,
        config: &Config,
        node: &Device,
        suffixes: &[String],
        only_check: Option<BTreeSet<String>>,
    ) -> Result<Option<InSync>, String> {
        // The nodes before this one may have taken long.
        if !config.is_current(&self.policy, &self.ring) {
            return Err("the ring has changed".into());
        }
        match &config.sync {
            SyncMethod::Rsync(r) => rsync::push(config, r, node, &self.local, &self.policy, &self.partition, suffixes).await.map(|()| None),
            SyncMethod::Ssync => {
                let job = ssync::Job {
                    device: self.local.device.clone(),
                    partition: self.partition.clone(),
                    policy: self.policy.clone(),
                    suffixes: suffixes.to_vec(),
                    wish: FragWish::default(),
                    remote_fragment: None,
                    only_check,
                    rebuild: None,
                };
                ssync::sync(config, node, &job).await.map(Some)
            }
        }
    }

    /// Moves to their own partition the objects here whose hash belongs elsewhere. They come to be here when nodes see an
    /// increase of the part power at different times; sent along with this partition, they would be on three more
    /// devices, for nobody. `None`: looks at all suffixes. Errors are logged; the next pass tries again.
    async fn rehome(&self, config: &Config, suffixes: Option<Vec<String>>) {
        let (disks, job, power) = (config.disks.clone(), self.clone(), self.ring.part_power());
        let clobber = config.clobber_hardlink_collisions;
        let moved = blocking(move || {
            let device = &job.local.device;
            let suffixes = suffixes.map_or_else(|| disks.suffixes(device, &job.policy, &job.partition), Ok)?;
            let mover = Mover { disks: disks.clone(), policy: job.policy.clone(), device: device.clone(), step: Step::Cleanup, clobber };
            let mut stats = relinker::Stats::default();
            for hash in disks.hash_names(device, &job.policy, &job.partition, &suffixes)? {
                if let Some(to) = partition_of(&hash, power).filter(|to| *to != job.number) {
                    mover.object(&disks.hash_dir(device, &job.policy, &job.partition, &hash), &hash, to, &mut stats)?;
                }
            }
            Ok(stats.hash_dirs)
        });
        match moved.await {
            Ok(0) => {}
            Ok(n) => tracing::info!(partition = self.partition, device = self.local.device, n, "objects moved to their own partition"),
            Err(e) => tracing::warn!(partition = self.partition, device = self.local.device, error = e, "misplaced objects stay"),
        }
    }

    fn failed(&self, node: &Device, error: &str) {
        tracing::warn!(
            partition = self.partition,
            policy = self.policy.index,
            node = format!("{}:{}/{}", node.replication_ip, node.replication_port, node.device),
            error,
            "replication failed"
        );
    }
}

fn differing(local: &Hashes, remote: &Hashes) -> Vec<String> {
    local.iter().filter(|(suffix, hash)| remote.get(*suffix) != Some(hash)).map(|(suffix, _)| suffix.clone()).collect()
}

/// A partition that belongs here.
async fn update(config: &Config, job: &Job, pass: u64) -> Stats {
    let mut stats = Stats { attempted: 1, ..Stats::default() };
    let list = (u64::from(job.number) + pass).is_multiple_of(LIST_EVERY);
    let (hashed, mut local) = match job.hashes(config, Vec::new(), list).await {
        Ok(h) => h,
        Err(e) => {
            tracing::warn!(partition = job.partition, device = job.local.device, error = e, "cannot hash a partition");
            stats.failure += job.nodes.len() as u64;
            return stats;
        }
    };
    stats.suffix_hash += hashed as u64;
    let mut attempts = job.nodes.len();
    let mut regions = BTreeSet::new();
    let mut spare: Option<std::vec::IntoIter<Device>> = None;
    let mut primaries = job.nodes.clone().into_iter();
    while attempts > 0 {
        attempts -= 1;
        // Past the primaries only when one's device is gone: then a handoff stands in.
        let next = primaries.next().or_else(|| {
            let list = spare.get_or_insert_with(|| job.ring.handoffs(job.number).cloned().collect::<Vec<_>>().into_iter());
            list.find(|d| d.id != job.local.id)
        });
        let Some(node) = next else { break };
        // One copy per remote region and pass; that region's nodes see to the rest.
        if regions.contains(&node.region) {
            continue;
        }
        match update_node(config, job, &node, &mut local, &mut stats).await {
            Ok(true) => {
                stats.success += 1;
                if node.region != job.local.region {
                    regions.insert(node.region);
                }
            }
            Ok(false) => {
                stats.failure += 1;
                attempts += 1;
            }
            Err(e) => {
                stats.failure += 1;
                job.failed(&node, &e);
            }
        }
    }
    stats.suffix_count += local.len() as u64;
    stats
}

/// False: the node's device is not there.
async fn update_node(config: &Config, job: &Job, node: &Device, local: &mut Hashes, stats: &mut Stats) -> Result<bool, String> {
    let remote = match node::hashes(config, node, &job.partition, job.policy.index).await? {
        RemoteHashes::Hashes(h) => h,
        RemoteHashes::Unmounted => return Ok(false),
    };
    let mut suffixes = differing(local, &remote);
    if !suffixes.is_empty() {
        // What looks different may only have been hashed long ago.
        let (hashed, fresh) = job.hashes(config, suffixes, false).await?;
        stats.suffix_hash += hashed as u64;
        *local = fresh;
        suffixes = differing(local, &remote);
    }
    if suffixes.is_empty() {
        stats.hashmatch += 1;
        return Ok(true);
    }
    job.rehome(config, Some(suffixes.clone())).await;
    stats.synced += 1;
    stats.suffix_sync += suffixes.len() as u64;
    job.push(config, node, &suffixes, None).await?;
    Ok(true)
}

/// A partition that does not belong here.
async fn revert(config: &Config, job: &Job) -> Stats {
    let mut stats = Stats { attempted: 1, ..Stats::default() };
    if let Err(e) = hand_over(config, job, &mut stats).await {
        tracing::warn!(partition = job.partition, device = job.local.device, error = e, "a partition was not handed over");
    }
    if stats.removed_partitions == 0 {
        stats.handoffs_remaining += 1;
    }
    stats
}

async fn hand_over(config: &Config, job: &Job, stats: &mut Stats) -> Result<(), String> {
    job.rehome(config, None).await;
    let (disks, j) = (config.disks.clone(), job.clone());
    // An incoming SSYNC holds this lock: both nodes handing over to each other would both remove.
    let (_lock, state) = blocking(move || {
        let dir = disks.partition_path(&j.local.device, &j.policy, &j.partition);
        let lock = lock_dir(&dir, "replication", 1, LOCK_TIMEOUT)?;
        let mut state = InSync::new();
        disks.for_each_hash(&j.local.device, &j.partition, &j.policy, None, &FragWish::default(), |hash, times| {
            state.insert(hash.to_string(), times);
            ControlFlow::Continue(())
        })?;
        Ok((lock, state))
    })
    .await?;
    let suffixes: BTreeSet<String> = state.keys().filter_map(|h| h.get(29..)).map(str::to_string).collect();
    let suffixes: Vec<String> = suffixes.into_iter().collect();
    let mut safe = state;
    let mut confirmed = 0_usize;
    let mut regions: BTreeSet<u32> = BTreeSet::new();
    for node in job.nodes.iter().filter(|_| !suffixes.is_empty()) {
        stats.synced += 1;
        let again = regions.contains(&node.region) && config.sync == SyncMethod::Ssync;
        let only_check = again.then(|| safe.keys().cloned().collect());
        match job.push(config, node, &suffixes, only_check).await {
            Ok(in_sync) => {
                stats.success += 1;
                confirmed += 1;
                if node.region != job.local.region {
                    regions.insert(node.region);
                }
                if let Some(in_sync) = in_sync {
                    safe.retain(|hash, times| in_sync.get(hash) == Some(times));
                }
            }
            Err(e) => {
                stats.failure += 1;
                job.failed(node, &e);
            }
        }
    }
    let needed = match config.handoff_delete {
        0 => job.nodes.len(),
        n => n.min(job.nodes.len()),
    };
    if !suffixes.is_empty() && (confirmed < needed || needed == 0) {
        return Ok(());
    }
    remove(config, job, safe, stats).await
}

async fn remove(config: &Config, job: &Job, safe: InSync, stats: &mut Stats) -> Result<(), String> {
    let (disks, j) = (config.disks.clone(), job.clone());
    let (objects, partition) = blocking(move || {
        let mut objects = 0;
        for (hash, times) in &safe {
            let times: &ObjectTimes = times;
            objects += u64::from(disks.remove_if_unchanged(&j.local.device, &j.policy, &j.partition, hash, times)?);
        }
        Ok((objects, disks.remove_empty_partition(&j.local.device, &j.policy, &j.partition)?))
    })
    .await?;
    stats.removed_objects += objects;
    stats.removed_partitions += u64::from(partition);
    Ok(())
}
