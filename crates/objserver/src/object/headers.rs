//! Reading requests' headers by upstream's rules.

use super::{Resp, respond};
use caelum_diskfile::{Metadata, header_bytes, latin1};
use caelum_rest::names;
use caelum_swiftkit::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

const MAX_META_NAME: usize = 128;
const MAX_META_VALUE: usize = 256;
const MAX_META_COUNT: usize = 90;
const MAX_META_OVERALL: usize = 4_096;
const MAX_HEADER: usize = 8_192;

/// A header as text of one character per byte.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    headers.get(name).map(value_text)
}

pub(super) fn value_text(v: &HeaderValue) -> Cow<'_, str> {
    match v.to_str() {
        Ok(s) => Cow::Borrowed(s),
        Err(_) => Cow::Owned(latin1(v.as_bytes())),
    }
}

/// Python's idea of a true option.
pub(super) fn is_true(headers: &HeaderMap, name: &str) -> bool {
    text(headers, name).is_some_and(|v| truth(&v))
}

pub(super) fn truth(v: &str) -> bool {
    ["true", "1", "yes", "on", "t", "y"].iter().any(|t| v.eq_ignore_ascii_case(t))
}

/// `x-object-meta-blue` as `X-Object-Meta-Blue`: each letter after none is raised.
pub(super) fn title(name: &str) -> String {
    let mut after_letter = false;
    name.chars()
        .map(|c| {
            let out = if after_letter { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
            after_letter = c.is_ascii_alphabetic();
            out
        })
        .collect()
}

/// A header's name as it is kept with the object: upstream's spelling, in text of one character per byte.
fn stored_name(name: &str) -> String {
    match names::name_to_wire(name) {
        Cow::Borrowed(_) => title(name),
        Cow::Owned(wire) => title(&latin1(&wire)),
    }
}

/// A name that is kept with an object as a header's. `None`: there can be none.
pub(super) fn header_name(stored: &str) -> Option<HeaderName> {
    if stored.is_ascii() { names::name_from_wire(stored.as_bytes()) } else { names::name_from_wire(&header_bytes(stored)) }
}

fn longer_prefix(name: &str, prefix: &str) -> bool {
    name.len() > prefix.len() && name.as_bytes().get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix.as_bytes()))
}

pub(super) fn is_user_meta(name: &str) -> bool {
    longer_prefix(name, "x-object-meta-")
}

pub(super) fn is_sys_meta(name: &str) -> bool {
    longer_prefix(name, "x-object-sysmeta-")
}

pub(super) fn is_transient(name: &str) -> bool {
    longer_prefix(name, "x-object-transient-sysmeta-")
}

/// `X-Timestamp`; 400 without one.
pub(super) fn timestamp(headers: &HeaderMap) -> Result<Timestamp, Resp> {
    let v = text(headers, "x-timestamp").ok_or_else(|| respond::text(400, "Missing X-Timestamp header"))?;
    Timestamp::parse(&v).ok_or_else(|| respond::text(400, "Invalid X-Timestamp header"))
}

/// `X-Timestamp`, or now; 400 for one that is none.
pub(super) fn timestamp_or(headers: &HeaderMap, now: Timestamp) -> Result<Timestamp, Resp> {
    let Some(v) = text(headers, "x-timestamp") else { return Ok(now) };
    Timestamp::parse(&v).ok_or_else(|| respond::text(400, &format!("X-Timestamp should be a UNIX timestamp float value; was '{v}'")))
}

/// Metadata and other headers that are kept, set from a request's. `replicated` names more
/// (`X-Backend-Replication-Headers`).
pub(super) fn keep(headers: &HeaderMap, allowed: &[String], keep_sysmeta: bool, into: &mut Metadata) {
    for (name, value) in headers {
        let name = name.as_str();
        if is_user_meta(name) || is_transient(name) || keep_sysmeta && is_sys_meta(name) {
            into.set(&stored_name(name), value_text(value));
        }
    }
    let replicated = text(headers, "x-backend-replication-headers").unwrap_or_default();
    for name in replicated.split_whitespace().chain(allowed.iter().map(String::as_str)) {
        if let Some(v) = text(headers, name) {
            let key = if name.eq_ignore_ascii_case("etag") { "ETag".to_string() } else { stored_name(name) };
            into.set(&key, v);
        }
    }
}

