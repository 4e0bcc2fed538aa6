//! A block storage service with a fake image service and a fake compute service.

use crate::{Deps, Options, Service, driver, start};
use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::{Env, Result, Secret};
use caelum_client::{Locals, ServiceClient, TokenSource};
use caelum_rest::{Body, HttpService, StaticValidator, empty, full, read_limited};
use caelum_store::StoreUrl;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

pub const P1: &str = "11111111111111111111111111111111";
pub const P2: &str = "22222222222222222222222222222222";

/// Images by id: the record and the data.
#[derive(Default)]
pub struct Images(pub Mutex<HashMap<String, (Value, Bytes)>>);

impl Images {
    pub fn add(&self, id: &str, format: &str, data: &[u8], hashed: &[u8]) {
        // A raw disk has at least one sector.
        let pad = |bytes: &[u8]| bytes.iter().copied().chain(std::iter::repeat(0)).take(bytes.len().max(512)).collect::<Vec<u8>>();
        let (data, hashed) = (pad(data), pad(hashed));
        let digest: String = Sha512::digest(&hashed).iter().map(|b| format!("{b:02x}")).collect();
        let record = json!({"id": id, "status": "active", "name": "img", "disk_format": format, "container_format": "bare",
            "size": data.len(), "min_disk": 0, "min_ram": 0, "os_hash_algo": "sha512", "os_hash_value": digest, "hw_disk_bus": "virtio"});
        self.0.lock().unwrap().insert(id.into(), (record, data.into()));
    }
}

fn answer(status: u16, v: &Value) -> Response<Body> {
    Response::builder().status(status).header("content-type", "application/json").body(full(v.to_string())).unwrap()
}

pub struct FakeImage(pub Arc<Images>);

impl HttpService for FakeImage {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let images = self.0.clone();
        Box::pin(async move {
            let (method, path) = (req.method().clone(), req.uri().path().to_string());
            let parts: Vec<&str> = path.trim_start_matches("/v2/images").trim_matches('/').split('/').collect();
            if method == Method::POST {
                let mut v: Value = serde_json::from_slice(&read_limited(req.into_body(), 1 << 20).await.unwrap()).unwrap();
                let id = Env::system().uuid();
                v["id"] = json!(id);
                v["status"] = json!("queued");
                images.0.lock().unwrap().insert(id, (v.clone(), Bytes::new()));
                return answer(201, &v);
            }
            if method == Method::PUT {
                let data = read_limited(req.into_body(), 2 << 30).await.unwrap();
                let mut all = images.0.lock().unwrap();
                let Some(i) = all.get_mut(parts[0]) else { return answer(404, &json!({"message": "no"})) };
                i.0["status"] = json!("active");
                i.1 = data;
                return Response::builder().status(204).body(empty()).unwrap();
            }
            let mut all = images.0.lock().unwrap();
            if method == Method::DELETE {
                all.remove(parts[0]);
                return Response::builder().status(204).body(empty()).unwrap();
            }
            match (all.get(parts[0]), parts.get(1)) {
                (Some((_, data)), Some(_)) => Response::builder().body(full(data.clone())).unwrap(),
                (Some((record, _)), None) => answer(200, record),
                (None, _) => answer(404, &json!({"message": "No image found"})),
            }
        })
    }
}

/// Knows which (server, volume) pairs compute itself has attached.
#[derive(Default)]
pub struct FakeCompute(pub Arc<Mutex<HashSet<(String, String)>>>);

impl HttpService for FakeCompute {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let known = self.0.clone();
        Box::pin(async move {
            let parts: Vec<String> = req.uri().path().split('/').map(String::from).collect();
            let found = parts.len() == 6 && known.lock().unwrap().contains(&(parts[3].clone(), parts[5].clone()));
            if found {
                answer(200, &json!({"volumeAttachment": {"serverId": parts[3]}}))
            } else {
                answer(404, &json!({"itemNotFound": {"message": "no"}}))
            }
        })
    }
}

