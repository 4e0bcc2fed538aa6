//! What the network resources mean. One public method is one transaction; references by id are
//! checked in it, so that nothing can vanish between check and write.

pub mod dhcp;
pub mod floating;
pub mod groups;
pub mod ipam;
pub mod net;
pub mod networks;
pub mod ports;
pub mod quota;
pub mod rbac;
pub mod routers;
pub mod sg_rules;
pub mod subnetpools;
pub mod subnets;

use crate::reconcile::{Changes, Hosts};
use caelum_base::{Env, Error, Result, Timestamp};
use caelum_store::{Db, Query, Tx};
use std::sync::Arc;

/// What the operator chooses.
#[derive(Clone, Debug)]
pub struct Options {
    /// Type of networks whose creator names none: `vxlan`, `local` or `flat`.
    pub tenant_network_type: String,
    /// Names usable in `provider:physical_network`.
    pub physical_networks: Vec<String>,
    /// VXLAN network identifiers, first and last.
    pub vni_range: (i64, i64),
    /// MTU of the underlay in bytes; VXLAN takes 50 of them.
    pub mtu: i64,
    /// Domain DHCP hands out, without trailing dot.
    pub dns_domain: String,
    pub availability_zone: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tenant_network_type: "vxlan".into(),
            physical_networks: vec!["public".into()],
            vni_range: (1, 16_777_215),
            mtu: 1500,
            dns_domain: "openstacklocal".into(),
            availability_zone: "nova".into(),
        }
    }
}

/// A port changed its status: id and new status. `DELETED` when it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEvent {
    pub port_id: String,
    pub status: String,
}

/// What every handler and controller shares.
pub struct State {
    pub env: Env,
    pub db: Db,
    pub options: Options,
    pub hints: ipam::Hints,
    pub hosts: Arc<Hosts>,
    pub events: tokio::sync::broadcast::Sender<PortEvent>,
}

/// One running transaction with what it changes on hosts.
pub struct Work<'a, 't> {
    pub tx: &'a mut Tx<'t>,
    pub st: &'a State,
    pub changes: Changes,
    pub now: Timestamp,
}

impl State {
    /// Runs `f` in one transaction; the hosts concerned are woken after the commit. `f` may run
    /// more than once.
    pub async fn write<T, F>(self: &Arc<Self>, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Work<'_, '_>) -> Result<T> + Send + Sync + 'static,
    {
        let st = self.clone();
        self.db
            .write(move |tx| {
                let mut work = Work { tx, st: &st, changes: Changes::default(), now: st.env.now() };
                let out = f(&mut work)?;
                let changes = work.changes;
                if !changes.is_empty() {
                    let hosts = st.hosts.clone();
                    tx.after_commit(move || hosts.mark(changes));
                }
                Ok(out)
            })
            .await
    }
}

impl Work<'_, '_> {
    /// Notes the routers that have a leg on the network.
    pub fn routers_of_network(&mut self, network_id: &str) -> Result<()> {
        for owner in ["network:router_interface", "network:router_gateway"] {
            let q = Query::new().eq("network_id", network_id).eq("device_owner", owner);
            let ports = self.tx.list::<crate::store::Port>(&q)?;
            self.changes.routers.extend(ports.into_iter().map(|p| p.value.device_id));
        }
        Ok(())
    }
}

/// `NetworkNotFound` and its like.
pub fn not_found(what: &str, id: &str) -> Error {
    let (label, code) = match what {
        "network" => ("Network", "NetworkNotFound"),
        "subnet" => ("Subnet", "SubnetNotFound"),
        "port" => ("Port", "PortNotFound"),
        "router" => ("Router", "RouterNotFound"),
        "floatingip" => ("Floating IP", "FloatingIPNotFound"),
        "security_group" => return Error::not_found(format!("Security group {id} does not exist")).code("SecurityGroupNotFound"),
        "security_group_rule" => {
            return Error::not_found(format!("Security group rule {id} does not exist")).code("SecurityGroupRuleNotFound");
        }
        "subnetpool" => return Error::not_found(format!("Subnet pool {id} could not be found.")).code("SubnetPoolNotFound"),
        "rbac_policy" => return Error::not_found(format!("RBAC policy with ID {id} not found")).code("RbacPolicyNotFound"),
        "agent" => ("Agent", "AgentNotFound"),
        _ => ("Resource", "HTTPNotFound"),
    };
    Error::not_found(format!("{label} {id} could not be found.")).code(code)
}

/// Who asks, as far as references to other resources are concerned.
#[derive(Clone, Debug)]
pub struct Caller {
    pub project_id: String,
    pub admin: bool,
}
