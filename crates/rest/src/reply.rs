use crate::{Body, body};
use bytes::Bytes;
use caelum_base::{Error, Result};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// A response under construction.
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Body,
}

impl Reply {
    fn with(status: u16, body: Body) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), headers: Vec::new(), body }
    }

    /// A JSON body. Errors: `Internal` when the value does not serialise.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Result<Self> {
        let text = serde_json::to_vec(value).map_err(|e| Error::internal("response does not serialise").caused_by(e))?;
        Ok(Self::bytes(status, "application/json", text))
    }

    /// 200 with a JSON body.
    pub fn ok<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Self::json(200, value)
    }

    pub fn bytes(status: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let mut r = Self::with(status, body::full(bytes));
        r.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
        r
    }

    pub fn stream(status: u16, content_type: &'static str, body: Body) -> Self {
        let mut r = Self::with(status, body);
        r.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
        r
    }

    /// A status without a body.
    pub fn empty(status: u16) -> Self {
        Self::with(status, body::empty())
    }

    /// 204.
    pub fn no_content() -> Self {
        Self::empty(204)
    }

    /// Adds a header; a value that cannot be one is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(v) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((HeaderName::from_static(name), v));
        }
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let mut r = Response::new(self.body);
        *r.status_mut() = self.status;
        for (k, v) in self.headers {
            r.headers_mut().append(k, v);
        }
        r
    }
}
