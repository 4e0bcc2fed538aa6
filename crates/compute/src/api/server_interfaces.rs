//! `/servers/{id}/os-interface` and `/servers/{id}/os-security-groups` with their actions.

use super::servers::{lookup, lookup_unlocked};
use super::wire::gate;
use crate::State;
use crate::logic::network::{self, Port};
use crate::logic::nics::{Asker, NicIn};
use crate::logic::{devices, nics};
use crate::store::servers::Server;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_policy::personas::{PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

const LIST: &str = "/servers/{id}/os-interface";
const ONE: &str = "/servers/{id}/os-interface/{port_id}";
const ACTION: &str = "/servers/{id}/action";

pub const OPS: &[Op<State>] = &[
    Op::get("interface_list", LIST, reader("os_compute_api:os-attach-interfaces:list"), h!(interface_list)),
    Op::post("interface_attach", LIST, member("os_compute_api:os-attach-interfaces:create"), h!(interface_attach)),
    Op::get("interface_show", ONE, reader("os_compute_api:os-attach-interfaces:show"), h!(interface_show)),
    Op::delete("interface_detach", ONE, member("os_compute_api:os-attach-interfaces:delete"), h!(interface_detach)),
    Op::get(
        "server_security_groups",
        "/servers/{id}/os-security-groups",
        reader("os_compute_api:os-security-groups:list"),
        h!(groups_list),
    ),
    Op::post("server_add_security_group", ACTION, member("os_compute_api:os-security-groups:add"), h!(group_add))
        .action("addSecurityGroup"),
    Op::post("server_remove_security_group", ACTION, member("os_compute_api:os-security-groups:remove"), h!(group_remove))
        .action("removeSecurityGroup"),
    Op::post("server_add_fixed_ip", ACTION, member("os_compute_api:os-multinic:add"), h!(fixed_ip_add)).action("addFixedIp").until(2, 43),
    Op::post("server_remove_fixed_ip", ACTION, member("os_compute_api:os-multinic:remove"), h!(fixed_ip_remove))
        .action("removeFixedIp")
        .until(2, 43),
];

fn view(cx: &Ctx<State>, s: &Server, p: &Port) -> Value {
    let ips: Vec<Value> = p.fixed_ips.iter().map(|i| json!({"ip_address": i.ip_address, "subnet_id": i.subnet_id})).collect();
    let mut v = json!({
        "net_id": p.network_id, "port_id": p.id, "mac_addr": p.mac_address, "port_state": p.status, "fixed_ips": ips,
    });
    if cx.version >= Version(2, 70) {
        v["tag"] = json!(s.ports.iter().find(|q| q.port_id == p.id).and_then(|q| q.tag.clone()));
    }
    v
}

async fn interface_list(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let ports = network::ports_of(&cx.state, &s.id).await?;
    let list: Vec<Value> = ports.iter().map(|p| view(&cx, &s, p)).collect();
    Reply::ok(&json!({"interfaceAttachments": list}))
}

fn no_port(id: &str) -> Error {
    Error::not_found(format!("Port {id} not found"))
}

async fn interface_show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let id = cx.param("port_id");
    let ports = network::ports_of(&cx.state, &s.id).await?;
    let port = ports.iter().find(|p| p.id == id).ok_or_else(|| no_port(id))?;
    Reply::ok(&json!({"interfaceAttachment": view(&cx, &s, port)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachBody {
    #[serde(rename = "interfaceAttachment", default)]
    inner: AttachIn,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachIn {
    #[serde(default)]
    net_id: Option<String>,
    #[serde(default)]
    port_id: Option<String>,
    #[serde(default)]
    fixed_ips: Option<Vec<FixedIpIn>>,
    #[serde(default)]
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FixedIpIn {
    ip_address: String,
}

async fn interface_attach(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: AttachBody = cx.json().await?;
    let a = body.inner;
    gate(&cx, "tag", a.tag.is_some(), 49, u32::MAX)?;
    let mut ips = a.fixed_ips.unwrap_or_default();
    if ips.len() > 1 {
        return Err(Error::invalid("Only one fixed_ips entry may be given."));
    }
    if a.net_id.is_some() && a.port_id.is_some() {
        return Err(Error::invalid("Must not input both network_id and port_id"));
    }
    if !ips.is_empty() && a.net_id.is_none() {
        return Err(Error::invalid("Must input network_id when request IP address"));
    }
    let external = cx.allows("network:attach_external_network", &Target::project(&s.project_id));
    let asker = Asker { state: &cx.state, token: &cx.auth().token, project_id: &s.project_id, external };
    let nic = match (a.port_id, a.net_id) {
        (None, None) => devices::default_nic(&asker, &s, a.tag).await?,
        (port, uuid) => {
            let wish = NicIn { uuid, port, fixed_ip: ips.pop().map(|i| i.ip_address), tag: a.tag };
            nics::one(&asker, &wish).await.map_err(|e| devices::attach_error(e, &wish))?
        }
    };
    let (s, port_id) = devices::interface_attach(&cx.state, cx.auth(), &cx.request_id, &s, nic).await?;
    let ports = network::ports_of(&cx.state, &s.id).await?;
    let port = ports.iter().find(|p| p.id == port_id).ok_or_else(|| no_port(&port_id))?;
    Reply::ok(&json!({"interfaceAttachment": view(&cx, &s, port)}))
}

async fn interface_detach(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    devices::interface_detach(&cx.state, cx.auth(), &cx.request_id, &s, cx.param("port_id")).await?;
    Ok(Reply::empty(202))
}

async fn groups_list(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let groups = network::security_groups_of(&cx.state, &s.id).await?;
    let list = super::security_groups::views(groups)?;
    Reply::ok(&json!({"security_groups": list}))
}

#[derive(Deserialize)]
struct GroupName {
    name: String,
}

async fn group_name(cx: &mut Ctx<State>) -> Result<String> {
    let body: std::collections::BTreeMap<String, GroupName> = cx.json().await?;
    let name = body.into_values().next().map(|g| g.name.trim().to_string()).unwrap_or_default();
    if name.is_empty() { Err(Error::invalid("Security group name cannot be empty")) } else { Ok(name) }
}

async fn group_add(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let name = group_name(&mut cx).await?;
    devices::security_group(&cx.state, cx.auth(), &s, &name, true).await?;
    Ok(Reply::empty(202))
}

async fn group_remove(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let name = group_name(&mut cx).await?;
    devices::security_group(&cx.state, cx.auth(), &s, &name, false).await?;
    Ok(Reply::empty(202))
}

#[derive(Deserialize)]
struct AddIpBody {
    #[serde(rename = "addFixedIp")]
    inner: AddIpIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddIpIn {
    #[serde(rename = "networkId")]
    network_id: super::wire::LooseText,
}

async fn fixed_ip_add(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: AddIpBody = cx.json().await?;
    devices::fixed_ip_add(&cx.state, &s, &body.inner.network_id.0).await?;
    Ok(Reply::empty(202))
}

#[derive(Deserialize)]
struct RemoveIpBody {
    #[serde(rename = "removeFixedIp")]
    inner: RemoveIpIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveIpIn {
    address: String,
}

async fn fixed_ip_remove(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: RemoveIpBody = cx.json().await?;
    devices::fixed_ip_remove(&cx.state, &s, &body.inner.address).await?;
    Ok(Reply::empty(202))
}
