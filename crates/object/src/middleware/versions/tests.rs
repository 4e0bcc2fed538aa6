use super::*;
use crate::middleware::{Pace, Slo, SloConfig, Symlink};
use crate::testing::{FakeStore, request, send, values};
use caelum_swiftkit::{HashPath, md5_hex};
use serde_json::{Value, json};

const A: &str = "/v1/AUTH_a";
const HIDDEN: &str = "\0versions\0c";

fn pipeline(store: &FakeStore) -> Arc<dyn HttpService> {
    let info: Arc<dyn InfoSource> = Arc::new(store.clone());
    let link: Arc<dyn HttpService> = Arc::new(Symlink::new(store.service()));
    let policies = Arc::new(Policies::default());
    let versions: Arc<dyn HttpService> = Arc::new(ObjectVersioning::new(link, info.clone(), policies, Env::system()));
    let legacy: Arc<dyn HttpService> = Arc::new(VersionedWrites::new(versions, info.clone(), Env::system()));
    let config = SloConfig { pace: Pace { per_second: 0, ..Pace::default() }, ..SloConfig::default() };
    Arc::new(Slo::new(legacy, info, HashPath::default(), Env::system(), config))
}

async fn setup() -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    let p = pipeline(&store);
    let (status, _, _) = send(&p, "POST", &format!("{A}/c"), &[("x-versions-enabled", "true")], "").await;
    assert_eq!(status, 204);
    (store, p)
}

async fn put(p: &Arc<dyn HttpService>, at: &str, body: &str) -> String {
    let headers = [("x-timestamp", at), ("content-type", "a/b; charset=u")];
    let (status, h, _) = send(p, "PUT", &format!("{A}/c/o"), &headers, body.to_string()).await;
    assert_eq!((status, h["etag"].to_str().unwrap()), (201, md5_hex(body.as_bytes()).as_str()));
    values(&h, ["x-object-version-id"])[0].clone()
}

