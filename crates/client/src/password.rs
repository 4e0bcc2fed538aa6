use crate::{TokenSource, Transport};
use async_trait::async_trait;
use caelum_base::{Error, Result, Secret};
use caelum_rest::{full, read_limited};
use http::{Request, StatusCode};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Logs in with a password (Identity v3, project scope) and keeps the token until it is refused.
pub struct PasswordTokens {
    identity: Arc<dyn Transport>,
    user: String,
    project: String,
    password: Secret<String>,
    token: Mutex<Option<Secret<String>>>,
}

impl PasswordTokens {
    /// `identity` reaches the identity service's root; user and project are names in the default domain.
    pub fn new(identity: Arc<dyn Transport>, user: impl Into<String>, project: impl Into<String>, password: Secret<String>) -> Self {
        Self { identity, user: user.into(), project: project.into(), password, token: Mutex::new(None) }
    }

    async fn login(&self) -> Result<Secret<String>> {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {"name": self.user, "domain": {"id": "default"}, "password": self.password.expose()}}},
            "scope": {"project": {"name": self.project, "domain": {"id": "default"}}},
        }});
        let req = Request::post("/v3/auth/tokens?nocatalog").header("content-type", "application/json").body(full(body.to_string()));
        let req = req.map_err(|e| Error::internal("login request").caused_by(e))?;
        let response = self.identity.send(req).await?;
        let (parts, body) = response.into_parts();
        if parts.status == StatusCode::UNAUTHORIZED {
            return Err(Error::unauthenticated(format!("The password of {} was refused.", self.user)));
        }
        // Draining lets the connection be used again.
        let _ = read_limited(body, 1 << 20).await;
        let token = parts.headers.get("x-subject-token").and_then(|v| v.to_str().ok());
        token
            .map(|t| Secret::new(t.to_string()))
            .ok_or_else(|| Error::unavailable(format!("The identity service answered {}.", parts.status)))
    }
}

#[async_trait]
impl TokenSource for PasswordTokens {
    async fn token(&self) -> Result<Secret<String>> {
        let mut held = self.token.lock().await;
        if let Some(t) = &*held {
            return Ok(t.clone());
        }
        let fresh = self.login().await?;
        *held = Some(fresh.clone());
        Ok(fresh)
    }

    async fn forget(&self) {
        *self.token.lock().await = None;
    }
}
