//! Many operations in one request: archives unpacked into objects, lists of objects deleted.
//!
//! The answer begins at once with 200; what came of the work stands in its body, behind blanks that keep the
//! connection alive. Names in archives are data: nothing here touches a file system. Source: Swift's
//! documentation, `bulk-delete` and `archive-auto-extract`.

mod archive;
pub(super) mod delete;
mod extract;
mod tar;
#[cfg(test)]
mod tests;

use super::heartbeat::Beat;
use crate::env::{Req, Resp};
use crate::http::{Params, best_match, error_html, streamed, text};
use caelum_rest::HttpService;
use futures_util::future::BoxFuture;
use http::Method;
use std::sync::Arc;
use std::time::Duration;

pub(super) const FORMATS: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];
const XML_START: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// Longest path of container and object in bytes.
const MAX_PATH: usize = caelum_swiftkit::MAX_OBJECT_NAME + caelum_swiftkit::MAX_CONTAINER_NAME + 2;

/// The layer's settings, as `/info` shows them.
#[derive(Clone, Copy, Debug)]
pub struct BulkConfig {
    pub max_containers_per_extraction: usize,
    pub max_failed_extractions: usize,
    pub max_deletes_per_request: usize,
    pub max_failed_deletes: usize,
    /// Between two blanks that keep a slow answer alive.
    pub yield_frequency: Duration,
    pub delete_concurrency: usize,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self {
            max_containers_per_extraction: 10_000,
            max_failed_extractions: 1_000,
            max_deletes_per_request: 10_000,
            max_failed_deletes: 1_000,
            yield_frequency: Duration::from_secs(10),
            delete_concurrency: 2,
        }
    }
}

impl BulkConfig {
    /// The layer's parts of `/info`: `bulk_upload` and `bulk_delete`.
    pub fn info(&self) -> [(&'static str, serde_json::Value); 2] {
        [
            (
                "bulk_upload",
                serde_json::json!({
                    "max_containers_per_extraction": self.max_containers_per_extraction,
                    "max_failed_extractions": self.max_failed_extractions,
                }),
            ),
            (
                "bulk_delete",
                serde_json::json!({
                    "max_deletes_per_request": self.max_deletes_per_request,
                    "max_failed_deletes": self.max_failed_deletes,
                }),
            ),
        ]
    }
}

/// Why the work as a whole was given up.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub text: String,
}

impl Refusal {
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// The layer.
#[derive(Clone)]
pub struct Bulk {
    next: Arc<dyn HttpService>,
    config: BulkConfig,
}

impl Bulk {
    pub fn new(next: Arc<dyn HttpService>, config: BulkConfig) -> Self {
        Self { next, config }
    }

    async fn handle(self, req: Req) -> Resp {
        let params = Params::of(&req);
        if let Some(kind) = params.get("extract-archive").filter(|_| req.method() == Method::PUT) {
            let kind = match kind.to_lowercase().trim_matches('.') {
                "tar" => archive::Packing::None,
                "tar.gz" => archive::Packing::Gzip,
                "tar.bz2" => archive::Packing::Bzip2,
                _ => return error_html(400, "Unsupported archive format"),
            };
            return extract::extract(&self, req, kind);
        }
        if params.has("bulk-delete") && matches!(*req.method(), Method::POST | Method::DELETE) {
            return delete::bulk_delete(&self, req);
        }
        self.next.call(req).await
    }
}

impl HttpService for Bulk {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}

/// The answer's format (`None`: nothing acceptable), how it is kept alive, and the answer itself.
pub(super) fn begin(req: &Req, yield_frequency: Duration) -> (Option<&'static str>, Beat, Resp) {
    let format = best_match(text(req.headers(), "accept"), &FORMATS).ok().flatten();
    let format = format.and_then(|f| FORMATS.iter().copied().find(|k| *k == f));
    let xml = format.is_some_and(|f| f.ends_with("/xml"));
    let (beat, body) = Beat::new(yield_frequency, xml.then_some(XML_START));
    (format, beat, streamed(200, format.unwrap_or("text/html; charset=UTF-8"), body))
}
