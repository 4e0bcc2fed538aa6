//! What the generated tests share: the registry, one of everything a project can own, and a body for
//! each operation that gets past decoding.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod bodies;

use caelum_rest::OpInfo;
use caelum_testkit::{Answer, TestCloud};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An id that nothing has.
pub const NOBODY: &str = "7f3e1c52-1111-4000-8000-000000000000";

static OPERATIONS: tokio::sync::OnceCell<Vec<OpInfo>> = tokio::sync::OnceCell::const_new();

/// Every operation of the whole cloud.
pub async fn operations() -> &'static [OpInfo] {
    let all = OPERATIONS.get_or_init(async || caelum_node::operations().await.expect("operations")).await;
    assert!(all.len() > 600, "the registry must not be empty: {}", all.len());
    all
}

/// `GET /compute/v2.1/servers/{id}` and the action, for messages and the golden file.
pub fn title(op: &OpInfo) -> String {
    let action = op.action.map(|a| format!(" {a}")).unwrap_or_default();
    format!("{} /{}{}{action}", op.method, op.service, op.path)
}

/// The version header that selects an operation: its newest one that is in range.
pub fn version(op: &OpInfo) -> (&'static str, String) {
    let (major, minor) = match op.service {
        "compute" => (2, 104),
        "placement" => (1, 39),
        _ => (3, 71),
    };
    ("openstack-api-version", format!("{} {major}.{}", op.service, op.until.1.min(minor)))
}

/// One request of an operation with its body.
pub async fn ask(cloud: &TestCloud, op: &OpInfo, path: &str, token: &str, body: Option<Value>) -> Answer {
    let (name, value) = version(op);
    let mut headers = vec![(name, value.as_str())];
    match op.name {
        "image_update" => headers.push(("content-type", "application/openstack-images-v2.1-json-patch")),
        "image_upload" | "image_stage" => headers.push(("content-type", "application/octet-stream")),
        _ => {}
    }
    let copy = format!("{}-copy", path.splitn(4, '/').nth(3).unwrap_or_default());
    if op.name == "object_copy" {
        headers.push(("destination", &copy));
    }
    cloud.call_with(op.method.clone(), &format!("/{}{path}", op.service), token, &headers, body).await
}

/// One of everything: ids by service and the path segment that precedes them.
#[derive(Clone, Debug, Default)]
pub struct Estate {
    pub ids: BTreeMap<(&'static str, &'static str), String>,
}

impl Estate {
    pub fn id(&self, service: &'static str, kind: &'static str) -> &str {
        self.ids.get(&(service, kind)).map_or(NOBODY, String::as_str)
    }

    /// The same things, all with an id that nothing has.
    pub fn nobodys(&self) -> Self {
        Self { ids: self.ids.keys().map(|k| (*k, NOBODY.to_string())).collect() }
    }

    /// Fills path parameters; says whether one of them was an id of the estate.
    pub fn fill(&self, op: &OpInfo) -> (String, bool) {
        self.fill_below(op, self)
    }

    /// The first parameter from `parents`, the others from here.
    pub fn fill_below(&self, op: &OpInfo, parents: &Self) -> (String, bool) {
        let (mut out, mut used, mut before) = (String::new(), false, "");
        let mut source = parents;
        for segment in op.path.split('/').skip(1) {
            out.push('/');
            let found = source.ids.iter().find(|((s, k), _)| *s == op.service && *k == before);
            if segment.starts_with('{') {
                source = self;
            }
            match (segment.starts_with('{'), found) {
                (false, _) => out.push_str(segment),
                (true, Some((_, id))) => {
                    out.push_str(id);
                    used = true;
                }
                (true, None) => out.push_str(match before {
                    "tags" | "metadata" | "extra_specs" | "os-extra_specs" | "group_specs" | "properties" => "present",
                    "types" | "traits" | "resource_classes" => "CUSTOM_MATRIX",
                    "inventories" => "VCPU",
                    _ => NOBODY,
                }),
            }
            before = segment;
        }
        (out, used)
    }
}

