//! What the plane remembers between runs: the last applied state and the conntrack zones.
//!
//! The kernel is the truth about what exists; this file only tells a restarted process the last
//! generation and keeps zones stable. It is replaced atomically and not synced: after a power cut
//! the kernel's objects are gone as well. An unreadable file counts as none.

use super::dnsmasq;
use super::exec::Outcome;
use super::names::Names;
use crate::HostState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FILE: &str = "state.json";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub state: HostState,
    /// Conntrack zone by network id.
    pub zones: BTreeMap<String, u16>,
}

impl Remembered {
    pub fn load(run_dir: &Path) -> Option<Self> {
        let text = std::fs::read(run_dir.join(FILE)).ok()?;
        match serde_json::from_slice(&text) {
            Ok(found) => Some(found),
            Err(e) => {
                tracing::warn!(error = %e, "the remembered network state is unreadable and ignored");
                None
            }
        }
    }

    pub fn save(&self, run_dir: &Path) -> Outcome<()> {
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        dnsmasq::write(&run_dir.join(FILE), &text).map(drop)
    }

    /// Gives every network a zone of its own and forgets gone networks'.
    pub fn assign_zones(&mut self, state: &HostState) {
        self.zones.retain(|network, _| state.networks.contains_key(network));
        let mut used: BTreeSet<u16> = self.zones.values().copied().collect();
        for network in state.networks.keys() {
            if self.zones.contains_key(network) {
                continue;
            }
            let mut zone = Names::zone_seed(network);
            while !used.insert(zone) {
                zone = zone % 65_000 + 1;
                if used.len() >= 65_000 {
                    break;
                }
            }
            self.zones.insert(network.clone(), zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Network, NetworkKind};

    #[test]
    fn zones_are_distinct_and_stay() {
        let mut state = HostState::default();
        for i in 0..2000 {
            let id = format!("n{i}");
            state.networks.insert(id.clone(), Network { id, kind: NetworkKind::Local, mtu: 1500, dhcp: None });
        }
        let mut kept = Remembered::default();
        kept.assign_zones(&state);
        let distinct: BTreeSet<_> = kept.zones.values().collect();
        assert_eq!(distinct.len(), 2000);
        let before = kept.zones.clone();
        state.networks.remove("n7");
        kept.assign_zones(&state);
        assert_eq!(kept.zones["n8"], before["n8"]);
        assert!(!kept.zones.contains_key("n7"));
    }
}
