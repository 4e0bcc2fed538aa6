//! Cross-origin requests. Source: Swift's documentation, `cors`.

use super::backend::Core;
use super::info::Cors;
use super::request::Rq;
use crate::env::Resp;
use crate::http::{error, respond, set, text};
use caelum_rest::names::name_to_wire;
use std::collections::BTreeSet;
use std::sync::Arc;

const SIMPLE: &[&str] = &[
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "etag",
    "x-timestamp",
    "x-trans-id",
    "x-openstack-request-id",
];

impl Core {
    fn origin_allowed(&self, cors: &Cors, origin: &str) -> bool {
        let own = cors.allow_origin.as_deref().unwrap_or_default().split(' ').filter(|o| !o.is_empty());
        own.chain(self.options.cors_allow_origin.iter().map(String::as_str)).any(|o| o == origin || o == "*")
    }

    /// A request with an `Origin` for a container or object.
    pub(crate) async fn with_cors(self: Arc<Self>, rq: Rq) -> Resp {
        let origin = text(rq.headers(), "origin").unwrap_or_default().to_string();
        if *rq.method() == http::Method::OPTIONS || origin.is_empty() {
            return self.dispatch(rq).await;
        }
        let info = self.container_info(&rq.environ, &rq.account, rq.container()).await;
        let core = self.clone();
        let mut resp = self.dispatch(rq).await;
        if core.options.strict_cors_mode && !core.origin_allowed(&info.cors, &origin) {
            return resp;
        }
        let headers = resp.headers_mut();
        if !headers.contains_key("access-control-expose-headers") {
            let mut names: BTreeSet<String> = SIMPLE.iter().map(|n| (*n).to_string()).collect();
            names.extend(core.options.cors_expose_headers.iter().cloned());
            let meta = |n: &&str| n.starts_with("x-container-meta") || n.starts_with("x-object-meta");
            names.extend(
                headers.keys().map(http::HeaderName::as_str).filter(meta).map(|n| String::from_utf8_lossy(&name_to_wire(n)).into_owned()),
            );
            let wanted = info.cors.expose_headers.as_deref().unwrap_or_default();
            names.extend(wanted.split(' ').filter(|n| !n.is_empty()).map(str::to_lowercase));
            set(headers, "access-control-expose-headers", names.into_iter().collect::<Vec<_>>().join(", "));
        }
        if !headers.contains_key("access-control-allow-origin") {
            allow_origin(&info.cors, &origin, headers);
        }
        resp
    }

    /// OPTIONS, with or without being a preflight.
    pub(crate) async fn options_request(self: &Arc<Self>, rq: &Rq, allowed: &[&str]) -> Resp {
        let allow = allowed.join(", ");
        let mut resp = respond(200, "text/html; charset=UTF-8", "");
        set(resp.headers_mut(), "allow", &allow);
        let origin = text(rq.headers(), "origin").unwrap_or_default();
        if origin.is_empty() || rq.container.is_none() {
            return resp;
        }
        let info = self.container_info(&rq.environ, &rq.account, rq.container()).await;
        let method = text(rq.headers(), "access-control-request-method").unwrap_or_default();
        if !self.origin_allowed(&info.cors, origin) || !allowed.contains(&method) {
            let mut refused = error(401);
            set(refused.headers_mut(), "allow", &allow);
            return refused;
        }
        let headers = resp.headers_mut();
        allow_origin(&info.cors, origin, headers);
        if let Some(age) = &info.cors.max_age {
            set(headers, "access-control-max-age", age);
        }
        set(headers, "access-control-allow-methods", &allow);
        let asked = text(rq.headers(), "access-control-request-headers").unwrap_or_default();
        let asked: BTreeSet<&str> = asked.split(',').map(str::trim).filter(|h| !h.is_empty()).collect();
        if !asked.is_empty() {
            set(headers, "access-control-allow-headers", asked.into_iter().collect::<Vec<_>>().join(", "));
            vary(headers, "Access-Control-Request-Headers");
        }
        resp
    }
}

fn allow_origin(cors: &Cors, origin: &str, headers: &mut http::HeaderMap) {
    if cors.allow_origin.as_deref().map(str::trim) == Some("*") {
        set(headers, "access-control-allow-origin", "*");
    } else {
        set(headers, "access-control-allow-origin", origin);
        vary(headers, "Origin");
    }
}

fn vary(headers: &mut http::HeaderMap, name: &str) {
    let value = text(headers, "vary").map_or_else(|| name.to_string(), |old| format!("{old}, {name}"));
    set(headers, "vary", value);
}
