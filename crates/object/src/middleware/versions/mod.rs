//! Earlier contents of objects, in the two ways that Swift has: [`VersionedWrites`] keeps them in a container of the
//! user's under names with the time in them; [`ObjectVersioning`] in a hidden container, with ids.

mod account;
mod container;
mod legacy;
#[cfg(test)]
mod legacy_tests;
mod listing;
mod names;
mod object;
#[cfg(test)]
mod tests;

pub use legacy::VersionedWrites;

use crate::env::{Req, Resp};
use crate::http::{ContentTypeOverridden, Origin, drain, error, set, split_path, text};
use crate::proxy::info::{ContainerInfo, InfoSource, container_info};
use caelum_base::Env;
use caelum_rest::HttpService;
use caelum_swiftkit::{MAX_FILE_SIZE, Policies, Timestamp};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use std::sync::Arc;

/// What an object that stands for a deletion has as its content type; only this layer can set it.
pub(super) const DELETE_MARKER: &str = "application/x-deleted;swift_versions_deleted=1";

struct Inner {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    policies: Arc<Policies>,
    env: Env,
}

/// Object versioning: `X-Versions-Enabled`, `?versions`, `?version-id`.
///
/// A PUT writes the data into the container `\0versions\0<container>` as `\0<object>\0<inverted time>` and a static
/// link in its place; a DELETE writes an empty marker there. Source: Swift's documentation, `object_versioning`.
#[derive(Clone)]
pub struct ObjectVersioning(Arc<Inner>);

impl ObjectVersioning {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, policies: Arc<Policies>, env: Env) -> Self {
        Self(Arc::new(Inner { next, info, policies, env }))
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = split_path(&req) else { return self.0.next.call(req).await };
        let result = match (&path.container, &path.object) {
            (None, _) => account::account(&self.0, req, &path).await,
            (Some(c), None) => container::container(&self.0, req, &path, c).await,
            (Some(c), Some(o)) => object::object(&self.0, req, &path, c, o).await,
        };
        result.unwrap_or_else(|refusal| refusal)
    }
}

impl HttpService for ObjectVersioning {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}

/// What both layers know of a request.
struct Context {
    next: Arc<dyn HttpService>,
    /// For requests that are made without asking for the caller again.
    own: Origin,
    source: &'static str,
}

impl Context {
    fn new(next: &Arc<dyn HttpService>, req: &Req, source: &'static str) -> Self {
        Self { next: next.clone(), own: Origin::of(req).preauthorized(source), source }
    }

    fn request(&self, method: Method, target: &str) -> Req {
        self.own.request(method, target, self.source, "")
    }

    async fn call(&self, req: Req) -> Resp {
        self.next.call(req).await
    }

    /// The object at `path` itself: not what it may be a link to. What is too large to be copied is a refusal (413).
    async fn read(&self, path: &str, reserved: bool) -> Resp {
        let mut req = self.request(Method::GET, &format!("{path}?symlink=get"));
        set(req.headers_mut(), "x-newest", "True");
        if reserved {
            super::common::allow_reserved(&mut req);
        }
        let resp = self.call(req).await;
        match crate::http::content_length(&resp) {
            Some(n) if n <= MAX_FILE_SIZE => resp,
            _ => error(413),
        }
    }

    /// Writes what was read to another place, with all that belongs to it.
    async fn write(&self, target: &str, source: Resp, reserved: bool) -> Resp {
        let (parts, body) = source.into_parts();
        let mut req = self.own.request_with(Method::PUT, target, self.source, "", body);
        for (name, value) in parts.headers.iter().filter(|(n, _)| !is_of_answer(n.as_str())) {
            req.headers_mut().insert(name.clone(), value.clone());
        }
        if let Some(size) = text(&parts.headers, "x-object-sysmeta-slo-size").filter(|s| !s.is_empty()) {
            let kind = text(&parts.headers, "content-type").unwrap_or_default();
            set(req.headers_mut(), "content-type", format!("{kind}; swift_bytes={size}"));
            req.extensions_mut().insert(ContentTypeOverridden);
        }
        if reserved {
            super::common::allow_reserved(&mut req);
        }
        self.call(req).await
    }
}

/// Headers of an answer that do not belong to the object.
fn is_of_answer(name: &str) -> bool {
    name.starts_with("x-backend-")
        || matches!(
            name,
            "x-timestamp"
                | "date"
                | "last-modified"
                | "accept-ranges"
                | "content-range"
                | "content-location"
                | "connection"
                | "transfer-encoding"
                | "x-trans-id"
                | "x-openstack-request-id"
                | "x-object-version-id"
        )
}

/// When the object in an answer was written.
fn written_at(h: &HeaderMap, names: &[&str]) -> Option<Timestamp> {
    let stamp = names.iter().find_map(|n| Timestamp::parse(text(h, n)?));
    stamp.or_else(|| {
        let seconds = crate::http::parse_http_date(text(h, "last-modified")?)?;
        Timestamp::parse(&seconds.to_string())
    })
}

/// Who wants to do what where, to be [`ask`]ed about.
fn question(req: &Req) -> Result<(crate::env::Environ, Method, String), Resp> {
    let environ = crate::env::environ(req).cloned().ok_or_else(|| error(403))?;
    Ok((environ, req.method().clone(), req.uri().path().to_string()))
}

/// Errors: the refusal.
async fn ask(environ: &crate::env::Environ, method: &Method, path: &str, acl: Option<&str>) -> Result<(), Resp> {
    let Some(authorizer) = environ.authorizer.clone() else { return Ok(()) };
    match authorizer.authorize(method, path, environ, acl).await {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

async fn info_of(info: &dyn InfoSource, environ: Option<crate::env::Environ>, account: &str, container: &str) -> Arc<ContainerInfo> {
    match environ {
        Some(environ) => container_info(info, &environ, account, container).await,
        None => Arc::new(ContainerInfo::absent(503)),
    }
}

/// Lets go of an answer's body.
async fn done(resp: Resp) {
    drain(resp.into_body()).await;
}
