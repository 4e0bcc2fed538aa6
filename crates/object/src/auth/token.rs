//! Who calls, by a token of the identity service (keystonemiddleware's `auth_token`). What the caller may do is for the
//! layers behind.

use super::keystone::{Keystone, ServiceRoles};
use super::layer::only;
use super::tempauth::TempAuth;
use crate::env::{Caller, Req, Resp, environ};
use crate::http::error;
use caelum_base::ErrorKind;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, header};
use std::sync::Arc;

/// The options of `[filter:authtoken]` that concern requests.
#[derive(Clone, Debug)]
pub struct AuthTokenOptions {
    /// Requests without a valid token go on as nobody's; otherwise they are refused here.
    pub delay_auth_decision: bool,
    /// Where clients get tokens; said in answers 401.
    pub www_authenticate_uri: Option<String>,
    pub services: ServiceRoles,
}

impl Default for AuthTokenOptions {
    /// Everybody goes on: other layers know other ways to prove who calls.
    fn default() -> Self {
        Self { delay_auth_decision: true, www_authenticate_uri: None, services: ServiceRoles::default() }
    }
}

/// The layer.
#[derive(Clone)]
pub struct AuthToken {
    next: Arc<dyn HttpService>,
    keystone: Arc<Keystone>,
    /// Whose tokens are not the identity service's.
    tempauth: Option<Arc<TempAuth>>,
    options: Arc<AuthTokenOptions>,
}

impl AuthToken {
    pub fn new(next: Arc<dyn HttpService>, keystone: Arc<Keystone>, tempauth: Option<Arc<TempAuth>>, options: AuthTokenOptions) -> Self {
        Self { next, keystone, tempauth, options: Arc::new(options) }
    }

    // Takes parts of the request: a body cannot be shared between threads.
    async fn caller(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Option<Caller>, Resp> {
        let Some(token) = only(headers, "x-auth-token").or_else(|| only(headers, "x-storage-token")) else { return Ok(None) };
        if self.tempauth.as_ref().is_some_and(|t| t.is_token(token)) {
            return Ok(None);
        }
        let service = only(headers, "x-service-token");
        match self.keystone.caller(token, service, &self.options.services, method, path).await {
            Ok(caller) => Ok(caller),
            Err(e) if e.kind == ErrorKind::Forbidden => Err(error(403)),
            Err(e) => {
                tracing::error!(error = e.chain(), "tokens cannot be checked");
                Err(error(503))
            }
        }
    }

    async fn handle(self, mut req: Req) -> Resp {
        let Some(env) = environ(&req) else { return error(403) };
        // Made by another layer, which has been allowed to already.
        if env.authorizer.is_none() {
            return self.next.call(req).await;
        }
        let mut env = env.clone();
        let mut resp = None;
        if env.caller.is_none() {
            let (parts, body) = req.into_parts();
            let found = self.caller(&parts.method, parts.uri.path(), &parts.headers).await;
            req = Req::from_parts(parts, body);
            match found {
                Ok(None) if !self.options.delay_auth_decision => resp = Some(error(401)),
                Ok(caller) => {
                    env.caller = caller.map(Arc::new);
                    req.extensions_mut().insert(env);
                }
                Err(refusal) => resp = Some(refusal),
            }
        }
        let mut resp = match resp {
            Some(refusal) => refusal,
            None => self.next.call(req).await,
        };
        if resp.status() == 401
            && let Some(uri) = &self.options.www_authenticate_uri
            && let Ok(value) = HeaderValue::from_str(&format!("Keystone uri=\"{uri}\""))
        {
            resp.headers_mut().append(header::WWW_AUTHENTICATE, value);
        }
        resp
    }
}

impl HttpService for AuthToken {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}
