//! The proxy server application: the innermost layer of the pipeline, which speaks to the account,
//! container and object servers. Source: Swift's documentation (`overview_architecture`, API reference).

mod account;
pub mod acl;
mod backend;
pub mod cache;
mod constraints;
mod container;
mod cors;
mod ec_get;
mod ec_put;
mod getter;
pub mod info;
mod info_json;
mod limiter;
pub mod memcache;
pub(crate) mod mime_types;
mod object;
mod object_body;
pub mod options;
mod put;
mod quorum;
mod request;
mod several_ranges;
mod shards;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use cache::{Cache, MemoryCache};
pub use info::{AccountInfo, ContainerInfo, FixedInfo, InfoSource, ObjectInfo};
pub use memcache::Memcache;
pub use mime_types::learn_types;
pub use options::{Affinity, Count, Limits, PolicyOptions, ProxyOptions, Sorting};

use crate::env::{Environ, Req, Resp, SwiftPath, environ};
use crate::http::{error, error_html, set};
use backend::Core;
use caelum_base::Env;
use caelum_rest::{Body, HttpService};
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf, Timestamp};
use futures_util::future::BoxFuture;
use http::{Method, Request};
use request::Rq;
use std::sync::{Arc, Mutex};

/// What the proxy works with.
pub struct ProxyDeps {
    pub rings: Rings,
    pub nodes: Nodes,
    pub swift: Arc<SwiftConf>,
    pub env: Env,
    pub options: ProxyOptions,
    /// Shared with other proxies, when there are any.
    pub cache: Option<Arc<dyn Cache>>,
}

/// The proxy application. It answers `/v1/account[/container[/object]]` for requests that carry an
/// [`Environ`], and is an [`InfoSource`] for the layers above.
pub struct Proxy {
    core: Arc<Core>,
}

impl Proxy {
    pub fn new(deps: ProxyDeps) -> Arc<Self> {
        let core = Core::new(deps.rings, deps.nodes, deps.swift, deps.env, deps.options, deps.cache);
        Arc::new(Self { core: Arc::new(core) })
    }

    pub fn options(&self) -> &ProxyOptions {
        &self.core.options
    }
}

impl HttpService for Proxy {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Resp> {
        Box::pin(self.core.clone().serve(req))
    }
}

impl Core {
    async fn serve(self: Arc<Self>, req: Req) -> Resp {
        match self.clone().admit(req) {
            Ok(rq) if rq.headers().contains_key(http::header::ORIGIN) && rq.container.is_some() => self.with_cors(rq).await,
            Ok(rq) => self.dispatch(rq).await,
            Err(refusal) => refusal,
        }
    }

    /// Checks the target.
    fn admit(self: Arc<Self>, req: Req) -> Result<Rq, Resp> {
        let Some(environ) = environ(&req).cloned() else { return Err(error(403)) };
        let raw = req.uri().path();
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(raw).collect();
        let reserved = request::allows_reserved(req.headers(), &environ);
        let text_ok = std::str::from_utf8(&decoded).is_ok() && (reserved || !decoded.contains(&0));
        if !text_ok {
            return Err(error_html(412, "Invalid UTF8 or contains NULL"));
        }
        if host_denied(&self.options.deny_host_headers, &req) {
            return Err(error_html(403, "Invalid host header"));
        }
        let path = SwiftPath::parse(raw).ok_or_else(|| bad_path(raw))?;
        if !matches!(path.version.as_str(), "v1" | "v1.0") {
            return Err(error(400));
        }
        if let Some(refusal) = constraints::check_reserved(&path.account, path.container.as_deref(), path.object.as_deref()) {
            return Err(refusal);
        }
        let entity = raw.get(path.version.len() + 1..).unwrap_or_default();
        let entity = if path.object.is_some() { entity } else { entity.trim_end_matches('/') }.to_string();
        let (mut parts, body) = req.into_parts();
        let given = crate::http::text(&parts.headers, "x-timestamp").and_then(Timestamp::parse);
        let timestamp = given.unwrap_or_else(|| self.timestamp());
        set(&mut parts.headers, "x-timestamp", timestamp.internal());
        let SwiftPath { account, container, object, .. } = path;
        Ok(Rq { parts, body: Mutex::new(body), environ, account, container, object, entity, timestamp })
    }

    pub(crate) async fn dispatch(self: Arc<Self>, rq: Rq) -> Resp {
        let allowed = self.allowed_methods(&rq);
        let private = rq.method().as_str() == "UPDATE" && crate::http::is_true(rq.headers(), "x-backend-allow-private-methods");
        if !allowed.contains(&rq.method().as_str()) && !private {
            let mut resp = error(405);
            set(resp.headers_mut(), "allow", allowed.join(", "));
            return resp;
        }
        if *rq.method() == Method::OPTIONS {
            if let Some(refusal) = rq.authorize(None).await {
                return refusal;
            }
            return self.options_request(&rq, &allowed).await;
        }
        match (&rq.container, &rq.object) {
            (Some(_), Some(_)) => self.object(rq).await,
            (Some(_), None) => self.container(rq).await,
            _ => self.account(rq).await,
        }
    }

    /// In the order of the alphabet.
    pub(crate) fn allowed_methods(&self, rq: &Rq) -> Vec<&'static str> {
        if rq.container.is_some() || self.options.allow_account_management {
            vec!["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"]
        } else {
            vec!["GET", "HEAD", "OPTIONS", "POST"]
        }
    }
}

/// What a path that is none of ours gets: `/v1` names nothing, `/`, `/v1//` and `/v1/a//o` are no paths at all.
fn bad_path(raw: &str) -> Resp {
    let mut parts = raw.strip_prefix('/').unwrap_or("").splitn(3, '/');
    match (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next()) {
        (version, "", None) if !version.is_empty() => error_html(412, "Bad URL"),
        _ => error(404),
    }
}

fn host_denied(denied: &[String], req: &Req) -> bool {
    !denied.is_empty()
        && crate::http::text(req.headers(), "host").is_some_and(|h| denied.iter().any(|d| h.split(':').next() == Some(d.as_str())))
}

/// For requests of the proxy's own that go through its controllers.
pub(crate) fn preauthorized(environ: &Environ, source: &'static str) -> Environ {
    Environ { is_owner: true, internal: true, ..environ.preauthorized(source) }
}