/// Upstream's limits on metadata; 400 beyond them.
pub(super) fn check_metadata(headers: &HeaderMap) -> Result<(), Resp> {
    let bad = |message: String| Err(respond::text(400, &message));
    let (mut count, mut size) = (0, 0);
    for (name, value) in headers {
        if value.len() > MAX_HEADER {
            let name = title(name.as_str());
            return bad(format!("Header value too long: {}", name.get(..MAX_META_NAME).unwrap_or(&name)));
        }
        let Some(key) = name.as_str().strip_prefix("x-object-meta-") else { continue };
        if key.is_empty() {
            return bad("Metadata name cannot be empty".into());
        }
        count += 1;
        // As long as it is on disk.
        let key = stored_name(name.as_str()).split_off("x-object-meta-".len());
        let length = key.chars().count();
        size += length + value.len();
        if length > MAX_META_NAME {
            return bad(format!("Metadata name too long: x-object-meta-{key}"));
        }
        if value.len() > MAX_META_VALUE {
            return bad(format!("Metadata value longer than {MAX_META_VALUE}: x-object-meta-{key}"));
        }
        if count > MAX_META_COUNT {
            return bad(format!("Too many metadata items; max {MAX_META_COUNT}"));
        }
        if size > MAX_META_OVERALL {
            return bad(format!("Total metadata too large; max {MAX_META_OVERALL}"));
        }
    }
    Ok(())
}

/// `X-Delete-At` in whole seconds. 400 when it is no number.
pub(super) fn delete_at(headers: &HeaderMap) -> Result<Option<i64>, Resp> {
    match text(headers, "x-delete-at") {
        None => Ok(None),
        Some(v) if v.trim().is_empty() => Ok(None),
        Some(v) => v.trim().parse().map(Some).map_err(|_| respond::text(400, "Non-integer X-Delete-At")),
    }
}

/// Seconds of a deletion time as ten digits, within what those can express.
pub(super) fn normal_delete_at(secs: i64) -> String {
    format!("{:010}", secs.clamp(0, 9_999_999_999))
}

/// Turns `X-Delete-After` into `X-Delete-At` and checks both against the request's time.
pub(super) fn check_delete_headers(headers: &mut HeaderMap, now: Timestamp) -> Result<(), Resp> {
    if let Some(after) = text(headers, "x-delete-after") {
        let after: i64 = after.trim().parse().map_err(|_| respond::text(400, "Non-integer X-Delete-After"))?;
        let at = (now.as_f64() + after as f64).clamp(0.0, 9_999_999_999.0) as i64;
        if (at as f64) <= now.as_f64() {
            return Err(respond::text(400, "X-Delete-After in past"));
        }
        headers.remove("x-delete-after");
        if let Ok(v) = HeaderValue::from_str(&normal_delete_at(at)) {
            headers.insert(HeaderName::from_static("x-delete-at"), v);
        }
    }
    if let Some(v) = text(headers, "x-delete-at") {
        let at: i64 = v.trim().parse().map_err(|_| respond::text(400, "Non-integer X-Delete-At"))?;
        let at = at.clamp(0, 9_999_999_999);
        if (at as f64) <= now.as_f64() && !is_true(headers, "x-backend-replication") {
            return Err(respond::text(400, "X-Delete-At in past"));
        }
    }
    Ok(())
}

/// An etag without the quotes around it.
pub(super) fn bare_etag(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(tag)
}

/// Whether an `If-Match` or `If-None-Match` header names this etag.
pub(super) fn matches(header: &str, etag: &str) -> bool {
    header.split(',').map(str::trim).filter(|t| !t.is_empty()).any(|t| t == "*" || bare_etag(t) == "*" || bare_etag(t) == bare_etag(etag))
}

/// `X-Backend-Open-Expired` or a replication request.
pub(super) fn open_expired(headers: &HeaderMap) -> bool {
    is_true(headers, "x-backend-open-expired") || is_true(headers, "x-backend-replication")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(title("x-object-meta-blue2go"), "X-Object-Meta-Blue2Go");
        for (own, stored) in [("my_key", "My=5Fkey"), ("a_1b_", "A=5F1B=5F"), ("gr^c3^bcn_", "Gr\u{c3}\u{bc}N=5F"), ("plain", "Plain")] {
            let (own, stored) = (format!("x-object-meta-{own}"), format!("X-Object-Meta-{stored}"));
            assert_eq!(stored_name(&own), stored);
            assert_eq!(header_name(&stored).unwrap().as_str(), own);
        }
        // Of an earlier version of this program.
        assert_eq!(header_name("X-Object-Meta-My_Key").unwrap().as_str(), "x-object-meta-my_key");
        assert_eq!(header_name("X-Object-Meta-My Key"), None);
        assert!(is_user_meta("X-Object-Meta-A") && !is_user_meta("x-object-meta-"));
        assert!(matches("\"a\", b", "b") && matches("*", "x") && !matches("", "x"));
        assert_eq!(normal_delete_at(-5), "0000000000");
        assert_eq!(normal_delete_at(99_999_999_999), "9999999999");
    }

    #[test]
    fn limits() {
        let with = |n: usize, len: usize| {
            let mut h = HeaderMap::new();
            for i in 0..n {
                let name: HeaderName = format!("x-object-meta-{i}").parse().unwrap();
                h.insert(name, "v".repeat(len).parse().unwrap());
            }
            check_metadata(&h).is_ok()
        };
        assert!(with(90, 1) && !with(91, 1));
        assert!(with(1, 256) && !with(1, 257));
        assert!(!with(17, 256));
    }
}
