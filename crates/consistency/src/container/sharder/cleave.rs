//! Copying the rows of a retiring database into its shards, range by range.

use super::Pass;
use super::context::Context;
use crate::container::quote;
use crate::db::{Found, blocking, replicate_container};
use caelum_broker::{
    BrokerError, CONTAINER_DIR, ContainerBroker, DbState, ObjectRow, Result, Rows, ShardQuery, ShardRange, ShardState, cmp_upper,
    storage_directory,
};
use caelum_ring::Device;
use caelum_swiftkit::to_hex;

/// A shard's database on this node.
pub(super) struct Shard {
    pub broker: ContainerBroker,
    pub found: Found,
    pub device: Device,
    /// When this call made it; otherwise it was there.
    pub made: Option<String>,
}

enum Cleft {
    Done,
    /// Nothing was in the range.
    Empty,
    Failed,
}

/// Calls `f` with the rows of a range, live ones first, a batch at a time.
pub(super) fn each_batch(
    source: &ContainerBroker,
    lower: &str,
    upper: &str,
    since: i64,
    batch: usize,
    f: &mut dyn FnMut(Vec<ObjectRow>) -> Result<()>,
) -> Result<()> {
    let end = if upper.is_empty() { String::new() } else { format!("{upper}\0") };
    for rows in [Rows::Live, Rows::Deleted] {
        let mut marker = lower.to_string();
        loop {
            let found = source.get_objects(batch, &marker, &end, rows, since)?;
            let n = found.len();
            if let Some(last) = found.last() {
                marker = last.name.clone();
                f(found)?;
            }
            if n < batch {
                break;
            }
        }
    }
    Ok(())
}

impl Pass<'_> {
    /// Opens or makes a shard's database on one of this node's devices. Blocks.
    pub(super) fn shard_place(&self, range: &ShardRange) -> Result<(Found, Device)> {
        let hash = self.config.swift.hash.container(range.account(), range.container());
        let partition = self.ring.partition(&hash);
        let primaries = self.ring.primaries(partition);
        let device = primaries
            .iter()
            .find_map(|p| self.local.iter().find(|l| l.id == p.id))
            .or_else(|| self.local.iter().find(|d| d.weight > 0.0))
            .or_else(|| self.local.first())
            .cloned()
            .ok_or_else(|| BrokerError::Invalid("no device of the container ring is this node's".into()))?;
        let hash = to_hex(&hash);
        let dir = self.config.devices.join(&device.device);
        let path = dir.join(storage_directory(CONTAINER_DIR, &partition.to_string(), &hash)).join(format!("{hash}.db"));
        Ok((Found { device: device.device.clone(), partition, path }, device))
    }

    pub(super) async fn shard(&self, range: &ShardRange, root: &str, policy: i64) -> Result<Shard> {
        let (found, device) = self.shard_place(range)?;
        let (pool, path, range) = (self.config.pool.clone(), found.path.clone(), range.clone());
        let (root, now) = (quote(root), self.config.now().internal());
        let (broker, made) = blocking(move || {
            // A new database of a range that has an epoch already is named after it.
            let path = match (&range.epoch, path.exists()) {
                (Some(epoch), false) => caelum_broker::with_epoch(&path, Some(&epoch.normal())),
                _ => path,
            };
            let mut broker = ContainerBroker::new(&pool, &path)?;
            let mut made = None;
            if !broker.db().exists() {
                match broker.initialize(range.account(), range.container(), &now, policy) {
                    Ok(()) => made = Some(now.clone()),
                    Err(BrokerError::Exists(_)) => broker.reload()?,
                    Err(e) => return Err(e),
                }
            }
            broker.merge_shard_ranges(vec![range])?;
            broker.set_sharding_sysmeta("Quoted-Root", &root)?;
            let sharding = [("X-Container-Sysmeta-Sharding".to_string(), ("True".to_string(), now))].into();
            broker.db().update_metadata(&sharding, false)?;
            Ok((broker, made))
        })
        .await?;
        Ok(Shard { broker, found, device, made })
    }

    /// One pass over a container that is being sharded. True when everything has been cleaved.
    pub(super) async fn cleave(&self, broker: &ContainerBroker) -> Result<bool> {
        let b = broker.clone();
        let (mut context, source, own) = blocking(move || {
            let source = b.brokers().first().cloned().unwrap_or_else(|| b.clone());
            Ok((Context::load(&b)?, source, b.recorded_own_range()?))
        })
        .await?;
        if !context.misplaced_done {
            let outside = own.as_ref().map(super::stray::outside).unwrap_or_default();
            context.misplaced_done = self.move_strays(broker, &source, Some(outside)).await?;
            store(broker, &context).await?;
        }
        if context.cleaving_done {
            return Ok(context.misplaced_done);
        }
        let Some(mut own) = own else { return Ok(false) };
        let (b, marker) = (broker.clone(), format!("{}\0", context.cursor));
        let todo: Vec<ShardRange> = blocking(move || b.shard_ranges(&ShardQuery { marker, ..ShardQuery::default() }))
            .await?
            .into_iter()
            .filter(|r| r.state != ShardState::Shrinking)
            .collect();
        if context.cursor.is_empty() {
            context.start(&own.lower);
        }
        context.ranges_todo = i64::try_from(todo.len()).unwrap_or(0);
        let mut done = 0;
        for range in todo {
            if context.cleaving_done || done == self.sharder.cleave_batch || range.lower > context.cursor {
                break;
            }
            if !matches!(range.state, ShardState::Created | ShardState::Cleaved | ShardState::Active) {
                break;
            }
            match self.cleave_range(broker, &source, &mut context, range, &mut own).await? {
                Cleft::Done => done += 1,
                Cleft::Empty => {}
                Cleft::Failed => {
                    self.count(|s| s.cleave_failures += 1);
                    break;
                }
            }
        }
        store(broker, &context).await?;
        Ok(context.misplaced_done && context.cleaving_done)
    }

    async fn cleave_range(
        &self,
        broker: &ContainerBroker,
        source: &ContainerBroker,
        context: &mut Context,
        range: ShardRange,
        own: &mut ShardRange,
    ) -> Result<Cleft> {
        let b = broker.clone();
        let (root, policy) = blocking(move || Ok((b.root_path()?, b.storage_policy_index()?))).await?;
        let (state, shard) = (range.state, self.shard(&range, &root, policy).await?);
        let empty = self.copy(source, &shard, &range, context.last_cleave_to_row).await?;
        let (b, dest, now, own_copy) = (broker.clone(), shard.broker.clone(), self.config.now(), own.clone());
        let (range, own_new) = blocking(move || settle(&b, &dest, range, own_copy, now)).await?;
        *own = own_new;
        if empty {
            let (b, pool) = (shard.broker.clone(), self.config.pool.clone());
            blocking(move || discard(&b, &pool)).await?;
        } else {
            let answers = replicate_container(self.config, &shard.found, &shard.device).await?;
            let good = answers.iter().filter(|a| **a).count();
            let all = !answers.is_empty() && good == answers.len();
            if !all && good < self.quorum(state) {
                tracing::warn!(shard = range.name, good, "cleaved shard is not on enough nodes yet");
                return Ok(Cleft::Failed);
            }
            self.count(|s| s.ranges_cleaved += 1);
        }
        context.range_done(&range.upper);
        context.cleaving_done = cmp_upper(&range.upper, &own.upper).is_ge();
        let b = broker.clone();
        blocking(move || b.merge_shard_ranges(vec![range])).await?;
        store(broker, context).await?;
        Ok(if empty { Cleft::Empty } else { Cleft::Done })
    }

    /// Copies a range's rows. True when there were none and the shard is a new one.
    async fn copy(&self, source: &ContainerBroker, shard: &Shard, range: &ShardRange, last: Option<i64>) -> Result<bool> {
        let (source, dest, range, batch) = (source.clone(), shard.broker.clone(), range.clone(), self.sharder.cleave_rows);
        let made = shard.made.clone();
        blocking(move || {
            let id = source.get_info()?.id;
            let max_row = source.db().max_row(None)?;
            let synced = dest.db().get_sync(&id, true)?;
            if synced >= max_row && max_row != -1 {
                return Ok(false);
            }
            let since = last.unwrap_or(-1).max(synced);
            let mut any = false;
            each_batch(&source, &range.lower, &range.upper, since, batch, &mut |rows| {
                any = true;
                dest.merge_items(rows, None)
            })?;
            let mut points = vec![(id, max_row)];
            points.extend(source.db().get_syncs(true)?.into_iter().map(|p| (p.remote_id, p.sync_point)));
            dest.db().merge_syncs(&points, true)?;
            Ok(!any && made.is_some() && Some(dest.get_info()?.put_timestamp) == made)
        })
        .await
    }
}

