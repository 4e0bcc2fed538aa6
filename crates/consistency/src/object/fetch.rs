//! Computing a lost fragment archive from those of other nodes.

use super::Config;
use super::node::{self, policy_header, quote};
use super::ssync::Rebuild;
use bytes::{Bytes, BytesMut};
use caelum_diskfile::{Metadata, Opened};
use caelum_erasure::Codec;
use caelum_rest::{Body, empty, stream_channel};
use caelum_ring::Device;
use caelum_swiftkit::{StoragePolicy, Timestamp};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

const INDEX: &str = "X-Object-Sysmeta-Ec-Frag-Index";

/// Makes fragment `index` of a partition's objects for the node that is to hold it.
pub(crate) struct Rebuilder {
    pub config: Config,
    pub policy: Arc<StoragePolicy>,
    pub codec: Arc<Codec>,
    pub segment_size: u64,
    pub partition: String,
    /// The partition's primaries.
    pub nodes: Vec<Device>,
    /// The node that lacks it; not asked.
    pub target: u32,
    pub index: u32,
}

/// A fragment archive that a node sends.
struct Source {
    index: u32,
    body: Body,
    buf: BytesMut,
}

impl Rebuild for Rebuilder {
    fn rebuild<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Result<(Metadata, Body), String>> {
        Box::pin(async move {
            let at = opened.data_timestamp();
            let etag = opened.data_metadata.get("X-Object-Sysmeta-Ec-Etag").ok_or("no EC etag in the metadata")?.to_string();
            let sources = self.sources(&opened.name, at, &etag).await?;
            let mut metadata = opened.data_metadata.clone();
            metadata.set(INDEX, self.index.to_string());
            // Of the local fragment; the receiver computes its own.
            metadata.remove("ETag");
            let length: u64 = metadata.get("Content-Length").and_then(|l| l.parse().ok()).ok_or("no length in the metadata")?;
            Ok((metadata, self.stream(sources, length)))
        })
    }
}

impl Rebuilder {
    /// The first k nodes that send different fragments of this version.
    async fn sources(&self, name: &str, at: Timestamp, etag: &str) -> Result<Vec<Source>, String> {
        let preferences = serde_json::json!([{ "timestamp": at.internal(), "exclude": [] }]).to_string();
        let headers = [
            policy_header(self.policy.index),
            ("X-Backend-Replication".into(), "True".into()),
            ("X-Backend-Fragment-Preferences".into(), preferences),
        ];
        let mut asked: FuturesUnordered<_> = self
            .nodes
            .iter()
            .filter(|n| n.id != self.target)
            .map(|n| {
                let path = format!("/{}/{}{}", n.device, self.partition, quote(name));
                let headers = &headers;
                async move { node::send(&self.config, n, "GET", &path, headers, empty(), self.config.node_timeout).await }
            })
            .collect();
        let mut out: Vec<Source> = Vec::new();
        while let Some(answer) = asked.next().await {
            let answer = match answer {
                Ok(a) if a.status() == 200 => a,
                Ok(_) => continue,
                Err(e) => {
                    tracing::debug!(name, error = e, "no fragment");
                    continue;
                }
            };
            let text = |k: &str| answer.headers().get(k).and_then(|v| v.to_str().ok());
            let time = text("x-backend-data-timestamp").or(text("x-backend-timestamp")).and_then(Timestamp::parse);
            let index: Option<u32> = text(INDEX).and_then(|v| v.parse().ok());
            let (Some(index), true) = (index, time == Some(at) && text("x-object-sysmeta-ec-etag") == Some(etag)) else { continue };
            if index != self.index && !out.iter().any(|s| s.index == index) {
                out.push(Source { index, body: answer.into_body(), buf: BytesMut::new() });
            }
            if out.len() == self.codec.data() {
                return Ok(out);
            }
        }
        Err(format!("{} of {} fragments", out.len(), self.codec.data()))
    }

    /// The archive, segment by segment.
    fn stream(&self, mut sources: Vec<Source>, mut left: u64) -> Body {
        let (tx, body) = stream_channel(2);
        let size = self.codec.fragment_size(usize::try_from(self.segment_size).unwrap_or(usize::MAX)) as u64;
        let (codec, index, timeout) = (self.codec.clone(), self.index, self.config.http_timeout);
        tokio::spawn(async move {
            while left > 0 {
                let want = size.min(left) as usize;
                let made = segment(&codec, &mut sources, want, index, timeout).await;
                let failed = made.is_err();
                left -= want as u64;
                // The receiver has gone, or must not take this for the whole.
                if tx.send(made.map_err(Into::into)).await.is_err() || failed {
                    return;
                }
            }
        });
        body
    }
}

async fn segment(codec: &Arc<Codec>, sources: &mut [Source], size: usize, index: u32, timeout: Duration) -> Result<Bytes, String> {
    let reads = sources.iter_mut().map(|s| s.read(size, timeout));
    let fragments: Vec<Bytes> = futures_util::future::try_join_all(reads).await?;
    let codec = codec.clone();
    let job = tokio::task::spawn_blocking(move || {
        let views: Vec<&[u8]> = fragments.iter().map(|f| &f[..]).collect();
        codec.reconstruct(&views, index as usize)
    });
    let made = job.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if made.len() == size { Ok(made.into()) } else { Err(format!("a fragment of {} bytes where {size} belong", made.len())) }
}

impl Source {
    async fn read(&mut self, n: usize, timeout: Duration) -> Result<Bytes, String> {
        while self.buf.len() < n {
            let frame = tokio::time::timeout(timeout, self.body.frame()).await.map_err(|_| "no fragment in time".to_string())?;
            let Some(frame) = frame else { return Err("a fragment archive ends early".into()) };
            if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
                self.buf.extend_from_slice(&data);
            }
        }
        Ok(self.buf.split_to(n).freeze())
    }
}
