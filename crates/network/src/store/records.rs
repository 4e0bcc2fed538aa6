//! The stored resources.

use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Attributes every resource has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Std {
    pub description: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Counts changes, from 0 at creation.
    pub revision: i64,
    pub tags: Vec<String>,
}

impl Std {
    pub fn new(now: Timestamp, description: String) -> Self {
        Self { description, created_at: now, updated_at: now, revision: 0, tags: Vec::new() }
    }

    /// Notes a change.
    pub fn touch(&mut self, now: Timestamp) {
        self.updated_at = now;
        self.revision += 1;
    }

    /// Tags between separators no tag contains, for substring search.
    fn tag_column(&self) -> Value {
        let mut out = String::from("\u{1f}");
        for t in &self.tags {
            out.push_str(t);
            out.push('\u{1f}');
        }
        out.into()
    }
}

/// How `Std::tag_column` spells one tag.
pub fn tag_needle(tag: &str) -> String {
    format!("\u{1f}{tag}\u{1f}")
}

/// Access to the common attributes of any record that has them.
pub trait Standard: Record {
    fn std(&self) -> &Std;
    fn std_mut(&mut self) -> &mut Std;
    fn project(&self) -> &str;
}

macro_rules! record {
    ($t:ty, $table:literal, |$r:ident| { $($col:ident => $e:expr),* $(,)? }) => {
        impl Record for $t {
            const TABLE: Table = Table {
                name: $table,
                columns: &[$(stringify!($col)),*, "description", "created_at", "updated_at", "revision", "tags"],
            };
            fn id(&self) -> &str {
                &self.id
            }
            fn columns(&self) -> Vec<Value> {
                let $r = self;
                vec![
                    $(Value::from($e)),*,
                    Value::from(&self.std.description),
                    self.std.created_at.into(),
                    self.std.updated_at.into(),
                    self.std.revision.into(),
                    self.std.tag_column(),
                ]
            }
        }
        impl Standard for $t {
            fn std(&self) -> &Std {
                &self.std
            }
            fn std_mut(&mut self) -> &mut Std {
                &mut self.std
            }
            fn project(&self) -> &str {
                &self.project_id
            }
        }
    };
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub project_id: String,
    pub name: String,
    pub admin_state_up: bool,
    /// An RBAC policy shares it with every project.
    pub shared: bool,
    pub external: bool,
    pub is_default: bool,
    /// `local`, `flat` or `vxlan`.
    pub network_type: String,
    pub physical_network: Option<String>,
    pub segmentation_id: Option<i64>,
    pub mtu: i64,
    pub port_security_enabled: bool,
    #[serde(default)]
    pub dns_domain: String,
    pub az_hints: Vec<String>,
    /// An administrator's choice whether the DHCP agent serves the network; `None` is the
    /// service's own choice.
    #[serde(default)]
    pub dhcp_hosted: Option<bool>,
    pub std: Std,
}

record!(Network, "networks", |r| {
    project_id => &r.project_id,
    name => &r.name,
    admin_state_up => r.admin_state_up,
    shared => r.shared,
    external => r.external,
    is_default => r.is_default,
    network_type => &r.network_type,
    physical_network => r.physical_network.as_deref().unwrap_or(""),
    segmentation_id => r.segmentation_id,
    mtu => r.mtu,
});

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub start: IpAddr,
    pub end: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub nexthop: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub project_id: String,
    pub network_id: String,
    pub name: String,
    pub ip_version: u8,
    pub cidr: IpNet,
    pub gateway_ip: Option<IpAddr>,
    pub enable_dhcp: bool,
    pub pools: Vec<Pool>,
    pub dns_nameservers: Vec<String>,
    pub host_routes: Vec<Route>,
    pub ipv6_ra_mode: Option<String>,
    pub ipv6_address_mode: Option<String>,
    pub service_types: Vec<String>,
    pub subnetpool_id: Option<String>,
    pub std: Std,
}

impl Subnet {
    /// Addresses are derived from MACs (SLAAC, stateless DHCPv6), not from pools.
    pub fn is_auto_address(&self) -> bool {
        matches!(self.ipv6_address_mode.as_deref(), Some("slaac" | "dhcpv6-stateless"))
    }
}