async fn rows(p: &Arc<dyn HttpService>, query: &str) -> Vec<Value> {
    let (status, _, body) = send(p, "GET", &format!("{A}/c?{query}"), &[], "").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn enabled_containers_say_so() {
    let (store, p) = setup().await;
    assert!(store.names("AUTH_a", HIDDEN).is_empty());
    let (_, h, _) = send(&p, "HEAD", &format!("{A}/c"), &[], "").await;
    assert_eq!(values(&h, ["x-versions-enabled", "x-container-sysmeta-versions-container"]), ["True", "%00versions%00c"]);
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-enabled", "no")], "").await;
    let (_, h, _) = send(&p, "HEAD", &format!("{A}/c"), &[], "").await;
    assert_eq!(values(&h, ["x-versions-enabled"]), ["False"]);
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-location", "v")], "").await;
    let (status, _, body) = send(&p, "POST", &format!("{A}/c"), &[("x-versions-enabled", "yes")], "").await;
    assert_eq!(status, 400);
    assert!(body.contains("already using the legacy versioned writes feature"));
    let (status, _, _) = send(&p, "POST", &format!("{A}/none"), &[("x-versions-enabled", "yes")], "").await;
    assert_eq!((status, store.names("AUTH_a", "\0versions\0none").len()), (404, 0), "nothing is left behind");
}

#[tokio::test]
async fn stored_as_real_nodes_store_it() {
    let (store, p) = setup().await;
    assert_eq!(put(&p, "1600000000.12345", "one").await, "1600000000.12345");
    assert_eq!(store.names("AUTH_a", HIDDEN), ["\0o\08399999999.87654"]);
    let link = store.object("AUTH_a", "c", "o").unwrap();
    let wanted = [
        ("x-object-sysmeta-symlink-target", "%00versions%00c/%00o%008399999999.87654"),
        ("x-object-sysmeta-symlink-target-etag", &md5_hex(b"one")),
        ("x-object-sysmeta-symlink-target-bytes", "3"),
        ("x-object-sysmeta-versions-symlink", "true"),
        ("x-object-sysmeta-symloop-extend", "true"),
        ("x-object-sysmeta-allow-reserved-names", "true"),
        ("content-type", "a/b"),
    ];
    for (name, value) in wanted {
        assert_eq!(link.headers[name], value, "{name}");
    }
    assert_eq!(link.at.internal(), "1600000000.12345_0000000000000001");
    let version = store.object("AUTH_a", HIDDEN, "\0o\08399999999.87654").unwrap();
    assert_eq!((&version.body[..], version.at.internal().as_str()), (&b"one"[..], "1600000000.12345"));
    assert_eq!(version.headers["content-type"], "a/b; charset=u");
}

#[tokio::test]
async fn versions_are_read_restored_and_deleted() {
    let (store, p) = setup().await;
    let o = format!("{A}/c/o");
    let (v1, v2) = (put(&p, "1600000001", "one").await, put(&p, "1600000002", "two!").await);
    let (status, h, body) = send(&p, "GET", &o, &[], "").await;
    assert_eq!((status, body.as_str()), (200, "two!"));
    assert_eq!(values(&h, ["x-object-version-id", "content-location"]), [v2.clone(), format!("{o}?version-id={v2}")]);
    let (status, h, body) = send(&p, "GET", &format!("{o}?version-id={v1}"), &[], "").await;
    assert_eq!((status, body.as_str(), h["x-object-version-id"].to_str().unwrap()), (200, "one", v1.as_str()));
    let (status, h, _) = send(&p, "GET", &format!("{o}?symlink=get"), &[], "").await;
    assert_eq!((status, h["x-symlink-target"].to_str().unwrap()), (200, format!("c/o?version-id={v2}").as_str()));
    // A deletion is a version too.
    let (status, h, _) = send(&p, "DELETE", &o, &[("x-timestamp", "1600000003")], "").await;
    assert_eq!((status, h["x-object-version-id"].to_str().unwrap()), (204, "1600000003.00000"));
    assert_eq!(send(&p, "GET", &o, &[], "").await.0, 404);
    let (status, h, _) = send(&p, "GET", &format!("{o}?version-id=1600000003.00000"), &[], "").await;
    assert_eq!(status, 404);
    assert_eq!(values(&h, ["content-type", "x-object-version-id"]), [DELETE_MARKER, "1600000003.00000"]);
    // An earlier version becomes the current one.
    let (status, h, _) = send(&p, "PUT", &format!("{o}?version-id={v1}"), &[("x-timestamp", "1600000004")], "").await;
    assert_eq!((status, h["x-object-version-id"].to_str().unwrap()), (201, v1.as_str()));
    assert_eq!(send(&p, "GET", &o, &[], "").await.2, "one");
    let (status, h, _) = send(&p, "DELETE", &format!("{o}?version-id={v2}"), &[], "").await;
    assert_eq!(status, 204);
    assert_eq!(values(&h, ["x-object-version-id", "x-object-current-version-id"]), [v2.as_str(), v1.as_str()]);
    let (status, h, _) = send(&p, "DELETE", &format!("{o}?version-id={v1}"), &[], "").await;
    assert_eq!(status, 204);
    assert_eq!(values(&h, ["x-object-version-id", "x-object-current-version-id"]), [v1.as_str(), "null"]);
    assert!(store.object("AUTH_a", "c", "o").is_none(), "the link goes with its version");
    let (status, _, body) = send(&p, "DELETE", &format!("{A}/c"), &[], "").await;
    assert_eq!((status, body.as_str()), (409, "Delete all versions before deleting container."));
    send(&p, "DELETE", &format!("{o}?version-id=1600000003"), &[], "").await;
    assert_eq!(send(&p, "DELETE", &format!("{A}/c"), &[], "").await.0, 204);
    let (_, _, body) = send(&p, "GET", A, &[], "").await;
    assert_eq!(body, "[]", "the hidden container is gone as well");
}

#[tokio::test]
async fn what_was_there_before_is_kept() {
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    let p = pipeline(&store);
    let o = format!("{A}/c/o");
    send(&p, "PUT", &o, &[("x-timestamp", "1500000000"), ("x-object-meta-a", "b")], "old").await;
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-enabled", "true")], "").await;
    assert_eq!(send(&p, "GET", &o, &[], "").await.1["x-object-version-id"], "null");
    assert_eq!(send(&p, "GET", &format!("{o}?version-id=null"), &[], "").await.2, "old");
    put(&p, "1600000000", "new").await;
    let (_, h, body) = send(&p, "GET", &format!("{o}?version-id=1500000000.00000"), &[], "").await;
    assert_eq!((body.as_str(), h["x-object-meta-a"].to_str().unwrap()), ("old", "b"));
    assert_eq!(send(&p, "GET", &format!("{o}?version-id=null"), &[], "").await.0, 404);
    // Suspended: the current one is overwritten, versions stay.
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-enabled", "false")], "").await;
    send(&p, "PUT", &o, &[("x-timestamp", "1700000000")], "plain").await;
    assert_eq!(send(&p, "GET", &format!("{o}?version-id=null"), &[], "").await.2, "plain");
    assert_eq!(store.names("AUTH_a", HIDDEN).len(), 2);
}

#[tokio::test]
async fn listings() {
    let (_, p) = setup().await;
    put(&p, "1600000001", "one").await;
    put(&p, "1600000002", "two!").await;
    send(&p, "DELETE", &format!("{A}/c/o"), &[("x-timestamp", "1600000003")], "").await;
    put(&p, "1600000004", "three").await;
    let plain = rows(&p, "").await;
    assert_eq!(plain.len(), 1);
    assert_eq!(
        (&plain[0]["bytes"], &plain[0]["hash"], &plain[0]["symlink_path"]),
        (&json!(5), &json!(md5_hex(b"three")), &json!("/v1/AUTH_a/c/o?version-id=1600000004.00000"))
    );
    let all = rows(&p, "versions").await;
    let short: Vec<_> = all.iter().map(|r| (r["version_id"].as_str().unwrap(), r["is_latest"].as_bool().unwrap())).collect();
    let want = [("1600000004.00000", true), ("1600000003.00000", false), ("1600000002.00000", false), ("1600000001.00000", false)];
    assert_eq!(short, want);
    assert_eq!((&all[1]["content_type"], &all[0]["bytes"]), (&json!(DELETE_MARKER), &json!(5)));
    let after = rows(&p, "versions&marker=o&version_marker=1600000003").await;
    assert_eq!(after.len(), 2);
    assert_eq!(rows(&p, "versions&marker=o").await.len(), 0);
    assert_eq!(rows(&p, "versions&marker=n").await.len(), 4);
    assert_eq!(rows(&p, "versions&limit=3").await.len(), 3);
    assert_eq!(rows(&p, "versions&prefix=x").await.len(), 0);
    let (_, h, _) = send(&p, "HEAD", &format!("{A}/c"), &[], "").await;
    assert_eq!(h["x-container-bytes-used"], "12", "the versions' bytes");
    let (_, _, body) = send(&p, "GET", A, &[], "").await;
    let account: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((account.as_array().unwrap().len(), &account[0]["bytes"]), (1, &json!(12)));
    for (query, status) in [
        ("versions&version_marker=1", 400),
        ("versions&marker=o&version_marker=x", 400),
        ("versions&delimiter=1", 400),
        ("versions&limit=10001", 412),
    ] {
        assert_eq!(send(&p, "GET", &format!("{A}/c?{query}"), &[], "").await.0, status, "{query}");
    }
    assert_eq!(send(&p, "GET", &format!("{A}/c?versions"), &[("accept", "text/plain")], "").await.0, 406);
    send(&p, "DELETE", &format!("{A}/c/o"), &[("x-timestamp", "1600000005")], "").await;
    assert_eq!(rows(&p, "versions").await[0]["is_latest"], true, "a marker can be the latest");
}

#[tokio::test]
async fn bad_ids_and_methods() {
    let (_, p) = setup().await;
    put(&p, "1600000001", "one").await;
    let o = format!("{A}/c/o");
    for (method, id, status, text) in [
        ("GET", "x", 400, "Invalid version parameter"),
        ("POST", "1600000001", 400, "POST to a specific version is not allowed"),
        ("PUT", "null", 400, "Invalid version parameter"),
        ("PUT", "1600000009", 404, "The specified version does not exist"),
    ] {
        let (s, _, b) = send(&p, method, &format!("{o}?version-id={id}"), &[], "").await;
        assert_eq!((s, b.as_str()), (status, text));
    }
    let (s, _, b) = send(&p, "PUT", &format!("{o}?version-id=1600000001"), &[], "x").await;
    assert_eq!((s, b.as_str()), (400, "PUT version-id requests require a zero byte body"));
    assert_eq!(send(&p, "GET", &format!("{o}?version-id=1600000009"), &[], "").await.0, 404);
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    let p = pipeline(&store);
    let (s, _, b) = send(&p, "GET", &format!("{o}?version-id=1"), &[], "").await;
    assert_eq!((s, b.as_str()), (400, "version-aware operations require that the container is versioned"));
}

#[tokio::test]
async fn large_objects_and_posts() {
    let (store, p) = setup().await;
    store.container("AUTH_a", "seg");
    send(&p, "PUT", &format!("{A}/seg/1"), &[], "segment").await;
    let man = r#"[{"path":"/seg/1"},{"path":"/seg/1"}]"#;
    let (status, h, _) = send(&p, "PUT", &format!("{A}/c/o?multipart-manifest=put"), &[("x-timestamp", "1600000001")], man).await;
    assert_eq!((status, values(&h, ["x-object-version-id"])[0].as_str()), (201, "1600000001.00000"));
    let (_, h, body) = send(&p, "GET", &format!("{A}/c/o"), &[], "").await;
    assert_eq!((body.as_str(), h["content-length"].to_str().unwrap()), ("segmentsegment", "14"));
    let row = &rows(&p, "").await[0];
    assert_eq!((&row["bytes"], row["slo_etag"].is_string()), (&json!(14), true), "{row}");
    let (status, _, _) = send(&p, "POST", &format!("{A}/c/o"), &[("x-object-meta-new", "1")], "").await;
    assert_eq!(status, 202);
    assert_eq!(send(&p, "HEAD", &format!("{A}/c/o"), &[], "").await.1["x-object-meta-new"], "1");
    let name = store.names("AUTH_a", HIDDEN)[0].clone();
    assert_eq!(store.object("AUTH_a", HIDDEN, &name).unwrap().headers["x-object-meta-new"], "1");
}

#[tokio::test]
async fn bodies_of_unknown_length_are_counted() {
    let (store, p) = setup().await;
    let mut req = request("PUT", &format!("{A}/c/o"), &[("transfer-encoding", "chunked"), ("x-timestamp", "1600000001")], "12345678");
    req.headers_mut().remove("content-length");
    assert_eq!(p.call(req).await.status(), 201);
    assert_eq!(store.object("AUTH_a", "c", "o").unwrap().headers["x-object-sysmeta-symlink-target-bytes"], "8");
    store.fault("PUT /v1/AUTH_a/%00versions%00c/%00o%008399999997.99999", 404);
    let (s, _, b) = send(&p, "PUT", &format!("{A}/c/o"), &[("x-timestamp", "1600000002")], "x").await;
    assert_eq!(s, 500);
    assert!(b.starts_with("The versions container does not exist."));
}

/// 2015-006: neither versions nor links go without the right to delete them.
#[tokio::test]
async fn nothing_is_deleted_for_strangers() {
    use async_trait::async_trait;
    struct Writer;
    #[async_trait]
    impl crate::env::Authorizer for Writer {
        async fn authorize(&self, _: &Method, _: &str, _: &crate::env::Environ, acl: Option<&str>) -> Option<Resp> {
            (acl != Some("writer")).then(|| error(403))
        }
    }
    let (store, p) = setup().await;
    let v1 = put(&p, "1600000001", "one").await;
    let call = |method: &'static str, target: String| {
        let p = p.clone();
        async move {
            let mut req = request(method, &target, &[], "");
            req.extensions_mut().get_mut::<crate::env::Environ>().unwrap().authorizer = Some(Arc::new(Writer));
            p.call(req).await.status().as_u16()
        }
    };
    for (method, target) in [
        ("DELETE", format!("{A}/c/o")),
        ("PUT", format!("{A}/c/o")),
        ("DELETE", format!("{A}/c/o?version-id={v1}")),
        ("PUT", format!("{A}/c/o?version-id={v1}")),
        ("DELETE", format!("{A}/c")),
    ] {
        assert_eq!(call(method, target.clone()).await, 403, "{method} {target}");
    }
    assert_eq!((store.names("AUTH_a", "c").len(), store.names("AUTH_a", HIDDEN).len()), (1, 1));
    // Writers may write; versions are the owner's.
    send(&p, "POST", &format!("{A}/c"), &[("x-container-write", "writer")], "").await;
    assert_eq!(call("DELETE", format!("{A}/c/o?version-id={v1}")).await, 403);
    assert_eq!(store.names("AUTH_a", "c").len(), 1, "the link is still there");
    assert_eq!(call("DELETE", format!("{A}/c/o")).await, 204);
}
