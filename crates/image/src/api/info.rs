use super::{ADMIN, own_project, rule, view};
use crate::State;
use crate::store::used_bytes;
use caelum_base::Result;
use caelum_policy::Target;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::json;

pub const OPS: &[Op<State>] = &[
    Op::get("info_import", "/info/import", Access::Token, h!(import)),
    Op::get("info_stores", "/info/stores", Access::Token, h!(stores)),
    Op::get("info_stores_detail", "/info/stores/detail", rule("stores_info_detail", ADMIN), h!(stores_detail)),
    Op::get("info_usage", "/info/usage", Access::Token, h!(usage)),
];

async fn import(_: Ctx<State>) -> Result<Reply> {
    let methods = json!({"description": "Import methods available.", "type": "array", "value": crate::imports::METHODS});
    Reply::ok(&json!({"import-methods": methods}))
}

async fn stores(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"stores": [{"id": view::STORE, "default": "true"}]}))
}

async fn stores_detail(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new())?;
    let properties = json!({"data_dir": cx.state.root.path(), "chunk_size": 1_048_576, "thin_provisioning": true});
    let store = json!({"id": view::STORE, "default": "true", "type": "file", "weight": 0, "properties": properties});
    Reply::ok(&json!({"stores": [store]}))
}

/// Use against the storage quota, in MiB as upstream counts; nothing when there is no quota.
async fn usage(cx: Ctx<State>) -> Result<Reply> {
    let Some(quota) = cx.state.project_quota_bytes else { return Reply::ok(&json!({"usage": {}})) };
    let project = own_project(&cx).unwrap_or("").to_string();
    let used = cx.state.db.read(move |tx| used_bytes(tx, &project)).await?;
    Reply::ok(&json!({"usage": {"image_size_total": {"usage": used.div_ceil(1 << 20), "limit": quota >> 20}}}))
}
