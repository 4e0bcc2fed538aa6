//! Keeps the fragments of erasure-coded objects complete and where they belong.
//!
//! A node that holds its own fragment looks after three others: its neighbours in the ring's order and the node
//! opposite. Where those lack an object, their fragment is computed from k others and sent. Fragments that are not this
//! node's go to the node they belong to and are removed once it has them. Tombstones travel with them.

use super::fetch::Rebuilder;
use super::node::RemoteHashes;
use super::ssync::{InSync, Rebuild};
use super::{Config, all, blocking, node, ssync};
use crate::recon::Times;
use caelum_diskfile::{DiskError, FragWish, Hashes, Look, ObjectTimes, SuffixHash, lock_dir};
use caelum_erasure::Codec;
use caelum_ring::{Device, Ring};
use caelum_swiftkit::{PolicyKind, StoragePolicy};
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Partitions looked at.
    pub attempted: u64,
    /// Nodes found or made complete.
    pub success: u64,
    pub failure: u64,
    pub suffix_sync: u64,
    /// Fragments and tombstones removed after they were handed over.
    pub reverted: u64,
    pub removed_partitions: u64,
    /// Sets of fragments that do not belong here and stay for now.
    pub handoffs_remaining: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.attempted += o.attempted;
        self.success += o.success;
        self.failure += o.failure;
        self.suffix_sync += o.suffix_sync;
        self.reverted += o.reverted;
        self.removed_partitions += o.removed_partitions;
        self.handoffs_remaining += o.handoffs_remaining;
    }
}

/// An erasure-coded policy with what its work needs.
#[derive(Clone)]
struct Scheme {
    policy: Arc<StoragePolicy>,
    codec: Arc<Codec>,
    segment_size: u64,
    /// k + m: positions in the ring beyond hold copies.
    unique: usize,
    duplication: usize,
    ring: Arc<Ring>,
}

#[derive(Clone)]
struct Job {
    scheme: Scheme,
    local: Device,
    partition: String,
    number: u32,
}

async fn one_pass(config: &Config) -> Stats {
    let mut jobs = Vec::new();
    for scheme in schemes(config) {
        for local in config.local_devices(&scheme.ring) {
            let (disks, policy, device) = (config.disks.clone(), scheme.policy.clone(), local.device.clone());
            match blocking(move || disks.partitions(&device, &policy)).await {
                Ok(partitions) => jobs.extend(partitions.into_iter().filter_map(|partition| {
                    let number = partition.parse().ok().filter(|n| *n < scheme.ring.partition_count() && config.wants_partition(*n))?;
                    if config.handoffs_only && scheme.ring.primaries(number).iter().any(|d| d.id == local.id) {
                        return None;
                    }
                    Some(Job { scheme: scheme.clone(), local: local.clone(), partition, number })
                })),
                Err(e) => tracing::warn!(device = local.device, error = e, "not reconstructing from this device"),
            }
        }
    }
    for i in (1..jobs.len()).rev() {
        jobs.swap(i, config.env.rng.below(i as u64 + 1) as usize);
    }
    all(jobs, config.concurrency, |job| async move {
        if config.is_current(&job.scheme.policy, &job.scheme.ring) { partition(config, &job).await } else { Stats::default() }
    })
    .await
}

/// One pass over all partitions of all erasure-coded policies.
pub async fn run_once(config: &Config) -> Stats {
    let figures =
        |_: &Stats, t: &Times| serde_json::json!({ "object_reconstruction_time": t.minutes(), "object_reconstruction_last": t.end });
    config.figures().noted(one_pass(config), figures).await
}

/// Passes until `stop`.
pub async fn run_forever(config: Config, stop: watch::Receiver<bool>) {
    let report = |s: Stats| tracing::info!(?s, "object reconstruction pass");
    super::forever(config.interval, stop, || run_once(&config), report).await;
}

