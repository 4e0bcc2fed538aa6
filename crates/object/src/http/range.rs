use super::BodyReader;
use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use caelum_swiftkit::python::natural;

const MAX_RANGES: usize = 50;
const MAX_OVERLAPS: usize = 2;
const MAX_NON_ASCENDING: usize = 8;

/// First byte and the byte after the last.
pub type ByteRange = (u64, u64);

/// A syntactically valid `Range` header: pairs of first and last byte, either open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(pub Vec<(Option<u64>, Option<u64>)>);

impl Ranges {
    /// `None` for a header that must be ignored.
    pub fn parse(header: &str) -> Option<Self> {
        let header: String = header.chars().filter(|c| *c != ' ').collect();
        let unit = header.get(..6)?;
        if !unit.eq_ignore_ascii_case("bytes=") {
            return None;
        }
        // A number too large for us is past every object's end.
        let number = |t: &str| if t.is_empty() { Some(None) } else { natural(t, u64::MAX / 2).map(Some) };
        let mut out = Vec::new();
        for part in header[6..].split(',') {
            let (first, last) = part.split_once('-')?;
            // Upstream reads the one with `int()` and wants digits of the other.
            let last = number(last).filter(|_| last.bytes().all(|b| b.is_ascii_digit()))?;
            let first = number(first)?;
            match (first, last) {
                (None, None) => return None,
                (Some(f), Some(l)) if l < f => return None,
                _ => out.push((first, last)),
            }
        }
        Some(Self(out))
    }

    pub fn of(headers: &http::HeaderMap) -> Option<Self> {
        Self::parse(super::text(headers, "range")?)
    }

    /// As the header was, without spaces.
    pub fn header(&self) -> String {
        let n = |v: Option<u64>| v.map(|v| v.to_string()).unwrap_or_default();
        let parts: Vec<String> = self.0.iter().map(|(a, b)| format!("{}-{}", n(*a), n(*b))).collect();
        format!("bytes={}", parts.join(","))
    }

    /// The ranges of content `length` bytes long. Empty: nothing can be satisfied (416), also for more
    /// than 50 ranges, more than two overlaps, or eight and more out of order (RFC 7233, 6.1).
    pub fn for_length(&self, length: u64) -> Vec<ByteRange> {
        let mut all: Vec<ByteRange> = Vec::new();
        for range in &self.0 {
            match *range {
                (None, Some(0)) | (None, None) => {}
                (None, Some(suffix)) => all.push((length.saturating_sub(suffix), length)),
                (Some(first), last) if first < length => all.push((first, last.map_or(length, |l| (l + 1).min(length)))),
                _ => {}
            }
            if all.len() > MAX_RANGES {
                return Vec::new();
            }
        }
        let inside = |a: &ByteRange, b: &ByteRange| (a.0 < b.0 && b.0 < a.1) || (a.0 < b.1 && b.1 < a.1);
        let mut overlaps = 0;
        for (i, a) in all.iter().enumerate() {
            overlaps += all[i + 1..].iter().filter(|b| inside(a, b) || inside(b, a)).count();
        }
        let ascending = all.windows(2).all(|w| w[0].0 <= w[1].0);
        if overlaps > MAX_OVERLAPS || (!ascending && all.len() >= MAX_NON_ASCENDING) {
            return Vec::new();
        }
        all
    }
}

/// `bytes 0-9/100`.
pub fn content_range(range: ByteRange, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.0, range.1.saturating_sub(1))
}

fn part_header(range: ByteRange, content_type: &str, boundary: &str, length: u64) -> String {
    format!("--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n", content_range(range, length))
}

/// Bytes of a `multipart/byteranges` answer.
pub fn multipart_length(ranges: &[ByteRange], content_type: &str, boundary: &str, length: u64) -> u64 {
    let parts: u64 = ranges.iter().map(|r| part_header(*r, content_type, boundary, length).len() as u64 + (r.1 - r.0) + 2).sum();
    parts + boundary.len() as u64 + 4
}

/// Puts the MIME parts around `data`, which yields the ranges' bytes one after another.
pub fn multipart_body(data: Body, ranges: Vec<ByteRange>, content_type: String, boundary: String, length: u64) -> Body {
    let (tx, body) = caelum_rest::stream_channel(1);
    tokio::spawn(async move {
        let mut data = BodyReader::new(data);
        for range in ranges {
            let head = part_header(range, &content_type, &boundary, length);
            if tx.send(Ok(Bytes::from(head))).await.is_err() {
                return;
            }
            let mut left = range.1 - range.0;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(usize::MAX);
                let next = tokio::select! { c = data.chunk(want) => c, () = tx.closed() => return };
                let piece = match next {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return drop(tx.send(Err(BoxError::from("content ended early"))).await),
                    Err(e) => return drop(tx.send(Err(e)).await),
                };
                left -= piece.len() as u64;
                if tx.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            if tx.send(Ok(Bytes::from_static(b"\r\n"))).await.is_err() {
                return;
            }
        }
        // A client that has gone needs no end.
        let _ = tx.send(Ok(Bytes::from(format!("--{boundary}--")))).await;
    });
    body
}
