//! Bodies of uploads: decodes `aws-chunked`, and checks signatures, hashes, checksums and lengths while the data
//! passes. Source: Amazon S3's API reference, "Signature Calculations for the Authorization Header: Transferring
//! Payload in Multiple Chunks" and "… Including trailing headers".
//!
//! Invariant: the last piece of data is handed on only after everything has been checked, so that whoever reads the
//! body to its announced length has read a body that fits. A truncated body ends with an error, never in silence.

use crate::auth::SigningContext;
use crate::checksum::{Algorithm, Hasher, in_headers};
use crate::errors::{S3Error, S3Result, err, invalid_argument, invalid_request, not_implemented};
use bytes::Bytes;
use caelum_object::http::{BodyReader, text};
use caelum_rest::{Body, BoxError};
use caelum_swiftkit::to_hex;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex};
use subtle::ConstantTimeEq;

/// Where an object's checksum is kept: `CRC32;FULL_OBJECT;<base 64>`.
pub const CHECKSUM_SYSMETA: &str = "x-object-sysmeta-s3api-checksum";
/// Chunks other than the last one have at least this many bytes.
const MIN_CHUNK: u64 = 8192;
const MAX_LINE: usize = 4096;
const PIECE: usize = 1 << 18;

/// How a body travels and what is promised about it.
pub struct Plan {
    mode: Mode,
    /// Of the data itself.
    pub length: Option<u64>,
    checksum: Option<(Algorithm, Option<String>)>,
    has_trailer: bool,
    /// Nobody has said what the checksum is: it is computed, not compared.
    is_own: bool,
}

enum Mode {
    Plain(Option<String>),
    Chunked(Option<Box<SigningContext>>),
}

/// The checksum as it is stored and shown.
pub fn stored_checksum(algorithm: Algorithm, kind: &str, value: &str) -> String {
    format!("{};{kind};{value}", algorithm.name())
}

