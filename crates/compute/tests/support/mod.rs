//! Compute alone: tokens that are just words, simulated hosts, peers that answer from a table.

#![allow(dead_code)]

use async_trait::async_trait;
use caelum_base::{Env, Result, Secret, SystemClock, SystemRng};
use caelum_client::{ServiceClient, TokenSource, Transport};
use caelum_compute::{Config, Deps, Service};
use caelum_hypervisor::{Hypervisor, SimConfig, SimHost};
use caelum_rest::{BaseUrl, Body, HttpService, StaticValidator, full, read_limited};
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
        let (status, body) = found.unwrap_or((404, json!({"NeutronError": {"type": "NotFound", "message": "no such thing", "detail": ""}})));
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
    for answer in ["GET /resource_providers?name=host1", "GET /resource_providers?in_tree=x"] {
        placement.answer(answer, 200, json!({"resource_providers": []}));
    }
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

    pub async fn get(&self, token: &str, version: &str, path: &str) -> (u16, Value) {
        self.call(token, version, &format!("GET {path}"), Value::Null).await
    }
}
