use super::keystone::{DOMAIN_SYSMETA, Keystone};
use super::tempauth::TempAuth;
use super::{Request, check_account_acl, denied};
use crate::env::{AuthorizeOverride, Authorizer, Caller, Environ, Req, Resp, SwiftPath, environ};
use crate::http::{error, respond, set, text, unauthorized};
use crate::proxy::InfoSource;
use async_trait::async_trait;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What authentication needs to know.
pub struct AuthDeps {
    pub info: Arc<dyn InfoSource>,
    pub keystone: Option<Arc<Keystone>>,
    pub tempauth: Option<Arc<TempAuth>>,
    /// Layers before this one cannot settle who may do what (`allow_overrides = no`).
    pub ignore_overrides: bool,
}

/// The layer. After it, the environ says who calls and can be asked what they may do.
pub struct Auth {
    next: Arc<dyn HttpService>,
    deps: Arc<AuthDeps>,
}

impl Auth {
    pub fn new(next: Arc<dyn HttpService>, deps: AuthDeps) -> Self {
        Self { next, deps: Arc::new(deps) }
    }
}

/// The rules for one request and what of it they look at.
struct Rules {
    deps: Arc<AuthDeps>,
    referer: Option<String>,
    sync_key: Option<String>,
}

impl Rules {
    fn of(deps: &Arc<AuthDeps>, headers: &HeaderMap) -> Self {
        let stamped = headers.contains_key("x-timestamp") || headers.contains_key("x-backend-inbound-x-timestamp");
        Self {
            deps: deps.clone(),
            referer: text(headers, "referer").map(str::to_string),
            sync_key: text(headers, "x-container-sync-key").filter(|_| stamped).map(str::to_string),
        }
    }
}

/// Whether the caller came with a token of tempauth's.
fn is_temp(caller: &Caller) -> bool {
    !caller.groups.is_empty()
}

impl AuthDeps {
    async fn admits(&self, r: &Request<'_>, environ: &Environ, acl: Option<&str>) -> bool {
        let asked = environ.preauthorized("TA");
        match (environ.caller.as_deref(), &self.keystone, &self.tempauth) {
            (Some(c), _, Some(t)) if is_temp(c) => t.admits(r, Some(c), acl, &*self.info, &asked).await,
            (Some(c), Some(k), _) if !is_temp(c) => k.admits(r, c, acl, &*self.info, &asked).await,
            (Some(_), _, _) => false,
            (None, Some(k), _) => k.options.resellers.of(&r.path.account).is_some() && open_to_all(r, acl),
            (None, None, Some(t)) => t.admits(r, None, acl, &*self.info, &asked).await,
            (None, None, None) => false,
        }
    }

    async fn owns(&self, r: &Request<'_>, caller: &Caller, environ: &Environ) -> bool {
        let asked = environ.preauthorized("TA");
        match (&self.keystone, &self.tempauth) {
            (_, Some(t)) if is_temp(caller) => t.owns(r, caller, &*self.info, &asked).await,
            (Some(k), _) if !is_temp(caller) => k.owns(&r.path.account, caller),
            _ => false,
        }
    }
}

/// What everybody may do: the container's list says so.
fn open_to_all(r: &Request<'_>, acl: Option<&str>) -> bool {
    let acl = super::Acl::parse(acl);
    acl.admits_referrer(r.referer) && (r.path.object.is_some() || acl.has_group(".rlistings"))
}

#[async_trait]
impl Authorizer for Rules {
    async fn authorize(&self, method: &Method, path: &str, environ: &Environ, acl: Option<&str>) -> Option<Resp> {
        let swift = SwiftPath::parse(path);
        if *method == Method::OPTIONS {
            // As upstream: tempauth speaks for its own accounts only, and nobody may do anything with others.
            let tempauth = self.deps.tempauth.as_ref().filter(|_| self.deps.keystone.is_none());
            let foreign = swift.as_ref().is_some_and(|s| tempauth.is_some_and(|t| !t.speaks_for(&s.account)));
            return foreign.then(|| denied(path, environ.caller.is_some()));
        }
        let Some(swift) = swift else { return Some(error(404)) };
        let r = Request { method, path: swift, referer: self.referer.as_deref() };
        if self.deps.admits(&r, environ, acl).await {
            return None;
        }
        Some(denied(path, environ.caller.is_some()))
    }

