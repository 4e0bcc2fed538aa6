use async_trait::async_trait;
use caelum_base::{Error, Result};
use caelum_rest::{BaseUrl, Body, Dialect, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Carries a request whose URI is a path below the service.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Errors: `Unavailable` when the service cannot be reached.
    async fn send(&self, req: Request<Body>) -> Result<Response<Body>>;
}

/// The services of this process by service type. Filled as they start, so that services may know
/// each other in circles.
#[derive(Default)]
pub struct Locals(RwLock<HashMap<&'static str, Arc<dyn HttpService>>>);

impl Locals {
    pub fn set(&self, service_type: &'static str, service: Arc<dyn HttpService>) {
        self.0.write().expect("no holder of this lock panics").insert(service_type, service);
    }

    /// A transport straight into a service of the same process, looked up at each call.
    /// `base_url` is what links in responses begin with.
    pub fn transport(self: &Arc<Self>, service_type: &'static str, base_url: impl Into<String>) -> Arc<dyn Transport> {
        Arc::new(LocalTransport { locals: self.clone(), service_type, base_url: base_url.into() })
    }
}

impl Locals {
    /// The service itself, looked up at each call; 503 while it is not there. For the front door.
    pub fn service(self: &Arc<Self>, service_type: &'static str, base_url: impl Into<String>) -> Arc<dyn HttpService> {
        Arc::new(LateService(LocalTransport { locals: self.clone(), service_type, base_url: base_url.into() }))
    }
}

struct LateService(LocalTransport);

impl HttpService for LateService {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        match self.0.find() {
            Ok(service) => service.call(req),
            Err(e) => Box::pin(async move { Dialect::Keystone.render(&e, "", &HeaderMap::new()) }),
        }
    }
}

struct LocalTransport {
    locals: Arc<Locals>,
    service_type: &'static str,
    base_url: String,
}

impl LocalTransport {
    fn find(&self) -> Result<Arc<dyn HttpService>> {
        let found = self.locals.0.read().expect("no holder of this lock panics").get(self.service_type).cloned();
        found.ok_or_else(|| Error::unavailable(format!("The {} service is not running.", self.service_type)))
    }
}

#[async_trait]
impl Transport for LocalTransport {
    async fn send(&self, mut req: Request<Body>) -> Result<Response<Body>> {
        let service = self.find()?;
        req.extensions_mut().insert(BaseUrl(self.base_url.clone()));
        Ok(service.call(req).await)
    }
}

/// Over HTTP/1.1 with kept connections.
pub struct HttpTransport {
    client: Client<HttpConnector, Body>,
    base_url: String,
}

impl HttpTransport {
    /// `base_url` like `http://127.0.0.1:5000/compute`.
    pub fn new(base_url: impl Into<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        Self { client, base_url: base_url.into().trim_end_matches('/').to_string() }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, mut req: Request<Body>) -> Result<Response<Body>> {
        let path = req.uri().path_and_query().map_or("/", |p| p.as_str());
        let uri: Uri = format!("{}{path}", self.base_url)
            .parse()
            .map_err(|e| Error::invalid("not a valid URL").caused_by(Error::internal(format!("{e}"))))?;
        if let Some(host) = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
            req.headers_mut().insert(header::HOST, host);
        }
        *req.uri_mut() = uri;
        let response = self.client.request(req).await.map_err(|e| Error::unavailable("The service cannot be reached.").caused_by(e))?;
        Ok(response.map(|b| b.map_err(Into::into).boxed_unsync()))
    }
}
