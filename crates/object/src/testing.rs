//! A small object store in memory that answers as the proxy's controllers do, for tests of the layers in front of it.
#![allow(clippy::unwrap_used, reason = "for tests only, also those of other crates")]

use crate::env::{Environ, Req, Resp, SwiftPath};
use crate::http::{Conditions, Params, Source, conditional, content_length, error, http_date, respond, set, text};
use crate::proxy::info::{AccountInfo, ContainerInfo, InfoSource, ObjectInfo};
use async_trait::async_trait;
use bytes::Bytes;
use caelum_rest::HttpService;
use caelum_swiftkit::{Timestamp, md5_hex};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Clone)]
pub struct Stored {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Timestamp,
    pub etag: String,
}

#[derive(Clone, Default)]
pub struct Container {
    pub headers: HeaderMap,
    pub objects: BTreeMap<String, Stored>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<(String, String), Container>,
    log: Vec<String>,
    /// `METHOD path` → status to answer instead.
    faults: BTreeMap<String, u16>,
    clock: u64,
    seen: Vec<(String, HeaderMap, Option<Environ>)>,
}

/// The store. Clones share their content.
#[derive(Clone, Default)]
pub struct FakeStore(Arc<Mutex<State>>);

/// Headers of a PUT or POST that stay with the object.
fn is_kept(name: &str) -> bool {
    ["x-object-meta-", "x-object-sysmeta-", "x-object-transient-sysmeta-"].iter().any(|p| name.starts_with(p))
        || matches!(
            name,
            "content-type"
                | "content-encoding"
                | "content-disposition"
                | "x-delete-at"
                | "x-object-manifest"
                | "x-static-large-object"
                | "cache-control"
        )
}

/// Content type without `swift_*` parameters, and the bytes that `swift_bytes` names.
fn clean_type(value: &str) -> (String, Option<u64>) {
    let bytes = value.split(';').find_map(|p| p.trim().strip_prefix("swift_bytes=")?.parse().ok());
    let parts: Vec<&str> = value.split(';').filter(|p| !p.trim().starts_with("swift_")).collect();
    (parts.join(";"), bytes)
}

