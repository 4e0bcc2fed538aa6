//! `/os-security-groups` and `/os-security-group-rules` (until 2.35): the network service's groups in
//! compute's old form, with the user's own rights.

use super::forms;
use crate::State;
use caelum_base::{Error, ErrorKind, Result, is_uuid};
use caelum_policy::personas::{PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const LIST: &str = "/os-security-groups";
const ONE: &str = "/os-security-groups/{id}";
const RULES: &str = "/os-security-group-rules";

pub const OPS: &[Op<State>] = &[
    Op::get("security_group_list", LIST, reader("os_compute_api:os-security-groups:get"), h!(list)).until(2, 35),
    Op::post("security_group_create", LIST, member("os_compute_api:os-security-groups:create"), h!(create)).until(2, 35),
    Op::delete("security_group_delete_none", LIST, Access::Token, h!(nothing)).until(2, 35),
    Op::get("security_group_show", ONE, reader("os_compute_api:os-security-groups:show"), h!(show)).until(2, 35),
    Op::put("security_group_update", ONE, member("os_compute_api:os-security-groups:update"), h!(update)).until(2, 35),
    Op::delete("security_group_delete", ONE, member("os_compute_api:os-security-groups:delete"), h!(delete)).until(2, 35),
    Op::post("security_group_rule_create", RULES, member("os_compute_api:os-security-groups:rule:create"), h!(rule_create)).until(2, 35),
    Op::delete(
        "security_group_rule_delete",
        "/os-security-group-rules/{id}",
        member("os_compute_api:os-security-groups:rule:delete"),
        h!(rule_delete),
    )
    .until(2, 35),
];

#[derive(Deserialize)]
struct Groups {
    security_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct One {
    security_group: Group,
}

#[derive(Deserialize)]
struct Group {
    id: String,
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    project_id: String,
    #[serde(default)]
    security_group_rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct OneRule {
    security_group_rule: Rule,
}

#[derive(Clone, Deserialize)]
struct Rule {
    id: String,
    security_group_id: String,
    direction: String,
    #[serde(default)]
    ethertype: Option<String>,
    #[serde(default)]
    protocol: Option<Value>,
    #[serde(default)]
    port_range_min: Option<i64>,
    #[serde(default)]
    port_range_max: Option<i64>,
    #[serde(default)]
    remote_ip_prefix: Option<String>,
    #[serde(default)]
    remote_group_id: Option<String>,
}

/// Names and projects of groups that rules may name, by id.
type Names = HashMap<String, (String, String)>;

fn names(groups: &[Group]) -> Names {
    groups.iter().map(|g| (g.id.clone(), (g.name.clone(), g.project_id.clone()))).collect()
}

fn rule_view(r: &Rule, names: &Names) -> Value {
    let protocol = r.protocol.as_ref().and_then(|p| p.as_str().map(String::from));
    let whole = match protocol.as_deref() {
        Some("icmp") => (Some(-1), Some(-1)),
        Some("tcp" | "udp") => (Some(1), Some(65_535)),
        _ => (None, None),
    };
    let ports = if r.port_range_min.is_none() && r.port_range_max.is_none() { whole } else { (r.port_range_min, r.port_range_max) };
    let mut v = json!({
        "id": r.id, "parent_group_id": r.security_group_id, "ip_protocol": protocol, "from_port": ports.0, "to_port": ports.1,
        "group": {}, "ip_range": {},
    });
    match (&r.remote_group_id, &r.remote_ip_prefix) {
        (Some(id), _) => {
            if let Some((name, project)) = names.get(id) {
                v["group"] = json!({"name": name, "tenant_id": project});
            }
        }
        (None, Some(cidr)) => v["ip_range"] = json!({"cidr": cidr}),
        (None, None) => {
            let all = if r.ethertype.as_deref() == Some("IPv6") { "::/0" } else { "0.0.0.0/0" };
            v["ip_range"] = json!({"cidr": all});
        }
    }
    v
}

fn view(g: &Group, names: &Names) -> Value {
    let rules: Vec<_> = g.security_group_rules.iter().filter(|r| r.direction == "ingress").map(|r| rule_view(r, names)).collect();
    json!({
        "id": g.id, "name": g.name, "tenant_id": g.project_id, "description": g.description.as_deref().unwrap_or(""), "rules": rules,
    })
}

/// Groups as the network service gives them, in compute's form.
pub fn views(groups: Vec<Value>) -> Result<Vec<Value>> {
    let read = |v: Value| serde_json::from_value::<Group>(v).map_err(|e| Error::internal("unexpected security group").caused_by(e));
    let groups: Vec<Group> = groups.into_iter().map(read).collect::<Result<_>>()?;
    let names = names(&groups);
    Ok(groups.iter().map(|g| view(g, &names)).collect())
}

fn checked_id(id: &str) -> Result<&str> {
    if is_uuid(id) { Ok(id) } else { Err(Error::invalid(format!("Security group id {id} should be uuid."))) }
}

async fn fetch_all(cx: &Ctx<State>) -> Result<Vec<Group>> {
    let auth = cx.auth();
    let everyone = cx.query.bool("all_tenants") == Some(true) && auth.is_admin();
    let filter = if everyone { String::new() } else { format!("?project_id={}", crate::logic::network::path(auth.project_id()?)?) };
    let call = cx.state.peers.network.get(format!("/v2.0/security-groups{filter}")).as_user(&auth.token);
    Ok(call.fetch::<Groups>().await?.security_groups)
}

async fn fetch(cx: &Ctx<State>, id: &str) -> Result<Group> {
    let call = cx.state.peers.network.get(format!("/v2.0/security-groups/{}", checked_id(id)?)).as_user(&cx.auth().token);
    let found: Result<One> = call.fetch().await;
    found.map(|b| b.security_group).map_err(|e| gone(e, id))
}

fn gone(e: Error, id: &str) -> Error {
    if e.is_not_found() { Error::not_found(format!("Security group {id} not found.")) } else { e }
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let groups = fetch_all(&cx).await?;
    let names = names(&groups);
    let limit = cx.query.int("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(forms::MAX_LIMIT);
    let offset = cx.query.int("offset")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let views: Vec<_> = groups.iter().skip(offset).take(limit).map(|g| view(g, &names)).collect();
    Reply::ok(&json!({"security_groups": views}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let group = fetch(&cx, cx.param("id")).await?;
    let mut known = names(std::slice::from_ref(&group));
    if group.security_group_rules.iter().any(|r| r.remote_group_id.as_ref().is_some_and(|g| *g != group.id)) {
        known.extend(names(&fetch_all(&cx).await?));
    }
    Reply::ok(&json!({"security_group": view(&group, &known)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    security_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

async fn fields(cx: &mut Ctx<State>) -> Result<Value> {
    let f = cx.json::<Body>().await?.security_group;
    forms::check_name("name", f.name.trim())?;
    let description = f.description.unwrap_or_default();
    if description.chars().count() > 255 {
        return Err(Error::invalid("Security group description should not be greater than 255 characters."));
    }
    Ok(json!({"security_group": {"name": f.name, "description": description}}))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body = fields(&mut cx).await?;
    let made: One = cx.state.peers.network.post("/v2.0/security-groups").as_user(&cx.auth().token).json(&body).fetch().await?;
    let group = made.security_group;
    let known = names(std::slice::from_ref(&group));
    Reply::ok(&json!({"security_group": view(&group, &known)}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = checked_id(cx.param("id"))?.to_string();
    let body = fields(&mut cx).await?;
    let call = cx.state.peers.network.put(format!("/v2.0/security-groups/{id}")).as_user(&cx.auth().token).json(&body);
    let group = call.fetch::<One>().await.map_err(|e| gone(e, &id))?.security_group;
    let known = names(std::slice::from_ref(&group));
    Reply::ok(&json!({"security_group": view(&group, &known)}))
}

/// A group in use, or the default one, is a bad request here where the network service has a conflict.
async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = checked_id(cx.param("id"))?;
    let done = cx.state.peers.network.delete(format!("/v2.0/security-groups/{id}")).as_user(&cx.auth().token).done().await;
    done.map_err(|e| match e.kind {
        ErrorKind::Conflict => Error::invalid(e.message),
        _ => gone(e, id),
    })?;
    Ok(Reply::empty(202))
}

async fn nothing(_: Ctx<State>) -> Result<Reply> {
    Err(Error::not_found("The resource could not be found."))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    security_group_rule: NewRule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRule {
    parent_group_id: String,
    ip_protocol: Option<String>,
    from_port: Option<Value>,
    to_port: Option<Value>,
    cidr: Option<String>,
    group_id: Option<String>,
}

impl NewRule {
    /// The network service's form of the rule.
    fn neutral(&self) -> Result<Value> {
        let protocol = self.ip_protocol.as_deref().map(str::to_ascii_lowercase);
        if !matches!(protocol.as_deref(), None | Some("tcp" | "udp" | "icmp")) {
            return Err(Error::invalid(format!("Invalid IP protocol {}.", protocol.unwrap_or_default())));
        }
        let port = |v: &Option<Value>| match v {
            None | Some(Value::Null) => Ok(None),
            Some(v) => {
                let n = forms::integer(v).filter(|n| (-1..=65_535).contains(n));
                n.map(|n| Some(n).filter(|n| *n >= 0)).ok_or_else(|| Error::invalid(format!("Invalid port {v}.")))
            }
        };
        let (from, to) = (port(&self.from_port)?, port(&self.to_port)?);
        if protocol.is_none() && (from.is_some() || to.is_some() || self.group_id.is_none()) {
            return Err(Error::invalid("Not enough parameters to build a valid rule."));
        }
        if protocol.as_deref() != Some("icmp") && from.zip(to).is_some_and(|(f, t)| f > t) {
            return Err(Error::invalid("Invalid port range: from_port is greater than to_port."));
        }
        let mut rule = json!({
            "security_group_id": checked_id(&self.parent_group_id)?, "direction": "ingress", "ethertype": "IPv4",
            "protocol": protocol, "port_range_min": from, "port_range_max": to,
        });
        match &self.group_id {
            Some(group) => rule["remote_group_id"] = json!(checked_id(group)?),
            None => {
                let cidr = self.cidr.as_deref().filter(|c| !c.is_empty()).unwrap_or("0.0.0.0/0");
                let address: Option<IpAddr> = cidr.split('/').next().and_then(|a| a.parse().ok());
                let address = address.ok_or_else(|| Error::invalid(format!("Invalid cidr {cidr}.")))?;
                rule["ethertype"] = json!(if address.is_ipv6() { "IPv6" } else { "IPv4" });
                rule["remote_ip_prefix"] = json!(cidr);
            }
        }
        Ok(json!({"security_group_rule": rule}))
    }
}

async fn rule_create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let new = cx.json::<RuleBody>().await?.security_group_rule;
    let body = new.neutral()?;
    let mut known = Names::new();
    if let Some(group) = &new.group_id {
        known = names(&[fetch(&cx, group).await?]);
    }
    let call = cx.state.peers.network.post("/v2.0/security-group-rules").as_user(&cx.auth().token).json(&body);
    // A rule that exists already is a bad request here.
    let refused = |e: Error| if e.is_conflict() { Error::invalid(e.message) } else { gone(e, &new.parent_group_id) };
    let made = call.fetch::<OneRule>().await.map_err(refused)?;
    Reply::ok(&json!({"security_group_rule": rule_view(&made.security_group_rule, &known)}))
}

async fn rule_delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = checked_id(cx.param("id"))?;
    cx.state.peers.network.delete(format!("/v2.0/security-group-rules/{id}")).as_user(&cx.auth().token).done().await?;
    Ok(Reply::empty(202))
}
