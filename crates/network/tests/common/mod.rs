//! One network service with a simulated host, called without sockets.

use caelum_base::Env;
use caelum_netplane::SimPlane;
use caelum_network::{Deps, Options, PublicNetwork, Service, start};
use caelum_rest::{Body, StaticValidator, empty, full, read_limited};
use caelum_store::StoreUrl;
use http::{Method, Request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const DEMO: &str = "11111111111111111111111111111111";
pub const OTHER: &str = "22222222222222222222222222222222";
pub const ADMIN: &str = "33333333333333333333333333333333";

pub struct Net {
    pub service: Service,
    pub plane: Arc<SimPlane>,
}

pub fn validator() -> StaticValidator {
    let member = &["member", "reader"];
    StaticValidator::default().with("demo", DEMO, member).with("viewer", DEMO, &["reader"]).with("other", OTHER, member).with(
        "admin",
        ADMIN,
        &["admin", "manager", "member", "reader"],
    )
}

pub async fn net_at(store: StoreUrl) -> Net {
    let plane = Arc::new(SimPlane::new());
    let deps = Deps {
        env: Env::system(),
        store,
        validator: Arc::new(validator()),
        policy: BTreeMap::new(),
        auth_url: "http://localhost/v3".into(),
        hosts: vec![("host1".into(), plane.clone())],
        compute: None,
        options: Options::default(),
    };
    let service = start(deps).await.expect("service");
    Net { service, plane }
}

pub async fn net() -> Net {
    net_at(StoreUrl::Scratch).await
}

#[allow(dead_code, reason = "each test file uses a part")]
impl Net {
    pub async fn call(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let body: Body = body.map_or_else(empty, |b| full(b.to_string()));
        let req = Request::builder().method(method).uri(path).header("x-auth-token", token).body(body).expect("request");
        let r = self.service.api().call(req).await;
        let status = r.status().as_u16();
        let bytes = read_limited(r.into_body(), 64 << 20).await.expect("body");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        self.call(token, Method::GET, path, None).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> (u16, Value) {
        self.call(token, Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, token: &str, path: &str, body: Value) -> (u16, Value) {
        self.call(token, Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> u16 {
        self.call(token, Method::DELETE, path, None).await.0
    }

    /// Creates something and gives it back; the test ends when that fails.
    pub async fn make(&self, token: &str, singular: &str, path: &str, attrs: Value) -> Value {
        let (status, body) = self.post(token, path, json!({ singular: attrs })).await;
        assert_eq!(status, 201, "{path}: {body}");
        body[singular].clone()
    }

    pub async fn network(&self, token: &str) -> Value {
        self.make(token, "network", "/v2.0/networks", json!({"name": "n"})).await
    }

    pub async fn subnet(&self, token: &str, network: &Value, cidr: &str) -> Value {
        self.make(token, "subnet", "/v2.0/subnets", json!({"network_id": network["id"], "cidr": cidr, "ip_version": 4})).await
    }

    pub async fn public(&self) -> String {
        let p = PublicNetwork {
            project_id: ADMIN.into(),
            name: "public".into(),
            physical_network: "public".into(),
            cidr: "172.24.4.0/24".parse().expect("cidr"),
            gateway: "172.24.4.1".parse().expect("ip"),
            pool: Some(("172.24.4.10".parse().expect("ip"), "172.24.4.200".parse().expect("ip"))),
        };
        self.service.ensure_public_network(&p).await.expect("public")
    }
}

/// The error's type.
#[allow(dead_code, reason = "each test file uses a part")]
pub fn kind(body: &Value) -> &str {
    body["NeutronError"]["type"].as_str().unwrap_or("?")
}
