//! A store of three nodes on temporary directories, with the pipeline in front of it.

use bytes::Bytes;
use caelum_base::{Env, SystemClock, SystemRng};
use caelum_object::auth::TempAuthOptions;
use caelum_object::env::Req;
use caelum_object::middleware::digest::DigestName;
use caelum_object::middleware::tempurl::sign;
use caelum_object::pipeline::{Deps, Options, start};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer, ContainerServerConfig, ObjectServer, ObjectServerConfig};
use caelum_rest::{Body, HttpService, Server, ServerHandle};
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{HashPath, Nodes, Policies, SwiftConf};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use std::sync::Arc;

pub struct Cloud {
    pub api: Arc<dyn HttpService>,
    pub dir: tempfile::TempDir,
    /// Tokens of the owners of the accounts `AUTH_a` and `AUTH_b`, of another user of `a` without any role there, and
    /// of the reseller's administrator.
    pub a: String,
    pub b: String,
    pub guest: String,
    pub reseller: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap_or("(no text)"))
    }
}

fn ring(first: u16) -> Ring {
    let device = |i: u16| Device {
        id: i.into(),
        region: 1,
        zone: u32::from(i) + 1,
        ip: "127.0.0.1".into(),
        port: first + i,
        device: "sda".into(),
        weight: 1.0,
        ..Device::default()
    };
    let rows = (0..3).map(|r| (0..16).map(|p| (p + r) % 3).collect()).collect();
    Ring::new((0..3).map(|i| Some(device(i))).collect(), rows, 4)
}

fn tempauth() -> TempAuthOptions {
    let option = |k: &str, v: &str| (k.to_string(), v.to_string());
    TempAuthOptions::from_options(&[
        option("user_a_owner", "secret .admin"),
        option("user_a_guest", "secret"),
        option("user_b_owner", "secret .admin"),
        option("user_root_root", "secret .admin .reseller_admin"),
    ])
    .unwrap()
}

pub fn now() -> i128 {
    i128::from(Env::system().now().secs())
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng) };
        let hash = HashPath { prefix: Vec::new(), suffix: b"attack".to_vec() };
        let swift = Arc::new(SwiftConf { hash, policies: Policies::default() });
        let nodes = Nodes::default();
        for i in 0..3 {
            let devices = dir.path().join(format!("n{i}"));
            std::fs::create_dir_all(devices.join("sda")).unwrap();
            let db = || AccountServerConfig::new(&devices, (*swift).clone(), nodes.clone(), env.clone());
            nodes.set_local("127.0.0.1", 6_100 + i, AccountServer::new(db()).service());
            let container: ContainerServerConfig = db();
            nodes.set_local("127.0.0.1", 6_120 + i, ContainerServer::new(container).service());
            let mut object = ObjectServerConfig::new(&devices, swift.clone(), nodes.clone(), env.clone());
            object.disk.mount_check = false;
            nodes.set_local("127.0.0.1", 6_140 + i, ObjectServer::new(object));
        }
        let rings = Rings::fixed(ring(6_100), ring(6_120), vec![(0, ring(6_140))]);
        let mut options = Options { tempauth: Some(tempauth()), ..Options::default() };
        change(&mut options);
        let deps = Deps { env, rings, nodes, swift, cache: None, validator: None, options, before_auth: None };
        let service = start(deps).unwrap();
        let mut this = Self { api: service.api(), dir, a: String::new(), b: String::new(), guest: String::new(), reseller: String::new() };
        this.a = this.login("a:owner").await;
        this.b = this.login("b:owner").await;
        this.guest = this.login("a:guest").await;
        this.reseller = this.login("root:root").await;
        for (token, account) in [(&this.a, "AUTH_a"), (&this.b, "AUTH_b")] {
            let made = this.call("PUT", &format!("/v1/{account}/c"), &[("x-auth-token", token)], "").await;
            assert_eq!(made.status, 201, "{}", made.text());
        }
        this
    }

    async fn login(&self, user: &str) -> String {
        let answer = self.call("GET", "/auth/v1.0", &[("x-auth-user", user), ("x-auth-key", "secret")], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-auth-token").unwrap().to_string()
    }

    pub async fn send(&self, req: Req) -> Answer {
        let (parts, body) = self.api.call(req).await.into_parts();
        let body = body.collect().await.expect("no answer breaks off").to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let body: Bytes = body.into();
        let mut req = Request::builder().method(method).uri(target).header("host", "store.example");
        if !matches!(method, "GET" | "HEAD") {
            req = req.header("content-length", body.len());
        }
        for (name, value) in headers {
            req = req.header(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        self.send(req.body(caelum_rest::full(body)).unwrap()).await
    }

    /// A body of unknown length.
    pub async fn stream(&self, method: &str, target: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut req = Request::builder().method(method).uri(target).header("transfer-encoding", "chunked");
        for (name, value) in headers {
            req = req.header(*name, *value);
        }
        self.send(req.body(body).unwrap()).await
    }

    /// As the owner of `AUTH_a`.
    pub async fn as_a(&self, method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([("x-auth-token", self.a.as_str())]).collect();
        self.call(method, target, &all, body).await
    }

    pub async fn as_b(&self, method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([("x-auth-token", self.b.as_str())]).collect();
        self.call(method, target, &all, body).await
    }

    /// Names in a container of `AUTH_a`.
    pub async fn names(&self, container: &str) -> Vec<String> {
        let listing = self.as_a("GET", &format!("/v1/AUTH_a/{container}?format=json"), &[], "").await;
        assert_eq!(listing.status, 200, "{}", listing.text());
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&listing.body).unwrap();
        rows.iter().map(|r| r["name"].as_str().unwrap().to_string()).collect()
    }

    /// Sets the account's key for temporary URLs.
    pub async fn set_key(&self) {
        let answer = self.as_a("POST", "/v1/AUTH_a", &[("x-account-meta-temp-url-key", "key")], "").await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// A temporary URL for an hour.
    pub fn temp_url(&self, method: &str, path: &str) -> String {
        let expires = now() + 3_600;
        let sig = sign(DigestName::Sha256, "key", method, path, expires, None);
        format!("{path}?temp_url_sig={sig}&temp_url_expires={expires}")
    }

    /// Behind a socket.
    pub async fn serve(&self) -> ServerHandle {
        Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(self.api.clone()).unwrap()
    }
}
