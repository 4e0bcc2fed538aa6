//! Servers as the API shows them, per microversion.

use crate::State;
use crate::store::servers::{Server, ServerPort, VmState};
use caelum_policy::Target;
use caelum_rest::{Ctx, Version};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};

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

    pub fn links(&self, kind: &str, id: &str) -> Value {
        json!([
            {"rel": "self", "href": format!("{}/v2.1/{kind}/{id}", self.base)},
            {"rel": "bookmark", "href": format!("{}/{kind}/{id}", self.base)},
        ])
    }

    fn bookmark(&self, kind: &str, id: &str) -> Value {
        json!([{"rel": "bookmark", "href": format!("{}/{kind}/{id}", self.base)}])
    }

    /// One server. `user_data` is read by the caller only where the version shows it.
    pub fn server(&self, s: &Server, kind: Kind, user_data: Option<&str>) -> Value {
        let full = matches!(kind, Kind::Full | Kind::List) || self.since(75);
        let mut out = self.common(s, full);
        self.by_version(&mut out, s, kind, user_data);
        if full {
            self.extensions(&mut out, s, user_data);
        }
        if kind == Kind::Rebuild {
            // There it is called `user_data`.
            out.remove("OS-EXT-SRV-ATTR:user_data");
        }
        Value::Object(out)
    }

    fn common(&self, s: &Server, full: bool) -> Map<String, Value> {
        let status = s.status();
        let mut out = object(json!({
            "id": s.id, "name": s.name, "status": status, "tenant_id": s.project_id, "user_id": s.user_id,
            "metadata": s.metadata, "hostId": host_id(s), "image": self.image(s), "flavor": self.flavor(s),
            "created": s.created_at.iso_z(), "updated": s.updated_at.iso_z(), "addresses": addresses(s, full),
            "accessIPv4": s.access_ipv4, "accessIPv6": s.access_ipv6, "links": self.links("servers", &s.id),
            "OS-DCF:diskConfig": s.disk_config,
        }));
        if matches!(status, "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE") {
            out.insert("progress".into(), json!(0));
        }
        if let (Some(f), "ERROR" | "DELETED") = (&s.fault, status) {
            let mut fault = json!({"code": f.code, "created": f.created.iso_z(), "message": f.message});
            if !f.details.is_empty() && (self.admin || f.code != 500) {
                fault["details"] = json!(f.details);
            }
            out.insert("fault".into(), fault);
        }
        out
    }

    /// Fields that came with a version, in every kind of answer.
    fn by_version(&self, out: &mut Map<String, Value>, s: &Server, kind: Kind, user_data: Option<&str>) {
        let mut add = |minor: u32, name: &str, value: Value| {
            if self.since(minor) {
                out.insert(name.to_string(), value);
            }
        };
        add(9, "locked", json!(s.lock.is_some()));
        add(19, "description", json!(s.description));
        add(26, "tags", json!(s.tags));
        add(63, "trusted_image_certificates", Value::Null);
        add(73, "locked_reason", json!(s.lock.as_ref().and_then(|l| l.reason.clone())));
        add(96, "pinned_availability_zone", json!(s.pinned_zone));
        add(100, "scheduler_hints", json!(s.scheduler_hints));
        if kind != Kind::List {
            add(71, "server_groups", json!(s.group_id.iter().collect::<Vec<_>>()));
        }
        if kind == Kind::Rebuild {
            add(54, "key_name", json!(s.key_name));
            add(57, "user_data", json!(user_data));
        }
    }

    fn extensions(&self, out: &mut Map<String, Value>, s: &Server, user_data: Option<&str>) {
        let device = root_device(s);
        let launched = s.launched_at.map(|t| t.iso_micros());
        let more = json!({
            "key_name": s.key_name, "config_drive": if s.config_drive { "True" } else { "" },
            "OS-SRV-USG:launched_at": launched, "OS-SRV-USG:terminated_at": null,
            "OS-EXT-AZ:availability_zone": s.zone,
            "OS-EXT-STS:task_state": s.task.map(|t| t.name()), "OS-EXT-STS:vm_state": s.state.name(),
            "OS-EXT-STS:power_state": s.power.number(), "os-extended-volumes:volumes_attached": self.volumes(s),
        });
        out.extend(object(more));
        if !s.security_groups.is_empty() && s.state != VmState::Error {
            let list: Vec<Value> = s.security_groups.iter().map(|g| json!({"name": g})).collect();
            out.insert("security_groups".into(), json!(list));
        }
        if self.extended {
            let node = s.host.clone();
            out.extend(object(json!({
                "OS-EXT-SRV-ATTR:host": s.host, "OS-EXT-SRV-ATTR:hypervisor_hostname": node,
                "OS-EXT-SRV-ATTR:instance_name": s.domain(),
            })));
            if self.since(3) {
                out.extend(object(json!({
                    "OS-EXT-SRV-ATTR:reservation_id": s.reservation_id, "OS-EXT-SRV-ATTR:launch_index": s.launch_index,
                    "OS-EXT-SRV-ATTR:hostname": s.hostname, "OS-EXT-SRV-ATTR:kernel_id": "", "OS-EXT-SRV-ATTR:ramdisk_id": "",
                    "OS-EXT-SRV-ATTR:root_device_name": device, "OS-EXT-SRV-ATTR:user_data": user_data,
                })));
            }
        } else if self.since(90) {
            out.insert("OS-EXT-SRV-ATTR:hostname".into(), json!(s.hostname));
        }
        if self.since(16) && self.host_status {
            out.insert("host_status".into(), json!(if s.host.is_some() { "UP" } else { "" }));
        }
    }

    fn volumes(&self, s: &Server) -> Value {
        let list = s.volumes.iter().filter(|v| !v.volume_id.is_empty());
        let list = list.map(|v| match self.since(3) {
            true => json!({"id": v.volume_id, "delete_on_termination": v.delete_on_termination}),
            false => json!({"id": v.volume_id}),
        });
        Value::Array(list.collect())
    }

    fn image(&self, s: &Server) -> Value {
        match &s.image {
            Some(i) if !s.volume_backed() && !i.id.is_empty() => {
                let mut v = json!({"id": i.id, "links": self.bookmark("images", &i.id)});
                if self.since(98) {
                    v["properties"] = json!(i.properties);
                }
                v
            }
            _ => json!(""),
        }
    }

    fn flavor(&self, s: &Server) -> Value {
        let f = &s.flavor;
        if !self.since(47) {
            return json!({"id": f.id, "links": self.bookmark("flavors", &f.id)});
        }
        json!({
            "original_name": f.name, "disk": f.root_gb, "ephemeral": f.ephemeral_gb, "ram": f.ram_mb, "swap": f.swap_mb,
            "vcpus": f.vcpus, "extra_specs": f.extra_specs,
        })
    }
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
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Addresses by network name.
pub fn addresses(s: &Server, extended: bool) -> Value {
    let mut out: Map<String, Value> = Map::new();
    for p in &s.ports {
        let list = port_addresses(p, extended);
        match out.entry(p.network_name.clone()).or_insert_with(|| json!([])) {
            Value::Array(a) => a.extend(list),
            other => *other = json!(list),
        }
    }
    Value::Object(out)
}

fn port_addresses(p: &ServerPort, extended: bool) -> Vec<Value> {
    let one = |address: &str, kind: &str| {
        let mut v = json!({"version": if address.contains(':') { 6 } else { 4 }, "addr": address});
        if extended {
            v["OS-EXT-IPS:type"] = json!(kind);
            v["OS-EXT-IPS-MAC:mac_addr"] = json!(p.mac);
        }
        v
    };
    let mut out = Vec::new();
    for ip in &p.fixed_ips {
        out.push(one(&ip.address, "fixed"));
        out.extend(ip.floating_ips.iter().map(|f| one(f, "floating")));
    }
    out
}
