//! The reconciler and container synchronization against a proxy that is a table of objects.

use super::*;
use crate::db::tests::{Cluster, row};
use caelum_broker::ObjectRow;
use caelum_objserver::db::SyncRealms;
use caelum_objserver::db::sync_store::update_sync_store;
use caelum_rest::{Body, HttpService, full, read_limited};
use caelum_swiftkit::Timestamp;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// (policy, path) → (time, body; none when deleted).
type Table = BTreeMap<(String, String), (Timestamp, Option<Vec<u8>>)>;

#[derive(Clone, Default)]
struct Proxy {
    objects: Arc<Mutex<Table>>,
    /// Answers to listings by path.
    listings: Arc<Mutex<BTreeMap<String, String>>>,
    signatures: Arc<Mutex<Vec<String>>>,
}

impl HttpService for Proxy {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let proxy = self.clone();
        Box::pin(async move {
            let (parts, body) = req.into_parts();
            let text = |k: &str| parts.headers.get(k).map(|v| v.to_str().unwrap().to_string());
            let path = parts.uri.path().to_string();
            if let Some(list) = proxy.listings.lock().unwrap().get(&path) {
                let first = !parts.uri.query().unwrap_or("").contains("marker=1");
                return Response::new(full(if first { list.clone() } else { "[]".into() }));
            }
            proxy.signatures.lock().unwrap().extend(text("x-container-sync-auth").or_else(|| text("x-container-sync-key")));
            let key = (text("x-backend-storage-policy-index").unwrap_or_default(), path);
            let code = |c: u16| Response::builder().status(c);
            let body = read_limited(body, 1 << 20).await.unwrap();
            let mut objects = proxy.objects.lock().unwrap();
            let at = text("x-timestamp").and_then(|t| Timestamp::parse(&t)).unwrap_or_default();
            match parts.method.as_str() {
                "PUT" | "DELETE" => {
                    let data = (parts.method == "PUT").then(|| body.to_vec());
                    let newer = objects.get(&key).is_none_or(|(t, _)| *t < at);
                    if newer {
                        objects.insert(key, (at, data));
                    }
                    code(if newer { 201 } else { 409 }).body(caelum_rest::empty()).unwrap()
                }
                _ => match objects.get(&key) {
                    Some((t, Some(data))) => code(200)
                        .header("X-Timestamp", t.normal())
                        .header("X-Backend-Timestamp", t.internal())
                        .header("Content-Length", data.len())
                        .body(full(data.clone()))
                        .unwrap(),
                    Some((t, None)) => code(404).header("X-Backend-Timestamp", t.internal()).body(caelum_rest::empty()).unwrap(),
                    None => code(404).body(caelum_rest::empty()).unwrap(),
                },
            }
        })
    }
}

fn t(n: u64) -> Timestamp {
    Timestamp::from_raw(160_000_000_000_000 + n * 100_000)
}

fn key(policy: &str, path: &str) -> (String, String) {
    (policy.into(), path.into())
}

