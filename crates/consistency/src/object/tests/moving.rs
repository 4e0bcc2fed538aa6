use super::super::{SyncMethod, relinker, replicator};
use super::*;
use crate::object::RsyncConfig;

const T1: &str = "1700000001.00000";
const T2: &str = "1700000002.00000";

#[tokio::test]
async fn replicas_become_equal() {
    let c = Cluster::new(4, 3);
    let (a, b) = (c.name("a"), c.name("b"));
    let large = vec![7_u8; 700_000];
    assert_eq!(c.send(0, "PUT", &a, &[("X-Timestamp", T1), ("X-Object-Meta-Colour", "blue")], &large).await, 201);
    assert_eq!(c.send(0, "POST", &a, &[("X-Timestamp", T2), ("X-Object-Meta-Colour", "red")], b"").await, 202);
    assert_eq!(c.send(0, "PUT", &b, &[("X-Timestamp", T1)], b"x").await, 201);
    assert_eq!(c.send(1, "PUT", &b, &[("X-Timestamp", T1)], b"x").await, 201);
    assert_eq!(c.send(0, "DELETE", &b, &[("X-Timestamp", T2)], b"").await, 204);
    let stats = replicator::run_once(&c.config(0)).await;
    assert_eq!((stats.failure, stats.handoffs_remaining), (0, 0), "{stats:?}");
    for node in 0..3 {
        let (code, headers, body) = c.get(node, &a, &[]).await;
        assert_eq!((code, body == large), (200, true), "node {node}");
        assert_eq!(headers["x-object-meta-colour"], "red");
        assert_eq!(c.files(node, "objects", &a), c.files(0, "objects", &a));
        assert_eq!(c.files(node, "objects", &b), [format!("{T2}.ts")], "node {node}");
    }
    assert!(c.files(3, "objects", &a).is_empty(), "no node but the primaries gets it");
    let recon = c.dir.path().join("recon");
    let again = replicator::run_once(&Config { recon_cache: Some(recon.clone()), ..c.config(0) }).await;
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(recon.join("object.recon")).unwrap()).unwrap();
    assert_eq!(figures["replication_stats"]["attempted"], again.attempted);
    assert_eq!((again.synced, again.hashmatch, again.failure), (0, 2 * again.attempted, 0), "{again:?}");
}

#[tokio::test]
async fn handed_over_and_only_then_removed() {
    let c = Cluster::new(4, 3);
    let name = c.name("o");
    assert_eq!(c.send(3, "PUT", &name, &[("X-Timestamp", T1)], b"data").await, 201);
    // One primary is away: the others get it, and it stays.
    let other = Nodes::default();
    for i in [0, 2] {
        other.set_local(&format!("10.0.0.{i}"), 6200, c.servers[i].clone());
    }
    let mut config = c.config(3);
    config.nodes = other;
    config.node_timeout = Duration::from_millis(300);
    config.http_timeout = Duration::from_millis(300);
    let stats = replicator::run_once(&config).await;
    assert_eq!((stats.failure, stats.removed_objects, stats.handoffs_remaining), (1, 0, 1), "{stats:?}");
    assert_eq!(c.get(3, &name, &[]).await.2, b"data");
    assert_eq!(c.get(2, &name, &[]).await.2, b"data");
    let stats = replicator::run_once(&c.config(3)).await;
    assert_eq!((stats.failure, stats.removed_objects, stats.removed_partitions), (0, 1, 1), "{stats:?}");
    assert_eq!(c.get(1, &name, &[]).await.2, b"data");
    assert!(list(&c.dir.path().join("3/sd3/objects")).is_empty());
}

/// As an increase of the part power leaves them that not all nodes saw at the same time: on a primary of the wrong
/// partition, on a device that holds neither, and metadata alone.
#[tokio::test]
async fn objects_in_a_wrong_partition_go_to_their_own() {
    let c = Cluster::new(4, 3);
    let (a, b, m) = (c.name("a"), c.name("b"), c.name("m"));
    let misplace = |node: u32, name: &str| {
        let right = c.hash_dir(node, "objects", name);
        let (hash, suffix) = (right.file_name().unwrap(), right.parent().unwrap().file_name().unwrap());
        let wrong = c.dir.path().join(format!("{node}/sd{node}/objects/{}", (c.partition(name) + 1) % 15)).join(suffix);
        std::fs::create_dir_all(&wrong).unwrap();
        std::fs::rename(&right, wrong.join(hash)).unwrap();
    };
    for (node, name) in [(0, &a), (3, &b), (0, &m)] {
        assert_eq!(c.send(node, "PUT", name, &[("X-Timestamp", T1)], b"data").await, 201);
    }
    assert_eq!(c.send(0, "POST", &m, &[("X-Timestamp", T2), ("X-Object-Meta-Colour", "red")], b"").await, 202);
    assert_eq!(c.send(1, "PUT", &m, &[("X-Timestamp", T1)], b"data").await, 201);
    let data = c.hash_dir(0, "objects", &m).join(format!("{T1}.data"));
    std::fs::remove_file(data).unwrap();
    for (node, name) in [(0, &a), (3, &b), (0, &m)] {
        misplace(node, name);
    }
    for node in [0, 3, 0, 1, 3, 0, 1] {
        assert_eq!(replicator::run_once(&c.config(node)).await.failure, 0, "node {node}");
    }
    for node in 0..3 {
        for name in [&a, &b] {
            assert_eq!(c.get(node, name, &[]).await.2, b"data", "node {node}");
        }
        let (_, headers, body) = c.get(node, &m, &[]).await;
        assert_eq!((&body[..], headers["x-object-meta-colour"].to_str().unwrap()), (&b"data"[..], "red"), "node {node}");
        for name in [&a, &b, &m] {
            let wrong = c.dir.path().join(format!("{node}/sd{node}/objects/{}", (c.partition(name) + 1) % 15));
            let hash = c.hash_dir(node, "objects", name);
            let left = wrong.join(hash.parent().unwrap().file_name().unwrap()).join(hash.file_name().unwrap());
            assert!(!left.exists(), "node {node}: {}", left.display());
        }
    }
    assert!(list(&c.dir.path().join("3/sd3/objects")).is_empty());
}

