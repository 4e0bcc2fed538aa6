//! Deleting a list of objects and empty containers.

use super::{Bulk, MAX_PATH, Refusal, begin};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{BodyReader, Origin, drain, report, split_path, status_line, text};
use async_trait::async_trait;
use caelum_rest::HttpService;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use serde_json::Map;
use std::sync::Arc;

const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Percent-encoding of a name that need not be UTF-8.
pub(super) fn quote_bytes(name: &[u8]) -> String {
    percent_encode(name, KEEP).to_string()
}

/// One thing to delete.
pub(in crate::middleware) struct Target {
    /// `container` or `container/object`, decoded, perhaps with a slash before it. Need not be UTF-8.
    pub name: Vec<u8>,
    pub version_id: Option<String>,
    /// Known already to fail: status and text.
    pub error: Option<(u16, String)>,
}

/// Where the names come from.
#[async_trait]
pub(in crate::middleware) trait Targets: Send {
    async fn next(&mut self) -> Result<Option<Target>, Refusal>;
}

struct List(std::vec::IntoIter<Vec<u8>>);

#[async_trait]
impl Targets for List {
    async fn next(&mut self) -> Result<Option<Target>, Refusal> {
        Ok(self.0.next().map(|name| Target { name, version_id: None, error: None }))
    }
}

/// Deletes and keeps count.
pub(in crate::middleware) struct Deleter {
    pub next: Arc<dyn HttpService>,
    pub origin: Origin,
    pub path: SwiftPath,
    pub source: &'static str,
    pub agent: &'static str,
    pub concurrency: usize,
    pub max_failed: usize,
    pub deleted: u64,
    pub not_found: u64,
    pub failed: Vec<(String, String)>,
    pub gateway: bool,
}

impl Deleter {
    pub fn new(next: Arc<dyn HttpService>, origin: Origin, path: SwiftPath, source: &'static str, agent: &'static str) -> Self {
        Self {
            next,
            origin,
            path,
            source,
            agent,
            concurrency: 2,
            max_failed: 1_000,
            deleted: 0,
            not_found: 0,
            failed: Vec::new(),
            gateway: false,
        }
    }

    /// What needs no request: `None` when one is needed.
    fn settle(&mut self, target: &Target) -> Option<()> {
        if target.name.is_empty() {
            return Some(());
        }
        if let Some((status, why)) = &target.error {
            if *status == 404 {
                self.not_found += 1;
            } else {
                self.failed.push((quote_bytes(&target.name), why.clone()));
            }
            return Some(());
        }
        if target.name.contains(&0) || std::str::from_utf8(&target.name).is_err() {
            self.failed.push((quote_bytes(&target.name), status_line(412)));
            return Some(());
        }
        None
    }

    async fn one(next: Arc<dyn HttpService>, req: Req, name: Vec<u8>) -> (u16, Vec<u8>) {
        let resp = next.call(req).await;
        let status = resp.status().as_u16();
        drain(resp.into_body()).await;
        (status, name)
    }

    fn request(&self, target: &Target) -> Req {
        let name = String::from_utf8_lossy(&target.name);
        let account = SwiftPath { container: None, object: None, ..self.path.clone() }.encode();
        let mut path = format!("{account}/{}", crate::env::quote(name.trim_start_matches('/')));
        if let Some(version) = &target.version_id {
            path.push_str(&format!("?version-id={}", crate::env::quote(version)));
        }
        self.origin.request(Method::DELETE, &path, self.source, self.agent)
    }

    fn count(&mut self, status: u16, name: &[u8]) {
        match status {
            200..=299 => self.deleted += 1,
            404 => self.not_found += 1,
            _ => {
                self.gateway |= status >= 500;
                self.failed.push((quote_bytes(name), status_line(status)));
            }
        }
    }

    /// Deletes all that `targets` yields. Errors: what `targets` refuses with; too many failures.
    pub async fn run(&mut self, targets: &mut dyn Targets) -> Result<(), Refusal> {
        let mut running = FuturesUnordered::new();
        let (mut more, mut refusal) = (true, None);
        loop {
            while more && running.len() < self.concurrency.max(1) && self.failed.len() < self.max_failed {
                match targets.next().await {
                    Ok(Some(t)) => {
                        if self.settle(&t).is_none() {
                            running.push(Self::one(self.next.clone(), self.request(&t), t.name));
                        }
                    }
                    Ok(None) => more = false,
                    Err(r) => {
                        refusal = Some(r);
                        more = false;
                    }
                }
            }
            match running.next().await {
                Some((status, name)) => self.count(status, &name),
                None if more && self.failed.len() < self.max_failed => {}
                None => break,
            }
        }
        if let Some(r) = refusal {
            return Err(r);
        }
        if self.failed.len() >= self.max_failed {
            return Err(Refusal::new(400, "Max delete failures exceeded"));
        }
        Ok(())
    }

