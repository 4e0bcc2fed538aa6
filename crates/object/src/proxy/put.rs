//! Storing an object's data on a quorum of nodes.
//!
//! Small objects are read whole and then sent like any other small request, so that a node which fails at
//! any moment is replaced. Larger ones are streamed to all nodes at once: each has a short queue, one that
//! does not keep up within the node's time is given up, and below a quorum the upload ends.

use super::backend::{Core, Node, NodeIter, NodeRequest, Reply, SharedNodes, address, is_success, next_node};
use super::ec_put::Coding;
use super::getter::set_last_modified;
use super::object::Place;
use super::quorum::{ToNodes, best_response, have_quorum, quorum_reached};
use super::request::Rq;
use crate::env::{Footers, Resp};
use crate::http::{error, error_html, set, text};
use bytes::Bytes;
use caelum_rest::{Body, BoxError, Interim, InterimHeaders};
use caelum_swiftkit::{UploadDigest, md5_hex, quorum_size};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use md5::{Digest, Md5};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Objects up to this are read whole before any node is asked.
const SMALL_OBJECT: u64 = 65_536;
/// Pieces waiting for a node at most.
const QUEUE: usize = 8;
/// A request that carries an object has no time of its own: each piece and the answer have theirs.
const WHOLE_UPLOAD: Duration = Duration::from_secs(30 * 24 * 3_600);

pub(crate) type Piece = Result<Bytes, BoxError>;

/// Reads the client's data.
pub(crate) struct ClientBody {
    body: Body,
    timeout: Duration,
    read: u64,
    pub expected: Option<u64>,
    limit: u64,
    wants_footers: bool,
    footers: Option<HeaderMap>,
}

impl ClientBody {
    fn new(core: &Core, rq: &mut Rq) -> Self {
        let body = rq.take_body();
        let chunked = rq.headers().contains_key(header::TRANSFER_ENCODING);
        let declared = text(rq.headers(), "content-length").and_then(|l| l.parse().ok()).filter(|_| !chunked);
        Self {
            expected: declared.or_else(|| http_body::Body::size_hint(&body).exact()),
            body,
            timeout: core.options.client_timeout,
            read: 0,
            limit: core.options.limits.max_file_size,
            wants_footers: rq.parts.extensions.get::<Footers>().is_some(),
            footers: None,
        }
    }

    /// The next piece; `None` at the end. Errors: 408, 413, 499.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Resp> {
        loop {
            let frame = match tokio::time::timeout(self.timeout, self.body.frame()).await {
                Err(_) => return Err(error(408)),
                Ok(Some(Err(_))) => return Err(error(499)),
                Ok(None) if self.expected.is_some_and(|n| self.read < n) => return Err(error(499)),
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.read += data.len() as u64;
                    if self.read > self.limit {
                        return Err(error(413));
                    }
                    if self.expected.is_some_and(|n| self.read > n) {
                        return Err(error(400));
                    }
                    return Ok(Some(data));
                }
                Err(frame) => {
                    if let (true, Ok(trailers)) = (self.wants_footers, frame.into_trailers()) {
                        self.footers = Some(trailers);
                    }
                }
            }
        }
    }

    async fn whole(&mut self) -> Result<Bytes, Resp> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        // Usually all of a small object arrives at once, and nothing is copied.
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut all = Vec::with_capacity(first.len() + second.len());
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }

    /// Metadata that came after the data. `None`: the request has none.
    pub(crate) fn tail(&mut self) -> Option<HeaderMap> {
        self.wants_footers.then(|| self.footers.take().unwrap_or_default())
    }
}

/// The MIME document in which data and the metadata known only after it travel to an object server.
pub(crate) struct Mime {
    boundary: String,
}

impl Mime {
    pub(crate) fn new(core: &Core) -> Self {
        let boundary = caelum_swiftkit::to_hex(&core.env.bytes(32));
        Self { boundary }
    }

    /// What announces the document.
    pub(crate) fn announce(&self, headers: &mut HeaderMap, multiphase: bool) {
        if let Some(length) = headers.remove(header::CONTENT_LENGTH)
            && !headers.contains_key("x-backend-obj-content-length")
        {
            headers.insert("x-backend-obj-content-length", length);
        }
        // The document's length is not the object's, so it must not be told.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        set(headers, "x-backend-obj-multipart-mime-boundary", &self.boundary);
        set(headers, "x-backend-obj-metadata-footer", "yes");
        if multiphase {
            set(headers, "x-backend-obj-multiphase-commit", "yes");
        }
    }

