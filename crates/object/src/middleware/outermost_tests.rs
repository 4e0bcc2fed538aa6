use super::*;
use crate::env::{Req, Resp, environ};
use crate::http::{error, respond, set};
use bytes::Bytes;
use caelum_base::{Env, ManualClock, Secret, SeededRng, Timestamp};
use caelum_rest::{BaseUrl, Body, HttpService};
use caelum_swiftkit::python::json_string;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};

/// Answers everything in one way and keeps what it was asked.
struct Fixed<F> {
    answer: F,
    seen: Mutex<Vec<(String, HeaderMap)>>,
}

impl<F: Fn(&Req) -> Resp + Send + Sync> HttpService for Fixed<F> {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let target = req.uri().path_and_query().map(|p| p.to_string()).unwrap_or_default();
        self.seen.lock().unwrap().push((target, req.headers().clone()));
        let r = (self.answer)(&req);
        Box::pin(async move { r })
    }
}

fn fixed<F: Fn(&Req) -> Resp + Send + Sync>(answer: F) -> Arc<Fixed<F>> {
    Arc::new(Fixed { answer, seen: Mutex::default() })
}

fn env() -> Env {
    Env { clock: Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000))), rng: Arc::new(SeededRng::new(7)) }
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Req {
    let mut r = Request::builder().method(method).uri(target);
    for (k, v) in headers {
        r = r.header(*k, *v);
    }
    r.body(caelum_rest::empty()).unwrap()
}

async fn bytes(r: Resp) -> Bytes {
    r.into_body().collect().await.unwrap().to_bytes()
}

fn header(r: &Resp, name: &str) -> String {
    r.headers().get(name).map(|v| v.to_str().unwrap().to_string()).unwrap_or_default()
}

#[tokio::test]
async fn every_answer_has_its_transaction_id() {
    let layer = CatchErrors::new(fixed(|r| if environ(r).unwrap().authorizer.is_some() { error(404) } else { error(200) }), env(), "-x y");
    let r = layer.call(request("GET", "/v1/a", &[("x-trans-id-extra", "0123456789012345678901234567890123456789")])).await;
    let id = header(&r, "x-trans-id");
    assert_eq!(id, header(&r, "x-openstack-request-id"));
    assert_eq!((&id[..2], &id[23..34]), ("tx", "-006553f100"));
    assert_eq!(&id[34..], "-x%20y-01234567890123456789012345678901");
    assert_eq!(r.status(), 404);
    let r = layer.call(request("HEAD", "/v1/a", &[])).await;
    assert!(bytes(r).await.is_empty());
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let layer = CatchErrors::new(fixed(|_| panic!("secret")), env(), "");
    let r = layer.call(request("GET", "/v1/a", &[])).await;
    assert_eq!((r.status().as_u16(), header(&r, "content-type").as_str()), (500, "text/plain"));
    assert!(header(&r, "x-trans-id").starts_with("tx"));
    assert_eq!(bytes(r).await, "An error occurred");
}

