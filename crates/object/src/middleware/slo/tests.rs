use super::*;
use crate::http::ManifestHook;
use crate::testing::{FakeStore, request, send};
use caelum_swiftkit::md5_hex;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const A: &str = "/v1/AUTH_a";

fn layer(store: &FakeStore) -> Arc<dyn HttpService> {
    layer_with(store, SloConfig { pace: Pace { per_second: 0, ..Pace::default() }, ..SloConfig::default() })
}

fn layer_with(store: &FakeStore, config: SloConfig) -> Arc<dyn HttpService> {
    let hash = HashPath { prefix: Vec::new(), suffix: b"endcap".to_vec() };
    Arc::new(Slo::new(store.service(), Arc::new(store.clone()), hash, Env::system(), config))
}

/// Segments `aaaaa`, `bbbbb…` of 5, 10, 15 bytes in `seg`, and a manifest `c/man` over all three.
async fn three(store: &FakeStore) -> Arc<dyn HttpService> {
    store.container("AUTH_a", "seg");
    store.container("AUTH_a", "c");
    let slo = layer(store);
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        send(&slo, "PUT", &format!("{A}/seg/{name}"), &[("content-type", "text/plain; charset=x")], name.repeat(5 * (i + 1))).await;
    }
    let man = r#"[{"path":"/seg/a","size_bytes":5},{"path":"seg/b","etag":null},{"path":"/seg/c"}]"#;
    let (status, h, body) = send(&slo, "PUT", &format!("{A}/c/man.txt?multipart-manifest=put"), &[], man).await;
    assert_eq!((status, body.as_str()), (201, ""));
    assert_eq!(h["etag"], format!("\"{}\"", whole_etag()).as_str());
    slo
}

fn whole_etag() -> String {
    let parts: String = ["a".repeat(5), "b".repeat(10), "c".repeat(15)].iter().map(|s| md5_hex(s.as_bytes())).collect();
    md5_hex(parts.as_bytes())
}

fn whole() -> String {
    format!("{}{}{}", "a".repeat(5), "b".repeat(10), "c".repeat(15))
}

#[tokio::test]
async fn stored_as_real_nodes_store_it() {
    let store = FakeStore::new();
    three(&store).await;
    let o = store.object("AUTH_a", "c", "man.txt").unwrap();
    assert_eq!(o.headers["x-object-sysmeta-slo-etag"], whole_etag().as_str());
    assert_eq!(o.headers["x-object-sysmeta-slo-size"], "30");
    assert_eq!(o.headers["x-static-large-object"], "True");
    assert_eq!(o.headers["content-type"], "text/plain;swift_bytes=30");
    let both = format!("{}; slo_etag={}", o.etag, whole_etag());
    assert_eq!(o.headers["x-object-sysmeta-container-update-override-etag"], both.as_str());
    let text = String::from_utf8(o.body.to_vec()).unwrap();
    let first = format!(
        "[{{\"name\": \"/seg/a\", \"bytes\": 5, \"hash\": \"{}\", \"content_type\": \"text/plain\", \"last_modified\": \"2020-09-13T",
        md5_hex(b"aaaaa")
    );
    assert!(text.starts_with(&first), "{text}");
    assert!(text.contains(".000000\"}, {\"name\": \"/seg/b\""), "{text}");
}