fn schemes(config: &Config) -> Vec<Scheme> {
    let mut out = Vec::new();
    for policy in config.policies() {
        let PolicyKind::ErasureCoding { ec_type, data, parity, segment_size, duplication } = &policy.kind else { continue };
        let Some(ring) = config.rings.object(policy.index).filter(|r| r.next_part_power.is_none()) else { continue };
        match Codec::new(ec_type, *data, *parity) {
            Ok(codec) => out.push(Scheme {
                codec: Arc::new(codec),
                segment_size: *segment_size,
                unique: data + parity,
                duplication: (*duplication).max(1),
                ring,
                policy: policy.clone(),
            }),
            Err(e) => tracing::error!(policy = policy.name, error = %e, "not reconstructing"),
        }
    }
    out
}

impl Job {
    async fn hashes(&self, config: &Config, recalculate: Vec<String>, list: bool) -> Result<Hashes, String> {
        let (disks, job) = (config.disks.clone(), self.clone());
        blocking(move || disks.get_hashes(&job.local.device, &job.partition, &recalculate, &job.scheme.policy, list)).await
    }

    fn primaries(&self) -> Vec<Device> {
        self.scheme.ring.primaries(self.number).into_iter().cloned().collect()
    }

    /// The fragment of a position in the ring.
    fn fragment(&self, position: usize) -> u32 {
        (position % self.scheme.unique) as u32
    }

    fn sync_job(&self, suffixes: Vec<String>, wish: FragWish, remote: Option<u32>) -> ssync::Job {
        ssync::Job {
            device: self.local.device.clone(),
            partition: self.partition.clone(),
            policy: self.scheme.policy.clone(),
            suffixes,
            wish,
            remote_fragment: remote,
            only_check: None,
            rebuild: None,
        }
    }

    fn failed(&self, node: &Device, error: &str) {
        tracing::warn!(partition = self.partition, policy = self.scheme.policy.index, node = node.id, error, "reconstruction failed");
    }
}

/// The parts of a suffix's hash that two nodes compare: what all share, and one fragment's.
fn parts(hashes: &Hashes, suffix: &str, fragment: u32) -> (Option<String>, Option<String>) {
    match hashes.get(suffix) {
        Some(SuffixHash::Fragments(map)) => (map.get(&None).cloned(), map.get(&Some(fragment)).cloned()),
        _ => (None, None),
    }
}

async fn partition(config: &Config, job: &Job) -> Stats {
    let mut stats = Stats { attempted: 1, ..Stats::default() };
    let hashes = match job.hashes(config, Vec::new(), true).await {
        Ok(h) => h,
        Err(e) => {
            tracing::warn!(partition = job.partition, device = job.local.device, error = e, "cannot hash a partition");
            stats.failure += 1;
            return stats;
        }
    };
    let mut by_fragment: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut without: Vec<String> = Vec::new();
    for (suffix, hash) in &hashes {
        let SuffixHash::Fragments(map) = hash else { continue };
        let held: Vec<u32> = map.keys().filter_map(|k| *k).collect();
        if held.is_empty() && !map.is_empty() {
            without.push(suffix.clone());
        }
        for fragment in held {
            by_fragment.entry(fragment).or_default().push(suffix.clone());
        }
    }
    let primaries = job.primaries();
    let position = primaries.iter().position(|d| d.id == job.local.id);
    let own = position.map(|p| job.fragment(p));
    if let (Some(position), Some(own)) = (position, own) {
        let mut suffixes = by_fragment.remove(&own).unwrap_or_default();
        suffixes.append(&mut without);
        sync(config, job, &primaries, position, &suffixes, &hashes, &mut stats).await;
    }
    // The rarest first; the first also takes along what has no fragments.
    let mut rest: Vec<(u32, Vec<String>)> = by_fragment.into_iter().collect();
    rest.sort_by_key(|(fragment, suffixes)| (suffixes.len(), *fragment));
    for (fragment, mut suffixes) in rest {
        suffixes.append(&mut without);
        let to: Vec<(Device, u32)> = (0..job.scheme.duplication)
            .filter_map(|n| Some((primaries.get(fragment as usize + n * job.scheme.unique)?.clone(), fragment)))
            .collect();
        revert(config, job, Some(fragment), suffixes, to, own.is_some(), &mut stats).await;
    }
    if !without.is_empty() && own.is_none() {
        // Only tombstones: enough nodes that no k are left without one.
        let sample = job.scheme.unique * job.scheme.duplication - job.scheme.codec.data() + 1;
        let to = primaries.iter().take(sample).enumerate().map(|(p, d)| (d.clone(), job.fragment(p))).collect();
        revert(config, job, None, without, to, false, &mut stats).await;
    }
    if own.is_none() && stats.handoffs_remaining == 0 {
        let (disks, j) = (config.disks.clone(), job.clone());
        let removed = blocking(move || disks.remove_empty_partition(&j.local.device, &j.scheme.policy, &j.partition)).await;
        stats.removed_partitions += u64::from(removed.unwrap_or(false));
    }
    stats
}

