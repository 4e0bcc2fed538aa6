//! Figures of a release build against simulated hosts: starts the program given as the first argument
//! on a scratch directory, loads it over real sockets, prints one line per figure.
//!
//! The load runs on the same machine, so a figure is a lower bound of what the program alone could do.

use caelum_client::{HttpTransport, Transport};
use caelum_rest::{full, read_limited};
use http::{Method, Request};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Cloud {
    child: Child,
    base: String,
    dir: tempfile::TempDir,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // The process is ours; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone)]
struct Caller {
    http: Arc<HttpTransport>,
    token: Arc<str>,
}

impl Caller {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Option<String>, Value) {
        let mut req = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", &*self.token)
            .header("openstack-api-version", "compute 2.90");
        if body.is_some() {
            req = req.header("content-type", "application/json");
        }
        let body = body.map_or_else(caelum_rest::empty, |b| full(b.to_string()));
        let response = self.http.send(req.body(body).expect("request")).await.expect("answer");
        let (parts, body) = response.into_parts();
        let bytes = read_limited(body, 256 << 20).await.expect("body");
        let token = parts.headers.get("x-subject-token").and_then(|v| v.to_str().ok()).map(String::from);
        (parts.status.as_u16(), token, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

impl Caller {
    /// Length of the answer's body.
    async fn bytes(&self, path: &str) -> usize {
        let req = Request::get(path).header("x-auth-token", &*self.token).header("openstack-api-version", "compute 2.90");
        let response = self.http.send(req.body(caelum_rest::empty()).expect("request")).await.expect("answer");
        assert_eq!(response.status().as_u16(), 200);
        read_limited(response.into_body(), 256 << 20).await.expect("body").len()
    }
}

fn start(program: &Path) -> Cloud {
    let dir = tempfile::tempdir().expect("scratch directory");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("address");
    drop(listener);
    let child = run(program, dir.path(), &addr.to_string());
    Cloud { child, base: format!("http://{addr}"), dir }
}

fn run(program: &Path, dir: &Path, addr: &str) -> Child {
    let log = std::fs::File::create(dir.join("figures.log")).expect("log");
    let mut command = Command::new(program);
    command.args(["serve", "--hypervisor", "sim", "--listen", addr, "--data"]).arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
    command.spawn().expect("the program starts")
}

/// Seconds until every API answers.
async fn until_up(base: &str) -> f64 {
    let started = Instant::now();
    let http = HttpTransport::new(base);
    for path in ["/identity/v3", "/image/versions", "/placement/", "/compute/", "/network/", "/volume/"] {
        loop {
            let req = Request::get(path).body(caelum_rest::empty()).expect("request");
            match http.send(req).await {
                Ok(r) if r.status().as_u16() < 400 => break,
                _ if started.elapsed() > Duration::from_secs(30) => panic!("{path} does not answer"),
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }
    started.elapsed().as_secs_f64()
}

fn rss_mb(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = text
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse::<f64>().ok());
    kb.unwrap_or(f64::NAN) / 1024.0
}

async fn login(cloud: &Cloud, user: &str) -> Caller {
    let password = std::fs::read_to_string(cloud.dir.path().join(format!("secrets/{user}-password"))).expect("password");
    let anonymous = Caller { http: Arc::new(HttpTransport::new(&cloud.base)), token: "".into() };
    let body = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password.trim()}}},
        "scope": {"project": {"name": user, "domain": {"id": "default"}}},
    }});
    let (status, token, _) = anonymous.call(Method::POST, "/identity/v3/auth/tokens", Some(body)).await;
    assert_eq!(status, 201, "login");
    Caller { http: anonymous.http, token: token.expect("token").into() }
}

/// Runs `job(i)` for `i < n` from `clients` tasks; gives jobs per second and sorted latencies in seconds.
async fn load<F, Fut>(clients: usize, n: u64, job: F) -> (f64, Vec<f64>)
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (next, job) = (next.clone(), job.clone());
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    return times;
                }
                let t = Instant::now();
                job(i).await;
                times.push(t.elapsed().as_secs_f64());
            }
        }));
    }
    let mut all = Vec::new();
    for t in tasks {
        all.extend(t.await.expect("client"));
    }
    all.sort_by(f64::total_cmp);
    (n as f64 / started.elapsed().as_secs_f64(), all)
}

fn quantile_ms(sorted: &[f64], q: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * q).round().max(0.0);
    // `at` is an index of the slice.
    sorted.get(at as usize).copied().unwrap_or(f64::NAN) * 1000.0
}

fn show(name: &str, value: f64, unit: &str, goal: &str) {
    println!("{name:48} {value:10.2} {unit:12} goal {goal}");
}

async fn validate(admin: &Caller) {
    let job = {
        let admin = admin.clone();
        move |_| {
            let admin = admin.clone();
            async move {
                let req =
                    Request::get("/identity/v3/auth/tokens").header("x-auth-token", &*admin.token).header("x-subject-token", &*admin.token);
                let r = admin.http.send(req.body(caelum_rest::empty()).expect("request")).await.expect("answer");
                assert_eq!(r.status().as_u16(), 200);
                let _ = read_limited(r.into_body(), 1 << 20).await;
            }
        }
    };
    load(16, 2_000, job.clone()).await;
    let (rate, times) = load(32, 60_000, job).await;
    show("token validation over HTTP, 32 clients", rate, "/s", "15000");
    show("  p99", quantile_ms(&times, 0.99), "ms", "-");
}

