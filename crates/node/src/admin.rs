//! The owner's own door: HTTP over a Unix socket in the data directory that only the owner can open.
//! `caelum down`, `audit`, `why` and `check` speak to the running program through it.

use caelum_base::{Error, Result};
use caelum_rest::{Body, HttpService, full};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};

/// What the owner can ask of a running program.
pub trait Admin: Send + Sync + 'static {
    /// `method`, `path` and query of a request; the answer is JSON.
    fn handle(&self, method: Method, path: String, query: String) -> BoxFuture<'static, Result<Value>>;
}

/// Serves `admin` on `path` until the returned task is aborted. A socket file left by a dead process
/// is replaced.
pub fn serve(path: &Path, admin: Arc<dyn Admin>) -> Result<tokio::task::JoinHandle<()>> {
    if path.exists() {
        std::fs::remove_file(path).map_err(|e| Error::unavailable(format!("cannot replace {}: {e}", path.display())))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| Error::unavailable(format!("cannot listen on {}: {e}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|e| Error::unavailable("socket mode").caused_by(e))?;
    let door: Arc<dyn HttpService> = Arc::new(Door(admin));
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let door = door.clone();
            tokio::spawn(async move {
                let service = service_fn(move |req: Request<hyper::body::Incoming>| {
                    let answer = door.call(req.map(|b| b.map_err(Into::into).boxed_unsync()));
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // The owner's client went away: nothing to do.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }))
}

struct Door(Arc<dyn Admin>);

impl HttpService for Door {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let admin = self.0.clone();
        Box::pin(async move {
            let (path, query) = (req.uri().path().to_string(), req.uri().query().unwrap_or("").to_string());
            let (status, value) = match admin.handle(req.method().clone(), path, query).await {
                Ok(v) => (StatusCode::OK, v),
                Err(e) => (StatusCode::from_u16(e.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), json!({"error": e.message})),
            };
            let mut r = Response::new(full(value.to_string()));
            *r.status_mut() = status;
            r
        })
    }
}

/// Asks a running program. Errors: `Unavailable` when none runs.
pub async fn ask(socket: &Path, method: Method, path: &str) -> Result<Value> {
    let gone = || Error::unavailable("Caelum is not running here; start it with: caelum up");
    let stream = UnixStream::connect(socket).await.map_err(|_| gone())?;
    let (mut sender, conn) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| gone())?;
    let task = tokio::spawn(conn);
    let req = Request::builder().method(method).uri(path).header("host", "caelum").body(caelum_rest::empty());
    let req = req.map_err(|e| Error::invalid("not a valid request").caused_by(e))?;
    let response = sender.send_request(req).await.map_err(|e| Error::unavailable("The running program did not answer.").caused_by(e))?;
    let ok = response.status().is_success();
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(|e| Error::unavailable("The running program did not answer.").caused_by(e))?
        .to_bytes();
    task.abort();
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Error::internal("unreadable answer").caused_by(e))?;
    if ok {
        return Ok(value);
    }
    let message = value["error"].as_str().unwrap_or("The running program refused.").to_string();
    Err(if status == 404 { Error::not_found(message) } else { Error::unavailable(message) })
}
