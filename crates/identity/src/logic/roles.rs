//! Effective roles: direct, by group, inherited from above, implied.

use crate::store::{self, Actor, Assignment, Grants, Project, Role, Target};
use crate::token::Scope;
use caelum_base::{Error, Result};
use caelum_store::{Query, Tx};
use std::collections::BTreeSet;

/// Longest chain of parents; deeper trees cannot be made.
pub const MAX_DEPTH: usize = 5;

/// Parents of a project, nearest first; the domain is the last.
pub fn ancestors(tx: &mut Tx<'_>, project: &Project) -> Result<Vec<Project>> {
    let mut out: Vec<Project> = Vec::new();
    let mut next = project.parent_id.clone();
    while let Some(id) = next.take() {
        let Some(p) = tx.get::<Project>(&id)? else { break };
        next.clone_from(&p.parent_id);
        out.push(p.value);
        if out.len() > MAX_DEPTH + 1 {
            return Err(Error::internal("the project tree is deeper than allowed"));
        }
    }
    Ok(out)
}

/// Everything below a project, parents before children.
pub fn subtree(tx: &mut Tx<'_>, id: &str) -> Result<Vec<Project>> {
    let mut out: Vec<Project> = Vec::new();
    let mut level = vec![id.to_string()];
    while !level.is_empty() {
        let found = tx.list::<Project>(&Query::new().is_in("parent_id", level).sort("name", caelum_store::Dir::Asc))?;
        level = found.iter().map(|p| p.id.clone()).collect();
        out.extend(found.into_iter().map(|p| p.value));
    }
    Ok(out)
}

/// The roles of these ids and all they imply, without domain-specific roles, in order of name.
pub fn expand(tx: &mut Tx<'_>, ids: Vec<String>) -> Result<Vec<Role>> {
    let implied = store::implications(tx)?;
    let all = closure(ids, &implied);
    let mut roles: Vec<Role> = tx.list::<Role>(&Query::new().is_in("id", all))?.into_iter().map(|r| r.value).collect();
    roles.retain(|r| r.domain_id.is_empty());
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(roles)
}

/// `ids` and everything reachable over the implications.
pub fn closure(ids: Vec<String>, implied: &[(String, String)]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = ids;
    while let Some(id) = todo.pop() {
        if seen.insert(id.clone()) {
            todo.extend(implied.iter().filter(|(p, _)| *p == id).map(|(_, i)| i.clone()));
        }
    }
    seen
}

/// Assignments of a user and the groups it is in.
pub fn assignments_of_user(tx: &mut Tx<'_>, user_id: &str) -> Result<Vec<Assignment>> {
    let mut actors = vec![(Actor::User, user_id.to_string())];
    actors.extend(store::groups_of(tx, user_id)?.into_iter().map(|g| (Actor::Group, g)));
    Grants::of_actors(tx, &actors)
}

/// Role ids a set of assignments gives on a scope; `above` are the ancestors of a project.
fn directly_on(assignments: &[Assignment], scope: &Scope, above: &[Project]) -> Vec<String> {
    let fits = |a: &&Assignment| match scope {
        Scope::Unscoped => false,
        Scope::System => a.target == Target::System && !a.inherited,
        Scope::Domain(id) => a.target == Target::Domain && !a.inherited && a.target_id == *id,
        Scope::Project(id) => {
            let direct = a.target == Target::Project && !a.inherited && a.target_id == *id;
            direct || (a.inherited && above.iter().any(|p| p.id == a.target_id))
        }
    };
    assignments.iter().filter(fits).map(|a| a.role_id.clone()).collect()
}

/// A user's roles on a scope; empty for unscoped.
pub fn effective(tx: &mut Tx<'_>, user_id: &str, scope: &Scope) -> Result<Vec<Role>> {
    if *scope == Scope::Unscoped {
        return Ok(Vec::new());
    }
    let above = match scope {
        Scope::Project(id) => match tx.get::<Project>(id)? {
            Some(p) => ancestors(tx, &p)?,
            None => return Ok(Vec::new()),
        },
        Scope::Unscoped | Scope::System | Scope::Domain(_) => Vec::new(),
    };
    let assignments = assignments_of_user(tx, user_id)?;
    let ids = directly_on(&assignments, scope, &above);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    expand(tx, ids)
}

/// Ids of the projects and of the domains where a user has any role, and whether it has one on the system.
pub fn reachable(tx: &mut Tx<'_>, user_id: &str) -> Result<(BTreeSet<String>, BTreeSet<String>, bool)> {
    let (mut projects, mut domains, mut system) = (BTreeSet::new(), BTreeSet::new(), false);
    for a in assignments_of_user(tx, user_id)? {
        match (a.target, a.inherited) {
            (Target::System, _) => system = true,
            (Target::Project, false) => drop(projects.insert(a.target_id)),
            (Target::Domain, false) => drop(domains.insert(a.target_id)),
            (Target::Project | Target::Domain, true) => {
                projects.extend(subtree(tx, &a.target_id)?.into_iter().map(|p| p.id));
            }
        }
    }
    Ok((projects, domains, system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implications_are_followed_and_cycles_end() {
        let rules: Vec<(String, String)> = [("a", "b"), ("b", "c"), ("c", "a"), ("x", "y")].map(|(p, i)| (p.into(), i.into())).to_vec();
        let got: Vec<String> = closure(vec!["a".into()], &rules).into_iter().collect();
        assert_eq!(got, ["a", "b", "c"]);
    }
}
