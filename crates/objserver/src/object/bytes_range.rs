//! `Range` headers.

use caelum_swiftkit::python::natural;

const MAX_RANGES: usize = 50;
const MAX_OVERLAPS: usize = 2;
/// From this many ranges on, they must ascend.
const MAX_NONASCENDING: usize = 8;

/// First and last byte as the header gives them.
type Spec = (Option<u64>, Option<u64>);

/// `None`: there is no header that means anything, so it is ignored.
pub(super) fn parse(header: &str) -> Option<Vec<Spec>> {
    let header: String = header.chars().filter(|c| *c != ' ').collect();
    let list = header.get(..6).filter(|p| p.eq_ignore_ascii_case("bytes=")).and_then(|_| header.get(6..))?;
    // Beyond any object's size is beyond its end.
    let number = |s: &str| if s.is_empty() { Some(None) } else { natural(s, u64::MAX / 2).map(Some) };
    let mut out = Vec::new();
    for part in list.split(',') {
        let (start, end) = part.split_once('-')?;
        // Upstream reads the one with `int()` and wants digits of the other.
        let end = number(end).filter(|_| end.bytes().all(|b| b.is_ascii_digit()))?;
        let start = number(start)?;
        match (start, end) {
            (None, None) => return None,
            (Some(s), Some(e)) if e < s => return None,
            _ => out.push((start, end)),
        }
    }
    Some(out)
}

/// Half-open ranges of a body of this length; empty: none can be satisfied or they are abusive (416).
pub(super) fn resolve(specs: &[Spec], length: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    for spec in specs {
        match *spec {
            (None, Some(0)) | (None, None) => {}
            (None, Some(n)) => out.push((length.saturating_sub(n), length)),
            (Some(s), _) if s >= length => {}
            (Some(s), None) => out.push((s, length)),
            (Some(s), Some(e)) => out.push((s, e.saturating_add(1).min(length))),
        }
    }
    if out.len() > MAX_RANGES {
        return Vec::new();
    }
    let mut overlaps = 0;
    for (i, a) in out.iter().enumerate() {
        for b in out.iter().skip(i + 1) {
            let inside = |x: u64, r: &(u64, u64)| r.0 < x && x < r.1;
            if inside(b.0, a) || inside(b.1, a) || inside(a.0, b) || inside(a.1, b) {
                overlaps += 1;
            }
        }
    }
    let descends = out.windows(2).any(|w| w[0] > w[1]);
    if overlaps > MAX_OVERLAPS || descends && out.len() >= MAX_NONASCENDING {
        return Vec::new();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let r = |h: &str, n| parse(h).map(|s| resolve(&s, n));
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
