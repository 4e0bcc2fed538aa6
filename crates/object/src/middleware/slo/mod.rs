//! Static large objects: a manifest names segments, and reading it reads them one after another.
//!
//! On disk a manifest is an object whose content is JSON, with `X-Static-Large-Object: True` and the etag and
//! length of the whole in `X-Object-Sysmeta-Slo-Etag` and `-Size`; the length is also in the content type
//! (`swift_bytes`), from which container listings take it. Source: Swift's documentation, `overview_large_objects`.

mod delete;
mod get;
mod listing;
mod manifest;
mod pieces;
mod put;
#[cfg(test)]
mod tests;

use super::segments::Pace;
use crate::env::{Req, Resp, SyncOverride};
use crate::http::{Params, error_html, split_path};
use crate::proxy::info::InfoSource;
use caelum_base::Env;
use caelum_rest::HttpService;
use caelum_swiftkit::HashPath;
use futures_util::future::BoxFuture;
use http::Method;
use std::sync::Arc;
use std::time::Duration;

pub(super) const SYSMETA_ETAG: &str = "x-object-sysmeta-slo-etag";
pub(super) const SYSMETA_SIZE: &str = "x-object-sysmeta-slo-size";
/// Manifests in manifests, at most.
pub(super) const MAX_DEPTH: usize = 10;

/// The layer's settings, as `/info` shows them.
#[derive(Clone, Debug)]
pub struct SloConfig {
    /// Object-backed segments of a manifest.
    pub max_manifest_segments: usize,
    /// Bytes of a manifest as sent.
    pub max_manifest_size: usize,
    /// Between two blanks that keep a slow answer alive.
    pub yield_frequency: Duration,
    pub allow_async_delete: bool,
    pub pace: Pace,
    /// Segments smaller than this count towards the pace's limit (bytes).
    pub rate_limit_under_size: u64,
    /// HEADs of segments (or deletes) at the same time.
    pub concurrency: usize,
}

impl Default for SloConfig {
    fn default() -> Self {
        Self {
            max_manifest_segments: 1_000,
            max_manifest_size: 8 * 1024 * 1024,
            yield_frequency: Duration::from_secs(10),
            allow_async_delete: true,
            pace: Pace::default(),
            rate_limit_under_size: 1024 * 1024,
            concurrency: 2,
        }
    }
}

impl SloConfig {
    /// The layer's part of `/info`.
    pub fn info(&self) -> serde_json::Value {
        serde_json::json!({
            "max_manifest_segments": self.max_manifest_segments,
            "max_manifest_size": self.max_manifest_size,
            "yield_frequency": self.yield_frequency.as_secs(),
            "min_segment_size": 1,
            "allow_async_delete": self.allow_async_delete,
        })
    }
}

pub(super) struct Inner {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    env: Env,
    config: SloConfig,
    /// Names the queue that asynchronous deletes go to.
    hash: HashPath,
}

/// The layer.
#[derive(Clone)]
pub struct Slo(Arc<Inner>);

impl Slo {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, hash: HashPath, env: Env, config: SloConfig) -> Self {
        Self(Arc::new(Inner { next, info, env, config, hash }))
    }

    async fn handle(self, req: Req) -> Resp {
        let (Some(path), None) = (split_path(&req), req.extensions().get::<SyncOverride>()) else {
            return self.0.next.call(req).await;
        };
        let manifest = Params::of(&req).get("multipart-manifest").map(str::to_string);
        match (&path.container, &path.object) {
            (Some(_), None) if req.method() == Method::GET => listing::list(&self.0, req).await,
            (Some(container), Some(object)) => match (req.method().as_str(), manifest.as_deref()) {
                ("PUT", Some("put")) => put::put(&self, req, &path, container, object).await,
                ("DELETE", Some("delete")) => delete::delete(&self, req, &path, container, object).await,
                ("GET" | "HEAD", _) => get::get(&self.0, req, &path).await,
                _ if req.headers().contains_key("x-static-large-object") => error_html(
                    400,
                    "X-Static-Large-Object is a reserved header. To create a static large object add query param \
                     multipart-manifest=put.",
                ),
                _ => self.0.next.call(req).await,
            },
            _ => self.0.next.call(req).await,
        }
    }
}

impl HttpService for Slo {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}