/// The link between regions carries an object once; what the other node there lacks keeps it here.
#[tokio::test]
async fn once_per_region() {
    let c = Cluster::new(4, 3);
    let name = c.name("o");
    assert_eq!(c.send(3, "PUT", &name, &[("X-Timestamp", T1)], b"data").await, 201);
    let mut config = c.config(3);
    let mut far = ring(4, 3);
    for id in [0, 1] {
        far.devices[id].as_mut().unwrap().region = 2;
    }
    config.rings = Rings::fixed(ring(1, 1), ring(1, 1), vec![(0, far)]);
    let stats = replicator::run_once(&config).await;
    assert_eq!((stats.failure, stats.removed_objects), (0, 0), "{stats:?}");
    assert_eq!([c.get(0, &name, &[]).await.0, c.get(1, &name, &[]).await.0, c.get(2, &name, &[]).await.0], [200, 404, 200]);
    assert_eq!(replicator::run_once(&c.config(0)).await.failure, 0);
    assert_eq!(replicator::run_once(&config).await.removed_objects, 1);
}

#[tokio::test]
async fn a_device_that_is_gone_has_a_stand_in() {
    let c = Cluster::new(4, 3);
    let name = c.name("o");
    assert_eq!(c.send(0, "PUT", &name, &[("X-Timestamp", T1)], b"data").await, 201);
    std::fs::remove_dir_all(c.dir.path().join("1/sd1")).unwrap();
    let stats = replicator::run_once(&c.config(0)).await;
    assert_eq!(stats.failure, 1, "{stats:?}");
    assert_eq!(c.get(3, &name, &[]).await.2, b"data");
}

#[tokio::test]
async fn rsync_that_fails_removes_nothing() {
    let c = Cluster::new(4, 3);
    let name = c.name("o");
    assert_eq!(c.send(3, "PUT", &name, &[("X-Timestamp", T1)], b"data").await, 201);
    let mut config = c.config(3);
    config.sync = SyncMethod::Rsync(RsyncConfig { program: "false".into(), ..RsyncConfig::default() });
    let stats = replicator::run_once(&config).await;
    assert_eq!((stats.failure, stats.removed_objects), (3, 0), "{stats:?}");
    assert_eq!(c.get(3, &name, &[]).await.2, b"data");
    // And one that claims to have pushed everything is believed, as there is nothing else to go by.
    config.sync = SyncMethod::Rsync(RsyncConfig { program: "true".into(), ..RsyncConfig::default() });
    assert_eq!(replicator::run_once(&config).await.removed_objects, 1);
}

#[tokio::test]
async fn relinked_and_cleaned_up() {
    let c = Cluster::new(1, 1);
    let names: Vec<String> = (0..12).map(|i| format!("o{i}")).collect();
    for n in &names {
        assert_eq!(c.send(0, "PUT", n, &[("X-Timestamp", T1)], n.as_bytes()).await, 201);
    }
    let with = |power: u32, next: Option<u32>| {
        let mut r = Ring::new(vec![Some(device(0, 1))], vec![vec![0; 1 << power]], power);
        r.next_part_power = next;
        let mut config = c.config(0);
        config.rings = Rings::fixed(ring(1, 1), ring(1, 1), vec![(0, r)]);
        config
    };
    assert_eq!(relinker::run_once(&with(POWER, None), relinker::Step::Relink).await.policies, 0);
    let stats = relinker::run_once(&with(POWER, Some(POWER + 1)), relinker::Step::Relink).await;
    assert_eq!((stats.policies, stats.errors, stats.removed), (1, 0, 0), "{stats:?}");
    let again = relinker::run_once(&with(POWER, Some(POWER + 1)), relinker::Step::Relink).await;
    assert_eq!((again.linked, again.errors), (0, 0), "{again:?}");
    let after = with(POWER + 1, Some(POWER + 1));
    let larger = after.rings.object(0).unwrap();
    let place = |p: u32, hex: &str| c.dir.path().join(format!("0/sd0/objects/{p}/{}/{hex}/{T1}.data", &hex[29..]));
    // An old place that was handed over and came back is a file of its own, of the same version.
    for n in &names[..6] {
        let hash = c.swift.hash.object("a", "c", n);
        if c.partition(n) != larger.partition(&hash) {
            std::fs::remove_file(place(c.partition(n), &to_hex(&hash))).unwrap();
            assert_eq!(c.send(0, "PUT", n, &[("X-Timestamp", T1)], n.as_bytes()).await, 201);
        }
    }
    assert_eq!(relinker::run_once(&after, relinker::Step::Relink).await.policies, 0);
    let cleaned = relinker::run_once(&after, relinker::Step::Cleanup).await;
    assert_eq!((cleaned.errors, cleaned.linked), (0, 0), "{cleaned:?}");
    for n in &names {
        let hash = c.swift.hash.object("a", "c", n);
        let (old, new, hex) = (c.partition(n), larger.partition(&hash), to_hex(&hash));
        let at = |p: u32| place(p, &hex);
        assert_eq!(std::fs::read(at(new)).unwrap(), n.as_bytes());
        assert!(old == new || !at(old).exists(), "{n}");
    }
}