#[tokio::test]
async fn private_headers_stay_inside() {
    let private = [
        "X-Account-Sysmeta-A",
        "x-container-sysmeta-b",
        "X-Object-Sysmeta-C",
        "X-Object-Transient-Sysmeta-D",
        "X-Backend-Storage-Policy-Index",
        "x-backend",
        "X-Account-Host",
        "X-Account-Partition",
        "X-Container-Device",
        "X-Container-Root-Db-State",
        "X-Delete-At-Container",
    ];
    let inner = fixed(|_| {
        let mut r = respond(200, "text/plain", "x");
        set(r.headers_mut(), "x-object-sysmeta-secret", "1");
        set(r.headers_mut(), "X-Backend-Timestamp", "1");
        set(r.headers_mut(), "x-container-read", ".r:*");
        set(r.headers_mut(), "location", "/v1/a/c/");
        r
    });
    let layer = Gatekeeper::new(inner.clone(), false);
    let mut headers: Vec<(&str, &str)> = private.iter().map(|n| (*n, "1")).collect();
    headers.extend([("x-timestamp", "5"), ("x-container-hosts", "kept"), ("x-object-meta-a", "kept"), ("x-allow-reserved-names", "true")]);
    let mut req = request("PUT", "/v1/a/c/o", &headers);
    req.extensions_mut().insert(BaseUrl("http://h/object".into()));
    let r = layer.call(req).await;
    assert_eq!(header(&r, "location"), "http://h/object/v1/a/c/");
    assert_eq!(header(&r, "x-container-read"), ".r:*");
    assert!(!r.headers().contains_key("x-object-sysmeta-secret") && !r.headers().contains_key("x-backend-timestamp"));
    let seen = inner.seen.lock().unwrap()[0].1.clone();
    let mut names: Vec<&str> = seen.keys().map(|k| k.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-allow-reserved-names", "x-backend-inbound-x-timestamp", "x-container-hosts", "x-object-meta-a"]);
}

#[tokio::test]
async fn trailers_of_clients_are_dropped() {
    let layer = Gatekeeper::new(Arc::new(Echo), false);
    let frames = vec![Ok::<_, caelum_rest::BoxError>(http_body::Frame::data(Bytes::from_static(b"ab"))), {
        let mut t = HeaderMap::new();
        t.insert("x-object-sysmeta-evil", "1".parse().unwrap());
        Ok(http_body::Frame::trailers(t))
    }];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let req = Request::builder().method("PUT").uri("/v1/a/c/o").header("transfer-encoding", "chunked").body(body).unwrap();
    let all = layer.call(req).await.into_body().collect().await.unwrap();
    assert!(all.trailers().is_none());
    assert_eq!(all.to_bytes(), "ab");
}

struct Echo;

impl HttpService for Echo {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move { http::Response::new(req.into_body()) })
    }
}

// From upstream's own listing code for these rows.
const ROWS: &str = "[{\"subdir\": \"a<b>&\\\"c'/\"}, {\"name\": \"o\\n\\t\\u00e9\\u007f\\ud83d\\ude00\", \"hash\": \"d41d8\", \"bytes\": 0, \"content_type\": \"text/plain; x=\\\"y\\\"\", \"last_modified\": \"2026-11-21T00:00:00.000000\"}, {\"name\": \"z\", \"hash\": \"\", \"bytes\": 12, \"content_type\": \"\", \"last_modified\": \"t\"}]";
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<container name=\"n&lt;&quot;\u{e9}\"><subdir name=\"a&lt;b&gt;&amp;&quot;c'/\"><name>a&lt;b&gt;&amp;\"c'/</name></subdir><object><name>o\n\t\u{e9}\u{7f}\u{1F600}</name><hash>d41d8</hash><bytes>0</bytes><content_type>text/plain; x=\"y\"</content_type><last_modified>2026-11-21T00:00:00.000000</last_modified></object><object><name>z</name><hash /><bytes>12</bytes><content_type /><last_modified>t</last_modified></object></container>";
const ACCOUNT_ROWS: &str = "[{\"name\": \"c&d\", \"count\": 1, \"bytes\": 2, \"last_modified\": \"t\", \"storage_policy\": \"p\"}, {\"name\": \"e\", \"count\": 1, \"bytes\": 2, \"last_modified\": \"t\"}, {\"subdir\": \"s/\"}]";
const ACCOUNT_XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<account name=\"AUTH_x\">\n<container><name>c&amp;d</name><count>1</count><bytes>2</bytes><last_modified>t</last_modified><storage_policy>p</storage_policy></container>\n<container><name>e</name><count>1</count><bytes>2</bytes><last_modified>t</last_modified></container>\n<subdir name=\"s/\" />\n</account>";

async fn listing(rows: &'static str, method: &str, target: &str, headers: &[(&str, &str)]) -> (Resp, String) {
    let inner = fixed(move |_| respond(200, "application/json; charset=utf-8", rows));
    let r = ListingFormats::new(inner.clone()).call(request(method, target, headers)).await;
    let asked = inner.seen.lock().unwrap().first().map(|s| s.0.clone()).unwrap_or_default();
    (r, asked)
}

