//! From operation records to an HTTP service.

use crate::auth::TokenValidator;
use crate::body::{self, Body};
use crate::dialect::Dialect;
use crate::{Access, Auth, BaseUrl, Ctx, HttpService, Microversions, Op, QueryParams, Reply, Version};
use bytes::Bytes;
use caelum_base::{Env, Error, Result, is_hex_id, is_uuid};
use caelum_policy::{Enforcer, RuleDefault};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What is known of an operation without its service: for tables, documents and generated tests.
#[derive(Clone, Debug)]
pub struct OpInfo {
    pub service: &'static str,
    pub name: &'static str,
    pub method: Method,
    /// Full path below the service, `/v2.1/servers/{id}`.
    pub path: String,
    pub action: Option<&'static str>,
    pub access: Access,
    pub since: Version,
    pub until: Version,
}

struct Entry<S: 'static> {
    op: &'static Op<S>,
    /// Parameter names of the path, in order.
    params: Vec<&'static str>,
}

struct Shared<S: 'static> {
    service: &'static str,
    state: Arc<S>,
    dialect: Dialect,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    enforcer: Arc<Enforcer>,
    versions: Option<Microversions>,
    request_id_header: Option<&'static str>,
    project_prefix: Option<&'static str>,
    strict_slash: bool,
    auth_url: String,
    /// Path pattern → indexes into `entries`.
    router: matchit::Router<Vec<usize>>,
    entries: Vec<Entry<S>>,
    info: Vec<OpInfo>,
}

/// A service's API: routing, authentication, authorization, versions, errors.
pub struct Api<S: 'static>(Arc<Shared<S>>);

impl<S> Clone for Api<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Collects what an [`Api`] is made of.
pub struct ApiBuilder<S: 'static> {
    service: &'static str,
    dialect: Dialect,
    versions: Option<Microversions>,
    request_id_header: Option<&'static str>,
    project_prefix: Option<&'static str>,
    strict_slash: bool,
    auth_url: String,
    mounts: Vec<(&'static str, &'static [Op<S>])>,
    rules: Vec<RuleDefault>,
    overrides: BTreeMap<String, String>,
}

impl<S: Send + Sync + 'static> Api<S> {
    /// Starts an API. `service` is the service type (`compute`).
    pub fn builder(service: &'static str, dialect: Dialect) -> ApiBuilder<S> {
        ApiBuilder {
            service,
            dialect,
            versions: None,
            request_id_header: None,
            project_prefix: None,
            strict_slash: false,
            auth_url: String::new(),
            mounts: Vec::new(),
            rules: Vec::new(),
            overrides: BTreeMap::new(),
        }
    }

    pub fn operations(&self) -> &[OpInfo] {
        &self.0.info
    }

    pub fn state(&self) -> &Arc<S> {
        &self.0.state
    }

    pub fn enforcer(&self) -> &Arc<Enforcer> {
        &self.0.enforcer
    }
}

