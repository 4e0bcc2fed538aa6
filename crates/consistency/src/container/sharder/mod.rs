//! Sharding: a container with very many objects gives them to shard containers, each for a range of names;
//! shards that have become small are merged again. Source: Swift's documentation,
//! `overview_container_sharding`.
//!
//! Every step is recorded in the databases before the next begins, and each may be repeated: ranges are
//! found, containers for them created, rows copied range by range (the cleaving context remembers how
//! far), and only when all rows of the retiring database are in shards that enough nodes hold is it removed.

mod adopt;
mod audit;
mod cleave;
mod context;
mod network;
mod options;
mod shrink;
mod stray;

#[cfg(test)]
mod tests;

use crate::db::{DbDaemonConfig, Found, blocking, replicate_container, walk};
use caelum_broker::{CONTAINER_DIR, ContainerBroker, DbState, Result, ShardQuery, ShardRange, ShardState};
use caelum_ring::{Device, Ring};
use std::sync::{Arc, Mutex};

/// How the sharder is set up beside [`DbDaemonConfig`]. The defaults are upstream's.
#[derive(Clone, Debug)]
pub struct SharderConfig {
    /// Begin sharding and shrinking without being told to, on the first primary of a container.
    pub auto_shard: bool,
    /// Objects from which a container is sharded.
    pub threshold: i64,
    /// Objects in a new shard.
    pub rows_per_shard: i64,
    /// The last shard has at least so many.
    pub minimum_shard_size: i64,
    /// Rows below which a shard is merged with its neighbour.
    pub shrink_threshold: i64,
    /// Rows that a shard may have after such a merge.
    pub expansion_limit: i64,
    /// Shards that are merged into one at the same time.
    pub max_shrinking: usize,
    /// Merges in one pass; `None`: any number.
    pub max_expanding: Option<usize>,
    /// Ranges found in one pass.
    pub scanner_batch: usize,
    /// Ranges cleaved in one pass.
    pub cleave_batch: usize,
    /// Rows copied at a time.
    pub cleave_rows: usize,
    /// Replicas that must hold a new shard before its rows count as moved; `None`: a quorum.
    pub quorum: Option<usize>,
    /// The same of shards that were there before.
    pub existing_quorum: Option<usize>,
}

impl Default for SharderConfig {
    fn default() -> Self {
        let threshold = 1_000_000;
        Self {
            auto_shard: false,
            threshold,
            rows_per_shard: threshold / 2,
            minimum_shard_size: threshold / 10,
            shrink_threshold: threshold / 10,
            expansion_limit: threshold / 4 * 3,
            max_shrinking: 1,
            max_expanding: None,
            scanner_batch: 10,
            cleave_batch: 2,
            cleave_rows: 10_000,
            quorum: None,
            existing_quorum: None,
        }
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharderStats {
    /// Containers in the process of sharding or sharded.
    pub visited: u64,
    pub failed: u64,
    /// Roots whose ranges have gaps or overlaps; left alone.
    pub faulty: u64,
    pub ranges_found: u64,
    pub shards_created: u64,
    pub ranges_cleaved: u64,
    pub cleave_failures: u64,
    /// Containers whose sharding was completed.
    pub completed: u64,
    /// Rows moved to the shard they belong to.
    pub misplaced_placed: u64,
    pub misplaced_unplaced: u64,
    /// Sequences of shards being merged.
    pub shrinking: u64,
}

/// One pass over this node's containers.
pub async fn shard_containers(config: &DbDaemonConfig, sharder: &SharderConfig) -> SharderStats {
    let ring = config.rings.container();
    let local = config.local_devices(&ring);
    let names = local.iter().map(|d| d.device.clone()).collect();
    let mut found = walk(config, names, CONTAINER_DIR);
    let pass = Pass { config, sharder, ring, local: &local, stats: Mutex::default() };
    while let Some(found) = found.recv().await {
        let Some(device) = local.iter().find(|d| d.device == found.device) else { continue };
        if let Err(e) = pass.visit(&found, device).await {
            tracing::error!(file = %found.path.display(), error = %e, "sharding");
            pass.count(|s| s.failed += 1);
        }
    }
    pass.stats.into_inner().expect("no holder of this lock panics")
}

struct Pass<'a> {
    config: &'a DbDaemonConfig,
    sharder: &'a SharderConfig,
    ring: Arc<Ring>,
    local: &'a [Device],
    stats: Mutex<SharderStats>,
}

/// Operator's or parent's wish, or shards are there already.
fn enabled(broker: &ContainerBroker) -> Result<bool> {
    let metadata = broker.metadata()?;
    let wish = metadata.get("X-Container-Sysmeta-Sharding").map(|(v, _)| v.to_ascii_lowercase()).unwrap_or_default();
    if matches!(wish.as_str(), "true" | "1" | "yes" | "on" | "t" | "y") {
        return Ok(true);
    }
    broker.has_other_shard_ranges()
}

impl Pass<'_> {
    fn count(&self, f: impl FnOnce(&mut SharderStats)) {
        f(&mut self.stats.lock().expect("no holder of this lock panics"));
    }

