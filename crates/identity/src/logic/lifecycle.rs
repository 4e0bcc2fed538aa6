//! Deletions and what goes with them, and which tokens a change ends.

use crate::logic::roles;
use crate::store::{
    self, AccessRule, Actor, ApplicationCredential, Assignment, CatalogService, Credential, DomainConfig, Endpoint, Grants, Group, Limit,
    Project, Revocation, Role, Target, Trust, User,
};
use caelum_base::{Env, Result};
use caelum_store::{Filter, Query, Tx, params};

fn revoke(tx: &mut Tx<'_>, env: &Env, r: &Revocation) -> Result<()> {
    store::revoke(tx, &env.hex_id(), env.now().0, r)
}

/// Ends all tokens of a user.
pub fn revoke_user(tx: &mut Tx<'_>, env: &Env, user_id: &str) -> Result<()> {
    revoke(tx, env, &Revocation { user_id: Some(user_id.into()), ..Revocation::default() })
}

/// Ends all tokens scoped to a project or domain.
pub fn revoke_target(tx: &mut Tx<'_>, env: &Env, target_id: &str) -> Result<()> {
    revoke(tx, env, &Revocation { target_id: Some(target_id.into()), ..Revocation::default() })
}

/// Ends the tokens that an assignment taken away may have given: those of its users on its target and,
/// when inherited, on everything below.
pub fn revoke_grant(tx: &mut Tx<'_>, env: &Env, a: &Assignment) -> Result<()> {
    let users = match a.actor {
        Actor::User => vec![a.actor_id.clone()],
        Actor::Group => store::members_of(tx, &a.actor_id)?,
    };
    let mut targets = vec![a.target_id.clone()];
    if a.inherited && a.target != Target::System {
        targets.extend(roles::subtree(tx, &a.target_id)?.into_iter().map(|p| p.id));
    }
    for user in &users {
        for target in &targets {
            revoke(tx, env, &Revocation { user_id: Some(user.clone()), target_id: Some(target.clone()), ..Revocation::default() })?;
        }
    }
    Ok(())
}

pub fn delete_user(tx: &mut Tx<'_>, env: &Env, user_id: &str) -> Result<()> {
    Grants::drop_actor(tx, Actor::User, user_id)?;
    tx.exec("DELETE FROM memberships WHERE user_id = $1", params![user_id])?;
    tx.exec("DELETE FROM lockouts WHERE user_id = $1", params![user_id])?;
    tx.delete_where::<Credential>(&Query::new().eq("user_id", user_id))?;
    tx.delete_where::<ApplicationCredential>(&Query::new().eq("user_id", user_id))?;
    tx.delete_where::<AccessRule>(&Query::new().eq("user_id", user_id))?;
    let mine = Filter::Any(vec![Filter::Eq("trustor_user_id", user_id.into()), Filter::Eq("trustee_user_id", user_id.into())]);
    tx.delete_where::<Trust>(&Query::new().filter(mine))?;
    tx.delete_id::<User>(user_id)?;
    revoke_user(tx, env, user_id)
}

pub fn delete_group(tx: &mut Tx<'_>, env: &Env, group_id: &str) -> Result<()> {
    for user in store::members_of(tx, group_id)? {
        revoke_user(tx, env, &user)?;
    }
    Grants::drop_actor(tx, Actor::Group, group_id)?;
    tx.exec("DELETE FROM memberships WHERE group_id = $1", params![group_id])?;
    tx.delete_id::<Group>(group_id).map(drop)
}

pub fn delete_role(tx: &mut Tx<'_>, env: &Env, role_id: &str) -> Result<()> {
    for a in Grants::of_role(tx, role_id)? {
        revoke_grant(tx, env, &a)?;
    }
    Grants::drop_role(tx, role_id)?;
    tx.exec("DELETE FROM implied_roles WHERE prior_id = $1 OR implied_id = $1", params![role_id])?;
    tx.delete_id::<Role>(role_id).map(drop)
}

/// One project, which must have no children.
pub fn delete_project(tx: &mut Tx<'_>, env: &Env, project_id: &str) -> Result<()> {
    Grants::drop_target(tx, project_id)?;
    tx.delete_where::<Credential>(&Query::new().eq("project_id", project_id))?;
    tx.delete_where::<ApplicationCredential>(&Query::new().eq("project_id", project_id))?;
    tx.delete_where::<Trust>(&Query::new().eq("project_id", project_id))?;
    tx.delete_where::<Limit>(&Query::new().eq("project_id", project_id))?;
    tx.exec("DELETE FROM endpoint_projects WHERE project_id = $1", params![project_id])?;
    for mut user in tx.list::<User>(&Query::new().eq("default_project_id", project_id))? {
        user.default_project_id = None;
        tx.update(&mut user)?;
    }
    tx.delete_id::<Project>(project_id)?;
    revoke_target(tx, env, project_id)
}

/// A domain and everything in it.
pub fn delete_domain(tx: &mut Tx<'_>, env: &Env, domain_id: &str) -> Result<()> {
    for user in tx.list::<User>(&Query::new().eq("domain_id", domain_id))? {
        delete_user(tx, env, &user.id)?;
    }
    for group in tx.list::<Group>(&Query::new().eq("domain_id", domain_id))? {
        delete_group(tx, env, &group.id)?;
    }
    for project in roles::subtree(tx, domain_id)?.iter().rev() {
        delete_project(tx, env, &project.id)?;
    }
    for role in tx.list::<Role>(&Query::new().eq("domain_id", domain_id))? {
        delete_role(tx, env, &role.id)?;
    }
    tx.delete_id::<DomainConfig>(domain_id)?;
    tx.delete_where::<Limit>(&Query::new().eq("domain_id", domain_id))?;
    delete_project(tx, env, domain_id)
}

pub fn delete_service(tx: &mut Tx<'_>, service_id: &str) -> Result<()> {
    for e in tx.list::<Endpoint>(&Query::new().eq("service_id", service_id))? {
        crate::logic::catalog::drop_endpoint(tx, &e.id)?;
    }
    tx.delete_id::<CatalogService>(service_id).map(drop)
}
