//! Checks tokens with an identity service over HTTP (`[filter:authtoken]`). Source: keystonemiddleware's documentation
//! of `auth_token`, the Identity API v3.

use super::Section;
use async_trait::async_trait;
use caelum_base::{Env, Error, Result, Secret, Timestamp};
use caelum_client::{HttpTransport, Transport};
use caelum_policy::Credentials;
use caelum_rest::{Auth, Body, Named, TokenValidator, empty, full, read_limited};
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Largest answer about a token in bytes; catalogs are left out.
const MAX_ANSWER: usize = 1 << 20;
/// Tokens that are remembered at the same time.
const MAX_CACHED: usize = 10_000;
/// How long the identity service may take over an answer, unless `http_connect_timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What was found out about tokens a short while ago, oldest first. Tokens themselves are not kept as keys.
#[derive(Default)]
struct Known {
    by_hash: HashMap<[u8; 32], (Arc<Auth>, Timestamp)>,
    order: VecDeque<[u8; 32]>,
}

impl Known {
    fn get(&self, key: &[u8; 32], now: Timestamp) -> Option<Arc<Auth>> {
        let (auth, until) = self.by_hash.get(key)?;
        (now < *until && now < auth.expires_at).then(|| auth.clone())
    }

    fn put(&mut self, key: [u8; 32], auth: Arc<Auth>, until: Timestamp) {
        if self.by_hash.insert(key, (auth, until)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MAX_CACHED {
            if let Some(oldest) = self.order.pop_front() {
                self.by_hash.remove(&oldest);
            }
        }
    }
}

/// The identity service, asked in the name of the proxy's own user.
pub struct RemoteTokens {
    identity: Arc<dyn Transport>,
    /// The request that gets a token for that user.
    login: Secret<String>,
    own: tokio::sync::Mutex<Option<Secret<String>>>,
    known: Mutex<Known>,
    /// Zero: every request asks.
    keep: Duration,
    timeout: Duration,
    env: Env,
}

/// `id` or `name` of something, with its domain where names need one.
fn reference(s: &Section, id: &str, name: &str, domain: &str) -> Option<Value> {
    if let Some(id) = s.given(id) {
        return Some(json!({"id": id}));
    }
    let name = s.given(name)?;
    let domain_name = s.given(&format!("{domain}_name")).map(|n| json!({"name": n}));
    let domain = s.given(&format!("{domain}_id")).map(|i| json!({"id": i})).or(domain_name);
    Some(json!({"name": name, "domain": domain.unwrap_or_else(|| json!({"id": "default"}))}))
}

/// Where the identity service is, without its version.
fn base_url(s: &Section) -> Result<String> {
    let named = ["auth_url", "identity_uri", "www_authenticate_uri", "auth_uri"].into_iter().find_map(|key| Some((key, s.given(key)?)));
    let (key, url) = named.ok_or_else(|| s.about(Error::invalid("auth_url is missing")))?;
    if !url.starts_with("http://") {
        return Err(s.bad(key, "only http:// addresses can be asked; a local proxy can speak TLS for this program"));
    }
    let url = url.trim_end_matches('/');
    Ok(url.strip_suffix("/v3").or_else(|| url.strip_suffix("/v2.0")).unwrap_or(url).to_string())
}

impl RemoteTokens {
    /// Errors: `Invalid` for options that are missing or of no use.
    pub fn new(s: &Section, env: Env) -> Result<Self> {
        let kind = s.given("auth_type").or_else(|| s.given("auth_plugin")).unwrap_or("password");
        if !matches!(kind, "password" | "v3password") {
            return Err(s.bad("auth_type", "only password is known"));
        }
        let missing = |what: &str| s.about(Error::invalid(format!("{what} is missing")));
        let mut user = reference(s, "user_id", "username", "user_domain").ok_or_else(|| missing("username"))?;
        user["password"] = s.given("password").ok_or_else(|| missing("password"))?.into();
        let project = reference(s, "project_id", "project_name", "project_domain")
            .or_else(|| reference(s, "tenant_id", "tenant_name", "project_domain"))
            .unwrap_or_else(|| json!({"name": "service", "domain": {"id": "default"}}));
        let login = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": project}}});
        let keep: i64 = s.number("token_cache_time", 300)?;
        Ok(Self {
            identity: Arc::new(HttpTransport::new(base_url(s)?)),
            login: Secret::new(login.to_string()),
            own: tokio::sync::Mutex::new(None),
            known: Mutex::default(),
            keep: Duration::from_secs(u64::try_from(keep).unwrap_or(0)),
            timeout: s.seconds("http_connect_timeout", TIMEOUT)?,
            env,
        })
    }

    async fn send(&self, req: Request<Body>) -> Result<Response<Body>> {
        let late = |_| Error::unavailable("The identity service does not answer in time.");
        tokio::time::timeout(self.timeout, self.identity.send(req)).await.map_err(late)?
    }

    async fn own_token(&self) -> Result<Secret<String>> {
        let mut own = self.own.lock().await;
        if let Some(token) = &*own {
            return Ok(token.clone());
        }
        let req = Request::post("/v3/auth/tokens?nocatalog").header("content-type", "application/json");
        let req = req.body(full(self.login.expose().clone())).map_err(|e| Error::internal(e.to_string()))?;
        let (parts, body) = self.send(req).await?.into_parts();
        // Draining lets the connection be used again.
        let _ = read_limited(body, MAX_ANSWER).await;
        let token = parts.headers.get("x-subject-token").filter(|_| parts.status.is_success()).and_then(|v| v.to_str().ok());
        let refused = || Error::unavailable(format!("The identity service answered {} to the proxy's own password.", parts.status));
        let token = Secret::new(token.ok_or_else(refused)?.to_string());
        *own = Some(token.clone());
        Ok(token)
    }

