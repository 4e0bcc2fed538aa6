//! Container synchronization: sends the objects of a container to one in another cluster (or the same), as
//! its owner has asked with `X-Container-Sync-To` and `-Key`. Source: Swift's documentation,
//! `overview_container_sync`.
//!
//! Each primary of a container sends its share of new rows at once (up to point 1), and some time later goes
//! over all rows again (up to point 2), so that a node that is away delays its share but loses nothing.

use super::client::{InternalClient, call, path};
use super::reconciler::kept;
use super::updater::quote;
use crate::db::{DbDaemonConfig, Found, blocking, device_names, walk};
use caelum_broker::{CONTAINER_DIR, ContainerBroker, ContainerInfo, ObjectRow};
use caelum_objserver::db::sync_store::SYNC_DIR;
use caelum_objserver::db::{SyncRealms, SyncTo, validate_sync_to};
use caelum_rest::Body;
use caelum_swiftkit::{Timestamp, to_hex};
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use sha1::Sha1;
use std::time::Duration;
use tokio::time::Instant;

/// How synchronization is set up beside [`DbDaemonConfig`].
#[derive(Clone)]
pub struct SyncConfig {
    pub client: InternalClient,
    pub realms: SyncRealms,
    pub allowed_sync_hosts: Vec<String>,
    /// Longest time spent on one container in a pass.
    pub container_time: Duration,
    /// Bounds one request to the other cluster.
    pub timeout: Duration,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Containers.
    pub syncs: u64,
    pub skips: u64,
    pub puts: u64,
    pub deletes: u64,
    pub failures: u64,
}

/// One pass over this node's containers that have a link in `sync_containers`.
pub async fn sync_containers(config: &DbDaemonConfig, sync: &SyncConfig) -> SyncStats {
    let names = device_names(config).await;
    let mut found = walk(config, names, SYNC_DIR);
    let mut stats = SyncStats::default();
    while let Some(found) = found.recv().await {
        let Some(place) = real_place(&found) else { continue };
        if let Err(e) = container(config, sync, place, &mut stats).await {
            tracing::error!(error = %e, "container synchronization");
            stats.failures += 1;
        }
    }
    stats
}

/// The database a link stands for.
fn real_place(found: &Found) -> Option<Found> {
    let device = found.path.ancestors().nth(5)?;
    let rest = found.path.strip_prefix(device.join(SYNC_DIR)).ok()?;
    Some(Found { path: device.join(CONTAINER_DIR).join(rest), ..found.clone() })
}

/// One container being synchronized.
struct Job<'a> {
    config: &'a DbDaemonConfig,
    sync: &'a SyncConfig,
    broker: ContainerBroker,
    info: ContainerInfo,
    to: SyncTo,
    key: String,
    nodes: u32,
    ordinal: u32,
}

