//! Trusts (OS-TRUST): a user lets another act with some of its roles on a project.

use super::application_credentials::future;
use super::fields::{Cx, Fields};
use super::lists::{base, page, url};
use super::rules::{ADMIN_OR_SYSTEM_READER, TRUST_SHOW, TRUST_WRITE, TRUSTOR, ruled};
use super::{forbidden, guard, not_found, roles};
use crate::logic;
use crate::state::Identity;
use crate::store::{Role, Trust, User};
use crate::token::Scope;
use caelum_base::{Error, Result, Timestamp};
use caelum_policy::RuleDefault;
use caelum_rest::{Op, Reply, h};
use caelum_store::{Dir, Query, Stored, Tx};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("trust_list", "/OS-TRUST/trusts", ruled("identity:list_trusts", ADMIN_OR_SYSTEM_READER), h!(trust_list)),
    Op::post("trust_create", "/OS-TRUST/trusts", ruled("identity:create_trust", TRUSTOR), h!(trust_create)),
    Op::get("trust_show", "/OS-TRUST/trusts/{trust_id}", ruled("identity:get_trust", TRUST_SHOW), h!(trust_show)),
    Op::delete("trust_delete", "/OS-TRUST/trusts/{trust_id}", ruled("identity:delete_trust", TRUST_WRITE), h!(trust_delete)),
    Op::get("trust_role_list", "/OS-TRUST/trusts/{trust_id}/roles", ruled("identity:list_roles_for_trust", TRUST_SHOW), h!(role_list)),
    Op::get(
        "trust_role_show",
        "/OS-TRUST/trusts/{trust_id}/roles/{role_id}",
        ruled("identity:get_role_for_trust", TRUST_SHOW),
        h!(role_show),
    ),
];

/// Asked when the list is limited to one side.
pub const RULES: &[RuleDefault] = &[
    RuleDefault::helper(
        "identity:list_trusts_for_trustor",
        "rule:admin_required or (role:reader and system_scope:all) or user_id:%(target.trust.trustor_user_id)s",
    ),
    RuleDefault::helper(
        "identity:list_trusts_for_trustee",
        "rule:admin_required or (role:reader and system_scope:all) or user_id:%(target.trust.trustee_user_id)s",
    ),
];

fn target(t: &Trust) -> Value {
    json!({"trust": {"trustor_user_id": t.trustor_user_id, "trustee_user_id": t.trustee_user_id}})
}

fn view(cx: &Cx, t: &Trust) -> Value {
    let mut v = t.extra.clone();
    v.insert("id".into(), json!(t.id));
    v.insert("trustor_user_id".into(), json!(t.trustor_user_id));
    v.insert("trustee_user_id".into(), json!(t.trustee_user_id));
    v.insert("project_id".into(), json!(t.project_id));
    v.insert("impersonation".into(), json!(t.impersonation));
    v.insert("expires_at".into(), json!(t.expires_at.map(Timestamp::iso_micros_z)));
    v.insert("remaining_uses".into(), json!(t.remaining_uses));
    v.insert("redelegation_count".into(), json!(t.redelegation_count));
    v.insert("redelegated_trust_id".into(), json!(t.redelegated_trust_id));
    v.insert("deleted_at".into(), Value::Null);
    v.insert("links".into(), json!({"self": url(cx, &format!("OS-TRUST/trusts/{}", t.id))}));
    Value::Object(v)
}

fn with_roles(cx: &Cx, t: &Trust, list: &[Role]) -> Value {
    let mut v = view(cx, t);
    v["roles"] = list.iter().map(|r| roles::view(cx, r)).collect();
    v["roles_links"] = json!({"self": url(cx, &format!("OS-TRUST/trusts/{}/roles", t.id)), "next": null, "previous": null});
    v
}

fn roles_of(tx: &mut Tx<'_>, t: &Trust) -> Result<Vec<Role>> {
    let q = Query::new().is_in("id", t.role_ids.clone()).sort("name", Dir::Asc);
    Ok(tx.list::<Role>(&q)?.into_iter().map(|r| r.value).collect())
}

async fn find(cx: &Cx) -> Result<(Stored<Trust>, Vec<Role>)> {
    let id = cx.param("trust_id");
    let now = cx.env.now();
    let t = cx.state.db.get::<Trust>(id).await?.filter(|t| t.expires_at.is_none_or(|e| e > now));
    let t = t.ok_or_else(|| not_found("trust", id))?;
    guard(cx, &target(&t))?;
    let trust = t.value.clone();
    let list = cx.state.read(move |tx| roles_of(tx, &trust)).await?;
    Ok((t, list))
}

async fn trust_list(cx: Cx) -> Result<Reply> {
    let (trustor, trustee) = (cx.query.get("trustor_user_id"), cx.query.get("trustee_user_id"));
    let about = json!({"trust": {"trustor_user_id": trustor, "trustee_user_id": trustee}});
    let named = |rule: &str| cx.require(rule, &caelum_policy::Target::new().with_object("target", &about));
    if trustor.is_none() && trustee.is_none() {
        guard(&cx, &Value::Null)?;
    } else {
        cx.filtered();
    }
    let mut q = Query::new();
    if let Some(u) = trustor {
        named("identity:list_trusts_for_trustor")?;
        q = q.eq("trustor_user_id", u);
    }
    if let Some(u) = trustee {
        if trustor.is_none() {
            named("identity:list_trusts_for_trustee")?;
        }
        q = q.eq("trustee_user_id", u);
    }
    let now = cx.env.now();
    let rows = cx.state.db.list::<Trust>(q).await?;
    let alive = rows.iter().filter(|t| t.expires_at.is_none_or(|e| e > now));
    page(&cx, "trusts", alive.map(|t| view(&cx, t)).collect())
}

