//! Where data lies: `/endpoints/[v1|v2/]account[/container[/object]]` lists the storage nodes' URLs, for programs that
//! compute beside the data. Nobody is asked who calls, so that it belongs into trusted networks only.

use crate::env::{Environ, Req, Resp, environ, quote};
use crate::http::{error, error_html, respond, set};
use crate::proxy::InfoSource;
use caelum_rest::{Body, HttpService};
use caelum_ring::{Ring, Rings};
use caelum_swiftkit::SwiftConf;
use caelum_swiftkit::python::{json_string, repr};
use futures_util::future::BoxFuture;
use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::sync::Arc;

/// The layer.
#[derive(Clone)]
pub struct ListEndpoints {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    rings: Rings,
    swift: Arc<SwiftConf>,
    /// With a slash at its end.
    path: String,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    second_form: bool,
    account: String,
    container: Option<String>,
    object: Option<String>,
}

/// The version that a part of the path names, as Python reads numbers.
fn version(text: &str) -> Option<bool> {
    match text.trim_start_matches('v').parse::<f64>().ok()? {
        1.0 => Some(false),
        2.0 => Some(true),
        _ => None,
    }
}

fn parse(path: &str) -> Result<Asked, String> {
    let none = || "No account specified".to_string();
    let (first, rest) = path.split_once('/').map_or((path, None), |(f, r)| (f, Some(r)));
    if first.is_empty() {
        return Err(none());
    }
    let (second_form, rest) = match version(first) {
        Some(second) => (second, rest.unwrap_or_default()),
        // It looks more like a version than like an account.
        None if first.starts_with('v') && !first.contains('_') => return Err(format!("Unsupported version {}", repr(first))),
        None => (false, path),
    };
    let mut parts = rest.splitn(3, '/').map(|p| p.to_string());
    let account = parts.next().filter(|a| !a.is_empty()).ok_or_else(none)?;
    Ok(Asked { second_form, account, container: parts.next(), object: parts.next() })
}

impl ListEndpoints {
    /// `path` is where the lists are asked for (`list_endpoints_path`).
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, rings: Rings, swift: Arc<SwiftConf>, path: &str) -> Self {
        let path = if path.ends_with('/') { path.to_string() } else { format!("{path}/") };
        Self { next, info, rings, swift, path }
    }

    async fn handle(self, method: Method, path: String, caller: Environ) -> Resp {
        if method != Method::GET {
            let mut r = error(405);
            set(r.headers_mut(), "allow", "GET");
            return r;
        }
        let asked = match parse(&path) {
            Ok(asked) => asked,
            Err(text) => return error_html(400, text),
        };
        let Asked { account, container, object, .. } = &asked;
        // An empty name is no name where hashes are made, and is still shown.
        let named = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
        let hash = match (named(container), named(object)) {
            (Some(c), Some(o)) => self.swift.hash.object(account, &c, &o),
            (Some(c), None) => self.swift.hash.container(account, &c),
            (None, Some(_)) => return error_html(400, "No container specified"),
            (None, None) => self.swift.hash.account(account),
        };
        let mut policy = None;
        let ring: Option<Arc<Ring>> = match (container, object) {
            (Some(container), Some(_)) => {
                let info = self.info.container_info(&caller.preauthorized("LE"), account, container).await;
                policy = Some(info.storage_policy);
                self.rings.object(info.storage_policy)
            }
            (Some(_), None) => Some(self.rings.container()),
            _ => Some(self.rings.account()),
        };
        let Some(ring) = ring else { return error(503) };
        let partition = ring.partition(&hash);
        let names: Vec<String> = [Some(account), container.as_ref(), object.as_ref()].into_iter().flatten().map(|n| quote(n)).collect();
        let names = names.join("/");
        let url = |d: &caelum_ring::Device| Value::from(format!("http://{}:{}/{}/{partition}/{names}", d.ip, d.port, d.device));
        let endpoints: Vec<Value> = ring.primaries(partition).into_iter().map(url).collect();
        let answer = if asked.second_form {
            let headers = policy.map_or_else(|| json!({}), |p| json!({"X-Backend-Storage-Policy-Index": p.to_string()}));
            json!({"endpoints": endpoints, "headers": headers})
        } else {
            Value::from(endpoints)
        };
        respond(200, "application/json", json_string(&answer))
    }
}

