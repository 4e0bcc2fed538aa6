//! Invariants of the stored state and of the hosts, checked on demand.

use crate::{Service, store};
use caelum_base::Result;

impl Service {
    /// One line per broken invariant; with `heal`, what can be put right is.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        let mut found = if heal {
            self.state.db.write(move |tx| store::audit_allocations(tx, true)).await?
        } else {
            self.state.db.read(|tx| store::audit_allocations(tx, false)).await?
        };
        if heal {
            self.state.hosts.resync();
            self.settled().await;
        }
        for host in self.state.hosts.all() {
            for line in host.plane.audit(heal).await? {
                found.push(format!("{}: {line}", host.name));
            }
            for (id, why) in host.failed() {
                found.push(format!("{}: {id}: {why}", host.name));
            }
        }
        Ok(found)
    }
}
