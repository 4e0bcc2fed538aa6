//! `/os-server-groups`.

use super::forms;
use crate::State;
use crate::store::groups::ServerGroup;
use crate::store::{quota_sets, servers};
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_policy::personas::{PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::{Dir, Query, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

const ONE: &str = "/os-server-groups/{id}";
const ALL: &str = "os_compute_api:os-server-groups:index:all_projects";

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::get("server_group_list", "/os-server-groups", reader("os_compute_api:os-server-groups:index"), h!(list)),
    Op::post("server_group_create", "/os-server-groups", member("os_compute_api:os-server-groups:create"), h!(create)),
    Op::get("server_group_show", ONE, reader("os_compute_api:os-server-groups:show"), h!(show)),
    Op::delete("server_group_delete", ONE, member("os_compute_api:os-server-groups:delete"), h!(delete)),
];

/// Version of `policy` and `rules` instead of `policies`.
const RULED: Version = Version(2, 64);

fn view(version: Version, g: &ServerGroup, members: &[String]) -> Value {
    let mut v = json!({"id": g.id, "name": g.name, "members": members});
    if version >= RULED {
        v["policy"] = json!(g.policy);
        v["rules"] = match g.max_server_per_host {
            Some(n) => json!({"max_server_per_host": n}),
            None => json!({}),
        };
    } else {
        v["policies"] = json!([g.policy]);
        v["metadata"] = json!({});
    }
    if version >= Version(2, 13) {
        v["project_id"] = json!(g.project_id);
        v["user_id"] = json!(g.user_id);
    }
    v
}

fn members(tx: &mut Tx<'_>, id: &str) -> Result<Vec<String>> {
    Ok(servers::members(tx, id)?.into_iter().map(|s| s.id.clone()).collect())
}

fn not_found(id: &str) -> Error {
    Error::not_found(format!("Instance group {id} could not be found."))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    forms::known_params(&cx, Version(2, 75), &["all_projects", "limit", "offset"])?;
    let mut q = Query::new().sort("created_at", Dir::Asc);
    let all = cx.query.has("all_projects");
    if all && cx.auth().is_admin() {
        cx.require(ALL, &Target::new())?;
    } else {
        q = q.eq("project_id", cx.auth().project_id()?);
    }
    let limit = cx.query.int("limit")?.filter(|n| *n > 0).unwrap_or(forms::MAX_LIMIT as i64);
    q = q.limit(usize::try_from(limit).unwrap_or(forms::MAX_LIMIT).min(forms::MAX_LIMIT));
    q.offset = cx.query.int("offset")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let version = cx.version;
    let read = move |tx: &mut Tx<'_>| {
        let groups = tx.list::<ServerGroup>(&q)?;
        groups.iter().map(|g| Ok(view(version, g, &members(tx, &g.id)?))).collect::<Result<Vec<_>>>()
    };
    Reply::ok(&json!({"server_groups": cx.state.db.read(read).await?}))
}

/// The group and its members if the caller may know of it.
async fn find(cx: &Ctx<State>) -> Result<(ServerGroup, Vec<String>)> {
    let id = cx.param("id").to_string();
    let read = move |tx: &mut Tx<'_>| match tx.get::<ServerGroup>(&id)? {
        None => Ok(None),
        Some(g) => Ok(Some((g.into_inner(), members(tx, &id)?))),
    };
    let found = cx.state.db.read(read).await?;
    let missing = || not_found(cx.param("id"));
    match found {
        None => {
            cx.authorize_own()?;
            Err(missing())
        }
        Some(found) => {
            cx.authorize_found(&found.0.project_id, missing)?;
            Ok(found)
        }
    }
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (g, members) = find(&cx).await?;
    Reply::ok(&json!({"server_group": view(cx.version, &g, &members)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let (g, _) = find(&cx).await?;
    cx.state.db.write(move |tx| tx.delete_id::<ServerGroup>(&g.id)).await?;
    Ok(Reply::no_content())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    server_group: New,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    policies: Option<Vec<String>>,
    policy: Option<String>,
    rules: Option<Rules>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    max_server_per_host: Option<Value>,
}

impl New {
    /// Policy and its rule.
    fn check(self, version: Version) -> Result<(String, String, Option<i64>)> {
        forms::check_name("name", &self.name)?;
        let wrong = |why: &str| Error::invalid(format!("Invalid input for field/attribute server_group. {why}"));
        let policy = match (version >= RULED, self.policies, self.policy) {
            (true, None, Some(p)) => p,
            (false, Some(mut ps), None) if ps.len() == 1 && self.rules.is_none() => ps.remove(0),
            _ => return Err(wrong("Exactly one policy is required.")),
        };
        let soft = policy.starts_with("soft-") && version < Version(2, 15);
        if soft || !matches!(policy.as_str(), "affinity" | "anti-affinity" | "soft-affinity" | "soft-anti-affinity") {
            return Err(wrong(&format!("{policy} is not a policy.")));
        }
        let max = match self.rules.and_then(|r| r.max_server_per_host) {
            None => None,
            Some(_) if policy != "anti-affinity" => return Err(wrong("Only anti-affinity policy supports rules.")),
            Some(v) => {
                let n = forms::integer(&v).ok_or_else(|| wrong("max_server_per_host must be a positive integer."))?;
                Some(forms::check_range("max_server_per_host", n, 1)?)
            }
        };
        Ok((self.name, policy, max))
    }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let new = cx.json::<Body>().await?.server_group;
    let (name, policy, max_server_per_host) = new.check(cx.version)?;
    let g = ServerGroup {
        id: cx.env.uuid(),
        project_id: cx.auth().project_id()?.to_string(),
        user_id: cx.auth().user_id().to_string(),
        name,
        policy,
        max_server_per_host,
        created_at: cx.env.now(),
    };
    let v = view(cx.version, &g, &[]);
    let write = move |tx: &mut Tx<'_>| {
        let limit = quota_sets::effective(tx, &g.project_id)?.get("server_groups").copied().unwrap_or(-1);
        let have = tx.count::<ServerGroup>(&Query::new().eq("project_id", g.project_id.as_str()))?;
        if limit >= 0 && have >= limit {
            return Err(Error::over_quota("Quota exceeded, too many server groups."));
        }
        tx.insert(&g).map(drop)
    };
    cx.state.db.write(write).await?;
    Reply::ok(&json!({"server_group": v}))
}