impl HttpService for ListEndpoints {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let decoded = percent_decode_str(req.uri().path()).decode_utf8_lossy();
        let (Some(rest), Some(caller)) = (decoded.strip_prefix(&self.path), environ(&req)) else { return self.next.call(req) };
        Box::pin(self.clone().handle(req.method().clone(), rest.to_string(), caller.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{ContainerInfo, FixedInfo};
    use caelum_ring::Device;
    use caelum_swiftkit::{HashPath, Policies};
    use http::Request;
    use http_body_util::BodyExt;

    struct Nothing;
    impl HttpService for Nothing {
        fn call(&self, _: Req) -> BoxFuture<'static, Resp> {
            Box::pin(async { error(404) })
        }
    }

    /// Four devices, the first of a partition's three being its number plus `offset`.
    fn ring(offset: u32) -> Ring {
        let device = |i: u32| {
            Some(Device { id: i, ip: format!("10.1.{i}.1"), port: 6200, device: format!("sda{i}"), weight: 1.0, ..Device::default() })
        };
        let row = |r: u32| (0..4).map(|p| (p + offset + r) % 4).collect();
        Ring::new((0..4).map(device).collect(), (0..3).map(row).collect(), 2)
    }

    async fn ask(method: &str, path: &str) -> (u16, String) {
        let swift = SwiftConf { hash: HashPath { prefix: Vec::new(), suffix: b"endcap".to_vec() }, policies: Policies::default() };
        let info = FixedInfo::default();
        info.set_container("a", "c", ContainerInfo::absent(204));
        let rings = Rings::fixed(ring(0), ring(1), vec![(0, ring(2))]);
        let layer = ListEndpoints::new(Arc::new(Nothing), Arc::new(info), rings, Arc::new(swift), "/endpoints");
        let mut req = Request::builder().method(method).uri(path).body(caelum_rest::empty()).unwrap();
        req.extensions_mut().insert(Environ::internal("tx", ""));
        let (parts, body) = layer.call(req).await.into_parts();
        (parts.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// Answers as Swift 2.38 gives them for the same rings.
    #[tokio::test]
    async fn endpoints() {
        let list = |at: &str, devices: [u32; 3]| {
            let urls = devices.map(|d| format!("\"http://10.1.{d}.1:6200/sda{d}/{at}\""));
            format!("[{}]", urls.join(", "))
        };
        assert_eq!(ask("GET", "/endpoints/a").await, (200, list("0/a", [0, 1, 2])));
        assert_eq!(ask("GET", "/endpoints/v1/a/c").await, (200, list("0/a/c", [1, 2, 3])));
        assert_eq!(ask("GET", "/endpoints/v1.0/a%2Fb/c/").await, (200, list("3/a/b/c/", [1, 2, 3])));
        assert_eq!(ask("GET", "/endpoints/v_3/a").await, (200, list("1/v_3/a", [2, 3, 0])));
        let second =
            format!("{{\"endpoints\": {}, \"headers\": {{\"X-Backend-Storage-Policy-Index\": \"0\"}}}}", list("0/a/c/o%20/x", [2, 3, 0]));
        assert_eq!(ask("GET", "/endpoints/v2/a/c/o%20/x").await, (200, second));
        for path in ["/endpoints/v2", "/endpoints/", "/endpoints//a"] {
            assert_eq!(ask("GET", path).await, (400, "No account specified".into()), "{path}");
        }
        assert_eq!(ask("GET", "/endpoints/v3/a").await, (400, "Unsupported version 'v3'".into()));
        assert_eq!(ask("POST", "/endpoints/a").await.0, 405);
        assert_eq!(ask("GET", "/endpoints").await.0, 404);
    }
}
