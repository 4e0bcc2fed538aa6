//! RBAC policies.

use super::attrs::Attrs;
use super::list::{self, Spec};
use super::{View, authorize_found, caller, is_admin, member, reader, view_of};
use crate::logic::net::invalid_input;
use crate::logic::{State, not_found};
use crate::store::{Network, RbacPolicy, SecurityGroup};
use caelum_base::Result;
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::Filter;
use serde_json::json;

pub const OPS: &[Op<State>] = &[
    Op::get("rbac_policy_list", "/rbac-policies", reader("get_rbac_policy"), h!(index)),
    Op::post("rbac_policy_create", "/rbac-policies", member("create_rbac_policy"), h!(create)),
    Op::get("rbac_policy_show", "/rbac-policies/{id}", reader("get_rbac_policy"), h!(show)),
    Op::put("rbac_policy_update", "/rbac-policies/{id}", member("update_rbac_policy"), h!(update)),
    Op::delete("rbac_policy_delete", "/rbac-policies/{id}", member("delete_rbac_policy"), h!(delete)),
];

const SPEC: Spec = Spec { singular: "rbac_policy", plural: "rbac_policies", columns: &[], others: &[], handled: &[] };

fn view(p: &RbacPolicy) -> View {
    view_of(json!({
        "id": p.id,
        "tenant_id": p.project_id,
        "project_id": p.project_id,
        "object_type": p.object_type,
        "object_id": p.object_id,
        "target_tenant": p.target_project,
        "action": p.action,
    }))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let filters = if is_admin(&cx) { Vec::new() } else { vec![Filter::Eq("project_id", super::own_rows(&cx, "get_rbac_policy")?.into())] };
    let rows = list::rows::<RbacPolicy>(&cx, filters).await?;
    list::list_views(&cx, &SPEC, rows.iter().map(|r| view(r)).collect())
}

async fn found(cx: &Ctx<State>) -> Result<RbacPolicy> {
    let id = cx.param("id").to_string();
    let p = cx.state.db.get::<RbacPolicy>(&id).await?.ok_or_else(|| not_found("rbac_policy", &id))?.into_inner();
    authorize_found(cx, "rbac_policy", &p.id, &p.project_id)?;
    Ok(p)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let p = found(&cx).await?;
    Reply::ok(&json!({"rbac_policy": list::pick(&cx, view(&p))}))
}

fn target_rule(cx: &Ctx<State>, verb: &str, project: &str, target: &str) -> Result<()> {
    let t = Target::project(project.to_string()).with("target_tenant", target.to_string());
    cx.require(&format!("{verb}_rbac_policy:target_tenant"), &t)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut a = Attrs::read_one(&mut cx, "rbac_policy").await?;
    let object_type = a.required("object_type")?;
    let object_id = a.required_id("object_id")?;
    let action = a.required("action")?;
    let named = a.has("project_id") || a.has("tenant_id");
    let project = a.project(&cx)?;
    let target_project = match a.text("target_tenant", 255)? {
        Some(t) if !t.is_empty() => t,
        _ => return Err(invalid_input("target_tenant", "it is not given")),
    };
    a.finish()?;
    target_rule(&cx, "create", &project, &target_project)?;
    let allowed: &[&str] = match object_type.as_str() {
        "network" => &["access_as_shared", "access_as_external"],
        "security_group" => &["access_as_shared"],
        other => return Err(invalid_input("object_type", format!("'{other}' is not in ['network', 'security_group']"))),
    };
    if !allowed.contains(&action.as_str()) {
        return Err(invalid_input("action", format!("'{action}' is not in {allowed:?}")));
    }
    let owner = owner(&cx, &object_type, &object_id).await?;
    if action == "access_as_external" && !is_admin(&cx) {
        return Err(
            caelum_base::Error::forbidden("rule:create_network:router:external is disallowed by policy").code("PolicyNotAuthorized")
        );
    }
    let project_id = if named { project } else { owner };
    let p = RbacPolicy { id: String::new(), project_id, object_type, object_id, target_project, action };
    let p = cx.state.rbac_create(p).await?;
    Reply::json(201, &json!({"rbac_policy": view(&p)}))
}

/// The owner of the object; only the owner and administrators may open it.
async fn owner(cx: &Ctx<State>, object_type: &str, id: &str) -> Result<String> {
    let who = caller(cx);
    let owner = match object_type {
        "network" => cx.state.db.get::<Network>(id).await?.map(|n| n.value.project_id),
        _ => cx.state.db.get::<SecurityGroup>(id).await?.map(|g| g.value.project_id),
    };
    owner
        .filter(|o| who.admin || *o == who.project_id)
        .ok_or_else(|| not_found(if object_type == "network" { "network" } else { "security_group" }, id))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let p = found(&cx).await?;
    let mut a = Attrs::read_one(&mut cx, "rbac_policy").await?;
    a.frozen(&["id", "object_id", "object_type", "action", "tenant_id", "project_id"])?;
    let target = a.required("target_tenant")?;
    a.finish()?;
    target_rule(&cx, "update", &p.project_id, &target)?;
    let p = cx.state.rbac_update(p.id, target).await?;
    Reply::ok(&json!({"rbac_policy": view(&p)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let p = found(&cx).await?;
    cx.state.rbac_delete(p.id).await?;
    Ok(Reply::no_content())
}
