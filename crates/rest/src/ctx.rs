use crate::body::{self, Body};
use crate::dialect::Dialect;
use crate::{Auth, Op, QueryParams, Version};
use bytes::Bytes;
use caelum_base::{Env, Error, ErrorKind, Result};
use caelum_policy::{Enforcer, Target};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One request to one operation.
pub struct Ctx<S: 'static> {
    pub state: Arc<S>,
    /// Who calls. For a [`crate::Access::Public`] operation it is `None`; use [`Ctx::auth`] elsewhere.
    pub(crate) auth: Option<Arc<Auth>>,
    pub op: &'static Op<S>,
    pub version: Version,
    pub query: QueryParams,
    pub headers: HeaderMap,
    /// `req-<uuid>`, made here.
    pub request_id: String,
    /// The caller's `X-OpenStack-Request-ID` when it is well formed.
    pub global_request_id: Option<String>,
    /// URL of the service as the client reached it, without trailing slash: `http://host/compute`.
    pub base_url: String,
    /// Path of the request below `base_url`.
    pub path: String,
    /// The project id that the URL carried (`/v3/{project_id}/…`); checked against the token.
    pub url_project: Option<String>,
    pub env: Env,
    pub(crate) params: Vec<(&'static str, String)>,
    /// In a lock only so that `&Ctx` may be held across an await; a body alone is not `Sync`.
    pub(crate) body: Mutex<Option<Body>>,
    pub(crate) parsed: Option<Bytes>,
    pub(crate) enforcer: Arc<Enforcer>,
    pub(crate) dialect: Dialect,
    pub(crate) asked: Arc<AtomicBool>,
}

impl<S> Ctx<S> {
    /// Who calls.
    pub fn auth(&self) -> &Auth {
        self.auth.as_deref().expect("operations with a token have an Auth")
    }

    /// Who calls, if anyone said (public operations get no token checked).
    pub fn auth_arc(&self) -> Option<Arc<Auth>> {
        self.auth.clone()
    }

    /// A path parameter, percent-decoded.
    pub fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| v.as_str()).expect("the operation's path names this parameter")
    }

    /// Asks the operation's own rule about `target`. Errors: `Forbidden` in the dialect's words.
    pub fn authorize(&self, target: &Target<'_>) -> Result<()> {
        self.asked.store(true, Ordering::Relaxed);
        let crate::Access::Rule(rule) = self.op.access else { return Ok(()) };
        self.require(rule.name, target)
    }

    /// [`Ctx::authorize`] for something a project owns.
    pub fn authorize_project(&self, project_id: &str) -> Result<()> {
        self.authorize(&Target::project(project_id))
    }

    /// [`Ctx::authorize`] for a collection or a creation in the caller's own project.
    pub fn authorize_own(&self) -> Result<()> {
        let creds = &self.auth().creds;
        self.authorize(&Target::new().with_opt("project_id", creds.project_id.as_deref()).with("user_id", creds.user_id.as_str()))
    }

    /// [`Ctx::authorize`] for a found resource of `project_id`: `not_found` when the caller may not
    /// know of it (another project's, caller no admin), `Forbidden` when it may see but not do.
    pub fn authorize_found(&self, project_id: &str, not_found: impl FnOnce() -> Error) -> Result<()> {
        let creds = &self.auth().creds;
        let own = creds.project_id.as_deref() == Some(project_id);
        let verdict = self.authorize_project(project_id);
        if verdict.is_err() && !own && !creds.has_role("admin") {
            return Err(not_found());
        }
        verdict
    }

    /// Whether another rule admits the caller (attribute rules, `get_all_tenants`).
    pub fn allows(&self, rule: &str, target: &Target<'_>) -> bool {
        self.enforcer.allows(rule, &self.auth().creds, target)
    }

    /// Another rule as a condition. Errors: `Forbidden` in the dialect's words.
    pub fn require(&self, rule: &str, target: &Target<'_>) -> Result<()> {
        self.enforcer
            .check(rule, &self.auth().creds, target)
            .map_err(|d| Error::forbidden(self.dialect.denied(&d.rule)).code("PolicyNotAuthorized"))
    }

    /// For operations whose answer is right for every caller because it is filtered per row: says
    /// that authorization was considered.
    pub fn filtered(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// The body as a stream; once.
    pub fn take_body(&mut self) -> Body {
        self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(body::empty)
    }

    /// The whole body, at most the operation's limit.
    pub async fn bytes(&mut self) -> Result<Bytes> {
        if let Some(b) = &self.parsed {
            return Ok(b.clone());
        }
        let bytes = body::read_limited(self.take_body(), self.op.max_body).await?;
        self.parsed = Some(bytes.clone());
        Ok(bytes)
    }

    /// The body as JSON. Errors: `Invalid` with what is wrong, `Status(415)` for another media type.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let media = self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
        if !media.to_ascii_lowercase().contains("json") {
            return Err(Error::new(ErrorKind::Status(415), format!("Unsupported Content-Type {media}")));
        }
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(Error::invalid("The request body is empty; JSON was expected."));
        }
        serde_json::from_slice(&bytes).map_err(|e| Error::invalid(format!("Malformed request body: {e}")))
    }
}
