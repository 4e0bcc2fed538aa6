//! Copies on the server's side: `COPY` with `Destination`, `PUT` with `X-Copy-From`.
//!
//! The source is read and the destination written with the caller's own rights, both asked for. Source: Swift's
//! object API, "Copy object".

use super::common::{account_name, container_and_object, object_path};
use super::heartbeat::Beat;
use crate::env::{Environ, Req, Resp, SwiftPath, environ, quote};
use crate::http::{
    OriginalMethod, Params, best_match, content_length, drain, error, error_html, error_plain, etag, is_true, report, set,
    set_path_and_query, split_path, status_line, streamed, text,
};
use caelum_rest::HttpService;
use caelum_swiftkit::MAX_FILE_SIZE;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;

const OVERRIDES: &str = "x-object-sysmeta-container-update-override-";
const SLO_SYSMETA: &str = "x-object-sysmeta-slo-";

/// The layer.
#[derive(Clone)]
pub struct Copy {
    next: Arc<dyn HttpService>,
    yield_frequency: Duration,
}

impl Copy {
    pub fn new(next: Arc<dyn HttpService>) -> Self {
        Self { next, yield_frequency: Duration::from_secs(10) }
    }

    /// With another time between the blanks that keep a slow answer alive.
    #[must_use]
    pub fn yielding(self, every: Duration) -> Self {
        Self { yield_frequency: every, ..self }
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = split_path(&req).filter(|p| p.object.is_some()) else { return self.next.call(req).await };
        let from = text(req.headers(), "x-copy-from").is_some_and(|v| !v.is_empty());
        match req.method().as_str() {
            "PUT" if from => self.put(req, path).await,
            "COPY" => match to_put(req, &path) {
                Ok((req, destination)) => self.put(req, destination).await,
                Err(refusal) => refusal,
            },
            "OPTIONS" => with_copy(self.next.call(req).await),
            _ => self.next.call(req).await,
        }
    }

    async fn put(self, req: Req, path: SwiftPath) -> Resp {
        self.copy(req, path).await.unwrap_or_else(|refusal| refusal)
    }

    async fn copy(self, req: Req, path: SwiftPath) -> Result<Resp, Resp> {
        // A signature covers the path it was made for, not what a header names.
        if environ(&req).is_some_and(|e| matches!(e.source, "TU" | "FP")) {
            return Err(error_html(400, "The header 'x-copy-from' is not allowed in this tempurl"));
        }
        if text(req.headers(), "content-length").is_some_and(|l| l != "0") {
            return Err(error_plain(400, "Copy requests require a zero byte body"));
        }
        let source = source_path(&req, &path)?;
        let params = Params::of(&req);
        let found = self.next.call(source_request(&req, &source, &params)).await;
        match content_length(&found) {
            Some(n) if n <= MAX_FILE_SIZE => {}
            // Without a length it is a large object of more segments than one listing shows.
            _ => return Err(error(413)),
        }
        if found.status().as_u16() >= 300 {
            return Ok(found);
        }
        let (sink, copied) = sink_request(req, found, &source, params.clone());
        if params.is_true("heartbeat") {
            return Ok(self.reported(sink, copied));
        }
        let mut resp = self.next.call(sink).await;
        if resp.status().is_success() {
            for (name, value) in &copied {
                resp.headers_mut().append(name.clone(), value.clone());
            }
        }
        Ok(resp)
    }

    /// The answer begins before the copy is made; its outcome stands in the body.
    fn reported(self, sink: Req, copied: HeaderMap) -> Resp {
        const FORMATS: [&str; 2] = ["text/plain", "application/json"];
        let wanted = best_match(text(sink.headers(), "accept"), &FORMATS).ok().flatten();
        let format = FORMATS.iter().copied().find(|f| Some(*f) == wanted).unwrap_or("text/plain");
        let (mut beat, body) = Beat::new(self.yield_frequency, None);
        tokio::spawn(async move {
            let work = async {
                let resp = self.next.call(sink).await;
                let (parts, body) = resp.into_parts();
                (parts, crate::http::read_all(body, 65_536).await.unwrap_or_default())
            };
            if !beat.beat().await {
                return;
            }
            let Some((parts, body)) = beat.during(work).await else { return };
            beat.finish_plain(copy_report(format, parts.status, &parts.headers, &body, &copied)).await;
        });
        streamed(202, format, body)
    }
}

impl HttpService for Copy {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}

