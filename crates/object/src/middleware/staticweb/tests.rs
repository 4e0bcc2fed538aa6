use super::*;
use crate::env::{Authorizer, Caller};
use crate::proxy::FixedInfo;
use crate::testing::{FakeStore, read, request, send};
use async_trait::async_trait;

/// Pages that Swift 2.38.3's static web filter made from the rows below.
const UPSTREAM: &str = include_str!("upstream.json");

/// Reads as the ACL says, `.r:*` for all.
struct ByAcl;

#[async_trait]
impl Authorizer for ByAcl {
    async fn authorize(&self, _: &Method, path: &str, _: &Environ, acl: Option<&str>) -> Option<Resp> {
        (!acl.is_some_and(|a| a.contains(".r:*"))).then(|| crate::http::unauthorized(path))
    }
}

struct Site {
    store: FakeStore,
    app: Arc<dyn HttpService>,
}

impl Site {
    async fn new(meta: &[(&str, &str)]) -> Self {
        Self::with(meta, ".r:*,.rlistings", None).await
    }

    async fn with(meta: &[(&str, &str)], acl: &str, url_base: Option<&str>) -> Self {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        let meta = meta.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        send(&store.service(), "PUT", "/v1/a/c", &[("x-container-read", acl)], "").await;
        info.set_container("a", "c", ContainerInfo { status: 204, meta, read_acl: Some(acl.into()), ..ContainerInfo::default() });
        Self { app: Arc::new(StaticWeb::new(store.service(), Arc::new(info), url_base)), store }
    }

    async fn put(&self, name: &str, kind: &str, body: &str) {
        let target = format!("/v1/a/c/{name}");
        assert_eq!(send(&self.store.service(), "PUT", &target, &[("content-type", kind)], body.to_string()).await.0, 201);
    }

    async fn visit(&self, method: &str, target: &str, headers: &[(&str, &str)], caller: Option<Caller>) -> (u16, HeaderMap, String) {
        let mut req = request(method, target, headers, "");
        let environ = Environ { authorizer: Some(Arc::new(ByAcl)), caller: caller.map(Arc::new), ..facts(&req) };
        req.extensions_mut().insert(environ);
        read(self.app.call(req).await).await
    }

    async fn get(&self, target: &str) -> (u16, HeaderMap, String) {
        self.visit("GET", target, &[], None).await
    }
}

#[test]
fn pages_are_upstreams() {
    let cases: Value = serde_json::from_str(UPSTREAM).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let meta = case["meta"].as_object().unwrap();
        let meta = meta.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_string())).collect();
        let site = super::Site::of(&ContainerInfo { status: 204, meta, ..ContainerInfo::default() });
        let path = case["path"].as_str().unwrap();
        let prefix = path.strip_prefix("/v1/a/c/").unwrap();
        let label = if site.label.is_empty() { path.to_string() } else { format!("{}/{prefix}", site.label) };
        let rows = [
            serde_json::json!({"subdir": format!("{prefix}dir & co/")}),
            serde_json::json!({"name": format!("{prefix}a <b>'\".txt"), "hash": "x", "bytes": 1536, "content_type": "text/Plain", "last_modified": "2023-11-14T22:13:20.123450"}),
            serde_json::json!({"name": format!("{prefix}.."), "hash": "x", "bytes": 0, "content_type": "a\"b/c", "last_modified": "2023-11-14T22:13:20.000000"}),
        ];
        let page = match case["status"].as_u64() {
            Some(200) => page::listing(&site, &label, prefix, &rows, "", !prefix.is_empty()),
            _ => page::disabled(&site, &label, prefix),
        };
        assert_eq!(page, case["body"].as_str().unwrap(), "{name}");
    }
}

#[tokio::test]
async fn index_pages_and_redirects() {
    let site = Site::new(&[("web-index", "index.html")]).await;
    site.put("index.html", "text/html", "root").await;
    site.put("sub/index.html", "text/html", "below").await;
    site.put("sub/file", "text/plain", "file").await;
    assert_eq!(site.get("/v1/a/c/").await.2, "root");
    assert_eq!(site.get("/v1/a/c/sub/").await.2, "below");
    assert_eq!(site.get("/v1/a/c/sub/file").await.2, "file");
    for target in ["/v1/a/c", "/v1/a/c/sub"] {
        let (status, headers, _) = site.get(target).await;
        assert_eq!((status, headers["location"].to_str().unwrap()), (301, format!("{target}/").as_str()));
    }
    assert_eq!(site.visit("HEAD", "/v1/a/c/", &[], None).await.0, 200);
    assert_eq!(site.get("/v1/a/c/none").await.0, 404);
    let etag = caelum_swiftkit::md5_hex(b"root");
    assert_eq!(site.visit("GET", "/v1/a/c/", &[("if-none-match", &etag)], None).await.0, 304);
    let (status, _, body) = site.visit("GET", "/v1/a/c/", &[("range", "bytes=1-2")], None).await;
    assert_eq!((status, body.as_str()), (206, "oo"));
    let far = Site::with(&[("web-index", "i")], ".r:*", Some("https://www.example.com/ignored")).await;
    assert_eq!(far.get("/v1/a/c").await.1["location"], "https://www.example.com/v1/a/c/");
}

