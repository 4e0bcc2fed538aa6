//! Servers as the API shows them, per microversion.

use crate::State;
use crate::store::servers::{Server, VmState};
use caelum_policy::Target;
use caelum_rest::{Ctx, Version};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};
use std::collections::BTreeMap;

/// How much of a server an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GET of many.
    List,
    /// GET of one.
    Full,
    /// PUT; before 2.75 it shows less.
    Update,
    /// The rebuild action; before 2.75 it shows less.
    Rebuild,
}

/// What the caller may see beyond the common fields.
pub struct Viewer {
    pub version: Version,
    pub base: String,
    extended: bool,
    host_status: bool,
    admin: bool,
}

impl Viewer {
    pub fn of(cx: &Ctx<State>) -> Self {
        let own = Target::new().with_opt("project_id", cx.auth().creds.project_id.as_deref());
        Self {
            version: cx.version,
            base: cx.base_url.clone(),
            extended: cx.allows("os_compute_api:os-extended-server-attributes", &own),
            host_status: cx.allows("os_compute_api:servers:show:host_status", &own),
            admin: cx.auth().is_admin(),
        }
    }

    pub fn since(&self, minor: u32) -> bool {
        self.version >= Version(2, minor)
    }

    /// The id, name and links of a short list.
    pub fn brief(&self, s: &Server) -> Value {
        json!({"id": s.id, "name": s.name, "links": self.links("servers", &s.id)})
    }

    pub fn links(&self, kind: &str, id: &str) -> [Link; 2] {
        let [bookmark] = self.bookmark(kind, id);
        [Link { href: [&self.base, "/v2.1/", kind, "/", id].concat(), rel: "self" }, bookmark]
    }

    fn bookmark(&self, kind: &str, id: &str) -> [Link; 1] {
        [Link { href: [&self.base, "/", kind, "/", id].concat(), rel: "bookmark" }]
    }

    /// One server. `user_data` is read by the caller only where the version shows it.
    pub fn server<'a>(&'a self, s: &'a Server, kind: Kind, user_data: Option<&'a str>) -> ServerView<'a> {
        let full = matches!(kind, Kind::Full | Kind::List) || self.since(75);
        ServerView { v: self, s, kind, full, user_data }
    }
}

/// A server on its way into an answer: written straight from the row, because lists are long. Keys
/// are written in alphabetical order, as everywhere.
pub struct ServerView<'a> {
    v: &'a Viewer,
    s: &'a Server,
    kind: Kind,
    /// With the fields of what once were extensions.
    full: bool,
    user_data: Option<&'a str>,
}

impl Serialize for ServerView<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut m = to.serialize_map(None)?;
        m.serialize_entry("OS-DCF:diskConfig", &self.s.disk_config)?;
        if self.full {
            self.extensions(&mut m)?;
        }
        self.first_half(&mut m)?;
        self.second_half(&mut m)?;
        m.end()
    }
}