/// Looks after the neighbours and the node opposite.
async fn sync(config: &Config, job: &Job, primaries: &[Device], position: usize, suffixes: &[String], hashes: &Hashes, stats: &mut Stats) {
    let n = primaries.len();
    let mut partners = vec![(position + n - 1) % n, (position + 1) % n, (position + n / 2) % n];
    partners.sort_unstable();
    partners.dedup();
    let own = job.fragment(position);
    for partner in partners.into_iter().filter(|p| *p != position) {
        match sync_partner(config, job, primaries, own, partner, suffixes, hashes).await {
            Ok(sent) => {
                stats.success += 1;
                stats.suffix_sync += sent as u64;
            }
            Err(e) => {
                stats.failure += 1;
                job.failed(&primaries[partner], &e);
            }
        }
    }
}

/// Gives the number of suffixes that were sent.
async fn sync_partner(
    config: &Config,
    job: &Job,
    primaries: &[Device],
    own: u32,
    partner: usize,
    suffixes: &[String],
    hashes: &Hashes,
) -> Result<usize, String> {
    let fragment = job.fragment(partner);
    let (target, remote) = remote_hashes(config, job, &primaries[partner], fragment).await?;
    let differs = |local: &Hashes, suffix: &String| {
        let (shared, mine) = parts(local, suffix, own);
        let (their_shared, theirs) = parts(&remote, suffix, fragment);
        shared != their_shared || mine != theirs
    };
    let stale: Vec<String> = suffixes.iter().filter(|s| differs(hashes, s)).cloned().collect();
    if stale.is_empty() {
        return Ok(0);
    }
    let fresh = job.hashes(config, stale.clone(), false).await?;
    let stale: Vec<String> = stale.into_iter().filter(|s| fresh.contains_key(s) && differs(&fresh, s)).collect();
    if stale.is_empty() {
        return Ok(0);
    }
    let rebuilder = Rebuilder {
        config: config.clone(),
        policy: job.scheme.policy.clone(),
        codec: job.scheme.codec.clone(),
        segment_size: job.scheme.segment_size,
        partition: job.partition.clone(),
        nodes: primaries.to_vec(),
        target: target.id,
        index: fragment,
    };
    let count = stale.len();
    let mut sync_job = job.sync_job(stale, FragWish { index: Some(own), prefs: None }, Some(fragment));
    sync_job.rebuild = Some(Arc::new(rebuilder) as Arc<dyn Rebuild>);
    ssync::sync(config, &target, &sync_job).await?;
    Ok(count)
}

