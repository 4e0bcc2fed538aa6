//! `X-Versions-Location` and `X-History-Location`: what a PUT or DELETE would lose is copied to a container of the
//! user's first, as `<length of the name in hex><name>/<time>`.
//!
//! In stack mode a DELETE brings the copy back; in history mode it leaves a marker. Source: Swift's documentation,
//! `versioned_writes`.

use super::{Context, DELETE_MARKER, ask, done, info_of, question, written_at};
use crate::env::{Req, Resp, SwiftPath, environ};
use crate::http::{ContentTypeOverridden, error, error_plain, read_all, set, set_path_and_query, split_path, text};
use crate::middleware::common::{container_name, container_path, sibling, unquote};
use crate::proxy::info::{ContainerInfo, InfoSource};
use caelum_base::Env;
use caelum_rest::HttpService;
use caelum_swiftkit::Timestamp;
use futures_util::future::BoxFuture;
use http::{HeaderName, Method};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;

const LOCATION: &str = "x-versions-location";
const HISTORY: &str = "x-history-location";
const SYSMETA_LOCATION: &str = "x-container-sysmeta-versions-location";
const SYSMETA_MODE: &str = "x-container-sysmeta-versions-mode";
const REMOVE: [&str; 2] = ["x-remove-versions-location", "x-remove-history-location"];
/// Bytes of one page of a listing that are read at most.
const MAX_PAGE: usize = 64 * 1024 * 1024;

/// The layer.
#[derive(Clone)]
pub struct VersionedWrites {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    env: Env,
    /// `allow_versioned_writes`; `None`: nothing is said about it.
    enabled: Option<bool>,
}

/// `0a5object/time`.
fn version_prefix(object: &str) -> String {
    format!("{:03x}{object}/", object.len())
}

fn version_name(object: &str, at: Timestamp) -> String {
    format!("{}{}", version_prefix(object), at.internal())
}

/// Errors: 412 for what the caller is to blame for, 503 else.
async fn check(resp: Resp) -> Result<Resp, Resp> {
    let status = resp.status();
    if status.is_success() {
        return Ok(resp);
    }
    done(resp).await;
    Err(error(if status.is_client_error() { 412 } else { 503 }))
}

#[derive(Deserialize)]
struct Row {
    name: String,
    #[serde(default)]
    content_type: String,
}

/// An object's versions, the newest first, page by page.
struct Versions<'a> {
    cx: &'a Context,
    target: String,
    rows: VecDeque<Row>,
    marker: String,
}

impl Versions<'_> {
    async fn next(&mut self) -> Result<Option<Row>, Resp> {
        if self.rows.is_empty() {
            let target = format!("{}&marker={}", self.target, crate::env::quote(&self.marker));
            let resp = self.cx.call(self.cx.request(Method::GET, &target)).await;
            let status = resp.status();
            if !status.is_success() {
                done(resp).await;
                return match status.as_u16() {
                    404 => Ok(None),
                    400..=499 => Err(error(412)),
                    _ => Err(error(500)),
                };
            }
            let body = read_all(resp.into_body(), MAX_PAGE).await.ok_or_else(|| error(500))?;
            if !body.is_empty() {
                self.rows = serde_json::from_slice(&body).map_err(|_| error(500))?;
            }
        }
        let row = self.rows.pop_front();
        if let Some(r) = &row {
            self.marker.clone_from(&r.name);
        }
        Ok(row)
    }
}

/// A PUT or DELETE of an object whose container keeps versions.
struct Write {
    cx: Context,
    info: Arc<ContainerInfo>,
    path: SwiftPath,
    object: String,
    /// Where the versions go.
    versions: String,
}

impl Write {
    fn version_path(&self, name: &str) -> String {
        sibling(&self.path, &self.versions, name)
    }

