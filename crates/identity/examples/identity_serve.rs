//! Serves identity alone on a port, for trying clients: `identity_serve PORT ADMIN_PASSWORD DATA_DIR STORE_URL`.

use caelum_base::{Env, Secret};
use caelum_identity::{Bootstrap, BootstrapService, Deps, ServiceUser, start};
use caelum_rest::{Front, Server};
use caelum_store::StoreUrl;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, port, password, dir, store] = args.as_slice() else { return Err("PORT ADMIN_PASSWORD DATA_DIR STORE_URL".into()) };
    let addr = format!("127.0.0.1:{port}");
    let url = format!("http://{addr}/identity");
    let dir = std::path::PathBuf::from(dir);
    std::fs::create_dir_all(&dir)?;
    let mut deps = Deps::new(Env::system(), StoreUrl::parse(store)?, url.clone(), dir);
    deps.bcrypt_cost = 4;
    let service = start(deps).await?;
    let user = |name: &str| ServiceUser { name: name.into(), password: None };
    service
        .bootstrap(Bootstrap {
            admin_password: Secret::new(password.clone()),
            demo_password: Some(Secret::new(password.clone())),
            region: "RegionOne".into(),
            services: vec![BootstrapService { kind: "identity".into(), name: "keystone".into(), url: url.clone() }],
            service_users: vec![user("nova"), user("neutron")],
        })
        .await?;
    let front = Front::new().mount("/identity", service.api()).alias("/v3", service.api());
    let handle = Server::bind(addr.parse()?).await?.start(Arc::new(front))?;
    println!("{url}/v3 on {}", handle.addr);
    tokio::signal::ctrl_c().await?;
    service.stop().await;
    Ok(())
}