/// The inverse: algorithm, kind, value.
pub fn parse_stored(text: &str) -> Option<(Algorithm, &str, &str)> {
    let (name, rest) = text.split_once(';')?;
    let (kind, value) = rest.split_once(';')?;
    Some((Algorithm::by_name(name)?, kind, value))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn number(headers: &HeaderMap, name: &str) -> S3Result<Option<u64>> {
    let Some(text) = text(headers, name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| invalid_argument(name, text, "Invalid Argument."))
}

/// The one checksum that headers give. Errors: several, or a malformed one.
fn header_checksum(headers: &HeaderMap) -> S3Result<Option<(Algorithm, String)>> {
    let mut found = in_headers(headers);
    if found.len() > 1 {
        return Err(invalid_request("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."));
    }
    let unknown = headers.keys().map(HeaderName::as_str).filter(|n| n.starts_with("x-amz-checksum-")).find(|n| {
        Algorithm::by_header(n).is_none() && !matches!(*n, "x-amz-checksum-algorithm" | "x-amz-checksum-type" | "x-amz-checksum-mode")
    });
    if unknown.is_some() {
        return Err(invalid_request("The algorithm type you specified in x-amz-checksum- header is invalid."));
    }
    match found.pop() {
        Some((a, v)) if !a.accepts(&v) => Err(invalid_request(&format!("Value for {} header is invalid.", a.header()))),
        other => Ok(other),
    }
}

fn trailer_checksum(headers: &HeaderMap) -> S3Result<Option<Algorithm>> {
    let Some(named) = text(headers, "x-amz-trailer").map(str::trim).filter(|t| !t.is_empty()) else { return Ok(None) };
    let bad = || invalid_request("The value specified in the x-amz-trailer header is not supported");
    Algorithm::by_header(named).ok_or_else(bad).map(Some)
}

pub fn missing_hash() -> S3Error {
    invalid_request("Missing required header for this request: x-amz-content-sha256")
}

/// What the headers of a request say about its body. `context` is that of a version-4 signature in the headers, which
/// covers the body's hash whether a header names it or not.
pub fn plan(headers: &HeaderMap, context: Option<SigningContext>) -> S3Result<Plan> {
    let in_header = header_checksum(headers)?;
    let trailer = trailer_checksum(headers)?;
    if in_header.is_some() && trailer.is_some() {
        return Err(invalid_request("Expecting a single x-amz-checksum- header"));
    }
    if let Some(named) = text(headers, "x-amz-sdk-checksum-algorithm").filter(|n| !n.is_empty()) {
        let wanted = Algorithm::by_name(named);
        let given = in_header.as_ref().map(|(a, _)| *a).or(trailer);
        if wanted.is_none() || (given.is_some() && given != wanted) {
            return Err(invalid_request("Value for x-amz-sdk-checksum-algorithm header is invalid."));
        }
    }
    let checksum = in_header.map(|(a, v)| (a, Some(v))).or(trailer.map(|a| (a, None)));
    let length = number(headers, "content-length")?;
    let Some(hash) = text(headers, "x-amz-content-sha256") else {
        return Ok(Plan { mode: Mode::Plain(None), length, checksum, has_trailer: false, is_own: false });
    };
    if hash == "UNSIGNED-PAYLOAD" {
        return Ok(Plan { mode: Mode::Plain(None), length, checksum, has_trailer: false, is_own: false });
    }
    if is_sha256(hash) {
        return Ok(Plan { mode: Mode::Plain(Some(hash.to_ascii_lowercase())), length, checksum, has_trailer: false, is_own: false });
    }
    let (signed, with_trailer) = match hash {
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => (false, true),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => (true, false),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => (true, true),
        h if h.starts_with("STREAMING-AWS4-ECDSA-") => return Err(not_implemented("Chunks signed with ECDSA are not supported.")),
        h => {
            return Err(invalid_argument(
                "x-amz-content-sha256",
                h,
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
            ));
        }
    };
    let length = number(headers, "x-amz-decoded-content-length")?.ok_or_else(|| err("MissingContentLength"))?;
    if signed && context.is_none() {
        return Err(err("XAmzContentSHA256Mismatch").with("ClientComputedContentSHA256", hash));
    }
    let context = if signed { context.map(Box::new) } else { None };
    Ok(Plan { mode: Mode::Chunked(context), length: Some(length), checksum, has_trailer: with_trailer, is_own: false })
}

/// What a guarded body failed of, for whoever answers the request it belonged to.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<S3Error>>>);

impl Failure {
    pub fn take(&self) -> Option<S3Error> {
        self.0.lock().expect("no holder of this lock panics").take()
    }

    fn note(&self, e: S3Error) -> BoxError {
        let text = e.code;
        *self.0.lock().expect("no holder of this lock panics") = Some(e);
        text.into()
    }
}

/// A body that checks itself.
pub struct Guarded {
    pub body: Body,
    /// `None`: unknown.
    pub length: Option<u64>,
    pub failure: Failure,
    /// The checksum comes with a trailers frame at the end.
    pub has_footers: bool,
    /// The checksum, when it is known beforehand.
    pub checksum: Option<(Algorithm, String)>,
}

impl Plan {
    /// Which checksum comes with the body.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.checksum.as_ref().map(|(a, _)| *a)
    }

    /// Has a checksum computed that nobody has sent.
    pub fn compute(&mut self, algorithm: Algorithm) {
        if self.checksum.is_none() {
            (self.checksum, self.is_own) = (Some((algorithm, None)), true);
        }
    }

    /// Wraps a body. Errors: those of an empty body, which nobody may come to read.
    pub async fn guard(self, body: Body) -> S3Result<Guarded> {
        let length = self.length;
        let has_footers = matches!(self.checksum, Some((_, None)));
        let checksum = self.checksum.clone().and_then(|(a, v)| Some((a, v?)));
        let (signer, hash, is_chunked) = match self.mode {
            Mode::Plain(hash) => (None, hash, false),
            Mode::Chunked(signer) => (signer, None, true),
        };
        let failure = Failure::default();
        let mut guard = Guard {
            reader: BodyReader::new(body),
            is_chunked,
            signer,
            expected_hash: hash.clone(),
            hash: hash.map(|_| Sha256::new()),
            checksum: self.checksum.map(|(a, v)| (a, a.hasher(), v)),
            has_trailer: self.has_trailer,
            is_own: self.is_own,
            left: length,
            length,
            chunk: None,
            last_size: None,
            held: None,
            footers: None,
            is_done: false,
        };
        if length == Some(0) {
            // Nobody needs to read a body of no bytes.
            while guard.next().await?.is_some() {}
            let frames = guard.footers.take().map(|f| Ok(http_body::Frame::trailers(f)));
            let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
            return Ok(Guarded { body, length, failure, has_footers, checksum });
        }
        let noted = failure.clone();
        let stream = futures_util::stream::unfold(Some(guard), move |state| {
            let failure = noted.clone();
            async move {
                let mut guard = state?;
                match guard.next().await {
                    Ok(Some(data)) => Some((Ok(http_body::Frame::data(data)), Some(guard))),
                    Ok(None) => guard.footers.take().map(|f| (Ok(http_body::Frame::trailers(f)), None)),
                    Err(e) => Some((Err(failure.note(e)), None)),
                }
            }
        });
        Ok(Guarded { body: StreamBody::new(stream.fuse()).boxed_unsync(), length, failure, has_footers, checksum })
    }
}

