//! Requests to storage nodes: which nodes, in which order, and what became of them.

use super::limiter::ErrorLimiter;
use super::options::{PolicyOptions, ProxyOptions, Sorting};
use super::state::InfoCache;
use bytes::Bytes;
use caelum_base::Env;
use caelum_rest::Body;
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{Nodes, SwiftConf, Timestamp, UploadDigest};
use http::{HeaderMap, Method, Request, Response, Uri};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// Bodies of refusals and of small answers are read up to this.
pub(crate) const SMALL_BODY: usize = 1 << 20;
/// How long measured answering times count (`timing_expiry`).
const TIMING_EXPIRY: Duration = Duration::from_secs(300);

/// What all requests share.
pub(crate) struct Core {
    pub rings: Rings,
    pub nodes: Nodes,
    pub swift: Arc<SwiftConf>,
    pub env: Env,
    pub options: ProxyOptions,
    pub limiter: ErrorLimiter,
    pub infos: InfoCache,
    sorts_by_timing: bool,
    timings: RwLock<HashMap<String, (u64, i64)>>,
    last_timestamp: AtomicU64,
    shuffle_state: AtomicU64,
}

/// A device that a request may be sent to.
#[derive(Clone)]
pub(crate) struct Node {
    ring: Arc<Ring>,
    id: u32,
    /// Position among the primaries; `None` for a handoff.
    pub index: Option<usize>,
}

impl Node {
    pub(crate) fn dev(&self) -> &Device {
        self.ring.device(self.id).expect("nodes are made from devices of their ring")
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn is_handoff(&self) -> bool {
        self.index.is_none()
    }
}

/// What a node answered, its body read.
#[derive(Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub node: Option<Node>,
}

impl Reply {
    /// Stands for a node that did not answer.
    pub(crate) fn none(status: u16) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), node: None }
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        header_time(&self.headers, "x-backend-timestamp")
    }
}

pub(crate) fn header_time(headers: &HeaderMap, name: &str) -> Timestamp {
    crate::http::text(headers, name).and_then(Timestamp::parse).unwrap_or_default()
}

pub(crate) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// A request for one node, except which node.
pub(crate) struct NodeRequest<'a> {
    pub method: &'a Method,
    pub part: u32,
    /// `/account/container/object`, percent-encoded, with the query if any.
    pub entity: &'a str,
    pub timeout: Duration,
    /// Of the object that is sent, for nodes in this process.
    pub digest: Option<&'a UploadDigest>,
}

impl Core {
    pub(crate) fn new(
        rings: Rings,
        nodes: Nodes,
        swift: Arc<SwiftConf>,
        env: Env,
        options: ProxyOptions,
        cache: Option<Arc<dyn super::Cache>>,
    ) -> Self {
        let timing = |p: &PolicyOptions| p.sorting_method == Sorting::Timing;
        let limiter = ErrorLimiter::new(env.clone(), options.error_suppression_interval, options.error_suppression_limit);
        Self {
            sorts_by_timing: timing(&options.policy_defaults) || options.policy_options.values().any(timing),
            limiter,
            infos: InfoCache::new(env.clone(), cache),
            timings: RwLock::default(),
            last_timestamp: AtomicU64::new(0),
            shuffle_state: AtomicU64::new(env.rng.u64()),
            rings,
            nodes,
            swift,
            env,
            options,
        }
    }

