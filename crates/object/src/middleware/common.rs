//! What several of these layers need and nobody else.

use crate::env::{Environ, Req, Resp, SwiftPath, quote};
use crate::http::{error_plain, set, text};
use caelum_swiftkit::python::json_string;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// Sysmeta that a container update takes instead of the object's ETag.
pub(super) const OVERRIDE_ETAG: &str = "x-object-sysmeta-container-update-override-etag";
pub(super) const MD5_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// Listings longer than this are passed on as they are (bytes).
pub(super) const MAX_LISTING_BYTES: usize = 20_480_000;

/// `value; a=1; b="2"` as its value and parameters in order.
pub(super) fn parse_header(value: &str) -> (String, Vec<(String, String)>) {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (i, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parts.push(&value[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    let mut parts = parts.into_iter();
    let main = parts.next().unwrap_or_default().trim().to_string();
    let pairs = parts.filter_map(|p| {
        let (k, v) = p.split_once('=')?;
        let v = v.trim();
        let v =
            v.strip_prefix('"').and_then(|v| v.strip_suffix('"')).map_or(v.to_string(), |v| v.replace("\\\"", "\"").replace("\\\\", "\\"));
        Some((k.trim().to_lowercase(), v))
    });
    (main, pairs.collect())
}

/// The value of `swift_bytes` in a content type.
pub(super) fn swift_bytes(content_type: &str) -> Option<u64> {
    parse_header(content_type).1.into_iter().find(|(k, _)| k == "swift_bytes")?.1.parse().ok()
}

pub(super) fn append_csv(headers: &mut HeaderMap, name: &str, value: &str) {
    let joined = match text(headers, name) {
        Some(old) if !old.is_empty() => format!("{old},{value}"),
        _ => value.to_string(),
    };
    set(headers, name, joined);
}

pub(super) fn unquote(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// A header of the form `container/object`, percent-encoded, with or without a slash before it.
///
/// Errors: 412 with `message`, or for a name that is not UTF-8.
pub(super) fn container_and_object(value: &str, message: &str, plain: bool) -> Result<(String, String), Resp> {
    let Ok(value) = percent_decode_str(value).decode_utf8() else {
        return Err(error_plain(412, "Invalid UTF8 or contains NULL"));
    };
    let value = value.strip_prefix('/').unwrap_or(&value);
    match value.split_once('/') {
        Some((c, o)) if !c.is_empty() && !o.is_empty() => Ok((c.to_string(), o.to_string())),
        _ if plain => Err(error_plain(412, message.to_string())),
        _ => Err(crate::http::error_html(412, message.to_string())),
    }
}

/// An account's name out of a percent-encoded header. Errors: 412.
pub(super) fn account_name(value: &str) -> Result<String, Resp> {
    check_name(unquote(value), "Account")
}

/// A container's name out of a header. Errors: 412.
pub(super) fn container_name(value: &str) -> Result<String, Resp> {
    check_name(value.to_string(), "Container")
}

fn check_name(name: String, what: &str) -> Result<String, Resp> {
    if name.is_empty() {
        return Err(crate::http::error_html(412, format!("{what} name cannot be empty")));
    }
    if name.contains('/') {
        return Err(crate::http::error_html(412, format!("{what} name cannot contain slashes")));
    }
    Ok(name)
}

/// `/v1/account/container/object`, encoded.
pub(super) fn object_path(version: &str, account: &str, container: &str, object: &str) -> String {
    format!("/{version}/{}/{}/{}", quote(account), quote(container), quote(object))
}

pub(super) fn container_path(version: &str, account: &str, container: &str) -> String {
    format!("/{version}/{}/{}", quote(account), quote(container))
}

/// The account's part of a path with another container and object behind it.
pub(super) fn sibling(path: &SwiftPath, container: &str, object: &str) -> String {
    object_path(&path.version, &path.account, container, object)
}

/// Lets a request of ours use names that clients may not.
pub(super) fn allow_reserved(req: &mut Req) {
    set(req.headers_mut(), "x-backend-allow-reserved-names", "true");
    if let Some(environ) = req.extensions_mut().get_mut::<Environ>() {
        environ.internal = true;
    }
}

/// Replaces a response's body by JSON.
pub(super) fn with_json(mut resp: Resp, value: &Value) -> Resp {
    let text = json_string(value);
    set(resp.headers_mut(), "content-length", text.len().to_string());
    resp.map(|_| caelum_rest::full(text))
}

/// A listing's rows, or the response unchanged when it is none (an error, not JSON, too long) or does not contain
/// `mark`: most listings need no work, and reading and writing JSON is dear.
pub(super) async fn listing_rows(resp: Resp, mark: &str) -> Result<(Resp, Vec<Value>), Resp> {
    let json = text(resp.headers(), "content-type").is_some_and(|t| t.starts_with("application/json"));
    let long = crate::http::content_length(&resp).is_some_and(|n| n > MAX_LISTING_BYTES as u64);
    if !resp.status().is_success() || !json || long {
        return Err(resp);
    }
    let (parts, body) = resp.into_parts();
    let Some(bytes) = crate::http::read_all(body, MAX_LISTING_BYTES).await else { return Err(crate::http::error(503)) };
    if std::str::from_utf8(&bytes).is_ok_and(|t| !t.contains(mark)) {
        return Err(Resp::from_parts(parts, caelum_rest::full(bytes)));
    }
    match serde_json::from_slice(&bytes) {
        Ok(rows) => Ok((Resp::from_parts(parts, caelum_rest::empty()), rows)),
        Err(_) => Err(Resp::from_parts(parts, caelum_rest::full(bytes))),
    }
}

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
