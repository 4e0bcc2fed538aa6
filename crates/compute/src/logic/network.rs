//! Calls to the network service. Ports are found again by their `device_id`, the server's id, so
//! every call here can be repeated after a crash.

use crate::State;
use crate::store::servers::{FixedIp, ServerPort};
use caelum_base::{Error, ErrorKind, Result, Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Network {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub subnets: Vec<String>,
    #[serde(default)]
    pub shared: bool,
    #[serde(default, rename = "router:external")]
    pub external: bool,
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub project_id: String,
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Port {
    pub id: String,
    pub network_id: String,
    #[serde(default)]
    pub mac_address: String,
    #[serde(default)]
    pub fixed_ips: Vec<PortIp>,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub device_id: Option<String>,
    #[serde(default)]
    pub device_owner: Option<String>,
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    #[serde(default, rename = "binding:vif_type")]
    pub vif_type: Option<String>,
    #[serde(default)]
    pub security_groups: Vec<String>,
    #[serde(default)]
    pub project_id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct PortIp {
    #[serde(default)]
    pub subnet_id: String,
    pub ip_address: String,
}

impl Port {
    pub fn owner(&self) -> &str {
        self.device_id.as_deref().unwrap_or("")
    }

    pub fn is_active(&self) -> bool {
        self.status == "ACTIVE"
    }
}

#[derive(Deserialize)]
struct PortBody {
    port: Port,
}
#[derive(Deserialize)]
struct PortsBody {
    ports: Vec<Port>,
}
#[derive(Deserialize)]
struct NetworkBody {
    network: Network,
}
#[derive(Deserialize)]
struct NetworksBody {
    networks: Vec<Network>,
}
#[derive(Deserialize)]
struct Group {
    id: String,
    name: String,
}
#[derive(Deserialize)]
struct GroupsBody {
    security_groups: Vec<Group>,
}
#[derive(Deserialize)]
struct Floating {
    floating_ip_address: String,
    fixed_ip_address: Option<String>,
    port_id: Option<String>,
}
#[derive(Deserialize)]
struct FloatingBody {
    floatingips: Vec<Floating>,
}

/// A network the user may see.
pub async fn network_of_user(state: &State, token: &Secret<String>, id: &str) -> Result<Network> {
    let found: Result<NetworkBody> = state.peers.network.get(format!("/v2.0/networks/{}", path(id)?)).as_user(token).fetch().await;
    match found {
        Ok(b) => Ok(b.network),
        Err(e) if e.is_not_found() => Err(Error::invalid(format!("Network {id} could not be found."))),
        Err(e) => Err(e),
    }
}

/// A port the user may see.
pub async fn port_of_user(state: &State, token: &Secret<String>, id: &str) -> Result<Port> {
    let found: Result<PortBody> = state.peers.network.get(format!("/v2.0/ports/{}", path(id)?)).as_user(token).fetch().await;
    match found {
        Ok(b) => Ok(b.port),
        Err(e) if e.is_not_found() => Err(Error::invalid(format!("Port id {id} could not be found."))),
        Err(e) => Err(e),
    }
}

/// Ids come from users; only what cannot change the meaning of a path may go into one.
pub fn path(id: &str) -> Result<&str> {
    let fine = !id.is_empty() && id.len() <= 255 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fine { Ok(id) } else { Err(Error::invalid(format!("{id:?} is not a valid id."))) }
}

/// The networks a server gets when the user names none: the project's own and shared ones.
pub async fn networks_for_auto(state: &State, token: &Secret<String>, project_id: &str) -> Result<Vec<Network>> {
    let all: NetworksBody = state.peers.network.get("/v2.0/networks").as_user(token).fetch().await?;
    Ok(all.networks.into_iter().filter(|n| n.shared || (n.project_id == project_id && !n.external)).collect())
}

/// The project's ready-made network, created on demand when the cloud offers that.
pub async fn auto_topology(state: &State, token: &Secret<String>, project_id: &str) -> Result<String> {
    let call = state.peers.network.get(format!("/v2.0/auto-allocated-topology/{}", path(project_id)?)).as_user(token);
    let body: Value = call.fetch().await.map_err(|e| match e.kind {
        ErrorKind::Unavailable | ErrorKind::Timeout => e,
        _ => Error::invalid(format!("Unable to automatically allocate a network for project {project_id}")).caused_by(e),
    })?;
    let id = body["auto_allocated_topology"]["id"].as_str().unwrap_or("").to_string();
    if id.is_empty() {
        return Err(Error::invalid(format!("Unable to automatically allocate a network for project {project_id}")));
    }
    Ok(id)
}

/// Ids of security groups given by name or id. Errors: `Invalid` for an unknown one, `Conflict`
/// for a name that several have.
pub async fn security_group_ids(state: &State, token: &Secret<String>, wanted: &[String]) -> Result<Vec<String>> {
    let all: GroupsBody = state.peers.network.get("/v2.0/security-groups?fields=id&fields=name").as_user(token).fetch().await?;
    let mut out = Vec::with_capacity(wanted.len());
    for w in wanted {
        if let Some(g) = all.security_groups.iter().find(|g| g.id == *w) {
            out.push(g.id.clone());
            continue;
        }
        let mut named = all.security_groups.iter().filter(|g| g.name == *w);
        match (named.next(), named.next()) {
            (Some(g), None) => out.push(g.id.clone()),
            (None, _) => return Err(Error::invalid(format!("Unable to find security_group with name or id '{w}'"))),
            _ => {
                return Err(Error::conflict(format!(
                    "Multiple security_group matches found for name '{w}', use an ID to be more specific."
                )));
            }
        }
    }
    Ok(out)
}

/// Security groups of a server's ports, as the network service shows them.
pub async fn security_groups_of(state: &State, server_id: &str) -> Result<Vec<Value>> {
    let ports = ports_of(state, server_id).await?;
    let ids: BTreeSet<&String> = ports.iter().flat_map(|p| p.security_groups.iter()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = ids.iter().map(|id| format!("id={id}")).collect::<Vec<_>>().join("&");
    let body: Value = state.peers.network.get(format!("/v2.0/security-groups?{query}")).fetch().await?;
    Ok(body["security_groups"].as_array().cloned().unwrap_or_default())
}

/// Every port of a server.
pub async fn ports_of(state: &State, server_id: &str) -> Result<Vec<Port>> {
    let body: PortsBody = state.peers.network.get(format!("/v2.0/ports?device_id={server_id}")).fetch().await?;
    Ok(body.ports)
}

/// A port to be made for a server.
#[derive(Clone, Debug, Default)]
pub struct NewPort<'a> {
    pub network_id: &'a str,
    pub project_id: &'a str,
    pub server_id: &'a str,
    pub zone: &'a str,
    pub host: &'a str,
    pub fixed_ip: Option<&'a str>,
    pub security_groups: &'a [String],
    pub hostname: &'a str,
}

pub async fn port_create(state: &State, new: &NewPort<'_>) -> Result<Port> {
    let mut port = json!({
        "network_id": new.network_id, "project_id": new.project_id, "device_id": new.server_id,
        "device_owner": format!("compute:{}", new.zone), "binding:host_id": new.host, "admin_state_up": true,
    });
    if let Some(ip) = new.fixed_ip {
        port["fixed_ips"] = json!([{"ip_address": ip}]);
    }
    if !new.security_groups.is_empty() {
        port["security_groups"] = json!(new.security_groups);
    }
    let body: PortBody = state.peers.network.post("/v2.0/ports").json(&json!({"port": port})).fetch().await?;
    bound(body.port)
}

/// Gives a port to a server on a host.
pub async fn port_bind(state: &State, port_id: &str, server_id: &str, zone: &str, host: &str) -> Result<Port> {
    let port = json!({"device_id": server_id, "device_owner": format!("compute:{zone}"), "binding:host_id": host});
    let body: PortBody = state.peers.network.put(format!("/v2.0/ports/{port_id}")).json(&json!({"port": port})).fetch().await?;
    bound(body.port)
}

fn bound(port: Port) -> Result<Port> {
    if port.vif_type.as_deref() == Some("binding_failed") {
        return Err(Error::conflict(format!(
            "Binding failed for port {}, please check the network service for more information.",
            port.id
        )));
    }
    Ok(port)
}

/// Moves a server's port to another host, or with an empty name to none.
pub async fn port_rehost(state: &State, port_id: &str, host: &str) -> Result<()> {
    let body = json!({"port": {"binding:host_id": host}});
    state.peers.network.put(format!("/v2.0/ports/{port_id}")).json(&body).done_or_gone().await
}

/// Takes a user's port away from a server; the port stays. Only if the server still has it.
pub async fn port_unbind(state: &State, port_id: &str, server_id: &str) -> Result<()> {
    let found: Result<PortBody> = state.peers.network.get(format!("/v2.0/ports/{port_id}")).fetch().await;
    match found {
        Ok(b) if b.port.owner() == server_id => {}
        Ok(_) => return Ok(()),
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e),
    }
    let port = json!({"device_id": "", "device_owner": "", "binding:host_id": ""});
    state.peers.network.put(format!("/v2.0/ports/{port_id}")).json(&json!({"port": port})).done_or_gone().await
}

pub async fn port_delete(state: &State, port_id: &str) -> Result<()> {
    state.peers.network.delete(format!("/v2.0/ports/{port_id}")).done_or_gone().await
}

/// Removes every port of a server: ports in `keep` are given back to the user, all others go.
pub async fn release_ports(state: &State, server_id: &str, keep: &BTreeSet<String>) -> Result<()> {
    for port in ports_of(state, server_id).await? {
        if keep.contains(&port.id) {
            port_unbind(state, &port.id, server_id).await?;
        } else {
            port_delete(state, &port.id).await?;
        }
    }
    Ok(())
}

/// Names and MTUs of networks, from a short cache.
pub async fn network(state: &State, id: &str) -> Result<Network> {
    if let Some(n) = state.networks.get(id) {
        return Ok(n);
    }
    let body: NetworkBody = state.peers.network.get(format!("/v2.0/networks/{id}")).fetch().await?;
    state.networks.put(id, body.network.clone());
    Ok(body.network)
}

/// What a server keeps of a port.
pub async fn remember(state: &State, port: &Port, ours: bool, tag: Option<String>) -> Result<ServerPort> {
    let net = network(state, &port.network_id).await?;
    Ok(ServerPort {
        port_id: port.id.clone(),
        network_id: port.network_id.clone(),
        network_name: net.name,
        mac: port.mac_address.clone(),
        mtu: net.mtu.unwrap_or(1500),
        fixed_ips: port
            .fixed_ips
            .iter()
            .map(|ip| FixedIp { address: ip.ip_address.clone(), subnet_id: ip.subnet_id.clone(), floating_ips: Vec::new() })
            .collect(),
        ours,
        tag,
        active: port.is_active(),
        made_by: String::new(),
    })
}

/// The server's ports as the network service has them now, with floating IPs; a port of the row
/// that is gone there is left out.
pub async fn refresh(state: &State, server_id: &str, known: &[ServerPort]) -> Result<Vec<ServerPort>> {
    let ports = ports_of(state, server_id).await?;
    let floating = floating_of(state, &ports).await?;
    let mut out = Vec::with_capacity(ports.len());
    let at = |id: &str| known.iter().position(|k| k.port_id == id);
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by_key(|p| at(&p.id).unwrap_or(usize::MAX));
    for p in sorted {
        let before = at(&p.id).and_then(|i| known.get(i));
        let mut row = remember(state, p, before.is_some_and(|b| b.ours), before.and_then(|b| b.tag.clone())).await?;
        row.made_by = before.map(|b| b.made_by.clone()).unwrap_or_default();
        for ip in &mut row.fixed_ips {
            ip.floating_ips = floating.get(&(p.id.clone(), ip.address.clone())).cloned().unwrap_or_default();
        }
        out.push(row);
    }
    Ok(out)
}

async fn floating_of(state: &State, ports: &[Port]) -> Result<HashMap<(String, String), Vec<String>>> {
    let mut out: HashMap<(String, String), Vec<String>> = HashMap::new();
    if ports.is_empty() {
        return Ok(out);
    }
    let query = ports.iter().map(|p| format!("port_id={}", p.id)).collect::<Vec<_>>().join("&");
    let body: Result<FloatingBody> = state.peers.network.get(format!("/v2.0/floatingips?{query}")).fetch().await;
    let list = match body {
        Ok(b) => b.floatingips,
        // A network service without routers has no floating IPs.
        Err(e) if e.is_not_found() => Vec::new(),
        Err(e) => return Err(e),
    };
    for f in list {
        if let (Some(port), Some(fixed)) = (f.port_id, f.fixed_ip_address) {
            out.entry((port, fixed)).or_default().push(f.floating_ip_address);
        }
    }
    Ok(out)
}
