//! Requests to objects in containers that keep versions.

use super::names::{parse_version, reserved_name, version_id, version_object};
use super::{Context, DELETE_MARKER, Inner, ask, done, info_of, question, written_at};
use crate::env::{Environ, Footers, Req, Resp, SwiftPath, environ, quote};
use crate::http::{
    ContentTypeOverridden, Params, StoredType, content_length, error, error_html, error_plain, guess_type, is_true, is_true_text, set,
    set_path_and_query, text, unquote_etag,
};
use crate::middleware::common::{allow_reserved, sibling, unquote};
use crate::middleware::object_lock;
use crate::middleware::symlink::{
    ALLOW_RESERVED, SYMLOOP_EXTEND, TARGET_ACCOUNT_HEADER, TARGET_BYTES_SYSMETA, TARGET_ETAG_SYSMETA, TARGET_HEADER,
};
use crate::proxy::info::ContainerInfo;
use caelum_rest::Body;
use caelum_swiftkit::Timestamp;
use http::{Method, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// On links that stand for a version.
const SYSMETA_LINK: &str = "x-object-sysmeta-versions-symlink";
const NO_CONTAINER: &str = "The versions container does not exist. You may want to re-enable object versioning.";

/// A request to an object and what its container says of versions.
struct Versioned<'a> {
    layer: &'a Inner,
    cx: Context,
    info: Arc<ContainerInfo>,
    path: &'a SwiftPath,
    container: &'a str,
    object: &'a str,
    /// Where the versions are; `None`: the container never had any.
    versions: Option<String>,
    enabled: bool,
}

pub(super) async fn object(layer: &Inner, req: Req, path: &SwiftPath, container: &str, object: &str) -> Result<Resp, Resp> {
    let info = info_of(&*layer.info, environ(&req).cloned(), &path.account, container).await;
    let versions = info.sysmeta("versions-container").map(unquote);
    let versions = versions.and_then(|v| v.split('/').next().map(str::to_string)).filter(|v| !v.is_empty());
    let enabled = info.sysmeta("versions-enabled").is_some_and(is_true_text);
    let cx = Context::new(&layer.next, &req, "OV");
    let v = Versioned { layer, cx, info, path, container, object, versions, enabled };
    if let Some(id) = Params::of(&req).get("version-id").filter(|id| !id.is_empty()).map(str::to_string) {
        return v.with_id(req, &id).await;
    }
    let Some(versions) = v.versions.clone() else { return Ok(layer.next.call(req).await) };
    match *req.method() {
        Method::PUT if v.enabled => v.put(req, &versions).await,
        Method::DELETE if v.enabled => v.delete(req, &versions).await,
        Method::PUT | Method::DELETE => Ok(layer.next.call(req).await),
        Method::POST => v.post(req, &versions).await,
        _ => v.show(req, &versions).await,
    }
}

/// Errors: 412 for a missing container, the refusal itself for what the client is to blame for, 503 else.
async fn check(resp: Resp) -> Result<Resp, Resp> {
    match resp.status().as_u16() {
        200..=299 => Ok(resp),
        404 => {
            done(resp).await;
            Err(error(412))
        }
        400..=499 => Err(resp),
        _ => {
            done(resp).await;
            Err(error(503))
        }
    }
}

/// The time of a request; sets it when nobody has.
fn stamp(layer: &Inner, req: &mut Req) -> Result<Timestamp, Resp> {
    if let Some(sent) = text(req.headers(), "x-timestamp") {
        return Timestamp::parse(sent).ok_or_else(|| error_plain(400, format!("Invalid X-Timestamp header: {sent}")));
    }
    let now = Timestamp::at(layer.env.now());
    set(req.headers_mut(), "x-timestamp", now.internal());
    Ok(now)
}

/// A version's object that has been written.
struct Written {
    name: String,
    etag: String,
    bytes: String,
    content_type: String,
}

/// Counts what passes.
fn counted(body: Body) -> (Body, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let seen = count.clone();
    let body = body.map_frame(move |frame| {
        seen.fetch_add(frame.data_ref().map_or(0, |d| d.len() as u64), Ordering::Relaxed);
        frame
    });
    (body.boxed_unsync(), count)
}

