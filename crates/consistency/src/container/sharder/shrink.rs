//! What the root of a sharded container sees to: shards that have grown are sharded again, small ones are
//! merged into a neighbour, or into the root when all of them are small.

use super::{Pass, SharderConfig};
use crate::db::blocking;
use caelum_broker::{ContainerBroker, Result, ShardQuery, ShardRange, ShardState, cmp_upper};

fn small(range: &ShardRange, c: &SharderConfig) -> bool {
    matches!(range.state, ShardState::Active | ShardState::Shrinking)
        && range.row_count() < c.shrink_threshold
        && range.row_count() <= c.expansion_limit
}

/// Neighbouring ranges whose last takes over the others: (donors, acceptor).
pub(super) fn sequences(ranges: &[ShardRange], own: &ShardRange, c: &SharderConfig) -> Vec<(Vec<ShardRange>, ShardRange)> {
    let (mut out, mut index, mut expanding) = (Vec::new(), 0, 0);
    while c.max_expanding.is_none_or(|m| expanding < m) && index < ranges.len() {
        let Some(first) = ranges.get(index).filter(|r| small(r, c)) else {
            index += 1;
            continue;
        };
        let mut sequence = vec![first.clone()];
        for next in &ranges[index + 1..] {
            let end = &sequence[sequence.len() - 1].upper;
            let gap = cmp_upper(end, &next.lower).is_lt() && !end.is_empty();
            if gap || !matches!(next.state, ShardState::Active | ShardState::Shrinking) {
                break;
            }
            let rows: i64 = sequence.iter().map(ShardRange::row_count).sum();
            if next.state == ShardState::Shrinking {
                sequence.push(next.clone());
            } else if rows + next.row_count() <= c.expansion_limit {
                sequence.push(next.clone());
                if complete(&sequence, c) {
                    break;
                }
            } else {
                break;
            }
        }
        index += sequence.len();
        let whole = sequence.len() == ranges.len() && !complete(&sequence, c);
        let covers = sequence.first().is_some_and(|f| f.lower <= own.lower)
            && sequence.last().is_some_and(|l| cmp_upper(&l.upper, &own.upper).is_ge());
        if whole && covers {
            sequence.push(own.clone());
        }
        let Some(acceptor) = sequence.pop() else { continue };
        if sequence.is_empty() || !matches!(acceptor.state, ShardState::Active | ShardState::Sharded) {
            continue;
        }
        expanding += 1;
        out.push((sequence, acceptor));
    }
    out
}

fn complete(sequence: &[ShardRange], c: &SharderConfig) -> bool {
    let rows: i64 = sequence.iter().map(ShardRange::row_count).sum();
    sequence.last().is_some_and(|l| !small(l, c)) || c.max_shrinking > 0 && sequence.len() > c.max_shrinking || rows >= c.expansion_limit
}

impl Pass<'_> {
    pub(super) async fn tend_shards(&self, broker: &ContainerBroker, leads: bool) -> Result<()> {
        if leads {
            self.shrink(broker).await?;
            self.shard_large(broker).await?;
        }
        let b = broker.clone();
        let q = ShardQuery { states: vec![ShardState::Sharding], ..ShardQuery::default() };
        for range in blocking(move || b.shard_ranges(&q)).await? {
            self.send_ranges(&range.name, std::slice::from_ref(&range), &[]).await;
        }
        Ok(())
    }

    async fn shard_large(&self, broker: &ContainerBroker) -> Result<()> {
        let (b, threshold, now) = (broker.clone(), self.sharder.threshold, self.config.now());
        blocking(move || {
            let q = ShardQuery { states: vec![ShardState::Active], ..ShardQuery::default() };
            let mut large: Vec<ShardRange> = b.shard_ranges(&q)?;
            large.retain(|r| r.object_count >= threshold);
            for range in &mut large {
                range.update_state(ShardState::Sharding, Some(now));
                range.epoch = Some(now);
            }
            b.merge_shard_ranges(large)
        })
        .await
    }

    async fn shrink(&self, broker: &ContainerBroker) -> Result<()> {
        let (b, c, now) = (broker.clone(), self.sharder.clone(), self.config.now());
        let (merges, own_name) = blocking(move || {
            let own = b.own_shard_range()?;
            let mut merges = sequences(&b.shard_ranges(&ShardQuery::default())?, &own, &c);
            let mut changed = Vec::new();
            for (donors, acceptor) in &mut merges {
                if acceptor.expand(donors.iter()) {
                    acceptor.timestamp = now;
                }
                if acceptor.update_state(ShardState::Active, None) {
                    acceptor.state_timestamp = now;
                }
                for donor in donors.iter_mut() {
                    if donor.update_state(ShardState::Shrinking, None) {
                        (donor.state_timestamp, donor.epoch) = (now, Some(now));
                    }
                }
                changed.push(acceptor.clone());
                changed.extend(donors.iter().cloned());
            }
            b.merge_shard_ranges(changed)?;
            Ok((merges, own.name))
        })
        .await?;
        for (donors, acceptor) in merges {
            self.count(|s| s.shrinking += 1);
            if acceptor.name != own_name {
                self.send_ranges(&acceptor.name, std::slice::from_ref(&acceptor), &[]).await;
            }
            for donor in &donors {
                self.send_ranges(&donor.name, &[donor.clone(), acceptor.clone()], &[]).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod sequence_tests {
    use super::*;
    use caelum_swiftkit::Timestamp;

    fn range(lower: &str, upper: &str, objects: i64) -> ShardRange {
        let mut r = ShardRange::new(format!(".shards_a/c-{lower}"), Timestamp::from_raw(1), lower, upper);
        r.state = ShardState::Active;
        r.object_count = objects;
        r
    }

    #[test]
    fn neighbours() {
        let c = SharderConfig { shrink_threshold: 10, expansion_limit: 75, ..SharderConfig::default() };
        let own = ShardRange { state: ShardState::Sharded, ..ShardRange::new("a/c", Timestamp::from_raw(1), "", "") };
        let names = |ranges: &[ShardRange]| -> Vec<(usize, String)> {
            sequences(ranges, &own, &c).into_iter().map(|(d, a)| (d.len(), a.lower)).collect()
        };
        assert_eq!(names(&[range("", "b", 5), range("b", "d", 50), range("d", "", 90)]), [(1, "b".into())]);
        assert_eq!(names(&[range("", "b", 50), range("b", "d", 50), range("d", "", 90)]), []);
        // A gap keeps them apart.
        assert_eq!(names(&[range("", "b", 5), range("c", "d", 5), range("d", "", 90)]), []);
        // The last shard goes back into the root.
        assert_eq!(names(&[range("", "", 5)]), [(1, String::new())]);
    }
}
