//! Links from one object to another: dynamic ones follow a name, static ones also an etag.
//!
//! A link is an empty object whose target stands in sysmeta, and for listings behind the etag of its row. Source:
//! Swift's documentation, `overview_symlink` (middleware `symlink`).

use super::common::{
    MD5_OF_NOTHING, OVERRIDE_ETAG, account_name, append_csv, container_and_object, listing_rows, object_path, parse_header, unquote,
    with_json,
};
use crate::env::{Environ, Req, Resp, SwiftPath, SyncOverride, quote};
use crate::http::{
    KeepRelativeLocation, Origin, Params, StoredType, content_length, drain, error, error_plain, is_true, respond, set, split_path, text,
    unquote_etag,
};
use caelum_rest::HttpService;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;

/// What clients send and see, and how it is stored.
const TARGET: (&str, &str) = ("x-symlink-target", "x-object-sysmeta-symlink-target");
const ACCOUNT: (&str, &str) = ("x-symlink-target-account", "x-object-sysmeta-symlink-target-account");
const ETAG: (&str, &str) = ("x-symlink-target-etag", "x-object-sysmeta-symlink-target-etag");
const BYTES: (&str, &str) = ("x-symlink-target-bytes", "x-object-sysmeta-symlink-target-bytes");
/// A link with this does not count towards the limit (versioned objects).
pub(super) const SYMLOOP_EXTEND: &str = "x-object-sysmeta-symloop-extend";
/// A link with this may lead to names that clients cannot ask for.
pub(super) const ALLOW_RESERVED: &str = "x-object-sysmeta-allow-reserved-names";
pub(super) const TARGET_HEADER: &str = TARGET.0;
pub(super) const TARGET_ACCOUNT_HEADER: &str = ACCOUNT.0;
pub(super) const TARGET_ETAG_SYSMETA: &str = ETAG.1;
pub(super) const TARGET_BYTES_SYSMETA: &str = BYTES.1;
/// Links from link to link, at most.
pub const SYMLOOP_MAX: usize = 2;

/// The layer.
#[derive(Clone)]
pub struct Symlink {
    next: Arc<dyn HttpService>,
    symloop_max: usize,
}

/// A chain of links being followed.
struct Walk<'a> {
    layer: &'a Symlink,
    origin: Origin,
    method: Method,
    query: String,
    headers: HeaderMap,
    links: usize,
    /// The last target's path, as its link has it.
    at: Option<String>,
}

fn conflict(message: String, location: Option<&str>) -> Resp {
    let mut r = error_plain(409, message);
    if let Some(at) = location {
        set(r.headers_mut(), "content-location", at);
    }
    r
}

