use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The whole wanted network state of one host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    pub generation: u64,
    /// By network id.
    pub networks: BTreeMap<String, Network>,
    /// By port id: ports with a tap on this host.
    pub ports: BTreeMap<String, Port>,
    /// By router id.
    pub routers: BTreeMap<String, Router>,
    /// Address sets by security group id: addresses of the group's members, for remote-group rules.
    pub groups: BTreeMap<String, Vec<IpAddr>>,
}

/// A change to some objects: `Some` replaces, `None` removes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostPatch {
    pub generation: u64,
    pub networks: BTreeMap<String, Option<Network>>,
    pub ports: BTreeMap<String, Option<Port>>,
    pub routers: BTreeMap<String, Option<Router>>,
    pub groups: BTreeMap<String, Option<Vec<IpAddr>>>,
}

impl HostState {
    /// The state with the patch's objects replaced or removed and the patch's generation.
    pub fn merge(&mut self, patch: &HostPatch) {
        fn one<T: Clone>(map: &mut BTreeMap<String, T>, changes: &BTreeMap<String, Option<T>>) {
            for (id, change) in changes {
                match change {
                    Some(object) => map.insert(id.clone(), object.clone()),
                    None => map.remove(id),
                };
            }
        }
        self.generation = patch.generation;
        one(&mut self.networks, &patch.networks);
        one(&mut self.ports, &patch.ports);
        one(&mut self.routers, &patch.routers);
        one(&mut self.groups, &patch.groups);
    }
}

/// A layer-2 segment on this host: one Linux bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub kind: NetworkKind,
    pub mtu: u32,
    /// DHCP and DNS for the network's subnets; `None` means no DHCP server on this host.
    pub dhcp: Option<Dhcp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkKind {
    /// This host only.
    Local,
    /// A physical network by its configured name; the plane maps names to host bridges or devices.
    Flat { physical_network: String },
    /// VXLAN with a static flood list.
    Vxlan { vni: u32, local: Option<IpAddr>, peers: Vec<IpAddr> },
}

/// A DHCP server in its own namespace with one address per subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dhcp {
    /// The DHCP port's id and MAC.
    pub port_id: String,
    pub mac: String,
    pub subnets: Vec<DhcpSubnet>,
    pub hosts: Vec<DhcpHost>,
    /// DNS domain handed out, without a trailing dot.
    pub domain: String,
    /// Serve the metadata service from the DHCP namespace (networks without a router).
    pub metadata: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DhcpSubnet {
    pub subnet_id: String,
    pub cidr: IpNet,
    /// Address of the DHCP port in this subnet.
    pub address: IpAddr,
    pub gateway: Option<IpAddr>,
    pub dns: Vec<IpAddr>,
    /// Destination and next hop.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// IPv6 only: `slaac`, `dhcpv6-stateless`, `dhcpv6-stateful`.
    pub ipv6_mode: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DhcpHost {
    pub port_id: String,
    pub mac: String,
    /// `host-10-0-0-5` style or the port's `dns_name`.
    pub hostname: String,
    pub addresses: Vec<IpAddr>,
    /// Extra DHCP options: name or number, value, IP version.
    pub options: Vec<(String, String, u8)>,
}

/// A guest's port on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub id: String,
    pub network_id: String,
    /// Host device name (`tap` + first 11 characters of the id).
    pub tap: String,
    pub mac: String,
    pub addresses: Vec<IpAddr>,
    pub admin_up: bool,
    /// Off: no anti-spoofing and no security groups.
    pub port_security: bool,
    /// Allowed address pairs: address range and MAC.
    pub allowed_pairs: Vec<(IpNet, String)>,
    /// Rules of all its security groups; nothing matches means drop (in both directions).
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub ingress: bool,
    /// 4 or 6.
    pub ip_version: u8,
    /// Lower-case protocol name or number; `None` means any.
    pub protocol: Option<String>,
    /// Ports, or ICMP type and code.
    pub port_min: Option<u16>,
    pub port_max: Option<u16>,
    pub remote_prefix: Option<IpNet>,
    /// Members of this group (see [`HostState::groups`]).
    pub remote_group: Option<String>,
    pub stateful: bool,
}

/// A router: a namespace with interfaces, NAT and the metadata proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Router {
    pub id: String,
    pub admin_up: bool,
    pub interfaces: Vec<RouterInterface>,
    pub gateway: Option<RouterGateway>,
    pub floating_ips: Vec<FloatingIp>,
    /// Extra routes: destination and next hop.
    pub routes: Vec<(IpNet, IpAddr)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterInterface {
    pub port_id: String,
    pub network_id: String,
    pub mac: String,
    /// Addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// IPv6 prefixes to advertise: prefix and mode (`slaac`, `dhcpv6-stateless`, `dhcpv6-stateful`).
    pub advertise: Vec<(IpNet, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterGateway {
    pub port_id: String,
    pub network_id: String,
    pub mac: String,
    pub addresses: Vec<IpNet>,
    /// Next hops of the external subnets.
    pub next_hops: Vec<IpAddr>,
    pub snat: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloatingIp {
    pub id: String,
    pub floating: IpAddr,
    pub fixed: IpAddr,
}

/// What the host has after applying.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    pub generation: u64,
    /// Port ids whose tap is wired and filtered.
    pub ports_up: Vec<String>,
    pub routers_up: Vec<String>,
    pub networks_up: Vec<String>,
    /// Object id and reason.
    pub failed: BTreeMap<String, String>,
}

/// What the operator configures for a host.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaneConfig {
    /// Directory for dnsmasq files and pid files, owned by us, mode 0700.
    pub run_dir: std::path::PathBuf,
    /// A short token unique per installation on this host; part of bridge and namespace names so that two
    /// installations do not meet.
    pub tag: String,
    /// Physical network name → what the plane makes or uses for it.
    pub physical: BTreeMap<String, PhysicalNetwork>,
    /// Where metadata requests are forwarded, with `X-Instance-ID`-style headers
    /// (`X-Forwarded-For`, `X-Neutron-Router-ID` or `X-Neutron-Network-ID`).
    pub metadata: SocketAddr,
    /// Shared secret for the `X-Metadata-Proxy-Signature` header.
    pub metadata_secret: caelum_base::Secret<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PhysicalNetwork {
    /// A bridge the plane makes itself, with the host's own addresses on it (the next hop of the
    /// external subnet) and, if `masquerade`, source NAT from it to the outside.
    OwnBridge { bridge: String, host_addresses: Vec<IpNet>, masquerade: bool },
    /// A host device (NIC or bridge) that exists already and is never created or deleted.
    HostDevice { device: String },
}
