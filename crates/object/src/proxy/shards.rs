//! Sharded containers: which shard an object's row belongs to, and listings put together from shards.
//! Source: Swift's documentation, `overview_container_sharding`.

use super::backend::Core;
use super::getter::{Getter, Kind, Wanted};
use super::info::ContainerInfo;
use super::request::{Rq, own_headers};
use crate::env::{Environ, Resp, quote};
use crate::http::{Params, error, is_true_text, respond, set, text};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;

/// Largest listing or list of shards read.
const MAX_LISTING: usize = 64 << 20;
/// Shards of shards at most.
const MAX_DEPTH: usize = 8;

/// The part of a container's names that a shard holds: above `lower`, up to and including `upper`; empty
/// bounds are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub account: String,
    pub container: String,
    pub lower: String,
    pub upper: String,
}

impl Namespace {
    fn parse(v: &Value) -> Option<Self> {
        let field = |n: &str| v.get(n).and_then(Value::as_str);
        let (account, container) = field("name")?.split_once('/')?;
        let (lower, upper) = (field("lower")?.to_string(), field("upper")?.to_string());
        if !upper.is_empty() && upper < lower {
            return None;
        }
        Some(Self { account: account.into(), container: container.into(), lower, upper })
    }

    fn contains(&self, name: &str) -> bool {
        !name.is_empty() && *self.lower < *name && (self.upper.is_empty() || *name <= *self.upper)
    }

    fn ends_before(&self, name: &str) -> bool {
        !self.upper.is_empty() && *self.upper < *name
    }

    fn begins_at_or_after(&self, name: &str) -> bool {
        !self.lower.is_empty() && *self.lower >= *name
    }
}

/// The shards of a list without those that overlap one before: children come before the parent that is
/// being split into them.
fn compact(all: Vec<Namespace>) -> Vec<Namespace> {
    let mut out: Vec<Namespace> = Vec::with_capacity(all.len());
    for ns in all {
        let overlaps = out.last().is_some_and(|last| last.upper.is_empty() || ns.lower < last.upper);
        if !overlaps {
            out.push(ns);
        }
    }
    out
}

/// The shard for a name: the last that begins below it, so that gaps belong to the shard before them.
fn find<'a>(all: &'a [Namespace], name: &str) -> Option<&'a Namespace> {
    let after = all.partition_point(|ns| *ns.lower < *name);
    all.get(after.saturating_sub(1))
}

fn parse_namespaces(resp: &Resp, body: &[u8]) -> Option<Vec<Namespace>> {
    if !text(resp.headers(), "x-backend-record-type").is_some_and(|t| t.eq_ignore_ascii_case("shard")) {
        return None;
    }
    let rows: Vec<Value> = serde_json::from_slice(body).ok()?;
    rows.iter().map(Namespace::parse).collect()
}

/// A listing in the making: where it has been.
struct Walk<'a> {
    environ: &'a Environ,
    /// What the client sent, for subrequests.
    headers: &'a HeaderMap,
    history: Vec<(String, String)>,
}

impl Core {
    async fn container_get(self: &Arc<Self>, account: &str, container: &str, params: &Params, headers: HeaderMap) -> Resp {
        let ring = self.rings.container();
        let part = ring.partition(&self.swift.hash.container(account, container));
        let entity = format!("/{}/{}?{}", quote(account), quote(container), params.encode());
        Getter::new(self, &ring, Wanted { kind: Kind::Container, method: Method::GET, part, entity, headers, policy: None }).respond().await
    }

    /// The shard that an object's row goes to. `None`: the container itself.
    pub(crate) async fn update_shard(self: &Arc<Self>, rq: &Rq, info: &ContainerInfo) -> Option<Namespace> {
        if !matches!(info.sharding_state.as_str(), "sharding" | "sharded") {
            return None;
        }
        let key = super::state::container_key(&rq.account, rq.container());
        let known = self.infos.updating.get(&key);
        let shards = match known {
            Some(shards) => shards,
            None => {
                let shards = Arc::new(self.updating_shards(rq).await?);
                self.infos.updating.set(&key, shards.clone(), self.options.recheck_updating_shard_ranges);
                shards
            }
        };
        find(&shards, rq.object()).cloned()
    }