#[tokio::test]
async fn reads_whole_ranges_and_several_ranges() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let man = format!("{A}/c/man.txt");
    let (status, h, body) = send(&slo, "GET", &man, &[], "").await;
    assert_eq!((status, body), (200, whole()));
    assert_eq!(h["content-length"], "30");
    assert_eq!(h["content-type"], "text/plain");
    assert_eq!(h["etag"], format!("\"{}\"", whole_etag()).as_str());
    assert_eq!(h["x-manifest-etag"], store.object("AUTH_a", "c", "man.txt").unwrap().etag.as_str());
    let (status, h, body) = send(&slo, "HEAD", &man, &[], "").await;
    assert_eq!((status, h["content-length"].to_str().unwrap(), body.as_str()), (200, "30", ""));
    store.take_log();
    for (range, want, segments) in [("bytes=3-6", "aabb", 2), ("bytes=5-14", "bbbbbbbbbb", 1), ("bytes=-1", "c", 1), ("bytes=29-", "c", 1)]
    {
        let (status, h, body) = send(&slo, "GET", &man, &[("range", range)], "").await;
        assert_eq!((status, body.as_str()), (206, want), "{range}");
        assert!(h["content-range"].to_str().unwrap().ends_with("/30"));
        assert_eq!(store.take_log().iter().filter(|l| l.contains("/seg/")).count(), segments, "{range}");
    }
    let (status, h, _) = send(&slo, "GET", &man, &[("range", "bytes=30-")], "").await;
    assert_eq!((status, h["content-range"].to_str().unwrap()), (416, "bytes */30"));
    let (status, h, body) = send(&slo, "GET", &man, &[("range", "bytes=0-1,14-16")], "").await;
    assert_eq!(status, 206);
    assert!(h["content-type"].to_str().unwrap().starts_with("multipart/byteranges;boundary="));
    assert!(body.contains("Content-Range: bytes 0-1/30\r\n\r\naa\r\n--"), "{body}");
    assert!(body.contains("Content-Type: text/plain\r\nContent-Range: bytes 14-16/30\r\n\r\nbcc\r\n--"), "{body}");
}

#[tokio::test]
async fn conditions_are_about_the_whole() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let man = format!("{A}/c/man.txt");
    let (tag, manifest_tag) = (whole_etag(), store.object("AUTH_a", "c", "man.txt").unwrap().etag);
    for (name, value, want) in [
        ("if-match", tag.clone(), 200),
        ("if-match", manifest_tag.clone(), 412),
        ("if-none-match", format!("\"{tag}\""), 304),
        ("if-none-match", manifest_tag.clone(), 200),
        ("if-modified-since", "Sun, 06 Nov 2044 08:49:37 GMT".into(), 304),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT".into(), 412),
    ] {
        let (status, _, body) = send(&slo, "GET", &man, &[(name, &value)], "").await;
        assert_eq!(status, want, "{name}: {value}");
        assert_eq!(body.is_empty(), want != 200);
    }
    // A manifest from before the sysmeta: the same from its segments.
    store.edit("AUTH_a", "c", "man.txt", |o| {
        o.headers.remove(SYSMETA_ETAG);
        o.headers.remove(SYSMETA_SIZE);
    });
    for (name, value, want) in [
        ("if-match", tag.clone(), 200),
        ("if-match", manifest_tag.clone(), 412),
        ("if-none-match", tag.clone(), 304),
        ("range", "bytes=1-2".into(), 206),
    ] {
        assert_eq!(send(&slo, "GET", &man, &[(name, &value)], "").await.0, want, "legacy {name}");
    }
    let (_, h, _) = send(&slo, "HEAD", &man, &[], "").await;
    assert_eq!((h["content-length"].to_str().unwrap(), h["etag"].to_str().unwrap()), ("30", format!("\"{tag}\"").as_str()));
}

#[tokio::test]
async fn parts() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let part = |n: &str| format!("{A}/c/man.txt?part-number={n}");
    let (status, h, body) = send(&slo, "GET", &part("2"), &[], "").await;
    assert_eq!((status, body.as_str()), (206, "bbbbbbbbbb"));
    assert_eq!((h["x-parts-count"].to_str().unwrap(), h["content-range"].to_str().unwrap()), ("3", "bytes 5-14/30"));
    let (status, h, _) = send(&slo, "HEAD", &part("3"), &[], "").await;
    assert_eq!((status, h["content-length"].to_str().unwrap(), h["content-range"].to_str().unwrap()), (206, "15", "bytes 15-29/30"));
    let (status, h, body) = send(&slo, "GET", &part("4"), &[], "").await;
    assert_eq!((status, body.as_str()), (416, "The requested part number is not satisfiable"));
    assert_eq!(h["content-range"], "bytes */30");
    for bad in ["0", "-1", "x", ""] {
        let (status, _, body) = send(&slo, "GET", &part(bad), &[], "").await;
        assert_eq!((status, body.as_str()), (400, "Part number must be an integer greater than 0"), "{bad}");
    }
    let (status, _, body) = send(&slo, "GET", &part("1"), &[("range", "bytes=0-1")], "").await;
    assert_eq!((status, body.as_str()), (400, "Range requests are not supported with part number queries"));
    assert_eq!(send(&slo, "GET", &format!("{A}/seg/a?part-number=0"), &[], "").await.0, 200, "no manifest");
}

