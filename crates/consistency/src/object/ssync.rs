//! The sending side of SSYNC: one request in which first all objects of some suffixes are offered, then those that the
//! receiver lacks are sent as subrequests. Source: the Swift documentation (`overview_replication`) and what
//! upstream's receiver reads.

use super::node::{policy_header, quote};
use super::{Config, blocking, node};
use bytes::{Bytes, BytesMut};
use caelum_diskfile::{DiskError, DiskFile, FragWish, Look, Metadata, ObjectTimes, Opened, Reader, header_bytes};
use caelum_objserver::object::ssync::{Wanted, encode_missing, parse_wanted};
use caelum_rest::{Body, BoxError, stream_channel};
use caelum_ring::Device;
use caelum_swiftkit::{StoragePolicy, Timestamp};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes read from disk and sent at a time.
const CHUNK: usize = 256 << 10;
const MAX_LINE: usize = 64 << 10;
/// Time to send one piece.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Another way to the data of an object that is sent: a fragment computed from others.
pub(crate) trait Rebuild: Send + Sync {
    /// Metadata and body of what to send in place of `opened`.
    fn rebuild<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Result<(Metadata, Body), String>>;
}

/// What to synchronize.
#[derive(Clone)]
pub(crate) struct Job {
    /// The local device.
    pub device: String,
    pub partition: String,
    pub policy: Arc<StoragePolicy>,
    pub suffixes: Vec<String>,
    /// The local fragment to offer, and whether fragments that are not durable count.
    pub wish: FragWish,
    /// The fragment that the receiver is to hold.
    pub remote_fragment: Option<u32>,
    /// Only ask which of these the receiver has.
    pub only_check: Option<BTreeSet<String>>,
    pub rebuild: Option<Arc<dyn Rebuild>>,
}

/// Objects that sender and receiver hold in the same state now.
pub(crate) type InSync = BTreeMap<String, ObjectTimes>;

/// Brings the receiver up to date. Errors: it is not, or not certainly.
pub(crate) async fn sync(config: &Config, node: &Device, job: &Job) -> Result<InSync, String> {
    if job.suffixes.is_empty() {
        return Ok(InSync::new());
    }
    let offers = offers(config, job).await?;
    let (tx, body) = stream_channel(4);
    let mut headers = vec![policy_header(job.policy.index)];
    if let Some(i) = job.remote_fragment {
        headers.push(("X-Backend-Ssync-Frag-Index".into(), i.to_string()));
        headers.push(("X-Backend-Ssync-Node-Index".into(), i.to_string()));
    }
    let path = format!("/{}/{}", node.device, job.partition);
    let mut out = Out { tx };
    // The receiver answers once the request's head is there, some only after the first of its body.
    let (answer, started) =
        tokio::join!(node::send(config, node, "SSYNC", &path, &headers, body, config.http_timeout), out.text(":MISSING_CHECK: START\r\n"));
    let answer = answer?;
    started?;
    if answer.status() != 200 {
        return Err(format!("{}:{}/{}: {} to SSYNC", node.replication_ip, node.replication_port, node.device, answer.status()));
    }
    let takes_undurable = answer.headers().get("x-backend-accept-no-commit").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"));
    if job.wish.prefs.is_some() && !takes_undurable {
        return Err("the receiver would make fragments durable that are not".into());
    }
    let mut lines = Lines { body: answer.into_body(), buf: BytesMut::new(), timeout: config.http_timeout };
    let (sent, wanted) = tokio::join!(offer(&mut out, &offers), lines.wanted());
    sent?;
    let wanted = wanted?;
    let mut in_sync = offers;
    if job.only_check.is_some() {
        in_sync.retain(|hash, _| !wanted.contains_key(hash));
        out.text(":UPDATES: START\r\n:UPDATES: END\r\n").await?;
    } else {
        let failed = send_wanted(config, job, &mut out, &wanted).await?;
        in_sync.retain(|hash, _| !failed.contains(hash));
    }
    drop(out);
    lines.expect_updates().await?;
    Ok(in_sync)
}

