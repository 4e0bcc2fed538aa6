//! Several nodes in one process: real servers, real databases, rings computed for them.

use super::*;
use caelum_broker::{AccountBroker, ContainerBroker, ContainerRow, Listing, ObjectRow, storage_directory};
use caelum_objserver::db::{DbServerConfig, Reserve};
use caelum_objserver::{AccountServer, ContainerServer};
use caelum_swiftkit::{Timestamp, to_hex};
use std::path::Path;

/// Three nodes with a device each; node `n` is 10.0.0.n.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub nodes: Vec<DbDaemonConfig>,
}

const PORT: u16 = 6_000;

fn device(id: u32) -> Device {
    Device {
        id,
        region: 1,
        zone: id + 1,
        ip: format!("10.0.0.{id}"),
        port: PORT,
        replication_ip: format!("10.0.0.{id}"),
        replication_port: PORT,
        device: format!("d{id}"),
        weight: 1.0,
        meta: String::new(),
    }
}

/// `replicas` of the `count` devices for every one of four partitions.
fn ring(count: u32, replicas: u32) -> Ring {
    let row = |r: u32| (0..4).map(|p| (p + r) % count).collect::<Vec<u32>>();
    Ring::new((0..count).map(|i| Some(device(i))).collect(), (0..replicas).map(row).collect(), 2)
}

impl Cluster {
    pub fn new(count: u32, replicas: u32) -> Self {
        Self::with(count, replicas, SwiftConf::default())
    }

    /// Full replication, and the policies 0 and 1.
    pub fn with_policies(count: u32) -> Self {
        let conf = "[storage-policy:0]\nname = gold\ndefault = yes\n[storage-policy:1]\nname = silver\n";
        Self::with(count, count, SwiftConf::parse(conf).unwrap())
    }

    fn with(count: u32, replicas: u32, swift: SwiftConf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (env, nodes) = (Env::system(), Nodes::default());
        let rings =
            Rings::fixed(ring(count, replicas), ring(count, replicas), vec![(0, ring(count, replicas)), (1, ring(count, replicas))]);
        let configs = (0..count)
            .map(|i| {
                let root = dir.path().join(format!("n{i}"));
                std::fs::create_dir_all(root.join(format!("d{i}"))).unwrap();
                let mut server = DbServerConfig::new(&root, swift.clone(), nodes.clone(), env.clone());
                server.reserve = Reserve::Bytes(0);
                let container = ContainerServer::new(server.clone()).service();
                let account = AccountServer::new(server.clone()).service();
                nodes.set_local(&format!("10.0.0.{i}"), PORT, Arc::new(Both { account, container }));
                let mut c = DbDaemonConfig::new(&root, swift.clone(), rings.clone(), nodes.clone(), env.clone(), server.pool);
                c.local = vec![(format!("10.0.0.{i}"), PORT)];
                c
            })
            .collect();
        Self { dir, nodes: configs }
    }

    fn device_dir(&self, node: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("n{node}/d{node}"))
    }

    pub fn container(&self, node: usize, name: &str) -> ContainerBroker {
        let hash = self.nodes[node].swift.hash.container("a", name);
        let partition = ring(self.nodes.len() as u32, 1).partition(&hash);
        self.container_at(node, name, partition)
    }

    /// Where the rings put it.
    pub fn container_of(&self, node: usize, account: &str, name: &str) -> ContainerBroker {
        let hash = self.nodes[node].swift.hash.container(account, name);
        let partition = self.nodes[node].rings.container().partition(&hash);
        self.open(node, to_hex(&hash), partition)
    }

    fn container_at(&self, node: usize, name: &str, partition: u32) -> ContainerBroker {
        self.open(node, to_hex(&self.nodes[node].swift.hash.container("a", name)), partition)
    }

    fn open(&self, node: usize, hash: String, partition: u32) -> ContainerBroker {
        let dir = self.device_dir(node).join(storage_directory(caelum_broker::CONTAINER_DIR, &partition.to_string(), &hash));
        ContainerBroker::new(&self.nodes[node].pool, &dir.join(format!("{hash}.db"))).unwrap()
    }

    pub fn account(&self, node: usize, name: &str) -> AccountBroker {
        let hash = self.nodes[node].swift.hash.account(name);
        let partition = ring(self.nodes.len() as u32, 1).partition(&hash);
        let hash = to_hex(&hash);
        let dir = self.device_dir(node).join(storage_directory(caelum_broker::ACCOUNT_DIR, &partition.to_string(), &hash));
        AccountBroker::new(&self.nodes[node].pool, &dir.join(format!("{hash}.db")))
    }
}

/// Account and container server on one address: the hash's directory tells which is meant, here the path.
struct Both {
    account: Arc<dyn caelum_rest::HttpService>,
    container: Arc<dyn caelum_rest::HttpService>,
}