async fn container(config: &DbDaemonConfig, sync: &SyncConfig, found: Found, stats: &mut SyncStats) -> caelum_broker::Result<()> {
    let pool = config.pool.clone();
    let read = blocking(move || {
        let broker = ContainerBroker::new(&pool, &found.path)?;
        let Some(info) = broker.info_if_exists()?.filter(|i| !i.is_deleted()) else { return Ok(None) };
        let metadata = broker.metadata()?;
        Ok(Some((broker, info, metadata)))
    });
    let Some((broker, info, metadata)) = read.await? else { return Ok(()) };
    let ring = config.rings.container();
    let partition = ring.partition(&config.swift.hash.container(&info.account, &info.container));
    let primaries = ring.primaries(partition);
    let Some(ordinal) = primaries.iter().position(|d| config.is_local(d) && d.device == found.device) else { return Ok(()) };
    let get = |k: &str| metadata.get(k).map(|(v, _)| v.as_str()).unwrap_or("");
    let versioned = !get("X-Container-Sysmeta-Versions-Container").is_empty();
    let (to, key) = (get("X-Container-Sync-To"), get("X-Container-Sync-Key"));
    if versioned || to.is_empty() || key.is_empty() {
        stats.skips += 1;
        return Ok(());
    }
    let to = match validate_sync_to(to, &sync.allowed_sync_hosts, &sync.realms) {
        Ok(Some(to)) => to,
        Ok(None) => {
            stats.skips += 1;
            return Ok(());
        }
        Err(e) => {
            tracing::info!(container = info.container, error = e, "not synchronized");
            stats.failures += 1;
            return Ok(());
        }
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(1).max(1);
    let (nodes, ordinal, key) = (count(primaries.len()), u32::try_from(ordinal).unwrap_or(0), key.to_string());
    let job = Job { config, sync, broker, info, to, key, nodes, ordinal };
    job.run(stats).await?;
    stats.syncs += 1;
    Ok(())
}

impl Job<'_> {
    async fn next(&self, after: i64) -> caelum_broker::Result<Option<ObjectRow>> {
        let b = self.broker.clone();
        Ok(blocking(move || b.get_items_since(after, 1)).await?.pop())
    }

    async fn points(&self, point1: Option<i64>, point2: Option<i64>) -> caelum_broker::Result<()> {
        let b = self.broker.clone();
        blocking(move || b.set_sync_points(point1, point2)).await
    }

    async fn run(&self, stats: &mut SyncStats) -> caelum_broker::Result<()> {
        let until = Instant::now() + self.sync.container_time;
        let (mut point1, mut point2) = (self.info.x_container_sync_point1, self.info.x_container_sync_point2);
        let mut failed_at = None;
        while Instant::now() < until && point2 < point1 {
            let Some(row) = self.next(point2).await?.filter(|r| r.row_id <= point1) else { break };
            if !self.row(&row, stats).await {
                failed_at.get_or_insert(point2);
            }
            point2 = row.row_id;
            self.points(None, Some(point2)).await?;
        }
        if let Some(back) = failed_at {
            // The next pass begins with the first row that failed.
            self.points(None, Some(back)).await?;
        }
        while Instant::now() < until {
            let Some(row) = self.next(point1).await? else { break };
            let hash = self.config.swift.hash.object(&self.info.account, &self.info.container, &row.name);
            let share = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % self.nodes;
            if share == self.ordinal {
                // A failure here is made good by the second round.
                self.row(&row, stats).await;
            }
            point1 = row.row_id;
            self.points(Some(point1), None).await?;
        }
        Ok(())
    }

    /// True when the other side has the row.
    async fn row(&self, row: &ObjectRow, stats: &mut SyncStats) -> bool {
        let done = if row.deleted == 0 { self.put(row).await } else { self.delete(row).await };
        match done {
            Some(true) if row.deleted == 0 => stats.puts += 1,
            Some(true) => stats.deletes += 1,
            Some(false) => {}
            None => {
                stats.failures += 1;
                tracing::warn!(container = self.info.container, object = row.name, "object not synchronized");
            }
        }
        done.is_some()
    }

    /// `None`: failed.
    async fn delete(&self, row: &ObjectRow) -> Option<bool> {
        let at = Timestamp::decode(&row.created_at)?.0.internal();
        let (code, _) = self.remote("DELETE", &row.name, &at, Vec::new(), caelum_rest::empty()).await?;
        matches!(code, 200..=299 | 404 | 409).then_some(true)
    }

    /// `Some(false)`: the other side has it already.
    async fn put(&self, row: &ObjectRow) -> Option<bool> {
        let meta_at = Timestamp::decode(&row.created_at)?.2;
        let (code, there) = self.remote("HEAD", &row.name, &meta_at.internal(), Vec::new(), caelum_rest::empty()).await?;
        match code {
            200..=299 if there.is_some_and(|t| t >= meta_at) => return Some(false),
            200..=299 | 404 => {}
            _ => return None,
        }
        let uri = format!("{}?symlink=get", path(&[&self.info.account, &self.info.container, &row.name]));
        let headers = [("X-Newest", "True".to_string()), ("X-Backend-Storage-Policy-Index", self.info.storage_policy_index.to_string())];
        let source = call(&self.sync.client, "GET", &uri, &headers, caelum_rest::empty()).await?;
        if !source.header("X-Object-Sysmeta-Versions-Symlink").is_empty() {
            return Some(false);
        }
        let at = Timestamp::parse(source.header("X-Timestamp"))?;
        if !source.ok() || at < meta_at {
            return None;
        }
        let headers = kept(&source.headers);
        let (code, _) = self.remote("PUT", &row.name, &at.internal(), headers, source.body).await?;
        (200..300).contains(&code).then_some(true)
    }

    /// A signed request to the other container: status and the object's time.
    async fn remote(
        &self,
        method: &str,
        name: &str,
        at: &str,
        headers: Vec<(String, String)>,
        body: Body,
    ) -> Option<(u16, Option<Timestamp>)> {
        let rest = self.to.url.strip_prefix("http://")?;
        let (authority, base) = rest.split_once('/')?;
        let (host, port) = authority.rsplit_once(':').and_then(|(h, p)| Some((h, p.parse().ok()?))).unwrap_or((authority, 80));
        let path = format!("/{base}/{}", quote(name));
        let mut req = Request::builder().method(method).uri(&path).header("X-Timestamp", at);
        req = match &self.to.realm {
            Some((realm, realm_key)) => {
                let nonce = self.config.env.hex_id();
                let signature = sign(method, &path, at, &nonce, realm_key, &self.key)?;
                req.header("X-Container-Sync-Auth", format!("{realm} {nonce} {signature}"))
            }
            None => req.header("X-Container-Sync-Key", &self.key),
        };
        if method != "PUT" {
            req = req.header("Content-Length", 0);
        }
        for (k, v) in headers {
            req = req.header(k, v);
        }
        let r = self.config.nodes.send(host.trim_matches(['[', ']']), port, req.body(body).ok()?, self.sync.timeout).await;
        let r = r.inspect_err(|e| tracing::warn!(error = %e, "the other cluster does not answer")).ok()?;
        let there = r.headers().get("X-Timestamp").and_then(|v| Timestamp::parse(v.to_str().ok()?));
        Some((r.status().as_u16(), there))
    }
}

/// HMAC-SHA1 over the request with the realm's key; the user's key is part of what is signed.
fn sign(method: &str, path: &str, at: &str, nonce: &str, realm_key: &str, user_key: &str) -> Option<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(realm_key.as_bytes()).ok()?;
    mac.update(format!("{method}\n{path}\n{at}\n{nonce}\n{user_key}").as_bytes());
    Some(to_hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_as_upstream_makes_them() {
        let s = sign("GET", "/v1/a/c/o", "1600000000.00000", "nonce", "realm", "user").unwrap();
        assert_eq!(s, "c32ac0e7bf5054bfb6448b9f750b2b83ce20da12");
    }

    #[test]
    fn links() {
        let path = "/srv/node/sda/sync_containers/1/abc/0abc/0abc.db".into();
        let found = real_place(&Found { device: "sda".into(), partition: 1, path }).unwrap();
        assert_eq!(found.path, std::path::Path::new("/srv/node/sda/containers/1/abc/0abc/0abc.db"));
    }
}
