//! What clients may not send. Texts are upstream's.

use super::options::Limits;
use crate::env::Resp;
use crate::http::{error_html, error_plain};
use caelum_swiftkit::Timestamp;
use http::{HeaderMap, HeaderValue};

/// Names that only the program itself may use begin with this.
pub(crate) const RESERVED: char = '\0';

/// Metadata in a request's headers. `target` is `account`, `container` or `object`.
pub(crate) fn check_metadata(headers: &HeaderMap, target: &str, limits: &Limits) -> Option<Resp> {
    let bad = |text: String| Some(error_plain(400, text));
    let (mut count, mut size) = (0, 0);
    for (name, value) in headers {
        let name = name.as_str();
        if value.len() > limits.max_header_size {
            let shown = shown_name(name);
            return bad(format!("Header value too long: {}", shown.get(..limits.max_meta_name_length).unwrap_or(&shown)));
        }
        let Some(key) = meta_key(name, target) else { continue };
        if key.is_empty() {
            return bad("Metadata name cannot be empty".into());
        }
        let unfit = !value.is_empty() && !is_utf8_without_nul(value.as_bytes());
        if target != "object" && unfit {
            return bad("Metadata must be valid UTF-8".into());
        }
        count += 1;
        // As long as it is on the wire to the nodes.
        let length = caelum_rest::names::name_to_wire(name).len() - (name.len() - key.len());
        size += length + value.len();
        if length > limits.max_meta_name_length {
            return bad(format!("Metadata name too long: x-{target}-meta-{}", shown_name(key)));
        }
        if value.len() > limits.max_meta_value_length {
            return bad(format!("Metadata value longer than {}: x-{target}-meta-{}", limits.max_meta_value_length, shown_name(key)));
        }
        if count > limits.max_meta_count {
            return bad(format!("Too many metadata items; max {}", limits.max_meta_count));
        }
        if size > limits.max_meta_overall_size {
            return bad(format!("Total metadata too large; max {}", limits.max_meta_overall_size));
        }
    }
    None
}

fn meta_key<'a>(name: &'a str, target: &str) -> Option<&'a str> {
    name.strip_prefix("x-")?.strip_prefix(target)?.strip_prefix("-meta-")
}

/// `x-object-meta-a` as `X-Object-Meta-A`: how Swift spells header names.
fn shown_name(name: &str) -> String {
    let mut up = true;
    let capital = |c: char| {
        let out = if up { c.to_ascii_uppercase() } else { c };
        up = !c.is_ascii_alphanumeric();
        out
    };
    name.chars().map(capital).collect()
}