#[tokio::test]
async fn listings_in_every_form() {
    let (r, asked) = listing(ROWS, "GET", "/v1/a/n%3C%22%C3%A9?format=xml&prefix=a%20b", &[]).await;
    assert_eq!(asked, "/v1/a/n%3C%22%C3%A9?prefix=a%20b&format=json");
    assert_eq!((header(&r, "content-type").as_str(), header(&r, "vary").as_str()), ("application/xml; charset=utf-8", ""));
    assert_eq!(bytes(r).await, XML);
    let (r, _) = listing(ACCOUNT_ROWS, "GET", "/v1/AUTH_x", &[("accept", "text/xml;q=0.9, application/pdf")]).await;
    assert_eq!((header(&r, "content-type").as_str(), header(&r, "vary").as_str()), ("text/xml; charset=utf-8", "Accept"));
    assert_eq!(bytes(r).await, ACCOUNT_XML);
    let (r, _) = listing(ROWS, "GET", "/v1/a/c", &[]).await;
    assert_eq!(header(&r, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(bytes(r).await, "a<b>&\"c'/\no\n\t\u{e9}\u{7f}\u{1F600}\nz\n".as_bytes());
    let (r, _) = listing(ROWS, "GET", "/v1/a/c/?format=JSON", &[]).await;
    assert_eq!(header(&r, "content-length"), ROWS.len().to_string());
    assert_eq!(bytes(r).await, ROWS);
}

#[tokio::test]
async fn listings_at_the_edges() {
    let (r, _) = listing("[]", "GET", "/v1/a/c", &[]).await;
    assert_eq!(r.status(), 204);
    assert!(bytes(r).await.is_empty());
    let (r, _) = listing("[]", "GET", "/v1/a/c?format=json", &[]).await;
    assert_eq!((r.status().as_u16(), bytes(r).await), (200, Bytes::from("[]")));
    let (r, _) = listing("[]", "GET", "/v1/a/n?format=xml", &[]).await;
    assert_eq!(bytes(r).await, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<container name=\"n\" />");
    let (r, _) = listing("[]", "GET", "/v1/n?format=xml", &[]).await;
    assert_eq!(bytes(r).await, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<account name=\"n\">\n</account>");
    let (r, _) = listing("[]", "HEAD", "/v1/a/c", &[("accept", "application/json")]).await;
    assert_eq!((header(&r, "content-type").as_str(), header(&r, "content-length").as_str()), ("application/json; charset=utf-8", "0"));
    let (r, _) = listing("[]", "GET", "/v1/a/c", &[("accept", "image/png")]).await;
    assert_eq!(r.status(), 406);
    let (r, _) = listing("[]", "GET", "/v1/a/c", &[("accept", "nonsense")]).await;
    assert_eq!((r.status().as_u16(), bytes(r).await), (400, Bytes::from("Invalid Accept header")));
    let (r, _) = listing("[]", "GET", "/v1/a/c?format=%ff", &[]).await;
    assert_eq!((r.status().as_u16(), bytes(r).await), (400, Bytes::from("\"format\" parameter not valid UTF-8")));
    // Objects and other versions are nobody's listings.
    let (r, asked) = listing("[]", "GET", "/v1/a/c/o?format=xml", &[]).await;
    assert_eq!((asked.as_str(), bytes(r).await), ("/v1/a/c/o?format=xml", Bytes::from("[]")));
}

#[tokio::test]
async fn reserved_names_are_not_listed() {
    const HIDDEN: &str = "[{\"name\": \"\\u0000versions\\u0000c\", \"count\": 1, \"bytes\": 2, \"last_modified\": \"t\"}, {\"name\": \"c\", \"count\": 1, \"bytes\": 2, \"last_modified\": \"t\"}]";
    let (r, _) = listing(HIDDEN, "GET", "/v1/a?format=json", &[]).await;
    assert_eq!(bytes(r).await, "[{\"bytes\": 2, \"count\": 1, \"last_modified\": \"t\", \"name\": \"c\"}]");
    let (r, _) = listing(HIDDEN, "GET", "/v1/a", &[]).await;
    assert_eq!(bytes(r).await, "c\n");
    let (r, _) = listing(HIDDEN, "GET", "/v1/a?format=json", &[("x-backend-allow-reserved-names", "true")]).await;
    assert_eq!(bytes(r).await, HIDDEN);
}

#[test]
fn json_as_python_writes_it() {
    let value: Value = serde_json::from_str(ROWS).unwrap();
    let rows = value.as_array().unwrap();
    // serde_json sorts keys; one key at a time is enough to compare the writing.
    assert_eq!(json_string(&rows[0]).as_bytes(), b"{\"subdir\": \"a<b>&\\\"c'/\"}");
    assert_eq!(json_string(&rows[1]["name"]).as_bytes(), b"\"o\\n\\t\\u00e9\\u007f\\ud83d\\ude00\"");
    assert_eq!(json_string(&json!([1, true, null, {"a": {}}])).as_bytes(), b"[1, true, null, {\"a\": {}}]");
}

fn info(options: InfoOptions) -> Info {
    let sections = json!({"swift": {"version": "1", "max": 2}, "slo": {}});
    let Value::Object(sections) = sections else { unreachable!() };
    let about = Arc::new(std::sync::OnceLock::from(About::new(env(), options, sections, Map::new())));
    Info::new(fixed(|_| error(404)), about)
}

#[tokio::test]
async fn info_tells_admins_more() {
    let key = Some(Secret::new("key".to_string()));
    let layer = info(InfoOptions { disallowed: vec!["swift.max".into(), "none.such".into()], admin_key: key, hidden: false });
    let r = layer.call(request("GET", "/info", &[("origin", "http://o")])).await;
    assert_eq!(header(&r, "access-control-allow-origin"), "http://o");
    assert_eq!(serde_json::from_slice::<Value>(&bytes(r).await).unwrap(), json!({"swift": {"version": "1"}, "slo": {}}));
    let signed = "/info?swiftinfo_expires=1700000100&swiftinfo_sig=8fb13a44af660df3a7725627c9c2bfb2650e4575";
    let r = layer.call(request("GET", signed, &[])).await;
    let all: Value = serde_json::from_slice(&bytes(r).await).unwrap();
    assert_eq!(all["admin"]["disallowed_sections"], json!(["swift.max", "none.such"]));
    assert_eq!(layer.call(request("HEAD", signed, &[])).await.status(), 200);
    for bad in [
        "swiftinfo_expires=1700000100&swiftinfo_sig=8fb13a44af660df3a7725627c9c2bfb2650e4576",
        "swiftinfo_expires=1699999999&swiftinfo_sig=00",
        "swiftinfo_expires=x&swiftinfo_sig=00",
        "swiftinfo_sig=\u{20ac}",
    ] {
        let target = format!("/info?{}", bad.replace('\u{20ac}', "%E2%82%AC"));
        assert_eq!(layer.call(request("GET", &target, &[])).await.status(), 401, "{bad}");
    }
    assert_eq!(info(InfoOptions::default()).call(request("GET", signed, &[])).await.status(), 403);
    assert_eq!(info(InfoOptions { hidden: true, ..Default::default() }).call(request("GET", "/info", &[])).await.status(), 403);
    assert_eq!(layer.call(request("DELETE", "/info", &[])).await.status(), 405);
}

#[tokio::test]
async fn small_answers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let layer = HealthCheck::new(fixed(|_| error(404)), Some(file.path().to_path_buf()));
    let r = layer.call(request("GET", "/healthcheck", &[])).await;
    assert_eq!((r.status().as_u16(), bytes(r).await), (503, Bytes::from("DISABLED BY FILE")));
    drop(file);
    let r = layer.call(request("GET", "/healthcheck", &[])).await;
    assert_eq!((header(&r, "content-type"), r.status().as_u16(), bytes(r).await), ("text/plain".into(), 200, Bytes::from("OK")));
    let layer = CrossDomain::new(fixed(|_| error(404)), None);
    let r = layer.call(request("GET", "/crossdomain.xml", &[])).await;
    assert_eq!(header(&r, "content-type"), "application/xml");
    assert!(bytes(r).await.ends_with(b"<allow-access-from domain=\"*\" secure=\"false\" />\n</cross-domain-policy>"));
    let check = NameCheck::new(fixed(|_| error(404)), NameCheckOptions::default()).unwrap();
    for (path, status) in [("/v1/a/c/o", 404), ("/v1/a/c/a%60b", 400), ("/v1/a/c/../o", 400), ("/v1/a/c/..o", 404)] {
        assert_eq!(check.call(request("GET", path, &[])).await.status(), status, "{path}");
    }
    assert_eq!(check.call(request("GET", &format!("/v1/{}", "x".repeat(251)), &[])).await.status(), 404);
    assert_eq!(check.call(request("GET", &format!("/v1/{}", "x".repeat(252)), &[])).await.status(), 400);
}