#[tokio::test]
async fn listings() {
    let site = Site::new(&[("web-listings", "true")]).await;
    for name in ["a.txt", "sub/b", "sub/deep/c", "%3Cscript%3E"] {
        site.put(name, "text/plain", "x").await;
    }
    let (status, headers, body) = site.get("/v1/a/c/").await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/html; charset=UTF-8"));
    assert!(body.contains("href=\"./a%2Etxt\"") && body.contains("href=\"./sub/\"") && body.contains("&lt;script&gt;"), "{body}");
    assert!(!body.contains("<script>") && !body.contains("../</a>"));
    let (_, _, body) = site.get("/v1/a/c/sub/").await;
    assert!(body.contains("<a href=\"../\">../</a>") && body.contains("href=\"./b\"") && body.contains("href=\"./deep/\""), "{body}");
    assert_eq!(site.get("/v1/a/c/sub").await.0, 301);
    assert_eq!(site.get("/v1/a/c/nothing/").await.0, 404);
    assert_eq!(site.get("/v1/a/c/nothing").await.0, 404);
    let (status, headers, body) = site.visit("HEAD", "/v1/a/c/", &[], None).await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert_ne!(headers["content-length"], "0");
    let (status, _, body) = Site::new(&[("web-listings", "no"), ("web-index", "<i>")]).await.get("/v1/a/c/").await;
    assert_eq!(status, 404);
    assert!(body.contains("Web Listing Disabled") && body.contains("&lt;i&gt;") && !body.contains("<i>"));
}

#[tokio::test]
async fn error_pages() {
    let meta = [("web-index", "index.html"), ("web-error", "error.html")];
    let site = Site::new(&meta).await;
    site.put("404error.html", "text/html", "not here").await;
    let (status, headers, body) = site.get("/v1/a/c/none").await;
    assert_eq!((status, body.as_str(), headers["content-type"].to_str().unwrap()), (404, "not here", "text/html"));
    assert_eq!(site.get("/v1/a/c/none/").await.2, "not here");
    assert_eq!(site.get("/v1/a/c/").await.2, "not here");
    let closed = Site::with(&meta, "", None).await;
    closed.put("401error.html", "text/html", "hidden").await;
    let (status, _, body) = closed.get("/v1/a/c/").await;
    assert_eq!(status, 401);
    assert_ne!(body, "hidden", "the error page is read with the visitor's rights");
}

#[tokio::test]
async fn folders_marked_by_objects() {
    let site = Site::new(&[("web-listings", "yes")]).await;
    site.put("dir", "application/directory", "").await;
    site.put("dir/x", "text/plain", "x").await;
    assert_eq!(site.get("/v1/a/c/dir").await.0, 301);
    assert!(site.get("/v1/a/c/dir/").await.2.contains("Listing of /v1/a/c/dir/"));
    let site = Site::new(&[("web-listings", "yes"), ("web-directory-type", "text/dir")]).await;
    site.put("dir", "application/directory", "").await;
    assert_eq!(site.get("/v1/a/c/dir").await.0, 200);
}

#[tokio::test]
async fn for_whom() {
    let site = Site::new(&[("web-listings", "yes")]).await;
    let user = || Some(Caller { user_name: "joe".into(), ..Caller::default() });
    let (_, headers, _) = site.visit("GET", "/v1/a/c/", &[], user()).await;
    assert_eq!(headers["content-type"], "application/json", "the API for those who log in");
    let (_, headers, _) = site.visit("GET", "/v1/a/c/", &[("x-web-mode", "true")], user()).await;
    assert_eq!(headers["content-type"], "text/html; charset=UTF-8");
    let plain = Site::new(&[]).await;
    assert_eq!(plain.visit("GET", "/v1/a/c", &[("x-web-mode", "true")], user()).await.0, 404);
    assert_eq!(plain.get("/v1/a/c").await.1["content-type"], "application/json");
    assert_eq!(site.visit("PUT", "/v1/a/c/o", &[], None).await.0, 401, "writes are none of its business");
    // Requests that a layer has authorized itself are for the API.
    assert_eq!(send(&site.app, "GET", "/v1/a/c/", &[], "").await.1["content-type"], "application/json");
}

#[tokio::test]
async fn links_carry_the_temporary_url_on() {
    let site = Site::new(&[("web-listings", "yes")]).await;
    site.put("p/a", "text/plain", "x").await;
    site.put("p/q/b", "text/plain", "x").await;
    let caller = || Some(Caller { user_name: CALLER.into(), ..Caller::default() });
    let signed = "temp_url_sig=ab&temp_url_expires=99&temp_url_prefix=p/&inline=";
    let (_, headers, body) = site.visit("GET", &format!("/v1/a/c/p/?{signed}"), &[], caller()).await;
    assert_eq!(headers["x-backend-content-generator"], "staticweb");
    assert!(body.contains("href=\"./a?temp_url_prefix=p/&amp;temp_url_expires=99&amp;temp_url_sig=ab&amp;inline\""), "{body}");
    assert!(!body.contains("../</a>"), "nothing above the prefix may be seen");
    let (_, _, body) = site.visit("GET", &format!("/v1/a/c/p/q/?{signed}"), &[], caller()).await;
    assert!(body.contains("href=\"../?temp_url_prefix="), "{body}");
    let (_, _, body) = site.visit("GET", &format!("/v1/a/c/p/?{signed}"), &[], None).await;
    assert!(!body.contains("temp_url"), "{body}");
}