/// A chunk being read: bytes left, its hash so far and the signature it should have.
struct Chunk {
    left: u64,
    hash: Sha256,
    signature: String,
}

struct Guard {
    reader: BodyReader,
    is_chunked: bool,
    signer: Option<Box<SigningContext>>,
    expected_hash: Option<String>,
    hash: Option<Sha256>,
    checksum: Option<(Algorithm, Hasher, Option<String>)>,
    has_trailer: bool,
    is_own: bool,
    /// Bytes of data still to come.
    left: Option<u64>,
    length: Option<u64>,
    chunk: Option<Chunk>,
    last_size: Option<u64>,
    held: Option<Bytes>,
    footers: Option<HeaderMap>,
    is_done: bool,
}

fn incomplete() -> S3Error {
    err("IncompleteBody").text("The request body terminated unexpectedly")
}

fn broken(_: BoxError) -> S3Error {
    incomplete()
}

impl Guard {
    /// The next piece, one behind what has been read.
    async fn next(&mut self) -> S3Result<Option<Bytes>> {
        while !self.is_done {
            let read = if self.is_chunked { self.chunked().await? } else { self.reader.chunk(PIECE).await.map_err(broken)? };
            let Some(data) = read else {
                self.finish()?;
                break;
            };
            if let Some(left) = &mut self.left {
                let n = data.len() as u64;
                if n > *left {
                    return Err(self.wrong_size(n));
                }
                *left -= n;
            }
            if let Some(h) = &mut self.hash {
                h.update(&data);
            }
            if let Some((_, h, _)) = &mut self.checksum {
                h.update(&data);
            }
            if let Some(before) = self.held.replace(data) {
                return Ok(Some(before));
            }
        }
        Ok(self.held.take())
    }

    fn wrong_size(&self, more: u64) -> S3Error {
        let expected = self.length.unwrap_or(0);
        let seen = expected.saturating_sub(self.left.unwrap_or(0)).saturating_add(more);
        err("IncompleteBody").with("NumberBytesExpected", expected.to_string()).with("NumberBytesProvided", seen.to_string())
    }

    fn finish(&mut self) -> S3Result<()> {
        self.is_done = true;
        if self.left.is_some_and(|l| l > 0) {
            return Err(self.wrong_size(0));
        }
        if let (Some(expected), Some(h)) = (&self.expected_hash, self.hash.take()) {
            let computed = to_hex(&h.finalize());
            if !bool::from(computed.as_bytes().ct_eq(expected.as_bytes())) {
                let e = err("XAmzContentSHA256Mismatch").with("ClientComputedContentSHA256", expected);
                return Err(e.with("S3ComputedContentSHA256", computed));
            }
        }
        if let Some((algorithm, h, expected)) = self.checksum.take() {
            let computed = h.finish();
            if !self.is_own && expected.is_none() {
                return Err(err("MalformedTrailerError"));
            }
            if expected.is_some_and(|given| computed != given) {
                return Err(err("BadDigest").text(format!("The {} you specified did not match the calculated checksum.", algorithm.name())));
            }
            if self.has_trailer || self.is_own {
                let mut f = HeaderMap::new();
                if let Ok(v) = HeaderValue::from_str(&stored_checksum(algorithm, "FULL_OBJECT", &computed)) {
                    f.insert(HeaderName::from_static(CHECKSUM_SYSMETA), v);
                }
                self.footers = Some(f);
            }
        }
        Ok(())
    }

    async fn line(&mut self) -> S3Result<String> {
        let line = self.reader.line(MAX_LINE).await.map_err(broken)?.ok_or_else(incomplete)?;
        let line = line.strip_suffix(b"\r").ok_or_else(incomplete)?;
        String::from_utf8(line.to_vec()).map_err(|_| incomplete())
    }