struct Maker<'a> {
    cloud: &'a TestCloud,
    token: &'a str,
    estate: Estate,
}

impl Maker<'_> {
    async fn post(&mut self, service: &'static str, kind: &'static str, path: &str, body: Value, at: &str) {
        let versions = match service {
            "compute" => "compute 2.90",
            "placement" => "placement 1.36",
            _ => "volume 3.70",
        };
        let url = format!("/{service}{path}");
        let made = self.cloud.call_with(Method::POST, &url, self.token, &[("openstack-api-version", versions)], Some(body)).await;
        assert!((200..300).contains(&made.status), "{url}: {} {}", made.status, made.text);
        self.estate.ids.insert((service, kind), made.str(at));
    }

    fn id(&self, service: &'static str, kind: &'static str) -> String {
        self.estate.id(service, kind).to_string()
    }
}

/// Makes one of everything that a project member can make, and an administrator's things beside it.
pub async fn estate(cloud: &TestCloud, owner: &str, admin: &str, tag: &str) -> Estate {
    let mut m = Maker { cloud, token: owner, estate: Estate::default() };
    network(&mut m).await;
    image(&mut m).await;
    volume(&mut m).await;
    compute(&mut m, tag).await;
    object(&mut m, tag).await;
    personal(&mut m).await;
    m.token = admin;
    administrators(&mut m, tag).await;
    m.estate
}

async fn network(m: &mut Maker<'_>) {
    let s = "network";
    m.post(s, "networks", "/v2.0/networks", json!({"network": {"name": "n"}}), "/network/id").await;
    let net = m.id(s, "networks");
    let subnet = json!({"subnet": {"network_id": net, "ip_version": 4, "cidr": "10.9.0.0/24"}});
    m.post(s, "subnets", "/v2.0/subnets", subnet, "/subnet/id").await;
    m.post(s, "ports", "/v2.0/ports", json!({"port": {"network_id": net}}), "/port/id").await;
    m.post(s, "routers", "/v2.0/routers", json!({"router": {"name": "r"}}), "/router/id").await;
    let pool = json!({"subnetpool": {"name": "p", "prefixes": ["10.200.0.0/16"]}});
    m.post(s, "subnetpools", "/v2.0/subnetpools", pool, "/subnetpool/id").await;
    m.post(s, "security-groups", "/v2.0/security-groups", json!({"security_group": {"name": "g"}}), "/security_group/id").await;
    let group = m.id(s, "security-groups");
    m.estate.ids.insert(("compute", "os-security-groups"), group.clone());
    let rule = json!({"security_group_rule": {"security_group_id": group, "direction": "ingress"}});
    m.post(s, "security-group-rules", "/v2.0/security-group-rules", rule, "/security_group_rule/id").await;
    m.estate.ids.insert(("compute", "os-security-group-rules"), m.id(s, "security-group-rules"));
    let rbac =
        json!({"rbac_policy": {"object_type": "network", "object_id": net, "action": "access_as_shared", "target_tenant": "f".repeat(32)}});
    m.post(s, "rbac-policies", "/v2.0/rbac-policies", rbac, "/rbac_policy/id").await;
    let public = m.cloud.call(Method::GET, "/network/v2.0/networks?router:external=true", m.token, None).await;
    let floating = json!({"floatingip": {"floating_network_id": public.str("/networks/0/id")}});
    m.post(s, "floatingips", "/v2.0/floatingips", floating, "/floatingip/id").await;
    for (kind, one) in [("networks", "network"), ("ports", "port"), ("routers", "router")] {
        let path = format!("/network/v2.0/{kind}/{}/tags/present", m.id(s, kind));
        let tagged = m.cloud.call(Method::PUT, &path, m.token, None).await;
        assert!(tagged.status < 300, "{one}: {}", tagged.text);
    }
}