async fn offers(config: &Config, job: &Job) -> Result<InSync, String> {
    let (disks, job) = (config.disks.clone(), job.clone());
    blocking(move || {
        let mut out = InSync::new();
        let keep = |hash: &str| job.only_check.as_ref().is_none_or(|c| c.contains(hash));
        disks.for_each_hash(&job.device, &job.partition, &job.policy, Some(&job.suffixes), &job.wish, |hash, times| {
            if keep(hash) {
                out.insert(hash.to_string(), times);
            }
            ControlFlow::Continue(())
        })?;
        Ok(out)
    })
    .await
}

async fn offer(out: &mut Out, offers: &InSync) -> Result<(), String> {
    let mut text = String::new();
    for (hash, times) in offers {
        text.push_str(&encode_missing(hash, times));
        text.push_str("\r\n");
        if text.len() > CHUNK {
            out.text(&std::mem::take(&mut text)).await?;
        }
    }
    text.push_str(":MISSING_CHECK: END\r\n");
    out.text(&text).await
}

/// Sends what is wanted; gives the hashes of which nothing certain was sent.
async fn send_wanted(config: &Config, job: &Job, out: &mut Out, wanted: &HashMap<String, Wanted>) -> Result<BTreeSet<String>, String> {
    out.text(":UPDATES: START\r\n").await?;
    let mut failed = BTreeSet::new();
    for (hash, want) in wanted {
        match look(config, job, hash).await? {
            Found::Object(object, opened) => {
                let sent = send_object(config, job, out, &object, opened, *want).await?;
                if !sent {
                    failed.insert(hash.clone());
                }
            }
            Found::Tombstone(name, at) if want.data => {
                out.subrequest("DELETE", &name, &[("X-Timestamp".into(), at.internal())]).await?;
            }
            Found::Tombstone(..) => {}
            Found::Nothing => {
                failed.insert(hash.clone());
            }
        }
    }
    out.text(":UPDATES: END\r\n").await?;
    Ok(failed)
}

enum Found {
    Object(DiskFile, Box<Opened>),
    Tombstone(String, Timestamp),
    Nothing,
}

async fn look(config: &Config, job: &Job, hash: &str) -> Result<Found, String> {
    let (disks, job, hash) = (config.disks.clone(), job.clone(), hash.to_string());
    blocking(move || {
        let look = Look { wish: job.wish.clone(), open_expired: true, next_part_power: None };
        let Ok((object, _)) = disks.object_from_hash(&job.device, &job.partition, job.policy.index, &hash, look) else {
            return Ok(Found::Nothing);
        };
        Ok(match object.open(disks.now()) {
            Ok(opened) => Found::Object(object, Box::new(opened)),
            Err(DiskError::Deleted { timestamp }) => match object.name() {
                Some(name) => Found::Tombstone(name.to_string(), timestamp),
                None => Found::Nothing,
            },
            // Damaged or gone since it was offered: the next pass knows more.
            Err(_) => Found::Nothing,
        })
    })
    .await
}

async fn send_object(
    config: &Config,
    job: &Job,
    out: &mut Out,
    object: &DiskFile,
    opened: Box<Opened>,
    want: Wanted,
) -> Result<bool, String> {
    let name = opened.name.clone();
    let post = opened.meta_metadata.clone().filter(|_| want.meta && opened.data_timestamp() != opened.timestamp());
    if want.data {
        let durable = opened.durable_timestamp() == Some(opened.data_timestamp());
        let mut headers: Vec<(String, String)> = Vec::new();
        if !durable {
            headers.push(("X-Backend-No-Commit".into(), "True".into()));
        }
        match &job.rebuild {
            Some(rebuild) => {
                let (metadata, body) = match rebuild.rebuild(&opened).await {
                    Ok(r) => r,
                    Err(e) => {
                        tracing::warn!(name, error = e, "a fragment could not be computed");
                        return Ok(false);
                    }
                };
                let length = metadata.get("Content-Length").and_then(|l| l.parse().ok()).unwrap_or(0);
                out.put(&name, headers, &metadata).await?;
                out.body(body, length, config.http_timeout).await?;
            }
            None => {
                out.put(&name, headers, &opened.data_metadata).await?;
                out.file(Reader::new(object.clone(), *opened)).await?;
            }
        }
    }
    if let Some(metadata) = post {
        let headers: Vec<(String, String)> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        out.subrequest("POST", &name, &headers).await?;
    }
    Ok(true)
}

