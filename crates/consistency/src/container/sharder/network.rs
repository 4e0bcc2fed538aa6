//! Shard ranges to and from other containers.

use super::Pass;
use crate::container::quote;
use crate::db::{address, blocking};
use caelum_broker::{ContainerBroker, Result, ShardQuery, ShardRange, ShardState};
use caelum_ring::Device;
use http::Request;

/// Largest list of ranges read in bytes.
const MAX_LIST: usize = 64 << 20;

impl Pass<'_> {
    fn place(&self, account: &str, container: &str) -> (u32, Vec<Device>) {
        let partition = self.ring.partition(&self.config.swift.hash.container(account, container));
        (partition, self.ring.primaries(partition).into_iter().cloned().collect())
    }

    /// Gives ranges to a container's nodes. True when a quorum has taken them.
    pub(super) async fn send_ranges(&self, path: &str, ranges: &[ShardRange], headers: &[(&str, String)]) -> bool {
        let (account, container) = path.split_once('/').unwrap_or((path, ""));
        let unreported: Vec<ShardRange> = ranges.iter().map(|r| ShardRange { reported: false, ..r.clone() }).collect();
        let Ok(body) = serde_json::to_vec(&unreported) else { return false };
        let (partition, nodes) = self.place(account, container);
        let now = self.config.now().internal();
        let puts = nodes.iter().map(|node| {
            let path = format!("/{}/{partition}/{}/{}", node.device, quote(account), quote(container));
            let mut req = Request::put(path)
                .header("X-Backend-Record-Type", "shard")
                .header("X-Backend-Use-Replication-Network", "True")
                .header("User-Agent", format!("container-sharder {}", std::process::id()))
                .header("X-Timestamp", now.clone())
                .header("Content-Type", "application/json")
                .header("Content-Length", body.len());
            for (k, v) in headers {
                req = req.header(*k, v);
            }
            let req = req.body(caelum_rest::full(body.clone()));
            async move {
                let (ip, port) = address(node);
                let Ok(req) = req else { return false };
                match self.config.nodes.send(ip, port, req, self.config.node_timeout).await {
                    Ok(r) => r.status().is_success(),
                    Err(e) => {
                        tracing::warn!(error = %e, "shard ranges not sent");
                        false
                    }
                }
            }
        });
        let taken = futures_util::future::join_all(puts).await.into_iter().filter(|ok| *ok).count();
        taken >= caelum_swiftkit::quorum_size(self.ring.replica_count())
    }

    /// A container's ranges, from the node that knows the latest. `None`: nobody answered.
    pub(super) async fn fetch_ranges(&self, path: &str, query: &str, with_deleted: bool) -> Option<Vec<ShardRange>> {
        let (account, container) = path.split_once('/')?;
        let (partition, nodes) = self.place(account, container);
        let mut best: Option<(String, Vec<ShardRange>)> = None;
        for node in &nodes {
            let uri = format!("/{}/{partition}/{}/{}?format=json{query}", node.device, quote(account), quote(container));
            let req = Request::get(uri)
                .header("X-Backend-Record-Type", "shard")
                .header("X-Backend-Record-Shard-Format", "full")
                .header("X-Backend-Override-Deleted", "true")
                .header("X-Backend-Include-Deleted", if with_deleted { "true" } else { "false" })
                .header("X-Backend-Use-Replication-Network", "True")
                .body(caelum_rest::empty())
                .ok()?;
            let (ip, port) = address(node);
            let Ok(r) = self.config.nodes.send(ip, port, req, self.config.node_timeout).await else { continue };
            let (parts, body) = r.into_parts();
            let header = |n: &str| parts.headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
            if !parts.status.is_success() || header("X-Backend-Record-Type") != "shard" {
                continue;
            }
            let at = header("X-Backend-PUT-Timestamp");
            let Ok(body) = caelum_rest::read_limited(body, MAX_LIST).await else { continue };
            let ranges = if body.is_empty() { Some(Vec::new()) } else { serde_json::from_slice(&body).ok() };
            let Some(ranges) = ranges else { continue };
            if best.as_ref().is_none_or(|(t, _)| at > *t) {
                best = Some((at, ranges));
            }
        }
        best.map(|(_, ranges)| ranges)
    }

    /// Creates the containers of ranges that were found.
    pub(super) async fn create_shards(&self, broker: &ContainerBroker) -> Result<usize> {
        let b = broker.clone();
        let (found, root, path, policy) = blocking(move || {
            let q = ShardQuery { states: vec![ShardState::Found], ..ShardQuery::default() };
            Ok((b.shard_ranges(&q)?, b.root_path()?, b.path()?, b.storage_policy_index()?))
        })
        .await?;
        let mut created = Vec::new();
        for mut range in found {
            range.update_state(ShardState::Created, None);
            let headers = [
                ("X-Backend-Storage-Policy-Index", policy.to_string()),
                ("X-Container-Sysmeta-Shard-Quoted-Root", quote(&root)),
                ("X-Container-Sysmeta-Sharding", "True".to_string()),
                ("X-Backend-Auto-Create", "True".to_string()),
            ];
            if !self.send_ranges(&range.name, std::slice::from_ref(&range), &headers).await {
                tracing::error!(shard = range.name, "shard container not created");
                break;
            }
            created.push(range);
        }
        let n = created.len();
        if n > 0 {
            let (b, ranges) = (broker.clone(), created.clone());
            blocking(move || b.merge_shard_ranges(ranges)).await?;
            if path != root {
                self.send_ranges(&root, &created, &[]).await;
            }
        }
        self.count(|s| s.shards_created += n as u64);
        Ok(n)
    }

    /// A shard tells its root how much it holds.
    pub(super) async fn report_to_root(&self, broker: &ContainerBroker) -> Result<()> {
        let (b, now, age) = (broker.clone(), self.config.now(), self.config.reclaim_age);
        let (own, ranges, root) = blocking(move || {
            let Some(mut own) = b.recorded_own_range()? else { return Ok((None, Vec::new(), String::new())) };
            if !matches!(own.state, ShardState::Found | ShardState::Created) {
                let (_, tombstones) = b.reclaim(now.minus(age), now.minus(age * 2))?;
                let info = b.get_info()?;
                let before = own.clone();
                own.update_tombstones(i64::try_from(tombstones).unwrap_or(0), now);
                own.update_meta(info.object_count, info.bytes_used, now);
                if !own.reported && own != before {
                    b.merge_shard_ranges(vec![own.clone()])?;
                }
            }
            Ok((Some(own), b.all_shard_ranges()?, b.root_path()?))
        })
        .await?;
        let Some(mut own) = own.filter(|o| !o.reported) else { return Ok(()) };
        if self.send_ranges(&root, &ranges, &[]).await {
            own.reported = true;
            let b = broker.clone();
            blocking(move || b.merge_shard_ranges(vec![own])).await?;
        }
        Ok(())
    }
}
