//! The listening side: HTTP/1.1 connections with limits, time-outs and a graceful end.

use crate::{Body, HttpService};
use caelum_base::{Error, Result, limits};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Open connections at most; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8_192;
/// A request line and headers must arrive within this time.
const HEADER_TIME: Duration = Duration::from_secs(20);
const MAX_HEADERS: usize = 126;

/// Request extension: the other end of the connection, as the kernel says it.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub SocketAddr);

/// A bound listener.
pub struct Server {
    listener: TcpListener,
}

/// Stops a running server.
pub struct ServerHandle {
    pub addr: SocketAddr,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Errors: `Unavailable` naming the address and the reason (a port in use).
    pub async fn bind(addr: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(addr).await.map_err(|e| Error::unavailable(format!("cannot listen on {addr}: {e}")).caused_by(e))?;
        Ok(Self { listener })
    }

    pub fn from_std(listener: std::net::TcpListener) -> Result<Self> {
        listener.set_nonblocking(true).map_err(|e| Error::unavailable("listener").caused_by(e))?;
        let listener = TcpListener::from_std(listener).map_err(|e| Error::unavailable("listener").caused_by(e))?;
        Ok(Self { listener })
    }

    pub fn addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::unavailable("listener").caused_by(e))
    }

    /// Serves in the background until the handle is told to stop.
    pub fn start(self, service: Arc<dyn HttpService>) -> Result<ServerHandle> {
        let addr = self.addr()?;
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        tokio::spawn(accept_loop(self.listener, service, stopped, connections.clone()));
        Ok(ServerHandle { addr, stop, connections })
    }
}

impl ServerHandle {
    /// Takes no new connections; running ones end with their current request.
    pub fn halt(&self) {
        // No receiver left means that the loop has ended already.
        let _ = self.stop.send(true);
    }

    /// Takes no new connections, lets running requests finish for at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.halt();
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(grace, self.connections.acquire_many(all)).await;
    }
}

async fn accept_loop(
    listener: TcpListener,
    service: Arc<dyn HttpService>,
    mut stopped: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            a = listener.accept() => a,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, stopped) = (service.clone(), stopped.clone());
                tokio::spawn(async move {
                    connection(stream, peer, service, stopped, Arc::new(permit)).await;
                });
            }
            Err(e) => {
                // Out of descriptors: waiting is all that helps.
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What hyper lets through and another program on the way could read differently (see also [`crate::heads`]), or is too
/// long.
fn refused<B>(req: &Request<B>) -> Option<StatusCode> {
    let h = req.headers();
    let hosts: Vec<&HeaderValue> = h.get_all(header::HOST).iter().collect();
    let target_host = req.uri().authority().map(|a| a.as_str().as_bytes());
    let ambiguous = hosts.len() > 1 || target_host.is_some_and(|a| hosts.iter().any(|host| !host.as_bytes().eq_ignore_ascii_case(a)));
    let target = req.uri().path_and_query().map_or(0, |p| p.as_str().len());
    let head: usize = h.iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum();
    if ambiguous {
        Some(StatusCode::BAD_REQUEST)
    } else if target > limits::MAX_LINE_BYTES {
        Some(StatusCode::URI_TOO_LONG)
    } else if head > limits::MAX_HEADER_BYTES || h.values().any(|v| v.len() > limits::MAX_LINE_BYTES) {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        None
    }
}

/// The connection ends with it: what follows on the link cannot be trusted.
fn refusal(status: StatusCode) -> Response<Body> {
    let mut r = Response::new(crate::empty());
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    r
}

/// Calls a service so that a request that changes something goes on to its end when nobody waits for the answer any
/// more: nothing stays half done. Of one that only reads, nothing is left. `held` is dropped at the end.
pub async fn to_the_end(service: &dyn HttpService, req: Request<Body>, held: impl Send + 'static) -> Response<Body> {
    if req.method().is_safe() {
        return service.call(req).await;
    }
    let answer = service.call(req);
    let task = tokio::spawn(async move {
        let _held = held;
        answer.await
    });
    task.await.unwrap_or_else(|e| {
        tracing::error!(error = %e, "a request ended unexpectedly");
        refusal(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<dyn HttpService>,
    mut stopped: watch::Receiver<bool>,
    permit: Arc<OwnedSemaphorePermit>,
) {
    let _ = stream.set_nodelay(true);
    let (stream, interim) = crate::interim::Wire::new(stream);
    let handler = service_fn(move |req: Request<Incoming>| {
        let service = service.clone();
        let (interim, permit) = (interim.clone(), permit.clone());
        async move {
            let clear = interim.next_is_clear();
            if let Some(status) = refused(&req).or_else(|| (!clear).then_some(StatusCode::BAD_REQUEST)) {
                return Ok::<_, Infallible>(refusal(status));
            }
            let mut req = req.map(|b| b.map_err(Into::into).boxed_unsync());
            req.extensions_mut().insert(RemoteAddr(peer));
            interim.reset();
            if req.headers().contains_key(header::EXPECT) {
                req.extensions_mut().insert(crate::Interim::wire(interim.clone()));
            }
            // With the permit, their number is bounded and [`ServerHandle::stop`] waits for them.
            let answer = to_the_end(&*service, req, permit).await;
            if crate::names::any_odd(answer.headers()) {
                interim.expect_names().await;
            }
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                interim.upgrade();
            }
            Ok(answer)
        }
    });
    let conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(limits::MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades();
    let mut conn = std::pin::pin!(conn);
    tokio::select! {
        r = conn.as_mut() => { if let Err(e) = r { tracing::debug!(error = %e, "connection"); } }
        _ = stopped.changed() => {
            conn.as_mut().graceful_shutdown();
            let _ = conn.await;
        }
    }
}
