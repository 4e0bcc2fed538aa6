//! Peers in memory: just enough of the network, image, placement and block APIs, with their checks.

use crate::store::flavors::Flavor;
use crate::{Config, Deps, Service, start};
use async_trait::async_trait;
use caelum_base::{Env, Result, Secret};
use caelum_client::{Locals, ServiceClient, TokenSource};
use caelum_hypervisor::{Hypervisor, SimConfig, SimHost};
use caelum_rest::{Body, HttpService, StaticValidator, full, read_limited};
use caelum_store::StoreUrl;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub const NET: &str = "11111111-1111-4111-8111-111111111111";
pub const IMAGE: &str = "22222222-2222-4222-8222-222222222222";

type Handler = fn(&Fake, &Method, &[&str], &str, Value) -> (u16, Value);

/// What the peers know.
pub struct Fake {
    env: Env,
    pub ports: Mutex<BTreeMap<String, Value>>,
    pub providers: Mutex<BTreeMap<String, Value>>,
    /// consumer → (provider, resources)
    pub allocations: Mutex<BTreeMap<String, (String, Value)>>,
    pub volumes: Mutex<BTreeMap<String, Value>>,
    pub attachments: Mutex<BTreeMap<String, Value>>,
    pub images: Mutex<BTreeMap<String, Value>>,
    /// Ports stay DOWN.
    pub no_plug: Mutex<bool>,
    /// The next calls that begin with `METHOD path` fail with this status.
    pub broken: Mutex<Vec<(String, u16)>>,
}

struct Peer(Arc<Fake>, Handler);

impl HttpService for Peer {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let (fake, handler) = (self.0.clone(), self.1);
        Box::pin(async move {
            let (parts, body) = req.into_parts();
            let bytes = read_limited(body, 1 << 24).await.unwrap();
            let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let path = parts.uri.path().to_string();
            let line = format!("{} {path}", parts.method);
            let broken = {
                let mut list = fake.broken.lock().unwrap();
                list.iter().position(|(p, _)| line.starts_with(p.as_str())).map(|i| list.remove(i).1)
            };
            let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
            let (status, answer) = match broken {
                Some(s) => (s, json!({"x": {"message": "broken by the test"}})),
                None => handler(&fake, &parts.method, &segments, parts.uri.query().unwrap_or(""), value),
            };
            let mut r = Response::new(full(answer.to_string()));
            *r.status_mut() = http::StatusCode::from_u16(status).unwrap();
            r
        })
    }
}

struct Tokens;

#[async_trait]
impl TokenSource for Tokens {
    async fn token(&self) -> Result<Secret<String>> {
        Ok(Secret::new("service".into()))
    }
    async fn forget(&self) {}
}

fn query<'a>(q: &'a str, key: &str) -> Option<&'a str> {
    q.split('&').filter_map(|p| p.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
}

fn gone() -> (u16, Value) {
    (404, json!({"NeutronError": {"message": "not found", "type": "NotFound"}}))
}

fn merge(into: &mut Value, from: &Value) {
    for (k, v) in from.as_object().into_iter().flatten() {
        into[k] = v.clone();
    }
}

