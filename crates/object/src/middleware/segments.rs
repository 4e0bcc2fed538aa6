//! The content of a large object: its segments' bytes one after another.
//!
//! One segment streams while the next one's request is already under way; nothing else is held in memory.
//! When the client goes away the task that feeds the body ends at once and lets go of both connections.

use crate::env::{Req, Resp};
use crate::http::{Origin, content_length, error, etag, text};
use async_trait::async_trait;
use bytes::Bytes;
use caelum_rest::{Body, BoxError, HttpService, stream_channel};
use caelum_swiftkit::to_hex;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why a large object cannot be read (on).
#[derive(Debug)]
pub(super) enum Fault {
    /// A segment is missing, changed or damaged. Before the first byte: 409.
    Broken(String),
    /// A storage error. Before the first byte: 503.
    Unavailable(String),
}

impl Fault {
    /// The answer when nothing has been sent yet.
    pub fn response(&self) -> Resp {
        match self {
            Self::Broken(why) => {
                tracing::warn!(why, "large object");
                error(409)
            }
            Self::Unavailable(why) => {
                tracing::error!(why, "large object");
                crate::http::error_with_type(503, "text/plain")
            }
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Broken(t) | Self::Unavailable(t) => t,
        }
    }
}

/// Bytes that are part of the answer.
pub(super) enum Piece {
    /// From the manifest itself, already cut.
    Data(Bytes),
    Object(ObjectPiece),
}

pub(super) struct ObjectPiece {
    /// Encoded, without query.
    pub path: String,
    /// What the segment's etag must be.
    pub etag: Option<String>,
    /// What the segment's length must be.
    pub bytes: Option<u64>,
    /// First wanted byte.
    pub first: u64,
    /// Last wanted byte; `None` for all that follows.
    pub last: Option<u64>,
    /// Counts towards the limit on small segments a second.
    pub limited: bool,
}

/// Where pieces come from, in order.
#[async_trait]
pub(super) trait Pieces: Send {
    async fn next(&mut self) -> Result<Option<Piece>, Fault>;
}

/// Limits on how fast one answer may ask for segments.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Limited segments that go without waiting.
    pub free: u32,
    /// Then so many a second; 0 for no limit.
    pub per_second: u32,
    /// The longest that one answer may take.
    pub max_time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { free: 10, per_second: 1, max_time: Duration::from_secs(86_400) }
    }
}

/// How segments are asked for.
pub(super) struct Fetch {
    pub next: Arc<dyn HttpService>,
    pub origin: Origin,
    pub source: &'static str,
    pub agent: &'static str,
    /// `X-Open-Expired` of the client's request.
    pub open_expired: Option<http::HeaderValue>,
    /// The manifest's path, for logs.
    pub name: String,
    pub pace: Pace,
}

impl Fetch {
    fn request(&self, piece: &ObjectPiece) -> (Req, bool) {
        // The parameter makes sure that the segment itself answers, not what it may be a manifest of: then its etag
        // is the MD5 of what comes.
        let target = format!("{}?multipart-manifest=get", piece.path);
        let mut req = self.origin.request(Method::GET, &target, self.source, self.agent);
        if let Some(v) = &self.open_expired {
            req.headers_mut().insert("x-open-expired", v.clone());
        }
        let to_end = piece.last.is_none() || (piece.bytes.is_some() && piece.last.map(|l| l + 1) == piece.bytes);
        let ranged = piece.first != 0 || !to_end;
        if ranged {
            let last = if to_end { String::new() } else { piece.last.map(|l| l.to_string()).unwrap_or_default() };
            crate::http::set(req.headers_mut(), "range", format!("bytes={}-{last}", piece.first));
        }
        (req, ranged)
    }

    async fn open(&self, piece: ObjectPiece) -> Result<Open, Fault> {
        let (req, ranged) = self.request(&piece);
        let resp = self.next.call(req).await;
        let status = resp.status();
        if !status.is_success() {
            let body = crate::http::read_all(resp.into_body(), 4096).await.unwrap_or_default();
            let body: String = String::from_utf8_lossy(&body).chars().take(57).collect();
            let why = format!("{}: {} ({body}) from {}", self.name, status.as_u16(), piece.path);
            return Err(if status.is_server_error() { Fault::Unavailable(why) } else { Fault::Broken(why) });
        }
        let (tag, length) = (etag(resp.headers()), content_length(&resp));
        let changed = piece.etag.as_ref().is_some_and(|e| tag.as_ref() != Some(e))
            || (!ranged && piece.bytes.is_some_and(|b| b > 0 && length != Some(b)))
            || (ranged && status != StatusCode::PARTIAL_CONTENT);
        if changed {
            let why = format!(
                "{}: segment no longer valid: {} etag {tag:?} for {:?}, length {length:?} for {:?}",
                self.name, piece.path, piece.etag, piece.bytes
            );
            return Err(Fault::Broken(why));
        }
        let check = match (tag, ranged) {
            (Some(tag), false) => Some(Check { md5: Md5::new(), seen: 0, tag, length }),
            _ => None,
        };
        Ok(Open { body: resp.into_body(), check, path: piece.path })
    }
}

struct Check {
    md5: Md5,
    seen: u64,
    tag: String,
    length: Option<u64>,
}

/// A segment whose bytes are coming.
struct Open {
    body: Body,
    check: Option<Check>,
    path: String,
}