/// Records on both sides what the copying has made of the range.
fn settle(
    broker: &ContainerBroker,
    shard: &ContainerBroker,
    mut range: ShardRange,
    mut own: ShardRange,
    now: caelum_swiftkit::Timestamp,
) -> Result<(ShardRange, ShardRange)> {
    if matches!(own.state, ShardState::Shrinking | ShardState::Shrunk) {
        if range.includes(&own) {
            if own.update_state(ShardState::Shrunk, None) {
                own.set_deleted(now);
                broker.merge_shard_ranges(vec![own.clone()])?;
            }
            // The acceptor tells the root for the shard that is no more.
            shard.merge_shard_ranges(vec![own.clone()])?;
        }
    } else if range.state == ShardState::Created {
        let info = shard.get_info()?;
        range.update_meta(info.object_count, info.bytes_used, now);
        range.update_state(ShardState::Cleaved, None);
        shard.merge_shard_ranges(vec![range.clone()])?;
    }
    Ok((range, own))
}

async fn store(broker: &ContainerBroker, context: &Context) -> Result<()> {
    let (b, c) = (broker.clone(), context.clone());
    blocking(move || if b.db_state()? == DbState::Sharding { c.store(&b) } else { Ok(()) }).await
}

/// Removes a shard's new database that nothing went into.
fn discard(broker: &ContainerBroker, pool: &caelum_broker::Pool) -> Result<()> {
    let dir = broker.db().dir().to_path_buf();
    let _lock = caelum_broker::lock_directory(&dir, caelum_broker::PENDING_TIMEOUT)?;
    pool.forget(&dir);
    std::fs::remove_dir_all(&dir).map_err(|e| BrokerError::Io(dir, e))
}
