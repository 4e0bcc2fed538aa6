use crate::env::{Environ, Req, SwiftPath};
use caelum_rest::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};

/// What requests of a layer's own inherit from the one they are made for: who calls and from where, nothing
/// of its conditions or metadata.
#[derive(Clone)]
pub struct Origin {
    pub environ: Option<Environ>,
    headers: HeaderMap,
}

/// Headers that follow a request into subrequests.
pub fn is_environ_header(name: &str) -> bool {
    matches!(name, "user-agent" | "host" | "origin" | "referer" | "access-control-request-method")
}

impl Origin {
    pub fn of(req: &Req) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in req.headers().iter().filter(|(n, _)| is_environ_header(n.as_str())) {
            headers.append(name.clone(), value.clone());
        }
        Self { environ: crate::env::environ(req).cloned(), headers }
    }

    /// With the client's tokens, for a layer before the authentication, which is to find out again who calls.
    #[must_use]
    pub fn with_token_of(mut self, req: &Req) -> Self {
        // All values: a token sent twice is to be refused there as here.
        for name in ["x-auth-token", "x-storage-token", "x-service-token"] {
            for token in req.headers().get_all(name) {
                self.headers.append(name, token.clone());
            }
        }
        self
    }

    /// With nobody asked whether the requests are allowed: the layer has decided that already.
    #[must_use]
    pub fn preauthorized(&self, source: &'static str) -> Self {
        Self { environ: self.environ.as_ref().map(|e| e.preauthorized(source)), headers: self.headers.clone() }
    }

    /// A request without body. `target` is an encoded path with or without query; `agent` is put behind the
    /// client's user agent. The caller is still asked for (unless [`Self::preauthorized`]).
    pub fn request(&self, method: Method, target: &str, source: &'static str, agent: &str) -> Req {
        self.request_with(method, target, source, agent, caelum_rest::empty())
    }

    pub fn request_with(&self, method: Method, target: &str, source: &'static str, agent: &str, body: Body) -> Req {
        let mut req = Request::new(body);
        *req.method_mut() = method;
        // A path that is no URI cannot come out of `quote`; the root is answered 404 or 412.
        *req.uri_mut() = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
        *req.headers_mut() = self.headers.clone();
        if !agent.is_empty() {
            let old = req.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            if let Ok(v) = HeaderValue::from_str(format!("{old} {agent}").trim()) {
                req.headers_mut().insert(header::USER_AGENT, v);
            }
        }
        if let Some(environ) = &self.environ {
            req.extensions_mut().insert(Environ { source, ..environ.clone() });
        }
        req
    }
}

/// The path of a request, when it is one of Swift's.
pub fn split_path(req: &Req) -> Option<SwiftPath> {
    SwiftPath::parse(req.uri().path())
}

/// The path and the names of container and object, for requests to an object.
pub fn split_object(req: &Req) -> Option<(SwiftPath, String, String)> {
    let path = split_path(req)?;
    let (container, object) = (path.container.clone()?, path.object.clone()?);
    Some((path, container, object))
}

/// Replaces a request's target. `false` when the text is no valid target (too long).
pub fn set_path_and_query(req: &mut Req, path: &str, query: &str) -> bool {
    let target = if query.is_empty() { path.to_string() } else { format!("{path}?{query}") };
    match target.parse::<Uri>() {
        Ok(uri) => {
            *req.uri_mut() = uri;
            true
        }
        Err(_) => false,
    }
}