    /// A moment later than any given out before.
    pub(crate) fn timestamp(&self) -> Timestamp {
        let now = Timestamp::at(self.env.now()).raw;
        let step = |last: u64| Some(now.max(last + 1));
        let last = self.last_timestamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0);
        Timestamp::from_raw(now.max(last + 1))
    }

    /// A number for shuffling; nothing secret hangs on it.
    fn random(&self) -> u64 {
        let mut z = self.shuffle_state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Puts nodes into the order in which they are asked.
    pub(crate) fn sort(&self, nodes: &mut [Node], options: &PolicyOptions) {
        if options.sorting_method != Sorting::Ring {
            for i in (1..nodes.len()).rev() {
                let j = usize::try_from(self.random() % (i as u64 + 1)).unwrap_or(0);
                nodes.swap(i, j);
            }
        }
        match options.sorting_method {
            Sorting::Shuffle | Sorting::Ring => {}
            Sorting::Affinity => nodes.sort_by_key(|n| options.read_affinity.distance(n.dev())),
            Sorting::Timing => {
                let now = self.env.now().0;
                let timings = self.timings.read().expect("no holder of this lock panics");
                nodes.sort_by_key(|n| timings.get(&n.dev().ip).filter(|(_, until)| *until > now).map_or(0, |(t, _)| *t));
            }
        }
    }

    fn set_timing(&self, d: &Device, millis: u64) {
        let until = self.env.now().plus(TIMING_EXPIRY).0;
        self.timings.write().expect("no holder of this lock panics").insert(d.ip.clone(), (millis + 1, until));
    }

    pub(crate) fn failed(&self, node: &Node, what: &str, error: &str) {
        let d = node.dev();
        tracing::warn!(ip = %d.ip, port = d.port, device = %d.device, error, "{what}");
        self.limiter.increment(d);
    }

    /// Keeps account of a node's failures; false when the answer is one.
    pub(crate) fn check_status(&self, node: &Node, status: u16, method: &Method, entity: &str) -> bool {
        if status < 500 {
            return true;
        }
        let d = node.dev();
        tracing::warn!(ip = %d.ip, port = d.port, device = %d.device, status, %method, entity, "a storage server failed");
        if status == 507 {
            self.limiter.suppress(d);
        } else {
            self.limiter.increment(d);
        }
        false
    }

    /// Sends a request to a node. `None`: no answer; the failure is counted.
    pub(crate) async fn send(&self, node: &Node, r: &NodeRequest<'_>, headers: HeaderMap, body: Body) -> Option<Response<Body>> {
        let (ip, port) = address(node.dev(), &headers);
        let request = self.request(node, r, headers, body)?;
        let started = self.sorts_by_timing.then(std::time::Instant::now);
        match self.nodes.send(ip, port, request, r.timeout).await {
            Ok(response) => {
                if let Some(t) = started {
                    self.set_timing(node.dev(), u64::try_from(t.elapsed().as_millis()).unwrap_or(u64::MAX - 1));
                }
                Some(response)
            }
            Err(e) => {
                self.failed(node, "a storage server did not answer", &e.0);
                None
            }
        }
    }

    /// The request as it goes to the node. `None`: its target is no URI (too long).
    pub(crate) fn request(&self, node: &Node, r: &NodeRequest<'_>, headers: HeaderMap, body: Body) -> Option<Request<Body>> {
        use std::fmt::Write;
        let d = node.dev();
        let mut target = String::with_capacity(d.device.len() + r.entity.len() + 12);
        let _ = write!(target, "/{}/{}{}", d.device, r.part, r.entity);
        let uri = Uri::try_from(target).map_err(|e| tracing::warn!(error = %e, "no request target")).ok()?;
        let mut request = Request::new(body);
        *request.method_mut() = r.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if let Some(digest) = r.digest {
            request.extensions_mut().insert(digest.clone());
        }
        Some(request)
    }

    /// Reads an answer's body, within the node's time and a bound.
    pub(crate) async fn read(&self, node: &Node, response: Response<Body>) -> Option<Reply> {
        let (head, body) = response.into_parts();
        let body = if http_body::Body::is_end_stream(&body) {
            Bytes::new()
        } else {
            let read = caelum_rest::read_limited(body, SMALL_BODY);
            match tokio::time::timeout(self.options.node_timeout, read).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(_)) | Err(_) => {
                    self.failed(node, "a storage server's answer broke off", "");
                    return None;
                }
            }
        };
        Some(Reply { status: head.status.as_u16(), headers: head.headers, body, node: Some(node.clone()) })
    }
}

/// Where a node is reached for a request with these headers.
pub(crate) fn address<'a>(d: &'a Device, headers: &HeaderMap) -> (&'a str, u16) {
    if headers.contains_key("x-backend-use-replication-network") && crate::http::is_true(headers, "x-backend-use-replication-network") {
        return (&d.replication_ip, d.replication_port);
    }
    (&d.ip, d.port)
}

/// The nodes of a partition one after another: primaries as sorted, then handoffs. Nodes that fail too
/// often are passed over; at most `request_node_count` others are given out.
pub(crate) struct NodeIter {
    core: Arc<Core>,
    ring: Arc<Ring>,
    part: u32,
    pub n_primaries: usize,
    primaries: VecDeque<Node>,
    /// Handoffs in order once they are needed.
    handoffs: Option<VecDeque<u32>>,
    left: usize,
    last: Option<Node>,
}

pub(crate) fn primaries(ring: &Arc<Ring>, part: u32) -> Vec<Node> {
    let devices = ring.primaries(part);
    devices.iter().enumerate().map(|(i, d)| Node { ring: ring.clone(), id: d.id, index: Some(i) }).collect()
}

