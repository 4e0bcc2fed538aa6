//! The REST API: one file per resource. Microversions live here and nowhere below.

mod actions;
mod attachments;
mod backups;
mod forms;
mod groups;
mod lists;
mod messages;
mod metadata;
mod operators;
mod qos;
mod quotas;
mod root;
mod snapshots;
mod transfers;
mod types;
mod views;
mod volumes;

use crate::State;
use crate::logic::volumes::Caller;
use caelum_base::{Env, Result};
use caelum_policy::{RuleDefault, personas};
use caelum_rest::{Access, Api, Body, Ctx, Dialect, HttpService, Microversions, Op, TokenValidator, Version};
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const MIN: Version = Version(3, 0);
pub const MAX: Version = Version(3, 71);

const VERSIONS: Microversions = Microversions { service_type: "volume", legacy_header: None, min: MIN, max: MAX };

/// Operations below `/v3`.
const OPS: &[&[Op<State>]] = &[
    volumes::OPS,
    actions::OPS,
    metadata::OPS,
    attachments::OPS,
    snapshots::OPS,
    types::OPS,
    messages::OPS,
    quotas::OPS,
    operators::OPS,
    qos::OPS,
    transfers::OPS,
    backups::OPS,
    groups::OPS,
];

/// Rules that no operation carries.
const RULES: &[RuleDefault] = &[
    RuleDefault::new("volume_extension:volume_host_attribute", personas::ADMIN, personas::PROJECT),
    RuleDefault::new("volume_extension:volume_tenant_attribute", personas::PROJECT_READER_OR_ADMIN, personas::PROJECT),
    RuleDefault::new("volume_extension:volume_mig_status_attribute", personas::ADMIN, personas::PROJECT),
    RuleDefault::new("volume_extension:access_types_extra_specs", personas::PROJECT_READER_OR_ADMIN, personas::PROJECT),
    RuleDefault::new("volume_extension:access_types_qos_specs_id", personas::ADMIN, personas::PROJECT),
    // Lists of all projects.
    RuleDefault::new("volume:get_all_tenants_hosts", personas::ADMIN, personas::PROJECT),
    RuleDefault::new("volume:force_delete", personas::ADMIN, personas::PROJECT),
    RuleDefault::new("volume:multiattach_bootable_volume", personas::PROJECT_MEMBER_OR_ADMIN, personas::PROJECT),
    RuleDefault::new("volume:multiattach", personas::PROJECT_MEMBER_OR_ADMIN, personas::PROJECT),
];

pub(crate) const fn reader(name: &'static str) -> Access {
    Access::rule(name, personas::PROJECT_READER_OR_ADMIN, personas::PROJECT)
}

pub(crate) const fn member(name: &'static str) -> Access {
    Access::rule(name, personas::PROJECT_MEMBER_OR_ADMIN, personas::PROJECT)
}

pub(crate) const fn admin(name: &'static str) -> Access {
    Access::rule(name, personas::ADMIN, personas::PROJECT)
}

/// Who asks, for rows and flows.
pub(crate) fn caller(cx: &Ctx<State>) -> Result<Caller> {
    let auth = cx.auth();
    Ok(Caller {
        project_id: auth.project_id()?.to_string(),
        user_id: auth.user_id().to_string(),
        admin: auth.is_admin(),
        request_id: cx.request_id.clone(),
        token: auth.token.clone(),
    })
}

pub(crate) fn build(
    state: Arc<State>,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    policy: BTreeMap<String, String>,
    auth_url: String,
) -> Result<Api<State>> {
    let mut b = Api::builder("volume", Dialect::Cinder)
        .versions(VERSIONS)
        .request_id_header("x-compute-request-id")
        .project_prefix("/v3")
        .auth_url(auth_url)
        .rules(personas::BLOCK)
        .rules(RULES)
        .overrides(policy)
        .mount("", root::OPS);
    for ops in OPS {
        b = b.mount("/v3", ops);
    }
    b.build(state, env, validator)
}

/// `GET /v3/volumes/` names a volume without an id, which is not found; it is not the list. The
/// router takes both for the list, so an empty last segment becomes an id that no resource has.
pub(crate) struct EmptyIds<S: 'static>(pub Api<S>);

impl<S: Send + Sync + 'static> HttpService for EmptyIds<S> {
    fn call(&self, mut req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        if let Some(uri) = with_id(req.uri()) {
            *req.uri_mut() = uri;
        }
        self.0.call(req)
    }
}

fn with_id(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/')?;
    let collection = path.rsplit('/').next()?;
    if !matches!(collection, "volumes" | "snapshots" | "types" | "attachments" | "backups" | "group_types" | "groups" | "qos-specs") {
        return None;
    }
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    format!("{path}/-{query}").parse().ok()
}