/// The request's body. Dropped before its end, the receiver sees it broken off.
struct Out {
    tx: mpsc::Sender<Result<Bytes, BoxError>>,
}

impl Out {
    async fn send(&mut self, data: impl Into<Bytes>) -> Result<(), String> {
        match tokio::time::timeout(SEND_TIMEOUT, self.tx.send(Ok(data.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the receiver broke off".into()),
            Err(_) => Err("the receiver does not read".into()),
        }
    }

    async fn text(&mut self, text: &str) -> Result<(), String> {
        self.send(text.to_string()).await
    }

    async fn subrequest(&mut self, method: &str, name: &str, headers: &[(String, String)]) -> Result<(), String> {
        let mut out = format!("{method} {}\r\n", quote(name)).into_bytes();
        let mut sorted: Vec<&(String, String)> = headers.iter().collect();
        sorted.sort();
        for (k, v) in sorted {
            out.extend_from_slice(&header_bytes(k));
            out.extend_from_slice(b": ");
            out.extend(header_bytes(v).into_iter().filter(|b| !matches!(b, b'\r' | b'\n')));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.send(out).await
    }

    async fn put(&mut self, name: &str, mut headers: Vec<(String, String)>, metadata: &Metadata) -> Result<(), String> {
        headers.extend(metadata.iter().filter(|(k, _)| *k != "name").map(|(k, v)| (k.to_string(), v.to_string())));
        self.subrequest("PUT", name, &headers).await
    }

    /// Breaks the whole exchange off rather than send fewer bytes than announced.
    async fn file(&mut self, mut reader: Reader) -> Result<(), String> {
        loop {
            let (back, chunk) = blocking(move || reader.read(CHUNK).map(|chunk| (reader, chunk))).await?;
            reader = back;
            if chunk.is_empty() {
                return Ok(());
            }
            self.send(chunk).await?;
        }
    }

    async fn body(&mut self, mut body: Body, length: u64, timeout: Duration) -> Result<(), String> {
        let mut sent = 0_u64;
        loop {
            let frame = tokio::time::timeout(timeout, body.frame()).await.map_err(|_| "no fragments in time".to_string())?;
            let Some(frame) = frame else { break };
            if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
                sent += data.len() as u64;
                self.send(data).await?;
            }
        }
        if sent == length { Ok(()) } else { Err(format!("{sent} bytes where {length} were announced")) }
    }
}

/// The response's body by lines.
struct Lines {
    body: Body,
    buf: BytesMut,
    timeout: Duration,
}

impl Lines {
    /// Errors: the end, silence, or a line beyond all reason.
    async fn next(&mut self) -> Result<String, String> {
        loop {
            if let Some(n) = self.buf.iter().position(|b| *b == b'\n') {
                let line = self.buf.split_to(n + 1);
                return Ok(String::from_utf8_lossy(line.trim_ascii()).into_owned());
            }
            if self.buf.len() > MAX_LINE {
                return Err("a line is too long".into());
            }
            let frame = tokio::time::timeout(self.timeout, self.body.frame()).await.map_err(|_| "no answer in time".to_string())?;
            let frame = frame.ok_or("Early disconnect")?.map_err(|e| e.to_string())?;
            if let Ok(data) = frame.into_data() {
                self.buf.extend_from_slice(&data);
            }
        }
    }

    async fn expect(&mut self, what: &str) -> Result<(), String> {
        loop {
            let line = self.next().await?;
            if line == what {
                return Ok(());
            }
            if !line.is_empty() {
                return Err(format!("Unexpected response: {line:.1024}"));
            }
        }
    }

    async fn wanted(&mut self) -> Result<HashMap<String, Wanted>, String> {
        self.expect(":MISSING_CHECK: START").await?;
        let mut out = HashMap::new();
        loop {
            let line = self.next().await?;
            if line == ":MISSING_CHECK: END" {
                return Ok(out);
            }
            if let Some((hash, want)) = parse_wanted(&line) {
                out.insert(hash, want);
            } else if !line.is_empty() {
                return Err(format!("Unexpected response: {line:.1024}"));
            }
        }
    }

    async fn expect_updates(&mut self) -> Result<(), String> {
        self.expect(":UPDATES: START").await?;
        self.expect(":UPDATES: END").await
    }
}
