//! From proofs of identity to a token.

use crate::logic::bootstrap::DEFAULT_DOMAIN;
use crate::logic::passwords::MAX_PASSWORD;
use crate::logic::roles;
use crate::state::Identity;
use crate::store::{ApplicationCredential, Project, Trust, User};
use crate::token::resolve::{enabled_project, invalid};
use crate::token::{Delegation, Facts, Scope, TokenEntry};
use caelum_base::{Error, Result, Secret, Timestamp};
use caelum_store::{Query, Tx, params};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `{"id": …}` or `{"name": …}`, of a domain.
#[derive(Clone, Debug, Deserialize)]
pub struct DomainRef {
    pub id: Option<String>,
    pub name: Option<String>,
}

/// A user or project by id, or by name and domain.
#[derive(Clone, Debug, Deserialize)]
pub struct EntityRef {
    pub id: Option<String>,
    pub name: Option<String>,
    pub domain: Option<DomainRef>,
}

#[derive(Clone, Deserialize)]
pub struct UserProof {
    #[serde(flatten)]
    pub user: EntityRef,
    pub password: Option<Secret<String>>,
    pub passcode: Option<Secret<String>>,
}

#[derive(Clone, Deserialize)]
pub struct UserMethod {
    pub user: UserProof,
}

#[derive(Clone, Deserialize)]
pub struct TokenMethod {
    pub id: String,
}

#[derive(Clone, Deserialize)]
pub struct ApplicationCredentialMethod {
    pub id: Option<String>,
    pub name: Option<String>,
    pub user: Option<EntityRef>,
    pub secret: Secret<String>,
}