fn copy_report(format: &str, status: StatusCode, headers: &HeaderMap, body: &[u8], copied: &HeaderMap) -> String {
    let line = status_line(status.as_u16());
    let mut facts = Map::new();
    facts.insert("Response Status".into(), line.clone().into());
    facts.insert("Response Body".into(), String::from_utf8_lossy(body).into_owned().into());
    let mut errors = Vec::new();
    if !status.is_success() {
        errors.push((quote(text(copied, "x-copied-from").unwrap_or_default()), line));
    }
    let shown = |n: &str| !n.starts_with("x-object-sysmeta-") && !n.starts_with("x-backend");
    for (name, value) in copied.iter().chain(headers).filter(|(n, _)| shown(n.as_str())) {
        facts.insert(title(name.as_str()), String::from_utf8_lossy(value.as_bytes()).into_owned().into());
    }
    report(format, &facts, &errors, "copy")
}

/// `x-copied-from` as `X-Copied-From`.
fn title(name: &str) -> String {
    let upper = |w: &str| w[..1].to_uppercase() + &w[1..];
    let words: Vec<String> = name.split('-').map(|w| if w.is_empty() { String::new() } else { upper(w) }).collect();
    words.join("-")
}

/// Adds COPY to the methods that an OPTIONS answer names.
fn with_copy(mut resp: Resp) -> Resp {
    if resp.status().is_success() {
        for name in ["allow", "access-control-allow-methods"] {
            if let Some(old) = text(resp.headers(), name).filter(|v| !v.contains("COPY")).map(str::to_string) {
                set(resp.headers_mut(), name, format!("{old}, COPY"));
            }
        }
    }
    resp
}

/// A COPY as the PUT it stands for. Errors: 412.
fn to_put(mut req: Req, path: &SwiftPath) -> Result<(Req, SwiftPath), Resp> {
    let Some(destination) = text(req.headers(), "destination").filter(|d| !d.is_empty()) else {
        return Err(error_html(412, "Destination header required"));
    };
    let (container, object) =
        container_and_object(destination, "Destination header must be of the form <container name>/<object name>", false)?;
    let mut account = path.account.clone();
    if let Some(other) = text(req.headers(), "destination-account") {
        account = account_name(other)?;
        set(req.headers_mut(), "x-copy-from-account", quote(&path.account));
        req.headers_mut().remove("destination-account");
    }
    let from = format!("/{}/{}", path.container.as_deref().unwrap_or_default(), path.object.as_deref().unwrap_or_default());
    let new = SwiftPath { account, container: Some(container), object: Some(object), ..path.clone() };
    let query = req.uri().query().unwrap_or_default().to_string();
    if !set_path_and_query(&mut req, &new.encode(), &query) {
        return Err(error(414));
    }
    *req.method_mut() = Method::PUT;
    req.extensions_mut().insert(OriginalMethod(copy_method()));
    let h = req.headers_mut();
    h.remove("destination");
    h.remove(header::TRANSFER_ENCODING);
    set(h, "content-length", "0");
    set(h, "x-copy-from", quote(&from));
    Ok((req, new))
}

fn copy_method() -> Method {
    Method::from_bytes(b"COPY").unwrap_or(Method::PUT)
}

/// What a PUT's headers name as its source. Errors: 412.
fn source_path(req: &Req, path: &SwiftPath) -> Result<SwiftPath, Resp> {
    let h = req.headers();
    let account = match text(h, "x-copy-from-account").filter(|a| !a.is_empty()) {
        Some(a) => account_name(a)?,
        None => path.account.clone(),
    };
    let from = text(h, "x-copy-from").unwrap_or_default();
    let (container, object) = container_and_object(from, "X-Copy-From header must be of the form <container name>/<object name>", false)?;
    Ok(SwiftPath { version: path.version.clone(), account, container: Some(container), object: Some(object) })
}

/// The GET of the source: with all headers of the PUT, so that ranges and conditions are about it.
fn source_request(req: &Req, source: &SwiftPath, params: &Params) -> Req {
    let mut get = Request::new(caelum_rest::empty());
    let mut params = params.clone();
    if params.get("multipart-manifest") == Some("get") {
        params.set("format", "raw");
    }
    let path = object_path(
        &source.version,
        &source.account,
        source.container.as_deref().unwrap_or_default(),
        source.object.as_deref().unwrap_or_default(),
    );
    set_path_and_query(&mut get, &path, &params.encode());
    *get.headers_mut() = req.headers().clone();
    let h = get.headers_mut();
    for gone in ["content-length", "transfer-encoding", "x-backend-storage-policy-index", "x-copy-from", "x-copy-from-account"] {
        h.remove(gone);
    }
    set(h, "x-newest", "true");
    if let Some(e) = environ(req) {
        get.extensions_mut().insert(Environ { source: "SSC", ..e.clone() });
    }
    get
}

