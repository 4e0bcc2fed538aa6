//! An image service with two projects, an administrator and a reader.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use bytes::Bytes;
use caelum_base::Env;
use caelum_image::{Deps, Options, Service, start_with};
use caelum_rest::{Body, StaticValidator, full, read_limited};
use caelum_store::StoreUrl;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

pub const V21: &str = "application/openstack-images-v2.1-json-patch";

pub struct Cloud {
    pub service: Service,
    pub dir: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

pub async fn serve(dir: PathBuf, store: StoreUrl, max_size: u64, options: Options) -> Service {
    let members = ["member", "reader"];
    let validator = StaticValidator::default().with("a", "pa", &members).with("b", "pb", &members).with("reader", "pa", &["reader"]).with(
        "admin",
        "padmin",
        &["admin", "member", "reader"],
    );
    let deps = Deps {
        env: Env::system(),
        store,
        validator: Arc::new(validator),
        policy: Default::default(),
        auth_url: String::new(),
        dir,
        max_size,
    };
    start_with(deps, options).await.expect("start")
}

/// SQLite, or an empty schema of the PostgreSQL server that `CAELUM_TEST_PG_URL` names (then run with
/// `--test-threads=1`: there is one schema).
async fn store() -> StoreUrl {
    let Ok(url) = std::env::var("CAELUM_TEST_PG_URL") else { return StoreUrl::Scratch };
    let url = StoreUrl::Postgres(caelum_base::Secret::new(url));
    let admin = caelum_store::Db::open(&url, "scratch", &[]).await.expect("postgresql");
    admin.write(|tx| tx.exec("DROP SCHEMA IF EXISTS caelum_image CASCADE", &[])).await.expect("drop");
    url
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(1 << 30, Options::default()).await
    }

    pub async fn with(max_size: u64, options: Options) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let service = serve(dir.path().join("images"), store().await, max_size, options).await;
        Self { service, dir }
    }

    pub async fn send(&self, token: &str, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut req = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            req = req.header("x-auth-token", token);
        }
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let r = self.service.api().call(req.body(body).expect("request")).await;
        let (parts, body) = r.into_parts();
        let body = read_limited(body, 64 << 20).await.expect("body");
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn raw(&self, token: &str, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.send(token, method, path, headers, full(body)).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.raw(token, Method::GET, path, &[], "").await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.raw(token, Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.raw(token, Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn patch(&self, token: &str, path: &str, media: &str, body: Value) -> Answer {
        self.raw(token, Method::PATCH, path, &[("content-type", media)], body.to_string()).await
    }

    /// Uploads or stages (`tail` is `file` or `stage`).
    pub async fn data(&self, token: &str, id: &str, tail: &str, bytes: impl Into<Bytes>) -> Answer {
        self.raw(token, Method::PUT, &format!("/v2/images/{id}/{tail}"), &[("content-type", "application/octet-stream")], bytes).await
    }

    /// A new image; formats default to raw in bare.
    pub async fn image(&self, token: &str, attributes: Value) -> String {
        let mut body = json!({"disk_format": "raw", "container_format": "bare"});
        body.as_object_mut().expect("object").extend(attributes.as_object().expect("object").clone());
        let r = self.post(token, "/v2/images", body).await;
        assert_eq!(r.status, 201, "{:?}", r.body);
        r.json()["id"].as_str().expect("id").to_string()
    }

    pub async fn show(&self, token: &str, id: &str) -> Value {
        self.get(token, &format!("/v2/images/{id}")).await.json()
    }

    /// Names of a list, joined by spaces.
    pub async fn names(&self, token: &str, query: &str) -> String {
        let r = self.get(token, &format!("/v2/images?{query}")).await;
        assert_eq!(r.status, 200, "{:?}", r.body);
        let v = r.json();
        let names: Vec<&str> = v["images"].as_array().expect("images").iter().map(|i| i["name"].as_str().unwrap_or("-")).collect();
        names.join(" ")
    }

    /// Files in the data directory, those coming in included.
    pub fn files(&self) -> Vec<String> {
        let dir = self.dir.path().join("images");
        let list = |d: PathBuf| std::fs::read_dir(d).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut out: Vec<String> = list(dir.clone()).filter(|n| n != "incoming").collect();
        out.extend(list(dir.join("incoming")));
        out.sort();
        out
    }

    /// Waits until so many files are left: a failed import removes its file after telling.
    pub async fn until_files(&self, n: usize) {
        let wait = async {
            while self.files().len() != n {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("the files in time");
    }

    /// Waits until the image's status is one of these.
    pub async fn until(&self, id: &str, statuses: &[&str]) -> Value {
        let wait = async {
            loop {
                let v = self.show("admin", id).await;
                if statuses.contains(&v["status"].as_str().unwrap_or("gone")) {
                    return v;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("the status in time")
    }
}