pub(crate) fn is_utf8_without_nul(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// The length a request says its body has. Errors: 400, 501.
pub(crate) fn message_length(headers: &HeaderMap) -> Result<Option<u64>, Resp> {
    if let Some(te) = headers.get(http::header::TRANSFER_ENCODING) {
        let te = String::from_utf8_lossy(te.as_bytes()).to_ascii_lowercase();
        let codings: Vec<&str> = te.split(',').map(str::trim).collect();
        return match codings.as_slice() {
            ["chunked"] => Ok(None),
            [.., "chunked"] => Err(error_plain(501, "Unsupported Transfer-Coding header value specified in Transfer-Encoding header")),
            _ => Err(error_plain(400, "Invalid Transfer-Encoding header value")),
        };
    }
    match headers.get(http::header::CONTENT_LENGTH) {
        None => Ok(None),
        Some(v) => match v.to_str().ok().and_then(|v| v.trim().parse().ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(error_plain(400, "Invalid Content-Length header value")),
        },
    }
}

/// Everything about an object PUT except its data. `X-Delete-After` becomes `X-Delete-At`.
pub(crate) fn check_object_creation(
    headers: &mut HeaderMap,
    object: &str,
    now: Timestamp,
    has_length: bool,
    overridden_type: bool,
    limits: &Limits,
) -> Option<Resp> {
    let length = match message_length(headers) {
        Ok(l) => l,
        Err(r) => return Some(r),
    };
    if length.is_some_and(|l| l > limits.max_file_size) {
        return Some(error_plain(413, "Your request is too large."));
    }
    if length.is_none() && !headers.contains_key(http::header::TRANSFER_ENCODING) && !has_length {
        return Some(error_plain(411, "Missing Content-Length header."));
    }
    // Characters, not bytes, as in upstream.
    let length = object.chars().count();
    if length > limits.max_object_name_length {
        return Some(error_plain(400, format!("Object name length of {length} longer than {}", limits.max_object_name_length)));
    }
    if let Some(refusal) = check_delete_headers(headers, now) {
        return Some(refusal);
    }
    let content_type = headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if content_type.is_empty() || !is_utf8_without_nul(content_type) {
        return Some(error_plain(400, "Invalid Content-Type"));
    }
    let parameters = content_type.split(|b| *b == b';').skip(1);
    let swift = |p: &[u8]| p.trim_ascii_start().starts_with(b"swift_");
    check_metadata(headers, "object", limits).or_else(|| {
        (!overridden_type && parameters.into_iter().any(swift))
            .then(|| error_html(400, "Invalid Content-Type, swift_* is not a valid parameter name."))
    })
}

/// `X-Delete-At` as ten digits.
pub(crate) fn normal_delete_at(seconds: i64) -> String {
    format!("{:010}", seconds.clamp(0, 9_999_999_999))
}

/// Whole numbers as Python reads them.
fn integer(value: &HeaderValue) -> Option<i64> {
    let text = value.to_str().ok()?.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX }))
}

/// Checks `X-Delete-After`, which becomes `X-Delete-At`, and `X-Delete-At`.
pub(crate) fn check_delete_headers(headers: &mut HeaderMap, now: Timestamp) -> Option<Resp> {
    let seconds = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
    let past = |at: i64| at <= seconds;
    if let Some(after) = headers.remove("x-delete-after") {
        let Some(after) = integer(&after) else { return Some(error_plain(400, "Non-integer X-Delete-After")) };
        let at = seconds.saturating_add(after).clamp(0, 9_999_999_999);
        if past(at) {
            return Some(error_plain(400, "X-Delete-After in past"));
        }
        headers.insert("x-delete-at", HeaderValue::from_str(&normal_delete_at(at)).ok()?);
    }
    if let Some(at) = headers.get("x-delete-at") {
        let Some(at) = integer(at).map(|n| n.clamp(0, 9_999_999_999)) else {
            return Some(error_plain(400, "Non-integer X-Delete-At"));
        };
        if past(at) && !crate::http::is_true(headers, "x-backend-replication") {
            return Some(error_plain(400, "X-Delete-At in past"));
        }
        headers.insert("x-delete-at", HeaderValue::from_str(&normal_delete_at(at)).ok()?);
    }
    None
}

/// Names of the reserved namespace must be used throughout: 400 where they are mixed.
pub(crate) fn check_reserved(account: &str, container: Option<&str>, object: Option<&str>) -> Option<Resp> {
    let mixed = |name: &str| name.contains(RESERVED) && !name.starts_with(RESERVED);
    let bad = |what: &str| Some(error_html(400, format!("Invalid reserved-namespace {what}")));
    if mixed(account) {
        return bad("account");
    }
    let container = container?;
    if mixed(container) {
        return bad("container");
    }
    let object = object?;
    if account.starts_with('.') {
        return None;
    }
    if mixed(object) {
        return bad("object");
    }
    match (container.starts_with(RESERVED), object.starts_with(RESERVED)) {
        (true, false) => Some(error_html(400, "Invalid user-namespace object in reserved-namespace container")),
        (false, true) => Some(error_html(400, "Invalid reserved-namespace object in user-namespace container")),
        _ => None,
    }
}
