//! Granting and revoking roles: users and groups on projects, domains and the system, and inherited
//! grants (OS-INHERIT).

use super::fields::Cx;
use super::lists::page;
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, GRANT_LIST, GRANT_SHOW, GRANT_WRITE, ruled};
use super::{guard, not_found, roles};
use crate::logic::lifecycle;
use crate::state::Identity;
use crate::store::{Actor, Assignment, Grants, Group, Project, Role, Target, User};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Query, Tx};
use serde_json::{Value, json};

/// The four operations on one kind of grant.
macro_rules! grants {
    ($($what:literal, $base:literal, $list:expr, $check:expr, $create:expr, $revoke:expr;)*) => {
        &[$(
            Op::get(concat!("grant_list_", $what), $base, $list, h!(grant_list)),
            Op::get(concat!("grant_check_", $what), concat!($base, "/{role_id}"), $check, h!(grant_check)),
            Op::put(concat!("grant_create_", $what), concat!($base, "/{role_id}"), $create, h!(grant_create)),
            Op::delete(concat!("grant_revoke_", $what), concat!($base, "/{role_id}"), $revoke, h!(grant_revoke)),
        )*]
    };
}

const LIST: caelum_rest::Access = ruled("identity:list_grants", GRANT_LIST);
const CHECK: caelum_rest::Access = ruled("identity:check_grant", GRANT_SHOW);
const CREATE: caelum_rest::Access = ruled("identity:create_grant", GRANT_WRITE);
const REVOKE: caelum_rest::Access = ruled("identity:revoke_grant", GRANT_WRITE);

pub const OPS: &[Op<Identity>] = grants![
    "user_on_project", "/projects/{project_id}/users/{user_id}/roles", LIST, CHECK, CREATE, REVOKE;
    "group_on_project", "/projects/{project_id}/groups/{group_id}/roles", LIST, CHECK, CREATE, REVOKE;
    "user_on_domain", "/domains/{domain_id}/users/{user_id}/roles", LIST, CHECK, CREATE, REVOKE;
    "group_on_domain", "/domains/{domain_id}/groups/{group_id}/roles", LIST, CHECK, CREATE, REVOKE;
    "user_on_system", "/system/users/{user_id}/roles",
        ruled("identity:list_system_grants_for_user", ADMIN_OR_SYSTEM_READER),
        ruled("identity:check_system_grant_for_user", ADMIN_OR_SYSTEM_READER),
        ruled("identity:create_system_grant_for_user", ADMIN),
        ruled("identity:revoke_system_grant_for_user", ADMIN);
    "group_on_system", "/system/groups/{group_id}/roles",
        ruled("identity:list_system_grants_for_group", ADMIN_OR_SYSTEM_READER),
        ruled("identity:check_system_grant_for_group", ADMIN_OR_SYSTEM_READER),
        ruled("identity:create_system_grant_for_group", ADMIN),
        ruled("identity:revoke_system_grant_for_group", ADMIN);
];

pub const INHERITED_OPS: &[Op<Identity>] = &[
    Op::get(
        "inherited_list_user_on_domain",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/inherited_to_projects",
        LIST,
        h!(grant_list),
    ),
    Op::get(
        "inherited_check_user_on_domain",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        CHECK,
        h!(grant_check),
    ),
    Op::put(
        "inherited_create_user_on_domain",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        CREATE,
        h!(grant_create),
    ),
    Op::delete(
        "inherited_revoke_user_on_domain",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        REVOKE,
        h!(grant_revoke),
    ),
    Op::get(
        "inherited_list_group_on_domain",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/inherited_to_projects",
        LIST,
        h!(grant_list),
    ),
    Op::get(
        "inherited_check_group_on_domain",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        CHECK,
        h!(grant_check),
    ),
    Op::put(
        "inherited_create_group_on_domain",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        CREATE,
        h!(grant_create),
    ),
    Op::delete(
        "inherited_revoke_group_on_domain",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        REVOKE,
        h!(grant_revoke),
    ),
    Op::get(
        "inherited_check_user_on_project",
        "/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        CHECK,
        h!(grant_check),
    ),
    Op::put(
        "inherited_create_user_on_project",
        "/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        CREATE,
        h!(grant_create),
    ),
    Op::delete(
        "inherited_revoke_user_on_project",
        "/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        REVOKE,
        h!(grant_revoke),
    ),
    Op::get(
        "inherited_check_group_on_project",
        "/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        CHECK,
        h!(grant_check),
    ),
    Op::put(
        "inherited_create_group_on_project",
        "/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        CREATE,
        h!(grant_create),
    ),
    Op::delete(
        "inherited_revoke_group_on_project",
        "/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        REVOKE,
        h!(grant_revoke),
    ),
];