impl<S: Send + Sync + 'static> ApiBuilder<S> {
    #[must_use]
    pub fn versions(mut self, v: Microversions) -> Self {
        self.versions = Some(v);
        self
    }

    /// A second header that carries the request id (`x-compute-request-id`).
    #[must_use]
    pub fn request_id_header(mut self, name: &'static str) -> Self {
        self.request_id_header = Some(name);
        self
    }

    /// Below `mount` a first path segment that looks like a project id is taken away
    /// (`/v3/{project_id}/volumes`); it must be the caller's project unless the caller is admin.
    #[must_use]
    pub fn project_prefix(mut self, mount: &'static str) -> Self {
        self.project_prefix = Some(mount);
        self
    }

    /// `/v2/images/` is no other spelling of `/v2/images` but a resource with an empty id, which is
    /// not found. A version's own root may still end in a slash.
    #[must_use]
    pub fn strict_slash(mut self) -> Self {
        self.strict_slash = true;
        self
    }

    /// The identity URL named in `WWW-Authenticate`.
    #[must_use]
    pub fn auth_url(mut self, url: impl Into<String>) -> Self {
        self.auth_url = url.into();
        self
    }

    /// Adds operations below `prefix` (`/v2.1`, or empty for the root).
    #[must_use]
    pub fn mount(mut self, prefix: &'static str, ops: &'static [Op<S>]) -> Self {
        self.mounts.push((prefix, ops));
        self
    }

    /// Rules that no operation carries: helpers and attribute rules.
    #[must_use]
    pub fn rules(mut self, rules: &[RuleDefault]) -> Self {
        self.rules.extend_from_slice(rules);
        self
    }

    /// The operator's overrides (`policy.yaml`).
    #[must_use]
    pub fn overrides(mut self, overrides: BTreeMap<String, String>) -> Self {
        self.overrides = overrides;
        self
    }

    /// Errors: `Invalid` for a policy override that does not parse; two operations that cannot be told apart.
    pub fn build(self, state: Arc<S>, env: Env, validator: Arc<dyn TokenValidator>) -> Result<Api<S>> {
        let mut rules: BTreeMap<&'static str, RuleDefault> = self.rules.iter().map(|r| (r.name, *r)).collect();
        let mut patterns: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let (mut entries, mut info) = (Vec::new(), Vec::new());
        for (prefix, ops) in &self.mounts {
            for op in *ops {
                if let Access::Rule(r) = op.access {
                    rules.entry(r.name).or_insert(r);
                }
                let path = format!("{prefix}{}", op.path);
                let (pattern, params) = normalise(&path, op.path);
                patterns.entry(pattern).or_default().push(entries.len());
                entries.push(Entry { op, params });
                info.push(OpInfo {
                    service: self.service,
                    name: op.name,
                    method: op.method.clone(),
                    path,
                    action: op.action,
                    access: op.access,
                    since: op.since,
                    until: op.until,
                });
            }
        }
        let mut router = matchit::Router::new();
        for (pattern, indexes) in patterns {
            router.insert(pattern.clone(), indexes).map_err(|e| Error::internal(format!("{}: {pattern}: {e}", self.service)))?;
        }
        let enforcer = Arc::new(Enforcer::new(rules.into_values(), &self.overrides)?);
        Ok(Api(Arc::new(Shared {
            service: self.service,
            state,
            dialect: self.dialect,
            env,
            validator,
            enforcer,
            versions: self.versions,
            request_id_header: self.request_id_header,
            project_prefix: self.project_prefix,
            strict_slash: self.strict_slash,
            auth_url: self.auth_url,
            router,
            entries,
            info,
        })))
    }
}

/// `/servers/{server_id}/tags/{tag}` → `/servers/{p0}/tags/{p1}` and the names: the router wants
/// equal names at equal places.
fn normalise(path: &str, declared: &'static str) -> (String, Vec<&'static str>) {
    let mut names = Vec::new();
    let mut rest = declared;
    while let Some(open) = rest.find('{') {
        let Some(len) = rest[open..].find('}') else { break };
        names.push(rest[open + 1..open + len].trim_start_matches('*'));
        rest = &rest[open + len + 1..];
    }
    let mut pattern = path.to_string();
    for (i, n) in names.iter().enumerate() {
        pattern = pattern.replacen(&format!("{{{n}}}"), &format!("{{p{i}}}"), 1).replacen(&format!("{{*{n}}}"), &format!("{{*p{i}}}"), 1);
    }
    (pattern, names)
}

/// Facts of a request that outlive its handling.
struct Meta {
    request_id: String,
    version: Option<Version>,
}

impl<S: Send + Sync + 'static> HttpService for Api<S> {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let shared = self.0.clone();
        Box::pin(async move { shared.serve(req).await })
    }
}

