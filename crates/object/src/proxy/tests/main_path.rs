use super::*;

#[tokio::test]
async fn an_account_comes_into_being() {
    let c = Cluster::new();
    let a = c.call("GET", "/v1/a", &[], "").await;
    assert_eq!((a.status, a.text(), a.header("x-account-container-count")), (200, "[]", Some("0")));
    assert_eq!(a.header("x-backend-fake-account-listing"), Some("yes"));
    assert_eq!(c.call("HEAD", "/v1/a", &[], "").await.status, 200);
    assert!(!c.proxy.account_info(&anyone(), "a").await.really_exists);
    assert_eq!(c.call("PUT", "/v1/a/c", &[], "").await.status, 201);
    assert!(c.proxy.account_info(&anyone(), "a").await.really_exists);
    assert_eq!(c.call("PUT", "/v1/a", &[], "").await.status, 405);
    assert_eq!(c.call("POST", "/v1/b", &[("x-account-meta-x", "1")], "").await.status, 204);
    assert_eq!(c.call("DELETE", "/v1/a?bulk-delete", &[], "").await.status, 405);
}

#[tokio::test]
async fn objects_come_and_go() {
    let c = Cluster::with_container().await;
    let put = c.call("PUT", "/v1/a/c/o%20x", &[("x-object-meta-color", "red"), ("content-type", "text/x")], "hello").await;
    assert_eq!((put.status, put.header("etag")), (201, Some("5d41402abc4b2a76b9719d911017c592")));
    assert!(put.header("last-modified").unwrap().ends_with(" GMT"));
    let (primaries, handoffs) = c.places("o x");
    assert!(primaries.iter().all(|s| s.get("/a/c/o%20x").is_some()));
    assert!(handoffs.iter().all(|s| s.get("/a/c/o%20x").is_none()));

    let get = c.call("GET", "/v1/a/c/o%20x", &[], "").await;
    assert_eq!((get.status, get.text(), get.header("content-length")), (200, "hello", Some("5")));
    assert_eq!(get.header("etag"), Some("5d41402abc4b2a76b9719d911017c592"));
    assert_eq!((get.header("x-object-meta-color"), get.header("content-type")), (Some("red"), Some("text/x")));
    let head = c.call("HEAD", "/v1/a/c/o%20x", &[], "").await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("5")));
    let range = c.call("GET", "/v1/a/c/o%20x", &[("range", "bytes=1-2")], "").await;
    assert_eq!((range.status, range.text(), range.header("content-range")), (206, "el", Some("bytes 1-2/5")));

    assert_eq!(c.call("POST", "/v1/a/c/o%20x", &[("x-object-meta-color", "blue")], "").await.status, 202);
    assert_eq!(c.call("HEAD", "/v1/a/c/o%20x", &[], "").await.header("x-object-meta-color"), Some("blue"));
    assert_eq!(c.call("DELETE", "/v1/a/c/o%20x", &[], "").await.status, 204);
    assert_eq!(c.call("GET", "/v1/a/c/o%20x", &[], "").await.status, 404);
    assert_eq!(c.call("DELETE", "/v1/a/c/o%20x", &[], "").await.status, 404);
    assert_eq!(c.call("POST", "/v1/a/c/o%20x", &[], "").await.status, 404);
}

#[tokio::test]
async fn updates_name_every_container_server_once() {
    let c = Cluster::with_container().await;
    let at = "9999999990";
    c.call("PUT", "/v1/a/c/o", &[("x-delete-at", at)], "x").await;
    let sent: Vec<HeaderMap> = c.servers.iter().flat_map(|s| s.seen(&Method::PUT)).filter(|(e, _)| e == "/a/c/o").map(|(_, h)| h).collect();
    assert_eq!(sent.len(), 3);
    let mut hosts: Vec<String> = sent.iter().map(|h| h["x-container-host"].to_str().unwrap().to_string()).collect();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 3);
    // 9999999990 // 86400 * 86400 = 9999936000; minus the hash of the name modulo 100.
    let hash = u128::from_be_bytes(c.swift.hash.object("a", "c", "o")) % 100;
    for h in &sent {
        assert_eq!(h["x-delete-at-container"].to_str().unwrap(), format!("{}", 9_999_936_000 - hash as u64));
        assert_eq!(h["x-backend-storage-policy-index"], "0");
        assert!(!h.contains_key("x-auth-token"));
    }
    assert_eq!(sent.iter().filter(|h| h["x-backend-clean-expiring-object-queue"] == "t").count(), 2);
    let puts: Vec<HeaderMap> = c.servers.iter().flat_map(|s| s.seen(&Method::PUT)).filter(|(e, _)| e == "/a/c").map(|(_, h)| h).collect();
    assert_eq!(puts.len(), 3);
    assert!(puts.iter().all(|h| h.contains_key("x-account-host") && h["x-backend-storage-policy-default"] == "0"));
}

