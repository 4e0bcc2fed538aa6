//! Subnet pools.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, authorize_found, if_revision, is_admin, member, with_std};
use crate::logic::State;
use crate::logic::net::{invalid_input, parse_prefix};
use crate::logic::subnetpools::{PoolChange, PoolInput};
use crate::store::SubnetPool;
use caelum_base::Result;
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::Filter;
use ipnet::IpNet;
use serde_json::json;

const READ: &str = "rule:admin_only or (role:reader and project_id:%(project_id)s) or rule:shared";

pub const OPS: &[Op<State>] = &[
    Op::get("subnetpool_list", "/subnetpools", Access::rule("get_subnetpool", READ, personas::PROJECT), h!(index)),
    Op::post("subnetpool_create", "/subnetpools", member("create_subnetpool"), h!(create)),
    Op::get("subnetpool_show", "/subnetpools/{id}", Access::rule("get_subnetpool", READ, personas::PROJECT), h!(show)),
    Op::put("subnetpool_update", "/subnetpools/{id}", member("update_subnetpool"), h!(update)),
    Op::delete("subnetpool_delete", "/subnetpools/{id}", member("delete_subnetpool"), h!(delete)),
];

const SPEC: Spec = Spec {
    singular: "subnetpool",
    plural: "subnetpools",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("ip_version", "ip_version", Kind::Int),
        ("shared", "shared", Kind::Bool),
        ("is_default", "is_default", Kind::Bool),
    ],
    others: &["address_scope_id", "default_prefixlen", "min_prefixlen", "max_prefixlen", "created_at", "updated_at"],
    handled: &[],
};

fn view(p: &SubnetPool) -> View {
    with_std(
        json!({
            "id": p.id,
            "name": p.name,
            "tenant_id": p.project_id,
            "project_id": p.project_id,
            "ip_version": p.ip_version,
            "prefixes": p.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "default_prefixlen": p.default_prefixlen.to_string(),
            "min_prefixlen": p.min_prefixlen.to_string(),
            "max_prefixlen": p.max_prefixlen.to_string(),
            "default_quota": p.default_quota,
            "shared": p.shared,
            "is_default": p.is_default,
            "address_scope_id": null,
        }),
        &p.std,
    )
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let filters = if is_admin(&cx) {
        Vec::new()
    } else {
        let own = super::own_rows(&cx, "get_subnetpool")?;
        vec![Filter::Any(vec![Filter::Eq("project_id", own.into()), Filter::Eq("shared", true.into())])]
    };
    list::list::<SubnetPool>(&cx, &SPEC, filters, view).await
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let p: SubnetPool = super::find(&cx, "subnetpool").await?;
    let t = Target::project(p.project_id.clone()).with_bool("shared", p.shared);
    cx.authorize(&t).map_err(|_| crate::logic::not_found("subnetpool", &p.id))?;
    Reply::ok(&json!({"subnetpool": list::pick(&cx, view(&p))}))
}

fn prefixes(a: &mut Attrs) -> Result<Option<Vec<IpNet>>> {
    let Some(list) = a.strings("prefixes", 200)? else { return Ok(None) };
    let read = |t: String| parse_prefix(&t).ok_or_else(|| invalid_input("prefixes", format!("'{t}' is not a valid IP subnet")));
    list.into_iter().map(read).collect::<Result<_>>().map(Some)
}

fn length(a: &mut Attrs, key: &str) -> Result<Option<u8>> {
    let n = a.integer(key)?;
    n.map(u8::try_from).transpose().map_err(|_| invalid_input(key, "it is out of range"))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut a = Attrs::read_one(&mut cx, "subnetpool").await?;
    let t = Target::project(cx.auth().project_id()?.to_string());
    let shared = a.boolean("shared")?.unwrap_or(false);
    let is_default = a.boolean("is_default")?.unwrap_or(false);
    for (set, rule) in [(shared, "create_subnetpool:shared"), (is_default, "create_subnetpool:is_default")] {
        if set {
            cx.require(rule, &t)?;
        }
    }
    scope(&mut a)?;
    let i = PoolInput {
        project_id: a.project(&cx)?,
        name: a.required("name")?,
        description: a.description()?.unwrap_or_default(),
        prefixes: prefixes(&mut a)?.unwrap_or_default(),
        default_prefixlen: length(&mut a, "default_prefixlen")?,
        min_prefixlen: length(&mut a, "min_prefixlen")?,
        max_prefixlen: length(&mut a, "max_prefixlen")?,
        default_quota: a.integer("default_quota")?,
        shared,
        is_default,
    };
    a.finish()?;
    let p = cx.state.subnetpool_create(i).await?;
    Reply::json(201, &json!({"subnetpool": view(&p)}))
}

/// Address scopes are not offered.
fn scope(a: &mut Attrs) -> Result<()> {
    match a.take("address_scope_id") {
        Some(v) if !v.is_null() => Err(invalid_input("address_scope_id", "address scopes are not supported")),
        _ => Ok(()),
    }
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let p: SubnetPool = super::find(&cx, "subnetpool").await?;
    authorize_found(&cx, "subnetpool", &p.id, &p.project_id)?;
    let mut a = Attrs::read_one(&mut cx, "subnetpool").await?;
    let t = Target::project(p.project_id.clone());
    if a.has("is_default") {
        cx.require("update_subnetpool:is_default", &t)?;
    }
    a.frozen(&["id", "tenant_id", "project_id", "ip_version", "shared"])?;
    scope(&mut a)?;
    let quota_named = a.has("default_quota");
    let change = PoolChange {
        name: a.name()?,
        description: a.description()?,
        prefixes: prefixes(&mut a)?,
        default_prefixlen: length(&mut a, "default_prefixlen")?,
        min_prefixlen: length(&mut a, "min_prefixlen")?,
        max_prefixlen: length(&mut a, "max_prefixlen")?,
        default_quota: quota_named.then_some(a.integer("default_quota")?),
        is_default: a.boolean("is_default")?,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    let p = cx.state.subnetpool_update(p.id, change).await?;
    Reply::ok(&json!({"subnetpool": view(&p)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let p: SubnetPool = super::find(&cx, "subnetpool").await?;
    authorize_found(&cx, "subnetpool", &p.id, &p.project_id)?;
    cx.state.subnetpool_delete(p.id).await?;
    Ok(Reply::no_content())
}
