//! Services and hosts as administrators see them.

use crate::State;
use crate::reconcile::HostView;
use crate::store::aggregates::{Aggregate, zone_of};
use crate::store::servers::Server;
use crate::store::services::ServiceRow;
use caelum_base::Result;
use caelum_hypervisor::PowerState;
use caelum_store::{Query, Tx};

/// The binary that stands for a compute host.
pub const COMPUTE: &str = "nova-compute";
/// The zone of services that run no servers.
pub const INTERNAL: &str = "internal";

/// All services and aggregates, in a stable order.
pub fn services(tx: &mut Tx<'_>) -> Result<(Vec<ServiceRow>, Vec<Aggregate>)> {
    let mut rows: Vec<ServiceRow> = tx.list::<ServiceRow>(&Query::new())?.into_iter().map(|s| s.into_inner()).collect();
    rows.sort_by_key(|s| s.number);
    let aggregates = tx.list::<Aggregate>(&Query::new())?.into_iter().map(|a| a.into_inner()).collect();
    Ok((rows, aggregates))
}

pub fn zone(s: &ServiceRow, aggregates: &[Aggregate]) -> String {
    if s.binary == COMPUTE { zone_of(aggregates, &s.host) } else { INTERNAL.to_string() }
}

/// A compute host: its service, what it has and what its servers use.
pub struct Host {
    pub service: ServiceRow,
    pub up: bool,
    pub view: HostView,
    pub servers: Vec<Server>,
}

impl Host {
    pub fn used(&self, of: fn(&Server) -> i64) -> i64 {
        self.servers.iter().map(of).sum()
    }

    pub fn running(&self) -> usize {
        self.servers.iter().filter(|s| s.power == PowerState::Running).count()
    }

    /// Servers in the middle of something.
    pub fn busy(&self) -> usize {
        self.servers.iter().filter(|s| s.task.is_some()).count()
    }
}

/// Compute hosts that have reported to this process, in order of their numbers.
pub async fn hosts(state: &State) -> Result<Vec<Host>> {
    let now = state.env.now();
    let read = |tx: &mut Tx<'_>| {
        let services: Vec<ServiceRow> = services(tx)?.0.into_iter().filter(|s| s.binary == COMPUTE).collect();
        let mut out = Vec::with_capacity(services.len());
        for s in services {
            let servers = tx.list::<Server>(&Query::new().eq("host", s.host.as_str()))?;
            out.push((s, servers.into_iter().map(|s| s.into_inner()).collect::<Vec<_>>()));
        }
        Ok(out)
    };
    let rows = state.db.read(read).await?;
    let host = |(service, servers): (ServiceRow, Vec<Server>)| {
        let view = state.host_view(&service.host)?;
        Some(Host { up: service.is_up(now), service, view, servers })
    };
    Ok(rows.into_iter().filter_map(host).collect())
}
