use super::legacy::VersionedWrites;
use super::*;
use crate::testing::{FakeStore, request, send, values};

const A: &str = "/v1/AUTH_a";

async fn setup(mode: &str) -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    for c in ["c", "v"] {
        store.container("AUTH_a", c);
    }
    let p: Arc<dyn HttpService> = Arc::new(VersionedWrites::new(store.service(), Arc::new(store.clone()), Env::system()));
    let (status, _, _) = send(&p, "POST", &format!("{A}/c"), &[(mode, "v")], "").await;
    assert_eq!(status, 204);
    (store, p)
}

async fn put(p: &Arc<dyn HttpService>, at: &str, body: &str) {
    let headers = [("x-timestamp", at), ("x-object-meta-at", at)];
    assert_eq!(send(p, "PUT", &format!("{A}/c/obj"), &headers, body.to_string()).await.0, 201);
}

async fn get(p: &Arc<dyn HttpService>) -> String {
    send(p, "GET", &format!("{A}/c/obj"), &[], "").await.2
}

#[tokio::test]
async fn headers_are_kept_as_sysmeta() {
    let (_, p) = setup("x-versions-location").await;
    let head = || async { send(&p, "HEAD", &format!("{A}/c"), &[], "").await.1 };
    let h = head().await;
    assert_eq!(
        values(
            &h,
            ["x-versions-location", "x-history-location", "x-container-sysmeta-versions-location", "x-container-sysmeta-versions-mode"]
        ),
        ["v", "-", "v", "stack"]
    );
    send(&p, "POST", &format!("{A}/c"), &[("x-history-location", "w"), ("x-remove-versions-location", "x")], "").await;
    let h = head().await;
    assert_eq!(values(&h, ["x-versions-location", "x-history-location"]), ["-", "w"], "adding wins over removing");
    send(&p, "POST", &format!("{A}/c"), &[("x-remove-history-location", "x")], "").await;
    assert_eq!(values(&head().await, ["x-history-location", "x-container-sysmeta-versions-location"]), ["-", "-"]);
    let both = [("x-versions-location", "v"), ("x-history-location", "w")];
    let (status, _, body) = send(&p, "POST", &format!("{A}/c"), &both, "").await;
    assert_eq!((status, body.as_str()), (400, "Only one of x-versions-location or x-history-location may be specified"));
    let (status, _, body) = send(&p, "POST", &format!("{A}/c"), &[("x-versions-location", "a/b")], "").await;
    assert_eq!((status, body.as_str()), (412, "Container name cannot contain slashes"));
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-location", ""), ("x-history-location", "h")], "").await;
    assert_eq!(values(&head().await, ["x-history-location"]), ["h"]);
}

#[tokio::test]
async fn stack_mode() {
    let (store, p) = setup("x-versions-location").await;
    put(&p, "1600000001", "one").await;
    put(&p, "1600000002", "two").await;
    put(&p, "1600000003", "three").await;
    assert_eq!(store.names("AUTH_a", "v"), ["003obj/1600000001.00000", "003obj/1600000002.00000"]);
    assert_eq!(store.object("AUTH_a", "v", "003obj/1600000001.00000").unwrap().headers["x-object-meta-at"], "1600000001");
    for want in ["two", "one"] {
        assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 204);
        assert_eq!(get(&p).await, want);
    }
    assert!(store.names("AUTH_a", "v").is_empty());
    assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 204);
    assert!(store.names("AUTH_a", "c").is_empty());
    assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 404);
}

#[tokio::test]
async fn history_mode_and_back() {
    let (store, p) = setup("x-history-location").await;
    put(&p, "1600000001", "one").await;
    assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 204);
    assert!(store.names("AUTH_a", "c").is_empty());
    let versions = store.names("AUTH_a", "v");
    assert_eq!((versions.len(), versions[0].as_str()), (2, "003obj/1600000001.00000"));
    let marker = store.object("AUTH_a", "v", &versions[1]).unwrap();
    assert_eq!((&marker.body[..], marker.headers["content-type"].to_str().unwrap()), (&b""[..], DELETE_MARKER));
    // In stack mode a deletion undoes the deletion.
    send(&p, "POST", &format!("{A}/c"), &[("x-versions-location", "v")], "").await;
    assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 204);
    assert_eq!(get(&p).await, "one");
    assert!(store.names("AUTH_a", "v").is_empty());
}

#[tokio::test]
async fn a_missing_versions_container_stops_the_write() {
    let (store, p) = setup("x-versions-location").await;
    put(&p, "1600000001", "one").await;
    send(&p, "DELETE", &format!("{A}/v"), &[], "").await;
    assert_eq!(send(&p, "PUT", &format!("{A}/c/obj"), &[], "two").await.0, 412);
    assert_eq!(get(&p).await, "one");
    store.container("AUTH_a", "v");
    store.fault("PUT /v1/AUTH_a/v/003obj/1600000001.00000", 503);
    assert_eq!(send(&p, "PUT", &format!("{A}/c/obj"), &[], "two").await.0, 503);
    store.fault("GET /v1/AUTH_a/v", 500);
    assert_eq!(send(&p, "DELETE", &format!("{A}/c/obj"), &[], "").await.0, 500);
}

/// 2015-006: restoring an earlier version is a write that the caller must be allowed.
#[tokio::test]
async fn strangers_change_nothing() {
    use async_trait::async_trait;
    struct Nobody;
    #[async_trait]
    impl crate::env::Authorizer for Nobody {
        async fn authorize(&self, _: &Method, _: &str, _: &crate::env::Environ, _: Option<&str>) -> Option<Resp> {
            Some(error(403))
        }
    }
    for mode in ["x-versions-location", "x-history-location"] {
        let (store, p) = setup(mode).await;
        put(&p, "1600000001", "one").await;
        put(&p, "1600000002", "two").await;
        for method in ["DELETE", "PUT"] {
            let mut req = request(method, &format!("{A}/c/obj"), &[], "");
            req.extensions_mut().get_mut::<crate::env::Environ>().unwrap().authorizer = Some(Arc::new(Nobody));
            assert_eq!(p.call(req).await.status(), 403);
        }
        assert_eq!((get(&p).await.as_str(), store.names("AUTH_a", "v").len()), ("two", 1));
    }
}