impl Walk<'_> {
    fn too_many(&self) -> Resp {
        let max = self.layer.symloop_max;
        error_plain(409, format!("Too many levels of symbolic links, maximum allowed is {max}"))
    }

    /// The request for what a link leads to.
    fn request(&mut self, link: &HeaderMap, account: &str, target: &str) -> Result<Req, Resp> {
        let account = text(link, ACCOUNT.1).map_or_else(|| quote(account), str::to_string);
        let path = format!("/v1/{account}/{}", target.trim_start_matches('/'));
        let full = if self.query.is_empty() { path.clone() } else { format!("{path}?{}", self.query) };
        let mut req = Request::new(caelum_rest::empty());
        *req.method_mut() = self.method.clone();
        *req.uri_mut() = full.parse().map_err(|_| error(412))?;
        *req.headers_mut() = self.headers.clone();
        req.headers_mut().remove("x-backend-storage-policy-index");
        let mut environ = self.origin.environ.clone().map(|e| Environ { source: "SYM", ..e });
        if text(link, ALLOW_RESERVED).is_some_and(|v| !v.is_empty()) {
            // The layer that made the link has asked already whether the caller may see what it names.
            set(req.headers_mut(), "x-backend-allow-reserved-names", "true");
            environ = environ.map(|e| Environ { internal: true, ..e.preauthorized("SYM") });
        }
        if let Some(e) = environ {
            req.extensions_mut().insert(e);
        }
        self.at = Some(path);
        Ok(req)
    }

    /// Follows links from `req` on. `expected`: the etag that the first answer must have. `soft`: also links without
    /// an etag are followed at the first step.
    async fn follow(&mut self, mut req: Req, expected: Option<String>, mut soft: bool) -> Result<Resp, Resp> {
        let mut expected = expected;
        loop {
            let account = split_path(&req).map(|p| p.account).unwrap_or_default();
            let mut resp = self.layer.next.call(req).await;
            let h = resp.headers();
            let target = text(h, TARGET.1).filter(|t| !t.is_empty()).map(str::to_string);
            let own_etag = text(h, "etag").map(unquote_etag).filter(|e| !e.is_empty()).map(str::to_string);
            let link_etag = text(h, ETAG.1).filter(|e| !e.is_empty()).map(str::to_string);
            let Some(target) = target.filter(|_| soft || link_etag.is_some()) else {
                if let (Some(found), Some(wanted)) = (&own_etag, &expected)
                    && found != wanted
                {
                    let why = format!("Object Etag '{found}' does not match X-Symlink-Target-Etag header '{wanted}'");
                    return Err(conflict(why, self.at.as_deref()));
                }
                if let Some(at) = &self.at {
                    set(resp.headers_mut(), "content-location", at);
                }
                return Ok(resp);
            };
            let (parts, body) = resp.into_parts();
            drain(body).await;
            if expected.is_some() && expected != link_etag.clone().or(own_etag) {
                return Err(conflict("X-Symlink-Target-Etag headers do not match".into(), self.at.as_deref()));
            }
            if self.links >= self.layer.symloop_max {
                return Err(self.too_many());
            }
            req = self.request(&parts.headers, &account, &target)?;
            if !is_true(&parts.headers, SYMLOOP_EXTEND) {
                self.links += 1;
            }
            expected = link_etag;
            soft = true;
        }
    }
}

impl Symlink {
    pub fn new(next: Arc<dyn HttpService>) -> Self {
        Self::with_max(next, SYMLOOP_MAX)
    }

    /// `symloop_max`: links from link to link, at most.
    pub fn with_max(next: Arc<dyn HttpService>, symloop_max: usize) -> Self {
        Self { next, symloop_max }
    }

