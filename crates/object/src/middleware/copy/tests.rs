use super::*;
use crate::middleware::{Dlo, Pace, Slo, SloConfig, Symlink};
use crate::testing::{FakeStore, request, send, values};
use caelum_base::Env;
use caelum_swiftkit::HashPath;

const A: &str = "/v1/AUTH_a";

fn pipeline(store: &FakeStore) -> Arc<dyn HttpService> {
    let pace = Pace { per_second: 0, ..Pace::default() };
    let link: Arc<dyn HttpService> = Arc::new(Symlink::new(store.service()));
    let dlo: Arc<dyn HttpService> = Arc::new(Dlo::new(link, Env::system(), pace));
    let config = SloConfig { pace, ..SloConfig::default() };
    let slo: Arc<dyn HttpService> = Arc::new(Slo::new(dlo, Arc::new(store.clone()), HashPath::default(), Env::system(), config));
    Arc::new(Copy::new(slo))
}

async fn setup() -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    for c in ["c", "d", "seg"] {
        store.container("AUTH_a", c);
        store.container("AUTH_b", c);
    }
    let p = pipeline(&store);
    let meta = [("x-object-meta-color", "blue"), ("content-type", "a/b"), ("x-delete-at", "4000000000"), ("content-encoding", "gz")];
    send(&p, "PUT", &format!("{A}/c/o%20x"), &meta, "content").await;
    (store, p)
}

#[tokio::test]
async fn copies_with_metadata() {
    let (store, p) = setup().await;
    let (status, h, _) = send(&p, "PUT", &format!("{A}/d/new"), &[("x-copy-from", "c/o%20x"), ("x-object-meta-size", "big")], "").await;
    assert_eq!(status, 201);
    assert_eq!((h["x-copied-from"].to_str().unwrap(), h["x-copied-from-account"].to_str().unwrap()), ("c/o%20x", "AUTH_a"));
    assert!(h["x-copied-from-last-modified"].to_str().unwrap().ends_with("GMT"));
    assert_eq!(values(&h, ["x-object-meta-color", "x-object-meta-size"]), ["blue", "big"]);
    let o = store.object("AUTH_a", "d", "new").unwrap();
    assert_eq!((&o.body[..], &o.headers["content-type"]), (&b"content"[..], &http::HeaderValue::from_static("a/b")));
    assert_eq!(values(&o.headers, ["x-delete-at", "content-encoding"]), ["4000000000", "gz"]);
    let (status, h, _) = send(
        &p,
        "COPY",
        &format!("{A}/c/o%20x"),
        &[("destination", "/d/fresh%2Fer"), ("x-fresh-metadata", "true"), ("destination-account", "AUTH_b"), ("content-type", "n/w")],
        "",
    )
    .await;
    assert_eq!((status, h["x-copied-from"].to_str().unwrap()), (201, "c/o%20x"));
    let o = store.object("AUTH_b", "d", "fresh/er").unwrap();
    assert!(!o.headers.contains_key("x-object-meta-color"));
    assert_eq!(o.headers["content-type"], "n/w");
    let (_, sent, _) = store.last("PUT /v1/AUTH_b/d/fresh/er").map(|(h, e)| (0, h, e)).unwrap();
    assert!(!sent.contains_key("x-copy-from") && !sent.contains_key("destination"));
}

#[tokio::test]
async fn ranges_and_conditions_are_the_sources() {
    let (store, p) = setup().await;
    let (status, _, _) = send(&p, "PUT", &format!("{A}/d/part"), &[("x-copy-from", "c/o x"), ("range", "bytes=1-3")], "").await;
    assert_eq!((status, &store.object("AUTH_a", "d", "part").unwrap().body[..]), (201, &b"ont"[..]));
    let none = [("x-copy-from", "c/o x"), ("if-match", "nothing")];
    assert_eq!(send(&p, "PUT", &format!("{A}/d/x"), &none, "").await.0, 412);
    let beyond = [("x-copy-from", "c/o x"), ("range", "bytes=70-")];
    assert_eq!(send(&p, "PUT", &format!("{A}/d/x"), &beyond, "").await.0, 416);
    assert!(store.object("AUTH_a", "d", "x").is_none());
}

#[tokio::test]
async fn refusals() {
    let (store, p) = setup().await;
    let put = format!("{A}/d/x");
    for (headers, body, status, text) in [
        (vec![("x-copy-from", "c")], "", 412, "X-Copy-From header must be of the form <container name>/<object name>"),
        (vec![("x-copy-from", "c/o x"), ("x-copy-from-account", "a%2Fb")], "", 412, "Account name cannot contain slashes"),
        (vec![("x-copy-from", "c/o x")], "body", 400, "Copy requests require a zero byte body"),
    ] {
        let (s, _, b) = send(&p, "PUT", &put, &headers, body).await;
        assert_eq!((s, b.as_str()), (status, text));
    }
    assert_eq!(send(&p, "PUT", &put, &[("x-copy-from", "c/none")], "").await.0, 404);
    let (s, _, b) = send(&p, "COPY", &put, &[], "").await;
    assert_eq!((s, b.as_str()), (412, "Destination header required"));
    let (s, _, b) = send(&p, "COPY", &put, &[("destination", "nowhere")], "").await;
    assert_eq!((s, b.as_str()), (412, "Destination header must be of the form <container name>/<object name>"));
    let mut req = request("PUT", &put, &[("x-copy-from", "c/o x")], "");
    req.extensions_mut().get_mut::<Environ>().unwrap().source = "TU";
    assert_eq!(p.call(req).await.status(), 400, "a signed path says nothing of other objects");
    assert!(store.object("AUTH_a", "d", "x").is_none());
    let (_, h, _) = send(&p, "OPTIONS", &put, &[], "").await;
    assert_eq!(h["allow"], "HEAD, GET, PUT, POST, OPTIONS, DELETE, COPY");
}