#[tokio::test]
async fn objects_are_sent_to_the_other_cluster() {
    let c = Cluster::new(1, 1);
    let config = &c.nodes[0];
    let (here, there) = (Proxy::default(), Proxy::default());
    config.nodes.set_local("127.0.0.1", 9_999, Arc::new(there.clone()));
    let mut b = c.container(0, "c");
    b.initialize("a", "c", &t(0).internal(), 0).unwrap();
    let meta = |k: &str, v: &str| (k.to_string(), (v.to_string(), t(0).internal()));
    let metadata = [meta("X-Container-Sync-To", "http://127.0.0.1:9999/v1/b/d"), meta("X-Container-Sync-Key", "secret")].into();
    b.db().update_metadata(&metadata, false).unwrap();
    update_sync_store(&b).unwrap();
    b.put_objects(vec![row("o 1", 1), row("p", 2), ObjectRow::tombstone("q", &t(3).internal(), 0)]).unwrap();
    for (name, n) in [("o%201", 1), ("p", 2)] {
        here.objects.lock().unwrap().insert(key("0", &format!("/v1/a/c/{name}")), (t(n), Some(name.into())));
    }
    there.objects.lock().unwrap().insert(key("", "/v1/b/d/q"), (t(1), Some(b"old".to_vec())));
    let sync = SyncConfig {
        client: Arc::new(here.clone()),
        realms: SyncRealms::default(),
        allowed_sync_hosts: vec!["127.0.0.1".into()],
        container_time: Duration::from_secs(60),
        timeout: Duration::from_secs(5),
    };
    let stats = sync_containers(config, &sync).await;
    assert_eq!((stats.syncs, stats.puts, stats.deletes, stats.failures), (1, 2, 1, 0));
    let objects = there.objects.lock().unwrap().clone();
    assert_eq!(objects[&key("", "/v1/b/d/o%201")], (t(1), Some(b"o%201".to_vec())));
    assert_eq!(objects[&key("", "/v1/b/d/q")], (t(3), None));
    assert!(there.signatures.lock().unwrap().iter().all(|s| s == "secret"));
    // The second round finds everything there; a third has nothing to do.
    let again = sync_containers(config, &sync).await;
    assert_eq!((again.puts, again.failures), (0, 0));
    let info = b.get_info().unwrap();
    assert_eq!((info.x_container_sync_point1, info.x_container_sync_point2), (3, 3));
    // An object that cannot be read here stays to be sent.
    b.put_object(row("lost", 4)).unwrap();
    assert_eq!(sync_containers(config, &sync).await.failures, 1);
    assert_eq!(sync_containers(config, &sync).await.failures, 1);
    assert_eq!(b.get_info().unwrap().x_container_sync_point2, 3);
}

#[tokio::test]
async fn a_misplaced_object_is_moved() {
    let c = Cluster::with_policies(3);
    let config = &c.nodes[0];
    for n in 0..3 {
        c.container(n, "c").initialize("a", "c", &t(0).internal(), 1).unwrap();
    }
    let proxy = Proxy::default();
    let entry = |name: &str, kind: &str, at: Timestamp| {
        format!(
            "{{\"name\": \"{name}\", \"hash\": \"{}\", \"content_type\": \"application/x-{kind}\", \
             \"last_modified\": \"2020-09-13T12:26:50.000000\", \"bytes\": 0}}",
            at.internal()
        )
    };
    let rows = [
        entry("0:/a/c/moved", "put", t(1)),
        entry("0:/a/c/older", "put", t(1)),
        entry("0:/a/c/gone", "delete", t(2)),
        entry("1:/a/c/right", "put", t(1)),
        entry("0:/a/c/away", "put", Timestamp::at(config.env.now())),
        "{\"name\": \"nonsense\"}".to_string(),
    ];
    let put = |policy: &str, name: &str, at: Timestamp, data: &str| {
        let key = key(policy, &format!("/v1/a/c/{name}"));
        proxy.objects.lock().unwrap().insert(key, (at, Some(data.as_bytes().to_vec())));
    };
    let list = |path: &str, rows: String| proxy.listings.lock().unwrap().insert(path.to_string(), rows);
    list("/v1/.misplaced_objects", "[{\"name\": \"1599998400\"}]".into());
    list("/v1/.misplaced_objects/1599998400", format!("[{}, {{\"name\": \"1:/end\"}}]", rows.join(", ")));
    put("0", "moved", t(1), "data");
    put("0", "older", t(1), "old");
    put("1", "older", t(5), "new");
    put("1", "gone", t(1), "x");
    // Two share the work.
    let mut done = Vec::new();
    for process in 0..2 {
        let reconciler = ReconcilerConfig { client: Arc::new(proxy.clone()), concurrency: 2, processes: 2, process };
        done.push(reconcile(config, &reconciler).await);
    }
    assert!(done.iter().all(|s| s.success > 0 && s.invalid == 2), "{done:?}");
    assert_eq!((done[0].success + done[1].success, done[0].retry + done[1].retry), (4, 1));
    let objects = proxy.objects.lock().unwrap();
    assert_eq!(objects[&key("1", "/v1/a/c/moved")], (t(1).with_offset(3), Some(b"data".to_vec())));
    assert_eq!(objects[&key("0", "/v1/a/c/moved")], (t(1).with_offset(1), None));
    assert_eq!(objects[&key("1", "/v1/a/c/older")].1.as_deref(), Some(&b"new"[..]));
    assert_eq!(objects[&key("0", "/v1/a/c/older")].1, None);
    assert_eq!(objects[&key("1", "/v1/a/c/gone")], (t(2).with_offset(3), None));
}
