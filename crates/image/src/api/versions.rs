use crate::State;
use caelum_base::Result;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("version_list", "/", Access::Public, h!(choices)),
    Op::get("version_list_explicit", "/versions", Access::Public, h!(versions)),
    Op::get("version_list_v2", "/v2", Access::Public, h!(choices)),
];

/// What a deployment with stores and without an image cache offers; the cache's versions (2.14,
/// 2.16, 2.18) are not listed because there is none.
const IDS: [&str; 16] =
    ["2.17", "2.15", "2.13", "2.12", "2.11", "2.10", "2.9", "2.8", "2.7", "2.6", "2.5", "2.4", "2.3", "2.2", "2.1", "2.0"];

fn document(cx: &Ctx<State>) -> Value {
    let href = format!("{}/v2/", cx.base_url);
    let one = |(i, id): (usize, &&str)| {
        let status = if i == 0 { "CURRENT" } else { "SUPPORTED" };
        json!({"id": format!("v{id}"), "status": status, "links": [{"rel": "self", "href": href}]})
    };
    json!({"versions": IDS.iter().enumerate().map(one).collect::<Vec<_>>()})
}

async fn choices(cx: Ctx<State>) -> Result<Reply> {
    Reply::json(300, &document(&cx))
}

async fn versions(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&document(&cx))
}
