//! Tells account servers what their containers hold, for all the changes that were not told at once.

use crate::db::{DbDaemonConfig, Found, address, blocking, device_names, walk};
use caelum_broker::{CONTAINER_DIR, ContainerBroker, ContainerInfo};
use caelum_ring::Device;
use caelum_swiftkit::Timestamp;
use futures_util::StreamExt;
use http::Request;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How the updater is set up beside [`DbDaemonConfig`].
#[derive(Clone, Copy, Debug)]
pub struct UpdaterConfig {
    /// After a failed report the account's other containers wait for this long.
    pub account_suppression: Duration,
}

impl Default for UpdaterConfig {
    fn default() -> Self {
        Self { account_suppression: Duration::from_secs(60) }
    }
}

/// What a pass did, in containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdaterStats {
    pub successes: u64,
    pub failures: u64,
    pub no_changes: u64,
}

enum Outcome {
    Success,
    Failure,
    NoChange,
}

/// One pass over this node's containers.
pub async fn update_accounts(config: &DbDaemonConfig, updater: &UpdaterConfig) -> UpdaterStats {
    let names = device_names(config).await;
    let found = walk(config, names, CONTAINER_DIR);
    let suppressed: Mutex<HashMap<String, Instant>> = Mutex::default();
    let outcomes = futures_util::stream::unfold(found, |mut rx| async move { rx.recv().await.map(|f| (f, rx)) })
        .map(|found| one(config, updater, &suppressed, found))
        .buffer_unordered(config.concurrency.max(1));
    outcomes
        .fold(UpdaterStats::default(), |mut s, o| async move {
            match o {
                Outcome::Success => s.successes += 1,
                Outcome::Failure => s.failures += 1,
                Outcome::NoChange => s.no_changes += 1,
            }
            s
        })
        .await
}

async fn one(config: &DbDaemonConfig, updater: &UpdaterConfig, suppressed: &Mutex<HashMap<String, Instant>>, found: Found) -> Outcome {
    let pool = config.pool.clone();
    let read = blocking(move || {
        let broker = ContainerBroker::new(&pool, &found.path)?;
        let mut info = broker.get_info()?;
        if !broker.is_root()? {
            // What a shard holds is counted by its root.
            (info.object_count, info.bytes_used) = (0, 0);
        }
        Ok((broker, info))
    })
    .await;
    let (broker, info) = match read {
        Ok(found) => found,
        Err(e) => {
            tracing::error!(error = %e, "container not read");
            return Outcome::Failure;
        }
    };
    let until = suppressed.lock().expect("no holder of this lock panics").get(&info.account).copied();
    let put = Timestamp::parse(&info.put_timestamp).unwrap_or(Timestamp::ZERO);
    if put == Timestamp::ZERO || !changed(&info) || until.is_some_and(|t| t > Instant::now()) {
        return Outcome::NoChange;
    }
    match report(config, &info).await {
        Report::Accepted => {
            let done = blocking(move || broker.reported(&info.put_timestamp, &info.delete_timestamp, info.object_count, info.bytes_used));
            if done.await.is_ok() { Outcome::Success } else { Outcome::Failure }
        }
        Report::NoAccount => {
            // The account is nowhere: what is in the container belongs to nobody.
            let done = blocking(move || broker.db().quarantine("no account replicas exist").map(|_| ())).await;
            if let Err(e) = done {
                tracing::error!(error = %e, "container not quarantined");
            }
            Outcome::Failure
        }
        Report::Failed => {
            let until = Instant::now() + updater.account_suppression;
            suppressed.lock().expect("no holder of this lock panics").insert(info.account, until);
            Outcome::Failure
        }
    }
}

fn changed(i: &ContainerInfo) -> bool {
    i.put_timestamp > i.reported_put_timestamp
        || i.delete_timestamp > i.reported_delete_timestamp
        || i.object_count != i.reported_object_count
        || i.bytes_used != i.reported_bytes_used
}

enum Report {
    Accepted,
    NoAccount,
    Failed,
}

async fn report(config: &DbDaemonConfig, info: &ContainerInfo) -> Report {
    let ring = config.rings.account();
    let partition = ring.partition(&config.swift.hash.account(&info.account));
    let nodes = ring.primaries(partition);
    let codes = futures_util::future::join_all(nodes.iter().map(|n| send(config, info, n, partition))).await;
    let accepted = codes.iter().filter(|c| matches!(c, Some(200..=299))).count();
    if !codes.is_empty() && accepted > codes.len() / 2 {
        Report::Accepted
    } else if !codes.is_empty() && codes.iter().all(|c| *c == Some(404)) {
        Report::NoAccount
    } else {
        Report::Failed
    }
}

async fn send(config: &DbDaemonConfig, info: &ContainerInfo, node: &Device, partition: u32) -> Option<u16> {
    let path = format!("/{}/{partition}/{}/{}", node.device, quote(&info.account), quote(&info.container));
    let req = Request::put(path)
        .header("X-PUT-Timestamp", &info.put_timestamp)
        .header("X-DELETE-Timestamp", &info.delete_timestamp)
        .header("X-Object-Count", info.object_count)
        .header("X-Bytes-Used", info.bytes_used)
        .header("X-Account-Override-Deleted", "yes")
        .header("X-Backend-Storage-Policy-Index", info.storage_policy_index)
        .header("X-Backend-Use-Replication-Network", "true")
        .header("User-Agent", format!("container-updater {}", std::process::id()))
        .header("Content-Length", 0)
        .body(caelum_rest::empty())
        .ok()?;
    let (ip, port) = address(node);
    match config.nodes.send(ip, port, req, config.node_timeout).await {
        Ok(r) => Some(r.status().as_u16()),
        Err(e) => {
            tracing::warn!(error = %e, device = node.device, "account update failed, will retry later");
            None
        }
    }
}

pub(crate) fn quote(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}
