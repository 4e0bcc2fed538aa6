//! The receiving side.

use super::super::input::Input;
use super::super::target::Target;
use super::super::{Answer, Req, Shared, blocking, delete, disk_failure, headers, post, put, respond};
use super::wire::{Missing, encode_wanted, parse_missing};
use bytes::{Bytes, BytesMut};
use caelum_diskfile::{DiskError, FragWish, Look};
use caelum_rest::{BoxError, empty, stream_channel};
use http::header::HeaderValue;
use http::{Method, Request, Response};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Longest line of the protocol.
const MAX_LINE: usize = 64 << 10;
/// Offers looked up in one job.
const OFFERS: usize = 128;
/// Offers of one request; the sender splits its work into partitions and may limit itself further.
const MAX_OFFERS: usize = 10_000_000;
/// Headers of a subrequest.
const MAX_HEADERS: usize = 256;

/// What is being replicated into.
struct Session {
    server: Arc<Shared>,
    device: String,
    partition: String,
    policy: u32,
    frag_index: Option<u32>,
}

/// Why a session ends early, as the sender is told.
struct Broken {
    status: u16,
    text: String,
}

impl Broken {
    fn new(text: impl Into<String>) -> Self {
        Self { status: 0, text: text.into() }
    }
}

pub(in super::super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let (parts, body) = req.into_parts();
    let (device, partition, rest, policy) = Target::parse_place(&parts, &server.disks)?;
    if rest.is_some() {
        return Err(respond::text(400, &format!("Invalid path: {}", parts.uri.path())));
    }
    let frag_index = match headers::text(&parts.headers, "x-backend-ssync-frag-index").filter(|v| !v.is_empty()) {
        Some(v) => Some(v.trim().parse().map_err(|_| respond::error_text(400, &format!("Invalid X-Backend-Ssync-Frag-Index '{v}'")))?),
        None => None,
    };
    let (s, d) = (server.clone(), device.clone());
    blocking(move || s.disks.device_path(&d).map_err(|e| disk_failure(&d, e))).await??;
    let lines = Lines { input: Input::new(body, server.config.client_timeout), buf: BytesMut::new(), ended: false };
    let (tx, body) = stream_channel(4);
    let session = Session { server, device, partition, policy, frag_index };
    tokio::spawn(session.run(lines, tx));
    let mut r = Response::new(body);
    r.headers_mut().insert("x-backend-accept-no-commit", HeaderValue::from_static("True"));
    r.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    Ok(r)
}

/// The request's body as lines and counted bytes.
struct Lines {
    input: Input,
    buf: BytesMut,
    ended: bool,
}

impl Lines {
    async fn fill(&mut self) -> Result<bool, Broken> {
        match self.input.next().await {
            Ok(Some(b)) => {
                self.buf.extend_from_slice(&b);
                Ok(true)
            }
            Ok(None) => {
                self.ended = true;
                Ok(false)
            }
            Err(r) => Err(Broken { status: r.status().as_u16(), text: "reading the request failed".into() }),
        }
    }

    /// `None` at the end. Without its end of line.
    async fn line(&mut self) -> Result<Option<String>, Broken> {
        loop {
            if let Some(n) = self.buf.iter().position(|b| *b == b'\n') {
                let line = self.buf.split_to(n + 1);
                return Ok(Some(caelum_diskfile::latin1(line.trim_ascii())));
            }
            if self.buf.len() > MAX_LINE {
                return Err(Broken::new("a line is too long"));
            }
            if self.ended || !self.fill().await? {
                return if self.buf.is_empty() { Ok(None) } else { Err(Broken::new("missing newline")) };
            }
        }
    }

    /// The next bytes, at most `max`.
    async fn bytes(&mut self, max: u64) -> Result<Bytes, Broken> {
        while self.buf.is_empty() {
            if self.ended || !self.fill().await? {
                return Err(Broken::new("Early termination"));
            }
        }
        let n = (self.buf.len() as u64).min(max) as usize;
        Ok(self.buf.split_to(n).freeze())
    }
}

type Out = Sender<Result<Bytes, BoxError>>;

async fn say(tx: &Out, text: impl Into<Bytes>) -> Result<(), Broken> {
    tx.send(Ok(text.into())).await.map_err(|_| Broken::new("the sender has gone"))
}

impl Session {
    async fn run(self, mut lines: Lines, tx: Out) {
        if let Err(b) = self.exchange(&mut lines, &tx).await {
            tracing::warn!(device = %self.device, partition = %self.partition, reason = %b.text, "ssync");
            let line = format!(":ERROR: {} '{}'\n", b.status, b.text.replace(['\r', '\n', '\''], " "));
            // The sender may be the reason.
            let _ = tx.send(Ok(line.into())).await;
        }
    }