struct OneToken;

#[async_trait]
impl TokenSource for OneToken {
    async fn token(&self) -> Result<Secret<String>> {
        Ok(Secret::new("svc".into()))
    }
    async fn forget(&self) {}
}

pub struct World {
    pub service: Service,
    pub images: Arc<Images>,
    pub attached: Arc<Mutex<HashSet<(String, String)>>>,
    pub dir: tempfile::TempDir,
}

pub async fn world() -> World {
    world_with(true).await
}

pub async fn world_with(reflink: bool) -> World {
    let dir = tempfile::tempdir().unwrap();
    let images = Arc::new(Images::default());
    let attached = Arc::new(Mutex::new(HashSet::new()));
    let locals = Arc::new(Locals::default());
    locals.set("image", Arc::new(FakeImage(images.clone())));
    locals.set("compute", Arc::new(FakeCompute(attached.clone())));
    let client = |name: &'static str| ServiceClient::new(name, locals.transport(name, "http://peer"), Arc::new(OneToken));
    let validator = StaticValidator::default()
        .with("admin", P1, &["admin", "member", "reader"])
        .with("svc", "99999999999999999999999999999999", &["admin", "service"])
        .with("member", P1, &["member", "reader"])
        .with("reader", P1, &["reader"])
        .with("other", P2, &["member", "reader"]);
    let deps = Deps {
        env: Env::system(),
        store: StoreUrl::Scratch,
        validator: Arc::new(validator),
        policy: BTreeMap::new(),
        auth_url: "http://id".into(),
        node: "node1".into(),
        image: client("image"),
        compute: Some(client("compute")),
        dir: dir.path().to_path_buf(),
        options: Options { driver: driver::Options { reflink }, ..Options::default() },
    };
    World { service: start(deps).await.unwrap(), images, attached, dir }
}

impl World {
    pub async fn call(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut b = Request::builder().method(method).uri(path).header("content-type", "application/json");
        b = b.header("openstack-api-version", "volume 3.71");
        if !token.is_empty() {
            b = b.header("x-auth-token", token);
        }
        let body = body.map_or_else(empty, |v| full(v.to_string()));
        let r = self.service.api().call(b.body(body).unwrap()).await;
        let status = r.status().as_u16();
        let bytes = read_limited(r.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn idle(&self) {
        let wait = self.service.state().flows.idle();
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap().unwrap();
    }

    /// A volume that is available.
    pub async fn volume(&self, token: &str, extra: Value) -> String {
        let mut v = json!({"size": 1, "name": "v"});
        for (k, x) in extra.as_object().unwrap() {
            v[k] = x.clone();
        }
        let (status, body) = self.call(token, "POST", "/v3/volumes", Some(json!({"volume": v}))).await;
        assert_eq!(status, 202, "{body}");
        self.idle().await;
        let id = body["volume"]["id"].as_str().unwrap().to_string();
        // Shown only when the test fails.
        println!("{:?}", self.service.why(&id).await);
        id
    }

    pub async fn status(&self, id: &str) -> String {
        let (_, body) = self.call("admin", "GET", &format!("/v3/volumes/{id}"), None).await;
        body["volume"]["status"].as_str().unwrap_or("gone").to_string()
    }

    pub fn files(&self) -> Vec<String> {
        let mut out = Vec::new();
        for d in ["volumes", "backups"] {
            for e in std::fs::read_dir(self.dir.path().join(d)).unwrap() {
                out.push(e.unwrap().file_name().into_string().unwrap());
            }
        }
        out.sort();
        out
    }

    pub fn read(&self, name: &str, n: usize) -> Vec<u8> {
        use std::io::Read;
        let mut f = std::fs::File::open(self.dir.path().join("volumes").join(name)).unwrap();
        let mut out = vec![0; n];
        f.read_exact(&mut out).unwrap();
        out
    }
}
