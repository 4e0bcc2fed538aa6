//! Whose access keys there are.

use async_trait::async_trait;
use caelum_base::{ErrorKind, Result, Secret};
use caelum_object::auth::{Resellers, TempAuth};
use caelum_object::env::Caller;
use caelum_rest::Auth;
use std::collections::HashMap;
use std::sync::Arc;

/// An access key's secret, and who holds it.
#[derive(Clone, Debug)]
pub struct Key {
    pub secret: Secret<String>,
    pub caller: Caller,
    /// `AUTH_<project>`: where this caller's buckets are.
    pub account: String,
    /// The caller has one of the roles that own the account.
    pub is_owner: bool,
}

/// Where access keys are looked up.
#[async_trait]
pub trait S3Credentials: Send + Sync {
    /// `None`: there is no such key, or its holder may not use it any more. Errors: `Unavailable` when that cannot
    /// be found out.
    async fn secret(&self, access_key: &str) -> Result<Option<Key>>;
}

/// The identity service's EC2 credentials.
#[async_trait]
pub trait Ec2Keys: Send + Sync {
    /// The secret of a credential of type `ec2`, and what its user may do in its project now.
    async fn ec2_key(&self, access: &str) -> Result<Option<(Secret<String>, Arc<Auth>)>>;
}

/// Keys that users made with the identity service.
pub struct KeystoneCredentials {
    pub keys: Arc<dyn Ec2Keys>,
    pub resellers: Resellers,
    /// Role that owns every account.
    pub reseller_admin_role: String,
}

fn has(roles: &[String], wanted: &[String]) -> bool {
    roles.iter().any(|r| wanted.iter().any(|w| w.eq_ignore_ascii_case(r)))
}

#[async_trait]
impl S3Credentials for KeystoneCredentials {
    async fn secret(&self, access_key: &str) -> Result<Option<Key>> {
        let (secret, auth) = match self.keys.ec2_key(access_key).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(e) if matches!(e.kind, ErrorKind::Unauthenticated | ErrorKind::NotFound | ErrorKind::Forbidden) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(project) = auth.project.clone() else { return Ok(None) };
        let account = format!("{}{}", self.resellers.first_prefix(), project.id);
        let roles = auth.creds.roles.clone();
        let reseller_admin = has(&roles, std::slice::from_ref(&self.reseller_admin_role));
        // A reseller that wants a service's token besides cannot be satisfied by a signature.
        let rules = self.resellers.of(&account).filter(|r| r.service_roles.is_empty());
        let is_owner = reseller_admin || rules.is_some_and(|r| has(&roles, &r.operator_roles));
        let caller = Caller {
            user_id: auth.user.id.clone(),
            user_name: auth.user.name.clone(),
            project_id: Some(project.id),
            project_name: Some(project.name),
            user_domain_id: Some(auth.user_domain.id.clone()),
            project_domain_id: auth.project_domain.as_ref().map(|d| d.id.clone()),
            roles,
            service_roles: Vec::new(),
            groups: Vec::new(),
            reseller_admin,
        };
        Ok(Some(Key { secret, caller, account, is_owner }))
    }
}

/// The configured users of tempauth: the access key is `account:user`, the secret its key.
#[async_trait]
impl S3Credentials for TempAuth {
    async fn secret(&self, access_key: &str) -> Result<Option<Key>> {
        Ok(self.user(access_key).map(|u| {
            let is_owner = u.caller.reseller_admin || u.caller.groups.contains(&u.account);
            Key { secret: u.key, caller: u.caller, account: u.account, is_owner }
        }))
    }
}

/// A fixed list.
#[derive(Default)]
pub struct StaticCredentials(pub HashMap<String, Key>);

#[async_trait]
impl S3Credentials for StaticCredentials {
    async fn secret(&self, access_key: &str) -> Result<Option<Key>> {
        Ok(self.0.get(access_key).cloned())
    }
}

/// Several lists, asked in order.
pub struct AnyCredentials(pub Vec<Arc<dyn S3Credentials>>);

#[async_trait]
impl S3Credentials for AnyCredentials {
    async fn secret(&self, access_key: &str) -> Result<Option<Key>> {
        for source in &self.0 {
            if let Some(key) = source.secret(access_key).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::Error;
    use caelum_rest::{StaticValidator, TokenValidator};

    struct Keys(Vec<&'static str>);

    #[async_trait]
    impl Ec2Keys for Keys {
        async fn ec2_key(&self, access: &str) -> Result<Option<(Secret<String>, Arc<Auth>)>> {
            match access {
                "known" => {
                    let auth = StaticValidator::default().with("t", "p1", &self.0).validate("t").await?;
                    Ok(Some((Secret::new("s3cret".into()), auth)))
                }
                "off" => Err(Error::new(ErrorKind::Unauthenticated, "disabled")),
                "down" => Err(Error::unavailable("database")),
                _ => Ok(None),
            }
        }
    }

    #[tokio::test]
    async fn roles_own_the_project_s_account() {
        let of = |roles: Vec<&'static str>| KeystoneCredentials {
            keys: Arc::new(Keys(roles)),
            resellers: Resellers::default(),
            reseller_admin_role: "ResellerAdmin".into(),
        };
        let k = of(vec!["Member"]).secret("known").await.unwrap().unwrap();
        assert_eq!((k.account.as_str(), k.is_owner), ("AUTH_p1", true));
        assert!(!format!("{k:?}").contains("s3cret"));
        assert!(!of(vec!["reader"]).secret("known").await.unwrap().unwrap().is_owner);
        assert!(of(vec![]).secret("off").await.unwrap().is_none());
        assert!(of(vec![]).secret("nobody").await.unwrap().is_none());
        assert!(of(vec![]).secret("down").await.is_err());
    }
}
