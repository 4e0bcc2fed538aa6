//! How services call each other: REST over one interface with two transports, in process (straight
//! into the callee's router, no socket) and HTTP. The meaning is the same on both.
//!
//! A call is made either as the service's own user ([`ServiceClient`]'s token source) or on behalf of
//! a user whose token is passed along. Errors of the callee come back as [`Error`] with the same kind
//! and public message.

mod password;
mod transport;

pub use password::PasswordTokens;
pub use transport::{HttpTransport, Locals, Transport};

use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::{Error, ErrorKind, Result, Secret};
use caelum_rest::{Body, full, read_limited};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Largest JSON response accepted from another service, in bytes.
const MAX_RESPONSE: usize = 64 << 20;
/// Time for one call unless the request says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Gives a token for the service's own user; caches and renews it.
#[async_trait]
pub trait TokenSource: Send + Sync {
    async fn token(&self) -> Result<Secret<String>>;
    /// Called after a 401: the cached token is no good any more.
    async fn forget(&self);
}

/// A client of one service.
#[derive(Clone)]
pub struct ServiceClient {
    name: &'static str,
    transport: Arc<dyn Transport>,
    tokens: Arc<dyn TokenSource>,
    microversion: Option<String>,
}

impl ServiceClient {
    /// `name` is the callee's service type, for messages.
    pub fn new(name: &'static str, transport: Arc<dyn Transport>, tokens: Arc<dyn TokenSource>) -> Self {
        Self { name, transport, tokens, microversion: None }
    }

    /// Sends `OpenStack-API-Version: <value>` (`placement 1.39`) with every call.
    #[must_use]
    pub fn microversion(mut self, value: impl Into<String>) -> Self {
        self.microversion = Some(value.into());
        self
    }

    pub fn get(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::POST, path)
    }

    pub fn put(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    pub fn patch(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::PATCH, path)
    }

    pub fn delete(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    pub fn call(&self, method: Method, path: impl Into<String>) -> Call<'_> {
        Call {
            client: self,
            method,
            path: path.into(),
            token: None,
            headers: HeaderMap::new(),
            json: None,
            stream: None,
            deadline: DEFAULT_DEADLINE,
            failed: None,
        }
    }
}

/// One call under construction.
pub struct Call<'c> {
    client: &'c ServiceClient,
    method: Method,
    path: String,
    token: Option<Secret<String>>,
    headers: HeaderMap,
    json: Option<Bytes>,
    stream: Option<Body>,
    deadline: Duration,
    failed: Option<Error>,
}

