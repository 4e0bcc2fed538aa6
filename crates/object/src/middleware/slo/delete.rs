//! Deleting a large object with its segments.

use super::manifest::MAX_STORED;
use super::{Inner, Slo};
use crate::env::{Req, Resp, SwiftPath, quote};
use crate::http::{Origin, Params, drain, error, error_html, is_true, read_all, set};
use crate::middleware::bulk::delete::{Deleter, Target, Targets};
use crate::middleware::bulk::{Refusal, begin};
use crate::middleware::common::{MD5_OF_NOTHING, allow_reserved, append_csv, container_path};
use crate::proxy::info::container_info;
use async_trait::async_trait;
use caelum_swiftkit::Timestamp;
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The expirer's queue: containers of a day, and how many of them.
const QUEUE_DIVISOR: u64 = 86_400;
const QUEUE_PER_DAY: u128 = 100;

/// A manifest's segments as they are stored.
///
/// Errors: 404, 401, 400 for an object that is no manifest, 500.
async fn segments(slo: &Inner, origin: &Origin, path: &SwiftPath, name: &str, version: Option<&str>) -> Result<Vec<Value>, Refusal> {
    let mut target = format!("/{}/{}/{}?multipart-manifest=get", path.version, quote(&path.account), quote(name.trim_start_matches('/')));
    if let Some(v) = version {
        target.push_str(&format!("&version-id={}", quote(v)));
    }
    let mut req = origin.request(Method::GET, &target, "SLO", "MultipartDELETE");
    // Of an object that is no manifest one byte is enough.
    set(req.headers_mut(), "range", "bytes=-1");
    append_csv(req.headers_mut(), "x-backend-ignore-range-if-metadata-present", "X-Static-Large-Object");
    let resp = slo.next.call(req).await;
    let (status, manifest) = (resp.status().as_u16(), is_true(resp.headers(), "x-static-large-object"));
    match status {
        200..=299 if manifest => {
            let body = read_all(resp.into_body(), MAX_STORED).await.unwrap_or_default();
            serde_json::from_slice(&body).map_err(|_| Refusal::new(500, "Unable to load SLO manifest"))
        }
        other => {
            drain(resp.into_body()).await;
            Err(match other {
                200..=299 => Refusal::new(400, "Not an SLO manifest"),
                404 => Refusal::new(404, "SLO manifest not found"),
                401 => Refusal::new(401, "401 Unauthorized"),
                _ => Refusal::new(500, "Unable to load SLO manifest or segment."),
            })
        }
    }
}

struct Pending {
    name: String,
    manifest: bool,
    version: Option<String>,
    error: Option<(u16, String)>,
}

/// Segments first, then the manifest that names them.
struct Tree {
    slo: Arc<Inner>,
    origin: Origin,
    path: SwiftPath,
    version: Option<String>,
    queue: VecDeque<Pending>,
}

#[async_trait]
impl Targets for Tree {
    async fn next(&mut self) -> Result<Option<Target>, Refusal> {
        loop {
            // Ten times what one manifest may name: a tree of manifests does not fill the memory.
            if self.queue.len() > self.slo.config.max_manifest_segments * 10 {
                return Err(Refusal::new(400, "Too many buffered slo segments to delete."));
            }
            let Some(mut item) = self.queue.pop_front() else { return Ok(None) };
            if !item.manifest {
                return Ok(Some(Target { name: item.name.into_bytes(), version_id: item.version, error: item.error }));
            }
            match segments(&self.slo, &self.origin, &self.path, &item.name, self.version.as_deref()).await {
                Ok(list) => self.queue.extend(list.iter().filter_map(pending)),
                Err(r) => item.error = Some((r.status, r.text)),
            }
            item.manifest = false;
            self.queue.push_back(item);
        }
    }
}

fn is_manifest(segment: &Value) -> bool {
    match segment.get("sub_slo") {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => !s.is_empty(),
        _ => false,
    }
}

fn pending(segment: &Value) -> Option<Pending> {
    let name = segment.get("name")?.as_str()?.to_string();
    Some(Pending { name, manifest: is_manifest(segment), version: None, error: None })
}

pub(super) async fn delete(slo: &Slo, req: Req, path: &SwiftPath, container: &str, object: &str) -> Resp {
    let params = Params::of(&req);
    if container.contains('\0') || object.contains('\0') {
        return error_html(412, "Invalid UTF8 or contains NULL");
    }
    if slo.0.config.allow_async_delete && params.is_true("async") {
        return delete_later(slo, req, path, container, object).await.unwrap_or_else(|r| r);
    }
    let (format, mut beat, resp) = begin(&req, slo.0.config.yield_frequency);
    let origin = Origin::of(&req);
    let version = params.get("version-id").map(str::to_string);
    let first = Pending { name: format!("/{container}/{object}"), manifest: true, version: version.clone(), error: None };
    let mut tree = Tree { slo: slo.0.clone(), origin: origin.clone(), path: path.clone(), version, queue: [first].into() };
    let mut deleter = Deleter::new(slo.0.next.clone(), origin, path.clone(), "SLO", "MultipartDELETE");
    deleter.concurrency = slo.0.config.concurrency;
    tokio::spawn(async move {
        let work = async {
            match format {
                None => Err(Refusal::new(406, "")),
                Some(_) => deleter.run(&mut tree).await,
            }
        };
        if let Some(outcome) = beat.during(work).await {
            beat.finish(deleter.report(format, outcome)).await;
        }
    });
    resp
}