#[tokio::test]
async fn manifests_as_stored_and_as_sent() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let man = format!("{A}/c/man.txt?multipart-manifest=get");
    let (status, h, body) = send(&slo, "GET", &man, &[], "").await;
    let o = store.object("AUTH_a", "c", "man.txt").unwrap();
    assert_eq!((status, body.as_bytes()), (200, &o.body[..]));
    assert_eq!((h["content-type"].to_str().unwrap(), h["etag"].to_str().unwrap()), ("application/json; charset=utf-8", o.etag.as_str()));
    let (_, h, body) = send(&slo, "GET", &format!("{man}&format=raw"), &[], "").await;
    assert_eq!(h["content-type"], "text/plain");
    assert_eq!(h["etag"], md5_hex(body.as_bytes()).as_str());
    let first = format!("[{{\"etag\": \"{}\", \"path\": \"/seg/a\", \"size_bytes\": 5}}, ", md5_hex(b"aaaaa"));
    assert!(body.starts_with(&first), "{body}");
    // What came out goes in again.
    let (status, h, _) = send(&slo, "PUT", &format!("{A}/c/again?multipart-manifest=put"), &[], body).await;
    assert_eq!((status, h["etag"].to_str().unwrap()), (201, format!("\"{}\"", whole_etag()).as_str()));
}

#[tokio::test]
async fn ranges_data_and_manifests_in_manifests() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let man = r#"[{"path":"/seg/b","range":"0-1"},{"data":"LQ=="},{"path":"/c/man.txt","range":"4-6"},{"path":"/c/man.txt"},
        {"path":"/seg/a","range":"0-4"},{"data":"IQ=="}]"#;
    let (status, _, text) = send(&slo, "PUT", &format!("{A}/c/outer?multipart-manifest=put"), &[], man).await;
    assert_eq!(status, 201, "{text}");
    let want = format!("bb-abb{}aaaaa!", whole());
    let (_, h, body) = send(&slo, "GET", &format!("{A}/c/outer"), &[], "").await;
    assert_eq!(body, want);
    let parts = format!(
        "{}:0-1;{}{}:4-6;{}{}{}",
        md5_hex("b".repeat(10).as_bytes()),
        md5_hex(b"-"),
        whole_etag(),
        whole_etag(),
        md5_hex(b"aaaaa"),
        md5_hex(b"!")
    );
    assert_eq!(h["etag"], format!("\"{}\"", md5_hex(parts.as_bytes())).as_str());
    for (first, last) in [(0, 0), (1, 4), (2, 2), (3, 5), (5, 40), (41, 41), (35, 41)] {
        let range = format!("bytes={first}-{last}");
        let (_, _, body) = send(&slo, "GET", &format!("{A}/c/outer"), &[("range", &range)], "").await;
        assert_eq!(body, want[first..=last], "{range}");
    }
    let stored: Value = serde_json::from_slice(&store.object("AUTH_a", "c", "outer").unwrap().body).unwrap();
    assert_eq!(stored[2]["sub_slo"], true);
    assert_eq!(stored[4].get("range"), None, "a range over everything is none");
}