/// The assignment the path names; `role_id` is empty for lists.
fn named(cx: &Cx) -> Assignment {
    let path = cx.op.path;
    let (actor, actor_id) =
        if path.contains("{user_id}") { (Actor::User, cx.param("user_id")) } else { (Actor::Group, cx.param("group_id")) };
    let (target, target_id) = if path.contains("{project_id}") {
        (Target::Project, cx.param("project_id"))
    } else if path.contains("{domain_id}") {
        (Target::Domain, cx.param("domain_id"))
    } else {
        (Target::System, "system")
    };
    let role_id = if path.contains("{role_id}") { cx.param("role_id") } else { "" };
    Assignment {
        actor,
        actor_id: actor_id.into(),
        target,
        target_id: target_id.into(),
        role_id: role_id.into(),
        inherited: path.starts_with("/OS-INHERIT/"),
    }
}

/// What policy sees, and the first thing of the path that does not exist.
fn look(tx: &mut Tx<'_>, a: &Assignment) -> Result<(Value, Option<Error>)> {
    let (mut about, mut missing) = (json!({}), None);
    let mut miss = |what: &str, id: &str| {
        missing.get_or_insert_with(|| not_found(what, id));
    };
    if !a.role_id.is_empty() {
        match tx.get::<Role>(&a.role_id)? {
            Some(r) => about["role"] = roles::target(&r)["role"].clone(),
            None => miss("role", &a.role_id),
        }
    }
    match a.actor {
        Actor::User => match tx.get::<User>(&a.actor_id)? {
            Some(u) => about["user"] = json!({"id": u.id, "domain_id": u.domain_id}),
            None => miss("user", &a.actor_id),
        },
        Actor::Group => match tx.get::<Group>(&a.actor_id)? {
            Some(g) => about["group"] = json!({"id": g.id, "domain_id": g.domain_id}),
            None => miss("group", &a.actor_id),
        },
    }
    match a.target {
        Target::System => {}
        Target::Project => match tx.get::<Project>(&a.target_id)? {
            Some(p) => about["project"] = super::projects::target(&p)["project"].clone(),
            None => miss("project", &a.target_id),
        },
        Target::Domain => match tx.get::<Project>(&a.target_id)?.filter(|d| d.is_domain) {
            Some(d) => about["domain"] = json!({"id": d.id}),
            None => miss("domain", &a.target_id),
        },
    }
    Ok((about, missing))
}

async fn authorized(cx: &Cx) -> Result<Assignment> {
    let a = named(cx);
    let probe = a.clone();
    let (about, missing) = cx.state.read(move |tx| look(tx, &probe)).await?;
    guard(cx, &about)?;
    match missing {
        None => Ok(a),
        // Taking away what a deleted actor had is allowed; there is nothing to take away then.
        Some(e) => Err(e),
    }
}

async fn grant_list(cx: Cx) -> Result<Reply> {
    let a = authorized(&cx).await?;
    let rows = cx
        .state
        .read(move |tx| {
            let all = Grants::of_actors(tx, &[(a.actor, a.actor_id.clone())])?;
            let fits = |g: &&Assignment| g.target == a.target && g.target_id == a.target_id && g.inherited == a.inherited;
            let ids: Vec<String> = all.iter().filter(fits).map(|g| g.role_id.clone()).collect();
            tx.list::<Role>(&Query::new().is_in("id", ids))
        })
        .await?;
    page(&cx, "roles", rows.iter().map(|r| roles::view(&cx, r)).collect())
}

fn missing(a: &Assignment) -> Error {
    let actor = a.actor.as_str();
    Error::not_found(format!(
        "Could not find role assignment with role: {}, {actor}: {}, {}: {}.",
        a.role_id,
        a.actor_id,
        a.target.as_str(),
        a.target_id
    ))
}

async fn grant_check(cx: Cx) -> Result<Reply> {
    let a = authorized(&cx).await?;
    let probe = a.clone();
    if cx.state.read(move |tx| Grants::exists(tx, &probe)).await? { Ok(Reply::no_content()) } else { Err(missing(&a)) }
}

async fn grant_create(cx: Cx) -> Result<Reply> {
    let a = authorized(&cx).await?;
    cx.state
        .write(move |tx| {
            let role = tx.get::<Role>(&a.role_id)?.ok_or_else(|| not_found("role", &a.role_id))?;
            if !role.domain_id.is_empty() {
                check_domain_role(tx, &a, &role)?;
            }
            Grants::add(tx, &a)
        })
        .await?;
    Ok(Reply::no_content())
}

/// A domain's role can be granted on that domain and its projects only.
fn check_domain_role(tx: &mut Tx<'_>, a: &Assignment, role: &Role) -> Result<()> {
    let fits = match a.target {
        Target::System => false,
        Target::Domain => a.target_id == role.domain_id,
        Target::Project => tx.get::<Project>(&a.target_id)?.is_some_and(|p| p.domain_id == role.domain_id),
    };
    if fits { Ok(()) } else { Err(super::forbidden("A role of one domain cannot be granted outside of it.")) }
}

async fn grant_revoke(cx: Cx) -> Result<Reply> {
    let a = authorized(&cx).await?;
    let env = cx.env.clone();
    cx.state
        .write(move |tx| {
            if !Grants::remove(tx, &a)? {
                return Err(missing(&a));
            }
            lifecycle::revoke_grant(tx, &env, &a)
        })
        .await?;
    Ok(Reply::no_content())
}