    async fn forget_own(&self, token: &Secret<String>) {
        let mut own = self.own.lock().await;
        if own.as_ref().is_some_and(|o| o.expose() == token.expose()) {
            *own = None;
        }
    }

    async fn ask(&self, token: &str, allow_expired: bool) -> Result<Option<Value>> {
        for attempt in 0..2 {
            let own = self.own_token().await?;
            let path = if allow_expired { "/v3/auth/tokens?nocatalog&allow_expired=1" } else { "/v3/auth/tokens?nocatalog" };
            let mut req = Request::get(path).body(empty()).map_err(|e| Error::internal(e.to_string()))?;
            req.headers_mut().insert("x-subject-token", HeaderValue::from_str(token).map_err(|_| denied())?);
            let own_value =
                HeaderValue::from_str(own.expose()).map_err(|_| Error::unavailable("The identity service's token is no header."))?;
            req.headers_mut().insert("x-auth-token", own_value);
            let (parts, body) = self.send(req).await?.into_parts();
            let body = read_limited(body, MAX_ANSWER).await;
            match parts.status {
                StatusCode::OK => {
                    return serde_json::from_slice(&body?).map(Some).map_err(|e| Error::unavailable("identity service").caused_by(e));
                }
                StatusCode::NOT_FOUND => return Ok(None),
                // Our own token has ended.
                StatusCode::UNAUTHORIZED if attempt == 0 => self.forget_own(&own).await,
                other => return Err(Error::unavailable(format!("The identity service answered {other}."))),
            }
        }
        Err(Error::unavailable("The identity service takes no token of ours."))
    }
}

fn denied() -> Error {
    Error::unauthenticated("The request you have made requires authentication.")
}

fn named(v: &Value) -> Option<Named> {
    Some(Named { id: v.get("id")?.as_str()?.to_string(), name: v.get("name").and_then(Value::as_str).unwrap_or_default().to_string() })
}

/// The facts in an answer about a token.
fn auth(token: &str, body: &Value) -> Option<Auth> {
    let t = body.get("token")?;
    let user = named(t.get("user")?)?;
    let user_domain = t.pointer("/user/domain").and_then(named).unwrap_or_default();
    let project = t.get("project").and_then(named);
    let project_domain = t.pointer("/project/domain").and_then(named);
    let domain = t.get("domain").and_then(named);
    let roles: Vec<Named> = t.get("roles").and_then(Value::as_array).into_iter().flatten().filter_map(named).collect();
    let texts =
        |key: &str| t.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect();
    let time = |key: &str| t.get(key).and_then(Value::as_str).and_then(Timestamp::parse);
    let mut extra = Map::new();
    if let Some(rules) = t.pointer("/application_credential/access_rules") {
        extra.insert("access_rules".into(), rules.clone());
    }
    let creds = Credentials {
        user_id: user.id.clone(),
        user_domain_id: Some(user_domain.id.clone()),
        project_id: project.as_ref().map(|p| p.id.clone()),
        project_domain_id: project_domain.as_ref().map(|d| d.id.clone()),
        domain_id: domain.as_ref().map(|d| d.id.clone()),
        system_scope: t.get("system").map(|_| "all".to_string()),
        roles: roles.iter().map(|r| r.name.clone()).collect(),
        is_admin_project: true,
        extra,
        ..Credentials::default()
    };
    Some(Auth {
        creds,
        user,
        user_domain,
        project,
        project_domain,
        domain,
        expires_at: time("expires_at")?,
        issued_at: time("issued_at").unwrap_or_default(),
        token: Secret::new(token.to_string()),
        methods: texts("methods"),
        roles,
        audit_ids: texts("audit_ids"),
        application_credential_id: t.pointer("/application_credential/id").and_then(Value::as_str).map(str::to_string),
        trust_id: t.pointer("/OS-TRUST:trust/id").and_then(Value::as_str).map(str::to_string),
    })
}

#[async_trait]
impl TokenValidator for RemoteTokens {
    async fn validate(&self, token: &str) -> Result<Arc<Auth>> {
        if token.is_empty() {
            return Err(denied());
        }
        let (key, now) = (<[u8; 32]>::from(Sha256::digest(token.as_bytes())), self.env.now());
        if let Some(auth) = self.known.lock().expect("no holder of this lock panics").get(&key, now) {
            return Ok(auth);
        }
        let body = self.ask(token, false).await?.ok_or_else(denied)?;
        let auth = auth(token, &body).map(Arc::new).ok_or_else(denied)?;
        if auth.expires_at <= now {
            return Err(denied());
        }
        if !self.keep.is_zero() {
            self.known.lock().expect("no holder of this lock panics").put(key, auth.clone(), now.plus(self.keep));
        }
        Ok(auth)
    }

    async fn validate_expired(&self, token: &str) -> Result<Arc<Auth>> {
        if token.is_empty() {
            return Err(denied());
        }
        let body = self.ask(token, true).await?.ok_or_else(denied)?;
        auth(token, &body).map(Arc::new).ok_or_else(denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_of_an_answer() {
        let body = json!({"token": {"user": {"id": "u", "name": "n", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "pn", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "1", "name": "member"}], "expires_at": "2026-11-21T15:00:00.000000Z", "methods": ["password"]}});
        let a = auth("t", &body).unwrap();
        assert_eq!((a.creds.project_id.as_deref(), a.creds.roles.as_slice()), (Some("p"), &["member".to_string()][..]));
        assert!(auth("t", &json!({"token": {}})).is_none() && auth("t", &json!({})).is_none());
    }
}
