use crate::env::Req;
use crate::http::respond;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;

/// Answers `/healthcheck` with `OK`, or with 503 while a file stands that takes this node out of service.
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
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        if req.uri().path() != "/healthcheck" {
            return self.next.call(req);
        }
        let file = self.disable_path.clone();
        Box::pin(async move {
            let disabled = match file {
                Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
                None => false,
            };
            if disabled { respond(503, "text/plain", "DISABLED BY FILE") } else { respond(200, "text/plain", "OK") }
        })
    }
}
