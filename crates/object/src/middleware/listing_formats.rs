mod xml;

use crate::env::{Req, Resp, SwiftPath, environ};
use crate::http::{ListingAsIs, best_match, content_length, error, respond, set, text};
use bytes::Bytes;
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::python::json_string;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;

/// Gives listings of accounts and containers the form the client wants. Behind this layer they are always JSON.
pub struct ListingFormats {
    next: Arc<dyn HttpService>,
}

impl ListingFormats {
    pub fn new(next: Arc<dyn HttpService>) -> Self {
        Self { next }
    }
}

const TYPES: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];
/// What is longer is no listing of a page: names of 1,024 bytes, twice.
const MAX_LISTING: u64 = 1_024 * 10_000 * 2;
/// In names of the reserved namespace, as JSON escapes it.
const RESERVED: &[u8] = b"\\u0000";

/// What a client asks for: the content type, and whether the `Accept` header decided.
struct Wanted {
    kind: &'static str,
    by_accept: bool,
}

fn wanted(req: &Req) -> Result<Wanted, Resp> {
    let raw = req.uri().query().unwrap_or_default();
    let pairs = raw.split('&').filter_map(|p| p.split_once('=').or(Some((p, ""))));
    let given = pairs.filter(|(k, _)| *k == "format").map(|(_, v)| v.replace('+', " ")).next_back();
    if let Some(given) = given {
        let Ok(format) = percent_decode_str(&given).decode_utf8() else {
            return Err(respond(400, "text/plain", "\"format\" parameter not valid UTF-8"));
        };
        if !format.is_empty() {
            let kind = match format.to_lowercase().as_str() {
                "json" => "application/json",
                "xml" => "application/xml",
                _ => "text/plain",
            };
            return Ok(Wanted { kind, by_accept: false });
        }
        return by_accept(req, false);
    }
    by_accept(req, true)
}

fn by_accept(req: &Req, by_accept: bool) -> Result<Wanted, Resp> {
    let all: Vec<&str> = req.headers().get_all("accept").iter().filter_map(|v| v.to_str().ok()).collect();
    let header = all.join(",");
    match best_match(Some(&header), &TYPES) {
        Ok(Some(kind)) => Ok(Wanted { kind, by_accept }),
        Ok(None) => Err(error(406)),
        Err(()) => Err(crate::http::error_html(400, "Invalid Accept header")),
    }
}

/// The request's query with `format=json`.
fn ask_json(req: &mut Req) -> bool {
    let others = req.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty() && *p != "format" && !p.starts_with("format="));
    let query = others.chain(["format=json"]).collect::<Vec<_>>().join("&");
    let path = req.uri().path().to_string();
    crate::http::set_path_and_query(req, &path, &query)
}

impl HttpService for ListingFormats {
    fn call(&self, mut req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let reads = matches!(*req.method(), Method::GET | Method::HEAD);
        let path = SwiftPath::parse(req.uri().path()).filter(|p| p.object.is_none() && matches!(p.version.as_str(), "v1" | "v1.0"));
        let Some(path) = path.filter(|_| reads) else { return self.next.call(req) };
        let wanted = match wanted(&req) {
            Ok(w) => w,
            Err(refusal) => return Box::pin(async move { refusal }),
        };
        if !wanted.by_accept {
            // Layers that can only do JSON refuse by what is accepted.
            set(req.headers_mut(), "accept", wanted.kind);
        }
        if !ask_json(&mut req) {
            return Box::pin(async { error(414) });
        }
        let is_head = *req.method() == Method::HEAD;
        let reserved = environ(&req).is_some_and(|e| e.internal) || crate::http::is_true(req.headers(), "x-backend-allow-reserved-names");
        let answer = self.next.call(req);
        Box::pin(async move { finish(answer.await, &path, &wanted, is_head, reserved).await })
    }
}

async fn finish(mut resp: Resp, path: &SwiftPath, wanted: &Wanted, is_head: bool, reserved: bool) -> Resp {
    if !matches!(resp.status(), StatusCode::OK | StatusCode::NO_CONTENT) || resp.extensions().get::<ListingAsIs>().is_some() {
        return resp;
    }
    if wanted.by_accept {
        vary(&mut resp);
    }
    let kind = text(resp.headers(), "content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    if kind != "application/json" {
        return resp;
    }
    let out_type = format!("{}; charset=utf-8", wanted.kind);
    if is_head {
        set(resp.headers_mut(), "content-type", out_type);
        set(resp.headers_mut(), "content-length", "0");
        return resp.map(|_| caelum_rest::empty());
    }
    if content_length(&resp).is_none_or(|n| n > MAX_LISTING) {
        return resp;
    }
    let (mut parts, body) = resp.into_parts();
    let Ok(body) = caelum_rest::read_limited(body, usize::try_from(MAX_LISTING).unwrap_or(usize::MAX)).await else {
        return error(503);
    };
    // Pages may be large: the work is done off the threads that serve.
    let (job, path, kind) = (body.clone(), path.clone(), wanted.kind);
    let rendered = match body.len() {
        0..=65_536 => render(&job, &path, kind, reserved),
        _ => tokio::task::spawn_blocking(move || render(&job, &path, kind, reserved)).await.unwrap_or_default(),
    };
    let Some(out) = rendered else { return Resp::from_parts(parts, caelum_rest::full(body)) };
    if out.is_empty() {
        parts.status = StatusCode::NO_CONTENT;
    }
    set(&mut parts.headers, "content-type", out_type);
    set(&mut parts.headers, "content-length", out.len().to_string());
    Resp::from_parts(parts, if out.is_empty() { caelum_rest::empty() } else { caelum_rest::full(out) })
}

fn vary(resp: &mut Resp) {
    let old = text(resp.headers(), "vary").map(str::to_string);
    match old {
        Some(old) if old.split(',').any(|v| v.trim().eq_ignore_ascii_case("accept")) => {}
        Some(old) => set(resp.headers_mut(), "vary", format!("{old}, Accept")),
        None => set(resp.headers_mut(), "vary", "Accept"),
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subdir: Option<Cow<'a, str>>,
}

/// The listing in another form; `None` when it is no listing (a page that a layer made, with its own JSON).
fn render(body: &Bytes, path: &SwiftPath, kind: &str, reserved: bool) -> Option<Bytes> {
    let hide = !reserved && memchr::memmem::find(body, RESERVED).is_some();
    match kind {
        "application/json" if !hide => Some(body.clone()),
        "text/plain" => {
            let lines: Vec<Line<'_>> = serde_json::from_slice(body).ok()?;
            let mut out = String::with_capacity(body.len() / 4);
            for line in &lines {
                let name = line.name.as_ref().or(line.subdir.as_ref())?;
                if hide && [&line.name, &line.subdir].into_iter().flatten().any(|n| n.contains('\0')) {
                    continue;
                }
                out.push_str(name);
                out.push('\n');
            }
            Some(out.into())
        }
        _ => {
            let mut rows: Vec<Map<String, Value>> = serde_json::from_slice(body).ok()?;
            if hide {
                let shown = |v: Option<&Value>| !v.and_then(Value::as_str).is_some_and(|n| n.contains('\0'));
                rows.retain(|r| shown(r.get("name")) && shown(r.get("subdir")));
            }
            if kind == "application/json" {
                return Some(json_string(&Value::from(rows.into_iter().map(Value::Object).collect::<Vec<_>>())).into());
            }
            let text = match &path.container {
                Some(c) => xml::container(&rows, c),
                None => xml::account(&rows, &path.account),
            };
            text.map(Bytes::from)
        }
    }
}