    async fn exchange(&self, lines: &mut Lines, tx: &Out) -> Result<(), Broken> {
        // Makes the response's head go out, upon which the sender begins.
        say(tx, "\r\n").await?;
        let Ok(_permit) = self.server.replications.clone().try_acquire_owned() else {
            return Err(Broken { status: 503, text: "Service Unavailable".into() });
        };
        let (disks, device, partition, policy) = (self.server.disks.clone(), self.device.clone(), self.partition.clone(), self.policy);
        let lock = tokio::task::spawn_blocking(move || disks.replication_lock(&device, disks.policy(policy)?, &partition));
        let _lock = match lock.await {
            Ok(Ok(l)) => l,
            Ok(Err(e)) => return Err(Broken::new(e.to_string())),
            Err(e) => return Err(Broken::new(e.to_string())),
        };
        let wanted = self.missing_check(lines).await?;
        say(tx, ":MISSING_CHECK: START\r\n").await?;
        for some in wanted.chunks(1024) {
            say(tx, format!("{}\r\n", some.join("\r\n"))).await?;
        }
        say(tx, "\r\n:MISSING_CHECK: END\r\n").await?;
        self.updates(lines).await?;
        say(tx, ":UPDATES: START\r\n:UPDATES: END\r\n").await
    }

    async fn missing_check(&self, lines: &mut Lines) -> Result<Vec<String>, Broken> {
        match lines.line().await? {
            None => return Err(Broken::new("client disconnected")),
            Some(l) if l == ":MISSING_CHECK: START" => {}
            Some(l) => return Err(Broken::new(format!("Looking for :MISSING_CHECK: START got {:.1024}", l))),
        }
        let (mut wanted, mut offers) = (Vec::new(), Vec::new());
        let mut count = 0;
        loop {
            let line = lines.line().await?.filter(|l| l != ":MISSING_CHECK: END");
            let ended = line.is_none();
            if let Some(l) = line {
                offers.push(parse_missing(&l).ok_or_else(|| Broken::new(format!("not an offer: {l:.200}")))?);
                count += 1;
                if count > MAX_OFFERS {
                    return Err(Broken::new("too many offers"));
                }
            }
            if ended || offers.len() >= OFFERS {
                wanted.extend(self.look_up(std::mem::take(&mut offers)).await?);
            }
            if ended {
                return Ok(wanted);
            }
        }
    }

    async fn look_up(&self, offers: Vec<Missing>) -> Result<Vec<String>, Broken> {
        let looker = Looker {
            server: self.server.clone(),
            device: self.device.clone(),
            partition: self.partition.clone(),
            policy: self.policy,
            frag_index: self.frag_index,
        };
        let job =
            tokio::task::spawn_blocking(move || offers.iter().filter_map(|o| encode_wanted(o, looker.local(o, true).as_ref())).collect());
        job.await.map_err(|e| Broken::new(e.to_string()))
    }

    async fn updates(&self, lines: &mut Lines) -> Result<(), Broken> {
        match lines.line().await? {
            None => return Err(Broken::new("client disconnected")),
            Some(l) if l == ":UPDATES: START" => {}
            Some(l) => return Err(Broken::new(format!("Looking for :UPDATES: START got {:.1024}", l))),
        }
        let (mut successes, mut failures) = (0_usize, 0_usize);
        while let Some(line) = lines.line().await?.filter(|l| l != ":UPDATES: END") {
            let status = self.subrequest(lines, &line).await?;
            if (200..300).contains(&status) || status == 404 {
                successes += 1;
            } else {
                tracing::warn!(status, request = line, "ssync subrequest failed");
                failures += 1;
            }
            let c = &self.server.config;
            let ratio = failures as f64 / successes.max(1) as f64;
            if failures >= c.replication_failure_threshold && (successes == 0 || ratio > c.replication_failure_ratio) {
                return Err(Broken::new(format!("Too many {failures} failures to {successes} successes")));
            }
        }
        if failures > 0 {
            let text = format!("ERROR: With :UPDATES: {failures} failures to {successes} successes");
            return Err(Broken { status: 500, text });
        }
        Ok(())
    }

    /// One PUT, POST or DELETE; gives its status.
    async fn subrequest(&self, lines: &mut Lines, line: &str) -> Result<u16, Broken> {
        let (method, path) = line.split_once(' ').ok_or_else(|| Broken::new("not a subrequest"))?;
        let uri = format!("/{}/{}{path}", self.device, self.partition);
        let mut req = Request::new(empty());
        *req.uri_mut() = uri.parse().map_err(|_| Broken::new(format!("not a path: {path:.200}")))?;
        let length = self.read_headers(lines, line, req.headers_mut()).await?;
        let h = req.headers_mut();
        h.insert("x-backend-storage-policy-index", self.policy.into());
        h.insert("x-backend-replication", HeaderValue::from_static("True"));
        if let Some(i) = self.frag_index {
            h.insert("x-backend-ssync-frag-index", i.into());
        }
        let handler = |r: Answer| r.unwrap_or_else(|r| r).status().as_u16();
        match (method, length) {
            ("DELETE", None | Some(0)) => {
                *req.method_mut() = Method::DELETE;
                Ok(handler(delete::handle(self.server.clone(), req).await))
            }
            ("POST", None | Some(0)) => {
                *req.method_mut() = Method::POST;
                Ok(handler(post::handle(self.server.clone(), req).await))
            }
            ("PUT", Some(n)) => {
                let (tx, body) = stream_channel(4);
                *req.method_mut() = Method::PUT;
                *req.body_mut() = body;
                let (r, fed) = tokio::join!(put::handle(self.server.clone(), req), feed(lines, n, tx));
                fed?;
                Ok(handler(r))
            }
            ("PUT", None) => Err(Broken::new(format!("No content-length sent for {line:.200}"))),
            ("DELETE" | "POST", _) => Err(Broken::new(format!("{method} subrequest with content-length {path:.200}"))),
            _ => Err(Broken::new(format!("Invalid subrequest method {method:.20}"))),
        }
    }

