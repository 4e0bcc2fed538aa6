//! An object's bytes on their way to a client, from one node and from another when that one breaks off.
//!
//! Invariant: what a client gets as a whole object is what one node read as whole and found right. An object server
//! breaks off when the checksum of what it sent turns out wrong; the bytes before that are then suspect. So another
//! node's copy is read from its beginning, and only if that begins with what was already sent does the rest follow.
//! A server of this process that knew beforehand that all is right ([`KnownRight`]) spares the sum over what is sent. When
//! it finds damage all the same, nothing can be said of what was sent, and the answer breaks off.

use super::backend::Node;
use super::getter::{Candidate, Getter, parse_content_range};
use crate::http::text;
use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use crc32fast::Hasher;
use futures_util::future::BoxFuture;
use http::{HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What is to be sent.
pub(super) struct Extent {
    /// Place in the object of the first byte.
    pub first: u64,
    pub length: u64,
    pub proof: Proof,
}

/// What speaks for the bytes that a node sends.
pub(super) enum Proof {
    /// Nothing: a part of an object.
    None,
    /// It is the whole object, which the node verifies while it sends it.
    AtEnd,
    /// … or has verified before.
    KnownRight,
}

/// What is known of the bytes that were sent.
enum Sent {
    /// Nothing; or they are right.
    Unchecked,
    Summed(Hasher),
    KnownRight,
}

/// A node gives no more.
struct Broken {
    error: BoxError,
    /// It just fell silent.
    silent: bool,
}

impl Broken {
    fn off(error: BoxError) -> Self {
        Self { error, silent: false }
    }
}

/// Where the rest comes from.
struct Found {
    getter: Box<Getter>,
    node: Node,
    /// Already read of `body`.
    head: Bytes,
    body: Body,
}

pub(super) struct ObjectBody {
    inner: Body,
    head: Bytes,
    node: Option<Node>,
    /// Position in the object of the next byte, and how many are still to come.
    at: u64,
    left: u64,
    sent: Sent,
    getter: Option<Box<Getter>>,
    search: Option<BoxFuture<'static, Result<Found, BoxError>>>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ObjectBody {
    /// `getter` finds other nodes; without it nothing can be resumed, yet silence ends after `timeout`.
    pub(super) fn new(inner: Body, node: Node, extent: &Extent, getter: Option<Box<Getter>>, timeout: Duration) -> Self {
        let sent = match extent.proof {
            Proof::AtEnd if getter.is_some() => Sent::Summed(Hasher::new()),
            Proof::KnownRight => Sent::KnownRight,
            _ => Sent::Unchecked,
        };
        let (at, left) = (extent.first, extent.length);
        Self { inner, head: Bytes::new(), node: Some(node), at, left, sent, getter, search: None, timeout, timer: None }
    }

    /// A piece from the node; `Err` when it can give no more.
    fn poll_node(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        if !self.head.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.head)));
        }
        loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.timer = None;
                        return Poll::Ready(Ok(data));
                    }
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(Broken::off(e))),
                Poll::Ready(None) => return Poll::Ready(Err(Broken::off("the answer ended early".into()))),
                Poll::Pending => {
                    let timeout = self.timeout;
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
                    return match timer.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(Err(Broken { error: "no data in time".into(), silent: true })),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Turns to another node; `Err` when there is none to turn to.
    fn look_elsewhere(&mut self, broken: Broken) -> Result<(), BoxError> {
        self.timer = None;
        self.inner = caelum_rest::empty();
        let Some(getter) = self.getter.take() else { return Err(broken.error) };
        if let Some(node) = self.node.take() {
            getter.failed(&node, "reading an object broke off, trying another node", &broken.error.to_string());
        }
        let (at, left) = (self.at, self.left);
        self.search = Some(match &self.sent {
            Sent::Summed(sent) => Box::pin(resume_whole(getter, at, left, sent.clone())),
            Sent::KnownRight if !broken.silent => return Err(broken.error),
            Sent::KnownRight | Sent::Unchecked => {
                self.sent = Sent::Unchecked;
                Box::pin(resume_range(getter, at, left))
            }
        });
        Ok(())
    }
}

