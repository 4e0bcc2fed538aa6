//! Answers as upstream's servers word them.

use super::Resp;
use bytes::Bytes;
use caelum_rest::full;
use caelum_swiftkit::Timestamp;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

/// Title and explanation of a status.
fn reason(status: u16) -> (&'static str, &'static str) {
    match status {
        202 => ("Accepted", "The request is accepted for processing."),
        400 => ("Bad Request", "The server could not comply with the request since it is either malformed or otherwise incorrect."),
        403 => ("Forbidden", "Access was denied to this resource."),
        404 => ("Not Found", "The resource could not be found."),
        405 => ("Method Not Allowed", "The method is not allowed for this resource."),
        408 => ("Request Timeout", "The server has waited too long for the request to be sent by the client."),
        409 => ("Conflict", "There was a conflict when trying to complete your request."),
        411 => ("Length Required", "Content-Length header required."),
        412 => ("Precondition Failed", "A precondition for this request was not met."),
        413 => ("Request Entity Too Large", "The body of your request was too large for this server."),
        416 => ("Requested Range Not Satisfiable", "The Range requested is not available."),
        422 => ("Unprocessable Entity", "Unable to process the contained instructions"),
        499 => ("Client Disconnect", "The client was disconnected during request."),
        501 => ("Not Implemented", "The requested method is not implemented by this server."),
        503 => ("Service Unavailable", "The server is currently unavailable. Please try again at a later time."),
        507 => ("Insufficient Storage", "There was not enough space to save the resource. Drive: "),
        529 => (
            "Too Many Backend Requests",
            "The server is incapable of performing the requested operation due to too many requests. Slow down.",
        ),
        500 => ("Internal Error", "The server has either erred or is incapable of performing the requested operation."),
        _ => ("", ""),
    }
}

pub(super) fn status_body(status: u16) -> Bytes {
    let (title, text) = reason(status);
    if text.is_empty() { Bytes::new() } else { format!("<html><h1>{title}</h1><p>{text}</p></html>").into() }
}

fn build(status: u16, content_type: &'static str, body: Bytes) -> Resp {
    let mut r = Response::new(full(body));
    *r.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    r
}

/// With upstream's page for the status.
pub(crate) fn error(status: u16) -> Resp {
    build(status, "text/html; charset=UTF-8", status_body(status))
}

/// With a text in place of upstream's page.
pub(super) fn error_text(status: u16, message: &str) -> Resp {
    build(status, "text/html; charset=UTF-8", Bytes::copy_from_slice(message.as_bytes()))
}

/// With a plain text.
pub(crate) fn text(status: u16, message: &str) -> Resp {
    build(status, "text/plain", Bytes::copy_from_slice(message.as_bytes()))
}

pub(crate) fn json(value: &serde_json::Value) -> Resp {
    build(200, "application/json", value.to_string().into())
}

/// 507, naming the drive.
pub(super) fn insufficient(device: &str) -> Resp {
    let (title, text) = reason(507);
    build(507, "text/html; charset=UTF-8", format!("<html><h1>{title}</h1><p>{text}{device}</p></html>").into())
}

pub(super) fn with(mut r: Resp, name: &'static str, value: &str) -> Resp {
    set(r.headers_mut(), name, value);
    r
}

/// Sets a header from text of one character per byte. What no header can hold is left out.
pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Some(v) = header_value(value) {
        headers.insert(HeaderName::from_static(name), v);
    }
}

pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    if text.is_ascii() {
        return HeaderValue::from_str(text).ok();
    }
    HeaderValue::from_bytes(&caelum_diskfile::header_bytes(text)).ok()
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn http_date(secs: u64) -> String {
    let t = caelum_base::Timestamp::from_secs(i64::try_from(secs).unwrap_or(0));
    let (y, mo, d, h, mi, s, _) = t.civil();
    // 1970-01-01 was a Thursday.
    let day = DAYS[((secs / 86_400 + 3) % 7) as usize];
    let month = MONTHS.get(mo as usize - 1).copied().unwrap_or("Jan");
    format!("{day}, {d:02} {month} {y:04} {h:02}:{mi:02}:{s:02} GMT")
}

pub(super) fn last_modified(t: Timestamp) -> String {
    http_date(t.ceil_seconds())
}

/// The three forms of HTTP dates, in UTC; the name of the day is not read.
pub(super) fn parse_http_date(text: &str) -> Option<u64> {
    let text = text.trim().replace(['-', ','], " ");
    let mut words: Vec<&str> = text.split_whitespace().collect();
    if words.first().is_some_and(|w| w.bytes().all(|b| b.is_ascii_alphabetic()) && !MONTHS.contains(w)) {
        words.remove(0);
    }
    let (day, month, year, clock) = match words.as_slice() {
        // asctime: `Nov  6 08:49:37 1994`
        [month, day, clock, year] if clock.contains(':') => (*day, *month, *year, *clock),
        [day, month, year, clock, ..] => (*day, *month, *year, *clock),
        _ => return None,
    };
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))? + 1;
    let year: u32 = year.parse().ok()?;
    let year = match year {
        0..69 => year + 2000,
        69..100 => year + 1900,
        y => y,
    };
    let day: u32 = day.parse().ok()?;
    let clock = if clock.len() == 7 { format!("0{clock}") } else { clock.to_string() };
    let t = caelum_base::Timestamp::parse(&format!("{year:04}-{month:02}-{day:02}T{clock}Z"))?;
    u64::try_from(t.secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(parse_http_date(""), None);
    }
}