impl Open {
    fn of_data(data: Bytes) -> Self {
        Self { body: caelum_rest::full(data), check: None, path: "data segment".into() }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| Fault::Broken(format!("{}: {e}", self.path)))?;
            let Ok(data) = frame.into_data() else { continue };
            if let Some(c) = &mut self.check {
                c.md5.update(&data);
                c.seen += data.len() as u64;
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        if let Some(c) = self.check.take() {
            if c.length.is_some_and(|l| l != c.seen) {
                return Err(Fault::Broken(format!("{}: {} bytes came, {:?} were announced", self.path, c.seen, c.length)));
            }
            if to_hex(&c.md5.finalize()) != c.tag {
                return Err(Fault::Broken(format!("{}: MD5 differs from etag {}", self.path, c.tag)));
            }
        }
        Ok(None)
    }
}

/// Pieces and the requests for them.
struct Opener {
    cx: Fetch,
    pieces: Box<dyn Pieces>,
    limited: u32,
    not_before: Option<Instant>,
}

impl Opener {
    async fn next(&mut self) -> Result<Option<Open>, Fault> {
        match self.pieces.next().await? {
            None => Ok(None),
            Some(Piece::Data(d)) => Ok(Some(Open::of_data(d))),
            Some(Piece::Object(p)) => {
                if p.limited {
                    self.wait().await;
                }
                self.cx.open(p).await.map(Some)
            }
        }
    }

    async fn wait(&mut self) {
        let pace = self.cx.pace;
        if pace.per_second == 0 {
            return;
        }
        if self.limited < pace.free {
            self.limited += 1;
            return;
        }
        let step = Duration::from_secs(1) / pace.per_second;
        let now = Instant::now();
        let at = self.not_before.filter(|t| *t > now).unwrap_or(now);
        self.not_before = Some(at + step);
        tokio::time::sleep_until(at).await;
    }
}

/// A task that ends when its owner does.
struct Ahead(tokio::task::JoinHandle<(Opener, Result<Option<Open>, Fault>)>);

impl Ahead {
    fn start(mut opener: Opener) -> Self {
        Self(tokio::spawn(async move {
            let open = opener.next().await;
            (opener, open)
        }))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of an answer. Returns once the first bytes are there, so that a broken first segment is still an
/// error answer; what goes wrong later breaks the transfer off. `expect`: bytes that must come.
pub(super) async fn segmented(cx: Fetch, pieces: Box<dyn Pieces>, expect: Option<u64>) -> Result<Body, Fault> {
    let mut opener = Opener { cx, pieces, limited: 0, not_before: None };
    let (mut current, mut first) = (opener.next().await?, None);
    while let Some(open) = &mut current {
        first = open.chunk().await?;
        if first.is_some() {
            break;
        }
        current = opener.next().await?;
    }
    let (Some(open), Some(first)) = (current, first) else {
        return match expect {
            Some(n) if n > 0 => Err(Fault::Broken(format!("{}: no bytes", opener.cx.name))),
            _ => Ok(caelum_rest::empty()),
        };
    };
    let (tx, body) = stream_channel(1);
    tokio::spawn(async move {
        let name = opener.cx.name.clone();
        let limit = opener.cx.pace.max_time;
        let gone = tx.clone();
        let work = pump(opener, open, first, &tx, expect);
        let result = tokio::select! {
            r = tokio::time::timeout(limit, work) => r.unwrap_or_else(|_| Err(Fault::Broken("took too long".into()))),
            () = gone.closed() => return,
        };
        if let Err(fault) = result {
            tracing::error!(name, why = fault.text(), "large object breaks off");
            let _ = tx.send(Err(BoxError::from("segment failed"))).await;
        }
    });
    Ok(body)
}

type Sender = mpsc::Sender<caelum_base::Result<Bytes, BoxError>>;

async fn pump(opener: Opener, mut open: Open, first: Bytes, tx: &Sender, expect: Option<u64>) -> Result<(), Fault> {
    let mut left = expect;
    let mut chunk = Some(first);
    let mut ahead = Ahead::start(opener);
    loop {
        while let Some(mut data) = chunk {
            if let Some(n) = left {
                let over = (data.len() as u64).saturating_sub(n);
                if over > 0 {
                    data.truncate(usize::try_from(n).unwrap_or(usize::MAX));
                    let _ = tx.send(Ok(data)).await;
                    return Err(Fault::Broken(format!("{over} bytes too many from {}", open.path)));
                }
                left = Some(n - data.len() as u64);
            }
            if tx.send(Ok(data)).await.is_err() {
                return Ok(());
            }
            chunk = open.chunk().await?;
        }
        let (opener, next) = (&mut ahead.0).await.map_err(|e| Fault::Broken(format!("prefetch: {e}")))?;
        match next? {
            Some(o) => open = o,
            None => break,
        }
        ahead = Ahead::start(opener);
        chunk = open.chunk().await?;
    }
    match left {
        Some(n) if n > 0 => Err(Fault::Broken(format!("{n} more bytes were expected"))),
        _ => Ok(()),
    }
}

/// `X-Open-Expired` of a request, which segments' requests repeat.
pub(super) fn open_expired(req: &Req) -> Option<http::HeaderValue> {
    text(req.headers(), "x-open-expired")?;
    req.headers().get("x-open-expired").cloned()
}