    async fn updating_shards(self: &Arc<Self>, rq: &Rq) -> Option<Vec<Namespace>> {
        let mut headers = own_headers(self, &rq.environ);
        set(&mut headers, "x-backend-record-type", "shard");
        set(&mut headers, "x-backend-record-shard-format", "namespace");
        let params = Params::parse(Some("format=json&states=updating"));
        let resp = self.container_get(&rq.account, rq.container(), &params, headers).await;
        if !resp.status().is_success() {
            tracing::warn!(status = resp.status().as_u16(), "shards of a container could not be read");
            return None;
        }
        let (head, body) = resp.into_parts();
        let body = crate::http::read_all(body, MAX_LISTING).await?;
        let shards = compact(parse_namespaces(&Resp::from_parts(head, caelum_rest::empty()), &body)?);
        (!shards.is_empty()).then_some(shards)
    }

    /// A listing for a client, from the container or from its shards.
    pub(crate) async fn container_listing(self: &Arc<Self>, rq: &Rq) -> Resp {
        let mut params = Params::parse(rq.parts.uri.query());
        params.set("format", "json");
        let mut headers = rq.forwarded_headers();
        let record = text(&headers, "x-backend-record-type").map(str::to_ascii_lowercase);
        if matches!(record.as_deref(), Some("object" | "shard")) {
            return self.container_from_servers(rq, &params.encode(), headers).await;
        }
        headers.remove("x-backend-record-type");
        let mut walk = Walk { environ: &rq.environ, headers: &headers, history: Vec::new() };
        let mut resp = self.listing(&mut walk, &rq.account, rq.container(), params, None, false).await;
        resp.headers_mut().remove("x-backend-record-type");
        resp.headers_mut().remove("x-backend-record-shard-format");
        resp
    }

    /// Asks a container for objects or shards, whichever it has.
    fn listing<'a>(
        self: &'a Arc<Self>,
        walk: &'a mut Walk<'_>,
        account: &'a str,
        container: &'a str,
        mut params: Params,
        policy: Option<&'a str>,
        objects_only: bool,
    ) -> BoxFuture<'a, Resp> {
        Box::pin(async move {
            let mut headers = walk.headers.clone();
            if walk.history.is_empty() {
                set(&mut headers, "x-trans-id", &walk.environ.trans_id);
            } else {
                set(&mut headers, "x-backend-allow-reserved-names", "true");
            }
            if let Some(policy) = policy {
                set(&mut headers, "x-backend-storage-policy-index", policy);
            }
            set(&mut headers, "x-backend-record-type", if objects_only { "object" } else { "auto" });
            set(&mut headers, "x-backend-record-shard-format", "namespace");
            set(&mut headers, "x-backend-include-deleted", "false");
            let own = params.clone();
            params.set("states", "listing");
            let resp = self.container_get(account, container, &params, headers).await;
            let shards = text(resp.headers(), "x-backend-record-type").is_some_and(|t| t.eq_ignore_ascii_case("shard"));
            if objects_only || !shards || !resp.status().is_success() {
                return resp;
            }
            let (head, body) = resp.into_parts();
            let body = crate::http::read_all(body, MAX_LISTING).await;
            let root = Resp::from_parts(head, caelum_rest::empty());
            match body.and_then(|b| parse_namespaces(&root, &b)) {
                Some(shards) if walk.history.len() < MAX_DEPTH => {
                    walk.history.push((account.to_string(), container.to_string()));
                    let resp = self.from_shards(walk, root, shards, own, policy).await;
                    walk.history.pop();
                    resp
                }
                _ => error(503),
            }
        })
    }

    /// Puts a listing together from shards.
    async fn from_shards(
        self: &Arc<Self>,
        walk: &mut Walk<'_>,
        mut resp: Resp,
        shards: Vec<Namespace>,
        mut params: Params,
        policy: Option<&str>,
    ) -> Resp {
        let own_policy = text(resp.headers(), "x-backend-storage-policy-index").unwrap_or("0").to_string();
        let policy = policy.map_or(own_policy, str::to_string);
        let get = |n: &str| params.get(n).filter(|v| !v.is_empty()).map(str::to_string);
        let (marker, end_marker, prefix) = (get("marker"), get("end_marker"), get("prefix"));
        let reverse = params.get("reverse").is_some_and(is_true_text);
        let most = self.options.limits.container_listing_limit;
        let limit = get("limit").and_then(|l| l.parse().ok()).unwrap_or(most).min(most);
        let constrained = ["marker", "end_marker", "path", "prefix", "delimiter"].iter().any(|n| get(n).is_some());
        let mut objects: Vec<Value> = Vec::new();
        for shard in &shards {
            let last = objects.last().map(|o| last_name(o).to_string());
            let last_is_subdir = objects.last().is_some_and(|o| o.get("subdir").is_some());
            if prefix.as_deref().is_some_and(|p| shard.ends_before(p) || past(p).is_some_and(|p| shard.begins_at_or_after(&p))) {
                continue;
            }
            let edge = if reverse { &shard.lower } else { &shard.upper };
            if let Some(last) = last.as_deref().filter(|l| last_is_subdir && edge.starts_with(l)) {
                tracing::debug!(last, "a shard holds only names of a directory already listed");
                continue;
            }
            params.set("limit", (limit - objects.len()).to_string());
            params.set("marker", last.or_else(|| marker.clone()).unwrap_or_default());
            let end = match &end_marker {
                Some(e) if shard.contains(e) => e.clone(),
                _ if reverse => shard.lower.clone(),
                _ if shard.upper.is_empty() => String::new(),
                // The bound itself belongs to the shard, and an end marker is not listed.
                _ => format!("{}\0", shard.upper),
            };
            params.set("end_marker", end);
            let again = walk.history.iter().any(|(a, c)| *a == shard.account && *c == shard.container);
            let part = self.listing(walk, &shard.account, &shard.container, params.clone(), Some(&policy), again).await;
            let found = match shard_objects(part, &policy).await {
                Some(found) => found,
                None => return error(503),
            };
            objects.extend(found);
            let last = objects.last().map(last_name).unwrap_or_default();
            let beyond = |e: &str| if reverse { *e >= *last } else { *e <= *last };
            if objects.len() >= limit || (!objects.is_empty() && end_marker.as_deref().is_some_and(beyond)) {
                break;
            }
        }
        set(resp.headers_mut(), "x-backend-record-storage-policy-index", &policy);
        if !constrained && objects.len() < limit {
            // The listing is whole, and newer than what the container has been told of its shards.
            let bytes: u64 = objects.iter().filter_map(|o| o.get("bytes").and_then(Value::as_u64)).sum();
            set(resp.headers_mut(), "x-container-object-count", objects.len().to_string());
            set(resp.headers_mut(), "x-container-bytes-used", bytes.to_string());
        }
        let mut out = respond(200, "application/json; charset=utf-8", Value::Array(objects).to_string());
        for (name, value) in resp.headers() {
            if !super::quorum::is_hop(name) {
                out.headers_mut().insert(name.clone(), value.clone());
            }
        }
        out
    }
}

