use super::*;
use crate::testing::{FakeStore, send, values};
use caelum_swiftkit::md5_hex;
use serde_json::json;

const A: &str = "/v1/AUTH_a";

async fn setup() -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    for a in ["AUTH_a", "AUTH_b"] {
        store.container(a, "c");
    }
    let link: Arc<dyn HttpService> = Arc::new(Symlink::new(store.service()));
    send(&link, "PUT", &format!("{A}/c/o%20x"), &[("content-type", "a/b")], "content").await;
    (store, link)
}

#[tokio::test]
async fn stored_and_listed_as_real_nodes_do() {
    let (store, link) = setup().await;
    let to = |n: &str| format!("{A}/c/{n}");
    assert_eq!(send(&link, "PUT", &to("soft"), &[("x-symlink-target", "c/o x")], "").await.0, 201);
    let o = store.object("AUTH_a", "c", "soft").unwrap();
    assert_eq!(values(&o.headers, [TARGET.1, "content-type"]), ["c/o%20x", "application/symlink"]);
    assert_eq!(o.headers[OVERRIDE_ETAG], "d41d8cd98f00b204e9800998ecf8427e; symlink_target=c/o%20x");
    let tag = md5_hex(b"content");
    let headers =
        [("x-symlink-target", "c/o%20x"), ("x-symlink-target-etag", &format!("\"{tag}\"")), ("x-symlink-target-account", "AUTH_a")];
    assert_eq!(send(&link, "PUT", &to("hard"), &headers, "").await.0, 201);
    let o = store.object("AUTH_a", "c", "hard").unwrap();
    assert_eq!(values(&o.headers, [ETAG.1, BYTES.1, "content-type"]), [tag.as_str(), "7", "a/b"]);
    let row = format!(
        "d41d8cd98f00b204e9800998ecf8427e; symlink_target=c/o%20x; symlink_target_account=AUTH_a; symlink_target_etag={tag}; symlink_target_bytes=7"
    );
    assert_eq!(o.headers[OVERRIDE_ETAG], row.as_str());
    let (_, _, body) = send(&link, "GET", &format!("{A}/c"), &[], "").await;
    let rows: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&rows[0]["name"], &rows[0]["hash"]), (&json!("hard"), &json!("d41d8cd98f00b204e9800998ecf8427e")));
    assert_eq!(
        (&rows[0]["symlink_path"], &rows[0]["symlink_etag"], &rows[0]["symlink_bytes"]),
        (&json!("/v1/AUTH_a/c/o%20x"), &json!(tag), &json!(7))
    );
    assert_eq!(rows[1].get("symlink_path"), None);
}

#[tokio::test]
async fn followed_with_ranges_and_conditions() {
    let (store, link) = setup().await;
    let to = |n: &str| format!("{A}/c/{n}");
    send(&link, "PUT", &to("1"), &[("x-symlink-target", "c/o x")], "").await;
    send(&link, "PUT", &to("2"), &[("x-symlink-target", "c/1")], "").await;
    send(&link, "PUT", &to("3"), &[("x-symlink-target", "c/2")], "").await;
    let (status, h, body) = send(&link, "GET", &to("1?a=b"), &[], "").await;
    assert_eq!((status, body.as_str(), h["content-location"].to_str().unwrap()), (200, "content", "/v1/AUTH_a/c/o%20x"));
    assert!(store.take_log().contains(&"GET /v1/AUTH_a/c/o%20x?a=b".to_string()));
    let (status, _, body) = send(&link, "GET", &to("2"), &[("range", "bytes=1-2")], "").await;
    assert_eq!((status, body.as_str()), (206, "on"));
    let tag = md5_hex(b"content");
    assert_eq!(send(&link, "GET", &to("2"), &[("if-match", &tag)], "").await.0, 200);
    assert_eq!(send(&link, "GET", &to("2"), &[("if-none-match", &tag)], "").await.0, 304);
    let (status, _, body) = send(&link, "GET", &to("3"), &[], "").await;
    assert_eq!((status, body.as_str()), (409, "Too many levels of symbolic links, maximum allowed is 2"));
    let (status, h, body) = send(&link, "GET", &to("3?symlink=get"), &[], "").await;
    assert_eq!((status, body.as_str(), &h["x-symlink-target"]), (200, "", &http::HeaderValue::from_static("c/2")));
    send(&link, "DELETE", &to("o%20x"), &[], "").await;
    let (status, h, _) = send(&link, "HEAD", &to("1"), &[], "").await;
    assert_eq!((status, h["content-location"].to_str().unwrap()), (404, "/v1/AUTH_a/c/o%20x"));
    // A ring of links ends.
    send(&link, "PUT", &to("1"), &[("x-symlink-target", "c/2")], "").await;
    assert_eq!(send(&link, "GET", &to("1"), &[], "").await.0, 409);
}