    /// Copies what is there now. Clears the query: it was meant for what the object is to become.
    async fn copy_current(&self, req: &mut Req) -> Result<(), Resp> {
        let (environ, method, here) = question(req)?;
        ask(&environ, &method, &here, self.info.write_acl.as_deref()).await?;
        let current = self.cx.read(&here, false).await;
        if current.status().as_u16() == 404 {
            done(current).await;
            return Ok(());
        }
        let current = check(current).await?;
        let at = written_at(current.headers(), &["x-timestamp"]).ok_or_else(|| error(503))?;
        set_path_and_query(req, &here, "");
        let written = self.cx.write(&self.version_path(&version_name(&self.object, at)), current, false).await;
        done(check(written).await?).await;
        Ok(())
    }

    async fn leave_marker(&self, at: Timestamp) -> Result<(), Resp> {
        let mut req = self.cx.request(Method::PUT, &self.version_path(&version_name(&self.object, at)));
        set(req.headers_mut(), "content-type", DELETE_MARKER);
        set(req.headers_mut(), "content-length", "0");
        req.extensions_mut().insert(ContentTypeOverridden);
        done(check(self.cx.call(req).await).await?).await;
        Ok(())
    }

    /// Copies a version into the object's place. `false`: it is no longer there.
    async fn restore(&self, version: &str) -> Result<bool, Resp> {
        let found = self.cx.read(&self.version_path(version), false).await;
        if found.status().as_u16() == 404 {
            done(found).await;
            return Ok(false);
        }
        let found = check(found).await?;
        let written = self.cx.write(&self.path.encode(), found, false).await;
        done(check(written).await?).await;
        Ok(true)
    }

