//! What stands before the storage servers.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use caelum_base::Env;
use caelum_objserver::middleware::{HealthCheck, Recon, ReconConfig};
use caelum_rest::{Body, HttpService, empty, full, read_limited};
use caelum_swiftkit::Policies;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

struct Server;

impl HttpService for Server {
    fn call(&self, _: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async { Response::new(full("the server")) })
    }
}

async fn ask(service: &dyn HttpService, method: &str, path: &str) -> (u16, String) {
    let req = Request::builder().method(method).uri(path).body(empty()).unwrap();
    let (parts, body) = service.call(req).await.into_parts();
    (parts.status.as_u16(), String::from_utf8(read_limited(body, 1 << 20).await.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn out_of_service() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("off");
    let layer = HealthCheck::new(Arc::new(Server), Some(file.clone()));
    assert_eq!(ask(&layer, "GET", "/healthcheck").await, (200, "OK".into()));
    std::fs::write(&file, "").unwrap();
    assert_eq!(ask(&layer, "GET", "/healthcheck").await, (503, "DISABLED BY FILE".into()));
    assert_eq!(ask(&layer, "GET", "/sda/1/a").await, (200, "the server".into()));
}

fn recon(root: &Path) -> Recon {
    let config = ReconConfig {
        devices: root.join("node"),
        swift_dir: root.join("etc"),
        cache: root.join("cache"),
        policies: Policies::default(),
        env: Env::system(),
    };
    Recon::new(Arc::new(Server), config)
}

async fn json_of(service: &dyn HttpService, what: &str) -> Value {
    let (status, text) = ask(service, "GET", &format!("/recon/{what}")).await;
    assert_eq!(status, 200, "{what}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn every_question_has_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let layer = recon(dir.path());
    let plain = "version time mem load mounted sockstat devices unmounted diskusage quarantined ringmd5 swiftconfmd5 driveaudit async \
                 replication relinker sharding expirer/object reconstruction/object updater/container updater/object";
    for what in plain.split_whitespace() {
        json_of(&layer, what).await;
    }
    for kind in ["account", "container", "object"] {
        json_of(&layer, &format!("replication/{kind}")).await;
        json_of(&layer, &format!("auditor/{kind}")).await;
    }
    for nothing in ["nonsense", "updater/account", "expirer/account", "expirer", "reconstruction", "auditor"] {
        let got = ask(&layer, "GET", &format!("/recon/{nothing}")).await;
        assert_eq!(got, (404, format!("Invalid path: /recon/{nothing}")));
    }
    assert_eq!(ask(&layer, "HEAD", "/recon/mem").await, (200, String::new()));
    assert_eq!(ask(&layer, "GET", "/reconx").await.1, "the server");
}

#[tokio::test]
async fn figures_files_and_devices() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for device in
        ["node/sda/quarantined/objects/h1", "node/sda/quarantined/objects-1/h2", "node/sda/quarantined/accounts/h3", "etc", "cache"]
    {
        std::fs::create_dir_all(at(device)).unwrap();
    }
    std::fs::write(at("node/file"), "").unwrap();
    std::fs::write(at("etc/swift.conf"), "x").unwrap();
    std::fs::write(at("etc/object.ring.gz"), "x").unwrap();
    std::fs::write(at("cache/account.recon"), r#"{"replication_time": 1.5, "other": 1}"#).unwrap();
    let layer = recon(dir.path());
    let path = |name: &str| at(name).display().to_string();
    let sum = "9dd4e461268c8034f5c8564e155c67a6";
    assert_eq!(json_of(&layer, "swiftconfmd5").await, json!({ path("etc/swift.conf"): sum }));
    assert_eq!(json_of(&layer, "ringmd5").await, json!({ path("etc/object.ring.gz"): sum }));
    assert_eq!(json_of(&layer, "devices").await, json!({ path("node"): ["sda"] }));
    assert_eq!(json_of(&layer, "unmounted").await, json!([{"device": "sda", "mounted": false}]));
    let usage = json!([{"device": "sda", "mounted": false, "size": "", "used": "", "avail": ""}]);
    assert_eq!(json_of(&layer, "diskusage").await, usage);
    let counts = json!({"objects": 2, "containers": 0, "accounts": 1, "policies": {"0": {"objects": 1}, "1": {"objects": 1}}});
    assert_eq!(json_of(&layer, "quarantined").await, counts);
    let figures = json!({"replication_time": 1.5, "replication_stats": null, "replication_last": null});
    assert_eq!(json_of(&layer, "replication/account").await, figures);
}
