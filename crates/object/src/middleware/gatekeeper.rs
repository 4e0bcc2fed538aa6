use crate::env::{Footers, Req, Resp};
use crate::http::{KeepRelativeLocation, set, text};
use caelum_rest::{BaseUrl, Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use std::sync::Arc;

/// Keeps the headers that parts of the store tell each other things by from clients, both ways.
pub struct Gatekeeper {
    next: Arc<dyn HttpService>,
    /// Clients may use names of the reserved namespace by `X-Allow-Reserved-Names` (`allow_reserved_names_header`).
    allow_reserved_names: bool,
    keep_timestamps: bool,
}

impl Gatekeeper {
    pub fn new(next: Arc<dyn HttpService>, allow_reserved_names: bool) -> Self {
        Self { next, allow_reserved_names, keep_timestamps: false }
    }

    /// Whether clients' `X-Timestamp` goes on as it is (`shunt_inbound_x_timestamp = no`).
    #[must_use]
    pub fn keeping_timestamps(self, keep_timestamps: bool) -> Self {
        Self { keep_timestamps, ..self }
    }
}

const PREFIXES: [&str; 5] = ["x-account-sysmeta-", "x-container-sysmeta-", "x-object-sysmeta-", "x-object-transient-sysmeta-", "x-backend"];

/// Headers by which proxies told storage nodes about updates before `X-Backend-`.
const EXACT: [&str; 11] = [
    "x-account-host",
    "x-account-device",
    "x-account-partition",
    "x-container-host",
    "x-container-device",
    "x-container-partition",
    "x-container-root-db-state",
    "x-delete-at-host",
    "x-delete-at-device",
    "x-delete-at-partition",
    "x-delete-at-container",
];

/// Whether a header is no business of clients.
pub fn is_private(name: &str) -> bool {
    EXACT.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// A name with an underscore is not let in, as upstream's WSGI server does: it could not be told from one with `-`.
/// S3's keys have theirs in headers of other names.
fn has_underscore(name: &str) -> bool {
    name.contains("^5f") && caelum_rest::names::is_odd(name)
}

fn strip(headers: &mut HeaderMap) {
    let private: Vec<HeaderName> = headers.keys().filter(|n| is_private(n.as_str())).cloned().collect();
    for name in private {
        headers.remove(name);
    }
}

impl HttpService for Gatekeeper {
    fn call(&self, mut req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let headers = req.headers_mut();
        strip(headers);
        let dropped: Vec<HeaderName> = headers.keys().filter(|n| has_underscore(n.as_str())).cloned().collect();
        for name in dropped {
            headers.remove(name);
        }
        if !self.keep_timestamps
            && let Some(stamp) = headers.remove("x-timestamp")
        {
            headers.insert("x-backend-inbound-x-timestamp", stamp);
        }
        if self.allow_reserved_names
            && let Some(v) = headers.remove("x-allow-reserved-names")
        {
            headers.insert("x-backend-allow-reserved-names", v);
        }
        // What a client sends behind its data means nothing here; layers put metadata there.
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        req.extensions_mut().remove::<Footers>();
        let req = if chunked { req.map(without_trailers) } else { req };
        let base = req.extensions().get::<BaseUrl>().map(|b| b.0.clone());
        let answer = self.next.call(req);
        Box::pin(async move {
            let mut resp = answer.await;
            strip(resp.headers_mut());
            complete_location(&mut resp, base.as_deref());
            resp
        })
    }
}

fn without_trailers(body: Body) -> Body {
    body.map_frame(|f| f.into_data().map_or_else(|_| http_body::Frame::data(bytes::Bytes::new()), http_body::Frame::data)).boxed_unsync()
}

/// A `Location` on this host gets the host's name, as the standard once wanted.
fn complete_location(resp: &mut Resp, base: Option<&str>) {
    let keep = resp.extensions().get::<KeepRelativeLocation>().is_some();
    if let (Some(base), false, Some(place)) = (base, keep, text(resp.headers(), "location"))
        && place.starts_with('/')
        && !place.starts_with("//")
    {
        let full = format!("{base}{place}");
        set(resp.headers_mut(), "location", full);
    }
}