fn network(f: &Fake, m: &Method, p: &[&str], q: &str, body: Value) -> (u16, Value) {
    let net = json!({"id": NET, "name": "private", "subnets": ["s"], "shared": true, "mtu": 1450, "project_id": "p1"});
    let mut ports = f.ports.lock().unwrap();
    match (m.as_str(), &p[1..]) {
        ("GET", ["networks"]) => (200, json!({"networks": [net]})),
        ("GET", ["networks", id]) if *id == NET => (200, json!({"network": net})),
        ("GET", ["ports"]) => {
            let device = query(q, "device_id").unwrap_or("");
            let list: Vec<Value> = ports.values().filter(|p| device.is_empty() || p["device_id"] == device).cloned().collect();
            (200, json!({"ports": list}))
        }
        ("GET", ["ports", id]) => ports.get(*id).map_or_else(gone, |p| (200, json!({"port": p}))),
        ("POST", ["ports"]) => {
            let id = f.env.uuid();
            let status = if *f.no_plug.lock().unwrap() || body["port"]["binding:host_id"].is_null() { "DOWN" } else { "ACTIVE" };
            let n = ports.len() + 10;
            let mut port = json!({"id": id, "mac_address": "fa:16:3e:00:00:01", "status": status, "device_id": "", "admin_state_up": true,
                "fixed_ips": [{"subnet_id": "s", "ip_address": format!("10.0.0.{n}")}], "security_groups": ["sg"], "project_id": "p1"});
            merge(&mut port, &body["port"]);
            ports.insert(id, port.clone());
            (201, json!({"port": port}))
        }
        ("PUT", ["ports", id]) => {
            let Some(port) = ports.get_mut(*id) else { return gone() };
            merge(port, &body["port"]);
            let bound = port["binding:host_id"].as_str().is_some_and(|h| !h.is_empty());
            port["status"] = json!(if bound && !*f.no_plug.lock().unwrap() { "ACTIVE" } else { "DOWN" });
            (200, json!({"port": port}))
        }
        ("DELETE", ["ports", id]) => ports.remove(*id).map_or_else(gone, |_| (204, Value::Null)),
        ("GET", ["security-groups"]) => (200, json!({"security_groups": [{"id": "sg", "name": "default"}, {"id": "sg2", "name": "web"}]})),
        ("GET", ["subnets"]) => (200, json!({"subnets": []})),
        ("GET", ["subnets", id]) => (200, json!({"subnet": {"id": id, "cidr": "10.0.0.0/24", "ip_version": 4, "gateway_ip": "10.0.0.1"}})),
        ("GET", ["floatingips"]) => (200, json!({"floatingips": []})),
        _ => gone(),
    }
}

fn image(f: &Fake, m: &Method, p: &[&str], _q: &str, body: Value) -> (u16, Value) {
    let mut images = f.images.lock().unwrap();
    match (m.as_str(), &p[1..]) {
        ("GET", ["images", id]) => images.get(*id).map_or_else(gone, |i| (200, i.clone())),
        ("POST", ["images"]) => {
            let id = f.env.uuid();
            let mut image = body;
            image["id"] = json!(id);
            image["status"] = json!("queued");
            images.insert(id, image.clone());
            (201, image)
        }
        ("PUT", ["images", id, "file"]) => images.get_mut(*id).map_or_else(gone, |i| {
            i["status"] = json!("active");
            (204, Value::Null)
        }),
        ("DELETE", ["images", id]) => images.remove(*id).map_or_else(gone, |_| (204, Value::Null)),
        _ => gone(),
    }
}

fn used(f: &Fake, provider: &str, class: &str, not: &str) -> i64 {
    let all = f.allocations.lock().unwrap();
    all.iter().filter(|(c, (p, _))| p == provider && *c != not).map(|(_, (_, r))| r[class].as_i64().unwrap_or(0)).sum()
}

fn room(f: &Fake, provider: &Value, class: &str, amount: i64, not: &str) -> bool {
    let inv = &provider["inventories"][class];
    let capacity = inv["total"].as_f64().unwrap_or(0.0) * inv["allocation_ratio"].as_f64().unwrap_or(1.0);
    used(f, provider["uuid"].as_str().unwrap(), class, not) + amount <= capacity as i64
}

