//! Tells others that a port changed: subscribers in this process at once, compute by its external
//! event API.
//!
//! A notification is a wake-up, never the only copy: compute can read the port's status. Lost in a
//! crash or when the queue is full, it costs latency only.

use crate::logic::PortEvent;
use crate::store::Port;
use caelum_base::Error;
use caelum_client::ServiceClient;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

/// Events that may wait for compute.
const QUEUE: usize = 16_384;
/// Events in one call.
const BATCH: usize = 128;
const TRIES: u32 = 5;

/// Sends port events. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    local: broadcast::Sender<PortEvent>,
    compute: Option<mpsc::Sender<Value>>,
}

impl Notifier {
    /// The task ends when the last notifier is dropped.
    pub fn start(local: broadcast::Sender<PortEvent>, compute: Option<ServiceClient>) -> (Self, Option<JoinHandle<()>>) {
        let Some(client) = compute else { return (Self { local, compute: None }, None) };
        let (tx, rx) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(client, rx));
        (Self { local, compute: Some(tx) }, Some(task))
    }

    pub fn port_status(&self, port_id: &str, status: &str) {
        // No subscriber is no error.
        let _ = self.local.send(PortEvent { port_id: port_id.into(), status: status.into() });
    }

    /// Queues an event about a guest's port.
    pub fn compute(&self, p: &Port, name: &str) {
        let Some(queue) = &self.compute else { return };
        if !p.device_owner.starts_with("compute:") || p.device_id.is_empty() {
            return;
        }
        let event = json!({"name": name, "server_uuid": p.device_id, "tag": p.id, "status": "completed"});
        if queue.try_send(event).is_err() {
            tracing::warn!(port = p.id, event = name, "compute event dropped: the queue is full");
        }
    }
}

async fn run(client: ServiceClient, mut queue: mpsc::Receiver<Value>) {
    while let Some(first) = queue.recv().await {
        let mut events = vec![first];
        while events.len() < BATCH {
            let Ok(e) = queue.try_recv() else { break };
            events.push(e);
        }
        send(&client, &events).await;
    }
}

async fn send(client: &ServiceClient, events: &[Value]) {
    let body = json!({"events": events});
    for attempt in 0..TRIES {
        let call = client.post("/v2.1/os-server-external-events").json(&body).deadline(Duration::from_secs(10));
        match call.done().await {
            Ok(()) => return,
            // None of the servers exists (any more).
            Err(e) if e.is_not_found() => return,
            Err(e) if !retry(&e) => {
                tracing::warn!(error = e.chain(), "compute refused port events");
                return;
            }
            Err(e) => {
                tracing::debug!(error = e.chain(), attempt, "compute did not take port events");
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            }
        }
    }
    tracing::warn!(n = events.len(), "compute did not take port events; it will look at the ports itself");
}

fn retry(e: &Error) -> bool {
    e.is_retryable() || e.kind == caelum_base::ErrorKind::Unauthenticated || e.kind == caelum_base::ErrorKind::Internal
}