impl Call<'_> {
    /// Acts as the user of this token; the service's own token goes along as `X-Service-Token`.
    #[must_use]
    pub fn as_user(mut self, token: &Secret<String>) -> Self {
        self.token = Some(token.clone());
        self
    }

    #[must_use]
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(v) => self.json = Some(v.into()),
            Err(e) => self.failed = Some(Error::internal("request does not serialise").caused_by(e)),
        }
        self
    }

    /// A streamed body.
    #[must_use]
    pub fn stream(mut self, body: Body, content_type: &'static str) -> Self {
        self.stream = Some(body);
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(v) => {
                self.headers.insert(HeaderName::from_static(name), v);
            }
            Err(_) => self.failed = Some(Error::invalid(format!("{name} cannot carry this value"))),
        }
        self
    }

    #[must_use]
    pub fn deadline(mut self, d: Duration) -> Self {
        self.deadline = d;
        self
    }

    /// Sends and decodes a JSON answer.
    pub async fn fetch<T: DeserializeOwned>(self) -> Result<T> {
        let name = self.client.name;
        let bytes = read_limited(self.send().await?.into_body(), MAX_RESPONSE).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::internal(format!("{name} answered something unexpected")).caused_by(e))
    }

    /// Sends; the answer's body is not wanted.
    pub async fn done(self) -> Result<()> {
        self.send().await.map(drop)
    }

    /// Sends; `NotFound` is success (deleting what is gone already).
    pub async fn done_or_gone(self) -> Result<()> {
        match self.done().await {
            Err(e) if e.is_not_found() => Ok(()),
            r => r,
        }
    }

    /// Sends and gives the successful response with its body unread. An error status becomes an
    /// [`Error`] of the matching kind with the callee's message.
    pub async fn send(mut self) -> Result<Response<Body>> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let own = self.client.tokens.token().await?;
        let deadline = self.deadline;
        let client = self.client;
        // A stream can be sent once; everything else is tried again when our own token had died.
        let can_retry = self.stream.is_none();
        let response = client.attempt(self.request(&own)?, deadline).await?;
        if response.status() != http::StatusCode::UNAUTHORIZED || !can_retry || self.token.is_some() {
            return self.client.checked(response).await;
        }
        client.tokens.forget().await;
        let own = client.tokens.token().await?;
        let response = client.attempt(self.request(&own)?, deadline).await?;
        client.checked(response).await
    }

    fn request(&mut self, own: &Secret<String>) -> Result<Request<Body>> {
        let body = match (self.stream.take(), &self.json) {
            (Some(s), _) => s,
            (None, Some(j)) => full(j.clone()),
            (None, None) => caelum_rest::empty(),
        };
        let mut b = Request::builder().method(self.method.clone()).uri(&self.path);
        if let Some(h) = b.headers_mut() {
            h.clone_from(&self.headers);
            if self.json.is_some() {
                h.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            h.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            if let Some(mv) = &self.client.microversion
                && let Ok(v) = HeaderValue::from_str(mv)
            {
                h.insert("openstack-api-version", v);
            }
            h.insert("x-auth-token", secret_header(self.token.as_ref().unwrap_or(own))?);
            if self.token.is_some() {
                h.insert("x-service-token", secret_header(own)?);
            }
        }
        b.body(body).map_err(|e| Error::invalid(format!("{} is not a valid path", self.path)).caused_by(e))
    }
}

impl ServiceClient {
    async fn attempt(&self, req: Request<Body>, deadline: Duration) -> Result<Response<Body>> {
        let sent = tokio::time::timeout(deadline, self.transport.send(req)).await;
        sent.map_err(|_| Error::timeout(format!("The {} service did not answer in time.", self.name)))?
    }

    async fn checked(&self, response: Response<Body>) -> Result<Response<Body>> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let bytes = read_limited(response.into_body(), 1 << 20).await.unwrap_or_default();
        let message = message_of(&bytes).unwrap_or_else(|| format!("The {} service answered {status}.", self.name));
        let kind = match status.as_u16() {
            400 => ErrorKind::Invalid,
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            413 => ErrorKind::OverQuota,
            429 => ErrorKind::TooMany,
            500 => ErrorKind::Internal,
            501 => ErrorKind::NotImplemented,
            502..=503 => ErrorKind::Unavailable,
            504 => ErrorKind::Timeout,
            other => ErrorKind::Status(other),
        };
        let kind = match (kind, code_of(&bytes).as_deref()) {
            (ErrorKind::Conflict, Some("OverQuota")) => ErrorKind::OverQuota,
            (ErrorKind::Conflict, Some("placement.concurrent_update")) => ErrorKind::Generation,
            (k, _) => k,
        };
        Err(Error::new(kind, message))
    }
}

fn secret_header(token: &Secret<String>) -> Result<HeaderValue> {
    let mut v = HeaderValue::from_str(token.expose()).map_err(|_| Error::unauthenticated("The token is malformed."))?;
    v.set_sensitive(true);
    Ok(v)
}

/// The human sentence of any dialect's error body.
fn message_of(bytes: &[u8]) -> Option<String> {
    let v: Value = serde_json::from_slice(bytes).ok()?;
    if let Some(m) = v.get("errors").and_then(|e| e.get(0)).and_then(|e| e.get("detail")) {
        return m.as_str().map(String::from);
    }
    if let Some(m) = v.get("message").and_then(Value::as_str) {
        return Some(m.to_string());
    }
    v.as_object()?.values().next()?.get("message")?.as_str().map(String::from)
}

fn code_of(bytes: &[u8]) -> Option<String> {
    let v: Value = serde_json::from_slice(bytes).ok()?;
    let first = v.get("errors").and_then(|e| e.get(0)).and_then(|e| e.get("code"));
    let code = first.or_else(|| v.get("NeutronError")?.get("type"))?;
    code.as_str().map(String::from)
}
