//! A client's connection to a storage node: names of headers that the HTTP library refuses are read in the heads of
//! responses, and written in those of requests (see [`crate::names`]).
//!
//! Bodies are never looked at. Where a request ends is followed from what the library writes; a response's head
//! begins with the first byte after a request's head, and comes again after an interim response.

use crate::heads::Heads;
use crate::interim::{Spilt, first_of, write_out};
use crate::names;
use caelum_base::limits::MAX_HEADER_BYTES;
use hyper_util::client::legacy::connect::{Connected, Connection};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Wraps the stream under an HTTP/1.1 client.
#[derive(Debug)]
pub struct NodeWire<S> {
    stream: S,
    requests: Heads,
    /// Requests whose final response's head has come.
    answered: u64,
    answer: AnswerHead,
    spilt: Spilt,
    /// Names are written as on the wire.
    writes_names: bool,
    /// Waiting to be written.
    out: VecDeque<u8>,
}

/// The head of a response as far as it has come.
#[derive(Debug, Default)]
struct AnswerHead {
    /// A line whose end has not come; it has not been handed on.
    held: Vec<u8>,
    size: usize,
    /// Within a head.
    begun: bool,
    interim: bool,
}

impl AnswerHead {
    /// Takes bytes. Gives what to hand on instead, and whether the final head has ended.
    fn feed(&mut self, input: &[u8]) -> (Option<Vec<u8>>, bool) {
        let mut instead: Option<Vec<u8>> = None;
        let mut at = 0;
        while let Some(n) = input[at..].iter().position(|b| *b == b'\n') {
            let line = &input[at..=at + n];
            let whole = if self.held.is_empty() { None } else { Some([&std::mem::take(&mut self.held)[..], line].concat()) };
            let read = self.line(whole.as_deref().unwrap_or(line));
            match read.or(whole) {
                Some(other) => instead.get_or_insert_with(|| input[..at].to_vec()).extend_from_slice(&other),
                None => instead.as_mut().into_iter().for_each(|o| o.extend_from_slice(line)),
            }
            at += n + 1;
            let too_long = self.size > MAX_HEADER_BYTES;
            if too_long || !self.begun && !std::mem::take(&mut self.interim) {
                instead.as_mut().into_iter().for_each(|o| o.extend_from_slice(&input[at..]));
                *self = Self::default();
                return (instead, true);
            }
        }
        if at == input.len() {
            return (instead, false);
        }
        self.held.extend_from_slice(&input[at..]);
        let out = instead.get_or_insert_with(|| input[..at].to_vec());
        let too_long = self.held.len() > MAX_HEADER_BYTES;
        if too_long {
            out.append(&mut self.held);
            *self = Self::default();
        }
        (instead, too_long)
    }

    /// The line with its name read, where that differs.
    fn line(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        self.size += line.len();
        if !self.begun {
            let status = line.split(|b| *b == b' ').nth(1).unwrap_or_default();
            self.interim = status.len() == 3 && status[0] == b'1' && status != b"101";
            self.begun = true;
            return None;
        }
        if line.trim_ascii().is_empty() {
            (self.begun, self.size) = (false, 0);
            return None;
        }
        names::colon(line).filter(|(_, odd)| *odd).and_then(|(at, _)| names::read_line(line, at, false))
    }
}

impl<S> NodeWire<S> {
    /// `writes_names`: for connections on which requests with such names are sent.
    pub fn new(stream: S, writes_names: bool) -> Self {
        Self {
            stream,
            requests: Heads::watching(),
            answered: 0,
            answer: AnswerHead::default(),
            spilt: Spilt::default(),
            writes_names,
            out: VecDeque::new(),
        }
    }

    /// Puts a request's head that is there as a whole aside, with its names as on the wire. Gives its length;
    /// 0 when there is nothing to change.
    fn take_head(&mut self, buf: &[u8]) -> usize {
        if !self.writes_names || !self.requests.at_start() {
            return 0;
        }
        let Some(length) = names::head_length(buf) else { return 0 };
        let Some(head) = names::write_head(&buf[..length]) else { return 0 };
        self.requests.feed(&buf[..length]);
        self.out.extend(head);
        length
    }
}

