//! The front door: one address for every service, told apart by path.

use crate::body::{self, Body};
use crate::{BaseUrl, HttpService};
use futures_util::future::BoxFuture;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use std::sync::Arc;

/// Dispatches by path prefix (`/compute/…`) and strips it. The longest prefix wins.
#[derive(Clone, Default)]
pub struct Front {
    routes: Vec<(String, Arc<dyn HttpService>, bool)>,
    public_url: Option<String>,
}

impl Front {
    pub fn new() -> Self {
        Self::default()
    }

    /// Links in responses start with this instead of the request's `Host`.
    #[must_use]
    pub fn public_url(mut self, url: Option<String>) -> Self {
        self.public_url = url;
        self
    }

    /// Serves `prefix` (`/compute`) by `service`, which sees paths without it.
    #[must_use]
    pub fn mount(self, prefix: &str, service: Arc<dyn HttpService>) -> Self {
        self.add(prefix, service, true)
    }

    /// Serves paths that begin with `prefix` without stripping it (`/v3` for identity).
    #[must_use]
    pub fn alias(self, prefix: &str, service: Arc<dyn HttpService>) -> Self {
        self.add(prefix, service, false)
    }

    fn add(mut self, prefix: &str, service: Arc<dyn HttpService>, strip: bool) -> Self {
        self.routes.push((prefix.to_string(), service, strip));
        self.routes.sort_by_key(|(p, _, _)| std::cmp::Reverse(p.len()));
        self
    }
}

impl HttpService for Front {
    fn call(&self, mut req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let path = req.uri().path();
        let found = self.routes.iter().find(|(p, _, _)| {
            path.strip_prefix(p.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || p.ends_with('/'))
        });
        let Some((prefix, service, strip)) = found else {
            return Box::pin(async { plain(StatusCode::NOT_FOUND, "Nothing is served here.\n") });
        };
        let Some(host) = host(&req) else {
            return Box::pin(async { plain(StatusCode::BAD_REQUEST, "The Host header is not valid.\n") });
        };
        let origin = self.public_url.clone().unwrap_or_else(|| format!("http://{host}"));
        let base = if *strip { format!("{origin}{prefix}") } else { origin };
        req.extensions_mut().insert(BaseUrl(base));
        if *strip && !strip_prefix(&mut req, prefix) {
            return Box::pin(async { plain(StatusCode::BAD_REQUEST, "The request target is not valid.\n") });
        }
        service.call(req)
    }
}

fn strip_prefix(req: &mut Request<Body>, prefix: &str) -> bool {
    let Some(pq) = req.uri().path_and_query() else { return false };
    let rest = pq.as_str().strip_prefix(prefix).unwrap_or("");
    let rest = if rest.starts_with('/') { rest.to_string() } else { format!("/{rest}") };
    match rest.parse::<PathAndQuery>() {
        Ok(pq) => {
            *req.uri_mut() = Uri::from(pq);
            true
        }
        Err(_) => false,
    }
}

/// The host the client named, if it is a plain authority: it ends up in links.
fn host(req: &Request<Body>) -> Option<String> {
    let text = req.headers().get(header::HOST)?.to_str().ok()?;
    let authority: Authority = text.parse().ok()?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'));
    plain.then(|| authority.to_string())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut r = Response::new(body::full(text));
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

/// A redirect to a path of ours.
pub fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let mut r = Response::new(body::empty());
    *r.status_mut() = status;
    if let Ok(v) = HeaderValue::from_str(location) {
        r.headers_mut().insert(header::LOCATION, v);
    }
    r
}
