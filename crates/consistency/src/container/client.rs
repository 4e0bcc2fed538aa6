//! Requests through the proxy's pipeline, and past it to container servers.

use super::updater::quote;
use crate::db::{DbDaemonConfig, address};
use caelum_rest::{Body, HttpService};
use caelum_ring::Device;
use http::{HeaderMap, Request};
use std::sync::Arc;

/// Largest listing read in bytes.
const MAX_LISTING: usize = 64 << 20;

/// The proxy's pipeline for requests of the program's own: it must take `X-Backend-…` headers and times as
/// they come and ask nobody for permission. Whoever sets up the daemons wraps it so.
pub type InternalClient = Arc<dyn HttpService>;

pub(super) struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Body,
}

impl Answer {
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    pub async fn json(self) -> Vec<serde_json::Value> {
        match caelum_rest::read_limited(self.body, MAX_LISTING).await {
            Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

/// `/v1/account[/container[/object]]`.
pub(super) fn path(names: &[&str]) -> String {
    let mut out = String::from("/v1");
    for name in names {
        out.push('/');
        out.push_str(&quote(name));
    }
    out
}

pub(super) async fn call(client: &InternalClient, method: &str, uri: &str, headers: &[(&str, String)], body: Body) -> Option<Answer> {
    let mut req = Request::builder().method(method).uri(uri);
    for (k, v) in headers {
        req = req.header(*k, v);
    }
    let (parts, body) = client.call(req.body(body).ok()?).await.into_parts();
    Some(Answer { code: parts.status.as_u16(), headers: parts.headers, body })
}

/// Sends a bodiless request to each primary of a container; what they answer, in ring order.
pub(super) async fn to_container_nodes(
    config: &DbDaemonConfig,
    method: &str,
    names: &[&str],
    headers: &[(&str, String)],
) -> Vec<Option<(u16, HeaderMap)>> {
    let [account, container, ..] = names else { return Vec::new() };
    let ring = config.rings.container();
    let partition = ring.partition(&config.swift.hash.container(account, container));
    let nodes: Vec<Device> = ring.primaries(partition).into_iter().cloned().collect();
    let sends = nodes.iter().map(|node| {
        let mut uri = format!("/{}/{partition}", node.device);
        for name in names {
            uri.push('/');
            uri.push_str(&quote(name));
        }
        let mut req =
            Request::builder().method(method).uri(uri).header("Content-Length", 0).header("X-Backend-Use-Replication-Network", "true");
        for (k, v) in headers {
            req = req.header(*k, v);
        }
        let req = req.body(caelum_rest::empty());
        async move {
            let (ip, port) = address(node);
            let r = config.nodes.send(ip, port, req.ok()?, config.node_timeout).await.ok()?;
            Some((r.status().as_u16(), r.headers().clone()))
        }
    });
    futures_util::future::join_all(sends).await
}