impl http_body::Body for ObjectBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(search) = &mut this.search {
                let found = match search.as_mut().poll(cx) {
                    Poll::Ready(r) => r,
                    Poll::Pending => return Poll::Pending,
                };
                this.search = None;
                match found {
                    Ok(f) => (this.node, this.head, this.inner, this.getter) = (Some(f.node), f.head, f.body, Some(f.getter)),
                    Err(e) => return Poll::Ready(Some(Err(e))),
                }
            }
            match this.poll_node(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(mut data)) => {
                    let n = (data.len() as u64).min(this.left);
                    data.truncate(usize::try_from(n).unwrap_or(usize::MAX));
                    this.at += n;
                    this.left -= n;
                    // The last piece is not compared with anything any more.
                    if let Sent::Summed(sent) = &mut this.sent
                        && this.left > 0
                    {
                        sent.update(&data);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Err(e)) => {
                    if let Err(e) = this.look_elsewhere(e) {
                        return Poll::Ready(Some(Err(e)));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn nowhere() -> BoxError {
    BoxError::from("no other node has the rest of the object")
}

/// Looks for another node that has the bytes from `at` on, of a range that no node verifies.
async fn resume_range(mut getter: Box<Getter>, at: u64, left: u64) -> Result<Found, BoxError> {
    let last = at + left.saturating_sub(1);
    if let Ok(range) = HeaderValue::from_str(&format!("bytes={at}-{last}")) {
        getter.headers_mut().insert(header::RANGE, range);
    }
    getter.headers_mut().remove("x-backend-ignore-range-if-metadata-present");
    while let Some(found) = getter.find().await {
        let range = text(found.response.headers(), "content-range").and_then(parse_content_range);
        if found.response.status().as_u16() == 206 && range.is_some_and(|(a, b, _)| a == at && b == last) {
            return Ok(Found { getter, node: found.node, head: Bytes::new(), body: found.response.into_body() });
        }
    }
    Err(nowhere())
}

/// Looks for another node whose copy begins with the `at` bytes that were `sent`.
async fn resume_whole(mut getter: Box<Getter>, at: u64, left: u64, sent: Hasher) -> Result<Found, BoxError> {
    getter.headers_mut().remove(header::RANGE);
    let sent = sent.finalize();
    let timeout = getter.timeout();
    while let Some(Candidate { response, node }) = getter.find().await {
        let length = text(response.headers(), "content-length").and_then(|l| l.parse::<u64>().ok());
        if response.status().as_u16() != 200 || length != Some(at + left) {
            continue;
        }
        let mut body = response.into_body();
        match begin(&mut body, at, timeout).await {
            Ok((sum, head)) if sum == sent => return Ok(Found { getter, node, head, body }),
            Ok(_) => return Err(BoxError::from("another node's copy begins with other bytes than were sent")),
            Err(e) => getter.failed(&node, "reading an object broke off, trying another node", &e.to_string()),
        }
    }
    Err(nowhere())
}

/// Reads `n` bytes; their checksum, and what was read beyond them.
async fn begin(body: &mut Body, n: u64, timeout: Duration) -> Result<(u32, Bytes), BoxError> {
    let (mut sum, mut left) = (Hasher::new(), n);
    while left > 0 {
        let frame = tokio::time::timeout(timeout, body.frame()).await.map_err(|_| BoxError::from("no data in time"))?;
        let Some(frame) = frame else { return Err(BoxError::from("the answer ended early")) };
        let Ok(mut data) = frame?.into_data() else { continue };
        let rest = data.split_off(usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
        sum.update(&data);
        left -= data.len() as u64;
        if !rest.is_empty() {
            return Ok((sum.finalize(), rest));
        }
    }
    Ok((sum.finalize(), Bytes::new()))
}
