//! Agents, availability zones, service providers and address usage: what the service says about
//! its hosts. Agents are computed from the hosts; there is nothing to register or to forget.

use super::attrs::Attrs;
use super::list::{self, Spec};
use super::{View, admin, view_of};
use crate::logic::{State, not_found};
use crate::store::{self, Network, Subnet};
use caelum_base::{Error, Result};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::{Filter, Query};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("agent_list", "/agents", admin("get_agent"), h!(index)),
    Op::get("agent_show", "/agents/{id}", admin("get_agent"), h!(show)),
    Op::get("agent_dhcp_networks", "/agents/{id}/dhcp-networks", admin("get_dhcp-networks"), h!(dhcp_networks)),
    Op::post("agent_dhcp_network_add", "/agents/{id}/dhcp-networks", admin("create_dhcp-network"), h!(dhcp_network_add)),
    Op::delete(
        "agent_dhcp_network_remove",
        "/agents/{id}/dhcp-networks/{network_id}",
        admin("delete_dhcp-network"),
        h!(dhcp_network_remove),
    ),
    Op::post("agent_l3_router_add", "/agents/{id}/l3-routers", admin("create_l3-router"), h!(l3_router_add)),
    Op::delete("agent_l3_router_remove", "/agents/{id}/l3-routers/{router_id}", admin("delete_l3-router"), h!(l3_router_remove)),
    Op::get("agent_l3_routers", "/agents/{id}/l3-routers", admin("get_l3-routers"), h!(l3_routers)),
    Op::get("availability_zone_list", "/availability_zones", Access::Token, h!(zones)),
    Op::get("service_provider_list", "/service-providers", Access::Token, h!(providers)),
    Op::get("network_ip_availability_list", "/network-ip-availabilities", admin("get_network_ip_availability"), h!(usage_list)),
    Op::get("network_ip_availability_show", "/network-ip-availabilities/{id}", admin("get_network_ip_availability"), h!(usage_show)),
];

/// Binary, type, topic, whether it lives only on the network host.
const KINDS: [(&str, &str, &str, bool); 4] = [
    ("neutron-linuxbridge-agent", "Linux bridge agent", "N/A", false),
    ("neutron-dhcp-agent", "DHCP agent", "dhcp_agent", true),
    ("neutron-l3-agent", "L3 agent", "l3_agent", true),
    ("neutron-metadata-agent", "Metadata agent", "N/A", true),
];