/// Headers of the source's answer that say something of the answer, not of the object.
fn is_of_answer(name: &str) -> bool {
    matches!(
        name,
        "x-static-large-object"
            | "x-object-manifest"
            | "etag"
            | "content-type"
            | "x-timestamp"
            | "x-backend-timestamp"
            | "content-length"
            | "content-range"
            | "content-location"
            | "transfer-encoding"
            | "connection"
            | "date"
            | "last-modified"
            | "accept-ranges"
            | "x-trans-id"
            | "x-openstack-request-id"
    )
}

fn is_kept(name: &HeaderName) -> bool {
    let name = name.as_str();
    ["x-object-meta-", "x-object-sysmeta-", "x-object-transient-sysmeta-"].iter().any(|p| name.len() > p.len() && name.starts_with(p))
}

fn copy_all(from: &HeaderMap, to: &mut HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    for (name, value) in from.iter().filter(|(n, _)| wanted(n)) {
        to.insert(name.clone(), value.clone());
    }
}

/// The PUT at the destination, and what its answer will say of the source.
fn sink_request(req: Req, source: Resp, path: &SwiftPath, mut params: Params) -> (Req, HeaderMap) {
    let (found, body) = source.into_parts();
    let (parts, client_body) = req.into_parts();
    tokio::spawn(drain(client_body));
    let mut h = HeaderMap::new();
    let manifest = params.get("multipart-manifest") == Some("get");
    if is_true(&parts.headers, "x-fresh-metadata") {
        copy_all(&parts.headers, &mut h, |_| true);
        let sysmeta = |n: &HeaderName| n.as_str().starts_with("x-object-sysmeta-");
        copy_all(&found.headers, &mut h, sysmeta);
        copy_all(&parts.headers, &mut h, sysmeta);
    } else {
        copy_all(&found.headers, &mut h, |n| !is_of_answer(n.as_str()));
        copy_all(&parts.headers, &mut h, |_| true);
    }
    let is_slo = found.headers.contains_key("x-static-large-object");
    let dlo = found.headers.get("x-object-manifest");
    if manifest {
        if is_slo {
            params.set("multipart-manifest", "put");
        }
        if let Some(value) = dlo {
            params.remove("multipart-manifest");
            h.insert("x-object-manifest", value.clone());
        }
    } else if is_slo {
        // The copy is an object of its own: its etag is its content's.
        let gone: Vec<HeaderName> = h.keys().filter(|n| n.as_str().starts_with(SLO_SYSMETA)).cloned().collect();
        gone.iter().for_each(|n| drop(h.remove(n)));
    }
    params.remove("version-id");
    let verified = found.status == StatusCode::OK && !is_slo && (dlo.is_none() || manifest);
    match etag(&found.headers).filter(|_| verified) {
        // What arrives is compared with what the source is said to be.
        Some(tag) => set(&mut h, "etag", tag),
        None => {
            let gone: Vec<HeaderName> = h.keys().filter(|n| n.as_str().starts_with(OVERRIDES)).cloned().collect();
            gone.iter().for_each(|n| drop(h.remove(n)));
        }
    }
    for gone in ["x-copy-from", "x-copy-from-account", "transfer-encoding"] {
        h.remove(gone);
    }
    if text(&h, "content-type").is_none_or(str::is_empty)
        && let Some(kind) = found.headers.get(header::CONTENT_TYPE)
    {
        h.insert(header::CONTENT_TYPE, kind.clone());
    }
    if let Some(length) = found.headers.get(header::CONTENT_LENGTH) {
        h.insert(header::CONTENT_LENGTH, length.clone());
    }
    let copied = copied_headers(path, &found.headers, &h);
    let mut sink = Request::from_parts(parts, body);
    *sink.headers_mut() = h;
    let target = sink.uri().path().to_string();
    set_path_and_query(&mut sink, &target, &params.encode());
    if let Some(e) = sink.extensions_mut().get_mut::<Environ>() {
        e.source = "SSC";
    }
    (sink, copied)
}

fn copied_headers(path: &SwiftPath, found: &HeaderMap, sink: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    let name = format!("{}/{}", path.container.as_deref().unwrap_or_default(), path.object.as_deref().unwrap_or_default());
    set(&mut out, "x-copied-from-account", quote(&path.account));
    set(&mut out, "x-copied-from", quote(&name));
    for (new, old) in [("x-copied-from-last-modified", "last-modified"), ("x-copied-from-version-id", "x-object-version-id")] {
        if let Some(v) = found.get(old) {
            set(&mut out, new, v.as_bytes());
        }
    }
    copy_all(sink, &mut out, |n| is_kept(n) || n == "x-delete-at");
    out
}

#[cfg(test)]
mod tests;
