//! The Identity API v3 (3.14). One file per resource.

mod application_credentials;
mod assignments;
mod auth;
mod credentials;
mod domain_config;
mod domains;
mod ec2_tokens;
pub use ec2_tokens::ec2_secret;
mod endpoint_filter;
mod fields;
mod grants;
mod groups;
mod limits;
mod lists;
mod policies;
mod projects;
mod regions;
mod roles;
mod rules;
mod services;
mod trusts;
mod users;
mod versions;

use crate::state::Identity;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Api, Dialect, Op, TokenValidator};
use fields::Cx;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every table of operations below `/v3`.
const TABLES: &[&[Op<Identity>]] = &[
    auth::OPS,
    domains::OPS,
    projects::OPS,
    users::OPS,
    groups::OPS,
    roles::OPS,
    grants::OPS,
    grants::INHERITED_OPS,
    assignments::OPS,
    regions::OPS,
    services::OPS,
    credentials::OPS,
    application_credentials::OPS,
    trusts::OPS,
    policies::OPS,
    endpoint_filter::OPS,
    domain_config::OPS,
    limits::OPS,
    ec2_tokens::OPS,
];

pub fn build(identity: Arc<Identity>, policy: BTreeMap<String, String>, validator: Arc<dyn TokenValidator>) -> Result<Api<Identity>> {
    let env = identity.env.clone();
    let mut b = Api::builder("identity", Dialect::Keystone)
        .auth_url(format!("{}/v3", identity.public_url))
        .rules(&rules::all_helpers())
        .rules(roles::RULES)
        .rules(trusts::RULES)
        .rules(assignments::RULES)
        .overrides(policy)
        .mount("", versions::OPS);
    for table in TABLES {
        b = b.mount("/v3", table);
    }
    b.build(identity, env, validator)
}

/// Asks the operation's rule about a `target` object and the path's `user_id`.
fn guard(cx: &Cx, target: &Value) -> Result<()> {
    let user_id = cx.path_user();
    cx.authorize(&Target::new().with_object("target", target).with_opt("user_id", user_id))
}

/// The rule about what was found, then `NotFound` if nothing was: who may not ask learns nothing.
fn found<T>(cx: &Cx, what: &str, id: &str, thing: Option<T>, target: impl FnOnce(&T) -> Value) -> Result<T> {
    let about = thing.as_ref().map_or(Value::Null, target);
    guard(cx, &about)?;
    thing.ok_or_else(|| not_found(what, id))
}

fn not_found(what: &str, id: &str) -> Error {
    let shown: String = id.chars().take(255).collect();
    Error::not_found(format!("Could not find {what}: {shown}."))
}

/// Keystone's words for a taken name.
fn duplicate(e: Error, what: &str, details: &str) -> Error {
    if e.is_conflict() && e.code == "duplicate" {
        return Error::conflict(format!("Conflict occurred attempting to store {what} - {details}")).caused_by(e);
    }
    e
}

fn forbidden(why: &str) -> Error {
    Error::forbidden(format!("You are not authorized to perform the requested action: {why}"))
}

trait PathUser {
    fn path_user(&self) -> Option<&str>;
}

impl PathUser for Cx {
    fn path_user(&self) -> Option<&str> {
        self.op.path.contains("{user_id}").then(|| self.param("user_id"))
    }
}
