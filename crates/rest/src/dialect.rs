//! How each service says that something went wrong. One mapping per dialect, here and nowhere else.

use crate::{Body, body};
use caelum_base::{Error, ErrorKind};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// The error format of a service family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"code", "message", "title"}}`
    Keystone,
    /// `{"itemNotFound": {"code", "message"}}`
    Nova,
    /// As Nova; over quota is 413.
    Cinder,
    /// `{"NeutronError": {"type", "message", "detail"}}`; over quota is 409.
    Neutron,
    /// webob's: JSON, text or HTML by `Accept`; over quota is 413.
    Glance,
    /// `{"errors": [{"status", "title", "detail", "code", "request_id"}]}`
    Placement,
}

impl Dialect {
    /// The status of an error in this dialect.
    pub fn status(self, e: &Error) -> StatusCode {
        let n = match (self, e.kind) {
            (Self::Neutron, ErrorKind::OverQuota) => 409,
            (Self::Cinder | Self::Glance, ErrorKind::OverQuota) => 413,
            (_, kind) => kind.status(),
        };
        StatusCode::from_u16(n).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The words for a denied rule.
    pub fn denied(self, rule: &str) -> String {
        match self {
            Self::Keystone => format!("You are not authorized to perform the requested action: {rule}."),
            Self::Neutron => format!("rule:{rule} is disallowed by policy"),
            Self::Glance => format!("You are not authorized to complete {rule} action."),
            Self::Nova | Self::Cinder | Self::Placement => format!("Policy doesn't allow {rule} to be performed."),
        }
    }

    /// The whole error response.
    pub fn render(self, e: &Error, request_id: &str, request_headers: &HeaderMap) -> Response<Body> {
        let status = self.status(e);
        let (content_type, text) = match self {
            // Every service's authentication failures come from the same middleware upstream.
            _ if status == StatusCode::UNAUTHORIZED => json_text(&keystone(status, e)),
            Self::Keystone => json_text(&keystone(status, e)),
            Self::Nova | Self::Cinder => json_text(&nova(status, e)),
            Self::Neutron => json_text(&neutron(status, e)),
            Self::Placement => json_text(&placement(status, e, request_id)),
            Self::Glance => glance(status, e, request_headers),
        };
        let mut r = Response::new(body::full(text));
        *r.status_mut() = status;
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if matches!(status.as_u16(), 429 | 503) {
            r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        r
    }
}

fn json_text(v: &Value) -> (&'static str, String) {
    ("application/json", v.to_string())
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

fn keystone(status: StatusCode, e: &Error) -> Value {
    json!({"error": {"code": status.as_u16(), "message": e.message, "title": title(status)}})
}

fn nova(status: StatusCode, e: &Error) -> Value {
    let key = match status.as_u16() {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    };
    json!({key: {"code": status.as_u16(), "message": e.message}})
}

fn neutron(status: StatusCode, e: &Error) -> Value {
    let kind = match (e.code, e.kind) {
        ("", ErrorKind::OverQuota) => "OverQuota",
        ("", ErrorKind::Invalid) => "HTTPBadRequest",
        ("", ErrorKind::NotFound) => "HTTPNotFound",
        ("", ErrorKind::Forbidden) => "PolicyNotAuthorized",
        ("", ErrorKind::Generation) => "RevisionNumberConstraintFailed",
        ("", ErrorKind::Conflict) => "Conflict",
        ("", _) => "HTTPInternalServerError",
        (code, _) => code,
    };
    let _ = status;
    json!({"NeutronError": {"type": kind, "message": e.message, "detail": ""}})
}

fn placement(status: StatusCode, e: &Error, request_id: &str) -> Value {
    let code = match (e.code, e.kind) {
        ("", ErrorKind::Generation) => "placement.concurrent_update",
        (c, _) if c.starts_with("placement.") => c,
        _ => "placement.undefined_code",
    };
    let detail = format!("The server could not process the request. {}", e.message);
    json!({"errors": [{"status": status.as_u16(), "title": title(status), "detail": detail, "code": code, "request_id": request_id}]})
}

fn glance(status: StatusCode, e: &Error, headers: &HeaderMap) -> (&'static str, String) {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let line = format!("{} {}", status.as_u16(), title(status));
    if accept.contains("html") {
        let message = e.message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let page = format!(
            "<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n  <h1>{line}</h1>\n  {message}<br /><br />\n\n\n\n </body>\n</html>"
        );
        return ("text/html; charset=UTF-8", page);
    }
    if accept.contains("json") {
        return json_text(&json!({"message": format!("{}<br /><br />\n\n\n", e.message), "code": line, "title": title(status)}));
    }
    ("text/plain; charset=UTF-8", format!("{line}\n\n{}\n\n   ", e.message))
}
