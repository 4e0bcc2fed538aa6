//! Version documents at the root. They need no token.

use super::{MAX, MIN};
use crate::State;
use caelum_base::Result;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("version_list", "/", Access::Public, h!(list)),
    Op::get("version_show", "/v2.1", Access::Public, h!(current)),
    Op::get("version_show_legacy", "/v2", Access::Public, h!(legacy)),
];

/// `v2.0` is what upstream lists first for clients of its first API; only its document is there.
fn v2_0(cx: &Ctx<State>) -> Value {
    json!({
        "id": "v2.0", "status": "DEPRECATED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": format!("{}/v2/", cx.base_url)}],
    })
}

fn v2_1(cx: &Ctx<State>) -> Value {
    json!({
        "id": "v2.1", "status": "CURRENT", "version": MAX.to_string(), "min_version": MIN.to_string(), "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": format!("{}/v2.1/", cx.base_url)}],
    })
}

fn one(mut v: Value, number: &str) -> Result<Reply> {
    let kind = format!("application/vnd.openstack.compute+json;version={number}");
    v["media-types"] = json!([{"base": "application/json", "type": kind}]);
    if let Some(links) = v["links"].as_array_mut() {
        links.push(json!({"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}));
    }
    Reply::ok(&json!({"version": v}))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"versions": [v2_0(&cx), v2_1(&cx)]}))
}

async fn current(cx: Ctx<State>) -> Result<Reply> {
    one(v2_1(&cx), "2.1")
}

async fn legacy(cx: Ctx<State>) -> Result<Reply> {
    one(v2_0(&cx), "2")
}
