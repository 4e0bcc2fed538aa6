//! Bodies that are encrypted or decrypted while they pass.

use super::cipher::Ctr;
use bytes::{Buf, Bytes, BytesMut};
use caelum_rest::{Body, BoxError};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use md5::{Digest, Md5};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Longest part head in a multipart answer.
const MAX_HEAD: usize = 16_384;

/// Applies the cipher without copying, where the memory is nobody else's.
fn apply(ctr: &mut Ctr, data: Bytes) -> Bytes {
    let mut data = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    ctr.apply(&mut data);
    data.freeze()
}

/// What is known of a body once all of it has been encrypted.
pub struct Digests {
    pub plain: String,
    pub cipher: String,
}

/// Makes the footers from the digests (`None` for an empty body) and the footers of the body itself. An
/// error breaks the upload off.
pub type Finish = Box<dyn FnOnce(Option<Digests>, HeaderMap) -> Result<HeaderMap, BoxError> + Send>;

/// Encrypts; ends with footers as trailers.
pub struct Encrypting {
    inner: Body,
    ctr: Ctr,
    plain: Md5,
    cipher: Md5,
    any: bool,
    footers: HeaderMap,
    finish: Option<Finish>,
}

impl Encrypting {
    pub fn new(inner: Body, ctr: Ctr, finish: Finish) -> Self {
        let (plain, cipher) = (Md5::new(), Md5::new());
        Self { inner, ctr, plain, cipher, any: false, footers: HeaderMap::new(), finish: Some(finish) }
    }

    fn data(&mut self, data: Bytes) -> Bytes {
        if data.is_empty() {
            return data;
        }
        self.any = true;
        self.plain.update(&data);
        let data = apply(&mut self.ctr, data);
        self.cipher.update(&data);
        data
    }
}

fn hex(md5: &mut Md5) -> String {
    caelum_swiftkit::to_hex(&std::mem::take(md5).finalize())
}

impl HttpBody for Encrypting {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.finish.is_none() {
                return Poll::Ready(None);
            }
            return Poll::Ready(match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(Frame::data(this.data(data)))),
                    Err(frame) => {
                        this.footers.extend(frame.into_trailers().unwrap_or_default());
                        continue;
                    }
                },
                Some(Err(e)) => {
                    this.finish = None;
                    Some(Err(e))
                }
                None => this.finish.take().map(|finish| {
                    let digests = this.any.then(|| Digests { plain: hex(&mut this.plain), cipher: hex(&mut this.cipher) });
                    finish(digests, std::mem::take(&mut this.footers)).map(Frame::trailers)
                }),
            });
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Decrypts one run of bytes.
pub struct Decrypting {
    inner: Body,
    ctr: Ctr,
}

impl Decrypting {
    pub fn new(inner: Body, ctr: Ctr) -> Self {
        Self { inner, ctr }
    }
}

impl HttpBody for Decrypting {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        Poll::Ready(frame.map(|f| f.map(|f| f.map_data(|d| apply(&mut this.ctr, d)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Decrypts the parts of a `multipart/byteranges` answer and passes on what is between them. How long a
/// part is and where it belongs is read from its `Content-Range`, so nothing in the data is mistaken for a boundary.
pub struct DecryptingParts<F> {
    inner: Body,
    /// The cipher positioned at an offset of the whole object.
    at: F,
    head: BytesMut,
    part: Option<(Ctr, u64)>,
    /// Nothing more comes; the inner body must not be asked again.
    done: bool,
}

impl<F: Fn(u64) -> Ctr + Unpin> DecryptingParts<F> {
    pub fn new(inner: Body, at: F) -> Self {
        Self { inner, at, head: BytesMut::new(), part: None, done: false }
    }

    fn data(&mut self, mut data: Bytes) -> Result<Bytes, BoxError> {
        let mut out = BytesMut::with_capacity(data.len() + self.head.len());
        while data.has_remaining() {
            if let Some((ctr, left)) = &mut self.part {
                let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let start = out.len();
                out.extend_from_slice(&data[..n]);
                ctr.apply(&mut out[start..]);
                data.advance(n);
                *left -= n as u64;
                if *left == 0 {
                    self.part = None;
                }
                continue;
            }
            // The end of the head may lie across two pieces.
            let from = self.head.len().saturating_sub(3);
            self.head.extend_from_slice(&data);
            let Some(end) = find(&self.head[from..], b"\r\n\r\n").map(|p| from + p + 4) else {
                if self.head.len() > MAX_HEAD {
                    return Err("a part of the stored answer has no end to its head".into());
                }
                break;
            };
            data = self.head.split_off(end).freeze();
            let head = self.head.split();
            let (first, length) = range_of(&head).ok_or("a part of the stored answer has no range")?;
            self.part = Some(((self.at)(first), length)).filter(|_| length > 0);
            out.extend_from_slice(&head);
        }
        Ok(out.freeze())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// First byte and length from a part's `Content-Range: bytes 0-99/200`.
fn range_of(head: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(head).ok()?;
    let value = text.lines().find_map(|l| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("content-range").then(|| value.trim())
    })?;
    content_range(value)
}

/// First byte and length of a `Content-Range` value.
pub fn content_range(value: &str) -> Option<(u64, u64)> {
    let (range, _total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

impl<F: Fn(u64) -> Ctr + Unpin> HttpBody for DecryptingParts<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.done {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(e)) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(e)));
                }
                // The closing boundary has no head behind it.
                None => {
                    this.done = true;
                    let rest = this.head.split().freeze();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            match this.data(data) {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Err(e) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(e)));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        // Pieces may be held back, but the whole is as long as it was.
        let mut hint = self.inner.size_hint();
        let held = self.head.len() as u64;
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + held);
        }
        hint
    }
}
