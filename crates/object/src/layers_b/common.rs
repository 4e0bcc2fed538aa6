//! What several layers of this module need.

use crate::env::{Environ, Req};

/// The request's facts; those of nobody for a request that carries none.
pub fn facts(req: &Req) -> Environ {
    crate::env::environ(req).cloned().unwrap_or_else(|| Environ { is_owner: false, internal: false, ..Environ::internal("", "") })
}

/// Where the API is mounted at the front door (`/object`; empty for a listener of its own). Clients sign the path they
/// see, so a signature may cover the path with it or without it.
pub fn mount(req: &Req) -> String {
    let base = req.extensions().get::<caelum_rest::BaseUrl>().map_or("", |b| b.0.as_str());
    let rest = base.split_once("://").map_or("", |(_, rest)| rest);
    rest.find('/').map_or_else(String::new, |at| rest[at..].trim_end_matches('/').to_string())
}

/// `Content-Length` of a request; `None` for one of unknown length.
pub fn request_length(req: &Req) -> Option<u64> {
    crate::http::text(req.headers(), "content-length")?.trim().parse().ok()
}

/// `v1` or `v1.0`.
pub fn is_api_version(version: &str) -> bool {
    matches!(version, "v1" | "v1.0")
}

/// Text between tags or in a quoted attribute.
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            _ => out.push(c),
        }
    }
    out
}

/// All but letters, digits, `-`, `_`, `.`, `~` and the slash is quoted.
pub const SLASH: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// As [`SLASH`]; blanks stay as well.
pub const SLASH_AND_BLANK: &percent_encoding::AsciiSet = &SLASH.remove(b' ');
/// As [`SLASH`]; colons stay as well.
pub const SLASH_AND_COLON: &percent_encoding::AsciiSet = &SLASH.remove(b':');
/// The slash is quoted too.
pub const NO_SLASH: &percent_encoding::AsciiSet = &SLASH.add(b'/');

/// Percent-encoding of what is in the set.
pub fn quote_set(text: &str, set: &'static percent_encoding::AsciiSet) -> String {
    percent_encoding::utf8_percent_encode(text, set).to_string()
}

/// A number as Python's `int()` reads it from text: blanks around it, a sign, underscores between digits.
pub fn python_int(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let bytes = digits.as_bytes();
    let plain = bytes.first().is_some_and(u8::is_ascii_digit)
        && bytes.last().is_some_and(u8::is_ascii_digit)
        && bytes.iter().all(|b| b.is_ascii_digit() || *b == b'_')
        && !digits.contains("__");
    if !plain {
        return None;
    }
    let number: i128 = digits.replace('_', "").parse().ok()?;
    Some(if negative { -number } else { number })
}

/// What stands behind the last slash.
pub fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_reads_them() {
        for (text, n) in [("5", 5), (" +05\n", 5), ("1_000", 1000), ("-7", -7)] {
            assert_eq!(python_int(text), Some(n), "{text}");
        }
        for bad in ["", " ", "+", "1__0", "_1", "1_", "0x5", "5.0", "٥", "1e3", "--1", "99999999999999999999999999999999999999999999"] {
            assert_eq!(python_int(bad), None, "{bad}");
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quote_set("a b/ü\"~", SLASH_AND_BLANK), "a b/%C3%BC%22~");
        assert_eq!(escape_html("<a b='c\"&"), "&lt;a b=&#x27;c&quot;&amp;");
        assert_eq!((basename("a/b/c"), basename("x")), ("c", "x"));
    }
}
