use crate::auth::RefuseAll;
use crate::env::{Environ, Req, Resp, quote};
use crate::http::{respond, set, text};
use caelum_base::Env;
use caelum_rest::{BaseUrl, Body, HttpService, RemoteAddr};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::uri::Authority;
use http::{HeaderMap, Method, header};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The first layer: gives a request its [`Environ`] with a transaction id, says the id in every answer, and turns
/// whatever goes wrong behind it into a 500 that tells nothing.
pub struct CatchErrors {
    next: Arc<dyn HttpService>,
    env: Env,
    suffix: String,
}

/// What a client may add to a transaction id, in characters.
const EXTRA_CHARS: usize = 32;

impl CatchErrors {
    /// `suffix` ends every transaction id (`trans_id_suffix`).
    pub fn new(next: Arc<dyn HttpService>, env: Env, suffix: &str) -> Self {
        Self { next, env, suffix: suffix.into() }
    }

    /// `tx`, 21 random digits, the time in seconds: `tx0123456789abcdef01234-0065a1b2c3`.
    fn trans_id(&self, headers: &HeaderMap) -> String {
        let random = self.env.hex_id();
        let mut suffix = self.suffix.clone();
        if let Some(extra) = text(headers, "x-trans-id-extra").filter(|e| !e.is_empty()) {
            suffix.push('-');
            suffix.extend(extra.chars().take(EXTRA_CHARS));
        }
        format!("tx{}-{:010x}{}", &random[..21], self.env.now().secs(), quote(&suffix))
    }
}

/// `http://host`, from a `Host` header that is nothing but a plain authority.
fn base_url(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_');
    (host.parse::<Authority>().is_ok() && host.bytes().all(plain)).then(|| format!("http://{host}"))
}

impl HttpService for CatchErrors {
    fn call(&self, mut req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let trans_id = self.trans_id(req.headers());
        let environ = Environ {
            trans_id: trans_id.clone(),
            remote: req.extensions().get::<RemoteAddr>().map(|a| a.0.ip()),
            caller: None,
            authorizer: Some(Arc::new(RefuseAll)),
            is_owner: false,
            source: "",
            internal: false,
            lock_settled: false,
        };
        req.extensions_mut().insert(environ);
        if req.extensions().get::<BaseUrl>().is_none()
            && let Some(base) = base_url(req.headers())
        {
            req.extensions_mut().insert(BaseUrl(base));
        }
        let is_head = *req.method() == Method::HEAD;
        let next = self.next.clone();
        Box::pin(async move {
            let answer = AssertUnwindSafe(async move { next.call(req).await }).catch_unwind();
            let mut resp = answer.await.unwrap_or_else(|_| {
                tracing::error!(trans_id, "a request ended in a panic");
                respond(500, "text/plain", "An error occurred")
            });
            finish(&mut resp, &trans_id, is_head);
            resp
        })
    }
}

fn finish(resp: &mut Resp, trans_id: &str, is_head: bool) {
    set(resp.headers_mut(), "x-trans-id", trans_id);
    set(resp.headers_mut(), "x-openstack-request-id", trans_id);
    if is_head {
        *resp.body_mut() = caelum_rest::empty();
    }
}
