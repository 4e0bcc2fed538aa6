//! Reading an object of an erasure-coded policy: any k different fragments of one upload, decoded segment by
//! segment. When a node breaks off, k fragments are looked for again from the present segment on.

use super::backend::{Core, Node, NodeIter, NodeRequest, Reply, header_time, is_success};
use super::ec_put::Coding;
use super::getter::{Getter, Kind, Wanted, parse_content_range};
use super::object::Place;
use super::quorum::{best_response, copy_headers};
use super::request::Rq;
use crate::env::Resp;
use crate::http::{BodyReader, ByteRange, Conditions, Source, conditional, error, set, text};
use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use caelum_swiftkit::{Timestamp, quorum_size};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ETAG: &str = "x-object-sysmeta-ec-etag";
const LENGTH: &str = "x-object-sysmeta-ec-content-length";

/// A fragment archive being read.
struct Archive {
    index: usize,
    node: Node,
    reader: BodyReader,
    /// Where in the archive the bytes begin, and where they end at least.
    extent: (u64, u64),
    /// Bytes before the first that is wanted.
    skip: u64,
}

impl Archive {
    fn new(index: usize, node: Node, response: Response<Body>) -> Self {
        let range = text(response.headers(), "content-range").and_then(parse_content_range);
        let extent = match (response.status().as_u16(), range) {
            (206, Some((first, last, length))) => (first, if last + 1 >= length { u64::MAX } else { last + 1 }),
            _ => (0, u64::MAX),
        };
        Self { index, node, reader: BodyReader::new(response.into_body()), extent, skip: 0 }
    }

    /// Goes to a place in the archive. False: it is not in what the node sends.
    fn seek(&mut self, (start, end): (u64, u64)) -> bool {
        let (first, last) = self.extent;
        self.skip = start.saturating_sub(first);
        first <= start && end <= last
    }

    /// Exactly so many bytes.
    async fn take(&mut self, size: usize) -> Option<Bytes> {
        while self.skip > 0 {
            let max = usize::try_from(self.skip).unwrap_or(usize::MAX);
            self.skip -= self.reader.chunk(max).await.ok()??.len() as u64;
        }
        self.reader.take(size).await.ok().filter(|data| data.len() == size)
    }
}

/// Fragments of one upload.
#[derive(Default)]
struct Bucket {
    /// By fragment index.
    found: BTreeMap<usize, (Node, Response<Body>)>,
    headers: Option<HeaderMap>,
    durable: bool,
    /// Nodes that have further fragments, by index.
    others: BTreeMap<usize, Vec<Node>>,
}

/// A search for k fragments.
struct Hunt {
    core: Arc<Core>,
    coding: Arc<Coding>,
    part: u32,
    entity: String,
    headers: HeaderMap,
    nodes: NodeIter,
    /// Only this upload is wanted (a read that goes on).
    only: Option<String>,
    buckets: BTreeMap<Timestamp, Bucket>,
    replies: Vec<Reply>,
    latest_404: Timestamp,
    asked_others: Vec<(u32, usize)>,
    /// Nodes that broke off before are asked when there is no other left.
    broken: Vec<u32>,
    put_off: Vec<Node>,
}

/// k or more fragments of one upload and what their nodes say of it.
struct Found {
    archives: Vec<Archive>,
    headers: HeaderMap,
}

impl Hunt {
    fn need(&self) -> usize {
        self.coding.codec.data()
    }

    /// The upload that is complete or nearest to it: durable ones first, then the newest.
    fn best(&self) -> Option<(Timestamp, &Bucket)> {
        let alive = self.buckets.iter().filter(|(t, _)| **t >= self.latest_404);
        let rank = |t: &Timestamp, b: &Bucket| (b.durable, b.found.len() >= self.need(), b.found.len() + b.others.len(), *t);
        alive.max_by_key(|(t, b)| rank(t, b)).map(|(t, b)| (*t, b))
    }

    fn complete(&self) -> bool {
        self.best().is_some_and(|(_, b)| b.durable && b.found.len() >= self.need())
    }

    /// Which fragments are wanted rather than others, for nodes that have several.
    fn preferences(&self) -> String {
        let mut all: Vec<(&Timestamp, &Bucket)> = self.buckets.iter().collect();
        all.sort_by_key(|(t, b)| std::cmp::Reverse((b.durable, b.found.len(), **t)));
        // With enough fragments only the word that they are durable is missing: any fragment may bring it.
        let known = |b: &Bucket| if b.durable || b.found.len() < self.need() { b.found.keys().copied().collect() } else { Vec::new() };
        let one = |(t, b): (&Timestamp, &Bucket)| serde_json::json!({"timestamp": t.internal(), "exclude": known(b)});
        serde_json::Value::Array(all.into_iter().map(one).collect()).to_string()
    }

