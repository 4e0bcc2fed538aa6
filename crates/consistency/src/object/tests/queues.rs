use super::super::{auditor, expirer, forever, updater};
use super::*;
use caelum_diskfile::PendingUpdate;
use caelum_rest::Body;
use caelum_swiftkit::Timestamp;
use futures_util::future::BoxFuture;
use http::Response;
use std::sync::Mutex;
use tokio::sync::watch;

/// A server that answers with what `answer` says and remembers what it was asked.
struct Stub {
    seen: Mutex<Vec<String>>,
    answer: Box<dyn Fn(&Request<Body>) -> Response<Body> + Send + Sync>,
}

impl Stub {
    fn new(answer: impl Fn(&Request<Body>) -> Response<Body> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), answer: Box::new(answer) })
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl HttpService for Stub {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        self.seen.lock().unwrap().push(format!("{} {}", req.method(), req.uri()));
        let answer = (self.answer)(&req);
        Box::pin(async move { answer })
    }
}

fn answer(code: u16, body: &str) -> Response<Body> {
    Response::builder().status(code).body(full(body.to_string())).unwrap()
}

fn update(c: &Cluster, object: &str, at: u64) {
    let update = PendingUpdate {
        op: "PUT".into(),
        account: "a".into(),
        container: "c".into(),
        object: object.into(),
        headers: vec![("X-Timestamp".into(), Timestamp::from_raw(at).internal())],
        container_path: None,
        db_state: None,
        successes: Vec::new(),
    };
    let disks = c.servers[0].disks();
    disks.queue_update("sd0", disks.policy(0).unwrap(), &update, Timestamp::from_raw(at), ("a", "c", object)).unwrap();
}

/// Containers on two devices at the given services.
fn with_containers(c: &Cluster, services: [Arc<Stub>; 2]) -> Config {
    let mut config = c.config(0);
    config.nodes = Nodes::default();
    for (i, s) in services.into_iter().enumerate() {
        config.nodes.set_local(&format!("10.0.0.{i}"), 6200, s);
    }
    let table = vec![vec![0; 16], vec![1; 16]];
    let containers = Ring::new(vec![Some(device(0, 1)), Some(device(1, 1))], table, POWER);
    config.rings = Rings::fixed(ring(1, 1), containers, vec![]);
    config
}

#[tokio::test]
async fn updates_reach_every_replica_once() {
    let c = Cluster::new(1, 1);
    update(&c, "ö o", 1_000);
    update(&c, "ö o", 2_000);
    let (up, down) = (Stub::new(|_| answer(201, "")), Stub::new(|_| answer(503, "")));
    let stats = updater::run_once(&with_containers(&c, [up.clone(), down.clone()])).await;
    assert_eq!((stats.failures, stats.outdated, stats.successes), (1, 1, 0), "{stats:?}");
    let partition = c.rings.account().partition(&c.swift.hash.container("a", "c"));
    assert_eq!(up.seen(), [format!("PUT /sd0/{partition}/a/c/%C3%B6%20o")]);
    // Only to the one that has not had it.
    let stats = updater::run_once(&with_containers(&c, [up.clone(), up.clone()])).await;
    assert_eq!((stats.failures, stats.successes), (0, 1), "{stats:?}");
    assert_eq!(up.seen(), [format!("PUT /sd1/{partition}/a/c/%C3%B6%20o")]);
    assert_eq!(updater::run_once(&with_containers(&c, [up.clone(), up.clone()])).await, updater::Stats::default());
    assert!(list(&c.dir.path().join("0/sd0/async_pending")).is_empty());
}

#[tokio::test]
async fn updates_follow_a_container_into_its_shards() {
    let c = Cluster::new(1, 1);
    update(&c, "o", 1_000);
    let split = Stub::new(|req| {
        if req.uri().path().contains(".shards_a") {
            return answer(201, "");
        }
        Response::builder()
            .status(301)
            .header("Location", "/.shards_a/c-1/o")
            .header("X-Backend-Redirect-Timestamp", "1700000000.00000")
            .body(full(""))
            .unwrap()
    });
    let stats = updater::run_once(&with_containers(&c, [split.clone(), split.clone()])).await;
    assert_eq!((stats.redirects, stats.successes, stats.failures), (1, 1, 0), "{stats:?}");
}

