use crate::env::Resp;
use bytes::Bytes;
use caelum_rest::Body;
use http::{HeaderValue, Response, StatusCode, header};

/// Reason phrase and explanation of a status, as Swift words them.
pub fn reason(status: u16) -> (&'static str, &'static str) {
    match status {
        100 => ("Continue", ""),
        200 => ("OK", ""),
        201 => ("Created", ""),
        202 => ("Accepted", "The request is accepted for processing."),
        204 => ("No Content", ""),
        206 => ("Partial Content", ""),
        301 => ("Moved Permanently", "The resource has moved permanently."),
        302 => ("Found", "The resource has moved temporarily."),
        303 => ("See Other", "The response to the request can be found under a different URI."),
        304 => ("Not Modified", ""),
        307 => ("Temporary Redirect", "The resource has moved temporarily."),
        400 => ("Bad Request", "The server could not comply with the request since it is either malformed or otherwise incorrect."),
        401 => ("Unauthorized", "This server could not verify that you are authorized to access the document you requested."),
        402 => ("Payment Required", "Access was denied for financial reasons."),
        403 => ("Forbidden", "Access was denied to this resource."),
        404 => ("Not Found", "The resource could not be found."),
        405 => ("Method Not Allowed", "The method is not allowed for this resource."),
        406 => ("Not Acceptable", "The resource is not available in a format acceptable to your browser."),
        408 => ("Request Timeout", "The server has waited too long for the request to be sent by the client."),
        409 => ("Conflict", "There was a conflict when trying to complete your request."),
        410 => ("Gone", "This resource is no longer available."),
        411 => ("Length Required", "Content-Length header required."),
        412 => ("Precondition Failed", "A precondition for this request was not met."),
        413 => ("Request Entity Too Large", "The body of your request was too large for this server."),
        414 => ("Request URI Too Long", "The request URI was too long for this server."),
        415 => ("Unsupported Media Type", "The request media type is not supported by this server."),
        416 => ("Requested Range Not Satisfiable", "The Range requested is not available."),
        417 => ("Expectation Failed", "Expectation failed."),
        422 => ("Unprocessable Entity", "Unable to process the contained instructions"),
        499 => ("Client Disconnect", "The client was disconnected during request."),
        500 => ("Internal Error", "The server has either erred or is incapable of performing the requested operation."),
        501 => ("Not Implemented", "The requested method is not implemented by this server."),
        502 => ("Bad Gateway", "Bad gateway."),
        503 => ("Service Unavailable", "The server is currently unavailable. Please try again at a later time."),
        504 => ("Gateway Timeout", "A timeout has occurred speaking to a backend server."),
        507 => ("Insufficient Storage", "There was not enough space to save the resource. Drive: unknown"),
        529 => (
            "Too Many Backend Requests",
            "The server is incapable of performing the requested operation due to too many requests. Slow down.",
        ),
        _ => ("Unknown", ""),
    }
}

/// `404 Not Found`.
pub fn status_line(status: u16) -> String {
    format!("{status} {}", reason(status).0)
}

pub fn is_success(resp: &Resp) -> bool {
    resp.status().is_success()
}

/// A response with its length and type.
pub fn respond(status: u16, content_type: &str, body: impl Into<Bytes>) -> Resp {
    let body: Bytes = body.into();
    let mut r = Response::new(if body.is_empty() { caelum_rest::empty() } else { caelum_rest::full(body.clone()) });
    *r.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Ok(v) = HeaderValue::from_str(content_type) {
        r.headers_mut().insert(header::CONTENT_TYPE, v);
    }
    r
}

const HTML: &str = "text/html; charset=UTF-8";

/// Swift's standard page for a status.
pub fn error(status: u16) -> Resp {
    respond(status, HTML, default_body(status))
}

fn default_body(status: u16) -> String {
    match reason(status) {
        (_, "") => String::new(),
        (title, text) => format!("<html><h1>{title}</h1><p>{text}</p></html>"),
    }
}

/// A refusal with its own text where Swift keeps `text/html` as the type.
pub fn error_html(status: u16, text: impl Into<Bytes>) -> Resp {
    respond(status, HTML, text)
}

/// A refusal whose text is `text/plain`.
pub fn error_plain(status: u16, text: impl Into<Bytes>) -> Resp {
    respond(status, "text/plain", text)
}

/// Swift's standard page under another content type.
pub fn error_with_type(status: u16, content_type: &str) -> Resp {
    respond(status, content_type, default_body(status))
}

/// 401 with the challenge that names the path's account.
pub fn unauthorized(path: &str) -> Resp {
    let account = path.trim_start_matches('/').split('/').nth(1).filter(|a| !matches!(*a, "" | "v1.0" | "auth"));
    let mut r = error(401);
    super::set(r.headers_mut(), "www-authenticate", format!("Swift realm=\"{}\"", account.unwrap_or("unknown")));
    r
}

/// A response whose body comes as a stream of unknown length.
pub fn streamed(status: u16, content_type: &str, body: Body) -> Resp {
    let mut r = Response::new(body);
    *r.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    super::set(r.headers_mut(), "content-type", content_type);
    r
}