    fn take(&mut self, node: Node, response: Response<Body>) {
        let h = response.headers();
        let first = |names: [&str; 3]| names.iter().map(|n| header_time(h, n)).find(|t| *t != Timestamp::ZERO).unwrap_or_default();
        let time = first(["x-backend-data-timestamp", "x-backend-timestamp", "x-timestamp"]);
        if let Some(map) = text(h, "x-backend-fragments").and_then(|f| serde_json::from_str::<serde_json::Value>(f).ok()) {
            for (t, list) in map.as_object().into_iter().flatten() {
                let Some(t) = Timestamp::parse(t) else { continue };
                let bucket = self.buckets.entry(t).or_default();
                for i in list.as_array().into_iter().flatten().filter_map(|i| usize::try_from(i.as_u64()?).ok()) {
                    bucket.others.entry(i).or_default().push(node.clone());
                }
            }
        }
        let durable = match (text(h, "x-backend-durable-timestamp"), text(h, "x-backend-data-timestamp")) {
            (Some(t), _) => Timestamp::parse(t),
            (None, None) => Some(time),
            (None, Some(_)) => None,
        };
        if let Some(t) = durable {
            self.buckets.entry(t).or_default().durable = true;
        }
        let Some(index) = text(h, "x-object-sysmeta-ec-frag-index").and_then(|i| i.trim().parse().ok()) else { return };
        if self.only.as_deref().is_some_and(|e| text(h, ETAG) != Some(e)) {
            return;
        }
        let bucket = self.buckets.entry(time).or_default();
        let known = bucket.headers.get_or_insert_with(|| h.clone());
        if text(known, ETAG) == text(h, ETAG) {
            bucket.found.entry(index).or_insert((node, response));
        }
    }

    async fn refused(&mut self, node: Node, response: Response<Body>) {
        let status = response.status().as_u16();
        let deleted = header_time(response.headers(), "x-backend-timestamp");
        if node.is_handoff() && (status >= 500 || status == 404) && deleted == Timestamp::ZERO {
            return;
        }
        self.core.check_status(&node, status, &Method::GET, &self.entity);
        if status == 404 {
            self.latest_404 = self.latest_404.max(deleted);
        }
        if let Some(reply) = self.core.read(&node, response).await {
            self.replies.push(reply);
        }
    }

    /// A node to ask next: first each once, then those that have more than one fragment.
    fn next(&mut self) -> Option<Node> {
        while let Some(node) = self.nodes.next() {
            if !self.broken.contains(&node.id()) {
                return Some(node);
            }
            self.put_off.push(node);
        }
        if let Some(node) = self.next_other() {
            return Some(node);
        }
        self.broken.clear();
        self.put_off.pop()
    }

    /// A node that has a further fragment of the best upload.
    fn next_other(&mut self) -> Option<Node> {
        let best = self.best().filter(|(_, b)| b.durable)?;
        let wanted = best.1.others.iter().filter(|(i, _)| !best.1.found.contains_key(i));
        let fresh = |(i, n): &(usize, &Node)| !self.asked_others.contains(&(n.id(), *i)) && !self.broken.contains(&n.id());
        let found = wanted.flat_map(|(i, nodes)| nodes.iter().map(|n| (*i, n))).find(fresh).map(|(i, n)| (i, n.clone()));
        let (index, node) = found?;
        self.asked_others.push((node.id(), index));
        Some(node)
    }

    async fn search(&mut self) {
        let mut running = FuturesUnordered::new();
        let start = self.need();
        loop {
            while running.len() < start.saturating_sub(self.best().map_or(0, |(_, b)| b.found.len())).max(1) {
                let Some(node) = self.next() else { break };
                let mut headers = self.headers.clone();
                set(&mut headers, "x-backend-fragment-preferences", self.preferences());
                let (core, part, entity) = (self.core.clone(), self.part, self.entity.clone());
                running.push(async move {
                    let timeout = core.options.recoverable_node_timeout;
                    let r = NodeRequest { method: &Method::GET, part, entity: &entity, timeout, digest: None };
                    let response = core.send(&node, &r, headers, caelum_rest::empty()).await;
                    (node, response)
                });
            }
            let Some((node, response)) = running.next().await else { return };
            match response {
                Some(r) if is_success(r.status().as_u16()) => self.take(node, r),
                Some(r) => self.refused(node, r).await,
                None => {}
            }
            if self.complete() {
                return;
            }
        }
    }