    /// Data of an `aws-chunked` body; `None` once the last chunk and the trailers have been read.
    async fn chunked(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            let Some(chunk) = &mut self.chunk else {
                self.begin_chunk().await?;
                continue;
            };
            if chunk.left > 0 {
                let max = usize::try_from(chunk.left).unwrap_or(PIECE).min(PIECE);
                let data = self.reader.chunk(max).await.map_err(broken)?.ok_or_else(incomplete)?;
                chunk.left -= data.len() as u64;
                if self.signer.is_some() {
                    chunk.hash.update(&data);
                }
                return Ok(Some(data));
            }
            let Some(chunk) = self.chunk.take() else { continue };
            if let Some(signer) = &mut self.signer
                && !signer.chunk(&to_hex(&chunk.hash.finalize()), &chunk.signature)
            {
                return Err(err("SignatureDoesNotMatch"));
            }
            if self.last_size == Some(0) {
                self.trailers().await?;
                return Ok(None);
            }
            if !self.line().await?.is_empty() {
                return Err(incomplete());
            }
        }
    }

    async fn begin_chunk(&mut self) -> S3Result<()> {
        let line = self.line().await?;
        let (size, rest) = line.split_once(';').unwrap_or((&line, ""));
        let digits = !size.is_empty() && size.len() <= 16 && size.bytes().all(|b| b.is_ascii_hexdigit());
        let size = if digits { u64::from_str_radix(size, 16).map_err(|_| incomplete())? } else { return Err(incomplete()) };
        if self.last_size.is_some_and(|l| l < MIN_CHUNK) && size != 0 {
            return Err(err("InvalidChunkSizeError").with("BadChunkSize", self.last_size.unwrap_or(0).to_string()));
        }
        if size > self.left.unwrap_or(0) {
            return Err(self.wrong_size(size));
        }
        let signature = rest.split(';').find_map(|p| p.trim().strip_prefix("chunk-signature=")).unwrap_or_default().to_string();
        if self.signer.is_some() && signature.is_empty() {
            return Err(incomplete());
        }
        self.last_size = Some(size);
        self.chunk = Some(Chunk { left: size, hash: Sha256::new(), signature });
        Ok(())
    }

    async fn trailers(&mut self) -> S3Result<()> {
        let wanted = self.checksum.as_ref().filter(|(_, _, v)| v.is_none() && !self.is_own).map(|(a, _, _)| *a);
        let (mut canonical, mut signature, mut seen) = (String::new(), None, 0);
        loop {
            let Some(raw) = self.reader.line(MAX_LINE).await.map_err(broken)? else {
                // The empty line at the end may be missing when nothing else is expected.
                if self.has_trailer && seen == 0 {
                    return Err(incomplete());
                } else {
                    break;
                };
            };
            let line = raw.strip_suffix(b"\r").unwrap_or(&raw);
            if line.is_empty() {
                break;
            }
            let line = std::str::from_utf8(line).map_err(|_| err("MalformedTrailerError"))?;
            let (name, value) = line.split_once(':').ok_or_else(|| err("MalformedTrailerError"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            seen += 1;
            if name == "x-amz-trailer-signature" && signature.is_none() {
                signature = Some(value.to_string());
            } else if self.has_trailer && wanted.is_some_and(|a| a.header() == name) && canonical.is_empty() {
                canonical.push_str(&format!("{name}:{value}\n"));
                self.trailer_value(&name, value)?;
            } else {
                return Err(err("MalformedTrailerError"));
            }
        }
        if wanted.is_some() && canonical.is_empty() {
            return Err(err("MalformedTrailerError"));
        }
        if let Some(signer) = self.signer.as_mut().filter(|_| self.has_trailer) {
            let canonical = if canonical.is_empty() { "\n" } else { &canonical };
            if !signature.is_some_and(|s| signer.trailer(canonical, &s)) {
                return Err(err("SignatureDoesNotMatch"));
            }
        }
        Ok(())
    }

    fn trailer_value(&mut self, name: &str, value: &str) -> S3Result<()> {
        if let Some((a, _, given)) = &mut self.checksum {
            if !a.accepts(value) {
                return Err(invalid_request(&format!("Value for {name} trailing header is invalid.")));
            }
            *given = Some(value.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
