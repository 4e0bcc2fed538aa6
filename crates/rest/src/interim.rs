//! Interim responses (`100 Continue`) with headers, and more than one of them: what Swift's uploads in two
//! phases need and the HTTP library does not offer. It writes its own `100 Continue` as soon as a body is
//! asked for; on the way to the socket that one gets the headers, and further ones are slipped in
//! while the body is being read (no response is on the wire then).

use crate::heads::Heads;
use crate::names;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Headers of an interim response.
pub type InterimHeaders = Vec<(String, String)>;

/// Request extension: lets the service send interim responses before its answer.
#[derive(Clone)]
pub struct Interim(Way);

#[derive(Clone)]
enum Way {
    Wire(Arc<Shared>),
    Channel(mpsc::UnboundedSender<InterimHeaders>),
}

pub(crate) struct Shared {
    /// Number of the first request that may be read in two ways.
    doubtful: AtomicU64,
    /// Requests that the service has been given.
    served: AtomicU64,
    /// Set while `state` holds anything to be done on the wire.
    busy: AtomicBool,
    /// Set while a body may be followed by another that belongs to it.
    joining: AtomicBool,
    /// Set when the connection becomes another protocol's.
    upgraded: AtomicBool,
    /// Set while nothing that the library has written waits.
    flushed: AtomicBool,
    all_written: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next head to be written has names that are written otherwise.
    names: bool,
    /// Header lines of the library's own `100 Continue`, until it comes by.
    lines: Option<Vec<u8>>,
    /// Waiting to be written.
    out: VecDeque<u8>,
    waker: Option<Waker>,
}

impl Shared {
    fn new() -> Self {
        Self {
            doubtful: AtomicU64::new(u64::MAX),
            served: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            joining: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            all_written: Notify::new(),
            state: Mutex::default(),
        }
    }

    /// To be called once for each request, in order: whether its head is one that all programs read alike.
    pub fn next_is_clear(&self) -> bool {
        self.served.fetch_add(1, Ordering::Relaxed) < self.doubtful.load(Ordering::Acquire)
    }

    /// At the beginning of a request: what an earlier one announced and never sent is void.
    pub fn reset(&self) {
        if self.busy.load(Ordering::Acquire) {
            self.state().lines = None;
        }
        self.joining.store(false, Ordering::Release);
    }

    /// To be awaited right before a response with names that the library cannot write (see [`crate::names`]) is
    /// given to it. Whatever it writes next begins with the response's head, since all before has been
    /// written: so the head is found without looking for it among bytes of bodies.
    pub async fn expect_names(&self) {
        while !self.flushed.load(Ordering::Acquire) {
            let written = self.all_written.notified();
            if !self.flushed.load(Ordering::Acquire) {
                written.await;
            }
        }
        self.state().names = true;
        self.busy.store(true, Ordering::Release);
    }

    /// What is read from here on is no HTTP.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interim {
    /// For callers in the same process: the receiver gets what would be sent, a remote client's way of seeing it.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<InterimHeaders>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Self(Way::Channel(tx)), rx)
    }

    pub(crate) fn wire(shared: Arc<Shared>) -> Self {
        Self(Way::Wire(shared))
    }

    /// Headers for the `100 Continue` that is sent when the body is first read. Names and values must be
    /// plain text of the program's own.
    pub fn announce(&self, headers: &[(&str, &str)]) {
        match &self.0 {
            Way::Channel(tx) => {
                // Nobody listens: the caller does not care.
                let _ = tx.send(headers.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
            }
            Way::Wire(shared) => {
                let lines: String = headers.iter().map(|(k, v)| format!("{k}: {v}\r\n")).collect();
                shared.state().lines = Some(lines.into_bytes());
                shared.busy.store(true, Ordering::Release);
            }
        }
    }

    /// Swift's proxies send an upload in two phases as two chunked bodies; the second follows the second `100 Continue`.
    /// From here on, a body that does not end with `--` (as the last part of a MIME document does) is
    /// handed on together with the next as one. To be said before the body is first read.
    pub fn join_bodies(&self) {
        if let Way::Wire(shared) = &self.0 {
            shared.joining.store(true, Ordering::Release);
        }
    }

    /// Sends another `100 Continue`. Only while the request's body is being read.
    pub fn send(&self) {
        match &self.0 {
            Way::Channel(tx) => {
                let _ = tx.send(Vec::new());
            }
            Way::Wire(shared) => {
                let mut s = shared.state();
                s.out.extend(CONTINUE);
                shared.busy.store(true, Ordering::Release);
                if let Some(w) = s.waker.take() {
                    w.wake();
                }
            }
        }
    }
}