    fn has_sync_key(&self, key: &str) -> bool {
        let sent = self.sync_key.as_deref().unwrap_or_default();
        !key.is_empty() && bool::from(sent.as_bytes().ct_eq(key.as_bytes()))
    }
}

/// The only value of a header; a header sent twice counts as a wrong one.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return Some("");
    }
    Some(first.to_str().unwrap_or(""))
}

impl AuthDeps {
    /// The caller behind a token of tempauth's; an answer for a token that could only be one, and is not valid. The
    /// identity service's tokens have been looked at before ([`super::AuthToken`]).
    // Takes parts of the request: a body cannot be shared between threads.
    async fn caller(&self, path: &str, headers: &HeaderMap) -> Result<Option<Caller>, Resp> {
        let Some(token) = only(headers, "x-auth-token").or_else(|| only(headers, "x-storage-token")) else { return Ok(None) };
        let Some(t) = self.tempauth.as_ref().filter(|t| t.is_token(token)) else { return Ok(None) };
        t.caller(token, only(headers, "x-service-token")).await.map(Some).ok_or_else(|| unauthorized(path))
    }

    /// Headers that the rules add to a request: what is to be kept with the account.
    async fn annotate(&self, r: &Request<'_>, headers: &mut HeaderMap, caller: &Caller, environ: &Environ) -> Result<(), Resp> {
        if self.tempauth.as_ref().is_some_and(|t| is_temp(caller) && t.speaks_for(&r.path.account)) {
            let Some(list) = text(headers, "x-account-access-control").map(str::to_string) else { return Ok(()) };
            if let Err(e) = check_account_acl(&list) {
                let body = format!("X-Account-Access-Control invalid: {e}\n\nInput: {list}\n");
                return Err(respond(400, "text/plain; charset=UTF-8", body));
            }
            headers.remove("x-account-access-control");
            set(headers, "x-account-sysmeta-core-access-control", list);
        } else if let Some(k) = self.keystone.as_ref().filter(|_| !is_temp(caller)) {
            let domain = k.domain_to_note(r, caller, &*self.info, &environ.preauthorized("KS")).await;
            if let Some(domain) = domain.filter(|_| !headers.contains_key(DOMAIN_SYSMETA)) {
                set(headers, DOMAIN_SYSMETA, domain);
            }
        }
        Ok(())
    }
}

async fn serve(next: Arc<dyn HttpService>, deps: Arc<AuthDeps>, req: Req) -> Resp {
    let Some(mut env) = environ(&req).cloned() else { return error(403) };
    let overridden = !deps.ignore_overrides && req.extensions().get::<AuthorizeOverride>().is_some();
    if env.authorizer.is_none() || overridden {
        return next.call(req).await;
    }
    let (mut parts, body) = req.into_parts();
    if let Some(t) = deps.tempauth.as_ref().filter(|t| t.is_auth_path(parts.uri.path())) {
        return t.answer(&parts).await;
    }
    if env.caller.is_none() {
        match deps.caller(parts.uri.path(), &parts.headers).await {
            Ok(caller) => env.caller = caller.map(Arc::new),
            Err(refusal) => return refusal,
        }
    }
    env.is_owner = false;
    if let (Some(caller), Some(path)) = (env.caller.clone(), SwiftPath::parse(parts.uri.path())) {
        let r = Request { method: &parts.method, path, referer: None };
        env.is_owner = deps.owns(&r, &caller, &env).await;
        if let Err(refusal) = deps.annotate(&r, &mut parts.headers, &caller, &env).await {
            return refusal;
        }
    }
    let mut req = Req::from_parts(parts, body);
    env.authorizer = Some(Arc::new(Rules::of(&deps, req.headers())));
    // Tokens have done their work; nothing behind this layer needs them.
    for name in ["x-auth-token", "x-storage-token", "x-service-token"] {
        req.headers_mut().remove(name);
    }
    req.extensions_mut().insert(env);
    let mut resp = next.call(req).await;
    let domain = text(resp.headers(), DOMAIN_SYSMETA).filter(|d| !d.is_empty()).map(str::to_string);
    if let Some(domain) = domain {
        set(resp.headers_mut(), "x-account-project-domain-id", domain);
    }
    resp
}

impl HttpService for Auth {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(serve(self.next.clone(), self.deps.clone(), req))
    }
}