impl ServerView<'_> {
    fn extensions<M: SerializeMap>(&self, m: &mut M) -> Result<(), M::Error> {
        let (v, s) = (self.v, self.s);
        m.serialize_entry("OS-EXT-AZ:availability_zone", &s.zone)?;
        if v.extended {
            m.serialize_entry("OS-EXT-SRV-ATTR:host", &s.host)?;
            if v.since(3) {
                m.serialize_entry("OS-EXT-SRV-ATTR:hostname", &s.hostname)?;
            }
            m.serialize_entry("OS-EXT-SRV-ATTR:hypervisor_hostname", &s.host)?;
            m.serialize_entry("OS-EXT-SRV-ATTR:instance_name", &s.domain())?;
            if v.since(3) {
                m.serialize_entry("OS-EXT-SRV-ATTR:kernel_id", "")?;
                m.serialize_entry("OS-EXT-SRV-ATTR:launch_index", &s.launch_index)?;
                m.serialize_entry("OS-EXT-SRV-ATTR:ramdisk_id", "")?;
                m.serialize_entry("OS-EXT-SRV-ATTR:reservation_id", &s.reservation_id)?;
                m.serialize_entry("OS-EXT-SRV-ATTR:root_device_name", &root_device(s))?;
                // A rebuild calls it `user_data`.
                if self.kind != Kind::Rebuild {
                    m.serialize_entry("OS-EXT-SRV-ATTR:user_data", &self.user_data)?;
                }
            }
        } else if v.since(90) {
            m.serialize_entry("OS-EXT-SRV-ATTR:hostname", &s.hostname)?;
        }
        m.serialize_entry("OS-EXT-STS:power_state", &s.power.number())?;
        m.serialize_entry("OS-EXT-STS:task_state", &s.task.map(|t| t.name()))?;
        m.serialize_entry("OS-EXT-STS:vm_state", s.state.name())?;
        m.serialize_entry("OS-SRV-USG:launched_at", &s.launched_at.map(|t| t.iso_micros()))?;
        m.serialize_entry("OS-SRV-USG:terminated_at", &())
    }

    /// `accessIPv4` to `links`.
    fn first_half<M: SerializeMap>(&self, m: &mut M) -> Result<(), M::Error> {
        let (v, s) = (self.v, self.s);
        m.serialize_entry("accessIPv4", &s.access_ipv4)?;
        m.serialize_entry("accessIPv6", &s.access_ipv6)?;
        m.serialize_entry("addresses", &addresses(s, self.full))?;
        if self.full {
            m.serialize_entry("config_drive", if s.config_drive { "True" } else { "" })?;
        }
        m.serialize_entry("created", &s.created_at.iso_z())?;
        if v.since(19) {
            m.serialize_entry("description", &s.description)?;
        }
        if let (Some(fault), "ERROR" | "DELETED") = (&s.fault, s.status()) {
            let details = (!fault.details.is_empty() && (v.admin || fault.code != 500)).then_some(fault.details.as_str());
            let (code, created, message) = (fault.code, fault.created.iso_z(), &fault.message);
            m.serialize_entry("fault", &FaultView { code, created, details, message })?;
        }
        self.flavor(m)?;
        m.serialize_entry("hostId", &host_id(s))?;
        if self.full && v.since(16) && v.host_status {
            m.serialize_entry("host_status", if s.host.is_some() { "UP" } else { "" })?;
        }
        m.serialize_entry("id", &s.id)?;
        match &s.image {
            Some(i) if !s.volume_backed() && !i.id.is_empty() => {
                let properties = v.since(98).then_some(&i.properties);
                m.serialize_entry("image", &ImageView { id: &i.id, links: v.bookmark("images", &i.id), properties })?;
            }
            _ => m.serialize_entry("image", "")?,
        }
        if self.full || (self.kind == Kind::Rebuild && v.since(54)) {
            m.serialize_entry("key_name", &s.key_name)?;
        }
        m.serialize_entry("links", &v.links("servers", &s.id))
    }

    /// `locked` to `user_id`.
    fn second_half<M: SerializeMap>(&self, m: &mut M) -> Result<(), M::Error> {
        let (v, s) = (self.v, self.s);
        if v.since(9) {
            m.serialize_entry("locked", &s.lock.is_some())?;
        }
        if v.since(73) {
            m.serialize_entry("locked_reason", &s.lock.as_ref().and_then(|l| l.reason.as_ref()))?;
        }
        m.serialize_entry("metadata", &s.metadata)?;
        m.serialize_entry("name", &s.name)?;
        if self.full {
            m.serialize_entry("os-extended-volumes:volumes_attached", &self.volumes())?;
        }
        if v.since(96) {
            m.serialize_entry("pinned_availability_zone", &s.pinned_zone)?;
        }
        let status = s.status();
        if matches!(status, "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE") {
            m.serialize_entry("progress", &0)?;
        }
        if v.since(100) {
            m.serialize_entry("scheduler_hints", &s.scheduler_hints)?;
        }
        if self.full && !s.security_groups.is_empty() && s.state != VmState::Error {
            let list: Vec<GroupView<'_>> = s.security_groups.iter().map(|name| GroupView { name }).collect();
            m.serialize_entry("security_groups", &list)?;
        }
        if v.since(71) && self.kind != Kind::List {
            m.serialize_entry("server_groups", s.group_id.as_slice())?;
        }
        m.serialize_entry("status", status)?;
        if v.since(26) {
            m.serialize_entry("tags", &s.tags)?;
        }
        m.serialize_entry("tenant_id", &s.project_id)?;
        if v.since(63) {
            m.serialize_entry("trusted_image_certificates", &())?;
        }
        m.serialize_entry("updated", &s.updated_at.iso_z())?;
        if self.kind == Kind::Rebuild && v.since(57) {
            m.serialize_entry("user_data", &self.user_data)?;
        }
        m.serialize_entry("user_id", &s.user_id)
    }

    fn volumes(&self) -> Vec<VolumeView<'_>> {
        let with_flag = self.v.since(3);
        let list = self.s.volumes.iter().filter(|v| !v.volume_id.is_empty());
        list.map(|v| VolumeView { delete_on_termination: with_flag.then_some(v.delete_on_termination), id: &v.volume_id }).collect()
    }

    fn flavor<M: SerializeMap>(&self, m: &mut M) -> Result<(), M::Error> {
        let f = &self.s.flavor;
        if !self.v.since(47) {
            return m.serialize_entry("flavor", &FlavorLink { id: &f.id, links: self.v.bookmark("flavors", &f.id) });
        }
        let view = FlavorView {
            disk: f.root_gb,
            ephemeral: f.ephemeral_gb,
            extra_specs: &f.extra_specs,
            original_name: &f.name,
            ram: f.ram_mb,
            swap: f.swap_mb,
            vcpus: f.vcpus,
        };
        m.serialize_entry("flavor", &view)
    }
}

