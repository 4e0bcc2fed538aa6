//! The network API, version 2.0: wire forms, authorization, views. One file per resource.

mod attrs;
mod availability;
mod extensions;
mod floating;
mod groups;
mod list;
mod networks;
mod ports;
mod quotas;
mod rbac;
mod root;
mod routers;
mod rules;
mod subnetpools;
mod subnets;
mod tags;

use crate::logic::State;
use crate::store::{Standard, Std};
use caelum_base::{Env, Error, Result};
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Api, Ctx, Dialect, TokenValidator};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the API shows of one resource.
pub type View = Map<String, Value>;

/// Project readers and administrators.
pub(crate) const fn reader(rule: &'static str) -> Access {
    Access::rule(rule, personas::PROJECT_READER_OR_ADMIN, personas::PROJECT)
}

/// Project members and administrators.
pub(crate) const fn member(rule: &'static str) -> Access {
    Access::rule(rule, personas::PROJECT_MEMBER_OR_ADMIN, personas::PROJECT)
}

/// Administrators.
pub(crate) const fn admin(rule: &'static str) -> Access {
    Access::rule(rule, "rule:admin_only", personas::PROJECT)
}

/// Whether the caller is an administrator of the cloud.
pub(crate) fn is_admin(cx: &Ctx<State>) -> bool {
    cx.allows("context_is_admin", &Target::new())
}

/// The caller as references to other resources see it.
pub(crate) fn caller(cx: &Ctx<State>) -> crate::logic::Caller {
    let project_id = cx.auth().creds.project_id.clone().unwrap_or_default();
    crate::logic::Caller { project_id, admin: is_admin(cx) }
}

/// Turns a JSON object literal into a view.
pub(crate) fn view_of(v: Value) -> View {
    match v {
        Value::Object(map) => map,
        _ => View::new(),
    }
}

/// Adds the attributes every resource has.
pub(crate) fn with_std(v: Value, std: &Std) -> View {
    let mut out = view_of(v);
    out.insert("description".into(), std.description.clone().into());
    out.insert("created_at".into(), std.created_at.iso_z().into());
    out.insert("updated_at".into(), std.updated_at.iso_z().into());
    out.insert("revision_number".into(), std.revision.into());
    out.insert("tags".into(), json!(std.tags));
    out
}

/// `If-Match: revision_number=N`.
pub(crate) fn if_revision(cx: &Ctx<State>) -> Result<Option<i64>> {
    let Some(v) = cx.headers.get(http::header::IF_MATCH) else { return Ok(None) };
    let n = v.to_str().ok().and_then(|t| t.trim().strip_prefix("revision_number=")).and_then(|n| n.parse().ok());
    n.map(Some).ok_or_else(|| Error::invalid("If-Match is not revision_number=N").code("HTTPBadRequest"))
}

/// A stored resource by the id in the path; `not_found` when there is none.
pub(crate) async fn find<R: Standard>(cx: &Ctx<State>, what: &'static str) -> Result<R> {
    let id = cx.param("id").to_string();
    let found = cx.state.db.get::<R>(&id).await?;
    found.map(caelum_store::Stored::into_inner).ok_or_else(|| crate::logic::not_found(what, &id))
}

/// The project whose own rows `rule` lets the caller see: its own, or one that no row has. A token
/// without a useful role belongs to a project and still sees nothing of it.
pub(crate) fn own_rows(cx: &Ctx<State>, rule: &str) -> Result<String> {
    let project = cx.auth().project_id()?.to_string();
    let seen = cx.allows(rule, &caelum_policy::Target::project(project.clone()));
    Ok(if seen { project } else { "-".into() })
}

/// Asks the operation's rule about a found resource: its own project's, or an administrator.
pub(crate) fn authorize_found(cx: &Ctx<State>, what: &'static str, id: &str, project_id: &str) -> Result<()> {
    cx.authorize_found(project_id, || crate::logic::not_found(what, id))
}

/// 201 with the created resource, or all of a bulk request.
pub(crate) fn created(singular: &str, plural: &str, mut views: Vec<View>, bulk: bool) -> Result<caelum_rest::Reply> {
    if bulk {
        return caelum_rest::Reply::json(201, &json!({ plural: views }));
    }
    let one = views.pop().ok_or_else(|| Error::internal("nothing was created"))?;
    caelum_rest::Reply::json(201, &json!({ singular: one }))
}

/// Builds the API.
pub fn build(
    state: Arc<State>,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    policy: BTreeMap<String, String>,
    auth_url: String,
) -> Result<Api<State>> {
    Api::builder("network", Dialect::Neutron)
        .auth_url(auth_url)
        .rules(personas::NETWORK)
        .rules(rules::ATTRIBUTES)
        .overrides(policy)
        .mount("", root::OPS)
        .mount("/v2.0", networks::OPS)
        .mount("/v2.0", subnets::OPS)
        .mount("/v2.0", subnetpools::OPS)
        .mount("/v2.0", ports::OPS)
        .mount("/v2.0", groups::OPS)
        .mount("/v2.0", routers::OPS)
        .mount("/v2.0", floating::OPS)
        .mount("/v2.0", rbac::OPS)
        .mount("/v2.0", tags::OPS)
        .mount("/v2.0", quotas::OPS)
        .mount("/v2.0", extensions::OPS)
        .mount("/v2.0", availability::OPS)
        .build(state, env, validator)
}