impl FakeStore {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn service(&self) -> Arc<dyn HttpService> {
        Arc::new(self.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Requests so far, `METHOD target`; empties the list.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// The headers and environ of the last request with this method and path.
    pub fn last(&self, request: &str) -> Option<(HeaderMap, Option<Environ>)> {
        self.lock().seen.iter().rev().find(|(r, _, _)| r == request).map(|(_, h, e)| (h.clone(), e.clone()))
    }

    /// Answers `METHOD path` with a status from now on; 0 ends that.
    pub fn fault(&self, request: &str, status: u16) {
        let mut s = self.lock();
        if status == 0 {
            s.faults.remove(request);
        } else {
            s.faults.insert(request.into(), status);
        }
    }

    pub fn container(&self, account: &str, name: &str) {
        self.lock().containers.entry((account.into(), name.into())).or_default();
    }

    pub fn object(&self, account: &str, container: &str, name: &str) -> Option<Stored> {
        self.lock().containers.get(&(account.into(), container.into()))?.objects.get(name).cloned()
    }

    /// The names in a container, sorted.
    pub fn names(&self, account: &str, container: &str) -> Vec<String> {
        let s = self.lock();
        s.containers.get(&(account.into(), container.into())).map(|c| c.objects.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn edit(&self, account: &str, container: &str, name: &str, f: impl FnOnce(&mut Stored)) {
        if let Some(o) = self.lock().containers.get_mut(&(account.into(), container.into())).and_then(|c| c.objects.get_mut(name)) {
            f(o);
        }
    }

    async fn answer(self, req: Req) -> Resp {
        let (mut parts, body) = req.into_parts();
        let target = parts.uri.path_and_query().map(|p| p.as_str().to_string()).unwrap_or_default();
        let request = format!("{} {}", parts.method, parts.uri.path());
        let fault = {
            let mut s = self.lock();
            s.clock += 100_000;
            s.log.push(format!("{} {target}", parts.method));
            s.seen.push((request.clone(), parts.headers.clone(), parts.extensions.get::<Environ>().cloned()));
            s.faults.get(&request).copied()
        };
        let Some(path) = SwiftPath::parse(parts.uri.path()) else { return error(412) };
        if let Some(Environ { authorizer: Some(a), .. }) = parts.extensions.get::<Environ>() {
            let environ = parts.extensions.get::<Environ>().cloned();
            let acl = self.acl(&path, &parts.method);
            if let Some(environ) = environ
                && let Some(refusal) = a.authorize(&parts.method, parts.uri.path(), &environ, acl.as_deref()).await
            {
                return refusal;
            }
        }
        let Ok(collected) = body.collect().await else { return error(499) };
        for (n, v) in collected.trailers().into_iter().flatten().filter(|_| parts.extensions.get::<crate::env::Footers>().is_some()) {
            parts.headers.insert(n.clone(), v.clone());
        }
        let body = collected.to_bytes();
        if let Some(status) = fault {
            return error(status);
        }
        let req = Request::from_parts(parts, caelum_rest::empty());
        match (&path.container, &path.object) {
            (None, _) => self.account(&req, &path),
            (Some(c), None) => self.container_request(&req, &path.account, c),
            (Some(c), Some(o)) => self.object_request(&req, &path.account, c, o, body),
        }
    }

    fn acl(&self, path: &SwiftPath, method: &Method) -> Option<String> {
        let name = if matches!(*method, Method::GET | Method::HEAD) { "x-container-read" } else { "x-container-write" };
        let s = self.lock();
        let c = s.containers.get(&(path.account.clone(), path.container.clone()?))?;
        text(&c.headers, name).map(str::to_string)
    }

    fn account(&self, req: &Req, path: &SwiftPath) -> Resp {
        let s = self.lock();
        let rows = s.containers.iter().filter(|((a, _), _)| *a == path.account).map(|((_, name), c)| {
            let bytes: usize = c.objects.values().map(|o| o.body.len()).sum();
            (name.clone(), json!({"name": name, "count": c.objects.len(), "bytes": bytes}))
        });
        let allowed = text(req.headers(), "x-backend-allow-reserved-names").is_some();
        respond(200, "application/json", listing(&Params::of(req), allowed, rows.collect()))
    }

    fn container_request(&self, req: &Req, account: &str, name: &str) -> Resp {
        let mut s = self.lock();
        let key = (account.to_string(), name.to_string());
        let kept = |n: &str| {
            n.starts_with("x-container-meta-")
                || n.starts_with("x-container-sysmeta-")
                || matches!(n, "x-container-read" | "x-container-write")
        };
        match *req.method() {
            Method::PUT | Method::POST => {
                let existed = s.containers.contains_key(&key);
                if *req.method() == Method::POST && !existed {
                    return error(404);
                }
                let c = s.containers.entry(key).or_default();
                for (n, v) in req.headers().iter().filter(|(n, _)| kept(n.as_str())) {
                    c.headers.insert(n.clone(), v.clone());
                }
                let status = if *req.method() == Method::POST { 204 } else { 201 + u16::from(existed) };
                respond(status, "text/html; charset=UTF-8", "")
            }
            Method::DELETE => match s.containers.get(&key) {
                None => error(404),
                Some(c) if !c.objects.is_empty() => error(409),
                Some(_) => {
                    s.containers.remove(&key);
                    respond(204, "text/html; charset=UTF-8", "")
                }
            },
            _ => {
                let Some(c) = s.containers.get(&key) else { return error(404) };
                let bytes: u64 = c.objects.values().map(row_bytes).sum();
                let head = *req.method() == Method::HEAD;
                let rows = c.objects.iter().map(|(n, o)| (n.clone(), row(n, o))).collect();
                let body = if head { String::new() } else { listing(&Params::of(req), true, rows) };
                let mut r = respond(if head { 204 } else { 200 }, "application/json", body);
                for (n, v) in c.headers.iter().filter(|(_, v)| !v.is_empty()) {
                    r.headers_mut().insert(n.clone(), v.clone());
                }
                set(r.headers_mut(), "x-container-object-count", c.objects.len().to_string());
                set(r.headers_mut(), "x-container-bytes-used", bytes.to_string());
                set(r.headers_mut(), "x-backend-storage-policy-index", "0");
                r
            }
        }
    }

    fn object_request(&self, req: &Req, account: &str, container: &str, name: &str, body: Bytes) -> Resp {
        let mut s = self.lock();
        let now = Timestamp::from_raw(1_600_000_000 * 100_000 + s.clock);
        let Some(c) = s.containers.get_mut(&(account.to_string(), container.to_string())) else { return error(404) };
        let h = req.headers();
        match *req.method() {
            Method::PUT => put(c, req, name, body, now),
            Method::POST => {
                let Some(o) = c.objects.get_mut(name) else { return error(404) };
                let stays = |n: &str| n.starts_with("x-object-sysmeta-") || matches!(n, "content-type" | "x-static-large-object");
                let old: HeaderMap = o.headers.drain().filter_map(|(n, v)| Some((n?, v))).filter(|(n, _)| stays(n.as_str())).collect();
                o.headers = old;
                for (n, v) in h.iter().filter(|(n, _)| is_kept(n.as_str()) && !n.as_str().starts_with("x-object-sysmeta-")) {
                    o.headers.insert(n.clone(), v.clone());
                }
                let mut r = respond(202, "text/html; charset=UTF-8", "");
                for (n, v) in o.headers.iter().filter(|(n, _)| n.as_str().starts_with("x-object-sysmeta-")) {
                    r.headers_mut().insert(n.clone(), v.clone());
                }
                r
            }
            Method::DELETE => match c.objects.remove(name) {
                None => error(404),
                Some(_) => respond(204, "text/html; charset=UTF-8", ""),
            },
            Method::OPTIONS => {
                let mut r = respond(200, "text/html; charset=UTF-8", "");
                set(r.headers_mut(), "allow", "HEAD, GET, PUT, POST, OPTIONS, DELETE");
                r
            }
            _ => match c.objects.get(name) {
                None => error(404),
                Some(o) => get(req, o),
            },
        }
    }
}

fn put(c: &mut Container, req: &Req, name: &str, body: Bytes, now: Timestamp) -> Resp {
    let h = req.headers();
    let claimed = text(h, "content-length").and_then(|t| t.parse::<usize>().ok());
    if claimed.is_none() && text(h, "transfer-encoding") != Some("chunked") {
        return error(411);
    }
    if claimed.is_some_and(|n| n != body.len()) {
        return error(499);
    }
    let etag = md5_hex(&body);
    if text(h, "etag").is_some_and(|e| e.trim_matches('"') != etag) {
        return error(422);
    }
    let at = text(h, "x-timestamp").and_then(Timestamp::parse).unwrap_or(now);
    let mut headers: HeaderMap = h.iter().filter(|(n, _)| is_kept(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
    if !headers.contains_key(header::CONTENT_TYPE) {
        set(&mut headers, "content-type", "application/octet-stream");
    }
    c.objects.insert(name.into(), Stored { headers, body, at, etag: etag.clone() });
    let mut r = respond(201, "text/html; charset=UTF-8", "");
    set(r.headers_mut(), "etag", etag);
    set(r.headers_mut(), "last-modified", http_date(at.ceil_seconds()));
    r
}

fn get(req: &Req, o: &Stored) -> Resp {
    let mut r = respond(200, "", "");
    for (n, v) in &o.headers {
        r.headers_mut().append(n.clone(), v.clone());
    }
    let kind = text(&o.headers, "content-type").unwrap_or_default().to_string();
    let (cleaned, _) = clean_type(&kind);
    let h = r.headers_mut();
    if cleaned != kind {
        set(h, "x-backend-content-type", &kind);
    }
    set(h, "content-type", cleaned);
    set(h, "content-length", o.body.len().to_string());
    set(h, "etag", &o.etag);
    set(h, "last-modified", http_date(o.at.ceil_seconds()));
    set(h, "x-timestamp", o.at.normal());
    set(h, "x-backend-timestamp", o.at.internal());
    set(h, "accept-ranges", "bytes");
    let mut cx = Conditions::of(req);
    let ignored = text(req.headers(), "x-backend-ignore-range-if-metadata-present").unwrap_or_default();
    if ignored.split(',').any(|n| !n.trim().is_empty() && o.headers.contains_key(n.trim())) {
        cx.range = None;
    }
    conditional(&cx, r, Source::Bytes(o.body.clone()), &caelum_base::Env::system())
}

fn row_bytes(o: &Stored) -> u64 {
    let (_, bytes) = clean_type(text(&o.headers, "content-type").unwrap_or_default());
    bytes.unwrap_or(o.body.len() as u64)
}

/// An object's row as the container server's listing has it.
fn row(name: &str, o: &Stored) -> Value {
    let kind = text(&o.headers, "content-type").unwrap_or_default();
    // Only `swift_bytes` goes; a delete marker keeps its parameter.
    let kind: Vec<&str> = kind.split(';').filter(|p| !p.trim().starts_with("swift_bytes=")).collect();
    let hash = text(&o.headers, "x-object-sysmeta-container-update-override-etag").unwrap_or(&o.etag);
    json!({"name": name, "hash": hash, "bytes": row_bytes(o), "content_type": kind.join(";"), "last_modified": o.at.iso()})
}

fn listing(p: &Params, reserved: bool, rows: Vec<(String, Value)>) -> String {
    let get = |n: &str| p.get(n).unwrap_or_default();
    let (prefix, marker, end, delimiter) = (get("prefix"), get("marker"), get("end_marker"), get("delimiter"));
    let reverse = p.is_true("reverse");
    let limit: usize = get("limit").parse().unwrap_or(PAGE);
    let mut rows: Vec<_> = rows.into_iter().filter(|(n, _)| n.starts_with(prefix)).collect();
    rows.retain(|(n, _)| reserved || !n.starts_with('\0'));
    if reverse {
        rows.reverse();
    }
    let past = |n: &str, m: &str| if reverse { n < m } else { n > m };
    let mut out: Vec<Value> = Vec::new();
    for (name, value) in rows {
        if !marker.is_empty() && !past(&name, marker) || !end.is_empty() && (name == end || past(&name, end)) {
            continue;
        }
        let sub = (!delimiter.is_empty()).then(|| name[prefix.len()..].find(delimiter)).flatten();
        let value = match sub {
            Some(i) => json!({"subdir": name[..prefix.len() + i + delimiter.len()]}),
            None => value,
        };
        if out.last() != Some(&value) {
            out.push(value);
        }
        if out.len() == limit {
            break;
        }
    }
    Value::Array(out).to_string()
}

/// Rows of a page when nothing else is asked for.
pub const PAGE: usize = caelum_swiftkit::LISTING_LIMIT;

impl HttpService for FakeStore {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().answer(req))
    }
}

#[async_trait]
impl InfoSource for FakeStore {
    async fn account_info(&self, _: &Environ, _: &str) -> Arc<AccountInfo> {
        Arc::new(AccountInfo { status: 200, ..AccountInfo::default() })
    }

    async fn container_info(&self, _: &Environ, account: &str, container: &str) -> Arc<ContainerInfo> {
        let s = self.lock();
        Arc::new(match s.containers.get(&(account.to_string(), container.to_string())) {
            Some(c) => ContainerInfo::from_headers(200, &c.headers),
            None => ContainerInfo::absent(404),
        })
    }

    async fn object_info(&self, _: &Environ, _: &str, _: &str, _: &str) -> Arc<ObjectInfo> {
        Arc::new(ObjectInfo { status: 404, ..ObjectInfo::default() })
    }

    fn forget(&self, _: &str, _: Option<&str>) {}
}

/// A request as the outermost layer hands it on; `headers` are `name: value`.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Req {
    let body: Bytes = body.into();
    let mut b = Request::builder().method(method).uri(target).header("content-length", body.len());
    for (k, v) in headers {
        b = b.header(*k, *v);
    }
    let mut req = b.body(caelum_rest::full(body)).unwrap();
    if matches!(method, "GET" | "HEAD" | "DELETE") {
        req.headers_mut().remove("content-length");
    }
    req.extensions_mut().insert(Environ { internal: false, source: "", ..Environ::internal("tx-test", "") });
    req
}

/// Status, headers and body of an answer. Panics when the body breaks off.
pub async fn read(resp: Resp) -> (u16, HeaderMap, String) {
    let (parts, body) = resp.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends a request through `to`.
pub async fn send(
    to: &Arc<dyn HttpService>,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, HeaderMap, String) {
    let resp = to.call(request(method, target, headers, body)).await;
    let announced = content_length(&resp);
    let (status, headers, body) = read(resp).await;
    if method != "HEAD" && status != 304 && headers.contains_key("content-length") {
        assert_eq!(announced, Some(body.len() as u64), "{method} {target}: length");
    }
    (status, headers, body)
}

/// Headers' values as text; `-` for those that are not there.
pub fn values<const N: usize>(h: &HeaderMap, names: [&str; N]) -> [String; N] {
    names.map(|n| text(h, n).unwrap_or("-").to_string())
}