impl caelum_rest::HttpService for Both {
    fn call(
        &self,
        req: ::http::Request<caelum_rest::Body>,
    ) -> futures_util::future::BoxFuture<'static, ::http::Response<caelum_rest::Body>> {
        let account = self.account.clone();
        let container = self.container.clone();
        let is_container_report = req.method() == "PUT" && req.headers().contains_key("x-put-timestamp");
        if is_container_report {
            return account.call(req);
        }
        container.call(req)
    }
}

fn at(n: u64) -> String {
    Timestamp::from_raw(160_000_000_000_000 + n * 100_000).internal()
}

pub(crate) fn row(name: &str, n: u64) -> ObjectRow {
    ObjectRow { name: name.into(), created_at: at(n), size: 1, content_type: "text/plain".into(), etag: "e".into(), ..ObjectRow::default() }
}

pub(crate) fn names(b: &ContainerBroker) -> Vec<String> {
    let mut out = Vec::new();
    let q = Listing { limit: 10_000, ..Listing::default() };
    b.list_objects(&q, 0, &mut |e| {
        if let caelum_broker::Entry::Object(o) = e {
            out.push(o.name.to_string());
        }
        Ok(())
    })
    .unwrap();
    out
}

/// A node of the container's primaries, and one that is none.
fn primary_and_handoff(c: &Cluster, name: &str) -> (usize, Option<usize>) {
    let config = &c.nodes[0];
    let ring = config.rings.container();
    let primaries = ring.primaries(ring.partition(&config.swift.hash.container("a", name)));
    let is = |n: &usize| primaries.iter().any(|p| p.id as usize == *n);
    ((0..c.nodes.len()).find(is).unwrap(), (0..c.nodes.len()).find(|n| !is(n)))
}

#[tokio::test]
async fn a_missing_replica_is_pushed_whole() {
    let c = Cluster::new(3, 3);
    let mut first = c.container(0, "c");
    first.initialize("a", "c", &at(0), 0).unwrap();
    first.put_objects((0..50).map(|i| row(&format!("o{i}"), i)).collect()).unwrap();
    let stats = replicate_containers(&c.nodes[0]).await;
    assert_eq!((stats.attempted, stats.success, stats.pushed), (1, 1, 2));
    for n in [1, 2] {
        let copy = c.container(n, "c");
        assert_eq!(names(&copy).len(), 50);
        assert_ne!(copy.get_info().unwrap().id, first.get_info().unwrap().id);
    }
    // Nothing more to do, from either side.
    let again = replicate_containers(&c.nodes[0]).await;
    assert_eq!((again.pushed, again.diff, again.success), (0, 0, 1));
    assert_eq!(std::fs::read_dir(first.db().dir()).unwrap().filter(|e| e.as_ref().unwrap().path().ends_with(".tmp")).count(), 0);
}

