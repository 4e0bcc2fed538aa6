//! A whole object store with S3 on one device, for trying clients: `s3-alone DIRECTORY PORT`. Its user is
//! `test:tester` with the key `testing`; loopback only.

use caelum_base::{Env, Error, Result};
use caelum_object::auth::TempAuthOptions;
use caelum_object::pipeline::{self, Deps, Options};
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer};
use caelum_rest::Server;
use caelum_ring::{Device, Ring, Rings};
use caelum_s3::{S3Credentials, S3Deps, S3Layer, S3Options, StaticCredentials};
use caelum_swiftkit::{HashPath, Nodes, Policies, SwiftConf};
use std::path::Path;
use std::sync::Arc;

const PART_POWER: u32 = 6;

fn ring(port: u16) -> Ring {
    let ip = "127.0.0.1".to_string();
    let device = Device {
        id: 0,
        region: 1,
        zone: 1,
        ip: ip.clone(),
        port,
        replication_ip: ip,
        replication_port: port,
        device: "d0".into(),
        weight: 100.0,
        meta: String::new(),
    };
    Ring::new(vec![Some(device)], vec![vec![0; 1 << PART_POWER]], PART_POWER)
}

fn storage(root: &Path, swift: &Arc<SwiftConf>, nodes: &Nodes, env: &Env) {
    let config = AccountServerConfig::new(root, (**swift).clone(), nodes.clone(), env.clone());
    nodes.set_local("127.0.0.1", 6202, AccountServer::new(config.clone()).service());
    nodes.set_local("127.0.0.1", 6201, ContainerServer::new(config).service());
    let mut config = ObjectServerConfig::new(root, swift.clone(), nodes.clone(), env.clone());
    config.disk.mount_check = false;
    nodes.set_local("127.0.0.1", 6200, ObjectServer::new(config));
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (dir, port) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let root = Path::new(&dir);
    std::fs::create_dir_all(root.join("d0")).map_err(|e| Error::unavailable(format!("{dir}: {e}")))?;
    let (env, nodes) = (Env::system(), Nodes::default());
    let hash = HashPath { prefix: Vec::new(), suffix: b"alone".to_vec() };
    let swift = Arc::new(SwiftConf { hash, policies: Policies::default() });
    storage(root, &swift, &nodes, &env);
    let users = [("user_test_tester".to_string(), "testing .admin".to_string())];
    let mut options = Options { tempauth: Some(TempAuthOptions::from_options(&users)?), ..Options::default() };
    options.proxy.allow_account_management = true;
    let service = pipeline::start(Deps {
        env,
        rings: Rings::fixed(ring(6202), ring(6201), [(0, ring(6200))].into()),
        nodes,
        swift,
        cache: None,
        validator: None,
        options,
        before_auth: Some(Box::new(|next, around| {
            let none: Arc<dyn S3Credentials> = Arc::new(StaticCredentials::default());
            let credentials = around.tempauth.clone().map_or(none, |t| t as Arc<dyn S3Credentials>);
            let deps = S3Deps { env: around.env.clone(), credentials, info: Some(around.info.clone()), options: S3Options::default() };
            S3Layer::new(next, deps)
        })),
    })?;
    let address = format!("127.0.0.1:{port}").parse().map_err(|_| Error::invalid("the port is not a number"))?;
    let _running = Server::bind(address).await?.start(service.api())?;
    std::future::pending().await
}