impl<S: Send + Sync + 'static> Shared<S> {
    async fn serve(self: Arc<Self>, req: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let mut meta = Meta { request_id: self.env.request_id(), version: None };
        let method = req.method().clone();
        let path = req.uri().path().to_string();
        let headers = req.headers().clone();
        let mut op_name = "-";
        let result = self.handle(req, &mut meta, &mut op_name).await;
        let mut response = match result {
            Ok(reply) => reply.into_response(),
            Err(e) => self.error(&e, &meta, &headers, &method, &path),
        };
        self.decorate(&mut response, &meta);
        if method == Method::HEAD {
            *response.body_mut() = body::empty();
        }
        let ms = started.elapsed().as_millis();
        tracing::debug!(service = self.service, op = op_name, %method, path, status = response.status().as_u16(), ms, request_id = meta.request_id, "request");
        response
    }

    fn error(&self, e: &Error, meta: &Meta, headers: &HeaderMap, method: &Method, path: &str) -> Response<Body> {
        let status = self.dialect.status(e);
        if status.is_server_error() {
            tracing::error!(service = self.service, %method, path, status = status.as_u16(), request_id = meta.request_id, error = e.chain(), "request failed");
        }
        let mut r = self.dialect.render(e, &meta.request_id, headers);
        if status == StatusCode::UNAUTHORIZED
            && let Ok(v) = HeaderValue::from_str(&format!("Keystone uri=\"{}\"", self.auth_url))
        {
            r.headers_mut().insert(header::WWW_AUTHENTICATE, v);
        }
        r
    }

    fn decorate(&self, r: &mut Response<Body>, meta: &Meta) {
        let h = r.headers_mut();
        if let Ok(v) = HeaderValue::from_str(&meta.request_id) {
            if let Some(name) = self.request_id_header {
                h.insert(name, v.clone());
            }
            h.insert("x-openstack-request-id", v);
        }
        if let Some(mv) = &self.versions {
            let v = meta.version.unwrap_or(mv.min);
            if let Ok(value) = HeaderValue::from_str(&format!("{} {v}", mv.service_type)) {
                h.insert("openstack-api-version", value);
            }
            h.append(header::VARY, HeaderValue::from_static("OpenStack-API-Version"));
            if let (Some(legacy), Ok(value)) = (mv.legacy_header, HeaderValue::from_str(&v.to_string())) {
                h.insert(legacy, value);
                h.append(header::VARY, HeaderValue::from_static(legacy));
            }
        }
    }

    async fn handle(self: &Arc<Self>, req: Request<Body>, meta: &mut Meta, op_name: &mut &'static str) -> Result<Reply> {
        let (parts, stream) = req.into_parts();
        let base_url = parts.extensions.get::<BaseUrl>().map(|b| b.0.clone()).unwrap_or_default();
        let (path, url_project) = self.strip_project(parts.uri.path());
        let Some(matched) = self.router.at(&path).ok().filter(|_| !self.ends_in_empty_id(parts.uri.path())) else {
            // Upstream authenticates before it routes: a caller without a token learns no paths.
            self.authenticate(&parts.headers).await?;
            return Err(Error::not_found("The resource could not be found."));
        };
        let candidates: Vec<&Entry<S>> = matched.value.iter().filter_map(|i| self.entries.get(*i)).collect();
        let here: Vec<&&Entry<S>> = candidates.iter().filter(|e| method_matches(&e.op.method, &parts.method)).collect();
        let public = here.iter().any(|e| matches!(e.op.access, Access::Public));
        let auth = if public { None } else { Some(self.authenticate(&parts.headers).await?) };
        if let Some(auth) = &auth {
            crate::access_rules::check(auth, self.service, &parts.method, [parts.uri.path(), &path])?;
        }
        if here.is_empty() {
            return Err(Error::status(405, "The method is not allowed for this resource."));
        }
        let version = self.versions.as_ref().map_or(Ok(Version(0, 0)), |mv| mv.negotiate(&parts.headers))?;
        meta.version = Some(version).filter(|_| self.versions.is_some());
        let mut body = Some(stream);
        let mut parsed = None;
        if here.iter().any(|e| e.op.action.is_some()) {
            let limit = here.iter().map(|e| e.op.max_body).max().unwrap_or(0);
            parsed = Some(body::read_limited(body.take().unwrap_or_else(body::empty), limit).await?);
        }
        let entry = select(&here, version, parsed.as_ref())?;
        *op_name = entry.op.name;
        if let (Some(auth), Some(project)) = (&auth, &url_project)
            && auth.creds.project_id.as_deref() != Some(project)
            && !auth.is_admin()
        {
            let own = auth.creds.project_id.as_deref().unwrap_or("None");
            return Err(Error::invalid(format!(
                "Malformed request URL: URL's project_id '{project}' doesn't match Context's project_id '{own}'"
            )));
        }
        let mut params = Vec::with_capacity(entry.params.len());
        for (name, (_, raw)) in entry.params.iter().zip(matched.params.iter()) {
            let value = percent_decode_str(raw).decode_utf8().map_err(|_| Error::not_found("The resource could not be found."))?;
            params.push((*name, value.into_owned()));
        }
        let asked = Arc::new(AtomicBool::new(false));
        let cx = Ctx {
            state: self.state.clone(),
            auth,
            op: entry.op,
            version,
            query: QueryParams::parse(parts.uri.query())?,
            global_request_id: global_request_id(&parts.headers),
            headers: parts.headers,
            request_id: meta.request_id.clone(),
            base_url,
            path,
            url_project,
            env: self.env.clone(),
            params,
            body: std::sync::Mutex::new(body),
            parsed,
            enforcer: self.enforcer.clone(),
            dialect: self.dialect,
            asked: asked.clone(),
        };
        let reply = (entry.op.handler)(cx).await?;
        if matches!(entry.op.access, Access::Rule(_)) && !asked.load(Ordering::Relaxed) {
            return Err(Error::internal(format!("operation {} answered without asking its policy rule", entry.op.name)));
        }
        Ok(reply)
    }

    /// `/v2/images/` where slashes are strict; `/v2/` is a version's root.
    fn ends_in_empty_id(&self, path: &str) -> bool {
        self.strict_slash && path.ends_with('/') && path.matches('/').count() > 2
    }

    /// Takes a project id out of `/v3/{project_id}/…`.
    fn strip_project(&self, path: &str) -> (String, Option<String>) {
        let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let path = if trimmed.is_empty() { "/" } else { trimmed };
        let Some(mount) = self.project_prefix else { return (path.to_string(), None) };
        let Some(rest) = path.strip_prefix(mount).and_then(|r| r.strip_prefix('/')) else { return (path.to_string(), None) };
        let (first, tail) = rest.split_once('/').map_or((rest, None), |(f, t)| (f, Some(t)));
        if !is_uuid(first) && !is_hex_id(first) {
            return (path.to_string(), None);
        }
        let path = tail.map_or_else(|| mount.to_string(), |t| format!("{mount}/{t}"));
        (path, Some(first.to_string()))
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Auth>> {
        let denied = || Error::unauthenticated("The request you have made requires authentication.");
        let mut tokens = headers.get_all("x-auth-token").iter();
        let token = tokens.next().and_then(|v| v.to_str().ok()).filter(|t| !t.is_empty()).ok_or_else(denied)?;
        if tokens.next().is_some() {
            return Err(denied());
        }
        let auth = self.validator.validate(token).await?;
        let Some(service) = headers.get("x-service-token").and_then(|v| v.to_str().ok()) else { return Ok(auth) };
        // A bad service token is no reason to refuse the user; it just adds nothing.
        let Ok(service) = self.validator.validate(service).await else { return Ok(auth) };
        let mut both = (*auth).clone();
        both.creds.service_roles = service.creds.roles.clone();
        Ok(Arc::new(both))
    }
}