fn placement(f: &Fake, m: &Method, p: &[&str], q: &str, body: Value) -> (u16, Value) {
    let mut providers = f.providers.lock().unwrap();
    match (m.as_str(), p) {
        ("GET", ["resource_providers"]) => {
            let name = query(q, "name").unwrap_or("");
            let list: Vec<&Value> = providers.values().filter(|p| p["name"] == name).collect();
            (200, json!({"resource_providers": list}))
        }
        ("POST", ["resource_providers"]) => {
            let mut v = body;
            merge(&mut v, &json!({"generation": 0, "inventories": {}, "traits": []}));
            providers.insert(v["uuid"].as_str().unwrap().to_string(), v.clone());
            (200, v)
        }
        (_, ["resource_providers", id, what]) => {
            let v = providers.get_mut(*id).unwrap();
            if m == Method::PUT {
                v[*what] = body[*what].clone();
            }
            (200, json!({*what: v[*what], "resource_provider_generation": 1}))
        }
        ("GET", ["traits"]) => (200, json!({"traits": ["COMPUTE_NODE"]})),
        ("GET", ["allocation_candidates"]) => candidates(f, &providers, query(q, "resources").unwrap()),
        ("GET", ["allocations", id]) => {
            let all = f.allocations.lock().unwrap();
            match all.get(*id) {
                Some((p, r)) => (200, json!({"allocations": {p: {"resources": r}}, "consumer_generation": 1})),
                None => (200, json!({"allocations": {}})),
            }
        }
        ("PUT", ["allocations", id]) => {
            let (provider, wanted) = body["allocations"].as_object().unwrap().iter().next().unwrap();
            let exists = f.allocations.lock().unwrap().contains_key(*id);
            if exists && body["consumer_generation"].is_null() {
                return (409, json!({"errors": [{"code": "placement.concurrent_update", "detail": "exists"}]}));
            }
            let host = &providers[provider];
            if !wanted["resources"].as_object().unwrap().iter().all(|(c, n)| room(f, host, c, n.as_i64().unwrap(), id)) {
                return (409, json!({"errors": [{"code": "placement.undefined_code", "detail": "full"}]}));
            }
            f.allocations.lock().unwrap().insert((*id).to_string(), (provider.clone(), wanted["resources"].clone()));
            (204, Value::Null)
        }
        ("DELETE", ["allocations", id]) => f.allocations.lock().unwrap().remove(*id).map_or_else(gone, |_| (204, Value::Null)),
        _ => gone(),
    }
}

fn candidates(f: &Fake, providers: &BTreeMap<String, Value>, resources: &str) -> (u16, Value) {
    let wanted: Vec<(&str, i64)> = resources.split(',').map(|r| r.split_once(':').unwrap()).map(|(c, n)| (c, n.parse().unwrap())).collect();
    let mut requests = Vec::new();
    let mut summaries = json!({});
    for (id, host) in providers {
        if !wanted.iter().all(|(c, n)| room(f, host, c, *n, "")) {
            continue;
        }
        requests.push(json!({"allocations": {id: {"resources": {}}}}));
        let total = &host["inventories"]["MEMORY_MB"]["total"];
        summaries[id] = json!({"resources": {"MEMORY_MB": {"capacity": total, "used": used(f, id, "MEMORY_MB", "")}}});
    }
    (200, json!({"allocation_requests": requests, "provider_summaries": summaries}))
}

