use async_trait::async_trait;
use caelum_base::{Error, Result, Secret, Timestamp};
use caelum_policy::Credentials;
use std::collections::HashMap;
use std::sync::Arc;

/// An id with its display name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    pub name: String,
}

/// Who calls: what the token proves.
#[derive(Clone, Debug)]
pub struct Auth {
    /// What policy sees.
    pub creds: Credentials,
    pub user: Named,
    pub user_domain: Named,
    pub project: Option<Named>,
    pub project_domain: Option<Named>,
    pub domain: Option<Named>,
    pub expires_at: Timestamp,
    pub issued_at: Timestamp,
    /// The token itself, for calls to other services on the user's behalf.
    pub token: Secret<String>,
    /// Authentication methods (`password`, `token`, `application_credential`, …).
    pub methods: Vec<String>,
    /// Roles with ids.
    pub roles: Vec<Named>,
    pub audit_ids: Vec<String>,
    /// Set when the token was made by an application credential or a trust.
    pub application_credential_id: Option<String>,
    pub trust_id: Option<String>,
}

impl Auth {
    /// The project of a project-scoped token. Errors: `Forbidden` for other scopes.
    pub fn project_id(&self) -> Result<&str> {
        self.creds.project_id.as_deref().ok_or_else(|| Error::forbidden("This call needs a project-scoped token."))
    }

    pub fn user_id(&self) -> &str {
        &self.creds.user_id
    }

    pub fn is_admin(&self) -> bool {
        self.creds.has_role("admin")
    }
}

/// Turns a token into facts. Errors: `Unauthenticated` for any token that is not valid now,
/// `Unavailable` when that cannot be found out.
#[async_trait]
pub trait TokenValidator: Send + Sync {
    async fn validate(&self, token: &str) -> Result<Arc<Auth>>;

    /// The same for the token of a user on whose behalf a service goes on with long work: it may have ended a while
    /// ago. Whoever cannot tell takes valid ones only.
    async fn validate_expired(&self, token: &str) -> Result<Arc<Auth>> {
        self.validate(token).await
    }
}

/// A fixed set of tokens, for tests of one service without an identity service.
#[derive(Default)]
pub struct StaticValidator {
    tokens: HashMap<String, Arc<Auth>>,
}

impl StaticValidator {
    /// Adds a project-scoped token whose text is `token`, for user and project ids derived from it.
    #[must_use]
    pub fn with(mut self, token: &str, project_id: &str, roles: &[&str]) -> Self {
        let creds = Credentials {
            user_id: format!("user-{token}"),
            user_domain_id: Some("default".into()),
            project_id: Some(project_id.into()),
            project_domain_id: Some("default".into()),
            roles: roles.iter().map(|r| (*r).to_string()).collect(),
            is_admin_project: true,
            ..Credentials::default()
        };
        self.tokens.insert(token.into(), Arc::new(Self::auth(token, creds)));
        self
    }

    fn auth(token: &str, creds: Credentials) -> Auth {
        let default = Named { id: "default".into(), name: "Default".into() };
        Auth {
            user: Named { id: creds.user_id.clone(), name: creds.user_id.clone() },
            user_domain: default.clone(),
            project: creds.project_id.clone().map(|id| Named { name: id.clone(), id }),
            project_domain: Some(default),
            domain: None,
            expires_at: Timestamp(i64::MAX),
            issued_at: Timestamp(0),
            token: Secret::new(token.to_string()),
            methods: vec!["password".into()],
            roles: creds.roles.iter().map(|r| Named { id: r.clone(), name: r.clone() }).collect(),
            audit_ids: Vec::new(),
            application_credential_id: None,
            trust_id: None,
            creds,
        }
    }
}

#[async_trait]
impl TokenValidator for StaticValidator {
    async fn validate(&self, token: &str) -> Result<Arc<Auth>> {
        self.tokens.get(token).cloned().ok_or_else(|| Error::unauthenticated("The request you have made requires authentication."))
    }
}