    pub(crate) fn head(&self) -> Bytes {
        format!("--{}\r\nX-Document: object body\r\n\r\n", self.boundary).into()
    }

    /// The part with the metadata, and the end of the document unless a commit follows.
    pub(crate) fn footer(&self, metadata: &serde_json::Value, last: bool) -> Bytes {
        let (b, json) = (&self.boundary, metadata.to_string());
        let md5 = md5_hex(json.as_bytes());
        let end = if last { "--" } else { "" };
        format!("\r\n--{b}\r\nX-Document: object metadata\r\nContent-MD5: {md5}\r\n\r\n{json}\r\n--{b}{end}\r\n").into()
    }

    /// The part that makes the data durable.
    pub(crate) fn commit(&self) -> Bytes {
        format!("X-Document: put commit\r\n\r\nput_commit_confirmation\r\n--{}--", self.boundary).into()
    }
}

/// Footers as the document has them.
pub(crate) fn footer_json(footers: &HeaderMap) -> serde_json::Value {
    let field = |(k, v): (&http::HeaderName, &HeaderValue)| {
        (k.as_str().to_string(), serde_json::Value::from(String::from_utf8_lossy(v.as_bytes()).into_owned()))
    };
    serde_json::Value::Object(footers.iter().map(field).collect())
}

impl Core {
    /// Stores the request's data; `headers` is one set for each node.
    pub(crate) async fn store(self: Arc<Self>, mut rq: Rq, place: Place, headers: Vec<HeaderMap>) -> Resp {
        if place.n == 0 {
            return error(404);
        }
        let mut body = ClientBody::new(&self, &mut rq);
        if body.expected.is_some_and(|n| n > self.options.limits.max_file_size) {
            return error_html(413, "Your request is too large.");
        }
        if let Some(coding) = Coding::of(&place.policy.kind) {
            return self.store_fragments(&rq, &place, coding, headers, &mut body).await;
        }
        if place.policy.is_ec() {
            return error_html(503, "Unknown Storage Policy");
        }
        let replies = if body.expected.is_some_and(|n| n <= SMALL_OBJECT) {
            self.clone().store_small(&rq, &place, headers, &mut body).await
        } else {
            self.clone().store_stream(&rq, &place, headers, &mut body).await
        };
        match replies {
            Ok(replies) => put_response(&rq, &replies),
            Err(refusal) => refusal,
        }
    }

    pub(crate) fn put_nodes(self: &Arc<Self>, place: &Place) -> NodeIter {
        NodeIter::local_first(self, &place.ring, place.part, self.options.policy(Some(place.policy.index)), false)
    }

    async fn store_small(
        self: Arc<Self>,
        rq: &Rq,
        place: &Place,
        mut headers: Vec<HeaderMap>,
        body: &mut ClientBody,
    ) -> Result<Vec<Reply>, Resp> {
        let mut data = body.whole().await?;
        let length = HeaderValue::from(data.len());
        for h in &mut headers {
            h.insert(header::CONTENT_LENGTH, length.clone());
        }
        // One checksum serves all servers of this process.
        let digest = self.nodes.any_local().then(UploadDigest::default);
        if let Some(digest) = &digest {
            digest.set(data.len() as u64, &Md5::digest(&data));
        }
        if let Some(footers) = body.tail() {
            let mime = Mime::new(&self);
            let parts = [mime.head(), data, mime.footer(&footer_json(&footers), true)];
            data = parts.concat().into();
            for h in &mut headers {
                mime.announce(h, false);
            }
        }
        let nodes = self.put_nodes(place);
        let (part, entity) = (place.part, rq.entity.clone());
        let request = ToNodes { core: self.clone(), method: Method::PUT, part, entity, headers, body: data, digest };
        let (replies, _) = Arc::new(request).gather(nodes, place.n, quorum_reached).await;
        Ok(replies)
    }

