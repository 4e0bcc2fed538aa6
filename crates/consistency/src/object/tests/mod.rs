//! Daemons among object servers in one process.

mod fragments;
mod moving;
mod queues;

use super::{Config, SyncMethod};
use caelum_base::Env;
use caelum_diskfile::Reserve;
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_rest::{HttpService, full};
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{HashPath, Nodes, Policies, PolicyKind, StoragePolicy, SwiftConf, to_hex};
use http::Request;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const POWER: u32 = 4;

/// Object servers, one device each.
pub(super) struct Cluster {
    pub dir: TempDir,
    pub swift: Arc<SwiftConf>,
    pub servers: Vec<Arc<ObjectServer>>,
    pub nodes: Nodes,
    pub rings: Rings,
}

pub(super) fn device(id: u32, region: u32) -> Device {
    let ip = format!("10.0.0.{id}");
    Device {
        id,
        region,
        zone: id,
        replication_ip: ip.clone(),
        ip,
        port: 6200,
        replication_port: 6200,
        device: format!("sd{id}"),
        weight: 1.0,
        meta: String::new(),
    }
}

/// The first `replicas` devices hold every partition.
pub(super) fn ring(devices: u32, replicas: u32) -> Ring {
    let list = (0..devices).map(|i| Some(device(i, 1))).collect();
    // Every device holds something, or it would be no handoff: partition 15 turns the order round.
    let row = |r: u32| (0..1 << POWER).map(|p| if p == 15 { devices - 1 - r } else { r }).collect();
    Ring::new(list, (0..replicas).map(row).collect(), POWER)
}

fn ec() -> StoragePolicy {
    StoragePolicy {
        index: 1,
        name: "ec".into(),
        is_default: false,
        kind: PolicyKind::ErasureCoding { ec_type: "isa_l_rs_vand".into(), data: 2, parity: 2, segment_size: 1 << 20, duplication: 1 },
        ..StoragePolicy::zero()
    }
}

impl Cluster {
    pub fn new(count: u32, replicas: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policies = Policies::new(vec![StoragePolicy::zero(), ec()]).unwrap();
        let swift = Arc::new(SwiftConf { hash: HashPath { prefix: Vec::new(), suffix: b"test".to_vec() }, policies });
        let nodes = Nodes::default();
        let servers = (0..count)
            .map(|i| {
                let root = dir.path().join(i.to_string());
                std::fs::create_dir_all(root.join(format!("sd{i}"))).unwrap();
                let mut config = ObjectServerConfig::new(&root, swift.clone(), nodes.clone(), Env::system());
                config.disk.mount_check = false;
                config.disk.reserve = Reserve::Bytes(0);
                config.disk.commit_window = Duration::ZERO;
                config.disk.reclaim_age = Duration::from_secs(1 << 40);
                let server = ObjectServer::new(config);
                nodes.set_local(&format!("10.0.0.{i}"), 6200, server.clone());
                server
            })
            .collect();
        let rings = Rings::fixed(ring(1, 1), ring(count, 1), vec![(0, ring(count, replicas)), (1, ring(count, 4.min(count)))]);
        Self { dir, swift, servers, nodes, rings }
    }

    pub fn config(&self, node: u32) -> Config {
        let disks = self.servers[node as usize].disks();
        let mut config = Config::new(disks, self.rings.clone(), self.nodes.clone(), vec![format!("10.0.0.{node}")], Some(6200));
        config.node_timeout = Duration::from_secs(5);
        config.http_timeout = Duration::from_secs(5);
        config.files_per_second = 0;
        config.sync = SyncMethod::Ssync;
        config
    }

    pub fn partition(&self, name: &str) -> u32 {
        self.rings.object(0).unwrap().partition(&self.swift.hash.object("a", "c", name))
    }

    /// A name in any partition but the one whose order is turned round.
    pub fn name(&self, seed: &str) -> String {
        (0..).map(|i| format!("{seed}{i}")).find(|n| self.partition(n) != 15).unwrap()
    }

    pub fn hash_dir(&self, node: u32, policy: &str, name: &str) -> PathBuf {
        let hash = to_hex(&self.swift.hash.object("a", "c", name));
        let at = format!("{node}/sd{node}/{policy}/{}/{}/{hash}", self.partition(name), &hash[29..]);
        self.dir.path().join(at)
    }

    /// File names in an object's directory.
    pub fn files(&self, node: u32, policy: &str, name: &str) -> Vec<String> {
        list(&self.hash_dir(node, policy, name))
    }

    pub async fn send(&self, node: u32, method: &str, name: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let path = format!("/sd{node}/{}/a/c/{name}", self.partition(name));
        let mut req = Request::builder().method(method).uri(path).header("Content-Type", "text/plain");
        if method == "PUT" {
            req = req.header("Content-Length", body.len());
        }
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        self.servers[node as usize].call(req.body(full(body.to_vec())).unwrap()).await.status().as_u16()
    }

    pub async fn get(&self, node: u32, name: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Vec<u8>) {
        let path = format!("/sd{node}/{}/a/c/{name}", self.partition(name));
        let mut req = Request::builder().method("GET").uri(path);
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let answer = self.servers[node as usize].call(req.body(full("")).unwrap()).await;
        let (parts, body) = answer.into_parts();
        let body = caelum_rest::read_limited(body, 64 << 20).await.unwrap();
        (parts.status.as_u16(), parts.headers, body.to_vec())
    }
}

pub(super) fn list(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut out: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}
