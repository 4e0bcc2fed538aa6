//! A client's request as the controllers see it, and what of it goes to storage servers.

use super::backend::Core;
use crate::env::{Environ, Resp};
use crate::http::{is_true, set, text};
use caelum_rest::Body;
use caelum_swiftkit::Timestamp;
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use std::sync::Mutex;

pub(crate) struct Rq {
    pub parts: Parts,
    /// In a lock only because a body cannot be shared between threads.
    pub body: Mutex<Body>,
    pub environ: Environ,
    pub account: String,
    pub container: Option<String>,
    pub object: Option<String>,
    /// `/account/container/object` as the request has it, percent-encoded.
    pub entity: String,
    pub timestamp: Timestamp,
}

impl Rq {
    pub(crate) fn take_body(&mut self) -> Body {
        let body = self.body.get_mut().expect("no holder of this lock panics");
        std::mem::replace(body, caelum_rest::empty())
    }

    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(crate) fn container(&self) -> &str {
        self.container.as_deref().unwrap_or_default()
    }

    pub(crate) fn object(&self) -> &str {
        self.object.as_deref().unwrap_or_default()
    }

    /// Asks whether the caller may do this. `Some`: the refusal.
    pub(crate) async fn authorize(&self, acl: Option<&str>) -> Option<Resp> {
        let authorizer = self.environ.authorizer.as_ref()?;
        authorizer.authorize(&self.parts.method, self.parts.uri.path(), &self.environ, acl).await
    }

    pub(crate) fn is_reseller(&self) -> bool {
        self.environ.caller.as_ref().is_some_and(|c| c.reseller_admin)
    }

    /// What every request to a storage server says.
    fn common(&self, out: &mut HeaderMap) {
        set(out, "x-trans-id", &self.environ.trans_id);
        out.insert(header::USER_AGENT, HeaderValue::from_static("proxy-server"));
        let target = self.parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let host = text(self.headers(), "host").unwrap_or("localhost");
        let referer = format!("{} http://{host}{target}", self.parts.method);
        set(out, "referer", referer);
    }

    /// Headers for account and container servers: `X-Backend-*` and the time; with `transfer` also
    /// metadata and what is named in `pass`. `X-Remove-…` becomes an empty value.
    pub(crate) fn backend_headers(&self, kind: &str, transfer: bool, pass: &[&str]) -> HeaderMap {
        let mut out = HeaderMap::new();
        let from = self.headers();
        for (name, value) in from.iter().filter(|(n, _)| n.as_str().starts_with("x-backend-")) {
            out.insert(name.clone(), value.clone());
        }
        if transfer {
            for name in from.keys() {
                let Some(rest) = name.as_str().strip_prefix("x-remove-") else { continue };
                let to = format!("x-{rest}");
                if is_meta(&to, kind) || pass.contains(&to.as_str()) {
                    set(&mut out, &to, "");
                }
            }
            for (name, value) in from {
                let n = name.as_str();
                if pass.contains(&n) || is_meta(n, kind) || is_sysmeta(n, kind) {
                    out.insert(name.clone(), value.clone());
                }
            }
        }
        set(&mut out, "x-timestamp", self.timestamp.internal());
        self.common(&mut out);
        out
    }

    /// Headers for reading, and for object servers: all of the request's that are not about its
    /// connection or its caller's secrets.
    pub(crate) fn forwarded_headers(&self) -> HeaderMap {
        let mut out = self.headers().clone();
        for name in KEPT_BACK {
            out.remove(*name);
        }
        set(&mut out, "x-timestamp", self.timestamp.internal());
        self.common(&mut out);
        out
    }
}

const KEPT_BACK: &[&str] = &[
    "host",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "cookie",
    "authorization",
    "keep-alive",
    "x-auth-token",
    "x-service-token",
    "x-storage-token",
    "x-auth-key",
];

pub(crate) fn is_meta(name: &str, kind: &str) -> bool {
    let rest = name.strip_prefix("x-").and_then(|n| n.strip_prefix(kind)).and_then(|n| n.strip_prefix("-meta-"));
    rest.is_some_and(|r| !r.is_empty())
}

pub(crate) fn is_sysmeta(name: &str, kind: &str) -> bool {
    let rest = name.strip_prefix("x-").and_then(|n| n.strip_prefix(kind)).and_then(|n| n.strip_prefix("-sysmeta-"));
    rest.is_some_and(|r| !r.is_empty())
}

/// Names of the reserved namespace may be used.
pub(crate) fn allows_reserved(headers: &HeaderMap, environ: &Environ) -> bool {
    environ.internal || is_true(headers, "x-backend-allow-reserved-names")
}

/// Headers for requests of the proxy's own.
pub(crate) fn own_headers(core: &Core, environ: &Environ) -> HeaderMap {
    let mut out = HeaderMap::new();
    set(&mut out, "x-timestamp", core.timestamp().internal());
    set(&mut out, "x-trans-id", &environ.trans_id);
    out.insert(header::USER_AGENT, HeaderValue::from_static("proxy-server"));
    out.insert("x-backend-allow-reserved-names", HeaderValue::from_static("true"));
    out
}
