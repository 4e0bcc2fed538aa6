//! What every cloud has from the start. Run at each start; idempotent.

use crate::logic::passwords;
use crate::state::Identity;
use crate::store::{self, Actor, Assignment, CatalogService, Endpoint, Extra, Grants, Project, Region, Revocation, Role, Target, User};
use caelum_base::{Error, Result, Secret};
use caelum_store::{Query, Tx, params};
use std::sync::Arc;

/// The domain of everything made here.
pub const DEFAULT_DOMAIN: &str = "default";

/// One service in the catalog.
#[derive(Clone, Debug)]
pub struct BootstrapService {
    /// `compute`
    pub kind: String,
    /// `nova`
    pub name: String,
    /// `http://127.0.0.1:5000/compute/v2.1`; used for every interface.
    pub url: String,
}

/// A user that a service acts as.
#[derive(Clone, Debug)]
pub struct ServiceUser {
    pub name: String,
    /// `None`: the user cannot log in with a password; tokens are minted in process.
    pub password: Option<Secret<String>>,
}

#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub admin_password: Secret<String>,
    pub demo_password: Option<Secret<String>>,
    pub region: String,
    pub services: Vec<BootstrapService>,
    pub service_users: Vec<ServiceUser>,
}

const ROLES: [&str; 6] = ["admin", "manager", "member", "reader", "service", "ResellerAdmin"];
const IMPLIED: [(&str, &str); 3] = [("admin", "manager"), ("manager", "member"), ("member", "reader")];

pub async fn run(identity: &Arc<Identity>, b: Bootstrap) -> Result<()> {
    let mut users: Vec<(String, Option<String>)> = Vec::new();
    for (name, password) in passwords_wanted(&b) {
        let exists = identity.read({
            let name = name.clone();
            move |tx| user_by_name(tx, &name).map(|u| u.is_some())
        });
        // Hashing is slow on purpose; who exists keeps the password they have.
        let hash = match (exists.await?, password) {
            (false, Some(p)) => Some(identity.hasher.hash(&p).await?),
            (true, _) | (false, None) => None,
        };
        users.push((name, hash));
    }
    let env = identity.env.clone();
    identity
        .write(move |tx| {
            let new_id = || env.hex_id();
            ensure_domain(tx)?;
            let mut roles = Vec::new();
            for name in ROLES {
                roles.push((name, ensure_role(tx, name, new_id())?));
            }
            let role = |name: &str| roles.iter().find(|(n, _)| *n == name).map(|(_, id)| id.clone()).unwrap_or_default();
            for (prior, implied) in IMPLIED {
                tx.exec(
                    "INSERT INTO implied_roles (prior_id, implied_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    params![role(prior), role(implied)],
                )?;
            }
            let admin_project = ensure_project(tx, "admin", "Bootstrap project for initializing the cloud.", new_id())?;
            let service_project = ensure_project(tx, "service", "Users of the services.", new_id())?;
            for (name, hash) in &users {
                let id = ensure_user(tx, name, hash.clone(), new_id(), &env)?;
                let mut grant = |target, target_id: &str, name: &str| grant(tx, &id, target, target_id, &role(name));
                match name.as_str() {
                    "admin" => {
                        grant(Target::Project, &admin_project, "admin")?;
                        grant(Target::Domain, DEFAULT_DOMAIN, "admin")?;
                        grant(Target::System, "system", "admin")?;
                    }
                    "demo" => {
                        let project = ensure_project(tx, "demo", "A project to try things in.", new_id())?;
                        self::grant(tx, &id, Target::Project, &project, &role("member"))?;
                    }
                    _ => {
                        grant(Target::Project, &service_project, "admin")?;
                        grant(Target::Project, &service_project, "service")?;
                    }
                }
            }
            ensure_catalog(tx, &b, &new_id)
        })
        .await
}

fn passwords_wanted(b: &Bootstrap) -> Vec<(String, Option<Secret<String>>)> {
    let mut out = vec![("admin".to_string(), Some(b.admin_password.clone()))];
    if let Some(p) = &b.demo_password {
        out.push(("demo".to_string(), Some(p.clone())));
    }
    out.extend(b.service_users.iter().map(|u| (u.name.clone(), u.password.clone())));
    out
}

fn user_by_name(tx: &mut Tx<'_>, name: &str) -> Result<Option<caelum_store::Stored<User>>> {
    tx.first::<User>(&Query::new().eq("domain_id", DEFAULT_DOMAIN).eq("name", name))
}

fn ensure_domain(tx: &mut Tx<'_>) -> Result<()> {
    if tx.get::<Project>(DEFAULT_DOMAIN)?.is_some() {
        return Ok(());
    }
    tx.insert(&Project {
        id: DEFAULT_DOMAIN.into(),
        domain_id: String::new(),
        parent_id: None,
        name: "Default".into(),
        description: "The default domain".into(),
        enabled: true,
        is_domain: true,
        tags: Vec::new(),
        options: Extra::new(),
        extra: Extra::new(),
    })
    .map(drop)
}

