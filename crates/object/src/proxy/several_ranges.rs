//! Several ranges of an object, which a node sends as a MIME document: taken apart and put together again, so that
//! another node can send the rest when one breaks off.
//!
//! The document for the client has the boundary and the length that the first node promised. A node that writes it in
//! another form than this program does is passed on as it is, and nothing is resumed.

use super::backend::Node;
use super::getter::{Candidate, Getter, parse_content_range};
use crate::http::{BodyReader, ByteRange, Ranges, multipart_body, multipart_length, text};
use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use http::{HeaderMap, HeaderValue, header};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// A part's headers in bytes at most.
const MAX_HEAD: usize = 16_384;

/// The boundary of an answer with several ranges.
pub(super) fn boundary_of(headers: &HeaderMap) -> Option<&str> {
    let kind = text(headers, "content-type")?;
    let (main, rest) = kind.split_once(';')?;
    let value = rest.trim().strip_prefix("boundary=").filter(|_| main.trim().eq_ignore_ascii_case("multipart/byteranges"))?;
    Some(value.trim_matches('"')).filter(|b| !b.is_empty())
}

/// What a part says of itself.
struct PartHead {
    /// First byte and the byte after the last.
    range: ByteRange,
    /// Of the object.
    size: u64,
    content_type: String,
    /// As it was read.
    raw: Vec<u8>,
}

/// A node's answer.
pub(super) struct Document {
    reader: BodyReader,
    /// `None`: the body is one range's bytes and nothing else.
    boundary: Option<String>,
    /// The range of an answer that is no document, until it has been asked for.
    only: Option<(ByteRange, u64)>,
    timeout: Duration,
}

fn early_end() -> BoxError {
    BoxError::from("the answer ended early")
}

