//! GET and HEAD.

use super::target::Target;
use super::{Answer, Req, Resp, Shared, blocking, disk_failure, fragments, headers, respond};
use bytes::Bytes;
use caelum_diskfile::{DiskError, DiskResult, FragPref, FragWish, Look, Metadata, Opened, Reader};
use caelum_rest::{BoxError, empty, full};
use caelum_swiftkit::{KnownRight, Ranges, Timestamp};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// Read together with opening; objects up to this size take one job.
const FIRST: usize = 64 << 10;
/// Read at once when streaming.
const CHUNK: usize = 256 << 10;

pub(super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let parts = req.into_parts().0;
    let target = Target::parse(&parts, &server.disks)?;
    // What is in memory is answered on the spot.
    if let Some(answer) = open(&server, &parts, &target, true)? {
        return Ok(answer.start());
    }
    match blocking(move || open(&server, &parts, &target, false)).await?? {
        Some(answer) => Ok(answer.start()),
        None => Err(respond::error(503)),
    }
}

/// What is sent after the headers.
enum Piece {
    Bytes(Bytes),
    Range(u64, u64),
}

/// An answer whose head is complete.
struct Ready {
    head: Response<()>,
    pieces: VecDeque<Piece>,
    reader: Option<Reader>,
}

/// `X-Backend-Fragment-Preferences`: JSON that means nothing is as if it were not there.
pub(super) fn frag_wish(parts: &Parts) -> Result<FragWish, Resp> {
    let Some(text) = headers::text(&parts.headers, "x-backend-fragment-preferences") else { return Ok(FragWish::default()) };
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return Ok(FragWish::default()) };
    let Some(list) = json.as_array() else { return Ok(FragWish::default()) };
    let bad = || respond::text(400, &format!("Bad frag_prefs: {text}"));
    let mut prefs = Vec::with_capacity(list.len());
    for item in list {
        let timestamp = item.get("timestamp").and_then(|t| t.as_str()).and_then(Timestamp::parse).ok_or_else(bad)?;
        let exclude = item.get("exclude").and_then(|e| e.as_array()).ok_or_else(bad)?;
        let exclude: Option<Vec<u32>> = exclude.iter().map(|v| v.as_u64().and_then(|v| u32::try_from(v).ok())).collect();
        prefs.push(FragPref { timestamp, exclude: exclude.ok_or_else(bad)? });
    }
    Ok(FragWish { index: None, prefs: Some(prefs) })
}

/// 404 with what is known of the deletion, or 412 if the client wanted something to be there.
fn not_found(parts: &Parts, known: Option<Timestamp>) -> Resp {
    let any = headers::text(&parts.headers, "if-match").is_some_and(|m| m.split(',').any(|t| headers::bare_etag(t.trim()) == "*"));
    let mut r = if any { empty_answer(412) } else { respond::error(404) };
    if let Some(t) = known {
        respond::set(r.headers_mut(), "x-backend-timestamp", &t.internal());
    }
    r
}

fn empty_answer(status: u16) -> Resp {
    let mut r = respond::error_text(status, "");
    r.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    r
}

