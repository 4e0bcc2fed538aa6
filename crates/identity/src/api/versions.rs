//! Version documents: what is served where. Anyone may read them.

use super::fields::Cx;
use super::lists::base;
use crate::state::Identity;
use caelum_base::Result;
use caelum_rest::{Access, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] =
    &[Op::get("version_list", "/", Access::Public, h!(version_list)), Op::get("version_show", "/v3", Access::Public, h!(version_show))];

fn version(cx: &Cx) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{}/v3/", base(cx))}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}

async fn version_list(cx: Cx) -> Result<Reply> {
    Ok(Reply::json(300, &json!({"versions": {"values": [version(&cx)]}}))?.header("location", format!("{}/v3/", base(&cx))))
}

async fn version_show(cx: Cx) -> Result<Reply> {
    Reply::ok(&json!({"version": version(&cx)}))
}
