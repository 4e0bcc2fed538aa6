//! What travels with a request through the proxy's pipeline beside the HTTP message itself.

use async_trait::async_trait;
use caelum_rest::Body;
use http::{Request, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// A request on its way through the pipeline. Its extensions carry an [`Environ`].
pub type Req = Request<Body>;
/// An answer on its way back.
pub type Resp = Response<Body>;

/// Who calls, as the authentication layer found out. Nothing in the request's headers can set it.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    pub user_id: String,
    pub user_name: String,
    pub project_id: Option<String>,
    pub project_name: Option<String>,
    /// Domains of the user and of the project; `None` for callers that no identity service knows.
    pub user_domain_id: Option<String>,
    pub project_domain_id: Option<String>,
    pub roles: Vec<String>,
    /// Roles of the service that calls on the user's behalf (`X-Service-Token`).
    pub service_roles: Vec<String>,
    /// Names that ACL entries are matched with (tempauth: `account:user`, `account`, `.admin`).
    pub groups: Vec<String>,
    /// May act on every account (`reseller_admin_role`).
    pub reseller_admin: bool,
}

/// Decides whether the caller may do what the request asks. The controllers ask it once they have
/// read the container's ACL; `Some(response)` is the refusal (401 or 403).
#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, method: &http::Method, path: &str, environ: &Environ, acl: Option<&str>) -> Option<Resp>;

    /// Whether the request proves that it comes from another container's sync without a realm: it carries
    /// the container's sync key and a timestamp. Such a request may write objects, whatever the ACL says.
    fn has_sync_key(&self, _key: &str) -> bool {
        false
    }
}

/// Facts about a request. Set by the outermost layer; inner layers copy it for requests they make.
#[derive(Clone)]
pub struct Environ {
    pub trans_id: String,
    pub remote: Option<IpAddr>,
    /// `None` for anonymous requests.
    pub caller: Option<Arc<Caller>>,
    /// `None`: the layer that made the request has authorized it already (segments of a manifest, temp
    /// URLs, internal work).
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// The caller owns the account (may see and set privileged headers, `X-Account-Meta-Temp-Url-Key` …).
    pub is_owner: bool,
    /// Which layer made the request (`SLO`, `DLO`, `S3`, `VW`, `TU`, `FP`, `EA`, `BD`, `SW`); empty for clients'.
    pub source: &'static str,
    /// Internal requests may use names that clients may not (reserved namespace, `X-Backend-*` headers).
    pub internal: bool,
    /// Whoever made the request has looked at object locks itself, and may lift them.
    pub lock_settled: bool,
}

impl Environ {
    /// A request of the program's own.
    pub fn internal(trans_id: impl Into<String>, source: &'static str) -> Self {
        Self {
            trans_id: trans_id.into(),
            remote: None,
            caller: None,
            authorizer: None,
            is_owner: true,
            source,
            internal: true,
            lock_settled: false,
        }
    }

    /// For a request made on behalf of one already authorized.
    #[must_use]
    pub fn preauthorized(&self, source: &'static str) -> Self {
        Self { authorizer: None, source, ..self.clone() }
    }
}

/// Request extension: the body of this PUT ends with a trailers frame whose fields are stored with the
/// object and win over the request's own headers (between nodes: `X-Backend-Obj-Metadata-Footer`). Set by
/// layers that know metadata only once the data has passed (encryption: ETag, sysmeta, the listing's ETag).
/// A layer that adds footers passes on those of the body it wraps. Clients' trailers are dropped at the front.
#[derive(Clone, Copy, Debug)]
pub struct Footers;

/// Request extension: a layer before the authentication has settled who may do this (temp URL, container
/// sync; upstream's `swift.authorize_override`). The authentication layer passes the request on as it is.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizeOverride;

/// Request extension: the request comes from another cluster's container sync, so manifests and symlinks are
/// stored as they arrive, in their internal form (upstream's `swift.slo_override`, `swift.symlink_override`).
#[derive(Clone, Copy, Debug)]
pub struct SyncOverride;

/// The environ of a request. Every request inside the pipeline has one; a missing one is treated as
/// a request that nobody may make.
pub fn environ(req: &Req) -> Option<&Environ> {
    req.extensions().get::<Environ>()
}

/// `/v1/account/container/object` with each name decoded. The object may contain slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwiftPath {
    pub version: String,
    pub account: String,
    pub container: Option<String>,
    pub object: Option<String>,
}

impl SwiftPath {
    /// From a request target's path, percent-decoded once; an encoded slash separates as any other does. `None` when it
    /// is not a Swift path or not UTF-8.
    pub fn parse(path: &str) -> Option<Self> {
        if path.contains('%') && (path.contains("%2F") || path.contains("%2f")) {
            return Self::parse(&path.replace("%2F", "/").replace("%2f", "/"));
        }
        let mut parts = path.strip_prefix('/')?.splitn(4, '/');
        let mut next = || match parts.next() {
            None | Some("") => Some(None),
            Some(p) => percent_encoding::percent_decode_str(p).decode_utf8().ok().map(|s| Some(s.into_owned())),
        };
        let (version, account, container, object) = (next()??, next()??, next()?, next()?);
        // `/v1/account//` names nothing either.
        if container.is_none() && path.split('/').nth(4).is_some() {
            return None;
        }
        Some(Self { version, account, container, object })
    }

    /// Percent-encoded again.
    pub fn encode(&self) -> String {
        let mut out = format!("/{}/{}", self.version, quote(&self.account));
        for part in [&self.container, &self.object].into_iter().flatten() {
            out.push('/');
            out.push_str(&quote(part));
        }
        out
    }

    #[must_use]
    pub fn with_object(&self, container: &str, object: Option<&str>) -> Self {
        Self { container: Some(container.into()), object: object.map(Into::into), ..self.clone() }
    }
}

const KEEP: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Percent-encoding as Swift does it: slashes stay.
pub fn quote(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        // Upstream splits the decoded path.
        let p = SwiftPath::parse("/v1/AUTH_a/c%2Fx/o%2fp%20q/%252F").unwrap();
        assert_eq!((p.container.as_deref(), p.object.as_deref()), (Some("c"), Some("x/o/p q/%2F")));
        assert_eq!(SwiftPath::parse("/v1/a//"), None);
        assert_eq!(SwiftPath::parse("/v1/a/").unwrap().container, None);
        assert_eq!(SwiftPath::parse("/v1/a/c//o").unwrap().object.as_deref(), Some("/o"));
        let p = SwiftPath::parse("/v1/AUTH_a/c/").unwrap();
        assert_eq!((p.container.as_deref(), p.object), (Some("c"), None));
        assert_eq!(SwiftPath::parse("/v1"), None);
        assert_eq!(SwiftPath::parse("/v1/a//o"), None);
        assert_eq!(SwiftPath::parse("/v1/a/%ff"), None);
        let p = SwiftPath::parse("/v1/a/c/../x").unwrap();
        assert_eq!(p.encode(), "/v1/a/c/../x");
    }
}
