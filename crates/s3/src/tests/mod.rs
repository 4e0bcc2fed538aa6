//! The layer over copies, large objects, versions and a store in memory.

mod access;
mod locks;
mod objects;
mod ossa;
mod settings;

use crate::sign::sign;
use crate::{Key, S3Deps, S3Layer, S3Options, StaticCredentials};
use caelum_base::{Env, ManualClock, Secret, SeededRng, Timestamp};
use caelum_object::env::{Authorizer, Caller, Environ, Req, Resp};
use caelum_object::middleware::{Copy, ObjectLock, ObjectVersioning, Slo, SloConfig, Symlink};
use caelum_object::testing::FakeStore;
use caelum_rest::HttpService;
use caelum_swiftkit::{HashPath, Policies};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const SECRET: &str = "secret";

pub struct Cloud {
    pub store: FakeStore,
    pub layer: Arc<S3Layer>,
    pub clock: Arc<ManualClock>,
}

/// Who has passed the layer without its say-so is refused here.
struct Refuse;

#[async_trait::async_trait]
impl Authorizer for Refuse {
    async fn authorize(&self, _: &Method, _: &str, _: &Environ, _: Option<&str>) -> Option<Resp> {
        Some(caelum_object::http::error(403))
    }
}

fn key(project: &str, user: &str, is_owner: bool) -> Key {
    let caller = Caller {
        user_id: format!("{user}-id"),
        user_name: user.into(),
        project_id: Some(project.into()),
        project_name: Some(format!("{project}-name")),
        user_domain_id: Some("default".into()),
        project_domain_id: Some("default".into()),
        ..Caller::default()
    };
    Key { secret: Secret::new(SECRET.into()), caller, account: format!("AUTH_{project}"), is_owner }
}

impl Cloud {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut S3Options)) -> Self {
        let store = FakeStore::new();
        let clock = Arc::new(ManualClock::at(Timestamp::parse("2020-09-13T12:00:00Z").unwrap()));
        let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(7)) };
        let info = Arc::new(store.clone());
        let mut at: Arc<dyn HttpService> = Arc::new(ObjectLock::new(store.service(), info.clone(), env.clone()));
        at = Arc::new(Symlink::new(at));
        at = Arc::new(ObjectVersioning::new(at, info.clone(), Arc::new(Policies::default()), env.clone()));
        let hash = HashPath { prefix: Vec::new(), suffix: b"endcap".to_vec() };
        at = Arc::new(Slo::new(at, info, hash, env.clone(), SloConfig { allow_async_delete: false, ..SloConfig::default() }));
        at = Arc::new(Copy::new(at));
        let keys = [("owner", key("p1", "alice", true)), ("reader", key("p1", "bob", false)), ("other", key("p2", "carol", true))];
        let credentials = StaticCredentials(keys.into_iter().map(|(n, k)| (n.to_string(), k)).collect::<HashMap<_, _>>());
        let mut options = S3Options { min_part_size: 5, ..S3Options::default() };
        change(&mut options);
        let layer = S3Layer::build(at, S3Deps { env, credentials: Arc::new(credentials), info: None, options });
        Self { store, layer, clock }
    }

    fn now(&self) -> Timestamp {
        use caelum_base::Clock;
        self.clock.now()
    }

    /// Sends a request signed by `who`; an empty name signs nothing.
    pub async fn send(&self, who: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let body = body.to_string().into_bytes();
        let req = self.request(method, target, headers, &body);
        let req = if who.is_empty() { req } else { sign(req, who, SECRET, self.now(), &body) };
        self.raw(req).await
    }

    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Req {
        let mut b = Request::builder().method(method).uri(target).header("host", "s3.test");
        for (k, v) in headers {
            b = b.header(*k, *v);
        }
        if !matches!(method, "GET" | "HEAD") && !headers.iter().any(|(k, _)| *k == "content-length") {
            b = b.header("content-length", body.len());
        }
        let mut req = b.body(caelum_rest::full(body.to_vec())).unwrap();
        let remote: IpAddr = "192.0.2.1".parse().unwrap();
        let environ =
            Environ { internal: false, authorizer: Some(Arc::new(Refuse)), remote: Some(remote), ..Environ::internal("tx-test", "") };
        req.extensions_mut().insert(environ);
        req
    }

    /// As Swift's API, by whoever owns the account.
    pub async fn swift(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut req = self.request(method, target, headers, body.as_bytes());
        let environ = Environ { internal: false, ..Environ::internal("tx-test", "") };
        req.extensions_mut().insert(environ);
        self.raw(req).await
    }

    pub async fn raw(&self, req: Req) -> Answer {
        let is_head = req.method() == Method::HEAD;
        let (parts, body) = self.layer.call(req).await.into_parts();
        let text = body
            .collect()
            .await
            .map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned())
            .unwrap_or_else(|e| format!("broken off: {e}"));
        if let Some(n) = parts.headers.get("content-length").filter(|_| !is_head && parts.status != 304) {
            assert_eq!(n.to_str().unwrap(), text.len().to_string(), "{text}");
        }
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// As the owner; panics unless it succeeds.
    pub async fn ok(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let a = self.send("owner", method, target, headers, body).await;
        assert!((200..300).contains(&a.status), "{method} {target}: {} {}", a.status, a.text);
        a
    }

    pub async fn code(&self, who: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
        let a = self.send(who, method, target, headers, body).await;
        a.code()
    }

    pub fn later(&self, d: Duration) {
        self.clock.advance(d);
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The first element of this name.
    pub fn tag(&self, name: &str) -> Option<String> {
        let rest = self.text.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_string())
    }

    pub fn tags(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        self.text.split(&open).skip(1).filter_map(|r| r.split_once(&close).map(|(t, _)| t.to_string())).collect()
    }

    /// `200`, or the code of the refusal.
    pub fn code(&self) -> String {
        if self.status < 400 { self.status.to_string() } else { self.tag("Code").unwrap_or_else(|| self.status.to_string()) }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}
