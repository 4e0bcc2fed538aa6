//! What a shard takes over from its root: what is to become of it, and into which other shards its rows go.

use super::Pass;
use crate::container::quote;
use crate::db::blocking;
use caelum_broker::{ContainerBroker, DbState, Result, ShardQuery, ShardRange, ShardState, cmp_upper};
use caelum_swiftkit::Timestamp;

impl Pass<'_> {
    /// Merges what the root knows of a shard and its neighbourhood, and deletes the shard when it was given up long ago.
    pub(super) async fn learn_from_root(&self, broker: &ContainerBroker) -> Result<()> {
        let b = broker.clone();
        let (root, own) = blocking(move || Ok((b.root_path()?, b.recorded_own_range()?))).await?;
        let Some(own) = own else {
            tracing::warn!(file = %broker.db().file().display(), "a shard does not know its range");
            return Ok(());
        };
        let quoted = |t: &str| quote(t).replace('/', "%2F");
        let query = format!("&states=auditing&marker={}&end_marker={}", quoted(&own.lower), quoted(&own.end_marker()));
        let ranges = self.fetch_ranges(&root, &query, true).await.unwrap_or_default();
        let (b, now, age) = (broker.clone(), self.config.now(), self.config.reclaim_age);
        blocking(move || {
            merge(&b, &root, &own, &ranges)?;
            give_up(&b, now.minus(age), now)
        })
        .await
    }
}

/// The parent, its parent and so on as far as they are known, and the root.
fn ancestors<'a>(own: &ShardRange, root: &'a str, ranges: &'a [ShardRange]) -> Vec<&'a str> {
    let mut out = vec![root];
    let mut child = own;
    // A chain is at most as long as the list.
    for _ in 0..ranges.len() {
        let Some(parent) = ranges.iter().find(|r| child.is_child_of(r)) else { break };
        out.push(&parent.name);
        child = parent;
    }
    out
}

/// Whether ranges cover `own` without gap or overlap.
fn covers(ranges: &[ShardRange], own: &ShardRange) -> bool {
    let overlapping = |(i, r): (usize, &ShardRange)| ranges[i + 1..].iter().any(|other| other.overlaps(r));
    if ranges.iter().enumerate().any(overlapping) {
        return false;
    }
    let mut at = own.lower.as_str();
    for range in ranges.iter().filter(|r| r.state != ShardState::Shrinking) {
        if !range.upper.is_empty() && range.upper.as_str() <= at {
            continue;
        }
        if range.lower.as_str() > at {
            return false;
        }
        at = &range.upper;
        if at.is_empty() || cmp_upper(at, &own.upper).is_ge() {
            return true;
        }
    }
    false
}

fn merge(broker: &ContainerBroker, root: &str, own: &ShardRange, ranges: &[ShardRange]) -> Result<()> {
    let (ours, rest): (Vec<ShardRange>, Vec<ShardRange>) = ranges.iter().cloned().partition(|r| r.name == own.name);
    broker.merge_shard_ranges(ours)?;
    if broker.db_state()? == DbState::Sharded {
        return Ok(());
    }
    let own = broker.own_shard_range()?;
    let (children, others): (Vec<ShardRange>, Vec<ShardRange>) = rest.into_iter().partition(|r| r.is_child_of(&own));
    broker.merge_shard_ranges(children)?;
    if others.is_empty() || !ShardState::CLEAVING.contains(&own.state) {
        return Ok(());
    }
    let (shrinks, above) = (matches!(own.state, ShardState::Shrinking | ShardState::Shrunk), ancestors(&own, root, ranges));
    let takes = |r: &ShardRange| match above.contains(&r.name.as_str()) {
        // Rows never go up again but when everything shrinks into the root.
        true => shrinks && r.name == root && r.state == ShardState::Active,
        false => r.deleted || !ShardState::CLEAVING.contains(&r.state),
    };
    let takers: Vec<ShardRange> = others.into_iter().filter(takes).collect();
    let together = ShardRange::combined(&takers, broker.shard_ranges(&ShardQuery::default())?);
    if covers(&together, &own) { broker.merge_shard_ranges(takers) } else { Ok(()) }
}

/// A shard whose names went to others before `before` is no longer needed by anybody.
fn give_up(broker: &ContainerBroker, before: Timestamp, now: Timestamp) -> Result<()> {
    let Some(own) = broker.recorded_own_range()? else { return Ok(()) };
    let gone = matches!(own.state, ShardState::Sharded | ShardState::Shrunk) && own.deleted && own.timestamp < before;
    if gone && !broker.is_deleted()? && broker.is_empty()? {
        tracing::info!(file = %broker.db().file().display(), "deleting a shard that was given up");
        broker.delete_db(&now.internal())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, lower: &str, upper: &str, state: ShardState) -> ShardRange {
        let mut r = ShardRange::new(name, Timestamp::from_raw(1), lower, upper);
        r.state = state;
        r
    }

    #[test]
    fn covered_names() {
        let own = range(".shards_a/c-x", "d", "m", ShardState::Shrinking);
        let (a, b) = (range("x/a", "b", "g", ShardState::Active), range("x/b", "g", "", ShardState::Active));
        assert!(covers(&[a.clone(), b.clone()], &own));
        assert!(covers(&[range("x/c", "", "", ShardState::Active)], &own));
        assert!(!covers(std::slice::from_ref(&a), &own), "gap at the end");
        assert!(!covers(std::slice::from_ref(&b), &own), "gap at the beginning");
        assert!(!covers(&[a.clone(), range("x/d", "f", "", ShardState::Active)], &own), "overlap");
        assert!(!covers(&[], &own));
    }

    #[test]
    fn those_above() {
        let now = Timestamp::parse("1500000000.00000").unwrap();
        let parent = ShardRange::make_path(".shards_a", "c", "c", now, 0);
        let child = ShardRange::make_path(".shards_a", "c", parent.split_once('/').unwrap().1, now, 1);
        let ranges = [range(&parent, "", "m", ShardState::Sharded), range("a/c", "", "", ShardState::Sharded)];
        assert_eq!(ancestors(&range(&child, "", "d", ShardState::Active), "a/c", &ranges), ["a/c", parent.as_str(), "a/c"]);
    }
}
