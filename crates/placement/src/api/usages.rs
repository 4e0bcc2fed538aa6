use super::{admin, authorize, since};
use crate::{State, store};
use caelum_base::{Error, Result};
use caelum_policy::personas;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("provider_usage_show", "/resource_providers/{uuid}/usages", admin("placement:resource_providers:usages"), h!(on_provider)),
    Op::get(
        "usage_list",
        "/usages",
        Access::rule("placement:usages", personas::PROJECT_READER_OR_ADMIN, personas::PROJECT),
        h!(of_project),
    )
    .since(1, 9),
];

async fn on_provider(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let (p, all) = cx.state.db.read(move |tx| Ok((store::provider(tx, &id)?, store::inventories(tx, &id)?))).await?;
    let used: BTreeMap<&String, i64> = all.iter().map(|(c, i)| (c, i.used)).collect();
    Reply::ok(&json!({"resource_provider_generation": p.generation, "usages": used}))
}

async fn of_project(cx: Ctx<State>) -> Result<Reply> {
    let project = cx.query.get("project_id").unwrap_or("").to_string();
    cx.authorize_project(&project)?;
    if project.is_empty() {
        return Err(Error::invalid("Invalid query string parameters: 'project_id' is a required property"));
    }
    let user = cx.query.get("user_id").map(String::from);
    let kind = cx.query.get("consumer_type").map(String::from);
    let typed = since(&cx, 38);
    let filter = kind.clone().filter(|k| typed && k != "all" && k != "unknown");
    let rows = cx.state.db.read(move |tx| store::usages(tx, &project, user.as_deref(), filter.as_deref())).await?;
    let mut by_kind: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for (row_kind, class, used, n) in rows {
        let name = if !typed {
            String::new()
        } else if kind.as_deref() == Some("all") {
            "all".into()
        } else {
            row_kind
        };
        let entry = by_kind.entry(name).or_default();
        let sum = entry.get(&class).and_then(Value::as_i64).unwrap_or(0);
        entry.insert(class, json!(sum + used));
        if typed {
            let count = entry.get("consumer_count").and_then(Value::as_i64).unwrap_or(0);
            entry.insert("consumer_count".into(), json!(count.max(n)));
        }
    }
    if typed {
        return Reply::ok(&json!({"usages": by_kind}));
    }
    Reply::ok(&json!({"usages": by_kind.remove("").unwrap_or_default()}))
}
