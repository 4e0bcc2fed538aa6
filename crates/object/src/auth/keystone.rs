//! Who may do what with accounts of the identity service's projects. Source: Swift's documentation
//! (`overview_auth`, Keystone Auth; `overview_acl`).

use super::Request;
use super::acl::Acl;
use super::rules::Resellers;
use crate::env::{Caller, Environ};
use crate::proxy::InfoSource;
use caelum_base::{ErrorKind, Result};
use caelum_rest::{Auth, TokenValidator};
use http::Method;
use std::sync::Arc;

/// Where the id of the domain of an account's project is kept.
pub const DOMAIN_SYSMETA: &str = "x-account-sysmeta-project-domain-id";
/// No project's domain has this id.
const UNKNOWN: &str = "_unknown";

/// How the rules for projects' accounts are set up.
#[derive(Clone, Debug)]
pub struct KeystoneOptions {
    pub resellers: Resellers,
    /// Role that may do anything with any account.
    pub reseller_admin_role: String,
    /// Roles that may read everything.
    pub system_reader_roles: Vec<String>,
    /// The domain of names in lists.
    pub default_domain: String,
    /// Whether lists may name projects and users besides giving their ids.
    pub names_in_acls: bool,
}

impl Default for KeystoneOptions {
    /// Upstream's defaults with our roles.
    fn default() -> Self {
        Self {
            resellers: Resellers::default(),
            reseller_admin_role: "ResellerAdmin".into(),
            system_reader_roles: Vec::new(),
            default_domain: "default".into(),
            names_in_acls: true,
        }
    }
}

impl KeystoneOptions {
    /// From the section `filter:keystoneauth` of `proxy-server.conf`.
    pub fn from_options(options: &[(String, String)]) -> Self {
        let get = |key: &str| options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let d = Self::default();
        let readers = get("system_reader_roles").unwrap_or_default().split(',').map(str::trim).filter(|r| !r.is_empty());
        Self {
            resellers: Resellers::from_options(options),
            reseller_admin_role: get("reseller_admin_role").map_or(d.reseller_admin_role, str::to_string),
            system_reader_roles: readers.map(str::to_string).collect(),
            default_domain: get("default_domain_id").map_or(d.default_domain, str::to_string),
            names_in_acls: get("allow_names_in_acls").is_none_or(crate::http::is_true_text),
        }
    }
}

/// Which service tokens count.
#[derive(Clone, Debug)]
pub struct ServiceRoles {
    /// A service has one of these (`service_token_roles`).
    pub roles: Vec<String>,
    /// A service token without any of them is not valid (`service_token_roles_required`); otherwise its roles count,
    /// but ended user tokens are not taken with it.
    pub required: bool,
}

impl Default for ServiceRoles {
    fn default() -> Self {
        Self { roles: vec!["service".into()], required: false }
    }
}

/// Rules for callers with tokens of the identity service.
pub struct Keystone {
    /// `None`: nobody's token can be checked, so that everybody is a stranger.
    validator: Option<Arc<dyn TokenValidator>>,
    pub options: KeystoneOptions,
}

fn has_role(roles: &[String], wanted: &[String]) -> bool {
    roles.iter().any(|r| wanted.iter().any(|w| w.eq_ignore_ascii_case(r)))
}

impl Keystone {
    pub fn new(validator: Option<Arc<dyn TokenValidator>>, options: KeystoneOptions) -> Self {
        Self { validator, options }
    }

    pub fn has_validator(&self) -> bool {
        self.validator.is_some()
    }

    /// The caller behind a token, and behind the service token sent with it. `None` when either is not valid:
    /// the request is then nobody's. A service may go on with a user's token that has ended meanwhile. Errors:
    /// `Unavailable` when the identity service cannot be asked, `Forbidden` for what the token's access rules do not
    /// allow.
    pub async fn caller(
        &self,
        token: &str,
        service_token: Option<&str>,
        services: &ServiceRoles,
        method: &Method,
        path: &str,
    ) -> Result<Option<Caller>> {
        let Some(validator) = &self.validator else { return Ok(None) };
        let mut service = None;
        if let Some(token) = service_token {
            let Some(auth) = valid(validator.validate(token).await)? else { return Ok(None) };
            let is_service = has_role(&auth.creds.roles, &services.roles);
            if services.required && !is_service {
                return Ok(None);
            }
            service = Some((auth, is_service));
        }
        let expired_too = service.as_ref().is_some_and(|(_, is_service)| *is_service);
        let answer = if expired_too { validator.validate_expired(token).await } else { validator.validate(token).await };
        let Some(mut auth) = valid(answer)? else { return Ok(None) };
        if let Some((service, _)) = service {
            let mut both = (*auth).clone();
            both.creds.service_roles = service.creds.roles.clone();
            auth = Arc::new(both);
        }
        caelum_rest::check_access_rules(&auth, "object-store", method, [path, path])?;
        Ok(Some(self.caller_of(&auth)))
    }

