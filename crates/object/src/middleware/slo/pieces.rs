//! Which bytes of which segments make up an answer.

use super::MAX_DEPTH;
use super::manifest::{Kind, MAX_STORED, Segment, parse_stored};
use crate::env::quote;
use crate::http::{ByteRange, Origin};
use crate::middleware::segments::{Fault, ObjectPiece, Piece, Pieces};
use async_trait::async_trait;
use caelum_rest::HttpService;
use http::Method;
use std::collections::VecDeque;
use std::sync::Arc;

/// Sub-manifests kept while several ranges are read: bounds the memory that a tree of manifests can take.
const CACHED: usize = 20;

/// A manifest being walked: which of its bytes are wanted, relative to the segment that comes next. Negative
/// positions lie before it.
struct Frame {
    segments: Arc<Vec<Segment>>,
    index: usize,
    first: i128,
    last: i128,
}

pub(super) struct SloPieces {
    pub next: Arc<dyn HttpService>,
    pub origin: Origin,
    /// `/v1/account`, encoded.
    pub account: String,
    /// For messages.
    pub name: String,
    pub open_expired: Option<http::HeaderValue>,
    pub rate_limit_under_size: u64,
    segments: Arc<Vec<Segment>>,
    ranges: VecDeque<ByteRange>,
    stack: Vec<Frame>,
    cache: VecDeque<(String, Arc<Vec<Segment>>)>,
}

impl SloPieces {
    pub fn new(
        next: Arc<dyn HttpService>,
        origin: Origin,
        account: String,
        name: String,
        segments: Vec<Segment>,
        ranges: Vec<ByteRange>,
    ) -> Self {
        Self {
            next,
            origin,
            account,
            name,
            open_expired: None,
            rate_limit_under_size: 0,
            segments: Arc::new(segments),
            ranges: ranges.into(),
            stack: Vec::new(),
            cache: VecDeque::new(),
        }
    }

    async fn sub_manifest(&mut self, name: &str) -> Result<Arc<Vec<Segment>>, Fault> {
        if let Some((_, found)) = self.cache.iter().find(|(n, _)| n == name) {
            return Ok(found.clone());
        }
        let broken = |why: String| Fault::Broken(format!("while fetching {}, submanifest {name}: {why}", self.name));
        // The request stays below this layer, so the manifest itself comes.
        let path = format!("{}/{}", self.account, quote(name));
        let mut req = self.origin.request(Method::GET, &path, "SLO", "SLO MultipartGET");
        if let Some(v) = &self.open_expired {
            req.headers_mut().insert("x-open-expired", v.clone());
        }
        let resp = self.next.call(req).await;
        if !resp.status().is_success() {
            return Err(broken(format!("GET failed with status {}", resp.status().as_u16())));
        }
        let body = crate::http::read_all(resp.into_body(), MAX_STORED).await.ok_or_else(|| broken("no whole body".into()))?;
        let segments = Arc::new(parse_stored(&body).map_err(|_| broken("JSON-decoding failed".into()))?);
        if self.cache.len() == CACHED {
            self.cache.pop_front();
        }
        self.cache.push_back((name.into(), segments.clone()));
        Ok(segments)
    }
}

#[async_trait]
impl Pieces for SloPieces {
    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            let depth = self.stack.len();
            let Some(frame) = self.stack.last_mut() else {
                let Some((start, end)) = self.ranges.pop_front() else { return Ok(None) };
                let (first, last) = (i128::from(start), i128::from(end) - 1);
                self.stack.push(Frame { segments: self.segments.clone(), index: 0, first, last });
                continue;
            };
            let segments = frame.segments.clone();
            let (Some(segment), true) = (segments.get(frame.index), frame.last >= 0) else {
                self.stack.pop();
                continue;
            };
            let (first, last, length) = (frame.first, frame.last, i128::from(segment.length));
            frame.index += 1;
            frame.first -= length;
            frame.last -= length;
            if first >= length {
                continue;
            }
            // All in 0 ..= length - 1 of a segment that is not empty.
            let small = |n: i128| u64::try_from(n).unwrap_or(0);
            match &segment.kind {
                Kind::Data(data) => {
                    let (from, to) = (small(first.max(0)), small(last.min(length - 1)) + 1);
                    let cut = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(data.len());
                    return Ok(Some(Piece::Data(data.slice(cut(from)..cut(to)))));
                }
                Kind::Object { name, hash, bytes, range, sub_slo } => {
                    let (start, end) = range.map_or((0, length - 1), |(a, b)| (i128::from(a), i128::from(b)));
                    let (from, to) = (start + first.max(0), end.min(start + last));
                    if *sub_slo {
                        if depth >= MAX_DEPTH {
                            return Err(Fault::Broken(format!("{}: max recursion depth was exceeded", self.name)));
                        }
                        let segments = self.sub_manifest(name).await?;
                        self.stack.push(Frame { segments, index: 0, first: from, last: to });
                        continue;
                    }
                    return Ok(Some(Piece::Object(ObjectPiece {
                        path: format!("{}/{}", self.account, quote(name)),
                        etag: Some(hash.clone()).filter(|h| !h.is_empty()),
                        bytes: Some(*bytes),
                        first: small(from),
                        last: Some(small(to)),
                        limited: *bytes < self.rate_limit_under_size,
                    })));
                }
            }
        }
    }
}