#[tokio::test]
async fn too_deep_is_a_conflict() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let mut name = "man.txt".to_string();
    for depth in 2..=11 {
        let body = json!([{"path": format!("/c/{name}")}]).to_string();
        name = format!("deep{depth}");
        assert_eq!(send(&slo, "PUT", &format!("{A}/c/{name}?multipart-manifest=put"), &[], body).await.0, 201);
        let (status, _, body) = send(&slo, "GET", &format!("{A}/c/{name}"), &[], "").await;
        assert_eq!((status, body == whole()), if depth <= 10 { (200, true) } else { (409, false) }, "{depth}");
    }
}

#[tokio::test]
async fn broken_segments() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let man = format!("{A}/c/man.txt");
    store.fault("GET /v1/AUTH_a/seg/a", 404);
    assert_eq!(send(&slo, "GET", &man, &[], "").await.0, 409);
    store.fault("GET /v1/AUTH_a/seg/a", 503);
    assert_eq!(send(&slo, "GET", &man, &[], "").await.0, 503);
    store.fault("GET /v1/AUTH_a/seg/a", 0);
    store.fault("GET /v1/AUTH_a/seg/c", 404);
    let resp = slo.call(request("GET", &man, &[], "")).await;
    assert_eq!(resp.status(), 200);
    assert!(resp.into_body().collect().await.is_err(), "the body must break off, not end");
    store.fault("GET /v1/AUTH_a/seg/c", 0);
    send(&slo, "PUT", &format!("{A}/seg/a"), &[], "AAAAA").await;
    assert_eq!(send(&slo, "GET", &man, &[], "").await.0, 409, "changed segment");
    // An etag that does not fit the bytes.
    store.edit("AUTH_a", "seg", "a", |o| o.etag = md5_hex(b"aaaaa"));
    let resp = slo.call(request("GET", &man, &[], "")).await;
    assert!(resp.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_reading() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let list: Vec<Value> = (0..200).map(|i| json!({"path": if i % 2 == 0 { "/seg/a" } else { "/seg/b" }})).collect();
    send(&slo, "PUT", &format!("{A}/c/long?multipart-manifest=put"), &[], Value::Array(list).to_string()).await;
    store.take_log();
    let mut resp = slo.call(request("GET", &format!("{A}/c/long"), &[], "")).await;
    assert!(resp.body_mut().frame().await.is_some());
    drop(resp);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = store.take_log().len();
    assert!(asked < 10, "{asked} requests for a client that left");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.take_log().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_small_segments_are_paced() {
    let store = FakeStore::new();
    three(&store).await;
    let slo = layer_with(&store, SloConfig::default());
    let list: Vec<Value> = (0..13).map(|_| json!({"path": "/seg/a"})).collect();
    send(&slo, "PUT", &format!("{A}/c/long?multipart-manifest=put"), &[], Value::Array(list).to_string()).await;
    let start = tokio::time::Instant::now();
    let (_, _, body) = send(&slo, "GET", &format!("{A}/c/long"), &[], "").await;
    assert_eq!(body.len(), 65);
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn refused_manifests() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let put = format!("{A}/c/x?multipart-manifest=put");
    let (status, h, body) = send(
        &slo,
        "PUT",
        &put,
        &[("accept", "application/json")],
        r#"[{"path":"/seg/a","etag":"zz","size_bytes":6},{"path":"/seg/no ne"},{"path":"/seg/b","range":"10-"}]"#,
    )
    .await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, h["content-type"].to_str().unwrap()), (400, "application/json"));
    assert_eq!(
        answer,
        json!({"Errors": [["/seg/a", "Size Mismatch"], ["/seg/a", "Etag Mismatch"], ["/seg/no%20ne", "404 Not Found"], ["/seg/b", "Unsatisfiable Range"]]})
    );
    send(&slo, "PUT", &format!("{A}/seg/zero"), &[], "").await;
    let zero = r#"[{"path":"/seg/zero"},{"path":"/seg/a"}]"#;
    let (status, _, body) = send(&slo, "PUT", &put, &[], zero).await;
    assert_eq!((status, body.as_str()), (400, "Errors:\n/seg/zero, Too small; each segment must be at least 1 byte.\n"));
    let zero_last = r#"[{"path":"/seg/a"},{"path":"/seg/zero"}]"#;
    assert_eq!(send(&slo, "PUT", &put, &[], zero_last).await.0, 201);
    assert_eq!(send(&slo, "GET", &format!("{A}/c/x"), &[], "").await.2, "aaaaa");
    assert_eq!(send(&slo, "PUT", &put, &[("x-copy-from", "/a/b")], "[]").await.0, 405);
    let own = r#"[{"path":"/c/x"}]"#;
    assert!(send(&slo, "PUT", &put, &[], own).await.2.contains("must not include itself"));
    let seg = r#"[{"path":"/seg/a"}]"#;
    assert_eq!(send(&slo, "PUT", &put, &[("etag", "0123")], seg).await.0, 422);
    let tag = md5_hex(md5_hex(b"aaaaa").as_bytes());
    assert_eq!(send(&slo, "PUT", &put, &[("etag", &format!("\"{tag}\""))], seg).await.0, 201);
    let (status, _, body) = send(&slo, "PUT", &format!("{A}/c/x"), &[("x-static-large-object", "true")], "").await;
    assert!(status == 400 && body.starts_with("X-Static-Large-Object is a reserved header."), "{body}");
}

