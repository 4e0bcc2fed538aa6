//! Version documents.

use super::View;
use crate::logic::State;
use caelum_base::Result;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] =
    &[Op::get("version_list", "/", Access::Public, h!(versions)), Op::get("version_show", "/v2.0", Access::Public, h!(resources))];

async fn versions(cx: Ctx<State>) -> Result<Reply> {
    let links = json!([{"rel": "self", "href": format!("{}/v2.0/", cx.base_url)}]);
    Reply::ok(&json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}))
}

/// The collections there are.
async fn resources(cx: Ctx<State>) -> Result<Reply> {
    let one = |singular: &str, plural: &str, path: &str| -> Value {
        json!({"links": [{"rel": "self", "href": format!("{}/v2.0/{path}", cx.base_url)}], "name": singular, "collection": plural})
    };
    let all: Vec<Value> = [
        ("network", "networks", "networks"),
        ("subnet", "subnets", "subnets"),
        ("subnetpool", "subnetpools", "subnetpools"),
        ("port", "ports", "ports"),
        ("router", "routers", "routers"),
        ("floatingip", "floatingips", "floatingips"),
        ("security_group", "security_groups", "security-groups"),
        ("security_group_rule", "security_group_rules", "security-group-rules"),
        ("rbac_policy", "rbac_policies", "rbac-policies"),
        ("agent", "agents", "agents"),
        ("extension", "extensions", "extensions"),
        ("quota", "quotas", "quotas"),
    ]
    .iter()
    .map(|(s, p, path)| one(s, p, path))
    .collect();
    let mut body = View::new();
    body.insert("resources".into(), Value::Array(all));
    Reply::ok(&body)
}
