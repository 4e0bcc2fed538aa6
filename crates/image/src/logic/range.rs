//! The `Range` header of a download.

/// What part of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    /// First byte and length.
    Part(u64, u64),
    /// No byte of the file is in the range.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges, other units and malformed
/// text mean the whole file, as HTTP allows.
pub fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = header.and_then(|h| h.trim().strip_prefix("bytes=")).and_then(|r| r.split_once('-')) else {
        return Wanted::All;
    };
    let (first, last) = (first.trim(), last.trim());
    match (first.is_empty(), last.is_empty()) {
        (true, _) => match last.parse::<u64>() {
            Ok(0) => Wanted::Unsatisfiable,
            Ok(n) if size > 0 => Wanted::Part(size - n.min(size), n.min(size)),
            Ok(_) => Wanted::Unsatisfiable,
            Err(_) => Wanted::All,
        },
        (false, open) => match (first.parse::<u64>(), if open { Ok(u64::MAX) } else { last.parse::<u64>() }) {
            (Ok(a), Ok(b)) if a > b => Wanted::All,
            (Ok(a), Ok(_)) if a >= size => Wanted::Unsatisfiable,
            (Ok(a), Ok(b)) => Wanted::Part(a, b.min(size - 1) - a + 1),
            _ => Wanted::All,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted::*, parse};

    #[test]
    fn ranges() {
        for (header, want) in [
            (None, All),
            (Some("bytes=0-0"), Part(0, 1)),
            (Some("bytes=2-"), Part(2, 8)),
            (Some("bytes=-3"), Part(7, 3)),
            (Some("bytes=-30"), Part(0, 10)),
            (Some("bytes=5-100"), Part(5, 5)),
            (Some("bytes=0-18446744073709551615"), Part(0, 10)),
            (Some("bytes=10-"), Unsatisfiable),
            (Some("bytes=-0"), Unsatisfiable),
            (Some("bytes=3-2"), All),
            (Some("bytes=0-1,3-4"), All),
            (Some("bytes=x-"), All),
            (Some("lines=0-1"), All),
        ] {
            assert_eq!(parse(header, 10), want, "{header:?}");
        }
        assert_eq!(parse(Some("bytes=-5"), 0), Unsatisfiable);
    }
}
