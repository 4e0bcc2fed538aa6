//! A node of a cluster that is made of Swift's own files: `swift.conf`, rings, `proxy-server.conf`, `object-server.conf`
//! and the like. Its daemons and servers take the place of Swift's one by one, and give it back.

mod conf;
mod daemons;
mod dispersion;
mod filters;
mod pipeline;
mod proxy;
mod servers;
mod tokens;

use caelum_base::{Env, Error, Result};
use caelum_rest::{HttpService, Server};
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use conf::{Conf, Section};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a process of the cluster does.
pub const ROLES: &[&str] = &[
    "proxy",
    "account-server",
    "container-server",
    "object-server",
    "account-replicator",
    "account-auditor",
    "account-reaper",
    "container-replicator",
    "container-auditor",
    "container-updater",
    "container-sharder",
    "container-sync",
    "container-reconciler",
    "object-replicator",
    "object-reconstructor",
    "object-auditor",
    "object-updater",
    "object-expirer",
    "object-relink",
    "object-relink-cleanup",
    "dispersion-populate",
    "dispersion-report",
];

/// How a process of the cluster is started.
pub struct SwiftNode {
    /// Directory of `swift.conf` and the rings (`/etc/swift`).
    pub swift_dir: PathBuf,
    /// The role's configuration file; `None`: the one of its name in `swift_dir`.
    pub config: Option<PathBuf>,
    pub role: String,
    /// Daemons: one pass, then the end.
    pub once: bool,
    /// Object daemons work on these of their devices, partitions and policies only; empty: on all.
    pub devices: Vec<String>,
    pub partitions: Vec<u32>,
    pub policies: Vec<u32>,
}

/// What every role works with.
struct Common {
    swift_dir: PathBuf,
    swift: Arc<SwiftConf>,
    rings: Rings,
    nodes: Nodes,
    env: Env,
    conf: Conf,
    /// What the daemon is limited to.
    devices: Vec<String>,
    partitions: Vec<u32>,
    policies: Vec<u32>,
}

fn open(node: &SwiftNode) -> Result<Common> {
    let text = |name: &str| {
        let path = node.swift_dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| Error::unavailable(format!("cannot read {}: {e}", path.display())))
    };
    let swift = SwiftConf::parse(&text("swift.conf")?)?;
    if swift.hash.prefix.is_empty() && swift.hash.suffix.is_empty() {
        return Err(Error::invalid("swift.conf: [swift-hash] needs swift_hash_path_suffix or swift_hash_path_prefix"));
    }
    let conf = Conf::read(&config_path(node))?;
    let rings = Rings::open(&node.swift_dir, &swift.policies)?;
    let app = conf.section("DEFAULT")?;
    let nodes = Nodes::new(app.seconds("conn_timeout", Duration::from_millis(500))?);
    Ok(Common {
        swift_dir: node.swift_dir.clone(),
        swift: Arc::new(swift),
        rings,
        nodes,
        env: Env::system(),
        conf,
        devices: node.devices.clone(),
        partitions: node.partitions.clone(),
        policies: node.policies.clone(),
    })
}

fn config_path(node: &SwiftNode) -> PathBuf {
    let kind = node.role.split('-').next().unwrap_or_default();
    let name = match node.role.as_str() {
        "proxy" => "proxy-server.conf".to_string(),
        role if role.starts_with("dispersion-") => "dispersion.conf".to_string(),
        "container-reconciler" | "object-expirer" if node.swift_dir.join(format!("{}.conf", node.role)).exists() => {
            format!("{}.conf", node.role)
        }
        _ => format!("{kind}-server.conf"),
    };
    node.config.clone().unwrap_or_else(|| node.swift_dir.join(name))
}

/// Runs a role until `stop` turns true; a daemon that is to run once ends by itself. Errors: what keeps it from
/// starting.
pub async fn run(node: SwiftNode, mut stop: watch::Receiver<bool>) -> Result<()> {
    crate::init_log("info")?;
    if !ROLES.contains(&node.role.as_str()) {
        return Err(Error::invalid(format!("{} is no role; there are: {}", node.role, ROLES.join(", "))));
    }
    let (once, role) = (node.once, node.role.clone());
    let common = tokio::task::spawn_blocking(move || open(&node)).await.map_err(|e| Error::internal(e.to_string()))??;
    let service = match role.as_str() {
        "proxy" => Some((proxy::start(&common)?, "app:proxy-server", 8080)),
        "account-server" => Some((servers::account(&common)?, "app:account-server", 6202)),
        "container-server" => Some((servers::container(&common)?, "app:container-server", 6201)),
        "object-server" => Some((servers::object(&common)?.0, "app:object-server", 6200)),
        _ => None,
    };
    let Some((service, section, port)) = service else { return daemons::run(&common, &role, once, stop).await };
    let address = address(&common.conf.paste(section)?, port)?;
    let running = serve(address, service).await?;
    tracing::info!(role, %address, "serving");
    // A sender that is gone means that nobody can tell us to stop any more: so we do.
    let _ = stop.wait_for(|s| *s).await;
    running.stop(Duration::from_secs(20)).await;
    Ok(())
}

async fn serve(address: SocketAddr, service: Arc<dyn HttpService>) -> Result<caelum_rest::ServerHandle> {
    Server::bind(address).await?.start(service)
}

fn address(s: &Section, port: u16) -> Result<SocketAddr> {
    let ip = s.str("bind_ip", "0.0.0.0");
    let ip: IpAddr = ip.parse().map_err(|_| Error::invalid(format!("bind_ip = {ip}: not an address")))?;
    Ok(SocketAddr::new(ip, s.number("bind_port", port)?))
}

/// Whether an address is one of this machine's: only those can be bound.
fn is_own(ip: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(|ip| std::net::UdpSocket::bind((ip, 0)).is_ok())
}

/// The addresses in a ring that are this node's.
fn own_addresses(s: &Section, rings: &Rings, port: u16) -> Result<Vec<(String, u16)>> {
    let bound = address(s, port)?;
    let ring_ip = s.get("ring_ip").map(str::to_string);
    let object = rings.object(0).map(|r| r.devices.clone()).unwrap_or_default();
    let all = [rings.account().devices.clone(), rings.container().devices.clone(), object];
    let mut out: Vec<(String, u16)> = Vec::new();
    for d in all.iter().flatten().flatten() {
        for (ip, p) in [(&d.ip, d.port), (&d.replication_ip, d.replication_port)] {
            let here = match &ring_ip {
                Some(own) => own == ip,
                None if bound.ip().is_unspecified() => is_own(ip),
                None => bound.ip().to_string() == *ip,
            };
            if here && p == bound.port() && !out.contains(&(ip.clone(), p)) {
                out.push((ip.clone(), p));
            }
        }
    }
    Ok(out)
}

/// Where devices are mounted.
fn devices(s: &Section) -> PathBuf {
    Path::new(s.get("devices").unwrap_or("/srv/node")).to_path_buf()
}