async fn raise_quotas(admin: &Caller, project: &str) {
    let body = json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1}});
    let (status, _, v) = admin.call(Method::PUT, &format!("/compute/v2.1/os-quota-sets/{project}"), Some(body)).await;
    assert_eq!(status, 200, "{v}");
    let body = json!({"quota": {"port": -1}});
    let (status, _, v) = admin.call(Method::PUT, &format!("/network/v2.0/quotas/{project}"), Some(body)).await;
    assert_eq!(status, 200, "{v}");
}

async fn network(caller: &Caller) -> String {
    let (status, _, v) = caller.call(Method::POST, "/network/v2.0/networks", Some(json!({"network": {"name": "figures"}}))).await;
    assert_eq!(status, 201, "{v}");
    let id = v["network"]["id"].as_str().expect("id").to_string();
    let body = json!({"subnet": {"network_id": id, "ip_version": 4, "cidr": "10.0.0.0/16"}});
    assert_eq!(caller.call(Method::POST, "/network/v2.0/subnets", Some(body)).await.0, 201);
    id
}

async fn ports(caller: &Caller, network: &str) {
    let (caller, network) = (caller.clone(), network.to_string());
    let (rate, times) = load(8, 5_000, move |_| {
        let (caller, body) = (caller.clone(), json!({"port": {"network_id": network}}));
        async move {
            let (status, _, v) = caller.call(Method::POST, "/network/v2.0/ports", Some(body)).await;
            assert_eq!(status, 201, "{v}");
        }
    })
    .await;
    show("port create, 8 clients", rate, "/s", "1000");
    show("  p99", quantile_ms(&times, 0.99), "ms", "-");
}

async fn image(admin: &Caller) -> String {
    let body = json!({"name": "figures", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
    let (status, _, v) = admin.call(Method::POST, "/image/v2/images", Some(body)).await;
    assert_eq!(status, 201, "{v}");
    let id = v["id"].as_str().expect("id").to_string();
    let req = Request::put(format!("/image/v2/images/{id}/file"))
        .header("x-auth-token", &*admin.token)
        .header("content-type", "application/octet-stream");
    let r = admin.http.send(req.body(full(vec![0u8; 1 << 20])).expect("request")).await.expect("answer");
    assert_eq!(r.status().as_u16(), 204);
    id
}

async fn servers(caller: &Caller, image: &str, network: &str, n: u64) {
    let (_, _, flavors) = caller.call(Method::GET, "/compute/v2.1/flavors", None).await;
    let flavor = flavors["flavors"][0]["id"].as_str().expect("flavor").to_string();
    let body = json!({"server": {"name": "figures", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network}]}});
    let shared = caller.clone();
    let (rate, times) = load(16, n, move |_| {
        let (caller, body) = (shared.clone(), body.clone());
        async move {
            let (status, _, v) = caller.call(Method::POST, "/compute/v2.1/servers", Some(body)).await;
            assert_eq!(status, 202, "{v}");
            let path = format!("/compute/v2.1/servers/{}", v["server"]["id"].as_str().expect("id"));
            loop {
                let (_, _, v) = caller.call(Method::GET, &path, None).await;
                match v["server"]["status"].as_str() {
                    Some("ACTIVE") => return,
                    Some("BUILD") => tokio::time::sleep(Duration::from_millis(2)).await,
                    other => panic!("{other:?} {v}"),
                }
            }
        }
    })
    .await;
    show("POST /servers with a port to ACTIVE, 16 clients", rate, "/s", "100");
    show("  p50", quantile_ms(&times, 0.5), "ms", "-");
    show("  p99", quantile_ms(&times, 0.99), "ms", "-");
    let path = "/compute/v2.1/servers/detail?limit=1000";
    let (status, _, v) = caller.call(Method::GET, path, None).await;
    assert_eq!((status, v["servers"].as_array().map(Vec::len)), (200, Some(1000)));
    let caller = caller.clone();
    let (_, times) = load(1, 60, move |_| {
        let caller = caller.clone();
        async move {
            // To the last byte; what a client makes of them is its own time.
            assert!(caller.bytes(path).await > 1_000 * 500);
        }
    })
    .await;
    show("GET /servers/detail with 1,000 servers, p50", quantile_ms(&times, 0.5), "ms", "20");
}

#[tokio::main]
async fn main() {
    let program = std::env::args().nth(1).expect("the program to measure as the first argument");
    let mut cloud = start(Path::new(&program));
    let first = until_up(&cloud.base).await;
    show("first start on an empty directory, all APIs", first, "s", "-");
    cloud.child.kill().expect("ours");
    cloud.child.wait().expect("ours");
    cloud.child = run(Path::new(&program), cloud.dir.path(), cloud.base.trim_start_matches("http://"));
    show("start to all APIs answering", until_up(&cloud.base).await, "s", "1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    show("idle memory (RSS)", rss_mb(cloud.child.id()), "MB", "100");
    let admin = login(&cloud, "admin").await;
    let demo = login(&cloud, "demo").await;
    validate(&admin).await;
    let (_, _, projects) = admin.call(Method::GET, "/identity/v3/projects?name=demo", None).await;
    let project = projects["projects"][0]["id"].as_str().expect("project").to_string();
    raise_quotas(&admin, &project).await;
    let net = network(&demo).await;
    ports(&demo, &net).await;
    let image = image(&admin).await;
    servers(&demo, &image, &net, 1_000).await;
    show("memory after the load (RSS)", rss_mb(cloud.child.id()), "MB", "-");
}