/// The names of segments by container, when they may be deleted later: all in one container and none a manifest.
fn one_container(segments: &[Value]) -> Result<Option<(String, Vec<String>)>, Resp> {
    let names = segments.iter().filter(|s| s.get("data").is_none()).filter_map(|s| s.get("name")?.as_str());
    let split: Vec<(&str, &str)> = names.filter_map(|n| n.trim_start_matches('/').split_once('/')).collect();
    let containers: BTreeSet<&str> = split.iter().map(|(c, _)| *c).collect();
    if containers.len() > 1 {
        let list: Vec<String> = containers.iter().map(|c| format!("\"{}\"", quote(c))).collect();
        return Err(error_html(400, format!("All segments must be in one container. Found segments in {}", list.join(", "))));
    }
    if segments.iter().any(is_manifest) {
        return Err(error_html(400, "No segments may be large objects."));
    }
    let objects = split.iter().map(|(_, o)| (*o).to_string()).collect();
    Ok(containers.first().map(|c| ((*c).to_string(), objects)))
}

/// Hands the segments to the expirer and deletes the manifest.
async fn delete_later(slo: &Slo, mut req: Req, path: &SwiftPath, container: &str, object: &str) -> Result<Resp, Resp> {
    let origin = Origin::of(&req);
    let name = format!("/{container}/{object}");
    let version = Params::of(&req).get("version-id").map(str::to_string);
    let list = segments(&slo.0, &origin, path, &name, version.as_deref()).await;
    let list = list.map_err(|r| error_html(r.status, r.text))?;
    let Some((from, objects)) = one_container(&list)? else { return Ok(slo.0.next.call(req).await) };
    let environ = origin.environ.clone().ok_or_else(|| error(403))?;
    if let Some(authorizer) = environ.authorizer.clone() {
        let here = path.encode();
        let mut asked = vec![(container, here)];
        if from != container {
            asked.push((&from, container_path(&path.version, &path.account, &from)));
        }
        for (name, path_asked) in asked {
            let info = container_info(&*slo.0.info, &environ, &path.account, name).await;
            if let Some(refusal) = authorizer.authorize(req.method(), &path_asked, &environ, info.write_acl.as_deref()).await {
                return Err(refusal);
            }
        }
    }
    let sent = crate::http::text(req.headers(), "x-timestamp").and_then(Timestamp::parse);
    let at = sent.unwrap_or_else(|| Timestamp::at(slo.0.env.now()));
    set(req.headers_mut(), "x-timestamp", at.internal());
    let jobs: Vec<Value> = objects
        .iter()
        .map(|o| {
            json!({
                "name": format!("{}-{}/{from}/{o}", at.normal(), path.account),
                "deleted": 0,
                "created_at": at.internal(),
                "etag": MD5_OF_NOTHING,
                "size": 0,
                "storage_policy_index": 0,
                "content_type": "application/async-deleted",
            })
        })
        .collect();
    let body = Value::Array(jobs).to_string();
    let queue = format!("/v1/.expiring_objects/{}", queue_container(slo, at, path, container, object));
    let method = Method::from_bytes(b"UPDATE").map_err(|_| error(500))?;
    let mut update = origin.preauthorized("SLO").request_with(method, &queue, "SLO", "", caelum_rest::full(body.clone()));
    allow_reserved(&mut update);
    let h = update.headers_mut();
    set(h, "content-type", "application/json");
    set(h, "content-length", body.len().to_string());
    set(h, "x-backend-storage-policy-index", "0");
    set(h, "x-backend-allow-private-methods", "True");
    let resp = slo.0.next.call(update).await;
    if !resp.status().is_success() {
        tracing::error!(status = resp.status().as_u16(), "cannot queue segments for deletion");
        return Err(error(503));
    }
    drain(resp.into_body()).await;
    Ok(slo.0.next.call(req).await)
}

/// The queue's container: the day's start, less a number that spreads objects over a hundred of them.
fn queue_container(slo: &Slo, at: Timestamp, path: &SwiftPath, container: &str, object: &str) -> String {
    let hash = u128::from_be_bytes(slo.0.hash.object(&path.account, container, object));
    let spread = u64::try_from(hash % QUEUE_PER_DAY).unwrap_or(0);
    format!("{:010}", (at.seconds() / QUEUE_DIVISOR * QUEUE_DIVISOR).saturating_sub(spread))
}