#[tokio::test]
async fn rows_and_metadata_meet() {
    let c = Cluster::new(3, 3);
    let mut first = c.container(0, "c");
    first.initialize("a", "c", &at(0), 0).unwrap();
    replicate_containers(&c.nodes[0]).await;
    for n in 0..3 {
        let b = c.container(n, "c");
        b.put_object(row(&format!("only-{n}"), n as u64)).unwrap();
        let mut both = row("shared", 10 + n as u64);
        both.size = n as i64;
        b.put_object(both).unwrap();
        let meta = [(format!("X-Container-Meta-N{n}"), ("v".to_string(), at(n as u64)))].into();
        b.db().update_metadata(&meta, true).unwrap();
    }
    for _ in 0..2 {
        for n in 0..3 {
            assert_eq!(replicate_containers(&c.nodes[n]).await.failure, 0);
        }
    }
    let hashes: Vec<String> = (0..3).map(|n| c.container(n, "c").get_info().unwrap().hash).collect();
    assert!(hashes.iter().all(|h| *h == hashes[0]));
    for n in 0..3 {
        let b = c.container(n, "c");
        assert_eq!(names(&b), ["only-0", "only-1", "only-2", "shared"]);
        assert_eq!(b.get_info().unwrap().bytes_used, 5);
        assert_eq!(b.metadata().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_replica_far_behind_gets_the_whole() {
    let mut c = Cluster::new(3, 3);
    c.nodes[0].per_diff = 10;
    let mut first = c.container(0, "c");
    first.initialize("a", "c", &at(0), 0).unwrap();
    replicate_containers(&c.nodes[0]).await;
    first.put_objects((0..100).map(|i| row(&format!("o{i:03}"), i)).collect()).unwrap();
    let behind = c.container(1, "c");
    behind.put_object(row("theirs", 5)).unwrap();
    let stats = replicate_containers(&c.nodes[0]).await;
    assert_eq!((stats.remote_merge, stats.failure), (2, 0));
    assert_eq!(names(&c.container(1, "c")).len(), 101);
    assert_eq!(names(&c.container(2, "c")).len(), 100);
}

#[tokio::test]
async fn a_handoff_goes_when_all_have_it() {
    let c = Cluster::new(4, 3);
    let (primary, handoff) = primary_and_handoff(&c, "c");
    let handoff = handoff.unwrap();
    let partition = c.nodes[0].rings.container().partition(&c.nodes[0].swift.hash.container("a", "c"));
    let mut stray = c.container_at(handoff, "c", partition);
    stray.initialize("a", "c", &at(0), 0).unwrap();
    stray.put_object(row("o", 1)).unwrap();
    let stats = replicate_containers(&c.nodes[handoff]).await;
    assert_eq!((stats.pushed, stats.removed), (3, 1));
    assert!(!stray.db().dir().exists());
    assert_eq!(names(&c.container_at(primary, "c", partition)), ["o"]);
}

#[tokio::test]
async fn a_deleted_container_is_forgotten_once_reported() {
    let c = Cluster::new(3, 3);
    let mut b = c.container(0, "c");
    b.initialize("a", "c", "0000000001.00000", 0).unwrap();
    b.delete_db("0000000002.00000").unwrap();
    assert_eq!(replicate_containers(&c.nodes[0]).await.removed, 0);
    assert!(b.db().exists());
    let info = b.get_info().unwrap();
    b.reported(&info.put_timestamp, &info.delete_timestamp, 0, 0).unwrap();
    assert_eq!(replicate_containers(&c.nodes[0]).await.removed, 1);
    assert!(!b.db().exists());
}

#[tokio::test]
async fn the_account_hears_of_containers() {
    let c = Cluster::new(3, 3);
    for n in 0..3 {
        c.account(n, "a").initialize("a", &at(0)).unwrap();
    }
    let mut b = c.container(0, "c");
    b.initialize("a", "c", &at(1), 0).unwrap();
    b.put_object(row("o", 2)).unwrap();
    let updater = crate::container::UpdaterConfig::default();
    let stats = crate::container::update_accounts(&c.nodes[0], &updater).await;
    assert_eq!((stats.successes, stats.failures), (1, 0));
    for n in 0..3 {
        let info = c.account(n, "a").get_info().unwrap();
        assert_eq!((info.container_count, info.object_count, info.bytes_used), (1, 1, 1));
    }
    assert_eq!(crate::container::update_accounts(&c.nodes[0], &updater).await.no_changes, 1);
}

#[tokio::test]
async fn a_container_of_no_account_is_quarantined() {
    let c = Cluster::new(3, 3);
    let mut b = c.container(0, "c");
    b.initialize("a", "c", &at(1), 0).unwrap();
    let stats = crate::container::update_accounts(&c.nodes[0], &crate::container::UpdaterConfig::default()).await;
    assert_eq!(stats.failures, 1);
    assert!(!b.db().exists());
    assert!(c.device_dir(0).join("quarantined/containers").exists());
}

#[tokio::test]
async fn a_deleted_account_is_reaped() {
    let c = Cluster::new(3, 3);
    for n in 0..3 {
        c.account(n, "a").initialize("a", &at(0)).unwrap();
        c.container(n, "c").initialize("a", "c", &at(1), 0).unwrap();
    }
    let report = ContainerRow { name: "c".into(), put_timestamp: at(1), ..ContainerRow::default() };
    let wait = crate::account::ReaperConfig { delay_reaping: Duration::from_secs(1 << 33), ..Default::default() };
    for n in 0..3 {
        c.account(n, "a").put_container(report.clone()).unwrap();
        let alive = crate::account::reap_accounts(&c.nodes[n], &Default::default()).await;
        assert_eq!(alive.accounts, 0);
        c.account(n, "a").delete_db(&at(2)).unwrap();
        assert_eq!(crate::account::reap_accounts(&c.nodes[n], &wait).await.accounts, 0, "too early");
    }
    let mut deleted = 0;
    for n in 0..3 {
        deleted += crate::account::reap_accounts(&c.nodes[n], &Default::default()).await.containers_deleted;
    }
    assert_eq!(deleted, 1, "one of the primaries does it");
    for n in 0..3 {
        assert!(c.container(n, "c").is_deleted().unwrap());
        assert!(c.account(n, "a").is_empty().unwrap());
    }
}

#[tokio::test]
async fn audits_find_damage() {
    let c = Cluster::new(1, 1);
    let mut good = c.container(0, "good");
    good.initialize("a", "good", &at(1), 0).unwrap();
    let mut bad = c.container(0, "bad");
    bad.initialize("a", "bad", &at(1), 0).unwrap();
    let account = c.account(0, "a");
    account.initialize("a", &at(1)).unwrap();
    account.put_container(ContainerRow { name: "c".into(), put_timestamp: at(1), ..ContainerRow::default() }).unwrap();
    overwrite(bad.db().file());
    let fresh = DbDaemonConfig { pool: Pool::new(Env::system(), 4), ..c.nodes[0].clone() };
    assert_eq!(audit_containers(&fresh).await, AuditStats { passed: 1, failed: 1 });
    assert!(!bad.db().exists() && c.device_dir(0).join("quarantined/containers").exists());
    assert_eq!(audit_accounts(&fresh).await, AuditStats { passed: 1, failed: 0 });
}

fn overwrite(path: &Path) {
    std::fs::write(path, vec![b'x'; 8_192]).unwrap();
}
