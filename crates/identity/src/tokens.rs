//! Tokens for the other services: checking users' tokens in process, and tokens of the services'
//! own users without a password.

use crate::logic::authenticate;
use crate::state::Identity;
use async_trait::async_trait;
use caelum_base::{Result, Secret, Timestamp};
use caelum_client::TokenSource;
use caelum_rest::{Auth, TokenValidator};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

pub struct Validator(pub Arc<Identity>);

#[async_trait]
impl TokenValidator for Validator {
    async fn validate(&self, token: &str) -> Result<Arc<Auth>> {
        Ok(self.0.validate(token).await?.auth.clone())
    }
}

/// Tokens of one service user on the `service` project.
pub struct ServiceTokens {
    identity: Arc<Identity>,
    user_name: String,
    cached: Mutex<Option<(Secret<String>, Timestamp)>>,
}

/// A token is renewed this long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(600);

impl ServiceTokens {
    pub fn new(identity: Arc<Identity>, user_name: &str) -> Self {
        Self { identity, user_name: user_name.to_string(), cached: Mutex::new(None) }
    }
}

#[async_trait]
impl TokenSource for ServiceTokens {
    async fn token(&self) -> Result<Secret<String>> {
        let mut cached = self.cached.lock().await;
        if let Some((token, expires)) = &*cached
            && *expires > self.identity.env.now().plus(RENEW_BEFORE.min(self.identity.token_ttl / 2))
        {
            return Ok(token.clone());
        }
        let (token, expires) = authenticate::service_token(&self.identity, &self.user_name).await?;
        *cached = Some((token.clone(), expires));
        Ok(token)
    }

    async fn forget(&self) {
        *self.cached.lock().await = None;
    }
}
