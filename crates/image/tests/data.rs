//! Image bytes: uploads good and bad, downloads, staging, imports, restarts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use bytes::Bytes;
use caelum_image::Options;
use caelum_rest::{BoxError, stream_channel};
use caelum_safeio::fetch::FetchPolicy;
use caelum_store::StoreUrl;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use support::{Cloud, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

/// A qcow2 version 3 header of a 1 MiB disk; `backing` names a backing file.
fn qcow2(backing: &str) -> Vec<u8> {
    let mut h = vec![0; 65536 * 4];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    if !backing.is_empty() {
        put(8, &512_u64.to_be_bytes());
        put(16, &(backing.len() as u32).to_be_bytes());
        put(512, backing.as_bytes());
    }
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(3_u64 * 65536).to_be_bytes());
    put(48, &65536_u64.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    h
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_and_download() {
    let c = Cloud::new().await;
    let id = c.image("a", json!({"name": "n", "visibility": "private"})).await;
    let path = format!("/v2/images/{id}/file");
    let r = c.get("a", &path).await;
    assert_eq!((r.status, r.body.len()), (204, 0));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| if (500_000..900_000).contains(&i) { 0 } else { (i % 251) as u8 }).collect();
    assert_eq!(c.raw("a", Method::PUT, &path, &[("content-type", "text/plain")], "x").await.status, 415);
    assert_eq!(c.data("a", &id, "file", bytes.clone()).await.status, 204);
    let v = c.show("a", &id).await;
    assert_eq!((&v["status"], &v["size"], &v["virtual_size"]), (&json!("active"), &json!(3_000_000), &json!(3_000_000)));
    assert_eq!(
        (v["os_hash_algo"].as_str(), v["os_hash_value"].as_str().map(str::len), &v["stores"]),
        (Some("sha512"), Some(128), &json!("local"))
    );
    let r = c.get("a", &path).await;
    assert_eq!((r.status, r.header("content-md5"), r.header("content-length")), (200, v["checksum"].as_str().unwrap(), "3000000"));
    assert_eq!(r.body, bytes);
    for (range, status, from, to, said) in [
        ("bytes=0-9", 206, 0, 10, "bytes 0-9/3000000"),
        ("bytes=2999990-", 206, 2_999_990, 3_000_000, "bytes 2999990-2999999/3000000"),
        ("bytes=-600000", 206, 2_400_000, 3_000_000, "bytes 2400000-2999999/3000000"),
        ("bytes=oops", 200, 0, 3_000_000, ""),
    ] {
        let r = c.raw("a", Method::GET, &path, &[("range", range)], "").await;
        assert_eq!((r.status, r.header("content-range")), (status, said), "{range}");
        assert_eq!(r.body, bytes[from..to], "{range}");
    }
    let r = c.raw("a", Method::GET, &path, &[("range", "bytes=3000000-")], "").await;
    assert_eq!((r.status, r.header("content-range")), (416, "bytes */3000000"));
    // The bytes of an active image never change, nor does their format.
    assert_eq!(c.data("a", &id, "file", "other").await.status, 409);
    assert_eq!(c.data("a", &id, "stage", "other").await.status, 409);
    let format = json!([{"op": "replace", "path": "/disk_format", "value": "qcow2"}]);
    assert_eq!(c.patch("a", &format!("/v2/images/{id}"), support::V21, format).await.status, 403);
    let local = c.service.local_path(&id).await.unwrap().unwrap();
    assert_eq!(std::fs::read(local).unwrap(), bytes);
    assert_eq!(c.service.audit(false).await.unwrap(), Vec::<String>::new());

    let act = |verb: &str| format!("/v2/images/{id}/actions/{verb}");
    assert_eq!(c.raw("a", Method::POST, &act("deactivate"), &[], "").await.status, 204);
    assert_eq!(c.raw("a", Method::POST, &act("deactivate"), &[], "").await.status, 204);
    assert_eq!((c.get("a", &path).await.status, c.get("admin", &path).await.status), (403, 200));
    assert_eq!(c.raw("a", Method::POST, &act("reactivate"), &[], "").await.status, 204);
    assert_eq!(c.get("reader", &path).await.status, 403);
    assert_eq!(c.raw("a", Method::DELETE, &format!("/v2/images/{id}"), &[], "").await.status, 204);
    assert_eq!(c.files(), Vec::<String>::new());
    // An id that held data names nothing else ever.
    assert_eq!(c.post("b", "/v2/images", json!({"id": id})).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_bytes_leave_nothing() {
    let c = Cloud::with(300_000, Options { project_quota_bytes: Some(500_000), ..Options::default() }).await;
    let tar = {
        let mut t = vec![b'x'; 1024];
        t[257..262].copy_from_slice(b"ustar");
        t
    };
    for (disk, container, bytes, status) in [
        ("qcow2", "bare", qcow2("/etc/passwd"), 415),
        ("qcow2", "bare", b"random bytes".to_vec(), 415),
        ("raw", "bare", qcow2(""), 415),
        ("raw", "bare", tar.clone(), 415),
        ("raw", "bare", Vec::new(), 415),
        ("vmdk", "ova", tar, 415),
        ("ploop", "bare", vec![1; 100], 415),
        ("raw", "bare", vec![1; 300_001], 413),
    ] {
        let id = c.image("a", json!({"disk_format": disk, "container_format": container})).await;
        let r = c.data("a", &id, "file", bytes).await;
        assert_eq!(r.status, status, "{disk} in {container}: {:?}", r.body);
        let v = c.show("a", &id).await;
        assert_eq!((&v["status"], &v["size"], &v["checksum"]), (&json!("queued"), &Value::Null, &Value::Null), "{disk}");
        assert_eq!(c.files(), Vec::<String>::new(), "{disk}");
        assert_eq!(c.service.local_path(&id).await.unwrap(), None);
    }
    let good = c.image("a", json!({"disk_format": "qcow2"})).await;
    assert_eq!(c.data("a", &good, "file", qcow2("")).await.status, 204);
    assert_eq!(c.show("a", &good).await["virtual_size"], 1 << 20);
    // 262,144 of 500,000 bytes are taken.
    let second = c.image("a", json!({})).await;
    assert_eq!(c.data("a", &second, "file", vec![1; 250_000]).await.status, 413);
    assert_eq!(c.data("a", &second, "file", vec![1; 230_000]).await.status, 204);
    let unset = c.post("a", "/v2/images", json!({})).await.json()["id"].as_str().unwrap().to_string();
    assert_eq!(c.data("a", &unset, "file", "x").await.status, 400);
    assert_eq!(c.files().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_doubled_and_deleted_uploads() {
    let c = Arc::new(Cloud::new().await);
    let id = c.image("a", json!({})).await;
    let path = format!("/v2/images/{id}/file");
    let begin = |headers: &'static [(&'static str, &'static str)]| {
        let (tx, body) = stream_channel(1);
        let (c, path) = (c.clone(), path.clone());
        (tx, tokio::spawn(async move { c.send("a", Method::PUT, &path, headers, body).await.status }))
    };
    // The client breaks off.
    let (tx, call) = begin(&[OCTETS]);
    tx.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    c.until(&id, &["saving"]).await;
    tx.send(Err(BoxError::from("gone"))).await.unwrap();
    assert_eq!(call.await.unwrap(), 400);
    assert_eq!((&c.show("a", &id).await["status"], c.files().len()), (&json!("queued"), 0));
    // It sends less than it said.
    let (tx, call) = begin(&[OCTETS, ("content-length", "10")]);
    tx.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    drop(tx);
    assert_eq!(call.await.unwrap(), 400);
    assert_eq!((&c.show("a", &id).await["status"], c.files().len()), (&json!("queued"), 0));
    // The request is dropped while bytes come in; what was begun still ends properly.
    let (tx, call) = begin(&[OCTETS]);
    tx.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    c.until(&id, &["saving"]).await;
    call.abort();
    tx.send(Err(BoxError::from("gone"))).await.unwrap();
    c.until(&id, &["queued"]).await;
    // Two at once: one wins.
    let (tx, call) = begin(&[OCTETS]);
    tx.send(Ok(Bytes::from_static(&[3; 700]))).await.unwrap();
    c.until(&id, &["saving"]).await;
    assert_eq!(c.data("a", &id, "file", "second").await.status, 409);
    drop(tx);
    assert_eq!(call.await.unwrap(), 204);
    assert_eq!(c.get("a", &path).await.body, vec![3; 700]);
    assert_eq!(c.files().len(), 1);
    // Deleted while it comes in.
    let late = c.image("a", json!({})).await;
    let (tx, body) = stream_channel(1);
    let (cloud, file) = (c.clone(), format!("/v2/images/{late}/file"));
    let call = tokio::spawn(async move { cloud.send("a", Method::PUT, &file, &[OCTETS], body).await.status });
    tx.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    c.until(&late, &["saving"]).await;
    assert_eq!(c.raw("a", Method::DELETE, &format!("/v2/images/{late}"), &[], "").await.status, 204);
    let status = call.await.unwrap();
    assert_eq!(status, 410);
    assert_eq!(c.files().len(), 1);
    drop(tx);
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_and_import() {
    let c = Cloud::new().await;
    let id = c.image("a", json!({})).await;
    let (import, direct) = (format!("/v2/images/{id}/import"), json!({"method": {"name": "glance-direct"}}));
    assert_eq!(c.post("a", &import, direct.clone()).await.status, 409);
    for (body, status) in [
        (json!({}), 400),
        (json!({"method": {}}), 400),
        (json!({"method": {"name": "copy-image"}}), 400),
        (json!({"method": {"name": "web-download"}}), 400),
        (json!({"method": {"name": "web-download", "uri": "file:///etc/passwd"}}), 400),
        (json!({"method": {"name": "web-download", "uri": "http://a/"}, "stores": ["other"]}), 409),
        (json!({"method": {"name": "glance-direct"}, "all_stores": 1}), 400),
    ] {
        assert_eq!(c.post("a", &import, body.clone()).await.status, status, "{body}");
    }
    assert_eq!(c.data("a", &id, "stage", vec![7; 1024]).await.status, 204);
    let v = c.show("a", &id).await;
    assert_eq!((&v["status"], &v["size"]), (&json!("uploading"), &Value::Null));
    assert_eq!(c.get("a", &format!("/v2/images/{id}/file")).await.status, 204);
    let r = c.post("a", &import, direct.clone()).await;
    assert_eq!(r.status, 202);
    let v = c.until(&id, &["active"]).await;
    assert_eq!((&v["stores"], &v["size"], v.get("os_glance_failed_import")), (&json!("local"), &json!(1024), None));
    assert_eq!(c.get("a", &format!("/v2/images/{id}/file")).await.body, vec![7; 1024]);
    let tasks = c.get("a", &format!("/v2/images/{id}/tasks")).await.json();
    let task = &tasks["tasks"][0];
    assert_eq!((&task["status"], task["request_id"].as_str()), (&json!("success"), Some(r.header("x-openstack-request-id"))));
    assert_eq!(task["input"]["import_req"]["method"]["name"], "glance-direct");
    assert_eq!(c.post("a", &import, direct.clone()).await.status, 409);
    // Refused bytes: the import fails, the image is queued again, nothing is left.
    let bad = c.image("a", json!({"disk_format": "qcow2"})).await;
    assert_eq!(c.data("a", &bad, "stage", qcow2("/etc/passwd")).await.status, 204);
    assert_eq!(c.post("a", &format!("/v2/images/{bad}/import"), direct).await.status, 202);
    let v = c.until(&bad, &["queued"]).await;
    assert_eq!(v["os_glance_failed_import"], "local");
    c.until_files(1).await;
}

/// Answers one HTTP request with these bytes.
async fn web_server(body: Vec<u8>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let serve = tokio::spawn(async move {
        while let Ok((mut s, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = s.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = s.write_all(head.as_bytes()).await;
            let _ = s.write_all(&body).await;
        }
    });
    (port, serve)
}

#[tokio::test(flavor = "multi_thread")]
async fn web_download() {
    let (port, server) = web_server(qcow2("")).await;
    let allowed = FetchPolicy { allowed_networks: vec!["127.0.0.1/32".parse().unwrap()], ..FetchPolicy::default() };
    let c = Cloud::with(1 << 30, Options { fetch: allowed, ..Options::default() }).await;
    let request = |uri: String| json!({"method": {"name": "web-download", "uri": uri}});
    let id = c.image("a", json!({"disk_format": "qcow2"})).await;
    assert_eq!(c.post("a", &format!("/v2/images/{id}/import"), request(format!("http://127.0.0.1:{port}/x"))).await.status, 202);
    assert_eq!(c.until(&id, &["active"]).await["virtual_size"], 1 << 20);
    // Declared otherwise than what comes.
    let raw = c.image("a", json!({})).await;
    assert_eq!(c.post("a", &format!("/v2/images/{raw}/import"), request(format!("http://127.0.0.1:{port}/x"))).await.status, 202);
    assert_eq!(c.until(&raw, &["queued"]).await["os_glance_failed_import"], "local");
    // The administrators' task API.
    let input = json!({"import_from": format!("http://127.0.0.1:{port}/x"), "import_from_format": "qcow2",
        "image_properties": {"name": "t", "disk_format": "qcow2", "container_format": "bare", "visibility": "public"}});
    let r = c.post("admin", "/v2/tasks", json!({"type": "import", "input": input})).await;
    assert_eq!(r.status, 201);
    let made = r.json()["image_id"].as_str().unwrap().to_string();
    c.until(&made, &["active"]).await;
    let task = c.get("admin", &format!("/v2/tasks/{}", r.json()["id"].as_str().unwrap())).await.json();
    assert_eq!((&task["status"], &task["result"]["image_id"]), (&json!("success"), &json!(made)));
    c.until_files(2).await;
    server.abort();

    // The host's own network is not for tenants.
    let closed = Cloud::new().await;
    let id = closed.image("a", json!({})).await;
    assert_eq!(closed.post("a", &format!("/v2/images/{id}/import"), request(format!("http://127.0.0.1:{port}/x"))).await.status, 202);
    assert_eq!(closed.until(&id, &["queued"]).await["os_glance_failed_import"], "local");
    closed.until_files(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_clears_what_was_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let (images, db) = (dir.path().join("images"), dir.path().join("db"));
    std::fs::create_dir(&db).unwrap();
    let start = || serve(images.clone(), StoreUrl::SqliteDir(db.clone()), 1 << 30, Options::default());
    let c = Arc::new(Cloud { service: start().await, dir });
    let (active, staged, saving) = (c.image("a", json!({})).await, c.image("a", json!({})).await, c.image("a", json!({})).await);
    assert_eq!(c.data("a", &active, "file", vec![1; 600]).await.status, 204);
    assert_eq!(c.data("a", &staged, "stage", vec![2; 600]).await.status, 204);
    let (tx, body) = stream_channel(1);
    let (cloud, path) = (c.clone(), format!("/v2/images/{saving}/file"));
    let call = tokio::spawn(async move { cloud.send("a", Method::PUT, &path, &[OCTETS], body).await.status });
    tx.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    c.until(&saving, &["saving"]).await;
    // As after a crash: the old process knows nothing of this one.
    let again = start().await;
    let api = again.api();
    let status = |id: String| {
        let req = http::Request::get(format!("/v2/images/{id}")).header("x-auth-token", "a").body(caelum_rest::empty()).unwrap();
        let call = api.call(req);
        async move {
            let bytes = caelum_rest::read_limited(call.await.into_body(), 1 << 20).await.unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap()["status"].as_str().unwrap_or("gone").to_string()
        }
    };
    assert_eq!(status(active.clone()).await, "active");
    assert_eq!(status(staged.clone()).await, "uploading");
    assert_eq!(status(saving.clone()).await, "queued");
    assert_eq!(c.files().len(), 2);
    // The old upload cannot finish any more.
    drop(tx);
    assert_ne!(call.await.unwrap(), 204);
    assert_eq!(status(saving).await, "queued");
    assert_eq!(again.audit(false).await.unwrap(), Vec::<String>::new());
    std::fs::write(images.join("stray"), "x").unwrap();
    std::fs::write(again.local_path(&active).await.unwrap().unwrap(), "by").unwrap();
    assert_eq!(again.audit(true).await.unwrap().len(), 2);
    assert_eq!(again.audit(true).await.unwrap().len(), 1);
    again.stop().await;
}