    /// Errors: what the client gets instead.
    async fn run(mut self) -> Result<Found, Resp> {
        self.search().await;
        let best = self.best().map(|(t, _)| t);
        let complete = self.complete();
        if let (true, Some(t)) = (complete, best)
            && let Some(bucket) = self.buckets.remove(&t)
        {
            let need = self.need();
            // Data fragments come first: they need no arithmetic.
            let found = bucket.found.into_iter().take(need);
            let archive = |(index, (node, r)): (usize, (Node, Response<Body>))| Archive::new(index, node, r);
            return Ok(Found { archives: found.map(archive).collect(), headers: bucket.headers.unwrap_or_default() });
        }
        let durable = best.and_then(|t| self.buckets.get(&t)).is_some_and(|b| b.durable);
        if durable {
            // It exists; fragments are missing just now.
            return Err(error(503));
        }
        if self.replies.is_empty() && best.is_some() {
            self.replies.push(Reply::none(404));
        }
        Err(best_response(&self.replies, quorum_size(self.replies.len()), &[], None, "Object GET"))
    }
}

/// How to look for an object's fragments, again and again.
#[derive(Clone)]
struct Search {
    core: Arc<Core>,
    coding: Arc<Coding>,
    ring: Arc<caelum_ring::Ring>,
    part: u32,
    policy: u32,
    entity: String,
    headers: HeaderMap,
}

impl Search {
    /// Fragments of the segments from `first` up to and without `last`, of the upload with this ETag.
    async fn find_segments(&self, (first, last): (u64, u64), etag: &str, broken: &[u32]) -> Result<Found, Resp> {
        let size = self.coding.fragment();
        let range = format!("bytes={}-{}", first * size, (last * size).saturating_sub(1));
        self.find(Some(range), Some(etag), broken).await
    }

    /// Archives that go on with the first of the ranges: these, if it is in them.
    async fn for_first(&self, mut archives: Vec<Archive>, ranges: &[ByteRange], length: u64, etag: &str) -> Result<Vec<Archive>, Resp> {
        let Some((start, end)) = ranges.first().filter(|(start, end)| start < end) else { return Ok(archives) };
        let (size, fragment) = (self.coding.segment as u64, self.coding.fragment());
        let segments = (start / size, end.div_ceil(size));
        let place = (segments.0 * fragment, (segments.1 * fragment).min(self.coding.archive_length(length)));
        if !archives.is_empty() && archives.iter_mut().all(|a| a.seek(place)) {
            return Ok(archives);
        }
        Ok(self.find_segments(segments, etag, &[]).await?.archives)
    }

    /// Fragments of the archives' bytes of a range, or all. `only`: the upload's ETag where it is known.
    async fn find(&self, range: Option<String>, only: Option<&str>, broken: &[u32]) -> Result<Found, Resp> {
        let mut headers = self.headers.clone();
        if let Some(range) = range {
            headers.insert(header::RANGE, HeaderValue::from_str(&range).map_err(|_| error(500))?);
        }
        let nodes = NodeIter::new(&self.core, &self.ring, self.part, self.core.options.policy(Some(self.policy)));
        let hunt = Hunt {
            core: self.core.clone(),
            coding: self.coding.clone(),
            part: self.part,
            entity: self.entity.clone(),
            headers,
            nodes,
            only: only.map(str::to_string),
            buckets: BTreeMap::new(),
            replies: Vec::new(),
            latest_404: Timestamp::ZERO,
            asked_others: Vec::new(),
            broken: broken.to_vec(),
            put_off: Vec::new(),
        };
        hunt.run().await
    }
}

/// An object being decoded.
struct Decode {
    search: Search,
    etag: String,
    length: u64,
    archives: Vec<Archive>,
    /// Searches left.
    attempts: usize,
    /// Nodes that broke off or fell silent.
    broken: Vec<u32>,
}

impl Decode {
    fn segment_length(&self, segment: u64) -> usize {
        let size = self.search.coding.segment as u64;
        usize::try_from(size.min(self.length.saturating_sub(segment * size))).unwrap_or(0)
    }