    /// Gives the length of the body. All headers but a few are to be kept with the object.
    async fn read_headers(&self, lines: &mut Lines, context: &str, out: &mut http::HeaderMap) -> Result<Option<u64>, Broken> {
        let mut length = None;
        let mut kept: Vec<String> = Vec::new();
        loop {
            let line = lines.line().await?.ok_or_else(|| Broken::new(format!("Got no headers for {context:.200}")))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| Broken::new("not a header"))?;
            let name = name.trim().to_ascii_lowercase();
            let (Some(key), Some(v)) = (headers::header_name(&name), respond::header_value(value.trim())) else {
                return Err(Broken::new(format!("not a header: {name:.200}")));
            };
            if name == "content-length" {
                length = Some(value.trim().parse().map_err(|_| Broken::new("not a content-length"))?);
            }
            if name != "etag" && name != "x-backend-no-commit" {
                kept.push(key.as_str().to_string());
            }
            if kept.len() > MAX_HEADERS {
                return Err(Broken::new("too many headers"));
            }
            out.insert(key, v);
        }
        if let Ok(v) = HeaderValue::from_str(&kept.join(" ")) {
            out.insert("x-backend-replication-headers", v);
        }
        Ok(length)
    }
}

/// Passes on a subrequest's body. What its handler does not take is read all the same.
async fn feed(lines: &mut Lines, length: u64, tx: Out) -> Result<(), Broken> {
    let mut tx = Some(tx);
    let mut left = length;
    while left > 0 {
        let piece = lines.bytes(left).await;
        let piece = match (piece, &tx) {
            (Ok(p), _) => p,
            (Err(b), Some(t)) => {
                // Or the handler would take the piece so far for the whole.
                let _ = t.send(Err("the sender broke off".into())).await;
                return Err(b);
            }
            (Err(b), None) => return Err(b),
        };
        left -= piece.len() as u64;
        if let Some(t) = &tx
            && t.send(Ok(piece)).await.is_err()
        {
            tx = None;
        }
    }
    Ok(())
}

/// Looks at what is here of an offer. Blocks.
struct Looker {
    server: Arc<Shared>,
    device: String,
    partition: String,
    policy: u32,
    frag_index: Option<u32>,
}

impl Looker {
    /// `None`: nothing.
    fn local(&self, remote: &Missing, make_durable: bool) -> Option<Missing> {
        let disks = &self.server.disks;
        let look = Look { wish: FragWish { index: self.frag_index, prefs: None }, open_expired: true, next_part_power: None };
        let (object, _) = disks.object_from_hash(&self.device, &self.partition, self.policy, &remote.hash, look).ok()?;
        let with = |data, meta, ctype| Some(Missing { hash: remote.hash.clone(), data, meta, ctype, durable: true });
        let mut local = match object.open(disks.now()) {
            Ok(o) => with(o.data_timestamp(), o.timestamp(), o.content_type_timestamp()),
            // Nothing of a tombstone's metadata can be newer than the offer's.
            Err(DiskError::Deleted { timestamp }) => with(timestamp, remote.meta, remote.ctype),
            Err(_) => None,
        };
        let found = object.look().ok()?;
        let newer = found.chosen_durable_at().is_none_or(|d| d < remote.data);
        let here = found.frag_set(remote.data).is_some_and(|set| set.iter().any(|f| f.frag_index == self.frag_index));
        if !(newer && here) {
            return local;
        }
        if !remote.durable {
            // It is here already, though an older one may be what is served.
            match &mut local {
                Some(l) => l.data = remote.data,
                None => local = with(remote.data, remote.meta, remote.ctype),
            }
            return local;
        }
        if !make_durable {
            return local;
        }
        let done = object.commit(remote.data, self.frag_index).and_then(|p| p.wait_blocking().map_err(DiskError::from));
        match done {
            Ok(()) => self.local(remote, false),
            Err(e) => {
                tracing::warn!(hash = remote.hash, error = %e, "a fragment could not be made durable");
                local
            }
        }
    }
}