/// A connection that carries interim responses.
pub(crate) struct Wire {
    stream: TcpStream,
    shared: Arc<Shared>,
    joint: Option<Box<Joint>>,
    heads: Heads,
    /// To be handed on before anything else is read.
    spilt: Spilt,
}

/// Writes what waits. Ready once nothing does.
pub(crate) fn write_out(out: &mut VecDeque<u8>, mut to: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !out.is_empty() {
        let (front, _) = out.as_slices();
        match ready!(to.as_mut().poll_write(cx, front))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => drop(out.drain(..n)),
        }
    }
    Poll::Ready(Ok(()))
}

/// What is written of several pieces by one who takes one at a time.
pub(crate) fn first_of<'a>(bufs: &'a [io::IoSlice<'_>]) -> &'a [u8] {
    bufs.iter().find(|b| !b.is_empty()).map_or(&[], |b| &**b)
}

/// Bytes that wait to be read.
#[derive(Debug, Default)]
pub(crate) struct Spilt {
    bytes: Vec<u8>,
    at: usize,
}

impl Spilt {
    /// Puts `bytes` in the place of what `buf` holds beyond `before`, as far as there is room. False when that is
    /// nothing at all.
    pub fn put(&mut self, bytes: Vec<u8>, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        buf.set_filled(before);
        (self.bytes, self.at) = (bytes, 0);
        self.hand_on(buf)
    }

    /// False: there is nothing.
    pub fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let n = (self.bytes.len() - self.at).min(buf.remaining());
        buf.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        if self.at == self.bytes.len() {
            *self = Self::default();
        }
        n > 0
    }
}

/// Where in a chunked body the next byte stands.
#[derive(Default)]
enum At {
    /// In the line with a chunk's size; what of it has come is held back.
    #[default]
    Size,
    Data(u64),
    /// Before the end of line after a chunk: so many bytes.
    DataEnd(u8),
    /// After the end that is left out, up to the empty line.
    Dropped,
    /// Nothing more to be done.
    Passing,
}

/// Leaves out the end of a first body, so that the second continues it.
#[derive(Default)]
struct Joint {
    at: At,
    held: Vec<u8>,
    /// Last bytes of the body so far.
    tail: Vec<u8>,
    joined: bool,
}

/// Longest line with a chunk's size.
const MAX_SIZE_LINE: usize = 256;
/// Read at once while bodies are joined.
const JOIN_READ: usize = 16 << 10;