/// Whether something comes.
async fn has_body(body: Body) -> bool {
    let mut body = body;
    while let Some(Ok(frame)) = body.frame().await {
        if frame.data_ref().is_some_and(|d| !d.is_empty()) {
            return true;
        }
    }
    false
}

impl Versioned<'_> {
    /// The object that holds a version. Errors: 400 for names of the reserved namespace.
    fn name_of(&self, version: Timestamp) -> Result<String, Resp> {
        version_object(self.object, version).ok_or_else(|| error_html(400, "Invalid reserved-namespace object"))
    }

    fn path_of(&self, versions: &str, name: &str) -> String {
        sibling(self.path, versions, name)
    }

    /// What stands in the container and is no link to a version was written while versioning was off: it is kept.
    async fn copy_current(&self, (environ, method, here): (Environ, Method, String), versions: &str) -> Result<(), Resp> {
        ask(&environ, &method, &here, self.info.write_acl.as_deref()).await?;
        let current = self.cx.read(&here, false).await;
        if current.status().as_u16() == 404 {
            done(current).await;
            return Ok(());
        }
        let current = check(current).await?;
        if text(current.headers(), SYSMETA_LINK) == Some("true") {
            done(current).await;
            return Ok(());
        }
        let at = written_at(current.headers(), &["x-backend-timestamp", "x-timestamp"]).ok_or_else(|| error(503))?;
        let target = self.path_of(versions, &self.name_of(version_id(at))?);
        let written = self.cx.write(&target, current, true).await;
        if written.status().as_u16() == 404 {
            done(written).await;
            return Err(error_plain(500, NO_CONTAINER));
        }
        done(check(written).await?).await;
        Ok(())
    }

    /// The PUT that makes the client's data a version. Takes body and marks from `req`.
    fn version_put(&self, req: &mut Req, at: Timestamp, versions: &str) -> Result<(Req, String, Arc<AtomicU64>), Resp> {
        let name = self.name_of(version_id(at))?;
        let body = std::mem::replace(req.body_mut(), caelum_rest::empty());
        let (body, count) = counted(body);
        let mut put = self.cx.own.request_with(Method::PUT, &self.path_of(versions, &name), "OV", "", body);
        for (k, v) in req.headers() {
            if k != "x-delete-at" && k != "x-delete-after" {
                put.headers_mut().insert(k.clone(), v.clone());
            }
        }
        // The type is guessed from the name that the client knows.
        let detect = is_true(put.headers(), "x-detect-content-type");
        let untyped = text(put.headers(), "content-type").is_none_or(str::is_empty) && !put.headers().contains_key(TARGET_HEADER);
        if detect || untyped {
            set(put.headers_mut(), "content-type", guess_type(self.object));
            put.headers_mut().remove("x-detect-content-type");
        }
        if let Some(mark) = req.extensions_mut().remove::<ContentTypeOverridden>() {
            put.extensions_mut().insert(mark);
        }
        if let Some(mark) = req.extensions_mut().remove::<Footers>() {
            put.extensions_mut().insert(mark);
        }
        allow_reserved(&mut put);
        Ok((put, name, count))
    }

    async fn write_version(&self, put: Req, name: String, count: Arc<AtomicU64>) -> Result<Written, Resp> {
        let kind = text(put.headers(), "content-type").unwrap_or_default().to_string();
        let slo = text(put.headers(), "x-object-sysmeta-slo-size").filter(|s| !s.is_empty()).map(str::to_string);
        let resp = self.cx.call(put).await;
        if resp.status().as_u16() == 404 {
            done(resp).await;
            return Err(error_plain(500, NO_CONTAINER));
        }
        let resp = check(resp).await?;
        let etag = text(resp.headers(), "etag").map(unquote_etag).unwrap_or_default().to_string();
        let kind = resp.extensions().get::<StoredType>().map_or(kind, |t| t.0.clone());
        let content_type = kind.split(';').next().unwrap_or_default().trim().to_string();
        done(resp).await;
        let bytes = slo.unwrap_or_else(|| count.load(Ordering::Relaxed).to_string());
        Ok(Written { name, etag, bytes, content_type })
    }

    /// The link in the object's place.
    async fn link(&self, mut req: Req, at: Timestamp, versions: &str, to: Written) -> Resp {
        *req.method_mut() = Method::PUT;
        *req.body_mut() = caelum_rest::empty();
        let h = req.headers_mut();
        for gone in [
            "etag",
            "x-if-delete-at",
            "x-object-manifest",
            "x-static-large-object",
            "x-object-sysmeta-slo-etag",
            "x-object-sysmeta-slo-size",
            "x-detect-content-type",
            "transfer-encoding",
            TARGET_ACCOUNT_HEADER,
        ] {
            h.remove(gone);
        }
        // A little after the version itself.
        set(h, "x-timestamp", at.with_offset(at.offset + 1).internal());
        set(h, TARGET_ETAG_SYSMETA, &to.etag);
        set(h, TARGET_BYTES_SYSMETA, &to.bytes);
        set(h, "content-type", &to.content_type);
        set(h, "content-length", "0");
        set(h, TARGET_HEADER, quote(&format!("{versions}/{}", to.name)));
        for name in [SYSMETA_LINK, SYMLOOP_EXTEND, ALLOW_RESERVED] {
            set(h, name, "true");
        }
        allow_reserved(&mut req);
        if let Some(e) = req.extensions_mut().get_mut::<Environ>() {
            e.source = "OV";
        }
        let mut resp = self.cx.call(req).await;
        set(resp.headers_mut(), "etag", &to.etag);
        if let Some((_, id)) = parse_version(&to.name) {
            set(resp.headers_mut(), "x-object-version-id", id);
        }
        resp
    }

    async fn put(&self, mut req: Req, versions: &str) -> Result<Resp, Resp> {
        let asked = question(&req)?;
        self.copy_current(asked, versions).await?;
        let at = stamp(self.layer, &mut req)?;
        let (put, name, count) = self.version_put(&mut req, at, versions)?;
        let written = self.write_version(put, name, count).await?;
        Ok(self.link(req, at, versions, written).await)
    }

    async fn delete(&self, mut req: Req, versions: &str) -> Result<Resp, Resp> {
        let asked = question(&req)?;
        self.copy_current(asked, versions).await?;
        let at = stamp(self.layer, &mut req)?;
        let id = version_id(at);
        let mut marker = self.cx.request(Method::PUT, &self.path_of(versions, &self.name_of(id)?));
        let h = marker.headers_mut();
        set(h, "content-type", DELETE_MARKER);
        set(h, "content-length", "0");
        set(h, "x-timestamp", at.internal());
        marker.extensions_mut().insert(ContentTypeOverridden);
        allow_reserved(&mut marker);
        done(check(self.cx.call(marker).await).await?).await;
        let mut resp = self.cx.call(req).await;
        if resp.status().is_success() || resp.status().as_u16() == 404 {
            set(resp.headers_mut(), "x-object-version-id", id.internal());
            set(resp.headers_mut(), "x-backend-content-type", DELETE_MARKER);
        }
        Ok(resp)
    }

    /// A POST to a link reaches the version behind it too.
    async fn post(&self, req: Req, versions: &str) -> Result<Resp, Resp> {
        let mut again = self.cx.request(Method::POST, req.uri().path());
        for (k, v) in req.headers() {
            if k != "x-delete-at" && k != "x-delete-after" {
                again.headers_mut().insert(k.clone(), v.clone());
            }
        }
        allow_reserved(&mut again);
        let resp = self.cx.call(req).await;
        if resp.status().as_u16() != 307 || !is_true(resp.headers(), SYSMETA_LINK) {
            return Ok(resp);
        }
        let target = text(resp.headers(), "location").and_then(SwiftPath::parse);
        let Some(target) = target.filter(|t| t.account == self.path.account && t.container.as_deref() == Some(versions)) else {
            return Ok(resp);
        };
        done(resp).await;
        if !set_path_and_query(&mut again, &target.encode(), "") {
            return Err(error(412));
        }
        Ok(self.cx.call(again).await)
    }

    /// GET, HEAD and OPTIONS of the current version.
    async fn show(&self, req: Req, versions: &str) -> Result<Resp, Resp> {
        let mut resp = self.cx.call(req).await;
        let h = resp.headers_mut();
        set(h, "x-object-version-id", "null");
        let at = text(h, "content-location").and_then(SwiftPath::parse);
        let at = at.filter(|t| t.account == self.path.account && t.container.as_deref() == Some(versions));
        if let Some((_, id)) = at.as_ref().and_then(|t| parse_version(t.object.as_deref()?)) {
            set(h, "content-location", format!("{}?version-id={id}", self.path.encode()));
            set(h, "x-object-version-id", id);
        }
        let target = text(h, TARGET_HEADER).map(unquote);
        let target = target.as_deref().and_then(|t| t.split_once('/')).filter(|(c, _)| *c == versions);
        if let Some((_, id)) = target.and_then(|(_, o)| parse_version(o)) {
            let name = quote(&format!("{}/{}", self.container, self.object));
            set(h, TARGET_HEADER, format!("{name}?version-id={id}"));
            set(h, "x-object-version-id", id);
        }
        Ok(resp)
    }

    async fn with_id(&self, req: Req, id: &str) -> Result<Resp, Resp> {
        let method = req.method().clone();
        if method == Method::POST {
            return Err(error_html(400, "POST to a specific version is not allowed"));
        }
        if self.versions.is_none() && id != "null" {
            return Err(error_html(400, "version-aware operations require that the container is versioned"));
        }
        let version = if id == "null" { None } else { Some(Timestamp::parse(id)) };
        let version = match version {
            Some(None) => return Err(error_html(400, "Invalid version parameter")),
            Some(Some(v)) => Some(v),
            None => None,
        };
        let versions = self.versions.clone().unwrap_or_default();
        match (method, version) {
            (Method::OPTIONS, _) | (Method::DELETE, None) => Ok(self.cx.call(req).await),
            (Method::DELETE, Some(v)) => self.delete_version(req, id, v, &versions).await,
            (Method::PUT, None) => Err(error_html(400, "Invalid version parameter")),
            (Method::PUT, Some(v)) => self.put_version(req, v, &versions).await,
            (_, None) => self.show_null(req).await,
            (_, Some(v)) => self.show_version(req, id, v, &versions).await,
        }
    }

    /// The version that the object's place leads to: `(is there anything, container and name of the version)`.
    async fn current(&self) -> Result<Option<String>, Resp> {
        let mut head = self.cx.request(Method::HEAD, &format!("{}?symlink=get", self.path.encode()));
        set(head.headers_mut(), "x-newest", "True");
        let resp = self.cx.call(head).await;
        if resp.status().as_u16() == 404 {
            done(resp).await;
            return Ok(None);
        }
        let resp = check(resp).await?;
        let link = text(resp.headers(), SYSMETA_LINK) == Some("true");
        let target = text(resp.headers(), TARGET_HEADER).filter(|_| link).map(unquote);
        done(resp).await;
        Ok(target)
    }

    async fn delete_version(&self, mut req: Req, id: &str, version: Timestamp, versions: &str) -> Result<Resp, Resp> {
        let name = self.name_of(version)?;
        let place = self.path_of(versions, &name);
        // Deleting a version is the owner's right. Asked before anything is touched, so that nobody loses the link
        // and keeps the data.
        let (environ, method, _) = question(&req)?;
        ask(&environ, &method, &place, None).await?;
        object_lock::check_version((&self.layer.next, &self.cx.own, &environ), &self.info, &place, self.layer.env.now()).await?;
        let current = self.current().await?;
        let mut current_id = "null".to_string();
        let is_current = current.as_deref() == Some(format!("{versions}/{name}").as_str());
        let query = req.uri().query().unwrap_or_default().to_string();
        if is_current {
            let mut link = self.cx.own.request(Method::DELETE, &self.path.encode(), "OV", "");
            link.extensions_mut().insert(Environ { source: environ.source, ..environ });
            *link.headers_mut() = req.headers().clone();
            done(check(self.cx.call(link).await).await?).await;
        } else if let Some((_, object)) = current.as_deref().and_then(|c| c.split_once('/'))
            && let Some((_, found)) = parse_version(object)
        {
            current_id = found;
        }
        set_path_and_query(&mut req, &place, if is_current { "" } else { &query });
        allow_reserved(&mut req);
        let mut resp = self.cx.call(req).await;
        set(resp.headers_mut(), "x-object-version-id", id);
        set(resp.headers_mut(), "x-object-current-version-id", current_id);
        Ok(resp)
    }

    /// Makes an earlier version the current one.
    async fn put_version(&self, mut req: Req, version: Timestamp, versions: &str) -> Result<Resp, Resp> {
        let (environ, method, here) = question(&req)?;
        let body = std::mem::replace(req.body_mut(), caelum_rest::empty());
        let chunked = text(req.headers(), "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked"));
        let some = match text(req.headers(), "content-length").map(str::to_string) {
            Some(l) => l != "0",
            None if chunked => has_body(body).await,
            None => return Err(error(411)),
        };
        if some {
            return Err(error_plain(400, "PUT version-id requests require a zero byte body"));
        }
        ask(&environ, &method, &here, self.info.write_acl.as_deref()).await?;
        let name = self.name_of(version)?;
        let mut head = self.cx.request(Method::HEAD, &format!("{}?symlink=get", self.path_of(versions, &name)));
        allow_reserved(&mut head);
        let found = self.cx.call(head).await;
        if found.status().as_u16() == 404 {
            done(found).await;
            let there = info_of(&*self.layer.info, Some(environ), &self.path.account, versions).await;
            return Err(match there.exists() {
                true => error_plain(404, "The specified version does not exist"),
                false => error_plain(500, NO_CONTAINER),
            });
        }
        let found = check(found).await?;
        let h = found.headers();
        let to = Written {
            name,
            etag: text(h, "etag").map(unquote_etag).unwrap_or_default().to_string(),
            bytes: content_length(&found).unwrap_or(0).to_string(),
            content_type: text(h, "content-type").unwrap_or_default().to_string(),
        };
        done(found).await;
        let at = stamp(self.layer, &mut req)?;
        Ok(self.link(req, at, versions, to).await)
    }

    async fn show_version(&self, mut req: Req, id: &str, version: Timestamp, versions: &str) -> Result<Resp, Resp> {
        let place = self.path_of(versions, &self.name_of(version)?);
        let query = req.uri().query().unwrap_or_default().to_string();
        set_path_and_query(&mut req, &place, &query);
        allow_reserved(&mut req);
        let method = req.method().clone();
        let mut resp = self.cx.call(req).await;
        if resp.status().is_success() {
            set(resp.headers_mut(), "x-object-version-id", id);
        }
        let h = resp.headers();
        if text(h, "x-backend-content-type").or_else(|| text(h, "content-type")) == Some(DELETE_MARKER) {
            done(resp).await;
            let mut gone = error(404);
            if method == Method::HEAD {
                set(gone.headers_mut(), "content-length", "0");
            }
            set(gone.headers_mut(), "x-object-version-id", id);
            set(gone.headers_mut(), header::CONTENT_TYPE.as_str(), DELETE_MARKER);
            return Err(gone);
        }
        Ok(resp)
    }

    /// What was written while versioning was off.
    async fn show_null(&self, req: Req) -> Result<Resp, Resp> {
        let mut resp = self.cx.call(req).await;
        if resp.status().is_success() {
            let at = text(resp.headers(), "content-location").map(unquote).unwrap_or_default();
            if reserved_name(&["versions", ""]).is_some_and(|r| at.contains(&r)) {
                // There is a current version, but it has an id.
                return Err(error(404));
            }
            set(resp.headers_mut(), "x-object-version-id", "null");
        }
        Ok(resp)
    }
}
