//! The network service alone on a port, with fixed tokens and a simulated host, for manual checks:
//! `cargo run -p caelum-network --example network_serve -- 127.0.0.1:9696 sqlite:/tmp/dir`.
//!
//! Tokens: `admin`, `demo`, `other`, `viewer`.

use caelum_base::Env;
use caelum_netplane::SimPlane;
use caelum_network::{Deps, Options, PublicNetwork, start};
use caelum_rest::{Server, StaticValidator};
use caelum_store::StoreUrl;
use std::collections::BTreeMap;
use std::sync::Arc;

#[tokio::main]
async fn main() -> caelum_base::Result<()> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:9696".into());
    let store = args.next().map_or(Ok(StoreUrl::Scratch), |s| StoreUrl::parse(&s))?;
    let (demo, admin) = ("11111111111111111111111111111111", "33333333333333333333333333333333");
    let validator = StaticValidator::default()
        .with("demo", demo, &["member", "reader"])
        .with("viewer", demo, &["reader"])
        .with("other", "22222222222222222222222222222222", &["member", "reader"])
        .with("admin", admin, &["admin", "manager", "member", "reader"]);
    let deps = Deps {
        env: Env::system(),
        store,
        validator: Arc::new(validator),
        policy: BTreeMap::new(),
        auth_url: "http://127.0.0.1:5000/v3".into(),
        hosts: vec![("host1".into(), Arc::new(SimPlane::new()))],
        compute: None,
        options: Options::default(),
    };
    let service = start(deps).await?;
    let parse = |t: &str| t.parse().map_err(|_| caelum_base::Error::invalid(format!("{t} is no address")));
    let public = PublicNetwork {
        project_id: admin.into(),
        name: "public".into(),
        physical_network: "public".into(),
        cidr: "172.24.4.0/24".parse().map_err(|_| caelum_base::Error::internal("cidr"))?,
        gateway: "172.24.4.1".parse().map_err(|_| caelum_base::Error::internal("address"))?,
        pool: None,
    };
    service.ensure_public_network(&public).await?;
    let addr = parse(&addr)?;
    let server = Server::bind(addr).await?.start(service.api())?;
    tokio::signal::ctrl_c().await.map_err(|e| caelum_base::Error::internal("signal").caused_by(e))?;
    server.stop(std::time::Duration::from_secs(2)).await;
    service.stop().await;
    Ok(())
}
