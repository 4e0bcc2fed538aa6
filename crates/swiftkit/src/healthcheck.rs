use caelum_rest::{Body, HttpService, full};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use std::path::PathBuf;
use std::sync::Arc;

/// The layer that answers `/healthcheck`, which load balancers and rolling restarts ask: 200 `OK`, or 503 while a file
/// stands that takes this server out of service. Source: Swift's `healthcheck` filter.
pub struct HealthCheck {
    next: Arc<dyn HttpService>,
    disable_path: Option<PathBuf>,
}

impl HealthCheck {
    pub fn new(next: Arc<dyn HttpService>, disable_path: Option<PathBuf>) -> Self {
        Self { next, disable_path }
    }
}

impl HttpService for HealthCheck {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        if req.uri().path() != "/healthcheck" {
            return self.next.call(req);
        }
        let file = self.disable_path.clone();
        Box::pin(async move {
            let disabled = match file {
                Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
                None => false,
            };
            let (status, text) = if disabled { (StatusCode::SERVICE_UNAVAILABLE, "DISABLED BY FILE") } else { (StatusCode::OK, "OK") };
            let mut resp = Response::new(full(text));
            *resp.status_mut() = status;
            resp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            resp.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
            resp
        })
    }
}
