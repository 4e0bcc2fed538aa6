//! Security groups and their rules.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, authorize_found, caller, if_revision, is_admin, member, reader, view_of, with_std};
use crate::logic::groups::{GroupChange, GroupInput, RuleInput};
use crate::logic::net::{invalid_input, parse_prefix};
use crate::logic::{State, not_found, sg_rules};
use crate::store::{self, Rule, SecurityGroup, Std};
use caelum_base::Result;
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Filter, Query};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("security_group_list", "/security-groups", reader("get_security_group"), h!(index)),
    Op::post("security_group_create", "/security-groups", member("create_security_group"), h!(create)),
    Op::get("security_group_show", "/security-groups/{id}", reader("get_security_group"), h!(show)),
    Op::put("security_group_update", "/security-groups/{id}", member("update_security_group"), h!(update)),
    Op::delete("security_group_delete", "/security-groups/{id}", member("delete_security_group"), h!(delete)),
    Op::get("security_group_rule_list", "/security-group-rules", reader("get_security_group_rule"), h!(rule_index)),
    Op::post("security_group_rule_create", "/security-group-rules", member("create_security_group_rule"), h!(rule_create)),
    Op::get("security_group_rule_show", "/security-group-rules/{id}", reader("get_security_group_rule"), h!(rule_show)),
    Op::delete("security_group_rule_delete", "/security-group-rules/{id}", member("delete_security_group_rule"), h!(rule_delete)),
];

const SPEC: Spec = Spec {
    singular: "security_group",
    plural: "security_groups",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("stateful", "stateful", Kind::Bool),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &["shared", "created_at", "updated_at"],
    handled: &[],
};

/// Attributes a rule can be listed by.
const RULE_FILTERS: &[(&str, &str, Kind)] = &[
    ("id", "id", Kind::Text),
    ("project_id", "project_id", Kind::Text),
    ("tenant_id", "project_id", Kind::Text),
    ("security_group_id", "security_group_id", Kind::Text),
    ("direction", "direction", Kind::Text),
    ("ethertype", "ethertype", Kind::Text),
    ("protocol", "protocol", Kind::Text),
    ("remote_group_id", "remote_group_id", Kind::Text),
    ("remote_ip_prefix", "remote_ip_prefix", Kind::Text),
    ("description", "description", Kind::Text),
];

pub fn rule_view(r: &Rule) -> View {
    let normalized = r.remote_ip_prefix.as_deref().and_then(parse_prefix).map(|n| n.to_string());
    let mut v = view_of(json!({
        "id": r.id,
        "tenant_id": r.project_id,
        "project_id": r.project_id,
        "security_group_id": r.security_group_id,
        "direction": r.direction,
        "ethertype": r.ethertype,
        "protocol": r.protocol,
        "port_range_min": r.port_range_min,
        "port_range_max": r.port_range_max,
        "remote_ip_prefix": r.remote_ip_prefix,
        "remote_group_id": r.remote_group_id,
        "remote_address_group_id": null,
        "normalized_cidr": normalized,
    }));
    v.insert("description".into(), r.std.description.clone().into());
    v.insert("created_at".into(), r.std.created_at.iso_z().into());
    v.insert("updated_at".into(), r.std.updated_at.iso_z().into());
    v.insert("revision_number".into(), r.std.revision.into());
    v
}

fn view(g: &SecurityGroup, rules: &[Rule]) -> View {
    let rules: Vec<Value> = rules.iter().filter(|r| r.security_group_id == g.id).map(|r| Value::Object(rule_view(r))).collect();
    with_std(
        json!({
            "id": g.id,
            "name": g.name,
            "tenant_id": g.project_id,
            "project_id": g.project_id,
            "stateful": g.stateful,
            "shared": false,
            "security_group_rules": rules,
        }),
        &g.std,
    )
}

