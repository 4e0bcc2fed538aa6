//! What a token means now: its user, scope and roles as the tables have them at this moment.

use crate::logic::roles;
use crate::store::{self, ApplicationCredential, Project, Role, Trust, User};
use crate::token::{Delegation, Facts, Scope};
use caelum_base::{Error, Result, Timestamp};
use caelum_store::Tx;

/// Everything a token's views are made from.
pub struct Resolved {
    pub user: User,
    pub user_domain: Project,
    pub project: Option<(Project, Project)>,
    pub domain: Option<Project>,
    /// Effective roles with implied ones; domain-specific roles are left out.
    pub roles: Vec<Role>,
    pub trust: Option<Trust>,
    pub application_credential: Option<ApplicationCredential>,
    pub access_rules: Vec<store::AccessRule>,
    pub password_expires_at: Option<Timestamp>,
}

/// The one answer to every token that is not valid; the log says why.
pub fn invalid(why: &str) -> Error {
    Error::unauthenticated("The request you have made requires authentication.").caused_by(Error::internal(why.to_string()))
}

fn enabled_domain(tx: &mut Tx<'_>, id: &str) -> Result<Project> {
    let d = tx.get::<Project>(id)?.filter(|d| d.is_domain && d.enabled);
    Ok(d.ok_or_else(|| invalid("domain missing or disabled"))?.value)
}

fn enabled_user(tx: &mut Tx<'_>, id: &str) -> Result<(User, Project)> {
    let user = tx.get::<User>(id)?.filter(|u| u.enabled).ok_or_else(|| invalid("user missing or disabled"))?.value;
    let domain = enabled_domain(tx, &user.domain_id)?;
    Ok((user, domain))
}

/// An enabled project with its enabled domain, and no disabled ancestor.
pub fn enabled_project(tx: &mut Tx<'_>, id: &str) -> Result<(Project, Project)> {
    let project = tx.get::<Project>(id)?.filter(|p| p.enabled).ok_or_else(|| invalid("project missing or disabled"))?.value;
    if project.is_domain {
        return Ok((project.clone(), project));
    }
    let domain = enabled_domain(tx, &project.domain_id)?;
    for parent in roles::ancestors(tx, &project)? {
        if !parent.enabled {
            return Err(invalid("a parent of the project is disabled"));
        }
    }
    Ok((project, domain))
}

/// Resolves `facts`. Errors: `Unauthenticated` when anything the token stands on is gone, disabled,
/// expired, revoked, or gives no role in its scope any more.
pub fn resolve(tx: &mut Tx<'_>, facts: &Facts, now: Timestamp) -> Result<Resolved> {
    if facts.expires_at <= now {
        return Err(invalid("token expired"));
    }
    if store::is_revoked(tx, &facts.audit_ids, &facts.user_id, facts.scope.target_id(), facts.issued_at.0)? {
        return Err(invalid("token revoked"));
    }
    let (user, user_domain) = enabled_user(tx, &facts.user_id)?;
    let mut out = Resolved {
        user,
        user_domain,
        project: None,
        domain: None,
        roles: Vec::new(),
        trust: None,
        application_credential: None,
        access_rules: Vec::new(),
        password_expires_at: None,
    };
    match &facts.scope {
        Scope::Unscoped | Scope::System => {}
        Scope::Project(id) => out.project = Some(enabled_project(tx, id)?),
        Scope::Domain(id) => out.domain = Some(enabled_domain(tx, id)?),
    }
    match &facts.delegation {
        Delegation::None => out.roles = roles::effective(tx, &facts.user_id, &facts.scope)?,
        Delegation::Trust(id) => resolve_trust(tx, &mut out, id, facts, now)?,
        Delegation::ApplicationCredential(id) => resolve_application_credential(tx, &mut out, id, facts, now)?,
    }
    if facts.scope != Scope::Unscoped && out.roles.is_empty() {
        return Err(invalid("no role in the token's scope"));
    }
    Ok(out)
}

fn resolve_trust(tx: &mut Tx<'_>, out: &mut Resolved, id: &str, facts: &Facts, now: Timestamp) -> Result<()> {
    let trust = tx.get::<Trust>(id)?.ok_or_else(|| invalid("trust is gone"))?.value;
    if trust.expires_at.is_some_and(|e| e <= now) {
        return Err(invalid("trust expired"));
    }
    let acting = if trust.impersonation { &trust.trustor_user_id } else { &trust.trustee_user_id };
    if *acting != facts.user_id || trust.project_id.as_deref() != facts.scope.target_id() {
        return Err(invalid("token does not fit its trust"));
    }
    enabled_user(tx, &trust.trustee_user_id)?;
    enabled_user(tx, &trust.trustor_user_id)?;
    // A trust gives what the trustor still has, never more.
    let held = roles::effective(tx, &trust.trustor_user_id, &facts.scope)?;
    let granted = roles::expand(tx, trust.role_ids.clone())?;
    if trust.role_ids.iter().any(|r| !held.iter().any(|h| h.id == *r)) {
        return Err(invalid("the trustor lost a role of the trust"));
    }
    out.roles = granted;
    out.trust = Some(trust);
    Ok(())
}

fn resolve_application_credential(tx: &mut Tx<'_>, out: &mut Resolved, id: &str, facts: &Facts, now: Timestamp) -> Result<()> {
    let ac = tx.get::<ApplicationCredential>(id)?.ok_or_else(|| invalid("application credential is gone"))?.value;
    if ac.user_id != facts.user_id || Some(ac.project_id.as_str()) != facts.scope.target_id() {
        return Err(invalid("token does not fit its application credential"));
    }
    if ac.expires_at.is_some_and(|e| e <= now) {
        return Err(invalid("application credential expired"));
    }
    let held = roles::effective(tx, &facts.user_id, &facts.scope)?;
    let granted = roles::expand(tx, ac.role_ids.clone())?;
    if ac.role_ids.iter().any(|r| !held.iter().any(|h| h.id == *r)) {
        return Err(invalid("the user lost a role of the application credential"));
    }
    for rule in ac.access_rules.iter().flatten() {
        if let Some(r) = tx.get::<store::AccessRule>(rule)? {
            out.access_rules.push(r.value);
        }
    }
    out.roles = granted;
    out.application_credential = Some(ac);
    Ok(())
}