fn would_block(e: &DiskError) -> bool {
    matches!(e, DiskError::Io(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

/// `None`: with `in_memory`, the disk is needed.
fn open(server: &Shared, parts: &Parts, target: &Target, in_memory: bool) -> Result<Option<Ready>, Resp> {
    let now = headers::timestamp_or(&parts.headers, server.disks.now())?;
    let look = Look { wish: frag_wish(parts)?, open_expired: headers::open_expired(&parts.headers), next_part_power: None };
    let recent = if in_memory { target.recent(&server.disks, &look) } else { None };
    let (object, opened) = match recent {
        Some(known) => known,
        None => {
            let mut object = target.object(&server.disks, look).map_err(|e| disk_failure(&target.device, e))?;
            if in_memory {
                object = object.in_memory();
            }
            match object.open(now) {
                Ok(o) => (object, o),
                Err(e) if would_block(&e) => return Ok(None),
                Err(DiskError::Deleted { timestamp } | DiskError::Expired { timestamp, .. }) => {
                    return Err(not_found(parts, Some(timestamp)));
                }
                Err(DiskError::NotExist | DiskError::Quarantined { .. }) => return Err(not_found(parts, None)),
                Err(e) => return Err(disk_failure(&target.device, e)),
            }
        }
    };
    let mut head = Response::new(());
    fill_head(server, head.headers_mut(), &opened);
    if let Some(status) = precondition(parts, &opened.metadata) {
        *head.status_mut() = status;
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        return Ok(Some(Ready { head, pieces: VecDeque::new(), reader: None }));
    }
    if parts.method == Method::HEAD {
        head.headers_mut().insert(CONTENT_LENGTH, opened.size.into());
        return Ok(Some(Ready { head, pieces: VecDeque::new(), reader: None }));
    }
    let size = opened.size;
    let inspector = fragments::inspector(object.policy());
    let mut reader = Reader::new(object, opened);
    if !in_memory {
        reader = reader.wanted();
    }
    if let Some(i) = inspector {
        reader = reader.inspected(i);
    }
    let mut ready = Ready { head, pieces: VecDeque::new(), reader: Some(reader) };
    if !ready.ranges(server, parts, size) {
        ready.head.headers_mut().insert(CONTENT_LENGTH, size.into());
        ready.pieces.push_back(Piece::Range(0, size));
    }
    let read = ready.read_first(parts, &target.device)?;
    if ready.reader.as_ref().is_some_and(Reader::is_known_right) {
        ready.head.extensions_mut().insert(KnownRight);
    }
    ready.reader = ready.reader.map(Reader::from_disk);
    Ok(read.then_some(ready))
}

fn fill_head(server: &Shared, h: &mut HeaderMap, opened: &Opened) {
    let content_type = opened.metadata.get("Content-Type").unwrap_or("application/octet-stream");
    respond::set(h, "content-type", content_type);
    for (k, v) in opened.metadata.iter() {
        let kept = headers::is_user_meta(k)
            || headers::is_sys_meta(k)
            || headers::is_transient(k)
            || server.config.allowed_headers.iter().any(|a| a.eq_ignore_ascii_case(k));
        if kept && let (Some(name), Some(value)) = (headers::header_name(k), respond::header_value(v)) {
            h.insert(name, value);
        }
    }
    let t = opened.timestamp();
    respond::set(h, "etag", &format!("\"{}\"", opened.etag()));
    respond::set(h, "last-modified", &respond::last_modified(t));
    respond::set(h, "x-timestamp", &t.normal());
    respond::set(h, "x-backend-timestamp", &t.internal());
    respond::set(h, "x-backend-data-timestamp", &opened.data_timestamp().internal());
    if let Some(t) = opened.durable_timestamp() {
        respond::set(h, "x-backend-durable-timestamp", &t.internal());
    }
    if !opened.on_disk.frag_sets.is_empty() {
        let sets: serde_json::Map<String, serde_json::Value> = opened
            .on_disk
            .frag_sets
            .iter()
            .map(|(t, set)| (t.internal(), set.iter().filter_map(|f| f.frag_index).collect::<Vec<_>>().into()))
            .collect();
        respond::set(h, "x-backend-fragments", &serde_json::Value::Object(sets).to_string());
    }
}

/// 304 or 412 by the request's conditions.
fn precondition(parts: &Parts, metadata: &Metadata) -> Option<StatusCode> {
    let get = |name| headers::text(&parts.headers, name).filter(|v| !v.is_empty());
    let elsewhere = get("x-backend-etag-is-at")
        .and_then(|names| names.split(',').find_map(|n| metadata.get(n.trim()).filter(|t| !t.is_empty()).map(str::to_string)));
    let etag = elsewhere.as_deref().or(metadata.get("ETag")).unwrap_or_default();
    if get("if-none-match").is_some_and(|m| headers::matches(&m, etag)) {
        return Some(StatusCode::NOT_MODIFIED);
    }
    // One that names nothing fits nothing.
    if headers::text(&parts.headers, "if-match").is_some_and(|m| !headers::matches(&m, etag)) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    let modified = metadata.timestamp("X-Timestamp")?.ceil_seconds();
    let since = |name| get(name).and_then(|d| respond::parse_http_date(&d));
    if since("if-modified-since").is_some_and(|t| modified <= t) {
        return Some(StatusCode::NOT_MODIFIED);
    }
    if since("if-unmodified-since").is_some_and(|t| modified > t) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    None
}

/// The request asks for its range only where none of these metadata are there.
fn range_ignored(parts: &Parts, metadata: &Metadata) -> bool {
    let names = headers::text(&parts.headers, "x-backend-ignore-range-if-metadata-present").unwrap_or_default();
    names.split(',').map(str::trim).any(|n| !n.is_empty() && metadata.contains(n))
}

impl Ready {
    /// Whether the request's range decides the answer.
    fn ranges(&mut self, server: &Shared, parts: &Parts, size: u64) -> bool {
        let Some(header) = headers::text(&parts.headers, "range") else { return false };
        let Some(reader) = &self.reader else { return false };
        if range_ignored(parts, &reader.opened().metadata) {
            return false;
        }
        let Some(wanted) = Ranges::parse(&header) else { return false };
        let ranges = wanted.for_length(size);
        let h = self.head.headers_mut();
        match ranges.as_slice() {
            [] => {
                let body = respond::status_body(416);
                respond::set(h, "content-range", &format!("bytes */{size}"));
                h.insert(CONTENT_LENGTH, (body.len() as u64).into());
                *self.head.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                self.pieces.push_back(Piece::Bytes(body));
                self.reader = None;
            }
            // A suffix of nothing is nothing.
            _ if size == 0 => return false,
            [(start, end)] => {
                respond::set(h, "content-range", &format!("bytes {start}-{}/{size}", end - 1));
                h.insert(CONTENT_LENGTH, (end - start).into());
                *self.head.status_mut() = StatusCode::PARTIAL_CONTENT;
                self.pieces.push_back(Piece::Range(*start, *end));
            }
            many => self.multipart(&server.config.disk.env.hex_id(), many, size),
        }
        true
    }

    fn multipart(&mut self, boundary: &str, ranges: &[(u64, u64)], size: u64) {
        let h = self.head.headers_mut();
        let content_type = h.get(CONTENT_TYPE).map(|v| v.as_bytes().to_vec()).unwrap_or_default();
        let mut length = 0;
        for (start, end) in ranges {
            let mut part = format!("--{boundary}\r\nContent-Type: ").into_bytes();
            part.extend_from_slice(&content_type);
            part.extend_from_slice(format!("\r\nContent-Range: bytes {start}-{}/{size}\r\n\r\n", end - 1).as_bytes());
            length += part.len() as u64 + (end - start) + 2;
            self.pieces.push_back(Piece::Bytes(part.into()));
            self.pieces.push_back(Piece::Range(*start, *end));
            self.pieces.push_back(Piece::Bytes(Bytes::from_static(b"\r\n")));
        }
        let end = format!("--{boundary}--");
        length += end.len() as u64;
        self.pieces.push_back(Piece::Bytes(end.into()));
        respond::set(h, "content-type", &format!("multipart/byteranges;boundary={boundary}"));
        h.insert(CONTENT_LENGTH, length.into());
        h.remove(CONTENT_RANGE);
        *self.head.status_mut() = StatusCode::PARTIAL_CONTENT;
    }

    /// Reads the beginning together with opening. Damage found so early is answered 404. False: the disk is needed.
    fn read_first(&mut self, parts: &Parts, device: &str) -> Result<bool, Resp> {
        let (Some(Piece::Range(start, end)), Some(reader)) = (self.pieces.front(), &mut self.reader) else { return Ok(true) };
        let (start, end) = (*start, *end);
        reader.range(start, end);
        let first = match reader.read_cached().map_or_else(|| reader.read(FIRST), Ok) {
            Ok(b) => b,
            Err(DiskError::Quarantined { .. }) => return Err(not_found(parts, None)),
            Err(e) if would_block(&e) => return Ok(false),
            Err(e) => return Err(disk_failure(device, e)),
        };
        self.pieces.pop_front();
        if reader.remaining() > 0 {
            self.pieces.push_front(Piece::Range(start + first.len() as u64, end));
        } else if self.pieces.is_empty() {
            self.reader = None;
        }
        self.pieces.push_front(Piece::Bytes(first));
        Ok(true)
    }

    /// The answer; what is left to read is read while it is sent.
    fn start(mut self) -> Resp {
        let body = match (self.reader.take(), self.pieces.len()) {
            (_, 0) => empty(),
            (None, 1) => match self.pieces.pop_front() {
                Some(Piece::Bytes(b)) => full(b),
                _ => empty(),
            },
            (reader, _) => Streamed { reader, pieces: self.pieces, size: FIRST, job: None }.boxed_unsync(),
        };
        let (parts, ()) = self.head.into_parts();
        Response::from_parts(parts, body)
    }
}

/// A body that is read while it is sent: from memory on the spot, from the disk on a blocking thread and one
/// piece ahead. An error breaks the transfer off.
struct Streamed {
    /// Away while a job runs.
    reader: Option<Reader>,
    pieces: VecDeque<Piece>,
    /// Read at once; grows.
    size: usize,
    job: Option<JoinHandle<(Reader, DiskResult<Bytes>)>>,
}

impl Streamed {
    /// Starts reading from the disk what comes next, if that is a range.
    fn read_ahead(&mut self) {
        let Some(Piece::Range(start, end)) = self.pieces.front() else { return };
        let (start, end) = (*start, *end);
        let Some(mut reader) = self.reader.take_if(|_| start < end) else { return };
        self.size = (self.size * 4).min(CHUNK);
        let want = self.size;
        self.job = Some(tokio::task::spawn_blocking(move || {
            reader.go_on(start, end);
            let result = reader.read(want);
            (reader, result)
        }));
    }

    fn cached(&mut self) -> Option<Bytes> {
        let (Some(Piece::Range(start, end)), Some(reader)) = (self.pieces.front_mut(), &mut self.reader) else { return None };
        reader.go_on(*start, *end);
        let bytes = reader.read_cached()?;
        *start += bytes.len() as u64;
        Some(bytes)
    }

    fn poll_job(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(job) = &mut self.job else { return Poll::Ready(None) };
        let done = ready!(Pin::new(job).poll(cx));
        self.job = None;
        let bytes = match done {
            Ok((reader, result)) => {
                self.reader = Some(reader);
                result.map_err(BoxError::from)
            }
            Err(e) => Err(BoxError::from(e)),
        };
        let bytes = bytes.and_then(|b| if b.is_empty() { Err("the object ended early".into()) } else { Ok(b) });
        match &bytes {
            Ok(b) => {
                if let Some(Piece::Range(start, _)) = self.pieces.front_mut() {
                    *start += b.len() as u64;
                }
                self.read_ahead();
            }
            Err(e) => {
                tracing::warn!(error = %e, "reading broke off");
                self.pieces.clear();
            }
        }
        Poll::Ready(Some(bytes))
    }
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(piece) = ready!(self.poll_job(cx)) {
                return Poll::Ready(Some(piece.map(Frame::data)));
            }
            match self.pieces.front() {
                None => return Poll::Ready(None),
                Some(Piece::Range(start, end)) if start < end => {
                    if let Some(bytes) = self.cached() {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    self.read_ahead();
                    if self.job.is_none() {
                        return Poll::Ready(Some(Err("no reader for the rest of the object".into())));
                    }
                }
                Some(_) => {
                    if let Some(Piece::Bytes(bytes)) = self.pieces.pop_front() {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
            }
        }
    }
}