    /// How many replicas must hold a shard.
    fn quorum(&self, state: ShardState) -> usize {
        let wanted = if state == ShardState::Created { self.sharder.quorum } else { self.sharder.existing_quorum };
        let n = self.ring.replica_count();
        wanted.map_or_else(|| caelum_swiftkit::quorum_size(n), |q| q.min(n))
    }

    async fn visit(&self, found: &Found, device: &Device) -> Result<()> {
        let (pool, path) = (self.config.pool.clone(), found.path.clone());
        let opened = blocking(move || {
            let broker = ContainerBroker::new(&pool, &path)?;
            broker.commit_pending()?;
            Ok(enabled(&broker)?.then_some(broker))
        });
        let Some(broker) = opened.await? else { return Ok(()) };
        self.count(|s| s.visited += 1);
        let leads = self.sharder.auto_shard && self.ring.primaries(found.partition).first().is_some_and(|first| first.id == device.id);
        let young = self.config.now().minus(self.config.reclaim_age);
        let (broker, root, deleted, faults) = blocking(move || {
            context::forget_old(&broker, young)?;
            let (root, deleted) = (broker.is_root()?, broker.is_deleted()?);
            let faults = if root && !deleted { audit::faults(&broker, young)? } else { Vec::new() };
            Ok((broker, root, deleted, faults))
        })
        .await?;
        if !faults.is_empty() {
            tracing::warn!(file = %found.path.display(), faults = faults.join(", "), "nothing is done to a root whose ranges are wrong");
            self.count(|s| s.faulty += 1);
            return Ok(());
        }
        if !root && !deleted {
            self.learn_from_root(&broker).await?;
        }
        self.move_strays(&broker, &broker, None).await?;
        let (broker, state) = self.advance(broker, root, leads && !deleted).await?;
        let (broker, state) = match state {
            DbState::Sharding => self.cleave_container(broker, found, device, leads && !deleted).await?,
            other => (broker, other),
        };
        if deleted {
            return Ok(());
        }
        if root && state == DbState::Sharded {
            self.tend_shards(&broker, leads).await?;
        } else if !root {
            self.report_to_root(&broker).await?;
        }
        Ok(())
    }

    /// Decides to shard, and opens the fresh database.
    async fn advance(&self, mut broker: ContainerBroker, root: bool, leads: bool) -> Result<(ContainerBroker, DbState)> {
        let (threshold, now) = (self.sharder.threshold, self.config.now());
        blocking(move || {
            let state = broker.db_state()?;
            if !matches!(state, DbState::Unsharded | DbState::Collapsed) {
                return Ok((broker, state));
            }
            let mut own = broker.own_shard_range()?;
            if root && leads && own.state == ShardState::Active {
                let info = broker.get_info()?;
                own.update_meta(info.object_count, info.bytes_used, now);
                if own.object_count >= threshold {
                    own.update_state(ShardState::Sharding, Some(now));
                    own.epoch = Some(now);
                    broker.merge_shard_ranges(vec![own.clone()])?;
                }
            }
            let ready = ShardState::CLEAVING.contains(&own.state) && (leads || broker.has_other_shard_ranges()?);
            if ready && broker.set_sharding_state()? {
                tracing::info!(file = %broker.db().file().display(), state = own.state.name(), "sharding begins");
                return Ok((broker, DbState::Sharding));
            }
            Ok((broker, state))
        })
        .await
    }