    /// What a validated token says, in the terms of the pipeline.
    pub fn caller_of(&self, auth: &Auth) -> Caller {
        let roles = auth.creds.roles.clone();
        Caller {
            user_id: auth.user.id.clone(),
            user_name: auth.user.name.clone(),
            project_id: auth.project.as_ref().map(|p| p.id.clone()),
            project_name: auth.project.as_ref().map(|p| p.name.clone()),
            user_domain_id: Some(auth.user_domain.id.clone()),
            project_domain_id: auth.project_domain.as_ref().map(|d| d.id.clone()),
            reseller_admin: has_role(&roles, std::slice::from_ref(&self.options.reseller_admin_role)),
            roles,
            service_roles: auth.creds.service_roles.clone(),
            groups: Vec::new(),
        }
    }

    fn matches(&self, account: &str, caller: &Caller) -> bool {
        caller.project_id.as_deref().is_some_and(|p| self.options.resellers.is_account_of(account, p))
    }

    /// Whether the account is the caller's to rule.
    pub fn owns(&self, account: &str, caller: &Caller) -> bool {
        if caller.reseller_admin {
            return true;
        }
        let Some(rules) = self.options.resellers.of(account).filter(|_| self.matches(account, caller)) else { return false };
        let service = rules.service_roles.is_empty() || has_role(&caller.service_roles, &rules.service_roles);
        service && has_role(&caller.roles, &rules.operator_roles)
    }

    /// Whether the request may be done.
    pub async fn admits(&self, r: &Request<'_>, caller: &Caller, acl: Option<&str>, info: &dyn InfoSource, environ: &Environ) -> bool {
        let reads = matches!(*r.method, Method::GET | Method::HEAD);
        if caller.reseller_admin || (reads && has_role(&caller.roles, &self.options.system_reader_roles)) {
            return true;
        }
        // Nobody removes an account of their own.
        if r.path.container.is_none() && *r.method == Method::DELETE {
            return false;
        }
        let acl = Acl::parse(acl);
        if !acl.groups.is_empty() && self.cross_project(r, caller, &acl, info, environ).await {
            return true;
        }
        let by_referrer = acl.admits_referrer(r.referer);
        if by_referrer && (r.path.object.is_some() || acl.has_group(".rlistings")) {
            return true;
        }
        let account = &r.path.account;
        if !self.matches(account, caller) {
            return false;
        }
        if self.owns(account, caller) {
            return true;
        }
        let readers = self.options.resellers.of(account).is_some_and(|rules| has_role(&caller.roles, &rules.project_reader_roles));
        if reads && readers {
            return true;
        }
        !by_referrer && has_role(&caller.roles, &acl.groups)
    }

    /// `project:user` with ids, `*`, and names where those cannot be mistaken.
    async fn cross_project(&self, r: &Request<'_>, caller: &Caller, acl: &Acl, info: &dyn InfoSource, environ: &Environ) -> bool {
        if !acl.groups.iter().any(|g| g.contains(':')) {
            return false;
        }
        let mut projects: Vec<&str> = caller.project_id.as_deref().into_iter().chain(["*"]).collect();
        let mut users: Vec<&str> = vec![caller.user_id.as_str(), "*"];
        if self.names_allowed(r, caller, info, environ).await {
            projects.extend(caller.project_name.as_deref());
            users.push(&caller.user_name);
        }
        let fits =
            |g: &String| projects.iter().any(|p| users.iter().any(|u| g.strip_prefix(p).and_then(|g| g.strip_prefix(':')) == Some(*u)));
        acl.groups.iter().any(fits)
    }

    async fn names_allowed(&self, r: &Request<'_>, caller: &Caller, info: &dyn InfoSource, environ: &Environ) -> bool {
        let is_default = |d: &Option<String>| d.as_ref().is_none_or(|d| *d == self.options.default_domain);
        if !self.options.names_in_acls || !is_default(&caller.user_domain_id) || !is_default(&caller.project_domain_id) {
            return false;
        }
        if self.matches(&r.path.account, caller) {
            return true;
        }
        let account = info.account_info(environ, &r.path.account).await;
        account.really_exists && account.sysmeta("project-domain-id").is_none_or(|d| d == self.options.default_domain)
    }

    /// What to note of the domain of an account's project at this request, if anything.
    pub async fn domain_to_note(&self, r: &Request<'_>, caller: &Caller, info: &dyn InfoSource, environ: &Environ) -> Option<String> {
        let writes_account = r.path.container.is_none() && matches!(*r.method, Method::PUT | Method::POST);
        let makes_container = r.path.container.is_some() && r.path.object.is_none() && *r.method == Method::PUT;
        if !writes_account && !makes_container {
            return None;
        }
        let account = info.account_info(environ, &r.path.account).await;
        let known = account.sysmeta("project-domain-id");
        let own = self.matches(&r.path.account, caller);
        let domain = caller.project_domain_id.clone().filter(|_| own);
        match known {
            _ if !account.really_exists => Some(if own { domain.unwrap_or_default() } else { UNKNOWN.into() }),
            None if domain.as_ref() == Some(&self.options.default_domain) => domain,
            Some(UNKNOWN) if own => Some(domain.unwrap_or_default()),
            _ => None,
        }
    }
}

/// `None` for a token that is not valid; other errors stay.
fn valid(result: Result<Arc<Auth>>) -> Result<Option<Arc<Auth>>> {
    match result {
        Ok(auth) => Ok(Some(auth)),
        Err(e) if e.kind == ErrorKind::Unauthenticated => Ok(None),
        Err(e) => Err(e),
    }
}