    async fn store_stream(
        self: Arc<Self>,
        rq: &Rq,
        place: &Place,
        mut headers: Vec<HeaderMap>,
        body: &mut ClientBody,
    ) -> Result<Vec<Reply>, Resp> {
        let mime = body.wants_footers.then(|| Mime::new(&self));
        for h in &mut headers {
            match body.expected {
                Some(n) => drop(h.insert(header::CONTENT_LENGTH, HeaderValue::from(n))),
                None => drop(h.remove(header::CONTENT_LENGTH)),
            }
            if let Some(mime) = &mime {
                mime.announce(h, false);
            }
        }
        let nodes = Arc::new(Mutex::new(self.put_nodes(place)));
        let digest = self.nodes.any_local().then(UploadDigest::default);
        let putters = self.connect(rq, place.part, &nodes, headers, digest.as_ref()).await;
        let min = quorum_size(place.n);
        let mut upload = Upload { digest, ..Upload::new(self.clone(), putters) };
        upload.refused_early(rq, min)?;
        match upload.transfer(body, mime.as_ref(), min).await {
            Ok(()) => Ok(upload.finish(place.n, 0).await),
            Err(refusal) => {
                upload.abort().await;
                Err(refusal)
            }
        }
    }

    /// Finds a node for each set of headers that is ready to take data.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        rq: &Rq,
        part: u32,
        nodes: &SharedNodes,
        headers: Vec<HeaderMap>,
        digest: Option<&UploadDigest>,
    ) -> Vec<Putter> {
        let r = NodeRequest { method: &Method::PUT, part, entity: &rq.entity, timeout: WHOLE_UPLOAD, digest };
        let each = headers.into_iter().map(|h| self.connect_one(&r, nodes, h));
        join_all(each).await.into_iter().flatten().collect()
    }

    async fn connect_one(self: &Arc<Self>, r: &NodeRequest<'_>, nodes: &SharedNodes, headers: HeaderMap) -> Option<Putter> {
        while let Some(node) = next_node(nodes) {
            if let Some(putter) = self.start(&node, r, headers.clone()).await {
                return Some(putter);
            }
        }
        None
    }

    /// Begins an upload to a node and waits until it wants the data or answers without it. `None`: it
    /// failed.
    async fn start(self: &Arc<Self>, node: &Node, r: &NodeRequest<'_>, mut headers: HeaderMap) -> Option<Putter> {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        let (ip, port) = address(node.dev(), &headers);
        let (ip, local) = (ip.to_string(), self.nodes.is_local(ip, port));
        let (tx, rx) = mpsc::channel::<Piece>(QUEUE);
        let (ready, mut wanted) = oneshot::channel::<()>();
        let (interim, mut events) = Interim::channel();
        let two_phases = headers.contains_key("x-backend-obj-multiphase-commit");
        let request = self.request(node, r, headers, caelum_rest::empty())?;
        let (nodes, core, of) = (self.nodes.clone(), self.clone(), node.clone());
        let task = tokio::spawn(async move {
            let sent = if two_phases && !local {
                let (head, _) = request.into_parts();
                let request = http::Request::from_parts(head, ());
                super::wire::upload(&ip, port, request, rx, interim).await.map_err(|e| format!("{ip}:{port}: {e}"))
            } else {
                // A server in this process asks for the body when it wants it; the client library of another
                // one asks at once, and only the server's `100 Continue` tells.
                let mut request = request.map(|_| gated(rx, local.then_some(ready)));
                request.extensions_mut().insert(interim);
                nodes.send(&ip, port, request, WHOLE_UPLOAD).await.map_err(|e| e.0)
            };
            match sent {
                Ok(response) => core.read(&of, response).await,
                Err(e) => {
                    core.failed(&of, "a storage server broke off an upload", &e);
                    None
                }
            }
        });
        let mut answer: BoxFuture<'static, Option<Reply>> = Box::pin(async move { task.await.ok().flatten() });
        let early = tokio::select! {
            biased;
            Some(_) = events.recv() => None,
            Ok(()) = &mut wanted => None,
            reply = &mut answer => Some(reply?),
            () = tokio::time::sleep(self.options.node_timeout) => {
                self.failed(node, "a storage server did not begin an upload", "no answer in time");
                return None;
            }
        };
        if let Some(reply) = &early
            && !self.check_status(node, reply.status, r.method, r.entity)
        {
            return None;
        }
        let tx = early.is_none().then_some(tx);
        Some(Putter { node: node.clone(), tx, answer, early, events, local, failed: false })
    }
}

