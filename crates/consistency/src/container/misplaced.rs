//! Objects recorded under another storage policy than their container's: they are put into the queue of
//! the reconciler, which is itself a container of the account `.misplaced_objects`.

use crate::db::DbDaemonConfig;
use caelum_broker::{BrokerError, CONTAINER_DIR, ContainerBroker, ContainerInfo, ObjectRow, storage_directory};
use caelum_swiftkit::{Timestamp, to_hex};
use std::collections::BTreeMap;

/// The account of the reconciler's queue.
pub(crate) const MISPLACED_ACCOUNT: &str = ".misplaced_objects";
/// A queue container takes the entries of so many seconds.
const DIVISOR: u64 = 3_600;

/// The queue container of an object's time.
pub(super) fn queue_container(created_at: &str) -> String {
    let seconds = Timestamp::decode(created_at).map_or(0, |t| t.2.seconds());
    (seconds / DIVISOR * DIVISOR).to_string()
}

/// Puts what is misplaced in `broker` into the queue and remembers how far that was, once most replicas
/// have the rows too.
pub(crate) fn feed_misplaced(
    config: &DbDaemonConfig,
    broker: &ContainerBroker,
    info: &ContainerInfo,
    max_row: i64,
    majority: bool,
) -> caelum_broker::Result<()> {
    let mut point = broker.reconciler_sync()?;
    if broker.policy_stats()?.len() < 2 {
        return if point == max_row { Ok(()) } else { broker.update_reconciler_sync(max_row) };
    }
    let start = point;
    let root = broker.root_path()?;
    let mut last = broker.get_misplaced_since(point, config.per_diff)?;
    if last.is_empty() {
        point = broker.db().max_row(None)?;
    }
    while let Some(row) = last.last() {
        point = row.row_id;
        let mut batches: BTreeMap<String, Vec<ObjectRow>> = BTreeMap::new();
        for row in &last {
            batches.entry(queue_container(&row.created_at)).or_default().push(entry(row, &root));
        }
        for (container, rows) in batches {
            queue(config, &container)?.merge_items(rows, None)?;
        }
        last = broker.get_misplaced_since(point, config.per_diff)?;
    }
    tracing::debug!(account = info.account, container = info.container, point, "misplaced objects queued");
    if point > start && majority {
        broker.update_reconciler_sync(point)?;
    }
    Ok(())
}

fn entry(row: &ObjectRow, root: &str) -> ObjectRow {
    ObjectRow {
        name: format!("{}:/{root}/{}", row.storage_policy_index, row.name),
        created_at: row.created_at.clone(),
        etag: row.created_at.clone(),
        content_type: if row.deleted == 0 { "application/x-put" } else { "application/x-delete" }.into(),
        ..ObjectRow::default()
    }
}

/// The queue container's database on this node, made if need be; replication takes it to where it belongs.
fn queue(config: &DbDaemonConfig, container: &str) -> caelum_broker::Result<ContainerBroker> {
    let hash = config.swift.hash.container(MISPLACED_ACCOUNT, container);
    let ring = config.rings.container();
    let partition = ring.partition(&hash);
    let local = config.local_devices(&ring);
    let primaries = ring.primaries(partition);
    let device = primaries
        .iter()
        .find_map(|p| local.iter().find(|l| l.id == p.id))
        .or_else(|| local.iter().find(|d| d.weight > 0.0))
        .or_else(|| local.first())
        .ok_or_else(|| BrokerError::Invalid("no device of the container ring is this node's".into()))?;
    let hash = to_hex(&hash);
    let dir = config.devices.join(&device.device).join(storage_directory(CONTAINER_DIR, &partition.to_string(), &hash));
    let mut broker = ContainerBroker::new(&config.pool, &dir.join(format!("{hash}.db")))?;
    if !broker.db().exists() {
        match broker.initialize(MISPLACED_ACCOUNT, container, container, 0) {
            Ok(()) | Err(BrokerError::Exists(_)) => broker.reload()?,
            Err(e) => return Err(e),
        }
    }
    Ok(broker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        assert_eq!(queue_container("1600000000.00000+10+0"), "1599998400");
        let row = ObjectRow { name: "o/p".into(), created_at: "1".into(), storage_policy_index: 1, deleted: 1, ..ObjectRow::default() };
        let e = entry(&row, "a/c");
        assert_eq!((e.name.as_str(), e.content_type.as_str(), e.deleted), ("1:/a/c/o/p", "application/x-delete", 0));
    }
}
