use crate::env::Resp;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Body as _;

/// A header as text. Swift's metadata may be UTF-8; anything else counts as absent.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
}

/// Sets a header in place of what there is. A value that cannot stand in a header (line breaks) is
/// not set, and the old one is removed.
pub fn set(headers: &mut HeaderMap, name: &str, value: impl AsRef<[u8]>) {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return };
    match HeaderValue::from_bytes(value.as_ref()) {
        Ok(v) => drop(headers.insert(name, v)),
        Err(_) => drop(headers.remove(name)),
    }
}

/// `true`, `1`, `yes`, `on`, `t`, `y` in any case.
pub fn is_true_text(value: &str) -> bool {
    ["true", "1", "yes", "on", "t", "y"].iter().any(|t| value.eq_ignore_ascii_case(t))
}

pub fn is_true(headers: &HeaderMap, name: &str) -> bool {
    text(headers, name).is_some_and(is_true_text)
}

/// Without the quotes around it, when there are.
pub fn unquote_etag(tag: &str) -> &str {
    match tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner,
        None => tag,
    }
}

/// A response's `ETag` without quotes.
pub fn etag(headers: &HeaderMap) -> Option<String> {
    text(headers, "etag").map(|t| t.replace('"', "")).filter(|t| !t.is_empty())
}

/// The length of a response's body in bytes: from its header, else from the body itself.
pub fn content_length(resp: &Resp) -> Option<u64> {
    let header = resp.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    header.or_else(|| resp.body().size_hint().exact())
}

/// A content type from a name's ending; `application/octet-stream` for unknown ones.
pub fn guess_type(name: &str) -> &'static str {
    crate::proxy::mime_types::guess(name)
}
