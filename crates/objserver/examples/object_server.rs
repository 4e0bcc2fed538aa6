//! An object server by itself: `object_server DEVICES PORT SWIFT_CONF [no-mount-check]`.

use caelum_base::Env;
use caelum_objserver::{ObjectServer, ObjectServerConfig};
use caelum_rest::Server;
use caelum_swiftkit::{Nodes, SwiftConf};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [devices, port, conf, rest @ ..] = args.as_slice() else {
        return Err("object_server DEVICES PORT SWIFT_CONF [no-mount-check]".into());
    };
    let swift = SwiftConf::parse(&std::fs::read_to_string(conf)?).map_err(|e| e.to_string())?;
    let mut config = ObjectServerConfig::new(devices, Arc::new(swift), Nodes::default(), Env::system());
    config.disk.mount_check = rest.is_empty();
    let server = Server::bind(format!("127.0.0.1:{port}").parse()?).await.map_err(|e| e.to_string())?;
    let handle = server.start(ObjectServer::new(config)).map_err(|e| e.to_string())?;
    println!("listening on {}", handle.addr);
    std::future::pending::<()>().await;
    Ok(())
}
