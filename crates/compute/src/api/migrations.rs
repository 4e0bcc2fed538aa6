//! `/os-migrations`. This cloud moves no server between hosts, so the list has no rows.

use crate::State;
use caelum_base::Result;
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::json;

pub const OPS: &[Op<State>] =
    &[Op::get("migration_list", "/os-migrations", Access::rule("os_compute_api:os-migrations:index", ADMIN, PROJECT), h!(list))];

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    Reply::ok(&json!({"migrations": []}))
}
