//! REPLICATE requests to another node.

use caelum_rest::{Body, stream_channel};
use caelum_ring::Device;
use caelum_swiftkit::Nodes;
use http::Request;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Largest answer read in bytes.
const MAX_ANSWER: usize = 64 << 20;
const CHUNK: usize = 256 << 10;

/// The other node's copy of one database.
pub(crate) struct Remote<'a> {
    pub nodes: &'a Nodes,
    pub device: &'a Device,
    pub partition: u32,
    pub hash: &'a str,
    pub timeout: Duration,
}

impl Remote<'_> {
    fn address(&self) -> (&str, u16) {
        address(self.device)
    }

    /// Status and body. `None`: no answer.
    pub async fn call(&self, op: &str, args: Vec<Value>) -> Option<(u16, Vec<u8>)> {
        let mut all = vec![Value::from(op)];
        all.extend(args);
        let body = serde_json::to_vec(&all).ok()?;
        let path = format!("/{}/{}/{}", self.device.device, self.partition, self.hash);
        self.send("REPLICATE", &path, body.len() as u64, caelum_rest::full(body), self.timeout).await
    }

    pub async fn ok(&self, op: &str, args: Vec<Value>) -> bool {
        self.call(op, args).await.is_some_and(|(code, _)| (200..300).contains(&code))
    }

    async fn send(&self, method: &str, path: &str, length: u64, body: Body, timeout: Duration) -> Option<(u16, Vec<u8>)> {
        let (ip, port) = self.address();
        let req = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Length", length)
            .header("Content-Type", "application/json")
            .header("X-Backend-Use-Replication-Network", "true")
            .body(body)
            .ok()?;
        let answer = match self.nodes.send(ip, port, req, timeout).await {
            Ok(r) => r,
            Err(e) => {
                tracing::warn!(error = %e, device = self.device.device, "no answer from a replica");
                return None;
            }
        };
        let code = answer.status().as_u16();
        let read = tokio::time::timeout(timeout, caelum_rest::read_limited(answer.into_body(), MAX_ANSWER));
        let body = read.await.ok()?.ok()?;
        Some((code, body.to_vec()))
    }

    /// Puts a file into the device's `tmp` under `name`. `None`: the node does not take files this way.
    pub async fn push(&self, file: &Path, name: &str) -> Option<bool> {
        let Ok(length) = tokio::fs::metadata(file).await.map(|m| m.len()) else { return Some(false) };
        let (tx, body) = stream_channel(2);
        let file = file.to_path_buf();
        tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let Ok(mut f) = std::fs::File::open(&file) else { return };
            loop {
                let mut chunk = vec![0; CHUNK];
                let item = match f.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(n) => {
                        chunk.truncate(n);
                        Ok(chunk.into())
                    }
                    Err(e) => Err(e.into()),
                };
                if tx.blocking_send(item).is_err() {
                    return;
                }
            }
        });
        // 10 MB/s at least.
        let timeout = self.timeout + Duration::from_secs(length / 10_000_000);
        let path = format!("/{}/{}/{name}", self.device.device, self.partition);
        match self.send("PUSH", &path, length, body, timeout).await {
            Some((405 | 501, _)) => None,
            Some((code, _)) => Some((200..300).contains(&code)),
            None => Some(false),
        }
    }
}

/// The replication address, or the main one where there is none.
pub(crate) fn address(d: &Device) -> (&str, u16) {
    if d.replication_ip.is_empty() || d.replication_port == 0 { (&d.ip, d.port) } else { (&d.replication_ip, d.replication_port) }
}