/// A body that tells when it is first asked for.
fn gated(rx: mpsc::Receiver<Piece>, tell: Option<oneshot::Sender<()>>) -> Body {
    let next = |(mut rx, tell): (mpsc::Receiver<Piece>, Option<oneshot::Sender<()>>)| async move {
        if let Some(tell) = tell {
            // Nobody listens any more: then the upload has been given up.
            let _ = tell.send(());
        }
        loop {
            let piece = rx.recv().await?;
            // An empty piece is only for nodes that want messages told apart.
            if piece.as_ref().map_or(true, |p| !p.is_empty()) {
                return Some((piece.map(Frame::data), (rx, None)));
            }
        }
    };
    StreamBody::new(futures_util::stream::unfold((rx, tell), next)).boxed_unsync()
}

/// A node that takes an object's data.
pub(crate) struct Putter {
    pub node: Node,
    tx: Option<mpsc::Sender<Piece>>,
    answer: BoxFuture<'static, Option<Reply>>,
    /// Answered before the data.
    early: Option<Reply>,
    /// Its `100 Continue` responses.
    events: mpsc::UnboundedReceiver<InterimHeaders>,
    local: bool,
    pub failed: bool,
}

impl Putter {
    /// Queues a piece. The node has `time` to make room; one that has stopped reading may still answer.
    pub(crate) async fn send(&mut self, core: &Core, data: Bytes, time: Duration) {
        let Some(tx) = &self.tx else { return };
        let sent = match tx.try_send(Ok(data)) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(data)) => tokio::time::timeout(time, tx.send(data)).await,
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(Err(mpsc::error::SendError(Ok(Bytes::new())))),
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.tx = None,
            Err(_) => {
                core.failed(&self.node, "a storage server takes data too slowly", "given up");
                self.failed = true;
                self.tx = None;
            }
        }
        if self.tx.is_none() && !self.failed {
            // It reads no more: what it says now is its last word.
            let reply = tokio::time::timeout(time, &mut self.answer).await.ok().flatten();
            self.failed = reply.as_ref().is_none_or(|r| r.status >= 500);
            self.early = reply;
        }
    }

    /// No more data comes.
    pub(crate) fn end(&mut self) {
        self.tx = None;
    }

    /// Waits for the node's word that it has stored what was sent. False: it failed or said something else.
    pub(crate) async fn stored(&mut self, time: Duration) -> bool {
        let Self { events, local, answer, .. } = self;
        let wait = async {
            loop {
                tokio::select! {
                    biased;
                    event = events.recv() => match event {
                        // In this process the announcement may still be waiting; it has headers.
                        Some(headers) if *local && !headers.is_empty() => {}
                        Some(_) => return Ok(()),
                        None => return Err(answer.await),
                    },
                    reply = &mut *answer => return Err(reply),
                }
            }
        };
        match tokio::time::timeout(time, wait).await {
            Ok(Ok(())) => true,
            Ok(Err(reply)) => {
                self.failed = reply.is_none();
                (self.early, self.tx) = (reply, None);
                false
            }
            Err(_) => {
                (self.failed, self.tx) = (true, None);
                false
            }
        }
    }

    async fn reply(&mut self, timeout: Duration) -> Option<Reply> {
        if let Some(early) = self.early.take() {
            return Some(early);
        }
        if self.failed {
            return None;
        }
        tokio::time::timeout(timeout, &mut self.answer).await.ok().flatten()
    }
}

/// An upload under way.
pub(crate) struct Upload {
    pub core: Arc<Core>,
    pub putters: Vec<Putter>,
    /// Told to servers of this process at the end.
    digest: Option<UploadDigest>,
}

impl Upload {
    pub(crate) fn new(core: Arc<Core>, putters: Vec<Putter>) -> Self {
        Self { core, putters, digest: None }
    }

    /// What nodes said before any data may settle it.
    pub(crate) fn refused_early(&self, rq: &Rq, min: usize) -> Result<(), Resp> {
        let early = |status| self.putters.iter().any(|p| p.early.as_ref().is_some_and(|r| r.status == status));
        if rq.headers().contains_key(header::IF_NONE_MATCH) && early(412) {
            return Err(error(412));
        }
        if early(409) {
            return Err(error(202));
        }
        self.enough(min)
    }

    pub(crate) fn enough(&self, min: usize) -> Result<(), Resp> {
        let alive = self.putters.iter().filter(|p| !p.failed).count();
        if alive < min {
            tracing::error!(alive, min, "Object PUT: too few storage servers");
            return Err(error(503));
        }
        Ok(())
    }

