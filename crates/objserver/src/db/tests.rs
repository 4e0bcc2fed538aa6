//! The account and container servers as object servers, proxies and replicators see them. Which status and
//! which header belongs where was compared with upstream's servers under the same requests.

use super::*;
use crate::{AccountServer, ContainerServer};
use caelum_rest::{HttpService, empty, full, read_limited};
use http::{HeaderMap, Request};
use serde_json::{Value, json};

struct Node {
    dir: tempfile::TempDir,
    container: Arc<dyn HttpService>,
    account: Arc<dyn HttpService>,
    nodes: Nodes,
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

const C: &str = "/sda/1/a/c";
const CONF: &str = "[swift-hash]\nswift_hash_path_suffix = end\n[storage-policy:0]\nname = gold\ndefault = yes\n\
                    [storage-policy:1]\nname = silver\n";

fn at(n: u64) -> String {
    format!("{}.00000", 1_600_000_000 + n)
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sda")).unwrap();
        let nodes = Nodes::default();
        let mut config = DbServerConfig::new(dir.path(), SwiftConf::parse(CONF).unwrap(), nodes.clone(), Env::system());
        config.reserve = Reserve::Bytes(0);
        let container = ContainerServer::new(config.clone()).service();
        let account = AccountServer::new(config).service();
        Self { dir, container, account, nodes }
    }

