//! The console's HTTP side: the page, its script, and the upgrade to a WebSocket.

use super::{bridge, endpoint, redeem};
use crate::State;
use caelum_base::{Error, ErrorKind, Result};
use caelum_rest::{Body, HttpService, QueryParams, empty, full};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Consoles open at the same time.
const MAX_SESSIONS: usize = 256;

const PAGE: &str = include_str!("viewer.html");
const SCRIPT: &str = include_str!("viewer.js");
/// The page runs its own script only and talks to its own host only.
const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'";

/// Serves browsers; mounted below the path of `console_url`, or at the root of a port of its own.
#[derive(Clone)]
pub struct ConsoleService {
    state: Arc<State>,
    slots: Arc<Semaphore>,
}

impl ConsoleService {
    pub fn new(state: Arc<State>) -> Self {
        Self { state, slots: Arc::new(Semaphore::new(MAX_SESSIONS)) }
    }
}

impl HttpService for ConsoleService {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let service = self.clone();
        Box::pin(async move { service.answer(req).await })
    }
}

fn fixed(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut r = Response::new(full(text));
    let h = r.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    h.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // The page's address holds a token: it goes neither into caches nor to other sites.
    h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    h.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    h.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    h.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    r
}

/// A refusal without words, after which the connection ends: clients of WebSockets read no bodies.
fn refused(e: &Error) -> Response<Body> {
    let status = match e.kind {
        // A token that is wrong is answered like one that has expired.
        ErrorKind::NotFound | ErrorKind::Unauthenticated => 403,
        kind => kind.status(),
    };
    let mut r = Response::new(empty());
    *r.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    r.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    r
}

impl ConsoleService {
    async fn answer(&self, req: Request<Body>) -> Response<Body> {
        if wants_socket(req.headers()) {
            return self.upgrade(req).await.unwrap_or_else(|e| {
                tracing::debug!(error = e.chain(), "console refused");
                refused(&e)
            });
        }
        let name = req.uri().path().rsplit('/').next().unwrap_or_default();
        match name {
            _ if !matches!(*req.method(), Method::GET | Method::HEAD) => refused(&Error::status(405, "")),
            "vnc_auto.html" | "vnc_lite.html" | "vnc.html" => fixed("text/html; charset=utf-8", PAGE),
            "viewer.js" => fixed("text/javascript; charset=utf-8", SCRIPT),
            _ => {
                let mut r = Response::new(empty());
                *r.status_mut() = StatusCode::NOT_FOUND;
                r
            }
        }
    }

    async fn upgrade(&self, mut req: Request<Body>) -> Result<Response<Body>> {
        check_origin(req.headers(), &self.state.config.console_url)?;
        let key = req.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|k| k.to_str().ok());
        let version = req.headers().get(header::SEC_WEBSOCKET_VERSION).and_then(|v| v.to_str().ok());
        let (Some(key), Some("13")) = (key, version) else { return Err(Error::invalid("This is no WebSocket request.")) };
        let accept = derive_accept_key(key.as_bytes());
        let token = token(&req)?;
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| Error::unavailable("Too many consoles are open."))?;
        let server = redeem(&self.state, &token).await?;
        let vnc = bridge::connect(&endpoint(&self.state, &server).await?).await?;
        let binary = offers_binary(req.headers());
        let upgraded = hyper::upgrade::on(&mut req);
        tokio::spawn(async move {
            match upgraded.await {
                Ok(client) => bridge::run(TokioIo::new(client), vnc).await,
                Err(e) => tracing::debug!(error = %e, "console upgrade"),
            }
            drop(slot);
        });
        let mut r = Response::new(empty());
        *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let h = r.headers_mut();
        h.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        h.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        h.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(|_| Error::invalid("The key is not valid."))?);
        if binary {
            h.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
        }
        Ok(r)
    }
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    texts.flat_map(|t| t.split(',')).any(|t| t.trim().eq_ignore_ascii_case(word))
}

fn wants_socket(headers: &HeaderMap) -> bool {
    has_word(headers, header::UPGRADE, "websocket")
}

fn offers_binary(headers: &HeaderMap) -> bool {
    has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, "binary")
}

/// The token of the query, or of the `path` or `token` cookie that clients older than noVNC 1.1 send.
fn token(req: &Request<Body>) -> Result<String> {
    let query = QueryParams::parse(req.uri().query())?;
    if let Some(t) = query.get("token") {
        return Ok(t.to_string());
    }
    let cookies = req.headers().get(header::COOKIE).and_then(|c| c.to_str().ok()).unwrap_or_default();
    let found = cookies.split(';').find_map(|c| c.trim().strip_prefix("token="));
    found.map(String::from).ok_or_else(|| Error::unauthenticated("There is no token."))
}

/// A browser says which site's script opens the socket: only the console's own page may, or any site
/// could use a token that leaked. Programs send no Origin.
fn check_origin(headers: &HeaderMap, console_url: &str) -> Result<()> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let authority = |url: &str| url.split_once("://").map(|(_, r)| r.split('/').next().unwrap_or_default().to_ascii_lowercase());
    let origin = origin.to_str().ok().and_then(authority);
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).map(str::to_ascii_lowercase);
    let own = origin.is_some() && (origin == host || origin == authority(console_url));
    if own && origins.next().is_none() {
        return Ok(());
    }
    Err(Error::forbidden("Origin header does not match this host."))
}