record!(Subnet, "subnets", |r| {
    project_id => &r.project_id,
    network_id => &r.network_id,
    name => &r.name,
    ip_version => i64::from(r.ip_version),
    cidr => r.cidr.to_string(),
    gateway_ip => r.gateway_ip.map(|g| g.to_string()).unwrap_or_default(),
    enable_dhcp => r.enable_dhcp,
    subnetpool_id => r.subnetpool_id.as_deref().unwrap_or(""),
});

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedIp {
    pub subnet_id: String,
    pub ip_address: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPair {
    /// As given: an address or a prefix.
    pub ip_address: String,
    pub mac_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpOption {
    pub opt_name: String,
    pub opt_value: String,
    pub ip_version: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub id: String,
    pub project_id: String,
    pub network_id: String,
    pub name: String,
    pub admin_state_up: bool,
    pub mac_address: String,
    pub fixed_ips: Vec<FixedIp>,
    pub device_id: String,
    pub device_owner: String,
    /// `ACTIVE`, `DOWN` or `N/A`; written by the host controller's reports.
    pub status: String,
    pub security_groups: Vec<String>,
    pub allowed_address_pairs: Vec<AddressPair>,
    pub extra_dhcp_opts: Vec<DhcpOption>,
    /// `binding:host_id`; empty means unbound.
    pub host_id: String,
    pub profile: serde_json::Map<String, serde_json::Value>,
    pub vnic_type: String,
    pub port_security_enabled: bool,
    #[serde(default)]
    pub dns_name: String,
    pub std: Std,
}

impl Port {
    /// Ports of the network service itself: DHCP, routers, floating addresses.
    pub fn is_network_owned(&self) -> bool {
        self.device_owner.starts_with("network:")
    }

    /// A guest's port that has a tap on a host.
    pub fn has_tap(&self) -> bool {
        !self.host_id.is_empty() && !self.is_network_owned()
    }

    /// Host device name.
    pub fn tap(&self) -> String {
        format!("tap{}", self.id.get(..11).unwrap_or(&self.id))
    }
}

record!(Port, "ports", |r| {
    project_id => &r.project_id,
    network_id => &r.network_id,
    name => &r.name,
    mac => &r.mac_address,
    device_id => &r.device_id,
    device_owner => &r.device_owner,
    host_id => &r.host_id,
    status => &r.status,
    admin_state_up => r.admin_state_up,
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: String,
    pub project_id: String,
    pub name: String,
    pub is_default: bool,
    pub stateful: bool,
    pub std: Std,
}

record!(SecurityGroup, "security_groups", |r| {
    project_id => &r.project_id,
    name => &r.name,
    is_default => r.is_default,
    stateful => r.stateful,
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub id: String,
    pub project_id: String,
    pub security_group_id: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `IPv4` or `IPv6`.
    pub ethertype: String,
    /// As the API shows it.
    pub protocol: Option<String>,
    pub port_range_min: Option<u16>,
    pub port_range_max: Option<u16>,
    /// As given.
    pub remote_ip_prefix: Option<String>,
    pub remote_group_id: Option<String>,
    pub std: Std,
}

impl Rule {
    /// Two rules of a group with the same identity mean the same.
    pub fn identity(&self) -> String {
        let network = self.remote_ip_prefix.as_deref().and_then(crate::logic::net::parse_prefix);
        let network = network.filter(|n| n.prefix_len() > 0).map(|n| n.to_string());
        let protocol = self.protocol.as_deref().map(crate::logic::sg_rules::protocol_identity);
        serde_json::json!([
            self.direction,
            self.ethertype,
            protocol,
            self.port_range_min,
            self.port_range_max,
            network,
            self.remote_group_id
        ])
        .to_string()
    }
}

impl Record for Rule {
    const TABLE: Table = Table {
        name: "security_group_rules",
        columns: &[
            "project_id",
            "security_group_id",
            "direction",
            "ethertype",
            "protocol",
            "remote_group_id",
            "remote_ip_prefix",
            "port_range_min",
            "port_range_max",
            "description",
            "identity",
            "created_at",
        ],
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            Value::from(&self.project_id),
            Value::from(&self.security_group_id),
            Value::from(&self.direction),
            Value::from(&self.ethertype),
            self.protocol.as_deref().unwrap_or("").into(),
            self.remote_group_id.as_deref().unwrap_or("").into(),
            self.remote_ip_prefix.as_deref().unwrap_or("").into(),
            self.port_range_min.map(u32::from).into(),
            self.port_range_max.map(u32::from).into(),
            Value::from(&self.std.description),
            self.identity().into(),
            self.std.created_at.into(),
        ]
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    pub network_id: String,
    pub port_id: String,
    pub enable_snat: bool,
    pub fixed_ips: Vec<FixedIp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Router {
    pub id: String,
    pub project_id: String,
    pub name: String,
    pub admin_state_up: bool,
    pub status: String,
    pub gateway: Option<Gateway>,
    pub routes: Vec<Route>,
    pub az_hints: Vec<String>,
    /// An administrator took it off its host.
    #[serde(default)]
    pub unhosted: bool,
    pub std: Std,
}

record!(Router, "routers", |r| {
    project_id => &r.project_id,
    name => &r.name,
    admin_state_up => r.admin_state_up,
    status => &r.status,
    gateway_network_id => r.gateway.as_ref().map_or("", |g| g.network_id.as_str()),
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloatingIp {
    pub id: String,
    pub project_id: String,
    pub floating_network_id: String,
    pub floating_ip_address: IpAddr,
    /// The port on the external network that holds the address.
    pub floating_port_id: String,
    pub port_id: Option<String>,
    pub fixed_ip_address: Option<IpAddr>,
    pub router_id: Option<String>,
    pub status: String,
    pub std: Std,
}

record!(FloatingIp, "floating_ips", |r| {
    project_id => &r.project_id,
    floating_network_id => &r.floating_network_id,
    floating_ip_address => r.floating_ip_address.to_string(),
    fixed_ip_address => r.fixed_ip_address.map(|a| a.to_string()),
    port_id => &r.port_id,
    router_id => &r.router_id,
    status => &r.status,
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubnetPool {
    pub id: String,
    pub project_id: String,
    pub name: String,
    pub ip_version: u8,
    pub prefixes: Vec<IpNet>,
    pub default_prefixlen: u8,
    pub min_prefixlen: u8,
    pub max_prefixlen: u8,
    pub default_quota: Option<i64>,
    pub shared: bool,
    pub is_default: bool,
    pub std: Std,
}

record!(SubnetPool, "subnetpools", |r| {
    project_id => &r.project_id,
    name => &r.name,
    ip_version => i64::from(r.ip_version),
    shared => r.shared,
    is_default => r.is_default,
});

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RbacPolicy {
    pub id: String,
    pub project_id: String,
    pub object_type: String,
    pub object_id: String,
    /// A project id or `*`.
    pub target_project: String,
    /// `access_as_shared` or `access_as_external`.
    pub action: String,
}

impl Record for RbacPolicy {
    const TABLE: Table = Table { name: "rbac_policies", columns: &["project_id", "object_type", "object_id", "target_project", "action"] };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        [&self.project_id, &self.object_type, &self.object_id, &self.target_project, &self.action].map(Value::from).to_vec()
    }
}