/// The partner's hashes, or those of a handoff that stands in while its device is gone: the one whose place among the
/// handoffs is that of the fragment, so that not all nodes choose the same.
async fn remote_hashes(config: &Config, job: &Job, partner: &Device, fragment: u32) -> Result<(Device, Hashes), String> {
    let ask = |d: Device| async move {
        let hashes = node::hashes(config, &d, &job.partition, job.scheme.policy.index).await?;
        Ok::<_, String>((d, hashes))
    };
    if let (d, RemoteHashes::Hashes(h)) = ask(partner.clone()).await? {
        return Ok((d, h));
    }
    let limit = usize::try_from(config.rebuild_handoff_node_count).unwrap_or(usize::MAX);
    let stand_ins = job.scheme.ring.handoffs(job.number).enumerate().filter(|(i, _)| job.fragment(*i) == fragment).take(limit);
    for d in stand_ins.map(|(_, d)| d.clone()).filter(|d| d.id != job.local.id).collect::<Vec<_>>() {
        if let (d, RemoteHashes::Hashes(h)) = ask(d).await? {
            return Ok((d, h));
        }
    }
    Err("no node has a device for this fragment".into())
}

/// Sends fragments to where they belong and removes them here.
async fn revert(
    config: &Config,
    job: &Job,
    fragment: Option<u32>,
    suffixes: Vec<String>,
    to: Vec<(Device, u32)>,
    is_primary: bool,
    stats: &mut Stats,
) {
    let (disks, j) = (config.disks.clone(), job.clone());
    let lock = blocking(move || {
        let dir = disks.partition_path(&j.local.device, &j.scheme.policy, &j.partition);
        lock_dir(&dir, "replication", 1, LOCK_TIMEOUT)
    });
    let _lock = match lock.await {
        Ok(l) => l,
        Err(_) => {
            stats.handoffs_remaining += 1;
            return;
        }
    };
    let wish = FragWish { index: fragment, prefs: Some(Vec::new()) };
    let mut in_sync: Option<InSync> = None;
    let mut confirmed = 0;
    for (node, remote) in &to {
        let sync_job = job.sync_job(suffixes.clone(), wish.clone(), Some(*remote));
        match ssync::sync(config, node, &sync_job).await {
            Ok(some) => {
                stats.success += 1;
                confirmed += 1;
                match &mut in_sync {
                    Some(all) => all.retain(|hash, times| some.get(hash) == Some(times)),
                    None => in_sync = Some(some),
                }
            }
            Err(e) => {
                stats.failure += 1;
                job.failed(node, &e);
            }
        }
    }
    if to.is_empty() || confirmed < to.len() {
        stats.handoffs_remaining += 1;
        return;
    }
    let (disks, j, in_sync) = (config.disks.clone(), job.clone(), in_sync.unwrap_or_default());
    let removed = blocking(move || {
        let mut n = 0;
        for (hash, times) in &in_sync {
            match purge(&disks, &j, hash, fragment, times, is_primary) {
                Ok(()) => n += 1,
                Err(DiskError::NotExist) => {}
                Err(e) => tracing::warn!(hash, error = %e, "a fragment was not removed"),
            }
        }
        Ok(n)
    });
    stats.reverted += removed.await.unwrap_or(0);
}

/// Removes what was handed over of one object. Blocks.
fn purge(
    disks: &Arc<caelum_diskfile::Manager>,
    job: &Job,
    hash: &str,
    fragment: Option<u32>,
    times: &ObjectTimes,
    is_primary: bool,
) -> Result<(), DiskError> {
    let look = Look { wish: FragWish { index: fragment, prefs: Some(Vec::new()) }, open_expired: true, next_part_power: None };
    let (object, names) = disks.object_from_hash(&job.local.device, &job.partition, job.scheme.policy.index, hash, look)?;
    let delay = if times.durable == Some(false) { disks.config.commit_window } else { Duration::ZERO };
    let data: Vec<&String> = names.iter().filter(|n| n.ends_with(".data")).collect();
    let of_this = |n: &&&String| n.starts_with(&times.data.internal());
    // The last fragment on a node that is not this object's: its metadata has gone along.
    let last = !is_primary && data.len() <= 1 && data.iter().filter(of_this).count() == data.len();
    object.purge(times.data, fragment, delay, times.meta.filter(|_| last))
}
