//! Removes what deleted accounts hold: objects first, then their containers. Deletion is repeated pass
//! after pass until the account is empty; the replicator then removes the account itself.

use crate::container::quote;
use crate::db::{DbDaemonConfig, Found, address, blocking, walk};
use caelum_broker::{ACCOUNT_DIR, AccountBroker, AccountEntry, Listing};
use caelum_ring::Device;
use caelum_swiftkit::{NameHash, Timestamp};
use futures_util::StreamExt;
use http::{HeaderMap, Request};
use std::time::Duration;

/// How the reaper is set up beside [`DbDaemonConfig`].
#[derive(Clone, Copy, Debug)]
pub struct ReaperConfig {
    /// From an account's deletion until its data goes (a chance to undo).
    pub delay_reaping: Duration,
    /// Containers, and objects of each, worked on at the same time.
    pub concurrency: usize,
    /// An account that is not empty so long after its deletion is warned of.
    pub warn_after: Duration,
}

impl Default for ReaperConfig {
    fn default() -> Self {
        Self { delay_reaping: Duration::ZERO, concurrency: 5, warn_after: Duration::from_secs(30 * 86_400) }
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaperStats {
    pub accounts: u64,
    pub containers_deleted: u64,
    pub containers_remaining: u64,
    pub objects_deleted: u64,
    pub objects_remaining: u64,
}

impl ReaperStats {
    fn add(mut self, o: Self) -> Self {
        self.accounts += o.accounts;
        self.containers_deleted += o.containers_deleted;
        self.containers_remaining += o.containers_remaining;
        self.objects_deleted += o.objects_deleted;
        self.objects_remaining += o.objects_remaining;
        self
    }
}

/// Containers read from an account's listing at a time.
const PAGE: usize = 1_000;

/// One pass over this node's accounts. Each primary of an account takes its share of the containers.
pub async fn reap_accounts(config: &DbDaemonConfig, reaper: &ReaperConfig) -> ReaperStats {
    let ring = config.rings.account();
    let local = config.local_devices(&ring);
    let names = local.iter().map(|d| d.device.clone()).collect();
    let mut found = walk(config, names, ACCOUNT_DIR);
    let mut stats = ReaperStats::default();
    while let Some(found) = found.recv().await {
        let nodes: Vec<Device> = ring.primaries(found.partition).into_iter().cloned().collect();
        let Some(share) = nodes.iter().position(|n| n.device == found.device && config.is_local(n)) else { continue };
        let account = Account { config, reaper, nodes: &nodes, partition: found.partition, share };
        match account.reap(found).await {
            Ok(s) => stats = stats.add(s),
            Err(e) => tracing::error!(error = %e, "account not reaped"),
        }
    }
    stats
}

struct Account<'a> {
    config: &'a DbDaemonConfig,
    reaper: &'a ReaperConfig,
    nodes: &'a [Device],
    partition: u32,
    share: usize,
}

impl Account<'_> {
    async fn reap(&self, found: Found) -> caelum_broker::Result<ReaperStats> {
        let (pool, now, delay) = (self.config.pool.clone(), self.config.now(), self.reaper.delay_reaping);
        let due = blocking(move || {
            let broker = AccountBroker::new(&pool, &found.path);
            let info = broker.get_info()?;
            let deleted = Timestamp::parse(&info.delete_timestamp).unwrap_or(Timestamp::ZERO);
            let due = info.is_status_deleted() && info.container_count != 0 && now > deleted.plus(delay);
            Ok(due.then_some((broker, info.account, deleted)))
        });
        let Some((broker, name, deleted)) = due.await? else { return Ok(ReaperStats::default()) };
        let mut stats = ReaperStats { accounts: 1, ..ReaperStats::default() };
        let mut marker = String::new();
        loop {
            let (b, from) = (broker.clone(), marker.clone());
            let containers = blocking(move || list(&b, from)).await?;
            let Some(last) = containers.last() else { break };
            marker = last.clone();
            let mine = containers.into_iter().filter(|c| self.is_mine(c));
            let done = futures_util::stream::iter(mine)
                .map(|c| self.container(&name, c))
                .buffer_unordered(self.reaper.concurrency.max(1))
                .fold(ReaperStats::default(), |a, b| async move { a.add(b) });
            stats = stats.add(done.await);
        }
        let late = now > deleted.plus(self.reaper.warn_after).plus(self.reaper.delay_reaping);
        if late && stats.containers_remaining > 0 {
            tracing::warn!(account = name, deleted = deleted.iso(), "account has not been reaped");
        }
        Ok(stats)
    }

    /// MD5 of the name modulo the number of primaries.
    fn is_mine(&self, container: &str) -> bool {
        let hex = caelum_swiftkit::md5_hex(container.as_bytes());
        let n = u128::from_str_radix(&hex, 16).unwrap_or(0) % self.nodes.len().max(1) as u128;
        n == self.share as u128
    }

