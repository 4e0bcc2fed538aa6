mod encrypted;
mod failures;
mod fake;
mod main_path;
mod real;

use super::*;
use crate::env::Authorizer;
use bytes::Bytes;
use caelum_base::{Clock, SeededRng, SystemClock};
use caelum_ring::{Device, Ring};
use caelum_swiftkit::Policies;
use fake::{Fake, Fault};
use http::HeaderMap;
use http_body_util::BodyExt;
use std::time::Duration;

const HASH_SUFFIX: &[u8] = b"test";

/// A ring of three replicas over devices that are each their own server.
fn ring(ports: &[u16]) -> Ring {
    let n = u32::try_from(ports.len()).unwrap();
    let device = |(i, port): (usize, &u16)| {
        Some(Device {
            id: u32::try_from(i).unwrap(),
            region: 1,
            zone: u32::try_from(i).unwrap() + 1,
            ip: "127.0.0.1".into(),
            port: *port,
            replication_ip: "127.0.0.1".into(),
            replication_port: *port,
            device: format!("d{i}"),
            weight: 1.0,
            meta: String::new(),
        })
    };
    let rows = (0..3).map(|r| (0..16).map(|p| (p + r) % n).collect()).collect();
    Ring::new(ports.iter().enumerate().map(device).collect(), rows, 4)
}

struct Cluster {
    proxy: Arc<Proxy>,
    servers: Vec<Fake>,
    swift: Arc<SwiftConf>,
    ring: Arc<Ring>,
    _handles: Vec<caelum_rest::ServerHandle>,
}

fn options() -> ProxyOptions {
    ProxyOptions {
        node_timeout: Duration::from_millis(300),
        recoverable_node_timeout: Duration::from_millis(300),
        client_timeout: Duration::from_millis(600),
        post_quorum_timeout: Duration::from_millis(100),
        ..ProxyOptions::default()
    }
}

impl Cluster {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: ProxyOptions) -> Self {
        Self::with_cache(options, None)
    }

    /// Another proxy over the same servers.
    fn sibling(&self, cache: Option<Arc<dyn Cache>>) -> Arc<Proxy> {
        let ports = [6_200, 6_201, 6_202, 6_203, 6_204];
        let nodes = Nodes::default();
        for (port, s) in ports.iter().zip(&self.servers) {
            nodes.set_local("127.0.0.1", *port, Arc::new(s.clone()));
        }
        Self::over(options(), nodes, self.servers.clone(), &ports, cache).proxy
    }

    fn with_cache(options: ProxyOptions, cache: Option<Arc<dyn Cache>>) -> Self {
        let nodes = Nodes::default();
        let servers: Vec<Fake> = (0..5).map(|_| Fake::default()).collect();
        let ports = [6_200, 6_201, 6_202, 6_203, 6_204];
        for (port, s) in ports.iter().zip(&servers) {
            nodes.set_local("127.0.0.1", *port, Arc::new(s.clone()));
        }
        Self::over(options, nodes, servers, &ports, cache)
    }

    /// The same with every server behind a socket.
    async fn over_http(options: ProxyOptions) -> Self {
        let servers: Vec<Fake> = (0..5).map(|_| Fake::default()).collect();
        let (mut ports, mut handles) = (Vec::new(), Vec::new());
        for s in &servers {
            let server = caelum_rest::Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            ports.push(server.addr().unwrap().port());
            handles.push(server.start(Arc::new(s.clone())).unwrap());
        }
        let mut c = Self::over(options, Nodes::default(), servers, &ports, None);
        c._handles = handles;
        assert_eq!(c.call("PUT", "/v1/a/c", &[], "").await.status, 201);
        c
    }

    fn over(options: ProxyOptions, nodes: Nodes, servers: Vec<Fake>, ports: &[u16], cache: Option<Arc<dyn Cache>>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let env = Env { clock, rng: Arc::new(SeededRng::new(7)) };
        let hash = caelum_swiftkit::HashPath { prefix: Vec::new(), suffix: HASH_SUFFIX.to_vec() };
        let swift = Arc::new(SwiftConf { hash, policies: Policies::default() });
        let rings = Rings::fixed(ring(ports), ring(ports), vec![(0, ring(ports))]);
        let proxy = Proxy::new(ProxyDeps { rings, nodes, swift: swift.clone(), env, options, cache });
        Self { proxy, servers, swift, ring: Arc::new(ring(ports)), _handles: Vec::new() }
    }

    /// The servers of an object's primaries, and the others in the order of handoffs.
    fn places(&self, object: &str) -> (Vec<Fake>, Vec<Fake>) {
        let part = self.ring.partition(&self.swift.hash.object("a", "c", object));
        let of = |d: &Device| self.servers[usize::try_from(d.id).unwrap()].clone();
        (self.ring.primaries(part).into_iter().map(of).collect(), self.ring.handoffs(part).map(of).collect())
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let body: Bytes = body.into();
        self.call_with(method, path, headers, caelum_rest::full(body), Environ { is_owner: true, ..anyone() }).await
    }

    async fn call_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body, environ: Environ) -> Answer {
        let mut req = Request::builder().method(method).uri(path);
        for (n, v) in headers {
            req = req.header(*n, *v);
        }
        let mut req = req.body(body).unwrap();
        req.extensions_mut().insert(environ);
        let (head, body) = self.proxy.call(req).await.into_parts();
        let collected = body.collect().await;
        let broken = collected.is_err();
        let body = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Answer { status: head.status.as_u16(), headers: head.headers, body, broken }
    }

    async fn with_container() -> Self {
        let c = Self::new();
        assert_eq!(c.call("PUT", "/v1/a/c", &[], "").await.status, 201);
        c
    }
}

fn anyone() -> Environ {
    Environ { is_owner: false, internal: false, ..Environ::internal("tx1", "") }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    broken: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Allows who is in the ACL: there is one caller, `bob`.
struct Bob;

#[async_trait::async_trait]
impl Authorizer for Bob {
    async fn authorize(&self, _: &Method, _: &str, _: &Environ, acl: Option<&str>) -> Option<Resp> {
        if acl.is_some_and(|a| a.split(',').any(|e| e == "bob")) { None } else { Some(error(403)) }
    }
}