impl Document {
    async fn in_time<T>(timeout: Duration, read: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
        tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| Err(BoxError::from("no data in time")))
    }

    /// The next part, to be asked for when the one before has been read.
    async fn part(&mut self) -> Result<PartHead, BoxError> {
        if let Some((range, size)) = self.only.take() {
            return Ok(PartHead { range, size, content_type: String::new(), raw: Vec::new() });
        }
        let boundary = self.boundary.as_deref().ok_or_else(early_end)?;
        let begin = format!("--{boundary}");
        let mut head = PartHead { range: (0, 0), size: 0, content_type: String::new(), raw: Vec::new() };
        let mut begun = false;
        loop {
            let line = Self::in_time(self.timeout, self.reader.line(MAX_HEAD)).await?.ok_or_else(early_end)?;
            head.raw.extend_from_slice(&line);
            head.raw.push(b'\n');
            if head.raw.len() > MAX_HEAD {
                return Err("a part's headers are too long".into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if !begun {
                begun = line == begin;
                if !begun && !line.is_empty() {
                    return Err("the answer is no document of ranges".into());
                }
                continue;
            }
            if line.is_empty() {
                return Some(head).filter(|h| h.range.0 < h.range.1).ok_or_else(|| "a part without its range".into());
            }
            let Some((name, value)) = line.split_once(':') else { return Err("a part with a bad header".into()) };
            if name.eq_ignore_ascii_case("content-type") {
                head.content_type = value.trim().to_string();
            } else if name.eq_ignore_ascii_case("content-range") {
                let (first, last, size) = parse_content_range(value.trim()).ok_or("a part with a bad range")?;
                (head.range, head.size) = ((first, last.saturating_add(1)), size);
            }
        }
    }

    /// Some of a part's bytes, `left` at most.
    async fn data(&mut self, left: u64) -> Result<Bytes, BoxError> {
        let max = usize::try_from(left).unwrap_or(usize::MAX);
        Self::in_time(self.timeout, self.reader.chunk(max)).await?.ok_or_else(early_end)
    }
}

/// The ranges that are still to be sent.
struct Rest {
    getter: Box<Getter>,
    node: Option<Node>,
    from: Document,
    /// The head of the part that comes next, where it has been read.
    head: Option<PartHead>,
    ranges: Vec<ByteRange>,
    size: u64,
}

/// What became of a node's answer with several ranges.
pub(super) enum Begun {
    /// The document's bytes.
    Body(Body),
    /// The node broke off before anything had come.
    Broken(Box<Getter>),
}

/// Takes a node's answer of `length` bytes.
pub(super) async fn begin(getter: Box<Getter>, node: Node, headers: &HeaderMap, body: Body, length: u64) -> Begun {
    let (Some(boundary), Some(wanted)) = (boundary_of(headers), getter.ranges()) else { return Begun::Body(body) };
    let timeout = getter.timeout();
    let mut from = Document { reader: BodyReader::new(body), boundary: Some(boundary.to_string()), only: None, timeout };
    let head = match from.part().await {
        Ok(head) => head,
        Err(e) => {
            getter.failed(&node, "reading an object broke off, trying another node", &e.to_string());
            return Begun::Broken(getter);
        }
    };
    let (ranges, size, kind) = (wanted.for_length(head.size), head.size, head.content_type.clone());
    if ranges.first() != Some(&head.range) || multipart_length(&ranges, &kind, boundary, size) != length {
        return Begun::Body(as_it_is(head.raw, from));
    }
    let (tx, data) = caelum_rest::stream_channel(1);
    let rest = Rest { getter, node: Some(node), from, head: Some(head), ranges: ranges.clone(), size };
    tokio::spawn(async move {
        if let Err(e) = rest.send(&tx).await {
            // A client that has gone needs no reason.
            let _ = tx.send(Err(e)).await;
        }
    });
    Begun::Body(multipart_body(data, ranges, kind, boundary.to_string(), size))
}

/// What has been read, and the rest as it comes.
fn as_it_is(read: Vec<u8>, mut from: Document) -> Body {
    let (tx, body) = caelum_rest::stream_channel(1);
    tokio::spawn(async move {
        let mut next = Ok(Some(Bytes::from(read)));
        while let Ok(Some(piece)) = next {
            if tx.send(Ok(piece)).await.is_err() {
                return;
            }
            next = Document::in_time(from.timeout, from.reader.chunk(usize::MAX)).await;
        }
        if let Err(e) = next {
            // As above.
            let _ = tx.send(Err(e)).await;
        }
    });
    body
}

impl Rest {
    async fn send(mut self, tx: &Sender<Result<Bytes, BoxError>>) -> Result<(), BoxError> {
        for i in 0..self.ranges.len() {
            let (mut at, end) = self.ranges[i];
            while at < end {
                match self.send_part(&mut at, end, tx).await {
                    Ok(true) => {}
                    // Nobody reads on.
                    Ok(false) => return Ok(()),
                    Err(e) => self.look_elsewhere(i, at, e).await?,
                }
            }
        }
        Ok(())
    }

    /// Sends a part's bytes from `at` on, which goes along. False: the client has gone. Errors: the node gives no more.
    async fn send_part(&mut self, at: &mut u64, end: u64, tx: &Sender<Result<Bytes, BoxError>>) -> Result<bool, BoxError> {
        let head = match self.head.take() {
            Some(head) => head,
            None => self.from.part().await?,
        };
        if head.size != self.size || head.range.1 != end || head.range.0 > *at {
            return Err("another range than the one asked for".into());
        }
        let mut place = head.range.0;
        while place < end {
            let mut data = tokio::select! {
                data = self.from.data(end - place) => data?,
                () = tx.closed() => return Ok(false),
            };
            let next = place + data.len() as u64;
            let sent = usize::try_from(at.saturating_sub(place)).unwrap_or(usize::MAX).min(data.len());
            let data = data.split_off(sent);
            place = next;
            if data.is_empty() {
                continue;
            }
            *at = place;
            if tx.send(Ok(data)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Turns to another node for the ranges from number `i` on, the first of them from `at`.
    async fn look_elsewhere(&mut self, i: usize, at: u64, e: BoxError) -> Result<(), BoxError> {
        if let Some(node) = self.node.take() {
            self.getter.failed(&node, "reading an object broke off, trying another node", &e.to_string());
        }
        let mut left = self.ranges[i..].to_vec();
        let whole = left.clone();
        left[0].0 = at;
        // Ranges that a node answers together must not become too many that overlap or do not ascend.
        let spec = |r: &[ByteRange]| Ranges(r.iter().map(|(a, b)| (Some(*a), Some(b - 1))).collect());
        if left.len() > 1 && spec(&left).for_length(self.size) != left {
            left = whole;
        }
        let range = HeaderValue::from_str(&spec(&left).header())?;
        self.getter.headers_mut().insert(header::RANGE, range);
        self.getter.headers_mut().remove("x-backend-ignore-range-if-metadata-present");
        while let Some(Candidate { response, node }) = self.getter.find().await {
            let (head, body) = response.into_parts();
            let only = text(&head.headers, "content-range").and_then(parse_content_range).map(|(a, b, size)| ((a, b + 1), size));
            let boundary = boundary_of(&head.headers).map(str::to_string);
            if head.status != http::StatusCode::PARTIAL_CONTENT || (only.is_none() && boundary.is_none()) {
                continue;
            }
            self.from = Document { reader: BodyReader::new(body), boundary, only, timeout: self.getter.timeout() };
            (self.node, self.head) = (Some(node), None);
            return Ok(());
        }
        Err("no other node has the rest of the object".into())
    }
}
