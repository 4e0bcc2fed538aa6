//! Version documents. They need no token.

use super::{MAX, MIN};
use crate::State;
use caelum_base::Result;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] =
    &[Op::get("versions_list", "/", Access::Public, h!(list)), Op::get("version_show", "/v3", Access::Public, h!(show))];

fn document(cx: &Ctx<State>) -> Value {
    json!({"versions": [{
        "id": "v3.0",
        "status": "CURRENT",
        "version": MAX.to_string(),
        "min_version": MIN.to_string(),
        "updated": "2026-03-01T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": format!("{}/v3/", cx.base_url)},
        ],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    }]})
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    Reply::json(300, &document(&cx))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&document(&cx))
}