    /// The layer's part of `/info`.
    pub fn info(symloop_max: usize) -> Value {
        serde_json::json!({"symloop_max": symloop_max, "static_links": true})
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = split_path(&req).filter(|p| p.container.is_some()) else { return self.next.call(req).await };
        if path.object.is_none() {
            let get = req.method() == Method::GET;
            let resp = self.next.call(req).await;
            return if get { listing(resp, &path).await } else { resp };
        }
        let result = match *req.method() {
            Method::GET | Method::HEAD if Params::of(&req).get("symlink") == Some("get") => {
                let mut resp = self.next.call(req).await;
                to_client(resp.headers_mut());
                Ok(resp)
            }
            Method::GET | Method::HEAD => self.get(req).await,
            Method::PUT if req.headers().contains_key(TARGET.0) => self.put(req, path).await,
            Method::POST => self.post(req, path).await,
            _ => Ok(self.next.call(req).await),
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    async fn get(&self, mut req: Req) -> Result<Resp, Resp> {
        append_csv(req.headers_mut(), "x-backend-ignore-range-if-metadata-present", TARGET.1);
        let mut walk = Walk {
            layer: self,
            origin: Origin::of(&req),
            method: req.method().clone(),
            query: req.uri().query().unwrap_or_default().to_string(),
            headers: req.headers().clone(),
            links: 0,
            at: None,
        };
        walk.follow(req, None, true).await
    }

    async fn put(&self, mut req: Req, path: SwiftPath) -> Result<Resp, Resp> {
        let body = std::mem::replace(req.body_mut(), caelum_rest::empty());
        let length = text(req.headers(), "content-length").map(str::to_string);
        if length.as_deref().is_some_and(|l| l != "0") || (length.is_none() && !is_empty(body).await) {
            return Err(error_plain(400, "Symlink requests require a zero byte body"));
        }
        set(req.headers_mut(), "content-length", "0");
        req.headers_mut().remove(header::TRANSFER_ENCODING);
        let (target, etag) = prepare(req.headers_mut(), &path)?;
        if let Some(etag) = etag {
            self.check_target(&mut req, &target, etag).await?;
        }
        let h = req.headers_mut();
        for (client, stored) in [TARGET, ACCOUNT] {
            if let Some(v) = h.remove(client) {
                h.insert(HeaderName::from_static(stored), v);
            }
        }
        h.remove(ETAG.0);
        h.remove(BYTES.0);
        let mut row = text(h, OVERRIDE_ETAG).unwrap_or(MD5_OF_NOTHING).to_string();
        for (name, stored) in [("symlink_target", TARGET.1), ("symlink_target_account", ACCOUNT.1)] {
            if let Some(v) = text(h, stored) {
                row.push_str(&format!("; {name}={v}"));
            }
        }
        if let Some(etag) = text(h, ETAG.1) {
            let bytes = text(h, BYTES.1).unwrap_or("0");
            row.push_str(&format!("; symlink_target_etag={etag}; symlink_target_bytes={bytes}"));
        }
        set(h, OVERRIDE_ETAG, row);
        let kind = text(h, "content-type").map(str::to_string);
        let mut resp = self.next.call(req).await;
        if let Some(kind) = kind {
            resp.extensions_mut().insert(StoredType(kind));
        }
        Ok(resp)
    }

    /// A static link's target must be there and have the etag.
    async fn check_target(&self, req: &mut Req, target: &str, etag: String) -> Result<(), Resp> {
        let bytes = if req.extensions().get::<SyncOverride>().is_some() {
            text(req.headers(), BYTES.0).map(str::to_string)
        } else {
            let reserved = req.headers().get("x-backend-allow-reserved-names").cloned();
            Some(self.look_at(Origin::of(req), reserved, req.headers_mut(), target, &etag).await?)
        };
        set(req.headers_mut(), ETAG.1, etag);
        if let Some(bytes) = bytes {
            set(req.headers_mut(), BYTES.1, bytes);
        }
        Ok(())
    }

    /// HEADs a static link's target; its length. Puts into `h` what the link takes over.
    async fn look_at(
        &self,
        origin: Origin,
        reserved: Option<HeaderValue>,
        h: &mut HeaderMap,
        target: &str,
        etag: &str,
    ) -> Result<String, Resp> {
        let mut head = origin.request(Method::HEAD, target, "SYM", "");
        if let Some(v) = reserved {
            head.headers_mut().insert("x-backend-allow-reserved-names", v);
        }
        let headers = head.headers().clone();
        let at = Some(target.to_string());
        let mut walk = Walk { layer: self, origin, method: Method::HEAD, query: String::new(), headers, links: 0, at };
        let resp = walk.follow(head, Some(etag.to_string()), false).await?;
        let status = resp.status().as_u16();
        if status == 404 {
            return Err(conflict("X-Symlink-Target does not exist".into(), walk.at.as_deref()));
        }
        if !resp.status().is_success() {
            return Err(error(status));
        }
        let found = resp.headers();
        if !h.contains_key(OVERRIDE_ETAG) {
            if let Some((_, rest)) = text(found, OVERRIDE_ETAG).map(|v| v.split_once(';').unwrap_or((v, ""))) {
                let sep = if rest.is_empty() { "" } else { ";" };
                set(h, OVERRIDE_ETAG, format!("{MD5_OF_NOTHING}{sep}{rest}"));
            } else if let Some(slo) = text(found, "x-object-sysmeta-slo-etag") {
                set(h, OVERRIDE_ETAG, format!("{MD5_OF_NOTHING}; slo_etag={slo}"));
            }
        }
        if text(h, "content-type").is_none_or(str::is_empty)
            && let Some(kind) = found.get(header::CONTENT_TYPE)
        {
            h.insert(header::CONTENT_TYPE, kind.clone());
        }
        let slo = text(found, "x-object-sysmeta-slo-size").filter(|s| !s.is_empty()).map(str::to_string);
        Ok(slo.unwrap_or_else(|| content_length(&resp).unwrap_or(0).to_string()))
    }

    async fn post(&self, req: Req, path: SwiftPath) -> Result<Resp, Resp> {
        if req.headers().contains_key(TARGET.0) {
            return Err(error_plain(400, "A PUT request is required to set a symlink target"));
        }
        let resp = self.next.call(req).await;
        let Some(target) = text(resp.headers(), TARGET.1).filter(|t| resp.status().is_success() && !t.is_empty()) else {
            return Ok(resp);
        };
        let account = text(resp.headers(), ACCOUNT.1).map_or_else(|| quote(&path.account), str::to_string);
        let mut redirect = respond(
            307,
            "text/html; charset=UTF-8",
            "The requested POST was applied to a symlink. POST directly to the target to apply requested metadata.",
        );
        let h = redirect.headers_mut();
        set(h, "location", format!("/v1/{account}/{target}"));
        if let Some(etag) = text(resp.headers(), ETAG.1) {
            set(h, ETAG.0, etag);
        }
        for (name, value) in resp.headers().iter().filter(|(n, _)| n.as_str().starts_with("x-object-sysmeta-")) {
            h.insert(name.clone(), value.clone());
        }
        redirect.extensions_mut().insert(KeepRelativeLocation);
        Err(redirect)
    }
}

async fn is_empty(mut body: caelum_rest::Body) -> bool {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(f) if f.data_ref().is_none_or(|d| d.is_empty()) => {}
            _ => return false,
        }
    }
    true
}