#[tokio::test]
async fn what_is_no_update_is_moved_aside() {
    let c = Cluster::new(1, 1);
    update(&c, "o", 1_000);
    let dir = c.dir.path().join("0/sd0/async_pending");
    let suffix = dir.join(&list(&dir)[0]);
    std::fs::write(suffix.join(&list(&suffix)[0]), b"cos\nsystem\n.").unwrap();
    let up = Stub::new(|_| answer(201, ""));
    let stats = updater::run_once(&with_containers(&c, [up.clone(), up.clone()])).await;
    assert_eq!((stats.quarantines, up.seen().len()), (1, 0), "{stats:?}");
    assert_eq!(list(&c.dir.path().join("0/sd0/quarantined/objects")).len(), 1);
}

#[tokio::test]
async fn damaged_objects_are_quarantined() {
    let c = Cluster::new(1, 1);
    for n in ["good", "bad", "short"] {
        assert_eq!(c.send(0, "PUT", n, &[("X-Timestamp", "1700000001.00000")], b"content").await, 201);
    }
    let data = |n: &str| c.hash_dir(0, "objects", n).join("1700000001.00000.data");
    let overwrite = |n: &str, bytes: &[u8]| {
        use std::io::Write;
        let mut f = std::fs::OpenOptions::new().write(true).truncate(true).open(data(n)).unwrap();
        f.write_all(bytes).unwrap();
    };
    overwrite("bad", b"CONTENT");
    overwrite("short", b"");
    let quick = auditor::run_once(&c.config(0), auditor::Pass::ZeroByte).await;
    assert_eq!((quick.passes, quick.quarantined, quick.bytes), (3, 1, 0), "{quick:?}");
    assert!(!data("short").exists() && data("bad").exists());
    let whole = auditor::run_once(&c.config(0), auditor::Pass::All).await;
    assert_eq!((whole.passes, whole.quarantined, whole.errors), (2, 1, 0), "{whole:?}");
    assert!(data("good").exists() && !data("bad").exists());
    assert_eq!(list(&c.dir.path().join("0/sd0/quarantined/objects")).len(), 2);
    let status = c.dir.path().join("0/sd0/objects/auditor_status_ALL.json");
    assert!(!status.exists(), "a finished pass leaves no status");
}

#[tokio::test]
async fn objects_expire() {
    let c = Cluster::new(1, 1);
    let client = Stub::new(|req| match (req.method().as_str(), req.uri().path(), req.uri().query().unwrap_or("")) {
        ("GET", "/v1/.expiring_objects", q) if q.ends_with("marker=") => answer(200, r#"[{"name":"0000000100"},{"name":"9999999999"}]"#),
        ("GET", "/v1/.expiring_objects/0000000100", q) if q.ends_with("marker=") => answer(
            200,
            r#"[{"name":"0000000150-a/c/gone","content_type":"text/plain"},{"name":"0000000160-a/c/refused","content_type":"text/plain"},{"name":"nonsense"}]"#,
        ),
        ("GET", _, _) => answer(200, "[]"),
        ("DELETE", "/v1/a/c/gone", _) if req.headers()["x-if-delete-at"] == "0000000150.00000" => answer(204, ""),
        _ => answer(503, ""),
    });
    let containers = Stub::new(|_| answer(204, ""));
    let config = with_containers(&c, [containers.clone(), containers.clone()]);
    let options =
        expirer::ExpirerConfig { client, processes: 0, process: 0, reclaim_age: Duration::from_secs(604_800), delays: Vec::new() };
    let stats = expirer::run_once(&config, &options).await;
    assert_eq!((stats.expired, stats.failures, stats.unexpected), (1, 1, 1), "{stats:?}");
    let seen = containers.seen();
    assert_eq!(seen.len(), 2, "the entry goes from both replicas: {seen:?}");
    assert!(seen[0].ends_with("/.expiring_objects/0000000100/0000000150-a/c/gone"), "{seen:?}");
}

#[tokio::test]
async fn daemons_stop_when_told() {
    let (tx, rx) = watch::channel(false);
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    let daemon = tokio::spawn(async move {
        forever(Duration::from_millis(1), rx, || async { 1 }, |n: i32| *counted.lock().unwrap() += n).await;
    });
    while *count.lock().unwrap() < 3 {
        tokio::task::yield_now().await;
    }
    tx.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), daemon).await.unwrap().unwrap();
}