async fn image(m: &mut Maker<'_>) {
    let body = json!({"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "private", "tags": ["present"]});
    m.post("image", "images", "/v2/images", body, "/id").await;
    let id = m.id("image", "images");
    let headers = [("content-type", "application/octet-stream")];
    let data = Some(json!("x".repeat(512)));
    m.cloud.call_with(Method::PUT, &format!("/image/v2/images/{id}/file"), m.token, &headers, data).await.expect(204);
    m.estate.ids.insert(("compute", "images"), id);
}

async fn volume(m: &mut Maker<'_>) {
    let s = "volume";
    for kind in ["spare", "volumes"] {
        let body = json!({"volume": {"size": 1, "name": "v", "metadata": {"present": "yes"}}});
        m.post(s, kind, "/v3/volumes", body, "/volume/id").await;
        let path = format!("/volume/v3/volumes/{}", m.id(s, kind));
        m.cloud.until(&path, m.token, |a| a.body["volume"]["status"] == "available").await;
    }
    let id = m.id(s, "volumes");
    m.post(s, "snapshots", "/v3/snapshots", json!({"snapshot": {"volume_id": id, "name": "s"}}), "/snapshot/id").await;
    let path = format!("/volume/v3/snapshots/{}", m.id(s, "snapshots"));
    m.cloud.until(&path, m.token, |a| a.body["snapshot"]["status"] == "available").await;
    m.post(s, "backups", "/v3/backups", json!({"backup": {"volume_id": id, "name": "b"}}), "/backup/id").await;
    let path = format!("/volume/v3/backups/{}", m.id(s, "backups"));
    m.cloud.until(&path, m.token, |a| a.body["backup"]["status"] == "available").await;
    let transfer = json!({"transfer": {"volume_id": m.id(s, "spare"), "name": "t"}});
    m.post(s, "volume-transfers", "/v3/volume-transfers", transfer, "/transfer/id").await;
    m.estate.ids.insert((s, "os-volume-transfer"), m.id(s, "volume-transfers"));
}

async fn compute(m: &mut Maker<'_>, tag: &str) {
    let s = "compute";
    let group = json!({"server_group": {"name": "sg", "policy": "anti-affinity"}});
    m.post(s, "os-server-groups", "/v2.1/os-server-groups", group, "/server_group/id").await;
    let key = json!({"keypair": {"name": format!("key-{tag}"), "type": "ssh", "public_key": PUBLIC_KEY}});
    m.post(s, "os-keypairs", "/v2.1/os-keypairs", key, "/keypair/name").await;
    let flavors = m.cloud.call(Method::GET, "/compute/v2.1/flavors?sort_key=memory_mb", m.token, None).await;
    m.estate.ids.insert((s, "flavors"), flavors.str("/flavors/0/id"));
    let server = json!({"server": {"name": "vm", "imageRef": m.id("image", "images"), "flavorRef": m.id(s, "flavors"),
        "networks": [{"uuid": m.id("network", "networks")}], "metadata": {"present": "yes"}, "tags": ["present"]}});
    m.post(s, "servers", "/v2.1/servers", server, "/server/id").await;
    let path = format!("/compute/v2.1/servers/{}", m.id(s, "servers"));
    let built = m.cloud.until(&path, m.token, |a| matches!(a.body["server"]["status"].as_str(), Some("ACTIVE" | "ERROR"))).await;
    assert_eq!(built.str("/server/status"), "ACTIVE", "{}", built.text);
    let path = format!("/compute/v2.1/servers/{}/os-interface", m.id(s, "servers"));
    let interfaces = m.cloud.call(Method::GET, &path, m.token, None).await.expect(200);
    m.estate.ids.insert((s, "os-interface"), interfaces.str("/interfaceAttachments/0/port_id"));
    m.estate.ids.insert((s, "os-volume_attachments"), m.id("volume", "volumes"));
}

/// The project's account with a container and an object in it.
async fn object(m: &mut Maker<'_>, tag: &str) {
    let headers = [("x-subject-token", m.token)];
    let me = m.cloud.call_with(Method::GET, "/identity/v3/auth/tokens", m.token, &headers, None).await;
    let account = format!("AUTH_{}", me.str("/token/project/id"));
    let (container, name) = (format!("container-{tag}"), format!("object-{tag}"));
    let path = format!("/object/v1/{account}/{container}");
    m.cloud.call_bytes(Method::PUT, &path, m.token, &[], None).await.expect(201);
    m.cloud.call_bytes(Method::PUT, &format!("{path}/{name}"), m.token, &[], Some(b"data".to_vec())).await.expect(201);
    // The key is the path segment that stands before the id.
    m.estate.ids.insert(("object", "v1"), account);
    m.estate.ids.insert(("object", "{account}"), container);
    m.estate.ids.insert(("object", "{container}"), name);
}

/// What a user owns apart from a project.
async fn personal(m: &mut Maker<'_>) {
    let headers = [("x-subject-token", m.token)];
    let me = m.cloud.call_with(Method::GET, "/identity/v3/auth/tokens", m.token, &headers, None).await.str("/token/user/id");
    let path = format!("/v3/users/{me}/application_credentials");
    let body = json!({"application_credential": {"name": "matrix-app"}});
    m.post("identity", "application_credentials", &path, body, "/application_credential/id").await;
    m.estate.ids.insert(("identity", "users"), me);
}

async fn administrators(m: &mut Maker<'_>, tag: &str) {
    let s = "identity";
    let name = |kind: &str| format!("{kind}-{tag}");
    m.post(s, "domains", "/v3/domains", json!({"domain": {"name": name("domain")}}), "/domain/id").await;
    m.post(s, "projects", "/v3/projects", json!({"project": {"name": name("project")}}), "/project/id").await;
    if m.estate.id(s, "users") == NOBODY {
        m.post(s, "users", "/v3/users", json!({"user": {"name": name("user"), "password": "secret-word"}}), "/user/id").await;
    }
    m.post(s, "groups", "/v3/groups", json!({"group": {"name": name("group")}}), "/group/id").await;
    m.post(s, "roles", "/v3/roles", json!({"role": {"name": name("role")}}), "/role/id").await;
    m.post(s, "regions", "/v3/regions", json!({"region": {"id": name("region")}}), "/region/id").await;
    m.post(s, "services", "/v3/services", json!({"service": {"type": name("service"), "name": "x"}}), "/service/id").await;
    let endpoint = json!({"endpoint": {"service_id": m.id(s, "services"), "interface": "public", "url": "http://127.0.0.1/"}});
    m.post(s, "endpoints", "/v3/endpoints", endpoint, "/endpoint/id").await;
    let credential =
        json!({"credential": {"type": "totp", "blob": "GEZDGNBV", "user_id": m.id(s, "users"), "project_id": m.id(s, "projects")}});
    m.post(s, "credentials", "/v3/credentials", credential, "/credential/id").await;
    for place in [("network", "quotas"), ("volume", "os-quota-sets"), ("volume", "default-types"), ("compute", "os-quota-sets")] {
        m.estate.ids.insert(place, m.id(s, "projects"));
    }
    let flavor = json!({"flavor": {"name": name("flavor"), "ram": 64, "vcpus": 1, "disk": 1}});
    m.post("compute", "flavors", "/v2.1/flavors", flavor, "/flavor/id").await;
    m.post("volume", "types", "/v3/types", json!({"volume_type": {"name": name("type")}}), "/volume_type/id").await;
    m.post("volume", "qos-specs", "/v3/qos-specs", json!({"qos_specs": {"name": name("qos")}}), "/qos_specs/id").await;
    m.post("volume", "group_types", "/v3/group_types", json!({"group_type": {"name": name("group-type")}}), "/group_type/id").await;
    let provider = json!({"name": name("provider")});
    m.post("placement", "resource_providers", "/resource_providers", provider, "/uuid").await;
    let namespace = json!({"namespace": name("Namespace"), "visibility": "private"});
    m.post("image", "namespaces", "/v2/metadefs/namespaces", namespace, "/namespace").await;
    m.post("identity", "policies", "/v3/policies", json!({"policy": {"type": "text/plain", "blob": "x"}}), "/policy/id").await;
    m.post("identity", "consumers", "/v3/OS-OAUTH1/consumers", json!({"consumer": {}}), "/consumer/id").await;
}

pub const PUBLIC_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f test";
