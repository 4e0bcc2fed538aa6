//! What may be wrong with the ranges a root knows. Nothing is done to such a container until its ranges have been mended
//! (`swift-manage-shard-ranges repair`): rows that go by wrong ranges end where nobody looks for them.

use caelum_broker::{ContainerBroker, Result, ShardQuery, ShardRange, ShardState, cmp_upper};
use caelum_swiftkit::Timestamp;

/// What is wrong with a root; empty: nothing. `young`: overlaps of a parent with children made since then pass, as the
/// parent's new state may be on its way.
pub(super) fn faults(broker: &ContainerBroker, young: Timestamp) -> Result<Vec<String>> {
    let (own, ranges) = (broker.own_shard_range()?, broker.shard_ranges(&ShardQuery::default())?);
    let mut out = Vec::new();
    let gaps = gaps(&own, &ranges);
    if gaps > 0 {
        out.push(format!("missing range(s): {gaps}"));
    }
    for state in ShardState::ALL.into_iter().filter(|s| *s != ShardState::Shrinking) {
        let n = overlaps(ranges.iter().filter(|r| r.state == state).collect(), young);
        if n > 0 {
            out.push(format!("overlapping {} ranges: {n}", state.name()));
        }
    }
    if let (None, Some(epoch)) = (own.epoch, broker.epoch()) {
        out.push(format!("own shard range has lost its epoch {epoch}"));
    }
    Ok(out)
}

/// Names that no range takes, as so many gaps. While ranges are still being found, what follows the last is none.
fn gaps(own: &ShardRange, ranges: &[ShardRange]) -> usize {
    if !matches!(own.state, ShardState::Sharding | ShardState::Sharded) {
        return 0;
    }
    let mut taking: Vec<&ShardRange> = ranges.iter().filter(|r| r.state != ShardState::Shrinking).collect();
    taking.sort_by(|a, b| a.lower.cmp(&b.lower));
    // Up to where names are taken; `None`: all are.
    let (mut at, mut gaps) = (Some(""), 0);
    for range in taking {
        let Some(end) = at else { break };
        if range.lower.as_str() > end {
            gaps += 1;
        }
        at = match range.upper.as_str() {
            "" => None,
            upper => Some(end.max(upper)),
        };
    }
    gaps + usize::from(at.is_some() && own.state == ShardState::Sharded)
}

/// Ranges that overlap later ones.
fn overlaps(mut ranges: Vec<&ShardRange>, young: Timestamp) -> usize {
    let kin = |child: &ShardRange, parent: &ShardRange| child.is_child_of(parent) && child.timestamp >= young;
    // By upper bound, what can overlap a range follows it until one begins behind it.
    ranges.sort_by(|a, b| a.lower.cmp(&b.lower).then_with(|| cmp_upper(&a.upper, &b.upper)));
    let wrong = |(i, range): (usize, &&ShardRange)| {
        let near = ranges[i + 1..].iter().take_while(|other| range.upper.is_empty() || other.lower < range.upper);
        near.into_iter().any(|other| range.name != other.name && range.overlaps(other) && !kin(range, other) && !kin(other, range))
    };
    ranges.iter().enumerate().filter(|r| wrong(*r)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, lower: &str, upper: &str) -> ShardRange {
        ShardRange { state: ShardState::Active, ..ShardRange::new(name, Timestamp::from_raw(100), lower, upper) }
    }

    #[test]
    fn missing_names() {
        let own = |state| ShardRange { state, ..range("a/c", "", "") };
        let (b, d, end) = (range("s/1", "", "b"), range("s/2", "b", "d"), range("s/3", "d", ""));
        let sharded = own(ShardState::Sharded);
        assert_eq!(gaps(&sharded, &[b.clone(), d.clone(), end.clone()]), 0);
        assert_eq!(gaps(&sharded, &[b.clone(), end.clone()]), 1);
        assert_eq!(gaps(&sharded, std::slice::from_ref(&d)), 2);
        assert_eq!(gaps(&sharded, &[b.clone(), range("s/4", "a", "e"), end.clone()]), 0, "an overlap is no gap");
        let shrinking = ShardRange { state: ShardState::Shrinking, ..d.clone() };
        assert_eq!(gaps(&sharded, &[b.clone(), shrinking, end]), 1);
        assert_eq!(gaps(&sharded, &[]), 1);
        // Not all are found yet.
        assert_eq!(gaps(&own(ShardState::Sharding), &[b, d.clone()]), 0);
        assert_eq!(gaps(&own(ShardState::Sharding), std::slice::from_ref(&d)), 1);
        assert_eq!(gaps(&own(ShardState::Active), &[d]), 0);
    }

    #[test]
    fn names_with_two_places() {
        let young = Timestamp::from_raw(50);
        let (b, d, end) = (range("s/1", "", "b"), range("s/2", "b", "d"), range("s/3", "d", ""));
        assert_eq!(overlaps(vec![&end, &b, &d], young), 0);
        let over = range("s/4", "a", "c");
        assert_eq!(overlaps(vec![&b, &d, &end, &over], young), 2);
        assert_eq!(overlaps(vec![&range("s/5", "", ""), &b, &d], young), 2);
        // A parent and its new child.
        let parent = range(".shards_a/c-d41d8cd98f00b204e9800998ecf8427e-1500000000.00000-0", "", "m");
        let name = ShardRange::make_path(".shards_a", "c", parent.container(), Timestamp::from_raw(100), 0);
        let child = range(&name, "", "d");
        assert_eq!(overlaps(vec![&parent, &child], young), 0);
        assert_eq!(overlaps(vec![&parent, &child], Timestamp::from_raw(101)), 1);
    }
}