impl NodeIter {
    pub(crate) fn new(core: &Arc<Core>, ring: &Arc<Ring>, part: u32, options: &PolicyOptions) -> Self {
        let mut nodes = primaries(ring, part);
        core.sort(&mut nodes, options);
        Self::with(core, ring, part, nodes.len(), nodes.into(), None)
    }

    fn with(
        core: &Arc<Core>,
        ring: &Arc<Ring>,
        part: u32,
        n_primaries: usize,
        primaries: VecDeque<Node>,
        handoffs: Option<VecDeque<u32>>,
    ) -> Self {
        let left = core.options.request_node_count.of(n_primaries);
        Self { core: core.clone(), ring: ring.clone(), part, n_primaries, primaries, handoffs, left, last: None }
    }

    /// For writes: `write_affinity`'s nodes first. `for_delete`: all primaries and then the handoffs here
    /// that may hold what was written to this region only.
    pub(crate) fn local_first(core: &Arc<Core>, ring: &Arc<Ring>, part: u32, options: &PolicyOptions, for_delete: bool) -> Self {
        if options.write_affinity.is_empty() {
            return Self::new(core, ring, part, options);
        }
        let local = |n: &Node| options.write_affinity.is_local(n.dev());
        let first = primaries(ring, part);
        let n = first.len();
        let handoffs: Vec<Node> = ring.handoffs(part).map(|d| Node { ring: ring.clone(), id: d.id, index: None }).collect();
        let preferred: Vec<Node> = if for_delete {
            let wanted = handoff_deletes(core, options, &first);
            first.iter().chain(handoffs.iter().filter(|h| local(h)).take(wanted)).cloned().collect()
        } else {
            let wanted = options.write_affinity_node_count.of(n);
            first.iter().chain(&handoffs).filter(|h| local(h)).take(wanted).cloned().collect()
        };
        let rest = first.iter().chain(&handoffs).filter(|h| !preferred.iter().any(|p| p.id == h.id)).cloned();
        let mut all: Vec<Node> = preferred.iter().cloned().chain(rest).collect();
        let tail = all.split_off(n.min(all.len()));
        core.sort(&mut all, options);
        Self::with(core, ring, part, n, all.into(), Some(tail.into_iter().map(|h| h.id).collect()))
    }

    fn next_handoff(&mut self) -> Option<Node> {
        let (ring, part) = (&self.ring, self.part);
        // More than this many handoffs in a row that are all failing: the cluster is down.
        let bound = 4 * self.n_primaries + 64;
        let all = self.handoffs.get_or_insert_with(|| ring.handoffs(part).take(bound).map(|d| d.id).collect());
        let id = all.pop_front()?;
        let index = primaries_index(&self.ring, self.part, id);
        Some(Node { ring: self.ring.clone(), id, index })
    }

    /// The handoffs not yet given out, at most `n`.
    pub(crate) fn take_handoffs(&mut self, n: usize) -> Vec<Node> {
        std::iter::from_fn(|| self.next_handoff()).take(n).collect()
    }

    fn candidate(&mut self) -> Option<Node> {
        match self.primaries.pop_front() {
            Some(n) => Some(n),
            None => self.next_handoff(),
        }
    }

    pub(crate) fn next(&mut self) -> Option<Node> {
        if let Some(last) = self.last.take()
            && !self.core.limiter.is_limited(last.dev())
        {
            self.left = self.left.saturating_sub(1);
        }
        if self.left == 0 {
            return None;
        }
        loop {
            let node = self.candidate()?;
            if !self.core.limiter.is_limited(node.dev()) {
                self.last = Some(node.clone());
                return Some(node);
            }
        }
    }
}

/// With write affinity primaries may come late.
fn primaries_index(ring: &Ring, part: u32, id: u32) -> Option<usize> {
    ring.primaries(part).iter().position(|d| d.id == id)
}

/// How many local handoffs a DELETE also goes to.
pub(crate) fn handoff_deletes(_core: &Core, options: &PolicyOptions, primaries: &[Node]) -> usize {
    let away = primaries.iter().filter(|n| !options.write_affinity.is_local(n.dev())).count();
    options.write_affinity_handoff_delete_count.unwrap_or(away)
}

/// Nodes shared by requests that run at the same time.
pub(crate) type SharedNodes = Arc<Mutex<NodeIter>>;

pub(crate) fn next_node(nodes: &SharedNodes) -> Option<Node> {
    nodes.lock().expect("no holder of this lock panics").next()
}
