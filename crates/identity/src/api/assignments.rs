//! The list of role assignments, as stored or as effective.

use super::fields::Cx;
use super::guard;
use super::lists::{base, url};
use super::rules::{DOMAIN_LIST, ruled};
use crate::logic::roles;
use crate::state::Identity;
use crate::store::{self, Actor, Assignment, Grants, Group, Project, Role, Target, User};
use caelum_base::{Error, Result};
use caelum_policy::RuleDefault;
use caelum_rest::{Op, QueryParams, Reply, h};
use caelum_store::{Query, Tx};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const OPS: &[Op<Identity>] =
    &[Op::get("role_assignment_list", "/role_assignments", ruled("identity:list_role_assignments", DOMAIN_LIST), h!(assignment_list))];

/// Asked instead when a whole tree is listed.
pub const RULES: &[RuleDefault] = &[RuleDefault::helper("identity:list_role_assignments_for_tree", DOMAIN_LIST)];

/// One line of the answer, and where it comes from.
#[derive(Clone)]
struct Line {
    a: Assignment,
    /// The group a user's effective assignment comes by.
    via_group: Option<String>,
    /// The project or domain it is inherited from.
    inherited_from: Option<(Target, String)>,
    /// The role that implies it.
    prior_role: Option<String>,
}

struct Wanted {
    user: Option<String>,
    group: Option<String>,
    role: Option<String>,
    project: Option<String>,
    domain: Option<String>,
    system: bool,
    inherited: Option<bool>,
    effective: bool,
    include_names: bool,
    include_subtree: bool,
}

/// A parameter that switches something on: present, and not `false` or `0`.
fn flag(q: &QueryParams, key: &str) -> bool {
    q.get(key).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
}

impl Wanted {
    fn read(q: &QueryParams) -> Result<Self> {
        let get = |k: &str| q.get(k).map(str::to_string);
        let w = Self {
            user: get("user.id"),
            group: get("group.id"),
            role: get("role.id"),
            project: get("scope.project.id"),
            domain: get("scope.domain.id"),
            system: q.get("scope.system").is_some(),
            inherited: q.get("scope.OS-INHERIT:inherited_to").map(|v| v == "projects"),
            effective: flag(q, "effective"),
            include_names: flag(q, "include_names"),
            include_subtree: flag(q, "include_subtree"),
        };
        if w.user.is_some() && w.group.is_some() {
            return Err(Error::invalid("Specify a user or group, not both"));
        }
        if [w.project.is_some(), w.domain.is_some(), w.system].iter().filter(|x| **x).count() > 1 {
            return Err(Error::invalid("Specify only one of a project, a domain or the system"));
        }
        if w.effective && w.group.is_some() {
            return Err(Error::invalid("Combining effective and group filter will always result in an empty list."));
        }
        if w.effective && w.domain.is_some() && w.inherited == Some(true) {
            return Err(Error::invalid("Combining effective, domain and inherited filters will always result in an empty list."));
        }
        if w.include_subtree && w.project.is_none() {
            return Err(Error::invalid("scope.project.id must be specified if include_subtree is also specified"));
        }
        Ok(w)
    }

    fn fits(&self, line: &Line, projects: Option<&BTreeSet<String>>) -> bool {
        let a = &line.a;
        let is = |w: &Option<String>, actor: Actor| w.as_ref().is_none_or(|id| a.actor == actor && a.actor_id == *id);
        let inherited = a.inherited || line.inherited_from.is_some();
        is(&self.user, Actor::User)
            && is(&self.group, Actor::Group)
            && self.role.as_ref().is_none_or(|r| a.role_id == *r)
            && projects.is_none_or(|ids| a.target == Target::Project && ids.contains(&a.target_id))
            && self.domain.as_ref().is_none_or(|d| a.target == Target::Domain && a.target_id == *d)
            && (!self.system || a.target == Target::System)
            && self.inherited.is_none_or(|i| i == inherited)
    }
}

fn plain(a: Assignment) -> Line {
    Line { a, via_group: None, inherited_from: None, prior_role: None }
}

