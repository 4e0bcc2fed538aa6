use super::{Req, Resp, respond};
use caelum_rest::HttpService;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;

/// `/healthcheck`, which load balancers and rolling restarts ask: 200 `OK`, or 503 while the file that takes the server
/// out of service exists.
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
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        if req.uri().path() != "/healthcheck" {
            return self.next.call(req);
        }
        let file = self.disable_path.clone();
        Box::pin(async move {
            let disabled = match file {
                Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
                None => false,
            };
            if disabled { respond::text(503, "DISABLED BY FILE") } else { respond::text(200, "OK") }
        })
    }
}
