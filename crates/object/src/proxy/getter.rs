//! GET and HEAD: the first node that has what is wanted, and another one when it breaks off.

use super::backend::{Core, Node, NodeIter, NodeRequest, Reply, header_time, is_success};
use super::object_body::{Extent, ObjectBody, Proof};
use super::quorum::{best_response, copy_headers, status_code};
use super::several_ranges::{self, Begun};
use crate::env::Resp;
use crate::http::{Ranges, is_true, set, text};
use caelum_rest::Body;
use caelum_swiftkit::{KnownRight, Timestamp, quorum_size};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

/// What kind of server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Account,
    Container,
    Object,
}

/// A node's answer that may be the one.
pub(crate) struct Candidate {
    pub response: Response<Body>,
    pub node: Node,
}

impl Candidate {
    fn timestamp(&self) -> Timestamp {
        let names = ["x-backend-data-timestamp", "x-backend-timestamp", "x-put-timestamp", "x-timestamp"];
        let h = self.response.headers();
        names.iter().find_map(|n| text(h, n)).and_then(Timestamp::parse).unwrap_or_default()
    }
}

/// A GET or HEAD on its way through the nodes.
pub(crate) struct Getter {
    core: Arc<Core>,
    kind: Kind,
    method: Method,
    part: u32,
    entity: String,
    headers: HeaderMap,
    nodes: NodeIter,
    newest: bool,
    concurrency: usize,
    concurrency_timeout: Duration,
    /// Primaries without the thing that do not count yet.
    missing_ignored: usize,
    used: Vec<u32>,
    used_etag: Option<String>,
    latest_404: Timestamp,
    replies: Vec<Reply>,
    candidates: Vec<Candidate>,
}

/// What to ask for.
pub(crate) struct Wanted {
    pub kind: Kind,
    pub method: Method,
    pub part: u32,
    pub entity: String,
    pub headers: HeaderMap,
    /// `None`: accounts and containers.
    pub policy: Option<u32>,
}