impl<S> Connection for NodeWire<S> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<S: AsyncWrite + Unpin> NodeWire<S> {
    fn flush_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        write_out(&mut self.out, Pin::new(&mut self.stream), cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NodeWire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.spilt.hand_on(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let got = &buf.filled()[before..];
            if got.is_empty() || this.requests.seen() <= this.answered {
                return Poll::Ready(Ok(()));
            }
            let (instead, ended) = this.answer.feed(got);
            if ended {
                this.answered = this.requests.seen();
            }
            // Nothing would look like the end of the connection.
            if instead.is_none_or(|instead| this.spilt.put(instead, buf, before)) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NodeWire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.flush_waiting(cx))?;
        let taken = self.take_head(buf);
        if taken > 0 {
            if let Poll::Ready(Err(e)) = self.flush_waiting(cx) {
                return Poll::Ready(Err(e));
            }
            // What is left goes out before anything else does.
            return Poll::Ready(Ok(taken));
        }
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.requests.feed(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.writes_names {
            return self.poll_write(cx, first_of(bufs));
        }
        let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = n;
        for b in bufs {
            let now = left.min(b.len());
            self.requests.feed(&b[..now]);
            left -= now;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush_waiting(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush_waiting(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a client reads of `input` after one request, in pieces of `n`.
    fn heads(input: &[u8], n: usize) -> Vec<u8> {
        let mut answer = AnswerHead::default();
        let (mut out, mut ended) = (Vec::new(), false);
        for piece in input.chunks(n) {
            let (instead, now) = if ended { (None, false) } else { answer.feed(piece) };
            ended |= now;
            out.extend(instead.unwrap_or_else(|| piece.to_vec()));
        }
        out
    }

    #[test]
    fn heads_and_no_bodies() {
        let with = |name: &str| {
            format!(
                "HTTP/1.1 100 Continue\r\nX-Obj-Metadata-Footer: yes\r\n\r\n\
                 HTTP/1.1 200 OK\r\n{name}: a=5Fb\r\nX_Y: 1\r\nContent-Length: 9\r\n\r\n\
                 X-Object-Meta-A=5Fb: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Object-Meta-A=5Fb: 1\r\n"
            )
        };
        let (input, want) = (with("X-Object-Meta-A=5Fb"), with("X-Object-Meta-A_b"));
        for n in 1..input.len() + 1 {
            assert_eq!(String::from_utf8(heads(input.as_bytes(), n)).unwrap(), want, "{n}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "x".repeat(3 * MAX_HEADER_BYTES));
        assert_eq!(heads(endless.as_bytes(), 999), endless.as_bytes());
        let many = format!("HTTP/1.1 200 OK\r\n{}X-Object-Meta-A=5Fb: 1\r\n", "a: b\r\n".repeat(MAX_HEADER_BYTES / 6));
        assert_eq!(heads(many.as_bytes(), 999), many.as_bytes());
    }

    #[tokio::test]
    async fn requests_one_after_the_other() {
        // A narrow pipe, so that writes are cut.
        let (ours, mut theirs) = tokio::io::duplex(7);
        let mut wire = NodeWire::new(ours, true);
        let body = "x-object-meta-a_b: 1\r\n\r\nPUT / HTTP/1.1\r\nx-object-meta-a_b: 1\r\n\r\n";
        let of = move |name: &str| format!("PUT /a_b HTTP/1.1\r\n{name}: 1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = |name: &str| format!("HTTP/1.1 200 OK\r\n{name}: 1\r\nContent-Length: 4\r\n\r\n=5F:");
        let node = tokio::spawn(async move {
            for _ in 0..3 {
                let mut got = vec![0; of("x-object-meta-a=5Fb").len()];
                theirs.read_exact(&mut got).await.unwrap();
                assert_eq!(String::from_utf8(got).unwrap(), of("x-object-meta-a=5Fb"));
                theirs.write_all(answer("X-Object-Meta-A=5Fb").as_bytes()).await.unwrap();
            }
        });
        for _ in 0..3 {
            let request = of("x-object-meta-a_b");
            // As the library does: the head in one piece.
            let (head, body) = request.split_at(names::head_length(request.as_bytes()).unwrap());
            wire.write_all(head.as_bytes()).await.unwrap();
            wire.write_all(body.as_bytes()).await.unwrap();
            wire.flush().await.unwrap();
            let mut got = vec![0; answer("X-Object-Meta-A_b").len()];
            wire.read_exact(&mut got).await.unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), answer("X-Object-Meta-A_b"));
        }
        node.await.unwrap();
    }
}
