//! All layers over the proxy and real storage servers on temporary directories.

use super::*;
use crate::proxy::{InfoSource, Proxy, ProxyDeps, ProxyOptions};
use crate::testing::{request, send};
use caelum_base::Env;
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer, ObjectServer, ObjectServerConfig};
use caelum_rest::HttpService;
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{HashPath, Nodes, Policies, SwiftConf};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;

const A: &str = "/v1/AUTH_a";

fn ring(port: u16) -> Ring {
    let device = Device { ip: "127.0.0.1".into(), port, device: "d1".into(), weight: 1.0, region: 1, zone: 1, ..Device::default() };
    Ring::new(vec![Some(device)], vec![vec![0; 4]], 2)
}

/// One node, and the layers from bulk work to symbolic links before it.
fn cluster() -> (tempfile::TempDir, Arc<dyn HttpService>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("d1")).unwrap();
    let env = Env::system();
    let hash = HashPath { prefix: Vec::new(), suffix: b"endcap".to_vec() };
    let swift = Arc::new(SwiftConf { hash, policies: Policies::default() });
    let nodes = Nodes::default();
    let db = || AccountServerConfig::new(dir.path(), (*swift).clone(), nodes.clone(), env.clone());
    nodes.set_local("127.0.0.1", 1, AccountServer::new(db()).service());
    nodes.set_local("127.0.0.1", 2, ContainerServer::new(db()).service());
    let mut object = ObjectServerConfig::new(dir.path(), swift.clone(), nodes.clone(), env.clone());
    object.disk.mount_check = false;
    nodes.set_local("127.0.0.1", 3, ObjectServer::new(object));
    let rings = Rings::fixed(ring(1), ring(2), vec![(0, ring(3))]);
    let options = ProxyOptions { account_autocreate: true, ..ProxyOptions::default() };
    let proxy = Proxy::new(ProxyDeps { rings, nodes, swift: swift.clone(), env: env.clone(), options, cache: None });
    let info: Arc<dyn InfoSource> = proxy.clone();
    let pace = Pace { per_second: 0, ..Pace::default() };
    let mut at: Arc<dyn HttpService> = Arc::new(Symlink::new(proxy));
    at = Arc::new(ObjectVersioning::new(at, info.clone(), Arc::new(swift.policies.clone()), env.clone()));
    at = Arc::new(VersionedWrites::new(at, info.clone(), env.clone()));
    at = Arc::new(Dlo::new(at, env.clone(), pace));
    let config = SloConfig { pace, ..SloConfig::default() };
    at = Arc::new(Slo::new(at, info, swift.hash.clone(), env, config));
    at = Arc::new(Copy::new(at));
    (dir, Arc::new(Bulk::new(at, BulkConfig::default())))
}

async fn put(p: &Arc<dyn HttpService>, path: &str, headers: &[(&str, &str)], body: &str) {
    let (status, _, text) = send(p, "PUT", &format!("{A}{path}"), headers, body.to_string()).await;
    assert!((200..300).contains(&status), "{path}: {status} {text}");
}

async fn get(p: &Arc<dyn HttpService>, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, _, body) = send(p, "GET", &format!("{A}{path}"), headers, "").await;
    (status, body)
}

async fn rows(p: &Arc<dyn HttpService>, path: &str) -> Vec<Value> {
    serde_json::from_str(&get(p, path, &[]).await.1).unwrap()
}