fn last_name(row: &Value) -> &str {
    row.get("name").or_else(|| row.get("subdir")).and_then(Value::as_str).unwrap_or_default()
}

/// The first text after all that begin with `prefix`.
fn past(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    let last = chars.pop()?;
    chars.push(char::from_u32(u32::from(last) + 1)?);
    Some(chars.into_iter().collect())
}

/// A shard's rows; `None` when it failed or holds another policy's objects.
async fn shard_objects(part: Resp, policy: &str) -> Option<Vec<Value>> {
    let h = part.headers();
    let of = text(h, "x-backend-record-storage-policy-index").or_else(|| text(h, "x-backend-storage-policy-index"));
    if !part.status().is_success() || of.is_some_and(|p| p != policy) {
        tracing::error!(status = part.status().as_u16(), "a shard's listing cannot be used");
        return None;
    }
    if part.status().as_u16() == 204 {
        return Some(Vec::new());
    }
    let body = crate::http::read_all(part.into_body(), MAX_LISTING).await?;
    serde_json::from_slice(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(name: &str, lower: &str, upper: &str) -> Namespace {
        Namespace { account: ".shards_a".into(), container: name.into(), lower: lower.into(), upper: upper.into() }
    }

    #[test]
    fn shards_of_names() {
        let all = compact(vec![ns("1", "", "b"), ns("2", "b", "d"), ns("p", "", "d"), ns("3", "f", "")]);
        assert_eq!(all.iter().map(|n| n.container.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
        for (name, shard) in [("a", "1"), ("b", "1"), ("b\0", "2"), ("d", "2"), ("e", "2"), ("f", "2"), ("g", "3"), ("ü", "3")] {
            assert_eq!(find(&all, name).unwrap().container, shard, "{name}");
        }
        assert_eq!(find(&[], "a"), None);
        assert_eq!(past("ab").as_deref(), Some("ac"));
        assert_eq!(past("\u{d7ff}"), None);
        assert_eq!(Namespace::parse(&serde_json::json!({"name": "x", "lower": "", "upper": ""})), None);
        assert_eq!(Namespace::parse(&serde_json::json!({"name": "a/c", "lower": "b", "upper": "a"})), None);
    }
}