impl Getter {
    pub(crate) fn new(core: &Arc<Core>, ring: &Arc<caelum_ring::Ring>, wanted: Wanted) -> Self {
        let options = core.options.policy(wanted.policy);
        let nodes = NodeIter::new(core, ring, wanted.part, options);
        let newest = is_true(&wanted.headers, "x-newest");
        // The newest is known only once all have answered, so all are asked at once.
        let concurrency = if options.concurrent_gets || newest { nodes.n_primaries.max(1) } else { 1 };
        Self {
            core: core.clone(),
            kind: wanted.kind,
            method: wanted.method,
            part: wanted.part,
            entity: wanted.entity,
            headers: wanted.headers,
            newest,
            concurrency,
            concurrency_timeout: if newest { Duration::ZERO } else { options.concurrency_timeout },
            missing_ignored: options.rebalance_missing_suppression_count.min(nodes.n_primaries.saturating_sub(1)),
            nodes,
            used: Vec::new(),
            used_etag: None,
            latest_404: Timestamp::ZERO,
            replies: Vec::new(),
            candidates: Vec::new(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        let o = &self.core.options;
        if self.kind == Kind::Object && !self.newest { o.recoverable_node_timeout } else { o.node_timeout }
    }

    fn is_good(&self, status: u16) -> bool {
        is_success(status) || (300..400).contains(&status) || (self.kind == Kind::Object && status == 416)
    }

    /// Takes a node's answer into account; true when no other is needed.
    async fn take(&mut self, node: Node, response: Response<Body>) -> bool {
        let status = response.status().as_u16();
        let headers = response.headers();
        if self.is_good(status) {
            // A database that was only ever updated, never made, on this node.
            let placeholder = text(headers, "x-put-timestamp").is_some_and(|t| t.parse::<f64>() == Ok(0.0));
            let other = self.used_etag.as_deref().is_some_and(|e| e != etag(headers));
            if placeholder || other {
                self.replies.push(Reply::none(404));
                return false;
            }
            let candidate = Candidate { response, node };
            if self.latest_404 == Timestamp::ZERO || candidate.timestamp() >= self.latest_404 {
                self.candidates.push(candidate);
                return !self.newest;
            }
            return false;
        }
        let deleted = header_time(headers, "x-backend-timestamp") != Timestamp::ZERO;
        if node.is_handoff() && (status >= 500 || status == 404) && !deleted {
            return false;
        }
        if status == 404 && !deleted && self.missing_ignored > 0 {
            self.missing_ignored -= 1;
            return false;
        }
        self.core.check_status(&node, status, &self.method, &self.entity);
        if let Some(reply) = self.core.read(&node, response).await {
            if self.kind == Kind::Object && status == 404 {
                self.latest_404 = self.latest_404.max(reply.timestamp());
            }
            self.replies.push(reply);
        }
        false
    }

    /// One node after another.
    async fn search_in_turn(&mut self) {
        while let Some(node) = self.nodes.next() {
            if self.used.contains(&node.id()) {
                continue;
            }
            let r = NodeRequest { method: &self.method, part: self.part, entity: &self.entity, timeout: self.timeout(), digest: None };
            let Some(response) = self.core.send(&node, &r, self.headers.clone(), caelum_rest::empty()).await else { continue };
            if self.take(node, response).await {
                return;
            }
        }
    }

    /// Several nodes at a time; another one whenever none answers in time.
    async fn search_together(&mut self) {
        let mut running = FuturesUnordered::new();
        loop {
            let node = if running.len() < self.concurrency { self.nodes.next() } else { None };
            let more = node.is_some();
            if let Some(node) = node.filter(|n| !self.used.contains(&n.id())) {
                let (core, method, part, entity) = (self.core.clone(), self.method.clone(), self.part, self.entity.clone());
                let (timeout, headers) = (self.timeout(), self.headers.clone());
                running.push(async move {
                    let r = NodeRequest { method: &method, part, entity: &entity, timeout, digest: None };
                    let response = core.send(&node, &r, headers, caelum_rest::empty()).await;
                    (node, response)
                });
            }
            let answered = if more && running.len() < self.concurrency {
                match tokio::time::timeout(self.concurrency_timeout, running.next()).await {
                    Ok(a) => a,
                    Err(_) => continue,
                }
            } else {
                running.next().await
            };
            match answered {
                Some((node, Some(response))) => {
                    if self.take(node, response).await {
                        return;
                    }
                }
                Some((_, None)) => {}
                None if more => {}
                None => return,
            }
        }
    }

    /// Looks for a node to read from.
    pub(crate) async fn find(&mut self) -> Option<Candidate> {
        self.replies.clear();
        self.candidates.clear();
        if self.concurrency == 1 {
            self.search_in_turn().await;
        } else {
            self.search_together().await;
        }
        let latest_404 = self.latest_404;
        let mut found = std::mem::take(&mut self.candidates);
        if found.len() > 1 || latest_404 != Timestamp::ZERO {
            found.retain(|c| c.timestamp() >= latest_404);
            found.sort_by_key(Candidate::timestamp);
        }
        let best = found.pop()?;
        self.used.push(best.node.id());
        if self.used_etag.is_none() {
            self.used_etag = Some(etag(best.response.headers()));
        }
        Some(best)
    }

    /// Answers the client.
    pub(crate) async fn respond(mut self) -> Resp {
        let Some(found) = self.find().await else {
            let what = format!("{:?} {}", self.kind, self.method);
            return best_response(&self.replies, quorum_size(self.replies.len()), &[], None, &what);
        };
        let policies = self.core.clone();
        let mut resp = if self.has_several_ranges(&found) { self.several_ranges(found).await } else { self.client_response(found) };
        if let Some(index) = text(resp.headers(), "x-backend-storage-policy-index").and_then(|i| i.parse().ok())
            && resp.status().is_success()
            && let Some(policy) = policies.swift.policies.get(index)
            && let Ok(name) = HeaderValue::from_str(&policy.name)
        {
            resp.headers_mut().insert("x-storage-policy", name);
        }
        resp
    }

    fn has_several_ranges(&self, found: &Candidate) -> bool {
        let partial = self.kind == Kind::Object && found.response.status().as_u16() == 206 && !self.newest;
        partial && self.method == Method::GET && several_ranges::boundary_of(found.response.headers()).is_some()
    }

    /// A document of several ranges, from this node or, if it breaks off at once, from another one.
    async fn several_ranges(self, found: Candidate) -> Resp {
        let (mut getter, mut found) = (Box::new(self), found);
        loop {
            if !getter.has_several_ranges(&found) {
                return getter.client_response(found);
            }
            let (head, body) = found.response.into_parts();
            let resp = getter.client_head(&head, None);
            let Some(length) = text(resp.headers(), "content-length").and_then(|l| l.parse().ok()) else { return resp.map(|_| body) };
            match several_ranges::begin(getter, found.node, &head.headers, body, length).await {
                Begun::Body(body) => return resp.map(|_| body),
                Begun::Broken(g) => getter = g,
            }
            match getter.find().await {
                Some(other) => found = other,
                None => return crate::http::error(503),
            }
        }
    }

    /// The ranges that the client wants.
    pub(super) fn ranges(&self) -> Option<Ranges> {
        Ranges::of(&self.headers)
    }

    /// The answer's status and headers. `exact`: the body's length, where its headers do not tell.
    fn client_head(&self, head: &Parts, exact: Option<u64>) -> Resp {
        let mut resp = Response::new(caelum_rest::empty());
        *resp.status_mut() = status_code(head.status.as_u16());
        let out = resp.headers_mut();
        copy_headers(&head.headers, out);
        out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let length = head.headers.get(header::CONTENT_LENGTH).cloned();
        let exact = exact.filter(|_| self.method != Method::HEAD).map(HeaderValue::from);
        if let Some(length) = length.or(exact) {
            out.insert(header::CONTENT_LENGTH, length);
        }
        if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
            out.insert(header::CONTENT_TYPE, content_type.clone());
        }
        resp
    }

    fn client_response(self, found: Candidate) -> Resp {
        let (head, body) = found.response.into_parts();
        let resp = self.client_head(&head, body.size_hint().exact());
        if self.method == Method::HEAD || !matches!(head.status.as_u16(), 200 | 206) {
            return if self.method == Method::HEAD { resp } else { resp.map(|_| body) };
        }
        if self.kind != Kind::Object {
            let timeout = self.timeout();
            let left = text(resp.headers(), "content-length").and_then(|l| l.parse().ok());
            return resp.map(|_| match left {
                // Nothing can be resumed, yet silence must end.
                Some(length) => {
                    let extent = Extent { first: 0, length, proof: Proof::None };
                    ObjectBody::new(body, found.node, &extent, None, timeout).boxed_unsync()
                }
                None => body,
            });
        }
        resp.map(|_| self.object_body(&head, found.node, body))
    }

    fn object_body(self, head: &Parts, node: Node, body: Body) -> Body {
        let length = text(&head.headers, "content-length").and_then(|l| l.parse::<u64>().ok());
        let range = text(&head.headers, "content-range").and_then(parse_content_range);
        let proof = if head.extensions.get::<KnownRight>().is_some() { Proof::KnownRight } else { Proof::AtEnd };
        let extent = match (head.status.as_u16(), range, length) {
            (200, _, Some(length)) => Extent { first: 0, length, proof },
            (206, Some((0, _, size)), Some(length)) if length == size => Extent { first: 0, length, proof },
            (206, Some((first, ..)), Some(length)) => Extent { first, length, proof: Proof::None },
            // Without a known place in the object nothing can be resumed.
            _ => return body,
        };
        let timeout = self.timeout();
        let resumable = (!self.newest).then(|| Box::new(self));
        ObjectBody::new(body, node, &extent, resumable, timeout).boxed_unsync()
    }

    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    pub(super) fn failed(&self, node: &Node, what: &str, error: &str) {
        self.core.failed(node, what, error);
    }
}

fn etag(headers: &HeaderMap) -> String {
    text(headers, "etag").map(|e| e.trim_matches('"').to_string()).unwrap_or_default()
}

/// First byte, last byte, length of `bytes 0-9/100`.
pub(crate) fn parse_content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, length) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, length.parse().ok()?))
}

pub(crate) fn set_last_modified(headers: &mut HeaderMap, t: Timestamp) {
    set(headers, "last-modified", crate::http::http_date(t.ceil_seconds()));
}