#[tokio::test]
async fn large_objects_links_and_copies() {
    let (_dir, p) = cluster();
    for c in ["/c", "/seg"] {
        put(&p, c, &[], "").await;
    }
    put(&p, "/seg/p1", &[], "first").await;
    put(&p, "/seg/p2", &[], "second").await;
    put(&p, "/c/slo?multipart-manifest=put", &[("content-type", "a/b")], r#"[{"path":"/seg/p1"},{"data":"LQ=="},{"path":"/seg/p2"}]"#)
        .await;
    assert_eq!(get(&p, "/c/slo", &[]).await, (200, "first-second".into()));
    assert_eq!(get(&p, "/c/slo", &[("range", "bytes=4-7")]).await, (206, "t-se".into()));
    assert_eq!(get(&p, "/c/slo", &[("range", "bytes=50-")]).await.0, 416);
    assert_eq!(get(&p, "/c/slo?part-number=3", &[]).await, (206, "second".into()));
    let tag = send(&p, "HEAD", &format!("{A}/c/slo"), &[], "").await.1["etag"].to_str().unwrap().to_string();
    assert_eq!(get(&p, "/c/slo", &[("if-none-match", &tag)]).await.0, 304);
    put(&p, "/c/dlo", &[("x-object-manifest", "seg/p")], "").await;
    assert_eq!(get(&p, "/c/dlo", &[("range", "bytes=-8")]).await, (206, "stsecond".into()));
    put(&p, "/c/link", &[("x-symlink-target", "c/slo")], "").await;
    assert_eq!(get(&p, "/c/link", &[("range", "bytes=0-1")]).await, (206, "fi".into()));
    put(&p, "/c/copy", &[("x-copy-from", "c/link")], "").await;
    assert_eq!(get(&p, "/c/copy", &[]).await, (200, "first-second".into()));
    let listed = rows(&p, "/c?format=json").await;
    assert_eq!((&listed[3]["name"], &listed[3]["bytes"], &listed[3]["slo_etag"]), (&json!("slo"), &json!(12), &json!(tag)));
    assert_eq!(listed[2]["symlink_path"], "/v1/AUTH_a/c/slo");
    let (_, text) = get(&p, "/c/slo?multipart-manifest=get&format=raw", &[]).await;
    put(&p, "/c/again?multipart-manifest=put", &[], &text).await;
    // A segment goes: what can no longer be had whole is not sent as if it were.
    send(&p, "DELETE", &format!("{A}/seg/p2"), &[], "").await;
    let resp = p.call(request("GET", &format!("{A}/c/slo"), &[], "")).await;
    assert_eq!(resp.status(), 200);
    assert!(resp.into_body().collect().await.is_err());
    let (_, _, body) = send(&p, "DELETE", &format!("{A}/c/slo?multipart-manifest=delete"), &[], "").await;
    assert!(body.starts_with("Number Deleted: 2\nNumber Not Found: 1\n"), "{body}");
}

#[tokio::test]
async fn versions_both_ways() {
    let (_dir, p) = cluster();
    for c in ["/old", "/v"] {
        put(&p, c, &[], "").await;
    }
    put(&p, "/new", &[("x-versions-enabled", "true")], "").await;
    send(&p, "POST", &format!("{A}/old"), &[("x-versions-location", "v")], "").await;
    for text in ["one", "two"] {
        put(&p, "/new/o", &[], text).await;
        put(&p, "/old/o", &[], text).await;
    }
    let all = rows(&p, "/new?versions").await;
    assert_eq!(all.iter().map(|r| r["is_latest"].as_bool().unwrap()).collect::<Vec<_>>(), [true, false]);
    let first = all[1]["version_id"].as_str().unwrap().to_string();
    assert_eq!(get(&p, &format!("/new/o?version-id={first}"), &[]).await, (200, "one".into()));
    assert_eq!(send(&p, "DELETE", &format!("{A}/new/o"), &[], "").await.0, 204);
    assert_eq!(get(&p, "/new/o", &[]).await.0, 404);
    put(&p, &format!("/new/o?version-id={first}"), &[], "").await;
    assert_eq!(get(&p, "/new/o", &[]).await, (200, "one".into()));
    assert_eq!(send(&p, "POST", &format!("{A}/new/o"), &[("x-object-meta-a", "b")], "").await.0, 202);
    assert_eq!(send(&p, "HEAD", &format!("{A}/new/o"), &[], "").await.1["x-object-meta-a"], "b");
    assert_eq!(rows(&p, "/v?format=json").await.len(), 1);
    assert_eq!(send(&p, "DELETE", &format!("{A}/old/o"), &[], "").await.0, 204);
    assert_eq!(get(&p, "/old/o", &[]).await, (200, "one".into()));
    assert_eq!(rows(&p, "/v?format=json").await.len(), 0);
    assert_eq!(send(&p, "DELETE", &format!("{A}/new"), &[], "").await.0, 409);
    let (_, _, body) = send(&p, "POST", &format!("{A}?bulk-delete"), &[], "old/o\nold\nv").await;
    assert!(body.starts_with("Number Deleted: 3\n"), "{body}");
}