/// A stable id from host and binary.
fn agent_id(host: &str, binary: &str) -> String {
    // FNV-1a with two seeds; an identifier, not a secret.
    let text = format!("{host}\u{1f}{binary}");
    let fnv = |seed: u64| text.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let hex = format!("{:016x}{:016x}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x9ce4_8422_2325_cbf2));
    format!("{}-{}-5{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

fn agents(cx: &Ctx<State>) -> Vec<View> {
    let st = &cx.state;
    let now = cx.env.now().iso_z().replace('T', " ").replace('Z', "");
    let mut out = Vec::new();
    for host in st.hosts.all() {
        for (binary, kind, topic, central) in KINDS {
            if central && host.name != st.hosts.network_host() {
                continue;
            }
            let zone = if central { json!(st.options.availability_zone) } else { Value::Null };
            out.push(view_of(json!({
                "id": agent_id(&host.name, binary),
                "agent_type": kind,
                "binary": binary,
                "topic": topic,
                "host": host.name,
                "admin_state_up": true,
                "alive": true,
                "availability_zone": zone,
                "created_at": now,
                "started_at": now,
                "heartbeat_timestamp": now,
                "description": null,
                "resources_synced": null,
                "configurations": {},
            })));
        }
    }
    out
}

const SPEC: Spec = Spec { singular: "agent", plural: "agents", columns: &[], others: &[], handled: &[] };

async fn index(cx: Ctx<State>) -> Result<Reply> {
    // Who may not see agents sees none of them, as with any list.
    let all = if cx.authorize_own().is_ok() { agents(&cx) } else { Vec::new() };
    list::list_views(&cx, &SPEC, all)
}

fn find(cx: &Ctx<State>) -> Result<View> {
    let id = cx.param("id");
    let found = agents(cx).into_iter().find(|a| a.get("id").and_then(Value::as_str) == Some(id));
    found.ok_or_else(|| not_found("agent", id))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let a = find(&cx)?;
    Reply::ok(&json!({"agent": list::pick(&cx, a)}))
}

fn is_kind(a: &View, binary: &str) -> bool {
    a.get("binary").and_then(Value::as_str) == Some(binary)
}

/// The agent of the path, of the kind the operation is about.
fn find_kind(cx: &Ctx<State>, binary: &str) -> Result<()> {
    let a = find(cx)?;
    if is_kind(&a, binary) {
        return Ok(());
    }
    Err(Error::conflict(format!("Agent {} is not a {binary}.", cx.param("id"))).code("InvalidDHCPAgent"))
}

async fn dhcp_networks(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let dhcp = is_kind(&find(&cx)?, "neutron-dhcp-agent");
    let rows = cx
        .state
        .db
        .read(move |tx| {
            let mut out = Vec::new();
            let served = store::networks_with_owner(tx, "network:dhcp")?;
            for n in tx.list::<Network>(&Query::new())? {
                if dhcp && n.dhcp_hosted.unwrap_or_else(|| served.contains(&n.id)) {
                    out.push(n.value);
                }
            }
            Ok(out)
        })
        .await?;
    let x = super::networks::Extras::load(&cx, None).await?;
    let views: Vec<View> = rows.iter().map(|n| super::networks::view(n, &x)).collect();
    Reply::ok(&json!({"networks": views}))
}

async fn body_id(cx: &mut Ctx<State>, key: &str) -> Result<String> {
    let mut a = Attrs::from_value(cx.json().await?)?;
    let id = a.required_id(key)?;
    a.finish()?;
    Ok(id)
}

async fn dhcp_network_add(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    find_kind(&cx, "neutron-dhcp-agent")?;
    let id = body_id(&mut cx, "network_id").await?;
    cx.state.dhcp_host(id, true).await?;
    Reply::json(201, &Value::Null)
}

async fn dhcp_network_remove(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    find_kind(&cx, "neutron-dhcp-agent")?;
    cx.state.dhcp_host(cx.param("network_id").to_string(), false).await?;
    Ok(Reply::no_content())
}

async fn l3_router_add(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    find_kind(&cx, "neutron-l3-agent")?;
    let id = body_id(&mut cx, "router_id").await?;
    cx.state.router_host(id, true).await?;
    Reply::json(201, &Value::Null)
}

async fn l3_router_remove(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    find_kind(&cx, "neutron-l3-agent")?;
    cx.state.router_host(cx.param("router_id").to_string(), false).await?;
    Ok(Reply::no_content())
}

/// `GET /networks/{id}/dhcp-agents`.
pub async fn dhcp_agents(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let n: Network = super::find(&cx, "network").await?;
    let served = cx.state.db.read(move |tx| crate::logic::dhcp::is_hosted(tx, &n)).await?;
    let mut all = agents(&cx);
    all.retain(|a| served && a.get("binary").and_then(Value::as_str) == Some("neutron-dhcp-agent"));
    Reply::ok(&json!({"agents": all}))
}

/// The agents that run routers.
pub fn l3_agents(cx: &Ctx<State>) -> Vec<View> {
    let mut all = agents(cx);
    all.retain(|a| a.get("binary").and_then(Value::as_str) == Some("neutron-l3-agent"));
    all
}

async fn l3_routers(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let a = find(&cx)?;
    if a.get("binary").and_then(Value::as_str) != Some("neutron-l3-agent") {
        return Reply::ok(&json!({"routers": []}));
    }
    let rows = cx.state.db.list::<crate::store::Router>(Query::new()).await?;
    let views: Vec<View> = rows.iter().filter(|r| !r.unhosted).map(|r| super::routers::view(&cx, r)).collect();
    Reply::ok(&json!({"routers": views}))
}

async fn zones(cx: Ctx<State>) -> Result<Reply> {
    let zone = &cx.state.options.availability_zone;
    let all = ["network", "router"].map(|r| view_of(json!({"name": zone, "resource": r, "state": "available"})));
    let spec = Spec { singular: "availability_zone", plural: "availability_zones", columns: &[], others: &[], handled: &[] };
    list::list_views(&cx, &spec, all.to_vec())
}

async fn providers(cx: Ctx<State>) -> Result<Reply> {
    let all = vec![view_of(json!({"service_type": "L3_ROUTER_NAT", "name": "single_node", "default": true}))];
    let spec = Spec { singular: "service_provider", plural: "service_providers", columns: &[], others: &[], handled: &[] };
    list::list_views(&cx, &spec, all)
}

/// Addresses of a subnet's pools; capped where JSON numbers end to be exact for clients.
fn total(s: &Subnet) -> u128 {
    let size = |p: &store::Pool| crate::logic::net::number(p.end) - crate::logic::net::number(p.start) + 1;
    s.pools.iter().map(size).fold(0u128, u128::saturating_add)
}

async fn usage(cx: &Ctx<State>, networks: Vec<Network>) -> Result<Vec<View>> {
    let rows = cx
        .state
        .db
        .read(move |tx| {
            let mut out = Vec::new();
            for n in networks {
                let mut subnets = Vec::new();
                for s in tx.list::<Subnet>(&Query::new().eq("network_id", n.id.as_str()))? {
                    let used = store::used_in_subnet(tx, &s.id)?;
                    subnets.push((s.value, used));
                }
                out.push((n, subnets));
            }
            Ok(out)
        })
        .await?;
    let number = |n: u128| serde_json::Number::from_u128(n).map_or_else(|| json!(u64::MAX), Value::Number);
    Ok(rows
        .into_iter()
        .map(|(n, subnets)| {
            let all: u128 = subnets.iter().map(|(s, _)| total(s)).fold(0, u128::saturating_add);
            let used: i64 = subnets.iter().map(|(_, u)| u).sum();
            let each: Vec<Value> = subnets
                .iter()
                .map(|(s, u)| {
                    json!({"subnet_id": s.id, "subnet_name": s.name, "ip_version": s.ip_version, "cidr": s.cidr.to_string(),
                           "total_ips": number(total(s)), "used_ips": u})
                })
                .collect();
            view_of(json!({
                "network_id": n.id,
                "network_name": n.name,
                "tenant_id": n.project_id,
                "project_id": n.project_id,
                "total_ips": number(all),
                "used_ips": used,
                "subnet_ip_availability": each,
            }))
        })
        .collect())
}

async fn usage_list(cx: Ctx<State>) -> Result<Reply> {
    if cx.authorize_own().is_err() {
        return Reply::ok(&json!({"network_ip_availabilities": []}));
    }
    let mut q = Query::new();
    for (param, column) in [("network_id", "id"), ("network_name", "name"), ("tenant_id", "project_id"), ("project_id", "project_id")] {
        let values: Vec<caelum_store::Value> = cx.query.all(param).map(Into::into).collect();
        if !values.is_empty() {
            q = q.filter(Filter::In(column, values));
        }
    }
    let networks = cx.state.db.list::<Network>(q).await?.into_iter().map(|n| n.value).collect();
    let mut views = usage(&cx, networks).await?;
    if let Some(v) = cx.query.get("ip_version").and_then(|v| v.parse::<u64>().ok()) {
        views.retain(|n| {
            let subnets = n.get("subnet_ip_availability").and_then(Value::as_array);
            subnets.is_some_and(|s| s.iter().any(|s| s.get("ip_version").and_then(Value::as_u64) == Some(v)))
        });
    }
    Reply::ok(&json!({"network_ip_availabilities": views}))
}

async fn usage_show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let n: Network = super::find(&cx, "network").await?;
    let view = usage(&cx, vec![n]).await?.pop().unwrap_or_default();
    Reply::ok(&json!({"network_ip_availability": view}))
}