async fn rules_of(cx: &Ctx<State>, groups: Option<&str>) -> Result<Vec<Rule>> {
    let mut q = Query::new().sort("created_at", caelum_store::Dir::Asc);
    if let Some(id) = groups {
        q = q.eq("security_group_id", id);
    } else if !is_admin(cx) {
        q = q.eq("project_id", cx.auth().project_id()?);
    }
    Ok(cx.state.db.list::<Rule>(q).await?.into_iter().map(caelum_store::Stored::into_inner).collect())
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let project = cx.auth().project_id()?.to_string();
    cx.state.group_ensure_default(project).await?;
    let mut filters = Vec::new();
    let mut rules = rules_of(&cx, None).await?;
    if !is_admin(&cx) {
        let project = super::own_rows(&cx, "get_security_group")?;
        let p = project.clone();
        let opened = cx.state.db.read(move |tx| store::rbac_objects(tx, "security_group", &p, "access_as_shared")).await?;
        for id in &opened {
            rules.extend(rules_of(&cx, Some(id)).await?);
        }
        filters.push(Filter::Any(vec![
            Filter::Eq("project_id", project.into()),
            Filter::In("id", opened.into_iter().map(Into::into).collect()),
        ]));
    }
    let mut by_group: std::collections::HashMap<String, Vec<Rule>> = std::collections::HashMap::new();
    for r in rules {
        by_group.entry(r.security_group_id.clone()).or_default().push(r);
    }
    list::list::<SecurityGroup>(&cx, &SPEC, filters, |g| view(g, by_group.get(&g.id).map_or(&[], Vec::as_slice))).await
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (all, bulk) = Attrs::read(&mut cx, "security_group", "security_groups").await?;
    let mut inputs = Vec::new();
    for mut a in all {
        inputs.push(GroupInput {
            project_id: a.project(&cx)?,
            name: a.required("name")?,
            description: a.description()?.unwrap_or_default(),
            stateful: a.boolean("stateful")?.unwrap_or(true),
        });
        a.finish()?;
    }
    let made = cx.state.group_create(inputs).await?;
    let mut views = Vec::new();
    for g in &made {
        let rules = rules_of(&cx, Some(&g.id)).await?;
        views.push(view(g, &rules));
    }
    super::created("security_group", "security_groups", views, bulk)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let g: SecurityGroup = super::find(&cx, "security_group").await?;
    let (id, project) = (g.id.clone(), caller(&cx).project_id);
    let shared = cx.state.db.read(move |tx| store::rbac_allows(tx, "security_group", &id, &project, "access_as_shared")).await?;
    if shared {
        cx.filtered();
    } else {
        authorize_found(&cx, "security_group", &g.id, &g.project_id)?;
    }
    let rules = rules_of(&cx, Some(&g.id)).await?;
    Reply::ok(&json!({"security_group": list::pick(&cx, view(&g, &rules))}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let g: SecurityGroup = super::find(&cx, "security_group").await?;
    authorize_found(&cx, "security_group", &g.id, &g.project_id)?;
    let mut a = Attrs::read_one(&mut cx, "security_group").await?;
    a.frozen(&["id", "tenant_id", "project_id"])?;
    let change =
        GroupChange { name: a.name()?, description: a.description()?, stateful: a.boolean("stateful")?, if_revision: if_revision(&cx)? };
    a.finish()?;
    let g = cx.state.group_update(g.id, change).await?;
    let rules = rules_of(&cx, Some(&g.id)).await?;
    Reply::ok(&json!({"security_group": view(&g, &rules)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let g: SecurityGroup = super::find(&cx, "security_group").await?;
    authorize_found(&cx, "security_group", &g.id, &g.project_id)?;
    cx.state.group_delete(g.id, is_admin(&cx)).await?;
    Ok(Reply::no_content())
}

async fn rule_index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let mut filters = Vec::new();
    if !is_admin(&cx) {
        let project = cx.auth().project_id()?.to_string();
        cx.state.group_ensure_default(project).await?;
        let project = super::own_rows(&cx, "get_security_group_rule")?;
        let p = project.clone();
        // Rules of one's own groups, whoever made them.
        let own = cx.state.db.list::<SecurityGroup>(Query::new().eq("project_id", p)).await?;
        filters.push(Filter::Any(vec![
            Filter::Eq("project_id", project.into()),
            Filter::In("security_group_id", own.into_iter().map(|g| g.value.id.into()).collect()),
        ]));
    }
    for (attr, column, _) in RULE_FILTERS {
        let values: Vec<caelum_store::Value> = cx.query.all(attr).map(Into::into).collect();
        if !values.is_empty() {
            filters.push(Filter::In(column, values));
        }
    }
    let rows = list::rows::<Rule>(&cx, filters).await?;
    let spec = Spec { singular: "security_group_rule", plural: "security_group_rules", columns: &[], others: &[], handled: &[] };
    list::list_views(&cx, &spec, rows.iter().map(|r| rule_view(r)).collect())
}

fn rule_input(mut a: Attrs) -> Result<RuleInput> {
    let protocol = match a.take("protocol") {
        Some(v) => sg_rules::protocol(&v)?,
        None => None,
    };
    let port = |a: &mut Attrs, key: &str| match a.peek(key) {
        Some(Value::String(s)) if s.is_empty() => Ok(a.take(key).and(None)),
        _ => a.integer(key).map_err(|_| {
            let m = format!("Invalid value for port {}", a.peek(key).cloned().unwrap_or_default());
            caelum_base::Error::invalid(m).code("SecurityGroupInvalidPortValue")
        }),
    };
    let (port_min, port_max) = (port(&mut a, "port_range_min")?, port(&mut a, "port_range_max")?);
    // Where a rule belongs follows from its group.
    for k in ["tenant_id", "project_id"] {
        a.take(k);
    }
    if a.take("remote_address_group_id").is_some_and(|v| !v.is_null()) {
        return Err(invalid_input("remote_address_group_id", "address groups are not supported"));
    }
    let rule = Rule {
        id: String::new(),
        project_id: String::new(),
        security_group_id: a.required_id("security_group_id")?,
        direction: a.required("direction")?,
        ethertype: a.nullable("ethertype", 32)?.flatten().unwrap_or_else(|| "IPv4".into()),
        protocol,
        port_range_min: None,
        port_range_max: None,
        remote_ip_prefix: a.nullable("remote_ip_prefix", 64)?.flatten().filter(|p| !p.is_empty()),
        // Any text is an id that may not exist.
        remote_group_id: a.nullable("remote_group_id", 255)?.flatten().filter(|g| !g.is_empty()),
        std: Std { description: a.nullable("description", 255)?.flatten().unwrap_or_default(), ..Std::default() },
    };
    a.finish()?;
    Ok(RuleInput { rule, port_min, port_max })
}

async fn rule_create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (all, bulk) = Attrs::read(&mut cx, "security_group_rule", "security_group_rules").await?;
    let inputs = all.into_iter().map(rule_input).collect::<Result<Vec<_>>>()?;
    let made = cx.state.rule_create(inputs, caller(&cx)).await?;
    super::created("security_group_rule", "security_group_rules", made.iter().map(rule_view).collect(), bulk)
}

/// A rule belongs to the owner of its group.
async fn rule_found(cx: &Ctx<State>) -> Result<Rule> {
    let id = cx.param("id").to_string();
    let r = cx.state.db.get::<Rule>(&id).await?.ok_or_else(|| not_found("security_group_rule", &id))?.into_inner();
    let g = cx.state.db.get::<SecurityGroup>(&r.security_group_id).await?;
    let owner = g.map_or_else(|| r.project_id.clone(), |g| g.value.project_id);
    authorize_found(cx, "security_group_rule", &r.id, &owner)?;
    Ok(r)
}

async fn rule_show(cx: Ctx<State>) -> Result<Reply> {
    let r = rule_found(&cx).await?;
    Reply::ok(&json!({"security_group_rule": list::pick(&cx, rule_view(&r))}))
}

async fn rule_delete(cx: Ctx<State>) -> Result<Reply> {
    let r = rule_found(&cx).await?;
    cx.state.rule_delete(r.id).await?;
    Ok(Reply::no_content())
}
