//! `/healthcheck`, which load balancers and rolling restarts ask.

use caelum_rest::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};
use std::path::Path;

/// The path on every server.
pub(crate) const PATH: &str = "/healthcheck";

/// 200 `OK`, or 503 while the file that takes the server out of service exists.
pub(crate) fn answer(disable: Option<&Path>) -> Response<Body> {
    let (status, text) =
        if disable.is_some_and(Path::exists) { (StatusCode::SERVICE_UNAVAILABLE, "DISABLED BY FILE") } else { (StatusCode::OK, "OK") };
    let mut resp = Response::new(full(text));
    *resp.status_mut() = status;
    resp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    resp
}