    async fn send(&mut self, data: &Bytes) {
        let (core, time) = (&self.core, self.core.options.node_timeout);
        let all = self.putters.iter_mut().filter(|p| !p.failed).map(|p| p.send(core, data.clone(), time));
        join_all(all).await;
    }

    /// Sends each node its own piece.
    pub(crate) async fn send_each(&mut self, pieces: Vec<Option<Bytes>>) {
        let (core, time) = (&self.core, self.core.options.node_timeout);
        let all = self.putters.iter_mut().zip(pieces).filter(|(p, _)| !p.failed);
        join_all(all.filter_map(|(p, data)| Some(p.send(core, data?, time)))).await;
    }

    async fn transfer(&mut self, body: &mut ClientBody, mime: Option<&Mime>, min: usize) -> Result<(), Resp> {
        if let Some(mime) = mime {
            self.send(&mime.head()).await;
        }
        let mut md5 = self.digest.is_some().then(Md5::new);
        while let Some(piece) = body.next().await? {
            self.send(&piece).await;
            if let Some(md5) = &mut md5 {
                md5.update(&piece);
            }
            self.enough(min)?;
            if self.putters.iter().all(|p| p.tx.is_none()) {
                break;
            }
        }
        // Whether all has come, servers see by the length.
        if let (Some(digest), Some(md5)) = (&self.digest, md5) {
            digest.set(body.read, &md5.finalize());
        }
        if let (Some(mime), Some(footers)) = (mime, body.tail()) {
            self.send(&mime.footer(&footer_json(&footers), true)).await;
        }
        for p in &mut self.putters {
            p.end();
        }
        self.enough(min)
    }

    /// Ends the upload so that no node takes what it has for the whole.
    pub(crate) async fn abort(&mut self) {
        for p in &mut self.putters {
            if let Some(tx) = p.tx.take() {
                let why = BoxError::from("the upload was broken off");
                // A full queue is not waited for: dropping the sender alone would look like the end.
                if let Err(mpsc::error::TrySendError::Full(piece)) = tx.try_send(Err(why)) {
                    tokio::spawn(async move { drop(tx.send(piece).await) });
                }
            }
        }
    }

    /// Collects what the nodes say in the end, until a quorum agrees or, with `min`, that many succeed.
    pub(crate) async fn finish(mut self, n: usize, min: usize) -> Vec<Reply> {
        let timeout = self.core.options.node_timeout;
        let core = self.core.clone();
        let mut running = FuturesUnordered::new();
        for mut p in self.putters.drain(..) {
            let core = core.clone();
            running.push(async move {
                let reply = p.reply(timeout).await?;
                core.check_status(&p.node, reply.status, &Method::PUT, "upload");
                Some(reply)
            });
        }
        let mut replies: Vec<Reply> = Vec::with_capacity(n);
        while let Some(reply) = running.next().await {
            replies.extend(reply);
            let statuses: Vec<u16> = replies.iter().map(|r| r.status).collect();
            let successes = statuses.iter().filter(|s| is_success(**s)).count();
            if if min > 0 { successes >= min } else { have_quorum(&statuses, quorum_size(n)) } {
                break;
            }
        }
        let late = async {
            while let Some(reply) = running.next().await {
                replies.extend(reply);
            }
        };
        if tokio::time::timeout(core.options.post_quorum_timeout, late).await.is_err() {
            tokio::spawn(async move { while running.next().await.is_some() {} });
        }
        while replies.len() < n {
            replies.push(Reply::none(503));
        }
        replies
    }
}

/// The client's answer from the nodes'.
pub(crate) fn put_response(rq: &Rq, replies: &[Reply]) -> Resp {
    let has = |status| replies.iter().any(|r| r.status == status);
    if rq.headers().contains_key(header::IF_NONE_MATCH) && has(412) {
        return error(412);
    }
    // A newer object or deletion is there already: this one is accepted and has no effect.
    if has(409) {
        return error(202);
    }
    let plain = |r: &Reply| text(&r.headers, "etag").map(|e| e.trim_matches('"').to_string());
    let etags: BTreeSet<String> = replies.iter().filter(|r| is_success(r.status)).filter_map(plain).collect();
    if etags.len() > 1 {
        tracing::error!(?etags, "object servers returned different etags");
        return error(500);
    }
    let mut resp = best_response(replies, quorum_size(replies.len()), &[], etags.first().map(String::as_str), "Object PUT");
    if resp.status().is_success() {
        set_last_modified(resp.headers_mut(), rq.timestamp);
    }
    resp
}