    /// One pass of cleaving: finds ranges (on the leader), creates their containers, copies rows.
    async fn cleave_container(
        &self,
        broker: ContainerBroker,
        found: &Found,
        device: &Device,
        leads: bool,
    ) -> Result<(ContainerBroker, DbState)> {
        let ranges_found = if leads { self.find_ranges(&broker).await? } else { 0 };
        let created = self.create_shards(&broker).await?;
        if ranges_found + created > 0
            && let Err(e) = replicate_container(self.config, found, device).await
        {
            tracing::warn!(error = %e, "new shard ranges wait for replication");
        }
        if !self.cleave(&broker).await? {
            return Ok((broker, DbState::Sharding));
        }
        self.complete(broker).await
    }

    async fn find_ranges(&self, broker: &ContainerBroker) -> Result<usize> {
        let (b, s, now) = (broker.clone(), self.sharder.clone(), self.config.now());
        let n = blocking(move || {
            let own = b.own_shard_range()?;
            let existing = b.shard_ranges(&ShardQuery::default())?;
            let reached = |r: &ShardRange| caelum_broker::cmp_upper(&r.upper, &own.upper).is_ge();
            if existing.last().is_some_and(reached) {
                return Ok(0);
            }
            let (found, _) = b.find_shard_ranges(s.rows_per_shard, Some(s.scanner_batch), &existing, s.minimum_shard_size)?;
            let (root, path) = (b.root_path()?, b.path()?);
            let (root_account, root_container) = root.split_once('/').unwrap_or((&root, ""));
            let parent = path.split_once('/').map_or("", |(_, c)| c);
            let account = format!(".shards_{root_account}");
            let ranges: Vec<ShardRange> = found
                .iter()
                .map(|f| {
                    let name = ShardRange::make_path(&account, root_container, parent, now, f.index);
                    let mut range = ShardRange::new(name, now, &f.lower, &f.upper);
                    range.object_count = f.object_count;
                    range
                })
                .collect();
            let n = ranges.len();
            b.merge_shard_ranges(ranges)?;
            Ok(n)
        })
        .await?;
        self.count(|s| s.ranges_found += n as u64);
        Ok(n)
    }

    async fn complete(&self, mut broker: ContainerBroker) -> Result<(ContainerBroker, DbState)> {
        let now = self.config.now();
        let (broker, state) = blocking(move || {
            let mut context = context::Context::load(&broker)?;
            if !context.done() {
                tracing::info!(file = %broker.db().file().display(), "rows came in while cleaving: once more");
                context.reset();
                context.store(&broker)?;
                return Ok((broker, DbState::Sharding));
            }
            let Some(mut own) = broker.recorded_own_range()? else { return Ok((broker, DbState::Sharding)) };
            own.update_meta(0, 0, now);
            let mut changed = Vec::new();
            if matches!(own.state, ShardState::Shrinking | ShardState::Shrunk) {
                own.update_state(ShardState::Shrunk, None);
            } else {
                own.update_state(ShardState::Sharded, None);
                let cleaved = ShardQuery { states: vec![ShardState::Cleaved], ..ShardQuery::default() };
                changed = broker.shard_ranges(&cleaved)?;
                for range in &mut changed {
                    range.update_state(ShardState::Active, None);
                }
            }
            if !broker.is_root()? && !own.deleted {
                own.set_deleted(now);
                (own.meta_timestamp, own.state_timestamp) = (now, now);
            }
            changed.push(own);
            broker.merge_shard_ranges(changed)?;
            let done = broker.set_sharded_state()?;
            Ok((broker, if done { DbState::Sharded } else { DbState::Sharding }))
        })
        .await?;
        if state == DbState::Sharded {
            tracing::info!(file = %broker.db().file().display(), "sharding completed");
            self.count(|s| s.completed += 1);
        }
        Ok((broker, state))
    }
}
