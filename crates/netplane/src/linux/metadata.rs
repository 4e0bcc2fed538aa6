//! The metadata proxy: HTTP inside routers' and DHCP servers' namespaces, forwarded to the
//! metadata service with headers that say who asks.
//!
//! Security: who asks is the TCP peer's address plus the namespace the listener is in, signed with a
//! shared secret. Headers of the same meaning sent by a guest are removed. Body sizes, header time,
//! request time and the number of connections are limited. A listener belongs to this process: it
//! ends with it and is made again by the next apply.

use super::exec::{self, Outcome};
use super::names::hex;
use caelum_base::Secret;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::Sha256;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

const HEADER_TIME: Duration = Duration::from_secs(10);
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// A guest posts at most a sealed password; the service answers with at most 64 KiB of user data
/// and some JSON.
const MAX_REQUEST: usize = 64 << 10;
const MAX_RESPONSE: usize = 4 << 20;
const MAX_CONNECTIONS: usize = 128;

/// Whom a listener stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Router(String),
    Network(String),
}

impl Scope {
    fn header(&self) -> (&'static str, &str) {
        match self {
            Self::Router(id) => ("x-neutron-router-id", id),
            Self::Network(id) => ("x-neutron-network-id", id),
        }
    }
}

struct Target {
    service: SocketAddr,
    secret: Secret<String>,
    scope: Scope,
}

/// All listeners of this process, by namespace.
pub(super) struct Listeners {
    runtime: Handle,
    service: SocketAddr,
    secret: Secret<String>,
    running: HashMap<String, (u64, JoinHandle<()>)>,
}

impl Listeners {
    pub fn new(runtime: Handle, service: SocketAddr, secret: Secret<String>) -> Self {
        Self { runtime, service, secret, running: HashMap::new() }
    }

    /// Whether the namespace has its listener.
    pub fn has(&self, ns: &str) -> bool {
        self.running.get(ns).is_some_and(|(inode, task)| exec::ns_inode(ns) == Some(*inode) && !task.is_finished())
    }

    /// Listens inside the namespace, whose device must have the address already.
    pub fn ensure(&mut self, ns: &str, address: &str, scope: Scope) -> Outcome<()> {
        if self.has(ns) {
            return Ok(());
        }
        self.stop(ns);
        let inode = exec::ns_inode(ns).ok_or_else(|| format!("namespace {ns} is missing"))?;
        let bind: SocketAddr = format!("{address}:80").parse().map_err(|e| format!("{address}: {e}"))?;
        let socket = exec::in_ns(ns, || {
            let socket = std::net::TcpListener::bind(bind).map_err(|e| format!("metadata listener: {e}"))?;
            socket.set_nonblocking(true).map_err(|e| e.to_string())?;
            Ok(socket)
        })?;
        let _inside = self.runtime.enter();
        let listener = TcpListener::from_std(socket).map_err(|e| e.to_string())?;
        let target = Arc::new(Target { service: self.service, secret: self.secret.clone(), scope });
        let task = self.runtime.spawn(serve(listener, target));
        self.running.insert(ns.to_string(), (inode, task));
        Ok(())
    }

    /// Ends the namespace's listener and its connections.
    pub fn stop(&mut self, ns: &str) {
        if let Some((_, task)) = self.running.remove(ns) {
            task.abort();
        }
    }

    /// Ends the listeners of namespaces that `keep` does not name.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.running.keys().filter(|ns| !keep(ns)).cloned().collect();
        for ns in gone {
            self.stop(&ns);
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, target: Arc<Target>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropping the set with this task ends its connections, which would keep the namespace alive.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "metadata listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let target = target.clone();
        connections.spawn(async move {
            let _slot = slot;
            let service = hyper::service::service_fn(move |request| {
                let target = target.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(request, peer.ip(), &target).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(e) = served {
                tracing::debug!(error = %e, "metadata connection");
            }
        });
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

async fn answer(request: Request<Incoming>, peer: IpAddr, target: &Target) -> Response<Full<Bytes>> {
    match tokio::time::timeout(REQUEST_TIME, forward(request, peer, target)).await {
        Ok(Ok(response)) => response,
        Ok(Err(why)) => {
            tracing::warn!(reason = %why, %peer, "metadata request failed");
            plain(StatusCode::BAD_GATEWAY, "The metadata service cannot be reached.\n")
        }
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "The metadata service did not answer in time.\n"),
    }
}

/// Whether a guest may send this header through.
fn passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    let ours = ["x-forwarded", "x-instance", "x-tenant", "x-project", "x-neutron", "x-metadata-proxy", "x-ovn", "x-real-ip"];
    let hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "forwarded",
        "expect",
    ];
    !ours.iter().any(|p| name.starts_with(p)) && !hop.contains(&name)
}

/// Hex HMAC-SHA256 of `<address>|<router or network id>`.
fn signature(secret: &str, peer: IpAddr, id: &str) -> Outcome<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|e| e.to_string())?;
    mac.update(format!("{peer}|{id}").as_bytes());
    Ok(hex(&mac.finalize().into_bytes()))
}

async fn forward(request: Request<Incoming>, peer: IpAddr, target: &Target) -> Outcome<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_REQUEST).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "The request is too large.\n"));
    };
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let (scope_header, id) = target.scope.header();
    let mut out = Request::new(Full::new(body.to_bytes()));
    *out.method_mut() = head.method;
    *out.uri_mut() = path.parse().map_err(|e| format!("path: {e}"))?;
    for (name, value) in head.headers.iter().filter(|(name, _)| passes(name)) {
        out.headers_mut().append(name, value.clone());
    }
    let signature = signature(target.secret.expose(), peer, id)?;
    for (name, value) in [("x-forwarded-for", peer.to_string()), (scope_header, id.to_string()), ("x-metadata-proxy-signature", signature)]
    {
        let value = HeaderValue::try_from(value).map_err(|e| e.to_string())?;
        out.headers_mut().insert(HeaderName::from_static(name), value);
    }
    if !out.headers().contains_key("host") {
        out.headers_mut().insert("host", HeaderValue::from_static(super::dhcp::METADATA));
    }
    let stream = TcpStream::connect(target.service).await.map_err(|e| format!("connect: {e}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("handshake: {e}"))?;
    let exchange = async {
        let (head, body) = sender.send_request(out).await.map_err(|e| format!("request: {e}"))?.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(|e| format!("response: {e}"))?;
        let mut response = Response::new(Full::new(body.to_bytes()));
        *response.status_mut() = head.status;
        for (name, value) in head.headers.iter().filter(|(name, _)| passes(name)) {
            response.headers_mut().append(name, value.clone());
        }
        Ok(response)
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let mut open = true;
    loop {
        tokio::select! {
            response = &mut exchange => return response,
            _ = &mut connection, if open => open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_headers_do_not_pass() {
        for name in ["x-forwarded-for", "x-instance-id", "x-tenant-id", "x-neutron-router-id", "x-metadata-proxy-signature", "forwarded"] {
            assert!(!passes(&HeaderName::from_static(name)), "{name}");
        }
        assert!(passes(&HeaderName::from_static("accept")));
    }

    #[test]
    fn the_signature_covers_address_and_scope() {
        let peer: IpAddr = "10.0.0.5".parse().unwrap();
        let one = signature("key", peer, "r").unwrap();
        assert_eq!(one.len(), 64);
        assert_ne!(one, signature("key", peer, "s").unwrap());
        assert_ne!(one, signature("other", peer, "r").unwrap());
    }
}