/// A link to a resource.
#[derive(Serialize)]
pub struct Link {
    href: String,
    rel: &'static str,
}

#[derive(Serialize)]
struct FaultView<'a> {
    code: u16,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    message: &'a str,
}

#[derive(Serialize)]
struct ImageView<'a> {
    id: &'a str,
    links: [Link; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct GroupView<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct VolumeView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_on_termination: Option<bool>,
    id: &'a str,
}

#[derive(Serialize)]
struct FlavorLink<'a> {
    id: &'a str,
    links: [Link; 1],
}

#[derive(Serialize)]
struct FlavorView<'a> {
    disk: i64,
    ephemeral: i64,
    extra_specs: &'a BTreeMap<String, String>,
    original_name: &'a str,
    ram: i64,
    swap: i64,
    vcpus: i64,
}

pub fn object(v: Value) -> Map<String, Value> {
    match v {
        Value::Object(m) => m,
        _ => Map::new(),
    }
}

/// Name of the root disk in the guest.
pub fn root_device(s: &Server) -> String {
    let boot = s.volumes.iter().find(|v| v.boot_index == Some(0)).and_then(|v| v.device.clone());
    boot.unwrap_or_else(|| "/dev/vda".to_string())
}

/// An id of the host that differs per project, so that it tells only which servers share a host.
pub fn host_id(s: &Server) -> String {
    s.host.as_ref().map(|h| host_id_of(&s.project_id, h)).unwrap_or_default()
}

/// [`host_id`] of a host seen from a project.
pub fn host_id_of(project_id: &str, host: &str) -> String {
    let mut hash = Sha224::new();
    hash.update(project_id.as_bytes());
    hash.update(host.as_bytes());
    let mut out = String::with_capacity(56);
    for b in hash.finalize() {
        out.extend([b >> 4, b & 15].map(|n| char::from_digit(n.into(), 16).unwrap_or('0')));
    }
    out
}

/// Addresses by network name.
pub fn addresses(s: &Server, extended: bool) -> BTreeMap<&str, Vec<AddressView<'_>>> {
    let mut out: BTreeMap<&str, Vec<AddressView<'_>>> = BTreeMap::new();
    for p in &s.ports {
        let list = out.entry(&p.network_name).or_default();
        let one = |addr, kind| AddressView {
            mac: extended.then_some(p.mac.as_str()),
            kind: extended.then_some(kind),
            addr,
            version: if addr.contains(':') { 6 } else { 4 },
        };
        for ip in &p.fixed_ips {
            list.push(one(ip.address.as_str(), "fixed"));
            list.extend(ip.floating_ips.iter().map(|f| one(f.as_str(), "floating")));
        }
    }
    out
}

/// One address of a server.
#[derive(Serialize)]
pub struct AddressView<'a> {
    #[serde(rename = "OS-EXT-IPS-MAC:mac_addr", skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(rename = "OS-EXT-IPS:type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    addr: &'a str,
    version: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::servers::{Fault, FixedIp, Lock, ServerPort, ServerVolume};

    /// Text and value agree, so keys stand in order and none twice, in every version and kind.
    #[test]
    fn keys_are_written_once_and_in_order() {
        let mut s = crate::tests::blank_server();
        s.lock = Some(Lock { by: "owner".into(), reason: None });
        s.host = Some("h".into());
        s.security_groups = vec!["default".into()];
        s.volumes = vec![ServerVolume { volume_id: "v".into(), ..ServerVolume::default() }];
        let ip = FixedIp { address: "10.0.0.2".into(), floating_ips: vec!["192.0.2.7".into()], ..FixedIp::default() };
        s.ports =
            vec![ServerPort { network_name: "n".into(), mac: "fa:16:3e:00:00:01".into(), fixed_ips: vec![ip], ..ServerPort::default() }];
        let mut broken = s.clone();
        broken.state = VmState::Error;
        broken.fault = Some(Fault { code: 400, created: s.created_at, message: "m".into(), details: "d".into() });
        for (minor, extended) in (1..=100).flat_map(|minor| [(minor, false), (minor, true)]) {
            let base = "http://cloud/compute".to_string();
            let viewer = Viewer { version: Version(2, minor), base, extended, host_status: extended, admin: extended };
            for (server, kind) in
                [&s, &broken].into_iter().flat_map(|s| [Kind::List, Kind::Full, Kind::Update, Kind::Rebuild].map(|k| (s, k)))
            {
                let text = serde_json::to_string(&viewer.server(server, kind, Some("data"))).expect("a view is text");
                let value: Value = serde_json::from_str(&text).expect("and JSON");
                assert_eq!(text, value.to_string(), "2.{minor} {kind:?}");
            }
        }
    }
}