/// Groups become their members, inherited assignments the projects below, roles what they imply.
fn effective(tx: &mut Tx<'_>, all: Vec<Assignment>, w: &Wanted) -> Result<Vec<Line>> {
    let roles_by_id: BTreeMap<String, Role> = tx.list::<Role>(&Query::new())?.into_iter().map(|r| (r.id.clone(), r.value)).collect();
    let implied = store::implications(tx)?;
    let mut trees: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut out = Vec::new();
    for a in all {
        let users: Vec<(String, Option<String>)> = match a.actor {
            Actor::User => vec![(a.actor_id.clone(), None)],
            Actor::Group => store::members_of(tx, &a.actor_id)?.into_iter().map(|u| (u, Some(a.actor_id.clone()))).collect(),
        };
        let users: Vec<_> = users.into_iter().filter(|(u, _)| w.user.as_ref().is_none_or(|wanted| wanted == u)).collect();
        if users.is_empty() {
            continue;
        }
        let mut places = vec![(a.target, a.target_id.clone(), None)];
        if a.inherited {
            if !trees.contains_key(&a.target_id) {
                let below = roles::subtree(tx, &a.target_id)?.into_iter().map(|p| p.id).collect();
                trees.insert(a.target_id.clone(), below);
            }
            let from = Some((a.target, a.target_id.clone()));
            places = trees[&a.target_id].iter().map(|p| (Target::Project, p.clone(), from.clone())).collect();
        }
        for role in roles::closure(vec![a.role_id.clone()], &implied) {
            // A domain's own role never reaches a token.
            if roles_by_id.get(&role).is_none_or(|r| !r.domain_id.is_empty()) {
                continue;
            }
            let prior_role = (role != a.role_id).then(|| a.role_id.clone());
            for (user, via_group) in &users {
                for (target, target_id, inherited_from) in &places {
                    out.push(Line {
                        a: Assignment {
                            actor: Actor::User,
                            actor_id: user.clone(),
                            target: *target,
                            target_id: target_id.clone(),
                            role_id: role.clone(),
                            inherited: false,
                        },
                        via_group: via_group.clone(),
                        inherited_from: inherited_from.clone(),
                        prior_role: prior_role.clone(),
                    });
                }
            }
        }
    }
    Ok(out)
}

/// Names of everything the lines mention.
#[derive(Default)]
struct Names {
    projects: BTreeMap<String, Project>,
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
    roles: BTreeMap<String, Role>,
}

