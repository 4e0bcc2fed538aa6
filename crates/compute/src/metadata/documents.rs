//! The documents themselves, as maps from path to content.

use super::{DOMAIN, network_data};
use crate::State;
use crate::store::servers::{Server, ServerData};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_base::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// OpenStack's versions, oldest first; documents were added over time.
pub const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
];
const GRIZZLY: &str = "2013-04-04";
const HAVANA: &str = "2013-10-17";
const LIBERTY: &str = "2015-10-15";
const NEWTON: &str = "2016-06-30";
const NEWTON_TWO: &str = "2016-10-06";

pub const EC2_VERSIONS: &[&str] =
    &["1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "latest"];

/// What the documents are made of.
pub struct Facts<'a> {
    pub server: &'a Server,
    pub data: &'a ServerData,
    pub network_data: Value,
    /// 512 random bytes for the guest's pool, in base64.
    pub seed: String,
}

impl<'a> Facts<'a> {
    pub async fn gather(state: &State, server: &'a Server, data: &'a ServerData) -> Result<Self> {
        let network_data = network_data(state, &server.ports).await?;
        Ok(Self { server, data, network_data, seed: STANDARD.encode(state.env.bytes(512)) })
    }

    pub fn user_data(&self) -> Option<Vec<u8>> {
        self.data.user_data.as_ref().map(|t| STANDARD.decode(t).unwrap_or_default())
    }

    fn hostname(&self) -> String {
        format!("{}.{DOMAIN}", self.server.hostname)
    }
}

/// Documents below `openstack/`: `latest/meta_data.json` and so on, and `content/0000`.
pub fn openstack(f: &Facts<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let json = |v: &Value| v.to_string().into_bytes();
    for version in VERSIONS {
        let mut put = |name: &str, bytes: Vec<u8>| out.insert(format!("{version}/{name}"), bytes);
        put("meta_data.json", json(&meta_data(f, version)));
        if let Some(bytes) = f.user_data() {
            put("user_data", bytes);
        }
        if *version >= GRIZZLY {
            put("password", f.server.guest_password.clone().into_bytes());
        }
        if *version >= HAVANA {
            put("vendor_data.json", b"{}".to_vec());
        }
        if *version >= LIBERTY {
            put("network_data.json", json(&f.network_data));
        }
        if *version >= NEWTON_TWO {
            put("vendor_data2.json", b"{}".to_vec());
        }
    }
    for (i, (_, content)) in f.data.files.iter().enumerate() {
        out.insert(format!("content/{i:04}"), STANDARD.decode(content).unwrap_or_default());
    }
    out
}

fn meta_data(f: &Facts<'_>, version: &str) -> Value {
    let s = f.server;
    let mut m = json!({
        "uuid": s.id, "name": s.name, "hostname": f.hostname(), "launch_index": s.launch_index, "availability_zone": s.zone,
    });
    if !s.metadata.is_empty() {
        m["meta"] = json!(s.metadata);
    }
    if let (Some(name), Some(key)) = (&s.key_name, &s.public_key) {
        m["public_keys"] = json!({name: key});
        if version >= LIBERTY {
            let kind = if key.starts_with("-----BEGIN CERTIFICATE") { "x509" } else { "ssh" };
            m["keys"] = json!([{"name": name, "type": kind, "data": key}]);
        }
    }
    if !f.data.files.is_empty() {
        let file = |(i, (path, _)): (usize, &(String, String))| json!({"content_path": format!("/content/{i:04}"), "path": path});
        m["files"] = f.data.files.iter().enumerate().map(file).collect();
    }
    if version >= GRIZZLY {
        m["random_seed"] = json!(f.seed);
    }
    if version >= LIBERTY {
        m["project_id"] = json!(s.project_id);
    }
    if version >= NEWTON {
        m["devices"] = json!(devices(s));
    }
    m
}

/// Tagged interfaces and volumes.
fn devices(s: &Server) -> Vec<Value> {
    let nics = s.ports.iter().filter_map(|p| {
        let tag = p.tag.as_ref()?;
        Some(json!({"type": "nic", "bus": "none", "address": "none", "mac": p.mac, "tags": [tag]}))
    });
    let disks = s.volumes.iter().filter_map(|v| {
        let tag = v.tag.as_ref()?;
        Some(json!({"type": "disk", "bus": "none", "address": "none", "serial": v.volume_id, "path": v.device, "tags": [tag]}))
    });
    nics.chain(disks).collect()
}

/// EC2's ids look like this; `number` is unique in the cloud.
fn ec2_id(prefix: &str, number: i64) -> String {
    format!("{prefix}-{number:08x}")
}

/// Leaves below `meta-data/` by path.
pub fn ec2(f: &Facts<'_>) -> BTreeMap<String, String> {
    let s = f.server;
    let fixed = s.ports.iter().flat_map(|p| &p.fixed_ips).find(|i| !i.address.contains(':'));
    let address = fixed.map_or(String::new(), |i| i.address.clone());
    let floating = s.ports.iter().flat_map(|p| &p.fixed_ips).flat_map(|i| &i.floating_ips).next().cloned().unwrap_or_default();
    let root = s.volumes.iter().find(|v| v.boot_index == Some(0)).and_then(|v| v.device.clone()).unwrap_or_else(|| "/dev/vda".into());
    // Images have no small number; the leading digits of the id serve as one.
    let image = s.image.as_ref().and_then(|i| i64::from_str_radix(i.id.get(..8)?, 16).ok()).unwrap_or(0);
    let mut out: BTreeMap<String, String> = [
        ("ami-id", if s.image.is_some() { ec2_id("ami", image) } else { String::new() }),
        ("ami-launch-index", s.launch_index.to_string()),
        ("ami-manifest-path", "FIXME".to_string()),
        ("block-device-mapping/ami", root.trim_start_matches("/dev/").to_string()),
        ("block-device-mapping/root", root),
        ("hostname", f.hostname()),
        ("instance-action", "none".to_string()),
        ("instance-id", ec2_id("i", s.number)),
        ("instance-type", s.flavor.name.clone()),
        ("local-hostname", f.hostname()),
        ("local-ipv4", address),
        ("placement/availability-zone", s.zone.clone()),
        ("public-hostname", f.hostname()),
        ("public-ipv4", floating),
        ("reservation-id", s.reservation_id.clone()),
        ("security-groups", s.security_groups.join("\n")),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v))
    .collect();
    if let Some(key) = &s.public_key {
        out.insert("public-keys/0/openssh-key".to_string(), key.clone());
    }
    out
}

/// The same as one JSON document.
pub(super) fn ec2_json(f: &Facts<'_>) -> Value {
    let mut root = Map::new();
    for (path, text) in ec2(f) {
        insert(&mut root, &path, text);
    }
    Value::Object(root)
}

fn insert(at: &mut Map<String, Value>, path: &str, text: String) {
    let Some((first, rest)) = path.split_once('/') else {
        at.insert(path.to_string(), json!(text));
        return;
    };
    if let Value::Object(below) = at.entry(first).or_insert_with(|| json!({})) {
        insert(below, rest, text);
    }
}