#[derive(Clone, Deserialize)]
pub struct IdentityPart {
    pub methods: Vec<String>,
    pub password: Option<UserMethod>,
    pub token: Option<TokenMethod>,
    pub totp: Option<UserMethod>,
    pub application_credential: Option<ApplicationCredentialMethod>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct IdRef {
    pub id: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ScopePart {
    pub project: Option<EntityRef>,
    pub domain: Option<DomainRef>,
    pub system: Option<BTreeMap<String, bool>>,
    #[serde(rename = "OS-TRUST:trust")]
    pub trust: Option<IdRef>,
    pub unscoped: Option<serde_json::Value>,
}

/// The scope of a request as the client wrote it.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Nothing said: the user's default project if it has one.
    Default,
    Unscoped,
    Project(EntityRef),
    Domain(DomainRef),
    System,
    Trust(String),
}

/// Who the caller is, after every method of the request agreed.
struct Identified {
    user_id: String,
    methods: Vec<String>,
    /// Set when a token was used: the new one ends no later.
    expires_at: Option<Timestamp>,
    /// Audit id of the first token of the chain.
    chain: Option<String>,
    application_credential: Option<ApplicationCredential>,
}

pub fn domain_of(tx: &mut Tx<'_>, d: Option<&DomainRef>) -> Result<Option<Project>> {
    let Some(d) = d else { return Ok(None) };
    let found = match (&d.id, &d.name) {
        (Some(id), _) => tx.get::<Project>(id)?,
        (None, Some(name)) => tx.first::<Project>(&Query::new().eq("is_domain", true).eq("name", name.as_str()))?,
        (None, None) => return Err(Error::invalid("Expecting to find id or name in domain.")),
    };
    Ok(found.map(|p| p.value).filter(|p| p.is_domain))
}

fn find_user(tx: &mut Tx<'_>, r: &EntityRef) -> Result<Option<User>> {
    match (&r.id, &r.name) {
        (Some(id), _) => Ok(tx.get::<User>(id)?.map(|u| u.value)),
        (None, Some(name)) => {
            if r.domain.is_none() {
                return Err(Error::invalid(
                    "Expecting to find domain in user. The server could not comply with the request since it is either malformed or otherwise incorrect.",
                ));
            }
            let Some(domain) = domain_of(tx, r.domain.as_ref())? else { return Ok(None) };
            Ok(tx.first::<User>(&Query::new().eq("domain_id", domain.id.as_str()).eq("name", name.as_str()))?.map(|u| u.value))
        }
        (None, None) => Err(Error::invalid(
            "Expecting to find id or name in user. The server could not comply with the request since it is either malformed or otherwise incorrect.",
        )),
    }
}

/// Logs in and gives the token with what it means.
pub async fn authenticate(identity: &Arc<Identity>, part: IdentityPart, wanted: Wanted) -> Result<(String, Arc<TokenEntry>)> {
    let who = identify(identity, part).await?;
    issue(identity, who, wanted).await
}

async fn identify(identity: &Arc<Identity>, part: IdentityPart) -> Result<Identified> {
    if part.methods.is_empty() || part.methods.len() > 8 {
        return Err(Error::invalid("identity.methods must name at least one authentication method."));
    }
    let mut who: Option<Identified> = None;
    for method in &part.methods {
        let found = match method.as_str() {
            "password" => by_password(identity, needed(&part.password, "password")?).await?,
            "token" => by_token(identity, needed(&part.token, "token")?).await?,
            "application_credential" => {
                by_application_credential(identity, needed(&part.application_credential, "application_credential")?).await?
            }
            "totp" => by_totp(identity, needed(&part.totp, "totp")?).await?,
            _ => return Err(invalid("unknown authentication method")),
        };
        who = Some(match who {
            None => found,
            Some(w) if w.user_id == found.user_id => merge(w, found),
            Some(_) => return Err(invalid("the methods name different users")),
        });
    }
    let who = who.ok_or_else(|| invalid("no method"))?;
    check_factors(identity, &who).await?;
    Ok(who)
}

fn needed<T: Clone>(part: &Option<T>, name: &str) -> Result<T> {
    part.clone().ok_or_else(|| Error::invalid(format!("Expecting to find {name} in identity. The server could not comply with the request since it is either malformed or otherwise incorrect.")))
}

fn merge(mut a: Identified, b: Identified) -> Identified {
    for m in b.methods {
        if !a.methods.contains(&m) {
            a.methods.push(m);
        }
    }
    a.expires_at = a.expires_at.into_iter().chain(b.expires_at).min();
    a.chain = a.chain.or(b.chain);
    a.application_credential = a.application_credential.or(b.application_credential);
    a
}

/// The user option `multi_factor_auth_rules`: some rule's methods must all have been used.
async fn check_factors(identity: &Arc<Identity>, who: &Identified) -> Result<()> {
    let user = identity.db.get::<User>(&who.user_id).await?.ok_or_else(|| invalid("user is gone"))?;
    if user.options.get("multi_factor_auth_enabled").and_then(serde_json::Value::as_bool) == Some(false)
        || who.methods.iter().any(|m| m == "application_credential")
    {
        return Ok(());
    }
    let Some(rules) = user.options.get("multi_factor_auth_rules").and_then(|r| r.as_array()).filter(|r| !r.is_empty()) else {
        return Ok(());
    };
    let met = rules
        .iter()
        .filter_map(|r| r.as_array())
        .any(|rule| rule.iter().all(|m| m.as_str().is_some_and(|m| who.methods.iter().any(|have| have == m))));
    if met { Ok(()) } else { Err(invalid("more authentication methods are required")) }
}

async fn by_password(identity: &Arc<Identity>, m: UserMethod) -> Result<Identified> {
    let reference = m.user.user.clone();
    let user = identity.read(move |tx| find_user(tx, &reference)).await?;
    let password = m.user.password.ok_or_else(|| Error::invalid("Expecting to find password in user."))?;
    if password.expose().len() > MAX_PASSWORD {
        return Err(invalid("password too long"));
    }
    let locked = match &user {
        Some(u) => is_locked(identity, u).await?,
        None => false,
    };
    let hash = user.as_ref().filter(|_| !locked).and_then(|u| u.passwords.last()).map(|p| p.hash.clone());
    // The hash is checked in every case, so that time does not tell who exists.
    let right = identity.hasher.verify(&password, hash).await?;
    let Some(user) = user else { return Err(invalid("no such user")) };
    if locked {
        return Err(invalid("the account is locked"));
    }
    note_attempt(identity, &user, right).await?;
    if !right {
        return Err(invalid("wrong password"));
    }
    Ok(Identified { user_id: user.id, methods: vec!["password".into()], expires_at: None, chain: None, application_credential: None })
}

fn ignores_lockout(user: &User) -> bool {
    user.options.get("ignore_lockout_failure_attempts").and_then(serde_json::Value::as_bool) == Some(true)
}

pub async fn is_locked(identity: &Arc<Identity>, user: &User) -> Result<bool> {
    let c = &identity.compliance;
    if c.lockout_failure_attempts <= 0 || ignores_lockout(user) {
        return Ok(false);
    }
    let (id, now) = (user.id.clone(), identity.env.now());
    let (limit, duration) = (c.lockout_failure_attempts, c.lockout_duration);
    identity
        .read(move |tx| {
            let row = tx.query_opt("SELECT failures, failed_at FROM lockouts WHERE user_id = $1", params![id])?;
            let Some(row) = row else { return Ok(false) };
            Ok(row.int("failures")? >= limit && now < row.time("failed_at")?.plus(duration))
        })
        .await
}

/// Counts failures; success or the end of a lock starts over.
pub async fn note_attempt(identity: &Arc<Identity>, user: &User, right: bool) -> Result<()> {
    let c = &identity.compliance;
    if c.lockout_failure_attempts <= 0 || ignores_lockout(user) {
        return Ok(());
    }
    let (id, now, duration, limit) = (user.id.clone(), identity.env.now(), c.lockout_duration, c.lockout_failure_attempts);
    if right {
        let probe = id.clone();
        let any = identity.read(move |tx| tx.query_opt("SELECT 1 AS hit FROM lockouts WHERE user_id = $1", params![probe]));
        if any.await?.is_some() {
            identity.db.write(move |tx| tx.exec("DELETE FROM lockouts WHERE user_id = $1", params![&id]).map(drop)).await?;
        }
        return Ok(());
    }
    identity
        .db
        .write(move |tx| {
            let row = tx.query_opt("SELECT failures, failed_at FROM lockouts WHERE user_id = $1", params![&id])?;
            let failures = match row {
                // A lock that has run out counts as forgiven.
                Some(r) if r.int("failures")? >= limit && now >= r.time("failed_at")?.plus(duration) => 1,
                Some(r) => r.int("failures")? + 1,
                None => 1,
            };
            tx.exec("DELETE FROM lockouts WHERE user_id = $1", params![&id])?;
            tx.exec("INSERT INTO lockouts (user_id, failures, failed_at) VALUES ($1, $2, $3)", params![&id, failures, now]).map(drop)
        })
        .await
}

async fn by_token(identity: &Arc<Identity>, m: TokenMethod) -> Result<Identified> {
    let entry = identity.validate(&m.id).await.map_err(|e| match e.kind {
        caelum_base::ErrorKind::Unauthenticated => Error::not_found("Failed to validate token").caused_by(e),
        _ => e,
    })?;
    // Rescoping would leave the limits of the delegation behind.
    if entry.facts.methods.iter().any(|m| m == EC2_METHOD) {
        return Err(Error::forbidden(
            "You are not authorized to perform the requested action: Using a delegated token to create another token is not allowed.",
        ));
    }
    match &entry.facts.delegation {
        Delegation::None => {}
        Delegation::Trust(_) => {
            return Err(Error::forbidden(
                "You are not authorized to perform the requested action: Using trust-scoped token to create another token. Create a new trust-scoped token instead.",
            ));
        }
        Delegation::ApplicationCredential(_) => {
            return Err(Error::forbidden(
                "You are not authorized to perform the requested action: Using an application credential token to create another token.",
            ));
        }
    }
    let mut methods = entry.facts.methods.clone();
    if !methods.iter().any(|m| m == "token") {
        methods.push("token".into());
    }
    Ok(Identified {
        user_id: entry.facts.user_id.clone(),
        methods,
        expires_at: Some(entry.facts.expires_at),
        chain: entry.facts.audit_ids.last().cloned(),
        application_credential: None,
    })
}

async fn by_application_credential(identity: &Arc<Identity>, m: ApplicationCredentialMethod) -> Result<Identified> {
    let found = identity
        .read(move |tx| match (&m.id, &m.name, &m.user) {
            (Some(id), _, _) => tx.get::<ApplicationCredential>(id),
            (None, Some(name), Some(user)) => match find_user(tx, user)? {
                Some(u) => tx.first::<ApplicationCredential>(&Query::new().eq("user_id", u.id.as_str()).eq("name", name.as_str())),
                None => Ok(None),
            },
            _ => Err(Error::invalid("An application credential is named by id, or by name and user.")),
        })
        .await?;
    let right = identity.hasher.verify(&m.secret, found.as_ref().map(|a| a.secret_hash.clone())).await?;
    let ac = found.filter(|_| right).ok_or_else(|| invalid("no such application credential or wrong secret"))?.value;
    Ok(Identified {
        user_id: ac.user_id.clone(),
        methods: vec!["application_credential".into()],
        expires_at: ac.expires_at,
        chain: None,
        application_credential: Some(ac),
    })
}

async fn by_totp(identity: &Arc<Identity>, m: UserMethod) -> Result<Identified> {
    let reference = m.user.user.clone();
    let user = identity.read(move |tx| find_user(tx, &reference)).await?.ok_or_else(|| invalid("no such user"))?;
    if is_locked(identity, &user).await? {
        return Err(invalid("the account is locked"));
    }
    let passcode = m.user.passcode.ok_or_else(|| Error::invalid("Expecting to find passcode in user."))?;
    let q = Query::new().eq("user_id", user.id.as_str()).eq("type", "totp");
    let mut right = false;
    for c in identity.db.list::<crate::store::Credential>(q).await? {
        let secret = identity.decrypt(&c.encrypted_blob)?;
        right |= crate::logic::totp::accepts(&secret, passcode.expose(), identity.env.now());
    }
    note_attempt(identity, &user, right).await?;
    if !right {
        return Err(invalid("wrong passcode"));
    }
    Ok(Identified { user_id: user.id, methods: vec!["totp".into()], expires_at: None, chain: None, application_credential: None })
}

async fn issue(identity: &Arc<Identity>, who: Identified, wanted: Wanted) -> Result<(String, Arc<TokenEntry>)> {
    let now = identity.env.now();
    let (user_id, methods) = (who.user_id.clone(), who.methods.clone());
    let (acting, scope, delegation) = match (&who.application_credential, wanted) {
        (Some(ac), Wanted::Default) => (user_id, Scope::Project(ac.project_id.clone()), Delegation::ApplicationCredential(ac.id.clone())),
        (Some(_), _) => return Err(invalid("an application credential has a scope already")),
        (None, Wanted::Trust(id)) => use_trust(identity, &user_id, id).await?,
        (None, wanted) => {
            let user = user_id.clone();
            let scope = identity.read(move |tx| find_scope(tx, &user, &wanted)).await?;
            (user_id, scope, Delegation::None)
        }
    };
    let mut expires_at = identity.expiry();
    if let Some(e) = who.expires_at {
        expires_at = expires_at.min(e);
    }
    let mut audit_ids = vec![identity.audit_id()];
    audit_ids.extend(who.chain);
    let facts = Facts { user_id: acting, methods, scope, delegation, issued_at: now, expires_at, audit_ids };
    give(identity, facts).await
}

async fn give(identity: &Arc<Identity>, facts: Facts) -> Result<(String, Arc<TokenEntry>)> {
    let epoch = identity.epoch();
    let token = identity.seal(&facts)?;
    let entry = identity.understand(&token, facts, epoch).await?;
    Ok((token, entry))
}

fn find_scope(tx: &mut Tx<'_>, user_id: &str, wanted: &Wanted) -> Result<Scope> {
    match wanted {
        Wanted::Unscoped | Wanted::Trust(_) => Ok(Scope::Unscoped),
        Wanted::System => Ok(Scope::System),
        Wanted::Domain(d) => {
            let found = domain_of(tx, Some(d))?;
            Ok(Scope::Domain(found.ok_or_else(|| invalid("no such domain"))?.id))
        }
        Wanted::Project(r) => find_project(tx, r).map(Scope::Project),
        Wanted::Default => {
            let user = tx.get::<User>(user_id)?.ok_or_else(|| invalid("user is gone"))?;
            let Some(project) = &user.default_project_id else { return Ok(Scope::Unscoped) };
            let scope = Scope::Project(project.clone());
            // A default project that cannot be used is no reason to refuse an unscoped token.
            let usable = enabled_project(tx, project).is_ok() && !roles::effective(tx, user_id, &scope)?.is_empty();
            Ok(if usable { scope } else { Scope::Unscoped })
        }
    }
}

fn find_project(tx: &mut Tx<'_>, r: &EntityRef) -> Result<String> {
    match (&r.id, &r.name) {
        (Some(id), _) => Ok(id.clone()),
        (None, Some(name)) => {
            if r.domain.is_none() {
                return Err(Error::invalid(
                    "Expecting to find domain in project. The server could not comply with the request since it is either malformed or otherwise incorrect.",
                ));
            }
            let domain = domain_of(tx, r.domain.as_ref())?.ok_or_else(|| invalid("no such domain"))?;
            let q = Query::new().eq("is_domain", false).eq("domain_id", domain.id.as_str()).eq("name", name.as_str());
            if let Some(p) = tx.first::<Project>(&q)? {
                return Ok(p.id.clone());
            }
            // A project that acts as a domain has its own name in its own domain.
            if domain.name == *name { Ok(domain.id) } else { Err(invalid("no such project")) }
        }
        (None, None) => Err(Error::invalid(
            "Expecting to find id or name in project. The server could not comply with the request since it is either malformed or otherwise incorrect.",
        )),
    }
}

/// The trust must name the caller as trustee; one use of it is used up.
async fn use_trust(identity: &Arc<Identity>, user_id: &str, trust_id: String) -> Result<(String, Scope, Delegation)> {
    let user_id = user_id.to_string();
    let trust = identity.db.get::<Trust>(&trust_id).await?.ok_or_else(|| invalid("no such trust"))?;
    if trust.trustee_user_id != user_id {
        return Err(invalid("the trust is for somebody else"));
    }
    if trust.remaining_uses.is_some() {
        let id = trust_id.clone();
        identity
            .write(move |tx| {
                let mut t = tx.get::<Trust>(&id)?.ok_or_else(|| invalid("trust is gone"))?;
                let left = t.remaining_uses.unwrap_or(0);
                if left < 1 {
                    return Err(invalid("the trust is used up"));
                }
                t.remaining_uses = Some(left - 1);
                tx.update(&mut t)
            })
            .await?;
    }
    let acting = if trust.impersonation { trust.trustor_user_id.clone() } else { user_id };
    let scope = trust.project_id.clone().map_or(Scope::Unscoped, Scope::Project);
    Ok((acting, scope, Delegation::Trust(trust_id)))
}

/// The method of tokens that were made for requests signed with EC2 keys.
pub const EC2_METHOD: &str = "ec2credential";

/// A token for the owner of an EC2 key on the key's project; the signature was checked before.
pub async fn key_token(identity: &Arc<Identity>, user_id: String, project_id: String) -> Result<(String, Arc<TokenEntry>)> {
    let facts = Facts {
        user_id,
        methods: vec![EC2_METHOD.into()],
        scope: Scope::Project(project_id),
        delegation: Delegation::None,
        issued_at: identity.env.now(),
        expires_at: identity.expiry(),
        audit_ids: vec![identity.audit_id()],
    };
    give(identity, facts).await
}

/// A token of a service's own user on the project `service`, without a password: for this process.
pub async fn service_token(identity: &Arc<Identity>, user_name: &str) -> Result<(Secret<String>, Timestamp)> {
    let name = user_name.to_string();
    let (user_id, project_id) = identity
        .read(move |tx| {
            let user = tx.first::<User>(&Query::new().eq("domain_id", DEFAULT_DOMAIN).eq("name", name.as_str()))?;
            let user =
                user.ok_or_else(|| Error::unavailable(format!("the service user {name} does not exist; was the cloud bootstrapped?")))?;
            let q = Query::new().eq("is_domain", false).eq("domain_id", DEFAULT_DOMAIN).eq("name", "service");
            let project = tx.first::<Project>(&q)?.ok_or_else(|| Error::unavailable("the project service does not exist"))?;
            Ok((user.id.clone(), project.id.clone()))
        })
        .await?;
    let facts = Facts {
        user_id,
        methods: vec!["external".into()],
        scope: Scope::Project(project_id),
        delegation: Delegation::None,
        issued_at: identity.env.now(),
        expires_at: identity.expiry(),
        audit_ids: vec![identity.audit_id()],
    };
    let expires = facts.expires_at;
    let (token, _) = give(identity, facts).await?;
    Ok((Secret::new(token), expires))
}
