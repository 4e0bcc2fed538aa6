//! The way to the storage nodes: straight into a server of this process, or over HTTP with kept
//! connections. Callers cannot tell which.

use caelum_rest::{Body, HttpService, Interim, NodeWire, names};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// A node that gave no answer: refused, timed out, broke off.
#[derive(Debug)]
pub struct NodeError(pub String);

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

/// Carries requests to account, container and object servers, told apart by address and port as the
/// rings name them.
#[derive(Clone)]
pub struct Nodes {
    local: Arc<RwLock<HashMap<(String, u16), Arc<dyn HttpService>>>>,
    client: Client<Connector, Body>,
    /// For requests with names that are written otherwise on the wire (see [`names`]): connections on which each
    /// head is looked at.
    naming: Client<Connector, Body>,
}

/// Connections on which names of headers are read as on the wire.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    writes_names: bool,
}

type Link = TokioIo<NodeWire<TcpStream>>;

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = BoxFuture<'static, Result<Link, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, writes_names) = (self.http.call(to), self.writes_names);
        Box::pin(async move { Ok(TokioIo::new(NodeWire::new(connecting.await?.into_inner(), writes_names))) })
    }
}

impl Nodes {
    /// `conn_timeout` bounds connecting (upstream's default: 500 ms).
    pub fn new(conn_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(conn_timeout));
        connector.set_nodelay(true);
        let client = |writes_names| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(256)
                .retry_canceled_requests(true)
                .build(Connector { http: connector.clone(), writes_names })
        };
        Self { local: Arc::default(), client: client(false), naming: client(true) }
    }

    /// Requests to this address go straight into `server`.
    pub fn set_local(&self, ip: &str, port: u16, server: Arc<dyn HttpService>) {
        self.local.write().expect("no holder of this lock panics").insert((ip.to_string(), port), server);
    }

    /// Whether requests to this address stay in this process.
    pub fn is_local(&self, ip: &str, port: u16) -> bool {
        self.local.read().expect("no holder of this lock panics").contains_key(&(ip.to_string(), port))
    }

    /// Whether there are servers in this process.
    pub fn any_local(&self) -> bool {
        !self.local.read().expect("no holder of this lock panics").is_empty()
    }

    /// Sends a request whose URI is a path on the node. `timeout` bounds the time to the response's
    /// head, the sending of the request's body included. A request with an [`Interim`] (its channel form) gets the
    /// node's `100 Continue` responses through it: uploads in two phases. Errors: no answer.
    pub async fn send(&self, ip: &str, port: u16, mut req: Request<Body>, timeout: Duration) -> Result<Response<Body>, NodeError> {
        let local = self.local.read().expect("no holder of this lock panics").get(&(ip.to_string(), port)).cloned();
        if let Some(server) = local {
            // As behind a connection: what has begun there ends there, also when the caller gives up.
            let call = caelum_rest::to_the_end(&*server, req, ());
            return tokio::time::timeout(timeout, call).await.map_err(|_| NodeError(format!("{ip}:{port}: no answer in {timeout:?}")));
        }
        let host = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        let path = req.uri().path_and_query().map_or("/", |p| p.as_str());
        let uri: Uri = format!("http://{host}{path}").parse().map_err(|e| NodeError(format!("{host}: {e}")))?;
        *req.uri_mut() = uri;
        if let Ok(value) = HeaderValue::from_str(&host) {
            req.headers_mut().insert(header::HOST, value);
        }
        if let Some(interim) = req.extensions_mut().remove::<Interim>() {
            hyper::ext::on_informational(&mut req, move |r| {
                let headers: Vec<(&str, &str)> = r.headers().iter().filter_map(|(k, v)| Some((k.as_str(), v.to_str().ok()?))).collect();
                interim.announce(&headers);
            });
        }
        let client = if names::any_odd(req.headers()) { &self.naming } else { &self.client };
        match tokio::time::timeout(timeout, client.request(req)).await {
            Ok(Ok(response)) => Ok(response.map(|b| b.map_err(Into::into).boxed_unsync())),
            Ok(Err(e)) => Err(NodeError(format!("{host}: {e}"))),
            Err(_) => Err(NodeError(format!("{host}: no answer in {timeout:?}"))),
        }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self::new(Duration::from_millis(500))
    }
}