#[tokio::test]
async fn static_links_notice_changes() {
    let (_, link) = setup().await;
    let to = |n: &str| format!("{A}/c/{n}");
    let tag = md5_hex(b"content");
    let make = |etag: String, target: &'static str| [("x-symlink-target", target.to_string()), ("x-symlink-target-etag", etag)];
    async fn put(link: &Arc<dyn HttpService>, at: String, h: [(&'static str, String); 2]) -> (u16, HeaderMap, String) {
        let headers: Vec<(&str, &str)> = h.iter().map(|(k, v)| (*k, v.as_str())).collect();
        send(link, "PUT", &at, &headers, "").await
    }
    let (status, h, body) = put(&link, to("h"), make("other".into(), "c/o x")).await;
    assert_eq!((status, body), (409, format!("Object Etag '{tag}' does not match X-Symlink-Target-Etag header 'other'")));
    assert_eq!(values(&h, ["content-type", "content-location"]), ["text/plain", "/v1/AUTH_a/c/o%20x"]);
    let (status, _, body) = put(&link, to("h"), make(tag.clone(), "c/none")).await;
    assert_eq!((status, body.as_str()), (409, "X-Symlink-Target does not exist"));
    let (status, _, body) = put(&link, to("h"), make("a;b".into(), "c/o x")).await;
    assert_eq!((status, body.as_str()), (400, "Bad X-Symlink-Target-Etag format"));
    assert_eq!(put(&link, to("h"), make(tag.clone(), "c/o x")).await.0, 201);
    assert_eq!(put(&link, to("hh"), make(tag.clone(), "c/h")).await.0, 201, "a link to a static link");
    assert_eq!(send(&link, "GET", &to("hh"), &[], "").await.2, "content");
    send(&link, "PUT", &to("o%20x"), &[], "changed").await;
    let (status, h, _) = send(&link, "GET", &to("h"), &[], "").await;
    assert_eq!((status, h["content-location"].to_str().unwrap()), (409, "/v1/AUTH_a/c/o%20x"));
}

#[tokio::test]
async fn posts_are_redirected_after_they_are_done() {
    let (store, link) = setup().await;
    let l = format!("{A}/c/l");
    send(&link, "PUT", &l, &[("x-symlink-target", "c/o x"), ("x-symlink-target-account", "AUTH_b")], "").await;
    let (status, h, body) = send(&link, "POST", &l, &[("x-object-meta-a", "b")], "").await;
    assert_eq!((status, h["location"].to_str().unwrap()), (307, "/v1/AUTH_b/c/o%20x"));
    assert!(body.starts_with("The requested POST was applied to a symlink."));
    assert_eq!(store.object("AUTH_a", "c", "l").unwrap().headers["x-object-meta-a"], "b");
    let (status, _, body) = send(&link, "POST", &l, &[("x-symlink-target", "c/o")], "").await;
    assert_eq!((status, body.as_str()), (400, "A PUT request is required to set a symlink target"));
    assert_eq!(send(&link, "POST", &format!("{A}/c/o%20x"), &[], "").await.0, 202);
}

#[tokio::test]
async fn refusals() {
    let (_, link) = setup().await;
    let l = format!("{A}/c/l");
    for (headers, body, status, text) in [
        (vec![("x-symlink-target", "c/l")], "", 400, "Symlink cannot target itself"),
        (vec![("x-symlink-target", "c/o")], "x", 400, "Symlink requests require a zero byte body"),
        (vec![("x-symlink-target", "/c/o")], "", 412, "X-Symlink-Target header must be of the form <container name>/<object name>"),
        (vec![("x-symlink-target", "c")], "", 412, "X-Symlink-Target header must be of the form <container name>/<object name>"),
        (vec![("x-symlink-target", "c/o"), ("x-symlink-target-account", "a/b")], "", 412, "Account name cannot contain slashes"),
    ] {
        let (s, _, b) = send(&link, "PUT", &l, &headers, body).await;
        assert_eq!((s, b.as_str()), (status, text), "{headers:?}");
    }
}