#[tokio::test]
async fn limits() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let put = format!("{A}/c/x?multipart-manifest=put");
    let list = |n: usize| Value::Array((0..n).map(|_| json!({"path": "/seg/a"})).collect()).to_string();
    assert_eq!(send(&slo, "PUT", &put, &[], list(1000)).await.0, 201);
    let (status, _, body) = send(&slo, "PUT", &put, &[], list(1001)).await;
    assert_eq!((status, body.as_str()), (413, "Number of object-backed segments must be <= 1000"));
    let small = layer_with(&store, SloConfig { max_manifest_size: 30, ..SloConfig::default() });
    let (status, _, body) = send(&small, "PUT", &put, &[], list(2)).await;
    assert_eq!((status, body.as_str()), (413, "Manifest File > 30 bytes"));
    let mut req = request("PUT", &put, &[("transfer-encoding", "chunked")], list(2));
    req.headers_mut().remove("content-length");
    assert_eq!(small.call(req).await.status(), 413);
    let mut req = request("PUT", &put, &[], list(1));
    req.headers_mut().remove("content-length");
    assert_eq!(slo.call(req).await.status(), 411);
}

#[tokio::test]
async fn heartbeats() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let put = format!("{A}/c/x?multipart-manifest=put&heartbeat=on");
    let (status, h, body) = send(&slo, "PUT", &put, &[("accept", "application/json")], r#"[{"path":"/seg/a"}]"#).await;
    assert_eq!((status, h["content-type"].to_str().unwrap()), (202, "application/json"));
    let answer: Value = serde_json::from_str(body.strip_prefix(" \r\n\r\n").unwrap()).unwrap();
    assert_eq!(answer["Response Status"], "201 Created");
    assert_eq!(answer["Etag"], format!("\"{}\"", md5_hex(md5_hex(b"aaaaa").as_bytes())));
    assert_eq!(answer["Errors"], json!([]));
    let (_, _, body) = send(&slo, "PUT", &put, &[("accept", "text/plain")], r#"[{"path":"/seg/none"}]"#).await;
    assert_eq!(
        body,
        " \r\n\r\nResponse Body: Bad Request\nThe server could not comply with the request since it is either malformed or otherwise \
         incorrect.\nResponse Status: 400 Bad Request\nErrors:\n/seg/none, 404 Not Found\n"
    );
}

#[tokio::test]
async fn deletes_segments_then_manifest() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let body = r#"[{"path":"/c/man.txt"},{"path":"/seg/a"},{"data":"YQ=="}]"#;
    send(&slo, "PUT", &format!("{A}/c/outer?multipart-manifest=put"), &[], body).await;
    let del = |n: &str| format!("{A}/c/{n}?multipart-manifest=delete");
    store.take_log();
    let (status, _, body) = send(&slo, "DELETE", &del("outer"), &[("accept", "application/json")], "").await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["Response Status"]), (200, &json!("200 OK")));
    // `/seg/a` is named twice.
    assert_eq!((&answer["Number Deleted"], &answer["Number Not Found"]), (&json!(5), &json!(1)));
    assert_eq!(store.names("AUTH_a", "seg").len() + store.names("AUTH_a", "c").len(), 0);
    // A manifest goes after the segments it names.
    let log = store.take_log();
    let at = |l: &str| log.iter().rposition(|x| x == l).unwrap();
    assert!(at("DELETE /v1/AUTH_a/seg/b") < at("DELETE /v1/AUTH_a/c/man.txt"), "{log:?}");
    let (_, _, body) = send(&slo, "DELETE", &del("none"), &[], "").await;
    assert_eq!(body, "Number Deleted: 0\nNumber Not Found: 1\nResponse Body: \nResponse Status: 200 OK\nErrors:\n");
    send(&slo, "PUT", &format!("{A}/c/plain"), &[], "x").await;
    let (_, _, body) = send(&slo, "DELETE", &del("plain"), &[], "").await;
    assert!(body.contains("Response Status: 400 Bad Request\nErrors:\n/c/plain, Not an SLO manifest\n"), "{body}");
    assert!(store.object("AUTH_a", "c", "plain").is_some());
}