fn block(f: &Fake, m: &Method, p: &[&str], _q: &str, body: Value) -> (u16, Value) {
    let mut volumes = f.volumes.lock().unwrap();
    let mut attachments = f.attachments.lock().unwrap();
    match (m.as_str(), &p[1..]) {
        ("GET", ["volumes", "detail"]) => (200, json!({"volumes": volumes.values().collect::<Vec<_>>()})),
        ("GET", ["volumes", id]) => volumes.get(*id).map_or_else(gone, |v| (200, json!({"volume": v}))),
        ("POST", ["volumes"]) => {
            let id = f.env.uuid();
            let mut v = body["volume"].clone();
            merge(&mut v, &json!({"id": id, "status": "available", "bootable": "true"}));
            volumes.insert(id, v.clone());
            (202, json!({"volume": v}))
        }
        ("DELETE", ["volumes", id]) => volumes.remove(*id).map_or_else(gone, |_| (202, Value::Null)),
        ("GET", ["attachments", "detail"]) => (200, json!({"attachments": attachments.values().collect::<Vec<_>>()})),
        ("POST", ["attachments"]) => {
            let id = f.env.uuid();
            let volume = body["attachment"]["volume_uuid"].clone();
            let Some(v) = volumes.get_mut(volume.as_str().unwrap()) else { return gone() };
            if v["status"] != "available" {
                return (400, json!({"badRequest": {"message": "volume is in use"}}));
            }
            v["status"] = json!("reserved");
            let a = json!({"id": id, "volume_id": volume, "instance": body["attachment"]["instance_uuid"], "connection_info": {}});
            attachments.insert(id, a.clone());
            (200, json!({"attachment": a}))
        }
        ("PUT", ["attachments", id]) => {
            let Some(a) = attachments.get_mut(*id) else { return gone() };
            let path = format!("/volumes/{}", a["volume_id"].as_str().unwrap());
            a["connection_info"] = json!({"driver_volume_type": "local", "data": {"device_path": path, "format": "raw"}});
            (200, json!({"attachment": a}))
        }
        ("POST", ["attachments", id, "action"]) => {
            let volume = attachments[*id]["volume_id"].as_str().unwrap().to_string();
            volumes.get_mut(&volume).unwrap()["status"] = json!("in-use");
            (204, Value::Null)
        }
        ("DELETE", ["attachments", id]) => match attachments.remove(*id) {
            None => gone(),
            Some(a) => {
                if let Some(v) = volumes.get_mut(a["volume_id"].as_str().unwrap()) {
                    v["status"] = json!("available");
                }
                (200, json!({"attachments": []}))
            }
        },
        _ => gone(),
    }
}

impl Fake {
    pub fn new(env: Env) -> Arc<Self> {
        let image = json!({"id": IMAGE, "name": "test", "status": "active", "disk_format": "qcow2", "size": 1000, "min_disk": 0,
            "min_ram": 0, "os_hash_algo": "sha512", "os_hash_value": "00", "hw_disk_bus": "virtio"});
        Arc::new(Self {
            env,
            ports: Mutex::default(),
            providers: Mutex::default(),
            allocations: Mutex::default(),
            volumes: Mutex::default(),
            attachments: Mutex::default(),
            images: Mutex::new([(IMAGE.to_string(), image)].into()),
            no_plug: Mutex::new(false),
            broken: Mutex::default(),
        })
    }

    pub fn client(self: &Arc<Self>, service: &'static str) -> ServiceClient {
        let handler: Handler = match service {
            "network" => network,
            "image" => image,
            "placement" => placement,
            _ => block,
        };
        let locals = Arc::new(Locals::default());
        locals.set(service, Arc::new(Peer(self.clone(), handler)));
        ServiceClient::new(service, locals.transport(service, format!("http://{service}")), Arc::new(Tokens))
    }

    /// A port of the user's own.
    pub fn user_port(&self) -> String {
        let (_, v) = network(self, &Method::POST, &["v2.0", "ports"], "", json!({"port": {"network_id": NET}}));
        v["port"]["id"].as_str().unwrap().to_string()
    }

    pub fn user_volume(&self) -> String {
        let (_, v) = block(self, &Method::POST, &["v3", "volumes"], "", json!({"volume": {"size": 1}}));
        v["volume"]["id"].as_str().unwrap().to_string()
    }

    /// Whether nothing of any server is left.
    pub fn is_clean(&self) -> bool {
        let ports = self.ports.lock().unwrap();
        let owned = ports.values().any(|p| p["device_id"].as_str().is_some_and(|d| !d.is_empty()));
        let busy = self.volumes.lock().unwrap().values().any(|v| v["status"] != "available");
        !owned && !busy && self.allocations.lock().unwrap().is_empty() && self.attachments.lock().unwrap().is_empty()
    }
}

/// Compute with two (or `n`) simulated hosts and fake peers.
pub struct Bench {
    pub service: Service,
    pub fake: Arc<Fake>,
    pub hosts: Vec<Arc<SimHost>>,
}

