//! Several nodes' answers become one.

use super::backend::{Core, NodeIter, NodeRequest, Reply, SharedNodes, next_node};
use crate::env::Resp;
use crate::http::{error, error_html, set};
use bytes::Bytes;
use caelum_swiftkit::{UploadDigest, quorum_size};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whether enough of the answers are of one kind to decide.
pub(crate) fn have_quorum(statuses: &[u16], quorum: usize) -> bool {
    (1..=4).any(|hundred| statuses.iter().filter(|s| *s / 100 == hundred).count() >= quorum)
}

/// Headers of a node's answer that the client gets.
pub(crate) fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if is_hop(name) {
            continue;
        }
        if name == header::ETAG && value.as_bytes().contains(&b'"') {
            let plain: Vec<u8> = value.as_bytes().iter().copied().filter(|b| *b != b'"').collect();
            if let Ok(v) = HeaderValue::from_bytes(&plain) {
                to.insert(header::ETAG, v);
            }
        } else {
            to.insert(name.clone(), value.clone());
        }
    }
}

/// Headers between proxy and node, or set anew for the client.
pub(crate) fn is_hop(name: &HeaderName) -> bool {
    *name == header::DATE
        || *name == header::CONTENT_LENGTH
        || *name == header::CONTENT_TYPE
        || *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || name == "keep-alive"
        || name == "x-put-timestamp"
        || name == "x-delete-after"
}

/// The answer that `quorum` nodes agree on: of the largest status among them.
fn agreed(replies: &[Reply], quorum: usize, avoid: &[usize], etag: Option<&str>) -> Option<Resp> {
    for hundred in 2..=4 {
        let same = || replies.iter().enumerate().filter(move |(_, r)| r.status / 100 == hundred);
        if same().count() < quorum.max(1) {
            continue;
        }
        // Of several with the largest status the first, as upstream.
        let best = same().filter(|(i, _)| !avoid.contains(i)).fold(None::<&Reply>, |best, (_, r)| match best {
            Some(b) if b.status >= r.status => Some(b),
            _ => Some(r),
        });
        let Some(best) = best else { continue };
        let mut resp = error_html(best.status, best.body.clone());
        copy_headers(&best.headers, resp.headers_mut());
        if let Some(etag) = etag {
            set(resp.headers_mut(), "etag", etag);
        }
        return Some(resp);
    }
    None
}

/// One answer from several. `overrides` count as another status when nothing is agreed otherwise.
pub(crate) fn best_response(replies: &[Reply], quorum: usize, overrides: &[(u16, u16)], etag: Option<&str>, what: &str) -> Resp {
    if let Some(resp) = agreed(replies, quorum, &[], etag) {
        return resp;
    }
    if !overrides.is_empty() {
        let mut avoid = Vec::new();
        let mut changed = replies.to_vec();
        for (i, r) in changed.iter_mut().enumerate() {
            if let Some((_, to)) = overrides.iter().find(|(from, _)| *from == r.status) {
                avoid.push(i);
                *r = Reply::none(*to);
            }
        }
        if let Some(resp) = agreed(&changed, quorum, &avoid, etag) {
            return resp;
        }
    }
    let statuses: Vec<u16> = replies.iter().map(|r| r.status).collect();
    tracing::error!(?statuses, "{what}: no quorum, answering 503");
    error(503)
}

/// A request to several nodes at once.
pub(crate) struct ToNodes {
    pub core: Arc<Core>,
    pub method: Method,
    pub part: u32,
    pub entity: String,
    /// One request for each; as many nodes are asked.
    pub headers: Vec<HeaderMap>,
    pub body: Bytes,
    /// Of an object that is sent.
    pub digest: Option<UploadDigest>,
}

impl ToNodes {
    /// Sends one request after another until a node answers with something that is not a failure of its
    /// own.
    async fn one(&self, nodes: &SharedNodes, headers: &HeaderMap) -> Option<Reply> {
        let r = NodeRequest {
            method: &self.method,
            part: self.part,
            entity: &self.entity,
            timeout: self.core.options.node_timeout,
            digest: self.digest.as_ref(),
        };
        while let Some(node) = next_node(nodes) {
            let body = if self.body.is_empty() { caelum_rest::empty() } else { caelum_rest::full(self.body.clone()) };
            let Some(response) = self.core.send(&node, &r, headers.clone(), body).await else { continue };
            let status = response.status().as_u16();
            if self.core.check_status(&node, status, &self.method, &self.entity)
                && status >= 200
                && let Some(reply) = self.core.read(&node, response).await
            {
                return Some(reply);
            }
        }
        None
    }

