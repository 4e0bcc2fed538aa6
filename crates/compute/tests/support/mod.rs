//! Compute alone: tokens that are just words, simulated hosts, peers that answer from a table.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use caelum_base::{Env, Result, Secret, SystemClock, SystemRng, Timestamp};
use caelum_client::{ServiceClient, TokenSource, Transport};
use caelum_compute::store::servers::{FixedIp, Server, ServerData, ServerPort, VmState};
use caelum_compute::{Config, Deps, Service};
use caelum_hypervisor::{Hypervisor, SimConfig, SimHost};
use caelum_rest::{BaseUrl, Body, StaticValidator, full, read_limited};
use caelum_store::StoreUrl;
use http::{Request, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub const PROJECT: &str = "11111111111111111111111111111111";
pub const OTHER: &str = "22222222222222222222222222222222";

/// Answers by `METHOD path`; remembers what was asked. Unknown paths are 404.
#[derive(Default)]
pub struct Peer {
    pub answers: Mutex<BTreeMap<String, (u16, Value)>>,
    pub asked: Mutex<Vec<(String, Value)>>,
}

impl Peer {
    pub fn answer(&self, call: &str, status: u16, body: Value) {
        self.answers.lock().unwrap().insert(call.to_string(), (status, body));
    }
}

#[async_trait]
impl Transport for Peer {
    async fn send(&self, req: Request<Body>) -> Result<Response<Body>> {
        let call = format!("{} {}", req.method(), req.uri());
        let bytes = read_limited(req.into_body(), 1 << 20).await?;
        let sent = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        self.asked.lock().unwrap().push((call.clone(), sent));
        let found = self.answers.lock().unwrap().get(&call).cloned();
        // Placement is asked which traits it knows; the answer does not matter here.
        let found = found.or_else(|| call.starts_with("GET /traits?").then(|| (200, json!({"traits": []}))));
        let (status, body) =
            found.unwrap_or((404, json!({"NeutronError": {"type": "NotFound", "message": "no such thing", "detail": ""}})));
        let mut r = Response::new(full(body.to_string()));
        *r.status_mut() = http::StatusCode::from_u16(status).unwrap();
        Ok(r)
    }
}

struct Own;

#[async_trait]
impl TokenSource for Own {
    async fn token(&self) -> Result<Secret<String>> {
        Ok(Secret::new("service".to_string()))
    }
    async fn forget(&self) {}
}

pub struct Cloud {
    pub service: Service,
    pub network: Arc<Peer>,
    pub image: Arc<Peer>,
    pub host: Arc<SimHost>,
}

pub async fn cloud() -> Cloud {
    cloud_with(|_| ()).await
}

pub async fn cloud_with(change: impl FnOnce(&mut Config)) -> Cloud {
    let env = Env { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng) };
    let validator = StaticValidator::default()
        .with("admin", "33333333333333333333333333333333", &["admin", "manager", "member", "reader"])
        .with("member", PROJECT, &["member", "reader"])
        .with("reader", PROJECT, &["reader"])
        .with("other", OTHER, &["member", "reader"]);
    let (network, image) = (Arc::new(Peer::default()), Arc::new(Peer::default()));
    let placement = Arc::new(Peer::default());
    let client = |name, peer: &Arc<Peer>| ServiceClient::new(name, peer.clone() as Arc<dyn Transport>, Arc::new(Own));
    let provider = "cccccccc-0000-4000-8000-000000000001";
    let path = format!("/resource_providers/{provider}");
    placement.answer("GET /resource_providers?name=host1", 200, json!({"resource_providers": [{"uuid": provider}]}));
    let inventories = json!({"inventories": {}, "resource_provider_generation": 1});
    placement.answer(&format!("GET {path}/inventories"), 200, inventories.clone());
    placement.answer(&format!("PUT {path}/inventories"), 200, inventories);
    let traits = json!({"traits": ["COMPUTE_NODE"], "resource_provider_generation": 1});
    placement.answer(&format!("GET {path}/traits"), 200, traits.clone());
    placement.answer(&format!("PUT {path}/traits"), 200, traits);
    let host = Arc::new(SimHost::open(SimConfig { hostname: "host1".into(), ..SimConfig::default() }, env.clone()).unwrap());
    let mut config = Config::default();
    change(&mut config);
    let deps = Deps {
        env,
        store: StoreUrl::Scratch,
        validator: Arc::new(validator),
        policy: BTreeMap::new(),
        auth_url: "http://cloud/identity".into(),
        node: "node1".into(),
        config,
        network: client("network", &network),
        image: client("image", &image),
        placement: client("placement", &placement),
        block: None,
        hosts: vec![("host1".into(), host.clone() as Arc<dyn Hypervisor>)],
    };
    let service = caelum_compute::start(deps).await.unwrap();
    Cloud { service, network, image, host }
}