    /// Reads a segment's fragments from all nodes at once.
    async fn fragments(&mut self, segment: u64) -> Result<Vec<Bytes>, ()> {
        let size = self.search.coding.codec.fragment_size(self.segment_length(segment));
        let timeout = self.search.core.options.recoverable_node_timeout;
        let mut out = Vec::with_capacity(self.archives.len());
        let reads = self.archives.iter_mut().map(|a| read_fragment(a, size, timeout));
        let mut failed = Vec::new();
        for (i, r) in join_all(reads).await.into_iter().enumerate() {
            match r {
                Some(b) => out.push(b),
                None => failed.push(i),
            }
        }
        for i in &failed {
            let a = &self.archives[*i];
            self.search.core.failed(&a.node, "reading a fragment broke off", &format!("fragment {}", a.index));
            self.broken.push(a.node.id());
        }
        if failed.is_empty() { Ok(out) } else { Err(()) }
    }

    async fn decode(coding: Arc<Coding>, fragments: Vec<Bytes>) -> Result<Vec<u8>, BoxError> {
        let work = move || {
            let all: Vec<&[u8]> = fragments.iter().map(|f| &f[..]).collect();
            coding.codec.decode(&all)
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    /// Sends the object's bytes from `start` up to and without `end`. Errors: no more fragments, or the
    /// client has gone.
    async fn send(&mut self, (start, end): (u64, u64), tx: &tokio::sync::mpsc::Sender<Result<Bytes, BoxError>>) -> Result<(), BoxError> {
        let size = self.search.coding.segment as u64;
        let last = end.div_ceil(size);
        let mut segment = start / size;
        while segment < last {
            if self.archives.is_empty() {
                self.attempts = self.attempts.checked_sub(1).ok_or("fragments broke off too often")?;
                let found = self.search.find_segments((segment, last), &self.etag, &self.broken).await;
                self.archives = found.map_err(|_| "the rest of the object cannot be read now")?.archives;
            }
            let Ok(fragments) = self.fragments(segment).await else {
                self.archives.clear();
                continue;
            };
            let mut data = Bytes::from(Self::decode(self.search.coding.clone(), fragments).await?);
            let at = segment * size;
            data.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            let skip = usize::try_from(start.saturating_sub(at)).unwrap_or(0).min(data.len());
            let _ = data.split_to(skip);
            tx.send(Ok(data)).await.map_err(|_| "the client has gone")?;
            segment += 1;
        }
        Ok(())
    }

    /// The bytes of the ranges one after another.
    fn body(mut self, ranges: Vec<(u64, u64)>) -> Body {
        let (tx, body) = caelum_rest::stream_channel(1);
        tokio::spawn(async move {
            for range in ranges {
                if let Err(e) = self.send(range, &tx).await {
                    // Nobody reads on: then nobody needs the reason.
                    let _ = tx.send(Err(e)).await;
                    return;
                }
                // The next range begins elsewhere.
                self.archives.clear();
                self.attempts += 1;
            }
        });
        body
    }
}

async fn read_fragment(a: &mut Archive, size: usize, timeout: Duration) -> Option<Bytes> {
    tokio::time::timeout(timeout, a.take(size)).await.ok()?
}

impl Core {
    pub(crate) async fn read_fragments(self: Arc<Self>, rq: Rq, place: Place, coding: Coding) -> Resp {
        let head = rq.method() == Method::HEAD;
        let mut headers = rq.forwarded_headers();
        let ask = text(&headers, "x-backend-etag-is-at").map_or_else(|| ETAG.to_string(), |old| format!("{old},{ETAG}"));
        set(&mut headers, "x-backend-etag-is-at", ask);
        let entity = match rq.parts.uri.query() {
            Some(q) if !q.is_empty() => format!("{}?{q}", rq.entity),
            _ => rq.entity.clone(),
        };
        if head {
            let mut resp = self.head_fragment(&place, entity, headers).await;
            let of = resp.headers().get(header::CONTENT_TYPE).cloned();
            finish(&mut resp);
            if matches!(resp.status().as_u16(), 304 | 412) {
                set(resp.headers_mut(), "content-length", "0");
            }
            if let (304, Some(of)) = (resp.status().as_u16(), of) {
                resp.headers_mut().insert(header::CONTENT_TYPE, of);
            }
            return resp;
        }
        let mut conditions = Conditions::of(&http::Request::from_parts(rq.parts.clone(), caelum_rest::empty()));
        let ignore = text(&headers, "x-backend-ignore-range-if-metadata-present").map(str::to_ascii_lowercase);
        for name in ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"] {
            headers.remove(name);
        }
        let attempts = place.n;
        let search = Search {
            core: self.clone(),
            coding: Arc::new(coding),
            ring: place.ring.clone(),
            part: place.part,
            policy: place.policy.index,
            entity,
            headers,
        };
        let (archives, of) = match self.begin(&search, &place, &conditions).await {
            Ok(begun) => begun,
            Err(answer) => return answer,
        };
        if ignore.is_some_and(|i| i.split(',').any(|n| of.contains_key(n.trim()))) {
            conditions.range = None;
        }
        let length = text(&of, LENGTH).and_then(|l| l.parse().ok()).unwrap_or(0);
        let ranges = conditions.range.as_ref().map_or_else(|| vec![(0, length)], |r| r.for_length(length));
        let etag = text(&of, ETAG).unwrap_or_default().to_string();
        let resp = Self::whole_response(&of);
        if conditions.unmet(resp.status(), resp.headers()).is_some() {
            let mut resp = conditional(&conditions, resp, Source::Ranged(caelum_rest::empty()), &self.env);
            finish(&mut resp);
            return resp;
        }
        // Before anything is promised to the client.
        let archives = match search.for_first(archives, &ranges, length, &etag).await {
            Ok(archives) => archives,
            Err(refusal) => return refusal,
        };
        let body = Decode { search, etag, length, archives, attempts, broken: Vec::new() }.body(ranges);
        let mut resp = conditional(&conditions, resp, Source::Ranged(body), &self.env);
        finish(&mut resp);
        resp
    }

    /// Fragments of what is wanted, or none yet, and what nodes say of it.
    async fn begin(self: &Arc<Self>, search: &Search, place: &Place, wanted: &Conditions) -> Result<(Vec<Archive>, HeaderMap), Resp> {
        let Some(ranges) = &wanted.range else {
            let found = search.find(None, None, &[]).await?;
            return Ok((found.archives, found.headers));
        };
        let with_conditions = wanted.if_match.is_some()
            || wanted.if_none_match.is_some()
            || wanted.if_modified_since.is_some()
            || wanted.if_unmodified_since.is_some();
        // The fragments of one range can be asked for without knowing the object's length.
        if let Some(range) = search.coding.fragment_range(ranges).filter(|_| !with_conditions) {
            match search.find(Some(range), None, &[]).await {
                Ok(found) => return Ok((found.archives, found.headers)),
                Err(refusal) if refusal.status() != http::StatusCode::RANGE_NOT_SATISFIABLE => return Err(refusal),
                Err(_) => {}
            }
        }
        let resp = self.head_fragment(place, search.entity.clone(), search.headers.clone()).await;
        if resp.status().is_success() { Ok((Vec::new(), resp.headers().clone())) } else { Err(resp) }
    }

    async fn head_fragment(self: &Arc<Self>, place: &Place, entity: String, headers: HeaderMap) -> Resp {
        let policy = Some(place.policy.index);
        let wanted = Wanted { kind: Kind::Object, method: Method::HEAD, part: place.part, entity, headers, policy };
        let mut resp = Getter::new(self, &place.ring, wanted).respond().await;
        whole(resp.status(), resp.headers_mut());
        resp
    }

    /// 200 with the whole object's headers.
    fn whole_response(of: &HeaderMap) -> Resp {
        let mut resp = Response::new(caelum_rest::empty());
        let h = resp.headers_mut();
        copy_headers(of, h);
        h.remove(header::CONTENT_RANGE);
        if let Some(t) = of.get(header::CONTENT_TYPE) {
            h.insert(header::CONTENT_TYPE, t.clone());
        }
        h.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(l) = of.get(LENGTH) {
            h.insert(header::CONTENT_LENGTH, l.clone());
        }
        whole(http::StatusCode::OK, h);
        resp
    }
}

/// The object's ETag and length in place of the fragment's.
fn whole(status: http::StatusCode, headers: &mut HeaderMap) {
    for (from, to) in [(ETAG, header::ETAG), (LENGTH, header::CONTENT_LENGTH)] {
        if let Some(v) = headers.get(from).cloned().filter(|_| status.is_success() || to == header::ETAG) {
            headers.insert(to, v);
        }
    }
}

/// Clients and layers need not know how an object is kept.
fn finish(resp: &mut Resp) {
    let names: Vec<http::HeaderName> = resp.headers().keys().filter(|n| n.as_str().starts_with("x-object-sysmeta-ec-")).cloned().collect();
    for name in names {
        resp.headers_mut().remove(name);
    }
    // As upstream words refusals that the conditions made of an answer.
    if matches!(resp.status().as_u16(), 304 | 412 | 416) {
        set(resp.headers_mut(), "content-type", "text/html; charset=UTF-8");
    }
    if resp.status().as_u16() == 412 {
        resp.headers_mut().remove(header::ACCEPT_RANGES);
    }
}