    /// Asks nodes until `node_count` have answered, or `decided` says that no more answers are needed;
    /// then late ones get a little time, and what is still missing counts as 503. Requests under way go on
    /// in the background.
    pub(crate) async fn gather(
        self: Arc<Self>,
        nodes: NodeIter,
        node_count: usize,
        decided: impl Fn(&[Reply], usize) -> bool,
    ) -> (Vec<Reply>, SharedNodes) {
        let nodes = Arc::new(Mutex::new(nodes));
        let mut running = FuturesUnordered::new();
        for i in 0..self.headers.len() {
            let (this, nodes) = (self.clone(), nodes.clone());
            running.push(async move { this.one(&nodes, &this.headers[i]).await });
        }
        let mut replies = Vec::with_capacity(self.headers.len());
        let keep = |reply: Option<Reply>, replies: &mut Vec<Reply>| {
            if let Some(r) = reply.filter(is_useful) {
                replies.push(r);
            }
        };
        while let Some(reply) = running.next().await {
            keep(reply, &mut replies);
            if decided(&replies, node_count) {
                break;
            }
        }
        let late = async {
            while let Some(reply) = running.next().await {
                keep(reply, &mut replies);
            }
        };
        if tokio::time::timeout(self.core.options.post_quorum_timeout, late).await.is_err() {
            tokio::spawn(async move { while running.next().await.is_some() {} });
        }
        while replies.len() < node_count {
            replies.push(Reply::none(503));
        }
        (replies, nodes)
    }

    /// Asks the partition's nodes and answers as most of them do.
    pub(crate) async fn ask(self, nodes: NodeIter, node_count: usize, overrides: &[(u16, u16)], what: &str) -> Resp {
        let (replies, _) = Arc::new(self).gather(nodes, node_count, quorum_reached).await;
        best_response(&replies, quorum_size(replies.len()), overrides, None, what)
    }
}

pub(crate) fn quorum_reached(replies: &[Reply], node_count: usize) -> bool {
    let statuses: Vec<u16> = replies.iter().map(|r| r.status).collect();
    have_quorum(&statuses, quorum_size(node_count))
}

/// A handoff's 404 says nothing, unless it has seen the deletion.
fn is_useful(r: &Reply) -> bool {
    !(r.status == 404 && r.node.as_ref().is_some_and(super::backend::Node::is_handoff) && !r.headers.contains_key("x-backend-timestamp"))
}

/// Which statuses came from how many nodes.
pub(crate) fn count_by_status(replies: &[Reply]) -> HashMap<u16, usize> {
    let mut out = HashMap::new();
    for r in replies.iter().filter(|r| r.node.is_some()) {
        *out.entry(r.status).or_default() += 1;
    }
    out
}

pub(crate) fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(statuses: &[u16]) -> Vec<Reply> {
        statuses.iter().map(|s| Reply::none(*s)).collect()
    }

    #[test]
    fn quorums() {
        assert!(have_quorum(&[201, 202], 2) && !have_quorum(&[201, 404], 2) && !have_quorum(&[503, 503], 2));
        let best = |s: &[u16], o: &[(u16, u16)]| best_response(&replies(s), quorum_size(s.len()), o, None, "test").status().as_u16();
        assert_eq!(best(&[201, 201, 503], &[]), 201);
        assert_eq!(best(&[201, 503, 503], &[]), 503);
        assert_eq!(best(&[202, 404, 404], &[]), 404);
        assert_eq!(best(&[404, 409, 503], &[]), 409);
        assert_eq!(best(&[204, 404, 404], &[(404, 204)]), 404);
        assert_eq!(best(&[204, 404, 503], &[(404, 204)]), 204);
        assert_eq!(best(&[404, 503, 503], &[(404, 204)]), 503);
        assert_eq!(best(&[422, 422, 201], &[]), 422);
        assert_eq!(best(&[], &[]), 503);
    }
}