/// Checks the link's headers and puts them into their stored form; the target's path and, of a static link, its etag.
///
/// Errors: 412 for a target that is no path; 400 for a link to itself or an impossible etag.
fn prepare(h: &mut HeaderMap, path: &SwiftPath) -> Result<(String, Option<String>), Resp> {
    const FORM: &str = "X-Symlink-Target header must be of the form <container name>/<object name>";
    let value = text(h, TARGET.0).unwrap_or_default().to_string();
    if unquote(&value).starts_with('/') {
        return Err(error_plain(412, FORM));
    }
    let (container, object) = container_and_object(&value, FORM, false)?;
    set(h, TARGET.0, quote(&format!("{container}/{object}")));
    let account = match text(h, ACCOUNT.0).map(account_name) {
        Some(name) => {
            let name = name?;
            set(h, ACCOUNT.0, quote(&name));
            name
        }
        None => path.account.clone(),
    };
    if account == path.account && path.container.as_ref() == Some(&container) && path.object.as_ref() == Some(&object) {
        return Err(error_plain(400, "Symlink cannot target itself"));
    }
    let etag = text(h, ETAG.0).map(unquote_etag).filter(|e| !e.is_empty()).map(str::to_string);
    if etag.as_ref().is_some_and(|e| e.contains([';', '"', '\\'])) {
        return Err(error_plain(400, "Bad X-Symlink-Target-Etag format"));
    }
    if etag.is_none() && text(h, "content-type").is_none_or(str::is_empty) {
        set(h, "content-type", "application/symlink");
    }
    Ok((object_path("v1", &account, &container, &object), etag))
}

/// The stored headers as clients know them.
fn to_client(h: &mut HeaderMap) {
    for (client, stored) in [TARGET, ACCOUNT, ETAG, BYTES] {
        if let Some(v) = h.remove(stored) {
            h.insert(HeaderName::from_static(client), v);
        }
    }
}

/// A listing in which links show where they lead.
async fn listing(resp: Resp, path: &SwiftPath) -> Resp {
    let (resp, mut rows) = match listing_rows(resp, "symlink_target").await {
        Ok(found) => found,
        Err(resp) => return resp,
    };
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        let Some(hash) = row.get("hash").and_then(Value::as_str) else { continue };
        let (mut hash, params) = parse_header(hash);
        let (mut account, mut target) = (quote(&path.account), None);
        for (name, value) in params {
            match name.as_str() {
                "symlink_target" => target = Some(value),
                "symlink_target_account" => account = value,
                "symlink_target_etag" => drop(row.insert("symlink_etag".into(), value.into())),
                "symlink_target_bytes" => {
                    let bytes = value.parse::<u64>().unwrap_or(0);
                    row.insert("symlink_bytes".into(), bytes.into());
                }
                _ => hash.push_str(&format!("; {name}={value}")),
            }
        }
        row.insert("hash".into(), hash.into());
        if let Some(target) = target {
            row.insert("symlink_path".into(), format!("/{}/{account}/{target}", path.version).into());
        }
    }
    with_json(resp, &Value::Array(rows))
}

impl HttpService for Symlink {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests;