impl Joint {
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a chunked body");
        while let Some(b) = input.first().copied() {
            match &mut self.at {
                At::Passing => {
                    out.extend_from_slice(input);
                    return Ok(());
                }
                At::Data(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let (data, rest) = input.split_at(n);
                    out.extend_from_slice(data);
                    self.tail.extend_from_slice(&data[n.saturating_sub(8)..]);
                    let keep = self.tail.len().saturating_sub(8);
                    self.tail.drain(..keep);
                    *left -= n as u64;
                    if *left == 0 {
                        self.at = At::DataEnd(2);
                    }
                    input = rest;
                    continue;
                }
                At::DataEnd(left) => {
                    out.push(b);
                    *left -= 1;
                    if *left == 0 {
                        self.at = At::Size;
                    }
                }
                At::Dropped => {
                    self.held.push(b);
                    if b == b'\n' {
                        let empty = self.held.trim_ascii().is_empty();
                        self.held.clear();
                        if empty {
                            self.at = At::Size;
                        }
                    }
                }
                At::Size => {
                    self.held.push(b);
                    if b == b'\n' {
                        self.size_line(out).ok_or_else(bad)?;
                    }
                }
            }
            if self.held.len() > MAX_SIZE_LINE {
                return Err(bad());
            }
            input = &input[1..];
        }
        Ok(())
    }

    fn size_line(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let line = std::str::from_utf8(&self.held).ok()?;
        let size = u64::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 && !self.joined && !self.tail.trim_ascii_end().ends_with(b"--") {
            self.joined = true;
            self.held.clear();
            self.at = At::Dropped;
            return Some(());
        }
        out.append(&mut self.held);
        self.at = if size == 0 { At::Passing } else { At::Data(size) };
        Some(())
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared::new());
        (Self { stream, shared: shared.clone(), joint: None, heads: Heads::new(), spilt: Spilt::default() }, shared)
    }

    /// Writes what waits. Ready once nothing does.
    fn flush_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.busy.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut s = self.shared.state();
        ready!(write_out(&mut s.out, Pin::new(&mut self.stream), cx))?;
        if s.lines.is_none() && !s.names {
            self.shared.busy.store(false, Ordering::Release);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads with two bodies joined.
    fn poll_joined(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let joint = self.joint.get_or_insert_default();
        loop {
            // Whatever was held back must fit besides.
            let room = buf.remaining().saturating_sub(joint.held.len()).min(JOIN_READ);
            let mut raw = vec![0; room];
            let mut read = ReadBuf::new(&mut raw);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let got = read.filled();
            if got.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut out = Vec::with_capacity(got.len() + joint.held.len());
            if let Err(e) = joint.feed(got, &mut out) {
                return Poll::Ready(Err(e));
            }
            // Nothing would look like the end of the connection.
            if !out.is_empty() {
                buf.put_slice(&out);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes bytes off the library to write them otherwise; so many. Adds the headers to its own interim
    /// response, and writes names as they are on the wire.
    fn take_over(&mut self, buf: &[u8]) -> usize {
        if !self.shared.busy.load(Ordering::Acquire) {
            return 0;
        }
        let mut s = self.shared.state();
        if buf == CONTINUE {
            let Some(lines) = s.lines.take() else { return 0 };
            s.out.extend(&CONTINUE[..CONTINUE.len() - 2]);
            s.out.extend(lines);
            s.out.extend(b"\r\n");
            return buf.len();
        }
        if !s.names {
            return 0;
        }
        let interim = if buf.starts_with(CONTINUE) { CONTINUE.len() } else { 0 };
        s.names = false;
        let (before, rest) = buf.split_at(interim);
        let Some(length) = names::head_length(rest).filter(|_| rest.starts_with(b"HTTP/1.")) else { return 0 };
        let Some(head) = names::write_head(&rest[..length]) else { return 0 };
        s.out.extend(before);
        s.out.extend(head);
        interim + length
    }

    /// One read, with bodies joined where that is wanted.
    fn poll_once(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.shared.joining.load(Ordering::Acquire) {
            return self.poll_joined(cx, buf);
        }
        self.joint = None;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    /// Reads with names read (see [`crate::names`]).
    fn poll_named(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.spilt.hand_on(buf) {
            return Poll::Ready(Ok(()));
        }
        if self.shared.upgraded.load(Ordering::Acquire) && self.shared.upgraded.swap(false, Ordering::AcqRel) {
            let back = self.heads.let_go();
            let before = buf.filled().len();
            if self.spilt.put(back, buf, before) {
                return Poll::Ready(Ok(()));
            }
        }
        let before = buf.filled().len();
        loop {
            let r = self.poll_once(cx, buf);
            let found = self.heads.feed(&buf.filled()[before..]);
            if let Some(doubtful) = found.doubtful {
                self.shared.doubtful.store(doubtful, Ordering::Release);
            }
            // Nothing would look like the end of the connection.
            if found.instead.is_none_or(|instead| self.spilt.put(instead, buf, before)) {
                return r;
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(e)) = self.flush_waiting(cx) {
            return Poll::Ready(Err(e));
        }
        let r = self.poll_named(cx, buf);
        if r.is_pending() {
            let mut s = self.shared.state();
            if s.waker.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                s.waker = Some(cx.waker().clone());
            }
        }
        r
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.flushed.store(false, Ordering::Release);
        // What is half written goes first: the order of bytes must hold.
        match self.flush_waiting(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => return Poll::Pending,
        }
        let taken = self.take_over(buf);
        if taken > 0 {
            return match self.flush_waiting(cx) {
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                // What is left goes out before anything else does.
                _ => Poll::Ready(Ok(taken)),
            };
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.shared.busy.load(Ordering::Acquire) {
            return self.poll_write(cx, first_of(bufs));
        }
        self.shared.flushed.store(false, Ordering::Release);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.flush_waiting(cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        let r = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(r, Poll::Ready(Ok(()))) && !self.shared.flushed.swap(true, Ordering::AcqRel) {
            self.shared.all_written.notify_waiters();
        }
        r
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, HttpService, Server, full, read_limited};
    use futures_util::future::BoxFuture;
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct TwoPhases;

    impl HttpService for TwoPhases {
        fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
            Box::pin(async move {
                let interim = req.extensions().get::<Interim>().cloned();
                let mut body = req.into_body();
                if let Some(i) = &interim {
                    i.announce(&[("X-First", "yes")]);
                }
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                if let Some(i) = &interim {
                    i.send();
                }
                let rest = read_limited(body, 100).await.unwrap();
                Response::new(full(format!("{}{}", first.len(), rest.len())))
            })
        }
    }

    async fn until(stream: &mut TcpStream, end: &str) -> String {
        let mut got = Vec::new();
        while !got.ends_with(end.as_bytes()) {
            let mut b = [0];
            assert_eq!(stream.read(&mut b).await.unwrap(), 1, "{}", String::from_utf8_lossy(&got));
            got.push(b[0]);
        }
        String::from_utf8(got).unwrap()
    }

    #[tokio::test]
    async fn two_interim_responses_twice_on_one_connection() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(Arc::new(TwoPhases)).unwrap();
        let mut s = TcpStream::connect(server.addr).await.unwrap();
        for _ in 0..2 {
            s.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            assert_eq!(until(&mut s, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\nX-First: yes\r\n\r\n");
            s.write_all(b"3\r\nabc\r\n").await.unwrap();
            assert_eq!(until(&mut s, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
            s.write_all(b"2\r\nde\r\n0\r\n\r\n").await.unwrap();
            assert!(until(&mut s, "32").await.starts_with("HTTP/1.1 200 OK"));
        }
    }

    #[test]
    fn bodies_joined_however_they_are_cut() {
        let first = b"5\r\nhello\r\n4;x=y\r\n--b\r\r\n0\r\n\r\n";
        let second = b"3\r\nabc\r\n0\r\n\r\nGET /";
        let whole = [&first[..], second].concat();
        let want = b"5\r\nhello\r\n4;x=y\r\n--b\r\r\n3\r\nabc\r\n0\r\n\r\nGET /";
        let ended = b"4\r\nx--\n\r\n0\r\n\r\nnext";
        for n in 1..=whole.len() {
            let pass = |input: &[u8]| {
                let (mut joint, mut out) = (Joint::default(), Vec::new());
                input.chunks(n).try_for_each(|c| joint.feed(c, &mut out)).map(|()| out)
            };
            assert_eq!(pass(&whole).unwrap(), want, "{n}");
            assert_eq!(pass(ended).unwrap(), ended, "{n}");
            assert!(pass(b"zz\r\n").is_err());
        }
    }

    #[tokio::test]
    async fn without_expectation_nothing_is_sent_early() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(Arc::new(TwoPhases)).unwrap();
        let mut s = TcpStream::connect(server.addr).await.unwrap();
        s.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde").await.unwrap();
        assert!(until(&mut s, "50").await.starts_with("HTTP/1.1 200 OK"));
    }
}