#[tokio::test]
async fn limits() {
    let c = Cluster::with_container().await;
    let long = "o".repeat(1_025);
    let answer = c.call("PUT", &format!("/v1/a/c/{long}"), &[], "x").await;
    assert_eq!((answer.status, answer.text()), (400, "Object name length of 1025 longer than 1024"));
    // Characters count, not bytes.
    for name in ["o", "%C3%BC"] {
        assert_eq!(c.call("PUT", &format!("/v1/a/c/{}", name.repeat(1_024)), &[], "x").await.status, 201);
    }
    let answer = c.call("PUT", &format!("/v1/a/{}", "%C3%BC".repeat(257)), &[], "").await;
    assert_eq!((answer.status, answer.text()), (400, "Container name length of 257 longer than 256"));
    let answer = c.call("PUT", &format!("/v1/a/{}", "c".repeat(257)), &[], "").await;
    assert_eq!((answer.status, answer.text()), (400, "Container name length of 257 longer than 256"));
    let answer = c.call("GET", &format!("/v1/{}", "a".repeat(257)), &[], "").await;
    assert_eq!((answer.status, answer.text()), (400, "Account name length of 257 longer than 256"));
    let name = format!("x-object-meta-{}", "n".repeat(129));
    assert_eq!(c.call("PUT", "/v1/a/c/o", &[(&name, "v")], "x").await.status, 400);
    let value = "v".repeat(257);
    let answer = c.call("PUT", "/v1/a/c/o", &[("x-object-meta-n", &value)], "x").await;
    assert_eq!((answer.status, answer.text()), (400, "Metadata value longer than 256: x-object-meta-N"));
    assert_eq!(c.call("POST", "/v1/a", &[("x-account-meta-n", &value)], "").await.status, 400);
    let names: Vec<String> = (0..91).map(|i| format!("x-object-meta-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    assert_eq!(c.call("PUT", "/v1/a/c/o", &many, "x").await.text(), "Too many metadata items; max 90");
    assert_eq!(c.call("PUT", "/v1/a/c/o", &many[..90], "x").await.status, 201);
    for (header, value, text) in [
        ("x-delete-at", "x", "Non-integer X-Delete-At"),
        ("x-delete-at", "100", "X-Delete-At in past"),
        ("x-delete-after", "x", "Non-integer X-Delete-After"),
        ("x-delete-after", "0", "X-Delete-After in past"),
        ("transfer-encoding", "gzip", "Invalid Transfer-Encoding header value"),
        ("if-none-match", "abc", "If-None-Match only supports *"),
        ("content-type", "a/b;swift_bytes=1", "Invalid Content-Type, swift_* is not a valid parameter name."),
    ] {
        let answer = c.call("PUT", "/v1/a/c/o", &[(header, value)], "x").await;
        assert_eq!((answer.status, answer.text()), (400, text), "{header}");
    }
    let answer = c.call("PUT", "/v1/a/c/o", &[("content-length", "5368709123")], "x").await;
    assert_eq!((answer.status, answer.text()), (413, "Your request is too large."));
    let (_keep, endless) = caelum_rest::stream_channel(1);
    let answer = c.call_with("PUT", "/v1/a/c/o", &[], endless, anyone()).await;
    assert_eq!((answer.status, answer.text()), (411, "Missing Content-Length header."));
    assert_eq!(c.call("GET", "/v1/a/c?limit=10001", &[], "").await.text(), "Maximum limit is 10000");
    for (path, name) in [("/v1/a/c?prefix=%ff", "prefix"), ("/v1/a?limit=1&marker=%ff", "marker"), ("/v1/a?prefix=%ED%A0%80", "prefix")] {
        let answer = c.call("GET", path, &[], "").await;
        assert_eq!((answer.status, answer.text()), (400, format!("\"{name}\" parameter not valid UTF-8").as_str()), "{path}");
    }
    let answer = c.call("PUT", "/v1/a/d", &[("x-container-write", ".r:*")], "").await;
    assert_eq!((answer.status, answer.text()), (400, "Referrers not allowed in write ACL: '.r:*'"));
    let answer = c.call("PUT", "/v1/a/d", &[("x-storage-policy", "nope")], "").await;
    assert_eq!((answer.status, answer.text()), (400, "Invalid X-Storage-Policy 'nope'"));
}

#[tokio::test]
async fn paths() {
    let c = Cluster::with_container().await;
    for (path, status) in
        [("/v1/a/c/%ff", 412), ("/v1/a/c/%00o", 412), ("/v2/a/c", 400), ("/v1", 412), ("/v1/a//o", 404), ("/v1/a/nothing/o", 404)]
            .into_iter()
            .chain([("/v1/", 412), ("/", 404), ("/v1//", 404), ("/v1/a//", 404), ("/v1/a/c%2Fo", 404), ("/v1/a/c%2F", 204)])
    {
        assert_eq!(c.call("GET", path, &[], "").await.status, status, "{path}");
    }
    let inside = Environ { internal: true, ..anyone() };
    assert_eq!(c.call_with("GET", "/v1/a/%00c/o", &[], caelum_rest::empty(), inside.clone()).await.status, 400);
    assert_eq!(c.call_with("GET", "/v1/a/%00c/%00o", &[], caelum_rest::empty(), inside).await.status, 404);
    assert_eq!(c.call("PUT", "/v1/a/nothing/o", &[], "x").await.status, 404);
    assert_eq!(c.call("PUT", "/v1/a/c/", &[], "").await.status, 202);
    let req = Request::new(caelum_rest::empty());
    assert_eq!(c.proxy.call(req).await.status().as_u16(), 403);
}

#[tokio::test]
async fn acls_are_asked_and_owners_headers_hidden() {
    let c = Cluster::with_container().await;
    let bob = || Environ { authorizer: Some(Arc::new(Bob)), ..anyone() };
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    assert_eq!(c.call_with("GET", "/v1/a/c/o", &[], caelum_rest::empty(), bob()).await.status, 403);
    let set = [("x-container-read", " bob , .r:*"), ("x-container-meta-temp-url-key", "secret")];
    assert_eq!(c.call("POST", "/v1/a/c", &set, "").await.status, 204);
    assert_eq!(c.call_with("GET", "/v1/a/c/o", &[], caelum_rest::empty(), bob()).await.text(), "x");
    assert_eq!(c.call_with("PUT", "/v1/a/c/o", &[], caelum_rest::full("y"), bob()).await.status, 403);
    let seen = c.call_with("HEAD", "/v1/a/c", &[], caelum_rest::empty(), bob()).await;
    assert_eq!((seen.status, seen.header("x-container-read"), seen.header("x-container-meta-temp-url-key")), (204, None, None));
    let own = c.call("HEAD", "/v1/a/c", &[], "").await;
    assert_eq!(own.header("x-container-read"), Some("bob,.r:*"));
    let info = c.proxy.container_info(&anyone(), "a", "c").await;
    assert_eq!((info.read_acl.as_deref(), info.meta("temp-url-key")), (Some("bob,.r:*"), Some("secret")));
    assert!(!format!("{info:?}").contains("secret"));
    assert_eq!(c.proxy.container_info(&anyone(), "a", "none").await.status, 404);
    assert_eq!(c.proxy.object_info(&anyone(), "a", "c", "o").await.length, 1);
}

#[tokio::test]
async fn cross_origin_requests() {
    let c = Cluster::with_container().await;
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    let origin = ("origin", "http://here");
    assert_eq!(c.call("GET", "/v1/a/c/o", &[origin], "").await.header("access-control-allow-origin"), None);
    let ask = [origin, ("access-control-request-method", "GET"), ("access-control-request-headers", "x-b, x-a")];
    assert_eq!(c.call("OPTIONS", "/v1/a/c/o", &ask, "").await.status, 401);
    c.call("POST", "/v1/a/c", &[("x-container-meta-access-control-allow-origin", "http://here http://there")], "").await;
    let got = c.call("GET", "/v1/a/c/o", &[origin], "").await;
    assert_eq!((got.header("access-control-allow-origin"), got.header("vary")), (Some("http://here"), Some("Origin")));
    assert!(got.header("access-control-expose-headers").unwrap().contains("etag, expires"));
    let ok = c.call("OPTIONS", "/v1/a/c/o", &ask, "").await;
    assert_eq!((ok.status, ok.header("access-control-allow-headers")), (200, Some("x-a, x-b")));
    assert_eq!(ok.header("access-control-allow-methods"), Some("DELETE, GET, HEAD, OPTIONS, POST, PUT"));
    assert_eq!(c.call("OPTIONS", "/v1/a/c", &[], "").await.header("allow"), Some("DELETE, GET, HEAD, OPTIONS, POST, PUT"));
}

/// A row of a listing.
fn row(name: &str) -> serde_json::Value {
    serde_json::json!({"name": name, "bytes": 2, "hash": "x", "content_type": "t", "last_modified": "2020-01-01T00:00:00.000000"})
}

fn listing(c: &Cluster, container: &str, kind: &'static str, rows: Vec<serde_json::Value>) {
    let mut headers = HeaderMap::new();
    headers.insert("x-backend-record-type", http::HeaderValue::from_static(kind));
    headers.insert("x-backend-storage-policy-index", http::HeaderValue::from_static("0"));
    if kind == "shard" {
        headers.insert("x-backend-sharding-state", http::HeaderValue::from_static("sharded"));
    }
    for s in &c.servers {
        let mut state = s.0.lock().unwrap();
        state.listings.insert(container.into(), (headers.clone(), serde_json::Value::from(rows.clone()).to_string()));
        state.things.entry(container.into()).or_insert_with(|| fake::Stored {
            time: Timestamp::from_raw(5),
            headers: headers.clone(),
            ..fake::Stored::default()
        });
        if kind == "shard" {
            state.things.get_mut(container).unwrap().headers.extend(headers.clone());
        }
    }
}

#[tokio::test]
async fn sharded_containers() {
    let c = Cluster::with_container().await;
    let ns = |name: &str, lower: &str, upper: &str| serde_json::json!({"name": name, "lower": lower, "upper": upper});
    listing(&c, "/a/c", "shard", vec![ns(".shards_a/c-1", "", "m"), ns(".shards_a/c-2", "m", "")]);
    listing(&c, "/.shards_a/c-1", "object", vec![row("b"), row("m")]);
    listing(&c, "/.shards_a/c-2", "object", vec![row("x")]);
    let all = c.call("GET", "/v1/a/c", &[], "").await;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&all.body).unwrap();
    assert_eq!(rows.iter().map(|r| r["name"].as_str().unwrap()).collect::<Vec<_>>(), ["b", "m", "x"]);
    assert_eq!((all.header("x-container-object-count"), all.header("x-container-bytes-used")), (Some("3"), Some("6")));
    assert_eq!(all.header("x-backend-record-type"), None);
    let asked: Vec<String> = c.servers.iter().flat_map(|s| s.seen(&Method::GET)).map(|(e, _)| e).collect();
    assert!(asked.iter().any(|e| e.starts_with("/.shards_a/c-1?") && e.contains("end%5Fmarker=m%00")), "{asked:?}");
    assert!(asked.iter().any(|e| e.starts_with("/.shards_a/c-2?") && e.contains("marker=m&")), "{asked:?}");
    for s in &c.servers {
        s.clear_seen();
    }
    assert_eq!(c.call("GET", "/v1/a/c?prefix=x", &[], "").await.status, 200);
    let asked: Vec<String> = c.servers.iter().flat_map(|s| s.seen(&Method::GET)).map(|(e, _)| e).collect();
    assert!(!asked.iter().any(|e| e.starts_with("/.shards_a/c-1")), "{asked:?}");

    assert_eq!(c.call("PUT", "/v1/a/c/n", &[], "x").await.status, 201);
    let sent: Vec<HeaderMap> = c.servers.iter().flat_map(|s| s.seen(&Method::PUT)).map(|(_, h)| h).collect();
    assert!(sent.len() == 3 && sent.iter().all(|h| h["x-backend-quoted-container-path"] == ".shards_a/c-2"));
    assert!(sent.iter().all(|h| h["x-container-root-db-state"] == "sharded"));

    for s in &c.servers {
        s.0.lock().unwrap().things.remove("/.shards_a/c-2");
    }
    assert_eq!(c.call("GET", "/v1/a/c", &[], "").await.status, 503);
}