    async fn container(&self, account: &str, container: String) -> ReaperStats {
        let mut stats = ReaperStats::default();
        let ring = self.config.rings.container();
        let partition = ring.partition(&self.config.swift.hash.container(account, &container));
        let nodes: Vec<Device> = ring.primaries(partition).into_iter().cloned().collect();
        let mut marker = String::new();
        while let Some((names, policy)) = self.page(&nodes, partition, account, &container, &marker).await {
            let Some(last) = names.last() else { break };
            marker = last.clone();
            let place = (partition, nodes.as_slice());
            let done = futures_util::stream::iter(names)
                .map(|o| self.object(account, &container, place, o, policy))
                .buffer_unordered(self.reaper.concurrency.max(1))
                .fold(ReaperStats::default(), |a, b| async move { a.add(b) });
            stats = stats.add(done.await);
        }
        let now = self.config.now().internal();
        let (mut successes, mut failures) = (0, 0);
        for (i, node) in nodes.iter().enumerate() {
            let path = format!("/{}/{partition}/{}/{}", node.device, quote(account), quote(&container));
            let mut headers = vec![("X-Timestamp", now.clone()), ("X-Account-Override-Deleted", "yes".into())];
            if let Some(a) = self.nodes.len().checked_sub(1 + i).and_then(|i| self.nodes.get(i)) {
                headers.push(("X-Account-Host", format!("{}:{}", a.ip, a.port)));
                headers.push(("X-Account-Partition", self.partition.to_string()));
                headers.push(("X-Account-Device", a.device.clone()));
            }
            match self.send("DELETE", node, &path, headers).await {
                Some((200..=299, _, _)) => successes += 1,
                _ => failures += 1,
            }
        }
        if successes > failures {
            stats.containers_deleted += 1;
        } else {
            stats.containers_remaining += 1;
        }
        stats
    }

    /// Names of one page of the container's listing, from the last of its nodes that answers, and its policy.
    async fn page(&self, nodes: &[Device], partition: u32, account: &str, container: &str, marker: &str) -> Option<(Vec<String>, u32)> {
        for node in nodes.iter().rev() {
            let path = format!(
                "/{}/{partition}/{}/{}?format=json&marker={}",
                node.device,
                quote(account),
                quote(container),
                quote(marker).replace('/', "%2F")
            );
            let headers = vec![("X-Backend-Allow-Reserved-Names", "true".into())];
            let Some((200..=299, headers, body)) = self.send("GET", node, &path, headers).await else { continue };
            let rows: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap_or_default();
            let names = rows.iter().filter_map(|r| r.get("name")?.as_str().map(str::to_string)).collect();
            let policy = headers.get("X-Backend-Storage-Policy-Index").and_then(|v| v.to_str().ok()?.parse().ok());
            return Some((names, policy.unwrap_or(0)));
        }
        None
    }

    async fn object(
        &self,
        account: &str,
        container: &str,
        (container_partition, container_nodes): (u32, &[Device]),
        object: String,
        policy: u32,
    ) -> ReaperStats {
        let remaining = ReaperStats { objects_remaining: 1, ..ReaperStats::default() };
        let Some(ring) = self.config.rings.object(policy) else { return remaining };
        let hash: NameHash = self.config.swift.hash.object(account, container, &object);
        let partition = ring.partition(&hash);
        let now = self.config.now().internal();
        let (mut successes, mut failures) = (0, 0);
        for (i, node) in ring.primaries(partition).into_iter().enumerate() {
            let path = format!("/{}/{partition}/{}/{}/{}", node.device, quote(account), quote(container), quote(&object));
            let mut headers = vec![("X-Timestamp", now.clone()), ("X-Backend-Storage-Policy-Index", policy.to_string())];
            if let Some(c) = container_nodes.get(i % container_nodes.len().max(1)) {
                headers.push(("X-Container-Host", format!("{}:{}", c.ip, c.port)));
                headers.push(("X-Container-Partition", container_partition.to_string()));
                headers.push(("X-Container-Device", c.device.clone()));
            }
            match self.send("DELETE", node, &path, headers).await {
                // An object that is not there is as good as deleted.
                Some((200..=299 | 404, _, _)) => successes += 1,
                _ => failures += 1,
            }
        }
        if successes > failures { ReaperStats { objects_deleted: 1, ..ReaperStats::default() } } else { remaining }
    }

    async fn send(&self, method: &str, node: &Device, path: &str, headers: Vec<(&str, String)>) -> Option<(u16, HeaderMap, Vec<u8>)> {
        let mut req = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Length", 0)
            .header("X-Backend-Use-Replication-Network", "true")
            .header("User-Agent", format!("account-reaper {}", std::process::id()));
        for (k, v) in headers {
            req = req.header(k, v);
        }
        let req = req.body(caelum_rest::empty()).ok()?;
        let (ip, port) = address(node);
        let answer = self.config.nodes.send(ip, port, req, self.config.node_timeout).await.ok()?;
        let (parts, body) = answer.into_parts();
        let body = caelum_rest::read_limited(body, 64 << 20).await.ok()?;
        Some((parts.status.as_u16(), parts.headers, body.to_vec()))
    }
}

fn list(broker: &AccountBroker, marker: String) -> caelum_broker::Result<Vec<String>> {
    let q = Listing { limit: PAGE, marker, allow_reserved: true, ..Listing::default() };
    let mut out = Vec::new();
    broker.list_containers(&q, &mut |entry| {
        if let AccountEntry::Container { name, .. } = entry {
            out.push(name.to_string());
        }
        Ok(())
    })?;
    Ok(out)
}