    /// The answer's text.
    pub fn report(&self, format: Option<&str>, outcome: Result<(), Refusal>) -> String {
        let (status, text) = match outcome {
            Err(r) => (r.status, r.text),
            Ok(()) if !self.failed.is_empty() => (if self.gateway { 502 } else { 400 }, String::new()),
            Ok(()) if self.deleted == 0 && self.not_found == 0 => (400, "Invalid bulk delete.".into()),
            Ok(()) => (200, String::new()),
        };
        let mut facts = Map::new();
        facts.insert("Response Status".into(), status_line(status).into());
        facts.insert("Response Body".into(), text.into());
        facts.insert("Number Deleted".into(), self.deleted.into());
        facts.insert("Number Not Found".into(), self.not_found.into());
        report(format.unwrap_or_default(), &facts, &self.failed, "delete")
    }
}

/// Whether a content type is one that a list may have.
fn list_type(req: &Req) -> bool {
    text(req.headers(), "content-type").is_none_or(|t| t.is_empty() || t.starts_with("text/plain"))
}

async fn read_names(req: Req, max: usize) -> Result<Vec<Vec<u8>>, Refusal> {
    let h = req.headers();
    let chunked = text(h, "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked"));
    if text(h, "content-length").is_none() && !chunked {
        return Err(Refusal::new(411, ""));
    }
    let mut body = BodyReader::new(req.into_body());
    let mut out = Vec::new();
    loop {
        let line = body.line(MAX_PATH * 2).await.map_err(|_| Refusal::new(499, ""))?;
        let Some(line) = line else { return Ok(out) };
        if line.len() > MAX_PATH * 2 {
            return Err(Refusal::new(400, "Invalid File Name"));
        }
        let name: Vec<u8> = percent_decode(line.trim_ascii()).collect();
        // Empty lines count: a body of nothing but line ends is no way around the limit.
        out.push(name);
        if out.len() > max {
            return Err(Refusal::new(413, format!("Maximum Bulk Deletes: {max} per request")));
        }
    }
}

async fn delete_list(bulk: &Bulk, req: Req, path: Option<SwiftPath>, deleter: &mut Deleter, acceptable: bool) -> Result<(), Refusal> {
    if !acceptable {
        return Err(Refusal::new(406, ""));
    }
    if path.is_none() {
        return Err(Refusal::new(404, ""));
    }
    if !list_type(&req) {
        return Err(Refusal::new(406, ""));
    }
    let names = read_names(req, bulk.config.max_deletes_per_request).await?;
    let is_object = |n: &Vec<u8>| {
        let start = n.iter().position(|b| *b != b'/').unwrap_or(n.len());
        let end = n.iter().rposition(|b| *b != b'/').map_or(start, |e| e + 1);
        n[start..end].contains(&b'/')
    };
    let (objects, containers): (Vec<_>, Vec<_>) = names.into_iter().partition(is_object);
    // Containers are deleted when everything in them is gone.
    deleter.run(&mut List(objects.into_iter())).await?;
    deleter.run(&mut List(containers.into_iter())).await
}

pub(super) fn bulk_delete(bulk: &Bulk, req: Req) -> Resp {
    let (format, mut beat, resp) = begin(&req, bulk.config.yield_frequency);
    let (bulk, path) = (bulk.clone(), split_path(&req));
    tokio::spawn(async move {
        let somewhere = SwiftPath { version: "v1".into(), account: String::new(), container: None, object: None };
        let base = path.clone().unwrap_or(somewhere);
        let mut deleter = Deleter::new(bulk.next.clone(), Origin::of(&req).with_token_of(&req), base, "BD", "BulkDelete");
        deleter.concurrency = bulk.config.delete_concurrency;
        deleter.max_failed = bulk.config.max_failed_deletes;
        let outcome = beat.during(delete_list(&bulk, req, path, &mut deleter, format.is_some())).await;
        if let Some(outcome) = outcome {
            beat.finish(deleter.report(format, outcome)).await;
        }
    });
    resp
}
