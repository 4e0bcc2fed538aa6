//! Answers in upstream's words.

use bytes::Bytes;
use caelum_broker::BrokerError;
use caelum_rest::{Body, full, names};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

pub(crate) type Resp = Response<Body>;

/// An answer that ends a request early.
pub(crate) struct Fail(pub Box<Resp>);

pub(crate) type Answer<T = Resp> = Result<T, Fail>;

impl From<Resp> for Fail {
    fn from(r: Resp) -> Self {
        Self(Box::new(r))
    }
}

impl From<BrokerError> for Fail {
    fn from(e: BrokerError) -> Self {
        let no_space = |e: &std::io::Error| e.raw_os_error() == Some(nix::errno::Errno::ENOSPC as i32);
        match &e {
            BrokerError::Missing(_) => status(404).into(),
            BrokerError::Invalid(text) => text_reply(400, "text/html; charset=UTF-8", text.clone()).into(),
            BrokerError::Locked(_) => {
                tracing::warn!(error = %e, "database is locked");
                status(503).into()
            }
            BrokerError::Io(_, io) if no_space(io) => status(507).into(),
            _ => {
                let source = std::error::Error::source(&e).map(ToString::to_string);
                tracing::error!(error = %e, source, "database request failed");
                status(500).into()
            }
        }
    }
}

fn reason(code: u16) -> (&'static str, &'static str) {
    match code {
        202 => ("Accepted", "The request is accepted for processing."),
        301 => ("Moved Permanently", "The resource has moved permanently."),
        400 => ("Bad Request", "The server could not comply with the request since it is either malformed or otherwise incorrect."),
        403 => ("Forbidden", "Access was denied to this resource."),
        404 => ("Not Found", "The resource could not be found."),
        405 => ("Method Not Allowed", "The method is not allowed for this resource."),
        406 => ("Not Acceptable", "The resource is not available in a format acceptable to your browser."),
        409 => ("Conflict", "There was a conflict when trying to complete your request."),
        412 => ("Precondition Failed", "A precondition for this request was not met."),
        413 => ("Request Entity Too Large", "The body of your request was too large for this server."),
        500 => ("Internal Error", "The server has either erred or is incapable of performing the requested operation."),
        503 => ("Service Unavailable", "The server is currently unavailable. Please try again at a later time."),
        507 => ("Insufficient Storage", "There was not enough space to save the resource."),
        _ => ("", ""),
    }
}

/// An answer with the standard text of its status.
pub(crate) fn status(code: u16) -> Resp {
    let (title, text) = reason(code);
    let body = if text.is_empty() { String::new() } else { format!("<html><h1>{title}</h1><p>{text}</p></html>") };
    text_reply(code, "text/html; charset=UTF-8", body)
}

pub(crate) fn text_reply(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Resp {
    let body = body.into();
    let mut r = Response::new(caelum_rest::empty());
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let length = HeaderValue::from(body.len());
    *r.body_mut() = full(body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if code != 204 {
        r.headers_mut().insert(CONTENT_LENGTH, length);
    }
    r
}

/// A 507 that names the device.
pub(crate) fn no_device(name: &str) -> Resp {
    let text = format!(
        "<html><h1>Insufficient Storage</h1><p>There was not enough space to save the resource. Drive: {}</p></html>",
        name.replace(['<', '>', '&'], "")
    );
    text_reply(507, "text/html; charset=UTF-8", text)
}

pub(crate) fn bad_request(text: impl Into<String>) -> Fail {
    text_reply(400, "text/plain", text.into()).into()
}

/// Sets a header; values that HTTP cannot carry are left out.
pub(crate) fn set(r: &mut Resp, name: &str, value: &str) {
    if let (Some(name), Ok(value)) = (names::name_from_wire(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes())) {
        r.headers_mut().insert(name, value);
    }
}

/// `Fri, 13 Feb 2009 23:31:31 GMT`.
pub(crate) fn http_date(secs: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let signed = i64::try_from(secs).unwrap_or(0);
    let (y, m, d, h, mi, s, _) = caelum_base::Timestamp::from_secs(signed).civil();
    let day = DAYS[usize::try_from(secs / 86_400 % 7).unwrap_or(0)];
    let month = MONTHS[usize::try_from(m.saturating_sub(1)).unwrap_or(0).min(11)];
    format!("{day}, {d:02} {month} {y:04} {h:02}:{mi:02}:{s:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(http_date(1_234_567_891), "Fri, 13 Feb 2009 23:31:31 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
