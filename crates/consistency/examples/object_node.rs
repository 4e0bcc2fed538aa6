//! One object node alone, to try it beside another implementation's nodes:
//! `cargo run -p caelum-consistency --example object_node -- SWIFT_DIR DEVICES IP PORT serve|replicate|rsync://MODULE|reconstruct|audit|relink|cleanup`.
//! SWIFT_DIR holds `swift.conf` and the rings. Everything but `serve` is one pass, whose figures it prints.

use caelum_base::Env;
use caelum_consistency::object::{Config, RsyncConfig, SyncMethod, auditor, reconstructor, relinker, replicator};
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_rest::Server;
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [swift_dir, devices, ip, port, what] = args.as_slice() else { return Err("SWIFT_DIR DEVICES IP PORT WHAT".into()) };
    tokio::runtime::Runtime::new()?.block_on(run(swift_dir, devices, ip, port.parse()?, what))
}

async fn run(swift_dir: &str, devices: &str, ip: &str, port: u16, what: &str) -> Result<(), Box<dyn std::error::Error>> {
    let swift = Arc::new(SwiftConf::parse(&std::fs::read_to_string(format!("{swift_dir}/swift.conf"))?)?);
    let rings = Rings::open(swift_dir, &swift.policies)?;
    let nodes = Nodes::default();
    let mut config = ObjectServerConfig::new(devices, swift, nodes.clone(), Env::system());
    config.disk.mount_check = false;
    let server = ObjectServer::new(config);
    let daemon = Config::new(server.disks(), rings, nodes, vec![ip.to_string()], Some(port));
    match what {
        "serve" => {
            let handle = Server::bind(format!("{ip}:{port}").parse()?).await?.start(server)?;
            println!("serving on {}", handle.addr);
            std::future::pending::<()>().await;
        }
        "replicate" => println!("{:?}", replicator::run_once(&daemon).await),
        "reconstruct" => println!("{:?}", reconstructor::run_once(&daemon).await),
        module if module.starts_with("rsync:") => {
            let mut daemon = daemon;
            daemon.sync = SyncMethod::Rsync(RsyncConfig { module: module.to_string(), ..RsyncConfig::default() });
            println!("{:?}", replicator::run_once(&daemon).await);
        }
        "audit" => println!("{:?}", auditor::run_once(&daemon, auditor::Pass::All).await),
        "relink" => println!("{:?}", relinker::run_once(&daemon, relinker::Step::Relink).await),
        "cleanup" => println!("{:?}", relinker::run_once(&daemon, relinker::Step::Cleanup).await),
        other => return Err(format!("{other}?").into()),
    }
    Ok(())
}
