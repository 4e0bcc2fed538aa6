//! A container is sharded, and shrunk again, on three nodes in one process.

use super::*;
use crate::db::replicate_containers;
use crate::db::tests::{Cluster, names, row};

fn config() -> SharderConfig {
    SharderConfig {
        auto_shard: true,
        threshold: 100,
        rows_per_shard: 50,
        minimum_shard_size: 10,
        shrink_threshold: 10,
        expansion_limit: 75,
        cleave_rows: 20,
        ..SharderConfig::default()
    }
}

async fn rounds(c: &Cluster, n: usize) {
    for _ in 0..n {
        for node in &c.nodes {
            shard_containers(node, &config()).await;
            replicate_containers(node).await;
        }
    }
}

fn shards(b: &ContainerBroker) -> Vec<ShardRange> {
    b.shard_ranges(&ShardQuery::default()).unwrap()
}

fn make(c: &Cluster, n: u64) {
    let mut b = c.container(0, "c");
    b.initialize("a", "c", "1500000000.00000", 0).unwrap();
    b.set_sharding_sysmeta("x", "").unwrap();
    let on = [("X-Container-Sysmeta-Sharding".to_string(), ("True".to_string(), "1500000000.00000".to_string()))].into();
    b.db().update_metadata(&on, false).unwrap();
    b.put_objects((0..n).map(|i| row(&format!("o{i:04}"), i)).collect()).unwrap();
}

/// All names in all shards, from one node.
fn all_names(c: &Cluster, node: usize) -> Vec<String> {
    let root = c.container(node, "c");
    let mut out = Vec::new();
    for range in shards(&root) {
        out.extend(names(&c.container_of(node, range.account(), range.container())));
    }
    out
}

#[tokio::test]
async fn a_large_container_becomes_shards() {
    let c = Cluster::new(3, 3);
    make(&c, 220);
    replicate_containers(&c.nodes[0]).await;
    rounds(&c, 5).await;
    let expected: Vec<String> = (0..220).map(|i| format!("o{i:04}")).collect();
    for n in 0..3 {
        let root = c.container(n, "c");
        assert_eq!(root.db_state().unwrap(), DbState::Sharded, "node {n}");
        assert!(shards(&root).iter().all(|r| r.state == ShardState::Active));
        assert_eq!(all_names(&c, n), expected, "node {n}");
        assert_eq!(root.get_info().unwrap().object_count, 220);
    }
}

#[tokio::test]
async fn rows_that_come_late_are_moved() {
    let c = Cluster::new(3, 3);
    make(&c, 150);
    replicate_containers(&c.nodes[0]).await;
    rounds(&c, 5).await;
    let root = c.container(1, "c");
    root.put_object(row("o0100x", 500)).unwrap();
    root.put_object(row("o0001x", 500)).unwrap();
    rounds(&c, 2).await;
    assert!(names(&root).is_empty());
    for n in 0..3 {
        for late in ["o0001x", "o0100x"] {
            assert!(all_names(&c, n).contains(&late.to_string()), "node {n} {late}");
        }
        assert_eq!(c.container(n, "c").get_info().unwrap().object_count, 152);
    }
}

#[tokio::test]
async fn small_shards_are_merged() {
    let c = Cluster::new(3, 3);
    make(&c, 120);
    replicate_containers(&c.nodes[0]).await;
    rounds(&c, 5).await;
    let before = shards(&c.container(0, "c")).len();
    assert!(before >= 2);
    // Nearly everything in the first shard is deleted.
    let first = shards(&c.container(0, "c")).remove(0);
    let shard = c.container_of(0, first.account(), first.container());
    let deleted = names(&shard).into_iter().skip(2);
    // Now, as deletions of long ago are forgotten before anybody else hears of them.
    let now = c.nodes[0].now().internal();
    let rows = deleted.map(|n| caelum_broker::ObjectRow::tombstone(&n, &now, 0)).collect();
    shard.put_objects(rows).unwrap();
    let mut soon = config();
    for node in &c.nodes {
        replicate_containers(node).await;
    }
    // Tombstones count as rows until they are reclaimed.
    soon.shrink_threshold = 60;
    soon.expansion_limit = 130;
    for _ in 0..5 {
        for node in &c.nodes {
            shard_containers(node, &soon).await;
            replicate_containers(node).await;
        }
    }
    let after = shards(&c.container(0, "c"));
    assert!(after.len() < before, "{after:?}");
    let root = c.container(0, "c").get_info().unwrap();
    let left = usize::try_from(root.object_count).unwrap();
    assert_eq!(all_names(&c, 0).len(), left);
}
