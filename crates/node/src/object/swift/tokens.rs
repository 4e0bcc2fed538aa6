//! Checks tokens with an identity service over HTTP (`[filter:authtoken]`).

use super::Section;
use async_trait::async_trait;
use caelum_base::{Error, Result, Secret, Timestamp};
use caelum_client::{HttpTransport, PasswordTokens, TokenSource, Transport};
use caelum_policy::Credentials;
use caelum_rest::{Auth, Named, TokenValidator, empty, read_limited};
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Largest answer about a token in bytes; catalogs are left out.
const MAX_ANSWER: usize = 1 << 20;

pub struct RemoteTokens {
    identity: Arc<dyn Transport>,
    own: PasswordTokens,
}

impl RemoteTokens {
    /// Errors: `Invalid` for options that are missing.
    pub fn new(s: &Section) -> Result<Self> {
        let need =
            |key: &str| s.get(key).filter(|v| !v.is_empty()).ok_or_else(|| Error::invalid(format!("[filter:authtoken] {key} is missing")));
        let url = need("auth_url").or_else(|_| need("www_authenticate_uri"))?.trim_end_matches('/');
        let url = url.strip_suffix("/v3").unwrap_or(url);
        let identity: Arc<dyn Transport> = Arc::new(HttpTransport::new(url));
        let password = Secret::new(need("password")?.to_string());
        let own = PasswordTokens::new(identity.clone(), need("username")?, s.str("project_name", "service"), password);
        Ok(Self { identity, own })
    }

    async fn ask(&self, token: &str) -> Result<Option<Value>> {
        for attempt in 0..2 {
            let own = self.own.token().await?;
            let denied = |_| Error::unauthenticated("The request you have made requires authentication.");
            let mut req = Request::get("/v3/auth/tokens?nocatalog").body(empty()).map_err(|e| Error::internal(e.to_string()))?;
            req.headers_mut().insert("x-subject-token", HeaderValue::from_str(token).map_err(denied)?);
            req.headers_mut().insert("x-auth-token", HeaderValue::from_str(own.expose()).map_err(denied)?);
            let (parts, body) = self.identity.send(req).await?.into_parts();
            match parts.status {
                StatusCode::OK => {
                    let body = read_limited(body, MAX_ANSWER).await?;
                    return serde_json::from_slice(&body).map(Some).map_err(|e| Error::unavailable("identity service").caused_by(e));
                }
                StatusCode::NOT_FOUND => return Ok(None),
                // Our own token has ended.
                StatusCode::UNAUTHORIZED if attempt == 0 => self.own.forget().await,
                other => return Err(Error::unavailable(format!("The identity service answered {other}."))),
            }
        }
        Err(Error::unavailable("The identity service takes no token of ours."))
    }
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
        let denied = || Error::unauthenticated("The request you have made requires authentication.");
        let body = self.ask(token).await?.ok_or_else(denied)?;
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
