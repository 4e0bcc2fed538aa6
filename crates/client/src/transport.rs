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
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::watch;

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
        Arc::new(LocalTransport { locals: self.clone(), service_type, base_url: base_url.into(), orphans: Orphans::default() })
    }
}

impl Locals {
    /// The service itself, looked up at each call; 503 while it is not there. For the front door.
    pub fn service(self: &Arc<Self>, service_type: &'static str, base_url: impl Into<String>) -> Arc<dyn HttpService> {
        let orphans = Orphans::default();
        Arc::new(LateService(LocalTransport { locals: self.clone(), service_type, base_url: base_url.into(), orphans }))
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
    orphans: Orphans,
}

impl LocalTransport {
    fn find(&self) -> Result<Arc<dyn HttpService>> {
        let found = self.locals.0.read().expect("no holder of this lock panics").get(self.service_type).cloned();
        found.ok_or_else(|| Error::unavailable(format!("The {} service is not running.", self.service_type)))
    }
}

#[async_trait]
impl Transport for LocalTransport {
    /// A call that changes something runs to its end even when its caller goes away, as it would in
    /// another process.
    async fn send(&self, mut req: Request<Body>) -> Result<Response<Body>> {
        let service = self.find()?;
        req.extensions_mut().insert(BaseUrl(self.base_url.clone()));
        self.orphans.wait().await;
        if req.method().is_safe() {
            return Ok(service.call(req).await);
        }
        let call = self.orphans.call();
        let end = call.clone();
        let running = tokio::spawn(async move {
            let _end = Ended(end);
            service.call(req).await
        });
        let _left = Left(call);
        running.await.map_err(|e| Error::internal("The service broke off.").caused_by(e))
    }
}

/// Longest wait for the calls of callers that went away.
const ORPHAN_WAIT: Duration = Duration::from_secs(10);

/// Calls still running whose caller went away (a workflow was cancelled in the middle of a step).
/// Whoever calls next, usually to take back what was done, must see what they did; so it waits.
#[derive(Clone, Default)]
struct Orphans(Arc<watch::Sender<i64>>);

impl Orphans {
    fn call(&self) -> Arc<Running> {
        Arc::new(Running { orphans: self.0.clone(), state: AtomicU8::new(RUNNING) })
    }

    async fn wait(&self) {
        if *self.0.borrow() <= 0 {
            return;
        }
        let mut open = self.0.subscribe();
        // After the limit the caller goes on: two services may wait for each other here.
        let _ = tokio::time::timeout(ORPHAN_WAIT, open.wait_for(|n| *n <= 0)).await;
    }
}

const RUNNING: u8 = 0;
const LEFT: u8 = 1;
const ENDED: u8 = 2;

struct Running {
    orphans: Arc<watch::Sender<i64>>,
    state: AtomicU8,
}

/// Held by the caller.
struct Left(Arc<Running>);

impl Drop for Left {
    fn drop(&mut self) {
        if self.0.state.swap(LEFT, Ordering::AcqRel) == RUNNING {
            self.0.orphans.send_modify(|n| *n += 1);
        }
    }
}

/// Held by the call.
struct Ended(Arc<Running>);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.state.swap(ENDED, Ordering::AcqRel) == LEFT {
            self.0.orphans.send_modify(|n| *n -= 1);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_rest::{empty, full};
    use http::Method;
    use tokio::sync::Notify;

    /// Takes its time over POST; GET tells whether that has happened.
    struct Slow {
        go: Arc<Notify>,
        done: Arc<AtomicU8>,
    }

    impl HttpService for Slow {
        fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
            let (go, done) = (self.go.clone(), self.done.clone());
            Box::pin(async move {
                if req.method() == Method::POST {
                    go.notified().await;
                    done.store(1, Ordering::SeqCst);
                }
                Response::new(full(done.load(Ordering::SeqCst).to_string()))
            })
        }
    }

    #[tokio::test]
    async fn a_call_outlives_its_caller_and_the_next_one_sees_what_it_did() {
        let (go, done) = (Arc::new(Notify::new()), Arc::new(AtomicU8::new(0)));
        let locals = Arc::new(Locals::default());
        locals.set("slow", Arc::new(Slow { go: go.clone(), done }));
        let transport = locals.transport("slow", "");
        let request = |m: Method| Request::builder().method(m).uri("/").body(empty()).unwrap();

        let post = transport.send(request(Method::POST));
        assert!(tokio::time::timeout(Duration::from_millis(5), post).await.is_err());
        go.notify_one();
        let answer = transport.send(request(Method::GET)).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&text[..], b"1");
    }
}
