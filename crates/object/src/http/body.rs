use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use http_body_util::BodyExt;
use std::collections::VecDeque;

/// What is read of a body that nobody wants, so that its connection can be used again.
const DRAIN_BYTES: usize = 65_536;

/// The whole body, or `None` when it is longer than `limit` bytes or breaks off.
pub async fn read_all(body: Body, limit: usize) -> Option<Bytes> {
    caelum_rest::read_limited(body, limit).await.ok()
}

/// Reads a little of what is left and lets go of the rest.
pub async fn drain(body: Body) {
    discard(body, DRAIN_BYTES).await;
}

/// Reads on for at most `limit` bytes, so that a client that is still sending gets to read its refusal.
pub async fn discard(mut body: Body, limit: usize) {
    let mut seen = 0;
    while seen < limit {
        match body.frame().await {
            Some(Ok(frame)) => seen += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}

/// Reads a body in pieces of the reader's choosing.
pub struct BodyReader {
    body: Body,
    ready: VecDeque<Bytes>,
    have: usize,
    /// Bytes handed out so far.
    pub taken: u64,
}

impl BodyReader {
    pub fn new(body: Body) -> Self {
        Self { body, ready: VecDeque::new(), have: 0, taken: 0 }
    }

    async fn fill(&mut self) -> Result<bool, BoxError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data()
                && !data.is_empty()
            {
                self.have += data.len();
                self.ready.push_back(data);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is there, at most `max` bytes and at least one; `None` at the end.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, BoxError> {
        if max == 0 || (self.have == 0 && !self.fill().await?) {
            return Ok(None);
        }
        let Some(mut first) = self.ready.pop_front() else { return Ok(None) };
        let out = if first.len() > max {
            let out = first.split_to(max);
            self.ready.push_front(first);
            out
        } else {
            first
        };
        self.have -= out.len();
        self.taken += out.len() as u64;
        Ok(Some(out))
    }

    /// Exactly `n` bytes, or fewer at the end. `n` is memory; the caller limits it.
    pub async fn take(&mut self, n: usize) -> Result<Bytes, BoxError> {
        let mut out = Vec::with_capacity(n.min(65_536));
        while out.len() < n {
            match self.chunk(n - out.len()).await? {
                Some(piece) => out.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(out.into())
    }

    /// A line without its end; `None` at the end of the body. At most `max` bytes are read of it: a longer
    /// line comes back with `max` bytes or a little more, and the caller refuses it.
    pub async fn line(&mut self, max: usize) -> Result<Option<Vec<u8>>, BoxError> {
        let mut out = Vec::new();
        loop {
            if self.have == 0 && !self.fill().await? {
                return Ok(if out.is_empty() { None } else { Some(out) });
            }
            let Some(mut first) = self.ready.pop_front() else { return Ok(None) };
            let end = first.iter().position(|b| *b == b'\n');
            let n = end.map_or(first.len(), |e| e + 1);
            let piece = first.split_to(n);
            self.have -= n;
            self.taken += n as u64;
            if !first.is_empty() {
                self.ready.push_front(first);
            }
            out.extend_from_slice(&piece[..end.unwrap_or(n)]);
            if end.is_some() || out.len() > max {
                return Ok(Some(out));
            }
        }
    }
}
