//! What must stay true: rows say what hosts do, placement and the network know the same servers.

pub mod audit;
pub mod hosts;
pub mod power;

pub use hosts::HostView;

use crate::State;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Starts the background work.
pub(crate) fn spawn(state: &Arc<State>, node: &str) -> Vec<JoinHandle<()>> {
    let mut out = vec![tokio::spawn(hosts::report_node_forever(state.clone(), node.to_string()))];
    for (name, _) in state.hosts.iter() {
        out.push(tokio::spawn(hosts::report_forever(state.clone(), name.clone())));
        out.push(tokio::spawn(power::watch_forever(state.clone(), name.clone())));
    }
    out
}