async fn trust_show(cx: Cx) -> Result<Reply> {
    let (t, list) = find(&cx).await?;
    Reply::ok(&json!({"trust": with_roles(&cx, &t, &list)}))
}

async fn role_list(cx: Cx) -> Result<Reply> {
    let (_, list) = find(&cx).await?;
    let own = format!("{}{}", base(&cx), cx.path);
    let views: Vec<Value> = list.iter().map(|r| roles::view(&cx, r)).collect();
    Reply::ok(&json!({"roles": views, "links": {"self": own, "next": null, "previous": null}}))
}

async fn role_show(cx: Cx) -> Result<Reply> {
    let (_, list) = find(&cx).await?;
    let id = cx.param("role_id");
    let role = list.iter().find(|r| r.id == id).ok_or_else(|| not_found("role", id))?;
    Reply::ok(&json!({"role": roles::view(&cx, role)}))
}

async fn trust_delete(cx: Cx) -> Result<Reply> {
    let (t, _) = find(&cx).await?;
    if cx.auth().application_credential_id.is_some() {
        super::credentials::not_delegated(&cx).await?;
    }
    let id = t.id.clone();
    cx.state.write(move |tx| tx.delete_id::<Trust>(&id)).await?;
    Ok(Reply::no_content())
}

/// Role ids of the body's `[{"id"} | {"name"}]`.
fn wanted_roles(tx: &mut Tx<'_>, wanted: &[Value]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for r in wanted {
        let role = match (r.get("id").and_then(Value::as_str), r.get("name").and_then(Value::as_str)) {
            (Some(id), _) => tx.get::<Role>(id)?.ok_or_else(|| not_found("role", id))?,
            (None, Some(name)) => {
                let found = tx.first::<Role>(&Query::new().eq("domain_id", "").eq("name", name))?;
                found.ok_or_else(|| not_found("role", name))?
            }
            (None, None) => return Err(Error::invalid("Invalid input for field 'roles': a role has an id or a name")),
        };
        if !out.contains(&role.id) {
            out.push(role.id.clone());
        }
    }
    Ok(out)
}

async fn trust_create(mut cx: Cx) -> Result<Reply> {
    let mut f = Fields::read(&mut cx, "trust").await?;
    let mut t = Trust {
        id: cx.env.hex_id(),
        trustor_user_id: f.require_id("trustor_user_id")?,
        trustee_user_id: f.require_id("trustee_user_id")?,
        project_id: f.id("project_id")?.flatten(),
        impersonation: f.boolean("impersonation")?.ok_or_else(|| Error::invalid("'impersonation' is a required property"))?,
        expires_at: None,
        remaining_uses: f.int("remaining_uses")?,
        role_ids: Vec::new(),
        redelegation_count: 0,
        redelegated_trust_id: None,
        extra: serde_json::Map::new(),
    };
    guard(&cx, &target(&t))?;
    // A delegated token would hand on more than it was given, or for longer.
    if cx.auth().trust_id.is_some() {
        return Err(forbidden("A trust cannot be made with a token of a trust: redelegation is not allowed."));
    }
    super::credentials::not_delegated(&cx).await?;
    t.expires_at = future(&cx, f.text("expires_at")?.flatten())?;
    if t.remaining_uses.is_some_and(|n| n < 1) {
        return Err(Error::invalid("Invalid input for field 'remaining_uses': at least 1 is expected"));
    }
    let wanted = f.array("roles")?.unwrap_or_default();
    if f.boolean("allow_redelegation")? == Some(true) || f.int("redelegation_count")?.unwrap_or(0) > 0 {
        return Err(Error::invalid("Redelegation of trusts is not offered."));
    }
    if t.project_id.is_some() == wanted.is_empty() {
        return Err(Error::invalid("At least one role should be specified, and a project to have it on."));
    }
    t.extra = f.extra()?;
    let made = cx.state.write(move |tx| store(tx, t.clone(), &wanted)).await?;
    let trust = made.clone();
    let list = cx.state.read(move |tx| roles_of(tx, &trust)).await?;
    Reply::json(201, &json!({"trust": with_roles(&cx, &made, &list)}))
}

/// The trustor hands on only what it has.
fn store(tx: &mut Tx<'_>, mut t: Trust, wanted: &[Value]) -> Result<Trust> {
    if tx.get::<User>(&t.trustee_user_id)?.is_none() {
        return Err(not_found("user", &t.trustee_user_id));
    }
    t.role_ids = wanted_roles(tx, wanted)?;
    if let Some(p) = &t.project_id {
        let have = logic::roles::effective(tx, &t.trustor_user_id, &Scope::Project(p.clone()))?;
        if let Some(missing) = t.role_ids.iter().find(|r| !have.iter().any(|h| h.id == **r)) {
            return Err(not_found("role", missing));
        }
    }
    tx.insert(&t)?;
    Ok(t)
}
