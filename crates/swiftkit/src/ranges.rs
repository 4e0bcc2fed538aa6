//! `Range` headers, as upstream reads them.

use crate::python::natural;

const MAX_RANGES: usize = 50;
const MAX_OVERLAPS: usize = 2;
/// From this many ranges on, they must ascend.
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
        Self::parse(std::str::from_utf8(headers.get(http::header::RANGE)?.as_bytes()).ok()?)
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
        let ascending = all.windows(2).all(|w| w[0] <= w[1]);
        if overlaps > MAX_OVERLAPS || (!ascending && all.len() >= MAX_NON_ASCENDING) {
            return Vec::new();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let r = |h: &str, n| Ranges::parse(h).map(|r| r.for_length(n));
        assert_eq!(r("bytes=0-3", 10), Some(vec![(0, 4)]));
        assert_eq!(r("Bytes= 2 - ,-3", 10), Some(vec![(2, 10), (7, 10)]));
        assert_eq!(r("bytes=-30", 10), Some(vec![(0, 10)]));
        assert_eq!(r("bytes=+0-1", 20), Some(vec![(0, 2)]));
        assert_eq!(r("bytes=1_0-", 20), Some(vec![(10, 20)]));
        assert_eq!(r("bytes=5-99999999999999999999999", 10), Some(vec![(5, 10)]));
        assert_eq!(r("bytes=10-", 10), Some(vec![]));
        assert_eq!(r("bytes=-0", 10), Some(vec![]));
        assert_eq!(r("bytes=-5", 0), Some(vec![(0, 0)]));
        for bad in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=5",
            "bytes=3-2",
            "bytes=a-b",
            "items=0-1",
            "bytes=--1",
            "bytes=0-1,x",
            "bytes=0-+1",
            "bytes=0-1_0",
            "bytes=-+1",
        ] {
            assert_eq!(r(bad, 10), None, "{bad}");
        }
        let many = |n: u64| format!("bytes={}", (0..n).map(|i| format!("{}-{}", i * 2, i * 2)).collect::<Vec<_>>().join(","));
        assert_eq!(r(&many(50), 1000).unwrap().len(), 50);
        assert_eq!(r(&many(51), 1000), Some(vec![]));
        assert_eq!(r("bytes=0-9,0-9,0-9", 1000).unwrap().len(), 3, "the same range thrice overlaps nowhere inside");
        assert_eq!(r("bytes=0-9,1-8,2-7,3-6", 1000), Some(vec![]));
    }
}