impl Names {
    fn read(tx: &mut Tx<'_>, lines: &[Line]) -> Result<Self> {
        let ids = |f: &dyn Fn(&Line) -> Option<&String>| -> Vec<String> {
            lines.iter().filter_map(f).cloned().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let users = ids(&|l| (l.a.actor == Actor::User).then_some(&l.a.actor_id));
        let groups = ids(&|l| (l.a.actor == Actor::Group).then_some(&l.a.actor_id));
        let users: Vec<User> = tx.list::<User>(&Query::new().is_in("id", users))?.into_iter().map(|u| u.value).collect();
        let groups: Vec<Group> = tx.list::<Group>(&Query::new().is_in("id", groups))?.into_iter().map(|g| g.value).collect();
        let projects = tx.list::<Project>(&Query::new())?;
        let roles = tx.list::<Role>(&Query::new())?;
        Ok(Self {
            projects: projects.into_iter().map(|p| (p.id.clone(), p.value)).collect(),
            users: users.into_iter().map(|u| (u.id.clone(), u)).collect(),
            groups: groups.into_iter().map(|g| (g.id.clone(), g)).collect(),
            roles: roles.into_iter().map(|r| (r.id.clone(), r.value)).collect(),
        })
    }

    fn domain(&self, id: &str) -> Value {
        json!({"id": id, "name": self.projects.get(id).map(|d| d.name.clone())})
    }

    fn add(&self, line: &Line, v: &mut Value) {
        let a = &line.a;
        if let Some(r) = self.roles.get(&a.role_id) {
            v["role"]["name"] = json!(r.name);
            if !r.domain_id.is_empty() {
                v["role"]["domain"] = self.domain(&r.domain_id);
            }
        }
        let (key, found) = match a.actor {
            Actor::User => ("user", self.users.get(&a.actor_id).map(|u| (&u.name, &u.domain_id))),
            Actor::Group => ("group", self.groups.get(&a.actor_id).map(|g| (&g.name, &g.domain_id))),
        };
        if let Some((name, domain)) = found {
            v[key]["name"] = json!(name);
            v[key]["domain"] = self.domain(domain);
        }
        match (a.target, self.projects.get(&a.target_id)) {
            (Target::Project, Some(p)) => {
                v["scope"]["project"]["name"] = json!(p.name);
                v["scope"]["project"]["domain"] = self.domain(if p.is_domain { &p.id } else { &p.domain_id });
            }
            (Target::Domain, Some(d)) => v["scope"]["domain"]["name"] = json!(d.name),
            _ => {}
        }
    }
}

fn view(cx: &Cx, line: &Line, names: Option<&Names>) -> Value {
    let a = &line.a;
    let mut scope = match a.target {
        Target::System => json!({"system": {"all": true}}),
        t => json!({t.as_str(): {"id": a.target_id}}),
    };
    if a.inherited || line.inherited_from.is_some() {
        scope["OS-INHERIT:inherited_to"] = json!("projects");
    }
    let mut v = json!({"role": {"id": a.role_id}, "scope": scope});
    v[a.actor.as_str()] = json!({"id": a.actor_id});
    // The link names the assignment as it is stored.
    let (actor, actor_id) = line.via_group.as_ref().map_or((a.actor, &a.actor_id), |g| (Actor::Group, g));
    let (target, target_id) = line.inherited_from.as_ref().map_or((a.target, &a.target_id), |(t, id)| (*t, id));
    let role = line.prior_role.as_ref().unwrap_or(&a.role_id);
    let place = if target == Target::System { "system".to_string() } else { format!("{}s/{target_id}", target.as_str()) };
    let mut path = format!("{place}/{}s/{actor_id}/roles/{role}", actor.as_str());
    if a.inherited || line.inherited_from.is_some() {
        path = format!("OS-INHERIT/{path}/inherited_to_projects");
    }
    let mut links = json!({"assignment": url(cx, &path)});
    if let Some(g) = &line.via_group {
        links["membership"] = json!(url(cx, &format!("groups/{g}/users/{}", a.actor_id)));
    }
    if let Some(p) = &line.prior_role {
        links["prior_role"] = json!(url(cx, &format!("prior_role/{p}/implies/{}", a.role_id)));
    }
    v["links"] = links;
    if let Some(n) = names {
        n.add(line, &mut v);
    }
    v
}

fn collect(tx: &mut Tx<'_>, w: &Wanted, own_domain: Option<&str>) -> Result<(Vec<Line>, Option<Names>)> {
    let all = Grants::all(tx)?;
    let mut lines = if w.effective { effective(tx, all, w)? } else { all.into_iter().map(plain).collect() };
    let projects = match &w.project {
        Some(p) if w.include_subtree => {
            let mut ids: BTreeSet<String> = roles::subtree(tx, p)?.into_iter().map(|p| p.id).collect();
            ids.insert(p.clone());
            Some(ids)
        }
        Some(p) => Some(BTreeSet::from([p.clone()])),
        None => None,
    };
    lines.retain(|l| w.fits(l, projects.as_ref()));
    if let Some(own) = own_domain {
        // A domain's reader sees what is granted inside the domain.
        let mut inside: BTreeSet<String> = roles::subtree(tx, own)?.into_iter().map(|p| p.id).collect();
        inside.insert(own.to_string());
        lines.retain(|l| inside.contains(&l.a.target_id));
    }
    let names = if w.include_names { Some(Names::read(tx, &lines)?) } else { None };
    Ok((lines, names))
}

async fn assignment_list(cx: Cx) -> Result<Reply> {
    let own = cx.auth().creds.domain_id.clone();
    let w = Wanted::read(&cx.query)?;
    let about = json!({"domain_id": own});
    if w.include_subtree {
        cx.filtered();
        cx.require("identity:list_role_assignments_for_tree", &caelum_policy::Target::new().with_object("target", &about))?;
    } else {
        guard(&cx, &about)?;
    }
    let (lines, names) = cx.state.read(move |tx| collect(tx, &w, own.as_deref())).await?;
    let rows: Vec<Value> = lines.iter().map(|l| view(&cx, l, names.as_ref())).collect();
    let own = format!("{}{}", base(&cx), cx.path);
    Reply::ok(&json!({"role_assignments": rows, "links": {"self": own, "next": null, "previous": null}}))
}