fn ensure_role(tx: &mut Tx<'_>, name: &str, id: String) -> Result<String> {
    if let Some(r) = tx.first::<Role>(&Query::new().eq("domain_id", "").eq("name", name))? {
        return Ok(r.id.clone());
    }
    // The cloud's own roles stay as they are; a renamed `admin` would lock everybody out.
    let options = Extra::from_iter([("immutable".to_string(), serde_json::Value::Bool(true))]);
    let role = Role { id: id.clone(), domain_id: String::new(), name: name.into(), description: None, options, extra: Extra::new() };
    tx.insert(&role)?;
    Ok(id)
}

fn ensure_project(tx: &mut Tx<'_>, name: &str, description: &str, id: String) -> Result<String> {
    let found = tx.first::<Project>(&Query::new().eq("is_domain", false).eq("domain_id", DEFAULT_DOMAIN).eq("name", name))?;
    if let Some(p) = found {
        return Ok(p.id.clone());
    }
    tx.insert(&Project {
        id: id.clone(),
        domain_id: DEFAULT_DOMAIN.into(),
        parent_id: Some(DEFAULT_DOMAIN.into()),
        name: name.into(),
        description: description.into(),
        enabled: true,
        is_domain: false,
        tags: Vec::new(),
        options: Extra::new(),
        extra: Extra::new(),
    })?;
    Ok(id)
}

fn ensure_user(tx: &mut Tx<'_>, name: &str, hash: Option<String>, id: String, env: &caelum_base::Env) -> Result<String> {
    if let Some(u) = user_by_name(tx, name)? {
        return Ok(u.id.clone());
    }
    let mut user = User {
        id: id.clone(),
        domain_id: DEFAULT_DOMAIN.into(),
        name: name.into(),
        enabled: true,
        default_project_id: None,
        passwords: Vec::new(),
        options: Extra::new(),
        extra: Extra::new(),
    };
    if let Some(h) = hash {
        passwords::set(&mut user, h, env);
    }
    tx.insert(&user)?;
    Ok(id)
}

fn grant(tx: &mut Tx<'_>, user_id: &str, target: Target, target_id: &str, role_id: &str) -> Result<()> {
    let a = Assignment {
        actor: Actor::User,
        actor_id: user_id.into(),
        target,
        target_id: target_id.into(),
        role_id: role_id.into(),
        inherited: false,
    };
    Grants::add(tx, &a)
}

/// Services and endpoints; the URL of an endpoint made here follows the configuration.
fn ensure_catalog(tx: &mut Tx<'_>, b: &Bootstrap, new_id: &dyn Fn() -> String) -> Result<()> {
    if tx.get::<Region>(&b.region)?.is_none() {
        tx.insert(&Region { id: b.region.clone(), parent_region_id: None, description: String::new(), extra: Extra::new() })?;
    }
    for s in &b.services {
        let found = tx.first::<CatalogService>(&Query::new().eq("type", s.kind.as_str()).eq("name", s.name.as_str()))?;
        let service_id = match found {
            Some(f) => f.id.clone(),
            None => {
                let id = new_id();
                tx.insert(&CatalogService {
                    id: id.clone(),
                    kind: s.kind.clone(),
                    name: s.name.clone(),
                    enabled: true,
                    description: None,
                    extra: Extra::new(),
                })?;
                id
            }
        };
        for interface in ["public", "internal", "admin"] {
            let q = Query::new().eq("service_id", service_id.as_str()).eq("interface", interface).eq("region_id", b.region.as_str());
            if let Some(mut e) = tx.first::<Endpoint>(&q)? {
                if e.url != s.url {
                    e.url.clone_from(&s.url);
                    tx.update(&mut e)?;
                }
                continue;
            }
            tx.insert(&Endpoint {
                id: new_id(),
                service_id: service_id.clone(),
                region_id: Some(b.region.clone()),
                interface: interface.into(),
                url: s.url.clone(),
                enabled: true,
                extra: Extra::new(),
            })?;
        }
    }
    Ok(())
}

/// Sets the password of a user of the default domain and ends its tokens.
pub async fn set_password(identity: &Arc<Identity>, name: &str, password: &Secret<String>) -> Result<()> {
    let hash = identity.hasher.hash(password).await?;
    let (env, name) = (identity.env.clone(), name.to_string());
    identity
        .write(move |tx| {
            let mut user = user_by_name(tx, &name)?.ok_or_else(|| Error::not_found(format!("Could not find user: {name}.")))?;
            passwords::set(&mut user, hash.clone(), &env);
            tx.update(&mut user)?;
            tx.exec("DELETE FROM lockouts WHERE user_id = $1", params![&user.id])?;
            store::revoke(tx, &env.hex_id(), env.now().0, &Revocation { user_id: Some(user.id.clone()), ..Revocation::default() })
        })
        .await
}
