//! Rows that lie in the wrong container: they came to a shard outside its range, or to a container that
//! has given its names away already.

use super::Pass;
use super::cleave::each_batch;
use super::context::Context;
use crate::container::quote;
use crate::db::{blocking, replicate_container};
use caelum_broker::{ContainerBroker, DbState, Result, Rows, ShardQuery, ShardRange, ShardState, cmp_upper};

/// Names before and after a range, as (lower, upper).
pub(super) fn outside(own: &ShardRange) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if !own.lower.is_empty() {
        out.push((String::new(), own.lower.clone()));
    }
    if !own.upper.is_empty() {
        out.push((own.upper.clone(), String::new()));
    }
    out
}

/// Where rows would be misplaced.
fn bounds(broker: &ContainerBroker) -> Result<Vec<(String, String)>> {
    let own = broker.own_shard_range()?;
    match broker.db_state()? {
        DbState::Sharded => return Ok(vec![(String::new(), String::new())]),
        DbState::Sharding => {
            let context = Context::load(broker)?;
            if !context.cursor.is_empty() {
                let mut out = vec![(String::new(), context.cursor)];
                if !own.upper.is_empty() {
                    out.push((own.upper, String::new()));
                }
                return Ok(out);
            }
        }
        _ => {}
    }
    Ok(outside(&own))
}

impl Pass<'_> {
    /// Moves rows of `source` that belong to other containers. Without `bounds`, looks where the state of
    /// `broker` allows none. True when none is left.
    pub(super) async fn move_strays(
        &self,
        broker: &ContainerBroker,
        source: &ContainerBroker,
        within: Option<Vec<(String, String)>>,
    ) -> Result<bool> {
        let (b, s) = (broker.clone(), source.clone());
        let strays = blocking(move || {
            let within = match within {
                Some(w) => w,
                None => bounds(&b)?,
            };
            let mut out = Vec::new();
            for (lower, upper) in within {
                let end = if upper.is_empty() { String::new() } else { format!("{upper}\0") };
                let any = |rows| Ok::<_, caelum_broker::BrokerError>(!s.get_objects(1, &lower, &end, rows, 0)?.is_empty());
                if any(Rows::Live)? || any(Rows::Deleted)? {
                    out.push((lower, upper));
                }
            }
            Ok(out)
        })
        .await?;
        let mut all = true;
        for (lower, upper) in strays {
            all &= self.move_range(broker, source, &lower, &upper).await?;
        }
        Ok(all)
    }

    async fn move_range(&self, broker: &ContainerBroker, source: &ContainerBroker, lower: &str, upper: &str) -> Result<bool> {
        let end = if upper.is_empty() { String::new() } else { format!("{upper}\0") };
        let (b, marker, end_marker) = (broker.clone(), lower.to_string(), end.clone());
        let (root, path, policy, known) = blocking(move || {
            let q = ShardQuery { marker, end_marker, states: ShardState::UPDATING.to_vec(), ..ShardQuery::default() };
            let known = if b.is_root()? { Some(b.shard_ranges(&q)?) } else { None };
            Ok((b.root_path()?, b.path()?, b.storage_policy_index()?, known))
        })
        .await?;
        let ranges = match known {
            Some(ranges) => ranges,
            None => {
                let quoted = |t: &str| quote(t).replace('/', "%2F");
                let query = format!("&states=updating&marker={}&end_marker={}", quoted(lower), quoted(&end));
                match self.fetch_ranges(&root, &query, false).await {
                    Some(ranges) => ranges,
                    None => return Ok(false),
                }
            }
        };
        let (mut all, mut from) = (true, lower.to_string());
        for range in ranges {
            // `from` is a lower bound: empty, it is before all names.
            if range.name == path || range.upper <= from && !range.upper.is_empty() {
                continue;
            }
            let start = from.as_str().max(range.lower.as_str()).to_string();
            let stop = if cmp_upper(&range.upper, upper).is_lt() { range.upper.clone() } else { upper.to_string() };
            if !stop.is_empty() && start >= stop {
                continue;
            }
            all &= self.move_to(source, &root, policy, &range, (&start, &stop)).await?;
            if range.upper.is_empty() {
                break;
            }
            from = range.upper;
        }
        let (s, lower, upper) = (source.clone(), lower.to_string(), upper.to_string());
        let left = blocking(move || {
            let mut n = 0u64;
            each_batch(&s, &lower, &upper, 0, 1_000, &mut |rows| {
                n += rows.len() as u64;
                Ok(())
            })?;
            Ok(n)
        })
        .await?;
        self.count(|s| s.misplaced_unplaced += left);
        Ok(all && left == 0)
    }

    /// Copies rows to a shard, has it replicated, and only then removes them here.
    async fn move_to(
        &self,
        source: &ContainerBroker,
        root: &str,
        policy: i64,
        range: &ShardRange,
        (lower, upper): (&str, &str),
    ) -> Result<bool> {
        let shard = self.shard(range, root, policy).await?;
        let (s, dest, batch) = (source.clone(), shard.broker.clone(), self.sharder.cleave_rows);
        let (l, u) = (lower.to_string(), upper.to_string());
        let (n, max_row, id) = blocking(move || {
            let (max_row, id) = (s.db().max_row(None)?, s.get_info()?.id);
            let mut n = 0u64;
            each_batch(&s, &l, &u, 0, batch, &mut |rows| {
                n += rows.len() as u64;
                dest.merge_items(rows, None)
            })?;
            Ok((n, max_row, id))
        })
        .await?;
        if n == 0 {
            return Ok(true);
        }
        let answers = replicate_container(self.config, &shard.found, &shard.device).await?;
        let good = answers.iter().filter(|a| **a).count();
        if good < answers.len() && good < self.quorum(ShardState::Active) {
            tracing::warn!(shard = range.name, "misplaced rows are not on enough nodes yet");
            return Ok(false);
        }
        let (s, l, u) = (source.clone(), lower.to_string(), upper.to_string());
        let removed = blocking(move || {
            // Another copy of the database may have taken its place meanwhile: then nothing is certain.
            if s.get_info()?.id != id {
                return Ok(false);
            }
            s.remove_objects(&l, &u, Some(max_row)).map(|()| true)
        })
        .await?;
        if removed {
            self.count(|s| s.misplaced_placed += n);
        }
        Ok(removed)
    }
}