pub fn flavor(id: &str, vcpus: i64, ram_mb: i64, root_gb: i64) -> Flavor {
    Flavor {
        id: id.into(),
        name: format!("f{id}"),
        description: None,
        ram_mb,
        vcpus,
        root_gb,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1.0,
        is_public: true,
        disabled: false,
        extra_specs: BTreeMap::new(),
        projects: Default::default(),
        created_at: caelum_base::Timestamp(0),
        updated_at: caelum_base::Timestamp(0),
    }
}

pub fn sim(name: &str, memory_mib: u64, env: &Env) -> Arc<SimHost> {
    let config = SimConfig { hostname: name.into(), vcpus: 16, memory_mib, ..SimConfig::default() };
    Arc::new(SimHost::open(config, env.clone()).unwrap())
}

pub fn deps(env: &Env, fake: &Arc<Fake>, hosts: &[Arc<SimHost>], config: Config) -> Deps {
    let validator = StaticValidator::default()
        .with("member", "p1", &["member", "reader"])
        .with("reader", "p1", &["reader"])
        .with("other", "p2", &["member", "reader"])
        .with("admin", "p1", &["admin", "member", "reader"])
        .with("service", "svc", &["service", "admin"]);
    let named = |h: &Arc<SimHost>| {
        let host: Arc<dyn Hypervisor> = h.clone();
        host
    };
    Deps {
        env: env.clone(),
        store: StoreUrl::Scratch,
        validator: Arc::new(validator),
        policy: BTreeMap::new(),
        auth_url: String::new(),
        node: "test".into(),
        config,
        network: fake.client("network"),
        image: fake.client("image"),
        placement: fake.client("placement"),
        block: Some(fake.client("block-storage")),
        hosts: hosts.iter().enumerate().map(|(i, h)| (format!("host{}", i + 1), named(h))).collect(),
    }
}

/// Two hosts of `memory_mib` each, flavors `t1` (1 vcpu, 512 MB, 1 GB) and `t2` (2, 1024, 2).
pub async fn bench(memory_mib: u64) -> Bench {
    let env = Env::system();
    let fake = Fake::new(env.clone());
    let hosts = vec![sim("host1", memory_mib, &env), sim("host2", memory_mib, &env)];
    let service = start(deps(&env, &fake, &hosts, Config::default())).await.unwrap();
    for name in ["host1", "host2"] {
        crate::reconcile::hosts::report(service.state(), name).await.unwrap();
    }
    service.state().db.write(|tx| tx.insert(&flavor("t1", 1, 512, 1))).await.unwrap();
    service.state().db.write(|tx| tx.insert(&flavor("t2", 2, 1024, 2))).await.unwrap();
    Bench { service, fake, hosts }
}

impl Bench {
    /// Calls the API at microversion 2.`minor`.
    pub async fn call(&self, token: &str, minor: u32, method: &str, path: &str, body: Value) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let req = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", token)
            .header("openstack-api-version", format!("compute 2.{minor}"))
            .body(full(bytes))
            .unwrap();
        let r = self.service.api().call(req).await;
        let status = r.status().as_u16();
        let bytes = read_limited(r.into_body(), 1 << 24).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("member", 1, "GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Starts a server with these additional fields and waits for the end of its flow.
    pub async fn boot(&self, more: Value) -> Value {
        let mut server = json!({"name": "vm", "imageRef": IMAGE, "flavorRef": "t1"});
        merge(&mut server, &more);
        let (status, body) = self.call("member", 1, "POST", "/v2.1/servers", json!({"server": server})).await;
        assert_eq!(status, 202, "{body}");
        self.idle().await;
        let id = body["server"]["id"].as_str().unwrap();
        self.get(&format!("/v2.1/servers/{id}")).await["server"].clone()
    }

    pub async fn act(&self, id: &str, action: Value) -> (u16, Value) {
        let out = self.call("admin", 1, "POST", &format!("/v2.1/servers/{id}/action"), action).await;
        self.idle().await;
        out
    }

    pub async fn idle(&self) {
        self.service.state().flows.idle().await.unwrap();
    }
}
