//! How fast the proxy with storage servers of the same process answers: `proxy-bench [seconds] [bytes]`.
//!
//! Six nodes with three replicas on temporary directories, requests by direct calls from 32 tasks.

use caelum_base::Env;
use caelum_object::env::Environ;
use caelum_object::proxy::{Proxy, ProxyDeps, ProxyOptions};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer, ObjectServer, ObjectServerConfig};
use caelum_rest::{HttpService, full};
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{HashPath, Nodes, Policies, SwiftConf};
use http::Request;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TASKS: u64 = 32;
const NODES: u16 = 6;

fn ring(first: u16) -> Ring {
    let device = |i: u16| Device {
        id: u32::from(i),
        zone: u32::from(i),
        ip: "127.0.0.1".into(),
        port: first + i,
        device: "sda".into(),
        weight: 1.0,
        ..Device::default()
    };
    let rows = (0..3).map(|r| (0..1_024).map(|p| (p + r) % u32::from(NODES)).collect()).collect();
    Ring::new((0..NODES).map(|i| Some(device(i))).collect(), rows, 10)
}

fn cluster(dir: &std::path::Path) -> std::io::Result<Arc<Proxy>> {
    let (env, nodes) = (Env::system(), Nodes::default());
    let hash = HashPath { prefix: Vec::new(), suffix: b"bench".to_vec() };
    let swift = Arc::new(SwiftConf { hash, policies: Policies::default() });
    for i in 0..NODES {
        let devices = dir.join(format!("n{i}"));
        std::fs::create_dir_all(devices.join("sda"))?;
        let db = || AccountServerConfig::new(&devices, (*swift).clone(), nodes.clone(), env.clone());
        nodes.set_local("127.0.0.1", 6_100 + i, AccountServer::new(db()).service());
        nodes.set_local("127.0.0.1", 6_120 + i, ContainerServer::new(db()).service());
        let mut object = ObjectServerConfig::new(&devices, swift.clone(), nodes.clone(), env.clone());
        object.disk.mount_check = false;
        nodes.set_local("127.0.0.1", 6_140 + i, ObjectServer::new(object));
    }
    let rings = Rings::fixed(ring(6_100), ring(6_120), vec![(0, ring(6_140))]);
    Ok(Proxy::new(ProxyDeps { rings, nodes, swift, env, options: ProxyOptions::default(), cache: None }))
}

async fn call(proxy: &Proxy, method: &str, path: &str, body: bytes::Bytes) -> u16 {
    let mut req = Request::new(full(body));
    *req.method_mut() = method.parse().unwrap_or_default();
    *req.uri_mut() = path.parse().unwrap_or_default();
    req.extensions_mut().insert(Environ::internal("bench", ""));
    let (head, body) = proxy.call(req).await.into_parts();
    if body.collect().await.is_err() { 0 } else { head.status.as_u16() }
}

async fn run(proxy: &Arc<Proxy>, method: &'static str, time: Duration, size: usize, names: u64) {
    let (done, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (proxy, done, failed) = (proxy.clone(), done.clone(), failed.clone());
        tasks.push(tokio::spawn(async move {
            let data = bytes::Bytes::from(vec![b'x'; if method == "PUT" { size } else { 0 }]);
            let mut i = task;
            while started.elapsed() < time {
                let n = if names == 0 { i } else { i % names };
                let status = call(&proxy, method, &format!("/v1/a/c/o{n}"), data.clone()).await;
                let counter = if (200..300).contains(&status) { &done } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
                i += TASKS;
            }
        }));
    }
    for t in tasks {
        let _ = t.await;
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    println!("{method} {size}: {rate:.0}/s, {} failed", failed.load(Ordering::Relaxed));
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap_or(3));
    let time = Duration::from_secs(args.next().unwrap_or(3));
    let size = usize::try_from(args.next().unwrap_or(4_096)).unwrap_or(4_096);
    let dir = tempfile::tempdir()?;
    let proxy = cluster(dir.path())?;
    println!("container: {}", call(&proxy, "PUT", "/v1/a/c", bytes::Bytes::new()).await);
    run(&proxy, "PUT", time, size, 0).await;
    run(&proxy, "GET", time, size, 1_000).await;
    run(&proxy, "HEAD", time, size, 1_000).await;
    Ok(())
}