    async fn send(service: &Arc<dyn HttpService>, method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut req = Request::builder().method(method).uri(uri);
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let body = if body.is_empty() { empty() } else { full(body.to_string()) };
        let (parts, body) = service.call(req.body(body).unwrap()).await.into_parts();
        let body = String::from_utf8(read_limited(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn c(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        Self::send(&self.container, method, uri, headers, "").await
    }

    async fn a(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        Self::send(&self.account, method, uri, headers, "").await
    }

    async fn put(&self, name: &str, n: u64) -> u16 {
        let time = at(n);
        let headers = [("X-Timestamp", time.as_str()), ("X-Size", "5"), ("X-Content-Type", "text/plain"), ("X-Etag", "e")];
        self.c("PUT", &format!("{C}/{name}"), &headers).await.code
    }

    async fn make(&self) {
        assert_eq!(self.c("PUT", C, &[("X-Timestamp", &at(0))]).await.code, 201);
    }
}

#[tokio::test]
async fn a_container_and_its_listing() {
    let n = Node::new();
    assert_eq!(n.c("HEAD", C, &[]).await.code, 404);
    assert_eq!(n.put("o", 1).await, 404);
    n.make().await;
    assert_eq!(n.c("PUT", C, &[("X-Timestamp", &at(1)), ("X-Container-Meta-Color", "ü")]).await.code, 202);
    assert_eq!(n.put("o%2F1", 2).await, 201);
    assert_eq!(n.put("p", 3).await, 201);
    let head = n.c("HEAD", C, &[]).await;
    assert_eq!((head.code, head.header("X-Container-Object-Count"), head.header("X-Container-Bytes-Used")), (204, "2", "10"));
    assert_eq!(head.headers["X-Container-Meta-Color"].as_bytes(), "ü".as_bytes());
    assert_eq!(head.header("X-Backend-Sharding-State"), "unsharded");
    let list = n.c("GET", &format!("{C}?format=json"), &[]).await;
    assert_eq!(list.header("Content-Type"), "application/json; charset=utf-8");
    assert_eq!(
        list.body,
        "[{\"bytes\": 5, \"hash\": \"e\", \"name\": \"o/1\", \"content_type\": \"text/plain\", \
         \"last_modified\": \"2020-09-13T12:26:42.000000\"}, {\"bytes\": 5, \"hash\": \"e\", \"name\": \"p\", \
         \"content_type\": \"text/plain\", \"last_modified\": \"2020-09-13T12:26:43.000000\"}]"
    );
    assert_eq!(n.c("GET", C, &[]).await.body, "o/1\np\n");
    assert_eq!(n.c("GET", &format!("{C}?delimiter=/"), &[]).await.body, "o/\np\n");
    let none = n.c("GET", &format!("{C}?prefix=zzz"), &[]).await;
    assert_eq!((none.code, none.body.as_str()), (204, ""));
    assert_eq!(n.c("GET", &format!("{C}?limit=10001"), &[]).await.code, 412);
    assert_eq!(n.c("DELETE", C, &[("X-Timestamp", &at(9))]).await.code, 409);
    for o in ["o%2F1", "p"] {
        assert_eq!(n.c("DELETE", &format!("{C}/{o}"), &[("X-Timestamp", &at(8))]).await.code, 204);
    }
    assert_eq!(n.c("DELETE", C, &[("X-Timestamp", &at(9))]).await.code, 204);
    let gone = n.c("GET", C, &[]).await;
    assert_eq!((gone.code, gone.header("X-Backend-DELETE-Timestamp")), (404, at(9).as_str()));
    assert_eq!(n.c("PUT", C, &[("X-Timestamp", &at(5))]).await.code, 409);
    assert_eq!(n.c("PUT", C, &[("X-Timestamp", &at(10))]).await.code, 201);
}

/// The same question is answered from memory only as long as nobody, of this process or another, has changed a row.
#[tokio::test]
async fn a_listing_asked_for_again_is_the_present_one() {
    let n = Node::new();
    n.make().await;
    let list = async |query: &str, headers: &[(&str, &str)]| n.c("GET", &format!("{C}?{query}"), headers).await.body;
    for (name, time) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(n.put(name, time).await, 201);
    }
    for _ in 0..2 {
        assert_eq!(list("", &[]).await, "a\nb\nc\n");
        assert_eq!(list("limit=1", &[]).await, "a\n");
        assert_eq!(list("reverse=on", &[]).await, "c\nb\na\n");
        assert_eq!(list("marker=a", &[]).await, "b\nc\n");
        assert_eq!(list("format=json&limit=1", &[]).await.matches("\"name\": \"a\"").count(), 1);
        assert_eq!(list("", &[("X-Backend-Storage-Policy-Index", "1")]).await, "");
    }
    assert_eq!(n.c("DELETE", &format!("{C}/b"), &[("X-Timestamp", &at(4))]).await.code, 204);
    assert_eq!(list("", &[]).await, "a\nc\n");
    // Another process with databases open of its own.
    let mut config = DbServerConfig::new(n.dir.path(), SwiftConf::parse(CONF).unwrap(), n.nodes.clone(), Env::system());
    config.reserve = Reserve::Bytes(0);
    let other = ContainerServer::new(config).service();
    let headers = [("X-Timestamp", &*at(5)), ("X-Size", "77"), ("X-Content-Type", "image/png"), ("X-Etag", "f")];
    for name in ["b", "c"] {
        assert_eq!(Node::send(&other, "PUT", &format!("{C}/{name}"), &headers, "").await.code, 201);
    }
    for _ in 0..2 {
        assert_eq!(list("", &[]).await, "a\nb\nc\n");
        assert_eq!(list("format=json&prefix=c", &[]).await.matches("\"bytes\": 77").count(), 1);
    }
    assert_eq!(Node::send(&other, "DELETE", &format!("{C}/a"), &[("X-Timestamp", &at(6))], "").await.code, 204);
    assert_eq!(list("", &[]).await, "b\nc\n");
}

#[tokio::test]
async fn many_reports_at_once() {
    let n = Node::new();
    n.make().await;
    let puts = futures_util::future::join_all((0..500).map(|i| n.put_owned(format!("o{i:03}"))).collect::<Vec<_>>()).await;
    assert!(puts.iter().all(|c| *c == 201));
    assert_eq!(n.c("HEAD", C, &[]).await.header("X-Container-Object-Count"), "500");
}

impl Node {
    async fn put_owned(&self, name: String) -> u16 {
        self.put(&name, 1).await
    }
}

#[tokio::test]
async fn bad_requests() {
    let n = Node::new();
    n.make().await;
    let t = at(1);
    let cases: [(&str, &str, Vec<(&str, &str)>, u16); 12] = [
        ("PUT", C, vec![], 400),
        ("PUT", C, vec![("X-Timestamp", "x")], 400),
        ("PUT", "/sda/1/a/c/o", vec![("X-Timestamp", &t)], 400),
        ("PUT", "/sda/1/a/c/o", vec![("X-Timestamp", &t), ("X-Size", "x"), ("X-Content-Type", "t"), ("X-Etag", "e")], 400),
        ("PUT", C, vec![("X-Timestamp", &t), ("X-Backend-Storage-Policy-Index", "7")], 400),
        ("PUT", C, vec![("X-Timestamp", &t), ("X-Backend-Storage-Policy-Index", "1")], 409),
        ("PUT", C, vec![("X-Timestamp", &t), ("X-Container-Sync-To", "http://evil/v1/a/c")], 400),
        ("PUT", "/sdb/1/a/c", vec![("X-Timestamp", &t)], 507),
        ("PUT", "/sda/1/a/c%00", vec![("X-Timestamp", &t)], 400),
        ("GET", "/sda/1/a/%ff", vec![], 412),
        ("PATCH", C, vec![], 405),
        ("GET", "/sda/../a/c", vec![], 400),
    ];
    for (method, uri, headers, code) in cases {
        assert_eq!(n.c(method, uri, &headers).await.code, code, "{method} {uri} {headers:?}");
    }
    assert_eq!(Node::send(&n.container, "UPDATE", C, &[("X-Timestamp", &t)], "{bad").await.code, 400);
    let long = "v".repeat(5_000);
    assert_eq!(n.c("POST", C, &[("X-Timestamp", &t), ("X-Container-Meta-A", &long)]).await.code, 400);
}

#[tokio::test]
async fn automatic_accounts() {
    let n = Node::new();
    let t = at(1);
    let headers = [("X-Timestamp", t.as_str()), ("X-Size", "0"), ("X-Content-Type", "t"), ("X-Etag", "e")];
    assert_eq!(n.c("PUT", "/sda/1/.expiring/c/o", &headers).await.code, 201);
    assert_eq!(n.c("PUT", "/sda/1/.shards_a/c/o", &headers).await.code, 404);
    let report =
        [("X-Put-Timestamp", t.as_str()), ("X-Delete-Timestamp", "0000000000.00000"), ("X-Object-Count", "1"), ("X-Bytes-Used", "2")];
    assert_eq!(n.a("PUT", "/sda/1/.expiring/c", &report).await.code, 201);
    assert_eq!(n.a("PUT", "/sda/1/a/c", &report).await.code, 404);
}

#[tokio::test]
async fn the_account_is_told() {
    let n = Node::new();
    n.nodes.set_local("10.0.0.1", 6_202, n.account.clone());
    let headers = [
        ("X-Timestamp", "1600000001.00000"),
        ("X-Account-Host", "10.0.0.1:6202"),
        ("X-Account-Partition", "3"),
        ("X-Account-Device", "sda"),
    ];
    assert_eq!(n.c("PUT", C, &headers).await.code, 404, "no such account");
    assert_eq!(n.a("PUT", "/sda/3/a", &[("X-Timestamp", &at(0)), ("X-Account-Meta-K", "v")]).await.code, 201);
    assert_eq!(n.c("PUT", C, &headers).await.code, 202);
    let account = n.a("GET", "/sda/3/a?format=json", &[]).await;
    assert_eq!(account.json()[0]["name"], "c");
    assert_eq!(account.json()[0]["storage_policy"], "gold");
    assert_eq!((account.header("X-Account-Container-Count"), account.header("X-Account-Meta-K")), ("1", "v"));
    assert_eq!(account.header("X-Account-Storage-Policy-gold-Container-Count"), "1");
    let mut wrong = headers.to_vec();
    wrong.push(("X-Account-Device", "x,y"));
    wrong.remove(3);
    assert_eq!(n.c("PUT", C, &wrong).await.code, 400);
    assert_eq!(n.a("DELETE", "/sda/3/a", &[("X-Timestamp", &at(5))]).await.code, 204);
    let gone = n.a("HEAD", "/sda/3/a", &[]).await;
    assert_eq!((gone.code, gone.header("X-Account-Status")), (404, "Deleted"));
    assert_eq!(n.a("PUT", "/sda/3/a", &[("X-Timestamp", &at(6))]).await.code, 403);
}

#[tokio::test]
async fn shard_ranges_and_redirects() {
    let n = Node::new();
    n.make().await;
    let t = at(1);
    let range = |name: &str, lower: &str, upper: &str, state: u32| {
        json!({"name": name, "timestamp": t, "lower": lower, "upper": upper, "object_count": 1, "bytes_used": 2,
            "meta_timestamp": t, "deleted": 0, "state": state, "state_timestamp": t, "epoch": null, "reported": 0, "tombstones": -1})
    };
    let shard = [("X-Timestamp", t.as_str()), ("X-Backend-Record-Type", "shard")];
    let body = json!([range(".shards_a/x", "", "m", 40), range(".shards_a/y", "m", "", 20)]).to_string();
    assert_eq!(Node::send(&n.container, "PUT", C, &shard, &body).await.code, 202);
    assert_eq!(Node::send(&n.container, "PUT", C, &shard, "[{}]").await.code, 400);
    let all = n.c("GET", &format!("{C}?format=json"), &[("X-Backend-Record-Type", "shard")]).await;
    assert_eq!((all.header("X-Backend-Record-Type"), all.json().as_array().unwrap().len()), ("shard", 2));
    let q = |query: &str| format!("{C}?format=json&{query}");
    let names = n
        .c("GET", &q("states=updating&includes=z"), &[("X-Backend-Record-Type", "shard"), ("X-Backend-Record-Shard-Format", "namespace")])
        .await;
    assert_eq!(names.json(), json!([{"name": ".shards_a/y", "lower": "m", "upper": ""}]));
    // The gap that no listing state covers is filled with the container itself.
    let listing = n.c("GET", &q("states=listing"), &[("X-Backend-Record-Type", "shard")]).await;
    assert_eq!(listing.json()[1]["name"], "a/c");
    assert_eq!(n.c("GET", &q("states=bad"), &[("X-Backend-Record-Type", "shard")]).await.code, 400);
    let put =
        [("X-Timestamp", t.as_str()), ("X-Size", "5"), ("X-Content-Type", "t"), ("X-Etag", "e"), ("X-Backend-Accept-Redirect", "true")];
    let there = n.c("PUT", &format!("{C}/zed"), &put).await;
    assert_eq!((there.code, there.header("Location")), (301, "/.shards_a/y/zed"));
    assert_eq!(there.header("X-Backend-Redirect-Timestamp"), t);
    // A name that needs quoting is only sent to who understands it.
    assert_eq!(n.c("PUT", &format!("{C}/z%20d"), &put).await.code, 201);
    assert_eq!(n.c("PUT", &format!("{C}/zed"), &put[..4]).await.code, 201);
}

#[tokio::test]
async fn replication_requests() {
    let n = Node::new();
    n.make().await;
    n.put("o", 1).await;
    let hash = std::fs::read_dir(n.dir.path().join("sda/containers/1")).unwrap().next().unwrap().unwrap().path();
    let hash = std::fs::read_dir(hash).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let uri = format!("/sda/1/{hash}");
    let call = async |body: Value| Node::send(&n.container, "REPLICATE", &uri, &[], &body.to_string()).await;
    let info = call(json!([
        "sync",
        0,
        "other",
        "remote",
        at(0),
        at(0),
        "0000000000.00000",
        "{\"X-Container-Meta-A\": [\"v\", \"1600000005.00000\"]}"
    ]))
    .await;
    assert_eq!(info.code, 200);
    assert_eq!(
        (info.json()["count"].as_i64(), info.json()["point"].as_i64(), info.json()["max_row"].as_i64()),
        (Some(1), Some(-1), Some(1))
    );
    assert_eq!(n.c("HEAD", C, &[]).await.header("X-Container-Meta-A"), "v");
    let rows = json!(["merge_items", [{"ROWID": 7, "name": "p", "created_at": at(2), "size": 1, "content_type": "t", "etag": "e", "deleted": 0, "storage_policy_index": 0}], "remote"]);
    assert_eq!(call(rows).await.code, 202);
    let info = call(json!(["sync", 7, "other", "remote", at(0), at(0), "0000000000.00000", ""])).await;
    assert_eq!((info.json()["count"].as_i64(), info.json()["point"].as_i64()), (Some(2), Some(7)));
    assert_eq!(call(json!(["merge_syncs", [{"remote_id": "third", "sync_point": 3}]])).await.code, 202);
    assert_eq!(call(json!(["get_shard_ranges"])).await.body, "[]");
    for bad in [json!([]), json!({}), json!(["sync"]), json!(["nonsense"]), json!(["merge_items"]), json!(["complete_rsync", "../x"])] {
        assert_eq!(call(bad.clone()).await.code, 400, "{bad}");
    }
    let absent =
        Node::send(&n.container, "REPLICATE", "/sda/1/0123456789abcdef0123456789abcdef", &[], "[\"sync\",0,\"\",\"\",\"\",\"\",\"\",\"\"]")
            .await;
    assert_eq!(absent.code, 404);
    assert!(n.dir.path().join("sda/tmp").is_dir(), "rsync makes no directories");
}

#[tokio::test]
async fn a_pushed_database_is_put_in_place() {
    let n = Node::new();
    n.make().await;
    n.put("o", 1).await;
    n.c("HEAD", C, &[]).await;
    let device = n.dir.path().join("sda");
    let partition = device.join("containers/1");
    let suffix = std::fs::read_dir(&partition).unwrap().next().unwrap().unwrap().path();
    let dir = std::fs::read_dir(&suffix).unwrap().next().unwrap().unwrap().path();
    let hash = dir.file_name().unwrap().to_str().unwrap().to_string();
    let bytes = std::fs::read(dir.join(format!("{hash}.db"))).unwrap();
    std::fs::rename(&partition, device.join("aside")).unwrap();
    let push = Request::builder().method("PUSH").uri("/sda/1/remote-id").body(full(bytes)).unwrap();
    assert_eq!(n.container.call(push).await.status(), 201);
    let complete = format!("[\"complete_rsync\", \"remote-id\", \"{hash}.db\"]");
    assert_eq!(Node::send(&n.container, "REPLICATE", &format!("/sda/1/{hash}"), &[], &complete).await.code, 204);
    assert_eq!(n.c("GET", C, &[]).await.body, "o\n");
    assert_eq!(Node::send(&n.container, "REPLICATE", &format!("/sda/1/{hash}"), &[], &complete).await.code, 404);
    let evil = Request::builder().method("PUSH").uri("/sda/1/..%2Fx").body(full("x")).unwrap();
    assert_eq!(n.container.call(evil).await.status(), 400);
}
