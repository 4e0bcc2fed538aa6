//! Quotas.

use super::attrs::Attrs;
use super::{View, admin, reader};
use crate::logic::{State, quota};
use crate::store;
use caelum_base::Result;
use caelum_rest::{Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("quota_list", "/quotas", admin("get_quota:list"), h!(index)),
    Op::get("quota_show", "/quotas/{id}", reader("get_quota"), h!(show)),
    Op::put("quota_update", "/quotas/{id}", admin("update_quota"), h!(update)),
    Op::delete("quota_delete", "/quotas/{id}", admin("delete_quota"), h!(delete)),
    Op::get("quota_defaults", "/quotas/{id}/default", reader("get_quota"), h!(defaults)),
    Op::get("quota_details", "/quotas/{id}/details", reader("get_quota"), h!(details)),
    // Older clients ask with the .json suffix of the first API.
    Op::get("quota_details_json", "/quotas/{id}/details.json", reader("get_quota"), h!(details)),
];

async fn limits(cx: &Ctx<State>, project: &str) -> Result<View> {
    let p = project.to_string();
    let own = cx.state.db.read(move |tx| store::quota_overrides(tx, &p)).await?;
    let pairs = quota::ALL.iter().map(|q| (q.name.to_string(), json!(own.get(q.name).copied().unwrap_or(q.default))));
    Ok(pairs.collect())
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let projects = cx.state.db.read(store::quota_projects).await?;
    let mut out = Vec::new();
    for p in projects {
        let mut v = limits(&cx, &p).await?;
        v.insert("tenant_id".into(), p.clone().into());
        v.insert("project_id".into(), p.into());
        out.push(Value::Object(v));
    }
    Reply::ok(&json!({"quotas": out}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    // `tenant` and `project` name the caller's own project instead of an id.
    if matches!(cx.param("id"), "tenant" | "project") {
        cx.filtered();
        let own = cx.auth().project_id()?;
        return Reply::ok(&json!({"tenant": {"tenant_id": own, "project_id": own}}));
    }
    cx.authorize_project(cx.param("id"))?;
    let project = cx.param("id").to_string();
    Reply::ok(&json!({"quota": limits(&cx, &project).await?}))
}

async fn defaults(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_project(cx.param("id"))?;
    let v: View = quota::ALL.iter().map(|q| (q.name.to_string(), json!(q.default))).collect();
    Reply::ok(&json!({"quota": v}))
}

async fn details(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_project(cx.param("id"))?;
    let project = cx.param("id").to_string();
    let v = cx
        .state
        .db
        .read(move |tx| {
            let own = store::quota_overrides(tx, &project)?;
            let mut v = View::new();
            for q in quota::ALL {
                let limit = own.get(q.name).copied().unwrap_or(q.default);
                let used = store::usage(tx, q.table, &project)?;
                v.insert(q.name.into(), json!({"limit": limit, "used": used, "reserved": 0}));
            }
            Ok(v)
        })
        .await?;
    Reply::ok(&json!({"quota": v}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_project(cx.param("id"))?;
    let project = cx.param("id").to_string();
    let mut a = Attrs::read_one(&mut cx, "quota").await?;
    for k in ["tenant_id", "project_id", "force", "check_limit"] {
        a.take(k);
    }
    let mut new = Vec::new();
    for q in quota::ALL {
        if let Some(n) = a.integer(q.name)? {
            if !(-1..=2_147_483_647).contains(&n) {
                return Err(crate::logic::net::invalid_input(q.name, format!("'{n}' is not in the range -1 to 2147483647")));
            }
            new.push((q.name, n));
        }
    }
    a.finish()?;
    let p = project.clone();
    cx.state.db.write(move |tx| new.iter().try_for_each(|(name, n)| store::set_quota(tx, &p, name, *n))).await?;
    Reply::ok(&json!({"quota": limits(&cx, &project).await?}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_project(cx.param("id"))?;
    let project = cx.param("id").to_string();
    let n = cx.state.db.write({
        let p = project.clone();
        move |tx| store::clear_quotas(tx, &p)
    });
    if n.await? == 0 {
        return Err(caelum_base::Error::not_found(format!("Quota for tenant {project} could not be found.")).code("TenantQuotaNotFound"));
    }
    Ok(Reply::no_content())
}