#[tokio::test]
async fn deletes_later() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    store.container("AUTH_a", "other");
    send(&slo, "PUT", &format!("{A}/other/o"), &[], "x").await;
    for (body, want) in [
        (r#"[{"path":"/seg/a"},{"path":"/other/o"}]"#, "All segments must be in one container. Found segments in \"other\", \"seg\""),
        (r#"[{"path":"/c/man.txt"}]"#, "No segments may be large objects."),
    ] {
        send(&slo, "PUT", &format!("{A}/c/x?multipart-manifest=put"), &[], body).await;
        let (status, _, text) = send(&slo, "DELETE", &format!("{A}/c/x?multipart-manifest=delete&async=on"), &[], "").await;
        assert_eq!((status, text.as_str()), (400, want));
    }
    store.take_log();
    // The store knows no UPDATE: nothing is deleted when the queue refuses.
    let target = format!("{A}/c/man.txt?multipart-manifest=delete&async=on");
    let (status, _, _) = send(&slo, "DELETE", &target, &[("x-timestamp", "1600000000.00000")], "").await;
    assert_eq!(status, 503);
    assert!(store.object("AUTH_a", "c", "man.txt").is_some());
    // hash_path('AUTH_a', 'c', 'man.txt') with the suffix `endcap`, modulo 100, before 1599955200.
    let queue = store.take_log().pop().unwrap();
    assert_eq!(queue, "UPDATE /v1/.expiring_objects/1599955193");
}

#[tokio::test]
async fn hooks_and_listings() {
    let store = FakeStore::new();
    let slo = three(&store).await;
    let (_, _, body) = send(&slo, "GET", &format!("{A}/c?format=json"), &[], "").await;
    let rows: Value = serde_json::from_str(&body).unwrap();
    let o = store.object("AUTH_a", "c", "man.txt").unwrap();
    assert_eq!(rows[0]["slo_etag"], format!("\"{}\"", whole_etag()));
    assert_eq!((&rows[0]["hash"], &rows[0]["bytes"]), (&json!(o.etag), &json!(30)));
    let mut req = request("PUT", &format!("{A}/c/x?multipart-manifest=put"), &[], r#"[{"path":"/seg/a"}]"#);
    req.extensions_mut().insert(ManifestHook(Arc::new(|segments| vec![(segments.len().to_string(), "not today".into())])));
    let (status, _, body) = crate::testing::read(slo.call(req).await).await;
    assert_eq!((status, body.as_str()), (400, "Errors:\n1, not today\n"));
}
