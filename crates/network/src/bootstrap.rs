//! First objects of a fresh cloud.

use crate::Service;
use crate::logic::networks::NetworkInput;
use crate::logic::subnets::{GatewayWish, SubnetInput};
use crate::store::{Network, Pool, Subnet};
use caelum_base::Result;
use caelum_store::Query;
use ipnet::IpNet;
use std::net::IpAddr;

/// The external network floating addresses come from.
#[derive(Clone, Debug)]
pub struct PublicNetwork {
    pub project_id: String,
    pub name: String,
    pub physical_network: String,
    pub cidr: IpNet,
    pub gateway: IpAddr,
    /// First and last address to give out; `None` means all but the gateway.
    pub pool: Option<(IpAddr, IpAddr)>,
}

impl Service {
    /// Makes the external network and its subnet when they are not there; its id.
    pub async fn ensure_public_network(&self, p: &PublicNetwork) -> Result<String> {
        let q = Query::new().eq("name", p.name.as_str()).eq("external", true);
        let existing = self.state.db.list::<Network>(q).await?.into_iter().next();
        let id = match existing {
            Some(n) => n.id.clone(),
            None => {
                let input = NetworkInput {
                    project_id: p.project_id.clone(),
                    name: p.name.clone(),
                    admin_state_up: true,
                    external: true,
                    is_default: true,
                    network_type: Some("flat".into()),
                    physical_network: Some(p.physical_network.clone()),
                    port_security_enabled: true,
                    ..NetworkInput::default()
                };
                self.state.network_create(vec![input]).await?.into_iter().map(|n| n.id).next().unwrap_or_default()
            }
        };
        if self.state.db.list::<Subnet>(Query::new().eq("network_id", id.as_str())).await?.is_empty() {
            let input = SubnetInput {
                project_id: p.project_id.clone(),
                network_id: id.clone(),
                name: format!("{}-subnet", p.name),
                ip_version: crate::logic::net::version(p.cidr.addr()),
                cidr: Some(p.cidr),
                gateway: GatewayWish::Address(p.gateway),
                enable_dhcp: false,
                pools: p.pool.map(|(start, end)| vec![Pool { start, end }]),
                ..SubnetInput::default()
            };
            self.state.subnet_create(vec![input]).await?;
        }
        Ok(id)
    }
}
