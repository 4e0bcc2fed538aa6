//! Requests to object and container servers.

use super::Config;
use caelum_diskfile::{Hashes, load_hashes};
use caelum_rest::{Body, empty, read_limited};
use caelum_ring::Device;
use http::{Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

/// As Python's `quote` with `/` left alone.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'_').remove(b'.').remove(b'-').remove(b'~');
/// Largest answer with hashes: a partition of 4,096 suffixes with fragments' hashes.
const MAX_HASHES: usize = 16 << 20;
/// Largest other answer read.
const MAX_ANSWER: usize = 1 << 20;

pub(crate) fn quote(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// A request to a node's storage server over the replication network.
pub(crate) async fn send(
    config: &Config,
    node: &Device,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: Body,
    timeout: Duration,
) -> Result<Response<Body>, String> {
    let mut req = Request::builder().method(method).uri(path).header("X-Backend-Use-Replication-Network", "true");
    for (k, v) in headers {
        let value = http::HeaderValue::from_bytes(&caelum_diskfile::header_bytes(v)).map_err(|e| format!("{k}: {e}"))?;
        req = req.header(k, value);
    }
    let req = req.body(body).map_err(|e| e.to_string())?;
    config.nodes.send(&node.replication_ip, node.replication_port, req, timeout).await.map_err(|e| e.to_string())
}

/// Status of a request without bodies.
pub(crate) async fn status(
    config: &Config,
    node: &Device,
    method: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<Response<()>, String> {
    let mut headers = headers.to_vec();
    headers.push(("Content-Length".into(), "0".into()));
    let answer = send(config, node, method, path, &headers, empty(), config.node_timeout).await?;
    let (parts, body) = answer.into_parts();
    // Read to its end so that the connection can be used again.
    let _ = tokio::time::timeout(config.node_timeout, read_limited(body, MAX_ANSWER)).await;
    Ok(Response::from_parts(parts, ()))
}

/// What a node answered when asked for a partition's hashes.
pub(crate) enum RemoteHashes {
    Hashes(Hashes),
    /// Its device is not there (507): another node has to stand in.
    Unmounted,
}

/// REPLICATE: the hashes of a partition on another node.
pub(crate) async fn hashes(config: &Config, node: &Device, partition: &str, policy: u32) -> Result<RemoteHashes, String> {
    let path = format!("/{}/{partition}", node.device);
    let headers = [policy_header(policy), ("Content-Length".into(), "0".into())];
    let answer = send(config, node, "REPLICATE", &path, &headers, empty(), config.http_timeout).await?;
    match answer.status().as_u16() {
        200 => {}
        507 => return Ok(RemoteHashes::Unmounted),
        code => return Err(format!("{}:{}/{}: {code}", node.replication_ip, node.replication_port, node.device)),
    }
    let body = tokio::time::timeout(config.http_timeout, read_limited(answer.into_body(), MAX_HASHES));
    let body = body.await.map_err(|_| "no answer in time".to_string())?.map_err(|e| e.message)?;
    load_hashes(&body).map(RemoteHashes::Hashes)
}

/// REPLICATE with suffixes: they have changed.
pub(crate) async fn invalidate(config: &Config, node: &Device, partition: &str, policy: u32, suffixes: &[String]) -> Result<(), String> {
    let path = format!("/{}/{partition}/{}", node.device, suffixes.join("-"));
    let headers = [policy_header(policy)];
    let answer = status(config, node, "REPLICATE", &path, &headers).await?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("{} on REPLICATE", answer.status())) }
}

pub(crate) fn policy_header(policy: u32) -> (String, String) {
    ("X-Backend-Storage-Policy-Index".into(), policy.to_string())
}