#[tokio::test]
async fn both_ends_are_asked_for() {
    use async_trait::async_trait;
    struct Only(&'static str);
    #[async_trait]
    impl crate::env::Authorizer for Only {
        async fn authorize(&self, _: &Method, path: &str, _: &Environ, _: Option<&str>) -> Option<Resp> {
            (!path.starts_with(self.0)).then(|| error(403))
        }
    }
    let (store, p) = setup().await;
    for (allowed, status) in [("/v1/AUTH_a/d", 403), ("/v1/AUTH_a/c", 403), ("/v1/AUTH_a", 201)] {
        let mut req = request("PUT", &format!("{A}/d/x"), &[("x-copy-from", "c/o x")], "");
        req.extensions_mut().get_mut::<Environ>().unwrap().authorizer = Some(Arc::new(Only(allowed)));
        assert_eq!(p.call(req).await.status(), status, "{allowed}");
        assert_eq!(store.object("AUTH_a", "d", "x").is_some(), status == 201);
    }
}

#[tokio::test]
async fn large_objects_and_links() {
    let (store, p) = setup().await;
    send(&p, "PUT", &format!("{A}/seg/1"), &[], "one").await;
    send(&p, "PUT", &format!("{A}/seg/2"), &[], "two").await;
    send(&p, "PUT", &format!("{A}/c/slo?multipart-manifest=put"), &[], r#"[{"path":"/seg/1"},{"path":"/seg/2"}]"#).await;
    send(&p, "PUT", &format!("{A}/c/dlo"), &[("x-object-manifest", "seg/"), ("content-type", "x/y")], "").await;
    send(&p, "PUT", &format!("{A}/c/dlo"), &[("x-object-manifest", "seg/2")], "").await;
    send(&p, "PUT", &format!("{A}/c/link"), &[("x-symlink-target", "c/o x")], "").await;
    let copy = |from: &'static str, to: &str| (format!("{A}/d/{to}"), [("x-copy-from", from)]);
    let (to, headers) = copy("c/slo", "slo-content");
    assert_eq!(send(&p, "PUT", &to, &headers, "").await.0, 201);
    let o = store.object("AUTH_a", "d", "slo-content").unwrap();
    assert_eq!((&o.body[..], o.headers.contains_key("x-static-large-object")), (&b"onetwo"[..], false));
    assert!(!o.headers.keys().any(|k| k.as_str().contains("slo")), "{:?}", o.headers);
    let (to, headers) = copy("c/slo", "slo?multipart-manifest=get");
    assert_eq!(send(&p, "PUT", &to, &headers, "").await.0, 201);
    let (old, new) = (store.object("AUTH_a", "c", "slo").unwrap(), store.object("AUTH_a", "d", "slo").unwrap());
    assert_eq!((old.body, &old.headers["x-object-sysmeta-slo-etag"]), (new.body, &new.headers["x-object-sysmeta-slo-etag"]));
    let (to, headers) = copy("c/dlo", "dlo-content");
    send(&p, "PUT", &to, &headers, "").await;
    assert_eq!(&store.object("AUTH_a", "d", "dlo-content").unwrap().body[..], b"two");
    let (to, headers) = copy("c/dlo", "dlo?multipart-manifest=get");
    send(&p, "PUT", &to, &headers, "").await;
    assert_eq!(store.object("AUTH_a", "d", "dlo").unwrap().headers["x-object-manifest"], "seg/2");
    let (to, headers) = copy("c/link", "target");
    send(&p, "PUT", &to, &headers, "").await;
    assert_eq!(&store.object("AUTH_a", "d", "target").unwrap().body[..], b"content");
    let (to, headers) = copy("c/link", "link?symlink=get");
    send(&p, "PUT", &to, &headers, "").await;
    let link = store.object("AUTH_a", "d", "link").unwrap();
    assert_eq!(link.headers["x-object-sysmeta-symlink-target"], "c/o%20x");
}

#[tokio::test]
async fn heartbeats() {
    let (store, p) = setup().await;
    let headers = [("x-copy-from", "c/o%20x"), ("accept", "application/json")];
    let (status, _, body) = send(&p, "PUT", &format!("{A}/d/x?heartbeat=on"), &headers, "").await;
    let answer: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    assert_eq!((status, &answer["Response Status"]), (202, &serde_json::json!("201 Created")));
    assert_eq!((&answer["X-Copied-From"], &answer["Errors"]), (&serde_json::json!("c/o%20x"), &serde_json::json!([])));
    assert!(store.object("AUTH_a", "d", "x").is_some());
    let (_, _, body) = send(&p, "PUT", &format!("{A}/none/x?heartbeat=on"), &headers, "").await;
    let answer: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    assert_eq!(answer["Errors"], serde_json::json!([["c/o%2520x", "404 Not Found"]]));
}