impl Cloud {
    /// One request as the user of `token` (empty: none) at microversion `version` (empty: none).
    pub async fn call(&self, token: &str, version: &str, request: &str, body: Value) -> (u16, Value) {
        let (method, path) = request.split_once(' ').unwrap();
        let mut b = Request::builder().method(method).uri(path).extension(BaseUrl("http://cloud/compute".into()));
        if !token.is_empty() {
            b = b.header("x-auth-token", token);
        }
        if !version.is_empty() {
            b = b.header("openstack-api-version", format!("compute {version}"));
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let req = b.header("content-type", "application/json").body(full(text)).unwrap();
        let r = self.service.api().call(req).await;
        let status = r.status().as_u16();
        let bytes = read_limited(r.into_body(), 16 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Makes `host1` report and so appear among the hosts.
    pub async fn report(&self) {
        caelum_compute::reconcile::hosts::report(self.service.state(), "host1").await.unwrap();
    }

    pub async fn get(&self, token: &str, version: &str, path: &str) -> (u16, Value) {
        self.call(token, version, &format!("GET {path}"), Value::Null).await
    }
}

/// An active server of [`PROJECT`] on `host1` with one port.
pub fn server(id: &str) -> Server {
    let at = Timestamp::from_secs(1_700_000_000);
    let mut flavor = caelum_compute::logic::flavors::blank("1", "m1.tiny", at);
    (flavor.ram_mb, flavor.vcpus, flavor.root_gb) = (512, 1, 1);
    let port = ServerPort {
        port_id: "aaaaaaaa-0000-4000-8000-000000000001".into(),
        network_id: "net1".into(),
        network_name: "private".into(),
        mac: "fa:16:3e:00:00:01".into(),
        mtu: 1450,
        fixed_ips: vec![FixedIp { address: "10.0.0.5".into(), subnet_id: "sub1".into(), floating_ips: vec!["198.51.100.7".into()] }],
        ours: true,
        ..ServerPort::default()
    };
    Server {
        id: id.into(),
        number: 1,
        project_id: PROJECT.into(),
        user_id: "user-member".into(),
        name: "web".into(),
        description: None,
        hostname: "web".into(),
        image: None,
        flavor,
        key_name: Some("mykey".into()),
        public_key: Some("ssh-ed25519 AAAA me".into()),
        has_user_data: true,
        config_drive: false,
        metadata: BTreeMap::from([("role".to_string(), "db".to_string())]),
        tags: Default::default(),
        pinned_zone: None,
        zone: "nova".into(),
        host: Some("host1".into()),
        scheduler_hints: Default::default(),
        group_id: None,
        security_groups: vec!["default".into()],
        ports: vec![port],
        volumes: Vec::new(),
        state: VmState::Active,
        task: None,
        power: caelum_hypervisor::PowerState::Running,
        fault: None,
        lock: None,
        resize: None,
        rescue_image: None,
        shelved_image: None,
        access_ipv4: String::new(),
        access_ipv6: String::new(),
        disk_config: "MANUAL".into(),
        reservation_id: "r-1".into(),
        launch_index: 0,
        created_at: at,
        updated_at: at,
        launched_at: Some(at),
        network_seen_at: at,
        guest_password: String::new(),
    }
}

impl Cloud {
    /// Writes a server and its user data as if a flow had made them.
    pub async fn put(&self, server: Server) {
        let data = ServerData { id: server.id.clone(), user_data: Some("IyEvYmluL3No".into()), files: Vec::new() };
        let write = move |tx: &mut caelum_store::Tx<'_>| {
            tx.insert(&data)?;
            tx.insert(&server).map(drop)
        };
        self.service.state().db.write(write).await.unwrap();
    }
}
