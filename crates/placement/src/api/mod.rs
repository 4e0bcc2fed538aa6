mod allocations;
mod candidates;
mod inventories;
mod names;
mod providers;
mod usages;

use crate::State;
use caelum_base::{Env, Error, Result, is_uuid};
use caelum_policy::personas;
use caelum_rest::{Access, Api, Ctx, Dialect, Microversions, Op, Reply, TokenValidator, Version, h};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const VERSIONS: Microversions = Microversions { service_type: "placement", legacy_header: None, min: Version(1, 0), max: Version(1, 39) };

/// Everything but the project's own usage is for administrators and services.
const fn admin(rule: &'static str) -> Access {
    Access::rule(rule, personas::ADMIN_OR_SERVICE, personas::PROJECT)
}

const ROOT: &[Op<State>] = &[Op::get("version_list", "/", Access::Public, h!(versions))];

async fn versions(_: Ctx<State>) -> Result<Reply> {
    let version = json!({"id": "v1.0", "max_version": VERSIONS.max.to_string(), "min_version": VERSIONS.min.to_string(), "status": "CURRENT", "links": [{"rel": "self", "href": ""}]});
    Reply::ok(&json!({"versions": [version]}))
}

pub fn build(
    state: Arc<State>,
    env: Env,
    validator: Arc<dyn TokenValidator>,
    policy: BTreeMap<String, String>,
    auth_url: String,
) -> Result<Api<State>> {
    Api::builder("placement", Dialect::Placement)
        .versions(VERSIONS)
        .auth_url(auth_url)
        .overrides(policy)
        .mount("", ROOT)
        .mount("", providers::OPS)
        .mount("", inventories::OPS)
        .mount("", names::OPS)
        .mount("", allocations::OPS)
        .mount("", usages::OPS)
        .mount("", candidates::OPS)
        .build(state, env, validator)
}

/// Marks the operation as authorized for what nobody owns.
fn authorize(cx: &Ctx<State>) -> Result<()> {
    cx.authorize(&caelum_policy::Target::new())
}

fn since(cx: &Ctx<State>, minor: u32) -> bool {
    cx.version >= Version(1, minor)
}

fn uuid(text: &str) -> Result<String> {
    if is_uuid(text) { Ok(text.to_string()) } else { Err(Error::invalid(format!("'{text}' is not a 'uuid'"))) }
}

/// A custom trait or class name: `CUSTOM_` and `[A-Z0-9_]`.
fn custom_name(text: &str) -> Result<String> {
    let good = text.len() <= 255
        && text.len() > 7
        && text.starts_with("CUSTOM_")
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if good { Ok(text.to_string()) } else { Err(Error::invalid(format!("'{text}' does not match '^CUSTOM\\_[A-Z0-9_]+$'"))) }
}

/// For a field that tells `null` from absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}