    /// After a marker that is the current state: the version before it comes back.
    async fn restore_before_marker(&self, versions: &mut Versions<'_>) -> Result<(), Resp> {
        while let Some(row) = versions.next().await? {
            if row.content_type == DELETE_MARKER {
                return Ok(());
            }
            if self.restore(&row.name).await? {
                let old = self.cx.call(self.cx.request(Method::DELETE, &self.version_path(&row.name))).await;
                if old.status().as_u16() == 404 {
                    done(old).await;
                } else {
                    done(check(old).await?).await;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// A DELETE in stack mode: the newest version takes the object's place.
    async fn pop(&self, req: Req) -> Result<Resp, Resp> {
        let mut target = container_path("v1", &self.path.account, &self.versions);
        target.push_str(&format!("?format=json&reverse=on&prefix={}", crate::env::quote(&version_prefix(&self.object))));
        let mut versions = Versions { cx: &self.cx, target, rows: VecDeque::new(), marker: String::new() };
        let (environ, method, here) = question(&req)?;
        let mut asked = false;
        while let Some(row) = versions.next().await? {
            if !asked {
                ask(&environ, &method, &here, self.info.write_acl.as_deref()).await?;
                asked = true;
            }
            if row.content_type == DELETE_MARKER {
                let mut head = self.cx.request(Method::HEAD, &here);
                set(head.headers_mut(), "x-newest", "True");
                let current = self.cx.call(head).await;
                if current.status().as_u16() != 404 {
                    // There is an object over the marker: deleting it leads back to the marker.
                    done(check(current).await?).await;
                    break;
                }
                self.restore_before_marker(&mut versions).await?;
            } else if !self.restore(&row.name).await? {
                continue;
            }
            // What was restored, or the marker, goes; the caller has been asked for.
            let resp = self.cx.call(self.cx.request(Method::DELETE, &self.version_path(&row.name))).await;
            return Ok(resp);
        }
        Ok(self.cx.call(req).await)
    }
}

impl VersionedWrites {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, env: Env) -> Self {
        Self { next, info, env, enabled: Some(true) }
    }

    /// `allow_versioned_writes`; `None` when nothing is said: then only containers that were set up before sysmeta
    /// existed keep versions, and requests to containers pass as they are.
    #[must_use]
    pub fn enabled(self, enabled: Option<bool>) -> Self {
        Self { enabled, ..self }
    }

    /// The layer's part of `/info`.
    pub fn info() -> serde_json::Value {
        serde_json::json!({"allowed_flags": [LOCATION, HISTORY]})
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = split_path(&req) else { return self.next.call(req).await };
        let result = match (path.container.clone(), path.object.clone()) {
            (Some(_), None) if self.enabled.is_some() => self.container(req).await,
            (Some(c), Some(o)) if matches!(*req.method(), Method::PUT | Method::DELETE) => self.object(req, path, c, o).await,
            _ => Ok(self.next.call(req).await),
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    async fn object(&self, mut req: Req, path: SwiftPath, container: String, object: String) -> Result<Resp, Resp> {
        let info = info_of(&*self.info, environ(&req).cloned(), &path.account, &container).await;
        let sysmeta = info.sysmeta("versions-location").filter(|l| !l.is_empty());
        let old = info.versions.as_deref().filter(|v| sysmeta.is_none() && !v.is_empty());
        let location = sysmeta.filter(|_| self.enabled == Some(true)).or(old.filter(|_| self.enabled != Some(false)));
        let versions = location.map(unquote).and_then(|l| l.split('/').next().map(str::to_string));
        let Some(versions) = versions.filter(|v| !v.is_empty()) else { return Ok(self.next.call(req).await) };
        let history = info.sysmeta("versions-mode") == Some("history");
        let cx = Context::new(&self.next, &req, "VW");
        let write = Write { cx, info, path, object, versions };
        if *req.method() == Method::DELETE && !history {
            return write.pop(req).await;
        }
        write.copy_current(&mut req).await?;
        if *req.method() == Method::DELETE {
            write.leave_marker(Timestamp::at(self.env.now())).await?;
        }
        Ok(self.next.call(req).await)
    }

    async fn container(&self, mut req: Req) -> Result<Resp, Resp> {
        translate(&mut req, self.enabled == Some(true))?;
        let mut resp = self.next.call(req).await;
        let h = resp.headers();
        if let Some(location) = text(h, SYSMETA_LOCATION).filter(|l| !l.is_empty()).map(str::to_string) {
            let name = if text(h, SYSMETA_MODE) == Some("history") { HISTORY } else { LOCATION };
            set(resp.headers_mut(), name, location);
        }
        Ok(resp)
    }
}

/// The client's headers as sysmeta. Errors: 400 for both modes at once, 412 for a name that is none.
fn translate(req: &mut Req, enabled: bool) -> Result<(), Resp> {
    let writes = matches!(*req.method(), Method::PUT | Method::POST);
    let h = req.headers_mut();
    let value = |h: &http::HeaderMap, n: &str| text(h, n).map(str::to_string);
    let (mut location, mut history) = (value(h, LOCATION), value(h, HISTORY));
    match (location.as_deref(), history.as_deref()) {
        (Some(_), Some("")) => history = None,
        (Some(""), Some(_)) => location = None,
        (Some(_), Some(_)) => {
            return Err(error_plain(400, "Only one of x-versions-location or x-history-location may be specified"));
        }
        _ => {}
    }
    let wanted = match (location, history) {
        (Some(l), _) => Some((l, "stack")),
        (None, Some(l)) => Some((l, "history")),
        (None, None) => None,
    };
    h.remove(HISTORY);
    match wanted {
        Some((value, _)) if value.is_empty() => set(h, REMOVE[0], "x"),
        Some(_) if writes && !enabled => return Err(error_plain(412, "Versioned Writes is disabled")),
        Some((value, mode)) => {
            let value = container_name(&value)?;
            set(h, SYSMETA_LOCATION, value);
            set(h, SYSMETA_MODE, mode);
            // Old storage servers knew the header itself; only the sysmeta counts now.
            set(h, LOCATION, "");
            REMOVE.iter().for_each(|n| drop(h.remove(*n)));
        }
        None => {}
    }
    if REMOVE.iter().any(|n| text(h, n).is_some_and(|v| !v.is_empty())) {
        for name in [LOCATION, SYSMETA_LOCATION, SYSMETA_MODE] {
            h.insert(HeaderName::from_static(name), http::HeaderValue::from_static(""));
        }
        REMOVE.iter().for_each(|n| drop(h.remove(*n)));
    }
    Ok(())
}

impl HttpService for VersionedWrites {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}