fn method_matches(declared: &Method, asked: &Method) -> bool {
    declared == asked || (*asked == Method::HEAD && *declared == Method::GET)
}

/// Picks among operations of one path and method by version and action key.
fn select<'a, S>(here: &[&&'a Entry<S>], version: Version, parsed: Option<&Bytes>) -> Result<&'a Entry<S>> {
    let action = match parsed {
        None => None,
        Some(bytes) => Some(action_key(bytes)?),
    };
    let known = here.iter().filter(|e| e.op.action == action.as_deref());
    let found = known.clone().find(|e| e.op.since <= version && version <= e.op.until);
    match (found, &action) {
        (Some(e), _) => Ok(e),
        (None, Some(a)) if known.clone().next().is_none() => Err(Error::invalid(format!("There is no such action: {a}"))),
        (None, _) => Err(Error::not_found("The resource could not be found.")),
    }
}

fn action_key(bytes: &[u8]) -> Result<String> {
    let value: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("Malformed request body: {e}")))?;
    let mut keys = value.into_keys();
    match (keys.next(), keys.next()) {
        (Some(k), None) => Ok(k),
        _ => Err(Error::invalid("The request body must have exactly one key, the action.")),
    }
}

/// `req-` and a UUID; anything else a client sends is dropped, not logged.
fn global_request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-openstack-request-id")?.to_str().ok()?;
    let id = text.strip_prefix("req-")?;
    (id.len() == 36 && is_uuid(id)).then(|| text.to_string())
}
